// SPDX-License-Identifier: GPL-2.0-only
/* The layer, the model and what compares them; see the header. */
#include <linux/crc32c.h>
#include <linux/err.h>
#include <linux/kernel.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "world.h"

struct options opt;
struct stats stats;
struct world *world_now;
u64 world_op, seed_now;
const char *world_what = "";

static void *must(void *p)
{
	if (!p)
		sim_fail("the machine is out of memory");
	return p;
}

void sim_api_end(const char *what)
{
	if (sim_locks_held || sim_spins_held)
		sim_fail("%s returned with %d locks held", what, sim_locks_held + sim_spins_held);
	if (bufio_held)
		sim_fail("%s returned with %d dm-bufio buffers held", what, bufio_held);
	if (sim_noio_depth)
		sim_fail("%s returned inside memalloc_noio", what);
}

/* ---- failures made to happen ---- */

void arm_fault(struct world *w)
{
	u64 n = 1 + rng_below(&w->fault_rng, rng_chance(&w->fault_rng, 50) ? 4 : 60);

	switch (rng_below(&w->fault_rng, 5)) {
	case 0:
	case 1:
		sim_alloc_fail_in = n;
		break;
	case 2:
		w->disk->fail_read_in = n;
		break;
	case 3:
		w->disk->fail_write_in = n;
		break;
	case 4:
		w->disk->fail_flush_in = 1 + n % 2;
		break;
	}
	w->faults_seen = sim_faults;
	w->armed = true;
}

void disarm_fault(struct world *w)
{
	sim_alloc_fail_in = 0;
	w->disk->fail_read_in = 0;
	w->disk->fail_write_in = 0;
	w->disk->fail_flush_in = 0;
	w->armed = false;
}

/* Is this error one that was made to happen? */
static bool injected(struct world *w, int r)
{
	if (!w->armed || sim_faults == w->faults_seen || (r != -EIO && r != -ENOMEM))
		return false;
	stats.faults++;
	disarm_fault(w);
	return true;
}

/* ---- what the layer calls ---- */

static void data_flush_begin(void *context)
{
	struct world *w = context;

	if (!sim_locks_held)
		sim_fail("data_flush_begin without the metadata lock");
	w->flush_begun++;
	disk_note(w->disk, EV_DATA_BEGIN);
}

static int data_flush_wait(void *context)
{
	struct world *w = context;

	w->flush_waited++;
	if (w->flush_waited != w->flush_begun)
		sim_fail("data_flush_wait without data_flush_begin");
	w->disk->data_flushed = true;
	disk_note(w->disk, EV_DATA_WAIT);
	return 0;
}

static void freed(void *context, struct thin_freed *set)
{
	struct world *w = context;

	if (!sim_locks_held)
		sim_fail("ops.freed called without a lock");
	if (w->nr_sets + w->nr_new_sets >= MAX_SETS)
		sim_fail("more freed sets than the harness keeps");
	w->sets[w->nr_sets + w->nr_new_sets++] = (struct freed_set){ .set = set };
}

/* ---- books on data blocks ---- */

void note_freed(void *arg, u64 block)
{
	struct world *w = arg;

	w->dropped[block] = 1;
}

static void size_books(struct world *w, u64 nr)
{
	if (nr <= w->cap_data)
		return;
	w->is_reserved = must(realloc(w->is_reserved, nr + 1));
	w->quarantined = must(realloc(w->quarantined, (nr + 1) * sizeof(*w->quarantined)));
	w->dropped = must(realloc(w->dropped, nr + 1));
	memset(w->is_reserved + w->cap_data, 0, nr + 1 - w->cap_data);
	memset(w->quarantined + w->cap_data, 0, (nr + 1 - w->cap_data) * sizeof(*w->quarantined));
	memset(w->dropped + w->cap_data, 0, nr + 1 - w->cap_data);
	w->cap_data = nr;
}

static bool can_take(struct world *w, u64 b)
{
	return b < w->durable->data_blocks && !w->durable->refs[b] && !w->open->refs[b] &&
	       !w->is_reserved[b] && !w->quarantined[b] && !w->dropped[b];
}

static void add_reserved(struct world *w, u64 b)
{
	w->reserved = must(realloc(w->reserved, (w->nr_reserved + 1) * sizeof(*w->reserved)));
	w->reserved[w->nr_reserved++] = b;
	w->is_reserved[b] = 1;
}

static void del_reserved(struct world *w, u64 b)
{
	u64 i;

	for (i = 0; i < w->nr_reserved && w->reserved[i] != b; i++)
		;
	if (i == w->nr_reserved)
		sim_fail("harness: block %llu is not reserved", b);
	w->reserved[i] = w->reserved[--w->nr_reserved];
	w->is_reserved[b] = 0;
}

/* ---- after every call ---- */

/* The announced sets hold exactly what the model saw freed, each block once. */
static void fill_sets(struct world *w)
{
	u64 nr = w->open->data_blocks, b, fb, fe, n = 0;
	struct freed_set *set;
	size_t i;

	for (b = 0; b < nr; b++)
		n += w->dropped[b] && !w->open->refs[b];
	if (w->ops.freed && n && !w->nr_new_sets && w->tm)
		sim_fail("the commit freed %llu data blocks and announced no set", n);
	for (i = 0; i < w->nr_new_sets; i++) {
		set = &w->sets[w->nr_sets + i];
		for (b = 0; b < nr && thin_freed_next(set->set, b, nr, &fb, &fe); b = fe) {
			if (fb < b || fe <= fb || fe > nr)
				sim_fail("thin_freed_next from %llu gave [%llu, %llu)", b, fb, fe);
			set->blocks = must(realloc(set->blocks, (set->nr + fe - fb) * sizeof(*set->blocks)));
			for (; fb < fe; fb++, n--) {
				if (!w->dropped[fb] || w->open->refs[fb])
					sim_fail("data block %llu is in a freed set: dropped %d, references %u", fb,
						 w->dropped[fb], w->open->refs[fb]);
				w->dropped[fb] = 0;
				w->quarantined[fb]++;
				set->blocks[set->nr++] = fb;
			}
		}
	}
	if (w->ops.freed && n && w->tm)
		sim_fail("%llu freed data blocks are in no set", n);
	memset(w->dropped, 0, w->cap_data);
	w->nr_sets += w->nr_new_sets;
	w->nr_new_sets = 0;
}

