/* SPDX-License-Identifier: Apache-2.0 */

/*
 * What a report about a cancel says: who, why, when, through which scopes, and what is still waited for. Virtual time,
 * so that the figures are known.
 */

#include "core.h"

#include <endwell/pipe.h>
#include <fcntl.h>

static int end_slowly(void *argument)
{
	EW_GUARD(slow, argument, .close = probe_close, .abort = probe_abort,
		 .budget_ns = 60 * EW_SECOND);

	return ew_sleep(3600 * EW_SECOND);
}

static int spawn_slow(void *argument)
{
	EW_SCOPE(inner);

	EXPECT_EQ(ew_spawn(&inner, end_slowly, argument), 0);
	return ew_scope_join(&inner);
}

static int cancel_it(void *argument)
{
	ew_scope_cancel(argument, EW_REASON_PEER);
	return 0;
}

/* How many reports contain both. */
static unsigned reported_times(const char *one, const char *other)
{
	unsigned count = 0, i;

	for (i = 0; i < reports.count && i < REPORTS_MAX; i++)
		count += strstr(reports.line[i], one) && strstr(reports.line[i], other);
	return count;
}

static int report_a_cancel(void *argument)
{
	struct probe probe = { .name = "slow", .takes_ns = 2 * EW_SECOND };
	EW_SCOPE(above);
	EW_SCOPE(outer, .budget_ns = 5 * EW_SECOND);

	(void)argument;
	EXPECT_EQ(ew_spawn(&outer, spawn_slow, &probe), 0);
	EXPECT_EQ(ew_sleep(EW_SECOND), 0);
	EXPECT_EQ(ew_spawn(&outer, cancel_it, &outer), 0);
	EXPECT_EQ(ew_sleep_until(EW_NEVER), -ECANCELED);
	{
		EW_SHIELD(shield, .budget_ns = EW_SECOND);

		EXPECT_EQ(ew_sleep(500 * EW_MILLISECOND), 0);
		EXPECT_EQ(ew_cancel_report(&outer, note_report, NULL), 0);
	}
	return ew_scope_finish(&outer, 0);
}

TEST(cancel_report_says_who_why_and_when)
{
	EXPECT_EQ(run_virtual(report_a_cancel, NULL), -ECANCELED);
	EXPECT_EQ(reported_times("scope outer (", "cancel_report_test.c:"), 1);
	EXPECT(reported("scope outer (", "of task main task: cancelled 50"));
	EXPECT(reported("scope outer (", " ms ago: peer, by task cancel_it ("));
	EXPECT(reported("scope outer (", "), at "));
}

TEST(cancel_report_names_the_scopes_around)
{
	EXPECT_EQ(run_virtual(report_a_cancel, NULL), -ECANCELED);
	EXPECT_STR(strstr(reports.line[1], "inside scope above (") ? "" : reports.line[1], "");
	EXPECT(strstr(reports.line[1], "of task main task: not cancelled itself"));
	EXPECT_STR(reports.line[2], "inside the run: not cancelled itself");
}

/* Two seconds from the cancel, of five that the ladder has; the report comes after a half. */
TEST(cancel_report_names_tasks_with_operation_age_rung_and_time)
{
	EXPECT_EQ(run_virtual(report_a_cancel, NULL), -ECANCELED);
	EXPECT_EQ(reports.count, 6);
	EXPECT(reported("its end takes 450", " ms at most"));
	EXPECT(reported("task spawn_slow (", "waits for children of a scope, 15"));
	EXPECT(reported("task spawn_slow (", "; rung cancel; 449"));
	EXPECT(reported("task end_slowly (", "waits for a time, 50"));
	EXPECT(reported("task end_slowly (", "; rung cleanup; 449"));
	EXPECT(reported("task end_slowly (", " ms until force"));
	EXPECT(reported("task end_slowly (", "cancel_report_test.c:"));
}

static int report_from_inside(void *argument)
{
	EW_SCOPE(own, .deadline_ns = ew_after(EW_SECOND), .budget_ns = EW_SECOND);

	(void)argument;
	EXPECT_EQ(ew_sleep(2 * EW_SECOND), -ECANCELED);
	EXPECT_EQ(ew_cancel_report(NULL, NULL, NULL), 0);
	return ew_scope_finish(&own, -ECANCELED);
}

static int call_report_from_inside(void *argument)
{
	EW_SCOPE(outer, .policy = EW_POLICY_INDEPENDENT);

	EXPECT_EQ(ew_spawn(&outer, report_from_inside, argument), 0);
	return ew_scope_finish(&outer, 0);
}

/* A task about its own scope; by the function of the run's options. */
TEST(cancel_report_of_a_tasks_own_scope)
{
	EXPECT_EQ(run_virtual(call_report_from_inside, NULL), 0);
	EXPECT_EQ(reports.count, 4);
	EXPECT(reported("scope own (", "of task report_from_inside: cancelled "));
	EXPECT(reported("scope own (", " ms ago: deadline"));
	EXPECT(!reported("scope own (", ", by task"));
	EXPECT(reported("inside scope outer (", "not cancelled itself"));
}

