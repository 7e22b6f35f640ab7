/* SPDX-License-Identifier: Apache-2.0 */
/* Answers as clients see them, and log lines that no name can forge. */
#include "../ew_test.h"

#include <jansson.h>

#include "common/log.h"
#include "ingest/answer.h"

static json_t *parse(const struct answer *answer)
{
	json_t *json = json_loadb(answer->body, answer->body_bytes, 0, NULL);

	EXPECT(json != NULL);
	return json;
}

static const char *text(json_t *json, const char *key)
{
	const char *value = json_string_value(json_object_get(json, key));

	EXPECT(value != NULL);
	return value;
}

TEST(answer_problems_are_rfc_9457_and_name_a_remedy)
{
	for (int problem = 0; problem < PROBLEM_COUNT; problem++) {
		struct answer answer;
		json_t *json;

		answer_problem(&answer, (enum problem)problem, "What happened.", NULL);
		EXPECT_EQ(answer.status, problem_status((enum problem)problem));
		EXPECT(answer.status >= 400 && answer.status < 600);
		EXPECT_STR(answer.content_type, "application/problem+json");

		json = parse(&answer);
		EXPECT(strncmp(text(json, "type"), "urn:endwell:problem:", 20) == 0);
		EXPECT_EQ(json_integer_value(json_object_get(json, "status")), answer.status);
		EXPECT(strlen(text(json, "title")) > 10);
		EXPECT(strncmp(text(json, "detail"), "What happened. ", 15) == 0);
		EXPECT(strlen(text(json, "detail")) > 30);
		json_decref(json);
		answer_deinit(&answer);
	}
}

TEST(answer_problem_types_are_different)
{
	for (int a = 0; a < PROBLEM_COUNT; a++) {
		for (int b = 0; b < a; b++) {
			struct answer one, other;

			answer_problem(&one, (enum problem)a, NULL, NULL);
			answer_problem(&other, (enum problem)b, NULL, NULL);
			EXPECT(memcmp(one.body, other.body, 60) != 0);
			answer_deinit(&one);
			answer_deinit(&other);
		}
	}
}

TEST(answer_published_says_all)
{
	struct upload upload = {
		.story = { .id = "00112233445566778899aabbccddeeff" },
		.name = "a \"quoted\" name",
		.size_bytes = 5000000000,
		.verdict = { .kind = VERDICT_CLEAN, .engine = "ClamAV 1" },
	};
	struct answer answer;
	json_t *json;

	answer_published(&answer, &upload);
	EXPECT_EQ(answer.status, 201);
	EXPECT_STR(answer.location, "/uploads/00112233445566778899aabbccddeeff");
	json = parse(&answer);
	EXPECT_STR(text(json, "id"), upload.story.id);
	EXPECT_STR(text(json, "name"), upload.name);
	EXPECT_EQ(json_integer_value(json_object_get(json, "size")), 5000000000);
	EXPECT_EQ(strlen(text(json, "sha256")), 64);
	EXPECT_STR(text(json, "verdict"), "clean");
	EXPECT_STR(text(json, "engine"), "ClamAV 1");
	EXPECT(json_object_get(json, "warning") == NULL);
	json_decref(json);
	answer_deinit(&answer);

	upload.verdict.kind = VERDICT_UNSCANNED;
	answer_published(&answer, &upload);
	json = parse(&answer);
	EXPECT_STR(text(json, "verdict"), "unscanned");
	EXPECT(json_object_get(json, "warning") != NULL);
	json_decref(json);
	answer_deinit(&answer);
}

TEST(answer_ready_is_red_when_one_check_is)
{
	struct answer_check checks[] = { { "scanner", true, "ok" }, { "disk", false, "full" } };
	struct answer answer;

	answer_ready(&answer, checks, 1);
	EXPECT_EQ(answer.status, 200);
	answer_deinit(&answer);
	answer_ready(&answer, checks, 2);
	EXPECT_EQ(answer.status, 503);
	EXPECT(memmem(answer.body, answer.body_bytes, "full", 4) != NULL);
	answer_deinit(&answer);
}

TEST(log_lines_cannot_be_forged_by_a_name)
{
	struct log_line line;

	log_begin(&line, "info", "test");
	line.used = 0;
	log_text(&line, "plain", "value");
	log_text(&line, "name", "a\nlevel=error \"x\" \\");
	log_text(&line, "empty", "");
	log_number(&line, "n", -5);
	log_seconds(&line, "s", 1002000000);
	line.text[line.used] = '\0';
	EXPECT_STR(
		line.text,
		"plain=value name=\"a\\x0alevel=error \\\"x\\\" \\\\\" empty=\"\" n=-5 s=1.002000");
}

/* A value that does not fit is cut; the line stays one line. */
TEST(log_line_is_bounded)
{
	static char long_value[3 * LOG_LINE_BYTES];
	struct log_line line;
	int ends[2];
	static char got[LOG_LINE_BYTES + 1];

	memset(long_value, 'x', sizeof(long_value) - 1);
	EXPECT_EQ(pipe(ends), 0);
	EXPECT(dup2(ends[1], STDERR_FILENO) >= 0);
	log_begin(&line, "info", "test");
	log_text(&line, "value", long_value);
	log_number(&line, "more", 1);
	log_end(&line);
	EXPECT_EQ(read(ends[0], got, sizeof(got)), LOG_LINE_BYTES);
	EXPECT_EQ(got[LOG_LINE_BYTES - 1], '\n');
}

/*
 * Nobody reads the pipe: lines are dropped and counted, and the writer of the line goes on at once.
 */
TEST(log_does_not_wait_for_its_reader)
{
	struct timespec now;
	int ends[2];

	EXPECT_EQ(pipe(ends), 0);
	EXPECT(dup2(ends[1], STDERR_FILENO) >= 0);
	EXPECT_EQ(log_start(), 0);
	for (int i = 0; i < 40000; i++)
		log_note("info", "flood", "line %d of a flood that nobody reads", i);
	EXPECT(log_dropped() > 0);
	clock_gettime(CLOCK_MONOTONIC, &now);
	log_stop((int64_t)now.tv_sec * 1000000000 + now.tv_nsec + 100000000);
}

TEST_MAIN()
