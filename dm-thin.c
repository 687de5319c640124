// SPDX-License-Identifier: GPL-2.0-only
/*
 * The thin target, and the entry of the module.
 *
 * A table of a thin names its pool by the pool's device and itself by a number
 * in the pool's metadata.  All tables of one number share a struct thin_vol;
 * what differs between tables (external origin, requeueing) is here.
 */
#include "dm-thin.h"

#include <linux/module.h>
#include <linux/slab.h>

/* ---- constructor ---- */

static int open_devices(struct dm_target *ti, struct thin_target *tt, unsigned int argc,
			char **argv)
{
	dev_t origin = 0;
	int r;

	if (argc == 3) {
		if (!strcmp(argv[0], argv[2])) {
			ti->error = "Error setting origin device";
			return -EINVAL;
		}
		r = dm_get_device(ti, argv[2], BLK_OPEN_READ, &tt->origin_dev);
		if (r) {
			ti->error = "Error opening origin device";
			return r;
		}
		origin = tt->origin_dev->bdev->bd_dev;
	}
	r = dm_get_device(ti, argv[0], dm_table_get_mode(ti->table), &tt->pool_dev);
	if (r) {
		ti->error = "Error opening pool device";
		return r;
	}
	if (tt->pool_dev->bdev->bd_dev == origin) {
		/* Opened anew for writing by the core, which has freed what origin_dev was. */
		tt->origin_dev = tt->pool_dev;
		ti->error = "Error setting origin device";
		return -EINVAL;
	}
	return 0;
}

static void put_devices(struct dm_target *ti, struct thin_target *tt)
{
	if (tt->pool_dev)
		dm_put_device(ti, tt->pool_dev);
	if (tt->origin_dev)
		dm_put_device(ti, tt->origin_dev);
}

static int find_pool(struct dm_target *ti, struct thin_target *tt)
{
	struct mapped_device *md = dm_get_md(tt->pool_dev->bdev->bd_dev);

	if (!md) {
		ti->error = "Couldn't get pool mapped device";
		return -EINVAL;
	}
	tt->pool = pool_find_by_md(md);
	dm_put(md);
	if (!tt->pool) {
		ti->error = "Couldn't find pool object";
		return -EINVAL;
	}
	return 0;
}

/* Is there such a device? Returns 0 or what opening it would. */
static int find_device(struct pool *pool, u32 id)
{
	struct thin_dev *td;
	int r = thin_meta_open_dev(pool->tm, id, &td);

	if (!r)
		thin_meta_close_dev(td);
	return r;
}

static int join_pool(struct dm_target *ti, struct thin_target *tt, u32 id)
{
	struct pool *pool = tt->pool;
	struct thin_vol *vol;
	int r = 0;

	mutex_lock(&pool->tts_lock);
	if (pool->gone || pool_mode(pool) == PM_FAIL) {
		ti->error = "Couldn't open thin device, Pool is in fail mode";
		r = -EINVAL;
		goto out;
	}
	/* Memory may wait for thins that are suspended, and who resumes them for the lock. */
	vol = pool->suspended ? ERR_PTR(find_device(pool, id)) : thin_vol_get(pool, id);
	if (IS_ERR(vol)) {
		ti->error = "Couldn't open thin internal device";
		r = PTR_ERR(vol);
		goto out;
	}
	if (!vol) {
		ti->error = "Unable to activate thin device while pool is suspended";
		r = -EINVAL;
		goto out;
	}
	tt->vol = vol;
	pool_add_thin(tt);
out:
	mutex_unlock(&pool->tts_lock);
	return r;
}

static void set_limits(struct dm_target *ti, struct pool *pool)
{
	ti->num_flush_bios = 1;
	ti->num_write_zeroes_bios = 1;
	ti->flush_supported = true;
	ti->limit_swap_bios = true;
	ti->accounts_remapped_io = true;
	ti->per_io_data_size = sizeof(struct thin_bio);
	if (pool->features.discard_enabled) {
		ti->num_discard_bios = 1;
		ti->discards_supported = true;
	}
}

