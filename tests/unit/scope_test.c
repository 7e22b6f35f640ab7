/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Scopes on one worker: children end before their scope, cancels reach everything inside and nothing else,
 * and stay until the scope is left.
 */

#include "core.h"

static int sleep_long(void *argument)
{
	int r = ew_sleep(3600 * EW_SECOND);

	if (argument)
		*(int *)argument = r;
	return r;
}

static int sleep_for_ever(void *argument)
{
	(void)argument;
	return ew_sleep_until(EW_NEVER);
}

static int count_end(void *argument)
{
	int r = ew_sleep(3600 * EW_SECOND);

	++*(int *)argument;
	return r;
}

static int fail_at(void *argument)
{
	int64_t *at_ns = argument;
	int r = ew_sleep_until(*at_ns);

	return r < 0 ? r : -EIO;
}

/* The child writes into a frame that is gone if the block does not wait. */
static int leave_early(int *ended)
{
	EW_SCOPE(scope);

	EXPECT_EQ(ew_spawn(&scope, count_end, ended), 0);
	EXPECT_EQ(ew_spawn(&scope, count_end, ended), 0);
	EXPECT_EQ(ew_yield(), 0);
	return 7;
}

static int call_leave_early(void *argument)
{
	int ended = 0, r = leave_early(&ended);

	(void)argument;
	EXPECT_EQ(ended, 2);
	EXPECT(ew_now() < 2 * EW_SECOND); /* cancelled, not slept through */
	EXPECT_EQ(ew_yield(), 0);	  /* the cancel stayed inside */
	return r;
}

TEST(scope_left_early_cancels_and_joins_its_children)
{
	EXPECT_EQ(run_virtual(call_leave_early, NULL), 7);
}

static int note_reason(void *argument)
{
	int r = ew_sleep(EW_SECOND);

	*(enum ew_reason *)argument = ew_cancel_reason();
	return r;
}

static int leave_with_reason(void *argument)
{
	EW_SCOPE(scope);

	return ew_spawn(&scope, note_reason, argument);
}

TEST(scope_left_gives_its_children_the_reason_left)
{
	enum ew_reason reason = EW_REASON_NONE;

	EXPECT_EQ(run_virtual(leave_with_reason, &reason), 0);
	EXPECT_EQ(reason, EW_REASON_LEFT);
}

struct stubborn {
	int refused;
	bool ended;
};

/* Ignores cancels for a hundred suspensions. */
static int ignore_cancels(void *argument)
{
	struct stubborn *stubborn = argument;

	while (stubborn->refused < 100)
		if (ew_yield() == -ECANCELED)
			stubborn->refused++;
	stubborn->ended = true;
	return 0;
}

static int leave_stubborn(struct stubborn *stubborn)
{
	EW_SCOPE(scope);

	return ew_spawn(&scope, ignore_cancels, stubborn);
}

static int call_leave_stubborn(void *argument)
{
	struct stubborn *stubborn = argument;

	EXPECT_EQ(leave_stubborn(stubborn), 0);
	EXPECT(stubborn->ended);
	return 0;
}

TEST(scope_left_waits_for_a_child_that_ignores_cancels)
{
	struct stubborn stubborn = { 0 };

	EXPECT_EQ(run_virtual(call_leave_stubborn, &stubborn), 0);
}

static int first_error(void *argument)
{
	int64_t late_ns = ew_after(2 * EW_SECOND), early_ns = ew_after(EW_SECOND);
	int cancelled = 0;
	EW_SCOPE(scope);

	(void)argument;
	EXPECT_EQ(ew_spawn(&scope, fail_at, &late_ns), 0);
	EXPECT_EQ(ew_spawn(&scope, fail_at, &early_ns), 0);
	EXPECT_EQ(ew_spawn(&scope, sleep_long, &cancelled), 0);
	EXPECT_EQ(ew_scope_join(&scope), -EIO);
	EXPECT_EQ(cancelled, -ECANCELED);
	EXPECT_EQ(ew_scope_reason(&scope), EW_REASON_CHILD);
	EXPECT(ew_now() < late_ns);
	EXPECT_EQ(ew_yield(), -ECANCELED); /* the block is inside */
	return ew_scope_finish(&scope, 0);
}

TEST(scope_first_error_of_a_child_cancels_the_rest_and_is_the_result)
{
	EXPECT_EQ(run_virtual(first_error, NULL), -EIO);
}

static int fail_with(void *argument)
{
	return *(int *)argument;
}

/* -EPERM was spawned last and ends last. */
static int completion_order(void *argument)
{
	int one = -ENOSPC, other = -EPERM;
	EW_SCOPE(scope);

	(void)argument;
	EXPECT_EQ(ew_spawn(&scope, fail_with, &one), 0);
	EXPECT_EQ(ew_spawn(&scope, fail_with, &other), 0);
	return ew_scope_finish(&scope, ew_scope_join(&scope));
}

