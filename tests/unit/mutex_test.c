/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Mutexes: one holder, first come, first served, and nobody finds what a task that was ended where it stood has left
 * without being told.
 */

#include "crossing.h"

#include <endwell/mutex.h>

static struct ew_mutex mutex;

static bool is_free(void)
{
	return !mutex.held && !mutex.first && !mutex.last;
}

static int run_on(ew_task_fn *fn)
{
	mutex = (struct ew_mutex){ 0 };
	return run_virtual(fn, NULL);
}

/* What a lock is worth: 0, -EOWNERDEAD, -ENOTRECOVERABLE. It is not kept. */
static int ask(void)
{
	EW_OWN(ew_mutex_hold, hold);
	int r = ew_mutex_lock(&mutex, EW_NEVER, &hold);

	EXPECT_EQ(hold != NULL, r == 0 || r == -EOWNERDEAD);
	if (r == -EOWNERDEAD)
		ew_mutex_make_consistent(hold);
	return r;
}

struct locker {
	const char *name;
	int64_t deadline_ns;
	int64_t hold_ns;
	int result;
	bool repairs;
};

static int lock_for_a_while(void *argument)
{
	struct locker *locker = argument;
	EW_OWN(ew_mutex_hold, hold);

	locker->result = ew_mutex_lock(&mutex, locker->deadline_ns, &hold);
	EXPECT_EQ(hold != NULL, locker->result == 0 || locker->result == -EOWNERDEAD);
	if (!hold)
		return 0;
	trace("%s", locker->name);
	if (locker->repairs)
		ew_mutex_make_consistent(hold);
	return locker->hold_ns ? ew_sleep(locker->hold_ns) : 0;
}

static int take_and_give(void *argument)
{
	EW_OWN(ew_mutex_hold, hold);

	(void)argument;
	EXPECT_EQ(ew_mutex_lock(&mutex, EW_NEVER, &hold), 0);
	EXPECT(hold == &mutex.hold);
	ew_mutex_unlock(&hold);
	EXPECT(hold == NULL);
	ew_mutex_unlock(&hold);
	EXPECT(is_free());
	EXPECT_EQ(ew_mutex_try_lock(&mutex, &hold), 0);
	EXPECT_EQ(ew_close(&hold), 0);
	EXPECT(is_free());
	EXPECT_EQ(ew_mutex_lock(&mutex, EW_NOW, &hold), 0); /* free wins over a passed deadline */
	ew_abort(&hold);
	EXPECT(is_free());
	EXPECT_EQ(ask(), 0);
	EXPECT(is_free());
	return ask();
}

TEST(mutex_is_unlocked_by_name_or_by_its_place)
{
	EXPECT_EQ(run_on(take_and_give), 0);
	EXPECT_EQ(reports.count, 0);
}

static int in_line(void *argument)
{
	struct locker lockers[4] = { { "a", EW_NEVER, EW_SECOND, 1, false },
				     { "b", EW_NEVER, 0, 1, false },
				     { "c", EW_NEVER, EW_SECOND, 1, false },
				     { "d", EW_NEVER, 0, 1, false } };
	EW_OWN(ew_mutex_hold, mine);
	EW_OWN(ew_mutex_hold, again);
	EW_SCOPE(scope);
	int i;

	(void)argument;
	EXPECT_EQ(ew_mutex_lock(&mutex, EW_NEVER, &mine), 0);
	for (i = 0; i < 4; i++)
		EXPECT_EQ(ew_spawn(&scope, lock_for_a_while, &lockers[i]), 0);
	EXPECT_EQ(ew_yield(), 0);
	EXPECT_EQ(ew_mutex_try_lock(&mutex, &again), -EAGAIN);
	EXPECT(again == NULL);
	ew_mutex_unlock(&mine);
	EXPECT(mutex.held); /* handed on, never free in between */
	EXPECT_EQ(ew_mutex_try_lock(&mutex, &again), -EAGAIN);
	EXPECT_EQ(ew_mutex_lock(&mutex, EW_NEVER, &again), 0);
	trace("mine");
	ew_mutex_unlock(&again);
	return ew_scope_finish(&scope, ew_scope_join(&scope));
}

