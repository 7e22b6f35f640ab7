/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Sweeps over what tasks meet at: whoever is ended, and wherever, nobody else waits for ever, nothing is lost or done
 * twice, and what was left half done is told.
 */

#include "sweep.h"

#include <endwell/broadcast.h>
#include <endwell/channel.h>
#include <endwell/condition.h>
#include <endwell/foreign.h>
#include <endwell/pipe.h>
#include <endwell/rate.h>
#include <endwell/select.h>
#include <fcntl.h>

static struct {
	struct ew_mutex mutex;
	int begun; /* protected by the mutex; equal unless somebody is at work, or was ended there */
	int done;
} account;

static void open_account(void *argument)
{
	open_book(argument);
	memset(&account, 0, sizeof(account));
}

static const char *check_account(void *argument)
{
	struct ew_mutex_hold *hold = NULL;
	int r;

	if (account.mutex.held)
		return "the mutex is still locked";
	if (account.mutex.first)
		return "somebody is still in line for the mutex";
	r = ew_mutex_try_lock(&account.mutex, &hold);
	ew_mutex_unlock(&hold);
	if (r == 0 && account.begun != account.done)
		return "the next one to lock is not told what was left";
	return check_book(argument);
}

static int work_locked(struct ew_mutex_hold *hold, int r)
{
	if (r == -EOWNERDEAD) {
		account.begun = account.done;
		ew_mutex_make_consistent(hold);
		r = 0;
	}
	if (r < 0)
		return r;
	account.begun++;
	r = ew_sleep(EW_SECOND);
	account.done++;
	return r;
}

static int work_until(int64_t deadline_ns)
{
	EW_OWN(ew_mutex_hold, hold);
	int r = ew_mutex_lock(&account.mutex, deadline_ns, &hold);

	r = work_locked(hold, r);
	ew_mutex_unlock(&hold);
	return r == -ETIMEDOUT ? 0 : r;
}

static int work(void *argument)
{
	BOOKED_GUARD(undo, EW_SECOND);

	return work_until(argument ? ew_after(3 * EW_SECOND / 2) : EW_NEVER);
}

static int close_working(void *argument)
{
	struct probe *probe = argument;
	int r = work_until(EW_NEVER);

	if (r != -ECANCELED)
		probe->closed++; /* last: until here a panic means abort */
	return r;
}

static int work_in_the_end(void *argument)
{
	EW_GUARD(last, open_probe(0), .close = close_working, .abort = probe_abort);

	(void)argument;
	return ew_yield();
}

static int work_shielded(void *argument)
{
	EW_SHIELD(shield, .budget_ns = 20 * EW_SECOND);

	return work(argument);
}

/* Gives the mutex up for good when it hears what happened. */
static int work_if_in_order(void *argument)
{
	EW_OWN(ew_mutex_hold, hold);
	BOOKED_GUARD(undo, EW_SECOND);
	int r = ew_mutex_lock(&account.mutex, EW_NEVER, &hold);

	(void)argument;
	return r == 0 ? work_locked(hold, 0) : r;
}

static int workshop(void *argument)
{
	int r;
	EW_OWN(ew_mutex_hold, mine);
	EW_SCOPE(scope, .policy = EW_POLICY_INDEPENDENT);

	(void)argument;
	r = ew_mutex_lock(&account.mutex, EW_NEVER, &mine);
	if (r == 0)
		r = ew_spawn(&scope, work, NULL);
	if (r == 0)
		r = ew_spawn(&scope, work_if_in_order, NULL);
	if (r == 0)
		r = ew_spawn(&scope, work, &scope);
	if (r == 0)
		r = ew_spawn(&scope, work_shielded, NULL);
	if (r == 0)
		r = ew_spawn(&scope, work_in_the_end, NULL);
	if (r == 0)
		r = work_locked(mine, 0);
	ew_mutex_unlock(&mine);
	if (r == 0)
		r = work_until(EW_NEVER);
	return ew_scope_finish(&scope, r);
}

TEST(sweep_mutex)
{
	struct ew_sweep_options options = { .prepare = open_account, .check = check_account };

	expect_sweep(&options, workshop, 14);
	options.droppable = true;
	options.modes = MODES_WITHOUT_FAULTS;
	expect_sweep(&options, workshop, 14);
}

