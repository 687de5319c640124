// SPDX-License-Identifier: GPL-2.0-only
/*
 * Images that others wrote: the layer opens them, reads every mapping as the
 * exact checker does, and can go on from there.
 *
 *   sim --image FILE [--xml FILE] [--lax] [--grow-data N] [--fill] [--delete] [--out FILE]
 *   sim --huge
 *   sim --tails
 *   sim --refused
 *   sim --make-xml FILE --mappings N --data-blocks N
 */
#include <linux/err.h>
#include <linux/kernel.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "hostile.h"
#include "world.h"

static const struct thin_meta_ops no_ops;

/* The layer reads exactly what the checker has read. */
void image_read_all(struct thin_meta *tm, const struct check_result *res, const char *where)
{
	struct thin_range range;
	struct thin_dev *td;
	struct thin_map map;
	u64 v, nr;
	size_t i, k;
	int r;

	for (i = 0; i < res->live.nr; i++) {
		const struct check_dev *c = &res->live.devs[i];

		r = thin_meta_open_dev(tm, c->id, &td);
		if (r)
			sim_fail("%s: device %llu: open: error %d", where, c->id, r);
		r = thin_dev_mapped_blocks(td, &nr);
		if (r || nr != c->mapped || thin_dev_snapshotted_time(td) != c->stime)
			sim_fail("%s: device %llu: %llu mapped, should be %llu", where, c->id, nr, c->mapped);
		for (k = 0, v = 0; k < c->nr; v = range.vend) {
			r = thin_dev_find_range(td, v, ~0ULL, true, &range);
			sim_api_end("thin_dev_find_range");
			if (r)
				sim_fail("%s: device %llu from %llu: error %d", where, c->id, v, r);
			for (v = range.vbegin; v < range.vend; v++, k++)
				if (k >= c->nr || c->maps[k].v != v || c->maps[k].b != range.map.block + v - range.vbegin ||
				    range.map.shared != (c->stime > c->maps[k].t))
					sim_fail("%s: device %llu differs at block %llu", where, c->id, v);
		}
		r = thin_dev_find_range(td, v, ~0ULL, true, &range);
		if (r != -ENODATA)
			sim_fail("%s: device %llu: %d behind its last mapping", where, c->id, r);
		for (k = 0; k < c->nr; k += 1 + c->nr / 1000) {
			r = thin_dev_find(td, c->maps[k].v, true, &map);
			if (r || map.block != c->maps[k].b || map.time != c->maps[k].t)
				sim_fail("%s: device %llu block %llu: error %d", where, c->id, c->maps[k].v, r);
		}
		thin_meta_close_dev(td);
		sim_api_end("thin_meta_close_dev");
	}
}

static void must(int r, const char *what)
{
	sim_api_end(what);
	if (r)
		sim_fail("%s: error %d", what, r);
}

/* Hand out every free data block and map it: the last ones of the old and the new size are among them. */
static void fill(struct thin_meta *tm, struct check_result *res, u64 old_size, u64 new_size)
{
	struct thin_insert ins[64];
	struct thin_dev *td;
	u64 begin, len, n, v = 0, total = 0, want = 0;
	bool old_last = !old_size || res->data_counts[old_size - 1], new_last = false;
	u32 id = 0, i;
	int r;

	for (n = 0; n < old_size; n++)
		want += !res->data_counts[n];
	want += new_size - old_size;
	while ((r = thin_meta_create_thin(tm, id)) == -EEXIST)
		id++;
	must(r, "create_thin");
	must(thin_meta_open_dev(tm, id, &td), "open_dev");
	while (!(r = thin_meta_alloc_data(tm, 64, &begin, &len))) {
		for (i = 0; i < len; i++, v++) {
			if (begin + i < old_size && res->data_counts[begin + i])
				sim_fail("data block %llu is handed out, its count is %u", begin + i,
					 res->data_counts[begin + i]);
			old_last |= begin + i == old_size - 1;
			new_last |= begin + i == new_size - 1;
			ins[i] = (struct thin_insert){ v, begin + i, THIN_EXPECT_HOLE, 0 };
		}
		must(thin_dev_insert(td, ins, len), "insert");
		total += len;
		if (thin_meta_wants_commit(tm))
			must(thin_meta_commit(tm), "commit");
	}
	if (r != -ENOSPC)
		sim_fail("alloc_data: error %d", r);
	if (total != want)
		sim_fail("%llu data blocks were handed out, %llu were free", total, want);
	if (!old_last || (new_size > old_size && !new_last))
		sim_fail("the last block of the old size or of the new size was never handed out");
	thin_meta_close_dev(td);
	must(thin_meta_commit(tm), "commit");
	printf("filled: %llu data blocks handed out, the last of %llu and of %llu among them\n", total, old_size, new_size);
}

