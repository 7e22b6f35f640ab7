/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Sweeps over the core: each scenario is ended at each of its suspensions, in every way, and nothing may be left.
 */

#include "sweep.h"

#include <endwell/offload.h>

static int nap(void *argument)
{
	return ew_sleep((int64_t)(intptr_t)argument * EW_SECOND);
}

static int nap_guarded(void *argument)
{
	BOOKED_GUARD(undo, EW_SECOND);

	return nap(argument);
}

static int family(void *argument)
{
	int r;
	EW_SCOPE(scope);

	r = ew_spawn(&scope, nap_guarded, argument);
	if (r == 0)
		r = ew_spawn(&scope, nap, argument);
	if (r == 0)
		r = ew_yield();
	return ew_scope_finish(&scope, r);
}

static int nested_scopes(void *argument)
{
	int r;
	EW_SCOPE(outer);

	(void)argument;
	r = ew_spawn(&outer, family, (void *)2);
	if (r == 0)
		r = ew_spawn(&outer, family, (void *)3);
	if (r == 0)
		r = ew_sleep_until(ew_after(EW_SECOND));
	{
		EW_SCOPE(inner);

		if (r == 0)
			r = ew_spawn(&inner, nap_guarded, (void *)1);
		if (r == 0)
			r = ew_yield();
		r = ew_scope_finish(&inner, r);
	}
	return ew_scope_finish(&outer, r);
}

TEST(sweep_nested_scopes)
{
	expect_sweeps(nested_scopes, 12);
}

static int leave_early(void *argument)
{
	int r;
	BOOKED_GUARD(above, EW_SECOND);
	EW_SCOPE(scope);

	(void)argument;
	r = ew_spawn(&scope, nap_guarded, (void *)60);
	if (r == 0)
		r = ew_spawn(&scope, family, (void *)60);
	if (r < 0)
		return r;
	return ew_yield(); /* the block is left with everybody still there */
}

TEST(sweep_scope_left_early)
{
	expect_sweeps(leave_early, 6);
}

static int endings(void *argument)
{
	int r;
	BOOKED_GUARD(first, EW_SECOND);
	EW_OWN(thing, one);
	BOOKED_GUARD(second, 2 * EW_SECOND, .reserve_ns = EW_SECOND);
	EW_OWN(thing, other);
	BOOKED_GUARD(third, 0);

	(void)argument;
	one = open_thing(EW_SECOND);
	r = ew_yield();
	if (r < 0)
		return r;
	other = open_thing(EW_SECOND);
	r = ew_sleep(EW_SECOND);
	if (r < 0)
		return r;
	r = ew_close(&one);
	if (r < 0)
		return r;
	return ew_guard_run(&second);
}

TEST(sweep_places_and_guards)
{
	expect_sweeps(endings, 6);
}

static int disarmed(void *argument)
{
	struct thing *moved;
	int r;
	EW_OWN(thing, target);
	EW_OWN(thing, source);
	BOOKED_GUARD(undo, EW_SECOND);

	(void)argument;
	source = open_thing(EW_SECOND);
	r = ew_sleep(EW_SECOND);
	if (r < 0)
		return r;
	moved = source;
	source = NULL;
	target = moved;
	r = ew_yield();
	if (r < 0)
		return r;
	r = ew_guard_run(&undo);
	ew_guard_disarm(&undo);
	return r;
}

TEST(sweep_moves_and_guards_by_name)
{
	expect_sweeps(disarmed, 4);
}

static int keep_company(void)
{
	int r;
	BOOKED_GUARD(inside, EW_SECOND);
	EW_SCOPE(scope);

	r = ew_spawn(&scope, nap_guarded, (void *)1);
	if (r == 0)
		r = ew_sleep(EW_SECOND);
	return ew_scope_finish(&scope, r);
}

