/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Conditions: no signal is lost, whatever is cancelled meanwhile, and the lock is there on every way back.
 */

#include "crossing.h"

#include <endwell/condition.h>

static struct ew_mutex mutex;
static struct ew_condition condition;

static bool is_idle(void)
{
	return !mutex.held && !mutex.first && !condition.first && !condition.last;
}

static void reset(void)
{
	mutex = (struct ew_mutex){ 0 };
	condition = (struct ew_condition){ 0 };
}

static int run_on(ew_task_fn *fn)
{
	int r;

	reset();
	r = run_virtual(fn, NULL);
	EXPECT(is_idle());
	return r;
}

struct waiting {
	const char *name;
	int64_t deadline_ns;
	int result;
};

/* Waits once, for no state of its own: what it hears is the test's affair. */
static int wait_once(void *argument)
{
	struct waiting *waiting = argument;
	EW_OWN(ew_mutex_hold, hold);

	EXPECT_EQ(ew_mutex_lock(&mutex, EW_NEVER, &hold), 0);
	waiting->result = ew_condition_wait(&condition, waiting->deadline_ns, &hold);
	EXPECT(hold == &mutex.hold);
	trace("%s", waiting->name);
	return 0;
}

static void spawn_three(struct ew_scope *scope, struct ew_scope *first, struct waiting *waiting)
{
	static const char *const names[] = { "a", "b", "c" };
	int i;

	for (i = 0; i < 3; i++) {
		waiting[i] = (struct waiting){ names[i], EW_NEVER, 1 };
		EXPECT_EQ(ew_spawn(i == 0 ? first : scope, wait_once, &waiting[i]), 0);
	}
	EXPECT_EQ(ew_yield(), 0);
	EXPECT(condition.first && !mutex.held);
}

static int signal_and_broadcast(void *argument)
{
	struct waiting waiting[3];
	EW_OWN(ew_mutex_hold, hold);
	EW_SCOPE(scope);

	(void)argument;
	ew_condition_signal(&condition); /* nobody is there: it is not kept */
	ew_condition_broadcast(&condition);
	spawn_three(&scope, &scope, waiting);
	ew_condition_signal(&condition);
	EXPECT_EQ(ew_sleep(EW_SECOND), 0);
	EXPECT_STR(traced, "a");
	EXPECT_EQ(ew_mutex_lock(&mutex, EW_NEVER, &hold), 0);
	ew_condition_broadcast(&condition); /* with the lock: they come when it is free */
	EXPECT_EQ(ew_sleep(EW_SECOND), 0);
	EXPECT_STR(traced, "a");
	ew_mutex_unlock(&hold);
	EXPECT_EQ(ew_scope_join(&scope), 0);
	EXPECT_STR(traced, "a b c");
	EXPECT_EQ(waiting[0].result | waiting[1].result | waiting[2].result, 0);
	return 0;
}

TEST(condition_signal_wakes_the_first_and_broadcast_all_in_order)
{
	EXPECT_EQ(run_on(signal_and_broadcast), 0);
}

static struct ew_mutex_hold **watched_place;

static int wait_watched(void *argument)
{
	EW_OWN(ew_mutex_hold, hold);

	(void)argument;
	EXPECT_EQ(ew_mutex_lock(&mutex, EW_NEVER, &hold), 0);
	watched_place = &hold;
	EXPECT_EQ(ew_condition_wait(&condition, EW_NEVER, &hold), 0);
	EXPECT(hold == &mutex.hold);
	return 0;
}

static int watch_place(void *argument)
{
	EW_OWN(ew_mutex_hold, mine);
	EW_SCOPE(scope);

	(void)argument;
	EXPECT_EQ(ew_spawn(&scope, wait_watched, NULL), 0);
	EXPECT_EQ(ew_yield(), 0);
	EXPECT(*watched_place == NULL);
	EXPECT_EQ(ew_mutex_try_lock(&mutex, &mine), 0);
	ew_condition_signal(&condition);
	EXPECT_EQ(ew_sleep(EW_SECOND), 0);
	EXPECT(*watched_place == NULL);
	ew_mutex_unlock(&mine);
	return ew_scope_finish(&scope, ew_scope_join(&scope));
}

