/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Selects: exactly one alternative happens, and of the others, and of a select that is cancelled, no trace is left.
 */

#include "crossing.h"
#include "io.h"
#include "task/worker.h"

#include <endwell/channel.h>
#include <endwell/select.h>
#include <sys/wait.h>

#define PARTS 3

/* What a test selects from. The channels have no room. */
static struct {
	struct ew_channel *channels[PARTS];
	struct ew_event events[PARTS];
} with;

static ew_task_fn *with_fn;

static void expect_nobody_waits(void)
{
	unsigned i;

	for (i = 0; i < PARTS; i++) {
		EXPECT_EQ(ew_channel_count(with.channels[i]).senders_waiting, 0);
		EXPECT_EQ(ew_channel_count(with.channels[i]).receivers_waiting, 0);
		EXPECT(!with.events[i].first && !with.events[i].last);
	}
}

static int with_parts(void *argument)
{
	EW_OWN(ew_channel, first);
	EW_OWN(ew_channel, second);
	EW_OWN(ew_channel, third);
	int r;

	memset(&with, 0, sizeof(with));
	EXPECT_EQ(ew_channel_new(0, sizeof(int), NULL, &first), 0);
	EXPECT_EQ(ew_channel_new(0, sizeof(int), NULL, &second), 0);
	EXPECT_EQ(ew_channel_new(0, sizeof(int), NULL, &third), 0);
	with.channels[0] = first;
	with.channels[1] = second;
	with.channels[2] = third;
	r = with_fn(argument);
	expect_nobody_waits();
	return r;
}

static int run_on(ew_task_fn *fn)
{
	with_fn = fn;
	return run_virtual(with_parts, NULL);
}

static int run_workers_on(ew_task_fn *fn)
{
	with_fn = fn;
	return run_workers(2, with_parts, NULL);
}

/* Receives from channel 0, sends 7 to channel 1, waits for event 0 and for a child of @scope. */
struct four {
	struct ew_scope *scope;
	struct ew_child *child;
	int received;
	int sent;
	struct ew_alternative alternatives[4];
};

static int select_of_four(struct four *four, int64_t deadline_ns)
{
	four->received = -1;
	four->sent = 7;
	four->child = NULL;
	four->alternatives[0] = ew_select_receive(with.channels[0], &four->received);
	four->alternatives[1] = ew_select_send(with.channels[1], &four->sent);
	four->alternatives[2] = ew_select_event(&with.events[0]);
	four->alternatives[3] = ew_select_child(four->scope, &four->child);
	return ew_select(four->alternatives, 4, deadline_ns);
}

static int provide_message(void *argument)
{
	int number = 5;

	(void)argument;
	return ew_channel_send(with.channels[0], EW_NEVER, &number);
}

static int take_message(void *argument)
{
	int number = 0, r = ew_channel_receive(with.channels[1], EW_NEVER, &number);

	(void)argument;
	EXPECT_EQ(number, 7);
	return r;
}

static int set_event(void *argument)
{
	(void)argument;
	ew_event_set(&with.events[0]);
	return 0;
}

static int end_at_once(void *argument)
{
	(void)argument;
	return 42;
}

static int never_end(void *argument)
{
	(void)argument;
	return ew_sleep_until(EW_NEVER);
}

static void end_children(struct ew_scope *children)
{
	ew_scope_cancel(children, EW_REASON_REQUESTED);
	EXPECT_EQ(ew_scope_finish(children, 0), -ECANCELED);
}

/* The one that provides is ready before the select, or comes while it waits. @own: it is a child of the select's scope. */
static void provide_and_select(ew_task_fn *provide, bool own, bool before, unsigned expected)
{
	struct ew_child child = { 0 };
	EW_SCOPE(others, .policy = EW_POLICY_INDEPENDENT);
	EW_SCOPE(children, .policy = EW_POLICY_INDEPENDENT);
	struct four four = { .scope = &children };
	int r;

	EXPECT_EQ(ew_spawn(&children, never_end, NULL), 0);
	if (own)
		EXPECT_EQ(ew_spawn(&children, provide, NULL, .child = &child), 0);
	else
		EXPECT_EQ(ew_spawn(&others, provide, NULL), 0);
	if (before)
		EXPECT_EQ(ew_yield(), 0);
	r = select_of_four(&four, EW_NEVER);
	EXPECT_EQ(r, expected);
	EXPECT_EQ(four.received, r == 0 ? 5 : -1);
	EXPECT(four.child == (r == 3 ? &child : NULL));
	EXPECT_EQ(four.alternatives[r].result, r == 0 || r == 3);
	EXPECT_EQ(child.result, own ? 42 : 0);
	expect_nobody_waits();
	ew_event_reset(&with.events[0]);
	end_children(&children);
	EXPECT_EQ(ew_scope_finish(&others, ew_scope_join(&others)), 0);
}

static int each_wins(void *argument)
{
	int before;

	(void)argument;
	for (before = 0; before < 2; before++) {
		provide_and_select(provide_message, false, before, 0);
		provide_and_select(take_message, false, before, 1);
		provide_and_select(set_event, false, before, 2);
		provide_and_select(end_at_once, true, before, 3);
	}
	return 0;
}

