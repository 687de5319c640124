// SPDX-License-Identifier: GPL-2.0-only
/*
 * Road 2 without the worker in front: a first write takes its data block in map.
 *
 * Each volume that is being filled has a stash of reserved data blocks, which its
 * worker fills (thin_stash_fill()).  A write to a hole claims the virtual block,
 * takes a data block from the stash and goes there at once, in its submitter's
 * context; only the insertion of the mapping is the worker's.  Writes that follow
 * to the same block go there as well while others are on their way, if the block
 * needs no zeroes.  What the stash cannot serve goes to the worker.
 *
 * Neighbours in a volume get neighbours from the stash, whichever comes first, so
 * that a file written in order is in order on the data device.
 *
 * Invariants: a block is in the stash or taken or free, and the stash counts as free
 * to whoever looks from outside (pool_get_space()).  A pool that runs short has no
 * stashes: they are filled only while there is room, and given back before anybody
 * is told that there is none.  Low-water events are the worker's.
 */
#include "dm-thin.h"
#include "dm-thin-trace.h"

#include <linux/bitops.h>

/* All stashes leave most of the free space to others. */
#define STASH_SHARE		32
/* A run of less is not worth the trouble. */
#define MIN_RUN			4

/**
 * pool_get_space - thin_meta_get_space(), with the stashes as free space
 * @pool: pool
 * @space: filled in
 *
 * Takes no lock.
 *
 * Return: as thin_meta_get_space().
 */
int pool_get_space(struct pool *pool, struct thin_meta_space *space)
{
	int r = thin_meta_get_space(pool->tm, space);

	/* The two numbers are of different moments. */
	space->data_free = min_t(u64, space->data_free + atomic64_read(&pool->stashed),
				 space->data_total);
	return r;
}

/* ---- the stash ---- */

/* Is there more than low-water events and a full pool begin with? */
static bool has_room(struct pool *pool)
{
	struct thin_meta_space space;

	return pool_mode(pool) == PM_WRITE && !READ_ONCE(pool->space_deadline) &&
	       !pool_get_space(pool, &space) &&
	       (READ_ONCE(pool->low_water_triggered) ||
		space.data_free > READ_ONCE(pool->low_water));
}

/* Under vol->lock.  Return: false when the stash is empty. */
static bool take_block(struct thin_vol *vol, u64 vblock, u64 *block)
{
	struct thin_stash *stash = vol->stash;
	u64 at;

	if (!stash->free) {
		stash[1].ahead = stash->ahead + THIN_STASH_RUN;
		*stash = stash[1];
		stash[1].free = 0;
	}
	if (!stash[1].free)
		WRITE_ONCE(vol->stash_low, true);
	if (!stash->free)
		return false;

	at = vblock - stash->ahead;
	if (at >= THIN_STASH_RUN || !(stash->free >> at & 1)) {
		at = __ffs64(stash->free);
		stash->ahead = vblock - at;
	}
	stash->free &= ~BIT_ULL(at);
	atomic64_dec(&vol->pool->stashed);
	*block = stash->begin + at;
	return true;
}

/**
 * thin_stash_fill - see that map has blocks to hand out
 * @vol: volume; called by its worker
 *
 * Not being able to is no error: who needs a block meets it again.
 */
void thin_stash_fill(struct thin_vol *vol)
{
	struct pool *pool = vol->pool;
	struct thin_meta_space space;
	struct thin_stash *stash;
	u64 want, begin, len;

	if (likely(!READ_ONCE(vol->stash_low)) || !has_room(pool) ||
	    thin_meta_get_space(pool->tm, &space) || space.data_free <= READ_ONCE(pool->low_water))
		return;
	want = min_t(u64, THIN_STASH_RUN,
		     (space.data_free - READ_ONCE(pool->low_water)) / STASH_SHARE);
	if (want < MIN_RUN)
		return;

	/* Counted first: nobody sees less free than there is. */
	atomic64_add(want, &pool->stashed);
	if (thin_meta_alloc_data(pool->tm, want, &begin, &len))
		len = 0;
	atomic64_sub(want - len, &pool->stashed);
	if (!len)
		return;

	spin_lock_irq(&vol->lock);
	stash = &vol->stash[vol->stash[0].free ? 1 : 0];
	stash->begin = begin;
	stash->free = GENMASK_ULL(len - 1, 0);
	WRITE_ONCE(vol->stash_low, false);
	spin_unlock_irq(&vol->lock);
}

/* Empties the stash into @stash. */
static bool take_all(struct thin_vol *vol, struct thin_stash *stash)
{
	bool any;

	lockdep_assert_held(&vol->lock);
	memcpy(stash, vol->stash, sizeof(vol->stash));
	vol->stash[0].free = 0;
	vol->stash[1].free = 0;
	any = stash[0].free || stash[1].free;
	return any;
}

