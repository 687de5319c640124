/* SPDX-License-Identifier: GPL-2.0-only */
#ifndef SIM_LINUX_MATH64_H
#define SIM_LINUX_MATH64_H
#include <linux/types.h>
#include <linux/math.h>
static inline u64 div_u64(u64 a, u32 b) { return a / b; }
static inline u64 div_u64_rem(u64 a, u32 b, u32 *r) { *r = a % b; return a / b; }
static inline u64 div64_u64(u64 a, u64 b) { return a / b; }
static inline u64 div64_u64_rem(u64 a, u64 b, u64 *r) { *r = a % b; return a / b; }
static inline u64 mul_u64_u32_shr(u64 a, u32 m, unsigned int s) { return (u64)(((unsigned __int128)a * m) >> s); }
#define do_div(n, base) ({ u32 __b = (base); u32 __r = (u64)(n) % __b; (n) = (u64)(n) / __b; __r; })
#define sector_div(n, b) do_div(n, b)
#define DIV64_U64_ROUND_UP(a, b) ({ u64 __b64 = (b); ((a) + __b64 - 1) / __b64; })
#endif
