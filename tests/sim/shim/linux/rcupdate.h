/* SPDX-License-Identifier: GPL-2.0-only */
#ifndef SIM_LINUX_RCUPDATE_H
#define SIM_LINUX_RCUPDATE_H
#include <linux/compiler.h>
#include <linux/types.h>
#define rcu_read_lock() do { } while (0)
#define rcu_read_unlock() do { } while (0)
#define rcu_dereference(p) READ_ONCE(p)
#define rcu_assign_pointer(p, v) WRITE_ONCE(p, v)
#define RCU_INIT_POINTER(p, v) WRITE_ONCE(p, v)
#define synchronize_rcu() do { } while (0)
static inline void call_rcu(struct rcu_head *h, void (*fn)(struct rcu_head *)) { fn(h); }
#define rcu_barrier() do { } while (0)
#define kfree_rcu(p, m) kfree(p)
#endif
