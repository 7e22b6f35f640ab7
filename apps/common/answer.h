/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * What a server says to its clients, made before it is sent: without memory each of these is a whole answer all the same,
 * a 500 with a fixed text.
 */

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>

#include "http/session.h"

#define ANSWER_LOCATION_BYTES 64

/* What answer_send() has room for beside an answer's own. */
#define ANSWER_FIELDS_MAX 3

struct answer {
	int status;
	const char *content_type;
	const char *allow;	 /* NULL: no such header */
	const char *preflight;	 /* methods that a page may use; NULL: that was not asked */
	int retry_after_seconds; /* 0: no such header */
	const struct http_field
		*fields; /* further ones, ending with a NULL name; borrowed; NULL: none */
	char location[ANSWER_LOCATION_BYTES];
	char *body; /* heap memory, or not (see @borrowed) */
	size_t body_bytes;
	bool borrowed;
};

/* One thing that must be well for /readyz to be green. */
struct answer_check {
	const char *name;
	bool well;
	const char *reason;
};

/* JSON; takes @json, which may be NULL: there was no memory for it. */
void answer_json(struct answer *answer, int status, json_t *json);

/**
 * answer_problem_json() - application/problem+json (RFC 9457)
 * @problem: its texts need not be UTF-8
 * @more:    further members; taken; NULL for none
 */
void answer_problem_json(struct answer *answer, const struct http_problem *problem, json_t *more);

/* What others worded need not be UTF-8, a path above all; JSON is, so it is shown with question marks. NULL without memory. */
json_t *answer_foreign_text(const char *text);

/* 200 when every check is well, else 503 with the reasons. */
void answer_ready(struct answer *answer, const struct answer_check *checks, size_t checks_count);

/* 204 to a browser that has asked what its page may: these methods of the path, with any header fields. */
void answer_preflight(struct answer *answer, const char *methods);

/* 200 with text that is the caller's and lives as long as the program. */
void answer_text(struct answer *answer, const char *text);

/* 200 with a page of metrics from the heap, which is taken; NULL is a 500. */
void answer_metrics(struct answer *answer, char *text, size_t bytes);

/* The log's line about a request that is refused. @head: NULL: it could not be read. @id: NULL: it has none */
void answer_log_refusal(const struct http_head *head, int status, const char *id, const char *note);

/* Sends it, and frees what it holds. As http_respond() */
EW_SUSPENDS int answer_send(struct http_request *request, struct answer *answer);

/* Frees what the answer holds; tolerates one that was never filled in. */
void answer_deinit(struct answer *answer);
