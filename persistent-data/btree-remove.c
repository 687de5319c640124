// SPDX-License-Identifier: GPL-2.0-only
/*
 * Removing one key, the keys of a range leaf by leaf, or a whole tree.
 *
 * A leaf that lies wholly in the range is not copied first: its pointer is
 * dropped, and only if that was the last one its values lose a reference.
 */
#include "btree.h"

#include <linux/gfp.h>
#include <linux/kernel.h>
#include <linux/string.h>

static u32 max_of(const struct disk_node *node)
{
	return le32_to_cpu(node->max_entries);
}

/* A root that has become trivial makes way for what is below it. */
static int shrink_root(struct bt_info *info, u64 *root)
{
	u32 depth;

	for (depth = 0; depth < BT_MAX_DEPTH; depth++) {
		u64 old = *root, child = 0;
		struct pd_read read;
		bool done, freed;
		u32 count;
		int r;

		/* Below the root that was shadowed, others may have the node, too. */
		r = tm_count(info->tm, old, &count);
		if (r || count > 1)
			return r;
		r = tm_read(info->tm, old, PD_NODE, true, &read);
		if (r)
			return r;
		done = bt_is_leaf(read.data) || bt_nr(read.data) > 1;
		if (!done && bt_nr(read.data))
			child = bt_child(read.data, 0);
		tm_put(&read);
		if (done)
			return 0;

		/* The child's count stays: the pointer only moves up. */
		if (child) {
			*root = child;
		} else {
			r = bt_empty(info, root);
			if (r)
				return r;
		}
		r = tm_dec(info->tm, old, &freed);
		if (r)
			return r;
	}
	return 0;
}

static void even_out(struct disk_node *left, struct disk_node *right)
{
	u32 nr_left = bt_nr(left), nr_right = bt_nr(right);
	u32 target = (nr_left + nr_right) / 2;

	if (nr_left > target) {
		u32 n = nr_left - target;

		bt_open_gap(right, 0, n);
		bt_move(left, target, right, 0, n);
	} else {
		u32 n = target - nr_left;

		bt_move(right, 0, left, nr_left, n);
		bt_close_gap(right, 0, n);
	}
	bt_set_nr(left, target);
}

/*
 * The node at the end of the path has lost entries: restore the minimum, here
 * and above.  Shortens the path; levels passed are not valid afterwards.
 */
static int fix_fill(struct bt_info *info, u64 *root, struct bt_path *path)
{
	for (; path->depth > 1; path->depth--) {
		struct bt_level *level = &path->level[path->depth - 1], *parent = level - 1;
		struct disk_node *left, *right;
		u64 blocks[2];
		bool freed;
		s32 first;
		u32 total;
		int r;

		if (bt_nr(level->node) >= max_of(level->node) / 3)
			return 0;
		if (bt_nr(parent->node) < 2)
			continue;	/* no neighbour: the parent is a root of one child */

		first = parent->index ? parent->index - 1 : 0;
		if (parent->index == first) {
			s32 index = first + 1;
			u64 old = bt_child(parent->node, index);

			left = level->node;
			blocks[0] = level->block;
			r = bt_shadow_node(info, old, &blocks[1], &right);
			if (!r)
				r = bt_check_child(info->tm, old, parent->node, index, right);
		} else {
			u64 old = bt_child(parent->node, first);

			right = level->node;
			blocks[1] = level->block;
			r = bt_shadow_node(info, old, &blocks[0], &left);
			if (!r)
				r = bt_check_child(info->tm, old, parent->node, first, left);
		}
		if (!r)
			r = bt_check_pair(info->tm, blocks[0], left, right);
		if (r)
			return r;
		bt_set_child(parent->node, first, blocks[0]);
		bt_set_child(parent->node, first + 1, blocks[1]);

		/* Not up to the brim: the next insertion would split again. */
		total = bt_nr(left) + bt_nr(right);
		if (total >= max_of(left) / 4 * 3) {
			even_out(left, right);
			bt_set_key(parent->node, first + 1, bt_key(right, 0));
			return 0;
		}
		bt_move(right, 0, left, bt_nr(left), bt_nr(right));
		bt_set_nr(left, total);
		r = tm_dec(info->tm, blocks[1], &freed);
		if (r)
			return r;
		bt_close_gap(parent->node, first + 1, 1);
	}
	return shrink_root(info, root);
}

/**
 * bt_remove() - remove a key and drop its value
 * @info: the tree
 * @root: its root, set to the new one
 * @key: the key
 *
 * Return: 0, -ENODATA when there is no such key (nothing is changed then),
 * -EILSEQ for damage, otherwise as tm_shadow().
 */
