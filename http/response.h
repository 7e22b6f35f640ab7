/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * http/response.h - heads of HTTP/1.1 responses into memory, without I/O
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Room for a status line, the fields that are always there, and a dozen others. */
#define HTTP_RESPONSE_HEAD_BYTES_MAX 2048

/* What is sent before the final response to a client that waits before it sends its body. */
#define HTTP_RESPONSE_CONTINUE "HTTP/1.1 100 Continue\r\n\r\n"

/* One field; an array of them ends with a NULL name. */
struct http_field {
	const char *name;
	const char *value;
};

/** enum http_framing - how the end of a response's body is told (RFC 9112 section 6.3) */
enum http_framing {
	HTTP_FRAMING_LENGTH, /* by Content-Length */
	HTTP_FRAMING_CHUNKS, /* by the last chunk */
	HTTP_FRAMING_CLOSE,  /* by the end of the connection, for HTTP/1.0 */
};

/**
 * struct http_response_head - what a response says before its body
 * @status:       200 to 599
 * @unix_time_s:  for Date
 * @content_type: NULL for none
 * @body_bytes:   for Content-Length; left out with 204 and 304, which have no body
 * @framing:      how the end of the body is told
 * @fields:       further fields, ending with a NULL name; NULL for none
 * @extras:       the same
 * @close:        adds `Connection: close`
 */
struct http_response_head {
	int status;
	int64_t unix_time_s;
	const char *content_type;
	uint64_t body_bytes;
	enum http_framing framing;
	const struct http_field *fields;
	const struct http_field *extras;
	bool close;
};

/**
 * http_response_format() - write a response head
 * @head:   what to say
 * @buffer: where to
 * @size:   its size
 *
 * Return:  length of the head with its empty line; @buffer is not terminated.
 * Errors:  -ENOBUFS it does not fit, -EINVAL a field name or value could be mistaken for something else.
 */
int http_response_format(const struct http_response_head *head, char *buffer, size_t size);

/* http_status_phrase() - the words for a status; those of its class where it has none of its own */
const char *http_status_phrase(int status);
