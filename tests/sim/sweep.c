// SPDX-License-Identifier: GPL-2.0-only
/*
 * The n-th call fails, for all n.
 *
 * A history makes a pool.  From there each kind of operation is done again and
 * again in a process of its own, with the first, second ... allocation of
 * memory, allocation of a metadata block, read, write or flush failing, once or
 * from then on, until one goes through without meeting its failure.  Each must
 * end as the interface says: an error, everything rolled back, the last durable
 * state whole on disk, the pool usable after it is opened anew, nothing leaked.
 */
#include <linux/kernel.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>
#include "history.h"
#include "sweep.h"

enum fault { NO_MEMORY, NO_BLOCK, READ, READS, WRITE, WRITES, FLUSH, FLUSHES, DATA_FLUSH, NR_FAULTS };

static const char * const fault_name[] = {
	"allocation of memory fails", "allocation of a metadata block and all later ones fail",
	"read fails", "read and all later ones fail", "write fails", "write and all later ones fail",
	"flush fails", "flush and all later ones fail", "flush of the data device fails",
};

enum step {
	CREATE, SNAP, DELETE, WRITE_SOME, WRITE_MANY, OVERWRITE, TAKE_OVER, REMOVE, REMOVE_ALL, HOLD, RELEASE_HOLD,
	GROW_DATA, GROW_META, COMMIT, REOPEN, ABORT, NEEDS_CHECK, RELEASE_SETS, LOOK, FORMAT, NR_STEPS
};

static const char * const step_name[] = {
	"create", "snapshot", "delete", "write", "write much", "overwrite", "take over", "remove", "remove all", "hold",
	"release", "grow data", "grow metadata", "commit", "reopen", "abort", "needs_check", "release sets", "look",
	"format",
};

/* What a failure's message says of where it was, and its replay. */
char sweep_now[160], sweep_replay[80];

static u64 nr_faults[NR_FAULTS];

int __real_sm_alloc(void *sm, u64 *block);
int __wrap_sm_alloc(void *sm, u64 *block);
static long no_block_in;

int __wrap_sm_alloc(void *sm, u64 *block)
{
	if (!no_block_in || --no_block_in)
		return __real_sm_alloc(sm, block);
	no_block_in = 1;
	sim_faults++;
	return -ENOSPC;
}

void sweep_disarm(void)
{
	no_block_in = 0;
}

static void arm(struct world *w, enum fault fault, long n)
{
	w->faults_seen = sim_faults;
	w->armed = true;
	w->disk->fails_for_good = fault == READS || fault == WRITES || fault == FLUSHES;
	switch (fault) {
	case NO_MEMORY:
		sim_alloc_fail_in = n;
		break;
	case NO_BLOCK:
		no_block_in = n;
		/* Then a commit may find no space. */
		w->tight = true;
		break;
	case READ:
	case READS:
		w->disk->fail_read_in = n;
		break;
	case WRITE:
	case WRITES:
		w->disk->fail_write_in = n;
		break;
	case DATA_FLUSH:
		w->fail_data_flush_in = n;
		break;
	default:
		w->disk->fail_flush_in = n;
		break;
	}
}

/* What an operation needs to find, before anything fails. */
static void prepare(struct world *w, const struct shape *s, enum step step, u32 id)
{
	u64 v;

	if (step == RELEASE_HOLD && !w->open->held)
		op_hold(w);
	if (step == HOLD && w->open->held)
		op_release_hold(w);
	if (step == TAKE_OVER && state_dev(w->open, id)) {
		v = pick_vblock(w, s, id);
		op_snap(w, new_id(w, s), id);
		op_commit(w);
		op_remove(w, id, v, v + 4, 10);
		op_commit(w);
		op_release_sets(w, w->nr_sets);
	}
	if (step == COMMIT || step == ABORT || step == REOPEN)
		history_ops(w, s, 3);
}

