// SPDX-License-Identifier: GPL-2.0-only
/*
 * The blocks of the transactions that are not durable yet; see the header.
 */
#include "transaction-manager.h"

#include <linux/gfp.h>
#include <linux/string.h>

#include "space-map.h"

/*
 * An entry of the xarray is the page's address with the kind in bits 2 and 3:
 * pages are aligned, and bits 0 and 1 are the xarray's own.
 */
#define KIND_SHIFT	2
#define KIND_MASK	(3UL << KIND_SHIFT)

/* What all new bitmaps hold: there are many of them when a large device has grown. */
static const u8 zeroes[PD_BLOCK_SIZE] __aligned(1 << (KIND_SHIFT + 2));

static void *make_entry(const void *page, enum pd_kind kind)
{
	return (void *)((unsigned long)page | (unsigned long)kind << KIND_SHIFT);
}

static void *entry_page(void *entry)
{
	return (void *)((unsigned long)entry & ~KIND_MASK);
}

static enum pd_kind entry_kind(void *entry)
{
	return ((unsigned long)entry & KIND_MASK) >> KIND_SHIFT;
}

static void free_entry(void *entry)
{
	if (entry_page(entry) != zeroes)
		free_page((unsigned long)entry_page(entry));
}

/**
 * tm_init() - start with an empty transaction
 * @tm: filled in
 * @bm: the block manager
 * @meta: the map of metadata blocks
 * @seq: number of the transaction
 */
void tm_init(struct pd_tm *tm, struct pd_bm *bm, struct pd_sm *meta, u64 seq)
{
	tm->bm = bm;
	tm->meta = meta;
	tm->open = 0;
	tm->nr_shadows = 0;
	tm->seq = seq;
	tm->hidden_loss_seq = 0;
	xa_init(&tm->shadows[0]);
	xa_init(&tm->shadows[1]);
}

static void drop(struct xarray *shadows)
{
	unsigned long block;
	void *entry;

	xa_for_each(shadows, block, entry)
		free_entry(entry);
	xa_destroy(shadows);
}

/**
 * tm_drop() - forget all changed blocks, the frozen ones too
 * @tm: the transaction
 *
 * The caller holds the metadata lock for writing.
 */
void tm_drop(struct pd_tm *tm)
{
	tm_drop_frozen(tm);
	drop(&tm->shadows[tm->open]);
	tm->nr_shadows = 0;
}

/**
 * tm_freeze() - the blocks of the open transaction are what they are to be
 * @tm: the transaction; none is frozen
 *
 * The next one is open then.  The caller holds the metadata lock for writing.
 */
void tm_freeze(struct pd_tm *tm)
{
	tm->open ^= 1;
	WRITE_ONCE(tm->nr_shadows, 0);
}

/**
 * tm_drop_frozen() - the frozen transaction is durable
 * @tm: the transaction
 *
 * The caller holds the metadata lock for writing.
 */
void tm_drop_frozen(struct pd_tm *tm)
{
	drop(&tm->shadows[tm->open ^ 1]);
}

/**
 * tm_read() - a block as the open transaction has it
 * @tm: the transaction
 * @block: which
 * @kind: what it must be
 * @may_block: false: only what is in memory
 * @read: filled in, to be given back with tm_put()
 *
 * The caller holds the metadata lock.
 *
 * Return: 0, -EWOULDBLOCK, or the errno of the read or its checks.
 */
int tm_read(struct pd_tm *tm, u64 block, enum pd_kind kind, bool may_block, struct pd_read *read)
{
	void *entry = xa_load(&tm->shadows[tm->open], block);

	if (!entry)
		entry = xa_load(&tm->shadows[tm->open ^ 1], block);
	if (entry) {
		if (entry_kind(entry) != kind) {
			bm_complain(tm->bm, block, kind, "is of another kind", -EILSEQ);
			return -EILSEQ;
		}
		read->data = entry_page(entry);
		read->buffer = NULL;
		return 0;
	}
	if (block == SUPERBLOCK_LOCATION || block >= tm->meta->nr_blocks) {
		bm_complain(tm->bm, block, kind, "pointer out of range", -EILSEQ);
		return -EILSEQ;
	}
	return bm_read(tm->bm, block, kind, may_block, &read->buffer, &read->data);
}

/**
 * tm_put() - done reading
 * @read: of tm_read()
 */
void tm_put(struct pd_read *read)
{
	bm_put(read->buffer);
	read->buffer = NULL;
}

/**
 * tm_add() - an allocated block's content
 * @tm: the transaction
 * @kind: what it is
 * @block: which; not a shadow
 * @page: a page, which is the transaction's from now on, but not after an error; NULL:
 *	zeroes
 *
 * Return: 0, -EILSEQ where counts on disk are so wrong that it has been allocated
 * twice, or -ENOMEM; the transaction must be aborted then.
 */
