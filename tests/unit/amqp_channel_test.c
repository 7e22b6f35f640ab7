/* SPDX-License-Identifier: Apache-2.0 */

/*
 * AMQP channels: what publishers and consumers are told, and in which order. The broker in the next task answers when the
 * test says so.
 */

#include "amqp_broker.h"

struct world {
	struct broker broker;
	struct ew_amqp_options options;
	struct ew_amqp_channel_options channel_options;
	int (*client)(struct world *world, struct ew_amqp_connection *connection,
		      struct ew_amqp_channel *channel);
	struct ew_amqp_channel *channel;
	unsigned told; /* publishers that have heard */
	struct ew_amqp_receipt receipts[8];
	int results[8];
};

static int world_task(void *argument)
{
	struct world *world = argument;
	int r;

	EW_SCOPE(scope, .deadline_ns = ew_after(90 * EW_SECOND * ew_test_scale()));
	EW_OWN(ew_amqp_connection, connection);
	EW_OWN(ew_amqp_channel, channel);

	EXPECT_EQ(broker_open(&world->broker, &scope, &world->options, NULL, &connection), 0);
	EXPECT_EQ(ew_amqp_channel_open(connection, &world->channel_options, &channel), 0);
	world->channel = channel;
	r = world->client(world, connection, channel);
	EXPECT_EQ(r, 0);
	r = ew_amqp_channel_close(&channel);
	EXPECT_EQ(r, 0);
	r = ew_amqp_connection_close(&connection);
	EXPECT_EQ(r, 0);
	return ew_scope_finish(&scope, 0);
}

static struct world *new_world(void)
{
	return broker_world_new(sizeof(struct world));
}

static void run(struct world *world,
		int (*client)(struct world *world, struct ew_amqp_connection *connection,
			      struct ew_amqp_channel *channel))
{
	const struct ew_run_options options = { .workers_count = 1 };

	world->client = client;
	EXPECT_EQ(ew_run(&options, world_task, world), 0);
	free(world);
}

static int publish(struct ew_amqp_channel *channel, const char *id, bool mandatory,
		   struct ew_amqp_receipt *ret_receipt)
{
	return ew_amqp_publish(channel,
			       &(struct ew_amqp_message){ .routing_key = "q",
							  .message_id = id,
							  .mandatory = mandatory,
							  .body = "b",
							  .body_bytes = 1 },
			       ret_receipt);
}

static int declare(struct ew_amqp_channel *channel, const char *name, char *ret_name)
{
	return ew_amqp_queue_declare(channel, &(struct ew_amqp_queue){ .name = name }, ret_name);
}

/* ---- publishing ---- */

struct publisher {
	struct world *world;
	unsigned number;
	bool mandatory;
};

static int publish_task(void *argument)
{
	struct publisher *publisher = argument;
	struct world *world = publisher->world;
	char id[16];
	int r;

	snprintf(id, sizeof(id), "m%u", publisher->number);
	r = publish(world->channel, id, publisher->mandatory, &world->receipts[publisher->number]);
	world->results[publisher->number] = r;
	world->told++;
	return 0;
}

/* As many publishers as there are results expected, in order. */
static int publish_all(struct world *world, unsigned count, bool mandatory)
{
	struct publisher publishers[8];

	EW_SCOPE(scope);

	for (unsigned i = 0; i < count; i++) {
		publishers[i] = (struct publisher){ world, i, mandatory };
		EXPECT_EQ(ew_spawn(&scope, publish_task, &publishers[i]), 0);
	}
	return ew_scope_finish(&scope, 0);
}

/* The third message refused, then all before it confirmed at once, then the fourth. */
static int confirm_in_disorder(struct broker *broker, unsigned channel, const amqp_method_t *method)
{
	amqp_basic_nack_t nack = { .delivery_tag = 3 };

	if (method->id != AMQP_BASIC_PUBLISH_METHOD)
		return 0;
	if (broker->tag < 4)
		return 1;
	broker_say(broker, channel, AMQP_BASIC_NACK_METHOD, &nack);
	broker_confirm(broker, channel, 2, true);
	return broker_confirm(broker, channel, 0, true);
}

static int meet_disorder(struct world *world, struct ew_amqp_connection *connection,
			 struct ew_amqp_channel *channel)
{
	(void)connection;
	(void)channel;
	EXPECT_EQ(publish_all(world, 4, false), 0);
	for (unsigned i = 0; i < 4; i++) {
		EXPECT_EQ(world->results[i], i == 2 ? -EREMOTEIO : 0);
		EXPECT_EQ(world->receipts[i].fate, i == 2 ? EW_AMQP_NACKED : EW_AMQP_CONFIRMED);
	}
	return 0;
}

TEST(amqp_publishers_hear_each_their_own_confirmation)
{
	struct world *world = new_world();

	world->broker.on = confirm_in_disorder;
	run(world, meet_disorder);
}

