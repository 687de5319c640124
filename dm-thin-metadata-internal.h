/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * What the files of the metadata layer share; nobody else includes it.
 *
 * Lock order: commit_lock, then change_lock, then lock, then reload_lock, then dm-bufio's own.
 *
 * commit_lock belongs to a commit from its beginning to its end.  change_lock belongs
 * to whoever changes anything or uses the space maps, and to a commit while it
 * freezes the open transaction and when its I/O has ended, but not meanwhile: the
 * next transaction is open then.  Whoever holds it may read the trees without
 * more.  lock is for those who only look: it is held for reading by lookups, and for
 * writing while trees and devices are being changed.
 *
 * A change that fails half way is rolled back under the same hold of the lock,
 * so nobody ever sees or commits it.  If a commit's I/O is under way then it is
 * waited for, since only then the disk tells what to go back to.
 */
#ifndef DM_THIN_METADATA_INTERNAL_H
#define DM_THIN_METADATA_INTERNAL_H

#include <linux/atomic.h>
#include <linux/completion.h>
#include <linux/mutex.h>
#include <linux/rwsem.h>
#include <linux/xarray.h>

#include "dm-thin-metadata.h"
#include "persistent-data/block-manager.h"
#include "persistent-data/btree.h"
#include "persistent-data/space-map.h"
#include "persistent-data/transaction-manager.h"

/* Leaves removed in one hold of the lock; and how many before them are being read. */
#define REMOVE_STEP_LEAVES	32
#define REMOVE_AHEAD_LEAVES	(3 * REMOVE_STEP_LEAVES)

/**
 * struct thin_meta - one pool's metadata
 * @commit_lock: see above
 * @change_lock: see above
 * @lock: see above
 * @reload_lock: one reads a record back at a time
 * @bdev: the metadata device
 * @ops: the owner's
 * @context: for @ops
 * @bm: blocks of the device
 * @tm: blocks of the open transaction
 * @meta_sm: counts metadata blocks
 * @data_sm: counts data blocks
 * @sb: the superblock as it is on disk
 * @new_sb: the one that a commit writes
 * @sb_sent: @new_sb has been on its way to the disk in this commit; its own, until its
 *	I/O has ended
 * @in_flight: what the transaction frees whose I/O is under way, or has ended without
 *	the outcome being drawn; NULL for none
 * @in_flight_seq: number of the last transaction that was frozen
 * @io_error: how that I/O has ended
 * @io_done: that it has
 * @data_block_size: sectors
 * @time: snapshot clock
 * @trans_id: the user's transaction id
 * @held_root: block of the metadata snapshot, 0 for none
 * @held_told: the same in the last durable transaction; read without a lock
 * @releasing: it is being let go; change_lock's, also between two steps
 * @top_root: root of the tree of devices' roots
 * @details_root: root of the tree of devices' details
 * @top: kind of the top-level tree
 * @mapping: kind of a device's tree
 * @passdown: the same, for removals of what is to be passed down
 * @details: kind of the details tree
 * @devs: open devices, those with a mark to keep, and those being deleted, by id
 * @open_seq: number of the open transaction
 * @durable_seq: number of the last durable one
 * @quiet_seq: the references lost up to this transaction are nobody's any more: it
 *	is durable, and its freed set released
 * @in_doubt_seq: number of the transaction that is on disk but was not flushed, 0
 *	for none
 * @changed: the open transaction has changes
 * @mutating: a change is under way: an error now means rolling back
 * @closing: freed sets are nobody's any more
 * @flag_unsaved: @sb has needs_check, the disk does not
 * @in_service: the first change has been made ready for
 * @access: which changes are served
 * @aborted: a transaction was rolled back: changes are refused until the pool is
 *	closed, since what it freed and mapped is no longer known but bios to it
 *	may be under way
 * @failed: an abort has failed, nothing works any more
 * @low_armed: the next crossing of the low water mark is to be told
 * @space: numbers as of the end of the last change
 * @stashed: data blocks set aside; they are reserved in @data_sm
 * @part_seq: transaction that the four below are of; these and @needed are change_lock's
 * @part_bitmaps: blocks that data bitmaps may take if a part of a change touches many
 * @part_blocks: the same, with overflow leaves
 * @part_least: the same, if it is the smallest that letting a device go can be done in
 * @part_nodes: the same of the metadata's counts, and nodes
 * @needed: free metadata that a change was refused for, 0 for none
 */
