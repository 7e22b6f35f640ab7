/* SPDX-License-Identifier: Apache-2.0 */
/* What a client would rather have: by name, and by weight. */
#include "../ew_test.h"

#include <string.h>

#include "gateway/accept.h"

#define TYPE "text/event-stream"

static struct http_header header(const char *name, const char *value)
{
	return (struct http_header){ { name, strlen(name) }, { value, strlen(value) } };
}

static bool prefers(const char *value)
{
	struct http_head head = { .headers_count = 2 };

	head.headers[0] = header("Host", TYPE);
	head.headers[1] = header("accept", value);
	return accept_prefers(&head, TYPE);
}

TEST(gateway_accept_takes_what_is_named)
{
	EXPECT(prefers(TYPE));
	EXPECT(prefers("Text/Event-Stream"));
	EXPECT(prefers(" text/html , " TYPE " ;charset=utf-8"));
	EXPECT(prefers("application/json, " TYPE));
	EXPECT(prefers(TYPE ", */*"));
	EXPECT(prefers("text/plain;a=\"x,y;q=0\\\"\"," TYPE));
	EXPECT(prefers(",, " TYPE ",;q=1"));
}

TEST(gateway_accept_takes_nothing_that_is_not_named)
{
	EXPECT(!prefers(""));
	EXPECT(!prefers("*/*"));
	EXPECT(!prefers("text/*"));
	EXPECT(!prefers("application/json"));
	EXPECT(!prefers(TYPE "s"));
	EXPECT(!prefers("text/plain;a=\"," TYPE ",\""));
}

TEST(gateway_accept_takes_nothing_of_weight_0)
{
	EXPECT(!prefers(TYPE ";q=0"));
	EXPECT(!prefers(TYPE "; Q=0.000"));
	EXPECT(!prefers(TYPE ";charset=utf-8;q=0., */*;q=0"));
	EXPECT(prefers(TYPE ";q=0.001"));
}

TEST(gateway_accept_takes_the_heaviest)
{
	EXPECT(!prefers(TYPE ";q=0.5, application/json"));
	EXPECT(!prefers("application/json;q=0.51," TYPE ";q=0.5"));
	EXPECT(!prefers(TYPE ";q=0.9, */*"));
	EXPECT(prefers(TYPE ";q=0.5, application/json;q=0.499"));
	EXPECT(prefers(TYPE ";q=1.000, */*;q=0.1"));
	EXPECT(prefers(TYPE ";q=0.5, application/json;q=0.5"));
}

TEST(gateway_accept_passes_over_a_weight_that_is_none)
{
	static const char *const weights[] = { "",	"x",   "2",    "1.001", "0.1234",
					       "-0.1",	"00",  ".5",   "0.5x",	"1e-1",
					       "0.0.1", "1.1", "\"1\"" };
	char value[64];

	for (size_t i = 0; i < sizeof(weights) / sizeof(weights[0]); i++) {
		snprintf(value, sizeof(value), TYPE ";q=%s", weights[i]);
		EXPECT(!prefers(value));
		snprintf(value, sizeof(value), TYPE ";q=0.1, a/b;q=%s", weights[i]);
		EXPECT(prefers(value));
	}
}

TEST(gateway_accept_may_be_in_several_fields)
{
	struct http_head head = { .headers_count = 2 };

	head.headers[0] = header("Accept", "application/json;q=0.2");
	head.headers[1] = header("Accept", TYPE ";q=0.4");
	EXPECT(accept_prefers(&head, TYPE));
	head.headers[0] = header("Accept", "application/json");
	EXPECT(!accept_prefers(&head, TYPE));
	head.headers_count = 0;
	EXPECT(!accept_prefers(&head, TYPE));
}

TEST_MAIN()
