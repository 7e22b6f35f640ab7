/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Places, guards and their endings: once each, newest first, on every way out, as long as the ladder allows.
 * The times are virtual, so that each bound is exact to the wheel's tick.
 */

#include "core.h"

/* @at_ns lies at @expected_ns or at most two ticks later. */
#define EXPECT_AT(at_ns, expected_ns)                                                              \
	do {                                                                                       \
		EXPECT((at_ns) >= (expected_ns));                                                  \
		EXPECT((at_ns) <= (expected_ns) + 3 * EW_MILLISECOND);                             \
	} while (0)

#define GUARD(name_, probe_, ...)                                                                  \
	EW_GUARD(name_, probe_, .close = probe_close, .abort = probe_abort, ##__VA_ARGS__)

static int many_ways(const char *way)
{
	static struct thing thing;
	static struct probe older, newer;
	EW_SCOPE(scope);

	older = (struct probe){ .name = "older" };
	newer = (struct probe){ .name = "newer" };
	GUARD(first, &older);
	EW_OWN(thing, owned);
	GUARD(second, &newer);
	owned = THING_OPEN(&thing, "thing");

	if (!strcmp(way, "success"))
		return 0;
	if (!strcmp(way, "error"))
		return -EIO;
	if (!strcmp(way, "panic"))
		ew_panic("on purpose");
	ew_scope_cancel(&scope, EW_REASON_REQUESTED);
	return ew_yield();
}

static int many_ways_task(void *argument)
{
	return many_ways(argument);
}

static int leave_by(void *argument)
{
	EW_SCOPE(scope, .policy = EW_POLICY_INDEPENDENT);

	EXPECT_EQ(ew_spawn(&scope, many_ways_task, argument), 0);
	return ew_scope_finish(&scope, ew_scope_join(&scope));
}

TEST(ending_closes_newest_first_on_success)
{
	EXPECT_EQ(run_virtual(leave_by, "success"), 0);
	EXPECT_STR(traced, "close-newer close-thing close-older");
}

TEST(ending_closes_newest_first_on_an_error)
{
	EXPECT_EQ(run_virtual(leave_by, "error"), 0);
	EXPECT_STR(traced, "close-newer close-thing close-older");
}

TEST(ending_closes_newest_first_on_a_cancel)
{
	EXPECT_EQ(run_virtual(leave_by, "cancel"), 0);
	EXPECT_STR(traced, "close-newer close-thing close-older");
}

TEST(ending_closes_newest_first_on_a_panic)
{
	EXPECT_EQ(run_virtual(leave_by, "panic"), 0);
	EXPECT_STR(traced, "close-newer close-thing close-older");
}

static int trace_end(void *argument)
{
	int r = ew_sleep(3600 * EW_SECOND);

	trace("%s", (const char *)argument);
	return r;
}

static int scope_between(void *argument)
{
	struct probe older = { .name = "older" }, newer = { .name = "newer" };
	GUARD(first, &older);
	EW_SCOPE(scope);
	GUARD(second, &newer);

	(void)argument;
	return ew_spawn(&scope, trace_end, "child");
}

TEST(ending_of_what_is_declared_above_a_scope_comes_after_its_children)
{
	EXPECT_EQ(run_virtual(scope_between, NULL), 0);
	EXPECT_STR(traced, "close-newer child close-older");
}

static int waiting_close(void *argument)
{
	struct probe slow = { .name = "slow", .takes_ns = 2 * EW_SECOND };

	(void)argument;
	{
		EW_SCOPE(scope);
		GUARD(undo, &slow);

		ew_scope_cancel(&scope, EW_REASON_REQUESTED);
		EXPECT_EQ(ew_yield(), -ECANCELED);
	}
	EXPECT_EQ(slow.closed, 1);
	EXPECT_EQ(slow.aborted, 0);
	EXPECT_EQ(slow.rung, EW_RUNG_CLEANUP);
	EXPECT_AT(slow.ended_ns, slow.began_ns + 2 * EW_SECOND);
	return 0;
}

TEST(ending_waits_in_a_cancelled_scope)
{
	EXPECT_EQ(run_virtual(waiting_close, NULL), 0);
}

static int own_budget(void *argument)
{
	struct probe slow = { .name = "slow", .takes_ns = 60 * EW_SECOND };
	int64_t began_ns = ew_now();

	(void)argument;
	{
		GUARD(undo, &slow, .budget_ns = 2 * EW_SECOND);
	}
	EXPECT_EQ(slow.closed, 0);
	EXPECT_EQ(slow.aborted, 1);
	EXPECT_AT(slow.ended_ns, began_ns + 2 * EW_SECOND);
	EXPECT_EQ(ew_ending_error(), -ECANCELED);
	return 0;
}

TEST(ending_beyond_its_own_budget_is_aborted)
{
	EXPECT_EQ(run_virtual(own_budget, NULL), 0);
}

static int default_budget(void *argument)
{
	struct probe slow = { .name = "slow", .takes_ns = 60 * EW_SECOND };
	static struct thing thing;
	int64_t began_ns = ew_now();

	(void)argument;
	{
		GUARD(undo, &slow);
	}
	EXPECT_AT(slow.ended_ns, began_ns + EW_BUDGET_DEFAULT);
	thing.probe.takes_ns = 60 * EW_SECOND;
	thing.type.budget_ns = 3 * EW_SECOND;
	began_ns = ew_now();
	{
		EW_OWN(thing, owned);

		owned = THING_OPEN(&thing, "slow");
	}
	EXPECT_EQ(thing.probe.aborted, 1);
	EXPECT_AT(thing.probe.ended_ns, began_ns + 3 * EW_SECOND);
	return 0;
}

TEST(ending_has_a_default_budget_or_that_of_its_type)
{
	EXPECT_EQ(run_virtual(default_budget, NULL), 0);
}

static int ladder_bounds(void *argument)
{
	struct probe slow = { .name = "slow", .takes_ns = 60 * EW_SECOND };
	int64_t cancelled_ns = 0;

	(void)argument;
	{
		EW_SCOPE(scope, .budget_ns = 3 * EW_SECOND);
		GUARD(undo, &slow);

		ew_scope_cancel(&scope, EW_REASON_REQUESTED);
		cancelled_ns = ew_now();
	}
	EXPECT_EQ(slow.aborted, 1);
	EXPECT_AT(slow.ended_ns, cancelled_ns + 3 * EW_SECOND);
	EXPECT_EQ(ew_yield(), 0);
	return 0;
}

TEST(ending_is_bounded_by_the_ladder_of_its_scope)
{
	EXPECT_EQ(run_virtual(ladder_bounds, NULL), 0);
}

static int reserve_in_task(void *argument)
{
	struct probe older = { .name = "older", .takes_ns = 3 * EW_SECOND / 2 };
	struct probe newer = { .name = "newer", .takes_ns = 60 * EW_SECOND };
	int64_t cancelled_ns = 0;

	(void)argument;
	{
		EW_SCOPE(scope, .budget_ns = 5 * EW_SECOND);
		GUARD(first, &older, .reserve_ns = 2 * EW_SECOND);
		GUARD(second, &newer);

		ew_scope_cancel(&scope, EW_REASON_REQUESTED);
		cancelled_ns = ew_now();
	}
	EXPECT_EQ(newer.aborted, 1);
	EXPECT_AT(newer.ended_ns, cancelled_ns + 3 * EW_SECOND);
	EXPECT_EQ(older.closed, 1);
	return 0;
}

TEST(ending_leaves_the_reserves_of_older_endings)
{
	EXPECT_EQ(run_virtual(reserve_in_task, NULL), 0);
}

/* All the time there is, twice: nothing is left for the newest, and the sum does not wrap around. */
static int endless_reserves(void *argument)
{
	struct probe oldest = { .name = "oldest" }, older = { .name = "older" };
	struct probe newest = { .name = "newest", .takes_ns = EW_SECOND };

	(void)argument;
	{
		EW_SCOPE(scope, .budget_ns = 5 * EW_SECOND);
		GUARD(first, &oldest, .reserve_ns = EW_NEVER);
		GUARD(second, &older, .reserve_ns = EW_NEVER);
		GUARD(third, &newest);

		ew_scope_cancel(&scope, EW_REASON_REQUESTED);
	}
	EXPECT_STR(traced, "abort-newest abort-older close-oldest");
	return 0;
}

TEST(ending_reserves_of_all_time_do_not_wrap_around)
{
	EXPECT_EQ(run_virtual(endless_reserves, NULL), 0);
}

static int reserve_of_place(void *argument)
{
	static struct thing thing;
	struct probe newer = { .name = "newer", .takes_ns = 60 * EW_SECOND };
	int64_t cancelled_ns = 0;

	(void)argument;
	thing.type.reserve_ns = 2 * EW_SECOND;
	thing.probe.takes_ns = EW_SECOND;
	{
		EW_SCOPE(scope, .budget_ns = 5 * EW_SECOND);
		EW_OWN(thing, empty);
		EW_OWN(thing, owned);
		GUARD(undo, &newer);

		owned = THING_OPEN(&thing, "thing");
		ew_scope_cancel(&scope, EW_REASON_REQUESTED);
		cancelled_ns = ew_now();
		EXPECT(empty == NULL);
	}
	EXPECT_AT(newer.ended_ns, cancelled_ns + 3 * EW_SECOND);
	EXPECT_EQ(thing.probe.closed, 1);
	return 0;
}

TEST(ending_leaves_the_reserve_of_a_full_place_only)
{
	EXPECT_EQ(run_virtual(reserve_of_place, NULL), 0);
}

static int disarmed_reserve(void *argument)
{
	struct probe older = { .name = "older" },
		     newer = { .name = "newer", .takes_ns = 60 * EW_SECOND };
	int64_t cancelled_ns = 0;

	(void)argument;
	{
		EW_SCOPE(scope, .budget_ns = 5 * EW_SECOND);
		GUARD(first, &older, .reserve_ns = 2 * EW_SECOND);
		GUARD(second, &newer);

		ew_guard_disarm(&first);
		ew_scope_cancel(&scope, EW_REASON_REQUESTED);
		cancelled_ns = ew_now();
	}
	EXPECT_AT(newer.ended_ns, cancelled_ns + 5 * EW_SECOND);
	return 0;
}

TEST(ending_leaves_no_reserve_for_a_disarmed_guard)
{
	EXPECT_EQ(run_virtual(disarmed_reserve, NULL), 0);
}

static int leaf(void *argument)
{
	GUARD(slow, argument);

	return ew_sleep(3600 * EW_SECOND);
}

static int middle(void *argument)
{
	struct probe *probes = argument;
	GUARD(undo, &probes[1], .reserve_ns = EW_SECOND);
	EW_SCOPE(scope);

	EXPECT_EQ(ew_spawn(&scope, leaf, &probes[2]), 0);
	return ew_scope_join(&scope);
}

static int three_levels(void *argument)
{
	struct probe probes[3] = {
		{ .name = "root", .takes_ns = EW_SECOND },
		{ .name = "middle", .takes_ns = EW_SECOND / 2 },
		{ .name = "leaf", .takes_ns = 60 * EW_SECOND },
	};
	int64_t cancelled_ns = 0;

	(void)argument;
	{
		EW_SCOPE(outer, .budget_ns = 6 * EW_SECOND);
		GUARD(undo, &probes[0], .reserve_ns = 2 * EW_SECOND);
		EW_SCOPE(scope);

		EXPECT_EQ(ew_spawn(&scope, middle, probes), 0);
		EXPECT_EQ(ew_sleep(EW_SECOND), 0);
		ew_scope_cancel(&outer, EW_REASON_REQUESTED);
		cancelled_ns = ew_now();
	}
	EXPECT_AT(probes[2].ended_ns, cancelled_ns + 3 * EW_SECOND);
	EXPECT_STR(traced, "abort-leaf close-middle close-root");
	return 0;
}

/* 6 s, of which 2 are the root's and 1 the middle one's. */
TEST(ending_of_a_leaf_leaves_the_reserves_of_its_ancestors)
{
	EXPECT_EQ(run_virtual(three_levels, NULL), 0);
}

struct nested {
	struct probe older;
	struct probe newer;
};

static int child_of_ending(void *argument)
{
	struct nested *nested = argument;
	GUARD(first, &nested->older, .reserve_ns = 2 * EW_SECOND);
	GUARD(second, &nested->newer);

	return 0;
}

static int close_with_child(void *argument)
{
	EW_SCOPE(scope);

	EXPECT_EQ(ew_spawn(&scope, child_of_ending, argument), 0);
	return ew_scope_finish(&scope, ew_scope_join(&scope));
}

/* The child did not live when the cancel spread; its time is the ending's all the same. */
static int child_spawned_by_ending(void *argument)
{
	struct nested nested = {
		.older = { .name = "older", .takes_ns = EW_SECOND },
		.newer = { .name = "newer", .takes_ns = 60 * EW_SECOND },
	};
	int64_t cancelled_ns = 0;

	(void)argument;
	{
		EW_SCOPE(scope, .budget_ns = 5 * EW_SECOND);
		EW_GUARD(undo, &nested, .close = close_with_child, .abort = probe_abort);

		ew_scope_cancel(&scope, EW_REASON_REQUESTED);
		cancelled_ns = ew_now();
	}
	EXPECT_EQ(nested.newer.aborted, 1);
	EXPECT_AT(nested.newer.ended_ns, cancelled_ns + 3 * EW_SECOND);
	EXPECT_EQ(nested.older.closed, 1);
	return 0;
}

TEST(ending_in_a_child_spawned_by_an_ending_is_bounded_by_the_ladder)
{
	EXPECT_EQ(run_virtual(child_spawned_by_ending, NULL), 0);
}

/* Three scopes inside the shield, and a task between: each of them could be where the bound is lost. */
static int spawn_deeper(void *argument)
{
	EW_SCOPE(scope);
	EW_SCOPE(inner);
	EW_SCOPE(innermost);

	EXPECT_EQ(ew_spawn(&innermost, child_of_ending, argument), 0);
	return ew_scope_finish(&innermost, 0);
}

static int spawn_deep_in_a_shield(void *argument)
{
	struct nested nested = {
		.older = { .name = "older", .takes_ns = EW_SECOND },
		.newer = { .name = "newer", .takes_ns = 60 * EW_SECOND },
	};
	int64_t began_ns = ew_now();

	(void)argument;
	{
		EW_SHIELD(shield, .budget_ns = 5 * EW_SECOND);
		EW_SCOPE(scope);
		EW_SCOPE(inner);
		EW_SCOPE(innermost);

		EXPECT_EQ(ew_spawn(&innermost, spawn_deeper, &nested), 0);
		EXPECT_EQ(ew_scope_join(&innermost), 0);
	}
	EXPECT_EQ(nested.newer.aborted, 1);
	EXPECT_AT(nested.newer.ended_ns, began_ns + 3 * EW_SECOND);
	EXPECT_EQ(nested.older.closed, 1);
	return 0;
}

TEST(ending_of_a_child_deep_in_a_shield_is_bounded_by_its_budget)
{
	EXPECT_EQ(run_virtual(spawn_deep_in_a_shield, NULL), 0);
}

static int cancel_later(void *argument)
{
	int r = ew_sleep(EW_SECOND);

	ew_scope_cancel(argument, EW_REASON_REQUESTED);
	return r;
}

static int later_cancel(void *argument)
{
	struct probe slow = { .name = "slow", .takes_ns = 60 * EW_SECOND };
	int64_t began_ns = ew_now();
	EW_SCOPE(helpers);
	EW_SCOPE(scope, .budget_ns = 2 * EW_SECOND);

	(void)argument;
	EXPECT_EQ(ew_spawn(&helpers, cancel_later, &scope), 0);
	{
		GUARD(undo, &slow, .budget_ns = 8 * EW_SECOND);
	}
	EXPECT_EQ(slow.aborted, 1);
	EXPECT_AT(slow.ended_ns, began_ns + 3 * EW_SECOND);
	return 0;
}

TEST(ending_is_shortened_by_a_later_cancel)
{
	EXPECT_EQ(run_virtual(later_cancel, NULL), 0);
}

static int later_longer_cancel(void *argument)
{
	struct probe slow = { .name = "slow", .takes_ns = 60 * EW_SECOND };
	int64_t began_ns = ew_now();
	EW_SCOPE(helpers);
	EW_SCOPE(scope, .budget_ns = 100 * EW_SECOND);

	(void)argument;
	EXPECT_EQ(ew_spawn(&helpers, cancel_later, &scope), 0);
	{
		GUARD(undo, &slow, .budget_ns = 8 * EW_SECOND);
	}
	EXPECT_AT(slow.ended_ns, began_ns + 8 * EW_SECOND);
	return 0;
}

TEST(ending_is_never_lengthened_by_a_cancel)
{
	EXPECT_EQ(run_virtual(later_longer_cancel, NULL), 0);
}

static int three_slow(void *argument)
{
	struct probe probes[3] = { { .name = "c", .takes_ns = 60 * EW_SECOND },
				   { .name = "b", .takes_ns = 60 * EW_SECOND },
				   { .name = "a", .takes_ns = 60 * EW_SECOND } };
	int64_t cancelled_ns = 0;

	(void)argument;
	{
		EW_SCOPE(scope, .budget_ns = 4 * EW_SECOND);
		GUARD(third, &probes[0]);
		GUARD(second, &probes[1]);
		GUARD(first, &probes[2]);

		ew_scope_cancel(&scope, EW_REASON_REQUESTED);
		cancelled_ns = ew_now();
	}
	EXPECT_STR(traced, "abort-a abort-b abort-c");
	EXPECT_EQ(probes[1].began_ns, 0); /* no time left: its close is not even begun */
	EXPECT_AT(ew_now(), cancelled_ns + 4 * EW_SECOND);
	return 0;
}

TEST(ending_without_time_left_is_aborted_at_once)
{
	EXPECT_EQ(run_virtual(three_slow, NULL), 0);
}

/* What its close does about being forced is its own affair; -ECANCELED alone means "not ended". */
static int close_swallowing(void *argument)
{
	struct probe *probe = argument;

	EXPECT_EQ(ew_sleep(60 * EW_SECOND), -ECANCELED);
	EXPECT_EQ(ew_cancel_rung(), EW_RUNG_FORCE);
	EXPECT_EQ(ew_cancel_reason(), EW_REASON_BUDGET);
	EXPECT_EQ(ew_yield(), -ECANCELED);
	probe->closed++;
	return 0;
}

static int forced_close(void *argument)
{
	struct probe probe = { .name = "guard" };

	(void)argument;
	{
		EW_GUARD(undo, &probe, .close = close_swallowing, .abort = probe_abort,
			 .budget_ns = EW_SECOND);
	}
	EXPECT_EQ(probe.closed, 1);
	EXPECT_EQ(probe.aborted, 0);
	EXPECT_EQ(ew_ending_error(), 0);
	return 0;
}

TEST(ending_forced_is_refused_with_rung_and_reason)
{
	EXPECT_EQ(run_virtual(forced_close, NULL), 0);
}

static int slow_to_end(void *argument)
{
	int i;

	(void)argument;
	for (i = 0; i < 50; i++)
		(void)!ew_yield(); /* refused, and yields */
	trace("child");
	return 0;
}

static int close_with_stubborn_child(void *argument)
{
	EW_SCOPE(scope);

	(void)argument;
	EXPECT_EQ(ew_spawn(&scope, slow_to_end, NULL), 0);
	EXPECT_EQ(ew_sleep(60 * EW_SECOND), -ECANCELED);
	EXPECT_EQ(ew_scope_join(&scope), 0);
	trace("joined");
	return -ECANCELED;
}

static int forced_join(void *argument)
{
	struct probe probe = { .name = "guard" };

	(void)argument;
	{
		EW_GUARD(undo, &probe, .close = close_with_stubborn_child, .abort = probe_abort,
			 .budget_ns = EW_SECOND);
	}
	EXPECT_STR(traced, "child joined abort-guard");
	return 0;
}

TEST(ending_forced_still_joins)
{
	EXPECT_EQ(run_virtual(forced_join, NULL), 0);
}

static int failing_endings(void *argument)
{
	struct probe first = { .name = "first", .fails = -EIO },
		     second = { .name = "second", .fails = -ENOSPC };

	(void)argument;
	EXPECT_EQ(ew_ending_error(), 0);
	{
		GUARD(one, &first);
		GUARD(other, &second);
	}
	EXPECT_EQ(first.aborted + second.aborted, 0); /* failed, and gone all the same */
	EXPECT_EQ(ew_ending_error(), -ENOSPC);
	EXPECT_EQ(ew_ending_error(), 0);
	return 0;
}

TEST(ending_error_keeps_the_first_and_gives_it_once)
{
	EXPECT_EQ(run_virtual(failing_endings, NULL), 0);
	EXPECT(reported("close of one, declared at ", "ending_test.c:"));
	EXPECT(reported("close of other, declared at ", "ending_test.c:"));
	EXPECT(reported("error 28", NULL));
}

static int close_by_name(void *argument)
{
	static struct thing thing;
	EW_OWN(thing, owned);

	(void)argument;
	owned = THING_OPEN(&thing, "thing");
	thing.probe.fails = -EIO;
	EXPECT_EQ(ew_close(&owned), -EIO);
	EXPECT(owned == NULL);
	EXPECT_EQ(ew_close(&owned), 0);
	EXPECT_EQ(ew_ending_error(), 0);
	EXPECT_EQ(thing.probe.closed, 1);
	EXPECT_EQ(thing.probe.aborted, 0);
	return 0;
}

TEST(close_by_name_returns_the_error_and_does_not_keep_it)
{
	EXPECT_EQ(run_virtual(close_by_name, NULL), 0);
	EXPECT_EQ(reports.count, 0);
}

static int close_cancelled(void *argument)
{
	static struct thing thing;
	EW_SCOPE(scope);
	EW_OWN(thing, owned);

	(void)argument;
	owned = THING_OPEN(&thing, "thing");
	thing.probe.takes_ns = EW_SECOND;
	ew_scope_cancel(&scope, EW_REASON_REQUESTED);
	EXPECT_EQ(ew_close(&owned), 0);
	EXPECT_EQ(thing.probe.closed, 1);
	EXPECT_EQ(ew_yield(), -ECANCELED);
	return 0;
}

TEST(close_by_name_is_shielded)
{
	EXPECT_EQ(run_virtual(close_cancelled, NULL), 0);
}

static int close_over_budget(void *argument)
{
	static struct thing thing;
	EW_OWN(thing, owned);

	(void)argument;
	owned = THING_OPEN(&thing, "thing");
	thing.probe.takes_ns = 60 * EW_SECOND;
	thing.type.budget_ns = EW_SECOND;
	EXPECT_EQ(ew_close(&owned), -ECANCELED);
	EXPECT_EQ(thing.probe.aborted, 1);
	return ew_yield();
}

TEST(close_by_name_over_budget_says_that_it_aborted)
{
	EXPECT_EQ(run_virtual(close_over_budget, NULL), 0);
}

static int abort_by_name(void *argument)
{
	static struct thing thing;
	EW_OWN(thing, owned);

	(void)argument;
	owned = THING_OPEN(&thing, "thing");
	ew_abort(&owned);
	EXPECT(owned == NULL);
	ew_abort(&owned);
	EXPECT_EQ(thing.probe.aborted, 1);
	EXPECT_EQ(thing.probe.closed, 0);
	return 0;
}

TEST(abort_by_name_empties_the_place_and_is_idempotent)
{
	EXPECT_EQ(run_virtual(abort_by_name, NULL), 0);
}

static int guards_by_name(void *argument)
{
	struct probe probes[4] = {
		{ .name = "a" }, { .name = "b" }, { .name = "c", .fails = -EIO }, { .name = "d" }
	};

	(void)argument;
	{
		GUARD(a, &probes[0]);
		GUARD(b, &probes[1]);
		GUARD(c, &probes[2]);
		GUARD(d, &probes[3]);

		ew_guard_disarm(&a);
		ew_guard_disarm(&d);
		ew_guard_disarm(&d);
		EXPECT_EQ(ew_guard_run(&c), -EIO);
		EXPECT_EQ(ew_guard_run(&c), 0);
		EXPECT_EQ(ew_guard_run(&a), 0);
	}
	EXPECT_STR(traced, "close-c close-b");
	EXPECT_EQ(ew_ending_error(), 0);
	return 0;
}

TEST(guard_disarmed_or_run_by_name_does_not_run_again)
{
	EXPECT_EQ(run_virtual(guards_by_name, NULL), 0);
}

static int move_out(void *argument)
{
	static struct thing thing;
	struct thing *elsewhere;

	(void)argument;
	{
		EW_OWN(thing, owned);

		owned = THING_OPEN(&thing, "thing");
		elsewhere = owned;
		owned = NULL;
	}
	EXPECT_EQ(thing.probe.closed + thing.probe.aborted, 0);
	EXPECT_EQ(ew_close(&elsewhere), 0);
	return 0;
}

TEST(place_emptied_ends_nothing)
{
	EXPECT_EQ(run_virtual(move_out, NULL), 0);
	EXPECT_EQ(reports.count, 0);
}

static int forgotten_line;
static struct thing forgotten;

static int forget(void *argument)
{
	(void)argument;
	forgotten_line = __LINE__ + 1;
	THING_OPEN(&forgotten, "lamp");
	return 0;
}

TEST(resource_forgotten_is_reported_with_its_line_and_aborted)
{
	char line[64];

	EXPECT_EQ(run_virtual(forget, NULL), 0);
	snprintf(line, sizeof(line), "ending_test.c:%d", forgotten_line);
	EXPECT(reported("lamp", line));
	EXPECT_EQ(forgotten.probe.aborted, 1);
	EXPECT_EQ(forgotten.probe.closed, 0);
}

static int made_line, overwritten_line;

static int overwrite(void *argument)
{
	struct ew_semaphore *semaphore = argument;
	EW_OWN(ew_permit, permit);

	made_line = __LINE__ + 1;
	EXPECT_EQ(ew_semaphore_acquire(semaphore, EW_NEVER, &permit), 0);
	overwritten_line = __LINE__ + 1;
	EXPECT_EQ(ew_semaphore_acquire(semaphore, EW_NEVER, &permit), 0);
	EXPECT_EQ(ew_semaphore_count(semaphore).held, 1);
	EXPECT_EQ(ew_semaphore_try_acquire(semaphore, &permit), 0);
	EXPECT_EQ(ew_semaphore_count(semaphore).held, 1);
	return 0;
}

TEST(place_overwritten_is_reported_with_both_lines_and_aborted)
{
	struct ew_semaphore *semaphore = ew_semaphore_new(2, 0);
	char made[64], overwritten[64];

	EXPECT_EQ(run_virtual(overwrite, semaphore), 0);
	snprintf(made, sizeof(made), "ending_test.c:%d", made_line);
	snprintf(overwritten, sizeof(overwritten), "overwritten at tests/unit/ending_test.c:%d",
		 overwritten_line);
	EXPECT(reported(made, strchr(overwritten, '/') + 6));
	EXPECT_EQ(reports.count, 2);
	EXPECT_EQ(ew_semaphore_count(semaphore).free, 2);
	ew_semaphore_free(semaphore);
}

/* A plain thread waits by blocking: what a block leaves is closed there, too. */
TEST(place_left_outside_a_runtime_is_closed)
{
	static struct thing thing = { .probe.takes_ns = EW_MILLISECOND };
	struct probe probe = { .name = "guard", .takes_ns = EW_MILLISECOND };

	{
		EW_OWN(thing, owned);
		GUARD(undo, &probe);

		owned = THING_OPEN(&thing, "thing");
	}
	EXPECT_STR(traced, "close-guard close-thing");
	EXPECT_EQ(thing.probe.closed, 1);
	EXPECT_EQ(probe.closed, 1);
}

static int borrow(void *argument)
{
	(void)argument;
	(void)!ew_yield();
	return 0;
}

static int lend_wrongly(void *argument)
{
	static struct thing thing;
	EW_SCOPE(scope);
	EW_OWN(thing, owned);

	(void)argument;
	owned = THING_OPEN(&thing, "lamp");
	return ew_spawn(&scope, borrow, owned);
}

TEST(ending_of_what_a_child_of_an_older_scope_borrows_is_reported)
{
	EXPECT_EQ(run_virtual(lend_wrongly, NULL), 0);
	EXPECT(reported("lamp made at", "task borrow"));
}

static int lend(void *argument)
{
	static struct thing thing;
	EW_OWN(thing, owned);
	EW_SCOPE(scope);

	(void)argument;
	owned = THING_OPEN(&thing, "lamp");
	return ew_spawn(&scope, borrow, owned);
}

TEST(ending_of_what_is_declared_above_the_borrowers_scope_is_not_reported)
{
	EXPECT_EQ(run_virtual(lend, NULL), 0);
	EXPECT_EQ(reports.count, 0);
}

static int close_that_opens(void *argument)
{
	struct probe *probes = argument;

	{
		GUARD(inner, &probes[1]);
	}
	return probe_close(&probes[0]);
}

static int nested_endings(void *argument)
{
	struct probe probes[2] = { { .name = "outer" },
				   { .name = "inner", .takes_ns = 60 * EW_SECOND } };
	int64_t began_ns = ew_now();

	(void)argument;
	{
		EW_GUARD(undo, &probes[0], .close = close_that_opens, .abort = probe_abort,
			 .budget_ns = 2 * EW_SECOND);
	}
	EXPECT_AT(probes[1].ended_ns, began_ns + 2 * EW_SECOND);
	EXPECT_STR(traced, "abort-inner close-outer");
	return 0;
}

TEST(ending_inside_an_ending_has_no_more_time_than_that)
{
	EXPECT_EQ(run_virtual(nested_endings, NULL), 0);
}

static int deadline_in_close(void *argument)
{
	EW_SCOPE(scope, .deadline_ns = ew_after(EW_SECOND));

	(void)argument;
	return ew_scope_finish(&scope, ew_sleep(5 * EW_SECOND));
}

static int own_deadline_of_ending(void *argument)
{
	struct probe probe = { .name = "guard" };

	(void)argument;
	{
		EW_GUARD(undo, &probe, .close = deadline_in_close, .abort = probe_abort);
	}
	EXPECT_EQ(probe.aborted, 0); /* a timeout is a failed close, not a cancelled one */
	EXPECT_EQ(ew_ending_error(), -ETIMEDOUT);
	return 0;
}

TEST(ending_that_times_out_by_itself_has_failed_and_is_not_aborted)
{
	EXPECT_EQ(run_virtual(own_deadline_of_ending, NULL), 0);
}

TEST_MAIN()
