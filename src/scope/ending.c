/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Endings. A close runs on the task's own stack behind a shield whose budget is the smaller of its own and of
 * what the ladder leaves. Meanwhile an ENDING stands in the registry for the thing being ended: if the close
 * panics, the registry's run finds it there, after everything that the close itself declared, and
 * aborts it. So each thing is closed or aborted once, in reverse order, on every way.
 */

#include "scope/scope.h"
#include "seeded/bug.h"
#include "task/backtrace.h"

#include <endwell/clock.h>
#include <endwell/resource.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define BORROWERS_LOOKED_AT_MAX                                                                    \
	64 /* children of one scope; a server's thousands would cost more than it helps */

struct ending {
	struct ew_shield shield; /* first: its entry is found as a shield's */
	void (*abort)(void *argument);
	void *argument;
};

static void expire_shield(struct ew__timer *timer)
{
	struct ew_shield *shield = ew__container_of(timer, struct ew_shield, timer);

	atomic_store_explicit(&shield->node.reason, EW_REASON_BUDGET, memory_order_relaxed);
	atomic_store_explicit(&shield->node.forced, !ew__bug("spent-budget-does-not-force"),
			      memory_order_relaxed);
	ew__cancel_spread(shield->owner, &shield->entry);
}

static void shield_enter(struct ew_shield *shield, enum ew__entry_kind kind, int64_t end_ns)
{
	struct ew_task *task = ew__task();

	shield->owner = task;
	shield->timer.expire = expire_shield;
	shield->timer.link = NULL;
	ew__entry_enter(&shield->entry, kind);
	shield->node.kind = EW__NODE_SHIELD;
	if (kind == EW__ENTRY_ENDING && ew__bug("ending-not-shielded"))
		shield->node.kind = EW__NODE_TASK;
	shield->node.parent = task->head.node;
	atomic_store_explicit(&shield->node.reason, EW_REASON_NONE, memory_order_relaxed);
	atomic_store_explicit(&shield->node.forced, false, memory_order_relaxed);
	atomic_store_explicit(&shield->node.end_ns, end_ns, memory_order_relaxed);
	task->head.node = &shield->node;
	if (end_ns <= ew_now())
		expire_shield(&shield->timer);
	else if (end_ns != EW_NEVER)
		ew__timer_arm(task->worker, &shield->timer, end_ns);
	if (task->head.refuse)
		ew__cancel_update(task);
}

static void shield_leave(struct ew_shield *shield)
{
	struct ew_task *task = shield->owner;

	ew_assert(task->head.node == &shield->node); /* left in reverse order of opening */
	ew__timer_cancel(task->worker, &shield->timer);
	task->head.node = shield->node.parent;
	ew__entry_leave(&shield->entry);
	ew__cancel_update(task);
}

/* The end of a budget that starts now, among those that the registry's older entries leave. */
static int64_t budget_end(struct ew_task *task, int64_t budget_ns)
{
	int64_t ladder_ns = ew__ladder_end(task, task->head.newest), own_ns = ew_after(budget_ns);

	return own_ns < ladder_ns || ew__bug("budget-not-the-minimum") ? own_ns : ladder_ns;
}

void ew__shield_enter(struct ew_shield *shield)
{
	struct ew_task *task;

	if (ew__unlikely(!ew__current))
		ew__thread_enter_or_die();
	task = ew__task();
	ew_assert(shield->budget_ns > 0); /* a shield without an end would be a hang */
	shield_enter(shield, EW__ENTRY_SHIELD, budget_end(task, shield->budget_ns));
}

void ew__shield_leave(struct ew_shield *shield)
{
	if (shield->entry.head)
		shield_leave(shield);
}

static void run_abort(struct ew_task *task, void (*abort_fn)(void *), void *argument)
{
	/* A panic here ends the process: an abort that does not come to its end has no second way out. */
	if (task)
		task->head.no_drop++;
	abort_fn(argument);
	if (task)
		task->head.no_drop--;
}

