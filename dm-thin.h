/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * What the two targets share: one pool, its volumes, and the three roads of a bio.
 *
 * Objects
 *   struct pool         one open pool; lives as long as a table of it or of its thins
 *   struct pool_target  one table of the pool device, live or inactive
 *   struct thin_vol     one device id that some table has open; tables of one id share it
 *   struct thin_target  one table of a thin, live or inactive
 *   struct thin_work    one virtual block that is being given a data block (road 2)
 *   struct thin_discard one discard in progress (road 3)
 *   struct thin_bio     per-bio data of a thin
 *
 * Locks, from outer to inner
 *   suspend lock of the pool's mapped device (device-mapper core)
 *   pools_lock           mutex: the list of pools, references on them
 *   pool->tts_lock       mutex: tables of thins, users of volumes
 *   vol->finish_lock     mutex: mapping what has ended
 *   pool->state_lock     mutex: mode, bound target, commit, abort
 *   the metadata's own lock, inside thin_meta_*() and thin_dev_*()
 *   pool->lock           spin, irqsave: list of volumes, queues of the pool
 *   vol->lock            spin, irqsave: queues, busy ranges and stash of a volume
 * The hooks of a thin run under its own suspend lock and take only spinlocks;
 * a thin's suspend lock is taken from here with no lock held but the pool's.
 * Status and message methods run as readers of their device's table, which a
 * suspend waits for, but not with tts_lock held.
 * No spinlock is held across a call out of these files.
 *
 * Epochs.  A bio that goes to a data block, and a copy that reads one, are
 * inside the SRCU domain of their volume from before the lookup until their
 * I/O has ended.  A data block that lost its last reference is handed out
 * again only after an epoch of every volume, begun after the loss was durable.
 *
 * Work items.  vol->work runs on pool->wq, what fills new blocks on pool->fill_wq,
 * commits on pool->commit_wq, waiting for epochs and passing discards down on
 * pool->reclaim_wq: no item waits for another one of its own queue.
 */
#ifndef DM_THIN_H
#define DM_THIN_H

#include <linux/bio.h>
#include <linux/blkdev.h>
#include <linux/completion.h>
#include <linux/device-mapper.h>
#include <linux/dm-kcopyd.h>
#include <linux/list.h>
#include <linux/llist.h>
#include <linux/mempool.h>
#include <linux/mutex.h>
#include <linux/percpu.h>
#include <linux/rbtree.h>
#include <linux/refcount.h>
#include <linux/spinlock.h>
#include <linux/wait.h>
#include <linux/workqueue.h>

#include "compat/crypt.h"
#include "compat/dm.h"
#include "compat/srcu.h"
#include "dm-thin-metadata.h"

#define DM_MSG_PREFIX "thin"

/* Mappings inserted under one hold of the metadata lock. */
#define THIN_INSERT_BATCH	64

/* Blocks of one volume that may be in road 2 at a time; the rest waits. */
#define THIN_MAX_WORKS		512

/* Data blocks of one run in a stash: the bits of a word. */
#define THIN_STASH_RUN		64
/* Runs in the stash of a volume. */
#define THIN_STASH_RUNS		4

/* How long writers wait for freed blocks before the pool counts as full. */
#define THIN_SPACE_WAIT		(5 * HZ)

/* Modes of a pool, in order of degradation (behaviour 6.1). */
enum pool_mode {
	PM_WRITE,
	PM_OUT_OF_DATA_SPACE,
	PM_OUT_OF_METADATA_SPACE,
	PM_READ_ONLY,
	PM_FAIL,
};

/* The optional words of a pool's table (behaviour 2.1). */
struct pool_features {
	bool zero_new_blocks;
	bool discard_enabled;
	bool discard_passdown;
	bool read_only;
	bool error_if_no_space;
};

/* What is counted per volume; the words that tell it are in dm-thin-stats.c. */
enum thin_counter {
	THIN_READ_HIT,		/* bios answered in map, from their data block */
	THIN_WRITE_HIT,
	THIN_READ_HOLE,		/* reads answered with zeroes or by the external origin */
	THIN_DEFERRED,		/* bios given to the worker */
	THIN_FIRST_WRITE,	/* blocks provisioned for a hole */
	THIN_COPY,		/* blocks provisioned for a shared one */
	THIN_OVERWRITE,		/* those of both that writes covered at once */
	THIN_TAKE_OVER,		/* blocks that were shared no more and not copied */
	THIN_FLUSH_PASSED,	/* flushes that needed no commit */
	THIN_FLUSH_COMMIT,	/* flushes and FUA writes that waited for one */
	THIN_UNMAPPED,		/* blocks given up by discards */
	THIN_NO_SPACE,		/* bios that had to wait for data space */
	NR_THIN_COUNTERS,
};

