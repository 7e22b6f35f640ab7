/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * http/problem.h - errors as RFC 9457 problem details
 */

#include <stddef.h>

#define HTTP_PROBLEM_CONTENT_TYPE "application/problem+json"

/**
 * struct http_problem - why a request failed, for programs and for people
 * @status:              400 to 599
 * @type:                a URI that identifies the kind of problem and never changes
 * @title:               what it is, the same words each time
 * @detail:              what happened this time, and the remedy; NULL for nothing more
 * @retry_after_seconds: when it is worth trying again; 0 for no such advice
 */
struct http_problem {
	int status;
	const char *type;
	const char *title;
	const char *detail;
	int retry_after_seconds;
};

/**
 * http_problem_format() - the JSON text of a problem
 *
 * Return:  heap memory, *@ret_len bytes, for free(); NULL without memory, or if a text is not UTF-8.
 */
char *http_problem_format(const struct http_problem *problem, size_t *ret_len);

/**
 * http_problem_for_status() - the problem that the HTTP layer itself has with a request
 * @status: one that the parser or the session answers with; any other is taken for 500
 * @reason: this time's sentence, becomes the detail and is borrowed
 */
struct http_problem http_problem_for_status(int status, const char *reason);