TEST(mutex_serves_in_order_of_arrival)
{
	EXPECT_EQ(run_on(in_line), 0);
	EXPECT_STR(traced, "a b c d mine");
}

static int time_out_in_line(void *argument)
{
	struct locker lockers[3] = { { "a", EW_NEVER, 0, 1, false },
				     { "b", 0, 0, 1, false },
				     { "c", EW_NEVER, 0, 1, false } };
	EW_OWN(ew_mutex_hold, mine);
	EW_SCOPE(scope);
	int i;

	(void)argument;
	lockers[1].deadline_ns = ew_after(EW_SECOND);
	EXPECT_EQ(ew_mutex_lock(&mutex, EW_NEVER, &mine), 0);
	for (i = 0; i < 3; i++)
		EXPECT_EQ(ew_spawn(&scope, lock_for_a_while, &lockers[i]), 0);
	EXPECT_EQ(ew_sleep(2 * EW_SECOND), 0);
	EXPECT_EQ(lockers[1].result, -ETIMEDOUT);
	ew_mutex_unlock(&mine);
	EXPECT_EQ(ew_scope_finish(&scope, ew_scope_join(&scope)), 0);
	EXPECT(is_free());
	return 0;
}

TEST(mutex_lock_that_times_out_leaves_the_line)
{
	EXPECT_EQ(run_on(time_out_in_line), 0);
	EXPECT_STR(traced, "a c");
}

/* Three in line; the middle one is cancelled, in the same turn in which the lock comes, before or after that. */
static int cancel_around_a_grant(bool cancel_first)
{
	struct locker lockers[2] = { { "a", EW_NEVER, EW_SECOND, 1, false },
				     { "b", EW_NEVER, 0, 1, false } };
	EW_OWN(ew_mutex_hold, mine);
	EW_SCOPE(scope);
	EW_SCOPE(first);

	EXPECT_EQ(ew_mutex_lock(&mutex, EW_NEVER, &mine), 0);
	EXPECT_EQ(ew_spawn(&first, lock_for_a_while, &lockers[0]), 0);
	EXPECT_EQ(ew_spawn(&scope, lock_for_a_while, &lockers[1]), 0);
	EXPECT_EQ(ew_yield(), 0);
	if (cancel_first)
		ew_scope_cancel(&first, EW_REASON_REQUESTED);
	ew_mutex_unlock(&mine);
	if (!cancel_first)
		ew_scope_cancel(&first, EW_REASON_REQUESTED);
	EXPECT_EQ(ew_scope_join(&first), cancel_first ? 0 : -ECANCELED); /* its sleep */
	EXPECT_EQ(ew_scope_finish(&first, 0), cancel_first ? 0 : -ECANCELED);
	EXPECT_EQ(ew_scope_finish(&scope, ew_scope_join(&scope)), 0);
	EXPECT_EQ(lockers[1].result, 0);
	EXPECT(is_free());
	return lockers[0].result;
}

static int grant_then_cancel(void *argument)
{
	(void)argument;
	EXPECT_EQ(cancel_around_a_grant(false), 0);
	return 0;
}

TEST(mutex_granted_before_a_cancel_is_held)
{
	EXPECT_EQ(run_on(grant_then_cancel), 0);
	EXPECT_STR(traced, "a b");
}

static int cancel_then_grant(void *argument)
{
	(void)argument;
	EXPECT_EQ(cancel_around_a_grant(true), -ECANCELED);
	return 0;
}

TEST(mutex_unlocked_after_a_cancel_goes_to_the_next)
{
	EXPECT_EQ(run_on(cancel_then_grant), 0);
	EXPECT_STR(traced, "b");
}

