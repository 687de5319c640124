// SPDX-License-Identifier: GPL-2.0-only
/*
 * One device id that some table has open: its queues, its worker, its ranges.
 *
 * A bio that map cannot finish comes here.  The worker of the volume first
 * finishes what has completed, then sorts what has gathered and sends each bio
 * down its road.  What others add to or look at meanwhile is under vol->lock:
 * deferred bios, completed works, and the trees of busy ranges.
 */
#include "dm-thin.h"
#include "dm-thin-trace.h"

#include <linux/sched/mm.h>
#include <linux/slab.h>

/* ---- busy ranges ---- */

static struct thin_busy *find(struct rb_root *root, u64 begin, u64 end)
{
	struct rb_node *n = root->rb_node;
	struct thin_busy *found = NULL;

	while (n) {
		struct thin_busy *b = rb_entry(n, struct thin_busy, node);

		if (b->end <= begin) {
			n = n->rb_right;
		} else {
			if (b->begin < end)
				found = b;
			n = n->rb_left;
		}
	}
	return found;
}

static void link(struct rb_root *root, struct thin_busy *busy)
{
	struct rb_node **p = &root->rb_node, *parent = NULL;

	while (*p) {
		parent = *p;
		if (busy->begin < rb_entry(parent, struct thin_busy, node)->begin)
			p = &parent->rb_left;
		else
			p = &parent->rb_right;
	}
	rb_link_node(&busy->node, parent, p);
	rb_insert_color(&busy->node, root);
}

static void add(struct thin_vol *vol, struct rb_root *root, struct thin_busy *busy,
		u64 begin, u64 end)
{
	busy->begin = begin;
	busy->end = end;
	busy->open = false;
	bio_list_init(&busy->waiters);
	link(root, busy);
	WRITE_ONCE(vol->nr_busy, vol->nr_busy + 1);
}

/* The last thing that is done to @vol: its closer goes on then. */
static void count_out(struct thin_vol *vol)
{
	WRITE_ONCE(vol->nr_busy, vol->nr_busy - 1);
	if (!vol->nr_busy)
		wake_up(&vol->idle);
}

/**
 * thin_busy_find - a range that keeps a work from beginning in any of [begin, end)
 * @vol: volume; lock held
 * @begin: first virtual block
 * @end: one past the last
 *
 * That of a discard first: it may be waiting for works itself, and who comes later comes
 * later.
 *
 * Return: the range or NULL.
 */
struct thin_busy *thin_busy_find(struct thin_vol *vol, u64 begin, u64 end)
{
	return find(&vol->unmapped, begin, end) ?: find(&vol->works, begin, end);
}

/**
 * thin_busy_add - claim [begin, end), which thin_busy_find() finds to be free, for a work
 * @vol: volume; lock held
 * @busy: the caller's, until thin_busy_release()
 * @begin: first virtual block
 * @end: one past the last
 */
void thin_busy_add(struct thin_vol *vol, struct thin_busy *busy, u64 begin, u64 end)
{
	lockdep_assert_held(&vol->lock);
	add(vol, &vol->works, busy, begin, end);
	WRITE_ONCE(vol->nr_works, vol->nr_works + 1);
}

/**
 * thin_busy_claim - claim [begin, end) for a work, or wait for who has a part of it
 * @vol: volume
 * @busy: as for thin_busy_add()
 * @begin: first virtual block
 * @end: one past the last
 * @bio: waits if need be, outside the epoch; not the caller's any more then
 *
 * Process context.
 *
 * Return: true when the range is claimed, false when @bio waits.
 */
bool thin_busy_claim(struct thin_vol *vol, struct thin_busy *busy, u64 begin, u64 end,
		     struct bio *bio)
{
	struct thin_busy *other;

	spin_lock_irq(&vol->lock);
	other = thin_busy_find(vol, begin, end);
	if (other)
		bio_list_add(&other->waiters, bio);
	else
		thin_busy_add(vol, busy, begin, end);
	spin_unlock_irq(&vol->lock);
	return !other;
}

