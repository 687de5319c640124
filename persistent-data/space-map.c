// SPDX-License-Identifier: GPL-2.0-only
/*
 * Counting references and finding free blocks; see the header.
 */
#include "space-map.h"

#include <linux/bitops.h>
#include <linux/gfp.h>
#include <linux/kernel.h>
#include <linux/math64.h>
#include <linux/slab.h>
#include <linux/string.h>

#include "transaction-manager.h"

#define NR_WORDS		ARRAY_SIZE(((struct disk_bitmap *)0)->words)
#define ENTRIES_PER_WORD	32
#define EVEN_BITS		0x5555555555555555ULL

/* Clean bitmaps kept loaded: 4 MiB.  The metadata map never has more than 255. */
#define KEEP_LOADED		1024

static void complain(struct pd_sm *sm, u64 block, const char *what)
{
	bm_complain(sm->tm->bm, block, PD_BITMAP, what, -EILSEQ);
}

/* ---- entries ---- */

/* The even bit weighs 2, the odd one 1 (format 6.3). */
static u32 get_entry(const struct disk_bitmap *bitmap, u32 i)
{
	u32 pair = le64_to_cpu(bitmap->words[i / ENTRIES_PER_WORD]) >>
		   (2 * (i % ENTRIES_PER_WORD)) & 3;

	return (pair & 1) << 1 | pair >> 1;
}

static void store_entry(struct disk_bitmap *bitmap, u32 i, u32 count)
{
	u32 shift = 2 * (i % ENTRIES_PER_WORD);
	u64 pair = (count & 1) << 1 | count >> 1;
	__le64 *word = &bitmap->words[i / ENTRIES_PER_WORD];

	*word = cpu_to_le64((le64_to_cpu(*word) & ~(3ULL << shift)) | pair << shift);
}

/* The even bit of every pair that is not zero. */
static u64 used_pairs(u64 word)
{
	return (word | word >> 1) & EVEN_BITS;
}

static void set_entry(struct sm_region *r, u32 i, u32 count)
{
	u32 before = get_entry(r->cur, i);

	store_entry(r->cur, i, count);
	if (!before && count) {
		r->nr_free--;
		if (r->first_free == i)
			r->first_free++;
	} else if (before && !count) {
		r->nr_free++;
		r->first_free = min(r->first_free, i);
	}
}

static void recount(struct sm_region *r)
{
	u32 used = 0, i;

	r->first_free = SM_ENTRIES_PER_BITMAP;
	for (i = 0; i < NR_WORDS; i++) {
		u64 pairs = used_pairs(le64_to_cpu(r->cur->words[i]));

		used += hweight64(pairs);
		if (pairs != EVEN_BITS && r->first_free == SM_ENTRIES_PER_BITMAP)
			r->first_free = i * ENTRIES_PER_WORD +
					__ffs64(~pairs & EVEN_BITS) / 2;
	}
	r->nr_free = SM_ENTRIES_PER_BITMAP - used;
	r->exact = true;
}

/* Pairs of one word that cannot be taken: counted now or then, or held. */
static u64 busy_pairs(const struct sm_region *r, u32 word)
{
	u64 bits = le64_to_cpu(r->cur->words[word]);

	if (r->old)
		bits |= le64_to_cpu(r->old->words[word]);
	if (r->held)
		bits |= r->held[word];
	return used_pairs(bits);
}

/* ---- regions ---- */

static void free_bitmap(struct disk_bitmap **bitmap)
{
	free_page((unsigned long)*bitmap);
	*bitmap = NULL;
}

static void unload(struct pd_sm *sm, struct sm_region *r)
{
	if (r->cur) {
		free_bitmap(&r->cur);
		sm->nr_loaded--;
	}
}

/* In a dirty region the commit may have to note what was freed: it cannot fail then. */
static void drop_held(struct sm_region *r)
{
	if (r->held && !r->nr_held && list_empty(&r->dirty)) {
		free_page((unsigned long)r->held);
		r->held = NULL;
	}
}

/**
 * sm_get_region() - the region of a bitmap
 * @sm: the map
 * @index: number of the bitmap, below that of the last
 * @region: set
 *
 * Return: 0, -ENOMEM or the errno of a read.
 */
