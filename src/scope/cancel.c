/* SPDX-License-Identifier: Apache-2.0 */

/*
 * How a cancel reaches a task. Each task has a chain of nodes: the scopes and shields that it has
 * open, innermost first, then its own base, then the scope that it was spawned in, and so on to the
 * run's own scope. A task is cancelled if a node of its chain is, up to the first shield; a shield
 * answers for all that is beyond it, by its budget.
 *
 * Walking the chain at every suspension would be the simple way. Instead a cancel spreads downwards once
 * and leaves a byte in each task that it reaches, so that the check costs one load. Only what
 * other threads may ask (ew_cancel_requested(), ew_scope_is_cancelled()) walks.
 *
 * The ladder's times spread the same way: a task's base holds the moment that the ladders above it leave,
 * the reserves of the ancestors' older endings already taken off.
 */

#include "scope/cancel.h"

#include "scope/scope.h"
#include "seeded/bug.h"

#include <endwell/clock.h>

#define REFUSAL_COSTS_NS (100 * EW_MICROSECOND) /* of virtual time, for one that yields */

void (*ew__sweep_point)(struct ew_task *task);

bool ew__node_is_cancelled(const struct ew_node *node)
{
	for (; node; node = node->parent) {
		if (atomic_load_explicit(&node->reason, memory_order_acquire))
			return true;
		if (node->kind == EW__NODE_SHIELD)
			return false;
	}
	return false;
}

/* A limit in a task's own block, or what became of the children there: that ends the block, and the task lives on. */
static bool ends_block_only(uint8_t reason)
{
	return reason == EW_REASON_DEADLINE || reason == EW_REASON_CHILD ||
	       reason == EW_REASON_LEFT || reason == EW_REASON_BUDGET;
}

/* Also behind shields. */
static bool is_leaving(const struct ew_task *task)
{
	const struct ew_node *node;
	bool own = true;
	uint8_t reason;

	for (node = task->head.node; node; node = node->parent) {
		if (node == &task->base)
			own = false;
		reason = atomic_load_explicit(&node->reason, memory_order_relaxed);
		if (reason && !(own && ends_block_only(reason)))
			return true;
	}
	return false;
}

void ew__cancel_update(struct ew_task *task)
{
	uint8_t refuse =
		task->head.refuse & (EW__REFUSE_SWEPT | EW__REFUSE_LOCKED | EW__REFUSE_THREAD);
	const struct ew_node *node;

	for (node = task->head.node; node; node = node->parent) {
		if (atomic_load_explicit(&node->reason, memory_order_relaxed))
			refuse |= EW__REFUSE_CANCEL;
		if (atomic_load_explicit(&node->forced, memory_order_relaxed))
			refuse |= EW__REFUSE_CANCEL | EW__REFUSE_FORCE;
		if (node->kind == EW__NODE_SHIELD && !ew__bug("shield-holds-nothing-back"))
			break;
	}
	task->head.refuse = refuse;
	task->head.leaving = is_leaving(task);
}

static int64_t entry_reserve_ns(const struct ew_entry *entry)
{
	const struct ew_place *place;
	const struct ew_guard *guard;
	struct ew_resource *resource;

	if (ew__bug("reserve-ignored"))
		return 0;
	if (entry->kind == EW__ENTRY_GUARD) {
		guard = ew__container_of(entry, const struct ew_guard, entry);
		return guard->armed || ew__bug("reserve-of-a-disarmed-guard") ? guard->reserve_ns
									      : 0;
	}
	place = ew__container_of(entry, const struct ew_place, entry);
	__builtin_memcpy(&resource, place->variable, sizeof(resource));
	return resource ? resource->type->reserve_ns : 0;
}

static int64_t sooner(int64_t bound_ns, const struct ew_node *node, int64_t reserve_ns)
{
	int64_t end_ns = atomic_load_explicit(&node->end_ns, memory_order_relaxed);

	if (end_ns == EW_NEVER)
		return bound_ns;
	end_ns = end_ns > reserve_ns ? end_ns - reserve_ns : 0;
	return end_ns < bound_ns ? end_ns : bound_ns;
}

