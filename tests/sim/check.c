// SPDX-License-Identifier: GPL-2.0-only
/*
 * The exact checker; see the header.
 *
 * Walks everything that block 0 reaches, counts every pointer by the rules of
 * the format's section 7, and compares with both space maps.  The first
 * contradiction ends the walk: its text is in check_result.err.
 */
#include <linux/kernel.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "check.h"

#define PER_BITMAP 16320
#define MAX_DEPTH 16

static const char * const tree_name[] = {
	"nothing", "top level", "mapping tree", "details", "bitmap index", "overflow counts",
	"bitmap", "superblock", "metadata index",
};

/* What the walk remembers of a block that it has been to. */
struct seen {
	u8 tree;
	u8 height;
	bool busy;
	u32 nr, max;
	u64 lo, hi;
};

struct walk {
	const struct disk *d;
	struct check_result *res;
	struct seen *seen;
	u64 nr;
	unsigned int flags;
	jmp_buf out;
	/* leaf entries of the index and count trees being walked */
	u64 *pairs;
	size_t nr_pairs, cap_pairs;
};

static u64 le(const u8 *p, int n)
{
	u64 v = 0;

	memcpy(&v, p, n);
	return v;
}

static void bad(struct walk *w, const char *fmt, ...) __attribute__((noreturn, format(printf, 2, 3)));
static void bad(struct walk *w, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(w->res->err, sizeof(w->res->err), fmt, ap);
	va_end(ap);
	longjmp(w->out, 1);
}

static void *grow(void *p, size_t n, size_t size)
{
	p = realloc(p, n * size);
	if (!p)
		sim_fail("the machine is out of memory");
	return p;
}

static u32 value_size(enum tree t)
{
	switch (t) {
	case T_DETAILS:
		return 24;
	case T_INDEX:
		return 16;
	case T_COUNTS:
		return 4;
	default:
		return 8;
	}
}

static u32 capacity(u32 size)
{
	return (4096 - 32) / (8 + size) / 3 * 3;
}

static const u8 *block_of(struct walk *w, u64 b, u32 salt, const char *what)
{
	const u8 *p;

	if (b >= w->nr)
		bad(w, "%s: pointer to block %llu, the map has %llu", what, b, w->nr);
	p = disk_peek(w->d, b);
	if (le(p + 8, 8) != b)
		bad(w, "%s: block %llu says it is block %llu", what, b, le(p + 8, 8));
	if ((disk_crc(w->d, b) ^ salt) != le(p, 4))
		bad(w, "%s: block %llu has a wrong checksum", what, b);
	return p;
}

/* Counts the pointer; true when the block has not been walked yet. */
static bool arrive(struct walk *w, u64 b, enum tree t)
{
	if (b >= w->nr || !b)
		bad(w, "%s: pointer to block %llu, the map has %llu", tree_name[t], b, w->nr);
	if (w->res->meta_counts[b]++) {
		if (w->seen[b].tree != t)
			bad(w, "block %llu is %s and %s", b, tree_name[w->seen[b].tree], tree_name[t]);
		if (w->seen[b].busy)
			bad(w, "%s: block %llu reaches itself", tree_name[t], b);
		return false;
	}
	w->seen[b].tree = t;
	return true;
}

static void add_pair(struct walk *w, u64 key, const u8 *value, u32 size)
{
	u64 v[2] = { 0, 0 };

	memcpy(v, value, size);
	if (w->nr_pairs == w->cap_pairs) {
		w->cap_pairs = w->cap_pairs ? 2 * w->cap_pairs : 64;
		w->pairs = grow(w->pairs, w->cap_pairs, 3 * sizeof(u64));
	}
	w->pairs[3 * w->nr_pairs] = key;
	w->pairs[3 * w->nr_pairs + 1] = v[0];
	w->pairs[3 * w->nr_pairs + 2] = v[1];
	w->nr_pairs++;
}