TEST(condition_wait_has_an_empty_place_until_it_has_the_lock_again)
{
	EXPECT_EQ(run_on(watch_place), 0);
}

/* The deadline passes; the lock is somebody's for longer; the wait comes back with it. */
static int time_out(void *argument)
{
	struct waiting waiting = { "timed-out", ew_after(EW_SECOND), 1 };
	EW_OWN(ew_mutex_hold, mine);
	EW_SCOPE(scope);

	(void)argument;
	EXPECT_EQ(ew_spawn(&scope, wait_once, &waiting), 0);
	EXPECT_EQ(ew_yield(), 0);
	EXPECT_EQ(ew_mutex_lock(&mutex, EW_NEVER, &mine), 0);
	EXPECT_EQ(ew_sleep(5 * EW_SECOND), 0);
	EXPECT(!condition.first);
	EXPECT(mutex.first != NULL);
	EXPECT_STR(traced, "");
	ew_mutex_unlock(&mine);
	EXPECT_EQ(ew_scope_finish(&scope, ew_scope_join(&scope)), 0);
	EXPECT_EQ(waiting.result, -ETIMEDOUT);
	return 0;
}

TEST(condition_wait_that_times_out_has_the_lock)
{
	EXPECT_EQ(run_on(time_out), 0);
	EXPECT_STR(traced, "timed-out");
}

/* Cancelled, and forced, it still waits for the lock, as a join would. */
static int cancel_and_force(void *argument)
{
	struct waiting waiting = { "cancelled", EW_NEVER, 1 };
	EW_OWN(ew_mutex_hold, mine);
	EW_SCOPE(scope, .budget_ns = EW_SECOND);

	(void)argument;
	EXPECT_EQ(ew_spawn(&scope, wait_once, &waiting, .droppable = true), 0);
	EXPECT_EQ(ew_yield(), 0);
	EXPECT_EQ(ew_mutex_lock(&mutex, EW_NEVER, &mine), 0);
	ew_scope_cancel(&scope, EW_REASON_REQUESTED);
	{
		EW_SHIELD(shield, .budget_ns = 60 * EW_SECOND);

		(void)!ew_sleep(5 * EW_SECOND);
	}
	EXPECT(!condition.first);
	EXPECT_EQ(ew_scope_children_count(&scope), 1);
	EXPECT_STR(traced, "");
	ew_mutex_unlock(&mine);
	EXPECT_EQ(ew_scope_join(&scope), 0);
	EXPECT_EQ(waiting.result, -ECANCELED);
	return ew_scope_finish(&scope, 0);
}

TEST(condition_wait_that_is_cancelled_has_the_lock)
{
	EXPECT_EQ(run_on(cancel_and_force), 0);
	EXPECT_STR(traced, "cancelled");
}

static int refuse_at_once(void *argument)
{
	EW_OWN(ew_mutex_hold, hold);
	EW_SCOPE(scope);

	(void)argument;
	EXPECT_EQ(ew_mutex_lock(&mutex, EW_NEVER, &hold), 0);
	ew_scope_cancel(&scope, EW_REASON_REQUESTED);
	EXPECT_EQ(ew_condition_wait(&condition, EW_NEVER, &hold), -ECANCELED);
	EXPECT(hold == &mutex.hold && mutex.held);
	return 0;
}

TEST(condition_wait_refused_has_never_unlocked)
{
	EXPECT_EQ(run_on(refuse_at_once), 0);
}

