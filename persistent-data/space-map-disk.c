// SPDX-License-Identifier: GPL-2.0-only
/*
 * Where a space map lies on disk: opening, laying out, writing.
 *
 * The two maps differ only in how bitmaps are found: through a btree (data) or
 * one index block (metadata).
 *
 * Layout of the metadata map changes the metadata map itself, since bitmaps
 * and nodes move to new blocks.  It ends because every region moves at most
 * once: regions that become dirty on the way join the end of the list that is
 * being worked through.  Bitmaps are written only after all layout is done.
 */
#include "space-map-region.h"

#include <linux/gfp.h>
#include <linux/kernel.h>
#include <linux/math64.h>
#include <linux/string.h>

#include "btree.h"
#include "transaction-manager.h"

/* So many are read at the same time. */
#define PREFETCH_LEAVES		256

static void overflow_info(struct pd_sm *sm, struct bt_info *info)
{
	*info = (struct bt_info) { .tm = sm->tm, .value_size = sizeof(__le32) };
}

static void index_info(struct pd_sm *sm, struct bt_info *info)
{
	*info = (struct bt_info) {
		.tm = sm->tm,
		.value_size = sizeof(struct disk_index_entry),
	};
}

static u64 nr_regions(u64 nr_blocks)
{
	return DIV_ROUND_UP_ULL(nr_blocks, SM_ENTRIES_PER_BITMAP);
}

/* ---- opening ---- */

static int alloc_index(struct pd_sm *sm)
{
	if (!sm->is_data && !sm->index)
		sm->index = (struct disk_index *)get_zeroed_page(GFP_NOIO);
	return sm->is_data || sm->index ? 0 : -ENOMEM;
}

/**
 * sm_create() - make an empty map ready for its first layout
 * @sm: of sm_init().  A map of metadata blocks must have been resized, as
 *	this allocates.
 *
 * Return: 0 or a negative errno.
 */
int sm_create(struct pd_sm *sm)
{
	struct bt_info info;
	int r;

	overflow_info(sm, &info);
	r = bt_empty(&info, &sm->overflow_root);
	if (r)
		return r;
	if (sm->is_data) {
		index_info(sm, &info);
		r = bt_empty(&info, &sm->bitmap_root);
	} else {
		r = alloc_index(sm);
	}
	return r;
}

/**
 * sm_open() - read where a map lies
 * @sm: of sm_init() or sm_abort()
 * @root_field: its root in the superblock (format 6.1)
 *
 * Return: 0, -EILSEQ for numbers that cannot be, -ENOMEM, or the errno of a
 * read.
 */
int sm_open(struct pd_sm *sm, const u8 *root_field)
{
	struct pd_bm *bm = sm->tm->bm;
	struct disk_sm_root root;
	struct dm_buffer *buffer;
	const void *data;
	int r;

	memcpy(&root, root_field, sizeof(root));
	sm->nr_blocks = le64_to_cpu(root.nr_blocks);
	sm->durable_blocks = sm->nr_blocks;
	sm->nr_allocated = le64_to_cpu(root.nr_allocated);
	sm->bitmap_root = le64_to_cpu(root.bitmap_root);
	sm->overflow_root = le64_to_cpu(root.ref_count_root);
	if (sm->is_data) {
		if (sm->nr_blocks > 1ULL << (64 - MAPPING_TIME_BITS))
			goto bad_root;
		return 0;
	}

	if (!sm->nr_blocks || sm->nr_blocks > SM_MAX_META_BLOCKS ||
	    !sm->bitmap_root || sm->bitmap_root >= sm->nr_blocks)
		goto bad_root;
	r = alloc_index(sm);
	if (r)
		return r;
	r = bm_read(bm, sm->bitmap_root, PD_INDEX, true, &buffer, &data);
	if (r)
		return r;
	memcpy(sm->index, data, PD_BLOCK_SIZE);
	bm_put(buffer);
	return 0;

bad_root:
	bm_complain(bm, SUPERBLOCK_LOCATION, PD_SUPERBLOCK, "space map that cannot be",
		    -EILSEQ);
	return -EILSEQ;
}

/**
 * sm_read_entry() - find the bitmap of a region
 * @sm: the map
 * @region: its bitmap and hints are filled in
 *
 * Return: 0, -EILSEQ when the index lacks it, or the errno of a read.
 */