TEST(scope_result_is_the_first_error_in_order_of_completion)
{
	EXPECT_EQ(run_virtual(completion_order, NULL), -ENOSPC);
}

static int independent(void *argument)
{
	int64_t early_ns = ew_after(EW_SECOND);
	int slept = 1;
	EW_SCOPE(scope, .policy = EW_POLICY_INDEPENDENT);

	(void)argument;
	EXPECT_EQ(ew_spawn(&scope, fail_at, &early_ns), 0);
	EXPECT_EQ(ew_spawn(&scope, sleep_long, &slept), 0);
	EXPECT_EQ(ew_scope_join(&scope), 0);
	EXPECT_EQ(slept, 0);
	EXPECT_EQ(ew_scope_reason(&scope), EW_REASON_NONE);
	return ew_scope_finish(&scope, 0);
}

TEST(scope_independent_children_do_not_touch_each_other)
{
	EXPECT_EQ(run_virtual(independent, NULL), 0);
}

/* A child that gives up by itself, in a scope that nobody cancelled, has failed. */
static int own_ecanceled(void *argument)
{
	int error = -ECANCELED;
	EW_SCOPE(scope);

	(void)argument;
	EXPECT_EQ(ew_spawn(&scope, fail_with, &error), 0);
	return ew_scope_finish(&scope, ew_scope_join(&scope));
}

TEST(scope_child_that_returns_ecanceled_uncancelled_is_an_error)
{
	EXPECT_EQ(run_virtual(own_ecanceled, NULL), -ECANCELED);
}

static int sibling_of_own_ecanceled(void *argument)
{
	int error = -ECANCELED, slept = 0;
	EW_SCOPE(scope);

	(void)argument;
	EXPECT_EQ(ew_spawn(&scope, sleep_long, &slept), 0);
	EXPECT_EQ(ew_spawn(&scope, fail_with, &error), 0);
	EXPECT_EQ(ew_scope_join(&scope), -ECANCELED);
	EXPECT_EQ(slept, -ECANCELED);
	EXPECT_EQ(ew_scope_reason(&scope), EW_REASON_CHILD);
	return ew_scope_finish(&scope, 0);
}

TEST(scope_child_that_returns_ecanceled_uncancelled_cancels_its_siblings)
{
	EXPECT_EQ(run_virtual(sibling_of_own_ecanceled, NULL), -ECANCELED);
}

static int positive(void *argument)
{
	int five = 5;
	EW_SCOPE(scope);

	(void)argument;
	EXPECT_EQ(ew_spawn(&scope, fail_with, &five), 0);
	EXPECT_EQ(ew_scope_join(&scope), 0);
	EXPECT_EQ(ew_scope_reason(&scope), EW_REASON_NONE);
	return ew_scope_finish(&scope, 9);
}

TEST(scope_finish_keeps_a_count)
{
	EXPECT_EQ(run_virtual(positive, NULL), 9);
}

static int join_twice(void *argument)
{
	int ended = 0;
	EW_SCOPE(scope);

	(void)argument;
	EXPECT_EQ(ew_scope_join(&scope), 0);
	EXPECT_EQ(ew_spawn(&scope, count_end, &ended), 0);
	EXPECT_EQ(ew_scope_join(&scope), 0);
	EXPECT_EQ(ended, 1);
	EXPECT_EQ(ew_spawn(&scope, count_end, &ended), 0);
	EXPECT_EQ(ew_scope_join(&scope), 0);
	EXPECT_EQ(ended, 2);
	return ew_scope_finish(&scope, 0);
}

TEST(scope_stays_open_after_a_join)
{
	EXPECT_EQ(run_virtual(join_twice, NULL), 0);
}

static int finish_error(void *argument)
{
	int cancelled = 0;
	EW_SCOPE(scope);

	(void)argument;
	EXPECT_EQ(ew_spawn(&scope, sleep_long, &cancelled), 0);
	EXPECT_EQ(ew_scope_finish(&scope, -EBADMSG), -EBADMSG);
	EXPECT_EQ(cancelled, -ECANCELED);
	return ew_yield();
}

TEST(scope_finish_with_an_error_cancels_the_children_and_returns_it)
{
	EXPECT_EQ(run_virtual(finish_error, NULL), 0);
}

static int finish_success(void *argument)
{
	int slept = 1;
	EW_SCOPE(scope);

	(void)argument;
	EXPECT_EQ(ew_spawn(&scope, sleep_long, &slept), 0);
	EXPECT_EQ(ew_scope_finish(&scope, 0), 0);
	EXPECT_EQ(slept, 0);
	return 0;
}

TEST(scope_finish_with_success_lets_the_children_finish)
{
	EXPECT_EQ(run_virtual(finish_success, NULL), 0);
}

static int deadline_block(void)
{
	EW_SCOPE(scope, .deadline_ns = ew_after(EW_SECOND));

	return ew_scope_finish(&scope, ew_sleep(5 * EW_SECOND));
}

