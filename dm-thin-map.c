// SPDX-License-Identifier: GPL-2.0-only
/*
 * Road 1: bios whose block is mapped, and the fork to the other roads.
 *
 * map() tries without blocking, for as many blocks as are contiguous on the data
 * device.  A write that needs a new block may get one there (dm-thin-front.c); what
 * else it cannot answer goes to the volume's worker, a block at a time, which looks
 * again with all the time it needs.
 *
 * The epoch is entered before the lookup and left when the bio's I/O has
 * ended (thin_end_io()), so that the block found stays what it is.
 */
#include "dm-thin.h"
#include "dm-thin-trace.h"

/* A data block number from the disk is used only if the device has it. */
static bool block_exists(struct pool *pool, u64 block)
{
	if (likely(block < READ_ONCE(pool->data_limit)))
		return true;
	DMERR_LIMIT("%s: mapping beyond the data device", dm_device_name(pool->md));
	return false;
}

/*
 * Point a bio at its data block.  A FUA write promises that its mapping is
 * durable too: with uncommitted changes it becomes a plain write that waits
 * for a commit, whose flush of the data device comes later than the write.
 */
static bool remap(struct thin_target *tt, struct bio *bio, u64 block)
{
	struct thin_vol *vol = tt->vol;

	if (unlikely(bio->bi_opf & REQ_FUA) && op_is_write(bio_op(bio))) {
		if (thin_dev_rolled_back(vol->td))
			return false;
		if (!thin_is_durable(vol)) {
			thin_count(vol, THIN_FLUSH_COMMIT);
			thin_bio(bio)->durable = true;
			bio->bi_opf &= ~REQ_FUA;
		}
	}
	pool_point_bio(vol->pool, bio, block);
	return true;
}

/* A read of a hole; @bio does not straddle the end of the origin (see thin_map_bio()). */
static bool remap_hole(struct thin_target *tt, struct bio *bio)
{
	if (tt->origin_dev && bio->bi_iter.bi_sector < tt->origin_len) {
		bio_set_dev(bio, tt->origin_dev->bdev);
		return true;
	}
	zero_fill_bio(bio);
	return false;
}

/* So long after its flush a durable write may come from the core's worker. */
#define LOST_FLUSH_JIFFIES	(5 * HZ)

/* Under vol->lock. */
static void forget_lost_flushes(struct thin_vol *vol)
{
	if (vol->lost_flushes && time_after(jiffies, vol->lost_at + LOST_FLUSH_JIFFIES))
		WRITE_ONCE(vol->lost_flushes, 0);
}

/**
 * thin_flush_failed - a flush of a volume has ended with an error
 * @vol: volume
 *
 * The core sends a write that is to come after a flush in two parts, the second from a
 * worker of its own, and forgets the error of the first.  A record in a journal would become
 * durable that vouches for what has been lost: so each flush that fails takes the next
 * durable write with it that may be such a second part.  Any context.
 */
void thin_flush_failed(struct thin_vol *vol)
{
	unsigned long flags;

	spin_lock_irqsave(&vol->lock, flags);
	forget_lost_flushes(vol);
	vol->lost_at = jiffies;
	WRITE_ONCE(vol->lost_flushes, vol->lost_flushes + 1);
	spin_unlock_irqrestore(&vol->lock, flags);
}

static bool follows_lost_flush(struct thin_vol *vol, const struct bio *bio)
{
	bool lost;

	/* Also layers above have threads of their own, and forget likewise. */
	if (likely(!READ_ONCE(vol->lost_flushes)) || !op_is_write(bio_op(bio)) ||
	    !(current->flags & PF_KTHREAD))
		return false;
	spin_lock_irq(&vol->lock);
	forget_lost_flushes(vol);
	lost = vol->lost_flushes;
	if (lost)
		WRITE_ONCE(vol->lost_flushes, vol->lost_flushes - 1);
	spin_unlock_irq(&vol->lock);
	if (lost)
		DMERR_LIMIT("%s: device %u: a durable write fails, as a flush before it has",
			    dm_device_name(vol->pool->md), vol->id);
	return lost;
}

static int map_flush(struct thin_target *tt, struct bio *bio)
{
	struct thin_vol *vol = tt->vol;

	if (thin_dev_rolled_back(vol->td))
		return DM_MAPIO_KILL;
	thin_bio(bio)->flush = true;
	if (thin_is_durable(vol)) {
		thin_count(vol, THIN_FLUSH_PASSED);
		bio_set_dev(bio, vol->pool->data_bdev);
		bio->bi_iter.bi_sector = 0;
		return DM_MAPIO_REMAPPED;
	}
	thin_count(vol, THIN_FLUSH_COMMIT);
	pool_commit_bio(vol->pool, bio);
	return DM_MAPIO_SUBMITTED;
}

