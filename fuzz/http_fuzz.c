/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Fuzzes the HTTP/1.1 request parser: any bytes, as one connection.
 *
 * What must hold, whatever the bytes are:
 *  - how the input is cut into pieces changes nothing that is reported, nor where a refusal happens;
 *  - a declared length is the length of the body;
 *  - what is accepted, plain llhttp accepts too, with the same fields and the same bodies;
 *  - nothing is read outside the piece that was handed over (the address sanitizer sees to that).
 */

#include "parser.h"

#include <stdlib.h>
#include <string.h>

#define REQUIRE(condition)                                                                         \
	do {                                                                                       \
		if (!(condition))                                                                  \
			abort();                                                                   \
	} while (0)

/* What a reader made of a connection: a running hash of heads and bodies of the complete messages. */
struct reading {
	uint64_t hash;
	uint64_t hash_complete;
	unsigned int complete;
	uint64_t body_bytes;
	bool in_trailers;
	bool closed;
};

static void hash(struct reading *reading, char kind, const char *data, size_t len)
{
	reading->hash = (reading->hash ^ (unsigned char)kind) * 1099511628211u;
	for (size_t i = 0; i < len; i++)
		reading->hash = (reading->hash ^ (unsigned char)data[i]) * 1099511628211u;
}

static void hash_field(struct reading *reading, struct http_slice name, struct http_slice value)
{
	hash(reading, 'n', name.data, name.len);
	while (value.len > 0 &&
	       (value.data[value.len - 1] == ' ' || value.data[value.len - 1] == '\t'))
		value.len--;
	hash(reading, 'v', value.data, value.len);
}

static void message_end(struct reading *reading)
{
	hash(reading, 'e', NULL, 0);
	reading->hash_complete = reading->hash;
	reading->complete++;
	reading->in_trailers = false;
}

/* The parser under test, fed in pieces of @step after a first one of @first. */
struct run {
	struct reading reading;
	enum http_event last;
	uint64_t taken;
	int status;
	char reason[144];
};

static void note(struct run *run, struct http_parser *parser, uint64_t *declared)
{
	const struct http_head *head = &parser->head;

	switch (run->last) {
	case HTTP_EVENT_HEAD:
		hash(&run->reading, 'u', head->target.data, head->target.len);
		for (size_t i = 0; i < head->headers_count; i++)
			hash_field(&run->reading, head->headers[i].name, head->headers[i].value);
		*declared = (uint64_t)head->body_bytes;
		REQUIRE(head->chunked == (head->body_bytes == -1));
		run->reading.body_bytes = 0;
		break;
	case HTTP_EVENT_BODY:
		for (size_t i = 0; i < parser->body.len; i++)
			hash(&run->reading, 'b', parser->body.data + i, 1);
		run->reading.body_bytes += parser->body.len;
		REQUIRE(run->reading.body_bytes == parser->body_bytes);
		break;
	case HTTP_EVENT_END:
		REQUIRE(head->chunked || *declared == run->reading.body_bytes);
		message_end(&run->reading);
		break;
	default: break;
	}
}

static void parse(struct run *run, const uint8_t *data, size_t size, size_t first, size_t step)
{
	struct http_parser *parser = malloc(sizeof(*parser));
	uint64_t declared = 0;
	size_t n, len;

	REQUIRE(parser);
	*run = (struct run){ .last = HTTP_EVENT_MORE };
	http_parser_init(parser);
	for (size_t at = 0; at < size && run->last != HTTP_EVENT_BAD; at += len) {
		char *piece, *from;

		len = at == 0 && first > 0 ? first : step;
		if (len > size - at)
			len = size - at;
		from = piece = malloc(len);
		REQUIRE(piece);
		memcpy(piece, data + at, len);
		do {
			run->last =
				http_parser_feed(parser, from, len - (size_t)(from - piece), &n);
			from += n;
			run->taken += n;
			note(run, parser, &declared);
		} while (run->last != HTTP_EVENT_MORE && run->last != HTTP_EVENT_BAD);
		REQUIRE(run->last == HTTP_EVENT_BAD || from == piece + len);
		free(piece);
	}
	if (run->last == HTTP_EVENT_BAD) {
		REQUIRE(parser->status >= 400 && parser->status <= 505);
		run->status = parser->status;
		memcpy(run->reason, parser->reason, strlen(parser->reason) + 1);
	}
	free(parser);
}

static bool same(const struct run *a, const struct run *b)
{
	return a->reading.hash == b->reading.hash && a->reading.complete == b->reading.complete &&
	       a->last == b->last && a->taken == b->taken && a->status == b->status &&
	       !strcmp(a->reason, b->reason);
}

/* llhttp by itself. */
struct plain {
	struct reading reading;
	struct http_slice name;
	struct http_slice value;
	bool has_field;
};

static int plain_url(llhttp_t *llhttp, const char *at, size_t len)
{
	struct plain *plain = llhttp->data;

	hash(&plain->reading, 'u', at, len);
	return 0;
}

static int plain_name(llhttp_t *llhttp, const char *at, size_t len)
{
	struct plain *plain = llhttp->data;

	plain->name = (struct http_slice){ at, len };
	plain->value = (struct http_slice){ at, 0 };
	return 0;
}

static int plain_value(llhttp_t *llhttp, const char *at, size_t len)
{
	struct plain *plain = llhttp->data;

	plain->value = (struct http_slice){ at, len };
	return 0;
}

static int plain_value_complete(llhttp_t *llhttp)
{
	struct plain *plain = llhttp->data;

	if (!plain->reading.in_trailers)
		hash_field(&plain->reading, plain->name, plain->value);
	return 0;
}

static int plain_head(llhttp_t *llhttp)
{
	struct plain *plain = llhttp->data;

	plain->reading.in_trailers = true;
	llhttp->upgrade = 0;
	return 0;
}

static int plain_body(llhttp_t *llhttp, const char *at, size_t len)
{
	struct plain *plain = llhttp->data;

	for (size_t i = 0; i < len; i++)
		hash(&plain->reading, 'b', at + i, 1);
	return 0;
}

static int plain_complete(llhttp_t *llhttp)
{
	struct plain *plain = llhttp->data;

	message_end(&plain->reading);
	return 0;
}

static const llhttp_settings_t plain_settings = {
	.on_url = plain_url,
	.on_header_field = plain_name,
	.on_header_value = plain_value,
	.on_header_value_complete = plain_value_complete,
	.on_headers_complete = plain_head,
	.on_body = plain_body,
	.on_message_complete = plain_complete,
};

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct plain plain = {};
	struct run whole, other;
	llhttp_t llhttp;
	uint64_t cut;

	parse(&whole, data, size, 0, size);
	parse(&other, data, size, 0, 1);
	REQUIRE(same(&whole, &other));
	cut = size > 1 ? (whole.reading.hash ^ size) % size : 0;
	parse(&other, data, size, cut, size);
	REQUIRE(same(&whole, &other));
	parse(&other, data, size, 0, cut % 17 + 2);
	REQUIRE(same(&whole, &other));

	if (whole.last == HTTP_EVENT_BAD || whole.reading.complete == 0)
		return 0;
	llhttp_init(&llhttp, HTTP_REQUEST, &plain_settings);
	llhttp.data = &plain;
	llhttp_execute(&llhttp, (const char *)data, size);
	/* Behind a last message it may find more, or refuse, where we look no further. */
	REQUIRE(plain.reading.complete >= whole.reading.complete);
	if (plain.reading.complete == whole.reading.complete)
		REQUIRE(plain.reading.hash_complete == whole.reading.hash_complete);
	return 0;
}
