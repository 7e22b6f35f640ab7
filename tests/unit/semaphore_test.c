/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Semaphores: first come, first served, and free + held == capacity, whatever is cancelled meanwhile.
 */

#include "core.h"

static struct ew_semaphore *semaphore;

static void expect_counts(unsigned free, unsigned held, unsigned waiting)
{
	struct ew_semaphore_counts counts = ew_semaphore_count(semaphore);

	EXPECT_EQ(counts.free, free);
	EXPECT_EQ(counts.held, held);
	EXPECT_EQ(counts.waiting, waiting);
	EXPECT_EQ(counts.free + counts.held, counts.capacity);
}

static int run_on(unsigned capacity, unsigned waiting_max, ew_task_fn *fn)
{
	int r;

	semaphore = ew_semaphore_new(capacity, waiting_max);
	EXPECT(semaphore != NULL);
	r = run_virtual(fn, NULL);
	expect_counts(capacity, 0, 0);
	ew_semaphore_free(semaphore);
	return r;
}

static int take_and_give(void *argument)
{
	EW_OWN(ew_permit, one);
	EW_OWN(ew_permit, other);

	(void)argument;
	expect_counts(2, 0, 0);
	EXPECT_EQ(ew_semaphore_acquire(semaphore, EW_NEVER, &one), 0);
	EXPECT_EQ(ew_semaphore_try_acquire(semaphore, &other), 0);
	expect_counts(0, 2, 0);
	ew_permit_release(&one);
	EXPECT(one == NULL);
	ew_permit_release(&one);
	expect_counts(1, 1, 0);
	return 0;
}

TEST(permit_is_released_by_name_or_by_its_place)
{
	EXPECT_EQ(run_on(2, 0, take_and_give), 0);
}

static int try_without(void *argument)
{
	EW_OWN(ew_permit, one);
	EW_OWN(ew_permit, other);

	(void)argument;
	EXPECT_EQ(ew_semaphore_acquire(semaphore, EW_NEVER, &one), 0);
	EXPECT_EQ(ew_semaphore_try_acquire(semaphore, &other), -EAGAIN);
	EXPECT(other == NULL);
	EXPECT_EQ(ew_semaphore_acquire(semaphore, EW_NEVER, &other), -EAGAIN); /* no waiting room */
	EXPECT(other == NULL);
	return 0;
}

TEST(semaphore_without_waiting_room_refuses)
{
	EXPECT_EQ(run_on(1, 0, try_without), 0);
}

struct taker {
	const char *name;
	int64_t deadline_ns;
	int64_t hold_ns;
	int result;
};

static int take(void *argument)
{
	struct taker *taker = argument;
	EW_OWN(ew_permit, permit);

	taker->result = ew_semaphore_acquire(semaphore, taker->deadline_ns, &permit);
	EXPECT_EQ(permit != NULL, taker->result == 0);
	if (taker->result == 0)
		trace("%s", taker->name);
	return taker->hold_ns ? ew_sleep(taker->hold_ns) : 0;
}

static int in_line(void *argument)
{
	struct taker takers[5] = { { "a", EW_NEVER, EW_SECOND, 1 },
				   { "b", EW_NEVER, EW_SECOND, 1 },
				   { "c", EW_NEVER, EW_SECOND, 1 },
				   { "d", EW_NEVER, EW_SECOND, 1 },
				   { "e", EW_NEVER, EW_SECOND, 1 } };
	EW_OWN(ew_permit, mine);
	EW_SCOPE(scope);
	int i;

	(void)argument;
	EXPECT_EQ(ew_semaphore_acquire(semaphore, EW_NEVER, &mine), 0);
	for (i = 0; i < 5; i++)
		EXPECT_EQ(ew_spawn(&scope, take, &takers[i]), 0);
	EXPECT_EQ(ew_yield(), 0);
	expect_counts(0, 1, 4);
	EXPECT_EQ(takers[4].result, -EAGAIN); /* four may wait */
	ew_permit_release(&mine);
	expect_counts(0, 1, 3); /* given on, never free in between */
	EXPECT_EQ(ew_semaphore_try_acquire(semaphore, &mine), -EAGAIN);
	return ew_scope_finish(&scope, ew_scope_join(&scope));
}