static int deadline(void *argument)
{
	int64_t began_ns = ew_now();

	(void)argument;
	EXPECT_EQ(deadline_block(), -ETIMEDOUT);
	EXPECT(ew_now() >= began_ns + EW_SECOND);
	EXPECT(ew_now() < began_ns + 2 * EW_SECOND);
	EXPECT_EQ(ew_yield(), 0);
	return 0;
}

TEST(scope_deadline_of_the_block_comes_out_as_timed_out)
{
	EXPECT_EQ(run_virtual(deadline, NULL), 0);
}

static int deadline_children(void *argument)
{
	int cancelled = 0;
	EW_SCOPE(scope, .deadline_ns = ew_after(EW_SECOND));

	(void)argument;
	EXPECT_EQ(ew_spawn(&scope, sleep_long, &cancelled), 0);
	EXPECT_EQ(ew_scope_join(&scope), -ETIMEDOUT);
	EXPECT_EQ(cancelled, -ECANCELED);
	EXPECT_EQ(ew_scope_reason(&scope), EW_REASON_DEADLINE);
	return ew_scope_finish(&scope, 0);
}

TEST(scope_deadline_of_children_comes_out_as_timed_out)
{
	EXPECT_EQ(run_virtual(deadline_children, NULL), -ETIMEDOUT);
}

static int deadline_met(void *argument)
{
	EW_SCOPE(scope, .deadline_ns = ew_after(EW_SECOND));

	(void)argument;
	return ew_scope_finish(&scope, ew_sleep(EW_SECOND / 2));
}

TEST(scope_deadline_that_is_met_changes_nothing)
{
	EXPECT_EQ(run_virtual(deadline_met, NULL), 0);
}

static int deadline_passed(void *argument)
{
	EW_SCOPE(scope, .deadline_ns = 1);

	(void)argument;
	EXPECT_EQ(ew_scope_reason(&scope), EW_REASON_DEADLINE);
	return ew_scope_finish(&scope, ew_yield());
}

TEST(scope_opened_after_its_deadline_is_cancelled)
{
	EXPECT_EQ(run_virtual(deadline_passed, NULL), -ETIMEDOUT);
}

/* The outer one's cancel is no timeout of the inner one. */
static int outer_cancel(void *argument)
{
	EW_SCOPE(outer);
	EW_SCOPE(inner, .deadline_ns = ew_after(EW_SECOND));
	int r;

	(void)argument;
	ew_scope_cancel(&outer, EW_REASON_PEER);
	r = ew_scope_finish(&inner, ew_yield());
	EXPECT_EQ(r, -ECANCELED);
	return ew_scope_finish(&outer, 0);
}

TEST(scope_finish_passes_an_outer_cancel_as_ecanceled)
{
	EXPECT_EQ(run_virtual(outer_cancel, NULL), 0);
}

static int sleep_stubbornly(void *argument)
{
	EW_SHIELD(shield, .budget_ns = 10 * EW_SECOND);

	EXPECT_EQ(ew_sleep(*(int64_t *)argument), 0);
	return -ECANCELED;
}

/* How a scope with a deadline after a second comes out when one around it is cancelled at @cancel_at_ns. */
static int outer_cancel_and_own_deadline(int64_t cancel_at_ns)
{
	int64_t takes_ns = 3 * EW_SECOND;
	EW_SCOPE(outer, .deadline_ns = ew_after(cancel_at_ns));
	EW_SCOPE(inner, .deadline_ns = ew_after(EW_SECOND));

	EXPECT_EQ(ew_spawn(&inner, sleep_stubbornly, &takes_ns), 0);
	return ew_scope_finish(&inner, ew_scope_join(&inner));
}

/* Children that take their time see both pass; what counts is which came first. */
static int outer_cancels_and_own_deadlines(void *argument)
{
	(void)argument;
	EXPECT_EQ(outer_cancel_and_own_deadline(EW_SECOND / 2), -ECANCELED);
	EXPECT_EQ(outer_cancel_and_own_deadline(2 * EW_SECOND), -ETIMEDOUT);
	EXPECT_EQ(outer_cancel_and_own_deadline(EW_SECOND), -ETIMEDOUT);
	return 0;
}

TEST(scope_deadline_that_passes_after_an_outer_cancel_is_no_timeout)
{
	EXPECT_EQ(run_virtual(outer_cancels_and_own_deadlines, NULL), 0);
}

/* The shield holds the outer cancel back: what ends the inner scope is its own deadline. */
static int outer_cancel_behind_a_shield(void *argument)
{
	EW_SCOPE(outer);

	(void)argument;
	ew_scope_cancel(&outer, EW_REASON_REQUESTED);
	{
		EW_SHIELD(shield, .budget_ns = 10 * EW_SECOND);
		EW_SCOPE(inner, .deadline_ns = ew_after(EW_SECOND));

		EXPECT_EQ(ew_scope_finish(&inner, ew_sleep(5 * EW_SECOND)), -ETIMEDOUT);
	}
	return ew_scope_finish(&outer, 0);
}

