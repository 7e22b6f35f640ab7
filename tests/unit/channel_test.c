/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Channels: each message that was sent is received once, or disposed of; one that was not is still its sender's.
 */

#include "crossing.h"

#include <endwell/channel.h>

static struct ew_channel *channel; /* of the test that runs; its place is in the main task */

static void expect_counts(size_t messages, unsigned senders, unsigned receivers)
{
	struct ew_channel_counts counts = ew_channel_count(channel);

	EXPECT_EQ(counts.messages, messages);
	EXPECT_EQ(counts.senders_waiting, senders);
	EXPECT_EQ(counts.receivers_waiting, receivers);
}

static struct {
	unsigned count;
	int last;
	long sum;
} disposed;

static void dispose(void *message)
{
	disposed.last = *(int *)message;
	disposed.sum += disposed.last;
	disposed.count++;
}

/* Runs @fn with a channel of ints, which ends after it. */
struct with_channel {
	size_t capacity;
	ew_task_fn *fn;
};

static int with_channel(void *argument)
{
	const struct with_channel *with = argument;
	EW_OWN(ew_channel, own);
	int r;

	EXPECT_EQ(ew_channel_new(with->capacity, sizeof(int), dispose, &own), 0);
	channel = own;
	r = with->fn(NULL);
	expect_counts(ew_channel_count(channel).messages, 0, 0);
	return r;
}

static int run_on(size_t capacity, ew_task_fn *fn)
{
	struct with_channel with = { capacity, fn };

	return run_virtual(with_channel, &with);
}

static int run_workers_on(size_t capacity, ew_task_fn *fn)
{
	struct with_channel with = { capacity, fn };

	return run_workers(2, with_channel, &with);
}

static int send_int(int number)
{
	return ew_channel_send(channel, EW_NEVER, &number);
}

/* What comes; -1: it was closed. */
static int receive_int(void)
{
	int number = -2, r = ew_channel_receive(channel, EW_NEVER, &number);

	EXPECT_EQ(number == -2, r != 1);
	return r == 1 ? number : r == 0 ? -1 : r;
}

struct sender {
	int number;
	int64_t deadline_ns;
	int result;
};

static int send_one(void *argument)
{
	struct sender *sender = argument;

	sender->result = ew_channel_send(channel, sender->deadline_ns, &sender->number);
	return 0;
}

struct receiver {
	const char *name;
	int64_t deadline_ns;
	int number;
	int result;
};

static int receive_one(void *argument)
{
	struct receiver *receiver = argument;

	receiver->result = ew_channel_receive(channel, receiver->deadline_ns, &receiver->number);
	if (receiver->result == 1)
		trace("%s%d", receiver->name, receiver->number);
	return 0;
}

static int fill_and_empty(void *argument)
{
	int i, round, number = 7;

	(void)argument;
	for (round = 0; round < 5; round++) { /* of three places; the ring turns */
		EXPECT_EQ(ew_channel_try_receive(channel, &number), -EAGAIN);
		EXPECT_EQ(number, 7);
		for (i = 0; i < 3 - round % 2; i++)
			EXPECT_EQ(send_int(10 * round + i), 0);
		expect_counts(3u - (unsigned)round % 2, 0, 0);
		if (round % 2 == 0) {
			EXPECT_EQ(ew_channel_try_send(channel, &number), -EAGAIN);
			EXPECT_EQ(ew_channel_send(channel, EW_NOW, &number), -ETIMEDOUT);
		}
		for (i = 0; i < 3 - round % 2; i++)
			EXPECT_EQ(receive_int(), 10 * round + i);
	}
	EXPECT_EQ(ew_channel_receive(channel, ew_after(EW_SECOND), &number), -ETIMEDOUT);
	EXPECT_EQ(number, 7);
	expect_counts(0, 0, 0);
	return 0;
}

TEST(channel_holds_as_many_as_its_capacity_in_order)
{
	EXPECT_EQ(run_on(3, fill_and_empty), 0);
	EXPECT_EQ(disposed.count, 0);
}

static int meet(void *argument)
{
	struct sender sender = { 1, EW_NEVER, 1 };
	struct receiver receiver = { "", EW_NEVER, 0, -1 };
	int number = 3;
	EW_SCOPE(scope);

	(void)argument;
	EXPECT_EQ(ew_channel_try_send(channel, &number), -EAGAIN);
	EXPECT_EQ(ew_spawn(&scope, send_one, &sender), 0);
	EXPECT_EQ(ew_sleep(EW_SECOND), 0);
	EXPECT_EQ(sender.result, 1);
	expect_counts(0, 1, 0); /* nothing is in it: it has no room */
	EXPECT_EQ(receive_int(), 1);
	EXPECT_EQ(ew_yield(), 0);
	EXPECT_EQ(sender.result, 0);

	EXPECT_EQ(ew_spawn(&scope, receive_one, &receiver), 0);
	EXPECT_EQ(ew_sleep(EW_SECOND), 0);
	expect_counts(0, 0, 1);
	EXPECT_EQ(ew_channel_try_send(channel, &number), 0);
	EXPECT_EQ(ew_channel_try_send(channel, &number), -EAGAIN); /* the receiver has one */
	EXPECT_EQ(ew_yield(), 0);
	EXPECT_EQ(receiver.result, 1);
	EXPECT_EQ(receiver.number, 3);
	return ew_scope_finish(&scope, 0);
}

