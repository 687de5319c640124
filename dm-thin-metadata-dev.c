// SPDX-License-Identifier: GPL-2.0-only
/*
 * Thin devices in the metadata: creating, opening, snapshots.
 *
 * A changed device keeps its root and details in memory until the commit.
 * Before its first change in a transaction the path to its top-level entry is
 * shadowed (dev_own_path()), which counts the roots of a leaf shared with the
 * metadata snapshot; only then do the counts below say "mine alone".  From there
 * on the entry on disk is dead until dev_write_changed().  The top level is
 * shared by nothing but a metadata snapshot, and taking one commits first, so
 * no dead entry is ever copied for somebody else.
 */
#include "dm-thin-metadata-internal.h"

#include <linux/err.h>
#include <linux/gfp.h>
#include <linux/kernel.h>
#include <linux/slab.h>
#include <linux/string.h>

#define DM_MSG_PREFIX "thin metadata"

/* ---- records of devices ---- */

static int read_details(struct thin_meta *tm, u32 id, struct disk_details *details)
{
	return bt_lookup(&tm->details, tm->details_root, id, true, details);
}

static int read_root(struct thin_meta *tm, u32 id, u64 *root)
{
	__le64 value;
	int r = bt_lookup(&tm->top, tm->top_root, id, true, &value);

	if (r == -ENODATA) {
		DMERR_LIMIT("%pg: device %u has details but no mappings", tm->bdev, id);
		return -EILSEQ;
	}
	if (!r)
		*root = le64_to_cpu(value);
	return r;
}

static int load(struct thin_dev *td)
{
	struct thin_meta *tm = td->tm;
	struct disk_details details;
	int r;

	r = read_details(tm, td->id, &details);
	if (!r)
		r = read_root(tm, td->id, &td->root);
	if (r)
		return r;
	td->mapped_blocks = le64_to_cpu(details.mapped_blocks);
	td->transaction_id = le64_to_cpu(details.transaction_id);
	td->creation_time = le32_to_cpu(details.creation_time);
	WRITE_ONCE(td->snapshotted_time, le32_to_cpu(details.snapshotted_time));
	td->changed = false;
	td->owned_seq = 0;
	td->gone = false;
	return 0;
}

static int write_root(struct thin_meta *tm, u32 id, u64 root)
{
	__le64 value = cpu_to_le64(root);

	return bt_insert(&tm->top, &tm->top_root, id, &value);
}

static int write_details(struct thin_dev *td)
{
	struct thin_meta *tm = td->tm;
	struct disk_details details = {
		.mapped_blocks = cpu_to_le64(td->mapped_blocks),
		.transaction_id = cpu_to_le64(td->transaction_id),
		.creation_time = cpu_to_le32(td->creation_time),
		.snapshotted_time = cpu_to_le32(td->snapshotted_time),
	};

	return bt_insert(&tm->details, &tm->details_root, td->id, &details);
}

/**
 * dev_write_changed() - bring roots and details into the trees, for a commit
 * @tm: the pool, locked for writing
 *
 * Return: 0 or a negative errno.
 */
int dev_write_changed(struct thin_meta *tm)
{
	struct thin_dev *td;
	unsigned long id;
	int r;

	xa_for_each(&tm->devs, id, td) {
		if (!td->changed)
			continue;
		r = write_root(tm, td->id, td->root);
		if (!r)
			r = write_details(td);
		if (r)
			return r;
		td->changed = false;
	}
	return 0;
}

/**
 * dev_mark_rolled_back() - transactions are lost
 * @tm: the pool, locked for writing
 * @seq: the last one that is not; the devices changed after it are marked
 */
void dev_mark_rolled_back(struct thin_meta *tm, u64 seq)
{
	struct thin_dev *td;
	unsigned long id;

	xa_for_each(&tm->devs, id, td)
		if (td->changed_seq > seq)
			WRITE_ONCE(td->rolled_back, true);
}

