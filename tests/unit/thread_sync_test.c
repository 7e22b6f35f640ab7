/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Broadcasts, foreign operations and selects on a plain thread. Each story is told by a task first, and then by a thread:
 * both say the same. Who else has a part in it is a plain thread in both.
 */

#include "io.h"

#include <endwell/broadcast.h>
#include <endwell/foreign.h>
#include <endwell/select.h>

static int result_there;

static void *tell_on_thread(void *fn)
{
	result_there = (*(ew_task_fn **)fn)(NULL);
	return NULL;
}

static void expect_story(ew_task_fn *fn, const char *story)
{
	pthread_t thread;

	traced[0] = '\0';
	EXPECT_EQ(run_workers(1, fn, NULL), 0);
	EXPECT_EQ(reports.count, 0);
	EXPECT_STR(traced, story);
	traced[0] = '\0';
	EXPECT_EQ(pthread_create(&thread, NULL, tell_on_thread, &fn), 0);
	EXPECT_EQ(pthread_join(thread, NULL), 0);
	EXPECT_EQ(result_there, 0);
	EXPECT_STR(traced, story);
}

/* Somebody else, who acts when the teller waits. */
struct other {
	void (*act)(void *argument);
	void *argument;
	pthread_t thread;
};

static void *be_other(void *argument)
{
	struct other *other = argument;

	other->act(other->argument);
	return NULL;
}

static void other_begin(struct other *other, void (*act)(void *argument), void *argument)
{
	*other = (struct other){ .act = act, .argument = argument };
	EXPECT_EQ(pthread_create(&other->thread, NULL, be_other, other), 0);
}

static void other_end(struct other *other)
{
	EXPECT_EQ(pthread_join(other->thread, NULL), 0);
}

/* ---- broadcast ---- */

static void say_7(void *broadcast)
{
	const int seven = 7;

	EXPECT_EQ(ew_broadcast_send(broadcast, &seven), 0);
}

static void hear(struct ew_subscription *subscription, int64_t deadline_ns)
{
	uint64_t missed_count = 0;
	int message = 0;
	int r = ew_subscription_receive(subscription, deadline_ns, &message, &missed_count);

	if (r > 0)
		trace("%d-missed-%d", message, (int)missed_count);
	else
		trace(r == 0 ? "closed" : r == -ETIMEDOUT ? "late" : "cancelled");
}

static int listen_to_broadcast(void *argument)
{
	EW_OWN(ew_broadcast, broadcast);
	EW_OWN(ew_subscription, slow);
	EW_OWN(ew_subscription, quick);
	struct other other;
	int i;

	(void)argument;
	EXPECT_EQ(ew_broadcast_new(2, sizeof(int), &broadcast), 0);
	EXPECT_EQ(ew_broadcast_subscribe(broadcast, &slow), 0);
	EXPECT_EQ(ew_broadcast_subscribe(broadcast, &quick), 0);
	for (i = 1; i <= 3; i++) {
		EXPECT_EQ(ew_broadcast_send(broadcast, &i), 0);
		hear(quick, EW_NEVER);
	}
	hear(quick, EW_NOW);
	hear(slow, EW_NEVER);
	hear(slow, EW_NEVER);
	hear(slow, ew_after(EW_MILLISECOND));
	other_begin(&other, say_7, broadcast);
	hear(slow, EW_NEVER);
	other_end(&other);
	{
		EW_SCOPE(scope);

		ew_scope_cancel(&scope, EW_REASON_REQUESTED);
		hear(quick, EW_NEVER);
		EXPECT_EQ(ew_scope_finish(&scope, 0), 0);
	}
	hear(quick, EW_NEVER);
	ew_broadcast_close(broadcast);
	EXPECT_EQ(ew_broadcast_send(broadcast, &i), -EPIPE);
	hear(quick, EW_NEVER);
	hear(slow, EW_NEVER);
	return 0; /* places end what is left: subscriptions first */
}

TEST(thread_listens_to_a_broadcast)
{
	expect_story(listen_to_broadcast,
		     "1-missed-0 2-missed-0 3-missed-0 late 2-missed-1 3-missed-0 late 7-missed-0 "
		     "cancelled 7-missed-0 closed closed");
}