static int close_with_company(void *argument)
{
	struct probe *probe = argument;
	int r = keep_company();

	if (r != -ECANCELED)
		probe->closed++; /* last: until here a panic means abort */
	return r;
}

static int nested_endings(void *argument)
{
	BOOKED_GUARD(older, EW_SECOND, .reserve_ns = 2 * EW_SECOND);
	EW_GUARD(undo, open_probe(0), .close = close_with_company, .abort = probe_abort);
	BOOKED_GUARD(newer, EW_SECOND);

	(void)argument;
	return ew_yield();
}

TEST(sweep_endings_with_endings_and_children)
{
	expect_sweeps(nested_endings, 7);
}

static int with_ladder(void *argument)
{
	int r;
	EW_SCOPE(scope, .budget_ns = 3 * EW_SECOND, .deadline_ns = ew_after(2 * EW_SECOND));
	BOOKED_GUARD(older, EW_SECOND, .reserve_ns = 2 * EW_SECOND);
	BOOKED_GUARD(newer, 60 * EW_SECOND);

	(void)argument;
	r = ew_spawn(&scope, nap_guarded, (void *)60);
	r = ew_scope_finish(&scope, r == 0 ? ew_sleep(10 * EW_SECOND) : r);
	return r == -ETIMEDOUT ? 0 : r;
}

TEST(sweep_deadline_and_ladder)
{
	expect_sweeps(with_ladder, 5);
}

static int shields(void *argument)
{
	int r;
	BOOKED_GUARD(undo, EW_SECOND);
	EW_SCOPE(scope);

	(void)argument;
	r = ew_spawn(&scope, nap_guarded, (void *)2);
	{
		EW_SHIELD(outer, .budget_ns = 5 * EW_SECOND);

		if (r == 0)
			r = ew_sleep(EW_SECOND);
		{
			EW_SHIELD(inner, .budget_ns = EW_SECOND);
			BOOKED_GUARD(inside, EW_SECOND / 2);
			EW_SCOPE(shielded);

			if (r == 0)
				r = ew_spawn(&shielded, nap_guarded,
					     (void *)60); /* forced when the budget is spent */
			(void)!ew_scope_join(&shielded);
		}
		if (r == 0)
			r = ew_yield();
	}
	if (r == 0)
		r = ew_yield();
	return ew_scope_finish(&scope, r);
}

TEST(sweep_shields)
{
	expect_sweeps(shields, 7);
}

struct fetch {
	int64_t takes_ns;
	struct thing **value; /* a place of whoever wants it */
};

static int fetch(void *argument)
{
	const struct fetch *fetch = argument;
	int r;
	BOOKED_GUARD(undo, EW_SECOND);

	r = ew_sleep(fetch->takes_ns);
	if (r == 0)
		*fetch->value = open_thing(EW_SECOND);
	return r;
}

/* Two succeed at once, and one is late. Told of are as many as were spawned, whoever was ended where. */
static int first_of_three(void *argument)
{
	struct ew_child children[3] = { 0 }, *child;
	int spawned = 0, told = 0, r = 0;
	EW_OWN(thing, one);
	EW_OWN(thing, other);
	EW_OWN(thing, late);
	struct fetch fetches[3] = { { EW_SECOND, &one },
				    { EW_SECOND, &other },
				    { 5 * EW_SECOND, &late } };
	EW_SCOPE(scope, .policy = EW_POLICY_FIRST_SUCCESS);

	(void)argument;
	for (; r == 0 && spawned < 3; spawned += r == 0)
		r = ew_spawn(&scope, fetch, &fetches[spawned], .child = &children[spawned]);
	while (ew_scope_join_next(&scope, &child) > 0)
		told++;
	EXPECT_EQ(told, spawned);
	r = ew_scope_finish(&scope, r);
	return one ? ew_close(&one) : r;
}

