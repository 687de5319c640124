// SPDX-License-Identifier: GPL-2.0-only
/*
 * What a new block holds beside the bios that are written to it: zeroes, or a
 * copy of what was there before.
 *
 * The bios of a work leave at most a head and a tail of the block; these are
 * filled by who submitted a batch of bios when it is complete, and by a thread of
 * pool->fill_wq beside.  A copy is one read and then one write for each part.
 * kcopyd does what is large, what is to be throttled and what finds no memory here:
 * it has a reserve, cuts into pieces and takes its time, but each of its jobs passes
 * through its one thread more than once.
 *
 * Invariants: whatever is started here counts as one I/O of its work, which ends
 * by thin_provision_fill_done(); buffers belong to their copy until then.  Who sleeps
 * here does so for bios that go to the data device, which come back by themselves;
 * a read of an external origin may need a worker first.
 */
#include "dm-thin.h"

#include <linux/gfp.h>
#include <linux/mm.h>
#include <linux/module.h>
#include <linux/sched/mm.h>
#include <linux/slab.h>

DECLARE_DM_KCOPYD_THROTTLE_WITH_MODULE_PARM(snapshot_copy_throttle,
					    "Share of the time, in percent, for copies and zeroes");

/* Copies of more are kcopyd's. */
#define MAX_COPY		((512U << 10) >> SECTOR_SHIFT)
/* So is what would take more than this for buffers, in all copies of a pool. */
#define MAX_BUFFERS		((8U << 20) >> SECTOR_SHIFT)

struct part {
	sector_t from;
	sector_t to;
};

/*
 * One copy: the sectors from @begin on of the block are read to @pages; the @nr
 * parts of them are written.  @pending is first for the read and who submits
 * it: the last of both sees to the writes, so that nothing is submitted from where
 * the read ends.  @status is the read's until it has ended, then any failed write's.
 */
struct thin_copy {
	struct work_struct write;
	struct thin_work *work;
	struct page *pages;
	unsigned int order;
	sector_t begin;
	unsigned int nr;
	struct bio read;
	struct bio first_write;
	struct bio second_write;
	struct bio_vec vecs[3];
	atomic_t pending;
	blk_status_t status;
};

/* The head and the tail of [begin, end) that the bios of a work leave; how many there are. */
static unsigned int parts_of(const struct thin_work *work, sector_t begin, sector_t end,
			     struct part *parts)
{
	unsigned int nr = 0;

	if (begin < min(work->from, end))
		parts[nr++] = (struct part){ begin, min(work->from, end) };
	if (max(work->to, begin) < end)
		parts[nr++] = (struct part){ max(work->to, begin), end };
	return nr;
}

static bool is_throttled(void)
{
	return READ_ONCE(dm_kcopyd_throttle.throttle) < 100;
}

static sector_t new_sector(const struct thin_work *work, sector_t offset)
{
	return pool_block_sector(work->vol->pool, work->block) + offset;
}

/* Where the old contents of a block are, and how many sectors; NULL when it has none. */
static struct block_device *source_of(const struct thin_work *work, sector_t *sector,
				      sector_t *len)
{
	const struct thin_target *tt = work->tt;
	struct pool *pool = tt->pool;

	*len = pool->block_sectors;
	if (work->expect != THIN_EXPECT_HOLE) {
		*sector = pool_block_sector(pool, work->expect);
		return pool->data_bdev;
	}
	*sector = pool_block_sector(pool, work->busy.begin);
	if (tt->origin_dev && *sector < tt->origin_len) {
		*len = min(*len, tt->origin_len - *sector);
		return tt->origin_dev->bdev;
	}
	*len = 0;
	return NULL;
}

/* First sector that must become zero, if the bios leave it; the block's end when none must. */
static sector_t zeroes_begin(const struct thin_work *work)
{
	struct pool *pool = work->vol->pool;
	sector_t sector, len;

	/* Behind an external origin it reads as zeroes, and must go on doing so. */
	if (source_of(work, &sector, &len) || pool->features.zero_new_blocks)
		return len;
	return pool->block_sectors;
}

static unsigned int zero_parts(const struct thin_work *work, struct part *parts)
{
	return parts_of(work, zeroes_begin(work), work->vol->pool->block_sectors, parts);
}

/* It serves the bios, and is as urgent as they are. */
static void set_urgency(struct bio *bio, const struct thin_work *work)
{
	bio->bi_opf |= work->urgency;
	bio->bi_ioprio = work->ioprio;
}

/* ---- kcopyd ---- */

static void kcopyd_done(int read_err, unsigned long write_err, void *context)
{
	thin_provision_fill_done(context, read_err || write_err);
}

