/* SPDX-License-Identifier: Apache-2.0 */

#include "sweep/plan.h"

#include <endwell/clock.h>
#include <errno.h>

/* The one that holds. */
static struct ew__sweep_plan *current;

static void force(struct ew_scope *scope, enum ew_reason reason)
{
	atomic_store_explicit(&scope->node.end_ns, EW_NOW, memory_order_relaxed);
	atomic_store_explicit(&scope->node.forced, true, memory_order_relaxed);
	if (ew_scope_reason(scope) == EW_REASON_NONE)
		ew_scope_cancel(scope, reason);
	else
		ew__cancel_spread(scope->owner, &scope->entry);
}

static void deliver_cancel(struct ew__message *message)
{
	struct ew__sweep_plan *plan =
		ew__container_of(message, struct ew__sweep_plan, cancel_message);
	struct ew_task *kept = plan->kept;

	plan->cancel_posted = false;
	plan->kept = NULL;
	if (plan->scope)
		ew_scope_cancel(plan->scope, plan->reason);
	if (kept)
		ew__task_ready(kept);
}

static void post_cancel(struct ew__sweep_plan *plan, struct ew_worker *worker)
{
	plan->cancel_posted = true;
	plan->cancel_message.deliver = deliver_cancel;
	ew__post(worker, &plan->cancel_message);
}

/* What the task waited for has come. It goes on after a cancel, which is delivered like any other, between tasks. */
static bool keep(struct ew_task *task)
{
	struct ew__sweep_plan *plan = current;

	if (task != plan->to_keep)
		return false;
	plan->to_keep = NULL;
	plan->kept = task;
	post_cancel(plan, task->worker);
	return true;
}

static void act(struct ew__sweep_plan *plan, struct ew_task *task)
{
	switch (plan->mode) {
	case EW_SWEEP_NONE: break;
	case EW_SWEEP_CANCEL:
	case EW_SWEEP_CANCEL_AGAIN:
	case EW_SWEEP_CANCEL_FORCE: ew_scope_cancel(plan->scope, plan->reason); break;
	case EW_SWEEP_CANCEL_OPERATION:
	case EW_SWEEP_CANCEL_MEMORY:
	case EW_SWEEP_HARDSHIP:
		ew_scope_cancel(plan->scope, plan->reason);
		plan->follow(plan);
		break;
	case EW_SWEEP_CANCEL_WAITING: post_cancel(plan, task->worker); break;
	case EW_SWEEP_CANCEL_ENDED:
		plan->to_keep = task;
		task->head.leaving = true;
		break;
	case EW_SWEEP_FORCE: force(plan->scope, plan->reason); break;
	case EW_SWEEP_PANIC:
		if (!task->head.no_drop)
			ew_panic("at suspension point %u of a sweep", plan->index);
		break;
	case EW_SWEEP_MEMORY_ONCE:
	case EW_SWEEP_MEMORY_GONE:
	case EW_SWEEP_OPERATION:
	case EW_SWEEP_MODES: break;
	}
}

static void act_again(struct ew__sweep_plan *plan)
{
	if (plan->mode == EW_SWEEP_CANCEL_FORCE)
		force(plan->scope, plan->reason);
	else
		ew_scope_cancel(plan->around, EW_REASON_SHUTDOWN);
}

/* The call that was to wait has not, and this is the task's next. */
static void let_go(struct ew__sweep_plan *plan, struct ew_task *task)
{
	if (task != plan->to_keep)
		return;
	plan->to_keep = NULL;
	ew__cancel_update(task);
}

static bool has_points(enum ew_sweep_mode mode)
{
	return mode != EW_SWEEP_NONE && mode != EW_SWEEP_MEMORY_ONCE &&
	       mode != EW_SWEEP_MEMORY_GONE && mode != EW_SWEEP_OPERATION;
}

bool ew__sweep_makes_pairs_of_points(enum ew_sweep_mode mode)
{
	return mode == EW_SWEEP_CANCEL_FORCE || mode == EW_SWEEP_CANCEL_AGAIN;
}

static void at_point(struct ew_task *task)
{
	struct ew__sweep_plan *plan = current;
	unsigned index = plan->points++;
	bool first = has_points(plan->mode) && index == plan->index;
	bool second = ew__sweep_makes_pairs_of_points(plan->mode) && index == plan->second;

	if (plan->note)
		plan->note(plan, task, index, first || second);
	let_go(plan, task);
	if (first) {
		plan->reached = true;
		act(plan, task);
	} else if (second) {
		plan->second_reached = true;
		act_again(plan);
	}
}

void ew__sweep_begin(struct ew__sweep_plan *plan)
{
	current = plan;
	plan->to_keep = NULL;
	ew__sweep_point = at_point;
	ew__sweep_keep = keep;
}

void ew__sweep_end(void)
{
	ew__sweep_keep = NULL;
	ew__sweep_point = NULL;
	current = NULL;
}

static int call(void *argument)
{
	struct ew__sweep_plan *plan = argument;

	plan->result = plan->fn(plan->argument);
	return 0;
}

static int call_in_scope(struct ew__sweep_plan *plan, const struct ew_site *site)
{
	EW_SCOPE(around, .policy = EW_POLICY_INDEPENDENT, .budget_ns = plan->budget_ns);
	EW_SCOPE(scope, .policy = EW_POLICY_INDEPENDENT, .budget_ns = plan->budget_ns);
	int r;

	plan->around = &around;
	plan->scope = &scope;
	r = ew__spawn(&scope, call, plan, (struct ew_spawn_options){ .droppable = plan->droppable },
		      site);
	if (r == 0) {
		scope.children->head.refuse |= EW__REFUSE_SWEEP;
		r = ew_scope_join(&scope);
	}
	plan->scope = NULL;
	return r;
}

int ew__sweep_call(struct ew__sweep_plan *plan, ew_task_fn *fn, void *argument,
		   const struct ew_site *site)
{
	int r;

	plan->fn = fn;
	plan->argument = argument;
	plan->result = -ENOTRECOVERABLE;
	r = call_in_scope(plan, site);
	while (plan->cancel_posted && ew_yield() == 0)
		;
	return r;
}
