/* SPDX-License-Identifier: Apache-2.0 */

/*
 * An AMQP connection and a broker in the next task, which does what no broker should. Nothing waits for the clock but what
 * is about heartbeats, in seconds, as the protocol has them.
 */

#include "amqp/internal.h"
#include "amqp_broker.h"
#include "tls.h"

struct world {
	struct broker broker;
	struct ew_amqp_options options;
	int (*client)(struct world *world, struct ew_amqp_connection *connection);
	int opened;
	struct ew_amqp_error error;
	struct ew_amqp_connection *connection;
};

static int world_task(void *argument)
{
	struct world *world = argument;
	int r;

	EW_SCOPE(scope, .deadline_ns = ew_after(90 * EW_SECOND * ew_test_scale()));
	EW_OWN(ew_amqp_connection, connection);

	world->opened =
		broker_open(&world->broker, &scope, &world->options, &world->error, &connection);
	if (world->opened < 0) {
		EXPECT_EQ(ew_ending_error(), 0);
		return 0;
	}
	world->connection = connection;
	EXPECT_EQ(world->client(world, connection), 0);
	r = ew_amqp_connection_close(&connection);
	EXPECT_EQ(r, 0);
	return ew_scope_finish(&scope, 0);
}

static struct world *new_world(void)
{
	return broker_world_new(sizeof(struct world));
}

static void run(struct world *world,
		int (*client)(struct world *world, struct ew_amqp_connection *connection))
{
	const struct ew_run_options options = { .workers_count = 1 };

	world->client = client;
	EXPECT_EQ(ew_run(&options, world_task, world), 0);
}

static int nothing(struct world *world, struct ew_amqp_connection *connection)
{
	(void)world;
	(void)connection;
	return 0;
}

/* ---- opening ---- */

TEST(amqp_connection_says_goodbye)
{
	struct world *world = new_world();

	run(world, nothing);
	EXPECT_EQ(world->opened, 0);
	EXPECT_EQ(world->broker.close_code, 200);
	free(world);
}

/* ---- in TLS ---- */

static struct world *new_tls_world(void)
{
	struct world *world = new_world();

	world->broker.tls_context = tls_server_context();
	world->options.tls = tls_client_context();
	world->options.server_name = "server.test";
	return world;
}

static void free_tls_world(struct world *world)
{
	ew_tls_context_free(world->broker.tls_context);
	ew_tls_context_free(world->options.tls);
	free(world);
}

static int publish_one(struct world *world, struct ew_amqp_connection *connection)
{
	const struct ew_amqp_message message = { .routing_key = "q", .body = "b", .body_bytes = 1 };
	int r;

	EW_OWN(ew_amqp_channel, channel);

	(void)world;
	r = ew_amqp_channel_open(connection, NULL, &channel);
	EXPECT_EQ(r, 0);
	r = ew_amqp_publish(channel, &message, NULL);
	EXPECT_EQ(r, 0);
	r = ew_amqp_channel_close(&channel);
	EXPECT_EQ(r, 0);
	return 0;
}

/* First that of AMQP, then that of TLS: the broker knows that it has heard all. */
TEST(amqp_connection_in_tls_says_both_goodbyes)
{
	struct world *world = new_tls_world();

	run(world, publish_one);
	EXPECT_EQ(world->opened, 0);
	EXPECT_EQ(world->broker.bodies, 1);
	EXPECT_EQ(world->broker.close_code, 200);
	EXPECT(world->broker.heard_goodbye);
	free_tls_world(world);
}

TEST(amqp_connection_in_tls_to_another_server_is_refused_in_words)
{
	struct world *world = new_tls_world();

	world->options.server_name = "other.test";
	run(world, nothing);
	EXPECT_EQ(world->opened, -EKEYREJECTED);
	EXPECT_EQ(world->error.error, -EKEYREJECTED);
	EXPECT_STR(world->error.text,
		   "TLS: the peer's certificate /CN=server is not for other.test");
	free_tls_world(world);
}

static int hang_up_at_once(struct broker *broker, unsigned channel, const amqp_method_t *method)
{
	(void)broker;
	(void)channel;
	(void)method;
	return -ECONNRESET;
}

