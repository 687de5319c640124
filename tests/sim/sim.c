// SPDX-License-Identifier: GPL-2.0-only
/*
 * Seeded random histories of the metadata layer against the model.
 *
 * A history is its seed: the same seed does the same on every machine.  A
 * failure prints the seed, the operation and the command that replays it.
 */
#include <linux/err.h>
#include <linux/kernel.h>
#include <linux/shrinker.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include "world.h"

static long ops_per_seed = 400;

static void on_fail(void)
{
	if (takeover_now)
		fprintf(stderr, "  %s (%s)\n  replay: make -C tests/sim run ARGS=--takeover\n", takeover_now, world_what);
	if (!seed_now)
		return;
	fprintf(stderr, "  seed %llu, operation %llu (%s)\n", seed_now, world_op, world_what);
	fprintf(stderr, "  replay: ");
	if (opt.tool_percent)
		fprintf(stderr, "THIN_TOOLS=%s ", getenv("THIN_TOOLS"));
	if (opt.oracle_percent)
		fprintf(stderr, "THINFMT=%s ", getenv("THINFMT"));
	fprintf(stderr, "make -C tests/sim run ARGS='--seed %llu --ops %ld --cuts %u --tools %u --oracle %u --faults %u --replay'\n",
		seed_now, ops_per_seed, opt.cut_percent, opt.tool_percent, opt.oracle_percent, opt.fault_percent);
}

/* What kind of history: few large devices, many small ones, little space ... */
struct shape {
	u64 meta_blocks, data_blocks;
	u32 max_devs;
	u64 max_vblock;
	unsigned int commit_every;
	unsigned int bulk;
	bool wide_ids;
};

static struct shape pick_shape(struct rng *r)
{
	struct shape s = { .meta_blocks = 1024, .data_blocks = 4000, .max_devs = 6, .max_vblock = 3000 };

	switch (rng_below(r, 10)) {
	case 0:		/* metadata runs out */
		s.meta_blocks = 16 + rng_below(r, 100);
		break;
	case 1:		/* data runs out */
		s.data_blocks = 1 + rng_below(r, 60);
		s.max_vblock = 100;
		break;
	case 2:		/* hundreds of devices: a top level of two levels */
		s.max_devs = 400;
		s.max_vblock = 60;
		s.bulk = 1;
		break;
	case 3:		/* one large tree: three levels */
		s.max_devs = 3;
		s.data_blocks = 60000;
		s.max_vblock = 80000;
		s.meta_blocks = 4096;
		s.bulk = 2;
		break;
	case 4:		/* both maps of several bitmaps */
		s.data_blocks = 16320 * 2 + rng_below(r, 20000);
		s.meta_blocks = 16320 + rng_below(r, 20000);
		break;
	case 5:		/* keys far apart, up to the end of the key space */
		s.max_vblock = ~0ULL - 64;
		break;
	case 6:		/* much sharing: high counts */
		s.max_devs = 30;
		s.max_vblock = 800;
		break;
	case 7:
		s.meta_blocks = 200 + rng_below(r, 200);
		s.data_blocks = 600;
		s.max_vblock = 1500;
		break;
	}
	s.commit_every = rng_chance(r, 30) ? 3 : rng_chance(r, 50) ? 15 : 60;
	s.wide_ids = rng_chance(r, 30);
	return s;
}

static u32 pick_id(struct world *w, const struct shape *s)
{
	u64 i;

	if (w->open->live.nr && rng_chance(&w->rng, 95))
		return w->open->live.d[rng_below(&w->rng, w->open->live.nr)].id;
	i = rng_below(&w->rng, s->max_devs * 2);
	return s->wide_ids ? (u32)(i * 2654435761u) & THIN_MAX_DEV_ID : i;
}

static u32 new_id(struct world *w, const struct shape *s)
{
	u64 i = rng_below(&w->rng, s->max_devs * 2);

	return s->wide_ids ? (u32)(i * 2654435761u) & THIN_MAX_DEV_ID : i;
}

