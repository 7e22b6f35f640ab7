/* SPDX-License-Identifier: Apache-2.0 */

/*
 * A send that is cut leaves half a frame, and the connection is good for nothing. So nobody who can be cancelled sends:
 * frames are appended to a buffer, whole, and one task sends what has gathered while it sent the last time.
 */

#include "amqp/internal.h"

#include <endwell/clock.h>
#include <endwell/scope.h>
#include <errno.h>
#include <string.h>

/* Answers that the protocol obliges us to, to a broker that does not read them. */
#define SAID_BYTES_MAX 65536

void ew_amqp_output_appended(struct ew_amqp_connection *connection)
{
	ew_event_set(&connection->output);
}

static bool has_room(const struct ew_amqp_connection *connection, size_t bytes)
{
	size_t used = connection->filling.bytes;

	return used == 0 || (used < connection->output_bytes_max &&
			     bytes <= connection->output_bytes_max - used);
}

int ew_amqp_may_publish(const struct ew_amqp_channel *channel)
{
	int r = ew_amqp_channel_usable(channel);

	return r == 0 && (channel->connection->blocked || channel->stopped) ? -EBUSY : r;
}

static int may_append(const struct ew_amqp_channel *channel, bool publishing)
{
	return publishing ? ew_amqp_may_publish(channel) : ew_amqp_channel_usable(channel);
}

void ew_amqp_look_again(struct ew_amqp_connection *connection)
{
	ew_event_set(&connection->room);
	for (unsigned i = 1; i <= connection->channels_max; i++) {
		if (!connection->channels[i])
			continue;
		ew_event_set(&connection->channels[i]->may_publish);
		ew_amqp_leave_line(connection->channels[i]);
	}
}

void ew_amqp_leave_line(struct ew_amqp_channel *channel)
{
	for (struct ew_amqp_stander *at = channel->standers; at; at = at->next)
		if (may_append(channel, at->publishing) < 0)
			ew_scope_cancel(at->line, EW_REASON_REQUESTED);
}

static void leave_line(void *argument)
{
	struct ew_amqp_stander *stander = argument;

	*stander->link = stander->next;
	if (stander->next)
		stander->next->link = stander->link;
}

static int leave_line_close(void *stander)
{
	leave_line(stander);
	return 0;
}

/* The turn may be somebody's whose channel lives, and who waits for a broker that does not read. */
static int stand_in_line(struct ew_amqp_channel *channel, bool publishing,
			 struct ew_mutex_hold **ret_turn)
{
	struct ew_amqp_stander stander = { .publishing = publishing,
					   .next = channel->standers,
					   .link = &channel->standers };
	int r;

	EW_SCOPE(line);

	stander.line = &line;
	if (stander.next)
		stander.next->link = &stander.next;
	channel->standers = &stander;

	EW_GUARD(leave, &stander, .close = leave_line_close, .abort = leave_line);

	r = ew_mutex_lock(&channel->connection->turn, EW_NEVER, ret_turn);
	r = ew_scope_finish(&line, r);
	/* A deadline around it may have passed, and not been said: then it is the line's end all the same. */
	if (r != -ECANCELED || ew_scope_reason(&line) == EW_REASON_NONE)
		return r;
	return channel->error.error ? channel->error.error : -EBUSY;
}

int ew_amqp_output_turn(struct ew_amqp_channel *channel, size_t bytes, bool publishing,
			struct ew_mutex_hold **ret_turn)
{
	struct ew_amqp_connection *connection = channel->connection;
	int r;

	r = may_append(channel, publishing);
	if (r < 0)
		return r;
	r = stand_in_line(channel, publishing, ret_turn);
	if (r == -EOWNERDEAD) {
		/* Frames are appended between two suspensions, so none is there in part. */
		ew_mutex_make_consistent(*ret_turn);
		r = 0;
	}
	while (r == 0) {
		r = may_append(channel, publishing);
		if (r < 0 || has_room(connection, bytes))
			break;
		ew_event_reset(&connection->room);
		r = ew_event_wait(&connection->room, EW_NEVER);
	}
	return r;
}

