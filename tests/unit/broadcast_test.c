/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Broadcasts: each subscription receives every message, in order, or is told exactly how many it has missed.
 */

#include "crossing.h"
#include "io.h"

#include <endwell/broadcast.h>
#include <endwell/select.h>

static struct ew_broadcast *broadcast; /* of the test that runs; its place is in the main task */

struct with_broadcast {
	size_t capacity;
	ew_task_fn *fn;
};

static int with_broadcast(void *argument)
{
	const struct with_broadcast *with = argument;
	EW_OWN(ew_broadcast, own);

	EXPECT_EQ(ew_broadcast_new(with->capacity, sizeof(int), &own), 0);
	broadcast = own;
	return with->fn(NULL);
}

static int run_on(size_t capacity, ew_task_fn *fn)
{
	struct with_broadcast with = { capacity, fn };

	return run_virtual(with_broadcast, &with);
}

static int run_workers_on(size_t capacity, ew_task_fn *fn)
{
	struct with_broadcast with = { capacity, fn };

	return run_workers(2, with_broadcast, &with);
}

static void send_int(int number)
{
	EXPECT_EQ(ew_broadcast_send(broadcast, &number), 0);
}

/* What comes now; -1: it was closed; an error; the missed ones traced. */
static int receive_int(struct ew_subscription *subscription, int64_t deadline_ns)
{
	uint64_t missed_count = 77;
	int number = -2;
	int r = ew_subscription_receive(subscription, deadline_ns, &number, &missed_count);

	EXPECT_EQ(number == -2, r != 1);
	EXPECT_EQ(missed_count == 77, r != 1);
	if (r == 1 && missed_count)
		trace("missed%d", (int)missed_count);
	return r == 1 ? number : r == 0 ? -1 : r;
}

static int receive_three(void *argument)
{
	EW_OWN(ew_subscription, subscription);
	int i;

	EXPECT_EQ(ew_broadcast_subscribe(broadcast, &subscription), 0);
	for (i = 0; i < 3; i++)
		trace("%s%d", (const char *)argument, receive_int(subscription, EW_NEVER));
	return receive_int(subscription, EW_NEVER) == -1 ? 0 : -1;
}

static int tell_all(void *argument)
{
	EW_SCOPE(scope);

	(void)argument;
	send_int(0); /* to nobody */
	EXPECT_EQ(ew_spawn(&scope, receive_three, "a"), 0);
	EXPECT_EQ(ew_spawn(&scope, receive_three, "b"), 0);
	EXPECT_EQ(ew_yield(), 0);
	send_int(1);
	EXPECT_EQ(ew_yield(), 0);
	send_int(2);
	send_int(3);
	ew_broadcast_close(broadcast);
	ew_broadcast_close(broadcast);
	EXPECT_EQ(ew_broadcast_send(broadcast, &(int){ 4 }), -EPIPE);
	return ew_scope_finish(&scope, ew_scope_join(&scope));
}

TEST(broadcast_tells_all_who_listen_in_order)
{
	EXPECT_EQ(run_on(2, tell_all), 0);
	EXPECT_STR(traced, "a1 b1 a2 a3 b2 b3");
}

static int fall_behind(void *argument)
{
	EW_OWN(ew_subscription, slow);
	EW_OWN(ew_subscription, quick);
	int i;

	(void)argument;
	EXPECT_EQ(ew_broadcast_subscribe(broadcast, &slow), 0);
	EXPECT_EQ(ew_broadcast_subscribe(broadcast, &quick), 0);
	for (i = 1; i <= 8; i++) {
		send_int(i);
		EXPECT_EQ(receive_int(quick, EW_NEVER), i);
		if (i == 3)
			EXPECT_EQ(receive_int(slow, EW_NEVER), 1);
	}
	EXPECT_EQ(receive_int(quick, ew_after(EW_SECOND)), -ETIMEDOUT);
	EXPECT_STR(traced, "");
	for (i = 6; i <= 8; i++)
		EXPECT_EQ(receive_int(slow, EW_NEVER), i);
	EXPECT_STR(traced, "missed4"); /* 2 to 5 */
	EXPECT_EQ(receive_int(slow, ew_after(EW_SECOND)), -ETIMEDOUT);
	send_int(9);
	ew_broadcast_close(broadcast);
	EXPECT_EQ(receive_int(slow, EW_NEVER), 9);
	EXPECT_EQ(receive_int(slow, EW_NEVER), -1);
	EXPECT_EQ(ew_subscription_receive(quick, EW_NEVER, &i, NULL), 1);
	return i == 9 ? 0 : -1;
}

