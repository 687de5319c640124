/* SPDX-License-Identifier: GPL-2.0-only */
#ifndef SIM_LINUX_GFP_H
#define SIM_LINUX_GFP_H
#include <linux/types.h>
#define __GFP_IO 0x1u
#define __GFP_FS 0x2u
#define __GFP_DIRECT_RECLAIM 0x4u
#define __GFP_KSWAPD_RECLAIM 0x8u
#define __GFP_ZERO 0x10u
#define __GFP_NOWARN 0x20u
#define __GFP_NORETRY 0x40u
#define __GFP_NOFAIL 0x80u
#define __GFP_NOMEMALLOC 0x100u
#define __GFP_HIGH 0x200u
#define __GFP_RETRY_MAYFAIL 0x400u
#define __GFP_COMP 0x800u
#define __GFP_RECLAIM (__GFP_DIRECT_RECLAIM | __GFP_KSWAPD_RECLAIM)
#define GFP_KERNEL (__GFP_RECLAIM | __GFP_IO | __GFP_FS)
#define GFP_NOFS (__GFP_RECLAIM | __GFP_IO)
#define GFP_NOIO __GFP_RECLAIM
#define GFP_NOWAIT (__GFP_KSWAPD_RECLAIM | __GFP_NOWARN)
#define GFP_ATOMIC (__GFP_HIGH | __GFP_KSWAPD_RECLAIM)
#define PAGE_SHIFT 12
#define PAGE_SIZE 4096UL
#define PAGE_MASK (~(PAGE_SIZE - 1))
struct page;
unsigned long __get_free_page(gfp_t gfp);
unsigned long get_zeroed_page(gfp_t gfp);
void free_page(unsigned long addr);
struct page *alloc_page(gfp_t gfp);
void __free_page(struct page *page);
void *page_address(const struct page *page);
#endif
