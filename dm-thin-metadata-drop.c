// SPDX-License-Identifier: GPL-2.0-only
/*
 * Letting go of large trees: deleting a device; the steps, which releasing the metadata snapshot
 * takes as well (format 7).
 *
 * First the leaves go that no other tree has, some in each hold of the locks, and others
 * change the pool in between, commits included.  So each step leaves a tree that is whole, with
 * fewer mappings.  What is left then is shared, and goes with the root at once: only counts
 * change, and nothing is read.
 *
 * Locking: change_lock is held from the beginning of a step to its end, lock for writing from
 * where it changes something; neither from one step to the next.
 */
#include "dm-thin-metadata-internal.h"

#include <linux/err.h>
#include <linux/gfp.h>
#include <linux/kernel.h>
#include <linux/sched.h>

/* Commits in a row, for want of room, before there is no hope in another. */
#define MAX_REFUSED	3

/**
 * meta_drop_own_leaves() - take out of a tree leaves that no other has
 * @tree: the tree; the way to its root is its own, and its root is; moves
 * @key: where to begin to look; 0 at first, then as it was left
 * @page: a page for the leaf at hand
 * @leaves: how many were taken out in this step, by this call or before it; counted up
 * @mappings: how many went with them
 *
 * The pool is being changed, see meta_mutate().  Stops at %REMOVE_STEP_LEAVES, and where
 * metadata is short.
 *
 * Return: 1 when all are gone, 0 to go on in the next step; -EAGAIN: not without more metadata,
 * of which a commit may give some, and nothing has gone in this step; otherwise the errno of
 * what failed.
 */
int meta_drop_own_leaves(struct meta_tree *tree, u64 *key, struct disk_node *page, u32 *leaves,
			 u64 *mappings)
{
	struct thin_meta *tm = tree->tm;
	bool from_start = !*key;
	u32 nr;
	int r;

	*mappings = 0;
	bt_prefetch_leaves(&tm->mapping, tree->root, *key, U64_MAX, true, REMOVE_AHEAD_LEAVES);
	while (*leaves < REMOVE_STEP_LEAVES && (!*leaves || !meta_is_short(tm))) {
		r = bt_seek_own_leaf(&tm->mapping, tree->root, key, page);
		if (r == -ENODATA && !from_start) {
			/* Others may have left it their share of leaves that were passed. */
			from_start = true;
			*key = 0;
			continue;
		}
		/* Also of the last key there can be, which no range ends behind. */
		if (r)
			return r == -ENODATA ? 1 : r;
		nr = meta_room_to_drop(tree, page);
		if (!nr)
			return *leaves ? 0 : -EAGAIN;
		r = bt_remove_leaf(&tm->mapping, &tree->root, bt_key(page, 0),
				   bt_key(page, nr - 1) + 1, key, &nr);
		if (r)
			return r == -ENODATA ? 1 : r;
		++*leaves;
		*mappings += nr;
	}
	return 0;
}

/*
 * Let others have the locks between two steps, unless in a @hurry, and commit if
 * it is time.  Returns with change_lock held, or an error without.
 */
static int breathe(struct thin_meta *tm, bool hurry, bool commit)
{
	int r = 0;

	commit |= meta_is_short(tm);
	meta_end_change(tm, 0);
	if (!hurry) {
		cond_resched();
		commit |= thin_meta_wants_commit(tm) || !READ_ONCE(tm->space.meta_free);
	}
	if (commit)
		r = thin_meta_commit(tm);
	return r ?: meta_begin_freeing(tm);
}

/**
 * meta_drop_in_steps() - take steps until all is gone
 * @tm: the pool, change_lock held; it is not between two steps
 * @step: one step; returns as meta_drop_own_leaves()
 * @state: for @step
 * @stop_yielding: asked between steps; from when it says true a commit is made
 *	only where metadata is short and others get the locks only by chance.
 *	NULL: never
 * @arg: for @stop_yielding
 *
 * Return: 0; -ENOSPC while nothing is under way: there is not enough metadata for the
 * rest; otherwise what failed, -EIO also where others have rolled back or made the pool
 * read-only.
 */
