/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Two readers that must agree.
 *
 * The first reader is here. It looks at every byte outside bodies once, as it arrives, so that a sender
 * of single bytes costs no more than one of large pieces: it insists on CRLF, refuses control bytes and
 * counts against the limits. What it collects are whole lines; head.c judges those of the head. The
 * second reader is llhttp in strict mode, fed whole heads, whole chunk lines and body data. It lets
 * some things through that the first refuses (folded lines, a missing Host, HTTP/2.0), and it knows
 * nothing of our choices. A message gets on only when both accept it and find the same length: where
 * two good parsers differ is exactly where requests are smuggled.
 *
 * llhttp is never given a byte behind the end of what the first reader knows to be one unit, so its
 * callbacks have nothing to decide. They only write down what it saw.
 */

#include "parser.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

static int note_head(llhttp_t *llhttp)
{
	struct http_parser *parser = llhttp->data;

	parser->llhttp_head = true;
	/* An offered upgrade is ignored (RFC 9110 section 7.8); llhttp would wait for the new protocol. */
	llhttp->upgrade = 0;
	return 0;
}

static int note_chunk_size(llhttp_t *llhttp)
{
	struct http_parser *parser = llhttp->data;

	parser->llhttp_chunk_bytes = llhttp->content_length;
	return 0;
}

static int note_complete(llhttp_t *llhttp)
{
	struct http_parser *parser = llhttp->data;

	parser->llhttp_complete = true;
	return 0;
}

static const llhttp_settings_t llhttp_settings = {
	.on_headers_complete = note_head,
	.on_chunk_header = note_chunk_size,
	.on_message_complete = note_complete,
};

static void where(const struct http_parser *parser, char *ret_text, size_t size)
{
	switch (parser->state) {
	case HTTP_STATE_FIELD: snprintf(ret_text, size, "header field %u", parser->number); break;
	case HTTP_STATE_CHUNK_SIZE:
	case HTTP_STATE_CHUNK_DATA:
	case HTTP_STATE_CHUNK_END: snprintf(ret_text, size, "chunk %u", parser->number); break;
	case HTTP_STATE_TRAILER:
		snprintf(ret_text, size, "trailer field %u", parser->number);
		break;
	default: snprintf(ret_text, size, "request line"); break;
	}
}

__attribute__((format(printf, 3, 4))) static enum http_event bad(struct http_parser *parser,
								 int status, const char *format,
								 ...)
{
	char place[32], what[96];
	va_list arguments;

	where(parser, place, sizeof(place));
	va_start(arguments, format);
	vsnprintf(what, sizeof(what), format, arguments);
	va_end(arguments);
	snprintf(parser->reason, sizeof(parser->reason), "%s: %s", place, what);
	parser->status = status;
	parser->state = HTTP_STATE_BAD;
	return HTTP_EVENT_BAD;
}

static enum http_event bad_head(struct http_parser *parser, const struct http_fault *fault)
{
	if (fault->line > 0)
		snprintf(parser->reason, sizeof(parser->reason), "header field %u: %s", fault->line,
			 fault->what);
	else
		snprintf(parser->reason, sizeof(parser->reason), "%s: %s",
			 parser->state == HTTP_STATE_FIELD ? "request head" : "request line",
			 fault->what);
	parser->status = fault->status;
	parser->state = HTTP_STATE_BAD;
	return HTTP_EVENT_BAD;
}

/* Lets the second reader see what the first has accepted. Returns HTTP_EVENT_MORE, or the refusal. */
static enum http_event second_reader(struct http_parser *parser, const char *data, size_t len)
{
	llhttp_errno_t error = llhttp_execute(&parser->llhttp, data, len);

	if (error != HPE_OK)
		return bad(parser, 400, "%s", llhttp_get_error_reason(&parser->llhttp));
	return HTTP_EVENT_MORE;
}

static bool second_reader_agrees(const struct http_parser *parser)
{
	const struct http_head *head = &parser->head;
	const llhttp_t *llhttp = &parser->llhttp;

	return parser->llhttp_head && !!(llhttp->flags & F_CHUNKED) == head->chunked &&
	       parser->llhttp_complete == (head->body_bytes == 0) &&
	       (head->body_bytes <= 0 || llhttp->content_length == (uint64_t)head->body_bytes);
}

static enum http_event complete(struct http_parser *parser)
{
	if (!parser->llhttp_complete)
		return bad(parser, 400, "the end of the message is ambiguous");
	parser->state = HTTP_STATE_COMPLETE;
	return HTTP_EVENT_MORE;
}