/* A store of goods: what was put in and not taken out is there. */
static struct {
	struct ew_mutex mutex;
	struct ew_condition filled;
	struct ew_condition emptied;
	int put;
	int taken;
	int count;
	bool closed;
} store;

#define STORE_MAX 1

static void open_store(void *argument)
{
	open_book(argument);
	memset(&store, 0, sizeof(store));
}

static const char *check_store(void *argument)
{
	struct ew_mutex_hold *hold = NULL;
	int r;

	if (store.mutex.held || store.mutex.first)
		return "the mutex is locked, or somebody in line";
	if (store.filled.first || store.emptied.first)
		return "somebody is still in line for a condition";
	r = ew_mutex_try_lock(&store.mutex, &hold);
	ew_mutex_unlock(&hold);
	if (r == 0 && store.count != store.put - store.taken)
		return "the next one to lock is not told what was left";
	return check_book(argument);
}

static void repair_store(struct ew_mutex_hold *hold)
{
	store.count = store.put - store.taken;
	ew_mutex_make_consistent(hold);
}

static int lock_store(struct ew_mutex_hold **hold)
{
	int r = ew_mutex_lock(&store.mutex, EW_NEVER, hold);

	if (r != -EOWNERDEAD)
		return r;
	repair_store(*hold);
	return 0;
}

/* What the wait does not tell is held to be whole. */
static int wait_in_store(struct ew_condition *condition, int64_t deadline_ns,
			 struct ew_mutex_hold **hold)
{
	int r = ew_condition_wait(condition, deadline_ns, hold);

	EXPECT(*hold != NULL);
	if (r == -EOWNERDEAD) {
		repair_store(*hold);
		return 0;
	}
	EXPECT_EQ(store.count, store.put - store.taken);
	return r;
}

static int change_store(int *done, int change)
{
	int r;

	*done += 1;
	r = ew_yield(); /* here a panic leaves it half done */
	store.count += change;
	return r;
}

static void tell_all(void *argument)
{
	(void)argument;
	ew_condition_broadcast(&store.filled);
	ew_condition_broadcast(&store.emptied);
}

static int tell(void *argument)
{
	tell_all(argument);
	return 0;
}

/* Declared above the hold: who is ended with the lock held may have used up a signal, or not have given one. */
#define TELL_THE_OTHERS() EW_GUARD(others, NULL, .close = tell, .abort = tell_all)

static int supply(void *argument)
{
	TELL_THE_OTHERS();
	EW_OWN(ew_mutex_hold, hold);
	int i, r = lock_store(&hold);

	for (i = 0; i < (int)(intptr_t)argument && r == 0; i++) {
		while (r == 0 && store.count == STORE_MAX)
			r = wait_in_store(&store.emptied, ew_after(3 * EW_SECOND), &hold);
		if (r == 0)
			r = change_store(&store.put, 1);
		ew_condition_signal(&store.filled);
	}
	return r == -ETIMEDOUT ? 0 : r;
}

static int consume(void *argument)
{
	TELL_THE_OTHERS();
	EW_OWN(ew_mutex_hold, hold);
	BOOKED_GUARD(undo, EW_SECOND);
	int r = lock_store(&hold);

	while (r == 0 && (store.count || !store.closed)) {
		while (r == 0 && !store.count && !store.closed)
			r = wait_in_store(&store.filled, argument ? ew_after(EW_SECOND) : EW_NEVER,
					  &hold);
		if (r == 0 && store.count) {
			r = change_store(&store.taken, -1);
			ew_condition_signal(&store.emptied);
		}
	}
	return r == -ETIMEDOUT ? 0 : r;
}

static int close_store(int r)
{
	EW_OWN(ew_mutex_hold, hold);

	if (r == 0)
		r = lock_store(&hold);
	store.closed = true;
	ew_condition_broadcast(&store.filled);
	return r;
}