TEST(scope_deadline_behind_a_shield_is_a_timeout_whatever_is_cancelled_beyond)
{
	EXPECT_EQ(run_virtual(outer_cancel_behind_a_shield, NULL), 0);
}

static int nesting(void *argument)
{
	EW_SCOPE(outer);

	(void)argument;
	{
		EW_SCOPE(inner);

		ew_scope_cancel(&inner, EW_REASON_REQUESTED);
		EXPECT_EQ(ew_yield(), -ECANCELED);
		EXPECT(ew_scope_is_cancelled(&inner));
		EXPECT(!ew_scope_is_cancelled(&outer));
	}
	EXPECT_EQ(ew_yield(), 0);
	ew_scope_cancel(&outer, EW_REASON_REQUESTED);
	{
		EW_SCOPE(inner);

		EXPECT(ew_scope_is_cancelled(&inner));
		EXPECT_EQ(ew_scope_reason(&inner), EW_REASON_NONE);
		EXPECT_EQ(ew_yield(), -ECANCELED);
	}
	EXPECT_EQ(ew_yield(), -ECANCELED);
	return 0;
}

TEST(scope_cancel_reaches_inwards_only)
{
	EXPECT_EQ(run_virtual(nesting, NULL), 0);
}

static int grandchild(void *argument)
{
	return sleep_long(argument);
}

static int parent_of_sleeper(void *argument)
{
	EW_SCOPE(scope);

	EXPECT_EQ(ew_spawn(&scope, grandchild, argument), 0);
	return ew_scope_finish(&scope, ew_scope_join(&scope));
}

static int three_generations(void *argument)
{
	int cancelled = 0;
	EW_SCOPE(scope);

	(void)argument;
	EXPECT_EQ(ew_spawn(&scope, parent_of_sleeper, &cancelled), 0);
	EXPECT_EQ(ew_sleep(EW_SECOND), 0);
	ew_scope_cancel(&scope, EW_REASON_REQUESTED);
	EXPECT_EQ(ew_scope_finish(&scope, 0), -ECANCELED);
	EXPECT_EQ(cancelled, -ECANCELED);
	EXPECT(ew_now() < 5 * EW_SECOND);
	return 0;
}

TEST(scope_cancel_reaches_grandchildren_in_joins)
{
	EXPECT_EQ(run_virtual(three_generations, NULL), 0);
}

static int every_call_refused(void *argument)
{
	struct ew_semaphore *semaphore = ew_semaphore_new(1, 1);
	struct ew_event set = { .set = true };
	struct ew_permit *permit = NULL;
	int i;

	(void)argument;
	{
		EW_SCOPE(scope);

		ew_scope_cancel(&scope, EW_REASON_REQUESTED);
		for (i = 0; i < 3; i++) {
			EXPECT_EQ(ew_yield(), -ECANCELED);
			EXPECT_EQ(ew_sleep(1), -ECANCELED);
			EXPECT_EQ(ew_sleep_until(1), -ECANCELED);
			EXPECT_EQ(ew_event_wait(&set, EW_NEVER), -ECANCELED);
			EXPECT_EQ(ew_semaphore_acquire(semaphore, EW_NEVER, &permit), -ECANCELED);
			EXPECT(permit == NULL);
			EXPECT_EQ(ew_outcome(), EW_OUTCOME_NONE);
		}
		EXPECT_EQ(ew_scope_join(&scope), 0); /* nobody to wait for */
	}
	EXPECT_EQ(ew_event_wait(&set, EW_NEVER), 0);
	ew_semaphore_free(semaphore);
	return 0;
}

/* Also those that would not have to wait. */
TEST(cancel_refuses_every_suspending_call_until_the_scope_is_left)
{
	EXPECT_EQ(run_virtual(every_call_refused, NULL), 0);
}

static int count_turns(void *argument)
{
	int *turns = argument;

	while (*turns < 10) {
		++*turns;
		if (ew_yield() < 0)
			return -EIO;
	}
	return 0;
}

static int spin_refused(void *argument)
{
	int turns = 0, refusals = 0;
	EW_SCOPE(outer);

	(void)argument;
	EXPECT_EQ(ew_spawn(&outer, count_turns, &turns), 0);
	{
		EW_SCOPE(inner);

		ew_scope_cancel(&inner, EW_REASON_REQUESTED);
		while (turns < 10) {
			EXPECT_EQ(ew_sleep(EW_SECOND), -ECANCELED);
			EXPECT(++refusals < 100);
		}
	}
	return ew_scope_finish(&outer, 0);
}

TEST(cancel_refused_loop_lets_other_tasks_run)
{
	EXPECT_EQ(run_virtual(spin_refused, NULL), 0);
}

static void *set_from_thread(void *argument)
{
	ew_event_set(argument);
	return NULL;
}

static int wait_for_event(void *argument)
{
	return ew_event_wait(argument, EW_NEVER);
}

