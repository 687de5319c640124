// SPDX-License-Identifier: GPL-2.0-only
/*
 * A pool's metadata as a whole: opening and formatting it, who may read and change it,
 * going back to what is on disk, modes and flags.
 *
 * The durable state is what block 0 reaches.  Committing: dm-thin-metadata-commit.c.
 */
#include "dm-thin-metadata-internal.h"

#include <linux/completion.h>
#include <linux/err.h>
#include <linux/kernel.h>
#include <linux/slab.h>
#include <linux/string.h>

#define DM_MSG_PREFIX "thin metadata"

/* ---- the superblock ---- */

static int check_superblock(struct thin_meta *tm, const struct disk_superblock *sb)
{
	u32 incompat = le32_to_cpu(sb->incompat_flags);
	u32 compat_ro = le32_to_cpu(sb->compat_ro_flags);
	u32 block_size = le32_to_cpu(sb->data_block_size);

	if (incompat) {
		DMERR("%pg: unknown incompatible features 0x%x", tm->bdev, incompat);
		return -EINVAL;
	}
	if (compat_ro && !bdev_read_only(tm->bdev)) {
		DMERR("%pg: features 0x%x allow read-only use only", tm->bdev, compat_ro);
		return -EINVAL;
	}
	if (block_size != tm->data_block_size) {
		DMERR("%pg: data block size is %u sectors, the table says %llu", tm->bdev,
		      block_size, (unsigned long long)tm->data_block_size);
		return -EINVAL;
	}
	return 0;
}

/* Read block 0 and start from what it says. */
static int read_superblock(struct thin_meta *tm)
{
	const struct disk_superblock *sb;
	struct dm_buffer *buffer;
	const void *data;
	int r;

	r = bm_read(&tm->bm, SUPERBLOCK_LOCATION, PD_SUPERBLOCK, true, &buffer, &data);
	if (r)
		return r;
	sb = data;
	tm->sb = *sb;
	bm_put(buffer);

	r = check_superblock(tm, &tm->sb);
	if (r)
		return r;
	tm->time = le32_to_cpu(tm->sb.time);
	tm->trans_id = le64_to_cpu(tm->sb.trans_id);
	tm->held_root = le64_to_cpu(tm->sb.held_root);
	WRITE_ONCE(tm->held_told, tm->held_root);
	tm->top_root = le64_to_cpu(tm->sb.data_mapping_root);
	tm->details_root = le64_to_cpu(tm->sb.device_details_root);
	r = sm_open(&tm->meta_sm, tm->sb.metadata_space_map_root);
	if (!r)
		r = sm_open(&tm->data_sm, tm->sb.data_space_map_root);
	return r;
}

/**
 * meta_write_superblock() - write block 0 and flush
 * @tm: the pool
 * @sb: what to write; its header is stamped on its way
 *
 * Return: 0 or a negative errno.
 */
int meta_write_superblock(struct thin_meta *tm, const struct disk_superblock *sb)
{
	void *page = (void *)get_zeroed_page(GFP_NOIO);
	int r;

	if (!page)
		return -ENOMEM;
	memcpy(page, sb, sizeof(*sb));
	r = bm_write(&tm->bm, SUPERBLOCK_LOCATION, PD_SUPERBLOCK, page);
	if (!r)
		r = bm_flush(&tm->bm);
	free_page((unsigned long)page);
	return r;
}

/* ---- the locks ---- */

/**
 * meta_next_seq() - the open transaction is another one
 * @tm: the pool, its lock held for writing
 */
void meta_next_seq(struct thin_meta *tm)
{
	WRITE_ONCE(tm->open_seq, tm->open_seq + 1);
	tm->tm.seq = tm->open_seq;
}

/* Is the frozen transaction on disk, though it could not be flushed? */
static bool is_in_doubt(struct thin_meta *tm)
{
	/* The header of new_sb was stamped only on its way out. */
	tm->new_sb.header = tm->sb.header;
	return tm->sb_sent && !memcmp(&tm->sb, &tm->new_sb, sizeof(tm->sb));
}

/**
 * meta_roll_back() - back to the last transaction on disk
 * @tm: the pool, its lock held for writing
 *
 * If that turns out to be the one whose superblock could not be flushed, what it
 * did stands, but counts as durable only when thin_meta_set_needs_check() has
 * flushed it.  Waits for the I/O of a commit.
 */
