// SPDX-License-Identifier: GPL-2.0-only
/*
 * The mapping cache: what the trees say of a device's blocks, readable without
 * a lock.
 *
 * A chunk holds the words of 64 consecutive virtual blocks.  A word is the value
 * of the mapping as it is on disk, or one of two that no mapping has: "not
 * known" and "hole".  It holds the time of the mapping rather than whether it is
 * shared, so a snapshot of the device leaves every word right.
 *
 * Invariants:
 * - A word that is known says what the tree says.  The tree is changed under the
 *   pool's lock for writing, and the words with it, before the lock is let go;
 *   a fill holds the lock for reading.  A reader may come a moment before a
 *   change; what it then does with the block is the epoch's business.
 * - Any chunk may be dropped at any time; it is freed an RCU grace period later.
 *
 * Lock order: the pool's lock, then the xarray's own.  The list of devices is
 * for shedding under memory pressure, which only tries for its mutex.
 */
#include "dm-thin-metadata-internal.h"

#include <linux/atomic.h>
#include <linux/kernel.h>
#include <linux/mm.h>
#include <linux/module.h>
#include <linux/rcupdate.h>
#include <linux/slab.h>
#include <linux/string.h>

#include "compat/shrinker.h"

#define CHUNK_SHIFT		6
#define CHUNK_WORDS		64U

#define WORD_UNKNOWN		(~0ULL)
#define WORD_HOLE		(~0ULL - 1)

/* Following chunks are filled from the same leaf while it has this much of each. */
#define MIN_FILL		(CHUNK_WORDS / 4)

/* Of so many misses in a full cache one is remembered. */
#define FULL_TURNS		16

struct cache_chunk {
	struct rcu_head rcu;
	u64 words[CHUNK_WORDS];
};

static unsigned int mapping_cache_mb;
module_param(mapping_cache_mb, uint, 0644);
MODULE_PARM_DESC(mapping_cache_mb,
		 "Most memory for cached mappings of all pools, in MiB (0: 1/32 of the machine's)");

static struct kmem_cache *chunk_slab;
static atomic_long_t nr_chunks;
static struct shrinker *cache_shrinker;

static DEFINE_MUTEX(devs_lock);
static LIST_HEAD(devs);

static unsigned long max_chunks(void)
{
	unsigned long mb = READ_ONCE(mapping_cache_mb);
	unsigned long bytes = mb ? mb << 20 : (totalram_pages() << PAGE_SHIFT) / 32;

	return bytes / sizeof(struct cache_chunk);
}

static bool is_full(void)
{
	return atomic_long_read(&nr_chunks) >= max_chunks();
}

static_assert(CHUNK_WORDS == 1U << CHUNK_SHIFT);

/* ---- chunks ---- */

/* Whoever sees the word sees what the device was before it: see thin_dev_find(). */
static void publish_word(struct cache_chunk *chunk, u64 vblock, u64 word)
{
	/* Pairs with the acquire in dev_cache_find(). */
	smp_store_release(&chunk->words[vblock % CHUNK_WORDS], word);
}

static void free_chunk(struct rcu_head *rcu)
{
	kmem_cache_free(chunk_slab, container_of(rcu, struct cache_chunk, rcu));
}

static void drop_chunk(struct thin_dev *td, unsigned long index)
{
	struct cache_chunk *chunk = xa_erase(&td->cache, index);

	if (!chunk)
		return;
	atomic_long_dec(&nr_chunks);
	call_rcu(&chunk->rcu, free_chunk);
}

/* Hits leave no trace, so the next one in the order of blocks is as good as any. */
static bool drop_any(struct thin_dev *td)
{
	unsigned long index = READ_ONCE(td->cache_hand);
	void *entry = xa_find(&td->cache, &index, ULONG_MAX, XA_PRESENT);

	if (!entry) {
		index = 0;
		entry = xa_find(&td->cache, &index, ULONG_MAX, XA_PRESENT);
	}
	if (!entry)
		return false;
	WRITE_ONCE(td->cache_hand, index + 1);
	drop_chunk(td, index);
	return true;
}

