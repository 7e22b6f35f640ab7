/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Events: set once, by anybody, for all that wait now or later.
 */

#include "crossing.h"

#include <sys/mman.h>

struct waiting {
	struct ew_event *event;
	int64_t deadline_ns;
	int result;
};

static int wait_for(void *argument)
{
	struct waiting *waiting = argument;

	waiting->result = ew_event_wait(waiting->event, waiting->deadline_ns);
	return 0;
}

static int wake_all(void *argument)
{
	struct ew_event event = { 0 };
	struct waiting waiting[3];
	int i;
	EW_SCOPE(scope);

	(void)argument;
	for (i = 0; i < 3; i++) {
		waiting[i] = (struct waiting){ &event, EW_NEVER, 1 };
		EXPECT_EQ(ew_spawn(&scope, wait_for, &waiting[i]), 0);
	}
	EXPECT_EQ(ew_yield(), 0);
	EXPECT(!ew_event_is_set(&event));
	ew_event_set(&event);
	ew_event_set(&event);
	EXPECT(ew_event_is_set(&event));
	EXPECT_EQ(ew_scope_join(&scope), 0);
	for (i = 0; i < 3; i++)
		EXPECT_EQ(waiting[i].result, 0);
	EXPECT_EQ(ew_event_wait(&event, EW_NEVER), 0);
	EXPECT_EQ(ew_event_wait(&event, EW_NOW), 0); /* set wins over a passed deadline */
	ew_event_reset(&event);
	EXPECT(!ew_event_is_set(&event));
	EXPECT_EQ(ew_event_wait(&event, ew_after(EW_SECOND)), -ETIMEDOUT);
	return 0;
}

TEST(event_set_wakes_all_that_wait_now_and_later)
{
	EXPECT_EQ(run_virtual(wake_all, NULL), 0);
}

static int time_out(void *argument)
{
	struct ew_event event = { 0 };
	int64_t began_ns = ew_now();

	(void)argument;
	EXPECT_EQ(ew_event_wait(&event, began_ns + EW_SECOND), -ETIMEDOUT);
	EXPECT(ew_now() >= began_ns + EW_SECOND);
	EXPECT(event.first == NULL && event.last == NULL);
	EXPECT_EQ(ew_event_wait(&event, EW_NOW), -ETIMEDOUT);
	ew_event_set(&event);
	return ew_event_wait(&event, EW_NOW);
}

TEST(event_wait_times_out_and_leaves_the_line)
{
	EXPECT_EQ(run_virtual(time_out, NULL), 0);
}

static int cancel_one_of_three(void *argument)
{
	struct ew_event event = { 0 };
	struct waiting waiting[3];
	EW_SCOPE(scope);
	EW_SCOPE(middle);
	int i;

	(void)argument;
	for (i = 0; i < 3; i++) {
		waiting[i] = (struct waiting){ &event, EW_NEVER, 1 };
		EXPECT_EQ(ew_spawn(i == 1 ? &middle : &scope, wait_for, &waiting[i]), 0);
	}
	EXPECT_EQ(ew_yield(), 0);
	ew_scope_cancel(&middle, EW_REASON_REQUESTED);
	EXPECT_EQ(ew_scope_finish(&middle, 0), 0);
	EXPECT_EQ(waiting[1].result, -ECANCELED);
	ew_event_set(&event);
	EXPECT_EQ(ew_scope_finish(&scope, 0), 0);
	EXPECT_EQ(waiting[0].result, 0);
	EXPECT_EQ(waiting[2].result, 0);
	return 0;
}

TEST(event_wait_cancelled_leaves_the_line_to_the_others)
{
	EXPECT_EQ(run_virtual(cancel_one_of_three, NULL), 0);
}