TEST(semaphore_serves_in_order_of_arrival)
{
	EXPECT_EQ(run_on(1, 4, in_line), 0);
	EXPECT_STR(traced, "a b c d");
}

static int time_out_in_line(void *argument)
{
	struct taker takers[3] = { { "a", EW_NEVER, 0, 1 },
				   { "b", 0, 0, 1 },
				   { "c", EW_NEVER, 0, 1 } };
	EW_OWN(ew_permit, mine);
	EW_SCOPE(scope);
	int i;

	(void)argument;
	takers[1].deadline_ns = ew_after(EW_SECOND);
	EXPECT_EQ(ew_semaphore_acquire(semaphore, EW_NEVER, &mine), 0);
	for (i = 0; i < 3; i++)
		EXPECT_EQ(ew_spawn(&scope, take, &takers[i]), 0);
	EXPECT_EQ(ew_sleep(2 * EW_SECOND), 0);
	EXPECT_EQ(takers[1].result, -ETIMEDOUT);
	expect_counts(0, 1, 2);
	ew_permit_release(&mine);
	return ew_scope_finish(&scope, ew_scope_join(&scope));
}

TEST(semaphore_wait_that_times_out_leaves_the_line)
{
	EXPECT_EQ(run_on(1, 4, time_out_in_line), 0);
	EXPECT_STR(traced, "a c");
}

static int cancel_in_line(void *argument)
{
	struct taker takers[3] = { { "a", EW_NEVER, 0, 1 },
				   { "b", EW_NEVER, 0, 1 },
				   { "c", EW_NEVER, 0, 1 } };
	EW_OWN(ew_permit, mine);
	EW_SCOPE(scope);
	EW_SCOPE(middle);
	int i;

	(void)argument;
	EXPECT_EQ(ew_semaphore_acquire(semaphore, EW_NEVER, &mine), 0);
	for (i = 0; i < 3; i++)
		EXPECT_EQ(ew_spawn(i == 1 ? &middle : &scope, take, &takers[i]), 0);
	EXPECT_EQ(ew_yield(), 0);
	ew_scope_cancel(&middle, EW_REASON_REQUESTED);
	EXPECT_EQ(ew_scope_finish(&middle, 0), 0);
	EXPECT_EQ(takers[1].result, -ECANCELED);
	expect_counts(0, 1, 2);
	ew_permit_release(&mine);
	return ew_scope_finish(&scope, ew_scope_join(&scope));
}

TEST(semaphore_wait_cancelled_leaves_the_line_without_a_permit)
{
	EXPECT_EQ(run_on(1, 4, cancel_in_line), 0);
	EXPECT_STR(traced, "a c");
}

static int granted_then_cancelled(void *argument)
{
	EW_OWN(ew_permit, permit);

	EXPECT_EQ(ew_semaphore_acquire(semaphore, EW_NEVER, &permit), 0);
	expect_counts(0, 1, 0);
	*(int *)argument = ew_yield();
	return -ECANCELED;
}

static int grant_and_cancel(void *argument)
{
	int next = 1;
	EW_OWN(ew_permit, mine);
	EW_SCOPE(scope);

	(void)argument;
	EXPECT_EQ(ew_semaphore_acquire(semaphore, EW_NEVER, &mine), 0);
	EXPECT_EQ(ew_spawn(&scope, granted_then_cancelled, &next), 0);
	EXPECT_EQ(ew_yield(), 0);
	ew_permit_release(&mine);
	ew_scope_cancel(&scope, EW_REASON_REQUESTED);
	EXPECT_EQ(ew_scope_join(&scope), -ECANCELED);
	EXPECT_EQ(next, -ECANCELED);
	return 0;
}

TEST(permit_granted_before_a_cancel_is_kept)
{
	EXPECT_EQ(run_on(1, 4, grant_and_cancel), 0);
}

static int hold_taken(void *argument, void *place)
{
	struct ew_permit **permit = place;

	(void)argument;
	EXPECT(*permit != NULL);
	expect_counts(0, 1, 0);
	return ew_sleep(EW_SECOND);
}

