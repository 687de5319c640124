/* SPDX-License-Identifier: GPL-2.0-only */
#ifndef SIM_LINUX_SPINLOCK_H
#define SIM_LINUX_SPINLOCK_H
#include <linux/lockdep.h>
#include <linux/atomic.h>
#include <linux/compiler.h>
typedef struct {
	struct sim_lock lock;
} spinlock_t;
#define __SPIN_LOCK_UNLOCKED(n) { { SIM_LOCK_READY, 0, 0 } }
#define DEFINE_SPINLOCK(n) spinlock_t n = __SPIN_LOCK_UNLOCKED(n)
#define spin_lock_init(s) sim_lock_init(&(s)->lock)
#define spin_lock(s) sim_lock_write(&(s)->lock, false, __func__)
#define spin_trylock(s) sim_trylock_write(&(s)->lock)
#define spin_unlock(s) sim_unlock_write(&(s)->lock, false, __func__)
#define spin_lock_irq spin_lock
#define spin_unlock_irq spin_unlock
#define spin_lock_bh spin_lock
#define spin_unlock_bh spin_unlock
#define spin_lock_irqsave(s, f) do { (f) = 1; spin_lock(s); } while (0)
#define spin_unlock_irqrestore(s, f) do { (void)(f); spin_unlock(s); } while (0)
#endif
