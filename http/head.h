/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * http/head.h - the head of one HTTP/1.1 request, parsed and found unambiguous
 *
 * Everything here is a view: the bytes belong to the parser that filled it in, and stay as they are
 * until that parser meets the first byte of the next message. Nothing is decoded.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* More header fields than this are answered 431. */
#define HTTP_HEADERS_MAX 64

struct http_slice {
	const char *data;
	size_t len;
};

struct http_header {
	struct http_slice name;
	struct http_slice value; /* without the white space around it */
};

/* The methods of RFC 9110 section 9 and RFC 5789, without CONNECT. All others are answered 501. */
enum http_method {
	HTTP_METHOD_GET = 1,
	HTTP_METHOD_HEAD,
	HTTP_METHOD_POST,
	HTTP_METHOD_PUT,
	HTTP_METHOD_DELETE,
	HTTP_METHOD_OPTIONS,
	HTTP_METHOD_TRACE,
	HTTP_METHOD_PATCH,
};

/**
 * struct http_head - what a request says before its body
 * @method_name:     as it was sent, for logs
 * @target:          the request target as it was sent
 * @authority:       host and port, from Host or from an absolute target (they agree); empty only in HTTP/1.0
 * @path:            begins with a slash, percent-encoding intact; `*` for `OPTIONS *`
 * @query:           what follows the question mark; data is NULL where there is none
 * @body_bytes:      declared length; 0 without a body, -1 when chunked
 * @version_minor:   0 or 1
 * @keep_alive:      another request may follow on the connection
 * @expect_continue: the client may be waiting for `100 Continue` before it sends the body
 */
struct http_head {
	enum http_method method;
	struct http_slice method_name;
	struct http_slice target;
	struct http_slice authority;
	struct http_slice path;
	struct http_slice query;
	int64_t body_bytes;
	uint8_t version_minor;
	bool chunked;
	bool keep_alive;
	bool expect_continue;
	uint16_t headers_count;
	struct http_header headers[HTTP_HEADERS_MAX];
};

/**
 * struct http_fault - why a request is refused
 * @status: the answer, 4xx or 5xx
 * @what:   a sentence without the place, static
 * @line:   header field it is about, counted from 1; 0 is about the head as a whole
 */
struct http_fault {
	int status;
	const char *what;
	unsigned int line;
};

/* http_slice_equal() - whether @slice is exactly @text, ASCII case ignored */
bool http_slice_equal(struct http_slice slice, const char *text);

/* http_slice_trim() - @slice without the white space around it */
struct http_slice http_slice_trim(struct http_slice slice);

/* http_slice_has_token() - whether the comma-separated list @slice names @token, ASCII case ignored */
bool http_slice_has_token(struct http_slice slice, const char *token);

/**
 * http_head_find() - look a header field up by its name
 * @head: a parsed head
 * @name: field name, in any case
 *
 * Return: the value of the first field of that name, valid as long as @head; NULL if there is none.
 */
const struct http_slice *http_head_find(const struct http_head *head, const char *name);

/* http_head_count() - how many fields of that name there are */
size_t http_head_count(const struct http_head *head, const char *name);

/* http_head_has_token() - http_slice_has_token() of all fields of that name, which are one list */
bool http_head_has_token(const struct http_head *head, const char *name, const char *token);

/* http_token_char() - whether @byte may stand in a token (RFC 9110 section 5.6.2) */
bool http_token_char(unsigned char byte);

/*
 * The three steps in which the parser fills a head in. Each returns 0, or -EBADMSG with *@ret_fault
 * set. @line is one line without its CRLF; it must be free of CR, LF and control bytes other than HTAB.
 */
int http_head_take_request_line(struct http_head *head, struct http_slice line,
				struct http_fault *ret_fault);
int http_head_take_field(struct http_head *head, struct http_slice line,
			 struct http_fault *ret_fault);
int http_head_finish(struct http_head *head, struct http_fault *ret_fault);

/* http_field_split() - one field line into name and value; the sentence that refuses it, or NULL */
const char *http_field_split(struct http_slice line, struct http_header *ret_header);

/* http_field_is_framing() - whether a field of this name may never come in a trailer (RFC 9110 section 6.5.1) */
bool http_field_is_framing(struct http_slice name);
