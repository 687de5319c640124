// SPDX-License-Identifier: GPL-2.0-only
/*
 * Commits: on demand of flushes, of size, and once a second.
 *
 * A flush of a thin promises that what was written before it is durable
 * together with its mapping.  When the thin has nothing uncommitted the flush
 * goes to the data device by itself (dm-thin-map.c).  Otherwise it waits here,
 * with all others, for one commit: the bios are taken before the commit begins,
 * so its flush of the data device is younger than each of them; if the commit
 * turns out to be another's, a flush of the data device is sent here.
 *
 * Writers that flush again and again come back soon after a commit has let them
 * go.  Without care they fall into two groups, each of which waits for the other's
 * commit and then for its own; so a commit waits a little for those of the last.
 *
 * The pool's commits are serial, under state_lock, and so is everything that
 * follows from their result.  A long delete makes commits of its own on the way.
 */
#include "dm-thin.h"
#include "dm-thin-trace.h"

#include <linux/hrtimer.h>
#include <linux/sched/mm.h>

#define MAX_GATHER_NS	(10 * NSEC_PER_MSEC)
/* Less than this is lost in the time that going to sleep takes. */
#define MIN_GATHER_NS	(50 * NSEC_PER_USEC)

/* ---- the data device's part of a commit ---- */

static void flush_ended(struct bio *bio)
{
	complete(&((struct pool *)bio->bi_private)->flush_done);
}

static void data_flush_begin(void *context)
{
	struct pool *pool = context;
	struct bio *bio = &pool->flush_bio;

	WRITE_ONCE(pool->data_flushes, pool->data_flushes + 1);
	reinit_completion(&pool->flush_done);
	bio_init(bio, pool->data_bdev, NULL, 0, REQ_OP_WRITE | REQ_PREFLUSH | REQ_SYNC);
	bio->bi_private = pool;
	bio->bi_end_io = flush_ended;
	submit_bio(bio);
}

static int data_flush_wait(void *context)
{
	struct pool *pool = context;
	int r;

	wait_for_completion_io(&pool->flush_done);
	r = blk_status_to_errno(pool->flush_bio.bi_status);
	bio_uninit(&pool->flush_bio);
	if (!r)
		WRITE_ONCE(pool->data_flushed, pool->data_flushes);
	else
		DMERR_LIMIT("%s: flush of the data device before a commit failed: error = %d",
			    dm_device_name(pool->md), r);
	/* Whatever the disk calls it: "no space" would be taken for the pool's. */
	return r ? -EIO : 0;
}

static void freed(void *context, struct thin_freed *set)
{
	thin_reclaim_freed(context, set);
}

static void committed(void *context, const struct thin_meta_times *times)
{
	struct pool *pool = context;
	u64 ns = times->freeze_ns + times->metadata_ns + times->data_ns + times->superblock_ns;

	WRITE_ONCE(pool->commits, pool->commits + 1);
	WRITE_ONCE(pool->commit_ns, pool->commit_ns + ns);
	WRITE_ONCE(pool->commit_ns_max, max(pool->commit_ns_max, ns));
	trace_thin_commit(pool, times);
}

const struct thin_meta_ops pool_meta_ops = {
	.data_flush_begin = data_flush_begin,
	.data_flush_wait = data_flush_wait,
	.freed = freed,
	.committed = committed,
};

/* ---- committing ---- */

/**
 * pool_commit_locked - make the open transaction durable
 * @pool: pool; state_lock held
 *
 * Follows up on the result: modes change with the space found, and a failure
 * is a failed metadata operation (behaviour 6.3, 6.4).
 *
 * Out of metadata space, what gives some back is still committed.
 *
 * Return: 0; -EPERM in a mode without commits when there is something to
 * commit; -EIO, or the error of the commit, after which the transaction is
 * rolled back.
 */
int pool_commit_locked(struct pool *pool)
{
	int r;

	lockdep_assert_held(&pool->state_lock);
	if (pool->mode > PM_OUT_OF_METADATA_SPACE) {
		if (pool->mode == PM_FAIL || thin_meta_rolled_back(pool->tm))
			return -EIO;
		/* What came before the mode may have been committed by another. */
		return thin_meta_changed(pool->tm) ? -EPERM : 0;
	}

	r = thin_meta_commit(pool->tm);
	if (r)
		pool_metadata_failed_locked(pool, "commit", r);
	else
		pool_check_space_locked(pool);
	return r;
}

