// SPDX-License-Identifier: GPL-2.0-only
/*
 * Counting references and finding free blocks; see the header.
 */
#include "space-map-region.h"

#include <linux/bitops.h>
#include <linux/gfp.h>
#include <linux/kernel.h>
#include <linux/math64.h>
#include <linux/slab.h>
#include <linux/string.h>

#include "transaction-manager.h"

/* Bitmaps that are read at the same time. */
#define READ_AHEAD		64

/**
 * sm_init() - an empty map of no blocks
 * @sm: filled in
 * @tm: where its blocks will be
 * @is_data: counts data blocks
 */
void sm_init(struct pd_sm *sm, struct pd_tm *tm, bool is_data)
{
	memset(sm, 0, sizeof(*sm));
	sm->tm = tm;
	sm->is_data = is_data;
	spin_lock_init(&sm->peek_lock);
	xa_init(&sm->regions);
	xa_init(&sm->overflow);
	INIT_LIST_HEAD(&sm->dirty);
	INIT_LIST_HEAD(&sm->lent);
}

static void free_region(struct pd_sm *sm, struct sm_region *r)
{
	sm_unload(sm, r);
	free_page((unsigned long)r->notes);
	free_page((unsigned long)r->held);
	spin_lock(&sm->peek_lock);
	xa_erase(&sm->regions, r->index);
	spin_unlock(&sm->peek_lock);
	kfree(r);
}

/**
 * sm_abort() - forget the open transaction, and the frozen one
 * @sm: the map; reservations stay, and the quarantine of what durable transactions
 *	freed.  tm_drop() must follow, which frees lent bitmaps, and then sm_open().
 */
void sm_abort(struct pd_sm *sm)
{
	struct sm_region *r;
	unsigned long index;

	xa_for_each(&sm->regions, index, r)
		sm_collect_notes(sm, r);
	sm_release(sm, sm->frozen);
	sm->frozen = NULL;
	xa_for_each(&sm->regions, index, r) {
		INIT_LIST_HEAD(&r->dirty);
		sm_drop_held(r);
		if (!r->held) {
			free_region(sm, r);
			continue;
		}
		sm_unload(sm, r);
		r->new_bitmap = 0;
		r->stale = true;
	}
	INIT_LIST_HEAD(&sm->dirty);
	INIT_LIST_HEAD(&sm->lent);
	sm->nr_dirty = 0;
	sm->nr_lent = 0;
	sm->nr_overflow = 0;
	sm->nr_overflow_windows = 0;
	sm->nr_overflow_new = 0;
	sm->nr_leaves = 0;
	sm->cursor = 0;
	sm->hints_checked = false;
	xa_destroy(&sm->overflow);
}

/**
 * sm_exit() - free everything
 * @sm: the map; tm_drop() must follow
 */
void sm_exit(struct pd_sm *sm)
{
	struct sm_region *r;
	unsigned long index;

	xa_for_each(&sm->regions, index, r)
		free_region(sm, r);
	xa_destroy(&sm->regions);
	xa_destroy(&sm->overflow);
	free_page((unsigned long)sm->index);
	sm->index = NULL;
}

/**
 * sm_nr_free() - blocks that can be used
 * @sm: the map
 *
 * For metadata, blocks in quarantine do not count; for data
 * they do, reserved ones do not, nor does growth before its commit (format
 * 13.6).
 *
 * Return: blocks; 0 where the numbers on disk contradict each other.
 */
u64 sm_nr_free(struct pd_sm *sm)
{
	u64 total = sm->is_data ? sm->durable_blocks : sm->nr_blocks;
	u64 used = sm->nr_allocated;

	used += sm->is_data ? sm->nr_reserved : sm->nr_quarantined;

	return total > used ? total - used : 0;
}

/* ---- counts ---- */

static int overflow_count(struct pd_sm *sm, u64 block, u32 *count)
{
	void *entry = xa_load(&sm->overflow, block);

	if (entry) {
		*count = xa_to_value(entry);
		return 0;
	}
	return sm_overflow_count(sm, block, count);
}