/**
 * thin_busy_claim_discard - claim [begin, end) for a discard
 * @vol: volume
 * @d: the discard, its bio set; its turn in vol->discards comes when the works that are under
 *	way in the range have ended
 * @begin: first virtual block
 * @end: one past the last
 *
 * No work begins in the range from now on, or one or another would always be under way there
 * when there are many writers.  A discard that comes upon another waits behind it as a write
 * would: behind writes that have come before it.  As long as one does, so do all that come
 * after it, or a wide one would never find its range without others.  Process context.
 *
 * Return: true when the range is claimed, false when the bio waits.
 */
bool thin_busy_claim_discard(struct thin_vol *vol, struct thin_discard *d, u64 begin, u64 end)
{
	struct thin_busy *other;

	spin_lock_irq(&vol->lock);
	other = vol->before_discards ?: find(&vol->unmapped, begin, end);
	if (other) {
		bio_list_add(&other->waiters, d->bio);
		vol->before_discards = other;
	} else {
		add(vol, &vol->unmapped, &d->busy, begin, end);
		if (!find(&vol->works, begin, end))
			list_add_tail(&d->list, &vol->discards);
	}
	spin_unlock_irq(&vol->lock);
	return !other;
}

/* A work has ended: a discard that waited for no other has its turn. */
static void grant(struct thin_vol *vol, struct thin_busy *work)
{
	struct thin_busy *busy = find(&vol->unmapped, work->begin, work->end);

	if (!busy || find(&vol->works, busy->begin, busy->end))
		return;
	list_add_tail(&container_of(busy, struct thin_discard, busy)->list, &vol->discards);
	thin_vol_kick(vol);
}

static void release(struct thin_vol *vol, struct thin_busy *busy)
{
	rb_erase(&busy->node, &vol->works);
	grant(vol, busy);
	WRITE_ONCE(vol->nr_works, vol->nr_works - 1);
	/* Half of the room is free again; not only the worker ends works. */
	if (vol->crowded && vol->nr_works == THIN_MAX_WORKS / 2)
		thin_vol_kick(vol);
	count_out(vol);
}

/**
 * thin_busy_release - give the range of a work up
 * @vol: volume
 * @busy: the range
 * @waiters: gets the bios that waited for it
 *
 * The last release may let the closer of @vol go on, so the worker is still
 * waited for separately.
 */
void thin_busy_release(struct thin_vol *vol, struct thin_busy *busy, struct bio_list *waiters)
{
	spin_lock_irq(&vol->lock);
	bio_list_merge(waiters, &busy->waiters);
	bio_list_init(&busy->waiters);
	release(vol, busy);
	spin_unlock_irq(&vol->lock);
}

/**
 * thin_busy_release_discard - give the range of a discard up that has had its turn
 * @vol: volume
 * @d: the discard
 * @waiters: gets the bios that waited for it
 */
void thin_busy_release_discard(struct thin_vol *vol, struct thin_discard *d,
			       struct bio_list *waiters)
{
	spin_lock_irq(&vol->lock);
	bio_list_merge(waiters, &d->busy.waiters);
	list_del(&d->list);
	rb_erase(&d->busy.node, &vol->unmapped);
	if (vol->before_discards == &d->busy)
		vol->before_discards = NULL;
	/* The caller gives back what a parked one may need the memory of. */
	if (vol->crowded)
		thin_vol_kick(vol);
	count_out(vol);
	spin_unlock_irq(&vol->lock);
}

/**
 * thin_busy_next_waiter - a bio that waits for a work; give the range up if there is none
 * @vol: volume
 * @busy: the range; the caller's alone again after the last
 *
 * Return: the bio, outside the epoch, or NULL.
 */
struct bio *thin_busy_next_waiter(struct thin_vol *vol, struct thin_busy *busy)
{
	struct bio *bio;