int sm_get_region(struct pd_sm *sm, u64 index, struct sm_region **region)
{
	struct sm_region *r = xa_load(&sm->regions, index);
	bool fresh = !r;
	int err;

	if (r && !r->stale) {
		*region = r;
		return 0;
	}
	if (fresh) {
		r = kzalloc(sizeof(*r), GFP_NOIO);
		if (!r)
			return -ENOMEM;
		r->index = index;
		INIT_LIST_HEAD(&r->dirty);
	}
	err = sm_read_entry(sm, r);
	if (!err && fresh)
		err = xa_err(xa_store(&sm->regions, index, r, GFP_NOIO));
	if (err) {
		if (fresh)
			kfree(r);
		return err;
	}
	r->stale = false;
	r->exact = false;
	*region = r;
	return 0;
}

/* Clean bitmaps are a cache of what dm-bufio has, too. */
static void shed(struct pd_sm *sm)
{
	struct sm_region *r;
	unsigned long index;

	if (sm->nr_loaded < KEEP_LOADED + sm->nr_dirty)
		return;
	xa_for_each(&sm->regions, index, r)
		if (list_empty(&r->dirty))
			unload(sm, r);
}

/* Entries past the end would become counts when the map grows (format 6.3). */
static void clear_tail(struct pd_sm *sm, struct sm_region *r)
{
	u64 base = r->index * SM_ENTRIES_PER_BITMAP;
	u32 i;

	if (sm->nr_blocks - base >= SM_ENTRIES_PER_BITMAP)
		return;
	for (i = sm->nr_blocks - base; i < SM_ENTRIES_PER_BITMAP; i++)
		store_entry(r->cur, i, 0);
}

static int load(struct pd_sm *sm, struct sm_region *r)
{
	struct dm_buffer *buffer;
	const void *data;
	unsigned long page;
	int err;

	if (r->cur)
		return 0;
	shed(sm);
	page = get_zeroed_page(GFP_NOIO);
	if (!page)
		return -ENOMEM;
	if (r->bitmap) {
		err = bm_read(sm->tm->bm, r->bitmap, PD_BITMAP, true, &buffer, &data);
		if (err) {
			free_page(page);
			return err;
		}
		memcpy((void *)page, data, PD_BLOCK_SIZE);
		bm_put(buffer);
	}
	r->cur = (struct disk_bitmap *)page;
	sm->nr_loaded++;
	clear_tail(sm, r);
	recount(r);
	return 0;
}

/* Make ready for a change: both versions in memory, listed for the layout. */
static int touch(struct pd_sm *sm, struct sm_region *r)
{
	int err = load(sm, r);

	if (err)
		return err;
	if (!r->old) {
		r->old = (struct disk_bitmap *)__get_free_page(GFP_NOIO);
		if (!r->old)
			return -ENOMEM;
		memcpy(r->old, r->cur, PD_BLOCK_SIZE);
	}
	if (list_empty(&r->dirty)) {
		list_add_tail(&r->dirty, &sm->dirty);
		sm->nr_dirty++;
	}
	return 0;
}

static int touch_held(struct sm_region *r)
{
	if (!r->held)
		r->held = (u64 *)get_zeroed_page(GFP_NOIO);
	return r->held ? 0 : -ENOMEM;
}

static int find_entry(struct pd_sm *sm, u64 block, struct sm_region **region, u32 *i)
{
	u64 index = div_u64_rem(block, SM_ENTRIES_PER_BITMAP, i);
	int err;

	if (block >= sm->nr_blocks) {
		complain(sm, block, "count of a block past the end");
		return -EILSEQ;
	}
	err = sm_get_region(sm, index, region);
	if (!err)
		err = load(sm, *region);
	return err;
}

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
	xa_init(&sm->regions);
	xa_init(&sm->overflow);
	INIT_LIST_HEAD(&sm->dirty);
}

static void free_region(struct pd_sm *sm, struct sm_region *r)
{
	unload(sm, r);
	free_bitmap(&r->old);
	free_page((unsigned long)r->held);
	xa_erase(&sm->regions, r->index);
	kfree(r);
}

