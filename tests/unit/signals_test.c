/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Signals: each that is sent is received once, by somebody who waits, or stays pending.
 */

#include "plain.h"
#include "task/worker.h"

#include <endwell/clock.h>
#include <endwell/endwell.h>
#include <fcntl.h>

#define RACES_COUNT 300

static unsigned reports_count;

static void note_report(void *argument, const char *line)
{
	(void)argument;
	(void)line;
	reports_count++;
}

/* With SIGUSR1, SIGUSR2 and SIGTERM for the program. */
static int run_workers(ew_task_fn *fn, unsigned workers_count)
{
	struct ew_run_options options = { .workers_count = workers_count, .report = note_report };
	sigset_t set;

	sigemptyset(&set);
	sigaddset(&set, SIGUSR1);
	sigaddset(&set, SIGUSR2);
	sigaddset(&set, SIGTERM);
	options.signals = &set;
	return ew_run(&options, fn, NULL);
}

static int run(ew_task_fn *fn)
{
	return run_workers(fn, 1);
}

static void open_signals(int first, int second, struct ew_signals **ret_signals)
{
	sigset_t set;

	sigemptyset(&set);
	sigaddset(&set, first);
	sigaddset(&set, second);
	EXPECT_EQ(ew_signals_open(&set, ret_signals), 0);
}

static bool is_pending(int number)
{
	sigset_t pending;

	sigpending(&pending);
	return sigismember(&pending, number) == 1;
}

static int wait_for_pending(void *argument)
{
	EW_OWN(ew_signals, signals);

	(void)argument;
	EXPECT_EQ(kill(getpid(), SIGTERM), 0);
	open_signals(SIGTERM, SIGUSR1, &signals);
	EXPECT_EQ(ew_signals_wait(signals), SIGTERM);
	EXPECT(!is_pending(SIGTERM));
	EXPECT_EQ(kill(getpid(), SIGUSR1), 0);
	EXPECT_EQ(ew_signals_wait(signals), SIGUSR1);
	return ew_signals_close(&signals);
}

TEST(signals_wait_gives_one_that_is_pending)
{
	EXPECT_EQ(run(wait_for_pending), 0);
	EXPECT_EQ(reports_count, 0);
}

static int send_later(void *argument)
{
	EXPECT_EQ(ew_sleep(5 * EW_MILLISECOND), 0);
	EXPECT_EQ(kill(getpid(), *(int *)argument), 0);
	return 0;
}

static int wait_for_later(void *argument)
{
	EW_OWN(ew_signals, signals);
	int number = SIGUSR2;
	uint64_t turns = ew__worker->turns;
	EW_SCOPE(scope);

	(void)argument;
	open_signals(SIGUSR1, SIGUSR2, &signals);
	EXPECT_EQ(ew_spawn(&scope, send_later, &number), 0);
	EXPECT_EQ(ew_signals_wait(signals), SIGUSR2);
	EXPECT(ew__worker->turns - turns < 20);
	return ew_scope_join(&scope);
}

/* The number of turns shows that it waits and does not ask again and again. */
TEST(signals_wait_suspends_until_one_comes)
{
	EXPECT_EQ(run(wait_for_later), 0);
	EXPECT_EQ(run_workers(wait_for_later, 3), 0);
}

struct waiter {
	struct ew_signals *signals;
	int result;
	enum ew_outcome outcome;
};

static int wait_task(void *argument)
{
	struct waiter *waiter = argument;

	waiter->result = ew_signals_wait(waiter->signals);
	waiter->outcome = ew_outcome();
	return 0;
}

static void race_once(struct ew_signals *signals, bool send_first, unsigned *received_count)
{
	struct waiter waiter = { .signals = signals };
	EW_SCOPE(scope);

	EXPECT_EQ(ew_spawn(&scope, wait_task, &waiter), 0);
	EXPECT_EQ(ew_yield(), 0);
	if (send_first)
		EXPECT_EQ(kill(getpid(), SIGUSR1), 0);
	ew_scope_cancel(&scope, EW_REASON_REQUESTED);
	if (!send_first)
		EXPECT_EQ(kill(getpid(), SIGUSR1), 0);
	(void)!ew_scope_join(&scope);
	if (waiter.result == SIGUSR1) {
		++*received_count;
		EXPECT(!is_pending(SIGUSR1));
		EXPECT_EQ(waiter.outcome, EW_OUTCOME_DONE);
		return;
	}
	EXPECT_EQ(waiter.result, -ECANCELED);
	EXPECT(is_pending(SIGUSR1));
	EXPECT_EQ(waiter.outcome, EW_OUTCOME_NONE);
}

static int race_often(void *argument)
{
	EW_OWN(ew_signals, signals);
	unsigned i, received_count = 0;

	(void)argument;
	open_signals(SIGUSR1, SIGUSR2, &signals);
	for (i = 0; i < RACES_COUNT; i++) {
		race_once(signals, i % 2, &received_count);
		if (is_pending(SIGUSR1))
			EXPECT_EQ(ew_signals_wait(signals), SIGUSR1);
	}
	EXPECT(received_count < RACES_COUNT);
	return 0;
}

/*
 * A signal and a cancel meet a waiting task in one turn: the signal is received, or it is still
 * pending.
 */
