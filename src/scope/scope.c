/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Scopes: the list of children, the deadline, the reason. All of it belongs to the worker of the task
 * that opened the scope. A child on another worker is spawned, told of cancels and seen to end by
 * messages that are part of the child, so none of that can fail:
 *
 *	scope's worker --- life_message: start --->       child's worker
 *	scope's worker --- cancel_message (any number) -> child's worker
 *	scope's worker <-- life_message: ended ---        child's worker
 *	scope's worker --- life_message: free it --->     child's worker
 *
 * Messages of one sender arrive in order, so when the last one arrives no cancel_message is on its way.
 */

#include "scope/scope.h"

#include "seeded/bug.h"

#include <endwell/clock.h>
#include <sched.h>

struct ew__scope_waiter {
	struct ew__wait wait;
	struct ew__timer timer;
	struct ew_scope *scope;
	struct ew__scope_waiter *next;
};

static const char *const reason_names[] = {
	[EW_REASON_NONE] = "none",	   [EW_REASON_REQUESTED] = "requested",
	[EW_REASON_DEADLINE] = "deadline", [EW_REASON_CHILD] = "child",
	[EW_REASON_LEFT] = "left",	   [EW_REASON_PEER] = "peer",
	[EW_REASON_SHUTDOWN] = "shutdown", [EW_REASON_BUDGET] = "budget",
};

const char *ew_reason_name(enum ew_reason reason)
{
	return (unsigned)reason <= EW_REASON_BUDGET ? reason_names[reason] : "unknown";
}

static void expire_deadline(struct ew__timer *timer)
{
	ew__scope_cancel_here(ew__container_of(timer, struct ew_scope, deadline_timer),
			      EW_REASON_DEADLINE, NULL, NULL);
}

static void spread(struct ew_scope *scope)
{
	struct ew_task *child;

	if (scope->owner) {
		ew__cancel_spread(scope->owner, &scope->entry);
		return;
	}
	ew__scope_wake_waiters(scope);
	for (child = scope->children; child; child = child->sibling_next) {
		atomic_store_explicit(
			&child->base.end_ns,
			atomic_load_explicit(&scope->node.end_ns, memory_order_relaxed),
			memory_order_relaxed);
		ew__cancel_spread(child, NULL);
	}
}

static void expire_ladder(struct ew__timer *timer)
{
	struct ew_scope *scope = ew__container_of(timer, struct ew_scope, force_timer);

	atomic_store_explicit(&scope->node.forced, true, memory_order_relaxed);
	spread(scope);
}

/* The reason is set: start the ladder's clock and tell everybody. */
static void cancelled(struct ew_scope *scope)
{
	int64_t end_ns;

	ew__timer_cancel(scope->worker, &scope->deadline_timer);
	if (scope->budget_ns && !ew__timer_is_armed(&scope->force_timer) &&
	    atomic_load_explicit(&scope->node.end_ns, memory_order_relaxed) == EW_NEVER) {
		end_ns = ew_after(scope->budget_ns);
		if (ew__bug("budget-begins-before-it-is-seen"))
			end_ns = scope->origin.at_ns + scope->budget_ns;
		atomic_store_explicit(&scope->node.end_ns, end_ns, memory_order_relaxed);
		if (!ew__bug("ladder-never-forces"))
			ew__timer_arm(scope->worker, &scope->force_timer, end_ns);
	}
	spread(scope);
}

/* False: it has a reason already, which stays. Any thread. */
static bool give_reason(struct ew_scope *scope, enum ew_reason reason, const struct ew_site *task,
			const struct ew_site *line)
{
	uint8_t none = ew__bug("last-reason-wins") ? ew_scope_reason(scope) : EW_REASON_NONE;

	if (!atomic_compare_exchange_strong(&scope->node.reason, &none, (uint8_t)reason))
		return false;
	scope->origin.task = task;
	scope->origin.line = line;
	/* The tick of the wheel is no part of a deadline. */
	scope->origin.at_ns = reason == EW_REASON_DEADLINE ? scope->deadline_ns : ew_now();
	atomic_store_explicit(&scope->origin.known, true, memory_order_release);
	return true;
}

