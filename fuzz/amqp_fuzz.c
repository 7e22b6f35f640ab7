/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Fuzzes the AMQP client on the real runtime: any bytes, said by a broker in the next task.
 *
 * The first byte says when: instead of the handshake, or when a channel is open, is consumed from, and has three
 * publishers. After its bytes the broker hangs up. Whatever it has said: everybody who waits hears, an error has words,
 * and nothing is left.
 */

#include "unit/amqp_broker.h"

#define PUBLISHERS 3

enum { AT_ONCE = 1, NO_ACK = 2 };

struct speech {
	struct broker broker;
	const uint8_t *data;
	size_t size;
	unsigned how;
	struct ew_amqp_channel *channel;
	bool said;
};

/* Keeps the reads of what came, which the address sanitizer checks. */
static volatile unsigned int bytes_seen;

static int say(struct broker *broker, unsigned channel, const amqp_method_t *method)
{
	struct speech *speech = broker->argument;

	(void)channel;
	/* The last of the publishers is heard when all have been. */
	if (!(speech->how & AT_ONCE) && method->id != AMQP_BASIC_PUBLISH_METHOD)
		return 0;
	if (!(speech->how & AT_ONCE) && broker->tag < PUBLISHERS)
		return 1;
	speech->said = true;
	EXPECT_EQ(ew_amqp_output_bytes(&broker->output, speech->data, speech->size), 0);
	return -ESHUTDOWN;
}

static void see_text(const char *text)
{
	if (text)
		bytes_seen = bytes_seen + (unsigned int)strlen(text);
}

static void see(const struct ew_amqp_delivery *delivery)
{
	const struct ew_amqp_message *message = &delivery->message;

	EXPECT(delivery->too_large == !message->body);
	if (message->body && message->body_bytes > 0)
		bytes_seen = bytes_seen + ((const uint8_t *)message->body)[message->body_bytes - 1];
	see_text(message->exchange);
	see_text(message->routing_key);
	see_text(message->content_type);
	see_text(message->correlation_id);
	see_text(message->reply_to);
	see_text(message->expiration);
	see_text(message->message_id);
	see_text(message->type);
	for (size_t i = 0; i < message->headers_count; i++) {
		see_text(message->headers[i].name);
		see_text(message->headers[i].value);
	}
}

static int receive_task(void *argument)
{
	struct speech *speech = argument;
	int r;

	do {
		EW_OWN(ew_amqp_delivery, delivery);

		r = ew_amqp_receive(speech->channel, &delivery);
		if (r < 0)
			break;
		see(delivery);
		r = ew_amqp_acknowledge(speech->channel, &delivery);
		if (r == -EINVAL)
			r = 0;
	} while (r == 0);
	EXPECT(r != -ECANCELED && r != -ETIMEDOUT);
	return 0;
}

static int publish_task(void *argument)
{
	struct speech *speech = argument;
	struct ew_amqp_receipt receipt;
	int r = ew_amqp_publish(speech->channel,
				&(struct ew_amqp_message){ .routing_key = "q",
							   .message_id = "m",
							   .mandatory = true,
							   .body = "body",
							   .body_bytes = 4 },
				&receipt);

	EXPECT((r == 0) == (receipt.fate == EW_AMQP_CONFIRMED));
	EXPECT((r == -EHOSTUNREACH) == (receipt.fate == EW_AMQP_RETURNED));
	EXPECT(r != -ECANCELED && r != -ETIMEDOUT);
	return 0;
}

static int use(struct speech *speech, struct ew_amqp_connection *connection)
{
	int r;

	EW_OWN(ew_amqp_channel, channel);
	EW_SCOPE(scope);

	r = ew_amqp_channel_open(connection, NULL, &channel);
	if (r == 0)
		r = ew_amqp_consume(
			channel,
			&(struct ew_amqp_consumer){ .queue = "q", .no_ack = speech->how & NO_ACK });
	if (r < 0)
		return r;
	speech->channel = channel;
	r = ew_spawn(&scope, receive_task, speech);
	for (int i = 0; r == 0 && i < PUBLISHERS; i++)
		r = ew_spawn(&scope, publish_task, speech);
	EXPECT_EQ(r, 0);
	return ew_scope_join(&scope);
}

static int main_task(void *argument)
{
	const struct ew_amqp_options options = { .message_bytes_max = 4096 };
	struct speech *speech = argument;
	struct ew_amqp_error error = {};
	int r;

	EW_SCOPE(scope, .deadline_ns = ew_after(20 * EW_SECOND));
	EW_OWN(ew_amqp_connection, connection);

	r = broker_open(&speech->broker, &scope, &options, &error, &connection);
	if (r < 0) {
		EXPECT(error.error == r && error.text[0]);
		return 0;
	}
	r = use(speech, connection);
	EXPECT(r != -ECANCELED && r != -ETIMEDOUT);
	r = ew_amqp_connection_wait(connection);
	EXPECT(r < 0 && r != -ECANCELED);
	EXPECT(ew_amqp_connection_error(connection)->text[0]);
	r = ew_amqp_connection_close(&connection);
	EXPECT_EQ(r, 0);
	return ew_scope_finish(&scope, 0);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	const struct ew_run_options options = { .workers_count = 1 };
	struct speech *speech;

	if (size == 0)
		return 0;
	speech = calloc(1, sizeof(*speech));
	EXPECT(speech);
	broker_init(&speech->broker);
	speech->how = data[0];
	speech->data = data + 1;
	speech->size = size - 1;
	if (speech->how & AT_ONCE)
		speech->broker.mechanisms = NULL;
	speech->broker.on = say;
	speech->broker.argument = speech;
	EXPECT_EQ(ew_run(&options, main_task, speech), 0);
	EXPECT(speech->said);
	free(speech);
	return 0;
}
