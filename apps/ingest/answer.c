/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Every refusal says what to do about it: the table below pairs each problem with its remedy, and
 * the text that goes out is what happened, then the remedy. The words in `type` are part of the
 * interface and never change.
 */
#include "answer.h"

#include <jansson.h>
#include <stdio.h>
#include <string.h>

#include "common/hex.h"

static const struct {
	const char *word;
	const char *title;
	const char *remedy;
	int status;
} problems[PROBLEM_COUNT] = {
	[PROBLEM_NAME] = {
		.word = "bad-name",
		.title = "This file name is not accepted",
		.remedy = "Use one path segment of 1 to 255 bytes of UTF-8 without control "
			  "characters and without a leading dot, percent-encoded once.",
		.status = 400,
	},
	[PROBLEM_ORIGIN] = {
		.word = "foreign-origin",
		.title = "Requests from this web page are not accepted",
		.remedy = "If the page is yours, start the server with --origin and its origin.",
		.status = 403,
	},
	[PROBLEM_NOT_FOUND] = {
		.word = "not-found",
		.title = "There is nothing here",
		.remedy = "Upload with PUT /files/NAME; an upload's state is at /uploads/ID as "
			  "long as the server remembers it.",
		.status = 404,
	},
	[PROBLEM_METHOD] = {
		.word = "method-not-allowed",
		.title = "This method does not work here",
		.remedy = "The Allow header names the methods that do. Files go in here; they are "
			  "not served.",
		.status = 405,
	},
	[PROBLEM_TAKEN] = {
		.word = "name-taken",
		.title = "A file of this name exists already",
		.remedy = "Files are never overwritten: choose another name.",
		.status = 409,
	},
	[PROBLEM_LENGTH_REQUIRED] = {
		.word = "length-required",
		.title = "The request does not say how its body ends",
		.remedy = "Send Content-Length or Transfer-Encoding: chunked.",
		.status = 411,
	},
	[PROBLEM_TOO_LARGE] = {
		.word = "too-large",
		.title = "The file is larger than this server takes",
		.remedy = "Send a smaller file, or have the limit raised (--size-max, "
			  "--scan-limit).",
		.status = 413,
	},
	[PROBLEM_ENCODING] = {
		.word = "content-encoding",
		.title = "A content encoding is not accepted",
		.remedy = "Send the file's own bytes, without Content-Encoding and without "
			  "Content-Range.",
		.status = 415,
	},
	[PROBLEM_HOST] = {
		.word = "unknown-host",
		.title = "This server does not go by this host name",
		.remedy = "Use the address that the server listens on, or start it with --host "
			  "and the name.",
		.status = 421,
	},
	[PROBLEM_INFECTED] = {
		.word = "infected",
		.title = "The scanner found something in this file",
		.remedy = "The file was deleted. Clean it, or have the signature checked if you "
			  "think it is wrong.",
		.status = 422,
	},
	[PROBLEM_UNSCANNABLE] = {
		.word = "unscannable",
		.title = "The scanner cannot look at all of this file",
		.remedy = "The file was deleted, because what was not scanned is not clean. Send "
			  "a smaller or less deeply packed file, or have the scanner's limits "
			  "raised.",
		.status = 422,
	},
	[PROBLEM_INTERNAL] = {
		.word = "internal",
		.title = "Something went wrong in the server",
		.remedy = "Nothing was stored. Try again; the server's log says more.",
		.status = 500,
	},
	[PROBLEM_DURABILITY] = {
		.word = "durability-unknown",
		.title = "The file has its name, or may have it, but may not survive a power cut",
		.remedy = "Send it again: 409 says that the name is there. A volume that is suspect "
			  "takes no more uploads until its operator has looked.",
		.status = 500,
	},
	[PROBLEM_STORAGE] = {
		.word = "storage",
		.title = "The file could not be stored",
		.remedy = "Nothing was stored. The server's log says more.",
		.status = 500,
	},
	[PROBLEM_SCANNER] = {
		.word = "scanner-unavailable",
		.title = "No scanner is there to look at the file",
		.remedy = "Nothing was stored. Try again later; /readyz says why.",
		.status = 503,
	},
	[PROBLEM_BUSY] = {
		.word = "busy",
		.title = "The server has more uploads than it can take",
		.remedy = "Try again after the time in Retry-After.",
		.status = 503,
	},
	[PROBLEM_DRAINING] = {
		.word = "shutting-down",
		.title = "The server is shutting down",
		.remedy = "Try again when it is back.",
		.status = 503,
	},
	[PROBLEM_NO_SPACE] = {
		.word = "no-space",
		.title = "The disk has no room for this file",
		.remedy = "Nothing was stored. Make room on the bucket's volume.",
		.status = 507,
	},
};

