/* SPDX-License-Identifier: GPL-2.0-only */
#ifndef SIM_LINUX_CONTAINER_OF_H
#define SIM_LINUX_CONTAINER_OF_H
#include <stddef.h>
#define container_of(ptr, type, member) ({				\
	void *__mptr = (void *)(ptr);					\
	_Static_assert(__same_type(*(ptr), ((type *)0)->member) ||	\
		       __same_type(*(ptr), void), "pointer type mismatch in container_of()"); \
	((type *)((char *)__mptr - offsetof(type, member))); })
#define container_of_const(ptr, type, member) container_of(ptr, type, member)
#endif
