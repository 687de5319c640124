// SPDX-License-Identifier: GPL-2.0-only
/*
 * A fake dm-bufio over the simulated disk.
 *
 * It behaves as badly as the real one may: clean buffers vanish at random,
 * dirty ones are written early and forgotten if that fails, new ones hold junk.  A buffer that nobody
 * holds is poisoned for the address sanitizer, so that a pointer kept past
 * dm_bufio_release() is found when it is used.
 */
#include <linux/dm-bufio.h>
#include <linux/err.h>
#include <stdlib.h>
#include <string.h>
#include "disk.h"

#ifdef __has_feature
#if __has_feature(address_sanitizer)
#define __SANITIZE_ADDRESS__ 1
#endif
#endif
#ifdef __SANITIZE_ADDRESS__
#include <sanitizer/asan_interface.h>
#else
#define ASAN_POISON_MEMORY_REGION(p, n) ((void)(p), (void)(n))
#define ASAN_UNPOISON_MEMORY_REGION(p, n) ((void)(p), (void)(n))
#endif

struct dm_buffer {
	struct dm_bufio_client *c;
	u64 block;
	size_t place;
	int held;
	bool dirty;
	bool failed;
	u8 *data;
	u8 *aux;
};

struct dm_bufio_client {
	struct block_device *bdev;
	unsigned int block_size;
	unsigned int reserved;
	unsigned int aux_size;
	void (*alloc_cb)(struct dm_buffer *b);
	void (*write_cb)(struct dm_buffer *b);
	struct dm_buffer **by_block;
	u64 nr_by_block;
	struct dm_buffer **all;
	size_t nr, cap;
	int async_error;
};

struct bufio_policy bufio_policy = { .max_held = 2 };
__thread int bufio_held;
int bufio_max_held_seen;
u64 bufio_calls;

sector_t bdev_nr_sectors(struct block_device *bdev)
{
	return bdev->sectors;
}

bool bdev_read_only(struct block_device *bdev)
{
	return bdev->read_only;
}

static void hide(struct dm_buffer *b)
{
	ASAN_POISON_MEMORY_REGION(b->data, b->c->block_size);
	if (b->aux)
		ASAN_POISON_MEMORY_REGION(b->aux, b->c->aux_size);
}

static void show(struct dm_buffer *b)
{
	ASAN_UNPOISON_MEMORY_REGION(b->data, b->c->block_size);
	if (b->aux)
		ASAN_UNPOISON_MEMORY_REGION(b->aux, b->c->aux_size);
}

struct dm_bufio_client *dm_bufio_client_create(struct block_device *bdev, unsigned int block_size,
					       unsigned int reserved_buffers, unsigned int aux_size,
					       void (*alloc_callback)(struct dm_buffer *),
					       void (*write_callback)(struct dm_buffer *),
					       unsigned int flags)
{
	struct dm_bufio_client *c = calloc(1, sizeof(*c));

	if (!c || block_size != DISK_BLOCK || !reserved_buffers || flags)
		sim_fail("dm_bufio_client_create with unexpected arguments");
	c->bdev = bdev;
	c->block_size = block_size;
	c->reserved = reserved_buffers;
	c->aux_size = aux_size;
	c->alloc_cb = alloc_callback;
	c->write_cb = write_callback;
	sim_live_allocs++;
	return c;
}

static void write_buffer(struct dm_buffer *b)
{
	int held = b->held, r;

	if (!b->dirty)
		return;
	b->held = 1;
	show(b);
	if (b->c->write_cb)
		b->c->write_cb(b);
	r = disk_write(b->c->bdev->disk, b->block, b->data);
	if (r && !b->c->async_error)
		b->c->async_error = r;
	b->failed = r;
	b->dirty = false;
	b->held = held;
	if (!held)
		hide(b);
}

static void drop_buffer(struct dm_buffer *b)
{
	struct dm_bufio_client *c = b->c;

	show(b);
	c->by_block[b->block] = NULL;
	c->all[b->place] = c->all[--c->nr];
	c->all[b->place]->place = b->place;
	free(b->data);
	free(b->aux);
	free(b);
}