static int set_overflow_count(struct pd_sm *sm, u64 block, u32 count)
{
	unsigned long at = round_down(block, SM_OVERFLOW_WINDOW);

	if (!xa_load(&sm->overflow, block)) {
		sm->nr_overflow++;
		if (!xa_find(&sm->overflow, &at, at + SM_OVERFLOW_WINDOW - 1, XA_PRESENT))
			sm->nr_overflow_windows++;
	}
	return xa_err(xa_store(&sm->overflow, block, xa_mk_value(count), GFP_NOIO));
}

/**
 * sm_count() - references to a block
 * @sm: the map
 * @block: which
 * @count: set
 *
 * Return: 0, -ENOMEM, or the errno of a read.
 */
int sm_count(struct pd_sm *sm, u64 block, u32 *count)
{
	struct sm_region *r;
	u32 i;
	int err;

	err = sm_find_entry(sm, block, &r, &i);
	if (err)
		return err;
	*count = sm_get_entry(r->cur, i);
	if (*count == 3)
		err = overflow_count(sm, block, count);
	return err;
}

/**
 * sm_peek_shared() - does a block have two references or more, as far as is known
 * @sm: the map
 * @block: which
 *
 * Without the lock that other functions need, and without waiting: the answer is
 * that of a moment.
 *
 * Return: false also when the count is not in memory.
 */
bool sm_peek_shared(struct pd_sm *sm, u64 block)
{
	struct sm_region *r;
	u32 i;
	u64 index = div_u64_rem(block, SM_ENTRIES_PER_BITMAP, &i);
	bool shared;

	spin_lock(&sm->peek_lock);
	r = xa_load(&sm->regions, index);
	shared = r && r->cur && sm_get_entry(r->cur, i) > 1;
	spin_unlock(&sm->peek_lock);
	return shared;
}

/**
 * sm_inc() - one reference more
 * @sm: the map
 * @block: which; has one already
 *
 * Return: 0, -EILSEQ for a block that is free, -EOVERFLOW, -ENOMEM, or the errno
 * of a read.
 */
int sm_inc(struct pd_sm *sm, u64 block)
{
	struct sm_region *r;
	u32 i, count;
	int err;

	err = sm_find_entry(sm, block, &r, &i);
	if (!err)
		err = sm_touch(sm, r);
	if (err)
		return err;

	count = sm_get_entry(r->cur, i);
	if (!count) {
		/* It may be reserved for, or still be read by, somebody else. */
		sm_complain(sm, block, "reference to a free block");
		return -EILSEQ;
	}
	if (count == 3) {
		err = overflow_count(sm, block, &count);
		if (err)
			return err;
		if (count == U32_MAX) {
			sm_complain(sm, block, "count too high");
			return -EOVERFLOW;
		}
	}
	count++;
	if (count >= 3) {
		err = set_overflow_count(sm, block, count);
		if (err)
			return err;
		sm->nr_overflow_new += count == 3;
	}
	sm_set_entry(r, i, min_t(u32, count, 3));
	return 0;
}

/* Entries of one word are free now, but not to be taken. */
static void quarantine(struct pd_sm *sm, struct sm_region *r, u32 word, u64 even_bits, u32 nr,
		       bool passdown)
{
	r->notes->words[word] |= passdown ? even_bits * 3 : even_bits;
	r->held[word] |= even_bits << 1;
	r->nr_held += nr;
	sm->nr_quarantined += nr;
	sm->nr_allocated -= nr;
}

/*
 * The last reference is gone.  A metadata block that this transaction took is
 * free at once.  A data block never is, as a bio may be on its way to it.  No odd bit is
 * met there: it says passdown, of a block that has no count to lower until it leaves the
 * quarantine.
 */
static void note_freed(struct pd_sm *sm, struct sm_region *r, u32 i, bool passdown)
{
	u32 word = i / SM_ENTRIES_PER_WORD;

	if (r->notes->words[word] & sm_even_bit(i) << 1)
		sm->nr_allocated--;
	else
		quarantine(sm, r, word, sm_even_bit(i), 1, passdown);
}

static int touch_for_freeing(struct sm_region *r)
{
	if (likely(r->notes && r->held))
		return 0;
	return sm_touch_held(r) ?: sm_touch_notes(r);
}

