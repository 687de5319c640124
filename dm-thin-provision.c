// SPDX-License-Identifier: GPL-2.0-only
/*
 * Road 2: first writes and copy-on-write.
 *
 * Most works begin in map (dm-thin-front.c).  What that leaves the worker gathers
 * (thin_provision_add()), reserves data blocks for all of it and starts the I/O
 * (thin_provision_start()): the bios themselves and, beside them, zeroes or copies of
 * what they leave of the block (dm-thin-fill.c).  Writes that come to the block
 * meanwhile go along where they can (thin_work_join()), or wait.  When all I/O of a
 * block has ended it comes back through vol->done; blocks that are ready together
 * are inserted together (thin_provision_finish()), and only then do their bios end,
 * and those go on that have waited.
 *
 * Invariants: a mapping is inserted only after its block holds what it must
 * hold.  A block that failed is given back only when its last I/O has ended.
 * Where a virtual block is mapped to is changed only by who has claimed it.
 * A copy stays inside the epoch it was looked up in, so its source stays
 * intact.  A work always has a bio, which keeps its target alive.
 */
#include "dm-thin.h"
#include "dm-thin-trace.h"

#include <linux/blk-crypto.h>
#include <linux/list_sort.h>
#include <linux/sched/mm.h>

/* Enough for each pool to make progress without memory. */
#define MIN_WORKS	128
/* Writes that may go along with a work that is under way. */
#define MAX_JOINED	256
/* How often the worker looks for more before others have their turn. */
#define MAX_ROUNDS	8

/* ---- the beginning ---- */

/**
 * thin_work_create - a work for the block that a write goes to
 * @bio: the write, within one block
 *
 * Does not wait.  The block is not claimed yet.
 *
 * Return: the work, or NULL when there is no memory.
 */
struct thin_work *thin_work_create(struct bio *bio)
{
	struct thin_target *tt = thin_bio(bio)->tt;
	struct thin_work *work = mempool_alloc(&tt->pool->work_mempool, GFP_NOWAIT | __GFP_NOWARN);

	if (!work)
		return NULL;
	work->vol = tt->vol;
	work->tt = tt;
	work->block = 0;
	work->reserved = false;
	work->expect = THIN_EXPECT_HOLE;
	work->epoch = COMPAT_NO_EPOCH;
	bio_list_init(&work->bios);
	work->from = pool_block_offset(tt->pool, bio->bi_iter.bi_sector);
	work->to = work->from + bio_sectors(bio);
	init_llist_head(&work->ended);
	work->urgency = bio->bi_opf & (REQ_SYNC | REQ_IDLE | REQ_META | REQ_PRIO);
	work->ioprio = bio->bi_ioprio;
	INIT_LIST_HEAD(&work->list);
	INIT_WORK(&work->zero_again, thin_fill_zero_again);
	work->joined = 0;
	work->filled = false;
	work->to_fill = false;
	work->failed = false;
	work->fill_failed = false;
	atomic_set(&work->pending, 1);
	return work;
}

/**
 * thin_work_free - undo thin_work_create()
 * @work: has claimed nothing
 */
void thin_work_free(struct thin_work *work)
{
	mempool_free(work, &work->vol->pool->work_mempool);
}

/**
 * thin_work_replace - a write needs a new block
 * @work: has claimed the virtual block
 * @bio: the write; leaves the epoch, unless @work needs it
 * @expect: data block that the virtual block is mapped to now, or THIN_EXPECT_HOLE
 */
void thin_work_replace(struct thin_work *work, struct bio *bio, u64 expect)
{
	struct thin_bio *tb = thin_bio(bio);

	work->expect = expect;
	/* A hole has no source to keep alive. */
	if (expect == THIN_EXPECT_HOLE) {
		thin_epoch_leave(work->vol, tb);
	} else {
		work->epoch = tb->epoch;
		tb->epoch = COMPAT_NO_EPOCH;
	}
}