int64_t ew__ladder_end(const struct ew_task *task, const struct ew_entry *newest)
{
	int64_t bound_ns = EW_NEVER, reserve_ns = 0;
	const struct ew_entry *entry;

	for (entry = newest; entry; entry = entry->older) {
		switch (entry->kind) {
		case EW__ENTRY_PLACE:
		case EW__ENTRY_GUARD:
			reserve_ns = ew__add_ns(reserve_ns, entry_reserve_ns(entry));
			break;
		case EW__ENTRY_SCOPE:
			bound_ns = sooner(
				bound_ns,
				&ew__scope_of_entry((struct ew_entry *)(uintptr_t)entry)->node,
				reserve_ns);
			break;
		default: /* a shield has what is beyond it in its own end */
			return sooner(
				bound_ns,
				&ew__shield_of_entry((struct ew_entry *)(uintptr_t)entry)->node,
				reserve_ns);
		}
	}
	return ew__bug("ladder-above-ignored") ? bound_ns
					       : sooner(bound_ns, &task->base, reserve_ns);
}

static void tighten_shield(struct ew_task *task, struct ew_shield *shield)
{
	int64_t bound_ns = ew__ladder_end(task, shield->entry.older);

	if (bound_ns >= atomic_load_explicit(&shield->node.end_ns, memory_order_relaxed) ||
	    ew__bug("shield-not-shortened"))
		return;
	atomic_store_explicit(&shield->node.end_ns, bound_ns, memory_order_relaxed);
	ew__timer_cancel(task->worker, &shield->timer);
	if (bound_ns > ew_now()) {
		ew__timer_arm(task->worker, &shield->timer, bound_ns);
		return;
	}
	atomic_store_explicit(&shield->node.reason, EW_REASON_BUDGET, memory_order_relaxed);
	atomic_store_explicit(&shield->node.forced, true, memory_order_relaxed);
}

/* On the child's own worker, when the worker of its scope has told it. */
static void spread_to_remote(struct ew__message *message)
{
	struct ew_task *task = ew__container_of(message, struct ew_task, cancel_message);

	/* A read, too: what the scope's worker wrote before it saw that a message is on its way is seen here. */
	if (!ew__bug("second-cancel-not-posted"))
		(void)atomic_exchange(&task->cancel_posted, false);
	ew__cancel_spread(task, NULL);
}

int64_t ew__children_bound(const struct ew_scope *scope)
{
	int64_t bound_ns =
		scope->owner ? ew__ladder_end(scope->owner, scope->entry.older) : EW_NEVER;

	return sooner(bound_ns, &scope->node, 0);
}

static void spread_to_children(struct ew_scope *scope, struct ew_task **affected)
{
	int64_t end_ns = ew__children_bound(scope);
	struct ew_task *child;

	for (child = scope->children; child; child = child->sibling_next) {
		atomic_store_explicit(&child->base.end_ns, end_ns, memory_order_relaxed);
		if (!child->remote) {
			child->affected_next = *affected;
			*affected = child;
		} else if (!ew__bug("remote-child-not-told") &&
			   !atomic_exchange(&child->cancel_posted, true)) {
			child->cancel_message.deliver = spread_to_remote;
			ew__post(child->worker, &child->cancel_message);
		}
	}
}

static void affect(struct ew_task *task, struct ew_entry *oldest, struct ew_task **affected)
{
	struct ew_entry *entry;
	struct ew__wait *wait;

	if (!oldest)
		for (oldest = task->head.newest; oldest && oldest->older; oldest = oldest->older)
			;
	/* Outermost first: what a shield leaves depends on those beyond it. */
	for (entry = oldest; entry; entry = entry->newer)
		if (entry->kind == EW__ENTRY_SHIELD || entry->kind == EW__ENTRY_ENDING)
			tighten_shield(task, ew__shield_of_entry(entry));
	ew__cancel_update(task);
	for (entry = oldest; entry; entry = entry->newer) {
		if (entry->kind != EW__ENTRY_SCOPE)
			continue;
		ew__scope_wake_waiters(ew__scope_of_entry(entry));
		if (!ew__bug("cancel-forgets-grandchildren"))
			spread_to_children(ew__scope_of_entry(entry), affected);
	}
	wait = task->wait; /* not one of those just woken */
	if (wait && wait->cancel && !wait->asked && (task->head.refuse & EW__REFUSE_CANCEL)) {
		wait->asked = true;
		if (!ew__bug("wake-up-lost-on-cancel"))
			wait->cancel(wait);
	}
}

