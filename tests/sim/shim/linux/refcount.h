/* SPDX-License-Identifier: GPL-2.0-only */
#ifndef SIM_LINUX_REFCOUNT_H
#define SIM_LINUX_REFCOUNT_H
#include <linux/bug.h>
#include <linux/types.h>
typedef struct {
	int refs;
} refcount_t;
#define REFCOUNT_INIT(n) { (n) }
static inline void refcount_set(refcount_t *r, int n) { r->refs = n; }
static inline int refcount_read(const refcount_t *r) { return r->refs; }
static inline void refcount_inc(refcount_t *r) { WARN_ON(r->refs <= 0); r->refs++; }
static inline bool refcount_inc_not_zero(refcount_t *r) { return r->refs ? (r->refs++, true) : false; }
static inline bool refcount_dec_and_test(refcount_t *r) { WARN_ON(r->refs <= 0); return --r->refs == 0; }
#endif
