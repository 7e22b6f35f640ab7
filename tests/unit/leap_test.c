/* SPDX-License-Identifier: Apache-2.0 */

/*
 * The clock leaps ahead: the process was stopped, or the machine it is on. Everything that was to happen by then is due at
 * once, in one turn, and nothing could be done meanwhile. A task leaps here, by virtual time; by lot a simulated world does
 * (sim_test.c).
 */

#include "core.h"
#include "task/worker.h"

#include <endwell/rate.h>

#define SCOPES 50
#define HOUR   (3600 * EW_SECOND)

static void leap(int64_t duration_ns)
{
	ew__virtual_now_ns += duration_ns;
}

static int leap_after_half_a_second(void *unused)
{
	int r = ew_sleep(EW_SECOND / 2);

	(void)unused;
	leap(HOUR);
	return r;
}

/* ---- deadlines ---- */

static unsigned passed[SCOPES], passed_count;

static int wait_for_a_deadline(void *number)
{
	unsigned second = (unsigned)(uintptr_t)number;
	int64_t deadline_ns = ew_after((int64_t)second * EW_SECOND);
	int r;

	EW_SCOPE(scope, .deadline_ns = deadline_ns);

	r = ew_scope_finish(&scope, ew_sleep(EW_NEVER));
	EXPECT_EQ(r, -ETIMEDOUT);
	EXPECT(ew_now() >= deadline_ns);
	passed[passed_count++] = second;
	return 0;
}

static int pass_many_deadlines(void *unused)
{
	unsigned i;

	EW_SCOPE(scope);

	(void)unused;
	for (i = SCOPES; i > 0; i--)
		EXPECT_EQ(ew_spawn(&scope, wait_for_a_deadline, (void *)(uintptr_t)i), 0);
	EXPECT_EQ(leap_after_half_a_second(NULL), 0);
	EXPECT_EQ(passed_count, 0);
	EXPECT_EQ(ew_scope_finish(&scope, 0), 0);
	EXPECT_EQ(passed_count, SCOPES);
	for (i = 0; i < SCOPES; i++)
		EXPECT_EQ(passed[i], i + 1);
	return 0;
}

/* The last of them first in line: their order is that of their deadlines. */
TEST(leap_over_many_deadlines_passes_each_in_order)
{
	EXPECT_EQ(run_virtual(pass_many_deadlines, NULL), 0);
}

/* ---- budgets ---- */

static int be_cut_by_a_deadline(void *argument)
{
	struct probe *probe = argument;
	int r;

	EW_SCOPE(leaping);
	EW_SCOPE(scope, .deadline_ns = ew_after(EW_SECOND), .budget_ns = 2 * EW_SECOND);
	EW_GUARD(ending, probe, .close = probe_close, .abort = probe_abort, .budget_ns = HOUR);

	EXPECT_EQ(ew_spawn(&leaping, leap_after_half_a_second, NULL), 0);
	r = ew_sleep(EW_NEVER);
	EXPECT_EQ(r, -ECANCELED);
	return 0;
}

/* It begins when the deadline could be seen, and not when that was. */
TEST(leap_over_a_deadline_leaves_its_cleanup_the_whole_budget)
{
	struct probe probe = { .name = "slow", .takes_ns = 1900 * EW_MILLISECOND };

	EXPECT_EQ(run_virtual(be_cut_by_a_deadline, &probe), 0);
	EXPECT_EQ(probe.closed, 1);
	EXPECT_EQ(probe.aborted, 0);
	EXPECT(probe.began_ns >= HOUR);
	probe = (struct probe){ .name = "slower", .takes_ns = 2100 * EW_MILLISECOND };
	EXPECT_EQ(run_virtual(be_cut_by_a_deadline, &probe), 0);
	EXPECT_EQ(probe.closed, 0);
	EXPECT_EQ(probe.aborted, 1);
	EXPECT(probe.ended_ns <= probe.began_ns + 2 * EW_SECOND + 2 * EW_MILLISECOND);
}

static int end_while_the_clock_leaps(void *argument)
{
	struct probe *probe = argument;

	EW_SCOPE(leaping);
	EW_GUARD(ending, probe, .close = probe_close, .abort = probe_abort,
		 .budget_ns = 5 * EW_SECOND);

	return ew_spawn(&leaping, leap_after_half_a_second, NULL);
}

/* What a close waited for, and what came before its budget was over, has come; else it is over at once. */
TEST(leap_over_a_budget_forces_what_had_not_ended_before)
{
	struct probe probe = { .name = "quick", .takes_ns = EW_SECOND };

	EXPECT_EQ(run_virtual(end_while_the_clock_leaps, &probe), 0);
	EXPECT_EQ(probe.closed, 1);
	probe = (struct probe){ .name = "slow", .takes_ns = 6 * EW_SECOND };
	EXPECT_EQ(run_virtual(end_while_the_clock_leaps, &probe), 0);
	EXPECT_EQ(probe.closed, 0);
	EXPECT_EQ(probe.aborted, 1);
	EXPECT(probe.ended_ns <= probe.began_ns + EW_SECOND + HOUR);
}

/* ---- rates ---- */

static int take_from_a_rate(void *unused)
{
	struct ew_rate *rate = ew_rate_new(10, 3, 8);
	unsigned i;
	int64_t began_ns;

	(void)unused;
	EXPECT(rate);
	for (i = 0; i < 3; i++)
		EXPECT_EQ(ew_rate_acquire(rate, 1, EW_NEVER), 0);
	leap(24 * HOUR);
	began_ns = ew_now();
	for (i = 0; i < 13; i++)
		EXPECT_EQ(ew_rate_acquire(rate, 1, EW_NEVER), 0);
	EXPECT(ew_now() >= began_ns + EW_SECOND);
	ew_rate_free(rate);
	return 0;
}

/* A day's tokens are not there at once: no more than its burst. */
TEST(leap_fills_a_rate_up_to_its_burst)
{
	EXPECT_EQ(run_virtual(take_from_a_rate, NULL), 0);
}

TEST_MAIN()
