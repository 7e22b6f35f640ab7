/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Panics: one task ends where it stands, its registry runs, and everybody else goes on.
 */

#include "core.h"

#define GUARD(name_, probe_, ...)                                                                  \
	EW_GUARD(name_, probe_, .close = probe_close, .abort = probe_abort, ##__VA_ARGS__)

static int spawn_and_join(ew_task_fn *fn, void *argument)
{
	EW_SCOPE(scope);

	EXPECT_EQ(ew_spawn(&scope, fn, argument), 0);
	return ew_scope_finish(&scope, ew_scope_join(&scope));
}

static __attribute__((noinline)) void panic_deep(int depth)
{
	struct probe probe = { .name = "frame" };
	GUARD(undo, &probe);

	if (depth == 2)
		ew_panic("at the bottom, %d", 42);
	if (depth < 10)
		panic_deep(depth + 1);
}

static int panicking(void *argument)
{
	struct probe probe = { .name = "task", .takes_ns = EW_SECOND };
	GUARD(undo, &probe);

	(void)argument;
	panic_deep(0);
	return 0;
}

static int panic_in_body(void *argument)
{
	EW_SCOPE(scope);

	EXPECT_EQ(ew_spawn(&scope, panicking, argument), 0);
	return ew_scope_finish(&scope, ew_scope_join(&scope));
}

/* Frames are still there: each guard's argument lies in one. */
TEST(panic_runs_the_registry_of_all_frames)
{
	EXPECT_EQ(run_virtual(panic_in_body, NULL), -ENOTRECOVERABLE);
	EXPECT_STR(traced, "close-frame close-frame close-frame close-task");
}

TEST(panic_is_reported_with_task_line_and_text)
{
	EXPECT_EQ(run_virtual(panic_in_body, NULL), -ENOTRECOVERABLE);
	EXPECT(reported("panicking", "at the bottom, 42"));
	EXPECT(reported("panic_test.c:", "at the bottom, 42"));
}

static int panic_main(void *argument)
{
	(void)argument;
	ew_panic("main");
}

TEST(panic_of_the_main_task_is_the_runs_result)
{
	EXPECT_EQ(run_virtual(panic_main, NULL), -ENOTRECOVERABLE);
}

static int panic_in_close(void *argument)
{
	struct probe older = { .name = "older" }, bad = { .name = "bad", .panics = true },
		     newer = { .name = "newer" };
	GUARD(first, &older);
	GUARD(second, &bad);
	GUARD(third, &newer);

	(void)argument;
	return 0;
}

static int call_panic_in_close(void *argument)
{
	return spawn_and_join(panic_in_close, argument);
}

TEST(panic_in_a_close_aborts_that_one_and_the_older_go_on)
{
	EXPECT_EQ(run_virtual(call_panic_in_close, NULL), -ENOTRECOVERABLE);
	EXPECT_STR(traced, "close-newer abort-bad close-older");
}

static int close_with_inner(void *argument)
{
	struct probe inner = { .name = "inner" };
	GUARD(undo, &inner);

	(void)argument;
	ew_panic("behind a guard of its own");
}

static int panic_in_close_with_inner(void *argument)
{
	struct probe older = { .name = "older" }, bad = { .name = "bad" };
	GUARD(first, &older);
	EW_GUARD(second, &bad, .close = close_with_inner, .abort = probe_abort);

	(void)argument;
	return 0;
}

static int call_panic_in_close_with_inner(void *argument)
{
	return spawn_and_join(panic_in_close_with_inner, argument);
}

TEST(panic_in_a_close_ends_first_what_the_close_declared)
{
	EXPECT_EQ(run_virtual(call_panic_in_close_with_inner, NULL), -ENOTRECOVERABLE);
	EXPECT_STR(traced, "close-inner abort-bad close-older");
}

static int close_with_bad_inner(void *argument)
{
	struct probe inner = { .name = "inner", .panics = true };

	(void)argument;
	{
		GUARD(undo, &inner);
	}
	trace("not-reached");
	return 0;
}

static int panic_in_nested_close(void *argument)
{
	struct probe older = { .name = "older" }, outer = { .name = "outer" };
	GUARD(first, &older);
	EW_GUARD(second, &outer, .close = close_with_bad_inner, .abort = probe_abort);

	(void)argument;
	return 0;
}

static int call_panic_in_nested_close(void *argument)
{
	return spawn_and_join(panic_in_nested_close, argument);
}

TEST(panic_in_a_nested_close_aborts_both_and_the_older_go_on)
{
	EXPECT_EQ(run_virtual(call_panic_in_nested_close, NULL), -ENOTRECOVERABLE);
	EXPECT_STR(traced, "abort-inner abort-outer close-older");
}

static int panic_then_panic_in_close(void *argument)
{
	struct probe older = { .name = "older" }, bad = { .name = "bad", .panics = true };
	GUARD(first, &older);
	GUARD(second, &bad);

	(void)argument;
	ew_panic("first");
}

static int call_panic_then_panic(void *argument)
{
	return spawn_and_join(panic_then_panic_in_close, argument);
}

TEST(panic_while_ending_after_a_panic_goes_on_with_the_older)
{
	EXPECT_EQ(run_virtual(call_panic_then_panic, NULL), -ENOTRECOVERABLE);
	EXPECT_STR(traced, "abort-bad close-older");
	EXPECT(reported("first", NULL));
	EXPECT(reported("in the close of bad", NULL));
}

static int panic_in_place_close(void *argument)
{
	static struct thing thing;
	struct probe older = { .name = "older" };
	GUARD(first, &older);
	EW_OWN(thing, owned);

	(void)argument;
	owned = THING_OPEN(&thing, "thing");
	thing.probe.panics = true;
	(void)!ew_close(&owned);
	trace("not-reached");
	return 0;
}

static int call_panic_in_place_close(void *argument)
{
	return spawn_and_join(panic_in_place_close, argument);
}

TEST(panic_in_a_close_by_name_aborts_the_resource)
{
	EXPECT_EQ(run_virtual(call_panic_in_place_close, NULL), -ENOTRECOVERABLE);
	EXPECT_STR(traced, "abort-thing close-older");
	EXPECT(!reported("no owner", NULL));
}

static int trace_end(void *argument)
{
	int r = ew_sleep(3600 * EW_SECOND);

	trace("%s", (const char *)argument);
	return r;
}

static int panic_with_children(void *argument)
{
	struct probe older = { .name = "older" };
	GUARD(undo, &older);
	EW_SCOPE(scope);

	(void)argument;
	EXPECT_EQ(ew_spawn(&scope, trace_end, "one"), 0);
	EXPECT_EQ(ew_spawn(&scope, trace_end, "two"), 0);
	EXPECT_EQ(ew_yield(), 0);
	ew_panic("with children");
}

static int call_panic_with_children(void *argument)
{
	int64_t began_ns = ew_now();
	int r = spawn_and_join(panic_with_children, argument);

	EXPECT(ew_now() < began_ns + EW_SECOND);
	return r;
}

TEST(panic_with_children_cancels_and_joins_them_before_older_endings)
{
	EXPECT_EQ(run_virtual(call_panic_with_children, NULL), -ENOTRECOVERABLE);
	EXPECT(!strcmp(traced, "one two close-older") || !strcmp(traced, "two one close-older"));
}

static int panic_in_shield(void *argument)
{
	struct probe older = { .name = "older" };
	GUARD(undo, &older);
	EW_SHIELD(shield, .budget_ns = EW_SECOND);

	(void)argument;
	ew_panic("in a shield");
}

static int call_panic_in_shield(void *argument)
{
	int r = spawn_and_join(panic_in_shield, argument);

	EXPECT_EQ(ew_sleep(10 * EW_SECOND), 0); /* the shield's timer is gone */
	return r;
}

TEST(panic_in_a_shield_leaves_it)
{
	EXPECT_EQ(run_virtual(call_panic_in_shield, NULL), -ENOTRECOVERABLE);
	EXPECT_STR(traced, "close-older");
}

static int panic_at_once(void *argument)
{
	(void)argument;
	ew_panic("at once");
}

static int sleep_briefly(void *argument)
{
	*(int *)argument = ew_sleep(EW_SECOND);
	return 0;
}

static int siblings(void *argument)
{
	int slept = 1;
	EW_SCOPE(scope, .policy = EW_POLICY_INDEPENDENT);

	(void)argument;
	EXPECT_EQ(ew_spawn(&scope, sleep_briefly, &slept), 0);
	EXPECT_EQ(ew_spawn(&scope, panic_at_once, NULL), 0);
	EXPECT_EQ(ew_scope_join(&scope), 0);
	EXPECT_EQ(slept, 0);
	return ew_scope_finish(&scope, 0);
}

TEST(panic_does_not_touch_independent_siblings)
{
	EXPECT_EQ(run_virtual(siblings, NULL), 0);
}

static int dependent_siblings(void *argument)
{
	int slept = 1;
	EW_SCOPE(scope);

	(void)argument;
	EXPECT_EQ(ew_spawn(&scope, sleep_briefly, &slept), 0);
	EXPECT_EQ(ew_spawn(&scope, panic_at_once, NULL), 0);
	EXPECT_EQ(ew_scope_join(&scope), -ENOTRECOVERABLE);
	EXPECT_EQ(slept, -ECANCELED);
	return 0;
}

TEST(panic_cancels_the_siblings_under_the_default_policy)
{
	EXPECT_EQ(run_virtual(dependent_siblings, NULL), 0);
}

static int panic_with_taken(void *argument, void *place)
{
	(void)argument;
	EXPECT(*(void **)place != NULL);
	ew_panic("with a resource taken");
}

static int call_panic_with_taken(void *argument)
{
	struct thing *thing = argument;
	EW_SCOPE(scope);
	EW_OWN(thing, owned);

	owned = THING_OPEN(thing, "thing");
	EXPECT_EQ(ew_spawn_take(&scope, panic_with_taken, NULL, &owned), 0);
	EXPECT_EQ(ew_scope_join(&scope), -ENOTRECOVERABLE);
	EXPECT_EQ(thing->probe.closed, 1);
	return 0;
}

TEST(panic_ends_a_resource_that_the_task_was_given)
{
	struct thing thing = { 0 };

	EXPECT_EQ(run_virtual(call_panic_with_taken, &thing), 0);
}

static int panic_cancelled(void *argument)
{
	struct probe *probe = argument;
	GUARD(undo, probe);

	(void)!ew_sleep(60 * EW_SECOND);
	ew_panic("after a cancel");
}

static int panic_under_ladder(void *argument)
{
	struct probe probe = { .name = "slow", .takes_ns = 60 * EW_SECOND };
	int64_t cancelled_ns;
	EW_SCOPE(scope, .budget_ns = 2 * EW_SECOND);

	(void)argument;
	EXPECT_EQ(ew_spawn(&scope, panic_cancelled, &probe), 0);
	EXPECT_EQ(ew_yield(), 0);
	ew_scope_cancel(&scope, EW_REASON_REQUESTED);
	cancelled_ns = ew_now();
	EXPECT_EQ(ew_scope_join(&scope), -ENOTRECOVERABLE);
	EXPECT_EQ(probe.aborted, 1);
	EXPECT(probe.ended_ns >= cancelled_ns + 2 * EW_SECOND);
	EXPECT(probe.ended_ns < cancelled_ns + 3 * EW_SECOND);
	return 0;
}

TEST(panic_does_not_lengthen_the_ladder)
{
	EXPECT_EQ(run_virtual(panic_under_ladder, NULL), 0);
}

/* The stack of a task that panicked serves the next ones. */
static int panic_often(void *argument)
{
	int i, slept;
	EW_SCOPE(scope, .policy = EW_POLICY_INDEPENDENT);

	(void)argument;
	for (i = 0; i < 1000; i++) {
		EXPECT_EQ(ew_spawn(&scope, panic_at_once, NULL), 0);
		EXPECT_EQ(ew_spawn(&scope, sleep_briefly, &slept), 0);
		EXPECT_EQ(ew_scope_join(&scope), 0);
		EXPECT_EQ(slept, 0);
	}
	return ew_scope_finish(&scope, 0);
}

TEST(panic_a_thousand_times_leaves_nothing)
{
	EXPECT_EQ(run_virtual(panic_often, NULL), 0);
}

static int panic_in_no_drop(void *argument)
{
	EW_NO_DROP();

	(void)argument;
	ew_panic("while foreign code is on the stack");
}

static void process_no_drop(void)
{
	struct ew_run_options options = { .workers_count = 1 };

	(void)!ew_run(&options, panic_in_no_drop, NULL);
}

TEST(panic_in_a_no_drop_stretch_ends_the_process_with_a_report)
{
	struct ended ended = run_process(process_no_drop);

	EXPECT(WIFSIGNALED(ended.status) && WTERMSIG(ended.status) == SIGABRT);
	EXPECT(strstr(ended.text, "EW_NO_DROP"));
	EXPECT(strstr(ended.text, "while foreign code is on the stack"));
}

static int no_drop_left(void *argument)
{
	(void)argument;
	{
		EW_NO_DROP();
	}
	ew_panic("after the stretch");
}

static int call_no_drop_left(void *argument)
{
	return spawn_and_join(no_drop_left, argument);
}

TEST(panic_after_a_no_drop_stretch_ends_only_the_task)
{
	EXPECT_EQ(run_virtual(call_no_drop_left, NULL), -ENOTRECOVERABLE);
}

static void panicking_abort(void *argument)
{
	(void)argument;
	ew_panic("in an abort");
}

static int panic_in_abort(void *argument)
{
	static struct thing thing;
	struct thing *owned = THING_OPEN(&thing, "thing");

	(void)argument;
	thing.type.abort = panicking_abort;
	ew_abort(&owned);
	return 0;
}

static void process_panic_in_abort(void)
{
	struct ew_run_options options = { .workers_count = 1 };

	(void)!ew_run(&options, panic_in_abort, NULL);
}

TEST(panic_in_an_abort_ends_the_process)
{
	struct ended ended = run_process(process_panic_in_abort);

	EXPECT(WIFSIGNALED(ended.status) && WTERMSIG(ended.status) == SIGABRT);
	EXPECT(strstr(ended.text, "in an abort"));
}

static void process_panic_outside(void)
{
	ew_panic("no task here");
}

TEST(panic_outside_a_task_ends_the_process)
{
	struct ended ended = run_process(process_panic_outside);

	EXPECT(WIFSIGNALED(ended.status) && WTERMSIG(ended.status) == SIGABRT);
	EXPECT(strstr(ended.text, "no task here"));
}

static int assert_wrong(void *argument)
{
	ew_assert(argument != NULL);
	return 0;
}

static void process_assert(void)
{
	struct ew_run_options options = { .workers_count = 1 };

	(void)!ew_run(&options, assert_wrong, NULL);
}

TEST(assert_failed_names_condition_and_task)
{
	struct ended ended = run_process(process_assert);

	EXPECT(WIFSIGNALED(ended.status) && WTERMSIG(ended.status) == SIGABRT);
	EXPECT(strstr(ended.text, "argument != NULL"));
	EXPECT(strstr(ended.text, "panic_test.c"));
}

static int check_wrong(void *argument)
{
	struct probe probe = { .name = "guard" };
	GUARD(undo, &probe);

	ew_check(1 + 1 == 2);
	ew_check(argument != NULL);
	return 0;
}

static int call_check_wrong(void *argument)
{
	int slept = 1;
	EW_SCOPE(scope, .policy = EW_POLICY_INDEPENDENT);

	EXPECT_EQ(ew_spawn(&scope, sleep_briefly, &slept), 0);
	EXPECT_EQ(ew_spawn(&scope, check_wrong, argument), 0);
	EXPECT_EQ(ew_scope_join(&scope), 0);
	EXPECT_EQ(slept, 0);
	return 0;
}

TEST(check_failed_ends_the_task_only)
{
	EXPECT_EQ(run_virtual(call_check_wrong, NULL), 0);
	EXPECT_STR(traced, "close-guard");
	EXPECT(reported("task check_wrong", "panic_test.c:"));
	EXPECT(reported("task check_wrong", "argument != NULL"));
}

static void panicking_handler(int number)
{
	/* NOLINTNEXTLINE(bugprone-signal-handler): that it is wrong is what is tested */
	ew_panic("signal %d", number);
}

static int raise_a_signal(void *argument)
{
	(void)argument;
	signal(SIGUSR1, panicking_handler);
	raise(SIGUSR1);
	return 0;
}

static void process_panic_in_handler(void)
{
	struct ew_run_options options = { .workers_count = 1 };

	(void)!ew_run(&options, raise_a_signal, NULL);
}

static void process_panic_in_handler_outside(void)
{
	(void)raise_a_signal(NULL);
}

TEST(panic_in_a_signal_handler_ends_the_process_with_a_report)
{
	struct ended ended = run_process(process_panic_in_handler);

	EXPECT(WIFSIGNALED(ended.status) && WTERMSIG(ended.status) == SIGABRT);
	EXPECT(strstr(ended.text,
		      "panic in a signal handler, which interrupted main task: signal "));
	ended = run_process(process_panic_in_handler_outside);
	EXPECT(WIFSIGNALED(ended.status) && WTERMSIG(ended.status) == SIGABRT);
	EXPECT(strstr(ended.text, "panic in a signal handler, which interrupted no task: signal "));
}

static int one_of_a_thousand(void *argument)
{
	unsigned *woken = argument;
	unsigned number = (*woken)++;
	struct probe probe = { .name = "one" };
	GUARD(undo, &probe);
	int r = ew_sleep(EW_SECOND);

	if (number == 500)
		ew_panic("number %u", number);
	ew_guard_disarm(&undo);
	*woken += 1000;
	return r;
}

static int a_thousand(void *argument)
{
	unsigned woken = 0, i;
	EW_SCOPE(scope, .policy = EW_POLICY_INDEPENDENT);

	(void)argument;
	for (i = 0; i < 1000; i++)
		EXPECT_EQ(ew_spawn(&scope, one_of_a_thousand, &woken), 0);
	EXPECT_EQ(ew_scope_join(&scope), 0);
	EXPECT_EQ(woken, 1000 + 999 * 1000);
	return 0;
}

TEST(panic_in_one_of_a_thousand_tasks_ends_that_one)
{
	EXPECT_EQ(run_virtual(a_thousand, NULL), 0);
	EXPECT_STR(traced, "close-one");
	EXPECT_EQ(reports.count, 1);
}

static __attribute__((noinline)) void hold(int depth)
{
	EW_NO_DROP();

	if (depth == 256)
		ew_panic("that deep");
	if (depth < 300)
		hold(depth + 1);
}

static int hold_deep(void *argument)
{
	(void)argument;
	hold(1);
	return 0;
}

static void process_hold_deep(void)
{
	struct ew_run_options options = { .workers_count = 1 };

	(void)!ew_run(&options, hold_deep, NULL);
}

/* A parser's callbacks may nest: the count of stretches holds as many as a stack does. */
TEST(panic_in_256_nested_no_drop_stretches_ends_the_process)
{
	struct ended ended = run_process(process_hold_deep);

	EXPECT(WIFSIGNALED(ended.status) && WTERMSIG(ended.status) == SIGABRT);
	EXPECT(strstr(ended.text, "that deep"));
}

static int end_slowly(void *argument)
{
	GUARD(slow, argument, .budget_ns = 3600 * EW_SECOND);

	return ew_sleep_until(EW_NEVER);
}

static int panic_main_with_a_child(void *argument)
{
	EW_SCOPE(scope);

	EXPECT_EQ(ew_spawn(&scope, end_slowly, argument), 0);
	EXPECT_EQ(ew_yield(), 0);
	ew_panic("main");
}

/* The run's budget counts from the panic, not from when everything has ended. */
TEST(panic_of_the_main_task_forces_within_the_runs_budget)
{
	struct ew_run_options options = { .workers_count = 1,
					  .virtual_time = true,
					  .report = note_report,
					  .shutdown_budget_ns = 10 * EW_SECOND };
	struct probe probe = { .name = "slow", .takes_ns = 1000 * EW_SECOND };

	EXPECT_EQ(ew_run(&options, panic_main_with_a_child, &probe), -ENOTRECOVERABLE);
	EXPECT_EQ(probe.closed, 0);
	EXPECT_EQ(probe.aborted, 1);
	EXPECT(probe.ended_ns - probe.began_ns >= 9 * EW_SECOND);
	EXPECT(probe.ended_ns - probe.began_ns <= 10 * EW_SECOND);
}

TEST_MAIN()