/* For a device that came when the others had filled the cache. */
static bool drop_other(void)
{
	struct thin_dev *td;
	bool dropped = false;

	if (!mutex_trylock(&devs_lock))
		return false;
	list_for_each_entry(td, &devs, cache_node) {
		dropped = drop_any(td);
		if (dropped)
			break;
	}
	list_rotate_left(&devs);
	mutex_unlock(&devs_lock);
	return dropped;
}

static struct cache_chunk *new_chunk(struct thin_dev *td, gfp_t gfp)
{
	struct cache_chunk *chunk;

	if (is_full() && !drop_any(td) && !drop_other())
		return NULL;
	chunk = kmem_cache_alloc(chunk_slab, gfp | __GFP_NOWARN);
	if (chunk) {
		memset(chunk->words, 0xff, sizeof(chunk->words));
		atomic_long_inc(&nr_chunks);
	}
	return chunk;
}

static void add_chunk(struct thin_dev *td, unsigned long index, struct cache_chunk *chunk,
		      gfp_t gfp)
{
	/* Somebody may have been faster with the same words, or there is no memory. */
	if (xa_cmpxchg(&td->cache, index, NULL, chunk, gfp | __GFP_NOWARN)) {
		atomic_long_dec(&nr_chunks);
		kmem_cache_free(chunk_slab, chunk);
	}
}

/**
 * dev_cache_init() - begin with nothing known
 * @td: a new device
 */
void dev_cache_init(struct thin_dev *td)
{
	xa_init(&td->cache);
	mutex_lock(&devs_lock);
	list_add_tail(&td->cache_node, &devs);
	mutex_unlock(&devs_lock);
}

/**
 * dev_cache_exit() - undo dev_cache_init()
 * @td: a device that nobody uses
 */
void dev_cache_exit(struct thin_dev *td)
{
	mutex_lock(&devs_lock);
	list_del(&td->cache_node);
	mutex_unlock(&devs_lock);
	dev_cache_drop(td);
	xa_destroy(&td->cache);
}

/**
 * dev_cache_drop() - nothing is known any more
 * @td: the device; its pool is locked for writing, unless nobody uses it
 */
void dev_cache_drop(struct thin_dev *td)
{
	unsigned long index;
	void *entry;

	xa_for_each(&td->cache, index, entry)
		drop_chunk(td, index);
}

/* ---- looking ---- */

/**
 * dev_cache_find() - what is known of a block
 * @td: the device
 * @vblock: the virtual block
 * @value: set to the mapping as it is on disk
 *
 * Takes no lock and writes nothing.
 *
 * Return: 0, -ENODATA for a hole, -EWOULDBLOCK when it is not known.
 */
int dev_cache_find(struct thin_dev *td, u64 vblock, u64 *value)
{
	struct cache_chunk *chunk;
	u64 word = WORD_UNKNOWN;

	rcu_read_lock();
	chunk = xa_load(&td->cache, vblock >> CHUNK_SHIFT);
	if (chunk) {
		/* Pairs with the release in publish_word(). */
		word = smp_load_acquire(&chunk->words[vblock % CHUNK_WORDS]);
	}
	rcu_read_unlock();

	if (word == WORD_UNKNOWN)
		return -EWOULDBLOCK;
	if (word == WORD_HOLE)
		return -ENODATA;
	*value = word;
	return 0;
}

/* Does @word go on where a run of @nr mappings that begins with @first has got to? */
static bool continues(u64 word, u64 first, u64 nr, u32 min_time)
{
	return word < WORD_HOLE && mapping_block(word) == mapping_block(first) + nr &&
	       mapping_time(word) >= min_time;
}

/**
 * dev_cache_find_run() - what is known of some blocks
 * @td: the device
 * @vblock: the first virtual block
 * @nr: blocks of interest, at least 1
 * @min_time: mappings behind the first one that are older end the run
 * @value: set to the first mapping as it is on disk
 * @len: set to the blocks known to be contiguous on the data device, or to be holes
 *
 * As dev_cache_find(), and so is what it returns.
 */