/* A device may claim that it can zero by itself until it is asked to: then it is written to. */
static void refused_zeroes(struct thin_work *work)
{
	atomic_inc(&work->pending);
	if (!queue_work(work->vol->pool->fill_wq, &work->zero_again))
		thin_provision_fill_done(work, false);
}

static void kcopyd_zeroed(int read_err, unsigned long write_err, void *context)
{
	if (write_err)
		refused_zeroes(context);
	thin_provision_fill_done(context, false);
}

static void by_kcopyd(struct thin_work *work, struct block_device *bdev, sector_t sector,
		      const struct part *parts, unsigned int nr)
{
	struct pool *pool = work->vol->pool;

	for (; nr--; parts++) {
		sector_t len = parts->to - parts->from;
		struct dm_io_region from = { bdev, sector + parts->from, len };
		struct dm_io_region to = { pool->data_bdev, new_sector(work, parts->from), len };

		atomic_inc(&work->pending);
		if (bdev)
			dm_kcopyd_copy(pool->copier, &from, 1, &to, 0, kcopyd_done, work);
		else
			dm_kcopyd_zero(pool->copier, 1, &to, 0, kcopyd_zeroed, work);
	}
}

/* ---- zeroes ---- */

static void zeroed(struct bio *bio)
{
	struct thin_work *work = bio->bi_private;
	bool refused = bio->bi_status && bio_op(bio) == REQ_OP_WRITE_ZEROES;
	bool failed = bio->bi_status && !refused;

	bio_put(bio);
	if (refused)
		refused_zeroes(work);
	thin_provision_fill_done(work, failed);
}

/* Zeroes from @at up to @end, or as many as a bio holds. */
static struct bio *zero_bio(struct thin_work *work, sector_t at, sector_t end, enum req_op op)
{
	struct pool *pool = work->vol->pool;
	const sector_t most = PAGE_SECTORS;
	unsigned int nr = min_t(sector_t, DIV_ROUND_UP(end - at, most), BIO_MAX_VECS);
	struct bio *bio = bio_alloc_bioset(pool->data_bdev, op == REQ_OP_WRITE ? nr : 0, op,
					   GFP_NOIO, &pool->fill_bios);

	bio->bi_iter.bi_sector = new_sector(work, at);
	bio->bi_private = work;
	bio->bi_end_io = zeroed;
	set_urgency(bio, work);
	if (op == REQ_OP_WRITE_ZEROES) {
		bio->bi_iter.bi_size = (end - at) << SECTOR_SHIFT;
		return bio;
	}
	for (; nr--; at += min(end - at, most))
		__bio_add_page(bio, ZERO_PAGE(0), min(end - at, most) << SECTOR_SHIFT, 0);
	return bio;
}

static void zero(struct thin_work *work, const struct part *parts, unsigned int nr,
		 enum req_op op)
{
	for (; nr--; parts++) {
		sector_t at = parts->from;

		while (at < parts->to) {
			struct bio *bio = zero_bio(work, at, parts->to, op);

			at += bio_sectors(bio);
			atomic_inc(&work->pending);
			submit_bio(bio);
		}
	}
}

/* ---- copies ---- */

/* No array: on some kernels a bio ends in one of any length. */
static struct bio *write_of(struct thin_copy *copy, unsigned int part)
{
	return part ? &copy->second_write : &copy->first_write;
}

static int buffer_sectors(const struct thin_copy *copy)
{
	return (PAGE_SIZE << copy->order) >> SECTOR_SHIFT;
}

static void free_copy(struct thin_copy *copy)
{
	__free_pages(copy->pages, copy->order);
	kfree(copy);
}

/* Large enough for all copies of the pool. */
static unsigned int spare_order(const struct pool *pool)
{
	return get_order(min_t(sector_t, pool->block_sectors, MAX_COPY) << SECTOR_SHIFT);
}

/* The last one is still in the processor's cache. */
static struct thin_copy *take_spare(struct pool *pool)
{
	struct thin_copy *copy = NULL;
	unsigned int i;

	for (i = 0; i < ARRAY_SIZE(pool->spare_copies) && !copy; i++)
		if (READ_ONCE(pool->spare_copies[i]))
			copy = xchg(&pool->spare_copies[i], NULL);
	return copy;
}

static void keep_spare(struct pool *pool, struct thin_copy *copy)
{
	unsigned int i;

	for (i = 0; i < ARRAY_SIZE(pool->spare_copies) && copy->order == spare_order(pool); i++)
		if (!cmpxchg(&pool->spare_copies[i], NULL, copy))
			return;
	free_copy(copy);
}

