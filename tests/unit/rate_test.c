/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Rates: never more than was due, never less on average, in order of arrival, and nobody who leaves the line leaves
 * the others standing.
 */

#include "crossing.h"

#include <endwell/rate.h>

#define TICK (2 * EW_MILLISECOND) /* of the timing wheel, rounded up */

static struct ew_rate *rate;

static int run_on(unsigned per_second, unsigned burst, unsigned waiting_max, ew_task_fn *fn)
{
	int r;

	rate = ew_rate_new(per_second, burst, waiting_max);
	EXPECT(rate != NULL);
	r = run_virtual(fn, NULL);
	ew_rate_free(rate); /* nobody waits */
	return r;
}

/* How long it takes to acquire so many, one by one. Virtual time: computing takes none. */
static int64_t time_to_acquire(unsigned count)
{
	int64_t began_ns = ew_now();
	unsigned i;

	for (i = 0; i < count; i++)
		EXPECT_EQ(ew_rate_acquire(rate, 1, EW_NEVER), 0);
	return ew_now() - began_ns;
}

static void expect_takes(unsigned count, int64_t least_ns)
{
	int64_t took_ns = time_to_acquire(count);

	if (took_ns < least_ns || took_ns > least_ns + TICK)
		ew_test_fail(__FILE__, __LINE__, "%u tokens took %lld ns, not %lld", count,
			     (long long)took_ns, (long long)least_ns);
}

static int burst_then_rate(void *argument)
{
	(void)argument;
	expect_takes(5, 0);
	EXPECT_EQ(ew_rate_try_acquire(rate, 1), -EAGAIN);
	expect_takes(20, 2 * EW_SECOND);
	EXPECT_EQ(ew_sleep(3600 * EW_SECOND), 0); /* the bucket is full, and no fuller */
	EXPECT_EQ(ew_rate_try_acquire(rate, 5), 0);
	EXPECT_EQ(ew_rate_try_acquire(rate, 1), -EAGAIN);
	EXPECT_EQ(ew_sleep(EW_SECOND / 5), 0);
	EXPECT_EQ(ew_rate_try_acquire(rate, 3), -EAGAIN); /* takes none of the two */
	EXPECT_EQ(ew_rate_try_acquire(rate, 2), 0);
	EXPECT_EQ(ew_rate_try_acquire(rate, 0), 0);
	return 0;
}

TEST(rate_grants_its_burst_at_once_and_then_its_rate)
{
	EXPECT_EQ(run_on(10, 5, 1, burst_then_rate), 0);
}

static int keep_1000(void *argument)
{
	(void)argument;
	expect_takes(2, 0);
	expect_takes(60 * 1000, 60 * EW_SECOND);
	return 0;
}

static int keep_3(void *argument)
{
	(void)argument;
	expect_takes(1, 0);
	expect_takes(3600 * 3, 3600 * EW_SECOND);
	return 0;
}

/* A token is due each millisecond, which is less than a tick; three a second come in no whole number of nanoseconds. */
TEST(rate_keeps_its_average_although_timers_are_late)
{
	EXPECT_EQ(run_on(1000, 2, 1, keep_1000), 0);
	EXPECT_EQ(run_on(3, 1, 1, keep_3), 0);
}

static int at_the_limits(void *argument)
{
	(void)argument;
	EXPECT_EQ(ew_rate_try_acquire(rate, UINT32_MAX), 0);
	EXPECT_EQ(ew_sleep(INT64_MAX / 4), 0); /* 73 years */
	EXPECT_EQ(ew_rate_try_acquire(rate, 2), 0);
	EXPECT_EQ(ew_rate_try_acquire(rate, UINT32_MAX - 1), -EAGAIN);
	return 0;
}

TEST(rate_counts_the_largest_numbers)
{
	EXPECT_EQ(run_on(UINT32_MAX, UINT32_MAX, 0, at_the_limits), 0);
	EXPECT_EQ(run_on(1, UINT32_MAX, 0, at_the_limits), 0);
}