/* The event is a message to this worker: it comes only if the refused loop lets the scheduler run. */
static int spin_refused_until_message(void *argument)
{
	struct ew_event event = { 0 };
	pthread_t thread;
	EW_SCOPE(outer);

	(void)argument;
	EXPECT_EQ(ew_spawn(&outer, wait_for_event, &event), 0);
	EXPECT_EQ(ew_yield(), 0);
	EXPECT_EQ(pthread_create(&thread, NULL, set_from_thread, &event), 0);
	{
		EW_SCOPE(inner);

		ew_scope_cancel(&inner, EW_REASON_REQUESTED);
		while (ew_scope_children_count(&outer))
			EXPECT_EQ(ew_yield(), -ECANCELED);
	}
	EXPECT_EQ(pthread_join(thread, NULL), 0);
	return ew_scope_finish(&outer, 0);
}

TEST(cancel_refused_loop_lets_messages_come)
{
	EXPECT_EQ(run_virtual(spin_refused_until_message, NULL), 0);
}

static void *cancel_from_thread(void *argument)
{
	ew_scope_cancel(argument, EW_REASON_PEER);
	return NULL;
}

static int compute_until_cancelled(void *argument)
{
	pthread_t thread;
	EW_SCOPE(scope);

	(void)argument;
	EXPECT(!ew_cancel_requested());
	EXPECT_EQ(pthread_create(&thread, NULL, cancel_from_thread, &scope), 0);
	while (!ew_cancel_requested())
		;
	EXPECT_EQ(ew_cancel_reason(), EW_REASON_PEER);
	EXPECT_EQ(ew_scope_finish(&scope, 0), 0);
	EXPECT_EQ(pthread_join(thread, NULL), 0);
	return 0;
}

/* The task never suspends, so the cancel is not delivered; the loop ends all the same. */
TEST(cancel_requested_sees_another_threads_cancel)
{
	EXPECT_EQ(run_workers(1, compute_until_cancelled, NULL), 0);
}

static int compute_until_deadline(void *argument)
{
	EW_SCOPE(outer, .deadline_ns = ew_after(5 * EW_MILLISECOND * ew_test_scale()));
	EW_SCOPE(scope);

	(void)argument;
	while (!ew_cancel_requested())
		;
	EXPECT_EQ(ew_scope_reason(&outer), EW_REASON_NONE); /* the timer had no chance yet */
	return 0;
}

TEST(cancel_requested_sees_a_passed_deadline)
{
	EXPECT_EQ(run_workers(1, compute_until_deadline, NULL), 0);
}

static int reasons(void *argument)
{
	EW_SCOPE(scope);

	(void)argument;
	EXPECT_EQ(ew_cancel_reason(), EW_REASON_NONE);
	ew_scope_cancel(&scope, EW_REASON_PEER);
	ew_scope_cancel(&scope, EW_REASON_SHUTDOWN);
	EXPECT_EQ(ew_scope_reason(&scope), EW_REASON_PEER);
	EXPECT_EQ(ew_cancel_reason(), EW_REASON_PEER);
	EXPECT_EQ(ew_cancel_rung(), EW_RUNG_CANCEL);
	return 0;
}

TEST(cancel_keeps_its_first_reason)
{
	EXPECT_EQ(run_virtual(reasons, NULL), 0);
}

TEST(reason_has_a_name)
{
	EXPECT_STR(ew_reason_name(EW_REASON_NONE), "none");
	EXPECT_STR(ew_reason_name(EW_REASON_BUDGET), "budget");
	EXPECT_STR(ew_reason_name((enum ew_reason)99), "unknown");
	EXPECT_STR(ew_reason_name((enum ew_reason) - 1), "unknown");
}

static int sleep_second(void *argument)
{
	(void)argument;
	return ew_sleep(EW_SECOND);
}

static int close_in_time(void *argument)
{
	EW_SCOPE(scope);

	(void)argument;
	EXPECT_EQ(ew_spawn(&scope, sleep_second, NULL), 0);
	EXPECT_EQ(ew_scope_close(&scope, ew_after(2 * EW_SECOND), EW_REASON_SHUTDOWN), 0);
	EXPECT_EQ(ew_scope_reason(&scope), EW_REASON_NONE);
	return ew_yield();
}

TEST(scope_close_lets_children_finish_in_their_grace)
{
	EXPECT_EQ(run_virtual(close_in_time, NULL), 0);
}

static int close_too_late(void *argument)
{
	int cancelled = 0;
	int64_t began_ns = ew_now();
	EW_SCOPE(scope);

	(void)argument;
	EXPECT_EQ(ew_spawn(&scope, sleep_long, &cancelled), 0);
	EXPECT_EQ(ew_scope_close(&scope, ew_after(2 * EW_SECOND), EW_REASON_SHUTDOWN), -ETIMEDOUT);
	EXPECT_EQ(cancelled, -ECANCELED);
	EXPECT_EQ(ew_scope_reason(&scope), EW_REASON_SHUTDOWN);
	EXPECT(ew_now() >= began_ns + 2 * EW_SECOND);
	return ew_yield();
}

