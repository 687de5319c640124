// SPDX-License-Identifier: GPL-2.0-only
/* A world: what stands beside the layer, what is compared after every call, transactions. */
#include <linux/crc32c.h>
#include <linux/err.h>
#include <linux/kernel.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "sweep.h"
#include "world.h"

struct options opt;
struct stats stats;
struct world *world_now;
u64 world_op, seed_now;
const char *world_what = "";
const char *scene_now;

void *must_have(void *p)
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

	switch (rng_below(&w->fault_rng, 6)) {
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
	case 5:
		w->fail_data_flush_in = 1;
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
	w->disk->fails_for_good = false;
	w->fail_data_flush_in = 0;
	sweep_disarm();
	w->armed = false;
}

/* Is this error one that was made to happen? */
bool injected(struct world *w, int r)
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
	if (w->flying && sim_me)
		beside_freeze(w);
}

static int data_flush_wait(void *context)
{
	struct world *w = context;

	sim_may_pass();
	w->flush_waited++;
	if (w->flush_waited != w->flush_begun)
		sim_fail("data_flush_wait without data_flush_begin");
	disk_note(w->disk, EV_DATA_WAIT);
	if (w->fail_data_flush_in && !--w->fail_data_flush_in) {
		sim_faults++;
		return -EIO;
	}
	w->disk->data_flushed = true;
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

	w->dropped[block] = DROPPED;
}

void note_freed_to_pass_down(void *arg, u64 block)
{
	struct world *w = arg;

	w->dropped[block] = DROPPED_TO_PASS_DOWN;
}

void size_books(struct world *w, u64 nr)
{
	if (nr <= w->cap_data)
		return;
	w->is_reserved = must_have(realloc(w->is_reserved, nr + 1));
	w->quarantined = must_have(realloc(w->quarantined, (nr + 1) * sizeof(*w->quarantined)));
	w->dropped = must_have(realloc(w->dropped, nr + 1));
	w->shared_nr = must_have(realloc(w->shared_nr, (nr + 1) * sizeof(*w->shared_nr)));
	data_size(w, nr);
	w->frozen_dropped = must_have(realloc(w->frozen_dropped, nr + 1));
	memset(w->frozen_dropped + w->cap_data, 0, nr + 1 - w->cap_data);
	memset(w->shared_nr + w->cap_data, 0, (nr + 1 - w->cap_data) * sizeof(*w->shared_nr));
	memset(w->is_reserved + w->cap_data, 0, nr + 1 - w->cap_data);
	memset(w->quarantined + w->cap_data, 0, (nr + 1 - w->cap_data) * sizeof(*w->quarantined));
	memset(w->dropped + w->cap_data, 0, nr + 1 - w->cap_data);
	w->cap_data = nr;
}

bool can_take(struct world *w, u64 b)
{
	return b < w->durable->data_blocks && !w->durable->refs[b] && !w->open->refs[b] &&
	       !(w->frozen && w->frozen->refs[b]) && !w->is_reserved[b] && !w->quarantined[b] &&
	       !w->dropped[b] && !w->frozen_dropped[b];
}

void add_reserved(struct world *w, u64 b)
{
	w->reserved = must_have(realloc(w->reserved, (w->nr_reserved + 1) * sizeof(*w->reserved)));
	w->reserved[w->nr_reserved++] = b;
	w->is_reserved[b] = 1;
}

void del_reserved(struct world *w, u64 b)
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

struct filling {
	struct world *w;
	const struct state *s;
	u8 *dropped;
	struct freed_set *set;
	u64 left;
};

static void fill_run(void *arg, u64 begin, u64 len, bool passdown)
{
	struct filling *f = arg;
	u64 end = begin + len;

	if (!len || end > f->s->data_blocks)
		sim_fail("thin_freed_walk gave [%llu, %llu)", begin, end);
	f->set->blocks = must_have(realloc(f->set->blocks, (f->set->nr + len) * sizeof(*f->set->blocks)));
	for (; begin < end; begin++, f->left--) {
		if (!f->dropped[begin] || f->s->refs[begin])
			sim_fail("data block %llu is in a freed set: dropped %d, references %u", begin,
				 f->dropped[begin], f->s->refs[begin]);
		if (passdown != (f->dropped[begin] == DROPPED_TO_PASS_DOWN))
			sim_fail("data block %llu is %sto be passed down", begin, passdown ? "" : "not ");
		f->dropped[begin] = 0;
		f->w->quarantined[begin]++;
		f->set->blocks[f->set->nr++] = begin;
	}
}

