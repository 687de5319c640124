// SPDX-License-Identifier: GPL-2.0-only
/*
 * Fixed amounts of one kind of work each, for counting instructions (count).
 *
 *   sim --work KIND    prints how often the counted function's unit of work was done
 */
#include <linux/err.h>
#include <linux/kernel.h>
#include <linux/shrinker.h>
#include <stdio.h>
#include <string.h>
#include "../../persistent-data/disk-format.h"
#include "world.h"

#define MAPPINGS	20000
#define BATCH		32
#define BITMAPS		200

static const struct thin_meta_ops no_ops;
static struct thin_meta *tm;
static struct thin_dev *td;
/* Where mapping number i is: in a row, or all over a device ten times as large. */
static bool scattered;

static u64 place(u64 i)
{
	return scattered ? i * 7919 % (10 * MAPPINGS) : i;
}

static void must(int r)
{
	if (r)
		sim_fail("work: error %d", r);
}

static void insert_all(void)
{
	struct thin_insert ins[BATCH];
	u64 i, k, begin, len;

	for (i = 0; i < MAPPINGS; i += len) {
		must(thin_meta_alloc_data(tm, min_t(u64, BATCH, MAPPINGS - i), &begin, &len));
		for (k = 0; k < len; k++)
			ins[k] = (struct thin_insert){ place(i + k), begin + k, THIN_EXPECT_HOLE, 0 };
		must(thin_dev_insert(td, ins, len));
		if (i % 4096 < len)
			must(thin_meta_commit(tm));
	}
	must(thin_meta_commit(tm));
}

static void find_all(bool cold)
{
	struct thin_map map;
	u64 i;

	for (i = 0; i < MAPPINGS; i++) {
		if (cold)
			sim_shrink(~0UL);
		must(thin_dev_find(td, place(i * 3 % MAPPINGS), true, &map));
	}
}

static void remove_all(void)
{
	u64 at, nr, next = 0;
	int r;

	for (at = 0; at < 10 * MAPPINGS; at = next) {
		next = at;
		r = thin_dev_remove_range(td, at, 10 * MAPPINGS, true, &next, &nr);
		if (r == -EAGAIN) {
			must(thin_meta_commit(tm));
			next = at;
			continue;
		}
		must(r);
	}
	must(thin_meta_commit(tm));
}

/* One mapping in each bitmap, then none: two commits, and every bitmap in both, as in that of the pool's growth. */
static void change_every_bitmap(void)
{
	u64 i, begin, len;

	for (i = 0; i < BITMAPS; i++) {
		struct thin_insert ins = { i, 0, THIN_EXPECT_HOLE, 0 };

		must(thin_meta_alloc_data(tm, SM_ENTRIES_PER_BITMAP, &begin, &len));
		ins.block = begin;
		must(thin_dev_insert(td, &ins, 1));
		thin_meta_unreserve_data(tm, begin + 1, len - 1);
	}
	must(thin_meta_commit(tm));
	remove_all();
}

int work_main(const char *kind)
{
	struct disk *d = disk_new(8192);
	struct block_device bdev = { .sectors = d->nr_blocks * 8, .disk = d };
	bool wide = strstr(kind, "wide");
	int units = wide ? 3 * BITMAPS : MAPPINGS;

	scattered = strstr(kind, "random");
	tm = thin_meta_open(&bdev, DATA_BLOCK_SECTORS, true, &no_ops, NULL);
	must(IS_ERR(tm) ? PTR_ERR(tm) : 0);
	must(thin_meta_resize_data(tm, wide ? BITMAPS * SM_ENTRIES_PER_BITMAP : 4 * MAPPINGS));
	must(thin_meta_create_thin(tm, 1));
	must(thin_meta_commit(tm));
	must(thin_meta_open_dev(tm, 1, &td));
	if (wide)
		change_every_bitmap();
	else
		insert_all();
	if (strstr(kind, "lookup-sequential")) {
		units += MAPPINGS;
		find_all(false);
		find_all(false);
	} else if (strstr(kind, "lookup")) {
		find_all(true);
	} else if (strstr(kind, "remove")) {
		remove_all();
	}
	thin_meta_close_dev(td);
	must(thin_meta_close(tm));
	disk_free(d);
	printf("%d\n", units);
	return 0;
}
