/* SPDX-License-Identifier: Apache-2.0 */

/*
 * The waiter is in line before the mutex is unlocked, so a signal that comes after that finds it. A signal takes
 * one out of the line, and from then on it is that one's: a cancel or a deadline that comes later finds the waiter
 * gone, and one that came before has made room for the next in line. So no signal is lost between the two.
 *
 * The waiter locks again by itself, at the end of the mutex's line. That wait is not refused: the callers of a
 * condition rely on the lock whatever it returns, and what they wait for is another task's critical section.
 */

#include "seeded/bug.h"
#include "sync/mutex.h"
#include "sync/waiter.h"

#include <endwell/condition.h>

static struct ew__line line_of(struct ew_condition *condition)
{
	return (struct ew__line){ &condition->first, &condition->last };
}

static void leave(struct ew_waiter *waiter)
{
	ew__line_remove(line_of(waiter->line), waiter);
}

static void line_up(struct ew_condition *condition, struct ew_mutex *mutex,
		    struct ew_waiter *waiter)
{
	ew__lock(&condition->lock);
	ew_assert(!condition->first ||
		  condition->mutex == mutex); /* all wait with the same mutex */
	condition->mutex = mutex;
	ew__line_append(line_of(condition), waiter);
	ew__unlock(&condition->lock);
}

int ew_condition_wait(struct ew_condition *condition, int64_t deadline_ns,
		      struct ew_mutex_hold **hold)
{
	const struct ew_site *site;
	struct ew_mutex *mutex;
	struct ew_waiter waiter;
	int r = ew__enter(), again;

	if (r < 0)
		return r;
	ew_assert(*hold); /* a condition is waited for with its mutex locked */
	site = (*hold)->resource.site;
	mutex = ew__mutex_of(*hold);
	ew_assert(ew__mutex_is_consistent(mutex)); /* unlocked unrepaired it would be lost */
	ew__waiter_init(&waiter, &condition->lock, leave, condition);
	line_up(condition, mutex, &waiter);
	ew_mutex_unlock(hold);
	r = ew__waiter_wait(&waiter, deadline_ns, "a condition");
	again = ew__bug("condition-cancelled-without-its-lock") && r == -ECANCELED
			? 0
			: ew__mutex_lock_again(mutex, site, hold);
	return again < 0 ? again : r;
}

void ew_condition_signal(struct ew_condition *condition)
{
	struct ew_waiter *waiter;

	ew__lock(&condition->lock);
	waiter = ew__line_take_first(line_of(condition));
	ew__unlock(&condition->lock);
	ew__waiters_wake(waiter, 0);
}

void ew_condition_broadcast(struct ew_condition *condition)
{
	struct ew_waiter *waiting;

	ew__lock(&condition->lock);
	waiting = ew__line_take_all(line_of(condition));
	ew__unlock(&condition->lock);
	ew__waiters_wake(waiting, 0);
}