/**
 * pool_commit - pool_commit_locked() for those who do not hold the lock
 * @pool: pool
 *
 * Return: as pool_commit_locked().
 */
int pool_commit(struct pool *pool)
{
	int r;

	mutex_lock(&pool->state_lock);
	r = pool_commit_locked(pool);
	mutex_unlock(&pool->state_lock);
	return r;
}

/**
 * thin_is_durable - has a volume nothing uncommitted?
 * @vol: volume
 *
 * Any context.
 *
 * Return: true when it has none; what changed it before a bio that has ended
 * is seen.
 */
bool thin_is_durable(struct thin_vol *vol)
{
	return thin_dev_changed_seq(vol->td) <= thin_meta_durable_seq(vol->pool->tm);
}

/**
 * pool_commit_request - commit soon
 * @pool: pool
 *
 * Any context.
 */
void pool_commit_request(struct pool *pool)
{
	WRITE_ONCE(pool->commit_wanted, true);
	wake_up(&pool->gathered);
	queue_work(pool->commit_wq, &pool->commit_work);
}

/**
 * pool_commit_bio - end a bio when a commit has made its volume durable
 * @pool: pool
 * @bio: a flush, or a write that has ended well and must be durable
 *
 * Any context.
 */
void pool_commit_bio(struct pool *pool, struct bio *bio)
{
	unsigned long flags;

	spin_lock_irqsave(&pool->lock, flags);
	bio_list_add(&pool->commit_bios, bio);
	WRITE_ONCE(pool->nr_commit_bios, pool->nr_commit_bios + 1);
	if (pool->nr_commit_bios >= pool->nr_expected_bios)
		wake_up(&pool->gathered);
	/* Kicked under the lock: as soon as it is dropped, the bio may end and the pool go. */
	queue_work(pool->commit_wq, &pool->commit_work);
	spin_unlock_irqrestore(&pool->lock, flags);
}

/**
 * pool_after_change - the open transaction has grown
 * @pool: pool
 *
 * Asks for a commit when it is large or metadata runs short, and raises the
 * metadata low-water event.  May sleep.
 */
void pool_after_change(struct pool *pool)
{
	struct thin_meta_space space;

	if (pool_mode(pool) >= PM_OUT_OF_METADATA_SPACE)
		return;
	if (thin_meta_low_water_hit(pool->tm)) {
		mutex_lock(&pool->state_lock);
		pool_event(pool);
		DMWARN("%s: reached low water mark for metadata device: sending event.",
		       dm_device_name(pool->md));
		mutex_unlock(&pool->state_lock);
	}
	if (thin_meta_wants_commit(pool->tm) ||
	    (!thin_meta_get_space(pool->tm, &space) && !space.meta_free))
		pool_commit_request(pool);
}

static blk_status_t durable_status(struct bio *bio, int commit_error, int flush_error)
{
	struct thin_vol *vol = thin_bio(bio)->tt->vol;

	if (thin_dev_rolled_back(vol->td) || flush_error)
		return BLK_STS_IOERR;
	/* A mode without commits is no harm when another commit came first. */
	return commit_error && !thin_is_durable(vol) ? BLK_STS_IOERR : BLK_STS_OK;
}

static bool all_durable(struct bio_list *bios)
{
	struct bio *bio;

	bio_list_for_each(bio, bios)
		if (!thin_is_durable(thin_bio(bio)->tt->vol))
			return false;
	return true;
}

/* Return: true when there was a commit. */
static bool make_durable(struct pool *pool, struct bio_list *bios, unsigned int nr)
{
	int commit_error = 0, flush_error = 0;
	bool committed = false;
	struct bio *bio;
	u64 flushes;

	/* The commit that was under way when they came may be the one they need. */
	flushes = READ_ONCE(pool->data_flushes);
	mutex_lock(&pool->state_lock);
	if (!all_durable(bios)) {
		commit_error = pool_commit_locked(pool);
		committed = true;
	}
	mutex_unlock(&pool->state_lock);
	/* Unless a flush that began after they came has ended well. */
	if (READ_ONCE(pool->data_flushed) <= flushes)
		flush_error = blkdev_issue_flush(pool->data_bdev);

	/* Those that end now may come back, and those that came meanwhile are there. */
	spin_lock_irq(&pool->lock);
	WRITE_ONCE(pool->nr_expected_bios, nr + pool->nr_commit_bios);
	spin_unlock_irq(&pool->lock);
	while ((bio = bio_list_pop(bios)))
		thin_end_bio(bio, durable_status(bio, commit_error, flush_error));
	return committed;
}