static int lower(struct pd_sm *sm, u64 block, bool passdown, bool *freed)
{
	struct sm_region *r;
	u32 i, count;
	int err;

	*freed = false;
	err = sm_find_entry(sm, block, &r, &i);
	if (!err)
		err = sm_touch(sm, r);
	if (err)
		return err;

	count = sm_get_entry(r->cur, i);
	if (!count) {
		sm_complain(sm, block, "count below zero");
		return -EILSEQ;
	}
	if (count == 1) {
		err = touch_for_freeing(r);
		if (err)
			return err;
	}
	if (count == 3) {
		err = overflow_count(sm, block, &count);
		if (!err)
			err = set_overflow_count(sm, block, count - 1);
		if (err)
			return err;
	}
	count--;
	sm_set_entry(r, i, min_t(u32, count, 3));
	if (!count) {
		*freed = true;
		note_freed(sm, r, i, passdown);
	} else {
		r->loss_seq = sm->tm->seq;
		sm->loss_seq = sm->tm->seq;
	}
	return 0;
}

/**
 * sm_dec() - one reference less
 * @sm: the map
 * @block: which
 * @freed: set to true when it was the last one
 *
 * Return: 0, -EILSEQ for a block that has none, -ENOMEM, or the errno of a
 * read.
 */
int sm_dec(struct pd_sm *sm, u64 block, bool *freed)
{
	return lower(sm, block, false, freed);
}

/* ---- counts of runs ---- */

/* What of a run is in one word: entries from @i on, with a mask of their pairs. */
struct word_run {
	struct sm_region *r;
	u32 i;
	u32 nr;
	u32 word;
	u64 mask;
};

/* The first of the words that a run is in, ready for a change.  Inline for runs of one block. */
static __always_inline int find_word(struct pd_sm *sm, u64 block, u64 nr, struct word_run *w)
{
	int err = sm_find_entry(sm, block, &w->r, &w->i);
	u32 at;

	if (!err)
		err = sm_touch(sm, w->r);
	if (err)
		return err;
	at = w->i % SM_ENTRIES_PER_WORD;
	w->word = w->i / SM_ENTRIES_PER_WORD;
	w->nr = min_t(u64, nr, SM_ENTRIES_PER_WORD - at);
	w->mask = (~0ULL >> (64 - 2 * w->nr)) << (2 * at);
	return 0;
}

/* Most blocks have one reference: a word of those is changed at once. */
static bool all_are_one(const struct word_run *w)
{
	return (le64_to_cpu(w->r->cur->words[w->word]) & w->mask) == (w->mask & ~SM_EVEN_BITS);
}

static void replace_pairs(struct disk_bitmap *bitmap, u32 word, u64 mask, u64 pairs)
{
	bitmap->words[word] &= cpu_to_le64(~mask);
	bitmap->words[word] |= cpu_to_le64(mask & pairs);
}

/**
 * sm_inc_run() - one reference more to each block of a run
 * @sm: the map
 * @block: first block
 * @nr: blocks; each has a reference already
 *
 * Return: as sm_inc(), for the first block that fails.
 */
int sm_inc_run(struct pd_sm *sm, u64 block, u64 nr)
{
	struct word_run w;
	u32 i;
	int err = 0;

	for (; nr && !err; block += w.nr, nr -= w.nr) {
		err = find_word(sm, block, nr, &w);
		if (err)
			break;
		if (all_are_one(&w))
			replace_pairs(w.r->cur, w.word, w.mask, SM_EVEN_BITS);
		else
			for (i = 0; i < w.nr && !err; i++)
				err = sm_inc(sm, block + i);
	}
	return err;
}

/* All entries go from 1 to 0. */
static int free_word(struct pd_sm *sm, const struct word_run *w, bool passdown)
{
	int err = touch_for_freeing(w->r);

	if (err)
		return err;
	replace_pairs(w->r->cur, w->word, w->mask, 0);
	w->r->nr_free += w->nr;
	w->r->first_free = min(w->r->first_free, w->i);
	quarantine(sm, w->r, w->word, w->mask & SM_EVEN_BITS, w->nr, passdown);
	return 0;
}