TEST(channel_without_room_hands_over_when_both_have_come)
{
	EXPECT_EQ(run_on(0, meet), 0);
}

static int stand_in_lines(void *argument)
{
	struct sender senders[4];
	struct receiver receivers[3] = { { "a", EW_NEVER, 0, -1 },
					 { "b", EW_NEVER, 0, -1 },
					 { "c", EW_NEVER, 0, -1 } };
	int i, number = 9;
	EW_SCOPE(scope);

	(void)argument;
	for (i = 0; i < 4; i++) {
		senders[i] = (struct sender){ i, EW_NEVER, 1 };
		EXPECT_EQ(ew_spawn(&scope, send_one, &senders[i]), 0);
	}
	EXPECT_EQ(ew_yield(), 0);
	expect_counts(2, 2, 0);
	EXPECT_EQ(receive_int(), 0);
	expect_counts(2, 1, 0); /* the first in line has moved up */
	EXPECT_EQ(ew_channel_try_send(channel, &number), -EAGAIN);
	for (i = 1; i < 4; i++)
		EXPECT_EQ(receive_int(), i);
	for (i = 0; i < 3; i++)
		EXPECT_EQ(ew_spawn(&scope, receive_one, &receivers[i]), 0);
	EXPECT_EQ(ew_yield(), 0);
	expect_counts(0, 0, 3);
	for (i = 0; i < 4; i++)
		EXPECT_EQ(send_int(5 + i), 0);
	expect_counts(1, 0, 0);
	EXPECT_EQ(ew_scope_finish(&scope, ew_scope_join(&scope)), 0);
	return receive_int() == 8 ? 0 : -1;
}

TEST(channel_serves_both_lines_in_order_of_arrival)
{
	EXPECT_EQ(run_on(2, stand_in_lines), 0);
	EXPECT_STR(traced, "a5 b6 c7");
}

static int close_with_senders(void *argument)
{
	struct sender senders[2] = { { 3, EW_NEVER, 1 }, { 4, EW_NEVER, 1 } };
	EW_SCOPE(scope);

	(void)argument;
	EXPECT_EQ(send_int(1), 0);
	EXPECT_EQ(send_int(2), 0);
	EXPECT_EQ(ew_spawn(&scope, send_one, &senders[0]), 0);
	EXPECT_EQ(ew_spawn(&scope, send_one, &senders[1]), 0);
	EXPECT_EQ(ew_yield(), 0);
	ew_channel_close(channel);
	ew_channel_close(channel);
	EXPECT(ew_channel_count(channel).closed);
	EXPECT_EQ(ew_scope_finish(&scope, ew_scope_join(&scope)), 0);
	EXPECT_EQ(senders[0].result, -EPIPE);
	EXPECT_EQ(senders[1].result, -EPIPE);
	EXPECT_EQ(send_int(5), -EPIPE);
	EXPECT_EQ(ew_channel_try_send(channel, &senders[0].number), -EPIPE);
	EXPECT_EQ(receive_int(), 1);
	EXPECT_EQ(receive_int(), 2);
	EXPECT_EQ(receive_int(), -1);
	EXPECT_EQ(receive_int(), -1);
	return ew_channel_try_receive(channel, &senders[0].number);
}

TEST(channel_closed_refuses_senders_and_lets_receivers_drain)
{
	EXPECT_EQ(run_on(2, close_with_senders), 0);
	EXPECT_EQ(disposed.count, 0);
}

static int close_with_receivers(void *argument)
{
	struct receiver receivers[2] = { { "a", EW_NEVER, 0, -1 }, { "b", EW_NEVER, 0, -1 } };
	EW_SCOPE(scope);

	(void)argument;
	EXPECT_EQ(ew_spawn(&scope, receive_one, &receivers[0]), 0);
	EXPECT_EQ(ew_spawn(&scope, receive_one, &receivers[1]), 0);
	EXPECT_EQ(ew_yield(), 0);
	EXPECT_EQ(send_int(1), 0);
	ew_channel_close(channel);
	EXPECT_EQ(ew_scope_finish(&scope, ew_scope_join(&scope)), 0);
	EXPECT_EQ(receivers[0].result, 1);
	EXPECT_EQ(receivers[1].result, 0);
	return 0;
}

