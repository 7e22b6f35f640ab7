/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Children on other workers, and cancels from everywhere. Most of it is races: many rounds on two workers, where the
 * sanitizers and the scope's own assertions watch.
 */

#include "core.h"
#include "task/worker.h"

static int rounds(int plain)
{
	return RUNNING_ON_VALGRIND ? plain / 50 + 2 : SANITIZED ? plain / 4 + 2 : plain;
}

static int say_worker(void *argument)
{
	*(unsigned *)argument = ew_worker();
	return (int)ew_worker();
}

static int spawn_everywhere(void *argument)
{
	unsigned here = 0, there = 0;
	EW_SCOPE(scope);

	(void)argument;
	EXPECT_EQ(ew_spawn(&scope, say_worker, &here), 0);
	EXPECT_EQ(ew_spawn(&scope, say_worker, &there, .worker = 2), 0);
	EXPECT_EQ(ew_scope_join(&scope), 0);
	EXPECT_EQ(here, 1);
	EXPECT_EQ(there, 2);
	EXPECT_EQ(ew_workers_count(), 2);
	return ew_scope_finish(&scope, 0);
}

TEST(spawn_on_another_worker_runs_there_and_is_joined)
{
	EXPECT_EQ(run_workers(2, spawn_everywhere, NULL), 0);
}

static int spawn_back(void *argument)
{
	unsigned worker = 0;
	EW_SCOPE(scope);

	(void)argument;
	EXPECT_EQ(ew_worker(), 2);
	EXPECT_EQ(ew_spawn(&scope, say_worker, &worker, .worker = 1), 0);
	EXPECT_EQ(ew_scope_join(&scope), 0);
	EXPECT_EQ(worker, 1);
	return ew_scope_finish(&scope, 0);
}

static int spawn_there_and_back(void *argument)
{
	int i;

	(void)argument;
	for (i = 0; i < rounds(2000); i++) {
		EW_SCOPE(scope);

		EXPECT_EQ(ew_spawn(&scope, spawn_back, NULL, .worker = 2), 0);
		EXPECT_EQ(ew_scope_finish(&scope, ew_scope_join(&scope)), 0);
	}
	return 0;
}

TEST(spawn_across_and_back_many_times)
{
	EXPECT_EQ(run_workers(2, spawn_there_and_back, NULL), 0);
}

static int fail_remotely(void *argument)
{
	(void)argument;
	return -EIO;
}

static int sleep_long(void *argument)
{
	(void)argument;
	return ew_sleep(3600 * EW_SECOND);
}

static int remote_error(void *argument)
{
	EW_SCOPE(scope);

	(void)argument;
	EXPECT_EQ(ew_spawn(&scope, sleep_long, NULL), 0);
	EXPECT_EQ(ew_spawn(&scope, sleep_long, NULL, .worker = 2), 0);
	EXPECT_EQ(ew_spawn(&scope, fail_remotely, NULL, .worker = 2), 0);
	return ew_scope_finish(&scope, ew_scope_join(&scope));
}

TEST(scope_error_of_a_remote_child_cancels_siblings_on_both_workers)
{
	EXPECT_EQ(run_workers(2, remote_error, NULL), -EIO);
}

static int panic_remotely(void *argument)
{
	EW_GUARD(undo, argument, .close = probe_close, .abort = probe_abort);

	ew_panic("far away");
}

static int remote_panic(void *argument)
{
	EW_SCOPE(scope);

	EXPECT_EQ(ew_spawn(&scope, panic_remotely, argument, .worker = 2), 0);
	return ew_scope_finish(&scope, ew_scope_join(&scope));
}

TEST(panic_of_a_remote_child_is_its_result)
{
	struct probe probe = { .name = "guard" };

	EXPECT_EQ(run_workers(2, remote_panic, &probe), -ENOTRECOVERABLE);
	EXPECT_EQ(probe.closed, 1);
}

static int take_remotely(void *argument, void *place)
{
	struct thing **thing = place;

	(void)argument;
	EXPECT_EQ(ew_worker(), 2);
	EXPECT(*thing != NULL);
	return 0;
}

