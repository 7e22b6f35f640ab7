/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * A wake-up that crosses a cancel: what a waiter on worker 2 is given by worker 1 is a message on its way there while
 * the waiter's scope is cancelled on its own worker. In this order always, since the one who cancels keeps worker 2
 * busy until it has been given.
 */

#include "core.h"

#include <sched.h>

struct crossing {
	ew_task_fn *wait; /* the waiter; what it returns is the result */
	void *argument;
	void (*give)(void *argument);
	_Atomic bool waiting;
	_Atomic bool given;
	int result;
};

static int crossing_wait(void *argument)
{
	struct crossing *crossing = argument;

	crossing->result = crossing->wait(crossing->argument);
	return 0;
}

static int crossing_cancel(void *argument)
{
	struct crossing *crossing = argument;
	EW_SCOPE(scope);

	EXPECT_EQ(ew_spawn(&scope, crossing_wait, crossing), 0);
	EXPECT_EQ(ew_yield(), 0);
	crossing->waiting = true;
	while (!crossing->given)
		sched_yield();
	ew_scope_cancel(&scope, EW_REASON_REQUESTED);
	EXPECT_EQ(ew_scope_join(&scope), 0);
	return ew_scope_finish(&scope, 0);
}

/* From a task on worker 1 of two; the waiter's result. */
static int cross(ew_task_fn *wait, void (*give)(void *argument), void *argument)
{
	struct crossing crossing = { .wait = wait, .argument = argument, .give = give };
	EW_SCOPE(scope);

	EXPECT_EQ(ew_spawn(&scope, crossing_cancel, &crossing, .worker = 2), 0);
	while (!crossing.waiting)
		EXPECT_EQ(ew_yield(), 0);
	give(argument);
	crossing.given = true;
	EXPECT_EQ(ew_scope_finish(&scope, ew_scope_join(&scope)), 0);
	return crossing.result;
}
