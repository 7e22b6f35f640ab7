/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Tasks: spawn, take, yield, sleep, and what is refused where there is no task.
 */

#include "core.h"
#include "task/kernel.h"

static int add_one(void *argument)
{
	++*(int *)argument;
	return 0;
}

static int spawn_one(void *argument)
{
	EW_SCOPE(scope);
	int r;

	r = ew_spawn(&scope, add_one, argument);
	EXPECT_EQ(r, 0);
	EXPECT_EQ(*(int *)argument, 0); /* a spawn does not switch */
	return ew_scope_finish(&scope, ew_scope_join(&scope));
}

TEST(spawn_runs_its_task_by_the_join)
{
	int count = 0;

	EXPECT_EQ(run_virtual(spawn_one, &count), 0);
	EXPECT_EQ(count, 1);
}

static int yielder(void *argument)
{
	const char *name = argument;
	int i, r;

	for (i = 0; i < 3; i++) {
		trace("%s%d", name, i);
		r = ew_yield();
		if (r < 0)
			return r;
	}
	return 0;
}

static int three_yielders(void *argument)
{
	EW_SCOPE(scope);

	(void)argument;
	EXPECT_EQ(ew_spawn(&scope, yielder, "a"), 0);
	EXPECT_EQ(ew_spawn(&scope, yielder, "b"), 0);
	EXPECT_EQ(ew_spawn(&scope, yielder, "c"), 0);
	return ew_scope_finish(&scope, ew_scope_join(&scope));
}

TEST(yield_lets_every_other_task_run_first)
{
	EXPECT_EQ(run_virtual(three_yielders, NULL), 0);
	EXPECT_STR(traced, "a0 b0 c0 a1 b1 c1 a2 b2 c2");
}

static int fibonacci(void *argument)
{
	double *ret_value = argument, a = 0, b = 1, next, step = *ret_value;
	int i;

	for (i = 0; i < 40; i++) {
		if (ew_yield() < 0)
			return -EIO;
		next = a + b;
		a = b;
		b = next * (1 + step * 0);
	}
	*ret_value = a + step;
	return 0;
}

static int many_fibonaccis(void *argument)
{
	double *values = argument;
	int i;
	EW_SCOPE(scope);

	for (i = 0; i < 16; i++)
		EXPECT_EQ(ew_spawn(&scope, fibonacci, &values[i]), 0);
	return ew_scope_finish(&scope, ew_scope_join(&scope));
}

/* Locals in registers, also floating point, of tasks that switch all the time. */
TEST(switch_preserves_locals)
{
	double values[16];
	int i;

	for (i = 0; i < 16; i++)
		values[i] = i;
	EXPECT_EQ(run_virtual(many_fibonaccis, values), 0);
	for (i = 0; i < 16; i++)
		EXPECT(values[i] == 102334155.0 + i);
}

static int sleeper(void *argument)
{
	int64_t *duration_ns = argument, began_ns = ew_now();

	EXPECT_EQ(ew_sleep(*duration_ns), 0);
	EXPECT(ew_now() >= began_ns + *duration_ns);
	EXPECT(ew_now() <= began_ns + *duration_ns + 2 * EW_MILLISECOND);
	trace("%d", (int)(*duration_ns / EW_SECOND));
	return 0;
}

static int sleepers(void *argument)
{
	static int64_t durations_ns[] = { 3 * EW_SECOND, 1 * EW_SECOND, 3600 * EW_SECOND,
					  2 * EW_SECOND };
	unsigned i;
	EW_SCOPE(scope);

	(void)argument;
	for (i = 0; i < 4; i++)
		EXPECT_EQ(ew_spawn(&scope, sleeper, &durations_ns[i]), 0);
	return ew_scope_finish(&scope, ew_scope_join(&scope));
}

/* An hour of virtual time: the test's own deadline says that nothing sleeps. */
TEST(sleep_ends_in_order_of_deadlines_and_never_early)
{
	EXPECT_EQ(run_virtual(sleepers, NULL), 0);
	EXPECT_STR(traced, "1 2 3 3600");
}