static int spawn_take_remotely(void *argument)
{
	struct thing *thing = argument;
	EW_SCOPE(scope);
	EW_OWN(thing, owned);

	owned = THING_OPEN(thing, "thing");
	EXPECT_EQ(ew_spawn_take(&scope, take_remotely, NULL, &owned, .worker = 2), 0);
	EXPECT(owned == NULL);
	return ew_scope_finish(&scope, ew_scope_join(&scope));
}

TEST(spawn_take_on_another_worker_ends_the_resource_there)
{
	struct thing thing = { 0 };

	EXPECT_EQ(run_workers(2, spawn_take_remotely, &thing), 0);
	EXPECT_EQ(thing.probe.closed, 1);
}

/* At every moment of a remote child's life: before it starts, while it sleeps, while it ends. */
static int cancel_at_every_moment(void *argument)
{
	int i, j, r;

	(void)argument;
	for (i = 0; i < rounds(3000); i++) {
		EW_SCOPE(scope);

		EXPECT_EQ(ew_spawn(&scope, sleep_long, NULL, .worker = 2), 0);
		EXPECT_EQ(ew_spawn(&scope, say_worker, &(unsigned){ 0 }, .worker = 2), 0);
		for (j = 0; j < i % 11; j++)
			EXPECT_EQ(ew_yield(), 0);
		ew_scope_cancel(&scope, EW_REASON_REQUESTED);
		r = ew_scope_finish(&scope, 0);
		EXPECT_EQ(r, -ECANCELED);
	}
	return 0;
}

TEST(cancel_meets_a_remote_child_at_every_moment)
{
	EXPECT_EQ(run_workers(2, cancel_at_every_moment, NULL), 0);
}

static int yield_some(void *argument)
{
	int i, r;

	for (i = 0; i < (int)(intptr_t)argument; i++) {
		r = ew_yield();
		if (r < 0)
			return r;
	}
	return 0;
}

/* The frame of the scope is used again at once: a late message would find another one there. */
static __attribute__((noinline)) int cancel_as_they_end(int i)
{
	int j, r;
	EW_SCOPE(scope);

	for (j = 0; j < 4; j++)
		EXPECT_EQ(
			ew_spawn(&scope, yield_some, (void *)(intptr_t)((i + j) % 5), .worker = 2),
			0);
	for (j = 0; j < i % 7; j++)
		EXPECT_EQ(ew_yield(), 0);
	ew_scope_cancel(&scope, EW_REASON_REQUESTED);
	r = ew_scope_finish(&scope, 0);
	return r == -ECANCELED ? 0 : r;
}

static __attribute__((noinline)) void overwrite_frames(void)
{
	volatile char frame[2048];

	memset((void *)(uintptr_t)frame, 0xff, sizeof(frame));
}

static int cancel_while_ending(void *argument)
{
	int i;

	(void)argument;
	for (i = 0; i < rounds(5000); i++) {
		EXPECT_EQ(cancel_as_they_end(i), 0);
		overwrite_frames();
	}
	return 0;
}

TEST(cancel_that_meets_the_end_of_a_remote_child_touches_nothing_later)
{
	EXPECT_EQ(run_workers(2, cancel_while_ending, NULL), 0);
}

static void *cancel_from_thread(void *argument)
{
	ew_scope_cancel(argument, EW_REASON_PEER);
	return NULL;
}

static int cancel_by_threads(void *argument)
{
	pthread_t threads[2];
	int i, j;

	(void)argument;
	for (i = 0; i < rounds(1000); i++) {
		EW_SCOPE(scope);

		EXPECT_EQ(ew_spawn(&scope, sleep_long, NULL), 0);
		EXPECT_EQ(ew_spawn(&scope, sleep_long, NULL, .worker = 2), 0);
		for (j = 0; j < 2; j++)
			EXPECT_EQ(pthread_create(&threads[j], NULL, cancel_from_thread, &scope), 0);
		EXPECT_EQ(ew_scope_join(&scope), -ECANCELED);
		EXPECT_EQ(ew_scope_reason(&scope), EW_REASON_PEER);
		for (j = 0; j < 2; j++)
			EXPECT_EQ(pthread_join(threads[j], NULL), 0);
		EXPECT_EQ(ew_scope_finish(&scope, 0), -ECANCELED);
	}
	return 0;
}

