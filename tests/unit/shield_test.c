/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Shields: cancels from outside are remembered, those from inside are not held back, and the budget ends it all.
 */

#include "core.h"

#define EXPECT_AT(at_ns, expected_ns)                                                              \
	do {                                                                                       \
		EXPECT((at_ns) >= (expected_ns));                                                  \
		EXPECT((at_ns) <= (expected_ns) + 3 * EW_MILLISECOND);                             \
	} while (0)

static int remembered(void *argument)
{
	EW_SCOPE(scope);

	(void)argument;
	{
		EW_SHIELD(shield, .budget_ns = 10 * EW_SECOND);

		ew_scope_cancel(&scope, EW_REASON_PEER);
		EXPECT_EQ(ew_sleep(EW_SECOND), 0);
		EXPECT(!ew_cancel_requested());
		EXPECT_EQ(ew_cancel_rung(), EW_RUNG_CLEANUP);
		EXPECT_EQ(ew_cancel_reason(), EW_REASON_PEER);
		EXPECT(ew_scope_is_cancelled(&scope));
	}
	EXPECT_EQ(ew_yield(), -ECANCELED);
	EXPECT_EQ(ew_cancel_rung(), EW_RUNG_CANCEL);
	return 0;
}

TEST(shield_remembers_a_cancel_from_outside)
{
	EXPECT_EQ(run_virtual(remembered, NULL), 0);
}

static int before(void *argument)
{
	EW_SCOPE(scope);

	(void)argument;
	ew_scope_cancel(&scope, EW_REASON_REQUESTED);
	EXPECT_EQ(ew_yield(), -ECANCELED);
	{
		EW_SHIELD(shield, .budget_ns = EW_SECOND);

		EXPECT_EQ(ew_yield(), 0);
	}
	EXPECT_EQ(ew_yield(), -ECANCELED);
	return 0;
}

TEST(shield_holds_back_a_cancel_that_came_before)
{
	EXPECT_EQ(run_virtual(before, NULL), 0);
}

static int cancel_soon(void *argument)
{
	int r = ew_sleep(EW_SECOND);

	ew_scope_cancel(argument, EW_REASON_REQUESTED);
	return r;
}

static int sleeping(void *argument)
{
	int64_t began_ns = ew_now();
	EW_SCOPE(helpers);
	EW_SCOPE(scope);

	(void)argument;
	EXPECT_EQ(ew_spawn(&helpers, cancel_soon, &scope), 0);
	{
		EW_SHIELD(shield, .budget_ns = 10 * EW_SECOND);

		EXPECT_EQ(ew_sleep(5 * EW_SECOND), 0);
	}
	EXPECT_AT(ew_now(), began_ns + 5 * EW_SECOND);
	EXPECT_EQ(ew_yield(), -ECANCELED);
	return 0;
}

TEST(shield_keeps_a_wait_alive_through_a_cancel)
{
	EXPECT_EQ(run_virtual(sleeping, NULL), 0);
}

static int budget(void *argument)
{
	int64_t began_ns = ew_now();

	(void)argument;
	{
		EW_SHIELD(shield, .budget_ns = 2 * EW_SECOND);

		EXPECT_EQ(ew_sleep(60 * EW_SECOND), -ECANCELED);
		EXPECT_AT(ew_now(), began_ns + 2 * EW_SECOND);
		EXPECT_EQ(ew_yield(), -ECANCELED);
		EXPECT(ew_cancel_requested());
		EXPECT_EQ(ew_cancel_rung(), EW_RUNG_FORCE);
		EXPECT_EQ(ew_cancel_reason(), EW_REASON_BUDGET);
	}
	EXPECT_EQ(ew_cancel_rung(), EW_RUNG_NONE);
	return ew_yield();
}

TEST(shield_over_budget_is_cancelled_itself)
{
	EXPECT_EQ(run_virtual(budget, NULL), 0);
}

static int nested(void *argument)
{
	int64_t began_ns = ew_now();
	EW_SHIELD(outer, .budget_ns = 2 * EW_SECOND);
	EW_SHIELD(inner, .budget_ns = 50 * EW_SECOND);

	(void)argument;
	EXPECT_EQ(ew_sleep(60 * EW_SECOND), -ECANCELED);
	EXPECT_AT(ew_now(), began_ns + 2 * EW_SECOND);
	return 0;
}

TEST(shield_nested_takes_the_smaller_budget_of_the_outer)
{
	EXPECT_EQ(run_virtual(nested, NULL), 0);
}

static int nested_small(void *argument)
{
	int64_t began_ns = ew_now();
	EW_SHIELD(outer, .budget_ns = 50 * EW_SECOND);

	(void)argument;
	{
		EW_SHIELD(inner, .budget_ns = 2 * EW_SECOND);

		EXPECT_EQ(ew_sleep(60 * EW_SECOND), -ECANCELED);
		EXPECT_AT(ew_now(), began_ns + 2 * EW_SECOND);
	}
	return ew_yield();
}