struct taker {
	const char *name;
	unsigned count;
	int64_t deadline_ns;
	int result;
	int64_t ended_ns;
};

static int acquire_one(void *argument)
{
	struct taker *taker = argument;

	taker->result = ew_rate_acquire(rate, taker->count, taker->deadline_ns);
	taker->ended_ns = ew_now();
	if (taker->result == 0)
		trace("%s", taker->name);
	return 0;
}

/* Seconds after @began_ns in which it came back, rounded. */
static long long after(const struct taker *taker, int64_t began_ns)
{
	return (taker->ended_ns - began_ns + EW_SECOND / 2) / EW_SECOND;
}

/* One token a second, ten at most, none left. */
static void empty_it(void)
{
	EXPECT_EQ(ew_rate_try_acquire(rate, 10), 0);
}

static int stand_in_line(void *argument)
{
	struct taker takers[4] = { { "a", 3, EW_NEVER, 1, 0 },
				   { "b", 10, EW_NEVER, 1, 0 },
				   { "c", 1, EW_NEVER, 1, 0 },
				   { "d", 1, EW_NEVER, 1, 0 } };
	int64_t began_ns = ew_now();
	EW_SCOPE(scope);
	int i;

	(void)argument;
	empty_it();
	for (i = 0; i < 4; i++)
		EXPECT_EQ(ew_spawn(&scope, acquire_one, &takers[i]), 0);
	EXPECT_EQ(ew_sleep(5 * EW_SECOND), 0);
	EXPECT_EQ(ew_rate_try_acquire(rate, 1), -EAGAIN); /* two are there: b's */
	EXPECT_EQ(takers[3].result, -EAGAIN);		  /* three may wait */
	EXPECT_EQ(ew_rate_acquire(rate, 1, EW_NEVER), 0);
	EXPECT_EQ(ew_scope_finish(&scope, ew_scope_join(&scope)), 0);
	EXPECT_EQ(after(&takers[0], began_ns), 3);
	EXPECT_EQ(after(&takers[1], began_ns), 13);
	EXPECT_EQ(after(&takers[2], began_ns), 14);
	return ew_rate_acquire(rate, 11, EW_NEVER) == -EINVAL ? ew_rate_try_acquire(rate, 11) : 0;
}

TEST(rate_serves_in_order_of_arrival_and_refuses_what_is_too_much)
{
	EXPECT_EQ(run_on(1, 10, 3, stand_in_line), -EINVAL);
	EXPECT_STR(traced, "a b c");
}

/* Who cannot have its tokens in time is told so when it is first, and nobody has to wait for that. */
static int without_hope(void *argument)
{
	int64_t began_ns = ew_now(), early_ns = began_ns + EW_SECOND,
		late_ns = early_ns + 4 * EW_SECOND;
	struct taker takers[] = { { "a", 10, late_ns, 1, 0 },
				  { "b", 2, EW_NEVER, 1, 0 },
				  { "c", 10, late_ns, 1, 0 },
				  { "d", 1, early_ns, 1, 0 },
				  { "e", 1, EW_NEVER, 1, 0 } };
	static const int results[] = { -ETIMEDOUT, 0, -ETIMEDOUT, -ETIMEDOUT, 0 };
	static const int seconds[] = { 0, 2, 2, 1, 3 };
	EW_SCOPE(scope);
	int i;

	(void)argument;
	empty_it();
	for (i = 0; i < 5; i++)
		EXPECT_EQ(ew_spawn(&scope, acquire_one, &takers[i]), 0);
	EXPECT_EQ(ew_scope_finish(&scope, ew_scope_join(&scope)), 0);
	for (i = 0; i < 5; i++) {
		EXPECT_EQ(takers[i].result, results[i]);
		EXPECT_EQ(after(&takers[i], began_ns), seconds[i]);
	}
	EXPECT_EQ(ew_sleep_until(began_ns + 5 * EW_SECOND), 0);
	EXPECT_EQ(ew_rate_try_acquire(rate, 2), 0); /* the others used three */
	return ew_rate_try_acquire(rate, 1);
}

