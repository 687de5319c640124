// SPDX-License-Identifier: GPL-2.0-only
/*
 * A commit in a second thread, and what happens beside it.
 *
 * Its freeze splits the open state: the model keeps what was frozen, and the open
 * state goes on.  Whenever the commit touches the device it may hand over to the
 * history, which then does whole operations; those that must wait for the
 * commit give it its turn.  Behind its end the durable state is the frozen one
 * exactly, or both are lost.
 */
#include <linux/kernel.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "world.h"

#define MAX_BESIDE 12

/* Called by the layer, under its lock, as the freeze begins. */
void beside_freeze(struct world *w)
{
	int i;

	w->frozen = state_clone(w->open);
	w->frozen_seq = thin_meta_open_seq(w->tm);
	w->frozen_super = disk_crc(w->disk, 0);
	memcpy(w->frozen_dropped, w->dropped, w->cap_data);
	memset(w->dropped, 0, w->cap_data);
	for (i = 0; i < MAX_HANDLES; i++) {
		w->handles[i].frozen = w->handles[i].changed;
		w->handles[i].changed = false;
	}
}

/* The frozen state is the durable one, or both states of the model have been forgotten. */
void beside_forget(struct world *w)
{
	int i;

	if (w->frozen)
		state_free(w->frozen);
	w->frozen = NULL;
	memset(w->frozen_dropped, 0, w->cap_data);
	for (i = 0; i < MAX_HANDLES; i++)
		w->handles[i].frozen = false;
	w->lost = false;
}

static void landed(struct world *w, int r)
{
	struct thin_dev *td;
	int i;

	if (opt.verbose)
		fprintf(stderr, "op %llu: the commit beside it ends: %d\n", world_op, r);
	sim_api_end("thin_meta_commit");
	if (r) {
		if (sim_faults == w->faults_flying && !(r == -ENOSPC && w->tight))
			sim_fail("thin_meta_commit beside others: error %d", r);
		if (!thin_meta_rolled_back(w->tm) && !thin_meta_failed(w->tm))
			sim_fail("thin_meta_commit beside others: error %d, but nothing was rolled back", r);
		stats.flights_lost++;
		w->lost = true;
		return;
	}
	if (!w->frozen)
		return;
	if (thin_meta_durable_seq(w->tm) != w->frozen_seq)
		sim_fail("transaction %llu was frozen, %llu is durable", w->frozen_seq, thin_meta_durable_seq(w->tm));
	if (!w->disk->data_flushed)
		sim_fail("the superblock was written without a data flush");
	for (i = 0; i < MAX_HANDLES; i++) {
		td = w->handles[i].td;
		if (td && w->handles[i].changed && thin_dev_changed_seq(td) <= w->frozen_seq)
			sim_fail("device %u has changed since the freeze, and counts as durable", w->handles[i].id);
	}
	became_durable(w, "thin_meta_commit beside others", w->frozen, w->frozen_dropped);
	beside_forget(w);
}

static void fly(void *arg)
{
	struct world *w = arg;
	int r = thin_meta_commit(w->tm);

	sim_pass_percent = 0;
	landed(w, r);
	w->flying = false;
}

/* Wait for the end of the commit. */
void beside_land(struct world *w)
{
	sim_pass_percent = 0;
	while (w->flying)
		sim_pass();
}

/* What the durable superblock reaches is not free, whatever the two transactions do. */
static void look_meta_space(struct world *w)
{
	struct thin_meta_space space;

	if (thin_meta_get_space(w->tm, &space) || !w->frozen || !w->formatted)
		return;
	if (space.meta_raw_free + w->durable_mblocks > space.meta_total)
		sim_fail("beside a commit %llu of %llu metadata blocks count as free, the durable state has %llu",
			 space.meta_raw_free, space.meta_total, w->durable_mblocks);
}

static void arm_faults(struct world *w)
{
	if (!opt.fault_percent || !rng_chance(&w->fault_rng, opt.fault_percent))
		return;
	arm_fault(w);
	/* One for each of the two. */
	if (rng_chance(&w->fault_rng, 30))
		arm_fault(w);
}

/* The numbers take into account what the layout is going to need: it may take less. */
#define LAYOUT_SLACK 16

static void look_layout(struct world *w, u64 reckoned)
{
	struct thin_meta_space space;

	if (!thin_meta_get_space(w->tm, &space) && space.meta_raw_free + LAYOUT_SLACK < reckoned)
		sim_fail("%llu metadata blocks were to be free when all is laid out, %llu are", reckoned, space.meta_raw_free);
}

/* Commit, and do @op meanwhile, again and again. */
void op_commit_beside(struct world *w, void (*op)(void *arg), void *arg)
{
	static const unsigned int percent[] = { 3, 15, 60 };
	unsigned int left = 1 + rng_below(&w->rng, MAX_BESIDE);
	u64 openings = w->openings;
	struct thin_meta_space space;
	bool known = !thin_meta_get_space(w->tm, &space) && thin_meta_changed(w->tm);

	note_op(w, "commit beside others");
	stats.flights++;
	w->disk->data_flushed = false;
	w->faults_flying = sim_faults;
	w->flying = true;
	sim_pass_rng.s = rng_next(&w->rng);
	sim_pass_percent = percent[rng_below(&w->rng, ARRAY_SIZE(percent))];
	sim_fork(fly, w);
	if (w->flying && known && w->frozen && !thin_meta_rolled_back(w->tm))
		look_layout(w, space.meta_raw_free);
	while (w->flying) {
		/* A freeze that failed leaves nothing to work with. */
		if (left && !thin_meta_rolled_back(w->tm)) {
			left--;
			arm_faults(w);
			op(arg);
			stats.beside++;
			if (w->flying)
				look_meta_space(w);
		} else {
			sim_pass_percent = 0;
		}
		sim_pass();
	}
	if (w->openings == openings && w->lost)
		op_abort(w);
}