void ew__cancel_spread(struct ew_task *task, struct ew_entry *oldest)
{
	struct ew_task *affected = NULL;

	affect(task, oldest, &affected);
	while ((task = affected)) {
		affected = task->affected_next;
		affect(task, NULL, &affected);
	}
}

void ew__refused(struct ew_task *task)
{
	if (task->head.refusals && !(task->head.refuse & EW__REFUSE_THREAD) &&
	    !ew__bug("refused-loop-never-yields")) {
		/* With virtual time such a loop would also stop the clock that leads to its force. */
		if (ew__virtual_now_ns)
			ew__virtual_now_ns += REFUSAL_COSTS_NS;
		ew__yield();
	}
	task->head.refusals = 1;
}

int ew__refuse(void)
{
	struct ew_task *task = ew__task();
	int r;

	if (task->head.refuse & EW__REFUSE_THREAD) {
		r = ew__thread_prepare(task);
		if (r < 0)
			return r;
	}
	if ((task->head.refuse & EW__REFUSE_SWEEP) && ew__sweep_point)
		ew__sweep_point(task);
	if (task->head.refuse & EW__REFUSE_LOCKED)
		ew__foreign_locks_report(task);
	if (!(task->head.refuse & EW__REFUSE_CANCEL)) {
		task->head.refusals = 0;
		return 0;
	}
	if ((task->head.refuse & EW__REFUSE_FORCE) && task->droppable &&
	    (!task->head.no_drop || ew__bug("dropped-where-it-must-not-be-left")) &&
	    !task->head.endings)
		ew__task_drop(task);
	ew__refused(task);
	task->outcome = EW_OUTCOME_NONE;
	return -ECANCELED;
}

bool ew_cancel_requested(void)
{
	struct ew_task *task = ew__task();
	const struct ew_node *node;
	const struct ew_scope *scope;
	int64_t now_ns = ew_now();

	for (node = task ? task->head.node : NULL; node; node = node->parent) {
		if (atomic_load_explicit(&node->reason, memory_order_acquire))
			return true;
		if (node->kind == EW__NODE_SHIELD)
			return atomic_load_explicit(&node->end_ns, memory_order_relaxed) <= now_ns;
		if (node->kind != EW__NODE_SCOPE)
			continue;
		scope = ew__container_of(node, const struct ew_scope, node);
		if (scope->deadline_ns && scope->deadline_ns <= now_ns &&
		    !ew__bug("passed-deadline-not-seen"))
			return true;
	}
	return false;
}

enum ew_rung ew__task_rung(const struct ew_task *task)
{
	const struct ew_node *node;

	if (task->head.refuse & EW__REFUSE_FORCE)
		return EW_RUNG_FORCE;
	if (task->head.refuse & EW__REFUSE_CANCEL)
		return EW_RUNG_CANCEL;
	for (node = task->head.node; node; node = node->parent)
		if (atomic_load_explicit(&node->reason, memory_order_relaxed))
			return EW_RUNG_CLEANUP;
	return EW_RUNG_NONE;
}

enum ew_rung ew_cancel_rung(void)
{
	return ew__task() ? ew__task_rung(ew__task()) : EW_RUNG_NONE;
}

enum ew_reason ew_cancel_reason(void)
{
	struct ew_task *task = ew__task();
	const struct ew_node *node;
	uint8_t reason;

	for (node = task ? task->head.node : NULL; node; node = node->parent) {
		reason = atomic_load_explicit(&node->reason, memory_order_relaxed);
		if (reason)
			return (enum ew_reason)reason;
	}
	return EW_REASON_NONE;
}
