/* SPDX-License-Identifier: Apache-2.0 */

/*
 * A request's task panics where a cancel of its operation would reach it, and then somebody cancels the operation, while
 * the endings still run. The linker leads calls of the gateway here (--wrap): there it panics, and what there is of a
 * body takes a while to end.
 */

#include "gateway_fair.h"

#define ENDING_TAKES EW_SECOND

static enum place { NOWHERE, IN_LINE, STORING, PUBLISHING, AT_THE_DOOR } fatal_place;

static bool publishes;

static void arrive(enum place place)
{
	if (fatal_place != place)
		return;
	fatal_place = NOWHERE;
	ew_panic("there, as the test wants");
}

#define WRAP(type, name, ...)                                                                      \
	type __real_##name(__VA_ARGS__);                                                           \
	type __wrap_##name(__VA_ARGS__);                                                           \
	type __wrap_##name(__VA_ARGS__)

WRAP(int, line_enter, struct line *line, int64_t deadline_ns, struct ew_permit **permit,
     bool *ret_waited)
{
	arrive(IN_LINE);
	return __real_line_enter(line, deadline_ns, permit, ret_waited);
}

WRAP(int, bucket_publish_leased, struct bucket *bucket, const char *id, struct ew_tempfile *file,
     struct staged **ret_staged)
{
	arrive(STORING);
	return __real_bucket_publish_leased(bucket, id, file, ret_staged);
}

WRAP(int, broker_publish, struct operation *operation, struct ew_amqp_receipt *ret_receipt)
{
	arrive(PUBLISHING);
	publishes = true;
	return __real_broker_publish(operation, ret_receipt);
}

/* First asked before anything else runs. */
WRAP(int, ew_amqp_may_publish, const struct ew_amqp_channel *channel)
{
	if (publishes)
		arrive(AT_THE_DOOR);
	publishes = false;
	return __real_ew_amqp_may_publish(channel);
}

WRAP(int, body_close, struct body *body)
{
	int r = ew_sleep(ENDING_TAKES);

	return r < 0 ? r : __real_body_close(body);
}

/* Nobody has been told it. */
static const char *only_id(void)
{
	const struct records *records = &world.gateway->records;
	const char *id = NULL;

	for (unsigned i = 0; i < RECORD_BUCKETS; i++) {
		if (!records->buckets[i])
			continue;
		EXPECT(!id && !records->buckets[i]->next);
		id = records->buckets[i]->id;
	}
	EXPECT(id);
	return id;
}

static const char *wanted_answer;
static struct exchange asked, cancelled;

static int cancel_after_the_panic(void)
{
	char path[64];
	int r;

	EW_SCOPE(asking, .policy = EW_POLICY_INDEPENDENT);

	say_post(&asked, "1 500 s", "");
	EXPECT_EQ(ew_spawn(&asking, ask_in_background, &asked), 0);
	EXPECT_EQ(ew_sleep(ENDING_TAKES / 2), 0);
	EXPECT_EQ(fatal_place, NOWHERE);
	snprintf(path, sizeof(path), "/ops/%s", only_id());
	say_about(&cancelled, "DELETE", path);
	EXPECT_EQ(converse(&cancelled), 0);
	EXPECT_EQ(cancelled.status, 200);
	EXPECT(says(&cancelled, wanted_answer));
	r = ew_scope_finish(&asking, 0);
	EXPECT_EQ(asked.status, 0);
	expect_answer("2 100 s");
	return r;
}

TEST(gateway_cancel_after_a_panic_in_line_hears_that_nothing_began)
{
	fatal_place = IN_LINE;
	wanted_answer = "\"unsent\"";
	run_fair("", MOOD_TAKE, cancel_after_the_panic);
}

TEST(gateway_cancel_after_a_panic_while_a_body_is_stored_hears_that_nothing_began)
{
	fatal_place = STORING;
	wanted_answer = "\"unsent\"";
	run_fair("bodies = /sim/bodies\ninline_body = 0\n", MOOD_TAKE, cancel_after_the_panic);
}

/* Whether the message went out is not known. */
TEST(gateway_cancel_after_a_panic_while_it_is_published_hears_that_nothing_is_known)
{
	fatal_place = PUBLISHING;
	wanted_answer = "\"presumed\"";
	run_fair("", MOOD_TAKE, cancel_after_the_panic);
}

static enum mood lose_a_probe(struct peer *peer, const struct ew_amqp_message *message)
{
	note_message(peer, message);
	if (message->type && strcmp(message->type, "probe") == 0 && world.gateway->connected == 1)
		return MOOD_LOSE;
	return MOOD_TAKE;
}

static int lose_the_broker_after_the_panic(void)
{
	world.broker.judge = lose_a_probe;
	say_post(&asked, "1 500 s", "");
	EXPECT_EQ(converse(&asked), -ECONNRESET);
	EXPECT_EQ(fatal_place, NOWHERE);
	EXPECT_EQ(asked.status, 0);
	EXPECT_EQ(ew_sleep(30 * EW_SECOND), 0);
	EXPECT_EQ(world.gateway->connected, 2);
	EXPECT_EQ(world.gateway->routes[0].door.users, 0);
	expect_answer("2 100 s");
	return 0;
}

/* It would be waited for, at the end of the channel. */
TEST(gateway_panic_in_a_call_of_a_channel_leaves_nobody_in_it)
{
	fatal_place = AT_THE_DOOR;
	run_fair("", MOOD_TAKE, lose_the_broker_after_the_panic);
}

TEST_MAIN()
