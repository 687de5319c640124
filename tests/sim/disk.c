// SPDX-License-Identifier: GPL-2.0-only
/* The simulated metadata device; see the header. */
#include <fcntl.h>
#include <linux/crc32c.h>
#include <linux/errno.h>
#include <linux/kernel.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include "disk.h"

static const u8 zeroes[DISK_BLOCK];

static void *must(void *p)
{
	if (!p)
		sim_fail("the machine is out of memory");
	return p;
}

static struct page_data *page_get(struct page_data *p)
{
	if (p)
		p->refs++;
	return p;
}

static void page_put(struct page_data *p)
{
	if (p && !--p->refs)
		free(p);
}

static struct page_data *page_make(const void *data)
{
	struct page_data *p = must(malloc(sizeof(*p)));

	p->refs = 1;
	p->have_crc = false;
	p->have_sum = false;
	memcpy(p->data, data, DISK_BLOCK);
	return p;
}

struct disk *disk_new(u64 nr_blocks)
{
	struct disk *d = must(calloc(1, sizeof(*d)));

	d->nr_blocks = nr_blocks;
	d->now = must(calloc(nr_blocks, sizeof(*d->now)));
	d->base = must(calloc(nr_blocks, sizeof(*d->base)));
	d->check_order = true;
	return d;
}

static void drop_events(struct disk *d, size_t from, size_t to)
{
	for (; from < to; from++)
		page_put(d->events[from].page);
}

void disk_free(struct disk *d)
{
	u64 b;

	drop_events(d, 0, d->nr_events);
	for (b = 0; b < d->nr_blocks; b++) {
		page_put(d->now[b]);
		page_put(d->base[b]);
	}
	free(d->now);
	free(d->base);
	free(d->events);
	free(d->guard);
	free(d);
}

void disk_resize(struct disk *d, u64 nr_blocks)
{
	if (nr_blocks < d->nr_blocks)
		sim_fail("the harness shrinks a disk");
	d->now = must(realloc(d->now, nr_blocks * sizeof(*d->now)));
	d->base = must(realloc(d->base, nr_blocks * sizeof(*d->base)));
	memset(d->now + d->nr_blocks, 0, (nr_blocks - d->nr_blocks) * sizeof(*d->now));
	memset(d->base + d->nr_blocks, 0, (nr_blocks - d->nr_blocks) * sizeof(*d->base));
	d->nr_blocks = nr_blocks;
}

struct disk *disk_load(const char *path, u64 nr_blocks)
{
	u8 buf[DISK_BLOCK];
	struct disk *d;
	struct stat st;
	u64 b, have;
	int fd;

	fd = open(path, O_RDONLY);
	if (fd < 0 || fstat(fd, &st))
		sim_fail("cannot open the image %s", path);
	have = st.st_size / DISK_BLOCK;
	d = disk_new(max(have, nr_blocks));
	for (b = 0; b < have; b++) {
		if (pread(fd, buf, DISK_BLOCK, b * DISK_BLOCK) != DISK_BLOCK)
			sim_fail("cannot read block %llu of %s", b, path);
		if (memcmp(buf, zeroes, DISK_BLOCK)) {
			d->now[b] = page_make(buf);
			d->base[b] = page_get(d->now[b]);
		}
	}
	close(fd);
	return d;
}

void disk_save(const struct disk *d, const char *path)
{
	int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0644);
	u64 b;

	if (fd < 0)
		sim_fail("cannot create %s", path);
	for (b = 0; b < d->nr_blocks; b++)
		if (d->now[b] && pwrite(fd, d->now[b]->data, DISK_BLOCK, b * DISK_BLOCK) != DISK_BLOCK)
			sim_fail("cannot write %s", path);
	if (ftruncate(fd, d->nr_blocks * DISK_BLOCK) || close(fd))
		sim_fail("cannot write %s", path);
}

const u8 *disk_peek(const struct disk *d, u64 block)
{
	if (block >= d->nr_blocks)
		return NULL;
	return d->now[block] ? d->now[block]->data : zeroes;
}

u32 disk_crc(const struct disk *d, u64 block)
{
	struct page_data *p = block < d->nr_blocks ? d->now[block] : NULL;

	if (!p)
		return crc32c(~0U, zeroes + 4, DISK_BLOCK - 4);
	if (!p->have_crc) {
		p->crc = crc32c(~0U, p->data + 4, DISK_BLOCK - 4);
		p->have_crc = true;
	}
	return p->crc;
}

static u64 mix(u64 v)
{
	struct rng r = { v };

	return rng_next(&r);
}

/* Zero words add nothing, so a page of zeroes is the same as none. */
static u64 page_sum(struct page_data *p)
{
	u64 word;
	int i;

	if (!p->have_sum) {
		p->sum = 0;
		for (i = 0; i < DISK_BLOCK / 8; i++) {
			memcpy(&word, p->data + 8 * i, 8);
			if (word)
				p->sum += mix(word ^ mix(i));
		}
		p->have_sum = true;
	}
	return p->sum;
}

u64 disk_sum(const struct disk *d)
{
	u64 b, sum = mix(d->nr_blocks);

	for (b = 0; b < d->nr_blocks; b++)
		if (d->now[b] && page_sum(d->now[b]))
			sum += mix(page_sum(d->now[b]) ^ mix(b));
	return sum;
}

/* Is it the turn of the call that shall fail? */
static bool fails(struct disk *d, long *in)
{
	if (!*in || --*in)
		return false;
	if (d->fails_for_good)
		*in = 1;
	sim_faults++;
	return true;
}

