/* SPDX-License-Identifier: Apache-2.0 */

/*
 * A task's memory is its stack: struct ew_task sits at the top, the frames grow down from it. One that has
 * ended is kept for the next spawn as it stands, in its outermost frame, so that spawning touches warm memory and
 * has no context to make; the worker gives back what is too much. Those kept stay in the worker's list of tasks.
 */

#include "task/task.h"

#include "task/worker.h"

#include <errno.h>

static char *frames_top(struct ew_task *task)
{
	return (char *)task;
}

static void make_context(struct ew_task *task, void (*main)(void))
{
	ew__context_init(&task->context, task->stack.bottom, frames_top(task), main);
}

static void unmake_context(struct ew_task *task)
{
	ew__context_deinit(&task->context, task->stack.bottom, frames_top(task));
}

void ew__task_adopt(struct ew_task *task)
{
	struct ew_worker *worker = task->worker;

	task->worker_next = worker->tasks;
	if (task->worker_next)
		task->worker_next->worker_link = &task->worker_next;
	task->worker_link = &worker->tasks;
	worker->tasks = task;
	worker->tasks_count++;
}

void ew__task_disown(struct ew_task *task)
{
	*task->worker_link = task->worker_next;
	if (task->worker_next)
		task->worker_next->worker_link = task->worker_link;
	task->worker->tasks_count--;
}

static int keep_another(struct ew_worker *worker, void (*main)(void))
{
	struct ew__stack stack;
	struct ew_task *task;

	if (ew__stack_get(&stack) < 0)
		return -ENOMEM;
	task = ew__task_on_stack(stack.top);
	*task = (struct ew_task){
		.worker = worker, .base.kind = EW__NODE_TASK, .waiting_fd = -1, .stack = stack
	};
	make_context(task, main);
	ew__task_adopt(task);
	ew__task_keep(worker, task);
	return 0;
}

void ew__task_renew(struct ew_task *task, void (*main)(void))
{
	unmake_context(task);
	make_context(task, main);
	task->dropped = false;
}

int ew__task_prepare(struct ew_worker *worker, void (*main)(void))
{
	if (!worker->kept)
		return keep_another(worker, main);
	ew__task_renew(worker->kept, main);
	return 0;
}

static struct ew__stack unmake(struct ew_task *task)
{
	struct ew__stack stack = task->stack;

	ew__task_disown(task);
	unmake_context(task);
	return stack;
}

void ew__task_free(struct ew_task *task)
{
	struct ew__stack stack = unmake(task);

	ew__stack_put(&stack);
}

bool ew__tasks_free_kept(struct ew_worker *worker, unsigned rest)
{
	struct ew__stack stacks[EW__STACKS_AT_ONCE];
	unsigned count = 0;

	while (worker->kept_count > rest && count < EW__STACKS_AT_ONCE)
		stacks[count++] = unmake(ew__task_take(worker));
	ew__stacks_put(stacks, count);
	return worker->kept_count > rest;
}
