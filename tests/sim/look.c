// SPDX-License-Identifier: GPL-2.0-only
/* What a history looks at, compared with the model; see the header. */
#include <linux/err.h>
#include <linux/kernel.h>
#include <stdlib.h>
#include <string.h>
#include "world.h"

/* Metadata that one leaf of these small pools may need. */
#define MOST_NEEDED 600

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

/* What map asks for a bio of several blocks. */
static void look_run(struct world *w, u32 id, u64 v, u64 nr)
{
	struct thin_dev *td = world_dev(w, id);
	struct mdev *dev = must_dev(w, id);
	bool write = rng_chance(&w->rng, 50), hole;
	const struct mapping *m;
	struct thin_map map;
	u64 len = 0, k;
	int r;

	world_what = "find_run";
	r = thin_dev_find_run(td, v, nr, write, &map, &len);
	sim_api_end("thin_dev_find_run");
	if (r == -EWOULDBLOCK || (r && injected(w, r)))
		return;
	hole = r == -ENODATA;
	if ((r && !hole) || !len || len > nr)
		sim_fail("find_run dev %u block %llu+%llu: %d, length %llu", id, v, nr, r, len);
	for (k = 0; k < len; k++) {
		m = mapset_find(dev->set, v + k);
		if (!m != hole)
			sim_fail("find_run dev %u: block %llu of the run from %llu is %s", id, v + k, v,
				 m ? "mapped" : "a hole");
		if (m && (m->b != map.block + k || (write && (dev->stime > m->t) != map.shared)))
			sim_fail("find_run dev %u: block %llu of the run from %llu does not belong to it", id, v + k, v);
	}
}

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
		if (state_dev(w->open, other))
			look_run(w, other, v - min_t(u64, v, rng_below(&w->rng, 20)), 1 + rng_below(&w->rng, 200));
		for (k = 0; k < 5 && state_dev(w->open, other); k++)
			look_point(w, other, v - min_t(u64, v, 2) + rng_below(&w->rng, min_t(u64, nr, 5000) + 4));
		if (!w->open->live.nr)
			return;
		other = w->open->live.d[rng_below(&w->rng, w->open->live.nr)].id;
	}
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
	/* None also where somebody was refused who needed that much. */
	if (space.meta_free != (space.meta_raw_free > reserve ? space.meta_raw_free - reserve : 0) &&
	    (space.meta_free || space.meta_raw_free >= MOST_NEEDED))
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
