/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Waiting for nothing but time, or for everybody else's turn.
 */

#include "sync/sleep.h"

#include "scope/cancel.h"
#include "seeded/bug.h"

#include <endwell/clock.h>
#include <endwell/task.h>

int ew_yield(void)
{
	int r = ew__enter();

	if (r < 0)
		return r;
	ew__yield();
	return 0;
}

struct sleeper {
	struct ew__wait wait;
	struct ew__timer timer;
};

static void expired(struct ew__timer *timer)
{
	ew__wait_end(&(ew__container_of(timer, struct sleeper, timer))->wait, 0);
}

static void cancelled(struct ew__wait *wait)
{
	if (!ew__bug("cancelled-sleep-leaves-its-timer"))
		ew__timer_cancel(wait->task->worker, &((struct sleeper *)wait)->timer);
	ew__wait_end(wait, -ECANCELED);
}

int ew__sleep_on(int64_t deadline_ns, const char *what)
{
	struct sleeper sleeper = { .wait.cancel = cancelled, .timer.expire = expired };

	if (ew__current->refuse & EW__REFUSE_CANCEL)
		return -ECANCELED;
	if (deadline_ns != EW_NEVER)
		ew__timer_arm(ew__worker, &sleeper.timer, deadline_ns);
	return ew__suspend(&sleeper.wait, what);
}

int ew_sleep_until(int64_t deadline_ns)
{
	int r = ew__enter();

	if (r < 0)
		return r;
	return deadline_ns <= ew_now() ? ew_yield() : ew__sleep_on(deadline_ns, "a time");
}

int ew_sleep(int64_t duration_ns)
{
	return ew_sleep_until(ew_after(duration_ns));
}