	spin_lock_irq(&vol->lock);
	bio = bio_list_pop(&busy->waiters);
	if (!bio)
		release(vol, busy);
	spin_unlock_irq(&vol->lock);
	return bio;
}

/* ---- queues ---- */

/**
 * thin_vol_kick - let the worker look
 * @vol: volume
 *
 * Any context.
 */
void thin_vol_kick(struct thin_vol *vol)
{
	queue_work(vol->pool->wq, &vol->work);
}

/**
 * thin_vol_defer - give a bio to the worker
 * @vol: volume
 * @bio: its sector relative to the target, outside the epoch
 *
 * Any context.
 */
void thin_vol_defer(struct thin_vol *vol, struct bio *bio)
{
	unsigned long flags;

	thin_count(vol, THIN_DEFERRED);
	trace_thin_miss(vol, bio);
	spin_lock_irqsave(&vol->lock, flags);
	bio_list_add(&vol->deferred, bio);
	thin_vol_kick(vol);
	spin_unlock_irqrestore(&vol->lock, flags);
}

/**
 * thin_vol_defer_list - give bios to the worker that have waited; empties the list
 * @vol: volume
 * @bios: as in thin_vol_defer(); they go before those that are deferred or parked already
 */
void thin_vol_defer_list(struct thin_vol *vol, struct bio_list *bios)
{
	unsigned long flags;

	if (bio_list_empty(bios))
		return;
	spin_lock_irqsave(&vol->lock, flags);
	bio_list_merge(&vol->woken, bios);
	bio_list_init(bios);
	thin_vol_kick(vol);
	spin_unlock_irqrestore(&vol->lock, flags);
}

/*
 * While its target is being suspended without flushing, a bio that would have
 * to wait goes back to the core instead (behaviour 7.2).
 */
static void hold(struct thin_vol *vol, struct bio *bio, struct bio_list *list)
{
	unsigned long flags;
	bool requeue;

	spin_lock_irqsave(&vol->lock, flags);
	requeue = thin_requeues(thin_bio(bio)->tt);
	if (!requeue && list == &vol->fenced && !vol->fences) {
		/* The fence was lowered meanwhile. */
		list = &vol->woken;
		thin_vol_kick(vol);
	}
	if (!requeue)
		bio_list_add(list, bio);
	spin_unlock_irqrestore(&vol->lock, flags);
	if (requeue)
		thin_end_bio(bio, BLK_STS_DM_REQUEUE);
}

/**
 * thin_vol_hold - let a bio wait for data space
 * @vol: volume
 * @bio: as in thin_vol_defer()
 *
 * pool_recheck_held() wakes it at the latest.
 */
void thin_vol_hold(struct thin_vol *vol, struct bio *bio)
{
	thin_count(vol, THIN_NO_SPACE);
	hold(vol, bio, &vol->held);
}

/**
 * thin_vol_hold_fenced - let a write or discard wait until no snapshot is being made
 * @vol: volume
 * @bio: as in thin_vol_defer()
 */
void thin_vol_hold_fenced(struct thin_vol *vol, struct bio *bio)
{
	hold(vol, bio, &vol->fenced);
}

/**
 * thin_vol_fence - stand still for a snapshot
 * @pool: pool; tts_lock held until thin_vol_unfence()
 * @id: device id
 *
 * Returns when the writes that have found their data block are through.  Later
 * ones wait; they look up again after the fence, and so do those that wait for
 * a block in road 2.  Reads go on.
 *
 * Return: the volume, or NULL when no table has it open, which needs no fence.
 */
struct thin_vol *thin_vol_fence(struct pool *pool, u32 id)
{
	struct thin_vol *vol;

	lockdep_assert_held(&pool->tts_lock);
	list_for_each_entry(vol, &pool->vols, list) {
		if (vol->id != id)
			continue;
		spin_lock_irq(&vol->lock);
		WRITE_ONCE(vol->fences, vol->fences + 1);
		spin_unlock_irq(&vol->lock);
		/* Pairs with thin_epoch_enter_write(): who is not waited for sees the fence. */
		synchronize_srcu_expedited(&vol->srcu);
		return vol;
	}
	return NULL;
}

