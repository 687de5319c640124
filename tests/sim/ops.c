// SPDX-License-Identifier: GPL-2.0-only
/* What a history does: devices, mappings, the metadata snapshot, sizes; see the header. */
#include <linux/err.h>
#include <linux/kernel.h>
#include <stdlib.h>
#include <string.h>
#include "world.h"

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

static bool stop_yielding(void *arg)
{
	int *nr = arg;

	++*nr;
	return *nr > 3 && !world_now->between;
}

void (*sim_pause)(void);

/* The locks are free here: others may do what they like. */
static void pause_here(void)
{
	struct world *w = world_now;

	sim_pause = NULL;
	w->sync(w);
	w->between(w);
	w->sync(w);
	sim_pause = pause_here;
}

static void let_pass(struct world *w, void (*sync)(struct world *w))
{
	w->sync = sync;
	if (w->between)
		sim_pause = pause_here;
}

static void let_pass_end(struct world *w)
{
	sim_pause = NULL;
	w->sync(w);
}

/*
 * A long delete commits on its way.  Which mappings are gone by then only the
 * image knows; it must be some of the device's, and all else as it was.
 */
static void sync_deleted(struct world *w)
{
	struct mdev *dev = state_dev(w->open, w->deleted);
	const struct check_dev *c = NULL;
	struct check_result res;
	size_t i, k = 0, n;
	u64 *gone;

	if (w->flying || w->lost || w->disk->nr_super_writes == w->supers_seen)
		return;
	if (check_image(w->disk, &res, 0))
		sim_fail("thin_meta_delete committed, the image is wrong: %s", res.err);
	for (i = 0; i < res.live.nr; i++)
		if (res.live.devs[i].id == w->deleted)
			c = &res.live.devs[i];
	if (!c)
		sim_fail("thin_meta_delete committed the end of its work");
	gone = must_have(malloc((dev->set->nr + 1) * sizeof(*gone)));
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
	int r, asked = 0;

	note_op(w, "delete %u", id);
	world_close_dev(w, id);
	w->deleted = id;
	if (there)
		let_pass(w, sync_deleted);
	r = thin_meta_delete(w->tm, id, stop_yielding, &asked);
	if (there)
		let_pass_end(w);
	if (!there) {
		if (r != -ENODATA && survived(w, "thin_meta_delete", r))
			sim_fail("delete of the absent device %u: error %d", id, r);
	} else if (survived_whole(w, "thin_meta_delete", r)) {
		state_delete(w->open, id, note_freed, w);
	}
	settle(w, "thin_meta_delete");
}

/* Blocks that a transaction takes and frees are free at once: only the first time may take some. */
void op_come_and_go(struct world *w, u32 id)
{
	struct thin_meta_space before, after;
	u64 supers, aborts = stats.aborts;

	op_create(w, id);
	op_delete(w, id);
	supers = w->disk->nr_super_writes;
	if (w->flying || thin_meta_get_space(w->tm, &before))
		return;
	op_create(w, id);
	op_delete(w, id);
	if (w->lost || stats.aborts != aborts || w->disk->nr_super_writes != supers ||
	    thin_meta_get_space(w->tm, &after))
		return;
	if (after.meta_raw_free != before.meta_raw_free)
		sim_fail("%llu metadata blocks are free, %llu after a device came and went", before.meta_raw_free,
			 after.meta_raw_free);
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
		data_discard(w, i);
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
		for (k = 0; k < s->nr; k++) {
			w->quarantined[s->blocks[k]]--;
			data_discard(w, s->blocks[k]);
		}
		free(s->blocks);
	}
	memmove(w->sets, w->sets + nr, (w->nr_sets - nr) * sizeof(w->sets[0]));
	w->nr_sets -= nr;
}

/* ---- mappings ---- */