TEST(channel_closed_wakes_receivers_who_have_nothing_to_wait_for)
{
	EXPECT_EQ(run_on(0, close_with_receivers), 0);
	EXPECT_EQ(run_on(4, close_with_receivers), 0);
}

static int leave_some(void *argument)
{
	(void)argument;
	EXPECT_EQ(send_int(1), 0);
	EXPECT_EQ(send_int(2), 0);
	EXPECT_EQ(receive_int(), 1);
	EXPECT_EQ(send_int(3), 0);
	EXPECT_EQ(send_int(4), 0);
	ew_channel_close(channel);
	return 0;
}

TEST(channel_freed_gives_what_is_left_to_its_disposer)
{
	EXPECT_EQ(run_on(3, leave_some), 0);
	EXPECT_EQ(disposed.count, 3);
	EXPECT_EQ(disposed.sum, 2 + 3 + 4);
	EXPECT_EQ(disposed.last, 4);
}

static int free_by_name(void *argument)
{
	EW_OWN(ew_channel, own);

	(void)argument;
	EXPECT_EQ(ew_channel_new(1, 0, NULL, &own), 0); /* messages that are nothing but there */
	EXPECT_EQ(ew_channel_send(own, EW_NEVER, NULL), 0);
	EXPECT_EQ(ew_channel_try_send(own, NULL), -EAGAIN);
	EXPECT_EQ(ew_channel_try_receive(own, NULL), 1);
	EXPECT_EQ(ew_channel_try_receive(own, NULL), -EAGAIN);
	ew_channel_free(&own);
	EXPECT(own == NULL);
	ew_channel_free(&own);
	EXPECT_EQ(ew_channel_new(SIZE_MAX / 8 + 2, 8, NULL, &own), -ENOMEM); /* would wrap to 8 */
	EXPECT_EQ(ew_channel_new(SIZE_MAX / 8, 8, NULL, &own), -ENOMEM);
	EXPECT(own == NULL);
	return 0;
}

TEST(channel_is_freed_by_name_and_refused_without_memory)
{
	EXPECT_EQ(run_virtual(free_by_name, NULL), 0);
}

/* ---- cancels ---- */

/* Also where the test's own block is cancelled; -1: nothing is there. */
static int try_receive_int(void)
{
	int number, r = ew_channel_try_receive(channel, &number);

	EXPECT(r == 1 || r == -EAGAIN);
	return r == 1 ? number : -1;
}

/* Two senders in line; a receive and the cancel of the first, in one turn. Returns what became of the first. */
static int receive_around_a_cancel(bool cancel_first)
{
	struct sender senders[2] = { { 2, EW_NEVER, 1 }, { 3, EW_NEVER, 1 } };
	EW_SCOPE(scope);
	EW_SCOPE(first);

	if (ew_channel_count(channel).capacity)
		EXPECT_EQ(send_int(1), 0);
	EXPECT_EQ(ew_spawn(&first, send_one, &senders[0]), 0);
	EXPECT_EQ(ew_spawn(&scope, send_one, &senders[1]), 0);
	EXPECT_EQ(ew_yield(), 0);
	if (cancel_first)
		ew_scope_cancel(&first, EW_REASON_REQUESTED);
	trace("%d", try_receive_int());
	if (!cancel_first)
		ew_scope_cancel(&first, EW_REASON_REQUESTED);
	EXPECT_EQ(ew_scope_finish(&first, 0), 0);
	while (ew_channel_count(channel).messages || ew_channel_count(channel).senders_waiting)
		trace("%d", try_receive_int());
	EXPECT_EQ(ew_scope_finish(&scope, ew_scope_join(&scope)), 0);
	EXPECT_EQ(senders[1].result, 0);
	return senders[0].result;
}

static int receive_then_cancel(void *argument)
{
	(void)argument;
	return receive_around_a_cancel(false);
}

TEST(channel_sent_before_a_cancel_is_sent)
{
	EXPECT_EQ(run_on(0, receive_then_cancel), 0);
	EXPECT_EQ(run_on(1, receive_then_cancel), 0);
	EXPECT_STR(traced, "2 3 1 2 3");
}

static int cancel_then_receive(void *argument)
{
	(void)argument;
	return receive_around_a_cancel(true) == -ECANCELED ? 0 : -1;
}

TEST(channel_send_cancelled_leaves_nothing_to_receive)
{
	EXPECT_EQ(run_on(0, cancel_then_receive), 0);
	EXPECT_EQ(run_on(1, cancel_then_receive), 0);
	EXPECT_STR(traced, "3 1 3");
}

