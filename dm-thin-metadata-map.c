// SPDX-License-Identifier: GPL-2.0-only
/*
 * A thin device's mappings: finding, inserting, removing.
 */
#include "dm-thin-metadata-internal.h"

#include <linux/kernel.h>
#include <linux/string.h>

static int begin_read(struct thin_dev *td, bool may_block)
{
	int r = meta_begin_read(td->tm, may_block);

	if (r)
		return r;
	if (dev_is_unread(td))
		r = may_block ? dev_reload(td) : -EWOULDBLOCK;
	if (!r && td->gone)
		r = -EIO;
	if (r)
		meta_end_read(td->tm);
	return r;
}

static int begin_change(struct thin_dev *td)
{
	int r = meta_begin_change(td->tm);

	/* None is unread: there are no changes after a rollback. */
	if (!r && td->gone) {
		meta_end_change(td->tm, 0);
		r = -EIO;
	}
	return r;
}

static void unpack(u64 value, u32 snapshotted_time, struct thin_map *map)
{
	map->block = mapping_block(value);
	map->time = mapping_time(value);
	map->shared = snapshotted_time > map->time;
}

static void unpack_entry(const struct thin_dev *td, const struct bt_leaf *leaf, u32 i,
			 struct thin_map *map)
{
	__le64 value;

	memcpy(&value, bt_value(leaf->node, i), sizeof(value));
	unpack(le64_to_cpu(value), td->snapshotted_time, map);
}

/* Never let a bio out past the data device, whatever the tree says. */
static int check_block(const struct thin_dev *td, const struct thin_map *map)
{
	return map->block < READ_ONCE(td->tm->data_sm.durable_blocks) ? 0 : -EIO;
}

static int find_in_tree(struct thin_dev *td, u64 vblock, bool may_block, struct thin_map *map)
{
	struct bt_leaf leaf;
	int r = begin_read(td, may_block);

	if (r)
		return r;
	r = bt_find_leaf(&td->tm->mapping, td->root, vblock, may_block, &leaf);
	if (r)
		goto out;
	if (leaf.index < bt_nr(leaf.node) && bt_key(leaf.node, leaf.index) == vblock) {
		unpack_entry(td, &leaf, leaf.index, map);
		r = check_block(td, map);
	} else {
		r = -ENODATA;
	}
	dev_cache_fill(td, vblock, &leaf, may_block ? GFP_NOIO | __GFP_NORETRY : GFP_NOWAIT);
	bt_put_leaf(&leaf);
out:
	meta_end_read(td->tm);
	return r;
}

/**
 * thin_dev_find() - what a virtual block is mapped to
 * @td: the device
 * @vblock: the virtual block
 * @may_block: false where a bio is being submitted: look only at what is in
 *	memory, and only if the lock is free
 * @map: filled in
 *
 * What the mapping cache knows is answered without any lock.
 *
 * Return: 0, -ENODATA for a hole, -EWOULDBLOCK, -EIO also for a block past the
 * end of the data device, or the errno of a read.
 */
int thin_dev_find(struct thin_dev *td, u64 vblock, bool may_block, struct thin_map *map)
{
	/* Before the word: a mapping of a later time than this is not shared. */
	u32 snapshotted_time = smp_load_acquire(&td->snapshotted_time);
	u64 value;
	int r = dev_cache_find(td, vblock, &value);

	if (r == -EWOULDBLOCK)
		return find_in_tree(td, vblock, may_block, map);
	if (r)
		return r;
	unpack(value, snapshotted_time, map);
	return check_block(td, map);
}

static int cached_run(struct thin_dev *td, u64 vblock, u64 nr, bool write, struct thin_map *map,
		      u64 *len)
{
	/* As in thin_dev_find(). */
	u32 snapshotted_time = smp_load_acquire(&td->snapshotted_time);
	u64 value, durable;
	int r;

	r = dev_cache_find_run(td, vblock, nr, write ? snapshotted_time : 0, &value, len);
	if (r)
		return r;
	unpack(value, snapshotted_time, map);
	r = check_block(td, map);
	durable = READ_ONCE(td->tm->data_sm.durable_blocks);
	if (!r)
		*len = write && map->shared ? 1 : min(*len, durable - map->block);
	return r;
}