/**
 * thin_vol_unfence - undo thin_vol_fence()
 * @vol: volume
 */
void thin_vol_unfence(struct thin_vol *vol)
{
	spin_lock_irq(&vol->lock);
	/* Who sees no fence sees the snapshot. */
	smp_store_release(&vol->fences, vol->fences - 1);
	if (!vol->fences) {
		bio_list_merge(&vol->woken, &vol->fenced);
		bio_list_init(&vol->fenced);
		thin_vol_kick(vol);
	}
	spin_unlock_irq(&vol->lock);
}

static void take_own(struct bio_list *list, struct thin_target *tt, struct bio_list *mine)
{
	struct bio_list others;
	struct bio *bio;

	bio_list_init(&others);
	while ((bio = bio_list_pop(list)))
		bio_list_add(thin_bio(bio)->tt == tt ? mine : &others, bio);
	*list = others;
}

/**
 * thin_vol_requeue_held - a noflush suspend of one table begins
 * @tt: the table; bios of other tables of the id stay where they are
 */
void thin_vol_requeue_held(struct thin_target *tt)
{
	struct thin_vol *vol = tt->vol;
	struct bio_list mine;

	bio_list_init(&mine);
	spin_lock_irq(&vol->lock);
	WRITE_ONCE(tt->requeue, true);
	take_own(&vol->held, tt, &mine);
	take_own(&vol->fenced, tt, &mine);
	spin_unlock_irq(&vol->lock);
	thin_vol_end_list(&mine, BLK_STS_DM_REQUEUE);
}

/**
 * thin_vol_end_list - end all bios of a list, which becomes empty
 * @bios: the list
 * @status: their status
 */
void thin_vol_end_list(struct bio_list *bios, blk_status_t status)
{
	struct bio *bio;

	while ((bio = bio_list_pop(bios)))
		thin_end_bio(bio, status);
}

/* ---- the worker ---- */

static void sort_into(struct rb_root *root, struct bio *bio)
{
	struct rb_node **p = &root->rb_node, *parent = NULL;
	sector_t sector = bio->bi_iter.bi_sector;

	while (*p) {
		struct thin_bio *tb;

		parent = *p;
		tb = rb_entry(parent, struct thin_bio, node);
		if (sector < thin_bio_owner(tb)->bi_iter.bi_sector)
			p = &parent->rb_left;
		else
			p = &parent->rb_right;
	}
	rb_link_node(&thin_bio(bio)->node, parent, p);
	rb_insert_color(&thin_bio(bio)->node, root);
}

static void sort_out(struct rb_root *sorted, struct bio_list *unmaps, struct bio *bio)
{
	if (thin_bio(bio)->unmaps)
		bio_list_add(unmaps, bio);
	else
		sort_into(sorted, bio);
}

/*
 * Sort what is to be looked at now.  Those that have waited for a range or a fence are the
 * oldest; parked ones come again when half of the room is free, and no later write before
 * them.  What unmaps comes last: it has kept others waiting, who are to have their turn now.
 */
static void gather(struct thin_vol *vol, struct rb_root *sorted, struct bio_list *unmaps)
{
	unsigned int room = THIN_MAX_WORKS - min(READ_ONCE(vol->nr_works), THIN_MAX_WORKS);
	struct bio_list woken, bios;
	struct bio *bio;

	spin_lock_irq(&vol->lock);
	woken = vol->woken;
	bio_list_init(&vol->woken);
	bios = vol->deferred;
	bio_list_init(&vol->deferred);
	spin_unlock_irq(&vol->lock);

	while ((bio = bio_list_pop(&woken)))
		sort_out(sorted, unmaps, bio);
	if (room >= THIN_MAX_WORKS / 2)
		while (room-- && (bio = bio_list_pop(&vol->parked)))
			sort_out(sorted, unmaps, bio);
	while ((bio = bio_list_pop(&bios))) {
		if (op_is_write(bio_op(bio)) && !bio_list_empty(&vol->parked))
			bio_list_add(&vol->parked, bio);
		else
			sort_out(sorted, unmaps, bio);
	}
}

