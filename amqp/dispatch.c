/* SPDX-License-Identifier: Apache-2.0 */

/*
 * What the broker says on an open channel, and whether it may say it now. A content is a method, a header and bodies, with
 * nothing else of its channel in between.
 */

#include "amqp/internal.h"

#include <errno.h>
#include <string.h>

static int unexpected(struct ew_amqp_channel *channel, const char *what)
{
	return ew_amqp_violated(channel->connection, AMQP_UNEXPECTED_FRAME,
				"%s on channel %u, out of place", what, channel->number);
}

static int unexpected_method(struct ew_amqp_channel *channel, amqp_method_number_t id)
{
	char name[EW_AMQP_METHOD_NAME_BYTES];

	return unexpected(channel, ew_amqp_method_name(id, name));
}

static int answered(struct ew_amqp_channel *channel, const amqp_method_t *method)
{
	const amqp_queue_declare_ok_t *declare_ok = method->decoded;

	if (method->id != channel->answer)
		return unexpected_method(channel, method->id);
	if (method->id == AMQP_QUEUE_DECLARE_OK_METHOD)
		ew_amqp_copy_text(declare_ok->queue, channel->answer_text,
				  sizeof(channel->answer_text));
	channel->answer = 0;
	ew_event_set(&channel->answered);
	return 0;
}

static int closed_by_broker(struct ew_amqp_channel *channel, const amqp_channel_close_t *close)
{
	struct ew_amqp_connection *connection = channel->connection;
	amqp_channel_close_ok_t close_ok = {};
	struct ew_amqp_error error = {};
	char text[EW_AMQP_TEXT_BYTES];
	unsigned number = channel->number;

	ew_amqp_copy_words(close->reply_text, text, sizeof(text));
	ew_amqp_error_set(&error, ew_amqp_code_error(close->reply_code), close->reply_code,
			  "the broker closed the channel: %.200s", text);
	/* Ours has crossed it, and is answered too. */
	if (channel->state != EW_AMQP_CLOSING)
		ew_amqp_channel_ended(channel, &error);
	ew_amqp_say(connection, number, AMQP_CHANNEL_CLOSE_OK_METHOD, &close_ok);
	return connection->error.error;
}

static int close_answered(struct ew_amqp_channel *channel)
{
	if (channel->state != EW_AMQP_CLOSING)
		return unexpected(channel, "channel.close-ok");
	channel->close_answered = true;
	ew_amqp_channel_ended(channel, &channel->error);
	return 0;
}

static int flow_changed(struct ew_amqp_channel *channel, const amqp_channel_flow_t *flow)
{
	struct ew_amqp_connection *connection = channel->connection;
	amqp_channel_flow_ok_t flow_ok = { .active = flow->active };

	channel->stopped = !flow->active;
	ew_amqp_look_again(connection);
	ew_amqp_say(connection, channel->number, AMQP_CHANNEL_FLOW_OK_METHOD, &flow_ok);
	return connection->error.error;
}

static int consumer_cancelled(struct ew_amqp_channel *channel, const amqp_basic_cancel_t *cancel)
{
	struct ew_amqp_connection *connection = channel->connection;
	amqp_basic_cancel_ok_t cancel_ok = { .consumer_tag = cancel->consumer_tag };

	if (!channel->queue)
		return unexpected(channel, "basic.cancel");
	ew_amqp_channel_stop(channel);
	if (!cancel->nowait)
		ew_amqp_say(connection, channel->number, AMQP_BASIC_CANCEL_OK_METHOD, &cancel_ok);
	return connection->error.error;
}

static int delivery_begins(struct ew_amqp_channel *channel, const amqp_basic_deliver_t *deliver)
{
	int r;

	if (!channel->queue)
		return unexpected(channel, "basic.deliver");
	r = ew_amqp_delivery_new(deliver, channel->no_ack, &channel->delivery);
	if (r < 0)
		return r;
	channel->returning = false;
	channel->expected = EW_AMQP_EXPECT_HEADER;
	return 0;
}

static int return_begins(struct ew_amqp_channel *channel, const amqp_basic_return_t *returned)
{
	channel->returned.code = returned->reply_code;
	ew_amqp_copy_words(returned->reply_text, channel->returned.text,
			   sizeof(channel->returned.text));
	channel->returning = true;
	channel->expected = EW_AMQP_EXPECT_HEADER;
	return 0;
}

