// SPDX-License-Identifier: GPL-2.0-only
/*
 * Modes of a pool, the events that tell of them, and running out of space.
 *
 * The mode is changed under state_lock only and read anywhere: who acts on a
 * mode that has just changed fails in the metadata layer, which refuses
 * changes by itself, or is found by the waker a second later.
 */
#include "dm-thin.h"
#include "dm-thin-trace.h"

#include <linux/module.h>

static unsigned int no_space_timeout = 60;
module_param(no_space_timeout, uint, 0644);
MODULE_PARM_DESC(no_space_timeout,
		 "Seconds that writes wait in a pool without data space before they fail, 0 for ever");

/**
 * pool_event - tell userspace that the status is worth a look
 * @pool: pool; state_lock held
 */
void pool_event(struct pool *pool)
{
	lockdep_assert_held(&pool->state_lock);
	if (pool->bound)
		dm_table_event(pool->bound->ti->table);
}

/**
 * pool_error_status - what bios get that waited when the pool got worse
 * @pool: pool
 *
 * Return: a status (behaviour 6.2).
 */
blk_status_t pool_error_status(struct pool *pool)
{
	return READ_ONCE(pool->was_out_of_data) ? BLK_STS_NOSPC : BLK_STS_IOERR;
}

/**
 * pool_recheck_held - do with bios that wait for space what the mode says
 * @pool: pool
 * @retry: let them look again also where there is no space: what they had to copy
 *	may be theirs alone now
 *
 * Also lets volumes try again that had no memory for a work.  Process context.
 */
void pool_recheck_held(struct pool *pool, bool retry)
{
	enum pool_mode mode = pool_mode(pool);
	bool error = mode > PM_OUT_OF_DATA_SPACE ||
		     (mode == PM_OUT_OF_DATA_SPACE && READ_ONCE(pool->features.error_if_no_space));
	struct bio_list failed;
	struct thin_vol *vol;

	bio_list_init(&failed);
	spin_lock_irq(&pool->lock);
	list_for_each_entry(vol, &pool->vols, list) {
		spin_lock(&vol->lock);
		if (error)
			bio_list_merge(&failed, &vol->held);
		else if (retry || mode == PM_WRITE)
			bio_list_merge(&vol->deferred, &vol->held);
		if (error || retry || mode == PM_WRITE)
			bio_list_init(&vol->held);
		if (!bio_list_empty(&vol->deferred) || vol->crowded)
			thin_vol_kick(vol);
		spin_unlock(&vol->lock);
	}
	spin_unlock_irq(&pool->lock);
	thin_vol_end_list(&failed, pool_error_status(pool));
}

/* ---- modes ---- */

static const char *mode_words(struct pool *pool)
{
	switch (pool->mode) {
	case PM_WRITE:
		return "write";
	case PM_OUT_OF_DATA_SPACE:
		return pool->features.error_if_no_space ? "out-of-data-space (error IO)" :
							  "out-of-data-space (queue IO)";
	case PM_OUT_OF_METADATA_SPACE:
	case PM_READ_ONLY:
		return "read-only";
	default:
		return "fail";
	}
}

static void tell_mode(struct pool *pool)
{
	pool_event(pool);
	DMINFO("%s: switching pool to %s mode", dm_device_name(pool->md), mode_words(pool));
}

/* The transaction is lost.  Returns the mode to enter. */
static enum pool_mode roll_back(struct pool *pool, const char *op, int error)
{
	const char *name = dm_device_name(pool->md);

	DMERR_LIMIT("%s: metadata operation '%s' failed: error = %d", name, op, error);
	DMERR_LIMIT("%s: aborting current metadata transaction, its changes are lost", name);
	if (thin_meta_abort(pool->tm)) {
		DMERR("%s: failed to abort metadata transaction: mend the metadata device", name);
		return PM_FAIL;
	}
	/* A device that takes no writes has kept the last commit; the flag is known in core. */
	if (thin_meta_set_needs_check(pool->tm))
		DMERR("%s: failed to set 'needs_check' flag in metadata: run thin_check", name);
	return thin_meta_needs_check(pool->tm) ? PM_READ_ONLY : PM_FAIL;
}