static void walk_node(struct walk *w, u64 b, enum tree t, int depth)
{
	struct seen *s, *c;
	const u8 *p, *vals;
	u32 i, nr, max, flags, size;
	u64 key, child;

	if (!arrive(w, b, t))
		return;
	if (depth > MAX_DEPTH)
		bad(w, "%s: deeper than %d", tree_name[t], MAX_DEPTH);
	s = &w->seen[b];
	p = block_of(w, b, 121107, tree_name[t]);
	flags = le(p + 4, 4);
	nr = le(p + 16, 4);
	max = le(p + 20, 4);
	size = flags == 1 ? 8 : value_size(t);
	if (flags != 1 && flags != 2)
		bad(w, "%s: node %llu has flags %u", tree_name[t], b, flags);
	if (le(p + 24, 4) != size)
		bad(w, "%s: node %llu has value size %llu", tree_name[t], b, le(p + 24, 4));
	if (w->flags & CHECK_LAX ? (max % 3 || 32 + (8 + size) * max > 4096) : max != capacity(size))
		bad(w, "%s: node %llu has capacity %u", tree_name[t], b, max);
	if (nr > max)
		bad(w, "%s: node %llu has %u entries of %u", tree_name[t], b, nr, max);
	if (!(w->flags & CHECK_LAX) && le(p + 28, 4))
		bad(w, "%s: node %llu has dirty padding", tree_name[t], b);
	for (i = 1; i < nr; i++)
		if (le(p + 32 + 8 * i, 8) <= le(p + 24 + 8 * i, 8))
			bad(w, "%s: node %llu: keys %u and %u out of order", tree_name[t], b, i - 1, i);
	s->nr = nr;
	s->max = max;
	s->lo = nr ? le(p + 32, 8) : 0;
	s->hi = nr ? le(p + 24 + 8 * nr, 8) : 0;
	vals = p + 32 + 8 * max;
	if (flags == 2) {
		s->height = 0;
		if (t == T_INDEX || t == T_COUNTS)
			for (i = 0; i < nr; i++)
				add_pair(w, le(p + 32 + 8 * i, 8), vals + i * size, size);
		if (t == T_TOP) {
			s->busy = true;
			for (i = 0; i < nr; i++)
				walk_node(w, le(vals + 8 * i, 8), T_MAP, 0);
			s->busy = false;
		}
		for (i = 0; t == T_MAP && i < nr; i++) {
			u64 data = le(vals + 8 * i, 8) >> 24;

			if (data >= w->res->data.nr_blocks)
				bad(w, "mapping leaf %llu: key %llu is mapped to data block %llu of %llu",
				    b, le(p + 32 + 8 * i, 8), data, w->res->data.nr_blocks);
			if ((le(vals + 8 * i, 8) & 0xffffff) > w->res->time)
				bad(w, "mapping leaf %llu: a time later than the clock", b);
			w->res->data_counts[data]++;
		}
		return;
	}
	if (!nr)
		bad(w, "%s: internal node %llu is empty", tree_name[t], b);
	s->busy = true;
	for (i = 0; i < nr; i++) {
		key = le(p + 32 + 8 * i, 8);
		child = le(vals + 8 * i, 8);
		walk_node(w, child, t, depth + 1);
		c = &w->seen[child];
		if (!c->nr)
			bad(w, "%s: node %llu has the empty child %llu", tree_name[t], b, child);
		if (c->nr < c->max / 3)
			bad(w, "%s: node %llu below %llu has %u entries, less than %u",
			    tree_name[t], child, b, c->nr, c->max / 3);
		if (i && c->height + 1 != s->height)
			bad(w, "%s: node %llu has children of unequal height", tree_name[t], b);
		s->height = c->height + 1;
		if (key > c->lo)
			bad(w, "%s: node %llu: key %llu above the first key %llu of child %llu",
			    tree_name[t], b, key, c->lo, child);
		if (i + 1 < nr && c->hi >= le(p + 40 + 8 * i, 8))
			bad(w, "%s: node %llu: child %llu reaches past its neighbour", tree_name[t], b, child);
		/* A child's internal keys may lie below its true smallest one: the bound is the key. */
		if (!i)
			s->lo = key;
		s->hi = c->hi;
	}
	s->busy = false;
}

static int by_key(const void *a, const void *b)
{
	const u64 *x = a, *y = b;

	return *x < *y ? -1 : *x > *y;
}

static void find_pairs(struct walk *w, u64 root, enum tree t)
{
	w->nr_pairs = 0;
	walk_node(w, root, t, 0);
	if (w->nr_pairs)
		qsort(w->pairs, w->nr_pairs, 3 * sizeof(u64), by_key);
}

static int bitmap_count(const u8 *p, u32 i)
{
	int v = p[16 + i / 4] >> (2 * (i % 4)) & 3;

	return (v & 1) * 2 + (v >> 1);
}