static int sleep_until_yesterday(void *argument)
{
	int *others = argument;
	EW_SCOPE(scope);

	EXPECT_EQ(ew_spawn(&scope, add_one, others), 0);
	EXPECT_EQ(ew_sleep_until(1), 0);
	EXPECT_EQ(*others, 1);
	EXPECT_EQ(ew_sleep(-EW_SECOND), 0);
	return ew_scope_finish(&scope, 0);
}

TEST(sleep_until_a_past_deadline_yields)
{
	int others = 0;

	EXPECT_EQ(run_virtual(sleep_until_yesterday, &others), 0);
}

static int sleep_for_ever(void *argument)
{
	(void)argument;
	return ew_sleep_until(EW_NEVER);
}

static int cancel_endless_sleep(void *argument)
{
	EW_SCOPE(scope);

	(void)argument;
	EXPECT_EQ(ew_spawn(&scope, sleep_for_ever, NULL), 0);
	EXPECT_EQ(ew_yield(), 0);
	EXPECT_EQ(ew_scope_children_count(&scope), 1);
	ew_scope_cancel(&scope, EW_REASON_REQUESTED);
	EXPECT_EQ(ew_scope_finish(&scope, ew_scope_join(&scope)), -ECANCELED);
	return 0;
}

TEST(sleep_for_ever_ends_by_a_cancel)
{
	EXPECT_EQ(run_virtual(cancel_endless_sleep, NULL), 0);
}

TEST(after_saturates_at_never)
{
	EXPECT_EQ(ew_after(EW_NEVER), EW_NEVER);
	EXPECT_EQ(ew_after(INT64_MAX - 1), EW_NEVER);
	EXPECT(ew_after(EW_SECOND) < EW_NEVER);
}

static int spawn_into_cancelled(void *argument)
{
	int *count = argument;
	EW_SCOPE(scope);

	ew_scope_cancel(&scope, EW_REASON_REQUESTED);
	EXPECT_EQ(ew_spawn(&scope, add_one, count), -ECANCELED);
	EXPECT_EQ(ew_scope_children_count(&scope), 0);
	return ew_scope_finish(&scope, 0);
}

TEST(spawn_into_a_cancelled_scope_is_refused)
{
	int count = 0;

	EXPECT_EQ(run_virtual(spawn_into_cancelled, &count), 0);
	EXPECT_EQ(count, 0);
}

static int spawn_into_cancelled_outside(void *argument)
{
	int *count = argument;
	EW_SCOPE(outer);
	EW_SCOPE(inner);

	ew_scope_cancel(&outer, EW_REASON_REQUESTED);
	EXPECT_EQ(ew_spawn(&inner, add_one, count), -ECANCELED);
	return 0;
}

TEST(spawn_into_a_scope_inside_a_cancelled_one_is_refused)
{
	int count = 0;

	EXPECT_EQ(run_virtual(spawn_into_cancelled_outside, &count), 0);
	EXPECT_EQ(count, 0);
}

static int note_first_check(void *argument)
{
	*(int *)argument = ew_yield();
	return -ECANCELED;
}

static int cancel_before_start(void *argument)
{
	EW_SCOPE(scope);

	EXPECT_EQ(ew_spawn(&scope, note_first_check, argument), 0);
	ew_scope_cancel(&scope, EW_REASON_REQUESTED);
	return ew_scope_finish(&scope, 0);
}

TEST(spawn_cancelled_before_its_start_still_runs)
{
	int first = 1;

	EXPECT_EQ(run_virtual(cancel_before_start, &first), -ECANCELED);
	EXPECT_EQ(first, -ECANCELED);
}

static int spawn_on_no_worker(void *argument)
{
	int *count = argument;
	EW_SCOPE(scope);

	EXPECT_EQ(ew_spawn(&scope, add_one, count, .worker = 2), -EINVAL);
	EXPECT_EQ(ew_scope_children_count(&scope), 0);
	return ew_scope_finish(&scope, 0);
}