static u64 pick_vblock(struct world *w, const struct shape *s, u32 id)
{
	struct mdev *dev = state_dev(w->open, id);

	/* Near what is there: runs grow, get holes, meet. */
	if (dev && dev->set->nr && rng_chance(&w->rng, 60)) {
		u64 v = dev->set->m[rng_below(&w->rng, dev->set->nr)].v, back = rng_below(&w->rng, 8);

		return v > back ? v - back : v;
	}
	return rng_below(&w->rng, s->max_vblock);
}

/* A snapshot gives up what it shares in one way or another, at once or not: who may have it alone now? */
static void lose_and_take_over(struct world *w, const struct shape *s, u32 id)
{
	u64 v = pick_vblock(w, s, id), nr = 1 + rng_below(&w->rng, 16), openings = w->openings;
	unsigned int tries = 1 + rng_below(&w->rng, 3);
	u32 snap = new_id(w, s);

	op_snap(w, snap, id);
	if (rng_chance(&w->rng, 80))
		op_commit(w);
	if (rng_chance(&w->rng, 30))
		op_hold(w);
	if (state_dev(w->open, snap)) {
		switch (rng_below(&w->rng, 3)) {
		case 0:
			op_remove(w, snap, v, v + nr, 1000000);
			break;
		case 1:
			op_write(w, snap, v, nr, false);
			break;
		default:
			op_delete(w, snap);
			break;
		}
	}
	while (tries-- && w->openings == openings && state_dev(w->open, id)) {
		if (rng_chance(&w->rng, 50))
			op_commit(w);
		if (rng_chance(&w->rng, 50))
			op_release_hold(w);
		if (rng_chance(&w->rng, 50))
			op_release_sets(w, w->nr_sets);
		if (w->openings == openings && state_dev(w->open, id))
			op_take_over(w, id, v, nr);
		look_around(w, id, v, nr);
	}
}

/* Upwards in large pieces, downwards or scattered in small ones: trees of every shape. */
static void bulk_write(struct world *w, u32 id, u64 v, u64 nr)
{
	unsigned int way = rng_below(&w->rng, 4);
	u64 n, at = v, span = 4 * nr + 1;

	for (; nr && state_dev(w->open, id) && meta_left(w); nr -= n) {
		n = min_t(u64, nr, way < 2 ? 64 : 1 + rng_below(&w->rng, 8));
		if (way == 2)
			at = at > n ? at - n : 0;
		else if (way == 3)
			at = v + rng_below(&w->rng, min_t(u64, span, ~0ULL - 64 - v));
		at = min_t(u64, at, ~0ULL - 128);
		if (rng_chance(&w->rng, 25))
			look_around(w, id, at, n);
		op_write(w, id, at, n, false);
		if (rng_chance(&w->rng, 25))
			look_around(w, id, at, n);
		if (way < 2)
			at += n;
	}
}