/* Only map may shorten a bio; the core sends the rest again. */
static void accept(struct pool *pool, struct bio *bio, u64 end_block)
{
	sector_t end = pool_block_sector(pool, end_block);

	if (end < bio_end_sector(bio))
		dm_accept_partial_bio(bio, end - bio->bi_iter.bi_sector);
}

/* What map cannot answer: one block for the worker, unless the submitter would not wait. */
static int defer(struct thin_vol *vol, struct bio *bio, u64 vblock,
		 void (*queue)(struct thin_vol *vol, struct bio *bio))
{
	if (bio->bi_opf & REQ_NOWAIT) {
		bio_wouldblock_error(bio);
		return DM_MAPIO_SUBMITTED;
	}
	accept(vol->pool, bio, vblock + 1);
	queue(vol, bio);
	return DM_MAPIO_SUBMITTED;
}

/* Do holes of this table read as zeroes, and go on doing so around later writes? */
static bool holes_are_zero(struct thin_target *tt)
{
	return tt->pool->features.zero_new_blocks && !tt->origin_dev;
}

static bool is_zeroed_hole(struct thin_target *tt, struct bio *bio)
{
	return bio_op(bio) == REQ_OP_WRITE_ZEROES && !(bio->bi_opf & REQ_NOUNMAP) &&
	       holes_are_zero(tt);
}

static int map_hole(struct thin_target *tt, struct bio *bio, u64 end_block)
{
	struct thin_vol *vol = tt->vol;

	accept(vol->pool, bio, end_block);
	thin_count(vol, THIN_READ_HOLE);
	if (op_is_write(bio_op(bio)) || !remap_hole(tt, bio)) {
		bio_endio(bio);
		return DM_MAPIO_SUBMITTED;
	}
	if (bio->bi_opf & REQ_NOWAIT) {
		bio_wouldblock_error(bio);
		return DM_MAPIO_SUBMITTED;
	}
	return DM_MAPIO_REMAPPED;
}

static int try_map(struct thin_target *tt, struct bio *bio)
{
	struct thin_vol *vol = tt->vol;
	struct pool *pool = vol->pool;
	struct thin_bio *tb = thin_bio(bio);
	u64 vblock = pool_block(pool, bio->bi_iter.bi_sector);
	u64 nr = pool_block(pool, bio_end_sector(bio) - 1) - vblock + 1, len = 1;
	bool write = op_is_write(bio_op(bio));
	struct thin_map map;
	int r;

	if (!write)
		thin_epoch_enter(vol, tb);
	else if (unlikely(!thin_epoch_enter_write(vol, tb)))
		return defer(vol, bio, vblock, thin_vol_hold_fenced);
	if (nr == 1)
		r = thin_dev_find(vol->td, vblock, false, &map);
	else
		r = thin_dev_find_run(vol->td, vblock, nr, write, &map, &len);
	if (!r && !(write && map.shared)) {
		accept(pool, bio, vblock + len);
		if (!block_exists(pool, map.block + len - 1) || !remap(tt, bio, map.block)) {
			thin_epoch_leave(vol, tb);
			return DM_MAPIO_KILL;
		}
		thin_count(vol, write ? THIN_WRITE_HIT : THIN_READ_HIT);
		trace_thin_hit(vol, vblock, map.block, len);
		return DM_MAPIO_REMAPPED;
	}
	if (bio_op(bio) == REQ_OP_WRITE && (!r || r == -ENODATA)) {
		accept(pool, bio, vblock + 1);
		r = thin_front_write(tt, bio, vblock, r ? THIN_EXPECT_HOLE : map.block);
		return r >= 0 ? r : defer(vol, bio, vblock, thin_vol_defer);
	}
	thin_epoch_leave(vol, tb);
	if (r == -ENODATA && (!write || is_zeroed_hole(tt, bio)))
		return map_hole(tt, bio, vblock + (tt->origin_dev ? 1 : len));
	return defer(vol, bio, vblock, thin_vol_defer);
}

/*
 * Zeroes.  Whole blocks that read as zeroes without a mapping are unmapped; a head
 * and a tail before and behind them are writes, and so is everything elsewhere.
 */
static int map_zeroes(struct thin_target *tt, struct bio *bio)
{
	struct pool *pool = tt->pool;
	u64 begin, end;

	if (bio->bi_opf & REQ_NOUNMAP || !holes_are_zero(tt) ||
	    !thin_whole_blocks(pool, bio, &begin, &end))
		return try_map(tt, bio);
	if (bio->bi_iter.bi_sector < pool_block_sector(pool, begin)) {
		accept(pool, bio, begin);
		return try_map(tt, bio);
	}
	accept(pool, bio, end);
	return thin_discard_map(tt, bio);
}

