/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Groups of children: the first success ends the others, each end is told in order of completion, and what the others
 * did and left is there, once.
 */

#include "core.h"

#include <endwell/channel.h>

#define RUNNERS 4

/* What a child is to do, and the home of what it leaves. */
struct runner {
	int64_t takes_ns;
	int result;
	bool ignores; /* the cancel: another one has won */
	bool panics;
	struct thing thing;
	struct thing **value;
};

static int run(void *argument)
{
	struct runner *runner = argument;
	int r = ew_sleep(runner->takes_ns);

	if (r < 0 && !runner->ignores)
		return r;
	if (runner->panics)
		ew_panic("on the way");
	if (runner->value)
		*runner->value = THING_OPEN(&runner->thing, "value");
	return runner->result;
}

static void start(struct ew_scope *scope, struct runner *runners, struct ew_child *children,
		  int count)
{
	int i;

	for (i = 0; i < count; i++)
		EXPECT_EQ(ew_spawn(scope, run, &runners[i], .child = &children[i]), 0);
}

static int race(void *argument)
{
	struct runner runners[RUNNERS] = {
		{ .takes_ns = EW_SECOND, .result = -EIO },
		{ .takes_ns = 2 * EW_SECOND, .result = 7 },
		{ .takes_ns = 3600 * EW_SECOND },
		{ .takes_ns = 3600 * EW_SECOND, .ignores = true, .result = -EPIPE }
	};
	struct ew_child children[RUNNERS] = { 0 };
	int64_t began_ns = ew_now();
	EW_SCOPE(scope, .policy = EW_POLICY_FIRST_SUCCESS);

	(void)argument;
	start(&scope, runners, children, RUNNERS);
	EXPECT_EQ(ew_scope_join(&scope), 0);
	EXPECT(ew_now() - began_ns < 3 * EW_SECOND);
	EXPECT_EQ(ew_scope_reason(&scope), EW_REASON_CHILD);
	EXPECT_EQ(ew_scope_finish(&scope, 0), 0);
	EXPECT_EQ(children[0].result, -EIO);
	EXPECT_EQ(children[1].result, 7);
	EXPECT_EQ(children[2].result, -ECANCELED);
	EXPECT_EQ(children[3].result, -EPIPE);
	return ew_yield(); /* the cancel stayed inside */
}

TEST(group_first_success_cancels_the_rest_and_keeps_what_became_of_them)
{
	EXPECT_EQ(run_virtual(race, NULL), 0);
}

static int lose(void *argument)
{
	struct runner runners[3] = { { .takes_ns = 2 * EW_SECOND, .result = -EIO },
				     { .takes_ns = EW_SECOND, .result = -EPIPE },
				     { .takes_ns = 3 * EW_SECOND, .panics = true } };
	struct ew_child children[3] = { 0 };
	int64_t began_ns = ew_now();
	EW_SCOPE(scope, .policy = EW_POLICY_FIRST_SUCCESS);

	(void)argument;
	start(&scope, runners, children, 3);
	EXPECT_EQ(ew_scope_join(&scope), -EPIPE);
	EXPECT(ew_now() - began_ns >= 3 * EW_SECOND); /* an error cancels nobody */
	EXPECT_EQ(children[2].result, -ENOTRECOVERABLE);
	EXPECT_EQ(ew_yield(), 0);
	return ew_scope_finish(&scope, 0);
}

TEST(group_without_a_success_has_the_first_error)
{
	EXPECT_EQ(run_virtual(lose, NULL), -EPIPE);
}

static int run_out_of_time(void *argument)
{
	struct runner runners[2] = { { .takes_ns = 3600 * EW_SECOND },
				     { .takes_ns = 3600 * EW_SECOND } };
	struct ew_child children[2] = { 0 };
	EW_SCOPE(scope, .policy = EW_POLICY_FIRST_SUCCESS, .deadline_ns = ew_after(EW_SECOND));

	runners[1].ignores = argument != NULL; /* it has its value all the same */
	start(&scope, runners, children, 2);
	EXPECT_EQ(ew_sleep(3600 * EW_SECOND), -ECANCELED);
	return ew_scope_finish(&scope, -ECANCELED);
}

