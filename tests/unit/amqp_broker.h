/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * What the tests of amqp/ share: a broker in a task, at the other end of a socket pair. It answers each method as a broker
 * would, unless the test says something else; frames it writes itself, so that they can be wrong.
 */

#include "ew_test.h"

#include "amqp/channel.h"
#include "amqp/connection.h"
#include "amqp/delivery.h"
#include "amqp/frame.h"
#include "tls/internal.h"

#include <endwell/endwell.h>

#define UNUSED __attribute__((unused))

#define BROKER_INPUT_BYTES 262144

struct broker {
	struct ew_socket *socket;
	struct ew_tls_context *tls_context; /* NULL: it speaks no TLS */
	struct ew_tls *tls;
	bool heard_goodbye; /* that of TLS */
	/* The test's word on a method: 1 it has been dealt with, 0 answer it, or -errno: hang up. */
	int (*on)(struct broker *broker, unsigned channel, const amqp_method_t *method);
	/* Its word on each frame, before all others; the same. */
	int (*on_frame)(struct broker *broker, const struct ew_amqp_frame *frame);
	void *argument;
	const char *mechanisms; /* NULL: no word is said before the test's, on no method */
	uint16_t channel_max;
	uint32_t frame_max;
	uint16_t heartbeat;
	unsigned heartbeats;	/* heard */
	unsigned bodies;	/* heard */
	size_t frame_bytes_max; /* heard */
	unsigned acknowledged;
	unsigned close_code; /* heard in connection.close */
	char close_text[256];
	char message_id[256]; /* of the last message */
	uint64_t tag;	      /* of the last message, one channel assumed */
	uint64_t body_left;
	struct ew_amqp_output output;
	amqp_pool_t pool;
	size_t bytes;
	uint8_t input[BROKER_INPUT_BYTES];
};

static UNUSED int broker_flush(struct broker *broker)
{
	int r = broker->tls
			? ew_tls_send(broker->tls, broker->output.data, broker->output.bytes)
			: ew_socket_send(broker->socket, broker->output.data, broker->output.bytes);

	broker->output.bytes = 0;
	return r;
}

/* A broker without memory goes, and takes its connection with it. */
static void broker_must(int r)
{
	if (r == -ENOMEM)
		ew_panic("the broker has no memory");
	EXPECT_EQ(r, 0);
}

static UNUSED int broker_say(struct broker *broker, unsigned channel, amqp_method_number_t id,
			     void *method)
{
	broker_must(ew_amqp_output_method(&broker->output, channel, id, method));
	return 1;
}

/* A frame as it is given, right or wrong; @size of it is what it says of itself. */
static UNUSED int broker_frame(struct broker *broker, unsigned type, unsigned channel, size_t size,
			       const void *payload, size_t bytes)
{
	const uint8_t head[] = {
		(uint8_t)type,	       (uint8_t)(channel >> 8), (uint8_t)channel,
		(uint8_t)(size >> 24), (uint8_t)(size >> 16),	(uint8_t)(size >> 8),
		(uint8_t)size,
	};

	broker_must(ew_amqp_output_bytes(&broker->output, head, sizeof(head)));
	broker_must(ew_amqp_output_bytes(&broker->output, payload, bytes));
	broker_must(ew_amqp_output_bytes(&broker->output, "\xce", 1));
	return 1;
}

/* basic.deliver or basic.return, and the content that follows it. */
static UNUSED void broker_say_content(struct broker *broker, unsigned channel,
				      amqp_method_number_t id, void *method,
				      const struct ew_amqp_message *message)
{
	struct ew_amqp_output content = {};
	size_t publish;
	int r;

	/* What follows basic.publish is what follows these. */
	r = ew_amqp_output_publish(&content, channel, message, 4096);
	if (r == 0) {
		publish = (size_t)content.data[6] + EW_AMQP_FRAME_OVERHEAD;
		r = ew_amqp_output_method(&broker->output, channel, id, method);
		if (r == 0)
			r = ew_amqp_output_bytes(&broker->output, content.data + publish,
						 content.bytes - publish);
	}
	ew_amqp_output_free(&content);
	broker_must(r);
}