static void end_copy(struct thin_copy *copy)
{
	struct thin_work *work = copy->work;
	struct pool *pool = work->vol->pool;
	bool failed = copy->status;

	atomic_sub(buffer_sectors(copy), &pool->fill_sectors);
	bio_uninit(&copy->read);
	while (copy->nr)
		bio_uninit(write_of(copy, --copy->nr));
	keep_spare(pool, copy);
	thin_provision_fill_done(work, failed);
}

static void copy_written(struct bio *bio)
{
	struct thin_copy *copy = bio->bi_private;

	if (bio->bi_status)
		WRITE_ONCE(copy->status, bio->bi_status);
	if (atomic_dec_and_test(&copy->pending))
		end_copy(copy);
}

static void write_copy(struct work_struct *ws)
{
	struct thin_copy *copy = container_of(ws, struct thin_copy, write);
	unsigned int i, nr = copy->nr;

	if (copy->status) {
		end_copy(copy);
		return;
	}
	atomic_set(&copy->pending, nr);
	for (i = 0; i < nr; i++)
		submit_bio(write_of(copy, i));
}

static void copy_read(struct bio *bio)
{
	struct thin_copy *copy = bio->bi_private;

	copy->status = bio->bi_status;
	if (atomic_dec_and_test(&copy->pending))
		queue_work(copy->work->vol->pool->fill_wq, &copy->write);
}

static void init_copy_bio(struct thin_copy *copy, struct bio *bio, struct bio_vec *vec,
			  struct block_device *bdev, sector_t sector, const struct part *part,
			  enum req_op op)
{
	unsigned int offset = (part->from - copy->begin) << SECTOR_SHIFT;

	bio_init(bio, bdev, vec, 1, op);
	set_urgency(bio, copy->work);
	bio->bi_iter.bi_sector = sector;
	bio->bi_private = copy;
	bio->bi_end_io = op == REQ_OP_READ ? copy_read : copy_written;
	__bio_add_page(bio, copy->pages + (offset >> PAGE_SHIFT),
		       (part->to - part->from) << SECTOR_SHIFT, offset_in_page(offset));
}

/* What a full memory cannot give at once is not worth any effort. */
static struct thin_copy *alloc_copy(unsigned int order)
{
	struct thin_copy *copy = kmalloc(sizeof(*copy), GFP_NOWAIT | __GFP_NOWARN);

	if (!copy)
		return NULL;
	copy->order = order;
	copy->pages = alloc_pages(__GFP_NOWARN | __GFP_COMP, order);
	if (copy->pages)
		return copy;
	kfree(copy);
	return NULL;
}

/* Return: NULL when it is too much, or there is no memory. */
static struct thin_copy *new_copy(struct thin_work *work, sector_t from, sector_t to)
{
	struct pool *pool = work->vol->pool;
	struct thin_copy *copy;

	if (to - from > MAX_COPY || atomic_read(&pool->fill_sectors) >= MAX_BUFFERS)
		return NULL;
	copy = take_spare(pool) ?: alloc_copy(spare_order(pool)) ?:
	       alloc_copy(get_order((to - from) << SECTOR_SHIFT));
	if (!copy)
		return NULL;
	INIT_WORK(&copy->write, write_copy);
	copy->work = work;
	copy->begin = from;
	atomic_add(buffer_sectors(copy), &pool->fill_sectors);
	return copy;
}

/* Return: false when it is too much, or there is no memory. */
static bool copy(struct thin_work *work, struct block_device *bdev, sector_t sector,
		 sector_t end, const struct part *parts, unsigned int nr)
{
	struct pool *pool = work->vol->pool;
	sector_t unit = bdev_logical_block_size(bdev) >> SECTOR_SHIFT;
	/* An external origin may be coarser than the bios. */
	struct part whole = {
		.from = round_down(parts[0].from, unit),
		.to = min(round_up(parts[nr - 1].to, unit), end),
	};
	struct thin_copy *copy = new_copy(work, whole.from, whole.to);
	unsigned int i;

	if (!copy)
		return false;
	copy->nr = nr;
	for (i = 0; i < nr; i++)
		init_copy_bio(copy, write_of(copy, i), &copy->vecs[i], pool->data_bdev,
			      new_sector(work, parts[i].from), &parts[i], REQ_OP_WRITE);
	init_copy_bio(copy, &copy->read, &copy->vecs[2], bdev, sector + whole.from, &whole,
		      REQ_OP_READ);

	atomic_inc(&work->pending);
	atomic_set(&copy->pending, 2);
	submit_bio(&copy->read);
	if (atomic_dec_and_test(&copy->pending))
		write_copy(&copy->write);
	return true;
}

/* ---- both ---- */