int ew_amqp_say_in_turn(struct ew_amqp_channel *channel, amqp_method_number_t id, void *method)
{
	struct ew_amqp_connection *connection = channel->connection;
	int r;

	channel->references++;
	EW_GUARD(held, channel, .close = ew_amqp_let_go_close, .abort = ew_amqp_let_go);
	EW_OWN(ew_mutex_hold, turn);

	r = ew_amqp_output_turn(channel, AMQP_FRAME_MIN_SIZE, false, &turn);
	if (r == 0)
		r = ew_amqp_output_method(&connection->filling, channel->number, id, method);
	if (r == 0)
		ew_amqp_output_appended(connection);
	return r;
}

void ew_amqp_say(struct ew_amqp_connection *connection, unsigned channel, amqp_method_number_t id,
		 void *method)
{
	size_t before = connection->filling.bytes;
	int r;

	if (connection->said_bytes > SAID_BYTES_MAX) {
		ew_amqp_lost(connection, -ENOBUFS, "the broker asks and does not read the answers");
		return;
	}
	r = ew_amqp_output_method(&connection->filling, channel, id, method);
	connection->said_bytes += connection->filling.bytes - before;
	if (r < 0)
		ew_amqp_lost(connection, r, "an answer was not to be made: %s", strerror(-r));
	else
		ew_amqp_output_appended(connection);
}

/* Until there is something to send. When nothing was for long, that is a heartbeat. */
static int await_output(struct ew_amqp_connection *connection)
{
	int64_t deadline_ns = EW_NEVER;
	int r;

	if (connection->filling.bytes > 0 || connection->state == EW_AMQP_ENDED)
		return 0;
	if (connection->heartbeat_ns)
		deadline_ns = connection->said_ns + connection->heartbeat_ns / 2;
	ew_event_reset(&connection->output);
	r = ew_event_wait(&connection->output, deadline_ns);
	return r == -ETIMEDOUT ? ew_amqp_output_heartbeat(&connection->filling) : r;
}

/* A large message does not keep its memory for ever. */
static void shrink(struct ew_amqp_connection *connection)
{
	ew_amqp_output_clear(&connection->sending);
	if (connection->sending.capacity > connection->output_bytes_max)
		ew_amqp_output_free(&connection->sending);
}

/* Shielded: what cuts it short is the end of the connection, which cuts the socket. */
static int send_output(struct ew_amqp_connection *connection)
{
	struct ew_amqp_output output = connection->filling;
	int r;

	EW_SHIELD(shield, .budget_ns = EW_NEVER);

	if (output.bytes == 0)
		return 0;
	connection->filling = connection->sending;
	connection->sending = output;
	connection->said_bytes = 0;
	ew_event_set(&connection->room);
	r = connection->transport->send(connection->stream, output.data, output.bytes);
	connection->said_ns = ew_now();
	shrink(connection);
	/* Half a frame may be out: nothing may follow it. */
	if (r < 0)
		ew_amqp_lost(connection, r, "sending to the broker failed: %s",
			     ew_amqp_stream_words(connection, r));
	return r;
}

static int write_frames(struct ew_amqp_connection *connection)
{
	int r = 0;

	while (r == 0 && (connection->filling.bytes > 0 || connection->state != EW_AMQP_ENDED)) {
		r = await_output(connection);
		if (r == 0)
			r = send_output(connection);
	}
	return r;
}

/* Runs on every way out, also if the task is ended where it stands. */
static void write_ended(void *argument)
{
	struct ew_amqp_connection *connection = argument;

	if (connection->state != EW_AMQP_ENDED || connection->filling.bytes > 0 ||
	    connection->sending.bytes > 0)
		ew_amqp_lost(connection, -ECANCELED, "the connection was given up");
	ew_event_set(&connection->written);
}

static int write_ended_close(void *argument)
{
	write_ended(argument);
	return 0;
}

/* When the scope around the connection is cancelled, endings may still need it. */
static void write_until_drained(struct ew_amqp_connection *connection)
{
	int r = write_frames(connection);

	if (r == -ECANCELED) {
		EW_SHIELD(shield, .budget_ns = connection->drain_ns);
		r = write_frames(connection);
	}
	if (r == -ECANCELED)
		ew_amqp_lost(connection, r, EW_AMQP_TIME_OVER);
	else if (r < 0)
		ew_amqp_lost(connection, r, "writing to the broker failed: %s", strerror(-r));
}

int ew_amqp_write_task(void *argument)
{
	struct ew_amqp_connection *connection = argument;

	EW_GUARD(ended, connection, .close = write_ended_close, .abort = write_ended);

	write_until_drained(connection);
	return 0;
}
