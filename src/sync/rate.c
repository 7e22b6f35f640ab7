/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Only the first in line has to do with tokens. It sleeps until as many as it wants will be there, which nobody else
 * can delay, since nobody takes any while there is a line; then it takes them and wakes the second, who is first from
 * then on. So there is one timer that matters, on the first one's own worker, and nothing to correct when somebody
 * further behind is cancelled.
 *
 * Being first is what a waiter is given. One that is cancelled in the same moment has to hand it on, as it does after
 * every sleep, whatever came of that.
 *
 * What is in the bucket is counted in billionths of a token, of which per_second come in each nanosecond: whole
 * numbers, so nothing is lost by rounding.
 */

#include "seeded/bug.h"
#include "sync/sleep.h"
#include "sync/waiter.h"

#include <endwell/clock.h>
#include <endwell/rate.h>
#include <stdlib.h>

#define TOKEN INT64_C(1000000000)

struct ew_rate {
	_Atomic uint32_t lock;
	unsigned per_second;
	unsigned burst;
	unsigned waiting_count;
	unsigned waiting_max;
	int64_t level; /* at level_ns */
	int64_t level_ns;
	struct ew_waiter *first;
	struct ew_waiter *last;
};

_Static_assert(UINT32_MAX <= INT64_MAX / TOKEN / 2, "a full bucket and what comes in is a number");

struct ew_rate *ew_rate_new(unsigned per_second, unsigned burst, unsigned waiting_max)
{
	struct ew_rate *rate;

	ew_assert(per_second > 0); /* nobody would ever be served */
	ew_assert(burst > 0);
	rate = calloc(1, sizeof(*rate));
	if (!rate)
		return NULL;
	rate->per_second = per_second;
	rate->burst = burst;
	rate->waiting_max = waiting_max;
	rate->level = burst * TOKEN;
	rate->level_ns = ew_now();
	return rate;
}

void ew_rate_free(struct ew_rate *rate)
{
	if (!rate)
		return;
	ew_assert(rate->waiting_count == 0);
	free(rate);
}

static struct ew__line line_of(struct ew_rate *rate)
{
	return (struct ew__line){ &rate->first, &rate->last };
}

static void leave(struct ew_waiter *waiter)
{
	struct ew_rate *rate = waiter->line;

	ew__line_remove(line_of(rate), waiter);
	rate->waiting_count--;
}

/* How long it takes until so much has come in. */
static int64_t time_for(const struct ew_rate *rate, int64_t amount)
{
	return amount <= 0 ? 0 : (amount - 1) / rate->per_second + 1;
}

/*
 * The caller holds the lock, here and below, and has looked at the clock since it does. So time goes backwards only
 * when another clock begins: that of a run with virtual time.
 */
static void fill(struct ew_rate *rate, int64_t now_ns)
{
	int64_t full = rate->burst * TOKEN, elapsed_ns = now_ns - rate->level_ns;

	if (elapsed_ns < 0)
		elapsed_ns = 0;
	if (elapsed_ns >= time_for(rate, full - rate->level) && !ew__bug("rate-bucket-overflows"))
		rate->level = full;
	else
		rate->level += elapsed_ns * rate->per_second;
	rate->level_ns = now_ns;
}

/* When so many tokens will be there, if nobody takes any. */
static int64_t when_due(struct ew_rate *rate, unsigned count)
{
	int64_t now_ns = ew_now();

	fill(rate, now_ns);
	return now_ns + time_for(rate, count * TOKEN - rate->level);
}

static void take(struct ew_rate *rate, unsigned count, int64_t due_ns)
{
	fill(rate, due_ns);
	rate->level -= count * TOKEN;
	ew_assert(rate->level >= 0);
}

static bool try_take(struct ew_rate *rate, unsigned count)
{
	int64_t now_ns = ew_now();

	if (rate->first)
		return false;
	fill(rate, now_ns);
	if (rate->level < count * TOKEN)
		return false;
	take(rate, count, now_ns);
	return true;
}

/* Leaves the line with what it came for, or without: @count is 0. Who is next is first now. */
static void hand_on(struct ew_rate *rate, struct ew_waiter *waiter, unsigned count, int64_t due_ns)
{
	struct ew_waiter *next;

	ew__lock(&rate->lock);
	ew_assert(rate->first == waiter);
	if (count)
		take(rate, count, due_ns);
	leave(waiter);
	next = rate->first;
	if (next)
		ew__waiter_give(next, rate);
	ew__unlock(&rate->lock);
	if (next && !ew__bug("rate-turn-not-handed-on"))
		ew__waiter_wake(next, 0);
}

/* The first in line. Nobody is served before it, so what cannot be due in time is known at once. */
static int wait_for_tokens(struct ew_rate *rate, struct ew_waiter *waiter, unsigned count,
			   int64_t deadline_ns)
{
	int64_t due_ns;
	int r = 0;

	ew__lock(&rate->lock);
	due_ns = when_due(rate, count);
	ew__unlock(&rate->lock);
	if (due_ns > deadline_ns && !ew__bug("rate-deadline-not-looked-at"))
		r = -ETIMEDOUT;
	else if (due_ns > ew_now())
		r = ew__sleep_on(due_ns, "tokens of a rate");
	hand_on(rate, waiter, r < 0 && !ew__bug("rate-tokens-lost-to-a-cancel") ? 0 : count,
		due_ns);
	return r;
}

int ew_rate_acquire(struct ew_rate *rate, unsigned count, int64_t deadline_ns)
{
	struct ew_waiter waiter;
	bool taken, full, first;
	int r = ew__enter();

	if (r < 0)
		return r;
	if (count > rate->burst)
		return -EINVAL;
	ew__waiter_init(&waiter, &rate->lock, leave, rate);
	ew__lock(&rate->lock);
	taken = try_take(rate, count);
	full = rate->waiting_count == rate->waiting_max;
	first = !rate->first;
	if (!taken && !full) {
		ew__line_append(line_of(rate), &waiter);
		rate->waiting_count++;
	}
	ew__unlock(&rate->lock);
	if (taken || full)
		return taken ? 0 : -EAGAIN;
	if (!first)
		r = ew__waiter_wait(&waiter, deadline_ns, "its turn at a rate");
	return r < 0 ? r : wait_for_tokens(rate, &waiter, count, deadline_ns);
}

int ew_rate_try_acquire(struct ew_rate *rate, unsigned count)
{
	bool taken;

	if (count > rate->burst)
		return -EINVAL;
	ew__lock(&rate->lock);
	taken = try_take(rate, count);
	ew__unlock(&rate->lock);
	return taken ? 0 : -EAGAIN;
}