/* The announced sets hold exactly what the model saw freed, each block once. */
static void fill_sets(struct world *w, const struct state *s, u8 *dropped)
{
	struct filling f = { .w = w, .s = s, .dropped = dropped };
	/* A commit that was made to fail behind its superblock tells of no set. */
	bool told = w->ops.freed && w->tm && (w->flying || !w->armed || sim_faults == w->faults_seen);
	size_t i;
	u64 b;

	w->commit_nr++;
	for (b = 0; b < w->durable->data_blocks; b++)
		if (w->durable->refs[b] > 1)
			w->shared_nr[b] = w->commit_nr;
	for (b = 0; b < s->data_blocks; b++)
		f.left += dropped[b] && !s->refs[b];
	if (told && f.left && !w->nr_new_sets)
		sim_fail("the commit freed %llu data blocks and announced no set", f.left);
	for (i = 0; i < w->nr_new_sets; i++) {
		f.set = &w->sets[w->nr_sets + i];
		f.set->commit_nr = w->commit_nr;
		thin_freed_walk(f.set->set, fill_run, &f);
	}
	if (told && f.left)
		sim_fail("%llu freed data blocks are in no set", f.left);
	memset(dropped, 0, w->cap_data);
	w->nr_sets += w->nr_new_sets;
	w->nr_new_sets = 0;
}

static void guard_blocks(struct world *w, const struct check_result *res)
{
	u8 *guard = must_have(calloc(res->meta.nr_blocks, 1));
	u64 b;

	for (b = 0; b < res->meta.nr_blocks; b++)
		guard[b] = !!res->meta_counts[b];
	disk_guard(w->disk, guard, res->meta.nr_blocks);
	w->durable_mblocks = res->meta.nr_allocated;
	free(guard);
}

/* The disk has @s now, in which the references to @dropped were lost. */
void became_durable(struct world *w, const char *what, struct state *s, u8 *dropped)
{
	struct check_result res;
	struct state *allowed[2];
	size_t nr_allowed = 0;
	struct thin_meta_space space;
	const char *diff;
	bool tools, oracle;

	if (w->flush_begun != w->flush_waited)
		sim_fail("%s: data_flush_begin called %d times, data_flush_wait %d times", what,
			 w->flush_begun, w->flush_waited);
	if (w->disk->nr_super_writes == w->supers_seen)
		sim_fail("%s: a transaction is durable without a superblock", what);
	w->supers_seen = w->disk->nr_super_writes;
	stats.commits++;
	if (w->disk->unflushed && !(w->armed && sim_faults != w->faults_seen))
		sim_fail("%s: returned with %zu writes not flushed", what, w->disk->unflushed);
	if (check_image(w->disk, &res, 0))
		sim_fail("%s: the image is wrong: %s", what, res.err);
	diff = state_differs(s, &res);
	if (diff)
		sim_fail("%s: the image is not the model: %s", what, diff);
	diff = data_differs(w, s);
	if (diff)
		sim_fail("%s: %s", what, diff);

	if (opt.cut_percent && rng_chance(&w->cut_rng, opt.cut_percent)) {
		allowed[nr_allowed++] = w->durable;
		allowed[nr_allowed++] = s;
		crash_cuts(w, allowed, nr_allowed);
	}
	tools = opt.tool_percent && rng_chance(&w->cut_rng, opt.tool_percent);
	oracle = opt.oracle_percent && rng_chance(&w->cut_rng, opt.oracle_percent);
	if (tools || oracle)
		tools_judge(w->disk, tools, oracle);

	fill_sets(w, s, dropped);
	w->formatted = true;
	w->durable_seq = w->tm ? thin_meta_durable_seq(w->tm) : 0;
	state_free(w->durable);
	w->durable = state_clone(s);
	guard_blocks(w, &res);
	disk_mark(w->disk);
	w->disk->data_flushed = false;

	if (w->tm && !thin_meta_changed(w->tm) && !thin_meta_failed(w->tm)) {
		if (thin_meta_get_space(w->tm, &space))
			sim_fail("%s: thin_meta_get_space failed after a commit", what);
		if (space.meta_total != res.meta.nr_blocks ||
		    space.meta_raw_free != res.meta.nr_blocks - res.meta.nr_allocated)
			sim_fail("%s: metadata space says %llu free of %llu, the image has %llu used of %llu", what,
				 space.meta_raw_free, space.meta_total, res.meta.nr_allocated, res.meta.nr_blocks);
	}
	check_free(&res);
}

