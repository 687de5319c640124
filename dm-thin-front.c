// SPDX-License-Identifier: GPL-2.0-only
/*
 * Road 2 without the worker in front: a first write takes its data block in map.
 *
 * Each volume that is being filled has a stash of reserved data blocks, which is filled
 * up beside finishing works (thin_stash_fill()).  A write to a hole claims the virtual block,
 * takes a data block from the stash and goes there at once, in its submitter's
 * context; only the insertion of the mapping is left to the worker, or, where the device
 * was faster than the submitter, to the end of the submitter's batch.  Writes that follow
 * to the same block go there as well while others are on their way, if the block
 * needs no zeroes.  Nothing of this waits, so it is done for bios that would not wait, too
 * (who finishes a batch may wait for metadata to be read).
 * What the stash cannot serve goes to the worker.
 *
 * Neighbours in a volume get neighbours from the stash, whichever comes first, so
 * that a file written in order is in order on the data device.
 *
 * Invariants: a block is in the stash or taken or free, and the stash counts as free
 * to whoever looks from outside.  A pool that runs short has no stashes: they are filled
 * only while there is room, and given back before anybody is told that there is none.
 * Low-water events are the worker's.
 */
#include "dm-thin.h"
#include "dm-thin-trace.h"

#include <linux/bitops.h>
#include <linux/sched/signal.h>
#include <linux/slab.h>

/* All stashes leave most of the free space to others. */
#define STASH_SHARE		4
/* A run of less is not worth the trouble, and one takes no more than a part of what is free. */
#define MIN_RUN			4
#define RUN_SHARE		32

/* ---- the stash ---- */

/* Is there more than low-water events and a full pool begin with? */
static bool has_room(struct pool *pool, struct thin_meta_space *space)
{
	return pool_mode(pool) == PM_WRITE && !READ_ONCE(pool->space_deadline) &&
	       !thin_meta_get_space(pool->tm, space) &&
	       (READ_ONCE(pool->low_water_triggered) ||
		space->data_free > READ_ONCE(pool->low_water));
}

static bool is_below_low_water(struct pool *pool)
{
	struct thin_meta_space space;

	return !READ_ONCE(pool->low_water_triggered) &&
	       (thin_meta_get_space(pool->tm, &space) ||
		space.data_free < READ_ONCE(pool->low_water));
}

static bool has_place(const struct thin_stash *run, u64 vblock)
{
	u64 at = vblock - run->ahead;

	return at < THIN_STASH_RUN && run->free >> at & 1;
}

static bool is_better(const struct thin_stash *run, const struct thin_stash *than)
{
	if (!run->free || !than)
		return run->free;
	if (run->whole != than->whole)
		return run->whole;
	return run->begin < than->begin;
}

/*
 * The run that goes on where the neighbours of a block are, or else one that is whole, as
 * the block may get neighbours.
 */
static struct thin_stash *choose_run(struct thin_vol *vol, u64 vblock)
{
	struct thin_stash *run, *best = NULL;
	unsigned int nr = 0;

	for (run = vol->stash; run < vol->stash + THIN_STASH_RUNS; run++) {
		nr += !!run->free;
		if (!run->whole && has_place(run, vblock))
			return run;
		if (is_better(run, best))
			best = run;
	}
	if (nr <= THIN_STASH_RUNS / 2)
		WRITE_ONCE(vol->stash_low, true);
	if (best) {
		best->ahead = vblock - __ffs64(best->free);
		best->whole = false;
	}
	return best;
}

/* Under vol->lock.  Return: false when the stash is empty. */
static bool take_block(struct thin_vol *vol, u64 vblock, u64 *block)
{
	struct thin_stash *run = choose_run(vol, vblock);
	u64 at;

	if (!run)
		return false;
	at = vblock - run->ahead;
	thin_meta_take_stashed(vol->pool->tm);
	/* Others took some at the same time: then the worker is to tell of it. */
	if (is_below_low_water(vol->pool)) {
		thin_meta_untake_stashed(vol->pool->tm);
		return false;
	}
	run->free &= ~BIT_ULL(at);
	*block = run->begin + at;
	return true;
}

/* Return: false when there shall be no more. */
static bool add_run(struct thin_vol *vol, const struct thin_meta_space *space)
{
	u64 spare = space->data_free - space->data_stashed, low_water, begin, len;
	struct thin_stash *run;

	low_water = READ_ONCE(vol->pool->low_water);
	if (spare <= low_water || space->data_stashed > space->data_free / STASH_SHARE)
		return false;
	len = min_t(u64, THIN_STASH_RUN, (spare - low_water) / RUN_SHARE);
	if (len < MIN_RUN || thin_meta_stash_data(vol->pool->tm, len, &begin, &len))
		return false;

	spin_lock_irq(&vol->lock);
	for (run = vol->stash; run->free; run++)
		;
	run->begin = begin;
	run->free = GENMASK_ULL(len - 1, 0);
	run->whole = true;
	spin_unlock_irq(&vol->lock);
	return true;
}

