/* SPDX-License-Identifier: GPL-2.0-only */
#ifndef SIM_LINUX_EXPORT_H
#define SIM_LINUX_EXPORT_H
#define EXPORT_SYMBOL(s)
#define EXPORT_SYMBOL_GPL(s)
#define THIS_MODULE NULL
#endif