static int hand_over(void *argument)
{
	EW_OWN(ew_permit, permit);
	EW_SCOPE(scope);

	(void)argument;
	EXPECT_EQ(ew_semaphore_acquire(semaphore, EW_NEVER, &permit), 0);
	EXPECT_EQ(ew_spawn_take(&scope, hold_taken, NULL, &permit), 0);
	EXPECT(permit == NULL);
	expect_counts(0, 1, 0);
	return ew_scope_finish(&scope, ew_scope_join(&scope));
}

TEST(permit_can_be_handed_to_a_child)
{
	EXPECT_EQ(run_on(1, 0, hand_over), 0);
}

static int panic_holding(void *argument)
{
	EW_OWN(ew_permit, permit);

	(void)argument;
	EXPECT_EQ(ew_semaphore_acquire(semaphore, EW_NEVER, &permit), 0);
	ew_panic("with a permit");
}

static int panic_with_permit(void *argument)
{
	EW_SCOPE(scope);

	(void)argument;
	EXPECT_EQ(ew_spawn(&scope, panic_holding, NULL), 0);
	EXPECT_EQ(ew_scope_join(&scope), -ENOTRECOVERABLE);
	return 0;
}

TEST(permit_of_a_task_that_panics_comes_back)
{
	EXPECT_EQ(run_on(1, 0, panic_with_permit), 0);
}

static int forget_permit(void *argument)
{
	static struct ew_permit *lost;

	(void)argument;
	return ew_semaphore_acquire(semaphore, EW_NEVER, &lost);
}

TEST(permit_forgotten_is_reported_and_comes_back)
{
	EXPECT_EQ(run_on(1, 0, forget_permit), 0);
	EXPECT(reported("permit", "semaphore_test.c:"));
}

TEST(permit_can_be_taken_and_released_outside_a_runtime)
{
	struct ew_permit *permit = NULL;

	semaphore = ew_semaphore_new(1, 0);
	EXPECT_EQ(ew_semaphore_try_acquire(semaphore, &permit), 0);
	expect_counts(0, 1, 0);
	ew_permit_release(&permit);
	expect_counts(1, 0, 0);
	ew_semaphore_free(semaphore);
	ew_semaphore_free(NULL);
}

static void free_while_held(void)
{
	struct ew_permit *permit = NULL;

	semaphore = ew_semaphore_new(1, 0);
	if (ew_semaphore_try_acquire(semaphore, &permit) == 0)
		ew_semaphore_free(semaphore);
}

TEST(semaphore_freed_with_a_permit_out_is_a_bug_that_ends_the_process)
{
	struct ended ended = run_process(free_while_held);

	EXPECT(WIFSIGNALED(ended.status) && WTERMSIG(ended.status) == SIGABRT);
}

struct contender {
	_Atomic int inside;
	_Atomic int most;
	_Atomic unsigned taken;
	_Atomic unsigned refused;
	unsigned capacity;
	unsigned rounds;
};

static int contend(void *argument)
{
	struct contender *contender = argument;
	unsigned i;
	int now_inside, most, r;

	for (i = 0; i < contender->rounds; i++) {
		EW_OWN(ew_permit, permit);

		r = ew_semaphore_acquire(semaphore, i % 3 ? EW_NEVER : ew_after(EW_MILLISECOND),
					 &permit);
		if (r == -ETIMEDOUT || r == -EAGAIN) {
			contender->refused++;
			continue;
		}
		if (r < 0)
			return r;
		now_inside = ++contender->inside;
		EXPECT(now_inside <= (int)contender->capacity);
		most = contender->most;
		if (now_inside > most)
			contender->most = now_inside;
		contender->taken++;
		r = ew_yield();
		contender->inside--;
		if (r < 0)
			return r;
	}
	return 0;
}

static int contend_on_workers(void *argument)
{
	struct contender *contender = argument;
	unsigned i;
	EW_SCOPE(scope);

	for (i = 0; i < 16; i++)
		EXPECT_EQ(
			ew_spawn(&scope, contend, contender, .worker = 1 + i % ew_workers_count()),
			0);
	return ew_scope_finish(&scope, ew_scope_join(&scope));
}