struct thin_meta {
	struct mutex commit_lock;	/* see the top */
	struct mutex change_lock;
	struct rw_semaphore lock;
	struct mutex reload_lock;
	struct block_device *bdev;
	const struct thin_meta_ops *ops;
	void *context;

	struct pd_bm bm;
	struct pd_tm tm;
	struct pd_sm meta_sm;
	struct pd_sm data_sm;

	struct disk_superblock sb;
	struct disk_superblock new_sb;
	bool sb_sent;
	struct thin_freed *in_flight;
	u64 in_flight_seq;
	int io_error;
	struct completion io_done;
	sector_t data_block_size;
	u32 time;
	u64 trans_id;
	u64 held_root;
	u64 held_told;
	bool releasing;
	u64 top_root;
	u64 details_root;

	struct bt_info top;
	struct bt_info mapping;
	struct bt_info passdown;
	struct bt_info details;

	struct xarray devs;
	u64 open_seq;
	u64 durable_seq;
	u64 quiet_seq;
	u64 in_doubt_seq;
	bool changed;
	bool mutating;
	bool closing;
	bool flag_unsaved;
	bool in_service;
	enum thin_meta_access access;
	bool aborted;
	bool failed;
	int low_armed;
	struct thin_meta_space space;
	atomic64_t stashed;
	u64 part_seq;
	u64 part_bitmaps;
	u64 part_blocks;
	u64 part_least;
	u64 part_nodes;
	u64 needed;
};

/**
 * struct thin_dev - one device id
 * @tm: its pool
 * @id: its number
 * @open_count: openers
 * @root: root of its tree; newer than the top-level entry while @changed
 * @owned_seq: transaction in which the path to its top-level entry was shadowed
 * @changed: @root or a detail differs from the trees
 * @changed_seq: last transaction that changed it
 * @rolled_back: a transaction that changed it was aborted; stays until the
 *	pool goes
 * @gone: it was created in an aborted transaction, or deleted
 * @unread: a rollback could not read the record: neither @root, @gone nor the details count.
 *	Written, with these, under the pool's lock for writing, or for reading and reload_lock
 * @deleting: a delete is under way
 * @cache: cached mappings, see dm-thin-metadata-cache.c
 * @cache_hand: where dropping chunks goes on
 * @cache_turn: misses while the cache was full
 * @cache_node: in the list of all devices
 * @mapped_blocks: number of mappings
 * @transaction_id: the user's, when it was created
 * @creation_time: clock when it was created
 * @snapshotted_time: clock of its last snapshot
 */
struct thin_dev {
	struct thin_meta *tm;
	u32 id;
	u32 open_count;
	u64 root;
	u64 owned_seq;
	bool changed;
	u64 changed_seq;
	bool rolled_back;
	bool gone;
	bool unread;
	bool deleting;
	struct xarray cache;
	unsigned long cache_hand;
	unsigned int cache_turn;
	struct list_head cache_node;
	u64 mapped_blocks;
	u64 transaction_id;
	u32 creation_time;
	u32 snapshotted_time;
};

/**
 * struct meta_tree - the tree of a device, or of its state in the metadata snapshot
 * @tm: its pool
 * @top_root: root of the top level that has it
 * @id: its number there
 * @root: its root, perhaps newer than what the top level says
 */
struct meta_tree {
	struct thin_meta *tm;
	u64 top_root;
	u64 id;
	u64 root;
};

