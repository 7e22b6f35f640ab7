/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What a worker says is bytes of any kind, and an event is lines of text. So each event has JSON, in which the bytes are a
 * string if they are text, and base64 if not.
 *
 * Nobody waits for a slow client: the window goes on without it, and when something has left it that the client has not had,
 * it is told so and its stream ends. Progress is left out before that.
 */
#include "events.h"

#include <errno.h>
#include <openssl/evp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <endwell/clock.h>
#include <endwell/task.h>

#include "common/log.h"
#include "common/text.h"

#include "accept.h"
#include "routes.h"

#define CONTENT_TYPE	   "text/event-stream"
#define LAST_WORD_BUDGET   EW_SECOND
#define EVENT_FRAME_BYTES  64 /* id and name of an event, with their words */
#define EVENT_ID_BYTES_MAX 20

static const char *const names[] = {
	[EVENT_PROGRESS] = "progress", [EVENT_DATA] = "data",	[EVENT_RESTART] = "restart",
	[EVENT_RESULT] = "result",     [EVENT_ERROR] = "error",
};

bool events_wanted(const struct http_request *request)
{
	return accept_prefers(request->head, CONTENT_TYPE);
}

/* ---- from the worker ---- */

static json_t *base64(const char *body, size_t bytes)
{
	char *text = malloc((bytes + 2) / 3 * 4 + 1);
	json_t *json = NULL;

	if (!text)
		return NULL;
	EVP_EncodeBlock((unsigned char *)text, (const unsigned char *)body, (int)bytes);
	json = json_string(text);
	free(text);
	return json;
}

/* NULL: there was no memory for all of it. A text for which there was none may come as base64. */
static json_t *content(const struct ew_amqp_message *message)
{
	const char *body = message->body_bytes > 0 ? message->body : "";
	json_t *json = json_object(), *text = json_stringn(body, message->body_bytes);
	int r = 0;

	if (message->content_type)
		r = json_object_set_new(json, "content_type",
					answer_foreign_text(message->content_type));
	if (text)
		r |= json_object_set_new(json, "text", text);
	else
		r |= json_object_set_new(json, "base64", base64(body, message->body_bytes));
	if (r == 0)
		return json;
	json_decref(json);
	return NULL;
}

void events_fail(const struct operation *operation, enum problem problem, const char *detail)
{
	struct stream *stream = operation->record->stream;
	struct answer answer;

	if (!stream || stream->ended)
		return;
	answer_problem(&answer, problem, *detail ? detail : NULL, operation->id);
	stream_push(stream, EVENT_ERROR, operation->attempt, answer.body, answer.body_bytes);
	answer_deinit(&answer);
}

/* The client's word alone would not reach whoever runs the gateway. */
static void fail_reply(const struct operation *operation, const char *fault)
{
	log_note("warn", "bad-reply", "%s: %s", operation->id, fault);
	events_fail(operation, PROBLEM_REPLY, fault);
}

void events_fail_reply(const struct operation *operation, const char *what)
{
	char fault[REPLY_FAULT_BYTES];

	if (!operation->record->stream || operation->record->stream->ended)
		return;
	answer_reply_fault(fault, operation->route, "%s", what);
	fail_reply(operation, fault);
}

static void push_json(const struct operation *operation, enum event_kind kind, json_t *json)
{
	char *text = json ? json_dumps(json, JSON_COMPACT) : NULL;

	json_decref(json);
	if (text)
		stream_push(operation->record->stream, kind, operation->attempt, text,
			    strlen(text));
	else
		events_fail(operation, PROBLEM_UNKNOWN,
			    "The gateway had no memory for what the worker has said.");
	free(text);
}

void events_add(const struct operation *operation, enum event_kind kind,
		const struct ew_amqp_delivery *delivery)
{
	if (!operation->record->stream)
		return;
	if (delivery->too_large)
		events_fail_reply(operation,
				  "a part is larger than the largest body_max of all routes.");
	else
		push_json(operation, kind, content(&delivery->message));
}

static void end_with_result(const struct operation *operation)
{
	char fault[REPLY_FAULT_BYTES];
	json_t *json;
	int status;

	if (!answer_reply_check(operation->route, operation->result, &status, fault)) {
		fail_reply(operation, fault);
		return;
	}
	json = content(&operation->result->message);
	if (json_object_set_new(json, "status", json_integer(status)) < 0) {
		json_decref(json);
		json = NULL;
	}
	push_json(operation, EVENT_RESULT, json);
}

void events_end(const struct operation *operation)
{
	const struct stream *stream = operation->record->stream;

	if (!stream || stream->ended)
		return;
	if (operation->result)
		end_with_result(operation);
	else
		events_fail(operation, answer_problem_of(operation->outcome), "");
}

/* ---- to the client ---- */

/* One event with its lines; a line break in its text makes two of them, which the client puts together again. */
static int print_event(struct events_writer *writer, uint64_t id, enum event_kind kind,
		       const char *text, size_t text_bytes, size_t *ret_bytes)
{
	struct text whole;
	size_t line;
	FILE *file;

	if (!text_begin(&whole))
		return -ENOMEM;
	file = whole.file;
	if (id > 0)
		fprintf(file, "id: %llu\n", (unsigned long long)id);
	fprintf(file, "event: %s\n", names[kind]);
	while (text_bytes > 0) {
		const char *end = memchr(text, '\n', text_bytes);

		line = end ? (size_t)(end - text) : text_bytes;
		fprintf(file, "data: ");
		fwrite(text, 1, line, file);
		fputc('\n', file);
		line += end != NULL;
		text += line;
		text_bytes -= line;
	}
	fputc('\n', file);
	writer->text = text_end(&whole, ret_bytes);
	return writer->text ? 0 : -ENOMEM;
}