/* Of three the second comes back; then all are confirmed, as brokers do. */
static int return_second(struct broker *broker, unsigned channel, const amqp_method_t *method)
{
	if (method->id != AMQP_BASIC_PUBLISH_METHOD)
		return 0;
	if (broker->tag < 3)
		return 1;
	broker_return(broker, channel, "m1");
	return broker_confirm(broker, channel, 3, true);
}

static int meet_return(struct world *world, struct ew_amqp_connection *connection,
		       struct ew_amqp_channel *channel)
{
	(void)connection;
	(void)channel;
	EXPECT_EQ(publish_all(world, 3, true), 0);
	for (unsigned i = 0; i < 3; i++)
		EXPECT_EQ(world->results[i], i == 1 ? -EHOSTUNREACH : 0);
	EXPECT_EQ(world->receipts[1].fate, EW_AMQP_RETURNED);
	EXPECT_EQ(world->receipts[1].code, AMQP_NO_ROUTE);
	EXPECT_STR(world->receipts[1].text, "NO_ROUTE");
	return 0;
}

TEST(amqp_returned_message_is_told_to_its_publisher)
{
	struct world *world = new_world();

	world->broker.on = return_second;
	run(world, meet_return);
}

static int publish_badly(struct world *world, struct ew_amqp_connection *connection,
			 struct ew_amqp_channel *channel)
{
	struct ew_amqp_receipt receipt;
	char text[257];

	(void)connection;
	memset(text, 'x', sizeof(text) - 1);
	text[sizeof(text) - 1] = 0;
	EXPECT_EQ(publish(channel, NULL, true, &receipt), -EINVAL);
	EXPECT_EQ(publish(channel, text, false, &receipt), -EINVAL);
	EXPECT_EQ(receipt.fate, EW_AMQP_NOT_SENT);
	text[255] = 0;
	EXPECT_EQ(publish(channel, text, false, &receipt), 0);
	EXPECT_STR(world->broker.message_id, text);
	EXPECT_EQ(ew_amqp_publish(channel,
				  &(struct ew_amqp_message){ .body = text, .body_bytes = 1025 },
				  &receipt),
		  -EMSGSIZE);
	return 0;
}

TEST(amqp_message_out_of_bounds_is_not_sent)
{
	struct world *world = new_world();

	world->options.message_bytes_max = 1024;
	run(world, publish_badly);
}

/* Confirms nothing until queue.declare asks for it. */
static int confirm_when_asked(struct broker *broker, unsigned channel, const amqp_method_t *method)
{
	if (method->id == AMQP_QUEUE_DECLARE_METHOD)
		broker_confirm(broker, channel, 0, true);
	return method->id == AMQP_BASIC_PUBLISH_METHOD;
}

static int publish_briefly(struct ew_amqp_channel *channel, const char *id,
			   struct ew_amqp_receipt *ret_receipt)
{
	int r;

	EW_SCOPE(scope, .deadline_ns = ew_after(20 * EW_MILLISECOND));

	r = publish(channel, id, false, ret_receipt);
	return ew_scope_finish(&scope, r);
}

/* The first one leaves, and what it has sent still counts: the second waits in line, and has sent nothing. */
static int leave_and_return(struct world *world, struct ew_amqp_connection *connection,
			    struct ew_amqp_channel *channel)
{
	struct ew_amqp_receipt receipt;

	(void)connection;
	EXPECT_EQ(publish_briefly(channel, "first", &receipt), -ETIMEDOUT);
	EXPECT_EQ(receipt.fate, EW_AMQP_UNKNOWN);
	EXPECT_EQ(publish_briefly(channel, "second", &receipt), -ETIMEDOUT);
	EXPECT_EQ(receipt.fate, EW_AMQP_NOT_SENT);
	EXPECT_STR(world->broker.message_id, "first");
	EXPECT_EQ(declare(channel, "q", NULL), 0);
	EXPECT_EQ(publish_briefly(channel, "third", &receipt), -ETIMEDOUT);
	EXPECT_EQ(receipt.fate, EW_AMQP_UNKNOWN);
	EXPECT_STR(world->broker.message_id, "third");
	return 0;
}

TEST(amqp_unconfirmed_message_counts_after_its_publisher_has_left)
{
	struct world *world = new_world();

	world->channel_options.unconfirmed_max = 1;
	world->broker.on = confirm_when_asked;
	run(world, leave_and_return);
}

static int hang_up_at_third(struct broker *broker, unsigned channel, const amqp_method_t *method)
{
	(void)channel;
	if (method->id != AMQP_BASIC_PUBLISH_METHOD)
		return 0;
	return broker->tag < 3 ? 1 : -ECONNRESET;
}

