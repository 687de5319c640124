/* SPDX-License-Identifier: GPL-2.0-only */
/* What has not happened yet the other thread must bring about. */
#ifndef SIM_LINUX_COMPLETION_H
#define SIM_LINUX_COMPLETION_H

#include "../simcore.h"

struct completion {
	bool done;
};

static inline void reinit_completion(struct completion *c)
{
	c->done = false;
}

static inline void init_completion(struct completion *c)
{
	c->done = false;
}

static inline void complete_all(struct completion *c)
{
	c->done = true;
}

static inline void wait_for_completion(struct completion *c)
{
	while (!c->done)
		sim_wait(__func__);
	sim_waited();
}

#endif
