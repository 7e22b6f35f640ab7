/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * Task, inside: its stack, its place in the run queue, what it waits for
 * Knows nothing of cancels: the rooms above set head.refuse, and wait->cancel.
 */

#include "task/stack.h"
#include "task/switch.h"

#include <endwell/outcome.h>
#include <endwell/task.h>

struct ew_foreign_lock;
struct ew_worker;

/*
 * Lives at the top of its own stack, so that a parked task is one page. What a spawn, a switch and an end
 * touch comes first.
 */
struct ew_task {
	struct ew__head head;
	struct ew__context context;
	struct ew_task *next;  /* in the run queue, or among the kept */
	struct ew__wait *wait; /* NULL: it runs, or is ready to */
	struct ew_worker *worker;
	ew_task_fn *fn;
	void *argument;
	const struct ew_site *site;
	struct ew_scope *scope; /* NULL: kept, between two lives */
	struct ew_child *child;
	struct ew_task *sibling_next;
	struct ew_task **sibling_link;
	struct ew_node base;
	struct ew_task *affected_next; /* while a cancel spreads */
	int32_t result;
	int32_t ending_error;
	uint8_t outcome;
	bool droppable;
	bool remote;  /* its scope belongs to another worker */
	bool dropped; /* left where it stood: its context is made anew before another life */
	int64_t waiting_since_ns;
	const char *waiting_for;
	int32_t waiting_fd; /* the descriptor that it waits for something on; -1: none, or it is not known */

	/* Rarely used. */
	uint32_t drops; /* times it was ended where it stood; the stack's next task counts on */
	ew_task_take_fn *take_fn;
	void *taken;
	struct ew_place taken_place;
	struct ew_foreign_lock *foreign_locks; /* that it holds, the newest first */
	struct ew__message life_message;       /* spawned there, ended here, may be freed there */
	struct ew__message cancel_message;
	_Atomic bool cancel_posted;
	struct ew_task *worker_next,
		**worker_link; /* all tasks of the worker, and those it keeps */
	struct ew__stack stack;
};

/*
 * Where the task of a stack lives: below the top by one of eight distances. Stacks lie a power of two apart, and without
 * that the same frames of all tasks would share a few cache sets, and each load from one stack wait for the last
 * store to another (the processor compares the low 12 bits of the addresses first).
 */
static inline struct ew_task *ew__task_on_stack(char *top)
{
	uintptr_t shift = (uintptr_t)top / EW__STACK_BYTES % 8 * 128;

	return (struct ew_task *)(((uintptr_t)top - shift - sizeof(struct ew_task)) &
				  ~(uintptr_t)63);
}

/* NULL outside a task. */
static inline struct ew_task *ew__task(void)
{
	return (struct ew_task *)ew__current;
}

/* Into its worker's list of tasks, and out of it. */
void ew__task_adopt(struct ew_task *task);
void ew__task_disown(struct ew_task *task);

/* The task, which has no life, goes to @main when it is switched to, and not on where it stood. */
void ew__task_renew(struct ew_task *task, void (*main)(void));

/* Makes one that goes to @main the newest of those that @worker keeps, or renews the newest there is. -ENOMEM. */
int ew__task_prepare(struct ew_worker *worker, void (*main)(void));

/* Its life has ended, and nobody refers to it; not the running one, and not among the kept. */
void ew__task_free(struct ew_task *task);

/* Some of those that @worker keeps beyond @rest. True: there are more. */
bool ew__tasks_free_kept(struct ew_worker *worker, unsigned rest);
