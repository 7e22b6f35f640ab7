/* SPDX-License-Identifier: Apache-2.0 */

/*
 * What a program would do that talks to the worker itself: rabbitmq-c, blocking, in threads. It knows nothing of clients that
 * leave and publishes without confirms. A thread has one call in flight; from 32 on, a share of them.
 */

#include "callers.h"

#include <amqp.h>
#include <amqp_tcp_socket.h>
#include <err.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define THREADS_MAX	  40
#define THREADS_ONE_EACH  32
#define CHANNEL		  1
#define REPLY_TO	  "amq.rabbitmq.reply-to"
#define CALLS_IN_A_THREAD (CALLERS_MAX / THREADS_MAX + 1)

struct thread {
	pthread_t id;
	struct callers *callers;
	int port;
	const char *queue;
	bool granted;
	unsigned in_flight;
	amqp_connection_state_t connection;
	int64_t began_ns[CALLS_IN_A_THREAD];
};

static void must(bool well, const char *what)
{
	if (!well)
		errx(1, "AMQP: %s", what);
}

static void connect_one(struct thread *thread)
{
	amqp_socket_t *socket;

	thread->connection = amqp_new_connection();
	socket = amqp_tcp_socket_new(thread->connection);
	must(amqp_socket_open(socket, "127.0.0.1", thread->port) == AMQP_STATUS_OK, "connect");
	must(amqp_login(thread->connection, "/", 0, 131072, 0, AMQP_SASL_METHOD_PLAIN, "guest",
			"guest")
			     .reply_type == AMQP_RESPONSE_NORMAL,
	     "login");
	must(amqp_channel_open(thread->connection, CHANNEL) != NULL, "channel");
	must(amqp_basic_consume(thread->connection, CHANNEL, amqp_cstring_bytes(REPLY_TO),
				amqp_empty_bytes, 0, 1, 0, amqp_empty_table) != NULL,
	     "consume");
}

static amqp_table_entry_t text_entry(const char *key, amqp_bytes_t value)
{
	return (amqp_table_entry_t){ .key = amqp_cstring_bytes(key),
				     .value = { .kind = AMQP_FIELD_KIND_UTF8,
						.value = { .bytes = value } } };
}

static void publish(struct thread *thread, amqp_bytes_t to, amqp_basic_properties_t *properties,
		    const char *body)
{
	properties->_flags |= AMQP_BASIC_TYPE_FLAG | AMQP_BASIC_CORRELATION_ID_FLAG |
			      AMQP_BASIC_MESSAGE_ID_FLAG | AMQP_BASIC_HEADERS_FLAG;
	must(amqp_basic_publish(thread->connection, CHANNEL, amqp_empty_bytes, to, 0, 0, properties,
				amqp_cstring_bytes(body)) == AMQP_STATUS_OK,
	     "publish");
}

static void call(struct thread *thread, unsigned number)
{
	amqp_table_entry_t headers[] = {
		text_entry("x-ew-version", amqp_cstring_bytes("1")),
		text_entry("x-ew-grant", amqp_cstring_bytes(thread->granted ? "required" : "none")),
	};
	char correlation[16], id[33];
	amqp_basic_properties_t properties = {
		._flags = AMQP_BASIC_REPLY_TO_FLAG | AMQP_BASIC_DELIVERY_MODE_FLAG,
		.type = amqp_cstring_bytes("op"),
		.reply_to = amqp_cstring_bytes(REPLY_TO),
		.delivery_mode = AMQP_DELIVERY_NONPERSISTENT,
		.headers = { .num_entries = 2, .entries = headers },
	};

	snprintf(correlation, sizeof(correlation), "%u", number);
	snprintf(id, sizeof(id), "%032x", number);
	properties.correlation_id = amqp_cstring_bytes(correlation);
	properties.message_id = amqp_cstring_bytes(id);
	thread->began_ns[number] = callers_now();
	publish(thread, amqp_cstring_bytes(thread->queue), &properties, "{\"ms\": 0}");
}

static void grant(struct thread *thread, const amqp_basic_properties_t *claim)
{
	amqp_table_entry_t headers[1] = {};
	amqp_basic_properties_t properties = {
		.type = amqp_cstring_bytes("grant"),
		.correlation_id = claim->correlation_id,
		.message_id = claim->message_id,
		.headers = { .num_entries = 1, .entries = headers },
	};

	for (int i = 0; i < claim->headers.num_entries; i++)
		if (strncmp(claim->headers.entries[i].key.bytes, "x-ew-claim",
			    claim->headers.entries[i].key.len) == 0)
			headers[0] = claim->headers.entries[i];
	must(headers[0].key.len > 0, "a claim without a token");
	publish(thread, claim->reply_to, &properties, "");
}

/* The number of the call that has its reply; -1: it was something else. */
static int hear(struct thread *thread)
{
	const struct timeval patience = { .tv_sec = 20 };
	const amqp_basic_properties_t *properties;
	amqp_envelope_t envelope;
	char text[16] = "";
	int number = -1;

	amqp_maybe_release_buffers(thread->connection);
	must(amqp_consume_message(thread->connection, &envelope, &patience, 0).reply_type ==
		     AMQP_RESPONSE_NORMAL,
	     "receive");
	properties = &envelope.message.properties;
	if (strncmp(properties->type.bytes, "reply", properties->type.len) == 0) {
		memcpy(text, properties->correlation_id.bytes,
		       properties->correlation_id.len < sizeof(text) - 1
			       ? properties->correlation_id.len
			       : sizeof(text) - 1);
		number = atoi(text);
	} else if (thread->granted) {
		grant(thread, properties);
	}
	amqp_destroy_envelope(&envelope);
	return number;
}

static void *work(void *argument)
{
	struct thread *thread = argument;
	unsigned left = thread->in_flight;

	connect_one(thread);
	for (unsigned number = 0; number < thread->in_flight; number++)
		call(thread, number);
	while (left > 0) {
		int number = hear(thread);

		if (number < 0)
			continue;
		callers_note(thread->callers, thread->began_ns[number]);
		if (callers_now() < thread->callers->end_ns)
			call(thread, (unsigned)number);
		else
			left--;
	}
	amqp_connection_close(thread->connection, AMQP_REPLY_SUCCESS);
	amqp_destroy_connection(thread->connection);
	return NULL;
}

void call_amqp(struct callers *callers, int port, const char *queue, bool granted)
{
	unsigned count = callers->in_flight <= THREADS_ONE_EACH ? callers->in_flight : THREADS_MAX;
	struct thread *threads = calloc(count, sizeof(*threads));

	for (unsigned i = 0; i < count; i++) {
		threads[i] = (struct thread){ .callers = callers,
					      .port = port,
					      .queue = queue,
					      .granted = granted,
					      .in_flight = callers->in_flight / count +
							   (i < callers->in_flight % count) };
		if (pthread_create(&threads[i].id, NULL, work, &threads[i]) != 0)
			errx(1, "no thread");
	}
	for (unsigned i = 0; i < count; i++)
		pthread_join(threads[i].id, NULL);
	free(threads);
}
