/* SPDX-License-Identifier: Apache-2.0 */

/*
 * What a request head must say to be unambiguous.
 *
 * RFC 9112 leaves a recipient a choice in many places: repair, ignore, or refuse. Every repair is a
 * chance for two parties to disagree about where a message ends or whom it is for, so here the choice
 * is always to refuse: one Host, one Content-Length, one transfer coding, one form of each number. What
 * is refused, and with which status, is decided in this file alone; the parser next door sees to bytes
 * and lines before, and llhttp must agree with the outcome after.
 */

#include "head.h"

#include <errno.h>
#include <string.h>

#define HOST_BYTES_MAX 255

static int refuse(struct http_fault *ret_fault, int status, unsigned int line, const char *what)
{
	*ret_fault = (struct http_fault){ .status = status, .what = what, .line = line };
	return -EBADMSG;
}

static char lower(char byte)
{
	return byte >= 'A' && byte <= 'Z' ? (char)(byte | 0x20) : byte;
}

static bool is_digit(char byte)
{
	return byte >= '0' && byte <= '9';
}

static bool is_hex(char byte)
{
	return is_digit(byte) || (lower(byte) >= 'a' && lower(byte) <= 'f');
}

static bool is_alnum(char byte)
{
	return is_digit(byte) || (lower(byte) >= 'a' && lower(byte) <= 'z');
}

static bool is_one_of(char byte, const char *set)
{
	return byte && strchr(set, byte);
}

static bool is_space(char byte)
{
	return byte == ' ' || byte == '\t';
}

static bool slice_same(struct http_slice a, struct http_slice b)
{
	if (a.len != b.len)
		return false;
	for (size_t i = 0; i < a.len; i++)
		if (lower(a.data[i]) != lower(b.data[i]))
			return false;
	return true;
}

struct http_slice http_slice_trim(struct http_slice slice)
{
	while (slice.len > 0 && is_space(slice.data[0])) {
		slice.data++;
		slice.len--;
	}
	while (slice.len > 0 && is_space(slice.data[slice.len - 1]))
		slice.len--;
	return slice;
}

bool http_slice_equal(struct http_slice slice, const char *text)
{
	return slice_same(slice, (struct http_slice){ text, strlen(text) });
}

bool http_slice_has_token(struct http_slice slice, const char *token)
{
	while (slice.len > 0) {
		const char *comma = memchr(slice.data, ',', slice.len);
		size_t len = comma ? (size_t)(comma - slice.data) : slice.len;

		if (http_slice_equal(http_slice_trim((struct http_slice){ slice.data, len }),
				     token))
			return true;
		if (!comma)
			break;
		slice.data += len + 1;
		slice.len -= len + 1;
	}
	return false;
}

bool http_token_char(unsigned char byte)
{
	return is_alnum((char)byte) || is_one_of((char)byte, "!#$%&'*+-.^_`|~");
}

const struct http_slice *http_head_find(const struct http_head *head, const char *name)
{
	for (size_t i = 0; i < head->headers_count; i++)
		if (http_slice_equal(head->headers[i].name, name))
			return &head->headers[i].value;
	return NULL;
}

size_t http_head_count(const struct http_head *head, const char *name)
{
	size_t count = 0;

	for (size_t i = 0; i < head->headers_count; i++)
		count += http_slice_equal(head->headers[i].name, name);
	return count;
}

bool http_head_has_token(const struct http_head *head, const char *name, const char *token)
{
	for (size_t i = 0; i < head->headers_count; i++)
		if (http_slice_equal(head->headers[i].name, name) &&
		    http_slice_has_token(head->headers[i].value, token))
			return true;
	return false;
}

static enum http_method method_from_name(struct http_slice name)
{
	static const struct {
		enum http_method method;
		const char *name;
	} methods[] = {
		{ HTTP_METHOD_GET, "GET" },	  { HTTP_METHOD_HEAD, "HEAD" },
		{ HTTP_METHOD_POST, "POST" },	  { HTTP_METHOD_PUT, "PUT" },
		{ HTTP_METHOD_DELETE, "DELETE" }, { HTTP_METHOD_OPTIONS, "OPTIONS" },
		{ HTTP_METHOD_TRACE, "TRACE" },	  { HTTP_METHOD_PATCH, "PATCH" },
	};