TEST(select_each_alternative_wins_at_once_and_after_a_wait)
{
	EXPECT_EQ(run_on(each_wins), 0);
	EXPECT_EQ(run_workers_on(each_wins), 0);
}

/* Two come in the same turn of the worker: the first one is it, and the other is still there. */
static int two_come(void *argument)
{
	EW_SCOPE(others);
	EW_SCOPE(children);
	struct four four = { .scope = &children };
	int number = 0;

	(void)argument;
	EXPECT_EQ(ew_spawn(&children, never_end, NULL), 0);
	EXPECT_EQ(ew_spawn(&others, set_event, NULL), 0);
	EXPECT_EQ(ew_spawn(&others, provide_message, NULL), 0);
	EXPECT_EQ(select_of_four(&four, EW_NEVER), 2);
	EXPECT_EQ(four.received, -1);
	EXPECT_EQ(ew_channel_count(with.channels[0]).receivers_waiting, 0);
	EXPECT_EQ(ew_channel_count(with.channels[0]).senders_waiting, 1);
	EXPECT_EQ(ew_channel_receive(with.channels[0], EW_NEVER, &number), 1);
	EXPECT_EQ(number, 5);
	end_children(&children);
	return ew_scope_finish(&others, ew_scope_join(&others));
}

TEST(select_loser_that_comes_before_the_winner_has_run_is_passed_over)
{
	EXPECT_EQ(run_on(two_come), 0);
}

/* The same select has decided for the first message. Whoever is behind it in the second line gets the second. */
static int select_then_stand(void *argument)
{
	int number = -1;
	struct ew_alternative alternatives[] = {
		ew_select_receive(with.channels[0], &number),
		ew_select_receive(with.channels[1], &number),
	};

	trace("s%d", ew_select(alternatives, 2, EW_NEVER));
	trace("%d", number);
	(void)argument;
	return 0;
}

static int receive_behind(void *argument)
{
	int number = -1, r = ew_channel_receive(with.channels[1], EW_NEVER, &number);

	(void)argument;
	trace("b%d", number);
	return r;
}

static int two_messages(void *argument)
{
	int one = 1, two = 2;
	EW_SCOPE(scope);

	(void)argument;
	EXPECT_EQ(ew_spawn(&scope, select_then_stand, NULL), 0);
	EXPECT_EQ(ew_spawn(&scope, receive_behind, NULL), 0);
	EXPECT_EQ(ew_yield(), 0);
	EXPECT_EQ(ew_channel_try_send(with.channels[0], &one), 0);
	EXPECT_EQ(ew_channel_try_send(with.channels[1], &two), 0);
	EXPECT_EQ(ew_channel_try_send(with.channels[1], &two), -EAGAIN);
	return ew_scope_finish(&scope, ew_scope_join(&scope));
}

TEST(select_that_is_decided_leaves_its_other_places_in_line_to_those_behind)
{
	EXPECT_EQ(run_on(two_messages), 0);
	EXPECT_STR(traced, "s0 1 b2");
}

/* ---- select meets select ---- */

static int select_both_ways(void *argument)
{
	int out = (int)(intptr_t)argument, in = -1, r;
	struct ew_alternative alternatives[] = {
		ew_select_send(with.channels[0], &out),
		ew_select_receive(with.channels[0], &in),
	};

	r = ew_select(alternatives, 2, ew_after(EW_SECOND));
	EXPECT(r == 0 || r == 1 || r == -ETIMEDOUT);
	if (r == 1)
		EXPECT(in >= 0 && in != out); /* never with itself */
	if (r >= 0)
		EXPECT_EQ(alternatives[r].result, r);
	trace(r < 0 ? "-" : r == 0 ? "out" : "in");
	return 0;
}

static int four_both_ways(void *argument)
{
	intptr_t i;
	EW_SCOPE(scope);

	(void)argument;
	for (i = 0; i < 5; i++)
		EXPECT_EQ(ew_spawn(&scope, select_both_ways, (void *)i), 0);
	return ew_scope_finish(&scope, ew_scope_join(&scope));
}

TEST(select_meets_selects_but_never_itself)
{
	EXPECT_EQ(run_on(four_both_ways), 0);
	EXPECT_EQ(strlen(traced), strlen("in out in out -"));
	EXPECT(traced[strlen(traced) - 1] == '-');
}

/* ---- cancels and deadlines ---- */

static int select_and_say(void *argument)
{
	EW_SCOPE(children);
	struct four four = { .scope = &children };
	int r;

	EXPECT_EQ(ew_spawn(&children, never_end, NULL), 0);
	r = select_of_four(&four, argument ? ew_after(EW_SECOND) : EW_NEVER);
	EXPECT_EQ(four.received, -1);
	EXPECT_EQ(four.sent, 7);
	return r;
}