int sm_read_entry(struct pd_sm *sm, struct sm_region *region)
{
	struct disk_index_entry entry;
	struct bt_info info;
	int r = 0;

	if (region->index >= nr_regions(sm->nr_blocks)) {
		r = -EILSEQ;
	} else if (sm->is_data) {
		index_info(sm, &info);
		r = bt_lookup(&info, sm->bitmap_root, region->index, true, &entry);
		if (r == -ENODATA)
			r = -EILSEQ;
	} else {
		entry = sm->index->entries[region->index];
	}
	if (!r && (!le64_to_cpu(entry.blocknr) ||
		   le64_to_cpu(entry.blocknr) >= sm->tm->meta->nr_blocks))
		r = -EILSEQ;
	if (r) {
		bm_complain(sm->tm->bm, sm->bitmap_root, PD_INDEX,
			    "bitmap missing or out of range", r);
		return r;
	}
	region->bitmap = le64_to_cpu(entry.blocknr);
	region->nr_free = le32_to_cpu(entry.nr_free);
	region->first_free = 0;
	return 0;
}

/**
 * sm_overflow_count() - a count above 2, as the disk has it
 * @sm: the map
 * @block: a block whose bitmap entry is 3
 * @count: set
 *
 * Return: 0, -EILSEQ when the tree contradicts the bitmap (format 6.4), or
 * the errno of a read.
 */
int sm_overflow_count(struct pd_sm *sm, u64 block, u32 *count)
{
	struct bt_info info;
	__le32 value;
	int r;

	overflow_info(sm, &info);
	r = bt_lookup(&info, sm->overflow_root, block, true, &value);
	if (!r && le32_to_cpu(value) < 3)
		r = -EILSEQ;
	if (r == -ENODATA || r == -EILSEQ) {
		bm_complain(sm->tm->bm, block, PD_BITMAP, "overflow count missing or below 3",
			    -EILSEQ);
		return -EILSEQ;
	}
	*count = le32_to_cpu(value);
	return r;
}

/* ---- laying out ---- */

/**
 * sm_largest_layout() - metadata blocks that laying out takes, whatever changes
 * @sm: the map
 * @bitmaps: no more of them change
 * @leaves: no more leaves of the overflow tree change
 * @mblocks: set
 *
 * Return: 0 or the errno of a read.
 */
int sm_largest_layout(struct pd_sm *sm, u64 bitmaps, u64 leaves, u64 *mblocks)
{
	struct bt_info info;
	u64 nr = 0;
	int r = 0;

	overflow_info(sm, &info);
	if (leaves)
		r = bt_count_leaves(&info, sm->overflow_root, leaves, &nr);
	*mblocks = sm_with_nodes(min(nr_regions(sm->nr_blocks), bitmaps) + min(nr, leaves));
	return r;
}

/* Of the overflow tree; 0 where it is too large to be counted. */
static u64 count_leaves(struct pd_sm *sm)
{
	struct bt_info info;
	u64 nr;

	overflow_info(sm, &info);
	return bt_count_leaves(&info, sm->overflow_root, U32_MAX, &nr) || nr == U32_MAX ? 0 : nr;
}

/*
 * Have the leaves that the next counts are going to be written to read at the same time.
 * Return: the block before which that is to be done again.
 */
static unsigned long prefetch_overflow(struct pd_sm *sm, struct bt_info *info,
				       unsigned long begin, u32 height)
{
	unsigned long block, next = begin;
	unsigned int nr = 0;
	void *entry;

	xa_for_each_start(&sm->overflow, block, entry, begin) {
		if (block < next)
			continue;
		if (nr++ == PREFETCH_LEAVES)
			return block;
		bt_prefetch_leaf(info, sm->overflow_root, height, block);
		next = block + SM_OVERFLOW_WINDOW;
	}
	return ULONG_MAX;
}

static int apply_overflow(struct pd_sm *sm)
{
	unsigned long block;
	unsigned long ahead = 0;
	struct bt_info info;
	void *entry;
	u32 height = 0;
	int r;

	overflow_info(sm, &info);
	r = xa_empty(&sm->overflow) ? 0 : bt_height(&info, sm->overflow_root, &height);
	if (r)
		return r;
	xa_for_each(&sm->overflow, block, entry) {
		u32 count = xa_to_value(entry);
		__le32 value = cpu_to_le32(count);

		/* The tree may grow on the way: then they are read one by one. */
		if (block >= ahead)
			ahead = prefetch_overflow(sm, &info, block, height);
		if (count >= 3) {
			r = bt_insert(&info, &sm->overflow_root, block, &value);
		} else {
			r = bt_remove(&info, &sm->overflow_root, block);
			if (r == -ENODATA)	/* rose above 2 and fell in one transaction */
				r = 0;
		}
		if (r)
			return r;
		xa_erase(&sm->overflow, block);
	}
	/* Nodes of these trees have one owner each, so no count rose on the way. */
	if (!xa_empty(&sm->overflow)) {
		bm_complain(sm->tm->bm, sm->overflow_root, PD_NODE,
			    "overflow tree shared with another", -EILSEQ);
		return -EILSEQ;
	}
	if (sm->nr_overflow)
		WRITE_ONCE(sm->nr_leaves, count_leaves(sm));
	return 0;
}