TEST(broadcast_tells_who_is_slow_how_many_it_has_missed)
{
	EXPECT_EQ(run_on(3, fall_behind), 0);
}

static int make_bad_ones(void *argument)
{
	EW_OWN(ew_broadcast, own);

	(void)argument;
	EXPECT_EQ(ew_broadcast_new(0, 4, &own), -EINVAL);
	EXPECT_EQ(ew_broadcast_new(SIZE_MAX, 2, &own), -ENOMEM);
	EXPECT_EQ(ew_broadcast_new(SIZE_MAX, 1, &own), -ENOMEM);
	EXPECT(!own);
	return 0;
}

TEST(broadcast_that_cannot_be_is_refused)
{
	EXPECT_EQ(run_virtual(make_bad_ones, NULL), 0);
}

/* ---- cancels ---- */

static struct ew_subscription *subscription;

static int receive_and_see_the_cancel(void *argument)
{
	int r = receive_int(subscription, EW_NEVER);

	(void)argument;
	EXPECT_EQ(ew_yield(), -ECANCELED);
	return r;
}

static int keep_result(void *argument)
{
	*(int *)argument = receive_and_see_the_cancel(NULL);
	return 0;
}

static int cancel_then_send(void *argument)
{
	EW_OWN(ew_subscription, own);
	int result = 1;
	EW_SCOPE(scope);

	(void)argument;
	EXPECT_EQ(ew_broadcast_subscribe(broadcast, &own), 0);
	subscription = own;
	EXPECT_EQ(ew_spawn(&scope, keep_result, &result), 0);
	EXPECT_EQ(ew_yield(), 0);
	ew_scope_cancel(&scope, EW_REASON_REQUESTED);
	send_int(5);
	EXPECT_EQ(ew_scope_join(&scope), 0);
	EXPECT_EQ(ew_scope_finish(&scope, 0), 0);
	EXPECT_EQ(result, -ECANCELED);
	return receive_int(own, EW_NEVER) == 5 ? 0 : -1; /* still there */
}

TEST(broadcast_message_after_a_cancel_is_not_missed)
{
	EXPECT_EQ(run_on(1, cancel_then_send), 0);
	EXPECT_STR(traced, "");
}

static void send_six(void *argument)
{
	(void)argument;
	send_int(6);
}

static int cross_a_cancel(void *argument)
{
	EW_OWN(ew_subscription, own);

	(void)argument;
	EXPECT_EQ(ew_broadcast_subscribe(broadcast, &own), 0);
	subscription = own;
	EXPECT_EQ(cross(receive_and_see_the_cancel, send_six, NULL), 6);
	return receive_int(own, EW_NOW) == -ETIMEDOUT ? 0 : -1;
}

TEST(broadcast_message_that_crosses_a_cancel_is_received)
{
	EXPECT_EQ(run_workers_on(1, cross_a_cancel), 0);
}

/* The event comes first: the message stays, and is received next. */
static int select_it(void *argument)
{
	EW_OWN(ew_subscription, own);
	struct ew_event event = { 0 };
	uint64_t missed_count = 77;
	int number = 0;
	struct ew_alternative alternatives[2];

	(void)argument;
	EXPECT_EQ(ew_broadcast_subscribe(broadcast, &own), 0);
	alternatives[0] = ew_select_event(&event);
	alternatives[1] = ew_select_subscription(own, &number, &missed_count);
	EXPECT_EQ(ew_select(alternatives, 2, ew_after(EW_SECOND)), -ETIMEDOUT);
	ew_event_set(&event);
	EXPECT_EQ(ew_select(alternatives, 2, EW_NEVER), 0);
	ew_event_reset(&event);
	EXPECT_EQ(missed_count, 77);
	send_int(1);
	send_int(2);
	send_int(3);
	EXPECT_EQ(ew_select(alternatives, 2, EW_NEVER), 1);
	EXPECT(alternatives[1].result == 1 && number == 3 && missed_count == 2);
	ew_broadcast_close(broadcast);
	EXPECT_EQ(ew_select(alternatives, 2, EW_NEVER), 1);
	EXPECT_EQ(alternatives[1].result, 0);
	return 0;
}