static int send_around_a_cancel(bool cancel_first)
{
	struct receiver receivers[2] = { { "a", EW_NEVER, 0, -1 }, { "b", EW_NEVER, 0, -1 } };
	int number = 1;
	EW_SCOPE(scope);
	EW_SCOPE(first);

	EXPECT_EQ(ew_spawn(&first, receive_one, &receivers[0]), 0);
	EXPECT_EQ(ew_spawn(&scope, receive_one, &receivers[1]), 0);
	EXPECT_EQ(ew_yield(), 0);
	if (cancel_first)
		ew_scope_cancel(&first, EW_REASON_REQUESTED);
	EXPECT_EQ(ew_channel_try_send(channel, &number), 0);
	if (!cancel_first)
		ew_scope_cancel(&first, EW_REASON_REQUESTED);
	EXPECT_EQ(ew_scope_finish(&first, 0), 0);
	ew_channel_close(channel);
	EXPECT_EQ(ew_scope_finish(&scope, ew_scope_join(&scope)), 0);
	EXPECT_EQ(receivers[1].result, cancel_first ? 1 : 0);
	return receivers[0].result;
}

static int send_then_cancel(void *argument)
{
	(void)argument;
	return send_around_a_cancel(false) == 1 ? 0 : -1;
}

TEST(channel_message_before_a_cancel_is_received)
{
	EXPECT_EQ(run_on(0, send_then_cancel), 0);
	EXPECT_STR(traced, "a1");
}

static int cancel_then_send(void *argument)
{
	(void)argument;
	return send_around_a_cancel(true) == -ECANCELED ? 0 : -1;
}

TEST(channel_message_after_a_cancel_goes_to_the_next)
{
	EXPECT_EQ(run_on(0, cancel_then_send), 0);
	EXPECT_STR(traced, "b1");
}

static int send_and_see_the_cancel(void *argument)
{
	int r = send_int(5);

	(void)argument;
	EXPECT_EQ(ew_yield(), -ECANCELED);
	return r;
}

static int receive_and_see_the_cancel(void *argument)
{
	int r = receive_int();

	(void)argument;
	EXPECT_EQ(ew_yield(), -ECANCELED);
	return r;
}

static void receive_now(void *argument)
{
	int number = 0;

	(void)argument;
	EXPECT_EQ(ew_channel_try_receive(channel, &number), 1);
	EXPECT_EQ(number, 5);
}

static void send_now(void *argument)
{
	int number = 6;

	(void)argument;
	EXPECT_EQ(ew_channel_try_send(channel, &number), 0);
}

static void close_now(void *argument)
{
	(void)argument;
	ew_channel_close(channel);
}

static int cross_cancels(void *argument)
{
	(void)argument;
	EXPECT_EQ(cross(send_and_see_the_cancel, receive_now, NULL), 0);
	expect_counts(0, 0, 0);
	EXPECT_EQ(cross(receive_and_see_the_cancel, send_now, NULL), 6);
	expect_counts(0, 0, 0);
	return 0;
}

TEST(channel_transfer_that_crosses_a_cancel_has_happened)
{
	EXPECT_EQ(run_workers_on(0, cross_cancels), 0);
}

static int cross_closes(void *argument)
{
	(void)argument;
	return cross(send_and_see_the_cancel, close_now, NULL);
}

static int cross_closes_receiving(void *argument)
{
	(void)argument;
	return cross(receive_and_see_the_cancel, close_now, NULL);
}

TEST(channel_close_that_crosses_a_cancel_is_heard)
{
	EXPECT_EQ(run_workers_on(0, cross_closes), -EPIPE);
	EXPECT_EQ(run_workers_on(0, cross_closes_receiving), -1);
}

/* No turn of the worker passes between the deadline and the transfer, so no timer has been looked at. */
static int transfer_after_the_deadline(void *argument)
{
	struct sender sender = { 5, ew_after(EW_MILLISECOND), 1 };
	struct receiver receiver = { "r", 0, 0, -1 };
	EW_SCOPE(scope);

	(void)argument;
	EXPECT_EQ(ew_spawn(&scope, send_one, &sender), 0);
	EXPECT_EQ(ew_yield(), 0);
	while (ew_now() < sender.deadline_ns + 3 * EW_MILLISECOND)
		;
	receive_now(NULL);
	EXPECT_EQ(ew_scope_join(&scope), 0);
	EXPECT_EQ(sender.result, 0);

	receiver.deadline_ns = ew_after(EW_MILLISECOND);
	EXPECT_EQ(ew_spawn(&scope, receive_one, &receiver), 0);
	EXPECT_EQ(ew_yield(), 0);
	while (ew_now() < receiver.deadline_ns + 3 * EW_MILLISECOND)
		;
	send_now(NULL);
	EXPECT_EQ(ew_scope_join(&scope), 0);
	EXPECT_EQ(receiver.result, 1);
	return 0;
}

TEST(channel_transfer_before_its_deadline_is_noticed_has_happened)
{
	EXPECT_EQ(run_workers_on(0, transfer_after_the_deadline), 0);
}

static int send_shielded(void *argument)
{
	EW_SHIELD(shield, .budget_ns = 2 * EW_SECOND);

	return send_one(argument);
}