static void guard_blocks(struct world *w, const struct check_result *res)
{
	u8 *guard = must(calloc(res->meta.nr_blocks, 1));
	u64 b;

	for (b = 0; b < res->meta.nr_blocks; b++)
		guard[b] = !!res->meta_counts[b];
	disk_guard(w->disk, guard, res->meta.nr_blocks);
	free(guard);
}

void settle(struct world *w, const char *what)
{
	struct check_result res;
	struct state *allowed[2];
	size_t nr_allowed = 0;
	struct thin_meta_space space;
	const char *diff;
	bool tools, oracle;
	int i;

	sim_api_end(what);
	if (w->flush_begun != w->flush_waited)
		sim_fail("%s: data_flush_begin called %d times, data_flush_wait %d times", what,
			 w->flush_begun, w->flush_waited);
	if (w->disk->nr_super_writes == w->supers_seen) {
		if (w->nr_new_sets)
			sim_fail("%s: ops.freed called without a commit", what);
		return;
	}
	w->supers_seen = w->disk->nr_super_writes;
	stats.commits++;
	if (w->disk->unflushed)
		sim_fail("%s: returned with %zu writes not flushed", what, w->disk->unflushed);
	if (check_image(w->disk, &res, 0))
		sim_fail("%s: the image is wrong: %s", what, res.err);
	diff = state_differs(w->open, &res);
	if (diff)
		sim_fail("%s: the image is not the model: %s", what, diff);

	if (opt.cut_percent && rng_chance(&w->cut_rng, opt.cut_percent)) {
		allowed[nr_allowed++] = w->durable;
		allowed[nr_allowed++] = w->open;
		crash_cuts(w, allowed, nr_allowed);
	}
	tools = opt.tool_percent && rng_chance(&w->cut_rng, opt.tool_percent);
	oracle = opt.oracle_percent && rng_chance(&w->cut_rng, opt.oracle_percent);
	if (tools || oracle)
		tools_judge(w->disk, tools, oracle);

	fill_sets(w);
	w->formatted = true;
	for (i = 0; i < MAX_HANDLES; i++)
		w->handles[i].changed = false;
	w->durable_seq = w->tm ? thin_meta_durable_seq(w->tm) : 0;
	state_free(w->durable);
	w->durable = state_clone(w->open);
	guard_blocks(w, &res);
	disk_mark(w->disk);
	w->disk->data_flushed = false;

	if (w->tm && !thin_meta_changed(w->tm)) {
		if (thin_meta_get_space(w->tm, &space))
			sim_fail("%s: thin_meta_get_space failed after a commit", what);
		if (space.meta_total != res.meta.nr_blocks ||
		    space.meta_raw_free != res.meta.nr_blocks - res.meta.nr_allocated)
			sim_fail("%s: metadata space says %llu free of %llu, the image has %llu used of %llu", what,
				 space.meta_raw_free, space.meta_total, res.meta.nr_allocated, res.meta.nr_blocks);
	}
	check_free(&res);
}

static void fresh_open_state(struct world *w)
{
	state_free(w->open);
	w->open = state_clone(w->durable);
	memset(w->dropped, 0, w->cap_data);
}

/*
 * A commit was made to fail.  If block 0 was on its way the disk may have
 * either state; which it is the image says, and the layer must agree.
 */
static void which_state(struct world *w)
{
	struct check_result res;

	if (check_image(w->disk, &res, 0))
		sim_fail("after a failed commit the image is wrong: %s", res.err);
	if (state_differs(w->durable, &res)) {
		if (state_differs(w->open, &res))
			sim_fail("after a failed commit the image is neither state: %s", state_differs(w->open, &res));
		/* Sets are announced if it was something behind the commit that failed. */
		if (w->nr_new_sets)
			fill_sets(w);
		state_free(w->durable);
		w->durable = state_clone(w->open);
	}
	if (w->nr_new_sets)
		sim_fail("ops.freed was called, but nothing became durable");
	guard_blocks(w, &res);
	check_free(&res);
	/* What was written counts as read back: a drive keeps to what it has once said. */
	if (w->disk->unflushed || w->disk->nr_super_writes != w->supers_seen)
		disk_settle(w->disk);
	w->supers_seen = w->disk->nr_super_writes;
	fresh_open_state(w);
}

/* ---- opening and closing ---- */

void world_init(struct world *w, u64 seed, u64 meta_blocks, u64 data_blocks)
{
	memset(w, 0, sizeof(*w));
	w->rng.s = seed;
	w->cut_rng.s = seed ^ 0x5ca1ab1e;
	w->fault_rng.s = seed ^ 0xfa0175;
	w->faults_before = sim_faults;
	bufio_policy.rng.s = seed ^ 0xb0f10;
	w->disk = disk_new(meta_blocks);
	w->disk->record = true;
	w->bdev.disk = w->disk;
	w->bdev.sectors = meta_blocks * 8 + rng_below(&w->rng, 8);
	w->open = state_new();
	w->durable = state_new();
	w->ops.data_flush_begin = data_flush_begin;
	w->ops.data_flush_wait = data_flush_wait;
	w->ops.freed = rng_chance(&w->rng, 75) ? freed : NULL;
	size_books(w, data_blocks ? data_blocks : 1);
	world_now = w;
}

void world_exit(struct world *w)
{
	if (w->tm)
		op_close(w);
	disk_free(w->disk);
	state_free(w->open);
	state_free(w->durable);
	free(w->reserved);
	free(w->is_reserved);
	free(w->quarantined);
	free(w->dropped);
	world_now = NULL;
}

