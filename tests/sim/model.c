// SPDX-License-Identifier: GPL-2.0-only
/* The plain model; see the header. */
#include <linux/kernel.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "model.h"

static void *must(void *p)
{
	if (!p)
		sim_fail("the machine is out of memory");
	return p;
}

static struct mapset *set_new(void)
{
	struct mapset *set = must(calloc(1, sizeof(*set)));

	set->refs = 1;
	return set;
}

static struct mapset *set_get(struct mapset *set)
{
	set->refs++;
	return set;
}

static void set_put(struct mapset *set)
{
	if (--set->refs)
		return;
	free(set->m);
	free(set);
}

static struct mapset *set_own(struct mdev *dev)
{
	struct mapset *o = dev->set, *n;

	if (o->refs == 1)
		return o;
	n = set_new();
	n->nr = o->nr;
	n->cap = o->nr + 16;
	n->m = must(malloc(n->cap * sizeof(*n->m)));
	if (o->nr)
		memcpy(n->m, o->m, o->nr * sizeof(*n->m));
	set_put(o);
	dev->set = n;
	return n;
}

size_t mapset_lower(const struct mapset *set, u64 v)
{
	size_t lo = 0, hi = set->nr, mid;

	while (lo < hi) {
		mid = (lo + hi) / 2;
		if (set->m[mid].v < v)
			lo = mid + 1;
		else
			hi = mid;
	}
	return lo;
}

const struct mapping *mapset_find(const struct mapset *set, u64 v)
{
	size_t i = mapset_lower(set, v);

	return i < set->nr && set->m[i].v == v ? &set->m[i] : NULL;
}

static void devs_copy(struct mdevs *to, const struct mdevs *from)
{
	size_t i;

	to->nr = from->nr;
	to->d = must(malloc((from->nr + 1) * sizeof(*to->d)));
	for (i = 0; i < from->nr; i++) {
		to->d[i] = from->d[i];
		set_get(to->d[i].set);
	}
}

static void devs_drop(struct mdevs *devs)
{
	size_t i;

	for (i = 0; i < devs->nr; i++)
		set_put(devs->d[i].set);
	free(devs->d);
	devs->d = NULL;
	devs->nr = 0;
}

struct state *state_new(void)
{
	struct state *s = must(calloc(1, sizeof(*s)));

	s->refs = must(calloc(1, sizeof(*s->refs)));
	s->half_gone = ~0ULL;
	return s;
}

struct state *state_clone(const struct state *s)
{
	struct state *c = must(malloc(sizeof(*c)));

	*c = *s;
	devs_copy(&c->live, &s->live);
	devs_copy(&c->snap, &s->snap);
	c->refs = must(malloc((s->data_blocks + 1) * sizeof(*c->refs)));
	memcpy(c->refs, s->refs, (s->data_blocks + 1) * sizeof(*c->refs));
	return c;
}

void state_free(struct state *s)
{
	devs_drop(&s->live);
	devs_drop(&s->snap);
	free(s->refs);
	free(s);
}

void state_resize_data(struct state *s, u64 nr)
{
	s->refs = must(realloc(s->refs, (nr + 1) * sizeof(*s->refs)));
	memset(s->refs + s->data_blocks, 0, (nr + 1 - s->data_blocks) * sizeof(*s->refs));
	s->data_blocks = nr;
}

static void ref(struct state *s, u64 b)
{
	if (b >= s->data_blocks)
		sim_fail("model: data block %llu of %llu", b, s->data_blocks);
	s->refs[b]++;
}

static void unref(struct state *s, u64 b, state_freed_fn freed, void *arg)
{
	if (!s->refs[b])
		sim_fail("model: data block %llu loses a reference it has not", b);
	if (!--s->refs[b] && freed)
		freed(arg, b);
}

static void ref_set(struct state *s, const struct mapset *set)
{
	size_t i;

	for (i = 0; i < set->nr; i++)
		ref(s, set->m[i].b);
}

static void unref_set(struct state *s, const struct mapset *set, state_freed_fn freed, void *arg)
{
	size_t i;

	for (i = 0; i < set->nr; i++)
		unref(s, set->m[i].b, freed, arg);
}

struct mdev *state_dev(struct state *s, u32 id)
{
	size_t i;

	for (i = 0; i < s->live.nr; i++)
		if (s->live.d[i].id == id)
			return &s->live.d[i];
	return NULL;
}

static struct mdev *add_dev(struct state *s, u32 id, struct mapset *set)
{
	size_t i;

