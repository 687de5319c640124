/* SPDX-License-Identifier: GPL-2.0-only */
#ifndef SIM_LINUX_MODULE_H
#define SIM_LINUX_MODULE_H
#include <linux/export.h>
#include <linux/init.h>
#include <linux/moduleparam.h>
#define MODULE_LICENSE(x)
#define MODULE_AUTHOR(x)
#define MODULE_DESCRIPTION(x)
#define MODULE_ALIAS(x)
#endif
