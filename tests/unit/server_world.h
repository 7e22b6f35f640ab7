/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * What a whole server needs in a simulated world: its log goes where somebody may look, and clients hear its answers.
 */

#include "sim.h"

#include "common/front.h"
#include "common/log.h"

#define HTTP_PORT 8080

/* ---- the log ---- */

/* Called with the event of each line, by the task that writes it; NULL: nobody listens. */
static void (*log_listener)(const char *event);
static const char *log_heard; /* the whole line, meanwhile */

static int log_is_seen(void)
{
	return getenv("EW_SIM_TRACE") != NULL;
}

int log_start(void)
{
	return 0;
}

void log_stop(int64_t deadline_ns)
{
	(void)deadline_ns;
}

uint64_t log_dropped(void)
{
	return 0;
}

void log_block(char *text)
{
	free(text);
}

void log_begin(struct log_line *line, const char *level, const char *event)
{
	line->used = 0;
	log_text(line, level, event);
}

void log_text(struct log_line *line, const char *key, const char *value)
{
	size_t room = sizeof(line->text) - line->used;
	int bytes = snprintf(line->text + line->used, room, " %s=%.300s", key, value);

	line->used += (size_t)bytes < room ? (size_t)bytes : room - 1;
}

void log_number(struct log_line *line, const char *key, int64_t value)
{
	char text[24];

	snprintf(text, sizeof(text), "%" PRId64, value);
	log_text(line, key, text);
}

void log_seconds(struct log_line *line, const char *key, int64_t duration_ns)
{
	log_number(line, key, duration_ns);
}

/* The line has begun with its level and its event. */
static void tell_listener(const struct log_line *line)
{
	const char *event = strchr(line->text, '=') + 1;
	char name[64];

	snprintf(name, sizeof(name), "%.*s", (int)strcspn(event, " "), event);
	log_heard = line->text;
	log_listener(name);
}

void log_end(struct log_line *line)
{
	if (log_is_seen())
		fprintf(stderr, "%12" PRId64 "%s\n", ew_now(), line->text);
	if (log_listener)
		tell_listener(line);
}

void log_note(const char *level, const char *event, const char *format, ...)
{
	struct log_line line;
	char note[512];
	va_list arguments;

	va_start(arguments, format);
	vsnprintf(note, sizeof(note), format, arguments);
	va_end(arguments);
	log_begin(&line, level, event);
	log_text(&line, "note", note);
	log_end(&line);
}

/* Of reports: that a goodbye met a connection that was lost. */
static UNUSED void hush(void *unused, const char *line)
{
	(void)unused;
	(void)line;
}

/* ---- clients ---- */

/* One request on a connection of its own, and its answer. */
struct exchange {
	char request[512];
	char response[12288];
	size_t bytes;
	int status;	 /* 0: no answer has come whole */
	int result;	 /* then, why */
	char id[33];	 /* of an operation */
	bool has_events; /* in chunks: no text of theirs has a line end of HTTP's */
	char *body;
};

static bool is_whole(struct exchange *exchange)
{
	char *end, *length, *id;

	exchange->response[exchange->bytes] = '\0';
	end = strstr(exchange->response, "\r\n\r\n");
	length = strstr(exchange->response, "\r\nContent-Length: ");
	if (!end)
		return false;
	exchange->body = end + 4;
	exchange->has_events = strstr(exchange->response, "\r\nTransfer-Encoding: chunked\r\n");
	if (exchange->has_events) {
		if (!strstr(exchange->body, "\r\n0\r\n\r\n"))
			return false;
	} else {
		EXPECT(length && length < end);
		if (exchange->response + exchange->bytes <
		    exchange->body + strtoul(length + 18, NULL, 10))
			return false;
	}
	EXPECT(strncmp(exchange->response, "HTTP/1.1 ", 9) == 0);
	exchange->status = atoi(exchange->response + 9);
	id = strstr(exchange->response, "\r\nX-Operation-Id: ");
	if (id && id < end)
		snprintf(exchange->id, sizeof(exchange->id), "%.32s", id + 18);
	return true;
}

static UNUSED int hear_answer(struct exchange *exchange, struct ew_socket *socket)
{
	int r;

	while (!is_whole(exchange)) {
		EXPECT(exchange->bytes + 1 < sizeof(exchange->response));
		r = ew_socket_recv(socket, exchange->response + exchange->bytes,
				   sizeof(exchange->response) - 1 - exchange->bytes);
		if (r <= 0)
			return r < 0 ? r : -ECONNRESET;
		exchange->bytes += (size_t)r;
	}
	return 0;
}

/* @visitor with each number from 1 to @count, until all have left */
static UNUSED int run_visitors(ew_task_fn *visitor, unsigned count)
{
	int r = 0;

	EW_SCOPE(visitors, .policy = EW_POLICY_INDEPENDENT);

	for (uintptr_t i = 1; r == 0 && i <= count; i++)
		r = ew_spawn(&visitors, visitor, (void *)i);
	EXPECT_EQ(r, 0);
	return ew_scope_finish(&visitors, 0);
}

/* The server is told to stop, at some time, once or twice. @front: of the one that there is then; NULL: none */
static UNUSED int stop_by_lot(struct front *(*front)(void))
{
	int r;

	r = ew_sleep((int64_t)ew_sim_random(12 * EW_SECOND));
	if (r == 0 && front())
		front_stop(front());
	if (r == 0 && ew_sim_random(2))
		r = ew_sleep((int64_t)ew_sim_random(6 * EW_SECOND));
	if (r == 0 && front() && ew_sim_random(2))
		front_stop(front());
	return r;
}

static UNUSED bool says(const struct exchange *exchange, const char *word)
{
	return strstr(exchange->body, word) != NULL;
}