/* Two at a time, four in all: each value is closed when it is there, and its place used for the next. */
static int one_by_one(void *argument)
{
	struct ew_child children[4] = { 0 }, *child;
	int spawned = 0, told = 0, r = 0;
	EW_OWN(thing, one);
	EW_OWN(thing, other);
	struct thing **free_place = &one;
	struct fetch fetches[4];
	EW_SCOPE(scope, .policy = EW_POLICY_INDEPENDENT);

	(void)argument;
	for (;;) {
		for (; r == 0 && spawned < 4 && spawned - told < 2; spawned += r == 0) {
			fetches[spawned] = (struct fetch){ EW_SECOND, free_place };
			r = ew_spawn(&scope, fetch, &fetches[spawned], .child = &children[spawned]);
			free_place = &other; /* if two are begun at once, in the beginning */
		}
		if (ew_scope_join_next(&scope, &child) == 0)
			break;
		told++;
		free_place = fetches[child - children].value;
		if (ew_close(free_place) < 0)
			r = -ECANCELED;
	}
	EXPECT_EQ(told, spawned);
	return ew_scope_finish(&scope, r);
}

TEST(sweep_groups)
{
	expect_sweeps(first_of_three, 4);
	expect_sweeps(one_by_one, 6);
}

static struct ew_semaphore *semaphore;

static const char *check_semaphore(void *argument)
{
	struct ew_semaphore_counts counts = ew_semaphore_count(semaphore);

	if (counts.free != counts.capacity)
		return "permits are not back";
	if (counts.waiting)
		return "somebody is still in line";
	return check_book(argument);
}

static int hold(void *argument)
{
	int r;
	EW_OWN(ew_permit, permit);
	BOOKED_GUARD(undo, EW_SECOND);

	r = ew_semaphore_acquire(semaphore, argument ? ew_after(2 * EW_SECOND) : EW_NEVER, &permit);
	if (r == -ETIMEDOUT)
		return 0;
	return r < 0 ? r : ew_sleep(3 * EW_SECOND);
}

static int hold_taken(void *argument, void *place)
{
	int r = nap(argument);

	if (r == 0)
		ew_permit_release(place);
	return r < 0 ? r : ew_yield();
}

static int line(void *argument)
{
	int r;
	EW_OWN(ew_permit, mine);
	EW_SCOPE(scope);

	(void)argument;
	r = ew_semaphore_acquire(semaphore, EW_NEVER, &mine);
	if (r == 0)
		r = ew_spawn(&scope, hold, NULL);
	if (r == 0)
		r = ew_spawn(&scope, hold, (void *)1);
	if (r == 0)
		r = ew_spawn(&scope, hold, NULL);
	if (r == 0)
		r = ew_sleep(EW_SECOND);
	if (r == 0)
		r = ew_spawn_take(&scope, hold_taken, (void *)1, &mine);
	return ew_scope_finish(&scope, r);
}

TEST(sweep_semaphore)
{
	struct ew_sweep_options options = { .prepare = open_book, .check = check_semaphore };

	semaphore = ew_semaphore_new(1, 8);
	expect_sweep(&options, line, 12);
	options.droppable = true;
	options.modes = MODES_WITHOUT_FAULTS;
	expect_sweep(&options, line, 12);
	ew_semaphore_free(semaphore);
}

/* What was asked of a backend that answers after a second: the permits of work that it was asked to stop. */
static struct {
	unsigned asked;
	unsigned answered;
} backend;

struct order {
	struct ew_permit **permit;
	bool asked_to_stop;
};

static void open_backend(void *argument)
{
	open_book(argument);
	memset(&backend, 0, sizeof(backend));
}

static const char *check_backend(void *argument)
{
	unsigned presumed = ew_semaphore_count(semaphore).presumed;

	ew_semaphore_reclaim(semaphore, presumed);
	if (presumed != backend.asked - backend.answered)
		return "what is presumed is not what was never heard of";
	return check_semaphore(argument);
}