TEST(shield_nested_over_its_own_budget_leaves_the_outer_alone)
{
	EXPECT_EQ(run_virtual(nested_small, NULL), 0);
}

static int inner_scope(void *argument)
{
	EW_SHIELD(shield, .budget_ns = 10 * EW_SECOND);

	(void)argument;
	{
		EW_SCOPE(scope, .deadline_ns = ew_after(EW_SECOND));

		EXPECT_EQ(ew_scope_finish(&scope, ew_sleep(5 * EW_SECOND)), -ETIMEDOUT);
	}
	{
		EW_SCOPE(scope);

		ew_scope_cancel(&scope, EW_REASON_REQUESTED);
		EXPECT_EQ(ew_yield(), -ECANCELED);
		EXPECT_EQ(ew_cancel_rung(), EW_RUNG_CANCEL);
	}
	return ew_yield();
}

TEST(shield_does_not_hold_back_cancels_of_scopes_inside_it)
{
	EXPECT_EQ(run_virtual(inner_scope, NULL), 0);
}

static int shortened(void *argument)
{
	int64_t began_ns = ew_now();
	EW_SCOPE(helpers);
	EW_SCOPE(scope, .budget_ns = 2 * EW_SECOND);

	(void)argument;
	EXPECT_EQ(ew_spawn(&helpers, cancel_soon, &scope), 0);
	{
		EW_SHIELD(shield, .budget_ns = 50 * EW_SECOND);

		EXPECT_EQ(ew_sleep(60 * EW_SECOND), -ECANCELED);
		EXPECT_AT(ew_now(), began_ns + 3 * EW_SECOND);
		EXPECT_EQ(ew_cancel_rung(), EW_RUNG_FORCE);
	}
	return 0;
}

TEST(shield_is_shortened_by_a_later_cancel_outside)
{
	EXPECT_EQ(run_virtual(shortened, NULL), 0);
}

static int shortened_by_shield_order(void *argument)
{
	int64_t began_ns = ew_now();
	EW_SCOPE(helpers);
	EW_SCOPE(scope, .budget_ns = 2 * EW_SECOND);

	(void)argument;
	EXPECT_EQ(ew_spawn(&helpers, cancel_soon, &scope), 0);
	{
		EW_SHIELD(outer, .budget_ns = 50 * EW_SECOND);
		EW_SHIELD(inner, .budget_ns = 40 * EW_SECOND);

		EXPECT_EQ(ew_sleep(60 * EW_SECOND), -ECANCELED);
		EXPECT_AT(ew_now(), began_ns + 3 * EW_SECOND);
	}
	return 0;
}

TEST(shield_inside_a_shortened_shield_is_shortened_too)
{
	EXPECT_EQ(run_virtual(shortened_by_shield_order, NULL), 0);
}

struct child {
	int result;
	enum ew_rung rung;
};

static int sleeping_child(void *argument)
{
	struct child *child = argument;

	child->result = ew_sleep(3 * EW_SECOND);
	child->rung = ew_cancel_rung();
	return child->result;
}

static int shielded_children(void *argument)
{
	struct child child = { 1, EW_RUNG_NONE };
	EW_SCOPE(scope);

	(void)argument;
	{
		EW_SHIELD(shield, .budget_ns = 10 * EW_SECOND);
		EW_SCOPE(inside);

		EXPECT_EQ(ew_spawn(&inside, sleeping_child, &child), 0);
		EXPECT_EQ(ew_yield(), 0);
		ew_scope_cancel(&scope, EW_REASON_REQUESTED);
		EXPECT_EQ(ew_scope_join(&inside), 0);
	}
	EXPECT_EQ(child.result, 0);
	EXPECT_EQ(child.rung, EW_RUNG_CLEANUP);
	EXPECT_EQ(ew_yield(), -ECANCELED);
	return 0;
}

TEST(shield_covers_the_children_of_scopes_inside_it)
{
	EXPECT_EQ(run_virtual(shielded_children, NULL), 0);
}

static int children_forced(void *argument)
{
	struct child child = { 1, EW_RUNG_NONE };
	int64_t began_ns = ew_now();

	(void)argument;
	{
		EW_SHIELD(shield, .budget_ns = 2 * EW_SECOND);
		EW_SCOPE(inside);

		EXPECT_EQ(ew_spawn(&inside, sleeping_child, &child), 0);
		EXPECT_EQ(ew_scope_join(&inside), -ECANCELED);
	}
	EXPECT_EQ(child.result, -ECANCELED);
	EXPECT_EQ(child.rung, EW_RUNG_FORCE);
	EXPECT_AT(ew_now(), began_ns + 2 * EW_SECOND);
	return 0;
}

