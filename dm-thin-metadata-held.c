// SPDX-License-Identifier: GPL-2.0-only
/*
 * The snapshot of the metadata, for user space to read while the pool works (format 8): a
 * copy of the superblock, whose trees are let alone as long as it is held.
 *
 * Letting it go changes counts of all that only it has, which may be as much as a pool
 * maps.  What one hold of the locks cannot do is done in steps, as for deleting a device, and the
 * copy moves with each transaction.  Devices go one after another, and what is left of the
 * one that a step has not finished gets a number that no device has: who looks for a device in
 * the snapshot after a crash finds it whole, or not at all, rather than with holes.
 *
 * Counts below the copy's top level say "its alone" only along a path of its own: who asks them
 * comes down from its root through nodes with one user.
 *
 * Locking: as in dm-thin-metadata-drop.c; held_told may be read without a lock.
 */
#include "dm-thin-metadata-internal.h"

#include <linux/device-mapper.h>
#include <linux/gfp.h>
#include <linux/kernel.h>
#include <linux/string.h>

#define DM_MSG_PREFIX "thin metadata"

/* Above the number of any device. */
#define NONE	U64_MAX

static int copy_superblock(struct thin_meta *tm)
{
	struct disk_superblock *copy;
	void *data;
	u64 block;
	int r;

	meta_mutate(tm);
	r = tm_new(&tm->tm, PD_SUPERBLOCK, &block, &data);
	if (!r)
		r = tm_inc(&tm->tm, tm->top_root);
	if (!r)
		r = tm_inc(&tm->tm, tm->details_root);
	if (r)
		return r;
	copy = data;
	*copy = tm->sb;
	copy->held_root = 0;
	memset(copy->data_space_map_root, 0, SM_ROOT_FIELD_SIZE);
	memset(copy->metadata_space_map_root, 0, SM_ROOT_FIELD_SIZE);
	tm->held_root = block;
	return 0;
}

/**
 * thin_meta_reserve_snap() - commit, then keep this state readable for user space
 * @tm: the pool
 *
 * The caller commits again to make the snapshot durable.
 *
 * Return: 0; -EBUSY (there is one), -ENOSPC, -EPERM without any change;
 * otherwise an error, and the transaction is rolled back.
 */
int thin_meta_reserve_snap(struct thin_meta *tm)
{
	int r;

	mutex_lock(&tm->commit_lock);
	r = meta_begin_change(tm);
	if (r)
		goto out;
	if (tm->held_root)
		r = -EBUSY;
	else if (!meta_has_room_for_device(tm, true))
		r = -ENOSPC;
	/* change_lock stays held: no change comes between the commit and the copy. */
	if (!r)
		r = meta_hide(meta_commit_locked(tm));
	if (!r)
		r = meta_hide(copy_superblock(tm));
	meta_end_change(tm, r);
out:
	mutex_unlock(&tm->commit_lock);
	return r;
}

/* ---- letting it go ---- */

/**
 * struct release - the metadata snapshot while it is let go
 * @tm: the pool
 * @top_root: root of its top level, in this step
 * @details_root: root of its details, in this step
 * @done: leaves and devices that have gone in this step
 * @half_gone: number of the device that has begun to go; NONE: there is none
 * @key: where to go on in that
 * @page: for nodes of the top level
 * @leaf: for leaves of devices
 */
struct release {
	struct thin_meta *tm;
	u64 top_root;
	u64 details_root;
	u32 done;
	u64 half_gone;
	u64 key;
	struct disk_node *page;
	struct disk_node *leaf;
};

/* Where the copy's trees are, and whether it is there to be changed; asked before anything is. */
static int read_copy(struct release *rel)
{
	struct thin_meta *tm = rel->tm;
	const struct disk_superblock *copy;
	struct pd_read read;
	u32 count;
	int r;

	r = tm_count(&tm->tm, tm->held_root, &count);
	if (r)
		return r;
	if (count != 1) {
		DMERR_LIMIT("%pg: the metadata snapshot in block %llu is counted %u times",
			    tm->bdev, tm->held_root, count);
		return -EILSEQ;
	}
	r = tm_read(&tm->tm, tm->held_root, PD_SUPERBLOCK, true, &read);
	if (r)
		return r;
	copy = read.data;
	rel->top_root = le64_to_cpu(copy->data_mapping_root);
	rel->details_root = le64_to_cpu(copy->device_details_root);
	tm_put(&read);
	return 0;
}