static void ask_to_stop(struct order *order)
{
	if (!order->asked_to_stop)
		backend.asked += ew_permit_shares(*order->permit);
	order->asked_to_stop = true;
	ew_permit_mark_cancelling(*order->permit);
}

static int stop_and_hear(void *argument)
{
	struct order *order = argument;
	int r;

	ask_to_stop(order);
	r = ew_sleep(EW_SECOND);
	if (r < 0)
		return r;
	backend.answered += ew_permit_shares(*order->permit);
	ew_permit_release(order->permit);
	return 0;
}

static void presume_stopped(void *argument)
{
	struct order *order = argument;

	ask_to_stop(order);
	ew_permit_presume(order->permit);
}

/* Without a guard: the place that owns the permit has the last word. */
static int order_part(void *argument, void *place)
{
	struct order order = { .permit = place };

	(void)argument;
	return stop_and_hear(&order);
}

static int order_two(void *argument)
{
	struct order order = { 0 };
	int r;
	EW_OWN(ew_permit, permit);
	EW_OWN(ew_permit, part);
	EW_OWN(ew_permit, rest);

	r = ew_semaphore_acquire_many(semaphore, 3, argument ? ew_after(3 * EW_SECOND) : EW_NEVER,
				      &permit);
	if (r < 0)
		return r == -ETIMEDOUT ? 0 : r;
	order.permit = &permit;
	EW_GUARD(undo, &order, .close = stop_and_hear, .abort = presume_stopped,
		 .budget_ns = 2 * EW_SECOND);
	EW_SCOPE(scope);
	ew_permit_split(permit, 1, &part);
	ew_permit_split(permit, 1, &rest);
	r = ew_spawn_take(&scope, order_part, NULL, &part);
	if (r == 0)
		r = ew_sleep(2 * EW_SECOND);
	r = ew_scope_finish(&scope, r);
	ew_permit_merge(permit, &rest);
	if (r < 0)
		return r;
	ew_guard_disarm(&undo);
	ew_permit_release(&permit);
	return ew_yield();
}

static int orders(void *argument)
{
	int r;
	EW_SCOPE(scope, .policy = EW_POLICY_INDEPENDENT);

	(void)argument;
	r = ew_spawn(&scope, order_two, NULL);
	if (r == 0)
		r = ew_spawn(&scope, order_two, (void *)1);
	if (r == 0)
		r = ew_spawn(&scope, hold, (void *)1);
	if (r == 0)
		r = ew_spawn(&scope, order_two, NULL);
	return ew_scope_finish(&scope, r);
}

TEST(sweep_permits)
{
	struct ew_sweep_options options = { .prepare = open_backend, .check = check_backend };

	semaphore = ew_semaphore_new(4, 8);
	expect_sweep(&options, orders, 14);
	options.droppable = true;
	options.modes = MODES_WITHOUT_FAULTS;
	expect_sweep(&options, orders, 14);
	ew_semaphore_free(semaphore);
}

struct meeting {
	struct ew_event here;
	struct ew_event there;
};

static int meet(void *argument)
{
	struct meeting *meeting = argument;
	int r;
	BOOKED_GUARD(undo, EW_SECOND);

	ew_event_set(&meeting->here);
	r = ew_event_wait(&meeting->there, EW_NEVER);
	return r < 0 ? r : ew_yield();
}

static int impatient(void *argument)
{
	struct meeting *meeting = argument;
	int r = ew_event_wait(&meeting->there, ew_after(EW_SECOND));

	return r == -ETIMEDOUT ? 0 : r;
}

static int events(void *argument)
{
	struct meeting meeting = { 0 };
	int r;
	EW_SCOPE(scope);

	(void)argument;
	r = ew_spawn(&scope, meet, &meeting);
	if (r == 0)
		r = ew_spawn(&scope, impatient, &meeting);
	if (r == 0)
		r = ew_spawn(&scope, meet, &meeting);
	if (r == 0)
		r = ew_event_wait(&meeting.here, EW_NEVER);
	if (r == 0)
		r = ew_sleep(2 * EW_SECOND);
	if (r == 0)
		ew_event_set(&meeting.there);
	return ew_scope_finish(&scope, r);
}

