// SPDX-License-Identifier: GPL-2.0-only
/*
 * Looking into trees; see the header for what is trusted and what is checked.
 *
 * One block is held at a time: the child's number is copied out and the parent
 * given back before the child is read.  The metadata lock keeps the tree still.
 */
#include "btree.h"

#include <linux/gfp.h>
#include <linux/kernel.h>
#include <linux/math64.h>
#include <linux/string.h>

/**
 * bt_capacity() - entries of a node
 * @value_size: bytes of a value
 *
 * Return: format 4.1, a multiple of three.
 */
u32 bt_capacity(u32 value_size)
{
	u32 fit = (PD_BLOCK_SIZE - sizeof(struct disk_node)) / (sizeof(__le64) + value_size);

	return fit / 3 * 3;
}

/**
 * bt_search() - where a key belongs
 * @node: any node
 * @key: the key
 *
 * Return: the last entry whose key is not above @key, -1 when all are.
 */
s32 bt_search(const struct disk_node *node, u64 key)
{
	s32 lo = -1, hi = bt_nr(node);

	while (hi - lo > 1) {
		s32 mid = lo + (hi - lo) / 2;

		if (bt_key(node, mid) <= key)
			lo = mid;
		else
			hi = mid;
	}
	return lo;
}

static int damaged(struct pd_tm *tm, u64 block, const char *what)
{
	bm_complain(tm->bm, block, PD_NODE, what, -EILSEQ);
	return -EILSEQ;
}

/**
 * bt_check_leaf() - may this leaf be in this tree
 * @info: the tree
 * @block: the node's block
 * @node: a leaf
 *
 * Return: 0 or -EILSEQ.
 */
int bt_check_leaf(struct bt_info *info, u64 block, const struct disk_node *node)
{
	if (le32_to_cpu(node->value_size) != info->value_size)
		return damaged(info->tm, block, "leaf of another tree");
	return 0;
}

static int check_bounds(struct pd_tm *tm, u64 block, const struct disk_node *child, u64 low,
			u64 bound, bool bounded)
{
	u32 nr = bt_nr(child);

	if (!nr)
		return damaged(tm, block, "empty node below the root");
	if (bt_key(child, 0) < low)
		return damaged(tm, block, "key below the parent's");
	if (bounded && bt_key(child, nr - 1) >= bound)
		return damaged(tm, block, "key beyond the parent's next");
	return 0;
}

/**
 * bt_check_child() - do a child's keys lie where its parent says
 * @tm: the transaction
 * @block: the child's block
 * @parent: an internal node
 * @index: the entry that leads to the child
 * @child: the child
 *
 * Return: 0 or -EILSEQ.
 */
int bt_check_child(struct pd_tm *tm, u64 block, const struct disk_node *parent, s32 index,
		   const struct disk_node *child)
{
	bool bounded = index + 1 < (s32)bt_nr(parent);

	return check_bounds(tm, block, child, bt_key(parent, index),
			    bounded ? bt_key(parent, index + 1) : 0, bounded);
}

/**
 * bt_check_pair() - may entries be moved between two neighbours
 * @tm: the transaction
 * @block: the block of one
 * @node: one
 * @neighbour: the other
 *
 * Return: 0 or -EILSEQ.
 */
int bt_check_pair(struct pd_tm *tm, u64 block, const struct disk_node *node,
		  const struct disk_node *neighbour)
{
	if (node->header.flags != neighbour->header.flags ||
	    node->value_size != neighbour->value_size)
		return damaged(tm, block, "neighbours of different kinds");
	return 0;
}

/**
 * bt_empty() - make a tree with nothing in it
 * @info: its kind
 * @root: set
 *
 * Return: as tm_new().
 */
int bt_empty(struct bt_info *info, u64 *root)
{
	struct disk_node *node;
	void *data;
	int r;

	r = tm_new(info->tm, PD_NODE, root, &data);
	if (r)
		return r;
	node = data;
	node->header.flags = cpu_to_le32(NODE_LEAF);
	node->max_entries = cpu_to_le32(bt_capacity(info->value_size));
	node->value_size = cpu_to_le32(info->value_size);
	return 0;
}

/*
 * Walk down to the leaf where @key is or would be.  @leaf->index is that of the
 * last key not above @key, cast, so ~0 when there is none.  With @levels, stop
 * that many levels below the root, or at the leaf.
 */
static int descend(struct bt_info *info, u64 root, u64 key, bool may_block, u32 levels,
		   struct bt_leaf *leaf)
{
	u64 block = root, low = 0;
	u32 depth;
	int r;

