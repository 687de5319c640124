/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Registering a shrinker: the structure is the kernel's own since 6.7, before
 * that it was its user's.
 */
#ifndef COMPAT_SHRINKER_H
#define COMPAT_SHRINKER_H

#include <linux/shrinker.h>
#include <linux/slab.h>

typedef unsigned long (*compat_shrinker_fn)(struct shrinker *shrinker, struct shrink_control *sc);

static inline struct shrinker *compat_shrinker_register(const char *name, compat_shrinker_fn count,
							compat_shrinker_fn scan)
{
	struct shrinker *shrinker;

#ifdef COMPAT_HAS_SHRINKER_ALLOC
	shrinker = shrinker_alloc(0, "%s", name);
#else
	shrinker = kzalloc(sizeof(*shrinker), GFP_KERNEL);
#endif
	if (!shrinker)
		return NULL;
	shrinker->count_objects = count;
	shrinker->scan_objects = scan;
	shrinker->seeks = DEFAULT_SEEKS;
#ifdef COMPAT_HAS_SHRINKER_ALLOC
	shrinker_register(shrinker);
#else
	if (register_shrinker(shrinker, "%s", name)) {
		kfree(shrinker);
		return NULL;
	}
#endif
	return shrinker;
}

static inline void compat_shrinker_unregister(struct shrinker *shrinker)
{
#ifdef COMPAT_HAS_SHRINKER_ALLOC
	shrinker_free(shrinker);
#else
	unregister_shrinker(shrinker);
	kfree(shrinker);
#endif
}

#endif