TEST(scope_close_cancels_children_after_their_grace)
{
	EXPECT_EQ(run_virtual(close_too_late, NULL), 0);
}

static int close_now(void *argument)
{
	int cancelled = 0;
	EW_SCOPE(scope);

	(void)argument;
	EXPECT_EQ(ew_spawn(&scope, sleep_long, &cancelled), 0);
	EXPECT_EQ(ew_scope_close(&scope, EW_NOW, EW_REASON_REQUESTED), -ETIMEDOUT);
	EXPECT_EQ(cancelled, -ECANCELED);
	return 0;
}

TEST(scope_close_now_cancels_at_once)
{
	EXPECT_EQ(run_virtual(close_now, NULL), 0);
}

static int close_with_failing_child(void *argument)
{
	int64_t at_ns = ew_after(EW_SECOND);
	EW_SCOPE(scope);

	(void)argument;
	EXPECT_EQ(ew_spawn(&scope, fail_at, &at_ns), 0);
	return ew_scope_close(&scope, EW_NEVER, EW_REASON_SHUTDOWN);
}

TEST(scope_close_returns_a_childs_error)
{
	EXPECT_EQ(run_virtual(close_with_failing_child, NULL), -EIO);
}

static int closing_task(void *argument)
{
	int *result = argument, cancelled = 0;
	EW_SCOPE(scope);

	EXPECT_EQ(ew_spawn(&scope, sleep_long, &cancelled), 0);
	*result = ew_scope_close(&scope, EW_NEVER, EW_REASON_SHUTDOWN);
	EXPECT_EQ(cancelled, -ECANCELED);
	return -ECANCELED;
}

static int close_cancelled(void *argument)
{
	int result = 0;
	EW_SCOPE(scope);

	(void)argument;
	EXPECT_EQ(ew_spawn(&scope, closing_task, &result), 0);
	EXPECT_EQ(ew_sleep(EW_SECOND), 0);
	ew_scope_cancel(&scope, EW_REASON_REQUESTED);
	EXPECT_EQ(ew_scope_join(&scope), -ECANCELED);
	EXPECT_EQ(result, -ECANCELED);
	EXPECT(ew_now() < 5 * EW_SECOND);
	return 0;
}

TEST(scope_close_cancelled_ends_the_grace)
{
	EXPECT_EQ(run_virtual(close_cancelled, NULL), 0);
}

static int close_nothing(void *argument)
{
	(void)argument;
	return ew_scope_close(NULL, EW_NEVER, EW_REASON_SHUTDOWN);
}

TEST(scope_close_of_null_is_a_no_op)
{
	EXPECT_EQ(run_virtual(close_nothing, NULL), 0);
}

struct token_wait {
	struct ew_scope *scope;
	int64_t deadline_ns;
	int result;
};

static int wait_for_token(void *argument)
{
	struct token_wait *wait = argument;

	wait->result = ew_scope_wait_cancel(wait->scope, wait->deadline_ns);
	return 0;
}

static int token_cancelled(void *argument)
{
	EW_SCOPE(watchers);
	EW_SCOPE(outer);
	EW_SCOPE(inner);
	struct token_wait waits[2] = { { &inner, EW_NEVER, 1 }, { &outer, EW_NEVER, 1 } };

	(void)argument;
	EXPECT(!ew_scope_is_cancelled(&inner));
	EXPECT_EQ(ew_spawn(&watchers, wait_for_token, &waits[0]), 0);
	EXPECT_EQ(ew_spawn(&watchers, wait_for_token, &waits[1]), 0);
	EXPECT_EQ(ew_yield(), 0);
	ew_scope_cancel(&outer, EW_REASON_REQUESTED);
	EXPECT(ew_scope_is_cancelled(&inner));
	EXPECT_EQ(ew_scope_wait_cancel(&inner, EW_NEVER),
		  -ECANCELED); /* the block is inside itself */
	while (ew_scope_children_count(&watchers))
		EXPECT_EQ(ew_yield(), -ECANCELED);
	EXPECT_EQ(waits[0].result, 0);
	EXPECT_EQ(waits[1].result, 0);
	return 0;
}

TEST(token_wait_ends_by_the_cancel_of_the_scope_or_one_around_it)
{
	EXPECT_EQ(run_virtual(token_cancelled, NULL), 0);
}

static int token_times_out(void *argument)
{
	EW_SCOPE(scope);

	(void)argument;
	EXPECT_EQ(ew_scope_wait_cancel(&scope, ew_after(EW_SECOND)), -ETIMEDOUT);
	EXPECT_EQ(ew_scope_wait_cancel(&scope, EW_NOW), -ETIMEDOUT);
	return 0;
}

TEST(token_wait_times_out)
{
	EXPECT_EQ(run_virtual(token_times_out, NULL), 0);
}

