/* SPDX-License-Identifier: Apache-2.0 */

/* A text of stdio's, with and without memory */

#include "core.h"

#include "common/text.h"

#include <endwell/testing.h>

#define LINES	   10000
#define LINE_BYTES 10

static int write_lines(void *argument)
{
	unsigned *whole = argument;
	char *lines, last[LINE_BYTES + 1];
	struct text text;
	size_t bytes;

	if (!text_begin(&text))
		return -ENOMEM;
	for (unsigned i = 0; i < LINES; i++)
		fprintf(text.file, "line %04u\n", i);
	lines = text_end(&text, &bytes);
	if (!lines)
		return -ENOMEM;
	EXPECT_EQ(bytes, LINES * LINE_BYTES);
	EXPECT_EQ(strlen(lines), bytes);
	snprintf(last, sizeof(last), "line %04u\n", LINES - 1);
	EXPECT_STR(lines + bytes - LINE_BYTES, last);
	free(lines);
	(*whole)++;
	return 0;
}

TEST(text_of_many_lines_is_whole)
{
	unsigned whole = 0;

	EXPECT_EQ(write_lines(&whole), 0);
	EXPECT_EQ(whole, 1);
}

TEST(text_without_memory_for_all_of_it_is_not_there)
{
	const struct ew_sweep_options options = { .modes = 1U << EW_SWEEP_MEMORY_ONCE |
							   1U << EW_SWEEP_MEMORY_GONE };
	struct ew_sweep_result result;
	unsigned whole = 0;

	result = ew_sweep(&options, write_lines, &whole);
	EXPECT(!result.failed);
	/* Undisturbed, and perhaps without stdio's buffer. */
	EXPECT(whole == 2 || whole == 3);
	EXPECT(result.allocations == 0 || result.allocations > 4);
}

TEST_MAIN()