static int run_out_of_time(void *argument)
{
	struct ew_alternative never[2] = { { 0 } };
	int64_t began_ns = ew_now();

	EXPECT_EQ(select_and_say(&began_ns), -ETIMEDOUT);
	EXPECT(ew_now() - began_ns >= EW_SECOND);
	expect_nobody_waits();
	EXPECT_EQ(ew_select(never, 2, ew_after(EW_SECOND)), -ETIMEDOUT);
	EXPECT_EQ(ew_select(never, 0, EW_NOW), -ETIMEDOUT);
	EXPECT_EQ(ew_select(never, EW_SELECT_MAX + 1, EW_NEVER), -EINVAL);
	(void)argument;
	return 0;
}

TEST(select_out_of_time_has_done_nothing)
{
	EXPECT_EQ(run_on(run_out_of_time), 0);
}

static int keep_result(void *argument)
{
	*(int *)argument = select_and_say(NULL);
	return 0;
}

static int cancel_while_it_waits(void *argument)
{
	int result = 1, number = 1;
	EW_SCOPE(scope);

	(void)argument;
	EXPECT_EQ(ew_spawn(&scope, keep_result, &result), 0);
	EXPECT_EQ(ew_yield(), 0);
	EXPECT_EQ(ew_channel_count(with.channels[0]).receivers_waiting, 1);
	EXPECT_EQ(ew_channel_count(with.channels[1]).senders_waiting, 1);
	ew_scope_cancel(&scope, EW_REASON_REQUESTED);
	/* It has not run yet, and is nobody's peer any more. */
	EXPECT_EQ(ew_channel_try_send(with.channels[0], &number), -EAGAIN);
	EXPECT_EQ(ew_channel_try_receive(with.channels[1], &number), -EAGAIN);
	ew_event_set(&with.events[0]);
	EXPECT_EQ(ew_scope_join(&scope), 0);
	EXPECT_EQ(result, -ECANCELED);
	EXPECT_EQ(ew_scope_finish(&scope, 0), 0);
	return 0;
}

static int select_once_cancelled(void *argument)
{
	struct ew_alternative alternative = ew_select_event(&with.events[0]);
	EW_SCOPE(scope);

	(void)argument;
	ew_event_set(&with.events[0]);
	ew_scope_cancel(&scope, EW_REASON_REQUESTED);
	EXPECT_EQ(ew_select(&alternative, 1, EW_NEVER), -ECANCELED);
	return ew_scope_finish(&scope, 0);
}

TEST(select_cancelled_leaves_no_trace)
{
	EXPECT_EQ(run_on(cancel_while_it_waits), 0);
	EXPECT_EQ(run_on(select_once_cancelled), 0);
}

/* ---- what comes from another worker crosses a cancel ---- */

static int select_and_see_the_cancel(void *argument)
{
	struct four *four = argument;
	EW_SCOPE(children);
	int r;

	EXPECT_EQ(ew_spawn(&children, never_end, NULL), 0);
	four->scope = &children;
	r = select_of_four(four, EW_NEVER);
	EXPECT_EQ(ew_yield(), -ECANCELED);
	return r;
}

static void give_message_then_event(void *argument)
{
	int number = 6;

	(void)argument;
	EXPECT_EQ(ew_channel_try_send(with.channels[0], &number), 0);
	EXPECT_EQ(ew_channel_try_send(with.channels[0], &number), -EAGAIN);
	EXPECT_EQ(ew_channel_try_receive(with.channels[1], &number), -EAGAIN);
	ew_event_set(&with.events[0]);
}

static void give_event_then_message(void *argument)
{
	int number = 6;

	(void)argument;
	ew_event_set(&with.events[0]);
	EXPECT_EQ(ew_channel_try_send(with.channels[0], &number), -EAGAIN);
	EXPECT_EQ(ew_channel_try_receive(with.channels[1], &number), -EAGAIN);
}

static void take_then_event(void *argument)
{
	int number = 6;

	(void)argument;
	EXPECT_EQ(ew_channel_try_receive(with.channels[1], &number), 1);
	EXPECT_EQ(number, 7);
	EXPECT_EQ(ew_channel_try_send(with.channels[0], &number), -EAGAIN);
	ew_event_set(&with.events[0]);
}

static int cross_cancels(void *argument)
{
	struct four four;

	(void)argument;
	EXPECT_EQ(cross(select_and_see_the_cancel, give_message_then_event, &four), 0);
	EXPECT_EQ(four.received, 6);
	ew_event_reset(&with.events[0]);
	EXPECT_EQ(cross(select_and_see_the_cancel, give_event_then_message, &four), 2);
	EXPECT_EQ(four.received, -1);
	ew_event_reset(&with.events[0]);
	EXPECT_EQ(cross(select_and_see_the_cancel, take_then_event, &four), 1);
	expect_nobody_waits();
	return 0;
}

TEST(select_grant_that_crosses_a_cancel_has_won)
{
	EXPECT_EQ(run_workers_on(cross_cancels), 0);
}

/* ---- closes, children, resources ---- */

