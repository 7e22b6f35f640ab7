/* SPDX-License-Identifier: Apache-2.0 */

/*
 * A connection is two tasks in the scope that it was opened in: one reads and hands out what it has read, and has the
 * other one, which writes, in a scope of its own. They go on when that scope is cancelled, for as long as endings may
 * need the connection. What ends them is the connection's end: an answer to goodbye, a goodbye of the broker's, an
 * error, or the owner's abort, which cuts the socket. The memory goes with the last who knows it.
 *
 * Whatever ends it, everybody who waits is told at once and in the same place, ew_amqp_end_for_all(), before anything else is
 * waited for.
 */

#include "amqp/internal.h"

#include <endwell/clock.h>
#include <endwell/task.h>
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* For the last words of a connection that has failed to be sent. */
#define LAST_WORDS_NS EW_SECOND

void ew_amqp_error_set(struct ew_amqp_error *error, int number, unsigned code, const char *format,
		       ...)
{
	va_list arguments;

	if (error->error)
		return;
	error->error = number;
	error->code = code;
	va_start(arguments, format);
	vsnprintf(error->text, sizeof(error->text), format, arguments);
	va_end(arguments);
}

int ew_amqp_code_error(unsigned code)
{
	switch (code) {
	case AMQP_CONTENT_TOO_LARGE: return -EMSGSIZE;
	case AMQP_CONNECTION_FORCED: return -ECONNABORTED;
	case AMQP_INVALID_PATH:
	case AMQP_NOT_FOUND: return -ENOENT;
	case AMQP_ACCESS_REFUSED: return -EACCES;
	case AMQP_RESOURCE_LOCKED: return -EBUSY;
	case AMQP_PRECONDITION_FAILED: return -EINVAL;
	case AMQP_RESOURCE_ERROR: return -ENOSPC;
	case AMQP_NOT_ALLOWED: return -EPERM;
	default: return -EPROTO;
	}
}

void ew_amqp_connection_put(struct ew_amqp_connection *connection)
{
	if (--connection->references > 0)
		return;
	ew_amqp_output_free(&connection->filling);
	ew_amqp_output_free(&connection->sending);
	ew_amqp_pool_empty(&connection->pool);
	explicit_bzero(connection->password, sizeof(connection->password));
	free(connection->channels);
	free(connection->input);
	free(connection);
}

static void end_channels(struct ew_amqp_connection *connection)
{
	for (unsigned i = 1; i <= connection->channels_max; i++)
		if (connection->channels[i])
			ew_amqp_channel_ended(connection->channels[i], &connection->error);
}

/* With the reason in connection->error. Idempotent. */
void ew_amqp_end_for_all(struct ew_amqp_connection *connection)
{
	if (connection->state == EW_AMQP_ENDED)
		return;
	connection->state = EW_AMQP_ENDED;
	end_channels(connection);
	ew_event_set(&connection->opened);
	ew_event_set(&connection->output);
}

void ew_amqp_lost(struct ew_amqp_connection *connection, int error, const char *format, ...)
{
	char text[sizeof(connection->error.text)];
	va_list arguments;

	va_start(arguments, format);
	vsnprintf(text, sizeof(text), format, arguments);
	va_end(arguments);
	ew_amqp_error_set(&connection->error, error, 0, "%s", text);
	if (connection->state == EW_AMQP_CLOSING)
		connection->goodbye_error = error;
	ew_amqp_end_for_all(connection);
	ew_amqp_output_clear(&connection->filling);
	if (connection->stream && !ew_event_is_set(&connection->written))
		connection->transport->cut(connection->stream);
}

static void say_close(struct ew_amqp_connection *connection, unsigned code, const char *text)
{
	amqp_connection_close_t close = {
		.reply_code = (uint16_t)code,
		.reply_text = ew_amqp_text(text),
	};

	ew_amqp_say(connection, 0, AMQP_CONNECTION_CLOSE_METHOD, &close);
}

int ew_amqp_violated(struct ew_amqp_connection *connection, unsigned code, const char *format, ...)
{
	char text[160];
	va_list arguments;

	va_start(arguments, format);
	vsnprintf(text, sizeof(text), format, arguments);
	va_end(arguments);
	ew_amqp_error_set(&connection->error, -EPROTO, 0, "the broker broke the protocol: %s",
			  text);
	if (connection->state == EW_AMQP_CLOSING)
		connection->goodbye_error = -EPROTO;
	say_close(connection, code, text);
	ew_amqp_end_for_all(connection);
	return connection->error.error;
}