static bool all_gathered(struct pool *pool)
{
	return READ_ONCE(pool->nr_commit_bios) >= READ_ONCE(pool->nr_expected_bios) ||
	       READ_ONCE(pool->commit_wanted);
}

/* Nobody waits long in vain: the time is a small part of what the commit takes. */
static void gather(struct pool *pool)
{
	u64 ns = min_t(u64, pool->commit_bios_ns / 8, MAX_GATHER_NS);

	if (ns >= MIN_GATHER_NS && !all_gathered(pool))
		wait_event_hrtimeout(pool->gathered, all_gathered(pool), ns_to_ktime(ns));
}

/* Return: true when there was a commit. */
static bool commit_for_bios(struct pool *pool)
{
	struct bio_list bios;
	bool committed;
	unsigned int nr;
	u64 begin;

	if (!READ_ONCE(pool->nr_commit_bios))
		return false;

	spin_lock_irq(&pool->lock);
	bios = pool->commit_bios;
	bio_list_init(&pool->commit_bios);
	nr = pool->nr_commit_bios;
	WRITE_ONCE(pool->nr_commit_bios, 0);
	spin_unlock_irq(&pool->lock);

	begin = ktime_get_ns();
	committed = make_durable(pool, &bios, nr);
	pool->commit_bios_ns = ktime_get_ns() - begin;
	return committed;
}

static void commit(struct work_struct *ws)
{
	struct pool *pool = container_of(ws, struct pool, commit_work);
	unsigned int noio = memalloc_noio_save();
	bool wanted;

	if (READ_ONCE(pool->nr_commit_bios))
		gather(pool);
	/* One that is asked for from now on comes after this one. */
	wanted = xchg(&pool->commit_wanted, false);
	if (!commit_for_bios(pool) && wanted)
		pool_commit(pool);
	memalloc_noio_restore(noio);
}

static void wake(struct work_struct *ws)
{
	struct pool *pool = container_of(to_delayed_work(ws), struct pool, waker);
	unsigned int noio = memalloc_noio_save();

	if (thin_meta_changed(pool->tm) || pool_has_found_space(pool))
		pool_commit(pool);
	pool_recheck_held(pool, false);
	memalloc_noio_restore(noio);
	queue_delayed_work(pool->commit_wq, &pool->waker, HZ);
}

/**
 * pool_waker_start - begin committing once a second
 * @pool: pool being resumed
 */
void pool_waker_start(struct pool *pool)
{
	queue_delayed_work(pool->commit_wq, &pool->waker, HZ);
}

/**
 * pool_waker_stop - stop, and wait for commits that were asked for
 * @pool: pool whose thins are suspended
 */
void pool_waker_stop(struct pool *pool)
{
	cancel_delayed_work_sync(&pool->waker);
	flush_work(&pool->commit_work);
}

/**
 * pool_commit_init - what committing needs in a pool
 * @pool: pool being made
 *
 * Return: 0 or -ENOMEM.
 */
int pool_commit_init(struct pool *pool)
{
	INIT_WORK(&pool->commit_work, commit);
	INIT_DELAYED_WORK(&pool->waker, wake);
	bio_list_init(&pool->commit_bios);
	init_completion(&pool->flush_done);
	init_waitqueue_head(&pool->gathered);
	pool->commit_wq = alloc_workqueue("dm-thin-commit", WQ_MEM_RECLAIM | WQ_UNBOUND, 0);
	return pool->commit_wq ? 0 : -ENOMEM;
}

/**
 * pool_commit_exit - undo pool_commit_init()
 * @pool: pool, its waker stopped
 */
void pool_commit_exit(struct pool *pool)
{
	if (pool->commit_wq)
		destroy_workqueue(pool->commit_wq);
}
