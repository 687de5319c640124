// SPDX-License-Identifier: GPL-2.0-only
/*
 * Whole images for libFuzzer and AFL++.
 *
 * An input is eight bytes that choose what is done, then the pages that are not
 * zero: kind, block number, the length of its head and, for nodes, of its values,
 * then these bytes. The harness puts own number and checksum right unless the kind's
 * upper bits say otherwise: a fuzzer would never get past them.
 *
 *   sim --fuzz-corpus DIR [FILE...]    writes inputs: images of its own, and these
 */
#include <linux/kernel.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "check.h"
#include "fuzz.h"
#include "hostile.h"
#include "world.h"

#define NR_BLOCKS	256
#define KEEP_NUMBER	0x40
#define KEEP_CSUM	0x80
#define VALUES_AT	2048

struct page_head {
	u8 kind, block;
	u16 head, values;
} __attribute__((packed));

/* Where a node's values begin; no more than a guess, as the capacity is the input's. */
static unsigned int values_at(const u8 *page)
{
	u32 max;

	memcpy(&max, page + 20, 4);
	return max && 32 + 8ULL * max < DISK_BLOCK ? 32 + 8 * max : VALUES_AT;
}

static struct disk *decode(const u8 *data, size_t size)
{
	struct disk *d = disk_new(NR_BLOCKS);
	u8 page[DISK_BLOCK];
	struct page_head h;
	unsigned int at;
	u64 block;
	int kind;

	while (size >= sizeof(h)) {
		memcpy(&h, data, sizeof(h));
		data += sizeof(h);
		size -= sizeof(h);
		h.head = min_t(size_t, min_t(size_t, h.head, DISK_BLOCK), size);
		memset(page, 0, DISK_BLOCK);
		memcpy(page, data, h.head);
		data += h.head;
		size -= h.head;
		at = values_at(page);
		h.values = min_t(size_t, min_t(size_t, h.values, DISK_BLOCK - at), size);
		memcpy(page + at, data, h.values);
		data += h.values;
		size -= h.values;

		block = h.block;
		kind = (h.kind & ~(KEEP_NUMBER | KEEP_CSUM)) % (T_META_INDEX + 1);
		if (!(h.kind & KEEP_NUMBER))
			memcpy(page + 8, &block, 8);
		if (!(h.kind & KEEP_CSUM) && kind)
			stamp_page(page, kind);
		disk_poke(d, block, page);
	}
	return d;
}

int LLVMFuzzerTestOneInput(const u8 *data, size_t size);
int LLVMFuzzerTestOneInput(const u8 *data, size_t size)
{
	static const u32 ids[] = { 0, 1, 2, 3, 4, 7, 12345 };
	static bool ready;
	struct disk *d;
	u64 seed;

	if (!ready) {
		sim_fail_hook = abort;
		if (thin_meta_init())
			abort();
		bufio_policy.max_calls = 3000000;
		bufio_policy.evict_percent = 50;
		bufio_policy.early_write_percent = 50;
		ready = true;
	}
	if (size < sizeof(seed))
		return 0;
	memcpy(&seed, data, sizeof(seed));
	/* The same input does the same again, whatever came before. */
	bufio_policy.rng.s = seed;
	bufio_calls = 0;
	sim_log_clear();
	d = decode(data + sizeof(seed), size - sizeof(seed));
	exercise(d, seed, ids, ARRAY_SIZE(ids));
	disk_free(d);
	return 0;
}

static u16 used(const u8 *p, unsigned int size)
{
	while (size && !p[size - 1])
		size--;
	return size;
}

void fuzz_save(const struct disk *d, const char *path)
{
	struct check_result res;
	FILE *f;
	u64 b, seed = 1;

	if (check_image(d, &res, CHECK_LAX))
		sim_fail("%s: the image is not sound: %s", path, res.err);
	f = fopen(path, "w");
	if (!f || fwrite(&seed, sizeof(seed), 1, f) != 1)
		sim_fail("cannot write %s", path);
	for (b = 0; b < res.meta.nr_blocks && b < NR_BLOCKS; b++) {
		const u8 *p = disk_peek(d, b);
		struct page_head h = { .kind = res.kinds[b], .block = b };
		unsigned int at = values_at(p);

		if (!res.kinds[b])
			continue;
		h.head = used(p, is_node(h.kind) ? at : DISK_BLOCK);
		/* Entries out of use stay behind in a node: they are not worth their bytes. */
		if (is_node(h.kind)) {
			u32 nr, size;

			memcpy(&nr, p + 16, 4);
			memcpy(&size, p + 24, 4);
			h.head = 32 + 8 * nr;
			h.values = size * nr;
		}
		if (fwrite(&h, sizeof(h), 1, f) != 1 || fwrite(p, 1, h.head, f) != h.head ||
		    fwrite(p + at, 1, h.values, f) != h.values)
			sim_fail("cannot write %s", path);
	}
	if (fclose(f))
		sim_fail("cannot write %s", path);
	check_free(&res);
}
