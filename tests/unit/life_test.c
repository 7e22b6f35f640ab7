/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Lives: one task after another on the same stack, and what the one before leaves to the next: nothing. That the stack is
 * the same is seen by the task's address.
 */

#include "core.h"
#include "task/worker.h"

static int rounds(int plain)
{
	return RUNNING_ON_VALGRIND ? plain / 50 + 2 : SANITIZED ? plain / 4 + 2 : plain;
}

static int nothing(void *argument)
{
	(void)argument;
	return 0;
}

/* Spawns and joins: a macro, so that the task has its function's name. */
#define LIVE(fn_, argument_)                                                                       \
	({                                                                                         \
		EW_SCOPE(life, .policy = EW_POLICY_INDEPENDENT);                                   \
		EXPECT_EQ(ew_spawn(&life, fn_, argument_), 0);                                     \
		ew_scope_finish(&life, ew_scope_join(&life));                                      \
	})

/* A life that ends cancelled and forced, with an ending that failed and refusals in a row. */
static int untidy(void *argument)
{
	struct probe probe = { .name = "undo", .fails = -EIO };

	while (ew_cancel_rung() != EW_RUNG_FORCE)
		EXPECT_EQ(ew_sleep(EW_SECOND), -ECANCELED);
	EXPECT_EQ(ew_cancel_reason(), EW_REASON_REQUESTED);
	ew__task()->outcome = EW_OUTCOME_UNKNOWN;
	*(struct ew_task **)argument = ew__task();
	EW_GUARD(undo, &probe, .close = probe_close, .abort = probe_abort);
	return 0;
}

static int tidy(void *argument)
{
	EXPECT(ew__task() == *(struct ew_task **)argument);
	EXPECT_STR(ew_task_name(), "tidy");
	EXPECT_EQ(ew_ending_error(), 0);
	EXPECT_EQ(ew_outcome(), EW_OUTCOME_NONE);
	EXPECT_EQ(ew_cancel_rung(), EW_RUNG_NONE);
	EXPECT_EQ(ew_cancel_reason(), EW_REASON_NONE);
	EXPECT(!ew_cancel_requested());
	EXPECT_EQ(ew_yield(), 0);
	return ew_sleep(EW_SECOND);
}

/* The ladder has ended: an ending of the next life has its own budget. */
static int end_in_time(void *argument)
{
	struct probe probe = { .name = "undo", .takes_ns = 5 * EW_SECOND };

	EXPECT(ew__task() == *(struct ew_task **)argument);
	{
		EW_GUARD(undo, &probe, .close = probe_close, .abort = probe_abort);
	}
	EXPECT_EQ(probe.closed, 1);
	return 0;
}

static int live_untidily(void *argument)
{
	struct ew_task *task = NULL;

	(void)argument;
	{
		EW_SCOPE(scope, .budget_ns = 1);

		EXPECT_EQ(ew_spawn(&scope, untidy, &task, .droppable = false), 0);
		ew_scope_cancel(&scope, EW_REASON_REQUESTED);
		EXPECT_EQ(ew_scope_finish(&scope, 0), 0);
	}
	EXPECT(task != NULL);
	EXPECT_EQ(LIVE(tidy, &task), 0);
	return LIVE(end_in_time, &task);
}

TEST(life_begins_with_nothing_of_the_one_before)
{
	EXPECT_EQ(run_virtual(live_untidily, NULL), 0);
}

/* Ends where it stands, some frames deep. */
static __attribute__((noinline)) int end_here(struct ew_task **ret_task, bool by_force, int depth)
{
	volatile char frame[512];

	frame[0] = 1;
	if (depth)
		return end_here(ret_task, by_force, depth - 1) + frame[0];
	*ret_task = ew__task();
	if (!by_force)
		ew_panic("here");
	while (ew_cancel_rung() != EW_RUNG_FORCE)
		EXPECT_EQ(ew_sleep(3600 * EW_SECOND), -ECANCELED);
	EXPECT_EQ(ew_yield(), 0); /* nobody comes back */
	return 0;
}

static int end_by_panic(void *argument)
{
	return end_here(argument, false, 5);
}

static int end_by_force(void *argument)
{
	return end_here(argument, true, 5);
}