int meta_drop_in_steps(struct thin_meta *tm, int (*step)(void *state), void *state,
		       bool (*stop_yielding)(void *arg), void *arg)
{
	unsigned int refused = 0;
	int r;

	while ((r = step(state)) != 1) {
		refused = r == -EAGAIN ? refused + 1 : 0;
		if (r && !refused)
			return r;
		r = breathe(tm, stop_yielding && stop_yielding(arg), refused);
		if (r) {
			/* Rolled back or made read-only by others meanwhile. */
			mutex_lock(&tm->change_lock);
			return -EIO;
		}
		/* It was not for want of a commit, nor of one that nobody got ahead of. */
		if (refused > MAX_REFUSED)
			return -ENOSPC;
	}
	return 0;
}

/* ---- a device ---- */

/**
 * struct delete - a device while it is deleted
 * @td: the device
 * @key: where to go on
 * @page: for meta_drop_own_leaves()
 */
struct delete {
	struct thin_dev *td;
	u64 key;
	struct disk_node *page;
};

static int finish_delete(struct thin_dev *td)
{
	struct thin_meta *tm = td->tm;
	int r;

	r = bt_remove(&tm->details, &tm->details_root, td->id);
	if (!r)
		r = bt_remove(&tm->top, &tm->top_root, td->id);
	if (!r)
		r = bt_delete(&tm->mapping, td->root);
	if (!r) {
		td->changed = false;
		td->gone = true;
		meta_ask_again(tm);
	}
	return r;
}

static int delete_step(void *state)
{
	struct delete *del = state;
	struct thin_dev *td = del->td;
	struct thin_meta *tm = td->tm;
	struct meta_tree tree;
	u32 count, leaves = 0;
	u64 mappings;
	int r;

	r = dev_mutate(td);
	if (r)
		return r;
	r = tm_count(&tm->tm, td->root, &count);
	if (!r && count == 1) {
		tree = dev_tree(td);
		r = meta_drop_own_leaves(&tree, &del->key, del->page, &leaves, &mappings);
		td->root = tree.root;
		td->mapped_blocks -= min(mappings, td->mapped_blocks);
	} else if (!r) {
		r = 1;
	}
	return r == 1 ? finish_delete(td) ?: 1 : r;
}

/**
 * thin_meta_delete() - delete a device
 * @tm: the pool
 * @id: its number
 * @stop_yielding: as for meta_drop_in_steps()
 * @arg: for @stop_yielding
 *
 * Works in bounded steps and lets others change the pool between them; may
 * commit.  After a crash on the way the device is there with fewer mappings.
 *
 * Return: 0; -ENODATA, -EBUSY (open, or already being deleted), -EPERM
 * without any change; -ENOSPC when there is not enough metadata for the rest of it: the
 * device has fewer mappings then; otherwise an error, and the transaction is rolled back
 * unless others have made the pool read-only.
 */
int thin_meta_delete(struct thin_meta *tm, u32 id, bool (*stop_yielding)(void *arg), void *arg)
{
	unsigned long page = __get_free_page(GFP_NOIO);
	struct delete del = { .page = (struct disk_node *)page };
	int r;

	if (!page)
		return -ENOMEM;
	r = meta_begin_freeing(tm);
	if (r)
		goto out_free;
	del.td = xa_load(&tm->devs, id);
	if (del.td && (del.td->deleting || (del.td->open_count && !del.td->gone))) {
		r = -EBUSY;
		goto out;
	}
	del.td = dev_get_record(tm, id);
	if (IS_ERR(del.td)) {
		r = PTR_ERR(del.td);
		goto out;
	}
	del.td->deleting = true;
	r = meta_drop_in_steps(tm, delete_step, &del, stop_yielding, arg);
	/* Nothing of it is under way then. */
	if (r != -ENOSPC || tm->mutating)
		r = meta_hide(r);
	del.td->deleting = false;
out:
	meta_end_change(tm, r);
out_free:
	free_page(page);
	return r;
}
