// SPDX-License-Identifier: GPL-2.0-only
/*
 * The kernel facilities behind shim/linux/: memory, locks, messages, xarray.
 *
 * One thread runs at a time, so each facility can check its use instead of protecting
 * anything: what would deadlock, leak or sleep in the wrong place in the
 * kernel ends the run here with a sentence that says so.
 */
#include <linux/shrinker.h>
#include <linux/bitops.h>
#include <linux/crc32c.h>
#include <linux/gfp.h>
#include <linux/jiffies.h>
#include <linux/kernel.h>
#include <linux/lockdep.h>
#include <linux/sched/mm.h>
#include <linux/slab.h>
#include <linux/string.h>
#include <linux/xarray.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include "simcore.h"

void (*sim_fail_hook)(void);

void sim_fail(const char *fmt, ...)
{
	static int again;
	va_list ap;

	fflush(stdout);
	fprintf(stderr, "FAIL: ");
	va_start(ap, fmt);
	vfprintf(stderr, fmt, ap);
	va_end(ap);
	fprintf(stderr, "\n");
	if (!again++) {
		sim_log_dump();
		if (sim_fail_hook)
			sim_fail_hook();
	}
	fflush(stderr);
	_exit(1);
}

void sim_bug(const char *file, int line, const char *what)
{
	sim_fail("%s at %s:%d", what, file, line);
}

/* ---- messages ---- */

#define LOG_LINES 64
static char log_ring[LOG_LINES][256];
static unsigned int log_next;
int sim_log_verbose;
unsigned long sim_log_errors;

int sim_printk(int level, const char *fmt, ...)
{
	char *line = log_ring[log_next++ % LOG_LINES];
	char plain[512];
	size_t n = 0;
	va_list ap;

	/* The kernel's own %p extensions become %p: only the text matters here. */
	while (*fmt && n < sizeof(plain) - 2) {
		plain[n++] = *fmt;
		if (fmt[0] == '%' && fmt[1] == 'p') {
			plain[n++] = 'p';
			fmt += 2;
			while ((*fmt >= 'a' && *fmt <= 'z') || (*fmt >= 'A' && *fmt <= 'Z'))
				fmt++;
			continue;
		}
		if (fmt[0] == '%' && fmt[1] == '%' && n < sizeof(plain) - 2)
			plain[n++] = *++fmt;
		fmt++;
	}
	plain[n] = 0;
	va_start(ap, fmt);
	vsnprintf(line, sizeof(log_ring[0]), plain, ap);
	va_end(ap);
	if (level <= 3)
		sim_log_errors++;
	if (sim_log_verbose)
		fprintf(stderr, "  <%d> %s\n", level, line);
	return 0;
}

void sim_log_dump(void)
{
	unsigned int i = log_next > LOG_LINES ? log_next - LOG_LINES : 0;

	if (sim_log_verbose)
		return;
	for (; i < log_next; i++)
		fprintf(stderr, "  log: %s\n", log_ring[i % LOG_LINES]);
}

void sim_log_clear(void)
{
	log_next = 0;
	sim_log_errors = 0;
}

/* ---- memory ---- */

long sim_live_allocs;
__thread int sim_noio_depth;
__thread int sim_locks_held;
__thread int sim_spins_held;
long sim_alloc_fail_in;
unsigned long sim_allocs;
unsigned long sim_faults;
static unsigned long clock_ticks;

unsigned long sim_jiffies(void)
{
	return clock_ticks++ / 64;
}

void sim_might_sleep(const char *what)
{
	if (sim_spins_held)
		sim_fail("%s may sleep but a spinlock is held", what);
}

void sim_kernel_might_sleep(const char *what)
{
	sim_might_sleep(what);
}

unsigned int memalloc_noio_save(void)
{
	return sim_noio_depth++;
}

void memalloc_noio_restore(unsigned int flags)
{
	if (--sim_noio_depth != (int)flags)
		sim_fail("memalloc_noio_restore out of order");
}