/**
 * dev_drop_caches() - forget what the open transaction has told the caches
 * @tm: the pool, locked for writing
 */
void dev_drop_caches(struct thin_meta *tm)
{
	struct thin_dev *td;
	unsigned long id;

	xa_for_each(&tm->devs, id, td)
		dev_cache_drop(td);
}

static int reload(struct thin_dev *td)
{
	int r = load(td);

	if (r && r != -ENODATA) {
		DMERR_LIMIT("%pg: device %u cannot be read back (error %d)", td->tm->bdev, td->id,
			    r);
		return r;
	}
	td->gone = r;
	/* Pairs with dev_is_unread(). */
	smp_store_release(&td->unread, false);
	return 0;
}

/**
 * dev_reload_all() - take all records from the trees again, after a rollback
 * @tm: the pool, locked for writing
 */
void dev_reload_all(struct thin_meta *tm)
{
	struct thin_dev *td;
	unsigned long id;

	xa_for_each(&tm->devs, id, td) {
		td->changed = false;
		td->unread = true;
		reload(td);
	}
}

/**
 * dev_reload() - try once more to take a record from the trees
 * @td: a device that is unread, its pool locked for reading
 *
 * The disk that could not be read then may answer now.  Only who needs such a record
 * waits for it.
 *
 * Return: 0, also when there is no such device any more; or a negative errno.
 */
int dev_reload(struct thin_dev *td)
{
	struct thin_meta *tm = td->tm;
	int r = 0;

	mutex_lock(&tm->reload_lock);
	if (td->unread)
		r = reload(td);
	mutex_unlock(&tm->reload_lock);
	return r;
}

static void free_record(struct thin_dev *td)
{
	dev_cache_exit(td);
	kfree(td);
}

/**
 * dev_free_all() - free the records that are still kept
 * @tm: the pool
 */
void dev_free_all(struct thin_meta *tm)
{
	struct thin_dev *td;
	unsigned long id;

	xa_for_each(&tm->devs, id, td)
		free_record(td);
	xa_destroy(&tm->devs);
}

/* Make the way to a device's root this transaction's own; the pool is locked for writing. */
static int dev_own_path(struct thin_dev *td)
{
	struct thin_meta *tm = td->tm;
	int r;

	if (td->owned_seq == tm->open_seq)
		return 0;
	WRITE_ONCE(tm->changed, true);
	/* The same value again: this is for the shadowing on the way to it. */
	r = write_root(tm, td->id, td->root);
	if (r)
		return r;
	td->owned_seq = tm->open_seq;
	return 0;
}

/* It has changed in this transaction; its path is owned. */
static void dev_note_change(struct thin_dev *td)
{
	td->changed = true;
	WRITE_ONCE(td->changed_seq, td->tm->open_seq);
	WRITE_ONCE(td->tm->changed, true);
}

/**
 * dev_mutate() - from here on a device changes, and an error means rolling back
 * @td: the device, its pool's change_lock held
 *
 * Takes the lock for writing, as meta_mutate() does.
 *
 * Return: as tm_new().
 */
int dev_mutate(struct thin_dev *td)
{
	int r;

	meta_mutate(td->tm);
	r = dev_own_path(td);
	if (!r)
		dev_note_change(td);
	return r;
}

static struct thin_dev *new_record(struct thin_meta *tm, u32 id)
{
	struct thin_dev *td = kzalloc(sizeof(*td), GFP_NOIO);
	int r;

	if (!td)
		return ERR_PTR(-ENOMEM);
	td->tm = tm;
	td->id = id;
	dev_cache_init(td);
	r = load(td);
	if (!r)
		r = xa_err(xa_store(&tm->devs, id, td, GFP_NOIO));
	if (r) {
		free_record(td);
		return ERR_PTR(r);
	}
	return td;
}

