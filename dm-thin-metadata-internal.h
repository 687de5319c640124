/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * What the files of the metadata layer share; nobody else includes it.
 *
 * Lock order: commit_mutex, then lock, then dm-bufio's own.
 *
 * @lock for writing guards everything; for reading it keeps trees, devices and
 * the superblock still.  A commit freezes the transaction under the write
 * lock and downgrades it while the device works: lookups go on, changes wait.
 * So the end of a commit (space maps settled, sequence numbers moved) happens
 * under the read lock, with commit_mutex saying whose it is: no writer can be
 * there, and readers use only what is written with WRITE_ONCE.
 */
#ifndef DM_THIN_METADATA_INTERNAL_H
#define DM_THIN_METADATA_INTERNAL_H

#include <linux/mutex.h>
#include <linux/rwsem.h>
#include <linux/xarray.h>

#include "dm-thin-metadata.h"
#include "persistent-data/block-manager.h"
#include "persistent-data/btree.h"
#include "persistent-data/space-map.h"
#include "persistent-data/transaction-manager.h"

/* Leaves removed in one hold of the lock. */
#define REMOVE_STEP_LEAVES	32

/**
 * struct thin_meta - one pool's metadata
 * @commit_mutex: one commit at a time
 * @lock: see above
 * @bdev: the metadata device
 * @ops: the owner's
 * @context: for @ops
 * @bm: blocks of the device
 * @tm: blocks of the open transaction
 * @meta_sm: counts metadata blocks
 * @data_sm: counts data blocks
 * @sb: the superblock as it is on disk
 * @new_sb: the one being written by a commit, compared with after a failure
 * @data_block_size: sectors
 * @time: snapshot clock
 * @trans_id: the user's transaction id
 * @held_root: block of the metadata snapshot, 0 for none
 * @top_root: root of the tree of devices' roots
 * @details_root: root of the tree of devices' details
 * @top: kind of the top-level tree
 * @mapping: kind of a device's tree
 * @details: kind of the details tree
 * @devs: open devices, those with a mark to keep, and those being deleted, by id
 * @open_seq: number of the open transaction
 * @durable_seq: number of the last durable one
 * @changed: the open transaction has changes
 * @needs_abort: a commit has failed
 * @read_only: changes are refused
 * @failed: an abort has failed, nothing works any more
 * @low_armed: the next crossing of the low water mark is to be told
 * @space: numbers as of the end of the last change
 */
struct thin_meta {
	struct mutex commit_mutex;	/* one commit at a time */
	struct rw_semaphore lock;
	struct block_device *bdev;
	const struct thin_meta_ops *ops;
	void *context;

	struct pd_bm bm;
	struct pd_tm tm;
	struct pd_sm meta_sm;
	struct pd_sm data_sm;

	struct disk_superblock sb;
	struct disk_superblock new_sb;
	sector_t data_block_size;
	u32 time;
	u64 trans_id;
	u64 held_root;
	u64 top_root;
	u64 details_root;

	struct bt_info top;
	struct bt_info mapping;
	struct bt_info details;

	struct xarray devs;
	u64 open_seq;
	u64 durable_seq;
	bool changed;
	bool needs_abort;
	bool read_only;
	bool failed;
	int low_armed;
	struct thin_meta_space space;
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
 * @deleting: a delete is under way
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
	bool deleting;
	u64 mapped_blocks;
	u64 transaction_id;
	u32 creation_time;
	u32 snapshotted_time;
};

/* dm-thin-metadata.c */
int meta_begin_change(struct thin_meta *tm);
void meta_end_change(struct thin_meta *tm);
int meta_begin_read(struct thin_meta *tm, bool may_block);
int meta_commit_locked(struct thin_meta *tm, bool downgrade, struct thin_freed **set);
void meta_hand_over(struct thin_meta *tm, struct thin_freed *set);

/* dm-thin-metadata-space.c */
void meta_count_space(struct thin_meta *tm);

/* dm-thin-metadata-dev.c */
void dev_init_trees(struct thin_meta *tm);
int dev_write_changed(struct thin_meta *tm);
void dev_reload_all(struct thin_meta *tm, bool rolled_back);
int dev_own_path(struct thin_dev *td);
void dev_note_change(struct thin_dev *td);
void dev_free_all(struct thin_meta *tm);

#endif