void meta_roll_back(struct thin_meta *tm)
{
	int r;

	if (tm->in_flight) {
		wait_for_completion(&tm->io_done);
		if (!tm->io_error)
			meta_settle(tm);
		kfree(tm->in_flight);
		tm->in_flight = NULL;
	}
	dev_drop_caches(tm);
	sm_abort(&tm->data_sm);
	sm_abort(&tm->meta_sm);
	tm_drop(&tm->tm);
	bm_forget_all(&tm->bm);
	r = read_superblock(tm);
	tm->needed = 0;
	WRITE_ONCE(tm->aborted, true);
	WRITE_ONCE(tm->changed, false);
	if (r) {
		DMERR("%pg: cannot go back to the last transaction (error %d)", tm->bdev, r);
		WRITE_ONCE(tm->failed, true);
		dev_mark_rolled_back(tm, tm->durable_seq);
		return;
	}
	if (is_in_doubt(tm))
		tm->in_doubt_seq = tm->in_flight_seq;
	dev_reload_all(tm);
	dev_mark_rolled_back(tm, tm->in_doubt_seq ?: tm->durable_seq);
	tm->sb_sent = false;
	meta_next_seq(tm);
}

static int begin(struct thin_meta *tm, enum thin_meta_access worst)
{
	int r = 0;

	mutex_lock(&tm->change_lock);
	if (tm->failed || tm->aborted)
		r = -EIO;
	else if (tm->access > worst)
		r = -EPERM;
	if (r) {
		mutex_unlock(&tm->change_lock);
		return r;
	}
	if (!tm->in_service) {
		/* At most 255 blocks; an unreadable one is met again when it is needed. */
		sm_recount(&tm->meta_sm);
		tm->in_service = true;
	}
	return 0;
}

/**
 * meta_begin_change() - become the one who may change the metadata
 * @tm: the pool
 *
 * Return: 0 with change_lock held; -EIO after a rollback, -EPERM unless
 * writable, both without it.
 */
int meta_begin_change(struct thin_meta *tm)
{
	return begin(tm, THIN_META_WRITABLE);
}

/**
 * meta_begin_freeing() - meta_begin_change() for what gives metadata back
 * @tm: the pool
 *
 * Return: as meta_begin_change(), but -EPERM while read-only only.
 */
int meta_begin_freeing(struct thin_meta *tm)
{
	return begin(tm, THIN_META_FREEING);
}

/**
 * meta_mutate() - from here on an error means rolling back
 * @tm: the pool, change_lock held
 *
 * Takes the lock for writing, to be released by meta_end_change().
 */
void meta_mutate(struct thin_meta *tm)
{
	down_write(&tm->lock);
	tm->mutating = true;
	WRITE_ONCE(tm->changed, true);
}

/**
 * meta_end_change() - undo meta_begin_change(), and what failed half way
 * @tm: the pool
 * @error: of the change, or 0
 */
void meta_end_change(struct thin_meta *tm, int error)
{
	if (tm->mutating) {
		if (error < 0)
			meta_roll_back(tm);
		tm->mutating = false;
		up_write(&tm->lock);
	}
	meta_count_space(tm);
	mutex_unlock(&tm->change_lock);
}

/**
 * meta_hide() - an error of a change that is under way
 * @r: what went wrong below, or 0
 *
 * What the checks before a change promise to mean "no change" must not come from deeper down.
 *
 * Return: the errno to pass up.
 */
int meta_hide(int r)
{
	switch (r) {
	case -EEXIST:
	case -ENODATA:
	case -EBUSY:
	case -EINVAL:
	case -ENOSPC:
	case -EPERM:
		return -EIO;
	default:
		return r;
	}
}

/**
 * meta_begin_read() - take the lock for reading
 * @tm: the pool
 * @may_block: false: only if it is to be had now
 *
 * Return: 0 with the lock held; -EWOULDBLOCK, or -EIO after a failed abort,
 * without it.
 */
int meta_begin_read(struct thin_meta *tm, bool may_block)
{
	if (may_block)
		down_read(&tm->lock);
	else if (!down_read_trylock(&tm->lock))
		return -EWOULDBLOCK;
	if (tm->failed) {
		up_read(&tm->lock);
		return -EIO;
	}
	return 0;
}

/**
 * meta_end_read() - undo meta_begin_read()
 * @tm: the pool
 */
void meta_end_read(struct thin_meta *tm)
{
	up_read(&tm->lock);
}

/* ---- opening and formatting ---- */