/* Signal and cancel for the first of three, in one turn. */
static int signal_around_a_cancel(bool cancel_first)
{
	struct waiting waiting[3];
	EW_SCOPE(scope);
	EW_SCOPE(first);

	spawn_three(&scope, &first, waiting);
	if (cancel_first)
		ew_scope_cancel(&first, EW_REASON_REQUESTED);
	ew_condition_signal(&condition);
	if (!cancel_first)
		ew_scope_cancel(&first, EW_REASON_REQUESTED);
	EXPECT_EQ(ew_scope_finish(&first, 0), 0);
	EXPECT_EQ(ew_sleep(EW_SECOND), 0);
	EXPECT_EQ(waiting[1].result,
		  cancel_first ? 0 : 1); /* the second hears it, or still waits */
	EXPECT_EQ(waiting[2].result, 1);
	ew_condition_broadcast(&condition);
	EXPECT_EQ(ew_scope_finish(&scope, ew_scope_join(&scope)), 0);
	return waiting[0].result;
}

static int signal_then_cancel(void *argument)
{
	(void)argument;
	return signal_around_a_cancel(false);
}

TEST(condition_signal_before_a_cancel_is_kept)
{
	EXPECT_EQ(run_on(signal_then_cancel), 0);
}

static int cancel_then_signal(void *argument)
{
	(void)argument;
	return signal_around_a_cancel(true) == -ECANCELED ? 0 : -1;
}

TEST(condition_signal_after_a_cancel_goes_to_the_next)
{
	EXPECT_EQ(run_on(cancel_then_signal), 0);
}

static int wait_and_see_the_cancel(void *argument)
{
	EW_OWN(ew_mutex_hold, hold);
	int r;

	(void)argument;
	EXPECT_EQ(ew_mutex_lock(&mutex, EW_NEVER, &hold), 0);
	r = ew_condition_wait(&condition, EW_NEVER, &hold);
	EXPECT(hold != NULL);
	EXPECT_EQ(ew_yield(), -ECANCELED);
	return r;
}

static void signal_now(void *argument)
{
	(void)argument;
	ew_condition_signal(&condition);
}

static void broadcast_now(void *argument)
{
	(void)argument;
	ew_condition_broadcast(&condition);
}

static int cross_a_cancel(void *argument)
{
	(void)argument;
	EXPECT_EQ(cross(wait_and_see_the_cancel, signal_now, NULL), 0);
	return cross(wait_and_see_the_cancel, broadcast_now, NULL);
}

TEST(condition_signal_that_crosses_a_cancel_is_kept)
{
	reset();
	EXPECT_EQ(run_workers(2, cross_a_cancel, NULL), 0);
	EXPECT(is_idle());
}

static int wait_shielded(void *argument)
{
	EW_SHIELD(shield, .budget_ns = 10 * EW_SECOND);

	return wait_once(argument);
}

static int cancel_the_shielded(void *argument)
{
	struct waiting waiting = { "shielded", EW_NEVER, 1 };
	EW_SCOPE(scope);

	(void)argument;
	EXPECT_EQ(ew_spawn(&scope, wait_shielded, &waiting), 0);
	EXPECT_EQ(ew_yield(), 0);
	ew_scope_cancel(&scope, EW_REASON_REQUESTED);
	EXPECT(condition.first != NULL);
	ew_condition_signal(&condition);
	EXPECT_EQ(ew_scope_join(&scope), 0);
	return waiting.result;
}

TEST(condition_wait_behind_a_shield_outlasts_a_cancel)
{
	EXPECT_EQ(run_on(cancel_the_shielded), 0);
}

static int panic_holding(void *argument)
{
	EW_OWN(ew_mutex_hold, hold);

	EXPECT_EQ(ew_mutex_lock(&mutex, EW_NEVER, &hold), 0);
	if (argument)
		ew_condition_signal(&condition);
	ew_panic("with the lock");
}

/* The first that comes back is told and repairs it, or does not, and then the others have no lock. */
static int wait_and_be_told(void *argument)
{
	struct waiting *waiting = argument;
	EW_OWN(ew_mutex_hold, hold);

	EXPECT_EQ(ew_mutex_lock(&mutex, EW_NEVER, &hold), 0);
	waiting->result = ew_condition_wait(&condition, waiting->deadline_ns, &hold);
	EXPECT_EQ(hold != NULL, waiting->result != -ENOTRECOVERABLE);
	if (waiting->result == -EOWNERDEAD && waiting->name)
		ew_mutex_make_consistent(hold);
	return 0;
}

