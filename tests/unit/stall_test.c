/* SPDX-License-Identifier: Apache-2.0 */

/*
 * The stall detector: whoever keeps a worker is named. A task stalls until the report about it has come, so that a
 * detector that says nothing is a test that does not end.
 */

#include "core.h"

#include <fcntl.h>

#define LIMIT_NS (100 * EW_MILLISECOND)

#ifdef __has_feature
#if __has_feature(thread_sanitizer)
#define SIGNALS_ARE_HELD_BACK true
#endif
#endif
#ifndef SIGNALS_ARE_HELD_BACK
#define SIGNALS_ARE_HELD_BACK false
#endif

static struct {
	int pipe[2];
	_Atomic bool named; /* the task, in a report */
	_Atomic bool shown; /* a call inside the function that stalls */
	const char *task;
	uintptr_t function;
} stall;

/* On the detector's thread. */
static void see_report(void *argument, const char *line)
{
	uintptr_t address;
	const char *at;

	note_report(argument, line);
	at = strstr(line, "stall:   at 0x");
	if (strstr(line, stall.task) && strstr(line, "stall_test.c:"))
		stall.named = true;
	if (!at)
		return;
	address = (uintptr_t)strtoull(at + strlen("stall:   at "), NULL, 16);
	if (address <= stall.function || address > stall.function + 2048 || stall.shown)
		return;
	stall.shown = true;
	(void)!write(stall.pipe[1], "x", 1);
}

static int run_watched(unsigned workers_count, int64_t limit_ns, ew_task_fn *fn)
{
	struct ew_run_options options = { .workers_count = workers_count,
					  .report = see_report,
					  .stall_limit_ns = limit_ns };

	reports.count = 0;
	return ew_run(&options, fn, NULL);
}

/* A call that blocks the thread, and not the task. It is not cut short by being looked at. */
static __attribute__((noinline)) int read_for_real(void *argument)
{
	char byte;
	ssize_t count = read(stall.pipe[0], &byte, 1);

	(void)argument;
	EXPECT_EQ(count, 1);
	return 0;
}

static int spawn_blocker(void *argument)
{
	EW_SCOPE(scope);

	EXPECT_EQ(ew_spawn(&scope, read_for_real, argument, .worker = ew_workers_count()), 0);
	return ew_scope_finish(&scope, ew_scope_join(&scope));
}

TEST(stall_in_a_call_that_blocks_is_named_with_task_line_and_calls)
{
	unsigned workers;

	if (SIGNALS_ARE_HELD_BACK || RUNNING_ON_VALGRIND)
		SKIP("signals come late, or frames are not to be seen");
	for (workers = 1; workers <= 2; workers++) {
		stall.task = "task read_for_real (";
		stall.function = (uintptr_t)read_for_real;
		stall.named = stall.shown = false;
		EXPECT_EQ(pipe2(stall.pipe, O_CLOEXEC), 0);
		EXPECT_EQ(run_watched(workers, LIMIT_NS, spawn_blocker), 0);
		EXPECT(stall.named);
		EXPECT(reported("has kept it for", workers == 1 ? "worker 1" : "worker 2"));
	}
}

/* It is shown once for each stall; a signal that comes before the first instruction here shows another place. */
static __attribute__((noinline)) int compute_for_ever(void *argument)
{
	int64_t until_ns = ew_after(EW_SECOND);

	(void)argument;
	while (!stall.shown) {
		if (ew_now() < until_ns)
			continue;
		if (ew_yield() < 0)
			break;
		until_ns = ew_after(EW_SECOND);
	}
	return 0;
}

static int spawn_computer(void *argument)
{
	EW_SCOPE(scope);

	EXPECT_EQ(ew_spawn(&scope, compute_for_ever, argument), 0);
	return ew_scope_finish(&scope, ew_scope_join(&scope));
}

