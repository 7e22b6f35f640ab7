/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Spawn, and what a task's end means to its scope. A child on another worker goes there by message; see
 * scope.c for the conversation. Its stack comes from the spawning worker and stays where the child ended,
 * unless that one keeps enough of them.
 */

#include "scope/scope.h"
#include "seeded/bug.h"

#include <endwell/task.h>

/* What the end of one child means for the others: an error, or the success that was wanted. */
static void apply_policy(struct ew_scope *scope, int result, const struct ew_site *child)
{
	if (result == -ECANCELED &&
	    (ew_scope_is_cancelled(scope) || ew__bug("childs-own-ecanceled-swallowed"))) {
		scope->children_cut++;
	} else if (result >= 0) {
		scope->succeeded = true;
		ew__scope_cancel_here(scope, EW_REASON_CHILD, child, NULL);
	} else if ((scope->policy != EW_POLICY_INDEPENDENT ||
		    ew__bug("independent-children-matter")) &&
		   (!scope->first_error || ew__bug("last-error-wins"))) {
		scope->first_error = result;
		if (scope->policy == EW_POLICY_FIRST_ERROR)
			ew__scope_cancel_here(scope, EW_REASON_CHILD, child, NULL);
	}
}

static void keep_result(struct ew_scope *scope, struct ew_child *child, int result)
{
	child->result = result;
	if (scope->ended && !ew__bug("finished-child-lost"))
		scope->ended_last->next = child;
	else
		scope->ended = child;
	scope->ended_last = child;
}

/* On the scope's worker. */
static inline void child_gone(struct ew_scope *scope, struct ew_task *task)
{
	int result = task->result;

	*task->sibling_link = task->sibling_next;
	if (task->sibling_next)
		task->sibling_next->sibling_link = task->sibling_link;
	scope->children_count--;
	if (ew__unlikely(task->child != NULL))
		keep_result(scope, task->child, result);
	if (ew__unlikely(result < 0 || scope->policy == EW_POLICY_FIRST_SUCCESS))
		apply_policy(scope, result, task->site);
	if ((scope->children_count == 0 || (scope->next_wanted && scope->ended)) && scope->joiner)
		ew__scope_wake_joiner(scope);
}

static struct ew_task *task_of_life(struct ew__message *message)
{
	return ew__container_of(message, struct ew_task, life_message);
}

static void deliver_free(struct ew__message *message)
{
	struct ew_task *task = task_of_life(message);

	/* Its stack is one that this worker did not have: kept without end they would be more than were ever in use. */
	if (task->worker->kept_count < EW__TASKS_KEPT)
		ew__task_keep(task->worker, task);
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
	ew__task_adopt(task);
	ew__task_ready(task);
}

/* On the task's own stack, its registry run. */
static inline void end_life(struct ew_task *task)
{
	ew_assert(task->head.node == &task->base);
	if (ew__unlikely(task->remote)) {
		/* A cancel on its way may come after the scope has gone: it must not look there. */
		task->base.parent = NULL;
		task->life_message.deliver = deliver_ended;
		ew__post(task->scope->worker, &task->life_message);
		return;
	}
	child_gone(task->scope, task);
	ew__task_keep(task->worker, task);
}

/* All that happens on a stack: one life after another. */
static void live(void)
{
	struct ew_task *task;

	ew__context_entered();
	for (;;) {
		task = ew__task();
		task->result = ew__bug("cancelled-before-its-start-not-run") && task->head.refuse
				       ? -ECANCELED
				       : task->fn(task->argument);
		if (ew__unlikely(task->head.newest != NULL))
			ew__registry_run(task);
		end_life(task);
		ew__task_leave(task);
	}
}

_Noreturn void ew__task_drop(struct ew_task *task)
{
	task->drops++;
	task->dropped = true;
	ew__registry_run(task);
	task->result = ew__bug("panic-is-a-success") ? 0 : -ENOTRECOVERABLE;
	end_life(task);
	ew__task_leave(task);
	__builtin_unreachable();
}

static inline bool refuses(const struct ew_scope *scope)
{
	const struct ew__head *head = ew__current;

	/* The innermost scope of the running task is open, and the task has the answer in its own byte. */
	if (ew__likely(head && head->node == &scope->node))
		return head->refuse & (EW__REFUSE_CANCEL | EW__REFUSE_THREAD);
	ew_assert(scope->open && scope->worker == ew__worker);
	return ew_scope_is_cancelled(scope) || ew__worker_is_plain(scope->worker);
}

static int refuse(const struct ew_scope *scope, const struct ew_site *site)
{
	if (!ew__worker_is_plain(scope->worker))
		return -ECANCELED;
	ew__report("%s:%d: %s cannot be spawned on a plain thread, which is one task and has no "
		   "others: ew_run() has",
		   site->file, site->line, site->name);
	return -ENOTSUP;
}