static void note_op(struct world *w, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
static void note_op(struct world *w, const char *fmt, ...)
{
	static char text[160];
	va_list ap;

	(void)w;
	va_start(ap, fmt);
	vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	world_what = text;
	if (opt.verbose)
		fprintf(stderr, "op %llu: %s\n", world_op, text);
}

void op_open(struct world *w, bool may_format)
{
	long before = sim_live_allocs;

	note_op(w, "open");
	w->tm = thin_meta_open(&w->bdev, DATA_BLOCK_SECTORS, may_format, &w->ops, w);
	if (IS_ERR(w->tm)) {
		sim_api_end("thin_meta_open");
		if (sim_live_allocs != before)
			sim_fail("a failed thin_meta_open leaks %ld allocations", sim_live_allocs - before);
		if (!injected(w, PTR_ERR(w->tm)))
			sim_fail("thin_meta_open: error %ld", PTR_ERR(w->tm));
		w->tm = NULL;
		op_open(w, may_format);
		return;
	}
	w->openings++;
	w->durable_seq = thin_meta_durable_seq(w->tm);
	settle(w, "thin_meta_open");
}

void op_close(struct world *w)
{
	int r;

	op_release_sets(w, w->nr_sets);
	while (w->nr_reserved)
		op_unreserve(w);
	world_close_devs(w);
	note_op(w, "close");
	r = thin_meta_close(w->tm);
	w->tm = NULL;
	if (r && injected(w, r)) {
		which_state(w);
	} else if (r && !(r == -ENOSPC && w->tight)) {
		sim_fail("thin_meta_close: error %d", r);
	}
	if (w->disk->nr_super_writes == w->supers_seen)
		fresh_open_state(w);
	settle(w, "thin_meta_close");
	/* Sets of the last commit are announced before close returns, or not at all. */
	if (w->nr_sets)
		sim_fail("thin_meta_close announced a freed set that nobody can release");
	if (sim_live_allocs)
		sim_fail("thin_meta_close leaves %ld allocations behind", sim_live_allocs);
}

struct thin_dev *world_dev(struct world *w, u32 id)
{
	int i, r, free_slot = -1;

	for (i = 0; i < MAX_HANDLES; i++) {
		if (w->handles[i].td && w->handles[i].id == id)
			return w->handles[i].td;
		if (!w->handles[i].td)
			free_slot = i;
	}
	if (free_slot < 0) {
		free_slot = rng_below(&w->rng, MAX_HANDLES);
		thin_meta_close_dev(w->handles[free_slot].td);
		sim_api_end("thin_meta_close_dev");
		w->handles[free_slot].td = NULL;
	}
	r = thin_meta_open_dev(w->tm, id, &w->handles[free_slot].td);
	sim_api_end("thin_meta_open_dev");
	if (!state_dev(w->open, id)) {
		if (r && injected(w, r))
			r = -ENODATA;
		if (r != -ENODATA)
			sim_fail("thin_meta_open_dev of the absent device %u: %d", id, r);
		w->handles[free_slot].td = NULL;
		return NULL;
	}
	if (r && injected(w, r))
		r = thin_meta_open_dev(w->tm, id, &w->handles[free_slot].td);
	if (r)
		sim_fail("thin_meta_open_dev(%u): error %d", id, r);
	w->handles[free_slot].id = id;
	w->handles[free_slot].changed = false;
	if (thin_dev_id(w->handles[free_slot].td) != id)
		sim_fail("thin_dev_id is not %u", id);
	return w->handles[free_slot].td;
}

static void mark_changed(struct world *w, u32 id)
{
	int i;

	for (i = 0; i < MAX_HANDLES; i++)
		if (w->handles[i].td && w->handles[i].id == id)
			w->handles[i].changed = true;
}

void world_close_dev(struct world *w, u32 id)
{
	int i;

	for (i = 0; i < MAX_HANDLES; i++)
		if (w->handles[i].td && w->handles[i].id == id) {
			thin_meta_close_dev(w->handles[i].td);
			w->handles[i].td = NULL;
		}
	sim_api_end("thin_meta_close_dev");
}

void world_close_devs(struct world *w)
{
	int i;

	for (i = 0; i < MAX_HANDLES; i++)
		if (w->handles[i].td) {
			thin_meta_close_dev(w->handles[i].td);
			w->handles[i].td = NULL;
		}
	sim_api_end("thin_meta_close_dev");
}

/* ---- transactions ---- */

bool op_commit(struct world *w)
{
	u64 seq = thin_meta_open_seq(w->tm), supers = w->disk->nr_super_writes;
	bool changed = thin_meta_changed(w->tm);
	int r;

	note_op(w, "commit");
	w->disk->data_flushed = false;
	r = thin_meta_commit(w->tm);
	if (r == -ENOSPC && w->tight) {
		stats.nospace++;
		settle(w, "thin_meta_commit");
		op_abort(w);
		return false;
	}
	if (r && injected(w, r)) {
		sim_api_end("thin_meta_commit");
		op_abort(w);
		return false;
	}
	if (r)
		sim_fail("thin_meta_commit: error %d", r);
	if (w->disk->nr_super_writes != supers) {
		if (w->ops.data_flush_begin && !w->disk->data_flushed)
			sim_fail("the superblock was written without a data flush");
		if (thin_meta_durable_seq(w->tm) < seq || thin_meta_open_seq(w->tm) <= seq)
			sim_fail("sequence numbers did not move with the commit");
	} else if (changed) {
		sim_fail("a commit of a changed transaction wrote no superblock");
	}
	if (thin_meta_changed(w->tm))
		sim_fail("thin_meta_changed right after a commit");
	settle(w, "thin_meta_commit");
	return true;
}

/* What thin_check --clear-needs-check-flag does. */
static void clear_needs_check(struct world *w)
{
	u8 block[DISK_BLOCK];
	u32 csum;

	memcpy(block, disk_peek(w->disk, 0), DISK_BLOCK);
	block[4] &= ~1;
	csum = crc32c(~0U, block + 4, DISK_BLOCK - 4) ^ 160774;
	memcpy(block, &csum, 4);
	disk_poke(w->disk, 0, block);
	w->open->needs_check = false;
	w->durable->needs_check = false;
}

/*
 * As the targets do it: roll back, perhaps note that a check is due, and take
 * the pool down.  Nothing may change it before it is opened anew.
 */
void op_abort(struct world *w)
{
	bool was_changed[MAX_HANDLES], faulted = sim_faults != w->faults_before;
	struct thin_meta_space space;
	bool failed;
	int r, i, k;

	disarm_fault(w);
	note_op(w, "abort");
	stats.aborts++;
	for (i = 0; i < MAX_HANDLES; i++)
		was_changed[i] = w->handles[i].td && w->handles[i].changed;
	r = thin_meta_abort(w->tm);
	if (r && !(faulted && thin_meta_failed(w->tm)))
		sim_fail("thin_meta_abort: error %d", r);
	failed = r;
	if (faulted) {
		w->faults_before = sim_faults;
		which_state(w);
		memset(was_changed, 0, sizeof(was_changed));
	} else if (w->disk->nr_super_writes != w->supers_seen) {
		sim_fail("thin_meta_abort wrote the superblock");
	}
	sim_api_end("thin_meta_abort");
	if (thin_meta_changed(w->tm))
		sim_fail("thin_meta_changed right after an abort");
	if (thin_meta_durable_seq(w->tm) != w->durable_seq && !faulted)
		sim_fail("thin_meta_durable_seq moved with an abort");
	for (i = 0; i < MAX_HANDLES; i++)
		if (was_changed[i] && !thin_dev_rolled_back(w->handles[i].td))
			sim_fail("device %u was changed, aborted and is not marked rolled back", w->handles[i].id);
	fresh_open_state(w);
	r = thin_meta_create_thin(w->tm, 12345);
	sim_api_end("thin_meta_create_thin");
	if (r != -EIO && r != -EPERM && r != -EEXIST)
		sim_fail("a change right after an abort: %d", r);
	if (thin_meta_get_space(w->tm, &space) && !failed)
		sim_fail("thin_meta_get_space after an abort failed");
	for (i = 0; i < MAX_HANDLES && !failed; i++)
		if (w->handles[i].td && state_dev(w->open, w->handles[i].id) && rng_chance(&w->rng, 50)) {
			look_numbers(w, w->handles[i].id);
			look_ranges(w, w->handles[i].id, 0, 500);
			for (k = 0; k < 20; k++)
				look_point(w, w->handles[i].id, w->last_v - min_t(u64, w->last_v, 4) + k);
		}
	if (!failed && rng_chance(&w->rng, 50)) {
		world_what = "set_needs_check";
		w->open->needs_check = true;
		r = thin_meta_set_needs_check(w->tm);
		if (r)
			sim_fail("thin_meta_set_needs_check: error %d", r);
		if (!thin_meta_needs_check(w->tm))
			sim_fail("thin_meta_needs_check is false after setting it");
		settle(w, "thin_meta_set_needs_check");
		if (!w->durable->needs_check)
			sim_fail("thin_meta_set_needs_check wrote nothing");
	}
	op_close(w);
	if (w->durable->needs_check)
		clear_needs_check(w);
	op_open(w, false);
	world_what = "abort";
}

/*
 * Others may commit before the one whose change failed gets to the rollback:
 * then what failed either left no trace or nothing is written.
 */
static void commit_behind_error(struct world *w)
{
	int r;

	if (rng_chance(&w->rng, 50))
		return;
	world_what = "commit behind a failed change";
	r = thin_meta_commit(w->tm);
	if (!r)
		settle(w, "thin_meta_commit");
	else if (r != -EIO && !(r == -ENOSPC && w->tight))
		sim_fail("thin_meta_commit behind a failed change: error %d", r);
	sim_api_end("thin_meta_commit");
}

/* What a failed change leaves is nobody's: as the interface says, abort. */
static bool survived(struct world *w, const char *what, int r)
{
	if (!r)
		return true;
	/* Some calls answer EIO for a lack of space that left the transaction half changed. */
	if (injected(w, r)) {
		sim_api_end(what);
		commit_behind_error(w);
		op_abort(w);
		return false;
	}
	if (r != -ENOSPC && !(r == -EIO && w->tight))
		sim_fail("%s: error %d", what, r);
	stats.nospace++;
	settle(w, what);
	commit_behind_error(w);
	op_abort(w);
	return false;
}

/* These errors leave the transaction as it was; going on and aborting are both right. */
static bool survived_whole(struct world *w, const char *what, int r)
{
	if (r == -ENOSPC && rng_chance(&w->rng, 50)) {
		stats.nospace++;
		settle(w, what);
		return false;
	}
	return survived(w, what, r);
}

void op_trans_id(struct world *w, bool right)
{
	u64 now = thin_meta_transaction_id(w->tm), next = now + 1 + rng_below(&w->rng, 1000);
	int r;

	note_op(w, "set_transaction_id");
	if (now != w->open->trans_id)
		sim_fail("thin_meta_transaction_id: %llu, the model has %llu", now, w->open->trans_id);
	r = thin_meta_set_transaction_id(w->tm, right ? now : now + 1, next);
	if (right != !r || (!right && r != -EINVAL))
		sim_fail("thin_meta_set_transaction_id: error %d", r);
	if (right)
		w->open->trans_id = next;
	settle(w, "thin_meta_set_transaction_id");
}

/* ---- devices ---- */

void op_create(struct world *w, u32 id)
{
	bool there = state_dev(w->open, id);
	int r;

	note_op(w, "create_thin %u", id);
	r = thin_meta_create_thin(w->tm, id);
	if (there) {
		if (r != -EEXIST && survived(w, "thin_meta_create_thin", r))
			sim_fail("create_thin of the existing device %u: error %d", id, r);
	} else if (survived_whole(w, "thin_meta_create_thin", r)) {
		state_create(w->open, id);
	}
	settle(w, "thin_meta_create_thin");
}

void op_snap(struct world *w, u32 id, u32 origin)
{
	bool there = state_dev(w->open, id), have = state_dev(w->open, origin);
	int r;

	note_op(w, "create_snap %u of %u", id, origin);
	r = thin_meta_create_snap(w->tm, id, origin);
	if (there || !have) {
		if (r != -EEXIST && r != -ENODATA && survived_whole(w, "thin_meta_create_snap", r))
			sim_fail("create_snap %u of %u: error %d", id, origin, r);
	} else if (survived_whole(w, "thin_meta_create_snap", r)) {
		state_snap(w->open, id, origin);
		stats.snaps++;
	}
	settle(w, "thin_meta_create_snap");
}

struct yield {
	struct world *w;
	u32 id;
	int nr;
};

static bool stop_yielding(void *arg)
{
	struct yield *y = arg;

	y->nr++;
	return y->nr > 3;
}

/*
 * A long delete commits on its way.  Which mappings are gone by then only the
 * image knows; it must be some of the device's, and all else as it was.
 */
static void sync_deleted(struct world *w, u32 id)
{
	struct mdev *dev = state_dev(w->open, id);
	const struct check_dev *c = NULL;
	struct check_result res;
	size_t i, k = 0, n;
	u64 *gone;

	if (w->disk->nr_super_writes == w->supers_seen)
		return;
	if (check_image(w->disk, &res, 0))
		sim_fail("thin_meta_delete committed, the image is wrong: %s", res.err);
	for (i = 0; i < res.live.nr; i++)
		if (res.live.devs[i].id == id)
			c = &res.live.devs[i];
	if (!c)
		sim_fail("thin_meta_delete committed the end of its work");
	gone = must(malloc((dev->set->nr + 1) * sizeof(*gone)));
	for (i = 0, n = 0; i < dev->set->nr; i++) {
		if (k < c->nr && c->maps[k].v == dev->set->m[i].v)
			k++;
		else
			gone[n++] = dev->set->m[i].v;
	}
	if (k != c->nr)
		sim_fail("thin_meta_delete committed mappings that were not there");
	for (i = 0; i < n; i++)
		state_remove(w->open, dev, gone[i], gone[i] + 1, note_freed, w);
	free(gone);
	check_free(&res);
	stats.partial++;
	settle(w, "thin_meta_delete");
}

void op_delete(struct world *w, u32 id)
{
	bool there = state_dev(w->open, id);
	struct yield y = { w, id, 0 };
	int r;

	note_op(w, "delete %u", id);
	world_close_dev(w, id);
	r = thin_meta_delete(w->tm, id, stop_yielding, &y);
	if (there)
		sync_deleted(w, id);
	if (!there) {
		if (r != -ENODATA && survived(w, "thin_meta_delete", r))
			sim_fail("delete of the absent device %u: error %d", id, r);
	} else if (survived_whole(w, "thin_meta_delete", r)) {
		state_delete(w->open, id, note_freed, w);
	}
	settle(w, "thin_meta_delete");
}

/* ---- data blocks ---- */

/* Is there metadata space for new mappings, if need be after a commit? */
bool meta_left(struct world *w)
{
	struct thin_meta_space space;

	if (thin_meta_get_space(w->tm, &space))
		sim_fail("thin_meta_get_space failed");
	if (space.meta_free || !w->polite)
		return true;
	if (!op_commit(w) || thin_meta_get_space(w->tm, &space))
		return false;
	return space.meta_free;
}

/* Returns how many blocks were reserved, 0 for none to be had. */
static u64 reserve(struct world *w, u64 want, u64 *begin)
{
	u64 len = 0, i;
	int r;

	r = thin_meta_alloc_data(w->tm, want, begin, &len);
	sim_api_end("thin_meta_alloc_data");
	if (r == -ENOSPC) {
		for (i = 0; i < w->durable->data_blocks; i++)
			if (can_take(w, i))
				sim_fail("thin_meta_alloc_data found no space, but block %llu is free", i);
		return 0;
	}
	if (r && injected(w, r)) {
		op_abort(w);
		return 0;
	}
	if (r)
		sim_fail("thin_meta_alloc_data: error %d", r);
	if (!len || len > want)
		sim_fail("thin_meta_alloc_data(%llu) gave %llu blocks", want, len);
	for (i = *begin; i < *begin + len; i++) {
		if (!can_take(w, i))
			sim_fail("data block %llu was handed out: committed size %llu, durable refs %u, open refs %u, reserved %d, quarantined %d, dropped %d",
				 i, w->durable->data_blocks,
				 i < w->durable->data_blocks ? w->durable->refs[i] : 0,
				 i < w->open->data_blocks ? w->open->refs[i] : 0, w->is_reserved[i],
				 w->quarantined[i], w->dropped[i]);
		add_reserved(w, i);
	}
	return len;
}

void op_reserve_only(struct world *w, u64 want)
{
	u64 begin;

	note_op(w, "alloc_data %llu", want);
	reserve(w, want, &begin);
	settle(w, "thin_meta_alloc_data");
}

void op_unreserve(struct world *w)
{
	u64 b, n = 1;

	if (!w->nr_reserved)
		return;
	b = w->reserved[rng_below(&w->rng, w->nr_reserved)];
	while (b && w->is_reserved[b - 1] && rng_chance(&w->rng, 50))
		b--;
	while (b + n < w->cap_data && w->is_reserved[b + n] && rng_chance(&w->rng, 80))
		n++;
	note_op(w, "unreserve %llu+%llu", b, n);
	thin_meta_unreserve_data(w->tm, b, n);
	while (n--)
		del_reserved(w, b + n);
	settle(w, "thin_meta_unreserve_data");
}

void op_release_sets(struct world *w, size_t nr)
{
	size_t i, k;

	if (nr > w->nr_sets)
		nr = w->nr_sets;
	note_op(w, "release %zu freed sets", nr);
	for (i = 0; i < nr; i++) {
		struct freed_set *s = &w->sets[i];

		thin_meta_release_freed(w->tm, s->set);
		sim_api_end("thin_meta_release_freed");
		for (k = 0; k < s->nr; k++)
			w->quarantined[s->blocks[k]]--;
		free(s->blocks);
	}
	memmove(w->sets, w->sets + nr, (w->nr_sets - nr) * sizeof(w->sets[0]));
	w->nr_sets -= nr;
}

/* ---- mappings ---- */

static struct mdev *must_dev(struct world *w, u32 id)
{
	struct mdev *d = state_dev(w->open, id);

	if (!d)
		sim_fail("harness: device %u is not there", id);
	return d;
}

void op_write(struct world *w, u32 id, u64 v, u64 nr, bool force_new)
{
	struct thin_insert ins[64];
	struct thin_dev *td = world_dev(w, id);
	struct mdev *dev = must_dev(w, id);
	u64 i, begin = 0, len = 0, openings = w->openings;
	unsigned int n = 0, k, again;
	const struct mapping *m;
	int r;

	note_op(w, "write dev %u block %llu+%llu%s", id, v, nr, force_new ? " (all new)" : "");
	for (i = 0; i < nr && n < ARRAY_SIZE(ins); i++) {
		m = mapset_find(dev->set, v + i);
		if (m && !force_new && dev->stime <= m->t)
			continue;
		if (!len) {
			len = reserve(w, nr - i, &begin);
			if (w->openings != openings)
				return;
			if (!len)
				break;
		}
		ins[n++] = (struct thin_insert){ v + i, begin++, m ? m->b : THIN_EXPECT_HOLE, 0x5a5a };
		len--;
	}
	/* What was reserved too much goes back, or is kept as if its I/O were slow. */
	if (len && rng_chance(&w->rng, 80)) {
		thin_meta_unreserve_data(w->tm, begin, len);
		sim_api_end("thin_meta_unreserve_data");
		while (len--)
			del_reserved(w, begin++);
	}
	if (!n)
		return;
	while (n) {
		bool clean = !thin_meta_changed(w->tm);

		r = thin_dev_insert(td, ins, n);
		sim_api_end("thin_dev_insert");
		if (r || ins[0].status != -EAGAIN)
			mark_changed(w, id);
		if (!survived(w, "thin_dev_insert", r))
			return;
		for (k = 0, again = 0; k < n; k++) {
			if (ins[k].status == -EAGAIN) {
				ins[again++] = ins[k];
				continue;
			}
			if (ins[k].status)
				sim_fail("thin_dev_insert of block %llu: status %d", ins[k].vblock, ins[k].status);
			if (again)
				sim_fail("thin_dev_insert went on behind an entry with -EAGAIN");
			state_insert(w->open, dev, ins[k].vblock, ins[k].block, note_freed, w);
			del_reserved(w, ins[k].block);
			stats.inserts++;
		}
		if (again == n && clean)
			sim_fail("thin_dev_insert: -EAGAIN for the first entry of a clean transaction");
		if (again < n && thin_dev_changed_seq(td) != thin_meta_open_seq(w->tm))
			sim_fail("thin_dev_changed_seq %llu after an insert in transaction %llu",
				 thin_dev_changed_seq(td), thin_meta_open_seq(w->tm));
		settle(w, "thin_dev_insert");
		n = again;
		stats.again += n;
		if (n && (!op_commit(w) || !meta_left(w)))
			break;
		dev = must_dev(w, id);
	}
	while (n--) {
		if (!w->is_reserved[ins[n].block])
			break;	/* the pool was reopened meanwhile */
		thin_meta_unreserve_data(w->tm, ins[n].block, 1);
		sim_api_end("thin_meta_unreserve_data");
		del_reserved(w, ins[n].block);
	}
}

/* Inserts of which some do not find what they expect. */
void op_stale(struct world *w, u32 id, u64 v)
{
	struct thin_insert ins[8];
	struct thin_dev *td = world_dev(w, id);
	struct mdev *dev = must_dev(w, id);
	const struct mapping *m;
	bool wrong[8];
	u64 begin, len, k;
	int r;

	note_op(w, "stale inserts dev %u block %llu", id, v);
	len = reserve(w, ARRAY_SIZE(ins), &begin);
	if (!len)
		return;
	for (k = 0; k < len; k++) {
		m = mapset_find(dev->set, v + k);
		wrong[k] = rng_chance(&w->rng, 50);
		ins[k] = (struct thin_insert){ v + k, begin + k, m ? m->b : THIN_EXPECT_HOLE, 0x5a5a };
		if (wrong[k])
			ins[k].expect = m && rng_chance(&w->rng, 50) ? THIN_EXPECT_HOLE : begin + k;
	}
	r = thin_dev_insert(td, ins, len);
	sim_api_end("thin_dev_insert");
	if (!survived(w, "thin_dev_insert", r))
		return;
	for (k = 0; k < len; k++) {
		if (ins[k].status == -EAGAIN)
			continue;
		if (!ins[k].status)
			mark_changed(w, id);
		stats.stale += wrong[k];
		if (ins[k].status != (wrong[k] ? -ESTALE : 0))
			sim_fail("thin_dev_insert of block %llu: status %d, expectation was %s", ins[k].vblock,
				 ins[k].status, wrong[k] ? "wrong" : "right");
		if (!wrong[k]) {
			state_insert(w->open, dev, ins[k].vblock, ins[k].block, note_freed, w);
			del_reserved(w, ins[k].block);
		}
	}
	settle(w, "thin_dev_insert");
}

struct drops {
	u64 *b;
	size_t nr;
};

static void dropped(void *arg, u64 begin, u64 len)
{
	struct drops *d = arg;

	if (!sim_locks_held)
		sim_fail("dropped() called without the metadata lock");
	d->b = must(realloc(d->b, (d->nr + len) * sizeof(*d->b)));
	while (len--)
		d->b[d->nr++] = begin++;
}

static int cmp_u64(const void *a, const void *b)
{
	const u64 *x = a, *y = b;

	return *x < *y ? -1 : *x > *y;
}

void op_remove(struct world *w, u32 id, u64 begin, u64 end, unsigned int max_steps)
{
	struct thin_dev *td = world_dev(w, id);
	struct mdev *dev = must_dev(w, id);
	struct drops drops = { NULL, 0 };
	u64 next, *want;
	size_t i, k, n;
	int r, again = 0;

	while (begin < end && max_steps--) {
		note_op(w, "remove_range dev %u [%llu, %llu)", id, begin, end);
		drops.nr = 0;
		next = begin;
		r = thin_dev_remove_range(td, begin, end, &next, dropped, &drops);
		sim_api_end("thin_dev_remove_range");
		if (r == -EAGAIN) {
			if (drops.nr)
				sim_fail("thin_dev_remove_range: -EAGAIN after it dropped %zu references", drops.nr);
			stats.again++;
			if (++again > 1)
				sim_fail("thin_dev_remove_range: -EAGAIN right after a commit");
			settle(w, "thin_dev_remove_range");
			if (!op_commit(w))
				break;
			continue;
		}
		again = 0;
		if (!survived(w, "thin_dev_remove_range", r))
			break;
		if (next <= begin || next > end)
			sim_fail("thin_dev_remove_range [%llu, %llu) went on to %llu", begin, end, next);
		i = mapset_lower(dev->set, begin);
		k = mapset_lower(dev->set, next);
		n = k - i;
		if (drops.nr != n)
			sim_fail("thin_dev_remove_range [%llu, %llu) dropped %zu references, the model %zu",
				 begin, next, drops.nr, n);
		want = must(malloc((n + 1) * sizeof(*want)));
		for (k = 0; k < n; k++)
			want[k] = dev->set->m[i + k].b;
		qsort(want, n, sizeof(*want), cmp_u64);
		if (n)
			qsort(drops.b, n, sizeof(*drops.b), cmp_u64);
		for (k = 0; k < n; k++)
			if (want[k] != drops.b[k])
				sim_fail("thin_dev_remove_range dropped data block %llu, the model %llu",
					 drops.b[k], want[k]);
		if (n)
			mark_changed(w, id);
		state_remove(w->open, dev, begin, next, note_freed, w);
		stats.removed += n;
		free(want);
		settle(w, "thin_dev_remove_range");
		begin = next;
	}
	free(drops.b);
}

/* ---- metadata snapshot ---- */

void op_hold(struct world *w)
{
	bool held = w->open->held;
	u64 root = 0;
	int r;

	note_op(w, "reserve_metadata_snap");
	r = thin_meta_reserve_snap(w->tm);
	if (held) {
		if (r != -EBUSY && survived(w, "thin_meta_reserve_snap", r))
			sim_fail("a second thin_meta_reserve_snap: error %d", r);
		settle(w, "thin_meta_reserve_snap");
		return;
	}
	/* What was open is durable now; the snapshot itself comes with the next commit. */
	if (!r || sim_faults == w->faults_before)
		settle(w, "thin_meta_reserve_snap");
	if (!survived_whole(w, "thin_meta_reserve_snap", r))
		return;
	state_hold(w->open);
	stats.holds++;
	r = thin_meta_held_root(w->tm, &root);
	sim_api_end("thin_meta_held_root");
	if (r || !root)
		sim_fail("thin_meta_held_root: error %d, block %llu", r, root);
	if (rng_chance(&w->rng, 80))
		op_commit(w);
}

void op_release_hold(struct world *w)
{
	bool held = w->open->held;
	int r;

	note_op(w, "release_metadata_snap");
	r = thin_meta_release_snap(w->tm);
	if (!held) {
		if (r != -EINVAL && survived(w, "thin_meta_release_snap", r))
			sim_fail("thin_meta_release_snap of nothing: error %d", r);
		settle(w, "thin_meta_release_snap");
		return;
	}
	if (!survived_whole(w, "thin_meta_release_snap", r))
		return;
	state_release(w->open, note_freed, w);
	settle(w, "thin_meta_release_snap");
	if (rng_chance(&w->rng, 80))
		op_commit(w);
}

/* ---- sizes ---- */

void op_resize_data(struct world *w, u64 nr)
{
	int r;

	note_op(w, "resize data to %llu", nr);
	r = thin_meta_resize_data(w->tm, nr);
	if (nr < w->open->data_blocks) {
		if (!r)
			sim_fail("thin_meta_resize_data shrank the pool");
		settle(w, "thin_meta_resize_data");
		return;
	}
	if (!survived(w, "thin_meta_resize_data", r))
		return;
	size_books(w, nr);
	state_resize_data(w->open, nr);
	stats.resizes++;
	settle(w, "thin_meta_resize_data");
}

void op_resize_meta(struct world *w, u64 nr)
{
	int r;

	note_op(w, "resize metadata to %llu", nr);
	if (nr > w->disk->nr_blocks) {
		disk_resize(w->disk, nr);
		w->bdev.sectors = nr * 8;
	}
	if (thin_meta_device_mblocks(w->tm) != min_t(u64, w->bdev.sectors / 8, 4161600))
		sim_fail("thin_meta_device_mblocks: %llu, the device has %llu sectors",
			 thin_meta_device_mblocks(w->tm), w->bdev.sectors);
	r = thin_meta_resize_metadata(w->tm, nr);
	if (!survived(w, "thin_meta_resize_metadata", r))
		return;
	stats.resizes++;
	settle(w, "thin_meta_resize_metadata");
}

/* ---- looking ---- */

/*
 * Look at some blocks of a range and around it, in the device and in others
 * that may share them.  Before a change this fills caches, behind it they
 * must not answer with what was.
 */
void look_around(struct world *w, u32 id, u64 v, u64 nr)
{
	unsigned int devs, k;
	u32 other = id;

	for (devs = 0; devs < 3; devs++) {
		for (k = 0; k < 5 && state_dev(w->open, other); k++)
			look_point(w, other, v - min_t(u64, v, 2) + rng_below(&w->rng, min_t(u64, nr, 5000) + 4));
		if (!w->open->live.nr)
			return;
		other = w->open->live.d[rng_below(&w->rng, w->open->live.nr)].id;
	}
}

void look_point(struct world *w, u32 id, u64 v)
{
	struct thin_dev *td = world_dev(w, id);
	struct mdev *dev = must_dev(w, id);
	const struct mapping *m = mapset_find(dev->set, v);
	struct thin_map map;
	bool may_block = rng_chance(&w->rng, 60);
	int r;

	world_what = "find";
	if (rng_chance(&w->rng, 10)) {
		thin_dev_prefetch(td, v);
		sim_api_end("thin_dev_prefetch");
	}
	r = thin_dev_find(td, v, may_block, &map);
	sim_api_end("thin_dev_find");
	if ((r == -EWOULDBLOCK && !may_block) || (r && injected(w, r)))
		return;
	if (!m) {
		if (r != -ENODATA)
			sim_fail("find dev %u block %llu: %d, the model has a hole", id, v, r);
		return;
	}
	if (r)
		sim_fail("find dev %u block %llu: error %d", id, v, r);
	if (map.block != m->b || map.time != m->t || map.shared != (dev->stime > m->t))
		sim_fail("find dev %u block %llu: %llu time %u shared %d, the model %llu %u %d (snapshotted %u)",
			 id, v, map.block, map.time, map.shared, m->b, m->t, dev->stime > m->t, dev->stime);
}

void look_ranges(struct world *w, u32 id, u64 begin, u64 end)
{
	struct thin_dev *td = world_dev(w, id);
	struct mdev *dev = must_dev(w, id);
	struct thin_range range;
	bool may_block = rng_chance(&w->rng, 60);
	const struct mapping *m;
	size_t i;
	u64 v;
	int r;

	world_what = "find_range";
	while (begin < end) {
		r = thin_dev_find_range(td, begin, end, may_block, &range);
		sim_api_end("thin_dev_find_range");
		if ((r == -EWOULDBLOCK && !may_block) || (r && injected(w, r)))
			return;
		i = mapset_lower(dev->set, begin);
		m = i < dev->set->nr && dev->set->m[i].v < end ? &dev->set->m[i] : NULL;
		if (!m) {
			if (r != -ENODATA)
				sim_fail("find_range dev %u [%llu, %llu): %d, the model has nothing", id, begin, end, r);
			return;
		}
		if (r)
			sim_fail("find_range dev %u [%llu, %llu): error %d", id, begin, end, r);
		if (range.vbegin != m->v || range.vend <= range.vbegin || range.vend > end ||
		    range.map.block != m->b || range.map.time != m->t || range.map.shared != (dev->stime > m->t))
			sim_fail("find_range dev %u [%llu, %llu): [%llu, %llu) to %llu time %u, the model %llu to %llu time %u",
				 id, begin, end, range.vbegin, range.vend, range.map.block, range.map.time, m->v, m->b, m->t);
		for (v = range.vbegin; v < range.vend; v++, i++)
			if (i >= dev->set->nr || dev->set->m[i].v != v ||
			    dev->set->m[i].b != range.map.block + (v - range.vbegin) ||
			    (dev->stime > dev->set->m[i].t) != range.map.shared)
				sim_fail("find_range dev %u: the run [%llu, %llu) to %llu breaks at %llu", id,
					 range.vbegin, range.vend, range.map.block, v);
		begin = range.vend;
	}
}

void look_numbers(struct world *w, u32 id)
{
	struct thin_dev *td = world_dev(w, id);
	struct mdev *dev = must_dev(w, id);
	u64 nr = 0, high = 0;
	int r;

	world_what = "mapped_blocks";
	r = thin_dev_mapped_blocks(td, &nr);
	sim_api_end("thin_dev_mapped_blocks");
	if (r || nr != dev->set->nr)
		sim_fail("mapped_blocks of %u: %d, %llu, the model has %zu", id, r, nr, dev->set->nr);
	r = thin_dev_highest_block(td, &high);
	sim_api_end("thin_dev_highest_block");
	if (r && injected(w, r))
		return;
	if (dev->set->nr ? r || high != dev->set->m[dev->set->nr - 1].v : r != -ENODATA)
		sim_fail("highest_block of %u: %d, %llu, the model has %llu", id, r, high,
			 dev->set->nr ? dev->set->m[dev->set->nr - 1].v : ~0ULL);
	if (thin_dev_snapshotted_time(td) != dev->stime)
		sim_fail("snapshotted_time of %u: %u, the model has %u", id, thin_dev_snapshotted_time(td), dev->stime);
}

void look_space(struct world *w)
{
	struct thin_meta_space space;
	u64 b, used = 0, pending = 0, reserve, nr = w->durable->data_blocks;
	u32 count;
	int r;

	world_what = "get_space";
	r = thin_meta_get_space(w->tm, &space);
	sim_api_end("thin_meta_get_space");
	if (r)
		sim_fail("thin_meta_get_space: error %d", r);
	for (b = 0; b < nr; b++) {
		if (w->open->refs[b] || w->is_reserved[b])
			used++;
		else if (!can_take(w, b))
			pending++;
	}
	if (space.data_total != nr)
		sim_fail("data_total %llu, committed are %llu", space.data_total, nr);
	if (space.data_free != nr - used || space.data_pending != pending)
		sim_fail("data_free %llu data_pending %llu, the model has %llu and %llu", space.data_free,
			 space.data_pending, nr - used, pending);
	reserve = min_t(u64, 4096, space.meta_total / 10);
	if (space.meta_free != (space.meta_raw_free > reserve ? space.meta_raw_free - reserve : 0))
		sim_fail("meta_free %llu, raw %llu of %llu", space.meta_free, space.meta_raw_free, space.meta_total);
	if (thin_meta_low_water_mblocks(w->tm) != min_t(u64, 1024, thin_meta_device_mblocks(w->tm) / 4))
		sim_fail("low water mark %llu of %llu", thin_meta_low_water_mblocks(w->tm),
			 thin_meta_device_mblocks(w->tm));
	if (thin_meta_data_blocks(w->tm) != w->open->data_blocks)
		sim_fail("thin_meta_data_blocks %llu, the model has %llu", thin_meta_data_blocks(w->tm),
			 w->open->data_blocks);
	if (!nr)
		return;
	b = rng_below(&w->rng, nr);
	r = thin_meta_data_count(w->tm, b, &count);
	sim_api_end("thin_meta_data_count");
	if (r && injected(w, r))
		return;
	if (r || !count != !w->open->refs[b] || count > w->open->refs[b])
		sim_fail("thin_meta_data_count of %llu: %d, %u, references in the model: %u", b, r, count,
			 w->open->refs[b]);
}

void look_all(struct world *w)
{
	size_t i, k;

	for (i = 0; i < w->open->live.nr; i++) {
		struct mdev *dev = &w->open->live.d[i];

		look_numbers(w, dev->id);
		look_ranges(w, dev->id, 0, w->max_vblock);
		for (k = 0; k < 8 && dev->set->nr; k++)
			look_point(w, dev->id, dev->set->m[rng_below(&w->rng, dev->set->nr)].v);
	}
	look_space(w);
}
