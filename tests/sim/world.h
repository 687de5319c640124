/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * One history: a disk, the layer on top of it, the model beside it.
 *
 * Every op_*() calls the layer, changes the model the same way and compares
 * the answers.  Behind each of them settle() looks whether the superblock was
 * written; if so the image is checked whole, and the durable model moves on.
 */
#ifndef SIM_WORLD_H
#define SIM_WORLD_H

#include "../../dm-thin-metadata.h"
#include "disk.h"
#include "model.h"

#define MAX_HANDLES 12
#define MAX_SETS 1024
#define DATA_BLOCK_SECTORS 128

struct handle {
	u32 id;
	struct thin_dev *td;
	/* in the open transaction; in the frozen one */
	bool changed, frozen;
};

/* What is known of a data block that lost its last reference. */
enum { DROPPED = 1, DROPPED_TO_PASS_DOWN };

struct freed_set {
	struct thin_freed *set;
	u64 commit_nr;
	u64 *blocks;
	size_t nr;
};

struct data_block {
	u64 write;
	u32 id;
	u64 v;
};

struct options {
	long ops_per_seed;
	unsigned int cut_percent;	/* commits whose every cut is tried */
	unsigned int tool_percent;	/* commits that the external tools judge */
	unsigned int oracle_percent;
	unsigned int fault_percent;	/* operations in which something is made to fail */
	const char *dir;		/* for images given to tools */
	bool verbose;
};
extern struct options opt;

struct stats {
	u64 ops, commits, cuts, cut_images, cut_opens, aborts, nospace, inserts, removed, snaps, stale, holds;
	u64 oracle, tool_commits, reopens, resizes, again, full, faults, partial, takeovers;
	u64 flights, flights_lost, beside;
};
extern struct stats stats;

struct world {
	struct rng rng;
	struct rng cut_rng;
	struct rng fault_rng;
	bool armed;
	unsigned long faults_seen, faults_before;
	long fail_data_flush_in;
	struct disk *disk;
	struct block_device bdev;
	struct thin_meta *tm;
	struct thin_meta_ops ops;
	struct state *open, *durable;
	struct handle handles[MAX_HANDLES];
	u32 *reserved;
	u64 nr_reserved;
	u8 *is_reserved;
	u16 *quarantined;
	u8 *dropped;
	/* commits seen; the last one before which more than one user of a block was durable */
	u64 commit_nr;
	u64 *shared_nr;
	u64 cap_data;
	struct data_block *data;
	u64 nr_data_writes;
	struct freed_set sets[MAX_SETS];
	size_t nr_sets;
	size_t nr_new_sets;
	u64 supers_seen;
	int flush_begun, flush_waited;
	bool formatted;
	/* little metadata space: ENOSPC is expected */
	bool tight;
	/* looks at free metadata before it allocates, as the targets do */
	bool polite;
	u64 durable_seq;
	u64 openings;
	/* a commit is under way in the other thread; it has failed, which the history does not know yet */
	bool flying, lost;
	struct state *frozen;
	u8 *frozen_dropped;
	u64 frozen_seq;
	/* CRC of block 0 before it */
	u32 frozen_super;
	unsigned long faults_flying;
	u64 durable_mblocks;
	/* where the last change was */
	u64 last_v;
	/* where the next block of a sequential writer would be */
	u32 writer;
	u64 writer_v;
	u64 max_vblock;
	/* what others do while a delete or a release lets them, and that it looks first what these have committed */
	void (*between)(struct world *w);
	void (*sync)(struct world *w);
	u32 deleted;
};

extern struct world *world_now;
extern u64 world_op, seed_now;
extern const char *world_what;
/* A story of its own, by its option, for the message of a failure. */
extern const char *scene_now;