int bt_remove(struct bt_info *info, u64 *root, u64 key)
{
	struct bt_leaf found;
	bool same;
	u64 next;
	u32 nr;
	int r;

	r = bt_seek(info, *root, key, true, &found);
	if (r)
		return r;
	same = bt_key(found.node, found.index) == key;
	bt_put_leaf(&found);
	if (!same)
		return -ENODATA;
	if (key == U64_MAX)	/* the range's end would wrap */
		return -EINVAL;
	return bt_remove_leaf(info, root, key, key + 1, &next, &nr);
}

/* Entries of a leaf in [begin, end). */
static void find_cut(const struct disk_node *leaf, u64 begin, u64 end, u32 *first, u32 *nr)
{
	s32 i = begin ? bt_search(leaf, begin - 1) + 1 : 0;

	*first = i;
	*nr = bt_search(leaf, end - 1) + 1 - i;
}

static int drop_values(struct bt_info *info, const void *values, u32 nr)
{
	return info->dec ? info->dec(info->context, values, nr) : 0;
}

/*
 * If the child that the path's last entry leads to is a leaf wholly in the
 * range, drop it: returns 1.  Its values are copied because no buffer may be
 * held while they are counted down.
 */
static int drop_child(struct bt_info *info, struct bt_path *path, u64 begin, u64 end, u64 *next,
		      u32 *nr)
{
	struct bt_level *parent = &path->level[path->depth - 1];
	u64 block = bt_child(parent->node, parent->index);
	const struct disk_node *child;
	struct pd_read read;
	unsigned long copy;
	bool whole, freed;
	u32 first;
	int r;

	r = tm_read(info->tm, block, PD_NODE, true, &read);
	if (r)
		return r;
	child = read.data;
	r = bt_check_child(info->tm, block, parent->node, parent->index, child);
	if (r || !bt_is_leaf(child))
		goto out;
	r = bt_check_leaf(info, block, child);
	if (r)
		goto out;
	find_cut(child, begin, end, &first, nr);
	whole = *nr == bt_nr(child);
	if (!whole)
		goto out;

	*next = bt_key(child, *nr - 1) + 1;
	copy = __get_free_page(GFP_NOIO);
	if (!copy) {
		r = -ENOMEM;
		goto out;
	}
	memcpy((void *)copy, bt_value(child, 0), (size_t)*nr * info->value_size);
	tm_put(&read);

	r = tm_dec(info->tm, block, &freed);
	if (!r && !freed)
		tm_note_hidden_loss(info->tm);
	if (!r && freed)
		r = drop_values(info, (void *)copy, *nr);
	free_page(copy);
	if (r)
		return r;
	bt_close_gap(parent->node, parent->index, 1);
	return 1;
out:
	tm_put(&read);
	return r;
}

/**
 * bt_remove_leaf() - remove the first keys of a range, those in one leaf
 * @info: the tree
 * @root: its root, set to the new one
 * @begin: first key of the range
 * @end: one past the last key
 * @next: set to where to go on
 * @nr: set to the number of keys removed
 *
 * Bounded work, one call removes up to one leaf.
 *
 * Return: 0, -ENODATA when there is no such key (nothing is changed then),
 * -EILSEQ for damage, otherwise as tm_shadow().
 */
int bt_remove_leaf(struct bt_info *info, u64 *root, u64 begin, u64 end, u64 *next, u32 *nr)
{
	struct bt_level *level;
	struct bt_path path;
	struct bt_leaf leaf;
	u32 first;
	u64 key;
	int r;

	r = bt_seek(info, *root, begin, true, &leaf);
	if (r)
		return r;
	key = bt_key(leaf.node, leaf.index);
	bt_put_leaf(&leaf);
	if (key >= end)
		return -ENODATA;

	r = bt_shadow_root(info, root, &path);
	if (r)
		return r;
	for (;;) {
		level = &path.level[path.depth - 1];
		if (bt_is_leaf(level->node))
			break;
		level->index = max(bt_search(level->node, key), 0);
		r = drop_child(info, &path, begin, end, next, nr);
		if (r == 1)
			return fix_fill(info, root, &path);
		if (!r)
			r = bt_shadow_child(info, &path);
		if (r)
			return r;
	}

	find_cut(level->node, begin, end, &first, nr);
	*next = bt_key(level->node, first + *nr - 1) + 1;
	r = drop_values(info, bt_value(level->node, first), *nr);
	if (r)
		return r;
	bt_close_gap(level->node, first, *nr);
	return fix_fill(info, root, &path);
}