static int say(struct events_writer *writer, uint64_t id, enum event_kind kind, const char *text,
	       size_t text_bytes)
{
	size_t bytes = 0;
	int r;

	r = print_event(writer, id, kind, text, text_bytes, &bytes);
	if (r == 0)
		r = http_respond_piece(writer->request, writer->text, bytes);
	free(writer->text);
	writer->text = NULL;
	return r;
}

/* A problem of this client's reading, not of the operation: no event of it, and so without an id. */
static int say_problem(struct events_writer *writer, enum problem problem)
{
	struct answer answer;
	int r;

	answer_problem(&answer, problem, NULL, writer->record->id);
	r = say(writer, 0, EVENT_ERROR, answer.body, answer.body_bytes);
	answer_deinit(&answer);
	return r;
}

/* 1: that was the last one. */
static int say_next(struct events_writer *writer)
{
	const struct stream_event *event = stream_next(writer->record->stream, writer->reader.seen);
	enum event_kind kind;
	int r;

	if (writer->reader.seen < writer->record->stream->lost_id) {
		r = say_problem(writer, PROBLEM_SLOW);
		return r < 0 ? r : 1;
	}
	if (!event)
		return writer->record->stream->ended ? 1 : 0;
	/* It may leave the window while it is on its way. */
	kind = event->kind;
	writer->reader.seen = event->id;
	r = say(writer, event->id, kind, event->text, event->bytes);
	if (r < 0)
		return r;
	return kind == EVENT_RESULT || kind == EVENT_ERROR;
}

static int await_news(struct events_writer *writer)
{
	static const char comment[] = ": keep-alive\n\n";
	int64_t interval_ns = writer->record->route->config->events_keep_alive_ns;
	int r;

	if (stream_next(writer->record->stream, writer->reader.seen))
		return 0;
	ew_event_reset(&writer->reader.news);
	r = ew_event_wait(&writer->reader.news, ew_after(interval_ns));
	if (r != -ETIMEDOUT)
		return r;
	return http_respond_piece(writer->request, comment, sizeof(comment) - 1);
}

static void writer_abort(void *argument)
{
	struct events_writer *writer = argument;

	stream_leave(&writer->reader);
	free(writer->text);
}

static int writer_close(void *argument)
{
	writer_abort(argument);
	return 0;
}

static int write_all(struct events_writer *writer)
{
	int r;

	stream_enter(writer->record->stream, &writer->reader);

	EW_GUARD(leave, writer, .close = writer_close, .abort = writer_abort);

	while ((r = say_next(writer)) == 0) {
		r = await_news(writer);
		if (r < 0)
			return r;
	}
	return r < 0 ? r : http_respond_end(writer->request);
}

static int say_shutdown(struct events_writer *writer)
{
	int r;

	EW_SHIELD(shield, .budget_ns = LAST_WORD_BUDGET);

	r = say_problem(writer, PROBLEM_DRAINING);
	return r < 0 ? r : http_respond_end(writer->request);
}

int events_write(void *argument)
{
	struct events_writer *writer = argument;
	int r;

	r = write_all(writer);
	if (r == -ECANCELED && ew_cancel_reason() == EW_REASON_SHUTDOWN)
		(void)say_shutdown(writer);
	if (writer->cancels && !ew_event_is_set(&writer->record->ended))
		record_cancel(writer->record);
	return r;
}

int events_begin(struct events_writer *writer, struct gateway *gateway)
{
	const struct http_field fields[] = { { "X-Operation-Id", writer->record->id },
					     { "Cache-Control", "no-store" },
					     {} };
	int r;

	r = http_respond_begin(writer->request, 200, CONTENT_TYPE, fields);
	if (r == 0)
		atomic_fetch_add(&gateway->answers[2], 1);
	return r;
}

/* False: it is no number that an event of the stream has, or 0. */
static bool read_last_id(const struct http_request *request, const struct stream *stream,
			 uint64_t *ret_id)
{
	const struct http_slice *field = http_head_find(request->head, "Last-Event-ID");
	char text[EVENT_ID_BYTES_MAX + 1];

	*ret_id = 0;
	if (!field)
		return true;
	if (field->len == 0 || field->len >= sizeof(text))
		return false;
	memcpy(text, field->data, field->len);
	text[field->len] = '\0';
	if (strspn(text, "0123456789") != field->len)
		return false;
	*ret_id = strtoull(text, NULL, 10);
	return *ret_id <= stream->last_id;
}

static int say_gone(struct gateway *gateway, struct http_request *request,
		    const struct record *record)
{
	char detail[96];

	snprintf(detail, sizeof(detail), "The events up to number %llu are not kept any more.",
		 (unsigned long long)record->stream->lost_id);
	return routes_problem(gateway, request, PROBLEM_GONE, detail, record->id, 0);
}

int events_get(struct gateway *gateway, struct http_request *request, struct record *record)
{
	struct events_writer writer = { .request = request, .record = record };
	int r;

	if (!record->stream)
		return routes_problem(gateway, request, PROBLEM_NOT_FOUND,
				      "This operation was not started with Accept: " CONTENT_TYPE
				      ", or still waits for a permit.",
				      record->id, 0);
	if (!read_last_id(request, record->stream, &writer.reader.seen))
		return routes_problem(gateway, request, PROBLEM_EVENT_ID, NULL, record->id, 0);
	if (writer.reader.seen < record->stream->lost_id)
		return say_gone(gateway, request, record);
	r = events_begin(&writer, gateway);
	if (r < 0)
		return r;
	/* It is not worth waiting for what is not said. */
	if (request->head->method == HTTP_METHOD_HEAD)
		return http_respond_end(request);
	return events_write(&writer);
}