/* Three are on their way; one waits in line. */
static int meet_loss(struct world *world, struct ew_amqp_connection *connection,
		     struct ew_amqp_channel *channel)
{
	(void)connection;
	EXPECT_EQ(publish_all(world, 4, false), 0);
	for (unsigned i = 0; i < 4; i++) {
		EXPECT_EQ(world->results[i], -ECONNRESET);
		EXPECT_EQ(world->receipts[i].fate, i < 3 ? EW_AMQP_UNKNOWN : EW_AMQP_NOT_SENT);
	}
	EXPECT_EQ(ew_amqp_channel_error(channel)->error, -ECONNRESET);
	return 0;
}

TEST(amqp_lost_connection_leaves_what_was_sent_unknown)
{
	struct world *world = new_world();

	world->channel_options.unconfirmed_max = 3;
	world->broker.on = hang_up_at_third;
	run(world, meet_loss);
}

static int stop_and_start(struct broker *broker, unsigned channel, const amqp_method_t *method)
{
	amqp_queue_declare_t *declare = method->decoded;
	amqp_channel_flow_t flow = {};
	amqp_connection_blocked_t blocked = { .reason = amqp_cstring_bytes("no room") };
	amqp_connection_unblocked_t unblocked = {};
	struct world *world = broker->argument;

	if (method->id == AMQP_CHANNEL_FLOW_OK_METHOD)
		world->told++;
	if (method->id != AMQP_QUEUE_DECLARE_METHOD)
		return 0;
	flow.active = memcmp(declare->queue.bytes, "go", 2) == 0;
	if (memcmp(declare->queue.bytes, "block", 5) == 0)
		broker_say(broker, 0, AMQP_CONNECTION_BLOCKED_METHOD, &blocked);
	else if (memcmp(declare->queue.bytes, "unblk", 5) == 0)
		broker_say(broker, 0, AMQP_CONNECTION_UNBLOCKED_METHOD, &unblocked);
	else
		broker_say(broker, channel, AMQP_CHANNEL_FLOW_METHOD, &flow);
	return 0;
}

static int meet_stops(struct world *world, struct ew_amqp_connection *connection,
		      struct ew_amqp_channel *channel)
{
	static const char *const stops[][2] = { { "stop", "go" }, { "block", "unblk" } };
	struct ew_amqp_receipt receipt;

	for (int i = 0; i < 2; i++) {
		EXPECT_EQ(declare(channel, stops[i][0], NULL), 0);
		EXPECT_EQ(publish(channel, NULL, false, &receipt), -EBUSY);
		EXPECT_EQ(receipt.fate, EW_AMQP_NOT_SENT);
		if (i == 1)
			EXPECT_STR(ew_amqp_connection_blocked(connection), "no room");
		EXPECT_EQ(declare(channel, stops[i][1], NULL), 0);
		EXPECT_EQ(publish(channel, NULL, false, &receipt), 0);
	}
	EXPECT_EQ(world->told, 2);
	EXPECT(!ew_amqp_connection_blocked(connection));
	return 0;
}

TEST(amqp_broker_that_takes_no_messages_is_told_none)
{
	struct world *world = new_world();

	world->broker.on = stop_and_start;
	run(world, meet_stops);
}

/* Confirms nothing, and blocks when asked for a queue. */
static int block_when_asked(struct broker *broker, unsigned channel, const amqp_method_t *method)
{
	amqp_connection_blocked_t blocked = { .reason = amqp_cstring_bytes("no room") };

	(void)channel;
	if (method->id == AMQP_QUEUE_DECLARE_METHOD)
		broker_say(broker, 0, AMQP_CONNECTION_BLOCKED_METHOD, &blocked);
	return method->id == AMQP_BASIC_PUBLISH_METHOD;
}

static int declare_task(void *argument)
{
	struct world *world = argument;

	return declare(world->channel, "q", NULL);
}

static int meet_block_in_line(struct world *world, struct ew_amqp_connection *connection,
			      struct ew_amqp_channel *channel)
{
	struct ew_amqp_receipt receipt;

	EW_SCOPE(scope);

	(void)connection;
	EXPECT_EQ(publish_briefly(channel, "first", &receipt), -ETIMEDOUT);
	EXPECT_EQ(receipt.fate, EW_AMQP_UNKNOWN);
	EXPECT_EQ(ew_spawn(&scope, declare_task, world), 0);
	EXPECT_EQ(publish(channel, "second", false, &receipt), -EBUSY);
	EXPECT_EQ(receipt.fate, EW_AMQP_NOT_SENT);
	return ew_scope_finish(&scope, 0);
}

TEST(amqp_publisher_behind_unconfirmed_messages_is_refused_when_the_broker_blocks)
{
	struct world *world = new_world();

	world->channel_options.unconfirmed_max = 1;
	world->broker.on = block_when_asked;
	run(world, meet_block_in_line);
}

#define LARGE_BYTES 1000000