/* Index entries {key, block, nr_free | none_free_before << 32} against the true counts. */
static void check_map(struct walk *w, const char *name, const struct check_sm *sm, const u64 *index,
		      size_t nr_index, const u32 *counts)
{
	u64 i, nr_bitmaps = DIV_ROUND_UP(sm->nr_blocks, PER_BITMAP), allocated = 0, over = 0;
	u64 *overflow = NULL;
	size_t nr_over;
	const u8 *p;
	u32 e, used, first;

	if (nr_index != nr_bitmaps)
		bad(w, "%s map: %zu index entries for %llu bitmaps", name, nr_index, nr_bitmaps);
	/* The walk of the overflow tree reuses the pairs: these are its result. */
	nr_over = w->nr_pairs;
	overflow = w->pairs;
	for (i = 0; i < nr_bitmaps; i++) {
		if (index[3 * i] != i)
			bad(w, "%s map: index entry %llu is for bitmap %llu", name, i, index[3 * i]);
		p = block_of(w, index[3 * i + 1], 240779, "bitmap");
		used = 0;
		first = PER_BITMAP;
		for (e = 0; e < PER_BITMAP; e++) {
			u64 b = i * PER_BITMAP + e;
			u32 want = b < sm->nr_blocks ? counts[b] : 0;
			u32 have = bitmap_count(p, e);

			/* Whole runs of free entries at once: most of a map is free. */
			if (!(e % 32) && !le(p + 16 + e / 4, 8) && b + 32 <= sm->nr_blocks) {
				u32 k, any = 0;

				for (k = 0; k < 32; k++)
					any |= counts[b + k];
				if (!any) {
					if (first == PER_BITMAP)
						first = e;
					e += 31;
					continue;
				}
			}
			if (!have && first == PER_BITMAP)
				first = e;
			used += !!have;
			if (have == 3) {
				if (over >= nr_over || overflow[3 * over] != b)
					bad(w, "%s map: block %llu overflows, next overflow key is %llu", name, b,
					    over < nr_over ? overflow[3 * over] : ~0ULL);
				have = overflow[3 * over + 1];
				if (have < 3)
					bad(w, "%s map: block %llu has the overflow count %u", name, b, have);
				over++;
			}
			if (b >= sm->nr_blocks && have)
				bad(w, "%s map: entry %u past the end of bitmap %llu is not zero", name, e, i);
			if (have != want)
				bad(w, "%s map: block %llu has count %u, %u references exist", name, b, have, want);
		}
		allocated += used;
		if (w->flags & CHECK_LAX)
			continue;
		if ((u32)index[3 * i + 2] != PER_BITMAP - used)
			bad(w, "%s map: bitmap %llu has nr_free %u, should be %u", name, i,
			    (u32)index[3 * i + 2], PER_BITMAP - used);
		if (index[3 * i + 2] >> 32 > first)
			bad(w, "%s map: bitmap %llu has none_free_before %u, entry %u is free", name, i,
			    (u32)(index[3 * i + 2] >> 32), first);
	}
	if (over != nr_over)
		bad(w, "%s map: overflow key %llu has no entry", name, overflow[3 * over]);
	if (!(w->flags & CHECK_LAX) && allocated != sm->nr_allocated)
		bad(w, "%s map: nr_allocated %llu, should be %llu", name, sm->nr_allocated, allocated);
}

static void collect(struct walk *w, struct check_dev *dev, u64 b)
{
	const u8 *p = disk_peek(w->d, b), *vals;
	u32 i, nr = le(p + 16, 4), max = le(p + 20, 4);
	u64 v;

	vals = p + 32 + 8 * max;
	if (le(p + 4, 4) == 1) {
		for (i = 0; i < nr; i++)
			collect(w, dev, le(vals + 8 * i, 8));
		return;
	}
	if (dev->nr + nr > dev->cap) {
		dev->cap = 2 * (dev->nr + nr);
		dev->maps = grow(dev->maps, dev->cap, sizeof(*dev->maps));
	}
	for (i = 0; i < nr; i++) {
		v = le(vals + 8 * i, 8);
		dev->maps[dev->nr++] = (struct mapping){ .v = le(p + 32 + 8 * i, 8), .b = v >> 24, .t = v & 0xffffff };
	}
}

/* Leaf entries of the top level (size 8) or the details (size 24), in key order. */
static void collect_devs(struct walk *w, struct check_side *side, u64 b, bool details, size_t *n)
{
	const u8 *p = disk_peek(w->d, b), *vals;
	u32 i, nr = le(p + 16, 4), max = le(p + 20, 4);
	struct check_dev *dev;

	vals = p + 32 + 8 * max;
	if (le(p + 4, 4) == 1) {
		for (i = 0; i < nr; i++)
			collect_devs(w, side, le(vals + 8 * i, 8), details, n);
		return;
	}
	for (i = 0; i < nr; i++) {
		u64 id = le(p + 32 + 8 * i, 8);

		if (!details) {
			side->devs = grow(side->devs, side->nr + 1, sizeof(*side->devs));
			dev = &side->devs[side->nr++];
			memset(dev, 0, sizeof(*dev));
			dev->id = id;
			dev->root = le(vals + 8 * i, 8);
			continue;
		}
		if (*n >= side->nr || side->devs[*n].id != id)
			bad(w, "device %llu of the details tree is not in the top level", id);
		dev = &side->devs[(*n)++];
		dev->mapped = le(vals + 24 * i, 8);
		dev->trans = le(vals + 24 * i + 8, 8);
		dev->ctime = le(vals + 24 * i + 16, 4);
		dev->stime = le(vals + 24 * i + 20, 4);
	}
}

