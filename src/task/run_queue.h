/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * The run queue: a task becomes ready, waits, lets others go first, or leaves
 * Inline, since each is a few instructions, and a call around a context switch would save all registers twice.
 */

#include "seeded/bug.h"
#include "task/worker.h"

static inline void ew__line_up(struct ew_task *task, struct ew_task **first, struct ew_task **last)
{
	task->next = NULL;
	if (*first)
		(*last)->next = task;
	else
		*first = task;
	*last = task;
}

/* Set by src/sweep/: true keeps a leaving task that is ready for now, until it is given back. */
extern bool (*ew__sweep_keep)(struct ew_task *task);

static inline void ew__task_leaving_ready(struct ew_task *task)
{
	if (ew__unlikely(ew__sweep_keep) && ew__sweep_keep(task))
		return;
	ew__line_up(task, &task->worker->leaving, &task->worker->leaving_last);
}

/* Ready to run, at the end of the queue. On its own worker; it is not in the queue. */
static inline void ew__task_ready(struct ew_task *task)
{
	struct ew_worker *worker = task->worker;

	if (ew__unlikely(task->head.leaving) && !ew__bug("cancelled-tasks-run-first"))
		ew__task_leaving_ready(task);
	else
		ew__line_up(task, &worker->ready, &worker->ready_last);
}

/* Takes the next context to run: a ready task, or the scheduler. */
static inline struct ew__context *ew__next_context(struct ew_worker *worker)
{
	struct ew_task *next = worker->ready;

	if (ew__unlikely(!next || ew__switches_left(worker) == 0)) {
		ew__current = NULL;
		return &worker->scheduler;
	}
	ew__switch_counted(worker);
	worker->ready = next->next;
	ew__current = &next->head;
	return &next->context;
}

/*
 * Suspend until ew__wait_end(). @what names the wait in reports. Checks nothing: see ew__enter().
 * Returns wait->result.
 */
static inline int ew__suspend(struct ew__wait *wait, const char *what)
{
	struct ew_task *task = ew__task();
	struct ew_worker *worker = task->worker;

	wait->task = task;
	wait->asked = false;
	wait->done = false;
	task->wait = wait;
	task->waiting_for = what;
	task->waiting_since_ns = worker->now_ns;
	ew__context_switch(&task->context, ew__next_context(worker), 0);
	return wait->result;
}

/* Notes the end of the wait, and returns its task, to be made ready. */
static inline struct ew_task *ew__wait_over(struct ew__wait *wait, int result)
{
	ew_assert(!wait->done);
	wait->done = true;
	wait->result = result;
	wait->task->wait = NULL;
	return wait->task;
}

/* The wait is over, with @result: its task becomes ready. On the task's worker; once per wait. */
static inline void ew__wait_end(struct ew__wait *wait, int result)
{
	ew__task_ready(ew__wait_over(wait, result));
}

/* The same, but the task runs with those that are cancelled, behind the others. */
static inline void ew__wait_end_behind(struct ew__wait *wait, int result)
{
	struct ew_task *task = ew__wait_over(wait, result);

	ew__line_up(task, &task->worker->leaving, &task->worker->leaving_last);
}

/* Let every other ready task, and the driver, have a turn. Checks nothing. */
static inline void ew__yield(void)
{
	struct ew_task *task = ew__task(), *next, *rest;
	struct ew_worker *worker = task->worker;

	next = worker->ready;
	if (ew__unlikely(!next || ew__switches_left(worker) == 0 || task->head.leaving)) {
		ew__task_ready(task);
		ew__current = NULL;
		ew__context_switch(&task->context, &worker->scheduler, 0);
		return;
	}
	ew__switch_counted(worker);
	rest = next->next;
	task->next = NULL;
	if (rest) {
		worker->ready = rest;
		worker->ready_last->next = task;
	} else {
		worker->ready = task;
	}
	worker->ready_last = task;
	ew__current = &next->head;
	ew__context_switch(&task->context, &next->context, 0);
}

/* The same for a cancelled task that only has to part from its peer: the other cancelled ones go first, nearly all. */
static inline void ew__yield_to_leaving(void)
{
	struct ew_task *task = ew__task();
	struct ew_worker *worker = task->worker;

	ew__line_up(task, &worker->parting, &worker->parting_last);
	ew__current = NULL;
	ew__context_switch(&task->context, &worker->scheduler, 0);
}

/* The running task's life is over: others go on. Returns into the next life on this stack. */
static inline void ew__task_leave(struct ew_task *task)
{
	ew__context_switch(&task->context, ew__next_context(task->worker), 1);
}
