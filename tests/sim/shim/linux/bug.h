/* SPDX-License-Identifier: GPL-2.0-only */
#ifndef SIM_LINUX_BUG_H
#define SIM_LINUX_BUG_H
/* A warning of the kernel is a failure here. */
void sim_bug(const char *file, int line, const char *what) __attribute__((noreturn));
#define BUG() sim_bug(__FILE__, __LINE__, "BUG")
#define BUG_ON(c) do { if (c) sim_bug(__FILE__, __LINE__, "BUG_ON(" #c ")"); } while (0)
#define WARN_ON(c) ({ bool __w = !!(c); if (__w) sim_bug(__FILE__, __LINE__, "WARN_ON(" #c ")"); __w; })
#define WARN_ON_ONCE(c) WARN_ON(c)
#define WARN(c, ...) WARN_ON(c)
#define WARN_ONCE(c, ...) WARN_ON(c)
#define VM_WARN_ON_ONCE(c) WARN_ON(c)
#include <linux/types.h>
#endif
