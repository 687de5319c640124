// SPDX-License-Identifier: GPL-2.0-only
/*
 * Is there enough metadata left for a change, and for the commit of it?
 *
 * Counts change in memory, so what they cost falls due in the layout: a block for each
 * bitmap, and one for each leaf of the overflow tree (counts above 2).  Where blocks lie far from
 * one another each of the 252 values of a leaf that is copied, or dropped, may take both.  A commit
 * that finds no place for them rolls back all it has, so each part of a change is
 * asked for here before it begins; what cannot be had ends in a mode.
 *
 * Locking: change_lock, which keeps trees and counts as they are.
 */
#include "dm-thin-metadata-internal.h"

#include <linux/gfp.h>
#include <linux/kernel.h>
#include <linux/math64.h>
#include <linux/string.h>

/* Format 13.6 */
#define MAX_RESERVE		4096

/* What the smallest change may need: a path copied and split, a few bitmaps. */
#define MIN_MARGIN		16ULL

/* Nodes that a part of a change copies or adds. */
#define NEW_NODES		8

/* Counts that two leaves hold, or the nodes above them. */
#define PART_COUNTS		504

/* Enough for any part of a change, and for what the layout may take beyond the estimate. */
#define PLENTY			(5 * PART_COUNTS)

static_assert(PLENTY >= MAX_RESERVE / 2);

/* Blocks that are likely to be counted by the same leaf of the overflow tree. */
#define WINDOW			64

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

/* ---- one part of a change ---- */

/* What the first values of a leaf may take if all their counts change. */
static u64 leaf_cost(const struct thin_meta *tm, const struct disk_node *leaf, u32 nr)
{
	u64 bitmaps = 0, windows = 0, last_bitmap = U64_MAX, last_window = U64_MAX;
	u32 i;

	for (i = 0; i < nr; i++) {
		u64 block, bitmap;
		__le64 value;

		memcpy(&value, bt_value(leaf, i), sizeof(value));
		block = mapping_block(le64_to_cpu(value));
		bitmap = div_u64(block, SM_ENTRIES_PER_BITMAP);
		bitmaps += bitmap != last_bitmap;
		windows += block / WINDOW != last_window;
		last_bitmap = bitmap;
		last_window = block / WINDOW;
	}
	bitmaps = min(bitmaps, tm->part_bitmaps);
	return bitmaps + min3((u64)nr, 2 * windows, tm->part_blocks - tm->part_bitmaps);
}

/* What changing the leaf where @key is, or would be, takes: nothing if it need not be copied. */
static u64 copy_cost(struct thin_dev *td, u64 key)
{
	struct thin_meta *tm = td->tm;
	struct bt_leaf leaf;
	u64 cost;

	/* Who cannot read it comes upon that soon enough. */
	if (bt_is_own_leaf(&tm->mapping, td->root, key) ||
	    bt_find_leaf(&tm->mapping, td->root, key, true, &leaf))
		return 0;
	cost = leaf_cost(tm, leaf.node, bt_nr(leaf.node));
	bt_put_leaf(&leaf);
	return cost;
}

/* The same of the neighbour that the leaf is merged with when it has lost too much. */
static u64 merge_cost(struct thin_dev *td, u64 key)
{
	struct bt_leaf leaf;
	u64 low, bound;
	bool last;

	if (bt_find_leaf(&td->tm->mapping, td->root, key, true, &leaf))
		return 0;
	low = leaf.low;
	bound = leaf.bound;
	last = leaf.last;
	bt_put_leaf(&leaf);
	return max(low ? copy_cost(td, low - 1) : 0, last ? 0 : copy_cost(td, bound));
}

/* What removing mappings from the leaf takes: counts of its values, and it may be merged. */
static u64 remove_cost(struct thin_dev *td, u64 key)
{
	struct bt_leaf leaf;
	u64 cost;

	if (bt_find_leaf(&td->tm->mapping, td->root, key, true, &leaf))
		return 0;
	cost = leaf_cost(td->tm, leaf.node, bt_nr(leaf.node));
	bt_put_leaf(&leaf);
	return cost + merge_cost(td, key);
}

/* The most that a part of a change can take; known until the next layout. */
static void find_limits(struct thin_meta *tm)
{
	if (tm->part_seq == tm->open_seq)
		return;
	tm->part_bitmaps = sm_largest_layout(&tm->data_sm, PART_COUNTS, 0);
	tm->part_blocks = sm_largest_layout(&tm->data_sm, PART_COUNTS, PART_COUNTS);
	tm->part_nodes = sm_largest_layout(&tm->meta_sm, PART_COUNTS, PART_COUNTS) + NEW_NODES;
	tm->part_seq = tm->open_seq;
}

static bool has_plenty(struct thin_meta *tm)
{
	u64 raw = meta_raw_free(tm);

	if (raw >= PLENTY)
		return true;
	find_limits(tm);
	return raw >= 2 * tm->part_blocks + tm->part_nodes;
}

