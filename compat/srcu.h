/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * SRCU readers that end in another context than the one they began in.
 * srcu_down_read() is younger than 6.1; what it wraps is exported there too.
 */
#ifndef COMPAT_SRCU_H
#define COMPAT_SRCU_H

#include <linux/srcu.h>

#ifndef CONFIG_TREE_SRCU
#error "dm-thin needs a kernel with CONFIG_TREE_SRCU"
#endif

#ifndef CONFIG_64BIT
#error "dm-thin needs a 64-bit kernel"
#endif

/* A reader, as far as its end has to know it. */
typedef unsigned long compat_epoch_t;

#define COMPAT_NO_EPOCH		0UL

/*
 * Sparse takes a reader for a lock of the function's; these readers are the
 * bio's, so the balance is settled here.
 */
#ifdef SRCU_READ_FLAVOR_FAST_UPDOWN

/* Without a memory barrier on either end; grace periods bear the cost. */
static inline int compat_epoch_init(struct srcu_struct *ssp)
{
	return init_srcu_struct_fast_updown(ssp);
}

static inline compat_epoch_t compat_epoch_enter(struct srcu_struct *ssp)
{
	struct srcu_ctr __percpu *ctr = srcu_down_read_fast(ssp);

	__release_shared(ssp);
	return (__force unsigned long)ctr;
}

static inline void compat_epoch_leave(struct srcu_struct *ssp, compat_epoch_t epoch)
{
	__acquire_shared(ssp);
	srcu_up_read_fast(ssp, (struct srcu_ctr __percpu __force *)epoch);
}

#else

#ifndef COMPAT_HAS_SRCU_DOWN_READ
static inline int srcu_down_read(struct srcu_struct *ssp)
{
	return __srcu_read_lock(ssp);
}

static inline void srcu_up_read(struct srcu_struct *ssp, int idx)
{
	__srcu_read_unlock(ssp, idx);
}
#endif

static inline int compat_epoch_init(struct srcu_struct *ssp)
{
	return init_srcu_struct(ssp);
}

static inline compat_epoch_t compat_epoch_enter(struct srcu_struct *ssp)
{
	int idx = srcu_down_read(ssp);

	__release(ssp);
	return idx + 1UL;
}

static inline void compat_epoch_leave(struct srcu_struct *ssp, compat_epoch_t epoch)
{
	__acquire(ssp);
	srcu_up_read(ssp, epoch - 1);
}

#endif

#endif