int dev_cache_find_run(struct thin_dev *td, u64 vblock, u64 nr, u32 min_time, u64 *value, u64 *len)
{
	u64 first = WORD_UNKNOWN, n = 0;

	rcu_read_lock();
	while (n < nr) {
		u64 at = vblock + n, end = (at | (CHUNK_WORDS - 1)) + 1;
		struct cache_chunk *chunk = xa_load(&td->cache, at >> CHUNK_SHIFT);

		end = min(end, vblock + nr);
		for (; chunk && at < end; at++, n++) {
			/* As in dev_cache_find(). */
			u64 word = smp_load_acquire(&chunk->words[at % CHUNK_WORDS]);

			if (!n)
				first = word;
			else if (first == WORD_HOLE ? word != WORD_HOLE :
						      !continues(word, first, n, min_time))
				break;
			if (first == WORD_UNKNOWN)
				break;
		}
		if (!chunk || at < end)
			break;
	}
	rcu_read_unlock();

	*len = n;
	if (first == WORD_UNKNOWN)
		return -EWOULDBLOCK;
	if (first == WORD_HOLE)
		return -ENODATA;
	*value = first;
	return 0;
}

/* ---- filling ---- */

/* On a damaged disk even the two special words can be met; look again each time. */
static u64 leaf_word(const struct disk_node *leaf, u32 i)
{
	__le64 value;

	memcpy(&value, bt_value(leaf, i), sizeof(value));
	return le64_to_cpu(value) < WORD_HOLE ? le64_to_cpu(value) : WORD_UNKNOWN;
}

/* Store what a leaf knows of a chunk; each word is written once, in its final form. */
static void fill_words(struct cache_chunk *chunk, u64 base, const struct bt_leaf *leaf)
{
	s32 below = base ? bt_search(leaf->node, base - 1) : -1;
	u32 nr = bt_nr(leaf->node), entry = below + 1, i;

	for (i = 0; i < CHUNK_WORDS; i++) {
		u64 word = WORD_HOLE;

		if (base + i < leaf->low || (!leaf->last && base + i >= leaf->bound))
			continue;
		if (entry < nr && bt_key(leaf->node, entry) == base + i)
			word = leaf_word(leaf->node, entry++);
		publish_word(chunk, i, word);
	}
}

/*
 * In a full cache a new chunk costs an old one.  What is looked up once in a while
 * is not worth that; what is looked up often gets its turn soon.
 */
static bool worth_a_chunk(struct thin_dev *td)
{
	unsigned int turn;

	if (!is_full())
		return true;
	turn = READ_ONCE(td->cache_turn) + 1;
	WRITE_ONCE(td->cache_turn, turn);
	return turn % FULL_TURNS == 0;
}

static void fill_chunk(struct thin_dev *td, unsigned long index, const struct bt_leaf *leaf,
		       gfp_t gfp)
{
	u64 base = (u64)index << CHUNK_SHIFT;
	struct cache_chunk *chunk;

	rcu_read_lock();
	chunk = xa_load(&td->cache, index);
	if (chunk)
		fill_words(chunk, base, leaf);
	rcu_read_unlock();
	if (chunk || !worth_a_chunk(td))
		return;

	chunk = new_chunk(td, gfp);
	if (chunk) {
		fill_words(chunk, base, leaf);
		add_chunk(td, index, chunk, gfp);
	}
}

/**
 * dev_cache_fill() - learn from a leaf
 * @td: the device, its pool locked for reading
 * @vblock: the virtual block that was sought
 * @leaf: of bt_find_leaf(), the leaf where @vblock is or would be
 * @gfp: how to allocate
 *
 * Failing to allocate does no harm.
 */