/* The first message is too much for the socket; the broker, who does not read it, says that it takes no messages. */
static int stall(struct broker *broker, unsigned channel, const amqp_method_t *method)
{
	amqp_connection_blocked_t blocked = { .reason = amqp_cstring_bytes("no room") };
	struct world *world = broker->argument;
	int r;

	(void)channel;
	if (method->id != AMQP_QUEUE_DECLARE_METHOD)
		return method->id == AMQP_BASIC_PUBLISH_METHOD;
	broker_answer(broker, channel, method);
	r = broker_flush(broker);
	while (r == 0 && world->told == 0)
		r = ew_sleep(EW_MILLISECOND);
	if (r < 0)
		return r;
	broker_say(broker, 0, AMQP_CONNECTION_BLOCKED_METHOD, &blocked);
	r = broker_flush(broker);
	while (r == 0 && world->told == 1)
		r = ew_sleep(EW_MILLISECOND);
	return r < 0 ? r : 1;
}

static int publish_large_task(void *argument)
{
	struct world *world = argument;
	char *body = calloc(1, LARGE_BYTES);
	int r;

	EXPECT(body);
	r = ew_amqp_publish(world->channel,
			    &(struct ew_amqp_message){ .body = body, .body_bytes = LARGE_BYTES },
			    NULL);
	free(body);
	return r == -ECANCELED ? 0 : r;
}

static int meet_stall(struct world *world, struct ew_amqp_connection *connection,
		      struct ew_amqp_channel *channel)
{
	struct ew_amqp_receipt receipt;
	int r;

	EW_SCOPE(scope);

	(void)connection;
	EXPECT_EQ(declare(channel, "stall", NULL), 0);
	/* One is being sent, one waits to be sent, and there is no room for the third. */
	for (int i = 0; i < 2; i++) {
		EXPECT_EQ(ew_spawn(&scope, publish_large_task, world), 0);
		r = ew_yield();
		for (int turns = 0; r == 0 && turns < 10; turns++)
			r = ew_yield();
		EXPECT_EQ(r, 0);
	}
	EXPECT_EQ(publish_briefly(channel, NULL, &receipt), -ETIMEDOUT);
	EXPECT_EQ(receipt.fate, EW_AMQP_NOT_SENT);
	world->told = 1;
	EXPECT_EQ(publish(channel, NULL, false, &receipt), -EBUSY);
	EXPECT_EQ(receipt.fate, EW_AMQP_NOT_SENT);
	world->told = 2;
	return ew_scope_close(&scope, EW_NOW, EW_REASON_REQUESTED) == -ETIMEDOUT ? 0 : -EBADE;
}

TEST(amqp_publisher_in_line_is_refused_when_the_broker_blocks)
{
	struct world *world = new_world();

	world->options.output_bytes_max = 1000;
	world->broker.on = stall;
	run(world, meet_stall);
}

static int declare_in_line(void *other)
{
	int r = declare(other, "q", NULL);

	return r == -ECANCELED ? 0 : r;
}

/* Who has the turn publishes nothing, and goes on waiting for room. */
static int meet_stall_behind_a_call(struct world *world, struct ew_amqp_connection *connection,
				    struct ew_amqp_channel *channel)
{
	struct ew_amqp_receipt receipt;
	int r = 0;

	EW_OWN(ew_amqp_channel, other);
	EW_SCOPE(scope);

	EXPECT_EQ(ew_amqp_channel_open(connection, NULL, &other), 0);
	EXPECT_EQ(declare(channel, "stall", NULL), 0);
	for (int i = 0; i < 3; i++) {
		EXPECT_EQ(i < 2 ? ew_spawn(&scope, publish_large_task, world)
				: ew_spawn(&scope, declare_in_line, other),
			  0);
		for (int turns = 0; r == 0 && turns < 10; turns++)
			r = ew_yield();
		EXPECT_EQ(r, 0);
	}
	world->told = 1;
	EXPECT_EQ(publish(channel, NULL, false, &receipt), -EBUSY);
	EXPECT_EQ(receipt.fate, EW_AMQP_NOT_SENT);
	world->told = 2;
	r = ew_scope_close(&scope, EW_NOW, EW_REASON_REQUESTED);
	EXPECT(r == 0 || r == -ETIMEDOUT);
	return ew_amqp_channel_close(&other);
}

TEST(amqp_publisher_in_line_behind_a_call_is_refused_when_the_broker_blocks)
{
	struct world *world = new_world();

	world->options.output_bytes_max = 1000;
	world->broker.on = stall;
	run(world, meet_stall_behind_a_call);
}

/* As stall(), but what it says is that the second channel ends. */
static int stall_and_close(struct broker *broker, unsigned channel, const amqp_method_t *method)
{
	amqp_channel_close_t close = { .reply_code = AMQP_PRECONDITION_FAILED };
	struct world *world = broker->argument;
	int r;

	if (method->id != AMQP_QUEUE_DECLARE_METHOD)
		return method->id == AMQP_BASIC_PUBLISH_METHOD;
	broker_answer(broker, channel, method);
	r = broker_flush(broker);
	while (r == 0 && world->told == 0)
		r = ew_sleep(EW_MILLISECOND);
	if (r < 0)
		return r;
	broker_say(broker, 2, AMQP_CHANNEL_CLOSE_METHOD, &close);
	r = broker_flush(broker);
	while (r == 0 && world->told == 1)
		r = ew_sleep(EW_MILLISECOND);
	return r < 0 ? r : 1;
}