/**
 * thin_provision_add - a write needs a block from thin_provision_start()
 * @work: as for thin_work_replace(); called by its volume's worker
 * @bio: likewise
 * @expect: likewise
 * @works: the work is added here
 */
void thin_provision_add(struct thin_work *work, struct bio *bio, u64 expect,
			struct list_head *works)
{
	thin_work_replace(work, bio, expect);
	bio_list_add(&work->bios, bio);
	list_add_tail(&work->list, works);
}

/**
 * thin_provision_join - a write goes with the one before it
 * @bio: the write; outside the epoch
 * @vblock: its virtual block
 * @works: of thin_provision_add(), not yet started
 *
 * What follows another write to a new block without a gap needs no lookup, and
 * need not wait for the mapping.
 *
 * Return: false when it does not follow the last that was added.
 */
bool thin_provision_join(struct bio *bio, u64 vblock, struct list_head *works)
{
	struct thin_work *work;

	if (list_empty(works))
		return false;
	work = list_last_entry(works, struct thin_work, list);
	/* Zeroes may fail for reasons that are no fault of the writes beside them. */
	if (bio_op(bio) != REQ_OP_WRITE || bio_op(work->bios.tail) != REQ_OP_WRITE)
		return false;
	if (work->busy.begin != vblock ||
	    pool_block_offset(work->vol->pool, bio->bi_iter.bi_sector) != work->to)
		return false;
	bio_list_add(&work->bios, bio);
	work->to += bio_sectors(bio);
	return true;
}

static void leave_epoch(struct thin_work *work)
{
	if (work->epoch != COMPAT_NO_EPOCH)
		compat_epoch_leave(&work->vol->srcu, work->epoch);
}

/* Ends the work; the bios that were not issued are in @bios. */
static void free_work(struct thin_work *work, struct bio_list *bios)
{
	bio_list_merge(bios, &work->bios);
	leave_epoch(work);
	thin_busy_release(work->vol, &work->busy, bios);
	thin_work_free(work);
}

/**
 * thin_work_drop - the block needs nothing after all
 * @work: has claimed it, and has no bio; called by its volume's worker
 */
void thin_work_drop(struct thin_work *work)
{
	struct thin_vol *vol = work->vol;
	struct bio_list bios;

	bio_list_init(&bios);
	free_work(work, &bios);
	thin_vol_defer_list(vol, &bios);
}

/* No block for these: their bios wait for space, or fail, as the mode says. */
static void give_up(struct thin_vol *vol, struct list_head *works, bool failed)
{
	struct pool *pool = vol->pool;
	struct thin_work *work, *tmp;
	struct bio_list bios;
	struct bio *bio;

	bio_list_init(&bios);
	list_for_each_entry_safe(work, tmp, works, list) {
		list_del(&work->list);
		free_work(work, &bios);
	}

	while ((bio = bio_list_pop(&bios))) {
		enum pool_mode mode = pool_mode(pool);

		if (failed || mode > PM_OUT_OF_DATA_SPACE)
			thin_end_bio(bio, pool_error_status(pool));
		else if (mode == PM_OUT_OF_DATA_SPACE &&
			 READ_ONCE(pool->features.error_if_no_space))
			thin_end_bio(bio, BLK_STS_NOSPC);
		else
			thin_vol_hold(vol, bio);
	}
}

/* ---- I/O ---- */

/**
 * thin_work_put - an I/O of a work has ended
 * @work: the work; goes to the worker with the last, or is left to a finisher
 *
 * Any context.
 */
void thin_work_put(struct thin_work *work)
{
	struct thin_vol *vol = work->vol;
	unsigned long flags;

	if (!atomic_dec_and_test(&work->pending))
		return;

	/* Kicked under the lock: as soon as it is dropped, the work may be gone. */
	spin_lock_irqsave(&vol->lock, flags);
	list_add_tail(&work->list, &vol->done);
	if (!thin_is_finisher(vol))
		thin_vol_kick(vol);
	spin_unlock_irqrestore(&vol->lock, flags);
}