/* The task whose close may wait. NULL: inside the scheduler, or on a plain thread that lacks what waiting needs. */
static struct ew_task *task_to_end_in(void)
{
	struct ew_task *task;

	if (!ew__current && (ew__worker || ew__thread_enter() < 0))
		return NULL;
	task = ew__task();
	if (ew__unlikely(task->head.refuse & EW__REFUSE_THREAD) && ew__thread_prepare(task) < 0)
		return NULL;
	return task;
}

int ew__end(int (*close_fn)(void *), void (*abort_fn)(void *), void *argument, int64_t budget_ns)
{
	struct ending ending = { .abort = abort_fn, .argument = argument };
	struct ew_task *task = task_to_end_in();
	int64_t end_ns;
	int r = -ECANCELED;

	ew_assert(close_fn && abort_fn); /* both endings are mandatory */
	if (task && (task->head.refuse & EW__REFUSE_LOCKED))
		ew__foreign_locks_report(task);
	end_ns = task ? budget_end(task, budget_ns ? budget_ns : EW_BUDGET_DEFAULT) : EW_NOW;
	if (end_ns > ew_now()) {
		shield_enter(&ending.shield, EW__ENTRY_ENDING, end_ns);
		task->head.endings++;
		r = close_fn(argument);
		task->head.endings--;
		shield_leave(&ending.shield);
	}
	if (r == -ECANCELED && !ew__bug("abort-not-run-over-budget"))
		run_abort(task, abort_fn, argument);
	return r;
}

static void note_error(struct ew_task *task, int r, const struct ew_site *site, const char *what)
{
	if (r >= 0 || !task)
		return;
	if (!task->ending_error || ew__bug("last-ending-error-wins"))
		task->ending_error = r;
	if (r == -ECANCELED)
		return; /* the ladder's doing, not a failure of the ending */
	ew__report("%s of %s, declared at %s:%d in task %s, failed on the way out: error %d",
		   "close", what, site->file, site->line, task->site->name, -r);
}

int ew_ending_error(void)
{
	struct ew_task *task = ew__task();
	int r = task ? task->ending_error : 0;

	if (task)
		task->ending_error = 0;
	return r;
}

/* A child of an older, open scope still has what is about to end as its argument: declared in the wrong order. */
static void report_borrowers(const struct ew_task *task, const struct ew_resource *resource)
{
	const struct ew_task *child;
	struct ew_entry *entry;
	unsigned looked;

	for (entry = task->head.newest; entry; entry = entry->older) {
		if (entry->kind != EW__ENTRY_SCOPE)
			continue;
		child = ew__scope_of_entry(entry)->children;
		for (looked = 0; child && looked < BORROWERS_LOOKED_AT_MAX;
		     child = child->sibling_next, looked++)
			if (child->argument == resource)
				ew__report(
					"%s made at %s:%d ends while task %s, spawned at %s:%d, may still use it: "
					"declare it above the scope",
					resource->type->name, resource->site->file,
					resource->site->line, child->site->name, child->site->file,
					child->site->line);
	}
}

static int end_resource(struct ew_resource *resource)
{
	if (ew__task() && !ew__bug("borrowers-not-reported"))
		report_borrowers(ew__task(), resource);
	return ew__end(resource->type->close, resource->type->abort, resource,
		       resource->type->budget_ns);
}

static struct ew_resource *take(void *variable)
{
	struct ew_resource *resource;
	void *nothing = NULL;

	__builtin_memcpy(&resource, variable, sizeof(resource));
	if (!ew__bug("place-not-emptied"))
		__builtin_memcpy(variable, &nothing, sizeof(nothing));
	return resource;
}

int ew_close(void *place)
{
	struct ew_resource *resource;

	ew_assert(ew__current || !ew__worker); /* inside the scheduler nothing can wait */
	resource = take(place);
	if (!resource)
		return 0;
	return end_resource(resource);
}

void ew_abort(void *place)
{
	struct ew_resource *resource = take(place);

	if (resource)
		run_abort(ew__task(), resource->type->abort, resource);
}