static int format(struct thin_meta *tm)
{
	struct disk_superblock *sb = &tm->sb;
	u64 nr = bm_device_blocks(&tm->bm), root_block;
	int r;

	if (nr < 3) {
		DMERR("%pg: metadata device too small", tm->bdev);
		return -EINVAL;
	}
	memset(sb, 0, sizeof(*sb));
	sb->magic = cpu_to_le64(SUPERBLOCK_MAGIC);
	sb->version = cpu_to_le32(SUPERBLOCK_VERSION);
	sb->data_block_size = cpu_to_le32(tm->data_block_size);
	sb->metadata_block_size = cpu_to_le32(PD_BLOCK_SECTORS);
	sb->metadata_nr_blocks = cpu_to_le64(nr);

	r = sm_resize(&tm->meta_sm, nr);
	if (r)
		return r;
	tm->meta_sm.cursor = 0;
	r = sm_alloc(&tm->meta_sm, &root_block);	/* the first is the superblock's */
	if (!r)
		r = sm_create(&tm->meta_sm);
	if (!r)
		r = sm_create(&tm->data_sm);
	if (!r)
		r = bt_empty(&tm->top, &tm->top_root);
	if (!r)
		r = bt_empty(&tm->details, &tm->details_root);
	if (!r) {
		tm->changed = true;
		r = meta_commit_locked(tm);
	}
	if (r)
		DMERR("%pg: formatting failed (error %d)", tm->bdev, r);
	return r;
}

static int is_blank(struct thin_meta *tm, bool *blank)
{
	struct dm_buffer *buffer;
	const void *data;
	int r;

	r = bm_read_raw(&tm->bm, SUPERBLOCK_LOCATION, &buffer, &data);
	if (r)
		return r;
	*blank = !memchr_inv(data, 0, PD_BLOCK_SIZE);
	bm_put(buffer);
	return 0;
}

static int open_or_format(struct thin_meta *tm, bool may_format)
{
	bool blank;
	int r;

	r = is_blank(tm, &blank);
	if (r)
		return r;
	if (!blank)
		return read_superblock(tm);
	if (!may_format) {
		DMERR("%pg: not formatted, and formatting is not allowed", tm->bdev);
		return -EPERM;
	}
	return format(tm);
}

/**
 * thin_meta_open() - open, or format, a pool's metadata (format 10, 11)
 * @bdev: the metadata device
 * @data_block_size: sectors
 * @may_format: format the device if its first block is all zero
 * @ops: what commits need; stays the caller's
 * @context: for @ops
 *
 * Nothing is written but when formatting.
 *
 * Return: the metadata or an ERR_PTR(): -EPERM blank and may not format,
 * -ENOTBLK, -EILSEQ damaged, -EINVAL unknown features, other block size or
 * device too small, -ENOSPC too small, -ENOMEM, or the errno of the device.
 */
struct thin_meta *thin_meta_open(struct block_device *bdev, sector_t data_block_size,
				 bool may_format, const struct thin_meta_ops *ops, void *context)
{
	struct thin_meta *tm = kzalloc(sizeof(*tm), GFP_KERNEL);
	int r;

	if (!tm)
		return ERR_PTR(-ENOMEM);
	mutex_init(&tm->commit_lock);
	mutex_init(&tm->change_lock);
	init_rwsem(&tm->lock);
	mutex_init(&tm->reload_lock);
	init_completion(&tm->io_done);
	xa_init(&tm->devs);
	tm->bdev = bdev;
	tm->data_block_size = data_block_size;
	tm->open_seq = 1;
	tm->low_armed = 1;

	r = bm_open(&tm->bm, bdev);
	if (r) {
		kfree(tm);
		return ERR_PTR(r);
	}
	tm_init(&tm->tm, &tm->bm, &tm->meta_sm, tm->open_seq);
	sm_init(&tm->meta_sm, &tm->tm, false);
	sm_init(&tm->data_sm, &tm->tm, true);
	meta_init_trees(tm);

	mutex_lock(&tm->commit_lock);
	mutex_lock(&tm->change_lock);
	r = open_or_format(tm, may_format);
	meta_count_space(tm);
	mutex_unlock(&tm->change_lock);
	mutex_unlock(&tm->commit_lock);
	if (r) {
		tm->failed = true;	/* no commit on the way out */
		thin_meta_close(tm);
		return ERR_PTR(r);
	}
	tm->ops = ops;
	tm->context = context;
	return tm;
}

/**
 * thin_meta_close() - commit what is open, and free everything
 * @tm: no device of it is open, every freed set has been released
 *
 * Return: 0 or the error of the commit.
 */