void ew__scope_cancel_here(struct ew_scope *scope, enum ew_reason reason,
			   const struct ew_site *task, const struct ew_site *line)
{
	if (give_reason(scope, reason, task, line))
		cancelled(scope);
}

static void deliver_cancel(struct ew__message *message)
{
	struct ew_scope *scope = ew__container_of(message, struct ew_scope, cancel_message);

	atomic_store(&scope->cancel_posted, false);
	cancelled(scope);
	/* Its block may be waiting for this message only. */
	if (scope->joiner && scope->children_count == 0 && !ew__bug("joiner-not-woken-by-a-cancel"))
		ew__scope_wake_joiner(scope);
}

void(ew_scope_cancel)(struct ew_scope *scope, enum ew_reason reason)
{
	const struct ew_site *task = ew__task() ? ew__task()->site : NULL;
	const struct ew_site *line = ew__made_at;

	ew_assert(reason != EW_REASON_NONE);
	if (scope->worker == ew__worker) {
		ew_assert(scope->open);
		ew__scope_cancel_here(scope, reason, task, line);
		return;
	}
	/* Announced first: once the reason is seen, the scope may not be left before the message came. */
	if (atomic_exchange(&scope->cancel_posted, true))
		return;
	(void)give_reason(scope, reason, task, line);
	ew__post(scope->worker, &scope->cancel_message);
}

static void init(struct ew_scope *scope, struct ew_worker *worker)
{
	scope->worker = worker;
	atomic_store_explicit(&scope->node.end_ns, EW_NEVER, memory_order_relaxed);
	scope->node.kind = EW__NODE_SCOPE;
	scope->deadline_timer.expire = expire_deadline;
	scope->force_timer.expire = expire_ladder;
	scope->cancel_message.deliver = deliver_cancel;
	scope->open = true;
}

void ew__scope_init_root(struct ew_scope *scope, struct ew_worker *worker)
{
	init(scope, worker);
}

void ew__scope_enter(struct ew_scope *scope)
{
	struct ew_task *task;

	if (ew__unlikely(!ew__current))
		ew__thread_enter_or_die();
	task = ew__task();
	init(scope, task->worker);
	scope->owner = task;
	ew__entry_enter(&scope->entry, EW__ENTRY_SCOPE);
	scope->node.parent = task->head.node;
	task->head.node = &scope->node;
	if (scope->deadline_ns && scope->deadline_ns != EW_NEVER) {
		if (scope->deadline_ns <= ew_now())
			ew__scope_cancel_here(scope, EW_REASON_DEADLINE, NULL, NULL);
		else
			ew__timer_arm(task->worker, &scope->deadline_timer, scope->deadline_ns);
	}
}

bool ew__scope_is_joined(struct ew_scope *scope, bool next_wanted)
{
	if (ew__bug("join-returns-early"))
		return true;
	if (!scope->children_count &&
	    (!atomic_load(&scope->cancel_posted) || ew__bug("scope-left-with-a-cancel-on-its-way")))
		return true;
	return next_wanted && scope->ended;
}

/* Waits for children and for a cancel on its way from another thread; never refused. */
static inline void await_children(struct ew_scope *scope)
{
	ew_assert(scope->owner == ew__task()); /* there is one joiner */
	if (ew__unlikely((ew__current->refuse & EW__REFUSE_LOCKED) &&
			 !ew__scope_is_joined(scope, scope->next_wanted)))
		ew__foreign_locks_report(scope->owner);
	while (!ew__scope_is_joined(scope, scope->next_wanted)) {
		if (ew__unlikely(ew__worker_is_plain(scope->worker))) {
			/* There are no children: the cancel is on its way, and nothing is needed to see it come. */
			ew__thread_look(scope->owner);
			sched_yield(); /* to who is posting it */
			continue;
		}
		scope->joiner = &scope->join_wait;
		ew__suspend(&scope->join_wait, "children of a scope");
	}
}

struct ew_child *ew__scope_next_ended(struct ew_scope *scope)
{
	struct ew_child *child = scope->ended;

	if (child) {
		scope->ended = child->next;
		child->in_use = false;
	}
	return child;
}