	for (size_t i = 0; i < sizeof(methods) / sizeof(methods[0]); i++)
		if (name.len == strlen(methods[i].name) &&
		    !memcmp(name.data, methods[i].name, name.len))
			return methods[i].method;
	return 0;
}

/* RFC 9112 section 2.3: `HTTP/` DIGIT `.` DIGIT, case-sensitive. */
static int take_version(struct http_head *head, struct http_slice version,
			struct http_fault *ret_fault)
{
	const char *v = version.data;

	if (version.len != 8 || memcmp(v, "HTTP/", 5) || !is_digit(v[5]) || v[6] != '.' ||
	    !is_digit(v[7]))
		return refuse(ret_fault, 400, 0, "malformed HTTP version");
	if (v[5] != '1' || v[7] > '1')
		return refuse(ret_fault, 505, 0, "HTTP version is not 1.1 or 1.0");
	head->version_minor = (uint8_t)(v[7] - '0');
	return 0;
}

/* A host name, an IPv4 address or a bracketed IPv6 address, and perhaps a port: less than RFC 3986 has. */
static bool authority_is_valid(struct http_slice authority)
{
	const char *at = authority.data, *end = at + authority.len, *host;
	unsigned int port = 0;

	if (authority.len == 0 || authority.len > HOST_BYTES_MAX)
		return false;
	if (*at == '[') {
		host = ++at;
		while (at < end && (is_hex(*at) || *at == ':' || *at == '.'))
			at++;
		if (at == end || *at != ']' || at == host)
			return false;
		at++;
	} else {
		host = at;
		while (at < end && (is_alnum(*at) || is_one_of(*at, "-._~")))
			at++;
		if (at == host)
			return false;
	}
	if (at == end)
		return true;
	if (*at++ != ':' || at == end || end - at > 5)
		return false;
	for (; at < end; at++) {
		if (!is_digit(*at))
			return false;
		port = port * 10 + (unsigned int)(*at - '0');
	}
	return port <= 65535;
}

/* Visible ASCII that RFC 3986 allows in a path or a query; a percent sign has two hexadecimal digits. */
static const char *target_fault(struct http_slice target)
{
	for (size_t i = 0; i < target.len; i++) {
		char byte = target.data[i];

		if (byte == '#')
			return "request target has a fragment";
		if (byte < '!' || byte > '~' || is_one_of(byte, "\"<>\\^`{|}"))
			return "request target has a byte that must be percent-encoded";
		if (byte == '%' && (target.len - i < 3 || !is_hex(target.data[i + 1]) ||
				    !is_hex(target.data[i + 2])))
			return "request target has a percent sign without two hexadecimal digits";
	}
	return NULL;
}

static void take_path(struct http_head *head, struct http_slice rest)
{
	const char *question = rest.len ? memchr(rest.data, '?', rest.len) : NULL;

	head->path = rest;
	if (question) {
		head->path.len = (size_t)(question - rest.data);
		head->query.data = question + 1;
		head->query.len = rest.len - head->path.len - 1;
	}
	if (head->path.len == 0)
		head->path = (struct http_slice){ "/", 1 };
}

static int take_absolute(struct http_head *head, struct http_fault *ret_fault)
{
	struct http_slice rest = { head->target.data + 7, head->target.len - 7 };
	size_t len = 0;

	while (len < rest.len && rest.data[len] != '/' && rest.data[len] != '?')
		len++;
	head->authority = (struct http_slice){ rest.data, len };
	if (!authority_is_valid(head->authority))
		return refuse(ret_fault, 400, 0, "request target has an invalid authority");
	take_path(head, (struct http_slice){ rest.data + len, rest.len - len });
	return 0;
}