void ew_amqp_say_goodbye(struct ew_amqp_connection *connection)
{
	connection->state = EW_AMQP_CLOSING;
	ew_amqp_error_set(&connection->error, -ESHUTDOWN, 0, "the connection was closed here");
	end_channels(connection);
	say_close(connection, AMQP_REPLY_SUCCESS, "goodbye");
}

/* ---- reading ---- */

static int connection_frame(struct ew_amqp_connection *connection,
			    const struct ew_amqp_frame *frame)
{
	amqp_method_t method;
	int r;

	if (frame->type != AMQP_FRAME_METHOD)
		return ew_amqp_violated(connection, AMQP_UNEXPECTED_FRAME, "content on channel 0");
	r = ew_amqp_frame_method(frame, &connection->pool, &method);
	if (r == -EPROTO)
		return ew_amqp_violated(connection, AMQP_SYNTAX_ERROR,
					"a method that cannot be decoded");
	if (r == 0)
		r = ew_amqp_connection_method(connection, &method);
	ew_amqp_pool_recycle(&connection->pool);
	return r;
}

static int handle_frame(struct ew_amqp_connection *connection, const struct ew_amqp_frame *frame)
{
	struct ew_amqp_channel *channel;

	if (frame->type == AMQP_FRAME_HEARTBEAT)
		return 0;
	if (frame->channel == 0)
		return connection_frame(connection, frame);
	if (connection->state == EW_AMQP_CLOSING)
		return 0;
	channel = frame->channel <= connection->channels_max ? connection->channels[frame->channel]
							     : NULL;
	if (!channel)
		return ew_amqp_violated(connection, AMQP_CHANNEL_ERROR,
					"something on channel %u, which is not open",
					frame->channel);
	return ew_amqp_channel_frame(channel, frame);
}

/* An alert, which is what TLS has to say to a protocol header (RFC 8446, section 5.1). */
static bool is_tls(const uint8_t *bytes, size_t count)
{
	return count >= 2 && bytes[0] == 21 && bytes[1] == 3;
}

/* What is not a frame may be the protocol header of a broker that speaks another version (section 4.2.2). */
static int bad_frame(struct ew_amqp_connection *connection, const char *why)
{
	const uint8_t *header = connection->input + connection->input_at;
	size_t bytes = connection->input_bytes - connection->input_at;

	if (connection->state == EW_AMQP_OPENING && is_tls(header, bytes)) {
		ew_amqp_lost(connection, -EPROTONOSUPPORT,
			     "the broker speaks TLS here: amqps, not amqp");
		return -EPROTONOSUPPORT;
	}
	if (connection->state != EW_AMQP_OPENING ||
	    memcmp(header, "AMQP", bytes < 4 ? bytes : 4) != 0)
		return ew_amqp_violated(connection, AMQP_FRAME_ERROR, "%s", why);
	if (bytes < EW_AMQP_PROTOCOL_HEADER_BYTES)
		return 0;
	ew_amqp_lost(connection, -EPROTONOSUPPORT, "the broker speaks AMQP %u-%u-%u, not 0-9-1",
		     header[5], header[6], header[7]);
	return -EPROTONOSUPPORT;
}

/* All whole frames that are there. */
static int handle_input(struct ew_amqp_connection *connection)
{
	struct ew_amqp_frame frame;
	const char *why;
	int r;

	while (connection->state != EW_AMQP_ENDED) {
		switch (ew_amqp_frame_parse(connection->input + connection->input_at,
					    connection->input_bytes - connection->input_at,
					    connection->frame_bytes_max, &frame, &why)) {
		case EW_AMQP_PARTIAL: return 0;
		case EW_AMQP_BAD: return bad_frame(connection, why);
		case EW_AMQP_WHOLE: break;
		}
		connection->input_at += frame.payload_bytes + EW_AMQP_FRAME_OVERHEAD;
		connection->heard_ns = ew_now();
		r = handle_frame(connection, &frame);
		if (r < 0)
			return r;
	}
	return 0;
}

/*
 * More input, behind what is left of a frame. A broker that was silent for two heartbeats is not there; nor is one that
 * says no frame to its end: if its size is wrong, all that follows goes into it, the heartbeats too.
 */
