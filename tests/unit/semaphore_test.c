/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Semaphores: first come, first served, and free + held + cancelling + presumed == capacity, whatever is cancelled
 * meanwhile.
 */

#include "crossing.h"

static struct ew_semaphore *semaphore;

static void expect_counts(unsigned free, unsigned held, unsigned waiting)
{
	struct ew_semaphore_counts counts = ew_semaphore_count(semaphore);

	EXPECT_EQ(counts.free, free);
	EXPECT_EQ(counts.held, held);
	EXPECT_EQ(counts.waiting, waiting);
	EXPECT_EQ(counts.free + counts.held + counts.cancelling + counts.presumed, counts.capacity);
}

static void expect_gone(unsigned cancelling, unsigned presumed)
{
	struct ew_semaphore_counts counts = ew_semaphore_count(semaphore);

	EXPECT_EQ(counts.cancelling, cancelling);
	EXPECT_EQ(counts.presumed, presumed);
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

/* ---- many shares ---- */

struct many {
	const char *name;
	unsigned count;
	int64_t deadline_ns;
	int64_t hold_ns;
	int result;
};

static int take_many(void *argument)
{
	struct many *many = argument;
	EW_OWN(ew_permit, permit);

	many->result =
		ew_semaphore_acquire_many(semaphore, many->count, many->deadline_ns, &permit);
	EXPECT_EQ(permit != NULL, many->result == 0);
	if (!permit)
		return 0;
	EXPECT_EQ(ew_permit_shares(permit), many->count);
	trace("%s", many->name);
	return many->hold_ns ? ew_sleep(many->hold_ns) : 0;
}

static int many_in_line(void *argument)
{
	struct many takers[4] = { { "a", 3, EW_NEVER, EW_SECOND, 1 },
				  { "b", 1, EW_NEVER, EW_SECOND, 1 },
				  { "c", 2, EW_NEVER, EW_SECOND, 1 },
				  { "d", 1, EW_NEVER, EW_SECOND, 1 } };
	EW_OWN(ew_permit, two);
	EW_OWN(ew_permit, one);
	EW_OWN(ew_permit, none);
	EW_SCOPE(scope);
	int i;

	(void)argument;
	EXPECT_EQ(ew_semaphore_acquire_many(semaphore, 0, EW_NEVER, &none), -EINVAL);
	EXPECT_EQ(ew_semaphore_acquire_many(semaphore, 5, EW_NEVER, &none), -EINVAL);
	EXPECT_EQ(ew_semaphore_try_acquire_many(semaphore, 5, &none), -EINVAL);
	EXPECT_EQ(ew_semaphore_acquire_many(semaphore, 2, EW_NEVER, &two), 0);
	EXPECT_EQ(ew_semaphore_try_acquire_many(semaphore, 3, &none), -EAGAIN);
	EXPECT_EQ(ew_semaphore_try_acquire_many(semaphore, 1, &one), 0);
	expect_counts(1, 3, 0);
	for (i = 0; i < 4; i++)
		EXPECT_EQ(ew_spawn(&scope, take_many, &takers[i]), 0);
	EXPECT_EQ(ew_yield(), 0);
	expect_counts(1, 3, 4); /* one is free, and a's */
	EXPECT_EQ(ew_semaphore_try_acquire(semaphore, &none), -EAGAIN);
	ew_permit_release(&one);
	expect_counts(2, 2, 4);
	ew_permit_release(&two); /* enough for two of them */
	expect_counts(0, 4, 2);
	EXPECT(none == NULL);
	return ew_scope_finish(&scope, ew_scope_join(&scope));
}

TEST(semaphore_grants_many_or_none_in_order_of_arrival)
{
	EXPECT_EQ(run_on(4, 4, many_in_line), 0);
	EXPECT_STR(traced, "a b c d");
}

/* Who leaves the line may have been all that those behind him waited for. */
static int leave_the_front(bool by_deadline)
{
	struct many takers[3] = { { "a", 4, by_deadline ? ew_after(EW_SECOND) : EW_NEVER, 0, 1 },
				  { "b", 1, EW_NEVER, 2 * EW_SECOND, 1 },
				  { "c", 2, EW_NEVER, 2 * EW_SECOND, 1 } };
	EW_OWN(ew_permit, mine);
	EW_SCOPE(scope);
	EW_SCOPE(front);
	int i;

	EXPECT_EQ(ew_semaphore_acquire(semaphore, EW_NEVER, &mine), 0);
	for (i = 0; i < 3; i++)
		EXPECT_EQ(ew_spawn(i == 0 ? &front : &scope, take_many, &takers[i]), 0);
	EXPECT_EQ(ew_yield(), 0);
	expect_counts(3, 1, 3);
	if (!by_deadline)
		ew_scope_cancel(&front, EW_REASON_REQUESTED);
	EXPECT_EQ(ew_scope_join(&front), 0);
	EXPECT_EQ(ew_scope_finish(&front, 0), 0);
	expect_counts(0, 4, 0);
	EXPECT_EQ(ew_scope_finish(&scope, ew_scope_join(&scope)), 0);
	return takers[0].result;
}

static int cancel_the_front(void *argument)
{
	(void)argument;
	return leave_the_front(false);
}

static int time_out_the_front(void *argument)
{
	(void)argument;
	return leave_the_front(true);
}

TEST(semaphore_front_that_is_cancelled_or_late_leaves_free_shares_to_the_next)
{
	EXPECT_EQ(run_on(4, 4, cancel_the_front), -ECANCELED);
	EXPECT_EQ(run_on(4, 4, time_out_the_front), -ETIMEDOUT);
	EXPECT_STR(traced, "b c b c");
}

static int take_many_and_see_the_cancel(void *argument)
{
	EW_OWN(ew_permit, permit);
	int r = ew_semaphore_acquire_many(semaphore, 2, EW_NEVER, &permit);

	(void)argument;
	EXPECT_EQ(permit != NULL, r == 0);
	EXPECT_EQ(ew_yield(), -ECANCELED);
	return r;
}

static void release_now(void *place)
{
	ew_permit_release(place);
}

static int cross_a_cancel(void *argument)
{
	EW_OWN(ew_permit, permit);

	(void)argument;
	EXPECT_EQ(ew_semaphore_acquire_many(semaphore, 2, EW_NEVER, &permit), 0);
	return cross(take_many_and_see_the_cancel, release_now, &permit);
}

TEST(permit_grant_that_crosses_a_cancel_is_kept)
{
	semaphore = ew_semaphore_new(3, 1);
	EXPECT_EQ(run_workers(2, cross_a_cancel, NULL), 0);
	expect_counts(3, 0, 0);
	ew_semaphore_free(semaphore);
}

/* ---- split and merge ---- */

static int split_and_merge(void *argument)
{
	EW_OWN(ew_permit, whole);
	EW_OWN(ew_permit, part);
	EW_OWN(ew_permit, rest);
	EW_OWN(ew_permit, none);

	(void)argument;
	EXPECT_EQ(ew_semaphore_acquire_many(semaphore, 4, EW_NEVER, &whole), 0);
	ew_permit_split(whole, 1, &part);
	ew_permit_split(whole, 2, &rest);
	EXPECT_EQ(ew_permit_shares(whole), 1);
	EXPECT_EQ(ew_permit_shares(part), 1);
	EXPECT_EQ(ew_permit_shares(rest), 2);
	expect_counts(0, 4, 0);
	ew_permit_release(&part);
	expect_counts(1, 3, 0);
	ew_permit_merge(whole, &rest);
	EXPECT(rest == NULL);
	EXPECT_EQ(ew_permit_shares(whole), 3);
	ew_permit_merge(whole, &rest);
	EXPECT_EQ(ew_permit_shares(whole), 3);
	EXPECT_EQ(ew_semaphore_try_acquire(semaphore, &part), 0);
	ew_permit_split(whole, 1, &rest);
	ew_permit_split(whole, 1, &none); /* each share in a permit of its own */
	ew_permit_merge(part, &whole);
	EXPECT_EQ(ew_permit_shares(part), 2);
	expect_counts(0, 4, 0);
	ew_permit_release(&part);
	expect_counts(2, 2, 0);
	return 0;
}

TEST(permit_is_split_and_merged_without_a_share_more_or_less)
{
	EXPECT_EQ(run_on(4, 0, split_and_merge), 0);
	EXPECT_EQ(reports.count, 0);
}

static int work_with_share(void *argument, void *place)
{
	struct ew_permit **permit = place;

	(void)argument;
	EXPECT_EQ(ew_permit_shares(*permit), 1);
	return ew_sleep(EW_SECOND);
}

/* One waits for all while the shares come back one by one, each by its own child's end. */
static int hand_out_shares(void *argument)
{
	struct many all = { "all", 3, EW_NEVER, 0, 1 };
	EW_OWN(ew_permit, whole);
	EW_OWN(ew_permit, part);
	EW_SCOPE(scope, .policy = EW_POLICY_INDEPENDENT);
	EW_SCOPE(cut);
	int i;

	(void)argument;
	EXPECT_EQ(ew_semaphore_acquire_many(semaphore, 3, EW_NEVER, &whole), 0);
	EXPECT_EQ(ew_spawn(&scope, take_many, &all), 0);
	for (i = 0; i < 2; i++) {
		ew_permit_split(whole, 1, &part);
		EXPECT_EQ(ew_spawn_take(i ? &cut : &scope, work_with_share, NULL, &part), 0);
		EXPECT(part == NULL);
	}
	EXPECT_EQ(ew_spawn_take(&scope, work_with_share, NULL, &whole), 0);
	ew_scope_cancel(&cut, EW_REASON_REQUESTED);
	EXPECT_EQ(ew_scope_finish(&cut, 0), -ECANCELED);
	expect_counts(1, 2, 1);
	EXPECT_EQ(ew_scope_finish(&scope, ew_scope_join(&scope)), 0);
	return all.result;
}

TEST(permit_shares_are_handed_to_children_and_come_back_with_them)
{
	EXPECT_EQ(run_on(3, 1, hand_out_shares), 0);
	EXPECT_STR(traced, "all");
}

/* ---- cancelling and presumed ---- */

static int give_up_in_every_way(void *argument)
{
	EW_OWN(ew_permit, acknowledged);
	EW_OWN(ew_permit, presumed);
	EW_OWN(ew_permit, part);
	EW_OWN(ew_permit, other);

	(void)argument;
	EXPECT_EQ(ew_semaphore_acquire(semaphore, EW_NEVER, &acknowledged), 0);
	EXPECT_EQ(ew_semaphore_acquire_many(semaphore, 2, EW_NEVER, &presumed), 0);
	EXPECT_EQ(ew_semaphore_acquire(semaphore, EW_NEVER, &other), 0);
	ew_permit_mark_cancelling(acknowledged);
	ew_permit_mark_cancelling(acknowledged);
	ew_permit_mark_cancelling(presumed);
	ew_permit_split(presumed, 1, &part); /* in the same state */
	ew_permit_merge(presumed, &part);
	expect_gone(3, 0);
	expect_counts(0, 1, 0);
	ew_permit_release(&acknowledged); /* it has ended */
	expect_gone(2, 0);
	expect_counts(1, 1, 0);
	ew_permit_presume(&presumed);
	EXPECT(presumed == NULL);
	ew_permit_presume(&presumed);
	expect_gone(0, 2);
	ew_permit_presume(&other); /* nobody was even asked */
	expect_gone(0, 3);
	expect_counts(1, 0, 0);
	EXPECT_EQ(ew_semaphore_try_acquire_many(semaphore, 2, &other), -EAGAIN);
	ew_semaphore_reclaim(semaphore, 1);
	expect_gone(0, 2);
	EXPECT_EQ(ew_semaphore_try_acquire_many(semaphore, 2, &other), 0);
	ew_semaphore_reclaim(semaphore, 0);
	ew_semaphore_reclaim(semaphore, 2);
	expect_gone(0, 0);
	return 0;
}

TEST(permit_presumed_is_not_granted_until_it_is_reclaimed)
{
	EXPECT_EQ(run_on(4, 0, give_up_in_every_way), 0);
}

/* However its place is left: what was asked to stop and has not been heard of is presumed. */
static int leave_cancelling(void *argument)
{
	EW_OWN(ew_permit, permit);
	int r = ew_semaphore_acquire(semaphore, EW_NEVER, &permit);

	EXPECT_EQ(r, 0);
	ew_permit_mark_cancelling(permit);
	if (argument)
		ew_panic("with a permit whose work was asked to stop");
	return ew_sleep(60 * EW_SECOND);
}

static void leave_in(bool panics, bool droppable, int64_t budget_ns, int result)
{
	EW_SCOPE(scope, .budget_ns = budget_ns);

	EXPECT_EQ(
		ew_spawn(&scope, leave_cancelling, panics ? &scope : NULL, .droppable = droppable),
		0);
	EXPECT_EQ(ew_yield(), 0);
	if (!panics)
		ew_scope_cancel(&scope, EW_REASON_REQUESTED);
	EXPECT_EQ(ew_scope_join(&scope), result);
	EXPECT_EQ(ew_scope_finish(&scope, 0), result);
	expect_gone(0, 1);
	expect_counts(0, 0, 0);
	ew_semaphore_reclaim(semaphore, 1);
}

static int leave_in_every_way(void *argument)
{
	(void)argument;
	leave_in(false, false, 0, -ECANCELED);
	leave_in(true, false, 0, -ENOTRECOVERABLE);
	leave_in(false, false, 1, -ECANCELED); /* forced: an abort */
	return 0;
}

TEST(permit_cancelling_whose_place_is_left_is_presumed)
{
	EXPECT_EQ(run_on(1, 0, leave_in_every_way), 0);
}

static int reclaim_for_the_line(void *argument)
{
	struct many takers[2] = { { "a", 2, EW_NEVER, 0, 1 }, { "b", 1, EW_NEVER, 0, 1 } };
	EW_OWN(ew_permit, mine);
	EW_SCOPE(scope);
	int i;

	(void)argument;
	EXPECT_EQ(ew_semaphore_acquire_many(semaphore, 2, EW_NEVER, &mine), 0);
	for (i = 0; i < 2; i++)
		EXPECT_EQ(ew_spawn(&scope, take_many, &takers[i]), 0);
	EXPECT_EQ(ew_yield(), 0);
	ew_permit_presume(&mine);
	EXPECT_EQ(ew_sleep(EW_SECOND), 0);
	expect_counts(0, 0, 2);
	ew_semaphore_reclaim(semaphore, 1);
	expect_counts(1, 0, 2);
	ew_semaphore_reclaim(semaphore, 1);
	expect_counts(0, 2, 1);
	return ew_scope_finish(&scope, ew_scope_join(&scope));
}

TEST(permit_reclaimed_goes_to_the_first_in_line)
{
	EXPECT_EQ(run_on(2, 2, reclaim_for_the_line), 0);
	EXPECT_STR(traced, "a b");
}

TEST(semaphore_freed_with_presumed_shares_lets_them_go)
{
	struct ew_permit *permit = NULL;

	semaphore = ew_semaphore_new(2, 0);
	EXPECT_EQ(ew_semaphore_try_acquire(semaphore, &permit), 0);
	ew_permit_presume(&permit);
	expect_gone(0, 1);
	ew_semaphore_free(semaphore);
}

static int forget_cancelling(void *argument)
{
	static struct ew_permit *lost;
	int r = ew_semaphore_acquire(semaphore, EW_NEVER, &lost);

	(void)argument;
	ew_permit_mark_cancelling(lost);
	return r;
}

TEST(permit_forgotten_while_cancelling_is_presumed)
{
	semaphore = ew_semaphore_new(1, 0);
	EXPECT_EQ(run_virtual(forget_cancelling, NULL), 0);
	EXPECT(reported("permit", "semaphore_test.c:"));
	expect_gone(0, 1);
	ew_semaphore_free(semaphore);
}

static struct ew_permit *misused[2];

static void take_two(unsigned one, unsigned other)
{
	semaphore = ew_semaphore_new(4, 0);
	if (ew_semaphore_try_acquire_many(semaphore, one, &misused[0]) < 0 ||
	    ew_semaphore_try_acquire_many(semaphore, other, &misused[1]) < 0)
		_exit(1);
}

static void split_nothing(void)
{
	struct ew_permit *part = NULL;

	take_two(2, 1);
	ew_permit_split(misused[0], 0, &part);
}

static void split_all(void)
{
	struct ew_permit *part = NULL;

	take_two(2, 1);
	ew_permit_split(misused[0], 2, &part);
}

static void merge_with_itself(void)
{
	take_two(2, 1);
	ew_permit_merge(misused[0], &misused[0]);
}

static void merge_of_two_states(void)
{
	take_two(2, 1);
	ew_permit_mark_cancelling(misused[1]);
	ew_permit_merge(misused[0], &misused[1]);
}

static void merge_of_two_semaphores(void)
{
	struct ew_permit *foreign;

	take_two(2, 1);
	foreign = misused[0];
	take_two(2, 1);
	ew_permit_merge(misused[0], &foreign);
}

static void reclaim_too_many(void)
{
	take_two(2, 1);
	ew_permit_presume(&misused[1]);
	ew_semaphore_reclaim(semaphore, 2);
}

TEST(permit_misused_ends_the_process)
{
	static void (*const misuses[])(void) = { split_nothing,		  split_all,
						 merge_with_itself,	  merge_of_two_states,
						 merge_of_two_semaphores, reclaim_too_many };
	struct ended ended;
	size_t i;

	for (i = 0; i < sizeof(misuses) / sizeof(misuses[0]); i++) {
		ended = run_process(misuses[i]);
		EXPECT(WIFSIGNALED(ended.status) && WTERMSIG(ended.status) == SIGABRT);
		EXPECT(strstr(ended.text, "assertion failed") && strstr(ended.text, "semaphore.c"));
	}
}

/* ---- across workers ---- */

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

#define SHARES 5u

struct mixture {
	_Atomic unsigned out; /* shares that somebody has */
	_Atomic bool over;
	unsigned rounds;
};

/* Takes some, passes a part through every state, and gives back the rest. */
static int mix(struct mixture *mixture, unsigned round)
{
	EW_OWN(ew_permit, permit);
	EW_OWN(ew_permit, part);
	unsigned count = 1 + round % SHARES;
	int r = ew_semaphore_acquire_many(semaphore, count,
					  round % 3 ? EW_NEVER : ew_after(EW_MILLISECOND), &permit);

	if (r == -ETIMEDOUT || r == -EAGAIN)
		return 0;
	if (r < 0)
		return r;
	EXPECT(atomic_fetch_add(&mixture->out, count) + count <= SHARES);
	if (count > 1)
		ew_permit_split(permit, count / 2, &part);
	r = ew_yield();
	if (part && round % 4 == 0)
		ew_permit_merge(permit, &part);
	if (part)
		ew_permit_mark_cancelling(part);
	mixture->out -= count;
	if (part && round % 4 == 1) {
		count = ew_permit_shares(part);
		ew_permit_presume(&part);
		ew_semaphore_reclaim(semaphore, count);
	}
	ew_permit_release(&part);
	return r;
}

static int mix_on(void *argument)
{
	struct mixture *mixture = argument;
	unsigned i;
	int r = 0;

	for (i = 0; i < mixture->rounds && r == 0; i++)
		r = mix(mixture, i);
	return r;
}

static void *look(void *argument)
{
	struct mixture *mixture = argument;
	struct ew_semaphore_counts counts;

	while (!mixture->over) {
		counts = ew_semaphore_count(semaphore);
		EXPECT_EQ(counts.free + counts.held + counts.cancelling + counts.presumed, SHARES);
		sched_yield();
	}
	return NULL;
}

static int mix_rounds(void *argument)
{
	struct mixture *mixture = argument;
	unsigned rounds = mixture->rounds, i, j;

	mixture->rounds = 1000000;
	for (i = 0; i < rounds; i++) {
		EW_SCOPE(scope);

		for (j = 0; j < 6; j++)
			EXPECT_EQ(ew_spawn(&scope, mix_on, mixture, .worker = 1 + j % 2), 0);
		for (j = 0; j < i % 7; j++)
			EXPECT_EQ(ew_yield(), 0);
		ew_scope_cancel(&scope, EW_REASON_REQUESTED);
		EXPECT_EQ(ew_scope_finish(&scope, 0), -ECANCELED);
		expect_counts(SHARES, 0, 0);
	}
	return 0;
}

TEST(semaphore_across_workers_adds_up_at_every_look)
{
	struct mixture mixture = { .rounds = RUNNING_ON_VALGRIND ? 10 : 500 };
	pthread_t thread;

	semaphore = ew_semaphore_new(SHARES, 4);
	EXPECT_EQ(pthread_create(&thread, NULL, look, &mixture), 0);
	EXPECT_EQ(run_workers(2, mix_rounds, &mixture), 0);
	mixture.over = true;
	EXPECT_EQ(pthread_join(thread, NULL), 0);
	ew_semaphore_free(semaphore);
}

static int mix_on_workers(void *argument)
{
	unsigned i;
	EW_SCOPE(scope);

	for (i = 0; i < 8; i++)
		EXPECT_EQ(ew_spawn(&scope, mix_on, argument, .worker = 1 + i % 2), 0);
	return ew_scope_finish(&scope, ew_scope_join(&scope));
}

TEST(semaphore_across_workers_serves_many_and_few)
{
	struct mixture mixture = { .rounds = RUNNING_ON_VALGRIND ? 30 : 2000 };

	semaphore = ew_semaphore_new(SHARES, 16);
	EXPECT_EQ(run_workers(2, mix_on_workers, &mixture), 0);
	expect_counts(SHARES, 0, 0);
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
