// SPDX-License-Identifier: GPL-2.0-only
/*
 * What the volumes and their pool have done, as text for the stats message.
 *
 * Volumes count per processor, so that counting costs the mapped bio next to
 * nothing.  The lines are read by people and by programs: a word for the
 * object, then NAME=NUMBER; names are only ever added.
 *
 * The tracepoints are made here, too.
 */
#include "dm-thin.h"

#define CREATE_TRACE_POINTS
#include "dm-thin-trace.h"

static const char * const names[NR_THIN_COUNTERS] = {
	[THIN_READ_HIT] = "read_hits",
	[THIN_WRITE_HIT] = "write_hits",
	[THIN_READ_HOLE] = "read_holes",
	[THIN_DEFERRED] = "deferred",
	[THIN_FIRST_WRITE] = "first_writes",
	[THIN_COPY] = "copies",
	[THIN_OVERWRITE] = "overwrites",
	[THIN_TAKE_OVER] = "take_overs",
	[THIN_FLUSH_PASSED] = "flushes_passed",
	[THIN_FLUSH_COMMIT] = "flushes_committed",
	[THIN_UNMAPPED] = "unmapped",
	[THIN_NO_SPACE] = "waited_for_space",
};

static void add_up(struct thin_vol *vol, struct thin_counters *sum)
{
	unsigned int i;
	int cpu;

	for_each_possible_cpu(cpu)
		for (i = 0; i < NR_THIN_COUNTERS; i++)
			sum->n[i] += READ_ONCE(per_cpu_ptr(vol->counters, cpu)->n[i]);
}

/**
 * thin_stats_close - keep for the pool what a volume has counted
 * @vol: volume being closed; tts_lock held
 */
void thin_stats_close(struct thin_vol *vol)
{
	add_up(vol, &vol->pool->closed_counters);
}

static unsigned int emit_counters(const struct thin_counters *c, char *result,
				  unsigned int maxlen, unsigned int sz)
{
	unsigned int i;

	for (i = 0; i < NR_THIN_COUNTERS; i++)
		DMEMIT(" %s=%llu", names[i], c->n[i]);
	DMEMIT("\n");
	return sz;
}

static const char *mode_word(enum pool_mode mode)
{
	switch (mode) {
	case PM_WRITE:
		return "rw";
	case PM_OUT_OF_DATA_SPACE:
		return "out_of_data_space";
	case PM_OUT_OF_METADATA_SPACE:
		return "out_of_metadata_space";
	case PM_READ_ONLY:
		return "read_only";
	default:
		return "fail";
	}
}

/**
 * thin_stats_emit - tell all counters
 * @pool: pool
 * @result: gets a line for the pool, one for the sum of all volumes since the pool was
 *	opened, and one for each that is open now
 * @maxlen: room; what does not fit is left out, which the core notices
 */
void thin_stats_emit(struct pool *pool, char *result, unsigned int maxlen)
{
	struct thin_counters sum;
	struct thin_vol *vol;
	unsigned int sz = 0, open = 0;
	struct thin_meta_space space = { };

	mutex_lock(&pool->tts_lock);
	sum = pool->closed_counters;
	list_for_each_entry(vol, &pool->vols, list) {
		add_up(vol, &sum);
		open++;
	}
	thin_meta_get_space(pool->tm, &space);
	DMEMIT("pool mode=%s thins=%u commits=%llu commit_us=%llu commit_us_max=%llu",
	       mode_word(pool_mode(pool)), open, READ_ONCE(pool->commits),
	       div_u64(READ_ONCE(pool->commit_ns), NSEC_PER_USEC),
	       div_u64(READ_ONCE(pool->commit_ns_max), NSEC_PER_USEC));
	DMEMIT(" metadata_free=%llu data_free=%llu data_pending=%llu passed_down=%llu\n",
	       space.meta_free, space.data_free, space.data_pending, READ_ONCE(pool->passed_down));
	DMEMIT("total");
	sz = emit_counters(&sum, result, maxlen, sz);
	list_for_each_entry(vol, &pool->vols, list) {
		struct thin_counters own = { };

		add_up(vol, &own);
		DMEMIT("thin id=%u", vol->id);
		sz = emit_counters(&own, result, maxlen, sz);
	}
	mutex_unlock(&pool->tts_lock);
}