struct thin_copy;

struct thin_counters {
	u64 n[NR_THIN_COUNTERS];
};

/**
 * struct pool - one open pool
 * @list: in the global list while the metadata is open
 * @ref: tables of the pool and of its thins; pools_lock
 * @nr_targets: tables of the pool; with the last one the metadata is closed; pools_lock
 * @in_transit: being opened or closed, not to be shared; pools_lock
 * @md: the pool's mapped device
 * @meta_bdev: metadata device, held open by the tables
 * @data_bdev: data device, held open by the tables
 * @tm: the metadata; valid while @nr_targets is not 0
 * @block_sectors: data block size in sectors
 * @block_shift: log2 of it, or -1
 * @gone: the pool's last table went: everything fails; written under state_lock
 * @tts_lock: see above
 * @suspended: no thin tables may be made; tts_lock
 * @tts: tables of thins; tts_lock
 * @unpinned: woken when a table of @tts may go
 * @state_lock: see above
 * @mode: written under state_lock
 * @bound: the table in control, or NULL; state_lock
 * @features: those in force; written under state_lock
 * @low_water: data low-water mark in blocks; state_lock
 * @low_water_triggered: its event was raised since the last resume
 * @was_out_of_data: out of data space since last in write mode: waiters get ENOSPC
 * @data_limit: committed number of data blocks; no bio goes beyond
 * @target_blocks: data blocks that the bound table has room for, or 0
 * @no_space_timer: ends the patience of a full pool
 * @no_space_expires: when, in jiffies
 * @lock: see above
 * @vols: open volumes; lock
 * @wq: runs the volumes' workers
 * @work_mempool: struct thin_work
 * @discard_mempool: struct thin_discard
 * @fill_wq: fills new blocks
 * @copier: kcopyd's client
 * @fill_bios: for zeroes without it
 * @fill_sectors: taken by the buffers of copies in progress; a bound, not exact
 * @spare_copies: buffers for the next ones; taken and put back by exchange
 * @commit_wq: runs commits, the waker and the timer
 * @commit_work: commits what bios or others asked for
 * @waker: once a second while the pool is resumed
 * @commit_wanted: somebody asked for a commit
 * @commit_bios: bios that end when a commit has made their volume durable; lock
 * @nr_commit_bios: how many; written under lock
 * @nr_expected_bios: how many are worth waiting for; written under lock
 * @commit_bios_ns: time that the last took; @commit_work only
 * @gathered: woken when there are that many
 * @space_deadline: writers wait for freed blocks until then; 0: nobody waits; lock
 * @data_flushes: data-device flushes that commits have begun
 * @data_flushed: the last of them that has ended well, by its number
 * @flush_bio: the one of the commit in progress
 * @flush_done: completed when it has ended
 * @reclaim_wq: runs @reclaim_work
 * @reclaim_work: begins and ends rounds
 * @reclaim_wait: woken when there is nothing to reclaim
 * @freed_sets: waiting for a round; lock
 * @reclaiming: a round is in progress; written under lock
 * @passing_down: discards of the data device are in progress; written by @reclaim_work,
 *	under lock
 * @round_sets: of the round in progress
 * @round_vols: those asked for an epoch
 * @round_pending: those whose epoch has not passed
 * @closed_counters: of volumes that were closed; tts_lock
 * @commits: transactions made durable; metadata lock, as the next two
 * @commit_ns: time that took
 * @commit_ns_max: the longest one
 * @passed_down: data blocks discarded on the data device; written by @reclaim_work
 */
struct pool {
	struct list_head list;
	unsigned int ref;
	unsigned int nr_targets;
	bool in_transit;

	struct mapped_device *md;
	struct block_device *meta_bdev;
	struct block_device *data_bdev;
	struct thin_meta *tm;
	sector_t block_sectors;
	int block_shift;
	bool gone;

	struct mutex tts_lock;		/* tables of thins, users of volumes */
	bool suspended;
	struct list_head tts;
	wait_queue_head_t unpinned;