static int receive(struct ew_amqp_connection *connection)
{
	size_t left = connection->input_bytes - connection->input_at;
	int64_t deadline_ns = EW_NEVER;
	int n;

	if (connection->heartbeat_ns)
		deadline_ns = connection->heard_ns + 2 * connection->heartbeat_ns;

	EW_SCOPE(patience, .deadline_ns = deadline_ns);

	memmove(connection->input, connection->input + connection->input_at, left);
	connection->input_at = 0;
	connection->input_bytes = left;
	n = connection->transport->recv(connection->stream, connection->input + left,
					connection->frame_bytes_max - left);
	if (n < 0)
		return ew_scope_finish(&patience, n);
	connection->input_bytes += (size_t)n;
	return n;
}

static int read_frames(struct ew_amqp_connection *connection)
{
	int r = 0;

	while (r == 0 && connection->state != EW_AMQP_ENDED) {
		r = receive(connection);
		if (r == 0)
			return -ECONNRESET;
		if (r > 0)
			r = handle_input(connection);
	}
	return r;
}

/* When the scope around the connection is cancelled, endings may still need it. */
static int read_until_drained(struct ew_amqp_connection *connection)
{
	int r = read_frames(connection);

	if (r == -ECANCELED) {
		EW_SHIELD(shield, .budget_ns = connection->drain_ns);
		r = read_frames(connection);
	}
	return r;
}

const char *ew_amqp_stream_words(const struct ew_amqp_connection *connection, int r)
{
	const char *words = connection->transport->words(connection->stream);

	return words ? words : strerror(-r);
}

/* Ended in words, it may still have some to send; else it is cut. */
static void reading_ended(struct ew_amqp_connection *connection, int r)
{
	if (connection->state == EW_AMQP_ENDED)
		return;
	switch (r) {
	case -ECONNRESET: ew_amqp_lost(connection, r, "the broker hung up without a word"); break;
	case -ECANCELED: ew_amqp_lost(connection, r, EW_AMQP_TIME_OVER); break;
	case -ETIMEDOUT:
		ew_amqp_lost(connection, r,
			     connection->input_bytes > connection->input_at
				     ? "a frame has not ended in %u s, two heartbeats"
				     : "the broker was silent for %u s, two heartbeats",
			     2 * connection->heartbeat_s);
		break;
	default:
		ew_amqp_lost(connection, r, "the connection failed: %s",
			     ew_amqp_stream_words(connection, r));
		break;
	}
}

static void connection_lost(void *argument)
{
	ew_amqp_lost(argument, -ECANCELED, "the connection was given up");
}

static int connection_lost_close(void *argument)
{
	connection_lost(argument);
	return 0;
}

/* The last words are sent; a broker that does not take them is cut, so that the writer ends. */
static void take_leave(struct ew_amqp_connection *connection)
{
	EW_SHIELD(shield, .budget_ns = 2 * LAST_WORDS_NS);

	if (ew_event_wait(&connection->written, ew_after(LAST_WORDS_NS)) < 0)
		connection->transport->cut(connection->stream);
}

static int converse(struct ew_amqp_connection *connection)
{
	int r;

	EW_SCOPE(writer);
	EW_GUARD(lost, connection, .close = connection_lost_close, .abort = connection_lost);

	r = ew_spawn(&writer, ew_amqp_write_task, connection);
	if (r < 0) {
		ew_amqp_lost(connection, r, "its writing task was not to be started: %s",
			     strerror(-r));
		return 0;
	}
	reading_ended(connection, read_until_drained(connection));
	take_leave(connection);
	return ew_scope_finish(&writer, 0);
}

static void connection_over(void *argument)
{
	struct ew_amqp_connection *connection = argument;

	connection->stream = NULL;
	ew_event_set(&connection->ended);
	ew_amqp_connection_put(connection);
}

static int connection_over_close(void *argument)
{
	connection_over(argument);
	return 0;
}

int ew_amqp_connection_task(void *argument, void *place)
{
	struct ew_amqp_connection *connection = *(struct ew_amqp_connection **)argument;
	struct ew_resource **stream = place;
	int r;

	EW_GUARD(over, connection, .close = connection_over_close, .abort = connection_over);

	connection->stream = *stream;
	r = converse(connection);
	connection->stream = NULL;
	if (r == 0)
		r = ew_close((void *)stream);
	return r;
}