/*
 * The lock comes when the deadline has passed and no timer has been looked at yet: without a turn of the worker in
 * between, the timer finds the waiter gone from the line.
 */
static int grant_after_the_deadline(void *argument)
{
	struct locker locker = { "a", ew_after(EW_MILLISECOND), 0, 1, false };
	EW_OWN(ew_mutex_hold, mine);
	EW_SCOPE(scope);

	(void)argument;
	EXPECT_EQ(ew_mutex_lock(&mutex, EW_NEVER, &mine), 0);
	EXPECT_EQ(ew_spawn(&scope, lock_for_a_while, &locker), 0);
	EXPECT_EQ(ew_yield(), 0);
	while (ew_now() < locker.deadline_ns + 3 * EW_MILLISECOND)
		;
	ew_mutex_unlock(&mine);
	EXPECT_EQ(ew_scope_finish(&scope, ew_scope_join(&scope)), 0);
	EXPECT(is_free());
	return locker.result;
}

TEST(mutex_granted_before_its_deadline_is_noticed_is_held)
{
	mutex = (struct ew_mutex){ 0 };
	EXPECT_EQ(run_workers(1, grant_after_the_deadline, NULL), 0);
	EXPECT_STR(traced, "a");
}

/* A shield keeps it in line when its scope is cancelled; the cancel comes when the shield is left. */
static int lock_shielded(void *argument)
{
	struct locker *locker = argument;
	EW_OWN(ew_mutex_hold, hold);

	{
		EW_SHIELD(shield, .budget_ns = locker->hold_ns);

		locker->result = ew_mutex_lock(&mutex, EW_NEVER, &hold);
	}
	return ew_yield();
}

static int cancel_the_shielded(int64_t budget_ns)
{
	struct locker locker = { .hold_ns = budget_ns, .result = 1 };
	EW_OWN(ew_mutex_hold, mine);
	EW_SCOPE(scope);

	EXPECT_EQ(ew_mutex_lock(&mutex, EW_NEVER, &mine), 0);
	EXPECT_EQ(ew_spawn(&scope, lock_shielded, &locker), 0);
	EXPECT_EQ(ew_yield(), 0);
	ew_scope_cancel(&scope, EW_REASON_REQUESTED);
	{
		EW_SHIELD(shield, .budget_ns = 60 * EW_SECOND);

		EXPECT_EQ(ew_sleep(3 * EW_SECOND), 0);
	}
	ew_mutex_unlock(&mine);
	EXPECT_EQ(ew_scope_join(&scope), -ECANCELED);
	EXPECT_EQ(ew_scope_finish(&scope, 0), -ECANCELED);
	EXPECT(is_free());
	return locker.result;
}

static int cancel_within_the_budget(void *argument)
{
	(void)argument;
	return cancel_the_shielded(10 * EW_SECOND);
}

TEST(mutex_lock_behind_a_shield_outlasts_a_cancel)
{
	EXPECT_EQ(run_on(cancel_within_the_budget), 0);
}

static int cancel_beyond_the_budget(void *argument)
{
	(void)argument;
	return cancel_the_shielded(EW_SECOND) == -ECANCELED ? 0 : -1;
}

TEST(mutex_lock_behind_a_spent_shield_leaves_the_line)
{
	EXPECT_EQ(run_on(cancel_beyond_the_budget), 0);
}

static int panic_holding(void *argument)
{
	EW_OWN(ew_mutex_hold, hold);
	int r = ew_mutex_lock(&mutex, EW_NEVER, &hold);

	(void)argument;
	if (r == 0)
		r = ew_yield();
	EXPECT(r == 0 || r == -EOWNERDEAD);
	ew_panic("with a lock");
}

