// SPDX-License-Identifier: GPL-2.0-only
/*
 * Blocks that are held though their count is 0: reservations, and the quarantine of
 * blocks that are free but may still be needed, or reached by bios under way.
 */
#include "space-map-region.h"

#include <linux/bitops.h>
#include <linux/gfp.h>
#include <linux/kernel.h>
#include <linux/math64.h>
#include <linux/slab.h>
#include <linux/string.h>

#include "transaction-manager.h"

/* ---- reservations ---- */

/**
 * sm_reserve() - take a run of data blocks, in memory only
 * @sm: the map of data blocks
 * @want: blocks wished for, at least 1
 * @begin: set to the first block
 * @len: set to how many it became, at least 1
 *
 * Return: 0, -ENOSPC, -ENOMEM, or the errno of a read.
 */
int sm_reserve(struct pd_sm *sm, u64 want, u64 *begin, u64 *len)
{
	u64 limit = min(sm->durable_blocks, sm->nr_blocks);
	struct sm_region *r;
	u32 i, end, n = 0;
	int err;

	err = sm_find_free(sm, &r, &i);
	if (!err)
		err = sm_touch_held(r);
	if (err)
		return err;

	*begin = r->index * SM_ENTRIES_PER_BITMAP + i;
	end = min_t(u64, SM_ENTRIES_PER_BITMAP, limit - r->index * SM_ENTRIES_PER_BITMAP);
	end = min_t(u64, end - i, want) + i;
	for (; i < end; i++, n++) {
		if (sm_busy_pairs(r, i / SM_ENTRIES_PER_WORD) & sm_even_bit(i))
			break;
		r->held[i / SM_ENTRIES_PER_WORD] |= sm_even_bit(i);
	}
	r->nr_held += n;
	sm->nr_reserved += n;
	*len = n;
	sm->cursor = *begin + n;
	return 0;
}

static bool end_reservation(struct pd_sm *sm, struct sm_region *r, u32 i)
{
	if (!r || !r->held || !(r->held[i / SM_ENTRIES_PER_WORD] & sm_even_bit(i)))
		return false;
	r->held[i / SM_ENTRIES_PER_WORD] &= ~sm_even_bit(i);
	r->nr_held--;
	sm->nr_reserved--;
	return true;
}

/**
 * sm_unreserve() - give reserved data blocks back unused
 * @sm: the map of data blocks
 * @begin: first block
 * @len: blocks
 */
void sm_unreserve(struct pd_sm *sm, u64 begin, u64 len)
{
	for (; len; begin++, len--) {
		u32 i;
		u64 index = div_u64_rem(begin, SM_ENTRIES_PER_BITMAP, &i);

		WARN_ON_ONCE(!end_reservation(sm, xa_load(&sm->regions, index), i));
	}
}

/**
 * sm_last_loss() - when did a data block last lose a reference that was not its last
 * @sm: the map of data blocks
 * @block: which
 * @seq: set to a transaction not before that one, 0 for none since the map was opened
 *
 * Return: 0, -EILSEQ, -ENOMEM, or the errno of a read.
 */
int sm_last_loss(struct pd_sm *sm, u64 block, u64 *seq)
{
	struct sm_region *r;
	u32 i;
	int err = sm_find_entry(sm, block, &r, &i);

	if (!err)
		*seq = r->loss_seq;
	return err;
}

/**
 * sm_take_reserved() - count a reserved data block, it becomes 1
 * @sm: the map of data blocks
 * @block: which
 *
 * Return: 0, -EINVAL for a block that is not reserved, -ENOMEM, or the errno of
 * a read.
 */
int sm_take_reserved(struct pd_sm *sm, u64 block)
{
	struct sm_region *r;
	u32 i;
	int err;

	err = sm_find_entry(sm, block, &r, &i);
	if (!err)
		err = sm_touch(sm, r);
	if (err)
		return err;
	if (sm_get_entry(r->cur, i) || !end_reservation(sm, r, i))
		return -EINVAL;
	sm_set_entry(r, i, 1);
	sm->nr_allocated++;
	return 0;
}

/**
 * sm_untake() - a counted block becomes reserved again
 * @sm: the map of data blocks; its transaction is going to be aborted
 * @block: of sm_take_reserved() under the same hold of the lock
 */
void sm_untake(struct pd_sm *sm, u64 block)
{
	u32 i;
	u64 index = div_u64_rem(block, SM_ENTRIES_PER_BITMAP, &i);
	struct sm_region *r = xa_load(&sm->regions, index);

	if (WARN_ON_ONCE(!r || !r->held))
		return;
	r->held[i / SM_ENTRIES_PER_WORD] |= sm_even_bit(i);
	r->nr_held++;
	sm->nr_reserved++;
}

/* ---- the end of a transaction ---- */

/**
 * sm_collect_notes() - put the notes of a region to those of the frozen transaction
 * @sm: the map
 * @r: the region
 */
