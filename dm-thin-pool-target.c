// SPDX-License-Identifier: GPL-2.0-only
/*
 * The thin-pool target: tables, suspend and resume, growing, limits.
 *
 * The pool's own device maps every bio to the data device and is otherwise the
 * handle for messages, status and events.  Everything a table asks for takes
 * effect when it is resumed (pool_preresume()).  The order of the hooks keeps
 * the thins, which do not go through this device, inside its suspension:
 * presuspend suspends them first, resume lets them go last.
 */
#include "dm-thin.h"

#include <linux/log2.h>
#include <linux/slab.h>

/* ---- constructor ---- */

static int parse_features(struct dm_arg_set *as, struct pool_features *f, char **error)
{
	/* All five at once are allowed, though they make little sense together. */
	static const struct dm_arg args[] = {
		{0, 5, "Invalid number of pool feature arguments"},
	};
	unsigned int argc;
	int r;

	f->zero_new_blocks = true;
	f->discard_enabled = true;
	f->discard_passdown = true;
	f->read_only = false;
	f->error_if_no_space = false;

	/* No count, no features. */
	if (!as->argc)
		return 0;
	r = dm_read_arg_group(args, as, &argc, error);
	if (r)
		return r;
	while (argc--) {
		const char *word = dm_shift_arg(as);

		if (!strcasecmp(word, "skip_block_zeroing")) {
			f->zero_new_blocks = false;
		} else if (!strcasecmp(word, "ignore_discard")) {
			f->discard_enabled = false;
		} else if (!strcasecmp(word, "no_discard_passdown")) {
			f->discard_passdown = false;
		} else if (!strcasecmp(word, "read_only")) {
			f->read_only = true;
		} else if (!strcasecmp(word, "error_if_no_space")) {
			f->error_if_no_space = true;
		} else {
			*error = "Unrecognised pool feature requested";
			return -EINVAL;
		}
	}
	return 0;
}

static void warn_excess(struct dm_dev *dev)
{
	if (bdev_nr_sectors(dev->bdev) > THIN_META_MAX_SECTORS_WARN)
		DMWARN("Metadata device %s: space beyond %llu sectors will not be used.",
		       dev->name, THIN_META_MAX_SECTORS);
}

static int open_devices(struct dm_target *ti, struct pool_target *pt, char **argv)
{
	blk_mode_t meta_mode = BLK_OPEN_READ | (pt->requested.read_only ? 0 : BLK_OPEN_WRITE);
	dev_t meta;
	int r;

	r = dm_get_device(ti, argv[0], meta_mode, &pt->meta_dev);
	if (r) {
		ti->error = "Error opening metadata block device";
		return r;
	}
	warn_excess(pt->meta_dev);
	meta = pt->meta_dev->bdev->bd_dev;
	r = dm_get_device(ti, argv[1], BLK_OPEN_READ | BLK_OPEN_WRITE, &pt->data_dev);
	if (r) {
		ti->error = "Error getting data device";
		return r;
	}
	if (pt->data_dev->bdev->bd_dev == meta) {
		/* Perhaps opened anew by the core, which has freed what meta_dev was. */
		pt->meta_dev = pt->data_dev;
		ti->error = "Metadata and data device must not be the same";
		return -EINVAL;
	}
	return 0;
}

static void put_devices(struct dm_target *ti, struct pool_target *pt)
{
	if (pt->data_dev)
		dm_put_device(ti, pt->data_dev);
	if (pt->meta_dev)
		dm_put_device(ti, pt->meta_dev);
}

/* Arguments: <metadata dev> <data dev> <block size> <low water mark> [<#features> <feature>...] */
static int pool_ctr(struct dm_target *ti, unsigned int argc, char **argv)
{
	struct dm_arg_set as = { .argc = argc, .argv = argv };
	struct pool_target *pt;
	unsigned long block_size;
	struct pool *pool;
	int r;

	if (argc < 4) {
		ti->error = "Invalid argument count";
		return -EINVAL;
	}
	if (!strcmp(argv[0], argv[1])) {
		ti->error = "Error setting metadata or data device";
		return -EINVAL;
	}
	pt = kzalloc(sizeof(*pt), GFP_KERNEL);
	if (!pt) {
		ti->error = "Error allocating memory for pool";
		return -ENOMEM;
	}
	pt->ti = ti;

	dm_consume_args(&as, 4);
	r = parse_features(&as, &pt->requested, &ti->error);
	if (r)
		goto bad;
	pt->wanted = pt->requested.read_only ? PM_READ_ONLY : PM_WRITE;
	r = open_devices(ti, pt, argv);
	if (r)
		goto bad;

	r = -EINVAL;
	if (kstrtoul(argv[2], 10, &block_size) || block_size < THIN_MIN_BLOCK_SECTORS ||
	    block_size > THIN_MAX_BLOCK_SECTORS || block_size % THIN_MIN_BLOCK_SECTORS) {
		ti->error = "Invalid block size";
		goto bad;
	}
	if (kstrtou64(argv[3], 10, &pt->low_water)) {
		ti->error = "Invalid low water mark";
		goto bad;
	}

	pool = pool_get(pt, pt->meta_dev->bdev, pt->data_dev->bdev, block_size, &ti->error);
	if (IS_ERR(pool)) {
		r = PTR_ERR(pool);
		goto bad;
	}
	pt->pool = pool;
	/* Thins have taken over whether there are discards when they were loaded. */
	if (pool->bound && pt->requested.discard_enabled != pool->features.discard_enabled) {
		ti->error = "Discard support cannot be disabled once enabled";
		goto bad_put;
	}

	ti->num_flush_bios = 1;
	ti->num_write_zeroes_bios = 1;
	ti->limit_swap_bios = true;
	if (pt->requested.discard_enabled && pt->requested.discard_passdown) {
		ti->num_discard_bios = 1;
		ti->discards_supported = true;
		compat_split_discards(ti);
	}
	pt->passdown = pt->requested.discard_enabled && pt->requested.discard_passdown;
	ti->private = pt;
	return 0;

bad_put:
	pool_put_target(pool, pt);
bad:
	put_devices(ti, pt);
	kfree(pt);
	return r;
}

