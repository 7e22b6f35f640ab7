/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * http/parser.h - HTTP/1.1 requests out of bytes, without I/O
 *
 * The caller feeds what it has received and is told one event at a time. The events and their contents
 * do not depend on how the bytes were cut into pieces (body pieces are cut where the input was).
 * Memory is what struct http_parser holds, about 20 KiB, of which only what a head needs is touched.
 */

#include "head.h"

#include <llhttp.h>

/* Request line with its CRLF; a longer one is answered 414, or 501 when not even its method has ended. */
#define HTTP_REQUEST_LINE_BYTES_MAX 8192
#define HTTP_METHOD_BYTES_MAX	    32
/* Request line and all header fields with their line ends; more is answered 431. */
#define HTTP_HEAD_BYTES_MAX 16384
/* One chunk-size line with its extensions (400), and all extensions of one message together (400). */
#define HTTP_CHUNK_LINE_BYTES_MAX	256
#define HTTP_CHUNK_EXTENSIONS_BYTES_MAX 4096
/* One trailer field line, all of them together, and their number (431). Trailers are checked and dropped. */
#define HTTP_TRAILER_LINE_BYTES_MAX 1024
#define HTTP_TRAILERS_BYTES_MAX	    4096
#define HTTP_TRAILERS_MAX	    16

/* What http_parser_feed() found. These are for its direct caller and do not travel. */
enum http_event {
	HTTP_EVENT_MORE = 1, /* all input was taken; nothing to report before more arrives */
	HTTP_EVENT_HEAD,     /* parser->head is complete */
	HTTP_EVENT_BODY,     /* parser->body is the next piece, a view into the input */
	HTTP_EVENT_END, /* the message is complete; the next one begins at the first byte not consumed */
	HTTP_EVENT_BAD, /* refused: parser->status and parser->reason; all later calls say so again */
};

enum http_parser_state {
	HTTP_STATE_BETWEEN, /* no byte of a message yet; one empty line may come before it */
	HTTP_STATE_REQUEST_LINE,
	HTTP_STATE_FIELD,
	HTTP_STATE_BODY,
	HTTP_STATE_CHUNK_SIZE,
	HTTP_STATE_CHUNK_DATA,
	HTTP_STATE_CHUNK_END,
	HTTP_STATE_TRAILER,
	HTTP_STATE_COMPLETE, /* the end has been read but not yet reported */
	HTTP_STATE_CLOSED, /* after a message that asked for it, or HTTP/1.0: what follows is swallowed */
	HTTP_STATE_BAD,
};

/**
 * struct http_parser - one direction of one connection
 * @head:         of the current message, from HTTP_EVENT_HEAD until the next message begins; of one that is refused before
 *                its head is complete, the header fields that were read, and no more
 * @body:         of the last HTTP_EVENT_BODY, until the caller's input goes
 * @body_bytes:   body of the current message so far
 * @status:       after HTTP_EVENT_BAD: 400, 413, 414, 417, 431, 501 or 505
 * @reason:       after HTTP_EVENT_BAD: one sentence with place and fault, such as `header field 3: bare LF`
 *
 * Callers read the members above; the rest is the parser's own.
 */
struct http_parser {
	struct http_slice body;
	uint64_t body_bytes;
	int status;
	char reason[144];

	enum http_parser_state state;
	bool after_cr;
	bool empty_line_seen;
	bool llhttp_complete;
	bool llhttp_head;
	unsigned int number; /* of the field, chunk or trailer that is being read, from 1 */
	uint64_t remaining_bytes;
	uint64_t llhttp_chunk_bytes;
	size_t extensions_bytes;
	size_t trailers_bytes;
	size_t text_len;
	size_t line_start;
	size_t side_len;
	llhttp_t llhttp;
	struct http_head head;
	char side[HTTP_TRAILER_LINE_BYTES_MAX]; /* the chunk-size or trailer line being read */
	char text[HTTP_HEAD_BYTES_MAX];		/* the head, as it was sent */
};

/* http_parser_init() - make ready for the first message; there is nothing to undo */
void http_parser_init(struct http_parser *parser);

/**
 * http_parser_feed() - take some input, up to the next event
 * @parser:       the parser
 * @data:         input that follows what was consumed so far; may be NULL when @len is 0
 * @len:          its length; 0 is legal and reports what needs no more input
 * @ret_consumed: how much was taken; set on every return
 *
 * Ownership:     borrows @data until the next call if the event is HTTP_EVENT_BODY, else until return.
 * Return:        an event. After HTTP_EVENT_MORE *@ret_consumed is @len.
 * Source:        RFC 9112, RFC 9110 sections 4 to 10.
 */
enum http_event http_parser_feed(struct http_parser *parser, const void *data, size_t len,
				 size_t *ret_consumed);

/* http_parser_is_between() - whether the connection may end here without cutting a message */
bool http_parser_is_between(const struct http_parser *parser);
