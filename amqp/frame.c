/* SPDX-License-Identifier: Apache-2.0 */

/*
 * A frame is looked at here before rabbitmq-c sees any of it: its size is within what was agreed, its end is where it has
 * to be, and it is one that a broker may send. Bodies and heartbeats need no decoding at all, and tables are taken out
 * (amqp/table.h).
 */

#include "amqp/frame.h"

#include "amqp/message.h"

#include <ctype.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define FRAME_HEADER_BYTES   7
#define CONTENT_HEADER_BYTES 12 /* class, weight, size of the body */
#define METHOD_ID_BYTES	     4
#define FLAGS_BYTES	     2

static uint16_t read_16(const uint8_t *data)
{
	return (uint16_t)(data[0] << 8 | data[1]);
}

static uint32_t read_32(const uint8_t *data)
{
	return (uint32_t)read_16(data) << 16 | read_16(data + 2);
}

static uint64_t read_64(const uint8_t *data)
{
	return (uint64_t)read_32(data) << 32 | read_32(data + 4);
}

static void write_16(uint8_t *data, unsigned value)
{
	data[0] = (uint8_t)(value >> 8);
	data[1] = (uint8_t)value;
}

static void write_32(uint8_t *data, uint32_t value)
{
	write_16(data, value >> 16);
	write_16(data + 2, value & 0xffff);
}

static void write_64(uint8_t *data, uint64_t value)
{
	write_32(data, (uint32_t)(value >> 32));
	write_32(data + 4, (uint32_t)value);
}

static bool is_known_type(uint8_t type)
{
	return type == AMQP_FRAME_METHOD || type == AMQP_FRAME_HEADER || type == AMQP_FRAME_BODY ||
	       type == AMQP_FRAME_HEARTBEAT;
}

enum ew_amqp_parsed ew_amqp_frame_parse(const uint8_t *data, size_t bytes, size_t frame_bytes_max,
					struct ew_amqp_frame *ret_frame, const char **ret_why)
{
	size_t payload_bytes;

	if (bytes > 0 && !is_known_type(data[0])) {
		*ret_why = "a frame of a type that AMQP 0-9-1 does not know";
		return EW_AMQP_BAD;
	}
	if (bytes < FRAME_HEADER_BYTES)
		return EW_AMQP_PARTIAL;
	payload_bytes = read_32(data + 3);
	if (payload_bytes > frame_bytes_max - EW_AMQP_FRAME_OVERHEAD) {
		*ret_why = "a frame that is larger than was agreed";
		return EW_AMQP_BAD;
	}
	if (bytes < payload_bytes + EW_AMQP_FRAME_OVERHEAD)
		return EW_AMQP_PARTIAL;
	if (data[FRAME_HEADER_BYTES + payload_bytes] != AMQP_FRAME_END) {
		*ret_why = "a frame without its end";
		return EW_AMQP_BAD;
	}
	*ret_frame = (struct ew_amqp_frame){ data[0], read_16(data + 1), data + FRAME_HEADER_BYTES,
					     payload_bytes };
	return EW_AMQP_WHOLE;
}

static int decoding_error(int status)
{
	return status == AMQP_STATUS_NO_MEMORY ? -ENOMEM : -EPROTO;
}

/* The page that is in use is the last one of those noted down, or amqp_pool_alloc() failed at noting it. */
static bool is_noted(const amqp_pool_t *pool)
{
	return pool->next_page > 0 &&
	       pool->pages.blocklist[pool->next_page - 1] == pool->alloc_block;
}

void ew_amqp_pool_recycle(amqp_pool_t *pool)
{
	if (pool->alloc_block && !is_noted(pool))
		free(pool->alloc_block);
	recycle_amqp_pool(pool);
}

void ew_amqp_pool_empty(amqp_pool_t *pool)
{
	ew_amqp_pool_recycle(pool);
	empty_amqp_pool(pool);
}

