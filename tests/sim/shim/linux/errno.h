/* SPDX-License-Identifier: GPL-2.0-only */
#ifndef SIM_LINUX_ERRNO_H
#define SIM_LINUX_ERRNO_H
/* glibc's errno.h comes through here too. */
#include <asm/errno.h>
#ifndef ENOTSUPP
#define ENOTSUPP 524
#endif
#endif