static void die_while_two_wait(bool repairs, struct waiting *waiting)
{
	EW_SCOPE(scope, .policy = EW_POLICY_INDEPENDENT);
	int i;

	for (i = 0; i < 2; i++) {
		waiting[i] = (struct waiting){ repairs ? "repairs" : NULL, EW_NEVER, 1 };
		EXPECT_EQ(ew_spawn(&scope, wait_and_be_told, &waiting[i]), 0);
	}
	EXPECT_EQ(ew_yield(), 0);
	EXPECT_EQ(ew_spawn(&scope, panic_holding, &scope), 0);
	EXPECT_EQ(ew_sleep(EW_SECOND), 0);
	ew_condition_signal(&condition);
	EXPECT_EQ(ew_scope_finish(&scope, ew_scope_join(&scope)), 0);
}

static int tell_waiters(void *argument)
{
	struct waiting waiting[2];

	(void)argument;
	die_while_two_wait(true, waiting);
	EXPECT_EQ(waiting[0].result, -EOWNERDEAD);
	EXPECT_EQ(waiting[1].result, 0);
	die_while_two_wait(false, waiting);
	EXPECT_EQ(waiting[0].result, -EOWNERDEAD);
	EXPECT_EQ(waiting[1].result, -ENOTRECOVERABLE);
	return 0;
}

TEST(condition_wait_tells_that_the_owner_of_the_lock_died)
{
	EXPECT_EQ(run_on(tell_waiters), 0);
}

static int wait_and_panic(void *argument)
{
	struct waiting *waiting = argument;
	EW_OWN(ew_mutex_hold, hold);

	EXPECT_EQ(ew_mutex_lock(&mutex, EW_NEVER, &hold), 0);
	waiting->result = ew_condition_wait(&condition, waiting->deadline_ns, &hold);
	ew_panic("with the lock that the wait has brought back");
}

static int panic_after_the_wait(void *argument)
{
	struct waiting waiting = { "panics", ew_after(EW_SECOND), 1 };
	EW_OWN(ew_mutex_hold, hold);
	EW_SCOPE(scope, .policy = EW_POLICY_INDEPENDENT);

	(void)argument;
	EXPECT_EQ(ew_spawn(&scope, wait_and_panic, &waiting), 0);
	EXPECT_EQ(ew_scope_join(&scope), 0);
	EXPECT_EQ(ew_mutex_lock(&mutex, EW_NEVER, &hold), -EOWNERDEAD);
	return waiting.result == -ETIMEDOUT ? 0 : -1;
}

TEST(condition_wait_gives_back_a_lock_that_a_panic_leaves_marked)
{
	EXPECT_EQ(run_on(panic_after_the_wait), 0);
}

static int wait_without_lock(void *argument)
{
	struct ew_mutex_hold *none = NULL;

	(void)argument;
	return ew_condition_wait(&condition, EW_NEVER, &none);
}

static int wait_unrepaired(void *argument)
{
	EW_OWN(ew_mutex_hold, hold);
	EW_SCOPE(scope, .policy = EW_POLICY_INDEPENDENT);

	(void)argument;
	EXPECT_EQ(ew_spawn(&scope, panic_holding, NULL), 0);
	EXPECT_EQ(ew_scope_join(&scope), 0);
	EXPECT_EQ(ew_mutex_lock(&mutex, EW_NEVER, &hold), -EOWNERDEAD);
	return ew_condition_wait(&condition, EW_NEVER, &hold);
}

static int wait_with_another_mutex(void *argument)
{
	struct waiting waiting = { "first", EW_NEVER, 1 };
	struct ew_mutex other = { 0 };
	EW_OWN(ew_mutex_hold, hold);
	EW_SCOPE(scope);

	(void)argument;
	EXPECT_EQ(ew_spawn(&scope, wait_once, &waiting), 0);
	EXPECT_EQ(ew_yield(), 0);
	EXPECT_EQ(ew_mutex_lock(&other, EW_NEVER, &hold), 0);
	return ew_condition_wait(&condition, EW_NEVER, &hold);
}