	struct mutex state_lock;	/* mode, bound table, commit, abort */
	enum pool_mode mode;
	struct pool_target *bound;
	struct pool_features features;
	u64 low_water;
	bool low_water_triggered;
	bool was_out_of_data;
	u64 data_limit;
	u64 target_blocks;
	struct delayed_work no_space_timer;
	unsigned long no_space_expires;

	spinlock_t lock;		/* vols and the queues below */
	struct list_head vols;

	struct workqueue_struct *wq;
	mempool_t work_mempool;
	mempool_t discard_mempool;

	/* dm-thin-fill.c */
	struct workqueue_struct *fill_wq;
	struct dm_kcopyd_client *copier;
	struct bio_set fill_bios;
	atomic_t fill_sectors;
	struct thin_copy *spare_copies[4];

	/* dm-thin-commit.c */
	struct workqueue_struct *commit_wq;
	struct work_struct commit_work;
	struct delayed_work waker;
	struct bio_list commit_bios;
	unsigned int nr_commit_bios;
	unsigned int nr_expected_bios;
	u64 commit_bios_ns;
	wait_queue_head_t gathered;
	bool commit_wanted;
	unsigned long space_deadline;
	u64 data_flushes;
	u64 data_flushed;
	struct bio flush_bio;
	struct completion flush_done;

	/* dm-thin-reclaim.c */
	struct workqueue_struct *reclaim_wq;
	struct work_struct reclaim_work;
	wait_queue_head_t reclaim_wait;
	struct list_head freed_sets;
	bool reclaiming;
	bool passing_down;
	struct list_head round_sets;
	struct list_head round_vols;
	atomic_t round_pending;

	/* dm-thin-stats.c */
	struct thin_counters closed_counters;
	u64 commits;
	u64 commit_ns;
	u64 commit_ns_max;
	u64 passed_down;
};

/**
 * struct pool_target - one table of the pool device
 * @ti: the core's side of it
 * @pool: the pool
 * @meta_dev: metadata device
 * @data_dev: data device
 * @low_water: low-water mark of the table line, in blocks
 * @requested: the features of the table line
 * @passdown: passing discards down is asked for and possible
 * @wanted: the mode a resume tries to enter; follows the pool's mode
 */
struct pool_target {
	struct dm_target *ti;
	struct pool *pool;
	struct dm_dev *meta_dev;
	struct dm_dev *data_dev;
	u64 low_water;
	struct pool_features requested;
	bool passdown;
	enum pool_mode wanted;
};

/**
 * struct thin_stash - a run of reserved data blocks that map may hand out
 * @begin: the first
 * @free: bit i: block @begin + i is in the stash; others may look whether there is any
 * @ahead: virtual block that would go well with @begin, as its neighbours have
 *	their places in the run
 * @whole: none has been taken
 */
struct thin_stash {
	u64 begin;
	u64 free;
	u64 ahead;
	bool whole;
};

/**
 * struct thin_vol - one device id that some table has open
 * @list: in pool->vols
 * @pool: the pool
 * @id: device id
 * @ref: users, and an epoch in progress
 * @users: tables; tts_lock
 * @td: the metadata's handle; NULL once closed, which waits for an epoch
 * @srcu: its readers are the bios and copies that use a data block
 * @counters: what it has done
 * @lock: see above
 * @deferred: bios for the worker; lock
 * @woken: bios for the worker that have waited for a range or a fence, the oldest; lock
 * @held: bios that wait for data space; lock
 * @fences: snapshots of the device that are being made; written under lock
 * @fenced: writes and discards that wait for them; lock
 * @parked: writes for which there was no room in road 2, and which came after them, the oldest
 *	first; worker only
 * @crowded: there are some: nobody overtakes them; lock
 * @works: virtual blocks in road 2, never overlapping; lock
 * @unmapped: ranges in road 3, never overlapping each other; no work begins in them; lock
 * @before_discards: in @unmapped, and the one that other discards wait for; or NULL; lock
 * @nr_works: how many are in @works; written under lock
 * @nr_busy: how many are in @works and @unmapped; written under lock
 * @stash: reserved data blocks; lock
 * @stash_low: more are wanted; a hint, who finds too few sets it again
 * @plugs: submitters that have not unplugged yet; written under lock
 * @finishers: who is going to finish what ends meanwhile, a submitter and the filler; lock
 * @idle: woken when nothing is busy
 * @done: works whose I/O has ended; lock
 * @fills: works whose block is to be filled; lock
 * @filler: fills them, on pool->fill_wq
 * @discards: discards that wait for no work in their ranges; they go on by turns; lock
 * @work: the worker
 * @lost_flushes: that have failed just now; written under lock
 * @lost_at: when the last of them did, in jiffies; lock
 * @rcu: for an epoch
 * @round_node: in pool->round_vols
 * @finish_lock: one finishes works at a time
 * @to_finish: who does looks again; any context, ordered against the lock by the
 *	barriers of thin_provision_finish()
 * @ins: a batch of insertions; finish_lock
 */
