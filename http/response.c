/* SPDX-License-Identifier: Apache-2.0 */

/*
 * A response head is text that a peer takes apart again, so nothing gets into it unchecked: a field
 * that holds a line break would be two fields, and the second one not ours.
 */

#include "response.h"

#include "head.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <time.h>

struct text {
	char *data;
	size_t len;
	size_t size;
	int error;
};

__attribute__((format(printf, 2, 3))) static void add(struct text *text, const char *format, ...)
{
	va_list arguments;
	int n;

	if (text->error)
		return;
	va_start(arguments, format);
	n = vsnprintf(text->data + text->len, text->size - text->len, format, arguments);
	va_end(arguments);
	if (n < 0 || (size_t)n >= text->size - text->len)
		text->error = -ENOBUFS;
	else
		text->len += (size_t)n;
}

static bool field_is_safe(const char *name, const char *value)
{
	if (!*name)
		return false;
	for (; *name; name++)
		if (!http_token_char((unsigned char)*name))
			return false;
	for (; *value; value++)
		if ((unsigned char)*value < ' ' || *value == 0x7f)
			return false;
	return true;
}

static void add_field(struct text *text, const char *name, const char *value)
{
	if (!field_is_safe(name, value))
		text->error = -EINVAL;
	add(text, "%s: %s\r\n", name, value);
}

static void add_fields(struct text *text, const struct http_field *fields)
{
	for (const struct http_field *field = fields; field && field->name; field++)
		add_field(text, field->name, field->value);
}

/* RFC 9110 section 5.6.7, with names that no locale changes. */
static void add_date(struct text *text, int64_t unix_time_s)
{
	static const char days[] = "SunMonTueWedThuFriSat",
			  months[] = "JanFebMarAprMayJunJulAugSepOctNovDec";
	time_t seconds = (time_t)unix_time_s;
	struct tm tm;

	if (!gmtime_r(&seconds, &tm)) {
		text->error = -EINVAL;
		return;
	}
	add(text, "Date: %.3s, %02d %.3s %d %02d:%02d:%02d GMT\r\n", days + 3 * tm.tm_wday,
	    tm.tm_mday, months + 3 * tm.tm_mon, tm.tm_year + 1900, tm.tm_hour, tm.tm_min,
	    tm.tm_sec);
}

int http_response_format(const struct http_response_head *head, char *buffer, size_t size)
{
	struct text text = { .data = buffer, .size = size };

	if (head->status < 200 || head->status > 599)
		return -EINVAL;
	add(&text, "HTTP/1.1 %d %s\r\n", head->status, http_status_phrase(head->status));
	add_date(&text, head->unix_time_s);
	if (head->content_type)
		add_field(&text, "Content-Type", head->content_type);
	if (head->framing == HTTP_FRAMING_CHUNKS)
		add(&text, "Transfer-Encoding: chunked\r\n");
	else if (head->framing == HTTP_FRAMING_LENGTH && head->status != 204 && head->status != 304)
		add(&text, "Content-Length: %llu\r\n", (unsigned long long)head->body_bytes);
	add_fields(&text, head->fields);
	add_fields(&text, head->extras);
	if (head->close)
		add(&text, "Connection: close\r\n");
	add(&text, "\r\n");
	return text.error ? text.error : (int)text.len;
}

const char *http_status_phrase(int status)
{
	static const struct {
		int status;
		const char *phrase;
	} phrases[] = {
		{ 200, "OK" },
		{ 201, "Created" },
		{ 202, "Accepted" },
		{ 204, "No Content" },
		{ 304, "Not Modified" },
		{ 400, "Bad Request" },
		{ 401, "Unauthorized" },
		{ 403, "Forbidden" },
		{ 404, "Not Found" },
		{ 405, "Method Not Allowed" },
		{ 408, "Request Timeout" },
		{ 409, "Conflict" },
		{ 410, "Gone" },
		{ 411, "Length Required" },
		{ 412, "Precondition Failed" },
		{ 413, "Content Too Large" },
		{ 414, "URI Too Long" },
		{ 415, "Unsupported Media Type" },
		{ 417, "Expectation Failed" },
		{ 421, "Misdirected Request" },
		{ 422, "Unprocessable Content" },
		{ 429, "Too Many Requests" },
		{ 431, "Request Header Fields Too Large" },
		{ 500, "Internal Server Error" },
		{ 501, "Not Implemented" },
		{ 502, "Bad Gateway" },
		{ 503, "Service Unavailable" },
		{ 504, "Gateway Timeout" },
		{ 505, "HTTP Version Not Supported" },
		{ 507, "Insufficient Storage" },
	};
	static const char *const classes[] = { "Success", "Redirection", "Client Error",
					       "Server Error" };

	for (size_t i = 0; i < sizeof(phrases) / sizeof(phrases[0]); i++)
		if (phrases[i].status == status)
			return phrases[i].phrase;
	return status >= 200 && status <= 599 ? classes[status / 100 - 2] : "Unknown";
}