/* The payload behind @from. rabbitmq-c has no const; it only reads. */
static amqp_bytes_t rest(const struct ew_amqp_frame *frame, size_t from)
{
	return (amqp_bytes_t){ frame->payload_bytes - from,
			       (void *)(uintptr_t)(frame->payload + from) };
}

/* The same with an empty table in the place of the one at @table_at, whose entries are given apart. */
static int rest_without_table(const struct ew_amqp_frame *frame, size_t from, size_t table_at,
			      amqp_pool_t *pool, amqp_bytes_t *ret_rest, amqp_bytes_t *ret_table)
{
	size_t head = table_at - from, entries, behind;
	uint8_t *copy;

	if (table_at > frame->payload_bytes || frame->payload_bytes - table_at < 4)
		return -EPROTO;
	entries = read_32(frame->payload + table_at);
	if (entries > frame->payload_bytes - table_at - 4)
		return -EPROTO;
	behind = frame->payload_bytes - table_at - 4 - entries;
	copy = amqp_pool_alloc(pool, head + 4 + behind);
	if (!copy)
		return -ENOMEM;
	memcpy(copy, frame->payload + from, head);
	write_32(copy + head, 0);
	memcpy(copy + head + 4, frame->payload + table_at + 4 + entries, behind);
	*ret_rest = (amqp_bytes_t){ head + 4 + behind, copy };
	*ret_table = (amqp_bytes_t){ entries, (void *)(uintptr_t)(frame->payload + table_at + 4) };
	return 0;
}

/* What a broker may say to a client that does what this one does. */
static bool is_for_us(amqp_method_number_t id)
{
	switch (id) {
	case AMQP_CONNECTION_START_METHOD:
	case AMQP_CONNECTION_SECURE_METHOD:
	case AMQP_CONNECTION_TUNE_METHOD:
	case AMQP_CONNECTION_OPEN_OK_METHOD:
	case AMQP_CONNECTION_CLOSE_METHOD:
	case AMQP_CONNECTION_CLOSE_OK_METHOD:
	case AMQP_CONNECTION_BLOCKED_METHOD:
	case AMQP_CONNECTION_UNBLOCKED_METHOD:
	case AMQP_CHANNEL_OPEN_OK_METHOD:
	case AMQP_CHANNEL_FLOW_METHOD:
	case AMQP_CHANNEL_CLOSE_METHOD:
	case AMQP_CHANNEL_CLOSE_OK_METHOD:
	case AMQP_QUEUE_DECLARE_OK_METHOD:
	case AMQP_BASIC_QOS_OK_METHOD:
	case AMQP_BASIC_CONSUME_OK_METHOD:
	case AMQP_BASIC_CANCEL_METHOD:
	case AMQP_BASIC_RETURN_METHOD:
	case AMQP_BASIC_DELIVER_METHOD:
	case AMQP_BASIC_ACK_METHOD:
	case AMQP_BASIC_NACK_METHOD:
	case AMQP_CONFIRM_SELECT_OK_METHOD: return true;
	default: return false;
	}
}

int ew_amqp_frame_method(const struct ew_amqp_frame *frame, amqp_pool_t *pool,
			 amqp_method_t *ret_method)
{
	amqp_method_t method = {};
	amqp_bytes_t arguments, properties;
	int r;

	if (frame->payload_bytes < METHOD_ID_BYTES)
		return -EPROTO;
	method.id = read_32(frame->payload);
	if (!is_for_us(method.id))
		return -EPROTO;
	arguments = rest(frame, METHOD_ID_BYTES);
	if (method.id == AMQP_CONNECTION_START_METHOD) {
		/* behind the two numbers of the version */
		r = rest_without_table(frame, METHOD_ID_BYTES, METHOD_ID_BYTES + 2, pool,
				       &arguments, &properties);
		if (r < 0)
			return r;
	}
	r = amqp_decode_method(method.id, pool, arguments, &method.decoded);
	if (r < 0)
		return decoding_error(r);
	*ret_method = method;
	return 0;
}