static int trade(void *argument)
{
	int r;
	EW_SCOPE(consumers, .policy = EW_POLICY_INDEPENDENT);
	EW_SCOPE(suppliers, .policy = EW_POLICY_INDEPENDENT);

	(void)argument;
	r = ew_spawn(&consumers, consume, NULL);
	if (r == 0)
		r = ew_spawn(&consumers, consume, &consumers);
	if (r == 0)
		r = ew_spawn(&suppliers, supply, (void *)2);
	if (r == 0)
		r = ew_spawn(&suppliers, supply, (void *)1);
	r = ew_scope_finish(&suppliers, r);
	if (r == 0)
		r = ew_spawn(&consumers, consume, &consumers); /* the others may have panicked */
	if (r == 0)
		r = ew_sleep(3 * EW_SECOND);
	r = close_store(r);
	return ew_scope_finish(&consumers, r);
}

TEST(sweep_condition)
{
	struct ew_sweep_options options = { .prepare = open_store, .check = check_store };

	expect_sweep(&options, trade, 20);
	options.droppable = true;
	options.modes = MODES_WITHOUT_FAULTS;
	expect_sweep(&options, trade, 20);
}

/* Things go through one channel, and numbers that answer them through another that has no room. */
static struct {
	struct ew_channel *things;
	struct ew_channel *answers;
	int answered; /* sent; each is received, or disposed of */
	int heard;
} post;

static void open_post(void *argument)
{
	open_book(argument);
	memset(&post, 0, sizeof(post));
}

/* The book has seen each thing ended once: sent or not, received or not. */
static const char *check_post(void *argument)
{
	if (post.answered != post.heard)
		return "an answer was lost, or heard twice";
	return check_book(argument);
}

static void lose_answer(void *message)
{
	post.heard += *(int *)message;
}

static int send_things(void *argument)
{
	EW_OWN(thing, thing);
	int64_t deadline_ns = argument ? ew_after(3 * EW_SECOND / 2) : EW_NEVER;
	int i, r = 0;

	for (i = 0; i < 2 && r == 0; i++) {
		thing = open_thing(0);
		r = ew_channel_send(post.things, deadline_ns, &thing);
		EXPECT_EQ(thing != NULL, r < 0);
	}
	return r == -ETIMEDOUT || r == -EPIPE ? 0 : r;
}

static int send_shielded(void *argument)
{
	EW_SHIELD(shield, .budget_ns = 3 * EW_SECOND);

	return send_things(argument);
}

static int answer_things(void *argument)
{
	EW_OWN(thing, thing);
	BOOKED_GUARD(undo, EW_SECOND);
	int r, one = 1;

	while ((r = ew_channel_receive(post.things, argument ? ew_after(EW_SECOND) : EW_NEVER,
				       &thing)) > 0) {
		r = ew_close(&thing);
		if (r < 0)
			return r;
		r = ew_sleep(EW_SECOND / 2);
		if (r == 0)
			r = ew_channel_send(post.answers, EW_NEVER, &one);
		if (r < 0)
			return r;
		post.answered++;
	}
	return r == -ETIMEDOUT ? 0 : r;
}

static int hear_answers(void *argument)
{
	int number, r;

	(void)argument;
	while ((r = ew_channel_receive(post.answers, EW_NEVER, &number)) > 0)
		post.heard += number;
	return r;
}

static int talk(void)
{
	EW_SCOPE(hearer, .policy = EW_POLICY_INDEPENDENT);
	EW_SCOPE(answerers, .policy = EW_POLICY_INDEPENDENT);
	EW_SCOPE(senders, .policy = EW_POLICY_INDEPENDENT);
	int r;

	r = ew_spawn(&hearer, hear_answers, NULL);
	if (r == 0)
		r = ew_spawn(&answerers, answer_things, NULL);
	if (r == 0)
		r = ew_spawn(&answerers, answer_things, &hearer);
	if (r == 0)
		r = ew_spawn(&senders, send_things, NULL);
	if (r == 0)
		r = ew_spawn(&senders, send_things, &senders);
	if (r == 0)
		r = ew_spawn(&senders, send_shielded, NULL);
	if (r == 0)
		r = ew_sleep(4 * EW_SECOND);
	ew_channel_close(post.things); /* what is in it goes on to whoever is left, or is aborted */
	r = ew_scope_finish(&senders, r);
	if (r == 0)
		r = ew_sleep(3 * EW_SECOND);
	ew_channel_close(post.answers);
	r = ew_scope_finish(&answerers, r);
	return ew_scope_finish(&hearer, r);
}

