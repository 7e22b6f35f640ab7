/* SPDX-License-Identifier: Apache-2.0 */

/*
 * The scheduler's slice: workers have a short one, everybody else what the program had, and who gives way stays the
 * longer the longer it was away.
 */

#include "core.h"

#include "task/slice.h"

#include <endwell/offload.h>
#include <sched.h>

#define OWN_NS	    (5 * EW_MILLISECOND)
#define SHORTEST_NS (100 * EW_MICROSECOND)

static int see_slice(void *ret_slice_ns)
{
	*(uint64_t *)ret_slice_ns = ew__slice_ns();
	return 0;
}

struct slices {
	uint64_t workers[2];
	uint64_t offload;
};

static int see_slices(void *argument)
{
	struct slices *slices = argument;
	int result;

	EW_SCOPE(scope);

	EXPECT_EQ(ew_spawn(&scope, see_slice, &slices->workers[0], .worker = 1), 0);
	EXPECT_EQ(ew_spawn(&scope, see_slice, &slices->workers[1], .worker = 2), 0);
	EXPECT_EQ(ew_offload(see_slice, &slices->offload, &result), 0);
	return ew_scope_finish(&scope, ew_scope_join(&scope));
}

TEST(slice_of_workers_is_short_and_that_of_all_others_the_programs)
{
	struct slices slices = { 0 };
	uint64_t before_ns = ew__slice_ns();

	if (before_ns == 0)
		SKIP("the scheduler has no slices to set");
	ew__slice_set(OWN_NS);
	EXPECT_EQ(run_workers(2, see_slices, &slices), 0);
	EXPECT_EQ(slices.workers[0], SHORTEST_NS);
	EXPECT_EQ(slices.workers[1], SHORTEST_NS);
	EXPECT_EQ(slices.offload, OWN_NS);
	EXPECT_EQ(ew__slice_ns(), OWN_NS);
	ew__slice_set(before_ns);
	EXPECT_EQ(ew__slice_ns(), before_ns);
}

TEST(slice_of_none_stays_as_it_is)
{
	uint64_t before_ns = ew__slice_ns();

	ew__slice_set(0);
	EXPECT_EQ(ew__slice_ns(), before_ns);
}

TEST(slice_is_only_of_who_is_scheduled_fairly)
{
	const struct sched_param none = { 0 };
	uint64_t before_ns = ew__slice_ns();

	EXPECT_EQ(sched_setscheduler(0, SCHED_BATCH, &none), 0);
	EXPECT_EQ(ew__slice_ns(), before_ns);
	EXPECT_EQ(sched_setscheduler(0, SCHED_IDLE, &none), 0);
	EXPECT_EQ(ew__slice_ns(), 0);
	ew__slice_set(OWN_NS);
	EXPECT_EQ(sched_setscheduler(0, SCHED_OTHER, &none), 0);
	EXPECT_EQ(ew__slice_ns(), before_ns);
}

TEST(slice_is_given_away_after_a_part_of_the_time_that_the_last_one_cost)
{
	struct ew__giving giving = { .away_ns = 40 * EW_MILLISECOND };

	ew__give_way(&giving, 9 * EW_MILLISECOND);
	EXPECT_EQ(giving.ran_ns, 9 * EW_MILLISECOND);
	EXPECT_EQ(giving.away_ns, 40 * EW_MILLISECOND);
	ew__give_way(&giving, EW_MILLISECOND);
	EXPECT_EQ(giving.ran_ns, 0);
	EXPECT(giving.away_ns <= 100 * EW_MILLISECOND);
}

/* ---- what cancelled tasks have of it ---- */

#define LEAVING_COUNT 64
#define LEAVING_NS    (50 * EW_MICROSECOND)

static __thread unsigned yields_count;

int sched_yield(void)
{
	yields_count++;
	return 0;
}

static int compute_at_the_end(void *argument)
{
	int64_t end_ns;

	(void)argument;
	EXPECT_EQ(ew_sleep(3600 * EW_SECOND), -ECANCELED);
	end_ns = ew_after(LEAVING_NS);
	while (ew_now() < end_ns)
		;
	return 0;
}

static int cancel_many(void *argument)
{
	int i;

	EW_SCOPE(scope);

	(void)argument;
	for (i = 0; i < LEAVING_COUNT; i++)
		EXPECT_EQ(ew_spawn(&scope, compute_at_the_end, NULL), 0);
	EXPECT_EQ(ew_yield(), 0);
	yields_count = 0;
	ew_scope_cancel(&scope, EW_REASON_REQUESTED);
	EXPECT_EQ(ew_scope_join(&scope), 0);
	EXPECT(yields_count > 1);
	return 0;
}

/* Two of them are as long as one. */
TEST(slice_ends_when_cancelled_tasks_have_run_for_one)
{
	EXPECT_EQ(run_workers(1, cancel_many, NULL), 0);
}

TEST_MAIN()
