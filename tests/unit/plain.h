/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * With EW_TEST_PLAIN in the environment what a test would run as a main task runs on a plain thread, beside an idle
 * runtime that takes the reports. A test that spawns, wants virtual time or asks for more than one worker is skipped.
 */

#include "ew_test.h"

#include <endwell/endwell.h>
#include <pthread.h>
#include <sched.h>

static inline bool plain_asked_for(void)
{
	return getenv("EW_TEST_PLAIN") != NULL;
}

struct plain_body {
	const struct ew_run_options *options;
	ew_task_fn *fn;
	void *argument;
	int result;
	struct ew_event running, ended;
};

static inline int plain_idle(void *argument)
{
	struct plain_body *body = argument;

	ew_event_set(&body->running);
	return ew_event_wait(&body->ended, EW_NEVER);
}

static inline void *plain_idle_run(void *argument)
{
	struct plain_body *body = argument;
	struct ew_run_options options = { .workers_count = 1, .report = body->options->report };

	EXPECT_EQ((ew_run)(&options, plain_idle, body), 0);
	return NULL;
}

static inline void *plain_run(void *argument)
{
	struct plain_body *body = argument;

	EXPECT_EQ(ew_sleep(1), 0); /* from here on its descriptors are there */
	body->result = body->fn(body->argument);
	return NULL;
}

static inline int plain_or_run(const struct ew_run_options *options, ew_task_fn *fn, void *argument)
{
	struct plain_body body = { options, fn, argument, 0, { 0 }, { 0 } };
	pthread_t idle, thread;

	if (!plain_asked_for())
		return (ew_run)(options, fn, argument);
	if (!options || options->virtual_time || options->workers_count != 1)
		SKIP("on a plain thread: needs virtual time, or more than one worker");
	if (options->signals)
		pthread_sigmask(SIG_BLOCK, options->signals,
				NULL); /* in all threads, as a run does */
	EXPECT_EQ(pthread_create(&idle, NULL, plain_idle_run, &body), 0);
	while (!ew_event_is_set(&body.running))
		sched_yield();
	EXPECT_EQ(pthread_create(&thread, NULL, plain_run, &body), 0);
	EXPECT_EQ(pthread_join(thread, NULL), 0);
	ew_event_set(&body.ended);
	EXPECT_EQ(pthread_join(idle, NULL), 0);
	return body.result;
}

/* In front of a spawn: not on a plain thread. */
static inline void plain_has_no_children(void)
{
	if (plain_asked_for() && ew_workers_count() == 0)
		SKIP("on a plain thread: spawns");
}

#define ew_run(options, fn, argument) plain_or_run(options, fn, argument)
#undef ew_spawn
#define ew_spawn(scope, fn, argument, ...)                                                         \
	(plain_has_no_children(),                                                                  \
	 ew__spawn(scope, fn, argument, (struct ew_spawn_options){ __VA_ARGS__ }, EW_SITE(#fn)))
#undef ew_spawn_take
#define ew_spawn_take(scope, fn, argument, place, ...)                                             \
	(plain_has_no_children(),                                                                  \
	 ew__spawn_take(scope, fn, argument, place, (struct ew_spawn_options){ __VA_ARGS__ },      \
			EW_SITE(#fn)))