/* There is room for four: a took none up. */
TEST(rate_deadline_that_cannot_be_kept_is_told_and_holds_up_nobody)
{
	EXPECT_EQ(run_on(1, 10, 4, without_hope), -EAGAIN);
	EXPECT_STR(traced, "b e");
}

/* Of three in line the one with @index is cancelled after a second and a half. */
static void cancel_one_of_three(int index, struct taker *takers, int64_t *ret_began_ns)
{
	EW_SCOPE(scope);
	EW_SCOPE(cut);
	int i;

	*ret_began_ns = ew_now();
	empty_it();
	for (i = 0; i < 3; i++) {
		takers[i] = (struct taker){ "t", 3, EW_NEVER, 1, 0 };
		EXPECT_EQ(ew_spawn(i == index ? &cut : &scope, acquire_one, &takers[i]), 0);
	}
	EXPECT_EQ(ew_sleep(3 * EW_SECOND / 2), 0);
	ew_scope_cancel(&cut, EW_REASON_REQUESTED);
	EXPECT_EQ(ew_scope_finish(&cut, 0), 0);
	EXPECT_EQ(takers[index].result, -ECANCELED);
	EXPECT_EQ(ew_scope_finish(&scope, ew_scope_join(&scope)), 0);
}

static int cancel_in_line(void *argument)
{
	struct taker takers[3];
	int64_t began_ns;

	(void)argument;
	cancel_one_of_three(0, takers, &began_ns);
	EXPECT_EQ(after(&takers[1], began_ns), 3); /* with what came in while the first was there */
	EXPECT_EQ(after(&takers[2], began_ns), 6);
	EXPECT_EQ(ew_sleep(20 * EW_SECOND), 0);
	cancel_one_of_three(1, takers, &began_ns);
	EXPECT_EQ(after(&takers[0], began_ns), 3);
	EXPECT_EQ(after(&takers[2], began_ns), 6);
	EXPECT_EQ(ew_sleep(20 * EW_SECOND), 0);
	cancel_one_of_three(2, takers, &began_ns);
	EXPECT_EQ(after(&takers[1], began_ns), 6);
	return 0;
}

TEST(rate_wait_cancelled_uses_no_token_and_hands_on_its_turn)
{
	EXPECT_EQ(run_on(1, 10, 3, cancel_in_line), 0);
}

struct due {
	struct taker taker;
	struct ew_scope *scope;
	int64_t due_ns;
};

static int cancel_when_due(void *argument)
{
	struct due *due = argument;

	EXPECT_EQ(ew_sleep_until(due->due_ns), 0);
	EXPECT_EQ(due->taker.result,
		  1); /* both timers have expired, and the taker has not run yet */
	ew_scope_cancel(due->scope, EW_REASON_REQUESTED);
	return 0;
}

static int cancel_and_grant(void *argument)
{
	EW_SCOPE(scope);
	EW_SCOPE(cut);
	struct due due = { { "a", 1, EW_NEVER, 1, 0 }, &cut, ew_after(EW_SECOND) };

	(void)argument;
	empty_it();
	EXPECT_EQ(ew_spawn(&scope, cancel_when_due, &due), 0);
	EXPECT_EQ(ew_spawn(&cut, acquire_one, &due.taker), 0);
	EXPECT_EQ(ew_scope_join(&cut), 0);
	EXPECT_EQ(ew_scope_finish(&cut, 0), 0);
	EXPECT_EQ(ew_scope_finish(&scope, ew_scope_join(&scope)), 0);
	EXPECT_EQ(ew_rate_try_acquire(rate, 1), -EAGAIN);
	return due.taker.result;
}