static void check_side(struct walk *w, struct check_side *side, u64 map_root, u64 details_root, const char *name)
{
	struct check_dev *dev;
	size_t n = 0, i;

	walk_node(w, map_root, T_TOP, 0);
	walk_node(w, details_root, T_DETAILS, 0);
	collect_devs(w, side, map_root, false, NULL);
	collect_devs(w, side, details_root, true, &n);
	if (n != side->nr)
		bad(w, "%s: device %llu has no details", name, side->devs[n].id);
	for (i = 0; i < side->nr; i++) {
		dev = &side->devs[i];
		collect(w, dev, dev->root);
		if (dev->mapped != dev->nr)
			bad(w, "%s device %llu: mapped_blocks %llu, the tree has %zu", name, dev->id,
			    dev->mapped, dev->nr);
		if (dev->ctime > w->res->time || dev->stime > w->res->time)
			bad(w, "%s device %llu: a time later than the clock", name, dev->id);
	}
}

/* Two live mappings of one data block must both look shared (format 13.2). */
static void check_sharing(struct walk *w)
{
	struct check_side *side = &w->res->live;
	u8 *refs = calloc(w->res->data.nr_blocks + 1, 1);
	size_t i, k;

	if (!refs)
		sim_fail("the machine is out of memory");
	for (i = 0; i < side->nr; i++)
		for (k = 0; k < side->devs[i].nr; k++) {
			u8 *r = &refs[side->devs[i].maps[k].b];

			if (*r < 2)
				(*r)++;
		}
	for (i = 0; i < side->nr; i++)
		for (k = 0; k < side->devs[i].nr; k++) {
			struct mapping *m = &side->devs[i].maps[k];

			if (refs[m->b] > 1 && m->t >= side->devs[i].stime) {
				free(refs);
				bad(w, "device %llu: block %llu is mapped to data block %llu, shared, but its time %u is not below %u",
				    side->devs[i].id, m->v, m->b, m->t, side->devs[i].stime);
			}
		}
	free(refs);
}

static void read_sm(struct check_sm *sm, const u8 *p)
{
	sm->nr_blocks = le(p, 8);
	sm->nr_allocated = le(p + 8, 8);
	sm->bitmap_root = le(p + 16, 8);
	sm->ref_count_root = le(p + 24, 8);
}

static bool all_zero(const u8 *p, size_t n)
{
	while (n--)
		if (*p++)
			return false;
	return true;
}

static void check_super(struct walk *w)
{
	struct check_result *res = w->res;
	const u8 *p;

	w->nr = 1;
	p = block_of(w, 0, 160774, "superblock");
	if (le(p + 32, 8) != 27022010)
		bad(w, "superblock: magic %llu", le(p + 32, 8));
	if (le(p + 40, 4) != 2)
		bad(w, "superblock: version %llu", le(p + 40, 4));
	res->flags = le(p + 4, 4);
	res->time = le(p + 44, 4);
	res->trans_id = le(p + 48, 8);
	res->held_root = le(p + 56, 8);
	read_sm(&res->data, p + 64);
	read_sm(&res->meta, p + 192);
	res->map_root = le(p + 320, 8);
	res->details_root = le(p + 328, 8);
	res->data_block_size = le(p + 336, 4);
	if (le(p + 340, 4) != 8)
		bad(w, "superblock: metadata block size %llu", le(p + 340, 4));
	if (res->meta.nr_blocks > w->d->nr_blocks)
		bad(w, "metadata map has %llu blocks, the device %llu", res->meta.nr_blocks, w->d->nr_blocks);
	if (res->data.nr_blocks > 1ULL << 32)
		bad(w, "data map has %llu blocks", res->data.nr_blocks);
	if (w->flags & CHECK_LAX)
		return;
	if (!all_zero(p + 64 + 32, 96) || !all_zero(p + 192 + 32, 96) || !all_zero(p + 364, 4096 - 364))
		bad(w, "superblock: unused bytes are not zero");
}