	s->live.d = must(realloc(s->live.d, (s->live.nr + 1) * sizeof(*s->live.d)));
	for (i = s->live.nr; i && s->live.d[i - 1].id > id; i--)
		s->live.d[i] = s->live.d[i - 1];
	s->live.nr++;
	s->live.d[i] = (struct mdev){ id, set, s->trans_id, s->time, s->time };
	return &s->live.d[i];
}

void state_create(struct state *s, u32 id)
{
	add_dev(s, id, set_new());
}

void state_snap(struct state *s, u32 id, u32 origin)
{
	struct mdev *o = state_dev(s, origin);

	s->time++;
	o->stime = s->time;
	ref_set(s, o->set);
	add_dev(s, id, set_get(o->set));
}

void state_delete(struct state *s, u32 id, state_freed_fn freed, void *arg)
{
	struct mdev *d = state_dev(s, id);
	size_t i = d - s->live.d;

	unref_set(s, d->set, freed, arg);
	set_put(d->set);
	s->live.nr--;
	memmove(d, d + 1, (s->live.nr - i) * sizeof(*d));
}

void state_insert(struct state *s, struct mdev *dev, u64 v, u64 b, u64 write, state_freed_fn freed, void *arg)
{
	struct mapset *set = set_own(dev);
	size_t i = mapset_lower(set, v);

	ref(s, b);
	if (i < set->nr && set->m[i].v == v) {
		unref(s, set->m[i].b, freed, arg);
	} else {
		if (set->nr == set->cap) {
			set->cap = 2 * set->cap + 16;
			set->m = must(realloc(set->m, set->cap * sizeof(*set->m)));
		}
		memmove(set->m + i + 1, set->m + i, (set->nr - i) * sizeof(*set->m));
		set->nr++;
	}
	set->m[i] = (struct mapping){ v, b, s->time, write };
}

/* The mapping of @v, which is there, is of now. */
void state_stamp(struct state *s, struct mdev *dev, u64 v)
{
	struct mapset *set = set_own(dev);

	set->m[mapset_lower(set, v)].t = s->time;
}

/* Its content is of this write now. */
void state_rewrite(struct state *s, struct mdev *dev, u64 v, u64 write)
{
	struct mapset *set = set_own(dev);

	set->m[mapset_lower(set, v)].write = write;
}

void state_remove(struct state *s, struct mdev *dev, u64 begin, u64 end, state_freed_fn freed, void *arg)
{
	size_t i = mapset_lower(dev->set, begin), k = mapset_lower(dev->set, end), n;
	struct mapset *set;

	if (i >= k)
		return;
	set = set_own(dev);
	for (n = i; n < k; n++)
		unref(s, set->m[n].b, freed, arg);
	memmove(set->m + i, set->m + k, (set->nr - k) * sizeof(*set->m));
	set->nr -= k - i;
}

void state_hold(struct state *s)
{
	size_t i;

	devs_drop(&s->snap);
	devs_copy(&s->snap, &s->live);
	for (i = 0; i < s->snap.nr; i++)
		ref_set(s, s->snap.d[i].set);
	s->held = true;
	s->half_gone = ~0ULL;
}

/* Is it what @left is left of? */
static bool has_all(const struct mdev *d, const struct check_dev *left)
{
	const struct mapset *set = d->set;
	size_t i, k = 0;

	if (d->stime != left->stime || d->ctime != left->ctime || d->trans != left->trans)
		return false;
	for (i = 0; i < set->nr && k < left->nr; i++)
		k += left->maps[k].v == set->m[i].v && left->maps[k].b == set->m[i].b && left->maps[k].t == set->m[i].t;
	return k == left->nr;
}

static void drop_held(struct state *s, struct mdev *d, state_freed_fn freed, void *arg)
{
	unref_set(s, d->set, freed, arg);
	set_put(d->set);
	s->snap.nr--;
	memmove(d, d + 1, (s->snap.d + s->snap.nr - d) * sizeof(*d));
}

static void half_gone(struct state *s, struct mdev *d, const struct check_dev *half, state_freed_fn freed, void *arg)
{
	struct mapset *set = set_own(d);
	struct mdev moved;
	size_t i, k = 0, n = 0;

	for (i = 0; i < set->nr; i++) {
		if (k < half->nr && half->maps[k].v == set->m[i].v) {
			k++;
			set->m[n++] = set->m[i];
		} else {
			unref(s, set->m[i].b, freed, arg);
		}
	}
	set->nr = n;
	d->id = half->id;
	s->half_gone = half->id;
	/* To where its new number belongs. */
	for (moved = *d; d + 1 < s->snap.d + s->snap.nr && d[1].id < moved.id; d++)
		d[0] = d[1];
	*d = moved;
}