TEST(broadcast_message_may_win_a_select)
{
	EXPECT_EQ(run_on(1, select_it), 0);
}

static int forget_both(void *argument)
{
	static struct ew_broadcast *own;
	static struct ew_subscription *listener;

	(void)argument;
	EXPECT_EQ(ew_broadcast_new(1, 0, &own), 0);
	return ew_broadcast_subscribe(own, &listener);
}

TEST(broadcast_forgotten_is_reported_and_ended)
{
	EXPECT_EQ(run_virtual(forget_both, NULL), 0);
	EXPECT(reported("broadcast made at", "no owner"));
	EXPECT(reported("subscription made at", "no owner"));
}

/* ---- across workers ---- */

#define NUMBERS_COUNT 20000

static int numbers_count(void)
{
	return RUNNING_ON_VALGRIND ? 300 : NUMBERS_COUNT;
}

static struct ew_event everybody_listens;
static _Atomic unsigned listening;
static _Atomic unsigned cancelled_count;

/* What was received and what was missed add up at each message, whatever was cut in between. */
static int count_numbers(void *argument)
{
	EW_OWN(ew_subscription, own);
	struct ew_event never = { 0 };
	uint64_t missed_count;
	int next = 0, number = 0, r = 1;
	unsigned round = (unsigned)(uintptr_t)argument;
	struct ew_alternative alternatives[2];

	EXPECT_EQ(ew_broadcast_subscribe(broadcast, &own), 0);
	alternatives[0] = ew_select_subscription(own, &number, &missed_count);
	alternatives[1] = ew_select_event(&never);
	if (++listening == 4)
		ew_event_set(&everybody_listens);
	for (; r != 0; round++) {
		int64_t deadline_ns = round % 3 ? EW_NEVER : ew_after(EW_MILLISECOND / 2);

		if (round % 2) {
			r = ew_subscription_receive(own, deadline_ns, &number, &missed_count);
		} else {
			r = ew_select(alternatives, 2, deadline_ns);
			if (r == 0)
				r = alternatives[0].result;
		}
		if (r == -ETIMEDOUT)
			cancelled_count++;
		else if (r < 0)
			return r;
		if (r == 1) {
			EXPECT_EQ(number, next + (int)missed_count);
			next = number + 1;
		}
	}
	EXPECT_EQ(next, numbers_count());
	return 0;
}

static int send_numbers(void *argument)
{
	int i;

	(void)argument;
	EXPECT_EQ(ew_event_wait(&everybody_listens, EW_NEVER), 0);
	for (i = 0; i < numbers_count(); i++) {
		send_int(i);
		if (i % 7 == 0)
			EXPECT_EQ(ew_yield(), 0);
		if (i % 500 == 0)
			EXPECT_EQ(ew_sleep(EW_MILLISECOND), 0);
	}
	ew_broadcast_close(broadcast);
	return 0;
}

static int broadcast_numbers(void *argument)
{
	EW_SCOPE(scope);
	uintptr_t i;

	(void)argument;
	for (i = 0; i < 4; i++)
		EXPECT_EQ(ew_spawn(&scope, count_numbers, (void *)i, .worker = 1 + i % 2), 0);
	EXPECT_EQ(ew_spawn(&scope, send_numbers, NULL, .worker = 2), 0);
	return ew_scope_finish(&scope, ew_scope_join(&scope));
}

TEST(broadcast_across_workers_receives_or_misses_each_message_once)
{
	EXPECT_EQ(run_workers_on(16, broadcast_numbers), 0);
	EXPECT(cancelled_count > 0);
}

TEST_MAIN()