static bool never_stop(void *arg)
{
	(void)arg;
	return false;
}

static struct thin_meta *reopen(struct block_device *bdev, u64 block_size)
{
	struct thin_meta *tm = thin_meta_open(bdev, block_size, false, &no_ops, NULL);

	if (IS_ERR(tm))
		sim_fail("thin_meta_open: error %ld", PTR_ERR(tm));
	sim_api_end("thin_meta_open");
	return tm;
}

/* Somewhere in the middle of deleting @id: the others are whole, it has some of its mappings. */
static void check_half_deleted(const struct disk *d, const struct check_result *before, u64 id, const char *where)
{
	const struct check_dev *b, *c;
	struct check_result res;
	size_t i, k = 0, m;

	if (check_image(d, &res, CHECK_LAX))
		sim_fail("%s: %s", where, res.err);
	for (i = 0; i < before->live.nr; i++) {
		b = &before->live.devs[i];
		c = k < res.live.nr && res.live.devs[k].id == b->id ? &res.live.devs[k++] : NULL;
		if (!c && b->id != id)
			sim_fail("%s: device %llu is gone", where, b->id);
		if (!c)
			continue;
		if (b->id != id && c->nr != b->nr)
			sim_fail("%s: device %llu has %zu mappings of %zu", where, b->id, c->nr, b->nr);
		for (m = 0; m < b->nr && b->id != id; m++)
			if (c->maps[m].v != b->maps[m].v || c->maps[m].b != b->maps[m].b)
				sim_fail("%s: device %llu differs", where, b->id);
	}
	if (k != res.live.nr)
		sim_fail("%s: a device too many", where);
	check_free(&res);
}

/*
 * Deleting a hardly changed snapshot of a large device reads only what is its
 * own; deleting the device itself goes in steps, and a power cut anywhere in
 * them leaves it with fewer mappings and all else as it was.
 */
static void delete_large(struct disk *d, struct block_device *bdev, const struct check_result *res)
{
	const struct check_dev *big = &res->live.devs[0];
	struct rng rng = { 7 };
	struct thin_insert ins;
	struct thin_meta *tm;
	struct thin_dev *td;
	u64 begin, len, reads, supers;
	struct disk *cut;
	char where[96];
	size_t i, at;
	u32 snap = 77;
	int r;

	for (i = 1; i < res->live.nr; i++)
		if (res->live.devs[i].nr > big->nr)
			big = &res->live.devs[i];
	tm = reopen(bdev, res->data_block_size);
	must(thin_meta_create_snap(tm, snap, big->id), "create_snap");
	must(thin_meta_open_dev(tm, snap, &td), "open_dev");
	for (i = 0; i < 5; i++) {
		const struct mapping *m = &big->maps[(2 * i + 1) * big->nr / 10];

		must(thin_meta_alloc_data(tm, 1, &begin, &len), "alloc_data");
		ins = (struct thin_insert){ m->v, begin, m->b, 0 };
		must(thin_dev_insert(td, &ins, 1), "insert");
		if (ins.status)
			sim_fail("insert: status %d", ins.status);
	}
	thin_meta_close_dev(td);
	must(thin_meta_close(tm), "close");

	tm = reopen(bdev, res->data_block_size);
	reads = d->nr_reads;
	must(thin_meta_delete(tm, snap, never_stop, NULL), "delete of the snapshot");
	reads = d->nr_reads - reads;
	if (reads > 200)
		sim_fail("deleting a snapshot of %zu mappings with 5 of its own read %llu blocks", big->nr, reads);
	must(thin_meta_close(tm), "close");
	check_half_deleted(d, res, ~0ULL, "the snapshot is deleted");

	disk_mark(d);
	tm = reopen(bdev, res->data_block_size);
	supers = d->nr_super_writes;
	r = thin_meta_delete(tm, big->id, never_stop, NULL);
	must(r, "delete of the large device");
	must(thin_meta_close(tm), "close");
	supers = d->nr_super_writes - supers;
	for (i = 0; i < 12; i++) {
		at = rng_below(&rng, d->nr_events + 1);
		snprintf(where, sizeof(where), "power cut behind event %zu of %zu of a delete", at, d->nr_events);
		cut = disk_cut(d, at, &rng);
		check_half_deleted(cut, res, big->id, where);
		disk_free(cut);
	}
	check_half_deleted(d, res, big->id, "the large device is deleted");
	printf("deleted: a snapshot with %llu reads, then device %llu of %zu mappings in %llu commits\n", reads, big->id,
	       big->nr, supers);
}

