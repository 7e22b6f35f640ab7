/* SPDX-License-Identifier: Apache-2.0 */

#include "stream.h"

#include <stdlib.h>
#include <string.h>

struct stream *stream_new(size_t bytes_max)
{
	struct stream *stream = calloc(1, sizeof(*stream));

	if (!stream)
		return NULL;
	stream->bytes_max = bytes_max;
	stream->end = &stream->oldest;
	return stream;
}

/* Out of the window; what is removed is not missed unless the caller says so. */
static void remove_at(struct stream *stream, struct stream_event **link)
{
	struct stream_event *event = *link;

	*link = event->next;
	if (!*link)
		stream->end = link;
	stream->count--;
	stream->bytes -= sizeof(*event) + event->bytes;
	free(event);
}

void stream_free(struct stream *stream)
{
	if (!stream)
		return;
	ew_assert(!stream->readers);
	while (stream->oldest)
		remove_at(stream, &stream->oldest);
	free(stream);
}

static void keep_within_bounds(struct stream *stream)
{
	while (stream->count > 1 &&
	       (stream->count > STREAM_EVENTS_MAX || stream->bytes > stream->bytes_max)) {
		if (stream->oldest->kind != EVENT_PROGRESS)
			stream->lost_id = stream->oldest->id;
		remove_at(stream, &stream->oldest);
	}
}

static void append(struct stream *stream, enum event_kind kind, const char *text, size_t bytes)
{
	struct stream_event *event = malloc(sizeof(*event) + bytes);

	stream->last_id++;
	if (!event) {
		stream->lost_id = stream->last_id;
		return;
	}
	*event = (struct stream_event){ .id = stream->last_id, .kind = kind, .bytes = bytes };
	memcpy(event->text, text, bytes);
	*stream->end = event;
	stream->end = &event->next;
	stream->count++;
	stream->bytes += sizeof(*event) + bytes;
}

static void drop_progress(struct stream *stream)
{
	struct stream_event **link = &stream->oldest;

	while (*link && (*link)->kind != EVENT_PROGRESS)
		link = &(*link)->next;
	if (*link)
		remove_at(stream, link);
}

/* Whoever has not had the parts before needs none of them. */
static void restart(struct stream *stream)
{
	static const char nothing[] = "{}";

	while (stream->oldest)
		remove_at(stream, &stream->oldest);
	stream->lost_id = 0;
	append(stream, EVENT_RESTART, nothing, sizeof(nothing) - 1);
}

void stream_push(struct stream *stream, enum event_kind kind, unsigned int attempt,
		 const char *text, size_t bytes)
{
	if (stream->ended)
		return;
	if ((kind == EVENT_DATA || kind == EVENT_RESULT) && stream->attempt != attempt) {
		if (stream->attempt != 0)
			restart(stream);
		stream->attempt = attempt;
	}
	if (kind == EVENT_PROGRESS)
		drop_progress(stream);
	append(stream, kind, text, bytes);
	stream->ended = kind == EVENT_RESULT || kind == EVENT_ERROR;
	if (!stream->ended)
		keep_within_bounds(stream);
	for (struct stream_reader *reader = stream->readers; reader; reader = reader->next)
		ew_event_set(&reader->news);
}

void stream_enter(struct stream *stream, struct stream_reader *reader)
{
	reader->link = &stream->readers;
	reader->next = stream->readers;
	if (reader->next)
		reader->next->link = &reader->next;
	stream->readers = reader;
}

void stream_leave(struct stream_reader *reader)
{
	*reader->link = reader->next;
	if (reader->next)
		reader->next->link = reader->link;
}

const struct stream_event *stream_next(const struct stream *stream, uint64_t seen)
{
	const struct stream_event *event = stream->oldest;

	while (event && event->id <= seen)
		event = event->next;
	return event;
}
