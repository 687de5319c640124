/* SPDX-License-Identifier: GPL-2.0-only */
#ifndef SIM_LINUX_ATOMIC_H
#define SIM_LINUX_ATOMIC_H
#include <linux/types.h>
#include <linux/compiler.h>
#define ATOMIC_INIT(i) { (i) }
#define ATOMIC64_INIT(i) { (i) }
#define SIM_ATOMIC(pre, type, val)						\
static inline val pre##_read(const type *v) { return v->counter; }		\
static inline void pre##_set(type *v, val i) { v->counter = i; }		\
static inline val pre##_add_return(val i, type *v) { return v->counter += i; }	\
static inline val pre##_sub_return(val i, type *v) { return v->counter -= i; }	\
static inline void pre##_add(val i, type *v) { v->counter += i; }		\
static inline void pre##_sub(val i, type *v) { v->counter -= i; }		\
static inline void pre##_inc(type *v) { v->counter++; }			\
static inline void pre##_dec(type *v) { v->counter--; }			\
static inline val pre##_inc_return(type *v) { return ++v->counter; }		\
static inline val pre##_dec_return(type *v) { return --v->counter; }		\
static inline bool pre##_dec_and_test(type *v) { return --v->counter == 0; }	\
static inline bool pre##_inc_not_zero(type *v) { return v->counter ? (v->counter++, true) : false; } \
static inline val pre##_xchg(type *v, val n) { val o = v->counter; v->counter = n; return o; } \
static inline val pre##_cmpxchg(type *v, val o, val n)				\
{ val c = v->counter; if (c == o) v->counter = n; return c; }			\
static inline val pre##_fetch_add(val i, type *v) { val o = v->counter; v->counter += i; return o; }
SIM_ATOMIC(atomic, atomic_t, int)
SIM_ATOMIC(atomic64, atomic64_t, s64)
#define atomic64_read_acquire(v) atomic64_read(v)
SIM_ATOMIC(atomic_long, atomic_long_t, long)
#define xchg(p, n) __atomic_exchange_n((p), (n), __ATOMIC_SEQ_CST)
#define cmpxchg(p, o, n) ({ typeof(*(p)) __o = (o); \
	__atomic_compare_exchange_n((p), &__o, (n), false, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST); __o; })
#endif
