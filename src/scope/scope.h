/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * Scope, inside
 */

#include "scope/cancel.h"
#include "task/choice.h"

/* Opens a scope that no block declares, for the run: children on @worker, no owner. */
void ew__scope_init_root(struct ew_scope *scope, struct ew_worker *worker);

/* The scope's tokens whose wait is over. On its worker. */
void ew__scope_wake_waiters(struct ew_scope *scope);

/* The scope around the main task of the calling task's run; NULL on a plain thread. */
struct ew_scope *ew__scope_of_run(void);

/* Its block waits for children; no longer. */
static inline void ew__scope_wake_joiner(struct ew_scope *scope)
{
	struct ew__wait *wait = scope->joiner;

	scope->joiner = NULL;
	if (ew__likely(!scope->choice) || ew__choice_claim(scope->choice, scope))
		ew__wait_end(wait, 0);
}

/* Whether a join need not wait, for the next child or for all. */
bool ew__scope_is_joined(struct ew_scope *scope, bool next_wanted);

/* Out of the queue of those that have ended; NULL: it is empty. */
struct ew_child *ew__scope_next_ended(struct ew_scope *scope);

/*
 * Gives the scope a reason and spreads it. On its own worker.
 * @task: on whose account; NULL: no task's
 * @line: where it was asked for, or what was made there is the cause; NULL: it is not known
 */
void ew__scope_cancel_here(struct ew_scope *scope, enum ew_reason reason,
			   const struct ew_site *task, const struct ew_site *line);

static inline struct ew_scope *ew__scope_of_entry(struct ew_entry *entry)
{
	return ew__container_of(entry, struct ew_scope, entry);
}

static inline struct ew_shield *ew__shield_of_entry(struct ew_entry *entry)
{
	return ew__container_of(entry, struct ew_shield, entry);
}

/* The running task's registry, newest first, to its end. */
void ew__registry_run(struct ew_task *task);

/* Ends the running task where it stands: its registry, then -ENOTRECOVERABLE for its scope. */
_Noreturn void ew__task_drop(struct ew_task *task);

/* Closes under a shield, aborts if that did not end it. Returns close's result; -ECANCELED: aborted. */
int ew__end(int (*close)(void *), void (*abort)(void *), void *argument, int64_t budget_ns);

/* "task NAME (FILE:LINE) waits for ...", of a task of the calling worker. */
void ew__task_describe(const struct ew_task *task, char *text, size_t text_bytes);

/* "scope NAME (FILE:LINE) of task NAME: cancelled 20 ms ago: ...". Any thread that knows the scope to live. */
void ew__scope_describe(const struct ew_scope *scope, char *text, size_t text_bytes);

/* One line to the program's report function. */
void ew__report(const char *format, ...) __attribute__((format(printf, 1, 2)));
