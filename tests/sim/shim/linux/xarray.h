/* SPDX-License-Identifier: GPL-2.0-only */
#ifndef SIM_LINUX_XARRAY_H
#define SIM_LINUX_XARRAY_H
#include <linux/bitmap.h>
#include <linux/err.h>
#include <linux/string.h>
#include <linux/gfp.h>
#include <linux/kernel.h>
#include <linux/spinlock.h>
#include <linux/types.h>

/* A plain 64-way radix tree, ../shim.c; no marks. */
struct xarray {
	spinlock_t xa_lock;
	unsigned int height;
	void *root;
};
struct xa_limit {
	u32 max, min;
};
#define XA_FLAGS_LOCK_IRQ 0
#define XA_FLAGS_LOCK_BH 0
#define XA_FLAGS_ALLOC 0
#define XARRAY_INIT(n, f) { .xa_lock = __SPIN_LOCK_UNLOCKED(n) }
#define DEFINE_XARRAY(n) struct xarray n = XARRAY_INIT(n, 0)
void xa_init(struct xarray *xa);
#define xa_init_flags(xa, f) xa_init(xa)
void *xa_load(struct xarray *xa, unsigned long index);
void *xa_store(struct xarray *xa, unsigned long index, void *entry, gfp_t gfp);
void *xa_erase(struct xarray *xa, unsigned long index);
void *xa_cmpxchg(struct xarray *xa, unsigned long index, void *old, void *entry, gfp_t gfp);
int xa_insert(struct xarray *xa, unsigned long index, void *entry, gfp_t gfp);
void *xa_find(struct xarray *xa, unsigned long *index, unsigned long max, unsigned int filter);
void *xa_find_after(struct xarray *xa, unsigned long *index, unsigned long max, unsigned int filter);
void xa_destroy(struct xarray *xa);
static inline bool xa_empty(const struct xarray *xa) { return !xa->root; }
#define XA_PRESENT 8u
static inline int xa_err(void *entry) { return IS_ERR(entry) ? PTR_ERR(entry) : 0; }
static inline bool xa_is_err(const void *entry) { return IS_ERR(entry); }
static inline void *xa_mk_value(unsigned long v) { return (void *)((v << 1) | 1); }
static inline unsigned long xa_to_value(const void *e) { return (unsigned long)e >> 1; }
static inline bool xa_is_value(const void *e) { return (unsigned long)e & 1; }
#define xa_lock(xa) spin_lock(&(xa)->xa_lock)
#define xa_unlock(xa) spin_unlock(&(xa)->xa_lock)
#define xa_for_each_range(xa, index, entry, start, last)		\
	for (index = (start), entry = xa_find(xa, &(index), last, XA_PRESENT); entry; \
	     entry = xa_find_after(xa, &(index), last, XA_PRESENT))
#define xa_for_each_start(xa, index, entry, start) xa_for_each_range(xa, index, entry, start, ~0UL)
#define xa_for_each(xa, index, entry) xa_for_each_start(xa, index, entry, 0)
#endif