void world_init(struct world *w, u64 seed, u64 meta_blocks, u64 data_blocks);
void world_exit(struct world *w);
/* For a story of its own: an empty device 0 in a pool of this size; at last all is looked at. */
void scene_begin(struct world *w, u64 seed, u64 meta_blocks, u64 data_blocks);
void scene_end(struct world *w);
void settle(struct world *w, const char *what);
void became_durable(struct world *w, const char *what, struct state *s, u8 *dropped);
void arm_fault(struct world *w);
void disarm_fault(struct world *w);
void note_freed(void *arg, u64 block);
void note_freed_to_pass_down(void *arg, u64 block);

void op_open(struct world *w, bool may_format);
void op_close(struct world *w);
bool op_commit(struct world *w);
void op_commit_beside(struct world *w, void (*op)(void *arg), void *arg);
void op_abort(struct world *w);
void op_needs_check(struct world *w);
void op_create(struct world *w, u32 id);
void op_come_and_go(struct world *w, u32 id);
void op_snap(struct world *w, u32 id, u32 origin);
void op_delete(struct world *w, u32 id);
void op_write(struct world *w, u32 id, u64 v, u64 nr, bool force_new);
void op_take_over(struct world *w, u32 id, u64 v, u64 nr);
void op_stale(struct world *w, u32 id, u64 v);
void op_remove(struct world *w, u32 id, u64 begin, u64 end, unsigned int max_steps);
void op_reserve_only(struct world *w, u64 want);
void op_unreserve(struct world *w);
void op_release_sets(struct world *w, size_t nr);
void op_hold(struct world *w);
void op_release_hold(struct world *w);
void op_trans_id(struct world *w, bool right);
void op_resize_data(struct world *w, u64 nr);
void op_resize_meta(struct world *w, u64 nr);

void look_point(struct world *w, u32 id, u64 v);
void look_around(struct world *w, u32 id, u64 v, u64 nr);
void look_ranges(struct world *w, u32 id, u64 begin, u64 end);
void look_numbers(struct world *w, u32 id);
void look_space(struct world *w);
void look_all(struct world *w);

bool meta_left(struct world *w);
struct thin_dev *world_dev(struct world *w, u32 id);
void world_close_dev(struct world *w, u32 id);
void world_close_devs(struct world *w);

/* world.c and ops.c, for the files of the world only */
void *must_have(void *p);
bool injected(struct world *w, int r);
bool survived(struct world *w, const char *what, int r);
bool survived_whole(struct world *w, const char *what, int r);
void note_op(struct world *w, const char *fmt, ...);
void mark_changed(struct world *w, u32 id);
void size_books(struct world *w, u64 nr);
bool can_take(struct world *w, u64 b);
void add_reserved(struct world *w, u64 b);
void del_reserved(struct world *w, u64 b);
struct mdev *must_dev(struct world *w, u32 id);

/* data.c */
void data_size(struct world *w, u64 nr);
u64 data_write(struct world *w, u32 id, u64 v, u64 block);
void data_discard(struct world *w, u64 block);
const char *data_differs(const struct world *w, const struct state *s);
void data_adopt(const struct world *w, struct state *s);
/* beside.c */
void beside_freeze(struct world *w);
void beside_forget(struct world *w);
void beside_land(struct world *w);
void flood(u64 seed);
void flood_print(void);
/* steps.c */
void steps(u64 seed);
void steps_print(void);
/* shortage.c */
void shortage(u64 seed);
void shortage_print(void);
/* crash.c */
void crash_cuts(struct world *w, struct state **allowed, size_t nr);
void crash_exit(void);
/* takeover.c */
extern const char *takeover_now;
int takeover_main(void);
/* work.c */
int work_main(const char *kind);
/* image.c */
int image_main(int argc, char **argv);
void image_read_all(struct thin_meta *tm, const struct check_result *res, const char *where);
/* tools.c */
void tools_setup(void);
void tools_exit(void);
void tools_compare_xml(const char *path, const struct check_result *res);
void tools_judge(const struct disk *d, bool tools, bool oracle);
void tools_condemn(const struct disk *d, const char *fmt, ...) __attribute__((noreturn, format(printf, 2, 3)));

#endif