static void one_op(struct world *w, const struct shape *s)
{
	u64 dice = rng_below(&w->rng, 1000), v, n;
	u32 id = pick_id(w, s);
	bool there;

	if (!meta_left(w)) {
		/* Out of metadata space: what gives some back must work all the same. */
		stats.full++;
		if (rng_chance(&w->rng, 30))
			op_release_hold(w);
		else if (rng_chance(&w->rng, 30))
			op_delete(w, id);
		else if (state_dev(w->open, id))
			op_remove(w, id, pick_vblock(w, s, id), ~0ULL, rng_chance(&w->rng, 50) ? 1 : 1000000);
		op_commit(w);
		return;
	}
	there = state_dev(w->open, id);
	if (w->open->live.nr == 0 || (w->open->live.nr < s->max_devs && rng_chance(&w->rng, s->bulk == 1 ? 60 : 4))) {
		if (w->open->live.nr && rng_chance(&w->rng, 60))
			op_snap(w, new_id(w, s), id);
		else
			op_create(w, new_id(w, s));
		return;
	}
	if (dice < 400 && there) {
		v = pick_vblock(w, s, id);
		n = 1 + rng_below(&w->rng, rng_chance(&w->rng, 30) ? 64 : 4);
		/* One that writes in sequence goes on, over snapshots and commits. */
		if (rng_chance(&w->rng, 15) && state_dev(w->open, w->writer)) {
			id = w->writer;
			v = w->writer_v;
		}
		w->writer = id;
		w->writer_v = v + n < s->max_vblock ? v + n : 0;
		w->last_v = v;
		look_around(w, id, v, n);
		op_write(w, id, v, n, rng_chance(&w->rng, 3));
		look_around(w, id, v, n);
	} else if (dice < 440 && there) {
		v = pick_vblock(w, s, id);
		n = s->bulk == 2 ? 6000 : 300;
		bulk_write(w, id, v, 1 + rng_below(&w->rng, n));
	} else if (dice < 520 && there) {
		v = pick_vblock(w, s, id);
		n = rng_chance(&w->rng, 10) ? s->max_vblock : 1 + rng_below(&w->rng, rng_chance(&w->rng, 30) ? 2000 : 30);
		w->last_v = v;
		look_around(w, id, v, n);
		op_remove(w, id, v, v + min_t(u64, n, ~0ULL - v), rng_chance(&w->rng, 20) ? 1 : 1000000);
		look_around(w, id, v, n);
	} else if (dice < 530 && there) {
		lose_and_take_over(w, s, id);
	} else if (dice < 545 && there) {
		v = pick_vblock(w, s, id);
		w->last_v = v;
		look_around(w, id, v, 8);
		op_stale(w, id, v);
		look_around(w, id, v, 8);
	} else if (dice < 590) {
		look_around(w, id, w->last_v, 60);
		op_snap(w, new_id(w, s), id);
		look_around(w, id, w->last_v, 60);
	} else if (dice < 620) {
		op_delete(w, id);
	} else if (dice < 625) {
		op_create(w, new_id(w, s));
	} else if (dice < 650) {
		op_reserve_only(w, 1 + rng_below(&w->rng, 20));
	} else if (dice < 690) {
		op_unreserve(w);
	} else if (dice < 730) {
		op_release_sets(w, 1 + rng_below(&w->rng, w->nr_sets));
	} else if (dice < 745) {
		op_hold(w);
	} else if (dice < 760) {
		op_release_hold(w);
	} else if (dice < 765) {
		op_trans_id(w, rng_chance(&w->rng, 80));
	} else if (dice < 772) {
		op_resize_data(w, w->open->data_blocks + rng_below(&w->rng, 3) * rng_below(&w->rng, 300));
	} else if (dice < 774) {
		op_resize_data(w, rng_below(&w->rng, w->open->data_blocks + 1));
	} else if (dice < 780) {
		op_resize_meta(w, w->disk->nr_blocks + rng_below(&w->rng, 3) * rng_below(&w->rng, 300));
	} else if (dice < 785) {
		look_around(w, id, w->last_v, 20);
		op_abort(w);
	} else if (dice < 793) {
		stats.reopens++;
		op_close(w);
		op_open(w, false);
	} else if (dice < 800) {
		look_all(w);
	} else if (dice < 830 && there) {
		look_numbers(w, id);
		look_space(w);
	} else if (dice < 900 && there) {
		v = pick_vblock(w, s, id);
		look_ranges(w, id, v, v + min_t(u64, rng_below(&w->rng, 500), ~0ULL - v));
	} else if (there) {
		look_point(w, id, pick_vblock(w, s, id));
	}
}

static void history(u64 seed)
{
	struct shape s;
	struct world w;
	long i;

	seed_now = seed;
	world_op = 0;
	world_what = "start";
	sim_log_clear();
	{
		struct rng r = { seed * 77 + 5 };

		s = pick_shape(&r);
		bufio_policy.evict_percent = rng_chance(&r, 50) ? 50 : 2;
		bufio_policy.early_write_percent = rng_chance(&r, 50) ? 50 : 5;
	}
	world_init(&w, seed, s.meta_blocks, s.data_blocks);
	w.max_vblock = s.max_vblock + 20000 > s.max_vblock ? s.max_vblock + 20000 : ~0ULL;
	w.polite = s.meta_blocks >= 500 || rng_chance(&w.rng, 70);
	w.tight = !w.polite || s.meta_blocks < 100;
	op_open(&w, true);
	op_resize_data(&w, s.data_blocks);
	op_commit(&w);
	for (i = 0; i < ops_per_seed; i++) {
		world_op = i + 1;
		stats.ops++;
		if (opt.fault_percent && rng_chance(&w.fault_rng, opt.fault_percent))
			arm_fault(&w);
		one_op(&w, &s);
		if (rng_chance(&w.rng, 10))
			sim_shrink(rng_below(&w.rng, 300));
		if (thin_meta_wants_commit(w.tm) || !rng_below(&w.rng, s.commit_every)) {
			if (w.nr_sets > 50)
				op_release_sets(&w, w.nr_sets);
			op_commit(&w);
		}
		disarm_fault(&w);
	}
	world_op = i + 1;
	look_all(&w);
	op_commit(&w);
	look_all(&w);
	op_close(&w);
	world_exit(&w);
}