static bool alloc_fails(gfp_t gfp)
{
	if (gfp & __GFP_DIRECT_RECLAIM)
		sim_might_sleep("an allocation with direct reclaim");
	/* Reclaim may write to the very device whose metadata lock is held. */
	if ((gfp & __GFP_IO) && sim_locks_held && !sim_noio_depth)
		sim_fail("an allocation may start I/O while a lock is held (no memalloc_noio)");
	sim_allocs++;
	if ((gfp & __GFP_NOFAIL) || !sim_alloc_fail_in)
		return false;
	if (--sim_alloc_fail_in)
		return false;
	sim_faults++;
	return true;
}

void *sim_alloc(size_t size, gfp_t gfp)
{
	void *p;

	if (alloc_fails(gfp))
		return NULL;
	if (size > (1UL << 32))
		sim_fail("an allocation of %zu bytes", size);
	p = malloc(size ? size : 1);
	if (!p)
		sim_fail("the machine is out of memory");
	/* Junk, so that nobody lives on zeroes by luck. */
	memset(p, (gfp & __GFP_ZERO) ? 0 : 0xa5, size);
	sim_live_allocs++;
	return p;
}

void sim_free(const void *p)
{
	if (!p)
		return;
	sim_live_allocs--;
	free((void *)p);
}

void *krealloc(const void *p, size_t size, gfp_t gfp)
{
	void *n;

	if (!p)
		return sim_alloc(size, gfp);
	if (alloc_fails(gfp))
		return NULL;
	n = realloc((void *)p, size);
	if (!n)
		sim_fail("the machine is out of memory");
	return n;
}

unsigned long __get_free_page(gfp_t gfp)
{
	void *p;

	if (alloc_fails(gfp))
		return 0;
	p = aligned_alloc(PAGE_SIZE, PAGE_SIZE);
	if (!p)
		sim_fail("the machine is out of memory");
	memset(p, (gfp & __GFP_ZERO) ? 0 : 0xa5, PAGE_SIZE);
	sim_live_allocs++;
	return (unsigned long)p;
}

unsigned long get_zeroed_page(gfp_t gfp)
{
	return __get_free_page(gfp | __GFP_ZERO);
}

void free_page(unsigned long addr)
{
	sim_free((void *)addr);
}

struct page *alloc_page(gfp_t gfp)
{
	return (struct page *)__get_free_page(gfp);
}

void __free_page(struct page *page)
{
	sim_free(page);
}

void *page_address(const struct page *page)
{
	return (void *)page;
}

struct kmem_cache {
	unsigned int size;
	long live;
	void (*ctor)(void *p);
	char name[32];
};

struct kmem_cache *kmem_cache_create(const char *name, unsigned int size, unsigned int align,
				     unsigned int flags, void (*ctor)(void *))
{
	struct kmem_cache *c;

	(void)align;
	(void)flags;
	if (alloc_fails(GFP_KERNEL))
		return NULL;
	c = calloc(1, sizeof(*c));
	if (!c)
		sim_fail("the machine is out of memory");
	c->size = size;
	c->ctor = ctor;
	snprintf(c->name, sizeof(c->name), "%s", name);
	return c;
}

void kmem_cache_destroy(struct kmem_cache *c)
{
	if (c && c->live)
		sim_fail("kmem_cache %s destroyed with %ld objects alive", c->name, c->live);
	free(c);
}

void *kmem_cache_alloc(struct kmem_cache *c, gfp_t gfp)
{
	void *p = sim_alloc(c->size, gfp);

	if (p) {
		c->live++;
		if (c->ctor)
			c->ctor(p);
	}
	return p;
}

void *kmem_cache_zalloc(struct kmem_cache *c, gfp_t gfp)
{
	return kmem_cache_alloc(c, gfp | __GFP_ZERO);
}

void kmem_cache_free(struct kmem_cache *c, void *p)
{
	if (p)
		c->live--;
	sim_free(p);
}

