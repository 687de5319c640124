// SPDX-License-Identifier: GPL-2.0-only
/*
 * The life of a pool: found or made by its tables, shared by them and by the
 * tables of its thins, closed with the last table of its own.
 *
 * A pool that is closed while thins are left (forced removal) is gone for
 * them: they fail their I/O until they are removed.  It leaves the list, so a
 * new table makes a new pool of the same devices.
 */
#include "dm-thin.h"

#include <linux/log2.h>
#include <linux/slab.h>

static DEFINE_MUTEX(pools_lock);
static LIST_HEAD(pools);

/* Woken when a pool in the list has been opened or closed, which takes no lock. */
static DECLARE_WAIT_QUEUE_HEAD(pools_wait);

/* ---- suspension of the thins ---- */

static bool md_is_held(struct pool *pool, struct mapped_device *md)
{
	struct thin_target *tt;

	list_for_each_entry(tt, &pool->tts, node)
		if (tt->md == md && tt->holds_suspend)
			return true;
	return false;
}

/*
 * Suspend or resume a thin's device without a lock: its suspend lock has the
 * lockdep class of the pool's own.  The pinned table stays in the list, and
 * keeps the device alive, until it is unpinned.
 */
static void call_pinned(struct pool *pool, struct thin_target *tt,
			void (*fn)(struct mapped_device *md))
{
	WRITE_ONCE(tt->pinned, true);
	mutex_unlock(&pool->tts_lock);
	fn(tt->md);
	mutex_lock(&pool->tts_lock);
	WRITE_ONCE(tt->pinned, false);
	wake_up_all(&pool->unpinned);
}

/* May others still read through this device, which is their external origin? */
static bool md_is_read(struct pool *pool, struct mapped_device *md)
{
	dev_t dev = disk_devt(dm_disk(md));
	struct thin_target *tt;

	list_for_each_entry(tt, &pool->tts, node)
		if (tt->origin_dev && tt->origin_dev->bdev->bd_dev == dev && tt->md != md &&
		    !md_is_held(pool, tt->md))
			return true;
	return false;
}

/*
 * The external origin of a thin may be another thin of the same pool: it must
 * go on until those that read from it are through.  Returns whether any thin
 * was suspended.
 */
static bool suspend_thins(struct pool *pool, bool with_origin)
{
	struct thin_target *tt;
	bool any = false;

	list_for_each_entry_reverse(tt, &pool->tts, node) {
		if (md_is_held(pool, tt->md))
			continue;
		if (with_origin && (!tt->origin_dev || md_is_read(pool, tt->md)))
			continue;
		tt->holds_suspend = true;
		call_pinned(pool, tt, dm_internal_suspend_noflush);
		any = true;
	}
	return any;
}

/**
 * pool_suspend_thins - stop the I/O of all thins and refuse new tables
 * @pool: pool being suspended
 *
 * Bios that wait go back to the core, so this waits only for I/O in flight.
 * Each mapped device is suspended once, however many tables it has.
 */
void pool_suspend_thins(struct pool *pool)
{
	mutex_lock(&pool->tts_lock);
	WRITE_ONCE(pool->suspended, true);
	/* Origins may have origins. */
	while (suspend_thins(pool, true))
		;
	suspend_thins(pool, false);
	mutex_unlock(&pool->tts_lock);
}

/* A table that goes meanwhile may pass its device's suspension to one that was looked at. */
static void resume_thins(struct pool *pool)
{
	struct thin_target *tt;
	bool any;

	lockdep_assert_held(&pool->tts_lock);
	do {
		any = false;
		list_for_each_entry(tt, &pool->tts, node) {
			if (!tt->holds_suspend)
				continue;
			tt->holds_suspend = false;
			call_pinned(pool, tt, dm_internal_resume);
			any = true;
		}
	} while (any);
}

/**
 * pool_resume_thins - undo pool_suspend_thins()
 * @pool: pool being resumed
 */
void pool_resume_thins(struct pool *pool)
{
	mutex_lock(&pool->tts_lock);
	resume_thins(pool);
	WRITE_ONCE(pool->suspended, false);
	mutex_unlock(&pool->tts_lock);
}

/**
 * pool_wait_thins - wait for who is still finishing what the thins have done
 * @pool: pool whose thins are suspended
 */
void pool_wait_thins(struct pool *pool)
{
	struct thin_vol *vol;

	mutex_lock(&pool->tts_lock);
	list_for_each_entry(vol, &pool->vols, list)
		thin_vol_wait_idle(vol);
	mutex_unlock(&pool->tts_lock);
}

/**
 * pool_add_thin - a table of a thin is complete
 * @tt: the table; its pool is not suspended, tts_lock held
 */
void pool_add_thin(struct thin_target *tt)
{
	lockdep_assert_held(&tt->pool->tts_lock);
	list_add_tail(&tt->node, &tt->pool->tts);
}