/* ---- a device that does not keep up ---- */

#define FLOOD 5000
#define BITMAP_BLOCKS 16320
/* A part of the reserve that lasts behind the end of a small commit, and lets writes on. */
#define SCARCE 40

struct flood {
	struct world *w;
	void (*fn)(struct world *w);
	bool done;
};

static void once(void *arg)
{
	struct flood *f = arg;

	if (!f->done)
		f->fn(f->w);
	f->done = true;
}

/* Do @fn beside a commit of next to nothing. */
static void flow_over(struct world *w, u64 v, void (*fn)(struct world *w))
{
	struct flood f = { w, fn, false };

	for (; !f.done; v++) {
		op_write(w, 0, v, 1, false);
		op_commit_beside(w, once, &f);
	}
}

/* More than one transaction is to hold, while the commit does not go on. */
static void memory(struct world *w)
{
	u64 again = stats.again;
	u32 id;

	op_write(w, 0, 0, 8, false);
	if (stats.again != again || !w->flying)
		sim_fail("a small transaction is not let on beside a commit");
	for (id = 1; id <= FLOOD && !thin_meta_wants_commit(w->tm); id++)
		op_create(w, id);
	if (!w->flying || id > FLOOD)
		sim_fail("harness: no flood");
	op_write(w, 0, 8, 8, false);
	if (stats.again == again || w->flying)
		sim_fail("a large transaction grows on beside a commit");
	again = stats.again;
	op_remove(w, 0, 0, 1, 1);
	if (stats.again != again)
		sim_fail("a small transaction is not let on");
}

/* Touch every leaf: what that moves counts twice until it is durable. */
static void space(struct world *w)
{
	struct thin_meta_space space;
	u64 v;

	for (v = 0; v < w->last_v; v += 60) {
		op_write(w, 0, v, 1, true);
		if (thin_meta_get_space(w->tm, &space) || space.meta_raw_free < SCARCE)
			break;
	}
	if (!w->flying || v >= w->last_v)
		sim_fail("harness: no lack of metadata");
}

static void scarce(struct world *w)
{
	struct thin_meta_space space;

	if (thin_meta_get_space(w->tm, &space) || space.meta_free)
		sim_fail("harness: the lack of metadata is over");
	if (thin_meta_commit_alone(w->tm, &space))
		sim_fail("thin_meta_commit_alone failed");
	settle(w, "thin_meta_commit_alone");
	if (!space.meta_free || space.meta_raw_free != space.meta_total - w->durable_mblocks)
		sim_fail("thin_meta_commit_alone tells of %llu free metadata blocks, %llu of %llu are in use",
			 space.meta_raw_free, w->durable_mblocks, space.meta_total);
}

/* Counts of all bitmaps, the first one's last: each is loaded then, and others may make room for it. */
static void count_blocks(void *arg)
{
	struct world *w = arg;
	u64 nr = (w->open->data_blocks + BITMAP_BLOCKS - 1) / BITMAP_BLOCKS, i, b;
	u32 count;
	int r;

	for (i = 1; i <= nr; i++) {
		b = i % nr * BITMAP_BLOCKS;
		r = thin_meta_data_count(w->tm, b, &count);
		sim_api_end("thin_meta_data_count");
		if (r || !count != !w->open->refs[b])
			sim_fail("beside a commit data block %llu has %u references (error %d), the model %u", b, count, r,
				 w->open->refs[b]);
	}
}

/* A device that takes no writes: what was to go there is not forgotten before the commit is. */
static void dead_device(struct world *w)
{
	int i;

	for (i = 0; i < 10; i++) {
		op_close(w);
		op_open(w, false);
		op_write(w, 0, i, 1, false);
		w->armed = true;
		w->faults_seen = sim_faults;
		w->disk->fail_write_in = 1;
		w->disk->fails_for_good = true;
		op_commit_beside(w, count_blocks, w);
	}
}

/* Bitmaps that nothing has touched since a growth made them: only the commit that writes them has them. */
static void new_bitmaps(struct world *w)
{
	u64 nr;

	for (nr = 3; nr < 12; nr += 2) {
		op_resize_data(w, nr * BITMAP_BLOCKS);
		op_commit_beside(w, count_blocks, w);
	}
}

void flood(u64 seed)
{
	struct world w;

	scene_now = "flood";
	seed_now = seed;
	scene_begin(&w, seed, 4 * FLOOD, 4000);
	flow_over(&w, 100, memory);
	scene_end(&w);

	scene_begin(&w, seed, 570, 80000);
	for (w.last_v = 0; w.durable_mblocks < 280 && w.last_v < 79000; w.last_v += 64) {
		op_write(&w, 0, w.last_v, 64, false);
		if (thin_meta_wants_commit(w.tm) || !(w.last_v % 4096))
			op_commit(&w);
	}
	flow_over(&w, w.last_v, space);
	scarce(&w);
	scene_end(&w);

	scene_begin(&w, seed, 1024, 2 * BITMAP_BLOCKS);
	dead_device(&w);
	scene_end(&w);

	scene_begin(&w, seed, 1024, BITMAP_BLOCKS);
	new_bitmaps(&w);
	scene_end(&w);
}

void flood_print(void)
{
	printf("sim: behind a slow commit those wait who change too much, what they have moved is still there, and so are bitmaps\n");
}
