/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * What the files of a space map share: a region's bitmap, entry by entry.
 */
#ifndef PD_SPACE_MAP_REGION_H
#define PD_SPACE_MAP_REGION_H

#include "space-map.h"

#define SM_NR_WORDS		ARRAY_SIZE(((struct disk_bitmap *)0)->words)
#define SM_ENTRIES_PER_WORD	32
#define SM_EVEN_BITS		0x5555555555555555ULL

/* The even bit weighs 2, the odd one 1 (format 6.3). */
static inline u32 sm_get_entry(const struct disk_bitmap *bitmap, u32 i)
{
	u32 pair = le64_to_cpu(bitmap->words[i / SM_ENTRIES_PER_WORD]) >>
		   (2 * (i % SM_ENTRIES_PER_WORD)) & 3;

	return (pair & 1) << 1 | pair >> 1;
}

/* Where an entry's pair is in its word. */
static inline u64 sm_even_bit(u32 i)
{
	return 1ULL << (2 * (i % SM_ENTRIES_PER_WORD));
}

static inline void sm_store_entry(struct disk_bitmap *bitmap, u32 i, u32 count)
{
	u32 shift = 2 * (i % SM_ENTRIES_PER_WORD);
	u64 pair = (count & 1) << 1 | count >> 1;
	__le64 *word = &bitmap->words[i / SM_ENTRIES_PER_WORD];

	*word = cpu_to_le64((le64_to_cpu(*word) & ~(3ULL << shift)) | pair << shift);
}

/* The even bit of every pair that is not zero. */
static inline u64 sm_used_pairs(u64 word)
{
	return (word | word >> 1) & SM_EVEN_BITS;
}

/* Pairs of one word that cannot be taken: counted or held. */
static inline u64 sm_busy_pairs(const struct sm_region *r, u32 word)
{
	u64 bits = le64_to_cpu(r->cur->words[word]);

	if (r->held)
		bits |= r->held[word];
	return sm_used_pairs(bits);
}

void sm_complain(struct pd_sm *sm, u64 block, const char *what);
void sm_set_entry(struct sm_region *r, u32 i, u32 count);
void sm_unload(struct pd_sm *sm, struct sm_region *r);
void sm_drop_held(struct sm_region *r);
int sm_read_bitmap(struct pd_sm *sm, struct sm_region *r);
int sm_make_dirty(struct pd_sm *sm, struct sm_region *r);
int sm_touch_notes(struct sm_region *r);
int sm_touch_held(struct sm_region *r);
int sm_find_entry(struct pd_sm *sm, u64 block, struct sm_region **region, u32 *i);

/**
 * sm_load() - have a region's bitmap in memory
 * @sm: the map
 * @r: the region
 *
 * Return: 0, -ENOMEM or the errno of a read.
 */
static inline int sm_load(struct pd_sm *sm, struct sm_region *r)
{
	return r->cur ? 0 : sm_read_bitmap(sm, r);
}

/**
 * sm_touch() - make ready for a change
 * @sm: the map
 * @r: the region: its bitmap is in memory and the layout will find it
 *
 * Return: as sm_load().
 */
static inline int sm_touch(struct pd_sm *sm, struct sm_region *r)
{
	/* A new bitmap is on the list though it is not loaded. */
	if (likely(r->cur && !r->lent && !list_empty(&r->dirty)))
		return 0;
	return sm_make_dirty(sm, r);
}

#endif