/* Give a dirty region's bitmap its new block. */
static int move_bitmap(struct pd_sm *sm, struct sm_region *region)
{
	struct pd_sm *meta = sm->tm->meta;
	bool freed;
	int r;

	r = sm_alloc(meta, &region->new_bitmap);
	if (!r && region->bitmap)
		r = tm_dec(sm->tm, region->bitmap, &freed);
	return r;
}

static void fill_entry(const struct sm_region *region, struct disk_index_entry *entry)
{
	entry->blocknr = cpu_to_le64(region->new_bitmap);
	entry->nr_free = cpu_to_le32(region->nr_free);
	entry->none_free_before = cpu_to_le32(region->first_free);
}

static int layout_data(struct pd_sm *sm)
{
	struct sm_region *region;
	struct bt_info info;
	int r;

	index_info(sm, &info);
	list_for_each_entry(region, &sm->dirty, dirty) {
		struct disk_index_entry entry;

		r = move_bitmap(sm, region);
		if (r)
			return r;
		fill_entry(region, &entry);
		r = bt_insert(&info, &sm->bitmap_root, region->index, &entry);
		if (r)
			return r;
	}
	return 0;
}

static int layout_meta(struct pd_sm *sm)
{
	struct sm_region *region;
	bool freed;
	u64 index;
	int r;

	r = sm_alloc(sm, &index);
	if (!r && sm->bitmap_root)
		r = tm_dec(sm->tm, sm->bitmap_root, &freed);
	if (r)
		return r;
	sm->bitmap_root = index;

	list_for_each_entry(region, &sm->dirty, dirty) {
		r = move_bitmap(sm, region);
		if (r)
			return r;
	}
	list_for_each_entry(region, &sm->dirty, dirty)
		fill_entry(region, &sm->index->entries[region->index]);
	return 0;
}

/**
 * sm_layout() - find a place on disk for all that has changed
 * @sm: the map; data before metadata, and the metadata map as the very last of
 *	all that allocates
 *
 * Return: 0, -ENOSPC, -ENOMEM, or the errno of a read.  After an error the
 * transaction must be aborted.
 */
int sm_layout(struct pd_sm *sm)
{
	int r = apply_overflow(sm);

	if (r)
		return r;
	return sm->is_data ? layout_data(sm) : layout_meta(sm);
}

/**
 * sm_write() - make the bitmaps blocks of the transaction
 * @sm: a map that has been laid out; changed bitmaps are lent from now on
 *
 * Return: 0 or as tm_add(); the transaction must be aborted then.
 */
int sm_write(struct pd_sm *sm)
{
	struct sm_region *region;
	void *index;
	int r;

	list_for_each_entry(region, &sm->dirty, dirty) {
		r = tm_add(sm->tm, PD_BITMAP, region->new_bitmap, region->cur);
		if (r)
			return r;
		region->lent = region->cur;
	}
	if (sm->is_data)
		return 0;
	index = (void *)__get_free_page(GFP_NOIO);
	if (!index)
		return -ENOMEM;
	memcpy(index, sm->index, PD_BLOCK_SIZE);
	r = tm_add(sm->tm, PD_INDEX, sm->bitmap_root, index);
	if (r)
		free_page((unsigned long)index);
	return r;
}

/**
 * sm_pack_root() - the map's root for the superblock
 * @sm: a map that has been laid out
 * @root_field: all of its SM_ROOT_FIELD_SIZE bytes are set
 */
void sm_pack_root(struct pd_sm *sm, u8 *root_field)
{
	struct disk_sm_root root = {
		.nr_blocks = cpu_to_le64(sm->nr_blocks),
		.nr_allocated = cpu_to_le64(sm->nr_allocated),
		.bitmap_root = cpu_to_le64(sm->bitmap_root),
		.ref_count_root = cpu_to_le64(sm->overflow_root),
	};

	memset(root_field, 0, SM_ROOT_FIELD_SIZE);
	memcpy(root_field, &root, sizeof(root));
}