struct mdev *must_dev(struct world *w, u32 id)
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
	u64 i, begin = 0, len = 0, openings = w->openings, seq;
	unsigned int n = 0, k, again;
	struct thin_meta_space space;
	const struct mapping *m;
	bool ran_out;
	int r;

	note_op(w, "write dev %u block %llu+%llu%s", id, v, nr, force_new ? " (all new)" : "");
	for (i = 0; i < nr && n < ARRAY_SIZE(ins); i++) {
		m = mapset_find(dev->set, v + i);
		if (m && !force_new && dev->stime <= m->t) {
			state_rewrite(w->open, dev, v + i, data_write(w, id, v + i, m->b));
			continue;
		}
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
		bool clean = !thin_meta_changed(w->tm) && !w->flying;

		seq = thin_meta_open_seq(w->tm);
		r = thin_dev_insert(td, ins, n);
		sim_api_end("thin_dev_insert");
		/* One that failed may have changed nothing yet. */
		if (r ? thin_dev_changed_seq(td) == seq : ins[0].status != -EAGAIN)
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
			state_insert(w->open, dev, ins[k].vblock, ins[k].block,
				     data_write(w, id, ins[k].vblock, ins[k].block), note_freed, w);
			del_reserved(w, ins[k].block);
			stats.inserts++;
		}
		ran_out = again == n && clean;
		if (ran_out && (thin_meta_get_space(w->tm, &space) || space.meta_free))
			sim_fail("thin_dev_insert: -EAGAIN for the first entry of a clean transaction");
		if (again < n && thin_dev_changed_seq(td) != thin_meta_open_seq(w->tm))
			sim_fail("thin_dev_changed_seq %llu after an insert in transaction %llu",
				 thin_dev_changed_seq(td), thin_meta_open_seq(w->tm));
		settle(w, "thin_dev_insert");
		n = again;
		stats.again += n;
		if (n && (ran_out || !op_commit(w) || !meta_left(w)))
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

/* Nobody but this mapping may find the block: not now, not after a power cut, not with a bio. */
static void check_sole_user(struct world *w, u32 id, u64 v, u64 b)
{
	struct mdev *dev = state_dev(w->durable, id);
	const struct mapping *m = dev ? mapset_find(dev->set, v) : NULL;
	size_t i;

	if (w->open->refs[b] != 1)
		sim_fail("took over data block %llu, which has %u users", b, w->open->refs[b]);
	if (b < w->durable->data_blocks && w->durable->refs[b] &&
	    (w->durable->refs[b] != 1 || !m || m->b != b))
		sim_fail("took over data block %llu, which others use in the durable state", b);
	dev = w->frozen ? state_dev(w->frozen, id) : NULL;
	m = dev ? mapset_find(dev->set, v) : NULL;
	if (w->frozen && w->frozen->refs[b] && (w->frozen->refs[b] != 1 || !m || m->b != b))
		sim_fail("took over data block %llu, which others use in the state that is being committed", b);
	for (i = 0; i < w->nr_sets; i++)
		if (w->sets[i].commit_nr <= w->shared_nr[b])
			sim_fail("took over data block %llu, which bios of others may be reading", b);
}

/* Keep blocks that look shared, as a write does before it copies them. */
void op_take_over(struct world *w, u32 id, u64 v, u64 nr)
{
	struct thin_dev *td = world_dev(w, id);
	struct mdev *dev = must_dev(w, id);
	const struct mapping *m;
	int r;

	note_op(w, "take over dev %u block %llu+%llu", id, v, nr);
	while (nr--) {
		m = mapset_find(dev->set, v);
		r = thin_dev_take_over(td, v, m ? m->b : 7);
		sim_api_end("thin_dev_take_over");
		if (!m && r != -ESTALE) {
			if (survived(w, "thin_dev_take_over", r))
				sim_fail("took over block %llu of device %u, which is a hole: %d", v, id, r);
			return;
		}
		if (m && r != -EBUSY && !survived(w, "thin_dev_take_over", r))
			return;
		/* The way to a mapping may have been copied in vain. */
		if (thin_dev_changed_seq(td) == thin_meta_open_seq(w->tm))
			mark_changed(w, id);
		if (m && !r) {
			check_sole_user(w, id, v, m->b);
			state_stamp(w->open, dev, v);
			state_rewrite(w->open, dev, v, data_write(w, id, v, m->b));
			stats.takeovers++;
		}
		settle(w, "thin_dev_take_over");
		v++;
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
			state_insert(w->open, dev, ins[k].vblock, ins[k].block,
				     data_write(w, id, ins[k].vblock, ins[k].block), note_freed, w);
			del_reserved(w, ins[k].block);
		}
	}
	settle(w, "thin_dev_insert");
}