static inline struct meta_tree dev_tree(const struct thin_dev *td)
{
	return (struct meta_tree){
		.tm = td->tm, .top_root = td->tm->top_root, .id = td->id, .root = td->root,
	};
}

static inline bool dev_is_unread(const struct thin_dev *td)
{
	/* Pairs with the release when a record has been read back: all of it is there then. */
	return unlikely(smp_load_acquire(&td->unread));
}

/* dm-thin-metadata.c */
int meta_write_superblock(struct thin_meta *tm, const struct disk_superblock *sb);
void meta_next_seq(struct thin_meta *tm);
void meta_roll_back(struct thin_meta *tm);
int meta_begin_change(struct thin_meta *tm);
int meta_begin_freeing(struct thin_meta *tm);
void meta_mutate(struct thin_meta *tm);
void meta_end_change(struct thin_meta *tm, int error);
int meta_hide(int r);
int meta_begin_read(struct thin_meta *tm, bool may_block);
void meta_end_read(struct thin_meta *tm);

/* dm-thin-metadata-commit.c */
void meta_settle(struct thin_meta *tm);
int meta_commit_locked(struct thin_meta *tm);

/* dm-thin-metadata-space.c */
void meta_count_space(struct thin_meta *tm);

/* dm-thin-metadata-room.c */
u64 meta_reserve(u64 nr_mblocks);
u64 meta_raw_free(struct thin_meta *tm);
bool meta_has_room(struct thin_dev *td, u64 vblock);
bool meta_has_room_to_remove(struct thin_dev *td, u64 vbegin, u64 vend);
bool meta_has_room_for_device(struct thin_meta *tm, bool held);
void meta_ask_again(struct thin_meta *tm);
bool meta_has_room_for_entries(struct thin_meta *tm);
u32 meta_room_to_drop(const struct meta_tree *tree, const struct disk_node *leaf);
bool meta_has_room_for_bitmaps(struct thin_meta *tm, u64 nr);
bool meta_has_much(struct thin_meta *tm);
bool meta_is_short(struct thin_meta *tm);
bool meta_must_commit(struct thin_meta *tm);

/* dm-thin-metadata-cache.c */
void dev_cache_init(struct thin_dev *td);
void dev_cache_exit(struct thin_dev *td);
void dev_cache_drop(struct thin_dev *td);
int dev_cache_find(struct thin_dev *td, u64 vblock, u64 *value);
int dev_cache_find_run(struct thin_dev *td, u64 vblock, u64 nr, u32 min_time, u64 *value, u64 *len);
void dev_cache_fill(struct thin_dev *td, u64 vblock, const struct bt_leaf *leaf, gfp_t gfp);
void dev_cache_set(struct thin_dev *td, u64 vblock, u64 value);
void dev_cache_clear(struct thin_dev *td, u64 vbegin, u64 vend);

/* dm-thin-metadata-tree.c */
void meta_init_trees(struct thin_meta *tm);

/* dm-thin-metadata-drop.c */
int meta_drop_own_leaves(struct meta_tree *tree, u64 *key, struct disk_node *page, u32 *leaves,
			 u64 *mappings);
int meta_drop_in_steps(struct thin_meta *tm, int (*step)(void *state), void *state,
		       bool (*stop_yielding)(void *arg), void *arg);

/* dm-thin-metadata-dev.c */
int dev_write_changed(struct thin_meta *tm);
void dev_drop_caches(struct thin_meta *tm);
void dev_reload_all(struct thin_meta *tm);
int dev_reload(struct thin_dev *td);
void dev_mark_rolled_back(struct thin_meta *tm, u64 seq);
void dev_sweep(struct thin_meta *tm);
struct thin_dev *dev_get_record(struct thin_meta *tm, u32 id);
int dev_mutate(struct thin_dev *td);
void dev_free_all(struct thin_meta *tm);

#endif