TEST(group_out_of_time_says_so_unless_one_had_succeeded)
{
	int late = 1;

	EXPECT_EQ(run_virtual(run_out_of_time, NULL), -ETIMEDOUT);
	EXPECT_EQ(run_virtual(run_out_of_time, &late), 0);
}

static int close_a_race(void *argument)
{
	struct runner runners[2] = { { .takes_ns = EW_SECOND }, { .takes_ns = 3600 * EW_SECOND } };
	struct ew_child children[2] = { 0 };
	int64_t began_ns = ew_now();
	int r;
	EW_SCOPE(scope, .policy = EW_POLICY_FIRST_SUCCESS);

	(void)argument;
	start(&scope, runners, children, 2);
	r = ew_scope_close(&scope, EW_NEVER, EW_REASON_REQUESTED);
	EXPECT(ew_now() - began_ns < 2 * EW_SECOND);
	return r;
}

TEST(group_that_is_closed_has_the_first_success)
{
	EXPECT_EQ(run_virtual(close_a_race, NULL), 0);
}

/* Two are ready in the same turn: both leave a value, of which the caller takes one. */
static int race_for_values(void *argument)
{
	struct runner *runners = argument;
	struct ew_child children[3] = { 0 }, *first;
	EW_OWN(thing, taken);
	EW_OWN(thing, one);
	EW_OWN(thing, other);
	EW_OWN(thing, none);
	struct thing **const values[3] = { &none, &one, &other };
	EW_SCOPE(scope, .policy = EW_POLICY_FIRST_SUCCESS);
	int i;

	for (i = 0; i < 3; i++)
		runners[i].value = values[i];
	start(&scope, runners, children, 3);
	EXPECT_EQ(ew_scope_join_next(&scope, &first), 1);
	EXPECT(first == &children[1]);
	EXPECT_EQ(ew_scope_finish(&scope, 0), 0);
	EXPECT_EQ(children[0].result, -ECANCELED);
	EXPECT_EQ(children[2].result, 0); /* it had succeeded, too */
	taken = one;
	one = NULL;
	return ew_close(&taken);
}

TEST(group_values_of_the_losers_are_ended_by_their_places)
{
	static struct runner runners[3] = { { .takes_ns = EW_SECOND },
					    { .takes_ns = EW_SECOND / 2 },
					    { .takes_ns = EW_SECOND / 2 } };

	EXPECT_EQ(run_virtual(race_for_values, runners), 0);
	EXPECT_EQ(runners[0].thing.probe.closed, 0);
	EXPECT_EQ(runners[1].thing.probe.closed, 1);
	EXPECT_EQ(runners[2].thing.probe.closed, 1);
	EXPECT_EQ(reports.count, 0);
}

static int follow(void *argument)
{
	static const int order[] = { 1, 3, 2, 0 };
	struct runner runners[RUNNERS] = { { .takes_ns = 9 * EW_SECOND, .result = 9 },
					   { .takes_ns = EW_SECOND, .result = -EIO },
					   { .takes_ns = 3 * EW_SECOND, .result = 3 },
					   { .takes_ns = EW_SECOND, .result = 2 } };
	struct runner unwatched = { .takes_ns = 20 * EW_SECOND };
	struct ew_child children[RUNNERS] = { 0 }, *child = NULL;
	int64_t began_ns = ew_now();
	EW_SCOPE(scope, .policy = EW_POLICY_INDEPENDENT);
	int i;

	(void)argument;
	EXPECT_EQ(ew_spawn(&scope, run, &unwatched), 0);
	start(&scope, runners, children, 3);
	for (i = 0; i < RUNNERS; i++) {
		EXPECT_EQ(ew_scope_join_next(&scope, &child), 1);
		EXPECT(child == &children[order[i]]);
		EXPECT_EQ(child->result, runners[order[i]].result);
		if (i == 0) /* ends after two seconds */
			EXPECT_EQ(ew_spawn(&scope, run, &runners[3], .child = &children[3]), 0);
	}
	EXPECT(ew_now() - began_ns < 10 * EW_SECOND);
	child = NULL;
	EXPECT_EQ(ew_scope_join_next(&scope, &child), 0);
	EXPECT(child == NULL);
	EXPECT(ew_now() - began_ns >= 20 * EW_SECOND); /* awaited, and not given out */
	EXPECT_EQ(ew_scope_join_next(&scope, &child), 0);
	return ew_scope_finish(&scope, 0);
}