TEST(spawn_on_a_worker_that_does_not_exist_is_refused)
{
	int count = 0;

	EXPECT_EQ(run_virtual(spawn_on_no_worker, &count), 0);
	EXPECT_EQ(count, 0);
}

static int keep_taken(void *argument, void *place)
{
	struct thing **taken = place;

	EXPECT(*taken == argument);
	return 0;
}

static int close_taken(void *argument, void *place)
{
	(void)argument;
	EXPECT_EQ(ew_close(place), 0);
	EXPECT(*(void **)place == NULL);
	trace("closed-by-name");
	return 0;
}

static struct thing *moved;

static int move_taken(void *argument, void *place)
{
	struct thing **taken = place;

	(void)argument;
	moved = *taken;
	*taken = NULL;
	return 0;
}

static int take_with(ew_task_take_fn *fn)
{
	static struct thing thing;
	EW_SCOPE(scope);
	EW_OWN(thing, owned);

	owned = THING_OPEN(&thing, "taken");
	EXPECT_EQ(ew_spawn_take(&scope, fn, &thing, &owned), 0);
	EXPECT(owned == NULL);
	EXPECT_EQ(thing.probe.closed, 0);
	EXPECT_EQ(ew_scope_join(&scope), 0);
	EXPECT_EQ(thing.probe.aborted, 0);
	return (int)thing.probe.closed;
}

static int take_and_keep(void *argument)
{
	(void)argument;
	return take_with(keep_taken);
}

static int take_and_close(void *argument)
{
	(void)argument;
	return take_with(close_taken);
}

static int take_and_move(void *argument)
{
	int r = take_with(move_taken);

	(void)argument;
	EXPECT_EQ(ew_close(&moved), 0);
	return r;
}

TEST(spawn_take_resource_left_by_the_child_is_closed_once)
{
	EXPECT_EQ(run_virtual(take_and_keep, NULL), 1);
}

TEST(spawn_take_resource_closed_by_name_is_closed_once)
{
	EXPECT_EQ(run_virtual(take_and_close, NULL), 1);
	EXPECT_STR(traced, "close-taken closed-by-name");
}

TEST(spawn_take_resource_moved_on_is_not_ended_by_the_child)
{
	EXPECT_EQ(run_virtual(take_and_move, NULL), 0);
	EXPECT_EQ(reports.count, 0);
}

static int take_into_cancelled(void *argument)
{
	struct thing *thing = argument;
	EW_SCOPE(scope);
	EW_OWN(thing, owned);

	owned = THING_OPEN(thing, "kept");
	ew_scope_cancel(&scope, EW_REASON_REQUESTED);
	EXPECT_EQ(ew_spawn_take(&scope, keep_taken, thing, &owned), -ECANCELED);
	EXPECT(owned == thing);
	EXPECT_EQ(ew_close(&owned), 0);
	return 0;
}

TEST(spawn_take_refused_takes_nothing)
{
	struct thing thing = { 0 };

	EXPECT_EQ(run_virtual(take_into_cancelled, &thing), 0);
	EXPECT_EQ(thing.probe.closed, 1);
}

static int take_refused_first(void *argument, void *place)
{
	(void)place;
	*(int *)argument = ew_yield();
	return -ECANCELED;
}

static int take_cancelled_before_start(void *argument)
{
	struct thing *thing = argument;
	int first = 1;
	EW_SCOPE(scope);
	EW_OWN(thing, owned);

	owned = THING_OPEN(thing, "taken");
	EXPECT_EQ(ew_spawn_take(&scope, take_refused_first, &first, &owned), 0);
	ew_scope_cancel(&scope, EW_REASON_REQUESTED);
	EXPECT_EQ(ew_scope_join(&scope), -ECANCELED);
	EXPECT_EQ(first, -ECANCELED);
	return 0;
}

