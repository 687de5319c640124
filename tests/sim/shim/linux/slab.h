/* SPDX-License-Identifier: GPL-2.0-only */
#ifndef SIM_LINUX_SLAB_H
#define SIM_LINUX_SLAB_H
#include <linux/gfp.h>
#include <linux/overflow.h>
#include <linux/types.h>

void *sim_alloc(size_t size, gfp_t gfp);
void sim_free(const void *p);
void *krealloc(const void *p, size_t size, gfp_t gfp);

static inline void *kmalloc(size_t size, gfp_t gfp) { return sim_alloc(size, gfp); }
static inline void *kzalloc(size_t size, gfp_t gfp) { return sim_alloc(size, gfp | __GFP_ZERO); }
static inline void *kmalloc_array(size_t n, size_t size, gfp_t gfp) { return sim_alloc(size_mul(n, size), gfp); }
static inline void *kcalloc(size_t n, size_t size, gfp_t gfp) { return sim_alloc(size_mul(n, size), gfp | __GFP_ZERO); }
static inline void *krealloc_array(void *p, size_t n, size_t size, gfp_t gfp) { return krealloc(p, size_mul(n, size), gfp); }
static inline void kfree(const void *p) { sim_free(p); }
#define kvmalloc kmalloc
#define kvzalloc kzalloc
#define kvmalloc_array kmalloc_array
#define kvcalloc kcalloc
#define kvfree kfree
#define vmalloc(n) kmalloc(n, GFP_KERNEL)
#define vzalloc(n) kzalloc(n, GFP_KERNEL)
#define vfree kfree
#define kmalloc_obj(P, ...) ((typeof(P) *)kmalloc(sizeof(P), GFP_KERNEL))
#define kzalloc_obj(P, ...) ((typeof(P) *)kzalloc(sizeof(P), GFP_KERNEL))

struct kmem_cache;
#define SLAB_HWCACHE_ALIGN 0
#define SLAB_RECLAIM_ACCOUNT 0
#define SLAB_MEM_SPREAD 0
struct kmem_cache *kmem_cache_create(const char *name, unsigned int size, unsigned int align,
				     unsigned int flags, void (*ctor)(void *));
#define KMEM_CACHE(s, f) kmem_cache_create(#s, sizeof(struct s), __alignof__(struct s), (f), NULL)
void kmem_cache_destroy(struct kmem_cache *c);
void *kmem_cache_alloc(struct kmem_cache *c, gfp_t gfp);
void *kmem_cache_zalloc(struct kmem_cache *c, gfp_t gfp);
void kmem_cache_free(struct kmem_cache *c, void *p);
#endif