/**
 * sm_abort() - forget the open transaction
 * @sm: the map; reservations and quarantine stay.  sm_open() must follow.
 */
void sm_abort(struct pd_sm *sm)
{
	struct sm_region *r;
	unsigned long index;

	xa_for_each(&sm->regions, index, r) {
		INIT_LIST_HEAD(&r->dirty);
		drop_held(r);
		if (!r->held) {
			free_region(sm, r);
			continue;
		}
		unload(sm, r);
		free_bitmap(&r->old);
		r->new_bitmap = 0;
		r->stale = true;
	}
	INIT_LIST_HEAD(&sm->dirty);
	sm->nr_dirty = 0;
	sm->nr_freed = 0;
	sm->nr_overflow = 0;
	sm->cursor = 0;
	sm->hints_checked = false;
	xa_destroy(&sm->overflow);
}

/**
 * sm_exit() - free everything
 * @sm: the map
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
 * For metadata, blocks freed in the open transaction do not count; for data
 * they do, reserved ones do not, nor does growth before its commit (format
 * 13.6).
 *
 * Return: blocks; 0 where the numbers on disk contradict each other.
 */
u64 sm_nr_free(struct pd_sm *sm)
{
	u64 total = sm->is_data ? sm->durable_blocks : sm->nr_blocks;
	u64 used = sm->nr_allocated + (sm->is_data ? sm->nr_reserved : sm->nr_freed);

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
	sm->nr_overflow++;
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

	err = find_entry(sm, block, &r, &i);
	if (err)
		return err;
	*count = get_entry(r->cur, i);
	if (*count == 3)
		err = overflow_count(sm, block, count);
	return err;
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

	err = find_entry(sm, block, &r, &i);
	if (!err)
		err = touch(sm, r);
	if (err)
		return err;

	count = get_entry(r->cur, i);
	if (!count) {
		/* It may be reserved for, or still be read by, somebody else. */
		complain(sm, block, "reference to a free block");
		return -EILSEQ;
	}
	if (count == 3) {
		err = overflow_count(sm, block, &count);
		if (err)
			return err;
		if (count == U32_MAX) {
			complain(sm, block, "count too high");
			return -EOVERFLOW;
		}
	}
	count++;
	if (count >= 3) {
		err = set_overflow_count(sm, block, count);
		if (err)
			return err;
	}
	set_entry(r, i, min_t(u32, count, 3));
	return 0;
}

/*
 * The last reference is gone.  A metadata block that this transaction took is
 * free at once.  A data block never is: a bio may be on its way to it, so it is
 * made to look as if it had been in use before.
 */
static void note_freed(struct pd_sm *sm, struct sm_region *r, u32 i)
{
	sm->nr_allocated--;
	if (sm->is_data)
		store_entry(r->old, i, 1);
	if (get_entry(r->old, i))
		sm->nr_freed++;
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
	struct sm_region *r;
	u32 i, count;
	int err;

	*freed = false;
	err = find_entry(sm, block, &r, &i);
	if (!err)
		err = touch(sm, r);
	if (!err && sm->is_data)
		err = touch_held(r);
	if (err)
		return err;

	count = get_entry(r->cur, i);
	if (!count) {
		complain(sm, block, "count below zero");
		return -EILSEQ;
	}
	if (count == 3) {
		err = overflow_count(sm, block, &count);
		if (!err)
			err = set_overflow_count(sm, block, count - 1);
		if (err)
			return err;
	}
	count--;
	set_entry(r, i, min_t(u32, count, 3));
	if (!count) {
		*freed = true;
		note_freed(sm, r, i);
	}
	return 0;
}

/* ---- finding ---- */

/* First entry in [from, to) that can be taken, or @to. */
static u32 first_takeable(const struct sm_region *r, u32 from, u32 to)
{
	u32 i = max(from, r->first_free);

	while (i < to) {
		u32 word = i / ENTRIES_PER_WORD;
		u64 takeable = ~busy_pairs(r, word) & EVEN_BITS;

		takeable &= ~0ULL << (2 * (i % ENTRIES_PER_WORD));
		if (takeable)
			return min_t(u32, to, word * ENTRIES_PER_WORD + __ffs64(takeable) / 2);
		i = (word + 1) * ENTRIES_PER_WORD;
	}
	return to;
}

