// SPDX-License-Identifier: GPL-2.0-only
/*
 * Is there enough metadata left for a change, and for the commit of it?
 *
 * Counts change in memory, so what they cost falls due in the layout: a block for each
 * bitmap, and one for each leaf of the overflow tree (counts above 2).  Where blocks lie far
 * from one another each of the 252 values of a leaf that is copied, or dropped, may take
 * both.  A commit that finds no place for them rolls back all it has, so for each part of a
 * change this is asked before it begins; what cannot be had ends in a mode.  Not asked is
 * for the counts of nodes that a tree shares when the last of it goes: the reserve is for them.
 *
 * What may make a pool larger must leave enough for a small part of letting something go, so
 * that this can go on.
 *
 * Locking: change_lock, which keeps trees and counts as they are.
 */
#include "dm-thin-metadata-internal.h"

#include <linux/kernel.h>
#include <linux/math64.h>
#include <linux/string.h>

/* Format 13.6 */
#define MAX_RESERVE		4096

/* What the smallest change may need: a path copied and split, a few bitmaps. */
#define MIN_MARGIN		16ULL

/* What deleting a small device asks for. */
#define SMALL_DELETE		18ULL

/* Nodes that a part of a change copies or adds. */
#define NEW_NODES		8

/* Counts that two leaves hold, or the nodes above them. */
#define PART_COUNTS		504

/* Counts that the smallest leaf holds; no smaller part of it can go without its neighbours. */
#define LEAST_COUNTS		84

/* Enough for any part of a change, and for what the layout may take beyond the estimate. */
#define PLENTY			(7 * PART_COUNTS)

/* LVM makes no smaller metadata (2 MiB); what is smaller must not lose much of it to caution. */
#define SMALLEST_SAFE		512

static_assert(PLENTY >= MAX_RESERVE / 2);

/**
 * meta_reserve() - metadata that does not count as free (format 13.6)
 * @nr_mblocks: size of the metadata
 *
 * Return: mblocks.
 */
u64 meta_reserve(u64 nr_mblocks)
{
	return min_t(u64, MAX_RESERVE, nr_mblocks / 10);
}

/* What the layout of the open transaction is going to take, rather too much. */
static u64 layout_blocks(struct thin_meta *tm)
{
	if (!tm->changed)
		return 0;
	return sm_layout_cost(&tm->meta_sm) + sm_layout_cost(&tm->data_sm) + 4;
}

/**
 * meta_raw_free() - metadata that is free if the open transaction is committed as it is
 * @tm: the pool, change_lock held
 *
 * Return: mblocks, the reserve included.
 */
u64 meta_raw_free(struct thin_meta *tm)
{
	u64 raw = sm_nr_free(&tm->meta_sm);

	return raw - min(raw, layout_blocks(tm));
}

/**
 * meta_is_short() - should the transaction be committed before it grows
 * @tm: the pool, change_lock held
 *
 * Half of the reserve is for what the layout may take beyond the estimate.
 *
 * Return: true when it should.
 */
bool meta_is_short(struct thin_meta *tm)
{
	return meta_raw_free(tm) < max(meta_reserve(tm->meta_sm.nr_blocks) / 2, MIN_MARGIN);
}

/**
 * meta_has_much() - is there metadata for any part of a change, and for the layout
 * @tm: the pool, change_lock held
 *
 * Return: true where nothing else has to be asked.
 */
bool meta_has_much(struct thin_meta *tm)
{
	return meta_raw_free(tm) >= PLENTY;
}

/**
 * meta_must_commit() - is a change to wait for a commit
 * @tm: the pool, change_lock held
 *
 * Where metadata is short, unless all is durable: a commit would gain nothing then.
 * And where one is under way and the transaction behind it has become large: its
 * blocks are in memory until it is written in turn, so those who change it must not
 * be faster than the device for long.
 *
 * Return: true when it is.
 */
bool meta_must_commit(struct thin_meta *tm)
{
	if (tm->in_flight && thin_meta_wants_commit(tm))
		return true;
	return (tm->changed || tm->in_flight) && meta_is_short(tm);
}

/**
 * meta_has_room_for_bitmaps() - is there room to count more data
 * @tm: the pool, change_lock held
 * @nr: bitmaps to be added
 *
 * Return: true when there is, with the index of them.
 */
bool meta_has_room_for_bitmaps(struct thin_meta *tm, u64 nr)
{
	return meta_raw_free(tm) >= nr + nr / 64 + min(MIN_MARGIN, tm->meta_sm.nr_blocks / 4);
}

/* ---- one part of a change ---- */