static int meet_end_in_line(struct world *world, struct ew_amqp_connection *connection,
			    struct ew_amqp_channel *channel)
{
	struct ew_amqp_receipt receipt;
	int r = 0;

	EW_OWN(ew_amqp_channel, other);
	EW_SCOPE(scope);

	EXPECT_EQ(ew_amqp_channel_open(connection, NULL, &other), 0);
	EXPECT_EQ(declare(channel, "stall", NULL), 0);
	/* One is being sent, one waits to be sent, and the third has the turn and waits for room. */
	for (int i = 0; i < 3; i++) {
		EXPECT_EQ(ew_spawn(&scope, publish_large_task, world), 0);
		for (int turns = 0; r == 0 && turns < 10; turns++)
			r = ew_yield();
		EXPECT_EQ(r, 0);
	}
	world->told = 1;
	EXPECT_EQ(publish(other, NULL, false, &receipt), -EINVAL);
	EXPECT_EQ(receipt.fate, EW_AMQP_NOT_SENT);
	EXPECT_EQ(ew_amqp_channel_error(channel), NULL);
	EXPECT_EQ(ew_amqp_channel_close(&other), 0);
	world->told = 2;
	return ew_scope_close(&scope, EW_NOW, EW_REASON_REQUESTED) == -ETIMEDOUT ? 0 : -EBADE;
}

TEST(amqp_publisher_in_line_behind_another_channel_hears_of_the_end_of_its_own)
{
	struct world *world = new_world();

	world->options.output_bytes_max = 1000;
	world->broker.on = stall_and_close;
	run(world, meet_end_in_line);
}

#define LINE_PATIENCE (20 * EW_MILLISECOND)

static int publish_in_patience(void *other)
{
	struct ew_amqp_receipt receipt;
	int r;

	EW_SCOPE(patience, .deadline_ns = ew_after(LINE_PATIENCE));

	r = publish(other, NULL, false, &receipt);
	EXPECT_EQ(receipt.fate, EW_AMQP_NOT_SENT);
	r = ew_scope_finish(&patience, r);
	/* On a machine that was away it is the deadline. */
	EXPECT(r == -ESHUTDOWN || r == -ETIMEDOUT);
	return 0;
}

/* While the deadline passes nobody looks at it, and when somebody does the channel has ended. */
static int meet_end_and_deadline_in_line(struct world *world, struct ew_amqp_connection *connection,
					 struct ew_amqp_channel *channel)
{
	int64_t passed_ns;
	int r = 0;

	EW_OWN(ew_amqp_channel, other);
	EW_SCOPE(scope);

	EXPECT_EQ(ew_amqp_channel_open(connection, NULL, &other), 0);
	EXPECT_EQ(declare(channel, "stall", NULL), 0);
	for (int i = 0; i < 4; i++) {
		EXPECT_EQ(i < 3 ? ew_spawn(&scope, publish_large_task, world)
				: ew_spawn(&scope, publish_in_patience, other),
			  0);
		for (int turns = 0; r == 0 && turns < 10; turns++)
			r = ew_yield();
		EXPECT_EQ(r, 0);
	}
	passed_ns = ew_after(LINE_PATIENCE);
	while (ew_now() < passed_ns)
		;
	ew_abort(&other);
	world->told = 2;
	return ew_scope_close(&scope, EW_NOW, EW_REASON_REQUESTED) == -ETIMEDOUT ? 0 : -EBADE;
}

TEST(amqp_publisher_in_line_whose_deadline_has_just_passed_is_not_told_of_a_cancel)
{
	struct world *world = new_world();

	world->options.output_bytes_max = 1000;
	world->broker.on = stall;
	run(world, meet_end_and_deadline_in_line);
}

/* ---- calls ---- */

/* The first declaration is answered when the second is asked for. */
static int answer_late(struct broker *broker, unsigned channel, const amqp_method_t *method)
{
	const amqp_queue_declare_t *declare = method->decoded;

	(void)broker;
	(void)channel;
	return method->id == AMQP_QUEUE_DECLARE_METHOD &&
	       memcmp(declare->queue.bytes, "slow", 4) == 0;
}

static int answer_task(void *argument)
{
	struct world *world = argument;
	amqp_queue_declare_ok_t declare_ok = { .queue = amqp_cstring_bytes("slow") };

	broker_say(&world->broker, 1, AMQP_QUEUE_DECLARE_OK_METHOD, &declare_ok);
	return broker_flush(&world->broker);
}

static int call_and_leave(struct world *world, struct ew_amqp_connection *connection,
			  struct ew_amqp_channel *channel)
{
	char name[256];
	int r;

