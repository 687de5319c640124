// SPDX-License-Identifier: GPL-2.0-only
/*
 * Power cuts: behind every event of a commit, with all, some or none of the
 * writes that were not flushed, the image must be a state that the history
 * allows there, exactly, without a leak.
 */
#include <linux/err.h>
#include <linux/kernel.h>
#include <linux/shrinker.h>
#include <stdio.h>
#include <string.h>
#include "world.h"

#define RANDOM_CUTS 3
#define MAX_CUTS 100

/* The layer itself opens the image, agrees with the model and goes on working. */
static void reopen(struct disk *d, const struct state *s, const char *where)
{
	static const struct thin_meta_ops no_ops;
	struct block_device bdev = { .sectors = d->nr_blocks * 8, .disk = d };
	struct check_result res;
	struct thin_meta *tm;
	struct thin_dev *td;
	struct thin_range range;
	struct thin_insert ins;
	long live;
	u64 v, begin, len;
	size_t i, k;
	int r;

	stats.cut_opens++;
	/* The mapping cache is one for all pools: this one must find nothing of the other's to drop. */
	sim_shrink(~0UL);
	live = sim_live_allocs;
	tm = thin_meta_open(&bdev, DATA_BLOCK_SECTORS, false, &no_ops, NULL);
	if (IS_ERR(tm))
		sim_fail("%s: reopen: error %ld", where, PTR_ERR(tm));
	for (i = 0; i < s->live.nr; i++) {
		const struct mdev *m = &s->live.d[i];

		r = thin_meta_open_dev(tm, m->id, &td);
		if (r)
			sim_fail("%s: reopen: device %u: error %d", where, m->id, r);
		for (k = 0, v = 0; k < m->set->nr; v = range.vend) {
			r = thin_dev_find_range(td, v, ~0ULL, true, &range);
			if (r)
				sim_fail("%s: reopen: device %u from %llu: error %d", where, m->id, v, r);
			for (v = range.vbegin; v < range.vend; v++, k++)
				if (k >= m->set->nr || m->set->m[k].v != v ||
				    m->set->m[k].b != range.map.block + (v - range.vbegin))
					sim_fail("%s: reopen: device %u differs at block %llu", where, m->id, v);
		}
		thin_meta_close_dev(td);
	}
	if (!s->needs_check && s->live.nr && thin_meta_alloc_data(tm, 1, &begin, &len) == 0) {
		const struct mdev *m = &s->live.d[s->live.nr - 1];
		const struct mapping *at = mapset_find(m->set, 7);

		r = thin_meta_open_dev(tm, m->id, &td);
		ins = (struct thin_insert){ 7, begin, at ? at->b : THIN_EXPECT_HOLE, 0 };
		if (!r)
			r = thin_dev_insert(td, &ins, 1);
		thin_meta_close_dev(td);
		if (!r)
			r = thin_meta_commit(tm);
		if (r && r != -ENOSPC)
			sim_fail("%s: reopen: a write and a commit: error %d", where, r);
		if (r)
			thin_meta_abort(tm);
	}
	r = thin_meta_close(tm);
	if (r)
		sim_fail("%s: reopen: close: error %d", where, r);
	sim_api_end("thin_meta_close");
	if (sim_live_allocs != live)
		sim_fail("%s: reopen leaves %ld allocations behind", where, sim_live_allocs - live);
	if (check_image(d, &res, 0))
		sim_fail("%s: reopen and write: the image is wrong: %s", where, res.err);
	check_free(&res);
}

static bool is_zero(const u8 *p)
{
	return !p[0] && !memcmp(p, p + 1, DISK_BLOCK - 1);
}

static void judge(struct world *w, struct disk *cut, const char *where, struct state **allowed, size_t lo,
		  size_t hi, bool unknown, bool tools)
{
	const char *diff = NULL;
	struct check_result res;
	size_t i;

	stats.cuts++;
	if (!w->formatted && is_zero(disk_peek(cut, 0)))
		return;
	if (check_image(cut, &res, 0))
		sim_fail("%s: the image is wrong: %s", where, res.err);
	/* Between two commits of one call the model does not say what is durable. */
	for (i = lo; i <= hi && !unknown; i++) {
		diff = state_differs(allowed[i], &res);
		if (!diff)
			break;
	}
	if (diff)
		sim_fail("%s: the image is none of the allowed states: %s", where, diff);
	if (tools)
		tools_judge(cut, true, false);
	check_free(&res);
	if (!unknown && rng_chance(&w->cut_rng, 20))
		reopen(cut, allowed[i], where);
}

void crash_cuts(struct world *w, struct state **allowed, size_t nr)
{
	struct disk *d = w->disk, *cut;
	size_t upto, i, safe, supers = 0, before, sure, lo, hi;
	struct bufio_policy policy = bufio_policy;
	long alloc_fail_in = sim_alloc_fail_in;
	char where[96];
	int k;

	/* What is to fail in the history is not to fail here. */
	sim_alloc_fail_in = 0;
	bufio_policy.rng = w->cut_rng;
	for (i = 0; i < d->nr_events; i++)
		supers += d->events[i].type == EV_WRITE && !d->events[i].block;
	for (upto = 0; upto <= d->nr_events; upto++) {
		/* Of a very long commit a sample, and all of its end. */
		if (upto + 8 < d->nr_events && d->nr_events > MAX_CUTS && rng_below(&w->cut_rng, d->nr_events) > MAX_CUTS)
			continue;
		/* Between the two, one state or the other is on the disk. */
		for (safe = upto; safe && d->events[safe - 1].type != EV_FLUSH; safe--)
			;
		for (i = 0, before = 0, sure = 0; i < upto; i++)
			if (d->events[i].type == EV_WRITE && !d->events[i].block) {
				before++;
				sure += i < safe;
			}
		lo = !sure ? 0 : sure == supers ? nr - 1 : 1;
		hi = !before ? 0 : before == supers ? nr - 1 : nr - 2;
		if (hi < lo)
			hi = lo;
		snprintf(where, sizeof(where), "power cut behind event %zu of %zu, all writes kept", upto, d->nr_events);
		cut = disk_cut(d, upto, NULL);
		judge(w, cut, where, allowed, !before ? 0 : before == supers ? nr - 1 : lo, hi,
		      before && before < supers, opt.tool_percent && rng_chance(&w->cut_rng, 2));
		disk_free(cut);
		for (k = 0; k < RANDOM_CUTS && upto > safe; k++) {
			snprintf(where, sizeof(where), "power cut behind event %zu of %zu, random subset %d", upto,
				 d->nr_events, k);
			cut = disk_cut(d, upto, &w->cut_rng);
			judge(w, cut, where, allowed, lo, hi, before && sure < supers && supers > 1, opt.tool_percent && rng_chance(&w->cut_rng, 1));
			disk_free(cut);
		}
	}
	bufio_policy = policy;
	sim_alloc_fail_in = alloc_fail_in;
}
