/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * Tasks: functions on their own stacks
 * A task runs on one worker until it returns; its locals never move. What belongs to a thread (errno, the signal
 * mask, the rounding mode) is shared by the tasks of a worker.
 */

#include <endwell/resource.h>
#include <endwell/scope.h>

/** ew_task_fn - a task's function; its result is 0 or a count, or -errno, which its scope sees */
typedef int ew_task_fn(void *argument);

/** ew_task_take_fn - as ew_task_fn; @place is the address of the pointer that owns the resource taken */
typedef int ew_task_take_fn(void *argument, void *place);

/**
 * struct ew_spawn_options - how a task is to run; zero is the default for each
 * @worker:    1-based number of the worker (see ew_workers_count()); 0: the caller's
 * @droppable: under force the task may be ended where it suspends instead of by returning: its
 *             registry runs, plain cleanup attributes and what is not registered do not
 * @child:     where its result is kept, and by which ew_scope_join_next() tells that it has ended; NULL: nowhere
 */
struct ew_spawn_options {
	unsigned worker;
	bool droppable;
	struct ew_child *child;
};

EW_MUST_CHECK EW_API int ew__spawn(struct ew_scope *scope, ew_task_fn *fn, void *argument,
				   struct ew_spawn_options options, const struct ew_site *site);
EW_MUST_CHECK EW_API int ew__spawn_take(struct ew_scope *scope, ew_task_take_fn *fn, void *argument,
					void *place, struct ew_spawn_options options,
					const struct ew_site *site);

/**
 * ew_spawn() - start a task as child of a scope: ew_spawn(&scope, fn, argument, .worker = 2)
 *
 * Does not suspend; must be called by a task on the scope's own worker. The child is started even if it is cancelled first.
 * Errors:       -ECANCELED the scope is cancelled, -EAGAIN no memory for a stack, -EINVAL there is no such
 *               worker, -ENOTSUP a plain thread, with a report; nothing is taken.
 */
#define ew_spawn(scope, fn, argument, ...)                                                         \
	ew__spawn(scope, fn, argument, (struct ew_spawn_options){ __VA_ARGS__ }, EW_SITE(#fn))

/**
 * ew_spawn_take() - start a task that owns a resource from before its first instruction
 * @place: address of the pointer that owns it; NULL in it on success, unchanged on error
 *
 * The child gets the address of its own place as second argument, and may close it by name or move
 * the resource on. Otherwise as ew_spawn().
 */
#define ew_spawn_take(scope, fn, argument, place, ...)                                             \
	ew__spawn_take(scope, fn, argument, place, (struct ew_spawn_options){ __VA_ARGS__ },       \
		       EW_SITE(#fn))

/**
 * ew_yield() - let every other task that can run do so first
 * Errors:  -ECANCELED
 */
EW_SUSPENDS EW_API int ew_yield(void);

/**
 * ew_sleep_until() - wait until a deadline
 * Return:  0 at @deadline_ns or later (wheel granularity: 1 ms, rounded up)
 * Errors:  -ECANCELED
 */
EW_SUSPENDS EW_API int ew_sleep_until(int64_t deadline_ns);

/** ew_sleep() - as ew_sleep_until(), relative. Errors: -ECANCELED */
EW_SUSPENDS EW_API int ew_sleep(int64_t duration_ns);

/**
 * ew_panic() - end the running task here; only the task ends
 *
 * Its registry runs on its own stack with all frames alive, newest first, endings may wait; then the
 * stack is discarded and the scope gets -ENOTRECOVERABLE. Inside an ending: that one is aborted, the
 * older ones go on. In a stretch marked EW_NO_DROP, on a plain thread, or in a signal handler (of which nobody knows
 * what it has interrupted), the process ends with a report.
 */
EW_API _Noreturn void ew_panic(const char *format, ...) __attribute__((format(printf, 1, 2)));

/**
 * ew_check() - a program's own assertion: a bug in one task ends that task, by a panic
 *
 *	ew_check(order->lines_count > 0);
 *
 * Where the bug may have hurt more than the task, ew_assert() ends the process. On in release.
 */
#define ew_check(condition)                                                                        \
	((void)(ew__likely(condition) ||                                                           \
		(ew_panic("check failed at %s:%d: %s", __FILE__, __LINE__, #condition), 0)))

static inline void ew__no_drop_leave(uint16_t **count)
{
	if (*count)
		--**count;
}

/** EW_NO_DROP() - until the block's end this task must not be ended where it stands (foreign code, a held lock) */
#define EW_NO_DROP()                                                                               \
	uint16_t *ew__no_drop __attribute__((unused, cleanup(ew__no_drop_leave))) =                \
		ew__current ? (++ew__current->no_drop, &ew__current->no_drop) : NULL

/** ew_task_name() - the running task's function as spawned; "" outside a task */
EW_API const char *ew_task_name(void);

/** ew_worker() - 1-based number of the calling worker; 0 outside a runtime */
EW_API unsigned ew_worker(void);

/** ew_workers_count() - workers of this runtime; 0 outside one */
EW_API unsigned ew_workers_count(void);
