// SPDX-License-Identifier: GPL-2.0-only
/*
 * Committing a pool's metadata.
 *
 * A commit freezes the open transaction, which opens the next one, writes all but block 0
 * and flushes it, then writes block 0 and flushes again; the data device is flushed
 * meanwhile, and before block 0 (format 9).  Changes go on during that I/O.  If it
 * fails both transactions are rolled back.
 *
 * One commits at a time.  Lock order: commit_lock, change_lock, lock.
 */
#include "dm-thin-metadata-internal.h"

#include <linux/completion.h>
#include <linux/ktime.h>
#include <linux/slab.h>

/* A transaction of more shadowed blocks than this asks for a commit: 16 MiB. */
#define MAX_SHADOWS		4096

struct thin_freed {
	u64 seq;
	struct sm_notes *notes;
};

static void pack_superblock(struct thin_meta *tm)
{
	struct disk_superblock *sb = &tm->new_sb;

	*sb = tm->sb;
	sb->time = cpu_to_le32(tm->time);
	sb->trans_id = cpu_to_le64(tm->trans_id);
	sb->held_root = cpu_to_le64(tm->held_root);
	sb->data_mapping_root = cpu_to_le64(tm->top_root);
	sb->device_details_root = cpu_to_le64(tm->details_root);
	sm_pack_root(&tm->data_sm, sb->data_space_map_root);
	sm_pack_root(&tm->meta_sm, sb->metadata_space_map_root);
}

/* Fix what the transaction is and find a place for all of it. */
static int lay_out(struct thin_meta *tm)
{
	int r;

	r = dev_write_changed(tm);
	if (!r)
		r = sm_layout(&tm->data_sm);
	if (!r)
		r = sm_layout(&tm->meta_sm);
	if (r)
		return r;
	pack_superblock(tm);
	r = sm_write(&tm->data_sm);
	if (!r)
		r = sm_write(&tm->meta_sm);
	return r;
}

static void release(struct thin_meta *tm, struct thin_freed *set)
{
	sm_release(&tm->data_sm, set->notes);
	tm->quiet_seq = set->seq;
	kfree(set);
}

/* Give a freed set to who knows of the bios, unless no reference was lost at all. */
static void hand_over(struct thin_meta *tm, struct thin_freed *set)
{
	if (!set->notes && max(tm->data_sm.loss_seq, tm->tm.hidden_loss_seq) < set->seq)
		kfree(set);
	else if (tm->ops && tm->ops->freed && !tm->closing)
		tm->ops->freed(tm->context, set);
	else
		release(tm, set);
}

/**
 * meta_settle() - the transaction in flight is durable
 * @tm: the pool, its lock held for writing
 */
void meta_settle(struct thin_meta *tm)
{
	struct thin_freed *set = tm->in_flight;

	tm->in_flight = NULL;
	tm->sb = tm->new_sb;
	WRITE_ONCE(tm->held_told, le64_to_cpu(tm->sb.held_root));
	tm->sb_sent = false;
	sm_settle(&tm->meta_sm);
	set->seq = tm->in_flight_seq;
	set->notes = sm_settle(&tm->data_sm);
	tm_drop_frozen(&tm->tm);
	hand_over(tm, set);
	WRITE_ONCE(tm->durable_seq, tm->in_flight_seq);
	dev_sweep(tm);
}

/* The time since the last call for @now. */
static u64 lap(u64 *now)
{
	u64 before = *now;

	*now = ktime_get_ns();
	return *now - before;
}

static bool has_data_flush(struct thin_meta *tm)
{
	return tm->ops && tm->ops->data_flush_begin;
}

/*
 * The open transaction becomes the one in flight, and the next one is open.  After an
 * error all has been rolled back.
 */