/* What is refused, without a trace. */
static int refused(void)
{
	struct disk *d = disk_new(100), *tiny = disk_new(2);
	struct block_device bdev = { .sectors = 800, .disk = d }, small = { .sectors = 16, .disk = tiny };
	struct thin_insert last = { .vblock = U64_MAX, .expect = THIN_EXPECT_HOLE };
	u8 copy[DISK_BLOCK], page[DISK_BLOCK];
	struct thin_meta *tm;
	struct thin_dev *td;
	u64 begin, len, root;
	int r;

	tm = thin_meta_open(&small, DATA_BLOCK_SECTORS, true, &no_ops, NULL);
	if (PTR_ERR(tm) != -EINVAL)
		sim_fail("two blocks: error %ld", PTR_ERR(tm));
	tm = thin_meta_open(&bdev, DATA_BLOCK_SECTORS, false, &no_ops, NULL);
	if (PTR_ERR(tm) != -EPERM)
		sim_fail("a blank device that may not be formatted: error %ld", PTR_ERR(tm));
	tm = thin_meta_open(&bdev, DATA_BLOCK_SECTORS, true, &no_ops, NULL);
	must(IS_ERR(tm) ? PTR_ERR(tm) : 0, "open");
	must(thin_meta_resize_data(tm, 50), "resize_data");
	must(thin_meta_create_thin(tm, 1), "create_thin");
	r = thin_meta_create_thin(tm, THIN_MAX_DEV_ID + 1);
	if (r != -EINVAL)
		sim_fail("a device id too large: error %d", r);
	must(thin_meta_commit(tm), "commit");
	must(thin_meta_open_dev(tm, 1, &td), "open_dev");
	r = thin_meta_delete(tm, 1, never_stop, NULL);
	if (r != -EBUSY)
		sim_fail("delete of an open device: error %d", r);
	r = thin_meta_resize_data(tm, (1ULL << 40) + 1);
	if (r != -EINVAL)
		sim_fail("more data blocks than a mapping can name: error %d", r);
	/* No range ends behind this one. */
	must(thin_meta_alloc_data(tm, 1, &last.block, &len), "alloc_data");
	must(thin_dev_insert(td, &last, 1), "insert");
	thin_meta_close_dev(td);

	thin_meta_set_access(tm, THIN_META_FREEING);
	r = thin_meta_create_thin(tm, 2);
	if (r != -EPERM)
		sim_fail("create_thin while only what frees is served: error %d", r);
	must(thin_meta_delete(tm, 1, never_stop, NULL), "delete while only what frees is served");
	thin_meta_set_access(tm, THIN_META_READ_ONLY);
	r = thin_meta_commit(tm);
	if (r != -EPERM)
		sim_fail("commit of changes while read-only: error %d", r);
	thin_meta_set_access(tm, THIN_META_WRITABLE);
	must(thin_meta_commit_last(tm), "commit_last");
	r = thin_meta_alloc_data(tm, 1, &begin, &len);
	if (!r)
		r = thin_meta_create_thin(tm, 3);
	if (r != -EPERM)
		sim_fail("a change after the last commit: error %d", r);
	thin_meta_set_access(tm, THIN_META_READ_ONLY);
	must(thin_meta_commit(tm), "commit of nothing while read-only");
	must(thin_meta_close(tm), "close");
	tm = thin_meta_open(&bdev, DATA_BLOCK_SECTORS * 2, false, &no_ops, NULL);
	if (PTR_ERR(tm) != -EINVAL)
		sim_fail("another block size: error %ld", PTR_ERR(tm));

	tm = thin_meta_open(&bdev, DATA_BLOCK_SECTORS, false, &no_ops, NULL);
	must(IS_ERR(tm) ? PTR_ERR(tm) : 0, "open");
	must(thin_meta_reserve_snap(tm), "reserve_snap");
	must(thin_meta_commit(tm), "commit");
	must(thin_meta_held_root(tm, &root), "held_root");
	must(thin_meta_close(tm), "close");
	memcpy(copy, disk_peek(d, root), DISK_BLOCK);
	memcpy(page, copy, DISK_BLOCK);
	page[100] ^= 1;
	disk_poke(d, root, page);
	tm = thin_meta_open(&bdev, DATA_BLOCK_SECTORS, false, &no_ops, NULL);
	must(IS_ERR(tm) ? PTR_ERR(tm) : 0, "open");
	must(thin_meta_create_thin(tm, 4), "create_thin");
	r = thin_meta_release_snap(tm, NULL, NULL);
	if (!r || thin_meta_rolled_back(tm))
		sim_fail("release of a metadata snapshot that cannot be read: error %d, and what was open is %s", r,
			 thin_meta_rolled_back(tm) ? "lost" : "there");
	must(thin_meta_delete(tm, 4, never_stop, NULL), "delete");
	must(thin_meta_close(tm), "close");
	disk_poke(d, root, copy);
	tm = thin_meta_open(&bdev, DATA_BLOCK_SECTORS, false, &no_ops, NULL);
	must(IS_ERR(tm) ? PTR_ERR(tm) : 0, "open");
	must(thin_meta_release_snap(tm, NULL, NULL), "release_snap");
	must(thin_meta_close(tm), "close");
	if (sim_live_allocs)
		sim_fail("%ld allocations are left behind", sim_live_allocs);
	disk_free(d);
	disk_free(tiny);
	printf("refused: all that should be\n");
	return 0;
}

