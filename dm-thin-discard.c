// SPDX-License-Identifier: GPL-2.0-only
/*
 * Road 3: unmapping.
 *
 * A discard claims its whole blocks: no work begins in the range meanwhile, and when those
 * that had begun have ended it is unmapped in bounded steps, between which the worker does
 * other things.  Its bio completes when the last mapping has gone; passing the
 * blocks down to the data device follows behind, after the commit that made
 * the loss durable (dm-thin-reclaim.c).
 *
 * Zeroes for whole blocks that read as zeroes when they are unmapped go the same
 * way.
 *
 * In the modes that cannot change metadata a discard succeeds without effect
 * (behaviour 6.1); zeroes fail.
 */
#include "dm-thin.h"
#include "dm-thin-trace.h"

#define MIN_DISCARDS	16

static bool can_unmap(struct pool *pool)
{
	return pool_mode(pool) <= PM_OUT_OF_DATA_SPACE;
}

static void end_unserved(struct bio *bio)
{
	thin_end_bio(bio, bio_op(bio) == REQ_OP_DISCARD ? BLK_STS_OK : BLK_STS_IOERR);
}

/**
 * thin_whole_blocks - the whole blocks inside a bio
 * @pool: pool
 * @bio: any bio with a sector relative to its target
 * @begin: set to the first virtual block
 * @end: set to one past the last
 *
 * Return: false when there are none.
 */
bool thin_whole_blocks(struct pool *pool, struct bio *bio, u64 *begin, u64 *end)
{
	*begin = pool_block(pool, bio->bi_iter.bi_sector + pool->block_sectors - 1);
	*end = pool_block(pool, bio_end_sector(bio));
	return *begin < *end;
}

/**
 * thin_discard_map - a bio that unmaps arrives
 * @tt: the table
 * @bio: a discard of any length, or zeroes for whole blocks
 *
 * Submit context.
 *
 * Return: a DM_MAPIO_* value.
 */
int thin_discard_map(struct thin_target *tt, struct bio *bio)
{
	u64 begin, end;

	thin_bio(bio)->unmaps = true;
	if (!thin_whole_blocks(tt->pool, bio, &begin, &end))
		bio_endio(bio);
	else if (!can_unmap(tt->pool))
		end_unserved(bio);
	else
		thin_vol_defer(tt->vol, bio);
	return DM_MAPIO_SUBMITTED;
}

/**
 * thin_discard_begin - claim the range of a bio that unmaps
 * @vol: volume; called by its worker
 * @bio: as it came to thin_discard_map()
 *
 * Return: 0, or -ENOMEM: @bio has to come again.
 */
int thin_discard_begin(struct thin_vol *vol, struct bio *bio)
{
	struct pool *pool = vol->pool;
	struct thin_discard *d;
	u64 begin, end;

	if (!can_unmap(pool) || !thin_whole_blocks(pool, bio, &begin, &end)) {
		end_unserved(bio);
		return 0;
	}
	if (READ_ONCE(vol->fences)) {
		thin_vol_hold_fenced(vol, bio);
		return 0;
	}
	d = mempool_alloc(&pool->discard_mempool, GFP_NOWAIT);
	if (!d)
		return -ENOMEM;
	d->bio = bio;
	d->next = begin;
	if (!thin_busy_claim_discard(vol, d, begin, end))
		mempool_free(d, &pool->discard_mempool);
	return 0;
}

static void finish(struct thin_vol *vol, struct thin_discard *d, blk_status_t status)
{
	struct bio *bio = d->bio;
	struct bio_list waiters;

	bio_list_init(&waiters);
	thin_busy_release_discard(vol, d, &waiters);
	mempool_free(d, &vol->pool->discard_mempool);
	thin_vol_defer_list(vol, &waiters);
	thin_end_bio(bio, status);
}

static struct thin_discard *next_discard(struct thin_vol *vol)
{
	struct thin_discard *d;

	spin_lock_irq(&vol->lock);
	d = list_first_entry_or_null(&vol->discards, struct thin_discard, list);
	spin_unlock_irq(&vol->lock);
	return d;
}

/* Discards of one volume take turns. */
static void let_others(struct thin_vol *vol, struct thin_discard *d)
{
	spin_lock_irq(&vol->lock);
	list_move_tail(&d->list, &vol->discards);
	spin_unlock_irq(&vol->lock);
}

/**
 * thin_discard_step - unmap a little
 * @vol: volume; called by its worker
 *
 * Return: true when there is more to do.
 */
bool thin_discard_step(struct thin_vol *vol)
{
	struct pool *pool = vol->pool;
	struct thin_discard *d;
	u64 next, begin, nr;
	int r;

	d = next_discard(vol);
	if (!d)
		return false;

	if (!can_unmap(pool)) {
		finish(vol, d, pool_mode(pool) == PM_FAIL || bio_op(d->bio) != REQ_OP_DISCARD ?
			       BLK_STS_IOERR : BLK_STS_OK);
		return next_discard(vol);
	}

	next = d->next;
	begin = ktime_get_ns();
	r = thin_dev_remove_range(vol->td, d->next, d->busy.end, pool->features.discard_passdown,
				  &next, &nr);
	trace_thin_unmap(vol, d->next, next, d->busy.end, ktime_get_ns() - begin);
	thin_count_many(vol, THIN_UNMAPPED, nr);
	if (r == -EAGAIN) {
		/* Metadata is short: a commit helps, or ends in a mode that unmaps nothing. */
		next = d->next;
		r = pool_commit(pool);
	}
	if (r == -EPERM) {
		/* The mode has just changed; the next step sees it. */
		return true;
	} else if (r) {
		pool_metadata_failed(pool, "removal of mappings", r);
		finish(vol, d, BLK_STS_IOERR);
	} else if (next >= d->busy.end) {
		finish(vol, d, BLK_STS_OK);
	} else {
		d->next = next;
		let_others(vol, d);
	}
	pool_after_change(pool);
	return next_discard(vol);
}

/**
 * thin_discard_init - what road 3 needs in a pool
 * @pool: pool being made
 *
 * Return: 0 or a negative errno.
 */
int thin_discard_init(struct pool *pool)
{
	return mempool_init_kmalloc_pool(&pool->discard_mempool, MIN_DISCARDS,
					 sizeof(struct thin_discard));
}

/**
 * thin_discard_exit - undo thin_discard_init()
 * @pool: pool without discards
 */
void thin_discard_exit(struct pool *pool)
{
	mempool_exit(&pool->discard_mempool);
}