static UNUSED int broker_deliver(struct broker *broker, unsigned channel, uint64_t tag,
				 const char *body)
{
	const struct ew_amqp_message message = { .correlation_id = "c",
						 .body = body,
						 .body_bytes = strlen(body) };
	amqp_basic_deliver_t deliver = { .consumer_tag = amqp_cstring_bytes("t"),
					 .delivery_tag = tag,
					 .exchange = amqp_cstring_bytes("e"),
					 .routing_key = amqp_cstring_bytes("k") };

	broker_say_content(broker, channel, AMQP_BASIC_DELIVER_METHOD, &deliver, &message);
	return 1;
}

static UNUSED int broker_return(struct broker *broker, unsigned channel, const char *message_id)
{
	const struct ew_amqp_message message = { .message_id = message_id,
						 .body = "b",
						 .body_bytes = 1 };
	amqp_basic_return_t returned = { .reply_code = AMQP_NO_ROUTE,
					 .reply_text = amqp_cstring_bytes("NO_ROUTE") };

	broker_say_content(broker, channel, AMQP_BASIC_RETURN_METHOD, &returned, &message);
	return 1;
}

static UNUSED int broker_confirm(struct broker *broker, unsigned channel, uint64_t tag,
				 bool multiple)
{
	amqp_basic_ack_t ack = { .delivery_tag = tag, .multiple = multiple };

	return broker_say(broker, channel, AMQP_BASIC_ACK_METHOD, &ack);
}

/* As a broker answers it. */
static int broker_answer(struct broker *broker, unsigned channel, const amqp_method_t *method)
{
	union {
		amqp_connection_tune_t tune;
		amqp_queue_declare_ok_t declare_ok;
		amqp_basic_consume_ok_t consume_ok;
		char nothing[64];
	} answer = { .nothing = "" };
	const amqp_connection_close_t *close = method->decoded;

	switch (method->id) {
	case AMQP_CONNECTION_START_OK_METHOD:
		answer.tune = (amqp_connection_tune_t){ broker->channel_max, broker->frame_max,
							broker->heartbeat };
		return broker_say(broker, 0, AMQP_CONNECTION_TUNE_METHOD, &answer);
	case AMQP_CONNECTION_OPEN_METHOD:
		return broker_say(broker, 0, AMQP_CONNECTION_OPEN_OK_METHOD, &answer);
	case AMQP_CONNECTION_CLOSE_METHOD:
		broker->close_code = close->reply_code;
		ew_amqp_copy_text(close->reply_text, broker->close_text,
				  sizeof(broker->close_text));
		broker_say(broker, 0, AMQP_CONNECTION_CLOSE_OK_METHOD, &answer);
		return -ESHUTDOWN;
	case AMQP_CHANNEL_OPEN_METHOD:
		return broker_say(broker, channel, AMQP_CHANNEL_OPEN_OK_METHOD, &answer);
	case AMQP_CHANNEL_CLOSE_METHOD:
		return broker_say(broker, channel, AMQP_CHANNEL_CLOSE_OK_METHOD, &answer);
	case AMQP_CONFIRM_SELECT_METHOD:
		return broker_say(broker, channel, AMQP_CONFIRM_SELECT_OK_METHOD, &answer);
	case AMQP_QUEUE_DECLARE_METHOD:
		answer.declare_ok.queue = ((amqp_queue_declare_t *)method->decoded)->queue;
		return broker_say(broker, channel, AMQP_QUEUE_DECLARE_OK_METHOD, &answer);
	case AMQP_BASIC_QOS_METHOD:
		return broker_say(broker, channel, AMQP_BASIC_QOS_OK_METHOD, &answer);
	case AMQP_BASIC_CONSUME_METHOD:
		answer.consume_ok.consumer_tag = amqp_cstring_bytes("t");
		return broker_say(broker, channel, AMQP_BASIC_CONSUME_OK_METHOD, &answer);
	case AMQP_BASIC_ACK_METHOD: broker->acknowledged++; return 1;
	default: return 1;
	}
}

/* A message has come whole: basic.publish once more, for the test's word; else confirmed. */
static int broker_message(struct broker *broker, unsigned channel)
{
	const amqp_method_t method = { .id = AMQP_BASIC_PUBLISH_METHOD };
	int r;

	broker->tag++;
	r = broker->on ? broker->on(broker, channel, &method) : 0;
	return r ? r : broker_confirm(broker, channel, broker->tag, false);
}

