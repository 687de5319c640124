// SPDX-License-Identifier: GPL-2.0-only
/*
 * A pool whose metadata may be anything: it is opened, read, changed, committed,
 * opened anew and read again.  Any errno that the interface knows is right;
 * what is wrong is a crash, a lock or buffer kept, a leak, or no end.
 */
#include <linux/crc32c.h>
#include <linux/err.h>
#include <linux/kernel.h>
#include <linux/shrinker.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include "check.h"
#include "hostile.h"
#include "world.h"

#define MAX_RANGES	2000

static const struct thin_meta_ops no_ops;

void stamp_page(u8 *page, int kind)
{
	static const u32 salt[] = {
		[T_SUPER] = 160774, [T_BITMAP] = 240779, [T_META_INDEX] = 160478,
		[T_TOP] = 121107, [T_MAP] = 121107, [T_DETAILS] = 121107, [T_INDEX] = 121107, [T_COUNTS] = 121107,
	};
	u32 csum;

	csum = crc32c(~0U, page + 4, DISK_BLOCK - 4) ^ salt[kind];
	memcpy(page, &csum, 4);
}

bool is_node(int kind)
{
	return kind == T_TOP || kind == T_MAP || kind == T_DETAILS || kind == T_INDEX || kind == T_COUNTS;
}

static int sane(int r, const char *what)
{
	static const int known[] = {
		0, EIO, EILSEQ, ENOTBLK, ENOSPC, ENODATA, EINVAL, EPERM, EEXIST, EBUSY, ESTALE, EOVERFLOW, EAGAIN,
	};
	unsigned int i;

	sim_api_end(what);
	bufio_calls = 0;
	for (i = 0; i < ARRAY_SIZE(known); i++)
		if (r == -known[i])
			return r;
	sim_fail("%s: %d is no errno that it knows", what, r);
}

static struct thin_meta *open_it(struct block_device *bdev)
{
	struct thin_meta *tm;
	u32 block_size;

	/* The table of a pool names the block size; take the image's word for it. */
	memcpy(&block_size, disk_peek(bdev->disk, 0) + 336, 4);
	sim_shrink(~0UL);
	tm = thin_meta_open(bdev, block_size, false, &no_ops, NULL);
	sane(IS_ERR(tm) ? PTR_ERR(tm) : 0, "thin_meta_open");
	return IS_ERR(tm) ? NULL : tm;
}

static void read_dev(struct thin_meta *tm, u32 id, struct rng *rng)
{
	struct thin_range range = { 0 };
	struct thin_dev *td;
	struct thin_map map;
	u64 v, n, nr;
	int i, r;

	if (sane(thin_meta_open_dev(tm, id, &td), "thin_meta_open_dev"))
		return;
	sane(thin_dev_mapped_blocks(td, &nr), "thin_dev_mapped_blocks");
	sane(thin_dev_highest_block(td, &v), "thin_dev_highest_block");
	for (i = 0, v = 0; i < MAX_RANGES && v < ~0ULL; i++, v = range.vend) {
		r = sane(thin_dev_find_range(td, v, ~0ULL, true, &range), "thin_dev_find_range");
		if (r)
			break;
		if (range.vbegin < v || range.vend <= range.vbegin)
			sim_fail("thin_dev_find_range from %llu gave [%llu, %llu)", v, range.vbegin, range.vend);
	}
	for (i = 0; i < 20; i++) {
		v = rng_below(rng, i % 4 ? 600 : ~0ULL);
		thin_dev_prefetch(td, v);
		sane(thin_dev_find(td, v, true, &map), "thin_dev_find");
		n = 0;
		r = thin_dev_find_run(td, v, 1 + rng_below(rng, 200), i & 1, &map, &n);
		sane(r == -EWOULDBLOCK ? 0 : r, "thin_dev_find_run");
	}
	thin_meta_close_dev(td);
	sane(0, "thin_meta_close_dev");
}

static bool never(void *arg)
{
	(void)arg;
	return false;
}

static void change_dev(struct thin_meta *tm, u32 id, struct rng *rng)
{
	u64 v = rng_below(rng, rng_chance(rng, 80) ? 700 : ~0ULL - 70), begin, end, len, next, nr, i;
	struct thin_insert ins[16];
	struct thin_dev *td;
	struct thin_map map;

	if (sane(thin_meta_open_dev(tm, id, &td), "thin_meta_open_dev"))
		return;
	switch (rng_below(rng, 3)) {
	case 0:
		if (sane(thin_meta_alloc_data(tm, ARRAY_SIZE(ins), &begin, &len), "thin_meta_alloc_data"))
			break;
		for (i = 0; i < len; i++) {
			ins[i] = (struct thin_insert){ v + i, begin + i, THIN_EXPECT_HOLE, 0 };
			if (!sane(thin_dev_find(td, v + i, true, &map), "thin_dev_find"))
				ins[i].expect = map.block;
		}
		sane(thin_dev_insert(td, ins, len), "thin_dev_insert");
		break;
	case 1:
		next = v;
		end = rng_chance(rng, 30) ? ~0ULL : v + rng_below(rng, 300) + 1;
		sane(thin_dev_remove_range(td, v, end, rng_chance(rng, 50), &next, &nr), "thin_dev_remove_range");
		break;
	default:
		for (i = 0; i < 4; i++)
			if (!sane(thin_dev_find(td, v + i, true, &map), "thin_dev_find"))
				sane(thin_dev_take_over(td, v + i, map.block), "thin_dev_take_over");
		break;
	}
	thin_meta_close_dev(td);
	sane(0, "thin_meta_close_dev");
}