int thin_meta_close(struct thin_meta *tm)
{
	int r = 0;

	mutex_lock(&tm->commit_lock);
	mutex_lock(&tm->change_lock);
	tm->closing = true;
	if (!tm->failed && tm->access != THIN_META_READ_ONLY && !tm->aborted)
		r = meta_commit_locked(tm);
	if (tm->flag_unsaved && !meta_write_superblock(tm, &tm->sb))
		DMINFO("%pg: needs_check is recorded now", tm->bdev);
	sm_exit(&tm->data_sm);
	sm_exit(&tm->meta_sm);
	tm_drop(&tm->tm);
	dev_free_all(tm);
	mutex_unlock(&tm->change_lock);
	mutex_unlock(&tm->commit_lock);
	bm_close(&tm->bm);
	mutex_destroy(&tm->reload_lock);
	mutex_destroy(&tm->change_lock);
	mutex_destroy(&tm->commit_lock);
	kfree(tm);
	return r;
}

/* ---- modes and flags ---- */

/**
 * thin_meta_set_access() - serve or refuse changes from now on
 * @tm: the pool
 * @access: which are served; none after a rollback, whatever it is
 */
void thin_meta_set_access(struct thin_meta *tm, enum thin_meta_access access)
{
	mutex_lock(&tm->change_lock);
	tm->access = access;
	/* What was refused may be asked for again. */
	if (access == THIN_META_WRITABLE)
		tm->needed = 0;
	meta_count_space(tm);
	mutex_unlock(&tm->change_lock);
}

/**
 * thin_meta_rolled_back() - was a transaction rolled back
 * @tm: the pool
 *
 * Takes no lock.
 *
 * Return: true when changes are refused until the pool is closed.
 */
bool thin_meta_rolled_back(struct thin_meta *tm)
{
	return READ_ONCE(tm->aborted);
}

/**
 * thin_meta_failed() - has an abort failed
 * @tm: the pool
 *
 * Takes no lock.
 *
 * Return: true when nothing works any more.
 */
bool thin_meta_failed(struct thin_meta *tm)
{
	return READ_ONCE(tm->failed);
}

/**
 * thin_meta_set_needs_check() - have the metadata checked before it is changed again
 * @tm: the pool, with no change in the open transaction
 *
 * Written and flushed at once (format 13.5), also while read-only or after a
 * rollback; it settles what that has left in doubt.  If it cannot be written it
 * counts all the same, and closing the pool tries again.
 *
 * Return: 0 or a negative errno.
 */
int thin_meta_set_needs_check(struct thin_meta *tm)
{
	struct disk_superblock sb;
	int r = -EIO;

	mutex_lock(&tm->commit_lock);
	mutex_lock(&tm->change_lock);
	if (tm->failed || tm->changed)
		goto out;
	sb = tm->sb;
	sb.header.flags |= cpu_to_le32(SUPERBLOCK_NEEDS_CHECK);
	r = meta_write_superblock(tm, &sb);

	down_write(&tm->lock);
	if (r)
		bm_forget_all(&tm->bm);
	/* Known here even if the disk could not be told. */
	tm->sb = sb;
	tm->flag_unsaved = r;
	if (tm->in_doubt_seq && r)
		dev_mark_rolled_back(tm, tm->durable_seq);
	else if (tm->in_doubt_seq)
		WRITE_ONCE(tm->durable_seq, tm->in_doubt_seq);
	tm->in_doubt_seq = 0;
	up_write(&tm->lock);
out:
	mutex_unlock(&tm->change_lock);
	mutex_unlock(&tm->commit_lock);
	return r;
}

/**
 * thin_meta_needs_check() - is a check due
 * @tm: the pool
 *
 * Takes no lock.
 *
 * Return: the flag.
 */
bool thin_meta_needs_check(struct thin_meta *tm)
{
	return le32_to_cpu(READ_ONCE(tm->sb.header.flags)) & SUPERBLOCK_NEEDS_CHECK;
}

/**
 * thin_meta_set_transaction_id() - compare and set the user's transaction id
 * @tm: the pool
 * @current_id: must be the id now
 * @new_id: becomes it
 *
 * Return: 0, -EINVAL when @current_id is not, -EPERM, -EIO.
 */
int thin_meta_set_transaction_id(struct thin_meta *tm, u64 current_id, u64 new_id)
{
	int r = meta_begin_change(tm);

	if (r)
		return r;
	if (tm->trans_id != current_id) {
		DMERR("%pg: transaction id is %llu, not %llu", tm->bdev,
		      (unsigned long long)tm->trans_id, (unsigned long long)current_id);
		r = -EINVAL;
	} else {
		WRITE_ONCE(tm->trans_id, new_id);
		WRITE_ONCE(tm->changed, true);
	}
	meta_end_change(tm, r);
	return r;
}

/**
 * thin_meta_transaction_id() - the user's transaction id
 * @tm: the pool
 *
 * Takes no lock.
 *
 * Return: as in the open transaction.
 */
u64 thin_meta_transaction_id(struct thin_meta *tm)
{
	return READ_ONCE(tm->trans_id);
}