static int freeze(struct thin_meta *tm)
{
	struct thin_freed *freed = kzalloc(sizeof(*freed), GFP_NOIO);
	int r;

	tm->sb_sent = false;
	down_write(&tm->lock);
	if (has_data_flush(tm))
		tm->ops->data_flush_begin(tm->context);
	r = freed ? lay_out(tm) : -ENOMEM;
	if (r) {
		meta_roll_back(tm);
		kfree(freed);
	} else {
		tm_freeze(&tm->tm);
		sm_freeze(&tm->data_sm);
		sm_freeze(&tm->meta_sm);
		tm->in_flight = freed;
		tm->in_flight_seq = tm->open_seq;
		reinit_completion(&tm->io_done);
		WRITE_ONCE(tm->changed, false);
		meta_next_seq(tm);
	}
	up_write(&tm->lock);
	return r;
}

/* Once for every freeze(), whose outcome is @error. */
static int write_frozen(struct thin_meta *tm, int error, struct thin_meta_times *times, u64 *now)
{
	int r = error, flush_error = 0;

	if (!r)
		r = tm_write_frozen(&tm->tm);
	if (!r)
		r = bm_flush(&tm->bm);
	times->metadata_ns = lap(now);
	if (has_data_flush(tm))
		flush_error = tm->ops->data_flush_wait(tm->context);
	times->data_ns = lap(now);
	if (!r)
		r = flush_error;
	if (!r) {
		tm->sb_sent = true;
		r = meta_write_superblock(tm, &tm->new_sb);
	}
	times->superblock_ns = lap(now);

	if (!error) {
		tm->io_error = r;
		complete_all(&tm->io_done);
	}
	return r;
}

/* The I/O has ended; perhaps somebody who failed has drawn the outcome already. */
static void draw_outcome(struct thin_meta *tm)
{
	down_write(&tm->lock);
	if (tm->in_flight && tm->io_error)
		meta_roll_back(tm);
	else if (tm->in_flight)
		meta_settle(tm);
	up_write(&tm->lock);
	meta_count_space(tm);
}

/* With commit_lock and change_lock held; @let_go: the latter not during the I/O. */
static int commit(struct thin_meta *tm, bool let_go)
{
	struct thin_meta_times times = { .seq = tm->open_seq };
	u64 now = 0;
	int r;

	if (!tm->changed)
		return 0;

	lap(&now);
	r = freeze(tm);
	times.freeze_ns = lap(&now);

	if (let_go)
		meta_end_change(tm, 0);
	r = write_frozen(tm, r, &times, &now);
	if (let_go)
		mutex_lock(&tm->change_lock);

	draw_outcome(tm);
	if (!r && tm->ops && tm->ops->committed)
		tm->ops->committed(tm->context, &times);
	return r;
}

/**
 * meta_commit_locked() - commit, and let nobody change anything meanwhile
 * @tm: the pool, its commit_lock and change_lock held
 *
 * Return: 0, or a negative errno: all has been rolled back then.
 */
int meta_commit_locked(struct thin_meta *tm)
{
	return commit(tm, false);
}

/**
 * thin_meta_commit() - make the open transaction durable (format 9)
 * @tm: the pool
 *
 * Does nothing, and does not flush the data device, when nothing was changed; a
 * commit that is under way is waited for all the same.  Lookups go on meanwhile, and
 * changes, which belong to the next transaction.
 *
 * Return: 0; -EPERM while read-only with changes pending; -EIO after an
 * earlier rollback; otherwise a negative errno: all has been rolled back.
 */
int thin_meta_commit(struct thin_meta *tm)
{
	int r;

	mutex_lock(&tm->commit_lock);
	r = meta_begin_freeing(tm);
	if (!r) {
		r = commit(tm, true);
		meta_end_change(tm, 0);
	} else if (r == -EPERM && !thin_meta_changed(tm)) {
		r = 0;
	}
	mutex_unlock(&tm->commit_lock);
	return r;
}

/**
 * thin_meta_commit_alone() - commit, and tell what space there is behind it
 * @tm: the pool
 * @space: filled in
 *
 * No change comes in between, so nothing that an open transaction holds, or has freed
 * but not made durable, is missing in the numbers.
 *
 * Return: as thin_meta_commit().
 */
int thin_meta_commit_alone(struct thin_meta *tm, struct thin_meta_space *space)
{
	int r;

	mutex_lock(&tm->commit_lock);
	r = meta_begin_freeing(tm);
	if (!r) {
		r = meta_commit_locked(tm);
		if (!r)
			r = thin_meta_get_space(tm, space);
		meta_end_change(tm, 0);
	}
	mutex_unlock(&tm->commit_lock);
	return r;
}