/**
 * sm_dec_run() - one reference less to each data block of a run
 * @sm: the map of data blocks
 * @block: first block
 * @nr: blocks
 * @passdown: those that lose their last one are to be passed down
 *
 * Return: as sm_dec(), for the first block that fails.
 */
int sm_dec_run(struct pd_sm *sm, u64 block, u64 nr, bool passdown)
{
	struct word_run w;
	bool freed;
	u32 i;
	int err = 0;

	for (; nr && !err; block += w.nr, nr -= w.nr) {
		err = find_word(sm, block, nr, &w);
		if (err)
			break;
		if (all_are_one(&w))
			err = free_word(sm, &w, passdown);
		else
			for (i = 0; i < w.nr && !err; i++)
				err = lower(sm, block + i, passdown, &freed);
	}
	return err;
}

/* ---- finding ---- */

/* First entry in [from, to) that can be taken, or @to. */
static u32 first_takeable(const struct sm_region *r, u32 from, u32 to)
{
	u32 i = max(from, r->first_free);

	while (i < to) {
		u32 word = i / SM_ENTRIES_PER_WORD;
		u64 takeable = ~sm_busy_pairs(r, word) & SM_EVEN_BITS;

		takeable &= ~0ULL << (2 * (i % SM_ENTRIES_PER_WORD));
		if (takeable)
			return min_t(u32, to, word * SM_ENTRIES_PER_WORD + __ffs64(takeable) / 2);
		i = (word + 1) * SM_ENTRIES_PER_WORD;
	}
	return to;
}

static int scan(struct pd_sm *sm, u64 from, u64 to, struct sm_region **region, u32 *entry)
{
	while (from < to) {
		struct sm_region *r;
		u32 i, end;
		u64 index = div_u64_rem(from, SM_ENTRIES_PER_BITMAP, &i);
		u64 base = index * SM_ENTRIES_PER_BITMAP;
		int err;

		err = sm_get_region(sm, index, &r);
		if (err)
			return err;
		end = min_t(u64, SM_ENTRIES_PER_BITMAP, to - base);
		from = base + SM_ENTRIES_PER_BITMAP;
		if (!r->nr_free)
			continue;
		err = sm_load(sm, r);
		if (err)
			return err;
		i = first_takeable(r, i, end);
		if (i < end) {
			*region = r;
			*entry = i;
			return 0;
		}
	}
	return -ENOSPC;
}

/**
 * sm_find_free() - a block that can be taken
 * @sm: the map
 * @region: set to its region, loaded
 * @entry: set to its entry
 *
 * Searches from the cursor to the end, then from the start.  Where that finds nothing hints
 * are to be doubted: once, all is recounted and searched again.
 *
 * Return: 0, -ENOSPC, or as sm_load().
 */
int sm_find_free(struct pd_sm *sm, struct sm_region **region, u32 *entry)
{
	u64 limit = sm->is_data ? min(sm->durable_blocks, sm->nr_blocks) : sm->nr_blocks;
	int err;

	for (;;) {
		err = scan(sm, sm->cursor, limit, region, entry);
		if (err == -ENOSPC)
			err = scan(sm, 0, min(sm->cursor, limit), region, entry);
		if (err != -ENOSPC || sm->hints_checked)
			return err;
		err = sm_recount(sm);
		if (err)
			return err;
	}
}

/**
 * sm_alloc() - take a metadata block, with count 1
 * @sm: the map of metadata blocks
 * @block: set
 *
 * Return: 0, -ENOSPC, -ENOMEM, or the errno of a read.
 */
int sm_alloc(struct pd_sm *sm, u64 *block)
{
	struct sm_region *r;
	u32 i;
	int err;

	err = sm_find_free(sm, &r, &i);
	if (!err)
		err = sm_touch(sm, r);
	if (!err)
		err = sm_touch_notes(r);
	if (err)
		return err;
	*block = r->index * SM_ENTRIES_PER_BITMAP + i;
	if (*block == SUPERBLOCK_LOCATION && sm->durable_blocks) {
		sm_complain(sm, *block, "superblock counted free");
		return -EILSEQ;
	}
	sm_set_entry(r, i, 1);
	r->notes->words[i / SM_ENTRIES_PER_WORD] |= sm_even_bit(i) << 1;
	sm->nr_allocated++;
	sm->cursor = *block + 1;
	return 0;
}

