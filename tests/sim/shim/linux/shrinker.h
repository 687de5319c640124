/* SPDX-License-Identifier: GPL-2.0-only */
#ifndef SIM_LINUX_SHRINKER_H
#define SIM_LINUX_SHRINKER_H
#include <linux/gfp.h>
#include <linux/types.h>
#define SHRINK_STOP (~0UL)
#define SHRINK_EMPTY (~0UL - 1)
#define DEFAULT_SEEKS 2
struct shrink_control {
	gfp_t gfp_mask;
	unsigned long nr_to_scan, nr_scanned;
};
struct shrinker {
	unsigned long (*count_objects)(struct shrinker *s, struct shrink_control *sc);
	unsigned long (*scan_objects)(struct shrinker *s, struct shrink_control *sc);
	int seeks;
};
struct shrinker *shrinker_alloc(unsigned int flags, const char *fmt, ...);
void shrinker_register(struct shrinker *s);
void shrinker_free(struct shrinker *s);
/* Memory pressure, as the driver of the simulation likes it. */
unsigned long sim_shrink(unsigned long nr);
#endif
