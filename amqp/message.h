/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * amqp/message.h - AMQP 0-9-1 client: messages and deliveries
 */

#include <endwell/resource.h>

/** struct ew_amqp_header - an entry of a message's headers: a name of at most 128 bytes and a string */
struct ew_amqp_header {
	const char *name;
	const char *value;
};

#define EW_AMQP_HEADERS_MAX 64

/**
 * struct ew_amqp_message - what is said with a message; NULL is "not said"
 * @exchange:    NULL or "": the default exchange, where the routing key is the name of a queue
 * @expiration:  milliseconds, as text
 * @headers:     at most EW_AMQP_HEADERS_MAX
 * @body:        any bytes
 * @mandatory:   return it if there is no queue for it
 * @persistent:  keep it on disk
 */
struct ew_amqp_message {
	const char *exchange;
	const char *routing_key;
	const char *content_type;
	const char *correlation_id;
	const char *reply_to;
	const char *expiration;
	const char *message_id;
	const char *type;
	const struct ew_amqp_header *headers;
	size_t headers_count;
	const void *body;
	size_t body_bytes;
	bool mandatory;
	bool persistent;
};

/**
 * struct ew_amqp_delivery - a message that has come: a resource, whose ending gives its memory back and says nothing
 * @message:     all of it is the delivery's memory. Strings with a NUL in them, which the protocol forbids, are left
 *               out, and so are headers that are no strings, whole numbers or booleans (1 and 0), come behind the 64th, or
 *               behind one that cannot be read
 * @tag:         0: nothing to acknowledge
 * @redelivered: it may have been delivered before
 * @too_large:   longer than message_bytes_max: body_bytes tells how long, body is NULL
 */
struct ew_amqp_delivery {
	struct ew_resource resource;
	struct ew_amqp_message message;
	uint64_t tag;
	bool redelivered;
	bool too_large;
	/* -- private from here -- */
	char *texts;
	char *body;
	char exchange[256];
	char routing_key[256];
	struct ew_amqp_header headers[EW_AMQP_HEADERS_MAX];
};

/** ew_amqp_header_find() - the value of a header by its name, NULL if it is not there */
const char *ew_amqp_header_find(const struct ew_amqp_message *message, const char *name);