struct thin_vol {
	struct list_head list;
	struct pool *pool;
	u32 id;
	refcount_t ref;
	unsigned int users;
	struct thin_dev *td;
	struct srcu_struct srcu;
	struct thin_counters __percpu *counters;

	spinlock_t lock;		/* queues, busy ranges, stash */
	struct bio_list deferred;
	struct bio_list woken;
	struct bio_list held;
	unsigned int fences;
	struct bio_list fenced;
	struct bio_list parked;
	bool crowded;
	struct rb_root works;
	struct rb_root unmapped;
	struct thin_busy *before_discards;
	unsigned int nr_works;
	unsigned int nr_busy;
	struct thin_stash stash[THIN_STASH_RUNS];
	bool stash_low;
	unsigned int plugs;
	struct task_struct *finishers[2];
	wait_queue_head_t idle;
	struct list_head done;
	struct list_head fills;
	struct work_struct filler;
	struct list_head discards;
	struct work_struct work;
	unsigned int lost_flushes;
	unsigned long lost_at;

	struct rcu_head rcu;
	struct list_head round_node;

	struct mutex finish_lock;
	bool to_finish;
	struct thin_insert ins[THIN_INSERT_BATCH];
};

/**
 * struct thin_target - one table of a thin
 * @ti: the core's side of it
 * @pool: the pool
 * @vol: the volume
 * @node: in pool->tts; tts_lock
 * @md: mapped device that the table is of
 * @holds_suspend: the internal suspension of the mapped device is on this
 *	table's account; tts_lock
 * @pinned: that is being done, so the table must stay; tts_lock
 * @pool_dev: the pool's device
 * @origin_dev: external origin, or NULL
 * @origin_len: its size in sectors
 * @requeue: a noflush suspend is going on; written under vol->lock
 */
struct thin_target {
	struct dm_target *ti;
	struct pool *pool;
	struct thin_vol *vol;
	struct list_head node;
	struct mapped_device *md;
	bool holds_suspend;
	bool pinned;
	struct dm_dev *pool_dev;
	struct dm_dev *origin_dev;
	sector_t origin_len;
	bool requeue;
};

/**
 * struct thin_busy - a range of virtual blocks that belongs to one work or discard
 * @node: in vol->works or vol->unmapped
 * @begin: first block
 * @end: one past the last
 * @waiters: bios that start again, or go on, when the range is released; vol->lock
 * @open: a work that takes further writes (thin_work_join()); set with release when
 *	all of the work is known, cleared under vol->lock
 */
struct thin_busy {
	struct rb_node node;
	u64 begin;
	u64 end;
	struct bio_list waiters;
	bool open;
};

/**
 * struct thin_work - a virtual block on road 2
 * @busy: the block, and the bios that are issued when it is mapped
 * @list: in the worker's list, then in vol->fills, then in vol->done
 * @vol: the volume
 * @tt: target of the first bio (its external origin is copied from)
 * @block: reserved data block, valid when @reserved
 * @reserved: the reservation is this work's
 * @expect: what the virtual block is mapped to now, or THIN_EXPECT_HOLE
 * @epoch: reader held while the old block is copied, or COMPAT_NO_EPOCH
 * @bios: writes that are issued to the new block itself, not yet started
 * @from: first sector in the block that they write; under vol->lock while @to_fill
 * @to: one past the last; they leave no gap; likewise
 * @ended: those of them that have ended
 * @pending: I/Os in flight, and one for who starts them
 * @urgency: their flags that say how urgent they are
 * @ioprio: their priority
 * @zero_again: writes zeroes, as the data device cannot zero by itself
 * @joined: writes that came when it was under way; vol->lock
 * @filled: where no bio writes it is filled, so where one writes it must have written
 * @to_fill: what @from and @to leave of the block is going to be filled; vol->lock
 * @failed: one of them has failed; set in any context, read when nothing is pending
 * @fill_failed: a zeroing or copying has; likewise
 */
