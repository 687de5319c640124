// SPDX-License-Identifier: GPL-2.0-only
/*
 * Seeded random histories: what kind of pool, what happens in it.
 *
 * A history is its seed: the same seed does the same on every machine.
 */
#include <linux/err.h>
#include <linux/kernel.h>
#include <linux/shrinker.h>
#include "history.h"

/* What kind of history: few large devices, many small ones, little space ... */
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

u32 pick_id(struct world *w, const struct shape *s)
{
	u64 i;

	if (w->open->live.nr && rng_chance(&w->rng, 95))
		return w->open->live.d[rng_below(&w->rng, w->open->live.nr)].id;
	i = rng_below(&w->rng, s->max_devs * 2);
	return s->wide_ids ? (u32)(i * 2654435761u) & THIN_MAX_DEV_ID : i;
}

u32 new_id(struct world *w, const struct shape *s)
{
	u64 i = rng_below(&w->rng, s->max_devs * 2);

	return s->wide_ids ? (u32)(i * 2654435761u) & THIN_MAX_DEV_ID : i;
}

u64 pick_vblock(struct world *w, const struct shape *s, u32 id)
{
	struct mdev *dev = state_dev(w->open, id);

	/* Near what is there: runs grow, get holes, meet. */
	if (dev && dev->set->nr && rng_chance(&w->rng, 60)) {
		u64 v = dev->set->m[rng_below(&w->rng, dev->set->nr)].v, back = rng_below(&w->rng, 8);

		return v > back ? v - back : v;
	}
	return rng_below(&w->rng, s->max_vblock);
}

struct loss {
	struct world *w;
	u32 id, snap;
	u64 v, nr;
	bool done;
};

/* A snapshot gives up what it shares in one way or another: who may have it alone now? */
static void lose(void *arg)
{
	struct loss *l = arg;
	struct world *w = l->w;
	u32 id = l->id, snap = l->snap;
	u64 v = l->v, nr = l->nr, openings = w->openings;
	unsigned int tries = 1 + rng_below(&w->rng, 3);

	if (l->done)
		return;
	l->done = true;
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
		if (w->flying && rng_chance(&w->rng, 50)) {
			beside_land(w);
			if (w->lost)
				op_abort(w);
		} else if (rng_chance(&w->rng, 50)) {
			op_commit(w);
		}
		if (rng_chance(&w->rng, 50))
			op_release_hold(w);
		if (rng_chance(&w->rng, 50))
			op_release_sets(w, w->nr_sets);
		if (w->openings == openings && state_dev(w->open, id))
			op_take_over(w, id, v, nr);
		look_around(w, id, v, nr);
	}
}

/* At once or not, or beside a commit. */
static void lose_and_take_over(struct world *w, const struct shape *s, u32 id)
{
	struct loss l = { w, id, new_id(w, s), pick_vblock(w, s, id), 1 + rng_below(&w->rng, 16), false };
	u64 openings = w->openings;

	op_snap(w, l.snap, id);
	if (rng_chance(&w->rng, 80))
		op_commit(w);
	if (rng_chance(&w->rng, 30))
		op_hold(w);
	if (!w->flying && rng_chance(&w->rng, 50) && state_dev(w->open, id)) {
		op_write(w, id, l.v + l.nr, 1, true);
		op_commit_beside(w, lose, &l);
	}
	if (w->openings == openings)
		lose(&l);
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
		id = new_id(w, s);
		op_come_and_go(w, id);
		if (rng_chance(&w->rng, 80))
			op_create(w, id);
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
		beside_land(w);
		if (w->lost) {
			op_abort(w);
		} else {
			op_close(w);
			op_open(w, false);
		}
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

void history_start(struct world *w, const struct shape *s, u64 seed)
{
	struct rng r = { seed * 77 + 6 };

	seed_now = seed;
	world_op = 0;
	world_what = "start";
	sim_log_clear();
	bufio_policy.evict_percent = rng_chance(&r, 50) ? 50 : 2;
	bufio_policy.early_write_percent = rng_chance(&r, 50) ? 50 : 5;
	world_init(w, seed, s->meta_blocks, s->data_blocks);
	w->max_vblock = s->max_vblock + 20000 > s->max_vblock ? s->max_vblock + 20000 : ~0ULL;
	w->polite = s->meta_blocks >= 500 || rng_chance(&w->rng, 70);
	w->tight = !w->polite || s->meta_blocks < 100;
	op_open(w, true);
	op_resize_data(w, s->data_blocks);
	op_commit(w);
}

struct beside {
	struct world *w;
	const struct shape *s;
};

static void one_beside(void *arg)
{
	struct beside *b = arg;

	stats.ops++;
	one_op(b->w, b->s);
}

void history_ops(struct world *w, const struct shape *s, long nr)
{
	struct beside b = { w, s };

	while (nr--) {
		world_op++;
		stats.ops++;
		if (opt.fault_percent && rng_chance(&w->fault_rng, opt.fault_percent))
			arm_fault(w);
		one_op(w, s);
		if (rng_chance(&w->rng, 10))
			sim_shrink(rng_below(&w->rng, 300));
		if (thin_meta_wants_commit(w->tm) || !rng_below(&w->rng, s->commit_every)) {
			if (w->nr_sets > 50)
				op_release_sets(w, w->nr_sets);
			if (rng_chance(&w->rng, 50))
				op_commit_beside(w, one_beside, &b);
			else
				op_commit(w);
		}
		disarm_fault(w);
	}
}

void history_end(struct world *w)
{
	world_op++;
	look_all(w);
	op_commit(w);
	look_all(w);
	op_close(w);
	world_exit(w);
}

void history(u64 seed)
{
	struct rng r = { seed * 77 + 5 };
	struct shape s = pick_shape(&r);
	struct world w;

	history_start(&w, &s, seed);
	history_ops(&w, &s, opt.ops_per_seed);
	history_end(&w);
}