/* @child: where its result is kept; NULL: nowhere. */
static inline void add_child(struct ew_scope *scope, struct ew_task *task, struct ew_child *child)
{
	task->scope = scope;
	task->child = child;
	if (ew__unlikely(child != NULL)) {
		ew_assert(!child->in_use);
		*child = (struct ew_child){ .in_use = true };
	}
	task->base.parent = &scope->node;
	task->sibling_next = scope->children;
	if (task->sibling_next)
		task->sibling_next->sibling_link = &task->sibling_next;
	task->sibling_link = &scope->children;
	scope->children = task;
	scope->children_count++;
}

/* A new child is not cancelled itself, but what it is in may be, behind a shield; and a ladder may run. */
static inline void inherit_cancel(struct ew_task *task, const struct ew_scope *scope)
{
	const struct ew__head *head = ew__current;

	atomic_store_explicit(&task->base.end_ns, ew__children_end(scope), memory_order_relaxed);
	task->head = (struct ew__head){ .node = &task->base };
	if (ew__unlikely(head && (head->refuse || head->leaving))) {
		task->head.refuse = head->refuse & EW__REFUSE_SWEPT;
		ew__cancel_update(task);
	}
}

/* 0: it may be spawned. */
static inline int admit(const struct ew_scope *scope, unsigned worker, const struct ew_site *site)
{
	if (ew__unlikely(refuses(scope)) && !ew__bug("spawned-into-a-cancelled-scope"))
		return refuse(scope, site);
	if (ew__unlikely(worker && !ew__worker_by_number(scope->worker->runtime, worker)))
		return -EINVAL;
	return 0;
}

/* NULL: no memory. Inline, since a call with so many arguments costs a tenth of a spawn. */
__attribute__((always_inline)) static inline struct ew_task *begin_life(
	struct ew_scope *scope, ew_task_fn *fn, void *argument, struct ew_spawn_options options,
	const struct ew_site *site)
{
	struct ew_worker *here = scope->worker;
	struct ew_task *task;

	if (ew__unlikely(!here->kept || here->kept->dropped) && ew__task_prepare(here, live) < 0)
		return NULL;
	task = ew__task_take(here);
	task->fn = fn;
	task->argument = argument;
	task->site = site;
	if (!ew__bug("life-keeps-an-ending-error"))
		task->ending_error = 0;
	task->outcome = EW_OUTCOME_NONE;
	task->droppable = options.droppable;
	task->remote = false;
	task->waiting_since_ns = here->now_ns;
	add_child(scope, task, options.child);
	inherit_cancel(task, scope);
	return task;
}

static void start_on(struct ew_worker *worker, struct ew_task *task)
{
	if (worker == task->worker) {
		ew__task_ready(task);
		return;
	}
	ew__task_disown(task);
	/* The frame that it stands in may remember where this thread's variables are. */
	ew__task_renew(task, live);
	task->worker = worker;
	task->remote = true;
	task->life_message.deliver = deliver_start;
	ew__post(worker, &task->life_message);
}

static inline void start(struct ew_task *task, unsigned worker)
{
	if (ew__unlikely(worker))
		start_on(ew__worker_by_number(task->worker->runtime, worker), task);
	else
		ew__task_ready(task);
}

int ew__spawn(struct ew_scope *scope, ew_task_fn *fn, void *argument,
	      struct ew_spawn_options options, const struct ew_site *site)
{
	struct ew_task *task;
	int r;

	r = admit(scope, options.worker, site);
	if (r < 0)
		return r;
	task = begin_life(scope, fn, argument, options, site);
	if (!task)
		return -EAGAIN;
	start(task, options.worker);
	return 0;
}

/* The function of a task that takes. */
static int call_take(void *argument)
{
	struct ew_task *task = ew__task();

	return task->take_fn(argument, &task->taken);
}

int ew__spawn_take(struct ew_scope *scope, ew_task_take_fn *fn, void *argument, void *place,
		   struct ew_spawn_options options, const struct ew_site *site)
{
	struct ew_task *task;
	void *nothing = NULL;
	int r;

	r = admit(scope, options.worker, site);
	if (r < 0)
		return r;
	task = begin_life(scope, call_take, argument, options, site);
	if (!task)
		return -EAGAIN;
	task->take_fn = fn;
	__builtin_memcpy(&task->taken, place, sizeof(task->taken));
	if (!ew__bug("spawn-take-leaves-the-place-full"))
		__builtin_memcpy(place, &nothing, sizeof(nothing));
	task->taken_place = (struct ew_place){
		.entry = { .kind = EW__ENTRY_PLACE, .head = &task->head },
		.variable = &task->taken,
		.site = site,
	};
	if (!ew__bug("taken-resource-not-registered"))
		task->head.newest = &task->taken_place.entry;
	start(task, options.worker);
	return 0;
}