/**
 * thin_provision_bio_done - a write to a new block has ended
 * @bio: the write
 * @status: its status
 *
 * Any context.
 */
void thin_provision_bio_done(struct bio *bio, blk_status_t status)
{
	struct thin_bio *tb = thin_bio(bio);
	struct thin_work *work = tb->work;

	tb->work = NULL;
	tb->status = status;
	/* One that would not wait comes again, but nothing else fills its place. */
	if (unlikely(status) && (status != BLK_STS_AGAIN || work->filled))
		WRITE_ONCE(work->failed, true);
	llist_add(&tb->ended, &work->ended);
	thin_work_put(work);
}

/**
 * thin_provision_fill_done - a part of a new block has been zeroed or copied
 * @work: the work; @pending was raised for the part
 * @failed: it has not
 *
 * Any context.
 */
void thin_provision_fill_done(struct thin_work *work, bool failed)
{
	if (unlikely(failed))
		WRITE_ONCE(work->fill_failed, true);
	thin_work_put(work);
}

/**
 * thin_work_take - point a write at the new block
 * @work: has a block; its @pending was raised for @bio
 * @bio: the write, which is then to be submitted
 */
void thin_work_take(struct thin_work *work, struct bio *bio)
{
	struct thin_bio *tb = thin_bio(bio);

	tb->work = work;
	tb->iter = bio->bi_iter;
	tb->keyed = bio_has_crypt_ctx(bio);
	if (tb->keyed)
		compat_save_dun(bio, &tb->dun);
	if (bio->bi_opf & REQ_FUA) {
		thin_count(work->vol, THIN_FLUSH_COMMIT);
		tb->durable = true;
		bio->bi_opf &= ~REQ_FUA;
	}
	pool_point_bio(work->vol->pool, bio, work->block);
}

/*
 * The rest of its block may be anything until it is filled; while that is still to
 * come, only a write that leaves no gap fits in.
 */
static bool fits(struct thin_work *work, struct bio *bio)
{
	sector_t from = pool_block_offset(work->vol->pool, bio->bi_iter.bi_sector);
	sector_t to = from + bio_sectors(bio);

	if (!work->to_fill)
		return true;
	if (from == work->to)
		work->to = to;
	else if (to == work->from)
		work->from = from;
	else
		return false;
	return true;
}

/**
 * thin_work_join - a write to a block that is being written for the first time
 * @busy: the block is in it; vol->lock held
 * @bio: the write, within the block
 *
 * Return: true when @bio is to be submitted to the new block, and ends with it.
 */
bool thin_work_join(struct thin_busy *busy, struct bio *bio)
{
	struct thin_work *work = container_of(busy, struct thin_work, busy);

	/* Pairs with thin_fill(). */
	if (!smp_load_acquire(&busy->open))
		return false;
	lockdep_assert_held(&work->vol->lock);
	/* The first ones are not to wait for ever for others. */
	if (work->joined == MAX_JOINED || !fits(work, bio))
		return false;
	if (!atomic_inc_not_zero(&work->pending)) {
		/* It waits for the worker, or is just being put there. */
		if (list_empty(&work->list))
			return false;
		list_del_init(&work->list);
		atomic_set(&work->pending, 1);
	}
	work->joined++;
	thin_work_take(work, bio);
	return true;
}

/**
 * thin_work_start - a block has been found, the first writes are taken
 * @work: the work
 *
 * Fills what they leave of the block.  Does not wait.
 */
void thin_work_start(struct thin_work *work)
{
	struct thin_vol *vol = work->vol;

	if (work->expect == THIN_EXPECT_HOLE) {
		thin_count(vol, THIN_FIRST_WRITE);
		trace_thin_first_write(vol, work->busy.begin, work->block, 1);
	} else {
		thin_count(vol, THIN_COPY);
		trace_thin_copy(vol, work->busy.begin, work->block, 1);
	}
	thin_fill(work);
	thin_work_put(work);
}