void dev_cache_fill(struct thin_dev *td, u64 vblock, const struct bt_leaf *leaf, gfp_t gfp)
{
	unsigned long index = vblock >> CHUNK_SHIFT;

	do {
		fill_chunk(td, index, leaf, gfp);
		index++;
	} while (!is_full() &&
		 bt_search(leaf->node, ((u64)(index + 1) << CHUNK_SHIFT) - 1) -
		 bt_search(leaf->node, ((u64)index << CHUNK_SHIFT) - 1) >= (s32)MIN_FILL);
}

/* ---- following changes ---- */

/**
 * dev_cache_set() - a block has been mapped
 * @td: the device, its pool locked for writing
 * @vblock: the virtual block
 * @value: the mapping as it is on disk
 */
void dev_cache_set(struct thin_dev *td, u64 vblock, u64 value)
{
	const gfp_t gfp = GFP_NOIO | __GFP_NORETRY;
	unsigned long index = vblock >> CHUNK_SHIFT;
	struct cache_chunk *chunk;

	rcu_read_lock();
	chunk = xa_load(&td->cache, index);
	if (chunk)
		publish_word(chunk, vblock, value);
	rcu_read_unlock();
	if (chunk)
		return;

	chunk = new_chunk(td, gfp);
	if (chunk) {
		chunk->words[vblock % CHUNK_WORDS] = value;
		add_chunk(td, index, chunk, gfp);
	}
}

/**
 * dev_cache_clear() - blocks have been unmapped
 * @td: the device, its pool locked for writing
 * @vbegin: first virtual block
 * @vend: one past the last
 */
void dev_cache_clear(struct thin_dev *td, u64 vbegin, u64 vend)
{
	struct cache_chunk *chunk;
	unsigned long index;

	xa_for_each_range(&td->cache, index, chunk, vbegin >> CHUNK_SHIFT,
			  (vend - 1) >> CHUNK_SHIFT) {
		u64 base = (u64)index << CHUNK_SHIFT;
		u32 i, end = min_t(u64, CHUNK_WORDS, vend - base);

		if (base >= vbegin && end == CHUNK_WORDS) {
			drop_chunk(td, index);
			continue;
		}
		/* Whoever drops chunks at will may be doing it to this one. */
		rcu_read_lock();
		chunk = xa_load(&td->cache, index);
		for (i = base < vbegin ? vbegin - base : 0; chunk && i < end; i++)
			publish_word(chunk, i, WORD_HOLE);
		rcu_read_unlock();
	}
}

/* ---- shedding ---- */

static unsigned long count_chunks(struct shrinker *shrinker, struct shrink_control *sc)
{
	return atomic_long_read(&nr_chunks) ?: SHRINK_EMPTY;
}

static unsigned long shed_chunks(struct shrinker *shrinker, struct shrink_control *sc)
{
	unsigned long freed = 0;
	struct thin_dev *td;

	if (!mutex_trylock(&devs_lock))
		return SHRINK_STOP;
	list_for_each_entry(td, &devs, cache_node)
		while (freed < sc->nr_to_scan && drop_any(td))
			freed++;
	/* The next call begins with another device. */
	list_rotate_left(&devs);
	mutex_unlock(&devs_lock);
	return freed;
}

/**
 * thin_meta_init() - what all pools' metadata share; at module load
 *
 * Return: 0 or -ENOMEM.
 */
int thin_meta_init(void)
{
	chunk_slab = kmem_cache_create("dm_thin_mapping", sizeof(struct cache_chunk), 0,
				       SLAB_RECLAIM_ACCOUNT, NULL);
	if (!chunk_slab)
		return -ENOMEM;
	cache_shrinker = compat_shrinker_register("dm-thin-mapping", count_chunks, shed_chunks);
	if (!cache_shrinker) {
		kmem_cache_destroy(chunk_slab);
		return -ENOMEM;
	}
	return 0;
}

/**
 * thin_meta_exit() - undo thin_meta_init(); no pool is open
 */
void thin_meta_exit(void)
{
	compat_shrinker_unregister(cache_shrinker);
	rcu_barrier();	/* for free_chunk() */
	kmem_cache_destroy(chunk_slab);
}