static void let_one_die(ew_task_fn *fn)
{
	EW_SCOPE(scope, .policy = EW_POLICY_INDEPENDENT);

	EXPECT_EQ(ew_spawn(&scope, fn, NULL), 0);
	EXPECT_EQ(ew_scope_finish(&scope, ew_scope_join(&scope)), 0);
}

static int tell_the_next(void *argument)
{
	(void)argument;
	let_one_die(panic_holding);
	EXPECT(is_free());
	EXPECT_EQ(ask(), -EOWNERDEAD); /* and repairs */
	EXPECT_EQ(ask(), 0);
	return 0;
}

TEST(mutex_of_a_task_that_panicked_says_so_until_it_is_repaired)
{
	EXPECT_EQ(run_on(tell_the_next), 0);
}

static int tell_by_try_lock(void *argument)
{
	EW_OWN(ew_mutex_hold, hold);

	(void)argument;
	let_one_die(panic_holding);
	EXPECT_EQ(ew_mutex_try_lock(&mutex, &hold), -EOWNERDEAD);
	EXPECT(hold != NULL);
	ew_mutex_unlock(&hold);
	EXPECT_EQ(ew_mutex_try_lock(&mutex, &hold), -ENOTRECOVERABLE);
	EXPECT(hold == NULL);
	return 0;
}

TEST(mutex_try_lock_tells_of_a_task_that_panicked)
{
	EXPECT_EQ(run_on(tell_by_try_lock), 0);
}

/* The one who waits while the holder panics is told; the second in line as well, if the first does not repair it. */
static int die_before_a_line(bool repairs, int second_result)
{
	struct locker lockers[3] = { { "a", EW_NEVER, EW_SECOND, 1, repairs },
				     { "b", EW_NEVER, EW_SECOND, 1, false },
				     { "c", EW_NEVER, EW_SECOND, 1, false } };
	EW_SCOPE(scope, .policy = EW_POLICY_INDEPENDENT);
	int i;

	EXPECT_EQ(ew_spawn(&scope, panic_holding, NULL), 0);
	for (i = 0; i < 3; i++)
		EXPECT_EQ(ew_spawn(&scope, lock_for_a_while, &lockers[i]), 0);
	EXPECT_EQ(ew_scope_finish(&scope, ew_scope_join(&scope)), 0);
	EXPECT_EQ(lockers[0].result, -EOWNERDEAD);
	EXPECT_EQ(lockers[1].result, second_result);
	EXPECT_EQ(lockers[2].result, second_result);
	EXPECT(is_free());
	return ask();
}

static int repair_in_line(void *argument)
{
	(void)argument;
	return die_before_a_line(true, 0);
}

TEST(mutex_repaired_is_as_good_as_new_for_those_in_line)
{
	EXPECT_EQ(run_on(repair_in_line), 0);
	EXPECT_STR(traced, "a b c");
}

static int lose_in_line(void *argument)
{
	(void)argument;
	return die_before_a_line(false, -ENOTRECOVERABLE) == -ENOTRECOVERABLE ? 0 : -1;
}

TEST(mutex_unlocked_without_repair_is_lost_for_those_in_line_and_later)
{
	EXPECT_EQ(run_on(lose_in_line), 0);
	EXPECT_STR(traced, "a");
}

static int die_again(void *argument)
{
	(void)argument;
	let_one_die(panic_holding);
	let_one_die(panic_holding); /* before it has repaired anything */
	EXPECT_EQ(ask(), -EOWNERDEAD);
	return ask();
}

TEST(mutex_whose_repairer_panics_asks_the_next_one)
{
	EXPECT_EQ(run_on(die_again), 0);
}

static int wait_holding(void *argument)
{
	EW_OWN(ew_mutex_hold, hold);

	EXPECT_EQ(ew_mutex_lock(&mutex, EW_NEVER, &hold), 0);
	EXPECT_EQ(ew_sleep(60 * EW_SECOND), -ECANCELED);
	if (argument)
		return -ECANCELED; /* in the ordinary way, with no time for a close: an abort */
	while (ew_sleep(EW_SECOND) < 0)
		;
	return 0;
}