/**
 * thin_dev_find_run() - a run of blocks, as far as it is in memory
 * @td: the device
 * @vblock: the first virtual block
 * @nr: blocks of interest, at least 1
 * @write: no block behind the first one may be shared, and none is looked for behind
 *	one that is
 * @map: filled in for the first block
 * @len: set to the blocks, contiguous on the data device or all holes; the run may
 *	go on behind them
 *
 * Does not wait.
 *
 * Return: as thin_dev_find().
 */
int thin_dev_find_run(struct thin_dev *td, u64 vblock, u64 nr, bool write, struct thin_map *map,
		      u64 *len)
{
	int r = cached_run(td, vblock, nr, write, map, len);
	struct thin_map first;

	if (r != -EWOULDBLOCK)
		return r;
	r = find_in_tree(td, vblock, false, &first);
	if (r && r != -ENODATA)
		return r;
	/* The leaf has told of more. */
	if (cached_run(td, vblock, nr, write, map, len) != r) {
		*map = first;
		*len = 1;
	}
	return r;
}

/* Add what follows without a gap; stops at the first entry that does not. */
static bool extend(struct thin_dev *td, const struct bt_leaf *leaf, u64 vend,
		   struct thin_range *range)
{
	u32 i;

	for (i = leaf->index; i < bt_nr(leaf->node); i++) {
		struct thin_map map;
		u64 len = range->vend - range->vbegin;

		if (range->vend == vend || bt_key(leaf->node, i) != range->vend)
			return false;
		unpack_entry(td, leaf, i, &map);
		if (map.block != range->map.block + len || map.shared != range->map.shared ||
		    check_block(td, &map))
			return false;
		range->vend++;
	}
	return true;
}

/**
 * thin_dev_find_range() - the first run of mappings in a range
 * @td: the device
 * @vbegin: first virtual block of the range
 * @vend: one past its last
 * @may_block: as for thin_dev_find()
 * @range: filled in: contiguous in the thin and in the pool, all of it shared
 *	or none
 *
 * A run may go on behind what is returned.
 *
 * Return: 0, -ENODATA when the range is one hole, otherwise as thin_dev_find().
 */
int thin_dev_find_range(struct thin_dev *td, u64 vbegin, u64 vend, bool may_block,
			struct thin_range *range)
{
	struct thin_meta *tm = td->tm;
	struct bt_leaf leaf;
	int r = begin_read(td, may_block);

	if (r)
		return r;
	r = bt_seek(&tm->mapping, td->root, vbegin, may_block, &leaf);
	if (r)
		goto out;
	range->vbegin = bt_key(leaf.node, leaf.index);
	range->vend = range->vbegin + 1;
	unpack_entry(td, &leaf, leaf.index, &range->map);
	if (range->vbegin >= vend)
		r = -ENODATA;
	else
		r = check_block(td, &range->map);
	if (r) {
		bt_put_leaf(&leaf);
		goto out;
	}

	leaf.index++;
	while (extend(td, &leaf, vend, range))
		if (bt_next_leaf(&tm->mapping, td->root, may_block, &leaf))
			goto out;	/* what has been found stands */
	bt_put_leaf(&leaf);
out:
	meta_end_read(tm);
	return r;
}

/**
 * thin_dev_prefetch() - start reading what a lookup will need
 * @td: the device
 * @vblock: the virtual block
 *
 * Not from a context that submits a bio.
 */
void thin_dev_prefetch(struct thin_dev *td, u64 vblock)
{
	if (meta_begin_read(td->tm, true))
		return;
	if (!dev_is_unread(td) && !td->gone)
		bt_prefetch(&td->tm->mapping, td->root, vblock);
	meta_end_read(td->tm);
}

static int insert_one(struct thin_dev *td, struct thin_insert *ins, struct bt_place *place)
{
	struct thin_meta *tm = td->tm;
	__le64 value = cpu_to_le64(mapping_pack(ins->block, tm->time));
	u64 old = THIN_EXPECT_HOLE;
	const void *there;
	__le64 old_value;
	bool freed;
	int r;

	r = bt_find_place(&tm->mapping, &td->root, ins->vblock, place, &there);
	if (r)
		return r;
	if (there) {
		memcpy(&old_value, there, sizeof(old_value));
		old = mapping_block(le64_to_cpu(old_value));
	}
	ins->status = old == ins->expect ? 0 : -ESTALE;
	if (ins->status)
		return 0;

	r = sm_take_reserved(&tm->data_sm, ins->block);
	if (r)
		return r;
	r = bt_set_place(&tm->mapping, &td->root, ins->vblock, &value, place);
	if (!r && !there)
		td->mapped_blocks++;
	else if (!r)
		r = sm_dec(&tm->data_sm, old, &freed);
	if (r)
		sm_untake(&tm->data_sm, ins->block);
	return r;
}

