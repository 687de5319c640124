/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * An exact checker of metadata images, written from the format alone and
 * sharing no code with the layer under test.
 */
#ifndef SIM_CHECK_H
#define SIM_CHECK_H

#include <linux/types.h>
#include "disk.h"

/* What a block of an image is. */
enum tree {
	T_NONE,
	T_TOP,
	T_MAP,
	T_DETAILS,
	T_INDEX,
	T_COUNTS,
	T_BITMAP,
	T_SUPER,
	T_META_INDEX,
};

struct mapping {
	u64 v, b;
	u32 t;
	/* the data write whose content is expected; the model's alone */
	u64 write;
};

struct check_dev {
	u64 id, root, mapped, trans;
	u32 ctime, stime;
	struct mapping *maps;
	size_t nr, cap;
};

struct check_side {
	struct check_dev *devs;
	size_t nr;
};

struct check_sm {
	u64 nr_blocks, nr_allocated, bitmap_root, ref_count_root;
};

struct check_result {
	u32 flags, time, data_block_size;
	u64 trans_id, held_root, map_root, details_root;
	struct check_sm data, meta;
	struct check_side live, held;
	u32 *meta_counts, *data_counts;
	/* enum tree of each metadata block, when all is well */
	u8 *kinds;
	char err[512];
};

/* Images of other writers may have wrong hints (format 6.2): do not look at them. */
#define CHECK_LAX 1

int check_image(const struct disk *d, struct check_result *res, unsigned int flags);
const char *check_kind_name(int kind);
void check_free(struct check_result *res);

#endif
