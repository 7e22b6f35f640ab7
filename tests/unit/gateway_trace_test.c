/* SPDX-License-Identifier: Apache-2.0 */
/* Trace context: what is taken over, and what begins a trace of its own. */
#include "../ew_test.h"

#include "gateway/trace.h"

#define GIVEN "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"

static char made[TRACE_BYTES];

static void make(const char *given)
{
	const struct http_slice slice = { given, given ? strlen(given) : 0 };

	trace_make(given ? &slice : NULL, made);
	EXPECT_EQ(strlen(made), TRACE_BYTES - 1);
	EXPECT(!strncmp(made, "00-", 3));
	EXPECT(made[35] == '-' && made[52] == '-');
	EXPECT_EQ(strspn(made, "0123456789abcdef-"), TRACE_BYTES - 1);
}

static bool goes_on(void)
{
	return !strncmp(made, GIVEN, 36) && !strcmp(made + 52, &GIVEN[52]);
}

TEST(gateway_trace_goes_on_with_a_parent_of_its_own)
{
	make(GIVEN);
	EXPECT(goes_on());
	EXPECT(strcmp(made, GIVEN) != 0);
	/* A later version may have more. */
	make("01-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-more");
	EXPECT(goes_on());
}

TEST(gateway_trace_that_is_not_well_formed_is_not_taken_over)
{
	static const char *const given[] = {
		NULL,
		"",
		"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-0",
		(GIVEN "-more"),
		"ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
		"00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01",
		"00-00000000000000000000000000000000-00f067aa0ba902b7-01",
		"00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
		"00_4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
		"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-0x",
	};
	char before[TRACE_BYTES] = "";

	for (size_t i = 0; i < sizeof(given) / sizeof(given[0]); i++) {
		make(given[i]);
		EXPECT(!goes_on());
		EXPECT(strncmp(made, before, 36) != 0);
		strcpy(before, made);
	}
}

TEST_MAIN()