static void do_step(struct world *w, const struct shape *s, enum step step, u32 id)
{
	u64 v = state_dev(w->open, id) ? pick_vblock(w, s, id) : 0;
	bool there = state_dev(w->open, id);

	switch (step) {
	case CREATE:
		op_create(w, new_id(w, s));
		break;
	case SNAP:
		op_snap(w, new_id(w, s), id);
		break;
	case DELETE:
		op_delete(w, id);
		break;
	case WRITE_SOME:
	case OVERWRITE:
		if (there)
			op_write(w, id, v, 8, step == OVERWRITE);
		break;
	case WRITE_MANY:
		if (there)
			op_write(w, id, s->max_vblock / 2, 16, false);
		break;
	case TAKE_OVER:
		if (there)
			op_take_over(w, id, v, 6);
		break;
	case REMOVE:
		if (there)
			op_remove(w, id, v, v + 20, 1);
		break;
	case REMOVE_ALL:
		if (there)
			op_remove(w, id, 0, ~0ULL, 1000);
		break;
	case HOLD:
		op_hold(w);
		break;
	case RELEASE_HOLD:
		op_release_hold(w);
		break;
	case GROW_DATA:
		op_resize_data(w, w->open->data_blocks + 20000);
		break;
	case GROW_META:
		op_resize_meta(w, w->disk->nr_blocks + 17000);
		break;
	case COMMIT:
		op_commit(w);
		break;
	case REOPEN:
		op_close(w);
		op_open(w, false);
		break;
	case ABORT:
		op_abort(w);
		break;
	case NEEDS_CHECK:
		op_commit(w);
		op_needs_check(w);
		break;
	case RELEASE_SETS:
		op_release_sets(w, w->nr_sets);
		break;
	default:
		look_all(w);
		break;
	}
}

/* Returns whether the failure was met. */
static bool try(struct world *w, const struct shape *s, enum step step, enum fault fault, long n)
{
	unsigned long before = sim_faults;
	u32 id;

	if (step == FORMAT) {
		op_close(w);
		world_exit(w);
		world_init(w, seed_now, s->meta_blocks, s->data_blocks);
		arm(w, fault, n);
		op_open(w, true);
		goto done;
	}
	w->rng.s = seed_now + step;
	id = pick_id(w, s);
	prepare(w, s, step, id);
	if (!state_dev(w->open, id))
		id = pick_id(w, s);
	arm(w, fault, n);
	do_step(w, s, step, id);
done:
	disarm_fault(w);
	if (sim_faults == before)
		return false;
	/* Life goes on. */
	look_all(w);
	op_create(w, new_id(w, s));
	history_end(w);
	return true;
}

#define MET	7

/* Small pools: each failure costs a process that looks at all of it. One in four has hardly any metadata space. */
static void start(struct world *w, struct shape *s, u64 seed)
{
	*s = (struct shape){
		.meta_blocks = seed % 4 ? 300 : 30 + seed % 50, .data_blocks = seed % 3 ? 2500 : 200,
		.max_devs = 5, .max_vblock = 1500, .commit_every = 15,
	};
	history_start(w, s, seed);
	history_ops(w, s, opt.ops_per_seed);
	/* Half of the pools have read nothing yet. */
	if (seed % 2) {
		op_close(w);
		op_open(w, false);
	}
}

static void say(u64 seed, enum step step, enum fault fault, long n)
{
	snprintf(sweep_now, sizeof(sweep_now), "%s: %ld. %s", step_name[step], n, fault_name[fault]);
	snprintf(sweep_replay, sizeof(sweep_replay), "--sweep %llu:%d:%d:%ld --ops %ld", seed, step, fault, n,
		 opt.ops_per_seed);
}

void sweep_one(u64 seed, int step, int fault, long n)
{
	struct shape s;
	struct world w;

	start(&w, &s, seed);
	say(seed, step, fault, n);
	printf("%s: %s\n", sweep_now, try(&w, &s, step, fault, n) ? "handled" : "not met");
}

void sweep(u64 seed)
{
	enum step step;
	enum fault fault;
	struct shape s;
	struct world w;
	int status;
	pid_t pid;
	long n;

	start(&w, &s, seed);
	for (step = 0; step < NR_STEPS; step++)
		for (fault = 0; fault < NR_FAULTS; fault++)
			for (n = 1; ; n++) {
				say(seed, step, fault, n);
				fflush(stdout);
				pid = fork();
				if (!pid) {
					if (try(&w, &s, step, fault, n))
						exit(MET);
					_exit(0);
				}
				if (pid < 0 || waitpid(pid, &status, 0) != pid)
					sim_fail("no process to be had");
				if (WIFEXITED(status) && !WEXITSTATUS(status))
					break;
				/* It has said why. */
				if (WIFEXITED(status) && WEXITSTATUS(status) == 1)
					_exit(1);
				if (!WIFEXITED(status) || WEXITSTATUS(status) != MET)
					sim_fail("it ends with status 0x%x", status);
				nr_faults[fault]++;
			}
	sweep_now[0] = 0;
	op_close(&w);
	world_exit(&w);
}

void sweep_print(void)
{
	printf("sim: every n-th call: %llu allocations of memory failed, %llu allocations of metadata blocks failed, %llu reads failed, %llu writes failed, %llu flushes failed\n",
	       nr_faults[NO_MEMORY], nr_faults[NO_BLOCK], nr_faults[READ] + nr_faults[READS],
	       nr_faults[WRITE] + nr_faults[WRITES], nr_faults[FLUSH] + nr_faults[FLUSHES] + nr_faults[DATA_FLUSH]);
}
