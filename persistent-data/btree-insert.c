// SPDX-License-Identifier: GPL-2.0-only
/*
 * Inserting.  A full node spills into a neighbour, else splits; see btree.h.
 *
 * While room is made, the last level of a path holds the position where the
 * new entry will go (0 .. nr), the levels above the entry that leads on.  Both
 * move with the entries.
 */
#include "btree.h"

#include <linux/kernel.h>
#include <linux/string.h>

/* A neighbour with less room than this is not worth a spill. */
#define MIN_SPILL	8

static u32 max_of(const struct disk_node *node)
{
	return le32_to_cpu(node->max_entries);
}

static struct bt_level *level_up(struct bt_path *path, u32 up)
{
	return &path->level[path->depth - 1 - up];
}

/* Entries below @cut stay on the left.  On which side is the path afterwards? */
static bool goes_right(const struct bt_level *level, u32 up, u32 cut)
{
	/* An insertion at the cut appends to the left: no parent's key changes. */
	return up ? level->index >= (s32)cut : level->index > (s32)cut;
}

/* Is the new entry going behind all others of the node? */
static bool is_append(const struct bt_level *level, u32 up)
{
	return level->index + (up ? 1 : 0) == (s32)bt_nr(level->node);
}

/*
 * Shadow the neighbour, the one before or behind as @offset is -1 or 1, if it
 * has room and nobody else uses it.  *@node is NULL if not.
 */
static int open_neighbour(struct bt_info *info, struct bt_path *path, u32 up, s32 offset,
			  u64 *block, struct disk_node **node)
{
	struct bt_level *level = level_up(path, up), *parent = level_up(path, up + 1);
	s32 index = parent->index + offset;
	struct pd_read read;
	u32 room, count;
	u64 old;
	int r;

	*node = NULL;
	if (index < 0 || index >= (s32)bt_nr(parent->node))
		return 0;
	old = bt_child(parent->node, index);
	r = tm_count(info->tm, old, &count);
	if (r || count != 1)
		return r;
	r = tm_read(info->tm, old, PD_NODE, true, &read);
	if (r)
		return r;
	room = max_of(read.data) - bt_nr(read.data);
	r = bt_check_child(info->tm, old, parent->node, index, read.data);
	if (!r)
		r = bt_check_pair(info->tm, old, level->node, read.data);
	tm_put(&read);
	if (r || room < MIN_SPILL)
		return r;
	r = bt_shadow_node(info, old, block, node);
	if (!r)
		bt_set_child(parent->node, index, *block);
	return r;
}

/* Returns 1 when done, 0 when there was no room. */
static int spill_left(struct bt_info *info, struct bt_path *path, u32 up)
{
	struct bt_level *level = level_up(path, up), *parent = level_up(path, up + 1);
	struct disk_node *left, *node = level->node;
	u32 nr = bt_nr(node), left_nr, n;
	u64 block;
	int r;

	r = open_neighbour(info, path, up, -1, &block, &left);
	if (r || !left)
		return r;

	left_nr = bt_nr(left);
	if (is_append(level, up))
		n = min(max_of(left) - left_nr, nr - max_of(node) / 3);
	else
		n = (nr - left_nr) / 2;

	bt_move(node, 0, left, left_nr, n);
	bt_set_nr(left, left_nr + n);
	bt_close_gap(node, 0, n);
	bt_set_key(parent->node, parent->index, bt_key(node, 0));

	if (goes_right(level, up, n)) {
		level->index -= n;
	} else {
		level->node = left;
		level->block = block;
		level->index += left_nr;
		parent->index--;
	}
	return 1;
}

