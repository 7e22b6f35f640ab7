/* SPDX-License-Identifier: Apache-2.0 */
/*
 * File names: what is let through arrives byte by byte, what is not is refused with a reason of its
 * own.
 */
#include "../ew_test.h"

#include "ingest/name.h"

static const char *parse(const char *target, char *ret_name)
{
	return name_from_target(target, strlen(target), "/files/", ret_name);
}

static void expect_name(const char *target, const char *name)
{
	char got[NAME_BYTES_MAX + 1];

	EXPECT_STR(parse(target, got), NULL);
	EXPECT_STR(got, name);
}

/* The buffer stays untouched, and the reason contains @words. */
static void expect_refused(const char *target, const char *words)
{
	char got[NAME_BYTES_MAX + 1] = "untouched";
	const char *reason = parse(target, got);

	EXPECT(reason != NULL);
	if (!strstr(reason, words))
		EXPECT_STR(reason, words);
	EXPECT_STR(got, "untouched");
}

TEST(name_plain_and_escaped_are_kept_as_they_are)
{
	expect_name("/files/photo.png", "photo.png");
	expect_name("/files/a%20b.txt", "a b.txt");
	expect_name("/files/%c3%A4%E2%82%AC%F0%9F%90%88", "\xc3\xa4\xe2\x82\xac\xf0\x9f\x90\x88");
	expect_name("/files/%3Fwhat%23", "?what#");
	expect_name("/files/UPPER", "UPPER");
	expect_name("/files/back\\slash", "back\\slash");
	expect_name("/files/~", "~");
	expect_name("/files/%c2%a0", "\xc2\xa0");
}

TEST(name_is_decoded_exactly_once)
{
	expect_name("/files/%252e%252e%252f", "%2e%2e%2f");
	expect_name("/files/%2500", "%00");
}

TEST(name_that_leads_elsewhere_is_refused)
{
	expect_refused("/files/", "empty");
	expect_refused("/files/.", "dot");
	expect_refused("/files/..", "dot");
	expect_refused("/files/%2e%2e", "dot");
	expect_refused("/files/.hidden", "dot");
	expect_refused("/files/a/b", "slash");
	expect_refused("/files/..%2fpasswd", "dot");
	expect_refused("/files/a%2Fb", "slash");
	expect_refused("/file/a", "path");
	expect_refused("/files", "path");
}

TEST(name_with_control_characters_is_refused)
{
	expect_refused("/files/a%00b", "NUL");
	expect_refused("/files/a%0ab", "control");
	expect_refused("/files/a%7f", "control");
	expect_refused("/files/a%1b[2J", "control");
	expect_refused("/files/a%c2%9b31m", "C1");
	expect_refused("/files/%c2%80", "C1");
}

TEST(name_that_is_not_utf8_is_refused)
{
	expect_refused("/files/%ff", "UTF-8");
	expect_refused("/files/%80", "UTF-8");
	expect_refused("/files/%c0%af", "UTF-8"); /* an overlong slash */
	expect_refused("/files/%e0%80%af", "UTF-8");
	expect_refused("/files/%ed%a0%80", "UTF-8");	/* a surrogate */
	expect_refused("/files/%f4%90%80%80", "UTF-8"); /* beyond U+10FFFF */
	expect_refused("/files/%f8%88%80%80%80", "UTF-8");
	expect_refused("/files/a%e2%82", "UTF-8"); /* cut */
}

TEST(name_with_bad_escapes_query_or_fragment_is_refused)
{
	expect_refused("/files/a%", "incomplete");
	expect_refused("/files/a%4", "incomplete");
	expect_refused("/files/a%4g", "hex");
	expect_refused("/files/a%g4", "hex");
	expect_refused("/files/a?b=c", "query");
	expect_refused("/files/a?", "query");
	expect_refused("/files/a#b", "fragment");
}

TEST(name_of_255_bytes_is_the_longest)
{
	char target[600] = "/files/";

	memset(target + 7, 'n', 255);
	expect_name(target, target + 7);
	memset(target + 7, 'n', 256);
	expect_refused(target, "255");

	/* Escapes count once decoded. */
	target[7] = '\0';
	for (int i = 0; i < 85; i++)
		strcat(target, "%41b");
	strcat(target, "cccccc");
	EXPECT_STR(parse(target, (char[NAME_BYTES_MAX + 1]){ 0 }), NULL);
}

TEST_MAIN()
