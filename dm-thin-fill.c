// SPDX-License-Identifier: GPL-2.0-only
/*
 * What a new block holds beside the bios that are written to it: zeroes, or a
 * copy of what was there before.
 *
 * The bios of a work leave at most a head and a tail of the block; these are
 * filled while the bios are on their way.  A copy is one read and then one write
 * for each part, which the worker issues (thin_fill_go_on()).  kcopyd copies what
 * is large, what is to be throttled and what finds no memory here: it has a
 * reserve, cuts into pieces and takes its time, but each of its jobs passes through
 * its thread more than once.  It zeroes everything, beside the worker rather than
 * in it; only where the device refuses are zeroes written from here.
 *
 * Invariants: whatever is started here counts as one I/O of its work, which ends
 * by thin_provision_fill_done(); buffers belong to their copy until then.  The
 * worker sleeps only for bios that go to the data device, which come back by
 * themselves; a read of an external origin may need the worker first.
 */
#include "dm-thin.h"

#include <linux/gfp.h>
#include <linux/mm.h>
#include <linux/module.h>
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
 * parts of them are written.  @list is under vol->lock.  @status is the read's
 * until the worker has it, then any failed write's; who brings @pending to zero
 * reads it.
 */
struct thin_copy {
	struct list_head list;
	struct thin_work *work;
	struct page *pages;
	unsigned int order;
	sector_t begin;
	unsigned int nr;
	struct part parts[2];
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

static void zero_again(struct thin_work *work);

/* A device may claim that it can zero by itself until it is asked to: then it is written to. */
static void kcopyd_zeroed(int read_err, unsigned long write_err, void *context)
{
	if (write_err)
		zero_again(context);
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
	bool failed = bio->bi_status;

	bio_put(bio);
	thin_provision_fill_done(work, failed);
}

static void zero_part(struct thin_work *work, const struct part *part)
{
	struct pool *pool = work->vol->pool;
	sector_t most = PAGE_SECTORS, at = part->from;

	while (at < part->to) {
		sector_t end = min(part->to, at + most * BIO_MAX_VECS);
		struct bio *bio = bio_alloc_bioset(pool->data_bdev, DIV_ROUND_UP(end - at, most),
						   REQ_OP_WRITE, GFP_NOIO, &pool->fill_bios);

		bio->bi_iter.bi_sector = new_sector(work, at);
		bio->bi_private = work;
		bio->bi_end_io = zeroed;
		set_urgency(bio, work);
		for (; at < end; at += min(end - at, most))
			__bio_add_page(bio, ZERO_PAGE(0), min(end - at, most) << SECTOR_SHIFT, 0);
		atomic_inc(&work->pending);
		submit_bio(bio);
	}
}

/* Where the zeroes of a hole's new block begin: behind the end of an external origin. */
static sector_t zeroes_begin(const struct thin_work *work)
{
	const struct thin_target *tt = work->tt;
	sector_t begin = pool_block_sector(work->vol->pool, work->busy.begin);

	return tt->origin_dev && begin < tt->origin_len ?
		       min(work->vol->pool->block_sectors, tt->origin_len - begin) : 0;
}

/* All parts: to write zeroes twice does no harm, the bios are not there. */
static void zero_again(struct thin_work *work)
{
	struct part parts[2];
	unsigned int i, nr = parts_of(work, zeroes_begin(work), work->vol->pool->block_sectors,
				      parts);

	for (i = 0; i < nr; i++)
		zero_part(work, &parts[i]);
}

static void zero(struct thin_work *work, sector_t begin, sector_t end)
{
	struct part parts[2];
	unsigned int nr = parts_of(work, begin, end, parts);

	by_kcopyd(work, NULL, 0, parts, nr);
}

/* ---- copies ---- */

static int buffer_sectors(const struct thin_copy *copy)
{
	return (PAGE_SIZE << copy->order) >> SECTOR_SHIFT;
}

static void end_copy(struct thin_copy *copy)
{
	struct thin_work *work = copy->work;
	bool failed = copy->status;

	atomic_sub(buffer_sectors(copy), &work->vol->pool->fill_sectors);
	__free_pages(copy->pages, copy->order);
	kfree(copy);
	thin_provision_fill_done(work, failed);
}

static void copy_written(struct bio *bio)
{
	struct thin_copy *copy = bio->bi_private;

	if (bio->bi_status)
		WRITE_ONCE(copy->status, bio->bi_status);
	bio_put(bio);
	if (atomic_dec_and_test(&copy->pending))
		end_copy(copy);
}

static void copy_read(struct bio *bio)
{
	struct thin_copy *copy = bio->bi_private;
	struct thin_vol *vol = copy->work->vol;
	unsigned long flags;

	copy->status = bio->bi_status;
	bio_put(bio);
	spin_lock_irqsave(&vol->lock, flags);
	list_add_tail(&copy->list, &vol->copies);
	thin_vol_kick(vol);
	spin_unlock_irqrestore(&vol->lock, flags);
}

static struct bio *copy_bio(struct thin_copy *copy, struct block_device *bdev, sector_t sector,
			    const struct part *part, blk_opf_t opf, gfp_t gfp)
{
	unsigned int offset = (part->from - copy->begin) << SECTOR_SHIFT;
	struct bio *bio = bio_alloc_bioset(bdev, 1, opf, gfp,
					   &copy->work->vol->pool->fill_bios);

	if (!bio)
		return NULL;
	set_urgency(bio, copy->work);
	bio->bi_iter.bi_sector = sector;
	bio->bi_private = copy;
	__bio_add_page(bio, copy->pages + (offset >> PAGE_SHIFT),
		       (part->to - part->from) << SECTOR_SHIFT, offset_in_page(offset));
	return bio;
}

/* Return: false when there is no memory, or enough of it is in use. */
static bool start_copy(struct thin_work *work, struct block_device *bdev, sector_t sector,
		       sector_t end, const struct part *parts, unsigned int nr)
{
	struct pool *pool = work->vol->pool;
	sector_t unit = bdev_logical_block_size(bdev) >> SECTOR_SHIFT;
	/* An external origin may be coarser than the bios. */
	struct part whole = {
		.from = round_down(parts[0].from, unit),
		.to = min(round_up(parts[nr - 1].to, unit), end),
	};
	/* What a full memory cannot give at once is not worth any effort. */
	const gfp_t gfp = __GFP_NOWARN | __GFP_COMP;
	struct thin_copy *copy;
	struct bio *bio;

	copy = kmalloc(sizeof(*copy), GFP_NOWAIT | __GFP_NOWARN);
	if (!copy)
		return false;
	copy->order = get_order((whole.to - whole.from) << SECTOR_SHIFT);
	if (atomic_read(&pool->fill_sectors) + buffer_sectors(copy) > MAX_BUFFERS)
		goto free_copy;
	copy->pages = alloc_pages(gfp, copy->order);
	if (!copy->pages)
		goto free_copy;
	copy->work = work;
	copy->begin = whole.from;
	copy->nr = nr;
	memcpy(copy->parts, parts, nr * sizeof(*parts));
	bio = copy_bio(copy, bdev, sector + whole.from, &whole, REQ_OP_READ,
		       GFP_NOWAIT | __GFP_NOWARN);
	if (!bio)
		goto free_pages;

	atomic_add(buffer_sectors(copy), &pool->fill_sectors);
	atomic_inc(&work->pending);
	bio->bi_end_io = copy_read;
	submit_bio(bio);
	return true;

free_pages:
	__free_pages(copy->pages, copy->order);
free_copy:
	kfree(copy);
	return false;
}

static void copy(struct thin_work *work, struct block_device *bdev, sector_t sector, sector_t end)
{
	struct part parts[2];
	unsigned int nr = parts_of(work, 0, end, parts);

	if (nr && (end > MAX_COPY || is_throttled() || 
		   !start_copy(work, bdev, sector, end, parts, nr)))
		by_kcopyd(work, bdev, sector, parts, nr);
}

/**
 * thin_fill_go_on - write what copies have read
 * @vol: volume; called by its worker
 */
void thin_fill_go_on(struct thin_vol *vol)
{
	struct thin_copy *copy, *tmp;
	LIST_HEAD(copies);
	unsigned int i;

	spin_lock_irq(&vol->lock);
	list_splice_init(&vol->copies, &copies);
	spin_unlock_irq(&vol->lock);

	list_for_each_entry_safe(copy, tmp, &copies, list) {
		if (copy->status) {
			end_copy(copy);
			continue;
		}
		atomic_set(&copy->pending, 1);
		for (i = 0; i < copy->nr; i++) {
			struct part *part = &copy->parts[i];
			struct bio *bio = copy_bio(copy, vol->pool->data_bdev,
						   new_sector(copy->work, part->from), part,
						   REQ_OP_WRITE, GFP_NOIO);

			bio->bi_end_io = copy_written;
			atomic_inc(&copy->pending);
			submit_bio(bio);
		}
		if (atomic_dec_and_test(&copy->pending))
			end_copy(copy);
	}
}

/**
 * thin_fill - give a new block what its bios leave of it
 * @work: block, bios' sectors and what it replaces are known; called by the worker
 */
void thin_fill(struct thin_work *work)
{
	struct thin_target *tt = work->tt;
	struct pool *pool = work->vol->pool;
	sector_t begin = pool_block_sector(pool, work->busy.begin);

	if (work->expect != THIN_EXPECT_HOLE) {
		copy(work, pool->data_bdev, pool_block_sector(pool, work->expect),
		     pool->block_sectors);
	} else if (tt->origin_dev && begin < tt->origin_len) {
		sector_t end = zeroes_begin(work);

		copy(work, tt->origin_dev->bdev, begin, end);
		/* The rest reads as zeroes now; it must go on doing so, zeroing or not. */
		zero(work, end, pool->block_sectors);
	} else if (pool->features.zero_new_blocks) {
		zero(work, 0, pool->block_sectors);
	}
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
	if (pool->copier)
		dm_kcopyd_client_destroy(pool->copier);
	bioset_exit(&pool->fill_bios);
}
