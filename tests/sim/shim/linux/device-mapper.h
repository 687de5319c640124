/* SPDX-License-Identifier: GPL-2.0-only */
#ifndef SIM_LINUX_DEVICE_MAPPER_H
#define SIM_LINUX_DEVICE_MAPPER_H
#include <linux/blkdev.h>
#include <linux/err.h>
#include <linux/kernel.h>
#include <linux/printk.h>
#define DM_NAME "device-mapper"
#define DMERR(fmt, ...) sim_printk(3, "%s: " fmt, DM_MSG_PREFIX, ##__VA_ARGS__)
#define DMCRIT DMERR
#define DMERR_LIMIT DMERR
#define DMWARN(fmt, ...) sim_printk(4, "%s: " fmt, DM_MSG_PREFIX, ##__VA_ARGS__)
#define DMWARN_LIMIT DMWARN
#define DMINFO(fmt, ...) sim_printk(6, "%s: " fmt, DM_MSG_PREFIX, ##__VA_ARGS__)
#define DMINFO_LIMIT DMINFO
#define DMDEBUG(fmt, ...) do { } while (0)
#define DMDEBUG_LIMIT DMDEBUG
#define DMEMIT(...) ((void)0)
#define dm_sector_div64(x, y) ({ u64 __r = (x) % (y); (x) /= (y); __r; })
#endif