static void force_one(bool droppable, bool returns)
{
	EW_SCOPE(scope, .budget_ns = returns ? 1 : EW_SECOND);
	int dropped = droppable ? -ENOTRECOVERABLE : -ECANCELED;

	EXPECT_EQ(ew_spawn(&scope, wait_holding, returns ? &scope : NULL, .droppable = droppable),
		  0);
	EXPECT_EQ(ew_yield(), 0);
	ew_scope_cancel(&scope, EW_REASON_REQUESTED);
	EXPECT_EQ(ew_scope_join(&scope), dropped);
	EXPECT_EQ(ew_scope_finish(&scope, 0), dropped);
}

static int force_the_droppable(void *argument)
{
	(void)argument;
	force_one(true, false);
	return ask() == -EOWNERDEAD ? 0 : -1;
}

TEST(mutex_of_a_task_that_force_dropped_says_so)
{
	EXPECT_EQ(run_on(force_the_droppable), 0);
}

static int force_the_returning(void *argument)
{
	(void)argument;
	force_one(false, true);
	return ask();
}

TEST(mutex_of_a_task_that_returns_forced_is_just_unlocked)
{
	EXPECT_EQ(run_on(force_the_returning), 0);
}

static int note_in_order(void *argument)
{
	(void)argument;
	return ask();
}

static int note_and_panic(void *argument)
{
	EW_OWN(ew_mutex_hold, hold);

	(void)argument;
	EXPECT_EQ(ew_mutex_lock(&mutex, EW_NEVER, &hold), 0);
	ew_panic("with a lock, in an ending");
}

static void no_abort(void *argument)
{
	(void)argument;
}

static int panic_with_an_ending_that_locks(void *argument)
{
	EW_GUARD(note, NULL, .close = note_in_order, .abort = no_abort);

	(void)argument;
	ew_panic("without a lock");
}

static int panic_with_an_ending_that_panics(void *argument)
{
	EW_GUARD(older, NULL, .close = note_in_order, .abort = no_abort);
	EW_GUARD(note, NULL, .close = note_and_panic, .abort = no_abort);

	(void)argument;
	ew_panic("without a lock");
}

static int lock_in_endings(void *argument)
{
	(void)argument;
	let_one_die(panic_with_an_ending_that_locks);
	EXPECT_EQ(ask(), 0);
	let_one_die(panic_with_an_ending_that_panics);
	EXPECT_EQ(ask(), 0); /* the older ending was told, and repaired */
	EXPECT_EQ(mutex.state, 0);
	let_one_die(note_and_panic);
	return ask();
}

/* While a task is dropped its endings lock and unlock as ever. */
TEST(mutex_locked_by_an_ending_of_a_panic_is_in_order_if_that_returns)
{
	EXPECT_EQ(run_on(lock_in_endings), -EOWNERDEAD);
}

static struct ew_mutex_hold *lost;

static int forget_hold(void *argument)
{
	(void)argument;
	return ew_mutex_lock(&mutex, EW_NEVER, &lost);
}

TEST(mutex_hold_forgotten_is_reported_and_the_next_is_told)
{
	struct ew_mutex_hold *hold = NULL;

	EXPECT_EQ(run_on(forget_hold), 0);
	EXPECT(reported("lock of a mutex", "mutex_test.c:"));
	EXPECT_EQ(ew_mutex_try_lock(&mutex, &hold), -EOWNERDEAD);
	ew_mutex_make_consistent(hold);
	ew_mutex_unlock(&hold);
	EXPECT(is_free());
}

static int overwrite_hold(void *argument)
{
	struct ew_mutex other = { 0 };
	EW_OWN(ew_mutex_hold, hold);

	(void)argument;
	EXPECT_EQ(ew_mutex_lock(&mutex, EW_NEVER, &hold), 0);
	EXPECT_EQ(ew_mutex_lock(&other, EW_NEVER, &hold), 0);
	EXPECT(is_free());
	EXPECT(other.held);
	return 0;
}