static void print_stats(void)
{
	printf("sim: %llu operations, %llu commits, all checked; %llu inserts, %llu removals, %llu snapshots, %llu metadata snapshots, %llu resizes, %llu reopens, %llu aborts, %llu times out of space, %llu times with no metadata left, %llu retries, %llu failures made to happen, %llu deletes in several commits, %llu stale inserts, %llu blocks taken over\n",
	       stats.ops, stats.commits, stats.inserts, stats.removed, stats.snaps, stats.holds, stats.resizes,
	       stats.reopens, stats.aborts, stats.nospace, stats.full, stats.again, stats.faults, stats.partial, stats.stale,
	       stats.takeovers);
	printf("sim: %llu power cuts, %llu different images, each opened and read (%llu written to); external judges: %llu images by thin_check 0.9 and 1.x and thin_dump, %llu by another decoder; at most %d buffers held\n",
	       stats.cuts, stats.cut_images, stats.cut_opens, stats.tool_commits, stats.oracle, bufio_max_held_seen);
}

static void usage(FILE *f)
{
	fprintf(f, "usage: sim [--seed N | --seeds A-B] [--ops N] [--cuts PERCENT] [--tools PERCENT] [--oracle PERCENT] [--faults PERCENT]\n"
		   "           [--dir DIR] [--replay]\n"
		   "       sim --takeover\n"
		   "       sim --image FILE ...      (see --image --help)\n");
}

int main(int argc, char **argv)
{
	u64 from = 1, to = 20, seed;
	int i;

	sim_fail_hook = on_fail;
	if (thin_meta_init())
		sim_fail("thin_meta_init() failed");
	opt.dir = "/tmp";
	if (argc > 1 && (!strcmp(argv[1], "--image") || !strcmp(argv[1], "--huge") || !strcmp(argv[1], "--make-xml")))
		return image_main(argc, argv);
	if (argc == 2 && !strcmp(argv[1], "--takeover"))
		return takeover_main();
	for (i = 1; i < argc; i++) {
		const char *a = argv[i], *v = i + 1 < argc ? argv[i + 1] : NULL;

		if (!strcmp(a, "--replay")) {
			opt.verbose = true;
			sim_log_verbose = 1;
			continue;
		}
		if (!strcmp(a, "--help")) {
			usage(stdout);
			return 0;
		}
		if (!v)
			goto bad;
		i++;
		if (!strcmp(a, "--seed")) {
			from = to = strtoull(v, NULL, 0);
		} else if (!strcmp(a, "--seeds")) {
			if (sscanf(v, "%llu-%llu", &from, &to) != 2 || from > to)
				goto bad;
		} else if (!strcmp(a, "--ops")) {
			ops_per_seed = atol(v);
		} else if (!strcmp(a, "--cuts")) {
			opt.cut_percent = atoi(v);
		} else if (!strcmp(a, "--tools")) {
			opt.tool_percent = atoi(v);
		} else if (!strcmp(a, "--oracle")) {
			opt.oracle_percent = atoi(v);
		} else if (!strcmp(a, "--faults")) {
			opt.fault_percent = atoi(v);
		} else if (!strcmp(a, "--dir")) {
			opt.dir = v;
		} else {
			goto bad;
		}
	}
	tools_setup();
	for (seed = from; seed <= to; seed++)
		history(seed);
	tools_exit();
	crash_exit();
	print_stats();
	return 0;
bad:
	usage(stderr);
	return 2;
}