static int force(void *argument)
{
	EW_SCOPE(scope, .policy = EW_POLICY_INDEPENDENT, .budget_ns = EW_SECOND);

	EXPECT_EQ(ew_spawn(&scope, end_by_force, argument, .droppable = true), 0);
	EXPECT_EQ(ew_yield(), 0);
	ew_scope_cancel(&scope, EW_REASON_REQUESTED);
	(void)!ew_scope_join(&scope);
	return 0;
}

/* Is not droppable, whatever the life before was, and uses the frames in which that one ended. */
static int refuse_to_be_dropped(void *argument)
{
	volatile char frame[4000];

	EXPECT(ew__task() == *(struct ew_task **)argument);
	frame[0] = 1;
	EXPECT_EQ(ew_yield(), 0);
	EXPECT_EQ(ew_sleep(3600 * EW_SECOND), -ECANCELED);
	while (ew_cancel_rung() != EW_RUNG_FORCE)
		(void)!ew_yield();
	EXPECT_EQ(ew_yield(), -ECANCELED);
	EXPECT_EQ(frame[0], 1);
	return 7;
}

static int live_forced(struct ew_task *task)
{
	EW_SCOPE(scope, .budget_ns = EW_SECOND);

	EXPECT_EQ(ew_spawn(&scope, refuse_to_be_dropped, &task), 0);
	EXPECT_EQ(ew_sleep(EW_SECOND), 0);
	ew_scope_cancel(&scope, EW_REASON_REQUESTED);
	return ew_scope_join(&scope);
}

static int live_after_drops(void *argument)
{
	struct ew_task *task = NULL;
	int i;

	(void)argument;
	for (i = 0; i < rounds(200); i++) {
		task = NULL;
		if (i % 2)
			EXPECT_EQ(LIVE(end_by_panic, &task), 0);
		else
			EXPECT_EQ(force(&task), 0);
		EXPECT(task != NULL);
		EXPECT_EQ(live_forced(task), 0);
		EXPECT_EQ(LIVE(end_in_time, &task), 0);
	}
	return 0;
}

TEST(life_after_one_that_was_dropped_begins_as_all_do)
{
	EXPECT_EQ(run_virtual(live_after_drops, NULL), 0);
}

static int close_taken(void *argument, void *place)
{
	struct thing *thing = argument;

	EXPECT(*(struct thing **)place == thing);
	EXPECT_EQ(ew_close(place), 0);
	return 0;
}

static int keep_taken(void *argument, void *place)
{
	(void)place;
	if (argument)
		ew_panic("with what it has taken");
	return 0;
}

static int count(void *argument)
{
	++*(int *)argument;
	return 0;
}

static int take_and_not(void *argument)
{
	struct thing thing = { 0 };
	int i, counted = 0;

	(void)argument;
	for (i = 0; i < 6; i++) {
		EW_OWN(thing, owned);
		EW_SCOPE(scope, .policy = EW_POLICY_INDEPENDENT);

		owned = THING_OPEN(&thing, "thing");
		EXPECT_EQ(ew_spawn_take(&scope, i % 3 ? keep_taken : close_taken,
					i % 3 == 1 ? NULL : &thing, &owned),
			  0);
		EXPECT_EQ(ew_scope_join(&scope), 0);
		EXPECT_EQ(thing.probe.closed, 1);
		EXPECT_EQ(ew_spawn(&scope, count, &counted), 0);
		EXPECT_EQ(ew_scope_join(&scope), 0);
		EXPECT_EQ(counted, i + 1);
		EXPECT_EQ(thing.probe.closed, 1);
	}
	return 0;
}

TEST(life_after_one_that_took_owns_nothing)
{
	EXPECT_EQ(run_virtual(take_and_not, NULL), 0);
}

/* ---- between workers ---- */

struct travels {
	unsigned from, to;
	int rounds;
};

static int be_there(void *argument)
{
	struct travels *travels = argument;

	EXPECT_EQ(ew_worker(), travels->to);
	EXPECT_EQ(ew_yield(), 0);
	EXPECT_EQ(ew_worker(), travels->to);
	return 0;
}

static int panic_there(void *argument)
{
	EXPECT_EQ(be_there(argument), 0);
	ew_panic("there");
}

