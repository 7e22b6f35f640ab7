/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Spawn, and what a task's end means to its scope. A child on another worker goes there by message; see
 * scope.c for the conversation. Its stack comes from the spawning worker and stays where the child ended,
 * unless that one keeps enough of them.
 */

#include "scope/scope.h"

#include <endwell/task.h>

static void adopt_task(struct ew_worker *worker, struct ew_task *task)
{
	task->worker_next = worker->tasks;
	if (task->worker_next)
		task->worker_next->worker_link = &task->worker_next;
	task->worker_link = &worker->tasks;
	worker->tasks = task;
	worker->tasks_count++;
	ew__task_ready(task);
}

static void forget_task(struct ew_worker *worker, struct ew_task *task)
{
	*task->worker_link = task->worker_next;
	if (task->worker_next)
		task->worker_next->worker_link = task->worker_link;
	worker->tasks_count--;
}

/* The stack may be the running one: it is used again only after the switch away from it. */
static void keep_task(struct ew_worker *worker, struct ew_task *task)
{
	task->next = worker->kept;
	worker->kept = task;
	worker->kept_count++;
}

/* On the scope's worker. */
static void child_gone(struct ew_scope *scope, struct ew_task *task)
{
	int result = task->result;

	*task->sibling_link = task->sibling_next;
	if (task->sibling_next)
		task->sibling_next->sibling_link = task->sibling_link;
	scope->children_count--;
	if (ew__unlikely(result < 0)) {
		if (result == -ECANCELED && ew_scope_is_cancelled(scope)) {
			scope->children_cut++;
		} else if (scope->policy == EW_POLICY_FIRST_ERROR && !scope->first_error) {
			scope->first_error = result;
			ew__scope_cancel_here(scope, EW_REASON_CHILD);
		}
	}
	if (scope->children_count == 0 && scope->joiner)
		ew__scope_wake_joiner(scope);
}

static struct ew_task *task_of_life(struct ew__message *message)
{
	return ew__container_of(message, struct ew_task, life_message);
}

static void deliver_free(struct ew__message *message)
{
	struct ew_task *task = task_of_life(message);

	forget_task(task->worker, task);
	/* Its stack is one that this worker did not have: kept without end they would be more than were ever in use. */
	if (task->worker->kept_count < EW__TASKS_KEPT)
		keep_task(task->worker, task);
	else
		ew__task_free(task);
}

static void deliver_ended(struct ew__message *message)
{
	struct ew_task *task = task_of_life(message);

	child_gone(task->scope, task);
	task->life_message.deliver = deliver_free;
	ew__post(task->worker, &task->life_message);
}

static void deliver_start(struct ew__message *message)
{
	struct ew_task *task = task_of_life(message);

	ew__cancel_update(task);
	adopt_task(task->worker, task);
}

/* On the task's own stack, its function done. */
static void task_ended(struct ew_task *task)
{
	struct ew_worker *worker = task->worker;

	if (ew__unlikely(task->head.newest != NULL))
		ew__registry_run(task);
	ew_assert(task->head.node == &task->base);
	if (task->remote) {
		/* A cancel on its way may come after the scope has gone: it must not look there. */
		task->base.parent = NULL;
		task->life_message.deliver = deliver_ended;
		ew__post(task->scope->worker, &task->life_message);
		return;
	}
	child_gone(task->scope, task);
	forget_task(worker, task);
	keep_task(worker, task);
}

/* A task that spawns into its innermost scope has the answer in its own byte. */
static inline bool is_cancelled(const struct ew_scope *scope)
{
	const struct ew__head *head = ew__current;

	if (ew__likely(head && head->node == &scope->node))
		return head->refuse & EW__REFUSE_CANCEL;
	return ew_scope_is_cancelled(scope);
}

static inline int spawn(struct ew_scope *scope, ew_task_fn *fn, void *argument,
			struct ew_spawn_options options, const struct ew_site *site,
			struct ew_task **ret_task)
{
	struct ew_worker *worker = scope->worker;
	struct ew_task *task;

	ew_assert(scope->open && scope->worker == ew__worker);
	if (ew__unlikely(is_cancelled(scope)))
		return -ECANCELED;
	if (ew__unlikely(options.worker)) {
		worker = ew__worker_by_number(worker->runtime, options.worker);
		if (!worker)
			return -EINVAL;
	}
	task = ew__task_new(worker, fn, argument, site);
	if (!task)
		return -EAGAIN;
	task->scope = scope;
	task->base.parent = &scope->node;
	/* A ladder may run already, behind a shield around the scope. */
	atomic_store_explicit(&task->base.end_ns, ew__children_end(scope), memory_order_relaxed);
	task->ended = task_ended;
	task->droppable = options.droppable;
	task->remote = worker != scope->worker;
	task->sibling_next = scope->children;
	if (task->sibling_next)
		task->sibling_next->sibling_link = &task->sibling_next;
	task->sibling_link = &scope->children;
	scope->children = task;
	scope->children_count++;
	if (ew__current) {
		task->head.refuse = ew__current->refuse & EW__REFUSE_SWEEP;
		if (ew__unlikely(ew__current->leaving))
			ew__cancel_update(task);
	}
	*ret_task = task;
	return 0;
}

static void start(struct ew_task *task)
{
	if (!task->remote) {
		adopt_task(task->worker, task);
		return;
	}
	task->life_message.deliver = deliver_start;
	ew__post(task->worker, &task->life_message);
}

int ew__spawn(struct ew_scope *scope, ew_task_fn *fn, void *argument,
	      struct ew_spawn_options options, const struct ew_site *site)
{
	struct ew_task *task;
	int r;

	r = spawn(scope, fn, argument, options, site, &task);
	if (r < 0)
		return r;
	start(task);
	return 0;
}

int ew__spawn_take(struct ew_scope *scope, ew_task_take_fn *fn, void *argument, void *place,
		   struct ew_spawn_options options, const struct ew_site *site)
{
	struct ew_task *task;
	void *nothing = NULL;
	int r;

	r = spawn(scope, NULL, argument, options, site, &task);
	if (r < 0)
		return r;
	task->take_fn = fn;
	__builtin_memcpy(&task->taken, place, sizeof(task->taken));
	__builtin_memcpy(place, &nothing, sizeof(nothing));
	task->taken_place = (struct ew_place){
		.entry = { .kind = EW__ENTRY_PLACE, .head = &task->head },
		.variable = &task->taken,
		.site = site,
	};
	task->head.newest = &task->taken_place.entry;
	start(task);
	return 0;
}