/* A device of 16 GiB and more: only what the format can address is used. */
static int huge(void)
{
	const u64 blocks = 4194304 + 100;
	struct disk *d = disk_new(blocks);
	struct block_device bdev = { .sectors = blocks * 8 + 3, .disk = d };
	struct thin_meta_space space;
	struct check_result res;
	struct thin_meta *tm;
	int round, r;

	for (round = 0; round < 2; round++) {
		tm = thin_meta_open(&bdev, DATA_BLOCK_SECTORS, round == 0, &no_ops, NULL);
		if (IS_ERR(tm))
			sim_fail("thin_meta_open: error %ld", PTR_ERR(tm));
		sim_api_end("thin_meta_open");
		must(thin_meta_get_space(tm, &space), "get_space");
		if (space.meta_total != 4161600)
			sim_fail("%llu metadata blocks in use, should be 4161600", space.meta_total);
		if (space.meta_free != space.meta_raw_free - 4096)
			sim_fail("reserve is %llu, should be 4096", space.meta_raw_free - space.meta_free);
		if (thin_meta_device_mblocks(tm) != 4161600 || thin_meta_low_water_mblocks(tm) != 1024)
			sim_fail("device %llu low water %llu", thin_meta_device_mblocks(tm), thin_meta_low_water_mblocks(tm));
		if (round == 0) {
			must(thin_meta_resize_data(tm, 1000000), "resize_data");
			must(thin_meta_create_thin(tm, 1), "create_thin");
			must(thin_meta_commit(tm), "commit");
		}
		r = thin_meta_resize_metadata(tm, 4161601);
		if (r != -EINVAL)
			sim_fail("growing past the cap: error %d", r);
		must(thin_meta_close(tm), "close");
		if (check_image(d, &res, 0))
			sim_fail("the image is wrong: %s", res.err);
		if (res.meta.nr_allocated != res.meta.nr_blocks - space.meta_raw_free && round)
			sim_fail("%llu metadata blocks used, free %llu", res.meta.nr_allocated, space.meta_raw_free);
		check_free(&res);
	}
	disk_free(d);
	printf("huge: 4161600 metadata blocks used of %llu, reserve 4096\n", blocks);
	return 0;
}

