/* SPDX-License-Identifier: GPL-2.0-only */
#ifndef SIM_LINUX_PRINTK_H
#define SIM_LINUX_PRINTK_H
/* No format attribute: the kernel's own build checks them, and %pg is not ours. */
int sim_printk(int level, const char *fmt, ...);
#ifndef pr_fmt
#define pr_fmt(fmt) fmt
#endif
#define pr_err(...) sim_printk(3, __VA_ARGS__)
#define pr_warn(...) sim_printk(4, __VA_ARGS__)
#define pr_notice(...) sim_printk(5, __VA_ARGS__)
#define pr_info(...) sim_printk(6, __VA_ARGS__)
#define pr_debug(...) do { if (0) sim_printk(7, __VA_ARGS__); } while (0)
#define pr_err_ratelimited pr_err
#define pr_warn_ratelimited pr_warn
#define pr_crit pr_err
#define printk(...) sim_printk(6, __VA_ARGS__)
#define KERN_ERR ""
#define KERN_WARNING ""
#define KERN_INFO ""
struct va_format {
	const char *fmt;
	__builtin_va_list *va;
};
#endif