static int scan(struct pd_sm *sm, u64 from, u64 to, bool trust_hints, struct sm_region **region,
		u32 *entry)
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
		if (!r->nr_free && (r->exact || trust_hints))
			continue;
		err = load(sm, r);
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

/* From the cursor to the end, then from the start; then once more, trusting no hint. */
static int find_free(struct pd_sm *sm, struct sm_region **region, u32 *entry)
{
	u64 limit = sm->is_data ? min(sm->durable_blocks, sm->nr_blocks) : sm->nr_blocks;
	bool trust_hints = true;
	int err;

	for (;;) {
		err = scan(sm, sm->cursor, limit, trust_hints, region, entry);
		if (err == -ENOSPC)
			err = scan(sm, 0, min(sm->cursor, limit), trust_hints, region, entry);
		if (err != -ENOSPC || sm->hints_checked)
			return err;
		if (!trust_hints) {
			sm->hints_checked = true;
			sm_recount(sm);
			return err;
		}
		trust_hints = false;
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

	err = find_free(sm, &r, &i);
	if (!err)
		err = touch(sm, r);
	if (err)
		return err;
	*block = r->index * SM_ENTRIES_PER_BITMAP + i;
	if (*block == SUPERBLOCK_LOCATION && sm->durable_blocks) {
		complain(sm, *block, "superblock counted free");
		return -EILSEQ;
	}
	set_entry(r, i, 1);
	sm->nr_allocated++;
	sm->cursor = *block + 1;
	return 0;
}

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

	err = find_free(sm, &r, &i);
	if (!err)
		err = touch_held(r);
	if (err)
		return err;

	*begin = r->index * SM_ENTRIES_PER_BITMAP + i;
	end = min_t(u64, SM_ENTRIES_PER_BITMAP, limit - r->index * SM_ENTRIES_PER_BITMAP);
	end = min_t(u64, end - i, want) + i;
	for (; i < end; i++, n++) {
		u32 shift = 2 * (i % ENTRIES_PER_WORD);

		if (busy_pairs(r, i / ENTRIES_PER_WORD) >> shift & 1)
			break;
		r->held[i / ENTRIES_PER_WORD] |= 1ULL << shift;
	}
	r->nr_held += n;
	sm->nr_reserved += n;
	*len = n;
	sm->cursor = *begin + n;
	return 0;
}

static bool end_reservation(struct pd_sm *sm, struct sm_region *r, u32 i)
{
	u64 bit = 1ULL << (2 * (i % ENTRIES_PER_WORD));

	if (!r || !r->held || !(r->held[i / ENTRIES_PER_WORD] & bit))
		return false;
	r->held[i / ENTRIES_PER_WORD] &= ~bit;
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

	err = find_entry(sm, block, &r, &i);
	if (!err)
		err = touch(sm, r);
	if (err)
		return err;
	if (get_entry(r->cur, i) || !end_reservation(sm, r, i))
		return -EINVAL;
	set_entry(r, i, 1);
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
	r->held[i / ENTRIES_PER_WORD] |= 1ULL << (2 * (i % ENTRIES_PER_WORD));
	r->nr_held++;
	sm->nr_reserved++;
}

/**
 * sm_recount() - find out what is really in use
 * @sm: the map
 *
 * Loads every bitmap that was never loaded.  If one cannot be, nothing changes.
 */