	leaf->low = 0;
	leaf->bound = 0;
	leaf->last = true;
	for (depth = 0; depth < BT_MAX_DEPTH; depth++) {
		s32 i;

		r = tm_read(info->tm, block, PD_NODE, may_block, &leaf->read);
		if (r)
			return r;
		leaf->node = leaf->read.data;
		if (depth)
			r = check_bounds(info->tm, block, leaf->node, low, leaf->bound,
					 !leaf->last);
		if (!r && bt_is_leaf(leaf->node))
			r = bt_check_leaf(info, block, leaf->node);
		else if (!r && !bt_nr(leaf->node))
			r = damaged(info->tm, block, "internal node without children");
		if (r)
			goto fail;

		i = bt_search(leaf->node, key);
		leaf->index = i;
		if (bt_is_leaf(leaf->node) || depth == levels)
			return 0;

		/* A key below all others: its neighbours are in the first child. */
		i = max(i, 0);
		low = bt_key(leaf->node, i);
		if (i)
			leaf->low = low;
		if (i + 1 < (s32)bt_nr(leaf->node)) {
			leaf->bound = bt_key(leaf->node, i + 1);
			leaf->last = false;
		}
		block = bt_child(leaf->node, i);
		tm_put(&leaf->read);
	}
	return damaged(info->tm, block, "tree too deep");

fail:
	tm_put(&leaf->read);
	return r;
}

/**
 * bt_find_leaf() - the leaf where a key is or would be
 * @info: the tree
 * @root: its root
 * @key: the key
 * @may_block: false: only what is in memory
 * @leaf: filled in, to be given back with bt_put_leaf() after success; its index
 *	is that of the first entry not below @key, or the number of entries
 *
 * Return: 0, -EWOULDBLOCK, -EILSEQ for damage, or the errno of a read.
 */
int bt_find_leaf(struct bt_info *info, u64 root, u64 key, bool may_block, struct bt_leaf *leaf)
{
	int r = descend(info, root, key, may_block, BT_MAX_DEPTH, leaf);

	if (!r && ((s32)leaf->index < 0 || bt_key(leaf->node, leaf->index) < key))
		leaf->index++;
	return r;
}

/**
 * bt_lookup() - the value of a key
 * @info: the tree
 * @root: its root
 * @key: the key
 * @may_block: false: only what is in memory
 * @value: set to @info->value_size bytes
 *
 * Return: 0, -ENODATA, -EWOULDBLOCK, -EILSEQ for damage, or the errno of a
 * read.
 */
int bt_lookup(struct bt_info *info, u64 root, u64 key, bool may_block, void *value)
{
	struct bt_leaf leaf;
	int r;

	r = bt_find_leaf(info, root, key, may_block, &leaf);
	if (r)
		return r;
	if (leaf.index < bt_nr(leaf.node) && bt_key(leaf.node, leaf.index) == key)
		memcpy(value, bt_value(leaf.node, leaf.index), info->value_size);
	else
		r = -ENODATA;
	bt_put_leaf(&leaf);
	return r;
}

/**
 * bt_seek() - the first entry whose key is not below one
 * @info: the tree
 * @root: its root
 * @key: the key
 * @may_block: false: only what is in memory
 * @leaf: filled in, to be given back with bt_put_leaf() after success
 *
 * Return: 0, -ENODATA when there is none, otherwise as bt_lookup().
 */
int bt_seek(struct bt_info *info, u64 root, u64 key, bool may_block, struct bt_leaf *leaf)
{
	for (;;) {
		int r = bt_find_leaf(info, root, key, may_block, leaf);

		if (r)
			return r;
		if (leaf->index < bt_nr(leaf->node))
			return 0;
		tm_put(&leaf->read);
		if (leaf->last)
			return -ENODATA;
		/* Nothing here; the bound is above @key, so this ends. */
		key = leaf->bound;
	}
}

/**
 * bt_next_leaf() - go on to the leaf behind
 * @info: the tree
 * @root: its root
 * @may_block: false: only what is in memory
 * @leaf: of bt_seek(); replaced, or given back if there is none
 *
 * Return: as bt_seek().
 */
int bt_next_leaf(struct bt_info *info, u64 root, bool may_block, struct bt_leaf *leaf)
{
	bt_put_leaf(leaf);
	return leaf->last ? -ENODATA : bt_seek(info, root, leaf->bound, may_block, leaf);
}

/**
 * bt_put_leaf() - done looking
 * @leaf: of bt_seek()
 */
void bt_put_leaf(struct bt_leaf *leaf)
{
	tm_put(&leaf->read);
}