static int broker_content(struct broker *broker, const struct ew_amqp_frame *frame)
{
	struct ew_amqp_content content;

	if (frame->type == AMQP_FRAME_HEADER) {
		broker_must(ew_amqp_frame_content(frame, &broker->pool, &content));
		broker->body_left = content.body_bytes;
		if (content.properties->_flags & AMQP_BASIC_MESSAGE_ID_FLAG)
			ew_amqp_copy_text(content.properties->message_id, broker->message_id,
					  sizeof(broker->message_id));
	} else {
		broker->bodies++;
		broker->body_left -= frame->payload_bytes;
	}
	return broker->body_left == 0 ? broker_message(broker, frame->channel) : 1;
}

/* A client's. */
static amqp_method_t broker_decode(struct broker *broker, const struct ew_amqp_frame *frame)
{
	const uint8_t *id = frame->payload;
	amqp_method_t method = { .id = (uint32_t)id[0] << 24 | (uint32_t)id[1] << 16 |
				       (uint32_t)id[2] << 8 | id[3] };

	int r = amqp_decode_method(
		method.id, &broker->pool,
		(amqp_bytes_t){ frame->payload_bytes - 4, (void *)(uintptr_t)(id + 4) },
		&method.decoded);

	broker_must(r == AMQP_STATUS_NO_MEMORY ? -ENOMEM : r < 0 ? -EPROTO : 0);
	return method;
}

static int broker_handle(struct broker *broker, const struct ew_amqp_frame *frame)
{
	amqp_method_t method;
	int r;

	if (frame->payload_bytes + EW_AMQP_FRAME_OVERHEAD > broker->frame_bytes_max)
		broker->frame_bytes_max = frame->payload_bytes + EW_AMQP_FRAME_OVERHEAD;
	if (frame->type == AMQP_FRAME_HEARTBEAT) {
		broker->heartbeats++;
		return 1;
	}
	r = broker->on_frame ? broker->on_frame(broker, frame) : 0;
	if (r)
		return r;
	if (frame->type != AMQP_FRAME_METHOD)
		return broker_content(broker, frame);
	method = broker_decode(broker, frame);
	if (method.id == AMQP_BASIC_PUBLISH_METHOD)
		return 1;
	r = broker->on ? broker->on(broker, frame->channel, &method) : 0;
	return r ? r : broker_answer(broker, frame->channel, &method);
}

static int broker_handle_all(struct broker *broker)
{
	struct ew_amqp_frame frame;
	const char *why;
	size_t at = 0;
	int r = 1;

	while (r > 0 && ew_amqp_frame_parse(broker->input + at, broker->bytes - at,
					    BROKER_INPUT_BYTES, &frame, &why) == EW_AMQP_WHOLE) {
		at += frame.payload_bytes + EW_AMQP_FRAME_OVERHEAD;
		r = broker_handle(broker, &frame);
		ew_amqp_pool_recycle(&broker->pool);
	}
	memmove(broker->input, broker->input + at, broker->bytes - at);
	broker->bytes -= at;
	return r;
}

/* More input. 0: the client has hung up. */
static int broker_receive(struct broker *broker)
{
	void *rest = broker->input + broker->bytes;
	size_t size = BROKER_INPUT_BYTES - broker->bytes;
	int n = broker->tls ? ew_tls_recv(broker->tls, rest, size)
			    : ew_socket_recv(broker->socket, rest, size);

	if (n > 0)
		broker->bytes += (size_t)n;
	return n;
}