/* Have the metadata that several bios need read at the same time; each then waits for its own. */
static void read_together(struct thin_vol *vol, const struct rb_root *sorted)
{
	struct thin_map map;
	struct rb_node *n;

	for (n = rb_first(sorted); n; n = rb_next(n)) {
		struct bio *bio = thin_bio_owner(rb_entry(n, struct thin_bio, node));
		u64 vblock = pool_block(vol->pool, bio->bi_iter.bi_sector);

		if (thin_dev_find(vol->td, vblock, false, &map) == -EWOULDBLOCK)
			thin_dev_prefetch(vol->td, vblock);
	}
}

/* Return: true when some had to be parked for want of memory. */
static bool map_gathered(struct thin_vol *vol, struct list_head *works)
{
	struct rb_root sorted = RB_ROOT;
	struct bio_list bios, unmaps, again;
	bool short_of_memory = false;
	struct rb_node *n;
	struct bio *bio;
	int r;

	bio_list_init(&bios);
	bio_list_init(&unmaps);
	bio_list_init(&again);
	gather(vol, &sorted, &unmaps);
	if (rb_first(&sorted) != rb_last(&sorted))
		read_together(vol, &sorted);
	while ((n = rb_first(&sorted))) {
		struct thin_bio *tb = rb_entry(n, struct thin_bio, node);

		rb_erase(n, &sorted);
		bio_list_add(&bios, thin_bio_owner(tb));
	}
	bio_list_merge(&bios, &unmaps);
	while ((bio = bio_list_pop(&bios))) {
		/* What unmaps does not overtake a write either. */
		if (thin_bio(bio)->unmaps && !bio_list_empty(&again))
			r = -EBUSY;
		else
			r = thin_map_deferred(vol, bio, works);
		if (r)
			bio_list_add(&again, bio);
		short_of_memory |= r == -ENOMEM;
	}
	bio_list_merge_head(&vol->parked, &again);
	spin_lock_irq(&vol->lock);
	vol->crowded = !bio_list_empty(&vol->parked);
	spin_unlock_irq(&vol->lock);
	return short_of_memory;
}

static void work_on_vol(struct work_struct *ws)
{
	struct thin_vol *vol = container_of(ws, struct thin_vol, work);
	unsigned int noio = memalloc_noio_save();
	struct blk_plug plug;
	LIST_HEAD(works);
	bool more, short_of_memory;

	/* Lookups first: they do not wait for a commit to freeze, which changes do. */
	blk_start_plug(&plug);
	short_of_memory = map_gathered(vol, &works);
	/* What is here already gets its blocks before the stash does. */
	thin_provision_start(vol, &works);
	thin_provision_finish(vol, true);
	more = thin_discard_step(vol);
	blk_finish_plug(&plug);
	memalloc_noio_restore(noio);

	/* One step at a time, so that a long discard does not hold up writers. */
	if (more || (!short_of_memory && !bio_list_empty(&vol->parked) &&
		     READ_ONCE(vol->nr_works) <= THIN_MAX_WORKS / 2))
		thin_vol_kick(vol);
}

/* ---- life ---- */

static struct thin_vol *create(struct pool *pool, u32 id)
{
	struct thin_vol *vol = kzalloc(sizeof(*vol), GFP_KERNEL);
	int r;

