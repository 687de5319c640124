// SPDX-License-Identifier: GPL-2.0-only
/*
 * Hostile metadata: a sound image, and every field of every structure in it
 * set to what it must not be, checksums right.
 *
 * Values are zero, one, the largest, the neighbours of what was there, numbers of
 * blocks that are something else (so trees loop, share or point across), and
 * random ones.  Then whole pages are swapped.  Every image goes through all
 * that the layer can do (exercise.c), and devices that have no part in the
 * damaged block must read as before.
 */
#include <linux/kernel.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "fuzz.h"
#include "history.h"
#include "hostile.h"

#define MAX_FIELDS	256
#define NR_VALUES	11
#define SWAPS_PER_BLOCK	4

struct field {
	u16 off;
	u8 size;
};

char hostile_now[200];

static struct {
	u64 images, mutations, refused, untouched;
} did;

/* The image at hand. */
static struct disk *base;
static struct check_result res;
static u32 ids[64];
static unsigned int nr_ids;
static const char *base_file;
static u64 base_seed, nr_mutation, only;

static u64 get(const u8 *p, struct field f)
{
	u64 v = 0;

	memcpy(&v, p + f.off, f.size);
	return v;
}

static void add(struct field *f, unsigned int *nr, unsigned int off, unsigned int size)
{
	if (*nr < MAX_FIELDS && off + size <= DISK_BLOCK)
		f[(*nr)++] = (struct field){ off, size };
}

static unsigned int node_fields(const u8 *p, int kind, struct field *f)
{
	u32 nr, max, size, flags, i, at[5];
	unsigned int n = 0, off;

	memcpy(&flags, p + 4, 4);
	memcpy(&nr, p + 16, 4);
	memcpy(&max, p + 20, 4);
	memcpy(&size, p + 24, 4);
	for (off = 16; off < 32; off += 4)
		add(f, &n, off, 4);
	at[0] = 0;
	at[1] = 1;
	at[2] = nr / 2;
	at[3] = nr ? nr - 1 : 0;
	at[4] = nr;
	for (i = 0; i < ARRAY_SIZE(at); i++) {
		if (at[i] >= max || (i && at[i] == at[i - 1]))
			continue;
		add(f, &n, 32 + 8 * at[i], 8);
		off = 32 + 8 * max + size * at[i];
		if (flags == 1 || kind == T_TOP) {
			add(f, &n, off, 8);
		} else if (kind == T_MAP) {
			/* The whole word, the block's upper bytes, the time. */
			add(f, &n, off, 8);
			add(f, &n, off + 3, 4);
			add(f, &n, off, 2);
		} else if (kind == T_COUNTS) {
			add(f, &n, off, 4);
		} else {
			add(f, &n, off, 8);
			add(f, &n, off + 8, kind == T_DETAILS ? 8 : 4);
			add(f, &n, off + (kind == T_DETAILS ? 16 : 12), 4);
			if (kind == T_DETAILS)
				add(f, &n, off + 20, 4);
		}
	}
	return n;
}

static unsigned int fields(const u8 *p, int kind, struct field *f)
{
	static const u16 super8[] = { 16, 24, 32, 48, 56, 320, 328, 344 };
	static const u16 super4[] = { 40, 44, 336, 340, 352, 356, 360 };
	unsigned int n = 0, i;

	add(f, &n, 4, 4);
	add(f, &n, 8, 8);
	switch (kind) {
	case T_SUPER:
		for (i = 0; i < ARRAY_SIZE(super8); i++)
			add(f, &n, super8[i], 8);
		for (i = 0; i < ARRAY_SIZE(super4); i++)
			add(f, &n, super4[i], 4);
		for (i = 0; i < 32; i += 8) {
			add(f, &n, 64 + i, 8);
			add(f, &n, 192 + i, 8);
		}
		return n;
	case T_BITMAP:
		for (i = 0; i < 8; i++)
			add(f, &n, 16 + 8 * i, 8);
		add(f, &n, DISK_BLOCK - 8, 8);
		return n;
	case T_META_INDEX:
		for (i = 0; i < 2; i++) {
			add(f, &n, 16 + 16 * i, 8);
			add(f, &n, 24 + 16 * i, 4);
			add(f, &n, 28 + 16 * i, 4);
		}
		return n;
	default:
		return n + node_fields(p, kind, f + n);
	}
}

static u64 any_block(struct rng *rng)
{
	u64 b;

	do
		b = rng_below(rng, res.meta.nr_blocks);
	while (!res.kinds[b]);
	return b;
}