/* The timeout counts from the last time the mode was entered (behaviour 1.3). */
static void start_timer(struct pool *pool)
{
	unsigned long timeout = min_t(unsigned long, READ_ONCE(no_space_timeout),
				      MAX_JIFFY_OFFSET / HZ) * HZ;

	if (pool->mode != PM_OUT_OF_DATA_SPACE || pool->features.error_if_no_space || !timeout) {
		cancel_delayed_work(&pool->no_space_timer);
		return;
	}
	pool->no_space_expires = jiffies + timeout;
	mod_delayed_work(pool->commit_wq, &pool->no_space_timer, timeout);
}

/**
 * pool_set_mode - enter a mode, as far as allowed
 * @pool: pool; state_lock held
 * @mode: wanted mode; a failed pool stays failed, and one that needs a check
 *	does not become writable (behaviour 6.3)
 *
 * Entering the mode the pool is in repeats its effects without an event.
 */
void pool_set_mode(struct pool *pool, enum pool_mode mode)
{
	enum pool_mode old = pool->mode;
	int r;

	lockdep_assert_held(&pool->state_lock);
	if (old == PM_FAIL) {
		mode = PM_FAIL;
	} else if (mode <= PM_OUT_OF_DATA_SPACE && thin_meta_needs_check(pool->tm)) {
		DMERR("%s: unable to switch pool to write mode until repaired: run thin_check",
		      dm_device_name(pool->md));
		mode = old <= PM_OUT_OF_DATA_SPACE ? PM_READ_ONLY : old;
	}

	/* Who sees the mode may do what it allows, and nobody begins what it does not. */
	if (mode <= PM_OUT_OF_DATA_SPACE)
		thin_meta_set_access(pool->tm, THIN_META_WRITABLE);
	WRITE_ONCE(pool->mode, mode);
	switch (mode) {
	case PM_WRITE:
		WRITE_ONCE(pool->was_out_of_data, false);
		if (pool->bound)
			WRITE_ONCE(pool->features.error_if_no_space,
				   pool->bound->requested.error_if_no_space);
		break;
	case PM_OUT_OF_DATA_SPACE:
		WRITE_ONCE(pool->was_out_of_data, true);
		break;
	case PM_OUT_OF_METADATA_SPACE:
		/* What was changed before the mode was seen still becomes durable. */
		if (old < PM_OUT_OF_METADATA_SPACE) {
			r = thin_meta_commit_last(pool->tm);
			if (r)
				WRITE_ONCE(pool->mode, roll_back(pool, "last commit", r));
		}
		thin_meta_set_access(pool->tm, pool->mode == PM_OUT_OF_METADATA_SPACE ?
				     THIN_META_FREEING : THIN_META_READ_ONLY);
		break;
	default:
		thin_meta_set_access(pool->tm, THIN_META_READ_ONLY);
		break;
	}

	mode = pool->mode;
	start_timer(pool);
	spin_lock_irq(&pool->lock);
	pool->space_deadline = 0;
	spin_unlock_irq(&pool->lock);
	if (pool->bound)
		pool->bound->wanted = mode;
	if (mode != old) {
		trace_thin_mode(pool, old, mode);
		tell_mode(pool);
	}
	pool_recheck_held(pool, false);
}

static void no_space_timed_out(struct work_struct *ws)
{
	struct pool *pool = container_of(to_delayed_work(ws), struct pool, no_space_timer);

	mutex_lock(&pool->state_lock);
	/* Not if the mode was left and entered again while this waited for the lock. */
	if (pool->mode == PM_OUT_OF_DATA_SPACE && !pool->features.error_if_no_space &&
	    time_after_eq(jiffies, pool->no_space_expires)) {
		WRITE_ONCE(pool->features.error_if_no_space, true);
		tell_mode(pool);
		pool_recheck_held(pool, false);
	}
	mutex_unlock(&pool->state_lock);
}

/**
 * pool_metadata_failed_locked - a metadata operation failed: roll back
 * @pool: pool; state_lock held
 * @op: what failed
 * @error: negative errno
 *
 * Goes back to the last commit and to read-only mode with needs_check set, or
 * to fail mode (behaviour 6.4).  In a mode that does not change metadata
 * nothing happens: what fails there was late, or mere cleaning up.  Out of
 * metadata space, only a rollback of what frees some is a failure.  Nor is it
 * one that a change came in a mode that refused it.
 */
