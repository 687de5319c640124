/* SPDX-License-Identifier: GPL-2.0-only */
#ifndef SIM_LINUX_MATH_H
#define SIM_LINUX_MATH_H
#define DIV_ROUND_UP(n, d) (((n) + (d) - 1) / (d))
#define DIV_ROUND_UP_ULL(n, d) DIV_ROUND_UP((unsigned long long)(n), (unsigned long long)(d))
#define __sim_round_mask(x, y) ((typeof(x))((y) - 1))
#define round_up(x, y) ((((x) - 1) | __sim_round_mask(x, y)) + 1)
#define round_down(x, y) ((x) & ~__sim_round_mask(x, y))
#define roundup(x, y) ((((x) + (y) - 1) / (y)) * (y))
#define rounddown(x, y) ((x) - ((x) % (y)))
#endif
