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

/* Commit, and do @op meanwhile, again and again. */
void op_commit_beside(struct world *w, void (*op)(void *arg), void *arg)
{
	static const unsigned int percent[] = { 3, 15, 60 };
	unsigned int left = 1 + rng_below(&w->rng, MAX_BESIDE);
	u64 openings = w->openings;

	note_op(w, "commit beside others");
	stats.flights++;
	w->disk->data_flushed = false;
	w->faults_flying = sim_faults;
	w->flying = true;
	sim_pass_rng.s = rng_next(&w->rng);
	sim_pass_percent = percent[rng_below(&w->rng, ARRAY_SIZE(percent))];
	sim_fork(fly, w);
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