int tm_add(struct pd_tm *tm, enum pd_kind kind, u64 block, void *page)
{
	void *entry = make_entry(page ?: zeroes, kind);
	int r = xa_insert(&tm->shadows[tm->open], block, entry, GFP_NOIO);

	if (!r) {
		WRITE_ONCE(tm->nr_shadows, tm->nr_shadows + 1);
	} else if (r == -EBUSY) {
		bm_complain(tm->bm, block, kind, "allocated twice", -EILSEQ);
		r = -EILSEQ;
	}
	return r;
}

/**
 * tm_take_back() - a page given to the frozen transaction becomes the caller's again
 * @tm: the transaction; what is frozen is durable
 * @block: where it was added
 *
 * The caller holds the metadata lock for writing.
 */
void tm_take_back(struct pd_tm *tm, u64 block)
{
	xa_erase(&tm->shadows[tm->open ^ 1], block);
}

/* A block that is allocated for a page, or the page is freed. */
static int place_page(struct pd_tm *tm, enum pd_kind kind, unsigned long page, u64 *block,
		      void **data)
{
	int r = sm_alloc(tm->meta, block);

	*data = (void *)page;
	if (!r)
		r = tm_add(tm, kind, *block, *data);
	if (r)
		free_page(page);
	return r;
}

/**
 * tm_new() - a fresh block with count 1
 * @tm: the transaction
 * @kind: what it will be
 * @block: set to its number
 * @data: set to its 4096 zero bytes
 *
 * Return: 0, -ENOSPC, -ENOMEM or the errno of a read.  After an error the
 * transaction must be aborted.
 */
int tm_new(struct pd_tm *tm, enum pd_kind kind, u64 *block, void **data)
{
	unsigned long page = get_zeroed_page(GFP_NOIO);

	if (!page)
		return -ENOMEM;
	return place_page(tm, kind, page, block, data);
}

/**
 * tm_shadow() - a block that may be changed in place of another
 * @tm: the transaction
 * @kind: what it is
 * @old: the block as it is now; loses the caller's reference
 * @block: set to the block to point to from now on, perhaps @old itself
 * @data: set to its bytes
 * @shared: set to true when others go on using @old: the caller then counts
 *	everything that @data points to once more (format 7)
 *
 * Return: as tm_new().
 */
int tm_shadow(struct pd_tm *tm, enum pd_kind kind, u64 old, u64 *block, void **data, bool *shared)
{
	struct pd_read read;
	unsigned long page;
	void *entry;
	bool freed;
	u32 count;
	int r;

	r = sm_count(tm->meta, old, &count);
	if (r)
		return r;
	if (!count) {
		bm_complain(tm->bm, old, kind, "in use but counted free", -EILSEQ);
		return -EILSEQ;
	}
	*shared = count > 1;
	entry = *shared ? NULL : xa_load(&tm->shadows[tm->open], old);
	if (entry && entry_kind(entry) == kind) {
		*block = old;
		*data = entry_page(entry);
		return 0;
	}
	r = tm_read(tm, old, kind, true, &read);
	if (r)
		return r;

	page = __get_free_page(GFP_NOIO);
	if (page)
		memcpy((void *)page, read.data, PD_BLOCK_SIZE);
	tm_put(&read);
	if (!page)
		return -ENOMEM;
	r = place_page(tm, kind, page, block, data);
	if (r)
		return r;
	return tm_dec(tm, old, &freed);
}

/**
 * tm_inc() - one reference more to a metadata block
 * @tm: the transaction
 * @block: which
 *
 * Return: as tm_new().
 */
int tm_inc(struct pd_tm *tm, u64 block)
{
	return sm_inc(tm->meta, block);
}

/**
 * tm_dec() - one reference less to a metadata block
 * @tm: the transaction
 * @block: which
 * @freed: set to true when it was the last one.  What the block points to is
 *	the caller's business.
 *
 * Return: as tm_new().
 */
int tm_dec(struct pd_tm *tm, u64 block, bool *freed)
{
	void *entry;
	int r;

	r = sm_dec(tm->meta, block, freed);
	if (r || !*freed)
		return r;
	/* Not a frozen one: that is on its way to the disk. */
	entry = xa_erase(&tm->shadows[tm->open], block);
	if (entry) {
		free_entry(entry);
		WRITE_ONCE(tm->nr_shadows, tm->nr_shadows - 1);
	}
	return 0;
}

/**
 * tm_count() - references to a metadata block
 * @tm: the transaction
 * @block: which
 * @count: set
 *
 * Return: 0 or the errno of a read.
 */
int tm_count(struct pd_tm *tm, u64 block, u32 *count)
{
	return sm_count(tm->meta, block, count);
}

/**
 * tm_write_frozen() - hand every frozen block to the block manager
 * @tm: the transaction
 *
 * The pages stay, and are what tm_read() gives, until tm_drop_frozen(): as long as
 * the write may fail the device's former content must not be seen.
 *
 * Return: 0 or a negative errno.
 */
int tm_write_frozen(struct pd_tm *tm)
{
	unsigned long block;
	void *entry;
	int r;

	xa_for_each(&tm->shadows[tm->open ^ 1], block, entry) {
		r = bm_write(tm->bm, block, entry_kind(entry), entry_page(entry));
		if (r)
			return r;
	}
	return 0;
}
