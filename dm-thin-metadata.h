/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * One pool's metadata: devices, mappings, transactions, space.
 *
 * The layer knows no bio, no workqueue and no target.  All functions may
 * sleep unless they say otherwise and take the metadata lock themselves, so
 * callers hold none of this layer's locks.
 *
 * Transactions.  Every change belongs to the open transaction, which has a
 * sequence number (in core only, not the user's transaction id).  A commit
 * makes it durable and opens the next.  A change or commit that fails with an
 * errno that its description does not name as "without any change" has rolled the
 * whole open transaction back; from then on changes get -EIO until the pool is
 * closed.  The caller then sees to the rest with thin_meta_abort() and
 * thin_meta_set_needs_check().
 *
 * Data blocks.  thin_meta_alloc_data() only reserves, in memory; the block is
 * counted when thin_dev_insert() maps it, so a crash in between leaks
 * nothing.  A block that loses its last reference stays out of reach until
 * the transaction that dropped it is durable and the owner of the bios has
 * called thin_meta_release_freed() for that transaction's set.
 *
 * Units: "block" is a data block of data_block_size sectors, "mblock" a
 * metadata block of 4096 bytes.
 */
#ifndef DM_THIN_METADATA_H
#define DM_THIN_METADATA_H

#include <linux/blkdev.h>
#include <linux/device-mapper.h>
#include <linux/types.h>

#define THIN_META_BLOCK_SIZE	4096
#define THIN_META_BLOCK_SECTORS	8

/* Largest usable metadata device (format 1), and where the warning starts. */
#define THIN_META_MAX_SECTORS		33292800ULL
#define THIN_META_MAX_SECTORS_WARN	33554432ULL

/* Data block size bounds in sectors (format 3). */
#define THIN_MIN_BLOCK_SECTORS	128
#define THIN_MAX_BLOCK_SECTORS	2097152

#define THIN_MAX_DEV_ID		((1U << 24) - 1)

struct thin_meta;
struct thin_dev;
struct thin_freed;
struct thin_meta_space;

/**
 * struct thin_meta_times - where the time of a commit went
 * @seq: its transaction
 * @freeze_ns: under the lock that lookups wait for
 * @metadata_ns: writing and flushing all but the superblock
 * @data_ns: waiting for the rest of the data device's flush after that
 * @superblock_ns: writing and flushing the superblock
 */
struct thin_meta_times {
	u64 seq;
	u64 freeze_ns;
	u64 metadata_ns;
	u64 data_ns;
	u64 superblock_ns;
};

/**
 * struct thin_meta_ops - what a commit needs from the owner of the data device
 * @data_flush_begin: start a FLUSH of the data device, do not wait.  Called
 *	once a commit, under the metadata lock.
 * @data_flush_wait: wait for it, return 0 or a negative errno.  Called exactly
 *	once for every @data_flush_begin, also when the commit has failed.
 * @freed: the transaction is durable and this set of data blocks lost its
 *	last reference in it.  The blocks are handed out again only after
 *	thin_meta_release_freed(); every set, even an empty one, must be released,
 *	in order, by the latest before thin_meta_close().  Called once a commit at
 *	most, before the next @data_flush_begin, under the metadata lock: must not
 *	call back.
 * @committed: a transaction is durable; under the metadata lock, must not call back
 *
 * A NULL pointer in @data_flush_begin leaves out the flush (simulation); a
 * NULL @freed releases sets at once; @committed may be NULL.
 */
struct thin_meta_ops {
	void (*data_flush_begin)(void *context);
	int (*data_flush_wait)(void *context);
	void (*freed)(void *context, struct thin_freed *set);
	void (*committed)(void *context, const struct thin_meta_times *times);
};

/* ---- the module ---- */

int thin_meta_init(void);
void thin_meta_exit(void);

/* ---- the pool ---- */

struct thin_meta *thin_meta_open(struct block_device *bdev, sector_t data_block_size,
				 bool may_format, const struct thin_meta_ops *ops, void *context);
int thin_meta_close(struct thin_meta *tm);

int thin_meta_commit(struct thin_meta *tm);
int thin_meta_commit_last(struct thin_meta *tm);
int thin_meta_commit_alone(struct thin_meta *tm, struct thin_meta_space *space);
int thin_meta_abort(struct thin_meta *tm);
bool thin_meta_wants_commit(struct thin_meta *tm);
bool thin_meta_changed(struct thin_meta *tm);
bool thin_meta_is_changing(struct thin_meta *tm);
void thin_meta_release_freed(struct thin_meta *tm, struct thin_freed *set);

/**
 * typedef thin_freed_fn - told of a run of data blocks in a freed set
 * @arg: the caller's
 * @begin: first data block
 * @len: data blocks
 * @passdown: thin_dev_remove_range() has freed them, and they were to be passed down
 */
typedef void (*thin_freed_fn)(void *arg, u64 begin, u64 len, bool passdown);

void thin_freed_walk(const struct thin_freed *set, thin_freed_fn fn, void *arg);

u64 thin_meta_open_seq(struct thin_meta *tm);
u64 thin_meta_durable_seq(struct thin_meta *tm);

/**
 * enum thin_meta_access - which changes are served
 * @THIN_META_WRITABLE: all, until a rollback
 * @THIN_META_FREEING: commits and what gives metadata back: deleting devices,
 *	releasing the metadata snapshot
 * @THIN_META_READ_ONLY: none
 */
enum thin_meta_access {
	THIN_META_WRITABLE,
	THIN_META_FREEING,
	THIN_META_READ_ONLY,
};

void thin_meta_set_access(struct thin_meta *tm, enum thin_meta_access access);
bool thin_meta_rolled_back(struct thin_meta *tm);
bool thin_meta_failed(struct thin_meta *tm);
int thin_meta_set_needs_check(struct thin_meta *tm);
bool thin_meta_needs_check(struct thin_meta *tm);

int thin_meta_set_transaction_id(struct thin_meta *tm, u64 current_id, u64 new_id);
u64 thin_meta_transaction_id(struct thin_meta *tm);

int thin_meta_reserve_snap(struct thin_meta *tm);
int thin_meta_release_snap(struct thin_meta *tm, bool (*stop_yielding)(void *arg), void *arg);
int thin_meta_held_root(struct thin_meta *tm, u64 *mblock);

/**
 * struct thin_meta_space - sizes and free space
 * @meta_total: mblocks of the metadata device in use by the map
 * @meta_free: mblocks free, the reserve subtracted (format 13.6)
 * @meta_raw_free: mblocks free, the reserve included
 * @data_total: data blocks as of the last commit
 * @data_free: data blocks free, those freed in the open transaction included, and those
 *	that are stashed
 * @data_stashed: blocks that thin_meta_stash_data() has set aside
 * @data_pending: blocks counted in @data_free that cannot be handed out
 *	before a commit or the release of a freed set
 * @settling: blocks have lost a user, and a commit or the release of a freed set
 *	may give them to the one that is left (thin_dev_take_over())
 */
struct thin_meta_space {
	u64 meta_total;
	u64 meta_free;
	u64 meta_raw_free;
	u64 data_total;
	u64 data_free;
	u64 data_stashed;
	u64 data_pending;
	bool settling;
};

int thin_meta_get_space(struct thin_meta *tm, struct thin_meta_space *space);
u64 thin_meta_low_water_mblocks(struct thin_meta *tm);
bool thin_meta_low_water_hit(struct thin_meta *tm);

u64 thin_meta_data_blocks(struct thin_meta *tm);
int thin_meta_resize_data(struct thin_meta *tm, u64 nr_blocks);
u64 thin_meta_device_mblocks(struct thin_meta *tm);
int thin_meta_resize_metadata(struct thin_meta *tm, u64 nr_mblocks);

int thin_meta_alloc_data(struct thin_meta *tm, u64 want, u64 *begin, u64 *len);
void thin_meta_unreserve_data(struct thin_meta *tm, u64 begin, u64 len);
int thin_meta_stash_data(struct thin_meta *tm, u64 want, u64 *begin, u64 *len);
void thin_meta_unstash_data(struct thin_meta *tm, u64 begin, u64 len);
void thin_meta_take_stashed(struct thin_meta *tm);
void thin_meta_untake_stashed(struct thin_meta *tm);
int thin_meta_data_count(struct thin_meta *tm, u64 block, u32 *count);
bool thin_meta_peek_shared(struct thin_meta *tm, u64 block);

/* ---- devices ---- */

int thin_meta_create_thin(struct thin_meta *tm, u32 id);
int thin_meta_create_snap(struct thin_meta *tm, u32 id, u32 origin);
int thin_meta_delete(struct thin_meta *tm, u32 id, bool (*stop_yielding)(void *arg), void *arg);

int thin_meta_open_dev(struct thin_meta *tm, u32 id, struct thin_dev **td);
void thin_meta_close_dev(struct thin_dev *td);

u32 thin_dev_id(const struct thin_dev *td);
u64 thin_dev_changed_seq(const struct thin_dev *td);
bool thin_dev_rolled_back(const struct thin_dev *td);
u32 thin_dev_snapshotted_time(const struct thin_dev *td);
int thin_dev_mapped_blocks(struct thin_dev *td, u64 *nr);
int thin_dev_highest_block(struct thin_dev *td, u64 *vblock);

/* ---- mappings ---- */

/**
 * struct thin_map - what one virtual block is mapped to
 * @block: data block
 * @time: clock value of the mapping (format 5.1)
 * @shared: true when the time says that another device may see the block
 */
struct thin_map {
	u64 block;
	u32 time;
	bool shared;
};

/**
 * struct thin_range - a run of mappings contiguous on both sides
 * @vbegin: first virtual block
 * @vend: one past the last virtual block
 * @map: mapping of @vbegin; @map.shared holds for the whole run
 */
struct thin_range {
	u64 vbegin;
	u64 vend;
	struct thin_map map;
};

int thin_dev_find(struct thin_dev *td, u64 vblock, bool may_block, struct thin_map *map);
int thin_dev_find_run(struct thin_dev *td, u64 vblock, u64 nr, bool write, struct thin_map *map,
		      u64 *len);
int thin_dev_find_range(struct thin_dev *td, u64 vbegin, u64 vend, bool may_block,
			struct thin_range *range);
void thin_dev_prefetch(struct thin_dev *td, u64 vblock);

/* A value for struct thin_insert.expect: the virtual block must be unmapped. */
#define THIN_EXPECT_HOLE	(~0ULL)

/**
 * struct thin_insert - one mapping to insert
 * @vblock: virtual block
 * @block: data block, reserved by thin_meta_alloc_data()
 * @expect: data block that @vblock must be mapped to now, or THIN_EXPECT_HOLE
 * @status: set by the call: 0 inserted, -ESTALE @expect does not hold, -EAGAIN
 *	commit first (the reservation is then still the caller's)
 */
struct thin_insert {
	u64 vblock;
	u64 block;
	u64 expect;
	int status;
};

int thin_dev_insert(struct thin_dev *td, struct thin_insert *ins, unsigned int nr);
int thin_dev_take_over(struct thin_dev *td, u64 vblock, u64 block);

int thin_dev_remove_range(struct thin_dev *td, u64 vbegin, u64 vend, bool passdown, u64 *next,
			  u64 *nr);

#endif