/* The core promises not to split it, so neither may this target. */
static bool atomic_but_split(struct pool *pool, struct bio *bio)
{
	return bio->bi_opf & REQ_ATOMIC &&
	       pool_block(pool, bio->bi_iter.bi_sector) !=
	       pool_block(pool, bio_end_sector(bio) - 1);
}

/**
 * thin_map_bio - a bio arrives at a thin
 * @tt: the table
 * @bio: the core's clone
 *
 * Submit context: does not block.
 *
 * Return: a DM_MAPIO_* value (behaviour 8).
 */
int thin_map_bio(struct thin_target *tt, struct bio *bio)
{
	struct thin_bio *tb = thin_bio(bio);
	struct pool *pool = tt->pool;
	sector_t sector;

	tb->tt = tt;
	tb->work = NULL;
	tb->epoch = COMPAT_NO_EPOCH;
	tb->durable = false;
	tb->flush = false;
	tb->unmaps = false;
	bio->bi_iter.bi_sector = dm_target_offset(tt->ti, bio->bi_iter.bi_sector);

	if (unlikely(thin_requeues(tt)))
		return DM_MAPIO_REQUEUE;
	if (unlikely(READ_ONCE(pool->gone) || pool_mode(pool) == PM_FAIL))
		return DM_MAPIO_KILL;
	if (unlikely(bio->bi_opf & (REQ_PREFLUSH | REQ_FUA))) {
		if (bio->bi_opf & REQ_PREFLUSH)
			return map_flush(tt, bio);
		if (follows_lost_flush(tt->vol, bio))
			return DM_MAPIO_KILL;
	}

	switch (bio_op(bio)) {
	case REQ_OP_READ:
		/* A hole is read from one place only. */
		sector = bio->bi_iter.bi_sector;
		if (unlikely(tt->origin_dev) && sector < tt->origin_len &&
		    bio_end_sector(bio) > tt->origin_len)
			dm_accept_partial_bio(bio, tt->origin_len - sector);
		return try_map(tt, bio);
	case REQ_OP_WRITE:
		if (unlikely(atomic_but_split(pool, bio))) {
			thin_end_bio(bio, BLK_STS_INVAL);
			return DM_MAPIO_SUBMITTED;
		}
		return try_map(tt, bio);
	case REQ_OP_DISCARD:
		return thin_discard_map(tt, bio);
	case REQ_OP_WRITE_ZEROES:
		return map_zeroes(tt, bio);
	default:
		return DM_MAPIO_KILL;
	}
}

/* Send a bio, inside the epoch, to the data block that was looked up there. */
static void issue(struct thin_target *tt, struct bio *bio, u64 block)
{
	if (block_exists(tt->pool, block) && remap(tt, bio, block))
		dm_submit_bio_remap(bio, NULL);
	else
		thin_end_bio(bio, BLK_STS_IOERR);
}

/**
 * thin_map_again - send a write to the data block that its virtual block has just got
 * @vol: volume; called by who finishes the block's work
 * @bio: the write, outside the epoch
 * @block: the data block; not the write's any more if a snapshot was made meanwhile
 *
 * Return: false when the write has to start again.
 */
bool thin_map_again(struct thin_vol *vol, struct bio *bio, u64 block)
{
	struct thin_bio *tb = thin_bio(bio);
	struct thin_map map;

	if (!thin_epoch_enter_write(vol, tb))
		return false;
	if (thin_dev_find(vol->td, pool_block(vol->pool, bio->bi_iter.bi_sector), false, &map) ||
	    map.shared || map.block != block) {
		thin_epoch_leave(vol, tb);
		return false;
	}
	issue(tb->tt, bio, block);
	return true;
}

/* A write that needs a new block, in a mode that gives none (behaviour 6.1). */
static bool refuse_write(struct thin_vol *vol, struct bio *bio)
{
	struct pool *pool = vol->pool;

	switch (pool_mode(pool)) {
	case PM_WRITE:
		return false;
	case PM_OUT_OF_DATA_SPACE:
		if (READ_ONCE(pool->features.error_if_no_space))
			thin_end_bio(bio, BLK_STS_NOSPC);
		else
			thin_vol_hold(vol, bio);
		return true;
	default:
		thin_end_bio(bio, BLK_STS_IOERR);
		return true;
	}
}

/*
 * A write to a block that looks shared, inside the epoch.  If it is not, the write
 * goes on in place, which takes no space.  Returns true when the bio is on its way.
 */
static bool take_over(struct thin_vol *vol, struct bio *bio, u64 vblock, u64 block)
{
	struct pool *pool = vol->pool;
	int r;

	if (pool_mode(pool) > PM_OUT_OF_DATA_SPACE)
		return false;
	r = thin_dev_take_over(vol->td, vblock, block);
	if (!r) {
		thin_count(vol, THIN_TAKE_OVER);
		trace_thin_take_over(vol, vblock, block, 1);
		issue(thin_bio(bio)->tt, bio, block);
		pool_after_change(pool);
	} else if (r == -ESTALE) {
		thin_epoch_leave(vol, thin_bio(bio));
		thin_vol_defer(vol, bio);
	} else if (thin_meta_rolled_back(pool->tm)) {
		thin_epoch_leave(vol, thin_bio(bio));
		pool_metadata_failed(pool, "change of a mapping", r);
		thin_end_bio(bio, pool_error_status(pool));
	} else {
		return false;
	}
	return true;
}

