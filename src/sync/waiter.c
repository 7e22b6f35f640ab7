/* SPDX-License-Identifier: Apache-2.0 */

/*
 * See waiter.h for the rules; here is the traffic: a wake that comes from another thread is a message,
 * and a timeout or cancel is a withdrawal that may come too late.
 */

#include "sync/waiter.h"

#include "seeded/bug.h"

#include <endwell/clock.h>
#include <sched.h>

void ew__line_append(struct ew__line line, struct ew_waiter *waiter)
{
	waiter->next = NULL;
	waiter->prev = *line.last;
	if (*line.last)
		(*line.last)->next = waiter;
	else
		*line.first = waiter;
	*line.last = waiter;
}

void ew__line_remove(struct ew__line line, struct ew_waiter *waiter)
{
	if (waiter->prev)
		waiter->prev->next = waiter->next;
	else
		*line.first = waiter->next;
	if (waiter->next)
		waiter->next->prev = waiter->prev;
	else
		*line.last = waiter->prev;
	waiter->next = NULL;
	waiter->prev = NULL;
}

static void await_state(struct ew_waiter *waiter, uint8_t state)
{
	while (atomic_load_explicit(&waiter->state, memory_order_acquire) != state)
		sched_yield();
}

void ew__waiter_give(struct ew_waiter *waiter, void *given)
{
	waiter->given = given;
	if (ew__likely(atomic_exchange(&waiter->state, EW__WAITER_GIVEN) == EW__WAITER_STANDS))
		return;
	await_state(waiter, EW__WAITER_HEARD);
	atomic_store_explicit(&waiter->state, EW__WAITER_LET_GO, memory_order_release);
}

struct ew_waiter *ew__line_take_first(struct ew__line line)
{
	struct ew_waiter *waiter;
	bool chosen = false;

	while (!chosen && (waiter = *line.first)) {
		waiter->leave(waiter);
		chosen = !waiter->choice || ew__choice_claim(waiter->choice, waiter);
		if (!ew__bug("wake-lost-to-a-cancel"))
			ew__waiter_give(waiter, waiter->line);
	}
	return waiter;
}

struct ew_waiter *ew__line_take_all(struct ew__line line)
{
	struct ew_waiter *first = NULL, **end = &first, *waiter;

	while ((waiter = ew__line_take_first(line))) {
		*end = waiter;
		end = &waiter->next;
	}
	return first;
}

/* False: it has been given to meanwhile. */
static bool lock_to_leave(struct ew_waiter *waiter)
{
	uint8_t state = EW__WAITER_STANDS;

	if (!atomic_compare_exchange_strong(&waiter->state, &state, EW__WAITER_LEAVES))
		return false;
	while (!ew__try_lock(waiter->lock)) {
		state = EW__WAITER_GIVEN;
		if (atomic_compare_exchange_strong(&waiter->state, &state, EW__WAITER_HEARD)) {
			await_state(waiter, EW__WAITER_LET_GO);
			return false;
		}
		sched_yield();
	}
	return true;
}

bool ew__waiter_leave(struct ew_waiter *waiter)
{
	if (!lock_to_leave(waiter))
		return false;
	if (!ew__bug("withdrawn-waiter-stays-in-line"))
		waiter->leave(waiter);
	ew__unlock(waiter->lock);
	return true;
}

static void withdraw(struct ew_waiter *waiter, int result)
{
	if (ew__waiter_leave(waiter))
		ew__wait_end(&waiter->wait, result);
}

static void waiter_cancelled(struct ew__wait *wait)
{
	withdraw(ew__container_of(wait, struct ew_waiter, wait), -ECANCELED);
}

static void waiter_expired(struct ew__timer *timer)
{
	struct ew_waiter *waiter = ew__container_of(timer, struct ew_waiter, timer);

	if (!waiter->wait.done)
		withdraw(waiter, -ETIMEDOUT);
}

static struct ew__wait *wait_of(struct ew_waiter *waiter)
{
	return waiter->choice ? &waiter->choice->wait : &waiter->wait;
}

static void deliver_wake(struct ew__message *message)
{
	struct ew_waiter *waiter = ew__container_of(message, struct ew_waiter, message);

	ew__wait_end(wait_of(waiter), waiter->given_result);
}

void ew__waiter_init(struct ew_waiter *waiter, _Atomic uint32_t *lock,
		     void (*leave)(struct ew_waiter *), void *line)
{
	*waiter = (struct ew_waiter){
		.wait = { .cancel = waiter_cancelled },
		.timer.expire = waiter_expired,
		.message.deliver = deliver_wake,
		.task = ew__task(),
		.worker = ew__worker,
		.lock = lock,
		.leave = leave,
		.line = line,
	};
}

int ew__waiter_wait(struct ew_waiter *waiter, int64_t deadline_ns, const char *what)
{
	int r;

	if (deadline_ns != EW_NEVER)
		ew__timer_arm(waiter->worker, &waiter->timer, deadline_ns);
	r = ew__suspend(&waiter->wait, what);
	if (!ew__bug("waiter-leaves-its-timer-armed"))
		ew__timer_cancel(waiter->worker, &waiter->timer);
	return r;
}

void ew__waiter_wake(struct ew_waiter *waiter, int result)
{
	waiter->given_result = result;
	if (waiter->worker == ew__worker || ew__bug("wakes-on-the-wrong-worker"))
		ew__wait_end(wait_of(waiter), result);
	else
		ew__post(waiter->worker, &waiter->message);
}

void ew__waiters_wake(struct ew_waiter *first, int result)
{
	struct ew_waiter *next;

	for (; first; first = next) {
		next = first->next;
		ew__waiter_wake(first, result);
	}
}
