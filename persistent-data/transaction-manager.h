/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The blocks of the open transaction, and of the one that is being committed.
 *
 * Nothing that the durable superblock reaches is changed in place.  The first
 * change of a block moves it to a new place ("shadows" it); the new block is a
 * page of this object until its transaction is durable.  So:
 * - pointers to shadowed blocks stay good until they are freed, frozen or
 *   aborted; no buffer is held while the trees are changed;
 * - aborting is dropping the pages.
 *
 * Freezing opens the next transaction.  The pages of the frozen one change no
 * more, are what readers get, and are shadowed like durable blocks.
 *
 * Locking: changes need the pool's metadata lock for writing, tm_read() for
 * reading.  tm_write_frozen() needs none, as nobody drops the pages before it ends.
 */
#ifndef PD_TRANSACTION_MANAGER_H
#define PD_TRANSACTION_MANAGER_H

#include <linux/xarray.h>

#include "block-manager.h"

struct pd_sm;

/**
 * struct pd_tm - open transaction over a block manager
 * @bm: where durable blocks are
 * @meta: counts metadata blocks
 * @shadows: block number to its page and kind, of the open transaction and of the frozen
 *	one
 * @open: which of @shadows is the open transaction's
 * @nr_shadows: pages of the open transaction
 * @seq: number of the open transaction
 * @hidden_loss_seq: last transaction in which a shared node was dropped, so that what it
 *	points to lost a user that no count shows
 */
struct pd_tm {
	struct pd_bm *bm;
	struct pd_sm *meta;
	struct xarray shadows[2];
	unsigned int open;
	u64 nr_shadows;
	u64 seq;
	u64 hidden_loss_seq;
};

/**
 * struct pd_read - a block being read, of the open transaction or durable
 * @data: 4096 bytes
 * @buffer: what to give back, NULL for a page of a transaction
 */
struct pd_read {
	const void *data;
	struct dm_buffer *buffer;
};

void tm_init(struct pd_tm *tm, struct pd_bm *bm, struct pd_sm *meta, u64 seq);
void tm_drop(struct pd_tm *tm);
void tm_freeze(struct pd_tm *tm);
void tm_drop_frozen(struct pd_tm *tm);

int tm_read(struct pd_tm *tm, u64 block, enum pd_kind kind, bool may_block, struct pd_read *read);
void tm_put(struct pd_read *read);

int tm_new(struct pd_tm *tm, enum pd_kind kind, u64 *block, void **data);
int tm_add(struct pd_tm *tm, enum pd_kind kind, u64 block, void *page);
void tm_take_back(struct pd_tm *tm, u64 block);
int tm_shadow(struct pd_tm *tm, enum pd_kind kind, u64 old, u64 *block, void **data, bool *shared);
int tm_inc(struct pd_tm *tm, u64 block);
int tm_dec(struct pd_tm *tm, u64 block, bool *freed);
int tm_count(struct pd_tm *tm, u64 block, u32 *count);

int tm_write_frozen(struct pd_tm *tm);

static inline void tm_note_hidden_loss(struct pd_tm *tm)
{
	tm->hidden_loss_seq = tm->seq;
}

#endif