TEST(signals_wait_cancelled_takes_none)
{
	EXPECT_EQ(run(race_often), 0);
}

static int wait_in_cancelled_scope(void *argument)
{
	EW_OWN(ew_signals, signals);

	(void)argument;
	open_signals(SIGUSR1, SIGUSR2, &signals);
	EXPECT_EQ(kill(getpid(), SIGUSR1), 0);
	{
		EW_SCOPE(scope);

		ew_scope_cancel(&scope, EW_REASON_REQUESTED);
		EXPECT_EQ(ew_signals_wait(signals), -ECANCELED);
		EXPECT(is_pending(SIGUSR1));
	}
	EXPECT_EQ(ew_signals_wait(signals), SIGUSR1);
	return 0;
}

TEST(signals_wait_is_refused_once_cancelled_although_one_is_pending)
{
	EXPECT_EQ(run(wait_in_cancelled_scope), 0);
}

static int wait_in_two_tasks(void *argument)
{
	EW_OWN(ew_signals, signals);
	struct waiter waiters[2] = { 0 };
	EW_SCOPE(scope);

	(void)argument;
	open_signals(SIGUSR1, SIGUSR2, &signals);
	waiters[0].signals = waiters[1].signals = signals;
	EXPECT_EQ(ew_spawn(&scope, wait_task, &waiters[0]), 0);
	EXPECT_EQ(ew_spawn(&scope, wait_task, &waiters[1]), 0);
	EXPECT_EQ(ew_sleep(2 * EW_MILLISECOND), 0);
	EXPECT_EQ(kill(getpid(), SIGUSR1), 0);
	while (waiters[0].result + waiters[1].result == 0)
		EXPECT_EQ(ew_yield(), 0);
	EXPECT_EQ(ew_sleep(2 * EW_MILLISECOND), 0);
	EXPECT_EQ(waiters[0].result + waiters[1].result, SIGUSR1);
	EXPECT_EQ(kill(getpid(), SIGUSR2), 0);
	EXPECT_EQ(ew_scope_join(&scope), 0);
	EXPECT_EQ(waiters[0].result + waiters[1].result, SIGUSR1 + SIGUSR2);
	return 0;
}

/* Both are woken; the one who finds nothing waits on. */
TEST(signals_are_received_once_each)
{
	EXPECT_EQ(run(wait_in_two_tasks), 0);
}

static int wait_for_two(void *argument)
{
	EW_OWN(ew_signals, signals);

	(void)argument;
	open_signals(SIGUSR1, SIGUSR2, &signals);
	EXPECT_EQ(kill(getpid(), SIGUSR1), 0);
	EXPECT_EQ(kill(getpid(), SIGUSR2), 0);
	EXPECT_EQ(ew_signals_wait(signals), SIGUSR1);
	EXPECT_EQ(ew_signals_wait(signals), SIGUSR2);
	return 0;
}

/* A wait takes one and leaves the other. */
TEST(signals_pending_together_are_received_one_by_one)
{
	EXPECT_EQ(run(wait_for_two), 0);
}

static int open_unblocked(void *argument)
{
	EW_OWN(ew_signals, signals);
	sigset_t set;

	(void)argument;
	sigemptyset(&set);
	sigaddset(&set, SIGUSR1);
	sigaddset(&set, SIGHUP);
	EXPECT_EQ(ew_signals_open(&set, &signals), -EINVAL);
	EXPECT(!signals);
	return 0;
}

TEST(signals_open_refuses_what_the_runtime_does_not_block)
{
	EXPECT_EQ(run(open_unblocked), 0);
}

static int descriptor_count(void)
{
	int fd, count = 0;

	for (fd = 0; fd < 256; fd++)
		count += fcntl(fd, F_GETFD) >= 0;
	return count;
}

static int end_in_every_way(void *argument)
{
	int before = descriptor_count();

	(void)argument;
	{
		EW_OWN(ew_signals, closed);
		EW_OWN(ew_signals, aborted);
		EW_OWN(ew_signals, left);

		open_signals(SIGUSR1, SIGUSR2, &closed);
		open_signals(SIGUSR1, SIGUSR2, &aborted);
		open_signals(SIGUSR1, SIGUSR2, &left);
		EXPECT_EQ(descriptor_count(), before + 3);
		EXPECT_EQ(ew_signals_close(&closed), 0);
		ew_abort(&aborted);
		EXPECT(!closed && !aborted);
	}
	EXPECT_EQ(descriptor_count(), before);
	return 0;
}

TEST(signals_give_their_descriptor_back_in_every_ending)
{
	EXPECT_EQ(run(end_in_every_way), 0);
	EXPECT_EQ(reports_count, 0);
}

static int open_over(void *argument)
{
	EW_OWN(ew_signals, signals);
	int before = descriptor_count();

	(void)argument;
	open_signals(SIGUSR1, SIGUSR2, &signals);
	open_signals(SIGUSR1, SIGTERM, &signals);
	EXPECT_EQ(descriptor_count(), before + 1);
	return 0;
}

TEST(signals_that_would_be_overwritten_are_reported_and_aborted)
{
	EXPECT_EQ(run(open_over), 0);
	EXPECT_EQ(reports_count, 1);
}

TEST_MAIN()
