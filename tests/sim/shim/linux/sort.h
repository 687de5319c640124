/* SPDX-License-Identifier: GPL-2.0-only */
#ifndef SIM_LINUX_SORT_H
#define SIM_LINUX_SORT_H
#include <stdlib.h>
#include <linux/types.h>
typedef int (*cmp_func_t)(const void *, const void *);
#define sort(base, n, size, cmp, swp) ((void)(swp), qsort(base, n, size, cmp))
#endif
