/* SPDX-License-Identifier: GPL-2.0-only */
#ifndef SIM_LINUX_BLK_TYPES_H
#define SIM_LINUX_BLK_TYPES_H
#include <linux/types.h>
#define SECTOR_SHIFT 9
#define SECTOR_SIZE 512
struct block_device;
#endif