TEST(spawn_take_cancelled_before_its_start_runs_and_ends_what_it_took)
{
	struct thing thing = { 0 };

	EXPECT_EQ(run_virtual(take_cancelled_before_start, &thing), 0);
	EXPECT_EQ(thing.probe.closed, 1);
	EXPECT_EQ(thing.probe.aborted, 0);
}

static __attribute__((noinline)) int recurse(int depth)
{
	volatile char page[2048];
	int below;

	page[0] = (char)depth;
	below = depth ? recurse(depth - 1) : 0;
	return below + (page[0] != (char)depth); /* after the call: no tail call */
}

static int recurse_task(void *argument)
{
	(void)argument;
	return recurse(70); /* about 140 KiB; 170 with the guards of a sanitizer */
}

TEST(task_may_use_most_of_its_stack)
{
	if (SANITIZED)
		SKIP("a sanitizer's frames are larger");
	EXPECT_EQ(run_virtual(recurse_task, NULL), 0);
}

static int overflowing(void *argument)
{
	(void)argument;
	return recurse(1000000);
}

static int spawn_overflowing(void *argument)
{
	EW_SCOPE(scope);

	(void)argument;
	EXPECT_EQ(ew_spawn(&scope, overflowing, NULL), 0);
	return ew_scope_finish(&scope, 0);
}

static void overflow_process(void)
{
	signal(SIGSEGV, SIG_DFL);
	(void)!run_virtual(spawn_overflowing, NULL);
}

TEST(task_that_overflows_its_stack_is_named_and_the_process_ends)
{
	struct ended ended;

	if (SANITIZED || RUNNING_ON_VALGRIND)
		SKIP("the sanitizer reports overflows itself");
	ended = run_process(overflow_process);
	EXPECT(WIFSIGNALED(ended.status) && WTERMSIG(ended.status) == SIGSEGV);
	EXPECT(strstr(ended.text, "stack overflow in task overflowing, spawned at "));
	EXPECT(strstr(ended.text, "task_test.c:"));
}

TEST(task_that_overflows_into_an_mprotect_guard_is_named_too)
{
	struct ended ended;

	if (SANITIZED || RUNNING_ON_VALGRIND)
		SKIP("the sanitizer reports overflows itself");
	setenv("EW_KERNEL", "6.1", 1);
	ended = run_process(overflow_process);
	EXPECT(WIFSIGNALED(ended.status) && WTERMSIG(ended.status) == SIGSEGV);
	EXPECT(strstr(ended.text, "stack overflow in task overflowing, spawned at "));
}

/* Guards by mprotect cost two mappings each, of 65,530. */
static int parked_count(void)
{
	return ew__kernel_at_least(6, 13) ? 100000 : 20000;
}

static int park(void *argument)
{
	return ew_event_wait(argument, EW_NEVER);
}

static long resident_bytes(void)
{
	FILE *file = fopen("/proc/self/statm", "r");
	long total, resident;

	EXPECT(file != NULL);
	EXPECT_EQ(fscanf(file, "%ld %ld", &total, &resident), 2);
	fclose(file);
	return resident * 4096;
}

static int park_many(void *argument)
{
	struct ew_event event = { 0 };
	long before = resident_bytes(), *ret_bytes = argument;
	int i, count = parked_count();
	EW_SCOPE(scope);

	for (i = 0; i < count; i++)
		EXPECT_EQ(ew_spawn(&scope, park, &event), 0);
	EXPECT_EQ(ew_yield(), 0);
	EXPECT_EQ(ew_yield(), 0);
	*ret_bytes = (resident_bytes() - before) / count;
	ew_event_set(&event);
	return ew_scope_finish(&scope, ew_scope_join(&scope));
}

/* One page of stack each; the rest is the page tables'. */
TEST(task_parked_costs_one_page)
{
	long bytes = 0;

	if (SANITIZED || RUNNING_ON_VALGRIND)
		SKIP("a sanitizer keeps memory of its own per stack");
	EXPECT_EQ(run_virtual(park_many, &bytes), 0);
	printf("# %ld bytes for each of %d parked tasks\n", bytes, parked_count());
	EXPECT(bytes >= 4096);
	EXPECT(bytes <= 4300);
}

