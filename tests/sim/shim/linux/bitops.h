/* SPDX-License-Identifier: GPL-2.0-only */
#ifndef SIM_LINUX_BITOPS_H
#define SIM_LINUX_BITOPS_H
#include <linux/bits.h>
#include <linux/types.h>
#define BITS_TO_LONGS(n) (((n) + BITS_PER_LONG - 1) / BITS_PER_LONG)
static inline void __set_bit(unsigned long n, volatile unsigned long *a) { a[BIT_WORD(n)] |= BIT_MASK(n); }
static inline void __clear_bit(unsigned long n, volatile unsigned long *a) { a[BIT_WORD(n)] &= ~BIT_MASK(n); }
static inline bool test_bit(unsigned long n, const volatile unsigned long *a) { return (a[BIT_WORD(n)] >> (n % BITS_PER_LONG)) & 1; }
static inline bool __test_and_set_bit(unsigned long n, volatile unsigned long *a)
{
	bool o = test_bit(n, a);

	__set_bit(n, a);
	return o;
}
static inline bool __test_and_clear_bit(unsigned long n, volatile unsigned long *a)
{
	bool o = test_bit(n, a);

	__clear_bit(n, a);
	return o;
}
#define set_bit __set_bit
#define clear_bit __clear_bit
#define test_and_set_bit __test_and_set_bit
#define test_and_clear_bit __test_and_clear_bit
#define __assign_bit(n, a, v) do { if (v) __set_bit(n, a); else __clear_bit(n, a); } while (0)
static inline unsigned int hweight64(u64 w) { return __builtin_popcountll(w); }
static inline unsigned int hweight32(u32 w) { return __builtin_popcount(w); }
static inline unsigned int hweight16(u16 w) { return __builtin_popcount(w); }
static inline unsigned int hweight8(u8 w) { return __builtin_popcount(w); }
static inline unsigned long hweight_long(unsigned long w) { return __builtin_popcountl(w); }
static inline unsigned long __ffs(unsigned long w) { return __builtin_ctzl(w); }
static inline unsigned long __ffs64(u64 w) { return __builtin_ctzll(w); }
static inline unsigned long ffz(unsigned long w) { return __builtin_ctzl(~w); }
static inline unsigned long __fls(unsigned long w) { return 63 - __builtin_clzl(w); }
static inline int fls(unsigned int w) { return w ? 32 - __builtin_clz(w) : 0; }
static inline int fls64(u64 w) { return w ? 64 - __builtin_clzll(w) : 0; }
static inline unsigned int fls_long(unsigned long w) { return fls64(w); }
unsigned long find_next_bit(const unsigned long *a, unsigned long size, unsigned long off);
unsigned long find_next_zero_bit(const unsigned long *a, unsigned long size, unsigned long off);
#define find_first_bit(a, n) find_next_bit(a, n, 0)
#define find_first_zero_bit(a, n) find_next_zero_bit(a, n, 0)
#define for_each_set_bit(b, a, n) \
	for ((b) = find_first_bit(a, n); (b) < (n); (b) = find_next_bit(a, n, (b) + 1))
#define for_each_clear_bit(b, a, n) \
	for ((b) = find_first_zero_bit(a, n); (b) < (n); (b) = find_next_zero_bit(a, n, (b) + 1))
#endif