static int make_channels(unsigned capacity, struct ew_channel **things, struct ew_channel **answers)
{
	int r = ew_channel_new_of_resources(capacity, things);

	if (r == 0)
		r = ew_channel_new(0, sizeof(int), lose_answer, answers);
	post.things = *things;
	post.answers = *answers;
	return r;
}

static int correspond(void *argument)
{
	EW_OWN(ew_channel, things);
	EW_OWN(ew_channel, answers);

	int r = make_channels(1, &things, &answers);

	(void)argument;
	return r < 0 ? r : talk();
}

TEST(sweep_channel)
{
	struct ew_sweep_options options = { .prepare = open_post, .check = check_post };

	expect_sweep(&options, correspond, 25);
	options.droppable = true;
	options.modes = MODES_WITHOUT_FAULTS;
	expect_sweep(&options, correspond, 25);
}

/* Things and answers again, by tasks that wait for several things at once. */
static struct ew_event shut;

static void open_counter(void *argument)
{
	open_post(argument);
	memset(&shut, 0, sizeof(shut));
}

static const char *check_counter(void *argument)
{
	return shut.first ? "somebody is still in line for the event" : check_post(argument);
}

/* Brings things, and hears answers meanwhile. */
static int bring_things(void *argument)
{
	EW_OWN(thing, thing);
	BOOKED_GUARD(undo, EW_SECOND);
	int heard = 0, left = 2, r = 0;

	while (r >= 0) {
		struct ew_alternative alternatives[] = {
			ew_select_send(post.things, &thing),
			ew_select_receive(post.answers, &heard),
			ew_select_event(&shut),
		};

		if (!thing && left-- > 0)
			thing = open_thing(0);
		if (!thing)
			alternatives[0] = (struct ew_alternative){ 0 };
		r = ew_select(alternatives, 3, argument ? ew_after(EW_SECOND) : EW_NEVER);
		EXPECT(r != 0 || !thing);
		EXPECT_EQ(heard, r == 1);
		post.heard += heard;
		heard = 0;
		if (r == 2)
			return 0;
	}
	return r == -ETIMEDOUT ? 0 : r;
}

/* Takes a thing or gives the answer that it owes, whichever is wanted first. */
static int serve_counter(void *argument)
{
	EW_OWN(thing, thing);
	int owed = 0, one = 1, r = 0;

	(void)argument;
	while (r >= 0) {
		struct ew_alternative alternatives[] = {
			ew_select_receive(post.things, &thing),
			ew_select_send(post.answers, &one),
			ew_select_event(&shut),
		};

		if (!owed)
			alternatives[1] = (struct ew_alternative){ 0 };
		r = ew_select(alternatives, 3, EW_NEVER);
		EXPECT_EQ(thing != NULL, r == 0);
		if (r == 0)
			owed++;
		if (r == 1) {
			owed--;
			post.answered++;
		}
		if (r == 2)
			return 0;
		if (r == 0)
			r = ew_close(&thing);
	}
	return r;
}

static int work_at_the_counter(void)
{
	struct ew_child children[3] = { 0 }, *child;
	EW_SCOPE(servers, .policy = EW_POLICY_INDEPENDENT);
	EW_SCOPE(guests, .policy = EW_POLICY_INDEPENDENT);
	struct ew_alternative alternative = ew_select_child(&guests, &child);
	int r, i;

	r = ew_spawn(&servers, serve_counter, NULL);
	if (r == 0)
		r = ew_spawn(&servers, serve_counter, NULL);
	for (i = 0; i < 3 && r == 0; i++)
		r = ew_spawn(&guests, bring_things, &guests, .child = &children[i]);
	for (i = 0; i < 3 && r >= 0; i++)
		r = ew_select(&alternative, 1, EW_NEVER);
	ew_event_set(&shut);
	r = ew_scope_finish(&guests, r);
	return ew_scope_finish(&servers, r);
}

static int open_the_counter(void *argument)
{
	EW_OWN(ew_channel, things);
	EW_OWN(ew_channel, answers);

	int r = make_channels(0, &things, &answers);

	(void)argument;
	return r < 0 ? r : work_at_the_counter();
}