static ew_task_fn *misuse;

static void misuse_it(void)
{
	reset();
	(void)!run_virtual(misuse, NULL);
}

TEST(condition_misused_ends_the_process)
{
	static ew_task_fn *const misuses[] = { wait_without_lock, wait_unrepaired,
					       wait_with_another_mutex };
	struct ended ended;
	size_t i;

	for (i = 0; i < sizeof(misuses) / sizeof(misuses[0]); i++) {
		misuse = misuses[i];
		ended = run_process(misuse_it);
		EXPECT(WIFSIGNALED(ended.status) && WTERMSIG(ended.status) == SIGABRT);
		EXPECT(strstr(ended.text, "assertion failed") && strstr(ended.text, "condition.c"));
	}
}

/* A bounded buffer with nothing but a count in it. */
struct buffer {
	unsigned count;
	_Atomic unsigned put;
	_Atomic unsigned taken;
	_Atomic unsigned cut;
	struct ew_condition filled;
	struct ew_condition emptied;
};

#define BUFFER_MAX 2

static int put_one(struct buffer *buffer)
{
	EW_OWN(ew_mutex_hold, hold);
	int r = ew_mutex_lock(&mutex, EW_NEVER, &hold);

	while (r == 0 && buffer->count == BUFFER_MAX)
		r = ew_condition_wait(&buffer->emptied, EW_NEVER, &hold);
	if (r < 0)
		return r;
	buffer->count++;
	buffer->put++;
	ew_mutex_unlock(&hold);
	ew_condition_signal(&buffer->filled);
	return 0;
}

/* A signal that was used up is followed by taking: the cancel that may have come meanwhile has not been seen yet. */
static int take_one(struct buffer *buffer, int64_t deadline_ns)
{
	EW_OWN(ew_mutex_hold, hold);
	int r = ew_mutex_lock(&mutex, deadline_ns, &hold);

	while (r == 0 && buffer->count == 0)
		r = ew_condition_wait(&buffer->filled, deadline_ns, &hold);
	if (r < 0)
		return r;
	buffer->count--;
	buffer->taken++;
	ew_condition_signal(&buffer->emptied);
	return 0;
}

#define PUTS (RUNNING_ON_VALGRIND ? 200u : 5000u)

static int put_many(void *argument)
{
	unsigned i;
	int r = 0;

	for (i = 0; i < PUTS && r == 0; i++)
		r = put_one(argument);
	return r;
}

static int take_many(void *argument)
{
	unsigned i;
	int r = 0;

	for (i = 0; i < PUTS && r == 0; i++) {
		do
			r = take_one(argument, i % 3 ? EW_NEVER : ew_after(EW_MILLISECOND / 2));
		while (r == -ETIMEDOUT);
	}
	return r;
}

static int take_until_cut(void *argument)
{
	struct buffer *buffer = argument;
	int r;

	do
		r = take_one(buffer, EW_NEVER);
	while (r == 0);
	buffer->cut++;
	return r;
}

static int move_all(void *argument)
{
	unsigned i;
	EW_SCOPE(scope);

	for (i = 0; i < 4; i++) {
		EXPECT_EQ(ew_spawn(&scope, put_many, argument, .worker = 1 + i % 2), 0);
		EXPECT_EQ(ew_spawn(&scope, take_many, argument, .worker = 1 + i / 2 % 2), 0);
	}
	return ew_scope_finish(&scope, ew_scope_join(&scope));
}

/* A wake-up that is lost is a run that does not end. */
TEST(condition_across_workers_loses_no_signal)
{
	struct buffer buffer = { 0 };

	reset();
	EXPECT_EQ(run_workers(2, move_all, &buffer), 0);
	EXPECT_EQ(buffer.put, 4 * PUTS);
	EXPECT_EQ(buffer.taken, 4 * PUTS);
	EXPECT(is_idle());
}

