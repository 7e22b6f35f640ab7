/* SPDX-License-Identifier: Apache-2.0 */

/*
 * The problems that are found before anybody knows what a request is about. The last word of a type is
 * part of the interface: programs compare it, so it stays when a title is improved.
 */

#include "problem.h"

#include <jansson.h>
#include <string.h>

char *http_problem_format(const struct http_problem *problem, size_t *ret_len)
{
	json_t *json = json_pack("{s:s, s:s, s:i}", "type", problem->type, "title", problem->title,
				 "status", problem->status);
	char *text = NULL;

	if (json && (!problem->detail ||
		     !json_object_set_new(json, "detail", json_string(problem->detail))))
		text = json_dumps(json, JSON_INDENT(2));
	json_decref(json);
	if (text) {
		*ret_len = strlen(text) + 1;
		/* A body is counted, not terminated: a line end in the place of the NUL. */
		text[*ret_len - 1] = '\n';
	}
	return text;
}

struct http_problem http_problem_for_status(int status, const char *reason)
{
	static const struct http_problem problems[] = {
		{ 500, "urn:endwell:problem:internal", "Something went wrong in the server", NULL,
		  0 },
		{ 400, "urn:endwell:problem:malformed-request",
		  "The request is not well-formed HTTP/1.1", NULL, 0 },
		{ 408, "urn:endwell:problem:too-slow", "The request took too long to arrive", NULL,
		  0 },
		{ 413, "urn:endwell:problem:too-large", "The body is larger than this server takes",
		  NULL, 0 },
		{ 414, "urn:endwell:problem:target-too-long", "The request line is too long", NULL,
		  0 },
		{ 417, "urn:endwell:problem:expectation", "This expectation cannot be met", NULL,
		  0 },
		{ 431, "urn:endwell:problem:head-too-large",
		  "The header fields are too many or too long", NULL, 0 },
		{ 501, "urn:endwell:problem:method-unknown", "This method is not implemented", NULL,
		  0 },
		{ 505, "urn:endwell:problem:version", "This version of HTTP is not spoken here",
		  NULL, 0 },
	};
	struct http_problem problem = problems[0];

	for (size_t i = 0; i < sizeof(problems) / sizeof(problems[0]); i++)
		if (problems[i].status == status)
			problem = problems[i];
	problem.detail = reason;
	return problem;
}
