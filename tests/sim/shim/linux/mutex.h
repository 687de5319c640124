/* SPDX-License-Identifier: GPL-2.0-only */
#ifndef SIM_LINUX_MUTEX_H
#define SIM_LINUX_MUTEX_H
#include <linux/lockdep.h>
struct mutex {
	struct sim_lock lock;
};
#define DEFINE_MUTEX(n) struct mutex n = { { SIM_LOCK_READY, 0, 0 } }
#define mutex_init(m) sim_lock_init(&(m)->lock)
#define mutex_destroy(m) sim_lock_destroy(&(m)->lock)
#define mutex_lock(m) sim_lock_write(&(m)->lock, true, __func__)
#define mutex_trylock(m) sim_trylock_write(&(m)->lock)
#define mutex_unlock(m) sim_unlock_write(&(m)->lock, true, __func__)
#define mutex_is_locked(m) lockdep_is_held(m)
#endif