/* Arguments: <pool dev> <device id> [<external origin dev>] */
static int thin_ctr(struct dm_target *ti, unsigned int argc, char **argv)
{
	struct thin_target *tt;
	unsigned long long id;
	int r;

	if (argc != 2 && argc != 3) {
		ti->error = "Invalid argument count";
		return -EINVAL;
	}
	tt = kzalloc(sizeof(*tt), GFP_KERNEL);
	if (!tt) {
		ti->error = "Out of memory";
		return -ENOMEM;
	}
	tt->ti = ti;
	tt->md = dm_table_get_md(ti->table);

	r = open_devices(ti, tt, argc, argv);
	if (r)
		goto bad;
	if (kstrtoull(argv[1], 10, &id) || id > THIN_MAX_DEV_ID) {
		ti->error = "Invalid device id";
		r = -EINVAL;
		goto bad;
	}
	r = find_pool(ti, tt);
	if (r)
		goto bad;
	set_limits(ti, tt->pool);
	r = join_pool(ti, tt, id);
	if (r)
		goto bad;
	ti->private = tt;
	return 0;

bad:
	if (tt->pool)
		pool_put(tt->pool);
	put_devices(ti, tt);
	kfree(tt);
	return r;
}

static void thin_dtr(struct dm_target *ti)
{
	struct thin_target *tt = ti->private;
	struct pool *pool = tt->pool;

	pool_remove_thin(tt);
	pool_put(pool);
	put_devices(ti, tt);
	kfree(tt);
}

/* ---- I/O ---- */

static int thin_map(struct dm_target *ti, struct bio *bio)
{
	return thin_map_bio(ti->private, bio);
}

static int thin_end_io(struct dm_target *ti, struct bio *bio, blk_status_t *error)
{
	struct thin_target *tt = ti->private;
	struct thin_bio *tb = thin_bio(bio);

	/* A write to a new block ends when the block is mapped. */
	if (tb->work) {
		thin_provision_bio_done(bio, *error);
		return DM_ENDIO_INCOMPLETE;
	}
	thin_epoch_leave(tt->vol, tb);
	if (likely(!tb->durable && !tb->flush))
		return DM_ENDIO_DONE;
	if (tb->flush && *error)
		thin_flush_failed(tt->vol);
	if (tb->durable) {
		tb->durable = false;
		if (!*error) {
			pool_commit_bio(tt->pool, bio);
			return DM_ENDIO_INCOMPLETE;
		}
	}
	return DM_ENDIO_DONE;
}

/* ---- suspend and resume ---- */

static void thin_presuspend(struct dm_target *ti)
{
	/* With flushing, what waits for space is waited for. */
	if (dm_noflush_suspending(ti))
		thin_vol_requeue_held(ti->private);
}

static void stop_requeueing(struct dm_target *ti)
{
	struct thin_target *tt = ti->private;

	spin_lock_irq(&tt->vol->lock);
	WRITE_ONCE(tt->requeue, false);
	spin_unlock_irq(&tt->vol->lock);
}

static int thin_preresume(struct dm_target *ti)
{
	struct thin_target *tt = ti->private;

	if (tt->origin_dev)
		tt->origin_len = bdev_nr_sectors(tt->origin_dev->bdev);
	stop_requeueing(ti);
	return 0;
}

/* ---- status and limits ---- */

static void emit_info(struct thin_target *tt, struct thin_dev *td, char *result,
		      unsigned int maxlen)
{
	u64 block_sectors = tt->pool->block_sectors;
	unsigned int sz = 0;
	u64 mapped, highest;
	int r;

	r = thin_dev_mapped_blocks(td, &mapped);
	if (r)
		goto error;
	DMEMIT("%llu ", mapped * block_sectors);

	r = thin_dev_highest_block(td, &highest);
	if (r == -ENODATA)
		DMEMIT("-");
	else if (r)
		goto error;
	else
		DMEMIT("%llu", (highest + 1) * block_sectors - 1);
	return;

error:
	DMERR("%s: query of device %u failed: error = %d",
	      dm_device_name(tt->pool->md), tt->vol->id, r);
	scnprintf(result, maxlen, "Error");
}