static int cancel_the_shielded(void *argument)
{
	struct sender senders[2] = { { 1, EW_NEVER, 1 }, { 2, EW_NEVER, 1 } };
	EW_SCOPE(scope);

	(void)argument;
	EXPECT_EQ(ew_spawn(&scope, send_shielded, &senders[0]), 0);
	EXPECT_EQ(ew_spawn(&scope, send_shielded, &senders[1]), 0);
	EXPECT_EQ(ew_yield(), 0);
	ew_scope_cancel(&scope, EW_REASON_REQUESTED);
	expect_counts(0, 2, 0);
	{
		EW_SHIELD(shield, .budget_ns = 60 * EW_SECOND);

		EXPECT_EQ(receive_int(), 1);
		EXPECT_EQ(ew_sleep(5 * EW_SECOND), 0);
	}
	expect_counts(0, 0, 0);
	EXPECT_EQ(ew_scope_join(&scope), 0);
	EXPECT_EQ(senders[0].result, 0);
	EXPECT_EQ(senders[1].result, -ECANCELED); /* the shield's time was over */
	return 0;
}

TEST(channel_send_behind_a_shield_outlasts_a_cancel_for_its_budget)
{
	EXPECT_EQ(run_on(0, cancel_the_shielded), 0);
}

static int refuse_at_once(void *argument)
{
	int number = 1;
	EW_SCOPE(scope);

	(void)argument;
	ew_scope_cancel(&scope, EW_REASON_REQUESTED);
	EXPECT_EQ(send_int(2), -ECANCELED);
	expect_counts(0, 0, 0);
	EXPECT_EQ(ew_channel_try_send(channel, &number), 0); /* does not suspend */
	EXPECT_EQ(receive_int(), -ECANCELED);
	expect_counts(1, 0, 0);
	return 0;
}

TEST(channel_refuses_in_a_cancelled_scope_also_with_room)
{
	EXPECT_EQ(run_on(1, refuse_at_once), 0);
	EXPECT_EQ(disposed.count, 1);
}

/* ---- resources ---- */

static struct thing things[4];

static struct thing *open_one(int index)
{
	return THING_OPEN(&things[index], "thing");
}

static unsigned ended(int index)
{
	return things[index].probe.closed + things[index].probe.aborted;
}

static int with_resources(void *argument)
{
	const struct with_channel *with = argument;
	EW_OWN(ew_channel, own);
	int r;

	EXPECT_EQ(ew_channel_new_of_resources(with->capacity, &own), 0);
	channel = own;
	r = with->fn(NULL);
	expect_counts(ew_channel_count(channel).messages, 0, 0);
	return r;
}

static int run_resources(size_t capacity, ew_task_fn *fn)
{
	struct with_channel with = { capacity, fn };

	return run_virtual(with_resources, &with);
}

static int move_one(void *argument)
{
	EW_OWN(thing, here);
	EW_OWN(thing, there);

	(void)argument;
	here = open_one(0);
	EXPECT_EQ(ew_channel_send(channel, EW_NEVER, &here), 0);
	EXPECT(here == NULL);
	EXPECT_EQ(ended(0), 0);
	EXPECT_EQ(ew_channel_receive(channel, EW_NEVER, &there), 1);
	EXPECT(there == &things[0]);
	here = open_one(1);
	EXPECT_EQ(ew_channel_try_send(channel, &here), 0);
	EXPECT(here == NULL);
	EXPECT_EQ(ew_channel_receive(channel, EW_NEVER, &there), 1); /* full: reported */
	EXPECT(there == &things[1]);
	EXPECT_EQ(ended(0), 1);
	return 0;
}

TEST(channel_moves_a_resource_from_place_to_place)
{
	EXPECT_EQ(run_resources(1, move_one), 0);
	EXPECT_EQ(ended(1), 1);
	EXPECT(reported("thing", "about to be overwritten"));
	EXPECT_EQ(reports.count, 1);
}

static int not_sent(void *argument)
{
	EW_OWN(thing, here);
	EW_OWN(thing, other);
	EW_SCOPE(scope);

	(void)argument;
	here = open_one(0);
	other = open_one(1);
	EXPECT_EQ(ew_channel_send(channel, EW_NEVER, &other), 0);
	EXPECT_EQ(ew_channel_try_send(channel, &here), -EAGAIN);
	EXPECT(here == &things[0]);
	EXPECT_EQ(ew_channel_send(channel, ew_after(EW_SECOND), &here), -ETIMEDOUT);
	EXPECT(here == &things[0]);
	ew_channel_close(channel);
	EXPECT_EQ(ew_channel_send(channel, EW_NEVER, &here), -EPIPE);
	EXPECT(here == &things[0]);
	ew_scope_cancel(&scope, EW_REASON_REQUESTED);
	EXPECT_EQ(ew_channel_send(channel, EW_NEVER, &here), -ECANCELED);
	EXPECT(here == &things[0]);
	EXPECT_EQ(ended(0), 0);
	return 0;
}