static int put_ten(void *argument)
{
	int i, r = 0;

	for (i = 0; i < 10 && r == 0; i++)
		r = put_one(argument);
	return r;
}

/* Ten are put while those that wait for them are cancelled: the one who stays, and came last, gets what is left. */
static void cancel_round(struct buffer *buffer, unsigned round)
{
	unsigned i, workers = ew_workers_count();
	EW_SCOPE(scope);
	EW_SCOPE(cut);

	for (i = 0; i < 4; i++)
		EXPECT_EQ(ew_spawn(&cut, take_until_cut, buffer, .worker = 1 + i % workers), 0);
	for (i = 0; i < round % 5; i++)
		EXPECT_EQ(ew_yield(), 0);
	EXPECT_EQ(ew_spawn(&scope, take_until_cut, buffer), 0);
	EXPECT_EQ(ew_spawn(&scope, put_ten, buffer, .worker = workers), 0);
	for (i = 0; i < round % 7; i++)
		EXPECT_EQ(ew_yield(), 0);
	ew_scope_cancel(&cut, EW_REASON_REQUESTED);
	EXPECT_EQ(ew_scope_finish(&cut, 0), -ECANCELED);
	while (buffer->taken != 10 * (round + 1))
		EXPECT_EQ(ew_yield(), 0);
	ew_scope_cancel(&scope, EW_REASON_REQUESTED);
	EXPECT_EQ(ew_scope_finish(&scope, 0), -ECANCELED);
	EXPECT_EQ(buffer->count, 0);
	EXPECT(is_idle());
}

static int cancel_rounds(void *argument)
{
	unsigned i, rounds = RUNNING_ON_VALGRIND ? 20 : 500;

	for (i = 0; i < rounds; i++)
		cancel_round(argument, i);
	return 0;
}

TEST(condition_across_workers_loses_no_signal_to_the_cancelled)
{
	struct buffer buffer = { 0 };

	reset();
	EXPECT_EQ(run_workers(2, cancel_rounds, &buffer), 0);
	EXPECT_EQ(buffer.put, buffer.taken);
}

struct meeting {
	struct ew_mutex mutex;
	struct ew_condition condition;
	bool come;
};

static int wait_and_free(void *argument)
{
	struct meeting *meeting = argument;
	EW_OWN(ew_mutex_hold, hold);
	int r = ew_mutex_lock(&meeting->mutex, EW_NEVER, &hold);

	while (r == 0 && !meeting->come)
		r = ew_condition_wait(&meeting->condition, EW_NEVER, &hold);
	ew_mutex_unlock(&hold);
	memset(meeting, 0xff, sizeof(*meeting));
	free(meeting);
	return r;
}

static int come(void *argument)
{
	struct meeting *meeting = argument;
	EW_OWN(ew_mutex_hold, hold);
	int r = ew_mutex_lock(&meeting->mutex, EW_NEVER, &hold);

	meeting->come = true;
	ew_condition_signal(&meeting->condition);
	return r;
}

static int free_after_wait(void *argument)
{
	int i, rounds = RUNNING_ON_VALGRIND ? 50 : 2000;

	(void)argument;
	for (i = 0; i < rounds; i++) {
		struct meeting *meeting = calloc(1, sizeof(*meeting));
		EW_SCOPE(scope);

		EXPECT(meeting != NULL);
		EXPECT_EQ(ew_spawn(&scope, wait_and_free, meeting), 0);
		EXPECT_EQ(ew_spawn(&scope, come, meeting, .worker = 2), 0);
		EXPECT_EQ(ew_scope_join(&scope), 0);
	}
	return 0;
}

/* A signal, with the lock held, that touched the condition after waking would write into freed memory (TSan). */
TEST(condition_may_be_freed_by_its_waiter)
{
	EXPECT_EQ(run_workers(2, free_after_wait, NULL), 0);
}

TEST_MAIN()