/* Both in one turn: what was set first is what the waiter hears. */
static int set_then_cancel(void *argument)
{
	struct ew_event event = { 0 };
	struct waiting waiting = { &event, EW_NEVER, 1 };
	EW_SCOPE(scope);

	(void)argument;
	EXPECT_EQ(ew_spawn(&scope, wait_for, &waiting), 0);
	EXPECT_EQ(ew_yield(), 0);
	ew_event_set(&event);
	ew_scope_cancel(&scope, EW_REASON_REQUESTED);
	EXPECT_EQ(ew_scope_finish(&scope, 0), 0);
	EXPECT_EQ(waiting.result, 0);
	return 0;
}

TEST(event_set_before_a_cancel_wins)
{
	EXPECT_EQ(run_virtual(set_then_cancel, NULL), 0);
}

static int wait_and_see_the_cancel(void *argument)
{
	int r = ew_event_wait(argument, EW_NEVER);

	EXPECT_EQ(ew_yield(), -ECANCELED);
	return r;
}

static void set_and_reset(void *argument)
{
	ew_event_set(argument);
	ew_event_reset(argument);
}

static int cross_a_cancel(void *argument)
{
	struct ew_event event = { 0 };

	(void)argument;
	return cross(wait_and_see_the_cancel, set_and_reset, &event);
}

/* Also when it has been reset by then: who was in line has heard it. */
TEST(event_set_that_crosses_a_cancel_wins)
{
	EXPECT_EQ(run_workers(2, cross_a_cancel, NULL), 0);
}

static int cancel_then_set(void *argument)
{
	struct ew_event event = { 0 };
	struct waiting waiting = { &event, EW_NEVER, 1 };
	EW_SCOPE(scope);

	(void)argument;
	EXPECT_EQ(ew_spawn(&scope, wait_for, &waiting), 0);
	EXPECT_EQ(ew_yield(), 0);
	ew_scope_cancel(&scope, EW_REASON_REQUESTED);
	ew_event_set(&event);
	EXPECT_EQ(ew_scope_finish(&scope, 0), 0);
	EXPECT_EQ(waiting.result, -ECANCELED);
	return 0;
}

TEST(event_set_after_a_cancel_does_not_undo_it)
{
	EXPECT_EQ(run_virtual(cancel_then_set, NULL), 0);
}

static int wait_and_free(void *argument)
{
	struct ew_event *event = argument;
	int r = ew_event_wait(event, EW_NEVER);

	memset(event, 0xff, sizeof(*event));
	free(event);
	return r;
}

static void *set_event(void *argument)
{
	ew_event_set(argument);
	return NULL;
}

static int free_after_wait(void *argument)
{
	struct ew_event *event;
	pthread_t thread;
	int i, rounds = RUNNING_ON_VALGRIND ? 50 : 2000;

	(void)argument;
	for (i = 0; i < rounds; i++) {
		EW_SCOPE(scope);

		event = calloc(1, sizeof(*event));
		EXPECT(event != NULL);
		EXPECT_EQ(ew_spawn(&scope, wait_and_free, event), 0);
		if (i % 2)
			EXPECT_EQ(ew_yield(), 0);
		EXPECT_EQ(pthread_create(&thread, NULL, set_event, event), 0);
		EXPECT_EQ(ew_scope_join(&scope), 0);
		EXPECT_EQ(pthread_join(thread, NULL), 0);
	}
	return 0;
}

/* A setter that touched the event after waking would write into freed memory: seen by the sanitizers, or as a hang. */
TEST(event_may_be_freed_by_its_waiter)
{
	EXPECT_EQ(run_workers(1, free_after_wait, NULL), 0);
}

/* An event on a page of its own, that the first waiter gives back to the kernel. */
struct paged {
	struct ew_event *event;
	bool freed;
};

static int free_when_set(void *argument)
{
	struct paged *paged = argument;

	EXPECT_EQ(ew_event_wait(paged->event, EW_NEVER), 0);
	EXPECT_EQ(munmap(paged->event, sizeof(*paged->event)), 0);
	paged->freed = true;
	return 0;
}

static int wait_elsewhere(void *argument)
{
	return ew_event_wait(((struct paged *)argument)->event, EW_NEVER);
}

