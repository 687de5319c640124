/* SPDX-License-Identifier: GPL-2.0-only */
#ifndef SIM_SWEEP_H
#define SIM_SWEEP_H

#include <linux/types.h>

extern char sweep_now[160], sweep_replay[80];

void sweep(u64 seed);
void sweep_one(u64 seed, int step, int fault, long n);
void sweep_print(void);
void sweep_disarm(void);

#endif
