/* SPDX-License-Identifier: GPL-2.0-only */
#ifndef SIM_HISTORY_H
#define SIM_HISTORY_H

#include "world.h"

/* What kind of pool, and what happens in it how often. */
struct shape {
	u64 meta_blocks, data_blocks;
	u32 max_devs;
	u64 max_vblock;
	unsigned int commit_every;
	unsigned int bulk;
	bool wide_ids;
};

/* A whole history. */
void history(u64 seed);

/* Its parts. */
void history_start(struct world *w, const struct shape *s, u64 seed);
void history_ops(struct world *w, const struct shape *s, long nr);
void history_end(struct world *w);

/* A device, mostly one that is there; an id for a new one; a block near what is mapped. */
u32 pick_id(struct world *w, const struct shape *s);
u32 new_id(struct world *w, const struct shape *s);
u64 pick_vblock(struct world *w, const struct shape *s, u32 id);

#endif