void *kmemdup(const void *src, size_t len, gfp_t gfp)
{
	void *p = sim_alloc(len, gfp);

	if (p)
		memcpy(p, src, len);
	return p;
}

void *memchr_inv(const void *start, int c, size_t bytes)
{
	const u8 *p = start;

	for (; bytes; bytes--, p++)
		if (*p != (u8)c)
			return (void *)p;
	return NULL;
}

/* ---- locks ---- */

static void check_ready(const struct sim_lock *l, const char *where)
{
	if (l->ready != SIM_LOCK_READY)
		sim_fail("%s uses a lock that was never initialised", where);
}

void sim_lock_init(struct sim_lock *l)
{
	*l = (struct sim_lock){ .ready = SIM_LOCK_READY };
}

bool sim_lock_is_held(const struct sim_lock *l)
{
	return l->writers || l->readers[0] || l->readers[1];
}

/* Return: true when there was somebody to wait for. */
static bool wait_for_other(const struct sim_lock *l, bool write, const char *where)
{
	if ((l->writers && l->writer == sim_me) || l->readers[sim_me])
		sim_fail("%s: a deadlock, this thread holds the lock for %s", where, l->writers ? "writing" : "reading");
	if (!l->writers && !(write && l->readers[!sim_me]))
		return false;
	sim_wait(where);
	return true;
}

void sim_lock_destroy(struct sim_lock *l)
{
	if (sim_lock_is_held(l))
		sim_fail("a lock is destroyed while it is held");
	l->ready = 0;
}

void sim_lock_write(struct sim_lock *l, bool sleeps, const char *where)
{
	check_ready(l, where);
	if (sleeps)
		sim_might_sleep(where);
	while (wait_for_other(l, true, where))
		;
	sim_waited();
	l->writers = 1;
	l->writer = sim_me;
	if (sleeps)
		sim_locks_held++;
	else
		sim_spins_held++;
}

bool sim_trylock_write(struct sim_lock *l)
{
	check_ready(l, "trylock");
	if (sim_lock_is_held(l))
		return false;
	l->writers = 1;
	l->writer = sim_me;
	sim_locks_held++;
	return true;
}

void sim_unlock_write(struct sim_lock *l, bool sleeps, const char *where)
{
	check_ready(l, where);
	if (l->writers != 1 || l->writer != sim_me)
		sim_fail("%s: unlock for writing of a lock that is not held so", where);
	l->writers = 0;
	if (sleeps)
		sim_locks_held--;
	else
		sim_spins_held--;
}

void sim_lock_read(struct sim_lock *l, const char *where)
{
	check_ready(l, where);
	sim_might_sleep(where);
	while (wait_for_other(l, false, where))
		;
	sim_waited();
	l->readers[sim_me] = 1;
	sim_locks_held++;
}

bool sim_trylock_read(struct sim_lock *l)
{
	check_ready(l, "read trylock");
	if (l->writers)
		return false;
	l->readers[sim_me]++;
	sim_locks_held++;
	return true;
}

void sim_unlock_read(struct sim_lock *l, const char *where)
{
	check_ready(l, where);
	if (l->readers[sim_me] < 1)
		sim_fail("%s: unlock for reading of a lock that is not held so", where);
	l->readers[sim_me]--;
	sim_locks_held--;
}

void sim_downgrade(struct sim_lock *l, const char *where)
{
	check_ready(l, where);
	if (l->writers != 1 || l->writer != sim_me)
		sim_fail("%s: downgrade of a lock that is not held for writing", where);
	l->writers = 0;
	l->readers[sim_me] = 1;
}

void sim_assert_held(const struct sim_lock *l, int how, const char *file, int line)
{
	bool writes = l->writers && l->writer == sim_me, reads = l->readers[sim_me], ok = false;

	switch (how) {
	case 0:
		ok = writes || reads;
		break;
	case 1:
		ok = writes;
		break;
	case 2:
		ok = reads;
		break;
	case 3:
		ok = !writes && !reads;
		break;
	}
	if (!ok)
		sim_fail("lockdep assertion %d at %s:%d", how, file, line);
}