void settle(struct world *w, const char *what)
{
	int i;

	sim_api_end(what);
	if (w->flying || w->lost)
		return;
	if (w->disk->nr_super_writes == w->supers_seen) {
		if (w->flush_begun != w->flush_waited)
			sim_fail("%s: data_flush_begin called %d times, data_flush_wait %d times", what,
				 w->flush_begun, w->flush_waited);
		if (w->nr_new_sets)
			sim_fail("%s: ops.freed called without a commit", what);
		return;
	}
	became_durable(w, what, w->open, w->dropped);
	for (i = 0; i < MAX_HANDLES; i++)
		w->handles[i].changed = false;
}

static void fresh_open_state(struct world *w)
{
	const char *diff = data_differs(w, w->durable);

	if (diff)
		sim_fail("back at the durable state: %s", diff);
	data_adopt(w, w->durable);
	state_free(w->open);
	w->open = state_clone(w->durable);
	memset(w->dropped, 0, w->cap_data);
}

/*
 * A commit was made to fail.  If block 0 was on its way the disk may have
 * either state; which it is the image says, and the layer must agree.
 *
 * Returns true when it is the new one.
 */
static bool which_state(struct world *w)
{
	struct state *s = w->frozen ? w->frozen : w->open;
	struct check_result res;
	bool moved;

	if (check_image(w->disk, &res, 0))
		sim_fail("after a failed commit the image is wrong: %s", res.err);
	moved = state_differs(w->durable, &res);
	if (moved) {
		if (state_differs(s, &res))
			sim_fail("after a failed commit the image is neither state: %s", state_differs(s, &res));
		/* Sets are announced if it was something behind the commit that failed. */
		if (w->nr_new_sets)
			fill_sets(w, s, w->frozen ? w->frozen_dropped : w->dropped);
		state_free(w->durable);
		w->durable = state_clone(s);
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
	/* The model does not tell a transaction that only copied blocks from none; block 0 does. */
	return w->frozen ? disk_crc(w->disk, 0) != w->frozen_super : moved;
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
	free(w->frozen_dropped);
	free(w->shared_nr);
	free(w->data);
	world_now = NULL;
}

void scene_begin(struct world *w, u64 seed, u64 meta_blocks, u64 data_blocks)
{
	world_init(w, seed, meta_blocks, data_blocks);
	w->max_vblock = data_blocks;
	op_open(w, true);
	op_resize_data(w, data_blocks);
	op_create(w, 0);
	op_commit(w);
}

void scene_end(struct world *w)
{
	look_all(w);
	op_close(w);
	world_exit(w);
}

void note_op(struct world *w, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
void note_op(struct world *w, const char *fmt, ...)
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
		/* Only formatting allocates. */
		if (!(PTR_ERR(w->tm) == -ENOSPC && w->armed && sim_faults != w->faults_seen) &&
		    !injected(w, PTR_ERR(w->tm)))
			sim_fail("thin_meta_open: error %ld", PTR_ERR(w->tm));
		disarm_fault(w);
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

	if (w->flying || w->lost)
		sim_fail("harness: closing beside a commit");
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
	w->handles[free_slot].frozen = false;
	if (thin_dev_id(w->handles[free_slot].td) != id)
		sim_fail("thin_dev_id is not %u", id);
	return w->handles[free_slot].td;
}

void mark_changed(struct world *w, u32 id)
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
	bool changed = thin_meta_changed(w->tm), beside = w->flying;
	int r;

	note_op(w, "commit");
	if (!beside)
		w->disk->data_flushed = false;
	r = thin_meta_commit(w->tm);
	if (w->flying)
		sim_fail("thin_meta_commit did not wait for the commit under way");
	if (w->lost) {
		if (r != -EIO)
			sim_fail("thin_meta_commit behind one that has failed: %d", r);
		sim_api_end("thin_meta_commit");
		op_abort(w);
		return false;
	}
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
	if (changed || (!beside && w->disk->nr_super_writes != supers)) {
		if (w->disk->nr_super_writes == w->supers_seen)
			sim_fail("a commit of a changed transaction wrote no superblock");
		if (w->ops.data_flush_begin && !w->disk->data_flushed)
			sim_fail("the superblock was written without a data flush");
		if (thin_meta_durable_seq(w->tm) < seq || thin_meta_open_seq(w->tm) <= seq)
			sim_fail("sequence numbers did not move with the commit");
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

static void set_needs_check(struct world *w)
{
	int r;

	world_what = "set_needs_check";
	w->open->needs_check = true;
	r = thin_meta_set_needs_check(w->tm);
	if (!thin_meta_needs_check(w->tm))
		sim_fail("thin_meta_needs_check is false after setting it");
	if (r && injected(w, r)) {
		/* Closing the pool writes it. */
		sim_api_end("thin_meta_set_needs_check");
		w->faults_before = sim_faults;
		which_state(w);
		w->open->needs_check = true;
		return;
	}
	if (r)
		sim_fail("thin_meta_set_needs_check: error %d", r);
	settle(w, "thin_meta_set_needs_check");
	if (!w->durable->needs_check)
		sim_fail("thin_meta_set_needs_check wrote nothing");
}

/* A check is asked for; the pool is taken down, checked and opened anew. */
void op_needs_check(struct world *w)
{
	note_op(w, "set_needs_check");
	set_needs_check(w);
	op_close(w);
	if (!w->durable->needs_check)
		sim_fail("needs_check was lost");
	clear_needs_check(w);
	op_open(w, false);
}

/*
 * As the targets do it: roll back, perhaps note that a check is due, and take
 * the pool down.  Nothing may change it before it is opened anew.
 */
void op_abort(struct world *w)
{
	bool was_changed[MAX_HANDLES], faulted, beside = w->flying || w->lost, in_doubt = false;
	struct thin_meta_space space;
	bool failed;
	int r, i, k;

	/* What is to hit a commit under way may still do so. */
	if (!w->flying)
		disarm_fault(w);
	note_op(w, "abort");
	stats.aborts++;
	for (i = 0; i < MAX_HANDLES; i++)
		was_changed[i] = w->handles[i].td && w->handles[i].changed;
	r = thin_meta_abort(w->tm);
	beside_land(w);
	disarm_fault(w);
	faulted = sim_faults != w->faults_before;
	if (r && !(faulted && thin_meta_failed(w->tm)))
		sim_fail("thin_meta_abort: error %d", r);
	failed = r;
	if (faulted) {
		w->faults_before = sim_faults;
		in_doubt = which_state(w);
		if (!beside)
			memset(was_changed, 0, sizeof(was_changed));
	} else if (w->disk->nr_super_writes != w->supers_seen) {
		sim_fail("thin_meta_abort wrote the superblock");
	}
	sim_api_end("thin_meta_abort");
	if (thin_meta_changed(w->tm))
		sim_fail("thin_meta_changed right after an abort");
	if (thin_meta_durable_seq(w->tm) != w->durable_seq && !faulted)
		sim_fail("thin_meta_durable_seq moved with an abort");
	for (i = 0; i < MAX_HANDLES; i++) {
		if (!w->handles[i].td)
			continue;
		if (w->lost && !in_doubt)
			was_changed[i] |= w->handles[i].frozen;
		if (was_changed[i] && !thin_dev_rolled_back(w->handles[i].td))
			sim_fail("device %u was changed, aborted and is not marked rolled back", w->handles[i].id);
		if (beside && !failed && thin_dev_rolled_back(w->handles[i].td) !=
		    (thin_dev_changed_seq(w->handles[i].td) > (in_doubt ? w->frozen_seq : w->durable_seq)))
			sim_fail("device %u is%s marked rolled back, it was last changed in transaction %llu", w->handles[i].id,
				 thin_dev_rolled_back(w->handles[i].td) ? "" : " not", thin_dev_changed_seq(w->handles[i].td));
	}
	beside_forget(w);
	fresh_open_state(w);
	r = thin_meta_create_thin(w->tm, 12345);
	sim_api_end("thin_meta_create_thin");
	if (r != -EIO && r != -EPERM && r != -EEXIST)
		sim_fail("a change right after an abort: %d", r);
	if (thin_meta_get_space(w->tm, &space) && !failed)
		sim_fail("thin_meta_get_space after an abort failed");
	for (i = 0; i < MAX_HANDLES && !failed; i++)
		/* Also one that could not be read back at first. */
		if (w->handles[i].td && state_dev(w->open, w->handles[i].id) && rng_chance(&w->rng, 50)) {
			look_numbers(w, w->handles[i].id);
			look_ranges(w, w->handles[i].id, 0, 500);
			for (k = 0; k < 20; k++)
				look_point(w, w->handles[i].id, w->last_v - min_t(u64, w->last_v, 4) + k);
		}
	if (!failed && rng_chance(&w->rng, 50)) {
		set_needs_check(w);
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
bool survived(struct world *w, const char *what, int r)
{
	if (!r)
		return true;
	if (w->lost && r == -EIO) {
		sim_api_end(what);
		op_abort(w);
		return false;
	}
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
bool survived_whole(struct world *w, const char *what, int r)
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
