/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Reference counts of blocks (format 6 and 7).
 *
 * A map is changed in memory only and laid out on disk by the commit: a
 * change of a count touches no btree and allocates no block, so nothing here
 * recurses, and each bitmap is written once a transaction.
 *
 * The map is cut into regions, the blocks that one bitmap counts.  A region's
 * bitmap is loaded when it is needed.  A commit does not copy it: a changed one is
 * lent to the frozen transaction, as the content of its new block, and comes back when that is
 * durable.  Who wants to change it before leaves it there, and goes on with a copy.
 *
 * Two states are only in memory, kept in @held:
 * - quarantined: the last reference has gone in a transaction that is not durable or, of
 *   a data block, bios may still be under way to it.  Only metadata blocks that a
 *   transaction takes and frees itself are spared that.
 * - reserved: a data block that is handed out, but not yet counted (its mapping
 *   is not yet inserted).
 * Reservations and the quarantine of what is durably free live through an
 * abort: the bios they stand for do too.
 *
 * So a block is taken only if it is free in the open transaction, in the frozen one
 * and in the durable state.  What a transaction frees is noted as well, a page for each
 * region, as the set that leaves the quarantine later.  Each block in such a set counts
 * in the region's @nr_held, so that @held is there as long as a set needs it.
 *
 * What the disk says of free entries (nr_free, none_free_before) is a hint: it
 * is recounted when a bitmap is loaded, and all bitmaps are loaded before space
 * is declared exhausted.  sm_recount() puts nr_allocated right, too.
 *
 * Locking: all functions but sm_peek_shared() and sm_layout_cost() need the pool's change_lock,
 * which protects all fields; who only looks things up uses no map.  From sm_write() to
 * sm_freeze(), and for sm_settle() and sm_abort(), the metadata lock is held for writing as well,
 * since pages change hands between map and transaction.  A region's @cur, and what regions there
 * are, change under peek_lock too; a page leaves @cur before it can be freed.
 */
#ifndef PD_SPACE_MAP_H
#define PD_SPACE_MAP_H

#include <linux/list.h>
#include <linux/spinlock.h>
#include <linux/xarray.h>

#include "disk-format.h"

struct pd_tm;

/**
 * struct sm_region - the blocks counted by one bitmap
 * @index: number of the bitmap
 * @bitmap: where the bitmap is, of the frozen transaction if it moved there; 0 when it
 *	has no place yet
 * @new_bitmap: where the layout has put it, else 0
 * @nr_free: entries that are zero, of all SM_ENTRIES_PER_BITMAP
 * @first_free: no entry below it is zero
 * @exact: the two fields above are counted, not read from disk
 * @stale: @bitmap and the hints must be read again (after an abort)
 * @lent: @cur is a page of the frozen transaction, or of the open one that is about to be
 *	that, and must not change
 * @cur: the counts, NULL while not loaded
 * @notes: what the open transaction has freed and taken, NULL while that is nothing
 * @held: in the layout of a bitmap: the even bit of a reserved entry, the odd
 *	one of a quarantined entry; NULL while there is none
 * @nr_held: bits in @held
 * @loss_seq: last transaction in which an entry lost a reference and kept another
 * @dirty: in the map's list of changed regions, or of lent bitmaps
 */
struct sm_region {
	u64 index;
	u64 bitmap;
	u64 new_bitmap;
	u32 nr_free;
	u32 first_free;
	bool exact;
	bool stale;
	bool lent;
	struct disk_bitmap *cur;
	struct sm_notes *notes;
	u64 *held;
	u32 nr_held;
	u64 loss_seq;
	struct list_head dirty;
};

/*
 * What one transaction does to the blocks of one region, in a bitmap's layout: the even bit of
 * each that it freed.  The odd bit is set as well if a data block is to be passed down;
 * that of a metadata block alone says that the transaction has taken it.
 */
struct sm_notes {
	struct sm_notes *next;
	u64 region;
	u64 words[ARRAY_SIZE(((struct disk_bitmap *)0)->words)];
};

static_assert(sizeof(struct sm_notes) == PD_BLOCK_SIZE);

typedef void (*sm_freed_fn)(void *arg, u64 begin, u64 len, bool passdown);

/**
 * struct pd_sm - a space map
 * @tm: where its blocks are
 * @is_data: counts data blocks, else metadata blocks
 * @nr_blocks: blocks counted
 * @durable_blocks: the same as of the last commit
 * @frozen: the notes of the frozen transaction
 * @frozen_blocks: as @nr_blocks, of the frozen transaction
 * @nr_allocated: blocks with a count above 0
 * @nr_reserved: blocks reserved
 * @nr_quarantined: blocks in quarantine
 * @loss_seq: the largest of the regions'
 * @bitmap_root: data: root of the index tree; metadata: the index block
 * @overflow_root: root of the tree of counts above 2
 * @index: the index block (metadata only)
 * @peek_lock: regions and loaded bitmaps stay while it is held (sm_peek_shared())
 * @regions: by number of the bitmap
 * @overflow: exact counts, changed in this transaction, of blocks that have or
 *	had an entry in the overflow tree
 * @nr_overflow: entries of @overflow
 * @nr_overflow_windows: how many windows of SM_OVERFLOW_WINDOW blocks have any
 * @nr_overflow_new: counts that have risen to 3 since the last layout
 * @nr_leaves: leaves that the overflow tree had behind the last layout that changed it, 0 if
 *	that is not known
 * @dirty: changed regions
 * @nr_dirty: how many
 * @lent: regions whose bitmaps are lent
 * @nr_lent: at most so many
 * @nr_loaded: regions with a loaded bitmap
 * @cursor: where the search for a free block goes on
 * @hints_checked: all bitmaps have been loaded once
 */