/* What the shrinker and the background writer might do at this moment. */
static void pressure(struct dm_bufio_client *c)
{
	struct dm_buffer *b;

	if (bufio_policy.max_calls && ++bufio_calls > bufio_policy.max_calls)
		sim_fail("%llu buffers asked for in one call: a hang", bufio_calls);
	if (!c->nr || !(bufio_policy.evict_percent | bufio_policy.early_write_percent))
		return;
	b = c->all[rng_below(&bufio_policy.rng, c->nr)];
	if (b->held)
		return;
	if (b->dirty && rng_chance(&bufio_policy.rng, bufio_policy.early_write_percent))
		write_buffer(b);
	if (!b->dirty && rng_chance(&bufio_policy.rng, bufio_policy.evict_percent))
		drop_buffer(b);
}

void dm_bufio_client_destroy(struct dm_bufio_client *c)
{
	while (c->nr) {
		if (c->all[0]->held)
			sim_fail("dm_bufio_client_destroy: block %llu is still held", c->all[0]->block);
		write_buffer(c->all[0]);
		drop_buffer(c->all[0]);
	}
	free(c->all);
	free(c->by_block);
	free(c);
	sim_live_allocs--;
}

void dm_bufio_client_reset(struct dm_bufio_client *c)
{
	while (c->nr) {
		if (c->all[0]->held)
			sim_fail("dm_bufio_client_reset: block %llu is still held", c->all[0]->block);
		write_buffer(c->all[0]);
		drop_buffer(c->all[0]);
	}
}

static struct dm_buffer *find(struct dm_bufio_client *c, u64 block)
{
	struct dm_buffer *b = block < c->nr_by_block ? c->by_block[block] : NULL;

	if (b && b->failed && !b->held && !b->dirty) {
		drop_buffer(b);
		b = NULL;
	}
	return b;
}

static struct dm_buffer *add_buffer(struct dm_bufio_client *c, u64 block)
{
	struct dm_buffer *b = calloc(1, sizeof(*b));
	u64 nr;

	if (block > 1U << 24)
		sim_fail("dm-bufio is asked for block %llu", block);
	if (block >= c->nr_by_block) {
		nr = c->bdev->disk->nr_blocks;
		if (block >= nr)
			nr = block + 1;
		c->by_block = realloc(c->by_block, nr * sizeof(*c->by_block));
		if (!c->by_block)
			sim_fail("the machine is out of memory");
		memset(c->by_block + c->nr_by_block, 0, (nr - c->nr_by_block) * sizeof(*c->by_block));
		c->nr_by_block = nr;
	}
	if (c->nr == c->cap) {
		c->cap = c->cap ? 2 * c->cap : 64;
		c->all = realloc(c->all, c->cap * sizeof(*c->all));
	}
	if (!b || !c->all)
		sim_fail("the machine is out of memory");
	b->c = c;
	b->block = block;
	b->place = c->nr;
	b->data = malloc(c->block_size);
	b->aux = c->aux_size ? malloc(c->aux_size) : NULL;
	if (!b->data)
		sim_fail("the machine is out of memory");
	memset(b->data, 0xd7, c->block_size);
	if (b->aux)
		memset(b->aux, 0xd7, c->aux_size);
	c->all[c->nr++] = b;
	c->by_block[block] = b;
	if (c->alloc_cb)
		c->alloc_cb(b);
	hide(b);
	return b;
}

static void *hold(struct dm_buffer *b, struct dm_buffer **bp)
{
	if (++bufio_held > (int)bufio_policy.max_held)
		sim_fail("%d dm-bufio buffers held at once (block %llu)", bufio_held, b->block);
	if (bufio_held > bufio_max_held_seen)
		bufio_max_held_seen = bufio_held;
	b->held++;
	show(b);
	*bp = b;
	return b->data;
}

void *dm_bufio_read(struct dm_bufio_client *c, sector_t block, struct dm_buffer **bp)
{
	struct dm_buffer *b;
	int r;

	sim_might_sleep(__func__);
	pressure(c);
	b = find(c, block);
	if (!b) {
		if (block >= c->bdev->sectors / (DISK_BLOCK / 512))
			return ERR_PTR(-EIO);
		b = add_buffer(c, block);
		show(b);
		r = disk_read(c->bdev->disk, block, b->data);
		hide(b);
		if (r) {
			drop_buffer(b);
			return ERR_PTR(r);
		}
	}
	return hold(b, bp);
}