static void start_io(struct thin_work *work)
{
	struct bio_list bios = work->bios;
	struct bio *bio;

	bio_list_init(&work->bios);
	bio_list_for_each(bio, &bios) {
		atomic_inc(&work->pending);
		thin_work_take(work, bio);
	}
	thin_work_start(work);
	/* Each may be the last that held the work. */
	while ((bio = bio_list_pop(&bios)))
		dm_submit_bio_remap(bio, NULL);
}

static void start_with(struct thin_work *work, u64 block)
{
	list_del_init(&work->list);
	work->block = block;
	work->reserved = true;
	start_io(work);
}

/**
 * thin_provision_start - reserve blocks for all gathered works and start them
 * @vol: volume; called by its worker
 * @works: from thin_provision_add(), in order of virtual block; becomes empty
 */
void thin_provision_start(struct thin_vol *vol, struct list_head *works)
{
	struct pool *pool = vol->pool;
	struct thin_work *work, *tmp;
	u64 begin, len, want = 0;
	bool tried_again = false;
	int r;

	list_for_each_entry_safe(work, tmp, works, list) {
		if (!want && thin_stash_take(vol, work->busy.begin, &begin))
			start_with(work, begin);
		else
			want++;
	}

	while (want) {
		pool_check_data_low_water(pool, want);
		r = thin_meta_alloc_data(pool->tm, want, &begin, &len);
		/* Others may have returned theirs since. */
		if (r == -ENOSPC && (thin_stash_return_all(pool) || !tried_again)) {
			tried_again = true;
			continue;
		}
		if (r == -ENOSPC) {
			pool_no_data_space(pool);
			give_up(vol, works, false);
			return;
		}
		if (r == -ENOMEM && !thin_meta_rolled_back(pool->tm)) {
			/* The pool's waker tries again. */
			give_up(vol, works, false);
			return;
		}
		if (r) {
			pool_metadata_failed(pool, "allocation of data blocks", r);
			/* Refused in a mode that may be over: the one that is now decides. */
			give_up(vol, works, r != -EPERM);
			return;
		}
		pool_space_found(pool);
		tried_again = false;
		want -= len;
		while (len--)
			start_with(list_first_entry(works, struct thin_work, list), begin++);
	}
}

/* ---- the end ---- */

static void unreserve(struct thin_work *work)
{
	if (work->reserved)
		thin_meta_unreserve_data(work->vol->pool->tm, work->block, 1);
	work->reserved = false;
}

/* A bio that the block was written by; each is seen once, the last that ended first. */
static struct bio *next_ended(struct llist_node **node)
{
	struct thin_bio *tb;

	if (!*node)
		return NULL;
	tb = llist_entry(*node, struct thin_bio, ended);
	*node = (*node)->next;
	return thin_bio_owner(tb);
}

/*
 * Undo thin_work_take() for a bio that has ended and is to be submitted again.  It has
 * waited already.  Return: false when what it needs for that is gone.
 */
static bool untake(struct bio *bio)
{
	struct thin_bio *tb = thin_bio(bio);

	bio->bi_iter = tb->iter;
	bio->bi_opf &= ~REQ_NOWAIT;
	/* As many as when it came: it may have been split below. */
	atomic_set(&bio->__bi_remaining, 1);
	if (tb->durable)
		bio->bi_opf |= REQ_FUA;
	tb->durable = false;
	if (!tb->keyed)
		return true;
	/* Some kernels drop the key when a bio ends. */
	if (!bio_has_crypt_ctx(bio))
		return false;
	compat_restore_dun(bio, &tb->dun);
	return true;
}

/*
 * The block is thrown away, and what was written to it lost.  A bio that failed
 * itself knows better what happened.  The others share the fate, or start again
 * where they may fare better.
 */