TEST(amqp_broker_that_ends_tls_at_login_has_hung_up)
{
	struct world *world = new_tls_world();

	world->broker.on = hang_up_at_once;
	run(world, nothing);
	EXPECT_EQ(world->opened, -ECONNRESET);
	EXPECT_STR(world->error.text, "the broker hung up without a word");
	free_tls_world(world);
}

static int answer_in_tls(struct broker *broker, unsigned channel, const amqp_method_t *method)
{
	(void)channel;
	(void)method;
	broker_must(ew_amqp_output_bytes(&broker->output, "\x15\x03\x01\0\x02\x02\x46", 7));
	return 1;
}

TEST(amqp_broker_that_speaks_tls_is_told_from_one_that_breaks_the_protocol)
{
	struct world *world = new_world();

	world->broker.mechanisms = NULL;
	world->broker.on = answer_in_tls;
	run(world, nothing);
	EXPECT_EQ(world->opened, -EPROTONOSUPPORT);
	EXPECT_STR(world->error.text, "the broker speaks TLS here: amqps, not amqp");
	free(world);
}

/* ---- options ---- */

TEST(amqp_option_out_of_range_is_named)
{
	struct world *world = new_world();

	world->options.frame_bytes_max = 4095;
	run(world, nothing);
	EXPECT_EQ(world->opened, -EINVAL);
	EXPECT_STR(world->error.text, "frame_bytes_max is from 4096 to 1048576");
	free(world);
}

/* A broker announces how long a body is, and so much memory is asked for: no sum may be beyond what a number holds. */
TEST(amqp_messages_without_a_bound_are_refused)
{
	struct world *world = new_world();

	world->options.message_bytes_max = SIZE_MAX;
	run(world, nothing);
	EXPECT_EQ(world->opened, -EINVAL);
	EXPECT_STR(world->error.text, "message_bytes_max is at most 1073741824");
	free(world);
}

static int speak_another_version(struct broker *broker, unsigned channel,
				 const amqp_method_t *method)
{
	(void)channel;
	(void)method;
	EXPECT_EQ(ew_amqp_output_bytes(&broker->output, "AMQP\0\1\0\0", 8), 0);
	return -EPROTO;
}

static bool is_in(const struct ew_amqp_output *output, const char *words)
{
	return output->data && memmem(output->data, output->capacity, words, strlen(words));
}

static int look_for_password(struct world *world, struct ew_amqp_connection *connection)
{
	EXPECT(!is_in(&connection->filling, world->options.password));
	EXPECT(!is_in(&connection->sending, world->options.password));
	/* What was said behind it is there: it was looked for in the right place. */
	EXPECT(is_in(&connection->filling, "somewhere") ||
	       is_in(&connection->sending, "somewhere"));
	return 0;
}

TEST(amqp_password_is_not_kept_behind_the_login)
{
	struct world *world = new_world();

	world->options.password = "a secret between two";
	world->options.virtual_host = "somewhere";
	run(world, look_for_password);
	EXPECT_EQ(world->opened, 0);
	free(world);
}

TEST(amqp_broker_of_another_version_is_named)
{
	struct world *world = new_world();

	world->broker.mechanisms = NULL;
	world->broker.on = speak_another_version;
	run(world, nothing);
	EXPECT_EQ(world->opened, -EPROTONOSUPPORT);
	EXPECT_STR(world->error.text, "the broker speaks AMQP 1-0-0, not 0-9-1");
	free(world);
}

TEST(amqp_broker_without_plain_is_refused)
{
	struct world *world = new_world();

	world->broker.mechanisms = "AMQPLAIN PLAINER";
	run(world, nothing);
	EXPECT_EQ(world->opened, -EPROTO);
	EXPECT_STR(world->error.text,
		   "the broker broke the protocol: it offers no PLAIN to log in by");
	EXPECT_EQ(world->broker.close_code, AMQP_NOT_IMPLEMENTED);
	free(world);
}

TEST(amqp_broker_that_wants_too_small_frames_is_refused)
{
	struct world *world = new_world();

	world->broker.frame_max = 4095;
	run(world, nothing);
	EXPECT_EQ(world->opened, -EPROTO);
	EXPECT_EQ(world->broker.close_code, AMQP_NOT_ALLOWED);
	free(world);
}

static int hang_up(struct broker *broker, unsigned channel, const amqp_method_t *method)
{
	(void)broker;
	(void)channel;
	(void)method;
	return -ECONNRESET;
}

