// SPDX-License-Identifier: GPL-2.0-only
/*
 * The regions of a space map: their bitmaps in memory, entry by entry.
 */
#include "space-map-region.h"

#include <linux/bitops.h>
#include <linux/gfp.h>
#include <linux/kernel.h>
#include <linux/math64.h>
#include <linux/slab.h>
#include <linux/string.h>

#include "transaction-manager.h"

/* Clean bitmaps kept loaded: 4 MiB.  The metadata map never has more than 255. */
#define KEEP_LOADED		1024

/**
 * sm_complain() - report a count that cannot be
 * @sm: the map
 * @block: the block counted
 * @what: what is wrong
 */
void sm_complain(struct pd_sm *sm, u64 block, const char *what)
{
	bm_complain(sm->tm->bm, block, PD_BITMAP, what, -EILSEQ);
}

/* ---- entries ---- */

/**
 * sm_set_entry() - change a count, and the hints with it
 * @r: a region made ready by sm_touch()
 * @i: which entry
 * @count: 0 to 3, where 3 stands for all above
 */
void sm_set_entry(struct sm_region *r, u32 i, u32 count)
{
	u32 before = sm_get_entry(r->cur, i);

	sm_store_entry(r->cur, i, count);
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
	for (i = 0; i < SM_NR_WORDS; i++) {
		u64 pairs = sm_used_pairs(le64_to_cpu(r->cur->words[i]));

		used += hweight64(pairs);
		if (pairs != SM_EVEN_BITS && r->first_free == SM_ENTRIES_PER_BITMAP)
			r->first_free = i * SM_ENTRIES_PER_WORD +
					__ffs64(~pairs & SM_EVEN_BITS) / 2;
	}
	r->nr_free = SM_ENTRIES_PER_BITMAP - used;
	r->exact = true;
}

/* ---- regions ---- */

static void replace_bitmap(struct pd_sm *sm, struct sm_region *r, unsigned long page)
{
	spin_lock(&sm->peek_lock);
	r->cur = (struct disk_bitmap *)page;
	spin_unlock(&sm->peek_lock);
}

/**
 * sm_unload() - forget a bitmap
 * @sm: the map
 * @r: the region
 */
void sm_unload(struct pd_sm *sm, struct sm_region *r)
{
	unsigned long page = (unsigned long)r->cur;

	if (!page)
		return;
	replace_bitmap(sm, r, 0);
	sm->nr_loaded--;
	if (!r->lent)	/* else the transaction's */
		free_page(page);
	r->lent = false;
}

/* The frozen transaction keeps the bitmap. */
static int copy_lent(struct pd_sm *sm, struct sm_region *r)
{
	unsigned long page = __get_free_page(GFP_NOIO);

	if (!page)
		return -ENOMEM;
	memcpy((void *)page, r->cur, PD_BLOCK_SIZE);
	replace_bitmap(sm, r, page);
	r->lent = false;
	list_del_init(&r->dirty);
	return 0;
}

/**
 * sm_drop_held() - free the page of held entries if there are none
 * @r: the region, without a block that has been taken and may be untaken
 */
void sm_drop_held(struct sm_region *r)
{
	if (r->held && !r->nr_held) {
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

/* Clean bitmaps are a cache. */
static void shed(struct pd_sm *sm)
{
	struct sm_region *r;
	unsigned long index;

	if (sm->nr_loaded < KEEP_LOADED + sm->nr_dirty + sm->nr_lent)
		return;
	xa_for_each(&sm->regions, index, r)
		if (list_empty(&r->dirty))
			sm_unload(sm, r);
}

/* Entries past the end would become counts when the map grows (format 6.3). */
static void clear_tail(struct pd_sm *sm, struct sm_region *r)
{
	u64 entries = sm->nr_blocks - r->index * SM_ENTRIES_PER_BITMAP;
	u32 word = entries / SM_ENTRIES_PER_WORD;

	if (entries >= SM_ENTRIES_PER_BITMAP)
		return;
	r->cur->words[word] &= cpu_to_le64(sm_even_bit(entries) - 1);
	while (++word < SM_NR_WORDS)
		r->cur->words[word] = 0;
}

/**
 * sm_read_bitmap() - bring a region's bitmap into memory
 * @sm: the map
 * @r: the region, which is not loaded
 *
 * Return: 0, -ENOMEM or the errno of a read.
 */
int sm_read_bitmap(struct pd_sm *sm, struct sm_region *r)
{
	struct pd_read read;
	unsigned long page;
	int err;

	shed(sm);
	page = get_zeroed_page(GFP_NOIO);
	if (!page)
		return -ENOMEM;
	if (r->bitmap) {
		err = tm_read(sm->tm, r->bitmap, PD_BITMAP, true, &read);
		if (err) {
			free_page(page);
			return err;
		}
		memcpy((void *)page, read.data, PD_BLOCK_SIZE);
		tm_put(&read);
	}
	replace_bitmap(sm, r, page);
	sm->nr_loaded++;
	clear_tail(sm, r);
	recount(r);
	return 0;
}

/**
 * sm_make_dirty() - what sm_touch() has to do the first time
 * @sm: the map
 * @r: the region
 *
 * Return: as sm_load().
 */
int sm_make_dirty(struct pd_sm *sm, struct sm_region *r)
{
	int err = sm_load(sm, r);

	if (!err && r->lent)
		err = copy_lent(sm, r);
	if (!err && list_empty(&r->dirty)) {
		list_add_tail(&r->dirty, &sm->dirty);
		sm->nr_dirty++;
	}
	return err;
}

/**
 * sm_touch_notes() - have a page for what the transaction frees and takes
 * @r: the region, made ready by sm_touch()
 *
 * Return: 0 or -ENOMEM.
 */
int sm_touch_notes(struct sm_region *r)
{
	if (!r->notes)
		r->notes = (struct sm_notes *)get_zeroed_page(GFP_NOIO);
	return r->notes ? 0 : -ENOMEM;
}

/**
 * sm_touch_held() - have a page for held entries
 * @r: the region
 *
 * Return: 0 or -ENOMEM.
 */
int sm_touch_held(struct sm_region *r)
{
	if (!r->held)
		r->held = (u64 *)get_zeroed_page(GFP_NOIO);
	return r->held ? 0 : -ENOMEM;
}

/**
 * sm_find_entry() - where a block is counted
 * @sm: the map
 * @block: which
 * @region: set to its region, loaded
 * @i: set to its entry
 *
 * Return: 0, -EILSEQ past the end, otherwise as sm_load().
 */
int sm_find_entry(struct pd_sm *sm, u64 block, struct sm_region **region, u32 *i)
{
	u64 index = div_u64_rem(block, SM_ENTRIES_PER_BITMAP, i);
	int err;

	if (block >= sm->nr_blocks) {
		sm_complain(sm, block, "count of a block past the end");
		return -EILSEQ;
	}
	err = sm_get_region(sm, index, region);
	if (!err)
		err = sm_load(sm, *region);
	return err;
}