TEST(cancel_from_two_threads_at_once)
{
	EXPECT_EQ(run_workers(2, cancel_by_threads, NULL), 0);
}

static int cancel_upwards(void *argument)
{
	ew_scope_cancel(argument, EW_REASON_PEER);
	return 0;
}

static int cancel_by_remote_children(void *argument)
{
	int i, j;

	(void)argument;
	for (i = 0; i < rounds(2000); i++) {
		EW_SCOPE(helpers, .policy = EW_POLICY_INDEPENDENT);
		EW_SCOPE(scope);

		EXPECT_EQ(ew_spawn(&scope, sleep_long, NULL), 0);
		for (j = 0; j < 3; j++)
			EXPECT_EQ(ew_spawn(&helpers, cancel_upwards, &scope, .worker = 2), 0);
		EXPECT_EQ(ew_scope_join(&scope), -ECANCELED);
		EXPECT_EQ(ew_scope_join(&helpers), 0);
		EXPECT_EQ(ew_scope_reason(&scope), EW_REASON_PEER);
	}
	return 0;
}

TEST(cancel_from_tasks_of_another_worker)
{
	EXPECT_EQ(run_workers(2, cancel_by_remote_children, NULL), 0);
}

/* The block that is cancelled leaves by itself in the same moment: its frame stays until the message came. */
static __attribute__((noinline)) void leave_at_once(struct ew_event *left)
{
	pthread_t thread;

	{
		EW_SCOPE(scope);

		EXPECT_EQ(pthread_create(&thread, NULL, cancel_from_thread, &scope), 0);
		while (ew_scope_reason(&scope) == EW_REASON_NONE)
			;
	}
	overwrite_frames();
	EXPECT_EQ(pthread_join(thread, NULL), 0);
	ew_event_set(left);
}

static int leave_as_cancelled(void *argument)
{
	struct ew_event left = { 0 };
	int i;

	(void)argument;
	for (i = 0; i < rounds(1000); i++)
		leave_at_once(&left);
	return 0;
}

TEST(scope_left_while_another_thread_cancels_it_waits_for_that)
{
	EXPECT_EQ(run_workers(1, leave_as_cancelled, NULL), 0);
}

static int wait_remotely(void *argument)
{
	return ew_scope_wait_cancel(argument, EW_NEVER);
}

static int token_of_another_worker(void *argument)
{
	EW_SCOPE(scope);
	EW_SCOPE(helpers);

	(void)argument;
	EXPECT_EQ(ew_spawn(&helpers, wait_remotely, &scope, .worker = 2), 0);
	EXPECT_EQ(ew_scope_join(&helpers), -EXDEV);
	EXPECT(!ew_scope_is_cancelled(&scope));
	return 0;
}

TEST(token_of_another_worker_cannot_be_waited_for)
{
	EXPECT_EQ(run_workers(2, token_of_another_worker, NULL), 0);
}

static int poll_token(void *argument)
{
	while (!ew_cancel_requested())
		;
	return ew_scope_is_cancelled(argument) ? 0 : -EIO;
}

/* A computing loop on another worker sees a cancel that spreads through two scopes. */
static int poll_remotely(void *argument)
{
	int i;

	(void)argument;
	for (i = 0; i < rounds(200); i++) {
		EW_SCOPE(outer);
		EW_SCOPE(inner);

		EXPECT_EQ(ew_spawn(&inner, poll_token, &inner, .worker = 2), 0);
		EXPECT_EQ(ew_yield(), 0);
		ew_scope_cancel(&outer, EW_REASON_REQUESTED);
		EXPECT_EQ(ew_scope_join(&inner), 0);
	}
	return 0;
}