static void add_event(struct disk *d, enum ev_type type, u64 block, struct page_data *page)
{
	if (!d->record)
		return;
	if (d->nr_events == d->cap_events) {
		d->cap_events = d->cap_events ? 2 * d->cap_events : 64;
		d->events = must(realloc(d->events, d->cap_events * sizeof(*d->events)));
	}
	d->events[d->nr_events++] = (struct event){ type, block, page_get(page) };
}

/* What a kernel makes of what disks say: none of these may be taken for something else. */
static int some_error(void)
{
	static const int errors[] = { EIO, ENODATA, ENOSPC, EAGAIN, EBUSY, EPERM, ESTALE };

	return -errors[sim_faults % (sizeof(errors) / sizeof(*errors))];
}

int disk_read(struct disk *d, u64 block, void *to)
{
	d->nr_reads++;
	if (block >= d->nr_blocks)
		return -EIO;
	if (fails(d, &d->fail_read_in))
		return some_error();
	memcpy(to, disk_peek(d, block), DISK_BLOCK);
	return 0;
}

int disk_write(struct disk *d, u64 block, const void *from)
{
	struct page_data *p;

	if (block >= d->nr_blocks && d->hostile)
		return -EIO;
	if (block >= d->nr_blocks)
		sim_fail("write of block %llu past the end (%llu)", block, d->nr_blocks);
	if (block && block < d->guard_blocks && d->guard[block] && !d->guard_stale)
		sim_fail("write of block %llu, which the durable superblock reaches", block);
	d->nr_writes++;
	if (fails(d, &d->fail_write_in))
		return some_error();
	if (!block) {
		d->nr_super_writes++;
		d->guard_stale = true;
		if (d->check_order && d->unflushed)
			sim_fail("the superblock is written while %zu writes are not flushed", d->unflushed);
		if (d->check_order && memcmp(disk_peek(d, 0) + 512, (const u8 *)from + 512, DISK_BLOCK - 512) &&
		    memcmp(disk_peek(d, 0), zeroes, DISK_BLOCK))
			sim_fail("a superblock write changes bytes behind the first sector");
	} else {
		d->unflushed++;
	}
	p = page_make(from);
	add_event(d, EV_WRITE, block, p);
	page_put(d->now[block]);
	d->now[block] = p;
	return 0;
}

void disk_poke(struct disk *d, u64 block, const void *from)
{
	page_put(d->now[block]);
	d->now[block] = page_make(from);
	page_put(d->base[block]);
	d->base[block] = page_get(d->now[block]);
}

int disk_flush(struct disk *d)
{
	d->nr_flushes++;
	if (fails(d, &d->fail_flush_in)) {
		/* The order of writes around a failed flush means nothing any more. */
		d->check_order = false;
		return some_error();
	}
	d->unflushed = 0;
	add_event(d, EV_FLUSH, 0, NULL);
	return 0;
}

void disk_note(struct disk *d, enum ev_type type)
{
	add_event(d, type, 0, NULL);
}

void disk_guard(struct disk *d, const u8 *guard, u64 nr)
{
	d->guard = must(realloc(d->guard, nr));
	memcpy(d->guard, guard, nr);
	d->guard_blocks = nr;
	d->guard_stale = false;
}

void disk_unguard(struct disk *d)
{
	d->guard_blocks = 0;
}

static void apply(struct page_data **table, const struct event *e)
{
	if (e->type != EV_WRITE)
		return;
	page_put(table[e->block]);
	table[e->block] = page_get(e->page);
}

void disk_mark(struct disk *d)
{
	size_t keep = d->nr_events, i;

	/* What was written behind the last flush may still be lost: it stays recorded. */
	while (keep && d->events[keep - 1].type != EV_FLUSH)
		keep--;
	for (i = 0; i < keep; i++)
		apply(d->base, &d->events[i]);
	drop_events(d, 0, keep);
	if (keep)
		memmove(d->events, d->events + keep, (d->nr_events - keep) * sizeof(*d->events));
	d->nr_events -= keep;
	d->check_order = true;
}

void disk_settle(struct disk *d)
{
	d->unflushed = 0;
	add_event(d, EV_FLUSH, 0, NULL);
	disk_mark(d);
}

static void apply_torn(struct page_data **table, const struct event *e, struct rng *rng)
{
	struct page_data *old = table[e->block];
	u8 mix[DISK_BLOCK];
	u64 mask = rng_next(rng);
	int s;

	for (s = 0; s < DISK_BLOCK / 512; s++)
		memcpy(mix + s * 512,
		       (mask >> s & 1 ? e->page->data : old ? old->data : zeroes) + s * 512, 512);
	page_put(old);
	table[e->block] = page_make(mix);
}

struct disk *disk_cut(const struct disk *d, size_t upto, struct rng *rng)
{
	struct disk *c = disk_new(d->nr_blocks);
	size_t i, safe = upto;
	u64 b;

	for (b = 0; b < d->nr_blocks; b++)
		c->now[b] = page_get(d->base[b]);
	while (safe && d->events[safe - 1].type != EV_FLUSH)
		safe--;
	for (i = 0; i < upto; i++) {
		if (i < safe || !rng) {
			apply(c->now, &d->events[i]);
			continue;
		}
		if (d->events[i].type != EV_WRITE)
			continue;
		switch (rng_below(rng, 3)) {
		case 0:
			apply(c->now, &d->events[i]);
			break;
		case 1:
			apply_torn(c->now, &d->events[i], rng);
			break;
		}
	}
	for (b = 0; b < d->nr_blocks; b++)
		c->base[b] = page_get(c->now[b]);
	return c;
}
