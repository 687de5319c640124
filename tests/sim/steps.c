// SPDX-License-Identifier: GPL-2.0-only
/*
 * Deletes and releases of the metadata snapshot that take several steps, and what others do between
 * them: they write, discard, make snapshots, ask for blocks, and commit.
 *
 * Each commit shows what has gone by then; the power goes in it, and what is there must be
 * whole: a device with fewer mappings, a metadata snapshot with fewer devices.
 */
#include <linux/errno.h>
#include <linux/kernel.h>
#include <stdio.h>
#include <string.h>
#include "world.h"

#define DEVS 4
/* More than a leaf of the top level, or of the details, has entries. */
#define MANY 400
#define MAPPINGS 16000
/* Fewer than a leaf has entries; and as many as it can have. */
#define IN_EACH_LEAF 90
#define LEAF 252

static struct {
	u64 pauses, begun, commits;
} did;

static u32 some_dev(struct world *w)
{
	return rng_below(&w->rng, DEVS);
}

static u64 some_vblock(struct world *w)
{
	return rng_below(&w->rng, MAPPINGS);
}

/* There is one, and it is already being let go. */
static void ask_in_vain(struct world *w)
{
	u64 root;
	int r;

	if (thin_meta_held_root(w->tm, &root) || !root)
		sim_fail("a metadata snapshot that is being let go is not told of");
	r = thin_meta_reserve_snap(w->tm);
	sim_api_end("thin_meta_reserve_snap");
	if (r != -EBUSY)
		sim_fail("thin_meta_reserve_snap beside a release: error %d", r);
	r = thin_meta_release_snap(w->tm, NULL, NULL);
	sim_api_end("thin_meta_release_snap");
	if (r != -EBUSY)
		sim_fail("a second thin_meta_release_snap beside the first: error %d", r);
}

static void others(struct world *w)
{
	u32 id = some_dev(w), other = some_dev(w);
	u64 v = some_vblock(w);
	int r;

	did.pauses++;
	if (w->deleted == DEVS && w->open->held)
		ask_in_vain(w);
	switch (rng_below(&w->rng, 6)) {
	case 0:
	case 1:
		if (id != w->deleted)
			op_write(w, id, v, 1 + rng_below(&w->rng, 64), rng_chance(&w->rng, 20));
		break;
	case 2:
		if (id != w->deleted)
			op_remove(w, id, v, v + 1 + rng_below(&w->rng, 500), 1);
		break;
	case 3:
		if (id != w->deleted && other != w->deleted && w->open->live.nr < DEVS + 3)
			op_snap(w, DEVS + 1 + w->open->live.nr, id);
		break;
	case 4:
		if (id != w->deleted)
			op_take_over(w, id, v, 4);
		break;
	default:
		break;
	}
	if (rng_chance(&w->rng, 60)) {
		r = thin_meta_commit(w->tm);
		sim_api_end("thin_meta_commit");
		if (r)
			sim_fail("a commit between two steps: error %d", r);
		did.commits++;
	}
}

/* A step may take away so much; the pauses that many leaves ask for. */
static void expect_pauses(u64 leaves, u64 before)
{
	if (did.pauses - before < leaves / 32)
		sim_fail("%llu leaves went with %llu pauses", leaves, did.pauses - before);
}

static void pool(u64 seed, bool snapshot)
{
	u64 pauses;
	struct world w;
	u64 v, n;
	u32 id;

	opt.cut_percent = 0;
	scene_begin(&w, seed, 4096, 6 * MAPPINGS);
	for (v = 0; v < MAPPINGS; v += n) {
		n = min_t(u64, 1 + rng_below(&w.rng, 64), MAPPINGS - v);
		op_write(&w, 0, v, n, false);
	}
	for (id = 1; id < DEVS; id++) {
		op_commit(&w);
		op_snap(&w, id, rng_below(&w.rng, id));
		for (v = 0; v < MAPPINGS; v += IN_EACH_LEAF)
			op_write(&w, id, v, 1, false);
	}
	op_commit(&w);
	if (snapshot) {
		/* The highest number is taken: in the metadata snapshot, or only now. */
		if (seed % 2)
			op_create(&w, THIN_MAX_DEV_ID);
		/* Two of its devices are one tree, which soon nobody else has. */
		op_snap(&w, DEVS + 1, 1);
		op_hold(&w);
		op_commit(&w);
		op_delete(&w, DEVS + 1);
		if (!(seed % 2))
			op_create(&w, THIN_MAX_DEV_ID);
		/* The last device is as it was: all of it stays shared. */
		for (id = 0; id < DEVS - 1; id++)
			for (v = 0; v < MAPPINGS; v += IN_EACH_LEAF << rng_below(&w.rng, 2))
				op_write(&w, id, v, 1, true);
		op_commit(&w);
	}
	op_release_sets(&w, w.nr_sets);

	w.between = others;
	opt.cut_percent = 100;
	w.deleted = DEVS;
	pauses = did.pauses;
	if (snapshot)
		op_release_hold(&w);
	else
		op_delete(&w, some_dev(&w));
	expect_pauses((snapshot ? DEVS - 1 : 1) * MAPPINGS / LEAF, pauses);
	opt.cut_percent = 0;
	w.between = NULL;
	op_commit(&w);
	did.begun++;
	scene_end(&w);
}

/* Small devices, of which the metadata snapshot has some for itself; trees of devices with more than a leaf. */
static void many(u64 seed)
{
	u64 pauses = did.pauses;
	struct world w;
	u32 id;

	opt.cut_percent = 0;
	scene_begin(&w, seed, 4096, 4 * MAPPINGS);
	w.polite = false;
	for (id = 1; id < MANY; id++) {
		if (rng_chance(&w.rng, 50))
			op_create(&w, id);
		else
			op_snap(&w, id, rng_below(&w.rng, id));
		op_write(&w, id, 0, 1 + rng_below(&w.rng, 20), true);
		/* The world opens as many as it is let. */
		if (!(id % 8))
			world_close_devs(&w);
	}
	op_commit(&w);
	op_hold(&w);
	op_commit(&w);
	for (id = 0; id < MANY; id += 1 + rng_below(&w.rng, 60)) {
		op_write(&w, id, 0, 2, true);
		world_close_devs(&w);
	}
	if (rng_chance(&w.rng, 50))
		op_delete(&w, rng_below(&w.rng, MANY));
	op_commit(&w);
	op_release_sets(&w, w.nr_sets);

	w.between = others;
	opt.cut_percent = 20;
	w.deleted = DEVS;
	op_release_hold(&w);
	expect_pauses(MANY / 2, pauses);
	opt.cut_percent = 0;
	w.between = NULL;
	op_commit(&w);
	did.begun++;
	scene_end(&w);
}

void steps(u64 seed)
{
	u64 pauses = did.pauses, partial = stats.partial;

	scene_now = "steps";
	seed_now = seed;
	pool(seed, true);
	pool(seed, false);
	many(seed);
	if (stats.partial == partial)
		sim_fail("harness: no commit in %llu pauses", did.pauses - pauses);
}

void steps_print(void)
{
	printf("sim: %llu deletes and releases with %llu pauses, %llu times what had gone was committed; %llu power cuts there, %llu different images of them\n",
	       did.begun, did.pauses, stats.partial, stats.cuts, stats.cut_images);
}
