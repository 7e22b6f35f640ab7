/* SPDX-License-Identifier: Apache-2.0 */

/*
 * How long an end takes at most, found by walking the registries as the endings will: in a task newest first, one
 * after the other; the children of a scope side by side. A block that returns ends what it has declared after a scope
 * while the children end, but one that joins first does so when they have ended: that is the worst case. Nothing that has a budget takes longer than that, and nothing under a ladder longer than the ladder.
 */

#include "scope/scope.h"

#include <endwell/clock.h>

#define LEVELS_MAX 128 /* a task's stack has room for the walk */
#define TICK_NS	   ((int64_t)1 << EW__WHEEL_TICK_SHIFT)

static int64_t longer(int64_t one_ns, int64_t other_ns)
{
	return one_ns > other_ns ? one_ns : other_ns;
}

static int64_t shorter(int64_t one_ns, int64_t other_ns)
{
	return one_ns < other_ns ? one_ns : other_ns;
}

static int64_t with_tick(int64_t duration_ns)
{
	return ew__add_ns(duration_ns, TICK_NS);
}

/* From now until @end_ns, as a timer sees it. */
static int64_t time_until(int64_t end_ns)
{
	int64_t now_ns = ew_now();

	if (end_ns == EW_NEVER)
		return EW_NEVER;
	return with_tick(end_ns > now_ns ? end_ns - now_ns : 0);
}

static int64_t end_of(const struct ew_node *node)
{
	return time_until(atomic_load_explicit(&node->end_ns, memory_order_relaxed));
}

static int64_t budget_of(int64_t budget_ns)
{
	return with_tick(budget_ns ? budget_ns : EW_BUDGET_DEFAULT);
}

static int64_t ending_bound(const struct ew_entry *entry)
{
	const struct ew_guard *guard;
	const struct ew_place *place;
	struct ew_resource *resource;

	if (entry->kind == EW__ENTRY_GUARD) {
		guard = ew__container_of(entry, const struct ew_guard, entry);
		return guard->armed ? budget_of(guard->budget_ns) : 0;
	}
	place = ew__container_of(entry, const struct ew_place, entry);
	__builtin_memcpy(&resource, place->variable, sizeof(resource));
	return resource ? budget_of(resource->type->budget_ns) : 0;
}

static int64_t task_bound(const struct ew_task *task, unsigned level);

static int64_t children_bound(const struct ew_scope *scope, unsigned level)
{
	const struct ew_task *child;
	int64_t bound_ns = 0;

	for (child = scope->children; child; child = child->sibling_next)
		bound_ns = longer(bound_ns, task_bound(child, level + 1));
	return bound_ns;
}

/* What a task has declared, from its newest entry to @oldest, or to all. */
static int64_t registry_bound(const struct ew_task *task, const struct ew_entry *oldest,
			      unsigned level)
{
	struct ew_entry *entry;
	int64_t bound_ns = 0;

	for (entry = task->head.newest; entry; entry = entry->older) {
		switch (entry->kind) {
		case EW__ENTRY_PLACE:
		case EW__ENTRY_GUARD: bound_ns = ew__add_ns(bound_ns, ending_bound(entry)); break;
		case EW__ENTRY_SCOPE:
			bound_ns = ew__add_ns(bound_ns,
					      children_bound(ew__scope_of_entry(entry), level));
			bound_ns = shorter(bound_ns, end_of(&ew__scope_of_entry(entry)->node));
			break;
		default: /* a stretch, or a close: all that is newer is inside, and it may take all its time */
			bound_ns = end_of(&ew__shield_of_entry(entry)->node);
		}
		if (entry == oldest)
			break;
	}
	return bound_ns;
}

static int64_t task_bound(const struct ew_task *task, unsigned level)
{
	if (task->remote || level == LEVELS_MAX)
		return EW_NEVER;
	return registry_bound(task, NULL, level);
}

/* What the budgets say alone: that of the scope, from a cancel now, and those of ladders that run. */
static int64_t ladder_bound(const struct ew_scope *scope)
{
	int64_t bound_ns = end_of(&scope->node);

	if (bound_ns == EW_NEVER && scope->budget_ns)
		bound_ns = with_tick(scope->budget_ns);
	if (scope->owner && scope->worker == ew__worker)
		bound_ns = shorter(bound_ns,
				   time_until(ew__ladder_end(scope->owner, scope->entry.older)));
	return bound_ns;
}

int64_t ew_scope_bound(const struct ew_scope *scope)
{
	int64_t bound_ns;

	if (!scope && ew__worker)
		scope = ew__scope_of_run();
	if (!scope)
		return EW_NEVER;
	if (scope->worker != ew__worker)
		return ladder_bound(scope);
	bound_ns = scope->owner ? registry_bound(scope->owner, &scope->entry, 0)
				: children_bound(scope, 0);
	return shorter(bound_ns, ladder_bound(scope));
}
