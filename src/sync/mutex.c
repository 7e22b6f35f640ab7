/* SPDX-License-Identifier: Apache-2.0 */

/*
 * The lock goes from hand to hand: who unlocks names the next holder, under the line's lock, and wakes it.
 * Between that moment and the next holder's first instruction the mutex is held, so nobody overtakes.
 *
 * How a hold ended is told by a number. A task counts how often it was ended where it stood, and a hold notes
 * the count when it begins. The same count at its end: its block was left, however that came. Another one: it was
 * left behind by a panic or by force. So an ending that locks and unlocks while its task is being dropped is in
 * order, and one that panics in between is not.
 */

#include "sync/mutex.h"

#include "scope/resource.h"
#include "seeded/bug.h"
#include "sync/waiter.h"

#include <endwell/clock.h>

enum state { CONSISTENT, OWNER_DIED, LOST };

static void end(struct ew_mutex_hold *hold);

static int hold_close(void *resource)
{
	end(resource);
	return 0;
}

static void hold_abort(void *resource)
{
	end(resource);
}

static const struct ew_resource_type hold_type = {
	.name = "lock of a mutex",
	.close = hold_close,
	.abort = hold_abort,
};

static struct ew__line line_of(struct ew_mutex *mutex)
{
	return (struct ew__line){ &mutex->first, &mutex->last };
}

static void leave(struct ew_waiter *waiter)
{
	ew__line_remove(line_of(waiter->line), waiter);
}

/* The caller holds the line's lock, here and below. */
static void grant(struct ew_mutex *mutex, struct ew_task *task)
{
	mutex->held = true;
	mutex->hold.task = task;
}

/* The next holder; NULL: there is none. */
static struct ew_waiter *pass_on(struct ew_mutex *mutex)
{
	struct ew_waiter *next = ew__line_take_first(line_of(mutex));

	if (next)
		grant(mutex, next->task);
	return next;
}

static void release(struct ew_mutex *mutex, bool died)
{
	struct ew_waiter *woken;
	bool lost;

	ew__lock(&mutex->lock);
	mutex->held = false;
	lost = !died && mutex->state == OWNER_DIED;
	if (lost)
		mutex->state = ew__bug("mutex-unrepaired-passes-as-sound") ? CONSISTENT : LOST;
	else if (died)
		mutex->state = ew__bug("mutex-owner-died-unnoticed") ? CONSISTENT : OWNER_DIED;
	woken = lost ? ew__line_take_all(line_of(mutex)) : pass_on(mutex);
	ew__unlock(&mutex->lock);
	ew__waiters_wake(woken, lost ? -ENOTRECOVERABLE : 0);
}

static bool is_holder(const struct ew_mutex_hold *hold, const struct ew_task *task)
{
	return hold->task == task || !hold->task;
}

static void end(struct ew_mutex_hold *hold)
{
	struct ew_task *task = ew__task();
	/* No task now: forgotten. None when it began: a plain thread that had not suspended yet, which cannot be dropped. */
	bool died = task && hold->task ? task->drops != hold->drops : hold->task != NULL;

	ew_assert(!task || is_holder(hold, task)); /* a lock is ended by the task that holds it */
	ew_resource_deinit(&hold->resource);
	release(ew__mutex_of(hold), died);
}

/* The lock is the running task's: 0, or -EOWNERDEAD. */
static int begin(struct ew_mutex *mutex, const struct ew_site *site,
		 struct ew_mutex_hold **ret_hold)
{
	struct ew_task *task = ew__task();

	mutex->hold.drops = task ? task->drops : 0;
	ew_resource_init(&mutex->hold.resource, &hold_type, site);
	*ret_hold = &mutex->hold;
	return mutex->state == OWNER_DIED ? -EOWNERDEAD : 0;
}

/* 0: held; -EAGAIN: @waiter is in line, if there is one; -ENOTRECOVERABLE. */
static int take_or_line_up(struct ew_mutex *mutex, struct ew_waiter *waiter)
{
	int r = 0;

	ew__lock(&mutex->lock);
	if (mutex->state == LOST) {
		r = -ENOTRECOVERABLE;
	} else if (!mutex->held) {
		grant(mutex, ew__task());
	} else {
		r = -EAGAIN;
		if (waiter) {
			ew_assert(mutex->hold.task != ew__task()); /* it would wait for itself */
			ew__line_append(line_of(mutex), waiter);
		}
	}
	ew__unlock(&mutex->lock);
	return r;
}

/* A wait that may be refused has been asked whether it is, and can be cancelled. */
static int lock(struct ew_mutex *mutex, int64_t deadline_ns, bool refusable,
		const struct ew_site *site, struct ew_mutex_hold **ret_hold)
{
	struct ew_waiter waiter;
	int r;

	ew__waiter_init(&waiter, &mutex->lock, leave, mutex);
	if (!refusable)
		waiter.wait.cancel = NULL;
	r = take_or_line_up(mutex, &waiter);
	if (r == -EAGAIN)
		r = ew__waiter_wait(&waiter, deadline_ns, "a mutex");
	return r < 0 ? r : begin(mutex, site, ret_hold);
}

int(ew_mutex_lock)(struct ew_mutex *mutex, int64_t deadline_ns, struct ew_mutex_hold **ret_hold)
{
	const struct ew_site *site = ew__made_at;
	int r = ew__enter();

	if (r < 0)
		return r;
	ew__place_must_be_empty(ret_hold, site);
	return lock(mutex, deadline_ns, true, site, ret_hold);
}

int ew__mutex_lock_again(struct ew_mutex *mutex, const struct ew_site *site,
			 struct ew_mutex_hold **ret_hold)
{
	return lock(mutex, EW_NEVER, false, site, ret_hold);
}

int(ew_mutex_try_lock)(struct ew_mutex *mutex, struct ew_mutex_hold **ret_hold)
{
	const struct ew_site *site = ew__made_at;
	int r;

	ew__place_must_be_empty(ret_hold, site);
	r = take_or_line_up(mutex, NULL);
	return r < 0 ? r : begin(mutex, site, ret_hold);
}

bool ew__mutex_is_consistent(const struct ew_mutex *mutex)
{
	return mutex->state == CONSISTENT;
}

void ew_mutex_make_consistent(struct ew_mutex_hold *hold)
{
	struct ew_mutex *mutex = ew__mutex_of(hold);

	ew_assert(mutex->held && is_holder(hold, ew__task()));
	ew__lock(&mutex->lock);
	mutex->state = CONSISTENT;
	ew__unlock(&mutex->lock);
}

void ew_mutex_unlock(struct ew_mutex_hold **hold)
{
	struct ew_mutex_hold *held = *hold;

	*hold = NULL;
	if (held)
		end(held);
}