/*
 * Look from @index on for a child that nobody else uses.  @node is a copy: counts
 * may have to be read, and no buffer may be held meanwhile.
 */
static int own_child(struct bt_info *info, const struct disk_node *node, s32 index)
{
	u32 nr = bt_nr(node), count;

	for (; index < (s32)nr; index++) {
		int r = tm_count(info->tm, bt_child(node, index), &count);

		if (r)
			return r;
		if (count == 1)
			return index;
	}
	return -ENODATA;
}

/*
 * One way down from the root, only through nodes that are this tree's own.
 * Where there is none, -EAGAIN says that *@key is now where to try next.
 */
static int seek_own_leaf(struct bt_info *info, u64 root, u64 *key, struct disk_node *node)
{
	u64 block = root, bound = 0;
	bool last = true;
	u32 depth;

	for (depth = 0; depth < BT_MAX_DEPTH; depth++) {
		struct pd_read read;
		s32 i, own;
		int r;

		r = tm_read(info->tm, block, PD_NODE, true, &read);
		if (r)
			return r;
		memcpy(node, read.data, PD_BLOCK_SIZE);
		tm_put(&read);
		if (bt_is_leaf(node)) {
			r = bt_check_leaf(info, block, node);
			if (r)
				return r;
			i = *key ? bt_search(node, *key - 1) + 1 : 0;
			if (i < (s32)bt_nr(node)) {
				*key = bt_key(node, i);
				return 0;
			}
			break;
		}

		i = max(bt_search(node, *key), 0);
		own = own_child(info, node, i);
		if (own == -ENODATA)
			break;
		if (own < 0)
			return own;
		if (own > i)
			*key = bt_key(node, own);
		if (own + 1 < (s32)bt_nr(node)) {
			bound = bt_key(node, own + 1);
			last = false;
		}
		block = bt_child(node, own);
	}
	if (last)
		return -ENODATA;
	if (bound <= *key) {
		bm_complain(info->tm->bm, block, PD_NODE, "key beyond the parent's next", -EILSEQ);
		return -EILSEQ;
	}
	*key = bound;
	return -EAGAIN;
}

/**
 * bt_seek_own_leaf() - the next leaf that no other tree uses
 * @info: the tree
 * @root: its root
 * @key: where to begin to look; set to the leaf's first key from there on
 * @leaf: set to a copy of the leaf
 *
 * For deleting a tree in steps: what it shares needs no step, bt_delete() drops
 * that without reading it.
 *
 * Return: 0, -ENODATA when there is none, -EILSEQ for damage, otherwise as tm_read().
 */
int bt_seek_own_leaf(struct bt_info *info, u64 root, u64 *key, struct disk_node *leaf)
{
	int r;

	do {
		r = seek_own_leaf(info, root, key, leaf);
	} while (r == -EAGAIN);
	return r;
}

/* @depth counts down; a block met twice is caught by its count. */
static int delete_node(struct bt_info *info, u64 block, u32 depth)
{
	struct disk_node *copy;
	struct pd_read read;
	unsigned long page;
	bool freed;
	u32 count, i;
	int r;

	if (!depth) {
		bm_complain(info->tm->bm, block, PD_NODE, "tree too deep", -EILSEQ);
		return -EILSEQ;
	}
	r = tm_count(info->tm, block, &count);
	if (r)
		return r;
	if (count > 1) {
		tm_note_hidden_loss(info->tm);
		return tm_dec(info->tm, block, &freed);
	}
	page = __get_free_page(GFP_NOIO);
	if (!page)
		return -ENOMEM;
	copy = (struct disk_node *)page;
	r = tm_read(info->tm, block, PD_NODE, true, &read);
	if (r)
		goto out;
	memcpy(copy, read.data, PD_BLOCK_SIZE);
	tm_put(&read);
	if (bt_is_leaf(copy))
		r = bt_check_leaf(info, block, copy);
	if (!r)
		r = tm_dec(info->tm, block, &freed);
	if (r)
		goto out;
	if (bt_is_leaf(copy)) {
		r = drop_values(info, bt_value(copy, 0), bt_nr(copy));
		goto out;
	}
	for (i = 0; i < bt_nr(copy) && !r; i++)
		r = delete_node(info, bt_child(copy, i), depth - 1);
out:
	free_page(page);
	return r;
}

/**
 * bt_delete() - drop one reference to a tree, and the tree if it was the last
 * @info: the tree
 * @root: its root
 *
 * Return: 0, -EILSEQ for damage, otherwise as tm_dec().
 */
int bt_delete(struct bt_info *info, u64 root)
{
	return delete_node(info, root, BT_MAX_DEPTH);
}