static int rest_after_many(void *argument)
{
	struct ew_event event = { 0 };
	long before = resident_bytes();
	int i, count = 2000;
	EW_SCOPE(scope);

	(void)argument;
	for (i = 0; i < count; i++)
		EXPECT_EQ(ew_spawn(&scope, park, &event), 0);
	EXPECT_EQ(ew_yield(), 0);
	EXPECT_EQ(ew_yield(), 0);
	EXPECT(resident_bytes() - before >= count * 4096L);
	ew_event_set(&event);
	EXPECT_EQ(ew_scope_join(&scope), 0);
	EXPECT_EQ(ew_sleep(EW_SECOND), 0);
	EXPECT(resident_bytes() - before < count * 4096L / 2);
	return 0;
}

/* 64 are kept. That they are given back then, and not at once, keeps ten thousand ends from standing in each other's way. */
TEST(task_stacks_are_given_back_when_there_is_nothing_to_do)
{
	if (SANITIZED || RUNNING_ON_VALGRIND)
		SKIP("a sanitizer keeps memory of its own per stack");
	EXPECT_EQ(run_virtual(rest_after_many, NULL), 0);
}

/* Spawns until the mappings for stacks have run out. */
static int spawn_too_many(void *argument)
{
	struct ew_event event = { 0 };
	static struct thing thing;
	int r = 0, i;
	EW_OWN(thing, owned);
	EW_SCOPE(scope);

	(void)argument;
	for (i = 0; i < 100000 && r == 0; i++)
		r = ew_spawn(&scope, park, &event);
	EXPECT_EQ(r, -EAGAIN);
	EXPECT_EQ(ew_scope_children_count(&scope), i - 1);
	owned = THING_OPEN(&thing, "thing");
	EXPECT_EQ(ew_spawn_take(&scope, keep_taken, &thing, &owned), -EAGAIN);
	EXPECT(owned == &thing);
	ew_event_set(&event);
	EXPECT_EQ(ew_scope_join(&scope), 0);
	EXPECT_EQ(ew_spawn_take(&scope, keep_taken, &thing, &owned), 0);
	return ew_scope_finish(&scope, ew_scope_join(&scope));
}

TEST(spawn_without_memory_for_a_stack_is_refused_and_takes_nothing)
{
	if (SANITIZED || RUNNING_ON_VALGRIND)
		SKIP("the sanitizer needs mappings itself");
	setenv("EW_KERNEL", "6.1", 1);
	EXPECT_EQ(run_virtual(spawn_too_many, NULL), 0);
}

static int spawn_in_waves(void *argument)
{
	int wave, i, *count = argument;
	long before = 0;

	for (wave = 0; wave < 50; wave++) {
		EW_SCOPE(scope);

		for (i = 0; i < 200; i++)
			EXPECT_EQ(ew_spawn(&scope, add_one, count), 0);
		EXPECT_EQ(ew_scope_join(&scope), 0);
		if (wave == 10)
			before = resident_bytes();
	}
	if (!SANITIZED && !RUNNING_ON_VALGRIND)
		EXPECT(resident_bytes() < before + 2 * 1024 * 1024);
	return 0;
}

TEST(spawn_uses_stacks_of_ended_tasks_again)
{
	int count = 0;

	EXPECT_EQ(run_virtual(spawn_in_waves, &count), 0);
	EXPECT_EQ(count, 10000);
}

static int say_who(void *argument)
{
	(void)argument;
	EXPECT_STR(ew_task_name(), "say_who");
	EXPECT_EQ(ew_worker(), 1);
	EXPECT_EQ(ew_workers_count(), 1);
	return 0;
}

