/* SPDX-License-Identifier: Apache-2.0 */

/*
 * A pthread mutex that a task holds: a suspension is reported, and neither a panic nor force leaves it locked.
 */

#include "core.h"

#include <endwell/foreign_lock.h>

static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;

static bool is_free(void)
{
	if (pthread_mutex_trylock(&mutex) != 0)
		return false;
	pthread_mutex_unlock(&mutex);
	return true;
}

static int suspend_with_it(void *argument)
{
	(void)argument;
	{
		EW_FOREIGN_LOCK(held, &mutex);

		EXPECT_EQ(held.result, 0);
		EXPECT_EQ(reports.count, 0);
		EXPECT(!is_free());
		EXPECT_EQ(ew_yield(), 0);
		EXPECT_EQ(ew_sleep(EW_SECOND), 0);
	}
	EXPECT(is_free());
	return ew_yield();
}

static int call_suspend_with_it(void *argument)
{
	EW_SCOPE(scope);

	EXPECT_EQ(ew_spawn(&scope, suspend_with_it, argument), 0);
	return ew_scope_finish(&scope, ew_scope_join(&scope));
}

TEST(foreign_lock_held_over_a_suspension_is_reported_with_task_and_line)
{
	EXPECT_EQ(run_virtual(call_suspend_with_it, NULL), 0);
	EXPECT_EQ(reports.count, 1);
	EXPECT(reported("task suspend_with_it, spawned at ", "foreign_lock_test.c:"));
	EXPECT(reported("suspends with a pthread mutex held: held, locked at ", NULL));
}

static int suspend_without_it(void *argument)
{
	(void)argument;
	EXPECT_EQ(ew_yield(), 0);
	{
		EW_FOREIGN_LOCK(held, &mutex);
		EW_SCOPE(scope);

		EXPECT_EQ(ew_scope_children_count(&scope), 0);
		ew_scope_cancel(&scope, EW_REASON_REQUESTED);
	}
	return ew_sleep(EW_SECOND);
}

TEST(foreign_lock_that_is_free_again_is_not_reported)
{
	EXPECT_EQ(run_virtual(suspend_without_it, NULL), 0);
	EXPECT_EQ(reports.count, 0);
}

static int return_at_once(void *argument)
{
	(void)argument;
	return 0;
}

static int join_with_two(void *argument)
{
	pthread_mutex_t other = PTHREAD_MUTEX_INITIALIZER;
	EW_SCOPE(scope);
	EW_FOREIGN_LOCK(first, &mutex);
	EW_FOREIGN_LOCK(second, &other);

	(void)argument;
	EXPECT_EQ(ew_spawn(&scope, return_at_once, NULL), 0);
	return ew_scope_join(&scope);
}

TEST(foreign_locks_held_over_a_join_are_reported)
{
	EXPECT_EQ(run_virtual(join_with_two, NULL), 0);
	EXPECT_EQ(reports.count, 2);
	EXPECT(reported("held: first, locked at ", NULL));
	EXPECT(reported("held: second, locked at ", NULL));
}

/* A cancel that comes and goes meanwhile does not make it forget. */
static int suspend_after_a_cancel(void *argument)
{
	EW_FOREIGN_LOCK(held, &mutex);

	(void)argument;
	{
		EW_SCOPE(scope);

		ew_scope_cancel(&scope, EW_REASON_REQUESTED);
	}
	EXPECT_EQ(reports.count, 0);
	return ew_yield();
}

TEST(foreign_lock_held_over_a_cancelled_scope_is_still_watched)
{
	EXPECT_EQ(run_virtual(suspend_after_a_cancel, NULL), 0);
	EXPECT_EQ(reports.count, 1);
}

/* Not every ending asks for a cancel before it waits. */
static int end_with_it(void *argument)
{
	EW_FOREIGN_LOCK(held, &mutex);
	struct probe probe = { .name = "guard" };
	EW_GUARD(undo, &probe, .close = probe_close, .abort = probe_abort);

	(void)argument;
	return 0;
}

TEST(foreign_lock_held_over_an_ending_is_reported)
{
	EXPECT_EQ(run_virtual(end_with_it, NULL), 0);
	EXPECT_EQ(reports.count, 1);
}

static int panic_with_it(void *argument)
{
	EW_FOREIGN_LOCK(held, &mutex);

	(void)argument;
	ew_panic("with a lock held");
}

static void process_panic_with_it(void)
{
	struct ew_run_options options = { .workers_count = 1 };

	(void)!ew_run(&options, panic_with_it, NULL);
}

TEST(foreign_lock_held_in_a_panic_ends_the_process)
{
	struct ended ended = run_process(process_panic_with_it);

	EXPECT(WIFSIGNALED(ended.status) && WTERMSIG(ended.status) == SIGABRT);
	EXPECT(strstr(ended.text, "with a lock held"));
}

static int forced_with_it(void *argument)
{
	unsigned *refused = argument;

	{
		EW_FOREIGN_LOCK(held, &mutex);

		while (ew_cancel_rung() != EW_RUNG_FORCE)
			*refused += ew_yield() == -ECANCELED;
		*refused += ew_yield() == -ECANCELED;
	}
	EXPECT(is_free());
	(void)!ew_yield();
	*refused = 0; /* not reached: dropped in the call before */
	return 0;
}

static int force_it(void *argument)
{
	EW_SCOPE(scope, .budget_ns = EW_SECOND);

	EXPECT_EQ(ew_spawn(&scope, forced_with_it, argument, .droppable = true), 0);
	EXPECT_EQ(ew_yield(), 0);
	ew_scope_cancel(&scope, EW_REASON_REQUESTED);
	EXPECT_EQ(ew_scope_join(&scope), -ENOTRECOVERABLE);
	return 0;
}

TEST(foreign_lock_is_not_left_by_force)
{
	unsigned refused = 0;

	EXPECT_EQ(run_virtual(force_it, &refused), 0);
	EXPECT(refused > 0);
	EXPECT(is_free());
}

TEST(foreign_lock_outside_a_task_locks)
{
	pthread_mutex_t checking;
	pthread_mutexattr_t attributes;

	{
		EW_FOREIGN_LOCK(held, &mutex);
		EXPECT(!is_free());
	}
	EXPECT(is_free());
	pthread_mutexattr_init(&attributes);
	pthread_mutexattr_settype(&attributes, PTHREAD_MUTEX_ERRORCHECK);
	pthread_mutex_init(&checking, &attributes);
	{
		EW_FOREIGN_LOCK(held, &checking);
		{
			EW_FOREIGN_LOCK(again, &checking);
			EXPECT_EQ(again.result, EDEADLK);
		}
		EXPECT_EQ(pthread_mutex_trylock(&checking), EBUSY);
	}
	EXPECT_EQ(pthread_mutex_trylock(&checking), 0);
}

/* Which is one task and has no others: nobody of its own can run into the lock. */
TEST(foreign_lock_on_a_plain_thread_locks_before_and_after_its_first_suspension)
{
	char text[256] = "";
	FILE *to = fmemopen(text, sizeof(text), "w"), *before = stderr;
	int i;

	EXPECT(to != NULL);
	stderr = to;
	for (i = 0; i < 2; i++) {
		EW_FOREIGN_LOCK(held, &mutex);
		EXPECT_EQ(ew_sleep(1), 0);
		EXPECT(!is_free());
	}
	stderr = before;
	fclose(to);
	EXPECT(is_free());
	EXPECT_STR(text, "");
}

TEST_MAIN()
