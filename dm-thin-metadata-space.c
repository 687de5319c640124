// SPDX-License-Identifier: GPL-2.0-only
/*
 * A pool's space: numbers, growth, and data blocks to be had.
 *
 * The numbers are counted at the end of every change and read without a lock,
 * so a status line never waits for a commit.
 */
#include "dm-thin-metadata-internal.h"

#include <linux/kernel.h>

/* Format 13.6 */
#define MAX_LOW_WATER		1024

static u64 low_water(u64 nr_blocks)
{
	return min_t(u64, MAX_LOW_WATER, nr_blocks / 4);
}

/**
 * meta_count_space() - publish the numbers that are read without a lock
 * @tm: the pool, change_lock held
 */
void meta_count_space(struct thin_meta *tm)
{
	struct pd_sm *meta = &tm->meta_sm, *data = &tm->data_sm;
	u64 raw = meta_raw_free(tm), keep = meta_reserve(meta->nr_blocks);

	/* Until there is what somebody was refused, and a little more. */
	if (raw >= tm->needed + low_water(meta->nr_blocks) / 16)
		tm->needed = 0;
	WRITE_ONCE(tm->space.meta_total, meta->nr_blocks);
	WRITE_ONCE(tm->space.meta_raw_free, raw);
	WRITE_ONCE(tm->space.meta_free, raw > keep && !tm->needed ? raw - keep : 0);
	WRITE_ONCE(tm->space.data_total, data->durable_blocks);
	WRITE_ONCE(tm->space.data_free, sm_nr_free(data));
	WRITE_ONCE(tm->space.data_pending, data->nr_quarantined);
	WRITE_ONCE(tm->space.settling,
		   max(data->loss_seq, tm->tm.hidden_loss_seq) > tm->quiet_seq);
}

/**
 * thin_meta_get_space() - sizes and free space
 * @tm: the pool
 * @space: filled in
 *
 * Takes no lock: the numbers are those of the last change's end.
 *
 * Return: 0, or -EIO after a failed abort.
 */
int thin_meta_get_space(struct thin_meta *tm, struct thin_meta_space *space)
{
	space->meta_total = READ_ONCE(tm->space.meta_total);
	space->meta_free = READ_ONCE(tm->space.meta_free);
	space->meta_raw_free = READ_ONCE(tm->space.meta_raw_free);
	space->data_total = READ_ONCE(tm->space.data_total);
	space->data_stashed = atomic64_read_acquire(&tm->stashed);
	/* The two numbers may be of different moments. */
	space->data_free = min(READ_ONCE(tm->space.data_free) + space->data_stashed,
			       space->data_total);
	space->data_pending = READ_ONCE(tm->space.data_pending);
	space->settling = READ_ONCE(tm->space.settling);
	return thin_meta_failed(tm) ? -EIO : 0;
}

/**
 * thin_meta_low_water_mblocks() - the metadata low water mark (behaviour 6.7)
 * @tm: the pool
 *
 * Return: mblocks, from the device's current size.
 */
u64 thin_meta_low_water_mblocks(struct thin_meta *tm)
{
	return low_water(bm_device_blocks(&tm->bm));
}

/**
 * thin_meta_low_water_hit() - has free metadata fallen to the mark
 * @tm: the pool
 *
 * What the reserve keeps does not count as free, so it tells before the pool
 * runs out whatever the device's size; tells again only after the free space
 * has been an eighth above the mark.  Takes no lock.
 *
 * Return: true once a crossing.
 */
bool thin_meta_low_water_hit(struct thin_meta *tm)
{
	u64 free = READ_ONCE(tm->space.meta_free);
	u64 mark = low_water(READ_ONCE(tm->space.meta_total));

	if (free > mark + mark / 8)
		WRITE_ONCE(tm->low_armed, 1);
	return free <= mark && xchg(&tm->low_armed, 0);
}

/**
 * thin_meta_data_blocks() - size of the data device as the open transaction has it
 * @tm: the pool
 *
 * Return: data blocks, growth not yet committed included.
 */
u64 thin_meta_data_blocks(struct thin_meta *tm)
{
	return READ_ONCE(tm->data_sm.nr_blocks);
}

/**
 * thin_meta_device_mblocks() - usable size of the metadata device now
 * @tm: the pool
 *
 * Return: mblocks, capped at what the format can use.
 */
u64 thin_meta_device_mblocks(struct thin_meta *tm)
{
	return bm_device_blocks(&tm->bm);
}

static int resize(struct thin_meta *tm, struct pd_sm *sm, u64 nr)
{
	u64 bitmaps;
	int r = meta_begin_change(tm);

	if (r)
		return r;
	if (nr == sm->nr_blocks)
		goto out;
	r = sm_check_resize(sm, nr, &bitmaps);
	if (!r && sm->is_data && !meta_has_room_for_bitmaps(tm, bitmaps))
		r = -ENOSPC;
	if (r)
		goto out;
	meta_mutate(tm);
	r = sm_resize(sm, nr);
	tm->needed = 0;
out:
	meta_end_change(tm, r);
	return r;
}

/**
 * thin_meta_resize_data() - count more data blocks (format 12)
 * @tm: the pool
 * @nr_blocks: data blocks; the new ones are handed out after the next commit
 *
 * Return: 0, -EINVAL when fewer than now or too many, -ENOSPC when there is not
 * enough metadata to count them, -EPERM, all without any change; otherwise an
 * error, and the transaction is rolled back.
 */