static void thin_status(struct dm_target *ti, status_type_t type, unsigned int status_flags,
			char *result, unsigned int maxlen)
{
	struct thin_target *tt = ti->private;
	struct thin_dev *td;
	unsigned int sz = 0;
	compat_epoch_t epoch;

	*result = '\0';
	switch (type) {
	case STATUSTYPE_INFO:
		/* The handle goes with the pool, but not while an epoch lasts. */
		epoch = compat_epoch_enter(&tt->vol->srcu);
		td = READ_ONCE(tt->vol->td);
		if (!td || pool_mode(tt->pool) == PM_FAIL)
			DMEMIT("Fail");
		else
			emit_info(tt, td, result, maxlen);
		compat_epoch_leave(&tt->vol->srcu, epoch);
		break;
	case STATUSTYPE_TABLE:
		DMEMIT("%s %u", tt->pool_dev->name, tt->vol->id);
		if (tt->origin_dev)
			DMEMIT(" %s", tt->origin_dev->name);
		break;
	case STATUSTYPE_IMA:
		break;
	}
}

static int thin_iterate_devices(struct dm_target *ti, iterate_devices_callout_fn fn, void *data)
{
	struct thin_target *tt = ti->private;
	struct pool *pool = tt->pool;
	u64 blocks = READ_ONCE(pool->target_blocks);

	if (!blocks)
		return 0;
	return fn(ti, tt->pool_dev, 0, blocks * pool->block_sectors, data);
}

static void thin_io_hints(struct dm_target *ti, struct queue_limits *limits)
{
	struct thin_target *tt = ti->private;
	struct pool *pool = tt->pool;
	u64 block = pool->block_sectors << SECTOR_SHIFT;

	/* Blocks lie anywhere: only what cannot straddle two of them is atomic. */
	compat_limit_atomic_writes(limits, block & -block);
	if (!pool->features.discard_enabled)
		return;
	limits->discard_granularity = block;
	compat_set_max_discard(limits, compat_thin_max_discard(pool->block_sectors));
}

struct target_type thin_target_type = {
	.name = "thin",
	.features = DM_TARGET_NOWAIT | COMPAT_TARGET_PASSES_CRYPTO | COMPAT_TARGET_ATOMIC_WRITES,
	.version = {1, 24, 0},
	.module = THIS_MODULE,
	.ctr = thin_ctr,
	.dtr = thin_dtr,
	.map = thin_map,
	.end_io = thin_end_io,
	.presuspend = thin_presuspend,
	.presuspend_undo = stop_requeueing,
	.postsuspend = stop_requeueing,
	.preresume = thin_preresume,
	.status = thin_status,
	.iterate_devices = thin_iterate_devices,
	.io_hints = thin_io_hints,
};

/* ---- module ---- */

static int __init thin_init(void)
{
	int r;

	r = thin_meta_init();
	if (r)
		return r;
	r = dm_register_target(&thin_target_type);
	if (r)
		goto out_meta;
	r = dm_register_target(&pool_target_type);
	if (r)
		goto out_thin;
	return 0;

out_thin:
	dm_unregister_target(&thin_target_type);
out_meta:
	thin_meta_exit();
	return r;
}

static void __exit thin_exit(void)
{
	dm_unregister_target(&thin_target_type);
	dm_unregister_target(&pool_target_type);
	thin_meta_exit();
}

module_init(thin_init);
module_exit(thin_exit);

MODULE_DESCRIPTION("Device-mapper thin provisioning");
MODULE_AUTHOR("The dm-thin authors");
MODULE_LICENSE("GPL");
MODULE_VERSION(DM_THIN_VERSION);
MODULE_ALIAS("dm-thin");
MODULE_ALIAS("dm-thin-pool");