TEST(amqp_broker_that_hangs_up_at_login_is_an_error)
{
	struct world *world = new_world();

	world->broker.on = hang_up;
	run(world, nothing);
	EXPECT_EQ(world->opened, -ECONNRESET);
	EXPECT_STR(world->error.text, "the broker hung up without a word");
	free(world);
}

static int stay_silent(struct broker *broker, unsigned channel, const amqp_method_t *method)
{
	(void)broker;
	(void)channel;
	(void)method;
	return 1;
}

static int open_briefly_task(void *argument)
{
	struct world *world = argument;
	int r;

	EW_SCOPE(scope);
	EW_OWN(ew_amqp_connection, connection);
	EW_SCOPE(patience, .deadline_ns = ew_after(50 * EW_MILLISECOND));

	r = broker_open(&world->broker, &scope, &world->options, &world->error, &connection);
	EXPECT(!connection);
	world->opened = ew_scope_finish(&patience, r);
	/* It was not aborted at the end of its budget. */
	EXPECT_EQ(ew_ending_error(), 0);
	return 0;
}

TEST(amqp_broker_that_does_not_answer_is_left_at_the_deadline)
{
	const struct ew_run_options options = { .workers_count = 1 };
	struct world *world = new_world();

	world->broker.on = stay_silent;
	EXPECT_EQ(ew_run(&options, open_briefly_task, world), 0);
	EXPECT_EQ(world->opened, -ETIMEDOUT);
	free(world);
}

static int publish_large(struct world *world, struct ew_amqp_connection *connection)
{
	static char body[10000];
	const struct ew_amqp_message message = { .body = body, .body_bytes = sizeof(body) };
	int r;

	EW_OWN(ew_amqp_channel, channel);
	EW_OWN(ew_amqp_channel, other);

	r = ew_amqp_channel_open(connection, NULL, &channel);
	EXPECT_EQ(r, 0);
	r = ew_amqp_channel_open(connection, NULL, &other);
	EXPECT_EQ(r, -EAGAIN);
	r = ew_amqp_publish(channel, &message, NULL);
	EXPECT_EQ(r, 0);
	EXPECT_EQ(world->broker.bodies, 3);
	EXPECT_EQ(world->broker.frame_bytes_max, 4096);
	return ew_amqp_channel_close(&channel);
}

TEST(amqp_smaller_limits_of_the_broker_count)
{
	struct world *world = new_world();

	world->broker.frame_max = 4096;
	world->broker.channel_max = 1;
	run(world, publish_large);
	EXPECT_EQ(world->opened, 0);
	free(world);
}

/* ---- what breaks the protocol ---- */

static int say_open_ok(struct broker *broker)
{
	amqp_channel_open_ok_t open_ok = {};

	return broker_say(broker, 1, AMQP_CHANNEL_OPEN_OK_METHOD, &open_ok);
}

static int say_on_unopened(struct broker *broker)
{
	return broker_confirm(broker, 2, 1, false);
}

static int say_above_the_last(struct broker *broker)
{
	return broker_confirm(broker, 65535, 1, false);
}

static int deliver_unasked(struct broker *broker)
{
	return broker_deliver(broker, 1, 1, "body");
}

static int say_header_unasked(struct broker *broker)
{
	return broker_frame(broker, AMQP_FRAME_HEADER, 1, 14, "\0\74\0\0\0\0\0\0\0\0\0\0\0\0", 14);
}

static int say_body_unasked(struct broker *broker)
{
	return broker_frame(broker, AMQP_FRAME_BODY, 1, 1, "x", 1);
}

static int say_content_on_0(struct broker *broker)
{
	return broker_frame(broker, AMQP_FRAME_BODY, 0, 1, "x", 1);
}

static int begin_return(struct broker *broker)
{
	amqp_basic_return_t returned = { .reply_code = AMQP_NO_ROUTE };

	return broker_say(broker, 1, AMQP_BASIC_RETURN_METHOD, &returned);
}

static int say_method_in_content(struct broker *broker)
{
	begin_return(broker);
	return broker_confirm(broker, 1, 1, false);
}

static int say_body_before_header(struct broker *broker)
{
	begin_return(broker);
	return say_body_unasked(broker);
}

static int say_header_of_another_class(struct broker *broker)
{
	begin_return(broker);
	return broker_frame(broker, AMQP_FRAME_HEADER, 1, 14, "\0\75\0\0\0\0\0\0\0\0\0\0\0\0", 14);
}

