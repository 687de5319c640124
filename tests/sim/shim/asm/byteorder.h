/* SPDX-License-Identifier: GPL-2.0-only */
#ifndef SIM_ASM_BYTEORDER_H
#define SIM_ASM_BYTEORDER_H
#include <linux/types.h>
#if __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "the simulation runs on little-endian machines only"
#endif
static inline u64 le64_to_cpu(__le64 v) { return v; }
static inline u32 le32_to_cpu(__le32 v) { return v; }
static inline u16 le16_to_cpu(__le16 v) { return v; }
static inline __le64 cpu_to_le64(u64 v) { return v; }
static inline __le32 cpu_to_le32(u32 v) { return v; }
static inline __le16 cpu_to_le16(u16 v) { return v; }
static inline u64 le64_to_cpup(const __le64 *p) { return *p; }
static inline u32 le32_to_cpup(const __le32 *p) { return *p; }
static inline void le64_add_cpu(__le64 *p, u64 v) { *p += v; }
static inline void le32_add_cpu(__le32 *p, u32 v) { *p += v; }
#endif