/* Records without an opener stay only for what the durable trees do not know. */
static void drop_record(struct thin_dev *td)
{
	if (td->open_count || td->rolled_back || td->deleting ||
	    td->changed_seq > td->tm->durable_seq)
		return;
	xa_erase(&td->tm->devs, td->id);
	free_record(td);
}

/**
 * dev_sweep() - drop the records that were kept for a commit
 * @tm: the pool, locked for writing
 */
void dev_sweep(struct thin_meta *tm)
{
	struct thin_dev *td;
	unsigned long id;

	xa_for_each(&tm->devs, id, td)
		drop_record(td);
}

/**
 * dev_get_record() - the record of a device, read if need be
 * @tm: the pool, change_lock held
 * @id: its number
 *
 * Return: the record, or an error: -ENODATA when there is no such device, or it is being
 * deleted, -ENOMEM, -EILSEQ, or the errno of a read.
 */
struct thin_dev *dev_get_record(struct thin_meta *tm, u32 id)
{
	struct thin_dev *td = xa_load(&tm->devs, id);
	int r;

	if (!td)
		return new_record(tm, id);
	if (dev_is_unread(td)) {
		down_read(&tm->lock);
		r = dev_reload(td);
		up_read(&tm->lock);
		if (r)
			return ERR_PTR(r);
	}
	return td->gone || td->deleting ? ERR_PTR(-ENODATA) : td;
}

/**
 * thin_meta_open_dev() - open a device
 * @tm: the pool
 * @id: its number
 * @td: set; every opener gets the same
 *
 * Return: 0, -ENODATA when there is no such device or it is being deleted,
 * -EIO, -ENOMEM, or the errno of a read.
 */
int thin_meta_open_dev(struct thin_meta *tm, u32 id, struct thin_dev **td)
{
	struct thin_dev *record;
	int r = 0;

	mutex_lock(&tm->change_lock);
	record = tm->failed ? ERR_PTR(-EIO) : dev_get_record(tm, id);
	if (IS_ERR(record)) {
		r = PTR_ERR(record);
	} else {
		record->open_count++;
		*td = record;
	}
	mutex_unlock(&tm->change_lock);
	return r;
}

/**
 * thin_meta_close_dev() - close a device
 * @td: of thin_meta_open_dev(); no I/O through it is under way
 */
void thin_meta_close_dev(struct thin_dev *td)
{
	struct thin_meta *tm = td->tm;

	mutex_lock(&tm->change_lock);
	td->open_count--;
	if (!td->open_count)
		dev_cache_drop(td);
	drop_record(td);
	mutex_unlock(&tm->change_lock);
}

/* ---- creating ---- */

static int add_device(struct thin_meta *tm, u32 id, u64 root, u64 mapped_blocks)
{
	struct thin_dev td = {
		.tm = tm,
		.id = id,
		.mapped_blocks = mapped_blocks,
		.transaction_id = tm->trans_id,
		.creation_time = tm->time,
		.snapshotted_time = tm->time,
	};
	int r;

	r = write_root(tm, id, root);
	return r ?: write_details(&td);
}

static int check_new(struct thin_meta *tm, u32 id)
{
	struct disk_details details;
	struct thin_dev *td = xa_load(&tm->devs, id);
	int r;

	if (id > THIN_MAX_DEV_ID)
		return -EINVAL;
	if (td && td->deleting)
		return -EEXIST;
	r = read_details(tm, id, &details);
	if (r != -ENODATA)
		return r ?: -EEXIST;
	return meta_has_room_for_device(tm, false) ? 0 : -ENOSPC;
}

/* A record kept for the mark of an older device of this number takes the new one. */
static int revive_record(struct thin_meta *tm, u32 id)
{
	struct thin_dev *td = xa_load(&tm->devs, id);

	return td ? load(td) : 0;
}

