/* SPDX-License-Identifier: GPL-2.0-only */
/* One thread: what is waited for must have happened. */
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
	if (!c->done)
		sim_fail("waiting for a completion that nobody is going to bring about");
}

#endif
