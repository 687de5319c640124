/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Trees of 64-bit keys and values of a fixed size (format 4).
 *
 * A tree is named by its root's block number, which the caller keeps; changing
 * functions take its address since the root moves with the first change in a
 * transaction.  Trees of trees are the caller's: the value of the outer one
 * is the root of the inner one.
 *
 * Shape: a full node first spills into an unshared neighbour and only then
 * splits, so random filling leaves nodes four fifths full and appending leaves
 * them full.  A removal that leaves less than a third merges or evens out with
 * a neighbour.  A neighbour that others share is never touched by an insert.
 *
 * Trust: every step down checks that the child's keys lie between those of its
 * parent and that the tree is not deeper than any real one, so damaged trees
 * end in -EILSEQ, never in a loop.
 *
 * Locking: looking needs the pool's metadata lock, changing needs it for
 * writing.  After an error of a changing function the transaction must be
 * aborted, but for the errnos that a function names as its own.
 */
#ifndef PD_BTREE_H
#define PD_BTREE_H

#include "transaction-manager.h"

/* 84 keys a node at least: five levels hold more than any metadata device. */
#define BT_MAX_DEPTH	8

/**
 * struct bt_info - what kind of tree
 * @tm: where its nodes are
 * @value_size: bytes of a value in a leaf
 * @inc: a shared leaf was copied, so what these values refer to has one
 *	reference more; NULL where values refer to nothing
 * @dec: these values were dropped
 * @context: for @inc and @dec
 */
struct bt_info {
	struct pd_tm *tm;
	u32 value_size;
	int (*inc)(void *context, const void *values, u32 nr);
	int (*dec)(void *context, const void *values, u32 nr);
	void *context;
};

/**
 * struct bt_leaf - a leaf being looked at
 * @read: keeps it in memory
 * @node: the leaf
 * @index: the entry sought
 * @low: keys of the leaves before are below it
 * @bound: keys of the leaves behind are not below it
 * @last: there is no leaf behind
 */
struct bt_leaf {
	struct pd_read read;
	const struct disk_node *node;
	u32 index;
	u64 low;
	u64 bound;
	bool last;
};

/**
 * struct bt_path - the nodes from the root down to where a change happens
 * @depth: levels filled
 * @level: per level the block, its changeable bytes, and the entry that leads
 *	on or, in the last one, the entry meant
 */
struct bt_path {
	u32 depth;
	struct bt_level {
		u64 block;
		struct disk_node *node;
		s32 index;
	} level[BT_MAX_DEPTH];
};

/**
 * struct bt_place - where a key is, or would be
 * @path: down to its leaf; no levels: nowhere yet
 * @found: the key is there
 * @bound: all keys of the leaf are below it, unless it is the @last
 * @last: there is no leaf behind
 */
struct bt_place {
	struct bt_path path;
	bool found;
	u64 bound;
	bool last;
};

/* btree.c: looking, and what the other files share */
int bt_empty(struct bt_info *info, u64 *root);
int bt_lookup(struct bt_info *info, u64 root, u64 key, bool may_block, void *value);
int bt_find_leaf(struct bt_info *info, u64 root, u64 key, bool may_block, struct bt_leaf *leaf);
int bt_seek(struct bt_info *info, u64 root, u64 key, bool may_block, struct bt_leaf *leaf);
int bt_next_leaf(struct bt_info *info, u64 root, bool may_block, struct bt_leaf *leaf);
void bt_put_leaf(struct bt_leaf *leaf);
int bt_highest(struct bt_info *info, u64 root, u64 *key);
bool bt_is_own_leaf(struct bt_info *info, u64 root, u64 key);
int bt_height(struct bt_info *info, u64 root, u32 *height);
int bt_count_leaves(struct bt_info *info, u64 root, u64 limit, u64 *nr);
void bt_prefetch(struct bt_info *info, u64 root, u64 key);
void bt_prefetch_leaf(struct bt_info *info, u64 root, u32 height, u64 key);
void bt_prefetch_leaves(struct bt_info *info, u64 root, u64 begin, u64 end, bool own, u32 nr);

u32 bt_capacity(u32 value_size);
s32 bt_search(const struct disk_node *node, u64 key);
int bt_check_child(struct pd_tm *tm, u64 block, const struct disk_node *parent, s32 index,
		   const struct disk_node *child);
int bt_check_leaf(struct bt_info *info, u64 block, const struct disk_node *node);
int bt_check_pair(struct pd_tm *tm, u64 block, const struct disk_node *node,
		  const struct disk_node *neighbour);

/* btree-insert.c */
int bt_find_place(struct bt_info *info, u64 *root, u64 key, struct bt_place *place,
		  const void **old);
int bt_set_place(struct bt_info *info, u64 *root, u64 key, const void *value,
		 struct bt_place *place);
int bt_insert(struct bt_info *info, u64 *root, u64 key, const void *value);

/* btree-remove.c */
int bt_remove(struct bt_info *info, u64 *root, u64 key);
int bt_remove_leaf(struct bt_info *info, u64 *root, u64 begin, u64 end, u64 *next, u32 *nr);
int bt_seek_own_leaf(struct bt_info *info, u64 root, u64 *key, struct disk_node *leaf);
int bt_delete(struct bt_info *info, u64 root);

/* btree-path.c: changeable nodes */
int bt_shadow_root(struct bt_info *info, u64 *root, struct bt_path *path);
int bt_shadow_child(struct bt_info *info, struct bt_path *path);
int bt_shadow_node(struct bt_info *info, u64 old, u64 *block, struct disk_node **node);
void bt_move(struct disk_node *from, u32 from_index, struct disk_node *to, u32 to_index, u32 nr);
void bt_open_gap(struct disk_node *node, u32 index, u32 nr);
void bt_close_gap(struct disk_node *node, u32 index, u32 nr);

/* ---- a node's parts ---- */

static inline u32 bt_nr(const struct disk_node *node)
{
	return le32_to_cpu(node->nr_entries);
}

static inline void bt_set_nr(struct disk_node *node, u32 nr)
{
	node->nr_entries = cpu_to_le32(nr);
}

static inline bool bt_is_leaf(const struct disk_node *node)
{
	return le32_to_cpu(node->header.flags) == NODE_LEAF;
}

static inline u64 bt_key(const struct disk_node *node, u32 i)
{
	return le64_to_cpu(node->keys[i]);
}

static inline void bt_set_key(struct disk_node *node, u32 i, u64 key)
{
	node->keys[i] = cpu_to_le64(key);
}

/* Values start behind max_entries keys, however many are in use. */
static inline void *bt_value(const struct disk_node *node, u32 i)
{
	return (u8 *)&node->keys[le32_to_cpu(node->max_entries)] +
	       (size_t)i * le32_to_cpu(node->value_size);
}

static inline u64 bt_child(const struct disk_node *node, u32 i)
{
	__le64 value;

	memcpy(&value, bt_value(node, i), sizeof(value));
	return le64_to_cpu(value);
}

static inline void bt_set_child(struct disk_node *node, u32 i, u64 block)
{
	__le64 value = cpu_to_le64(block);

	memcpy(bt_value(node, i), &value, sizeof(value));
}

#endif