TEST(mutex_hold_overwritten_is_reported_and_unlocked)
{
	EXPECT_EQ(run_on(overwrite_hold), 0);
	EXPECT(reported("lock of a mutex", "about to be overwritten"));
}

TEST(mutex_can_be_locked_and_unlocked_outside_a_runtime)
{
	struct ew_mutex_hold *again = NULL;

	mutex = (struct ew_mutex){ 0 };
	{
		EW_OWN(ew_mutex_hold, hold);

		EXPECT_EQ(ew_mutex_try_lock(&mutex, &hold), 0);
		EXPECT_EQ(ew_mutex_try_lock(&mutex, &again), -EAGAIN);
		ew_mutex_unlock(&hold);
		EXPECT_EQ(ew_mutex_try_lock(&mutex, &hold), 0);
		EXPECT_EQ(ew_sleep(1), 0); /* from here on the thread is a task */
		ew_mutex_unlock(&hold);
		EXPECT_EQ(ew_mutex_lock(&mutex, EW_NEVER, &hold), 0);
	}
	EXPECT_EQ(ew_mutex_try_lock(&mutex, &again), 0); /* left in the ordinary way */
	ew_mutex_unlock(&again);
}

static void end_in(ew_task_fn *fn)
{
	mutex = (struct ew_mutex){ 0 };
	(void)!run_virtual(fn, NULL);
}

static int lock_twice(void *argument)
{
	EW_OWN(ew_mutex_hold, hold);
	EW_OWN(ew_mutex_hold, again);

	(void)argument;
	EXPECT_EQ(ew_mutex_lock(&mutex, EW_NEVER, &hold), 0);
	return ew_mutex_lock(&mutex, EW_NEVER, &again);
}

static void end_by_locking_twice(void)
{
	end_in(lock_twice);
}

TEST(mutex_locked_twice_by_a_task_ends_the_process)
{
	struct ended ended = run_process(end_by_locking_twice);

	EXPECT(WIFSIGNALED(ended.status) && WTERMSIG(ended.status) == SIGABRT);
	EXPECT(strstr(ended.text, "assertion failed") && strstr(ended.text, "mutex.c"));
}

static int unlock_what_it_took(void *argument, void *place)
{
	(void)argument;
	ew_mutex_unlock(place);
	return 0;
}

static int hand_over(void *argument)
{
	EW_OWN(ew_mutex_hold, hold);
	EW_SCOPE(scope);

	(void)argument;
	EXPECT_EQ(ew_mutex_lock(&mutex, EW_NEVER, &hold), 0);
	EXPECT_EQ(ew_spawn_take(&scope, unlock_what_it_took, NULL, &hold), 0);
	return ew_scope_join(&scope);
}

static void end_by_handing_over(void)
{
	end_in(hand_over);
}

TEST(mutex_unlocked_by_another_task_ends_the_process)
{
	struct ended ended = run_process(end_by_handing_over);

	EXPECT(WIFSIGNALED(ended.status) && WTERMSIG(ended.status) == SIGABRT);
	EXPECT(strstr(ended.text, "assertion failed") && strstr(ended.text, "mutex.c"));
}

struct contest {
	unsigned rounds;
	unsigned total; /* protected by the mutex, and by nothing else */
	unsigned half;	/* the same, but for the moment in which a holder works */
	_Atomic unsigned locked;
	_Atomic unsigned told;
};