TEST(rate_tokens_that_are_due_before_a_cancel_are_granted)
{
	EXPECT_EQ(run_on(1, 10, 1, cancel_and_grant), 0);
}

/* The first leaves, and in the same turn the second, who is first now, is cancelled: the third is not forgotten. */
static int cancel_two(void *argument)
{
	struct taker takers[3] = { { "a", 5, EW_NEVER, 1, 0 },
				   { "b", 5, EW_NEVER, 1, 0 },
				   { "c", 1, EW_NEVER, 1, 0 } };
	int64_t began_ns = ew_now();
	EW_SCOPE(scope);
	EW_SCOPE(first);
	EW_SCOPE(second);
	int i;

	(void)argument;
	empty_it();
	for (i = 0; i < 3; i++)
		EXPECT_EQ(ew_spawn(i == 0   ? &first
				   : i == 1 ? &second
					    : &scope,
				   acquire_one, &takers[i]),
			  0);
	EXPECT_EQ(ew_yield(), 0);
	ew_scope_cancel(&second, EW_REASON_REQUESTED);
	ew_scope_cancel(&first, EW_REASON_REQUESTED);
	EXPECT_EQ(ew_scope_finish(&second, 0), 0);
	EXPECT_EQ(ew_scope_finish(&first, 0), 0);
	EXPECT_EQ(ew_scope_finish(&scope, ew_scope_join(&scope)), 0);
	EXPECT_EQ(after(&takers[2], began_ns), 1);
	return 0;
}

TEST(rate_turn_outlives_two_cancels_in_a_row)
{
	EXPECT_EQ(run_on(1, 10, 3, cancel_two), 0);
	EXPECT_STR(traced, "c");
}

static int cancel_one_by_one(void *scopes)
{
	struct ew_scope **scope = scopes;

	EXPECT_EQ(ew_sleep(2 * EW_SECOND), 0);
	ew_scope_cancel(scope[0], EW_REASON_REQUESTED);
	EXPECT_EQ(ew_yield(), 0); /* the first runs, and the second not yet */
	ew_scope_cancel(scope[1], EW_REASON_REQUESTED);
	return 0;
}

static int cancel_at_its_turn(void *argument)
{
	struct taker takers[2] = { { "a", 5, EW_NEVER, 1, 0 }, { "b", 2, EW_NEVER, 1, 0 } };
	EW_SCOPE(scope);
	EW_SCOPE(second);
	EW_SCOPE(first);
	struct ew_scope *scopes[2] = { &first, &second };

	(void)argument;
	empty_it();
	EXPECT_EQ(ew_spawn(&first, acquire_one, &takers[0]), 0);
	EXPECT_EQ(ew_spawn(&second, acquire_one, &takers[1]), 0);
	EXPECT_EQ(ew_spawn(&scope, cancel_one_by_one, scopes), 0);
	EXPECT_EQ(ew_scope_finish(&first, ew_scope_join(&first)), 0);
	EXPECT_EQ(ew_scope_finish(&second, ew_scope_join(&second)), 0);
	EXPECT_EQ(ew_scope_finish(&scope, 0), 0);
	EXPECT_EQ(takers[0].result, -ECANCELED);
	return takers[1].result;
}

TEST(rate_turn_with_its_tokens_there_is_granted_despite_a_cancel)
{
	EXPECT_EQ(run_on(1, 10, 2, cancel_at_its_turn), 0);
}

static int acquire_and_see_the_cancel(void *argument)
{
	int r = ew_rate_acquire(rate, 10, EW_NEVER);

	(void)argument;
	EXPECT_EQ(ew_yield(), -ECANCELED);
	return r;
}

static struct ew_scope *scope_of_first;

static void make_the_first_leave(void *argument)
{
	(void)argument;
	ew_scope_cancel(scope_of_first, EW_REASON_REQUESTED);
	EXPECT_EQ(ew_scope_join(scope_of_first), 0);
}

