/* SPDX-License-Identifier: GPL-2.0-only */
#ifndef SIM_LINUX_RWSEM_H
#define SIM_LINUX_RWSEM_H
#include <linux/lockdep.h>
struct rw_semaphore {
	struct sim_lock lock;
};
#define init_rwsem(s) sim_lock_init(&(s)->lock)
#define DECLARE_RWSEM(n) struct rw_semaphore n = { { SIM_LOCK_READY, 0, 0 } }
#define down_write(s) sim_lock_write(&(s)->lock, true, __func__)
#define down_write_nested(s, c) down_write(s)
#define down_write_trylock(s) sim_trylock_write(&(s)->lock)
#define up_write(s) sim_unlock_write(&(s)->lock, true, __func__)
#define down_read(s) sim_lock_read(&(s)->lock, __func__)
#define down_read_trylock(s) sim_trylock_read(&(s)->lock)
#define up_read(s) sim_unlock_read(&(s)->lock, __func__)
#define downgrade_write(s) sim_downgrade(&(s)->lock, __func__)
#define rwsem_is_locked(s) lockdep_is_held(s)
#define rwsem_is_contended(s) false
#endif