/**
 * pool_remove_thin - a table of a thin goes
 * @tt: the table, without bios
 *
 * Its device's suspension passes to another table of the device, or ends.
 */
void pool_remove_thin(struct thin_target *tt)
{
	struct pool *pool = tt->pool;
	struct thin_target *other;
	bool resume;

	mutex_lock(&pool->tts_lock);
	while (tt->pinned) {
		mutex_unlock(&pool->tts_lock);
		wait_event(pool->unpinned, !READ_ONCE(tt->pinned));
		mutex_lock(&pool->tts_lock);
	}
	list_del(&tt->node);
	resume = tt->holds_suspend;
	list_for_each_entry(other, &pool->tts, node) {
		if (resume && other->md == tt->md) {
			other->holds_suspend = true;
			resume = false;
		}
	}
	thin_vol_put(tt->vol);
	mutex_unlock(&pool->tts_lock);
	if (resume)
		dm_internal_resume(tt->md);
}

/* ---- making ---- */

static void destroy(struct pool *pool)
{
	thin_reclaim_exit(pool);
	pool_commit_exit(pool);
	thin_discard_exit(pool);
	thin_provision_exit(pool);
	if (pool->wq)
		destroy_workqueue(pool->wq);
	mutex_destroy(&pool->state_lock);
	mutex_destroy(&pool->tts_lock);
	kfree(pool);
}

static int init_parts(struct pool *pool)
{
	int r;

	pool->wq = alloc_workqueue("dm-thin", WQ_MEM_RECLAIM | WQ_UNBOUND, 0);
	if (!pool->wq)
		return -ENOMEM;
	r = thin_provision_init(pool);
	if (!r)
		r = thin_discard_init(pool);
	if (!r)
		r = pool_commit_init(pool);
	if (!r)
		r = thin_reclaim_init(pool);
	return r;
}

static struct pool *create(struct pool_target *pt, struct block_device *meta_bdev,
			   struct block_device *data_bdev, sector_t block_sectors)
{
	struct pool *pool = kzalloc(sizeof(*pool), GFP_KERNEL);

	if (!pool)
		return NULL;
	INIT_LIST_HEAD(&pool->tts);
	init_waitqueue_head(&pool->unpinned);
	INIT_LIST_HEAD(&pool->vols);
	mutex_init(&pool->tts_lock);
	spin_lock_init(&pool->lock);
	pool_mode_init(pool);
	pool->md = dm_table_get_md(pt->ti->table);
	pool->meta_bdev = meta_bdev;
	pool->data_bdev = data_bdev;
	pool->block_sectors = block_sectors;
	pool->block_shift = is_power_of_2(block_sectors) ? ilog2(block_sectors) : -1;
	pool->suspended = true;
	return pool;
}

static int open_pool(struct pool *pool, struct pool_target *pt, char **error)
{
	struct thin_meta_space space;
	int r = init_parts(pool);

	if (r) {
		*error = "Error setting up pool";
		return r;
	}
	pool->tm = thin_meta_open(pool->meta_bdev, pool->block_sectors, !pt->requested.read_only,
				  &pool_meta_ops, pool);
	if (IS_ERR(pool->tm)) {
		*error = "Error opening or formatting metadata";
		return PTR_ERR(pool->tm);
	}
	r = thin_meta_get_space(pool->tm, &space);
	if (r) {
		*error = "Error reading metadata";
		thin_meta_close(pool->tm);
		return r;
	}
	pool->data_limit = space.data_total;
	return 0;
}

/* May this table share that pool?  NULL when it is another one. */
static struct pool *share(struct pool_target *pt, struct block_device *meta_bdev,
			  struct block_device *data_bdev, sector_t block_sectors, char **error)
{
	struct mapped_device *md = dm_table_get_md(pt->ti->table);
	struct pool *pool;

	list_for_each_entry(pool, &pools, list) {
		if (pool->meta_bdev != meta_bdev)
			continue;
		if (pool->md != md) {
			*error = "metadata device already in use by a pool";
			return ERR_PTR(-EBUSY);
		}
		if (pool->data_bdev != data_bdev) {
			*error = "data device already in use by a pool";
			return ERR_PTR(-EBUSY);
		}
		if (pool->block_sectors != block_sectors) {
			*error = "Block size of a pool cannot be changed";
			return ERR_PTR(-EINVAL);
		}
		if (pool->mode == PM_FAIL || thin_meta_failed(pool->tm)) {
			*error = "Pool has failed";
			return ERR_PTR(-EINVAL);
		}
		return pool;
	}
	list_for_each_entry(pool, &pools, list) {
		if (pool->md == md) {
			*error = "different pool cannot replace a pool";
			return ERR_PTR(-EINVAL);
		}
	}
	return NULL;
}

/* Is a pool being opened or closed that this table might share? */
static struct pool *in_transit(struct mapped_device *md, struct block_device *meta_bdev)
{
	struct pool *pool;

	list_for_each_entry(pool, &pools, list)
		if (pool->in_transit && (pool->md == md || pool->meta_bdev == meta_bdev))
			return pool;
	return NULL;
}

