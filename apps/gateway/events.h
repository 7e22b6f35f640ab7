/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * The events of an operation: from what its worker says into its record's stream, and from there to clients, as
 * text/event-stream (WHATWG HTML, "Server-sent events").
 */

#include "answer.h"

/* Whether the client would rather have events than the reply alone. */
bool events_wanted(const struct http_request *request);

/* A part of the reply, or progress; there is no stream: a no-op. */
void events_add(const struct operation *operation, enum event_kind kind,
		const struct ew_amqp_delivery *delivery);

/* The last event, of an operation that has its outcome; a no-op if there was one. */
void events_end(const struct operation *operation);

/* The last event: it has failed, as the client is told at once. @detail: "" for none */
void events_fail(const struct operation *operation, enum problem problem, const char *detail);

/* The same, because of something that its worker has said; the log has it, too. */
void events_fail_reply(const struct operation *operation, const char *what);

/**
 * struct events_writer - one who is being told; zero but for the first two, and @cancels
 * @cancels: without this client nobody wants the operation
 */
struct events_writer {
	struct http_request *request;
	struct record *record; /* held by the caller */
	bool cancels;
	/* -- private from here -- */
	struct stream_reader reader;
	char *text;
};

/* Begins the answer: from here on what fails is an event. As http_respond_begin() */
EW_SUSPENDS int events_begin(struct events_writer *writer, struct gateway *gateway);

/**
 * events_write() - all events that there are and that come, and the end of the answer
 * @writer: a struct events_writer that has begun
 *
 * Cancellation: by a shutdown is told to the client.
 * Return:       0 it has had the last event, or was told why it gets no more.
 * Errors:       -ECANCELED, those of http_respond_piece()
 */
EW_SUSPENDS int events_write(void *writer);

/* GET /ops/ID/events */
EW_SUSPENDS int events_get(struct gateway *gateway, struct http_request *request,
			   struct record *record);