/* What values of a leaf may take if all their counts change. */
static u64 values_cost(const struct thin_meta *tm, const struct disk_node *leaf, u32 from, u32 nr)
{
	u64 bitmaps = 0, windows = 0, last_bitmap = U64_MAX, last_window = U64_MAX;
	u32 i;

	for (i = from; i < from + nr; i++) {
		u64 block, bitmap;
		__le64 value;

		memcpy(&value, bt_value(leaf, i), sizeof(value));
		block = mapping_block(le64_to_cpu(value));
		bitmap = div_u64(block, SM_ENTRIES_PER_BITMAP);
		bitmaps += bitmap != last_bitmap;
		windows += block / SM_OVERFLOW_WINDOW != last_window;
		last_bitmap = bitmap;
		last_window = block / SM_OVERFLOW_WINDOW;
	}
	bitmaps = min(bitmaps, tm->part_bitmaps);
	return bitmaps + min3((u64)nr, 2 * windows, tm->part_blocks - tm->part_bitmaps);
}

/* Counts of the nodes of a tree tell of all users only if the way to its root is its own. */
static bool is_own_leaf(const struct meta_tree *tree, u64 key)
{
	struct thin_meta *tm = tree->tm;

	return bt_is_own_leaf(&tm->top, tree->top_root, tree->id) &&
	       bt_is_own_leaf(&tm->mapping, tree->root, key);
}

/* What changing the leaf where @key is, or would be, takes: nothing if it need not be copied. */
static u64 copy_cost(const struct meta_tree *tree, u64 key)
{
	struct bt_leaf leaf;
	u64 cost;

	/* Who cannot read it comes upon that soon enough. */
	if (is_own_leaf(tree, key) ||
	    bt_find_leaf(&tree->tm->mapping, tree->root, key, true, &leaf))
		return 0;
	cost = values_cost(tree->tm, leaf.node, 0, bt_nr(leaf.node));
	bt_put_leaf(&leaf);
	return cost;
}

/*
 * What removing the first mappings of a range takes, those in one leaf.  A leaf that goes
 * whole costs its values if no other tree has it, and is not merged; of another's a copy
 * is made.
 */
static u64 remove_cost(const struct meta_tree *tree, u64 vbegin, u64 vend)
{
	struct thin_meta *tm = tree->tm;
	u64 cost, whole_cost, low, bound;
	u32 all, left, least;
	struct bt_leaf leaf;
	bool last;
	s32 end;

	if (bt_seek(&tm->mapping, tree->root, vbegin, true, &leaf))
		return 0;
	all = bt_nr(leaf.node);
	least = le32_to_cpu(leaf.node->max_entries) / 3;
	end = bt_search(leaf.node, vend - 1) + 1;
	if (end <= (s32)leaf.index) {
		bt_put_leaf(&leaf);
		return 0;
	}
	left = all - (end - leaf.index);
	cost = values_cost(tm, leaf.node, leaf.index, end - leaf.index);
	whole_cost = values_cost(tm, leaf.node, 0, all);
	vbegin = bt_key(leaf.node, leaf.index);
	low = leaf.low;
	bound = leaf.bound;
	last = leaf.last;
	bt_put_leaf(&leaf);

	/* Of a tree that is one leaf even that is copied first. */
	if (!left)
		return is_own_leaf(tree, vbegin) || (!low && last) ? whole_cost : 1;
	/* The same counts change twice where it is copied. */
	if (!is_own_leaf(tree, vbegin))
		cost = whole_cost;
	if (left < least)
		cost += max(low ? copy_cost(tree, low - 1) : 0, last ? 0 : copy_cost(tree, bound));
	return min(cost, tm->part_blocks);
}

/*
 * The most that a part of a change can take, and the least part of letting something go; known
 * until the next layout.
 */
static int find_limits(struct thin_meta *tm)
{
	struct pd_sm *data = &tm->data_sm;
	int r;

	if (tm->part_seq == tm->open_seq)
		return 0;
	r = sm_largest_layout(data, PART_COUNTS, 0, &tm->part_bitmaps);
	if (!r)
		r = sm_largest_layout(data, PART_COUNTS, PART_COUNTS, &tm->part_blocks);
	if (!r)
		r = sm_largest_layout(data, LEAST_COUNTS, LEAST_COUNTS, &tm->part_least);
	if (!r)
		r = sm_largest_layout(&tm->meta_sm, PART_COUNTS, PART_COUNTS, &tm->part_nodes);
	if (r)
		return r;
	tm->part_nodes += NEW_NODES;
	tm->part_seq = tm->open_seq;
	return 0;
}

/*
 * Two trees with a path copied, evened out and split, and another beside them; the roots in
 * leaves of the top level may be counted.
 */
static u64 entries_cost(const struct thin_meta *tm)
{
	return 2 * NEW_NODES + tm->part_nodes;
}

/* Overflow leaves may be split, or merged. */
static u64 needed_for(const struct thin_meta *tm, u64 cost)
{
	return cost + cost / 4 + tm->part_nodes;
}