/* ---- bits ---- */

unsigned long find_next_bit(const unsigned long *a, unsigned long size, unsigned long off)
{
	unsigned long w;

	if (off >= size)
		return size;
	w = a[off / 64] & (~0UL << (off % 64));
	off -= off % 64;
	while (!w) {
		off += 64;
		if (off >= size)
			return size;
		w = a[off / 64];
	}
	off += __ffs(w);
	return off < size ? off : size;
}

unsigned long find_next_zero_bit(const unsigned long *a, unsigned long size, unsigned long off)
{
	unsigned long w;

	if (off >= size)
		return size;
	w = ~a[off / 64] & (~0UL << (off % 64));
	off -= off % 64;
	while (!w) {
		off += 64;
		if (off >= size)
			return size;
		w = ~a[off / 64];
	}
	off += __ffs(w);
	return off < size ? off : size;
}

/* ---- xarray: a radix tree of 64 slots a node ---- */

#define XA_SHIFT 6
#define XA_SLOTS 64

struct xa_node {
	unsigned int used;
	void *slot[XA_SLOTS];
};

void xa_init(struct xarray *xa)
{
	memset(xa, 0, sizeof(*xa));
	spin_lock_init(&xa->xa_lock);
}

static bool xa_covers(const struct xarray *xa, unsigned long index)
{
	unsigned int bits = xa->height * XA_SHIFT;

	return xa->root && (bits >= 64 || !(index >> bits));
}

void *xa_load(struct xarray *xa, unsigned long index)
{
	struct xa_node *n = xa->root;
	unsigned int h;

	check_ready(&xa->xa_lock.lock, "xa_load");
	if (!xa_covers(xa, index))
		return NULL;
	for (h = xa->height; h > 1 && n; h--)
		n = n->slot[(index >> ((h - 1) * XA_SHIFT)) % XA_SLOTS];
	return n ? n->slot[index % XA_SLOTS] : NULL;
}

static void *xa_new_node(gfp_t gfp)
{
	return sim_alloc(sizeof(struct xa_node), gfp | __GFP_ZERO);
}

void *xa_store(struct xarray *xa, unsigned long index, void *entry, gfp_t gfp)
{
	struct xa_node *n, *c;
	unsigned int h, s;
	void *old;

	check_ready(&xa->xa_lock.lock, "xa_store");
	if (!entry)
		return xa_erase(xa, index);
	if (IS_ERR(entry))
		sim_fail("xa_store of an error pointer");
	if (!xa->root) {
		xa->root = xa_new_node(gfp);
		if (!xa->root)
			return ERR_PTR(-ENOMEM);
		/* High enough at once: an empty node must never be left below another. */
		for (xa->height = 1; !xa_covers(xa, index); xa->height++)
			;
	}
	while (!xa_covers(xa, index)) {
		n = xa_new_node(gfp);
		if (!n)
			return ERR_PTR(-ENOMEM);
		n->slot[0] = xa->root;
		n->used = 1;
		xa->root = n;
		xa->height++;
	}
	n = xa->root;
	for (h = xa->height; h > 1; h--) {
		s = (index >> ((h - 1) * XA_SHIFT)) % XA_SLOTS;
		c = n->slot[s];
		if (!c) {
			c = xa_new_node(gfp);
			if (!c)
				return ERR_PTR(-ENOMEM);
			n->slot[s] = c;
			n->used++;
		}
		n = c;
	}
	old = n->slot[index % XA_SLOTS];
	n->slot[index % XA_SLOTS] = entry;
	if (!old)
		n->used++;
	return old;
}