static u64 value(unsigned int nr, u64 old, unsigned int size, u64 block, struct rng *rng)
{
	switch (nr) {
	case 0:
		return 0;
	case 1:
		return 1;
	case 2:
		return ~0ULL;
	case 3:
		return old + 1;
	case 4:
		return old - 1;
	case 5:
		return 1ULL << (8 * size - 1);
	case 6:
		return block;
	case 7:
		return any_block(rng);
	case 8:
		return res.meta.nr_blocks - rng_below(rng, 2);
	case 9:
		return rng_below(rng, 400);
	default:
		return rng_next(rng);
	}
}

static bool reaches(u64 from, u64 block)
{
	const u8 *p = disk_peek(base, from), *vals;
	u32 i, nr, max, flags;
	u64 child;

	if (from == block)
		return true;
	memcpy(&flags, p + 4, 4);
	memcpy(&nr, p + 16, 4);
	memcpy(&max, p + 20, 4);
	vals = p + 32 + 8 * max;
	for (i = 0; flags == 1 && i < nr; i++) {
		memcpy(&child, vals + 8 * i, 8);
		if (reaches(child, block))
			return true;
	}
	return false;
}

/* Blocks that only single devices, or only changes, depend on. */
static bool leaves_others_alone(int kind)
{
	return kind == T_MAP || kind == T_INDEX || kind == T_COUNTS || kind == T_BITMAP;
}

static void try(struct disk *d, u64 block, int kind)
{
	bool untouched[ARRAY_SIZE(ids)];
	size_t i;

	did.mutations++;
	if (leaves_others_alone(kind)) {
		for (i = 0; i < res.live.nr; i++) {
			untouched[i] = kind != T_MAP || !reaches(res.live.devs[i].root, block);
			did.untouched += untouched[i];
		}
		exercise_untouched(d, &res, untouched);
	}
	if (!exercise(d, base_seed ^ nr_mutation, ids, nr_ids))
		did.refused++;
	disk_free(d);
}

static bool wanted(void)
{
	nr_mutation++;
	return !only || only == nr_mutation;
}

static void mutate_field(u64 block, struct field f, unsigned int v, struct rng *rng)
{
	u8 page[DISK_BLOCK];
	struct disk *d;
	u64 old, new;

	memcpy(page, disk_peek(base, block), DISK_BLOCK);
	old = get(page, f);
	new = value(v, old, f.size, block, rng);
	memcpy(page + f.off, &new, f.size);
	stamp_page(page, res.kinds[block]);
	if (!memcmp(page, disk_peek(base, block), DISK_BLOCK) || !wanted())
		return;
	snprintf(hostile_now, sizeof(hostile_now), "mutation %llu: %s of block %llu: bytes %u to %u, %llx becomes %llx",
		 nr_mutation, check_kind_name(res.kinds[block]), block, f.off, f.off + f.size - 1, old, new);
	d = disk_cut(base, 0, NULL);
	disk_poke(d, block, page);
	try(d, block, res.kinds[block]);
}

/* One page in the place of another, as it is or with its number put right; the other way too or not. */
static void mutate_pages(u64 block, unsigned int way, struct rng *rng)
{
	u64 other = any_block(rng);
	u8 page[DISK_BLOCK];
	struct disk *d;

	if (other == block || !wanted())
		return;
	snprintf(hostile_now, sizeof(hostile_now), "mutation %llu: block %llu (%s) %s block %llu (%s)%s", nr_mutation, block,
		 check_kind_name(res.kinds[block]), way & 1 ? "changes places with" : "is a copy of", other,
		 check_kind_name(res.kinds[other]), way & 2 ? ", numbers put right" : "");
	d = disk_cut(base, 0, NULL);
	memcpy(page, disk_peek(base, other), DISK_BLOCK);
	if (way & 2) {
		memcpy(page + 8, &block, 8);
		stamp_page(page, res.kinds[other]);
	}
	disk_poke(d, block, page);
	if (way & 1) {
		memcpy(page, disk_peek(base, block), DISK_BLOCK);
		if (way & 2) {
			memcpy(page + 8, &other, 8);
			stamp_page(page, res.kinds[block]);
		}
		disk_poke(d, other, page);
	}
	/* Two blocks are damaged: who is untouched is not asked. */
	try(d, block, T_NONE);
}

