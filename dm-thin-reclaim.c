// SPDX-License-Identifier: GPL-2.0-only
/*
 * What happens to data blocks after their last reference has gone.
 *
 * A commit hands over the set of blocks that lost their last reference in it.
 * The set waits for an epoch of every volume: then no bio and no copy can be
 * at these blocks any more.  Then what discards have freed of it is
 * passed down to the data device, and only after that the set is released, so
 * that the blocks can be handed out again.
 *
 * Rounds.  One round is in progress at a time and takes all sets that are
 * queued when it begins, in order; it asks for an epoch of each volume at
 * once.  Only the work item touches the lists of a round.  A bio that hangs
 * therefore stops all reclaiming of its pool: writers then wait a bounded time
 * before the pool counts as full.
 */
#include "dm-thin.h"

#include <linux/sched/mm.h>
#include <linux/slab.h>

struct freed_set {
	struct list_head list;
	struct thin_freed *set;
};

/**
 * thin_reclaim_freed - a commit freed data blocks
 * @pool: pool
 * @set: the blocks
 */
void thin_reclaim_freed(struct pool *pool, struct thin_freed *set)
{
	/* Under the metadata lock.  A lost set would keep its blocks until the pool is closed. */
	struct freed_set *fs = kmalloc(sizeof(*fs), GFP_NOIO | __GFP_NOFAIL);

	fs->set = set;
	spin_lock_irq(&pool->lock);
	list_add_tail(&fs->list, &pool->freed_sets);
	spin_unlock_irq(&pool->lock);
	queue_work(pool->reclaim_wq, &pool->reclaim_work);
}

static void epoch_passed(struct rcu_head *head)
{
	struct pool *pool = container_of(head, struct thin_vol, rcu)->pool;

	/* With bottom halves off, and the volume's reference is the round's. */
	if (atomic_dec_and_test(&pool->round_pending))
		queue_work(pool->reclaim_wq, &pool->reclaim_work);
}

static void begin_round(struct pool *pool)
{
	struct thin_vol *vol;

	spin_lock_irq(&pool->lock);
	list_splice_tail_init(&pool->freed_sets, &pool->round_sets);
	pool->reclaiming = true;
	list_for_each_entry(vol, &pool->vols, list) {
		refcount_inc(&vol->ref);
		list_add_tail(&vol->round_node, &pool->round_vols);
	}
	spin_unlock_irq(&pool->lock);

	atomic_set(&pool->round_pending, 1);
	list_for_each_entry(vol, &pool->round_vols, round_node) {
		atomic_inc(&pool->round_pending);
		call_srcu(&vol->srcu, &vol->rcu, epoch_passed);
	}
	if (atomic_dec_and_test(&pool->round_pending))
		queue_work(pool->reclaim_wq, &pool->reclaim_work);
}

/* Writers that wait for space are patient meanwhile. */
static void set_passing_down(struct pool *pool, bool on)
{
	spin_lock_irq(&pool->lock);
	pool->passing_down = on;
	if (pool->space_deadline)
		pool->space_deadline = (jiffies + THIN_SPACE_WAIT) | 1;
	spin_unlock_irq(&pool->lock);
}

static void pass_down_run(void *arg, u64 begin, u64 len, bool passdown)
{
	struct pool *pool = arg;

	cond_resched();
	if (!passdown)
		return;
	if (!pool->passing_down)
		set_passing_down(pool, true);
	WRITE_ONCE(pool->passed_down, pool->passed_down + len);
	/* Errors do not matter: the device keeps what nobody needs. */
	blkdev_issue_discard(pool->data_bdev, pool_block_sector(pool, begin),
			     pool_block_sector(pool, len), GFP_NOIO);
}

static void pass_down(struct pool *pool, struct freed_set *fs)
{
	if (bdev_max_discard_sectors(pool->data_bdev))
		thin_freed_walk(fs->set, pass_down_run, pool);
	if (pool->passing_down)
		set_passing_down(pool, false);
}

static void end_round(struct pool *pool)
{
	struct freed_set *fs, *tmp;
	struct thin_vol *vol, *next;

	list_for_each_entry_safe(vol, next, &pool->round_vols, round_node) {
		list_del_init(&vol->round_node);
		thin_vol_unref(vol);
	}
	list_for_each_entry_safe(fs, tmp, &pool->round_sets, list) {
		list_del(&fs->list);
		pass_down(pool, fs);
		thin_meta_release_freed(pool->tm, fs->set);
		kfree(fs);
	}
	pool_recheck_held(pool, true);
}

static bool idle(struct pool *pool)
{
	bool r;

	spin_lock_irq(&pool->lock);
	r = !pool->reclaiming && list_empty(&pool->freed_sets);
	spin_unlock_irq(&pool->lock);
	return r;
}

static void reclaim(struct work_struct *ws)
{
	struct pool *pool = container_of(ws, struct pool, reclaim_work);
	unsigned int noio = memalloc_noio_save();
	bool more;

	/* A set that arrives during a round kicks too; the round's end sees to it. */
	if (pool->reclaiming) {
		if (atomic_read(&pool->round_pending))
			goto out;
		end_round(pool);
		spin_lock_irq(&pool->lock);
		pool->reclaiming = false;
		spin_unlock_irq(&pool->lock);
	}
	spin_lock_irq(&pool->lock);
	more = !list_empty(&pool->freed_sets);
	spin_unlock_irq(&pool->lock);
	if (more)
		begin_round(pool);
	else
		wake_up_all(&pool->reclaim_wait);
out:
	memalloc_noio_restore(noio);
}

/**
 * thin_reclaim_wait - wait until every set is released and passed down
 * @pool: pool without thin I/O
 *
 * Sets that a later commit adds are not waited for.
 */
void thin_reclaim_wait(struct pool *pool)
{
	wait_event(pool->reclaim_wait, idle(pool));
	flush_work(&pool->reclaim_work);
}

/**
 * thin_reclaim_init - what reclaiming needs in a pool
 * @pool: pool being made
 *
 * Return: 0 or -ENOMEM.
 */
int thin_reclaim_init(struct pool *pool)
{
	INIT_WORK(&pool->reclaim_work, reclaim);
	init_waitqueue_head(&pool->reclaim_wait);
	INIT_LIST_HEAD(&pool->freed_sets);
	INIT_LIST_HEAD(&pool->round_sets);
	INIT_LIST_HEAD(&pool->round_vols);
	pool->reclaim_wq = alloc_workqueue("dm-thin-reclaim", WQ_MEM_RECLAIM | WQ_UNBOUND, 0);
	return pool->reclaim_wq ? 0 : -ENOMEM;
}

/**
 * thin_reclaim_exit - undo thin_reclaim_init()
 * @pool: pool whose sets are all released
 */
void thin_reclaim_exit(struct pool *pool)
{
	if (pool->reclaim_wq)
		destroy_workqueue(pool->reclaim_wq);
}