TEST(channel_resource_that_is_not_sent_stays_in_its_place)
{
	EXPECT_EQ(run_resources(1, not_sent), 0);
	EXPECT_EQ(things[0].probe.closed, 1);
	EXPECT_EQ(things[1].probe.aborted, 1); /* nobody took it */
	EXPECT_EQ(reports.count, 0);
}

static struct thing **watched_place;

static int send_watched(void *argument)
{
	EW_OWN(thing, here);
	int r;

	(void)argument;
	here = open_one(0);
	watched_place = &here;
	r = ew_channel_send(channel, EW_NEVER, &here);
	EXPECT_EQ(here != NULL, r < 0);
	return r;
}

/* The receiver ends the resource before its sender has run again: the sender's place must not lead to it. */
static int end_before_the_sender_hears(void *argument)
{
	EW_OWN(thing, there);
	EW_SCOPE(scope);

	(void)argument;
	EXPECT_EQ(ew_spawn(&scope, send_watched, NULL), 0);
	EXPECT_EQ(ew_yield(), 0);
	EXPECT(*watched_place == NULL);
	EXPECT_EQ(ew_channel_try_receive(channel, &there), 1);
	ew_abort(&there);
	memset(&things[0].resource, 0xff, sizeof(things[0].resource));
	ew_scope_cancel(&scope, EW_REASON_REQUESTED); /* looks at the reserves of all places */
	return ew_scope_finish(&scope, 0);
}

TEST(channel_sender_in_line_has_an_empty_place)
{
	EXPECT_EQ(run_resources(0, end_before_the_sender_hears), 0);
	EXPECT_EQ(ended(0), 1);
}

static int cancel_the_sender(void *argument)
{
	EW_SCOPE(scope);

	(void)argument;
	EXPECT_EQ(ew_spawn(&scope, send_watched, NULL), 0);
	EXPECT_EQ(ew_yield(), 0);
	ew_scope_cancel(&scope, EW_REASON_REQUESTED);
	EXPECT_EQ(ew_scope_join(&scope), -ECANCELED);
	EXPECT_EQ(things[0].probe.closed, 1);
	return 0;
}

TEST(channel_sender_that_is_cancelled_ends_what_it_has_not_sent)
{
	EXPECT_EQ(run_resources(0, cancel_the_sender), 0);
	EXPECT_EQ(ended(0), 1);
}

static int receive_and_panic(void *argument)
{
	EW_OWN(thing, here);

	(void)argument;
	EXPECT_EQ(ew_channel_receive(channel, EW_NEVER, &here), 1);
	ew_panic("with a message");
}

static int panic_of_a_receiver(void *argument)
{
	EW_OWN(thing, here);
	EW_SCOPE(scope, .policy = EW_POLICY_INDEPENDENT);

	(void)argument;
	EXPECT_EQ(ew_spawn(&scope, receive_and_panic, NULL), 0);
	here = open_one(0);
	EXPECT_EQ(ew_channel_send(channel, EW_NEVER, &here), 0);
	return ew_scope_finish(&scope, ew_scope_join(&scope));
}

TEST(channel_receiver_that_panics_ends_what_it_has_received)
{
	EXPECT_EQ(run_resources(0, panic_of_a_receiver), 0);
	EXPECT_EQ(things[0].probe.closed, 1);
	EXPECT_EQ(ended(0), 1);
}

static struct ew_channel *forgotten;

static int forget_channel(void *argument)
{
	EW_OWN(thing, here);
	EW_OWN(ew_channel, own);
	int i;

	(void)argument;
	EXPECT_EQ(ew_channel_new_of_resources(2, &own), 0);
	for (i = 0; i < 2; i++) {
		here = open_one(i);
		EXPECT_EQ(ew_channel_send(own, EW_NEVER, &here), 0);
	}
	forgotten = own;
	own = NULL;
	return 0;
}

/* One line is reported: what is in a channel is the channel's. */
TEST(channel_forgotten_is_reported_and_ends_what_is_in_it)
{
	EXPECT_EQ(run_virtual(forget_channel, NULL), 0);
	EXPECT(reported("channel", "channel_test.c:"));
	EXPECT_EQ(reports.count, 1);
	EXPECT_EQ(things[0].probe.aborted, 1);
	EXPECT_EQ(things[1].probe.aborted, 1);
}

static int send_from_a_run(void *argument)
{
	EW_OWN(thing, here);

	here = open_one(0);
	return ew_channel_send(argument, EW_NEVER, &here);
}

static int receive_in_a_run(void *argument)
{
	static struct thing *kept;

	return ew_channel_receive(argument, EW_NEVER, &kept); /* forgotten: that run's affair */
}