/* One adds at a time, so there is room as long as it says. */
static bool is_full(struct thin_vol *vol)
{
	unsigned int i;

	for (i = 0; i < THIN_STASH_RUNS; i++)
		if (!READ_ONCE(vol->stash[i].free))
			return false;
	return true;
}

/**
 * thin_stash_fill - see that map has blocks to hand out
 * @vol: volume; finish_lock held
 *
 * Not being able to is no error: who needs a block meets it again.
 */
void thin_stash_fill(struct thin_vol *vol)
{
	struct thin_meta_space space;

	if (likely(!READ_ONCE(vol->stash_low)))
		return;
	while (!is_full(vol) && has_room(vol->pool, &space) && add_run(vol, &space))
		;
	WRITE_ONCE(vol->stash_low, false);
	/* It may just have been taken from who is told that nothing is left. */
	if (!has_room(vol->pool, &space))
		thin_stash_return(vol);
}

/**
 * thin_stash_take - a block for a write that map has left to the worker
 * @vol: volume
 * @vblock: its virtual block
 * @block: set to the data block, reserved
 *
 * So that it lies beside those of its neighbours for which map takes blocks meanwhile.
 *
 * Return: false when the allocator has to be asked.
 */
bool thin_stash_take(struct thin_vol *vol, u64 vblock, u64 *block)
{
	struct thin_meta_space space;
	bool r;

	if (!has_room(vol->pool, &space))
		return false;
	spin_lock_irq(&vol->lock);
	r = take_block(vol, vblock, block);
	spin_unlock_irq(&vol->lock);
	return r;
}

static void unstash(struct pool *pool, const struct thin_stash *run)
{
	u64 free = run->free;

	while (free) {
		unsigned int from = __ffs64(free);
		unsigned int len = ~(free >> from) ? __ffs64(~(free >> from)) : THIN_STASH_RUN;

		thin_meta_unstash_data(pool->tm, run->begin + from, len);
		free &= ~GENMASK_ULL(from + len - 1, from);
	}
}

/**
 * thin_stash_return - give a volume's stash back
 * @vol: volume
 *
 * May sleep.
 *
 * Return: true when there was something in it.
 */
bool thin_stash_return(struct thin_vol *vol)
{
	struct thin_stash stash[THIN_STASH_RUNS];
	bool any = false;
	unsigned int i;

	spin_lock_irq(&vol->lock);
	memcpy(stash, vol->stash, sizeof(stash));
	for (i = 0; i < THIN_STASH_RUNS; i++)
		vol->stash[i].free = 0;
	spin_unlock_irq(&vol->lock);
	for (i = 0; i < THIN_STASH_RUNS; i++) {
		any |= stash[i].free;
		unstash(vol->pool, &stash[i]);
	}
	return any;
}

static struct thin_vol *find_stash(struct pool *pool)
{
	struct thin_vol *vol, *found = NULL;
	unsigned int i;

	spin_lock_irq(&pool->lock);
	list_for_each_entry(vol, &pool->vols, list) {
		for (i = 0; i < THIN_STASH_RUNS && !found; i++)
			if (READ_ONCE(vol->stash[i].free))
				found = vol;
		if (found)
			break;
	}
	if (found)
		refcount_inc(&found->ref);
	spin_unlock_irq(&pool->lock);
	return found;
}

/**
 * thin_stash_return_all - give back the stashes of all volumes
 * @pool: pool without data space otherwise
 *
 * May sleep.
 *
 * Return: true when there was one, or somebody is giving one back.
 */
bool thin_stash_return_all(struct pool *pool)
{
	struct thin_meta_space space;
	struct thin_vol *vol;
	bool any = false;

	while ((vol = find_stash(pool))) {
		any |= thin_stash_return(vol);
		thin_vol_unref(vol);
	}
	cond_resched();
	return any || (!thin_meta_get_space(pool->tm, &space) && space.data_stashed);
}

/* ---- who finishes ---- */

/*
 * Who submits a batch finds that a fast device has done with it before the last is sent.
 * Then new blocks are filled and mappings inserted here, all at once: to wake others for
 * that, and be woken by them, would take longer.
 */
enum finisher {
	SUBMITTER,
	FILLER,
};

/**
 * thin_is_finisher - is this task going to look at what ends now?
 * @vol: volume; lock held
 *
 * Return: true when nobody else has to be woken.
 */
bool thin_is_finisher(struct thin_vol *vol)
{
	return in_task() && (vol->finishers[SUBMITTER] == current ||
			     vol->finishers[FILLER] == current);
}

static void set_finisher(struct thin_vol *vol, enum finisher who, struct task_struct *task)
{
	spin_lock_irq(&vol->lock);
	vol->finishers[who] = task;
	spin_unlock_irq(&vol->lock);
}

static void fill_and_finish(struct thin_vol *vol, enum finisher who, unsigned int most)
{
	thin_fill_some(vol, most);
	/* What ends from here on is the worker's, unless it is found below. */
	set_finisher(vol, who, NULL);
	thin_provision_finish(vol, false);
}

