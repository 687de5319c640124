// SPDX-License-Identifier: GPL-2.0-only
/*
 * The data device: of every block the number of its last write and who wrote.
 *
 * A write counts as on the medium at once, which is the worst case: whatever
 * becomes of the metadata, every mapping of the state that survives must find
 * what its own device last wrote there, or what it shared when it was written.
 */
#include <linux/kernel.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "world.h"

#define NOBODY ~0U

void data_size(struct world *w, u64 nr)
{
	w->data = must_have(realloc(w->data, (nr + 1) * sizeof(*w->data)));
	memset(w->data + w->cap_data, 0, (nr + 1 - w->cap_data) * sizeof(*w->data));
}

u64 data_write(struct world *w, u32 id, u64 v, u64 block)
{
	w->data[block] = (struct data_block){ ++w->nr_data_writes, id, v };
	return w->nr_data_writes;
}

void data_discard(struct world *w, u64 block)
{
	data_write(w, NOBODY, 0, block);
}

const char *data_differs(const struct world *w, const struct state *s)
{
	static char text[160];
	size_t i, k;

	for (i = 0; i < s->live.nr; i++)
		for (k = 0; k < s->live.d[i].set->nr; k++) {
			const struct mapping *m = &s->live.d[i].set->m[k];
			const struct data_block *d = &w->data[m->b];

			if (d->write == m->write || (d->id == s->live.d[i].id && d->v == m->v))
				continue;
			if (d->id == NOBODY)
				snprintf(text, sizeof(text), "device %u block %llu: data block %llu was discarded",
					 s->live.d[i].id, m->v, m->b);
			else
				snprintf(text, sizeof(text), "device %u block %llu reads what device %u wrote to its block %llu, in data block %llu",
					 s->live.d[i].id, m->v, d->id, d->v, m->b);
			return text;
		}
	return NULL;
}

/* What is on the medium stays there, whichever transaction wrote it. */
void data_adopt(const struct world *w, struct state *s)
{
	size_t i, k;

	for (i = 0; i < s->live.nr; i++)
		for (k = 0; k < s->live.d[i].set->nr; k++)
			s->live.d[i].set->m[k].write = w->data[s->live.d[i].set->m[k].b].write;
}