TEST(sweep_select)
{
	struct ew_sweep_options options = { .prepare = open_counter, .check = check_counter };

	expect_sweep(&options, open_the_counter, 25);
	options.droppable = true;
	options.modes = MODES_WITHOUT_FAULTS;
	expect_sweep(&options, open_the_counter, 25);
}

/*
 * A device, played by a task: what it was given and has not completed when everything has ended it completes after the
 * run. Half of its operations can be asked to stop.
 */
#define DEVICE_MAX 8

static struct {
	struct ew_reaper *reaper;
	struct ew_semaphore *permits;
	struct ew_foreign_ticket tickets[DEVICE_MAX];
	unsigned begun;
	unsigned completed;
	unsigned ended; /* heard by a task, or disposed of */
	struct ew_foreign_ticket *calling;
} device;

static void open_device(void *argument)
{
	open_book(argument);
	memset(&device, 0, sizeof(device));
	device.permits = ew_semaphore_new(3, 8);
}

static void complete_up_to(unsigned count)
{
	for (; device.completed < count; device.completed++)
		(void)ew_foreign_complete(device.tickets[device.completed], 1);
}

static const char *check_device(void *argument)
{
	struct ew_semaphore_counts counts = ew_semaphore_count(device.permits);

	complete_up_to(device.begun); /* of a reaper that was drained there is none */
	if (device.ended != device.begun)
		return "an operation was never completed, or twice";
	if (counts.held || counts.cancelling)
		return "a permit is still in use";
	ew_semaphore_reclaim(device.permits, counts.presumed);
	ew_semaphore_free(device.permits);
	return check_book(argument);
}

static void lose_result(void *memory, int32_t result)
{
	(void)memory;
	device.ended += result == 1;
}

static void stop_operation(void *memory)
{
	struct ew_foreign_ticket *ticket = memory;

	EXPECT_EQ(ew_foreign_complete(*ticket, 1), 0);
}

static void stop_call(void *memory)
{
	(void)memory;
	EXPECT_EQ(ew_foreign_complete(*device.calling, 1), 0);
}

static struct ew_foreign_ticket *give(struct ew_foreign_ticket ticket)
{
	EXPECT(device.begun < DEVICE_MAX);
	device.tickets[device.begun] = ticket;
	return &device.tickets[device.begun++];
}

static int run_device(void *argument)
{
	int r = 0;

	(void)argument;
	while (r == 0) {
		r = ew_sleep(EW_SECOND);
		if (r == 0 && device.completed < device.begun)
			complete_up_to(device.completed + 1);
	}
	return r;
}

/* Beside it an alternative that does not come. */
static int await_transfer(struct ew_foreign *operation, int64_t deadline_ns, int32_t *ret_result)
{
	struct ew_event never = { 0 };
	struct ew_alternative alternatives[] = {
		ew_select_event(&never),
		ew_select_foreign(operation, ret_result),
	};
	int r = deadline_ns == EW_NEVER ? ew_foreign_wait(operation, deadline_ns, ret_result)
					: ew_select(alternatives, 2, deadline_ns);

	return r < 0 ? r : 0;
}

static int use_device(void *argument)
{
	struct ew_foreign_options options = { .name = "a transfer", .dispose = lose_result };
	EW_OWN(ew_permit, permit);
	EW_OWN(ew_foreign, operation);
	BOOKED_GUARD(undo, EW_SECOND);
	int32_t result = 0;
	int r = ew_semaphore_acquire(device.permits, EW_NEVER, &permit);

	if (r < 0)
		return r;
	options.permit = &permit;
	if (argument)
		options.cancel = stop_operation;
	EXPECT_EQ(ew_foreign_begin(device.reaper, &options, &operation), 0);
	*(struct ew_foreign_ticket *)ew_foreign_memory(operation) =
		*give(ew_foreign_ticket(operation));
	r = await_transfer(operation, argument ? ew_after(EW_SECOND / 2) : EW_NEVER, &result);
	if (r == 0)
		device.ended += result == 1;
	if (r == 0)
		r = ew_foreign_close(&operation);
	return r == -ETIMEDOUT ? 0 : r;
}

static int start_transfer(void *argument, struct ew_foreign_ticket ticket)
{
	*(struct ew_foreign_ticket *)argument = *give(ticket);
	return 0;
}