TEST(group_children_are_given_out_as_they_finish)
{
	EXPECT_EQ(run_virtual(follow, NULL), 0);
}

/* All have ended before anybody asks, and their memory is used for more. */
static int follow_later(void *argument)
{
	struct runner runner = { .takes_ns = EW_SECOND, .result = 5 };
	struct ew_child children[2] = { 0 }, *child;
	EW_SCOPE(scope);
	int i, j;

	(void)argument;
	for (i = 0; i < 3; i++) {
		for (j = 0; j < 2; j++)
			EXPECT_EQ(ew_spawn(&scope, run, &runner, .child = &children[j]), 0);
		EXPECT_EQ(ew_scope_join(&scope), 0);
		for (j = 0; j < 2; j++) {
			EXPECT_EQ(ew_scope_join_next(&scope, &child), 1);
			EXPECT(child == &children[j]);
			EXPECT_EQ(child->result, 5);
		}
		EXPECT_EQ(ew_spawn(&scope, run, &runner), 0); /* on a stack of theirs */
		EXPECT_EQ(ew_scope_join_next(&scope, &child), 0);
	}
	start(&scope, &runner, children, 1);
	EXPECT_EQ(ew_scope_finish(&scope, 0), 0); /* never given out */
	{
		EW_SCOPE(again);

		start(&again, &runner, children, 1);
		EXPECT_EQ(ew_scope_finish(&again, ew_scope_join(&again)), 0);
	}
	return children[0].result;
}

TEST(group_children_are_kept_until_they_are_given_out_and_used_again)
{
	EXPECT_EQ(run_virtual(follow_later, NULL), 5);
}

/* Two have ended, and one of them is given out: a join still waits for the third. */
static int join_the_rest(void *argument)
{
	struct runner runners[3] = { { .takes_ns = EW_SECOND },
				     { .takes_ns = EW_SECOND },
				     { .takes_ns = 5 * EW_SECOND } };
	struct ew_child children[3] = { 0 }, *child;
	int64_t began_ns = ew_now();
	EW_SCOPE(scope);

	(void)argument;
	start(&scope, runners, children, 3);
	EXPECT_EQ(ew_scope_join_next(&scope, &child), 1);
	EXPECT_EQ(ew_yield(), 0); /* the second has ended, too */
	EXPECT_EQ(ew_scope_join(&scope), 0);
	EXPECT(ew_now() - began_ns >= 5 * EW_SECOND);
	EXPECT_EQ(ew_scope_join_next(&scope, &child), 1);
	EXPECT_EQ(ew_scope_join_next(&scope, &child), 1);
	EXPECT_EQ(ew_scope_join_next(&scope, &child), 0);
	return ew_scope_finish(&scope, 0);
}

TEST(group_join_waits_for_all_also_with_some_not_given_out)
{
	EXPECT_EQ(run_virtual(join_the_rest, NULL), 0);
}