static int take_target(struct http_head *head, struct http_fault *ret_fault)
{
	struct http_slice target = head->target;
	const char *fault;

	if (target.len == 0)
		return refuse(ret_fault, 400, 0, "request target is empty");
	fault = target_fault(target);
	if (fault)
		return refuse(ret_fault, 400, 0, fault);
	if (target.data[0] == '/') {
		take_path(head, target);
		return 0;
	}
	if (target.len == 1 && target.data[0] == '*' && head->method == HTTP_METHOD_OPTIONS) {
		head->path = target;
		return 0;
	}
	if (target.len > 7 && http_slice_equal((struct http_slice){ target.data, 7 }, "http://"))
		return take_absolute(head, ret_fault);
	return refuse(ret_fault, 400, 0, "request target is neither a path nor an http URI");
}

int http_head_take_request_line(struct http_head *head, struct http_slice line,
				struct http_fault *ret_fault)
{
	const char *first, *last, *end = line.data + line.len;
	int r;

	*head = (struct http_head){ .keep_alive = true };
	first = memchr(line.data, ' ', line.len);
	last = memrchr(line.data, ' ', line.len);
	if (!first || first == line.data)
		return refuse(ret_fault, 400, 0, "no method followed by a space");
	head->method_name = (struct http_slice){ line.data, (size_t)(first - line.data) };
	if (first == last)
		return refuse(ret_fault, 400, 0, "not of three parts separated by single spaces");
	head->target = (struct http_slice){ first + 1, (size_t)(last - first - 1) };
	r = take_version(head, (struct http_slice){ last + 1, (size_t)(end - last - 1) },
			 ret_fault);
	if (r < 0)
		return r;
	if (memchr(head->target.data, ' ', head->target.len) ||
	    memchr(head->target.data, '\t', head->target.len))
		return refuse(ret_fault, 400, 0, "not of three parts separated by single spaces");
	head->method = method_from_name(head->method_name);
	if (!head->method)
		return refuse(ret_fault, 501, 0, "method is not implemented");
	return take_target(head, ret_fault);
}

const char *http_field_split(struct http_slice line, struct http_header *ret_header)
{
	const char *colon = memchr(line.data, ':', line.len);
	struct http_slice name, value;

	if (!colon)
		return "no colon";
	name = (struct http_slice){ line.data, (size_t)(colon - line.data) };
	value = (struct http_slice){ colon + 1, line.len - name.len - 1 };
	if (name.len == 0)
		return "empty field name";
	if (is_space(name.data[name.len - 1]))
		return "white space before the colon";
	for (size_t i = 0; i < name.len; i++)
		if (!http_token_char((unsigned char)name.data[i]))
			return "field name has a byte that is not allowed";
	*ret_header = (struct http_header){ name, http_slice_trim(value) };
	return NULL;
}

bool http_field_is_framing(struct http_slice name)
{
	static const char *const names[] = {
		"Transfer-Encoding",
		"Content-Length",
		"Host",
		"Connection",
		"Expect",
		"Upgrade",
		"Content-Encoding",
		"Content-Type",
		"Trailer",
		"Content-Range",
		"Cookie",
		"Authorization",
		"TE",
		"Keep-Alive",
		"Range",
		"Max-Forwards",
		"Cache-Control",
	};

	for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++)
		if (http_slice_equal(name, names[i]))
			return true;
	return false;
}

int http_head_take_field(struct http_head *head, struct http_slice line,
			 struct http_fault *ret_fault)
{
	unsigned int number = head->headers_count + 1u;
	const char *fault;

	if (head->headers_count == HTTP_HEADERS_MAX)
		return refuse(ret_fault, 431, number, "too many header fields");
	fault = http_field_split(line, &head->headers[head->headers_count]);
	if (fault)
		return refuse(ret_fault, 400, number, fault);
	head->headers_count++;
	return 0;
}

/* The fields that decide whom a message is for and where it ends, each at most once but Connection and Expect. */
struct framing {
	bool host;
	bool content_length;
	bool transfer_encoding;
};

static int check_host(struct http_head *head, struct framing *seen, unsigned int number,
		      struct http_fault *ret_fault)
{
	struct http_slice value = head->headers[number - 1].value;