static int insert_all(struct thin_dev *td, struct thin_insert *ins, unsigned int nr)
{
	struct thin_meta *tm = td->tm;
	struct bt_place place = { };
	unsigned int i, done;
	int r;

	for (i = 0; i < nr; i++)
		ins[i].status = -EAGAIN;
	if (meta_must_commit(tm) || (nr && !meta_has_room(td, ins[0].vblock)))
		return 0;

	r = dev_mutate(td);
	for (i = 0; i < nr && !r; i++) {
		if (i && !meta_has_much(tm) &&
		    (meta_is_short(tm) || !meta_has_room(td, ins[i].vblock)))
			break;
		r = insert_one(td, &ins[i], &place);
	}
	if (!r) {
		while (i--)
			if (!ins[i].status)
				dev_cache_set(td, ins[i].vblock,
					      mapping_pack(ins[i].block, tm->time));
		return 0;
	}
	/* The last one has seen to itself.  I/O to all of them may be under way. */
	for (done = 0; done + 1 < i; done++)
		if (!ins[done].status)
			sm_untake(&tm->data_sm, ins[done].block);
	return r;
}

/**
 * thin_dev_insert() - map virtual blocks to reserved data blocks
 * @td: the device
 * @ins: what to insert, sorted by virtual block; each status is set
 * @nr: entries of @ins
 *
 * A mapping that is replaced loses its reference to the old data block.
 * Entries that get -EAGAIN are untouched: metadata is short, or the device behind, so
 * commit first.  The first entry of a transaction gets it only while a commit is
 * under way, or if &thin_meta_space.meta_free is 0 now: metadata has run out.
 *
 * Return: 0, also when entries are stale or to be inserted again; -EPERM
 * without any change; otherwise an error: the transaction is rolled back, none
 * of @ins is inserted, and all reservations are the caller's again.
 */
int thin_dev_insert(struct thin_dev *td, struct thin_insert *ins, unsigned int nr)
{
	int r = begin_change(td);

	if (r)
		return r;
	r = insert_all(td, ins, nr);
	meta_end_change(td->tm, r);
	return r;
}

/*
 * May the device have a block for itself?  Not if anybody else counts it, nor if
 * somebody who did may still find it: in the durable state, or with bios.
 */
static int is_sole_user(struct thin_meta *tm, u64 block)
{
	u32 count;
	u64 loss;
	int r;

	r = sm_count(&tm->data_sm, block, &count);
	if (!r)
		r = sm_last_loss(&tm->data_sm, block, &loss);
	if (r)
		return r;
	return count == 1 && max(loss, tm->tm.hidden_loss_seq) <= tm->quiet_seq;
}

static int stamp(struct thin_dev *td, u64 vblock, u64 block, u32 time)
{
	__le64 value = cpu_to_le64(mapping_pack(block, time));

	return bt_insert(&td->tm->mapping, &td->root, vblock, &value);
}

static int take_over(struct thin_dev *td, u64 vblock, u64 block, u32 old_time)
{
	struct thin_meta *tm = td->tm;
	int r;

	r = dev_mutate(td);
	if (r)
		return r;
	/* The same value again: only along a path of its own do counts tell of all users. */
	r = stamp(td, vblock, block, old_time);
	if (!r)
		r = is_sole_user(tm, block);
	if (r <= 0)
		return r ?: 1;
	r = stamp(td, vblock, block, tm->time);
	if (!r)
		dev_cache_set(td, vblock, mapping_pack(block, tm->time));
	return r;
}

/**
 * thin_dev_take_over() - keep a block that only looks shared
 * @td: the device
 * @vblock: virtual block, mapped before the device's last snapshot
 * @block: data block it was found to be mapped to
 *
 * If all others that had the block have given it up for good, the mapping gets
 * a new time and can be written in place (format 5.1).
 *
 * Return: 0; -EBUSY when the block has to be copied; -ESTALE when the mapping is
 * another one now, -EPERM or the errno of a lookup without any change;
 * otherwise an error, and the transaction is rolled back.
 */
