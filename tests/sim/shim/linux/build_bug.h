/* SPDX-License-Identifier: GPL-2.0-only */
#ifndef SIM_LINUX_BUILD_BUG_H
#define SIM_LINUX_BUILD_BUG_H
#undef static_assert
#define __sim_static_assert(expr, msg, ...) _Static_assert(expr, msg)
#define static_assert(expr, ...) __sim_static_assert(expr, ##__VA_ARGS__, #expr)
#define BUILD_BUG_ON(c) _Static_assert(!(c), "BUILD_BUG_ON: " #c)
#define BUILD_BUG_ON_NOT_POWER_OF_2(n) BUILD_BUG_ON((n) == 0 || (((n) & ((n) - 1)) != 0))
#endif