static void begin_message(struct http_parser *parser)
{
	parser->state = HTTP_STATE_REQUEST_LINE;
	parser->number = 0;
	parser->head.headers_count = 0;
	parser->head.authority = (struct http_slice){};
	parser->text_len = 0;
	parser->line_start = 0;
	parser->side_len = 0;
	parser->body_bytes = 0;
	parser->extensions_bytes = 0;
	parser->trailers_bytes = 0;
	parser->llhttp_complete = false;
	parser->llhttp_head = false;
	llhttp_init(&parser->llhttp, HTTP_REQUEST, &llhttp_settings);
	parser->llhttp.data = parser;
}

/* The whole head for the second reader, and whether it found the same length. */
static int second_opinion(struct http_parser *parser, struct http_fault *ret_fault)
{
	const char *end;

	*ret_fault = (struct http_fault){ .status = 400,
					  .what = "the length of the message is ambiguous" };
	if (llhttp_execute(&parser->llhttp, parser->text, parser->text_len) == HPE_OK)
		return second_reader_agrees(parser) ? 0 : -EBADMSG;
	ret_fault->what = llhttp_get_error_reason(&parser->llhttp);
	end = llhttp_get_error_pos(&parser->llhttp);
	for (const char *at = parser->text; at < end; at++)
		ret_fault->line += *at == '\n';
	return -EBADMSG;
}

static enum http_event finish_head(struct http_parser *parser)
{
	struct http_fault fault;

	if (http_head_finish(&parser->head, &fault) < 0 || second_opinion(parser, &fault) < 0)
		return bad_head(parser, &fault);
	parser->number = 0;
	if (parser->head.chunked) {
		parser->number = 1;
		parser->state = HTTP_STATE_CHUNK_SIZE;
	} else if (parser->head.body_bytes > 0) {
		parser->remaining_bytes = (uint64_t)parser->head.body_bytes;
		parser->state = HTTP_STATE_BODY;
	} else {
		parser->state = HTTP_STATE_COMPLETE;
	}
	return HTTP_EVENT_HEAD;
}

static enum http_event head_line(struct http_parser *parser)
{
	struct http_slice line = { parser->text + parser->line_start,
				   parser->text_len - parser->line_start - 2 };
	struct http_fault fault;
	int r;

	if (parser->state == HTTP_STATE_FIELD && line.len == 0)
		return finish_head(parser);
	if (parser->state == HTTP_STATE_REQUEST_LINE) {
		if (line.len == 0) {
			/* RFC 9112 section 2.2: some clients send one after a body. */
			if (parser->empty_line_seen)
				return bad(parser, 400, "more than one empty line before it");
			parser->empty_line_seen = true;
			parser->state = HTTP_STATE_BETWEEN;
			return HTTP_EVENT_MORE;
		}
		r = http_head_take_request_line(&parser->head, line, &fault);
	} else {
		r = http_head_take_field(&parser->head, line, &fault);
	}
	if (r < 0)
		return bad_head(parser, &fault);
	parser->state = HTTP_STATE_FIELD;
	parser->line_start = parser->text_len;
	parser->number++;
	return HTTP_EVENT_MORE;
}

static int hex_value(char byte)
{
	if (byte >= '0' && byte <= '9')
		return byte - '0';
	byte |= 0x20;
	return byte >= 'a' && byte <= 'f' ? byte - 'a' + 10 : -1;
}

/* RFC 9112 section 7.1: 1*HEXDIG, then perhaps extensions, which are bounded and ignored. */
static enum http_event chunk_size_line(struct http_parser *parser)
{
	size_t len = parser->side_len - 2, digits = 0;
	uint64_t bytes = 0;

	for (; digits < len && hex_value(parser->side[digits]) >= 0; digits++) {
		if (bytes > UINT64_MAX >> 4)
			return bad(parser, 413, "size is larger than any file");
		bytes = bytes << 4 | (uint64_t)hex_value(parser->side[digits]);
	}
	if (digits == 0)
		return bad(parser, 400, "size is not a hexadecimal number");
	if (digits < len && parser->side[digits] != ';')
		return bad(parser, 400, "size is followed by something other than an extension");
	if (bytes > (uint64_t)INT64_MAX - parser->body_bytes)
		return bad(parser, 413, "size is larger than any file");
	parser->extensions_bytes += len - digits;
	if (parser->extensions_bytes > HTTP_CHUNK_EXTENSIONS_BYTES_MAX)
		return bad(parser, 400, "too many chunk extensions");
	if (second_reader(parser, parser->side, parser->side_len) == HTTP_EVENT_BAD)
		return HTTP_EVENT_BAD;
	if (parser->llhttp_chunk_bytes != bytes)
		return bad(parser, 400, "size is ambiguous");
	parser->remaining_bytes = bytes;
	parser->state = bytes > 0 ? HTTP_STATE_CHUNK_DATA : HTTP_STATE_TRAILER;
	if (bytes == 0)
		parser->number = 1;
	return HTTP_EVENT_MORE;
}

