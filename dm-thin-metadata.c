// SPDX-License-Identifier: GPL-2.0-only
/*
 * A pool's transactions: opening, formatting, committing, aborting.
 *
 * The durable state is what block 0 reaches.  A commit freezes the open transaction,
 * which opens the next one, writes all but block 0 and flushes it, then writes block 0
 * and flushes again; the data device is flushed meanwhile, and before block 0
 * (format 9).  Changes go on during that I/O.  If it fails both transactions are
 * rolled back.
 */
#include "dm-thin-metadata-internal.h"

#include <linux/err.h>
#include <linux/kernel.h>
#include <linux/ktime.h>
#include <linux/slab.h>
#include <linux/string.h>

#define DM_MSG_PREFIX "thin metadata"

/* A transaction of more shadowed blocks than this asks for a commit: 16 MiB. */
#define MAX_SHADOWS		4096

struct thin_freed {
	u64 seq;
	struct sm_freed_page *pages;
};

static void settle(struct thin_meta *tm);

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
	tm->top_root = le64_to_cpu(tm->sb.data_mapping_root);
	tm->details_root = le64_to_cpu(tm->sb.device_details_root);
	r = sm_open(&tm->meta_sm, tm->sb.metadata_space_map_root);
	if (!r)
		r = sm_open(&tm->data_sm, tm->sb.data_space_map_root);
	return r;
}

static void pack_superblock(struct thin_meta *tm)
{
	struct disk_superblock *sb = &tm->new_sb;

	*sb = tm->sb;
	sb->time = cpu_to_le32(tm->time);
	sb->trans_id = cpu_to_le64(tm->trans_id);
	sb->held_root = cpu_to_le64(tm->held_root);
	sb->data_mapping_root = cpu_to_le64(tm->top_root);
	sb->device_details_root = cpu_to_le64(tm->details_root);
	sm_pack_root(&tm->data_sm, sb->data_space_map_root);
	sm_pack_root(&tm->meta_sm, sb->metadata_space_map_root);
}

/* Write block 0 and flush. */
static int write_superblock(struct thin_meta *tm, const struct disk_superblock *sb)
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

static void next_seq(struct thin_meta *tm)
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

/*
 * Back to the last transaction on disk.  If that turns out to be the one whose
 * superblock could not be flushed, what it did stands, but counts as durable only
 * when thin_meta_set_needs_check() has flushed it.
 */
static void roll_back(struct thin_meta *tm)
{
	int r;

	if (tm->in_flight) {
		wait_for_completion(&tm->io_done);
		if (!tm->io_error)
			settle(tm);
		kfree(tm->in_flight);
		tm->in_flight = NULL;
	}
	dev_drop_caches(tm);
	tm_drop(&tm->tm);
	sm_abort(&tm->data_sm);
	sm_abort(&tm->meta_sm);
	bm_forget_all(&tm->bm);
	r = read_superblock(tm);
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
	next_seq(tm);
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
			roll_back(tm);
		tm->mutating = false;
		up_write(&tm->lock);
	}
	meta_count_space(tm);
	mutex_unlock(&tm->change_lock);
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
	dev_init_trees(tm);

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
	if (tm->flag_unsaved && !write_superblock(tm, &tm->sb))
		DMINFO("%pg: needs_check is recorded now", tm->bdev);
	tm_drop(&tm->tm);
	sm_exit(&tm->data_sm);
	sm_exit(&tm->meta_sm);
	dev_free_all(tm);
	mutex_unlock(&tm->change_lock);
	mutex_unlock(&tm->commit_lock);
	bm_close(&tm->bm);
	mutex_destroy(&tm->change_lock);
	mutex_destroy(&tm->commit_lock);
	kfree(tm);
	return r;
}

/* ---- committing ---- */

/*
 * Fix what the transaction is and find a place for all of it.  The bitmaps go to
 * dm-bufio now, as they go on changing; the other blocks do not.
 */
static int lay_out(struct thin_meta *tm)
{
	int r;

	r = dev_write_changed(tm);
	if (!r)
		r = sm_layout(&tm->data_sm);
	if (!r)
		r = sm_layout(&tm->meta_sm);
	if (r)
		return r;
	pack_superblock(tm);
	r = sm_write(&tm->data_sm);
	if (!r)
		r = sm_write(&tm->meta_sm);
	return r;
}

static void release(struct thin_meta *tm, struct thin_freed *set)
{
	sm_release(&tm->data_sm, set->pages);
	tm->quiet_seq = set->seq;
	kfree(set);
}

/* Give a freed set to who knows of the bios, unless no reference was lost at all. */
static void hand_over(struct thin_meta *tm, struct thin_freed *set)
{
	if (!set->pages && max(tm->data_sm.loss_seq, tm->tm.hidden_loss_seq) < set->seq)
		kfree(set);
	else if (tm->ops && tm->ops->freed && !tm->closing)
		tm->ops->freed(tm->context, set);
	else
		release(tm, set);
}