static void unreserve(struct pool *pool, const struct thin_stash *stash)
{
	u64 free = stash->free;

	while (free) {
		unsigned int from = __ffs64(free);
		unsigned int len = ~(free >> from) ? __ffs64(~(free >> from)) : THIN_STASH_RUN;

		thin_meta_unreserve_data(pool->tm, stash->begin + from, len);
		atomic64_sub(len, &pool->stashed);
		free &= ~GENMASK_ULL(from + len - 1, from);
	}
}

/**
 * thin_stash_return - give a volume's stash back
 * @vol: volume
 *
 * May sleep.
 */
void thin_stash_return(struct thin_vol *vol)
{
	struct thin_stash stash[2];

	spin_lock_irq(&vol->lock);
	take_all(vol, stash);
	spin_unlock_irq(&vol->lock);
	unreserve(vol->pool, &stash[0]);
	unreserve(vol->pool, &stash[1]);
}

/**
 * thin_stash_return_all - give back the stashes of all volumes
 * @pool: pool without data space otherwise
 *
 * May sleep.
 *
 * Return: true when there was one.
 */
bool thin_stash_return_all(struct pool *pool)
{
	struct thin_stash stash[2];
	struct thin_vol *vol;
	bool found, any = false;

	do {
		found = false;
		spin_lock_irq(&pool->lock);
		list_for_each_entry(vol, &pool->vols, list) {
			spin_lock(&vol->lock);
			found = take_all(vol, stash);
			spin_unlock(&vol->lock);
			if (found)
				break;
		}
		spin_unlock_irq(&pool->lock);
		if (found) {
			unreserve(pool, &stash[0]);
			unreserve(pool, &stash[1]);
			any = true;
		}
	} while (found);
	return any;
}

/* ---- the write ---- */

/* Is a block that nobody else changes any more still mapped as it was? */
static bool is_as_expected(const struct thin_work *work, u64 expect)
{
	struct thin_map map;
	int r = thin_dev_find(work->vol->td, work->busy.begin, false, &map);

	return expect == THIN_EXPECT_HOLE ? r == -ENODATA :
	       !r && map.block == expect && map.shared;
}

/* The virtual block is claimed, the data block taken. */
static int start(struct thin_work *work, struct bio *bio, u64 expect)
{
	if (!is_as_expected(work, expect)) {
		/* Changed since it was looked up, or hard to say: the worker sees to it. */
		thin_epoch_leave(work->vol, thin_bio(bio));
		bio_list_add(&work->bios, bio);
		work->failed = true;
		thin_work_put(work);
		return DM_MAPIO_SUBMITTED;
	}
	thin_work_replace(work, bio, expect);
	atomic_inc(&work->pending);
	thin_work_take(work, bio);
	thin_work_start(work);
	return DM_MAPIO_REMAPPED;
}

/* What has claimed the block is on its way: @bio joins it, or waits if it may. */
static int follow(struct thin_vol *vol, struct thin_busy *busy, struct bio *bio)
{
	thin_epoch_leave(vol, thin_bio(bio));
	if (thin_work_join(busy, bio))
		return DM_MAPIO_REMAPPED;
	if (bio->bi_opf & REQ_NOWAIT)
		return -EAGAIN;
	thin_count(vol, THIN_DEFERRED);
	trace_thin_miss(vol, bio);
	bio_list_add(&busy->waiters, bio);
	return DM_MAPIO_SUBMITTED;
}

/* Whether a block that looks shared has to be copied takes more than a look to deny. */
static bool is_for_front(struct pool *pool, struct bio *bio, u64 expect)
{
	return !(bio->bi_opf & REQ_NOWAIT) && has_room(pool) &&
	       (expect == THIN_EXPECT_HOLE || thin_meta_peek_shared(pool->tm, expect));
}

/**
 * thin_front_write - a write has found a hole, or a block that looks shared
 * @tt: the table
 * @bio: the write, within one block, inside the epoch; leaves it
 * @vblock: its block
 * @expect: data block that is mapped to, or THIN_EXPECT_HOLE
 *
 * Submit context.
 *
 * Return: a DM_MAPIO_* value, or -EAGAIN: it is the worker's.
 */
int thin_front_write(struct thin_target *tt, struct bio *bio, u64 vblock, u64 expect)
{
	struct thin_vol *vol = tt->vol;
	struct thin_work *work = NULL;
	struct thin_busy *busy;
	bool claimed = false;
	int r = -EAGAIN;

	if (is_for_front(tt->pool, bio, expect))
		work = thin_work_create(bio);

	spin_lock_irq(&vol->lock);
	busy = thin_busy_find(vol, vblock, vblock + 1);
	if (busy) {
		r = follow(vol, busy, bio);
	} else if (work && vol->nr_busy < THIN_MAX_WORKS && take_block(vol, vblock, &work->block)) {
		thin_busy_add(vol, &work->busy, vblock, vblock + 1);
		claimed = true;
	}
	spin_unlock_irq(&vol->lock);

	if (claimed) {
		work->reserved = true;
		return start(work, bio, expect);
	}
	if (work)
		thin_work_free(work);
	if (r == -EAGAIN)
		thin_epoch_leave(vol, thin_bio(bio));
	return r;
}
