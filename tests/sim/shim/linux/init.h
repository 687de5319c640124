/* SPDX-License-Identifier: GPL-2.0-only */
#ifndef SIM_LINUX_INIT_H
#define SIM_LINUX_INIT_H
#define module_init(f)
#define module_exit(f)
#endif
