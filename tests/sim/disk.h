/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The metadata device of the simulation: memory with a volatile write cache.
 *
 * Every write and flush is recorded.  A recorded stretch can be replayed up
 * to any point, with any subset of the writes after its last flush, into a
 * second disk: that is a power cut.
 */
#ifndef SIM_DISK_H
#define SIM_DISK_H

#include <linux/types.h>
#include "shim/simcore.h"

#define DISK_BLOCK 4096

/* Contents are immutable and shared by all disks that hold them. */
struct page_data {
	int refs;
	bool have_crc, have_sum;
	u32 crc;
	u64 sum;
	u8 data[DISK_BLOCK];
};

enum ev_type {
	EV_WRITE,
	EV_FLUSH,
	EV_DATA_BEGIN,
	EV_DATA_WAIT,
};

struct event {
	enum ev_type type;
	u64 block;
	struct page_data *page;
};

struct disk {
	u64 nr_blocks;
	struct page_data **now;
	struct page_data **base;
	struct event *events;
	size_t nr_events, cap_events;
	size_t unflushed;
	u64 nr_writes, nr_flushes, nr_super_writes, nr_reads;
	u8 *guard;
	u64 guard_blocks;
	/* the superblock was written since: a call that commits twice may reuse what the first freed */
	bool guard_stale;
	bool check_order;
	bool record;
	bool data_flushed;
	long fail_read_in, fail_write_in, fail_flush_in;
	/* what has failed once goes on failing */
	bool fails_for_good;
	/* a write past the end is an error, not a broken rule: the image is hostile */
	bool hostile;
};

struct block_device {
	sector_t sectors;
	bool read_only;
	struct disk *disk;
};

struct disk *disk_new(u64 nr_blocks);
void disk_free(struct disk *d);
void disk_resize(struct disk *d, u64 nr_blocks);
struct disk *disk_load(const char *path, u64 nr_blocks);
void disk_save(const struct disk *d, const char *path);
/* The raw CRC over bytes 4..4095, computed once: contents never change. */
u32 disk_crc(const struct disk *d, u64 block);
const u8 *disk_peek(const struct disk *d, u64 block);
/* A number that different contents practically never share. */
u64 disk_sum(const struct disk *d);

int disk_read(struct disk *d, u64 block, void *to);
int disk_write(struct disk *d, u64 block, const void *from);
int disk_flush(struct disk *d);
void disk_note(struct disk *d, enum ev_type type);
void disk_poke(struct disk *d, u64 block, const void *from);

/* Blocks that must not be overwritten (guard[b] != 0); copied. */
void disk_guard(struct disk *d, const u8 *guard, u64 nr);
void disk_unguard(struct disk *d);

/* Everything written so far is on stable storage. */
void disk_settle(struct disk *d);

/* Start a new recorded stretch here. */
void disk_mark(struct disk *d);

/*
 * The disk after a power cut behind the first @upto events: of the writes
 * since the last flush each is kept whole, lost or torn as @rng says
 * (@rng NULL: all are kept).
 */
struct disk *disk_cut(const struct disk *d, size_t upto, struct rng *rng);

/* bufio.c */
struct bufio_policy {
	struct rng rng;
	unsigned int evict_percent;
	unsigned int early_write_percent;
	unsigned int max_held;
	/* buffers asked for in one call of the layer before it counts as a hang; 0: any number */
	u64 max_calls;
};
extern struct bufio_policy bufio_policy;
extern __thread int bufio_held;
extern int bufio_max_held_seen;
extern u64 bufio_calls;

#endif