static void set_until_freed(void *argument)
{
	struct paged *paged = argument;

	ew_event_set(paged->event);
	while (!paged->freed)
		EXPECT_EQ(ew_yield(), 0);
}

static int cross_with_free(void *argument)
{
	struct paged paged = { .freed = false };
	EW_SCOPE(scope);

	(void)argument;
	paged.event = mmap(NULL, sizeof(*paged.event), PROT_READ | PROT_WRITE,
			   MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	EXPECT(paged.event != MAP_FAILED);
	EXPECT_EQ(ew_spawn(&scope, free_when_set, &paged), 0);
	EXPECT_EQ(ew_yield(), 0);
	EXPECT_EQ(cross(wait_elsewhere, set_until_freed, &paged), 0);
	return ew_scope_finish(&scope, 0);
}

/* The other waiter is told by a message. A cancel that comes before that finds no event any more. */
TEST(event_freed_by_one_waiter_is_not_touched_by_the_cancel_of_another)
{
	EXPECT_EQ(run_workers(2, cross_with_free, NULL), 0);
}

struct threads {
	struct ew_event events[64];
};

static void *set_many(void *argument)
{
	struct threads *threads = argument;
	int i;

	for (i = 0; i < 64; i++)
		ew_event_set(&threads->events[i]);
	return NULL;
}

static int wait_many(void *argument)
{
	struct threads *threads = argument;
	int i, r;

	for (i = 0; i < 64; i++) {
		r = ew_event_wait(&threads->events[i], EW_NEVER);
		if (r < 0)
			return r;
	}
	return 0;
}

static int race_threads(void *argument)
{
	struct threads *threads = argument;
	pthread_t thread[2];
	int i, j, rounds = RUNNING_ON_VALGRIND ? 5 : 200;

	for (i = 0; i < rounds; i++) {
		EW_SCOPE(scope);

		memset(threads->events, 0, sizeof(threads->events));
		for (j = 0; j < 4; j++)
			EXPECT_EQ(
				ew_spawn(&scope, wait_many, threads, .worker = 1 + (unsigned)j % 2),
				0);
		for (j = 0; j < 2; j++)
			EXPECT_EQ(pthread_create(&thread[j], NULL, set_many, threads), 0);
		EXPECT_EQ(ew_scope_join(&scope), 0);
		for (j = 0; j < 2; j++)
			EXPECT_EQ(pthread_join(thread[j], NULL), 0);
	}
	return 0;
}

TEST(event_set_by_threads_loses_no_waiter_of_two_workers)
{
	static struct threads threads;

	EXPECT_EQ(run_workers(2, race_threads, &threads), 0);
}

static int wait_or_time_out(void *argument)
{
	int r = ew_event_wait(argument, ew_after(EW_MILLISECOND));

	return r == -ETIMEDOUT ? 0 : r;
}

static int race_timeouts(void *argument)
{
	struct threads *threads = argument;
	pthread_t thread;
	int i, j, rounds = RUNNING_ON_VALGRIND ? 10 : 300;

	for (i = 0; i < rounds; i++) {
		EW_SCOPE(scope);

		memset(threads->events, 0, sizeof(threads->events));
		for (j = 0; j < 64; j++)
			EXPECT_EQ(ew_spawn(&scope, wait_or_time_out, &threads->events[j],
					   .worker = 1 + (unsigned)j % 2),
				  0);
		EXPECT_EQ(ew_yield(), 0);
		EXPECT_EQ(pthread_create(&thread, NULL, set_many, threads), 0);
		EXPECT_EQ(ew_scope_join(&scope), 0);
		EXPECT_EQ(pthread_join(thread, NULL), 0);
	}
	return 0;
}

TEST(event_set_that_meets_a_timeout_has_one_outcome)
{
	static struct threads threads;

	EXPECT_EQ(run_workers(2, race_timeouts, &threads), 0);
}

TEST_MAIN()