TEST(cancel_requested_is_seen_by_a_computing_task_of_another_worker)
{
	EXPECT_EQ(run_workers(2, poll_remotely, NULL), 0);
}

static int leaf(void *argument)
{
	EW_GUARD(slow, argument, .close = probe_close, .abort = probe_abort);

	return ew_sleep(3600 * EW_SECOND);
}

static int reserve_across(void *argument)
{
	struct probe probes[2] = { { .name = "root", .takes_ns = 20 * EW_MILLISECOND },
				   { .name = "leaf", .takes_ns = 3600 * EW_SECOND } };

	(void)argument;
	{
		EW_SCOPE(outer, .budget_ns = 100 * EW_SECOND);
		EW_GUARD(undo, &probes[0], .close = probe_close, .abort = probe_abort,
			 .reserve_ns = 100 * EW_SECOND - 100 * EW_MILLISECOND);
		EW_SCOPE(scope);

		EXPECT_EQ(ew_spawn(&scope, leaf, &probes[1], .worker = 2), 0);
		while (ew_scope_children_count(&scope) != 1)
			EXPECT_EQ(ew_yield(), 0);
		ew_scope_cancel(&outer, EW_REASON_REQUESTED);
	}
	EXPECT_EQ(probes[1].aborted, 1);
	EXPECT_EQ(probes[0].closed, 1);
	EXPECT_EQ(probes[0].aborted, 0);
	EXPECT(probes[0].began_ns >= probes[1].ended_ns);
	return 0;
}

/* The leaf has a tenth of a second, the root's reserve is the rest. */
TEST(ending_of_a_leaf_on_another_worker_leaves_the_reserves_of_its_ancestors)
{
	EXPECT_EQ(run_workers(2, reserve_across, NULL), 0);
}

static int force_across(void *argument)
{
	struct probe probe = { .name = "leaf", .takes_ns = 3600 * EW_SECOND };

	(void)argument;
	{
		EW_SCOPE(scope, .budget_ns = 20 * EW_MILLISECOND);

		EXPECT_EQ(ew_spawn(&scope, leaf, &probe, .worker = 2), 0);
		ew_scope_cancel(&scope, EW_REASON_REQUESTED);
	}
	EXPECT_EQ(probe.aborted, 1);
	return 0;
}

TEST(force_reaches_endings_on_another_worker)
{
	EXPECT_EQ(run_workers(2, force_across, NULL), 0);
}

static int tree(void *argument)
{
	int depth = (int)(intptr_t)argument, i;
	EW_SCOPE(scope);

	if (depth == 0)
		return ew_sleep(3600 * EW_SECOND);
	for (i = 0; i < 2; i++)
		if (ew_spawn(&scope, tree, (void *)(intptr_t)(depth - 1),
			     .worker = 1 + (unsigned)i) < 0)
			break;
	return ew_scope_finish(&scope, ew_scope_join(&scope));
}

/* The top of the tree may find its own scope cancelled before it has spawned anything: then it returns 0. */
static int cancel_trees(void *argument)
{
	int i, j, r;

	(void)argument;
	for (i = 0; i < rounds(300); i++) {
		EW_SCOPE(scope);

		EXPECT_EQ(ew_spawn(&scope, tree, (void *)5), 0);
		for (j = 0; j < i % 40; j++)
			EXPECT_EQ(ew_yield(), 0);
		ew_scope_cancel(&scope, EW_REASON_REQUESTED);
		r = ew_scope_finish(&scope, 0);
		EXPECT(r == 0 || r == -ECANCELED);
	}
	return 0;
}

TEST(cancel_spreads_through_a_growing_tree_over_two_workers)
{
	EXPECT_EQ(run_workers(2, cancel_trees, NULL), 0);
}

static int shutdown_remotely(void *argument)
{
	(void)argument;
	ew_shutdown();
	return 0;
}