static int create_thin(struct thin_meta *tm, u32 id)
{
	u64 root;
	int r;

	meta_mutate(tm);
	r = bt_empty(&tm->mapping, &root);
	if (!r)
		r = add_device(tm, id, root, 0);
	if (!r)
		r = revive_record(tm, id);
	return meta_hide(r);
}

/**
 * thin_meta_create_thin() - make an empty device
 * @tm: the pool
 * @id: its number, up to THIN_MAX_DEV_ID
 *
 * Return: 0; -EEXIST, -EINVAL, -ENOSPC, -EPERM without any change; otherwise an
 * error, and the transaction is rolled back.
 */
int thin_meta_create_thin(struct thin_meta *tm, u32 id)
{
	int r = meta_begin_change(tm);

	if (r)
		return r;
	r = check_new(tm, id);
	if (!r)
		r = create_thin(tm, id);
	meta_end_change(tm, r);
	return r;
}

static int create_snap(struct thin_meta *tm, u32 id, struct thin_dev *origin)
{
	int r;

	meta_mutate(tm);
	r = dev_own_path(origin);
	if (!r)
		r = tm_inc(&tm->tm, origin->root);
	if (!r) {
		tm->time++;
		/* Pairs with the acquire in thin_dev_find(). */
		smp_store_release(&origin->snapshotted_time, tm->time);
		dev_note_change(origin);
		r = add_device(tm, id, origin->root, origin->mapped_blocks);
	}
	if (!r)
		r = revive_record(tm, id);
	return meta_hide(r);
}

/**
 * thin_meta_create_snap() - make a device that shares all blocks of another
 * @tm: the pool
 * @id: the new number, up to THIN_MAX_DEV_ID
 * @origin: an existing device; no write to it is under way
 *
 * Format 13.2.  Costs the same whatever the origin's size.
 *
 * Return: 0; -EEXIST, -ENODATA (no such origin), -EINVAL, -ENOSPC, -EOVERFLOW
 * (the clock is at its end), -EPERM without any change; otherwise an error,
 * and the transaction is rolled back.
 */
int thin_meta_create_snap(struct thin_meta *tm, u32 id, u32 origin)
{
	struct thin_dev *td;
	int r = meta_begin_change(tm);

	if (r)
		return r;
	r = check_new(tm, id);
	if (r)
		goto out;
	td = dev_get_record(tm, origin);
	if (IS_ERR(td)) {
		r = PTR_ERR(td);
		goto out;
	}
	if (tm->time >= MAPPING_TIME_MAX) {
		DMERR("%pg: the snapshot clock is at its end", tm->bdev);
		r = -EOVERFLOW;
	} else {
		r = create_snap(tm, id, td);
	}
	drop_record(td);
out:
	meta_end_change(tm, r);
	return r;
}

/* ---- what a device knows of itself ---- */

/**
 * thin_dev_id() - a device's number
 * @td: the device
 *
 * Return: the number.
 */
u32 thin_dev_id(const struct thin_dev *td)
{
	return td->id;
}

/**
 * thin_dev_changed_seq() - the last transaction that changed a device
 * @td: the device
 *
 * Takes no lock; stored before the change's bio ends.
 *
 * Return: its number; durable when not above thin_meta_durable_seq().
 */
u64 thin_dev_changed_seq(const struct thin_dev *td)
{
	return READ_ONCE(td->changed_seq);
}

/**
 * thin_dev_rolled_back() - were changes of a device lost in an abort
 * @td: the device
 *
 * Takes no lock.
 *
 * Return: true from then on until the pool is closed.
 */
bool thin_dev_rolled_back(const struct thin_dev *td)
{
	return READ_ONCE(td->rolled_back);
}

/**
 * thin_dev_snapshotted_time() - the clock of a device's last snapshot
 * @td: the device
 *
 * Takes no lock.
 *
 * Return: mappings with a smaller time may be shared.
 */
u32 thin_dev_snapshotted_time(const struct thin_dev *td)
{
	return READ_ONCE(td->snapshotted_time);
}
