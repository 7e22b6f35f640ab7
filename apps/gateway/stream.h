/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * What an operation tells while it runs, as events in a window: whoever reads them may be slow, leave and come back.
 * No I/O. The window keeps the newest; of progress only the last one, which is all that it is worth.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <endwell/event.h>

#define STREAM_EVENTS_MAX 1024

enum event_kind {
	EVENT_PROGRESS,
	EVENT_DATA,    /* a part of the reply */
	EVENT_RESTART, /* the parts so far are void: another worker begins anew */
	EVENT_RESULT,  /* these two are the last */
	EVENT_ERROR,
};

/** struct stream_event - one; @id counts from 1, and each is larger than those before */
struct stream_event {
	uint64_t id;
	enum event_kind kind;
	size_t bytes;
	struct stream_event *next;
	char text[]; /* JSON */
};

/**
 * struct stream_reader - somebody who reads; caller's memory
 * @seen: the newest event that it has had
 * @news: set when there may be another one
 */
struct stream_reader {
	uint64_t seen;
	struct ew_event news;
	/* -- private from here -- */
	struct stream_reader *next;
	struct stream_reader **link;
};

/**
 * struct stream - the events of one operation
 * @ended:   the last event has come
 * @lost_id: the newest event that has left the window, and is missing to who has not had it
 */
struct stream {
	bool ended;
	uint64_t last_id;
	uint64_t lost_id;
	size_t bytes; /* in the window */
	/* -- private from here -- */
	size_t bytes_max;
	size_t count;
	unsigned int attempt;
	struct stream_event *oldest;
	struct stream_event **end;
	struct stream_reader *readers;
};

/* @bytes_max: of the window; its newest event is kept whatever its size. NULL without memory */
struct stream *stream_new(size_t bytes_max);

/* Nobody reads any more; NULL is a no-op */
void stream_free(struct stream *stream);

/**
 * stream_push() - one more event, unless the last one has come
 * @attempt: which of the workers that had the operation says it; parts of another one before are void
 *
 * Never fails: for what there is no memory it is lost.
 */
void stream_push(struct stream *stream, enum event_kind kind, unsigned int attempt,
		 const char *text, size_t bytes);

/* From now on @reader hears of news; it has had what it says. */
void stream_enter(struct stream *stream, struct stream_reader *reader);
void stream_leave(struct stream_reader *reader);

/* The first event that it has not had, until the next push; NULL: there is none now. */
const struct stream_event *stream_next(const struct stream *stream, uint64_t seen);
