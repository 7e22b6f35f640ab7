/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * Condition: something that a mutex protects has changed
 * Signalled by any thread; waited for by tasks of any worker that hold the mutex.
 *
 *	while (queue->count == 0) {
 *		r = ew_condition_wait(&queue->filled, EW_NEVER, &hold);
 *		if (r < 0)
 *			return r;
 *	}
 *
 * No wait ends without a reason, but between a signal and the lock others may have been faster: look again.
 * A task that is ended where it stands signals nobody. What the others have to hear even then is said by a guard
 * that is declared above the hold, and so runs when the lock is free.
 */

#include <endwell/mutex.h>

/** struct ew_condition - caller's memory; zero-initialised is ready */
struct ew_condition {
	_Atomic uint32_t lock;
	struct ew_mutex *mutex; /* of those in line */
	struct ew_waiter *first;
	struct ew_waiter *last;
};

/**
 * ew_condition_wait() - unlock, wait for a signal, and lock again
 * @hold: the place of the calling task that holds the mutex; all that wait at a time wait with the same mutex
 *
 * Suspends:     until it is signalled, and then until it has the lock again. No signal that comes after the
 *               unlocking is missed. The mutex must be consistent.
 * Cancellation: ends the wait for a signal, as the deadline does. The wait for the lock is never refused, as a join:
 *               it lasts as long as those in front of it hold the lock.
 * Ownership:    the place is empty meanwhile, and holds the lock on every return but -ENOTRECOVERABLE.
 * Return:       0: it was signalled. A signal given while a cancel or the deadline arrives is kept: the cancel
 *               comes at the next suspension.
 * Errors:       -ETIMEDOUT, -ECANCELED: no signal was used up. -EOWNERDEAD as of ew_mutex_lock(): whether there
 *               was a signal is to be seen in what the lock protects. -ENOTRECOVERABLE the mutex is lost.
 */
EW_SUSPENDS EW_API int ew_condition_wait(struct ew_condition *condition, int64_t deadline_ns,
					 struct ew_mutex_hold **hold);

/**
 * ew_condition_signal() - wake the first in line, if there is one; from any thread, with or without the lock
 *
 * A waiter that a cancel or its deadline has taken out of the line does not count: the next one gets the signal.
 */
EW_API void ew_condition_signal(struct ew_condition *condition);

/** ew_condition_broadcast() - wake all that are in line, in order; from any thread, with or without the lock */
EW_API void ew_condition_broadcast(struct ew_condition *condition);
