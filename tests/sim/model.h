/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The plain model: what the metadata layer should say, in sorted arrays.
 *
 * A state is everything that one transaction can see.  The driver keeps the
 * open one and the durable one; mappings are shared between states until one
 * changes them.
 */
#ifndef SIM_MODEL_H
#define SIM_MODEL_H

#include <linux/types.h>
#include "check.h"

struct mapset {
	int refs;
	size_t nr, cap;
	struct mapping *m;
};

struct mdev {
	u32 id;
	struct mapset *set;
	u64 trans;
	u32 ctime, stime;
};

struct mdevs {
	struct mdev *d;
	size_t nr;
};

struct state {
	struct mdevs live;
	bool held;
	struct mdevs snap;
	/* number of what is left of a device of the metadata snapshot, which is being let go; ~0 for none */
	u64 half_gone;
	u32 time;
	u64 trans_id;
	bool needs_check;
	u64 data_blocks;
	/* (device, virtual block) pairs that name each data block, the metadata snapshot's included */
	u32 *refs;
};

struct state *state_new(void);
struct state *state_clone(const struct state *s);
void state_free(struct state *s);
void state_resize_data(struct state *s, u64 nr);

struct mdev *state_dev(struct state *s, u32 id);
void state_create(struct state *s, u32 id);
void state_snap(struct state *s, u32 id, u32 origin);

/* Called for each data block whose last reference has just gone. */
typedef void (*state_freed_fn)(void *arg, u64 block);
void state_delete(struct state *s, u32 id, state_freed_fn freed, void *arg);
void state_insert(struct state *s, struct mdev *dev, u64 v, u64 b, u64 write, state_freed_fn freed, void *arg);
void state_stamp(struct state *s, struct mdev *dev, u64 v);
void state_rewrite(struct state *s, struct mdev *dev, u64 v, u64 write);
void state_remove(struct state *s, struct mdev *dev, u64 begin, u64 end, state_freed_fn freed, void *arg);
void state_hold(struct state *s);
void state_release(struct state *s, state_freed_fn freed, void *arg);
void state_release_some(struct state *s, const struct check_side *left, state_freed_fn freed, void *arg);

const struct mapping *mapset_find(const struct mapset *set, u64 v);
/* Index of the first mapping with a key >= v. */
size_t mapset_lower(const struct mapset *set, u64 v);

/* Is this image exactly this state?  Returns NULL, or a text that says where not. */
const char *state_differs(const struct state *s, const struct check_result *res);
const char *side_differs(const struct mdevs *devs, const struct check_side *side);

#endif