/* An error, or a cancel from outside: the others end by it, and each is told of, though the block is cancelled, too. */
static int follow_the_cancelled(void *argument)
{
	struct runner runners[3] = {
		{ .takes_ns = 3600 * EW_SECOND },
		{ .takes_ns = EW_SECOND, .result = -EIO },
		{ .takes_ns = 3600 * EW_SECOND, .ignores = true, .result = 4 }
	};
	struct ew_child children[3] = { 0 }, *child;
	EW_SCOPE(scope);

	if (argument)
		ew_scope_cancel(&scope, EW_REASON_REQUESTED);
	else
		start(&scope, runners, children, 3);
	if (!argument) {
		EXPECT_EQ(ew_scope_join_next(&scope, &child), 1);
		EXPECT(child == &children[1]);
		EXPECT_EQ(ew_yield(), -ECANCELED);
		EXPECT_EQ(ew_scope_join_next(&scope, &child), 1);
		EXPECT_EQ(ew_scope_join_next(&scope, &child), 1);
	}
	EXPECT_EQ(ew_scope_join_next(&scope, &child), 0);
	EXPECT_EQ(children[0].result, argument ? 0 : -ECANCELED);
	EXPECT_EQ(children[2].result, argument ? 0 : 4);
	return ew_scope_finish(&scope, 0);
}

TEST(group_children_of_a_cancelled_scope_are_given_out)
{
	int cancelled = 1;

	EXPECT_EQ(run_virtual(follow_the_cancelled, NULL), -EIO);
	EXPECT_EQ(run_virtual(follow_the_cancelled, &cancelled), 0);
}

static int say_that_it_ran(void *argument)
{
	*(bool *)argument = true;
	return 0;
}

static int ask_for_ever(void *argument)
{
	struct ew_child *child;
	bool ran = false;
	EW_SCOPE(others);
	EW_SCOPE(scope);

	(void)argument;
	EXPECT_EQ(ew_spawn(&others, say_that_it_ran, &ran), 0);
	ew_scope_cancel(&scope, EW_REASON_REQUESTED);
	while (!ran)
		EXPECT_EQ(ew_scope_join_next(&scope, &child), 0);
	EXPECT_EQ(ew_scope_finish(&scope, 0), 0);
	return ew_scope_finish(&others, 0);
}

TEST(group_asked_for_more_in_a_loop_does_not_stop_its_worker)
{
	EXPECT_EQ(run_virtual(ask_for_ever, NULL), 0);
}

static int use_twice(void *argument)
{
	struct runner runner = { .takes_ns = EW_SECOND };
	struct ew_child child = { 0 };
	EW_SCOPE(scope);

	(void)argument;
	start(&scope, &runner, &child, 1);
	start(&scope, &runner, &child, 1);
	return 0;
}

static void run_use_twice(void)
{
	alarm(10);
	(void)!run_virtual(use_twice, NULL);
}

TEST(group_child_used_for_two_tasks_is_a_bug_that_ends_the_process)
{
	struct ended ended = run_process(run_use_twice);

	EXPECT(WIFSIGNALED(ended.status) && WTERMSIG(ended.status) == SIGABRT);
	EXPECT(strstr(ended.text, "in_use") != NULL);
}

static int take_anothers(void *argument)
{
	struct ew_child *child;

	return ew_scope_join_next(argument, &child);
}

static int ask_by_two(void *argument)
{
	struct runner runner = { 0 };
	struct ew_child child = { 0 };
	EW_SCOPE(helpers);
	EW_SCOPE(scope);

	(void)argument;
	start(&scope, &runner, &child, 1);
	EXPECT_EQ(ew_scope_join(&scope), 0);
	EXPECT_EQ(ew_spawn(&helpers, take_anothers, &scope), 0);
	return ew_yield();
}

static void run_ask_by_two(void)
{
	alarm(10);
	(void)!run_virtual(ask_by_two, NULL);
}

TEST(group_asked_for_by_another_task_is_a_bug_that_ends_the_process)
{
	struct ended ended = run_process(run_ask_by_two);

	EXPECT(WIFSIGNALED(ended.status) && WTERMSIG(ended.status) == SIGABRT);
	EXPECT(strstr(ended.text, "take_anothers") != NULL);
}

#define CROWD 16

struct member {
	int number;
	_Atomic int *running;
};

