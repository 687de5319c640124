/* SPDX-License-Identifier: GPL-2.0-only */
#ifndef SIM_LINUX_STDDEF_H
#define SIM_LINUX_STDDEF_H
#include <stddef.h>
#define sizeof_field(TYPE, MEMBER) sizeof(((TYPE *)0)->MEMBER)
#define offsetofend(TYPE, MEMBER) (offsetof(TYPE, MEMBER) + sizeof_field(TYPE, MEMBER))
#define struct_group(NAME, ...) union { struct { __VA_ARGS__ }; struct { __VA_ARGS__ } NAME; }
#define __struct_group(TAG, NAME, ATTRS, ...) \
	union { struct { __VA_ARGS__ } ATTRS; struct TAG { __VA_ARGS__ } ATTRS NAME; } ATTRS
#define __DECLARE_FLEX_ARRAY(T, name) struct { struct { } __empty_ ## name; T name[]; }
#define DECLARE_FLEX_ARRAY(T, name) __DECLARE_FLEX_ARRAY(T, name)
#endif