static int handle_method(struct ew_amqp_channel *channel, const amqp_method_t *method)
{
	const amqp_basic_ack_t *ack = method->decoded;
	const amqp_basic_nack_t *nack = method->decoded;

	switch (method->id) {
	case AMQP_CHANNEL_CLOSE_METHOD: return closed_by_broker(channel, method->decoded);
	case AMQP_CHANNEL_CLOSE_OK_METHOD: return close_answered(channel);
	default: break;
	}
	if (channel->state == EW_AMQP_CLOSING)
		return 0;
	switch (method->id) {
	case AMQP_CHANNEL_FLOW_METHOD: return flow_changed(channel, method->decoded);
	case AMQP_BASIC_ACK_METHOD:
		return ew_amqp_confirmed(channel, ack->delivery_tag, ack->multiple,
					 EW_AMQP_CONFIRMED);
	case AMQP_BASIC_NACK_METHOD:
		return ew_amqp_confirmed(channel, nack->delivery_tag, nack->multiple,
					 EW_AMQP_NACKED);
	case AMQP_BASIC_RETURN_METHOD: return return_begins(channel, method->decoded);
	case AMQP_BASIC_DELIVER_METHOD: return delivery_begins(channel, method->decoded);
	case AMQP_BASIC_CANCEL_METHOD: return consumer_cancelled(channel, method->decoded);
	default: return answered(channel, method);
	}
}

static int method_frame(struct ew_amqp_channel *channel, const struct ew_amqp_frame *frame)
{
	struct ew_amqp_connection *connection = channel->connection;
	amqp_method_t method;
	int r;

	r = ew_amqp_frame_method(frame, &connection->pool, &method);
	if (r == -EPROTO)
		return ew_amqp_violated(connection, AMQP_SYNTAX_ERROR,
					"a method that cannot be decoded, on channel %u",
					channel->number);
	if (r == 0 && channel->expected != EW_AMQP_EXPECT_METHOD)
		r = unexpected_method(channel, method.id);
	if (r == 0)
		r = handle_method(channel, &method);
	ew_amqp_pool_recycle(&connection->pool);
	return r;
}

static int content_ended(struct ew_amqp_channel *channel)
{
	channel->expected = EW_AMQP_EXPECT_METHOD;
	return channel->returning ? 0 : ew_amqp_deliver(channel);
}

static int described(struct ew_amqp_channel *channel, const struct ew_amqp_content *content)
{
	const amqp_basic_properties_t *properties = content->properties;
	amqp_bytes_t id = properties->_flags & AMQP_BASIC_MESSAGE_ID_FLAG ? properties->message_id
									  : amqp_empty_bytes;

	channel->body_at = 0;
	channel->body_left = content->body_bytes;
	channel->expected = EW_AMQP_EXPECT_BODY;
	if (!channel->returning)
		return ew_amqp_delivery_describe(channel->delivery, content,
						 channel->connection->message_bytes_max);
	ew_amqp_returned(channel, id);
	return 0;
}

static int header_frame(struct ew_amqp_channel *channel, const struct ew_amqp_frame *frame)
{
	struct ew_amqp_connection *connection = channel->connection;
	struct ew_amqp_content content;
	int r;

	if (channel->expected != EW_AMQP_EXPECT_HEADER)
		return unexpected(channel, "a content header");
	r = ew_amqp_frame_content(frame, &connection->pool, &content);
	if (r == -EPROTO)
		return ew_amqp_violated(connection, AMQP_SYNTAX_ERROR,
					"a content header that cannot be decoded, on channel %u",
					channel->number);
	if (r == 0)
		r = described(channel, &content);
	ew_amqp_pool_recycle(&connection->pool);
	return r == 0 && channel->body_left == 0 ? content_ended(channel) : r;
}

static int body_frame(struct ew_amqp_channel *channel, const struct ew_amqp_frame *frame)
{
	if (channel->expected != EW_AMQP_EXPECT_BODY)
		return unexpected(channel, "a body");
	if (frame->payload_bytes > channel->body_left)
		return unexpected(channel, "more of a body than was announced");
	if (!channel->returning && !channel->delivery->too_large)
		memcpy(channel->delivery->body + channel->body_at, frame->payload,
		       frame->payload_bytes);
	channel->body_at += frame->payload_bytes;
	channel->body_left -= frame->payload_bytes;
	return channel->body_left == 0 ? content_ended(channel) : 0;
}

int ew_amqp_channel_frame(struct ew_amqp_channel *channel, const struct ew_amqp_frame *frame)
{
	if (frame->type == AMQP_FRAME_METHOD)
		return method_frame(channel, frame);
	if (channel->state == EW_AMQP_CLOSING)
		return 0;
	return frame->type == AMQP_FRAME_HEADER ? header_frame(channel, frame)
						: body_frame(channel, frame);
}