/**
 * meta_has_room() - is there metadata for a change of one leaf of a device
 * @td: the device, its pool's change_lock held
 * @vblock: a virtual block in the leaf
 * @removes: mappings are removed, which may bring a neighbour in; otherwise one is added or
 *	replaced, and only a leaf that others share costs more than a few blocks
 *
 * Return: false when there is not: commit first; &thin_meta_space.meta_free is 0 if that
 * cannot help.
 */
bool meta_has_room(struct thin_dev *td, u64 vblock, bool removes)
{
	struct thin_meta *tm = td->tm;
	u64 raw, need;

	if (has_plenty(tm))
		return true;
	raw = meta_raw_free(tm);
	need = removes ? remove_cost(td, vblock) : copy_cost(td, vblock);
	if (need)
		need += tm->part_nodes;
	if (raw >= need)
		return true;
	/* If not even a commit could make it so, metadata has run out, whatever the reserve. */
	if (raw + tm->meta_sm.nr_quarantined < need)
		tm->needed = need;
	return false;
}

/**
 * meta_may_go_on() - may a change have another part before the transaction is committed
 * @td: as for meta_has_room()
 * @vblock: likewise
 * @removes: likewise
 *
 * Return: true when it may.
 */
bool meta_may_go_on(struct thin_dev *td, u64 vblock, bool removes)
{
	if (meta_raw_free(td->tm) >= PLENTY)
		return true;
	return !meta_is_short(td->tm) && meta_has_room(td, vblock, removes);
}

/**
 * meta_room_to_drop() - how much of a leaf can be removed
 * @td: the device, its pool's change_lock held
 * @leaf: a leaf of the device's own
 *
 * Where there is not enough metadata for the whole leaf a part of it may go.
 *
 * Return: how many of its entries, from the first on; 0 for none: a commit may help.
 */
u32 meta_room_to_drop(struct thin_dev *td, const struct disk_node *leaf)
{
	u32 all = bt_nr(leaf), least = le32_to_cpu(leaf->max_entries) / 3, nr;
	struct thin_meta *tm = td->tm;
	u64 raw, need;

	if (has_plenty(tm))
		return all;
	raw = meta_raw_free(tm);
	for (nr = all; nr; nr /= 2) {
		need = leaf_cost(tm, leaf, nr) + tm->part_nodes;
		if (nr < all && all - nr < least)
			need += merge_cost(td, bt_key(leaf, 0));
		if (raw >= need)
			break;
	}
	return nr;
}

/* ---- the metadata snapshot ---- */

/* Adds what dropping the leaves that only this tree has may take, up to @most. */
static int add_own_leaves(struct thin_meta *tm, u64 root, struct disk_node *leaf, u64 most,
			  u64 *cost)
{
	u64 key = 0;
	u32 count;
	int r = tm_count(&tm->tm, root, &count);

	if (r || count > 1)
		return r;
	do {
		r = bt_seek_own_leaf(&tm->mapping, root, &key, leaf);
		if (r)
			return r == -ENODATA ? 0 : r;
		*cost += leaf_cost(tm, leaf, bt_nr(leaf));
		key = bt_key(leaf, bt_nr(leaf) - 1) + 1;
	} while (key && *cost < most);
	return 0;
}

/* The same of all devices. */
static int add_devices(struct thin_meta *tm, u64 top_root, struct disk_node *pages[2], u64 most,
		       u64 *cost)
{
	u64 id = 0;
	u32 count, i;
	int r = tm_count(&tm->tm, top_root, &count);

	if (r || count > 1)
		return r;
	do {
		r = bt_seek_own_leaf(&tm->held_top, top_root, &id, pages[0]);
		if (r)
			return r == -ENODATA ? 0 : r;
		for (i = 0; i < bt_nr(pages[0]) && !r && *cost < most; i++)
			r = add_own_leaves(tm, bt_child(pages[0], i), pages[1], most, cost);
		id = bt_key(pages[0], bt_nr(pages[0]) - 1) + 1;
	} while (!r && id && *cost < most);
	return r;
}

/**
 * meta_check_room_to_release() - is there metadata for letting the metadata snapshot go
 * @tm: the pool, change_lock held
 * @top_root: top level of the snapshot
 *
 * Looks at what only the snapshot has, unless there is enough for whatever that may be.
 *
 * Return: 0, -ENOSPC, -ENOMEM, -EILSEQ or the errno of a read.
 */
int meta_check_room_to_release(struct thin_meta *tm, u64 top_root)
{
	u64 nodes = sm_largest_layout(&tm->meta_sm, U64_MAX, MAX_RESERVE) + MIN_MARGIN;
	u64 raw = meta_raw_free(tm), cost = 0;
	struct disk_node *pages[2];
	int r = -ENOMEM;

	if (raw >= sm_largest_layout(&tm->data_sm, U64_MAX, MAX_RESERVE) + nodes)
		return 0;
	find_limits(tm);
	pages[0] = (struct disk_node *)__get_free_page(GFP_NOIO);
	pages[1] = (struct disk_node *)__get_free_page(GFP_NOIO);
	if (pages[0] && pages[1])
		r = add_devices(tm, top_root, pages, raw, &cost);
	free_page((unsigned long)pages[0]);
	free_page((unsigned long)pages[1]);
	if (!r && cost + nodes > raw)
		r = -ENOSPC;
	return r;
}
