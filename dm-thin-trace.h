/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Tracepoints, under events/dm_thin in tracefs.
 *
 * A pool is named by its mapped device.  Blocks are virtual blocks of the thin
 * and data blocks of the pool, times are in nanoseconds.
 */
#undef TRACE_SYSTEM
#define TRACE_SYSTEM dm_thin

#if !defined(DM_THIN_TRACE_H) || defined(TRACE_HEADER_MULTI_READ)
#define DM_THIN_TRACE_H

#include <linux/tracepoint.h>

struct pool;
struct thin_vol;

/* Since 6.10 the source of a string is that of its __string(). */
#ifdef COMPAT_HAS_ASSIGN_STR_ALONE
#define thin_assign_str(field, source)	__assign_str(field)
#else
#define thin_assign_str(field, source)	__assign_str(field, source)
#endif

DECLARE_EVENT_CLASS(thin_blocks,
	TP_PROTO(const struct thin_vol *vol, u64 vblock, u64 block, u64 len),
	TP_ARGS(vol, vblock, block, len),
	TP_STRUCT__entry(
		__string(pool, dm_device_name(vol->pool->md))
		__field(u32, id)
		__field(u64, vblock)
		__field(u64, block)
		__field(u64, len)
	),
	TP_fast_assign(
		thin_assign_str(pool, dm_device_name(vol->pool->md));
		__entry->id = vol->id;
		__entry->vblock = vblock;
		__entry->block = block;
		__entry->len = len;
	),
	TP_printk("%s thin %u block %llu+%llu data %llu", __get_str(pool), __entry->id,
		  __entry->vblock, __entry->len, __entry->block)
);

/* A bio goes from map to its data blocks. */
DEFINE_EVENT(thin_blocks, thin_hit,
	TP_PROTO(const struct thin_vol *vol, u64 vblock, u64 block, u64 len),
	TP_ARGS(vol, vblock, block, len));

/* A hole gets a data block. */
DEFINE_EVENT(thin_blocks, thin_first_write,
	TP_PROTO(const struct thin_vol *vol, u64 vblock, u64 block, u64 len),
	TP_ARGS(vol, vblock, block, len));

/* A shared block gets a new data block. */
DEFINE_EVENT(thin_blocks, thin_copy,
	TP_PROTO(const struct thin_vol *vol, u64 vblock, u64 block, u64 len),
	TP_ARGS(vol, vblock, block, len));

/* A block is shared no more and stays where it is. */
DEFINE_EVENT(thin_blocks, thin_take_over,
	TP_PROTO(const struct thin_vol *vol, u64 vblock, u64 block, u64 len),
	TP_ARGS(vol, vblock, block, len));

/* A bio is given to the worker. */
TRACE_EVENT(thin_miss,
	TP_PROTO(const struct thin_vol *vol, const struct bio *bio),
	TP_ARGS(vol, bio),
	TP_STRUCT__entry(
		__string(pool, dm_device_name(vol->pool->md))
		__field(u32, id)
		__field(u64, sector)
		__field(u32, sectors)
		__field(u32, op)
	),
	TP_fast_assign(
		thin_assign_str(pool, dm_device_name(vol->pool->md));
		__entry->id = vol->id;
		__entry->sector = bio->bi_iter.bi_sector;
		__entry->sectors = bio_sectors(bio);
		__entry->op = (__force u32)bio_op(bio);
	),
	TP_printk("%s thin %u op %u sector %llu+%u", __get_str(pool), __entry->id, __entry->op,
		  __entry->sector, __entry->sectors)
);

/* A step of a discard. */
TRACE_EVENT(thin_unmap,
	TP_PROTO(const struct thin_vol *vol, u64 begin, u64 next, u64 end, u64 ns),
	TP_ARGS(vol, begin, next, end, ns),
	TP_STRUCT__entry(
		__string(pool, dm_device_name(vol->pool->md))
		__field(u32, id)
		__field(u64, begin)
		__field(u64, next)
		__field(u64, end)
		__field(u64, ns)
	),
	TP_fast_assign(
		thin_assign_str(pool, dm_device_name(vol->pool->md));
		__entry->id = vol->id;
		__entry->begin = begin;
		__entry->next = next;
		__entry->end = end;
		__entry->ns = ns;
	),
	TP_printk("%s thin %u from %llu to %llu of %llu in %llu", __get_str(pool), __entry->id,
		  __entry->begin, __entry->next, __entry->end, __entry->ns)
);

/* A transaction is durable. */
TRACE_EVENT(thin_commit,
	TP_PROTO(const struct pool *pool, const struct thin_meta_times *t),
	TP_ARGS(pool, t),
	TP_STRUCT__entry(
		__string(pool, dm_device_name(pool->md))
		__field(u64, seq)
		__field(u64, freeze)
		__field(u64, metadata)
		__field(u64, data)
		__field(u64, superblock)
	),
	TP_fast_assign(
		thin_assign_str(pool, dm_device_name(pool->md));
		__entry->seq = t->seq;
		__entry->freeze = t->freeze_ns;
		__entry->metadata = t->metadata_ns;
		__entry->data = t->data_ns;
		__entry->superblock = t->superblock_ns;
	),
	TP_printk("%s transaction %llu: frozen in %llu, metadata %llu, then data %llu, superblock %llu",
		  __get_str(pool), __entry->seq, __entry->freeze, __entry->metadata, __entry->data,
		  __entry->superblock)
);

/* The pool's mode has changed; numbers as in enum pool_mode. */
TRACE_EVENT(thin_mode,
	TP_PROTO(const struct pool *pool, unsigned int from, unsigned int to),
	TP_ARGS(pool, from, to),
	TP_STRUCT__entry(
		__string(pool, dm_device_name(pool->md))
		__field(u32, from)
		__field(u32, to)
	),
	TP_fast_assign(
		thin_assign_str(pool, dm_device_name(pool->md));
		__entry->from = from;
		__entry->to = to;
	),
	TP_printk("%s mode %u to %u", __get_str(pool), __entry->from, __entry->to)
);

#endif

#undef TRACE_INCLUDE_PATH
#undef TRACE_INCLUDE_FILE
#define TRACE_INCLUDE_PATH .
#define TRACE_INCLUDE_FILE dm-thin-trace
#include <trace/define_trace.h>
