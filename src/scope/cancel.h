/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * Cancel, inside: the check that begins each suspending call, and how a cancel spreads
 */

#include "scope/thread.h"
#include "task/run_queue.h"

#include <errno.h>

/* Bits of ew__head.refuse. */
#define EW__REFUSE_CANCEL 1  /* suspending calls return -ECANCELED */
#define EW__REFUSE_FORCE  2  /* and a droppable task may be ended */
#define EW__REFUSE_SWEEP  4  /* a sweep counts suspension points */
#define EW__REFUSE_LOCKED 8  /* the task holds a pthread mutex: suspending is reported */
#define EW__REFUSE_THREAD 16 /* the task is a plain thread, which looks around first */
#define EW__REFUSE_SPARED 32 /* what a sweep does to memory does not concern the task */

/* Those of a sweep, which a task leaves to its children. */
#define EW__REFUSE_SWEPT (EW__REFUSE_SWEEP | EW__REFUSE_SPARED)

/* Of durations; budgets and reserves of all the time there is may stand one above the other. */
static inline int64_t ew__add_ns(int64_t one_ns, int64_t other_ns)
{
	int64_t sum_ns;

	return __builtin_add_overflow(one_ns, other_ns, &sum_ns) ? EW_NEVER : sum_ns;
}

int ew__refuse(void);

/* Of a task that is about to suspend. */
void ew__foreign_locks_report(struct ew_task *task);

/* Counts a refusal of the running task; the second in a row yields: a loop that ignores them cannot stop its worker. */
void ew__refused(struct ew_task *task);

/*
 * First in each suspending call: 0, or what to return. -ECANCELED: nothing has happened. May drop the task,
 * or let others run; whatever the caller holds must be registered by then.
 */
static inline int ew__enter(void)
{
	struct ew__head *head = ew__current;
	int r;

	if (ew__unlikely(!head)) {
		r = ew__thread_enter();
		if (r < 0)
			return r;
		head = ew__current;
	}
	if (ew__unlikely(head->refuse))
		return ew__refuse();
	head->refusals = 0;
	return 0;
}

/* The same in calls that are never refused: 0, or why a plain thread cannot be a task. */
static inline int ew__enter_anyway(void)
{
	return ew__likely(ew__current != NULL) ? 0 : ew__thread_enter();
}

/* Set by src/sweep/: called at each suspension point of tasks that carry EW__REFUSE_SWEEP. */
extern void (*ew__sweep_point)(struct ew_task *task);

/* After a change of the task's own chain: what its next suspending call does. */
void ew__cancel_update(struct ew_task *task);

/*
 * After a cancel, or a spent budget, in or above @task: tell it, and everything in its scopes.
 * @oldest: the entry of the task that was cancelled; scopes older than that are not concerned; NULL: all are
 */
void ew__cancel_spread(struct ew_task *task, struct ew_entry *oldest);

/* Whether a task whose innermost node is @node is cancelled. Any thread that knows the node to live. */
bool ew__node_is_cancelled(const struct ew_node *node);

enum ew_rung ew__task_rung(const struct ew_task *task);

/* The moment that the ladders leave to an ending that starts with @newest and older entries still to come. */
int64_t ew__ladder_end(const struct ew_task *task, const struct ew_entry *newest);

/* What ew__children_end() says where there are ladders. */
int64_t ew__children_bound(const struct ew_scope *scope);

/* The moment that the ladders leave to the children of @scope. On its worker. */
static inline int64_t ew__children_end(const struct ew_scope *scope)
{
	const struct ew_node *node;

	for (node = &scope->node; node; node = node->parent) {
		if (ew__unlikely(atomic_load_explicit(&node->end_ns, memory_order_relaxed) !=
				 EW_NEVER))
			return ew__children_bound(scope);
		if (node->kind != EW__NODE_SCOPE)
			break; /* a shield, or the task itself: it has what is beyond it in its own end */
	}
	return EW_NEVER;
}
