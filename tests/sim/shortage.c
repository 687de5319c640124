// SPDX-License-Identifier: GPL-2.0-only
/*
 * Pools that run out of space, of kinds that histories are too small for.
 *
 * Of metadata: blocks that lie far from one another and have many users, so that each leaf that
 * is copied or deleted changes a leaf of the overflow tree for nearly every count.  Commits
 * must come in time, whatever that takes, as long as the pool says that it has metadata left; and
 * deleting must give it back.  Of data: what only the bitmaps say to be free is found.
 */
#include <linux/crc32c.h>
#include <linux/kernel.h>
#include <stdio.h>
#include <string.h>
#include "world.h"

#define BITMAP_BLOCKS 16320
#define SCATTERED 40000
#define SNAPS 3
/* Fewer than a leaf has entries. */
#define IN_EACH_LEAF 100

static void nothing(void *arg)
{
}

static bool write_one(struct world *w, u32 id, u64 v, bool force_new)
{
	w->polite = true;
	if (!meta_left(w))
		return false;
	op_write(w, id, v, 1, force_new);
	op_release_sets(w, w->nr_sets);
	if (thin_meta_wants_commit(w->tm))
		op_commit(w);
	else if (id && !rng_below(&w->rng, 8))
		op_commit_beside(w, nothing, NULL);
	return true;
}

/* Neighbours of the thin are no neighbours on the data device. */
static void fill_scattered(struct world *w)
{
	u64 i;

	for (i = 0; i < SCATTERED; i++)
		if (!write_one(w, 0, i * 15013 % SCATTERED, false))
			sim_fail("harness: no metadata left for the first device");
}

/* Copy every leaf; did it last? */
static bool copy_leaves(struct world *w, u32 id)
{
	u64 v;

	for (v = 0; v < SCATTERED; v += IN_EACH_LEAF)
		if (!write_one(w, id, v, false))
			return false;
	return true;
}

/* Every other leaf of a device is the metadata snapshot's alone then. */
static bool leave_to_hold(struct world *w, u32 id)
{
	u64 v;

	op_hold(w);
	for (v = 0; v < SCATTERED; v += 5 * IN_EACH_LEAF)
		if (!write_one(w, id, v, true))
			return false;
	return true;
}

static void scattered(u64 seed)
{
	static const u64 sizes[] = { 640, 720, 870, 1000 };
	u64 aborts = stats.aborts;
	struct thin_meta_space space;
	struct world w;
	u32 id;

	scene_begin(&w, seed, sizes[seed / 2 % ARRAY_SIZE(sizes)], 4 * BITMAP_BLOCKS);
	fill_scattered(&w);
	for (id = 1; id <= SNAPS; id++) {
		if (!meta_left(&w))
			break;
		op_snap(&w, id, 0);
		op_commit(&w);
		/* The first change of each device copies what no count says to be shared. */
		if (seed % 2 && id == 2 && meta_left(&w))
			op_hold(&w);
		if (!copy_leaves(&w, id))
			break;
		if (!(seed % 2) && id == 1 && meta_left(&w) && !leave_to_hold(&w, id))
			break;
	}
	if (id > SNAPS)
		sim_fail("harness: metadata did not run out");
	if (opt.verbose && !thin_meta_get_space(w.tm, &space))
		fprintf(stderr, "snapshot %u: %llu of %llu metadata blocks are free\n", id, space.meta_raw_free, space.meta_total);
	op_release_hold(&w);
	if (w.open->held)
		sim_fail("the metadata snapshot cannot be let go for lack of metadata");
	op_commit(&w);
	/* Also one that was not made any more. */
	for (; id; id--) {
		op_delete(&w, id);
		if (state_dev(w.open, id))
			sim_fail("a device cannot be deleted for lack of metadata");
		op_commit(&w);
		op_release_sets(&w, w.nr_sets);
	}
	if (stats.aborts != aborts)
		sim_fail("a transaction was rolled back for lack of metadata");
	if (!copy_leaves(&w, 0))
		sim_fail("deleted snapshots gave no metadata back");
	scene_end(&w);
}

/* So many counts above 2 that their tree has three levels. */
static void deep(u64 seed)
{
	const u64 nr = 6 * BITMAP_BLOCKS;
	struct world w;
	u64 v;
	u32 id;

	scene_begin(&w, seed, 4096, nr + BITMAP_BLOCKS);
	for (v = 0; v < nr; v += 64)
		op_write(&w, 0, v, 64, false);
	for (id = 1; id <= 3; id++) {
		op_snap(&w, id, 0);
		op_commit(&w);
		for (v = 0; v < nr; v += 2 * IN_EACH_LEAF)
			write_one(&w, id, v, false);
	}
	scene_end(&w);
}

