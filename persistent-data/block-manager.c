// SPDX-License-Identifier: GPL-2.0-only
/*
 * Blocks of the metadata device; see the header for the invariants.
 */
#include "block-manager.h"

#include <linux/blkdev.h>
#include <linux/crc32c.h>
#include <linux/device-mapper.h>
#include <linux/dm-bufio.h>
#include <linux/err.h>
#include <linux/string.h>

#define DM_MSG_PREFIX "thin metadata"

/* One buffer held per thread, see the header; a few more keep commits fluent. */
#define BM_RESERVED_BUFFERS 16

/*
 * Per buffer: what it was last verified as.  Two readers may verify the same
 * buffer at once; both store the same values.
 */
struct bm_aux {
	u64 block;
	u32 kind_plus_one;
};

static const u32 pd_salt[] = {
	[PD_SUPERBLOCK] = PD_SALT_SUPERBLOCK,
	[PD_NODE] = PD_SALT_NODE,
	[PD_BITMAP] = PD_SALT_BITMAP,
	[PD_INDEX] = PD_SALT_INDEX,
};

static const char * const kind_name[] = {
	[PD_SUPERBLOCK] = "superblock",
	[PD_NODE] = "btree node",
	[PD_BITMAP] = "bitmap",
	[PD_INDEX] = "index",
};

static void reset_aux(struct dm_buffer *buffer)
{
	struct bm_aux *aux = dm_bufio_get_aux_data(buffer);

	aux->kind_plus_one = 0;
}

/**
 * bm_open() - start caching blocks of a device
 * @bm: filled in
 * @bdev: the metadata device
 *
 * Return: 0 or a negative errno.
 */
int bm_open(struct pd_bm *bm, struct block_device *bdev)
{
	bm->bdev = bdev;
	bm->client = dm_bufio_client_create(bdev, PD_BLOCK_SIZE, BM_RESERVED_BUFFERS,
					    sizeof(struct bm_aux), reset_aux, NULL, 0);
	return PTR_ERR_OR_ZERO(bm->client);
}

/**
 * bm_close() - drop the cache
 * @bm: an open block manager
 */
void bm_close(struct pd_bm *bm)
{
	dm_bufio_client_destroy(bm->client);
}

/**
 * bm_device_blocks() - current size of the device
 * @bm: the block manager
 *
 * Return: whole blocks on the device, capped at what the format can use
 * (format 1).
 */
u64 bm_device_blocks(struct pd_bm *bm)
{
	u64 nr = bdev_nr_sectors(bm->bdev) / PD_BLOCK_SECTORS;

	return min_t(u64, nr, SM_MAX_META_BLOCKS);
}

static u32 checksum(const void *data, enum pd_kind kind)
{
	const size_t skip = sizeof(__le32);

	/* The raw register, not inverted at the end (format 2). */
	return crc32c(~0U, data + skip, PD_BLOCK_SIZE - skip) ^ pd_salt[kind];
}

/* Counts and offsets that every user of a node relies on, and the key order. */
static const char *bad_node(const struct disk_node *node)
{
	u32 nr = le32_to_cpu(node->nr_entries);
	u32 max = le32_to_cpu(node->max_entries);
	u32 size = le32_to_cpu(node->value_size);
	u32 flags = le32_to_cpu(node->header.flags);
	u32 i;

	if (flags != NODE_INTERNAL && flags != NODE_LEAF)
		return "neither internal node nor leaf";
	if (flags == NODE_INTERNAL && size != sizeof(__le64))
		return "wrong value size of an internal node";
	if (!size || size > PD_BLOCK_SIZE || !max || max > PD_BLOCK_SIZE)
		return "impossible value size or capacity";
	if (sizeof(*node) + (sizeof(__le64) + size) * max > PD_BLOCK_SIZE)
		return "capacity larger than the block";
	if (nr > max)
		return "more entries than capacity";
	for (i = 1; i < nr; i++)
		if (le64_to_cpu(node->keys[i - 1]) >= le64_to_cpu(node->keys[i]))
			return "keys out of order";
	return NULL;
}

/**
 * bm_check() - is this a sound block of its kind
 * @data: 4096 bytes
 * @block: where they come from
 * @kind: what they should be
 * @what: set to the check that failed
 *
 * Return: 0, -ENOTBLK for another block's number, -EILSEQ for anything else
 * (format 11).
 */
int bm_check(const void *data, u64 block, enum pd_kind kind, const char **what)
{
	const struct disk_header *header = data;

	if (le64_to_cpu(header->blocknr) != block) {
		*what = "wrong block number";
		return -ENOTBLK;
	}
	if (kind == PD_SUPERBLOCK) {
		const struct disk_superblock *sb = data;

		if (le64_to_cpu(sb->magic) != SUPERBLOCK_MAGIC) {
			*what = "wrong magic number";
			return -EILSEQ;
		}
	}
	if (le32_to_cpu(header->csum) != checksum(data, kind)) {
		*what = "wrong checksum";
		return -EILSEQ;
	}
	if (kind == PD_NODE) {
		*what = bad_node(data);
		if (*what)
			return -EILSEQ;
	}
	return 0;
}

/**
 * bm_complain() - the one place where damage is reported
 * @bm: the block manager
 * @block: the damaged block
 * @kind: what it should have been
 * @what: the check that failed
 * @err: the errno that the caller gets
 */
