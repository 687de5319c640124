/* SPDX-License-Identifier: GPL-2.0-only */
#ifndef SIM_LINUX_KTIME_H
#define SIM_LINUX_KTIME_H
#include <linux/jiffies.h>
#include <linux/types.h>
typedef s64 ktime_t;
#define NSEC_PER_MSEC 1000000L
#define NSEC_PER_USEC 1000L
#define NSEC_PER_SEC 1000000000L
static inline ktime_t ktime_get(void) { return (s64)sim_jiffies() * 1000; }
static inline u64 ktime_get_ns(void) { return (u64)sim_jiffies() * 1000; }
static inline ktime_t ktime_add_us(ktime_t t, u64 us) { return t + (s64)us * 1000; }
static inline ktime_t ktime_add_ms(ktime_t t, u64 ms) { return t + (s64)ms * 1000000; }
static inline bool ktime_after(ktime_t a, ktime_t b) { return a > b; }
static inline bool ktime_before(ktime_t a, ktime_t b) { return a < b; }
static inline s64 ktime_us_delta(ktime_t a, ktime_t b) { return (a - b) / 1000; }
#endif
