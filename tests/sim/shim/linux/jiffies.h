/* SPDX-License-Identifier: GPL-2.0-only */
#ifndef SIM_LINUX_JIFFIES_H
#define SIM_LINUX_JIFFIES_H
#define HZ 250
/* Time moves by calls, not by the clock: histories must replay. */
unsigned long sim_jiffies(void);
#define jiffies sim_jiffies()
#define time_after(a, b) ((long)((b) - (a)) < 0)
#define time_before(a, b) time_after(b, a)
#define time_after_eq(a, b) ((long)((a) - (b)) >= 0)
#define msecs_to_jiffies(m) ((m) * HZ / 1000UL)
#endif