/**
 * bt_highest() - the last key
 * @info: the tree
 * @root: its root
 * @key: set
 *
 * Return: 0, -ENODATA for an empty tree, otherwise as bt_lookup().
 */
int bt_highest(struct bt_info *info, u64 root, u64 *key)
{
	struct bt_leaf leaf;
	int r;

	r = descend(info, root, U64_MAX, true, BT_MAX_DEPTH, &leaf);
	if (r)
		return r;
	if (bt_nr(leaf.node))
		*key = bt_key(leaf.node, bt_nr(leaf.node) - 1);
	else
		r = -ENODATA;
	tm_put(&leaf.read);
	return r;
}

/**
 * bt_is_own_leaf() - does no other tree use the leaf where a key is, or would be
 * @info: the tree
 * @root: its root
 * @key: the key
 *
 * Return: false also where that cannot be found out.
 */
bool bt_is_own_leaf(struct bt_info *info, u64 root, u64 key)
{
	u64 block = root;
	u32 depth;

	for (depth = 0; depth < BT_MAX_DEPTH; depth++) {
		struct pd_read read;
		bool leaf;
		u32 count;

		if (tm_count(info->tm, block, &count) || count > 1 ||
		    tm_read(info->tm, block, PD_NODE, true, &read))
			return false;
		leaf = bt_is_leaf(read.data) || !bt_nr(read.data);
		if (!leaf)
			block = bt_child(read.data, max(bt_search(read.data, key), 0));
		tm_put(&read);
		if (leaf)
			return true;
	}
	return false;
}

/* Is a child worth reading; -EWOULDBLOCK says yes, 0 that it is in memory or shared. */
static int wants_prefetch(struct bt_info *info, u64 child, bool own)
{
	struct pd_read read;
	u32 count = 1;
	int r = 0;

	if (own)
		r = tm_count(info->tm, child, &count);
	if (r || count > 1)
		return r;
	r = tm_read(info->tm, child, PD_NODE, false, &read);
	if (!r)
		tm_put(&read);
	return r;
}

/*
 * Neighbours on the disk are asked for together.  @node is a copy: counts may have to
 * be read, and no buffer may be held meanwhile.
 */
static void prefetch_children(struct bt_info *info, const struct disk_node *node, u32 begin,
			      u32 end, bool own)
{
	u64 first = 0, nr = 0;
	u32 i;
	int r = 0;

	for (i = begin; i < end && (!r || r == -EWOULDBLOCK); i++) {
		u64 child = bt_child(node, i);

		r = wants_prefetch(info, child, own);
		if (r != -EWOULDBLOCK)
			continue;
		if (nr && child != first + nr) {
			bm_prefetch(info->tm->bm, first, nr);
			nr = 0;
		}
		if (!nr++)
			first = child;
	}
	if (nr)
		bm_prefetch(info->tm->bm, first, nr);
}

/* The leaves below a node, a copy, that has @height levels below it, two at most. */
static int count_leaves(struct bt_info *info, struct disk_node *node, u32 height, u64 limit,
			u64 *nr)
{
	u32 least = bt_capacity(sizeof(__le64)) / 3;
	u32 i;

	*nr = height ? bt_nr(node) : 1;
	if (height < 2)
		return 0;
	prefetch_children(info, node, 0, min_t(u64, bt_nr(node), DIV_ROUND_UP_ULL(limit, least)),
			  false);
	for (i = 0, *nr = 0; i < bt_nr(node) && *nr < limit; i++) {
		u64 block = bt_child(node, i);
		struct pd_read read;
		int r = tm_read(info->tm, block, PD_NODE, true, &read);

		if (r)
			return r;
		r = bt_check_child(info->tm, block, node, i, read.data);
		*nr += bt_nr(read.data);
		tm_put(&read);
		if (r)
			return r;
	}
	return 0;
}

/**
 * bt_height() - how many levels a tree has above its leaves
 * @info: the tree
 * @root: its root
 * @height: set
 *
 * Return: 0, -EILSEQ for damage, or the errno of a read.
 */
int bt_height(struct bt_info *info, u64 root, u32 *height)
{
	u64 block = root;

	for (*height = 0; *height < BT_MAX_DEPTH; ++*height) {
		struct pd_read read;
		bool leaf;
		int r = tm_read(info->tm, block, PD_NODE, true, &read);

		if (r)
			return r;
		leaf = bt_is_leaf(read.data) || !bt_nr(read.data);
		if (!leaf)
			block = bt_child(read.data, 0);
		tm_put(&read);
		if (leaf)
			return 0;
	}
	return damaged(info->tm, block, "tree too deep");
}