struct thin_work {
	struct thin_busy busy;
	struct list_head list;
	struct thin_vol *vol;
	struct thin_target *tt;
	u64 block;
	bool reserved;
	u64 expect;
	compat_epoch_t epoch;
	struct bio_list bios;
	sector_t from;
	sector_t to;
	struct llist_head ended;
	atomic_t pending;
	blk_opf_t urgency;
	unsigned short ioprio;
	struct work_struct zero_again;
	unsigned int joined;
	bool filled;
	bool to_fill;
	bool failed;
	bool fill_failed;
};

/**
 * struct thin_discard - a discard on road 3
 * @busy: its whole blocks
 * @list: in vol->discards, unless works are under way in the range; vol->lock
 * @bio: the discard
 * @next: first block that is not unmapped yet
 */
struct thin_discard {
	struct thin_busy busy;
	struct list_head list;
	struct bio *bio;
	u64 next;
};

/**
 * struct thin_bio - per-bio data of a thin; what all bios use comes last, next to the core's
 * @node: for sorting in the worker
 * @ended: in its work, when it has ended
 * @status: how that was
 * @iter: what a write to a new block was when it came
 * @keyed: it came with a key for inline encryption
 * @dun: the number of its first data unit then
 * @tt: the table it came through
 * @work: the work whose new block this bio writes to
 * @epoch: reader in the volume's domain, or COMPAT_NO_EPOCH
 * @durable: when its write has ended, the bio waits for a commit
 * @flush: it is a flush
 * @unmaps: it gives up whole blocks: a discard, or zeroes where holes read so
 */
struct thin_bio {
	union {
		struct rb_node node;
		struct {
			struct llist_node ended;
			blk_status_t status;
			struct bvec_iter iter;
			bool keyed;
			struct compat_dun dun;
		};
	};
	struct thin_target *tt;
	struct thin_work *work;
	compat_epoch_t epoch;
	bool durable;
	bool flush;
	bool unmaps;
};

/* ---- small things ---- */

static inline struct thin_bio *thin_bio(struct bio *bio)
{
	return dm_per_bio_data(bio, sizeof(struct thin_bio));
}

static inline struct bio *thin_bio_owner(struct thin_bio *tb)
{
	return dm_bio_from_per_bio_data(tb, sizeof(*tb));
}

static inline enum pool_mode pool_mode(const struct pool *pool)
{
	return READ_ONCE(pool->mode);
}

/* Virtual or data block of a sector, rounded down. */
static inline u64 pool_block(const struct pool *pool, sector_t sector)
{
	return pool->block_shift >= 0 ? sector >> pool->block_shift :
					div64_u64(sector, pool->block_sectors);
}

static inline sector_t pool_block_sector(const struct pool *pool, u64 block)
{
	return pool->block_shift >= 0 ? block << pool->block_shift : block * pool->block_sectors;
}

/* Sectors from the beginning of the block that a sector lies in. */
static inline sector_t pool_block_offset(const struct pool *pool, sector_t sector)
{
	return pool->block_shift >= 0 ? sector & (pool->block_sectors - 1) :
					sector - pool_block_sector(pool, pool_block(pool, sector));
}

/* Point a bio, its sector relative to the target, at a data block. */
static inline void pool_point_bio(struct pool *pool, struct bio *bio, u64 block)
{
	sector_t offset = pool_block_offset(pool, bio->bi_iter.bi_sector);

	bio_set_dev(bio, pool->data_bdev);
	bio->bi_iter.bi_sector = pool_block_sector(pool, block) + offset;
}

/*
 * Does a bio of this table go back to the core?  The core takes it only as
 * long as it knows of the noflush suspend, which may be interrupted.
 */
static inline bool thin_requeues(struct thin_target *tt)
{
	return READ_ONCE(tt->requeue) && dm_noflush_suspending(tt->ti);
}

static inline void thin_count_many(struct thin_vol *vol, enum thin_counter counter, u64 nr)
{
	this_cpu_add(vol->counters->n[counter], nr);
}

static inline void thin_count(struct thin_vol *vol, enum thin_counter counter)
{
	thin_count_many(vol, counter, 1);
}

