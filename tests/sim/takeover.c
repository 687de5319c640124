// SPDX-License-Identifier: GPL-2.0-only
/*
 * All the ways to lose a shared block, and what its last user may then do.
 *
 * Two devices share their blocks. One gives some up: it overwrites, discards,
 * is deleted, or only a metadata snapshot still held them and is released. The
 * other then asks for each block to write it in place, with and without a
 * commit and the release of the freed sets in between, and the power goes
 * before the commit that would record it: whoever has the block in the state
 * that survives must read its old data.
 */
#include <linux/kernel.h>
#include <stdio.h>
#include <string.h>
#include "world.h"

enum loss { NOTHING, OVERWRITE, DISCARD, DISCARD_ALL, DELETE, NR_LOSSES };
enum hold { NO_HOLD, HOLD_SHARED, HOLD_LOST, NR_HOLDS };

static const char * const loss_name[] = { "loses nothing", "overwrites", "discards", "discards all", "is deleted" };

/* Which history it is, for the message of a failure. */
const char *takeover_now;

static struct {
	u64 histories, taken, refused;
} did;

static void cut_now(struct world *w)
{
	crash_cuts(w, &w->durable, 1);
}

/* Ask for each block; how many were granted? */
static u64 take(struct world *w, u32 id, u64 v, u64 nr)
{
	u64 before = stats.takeovers;

	op_take_over(w, id, v, nr);
	cut_now(w);
	did.taken += stats.takeovers - before;
	did.refused += nr - (stats.takeovers - before);
	return stats.takeovers - before;
}

static void one(u64 seed, u64 mappings, bool origin_loses, bool commit_shared, enum hold hold, enum loss loss,
		bool commit_loss, bool release_sets)
{
	const u64 v = mappings / 3, nr = 6;
	u32 loser = origin_loses ? 1 : 2, keeper = origin_loses ? 2 : 1;
	u64 at, n;
	struct world w;

	did.histories++;
	opt.cut_percent = 0;
	world_init(&w, seed, 1024, 4000);
	w.max_vblock = 4000;
	op_open(&w, true);
	op_resize_data(&w, 4000);
	op_create(&w, 1);
	op_commit(&w);
	for (at = 0; at < mappings; at += n) {
		n = min_t(u64, 64, mappings - at);
		op_write(&w, 1, at, n, false);
	}
	op_commit(&w);
	opt.cut_percent = 100;
	if (hold == HOLD_SHARED)
		op_hold(&w);
	op_snap(&w, 2, 1);
	if (commit_shared)
		op_commit(&w);
	if (hold == HOLD_LOST)
		op_hold(&w);

	switch (loss) {
	case NOTHING:
		break;
	case OVERWRITE:
		op_write(&w, loser, v, nr, false);
		break;
	case DISCARD:
		op_remove(&w, loser, v, v + nr, 1000);
		break;
	case DISCARD_ALL:
		op_remove(&w, loser, 0, mappings, 1000);
		break;
	default:
		op_delete(&w, loser);
		break;
	}
	take(&w, keeper, v, nr);
	if (hold) {
		if (commit_loss)
			op_commit(&w);
		op_release_hold(&w);
		take(&w, keeper, v, nr);
	}
	if (commit_loss)
		op_commit(&w);
	if (release_sets)
		op_release_sets(&w, w.nr_sets);
	take(&w, keeper, v, nr);

	/* Once nobody else can have it, it is not copied. */
	op_commit(&w);
	op_release_sets(&w, w.nr_sets);
	n = take(&w, keeper, v, nr);
	if (n != (loss == NOTHING ? 0 : nr))
		sim_fail("device %u got %llu of %llu blocks in the end", keeper, n, nr);
	op_commit(&w);
	look_all(&w);
	op_close(&w);
	world_exit(&w);
}

int takeover_main(void)
{
	static const u64 sizes[] = { 40, 700 };
	unsigned int bits, size, loss, hold;
	char what[160];

	for (size = 0; size < ARRAY_SIZE(sizes); size++)
		for (hold = 0; hold < NR_HOLDS; hold++)
			for (loss = 0; loss < NR_LOSSES; loss++)
				for (bits = 0; bits < 16; bits++) {
					snprintf(what, sizeof(what),
						 "%llu mappings, metadata snapshot %u, the %s %s, bits %x", sizes[size],
						 hold, bits & 1 ? "origin" : "snapshot", loss_name[loss], bits);
					sim_log_clear();
					takeover_now = what;
					one(did.histories + 1, sizes[size], bits & 1, bits & 2, hold, loss, bits & 4, bits & 8);
				}
	takeover_now = NULL;
	printf("sim: %llu ways to lose a block: %llu times the other user took it over, %llu times it was refused; %llu power cuts before the commit and in it, %llu different images of them\n",
	       did.histories, did.taken, did.refused, stats.cuts, stats.cut_images);
	crash_exit();
	return 0;
}
