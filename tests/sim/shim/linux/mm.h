/* SPDX-License-Identifier: GPL-2.0-only */
#ifndef SIM_LINUX_MM_H
#define SIM_LINUX_MM_H
#include <linux/gfp.h>
#include <linux/slab.h>
/* So little that a ceiling made of it is met. */
static inline unsigned long totalram_pages(void) { return 1024; }
#endif
