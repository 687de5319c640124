/* SPDX-License-Identifier: GPL-2.0-only */
#ifndef SIM_LINUX_LIST_H
#define SIM_LINUX_LIST_H
#include <linux/container_of.h>
#include <linux/types.h>

/* A deleted entry points here: touching it again faults. */
#define SIM_LIST_POISON ((struct list_head *)0x100)

#define LIST_HEAD_INIT(name) { &(name), &(name) }
#define LIST_HEAD(name) struct list_head name = LIST_HEAD_INIT(name)
static inline void INIT_LIST_HEAD(struct list_head *l) { l->next = l->prev = l; }
static inline void __list_add(struct list_head *n, struct list_head *prev, struct list_head *next)
{
	next->prev = n;
	n->next = next;
	n->prev = prev;
	prev->next = n;
}
static inline void list_add(struct list_head *n, struct list_head *h) { __list_add(n, h, h->next); }
static inline void list_add_tail(struct list_head *n, struct list_head *h) { __list_add(n, h->prev, h); }
static inline void __list_del_entry(struct list_head *e)
{
	e->next->prev = e->prev;
	e->prev->next = e->next;
}
static inline void list_del(struct list_head *e)
{
	__list_del_entry(e);
	e->next = e->prev = SIM_LIST_POISON;
}
static inline void list_del_init(struct list_head *e) { __list_del_entry(e); INIT_LIST_HEAD(e); }
static inline void list_move(struct list_head *e, struct list_head *h) { __list_del_entry(e); list_add(e, h); }
static inline void list_move_tail(struct list_head *e, struct list_head *h) { __list_del_entry(e); list_add_tail(e, h); }
static inline int list_empty(const struct list_head *h) { return h->next == h; }
static inline int list_is_singular(const struct list_head *h) { return !list_empty(h) && h->next == h->prev; }
static inline int list_is_last(const struct list_head *e, const struct list_head *h) { return e->next == h; }
static inline void list_splice_tail(struct list_head *l, struct list_head *h)
{
	if (!list_empty(l)) {
		l->next->prev = h->prev;
		h->prev->next = l->next;
		l->prev->next = h;
		h->prev = l->prev;
	}
}
static inline void list_splice_tail_init(struct list_head *l, struct list_head *h)
{
	list_splice_tail(l, h);
	INIT_LIST_HEAD(l);
}
static inline void list_splice(struct list_head *l, struct list_head *h)
{
	if (!list_empty(l)) {
		l->prev->next = h->next;
		h->next->prev = l->prev;
		h->next = l->next;
		l->next->prev = h;
	}
}
static inline void list_splice_init(struct list_head *l, struct list_head *h)
{
	list_splice(l, h);
	INIT_LIST_HEAD(l);
}
static inline void list_replace_init(struct list_head *o, struct list_head *n)
{
	INIT_LIST_HEAD(n);
	list_splice_init(o, n);
}
#define list_entry(p, t, m) container_of(p, t, m)
#define list_first_entry(h, t, m) list_entry((h)->next, t, m)
#define list_last_entry(h, t, m) list_entry((h)->prev, t, m)
#define list_first_entry_or_null(h, t, m) (list_empty(h) ? NULL : list_first_entry(h, t, m))
#define list_next_entry(p, m) list_entry((p)->m.next, typeof(*(p)), m)
#define list_prev_entry(p, m) list_entry((p)->m.prev, typeof(*(p)), m)
#define list_entry_is_head(p, h, m) (&(p)->m == (h))
#define list_for_each(p, h) for (p = (h)->next; p != (h); p = p->next)
#define list_for_each_safe(p, n, h) for (p = (h)->next, n = p->next; p != (h); p = n, n = p->next)
#define list_for_each_entry(p, h, m)					\
	for (p = list_first_entry(h, typeof(*p), m); !list_entry_is_head(p, h, m); p = list_next_entry(p, m))
#define list_for_each_entry_reverse(p, h, m)				\
	for (p = list_last_entry(h, typeof(*p), m); !list_entry_is_head(p, h, m); p = list_prev_entry(p, m))
#define list_for_each_entry_safe(p, n, h, m)				\
	for (p = list_first_entry(h, typeof(*p), m), n = list_next_entry(p, m); \
	     !list_entry_is_head(p, h, m); p = n, n = list_next_entry(n, m))

#define HLIST_HEAD_INIT { .first = NULL }
#define INIT_HLIST_HEAD(p) ((p)->first = NULL)
static inline void INIT_HLIST_NODE(struct hlist_node *h) { h->next = NULL; h->pprev = NULL; }
static inline int hlist_unhashed(const struct hlist_node *h) { return !h->pprev; }
static inline int hlist_empty(const struct hlist_head *h) { return !h->first; }
static inline void hlist_del(struct hlist_node *n)
{
	*n->pprev = n->next;
	if (n->next)
		n->next->pprev = n->pprev;
	n->next = (void *)0x100;
	n->pprev = (void *)0x122;
}
static inline void hlist_del_init(struct hlist_node *n)
{
	if (!hlist_unhashed(n)) {
		hlist_del(n);
		INIT_HLIST_NODE(n);
	}
}
static inline void hlist_add_head(struct hlist_node *n, struct hlist_head *h)
{
	n->next = h->first;
	if (h->first)
		h->first->pprev = &n->next;
	h->first = n;
	n->pprev = &h->first;
}
#define hlist_entry(p, t, m) container_of(p, t, m)
#define hlist_entry_safe(p, t, m) ({ typeof(p) __p = (p); __p ? hlist_entry(__p, t, m) : NULL; })
#define hlist_for_each_entry(p, h, m)					\
	for (p = hlist_entry_safe((h)->first, typeof(*(p)), m); p; p = hlist_entry_safe((p)->m.next, typeof(*(p)), m))
#define hlist_for_each_entry_safe(p, n, h, m)				\
	for (p = hlist_entry_safe((h)->first, typeof(*p), m);		\
	     p && ({ n = p->m.next; 1; }); p = hlist_entry_safe(n, typeof(*p), m))
static inline void list_rotate_left(struct list_head *head)
{
	if (!list_empty(head))
		list_move_tail(head->next, head);
}
#endif