static int be_here(void *argument)
{
	struct travels *travels = argument;

	EXPECT_EQ(ew_yield(), 0);
	EXPECT_EQ(ew_worker(), travels->from);
	return 0;
}

static int travel(void *argument)
{
	struct travels *travels = argument;
	int i;
	EW_SCOPE(scope, .policy = EW_POLICY_INDEPENDENT);

	for (i = 0; i < travels->rounds; i++) {
		EXPECT_EQ(ew_spawn(&scope, i % 3 ? be_there : panic_there, travels,
				   .worker = travels->to),
			  0);
		EXPECT_EQ(ew_spawn(&scope, be_here, travels), 0);
		EXPECT_EQ(ew_scope_join(&scope), 0);
	}
	return ew_scope_finish(&scope, 0);
}

static int travel_both_ways(void *argument)
{
	struct travels there = { .from = 1, .to = 2, .rounds = rounds(1000) };
	struct travels back = { .from = 2, .to = 1, .rounds = rounds(1000) };
	EW_SCOPE(scope);

	(void)argument;
	EXPECT_EQ(ew_spawn(&scope, travel, &there), 0);
	EXPECT_EQ(ew_spawn(&scope, travel, &back, .worker = 2), 0);
	return ew_scope_finish(&scope, ew_scope_join(&scope));
}

/* A stack stays where its task ended, and comes back when a task is spawned from there: it sees both threads. */
TEST(lives_of_one_stack_may_be_on_several_workers)
{
	EXPECT_EQ(run_workers(2, travel_both_ways, NULL), 0);
}

/* ---- who is named ---- */

static int never_end(void *argument)
{
	while (!argument)
		(void)!ew_yield();
	return 0;
}

static int get_stuck(void *argument)
{
	int i;
	EW_SCOPE(scope);

	(void)argument;
	for (i = 0; i < 40; i++)
		EXPECT_EQ(ew_spawn(&scope, nothing, NULL), 0);
	EXPECT_EQ(ew_scope_join(&scope), 0);
	EXPECT_EQ(ew_spawn(&scope, never_end, NULL), 0);
	ew_shutdown();
	return ew_scope_join(&scope);
}

static void stuck_process(void)
{
	struct ew_run_options options = { .workers_count = 1,
					  .exit_when_stuck = true,
					  .shutdown_budget_ns = 300 * EW_MILLISECOND };

	(void)!ew_run(&options, get_stuck, NULL);
}

TEST(shutdown_that_does_not_end_names_none_that_have_ended)
{
	struct ended ended = run_process(stuck_process);

	EXPECT(WIFEXITED(ended.status));
	EXPECT_EQ(WEXITSTATUS(ended.status), 70);
	EXPECT(strstr(ended.text, "task never_end ("));
	EXPECT(strstr(ended.text, "children of a scope"));
	EXPECT(!strstr(ended.text, "task nothing ("));
	EXPECT(!strstr(ended.text, "tasks more"));
}

static __attribute__((noinline)) int recurse(int depth)
{
	volatile char page[2048];
	int below;

	page[0] = (char)depth;
	below = depth ? recurse(depth - 1) : 0;
	return below + (page[0] != (char)depth);
}

static int overflow(void *argument)
{
	(void)argument;
	return recurse(1000000);
}

static int overflow_later(void *argument)
{
	struct ew_task *task = NULL;

	(void)argument;
	EXPECT_EQ(LIVE(nothing, NULL), 0);
	EXPECT_EQ(LIVE(end_by_panic, &task), 0);
	return LIVE(overflow, NULL);
}

static void overflow_process(void)
{
	signal(SIGSEGV, SIG_DFL);
	(void)!run_virtual(overflow_later, NULL);
}

TEST(task_that_overflows_a_used_stack_is_the_one_named)
{
	struct ended ended;

	if (SANITIZED || RUNNING_ON_VALGRIND)
		SKIP("the sanitizer reports overflows itself");
	ended = run_process(overflow_process);
	EXPECT(WIFSIGNALED(ended.status) && WTERMSIG(ended.status) == SIGSEGV);
	EXPECT(strstr(ended.text, "stack overflow in task overflow, spawned at "));
}

TEST_MAIN()