	EW_SCOPE(answer);

	(void)connection;
	{
		EW_SCOPE(scope, .deadline_ns = ew_after(20 * EW_MILLISECOND));

		r = declare(channel, "slow", name);
		EXPECT_EQ(ew_scope_finish(&scope, r), -ETIMEDOUT);
	}
	EXPECT_EQ(ew_spawn(&answer, answer_task, world), 0);
	EXPECT_EQ(declare(channel, "next", name), 0);
	EXPECT_STR(name, "next");
	return ew_scope_finish(&answer, 0);
}

TEST(amqp_answer_to_a_cancelled_call_is_not_that_of_the_next)
{
	struct world *world = new_world();

	world->broker.on = answer_late;
	run(world, call_and_leave);
}

static int refuse_declaration(struct broker *broker, unsigned channel, const amqp_method_t *method)
{
	amqp_channel_close_t close = { .reply_code = AMQP_RESOURCE_LOCKED,
				       .reply_text = amqp_cstring_bytes("LOCKED 'a\nb\x1b['") };

	if (method->id != AMQP_QUEUE_DECLARE_METHOD)
		return 0;
	return broker_say(broker, channel, AMQP_CHANNEL_CLOSE_METHOD, &close);
}

static int meet_refusal(struct world *world, struct ew_amqp_connection *connection,
			struct ew_amqp_channel *channel)
{
	EW_OWN(ew_amqp_channel, other);

	(void)world;
	EXPECT_EQ(declare(channel, "q", NULL), -EBUSY);
	EXPECT_EQ(ew_amqp_channel_error(channel)->code, AMQP_RESOURCE_LOCKED);
	/* In one line, whatever the names in it were. */
	EXPECT_STR(ew_amqp_channel_error(channel)->text,
		   "the broker closed the channel: LOCKED 'a?b?['");
	/* Its number is free though its owner still has it. */
	EXPECT_EQ(ew_amqp_channel_open(connection, NULL, &other), 0);
	return ew_amqp_channel_close(&other);
}

TEST(amqp_refused_call_ends_its_channel_alone)
{
	struct world *world = new_world();

	world->options.channels_max = 1;
	world->broker.on = refuse_declaration;
	run(world, meet_refusal);
}

/* Says close when it hears close, as if both had come to it at the same time. */
static int cross(struct broker *broker, unsigned channel, const amqp_method_t *method)
{
	amqp_channel_close_t close = { .reply_code = 200 };
	struct world *world = broker->argument;

	if (method->id == AMQP_CHANNEL_CLOSE_OK_METHOD)
		world->told++;
	if (method->id == AMQP_CHANNEL_CLOSE_METHOD)
		broker_say(broker, channel, AMQP_CHANNEL_CLOSE_METHOD, &close);
	return 0;
}

static int close_both(struct world *world, struct ew_amqp_connection *connection,
		      struct ew_amqp_channel *channel)
{
	EW_OWN(ew_amqp_channel, other);

	EXPECT_EQ(ew_amqp_channel_open(connection, NULL, &other), 0);
	EXPECT_EQ(ew_amqp_channel_close(&other), 0);
	EXPECT_EQ(ew_amqp_channel_open(connection, NULL, &other), 0);
	EXPECT_EQ(ew_amqp_channel_close(&other), 0);
	EXPECT_EQ(declare(channel, "q", NULL), 0);
	EXPECT_EQ(world->told, 2);
	return 0;
}

TEST(amqp_closes_that_cross_are_both_answered)
{
	struct world *world = new_world();

	world->options.channels_max = 2;
	world->broker.on = cross;
	run(world, close_both);
}

/* channel.close is answered when "late" is declared; until then messages still come. */
static int close_late(struct broker *broker, unsigned channel, const amqp_method_t *method)
{
	amqp_channel_close_ok_t close_ok = {};

	if (method->id == AMQP_CHANNEL_CLOSE_METHOD && channel == 2)
		return broker_deliver(broker, channel, 1, "late");
	if (method->id == AMQP_QUEUE_DECLARE_METHOD)
		broker_say(broker, 2, AMQP_CHANNEL_CLOSE_OK_METHOD, &close_ok);
	return 0;
}

static int abort_one(struct world *world, struct ew_amqp_connection *connection,
		     struct ew_amqp_channel *channel)
{
	EW_OWN(ew_amqp_channel, other);

	(void)world;
	EXPECT_EQ(ew_amqp_channel_open(connection, NULL, &other), 0);
	ew_abort(&other);
	EXPECT_EQ(ew_amqp_channel_open(connection, NULL, &other), -EAGAIN);
	EXPECT_EQ(declare(channel, "late", NULL), 0);
	EXPECT_EQ(ew_amqp_channel_open(connection, NULL, &other), 0);
	ew_abort(&other);
	return 0;
}