/* Where the headers lie in a content header: behind the flags and two properties that may be there. */
static size_t headers_at(const struct ew_amqp_frame *frame, unsigned flags)
{
	size_t at = CONTENT_HEADER_BYTES + FLAGS_BYTES;

	if ((flags & AMQP_BASIC_CONTENT_TYPE_FLAG) && at < frame->payload_bytes)
		at += 1 + frame->payload[at];
	if ((flags & AMQP_BASIC_CONTENT_ENCODING_FLAG) && at < frame->payload_bytes)
		at += 1 + frame->payload[at];
	return at;
}

int ew_amqp_frame_content(const struct ew_amqp_frame *frame, amqp_pool_t *pool,
			  struct ew_amqp_content *ret_content)
{
	struct ew_amqp_content content = {};
	amqp_bytes_t encoded;
	void *decoded = NULL;
	unsigned flags;
	int r = 0;

	if (frame->payload_bytes < CONTENT_HEADER_BYTES + FLAGS_BYTES ||
	    read_16(frame->payload) != AMQP_BASIC_CLASS)
		return -EPROTO;
	flags = read_16(frame->payload + CONTENT_HEADER_BYTES);
	/* More flags would follow; there are no more properties. */
	if (flags & 1)
		return -EPROTO;
	encoded = rest(frame, CONTENT_HEADER_BYTES);
	if (flags & AMQP_BASIC_HEADERS_FLAG)
		r = rest_without_table(frame, CONTENT_HEADER_BYTES, headers_at(frame, flags), pool,
				       &encoded, &content.headers);
	if (r < 0)
		return r;
	r = amqp_decode_properties(AMQP_BASIC_CLASS, pool, encoded, &decoded);
	if (r < 0)
		return decoding_error(r);
	content.properties = decoded;
	content.body_bytes = read_64(frame->payload + 4);
	*ret_content = content;
	return 0;
}

/* rabbitmq-c calls it AMQP_CHANNEL_OPEN_OK_METHOD. */
const char *ew_amqp_method_name(amqp_method_number_t id, char ret_name[EW_AMQP_METHOD_NAME_BYTES])
{
	const char *name = amqp_method_name(id);
	size_t bytes = name ? strlen(name) : 0, prefix = strlen("AMQP_"),
	       suffix = strlen("_METHOD");
	char between = '.';
	size_t n = 0;

	for (size_t i = prefix; i + suffix < bytes && n < EW_AMQP_METHOD_NAME_BYTES - 1; i++) {
		ret_name[n++] = name[i] == '_' ? between : (char)tolower(name[i]);
		between = name[i] == '_' ? '-' : between;
	}
	ret_name[n] = 0;
	return ret_name;
}

void ew_amqp_output_clear(struct ew_amqp_output *output)
{
	if (output->secret)
		explicit_bzero(output->data, output->bytes);
	output->secret = false;
	output->bytes = 0;
}

void ew_amqp_output_free(struct ew_amqp_output *output)
{
	ew_amqp_output_clear(output);
	free(output->data);
	*output = (struct ew_amqp_output){};
}

/* As realloc(), which would leave a copy of what is secret. */
static uint8_t *grow(struct ew_amqp_output *output, size_t capacity)
{
	uint8_t *data;

	if (!output->secret)
		return realloc(output->data, capacity);
	data = malloc(capacity);
	if (!data)
		return NULL;
	if (output->data) {
		memcpy(data, output->data, output->bytes);
		explicit_bzero(output->data, output->bytes);
	}
	free(output->data);
	return data;
}

/* Room for @bytes more behind what is there. */
static int reserve(struct ew_amqp_output *output, size_t bytes)
{
	size_t capacity = output->capacity ? output->capacity : 4096;
	uint8_t *data;

	while (capacity < output->bytes + bytes)
		capacity *= 2;
	if (capacity == output->capacity)
		return 0;
	data = grow(output, capacity);
	if (!data)
		return -ENOMEM;
	output->data = data;
	output->capacity = capacity;
	return 0;
}