int thin_dev_take_over(struct thin_dev *td, u64 vblock, u64 block)
{
	struct thin_meta *tm = td->tm;
	__le64 value;
	int r = begin_change(td);

	if (r)
		return r;
	r = bt_lookup(&tm->mapping, td->root, vblock, true, &value);
	if (r || mapping_block(le64_to_cpu(value)) != block) {
		r = r && r != -ENODATA ? r : -ESTALE;
		goto out;
	}
	/* Who cannot tell copies. */
	if (is_sole_user(tm, block) > 0 && !meta_is_short(tm) && meta_has_room(td, vblock))
		r = take_over(td, vblock, block, mapping_time(le64_to_cpu(value)));
	else
		r = 1;
out:
	meta_end_change(tm, r);
	return r > 0 ? -EBUSY : r;
}

static int has_mappings(struct thin_dev *td, u64 vbegin, u64 vend)
{
	struct bt_leaf leaf;
	int r = bt_seek(&td->tm->mapping, td->root, vbegin, true, &leaf);

	if (r)
		return r == -ENODATA ? 0 : r;
	r = bt_key(leaf.node, leaf.index) < vend;
	bt_put_leaf(&leaf);
	return r;
}

static int remove_leaves(struct thin_dev *td, u64 vend, struct bt_info *info, u64 *next,
			 u64 *removed)
{
	struct thin_meta *tm = td->tm;
	u64 vbegin = *next;
	u32 i, nr;
	int r;

	r = dev_mutate(td);
	if (r)
		return r;
	bt_prefetch_leaves(info, td->root, vbegin, vend, false, REMOVE_AHEAD_LEAVES);
	for (i = 0; i < REMOVE_STEP_LEAVES; i++) {
		if (i && (meta_is_short(tm) || !meta_has_room_to_remove(td, *next, vend)))
			break;
		r = bt_remove_leaf(info, &td->root, *next, vend, next, &nr);
		if (r)
			break;
		*removed += nr;
		td->mapped_blocks -= min_t(u64, nr, td->mapped_blocks);
	}
	if (r == -ENODATA) {
		*next = vend;
		r = 0;
	}
	if (!r)
		dev_cache_clear(td, vbegin, *next);
	return r;
}

/**
 * thin_dev_remove_range() - unmap virtual blocks, one bounded step
 * @td: the device
 * @vbegin: first virtual block
 * @vend: one past the last
 * @passdown: thin_freed_walk() shall say so of the data blocks that lose their
 *	last reference here
 * @next: set to where the next step begins, @vend when all is done
 * @nr: set to the number of mappings removed
 *
 * Holes cost nothing, and a range without mappings changes nothing.
 *
 * Return: 0; -EAGAIN (commit, then go on; as for thin_dev_insert()) and -EPERM without
 * any change; otherwise an error, and the transaction is rolled back.
 */
int thin_dev_remove_range(struct thin_dev *td, u64 vbegin, u64 vend, bool passdown, u64 *next,
			  u64 *nr)
{
	struct thin_meta *tm = td->tm;
	int r = begin_change(td);

	*nr = 0;
	if (r)
		return r;
	*next = vbegin;
	r = vbegin < vend ? has_mappings(td, vbegin, vend) : 0;
	if (!r)
		*next = vend;
	else if (r > 0 && (meta_must_commit(tm) || !meta_has_room_to_remove(td, vbegin, vend)))
		r = -EAGAIN;
	else if (r > 0)
		r = remove_leaves(td, vend, passdown ? &tm->passdown : &tm->mapping, next, nr);
	meta_end_change(tm, r);
	return r;
}

/**
 * thin_dev_mapped_blocks() - number of mappings
 * @td: the device
 * @nr: set
 *
 * Return: 0 or -EIO.
 */
int thin_dev_mapped_blocks(struct thin_dev *td, u64 *nr)
{
	int r = begin_read(td, true);

	if (r)
		return r;
	*nr = td->mapped_blocks;
	meta_end_read(td->tm);
	return 0;
}

/**
 * thin_dev_highest_block() - the last virtual block that is mapped
 * @td: the device
 * @vblock: set
 *
 * Return: 0, -ENODATA when nothing is mapped, -EIO, or the errno of a read.
 */
int thin_dev_highest_block(struct thin_dev *td, u64 *vblock)
{
	int r = begin_read(td, true);

	if (r)
		return r;
	r = bt_highest(&td->tm->mapping, td->root, vblock);
	meta_end_read(td->tm);
	return r;
}