static int close_while_it_waits(void *argument)
{
	EW_SCOPE(children);
	struct four four = { .scope = &children };

	(void)argument;
	ew_channel_close(with.channels[0]);
	ew_event_reset(&with.events[0]);
	EXPECT_EQ(ew_spawn(&children, never_end, NULL), 0);
	EXPECT_EQ(select_of_four(&four, EW_NEVER), 0);
	EXPECT_EQ(four.alternatives[0].result, 0);
	four.alternatives[0] = (struct ew_alternative){ 0 }; /* heard: it never comes again */
	EXPECT_EQ(ew_select(four.alternatives, 4, ew_after(EW_SECOND)), -ETIMEDOUT);
	ew_channel_close(with.channels[1]);
	EXPECT_EQ(ew_select(four.alternatives, 4, EW_NEVER), 1);
	EXPECT_EQ(four.alternatives[1].result, -EPIPE);
	end_children(&children);
	return 0;
}

static int close_second(void *argument)
{
	ew_channel_close(argument);
	return 0;
}

static int hear_a_close(void *argument)
{
	int number = 3;
	struct ew_alternative alternatives[] = {
		ew_select_receive(with.channels[1], &number),
		ew_select_send(with.channels[2], &number),
	};
	EW_SCOPE(scope);

	(void)argument;
	EXPECT_EQ(ew_spawn(&scope, close_second, with.channels[1]), 0);
	EXPECT_EQ(ew_select(alternatives, 2, EW_NEVER), 0);
	EXPECT_EQ(alternatives[0].result, 0);
	alternatives[0] = (struct ew_alternative){ 0 };
	EXPECT_EQ(ew_spawn(&scope, close_second, with.channels[2]), 0);
	EXPECT_EQ(ew_select(alternatives, 2, EW_NEVER), 1);
	EXPECT_EQ(alternatives[1].result, -EPIPE);
	return ew_scope_finish(&scope, ew_scope_join(&scope));
}

TEST(select_hears_of_a_closed_channel)
{
	EXPECT_EQ(run_on(close_while_it_waits), 0);
	EXPECT_EQ(run_on(hear_a_close), 0);
	EXPECT_EQ(run_workers_on(hear_a_close), 0);
}

static int sleep_so_long(void *argument)
{
	return ew_sleep((intptr_t)argument * EW_MILLISECOND);
}

/* Some on the other worker; the last of them has no result to keep. */
static int give_children_out(void *argument)
{
	struct ew_child children[4] = { 0 }, *child;
	unsigned i, seen = 0;
	EW_SCOPE(scope);
	struct ew_alternative alternatives[] = {
		ew_select_event(&with.events[0]),
		ew_select_child(&scope, &child),
	};

	(void)argument;
	for (i = 0; i < 4; i++)
		EXPECT_EQ(ew_spawn(&scope, sleep_so_long, (void *)(intptr_t)(i * 5),
				   .worker = 1 + i % 2, .child = &children[i]),
			  0);
	EXPECT_EQ(ew_spawn(&scope, sleep_so_long, (void *)(intptr_t)25, .worker = 2), 0);
	for (i = 0; i < 4; i++) {
		EXPECT_EQ(ew_select(alternatives, 2, EW_NEVER), 1);
		EXPECT_EQ(alternatives[1].result, 1);
		seen |= 1u << (child - children);
	}
	EXPECT_EQ(seen, 15);
	EXPECT_EQ(ew_select(alternatives, 2, EW_NEVER), 1);
	EXPECT_EQ(alternatives[1].result, 0);
	EXPECT_EQ(ew_select(alternatives, 2, EW_NEVER), 1);
	EXPECT_EQ(alternatives[1].result, 0);
	return ew_scope_finish(&scope, 0);
}

TEST(select_gives_each_child_out_once)
{
	EXPECT_EQ(run_workers_on(give_children_out), 0);
}

static struct thing things[2];

static int take_thing(void *argument)
{
	EW_OWN(thing, thing);

	EXPECT_EQ(ew_channel_receive(argument, EW_NEVER, &thing), 1);
	EXPECT(thing == &things[0]);
	return 0;
}

static int give_thing(void *argument)
{
	EW_OWN(thing, thing);

	thing = THING_OPEN(&things[1], "second");
	return ew_channel_send(argument, EW_NEVER, &thing);
}