	if (seen->host)
		return refuse(ret_fault, 400, number, "second Host");
	seen->host = true;
	if (!authority_is_valid(value))
		return refuse(ret_fault, 400, number,
			      "Host is not a host name or address with an optional port");
	if (head->authority.len > 0 && !slice_same(head->authority, value))
		return refuse(ret_fault, 400, number, "Host disagrees with the request target");
	head->authority = value;
	return 0;
}

static int check_content_length(struct http_head *head, struct framing *seen, unsigned int number,
				struct http_fault *ret_fault)
{
	struct http_slice value = head->headers[number - 1].value;
	int64_t bytes = 0;

	if (seen->content_length)
		return refuse(ret_fault, 400, number, "second Content-Length");
	seen->content_length = true;
	if (value.len == 0)
		return refuse(ret_fault, 400, number, "Content-Length is not a decimal number");
	for (size_t i = 0; i < value.len; i++)
		if (!is_digit(value.data[i]))
			return refuse(ret_fault, 400, number,
				      "Content-Length is not a decimal number");
	for (size_t i = 0; i < value.len; i++)
		if (__builtin_mul_overflow(bytes, 10, &bytes) ||
		    __builtin_add_overflow(bytes, value.data[i] - '0', &bytes))
			return refuse(ret_fault, 413, number,
				      "Content-Length is larger than any file");
	head->body_bytes = bytes;
	return 0;
}

static int check_transfer_encoding(struct http_head *head, struct framing *seen,
				   unsigned int number, struct http_fault *ret_fault)
{
	struct http_slice value = head->headers[number - 1].value;

	if (seen->transfer_encoding)
		return refuse(ret_fault, 400, number, "second Transfer-Encoding");
	seen->transfer_encoding = true;
	if (head->version_minor == 0)
		return refuse(ret_fault, 400, number, "Transfer-Encoding in an HTTP/1.0 request");
	if (!http_slice_equal(value, "chunked"))
		return refuse(ret_fault, 400, number, "Transfer-Encoding is not exactly chunked");
	head->chunked = true;
	return 0;
}

static int check_field(struct http_head *head, struct framing *seen, unsigned int number,
		       struct http_fault *ret_fault)
{
	const struct http_header *header = &head->headers[number - 1];

	if (http_slice_equal(header->name, "Host"))
		return check_host(head, seen, number, ret_fault);
	if (http_slice_equal(header->name, "Content-Length"))
		return check_content_length(head, seen, number, ret_fault);
	if (http_slice_equal(header->name, "Transfer-Encoding"))
		return check_transfer_encoding(head, seen, number, ret_fault);
	if (http_slice_equal(header->name, "Connection")) {
		if (http_slice_has_token(header->value, "close"))
			head->keep_alive = false;
	} else if (http_slice_equal(header->name, "Expect") && head->version_minor > 0) {
		if (!http_slice_equal(header->value, "100-continue"))
			return refuse(ret_fault, 417, number, "unknown expectation");
		head->expect_continue = true;
	}
	return 0;
}

int http_head_finish(struct http_head *head, struct http_fault *ret_fault)
{
	struct framing seen = {};
	int r;

	/* A persistent HTTP/1.0 connection would need an answer in kind; nobody who matters asks for one. */
	if (head->version_minor == 0)
		head->keep_alive = false;
	for (unsigned int number = 1; number <= head->headers_count; number++) {
		r = check_field(head, &seen, number, ret_fault);
		if (r < 0)
			return r;
	}
	if (!seen.host && head->version_minor > 0)
		return refuse(ret_fault, 400, 0, "no Host");
	if (seen.content_length && seen.transfer_encoding)
		return refuse(ret_fault, 400, 0, "both Content-Length and Transfer-Encoding");
	if (head->chunked)
		head->body_bytes = -1;
	if (head->method == HTTP_METHOD_TRACE && head->body_bytes != 0)
		return refuse(ret_fault, 400, 0, "TRACE with a body");
	if (head->body_bytes == 0)
		head->expect_continue = false;
	return 0;
}