/*
 * Metadata of @nr blocks, small for what it counts, must be good for all but @spare of them; and what was
 * written in it can be let go then.
 */
static void small(u64 seed, u64 nr, u64 bitmaps, u64 spare)
{
	struct thin_meta_space space;
	struct world w;
	u32 id;
	u64 v;

	scene_begin(&w, seed, nr, bitmaps * BITMAP_BLOCKS);
	if (!write_one(&w, 0, 0, false))
		sim_fail("a new pool cannot be written to for lack of metadata");
	for (id = 1; meta_left(&w) && state_dev(w.open, id - 1); id++) {
		/* Who is refused may lose what is not committed. */
		if (!(id % 4))
			op_commit(&w);
		op_create(&w, id);
	}
	if (thin_meta_get_space(w.tm, &space) || space.meta_raw_free > spare + 8)
		sim_fail("%llu of %llu metadata blocks are free when there is said to be none", space.meta_raw_free, nr);
	for (v = 0; v < id && (v < 16 || !meta_left(&w)); v++) {
		op_delete(&w, v);
		if (state_dev(w.open, v))
			sim_fail("a device cannot be deleted for lack of metadata");
	}
	op_commit(&w);
	op_create(&w, id);
	if (!state_dev(w.open, id) || !write_one(&w, id, 0, false))
		sim_fail("deleted devices gave no metadata back");
	scene_end(&w);
}

static u64 number(const u8 *p, size_t size)
{
	u64 n = 0;

	memcpy(&n, p, size);
	return n;
}

static void seal(struct world *w, u64 at, u8 *block, u32 salt)
{
	u32 csum = crc32c(~0U, block + 4, DISK_BLOCK - 4) ^ salt;

	memcpy(block, &csum, 4);
	disk_poke(w->disk, at, block);
}

/*
 * All numbers beside the bitmap say that @block is in use, as thin_check leaves them when it has
 * cleared the count of a block that nobody has.
 */
static void hide_free_block(struct world *w, u64 block)
{
	u8 super[DISK_BLOCK], node[DISK_BLOCK];
	u64 root, allocated;

	memcpy(super, disk_peek(w->disk, 0), DISK_BLOCK);
	allocated = number(super + 64 + 8, 8) + 1;
	memcpy(super + 64 + 8, &allocated, 8);
	seal(w, 0, super, 160774);

	root = number(super + 64 + 16, 8);
	memcpy(node, disk_peek(w->disk, root), DISK_BLOCK);
	if (number(node + 24, 4) != 16)
		sim_fail("harness: not the index");
	memset(node + 32 + 8 * number(node + 20, 4) + 16 * (block / BITMAP_BLOCKS) + 8, 0, 4);
	seal(w, root, node, 121107);
}

static void full(u64 seed)
{
	const u64 nr = 6 * BITMAP_BLOCKS - 100;
	struct world w;
	u64 v, inserts;

	scene_begin(&w, seed, 4096, nr);
	for (v = 0; v < nr; v += 64) {
		op_write(&w, 0, v, min_t(u64, 64, nr - v), false);
		if (thin_meta_wants_commit(w.tm))
			op_commit(&w);
	}
	/* All were written in order. */
	v = 3 * BITMAP_BLOCKS + 7;
	op_remove(&w, 0, v, v + 1, 1);
	op_commit(&w);
	op_close(&w);
	hide_free_block(&w, v);
	op_open(&w, false);
	inserts = stats.inserts;
	op_write(&w, 0, v, 1, false);
	if (stats.inserts != inserts + 1)
		sim_fail("a free block is not found");
	op_commit(&w);
	scene_end(&w);
}

void shortage(u64 seed)
{
	scene_now = "shortage";
	seed_now = seed;
	scattered(seed);
	deep(seed);
	full(seed);
	small(seed, 1024, 400, 180);
	small(seed, 2048, 512, 2048 / 10 + 16);
	small(seed, 512, 4, 512 / 10 + 16);
	small(seed, 64, 1, 22);
}

void shortage_print(void)
{
	printf("sim: metadata ran out among scattered blocks, no commit failed, and deleting gave it back; the last free block was found\n");
}