static void pool_dtr(struct dm_target *ti)
{
	struct pool_target *pt = ti->private;

	pool_put_target(pt->pool, pt);
	put_devices(ti, pt);
	kfree(pt);
}

/* ---- I/O of the pool's own device ---- */

static int pool_map(struct dm_target *ti, struct bio *bio)
{
	struct pool_target *pt = ti->private;

	bio_set_dev(bio, pt->data_dev->bdev);
	bio->bi_iter.bi_sector = dm_target_offset(ti, bio->bi_iter.bi_sector);
	return DM_MAPIO_REMAPPED;
}

/* ---- growing ---- */

/* Sizes that the metadata knows and those the devices have now. */
struct sizes {
	u64 data_old;
	u64 data_new;
	u64 meta_old;
	u64 meta_new;
};

static int measure(struct pool_target *pt, struct sizes *s)
{
	struct pool *pool = pt->pool;
	const char *name = dm_device_name(pool->md);
	struct thin_meta_space space;
	int r;

	r = thin_meta_get_space(pool->tm, &space);
	if (r) {
		pool_metadata_failed_locked(pool, "query of sizes", r);
		return r;
	}
	s->data_old = thin_meta_data_blocks(pool->tm);
	s->data_new = div64_u64(pt->ti->len, pool->block_sectors);
	s->meta_old = space.meta_total;
	s->meta_new = thin_meta_device_mblocks(pool->tm);

	if (s->data_new < s->data_old) {
		DMERR("%s: pool target (%llu blocks) too small: expected %llu or more",
		      name, s->data_new, s->data_old);
		return -EINVAL;
	}
	if (s->meta_new < s->meta_old) {
		DMERR("%s: metadata device (%llu blocks) too small: expected %llu or more",
		      name, s->meta_new, s->meta_old);
		return -EINVAL;
	}
	return 0;
}

static int grow_metadata(struct pool_target *pt, const struct sizes *s)
{
	struct pool *pool = pt->pool;
	int r;

	warn_excess(pt->meta_dev);
	DMINFO("%s: growing the metadata device from %llu to %llu blocks",
	       dm_device_name(pool->md), s->meta_old, s->meta_new);
	if (pool->mode == PM_OUT_OF_METADATA_SPACE)
		pool_set_mode(pool, PM_WRITE);
	r = thin_meta_resize_metadata(pool->tm, s->meta_new);
	if (r && r != -EINVAL)
		pool_metadata_failed_locked(pool, "growing of the metadata device", r);
	return r;
}

static int grow_data(struct pool_target *pt, const struct sizes *s)
{
	struct pool *pool = pt->pool;
	int r;

	if (s->data_old)
		DMINFO("%s: growing the data device from %llu to %llu blocks",
		       dm_device_name(pool->md), s->data_old, s->data_new);
	r = thin_meta_resize_data(pool->tm, s->data_new);
	if (r == -ENOSPC) {
		DMERR("%s: no metadata to count %llu data blocks: extend it, and resume again",
		      dm_device_name(pool->md), s->data_new);
		/* Nothing has changed: a pool that has had some goes on with these. */
		return s->data_old ? 0 : r;
	}
	if (r && r != -EINVAL)
		pool_metadata_failed_locked(pool, "growing of the data device", r);
	return r;
}

/*
 * Take over the sizes of both devices.  Metadata first: growing the data
 * device needs metadata blocks.  A pool that cannot be written just goes on
 * with what it knows.
 */