	if (!vol)
		return ERR_PTR(-ENOMEM);
	vol->pool = pool;
	vol->id = id;
	vol->works = RB_ROOT;
	vol->unmapped = RB_ROOT;
	refcount_set(&vol->ref, 1);
	spin_lock_init(&vol->lock);
	bio_list_init(&vol->deferred);
	bio_list_init(&vol->woken);
	bio_list_init(&vol->held);
	bio_list_init(&vol->fenced);
	bio_list_init(&vol->parked);
	mutex_init(&vol->finish_lock);
	init_waitqueue_head(&vol->idle);
	INIT_LIST_HEAD(&vol->list);
	INIT_LIST_HEAD(&vol->done);
	INIT_LIST_HEAD(&vol->fills);
	INIT_LIST_HEAD(&vol->discards);
	INIT_LIST_HEAD(&vol->round_node);
	INIT_WORK(&vol->work, work_on_vol);
	INIT_WORK(&vol->filler, thin_front_filler);

	vol->counters = alloc_percpu(struct thin_counters);
	r = vol->counters ? compat_epoch_init(&vol->srcu) : -ENOMEM;
	if (r)
		goto free;
	r = thin_meta_open_dev(pool->tm, id, &vol->td);
	if (r)
		goto cleanup;

	spin_lock_irq(&pool->lock);
	list_add(&vol->list, &pool->vols);
	spin_unlock_irq(&pool->lock);
	return vol;

cleanup:
	cleanup_srcu_struct(&vol->srcu);
free:
	free_percpu(vol->counters);
	kfree(vol);
	return ERR_PTR(r);
}

/**
 * thin_vol_get - the record of a device id, for one more table
 * @pool: pool; tts_lock held
 * @id: device id
 *
 * Return: the volume, or ERR_PTR(): -ENODATA when there is no such device,
 * -ENOMEM, or what reading the metadata gave.
 */
struct thin_vol *thin_vol_get(struct pool *pool, u32 id)
{
	struct thin_vol *vol;

	lockdep_assert_held(&pool->tts_lock);
	list_for_each_entry(vol, &pool->vols, list) {
		if (vol->id == id) {
			vol->users++;
			return vol;
		}
	}
	vol = create(pool, id);
	if (!IS_ERR(vol))
		vol->users = 1;
	return vol;
}

/**
 * thin_vol_wait_idle - wait until no block and no range is in work
 * @vol: volume without bios
 */
void thin_vol_wait_idle(struct thin_vol *vol)
{
	wait_event(vol->idle, !READ_ONCE(vol->nr_busy) && !READ_ONCE(vol->plugs));
	flush_work(&vol->filler);
	flush_work(&vol->work);
}

/**
 * thin_vol_close - let go of the metadata
 * @vol: volume without bios; tts_lock held
 *
 * The id can be deleted afterwards.
 */
void thin_vol_close(struct thin_vol *vol)
{
	struct pool *pool = vol->pool;
	struct thin_dev *td = vol->td;

	lockdep_assert_held(&pool->tts_lock);
	if (!td)
		return;
	thin_vol_wait_idle(vol);
	cancel_work_sync(&vol->work);
	spin_lock_irq(&pool->lock);
	list_del_init(&vol->list);
	spin_unlock_irq(&pool->lock);
	thin_stash_return(vol);
	thin_stats_close(vol);
	/* A status method may be looking, inside an epoch. */
	WRITE_ONCE(vol->td, NULL);
	synchronize_srcu(&vol->srcu);
	thin_meta_close_dev(td);
}

/**
 * thin_vol_put - a table of the id goes
 * @vol: volume; tts_lock held
 */
void thin_vol_put(struct thin_vol *vol)
{
	if (--vol->users)
		return;
	thin_vol_close(vol);
	thin_vol_unref(vol);
}

/**
 * thin_vol_unref - drop a reference on the memory
 * @vol: volume
 *
 * May sleep.
 */
void thin_vol_unref(struct thin_vol *vol)
{
	if (!refcount_dec_and_test(&vol->ref))
		return;
	srcu_barrier(&vol->srcu);
	cleanup_srcu_struct(&vol->srcu);
	free_percpu(vol->counters);
	kfree(vol);
}