void pool_metadata_failed_locked(struct pool *pool, const char *op, int error)
{
	lockdep_assert_held(&pool->state_lock);
	if (error == -EPERM)
		return;
	if (pool->mode < PM_OUT_OF_METADATA_SPACE ||
	    (pool->mode == PM_OUT_OF_METADATA_SPACE && thin_meta_rolled_back(pool->tm)))
		pool_set_mode(pool, roll_back(pool, op, error));
}

/**
 * pool_metadata_failed - pool_metadata_failed_locked() without the lock held
 * @pool: pool
 * @op: what failed
 * @error: negative errno
 */
void pool_metadata_failed(struct pool *pool, const char *op, int error)
{
	mutex_lock(&pool->state_lock);
	pool_metadata_failed_locked(pool, op, error);
	mutex_unlock(&pool->state_lock);
}

/* ---- space ---- */

/*
 * The numbers behind a commit.  Changes went on while it was written, and what they
 * have moved or freed counts as used until it is durable in turn: metadata has run
 * out only when none is free without them.
 */
static int space_behind_commit(struct pool *pool, struct thin_meta_space *space)
{
	int r = thin_meta_get_space(pool->tm, space);

	if (r || space->meta_free || pool->mode >= PM_OUT_OF_METADATA_SPACE)
		return r;
	return thin_meta_commit_alone(pool->tm, space);
}

/**
 * pool_check_space_locked - a commit succeeded: see what space there is
 * @pool: pool in a mode that commits; state_lock held
 */
void pool_check_space_locked(struct pool *pool)
{
	struct thin_meta_space space;
	bool waiting;
	int r;

	r = space_behind_commit(pool, &space);
	if (r) {
		pool_metadata_failed_locked(pool, "query of free space", r);
		return;
	}
	WRITE_ONCE(pool->data_limit, space.data_total);

	if (pool->mode == PM_OUT_OF_METADATA_SPACE) {
		/* Enough was given back not to be here again at once. */
		if (space.meta_free > thin_meta_low_water_mblocks(pool->tm) / 16)
			pool_set_mode(pool, PM_WRITE);
	} else if (!space.meta_free) {
		DMERR("%s: no free metadata space available: extend it or delete thins",
		      dm_device_name(pool->md));
		pool_set_mode(pool, PM_OUT_OF_METADATA_SPACE);
	} else if (pool->mode == PM_OUT_OF_DATA_SPACE) {
		if (space.data_free)
			pool_set_mode(pool, PM_WRITE);
	} else {
		spin_lock_irq(&pool->lock);
		waiting = pool->space_deadline;
		spin_unlock_irq(&pool->lock);
		if (waiting && (space.data_free > space.data_pending || !space.settling))
			pool_recheck_held(pool, false);
	}
}

static void data_low_water(struct pool *pool)
{
	pool->low_water_triggered = true;
	pool_event(pool);
	DMWARN("%s: reached low water mark for data device: sending event.",
	       dm_device_name(pool->md));
}

/**
 * pool_check_data_low_water - blocks are about to be allocated
 * @pool: pool
 * @want: how many
 *
 * The event comes when one of them finds no more than the mark free
 * (behaviour 6.6).
 */
void pool_check_data_low_water(struct pool *pool, u64 want)
{
	struct thin_meta_space space;

	if (READ_ONCE(pool->low_water_triggered) || thin_meta_get_space(pool->tm, &space))
		return;
	/* Those that find nothing at all are pool_no_data_space()'s. */
	want = min(want, space.data_free);
	if (!want || space.data_free - (want - 1) > READ_ONCE(pool->low_water))
		return;
	mutex_lock(&pool->state_lock);
	if (!pool->low_water_triggered)
		data_low_water(pool);
	mutex_unlock(&pool->state_lock);
}

/**
 * pool_space_found - an allocation succeeded
 * @pool: pool
 */
