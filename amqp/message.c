/* SPDX-License-Identifier: Apache-2.0 */

/*
 * A delivery is made in two steps, as it comes: where it was sent to, then its properties. All texts of the second step
 * lie behind each other in one piece of memory, so there is one thing to give back.
 */

#include "amqp/delivery.h"

#include "amqp/table.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

const char *ew_amqp_header_find(const struct ew_amqp_message *message, const char *name)
{
	for (size_t i = 0; i < message->headers_count; i++)
		if (strcmp(message->headers[i].name, name) == 0)
			return message->headers[i].value;
	return NULL;
}

static void delivery_abort(void *resource)
{
	struct ew_amqp_delivery *delivery = resource;

	ew_resource_deinit(&delivery->resource);
	free(delivery->texts);
	free(delivery->body);
	free(delivery);
}

static int delivery_close(void *resource)
{
	delivery_abort(resource);
	return 0;
}

static const struct ew_resource_type delivery_type = {
	.name = "delivery",
	.close = delivery_close,
	.abort = delivery_abort,
};

static bool is_text(amqp_bytes_t bytes)
{
	return bytes.len == 0 || !memchr(bytes.bytes, 0, bytes.len);
}

void ew_amqp_copy_text(amqp_bytes_t bytes, char *ret_text, size_t size)
{
	size_t n = bytes.len < size - 1 ? bytes.len : size - 1;

	if (n > 0 && is_text(bytes))
		memcpy(ret_text, bytes.bytes, n);
	else
		n = 0;
	ret_text[n] = 0;
}

void ew_amqp_copy_words(amqp_bytes_t bytes, char *ret_text, size_t size)
{
	ew_amqp_copy_text(bytes, ret_text, size);
	for (unsigned char *at = (unsigned char *)ret_text; *at; at++)
		if (*at < ' ' || *at == 0x7f)
			*at = '?';
}

int ew_amqp_delivery_new(const amqp_basic_deliver_t *deliver, bool no_ack,
			 struct ew_amqp_delivery **ret_delivery)
{
	struct ew_amqp_delivery *delivery = malloc(sizeof(*delivery));

	if (!delivery)
		return -ENOMEM;
	memset(delivery, 0, offsetof(struct ew_amqp_delivery, exchange));
	ew_amqp_copy_text(deliver->exchange, delivery->exchange, sizeof(delivery->exchange));
	ew_amqp_copy_text(deliver->routing_key, delivery->routing_key,
			  sizeof(delivery->routing_key));
	delivery->message.exchange = delivery->exchange;
	delivery->message.routing_key = delivery->routing_key;
	delivery->message.headers = delivery->headers;
	delivery->tag = no_ack ? 0 : deliver->delivery_tag;
	delivery->redelivered = deliver->redelivered;
	ew_resource_init(&delivery->resource, &delivery_type, EW_SITE("ew_amqp_receive"));
	*ret_delivery = delivery;
	return 0;
}

/* Where the next text goes; with NULL the bytes are only counted. */
struct texts {
	char *at;
	size_t bytes;
};

static const char *put(struct texts *texts, const void *text, size_t bytes)
{
	char *here = texts->at;

	texts->bytes += bytes + 1;
	if (!here)
		return NULL;
	if (bytes > 0)
		memcpy(here, text, bytes);
	here[bytes] = 0;
	texts->at += bytes + 1;
	return here;
}

static const char *put_if(struct texts *texts, bool there, amqp_bytes_t bytes)
{
	return there && is_text(bytes) ? put(texts, bytes.bytes, bytes.len) : NULL;
}

static void put_headers(struct ew_amqp_delivery *delivery, struct texts *texts, amqp_bytes_t table)
{
	struct ew_amqp_header *header = delivery->headers, *end = header + EW_AMQP_HEADERS_MAX;
	char number[EW_AMQP_NUMBER_BYTES];
	struct ew_amqp_field field;
	amqp_bytes_t text;

	while (header < end && ew_amqp_table_next(&table, &field)) {
		if (!ew_amqp_field_text(&field, number, &text) || !is_text(field.name) ||
		    !is_text(text))
			continue;
		header->name = put(texts, field.name.bytes, field.name.len);
		header->value = put(texts, text.bytes, text.len);
		header++;
	}
	delivery->message.headers_count = (size_t)(header - delivery->headers);
}

static void put_properties(struct ew_amqp_delivery *delivery, struct texts *texts,
			   const amqp_basic_properties_t *properties)
{
	struct ew_amqp_message *message = &delivery->message;
	amqp_flags_t flags = properties->_flags;

	message->content_type =
		put_if(texts, flags & AMQP_BASIC_CONTENT_TYPE_FLAG, properties->content_type);
	message->correlation_id =
		put_if(texts, flags & AMQP_BASIC_CORRELATION_ID_FLAG, properties->correlation_id);
	message->reply_to = put_if(texts, flags & AMQP_BASIC_REPLY_TO_FLAG, properties->reply_to);
	message->expiration =
		put_if(texts, flags & AMQP_BASIC_EXPIRATION_FLAG, properties->expiration);
	message->message_id =
		put_if(texts, flags & AMQP_BASIC_MESSAGE_ID_FLAG, properties->message_id);
	message->type = put_if(texts, flags & AMQP_BASIC_TYPE_FLAG, properties->type);
	message->persistent = (flags & AMQP_BASIC_DELIVERY_MODE_FLAG) &&
			      properties->delivery_mode == AMQP_DELIVERY_PERSISTENT;
}

int ew_amqp_delivery_describe(struct ew_amqp_delivery *delivery,
			      const struct ew_amqp_content *content, size_t body_bytes_max)
{
	struct texts texts = {};

	put_properties(delivery, &texts, content->properties);
	put_headers(delivery, &texts, content->headers);
	delivery->texts = malloc(texts.bytes + 1);
	if (!delivery->texts)
		return -ENOMEM;
	texts.at = delivery->texts;
	put_properties(delivery, &texts, content->properties);
	put_headers(delivery, &texts, content->headers);
	delivery->message.body_bytes = content->body_bytes;
	delivery->too_large = content->body_bytes > body_bytes_max;
	if (delivery->too_large)
		return 0;
	delivery->body = malloc(content->body_bytes + 1);
	if (!delivery->body)
		return -ENOMEM;
	delivery->message.body = delivery->body;
	return 0;
}
