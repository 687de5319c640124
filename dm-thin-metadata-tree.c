// SPDX-License-Identifier: GPL-2.0-only
/*
 * The kinds of tree in a pool's metadata (format 5): what their values refer to, and
 * how that is counted when a leaf gets a second owner or loses one.
 *
 * Values of the top level are roots, which are blocks of metadata; those of a device's
 * tree name data blocks, which mostly come in runs; details refer to nothing.
 */
#include "dm-thin-metadata-internal.h"

#include <linux/string.h>

static u64 get_le64(const void *values, u32 i)
{
	__le64 value;

	memcpy(&value, (const u8 *)values + (size_t)i * sizeof(value), sizeof(value));
	return le64_to_cpu(value);
}

static int inc_roots(void *context, const void *values, u32 nr)
{
	struct thin_meta *tm = context;
	int r = 0;
	u32 i;

	for (i = 0; i < nr && !r; i++)
		r = tm_inc(&tm->tm, get_le64(values, i));
	return r;
}

/* How many values from @i on name data blocks that follow each other; the first is @begin. */
static u32 data_run(const void *values, u32 i, u32 nr, u64 *begin)
{
	u32 len = 1;

	*begin = mapping_block(get_le64(values, i));
	while (i + len < nr && mapping_block(get_le64(values, i + len)) == *begin + len)
		len++;
	return len;
}

static int inc_data(void *context, const void *values, u32 nr)
{
	struct thin_meta *tm = context;
	u32 i, len;
	u64 begin;
	int r = 0;

	for (i = 0; i < nr && !r; i += len) {
		len = data_run(values, i, nr, &begin);
		r = sm_inc_run(&tm->data_sm, begin, len);
	}
	return r;
}

static int drop_data(struct thin_meta *tm, const void *values, u32 nr, bool passdown)
{
	u32 i, len;
	u64 begin;
	int r = 0;

	for (i = 0; i < nr && !r; i += len) {
		len = data_run(values, i, nr, &begin);
		r = sm_dec_run(&tm->data_sm, begin, len, passdown);
	}
	return r;
}

static int dec_data(void *context, const void *values, u32 nr)
{
	return drop_data(context, values, nr, false);
}

static int dec_and_pass_down(void *context, const void *values, u32 nr)
{
	return drop_data(context, values, nr, true);
}

/**
 * meta_init_trees() - describe the trees of a pool
 * @tm: the pool
 */
void meta_init_trees(struct thin_meta *tm)
{
	tm->top = (struct bt_info) {
		.tm = &tm->tm,
		.value_size = sizeof(__le64),
		.inc = inc_roots,
		.context = tm,
	};
	tm->mapping = (struct bt_info) {
		.tm = &tm->tm,
		.value_size = sizeof(__le64),
		.inc = inc_data,
		.dec = dec_data,
		.context = tm,
	};
	tm->passdown = tm->mapping;
	tm->passdown.dec = dec_and_pass_down;
	tm->details = (struct bt_info) {
		.tm = &tm->tm,
		.value_size = sizeof(struct disk_details),
	};
}