/* ---- foreign operations ---- */

struct job {
	struct ew_foreign_ticket ticket;
	int32_t result;
};

static void complete(void *argument)
{
	const struct job *job = argument;

	EXPECT_EQ(ew_foreign_complete(job->ticket, job->result), 0);
}

static struct ew_event asked;

static void note_question(void *memory)
{
	(void)memory;
	trace("asked");
	ew_event_set(&asked);
}

static void note_disposal(void *memory, int32_t result)
{
	(void)memory;
	trace("disposed-%d", result);
}

static void complete_when_asked(void *argument)
{
	EXPECT_EQ(ew_event_wait(&asked, EW_NEVER), 0);
	complete(argument);
}

static int start_other(void *argument, struct ew_foreign_ticket ticket)
{
	static struct job job;

	job = (struct job){ ticket, 5 };
	other_begin(argument, complete, &job);
	return 0;
}

static void begin(struct ew_reaper *reaper, struct ew_semaphore *permits, struct job *job,
		  struct ew_foreign **ret_operation)
{
	EW_OWN(ew_permit, permit);
	struct ew_foreign_options options = {
		.name = "job", .cancel = note_question, .dispose = note_disposal, .permit = &permit
	};

	EXPECT_EQ(ew_semaphore_try_acquire(permits, &permit), 0);
	EXPECT_EQ(ew_foreign_begin(reaper, &options, ret_operation), 0);
	job->ticket = ew_foreign_ticket(*ret_operation);
}

/* Waited for; asked to stop by its close; left by a block that is cancelled, with its time over, to the reaper. */
static void begin_and_end(struct ew_reaper *reaper, struct ew_semaphore *permits)
{
	struct job one = { .result = 3 }, two = { .result = 4 }, three = { .result = 6 };
	struct ew_foreign *operation = NULL;
	struct other other;
	int32_t result = 0;

	begin(reaper, permits, &one, &operation);
	EXPECT_EQ(ew_foreign_wait(operation, EW_NOW, &result), -ETIMEDOUT);
	other_begin(&other, complete, &one);
	EXPECT_EQ(ew_foreign_wait(operation, EW_NEVER, &result), 0);
	trace("result-%d", result);
	other_end(&other);
	EXPECT_EQ(ew_foreign_close(&operation), 0);

	ew_event_reset(&asked);
	begin(reaper, permits, &two, &operation);
	other_begin(&other, complete_when_asked, &two);
	EXPECT_EQ(ew_foreign_close(&operation), 0);
	other_end(&other);

	begin(reaper, permits, &three, &operation);
	ew_abort(&operation);
	trace("abandoned-%u", ew_reaper_count(reaper).abandoned);
	trace("cancelling-%u", ew_semaphore_count(permits).cancelling);
	other_begin(&other, complete, &three);
	other_end(&other);
}

static int have_done_elsewhere(void *argument)
{
	struct ew_reaper_options options = { .name = "jobs", .operations_max = 1 };
	struct ew_foreign_options call = { .name = "call" };
	struct ew_semaphore *permits = ew_semaphore_new(1, 1);
	struct other other;
	EW_OWN(ew_reaper, reaper);
	int32_t result = 0;

	(void)argument;
	EXPECT_EQ(ew_reaper_new(&options, &reaper), 0);
	begin_and_end(reaper, permits);
	EXPECT_EQ(ew_semaphore_count(permits).free, 1);
	EXPECT_EQ(ew_foreign_call(reaper, &call, start_other, &other, &result), 0);
	other_end(&other);
	trace("called-%d", result);
	{
		EW_SCOPE(scope);

		ew_scope_cancel(&scope, EW_REASON_REQUESTED);
		EXPECT_EQ(ew_foreign_call(reaper, &call, start_other, &other, &result), -ECANCELED);
		EXPECT_EQ(ew_scope_finish(&scope, 0), 0);
	}
	EXPECT_EQ(ew_reaper_count(reaper).owned, 0);
	EXPECT_EQ(ew_reaper_close(&reaper), 0);
	ew_semaphore_free(permits);
	return 0;
}

