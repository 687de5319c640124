// SPDX-License-Identifier: GPL-2.0-only
/*
 * Messages to a pool, and its status and table lines.
 *
 * A message that changed something commits, and its error is the commit's when
 * that failed: what it did is undone then (behaviour 4).  Out of metadata space,
 * those are served that give some back.
 */
#include "dm-thin.h"

#include <linux/gfp.h>
#include <linux/kernel.h>

/* ---- messages ---- */

static int parse_id(struct pool *pool, const char *arg, u32 *id)
{
	unsigned long long value;

	if (!kstrtoull(arg, 10, &value) && value <= THIN_MAX_DEV_ID) {
		*id = value;
		return 0;
	}
	DMWARN("%s: message received with invalid device id: %s", dm_device_name(pool->md), arg);
	return -EINVAL;
}

static int create_thin(struct pool *pool, char **argv)
{
	u32 id;
	int r = parse_id(pool, argv[1], &id);

	return r ? r : thin_meta_create_thin(pool->tm, id);
}

static int create_snap(struct pool *pool, char **argv)
{
	struct thin_vol *vol;
	u32 id, origin;
	int r = parse_id(pool, argv[1], &id);

	if (!r)
		r = parse_id(pool, argv[2], &origin);
	if (r)
		return r;
	/* No table of the origin comes or goes meanwhile. */
	mutex_lock(&pool->tts_lock);
	vol = thin_vol_fence(pool, origin);
	r = thin_meta_create_snap(pool->tm, id, origin);
	if (vol)
		thin_vol_unfence(vol);
	mutex_unlock(&pool->tts_lock);
	return r;
}

/* A delete, or a release, that a suspend of the pool waits for goes on without pauses. */
static bool being_suspended(void *arg)
{
	return READ_ONCE(((struct pool *)arg)->suspended);
}

static int delete(struct pool *pool, char **argv)
{
	u32 id;
	int r = parse_id(pool, argv[1], &id);

	return r ? r : thin_meta_delete(pool->tm, id, being_suspended, pool);
}

static int set_transaction_id(struct pool *pool, char **argv)
{
	u64 old, new;

	if (kstrtou64(argv[1], 10, &old) || kstrtou64(argv[2], 10, &new)) {
		DMWARN("%s: set_transaction_id message: unrecognised id %s %s",
		       dm_device_name(pool->md), argv[1], argv[2]);
		return -EINVAL;
	}
	return thin_meta_set_transaction_id(pool->tm, old, new);
}

static int reserve_metadata_snap(struct pool *pool, char **argv)
{
	/* The snapshot is of a durable state. */
	int r = pool_commit(pool);

	return r ? r : thin_meta_reserve_snap(pool->tm);
}

static int release_metadata_snap(struct pool *pool, char **argv)
{
	return thin_meta_release_snap(pool->tm, being_suspended, pool);
}

struct message {
	const char *name;
	unsigned int argc;
	enum pool_mode worst;	/* in which it is served */
	int (*handle)(struct pool *pool, char **argv);
};

static const struct message messages[] = {
	{ "create_thin", 2, PM_OUT_OF_DATA_SPACE, create_thin },
	{ "create_snap", 3, PM_OUT_OF_DATA_SPACE, create_snap },
	{ "delete", 2, PM_OUT_OF_METADATA_SPACE, delete },
	{ "set_transaction_id", 3, PM_OUT_OF_DATA_SPACE, set_transaction_id },
	{ "reserve_metadata_snap", 1, PM_OUT_OF_DATA_SPACE, reserve_metadata_snap },
	{ "release_metadata_snap", 1, PM_OUT_OF_METADATA_SPACE, release_metadata_snap },
	/* Changes nothing, and has no handler: its answer is text. */
	{ "stats", 1, PM_FAIL, NULL },
};

static const struct message *find_message(const char *name)
{
	unsigned int i;

	for (i = 0; i < ARRAY_SIZE(messages); i++)
		if (!strcasecmp(name, messages[i].name))
			return &messages[i];
	return NULL;
}

static int handle(struct pool *pool, const struct message *m, char **argv)
{
	int r = m->handle(pool, argv);

	/* Nothing is half done, and a commit may give back what the open transaction holds. */
	if (r == -ENOSPC && !pool_commit(pool) && pool_mode(pool) <= m->worst)
		r = m->handle(pool, argv);
	if (!r) {
		r = pool_commit(pool);
		pool_after_change(pool);
	} else if (thin_meta_rolled_back(pool->tm)) {
		pool_metadata_failed(pool, m->name, r);
	}
	if (r)
		DMWARN("%s: message '%s' failed: error = %d", dm_device_name(pool->md), argv[0], r);
	return r;
}

/**
 * pool_message - a message arrives
 * @ti: target
 * @argc: words
 * @argv: words
 * @result: gets an answer in text
 * @maxlen: room for it
 *
 * Return: 0, 1 when there is an answer, or a negative errno (behaviour 4).
 */
int pool_message(struct dm_target *ti, unsigned int argc, char **argv, char *result,
		 unsigned int maxlen)
{
	struct pool_target *pt = ti->private;
	struct pool *pool = pt->pool;
	const struct message *m = find_message(argv[0]);
	const char *name = dm_device_name(pool->md);

	if (pool_mode(pool) > (m ? m->worst : PM_OUT_OF_DATA_SPACE)) {
		DMERR("%s: unable to service pool target messages in read-only or fail mode", name);
		return -EOPNOTSUPP;
	}
	if (!m) {
		DMWARN("%s: unrecognised thin pool message '%s' received", name, argv[0]);
		return -EINVAL;
	}
	if (argc != m->argc) {
		DMWARN("%s: message '%s' received with %u arguments instead of %u",
		       name, argv[0], argc, m->argc);
		return -EINVAL;
	}
	if (m->handle)
		return handle(pool, m, argv);
	thin_stats_emit(pool, result, maxlen);
	return 1;
}