static inline void thin_end_bio(struct bio *bio, blk_status_t status)
{
	bio->bi_status = status;
	bio_endio(bio);
}

static inline void thin_epoch_enter(struct thin_vol *vol, struct thin_bio *tb)
{
	tb->epoch = compat_epoch_enter(&vol->srcu);
}

/*
 * For a write to the block that a lookup is going to name.  False while the
 * device is being snapshotted: the bio has to wait at the fence.
 */
static inline bool thin_epoch_enter_write(struct thin_vol *vol, struct thin_bio *tb)
{
	thin_epoch_enter(vol, tb);
	/* Before the time of the last snapshot; pairs with thin_vol_unfence(). */
	if (likely(!smp_load_acquire(&vol->fences)))
		return true;
	compat_epoch_leave(&vol->srcu, tb->epoch);
	tb->epoch = COMPAT_NO_EPOCH;
	return false;
}

static inline void thin_epoch_leave(struct thin_vol *vol, struct thin_bio *tb)
{
	if (tb->epoch != COMPAT_NO_EPOCH) {
		compat_epoch_leave(&vol->srcu, tb->epoch);
		tb->epoch = COMPAT_NO_EPOCH;
	}
}

/* ---- dm-thin.c ---- */

extern struct target_type thin_target_type;

/* ---- dm-thin-vol.c ---- */

struct thin_vol *thin_vol_get(struct pool *pool, u32 id);
void thin_vol_put(struct thin_vol *vol);
void thin_vol_close(struct thin_vol *vol);
void thin_vol_unref(struct thin_vol *vol);
void thin_vol_defer(struct thin_vol *vol, struct bio *bio);
void thin_vol_defer_list(struct thin_vol *vol, struct bio_list *bios);
void thin_vol_hold(struct thin_vol *vol, struct bio *bio);
void thin_vol_hold_fenced(struct thin_vol *vol, struct bio *bio);
struct thin_vol *thin_vol_fence(struct pool *pool, u32 id);
void thin_vol_unfence(struct thin_vol *vol);
void thin_vol_requeue_held(struct thin_target *tt);
void thin_vol_end_list(struct bio_list *bios, blk_status_t status);
void thin_vol_kick(struct thin_vol *vol);
void thin_vol_wait_idle(struct thin_vol *vol);

struct thin_busy *thin_busy_find(struct thin_vol *vol, u64 begin, u64 end);
void thin_busy_add(struct thin_vol *vol, struct thin_busy *busy, u64 begin, u64 end);
bool thin_busy_claim(struct thin_vol *vol, struct thin_busy *busy, u64 begin, u64 end,
		     struct bio *bio);
void thin_busy_release(struct thin_vol *vol, struct thin_busy *busy, struct bio_list *waiters);
bool thin_busy_claim_discard(struct thin_vol *vol, struct thin_discard *d, u64 begin, u64 end);
void thin_busy_release_discard(struct thin_vol *vol, struct thin_discard *d,
			       struct bio_list *waiters);
struct bio *thin_busy_next_waiter(struct thin_vol *vol, struct thin_busy *busy);

/* ---- dm-thin-map.c ---- */

int thin_map_bio(struct thin_target *tt, struct bio *bio);
void thin_flush_failed(struct thin_vol *vol);
int thin_map_deferred(struct thin_vol *vol, struct bio *bio, struct list_head *works);
bool thin_map_again(struct thin_vol *vol, struct bio *bio, u64 block);

/* ---- dm-thin-provision.c ---- */

struct thin_work *thin_work_create(struct bio *bio);
void thin_work_free(struct thin_work *work);
void thin_work_drop(struct thin_work *work);
void thin_work_take(struct thin_work *work, struct bio *bio);
bool thin_work_join(struct thin_busy *busy, struct bio *bio);
void thin_work_start(struct thin_work *work);
void thin_work_put(struct thin_work *work);
void thin_work_replace(struct thin_work *work, struct bio *bio, u64 expect);
void thin_provision_add(struct thin_work *work, struct bio *bio, u64 expect,
			struct list_head *works);
void thin_provision_start(struct thin_vol *vol, struct list_head *works);
void thin_provision_finish(struct thin_vol *vol, bool may_commit);
void thin_provision_fill_done(struct thin_work *work, bool failed);
bool thin_provision_join(struct bio *bio, u64 vblock, struct list_head *works);
void thin_provision_bio_done(struct bio *bio, blk_status_t status);
int thin_provision_init(struct pool *pool);
void thin_provision_exit(struct pool *pool);

