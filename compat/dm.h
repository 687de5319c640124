/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * What differs between kernel releases in the device-mapper's interface, and
 * what its core exports without declaring it in a public header.
 */
#ifndef COMPAT_DM_H
#define COMPAT_DM_H

#include <linux/blkdev.h>
#include <linux/device-mapper.h>
#include <linux/version.h>

/* Exported by dm-mod; the declaration is in a header that is not installed. */
void dm_internal_suspend_noflush(struct mapped_device *md);
void dm_internal_resume(struct mapped_device *md);

/* The core's word to a status method: answer without committing. */
#ifndef DM_STATUS_NOFLUSH_FLAG
#define DM_STATUS_NOFLUSH_FLAG	BIT(0)
#endif

/* blk_mode_t came with 6.5; before it the same bits were an fmode_t. */
#ifndef BLK_OPEN_READ
typedef fmode_t blk_mode_t;
#define BLK_OPEN_READ	FMODE_READ
#define BLK_OPEN_WRITE	FMODE_WRITE
#endif

/* Came with atomic writes, the only ones that get it here. */
#ifndef BLK_STS_INVAL
#define BLK_STS_INVAL	BLK_STS_NOTSUPP
#endif

/* Inline encryption passes through both targets where the stock ones let it. */
#if LINUX_VERSION_CODE < KERNEL_VERSION(6, 2, 0)
#define COMPAT_TARGET_PASSES_CRYPTO	0
#else
#define COMPAT_TARGET_PASSES_CRYPTO	DM_TARGET_PASSES_CRYPTO
#endif

/* Atomic writes came to device-mapper with 6.13. */
#ifdef DM_TARGET_ATOMIC_WRITES
#define COMPAT_TARGET_ATOMIC_WRITES	DM_TARGET_ATOMIC_WRITES
#else
#define COMPAT_TARGET_ATOMIC_WRITES	0
#endif

#ifndef REQ_ATOMIC
#define REQ_ATOMIC	((__force blk_opf_t)0)
#endif

/* No atomic write may be larger than @bytes, a power of two. */
static inline void compat_limit_atomic_writes(struct queue_limits *limits, unsigned int bytes)
{
#ifdef DM_TARGET_ATOMIC_WRITES
	/* Not offered, or nothing stacked. */
	if (!limits->atomic_write_hw_max || limits->atomic_write_hw_max == UINT_MAX)
		return;
	if (limits->atomic_write_hw_unit_min > bytes)
		bytes = 0;
	limits->atomic_write_hw_max = min(limits->atomic_write_hw_max, bytes);
	limits->atomic_write_hw_unit_max = min(limits->atomic_write_hw_unit_max, bytes);
	limits->atomic_write_hw_unit_min = min(limits->atomic_write_hw_unit_min, bytes);
#endif
}

/* The most that one discard of a thin may cover, in sectors. */
static inline unsigned int compat_thin_max_discard(sector_t block_sectors)
{
#ifdef COMPAT_HAS_MAX_DISCARD_GRANULARITY
	return block_sectors * 1024;
#else
	return (16ULL << 30) >> SECTOR_SHIFT;
#endif
}

/* The driver's discard limit; the one shown to users is derived from it since 6.8. */
static inline void compat_set_max_discard(struct queue_limits *limits, unsigned int sectors)
{
	limits->max_hw_discard_sectors = sectors;
	limits->max_discard_sectors = sectors;
}

/* Ask the core to split discards on multiples of the largest discard. */
static inline void compat_split_discards(struct dm_target *ti)
{
#ifdef COMPAT_HAS_MAX_DISCARD_GRANULARITY
	ti->max_discard_granularity = true;
#endif
}

#endif
