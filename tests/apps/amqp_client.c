/* SPDX-License-Identifier: Apache-2.0 */

/*
 * A client of a real broker, for tests/apps/amqp_test.py: amqp-client PORT SCENARIO
 *
 * Each scenario is a task. It says on standard output what it saw, a line each; where the broker has to be treated first
 * it says so and waits for a line on standard input.
 */

#include <amqp/channel.h>
#include <amqp/connection.h>
#include <endwell/endwell.h>

#include <errno.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* rabbitmqctl, for which some scenarios wait twice, takes ten seconds on a busy machine. */
#define PATIENCE (300 * EW_SECOND)

static struct sockaddr_in address = { .sin_family = AF_INET };

#define MUST(call)                                                                                 \
	do {                                                                                       \
		int must_r = (call);                                                               \
		if (must_r < 0) {                                                                  \
			printf("line %d: %s: %s\n", __LINE__, #call, strerror(-must_r));           \
			return must_r;                                                             \
		}                                                                                  \
	} while (0)

static int dial(struct ew_scope *scope, const struct ew_amqp_options *options,
		struct ew_amqp_connection **ret_connection)
{
	struct ew_amqp_error error = {};
	int r = ew_amqp_connection_open(scope, (struct sockaddr *)&address, sizeof(address),
					options, &error, ret_connection);

	if (r < 0)
		printf("refused: %s %u %s\n", strerrorname_np(-r), error.code, error.text);
	return r;
}

static void tell(const char *what, int r, const struct ew_amqp_error *error)
{
	printf("%s: %s %u %s\n", what, r < 0 ? strerrorname_np(-r) : "0", error ? error->code : 0,
	       error ? error->text : "");
}

static void tell_fate(int r, const struct ew_amqp_receipt *receipt)
{
	static const char *const names[] = { "not-sent", "confirmed", "returned", "nacked",
					     "unknown" };

	printf("published: %s %s %u %s\n", r < 0 ? strerrorname_np(-r) : "0", names[receipt->fate],
	       receipt->code, receipt->text);
}

static int read_line(void *line)
{
	return fgets(line, 64, stdin) ? 0 : -ENODATA;
}

/* Until the test has done what @what asks for. */
static int ask(const char *what)
{
	char line[64];
	int result, r;

	printf("%s\n", what);
	r = ew_offload(read_line, line, &result);
	return r < 0 ? r : result;
}

/* ---- requests and answers ---- */

#define REQUESTS  200
#define IN_FLIGHT 8

struct rpc {
	struct ew_amqp_channel *requests; /* where the server gets them */
	struct ew_amqp_channel *answers;
	char queue[256];
	bool seen[REQUESTS];
	unsigned next;
};

static int serve(void *argument)
{
	struct rpc *rpc = argument;

	for (unsigned i = 0; i < REQUESTS; i++) {
		EW_OWN(ew_amqp_delivery, request);

		MUST(ew_amqp_receive(rpc->requests, &request));
		MUST(ew_amqp_publish(rpc->requests,
				     &(struct ew_amqp_message){
					     .routing_key = request->message.reply_to,
					     .correlation_id = request->message.correlation_id,
					     .body = request->message.body,
					     .body_bytes = request->message.body_bytes },
				     NULL));
		MUST(ew_amqp_acknowledge(rpc->requests, &request));
	}
	return 0;
}

static int request(void *argument)
{
	struct rpc *rpc = argument;
	char id[16];

	while (rpc->next < REQUESTS) {
		snprintf(id, sizeof(id), "r%u", rpc->next++);
		MUST(ew_amqp_publish(rpc->answers,
				     &(struct ew_amqp_message){ .routing_key = rpc->queue,
								.reply_to = EW_AMQP_REPLY_TO,
								.correlation_id = id,
								.message_id = id,
								.mandatory = true,
								.body = id,
								.body_bytes = strlen(id) },
				     NULL));
	}
	return 0;
}

static int collect(struct rpc *rpc)
{
	for (unsigned i = 0; i < REQUESTS; i++) {
		unsigned number;

		EW_OWN(ew_amqp_delivery, answer);

		MUST(ew_amqp_receive(rpc->answers, &answer));
		if (sscanf(answer->message.correlation_id, "r%u", &number) != 1 ||
		    number >= REQUESTS || rpc->seen[number] ||
		    answer->message.body_bytes != strlen(answer->message.correlation_id) ||
		    memcmp(answer->message.body, answer->message.correlation_id,
			   answer->message.body_bytes) != 0)
			return -EBADMSG;
		rpc->seen[number] = true;
	}
	printf("%u answers\n", REQUESTS);
	return 0;
}

static int rpc(struct ew_amqp_connection *connection)
{
	struct rpc rpc = {};
	int r;

	EW_OWN(ew_amqp_channel, requests);
	EW_OWN(ew_amqp_channel, answers);
	EW_SCOPE(scope);

	MUST(ew_amqp_channel_open(connection, NULL, &requests));
	MUST(ew_amqp_channel_open(connection, NULL, &answers));
	rpc.requests = requests;
	rpc.answers = answers;
	MUST(ew_amqp_queue_declare(requests, &(struct ew_amqp_queue){ .exclusive = true },
				   rpc.queue));
	MUST(ew_amqp_consume(requests, &(struct ew_amqp_consumer){ .queue = rpc.queue }));
	MUST(ew_amqp_consume(
		answers, &(struct ew_amqp_consumer){ .queue = EW_AMQP_REPLY_TO, .no_ack = true }));
	MUST(ew_spawn(&scope, serve, &rpc));
	for (int i = 0; i < IN_FLIGHT; i++)
		MUST(ew_spawn(&scope, request, &rpc));
	r = collect(&rpc);
	MUST(ew_scope_finish(&scope, r));
	MUST(ew_amqp_channel_close(&answers));
	return ew_amqp_channel_close(&requests);
}

/* ---- refusals ---- */

static int refusals(struct ew_amqp_connection *connection)
{
	struct ew_amqp_receipt receipt;
	struct ew_amqp_message message = { .routing_key = "nowhere",
					   .message_id = "m",
					   .mandatory = true,
					   .body = "x",
					   .body_bytes = 1 };
	char queue[256];
	int r;

	EW_OWN(ew_amqp_channel, channel);
	EW_OWN(ew_amqp_channel, other);

	MUST(ew_amqp_channel_open(connection, NULL, &channel));
	r = ew_amqp_publish(channel, &message, &receipt);
	tell_fate(r, &receipt);
	MUST(ew_amqp_queue_declare(channel, &(struct ew_amqp_queue){ .exclusive = true }, queue));
	message.routing_key = queue;
	r = ew_amqp_publish(channel, &message, &receipt);
	tell_fate(r, &receipt);
	r = ew_amqp_queue_declare(channel,
				  &(struct ew_amqp_queue){ .name = "none", .passive = true }, NULL);
	tell("declared", r, ew_amqp_channel_error(channel));
	r = ew_amqp_publish(channel, &message, &receipt);
	tell_fate(r, &receipt);
	MUST(ew_amqp_channel_open(connection, NULL, &other));
	message.exchange = "no-such-exchange";
	r = ew_amqp_publish(other, &message, &receipt);
	tell_fate(r, &receipt);
	tell("channel", r, ew_amqp_channel_error(other));
	MUST(ew_amqp_channel_close(&other));
	MUST(ew_amqp_channel_close(&channel));
	/* Their numbers are free, and the connection is well. */
	return ew_amqp_channel_open(connection, NULL, &channel);
}

/* ---- bodies and properties ---- */

#define BODY_BYTES 1000000

static int expect_body(struct ew_amqp_channel *channel, const char *body)
{
	const char *trace, *number;

	EW_OWN(ew_amqp_delivery, delivery);

	MUST(ew_amqp_receive(channel, &delivery));
	trace = ew_amqp_header_find(&delivery->message, "traceparent");
	number = ew_amqp_header_find(&delivery->message, "x-empty");
	printf("body %s, %s, %s, %s\n",
	       delivery->message.body_bytes == BODY_BYTES &&
			       memcmp(delivery->message.body, body, BODY_BYTES) == 0
		       ? "equal"
		       : "different",
	       trace ? trace : "-", number ? number : "-", delivery->message.content_type);
	return ew_amqp_acknowledge(channel, &delivery);
}

static int expect_too_large(struct ew_amqp_channel *channel)
{
	EW_OWN(ew_amqp_delivery, delivery);

	MUST(ew_amqp_receive(channel, &delivery));
	printf("too large %d %zu %s\n", delivery->too_large, delivery->message.body_bytes,
	       delivery->message.body ? "kept" : "left out");
	return ew_amqp_reject(channel, &delivery, false);
}

static int bodies_with(struct ew_amqp_connection *connection, char *body)
{
	const struct ew_amqp_options small = { .message_bytes_max = 10000 };
	const struct ew_amqp_header headers[] = { { "traceparent", "00-a" }, { "x-empty", "" } };
	struct ew_amqp_message message = { .content_type = "text/plain",
					   .headers = headers,
					   .headers_count = 2,
					   .persistent = true,
					   .body = body,
					   .body_bytes = BODY_BYTES };
	struct ew_amqp_receipt receipt;
	char queue[256];
	int r;

	EW_SCOPE(scope);
	EW_OWN(ew_amqp_connection, other);
	EW_OWN(ew_amqp_channel, channel);
	EW_OWN(ew_amqp_channel, small_channel);

	MUST(ew_amqp_channel_open(connection, NULL, &channel));
	MUST(ew_amqp_queue_declare(channel, &(struct ew_amqp_queue){ .auto_delete = true }, queue));
	message.routing_key = queue;
	MUST(ew_amqp_consume(channel,
			     &(struct ew_amqp_consumer){ .queue = queue, .prefetch_max = 1 }));
	MUST(ew_amqp_publish(channel, &message, NULL));
	MUST(expect_body(channel, body));
	MUST(dial(&scope, &small, &other));
	MUST(ew_amqp_channel_open(other, NULL, &small_channel));
	r = ew_amqp_publish(small_channel, &message, &receipt);
	tell_fate(r, &receipt);
	MUST(ew_amqp_consume(small_channel,
			     &(struct ew_amqp_consumer){ .queue = queue, .prefetch_max = 1 }));
	MUST(ew_amqp_channel_close(&channel));
	MUST(ew_amqp_channel_open(connection, NULL, &channel));
	MUST(ew_amqp_publish(channel, &message, NULL));
	MUST(expect_too_large(small_channel));
	MUST(ew_amqp_channel_close(&small_channel));
	MUST(ew_amqp_connection_close(&other));
	return ew_amqp_channel_close(&channel);
}

static int bodies(struct ew_amqp_connection *connection)
{
	char *body = malloc(BODY_BYTES);
	int r;

	if (!body)
		return -ENOMEM;
	for (size_t i = 0; i < BODY_BYTES; i++)
		body[i] = (char)(i * 7 + i / 251);
	r = bodies_with(connection, body);
	free(body);
	return r;
}

/* ---- deliveries that nobody acknowledged ---- */

static int redelivered(struct ew_amqp_connection *connection)
{
	char queue[256];

	EW_OWN(ew_amqp_channel, keeper);
	EW_OWN(ew_amqp_channel, channel);
	EW_OWN(ew_amqp_delivery, delivery);

	MUST(ew_amqp_channel_open(connection, NULL, &keeper));
	MUST(ew_amqp_queue_declare(keeper, &(struct ew_amqp_queue){ .exclusive = true }, queue));
	MUST(ew_amqp_publish(
		keeper, &(struct ew_amqp_message){ .routing_key = queue, .message_id = "once" },
		NULL));
	MUST(ew_amqp_channel_open(connection, NULL, &channel));
	MUST(ew_amqp_consume(channel, &(struct ew_amqp_consumer){ .queue = queue }));
	MUST(ew_amqp_receive(channel, &delivery));
	printf("first %s %d\n", delivery->message.message_id, delivery->redelivered);
	MUST(ew_close(&delivery));
	MUST(ew_amqp_channel_close(&channel));
	MUST(ew_amqp_consume(keeper, &(struct ew_amqp_consumer){ .queue = queue }));
	MUST(ew_amqp_receive(keeper, &delivery));
	printf("again %s %d\n", delivery->message.message_id, delivery->redelivered);
	MUST(ew_amqp_acknowledge(keeper, &delivery));
	return ew_amqp_channel_close(&keeper);
}

/* ---- what others do to the connection ---- */

static int await_delivery(void *argument)
{
	struct ew_amqp_channel *channel = argument;
	int r;

	EW_OWN(ew_amqp_delivery, delivery);

	r = ew_amqp_receive(channel, &delivery);
	tell("receiver", r, ew_amqp_channel_error(channel));
	return 0;
}

static int await_end(void *argument)
{
	struct ew_amqp_connection *connection = argument;
	int r = ew_amqp_connection_wait(connection);

	tell("connection", r, ew_amqp_connection_error(connection));
	return 0;
}

/* A task waits for a delivery, and one for the end. */
static int cut(struct ew_amqp_connection *connection)
{
	struct ew_amqp_receipt receipt;
	char queue[256];
	int r;

	EW_OWN(ew_amqp_channel, channel);
	EW_SCOPE(scope);

	MUST(ew_amqp_channel_open(connection, NULL, &channel));
	MUST(ew_amqp_queue_declare(channel, &(struct ew_amqp_queue){ .exclusive = true }, queue));
	MUST(ew_amqp_consume(channel, &(struct ew_amqp_consumer){ .queue = queue }));
	MUST(ew_spawn(&scope, await_delivery, channel));
	MUST(ew_spawn(&scope, await_end, connection));
	printf("cut me\n");
	MUST(ew_scope_join(&scope));
	r = ew_amqp_publish(channel, &(struct ew_amqp_message){ .routing_key = queue }, &receipt);
	tell_fate(r, &receipt);
	MUST(ew_amqp_channel_close(&channel));
	return ew_scope_finish(&scope, 0);
}

static int queue_deleted(struct ew_amqp_connection *connection)
{
	int r;

	EW_OWN(ew_amqp_channel, channel);
	EW_OWN(ew_amqp_delivery, delivery);

	MUST(ew_amqp_channel_open(connection, NULL, &channel));
	MUST(ew_amqp_queue_declare(channel, &(struct ew_amqp_queue){ .name = "doomed" }, NULL));
	MUST(ew_amqp_consume(channel, &(struct ew_amqp_consumer){ .queue = "doomed" }));
	printf("delete it\n");
	r = ew_amqp_receive(channel, &delivery);
	tell("receiver", r, ew_amqp_channel_error(channel));
	return ew_amqp_channel_close(&channel);
}

/* One that is sent when the broker has just begun to refuse gets no answer until it takes messages again. */
static int publish_briefly(struct ew_amqp_channel *channel, struct ew_amqp_receipt *receipt)
{
	const struct ew_amqp_message message = { .routing_key = "nowhere",
						 .body = "x",
						 .body_bytes = 1 };
	int r;

	EW_SCOPE(scope, .deadline_ns = ew_after(EW_SECOND));

	r = ew_amqp_publish(channel, &message, receipt);
	return ew_scope_finish(&scope, r);
}

static int blocked(struct ew_amqp_connection *connection)
{
	struct ew_amqp_receipt receipt = {};
	int r;

	EW_OWN(ew_amqp_channel, channel);

	MUST(ew_amqp_channel_open(connection, NULL, &channel));
	MUST(ask("raise the alarm"));
	do {
		r = publish_briefly(channel, &receipt);
	} while (r == 0 || r == -ETIMEDOUT);
	tell_fate(r, &receipt);
	printf("blocked: %s\n", ew_amqp_connection_blocked(connection));
	MUST(ask("end the alarm"));
	do {
		MUST(ew_sleep(10 * EW_MILLISECOND));
	} while (ew_amqp_connection_blocked(connection));
	r = ew_amqp_publish(channel, &(struct ew_amqp_message){ .routing_key = "nowhere" },
			    &receipt);
	tell_fate(r, &receipt);
	return ew_amqp_channel_close(&channel);
}

/* Both sides have only heartbeats to say, for longer than either waits for one. */
static int idle(struct ew_amqp_connection *connection)
{
	struct ew_amqp_receipt receipt;
	int r;

	EW_OWN(ew_amqp_channel, channel);

	MUST(ew_amqp_channel_open(connection, NULL, &channel));
	MUST(ew_sleep(4 * EW_SECOND));
	r = ew_amqp_publish(channel, &(struct ew_amqp_message){ .routing_key = "nowhere" },
			    &receipt);
	tell_fate(r, &receipt);
	return ew_amqp_channel_close(&channel);
}

/* An ending that needs the connection, in a scope whose cancel has reached everything. */
static int say_stopped(void *argument)
{
	struct ew_amqp_receipt receipt;
	int r = ew_amqp_publish(argument,
				&(struct ew_amqp_message){ .routing_key = "nowhere",
							   .message_id = "stop",
							   .mandatory = true },
				&receipt);

	tell_fate(r, &receipt);
	return r == -EHOSTUNREACH ? 0 : r;
}

static void say_nothing(void *argument)
{
	(void)argument;
	printf("aborted\n");
}

struct work {
	struct ew_amqp_connection *connection;
	struct ew_scope *scope;
	struct ew_event works;
};

static int work(void *argument)
{
	struct work *work = argument;

	EW_OWN(ew_amqp_channel, channel);

	MUST(ew_amqp_channel_open(work->connection, NULL, &channel));

	EW_GUARD(undo, channel, .close = say_stopped, .abort = say_nothing);

	ew_event_set(&work->works);
	return ew_sleep(PATIENCE);
}

static int canceller(void *argument)
{
	struct work *work = argument;

	MUST(ew_event_wait(&work->works, EW_NEVER));
	ew_scope_cancel(work->scope, EW_REASON_REQUESTED);
	return 0;
}

static int cancelled(void)
{
	struct work task = {};
	int r;

	EW_SCOPE(scope);
	EW_OWN(ew_amqp_connection, connection);
	EW_SCOPE(workers);

	MUST(dial(&scope, NULL, &connection));
	task.connection = connection;
	task.scope = &scope;
	MUST(ew_spawn(&workers, work, &task));
	MUST(ew_spawn(&workers, canceller, &task));
	r = ew_scope_finish(&workers, 0);
	printf("workers: %s\n", r < 0 ? strerrorname_np(-r) : "0");
	r = ew_amqp_connection_close(&connection);
	printf("goodbye: %s\n", r < 0 ? strerrorname_np(-r) : "0");
	return 0;
}

/* ---- */

static const struct {
	const char *name;
	int (*run)(struct ew_amqp_connection *connection);
	struct ew_amqp_options options;
} scenarios[] = {
	{ "rpc", rpc, {} },
	{ "refusals", refusals, {} },
	{ "bodies", bodies, { .frame_bytes_max = 4096 } },
	{ "redelivered", redelivered, {} },
	{ "cut", cut, { .name = "cut" } },
	{ "queue-deleted", queue_deleted, {} },
	{ "blocked", blocked, {} },
	{ "idle", idle, { .heartbeat_s = 1 } },
	{ "wrong-password", NULL, { .user = "guest", .password = "wrong" } },
	{ "wrong-host", NULL, { .virtual_host = "nowhere" } },
};

static int converse(const char *name)
{
	size_t i = 0;
	int r;

	EW_SCOPE(scope, .deadline_ns = ew_after(PATIENCE));
	EW_OWN(ew_amqp_connection, connection);

	while (strcmp(scenarios[i].name, name) != 0)
		if (++i == sizeof(scenarios) / sizeof(scenarios[0]))
			return -EINVAL;
	r = dial(&scope, &scenarios[i].options, &connection);
	if (r < 0 || !scenarios[i].run)
		return scenarios[i].run ? r : 0;
	MUST(scenarios[i].run(connection));
	r = ew_amqp_connection_close(&connection);
	printf("goodbye: %s\n", r < 0 ? strerrorname_np(-r) : "0");
	return 0;
}

static int main_task(void *argument)
{
	return strcmp(argument, "cancelled") == 0 ? cancelled() : converse(argument);
}

int main(int argc, char **argv)
{
	const struct ew_run_options options = { .workers_count = 1 };
	int r;

	if (argc != 3)
		return 2;
	setvbuf(stdout, NULL, _IOLBF, 0);
	address.sin_port = htons((uint16_t)strtoul(argv[1], NULL, 10));
	address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	r = ew_run(&options, main_task, argv[2]);
	if (r < 0)
		printf("ended: %s\n", strerror(-r));
	return r < 0;
}