/**
 * thin_meta_commit_last() - commit, and serve only what frees from then on
 * @tm: the pool
 *
 * No change comes between the two.
 *
 * Return: as thin_meta_commit(); other changes are refused in any case.
 */
int thin_meta_commit_last(struct thin_meta *tm)
{
	int r;

	mutex_lock(&tm->commit_lock);
	r = meta_begin_change(tm);
	if (!r) {
		r = meta_commit_locked(tm);
		tm->access = THIN_META_FREEING;
		meta_end_change(tm, 0);
	} else if (r == -EPERM) {
		r = 0;
	}
	mutex_unlock(&tm->commit_lock);
	return r;
}

/**
 * thin_meta_abort() - make sure that the open transaction is rolled back
 * @tm: the pool
 *
 * Failed changes and commits have rolled back already; this tells the outcome.
 * Changes are refused from then on, until the pool is closed and opened again.
 *
 * Return: 0, or -EIO: the metadata has failed for good.
 */
int thin_meta_abort(struct thin_meta *tm)
{
	int r;

	mutex_lock(&tm->change_lock);
	if (!tm->failed && !tm->aborted) {
		down_write(&tm->lock);
		meta_roll_back(tm);
		up_write(&tm->lock);
		meta_count_space(tm);
	}
	r = tm->failed ? -EIO : 0;
	mutex_unlock(&tm->change_lock);
	return r;
}

/**
 * thin_meta_release_freed() - these data blocks may be handed out again
 * @tm: the pool
 * @set: of &thin_meta_ops.freed; gone afterwards
 */
void thin_meta_release_freed(struct thin_meta *tm, struct thin_freed *set)
{
	mutex_lock(&tm->change_lock);
	release(tm, set);
	meta_end_change(tm, 0);
}

/**
 * thin_freed_walk() - walk over a freed set
 * @set: not yet released
 * @fn: called with each run, in no order; may sleep
 * @arg: for @fn
 *
 * Takes no lock.
 */
void thin_freed_walk(const struct thin_freed *set, thin_freed_fn fn, void *arg)
{
	sm_walk_freed(set->notes, fn, arg);
}

/**
 * thin_meta_wants_commit() - has the open transaction become large
 * @tm: the pool
 *
 * Takes no lock.
 *
 * Return: true when a commit should not wait for its time.
 */
bool thin_meta_wants_commit(struct thin_meta *tm)
{
	/* Overflow leaves are in memory during the layout only. */
	return READ_ONCE(tm->tm.nr_shadows) + READ_ONCE(tm->data_sm.nr_dirty) +
	       sm_layout_cost(&tm->data_sm) / 4 > MAX_SHADOWS;
}

/**
 * thin_meta_changed() - is there anything to commit
 * @tm: the pool
 *
 * Takes no lock.
 *
 * Return: true when the open transaction has changes.
 */
bool thin_meta_changed(struct thin_meta *tm)
{
	return READ_ONCE(tm->changed);
}

/**
 * thin_meta_is_changing() - would a change have to wait for another
 * @tm: the pool
 *
 * Takes no lock.
 *
 * Return: the answer of a moment.
 */
bool thin_meta_is_changing(struct thin_meta *tm)
{
	return mutex_is_locked(&tm->change_lock);
}

/**
 * thin_meta_open_seq() - number of the open transaction
 * @tm: the pool
 *
 * Takes no lock.
 *
 * Return: the number, from 1 when the pool was opened.
 */
u64 thin_meta_open_seq(struct thin_meta *tm)
{
	return READ_ONCE(tm->open_seq);
}

/**
 * thin_meta_durable_seq() - number of the last durable transaction
 * @tm: the pool
 *
 * Takes no lock.
 *
 * Return: the number, 0 when none was committed since the pool was opened.
 */
u64 thin_meta_durable_seq(struct thin_meta *tm)
{
	return READ_ONCE(tm->durable_seq);
}