/* ---- status ---- */

/*
 * A commit with nothing to write does not touch the metadata device.  Those
 * who ask for the status rely on hearing that the device is broken, so see
 * that the superblock can be read.
 */
static void probe_metadata(struct pool *pool)
{
	struct page *page = alloc_page(GFP_NOIO);
	struct bio_vec vec;
	struct bio bio;
	int r;

	if (!page)
		return;
	bio_init(&bio, pool->meta_bdev, &vec, 1, REQ_OP_READ | REQ_META | REQ_SYNC);
	__bio_add_page(&bio, page, THIN_META_BLOCK_SIZE, 0);
	r = submit_bio_wait(&bio);
	bio_uninit(&bio);
	__free_page(page);
	if (r)
		pool_metadata_failed(pool, "read of the superblock", r);
}

static void commit_for_status(struct dm_target *ti, struct pool *pool, unsigned int flags)
{
	u64 flushes = READ_ONCE(pool->data_flushes);

	if (flags & DM_STATUS_NOFLUSH_FLAG || dm_suspended(ti) ||
	    pool_mode(pool) >= PM_OUT_OF_METADATA_SPACE)
		return;
	if (!pool_commit(pool) && READ_ONCE(pool->data_flushes) == flushes)
		probe_metadata(pool);
}

static const char *mode_token(enum pool_mode mode)
{
	switch (mode) {
	case PM_WRITE:
		return "rw";
	case PM_OUT_OF_DATA_SPACE:
		return "out_of_data_space";
	default:
		return "ro";
	}
}

static const char *discard_token(const struct pool_features *f)
{
	if (!f->discard_enabled)
		return "ignore_discard";
	return f->discard_passdown ? "discard_passdown" : "no_discard_passdown";
}

/* The blank at the end is part of the interface (behaviour 5.1). */
static void emit_info(struct pool *pool, char *result, unsigned int maxlen)
{
	struct thin_meta *tm = pool->tm;
	struct thin_meta_space space;
	unsigned int sz = 0;
	u64 held;
	int r;

	r = thin_meta_get_space(pool->tm, &space);
	if (!r)
		r = thin_meta_held_root(tm, &held);
	if (r || thin_meta_failed(tm)) {
		DMERR("%s: query of the metadata failed: error = %d", dm_device_name(pool->md), r);
		DMEMIT("Error");
		return;
	}

	DMEMIT("%llu %llu/%llu %llu/%llu ", thin_meta_transaction_id(tm),
	       space.meta_total - space.meta_free, space.meta_total,
	       space.data_total - space.data_free, space.data_total);
	if (held)
		DMEMIT("%llu ", held);
	else
		DMEMIT("- ");
	DMEMIT("%s %s %s %s %llu ", mode_token(pool_mode(pool)), discard_token(&pool->features),
	       pool->features.error_if_no_space ? "error_if_no_space" : "queue_if_no_space",
	       thin_meta_needs_check(tm) ? "needs_check" : "-",
	       thin_meta_low_water_mblocks(tm));
}

/* So is this one (behaviour 5.2). */
static void emit_table(struct pool_target *pt, char *result, unsigned int maxlen)
{
	const struct pool_features *f = &pt->requested;
	const struct {
		bool set;
		const char *word;
	} words[] = {
		{ !f->zero_new_blocks, "skip_block_zeroing" },
		{ !f->discard_enabled, "ignore_discard" },
		{ !f->discard_passdown, "no_discard_passdown" },
		{ f->read_only, "read_only" },
		{ f->error_if_no_space, "error_if_no_space" },
	};
	unsigned int sz = 0, nr = 0, i;

	for (i = 0; i < ARRAY_SIZE(words); i++)
		nr += words[i].set;
	DMEMIT("%s %s %llu %llu %u ", pt->meta_dev->name, pt->data_dev->name,
	       (unsigned long long)pt->pool->block_sectors, pt->low_water, nr);
	for (i = 0; i < ARRAY_SIZE(words); i++)
		if (words[i].set)
			DMEMIT("%s ", words[i].word);
}

/**
 * pool_status - the status or table line of a pool
 * @ti: target
 * @type: which
 * @status_flags: DM_STATUS_NOFLUSH_FLAG: do not commit
 * @result: gets the line
 * @maxlen: room
 *
 * Behaviour 5.1, 5.2, 5.5.
 */
void pool_status(struct dm_target *ti, status_type_t type, unsigned int status_flags, char *result,
		 unsigned int maxlen)
{
	struct pool_target *pt = ti->private;
	struct pool *pool = pt->pool;
	unsigned int sz = 0;

	*result = '\0';
	switch (type) {
	case STATUSTYPE_INFO:
		if (pool_mode(pool) == PM_FAIL) {
			DMEMIT("Fail");
			break;
		}
		commit_for_status(ti, pool, status_flags);
		emit_info(pool, result, maxlen);
		break;
	case STATUSTYPE_TABLE:
		emit_table(pt, result, maxlen);
		break;
	case STATUSTYPE_IMA:
		break;
	}
}