/* With memory on its own stack; its cancel would find the ticket there. */
static int call_device(void *argument)
{
	struct ew_foreign_ticket ticket = { 0 };
	struct ew_foreign_options options = { .name = "a call", .cancel = stop_call };
	int32_t result = 0;
	int r;

	(void)argument;
	device.calling = &ticket;
	r = ew_foreign_call(device.reaper, &options, start_transfer, &ticket, &result);
	device.ended += result == 1;
	return r;
}

static int work_with_device(struct ew_scope *machine)
{
	EW_SCOPE(scope, .policy = EW_POLICY_INDEPENDENT);
	int r = ew_spawn(machine, run_device, NULL);

	if (r == 0)
		r = ew_spawn(&scope, use_device, NULL);
	if (r == 0)
		r = ew_spawn(&scope, use_device, &device);
	if (r == 0)
		r = ew_spawn(&scope, call_device, NULL);
	if (r == 0)
		r = ew_spawn(&scope, use_device, NULL);
	return ew_scope_finish(&scope, r);
}

static int run_plant(void *argument)
{
	static const struct ew_reaper_options options = {
		.name = "plant",
		.operations_max = 4,
		.memory_bytes = sizeof(struct ew_foreign_ticket),
		.drain_ns = 3 * EW_SECOND,
	};
	EW_OWN(ew_reaper, reaper);
	EW_SCOPE(machine); /* without it nothing of what is given to it would complete */
	int r;

	(void)argument;
	r = ew_reaper_new(&options, &reaper);
	if (r < 0)
		return r;
	device.reaper = reaper;
	r = work_with_device(&machine);
	if (r == 0)
		ew_scope_cancel(&machine, EW_REASON_REQUESTED);
	r = ew_scope_finish(&machine, r);
	if (r == -ECANCELED)
		r = 0;
	return r < 0 ? r : ew_reaper_close(&reaper);
}

TEST(sweep_foreign)
{
	struct ew_sweep_options options = { .prepare = open_device,
					    .check = check_device,
					    .lost_blocks_max = 1 }; /* a reaper is leaked by name */

	expect_sweep(&options, run_plant, 10);
	options.droppable = true;
	options.modes = MODES_WITHOUT_FAULTS;
	expect_sweep(&options, run_plant, 10);
}

/* What is heard and what is missed adds up at each message. */
static int listen_in(void *argument)
{
	EW_OWN(ew_subscription, subscription);
	BOOKED_GUARD(undo, EW_SECOND);
	int number = 0, last = 0, r;
	uint64_t missed_count;

	r = ew_broadcast_subscribe(argument, &subscription);
	if (r < 0)
		return r;
	while ((r = ew_subscription_receive(subscription, EW_NEVER, &number, &missed_count)) > 0) {
		EXPECT(last == 0 || number == last + 1 + (int)missed_count);
		last = number;
		r = ew_sleep(number * EW_SECOND / 2); /* slower and slower */
		if (r < 0)
			break;
	}
	return r;
}

/* As above, by a select. */
static int await_last_news(void *argument)
{
	EW_OWN(ew_subscription, subscription);
	BOOKED_GUARD(undo, EW_SECOND);
	struct ew_event never = { 0 };
	int number = 0, last = 0, r;
	uint64_t missed_count;

	r = ew_broadcast_subscribe(argument, &subscription);
	if (r < 0)
		return r;

	struct ew_alternative alternatives[] = {
		ew_select_event(&never),
		ew_select_subscription(subscription, &number, &missed_count),
	};

	while ((r = ew_select(alternatives, 2, EW_NEVER)) == 1 && alternatives[1].result == 1) {
		EXPECT(last == 0 || number == last + 1 + (int)missed_count);
		last = number;
	}
	return r < 0 ? r : alternatives[1].result;
}

static int send_news(void *argument)
{
	int i, r = 0;

	for (i = 1; i <= 4 && r == 0; i++) {
		r = ew_broadcast_send(argument, &i);
		if (r == 0)
			r = ew_sleep(EW_SECOND / 2);
	}
	return r;
}