/* Set all bits of a bitmap from entry @nr on. */
static void spoil(struct disk *d, u64 block, u64 nr)
{
	u8 page[DISK_BLOCK];
	u64 i;

	memcpy(page, disk_peek(d, block), DISK_BLOCK);
	for (i = 2 * nr; i < 8 * (DISK_BLOCK - 16); i++)
		page[16 + i / 8] |= 1 << i % 8;
	stamp_page(page, T_BITMAP);
	disk_poke(d, block, page);
}

/* What others have left behind the last entry of a bitmap is no count when the map grows (format 6.3). */
static void grow_over(u64 mblocks, u64 data_blocks)
{
	struct disk *d = disk_new(mblocks);
	struct block_device bdev = { .sectors = mblocks * 8, .disk = d };
	struct check_result res;
	struct thin_meta *tm;
	u64 b, meta_bitmap;
	int round;

	for (round = 0; round < 2; round++) {
		tm = thin_meta_open(&bdev, DATA_BLOCK_SECTORS, round == 0, &no_ops, NULL);
		if (IS_ERR(tm))
			sim_fail("thin_meta_open: error %ld", PTR_ERR(tm));
		must(thin_meta_resize_data(tm, data_blocks + round * 100), "resize_data");
		if (round)
			must(thin_meta_resize_metadata(tm, mblocks + 100), "resize_metadata");
		must(thin_meta_create_thin(tm, 1 + round), "create_thin");
		must(thin_meta_close(tm), "close");
		if (check_image(d, &res, 0))
			sim_fail("%llu metadata and %llu data blocks: the image is wrong: %s", mblocks, data_blocks, res.err);
		memcpy(&meta_bitmap, disk_peek(d, res.meta.bitmap_root) + 16, sizeof(meta_bitmap));
		for (b = 0; b < mblocks && !round; b++)
			if (res.kinds[b] == T_BITMAP)
				spoil(d, b, b == meta_bitmap ? mblocks : data_blocks);
		check_free(&res);
		disk_resize(d, mblocks + 100);
		bdev.sectors = d->nr_blocks * 8;
	}
	disk_free(d);
}

static int tails(void)
{
	u64 nr;

	for (nr = 1000; nr < 1100; nr++)
		grow_over(nr, nr + 15000);
	printf("tails: what is behind the last of 1000 to 1099 and of 16000 to 16099 entries is ignored\n");
	return 0;
}

/*
 * XML for thin_restore: device 1 has every second mapping, scattered over the
 * data device; device 2 the other half, in runs; device 3 shares data with 2.
 */
static int make_xml(const char *path, u64 mappings, u64 data_blocks)
{
	const u64 stride = 7919, runs = mappings / 2 / 100, scattered = mappings - runs * 100;
	FILE *f = fopen(path, "w");
	u64 i, b, used = 0, shared;

	if (!f || mappings < 1000 || data_blocks < mappings)
		sim_fail("cannot make XML of %llu mappings in %llu blocks as %s", mappings, data_blocks, path);
	shared = runs / 10;
	fprintf(f, "<superblock uuid=\"\" time=\"5\" transaction=\"3\" flags=\"0\" version=\"2\" data_block_size=\"128\" nr_data_blocks=\"%llu\">\n",
		data_blocks);
	fprintf(f, "  <device dev_id=\"1\" mapped_blocks=\"%llu\" transaction=\"1\" creation_time=\"0\" snap_time=\"2\">\n", scattered);
	for (i = 0; i < scattered; i++) {
		b = i * stride % scattered;
		fprintf(f, "    <single_mapping origin_block=\"%llu\" data_block=\"%llu\" time=\"%llu\"/>\n", 3 * i, b, i % 4);
	}
	fprintf(f, "  </device>\n");
	used = scattered;
	fprintf(f, "  <device dev_id=\"2\" mapped_blocks=\"%llu\" transaction=\"2\" creation_time=\"1\" snap_time=\"4\">\n", runs * 100);
	for (i = 0; i < runs; i++)
		fprintf(f, "    <range_mapping origin_begin=\"%llu\" data_begin=\"%llu\" length=\"100\" time=\"3\"/>\n", i * 131,
			used + i * 100);
	fprintf(f, "  </device>\n");
	fprintf(f, "  <device dev_id=\"3\" mapped_blocks=\"%llu\" transaction=\"2\" creation_time=\"4\" snap_time=\"4\">\n", shared * 100);
	for (i = 0; i < shared; i++)
		fprintf(f, "    <range_mapping origin_begin=\"%llu\" data_begin=\"%llu\" length=\"100\" time=\"3\"/>\n", i * 131,
			used + i * 100);
	fprintf(f, "  </device>\n</superblock>\n");
	return fclose(f) ? 1 : 0;
}

