/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Blocks of the metadata device: verified reads and stamped writes through
 * dm-bufio.
 *
 * Invariants:
 * - A caller holds at most one buffer at a time, so dm-bufio always has one to
 *   give, whatever the memory.
 * - dm-bufio is never dirty outside bm_write() .. bm_flush(): the blocks of
 *   the open transaction live in the transaction manager's pages, and dropping
 *   a transaction leaves nothing to take back from the cache.
 * - What bm_read() returns has passed its checks: own number, checksum, and
 *   a header in which no later code needs to doubt a count or an offset.
 */
#ifndef PD_BLOCK_MANAGER_H
#define PD_BLOCK_MANAGER_H

#include "disk-format.h"

struct block_device;
struct dm_buffer;
struct dm_bufio_client;

struct pd_bm {
	struct block_device *bdev;
	struct dm_bufio_client *client;
};

int bm_open(struct pd_bm *bm, struct block_device *bdev);
void bm_close(struct pd_bm *bm);
u64 bm_device_blocks(struct pd_bm *bm);

int bm_read(struct pd_bm *bm, u64 block, enum pd_kind kind, bool may_block,
	    struct dm_buffer **buffer, const void **data);
int bm_read_raw(struct pd_bm *bm, u64 block, struct dm_buffer **buffer, const void **data);
void bm_put(struct dm_buffer *buffer);
void bm_prefetch(struct pd_bm *bm, u64 block, u32 nr);

int bm_write(struct pd_bm *bm, u64 block, enum pd_kind kind, const void *data);
int bm_flush(struct pd_bm *bm);
void bm_forget_all(struct pd_bm *bm);

int bm_check(const void *data, u64 block, enum pd_kind kind, const char **what);
void bm_complain(struct pd_bm *bm, u64 block, enum pd_kind kind, const char *what, int err);

#endif
