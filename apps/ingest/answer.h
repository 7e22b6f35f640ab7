/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* What is said to clients: results, stories, readiness, and problems by RFC 9457. */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "story.h"
#include "upload.h"

/*
 * Each has a stable type, `urn:endwell:problem:` and its word, and a remedy; see the table in
 * answer.c.
 */
enum problem {
	PROBLEM_NAME,
	PROBLEM_ORIGIN,
	PROBLEM_NOT_FOUND,
	PROBLEM_METHOD,
	PROBLEM_TAKEN,
	PROBLEM_LENGTH_REQUIRED,
	PROBLEM_TOO_LARGE,
	PROBLEM_ENCODING,
	PROBLEM_HOST,
	PROBLEM_INFECTED,
	PROBLEM_UNSCANNABLE,
	PROBLEM_INTERNAL,
	PROBLEM_DURABILITY,
	PROBLEM_STORAGE,
	PROBLEM_SCANNER,
	PROBLEM_BUSY,
	PROBLEM_DRAINING,
	PROBLEM_NO_SPACE,
	PROBLEM_COUNT,
};

struct answer {
	int status;
	const char *content_type;
	const char *allow;	 /* NULL: no such header */
	int retry_after_seconds; /* 0: no such header */
	char location[16 + STORY_ID_TEXT];
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

/* What a problem always says. */
int problem_status(enum problem problem);
const char *problem_title(enum problem problem);

/**
 * answer_problem() - application/problem+json
 * @problem: which
 * @detail:  what happened this time, as a sentence; NULL when the title says it all
 * @id:      of the upload it is about, NULL if there is none
 *
 * All functions of this header fill in a whole answer whatever happens; without memory it is a 500
 * with a fixed text.
 */
void answer_problem(struct answer *answer, enum problem problem, const char *detail,
		    const char *id);

/* 201 for a published upload. */
void answer_published(struct answer *answer, const struct upload *upload);

/* 200 with state and story. */
void answer_story(struct answer *answer, const struct story *story);

/* 200 when every check is well, else 503 with the reasons. */
void answer_ready(struct answer *answer, const struct answer_check *checks, size_t checks_count);

/* 200 with text that is the caller's and lives as long as the program. */
void answer_text(struct answer *answer, const char *text);

/* 200 with text from metrics_print(), which is taken; NULL is a 500. */
void answer_metrics(struct answer *answer, char *text, size_t bytes);

/* Frees what the answer holds; tolerates one that was never filled in. */
void answer_deinit(struct answer *answer);