static int spill_right(struct bt_info *info, struct bt_path *path, u32 up)
{
	struct bt_level *level = level_up(path, up), *parent = level_up(path, up + 1);
	struct disk_node *right, *node = level->node;
	u32 nr = bt_nr(node), n;
	u64 block;
	int r;

	r = open_neighbour(info, path, up, 1, &block, &right);
	if (r || !right)
		return r;

	n = (nr - bt_nr(right)) / 2;
	bt_open_gap(right, 0, n);
	bt_move(node, nr - n, right, 0, n);
	bt_set_nr(node, nr - n);
	bt_set_key(parent->node, parent->index + 1, bt_key(right, 0));

	if (goes_right(level, up, nr - n)) {
		level->node = right;
		level->block = block;
		level->index -= nr - n;
		parent->index++;
	}
	return 1;
}

/* Put a new root above the old one, which has become too small. */
static int grow_root(struct bt_info *info, u64 *root, struct bt_path *path)
{
	struct bt_level *top = &path->level[0];
	struct disk_node *node;
	void *data;
	u64 block;
	int r;

	if (path->depth == BT_MAX_DEPTH) {
		bm_complain(info->tm->bm, *root, PD_NODE, "tree too deep", -EILSEQ);
		return -EILSEQ;
	}
	r = tm_new(info->tm, PD_NODE, &block, &data);
	if (r)
		return r;
	node = data;
	node->header.flags = cpu_to_le32(NODE_INTERNAL);
	node->value_size = cpu_to_le32(sizeof(__le64));
	node->max_entries = cpu_to_le32(bt_capacity(sizeof(__le64)));
	bt_set_nr(node, 1);
	bt_set_key(node, 0, bt_key(top->node, 0));
	bt_set_child(node, 0, top->block);

	memmove(top + 1, top, path->depth * sizeof(*top));
	path->depth++;
	*top = (struct bt_level) { .block = block, .node = node };
	*root = block;
	return 0;
}

static int split(struct bt_info *info, struct bt_path *path, u32 up)
{
	struct bt_level *level = level_up(path, up), *parent = level_up(path, up + 1);
	struct disk_node *right, *node = level->node;
	u32 nr = bt_nr(node), cut;
	void *data;
	u64 block;
	int r;

	r = tm_new(info->tm, PD_NODE, &block, &data);
	if (r)
		return r;
	right = data;
	right->header.flags = node->header.flags;
	right->value_size = node->value_size;
	right->max_entries = cpu_to_le32(bt_capacity(le32_to_cpu(node->value_size)));

	/* Appending goes on to the right: leave it no more than it must have. */
	cut = is_append(level, up) ? nr - nr / 3 : nr / 2;
	bt_move(node, cut, right, 0, nr - cut);
	bt_set_nr(right, nr - cut);
	bt_set_nr(node, cut);

	bt_open_gap(parent->node, parent->index + 1, 1);
	bt_set_key(parent->node, parent->index + 1, bt_key(right, 0));
	bt_set_child(parent->node, parent->index + 1, block);

	if (goes_right(level, up, cut)) {
		level->node = right;
		level->block = block;
		level->index -= cut;
		parent->index++;
	}
	return 0;
}

/* The node @up levels above the end of the path is full: make room for one more. */
static int make_room(struct bt_info *info, u64 *root, struct bt_path *path, u32 up)
{
	struct bt_level *parent;
	bool append;
	int r;

	if (up + 1 == path->depth) {
		r = grow_root(info, root, path);
		if (r)
			return r;
	}
	append = is_append(level_up(path, up), up);
	r = spill_left(info, path, up);
	/* A neighbour behind an appended stream would take the stream's place. */
	if (!r && !append)
		r = spill_right(info, path, up);
	if (r)
		return r < 0 ? r : 0;

	parent = level_up(path, up + 1);
	if (bt_nr(parent->node) >= max_of(parent->node)) {
		r = make_room(info, root, path, up + 1);
		if (r)
			return r;
	}
	return split(info, path, up);
}

static struct bt_level *leaf_of(struct bt_place *place)
{
	return level_up(&place->path, 0);
}

/* An ancestor's bound holds, too; each step has looked at the parent's only. */
static int check_bound(struct bt_info *info, const struct bt_place *place,
		       const struct bt_level *level)
{
	u32 nr = bt_nr(level->node);

	if (place->last || !nr || bt_key(level->node, nr - 1) < place->bound)
		return 0;
	bm_complain(info->tm->bm, level->block, PD_NODE, "key beyond an ancestor's next", -EILSEQ);
	return -EILSEQ;
}