/* ---- dm-thin-front.c ---- */

int thin_front_write(struct thin_target *tt, struct bio *bio, u64 vblock, u64 expect);
bool thin_is_finisher(struct thin_vol *vol);
void thin_front_filler(struct work_struct *ws);
void thin_stash_fill(struct thin_vol *vol);
bool thin_stash_take(struct thin_vol *vol, u64 vblock, u64 *block);
bool thin_stash_return(struct thin_vol *vol);
bool thin_stash_return_all(struct pool *pool);

/* ---- dm-thin-fill.c ---- */

void thin_fill_zero_again(struct work_struct *ws);
void thin_fill_some(struct thin_vol *vol, unsigned int most);
void thin_fill(struct thin_work *work);
int thin_fill_init(struct pool *pool);
void thin_fill_exit(struct pool *pool);

/* ---- dm-thin-discard.c ---- */

int thin_discard_map(struct thin_target *tt, struct bio *bio);
bool thin_whole_blocks(struct pool *pool, struct bio *bio, u64 *begin, u64 *end);
int thin_discard_begin(struct thin_vol *vol, struct bio *bio);
bool thin_discard_step(struct thin_vol *vol);
int thin_discard_init(struct pool *pool);
void thin_discard_exit(struct pool *pool);

/* ---- dm-thin-reclaim.c ---- */

int thin_reclaim_init(struct pool *pool);
void thin_reclaim_exit(struct pool *pool);
void thin_reclaim_freed(struct pool *pool, struct thin_freed *set);
void thin_reclaim_wait(struct pool *pool);

/* ---- dm-thin-commit.c ---- */

extern const struct thin_meta_ops pool_meta_ops;

int pool_commit(struct pool *pool);
int pool_commit_locked(struct pool *pool);
void pool_commit_request(struct pool *pool);
void pool_commit_bio(struct pool *pool, struct bio *bio);
void pool_after_change(struct pool *pool);
bool thin_is_durable(struct thin_vol *vol);
int pool_commit_init(struct pool *pool);
void pool_commit_exit(struct pool *pool);
void pool_waker_start(struct pool *pool);
void pool_waker_stop(struct pool *pool);

/* ---- dm-thin-stats.c ---- */

void thin_stats_close(struct thin_vol *vol);
void thin_stats_emit(struct pool *pool, char *result, unsigned int maxlen);

/* ---- dm-thin-mode.c ---- */

void pool_event(struct pool *pool);
void pool_set_mode(struct pool *pool, enum pool_mode mode);
void pool_metadata_failed(struct pool *pool, const char *op, int error);
void pool_metadata_failed_locked(struct pool *pool, const char *op, int error);
void pool_check_space_locked(struct pool *pool);
void pool_check_data_low_water(struct pool *pool, u64 want);
void pool_no_data_space(struct pool *pool);
void pool_space_found(struct pool *pool);
bool pool_has_found_space(struct pool *pool);
void pool_recheck_held(struct pool *pool, bool retry);
blk_status_t pool_error_status(struct pool *pool);
void pool_bind(struct pool *pool, struct pool_target *pt);
void pool_unbind(struct pool *pool, struct pool_target *pt);
void pool_mode_init(struct pool *pool);

/* ---- dm-thin-pool-object.c ---- */

struct pool *pool_find_by_md(struct mapped_device *md);
struct pool *pool_get(struct pool_target *pt, struct block_device *meta_bdev,
		      struct block_device *data_bdev, sector_t block_sectors, char **error);
void pool_put_target(struct pool *pool, struct pool_target *pt);
void pool_put(struct pool *pool);
void pool_suspend_thins(struct pool *pool);
void pool_resume_thins(struct pool *pool);
void pool_wait_thins(struct pool *pool);
void pool_add_thin(struct thin_target *tt);
void pool_remove_thin(struct thin_target *tt);

/* ---- dm-thin-pool-target.c ---- */

extern struct target_type pool_target_type;

/* ---- dm-thin-pool-msg.c ---- */

int pool_message(struct dm_target *ti, unsigned int argc, char **argv, char *result,
		 unsigned int maxlen);
void pool_status(struct dm_target *ti, status_type_t type, unsigned int status_flags, char *result,
		 unsigned int maxlen);

#endif