static void fill(struct thin_work *work)
{
	struct block_device *bdev;
	sector_t sector, len;
	struct part parts[2];
	unsigned int nr;

	bdev = source_of(work, &sector, &len);
	nr = parts_of(work, 0, len, parts);
	if (nr && (is_throttled() || !copy(work, bdev, sector, len, parts, nr)))
		by_kcopyd(work, bdev, sector, parts, nr);
	nr = zero_parts(work, parts);
	if (is_throttled())
		by_kcopyd(work, NULL, 0, parts, nr);
	else
		zero(work, parts, nr, bdev_write_zeroes_sectors(work->vol->pool->data_bdev) ?
				      REQ_OP_WRITE_ZEROES : REQ_OP_WRITE);
	thin_provision_fill_done(work, false);
}

/**
 * thin_fill_zero_again - the data device has refused to zero
 * @ws: of a work, on pool->fill_wq
 *
 * All parts once more: that does no harm, the bios are not there.
 */
void thin_fill_zero_again(struct work_struct *ws)
{
	struct thin_work *work = container_of(ws, struct thin_work, zero_again);
	unsigned int noio = memalloc_noio_save();
	struct part parts[2];

	zero(work, parts, zero_parts(work, parts), REQ_OP_WRITE);
	thin_provision_fill_done(work, false);
	memalloc_noio_restore(noio);
}

/* From now on it is settled what the bios write. */
static struct thin_work *next_fill(struct thin_vol *vol)
{
	struct thin_work *work;

	spin_lock_irq(&vol->lock);
	work = list_first_entry_or_null(&vol->fills, struct thin_work, list);
	if (work) {
		list_del_init(&work->list);
		work->to_fill = false;
		work->busy.open = false;
	}
	spin_unlock_irq(&vol->lock);
	return work;
}

/**
 * thin_fill_some - give new blocks of a volume what their bios leave of them
 * @vol: volume
 * @most: blocks
 *
 * Process context.  Several may do it at a time.
 */
void thin_fill_some(struct thin_vol *vol, unsigned int most)
{
	unsigned int noio = memalloc_noio_save();
	struct thin_work *work;

	while (most-- && (work = next_fill(vol))) {
		fill(work);
		cond_resched();
	}
	memalloc_noio_restore(noio);
}

/**
 * thin_fill - have a new block filled, if it needs that
 * @work: has a block; its first bios' sectors and what it replaces are known
 *
 * Opens it to further writes.  Any context.
 */
void thin_fill(struct thin_work *work)
{
	struct thin_vol *vol = work->vol;
	struct pool *pool = vol->pool;
	sector_t sector, len;
	struct part parts[2];
	unsigned long flags;

	work->filled = source_of(work, &sector, &len) || zeroes_begin(work) < pool->block_sectors;
	work->to_fill = parts_of(work, 0, len, parts) || zero_parts(work, parts);
	if (!work->to_fill) {
		/* Who joins sees all that came before; from here on others change it. */
		smp_store_release(&work->busy.open, true);
		return;
	}
	atomic_inc(&work->pending);
	spin_lock_irqsave(&vol->lock, flags);
	work->busy.open = true;
	list_add_tail(&work->list, &vol->fills);
	if (!thin_is_finisher(vol))
		queue_work(pool->fill_wq, &vol->filler);
	spin_unlock_irqrestore(&vol->lock, flags);
}

/**
 * thin_fill_init - what filling needs in a pool
 * @pool: pool being made
 *
 * Return: 0 or a negative errno.
 */
int thin_fill_init(struct pool *pool)
{
	int r = bioset_init(&pool->fill_bios, BIO_POOL_SIZE, 0, BIOSET_NEED_BVECS);

	if (r)
		return r;
	pool->fill_wq = alloc_workqueue("dm-thin-fill", WQ_MEM_RECLAIM | WQ_UNBOUND,
					num_possible_cpus());
	if (!pool->fill_wq) {
		thin_fill_exit(pool);
		return -ENOMEM;
	}
	pool->copier = dm_kcopyd_client_create(&dm_kcopyd_throttle);
	r = PTR_ERR_OR_ZERO(pool->copier);
	if (r) {
		pool->copier = NULL;
		thin_fill_exit(pool);
	}
	return r;
}

/**
 * thin_fill_exit - undo thin_fill_init()
 * @pool: pool without works
 */
void thin_fill_exit(struct pool *pool)
{
	unsigned int i;

	for (i = 0; i < ARRAY_SIZE(pool->spare_copies); i++)
		if (pool->spare_copies[i])
			free_copy(pool->spare_copies[i]);
	if (pool->copier)
		dm_kcopyd_client_destroy(pool->copier);
	if (pool->fill_wq)
		destroy_workqueue(pool->fill_wq);
	bioset_exit(&pool->fill_bios);
}
