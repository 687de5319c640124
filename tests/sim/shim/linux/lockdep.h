/* SPDX-License-Identifier: GPL-2.0-only */
#ifndef SIM_LINUX_LOCKDEP_H
#define SIM_LINUX_LOCKDEP_H
#include <linux/types.h>

/*
 * Every lock begins with this.  A lock that its own holder wants again is a deadlock
 * and is reported as one; for what the other thread holds it is given its turn.
 */
struct sim_lock {
	u32 ready;
	int writers;
	int writer;
	int readers[2];
};
#define SIM_LOCK_READY 0x10c4ed01u
void sim_lock_init(struct sim_lock *l);
void sim_lock_write(struct sim_lock *l, bool sleeps, const char *where);
bool sim_trylock_write(struct sim_lock *l);
void sim_unlock_write(struct sim_lock *l, bool sleeps, const char *where);
void sim_lock_read(struct sim_lock *l, const char *where);
bool sim_trylock_read(struct sim_lock *l);
void sim_unlock_read(struct sim_lock *l, const char *where);
void sim_downgrade(struct sim_lock *l, const char *where);
void sim_assert_held(const struct sim_lock *l, int how, const char *file, int line);
void sim_lock_destroy(struct sim_lock *l);
bool sim_lock_is_held(const struct sim_lock *l);

#define SIM_LOCK_OF(p) ((struct sim_lock *)(void *)(p))
#define lockdep_assert_held(p) sim_assert_held(SIM_LOCK_OF(p), 0, __FILE__, __LINE__)
#define lockdep_assert_held_write(p) sim_assert_held(SIM_LOCK_OF(p), 1, __FILE__, __LINE__)
#define lockdep_assert_held_read(p) sim_assert_held(SIM_LOCK_OF(p), 2, __FILE__, __LINE__)
#define lockdep_assert_not_held(p) sim_assert_held(SIM_LOCK_OF(p), 3, __FILE__, __LINE__)
#define lockdep_is_held(p) sim_lock_is_held(SIM_LOCK_OF(p))
struct lock_class_key {
	int dummy;
};
#define lockdep_set_class(l, k) do { } while (0)
#endif
