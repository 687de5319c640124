/* SPDX-License-Identifier: GPL-2.0-only */
#ifndef SIM_LINUX_MINMAX_H
#define SIM_LINUX_MINMAX_H
/* As in the kernel, mixing types is an error that the compiler reports. */
#define __sim_pick(op, x, y) ({						\
	typeof(x) __sx = (x);						\
	typeof(y) __sy = (y);						\
	__sx op __sy ? __sx : __sy; })
#define min(x, y) __sim_pick(<, x, y)
#define max(x, y) __sim_pick(>, x, y)
#define min_t(t, x, y) __sim_pick(<, (t)(x), (t)(y))
#define max_t(t, x, y) __sim_pick(>, (t)(x), (t)(y))
#define min3(x, y, z) min((typeof(x))min(x, y), z)
#define max3(x, y, z) max((typeof(x))max(x, y), z)
#define min_not_zero(x, y) ({ typeof(x) __mx = (x); typeof(y) __my = (y); \
	__mx == 0 ? __my : (__my == 0 ? __mx : min(__mx, __my)); })
#define clamp(v, lo, hi) min((typeof(v))max(v, lo), hi)
#define clamp_t(t, v, lo, hi) min_t(t, max_t(t, v, lo), hi)
#define swap(a, b) do { typeof(a) __tmp = (a); (a) = (b); (b) = __tmp; } while (0)
#endif