TEST(semaphore_across_workers_never_grants_more_than_it_has)
{
	struct contender contender = { .capacity = 3, .rounds = RUNNING_ON_VALGRIND ? 30 : 3000 };

	semaphore = ew_semaphore_new(3, 16);
	EXPECT_EQ(run_workers(2, contend_on_workers, &contender), 0);
	EXPECT_EQ(contender.taken + contender.refused, 16 * contender.rounds);
	expect_counts(3, 0, 0);
	ew_semaphore_free(semaphore);
}

static int cancel_rounds(void *argument)
{
	struct contender *contender = argument;
	unsigned i, j;
	int r;

	for (i = 0; i < contender->rounds; i++) {
		EW_SCOPE(scope);
		struct contender each = { .capacity = 2, .rounds = 1000000 };

		for (j = 0; j < 8; j++)
			EXPECT_EQ(ew_spawn(&scope, contend, &each,
					   .worker = 1 + j % ew_workers_count()),
				  0);
		for (j = 0; j < i % 7; j++)
			EXPECT_EQ(ew_yield(), 0);
		ew_scope_cancel(&scope, EW_REASON_REQUESTED);
		r = ew_scope_finish(&scope, 0);
		EXPECT(r == -ECANCELED);
		expect_counts(2, 0, 0);
	}
	return 0;
}

TEST(semaphore_across_workers_keeps_its_permits_through_cancels)
{
	struct contender contender = { .rounds = RUNNING_ON_VALGRIND ? 10 : 500 };

	semaphore = ew_semaphore_new(2, 16);
	EXPECT_EQ(run_workers(2, cancel_rounds, &contender), 0);
	expect_counts(2, 0, 0);
	ew_semaphore_free(semaphore);
}

static int take_in_turn(void *argument)
{
	struct taker *taker = argument;
	EW_OWN(ew_permit, permit);
	int r = ew_semaphore_acquire(semaphore, EW_NEVER, &permit);

	trace("%s", taker->name); /* one at a time holds the only permit */
	return r;
}

/* Each is in line before the next one comes, on alternating workers. */
static int line_across_workers(void *argument)
{
	struct taker takers[6] = { { .name = "a" }, { .name = "b" }, { .name = "c" },
				   { .name = "d" }, { .name = "e" }, { .name = "f" } };
	unsigned i;
	EW_SCOPE(scope);
	EW_OWN(ew_permit, mine);

	(void)argument;
	EXPECT_EQ(ew_semaphore_acquire(semaphore, EW_NEVER, &mine), 0);
	for (i = 0; i < 6; i++) {
		EXPECT_EQ(ew_spawn(&scope, take_in_turn, &takers[i],
				   .worker = 1 + i % ew_workers_count()),
			  0);
		while (ew_semaphore_count(semaphore).waiting != i + 1)
			EXPECT_EQ(ew_yield(), 0);
	}
	ew_permit_release(&mine);
	return ew_scope_finish(&scope, ew_scope_join(&scope));
}

TEST(semaphore_serves_in_order_of_arrival_across_workers)
{
	semaphore = ew_semaphore_new(1, 16);
	EXPECT_EQ(run_workers(2, line_across_workers, NULL), 0);
	EXPECT_STR(traced, "a b c d e f");
	ew_semaphore_free(semaphore);
}

static int do_nothing(void *argument)
{
	(void)argument;
	return 0;
}

/* What was made outside a runtime belongs to the thread that made it, also while one runs and ends. */
TEST(permit_taken_outside_a_runtime_outlives_a_run)
{
	semaphore = ew_semaphore_new(1, 0);
	{
		EW_OWN(ew_permit, permit);

		EXPECT_EQ(ew_semaphore_try_acquire(semaphore, &permit), 0);
		EXPECT_EQ(run_virtual(do_nothing, NULL), 0);
		EXPECT_EQ(reports.count, 0);
		expect_counts(0, 1, 0);
	}
	expect_counts(1, 0, 0);
	ew_semaphore_free(semaphore);
}

TEST_MAIN()