TEST(shield_over_budget_forces_the_children_inside_it)
{
	EXPECT_EQ(run_virtual(children_forced, NULL), 0);
}

/* The scope is outside the shield, so its children are, whoever spawned them. */
static int outside_children(void *argument)
{
	struct child child = { 1, EW_RUNG_NONE };
	EW_SCOPE(scope);

	(void)argument;
	{
		EW_SHIELD(shield, .budget_ns = 10 * EW_SECOND);

		EXPECT_EQ(ew_spawn(&scope, sleeping_child, &child), 0);
		EXPECT_EQ(ew_yield(), 0);
		ew_scope_cancel(&scope, EW_REASON_REQUESTED);
		EXPECT_EQ(ew_sleep(EW_SECOND), 0);
	}
	EXPECT_EQ(child.result, -ECANCELED);
	return 0;
}

TEST(shield_does_not_cover_children_of_scopes_outside_it)
{
	EXPECT_EQ(run_virtual(outside_children, NULL), 0);
}

static int spent_ladder(void *argument)
{
	EW_SCOPE(scope, .budget_ns = EW_SECOND);

	(void)argument;
	ew_scope_cancel(&scope, EW_REASON_REQUESTED);
	{
		EW_SHIELD(shield, .budget_ns = 10 * EW_SECOND);

		EXPECT_EQ(ew_sleep(5 * EW_SECOND), -ECANCELED);
	}
	EXPECT_EQ(ew_cancel_rung(), EW_RUNG_FORCE);
	{
		EW_SHIELD(shield, .budget_ns = 10 * EW_SECOND);

		EXPECT_EQ(ew_yield(), -ECANCELED);
		EXPECT_EQ(ew_cancel_rung(), EW_RUNG_FORCE);
	}
	return 0;
}

TEST(shield_under_a_spent_ladder_holds_nothing_back)
{
	EXPECT_EQ(run_virtual(spent_ladder, NULL), 0);
}

struct drop {
	struct probe probe;
	bool resumed;
	bool cleaned;
	bool in_no_drop;
};

static void set_true(bool **flag)
{
	**flag = true;
}

/* Waits shielded until the ladder is spent, then swallows what it is told. */
static int swallow(void *argument)
{
	struct drop *drop = argument;
	bool *cleaned __attribute__((cleanup(set_true), unused)) = &drop->cleaned;
	EW_GUARD(undo, &drop->probe, .close = probe_close, .abort = probe_abort);

	{
		EW_SHIELD(shield, .budget_ns = 60 * EW_SECOND);
		EW_NO_DROP();

		EXPECT_EQ(ew_sleep(50 * EW_SECOND), -ECANCELED);
		EXPECT_EQ(ew_cancel_rung(), EW_RUNG_FORCE);
		EXPECT_EQ(ew_yield(), -ECANCELED);
		drop->in_no_drop = true;
	}
	(void)!ew_yield();
	drop->resumed = true;
	return 0;
}

static int force(struct drop *drop, bool droppable)
{
	EW_SCOPE(scope, .budget_ns = EW_SECOND);

	EXPECT_EQ(ew_spawn(&scope, swallow, drop, .droppable = droppable), 0);
	EXPECT_EQ(ew_yield(), 0);
	ew_scope_cancel(&scope, EW_REASON_REQUESTED);
	return ew_scope_join(&scope);
}

static int force_droppable(void *argument)
{
	return force(argument, true);
}

static int force_other(void *argument)
{
	return force(argument, false);
}

TEST(force_drops_a_droppable_task_where_it_suspends)
{
	struct drop drop = { .probe.name = "guard" };

	EXPECT_EQ(run_virtual(force_droppable, &drop), -ENOTRECOVERABLE);
	EXPECT(!drop.resumed);
	EXPECT_EQ(drop.probe.aborted, 1);
	EXPECT_EQ(drop.probe.closed, 0);
}

TEST(force_skips_plain_cleanup_attributes_of_a_dropped_task)
{
	struct drop drop = { .probe.name = "guard" };

	EXPECT_EQ(run_virtual(force_droppable, &drop), -ENOTRECOVERABLE);
	EXPECT(!drop.cleaned);
}

TEST(force_lets_a_task_that_is_not_droppable_return)
{
	struct drop drop = { .probe.name = "guard" };

	EXPECT_EQ(run_virtual(force_other, &drop), 0);
	EXPECT(drop.resumed);
	EXPECT(drop.cleaned);
	EXPECT_EQ(drop.probe.aborted, 1);
}

TEST(force_does_not_drop_in_a_no_drop_stretch)
{
	struct drop drop = { .probe.name = "guard" };

	EXPECT_EQ(run_virtual(force_droppable, &drop), -ENOTRECOVERABLE);
	EXPECT(drop.in_no_drop);
}

TEST_MAIN()
