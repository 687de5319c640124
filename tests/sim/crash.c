// SPDX-License-Identifier: GPL-2.0-only
/*
 * Power cuts: behind every event of a commit, with all, some or none of the
 * writes that were not flushed, the image must be a state that the history
 * allows there, exactly, without a leak, and every mapping must find its data.
 */
#include <linux/err.h>
#include <linux/kernel.h>
#include <linux/shrinker.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "world.h"

#define RANDOM_CUTS 3
#define MAX_CUTS 100

/* ---- images seen ---- */

static u64 *seen;
static size_t nr_seen, cap_seen;

static bool put(u64 *table, size_t cap, u64 sum)
{
	size_t i;

	for (i = sum % cap; table[i]; i = (i + 1) % cap)
		if (table[i] == sum)
			return false;
	table[i] = sum;
	return true;
}

/* The same image of another history has another state to agree with: it counts once, and is judged again. */
static void count_image(const struct disk *d)
{
	u64 sum = disk_sum(d) | 1, *bigger;
	size_t i;

	if (2 * nr_seen >= cap_seen) {
		bigger = must_have(calloc(2 * cap_seen + 1024, sizeof(*bigger)));
		for (i = 0; i < cap_seen; i++)
			if (seen[i])
				put(bigger, 2 * cap_seen + 1024, seen[i]);
		free(seen);
		seen = bigger;
		cap_seen = 2 * cap_seen + 1024;
	}
	if (put(seen, cap_seen, sum)) {
		nr_seen++;
		stats.cut_images++;
	}
}

void crash_exit(void)
{
	free(seen);
	seen = NULL;
}

/* ---- judging one ---- */

/* The layer itself opens the image and reads what is there; @write: and goes on working. */
static void reopen(struct disk *d, const struct check_result *res, bool write, const char *where)
{
	static const struct thin_meta_ops no_ops;
	struct block_device bdev = { .sectors = d->nr_blocks * 8, .disk = d };
	struct check_result after;
	struct thin_meta *tm;
	struct thin_dev *td;
	struct thin_insert ins;
	u64 begin, len, k;
	long live;
	int r;

	/* The mapping cache is one for all pools: this one must find nothing of the other's to drop. */
	sim_shrink(~0UL);
	live = sim_live_allocs;
	tm = thin_meta_open(&bdev, DATA_BLOCK_SECTORS, false, &no_ops, NULL);
	if (IS_ERR(tm))
		sim_fail("%s: reopen: error %ld", where, PTR_ERR(tm));
	image_read_all(tm, res, where);
	if (write && !(res->flags & 1) && res->live.nr && thin_meta_alloc_data(tm, 1, &begin, &len) == 0) {
		const struct check_dev *c = &res->live.devs[res->live.nr - 1];

		for (k = 0; k < c->nr && c->maps[k].v < 7; k++)
			;
		r = thin_meta_open_dev(tm, c->id, &td);
		ins = (struct thin_insert){ 7, begin, k < c->nr && c->maps[k].v == 7 ? c->maps[k].b : THIN_EXPECT_HOLE, 0 };
		if (!r)
			r = thin_dev_insert(td, &ins, 1);
		thin_meta_close_dev(td);
		if (!r)
			r = thin_meta_commit(tm);
		if (r && r != -ENOSPC)
			sim_fail("%s: reopen: a write and a commit: error %d", where, r);
		if (r)
			thin_meta_abort(tm);
		stats.cut_opens++;
	}
	r = thin_meta_close(tm);
	if (r)
		sim_fail("%s: reopen: close: error %d", where, r);
	sim_api_end("thin_meta_close");
	if (sim_live_allocs != live)
		sim_fail("%s: reopen leaves %ld allocations behind", where, sim_live_allocs - live);
	if (!write)
		return;
	if (check_image(d, &after, 0))
		sim_fail("%s: reopen and write: the image is wrong: %s", where, after.err);
	check_free(&after);
}

static bool is_zero(const u8 *p)
{
	return !p[0] && !memcmp(p, p + 1, DISK_BLOCK - 1);
}

static void judge(struct world *w, struct disk *cut, const char *where, struct state **allowed, size_t lo,
		  size_t hi, bool unknown)
{
	const char *diff = NULL;
	struct check_result res;
	size_t i;

	stats.cuts++;
	if (!w->formatted && is_zero(disk_peek(cut, 0)))
		return;
	count_image(cut);
	if (check_image(cut, &res, 0))
		tools_condemn(cut, "%s: the image is wrong: %s", where, res.err);
	/* Between two commits of one call the model does not say what is durable. */
	for (i = lo; i <= hi && !unknown; i++) {
		diff = state_differs(allowed[i], &res);
		if (!diff)
			break;
	}
	if (diff)
		tools_condemn(cut, "%s: the image is none of the allowed states: %s", where, diff);
	if (!unknown)
		diff = data_differs(w, allowed[i]);
	if (diff)
		tools_condemn(cut, "%s: %s", where, diff);
	/* One in a hundred is judged by others too. */
	if (rng_chance(&w->cut_rng, 1) && (opt.tool_percent || opt.oracle_percent))
		tools_judge(cut, opt.tool_percent, opt.oracle_percent);
	reopen(cut, &res, rng_chance(&w->cut_rng, 20), where);
	check_free(&res);
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
		      before && before < supers);
		disk_free(cut);
		for (k = 0; k < RANDOM_CUTS && upto > safe; k++) {
			snprintf(where, sizeof(where), "power cut behind event %zu of %zu, random subset %d", upto,
				 d->nr_events, k);
			cut = disk_cut(d, upto, &w->cut_rng);
			judge(w, cut, where, allowed, lo, hi, before && sure < supers && supers > 1);
			disk_free(cut);
		}
	}
	bufio_policy = policy;
	sim_alloc_fail_in = alloc_fail_in;
}