void sm_recount(struct pd_sm *sm)
{
	u64 left = sm->nr_blocks, used = 0, i;

	for (i = 0; left; i++) {
		u64 entries = min_t(u64, left, SM_ENTRIES_PER_BITMAP);
		struct sm_region *r;

		if (sm_get_region(sm, i, &r) || (!r->exact && load(sm, r)))
			return;
		/* The entries past the end are zero, and count as free. */
		used += SM_ENTRIES_PER_BITMAP - r->nr_free;
		left -= entries;
	}
	sm->nr_allocated = used;
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
			err = touch(sm, last);
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

/* ---- the end of a transaction ---- */

/* Turn the old counts into the set of blocks freed since, and hold those. */
static bool collect_freed(struct pd_sm *sm, struct sm_region *r, struct sm_freed_page *page)
{
	u32 i, nr = 0;

	for (i = 0; i < NR_WORDS; i++) {
		u64 freed = used_pairs(le64_to_cpu(r->old->words[i])) &
			    ~used_pairs(le64_to_cpu(r->cur->words[i]));

		page->words[i] = freed;
		/* sm_dec() has seen to it that there is a page to note it in. */
		if (freed && !WARN_ON_ONCE(!r->held)) {
			r->held[i] |= freed << 1;
			nr += hweight64(freed);
		}
	}
	r->nr_held += nr;
	sm->nr_quarantined += nr;
	return nr;
}

/**
 * sm_settle() - the transaction is durable
 * @sm: the map, laid out and written
 *
 * Return: for a map of data blocks, the blocks that lost their last reference
 * and are in quarantine until sm_release(); NULL when there are none.
 */
struct sm_freed_page *sm_settle(struct pd_sm *sm)
{
	struct sm_freed_page *pages = NULL, *page;
	struct sm_region *r, *tmp;

	list_for_each_entry_safe(r, tmp, &sm->dirty, dirty) {
		list_del_init(&r->dirty);
		r->bitmap = r->new_bitmap;
		r->new_bitmap = 0;
		if (r->old && sm->is_data && sm->nr_freed) {
			/* The words sit at the same place in both structures. */
			page = (struct sm_freed_page *)r->old;
			if (collect_freed(sm, r, page)) {
				page->region = r->index;
				page->next = pages;
				pages = page;
				r->old = NULL;
			}
		}
		free_bitmap(&r->old);
		drop_held(r);
	}
	sm->nr_dirty = 0;
	sm->nr_freed = 0;
	sm->nr_overflow = 0;
	WRITE_ONCE(sm->durable_blocks, sm->nr_blocks);
	return pages;
}

/**
 * sm_release() - end the quarantine of a set
 * @sm: the map of data blocks
 * @pages: of sm_settle()
 */
void sm_release(struct pd_sm *sm, struct sm_freed_page *pages)
{
	while (pages) {
		struct sm_freed_page *page = pages;
		struct sm_region *r = xa_load(&sm->regions, page->region);
		u32 i;

		pages = page->next;
		for (i = 0; i < NR_WORDS; i++) {
			u32 nr = hweight64(page->words[i]);

			r->held[i] &= ~(page->words[i] << 1);
			r->nr_held -= nr;
			sm->nr_quarantined -= nr;
		}
		drop_held(r);
		free_page((unsigned long)page);
	}
}

static bool in_set(const struct sm_freed_page *page, u32 i)
{
	return page->words[i / ENTRIES_PER_WORD] >> (2 * (i % ENTRIES_PER_WORD)) & 1;
}

/**
 * sm_freed_next() - first run of a range that is in a set
 * @pages: of sm_settle(), not yet released
 * @begin: start of the range
 * @end: one past its end
 * @free_begin: set to the first block in the set
 * @free_end: set to one past the run; a run ends where its region does
 *
 * Needs no lock, a set does not change.
 *
 * Return: false when the set has no block of the range.
 */
bool sm_freed_next(const struct sm_freed_page *pages, u64 begin, u64 end, u64 *free_begin,
		   u64 *free_end)
{
	while (begin < end) {
		u32 i, stop;
		u64 index = div_u64_rem(begin, SM_ENTRIES_PER_BITMAP, &i);
		u64 base = index * SM_ENTRIES_PER_BITMAP;
		const struct sm_freed_page *page = pages;

		while (page && page->region != index)
			page = page->next;
		stop = min_t(u64, SM_ENTRIES_PER_BITMAP, end - base);
		while (page && i < stop && !in_set(page, i))
			i++;
		if (page && i < stop) {
			*free_begin = base + i;
			while (i < stop && in_set(page, i))
				i++;
			*free_end = base + i;
			return true;
		}
		begin = base + SM_ENTRIES_PER_BITMAP;
	}
	return false;
}