static int shadow_copy(struct thin_meta *tm, struct disk_superblock **copy)
{
	bool shared;
	void *data;
	u64 block;
	int r = tm_shadow(&tm->tm, PD_SUPERBLOCK, tm->held_root, &block, &data, &shared);

	if (r)
		return r;
	*copy = data;
	tm->held_root = block;
	return 0;
}

/* The highest number that no device has. */
static int choose_number(struct release *rel)
{
	struct thin_meta *tm = rel->tm;
	__le64 value;
	u64 id;
	int r;

	for (id = THIN_MAX_DEV_ID; id; id--) {
		r = bt_lookup(&tm->top, rel->top_root, id, true, &value);
		if (r == -ENODATA)
			r = bt_lookup(&tm->top, tm->top_root, id, true, &value);
		if (r)
			break;
	}
	rel->half_gone = id;
	return r == -ENODATA ? 0 : r ?: -EOVERFLOW;
}

/* Entries of the top level and the details; a damaged snapshot may lack the latter. */
static int remove_entries(struct release *rel, u64 id)
{
	struct thin_meta *tm = rel->tm;
	int r = bt_remove(&tm->top, &rel->top_root, id);

	if (!r)
		r = bt_remove(&tm->details, &rel->details_root, id);
	return r == -ENODATA ? 0 : r;
}

/* Another root, fewer mappings; its own number is given up. */
static int keep_rest(struct release *rel, const struct meta_tree *tree, u64 mappings)
{
	struct thin_meta *tm = rel->tm;
	__le64 value = cpu_to_le64(tree->root);
	struct disk_details details = { };
	u64 mapped;
	int r;

	r = bt_lookup(&tm->details, rel->details_root, tree->id, true, &details);
	if (r && r != -ENODATA)
		return r;
	mapped = le64_to_cpu(details.mapped_blocks);
	details.mapped_blocks = cpu_to_le64(mapped - min(mapped, mappings));
	r = 0;
	if (tree->id != rel->half_gone) {
		r = choose_number(rel);
		if (!r)
			r = remove_entries(rel, tree->id);
	}
	if (!r)
		r = bt_insert(&tm->top, &rel->top_root, rel->half_gone, &value);
	if (!r)
		r = bt_insert(&tm->details, &rel->details_root, rel->half_gone, &details);
	return r;
}

/* Of this device nothing is left that others do not have. */
static int drop_rest(struct release *rel, const struct meta_tree *tree)
{
	int r = remove_entries(rel, tree->id);

	rel->half_gone = NONE;
	rel->key = 0;
	rel->done++;
	return r ?: bt_delete(&rel->tm->mapping, tree->root);
}

/*
 * The device that is half gone, else the first one, of those in leaves of the top level that
 * are the copy's own.  Each goes by itself, for two devices may be each other's only sharers.
 */
static int seek_device(struct release *rel, struct meta_tree *tree)
{
	struct thin_meta *tm = rel->tm;
	int r;

	tree->top_root = rel->top_root;
	tree->id = rel->half_gone == NONE ? 0 : rel->half_gone;
	r = bt_seek_own_leaf(&tm->top, rel->top_root, &tree->id, rel->page);
	if (!r)
		tree->root = bt_child(rel->page, bt_search(rel->page, tree->id));
	return r;
}

/* Fewer devices; returns as meta_drop_own_leaves(). */
static int drop_devices(struct release *rel)
{
	struct thin_meta *tm = rel->tm;
	struct meta_tree tree = { .tm = tm };
	u64 mappings;
	u32 count;
	int r;

	while (rel->done < REMOVE_STEP_LEAVES && (!rel->done || !meta_is_short(tm))) {
		if (!meta_has_room_for_entries(tm))
			return rel->done ? 0 : -EAGAIN;
		r = seek_device(rel, &tree);
		if (r)
			return r == -ENODATA ? 1 : r;
		r = tm_count(&tm->tm, tree.root, &count);
		if (r)
			return r;
		if (count == 1) {
			r = meta_drop_own_leaves(&tree, &rel->key, rel->leaf, &rel->done,
						 &mappings);
			if (r != 1)
				return !r && mappings ? keep_rest(rel, &tree, mappings) : r;
		}
		r = drop_rest(rel, &tree);
		if (r)
			return r;
	}
	return 0;
}

