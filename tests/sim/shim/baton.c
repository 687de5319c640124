// SPDX-License-Identifier: GPL-2.0-only
/*
 * Two threads of which one runs: whoever has the baton.
 *
 * It is handed over only where a thread cannot go on, or says that others may,
 * so a history with two threads is as much its seed's as one with a single one.
 */
#include <pthread.h>
#include <stdlib.h>
#include "simcore.h"

/* So often in a row nobody can go on: then nobody ever will. */
#define MAX_IDLE 8

__thread int sim_me;
unsigned int sim_pass_percent;
struct rng sim_pass_rng;

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t handed_over = PTHREAD_COND_INITIALIZER;
static int turn;
static bool started;
static unsigned int idle;
static void (*job)(void *arg);
static void *job_arg;

static void wait_for_turn(void)
{
	while (turn != sim_me)
		pthread_cond_wait(&handed_over, &lock);
}

static void *second(void *arg)
{
	(void)arg;
	sim_me = 1;
	pthread_mutex_lock(&lock);
	for (;;) {
		wait_for_turn();
		pthread_mutex_unlock(&lock);
		job(job_arg);
		pthread_mutex_lock(&lock);
		job = NULL;
		idle = 0;
		turn = 0;
		pthread_cond_signal(&handed_over);
	}
	return NULL;
}

static void pass(void)
{
	pthread_mutex_lock(&lock);
	turn = !sim_me;
	pthread_cond_signal(&handed_over);
	wait_for_turn();
	pthread_mutex_unlock(&lock);
}

/* A process that is forked off has this thread only, and nobody who waits. */
static void alone(void)
{
	started = false;
	lock = (pthread_mutex_t)PTHREAD_MUTEX_INITIALIZER;
	handed_over = (pthread_cond_t)PTHREAD_COND_INITIALIZER;
}

void sim_fork(void (*fn)(void *arg), void *arg)
{
	pthread_t thread;

	if (job || sim_me)
		sim_fail("harness: there are two threads already");
	job = fn;
	job_arg = arg;
	if (!started && (pthread_atfork(NULL, NULL, alone) || pthread_create(&thread, NULL, second, NULL)))
		sim_fail("the machine has no thread left");
	started = true;
	idle = 0;
	pass();
}

void sim_pass(void)
{
	if (!job)
		return;
	idle = 0;
	pass();
}

void sim_may_pass(void)
{
	/* Not with the locks of a freeze: an outcome that is drawn behind the other's back is enough. */
	if (job && sim_pass_percent && sim_locks_held <= 1 && rng_chance(&sim_pass_rng, sim_pass_percent))
		sim_pass();
}

void sim_wait(const char *what)
{
	if (!job || ++idle > MAX_IDLE)
		sim_fail("%s: a deadlock, nobody is going to end this wait", what);
	pass();
}

void sim_waited(void)
{
	idle = 0;
}