TEST(stall_in_a_loop_that_computes_is_named)
{
	struct sigaction before, after;

	if (SIGNALS_ARE_HELD_BACK || RUNNING_ON_VALGRIND)
		SKIP("signals come late, or frames are not to be seen");
	sigaction(SIGURG, NULL, &before);
	stall.task = "task compute_for_ever (";
	stall.function = (uintptr_t)compute_for_ever;
	EXPECT_EQ(pipe2(stall.pipe, O_CLOEXEC), 0);
	EXPECT_EQ(run_watched(1, LIMIT_NS, spawn_computer), 0);
	EXPECT(stall.named);
	sigaction(SIGURG, NULL, &after);
	EXPECT(after.sa_handler == before.sa_handler);
}

static int take_turns(void *argument)
{
	int64_t end_ns = ew_after(7 * LIMIT_NS);

	(void)argument;
	while (ew_now() < end_ns) {
		usleep(1000);
		EXPECT_EQ(ew_yield(), 0);
	}
	return ew_sleep(7 * LIMIT_NS);
}

static int take_turns_by_two(void *argument)
{
	EW_SCOPE(scope);

	EXPECT_EQ(ew_spawn(&scope, take_turns, argument), 0);
	EXPECT_EQ(ew_spawn(&scope, take_turns, argument), 0);
	return ew_scope_finish(&scope, ew_scope_join(&scope));
}

/* All of it lasts longer than the limit, no stretch of it does; a worker that sleeps is not one that stalls. */
TEST(stall_is_not_seen_where_tasks_switch_or_sleep)
{
	stall.task = "task";
	EXPECT_EQ(run_watched(1, 5 * LIMIT_NS, take_turns_by_two), 0);
	EXPECT_EQ(reports.count, 0);
}

static struct {
	struct ew_event first_runs, second_runs, first_has_ended;
	_Atomic bool first_is_over;
	_Atomic bool strayed; /* a report of the first, to the second */
} two;

static int stall_beside_another(void *argument)
{
	ew_event_set(&two.first_runs);
	EXPECT_EQ(ew_event_wait(&two.second_runs, EW_NEVER), 0);
	return spawn_blocker(argument);
}

static void *run_first(void *argument)
{
	EXPECT_EQ(run_watched(1, LIMIT_NS, stall_beside_another), 0);
	EXPECT(stall.named);
	two.first_is_over = true;
	ew_event_set(&two.first_has_ended);
	return argument;
}

static void see_report_of_second(void *argument, const char *line)
{
	if (!two.first_is_over)
		two.strayed = true;
	else
		see_report(argument, line);
}

static int stall_after_the_first(void *argument)
{
	ew_event_set(&two.second_runs);
	EXPECT_EQ(ew_event_wait(&two.first_has_ended, EW_NEVER), 0);
	stall.named = stall.shown = false;
	return spawn_blocker(argument);
}

/* Each detector tells its own program, and the end of one takes nothing from the other. */
TEST(stall_in_each_of_two_runtimes_is_named)
{
	struct ew_run_options options = { .workers_count = 1,
					  .report = see_report_of_second,
					  .stall_limit_ns = LIMIT_NS };
	struct sigaction before, after;
	pthread_t first;

	if (SIGNALS_ARE_HELD_BACK || RUNNING_ON_VALGRIND)
		SKIP("signals come late, or frames are not to be seen");
	sigaction(SIGURG, NULL, &before);
	stall.task = "task read_for_real (";
	stall.function = (uintptr_t)read_for_real;
	stall.named = stall.shown = false;
	EXPECT_EQ(pipe2(stall.pipe, O_CLOEXEC), 0);
	EXPECT_EQ(pthread_create(&first, NULL, run_first, NULL), 0);
	EXPECT_EQ(ew_event_wait(&two.first_runs, EW_NEVER), 0);
	EXPECT_EQ(ew_run(&options, stall_after_the_first, NULL), 0);
	EXPECT(stall.named);
	EXPECT(!two.strayed);
	EXPECT_EQ(pthread_join(first, NULL), 0);
	sigaction(SIGURG, NULL, &after);
	EXPECT(after.sa_handler == before.sa_handler);
}

TEST(stall_limit_below_zero_is_refused)
{
	stall.task = "task";
	EXPECT_EQ(run_watched(1, -1, take_turns), -EINVAL);
}

TEST_MAIN()