static int say_more_than_announced(struct broker *broker)
{
	begin_return(broker);
	broker_frame(broker, AMQP_FRAME_HEADER, 1, 14, "\0\74\0\0\0\0\0\0\0\0\0\2\0\0", 14);
	say_body_unasked(broker);
	return broker_frame(broker, AMQP_FRAME_BODY, 1, 2, "yz", 2);
}

static int say_cut_header(struct broker *broker)
{
	begin_return(broker);
	return broker_frame(broker, AMQP_FRAME_HEADER, 1, 13, "\0\74\0\0\0\0\0\0\0\0\0\0\0", 13);
}

static int confirm_unsent(struct broker *broker)
{
	return broker_confirm(broker, 1, 1, false);
}

static int confirm_0(struct broker *broker)
{
	return broker_confirm(broker, 1, 0, false);
}

static int close_unasked(struct broker *broker)
{
	amqp_channel_close_ok_t close_ok = {};

	return broker_say(broker, 1, AMQP_CHANNEL_CLOSE_OK_METHOD, &close_ok);
}

static int cancel_no_consumer(struct broker *broker)
{
	amqp_basic_cancel_t cancel = { .consumer_tag = amqp_cstring_bytes("t") };

	return broker_say(broker, 1, AMQP_BASIC_CANCEL_METHOD, &cancel);
}

static int tune_again(struct broker *broker)
{
	amqp_connection_tune_t tune = {};

	return broker_say(broker, 0, AMQP_CONNECTION_TUNE_METHOD, &tune);
}

static int say_unknown_method(struct broker *broker)
{
	return broker_frame(broker, AMQP_FRAME_METHOD, 1, 4, "\0\74\0\377", 4);
}

static int say_cut_method(struct broker *broker)
{
	/* basic.ack without all of its number */
	return broker_frame(broker, AMQP_FRAME_METHOD, 1, 8, "\0\74\0\120\0\0\0\0", 8);
}

static int say_cut_method_on_0(struct broker *broker)
{
	return broker_frame(broker, AMQP_FRAME_METHOD, 0, 3, "\0\12\0", 3);
}

static int say_unknown_type(struct broker *broker)
{
	return broker_frame(broker, 4, 1, 1, "x", 1);
}

static int say_no_end(struct broker *broker)
{
	return broker_frame(broker, AMQP_FRAME_BODY, 1, 1, "xy", 2);
}

static int say_large(struct broker *broker)
{
	return broker_frame(broker, AMQP_FRAME_BODY, 1, 131072 - 7, "x", 1);
}

static const struct violation {
	int (*say)(struct broker *broker);
	unsigned code;
	const char *text;
} violations[] = {
	{ say_open_ok, 505, "channel.open-ok on channel 1, out of place" },
	{ say_on_unopened, 504, "something on channel 2, which is not open" },
	{ say_above_the_last, 504, "something on channel 65535, which is not open" },
	{ deliver_unasked, 505, "basic.deliver on channel 1, out of place" },
	{ say_header_unasked, 505, "a content header on channel 1, out of place" },
	{ say_body_unasked, 505, "a body on channel 1, out of place" },
	{ say_content_on_0, 505, "content on channel 0" },
	{ say_method_in_content, 505, "basic.ack on channel 1, out of place" },
	{ say_body_before_header, 505, "a body on channel 1, out of place" },
	{ say_header_of_another_class, 502,
	  "a content header that cannot be decoded, on channel 1" },
	{ say_more_than_announced, 505,
	  "more of a body than was announced on channel 1, out of place" },
	{ say_cut_header, 502, "a content header that cannot be decoded, on channel 1" },
	{ confirm_unsent, 503, "a confirmation of message 1 on channel 1, which has seen 0" },
	{ confirm_0, 503, "a confirmation of message 0 on channel 1, which has seen 0" },
	{ close_unasked, 505, "channel.close-ok on channel 1, out of place" },
	{ cancel_no_consumer, 505, "basic.cancel on channel 1, out of place" },
	{ tune_again, 503, "connection.tune for the connection, out of place" },
	{ say_unknown_method, 502, "a method that cannot be decoded, on channel 1" },
	{ say_cut_method, 502, "a method that cannot be decoded, on channel 1" },
	{ say_cut_method_on_0, 502, "a method that cannot be decoded" },
	{ say_unknown_type, 501, "a frame of a type that AMQP 0-9-1 does not know" },
	{ say_no_end, 501, "a frame without its end" },
	{ say_large, 501, "a frame that is larger than was agreed" },
};