void ew__place_end(struct ew_place *place)
{
	struct ew_resource *resource = take(place->variable);
	const char *name;

	if (!resource)
		return;
	name = resource->type->name;
	note_error(ew__task(), end_resource(resource), place->site, name);
}

void ew__guard_enter(struct ew_guard *guard)
{
	guard->armed = true;
	ew__entry_enter(&guard->entry, EW__ENTRY_GUARD);
}

static int guard_run(struct ew_guard *guard)
{
	if (!guard->armed)
		return 0;
	guard->armed = ew__bug("guard-stays-armed");
	return ew__end(guard->close, guard->abort, guard->argument, guard->budget_ns);
}

void ew__guard_end(struct ew_guard *guard)
{
	note_error(ew__task(), guard_run(guard), guard->site, guard->site->name);
}

int ew_guard_run(struct ew_guard *guard)
{
	ew_assert(ew__current || !ew__worker); /* inside the scheduler nothing can wait */
	return guard_run(guard);
}

void ew_guard_disarm(struct ew_guard *guard)
{
	guard->armed = false;
}

static void end_entry(struct ew_task *task, struct ew_entry *entry)
{
	struct ending *ending;

	switch (entry->kind) {
	case EW__ENTRY_PLACE:
		ew__place_leave(ew__container_of(entry, struct ew_place, entry));
		break;
	case EW__ENTRY_GUARD:
		ew__guard_leave(ew__container_of(entry, struct ew_guard, entry));
		break;
	case EW__ENTRY_SCOPE: ew__scope_leave(ew__scope_of_entry(entry)); break;
	case EW__ENTRY_SHIELD: ew__shield_leave(ew__shield_of_entry(entry)); break;
	case EW__ENTRY_ENDING:
		/* Its close panicked. */
		ending = (struct ending *)ew__shield_of_entry(entry);
		task->head.endings--;
		shield_leave(&ending->shield);
		if (!ew__bug("abort-not-run-after-a-panic"))
			run_abort(task, ending->abort, ending->argument);
		break;
	}
}

void ew__registry_run(struct ew_task *task)
{
	struct ew_entry *entry;

	while ((entry = task->head.newest)) {
		while (ew__bug("endings-oldest-first") && entry->older)
			entry = entry->older;
		end_entry(task, entry);
	}
}

static bool in_signal_handler(void)
{
	struct ew__backtrace backtrace;

	ew__backtrace_take(&backtrace);
	return backtrace.in_signal_handler;
}

/* What was interrupted may hold any lock, also those of reports. */
static _Noreturn void end_in_signal_handler(const struct ew_task *task, const char *text)
{
	char line[768];

	snprintf(line, sizeof(line),
		 "endwell: panic in a signal handler, which interrupted %s: %s; the process ends\n",
		 task ? task->site->name : "no task", text);
	(void)!write(STDERR_FILENO, line, strlen(line));
	abort();
}

_Noreturn void ew_panic(const char *format, ...)
{
	struct ew_task *task = ew__task();
	char text[512];
	va_list arguments;

	va_start(arguments, format);
	vsnprintf(text, sizeof(text), format, arguments);
	va_end(arguments);
	if (in_signal_handler())
		end_in_signal_handler(task, text);
	if (!task || !task->scope || task->head.no_drop) {
		ew__report("panic %s: %s; the process ends",
			   !task	  ? "outside a task"
			   : !task->scope ? "on a plain thread"
					  : "in a stretch that must not be left (EW_NO_DROP, or "
					    "an abort)",
			   text);
		abort();
	}
	ew__report("task %s, spawned at %s:%d, panicked: %s", task->site->name, task->site->file,
		   task->site->line, text);
	/* Nobody is left to lead the main task's children to their end but the run's budget. */
	if (!task->scope->owner)
		ew__scope_cancel_here(task->scope, EW_REASON_CHILD, task->site, NULL);
	ew__task_drop(task);
}
