/* SPDX-License-Identifier: GPL-2.0-only */
#ifndef SIM_LINUX_BLKDEV_H
#define SIM_LINUX_BLKDEV_H
#include <linux/blk_types.h>
#include <linux/kernel.h>
#include <linux/list.h>
sector_t bdev_nr_sectors(struct block_device *bdev);
bool bdev_read_only(struct block_device *bdev);
static inline u64 bdev_nr_bytes(struct block_device *bdev) { return bdev_nr_sectors(bdev) << 9; }
#endif