static enum http_event chunk_end_line(struct http_parser *parser)
{
	if (parser->side_len != 2)
		return bad(parser, 400, "data is longer than its size");
	if (second_reader(parser, parser->side, parser->side_len) == HTTP_EVENT_BAD)
		return HTTP_EVENT_BAD;
	parser->state = HTTP_STATE_CHUNK_SIZE;
	parser->number++;
	return HTTP_EVENT_MORE;
}

static enum http_event trailer_line(struct http_parser *parser)
{
	struct http_slice line = { parser->side, parser->side_len - 2 };
	struct http_header header;
	const char *fault;

	if (line.len > 0) {
		if (parser->number > HTTP_TRAILERS_MAX)
			return bad(parser, 431, "too many trailer fields");
		fault = http_field_split(line, &header);
		if (fault)
			return bad(parser, 400, "%s", fault);
		if (http_field_is_framing(header.name))
			return bad(parser, 400, "field is not allowed in a trailer");
	}
	if (second_reader(parser, parser->side, parser->side_len) == HTTP_EVENT_BAD)
		return HTTP_EVENT_BAD;
	parser->number++;
	return line.len > 0 ? HTTP_EVENT_MORE : complete(parser);
}

static enum http_event line_end(struct http_parser *parser)
{
	enum http_event event;

	switch (parser->state) {
	case HTTP_STATE_CHUNK_SIZE: event = chunk_size_line(parser); break;
	case HTTP_STATE_CHUNK_END: event = chunk_end_line(parser); break;
	case HTTP_STATE_TRAILER: event = trailer_line(parser); break;
	default: return head_line(parser);
	}
	parser->side_len = 0;
	return event;
}

/* Puts one byte behind the line being read, within the limit of its kind. */
static enum http_event keep_byte(struct http_parser *parser, char byte)
{
	switch (parser->state) {
	case HTTP_STATE_REQUEST_LINE:
		if (parser->text_len == HTTP_REQUEST_LINE_BYTES_MAX)
			return bad(parser, 414, "longer than %d bytes",
				   HTTP_REQUEST_LINE_BYTES_MAX);
		parser->text[parser->text_len++] = byte;
		break;
	case HTTP_STATE_FIELD:
		if (parser->text_len == HTTP_HEAD_BYTES_MAX)
			return bad(parser, 431, "request head is longer than %d bytes",
				   HTTP_HEAD_BYTES_MAX);
		parser->text[parser->text_len++] = byte;
		break;
	case HTTP_STATE_TRAILER:
		if (parser->side_len == HTTP_TRAILER_LINE_BYTES_MAX)
			return bad(parser, 431, "longer than %d bytes",
				   HTTP_TRAILER_LINE_BYTES_MAX);
		if (parser->trailers_bytes++ == HTTP_TRAILERS_BYTES_MAX)
			return bad(parser, 431, "trailers are longer than %d bytes",
				   HTTP_TRAILERS_BYTES_MAX);
		parser->side[parser->side_len++] = byte;
		break;
	case HTTP_STATE_CHUNK_END:
		if (byte != '\r' && byte != '\n')
			return bad(parser, 400, "data is longer than its size");
		parser->side[parser->side_len++] = byte;
		break;
	default:
		if (parser->side_len == HTTP_CHUNK_LINE_BYTES_MAX)
			return bad(parser, 400, "size line is longer than %d bytes",
				   HTTP_CHUNK_LINE_BYTES_MAX);
		parser->side[parser->side_len++] = byte;
		break;
	}
	return HTTP_EVENT_MORE;
}

/* What can be said of a byte before its line is whole. */
static enum http_event judge_byte(struct http_parser *parser, unsigned char byte)
{
	size_t at = parser->text_len - parser->line_start;