TEST(sweep_events)
{
	expect_sweeps(events, 8);
}

static int close_what_it_took(void *argument, void *place)
{
	int r = nap(argument);

	return r < 0 ? r : ew_close(place);
}

static int pass_on(void *argument, void *place)
{
	int r;
	EW_SCOPE(scope);

	r = ew_yield();
	if (r == 0)
		r = ew_spawn_take(&scope, close_what_it_took, argument, place);
	return ew_scope_finish(&scope, r);
}

static int takes(void *argument)
{
	int r;
	EW_OWN(thing, one);
	EW_OWN(thing, other);
	EW_SCOPE(scope);

	(void)argument;
	one = open_thing(EW_SECOND);
	other = open_thing(EW_SECOND);
	r = ew_spawn_take(&scope, close_what_it_took, (void *)1, &one);
	if (r == 0)
		r = ew_yield();
	if (r == 0)
		r = ew_spawn_take(&scope, pass_on, (void *)1, &other);
	return ew_scope_finish(&scope, r);
}

TEST(sweep_spawn_take)
{
	expect_sweeps(takes, 6);
}

static int watch_token(void *argument)
{
	int r;
	BOOKED_GUARD(undo, EW_SECOND);

	r = ew_scope_wait_cancel(argument, EW_NEVER);
	return r < 0 ? r : ew_yield();
}

static int tokens(void *argument)
{
	int r;
	EW_SCOPE(work);
	EW_SCOPE(watchers);

	(void)argument;
	r = ew_spawn(&watchers, watch_token, &work);
	if (r == 0)
		r = ew_spawn(&work, nap_guarded, (void *)60);
	if (r == 0)
		r = ew_sleep(EW_SECOND);
	ew_scope_cancel(&work, EW_REASON_REQUESTED);
	(void)!ew_scope_finish(&watchers, r);
	(void)!ew_scope_finish(&work, 0);
	return r;
}

TEST(sweep_tokens)
{
	expect_sweeps(tokens, 4);
}

static int graceful(void *argument)
{
	int r;
	EW_SCOPE(scope, .policy = EW_POLICY_INDEPENDENT);

	(void)argument;
	r = ew_spawn(&scope, nap_guarded, (void *)1);
	if (r == 0)
		r = ew_spawn(&scope, nap_guarded, (void *)60);
	if (r == 0)
		r = ew_yield();
	if (r < 0)
		return r;
	r = ew_scope_close(&scope, ew_after(3 * EW_SECOND), EW_REASON_SHUTDOWN);
	return r == -ETIMEDOUT ? 0 : r;
}

TEST(sweep_scope_close_with_grace)
{
	expect_sweeps(graceful, 6);
}

static int think(void *argument)
{
	(void)argument;
	sched_yield();
	return 1;
}

static int offloads(void *argument)
{
	int result = 0, r;
	BOOKED_GUARD(undo, EW_SECOND);

	(void)argument;
	r = ew_offload(think, NULL, &result);
	if (r == 0)
		r = ew_offload(think, NULL, &result);
	return r;
}

TEST(sweep_offload)
{
	expect_sweeps(offloads, 3);
}

static int in_foreign_code(void *argument)
{
	int r;
	BOOKED_GUARD(undo, EW_SECOND);

	(void)argument;
	r = ew_yield();
	if (r == 0) {
		EW_NO_DROP();

		r = ew_yield();
	}
	return r < 0 ? r : ew_yield();
}

TEST(sweep_passes_over_panics_in_no_drop_stretches)
{
	expect_sweeps(in_foreign_code, 4);
}

TEST_MAIN()