/* Until it hangs up, or the client does. */
static UNUSED int broker_serve(struct broker *broker)
{
	amqp_connection_start_t start = { .version_minor = 9,
					  .mechanisms = ew_amqp_text(broker->mechanisms),
					  .locales = amqp_cstring_bytes("en_US") };
	const amqp_method_t none = {};
	int r = 1, sent;

	while (r > 0 && broker->bytes < EW_AMQP_PROTOCOL_HEADER_BYTES)
		r = broker_receive(broker);
	if (r <= 0)
		return r;
	EXPECT(memcmp(broker->input, EW_AMQP_PROTOCOL_HEADER, EW_AMQP_PROTOCOL_HEADER_BYTES) == 0);
	broker->bytes -= EW_AMQP_PROTOCOL_HEADER_BYTES;
	memmove(broker->input, broker->input + EW_AMQP_PROTOCOL_HEADER_BYTES, broker->bytes);
	if (broker->mechanisms)
		broker_say(broker, 0, AMQP_CONNECTION_START_METHOD, &start);
	else
		r = broker->on(broker, 0, &none);
	while (r > 0) {
		sent = broker_flush(broker);
		r = sent < 0 ? sent : broker_receive(broker);
		if (r > 0)
			r = broker_handle_all(broker);
	}
	sent = broker_flush(broker);
	return r < 0 ? r : sent;
}

static int broker_free_close(void *argument)
{
	struct broker *broker = argument;

	ew_amqp_output_free(&broker->output);
	ew_amqp_pool_empty(&broker->pool);
	return 0;
}

static void broker_free(void *argument)
{
	broker_free_close(argument);
}

/*
 * As ew_tls_accept(), but in the task itself: while a pool thread computed for the broker the client would go on, and in
 * which order things happen would be a matter of chance.
 */
static int broker_accept_tls(struct broker *broker, struct ew_socket **socket,
			     struct ew_tls **ret_tls)
{
	struct ew_tls *tls;
	int r = ew__tls_new(broker->tls_context, EW_SITE("broker_accept_tls"), ret_tls);

	if (r < 0)
		return r;
	tls = *ret_tls;
	tls->socket = *socket;
	*socket = NULL;
	SSL_set_accept_state(tls->ssl);
	while (r == 0) {
		int done = SSL_do_handshake(tls->ssl);
		int wanted = SSL_get_error(tls->ssl, done);

		r = ew__tls_flush(tls);
		if (r < 0 || done == 1)
			return r;
		r = wanted == SSL_ERROR_WANT_READ ? ew__tls_feed(tls) : -EPROTO;
	}
	return r;
}

/* The broker is none of those that the client's cancels concern: it goes when the client has hung up. */
static int broker_task(void *argument, void *place)
{
	struct broker *broker = argument;
	struct ew_socket **socket = place;
	int r = 0;

	EW_GUARD(memory, broker, .close = broker_free_close, .abort = broker_free);
	/* Longer than the clock of a world may leap. */
	EW_SHIELD(shield, .budget_ns = EW_NEVER / 2);
	EW_OWN(ew_tls, tls);

	init_amqp_pool(&broker->pool, 4096);
	broker->socket = *socket;
	if (broker->tls_context)
		r = broker_accept_tls(broker, socket, &tls);
	broker->tls = tls;
	if (r == 0)
		r = broker_serve(broker);
	if (r == -ESHUTDOWN && tls)
		broker->heard_goodbye = ew_tls_recv(tls, broker->input, 1) == 0;
	return r == -ENOTRECOVERABLE ? r : 0;
}

static UNUSED void broker_init(struct broker *broker)
{
	memset(broker, 0, offsetof(struct broker, input));
	broker->mechanisms = "AMQPLAIN PLAIN";
	broker->channel_max = 2047;
	broker->frame_max = 131072;
	broker->heartbeat = 60;
}

/* A test's world, zeroed, which begins with its broker and is the argument of that; of @bytes from the heap */
static UNUSED void *broker_world_new(size_t bytes)
{
	struct broker *broker = malloc(bytes);

	EXPECT(broker);
	memset((void *)broker, 0, bytes);
	broker_init(broker);
	broker->argument = broker;
	return broker;
}

/* Starts a broker and opens a connection to it. */
static UNUSED int broker_open(struct broker *broker, struct ew_scope *scope,
			      const struct ew_amqp_options *options,
			      struct ew_amqp_error *ret_error,
			      struct ew_amqp_connection **ret_connection)
{
	int r;

	EW_OWN(ew_socket, ours);
	EW_OWN(ew_socket, theirs);

	r = ew_socket_pair(&ours, &theirs);
	if (r < 0)
		return r;
	r = ew_spawn_take(scope, broker_task, broker, &theirs);
	if (r < 0)
		return r;
	return ew_amqp_connection_open_on(scope, &ours, options, ret_error, ret_connection);
}