static int run_station(void *argument)
{
	EW_OWN(ew_broadcast, broadcast);
	EW_SCOPE(listeners, .policy = EW_POLICY_INDEPENDENT);
	EW_SCOPE(speaker, .policy = EW_POLICY_INDEPENDENT);
	int r;

	(void)argument;
	r = ew_broadcast_new(1, sizeof(int), &broadcast);
	if (r == 0)
		r = ew_spawn(&listeners, listen_in, broadcast);
	if (r == 0)
		r = ew_spawn(&listeners, listen_in, broadcast);
	if (r == 0)
		r = ew_spawn(&listeners, await_last_news, broadcast);
	if (r == 0)
		r = ew_spawn(&speaker, send_news, broadcast);
	r = ew_scope_finish(&speaker, r);
	if (broadcast)
		ew_broadcast_close(broadcast);
	return ew_scope_finish(&listeners, r);
}

TEST(sweep_broadcast)
{
	expect_sweeps(run_station, 10);
}

/* One token a second; three of them fit into the bucket. */
static struct {
	struct ew_rate *rate;
	int used;
	int64_t began_ns;
} toll;

static void open_toll(void *argument)
{
	open_book(argument);
	toll.rate = ew_rate_new(1, 3, 4);
	toll.used = 0;
}

static const char *check_toll(void *argument)
{
	ew_rate_free(toll.rate); /* nobody may be in line */
	return check_book(argument);
}

static int pay(unsigned count, int64_t deadline_ns)
{
	int r = ew_rate_acquire(toll.rate, count, deadline_ns);

	if (r == 0)
		toll.used += (int)count;
	EXPECT(toll.used <= 3 + (ew_now() - toll.began_ns) / EW_SECOND);
	return r == -ETIMEDOUT ? 0 : r;
}

static int pass_twice(void *argument)
{
	BOOKED_GUARD(undo, EW_SECOND);
	int r = pay(2, EW_NEVER);

	(void)argument;
	return r < 0 ? r : pay(1, ew_after(EW_SECOND / 2)); /* out of time wherever it stands */
}

static int close_paying(void *argument)
{
	struct probe *probe = argument;
	int r = pay(1, EW_NEVER);

	if (r != -ECANCELED)
		probe->closed++; /* last: until here a panic means abort */
	return r;
}

static int pass_in_the_end(void *argument)
{
	EW_GUARD(last, open_probe(0), .close = close_paying, .abort = probe_abort);

	(void)argument;
	return pay(1, ew_after(2 * EW_SECOND));
}

static int road(void *argument)
{
	int r;
	EW_SCOPE(scope, .policy = EW_POLICY_INDEPENDENT);

	(void)argument;
	toll.began_ns = ew_now();
	r = pay(3, EW_NEVER);
	if (r == 0)
		r = ew_spawn(&scope, pass_twice, NULL);
	if (r == 0)
		r = ew_spawn(&scope, pass_in_the_end, NULL);
	if (r == 0)
		r = ew_spawn(&scope, pass_twice, NULL);
	if (r == 0)
		r = pay(1, EW_NEVER);
	return ew_scope_finish(&scope, r);
}

TEST(sweep_rate)
{
	struct ew_sweep_options options = { .prepare = open_toll, .check = check_toll };

	expect_sweep(&options, road, 8);
	options.droppable = true;
	options.modes = MODES_WITHOUT_FAULTS;
	expect_sweep(&options, road, 8);
}

/* Made when there may be no memory; what was made is ended by its registration, or freed here. */
static int make_each(void *argument)
{
	struct ew_semaphore *semaphore = ew_semaphore_new(1, 1);
	struct ew_rate *rate = semaphore ? ew_rate_new(1, 1, 1) : NULL;
	int fds[2], r = rate ? 0 : -ENOMEM;

	EW_OWN(ew_pipe, pipe);
	EW_OWN(ew_channel, channel);

	(void)argument;
	ew_rate_free(rate);
	ew_semaphore_free(semaphore);
	if (r == 0)
		r = ew_channel_new(1, 1, NULL, &channel);
	if (r < 0 || pipe2(fds, O_CLOEXEC) < 0)
		return r;
	close(fds[1]);
	r = ew_pipe_adopt(fds[0], &pipe);
	if (r < 0)
		close(fds[0]);
	return r < 0 ? r : ew_yield();
}

TEST(sweep_what_is_made_without_suspending)
{
	expect_sweeps(make_each, 1);
}

TEST_MAIN()