static const struct violation *violation;

/* Instead of an answer to queue.declare. */
static int violate(struct broker *broker, unsigned channel, const amqp_method_t *method)
{
	(void)channel;
	return method->id == AMQP_QUEUE_DECLARE_METHOD ? violation->say(broker) : 0;
}

static int meet_violation(struct world *world, struct ew_amqp_connection *connection)
{
	char text[256];
	int r;

	EW_OWN(ew_amqp_channel, channel);

	r = ew_amqp_channel_open(connection, NULL, &channel);
	EXPECT_EQ(r, 0);
	r = ew_amqp_queue_declare(channel, &(struct ew_amqp_queue){ .name = "q" }, NULL);
	EXPECT_EQ(r, -EPROTO);
	snprintf(text, sizeof(text), "the broker broke the protocol: %s", violation->text);
	EXPECT_STR(ew_amqp_channel_error(channel)->text, text);
	EXPECT_STR(ew_amqp_connection_error(connection)->text, text);
	r = ew_amqp_connection_wait(connection);
	EXPECT_EQ(r, -EPROTO);
	EXPECT_EQ(world->broker.close_code, violation->code);
	EXPECT_STR(world->broker.close_text, violation->text);
	r = ew_amqp_channel_open(connection, NULL, &channel);
	EXPECT_EQ(r, -EPROTO);
	return 0;
}

/* The one who waits is told what it was, and so is the broker. */
TEST(amqp_broken_protocol_ends_the_connection_in_words)
{
	for (size_t i = 0; i < sizeof(violations) / sizeof(violations[0]); i++) {
		struct world *world = new_world();

		violation = &violations[i];
		fprintf(stderr, "%s\n", violation->text);
		world->broker.on = violate;
		run(world, meet_violation);
		EXPECT_EQ(world->opened, 0);
		free(world);
	}
}

/* ---- endings ---- */

static int flood(struct broker *broker, unsigned channel, const amqp_method_t *method)
{
	amqp_channel_flow_t flow = { .active = 1 };
	int r = 0;

	if (method->id != AMQP_QUEUE_DECLARE_METHOD)
		return 0;
	while (r == 0) {
		for (int i = 0; i < 1000; i++)
			broker_say(broker, channel, AMQP_CHANNEL_FLOW_METHOD, &flow);
		r = broker_flush(broker);
	}
	return r;
}

static int declare(struct ew_amqp_connection *connection)
{
	EW_OWN(ew_amqp_channel, channel);
	int r = ew_amqp_channel_open(connection, NULL, &channel);

	return r < 0 ? r
		     : ew_amqp_queue_declare(channel, &(struct ew_amqp_queue){ .name = "q" }, NULL);
}

static int meet_flood(struct world *world, struct ew_amqp_connection *connection)
{
	(void)world;
	EXPECT_EQ(declare(connection), -ENOBUFS);
	return 0;
}

/* The broker never reads an answer; what it may make us keep is bounded. */
TEST(amqp_broker_that_asks_and_does_not_read_is_left)
{
	struct world *world = new_world();

	world->options.output_bytes_max = 4096;
	world->broker.on = flood;
	run(world, meet_flood);
	EXPECT_EQ(world->opened, 0);
	free(world);
}

static int wait_silently(struct world *world, struct ew_amqp_connection *connection)
{
	EXPECT_EQ(ew_amqp_connection_wait(connection), -ETIMEDOUT);
	EXPECT_STR(ew_amqp_connection_error(connection)->text,
		   "the broker was silent for 2 s, two heartbeats");
	EXPECT(world->broker.heartbeats >= 2);
	return 0;
}

TEST(amqp_broker_without_heartbeats_is_given_up_and_hears_ours)
{
	struct world *world = new_world();

	world->broker.heartbeat = 1;
	run(world, wait_silently);
	EXPECT_EQ(world->opened, 0);
	free(world);
}

