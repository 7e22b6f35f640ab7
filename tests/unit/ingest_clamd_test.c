/* SPDX-License-Identifier: Apache-2.0 */
/*
 * clamd's answers. The table holds what a real clamd says; the rest shows that nothing else is ever
 * clean, by cutting and changing the clean answer at every byte.
 */
#include "../ew_test.h"

#include "ingest/clamd.h"

static enum clamd_reply parse(const char *reply, size_t bytes, struct verdict *verdict)
{
	memset(verdict, 0, sizeof(*verdict));
	return clamd_parse_scan(reply, bytes, verdict);
}

#define PARSE(literal, verdict) parse(literal, sizeof(literal), verdict)

TEST(clamd_commands_end_in_nul)
{
	size_t bytes;

	EXPECT_STR(clamd_command(CLAMD_FILDES, &bytes), "zFILDES");
	EXPECT_EQ(bytes, 8);
	EXPECT_STR(clamd_command(CLAMD_VERSION, &bytes), "zVERSION");
	EXPECT_EQ(bytes, 9);
	EXPECT_STR(clamd_command(CLAMD_PING, &bytes), "zPING");
	EXPECT_EQ(bytes, 6);
}

TEST(clamd_scan_answers_are_understood)
{
	struct verdict verdict;

	EXPECT_EQ(PARSE("fd[12]: OK", &verdict), CLAMD_SCANNED);
	EXPECT_EQ(verdict.kind, VERDICT_CLEAN);

	EXPECT_EQ(PARSE("fd[7]: Test.Marker.UNOFFICIAL FOUND", &verdict), CLAMD_SCANNED);
	EXPECT_EQ(verdict.kind, VERDICT_INFECTED);
	EXPECT_STR(verdict.signature, "Test.Marker.UNOFFICIAL");

	EXPECT_EQ(PARSE("fd[7]: Heuristics.Limits.Exceeded.MaxFileSize FOUND", &verdict),
		  CLAMD_SCANNED);
	EXPECT_EQ(verdict.kind, VERDICT_UNSCANNABLE);
	EXPECT_STR(verdict.signature, "Heuristics.Limits.Exceeded.MaxFileSize");

	EXPECT_EQ(PARSE("fd[7]: Heuristics.Encrypted.Zip FOUND", &verdict), CLAMD_SCANNED);
	EXPECT_EQ(verdict.kind, VERDICT_INFECTED);
}

TEST(clamd_errors_are_errors)
{
	struct verdict verdict;

	EXPECT_EQ(PARSE("fd[12]: Not a regular file ERROR", &verdict), CLAMD_ERROR);
	EXPECT_EQ(PARSE("No file descriptor received. ERROR", &verdict), CLAMD_ERROR);
	EXPECT_EQ(PARSE("INSTREAM size limit exceeded. ERROR", &verdict), CLAMD_ERROR);
	EXPECT_EQ(parse("COMMAND READ TIMED OUT\n", 23, &verdict), CLAMD_TIMED_OUT);
	EXPECT_EQ(PARSE("COMMAND READ TIMED OUT", &verdict), CLAMD_TIMED_OUT);
	EXPECT_EQ(PARSE("UNKNOWN COMMAND", &verdict), CLAMD_NONSENSE);
	EXPECT_EQ(PARSE("", &verdict), CLAMD_NONSENSE);
	EXPECT_EQ(parse("", 0, &verdict), CLAMD_NONSENSE);
}

TEST(clamd_answers_of_other_forms_are_nonsense)
{
	static const char *const lines[] = {
		"OK",
		"fd: OK",
		"fd[]: OK",
		"fd[x]: OK",
		"fd[12]:OK",
		"fd[12]: OK ",
		" fd[12]: OK",
		"fd[12]: ok",
		"fd[12]: OK OK",
		"fd[12]: FOUND",
		"fd[12]:  FOUND",
		"fd[12]: two words FOUND",
		"fd[12345678901]: OK",
		"/path: OK",
		"fd[12]: OK\tFOUND",
		"1: fd[12]: OK",
		"fd[-1]: OK",
		"PONG",
		"stream: OK",
		"fd[12]: fd[12]: OK",
		"fd[12]: \x1b FOUND",
	};
	struct verdict verdict;

	for (size_t i = 0; i < sizeof(lines) / sizeof(lines[0]); i++)
		if (parse(lines[i], strlen(lines[i]) + 1, &verdict) != CLAMD_NONSENSE)
			EXPECT_STR(lines[i], "nonsense");

	EXPECT_EQ(parse("fd[12]: OK\n", 11, &verdict), CLAMD_NONSENSE);
	EXPECT_EQ(parse("fd[12]: OK\0fd[13]: OK", 22, &verdict), CLAMD_NONSENSE);
	EXPECT_EQ(parse("fd[12]: OK\0", 12, &verdict), CLAMD_NONSENSE);
}

/* Only the whole answer is clean: no prefix of it, and no version of it with one byte changed. */
TEST(clamd_clean_is_only_the_whole_clean_answer)
{
	static const char clean[] = "fd[12]: OK";
	struct verdict verdict;

	for (size_t bytes = 0; bytes < sizeof(clean); bytes++)
		EXPECT(parse(clean, bytes, &verdict) != CLAMD_SCANNED);

	for (size_t at = 0; at < sizeof(clean); at++) {
		for (int byte = 0; byte < 256; byte++) {
			char changed[sizeof(clean)];
			bool digit = (at == 3 || at == 4) && byte >= '0' && byte <= '9';

			memcpy(changed, clean, sizeof(clean));
			changed[at] = (char)byte;
			if (byte == (unsigned char)clean[at] || digit)
				continue;
			EXPECT(parse(changed, sizeof(changed), &verdict) != CLAMD_SCANNED);
		}
	}
}

TEST(clamd_too_long_an_answer_is_nonsense)
{
	char reply[CLAMD_REPLY_BYTES_MAX + 1] = "fd[1]: ";
	struct verdict verdict;

	memset(reply + 7, 'n', sizeof(reply) - 7);
	memcpy(reply + 200, " FOUND", 7);
	EXPECT_EQ(parse(reply, 207, &verdict), CLAMD_NONSENSE); /* a name that does not fit */
	EXPECT_EQ(parse(reply, sizeof(reply), &verdict), CLAMD_NONSENSE);
}

TEST(clamd_version_and_ping)
{
	static const char version[] = "ClamAV 1.4.6/27000/Sun Nov 22 08:00:00 2026";
	char engine[VERDICT_TEXT_BYTES] = "untouched";

	EXPECT_EQ(clamd_parse_version("PONG", 5, engine), CLAMD_NONSENSE);
	EXPECT_EQ(clamd_parse_version("ClamAV ", 8, engine), CLAMD_NONSENSE);
	EXPECT_EQ(clamd_parse_version(version, sizeof(version) - 1, engine), CLAMD_NONSENSE);
	EXPECT_STR(engine, "untouched");
	EXPECT_EQ(clamd_parse_version(version, sizeof(version), engine), CLAMD_SCANNED);
	EXPECT_STR(engine, version);

	EXPECT_EQ(clamd_parse_ping("PONG", 5), CLAMD_PONG);
	EXPECT_EQ(clamd_parse_ping("PONG", 4), CLAMD_NONSENSE);
	EXPECT_EQ(clamd_parse_ping("pong", 5), CLAMD_NONSENSE);
}

TEST_MAIN()
