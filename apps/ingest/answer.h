/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* What is said to clients about uploads: results, stories, and problems by RFC 9457. */

#include "common/answer.h"

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

/* What a problem always says. */
int problem_status(enum problem problem);
const char *problem_title(enum problem problem);

/**
 * answer_problem() - application/problem+json
 * @problem: which
 * @detail:  what happened this time, as a sentence; NULL when the title says it all
 * @id:      of the upload it is about, NULL if there is none
 */
void answer_problem(struct answer *answer, enum problem problem, const char *detail,
		    const char *id);

/* 201 for a published upload. */
void answer_published(struct answer *answer, const struct upload *upload);

/* 200 with state and story. */
void answer_story(struct answer *answer, const struct story *story);
