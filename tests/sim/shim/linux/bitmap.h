/* SPDX-License-Identifier: GPL-2.0-only */
#ifndef SIM_LINUX_BITMAP_H
#define SIM_LINUX_BITMAP_H
#include <linux/bitops.h>
#include <linux/gfp.h>
#include <linux/slab.h>
#include <linux/string.h>
#define DECLARE_BITMAP(name, bits) unsigned long name[BITS_TO_LONGS(bits)]
static inline unsigned long *bitmap_alloc(unsigned int n, gfp_t g) { return kmalloc_array(BITS_TO_LONGS(n), sizeof(long), g); }
static inline unsigned long *bitmap_zalloc(unsigned int n, gfp_t g) { return kcalloc(BITS_TO_LONGS(n), sizeof(long), g); }
static inline void bitmap_free(const unsigned long *b) { kfree(b); }
static inline void bitmap_zero(unsigned long *b, unsigned int n) { memset(b, 0, BITS_TO_LONGS(n) * sizeof(long)); }
static inline void bitmap_fill(unsigned long *b, unsigned int n) { memset(b, 0xff, BITS_TO_LONGS(n) * sizeof(long)); }
static inline void bitmap_copy(unsigned long *d, const unsigned long *s, unsigned int n) { memcpy(d, s, BITS_TO_LONGS(n) * sizeof(long)); }
static inline void bitmap_set(unsigned long *b, unsigned int s, unsigned int n) { while (n--) __set_bit(s++, b); }
static inline void bitmap_clear(unsigned long *b, unsigned int s, unsigned int n) { while (n--) __clear_bit(s++, b); }
static inline bool bitmap_empty(const unsigned long *b, unsigned int n) { return find_first_bit(b, n) >= n; }
static inline bool bitmap_full(const unsigned long *b, unsigned int n) { return find_first_zero_bit(b, n) >= n; }
static inline unsigned int bitmap_weight(const unsigned long *b, unsigned int n)
{
	unsigned int i, w = 0;

	for (i = 0; i < n; i++)
		w += test_bit(i, b);
	return w;
}
#endif