static int move_things(void *argument)
{
	EW_OWN(ew_channel, out);
	EW_OWN(ew_channel, in);
	EW_OWN(thing, mine);
	EW_OWN(thing, theirs);
	EW_SCOPE(scope);
	struct ew_alternative alternatives[3];

	(void)argument;
	EXPECT_EQ(ew_channel_new_of_resources(0, &out), 0);
	EXPECT_EQ(ew_channel_new_of_resources(0, &in), 0);
	alternatives[0] = ew_select_send(out, &mine);
	alternatives[1] = ew_select_receive(in, &theirs);
	alternatives[2] = ew_select_event(&with.events[0]);
	mine = THING_OPEN(&things[0], "first");
	EXPECT_EQ(ew_select(alternatives, 3, ew_after(EW_SECOND)), -ETIMEDOUT);
	EXPECT(mine == &things[0] && !theirs);
	ew_event_set(&with.events[0]);
	EXPECT_EQ(ew_select(alternatives, 3, EW_NEVER), 2);
	EXPECT(mine == &things[0] && !theirs);
	ew_event_reset(&with.events[0]);
	EXPECT_EQ(ew_spawn(&scope, give_thing, in), 0);
	EXPECT_EQ(ew_select(alternatives, 3, EW_NEVER), 1);
	EXPECT(mine == &things[0] && theirs == &things[1]);
	EXPECT_EQ(ew_spawn(&scope, take_thing, out), 0);
	alternatives[1] = (struct ew_alternative){ 0 };
	EXPECT_EQ(ew_select(alternatives, 3, EW_NEVER), 0);
	EXPECT(!mine && theirs == &things[1]);
	EXPECT_EQ(ew_scope_join(&scope), 0);
	EXPECT_EQ(things[0].probe.closed, 1);
	EXPECT_EQ(things[1].probe.closed, 0);
	return ew_scope_finish(&scope, 0);
}

TEST(select_moves_a_resource_only_if_it_wins)
{
	EXPECT_EQ(run_on(move_things), 0);
	EXPECT_EQ(reports.count, 0);
	EXPECT_EQ(things[1].probe.closed, 1);
}

/* ---- fairness ---- */

static int count_wins(void *argument)
{
	unsigned wins[PARTS] = { 0 }, others[2] = { 0 }, i, rounds = 3000;
	struct ew_alternative alternatives[PARTS] = { ew_select_event(&with.events[0]),
						      ew_select_event(&with.events[1]),
						      ew_select_event(&with.events[2]) };
	int r;

	(void)argument;
	for (i = 0; i < PARTS; i++)
		ew_event_set(&with.events[i]);
	for (i = 0; i < rounds; i++) {
		r = ew_select(alternatives, PARTS, EW_NEVER);
		EXPECT(r >= 0);
		wins[r]++;
		r = ew_select(alternatives, 2, EW_NEVER); /* in step with the first */
		EXPECT(r >= 0);
		others[r]++;
	}
	for (i = 0; i < PARTS; i++)
		EXPECT(wins[i] > rounds / PARTS - rounds / 15);
	EXPECT(others[0] > rounds / 2 - rounds / 15 && others[1] > rounds / 2 - rounds / 15);
	return 0;
}

TEST(select_of_what_is_always_ready_favours_none)
{
	EXPECT_EQ(run_on(count_wins), 0);
}

/* ---- sockets ---- */

static int wait_for_sockets(void *argument)
{
	EW_OWN(ew_listener, listener);
	EW_OWN(ew_socket, socket);
	struct sockaddr_storage address;
	struct sockaddr_in any = loopback(0);
	struct ew_alternative alternatives[4];
	char byte;
	int peer;

	(void)argument;
	EXPECT_EQ(ew_listener_open((struct sockaddr *)&any, sizeof(any), 16, &listener), 0);
	EXPECT_EQ(ew_listener_address(listener, &address), 0);
	alternatives[0] = ew_select_accept(listener, &socket);
	alternatives[1] = ew_select_event(&with.events[0]);
	EXPECT_EQ(ew_select(alternatives, 2, ew_after(5 * EW_MILLISECOND)), -ETIMEDOUT);
	EXPECT(!socket);
	peer = plain_connect(&address, sizeof(any));
	EXPECT_EQ(ew_select(alternatives, 2, EW_NEVER), 0);
	EXPECT_EQ(alternatives[0].result, 0);
	EXPECT(socket);

	alternatives[0] = ew_select_readable(socket);
	alternatives[2] = ew_select_writable(socket);
	EXPECT_EQ(ew_select(alternatives, 2, ew_after(5 * EW_MILLISECOND)), -ETIMEDOUT);
	EXPECT_EQ(ew_select(alternatives, 3, EW_NEVER), 2);
	EXPECT_EQ(alternatives[2].result, POLLOUT);
	ew_event_set(&with.events[0]);
	EXPECT_EQ(ew_select(alternatives, 2, EW_NEVER), 1);
	ew_event_reset(&with.events[0]);
	EXPECT_EQ(write(peer, "x", 1), 1);
	EXPECT_EQ(ew_select(alternatives, 2, EW_NEVER), 0);
	EXPECT(alternatives[0].result & POLLIN);
	EXPECT_EQ(ew_socket_recv(socket, &byte, 1), 1);
	EXPECT_EQ(byte, 'x');
	close(peer);
	EXPECT_EQ(ew_select(alternatives, 2, EW_NEVER), 0);
	EXPECT_EQ(ew_socket_recv(socket, &byte, 1), 0);
	return 0;
}

TEST(select_waits_for_a_connection_and_for_bytes)
{
	EXPECT_EQ(run_workers_on(wait_for_sockets), 0);
}

/* A thread writes bytes; each is read once although every wait for it may lose against an event or be cancelled. */
static int socket_peer;