static void fail(struct thin_work *work, blk_status_t status, bool again)
{
	struct thin_vol *vol = work->vol;
	struct llist_node *ended = llist_del_all(&work->ended);
	struct bio_list bios;
	struct bio *bio;

	bio_list_init(&bios);
	while ((bio = next_ended(&ended))) {
		blk_status_t own = thin_bio(bio)->status;

		if (untake(bio) && again && !own)
			bio_list_add(&bios, bio);
		else
			thin_end_bio(bio, own ?: status);
	}
	unreserve(work);
	free_work(work, &bios);
	while ((bio = bio_list_pop(&bios))) {
		if (again)
			thin_vol_defer(vol, bio);
		else
			thin_end_bio(bio, status);
	}
}

/* Mapped: the bios go on.  The range stays busy until all of them are on their way. */
static void complete_work(struct thin_work *work)
{
	struct thin_vol *vol = work->vol;
	struct llist_node *ended = llist_reverse_order(llist_del_all(&work->ended));
	struct bio_list later;
	struct bio *bio;

	if (work->to - work->from == vol->pool->block_sectors)
		thin_count(vol, THIN_OVERWRITE);
	bio_list_init(&later);
	while ((bio = next_ended(&ended))) {
		bool durable = thin_bio(bio)->durable;

		thin_bio(bio)->durable = false;
		if (durable && !thin_bio(bio)->status)
			pool_commit_bio(vol->pool, bio);
		else
			thin_end_bio(bio, thin_bio(bio)->status);
	}
	while ((bio = thin_busy_next_waiter(vol, &work->busy))) {
		if (!thin_map_again(vol, bio, work->block))
			bio_list_add(&later, bio);
	}
	leave_epoch(work);
	thin_work_free(work);
	thin_vol_defer_list(vol, &later);
}

static int by_block(void *priv, const struct list_head *a, const struct list_head *b)
{
	const struct thin_work *x = list_entry(a, struct thin_work, list);
	const struct thin_work *y = list_entry(b, struct thin_work, list);

	return x->busy.begin < y->busy.begin ? -1 : 1;
}

/* Insert what there is room for; works that have to wait for a commit stay in @batch. */
static unsigned int insert_some(struct thin_vol *vol, struct thin_work **batch, unsigned int nr)
{
	struct pool *pool = vol->pool;
	unsigned int i, left = 0;
	int r;

	for (i = 0; i < nr; i++) {
		vol->ins[i].vblock = batch[i]->busy.begin;
		vol->ins[i].block = batch[i]->block;
		vol->ins[i].expect = batch[i]->expect;
		vol->ins[i].status = 0;
	}
	r = thin_dev_insert(vol->td, vol->ins, nr);
	if (r)
		pool_metadata_failed(pool, "insertion of mappings", r);
	/* Refused in a mode that is over. */
	if (r == -EPERM && pool_mode(pool) <= PM_OUT_OF_DATA_SPACE)
		return nr;
	for (i = 0; i < nr; i++) {
		if (r) {
			fail(batch[i], pool_error_status(pool), false);
		} else if (vol->ins[i].status == -EAGAIN) {
			batch[left++] = batch[i];
		} else if (vol->ins[i].status) {
			/* Nobody else maps this range, so somebody who should not has. */
			DMERR_LIMIT("%s: block %llu of device %u has changed under a write",
				    dm_device_name(pool->md), batch[i]->busy.begin, vol->id);
			fail(batch[i], BLK_STS_IOERR, true);
		} else {
			batch[i]->reserved = false;
			complete_work(batch[i]);
		}
	}
	return left;
}

/* Leave it to the worker. */
static void put_back(struct thin_vol *vol, struct thin_work **batch, unsigned int nr)
{
	spin_lock_irq(&vol->lock);
	while (nr--)
		list_add(&batch[nr]->list, &vol->done);
	thin_vol_kick(vol);
	spin_unlock_irq(&vol->lock);
}