static int shutdown_by_worker_2(void *argument)
{
	EW_SCOPE(scope);

	(void)argument;
	EXPECT_EQ(ew_spawn(&scope, sleep_long, NULL), 0);
	EXPECT_EQ(ew_spawn(&scope, sleep_long, NULL, .worker = 2), 0);
	EXPECT_EQ(ew_spawn(&scope, shutdown_remotely, NULL, .worker = 2), 0);
	return ew_scope_finish(&scope, ew_scope_join(&scope));
}

TEST(shutdown_from_another_worker_cancels_everything)
{
	EXPECT_EQ(run_workers(2, shutdown_by_worker_2, NULL), -ECANCELED);
}

static void *set_event(void *argument)
{
	ew_event_set(argument);
	return NULL;
}

struct late_thread {
	struct ew_event event;
	pthread_t thread;
};

static int wait_event(void *argument)
{
	return ew_event_wait(argument, EW_NEVER);
}

/* The worker does not sleep, so that nothing holds it back when the message has come. */
static int be_woken_by_thread(void *argument)
{
	struct late_thread *late = argument;
	EW_SCOPE(scope);

	EXPECT_EQ(ew_spawn(&scope, wait_event, &late->event), 0);
	EXPECT_EQ(ew_yield(), 0);
	EXPECT_EQ(pthread_create(&late->thread, NULL, set_event, &late->event), 0);
	while (ew_scope_children_count(&scope))
		EXPECT_EQ(ew_yield(), 0);
	return 0;
}

/* The thread may still be inside ew_event_set() when the run is over. */
TEST(run_ends_while_the_thread_that_woke_it_is_still_on_its_way)
{
	struct late_thread late;
	int i;

	for (i = 0; i < rounds(400); i++) {
		late = (struct late_thread){ 0 };
		EXPECT_EQ(run_workers(1, be_woken_by_thread, &late), 0);
		EXPECT_EQ(pthread_join(late.thread, NULL), 0);
	}
}

static int stop_with_messages(void *argument)
{
	unsigned worker;
	EW_SCOPE(scope);

	(void)argument;
	EXPECT_EQ(ew_spawn(&scope, say_worker, &worker, .worker = 2), 0);
	return ew_scope_finish(&scope, ew_scope_join(&scope));
}

TEST(run_ends_while_workers_still_ring_each_other)
{
	int i;

	for (i = 0; i < rounds(400); i++)
		EXPECT_EQ(run_workers(3, stop_with_messages, NULL), 0);
}

/* ---- stacks ---- */

#define WAVE_TASKS 50

struct busy {
	_Atomic bool stop;
	unsigned kept_most;
};

static int never_rest(void *argument)
{
	struct busy *busy = argument;
	unsigned i;

	while (!busy->stop) {
		EXPECT_EQ(ew_yield(), 0);
		i = ew__worker->kept_count;
		busy->kept_most = i > busy->kept_most ? i : busy->kept_most;
	}
	return 0;
}

static int nothing(void *argument)
{
	(void)argument;
	return 0;
}

static int spawn_on_a_busy_worker(void *argument)
{
	struct busy busy = { 0 };
	int wave, i;
	EW_SCOPE(all);

	(void)argument;
	EXPECT_EQ(ew_spawn(&all, never_rest, &busy, .worker = 2), 0);
	for (wave = 0; wave < 40; wave++) {
		EW_SCOPE(scope);

		for (i = 0; i < WAVE_TASKS; i++)
			EXPECT_EQ(ew_spawn(&scope, nothing, NULL, .worker = 2), 0);
		EXPECT_EQ(ew_scope_join(&scope), 0);
	}
	busy.stop = true;
	EXPECT_EQ(ew_scope_join(&all), 0);
	EXPECT(busy.kept_most <= EW__TASKS_KEPT + WAVE_TASKS);
	return ew_scope_finish(&all, 0);
}

/* They come from the worker that spawns: one that only runs them, and never rests, would gather them without end. */
TEST(stacks_from_another_worker_are_not_gathered_by_one_that_never_rests)
{
	EXPECT_EQ(run_workers(2, spawn_on_a_busy_worker, NULL), 0);
}

TEST_MAIN()