/**
 * bt_count_leaves() - how many leaves a tree has
 * @info: the tree
 * @root: its root
 * @limit: as far as this it is counted
 * @nr: set to their number, or to @limit or more where there are more, or may be
 *
 * Reads no leaf but one, and the nodes of three levels at most: of a tree with more it is
 * taken that it has at least @limit.
 *
 * Return: 0, -EILSEQ for damage, -ENOMEM, or the errno of a read.
 */
int bt_count_leaves(struct bt_info *info, u64 root, u64 limit, u64 *nr)
{
	unsigned long page;
	struct pd_read read;
	u32 height;
	int r = bt_height(info, root, &height);

	*nr = limit;
	if (r || height > 2)
		return r;
	page = __get_free_page(GFP_NOIO);
	if (!page)
		return -ENOMEM;
	r = tm_read(info->tm, root, PD_NODE, true, &read);
	if (!r) {
		memcpy((void *)page, read.data, PD_BLOCK_SIZE);
		tm_put(&read);
		r = count_leaves(info, (void *)page, height, limit, nr);
	}
	free_page(page);
	return r;
}

/* Start reading the child of a node on the way to a key.  Return: true when it is in memory. */
static bool prefetch_below(struct bt_info *info, u64 root, u64 key, u32 level)
{
	struct pd_read read;
	struct bt_leaf leaf;
	bool is_leaf;
	u64 child;
	int r;

	if (descend(info, root, key, true, level, &leaf))
		return false;
	is_leaf = bt_is_leaf(leaf.node);
	child = is_leaf ? 0 : bt_child(leaf.node, max_t(s32, leaf.index, 0));
	tm_put(&leaf.read);
	if (is_leaf)
		return false;

	r = tm_read(info->tm, child, PD_NODE, false, &read);
	if (r == -EWOULDBLOCK)
		bm_prefetch(info->tm->bm, child, 1);
	if (!r)
		tm_put(&read);
	return !r;
}

/**
 * bt_prefetch() - start reading the first node on the way to a key that is not in memory
 * @info: the tree
 * @root: its root, which is waited for
 * @key: the key
 *
 * Not from a context that submits a bio.
 */
void bt_prefetch(struct bt_info *info, u64 root, u64 key)
{
	u32 level;

	for (level = 0; level < BT_MAX_DEPTH; level++)
		if (!prefetch_below(info, root, key, level))
			return;
}

/**
 * bt_prefetch_leaf() - start reading the leaf of a key in a tree whose height is known
 * @info: the tree
 * @root: its root
 * @height: from bt_height()
 * @key: the key
 *
 * Waits for what is above the leaf, not for the leaf.  Not from a context that submits a
 * bio.
 */
void bt_prefetch_leaf(struct bt_info *info, u64 root, u32 height, u64 key)
{
	if (height)
		prefetch_below(info, root, key, height - 1);
}

/**
 * bt_prefetch_leaves() - start reading leaves of a range
 * @info: the tree
 * @root: its root
 * @begin: first key of the range, whose leaf is read here
 * @end: one past the last
 * @own: only leaves that no other tree uses, and none if that of @begin is not one
 * @nr: how many are looked at; fewer where their parent has no more
 *
 * Not from a context that submits a bio.
 */
void bt_prefetch_leaves(struct bt_info *info, u64 root, u64 begin, u64 end, bool own, u32 nr)
{
	unsigned long page = __get_free_page(GFP_NOIO | __GFP_NOWARN);
	struct disk_node *parent = (struct disk_node *)page;
	s32 index = -1;
	u64 block = root;
	u32 depth;

	if (!page)
		return;
	for (depth = 0; depth < BT_MAX_DEPTH; depth++) {
		struct pd_read read;
		bool is_leaf;
		u32 count;

		if (own && (tm_count(info->tm, block, &count) || count > 1))
			goto out;
		if (tm_read(info->tm, block, PD_NODE, true, &read))
			goto out;
		is_leaf = bt_is_leaf(read.data);
		if (!is_leaf)
			memcpy(parent, read.data, PD_BLOCK_SIZE);
		tm_put(&read);
		if (is_leaf)
			break;
		index = max(bt_search(parent, begin), 0);
		if (index >= (s32)bt_nr(parent))
			goto out;
		block = bt_child(parent, index);
	}
	if (index >= 0 && depth < BT_MAX_DEPTH)
		prefetch_children(info, parent, index + 1,
				  min_t(u32, index + 1 + nr, bt_search(parent, end - 1) + 1), own);
out:
	free_page(page);
}