void op_remove(struct world *w, u32 id, u64 begin, u64 end, unsigned int max_steps)
{
	struct thin_dev *td = world_dev(w, id);
	struct mdev *dev = must_dev(w, id);
	/* Who of two that let go was the last one only a commit tells the model. */
	bool passdown = rng_chance(&w->rng, 50) && !w->between;
	struct thin_meta_space space;
	u64 next, nr, n;
	int r, again = 0;

	while (begin < end && max_steps--) {
		note_op(w, "remove_range dev %u [%llu, %llu)%s", id, begin, end, passdown ? " passdown" : "");
		next = begin;
		r = thin_dev_remove_range(td, begin, end, passdown, &next, &nr);
		sim_api_end("thin_dev_remove_range");
		if (r == -EAGAIN) {
			if (nr)
				sim_fail("thin_dev_remove_range: -EAGAIN after it removed %llu mappings", nr);
			stats.again++;
			settle(w, "thin_dev_remove_range");
			if (++again > 1 && (thin_meta_get_space(w->tm, &space) || space.meta_free))
				sim_fail("thin_dev_remove_range: -EAGAIN right after a commit");
			if (again > 1 || !op_commit(w))
				break;
			continue;
		}
		again = 0;
		if (!survived(w, "thin_dev_remove_range", r))
			break;
		if (next <= begin || next > end)
			sim_fail("thin_dev_remove_range [%llu, %llu) went on to %llu", begin, end, next);
		n = mapset_lower(dev->set, next) - mapset_lower(dev->set, begin);
		if (nr != n)
			sim_fail("thin_dev_remove_range [%llu, %llu) removed %llu mappings, the model %llu",
				 begin, next, nr, n);
		if (n)
			mark_changed(w, id);
		state_remove(w->open, dev, begin, next, passdown ? note_freed_to_pass_down : note_freed, w);
		stats.removed += n;
		settle(w, "thin_dev_remove_range");
		begin = next;
	}
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
	if (rng_chance(&w->rng, 80) && op_commit(w)) {
		r = thin_meta_held_root(w->tm, &root);
		sim_api_end("thin_meta_held_root");
		if (r || !root)
			sim_fail("thin_meta_held_root: error %d, block %llu", r, root);
	}
}

/* A long release commits on its way, as a long delete does. */
static void sync_released(struct world *w)
{
	struct check_result res;

	if (w->flying || w->lost || w->disk->nr_super_writes == w->supers_seen)
		return;
	if (check_image(w->disk, &res, 0))
		sim_fail("thin_meta_release_snap committed, the image is wrong: %s", res.err);
	if (!res.held_root)
		sim_fail("thin_meta_release_snap committed the end of its work");
	stats.partial += !!side_differs(&w->open->snap, &res.held);
	state_release_some(w->open, &res.held, note_freed, w);
	check_free(&res);
	settle(w, "thin_meta_release_snap");
}

void op_release_hold(struct world *w)
{
	bool held = w->open->held;
	int r, asked = 0;

	note_op(w, "release_metadata_snap");
	if (held)
		let_pass(w, sync_released);
	r = thin_meta_release_snap(w->tm, stop_yielding, &asked);
	if (held)
		let_pass_end(w);
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
