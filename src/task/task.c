/* SPDX-License-Identifier: Apache-2.0 */

/*
 * A task's memory is its stack: struct ew_task sits at the top, the frames grow down from it. A task that
 * has ended is kept for the next spawn, stack and all, so that spawning touches warm memory; the
 * worker gives back what is too much.
 */

#include "task/task.h"

#include "task/run_queue.h"

#include <endwell/clock.h>
#include <string.h>

void ew__task_main(struct ew_task *task);

static char *frames_top(struct ew_task *task)
{
	return (char *)task;
}

static struct ew_task *task_on_new_stack(void)
{
	struct ew__stack stack;
	struct ew_task *task;

	if (ew__stack_get(&stack) < 0)
		return NULL;
	task = ew__task_on_stack(stack.top);
	task->stack = stack;
	task->drops = 0;
	return task;
}

struct ew_task *ew__task_new(struct ew_worker *worker, ew_task_fn *fn, void *argument,
			     const struct ew_site *site)
{
	struct ew_worker *here = ew__worker;
	struct ew_task *task = here->kept;

	if (task) {
		here->kept = task->next;
		here->kept_count--;
		ew__context_deinit(&task->context, task->stack.bottom, frames_top(task));
	} else {
		task = task_on_new_stack();
		if (!task)
			return NULL;
	}
	ew__context_init(&task->context, task->stack.bottom, frames_top(task), task);
	task->head.newest = NULL;
	task->head.node = &task->base;
	task->head.refuse = 0;
	task->head.refusals = 0;
	task->head.no_drop = 0;
	task->head.endings = 0;
	task->head.leaving = 0;
	task->wait = NULL;
	task->worker = worker;
	task->fn = fn;
	task->argument = argument;
	task->site = site;
	task->base.kind = EW__NODE_TASK;
	task->base.parent = NULL;
	atomic_store_explicit(&task->base.reason, 0, memory_order_relaxed);
	atomic_store_explicit(&task->base.forced, false, memory_order_relaxed);
	atomic_store_explicit(&task->cancel_posted, false, memory_order_relaxed);
	task->result = 0;
	task->ending_error = 0;
	task->waiting_since_ns = here->now_ns;
	task->outcome = EW_OUTCOME_NONE;
	task->droppable = false;
	task->remote = false;
	task->take_fn = NULL;
	task->taken = NULL;
	return task;
}

void ew__task_free(struct ew_task *task)
{
	struct ew__stack stack = task->stack;

	ew__context_deinit(&task->context, stack.bottom, frames_top(task));
	ew__stack_put(&stack);
}

/* Inline, because a call that does not return puts the processor's return predictor out of step. */
__attribute__((always_inline)) static inline void leave_for_good(struct ew_task *task)
{
	task->ended(task);
	ew__context_switch(&task->context, ew__next_context(task->worker), 1);
}

void ew__task_main(struct ew_task *task)
{
	ew__context_entered();
	if (ew__unlikely(task->take_fn != NULL))
		task->result = task->take_fn(task->argument, &task->taken);
	else
		task->result = task->fn(task->argument);
	leave_for_good(task);
}

_Noreturn void ew__task_exit(void)
{
	leave_for_good(ew__task());
	__builtin_unreachable();
}