TEST(channel_made_outside_a_runtime_carries_resources_from_run_to_run)
{
	EW_OWN(ew_channel, own);
	EW_OWN(thing, here);

	EXPECT_EQ(ew_channel_new_of_resources(1, &own), 0);
	EXPECT_EQ(run_virtual(send_from_a_run, own), 0);
	EXPECT_EQ(reports.count, 0);
	EXPECT_EQ(ended(0), 0);
	EXPECT_EQ(ew_channel_try_receive(own, &here), 1);
	EXPECT(here == &things[0]);
	EXPECT_EQ(ew_channel_try_send(own, &here), 0);
	EXPECT(here == NULL);
	EXPECT_EQ(run_virtual(receive_in_a_run, own), 1);
	EXPECT(reported("thing", "no owner"));
	EXPECT_EQ(ended(0), 1);
	EXPECT_EQ(ew_channel_receive(own, EW_NOW, &here), -ETIMEDOUT);
}

/* ---- misuse ---- */

static int free_while_somebody_waits(void *argument)
{
	EW_SCOPE(scope);
	EW_OWN(ew_channel, own); /* below the scope of those that use it */
	struct sender sender = { 1, EW_NEVER, 1 };

	(void)argument;
	EXPECT_EQ(ew_channel_new(0, sizeof(int), NULL, &own), 0);
	channel = own;
	EXPECT_EQ(ew_spawn(&scope, send_one, &sender), 0);
	return ew_yield();
}

static int send_nothing(void *argument)
{
	EW_OWN(ew_channel, own);
	EW_OWN(thing, here);

	(void)argument;
	EXPECT_EQ(ew_channel_new_of_resources(1, &own), 0);
	return ew_channel_send(own, EW_NEVER, &here);
}

static ew_task_fn *misuse;

static void misuse_it(void)
{
	(void)!run_virtual(misuse, NULL);
}

TEST(channel_misused_ends_the_process)
{
	static ew_task_fn *const misuses[] = { free_while_somebody_waits, send_nothing };
	struct ended end;
	size_t i;

	for (i = 0; i < sizeof(misuses) / sizeof(misuses[0]); i++) {
		misuse = misuses[i];
		end = run_process(misuse_it);
		EXPECT(WIFSIGNALED(end.status) && WTERMSIG(end.status) == SIGABRT);
		EXPECT(strstr(end.text, "assertion failed") && strstr(end.text, "channel.c"));
	}
}

/* ---- across workers ---- */

#define NUMBERS_MAX 40000

/* Who has which number: each is sent at most once, and received exactly if it was sent. */
static struct {
	_Atomic uint8_t sent[NUMBERS_MAX];
	_Atomic uint8_t received[NUMBERS_MAX];
	_Atomic int next;
	int end; /* the first that is not sent */
	_Atomic unsigned refused;
} ledger;

static void receive_number(int number)
{
	EXPECT(number >= 0 && number < NUMBERS_MAX);
	EXPECT_EQ(ledger.received[number]++, 0);
}

static void dispose_number(void *message)
{
	receive_number(*(int *)message);
}

static int numbers_to_send(void)
{
	return RUNNING_ON_VALGRIND ? 400 : NUMBERS_MAX;
}

/* Some wait with a deadline, and keep what they could not send: it is sent by nobody. */
static int send_numbers(void *argument)
{
	int number, r;

	(void)argument;
	while ((number = ledger.next++) < ledger.end) {
		r = ew_channel_send(channel, number % 3 ? EW_NEVER : ew_after(EW_MILLISECOND / 2),
				    &number);
		if (r == 0)
			ledger.sent[number]++;
		else
			ledger.refused++;
		if (r < 0 && r != -ETIMEDOUT)
			return r == -EPIPE ? 0 : r;
	}
	return 0;
}

static int receive_numbers(void *argument)
{
	int number, i, r;

	(void)argument;
	for (i = 0;; i++) {
		r = ew_channel_receive(channel, i % 3 ? EW_NEVER : ew_after(EW_MILLISECOND / 2),
				       &number);
		if (r == 1)
			receive_number(number);
		else if (r != -ETIMEDOUT)
			return r;
	}
}

static int move_numbers(void *argument)
{
	EW_SCOPE(receivers);
	EW_SCOPE(senders);
	unsigned i;

	(void)argument;
	for (i = 0; i < 4; i++) {
		EXPECT_EQ(ew_spawn(&receivers, receive_numbers, NULL, .worker = 1 + i % 2), 0);
		EXPECT_EQ(ew_spawn(&senders, send_numbers, NULL, .worker = 1 + i / 2 % 2), 0);
	}
	EXPECT_EQ(ew_scope_finish(&senders, ew_scope_join(&senders)), 0);
	ew_channel_close(channel);
	return ew_scope_finish(&receivers, ew_scope_join(&receivers));
}

static int with_number_channel(void *argument)
{
	const struct with_channel *with = argument;
	EW_OWN(ew_channel, own);

	EXPECT_EQ(ew_channel_new(with->capacity, sizeof(int), dispose_number, &own), 0);
	channel = own;
	return with->fn(NULL);
}