TEST(thread_has_operations_done_elsewhere)
{
	expect_story(have_done_elsewhere, "result-3 asked disposed-4 asked abandoned-1 "
					  "cancelling-1 disposed-6 called-5");
}

/* ---- select ---- */

struct offers {
	struct ew_channel *inbox, *outbox;
	struct ew_broadcast *broadcast;
	struct ew_event event;
	struct job job;
};

static void send_9(void *argument)
{
	struct offers *offers = argument;
	int nine = 9;

	EXPECT_EQ(ew_channel_send(offers->inbox, EW_NEVER, &nine), 0);
}

static void take_one(void *argument)
{
	struct offers *offers = argument;
	int message;

	EXPECT_EQ(ew_channel_receive(offers->outbox, EW_NEVER, &message), 1);
	EXPECT_EQ(message, 8);
}

static void tell(void *argument)
{
	say_7(((struct offers *)argument)->broadcast);
}

static void set(void *argument)
{
	ew_event_set(&((struct offers *)argument)->event);
}

static void finish_job(void *argument)
{
	complete(&((struct offers *)argument)->job);
}

/* Each of five wins, told by somebody else, and the others are as they were. */
static int choose(void *argument)
{
	void (*const acts[])(void *) = { send_9, take_one, tell, set, finish_job };
	struct ew_reaper_options options = { .name = "jobs", .operations_max = 1 };
	struct offers offers = { 0 };
	EW_OWN(ew_channel, inbox);
	EW_OWN(ew_channel, outbox);
	EW_OWN(ew_broadcast, broadcast);
	EW_OWN(ew_subscription, subscription);
	EW_OWN(ew_reaper, reaper);
	EW_OWN(ew_foreign, operation);
	int received = 0, sent = 8, heard = 0;
	int32_t result = 0;
	struct other other;
	unsigned i;

	(void)argument;
	EXPECT_EQ(ew_channel_new(0, sizeof(int), NULL, &inbox), 0);
	EXPECT_EQ(ew_channel_new(0, sizeof(int), NULL, &outbox), 0);
	EXPECT_EQ(ew_broadcast_new(1, sizeof(int), &broadcast), 0);
	EXPECT_EQ(ew_broadcast_subscribe(broadcast, &subscription), 0);
	EXPECT_EQ(ew_reaper_new(&options, &reaper), 0);
	EXPECT_EQ(
		ew_foreign_begin(reaper, &(struct ew_foreign_options){ .name = "job" }, &operation),
		0);
	offers.inbox = inbox;
	offers.outbox = outbox;
	offers.broadcast = broadcast;
	offers.job = (struct job){ ew_foreign_ticket(operation), 2 };
	struct ew_alternative alternatives[] = {
		ew_select_receive(inbox, &received),
		ew_select_send(outbox, &sent),
		ew_select_subscription(subscription, &heard, NULL),
		ew_select_event(&offers.event),
		ew_select_foreign(operation, &result),
	};

	EXPECT_EQ(ew_select(alternatives, 5, ew_after(EW_MILLISECOND)), -ETIMEDOUT);
	for (i = 0; i < 5; i++) {
		other_begin(&other, acts[i], &offers);
		trace("%d", ew_select(alternatives, 5, EW_NEVER));
		other_end(&other);
		ew_event_reset(&offers.event);
		trace("of-%d", alternatives[i].result);
		EXPECT_EQ(ew_channel_count(inbox).receivers_waiting, 0);
		EXPECT_EQ(ew_channel_count(outbox).senders_waiting, 0);
		EXPECT(!offers.event.first);
	}
	trace("%d %d %d", received, heard, result);
	{
		EW_SCOPE(scope, .deadline_ns = ew_after(EW_MILLISECOND));

		EXPECT_EQ(ew_scope_finish(&scope, ew_select(alternatives, 4, EW_NEVER)),
			  -ETIMEDOUT);
	}
	ew_channel_close(inbox);
	trace("%d", ew_select(alternatives, 4, EW_NEVER));
	trace("of-%d", alternatives[0].result);
	return 0;
}

TEST(thread_chooses_among_what_others_do)
{
	expect_story(choose, "0 of-1 1 of-0 2 of-1 3 of-0 4 of-0 9 7 2 0 of-0");
}

TEST_MAIN()