/**
 * thin_front_filler - fill blocks beside the submitter
 * @ws: of the volume
 */
void thin_front_filler(struct work_struct *ws)
{
	struct thin_vol *vol = container_of(ws, struct thin_vol, filler);

	set_finisher(vol, FILLER, current);
	fill_and_finish(vol, FILLER, UINT_MAX);
}

/* Give what there is to do to others. */
static void pass_on(struct thin_vol *vol)
{
	spin_lock_irq(&vol->lock);
	vol->finishers[SUBMITTER] = NULL;
	if (!list_empty(&vol->fills))
		queue_work(vol->pool->fill_wq, &vol->filler);
	/* What ends later sees to itself. */
	if (!list_empty(&vol->done))
		thin_vol_kick(vol);
	spin_unlock_irq(&vol->lock);
}

static bool has_many_fills(struct thin_vol *vol)
{
	bool many;

	spin_lock_irq(&vol->lock);
	many = !list_empty(&vol->fills) && !list_is_singular(&vol->fills);
	spin_unlock_irq(&vol->lock);
	return many;
}

/*
 * Not where the task is about to sleep, or is freeing memory, or is killed and would not be
 * given any, nor where it would have to wait for somebody who changes the metadata.  Reading
 * metadata may make it wait.
 */
static bool may_finish(struct thin_vol *vol, bool from_schedule)
{
	return !from_schedule && !current->bio_list && !(current->flags & PF_MEMALLOC) &&
	       !fatal_signal_pending(current) && !thin_meta_is_changing(vol->pool->tm);
}

/* What a plug keeps: whether all that was plugged before has been called. */
struct thin_plug {
	struct blk_plug_cb cb;
	bool is_last;
};

/*
 * The newest is called first, and meanwhile the older ones are in no list that going to sleep
 * would empty. What RAID keeps back there must not wait for this task, nor this task for what
 * waits for that: so the first call only lets the others go ahead.
 */
static bool let_others_go_first(struct blk_plug_cb *cb)
{
	struct thin_plug *plug = container_of(cb, struct thin_plug, cb);

	if (plug->is_last || !current->plug)
		return false;
	plug->is_last = true;
	list_add_tail(&cb->list, &current->plug->cb_list);
	return true;
}

static void unplug(struct blk_plug_cb *cb, bool from_schedule)
{
	struct thin_vol *vol = cb->data;

	if (!from_schedule && let_others_go_first(cb))
		return;
	kfree(container_of(cb, struct thin_plug, cb));
	if (may_finish(vol, from_schedule)) {
		if (has_many_fills(vol))
			queue_work(vol->pool->fill_wq, &vol->filler);
		fill_and_finish(vol, SUBMITTER, THIN_INSERT_BATCH);
	} else {
		pass_on(vol);
	}

	/* Whoever closes the volume waits for this. */
	spin_lock_irq(&vol->lock);
	WRITE_ONCE(vol->plugs, vol->plugs - 1);
	if (!vol->plugs)
		wake_up(&vol->idle);
	spin_unlock_irq(&vol->lock);
}

static void plug(struct thin_vol *vol)
{
	lockdep_assert_held(&vol->lock);
	if (vol->finishers[SUBMITTER] ||
	    !blk_check_plugged(unplug, vol, sizeof(struct thin_plug)))
		return;
	vol->finishers[SUBMITTER] = current;
	WRITE_ONCE(vol->plugs, vol->plugs + 1);
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
static bool is_for_front(struct pool *pool, u64 expect)
{
	return expect == THIN_EXPECT_HOLE || thin_meta_peek_shared(pool->tm, expect);
}

/* Under vol->lock: nobody has the block.  Return: NULL when it is the worker's. */
static struct thin_work *claim(struct thin_vol *vol, struct bio *bio, u64 vblock)
{
	struct thin_meta_space space;
	struct thin_work *work;

	if (vol->crowded || vol->nr_works >= THIN_MAX_WORKS || !has_room(vol->pool, &space))
		return NULL;
	work = thin_work_create(bio);
	if (!work)
		return NULL;
	if (!take_block(vol, vblock, &work->block)) {
		thin_work_free(work);
		return NULL;
	}
	work->reserved = true;
	thin_busy_add(vol, &work->busy, vblock, vblock + 1);
	plug(vol);
	return work;
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
	bool may_claim = is_for_front(tt->pool, expect);
	int r = -EAGAIN;

	spin_lock_irq(&vol->lock);
	busy = thin_busy_find(vol, vblock, vblock + 1);
	if (busy)
		r = follow(vol, busy, bio);
	else if (may_claim)
		work = claim(vol, bio, vblock);
	spin_unlock_irq(&vol->lock);

	if (work)
		return start(work, bio, expect);
	if (r == -EAGAIN)
		thin_epoch_leave(vol, thin_bio(bio));
	return r;
}