static void change(struct thin_meta *tm, u32 id, u32 other, struct rng *rng)
{
	u64 v;
	u32 n;

	switch (rng_below(rng, 16)) {
	case 0:
		sane(thin_meta_create_thin(tm, other), "thin_meta_create_thin");
		break;
	case 1:
	case 2:
		sane(thin_meta_create_snap(tm, other + rng_below(rng, 50), id), "thin_meta_create_snap");
		break;
	case 3:
		sane(thin_meta_delete(tm, id, never, NULL), "thin_meta_delete");
		break;
	case 4:
		sane(thin_meta_reserve_snap(tm), "thin_meta_reserve_snap");
		break;
	case 5:
		sane(thin_meta_release_snap(tm, NULL, NULL), "thin_meta_release_snap");
		break;
	case 6:
		v = thin_meta_data_blocks(tm);
		sane(thin_meta_resize_data(tm, v + rng_below(rng, 40000)), "thin_meta_resize_data");
		break;
	case 7:
		sane(thin_meta_resize_metadata(tm, thin_meta_device_mblocks(tm)), "thin_meta_resize_metadata");
		break;
	case 8:
		sane(thin_meta_data_count(tm, rng_below(rng, 1000), &n), "thin_meta_data_count");
		sane(thin_meta_held_root(tm, &v), "thin_meta_held_root");
		break;
	case 9:
	case 10:
		sane(thin_meta_commit(tm), "thin_meta_commit");
		break;
	default:
		change_dev(tm, id, rng);
		break;
	}
}

/* Returns whether it could be opened. */
bool exercise(struct disk *d, u64 seed, const u32 *ids, unsigned int nr_ids)
{
	struct block_device bdev = { .sectors = d->nr_blocks * 8, .disk = d };
	struct rng rng = { seed };
	struct thin_meta_space space;
	struct thin_meta *tm;
	unsigned int round, i;
	long live = sim_live_allocs;

	d->hostile = true;
	/* Only an endless loop comes near. */
	alarm(120);
	for (round = 0; round < 4; round++) {
		tm = open_it(&bdev);
		if (!tm)
			break;
		for (i = 0; i < nr_ids && (!round || round == 3); i++)
			read_dev(tm, ids[i], &rng);
		for (i = 0; i < 12 && !thin_meta_rolled_back(tm); i++)
			change(tm, ids[rng_below(&rng, nr_ids)], 1000 + rng_below(&rng, 3), &rng);
		sane(thin_meta_get_space(tm, &space), "thin_meta_get_space");
		if (thin_meta_rolled_back(tm)) {
			sane(thin_meta_abort(tm), "thin_meta_abort");
			if (rng_chance(&rng, 50))
				sane(thin_meta_set_needs_check(tm), "thin_meta_set_needs_check");
			read_dev(tm, ids[rng_below(&rng, nr_ids)], &rng);
		}
		sane(thin_meta_close(tm), "thin_meta_close");
		if (sim_live_allocs != live)
			sim_fail("%ld allocations are left behind", sim_live_allocs - live);
	}
	if (sim_live_allocs != live)
		sim_fail("%ld allocations are left behind", sim_live_allocs - live);
	alarm(0);
	return round;
}

void exercise_untouched(struct disk *d, const struct check_result *res, const bool *untouched)
{
	struct block_device bdev = { .sectors = d->nr_blocks * 8, .disk = d };
	struct check_result some = *res;
	struct thin_meta *tm;
	size_t i;

	tm = open_it(&bdev);
	if (!tm)
		return;
	some.live.devs = must_have(malloc((res->live.nr + 1) * sizeof(*some.live.devs)));
	some.live.nr = 0;
	for (i = 0; i < res->live.nr; i++)
		if (untouched[i])
			some.live.devs[some.live.nr++] = res->live.devs[i];
	bufio_calls = 0;
	image_read_all(tm, &some, "a device that nothing has touched");
	free(some.live.devs);
	sane(thin_meta_close(tm), "thin_meta_close");
}