#define BYTES_COUNT 2000

static void *write_bytes(void *argument)
{
	int i;

	(void)argument;
	for (i = 0; i < BYTES_COUNT; i++) {
		EXPECT_EQ(write(socket_peer, &(char){ (char)i }, 1), 1);
		if (i % 16 == 0)
			usleep(100);
	}
	return NULL;
}

static int flicker(void *argument)
{
	int r;

	(void)argument;
	while ((r = ew_yield()) == 0)
		ew_event_set(&with.events[0]);
	return r;
}

static int read_bytes(struct ew_socket *socket)
{
	struct ew_alternative alternatives[] = { ew_select_readable(socket),
						 ew_select_event(&with.events[0]) };
	unsigned read_count = 0, lost = 0;
	char byte;
	int r;

	while (read_count < BYTES_COUNT) {
		r = ew_select(alternatives, 2, EW_NEVER);
		if (r == 1) {
			ew_event_reset(&with.events[0]);
			lost++;
			continue;
		}
		EXPECT_EQ(r, 0);
		EXPECT_EQ(ew_socket_recv(socket, &byte, 1), 1);
		EXPECT_EQ(byte, (char)read_count);
		read_count++;
	}
	EXPECT(lost > 0);
	return 0;
}

static int read_beside_an_event(void *argument)
{
	EW_OWN(ew_socket, socket);
	pthread_t writer;
	EW_SCOPE(scope);

	(void)argument;
	socket_peer = unix_peer(&socket);
	EXPECT_EQ(ew_spawn(&scope, flicker, NULL), 0);
	EXPECT_EQ(pthread_create(&writer, NULL, write_bytes, NULL), 0);
	EXPECT_EQ(read_bytes(socket), 0);
	pthread_join(writer, NULL);
	close(socket_peer);
	end_children(&scope);
	return 0;
}

TEST(select_that_loses_readiness_again_and_again_loses_no_byte)
{
	EXPECT_EQ(run_workers_on(read_beside_an_event), 0);
}

/* A thread connects again and again; each connection is answered although every wait for one may lose to an event. */
#define CONNECTIONS_COUNT 300

static struct sockaddr_storage listening_at;

static void *connect_again_and_again(void *argument)
{
	char byte;
	int i, peer;

	(void)argument;
	for (i = 0; i < CONNECTIONS_COUNT; i++) {
		peer = plain_connect(&listening_at, sizeof(struct sockaddr_in));
		EXPECT_EQ(read(peer, &byte, 1), 1);
		/* Not the other end, whose reset may come before this one knows that it is connected. */
		reset_when_closed(peer);
		close(peer);
	}
	return NULL;
}

static int answer_all(struct ew_listener *listener)
{
	unsigned answered = 0;
	int r = 0;

	while (answered < CONNECTIONS_COUNT && r == 0) {
		EW_OWN(ew_socket, socket);
		struct ew_alternative alternatives[] = { ew_select_event(&with.events[0]),
							 ew_select_accept(listener, &socket) };

		r = ew_select(alternatives, 2, EW_NEVER);
		EXPECT_EQ(socket != NULL, r == 1);
		ew_event_reset(&with.events[0]);
		answered += r == 1;
		if (r == 1)
			r = ew_socket_send(socket, "a", 1);
	}
	return r;
}

static int listen_beside_an_event(void *argument)
{
	EW_OWN(ew_listener, listener);
	struct sockaddr_in any = loopback(0);
	pthread_t client;
	EW_SCOPE(scope);

	(void)argument;
	EXPECT_EQ(ew_listener_open((struct sockaddr *)&any, sizeof(any), 16, &listener), 0);
	EXPECT_EQ(ew_listener_address(listener, &listening_at), 0);
	/* On the other worker: what it claims is a message on its way when a connection comes. */
	EXPECT_EQ(ew_spawn(&scope, flicker, NULL, .worker = 2), 0);
	EXPECT_EQ(ew_event_wait(&with.events[0], EW_NEVER), 0); /* it has begun */
	EXPECT_EQ(pthread_create(&client, NULL, connect_again_and_again, NULL), 0);
	EXPECT_EQ(answer_all(listener), 0);
	pthread_join(client, NULL);
	end_children(&scope);
	return 0;
}

TEST(select_that_loses_an_accept_again_and_again_loses_no_connection)
{
	EXPECT_EQ(run_workers_on(listen_beside_an_event), 0);
}

/* ---- across workers ---- */

#define NUMBERS_MAX 40000

/* Who has which number: each is received exactly if it was sent. */
static struct {
	_Atomic uint8_t sent[NUMBERS_MAX];
	_Atomic uint8_t received[NUMBERS_MAX];
	_Atomic int next;
} ledger;

static int numbers_to_send(void)
{
	return RUNNING_ON_VALGRIND ? 400 : NUMBERS_MAX;
}

static void receive_number(int number)
{
	EXPECT(number >= 0 && number < NUMBERS_MAX);
	EXPECT_EQ(ledger.received[number]++, 0);
}