static void check_held(struct walk *w)
{
	const u8 *p;

	if (!arrive(w, w->res->held_root, T_SUPER))
		bad(w, "the metadata snapshot's block is used elsewhere");
	p = block_of(w, w->res->held_root, 160774, "metadata snapshot");
	if (le(p + 32, 8) != 27022010)
		bad(w, "metadata snapshot: magic %llu", le(p + 32, 8));
	if (!all_zero(p + 64, 256) && !(w->flags & CHECK_LAX))
		bad(w, "metadata snapshot: space map roots are not zero");
	if (le(p + 56, 8))
		bad(w, "metadata snapshot: has a metadata snapshot");
	check_side(w, &w->res->held, le(p + 320, 8), le(p + 328, 8), "metadata snapshot");
}

static void check_all(struct walk *w)
{
	struct check_result *res = w->res;
	u64 *meta_index, *data_index, i, k;
	size_t nr_data_index;
	const u8 *p;

	check_super(w);
	w->nr = res->meta.nr_blocks;
	w->seen = calloc(w->nr + 1, sizeof(*w->seen));
	res->meta_counts = calloc(w->nr + 1, sizeof(u32));
	res->data_counts = calloc(res->data.nr_blocks + 1, sizeof(u32));
	if (!w->seen || !res->meta_counts || !res->data_counts)
		sim_fail("the machine is out of memory");
	if (!w->nr)
		bad(w, "the metadata map is empty");
	res->meta_counts[0] = 1;

	check_side(w, &res->live, res->map_root, res->details_root, "live");
	if (res->held_root)
		check_held(w);
	check_sharing(w);

	/* Both indexes and their bitmaps are counted before any map is judged. */
	arrive(w, res->meta.bitmap_root, T_META_INDEX);
	p = block_of(w, res->meta.bitmap_root, 160478, "metadata index");
	k = DIV_ROUND_UP(w->nr, PER_BITMAP);
	if (k > 255)
		bad(w, "the metadata map has %llu blocks", w->nr);
	meta_index = calloc(255, 3 * sizeof(u64));
	if (!meta_index)
		sim_fail("the machine is out of memory");
	for (i = 0; i < k; i++) {
		meta_index[3 * i] = i;
		meta_index[3 * i + 1] = le(p + 16 + 16 * i, 8);
		meta_index[3 * i + 2] = le(p + 24 + 16 * i, 8);
		if (!arrive(w, meta_index[3 * i + 1], T_BITMAP))
			bad(w, "metadata bitmap %llu is used elsewhere", i);
	}
	if (!(w->flags & CHECK_LAX) && !all_zero(p + 16 + 16 * k, 16 * (255 - k)))
		bad(w, "metadata index: unused entries are not zero");
	find_pairs(w, res->data.bitmap_root, T_INDEX);
	nr_data_index = w->nr_pairs;
	data_index = grow(NULL, nr_data_index + 1, 3 * sizeof(u64));
	if (nr_data_index)
		memcpy(data_index, w->pairs, nr_data_index * 3 * sizeof(u64));
	for (i = 0; i < nr_data_index; i++)
		if (!arrive(w, data_index[3 * i + 1], T_BITMAP))
			bad(w, "data bitmap %llu is used elsewhere", i);
	find_pairs(w, res->data.ref_count_root, T_COUNTS);
	check_map(w, "data", &res->data, data_index, nr_data_index, res->data_counts);
	/* The overflow tree's own nodes count before the metadata map is judged. */
	find_pairs(w, res->meta.ref_count_root, T_COUNTS);
	check_map(w, "metadata", &res->meta, meta_index, k, res->meta_counts);
	free(meta_index);
	free(data_index);
}

const char *check_kind_name(int kind)
{
	return tree_name[kind];
}

int check_image(const struct disk *d, struct check_result *res, unsigned int flags)
{
	struct walk w = { .d = d, .res = res, .flags = flags };
	int r = 0;
	u64 b;

	memset(res, 0, sizeof(*res));
	if (setjmp(w.out))
		r = -1;
	else
		check_all(&w);
	if (!r) {
		res->kinds = calloc(w.nr + 1, 1);
		if (!res->kinds)
			sim_fail("the machine is out of memory");
		for (b = 0; b < w.nr; b++)
			res->kinds[b] = b ? w.seen[b].tree : T_SUPER;
	}
	free(w.seen);
	free(w.pairs);
	return r;
}

static void free_side(struct check_side *side)
{
	size_t i;

	for (i = 0; i < side->nr; i++)
		free(side->devs[i].maps);
	free(side->devs);
}

void check_free(struct check_result *res)
{
	free_side(&res->live);
	free_side(&res->held);
	free(res->meta_counts);
	free(res->data_counts);
	free(res->kinds);
}
