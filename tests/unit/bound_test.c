/* SPDX-License-Identifier: Apache-2.0 */

/*
 * The bound of an end, computed before it begins, beside what really happens when every ending hangs until it is
 * aborted. Virtual time: both figures are exact to the ticks of the timing wheel.
 */

#include "core.h"

#define HANGS	   (3600 * EW_SECOND)
#define TICKS_NS   (20 * EW_MILLISECOND)
#define LEAVES_MAX 8

static struct probe probes[32];
static unsigned probes_count;

/* Hangs, whatever its budget. */
static struct probe *hanging(void)
{
	struct probe *probe = &probes[probes_count++ % 32];

	*probe = (struct probe){ .name = "hangs", .takes_ns = HANGS };
	return probe;
}

#define HANGING(name_, budget_ns_, ...)                                                            \
	EW_GUARD(name_, hanging(), .close = probe_close, .abort = probe_abort,                     \
		 .budget_ns = (budget_ns_), ##__VA_ARGS__)

static int leaf(void *argument)
{
	HANGING(first, *(int64_t *)argument);
	HANGING(second, EW_SECOND);
	EW_OWN(thing, owned);
	static struct thing things[LEAVES_MAX];
	static unsigned used;
	struct thing *thing = &things[used++ % LEAVES_MAX];

	*thing = (struct thing){ .probe.takes_ns = HANGS, .type.budget_ns = EW_SECOND / 2 };
	owned = THING_OPEN(thing, "thing");
	return ew_sleep_until(EW_NEVER);
}

static int middle(void *argument)
{
	int64_t short_ns = EW_SECOND, long_ns = 4 * EW_SECOND;
	HANGING(above, 2 * EW_SECOND);
	EW_SCOPE(scope);
	HANGING(below, 3 * EW_SECOND);

	(void)argument;
	if (ew_spawn(&scope, leaf, &short_ns) < 0 || ew_spawn(&scope, leaf, &long_ns) < 0)
		return -EIO;
	return ew_scope_join(&scope);
}

/* The leaves take 2.5 and 5.5 s side by side, and are joined; then `below` 3 s, and `above` 2 s. */
#define TREE_NS (10500 * EW_MILLISECOND)

static void expect_end(int64_t began_ns, int64_t bound_ns, int64_t expected_ns)
{
	EXPECT(bound_ns >= expected_ns);
	EXPECT(bound_ns <= expected_ns + TICKS_NS);
	EXPECT(ew_now() - began_ns <= bound_ns);
	EXPECT(ew_now() - began_ns >= bound_ns - TICKS_NS);
}

static void cancel_a_tree(int64_t budget_ns, int64_t expected_ns)
{
	int64_t began_ns, bound_ns;
	EW_SCOPE(scope, .budget_ns = budget_ns);

	EXPECT_EQ(ew_spawn(&scope, middle, NULL), 0);
	EXPECT_EQ(ew_sleep(EW_SECOND), 0);
	bound_ns = ew_scope_bound(&scope);
	began_ns = ew_now();
	ew_scope_cancel(&scope, EW_REASON_REQUESTED);
	EXPECT_EQ(ew_scope_finish(&scope, 0), -ECANCELED);
	expect_end(began_ns, bound_ns, expected_ns);
}

static int cancel_trees(void *argument)
{
	(void)argument;
	cancel_a_tree(0, TREE_NS);
	cancel_a_tree(60 * EW_SECOND, TREE_NS);
	cancel_a_tree(3 * EW_SECOND, 3 * EW_SECOND);
	return 0;
}

TEST(bound_of_a_tree_whose_endings_all_hang_is_met)
{
	EXPECT_EQ(run_virtual(cancel_trees, NULL), 0);
}

/* What the block itself has declared after its scopes comes when it has joined its children. */
static int cancel_a_block(void *argument)
{
	int64_t began_ns, bound_ns, short_ns = EW_SECOND;

	(void)argument;
	{
		EW_SCOPE(scope);
		HANGING(one, 2 * EW_SECOND);
		EW_SCOPE(inner);
		HANGING(other, 2 * EW_SECOND);

		EXPECT_EQ(ew_spawn(&inner, leaf, &short_ns), 0);
		EXPECT_EQ(ew_sleep(EW_SECOND), 0);
		bound_ns = ew_scope_bound(&scope);
		began_ns = ew_now();
		ew_scope_cancel(&scope, EW_REASON_REQUESTED);
		EXPECT_EQ(ew_scope_join(&inner), -ECANCELED);
	}
	expect_end(began_ns, bound_ns, 6500 * EW_MILLISECOND);
	return 0;
}

TEST(bound_counts_what_the_block_has_declared_itself)
{
	EXPECT_EQ(run_virtual(cancel_a_block, NULL), 0);
}

/* Half of it is over when the bound is asked for again. */
static int ask_again(void *argument)
{
	int64_t began_ns, bound_ns;
	EW_SCOPE(scope);

	(void)argument;
	EXPECT_EQ(ew_spawn(&scope, middle, NULL), 0);
	EXPECT_EQ(ew_sleep(EW_SECOND), 0);
	ew_scope_cancel(&scope, EW_REASON_REQUESTED);
	{
		EW_SHIELD(shield, .budget_ns = 60 * EW_SECOND);

		EXPECT_EQ(ew_sleep(3 * EW_SECOND), 0);
	}
	bound_ns = ew_scope_bound(&scope);
	began_ns = ew_now();
	EXPECT_EQ(ew_scope_finish(&scope, 0), -ECANCELED);
	expect_end(began_ns, bound_ns, TREE_NS - 3 * EW_SECOND);
	return 0;
}

TEST(bound_of_a_cancelled_scope_is_what_is_left)
{
	EXPECT_EQ(run_virtual(ask_again, NULL), 0);
}

static struct {
	int64_t bound_ns;
	int64_t began_ns;
} asked;

static int shut_down_a_tree(void *argument)
{
	EW_SCOPE(scope);

	EXPECT_EQ(ew_spawn(&scope, middle, argument), 0);
	EXPECT_EQ(ew_sleep(EW_SECOND), 0);
	asked.bound_ns = ew_scope_bound(NULL);
	asked.began_ns = ew_now();
	ew_shutdown();
	EXPECT_EQ(ew_scope_finish(&scope, 0), -ECANCELED);
	expect_end(asked.began_ns, asked.bound_ns, asked.bound_ns);
	return 0;
}

/* Force comes at nine tenths. */
TEST(bound_of_a_shutdown_is_known_before_it_begins)
{
	struct ew_run_options options = { .workers_count = 1,
					  .virtual_time = true,
					  .report = note_report };

	EXPECT_EQ(ew_run(&options, shut_down_a_tree, NULL), 0);
	EXPECT(asked.bound_ns >= TREE_NS && asked.bound_ns <= TREE_NS + TICKS_NS);
	options.shutdown_budget_ns = 5 * EW_SECOND;
	EXPECT_EQ(ew_run(&options, shut_down_a_tree, NULL), 0);
	EXPECT(asked.bound_ns >= 4500 * EW_MILLISECOND);
	EXPECT(asked.bound_ns <= 4500 * EW_MILLISECOND + TICKS_NS);
}

static int sleep_long(void *argument)
{
	(void)argument;
	return ew_sleep_until(EW_NEVER);
}

static int bounds_of_what_is_elsewhere(void *argument)
{
	EW_SCOPE(unbounded);
	EW_SCOPE(bounded, .budget_ns = 7 * EW_SECOND);

	(void)argument;
	EXPECT_EQ(ew_scope_bound(&unbounded), 0);
	EXPECT_EQ(ew_spawn(&bounded, sleep_long, NULL, .worker = 2), 0);
	EXPECT_EQ(ew_scope_bound(&unbounded), EW_NEVER);
	EXPECT(ew_scope_bound(&bounded) >= 7 * EW_SECOND);
	EXPECT(ew_scope_bound(&bounded) <= 7 * EW_SECOND + TICKS_NS);
	return 0;
}

TEST(bound_of_a_task_on_another_worker_is_that_of_the_budgets)
{
	EXPECT_EQ(run_workers(2, bounds_of_what_is_elsewhere, NULL), 0);
}

static int endless(void *argument)
{
	HANGING(one, EW_NEVER);
	HANGING(other, EW_NEVER);
	EW_SCOPE(scope);

	(void)argument;
	EXPECT_EQ(ew_scope_bound(&scope), 0);
	EXPECT(ew_scope_bound(NULL) < 30 * EW_SECOND);
	ew_guard_disarm(&one);
	ew_guard_disarm(&other);
	return 0;
}

TEST(bound_of_endings_without_an_end_is_the_runs)
{
	EXPECT_EQ(run_virtual(endless, NULL), 0);
}

static int deep(void *argument)
{
	unsigned *levels = argument;
	EW_SCOPE(scope);

	if (--*levels == 0)
		return ew_sleep_until(EW_NEVER);
	EXPECT_EQ(ew_spawn(&scope, deep, levels), 0);
	return ew_scope_join(&scope);
}

static int bound_of_depth(void *argument)
{
	int64_t bound_ns;
	EW_SCOPE(scope);

	EXPECT_EQ(ew_spawn(&scope, deep, argument), 0);
	EXPECT_EQ(ew_sleep(EW_SECOND), 0);
	bound_ns = ew_scope_bound(&scope);
	EXPECT(bound_ns == 0 || bound_ns == EW_NEVER);
	return bound_ns == 0;
}

TEST(bound_of_more_than_128_levels_is_not_known)
{
	unsigned levels = 127;

	EXPECT_EQ(run_virtual(bound_of_depth, &levels), 1);
	levels = 1000;
	EXPECT_EQ(run_virtual(bound_of_depth, &levels), 0);
}

TEST_MAIN()