/* Adds one, suspending in between with the half done: who is ended there has left it so. */
static int add_one(struct contest *contest, int64_t deadline_ns, bool panics)
{
	EW_OWN(ew_mutex_hold, hold);
	int r = ew_mutex_lock(&mutex, deadline_ns, &hold);

	if (r == -EOWNERDEAD) {
		contest->told++;
		EXPECT_EQ(contest->half, contest->total + 1);
		contest->half = contest->total;
		ew_mutex_make_consistent(hold);
		r = 0;
	}
	if (r < 0)
		return r;
	contest->locked++;
	EXPECT_EQ(contest->half, contest->total);
	contest->half++;
	r = ew_yield();
	if (panics)
		ew_panic("in the middle");
	contest->total++;
	return r;
}

static int contend(void *argument)
{
	struct contest *contest = argument;
	unsigned i;
	int r;

	for (i = 0; i < contest->rounds; i++) {
		r = add_one(contest, i % 3 ? EW_NEVER : ew_after(EW_MILLISECOND), false);
		if (r < 0 && r != -ETIMEDOUT)
			return r;
	}
	return 0;
}

static int contend_on_workers(void *argument)
{
	unsigned i;
	EW_SCOPE(scope);

	for (i = 0; i < 8; i++)
		EXPECT_EQ(ew_spawn(&scope, contend, argument, .worker = 1 + i % ew_workers_count()),
			  0);
	return ew_scope_finish(&scope, ew_scope_join(&scope));
}

TEST(mutex_across_workers_excludes)
{
	struct contest contest = { .rounds = RUNNING_ON_VALGRIND ? 30 : 2000 };

	mutex = (struct ew_mutex){ 0 };
	EXPECT_EQ(run_workers(2, contend_on_workers, &contest), 0);
	EXPECT_EQ(contest.total, contest.locked);
	EXPECT_EQ(contest.told, 0);
	EXPECT(is_free());
}

static int die_in_the_middle(void *argument)
{
	return add_one(argument, EW_NEVER, true);
}

/* Some are cancelled at whatever moment, one panics in each round. Nobody waits for ever, and each panic is told. */
static int cancel_and_panic_rounds(void *argument)
{
	struct contest *contest = argument;
	unsigned rounds = contest->rounds, i, j;

	contest->rounds = 1000000;
	for (i = 0; i < rounds; i++) {
		EW_SCOPE(steady, .policy = EW_POLICY_INDEPENDENT);
		EW_SCOPE(scope);

		EXPECT_EQ(ew_spawn(&steady, die_in_the_middle, contest,
				   .worker = 1 + i % ew_workers_count()),
			  0);
		for (j = 0; j < 6; j++)
			EXPECT_EQ(ew_spawn(&scope, contend, contest,
					   .worker = 1 + j % ew_workers_count()),
				  0);
		for (j = 0; j < i % 7; j++)
			EXPECT_EQ(ew_yield(), 0);
		ew_scope_cancel(&scope, EW_REASON_REQUESTED);
		EXPECT_EQ(ew_scope_finish(&scope, 0), -ECANCELED);
		EXPECT_EQ(ew_scope_finish(&steady, ew_scope_join(&steady)), 0);
	}
	return add_one(contest, EW_NEVER, false);
}

TEST(mutex_across_workers_survives_cancels_and_panics)
{
	struct contest contest = { .rounds = RUNNING_ON_VALGRIND ? 10 : 300 };
	unsigned rounds = contest.rounds;

	mutex = (struct ew_mutex){ 0 };
	EXPECT_EQ(run_workers(2, cancel_and_panic_rounds, &contest), 0);
	EXPECT_EQ(contest.told, rounds);
	EXPECT_EQ(contest.total + rounds, contest.locked);
	EXPECT_EQ(contest.half, contest.total);
	EXPECT(is_free());
}

static int lock_and_see_the_cancel(void *argument)
{
	EW_OWN(ew_mutex_hold, hold);
	int r = ew_mutex_lock(&mutex, EW_NEVER, &hold);

	(void)argument;
	EXPECT_EQ(hold != NULL, r == 0);
	EXPECT_EQ(ew_yield(), -ECANCELED);
	return r;
}

static void unlock_now(void *hold)
{
	ew_mutex_unlock(hold);
}