static int token_waiter_cancelled(void *argument)
{
	EW_SCOPE(token);
	EW_SCOPE(watchers);
	struct token_wait wait = { &token, EW_NEVER, 1 };

	(void)argument;
	EXPECT_EQ(ew_spawn(&watchers, wait_for_token, &wait), 0);
	EXPECT_EQ(ew_yield(), 0);
	ew_scope_cancel(&watchers, EW_REASON_REQUESTED);
	EXPECT_EQ(ew_scope_join(&watchers), 0);
	EXPECT_EQ(wait.result, -ECANCELED);
	EXPECT(!ew_scope_is_cancelled(&token));
	return 0;
}

TEST(token_wait_ends_by_the_waiters_own_cancel)
{
	EXPECT_EQ(run_virtual(token_waiter_cancelled, NULL), 0);
}

static int token_already(void *argument)
{
	EW_SCOPE(watchers);
	EW_SCOPE(token);
	struct token_wait wait = { &token, EW_NEVER, 1 };

	(void)argument;
	ew_scope_cancel(&token, EW_REASON_REQUESTED);
	EXPECT_EQ(ew_spawn(&watchers, wait_for_token, &wait), 0);
	while (ew_scope_children_count(&watchers))
		EXPECT_EQ(ew_yield(), -ECANCELED);
	EXPECT_EQ(wait.result, 0);
	return 0;
}

TEST(token_wait_for_a_cancelled_scope_returns_at_once)
{
	EXPECT_EQ(run_virtual(token_already, NULL), 0);
}

static int deadline_in_grandchild(void *argument)
{
	(void)argument;
	return deadline_block();
}

static int deadline_does_not_leak(void *argument)
{
	int slept = 1;
	EW_SCOPE(scope, .policy = EW_POLICY_INDEPENDENT);

	(void)argument;
	EXPECT_EQ(ew_spawn(&scope, deadline_in_grandchild, NULL), 0);
	EXPECT_EQ(ew_spawn(&scope, sleep_long, &slept), 0);
	EXPECT_EQ(ew_scope_join(&scope), 0);
	EXPECT_EQ(slept, 0);
	return ew_scope_finish(&scope, 0);
}

TEST(scope_deadline_of_one_child_does_not_touch_its_siblings)
{
	EXPECT_EQ(run_virtual(deadline_does_not_leak, NULL), 0);
}

static int spawn_from_child(void *argument)
{
	struct token_wait *into = argument;

	return ew_spawn(into->scope, wait_for_token, into);
}

static int yield_once(void *argument)
{
	(void)argument;
	return ew_yield();
}

static int yield_and_spawn(void *argument)
{
	int r = ew_yield();

	return r < 0 ? r : spawn_from_child(argument);
}

/* A child may spawn siblings; the join waits for them too. */
static int sibling_spawn(void *argument)
{
	EW_SCOPE(scope);
	struct token_wait wait = { &scope, 0, 1 };

	(void)argument;
	wait.deadline_ns = ew_after(EW_SECOND);
	EXPECT_EQ(ew_spawn(&scope, spawn_from_child, &wait), 0);
	EXPECT_EQ(ew_scope_join(&scope), 0);
	EXPECT_EQ(wait.result, -ETIMEDOUT);
	return 0;
}

TEST(scope_join_waits_for_children_that_children_spawned)
{
	EXPECT_EQ(run_virtual(sibling_spawn, NULL), 0);
}

static int join_anothers(void *argument)
{
	return ew_scope_join(argument);
}

static int join_by_two(void *argument)
{
	EW_SCOPE(helpers);
	EW_SCOPE(scope);

	(void)argument;
	EXPECT_EQ(ew_spawn(&scope, sleep_long, NULL), 0);
	EXPECT_EQ(ew_spawn(&helpers, join_anothers, &scope), 0);
	return ew_scope_join(&scope);
}

static void process_join_by_two(void)
{
	alarm(10);
	(void)!run_virtual(join_by_two, NULL);
}

/* There is one place for whoever waits: the second one would take it from the first, who then waited for ever. */
TEST(scope_joined_by_another_task_is_a_bug_that_ends_the_process)
{
	struct ended ended = run_process(process_join_by_two);

	EXPECT(WIFSIGNALED(ended.status) && WTERMSIG(ended.status) == SIGABRT);
	EXPECT(strstr(ended.text, "join_anothers"));
}

static int close_without_reason(void *argument)
{
	EW_SCOPE(scope);

	(void)argument;
	EXPECT_EQ(ew_spawn(&scope, sleep_for_ever, NULL), 0);
	return ew_scope_close(&scope, EW_NOW, EW_REASON_NONE);
}

static void process_close_without_reason(void)
{
	alarm(10);
	(void)!run_virtual(close_without_reason, NULL);
}

/* A cancel without a reason would be none, and the wait for the children would not end. */
TEST(scope_close_without_a_reason_is_a_bug_that_ends_the_process)
{
	struct ended ended = run_process(process_close_without_reason);

	EXPECT(WIFSIGNALED(ended.status) && WTERMSIG(ended.status) == SIGABRT);
	EXPECT(strstr(ended.text, "reason != EW_REASON_NONE"));
}