static int ask_who(void *argument)
{
	EW_SCOPE(scope);

	(void)argument;
	EXPECT_EQ(ew_spawn(&scope, say_who, NULL), 0);
	return ew_scope_finish(&scope, ew_scope_join(&scope));
}

TEST(task_knows_its_name_and_worker)
{
	EXPECT_STR(ew_task_name(), "");
	EXPECT_EQ(ew_worker(), 0);
	EXPECT_EQ(ew_workers_count(), 0);
	EXPECT_EQ(run_virtual(ask_who, NULL), 0);
}

/* What needs no task answers outside one, too. */
TEST(questions_outside_a_runtime_have_answers)
{
	EXPECT(!ew_cancel_requested());
	EXPECT_EQ(ew_cancel_rung(), EW_RUNG_NONE);
	EXPECT_EQ(ew_cancel_reason(), EW_REASON_NONE);
	EXPECT_EQ(ew_ending_error(), 0);
	EXPECT_EQ(ew_outcome(), EW_OUTCOME_NONE);
	EXPECT(ew_now() > 0);
}

#define CROWD 1000

struct crowd {
	struct ew_event called;
	unsigned ended;
	unsigned ended_before_the_call;
};

static int leave_when_told(void *argument)
{
	struct crowd *crowd = argument;
	int r = ew_sleep(3600 * EW_SECOND);

	crowd->ended++;
	return r;
}

static int answer_when_called(void *argument)
{
	struct crowd *crowd = argument;
	int r = ew_event_wait(&crowd->called, EW_NEVER);

	crowd->ended_before_the_call = crowd->ended;
	return r;
}

static int call_behind_a_crowd(void *argument)
{
	struct crowd *crowd = argument;
	EW_SCOPE(living);
	EW_SCOPE(leaving, .policy = EW_POLICY_INDEPENDENT);

	EXPECT_EQ(ew_spawn(&living, answer_when_called, crowd), 0);
	for (unsigned i = 0; i < CROWD; i++)
		EXPECT_EQ(ew_spawn(&leaving, leave_when_told, crowd), 0);
	EXPECT_EQ(ew_yield(), 0);
	ew_scope_cancel(&leaving, EW_REASON_REQUESTED);
	ew_event_set(&crowd->called);
	EXPECT_EQ(ew_scope_join(&leaving), -ECANCELED);
	return ew_scope_join(&living);
}

/* The crowd was ready first, and is woken first in a queue that knows no difference. */
TEST(cancelled_tasks_run_behind_those_that_live)
{
	struct crowd crowd = { 0 };

	EXPECT_EQ(run_virtual(call_behind_a_crowd, &crowd), 0);
	EXPECT_EQ(crowd.ended, CROWD);
	EXPECT_EQ(crowd.ended_before_the_call, 0);
}

static int yield_until_all_have_left(void *argument)
{
	struct crowd *crowd = argument;

	while (crowd->ended < CROWD)
		EXPECT_EQ(ew_yield(), 0);
	return 0;
}

static int leave_beside_a_yielder(void *argument)
{
	struct crowd *crowd = argument;
	EW_SCOPE(living);
	EW_SCOPE(leaving, .policy = EW_POLICY_INDEPENDENT);

	EXPECT_EQ(ew_spawn(&living, yield_until_all_have_left, crowd), 0);
	for (unsigned i = 0; i < CROWD; i++)
		EXPECT_EQ(ew_spawn(&leaving, leave_when_told, crowd), 0);
	EXPECT_EQ(ew_yield(), 0);
	ew_scope_cancel(&leaving, EW_REASON_REQUESTED);
	EXPECT_EQ(ew_scope_join(&leaving), -ECANCELED);
	return ew_scope_join(&living);
}

/* Somebody who is always ready cannot keep them from ending. */
TEST(cancelled_tasks_run_although_others_never_rest)
{
	struct crowd crowd = { 0 };

	EXPECT_EQ(run_virtual(leave_beside_a_yielder, &crowd), 0);
	EXPECT_EQ(crowd.ended, CROWD);
}

TEST_MAIN()