static int grow(struct pool_target *pt)
{
	struct pool *pool = pt->pool;
	struct sizes s;
	int r;

	r = measure(pt, &s);
	if (r)
		return r;
	if (s.data_new == s.data_old && s.meta_new == s.meta_old)
		return 0;
	if (thin_meta_needs_check(pool->tm)) {
		DMERR("%s: unable to use new sizes until repaired: run thin_check",
		      dm_device_name(pool->md));
		return 0;
	}
	if (pool->mode >= PM_READ_ONLY)
		return 0;

	if (s.meta_new > s.meta_old) {
		r = grow_metadata(pt, &s);
		if (r)
			return r;
	}
	if (s.data_new > s.data_old && pool->mode <= PM_OUT_OF_DATA_SPACE) {
		r = grow_data(pt, &s);
		if (r)
			return r;
	}
	pool_commit_locked(pool);
	return 0;
}

/* ---- suspend and resume ---- */

static int pool_preresume(struct dm_target *ti)
{
	struct pool_target *pt = ti->private;
	struct pool *pool = pt->pool;
	int r = 0;

	pool_bind(pool, pt);
	mutex_lock(&pool->state_lock);
	if (pool->mode != PM_FAIL)
		r = grow(pt);
	/* A failed pool resumes, so that what waits can fail. */
	if (pool->mode == PM_FAIL)
		r = 0;
	mutex_unlock(&pool->state_lock);
	return r;
}

static void pool_resume(struct dm_target *ti)
{
	struct pool_target *pt = ti->private;
	struct pool *pool = pt->pool;

	WRITE_ONCE(pool->low_water_triggered, false);
	pool_resume_thins(pool);
	pool_recheck_held(pool, false);
	pool_waker_start(pool);
}

static void pool_presuspend(struct dm_target *ti)
{
	struct pool_target *pt = ti->private;

	pool_suspend_thins(pt->pool);
}

static void pool_presuspend_undo(struct dm_target *ti)
{
	struct pool_target *pt = ti->private;

	pool_resume_thins(pt->pool);
}

static void pool_postsuspend(struct dm_target *ti)
{
	struct pool_target *pt = ti->private;
	struct pool *pool = pt->pool;

	pool_wait_thins(pool);
	flush_workqueue(pool->wq);
	pool_waker_stop(pool);
	cancel_delayed_work_sync(&pool->no_space_timer);
	pool_commit(pool);
	/* What the thins did to the data device behind this one's back ends here. */
	thin_reclaim_wait(pool);
}

/* ---- limits ---- */

static int pool_iterate_devices(struct dm_target *ti, iterate_devices_callout_fn fn, void *data)
{
	struct pool_target *pt = ti->private;

	return fn(ti, pt->data_dev, 0, ti->len, data);
}

/* Passing discards down must make sense for the data device. */
static bool passdown_possible(struct pool_target *pt)
{
	struct block_device *bdev = pt->data_dev->bdev;
	unsigned int max = bdev_max_discard_sectors(bdev);
	const char *reason = NULL;

	if (!max)
		reason = "discard unsupported";
	else if (max < pt->pool->block_sectors)
		reason = "max discard sectors smaller than a block";
	if (!reason)
		return true;
	DMWARN("Data device (%s) %s: Disabling discard passdown.", pt->data_dev->name, reason);
	return false;
}

static void pool_io_hints(struct dm_target *ti, struct queue_limits *limits)
{
	struct pool_target *pt = ti->private;
	u64 block = pt->pool->block_sectors;
	u64 io_opt = limits->io_opt >> SECTOR_SHIFT;

	/* I/O of this size, or what divides it, stays within a block. */
	if (limits->max_sectors < block) {
		unsigned int max = rounddown_pow_of_two(limits->max_sectors);

		while (max > 1 && block & (max - 1))
			max >>= 1;
		limits->max_sectors = max;
	}
	if (io_opt < block || io_opt % block) {
		if (block % limits->max_sectors)
			limits->io_min = block << SECTOR_SHIFT;
		else
			limits->io_min = limits->max_sectors << SECTOR_SHIFT;
		limits->io_opt = block << SECTOR_SHIFT;
	}

	pt->passdown = pt->requested.discard_enabled && pt->requested.discard_passdown &&
		       passdown_possible(pt);
	if (!pt->passdown)
		compat_set_max_discard(limits, 0);
	if (!pt->requested.discard_enabled)
		limits->discard_granularity = 0;
}

struct target_type pool_target_type = {
	.name = "thin-pool",
	.features = DM_TARGET_SINGLETON | DM_TARGET_ALWAYS_WRITEABLE | DM_TARGET_IMMUTABLE |
		    DM_TARGET_NOWAIT | COMPAT_TARGET_PASSES_CRYPTO | COMPAT_TARGET_ATOMIC_WRITES,
	.version = {1, 24, 0},
	.module = THIS_MODULE,
	.ctr = pool_ctr,
	.dtr = pool_dtr,
	.map = pool_map,
	.presuspend = pool_presuspend,
	.presuspend_undo = pool_presuspend_undo,
	.postsuspend = pool_postsuspend,
	.preresume = pool_preresume,
	.resume = pool_resume,
	.message = pool_message,
	.status = pool_status,
	.iterate_devices = pool_iterate_devices,
	.io_hints = pool_io_hints,
};