int problem_status(enum problem problem)
{
	return problems[problem].status;
}

const char *problem_title(enum problem problem)
{
	return problems[problem].title;
}

void answer_problem(struct answer *answer, enum problem problem, const char *detail, const char *id)
{
	char type[64], text[768];
	json_t *more = NULL;

	snprintf(type, sizeof(type), "urn:endwell:problem:%s", problems[problem].word);
	snprintf(text, sizeof(text), "%s%s%s", detail ? detail : "", detail ? " " : "",
		 problems[problem].remedy);

	if (id)
		more = json_pack("{s:s, s:o}", "id", id, "instance",
				 json_sprintf("/uploads/%s", id));
	answer_problem_json(answer,
			    &(struct http_problem){ .status = problems[problem].status,
						    .type = type,
						    .title = problems[problem].title,
						    .detail = text },
			    more);
}

void answer_published(struct answer *answer, const struct upload *upload)
{
	const struct verdict *verdict = &upload->verdict;
	char digest[65];
	json_t *json;

	hex_print(upload->sha256, sizeof(upload->sha256), digest);
	json = json_pack("{s:s, s:s, s:I, s:s, s:s, s:o}", "id", upload->story.id, "name",
			 upload->name, "size", (json_int_t)upload->size_bytes, "sha256", digest,
			 "verdict", verdict_name(verdict->kind), "engine",
			 answer_foreign_text(verdict->engine));
	if (json && verdict->kind == VERDICT_UNSCANNED)
		json_object_set_new(
			json, "warning",
			json_string(
				"This server runs without a scanner: nothing looked into this file."));

	answer_json(answer, 201, json);
	snprintf(answer->location, sizeof(answer->location), "/uploads/%s", upload->story.id);
}

static json_t *chapters(const struct story *story)
{
	json_t *list = json_array();

	for (int i = 0; list && i < story->chapters_count; i++) {
		const struct story_chapter *chapter = &story->chapters[i];
		double after = (double)(chapter->entered_ns - story->chapters[0].entered_ns) / 1e9;
		json_t *entry = json_pack("{s:s, s:f}", "state", state_name(chapter->state),
					  "after_seconds", after);

		if (entry && chapter->note[0])
			json_object_set_new(entry, "note", answer_foreign_text(chapter->note));
		json_array_append_new(list, entry);
	}
	return list;
}

void answer_story(struct answer *answer, const struct story *story)
{
	const struct story_chapter *last = &story->chapters[story->chapters_count - 1];
	json_t *json;

	json = json_pack("{s:s, s:s, s:s, s:I}", "id", story->id, "name", story->name, "state",
			 state_name(last->state), "began_unix_ms",
			 (json_int_t)story->began_unix_ms);
	if (json && story->sha256[0]) {
		json_object_set_new(json, "size", json_integer((json_int_t)story->size_bytes));
		json_object_set_new(json, "sha256", json_string(story->sha256));
	}
	if (json && story->has_verdict) {
		json_object_set_new(json, "verdict",
				    json_string(verdict_name(story->verdict.kind)));
		json_object_set_new(json, "engine", answer_foreign_text(story->verdict.engine));
		if (story->verdict.signature[0])
			json_object_set_new(json, "signature",
					    json_string(story->verdict.signature));
	}
	if (json)
		json_object_set_new(json, "story", chapters(story));

	answer_json(answer, 200, json);
}