int ew_amqp_output_bytes(struct ew_amqp_output *output, const void *data, size_t bytes)
{
	int r = reserve(output, bytes);

	if (r < 0)
		return r;
	memcpy(output->data + output->bytes, data, bytes);
	output->bytes += bytes;
	return 0;
}

/* Around @payload_bytes that have been written where they belong. */
static void enclose(struct ew_amqp_output *output, unsigned type, unsigned channel,
		    size_t payload_bytes)
{
	uint8_t *frame = output->data + output->bytes;

	frame[0] = (uint8_t)type;
	write_16(frame + 1, channel);
	write_32(frame + 3, (uint32_t)payload_bytes);
	frame[FRAME_HEADER_BYTES + payload_bytes] = AMQP_FRAME_END;
	output->bytes += payload_bytes + EW_AMQP_FRAME_OVERHEAD;
}

int ew_amqp_output_method(struct ew_amqp_output *output, unsigned channel, amqp_method_number_t id,
			  void *method)
{
	uint8_t *payload;
	int r = reserve(output, AMQP_FRAME_MIN_SIZE);

	if (r < 0)
		return r;
	payload = output->data + output->bytes + FRAME_HEADER_BYTES;
	write_32(payload, id);
	r = amqp_encode_method(
		id, method,
		(amqp_bytes_t){ AMQP_FRAME_MIN_SIZE - EW_AMQP_FRAME_OVERHEAD - METHOD_ID_BYTES,
				payload + METHOD_ID_BYTES });
	if (r < 0)
		return -EMSGSIZE;
	enclose(output, AMQP_FRAME_METHOD, channel, METHOD_ID_BYTES + (size_t)r);
	return 0;
}

int ew_amqp_output_heartbeat(struct ew_amqp_output *output)
{
	int r = reserve(output, EW_AMQP_FRAME_OVERHEAD);

	if (r == 0)
		enclose(output, AMQP_FRAME_HEARTBEAT, 0, 0);
	return r;
}

amqp_bytes_t ew_amqp_text(const char *text)
{
	return text ? amqp_cstring_bytes(text) : amqp_empty_bytes;
}

static size_t text_bytes(const char *text)
{
	return text ? strlen(text) : 0;
}

/* The flags, and a length or a table's entry for each. */
static size_t properties_bytes(const struct ew_amqp_message *message)
{
	size_t bytes = 32 + text_bytes(message->content_type) +
		       text_bytes(message->correlation_id) + text_bytes(message->reply_to) +
		       text_bytes(message->expiration) + text_bytes(message->message_id) +
		       text_bytes(message->type);

	for (size_t i = 0; i < message->headers_count; i++)
		bytes += 6 + text_bytes(message->headers[i].name) +
			 text_bytes(message->headers[i].value);
	return bytes;
}

size_t ew_amqp_publish_bytes(const struct ew_amqp_message *message, size_t frame_bytes_max)
{
	size_t frames = message->body_bytes / (frame_bytes_max - EW_AMQP_FRAME_OVERHEAD) + 3;

	return 32 + text_bytes(message->exchange) + text_bytes(message->routing_key) +
	       CONTENT_HEADER_BYTES + properties_bytes(message) + message->body_bytes +
	       frames * EW_AMQP_FRAME_OVERHEAD;
}

static void set_text(amqp_basic_properties_t *properties, amqp_flags_t flag, amqp_bytes_t *field,
		     const char *text)
{
	if (!text)
		return;
	properties->_flags |= flag;
	*field = amqp_cstring_bytes(text);
}