/* The second is told that it is first now, by another worker, while it is cancelled. The third gets its token. */
static int cross_a_cancel(void *argument)
{
	struct taker first = { "first", 10, EW_NEVER, 1, 0 };
	EW_SCOPE(scope);
	int r;

	(void)argument;
	scope_of_first = &scope;
	empty_it();
	EXPECT_EQ(ew_spawn(&scope, acquire_one, &first), 0);
	EXPECT_EQ(ew_yield(), 0);
	{
		EW_SHIELD(shield, .budget_ns = 60 * EW_SECOND);

		EXPECT_EQ(cross(acquire_and_see_the_cancel, make_the_first_leave, NULL),
			  -ECANCELED);
		r = ew_rate_acquire(rate, 1, EW_NEVER);
	}
	EXPECT_EQ(first.result, -ECANCELED);
	return r;
}

TEST(rate_turn_that_crosses_a_cancel_is_handed_on)
{
	rate = ew_rate_new(1, 10, 3);
	EXPECT_EQ(run_workers(2, cross_a_cancel, NULL), 0);
	ew_rate_free(rate);
}

static int acquire_shielded(void *argument)
{
	EW_SHIELD(shield, .budget_ns = 5 * EW_SECOND);

	return acquire_one(argument);
}

static int cancel_the_shielded(void *argument)
{
	struct taker takers[2] = { { "a", 3, EW_NEVER, 1, 0 }, { "b", 3, EW_NEVER, 1, 0 } };
	int64_t began_ns = ew_now();
	EW_SCOPE(scope);
	int i;

	(void)argument;
	empty_it();
	for (i = 0; i < 2; i++)
		EXPECT_EQ(ew_spawn(&scope, acquire_shielded, &takers[i]), 0);
	EXPECT_EQ(ew_yield(), 0);
	ew_scope_cancel(&scope, EW_REASON_REQUESTED);
	EXPECT_EQ(ew_scope_finish(&scope, 0), 0);
	EXPECT_EQ(after(&takers[0], began_ns), 3);
	EXPECT_EQ(takers[1].result, -ECANCELED);
	EXPECT_EQ(after(&takers[1], began_ns), 5); /* its shield's time was over */
	return 0;
}

TEST(rate_wait_behind_a_shield_outlasts_a_cancel_for_its_budget)
{
	EXPECT_EQ(run_on(1, 10, 2, cancel_the_shielded), 0);
	EXPECT_STR(traced, "a");
}

static int refuse_at_once(void *argument)
{
	EW_SCOPE(scope);

	(void)argument;
	ew_scope_cancel(&scope, EW_REASON_REQUESTED);
	EXPECT_EQ(ew_rate_acquire(rate, 1, EW_NEVER), -ECANCELED);
	return ew_rate_try_acquire(rate, 10); /* all are there */
}

TEST(rate_refuses_in_a_cancelled_scope_also_with_tokens)
{
	EXPECT_EQ(run_on(1, 10, 0, refuse_at_once), 0);
}

/* What is refused would take minutes to be there, however slow this thread is. */
TEST(rate_outside_a_runtime_is_tried_and_waited_for)
{
	rate = ew_rate_new(4, 1000, 1);
	EXPECT_EQ(ew_rate_try_acquire(rate, 1000), 0);
	EXPECT_EQ(ew_rate_acquire(rate, 1000, EW_NOW), -ETIMEDOUT);
	EXPECT_EQ(ew_rate_acquire(rate, 1, EW_NEVER), 0);
	EXPECT_EQ(ew_rate_try_acquire(rate, 1000), -EAGAIN);
	ew_rate_free(rate);
	ew_rate_free(NULL);
}

static void make_without_rate(void)
{
	ew_rate_free(ew_rate_new(0, 1, 0));
}

static void make_without_burst(void)
{
	ew_rate_free(ew_rate_new(1, 0, 0));
}