void sm_collect_notes(struct pd_sm *sm, struct sm_region *r)
{
	if (!r->notes)
		return;
	r->notes->region = r->index;
	r->notes->next = sm->frozen;
	sm->frozen = r->notes;
	r->notes = NULL;
}

/**
 * sm_freeze() - the next transaction begins
 * @sm: the map, laid out and written; the transaction before is settled
 */
void sm_freeze(struct pd_sm *sm)
{
	struct sm_region *r, *tmp;

	list_for_each_entry_safe(r, tmp, &sm->dirty, dirty) {
		/* New ones of a device that has grown are not loaded. */
		if (r->lent)
			list_move(&r->dirty, &sm->lent);
		else
			list_del_init(&r->dirty);
		r->bitmap = r->new_bitmap;
		r->new_bitmap = 0;
		sm_collect_notes(sm, r);
		sm_drop_held(r);
	}
	sm->nr_lent = sm->nr_dirty;
	sm->nr_dirty = 0;
	sm->nr_overflow = 0;
	sm->nr_overflow_windows = 0;
	sm->nr_overflow_new = 0;
	sm->frozen_blocks = sm->nr_blocks;
}

/**
 * sm_settle() - the frozen transaction is durable
 * @sm: the map; tm_drop_frozen() follows
 *
 * Return: for a map of data blocks, the blocks that lost their last reference
 * and are in quarantine until sm_release(); NULL when there are none.
 */
struct sm_notes *sm_settle(struct pd_sm *sm)
{
	struct sm_notes *notes = sm->frozen;
	struct sm_region *r, *tmp;

	list_for_each_entry_safe(r, tmp, &sm->lent, dirty) {
		tm_take_back(sm->tm, r->bitmap);
		r->lent = false;
		list_del_init(&r->dirty);
	}
	sm->nr_lent = 0;
	sm->frozen = NULL;
	WRITE_ONCE(sm->durable_blocks, sm->frozen_blocks);
	if (sm->is_data)
		return notes;
	sm_release(sm, notes);
	return NULL;
}

/**
 * sm_release() - end the quarantine of a set
 * @sm: the map
 * @notes: of sm_settle()
 */
void sm_release(struct pd_sm *sm, struct sm_notes *notes)
{
	while (notes) {
		struct sm_notes *page = notes;
		struct sm_region *r = xa_load(&sm->regions, page->region);
		u32 i, nr = 0;

		notes = page->next;
		for (i = 0; i < SM_NR_WORDS; i++) {
			u64 freed = page->words[i] & SM_EVEN_BITS;

			/* Who has only taken blocks may hold none. */
			if (freed) {
				r->held[i] &= ~(freed << 1);
				nr += hweight64(freed);
			}
		}
		r->nr_held -= nr;
		sm->nr_quarantined -= nr;
		sm_drop_held(r);
		free_page((unsigned long)page);
	}
}

/* The even bits of the entries that are freed, and to be passed down or not. */
static u64 freed_pairs(u64 word, bool passdown)
{
	return (passdown ? word >> 1 : word & ~(word >> 1)) & SM_EVEN_BITS;
}

/* The first entry from @i on that is of a kind, or is not; else the number of entries. */
static u32 find_freed(const struct sm_notes *notes, u32 i, bool passdown, bool is)
{
	while (i < SM_ENTRIES_PER_BITMAP) {
		u64 pairs = freed_pairs(notes->words[i / SM_ENTRIES_PER_WORD], passdown);

		pairs = (is ? pairs : ~pairs) & SM_EVEN_BITS;
		pairs &= ~0ULL << (2 * (i % SM_ENTRIES_PER_WORD));
		i -= i % SM_ENTRIES_PER_WORD;
		if (pairs)
			return i + __ffs64(pairs) / 2;
		i += SM_ENTRIES_PER_WORD;
	}
	return SM_ENTRIES_PER_BITMAP;
}

static void each_run(const struct sm_notes *notes, bool passdown, sm_freed_fn fn, void *arg)
{
	u32 i = 0, end;

	while ((i = find_freed(notes, i, passdown, true)) < SM_ENTRIES_PER_BITMAP) {
		end = find_freed(notes, i, passdown, false);
		fn(arg, notes->region * SM_ENTRIES_PER_BITMAP + i, end - i, passdown);
		i = end;
	}
}

/**
 * sm_walk_freed() - walk over the runs of a set
 * @notes: of sm_settle(), not yet released
 * @fn: called with each: first block, blocks, and whether they are to be passed
 *	down; a run ends at the latest where its region does
 * @arg: for @fn
 *
 * Needs no lock, a set does not change.
 */
void sm_walk_freed(const struct sm_notes *notes, sm_freed_fn fn, void *arg)
{
	for (; notes; notes = notes->next) {
		each_run(notes, true, fn, arg);
		each_run(notes, false, fn, arg);
	}
}