/* The transaction in flight is durable. */
static void settle(struct thin_meta *tm)
{
	struct thin_freed *set = tm->in_flight;

	tm->in_flight = NULL;
	tm->sb = tm->new_sb;
	tm->sb_sent = false;
	tm_drop_frozen(&tm->tm);
	sm_settle(&tm->meta_sm);
	set->seq = tm->in_flight_seq;
	set->pages = sm_settle(&tm->data_sm);
	hand_over(tm, set);
	WRITE_ONCE(tm->durable_seq, tm->in_flight_seq);
	dev_sweep(tm);
}

/* The time since the last call for @now. */
static u64 lap(u64 *now)
{
	u64 before = *now;

	*now = ktime_get_ns();
	return *now - before;
}

static bool has_data_flush(struct thin_meta *tm)
{
	return tm->ops && tm->ops->data_flush_begin;
}

/*
 * The open transaction becomes the one in flight, and the next one is open.  After an
 * error all has been rolled back.
 */
static int freeze(struct thin_meta *tm)
{
	struct thin_freed *freed = kzalloc(sizeof(*freed), GFP_NOIO);
	int r;

	tm->sb_sent = false;
	down_write(&tm->lock);
	if (has_data_flush(tm))
		tm->ops->data_flush_begin(tm->context);
	r = freed ? lay_out(tm) : -ENOMEM;
	if (r) {
		roll_back(tm);
		kfree(freed);
	} else {
		tm_freeze(&tm->tm);
		sm_freeze(&tm->data_sm);
		sm_freeze(&tm->meta_sm);
		tm->in_flight = freed;
		tm->in_flight_seq = tm->open_seq;
		reinit_completion(&tm->io_done);
		WRITE_ONCE(tm->changed, false);
		next_seq(tm);
	}
	up_write(&tm->lock);
	return r;
}

/* Once for every freeze(), whose outcome is @error. */
static int write_frozen(struct thin_meta *tm, int error, struct thin_meta_times *times, u64 *now)
{
	int r = error, flush_error = 0;

	if (!r)
		r = tm_write_frozen(&tm->tm);
	if (!r)
		r = bm_flush(&tm->bm);
	times->metadata_ns = lap(now);
	if (has_data_flush(tm))
		flush_error = tm->ops->data_flush_wait(tm->context);
	times->data_ns = lap(now);
	if (!r)
		r = flush_error;
	if (!r) {
		tm->sb_sent = true;
		r = write_superblock(tm, &tm->new_sb);
	}
	times->superblock_ns = lap(now);

	if (!error) {
		tm->io_error = r;
		complete_all(&tm->io_done);
	}
	return r;
}

/* The I/O has ended; perhaps somebody who failed has drawn the outcome already. */
static void draw_outcome(struct thin_meta *tm)
{
	down_write(&tm->lock);
	if (tm->in_flight && tm->io_error)
		roll_back(tm);
	else if (tm->in_flight)
		settle(tm);
	up_write(&tm->lock);
	meta_count_space(tm);
}

/* With commit_lock and change_lock held; @let_go: the latter not during the I/O. */
static int commit(struct thin_meta *tm, bool let_go)
{
	struct thin_meta_times times = { .seq = tm->open_seq };
	u64 now = 0;
	int r;

	if (!tm->changed)
		return 0;

	lap(&now);
	r = freeze(tm);
	times.freeze_ns = lap(&now);

	if (let_go)
		meta_end_change(tm, 0);
	r = write_frozen(tm, r, &times, &now);
	if (let_go)
		mutex_lock(&tm->change_lock);

	draw_outcome(tm);
	if (!r && tm->ops && tm->ops->committed)
		tm->ops->committed(tm->context, &times);
	return r;
}

/**
 * meta_commit_locked() - commit, and let nobody change anything meanwhile
 * @tm: the pool, its commit_lock and change_lock held
 *
 * Return: 0, or a negative errno: all has been rolled back then.
 */
int meta_commit_locked(struct thin_meta *tm)
{
	return commit(tm, false);
}

/**
 * thin_meta_commit() - make the open transaction durable (format 9)
 * @tm: the pool
 *
 * Does nothing, and does not flush the data device, when nothing was changed; a
 * commit that is under way is waited for all the same.  Lookups go on meanwhile, and
 * changes, which belong to the next transaction.
 *
 * Return: 0; -EPERM while read-only with changes pending; -EIO after an
 * earlier rollback; otherwise a negative errno: all has been rolled back.
 */
int thin_meta_commit(struct thin_meta *tm)
{
	int r;

	mutex_lock(&tm->commit_lock);
	r = meta_begin_freeing(tm);
	if (!r) {
		r = commit(tm, true);
		meta_end_change(tm, 0);
	} else if (r == -EPERM && !thin_meta_changed(tm)) {
		r = 0;
	}
	mutex_unlock(&tm->commit_lock);
	return r;
}

