// SPDX-License-Identifier: GPL-2.0-only
/*
 * What happens to data blocks after their last reference has gone.
 *
 * A commit hands over the set of blocks that lost their last reference in it.
 * The set waits for an epoch of every volume: then no bio and no copy can be
 * at these blocks any more.  Then the parts of it that discards dropped are
 * passed down to the data device, and only after that the set is released, so
 * that the blocks can be handed out again.
 *
 * Drops.  A discard records the runs it unmapped in open_drops, under the
 * metadata lock.  The freeze of a commit moves them to frozen_drops, and the
 * set of that commit takes them along.  Of a run only what is in the set is
 * passed down: the rest is mapped elsewhere, or was freed by a later
 * transaction whose own set comes later.
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

/* Pages that one step of a discard may need, and another volume's beside it. */
#define SPARE_DROPS	40

/* A page full of runs of data blocks. */
struct thin_passdown {
	struct list_head list;
	unsigned int nr;
	struct {
		u64 begin;
		u64 len;
	} run[(PAGE_SIZE - sizeof(struct list_head) - sizeof(u64)) / (2 * sizeof(u64))];
};

struct freed_set {
	struct list_head list;
	struct thin_freed *set;
	struct list_head drops;
};

/* ---- drops ---- */

static void free_drops(struct list_head *drops)
{
	struct thin_passdown *p, *tmp;

	list_for_each_entry_safe(p, tmp, drops, list) {
		list_del(&p->list);
		kfree(p);
	}
}

/**
 * thin_reclaim_prepare_drops - have room for drops
 * @pool: pool
 *
 * Call before an operation that reports drops.  May sleep.
 */
void thin_reclaim_prepare_drops(struct pool *pool)
{
	struct thin_passdown *p;

	while (READ_ONCE(pool->nr_spare_drops) < SPARE_DROPS) {
		p = kmalloc(sizeof(*p), GFP_NOIO);
		if (!p)
			return;
		spin_lock_irq(&pool->lock);
		list_add(&p->list, &pool->spare_drops);
		WRITE_ONCE(pool->nr_spare_drops, pool->nr_spare_drops + 1);
		spin_unlock_irq(&pool->lock);
	}
}

static struct thin_passdown *add_page(struct pool *pool)
{
	struct thin_passdown *p;

	if (pool->nr_spare_drops) {
		p = list_first_entry(&pool->spare_drops, struct thin_passdown, list);
		list_del(&p->list);
		WRITE_ONCE(pool->nr_spare_drops, pool->nr_spare_drops - 1);
	} else {
		p = kmalloc(sizeof(*p), GFP_ATOMIC | __GFP_NOWARN);
	}
	if (p) {
		p->nr = 0;
		list_add_tail(&p->list, &pool->open_drops);
	}
	return p;
}

/**
 * thin_reclaim_drop - a discard unmapped a run of data blocks
 * @pool: pool
 * @begin: first data block
 * @len: data blocks
 *
 * Under the metadata lock.  Without memory the run is not passed down, which costs
 * nothing but space on the data device.
 */
void thin_reclaim_drop(struct pool *pool, u64 begin, u64 len)
{
	struct thin_passdown *p;
	unsigned long flags;

	spin_lock_irqsave(&pool->lock, flags);
	p = list_empty(&pool->open_drops) ? NULL :
	    list_last_entry(&pool->open_drops, struct thin_passdown, list);
	if (p && p->run[p->nr - 1].begin + p->run[p->nr - 1].len == begin) {
		p->run[p->nr - 1].len += len;
	} else {
		if (!p || p->nr == ARRAY_SIZE(p->run))
			p = add_page(pool);
		if (p) {
			p->run[p->nr].begin = begin;
			p->run[p->nr].len = len;
			p->nr++;
		}
	}
	spin_unlock_irqrestore(&pool->lock, flags);
}

/**
 * thin_reclaim_freeze - the open transaction becomes the one being committed
 * @pool: pool; under the metadata lock
 */
void thin_reclaim_freeze(struct pool *pool)
{
	unsigned long flags;
	LIST_HEAD(unused);

	spin_lock_irqsave(&pool->lock, flags);
	list_splice_init(&pool->frozen_drops, &unused);
	list_splice_init(&pool->open_drops, &pool->frozen_drops);
	spin_unlock_irqrestore(&pool->lock, flags);
	free_drops(&unused);
}

/**
 * thin_reclaim_abort - the losses of the open transaction did not happen
 * @pool: pool; state_lock held
 */
void thin_reclaim_abort(struct pool *pool)
{
	LIST_HEAD(unused);

	spin_lock_irq(&pool->lock);
	list_splice_init(&pool->frozen_drops, &unused);
	list_splice_init(&pool->open_drops, &unused);
	spin_unlock_irq(&pool->lock);
	free_drops(&unused);
}

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
	INIT_LIST_HEAD(&fs->drops);
	spin_lock_irq(&pool->lock);
	list_splice_init(&pool->frozen_drops, &fs->drops);
	list_add_tail(&fs->list, &pool->freed_sets);
	spin_unlock_irq(&pool->lock);
	queue_work(pool->reclaim_wq, &pool->reclaim_work);
}

/* ---- rounds ---- */

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

static void discard_blocks(struct pool *pool, u64 begin, u64 end)
{
	WRITE_ONCE(pool->passed_down, pool->passed_down + end - begin);
	/* Errors do not matter: the device keeps what nobody needs. */
	blkdev_issue_discard(pool->data_bdev, pool_block_sector(pool, begin),
			     pool_block_sector(pool, end - begin), GFP_NOIO);
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

static void pass_down(struct pool *pool, struct freed_set *fs)
{
	struct thin_passdown *p;
	unsigned int i;

	if (list_empty(&fs->drops) || !bdev_max_discard_sectors(pool->data_bdev))
		return;
	set_passing_down(pool, true);
	list_for_each_entry(p, &fs->drops, list) {
		for (i = 0; i < p->nr; i++) {
			u64 begin = p->run[i].begin, end = begin + p->run[i].len, free_end;

			while (begin < end && thin_freed_next(fs->set, begin, end, &begin,
							      &free_end)) {
				discard_blocks(pool, begin, free_end);
				begin = free_end;
				cond_resched();
			}
		}
	}
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
		free_drops(&fs->drops);
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
	BUILD_BUG_ON(sizeof(struct thin_passdown) > PAGE_SIZE);

	INIT_WORK(&pool->reclaim_work, reclaim);
	init_waitqueue_head(&pool->reclaim_wait);
	INIT_LIST_HEAD(&pool->freed_sets);
	INIT_LIST_HEAD(&pool->round_sets);
	INIT_LIST_HEAD(&pool->round_vols);
	INIT_LIST_HEAD(&pool->open_drops);
	INIT_LIST_HEAD(&pool->frozen_drops);
	INIT_LIST_HEAD(&pool->spare_drops);
	pool->reclaim_wq = alloc_workqueue("dm-thin-reclaim", WQ_MEM_RECLAIM | WQ_UNBOUND, 0);
	return pool->reclaim_wq ? 0 : -ENOMEM;
}

/**
 * thin_reclaim_exit - undo thin_reclaim_init()
 * @pool: pool whose sets are all released
 */
void thin_reclaim_exit(struct pool *pool)
{
	if (!pool->reclaim_wq)
		return;
	destroy_workqueue(pool->reclaim_wq);
	free_drops(&pool->open_drops);
	free_drops(&pool->frozen_drops);
	free_drops(&pool->spare_drops);
}