void *xa_erase(struct xarray *xa, unsigned long index)
{
	struct xa_node *path[16], *n = xa->root;
	unsigned int h, depth = 0;
	void *old;

	check_ready(&xa->xa_lock.lock, "xa_erase");
	if (!xa_covers(xa, index))
		return NULL;
	for (h = xa->height; h > 1 && n; h--) {
		path[depth++] = n;
		n = n->slot[(index >> ((h - 1) * XA_SHIFT)) % XA_SLOTS];
	}
	if (!n)
		return NULL;
	old = n->slot[index % XA_SLOTS];
	if (!old)
		return NULL;
	n->slot[index % XA_SLOTS] = NULL;
	n->used--;
	for (h = 1; !n->used; h++) {
		sim_free(n);
		if (!depth) {
			xa->root = NULL;
			xa->height = 0;
			break;
		}
		n = path[--depth];
		n->slot[(index >> (h * XA_SHIFT)) % XA_SLOTS] = NULL;
		n->used--;
	}
	return old;
}

int xa_insert(struct xarray *xa, unsigned long index, void *entry, gfp_t gfp)
{
	if (xa_load(xa, index))
		return -EBUSY;
	return xa_err(xa_store(xa, index, entry, gfp));
}

void *xa_cmpxchg(struct xarray *xa, unsigned long index, void *old, void *entry, gfp_t gfp)
{
	void *now = xa_load(xa, index), *r;

	if (now != old)
		return now;
	r = xa_store(xa, index, entry, gfp);
	return xa_is_err(r) ? r : old;
}

static void *find_from(struct xa_node *n, unsigned int h, unsigned long base,
		       unsigned long *index, unsigned long max)
{
	unsigned int shift = (h - 1) * XA_SHIFT, s;
	unsigned long here;
	void *e;

	s = *index > base ? ((*index - base) >> shift) : 0;
	for (; s < XA_SLOTS; s++) {
		here = base + ((unsigned long)s << shift);
		if (here > max)
			return NULL;
		if (!n->slot[s])
			continue;
		if (h == 1) {
			*index = here;
			return n->slot[s];
		}
		e = find_from(n->slot[s], h - 1, here, index, max);
		if (e)
			return e;
	}
	return NULL;
}

void *xa_find(struct xarray *xa, unsigned long *index, unsigned long max, unsigned int filter)
{
	(void)filter;
	check_ready(&xa->xa_lock.lock, "xa_find");
	if (!xa_covers(xa, *index) || *index > max)
		return NULL;
	return find_from(xa->root, xa->height, 0, index, max);
}

void *xa_find_after(struct xarray *xa, unsigned long *index, unsigned long max, unsigned int filter)
{
	if (*index == ~0UL)
		return NULL;
	(*index)++;
	return xa_find(xa, index, max, filter);
}

static void free_nodes(struct xa_node *n, unsigned int h)
{
	unsigned int s;

	if (h > 1)
		for (s = 0; s < XA_SLOTS; s++)
			if (n->slot[s])
				free_nodes(n->slot[s], h - 1);
	sim_free(n);
}

void xa_destroy(struct xarray *xa)
{
	check_ready(&xa->xa_lock.lock, "xa_destroy");
	if (xa->root)
		free_nodes(xa->root, xa->height);
	xa->root = NULL;
	xa->height = 0;
}

/* ---- shrinkers ---- */

static struct shrinker *the_shrinker;

struct shrinker *shrinker_alloc(unsigned int flags, const char *fmt, ...)
{
	(void)flags;
	(void)fmt;
	return calloc(1, sizeof(struct shrinker));
}

void shrinker_register(struct shrinker *s)
{
	the_shrinker = s;
}

void shrinker_free(struct shrinker *s)
{
	the_shrinker = NULL;
	free(s);
}

unsigned long sim_shrink(unsigned long nr)
{
	struct shrink_control sc = { .gfp_mask = GFP_KERNEL, .nr_to_scan = nr };
	unsigned long freed;

	if (!the_shrinker || the_shrinker->count_objects(the_shrinker, &sc) == SHRINK_EMPTY)
		return 0;
	freed = the_shrinker->scan_objects(the_shrinker, &sc);
	return freed == SHRINK_STOP ? 0 : freed;
}