/* No device is left in leaves of the top level that are its own; the others lose a user. */
static int finish_release(struct release *rel)
{
	struct thin_meta *tm = rel->tm;
	bool freed;
	int r;

	r = bt_delete(&tm->top, rel->top_root);
	if (!r)
		r = bt_delete(&tm->details, rel->details_root);
	if (!r)
		r = tm_dec(&tm->tm, tm->held_root, &freed);
	if (!r) {
		tm->held_root = 0;
		meta_ask_again(tm);
	}
	return r;
}

static int release_step(void *state)
{
	struct release *rel = state;
	struct thin_meta *tm = rel->tm;
	struct disk_superblock *copy;
	u32 count;
	int r;

	r = read_copy(rel);
	if (!r)
		r = tm_count(&tm->tm, rel->top_root, &count);
	if (r)
		return r;
	if (count == 1 && !meta_has_room_for_entries(tm))
		return -EAGAIN;
	meta_mutate(tm);
	if (count != 1)
		return finish_release(rel) ?: 1;
	r = shadow_copy(tm, &copy);
	if (r)
		return r;
	rel->done = 0;
	r = drop_devices(rel);
	if (r == 1)
		return finish_release(rel) ?: 1;
	copy->data_mapping_root = cpu_to_le64(rel->top_root);
	copy->device_details_root = cpu_to_le64(rel->details_root);
	return r;
}

static int release(struct release *rel, bool (*stop_yielding)(void *arg), void *arg)
{
	struct thin_meta *tm = rel->tm;
	int r = meta_begin_freeing(tm);

	if (r)
		return r;
	if (!tm->held_root)
		r = -EINVAL;
	else if (tm->releasing)
		r = -EBUSY;
	else
		r = read_copy(rel);
	if (!r) {
		tm->releasing = true;
		r = meta_drop_in_steps(tm, release_step, rel, stop_yielding, arg);
		/* Nothing is under way then. */
		if (r != -ENOSPC || tm->mutating)
			r = meta_hide(r);
		tm->releasing = false;
	}
	meta_end_change(tm, r);
	return r;
}

/**
 * thin_meta_release_snap() - let the metadata snapshot go
 * @tm: the pool
 * @stop_yielding: as for meta_drop_in_steps()
 * @arg: for @stop_yielding
 *
 * Works in bounded steps where it is large and lets others change the pool between them; may
 * commit.  After a crash on the way it is still there, with fewer devices, and part of one
 * perhaps under a number that no device had.
 *
 * Return: 0; -EINVAL (there is none), -EBUSY (it is being let go), -EPERM, all without any
 * change; -ENOSPC when there is not enough metadata for the rest of it: as after a crash;
 * otherwise an error, and the transaction is rolled back if anything was half done, unless
 * others have made the pool read-only.
 */
int thin_meta_release_snap(struct thin_meta *tm, bool (*stop_yielding)(void *arg), void *arg)
{
	unsigned long page = __get_free_page(GFP_NOIO), leaf = __get_free_page(GFP_NOIO);
	struct release rel = {
		.tm = tm, .half_gone = NONE,
		.page = (struct disk_node *)page, .leaf = (struct disk_node *)leaf,
	};
	int r = page && leaf ? release(&rel, stop_yielding, arg) : -ENOMEM;

	free_page(page);
	free_page(leaf);
	return r;
}

/**
 * thin_meta_held_root() - where the metadata snapshot is to be read
 * @tm: the pool
 * @mblock: set to its block in the last durable transaction, 0 for none
 *
 * Takes no lock.
 *
 * Return: 0, or -EIO after a failed abort.
 */
int thin_meta_held_root(struct thin_meta *tm, u64 *mblock)
{
	*mblock = READ_ONCE(tm->held_told);
	return thin_meta_failed(tm) ? -EIO : 0;
}