	if ((byte < 0x20 && byte != '\t') || byte == 0x7f)
		return bad(parser, 400, "control byte 0x%02x", byte);
	if (parser->state == HTTP_STATE_REQUEST_LINE && at <= HTTP_METHOD_BYTES_MAX &&
	    !memchr(parser->text, ' ', at)) {
		if (byte != ' ' && !http_token_char(byte))
			return bad(parser, 400, "method has a byte that is not allowed");
		if (byte != ' ' && at == HTTP_METHOD_BYTES_MAX)
			return bad(parser, 501, "method is not implemented");
	}
	if ((byte == ' ' || byte == '\t') && parser->state == HTTP_STATE_FIELD && at == 0)
		return bad(parser, 400, "begins with white space (a folded line)");
	if ((byte == ' ' || byte == '\t') && parser->state == HTTP_STATE_TRAILER &&
	    parser->side_len == 0)
		return bad(parser, 400, "begins with white space (a folded line)");
	return HTTP_EVENT_MORE;
}

static enum http_event take_byte(struct http_parser *parser, unsigned char byte)
{
	enum http_event event = HTTP_EVENT_MORE;

	if (parser->after_cr && byte != '\n')
		return bad(parser, 400, "bare CR");
	if (!parser->after_cr && byte == '\n')
		return bad(parser, 400, "bare LF");
	if (byte != '\r' && byte != '\n')
		event = judge_byte(parser, byte);
	if (event == HTTP_EVENT_MORE)
		event = keep_byte(parser, (char)byte);
	if (event != HTTP_EVENT_MORE)
		return event;
	parser->after_cr = byte == '\r';
	return byte == '\n' ? line_end(parser) : HTTP_EVENT_MORE;
}

/* Body data: hands out what is there, up to the end of the body or the chunk. */
static enum http_event take_data(struct http_parser *parser, const char *data, size_t len)
{
	if (len > parser->remaining_bytes)
		len = (size_t)parser->remaining_bytes;
	if (second_reader(parser, data, len) == HTTP_EVENT_BAD)
		return HTTP_EVENT_BAD;
	parser->body = (struct http_slice){ data, len };
	parser->body_bytes += len;
	parser->remaining_bytes -= len;
	if (parser->remaining_bytes > 0)
		return HTTP_EVENT_BODY;
	if (parser->state == HTTP_STATE_CHUNK_DATA)
		parser->state = HTTP_STATE_CHUNK_END;
	else if (complete(parser) == HTTP_EVENT_BAD)
		return HTTP_EVENT_BAD;
	return HTTP_EVENT_BODY;
}

static enum http_event take_lines(struct http_parser *parser, const char *data, size_t len,
				  size_t *ret_consumed)
{
	enum http_event event = HTTP_EVENT_MORE;
	size_t at = 0;

	while (at < len && event == HTTP_EVENT_MORE && parser->state < HTTP_STATE_COMPLETE &&
	       parser->state != HTTP_STATE_CHUNK_DATA) {
		if (parser->state == HTTP_STATE_BETWEEN)
			begin_message(parser);
		event = take_byte(parser, (unsigned char)data[at++]);
	}
	*ret_consumed = at;
	return event;
}

void http_parser_init(struct http_parser *parser)
{
	memset(parser, 0, offsetof(struct http_parser, head));
	parser->state = HTTP_STATE_BETWEEN;
}

enum http_event http_parser_feed(struct http_parser *parser, const void *data, size_t len,
				 size_t *ret_consumed)
{
	enum http_event event = HTTP_EVENT_MORE;
	const char *at = data;
	size_t n;

	*ret_consumed = 0;
	while (event == HTTP_EVENT_MORE) {
		switch (parser->state) {
		case HTTP_STATE_COMPLETE:
			parser->empty_line_seen = false;
			parser->state =
				parser->head.keep_alive ? HTTP_STATE_BETWEEN : HTTP_STATE_CLOSED;
			return HTTP_EVENT_END;
		case HTTP_STATE_CLOSED: *ret_consumed = len; return HTTP_EVENT_MORE;
		case HTTP_STATE_BAD: return HTTP_EVENT_BAD;
		case HTTP_STATE_BODY:
		case HTTP_STATE_CHUNK_DATA:
			if (*ret_consumed == len)
				return HTTP_EVENT_MORE;
			event = take_data(parser, at + *ret_consumed, len - *ret_consumed);
			n = event == HTTP_EVENT_BODY ? parser->body.len : 0;
			break;
		default:
			if (*ret_consumed == len)
				return HTTP_EVENT_MORE;
			event = take_lines(parser, at + *ret_consumed, len - *ret_consumed, &n);
			break;
		}
		*ret_consumed += n;
	}
	return event;
}

bool http_parser_is_between(const struct http_parser *parser)
{
	return parser->state == HTTP_STATE_BETWEEN || parser->state == HTTP_STATE_CLOSED;
}
