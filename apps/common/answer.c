/* SPDX-License-Identifier: Apache-2.0 */

#include "answer.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "log.h"

#define TARGET_TEXT_BYTES 300

/* Of an answer's own: Location, Allow, Retry-After, and three of a preflight. */
#define OWN_FIELDS_MAX 6

/* How long a browser may remember what it was told before it asks again. */
#define PREFLIGHT_SECONDS "600"

static const char no_memory[] = "{\"type\":\"urn:endwell:problem:internal\",\"status\":500,"
				"\"title\":\"The server has no memory left\"}";

static void use_text(struct answer *answer, int status, const char *content_type, const char *text)
{
	answer->status = status;
	answer->content_type = content_type;
	answer->body = (char *)text;
	answer->body_bytes = strlen(text);
	answer->borrowed = true;
}

static void use_json(struct answer *answer, int status, const char *content_type, json_t *json)
{
	char *text = json ? json_dumps(json, JSON_INDENT(2)) : NULL;
	size_t bytes;

	*answer = (struct answer){};
	json_decref(json);
	if (!text) {
		use_text(answer, 500, HTTP_PROBLEM_CONTENT_TYPE, no_memory);
		return;
	}

	bytes = strlen(text);
	text[bytes++] = '\n'; /* in the place of the NUL: a body is counted, not terminated */
	answer->status = status;
	answer->content_type = content_type;
	answer->body = text;
	answer->body_bytes = bytes;
}

void answer_json(struct answer *answer, int status, json_t *json)
{
	use_json(answer, status, "application/json", json);
}

json_t *answer_foreign_text(const char *text)
{
	json_t *string = json_string(text);
	char *copy;

	if (string)
		return string;
	copy = strdup(text);
	if (!copy)
		return NULL;
	for (char *at = copy; *at; at++)
		if (*at & 0x80)
			*at = '?';
	string = json_string(copy);
	free(copy);
	return string;
}

void answer_problem_json(struct answer *answer, const struct http_problem *problem, json_t *more)
{
	json_t *json = json_pack("{s:s, s:s, s:i}", "type", problem->type, "title", problem->title,
				 "status", problem->status);

	if (json && problem->detail)
		json_object_set_new(json, "detail", answer_foreign_text(problem->detail));
	if (json && more)
		json_object_update(json, more);
	json_decref(more);
	use_json(answer, problem->status, HTTP_PROBLEM_CONTENT_TYPE, json);
	answer->retry_after_seconds = problem->retry_after_seconds;
}

void answer_ready(struct answer *answer, const struct answer_check *checks, size_t checks_count)
{
	json_t *list = json_array();
	bool ready = true;

	for (size_t i = 0; list && i < checks_count; i++) {
		ready = ready && checks[i].well;
		json_array_append_new(list, json_pack("{s:s, s:b, s:o}", "name", checks[i].name,
						      "ready", checks[i].well, "reason",
						      answer_foreign_text(checks[i].reason)));
	}
	answer_json(answer, ready ? 200 : 503,
		    json_pack("{s:b, s:o}", "ready", ready, "checks", list));
}

void answer_preflight(struct answer *answer, const char *methods)
{
	*answer = (struct answer){ .status = 204, .preflight = methods };
}

void answer_text(struct answer *answer, const char *text)
{
	*answer = (struct answer){};
	use_text(answer, 200, "text/plain; charset=utf-8", text);
}

void answer_metrics(struct answer *answer, char *text, size_t bytes)
{
	*answer = (struct answer){};
	if (!text) {
		use_text(answer, 500, HTTP_PROBLEM_CONTENT_TYPE, no_memory);
		return;
	}
	answer->status = 200;
	answer->content_type = "text/plain; version=0.0.4; charset=utf-8";
	answer->body = text;
	answer->body_bytes = bytes;
}

void answer_log_refusal(const struct http_head *head, int status, const char *id, const char *note)
{
	char target[TARGET_TEXT_BYTES];
	struct log_line line;

	log_begin(&line, "info", "refused");
	log_number(&line, "status", status);
	if (head) {
		snprintf(target, sizeof(target), "%.*s", (int)head->target.len, head->target.data);
		log_text(&line, "target", target);
	}
	if (id)
		log_text(&line, "id", id);
	log_text(&line, "note", note);
	log_end(&line);
}

static void deinit(void *answer)
{
	answer_deinit(answer);
}

static int deinit_close(void *answer)
{
	answer_deinit(answer);
	return 0;
}

int answer_send(struct http_request *request, struct answer *answer)
{
	struct http_field fields[OWN_FIELDS_MAX + ANSWER_FIELDS_MAX + 1];
	char retry_after[16];
	size_t count = 0;

	EW_GUARD(body, answer, .close = deinit_close, .abort = deinit);

	if (answer->location[0])
		fields[count++] = (struct http_field){ "Location", answer->location };
	if (answer->allow)
		fields[count++] = (struct http_field){ "Allow", answer->allow };
	if (answer->retry_after_seconds > 0) {
		snprintf(retry_after, sizeof(retry_after), "%d", answer->retry_after_seconds);
		fields[count++] = (struct http_field){ "Retry-After", retry_after };
	}
	if (answer->preflight) {
		fields[count++] =
			(struct http_field){ "Access-Control-Allow-Methods", answer->preflight };
		fields[count++] = (struct http_field){ "Access-Control-Allow-Headers", "*" };
		fields[count++] =
			(struct http_field){ "Access-Control-Max-Age", PREFLIGHT_SECONDS };
	}
	for (size_t i = 0; answer->fields && answer->fields[i].name; i++) {
		ew_assert(i < ANSWER_FIELDS_MAX);
		fields[count++] = answer->fields[i];
	}
	fields[count] = (struct http_field){};

	return http_respond(request, answer->status, answer->content_type, fields, answer->body,
			    answer->body_bytes);
}

void answer_deinit(struct answer *answer)
{
	if (!answer->borrowed)
		free(answer->body);
	answer->body = NULL;
}