void bm_complain(struct pd_bm *bm, u64 block, enum pd_kind kind, const char *what, int err)
{
	DMERR_LIMIT("%pg: %s at block %llu: %s (error %d)", bm->bdev, kind_name[kind],
		    (unsigned long long)block, what, err);
}

/*
 * A disk says in many ways what ails it; some of these errnos (a medium error is -ENODATA, a
 * full disk -ENOSPC) mean something else to the callers.
 */
static int device_error(int err)
{
	return !err || err == -ENOMEM ? err : -EIO;
}

static int verify(struct pd_bm *bm, struct dm_buffer *buffer, const void *data, u64 block,
		  enum pd_kind kind)
{
	struct bm_aux *aux = dm_bufio_get_aux_data(buffer);
	const char *what;
	int r;

	if (READ_ONCE(aux->kind_plus_one) == kind + 1 && READ_ONCE(aux->block) == block)
		return 0;

	r = bm_check(data, block, kind, &what);
	if (r) {
		bm_complain(bm, block, kind, what, r);
		return r;
	}
	WRITE_ONCE(aux->block, block);
	WRITE_ONCE(aux->kind_plus_one, kind + 1);
	return 0;
}

/**
 * bm_read() - a verified block
 * @bm: the block manager
 * @block: which
 * @kind: what it must be
 * @may_block: false where a bio is being submitted: only what is in memory
 * @buffer: to be given back with bm_put()
 * @data: 4096 bytes, not to be written
 *
 * Return: 0, -EWOULDBLOCK, -EIO or -ENOMEM when it cannot be read, or the errno of bm_check().
 */
int bm_read(struct pd_bm *bm, u64 block, enum pd_kind kind, bool may_block,
	    struct dm_buffer **buffer, const void **data)
{
	void *d;
	int r;

	if (may_block) {
		d = dm_bufio_read(bm->client, block, buffer);
	} else {
		d = dm_bufio_get(bm->client, block, buffer);
		if (!d)
			return -EWOULDBLOCK;
	}
	if (IS_ERR(d)) {
		bm_complain(bm, block, kind, "cannot be read", PTR_ERR(d));
		return device_error(PTR_ERR(d));
	}
	r = verify(bm, *buffer, d, block, kind);
	if (r) {
		dm_bufio_release(*buffer);
		return r;
	}
	*data = d;
	return 0;
}

/**
 * bm_read_raw() - a block without any check
 * @bm: the block manager
 * @block: which
 * @buffer: to be given back with bm_put()
 * @data: 4096 bytes, not to be written
 *
 * Return: 0, -EIO or -ENOMEM.
 */
int bm_read_raw(struct pd_bm *bm, u64 block, struct dm_buffer **buffer, const void **data)
{
	void *d = dm_bufio_read(bm->client, block, buffer);

	if (IS_ERR(d))
		return device_error(PTR_ERR(d));
	*data = d;
	return 0;
}

/**
 * bm_put() - give a buffer back
 * @buffer: of bm_read(), or NULL
 */
void bm_put(struct dm_buffer *buffer)
{
	if (buffer)
		dm_bufio_release(buffer);
}

/**
 * bm_prefetch() - start reading blocks that follow each other
 * @bm: the block manager
 * @block: the first
 * @nr: how many
 *
 * Not from a context that submits a bio.
 */
void bm_prefetch(struct pd_bm *bm, u64 block, u32 nr)
{
	dm_bufio_prefetch(bm->client, block, nr);
}

/**
 * bm_write() - hand a block of a frozen transaction to dm-bufio
 * @bm: the block manager
 * @block: where it goes
 * @kind: what it is
 * @data: its 4096 bytes, header fields blocknr and csum not yet set
 *
 * The bytes are copied and stamped; they are on their way when bm_flush()
 * returns, not before.
 *
 * Return: 0, -EIO or -ENOMEM.
 */
int bm_write(struct pd_bm *bm, u64 block, enum pd_kind kind, const void *data)
{
	struct dm_buffer *buffer;
	struct disk_header *header;
	struct bm_aux *aux;
	void *d = dm_bufio_new(bm->client, block, &buffer);

	if (IS_ERR(d))
		return device_error(PTR_ERR(d));

	memcpy(d, data, PD_BLOCK_SIZE);
	header = d;
	header->blocknr = cpu_to_le64(block);
	header->csum = cpu_to_le32(checksum(d, kind));
	aux = dm_bufio_get_aux_data(buffer);
	WRITE_ONCE(aux->block, block);
	WRITE_ONCE(aux->kind_plus_one, kind + 1);
	dm_bufio_mark_buffer_dirty(buffer);
	dm_bufio_release(buffer);
	return 0;
}

/**
 * bm_flush() - write everything that bm_write() was given and flush the device
 * @bm: the block manager
 *
 * Return: 0; -EIO or -ENOMEM for the first error of any write since the last call or of the
 * flush.  After an error the caller forgets all that it had written.
 */
int bm_flush(struct pd_bm *bm)
{
	return device_error(dm_bufio_write_dirty_buffers(bm->client));
}

/**
 * bm_forget_all() - let every read that follows come from the device
 * @bm: the block manager; nobody holds a buffer
 *
 * For after a failed commit.  What was still on its way is written first, which
 * does no harm: nothing durable refers to it.
 */
void bm_forget_all(struct pd_bm *bm)
{
	dm_bufio_write_dirty_buffers(bm->client);
	dm_bufio_forget_buffers(bm->client, 0, bm_device_blocks(bm));
}