struct pd_sm {
	struct pd_tm *tm;
	bool is_data;
	u64 nr_blocks;
	u64 durable_blocks;
	struct sm_notes *frozen;
	u64 frozen_blocks;
	u64 nr_allocated;
	u64 nr_reserved;
	u64 nr_quarantined;
	u64 loss_seq;
	u64 bitmap_root;
	u64 overflow_root;
	struct disk_index *index;
	spinlock_t peek_lock;
	struct xarray regions;
	struct xarray overflow;
	u64 nr_overflow;
	u64 nr_overflow_windows;
	u64 nr_overflow_new;
	u64 nr_leaves;
	struct list_head dirty;
	u64 nr_dirty;
	struct list_head lent;
	u64 nr_lent;
	u64 nr_loaded;
	u64 cursor;
	bool hints_checked;
};

/* space-map.c: counting and finding */
void sm_init(struct pd_sm *sm, struct pd_tm *tm, bool is_data);
void sm_abort(struct pd_sm *sm);
void sm_exit(struct pd_sm *sm);
u64 sm_nr_free(struct pd_sm *sm);

int sm_count(struct pd_sm *sm, u64 block, u32 *count);
bool sm_peek_shared(struct pd_sm *sm, u64 block);
int sm_inc(struct pd_sm *sm, u64 block);
int sm_dec(struct pd_sm *sm, u64 block, bool *freed);
int sm_inc_run(struct pd_sm *sm, u64 block, u64 nr);
int sm_dec_run(struct pd_sm *sm, u64 block, u64 nr, bool passdown);
int sm_alloc(struct pd_sm *sm, u64 *block);
int sm_find_free(struct pd_sm *sm, struct sm_region **region, u32 *entry);
int sm_check_resize(struct pd_sm *sm, u64 nr_blocks, u64 *bitmaps);
int sm_resize(struct pd_sm *sm, u64 nr_blocks);
int sm_recount(struct pd_sm *sm);

/* space-map-region.c */
int sm_get_region(struct pd_sm *sm, u64 index, struct sm_region **region);

/* space-map-held.c: reservations and quarantine */
int sm_reserve(struct pd_sm *sm, u64 want, u64 *begin, u64 *len);
void sm_unreserve(struct pd_sm *sm, u64 begin, u64 len);
int sm_last_loss(struct pd_sm *sm, u64 block, u64 *seq);
int sm_take_reserved(struct pd_sm *sm, u64 block);
void sm_untake(struct pd_sm *sm, u64 block);
void sm_collect_notes(struct pd_sm *sm, struct sm_region *r);
void sm_freeze(struct pd_sm *sm);
struct sm_notes *sm_settle(struct pd_sm *sm);
void sm_release(struct pd_sm *sm, struct sm_notes *notes);
void sm_walk_freed(const struct sm_notes *notes, sm_freed_fn fn, void *arg);

/* space-map-disk.c: opening, laying out, writing */
int sm_create(struct pd_sm *sm);
int sm_open(struct pd_sm *sm, const u8 *root_field);
int sm_read_entry(struct pd_sm *sm, struct sm_region *region);
int sm_overflow_count(struct pd_sm *sm, u64 block, u32 *count);
int sm_largest_layout(struct pd_sm *sm, u64 bitmaps, u64 leaves, u64 *mblocks);
int sm_layout(struct pd_sm *sm);
int sm_write(struct pd_sm *sm);
void sm_pack_root(struct pd_sm *sm, u8 *root_field);

/* ---- what a layout takes ---- */

/* Counts in a leaf of the overflow tree, at least: a third of what fits (format 4.1). */
#define SM_LEAST_IN_LEAF	112

static_assert((PD_BLOCK_SIZE - sizeof(struct disk_node)) / (sizeof(__le64) + sizeof(__le32)) / 3 ==
	      SM_LEAST_IN_LEAF);

/* Blocks whose changed counts are likely to lie in one leaf of it: an XArray's node. */
#define SM_OVERFLOW_WINDOW	64

/* Blocks, and nodes that lead to them. */
static inline u64 sm_with_nodes(u64 blocks)
{
	return blocks + blocks / 64;
}

/**
 * sm_layout_cost() - metadata blocks that laying out the changes made so far takes, about
 * @sm: the map
 *
 * Rather too many.  Leaves of the overflow tree are a third full at least, so a window of its
 * keys lies in two at most.  Needs no lock for an answer of the moment.
 *
 * Return: mblocks.
 */
static inline u64 sm_layout_cost(const struct pd_sm *sm)
{
	u64 keys = READ_ONCE(sm->nr_overflow), leaves = 0;

	if (keys) {
		leaves = READ_ONCE(sm->nr_leaves);
		leaves = leaves ? leaves + 2 * keys / SM_LEAST_IN_LEAF :
			 READ_ONCE(sm->nr_allocated) / SM_LEAST_IN_LEAF;
		leaves = min3(keys, 2 * READ_ONCE(sm->nr_overflow_windows), leaves + 1);
		/* Full ones are split. */
		leaves += min(READ_ONCE(sm->nr_overflow_new), leaves);
	}
	return sm_with_nodes(READ_ONCE(sm->nr_dirty) + leaves);
}

#endif
