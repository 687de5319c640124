// SPDX-License-Identifier: GPL-2.0-only
/*
 * Nodes made ready for a change, and entries moved about in them.
 *
 * Invariant of a path: every node on it is this transaction's own, that is,
 * its count is 1 and so are those of all above it; its parent points to it.
 */
#include "btree.h"

#include <linux/kernel.h>
#include <linux/string.h>

/* Some tools write leaves of a smaller capacity; ours have that of the format. */
static void normalise(struct disk_node *node)
{
	u32 size = le32_to_cpu(node->value_size);
	u32 capacity = bt_capacity(size);
	u32 nr = bt_nr(node);
	void *from = bt_value(node, 0);

	if (le32_to_cpu(node->max_entries) == capacity || nr > capacity)
		return;
	node->max_entries = cpu_to_le32(capacity);
	memmove(bt_value(node, 0), from, (size_t)nr * size);
}

static int inc_children(struct bt_info *info, const struct disk_node *node)
{
	u32 nr = bt_nr(node), i;
	int r = 0;

	if (bt_is_leaf(node))
		return info->inc ? info->inc(info->context, bt_value(node, 0), nr) : 0;
	for (i = 0; i < nr && !r; i++)
		r = tm_inc(info->tm, bt_child(node, i));
	return r;
}

/**
 * bt_shadow_node() - a node that may be changed in place of another
 * @info: the tree
 * @old: the node's block; the caller's pointer to it goes to @block
 * @block: set
 * @node: set to its bytes
 *
 * Return: 0, -EILSEQ for a leaf of another tree, otherwise as tm_shadow().
 */
int bt_shadow_node(struct bt_info *info, u64 old, u64 *block, struct disk_node **node)
{
	bool shared;
	void *data;
	int r;

	r = tm_shadow(info->tm, PD_NODE, old, block, &data, &shared);
	if (r)
		return r;
	*node = data;
	if (bt_is_leaf(*node)) {
		r = bt_check_leaf(info, old, *node);
		if (r)
			return r;
	}
	normalise(*node);
	return shared ? inc_children(info, *node) : 0;
}

/**
 * bt_shadow_root() - begin a path
 * @info: the tree
 * @root: its root, set to the new one
 * @path: filled with one level
 *
 * Return: as bt_shadow_node().
 */
int bt_shadow_root(struct bt_info *info, u64 *root, struct bt_path *path)
{
	struct bt_level *level = &path->level[0];
	int r;

	r = bt_shadow_node(info, *root, &level->block, &level->node);
	if (r)
		return r;
	*root = level->block;
	path->depth = 1;
	level->index = 0;
	return 0;
}

/**
 * bt_shadow_child() - lengthen a path by the child its last entry leads to
 * @info: the tree
 * @path: ends in an internal node
 *
 * Return: 0, -EILSEQ for damage, otherwise as bt_shadow_node().
 */
int bt_shadow_child(struct bt_info *info, struct bt_path *path)
{
	struct bt_level *parent = &path->level[path->depth - 1];
	struct bt_level *level = parent + 1;
	u64 old;
	int r;

	if (path->depth == BT_MAX_DEPTH || !bt_nr(parent->node)) {
		bm_complain(info->tm->bm, parent->block, PD_NODE,
			    "tree too deep or internal node without children", -EILSEQ);
		return -EILSEQ;
	}
	old = bt_child(parent->node, parent->index);
	r = bt_shadow_node(info, old, &level->block, &level->node);
	if (!r)
		r = bt_check_child(info->tm, old, parent->node, parent->index, level->node);
	if (r)
		return r;
	bt_set_child(parent->node, parent->index, level->block);
	level->index = 0;
	path->depth++;
	return 0;
}

/**
 * bt_move() - copy entries between nodes
 * @from: source; its count stays
 * @from_index: first entry
 * @to: another node with room, its entries behind @to_index not needed
 * @to_index: where they go
 * @nr: entries
 */
void bt_move(struct disk_node *from, u32 from_index, struct disk_node *to, u32 to_index, u32 nr)
{
	memcpy(&to->keys[to_index], &from->keys[from_index], (size_t)nr * sizeof(__le64));
	memcpy(bt_value(to, to_index), bt_value(from, from_index),
	       (size_t)nr * le32_to_cpu(from->value_size));
}

/**
 * bt_open_gap() - make room for entries
 * @node: has room for @nr more
 * @index: where they will be
 * @nr: entries
 */
void bt_open_gap(struct disk_node *node, u32 index, u32 nr)
{
	size_t behind = bt_nr(node) - index;

	memmove(&node->keys[index + nr], &node->keys[index], behind * sizeof(__le64));
	memmove(bt_value(node, index + nr), bt_value(node, index),
		behind * le32_to_cpu(node->value_size));
	bt_set_nr(node, bt_nr(node) + nr);
}

/**
 * bt_close_gap() - drop entries
 * @node: the node
 * @index: the first of them
 * @nr: entries
 */
void bt_close_gap(struct disk_node *node, u32 index, u32 nr)
{
	size_t behind = bt_nr(node) - index - nr;

	memmove(&node->keys[index], &node->keys[index + nr], behind * sizeof(__le64));
	memmove(bt_value(node, index), bt_value(node, index + nr),
		behind * le32_to_cpu(node->value_size));
	bt_set_nr(node, bt_nr(node) - nr);
}
