/* SPDX-License-Identifier: Apache-2.0 */
/* The window of an operation's events: what it keeps, and what it says is missing. */
#include "../ew_test.h"

#include "gateway/stream.h"

static void push(struct stream *stream, enum event_kind kind, unsigned int attempt,
		 const char *text)
{
	stream_push(stream, kind, attempt, text, strlen(text));
}

/* All events behind @seen, as "ID kind text;" */
static const char *all(const struct stream *stream, uint64_t seen)
{
	static const char kinds[] = "pdxre"; /* progress, data, restart (x), result, error */
	static char text[4096];
	const struct stream_event *event;
	size_t length = 0;

	text[0] = '\0';
	while ((event = stream_next(stream, seen))) {
		length += (size_t)snprintf(text + length, sizeof(text) - length, "%d%c%.*s;",
					   (int)event->id, kinds[event->kind], (int)event->bytes,
					   event->text);
		seen = event->id;
	}
	return text;
}

TEST(gateway_stream_keeps_parts_and_the_newest_progress)
{
	struct stream *stream = stream_new(10000);

	push(stream, EVENT_PROGRESS, 1, "10");
	push(stream, EVENT_DATA, 1, "a");
	push(stream, EVENT_PROGRESS, 1, "20");
	push(stream, EVENT_DATA, 1, "b");
	EXPECT_STR(all(stream, 0), "2da;3p20;4db;");
	push(stream, EVENT_PROGRESS, 1, "30");
	EXPECT_STR(all(stream, 2), "4db;5p30;");
	EXPECT_EQ(stream->lost_id, 0);
	push(stream, EVENT_RESULT, 1, "end");
	EXPECT(stream->ended);
	push(stream, EVENT_DATA, 1, "late");
	push(stream, EVENT_ERROR, 1, "late");
	EXPECT_STR(all(stream, 0), "2da;4db;5p30;6rend;");
	EXPECT_STR(all(stream, 6), "");
	stream_free(stream);
	stream_free(NULL);
}

TEST(gateway_stream_is_bounded_by_bytes_and_says_what_is_lost)
{
	struct stream *stream = stream_new(2 * sizeof(struct stream_event) + 10);
	char large[100] = "";

	push(stream, EVENT_DATA, 1, "aaaaa");
	push(stream, EVENT_DATA, 1, "bbbbb");
	EXPECT_EQ(stream->lost_id, 0);
	push(stream, EVENT_DATA, 1, "c");
	EXPECT_STR(all(stream, 0), "2dbbbbb;3dc;");
	EXPECT_EQ(stream->lost_id, 1);
	memset(large, 'd', sizeof(large) - 1);
	push(stream, EVENT_DATA, 1, large);
	EXPECT_EQ(stream->lost_id, 3);
	EXPECT_EQ(stream->bytes, sizeof(struct stream_event) + 99);
	/* The last one is always there, and drives nothing out. */
	push(stream, EVENT_RESULT, 1, large);
	EXPECT_EQ(stream->lost_id, 3);
	EXPECT_EQ(stream->bytes, 2 * (sizeof(struct stream_event) + 99));
	stream_free(stream);
}

TEST(gateway_stream_is_bounded_by_number_and_progress_is_not_missed)
{
	struct stream *stream = stream_new(SIZE_MAX);

	push(stream, EVENT_PROGRESS, 1, "p");
	for (int i = 0; i < STREAM_EVENTS_MAX; i++)
		push(stream, EVENT_DATA, 1, "d");
	EXPECT_EQ(stream->lost_id, 0);
	EXPECT_EQ(stream_next(stream, 0)->id, 2);
	push(stream, EVENT_DATA, 1, "d");
	EXPECT_EQ(stream->lost_id, 2);
	EXPECT_EQ(stream_next(stream, 0)->id, 3);
	stream_free(stream);
}

TEST(gateway_stream_of_another_attempt_begins_anew)
{
	struct stream *stream = stream_new(sizeof(struct stream_event) + 1);

	push(stream, EVENT_PROGRESS, 1, "p");
	push(stream, EVENT_DATA, 2, "a"); /* the first attempt had no parts */
	push(stream, EVENT_DATA, 2, "b");
	EXPECT_EQ(stream->lost_id, 2);
	push(stream, EVENT_RESULT, 3, "r");
	/* Who begins now misses nothing: what was lost is void. */
	EXPECT_EQ(stream->lost_id, 0);
	EXPECT_STR(all(stream, 0), "4x{};5rr;");
	EXPECT_STR(all(stream, 2), "4x{};5rr;");
	stream_free(stream);
}

TEST(gateway_stream_tells_all_readers)
{
	struct stream *stream = stream_new(10000);
	struct stream_reader one = {}, two = {};

	stream_enter(stream, &one);
	stream_enter(stream, &two);
	push(stream, EVENT_DATA, 1, "a");
	EXPECT(ew_event_is_set(&one.news));
	EXPECT(ew_event_is_set(&two.news));
	stream_leave(&one);
	ew_event_reset(&one.news);
	ew_event_reset(&two.news);
	push(stream, EVENT_DATA, 1, "b");
	EXPECT(!ew_event_is_set(&one.news));
	EXPECT(ew_event_is_set(&two.news));
	stream_leave(&two);
	stream_free(stream);
}

TEST_MAIN()
