/* SPDX-License-Identifier: Apache-2.0 */

/* Response heads, byte for byte. */

#include "ew_test.h"

#include "response.h"

static const char *format(const struct http_response_head *head)
{
	static char text[512];
	int r = http_response_format(head, text, sizeof(text) - 1);

	EXPECT(r > 0);
	text[r] = 0;
	return text;
}

TEST(http_response_full_head_is_exact)
{
	const struct http_field fields[] = { { "Location", "/uploads/1" },
					     { "Retry-After", "5" },
					     {} };
	const struct http_response_head head = {
		.status = 201,
		.unix_time_s = 784111777,
		.content_type = "application/json",
		.body_bytes = 42,
		.fields = fields,
		.close = true,
	};

	EXPECT_STR(
		format(&head),
		"HTTP/1.1 201 Created\r\nDate: Sun, 06 Nov 1994 08:49:37 GMT\r\n"
		"Content-Type: application/json\r\nContent-Length: 42\r\nLocation: /uploads/1\r\n"
		"Retry-After: 5\r\nConnection: close\r\n\r\n");
}

TEST(http_response_without_body_has_length_only_where_one_could_be)
{
	const struct http_response_head empty = { .status = 200, .unix_time_s = 0 };
	const struct http_response_head no_content = { .status = 204, .unix_time_s = 0 };

	EXPECT_STR(
		format(&empty),
		"HTTP/1.1 200 OK\r\nDate: Thu, 01 Jan 1970 00:00:00 GMT\r\nContent-Length: 0\r\n\r\n");
	EXPECT_STR(format(&no_content),
		   "HTTP/1.1 204 No Content\r\nDate: Thu, 01 Jan 1970 00:00:00 GMT\r\n\r\n");
}

/* What could be read as a second field, or as a second response, is not written. */
TEST(http_response_field_with_a_line_break_is_refused)
{
	static const struct http_field bad[][2] = {
		{ { "X", "a\r\nSet-Cookie: b" } },
		{ { "X", "a\nb" } },
		{ { "X", "\x7f" } },
		{ { "X Y", "a" } },
		{ { "X:", "a" } },
		{ { "", "a" } },
	};
	char text[512];

	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		const struct http_response_head head = { .status = 200, .fields = bad[i] };

		EXPECT_EQ(http_response_format(&head, text, sizeof(text)), -EINVAL);
	}
	EXPECT_EQ(http_response_format(&(struct http_response_head){ .status = 100 }, text,
				       sizeof(text)),
		  -EINVAL);
}

TEST(http_response_too_small_a_buffer_is_refused_at_every_size)
{
	const struct http_response_head head = { .status = 404,
						 .content_type = "text/plain",
						 .close = true };
	char text[512];
	int len = http_response_format(&head, text, sizeof(text));

	EXPECT(len > 0);
	for (int size = 0; size <= len; size++)
		EXPECT_EQ(http_response_format(&head, text, (size_t)size), -ENOBUFS);
	EXPECT_EQ(http_response_format(&head, text, (size_t)len + 1), len);
}

TEST(http_response_phrases_fall_back_on_the_class)
{
	EXPECT_STR(http_status_phrase(507), "Insufficient Storage");
	EXPECT_STR(http_status_phrase(299), "Success");
	EXPECT_STR(http_status_phrase(418), "Client Error");
	EXPECT_STR(http_status_phrase(599), "Server Error");
}

TEST_MAIN()
