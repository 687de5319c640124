/* SPDX-License-Identifier: GPL-2.0-only */
/* Forced in front of every source, as the kernel build does with its own. */
#ifndef SIM_PRELUDE_H
#define SIM_PRELUDE_H

#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#define __KERNEL_SHIM__ 1
#define KBUILD_MODNAME "dm_thin_pool"
/* What Kbuild finds in the headers of the newest kernels. */
#define COMPAT_HAS_SHRINKER_ALLOC

#define __user
#define __iomem
#define __rcu
#define __percpu
#define __force
#define __bitwise
#define __nocast
#define __init
#define __exit
#define __initdata
#define __read_mostly
#define __ro_after_init
#define __acquires(x)
#define __releases(x)
#define __must_hold(x)
#define __acquire(x) ((void)0)
#define __release(x) ((void)0)
#define __counted_by(x)
#define __cold __attribute__((cold))
#define __packed __attribute__((packed))
#define __aligned(x) __attribute__((aligned(x)))
#define __printf(a, b) __attribute__((format(printf, a, b)))
#define __must_check __attribute__((warn_unused_result))
#define __maybe_unused __attribute__((unused))
#define __always_unused __attribute__((unused))
#undef __always_inline
#define __always_inline inline __attribute__((always_inline))
#define noinline __attribute__((noinline))
#define __pure __attribute__((pure))
#define fallthrough __attribute__((fallthrough))
#define likely(x) __builtin_expect(!!(x), 1)
#define unlikely(x) __builtin_expect(!!(x), 0)
#define barrier() __asm__ __volatile__("" ::: "memory")
#define __same_type(a, b) __builtin_types_compatible_p(typeof(a), typeof(b))

#endif