static void leave(struct ew_scope *scope)
{
	struct ew_task *task = scope->owner;

	if (scope->children_count && !ew__bug("scope-left-without-a-cancel"))
		ew__scope_cancel_here(scope, EW_REASON_LEFT, task->site, scope->site);
	await_children(scope);
	ew_assert(task->head.node == &scope->node); /* left in reverse order of opening */
	ew_assert(!scope->waiters);
	while (ew__scope_next_ended(scope))
		;
	if (!ew__bug("deadline-armed-after-its-scope"))
		ew__timer_cancel(scope->worker, &scope->deadline_timer);
	ew__timer_cancel(scope->worker, &scope->force_timer);
	task->head.node = scope->node.parent;
	ew__entry_leave(&scope->entry);
	scope->open = false;
	if (task->head.refuse || task->head.leaving)
		ew__cancel_update(task);
}

void ew__scope_leave(struct ew_scope *scope)
{
	if (scope->open)
		leave(scope);
}

static bool was_cancelled_before(const struct ew_node *node, int64_t at_ns)
{
	const struct ew__cancel_origin *origin;

	if (node->kind == EW__NODE_SHIELD)
		return atomic_load_explicit(&node->reason, memory_order_relaxed) &&
		       atomic_load_explicit(&node->end_ns, memory_order_relaxed) < at_ns;
	if (node->kind != EW__NODE_SCOPE)
		return false;
	origin = &ew__container_of(node, const struct ew_scope, node)->origin;
	return atomic_load_explicit(&origin->known, memory_order_acquire) && origin->at_ns < at_ns;
}

/* Whether something around the scope was cancelled before the scope's own deadline. */
static bool is_cut_from_outside(const struct ew_scope *scope)
{
	const struct ew_node *node;

	for (node = scope->node.parent; node; node = node->parent) {
		if (was_cancelled_before(node, scope->deadline_ns))
			return true;
		if (node->kind == EW__NODE_SHIELD)
			break;
	}
	return false;
}

/* How a cancel comes out of the scope. */
static int cancel_result(const struct ew_scope *scope)
{
	if (ew_scope_reason(scope) != EW_REASON_DEADLINE || is_cut_from_outside(scope) ||
	    ew__bug("deadline-leaks-out"))
		return -ECANCELED;
	return -ETIMEDOUT;
}

/* What the children's ends mean for the block. */
static int children_result(const struct ew_scope *scope)
{
	if (scope->succeeded)
		return 0;
	if (scope->first_error)
		return scope->first_error;
	return scope->children_cut ? cancel_result(scope) : 0;
}

/* By a call: one that need not wait is no refusal, but a loop of such calls may be all that a cancelled task does. */
static inline void join(struct ew_scope *scope)
{
	if (!scope->children_count && (ew__current->refuse & EW__REFUSE_CANCEL))
		ew__refused(ew__task());
	await_children(scope);
}

int ew_scope_join(struct ew_scope *scope)
{
	if (ew__enter_anyway() < 0)
		return -ENOMEM;
	join(scope);
	return children_result(scope);
}

int ew_scope_join_next(struct ew_scope *scope, struct ew_child **ret_child)
{
	struct ew_child *child;

	if (ew__enter_anyway() < 0)
		return -ENOMEM;
	ew_assert(scope->owner == ew__task()); /* there is one joiner */
	scope->next_wanted = true;
	if (!scope->ended)
		join(scope);
	scope->next_wanted = false;
	child = ew__scope_next_ended(scope);
	if (!child)
		return 0;
	*ret_child = child;
	return 1;
}

int ew_scope_finish(struct ew_scope *scope, int r)
{
	int children;

	if (ew__enter_anyway() < 0)
		return -ENOMEM;
	if (r < 0 && scope->children_count && !ew__bug("finish-with-an-error-lets-children-run"))
		ew__scope_cancel_here(scope, EW_REASON_LEFT, scope->owner->site, scope->site);
	join(scope);
	leave(scope);
	children = children_result(scope);
	if (r < 0 && r != -ECANCELED)
		return r;
	if (r == -ECANCELED && children == 0)
		return scope->succeeded ? 0 : cancel_result(scope);
	return children < 0 ? children : r;
}