/* Offers the same number to two channels; one of them takes it, or none. */
static int offer_numbers(void *argument)
{
	unsigned first = (unsigned)(uintptr_t)argument;
	int number, r;

	while ((number = ledger.next++) < numbers_to_send()) {
		struct ew_alternative alternatives[] = {
			ew_select_send(with.channels[first % PARTS], &number),
			ew_select_send(with.channels[(first + 1) % PARTS], &number),
			ew_select_event(&with.events[0]),
		};

		r = ew_select(alternatives, 3,
			      number % 3 ? EW_NEVER : ew_after(EW_MILLISECOND / 2));
		if (r < 0 && r != -ETIMEDOUT)
			return r;
		if (r == 2)
			return 0;
		if (r >= 0 && alternatives[r].result == 0)
			ledger.sent[number]++;
	}
	return 0;
}

/* Takes from all three, or passes one on: a message is in one place at any time. */
static int gather_numbers(void *argument)
{
	struct ew_alternative alternatives[PARTS + 1];
	int numbers[PARTS] = { -1, -1, -1 }, i, round = 0, r;

	(void)argument;
	for (i = 0; i < PARTS; i++)
		alternatives[i] = ew_select_receive(with.channels[i], &numbers[i]);
	alternatives[PARTS] = ew_select_event(&with.events[1]);
	for (;; round++) {
		r = ew_select(alternatives, PARTS + 1,
			      round % 3 ? EW_NEVER : ew_after(EW_MILLISECOND / 2));
		if (r == 0 && alternatives[0].result == 0)
			return 0; /* it was closed */
		for (i = 0; i < PARTS; i++)
			EXPECT_EQ(numbers[i] >= 0, r == i);
		if (r == PARTS || (r < 0 && r != -ETIMEDOUT))
			return r < 0 ? r : 0;
		if (r < 0)
			continue;
		receive_number(numbers[r]);
		numbers[r] = -1;
	}
}

/* One that has no select among those that do. */
static int gather_plainly(void *argument)
{
	int number, r;

	while ((r = ew_channel_receive(with.channels[0], EW_NEVER, &number)) == 1)
		receive_number(number);
	(void)argument;
	return r;
}

static void expect_kept_count(void)
{
	int i;

	for (i = 0; i < NUMBERS_MAX; i++)
		EXPECT_EQ(ledger.sent[i], ledger.received[i]);
}

static int move_numbers(void *argument)
{
	EW_SCOPE(receivers);
	EW_SCOPE(senders);
	uintptr_t i;

	(void)argument;
	EXPECT_EQ(ew_spawn(&receivers, gather_plainly, NULL, .worker = 2), 0);
	for (i = 0; i < 4; i++) {
		EXPECT_EQ(ew_spawn(&receivers, gather_numbers, NULL, .worker = 1 + i % 2), 0);
		EXPECT_EQ(ew_spawn(&senders, offer_numbers, (void *)i, .worker = 1 + i / 2 % 2), 0);
	}
	EXPECT_EQ(ew_scope_finish(&senders, ew_scope_join(&senders)), 0);
	ew_event_set(&with.events[1]);
	ew_channel_close(with.channels[0]);
	return ew_scope_finish(&receivers, ew_scope_join(&receivers));
}

TEST(select_across_workers_neither_loses_nor_doubles_a_message)
{
	EXPECT_EQ(run_workers_on(move_numbers), 0);
	expect_kept_count();
}

/* Everybody is cancelled, or told by an event, at whatever moment, round after round. */
static void cut_round(unsigned round)
{
	EW_SCOPE(scope);
	uintptr_t i;
	int r;

	ew_event_reset(&with.events[0]);
	ew_event_reset(&with.events[1]);
	EXPECT_EQ(ew_spawn(&scope, gather_plainly, NULL, .worker = 2), 0);
	for (i = 0; i < 3; i++) {
		EXPECT_EQ(ew_spawn(&scope, gather_numbers, NULL, .worker = 1 + i % 2), 0);
		EXPECT_EQ(ew_spawn(&scope, offer_numbers, (void *)i, .worker = 1 + i % 2), 0);
	}
	take_turns(chance(9));
	if (round % 2)
		ew_event_set(&with.events[0]);
	if (round % 4 == 1)
		ew_event_set(&with.events[1]);
	take_turns(chance(3));
	ew_scope_cancel(&scope, EW_REASON_REQUESTED);
	r = ew_scope_finish(&scope, 0);
	EXPECT(r == -ECANCELED || r == 0);
	expect_nobody_waits();
}

static int cut_rounds(void *argument)
{
	unsigned i;

	(void)argument;
	for (i = 0; i < (RUNNING_ON_VALGRIND ? 20 : 400); i++)
		cut_round(i);
	return 0;
}

TEST(select_across_workers_keeps_count_through_cancels)
{
	chance_begin();
	EXPECT_EQ(run_workers_on(cut_rounds), 0);
	expect_kept_count();
}

static void *set_from_a_thread(void *argument)
{
	ew_event_set(argument);
	return NULL;
}