/*
 * What has to be there when the pool grows: when a part of a change has taken what it may for
 * good, something can still be let go.  Mostly the reserve is enough for that.
 */
static u64 needed_to_grow(const struct thin_meta *tm, bool held)
{
	u64 nr = tm->meta_sm.nr_blocks, cost = tm->part_least;

	if (nr < SMALLEST_SAFE || cost <= MIN_MARGIN)
		return min(SMALL_DELETE, nr / 3);
	if (held)
		cost += entries_cost(tm);
	return min(needed_for(tm, cost) + cost / 4 + NEW_NODES, nr / 3);
}

/* Also where the limits cannot be found: that is no lack of metadata. */
static bool has_plenty(struct thin_meta *tm)
{
	u64 raw = meta_raw_free(tm);

	return raw >= PLENTY || find_limits(tm) ||
	       raw >= max(2 * tm->part_blocks + tm->part_nodes, needed_to_grow(tm, true));
}

static bool has_room(struct thin_meta *tm, u64 need)
{
	if (meta_raw_free(tm) >= need)
		return true;
	/* If not even a commit could make it so, metadata has run out, whatever the reserve. */
	if (sm_nr_free(&tm->meta_sm) + tm->meta_sm.nr_quarantined < need)
		tm->needed = max(tm->needed, need);
	return false;
}

static bool has_room_to_grow(struct thin_meta *tm, u64 cost)
{
	u64 least = needed_to_grow(tm, tm->held_root);

	return has_room(tm, cost ? max(needed_for(tm, cost), least) : least);
}

/**
 * meta_has_room() - is there metadata for mapping a block
 * @td: the device, its pool's change_lock held
 * @vblock: the virtual block
 *
 * Only a leaf that has to be copied can cost more than a few blocks.
 *
 * Return: false when there is not: commit first; &thin_meta_space.meta_free is 0 if that
 * cannot help.
 */
bool meta_has_room(struct thin_dev *td, u64 vblock)
{
	struct meta_tree tree = dev_tree(td);

	return has_plenty(td->tm) || has_room_to_grow(td->tm, copy_cost(&tree, vblock));
}

/**
 * meta_has_room_to_remove() - is there metadata for removing the mappings of one leaf
 * @td: the device, its pool's change_lock held
 * @vbegin: the range begins here, with a hole perhaps
 * @vend: one past its last block
 *
 * Return: as meta_has_room().
 */
bool meta_has_room_to_remove(struct thin_dev *td, u64 vbegin, u64 vend)
{
	struct meta_tree tree = dev_tree(td);

	return has_plenty(td->tm) || has_room_to_grow(td->tm, remove_cost(&tree, vbegin, vend));
}

/**
 * meta_has_room_for_device() - is there metadata for another device
 * @tm: the pool, change_lock held
 * @held: or for a metadata snapshot
 *
 * Return: false when there is not; a commit may help.
 */
bool meta_has_room_for_device(struct thin_meta *tm, bool held)
{
	return tm->space.meta_free &&
	       (has_plenty(tm) || meta_raw_free(tm) >= needed_to_grow(tm, held || tm->held_root));
}

/**
 * meta_has_room_for_entries() - is there metadata for a device to get another number
 * @tm: the pool, change_lock held
 *
 * Return: as meta_has_room().
 */
bool meta_has_room_for_entries(struct thin_meta *tm)
{
	return has_plenty(tm) || has_room(tm, needed_for(tm, entries_cost(tm)));
}

/**
 * meta_room_to_drop() - how much of a leaf can be removed
 * @tree: the tree, its pool's change_lock held
 * @leaf: a leaf of its own
 *
 * Where there is not enough metadata for the whole leaf a part of it may go.
 *
 * Return: how many of its entries, from the first on; 0 for none: a commit may help.
 */
u32 meta_room_to_drop(const struct meta_tree *tree, const struct disk_node *leaf)
{
	struct thin_meta *tm = tree->tm;
	u32 nr = bt_nr(leaf);
	u64 raw, rest;

	if (has_plenty(tm))
		return nr;
	/* Of the metadata snapshot the rest gets another number. */
	rest = tree->top_root == tm->top_root ? 0 : entries_cost(tm);
	raw = meta_raw_free(tm);
	while (nr && raw < needed_for(tm, rest + remove_cost(tree, bt_key(leaf, 0),
							     bt_key(leaf, nr - 1) + 1)))
		nr /= 2;
	return nr;
}

/**
 * meta_ask_again() - something has been let go: what was refused may be possible
 * @tm: the pool, change_lock held
 */
void meta_ask_again(struct thin_meta *tm)
{
	if (tm->needed && !find_limits(tm))
		tm->needed = min(tm->needed, needed_to_grow(tm, tm->held_root));
}