/* All bitmaps are going to be read: the next ones at the same time. */
static void read_ahead(struct pd_sm *sm, u64 index, u64 end)
{
	struct sm_region *r;

	end = min(end, index + READ_AHEAD);
	for (; index < end && !sm_get_region(sm, index, &r); index++)
		/* One that was never counted was never changed, so the disk has it. */
		if (!r->exact && !r->stale)
			bm_prefetch(sm->tm->bm, r->bitmap, 1);
}

/**
 * sm_recount() - find out what is really in use
 * @sm: the map
 *
 * Loads every bitmap that was never loaded.  If one cannot be, nothing changes.
 *
 * Return: 0 or as sm_load().
 */
int sm_recount(struct pd_sm *sm)
{
	u64 end = DIV_ROUND_UP_ULL(sm->nr_blocks, SM_ENTRIES_PER_BITMAP), used = 0, i;

	for (i = 0; i < end; i++) {
		struct sm_region *r;
		int err;

		if (!(i % READ_AHEAD))
			read_ahead(sm, i, end);
		err = sm_get_region(sm, i, &r);
		if (!err && !r->exact)
			err = sm_load(sm, r);
		if (err)
			return err;
		/* The entries past the end are zero, and count as free. */
		used += SM_ENTRIES_PER_BITMAP - r->nr_free;
	}
	sm->nr_allocated = used;
	sm->hints_checked = true;
	return 0;
}

/**
 * sm_check_resize() - can the map grow so far
 * @sm: the map
 * @nr_blocks: blocks to be counted
 * @bitmaps: set to the number of bitmaps it takes
 *
 * Return: 0, -EINVAL for fewer blocks than now or more than the format can hold.
 */
int sm_check_resize(struct pd_sm *sm, u64 nr_blocks, u64 *bitmaps)
{
	u64 max = sm->is_data ? 1ULL << (64 - MAPPING_TIME_BITS) : SM_MAX_META_BLOCKS;

	if (nr_blocks < sm->nr_blocks || nr_blocks > max)
		return -EINVAL;
	*bitmaps = DIV_ROUND_UP_ULL(nr_blocks, SM_ENTRIES_PER_BITMAP) -
		   DIV_ROUND_UP_ULL(sm->nr_blocks, SM_ENTRIES_PER_BITMAP);
	return 0;
}

/**
 * sm_resize() - count more blocks
 * @sm: the map
 * @nr_blocks: the new number, approved by sm_check_resize()
 *
 * Return: 0, -ENOMEM, or the errno of a read.  After an error the transaction
 * must be rolled back.
 */
int sm_resize(struct pd_sm *sm, u64 nr_blocks)
{
	u64 i, end;

	if (sm->nr_blocks % SM_ENTRIES_PER_BITMAP) {
		struct sm_region *last;
		int err;

		/* Loading clears what is past the old end. */
		err = sm_get_region(sm, sm->nr_blocks / SM_ENTRIES_PER_BITMAP, &last);
		if (!err)
			err = sm_touch(sm, last);
		if (err)
			return err;
	}
	end = DIV_ROUND_UP_ULL(nr_blocks, SM_ENTRIES_PER_BITMAP);
	for (i = DIV_ROUND_UP_ULL(sm->nr_blocks, SM_ENTRIES_PER_BITMAP); i < end; i++) {
		struct sm_region *r = kzalloc(sizeof(*r), GFP_NOIO);
		int err;

		if (!r)
			return -ENOMEM;
		r->index = i;
		r->nr_free = SM_ENTRIES_PER_BITMAP;
		r->exact = true;
		err = xa_err(xa_store(&sm->regions, i, r, GFP_NOIO));
		if (err) {
			kfree(r);
			return err;
		}
		list_add_tail(&r->dirty, &sm->dirty);
		sm->nr_dirty++;
	}
	/* The search starts in the new area; it also finds what a wrong hint has hidden. */
	if (!sm->is_data)
		sm->cursor = sm->nr_blocks;
	WRITE_ONCE(sm->nr_blocks, nr_blocks);
	sm->hints_checked = false;
	return 0;
}