static int hear_from_a_thread(void *argument)
{
	int i, number, rounds = RUNNING_ON_VALGRIND ? 20 : 500;
	pthread_t thread;

	(void)argument;
	for (i = 0; i < rounds; i++) {
		struct ew_alternative alternatives[] = {
			ew_select_receive(with.channels[0], &number),
			ew_select_event(&with.events[0]),
		};

		EXPECT_EQ(pthread_create(&thread, NULL, set_from_a_thread, &with.events[0]), 0);
		EXPECT_EQ(ew_select(alternatives, 2, EW_NEVER), 1);
		pthread_join(thread, NULL);
		ew_event_reset(&with.events[0]);
	}
	return 0;
}

TEST(select_is_told_by_a_plain_thread)
{
	EXPECT_EQ(run_workers_on(hear_from_a_thread), 0);
}

static void *set_later(void *event)
{
	usleep(1000);
	ew_event_set(event);
	return NULL;
}

TEST(select_on_a_plain_thread)
{
	struct ew_event early = { 0 }, late = { 0 };
	struct ew_alternative alternatives[] = { ew_select_event(&early), ew_select_event(&late) };
	pthread_t setter;

	EXPECT_EQ(ew_select(alternatives, 2, EW_NOW), -ETIMEDOUT);
	EXPECT_EQ(pthread_create(&setter, NULL, set_later, &late), 0);
	EXPECT_EQ(ew_select(alternatives, 2, EW_NEVER), 1);
	pthread_join(setter, NULL);
	ew_event_set(&early);
	EXPECT_EQ(ew_select(&alternatives[0], 1, EW_NEVER), 0);
	EXPECT(!early.first && !late.first);
}

TEST(select_of_a_connection_on_a_plain_thread_leaves_no_accept_behind)
{
	struct sockaddr_in any = { .sin_family = AF_INET, .sin_addr = { htonl(INADDR_LOOPBACK) } };
	struct sockaddr_storage address;
	EW_OWN(ew_listener, listener);
	EW_OWN(ew_socket, client);
	EW_OWN(ew_socket, server);

	EXPECT_EQ(ew_listener_open((struct sockaddr *)&any, sizeof(any), 4, &listener), 0);
	EXPECT_EQ(ew_listener_address(listener, &address), 0);
	struct ew_alternative accept = ew_select_accept(listener, &server);

	EXPECT_EQ(ew_select(&accept, 1, ew_after(EW_MILLISECOND)), -ETIMEDOUT);
	EXPECT_EQ(ew__driver_in_flight(ew__worker->driver), 0);
	EXPECT_EQ(
		ew_socket_connect((struct sockaddr *)&address, sizeof(struct sockaddr_in), &client),
		0);
	EXPECT_EQ(ew_select(&accept, 1, EW_NEVER), 0);
	EXPECT(server);
	EXPECT_EQ(ew__driver_in_flight(ew__worker->driver), 0);
}

static _Atomic bool select_stands;

static int select_a_connection(void *listener)
{
	EW_OWN(ew_socket, nobody);
	struct ew_alternative accept = ew_select_accept(listener, &nobody);

	return ew_select(&accept, 1, EW_NEVER);
}

static int stand_in_a_select(void *listener)
{
	EW_SCOPE(scope);

	EXPECT_EQ(ew_spawn(&scope, select_a_connection, listener), 0);
	EXPECT_EQ(ew_yield(), 0);
	select_stands = true;
	return ew_scope_finish(&scope, ew_scope_join(&scope));
}

static int close_under_a_select(void *argument)
{
	struct sockaddr_in any = { .sin_family = AF_INET, .sin_addr = { htonl(INADDR_LOOPBACK) } };
	EW_OWN(ew_listener, listener);
	EW_SCOPE(scope);

	(void)argument;
	select_stands = false;
	EXPECT_EQ(ew_listener_open((struct sockaddr *)&any, sizeof(any), 4, &listener), 0);
	EXPECT_EQ(ew_spawn(&scope, stand_in_a_select, listener, .worker = ew_workers_count()), 0);
	while (!select_stands)
		EXPECT_EQ(ew_yield(), 0);
	return ew_listener_close(&listener);
}

static void close_under_a_select_here(void)
{
	alarm(10);
	(void)run_workers(1, close_under_a_select, NULL);
}

static void close_under_a_select_elsewhere(void)
{
	alarm(10);
	(void)run_workers(2, close_under_a_select, NULL);
}

/* It would wait for ever for a connection of a listener that is gone. */
TEST(select_of_a_listener_that_is_closed_is_an_assertion)
{
	void (*const fns[])(void) = { close_under_a_select_here, close_under_a_select_elsewhere };
	int i;

	for (i = 0; i < 2; i++) {
		struct ended ended = run_process(fns[i]);

		EXPECT(WIFSIGNALED(ended.status) && WTERMSIG(ended.status) == SIGABRT);
		EXPECT(strstr(ended.text, "assertion failed") && strstr(ended.text, "listener.c"));
	}
}

TEST_MAIN()