static int free_while_somebody_waits(void *argument)
{
	struct taker taker = { "a", 10, EW_NEVER, 1, 0 };
	EW_SCOPE(scope);

	(void)argument;
	empty_it();
	EXPECT_EQ(ew_spawn(&scope, acquire_one, &taker), 0);
	EXPECT_EQ(ew_yield(), 0);
	ew_rate_free(rate);
	return 0;
}

static void free_early(void)
{
	rate = ew_rate_new(1, 10, 1);
	(void)!run_virtual(free_while_somebody_waits, NULL);
}

TEST(rate_misused_ends_the_process)
{
	static void (*const misuses[])(void) = { make_without_rate, make_without_burst,
						 free_early };
	struct ended ended;
	size_t i;

	for (i = 0; i < sizeof(misuses) / sizeof(misuses[0]); i++) {
		ended = run_process(misuses[i]);
		EXPECT(WIFSIGNALED(ended.status) && WTERMSIG(ended.status) == SIGABRT);
		EXPECT(strstr(ended.text, "assertion failed") && strstr(ended.text, "rate.c"));
	}
}

#define FAST  20000u
#define BURST 10u

struct contest {
	unsigned rounds;
	_Atomic unsigned used;
	_Atomic unsigned refused;
};

static int contend(void *argument)
{
	struct contest *contest = argument;
	unsigned i, count;
	int r;

	for (i = 0; i < contest->rounds; i++) {
		count = 1 + i % 4;
		r = ew_rate_acquire(rate, count, i % 3 ? EW_NEVER : ew_after(EW_MILLISECOND));
		if (r == 0)
			contest->used += count;
		else if (r == -ETIMEDOUT || r == -EAGAIN)
			contest->refused++;
		else
			return r;
	}
	return 0;
}

static int contend_on_workers(void *argument)
{
	unsigned i;
	EW_SCOPE(scope);

	for (i = 0; i < 8; i++)
		EXPECT_EQ(ew_spawn(&scope, contend, argument, .worker = 1 + i % 2), 0);
	return ew_scope_finish(&scope, ew_scope_join(&scope));
}

static int cancel_rounds(void *argument)
{
	struct contest *contest = argument;
	unsigned rounds = contest->rounds, i, j;

	contest->rounds = 1000000;
	for (i = 0; i < rounds; i++) {
		EW_SCOPE(scope);

		for (j = 0; j < 6; j++)
			EXPECT_EQ(ew_spawn(&scope, contend, contest, .worker = 1 + j % 2), 0);
		for (j = 0; j < i % 7; j++)
			EXPECT_EQ(ew_yield(), 0);
		ew_scope_cancel(&scope, EW_REASON_REQUESTED);
		EXPECT_EQ(ew_scope_finish(&scope, 0), -ECANCELED);
		EXPECT_EQ(ew_rate_acquire(rate, 1, EW_NEVER), 0); /* nobody stands in front */
		contest->used++;
	}
	return 0;
}

/* However long it took: no more than was due in that time, and one bucket for tasks that ran late. */
static void run_contest(unsigned rounds, ew_task_fn *fn)
{
	struct contest contest = { .rounds = rounds };
	int64_t began_ns = ew_now(), most;

	rate = ew_rate_new(FAST, BURST, 16);
	EXPECT_EQ(run_workers(2, fn, &contest), 0);
	most = 2 * BURST + (ew_now() - began_ns) / (EW_SECOND / FAST) + 1;
	EXPECT(contest.used > 0 && contest.used <= most);
	ew_rate_free(rate);
}

TEST(rate_across_workers_grants_no_more_than_is_due)
{
	run_contest(RUNNING_ON_VALGRIND ? 50 : 500, contend_on_workers);
}

TEST(rate_across_workers_loses_no_turn_to_the_cancelled)
{
	run_contest(RUNNING_ON_VALGRIND ? 20 : 500, cancel_rounds);
}

TEST_MAIN()