/**
 * thin_meta_commit_alone() - commit, and tell what space there is behind it
 * @tm: the pool
 * @space: filled in
 *
 * No change comes in between, so nothing that an open transaction holds, or has freed
 * but not made durable, is missing in the numbers.
 *
 * Return: as thin_meta_commit().
 */
int thin_meta_commit_alone(struct thin_meta *tm, struct thin_meta_space *space)
{
	int r;

	mutex_lock(&tm->commit_lock);
	r = meta_begin_freeing(tm);
	if (!r) {
		r = meta_commit_locked(tm);
		if (!r)
			r = thin_meta_get_space(tm, space);
		meta_end_change(tm, 0);
	}
	mutex_unlock(&tm->commit_lock);
	return r;
}

/**
 * thin_meta_commit_last() - commit, and serve only what frees from then on
 * @tm: the pool
 *
 * No change comes between the two.
 *
 * Return: as thin_meta_commit(); other changes are refused in any case.
 */
int thin_meta_commit_last(struct thin_meta *tm)
{
	int r;

	mutex_lock(&tm->commit_lock);
	r = meta_begin_change(tm);
	if (!r) {
		r = meta_commit_locked(tm);
		tm->access = THIN_META_FREEING;
		meta_end_change(tm, 0);
	} else if (r == -EPERM) {
		r = 0;
	}
	mutex_unlock(&tm->commit_lock);
	return r;
}

/**
 * thin_meta_abort() - make sure that the open transaction is rolled back
 * @tm: the pool
 *
 * Failed changes and commits have rolled back already; this tells the outcome.
 * Changes are refused from then on, until the pool is closed and opened again.
 *
 * Return: 0, or -EIO: the metadata has failed for good.
 */
int thin_meta_abort(struct thin_meta *tm)
{
	int r;

	mutex_lock(&tm->change_lock);
	if (!tm->failed && !tm->aborted) {
		down_write(&tm->lock);
		roll_back(tm);
		up_write(&tm->lock);
		meta_count_space(tm);
	}
	r = tm->failed ? -EIO : 0;
	mutex_unlock(&tm->change_lock);
	return r;
}

/**
 * thin_meta_release_freed() - these data blocks may be handed out again
 * @tm: the pool
 * @set: of &thin_meta_ops.freed; gone afterwards
 */
void thin_meta_release_freed(struct thin_meta *tm, struct thin_freed *set)
{
	mutex_lock(&tm->change_lock);
	release(tm, set);
	meta_end_change(tm, 0);
}

/**
 * thin_freed_next() - first run of a range that is in a freed set
 * @set: not yet released
 * @begin: first data block of the range
 * @end: one past its last
 * @free_begin: set to the first data block in the set
 * @free_end: set to one past the run, which may go on in the next call
 *
 * Takes no lock.
 *
 * Return: false when there is none.
 */
bool thin_freed_next(const struct thin_freed *set, u64 begin, u64 end, u64 *free_begin,
		     u64 *free_end)
{
	return sm_freed_next(set->pages, begin, end, free_begin, free_end);
}

/**
 * thin_meta_wants_commit() - has the open transaction become large
 * @tm: the pool
 *
 * Takes no lock.
 *
 * Return: true when a commit should not wait for its time.
 */
bool thin_meta_wants_commit(struct thin_meta *tm)
{
	return READ_ONCE(tm->tm.nr_shadows) + READ_ONCE(tm->data_sm.nr_dirty) > MAX_SHADOWS;
}

/**
 * thin_meta_changed() - is there anything to commit
 * @tm: the pool
 *
 * Takes no lock.
 *
 * Return: true when the open transaction has changes.
 */
bool thin_meta_changed(struct thin_meta *tm)
{
	return READ_ONCE(tm->changed);
}

/**
 * thin_meta_is_changing() - would a change have to wait for another
 * @tm: the pool
 *
 * Takes no lock.
 *
 * Return: the answer of a moment.
 */
bool thin_meta_is_changing(struct thin_meta *tm)
{
	return mutex_is_locked(&tm->change_lock);
}

/**
 * thin_meta_open_seq() - number of the open transaction
 * @tm: the pool
 *
 * Takes no lock.
 *
 * Return: the number, from 1 when the pool was opened.
 */
u64 thin_meta_open_seq(struct thin_meta *tm)
{
	return READ_ONCE(tm->open_seq);
}

/**
 * thin_meta_durable_seq() - number of the last durable transaction
 * @tm: the pool
 *
 * Takes no lock.
 *
 * Return: the number, 0 when none was committed since the pool was opened.
 */
u64 thin_meta_durable_seq(struct thin_meta *tm)
{
	return READ_ONCE(tm->durable_seq);
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
	r = write_superblock(tm, &sb);

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