void pool_space_found(struct pool *pool)
{
	if (!READ_ONCE(pool->space_deadline))
		return;
	spin_lock_irq(&pool->lock);
	pool->space_deadline = 0;
	spin_unlock_irq(&pool->lock);
}

/**
 * pool_has_found_space - could a pool that is out of data space go on?
 * @pool: pool
 *
 * Return: true when blocks can be had that came back without a commit, which
 * is what otherwise ends the mode.
 */
bool pool_has_found_space(struct pool *pool)
{
	struct thin_meta_space space;

	return pool_mode(pool) == PM_OUT_OF_DATA_SPACE &&
	       !thin_meta_get_space(pool->tm, &space) && space.data_free > space.data_pending;
}

/*
 * Are there free blocks that only have to become available, or blocks that only
 * have to be known to have one user left?  Writers wait for them until the
 * deadline, which does not run while blocks are passed down.
 */
static bool space_is_coming(struct pool *pool)
{
	struct thin_meta_space space;
	bool wait;

	if (thin_meta_get_space(pool->tm, &space) || (!space.data_free && !space.settling))
		return false;
	spin_lock_irq(&pool->lock);
	/* A deadline long past is that of writers which went away. */
	if (!pool->space_deadline || pool->passing_down ||
	    time_after(jiffies, pool->space_deadline + THIN_SPACE_WAIT))
		pool->space_deadline = (jiffies + THIN_SPACE_WAIT) | 1;
	wait = time_before(jiffies, pool->space_deadline);
	spin_unlock_irq(&pool->lock);
	return wait;
}

/**
 * pool_no_data_space - an allocation found nothing
 * @pool: pool
 *
 * As long as blocks are free but not yet to be had, because their loss is not
 * durable or bios may be at them, the pool is not full: a commit is asked for
 * and the writers wait, for a bounded time.  Otherwise the pool enters
 * out-of-data-space mode.  The caller then does what the mode says.
 */
void pool_no_data_space(struct pool *pool)
{
	if (space_is_coming(pool)) {
		pool_commit_request(pool);
		return;
	}
	mutex_lock(&pool->state_lock);
	/* A commit may have freed blocks meanwhile; no other would notice later. */
	if (pool->mode == PM_WRITE && !space_is_coming(pool)) {
		if (!pool->low_water_triggered)
			data_low_water(pool);
		pool_set_mode(pool, PM_OUT_OF_DATA_SPACE);
	}
	mutex_unlock(&pool->state_lock);
}

/* ---- the bound table ---- */

/**
 * pool_bind - a table takes control of its pool
 * @pool: pool
 * @pt: the table, being resumed
 *
 * The thins are suspended, so nobody reads the features meanwhile but status.
 */
void pool_bind(struct pool *pool, struct pool_target *pt)
{
	mutex_lock(&pool->state_lock);
	/* Holes that someone was told are zeroes stay so until a new block hides them. */
	if (pool->features.zero_new_blocks && !pt->requested.zero_new_blocks)
		DMWARN("%s: new blocks are not zeroed any more: zeroed ranges may show old data",
		       dm_device_name(pool->md));
	pool->bound = pt;
	pool->features = pt->requested;
	pool->features.discard_passdown = pt->passdown;
	WRITE_ONCE(pool->low_water, pt->low_water);
	WRITE_ONCE(pool->target_blocks, div64_u64(pt->ti->len, pool->block_sectors));
	pool_set_mode(pool, pt->wanted);
	mutex_unlock(&pool->state_lock);
}

/**
 * pool_unbind - a table goes
 * @pool: pool
 * @pt: the table, in control or not
 */
void pool_unbind(struct pool *pool, struct pool_target *pt)
{
	mutex_lock(&pool->state_lock);
	if (pool->bound == pt) {
		pool->bound = NULL;
		WRITE_ONCE(pool->target_blocks, 0);
	}
	mutex_unlock(&pool->state_lock);
}

/**
 * pool_mode_init - what modes need in a pool
 * @pool: pool being made
 */
void pool_mode_init(struct pool *pool)
{
	mutex_init(&pool->state_lock);
	pool->mode = PM_WRITE;
	INIT_DELAYED_WORK(&pool->no_space_timer, no_space_timed_out);
}