static bool nothing_in_transit(struct mapped_device *md, struct block_device *meta_bdev)
{
	bool r;

	mutex_lock(&pools_lock);
	r = !in_transit(md, meta_bdev);
	mutex_unlock(&pools_lock);
	return r;
}

/* The pool has arrived, or has gone. */
static void end_transit(struct pool *pool, bool keep)
{
	mutex_lock(&pools_lock);
	pool->in_transit = false;
	if (!keep)
		list_del(&pool->list);
	mutex_unlock(&pools_lock);
	wake_up_all(&pools_wait);
}

/**
 * pool_get - the pool of one more table
 * @pt: the table, its requested features known
 * @meta_bdev: metadata device, opened by the table
 * @data_bdev: data device, opened by the table
 * @block_sectors: data block size in sectors
 * @error: gets the reason of a failure
 *
 * Formats blank metadata; waits for a pool of the same device that is just
 * being closed.
 *
 * Return: the pool, or ERR_PTR() (behaviour 2.3, 2.4).
 */
struct pool *pool_get(struct pool_target *pt, struct block_device *meta_bdev,
		      struct block_device *data_bdev, sector_t block_sectors, char **error)
{
	struct mapped_device *md = dm_table_get_md(pt->ti->table);
	bool found = true;
	struct pool *pool;
	int r;

	mutex_lock(&pools_lock);
	while (in_transit(md, meta_bdev)) {
		mutex_unlock(&pools_lock);
		wait_event(pools_wait, nothing_in_transit(md, meta_bdev));
		mutex_lock(&pools_lock);
	}
	pool = share(pt, meta_bdev, data_bdev, block_sectors, error);
	if (!pool) {
		found = false;
		pool = create(pt, meta_bdev, data_bdev, block_sectors);
		if (pool) {
			pool->in_transit = true;
			list_add(&pool->list, &pools);
		} else {
			*error = "Error allocating memory for pool";
			pool = ERR_PTR(-ENOMEM);
		}
	}
	if (!IS_ERR(pool)) {
		pool->ref++;
		pool->nr_targets++;
	}
	mutex_unlock(&pools_lock);
	if (found || IS_ERR(pool))
		return pool;

	r = open_pool(pool, pt, error);
	end_transit(pool, !r);
	if (r) {
		destroy(pool);
		return ERR_PTR(r);
	}
	return pool;
}

/**
 * pool_find_by_md - the pool behind a mapped device
 * @md: mapped device
 *
 * Return: the pool with a reference for pool_put(), or NULL.
 */
struct pool *pool_find_by_md(struct mapped_device *md)
{
	struct pool *pool, *found = NULL;

	mutex_lock(&pools_lock);
	list_for_each_entry(pool, &pools, list) {
		if (pool->md == md && !pool->in_transit) {
			pool->ref++;
			found = pool;
			break;
		}
	}
	mutex_unlock(&pools_lock);
	return found;
}

/* ---- the end ---- */

/*
 * No table opens the devices any more.  The thins that are left have been
 * suspended with the pool; when they come back everything fails.
 */
static void close_pool(struct pool *pool)
{
	struct thin_vol *vol, *tmp;
	int r;

	mutex_lock(&pool->tts_lock);
	/* After this nobody looks at a volume's handle, except its worker. */
	mutex_lock(&pool->state_lock);
	WRITE_ONCE(pool->gone, true);
	mutex_unlock(&pool->state_lock);
	list_for_each_entry_safe(vol, tmp, &pool->vols, list)
		thin_vol_close(vol);

	pool_waker_stop(pool);
	cancel_delayed_work_sync(&pool->no_space_timer);
	pool_commit(pool);
	thin_reclaim_wait(pool);
	r = thin_meta_close(pool->tm);
	if (r)
		DMWARN("%s: closing the metadata failed: error = %d", dm_device_name(pool->md), r);
	pool->tm = NULL;
	mutex_unlock(&pool->tts_lock);
}

/**
 * pool_put - drop a reference
 * @pool: pool
 */
void pool_put(struct pool *pool)
{
	bool last;

	mutex_lock(&pools_lock);
	last = !--pool->ref;
	mutex_unlock(&pools_lock);
	if (last)
		destroy(pool);
}

/**
 * pool_put_target - a table of the pool goes
 * @pool: pool
 * @pt: the table, its devices still open
 */
void pool_put_target(struct pool *pool, struct pool_target *pt)
{
	bool last;

	pool_unbind(pool, pt);
	mutex_lock(&pools_lock);
	last = !--pool->nr_targets;
	if (last)
		pool->in_transit = true;
	mutex_unlock(&pools_lock);

	if (last) {
		close_pool(pool);
		end_transit(pool, false);
		mutex_lock(&pool->tts_lock);
		resume_thins(pool);
		mutex_unlock(&pool->tts_lock);
	}
	pool_put(pool);
}