static void run_numbers(size_t capacity, ew_task_fn *fn)
{
	struct with_channel with = { capacity, fn };
	int i;

	memset(&ledger, 0, sizeof(ledger));
	ledger.end = numbers_to_send();
	EXPECT_EQ(run_workers(2, with_number_channel, &with), 0);
	for (i = 0; i < NUMBERS_MAX; i++)
		EXPECT_EQ(ledger.sent[i], ledger.received[i]);
}

TEST(channel_across_workers_neither_loses_nor_doubles_a_message)
{
	run_numbers(0, move_numbers);
	run_numbers(1, move_numbers);
	run_numbers(7, move_numbers);
}

static unsigned rounds_to_cut(void)
{
	return RUNNING_ON_VALGRIND ? 20 : 400;
}

/* Each has numbers of its own: else the first ones, on a busy machine, might leave the others nothing to send. */
static void begin_round(unsigned round)
{
	int numbers = numbers_to_send() / (int)rounds_to_cut();

	ledger.next = numbers * (int)round;
	ledger.end = numbers * (int)(round + 1);
}

/* Everybody is cancelled or the channel is closed at whatever moment, round after round. */
static void cut_round(unsigned round)
{
	EW_SCOPE(scope);
	unsigned i;
	int r;

	begin_round(round);
	for (i = 0; i < 3; i++) {
		EXPECT_EQ(ew_spawn(&scope, receive_numbers, NULL, .worker = 1 + i % 2), 0);
		EXPECT_EQ(ew_spawn(&scope, send_numbers, NULL, .worker = 1 + i % 2), 0);
	}
	for (i = 0; i < round % 9; i++)
		EXPECT_EQ(ew_yield(), 0);
	ew_scope_cancel(&scope, EW_REASON_REQUESTED);
	r = ew_scope_finish(&scope, 0);
	EXPECT(r == -ECANCELED || r == 0);
	EXPECT_EQ(ew_channel_count(channel).senders_waiting, 0);
	EXPECT_EQ(ew_channel_count(channel).receivers_waiting, 0);
}

static int cut_rounds(void *argument)
{
	unsigned i;

	(void)argument;
	for (i = 0; i < rounds_to_cut(); i++)
		cut_round(i);
	return 0;
}

TEST(channel_across_workers_keeps_count_through_cancels)
{
	run_numbers(0, cut_rounds);
	run_numbers(2, cut_rounds);
}

static int close_a_round(void *argument)
{
	EW_OWN(ew_channel, own);
	EW_SCOPE(scope);
	unsigned round = (unsigned)(uintptr_t)argument, i;

	EXPECT_EQ(ew_channel_new(round % 3, sizeof(int), dispose_number, &own), 0);
	channel = own;
	begin_round(round);
	for (i = 0; i < 2; i++) {
		EXPECT_EQ(ew_spawn(&scope, send_numbers, NULL, .worker = 1 + i), 0);
		EXPECT_EQ(ew_spawn(&scope, receive_numbers, NULL, .worker = 2 - i), 0);
	}
	for (i = 0; i < round % 5; i++)
		EXPECT_EQ(ew_yield(), 0);
	ew_channel_close(own);
	return ew_scope_finish(&scope, ew_scope_join(&scope));
}

static int close_rounds(void *argument)
{
	uintptr_t i;

	(void)argument;
	for (i = 0; i < rounds_to_cut(); i++)
		EXPECT_EQ(close_a_round((void *)i), 0);
	return 0;
}

TEST(channel_close_that_meets_a_send_lets_it_be_received_or_refuses_it)
{
	run_numbers(0, close_rounds);
	EXPECT(ledger.refused > 0);
}

static int send_and_leave(void *argument)
{
	int number = 1;

	return ew_channel_send(argument, EW_NEVER, &number);
}

static int free_after_receive(void *argument)
{
	int i, number, rounds = RUNNING_ON_VALGRIND ? 50 : 2000;
	EW_SCOPE(scope);

	(void)argument;
	for (i = 0; i < rounds; i++) {
		EW_OWN(ew_channel, own);

		EXPECT_EQ(ew_channel_new((size_t)i % 2, sizeof(int), NULL, &own), 0);
		EXPECT_EQ(ew_spawn(&scope, send_and_leave, own, .worker = 2), 0);
		EXPECT_EQ(ew_channel_receive(own, EW_NEVER, &number), 1);
		if (i % 2 ==
		    0) /* the sender was in line, or has met us: it has only its wake-up to hear */
			ew_channel_free(&own);
		EXPECT_EQ(ew_scope_join(&scope), 0);
	}
	return 0;
}

TEST(channel_may_be_freed_by_who_received_the_last_message)
{
	EXPECT_EQ(run_workers(2, free_after_receive, NULL), 0);
}

TEST_MAIN()