static struct mdev *held_dev(struct state *s, u64 id)
{
	size_t i;

	for (i = 0; i < s->snap.nr; i++)
		if (s->snap.d[i].id == id)
			return &s->snap.d[i];
	return NULL;
}

/*
 * The snapshot is being let go: devices have gone whole, or are there whole; but that one of
 * them may be half gone, under a number that no device had.
 */
void state_release_some(struct state *s, const struct check_side *left, state_freed_fn freed, void *arg)
{
	const struct check_dev *half = NULL;
	struct mdev *d, *was = NULL;
	size_t i, k;

	for (k = 0; k < left->nr; k++) {
		d = held_dev(s, left->devs[k].id);
		if (d && d->id != s->half_gone)
			continue;
		if (!d && state_dev(s, left->devs[k].id))
			sim_fail("what is half gone has the number of device %llu", left->devs[k].id);
		if (half)
			sim_fail("two devices of the metadata snapshot are half gone");
		half = &left->devs[k];
		/* Or another has the number by now. */
		was = d && has_all(d, half) ? d : NULL;
	}
	for (i = s->snap.nr; i--; ) {
		d = &s->snap.d[i];
		for (k = 0; k < left->nr && (&left->devs[k] == half || left->devs[k].id != d->id); k++)
			;
		if (k < left->nr || d == was)
			continue;
		if (half && !was && d->id != half->id && has_all(d, half)) {
			was = d;
			continue;
		}
		drop_held(s, d, freed, arg);
		/* Those behind it have moved. */
		if (was && was > d)
			was--;
	}
	if (!half)
		return;
	if (!was)
		sim_fail("the metadata snapshot has half of a device that was not there");
	half_gone(s, was, half, freed, arg);
}

void state_release(struct state *s, state_freed_fn freed, void *arg)
{
	size_t i;

	for (i = 0; i < s->snap.nr; i++)
		unref_set(s, s->snap.d[i].set, freed, arg);
	devs_drop(&s->snap);
	s->held = false;
}

/* ---- comparing ---- */

static char text[256];

const char *side_differs(const struct mdevs *devs, const struct check_side *side)
{
	size_t i, k;

	if (devs->nr != side->nr) {
		snprintf(text, sizeof(text), "%zu devices, the model has %zu", side->nr, devs->nr);
		return text;
	}
	for (i = 0; i < devs->nr; i++) {
		const struct check_dev *c = &side->devs[i];
		const struct mdev *m = &devs->d[i];

		if (c->id != m->id || c->trans != m->trans || c->ctime != m->ctime || c->stime != m->stime) {
			snprintf(text, sizeof(text),
				 "device %llu (trans %llu, created %u, snapshotted %u), the model has %u (%llu, %u, %u)",
				 c->id, c->trans, c->ctime, c->stime, m->id, m->trans, m->ctime, m->stime);
			return text;
		}
		for (k = 0; k < c->nr && k < m->set->nr; k++) {
			const struct mapping *a = &c->maps[k], *b = &m->set->m[k];

			if (a->v != b->v || a->b != b->b || a->t != b->t) {
				snprintf(text, sizeof(text),
					 "device %llu maps %llu to %llu (time %u), the model %llu to %llu (%u)",
					 c->id, a->v, a->b, a->t, b->v, b->b, b->t);
				return text;
			}
		}
		if (c->nr != m->set->nr) {
			snprintf(text, sizeof(text), "device %llu has %zu mappings, the model %zu", c->id, c->nr,
				 m->set->nr);
			return text;
		}
	}
	return NULL;
}

const char *state_differs(const struct state *s, const struct check_result *res)
{
	const char *t;

	if (res->time != s->time || res->trans_id != s->trans_id || res->data.nr_blocks != s->data_blocks ||
	    !!res->held_root != s->held || (res->flags & 1) != s->needs_check) {
		snprintf(text, sizeof(text),
			 "time %u trans %llu data blocks %llu held %d needs_check %d, the model has %u %llu %llu %d %d",
			 res->time, res->trans_id, res->data.nr_blocks, !!res->held_root, res->flags & 1,
			 s->time, s->trans_id, s->data_blocks, s->held, s->needs_check);
		return text;
	}
	t = side_differs(&s->live, &res->live);
	if (t || !s->held)
		return t;
	return side_differs(&s->snap, &res->held);
}