TEST(amqp_aborted_channel_keeps_its_number_until_the_broker_knows)
{
	struct world *world = new_world();

	world->options.channels_max = 2;
	world->broker.on = close_late;
	run(world, abort_one);
}

/* A broker takes anything but channel.open on a channel that is not open as an error of the connection. */
static int expect_open_first(struct broker *broker, unsigned channel, const amqp_method_t *method)
{
	struct world *world = broker->argument;

	if (channel == 2 && method->id == AMQP_CHANNEL_OPEN_METHOD)
		world->told++;
	if (channel == 2)
		EXPECT_EQ(world->told, 1);
	return 0;
}

static int leave_before_open(struct world *world, struct ew_amqp_connection *connection,
			     struct ew_amqp_channel *channel)
{
	EW_OWN(ew_amqp_channel, other);
	{
		EW_SCOPE(scope);

		ew_scope_cancel(&scope, EW_REASON_REQUESTED);
		EXPECT_EQ(ew_amqp_channel_open(connection, NULL, &other), -ECANCELED);
	}
	EXPECT(!other);
	EXPECT_EQ(declare(channel, "q", NULL), 0);
	EXPECT_EQ(world->told, 0);
	/* Its number is free. */
	EXPECT_EQ(ew_amqp_channel_open(connection, NULL, &other), 0);
	return ew_amqp_channel_close(&other);
}

TEST(amqp_channel_that_was_never_asked_for_is_not_closed)
{
	struct world *world = new_world();

	world->options.channels_max = 2;
	world->broker.on = expect_open_first;
	run(world, leave_before_open);
}

/* ---- consuming ---- */

#define DELIVERIES 20

/* More than may wait, in one go. */
static int deliver_many(struct broker *broker, unsigned channel, const amqp_method_t *method)
{
	char body[16];

	if (method->id != AMQP_BASIC_CONSUME_METHOD)
		return 0;
	broker_answer(broker, channel, method);
	for (unsigned i = 1; i <= DELIVERIES; i++) {
		snprintf(body, sizeof(body), "%u", i);
		broker_deliver(broker, channel, i, body);
	}
	return 1;
}

static int receive_number(struct ew_amqp_channel *channel, unsigned number)
{
	char body[16];
	int r;

	EW_OWN(ew_amqp_delivery, delivery);

	snprintf(body, sizeof(body), "%u", number);
	r = ew_amqp_receive(channel, &delivery);
	EXPECT_EQ(r, 0);
	EXPECT_EQ(delivery->tag, number);
	EXPECT_EQ(delivery->message.body_bytes, strlen(body));
	EXPECT(memcmp(delivery->message.body, body, strlen(body)) == 0);
	EXPECT_STR(delivery->message.exchange, "e");
	EXPECT_STR(delivery->message.correlation_id, "c");
	return ew_amqp_acknowledge(channel, &delivery);
}

static int consume(struct ew_amqp_channel *channel)
{
	return ew_amqp_consume(channel,
			       &(struct ew_amqp_consumer){ .queue = "q", .prefetch_max = 3 });
}

static int receive_all(struct world *world, struct ew_amqp_connection *connection,
		       struct ew_amqp_channel *channel)
{
	(void)connection;
	EXPECT_EQ(consume(channel), 0);
	EXPECT_EQ(consume(channel), -EBUSY);
	for (unsigned i = 1; i <= DELIVERIES; i++)
		EXPECT_EQ(receive_number(channel, i), 0);
	EXPECT_EQ(declare(channel, "q", NULL), 0);
	EXPECT_EQ(world->broker.acknowledged, DELIVERIES);
	return 0;
}

TEST(amqp_deliveries_wait_for_a_slow_receiver)
{
	struct world *world = new_world();

	world->broker.on = deliver_many;
	run(world, receive_all);
}

/* Longer than an input that holds one frame, so some of it waits in the socket. */
static int deliver_long(struct broker *broker, unsigned channel, const amqp_method_t *method)
{
	char body[1001];

	if (method->id != AMQP_BASIC_CONSUME_METHOD)
		return 0;
	broker_answer(broker, channel, method);
	memset(body, 'b', 1000);
	body[1000] = 0;
	for (unsigned i = 1; i <= DELIVERIES; i++)
		broker_deliver(broker, channel, i, body);
	return 1;
}

static int receive_later(struct world *world, struct ew_amqp_connection *connection,
			 struct ew_amqp_channel *channel)
{
	EW_OWN(ew_amqp_delivery, delivery);

	(void)world;
	(void)connection;
	EXPECT_EQ(consume(channel), 0);
	EXPECT_EQ(ew_sleep(2500 * EW_MILLISECOND), 0);
	for (unsigned i = 1; i <= DELIVERIES; i++) {
		EXPECT_EQ(ew_amqp_receive(channel, &delivery), 0);
		EXPECT_EQ(delivery->tag, i);
		ew_abort(&delivery);
	}
	return declare(channel, "q", NULL);
}