static void insert_batch(struct thin_vol *vol, struct thin_work **batch, unsigned int nr,
			 bool may_commit)
{
	struct pool *pool = vol->pool;
	unsigned int i;

	/*
	 * Metadata is short when some are left: a commit makes what the open
	 * transaction has freed available, or tells that there is nothing.
	 */
	while ((nr = insert_some(vol, batch, nr))) {
		if (!may_commit) {
			put_back(vol, batch, nr);
			break;
		}
		if (!pool_commit(pool) && pool_mode(pool) <= PM_OUT_OF_DATA_SPACE)
			continue;
		for (i = 0; i < nr; i++)
			fail(batch[i], pool_error_status(pool), false);
		break;
	}
	pool_after_change(pool);
}

static void finish(struct thin_vol *vol, bool may_commit)
{
	struct thin_work *batch[THIN_INSERT_BATCH];
	struct thin_work *work, *tmp;
	unsigned int nr = 0;
	LIST_HEAD(done);

	lockdep_assert_held(&vol->finish_lock);
	spin_lock_irq(&vol->lock);
	list_for_each_entry(work, &vol->done, list)
		work->busy.open = false;
	list_splice_init(&vol->done, &done);
	spin_unlock_irq(&vol->lock);
	if (list_empty(&done))
		return;

	list_sort(NULL, &done, by_block);
	list_for_each_entry_safe(work, tmp, &done, list) {
		list_del_init(&work->list);
		if (work->failed || work->fill_failed) {
			fail(work, pool_error_status(vol->pool), !work->fill_failed);
			continue;
		}
		batch[nr++] = work;
		if (nr == THIN_INSERT_BATCH) {
			insert_batch(vol, batch, nr, may_commit);
			nr = 0;
		}
	}
	if (nr)
		insert_batch(vol, batch, nr, may_commit);
}

/**
 * thin_provision_finish - map the blocks whose I/O has ended
 * @vol: volume
 * @may_commit: wait for a commit if metadata is short; else the worker does it
 *
 * Process context.  Waits for nobody else who does the same: they look again.
 */
void thin_provision_finish(struct thin_vol *vol, bool may_commit)
{
	unsigned int noio = memalloc_noio_save(), rounds = 0;

	WRITE_ONCE(vol->to_finish, true);
	do {
		/* Set before the lock is tried: who holds it sees it when he has let go. */
		smp_mb();
		if (!mutex_trylock(&vol->finish_lock))
			break;
		WRITE_ONCE(vol->to_finish, false);
		/* Cleared before looking: who sets it from now on is seen below. */
		smp_mb();
		finish(vol, may_commit);
		thin_stash_fill(vol);
		mutex_unlock(&vol->finish_lock);
		/* Let go before it is looked at: pairs with the first. */
		smp_mb();
	} while (may_commit && READ_ONCE(vol->to_finish) && ++rounds < MAX_ROUNDS);
	/* Both have other things to do than to finish what others submit. */
	if ((!may_commit || rounds == MAX_ROUNDS) && READ_ONCE(vol->to_finish))
		thin_vol_kick(vol);
	memalloc_noio_restore(noio);
}

/* ---- life ---- */

/**
 * thin_provision_init - what road 2 needs in a pool
 * @pool: pool being made
 *
 * Return: 0 or a negative errno.
 */
int thin_provision_init(struct pool *pool)
{
	int r = mempool_init_kmalloc_pool(&pool->work_mempool, MIN_WORKS,
					  sizeof(struct thin_work));

	if (r)
		return r;
	r = thin_fill_init(pool);
	if (r)
		mempool_exit(&pool->work_mempool);
	return r;
}

/**
 * thin_provision_exit - undo thin_provision_init()
 * @pool: pool without works
 */
void thin_provision_exit(struct pool *pool)
{
	if (!mempool_initialized(&pool->work_mempool))
		return;
	thin_fill_exit(pool);
	mempool_exit(&pool->work_mempool);
}
