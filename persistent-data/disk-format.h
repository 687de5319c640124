/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The on-disk format, version 2, and nothing else: every structure, every
 * constant.  All integers are little-endian; a block is 4096 bytes.  No block
 * carries a type, the pointer that leads to it and the salt of its checksum
 * tell what it is.
 */
#ifndef PD_DISK_FORMAT_H
#define PD_DISK_FORMAT_H

#include <linux/bits.h>
#include <linux/build_bug.h>
#include <linux/stddef.h>
#include <linux/types.h>

#define PD_BLOCK_SIZE		4096
#define PD_BLOCK_SECTORS	8

/* What a block is.  The values index pd_salt[] in block-manager.c. */
enum pd_kind {
	PD_SUPERBLOCK,
	PD_NODE,
	PD_BITMAP,
	PD_INDEX,
};

#define PD_SALT_SUPERBLOCK	160774
#define PD_SALT_NODE		121107
#define PD_SALT_BITMAP		240779
#define PD_SALT_INDEX		160478

/* All four kinds start alike. */
struct disk_header {
	__le32 csum;
	__le32 flags;
	__le64 blocknr;
} __packed;

static_assert(sizeof(struct disk_header) == 16);

/* ---- B-tree node (format 4) ---- */

#define NODE_INTERNAL		1
#define NODE_LEAF		2

struct disk_node {
	struct disk_header header;
	__le32 nr_entries;
	__le32 max_entries;
	__le32 value_size;
	__le32 padding;
	__le64 keys[];
} __packed;

static_assert(sizeof(struct disk_node) == 32);
static_assert(offsetof(struct disk_node, nr_entries) == 16);
static_assert(offsetof(struct disk_node, value_size) == 24);

/* ---- space maps (format 6) ---- */

/* Entries of two bits in one bitmap block. */
#define SM_ENTRIES_PER_BITMAP	16320U
/* Bitmaps that one index block of the metadata map can name. */
#define SM_MAX_META_BITMAPS	255
#define SM_MAX_META_BLOCKS	(SM_MAX_META_BITMAPS * SM_ENTRIES_PER_BITMAP)

struct disk_index_entry {
	__le64 blocknr;
	__le32 nr_free;
	__le32 none_free_before;
} __packed;

struct disk_index {
	struct disk_header header;
	struct disk_index_entry entries[SM_MAX_META_BITMAPS];
} __packed;

struct disk_bitmap {
	struct disk_header header;
	__le64 words[(PD_BLOCK_SIZE - sizeof(struct disk_header)) / sizeof(__le64)];
} __packed;

struct disk_sm_root {
	__le64 nr_blocks;
	__le64 nr_allocated;
	__le64 bitmap_root;
	__le64 ref_count_root;
} __packed;

static_assert(sizeof(struct disk_index_entry) == 16);
static_assert(sizeof(struct disk_index) == PD_BLOCK_SIZE);
static_assert(sizeof(struct disk_bitmap) == PD_BLOCK_SIZE);
static_assert(sizeof(struct disk_sm_root) == 32);
static_assert(SM_ENTRIES_PER_BITMAP == (PD_BLOCK_SIZE - sizeof(struct disk_header)) * 4);
static_assert(SM_MAX_META_BLOCKS == 4161600);

/* ---- superblock (format 3) ---- */

#define SUPERBLOCK_LOCATION	0
#define SUPERBLOCK_MAGIC	27022010
#define SUPERBLOCK_VERSION	2
#define SUPERBLOCK_NEEDS_CHECK	BIT(0)
#define SM_ROOT_FIELD_SIZE	128

struct disk_superblock {
	struct disk_header header;
	__u8 uuid[16];
	__le64 magic;
	__le32 version;
	__le32 time;
	__le64 trans_id;
	__le64 held_root;
	__u8 data_space_map_root[SM_ROOT_FIELD_SIZE];
	__u8 metadata_space_map_root[SM_ROOT_FIELD_SIZE];
	__le64 data_mapping_root;
	__le64 device_details_root;
	__le32 data_block_size;
	__le32 metadata_block_size;
	__le64 metadata_nr_blocks;
	__le32 compat_flags;
	__le32 compat_ro_flags;
	__le32 incompat_flags;
} __packed;

static_assert(offsetof(struct disk_superblock, uuid) == 16);
static_assert(offsetof(struct disk_superblock, magic) == 32);
static_assert(offsetof(struct disk_superblock, time) == 44);
static_assert(offsetof(struct disk_superblock, held_root) == 56);
static_assert(offsetof(struct disk_superblock, data_space_map_root) == 64);
static_assert(offsetof(struct disk_superblock, metadata_space_map_root) == 192);
static_assert(offsetof(struct disk_superblock, data_mapping_root) == 320);
static_assert(offsetof(struct disk_superblock, data_block_size) == 336);
static_assert(offsetof(struct disk_superblock, metadata_nr_blocks) == 344);
static_assert(offsetof(struct disk_superblock, incompat_flags) == 360);
static_assert(sizeof(struct disk_superblock) == 364);

/* ---- values of the trees (format 5) ---- */

struct disk_details {
	__le64 mapped_blocks;
	__le64 transaction_id;
	__le32 creation_time;
	__le32 snapshotted_time;
} __packed;

static_assert(sizeof(struct disk_details) == 24);

#define MAPPING_TIME_BITS	24
#define MAPPING_TIME_MAX	((1U << MAPPING_TIME_BITS) - 1)

/*
 * block_time (format 5.1): block in the high 40 bits, clock in the low 24.  A
 * clock that has run over, as other writers allow, must not change the block:
 * the mapping then just looks older than it is, that is, shared.
 */
static inline u64 mapping_pack(u64 block, u32 time)
{
	return block << MAPPING_TIME_BITS | (time < MAPPING_TIME_MAX ? time : MAPPING_TIME_MAX);
}

static inline u64 mapping_block(u64 value)
{
	return value >> MAPPING_TIME_BITS;
}

static inline u32 mapping_time(u64 value)
{
	return value & MAPPING_TIME_MAX;
}

#endif
