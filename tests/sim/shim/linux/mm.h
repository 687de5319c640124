/* SPDX-License-Identifier: GPL-2.0-only */
#ifndef SIM_LINUX_MM_H
#define SIM_LINUX_MM_H
#include <linux/gfp.h>
#include <linux/slab.h>
#endif