static int be_there(void *argument)
{
	struct member *member = argument;
	int i, r = 0;

	for (i = 0; i < member->number % 5 && r == 0; i++)
		r = ew_yield();
	--*member->running;
	return r < 0 ? r : member->number;
}

/* As many as there are, on both workers, each given out once; a new one for each, until all rounds are over. */
static int follow_on_workers(void *argument)
{
	int rounds = RUNNING_ON_VALGRIND ? 100 : 20000, spawned = 0, told = 0, i;
	struct member members[CROWD];
	struct ew_child children[CROWD] = { 0 }, *child;
	_Atomic int running = 0;
	EW_SCOPE(scope, .policy = EW_POLICY_INDEPENDENT);

	(void)argument;
	for (i = 0; i < CROWD; i++)
		members[i] = (struct member){ i, &running };
	for (i = 0; i < CROWD; i++, spawned++) {
		running++;
		EXPECT_EQ(ew_spawn(&scope, be_there, &members[i], .worker = 1 + i % 2,
				   .child = &children[i]),
			  0);
	}
	while (ew_scope_join_next(&scope, &child) > 0) {
		i = (int)(child - children);
		EXPECT_EQ(child->result, i);
		told++;
		if (spawned == rounds)
			continue;
		spawned++;
		running++;
		EXPECT_EQ(ew_spawn(&scope, be_there, &members[i], .worker = 1 + spawned % 2,
				   .child = child),
			  0);
	}
	EXPECT_EQ(told, rounds);
	EXPECT_EQ(running, 0);
	return ew_scope_finish(&scope, 0);
}

TEST(group_across_workers_gives_each_child_out_once)
{
	EXPECT_EQ(run_workers(2, follow_on_workers, NULL), 0);
}

struct sender {
	struct ew_channel *values;
	struct thing thing;
};

static int send_value(void *argument)
{
	struct sender *sender = argument;
	EW_OWN(thing, value);
	int r = ew_yield();

	if (r < 0)
		return r;
	value = THING_OPEN(&sender->thing, "value");
	return ew_channel_try_send(sender->values, &value); /* there is room for each */
}

/* One value is taken, and the channel ends with what else is in it. */
static void race_for_the_first(struct sender *senders, struct ew_child *children)
{
	EW_OWN(ew_channel, values);
	EW_OWN(thing, first);
	EW_SCOPE(scope, .policy = EW_POLICY_FIRST_SUCCESS);
	int i;

	EXPECT_EQ(ew_channel_new_of_resources(2, &values), 0);
	for (i = 0; i < 2; i++) {
		senders[i].values = values;
		EXPECT_EQ(ew_spawn(&scope, send_value, &senders[i], .worker = 1 + i,
				   .child = &children[i]),
			  0);
	}
	EXPECT_EQ(ew_scope_finish(&scope, ew_scope_join(&scope)), 0);
	EXPECT_EQ(ew_channel_try_receive(values, &first), 1);
	EXPECT_EQ(ew_close(&first), 0);
}

/* On two workers at once: whoever succeeded has left one value, whoever did not, none. */
static int race_on_workers(void *argument)
{
	int rounds = RUNNING_ON_VALGRIND ? 30 : 2000, i, j, closed, ended;
	struct sender senders[2];
	struct probe *probe;

	(void)argument;
	for (i = 0; i < rounds; i++) {
		struct ew_child children[2] = { 0 };

		memset(senders, 0, sizeof(senders));
		race_for_the_first(senders, children);
		closed = 0;
		for (j = 0; j < 2; j++) {
			probe = &senders[j].thing.probe;
			ended = (int)(probe->closed + probe->aborted);
			closed += (int)probe->closed;
			EXPECT(children[j].result == 0 || children[j].result == -ECANCELED);
			EXPECT_EQ(ended, children[j].result == 0);
		}
		EXPECT_EQ(closed, 1);
	}
	return 0;
}

TEST(group_race_across_workers_loses_no_value)
{
	EXPECT_EQ(run_workers(2, race_on_workers, NULL), 0);
}

TEST_MAIN()