void *dm_bufio_get(struct dm_bufio_client *c, sector_t block, struct dm_buffer **bp)
{
	struct dm_buffer *b;

	pressure(c);
	b = find(c, block);
	return b ? hold(b, bp) : NULL;
}

void *dm_bufio_new(struct dm_bufio_client *c, sector_t block, struct dm_buffer **bp)
{
	struct dm_buffer *b;

	sim_might_sleep(__func__);
	sim_may_pass();
	pressure(c);
	b = find(c, block);
	if (!b)
		b = add_buffer(c, block);
	return hold(b, bp);
}

void dm_bufio_prefetch(struct dm_bufio_client *c, sector_t block, unsigned int n_blocks)
{
	struct dm_buffer *b;

	sim_might_sleep(__func__);
	for (; n_blocks; n_blocks--, block++) {
		if (block >= c->bdev->sectors / (DISK_BLOCK / 512) || find(c, block) ||
		    rng_chance(&bufio_policy.rng, 50))
			continue;
		b = add_buffer(c, block);
		show(b);
		if (disk_read(c->bdev->disk, block, b->data))
			drop_buffer(b);
		else
			hide(b);
	}
}

void dm_bufio_release(struct dm_buffer *b)
{
	struct dm_bufio_client *c = b->c;

	if (b->held < 1)
		sim_fail("dm_bufio_release of block %llu, which is not held", b->block);
	bufio_held--;
	if (!--b->held)
		hide(b);
	pressure(c);
}

void dm_bufio_mark_buffer_dirty(struct dm_buffer *b)
{
	if (b->held < 1)
		sim_fail("dm_bufio_mark_buffer_dirty of block %llu, which is not held", b->block);
	b->dirty = true;
}

void dm_bufio_mark_partial_buffer_dirty(struct dm_buffer *b, unsigned int start, unsigned int end)
{
	if (start >= end || end > b->c->block_size)
		sim_fail("dm_bufio_mark_partial_buffer_dirty(%u, %u)", start, end);
	dm_bufio_mark_buffer_dirty(b);
}

/* In random order: nobody may rely on one. Others may move buffers, so to the end of a round without any dirty one. */
int dm_bufio_write_dirty_buffers(struct dm_bufio_client *c)
{
	size_t i = rng_below(&bufio_policy.rng, c->nr), clean = 0;
	int r, f;

	sim_might_sleep(__func__);
	while (clean < c->nr) {
		struct dm_buffer *b = c->all[i++ % c->nr];

		clean++;
		if (!b->dirty)
			continue;
		write_buffer(b);
		sim_may_pass();
		clean = 0;
	}
	r = c->async_error;
	c->async_error = 0;
	/* As the real one does: written means flushed. */
	f = dm_bufio_issue_flush(c);
	return r ? r : f;
}

int dm_bufio_issue_flush(struct dm_bufio_client *c)
{
	int r;

	sim_might_sleep(__func__);
	sim_may_pass();
	r = disk_flush(c->bdev->disk);
	sim_may_pass();
	return r;
}

void dm_bufio_forget_buffers(struct dm_bufio_client *c, sector_t block, sector_t n_blocks)
{
	struct dm_buffer *b;

	for (; n_blocks; n_blocks--, block++) {
		b = find(c, block);
		if (b && !b->held && !b->dirty)
			drop_buffer(b);
	}
}

void dm_bufio_forget(struct dm_bufio_client *c, sector_t block)
{
	dm_bufio_forget_buffers(c, block, 1);
}

void dm_bufio_set_minimum_buffers(struct dm_bufio_client *c, unsigned int n)
{
	(void)c;
	(void)n;
}

unsigned int dm_bufio_get_block_size(struct dm_bufio_client *c)
{
	return c->block_size;
}

sector_t dm_bufio_get_device_size(struct dm_bufio_client *c)
{
	return c->bdev->sectors / (DISK_BLOCK / 512);
}

sector_t dm_bufio_get_block_number(struct dm_buffer *b)
{
	return b->block;
}

void *dm_bufio_get_block_data(struct dm_buffer *b)
{
	return b->data;
}

void *dm_bufio_get_aux_data(struct dm_buffer *b)
{
	return b->aux;
}

struct dm_bufio_client *dm_bufio_get_client(struct dm_buffer *b)
{
	return b->c;
}