int thin_meta_resize_data(struct thin_meta *tm, u64 nr_blocks)
{
	return resize(tm, &tm->data_sm, nr_blocks);
}

/**
 * thin_meta_resize_metadata() - count more metadata blocks (format 12)
 * @tm: the pool
 * @nr_mblocks: blocks of the metadata device to use, at most its size
 *
 * Return: as thin_meta_resize_data().
 */
int thin_meta_resize_metadata(struct thin_meta *tm, u64 nr_mblocks)
{
	if (nr_mblocks > bm_device_blocks(&tm->bm))
		return -EINVAL;
	return resize(tm, &tm->meta_sm, nr_mblocks);
}

static int reserve_data(struct thin_meta *tm, u64 want, u64 *begin, u64 *len, bool stash)
{
	int r = meta_begin_change(tm);

	if (r)
		return r;
	r = sm_reserve(&tm->data_sm, want, begin, len);
	if (!r && stash)
		atomic64_add(*len, &tm->stashed);
	meta_end_change(tm, 0);
	return r;
}

static void unreserve_data(struct thin_meta *tm, u64 begin, u64 len, bool stashed)
{
	mutex_lock(&tm->change_lock);
	sm_unreserve(&tm->data_sm, begin, len);
	if (stashed) {
		meta_count_space(tm);
		/* Counted twice for a moment rather than not at all; pairs with the reader. */
		smp_mb__before_atomic();
		atomic64_sub(len, &tm->stashed);
	}
	meta_end_change(tm, 0);
}

/**
 * thin_meta_alloc_data() - reserve a run of free data blocks
 * @tm: the pool
 * @want: blocks wished for, at least 1
 * @begin: set to the first block
 * @len: set to the number reserved, 1 to @want
 *
 * In memory only: each block is to be mapped by thin_dev_insert() or given
 * back by thin_meta_unreserve_data().
 *
 * Return: 0; -ENOSPC when no data block is free to take, perhaps before the
 * next commit only (see &thin_meta_space.data_pending); -EPERM, -EIO, -ENOMEM or
 * the errno of a read.
 */
int thin_meta_alloc_data(struct thin_meta *tm, u64 want, u64 *begin, u64 *len)
{
	return reserve_data(tm, want, begin, len, false);
}

/**
 * thin_meta_unreserve_data() - give reserved data blocks back
 * @tm: the pool
 * @begin: first block
 * @len: number of blocks
 *
 * No I/O to them is under way any more.  Works in every state.
 */
void thin_meta_unreserve_data(struct thin_meta *tm, u64 begin, u64 len)
{
	unreserve_data(tm, begin, len, false);
}

/**
 * thin_meta_stash_data() - set a run of free data blocks aside
 * @tm: the pool
 * @want: as for thin_meta_alloc_data()
 * @begin: likewise
 * @len: likewise
 *
 * They still count as free, until thin_meta_take_stashed().
 *
 * Return: as thin_meta_alloc_data().
 */
int thin_meta_stash_data(struct thin_meta *tm, u64 want, u64 *begin, u64 *len)
{
	return reserve_data(tm, want, begin, len, true);
}

/**
 * thin_meta_unstash_data() - what was set aside is anybody's again
 * @tm: the pool
 * @begin: first block
 * @len: number of blocks
 *
 * Works in every state.
 */
void thin_meta_unstash_data(struct thin_meta *tm, u64 begin, u64 len)
{
	unreserve_data(tm, begin, len, true);
}

/**
 * thin_meta_take_stashed() - a block that was set aside is going to be used
 * @tm: the pool
 *
 * It is like one of thin_meta_alloc_data() from here on.  Any context.
 */
void thin_meta_take_stashed(struct thin_meta *tm)
{
	atomic64_dec(&tm->stashed);
}

/**
 * thin_meta_untake_stashed() - undo thin_meta_take_stashed()
 * @tm: the pool
 *
 * Any context.
 */
void thin_meta_untake_stashed(struct thin_meta *tm)
{
	atomic64_inc(&tm->stashed);
}

/**
 * thin_meta_peek_shared() - is a data block likely to have to be copied
 * @tm: the pool
 * @block: which
 *
 * Takes no lock that anybody waits with.  Only thin_dev_take_over() can tell that a
 * block is shared no more.
 *
 * Return: true when several have been counted that use it.
 */
bool thin_meta_peek_shared(struct thin_meta *tm, u64 block)
{
	return block < READ_ONCE(tm->data_sm.nr_blocks) && sm_peek_shared(&tm->data_sm, block);
}

/**
 * thin_meta_data_count() - references to a data block
 * @tm: the pool
 * @block: which
 * @count: set
 *
 * Return: 0, -EILSEQ past the end, -EIO, -ENOMEM or the errno of a read.
 */
int thin_meta_data_count(struct thin_meta *tm, u64 block, u32 *count)
{
	int r = -EIO;

	/* The count may have to be loaded into the map. */
	mutex_lock(&tm->change_lock);
	if (!tm->failed)
		r = sm_count(&tm->data_sm, block, count);
	mutex_unlock(&tm->change_lock);
	return r;
}
