/* SPDX-License-Identifier: GPL-2.0-only */
#ifndef SIM_LINUX_SCHED_H
#define SIM_LINUX_SCHED_H
#include <linux/kernel.h>
#include "../simcore.h"
#define cond_resched() ({ might_sleep(); sim_may_pass(); if (sim_pause) sim_pause(); 0; })
#define need_resched() false
#define schedule() might_sleep()
#endif