static int cancel_after_the_end(void *argument)
{
	int r;

	EW_SCOPE(scope);

	(void)argument;
	r = ew_scope_finish(&scope, 0);
	ew_scope_cancel(&scope, EW_REASON_REQUESTED);
	return r;
}

static void process_cancel_after_the_end(void)
{
	(void)!run_virtual(cancel_after_the_end, NULL);
}

TEST(scope_cancelled_after_its_end_is_a_bug_that_ends_the_process)
{
	struct ended ended = run_process(process_cancel_after_the_end);

	EXPECT(WIFSIGNALED(ended.status) && WTERMSIG(ended.status) == SIGABRT);
	EXPECT(strstr(ended.text, "assertion failed") && strstr(ended.text, "scope->open"));
}

static int close_beyond_own_deadline(void *argument)
{
	int cancelled = 0;
	EW_SCOPE(scope, .deadline_ns = ew_after(EW_SECOND));

	(void)argument;
	EXPECT_EQ(ew_spawn(&scope, sleep_long, &cancelled), 0);
	EXPECT_EQ(ew_scope_close(&scope, EW_NEVER, EW_REASON_SHUTDOWN), -ETIMEDOUT);
	EXPECT_EQ(cancelled, -ECANCELED);
	EXPECT_EQ(ew_scope_reason(&scope), EW_REASON_DEADLINE);
	return ew_yield();
}

TEST(scope_close_with_a_deadline_of_the_scope_comes_out_as_timed_out)
{
	EXPECT_EQ(run_virtual(close_beyond_own_deadline, NULL), 0);
}

/* The last child has ended and the joiner is ready; before it runs, somebody else spawns one more. */
static int join_and_one_more(void *argument)
{
	EW_SCOPE(others);
	EW_SCOPE(scope);
	struct token_wait wait = { &scope, 0, 1 };

	(void)argument;
	wait.deadline_ns = ew_after(EW_SECOND);
	EXPECT_EQ(ew_spawn(&scope, yield_once, NULL), 0);
	EXPECT_EQ(ew_spawn(&others, yield_and_spawn, &wait), 0);
	EXPECT_EQ(ew_scope_join(&scope), 0);
	EXPECT_EQ(wait.result, -ETIMEDOUT);
	return 0;
}

TEST(scope_join_waits_for_a_child_that_came_when_all_had_ended)
{
	EXPECT_EQ(run_virtual(join_and_one_more, NULL), 0);
}

/* The grace ends in the same look at the clock in which the only child becomes ready. */
static int close_in_time_and_too_late(void *argument)
{
	EW_SCOPE(scope);

	(void)argument;
	EXPECT_EQ(ew_spawn(&scope, sleep_second, NULL), 0);
	EXPECT_EQ(ew_yield(), 0);
	EXPECT_EQ(ew_scope_close(&scope, ew_after(EW_SECOND), EW_REASON_SHUTDOWN), 0);
	return ew_yield();
}

TEST(scope_close_whose_grace_ends_as_the_last_child_does)
{
	EXPECT_EQ(run_virtual(close_in_time_and_too_late, NULL), 0);
}

static int note_turn(void *argument)
{
	*(bool *)argument = true;
	return 0;
}

static int join_again_and_again(void *argument)
{
	bool had_turn = false;
	int i;
	EW_SCOPE(helpers);
	EW_SCOPE(scope);

	(void)argument;
	ew_scope_cancel(&scope, EW_REASON_REQUESTED);
	EXPECT_EQ(ew_spawn(&helpers, note_turn, &had_turn), 0);
	for (i = 0; i < 1000 && !had_turn; i++)
		(void)!ew_scope_join(&scope);
	EXPECT(had_turn);
	had_turn = false;
	EXPECT_EQ(ew_spawn(&helpers, note_turn, &had_turn), 0);
	for (i = 0; i < 1000 && !had_turn; i++) {
		EW_SCOPE(inner);

		(void)!ew_scope_finish(&inner, 0);
	}
	EXPECT(had_turn);
	return 0;
}

/* Joins are not refused, but a supervisor that starts and joins without looking is such a loop, too. */
TEST(cancel_joining_loop_lets_other_tasks_run)
{
	EXPECT_EQ(run_virtual(join_again_and_again, NULL), 0);
}

static int open_with_deadline_now(void *argument)
{
	EW_SCOPE(scope, .deadline_ns = EW_NOW);

	(void)argument;
	EXPECT_EQ(ew_scope_reason(&scope), EW_REASON_DEADLINE);
	return ew_scope_finish(&scope, ew_yield());
}

TEST(scope_with_the_deadline_now_is_cancelled_from_the_start)
{
	EXPECT_EQ(run_virtual(open_with_deadline_now, NULL), -ETIMEDOUT);
}

TEST_MAIN()