/* A join that a cancel or a deadline ends early: the grace period of ew_scope_close(). */
struct grace {
	struct ew__wait wait;
	struct ew__timer timer;
	struct ew_scope *scope;
	int why;
};

static void grace_over(struct grace *grace, int why)
{
	if (grace->scope->joiner != &grace->wait)
		return;
	grace->why = why;
	ew__scope_wake_joiner(grace->scope);
}

static void grace_expired(struct ew__timer *timer)
{
	grace_over(ew__container_of(timer, struct grace, timer), -ETIMEDOUT);
}

static void grace_cancelled(struct ew__wait *wait)
{
	grace_over(ew__container_of(wait, struct grace, wait), -ECANCELED);
}

int ew_scope_close(struct ew_scope *scope, int64_t deadline_ns, enum ew_reason reason)
{
	struct grace grace = { .wait.cancel = grace_cancelled,
			       .timer.expire = grace_expired,
			       .scope = scope };
	int r;

	if (!scope)
		return 0;
	if (ew__enter_anyway() < 0)
		return -ENOMEM;
	ew_assert(scope->owner == ew__task()); /* there is one joiner */
	ew_assert(reason != EW_REASON_NONE);
	grace.why = ew__enter();
	if (grace.why == 0 && deadline_ns <= ew_now())
		grace.why = -ETIMEDOUT;
	while (scope->children_count && grace.why == 0) {
		if (deadline_ns != EW_NEVER)
			ew__timer_arm(scope->worker, &grace.timer, deadline_ns);
		scope->joiner = &grace.wait;
		ew__suspend(&grace.wait, "children of a scope, in their grace");
		ew__timer_cancel(scope->worker, &grace.timer);
	}
	if (grace.why == -ECANCELED)
		grace.why = cancel_result(scope);
	if (scope->children_count)
		ew__scope_cancel_here(scope, reason, scope->owner->site, scope->site);
	else
		grace.why = 0;
	leave(scope);
	if (scope->succeeded)
		return 0;
	r = scope->first_error;
	return r ? r : grace.why;
}

enum ew_reason ew_scope_reason(const struct ew_scope *scope)
{
	return (enum ew_reason)atomic_load_explicit(&scope->node.reason, memory_order_acquire);
}

bool ew_scope_is_cancelled(const struct ew_scope *scope)
{
	return ew__node_is_cancelled(&scope->node);
}

unsigned ew_scope_children_count(const struct ew_scope *scope)
{
	return scope->children_count;
}

static void waiter_end(struct ew__scope_waiter *waiter, int result)
{
	struct ew__scope_waiter **link = &waiter->scope->waiters;

	if (waiter->wait.done)
		return;
	while (*link != waiter)
		link = &(*link)->next;
	if (!ew__bug("token-waiter-stays-listed"))
		*link = waiter->next;
	ew__wait_end(&waiter->wait, result);
}

static void waiter_expired(struct ew__timer *timer)
{
	waiter_end(ew__container_of(timer, struct ew__scope_waiter, timer), -ETIMEDOUT);
}

static void waiter_cancelled(struct ew__wait *wait)
{
	waiter_end(ew__container_of(wait, struct ew__scope_waiter, wait), -ECANCELED);
}

void ew__scope_wake_waiters(struct ew_scope *scope)
{
	if (!scope->waiters || !ew_scope_is_cancelled(scope))
		return;
	while (scope->waiters)
		waiter_end(scope->waiters, 0);
}

int ew_scope_wait_cancel(struct ew_scope *scope, int64_t deadline_ns)
{
	struct ew__scope_waiter waiter = { .wait.cancel = waiter_cancelled,
					   .timer.expire = waiter_expired,
					   .scope = scope };
	int r = ew__enter();

	if (r < 0)
		return r;
	if (scope->worker != ew__worker)
		return -EXDEV;
	if (ew_scope_is_cancelled(scope))
		return 0;
	waiter.next = scope->waiters;
	scope->waiters = &waiter;
	if (deadline_ns != EW_NEVER)
		ew__timer_arm(scope->worker, &waiter.timer, deadline_ns);
	r = ew__suspend(&waiter.wait, "the cancel of a scope");
	ew__timer_cancel(ew__worker, &waiter.timer);
	return r;
}