/* Nobody listened to it for more than two heartbeats. */
TEST(amqp_broker_that_was_held_back_was_not_silent)
{
	struct world *world = new_world();

	world->options.frame_bytes_max = 4096;
	world->broker.heartbeat = 1;
	world->broker.on = deliver_long;
	run(world, receive_later);
}

/* The one who reads has waited for room when the scope is cancelled; after it, as long again as an ending may. */
static int receive_in_ending_task(void *argument)
{
	const struct ew_amqp_options options = { .drain_ns = 3 * EW_SECOND };
	struct world *world = argument;

	EW_SCOPE(scope);
	EW_OWN(ew_amqp_connection, connection);
	EW_OWN(ew_amqp_channel, channel);

	EXPECT_EQ(broker_open(&world->broker, &scope, &options, NULL, &connection), 0);
	EXPECT_EQ(ew_amqp_channel_open(connection, NULL, &channel), 0);
	EXPECT_EQ(consume(channel), 0);
	EXPECT_EQ(ew_sleep(1600 * EW_MILLISECOND), 0);
	ew_scope_cancel(&scope, EW_REASON_REQUESTED);

	EW_SHIELD(shield, .budget_ns = 60 * EW_SECOND);

	EXPECT_EQ(ew_sleep(1600 * EW_MILLISECOND), 0);
	for (unsigned i = 1; i <= DELIVERIES; i++)
		EXPECT_EQ(receive_number(channel, i), 0);
	return 0;
}

TEST(amqp_delivery_that_waits_for_room_is_not_lost_while_endings_may_receive_it)
{
	const struct ew_run_options options = { .workers_count = 1 };
	struct world *world = new_world();

	world->broker.on = deliver_many;
	EXPECT_EQ(ew_run(&options, receive_in_ending_task, world), 0);
	free(world);
}

static int leave_full(struct world *world, struct ew_amqp_connection *connection,
		      struct ew_amqp_channel *channel)
{
	EW_OWN(ew_amqp_channel, other);

	(void)world;
	EXPECT_EQ(ew_amqp_channel_open(connection, NULL, &other), 0);
	EXPECT_EQ(consume(other), 0);
	EXPECT_EQ(ew_amqp_channel_close(&other), 0);
	/* The one that is left is full, too, when its connection is closed. */
	return consume(channel);
}

TEST(amqp_channel_whose_deliveries_nobody_takes_can_be_closed)
{
	struct world *world = new_world();

	world->broker.on = deliver_many;
	run(world, leave_full);
}

static int cancel_consumer(struct broker *broker, unsigned channel, const amqp_method_t *method)
{
	amqp_basic_cancel_t cancel = { .consumer_tag = amqp_cstring_bytes("t") };
	struct world *world = broker->argument;

	if (method->id == AMQP_BASIC_CANCEL_OK_METHOD)
		world->told++;
	if (method->id != AMQP_BASIC_CONSUME_METHOD)
		return 0;
	broker_answer(broker, channel, method);
	broker_deliver(broker, channel, 1, "1");
	return broker_say(broker, channel, AMQP_BASIC_CANCEL_METHOD, &cancel);
}

static int meet_cancel(struct world *world, struct ew_amqp_connection *connection,
		       struct ew_amqp_channel *channel)
{
	EW_OWN(ew_amqp_delivery, delivery);

	(void)connection;
	EXPECT_EQ(ew_amqp_receive(channel, &delivery), -EINVAL);
	EXPECT_EQ(consume(channel), 0);
	EXPECT_EQ(receive_number(channel, 1), 0);
	EXPECT_EQ(ew_amqp_receive(channel, &delivery), -EIDRM);
	EXPECT_EQ(declare(channel, "q", NULL), 0);
	EXPECT_EQ(world->told, 1);
	return 0;
}

TEST(amqp_consumer_that_the_broker_ends_is_told)
{
	struct world *world = new_world();

	world->broker.on = cancel_consumer;
	run(world, meet_cancel);
}

static int receive_unanswerable(struct world *world, struct ew_amqp_connection *connection,
				struct ew_amqp_channel *channel)
{
	int r;

	EW_OWN(ew_amqp_delivery, delivery);

	(void)world;
	(void)connection;
	r = ew_amqp_consume(channel, &(struct ew_amqp_consumer){ .queue = EW_AMQP_REPLY_TO,
								 .no_ack = true,
								 .prefetch_max = DELIVERIES });
	EXPECT_EQ(r, 0);
	EXPECT_EQ(ew_amqp_receive(channel, &delivery), 0);
	EXPECT_EQ(delivery->tag, 0);
	EXPECT_EQ(ew_amqp_acknowledge(channel, &delivery), -EINVAL);
	EXPECT(delivery);
	return 0;
}

TEST(amqp_delivery_without_acknowledgement_cannot_be_acknowledged)
{
	struct world *world = new_world();

	world->broker.on = deliver_many;
	run(world, receive_unanswerable);
}

TEST_MAIN()