/* @entries: of the headers, EW_AMQP_HEADERS_MAX */
static amqp_basic_properties_t properties_of(const struct ew_amqp_message *message,
					     amqp_table_entry_t *entries)
{
	amqp_basic_properties_t properties = {};

	set_text(&properties, AMQP_BASIC_CONTENT_TYPE_FLAG, &properties.content_type,
		 message->content_type);
	set_text(&properties, AMQP_BASIC_CORRELATION_ID_FLAG, &properties.correlation_id,
		 message->correlation_id);
	set_text(&properties, AMQP_BASIC_REPLY_TO_FLAG, &properties.reply_to, message->reply_to);
	set_text(&properties, AMQP_BASIC_EXPIRATION_FLAG, &properties.expiration,
		 message->expiration);
	set_text(&properties, AMQP_BASIC_MESSAGE_ID_FLAG, &properties.message_id,
		 message->message_id);
	set_text(&properties, AMQP_BASIC_TYPE_FLAG, &properties.type, message->type);
	if (message->persistent) {
		properties._flags |= AMQP_BASIC_DELIVERY_MODE_FLAG;
		properties.delivery_mode = AMQP_DELIVERY_PERSISTENT;
	}
	for (size_t i = 0; i < message->headers_count; i++) {
		entries[i].key = amqp_cstring_bytes(message->headers[i].name);
		entries[i].value.kind = AMQP_FIELD_KIND_UTF8;
		entries[i].value.value.bytes = ew_amqp_text(message->headers[i].value);
	}
	if (message->headers_count > 0) {
		properties._flags |= AMQP_BASIC_HEADERS_FLAG;
		properties.headers.num_entries = (int)message->headers_count;
		properties.headers.entries = entries;
	}
	return properties;
}

/* Room for all of it has been reserved. */
static int append_content_header(struct ew_amqp_output *output, unsigned channel,
				 const struct ew_amqp_message *message, size_t frame_bytes_max)
{
	amqp_table_entry_t entries[EW_AMQP_HEADERS_MAX];
	amqp_basic_properties_t properties = properties_of(message, entries);
	uint8_t *payload = output->data + output->bytes + FRAME_HEADER_BYTES;
	int r;

	write_16(payload, AMQP_BASIC_CLASS);
	write_16(payload + 2, 0);
	write_64(payload + 4, message->body_bytes);
	r = amqp_encode_properties(
		AMQP_BASIC_CLASS, &properties,
		(amqp_bytes_t){ properties_bytes(message), payload + CONTENT_HEADER_BYTES });
	if (r < 0 || CONTENT_HEADER_BYTES + (size_t)r > frame_bytes_max - EW_AMQP_FRAME_OVERHEAD)
		return -EMSGSIZE;
	enclose(output, AMQP_FRAME_HEADER, channel, CONTENT_HEADER_BYTES + (size_t)r);
	return 0;
}

static void append_body(struct ew_amqp_output *output, unsigned channel, const uint8_t *body,
			size_t bytes, size_t frame_bytes_max)
{
	size_t most = frame_bytes_max - EW_AMQP_FRAME_OVERHEAD, n;

	for (; bytes > 0; body += n, bytes -= n) {
		n = bytes < most ? bytes : most;
		memcpy(output->data + output->bytes + FRAME_HEADER_BYTES, body, n);
		enclose(output, AMQP_FRAME_BODY, channel, n);
	}
}

int ew_amqp_output_publish(struct ew_amqp_output *output, unsigned channel,
			   const struct ew_amqp_message *message, size_t frame_bytes_max)
{
	amqp_basic_publish_t publish = {
		.exchange = ew_amqp_text(message->exchange),
		.routing_key = ew_amqp_text(message->routing_key),
		.mandatory = message->mandatory,
	};
	size_t before = output->bytes;
	int r;

	r = ew_amqp_output_method(output, channel, AMQP_BASIC_PUBLISH_METHOD, &publish);
	if (r == 0)
		r = reserve(output, ew_amqp_publish_bytes(message, frame_bytes_max));
	if (r == 0)
		r = append_content_header(output, channel, message, frame_bytes_max);
	if (r < 0) {
		output->bytes = before;
		return r;
	}
	append_body(output, channel, message->body, message->body_bytes, frame_bytes_max);
	return 0;
}