static int cross_a_cancel(void *argument)
{
	EW_OWN(ew_mutex_hold, hold);

	(void)argument;
	EXPECT_EQ(ew_mutex_lock(&mutex, EW_NEVER, &hold), 0);
	EXPECT_EQ(cross(lock_and_see_the_cancel, unlock_now, &hold), 0);
	EXPECT(is_free());
	return 0;
}

TEST(mutex_grant_that_crosses_a_cancel_is_held)
{
	mutex = (struct ew_mutex){ 0 };
	EXPECT_EQ(run_workers(2, cross_a_cancel, NULL), 0);
}

static int lock_in_turn(void *argument)
{
	struct locker *locker = argument;
	EW_OWN(ew_mutex_hold, hold);
	int r = ew_mutex_lock(&mutex, EW_NEVER, &hold);

	trace("%s", locker->name);
	return r;
}

static const struct ew_waiter *last_in_line(void)
{
	const struct ew_waiter *last;

	while (atomic_exchange(&mutex.lock, 1))
		sched_yield();
	last = mutex.last;
	atomic_store(&mutex.lock, 0);
	return last;
}

/* Each is in line before the next one comes, on alternating workers. */
static int line_across_workers(void *argument)
{
	struct locker lockers[6] = { { .name = "a" }, { .name = "b" }, { .name = "c" },
				     { .name = "d" }, { .name = "e" }, { .name = "f" } };
	const struct ew_waiter *before;
	unsigned i;
	EW_SCOPE(scope);
	EW_OWN(ew_mutex_hold, mine);

	(void)argument;
	EXPECT_EQ(ew_mutex_lock(&mutex, EW_NEVER, &mine), 0);
	for (i = 0; i < 6; i++) {
		before = last_in_line();
		EXPECT_EQ(ew_spawn(&scope, lock_in_turn, &lockers[i],
				   .worker = 1 + i % ew_workers_count()),
			  0);
		while (last_in_line() == before)
			EXPECT_EQ(ew_yield(), 0);
	}
	ew_mutex_unlock(&mine);
	return ew_scope_finish(&scope, ew_scope_join(&scope));
}

TEST(mutex_serves_in_order_of_arrival_across_workers)
{
	mutex = (struct ew_mutex){ 0 };
	EXPECT_EQ(run_workers(2, line_across_workers, NULL), 0);
	EXPECT_STR(traced, "a b c d e f");
}

struct shared {
	struct ew_mutex mutex;
	unsigned users;
};

static int use_and_free(void *argument)
{
	struct shared *shared = argument;
	EW_OWN(ew_mutex_hold, hold);
	bool last;
	int r;

	r = ew_mutex_lock(&shared->mutex, EW_NEVER, &hold);
	if (r < 0)
		return r;
	last = --shared->users == 0;
	ew_mutex_unlock(&hold);
	if (last) {
		memset(shared, 0xff, sizeof(*shared));
		free(shared);
	}
	return 0;
}

static int free_after_lock(void *argument)
{
	int i, rounds = RUNNING_ON_VALGRIND ? 50 : 3000;

	(void)argument;
	for (i = 0; i < rounds; i++) {
		struct shared *shared = calloc(1, sizeof(*shared));
		EW_SCOPE(scope);
		unsigned j;

		EXPECT(shared != NULL);
		shared->users = 3;
		for (j = 0; j < 3; j++)
			EXPECT_EQ(ew_spawn(&scope, use_and_free, shared, .worker = 1 + j % 2), 0);
		EXPECT_EQ(ew_scope_join(&scope), 0);
	}
	return 0;
}

/* An unlock that touched the mutex after handing it on would write into freed memory: seen by the sanitizers. */
TEST(mutex_may_be_freed_by_its_next_holder)
{
	EXPECT_EQ(run_workers(2, free_after_lock, NULL), 0);
}

TEST_MAIN()
