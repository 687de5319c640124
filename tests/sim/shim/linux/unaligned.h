/* SPDX-License-Identifier: GPL-2.0-only */
#ifndef SIM_LINUX_UNALIGNED_H
#define SIM_LINUX_UNALIGNED_H
#include <string.h>
#include <linux/types.h>
static inline u64 get_unaligned_le64(const void *p) { u64 v; memcpy(&v, p, 8); return v; }
static inline u32 get_unaligned_le32(const void *p) { u32 v; memcpy(&v, p, 4); return v; }
static inline void put_unaligned_le64(u64 v, void *p) { memcpy(p, &v, 8); }
static inline void put_unaligned_le32(u32 v, void *p) { memcpy(p, &v, 4); }
#endif
