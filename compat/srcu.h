/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * SRCU readers that end in another context than the one they began in.
 * srcu_down_read() is younger than 6.1; what it wraps is exported there too.
 */
#ifndef COMPAT_SRCU_H
#define COMPAT_SRCU_H

#include <linux/srcu.h>
#include <linux/version.h>

#ifndef CONFIG_TREE_SRCU
#error "dm-thin needs a kernel with CONFIG_TREE_SRCU"
#endif

#ifndef CONFIG_64BIT
#error "dm-thin needs a 64-bit kernel"
#endif

#if LINUX_VERSION_CODE < KERNEL_VERSION(6, 3, 0)
static inline int srcu_down_read(struct srcu_struct *ssp)
{
	return __srcu_read_lock(ssp);
}

static inline void srcu_up_read(struct srcu_struct *ssp, int idx)
{
	__srcu_read_unlock(ssp, idx);
}
#endif

/*
 * Sparse takes a reader for a lock of the function's; these readers are the
 * bio's, so the balance is settled here.
 */
static inline int compat_epoch_enter(struct srcu_struct *ssp)
{
	int idx = srcu_down_read(ssp);

	__release(ssp);
	return idx;
}

static inline void compat_epoch_leave(struct srcu_struct *ssp, int idx)
{
	__acquire(ssp);
	srcu_up_read(ssp, idx);
}

#endif