/* An internal node whose only child is itself: all its keys are in bounds, however deep. */
static void mutate_loop(u64 block)
{
	static const u32 header[] = { 1, 252, 8, 0 };
	u8 page[DISK_BLOCK];
	struct disk *d;
	u32 flags = 1;

	if (!wanted())
		return;
	snprintf(hostile_now, sizeof(hostile_now), "mutation %llu: %s at block %llu is its own only child", nr_mutation,
		 check_kind_name(res.kinds[block]), block);
	memcpy(page, disk_peek(base, block), DISK_BLOCK);
	memcpy(page + 4, &flags, 4);
	memcpy(page + 16, header, sizeof(header));
	memcpy(page + 32 + 8 * 252, &block, 8);
	stamp_page(page, res.kinds[block]);
	d = disk_cut(base, 0, NULL);
	disk_poke(d, block, page);
	try(d, block, res.kinds[block]);
}

static void mutate_all(void)
{
	struct field f[MAX_FIELDS];
	unsigned int n, i, v;
	struct rng rng = { base_seed };
	u64 b;

	did.images++;
	nr_mutation = 0;
	nr_ids = 0;
	for (i = 0; i < res.live.nr && nr_ids < ARRAY_SIZE(ids) - 1; i++)
		ids[nr_ids++] = res.live.devs[i].id;
	ids[nr_ids++] = 12345;
	bufio_policy.max_calls = 3000000;
	bufio_policy.evict_percent = 50;
	bufio_policy.early_write_percent = 50;
	for (b = 0; b < res.meta.nr_blocks; b++) {
		if (!res.kinds[b])
			continue;
		n = fields(disk_peek(base, b), res.kinds[b], f);
		for (i = 0; i < n; i++)
			for (v = 0; v < NR_VALUES; v++)
				mutate_field(b, f[i], v, &rng);
		for (v = 0; v < SWAPS_PER_BLOCK; v++)
			mutate_pages(b, v, &rng);
		if (is_node(res.kinds[b]))
			mutate_loop(b);
	}
	bufio_policy.max_calls = 0;
	hostile_now[0] = 0;
}

/* A pool with something of everything: snapshots, a metadata snapshot, counts above two, trees of two levels. */
static void make_base(u64 seed, u64 mappings)
{
	struct shape s = {
		.meta_blocks = 200, .data_blocks = seed % 3 ? 1500 : 17000, .max_devs = 4, .max_vblock = 700,
		.commit_every = 20, .bulk = 0,
	};
	struct world w;
	unsigned int i;

	history_start(&w, &s, seed);
	op_create(&w, 1);
	for (i = 0; i < mappings / 64; i++)
		op_write(&w, 1, i * 64, 64, false);
	for (i = 2; i < 5; i++)
		op_snap(&w, i, 1);
	op_write(&w, 3, 0, 3, false);
	if (seed % 2)
		op_hold(&w);
	history_ops(&w, &s, 15);
	op_commit(&w);
	base = disk_cut(w.disk, w.disk->nr_events, NULL);
	op_close(&w);
	world_exit(&w);
	seed_now = 0;
}

static void use_base(unsigned int flags)
{
	if (check_image(base, &res, flags))
		sim_fail("the image is not sound: %s", res.err);
	mutate_all();
	check_free(&res);
	disk_free(base);
}

void hostile_one(u64 seed, u64 nr)
{
	only = nr;
	base_seed = seed;
	make_base(seed, 320);
	use_base(0);
}

void hostile(u64 seed)
{
	hostile_one(seed, 0);
}

void hostile_file(const char *path, u64 nr)
{
	only = nr;
	base_seed = 1;
	base_file = path;
	base = disk_load(path, 0);
	use_base(CHECK_LAX);
}

void hostile_replay(FILE *f)
{
	if (base_file)
		fprintf(f, "  %s\n  replay: make -C tests/sim run ARGS='--hostile-file %s --only %llu --replay'\n", hostile_now,
			base_file, nr_mutation);
	else
		fprintf(f, "  %s\n  replay: make -C tests/sim run ARGS='--hostile --seed %llu --only %llu --replay'\n", hostile_now,
			base_seed, nr_mutation);
}

void hostile_corpus(const char *dir, char **files, int nr)
{
	char path[512];
	u64 seed;
	int i;

	for (seed = 1; seed <= 12; seed++) {
		make_base(seed, seed % 4 ? 64 : 320);
		snprintf(path, sizeof(path), "%s/made-%llu", dir, seed);
		fuzz_save(base, path);
		disk_free(base);
	}
	for (i = 0; i < nr; i++) {
		base = disk_load(files[i], 0);
		snprintf(path, sizeof(path), "%s/image-%d", dir, i + 1);
		fuzz_save(base, path);
		disk_free(base);
	}
	printf("%d inputs\n", 12 + nr);
}

void hostile_print(void)
{
	printf("sim: %llu hostile images (made of %llu sound ones), %llu could not be opened, the others were used; %llu devices that nothing had touched read whole\n",
	       did.mutations, did.images, did.refused, did.untouched);
}