int image_main(int argc, char **argv)
{
	const char *file = NULL, *xml = NULL, *out = NULL, *make = NULL;
	u64 mappings = 0, data_blocks = 0;
	struct check_result res, after;
	u64 grow = 0, old_size, block_size;
	struct block_device bdev;
	struct thin_meta *tm;
	unsigned int flags = 0;
	bool do_fill = false, do_delete = false;
	struct disk *d;
	int i;

	for (i = 1; i < argc; i++) {
		const char *a = argv[i], *v = i + 1 < argc ? argv[i + 1] : NULL;

		if (!strcmp(a, "--huge"))
			return huge();
		if (!strcmp(a, "--tails"))
			return tails();
		if (!strcmp(a, "--refused"))
			return refused();
		if (!strcmp(a, "--lax")) {
			flags |= CHECK_LAX;
		} else if (!strcmp(a, "--fill")) {
			do_fill = true;
		} else if (!strcmp(a, "--delete")) {
			do_delete = true;
		} else if (!v) {
			goto bad;
		} else if (i++, !strcmp(a, "--image")) {
			file = v;
		} else if (!strcmp(a, "--xml")) {
			xml = v;
		} else if (!strcmp(a, "--out")) {
			out = v;
		} else if (!strcmp(a, "--make-xml")) {
			make = v;
		} else if (!strcmp(a, "--mappings")) {
			mappings = strtoull(v, NULL, 0);
		} else if (!strcmp(a, "--data-blocks")) {
			data_blocks = strtoull(v, NULL, 0);
		} else if (!strcmp(a, "--grow-data")) {
			grow = strtoull(v, NULL, 0);
		} else {
			goto bad;
		}
	}
	if (make)
		return make_xml(make, mappings, data_blocks);
	if (!file)
		goto bad;
	d = disk_load(file, 0);
	d->record = do_delete;
	bdev = (struct block_device){ .sectors = d->nr_blocks * 8, .disk = d };
	if (check_image(d, &res, flags))
		sim_fail("%s: the checker: %s", file, res.err);
	if (xml)
		tools_compare_xml(xml, &res);
	block_size = res.data_block_size;
	tm = thin_meta_open(&bdev, block_size, false, &no_ops, NULL);
	if (IS_ERR(tm))
		sim_fail("%s: thin_meta_open: error %ld", file, PTR_ERR(tm));
	sim_api_end("thin_meta_open");
	image_read_all(tm, &res, file);
	if (d->nr_writes)
		sim_fail("%s: reading wrote %llu blocks", file, d->nr_writes);
	old_size = res.data.nr_blocks;
	if (grow) {
		must(thin_meta_resize_data(tm, grow), "resize_data");
		must(thin_meta_commit(tm), "commit");
	}
	if (do_fill)
		fill(tm, &res, old_size, grow ? grow : old_size);
	must(thin_meta_close(tm), "close");
	if (do_delete)
		delete_large(d, &bdev, &res);
	if (grow || do_fill || do_delete) {
		if (check_image(d, &after, flags))
			sim_fail("%s: written to, then the checker: %s", file, after.err);
		check_free(&after);
	}
	if (out)
		disk_save(d, out);
	printf("%s: %zu devices read right\n", file, res.live.nr);
	check_free(&res);
	disk_free(d);
	return 0;
bad:
	fprintf(stderr, "usage: sim --image FILE [--xml FILE] [--lax] [--grow-data BLOCKS] [--fill] [--delete] [--out FILE]\n"
		"       sim --huge | sim --tails | sim --refused | sim --make-xml FILE --mappings N --data-blocks N\n");
	return 2;
}
