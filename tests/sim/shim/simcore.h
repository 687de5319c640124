/* SPDX-License-Identifier: GPL-2.0-only */
/* What the shim offers to the harness; no code under test includes this. */
#ifndef SIM_CORE_H
#define SIM_CORE_H

#include <linux/types.h>

/* Any broken rule ends here: the hook says which seed and operation it was. */
void sim_fail(const char *fmt, ...) __attribute__((noreturn, format(printf, 1, 2)));
extern void (*sim_fail_hook)(void);

/* Called when an entry point of the layer has returned: nothing may be held any more. */
void sim_api_end(const char *what);

/* Memory that the layer owns now, in allocations; kmem_caches do not count. */
extern long sim_live_allocs;
extern __thread int sim_noio_depth;
extern __thread int sim_locks_held;
extern __thread int sim_spins_held;

/* The n-th allocation from now that may fail does; 0 switches it off. */
extern long sim_alloc_fail_in;
extern unsigned long sim_allocs;

/* Failures that were made to happen: allocations, reads, writes, flushes. */
extern unsigned long sim_faults;

/* Messages of the layer: kept in a ring, printed when verbose or on failure. */
extern int sim_log_verbose;
extern unsigned long sim_log_errors;
void sim_log_dump(void);
void sim_log_clear(void);

/* Called by everything that may sleep. */
void sim_might_sleep(const char *what);

/* splitmix/xorshift: the same numbers on every machine. */
struct rng {
	u64 s;
};
static inline u64 rng_next(struct rng *r)
{
	u64 z = (r->s += 0x9E3779B97F4A7C15ULL);

	z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9ULL;
	z = (z ^ (z >> 27)) * 0x94D049BB133111EBULL;
	return z ^ (z >> 31);
}
static inline u64 rng_below(struct rng *r, u64 n)
{
	return n ? rng_next(r) % n : 0;
}
static inline bool rng_chance(struct rng *r, unsigned int percent)
{
	return rng_below(r, 100) < percent;
}

/*
 * baton.c: a second thread, which runs while the first does not.  Either hands over
 * in sim_wait() as long as it cannot go on; in sim_may_pass() with a chance of
 * sim_pass_percent; the first also in sim_pass().
 */
extern __thread int sim_me;
extern unsigned int sim_pass_percent;
extern struct rng sim_pass_rng;
/* The second thread runs @fn, from now on and at once. */
void sim_fork(void (*fn)(void *arg), void *arg);
void sim_pass(void);
void sim_may_pass(void);
/* What happens where the layer lets others pass; NULL for nothing. */
extern void (*sim_pause)(void);
void sim_wait(const char *what);
/* What sim_wait() was for has come. */
void sim_waited(void);

#endif