static int fail(void *argument)
{
	(void)argument;
	return -EIO;
}

static int report_a_failure(void *argument)
{
	struct probe probe = { .name = "slow", .takes_ns = EW_SECOND };
	EW_SCOPE(scope);

	(void)argument;
	EXPECT_EQ(ew_spawn(&scope, end_slowly, &probe), 0);
	EXPECT_EQ(ew_yield(), 0);
	EXPECT_EQ(ew_spawn(&scope, fail, NULL), 0);
	EXPECT_EQ(ew_sleep_until(EW_NEVER), -ECANCELED);
	EXPECT_EQ(ew_cancel_report(&scope, note_report, NULL), 0);
	return ew_scope_finish(&scope, 0);
}

TEST(cancel_report_names_the_child_that_failed)
{
	EXPECT_EQ(run_virtual(report_a_failure, NULL), -EIO);
	EXPECT(reported("scope scope (", " ms ago: child, by task fail ("));
}

static int read_pipe(void *argument)
{
	char byte;

	return (int)ew_pipe_read(argument, &byte, 1);
}

static int report_a_read(void *argument)
{
	char expected[64];
	EW_OWN(ew_pipe, from);
	EW_OWN(ew_pipe, to);
	EW_SCOPE(scope);
	int fds[2];

	(void)argument;
	EXPECT_EQ(pipe2(fds, O_CLOEXEC), 0);
	EXPECT_EQ(ew_pipe_adopt(fds[0], &from), 0);
	EXPECT_EQ(ew_pipe_adopt(fds[1], &to), 0);
	EXPECT_EQ(ew_spawn(&scope, read_pipe, from), 0);
	EXPECT_EQ(ew_yield(), 0);
	EXPECT_EQ(ew_cancel_report(&scope, note_report, NULL), 0);
	snprintf(expected, sizeof(expected), " on descriptor %d, 0 ms", fds[0]);
	EXPECT(reported("task read_pipe (", expected));
	EXPECT(!reported("task read_pipe (", "rung"));
	EXPECT(!reported("task read_pipe (", "until force"));
	ew_scope_cancel(&scope, EW_REASON_REQUESTED);
	EXPECT_EQ(ew_scope_join(&scope), -ECANCELED);
	return ew_scope_finish(&scope, 0) == -ECANCELED ? 0 : -EIO;
}

TEST(cancel_report_names_the_descriptor)
{
	EXPECT_EQ(run_virtual(report_a_read, NULL), 0);
}

static int sleep_long(void *argument)
{
	(void)argument;
	return ew_sleep(3600 * EW_SECOND);
}

static int report_many(void *argument)
{
	EW_SCOPE(scope);
	int i;

	(void)argument;
	for (i = 0; i < 40; i++)
		EXPECT_EQ(ew_spawn(&scope, sleep_long, NULL), 0);
	EXPECT_EQ(ew_cancel_report(&scope, note_report, NULL), 0);
	return 0;
}

TEST(cancel_report_of_many_tasks_has_an_end)
{
	EXPECT_EQ(run_virtual(report_many, NULL), 0);
	EXPECT_EQ(reports.count, 2 + 1 + 32 + 1);
	EXPECT_STR(reports.line[reports.count - 1], "8 tasks more");
}

static int report_another_workers(void *argument)
{
	EXPECT_EQ(ew_cancel_report(argument, note_report, NULL), -EXDEV);
	return 0;
}

static int report_across(void *argument)
{
	EW_SCOPE(scope);

	(void)argument;
	EXPECT_EQ(ew_spawn(&scope, sleep_long, NULL, .worker = 2), 0);
	EXPECT_EQ(ew_cancel_report(&scope, note_report, NULL), 0);
	EXPECT(reported("task sleep_long (", " is on worker 2"));
	ew_scope_cancel(&scope, EW_REASON_REQUESTED);
	EXPECT_EQ(ew_scope_join(&scope), -ECANCELED);
	{
		EW_SHIELD(shield, .budget_ns = EW_SECOND);
		EW_SCOPE(other);

		EXPECT_EQ(ew_spawn(&other, report_another_workers, &scope, .worker = 2), 0);
		EXPECT_EQ(ew_scope_join(&other), 0);
	}
	EXPECT_EQ(reported_times("scope scope (", " ms ago: requested, by task main task ("), 1);
	return 0;
}

TEST(cancel_report_of_tasks_and_scopes_of_other_workers)
{
	EXPECT_EQ(run_workers(2, report_across, NULL), 0);
}

TEST(cancel_report_outside_a_task_is_refused)
{
	EXPECT_EQ(ew_cancel_report(NULL, note_report, NULL), -ENOTSUP);
}

TEST_MAIN()
