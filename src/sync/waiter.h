/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * Waiter: one task in a line that tasks of several workers stand in
 *
 * The line belongs to a structure with a lock. Whoever takes a waiter out of the line, under that lock,
 * decides its result, notes in the waiter what it is given, and wakes it once, outside the lock: by itself on the
 * same worker, by message elsewhere. The task's frame holds the waiter, so it may not return before that message
 * has come; a cancel or a timeout that finds the waiter given to therefore waits for the decision that was made.
 *
 * Of a select, one waiter stands in the line of each alternative, and the first to be taken out decides. Those that
 * come too late are taken out as well, and passed over: they are nobody.
 */

#include "scope/cancel.h"
#include "task/choice.h"
#include "task/lock.h"

/*
 * Whoever is given to does not touch the lock any more, since what it is part of may be gone by then. One that is
 * about to take the lock is waited for, until it has heard.
 */
enum ew__waiter_state {
	EW__WAITER_STANDS,
	EW__WAITER_LEAVES, /* its own worker is about to take the lock */
	EW__WAITER_GIVEN,
	EW__WAITER_HEARD, /* after LEAVES and GIVEN: it will not take the lock */
	EW__WAITER_LET_GO,
};

struct ew_waiter {
	struct ew__wait wait;
	struct ew__timer timer;
	struct ew__message message;
	struct ew_task *task; /* for any thread; wait.task is its own worker's */
	struct ew_worker *worker;
	struct ew_waiter *next;
	struct ew_waiter *prev;
	struct ew__choice *choice; /* whose alternative it is; NULL: it waits in this line alone */
	_Atomic uint32_t *lock;
	/* Takes the waiter out of the line, where it is; called with the lock held. */
	void (*leave)(struct ew_waiter *waiter);
	void *line;
	void *value; /* for those who serve the line */
	void *given; /* what it gets, once its state says that somebody has decided */
	int32_t given_result;
	_Atomic uint8_t state; /* enum ew__waiter_state */
};

struct ew__line {
	struct ew_waiter **first;
	struct ew_waiter **last;
};

void ew__line_append(struct ew__line line, struct ew_waiter *waiter);
void ew__line_remove(struct ew__line line, struct ew_waiter *waiter);

/* @waiter gets @given, and will be woken. With the lock held; the last touch of one that is not to be woken. */
void ew__waiter_give(struct ew_waiter *waiter, void *given);

/* The first, marked as given to; for ew__waiter_wake(). NULL: nobody is in it. */
struct ew_waiter *ew__line_take_first(struct ew__line line);

/* The whole line, each of it marked as given to; for ew__waiters_wake(). */
struct ew_waiter *ew__line_take_all(struct ew__line line);

/* Before the lock is taken and the waiter appended. */
void ew__waiter_init(struct ew_waiter *waiter, _Atomic uint32_t *lock,
		     void (*leave)(struct ew_waiter *), void *line);

/* It leaves the line if it is still there. Takes the lock, unless it has been given to. True: it was. */
bool ew__waiter_leave(struct ew_waiter *waiter);

/* After it was appended and the lock released. */
int ew__waiter_wait(struct ew_waiter *waiter, int64_t deadline_ns, const char *what);

/* It is out of the line; the lock is released. Any thread; the last touch of the waiter. */
void ew__waiter_wake(struct ew_waiter *waiter, int result);

/* The same for a whole line that was taken over; NULL: nobody was in it. */
void ew__waiters_wake(struct ew_waiter *first, int result);