static int go_down(struct bt_info *info, u64 *root, u64 key, struct bt_place *place)
{
	struct bt_level *level;
	int r;

	place->last = true;
	r = bt_shadow_root(info, root, &place->path);
	while (!r) {
		level = leaf_of(place);
		r = check_bound(info, place, level);
		if (r || bt_is_leaf(level->node))
			break;
		level->index = bt_search(level->node, key);
		if (level->index < 0) {
			level->index = 0;
			bt_set_key(level->node, 0, key);
		}
		if (level->index + 1 < (s32)bt_nr(level->node)) {
			place->bound = bt_key(level->node, level->index + 1);
			place->last = false;
		}
		r = bt_shadow_child(info, &place->path);
	}
	if (r)
		place->path.depth = 0;
	return r;
}

static bool is_in_leaf(struct bt_place *place, u64 key)
{
	const struct disk_node *leaf;

	if (!place->path.depth)
		return false;
	leaf = leaf_of(place)->node;
	return bt_nr(leaf) && key >= bt_key(leaf, 0) && (place->last || key < place->bound);
}

/**
 * bt_find_place() - where a key is, or would be, to be changed there
 * @info: the tree
 * @root: its root, set to the new one
 * @key: the key
 * @place: all zeroes, or where another key of the tree was found since its last other
 *	change, under the same hold of the lock
 * @old: set to the key's value, or NULL when it has none
 *
 * Return: 0, -EILSEQ for damage, otherwise as tm_shadow().
 */
int bt_find_place(struct bt_info *info, u64 *root, u64 key, struct bt_place *place,
		  const void **old)
{
	struct bt_level *level;
	s32 i;
	int r;

	if (!is_in_leaf(place, key)) {
		r = go_down(info, root, key, place);
		if (r)
			return r;
	}
	level = leaf_of(place);
	i = bt_search(level->node, key);
	place->found = i >= 0 && bt_key(level->node, i) == key;
	level->index = place->found ? i : i + 1;
	*old = place->found ? bt_value(level->node, i) : NULL;
	return 0;
}

/**
 * bt_set_place() - set the value of a key
 * @info: the tree
 * @root: as of bt_find_place(), set to the new one
 * @key: of bt_find_place()
 * @value: @info->value_size bytes
 * @place: of bt_find_place()
 *
 * Reference counts of values are the caller's.
 *
 * Return: 0, otherwise as bt_find_place().
 */
int bt_set_place(struct bt_info *info, u64 *root, u64 key, const void *value,
		 struct bt_place *place)
{
	struct bt_level *level = leaf_of(place);
	int r;

	if (!place->found) {
		if (bt_nr(level->node) >= max_of(level->node)) {
			r = make_room(info, root, &place->path, 0);
			if (r)
				return r;
			level = leaf_of(place);
			/* A leaf that was the root had nobody above to lower for this key. */
			if (key < bt_key(place->path.level[0].node, 0))
				bt_set_key(place->path.level[0].node, 0, key);
			/* The bound may be another one now. */
			place->path.depth = 0;
		}
		bt_open_gap(level->node, level->index, 1);
		bt_set_key(level->node, level->index, key);
	}
	memcpy(bt_value(level->node, level->index), value, info->value_size);
	return 0;
}

/**
 * bt_insert() - set the value of a key
 * @info: the tree
 * @root: its root, set to the new one
 * @key: the key
 * @value: @info->value_size bytes
 *
 * Reference counts of values are the caller's.
 *
 * Return: 0, -EILSEQ for damage, otherwise as tm_shadow().
 */
int bt_insert(struct bt_info *info, u64 *root, u64 key, const void *value)
{
	struct bt_place place = { };
	const void *old;
	int r = bt_find_place(info, root, key, &place, &old);

	return r ?: bt_set_place(info, root, key, value, &place);
}