/* What a lookup that has failed says of a bio, which is inside the epoch. */
static void lookup_failed(struct thin_vol *vol, struct bio *bio, u64 vblock, int error)
{
	thin_epoch_leave(vol, thin_bio(bio));
	DMERR_LIMIT("%s: lookup of block %llu of device %u failed: error = %d",
		    dm_device_name(vol->pool->md), vblock, vol->id, error);
	thin_end_bio(bio, BLK_STS_IOERR);
}

static void map_read(struct thin_vol *vol, struct bio *bio, u64 vblock)
{
	struct thin_bio *tb = thin_bio(bio);
	struct thin_map map;
	int r;

	thin_epoch_enter(vol, tb);
	r = thin_dev_find(vol->td, vblock, true, &map);
	if (!r) {
		issue(tb->tt, bio, map.block);
	} else if (r == -ENODATA) {
		thin_epoch_leave(vol, tb);
		if (remap_hole(tb->tt, bio))
			dm_submit_bio_remap(bio, NULL);
		else
			bio_endio(bio);
	} else {
		lookup_failed(vol, bio, vblock, r);
	}
}

/*
 * A write to a block that is claimed, so that nobody else changes where it is
 * mapped to.  Returns true when it needs a new block in place of @expect; it is
 * inside the epoch then, and otherwise on its way.
 */
static bool needs_block(struct thin_vol *vol, struct bio *bio, u64 vblock, u64 *expect)
{
	struct pool *pool = vol->pool;
	struct thin_bio *tb = thin_bio(bio);
	struct thin_map map;
	int r;

	if (!thin_epoch_enter_write(vol, tb)) {
		thin_vol_hold_fenced(vol, bio);
		return false;
	}
	r = thin_dev_find(vol->td, vblock, true, &map);
	if (r && r != -ENODATA) {
		lookup_failed(vol, bio, vblock, r);
		return false;
	}
	if (r && is_zeroed_hole(tb->tt, bio)) {
		thin_epoch_leave(vol, tb);
		bio_endio(bio);
		return false;
	}
	if (!r && !map.shared) {
		issue(tb->tt, bio, map.block);
		return false;
	}
	if (!r && !block_exists(pool, map.block)) {
		thin_epoch_leave(vol, tb);
		thin_end_bio(bio, BLK_STS_IOERR);
		return false;
	}
	if (!r && take_over(vol, bio, vblock, map.block))
		return false;
	if (pool_mode(pool) != PM_WRITE) {
		thin_epoch_leave(vol, tb);
		if (!refuse_write(vol, bio))
			thin_vol_defer(vol, bio);
		return false;
	}
	*expect = r ? THIN_EXPECT_HOLE : map.block;
	return true;
}

static int map_write(struct thin_vol *vol, struct bio *bio, u64 vblock, struct list_head *works)
{
	struct thin_work *work;
	u64 expect;

	if (thin_provision_join(bio, vblock, works))
		return 0;
	/* Not even a lookup for what may have to come again. */
	if (READ_ONCE(vol->nr_works) >= THIN_MAX_WORKS)
		return -EBUSY;
	work = thin_work_create(bio);
	if (!work)
		return -ENOMEM;
	if (!thin_busy_claim(vol, &work->busy, vblock, vblock + 1, bio))
		thin_work_free(work);
	else if (needs_block(vol, bio, vblock, &expect))
		thin_provision_add(work, bio, expect, works);
	else
		thin_work_drop(work);
	return 0;
}

/**
 * thin_map_deferred - send a bio down its road, in the worker
 * @vol: volume
 * @bio: as deferred
 * @works: gets blocks that have to be provisioned
 *
 * Return: 0, or why the bio has to come again: -EBUSY when there is no room for another
 * work, -ENOMEM.
 */
int thin_map_deferred(struct thin_vol *vol, struct bio *bio, struct list_head *works)
{
	u64 vblock = pool_block(vol->pool, bio->bi_iter.bi_sector);

	if (pool_mode(vol->pool) == PM_FAIL) {
		thin_end_bio(bio, pool_error_status(vol->pool));
		return 0;
	}
	if (thin_bio(bio)->unmaps)
		return thin_discard_begin(vol, bio);
	if (op_is_write(bio_op(bio)))
		return map_write(vol, bio, vblock, works);
	map_read(vol, bio, vblock);
	return 0;
}