/* A heartbeat each second, all of them in a frame that says it is longer. */
static int dribble(struct broker *broker, unsigned channel, const amqp_method_t *method)
{
	int r = 0;

	if (method->id != AMQP_CHANNEL_OPEN_METHOD)
		return 0;
	broker_frame(broker, AMQP_FRAME_METHOD, channel, 5000, "", 0);
	while (r == 0) {
		broker_frame(broker, AMQP_FRAME_HEARTBEAT, 0, 0, "", 0);
		r = broker_flush(broker);
		if (r == 0)
			r = ew_sleep(EW_SECOND);
	}
	return r;
}

static int wait_for_the_rest(struct world *world, struct ew_amqp_connection *connection)
{
	EW_OWN(ew_amqp_channel, channel);

	(void)world;
	EXPECT_EQ(ew_amqp_channel_open(connection, NULL, &channel), -ETIMEDOUT);
	EXPECT_STR(ew_amqp_connection_error(connection)->text,
		   "a frame has not ended in 2 s, two heartbeats");
	return 0;
}

TEST(amqp_broker_whose_frame_does_not_end_is_given_up)
{
	struct world *world = new_world();

	world->broker.heartbeat = 1;
	world->broker.on = dribble;
	run(world, wait_for_the_rest);
	EXPECT_EQ(world->opened, 0);
	free(world);
}

static int ignore_goodbye(struct broker *broker, unsigned channel, const amqp_method_t *method)
{
	(void)broker;
	(void)channel;
	return method->id == AMQP_CONNECTION_CLOSE_METHOD;
}

static int close_briefly_task(void *argument)
{
	struct world *world = argument;

	EW_SCOPE(scope);
	EW_OWN(ew_amqp_connection, connection);

	EXPECT_EQ(broker_open(&world->broker, &scope, NULL, NULL, &connection), 0);

	EW_SHIELD(shield, .budget_ns = 50 * EW_MILLISECOND);

	EXPECT_EQ(ew_amqp_connection_close(&connection), -ECANCELED);
	EXPECT(!connection);
	return 0;
}

TEST(amqp_goodbye_without_an_answer_becomes_an_abort)
{
	const struct ew_run_options options = { .workers_count = 1 };
	struct world *world = new_world();

	world->broker.on = ignore_goodbye;
	EXPECT_EQ(ew_run(&options, close_briefly_task, world), 0);
	free(world);
}

static int hang_up_at_goodbye(struct broker *broker, unsigned channel, const amqp_method_t *method)
{
	(void)broker;
	(void)channel;
	return method->id == AMQP_CONNECTION_CLOSE_METHOD ? -ECONNRESET : 0;
}

static int close_lost_task(void *argument)
{
	struct world *world = argument;

	EW_SCOPE(scope);
	EW_OWN(ew_amqp_connection, connection);

	EXPECT_EQ(broker_open(&world->broker, &scope, NULL, NULL, &connection), 0);
	EXPECT_EQ(ew_amqp_connection_close(&connection), -ECONNRESET);
	return 0;
}

TEST(amqp_connection_lost_at_goodbye_is_told)
{
	const struct ew_run_options options = { .workers_count = 1 };
	struct world *world = new_world();

	world->broker.on = hang_up_at_goodbye;
	EXPECT_EQ(ew_run(&options, close_lost_task, world), 0);
	free(world);
}

/* Its owner is declared above the scope: asked when the time for endings is over. */
static int outlived_task(void *argument)
{
	const struct ew_amqp_options options = { .drain_ns = 50 * EW_MILLISECOND };
	struct world *world = argument;
	int r;

	EW_OWN(ew_amqp_connection, connection);
	EW_SCOPE(scope);

	EXPECT_EQ(broker_open(&world->broker, &scope, &options, NULL, &connection), 0);
	ew_scope_cancel(&scope, EW_REASON_REQUESTED);
	r = ew_scope_join(&scope);
	EXPECT(r == 0 || r == -ECANCELED);
	EXPECT_EQ(ew_amqp_connection_error(connection)->error, -ECANCELED);
	EXPECT_STR(ew_amqp_connection_error(connection)->text,
		   "the connection's scope was cancelled, and its time is over");
	return 0;
}

TEST(amqp_connection_does_not_outlive_its_scope_by_more_than_was_granted)
{
	const struct ew_run_options options = { .workers_count = 1 };
	struct world *world = new_world();

	EXPECT_EQ(ew_run(&options, outlived_task, world), 0);
	free(world);
}

TEST_MAIN()
