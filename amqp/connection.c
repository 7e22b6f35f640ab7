/* SPDX-License-Identifier: Apache-2.0 */

/*
 * A connection is two tasks in the scope that it was opened in: one reads and hands out what it has read, and has the
 * other one, which writes, in a scope of its own. They go on when that scope is cancelled, for as long as endings may
 * need the connection. What ends them is the connection's end: an answer to goodbye, a goodbye of the broker's, an
 * error, or the owner's abort, which cuts the socket. The memory goes with the last who knows it.
 *
 * Whatever ends it, everybody who waits is told at once and in the same place, end_for_all(), before anything else is
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

#define FRAME_BYTES_MAX (1U << 20)
#define CHANNELS_MAX	2047U

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
	empty_amqp_pool(&connection->pool);
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
static void end_for_all(struct ew_amqp_connection *connection)
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
	end_for_all(connection);
	connection->filling.bytes = 0;
	if (connection->socket)
		ew_socket_shutdown(connection->socket, SHUT_RDWR);
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
	end_for_all(connection);
	return connection->error.error;
}

/* ---- the broker's methods for the connection as a whole ---- */

static bool offers(amqp_bytes_t words, const char *word)
{
	const char *at = words.bytes, *end = at + words.len;
	size_t bytes = strlen(word);

	while (at < end) {
		const char *space = memchr(at, ' ', (size_t)(end - at));
		size_t n = (size_t)((space ? space : end) - at);

		if (n == bytes && memcmp(at, word, n) == 0)
			return true;
		at += n + 1;
	}
	return false;
}

static amqp_table_entry_t said(const char *name)
{
	return (amqp_table_entry_t){
		.key = amqp_cstring_bytes(name),
		.value = { .kind = AMQP_FIELD_KIND_BOOLEAN, .value.boolean = 1 },
	};
}

static amqp_table_entry_t named(const char *name, const char *value)
{
	return (amqp_table_entry_t){
		.key = amqp_cstring_bytes(name),
		.value = { .kind = AMQP_FIELD_KIND_UTF8, .value.bytes = amqp_cstring_bytes(value) },
	};
}

static int log_in(struct ew_amqp_connection *connection)
{
	char response[2 * EW_AMQP_TEXT_BYTES];
	size_t user_bytes = strlen(connection->user);
	size_t password_bytes = strlen(connection->password);
	amqp_table_entry_t capabilities[] = {
		said("authentication_failure_close"), said("basic.nack"),
		said("connection.blocked"),	      said("consumer_cancel_notify"),
		said("publisher_confirms"),
	};
	amqp_table_entry_t properties[] = {
		{ .key = amqp_cstring_bytes("capabilities"),
		  .value = { .kind = AMQP_FIELD_KIND_TABLE,
			     .value.table = { sizeof(capabilities) / sizeof(capabilities[0]),
					      capabilities } } },
		named("product", "endwell"),
		named("connection_name", connection->name),
	};
	amqp_connection_start_ok_t start_ok = {
		.client_properties = { connection->name[0] ? 3 : 2, properties },
		.mechanism = amqp_cstring_bytes("PLAIN"),
		.response = { user_bytes + password_bytes + 2, response },
		.locale = amqp_cstring_bytes("en_US"),
	};

	/* RFC 4616: nobody else's identity, the user, the password. */
	response[0] = 0;
	memcpy(response + 1, connection->user, user_bytes + 1);
	memcpy(response + 2 + user_bytes, connection->password, password_bytes);
	ew_amqp_say(connection, 0, AMQP_CONNECTION_START_OK_METHOD, &start_ok);
	explicit_bzero(response, sizeof(response));
	explicit_bzero(connection->password, sizeof(connection->password));
	return 0;
}

static int started(struct ew_amqp_connection *connection, const amqp_connection_start_t *start)
{
	if (start->version_major != 0 || start->version_minor != 9)
		return ew_amqp_violated(connection, AMQP_NOT_IMPLEMENTED,
					"it speaks AMQP %u-%u, not 0-9", start->version_major,
					start->version_minor);
	if (!offers(start->mechanisms, "PLAIN"))
		return ew_amqp_violated(connection, AMQP_NOT_IMPLEMENTED,
					"it offers no PLAIN to log in by");
	connection->next_method = AMQP_CONNECTION_TUNE_METHOD;
	return log_in(connection);
}

/* 0 of the broker's means that it does not care. */
static size_t agreed(size_t ours, size_t theirs)
{
	return theirs != 0 && theirs < ours ? theirs : ours;
}

static int tuned(struct ew_amqp_connection *connection, const amqp_connection_tune_t *tune)
{
	amqp_connection_tune_ok_t tune_ok;
	amqp_connection_open_t open = { .virtual_host =
						amqp_cstring_bytes(connection->virtual_host) };

	if (tune->frame_max != 0 && tune->frame_max < AMQP_FRAME_MIN_SIZE)
		return ew_amqp_violated(connection, AMQP_NOT_ALLOWED,
					"it wants frames of at most %u bytes; 4096 is the least",
					tune->frame_max);
	connection->frame_bytes_max = agreed(connection->frame_bytes_max, tune->frame_max);
	connection->channels_max = (unsigned)agreed(connection->channels_max, tune->channel_max);
	connection->heartbeat_s = (unsigned)agreed(connection->heartbeat_s, tune->heartbeat);
	connection->heartbeat_ns = connection->heartbeat_s * EW_SECOND;
	tune_ok = (amqp_connection_tune_ok_t){
		.channel_max = (uint16_t)connection->channels_max,
		.frame_max = (uint32_t)connection->frame_bytes_max,
		.heartbeat = (uint16_t)connection->heartbeat_s,
	};
	connection->next_method = AMQP_CONNECTION_OPEN_OK_METHOD;
	ew_amqp_say(connection, 0, AMQP_CONNECTION_TUNE_OK_METHOD, &tune_ok);
	ew_amqp_say(connection, 0, AMQP_CONNECTION_OPEN_METHOD, &open);
	return 0;
}

static int closed(struct ew_amqp_connection *connection, const amqp_connection_close_t *close)
{
	amqp_connection_close_ok_t close_ok = {};
	char text[EW_AMQP_TEXT_BYTES];

	ew_amqp_copy_text(close->reply_text, text, sizeof(text));
	ew_amqp_error_set(&connection->error, ew_amqp_code_error(close->reply_code),
			  close->reply_code, "the broker closed the connection: %.200s", text);
	ew_amqp_say(connection, 0, AMQP_CONNECTION_CLOSE_OK_METHOD, &close_ok);
	end_for_all(connection);
	return connection->error.error;
}

static void blocked(struct ew_amqp_connection *connection, amqp_bytes_t reason)
{
	ew_amqp_copy_text(reason, connection->blocked_reason, sizeof(connection->blocked_reason));
	connection->blocked = true;
	ew_amqp_look_again(connection);
}

static int open_method(struct ew_amqp_connection *connection, const amqp_method_t *method)
{
	const amqp_connection_blocked_t *block = method->decoded;
	char name[EW_AMQP_METHOD_NAME_BYTES];

	switch (method->id) {
	case AMQP_CONNECTION_BLOCKED_METHOD: blocked(connection, block->reason); return 0;
	case AMQP_CONNECTION_UNBLOCKED_METHOD: connection->blocked = false; return 0;
	default:
		return ew_amqp_violated(connection, AMQP_COMMAND_INVALID,
					"%s for the connection, out of place",
					ew_amqp_method_name(method->id, name));
	}
}

static int opening_method(struct ew_amqp_connection *connection, const amqp_method_t *method)
{
	char name[EW_AMQP_METHOD_NAME_BYTES];

	if (method->id != connection->next_method)
		return ew_amqp_violated(connection, AMQP_COMMAND_INVALID,
					"%s while the connection is made",
					ew_amqp_method_name(method->id, name));
	switch (method->id) {
	case AMQP_CONNECTION_START_METHOD: return started(connection, method->decoded);
	case AMQP_CONNECTION_TUNE_METHOD: return tuned(connection, method->decoded);
	default:
		connection->state = EW_AMQP_OPEN;
		ew_event_set(&connection->opened);
		return 0;
	}
}

static int connection_method(struct ew_amqp_connection *connection, const amqp_method_t *method)
{
	if (method->id == AMQP_CONNECTION_CLOSE_METHOD)
		return closed(connection, method->decoded);
	switch (connection->state) {
	case EW_AMQP_OPENING: return opening_method(connection, method);
	case EW_AMQP_OPEN: return open_method(connection, method);
	default: break;
	}
	/* What was on its way when we said goodbye concerns nobody any more (section 4.2.2, close). */
	if (method->id == AMQP_CONNECTION_CLOSE_OK_METHOD)
		end_for_all(connection);
	return 0;
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
		r = connection_method(connection, &method);
	recycle_amqp_pool(&connection->pool);
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

/* What is not a frame may be the protocol header of a broker that speaks another version (section 4.2.2). */
static int bad_frame(struct ew_amqp_connection *connection, const char *why)
{
	const uint8_t *header = connection->input + connection->input_at;
	size_t bytes = connection->input_bytes - connection->input_at;

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
		r = handle_frame(connection, &frame);
		if (r < 0)
			return r;
	}
	return 0;
}

/* More input, behind what is left of a frame. A broker that was silent for two heartbeats is not there. */
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
	n = ew_socket_recv(connection->socket, connection->input + left,
			   connection->frame_bytes_max - left);
	if (n < 0)
		return ew_scope_finish(&patience, n);
	connection->heard_ns = ew_now();
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

/* Ended in words, it may still have some to send; else it is cut. */
static void reading_ended(struct ew_amqp_connection *connection, int r)
{
	if (connection->state == EW_AMQP_ENDED)
		return;
	switch (r) {
	case -ECONNRESET: ew_amqp_lost(connection, r, "the broker hung up without a word"); break;
	case -ECANCELED: ew_amqp_lost(connection, r, EW_AMQP_TIME_OVER); break;
	case -ETIMEDOUT:
		ew_amqp_lost(connection, r, "the broker was silent for %u s, two heartbeats",
			     2 * connection->heartbeat_s);
		break;
	default: ew_amqp_lost(connection, r, "the connection failed: %s", strerror(-r)); break;
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

/* The last words are sent, if the broker takes them; then it is cut. */
static void take_leave(struct ew_amqp_connection *connection)
{
	EW_SHIELD(shield, .budget_ns = 2 * LAST_WORDS_NS);

	/* Cut in both cases. */
	(void)!ew_event_wait(&connection->written, ew_after(LAST_WORDS_NS));
	ew_socket_shutdown(connection->socket, SHUT_RDWR);
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

	connection->socket = NULL;
	ew_event_set(&connection->ended);
	ew_amqp_connection_put(connection);
}

static int connection_over_close(void *argument)
{
	connection_over(argument);
	return 0;
}

static int connection_task(void *argument, void *place)
{
	struct ew_amqp_connection *connection = *(struct ew_amqp_connection **)argument;
	struct ew_socket **socket = place;
	int r;

	EW_GUARD(over, connection, .close = connection_over_close, .abort = connection_over);

	connection->socket = *socket;
	r = converse(connection);
	connection->socket = NULL;
	if (r == 0)
		r = ew_socket_close(socket);
	return r;
}

/* ---- the owner's side ---- */

static void connection_abort(void *resource)
{
	struct ew_amqp_connection *connection = resource;

	ew_resource_deinit(&connection->resource);
	ew_amqp_lost(connection, -ECONNABORTED, "the connection was aborted here");
	ew_amqp_connection_put(connection);
}

static void say_goodbye(struct ew_amqp_connection *connection)
{
	connection->state = EW_AMQP_CLOSING;
	ew_amqp_error_set(&connection->error, -ESHUTDOWN, 0, "the connection was closed here");
	end_channels(connection);
	say_close(connection, AMQP_REPLY_SUCCESS, "goodbye");
}

static int connection_close(void *resource)
{
	struct ew_amqp_connection *connection = resource;
	int r;

	ew_assert(connection->worker == ew_worker());
	if (connection->state == EW_AMQP_OPENING)
		ew_amqp_lost(connection, -ECONNABORTED, "the connection was given up");
	else if (connection->state == EW_AMQP_OPEN)
		say_goodbye(connection);
	r = ew_event_wait(&connection->ended, EW_NEVER);
	if (r < 0)
		return r;
	r = connection->goodbye_error;
	ew_resource_deinit(&connection->resource);
	ew_amqp_connection_put(connection);
	/* That word would mean that it has not ended. */
	return r == -ECANCELED ? -ECONNABORTED : r;
}

static const struct ew_resource_type connection_type = {
	.name = "AMQP connection",
	.close = connection_close,
	.abort = connection_abort,
};

static int copy_option(char *copy, const char *text, const char *otherwise)
{
	if (!text)
		text = otherwise;
	if (strlen(text) >= EW_AMQP_TEXT_BYTES)
		return -EINVAL;
	strcpy(copy, text);
	return 0;
}

static size_t or_default(size_t value, size_t otherwise)
{
	return value ? value : otherwise;
}

/* NULL, or which option is out of range. */
static const char *configure(struct ew_amqp_connection *connection,
			     const struct ew_amqp_options *options)
{
	if (copy_option(connection->user, options->user, "guest") < 0 ||
	    copy_option(connection->password, options->password, "guest") < 0 ||
	    copy_option(connection->virtual_host, options->virtual_host, "/") < 0 ||
	    copy_option(connection->name, options->name, "") < 0)
		return "user, password, virtual_host and name are at most 255 bytes long";
	connection->heartbeat_s = (unsigned)or_default(options->heartbeat_s, 10);
	connection->channels_max = (unsigned)or_default(options->channels_max, 16);
	connection->frame_bytes_max = or_default(options->frame_bytes_max, 131072);
	connection->message_bytes_max = or_default(options->message_bytes_max, 1 << 20);
	connection->output_bytes_max = or_default(options->output_bytes_max, 1 << 20);
	connection->drain_ns = options->drain_ns ? options->drain_ns : 30 * EW_SECOND;
	if (connection->heartbeat_s > UINT16_MAX)
		return "heartbeat_s is at most 65535";
	if (connection->channels_max > CHANNELS_MAX)
		return "channels_max is at most 2047";
	if (connection->frame_bytes_max < AMQP_FRAME_MIN_SIZE ||
	    connection->frame_bytes_max > FRAME_BYTES_MAX)
		return "frame_bytes_max is from 4096 to 1048576";
	return connection->drain_ns < 0 ? "drain_ns is negative" : NULL;
}

static int allocate(struct ew_amqp_connection *connection)
{
	connection->input = malloc(connection->frame_bytes_max);
	connection->channels = (struct ew_amqp_channel **)calloc(connection->channels_max + 1,
								 sizeof(*connection->channels));
	if (!connection->input || !connection->channels)
		return -ENOMEM;
	return ew_amqp_output_bytes(&connection->filling, EW_AMQP_PROTOCOL_HEADER,
				    EW_AMQP_PROTOCOL_HEADER_BYTES);
}

/* Known to one: its owner. */
static int connection_new(const struct ew_amqp_options *options, const struct ew_site *site,
			  const char **ret_why, struct ew_amqp_connection **ret_connection)
{
	static const struct ew_amqp_options defaults;
	struct ew_amqp_connection *connection = calloc(1, sizeof(*connection));
	int r;

	if (!connection)
		return -ENOMEM;
	connection->references = 1;
	connection->self = connection;
	connection->worker = ew_worker();
	connection->next_method = AMQP_CONNECTION_START_METHOD;
	init_amqp_pool(&connection->pool, 4096);
	*ret_why = configure(connection, options ? options : &defaults);
	r = *ret_why ? -EINVAL : allocate(connection);
	if (r < 0) {
		ew_amqp_connection_put(connection);
		return r;
	}
	ew_resource_init(&connection->resource, &connection_type, site);
	*ret_connection = connection;
	return 0;
}

static int start(struct ew_scope *scope, struct ew_amqp_connection *connection,
		 struct ew_socket **socket)
{
	int r = ew_spawn_take(scope, connection_task, (void *)&connection->self, socket);

	if (r < 0) {
		ew_amqp_lost(connection, r, "its task was not to be started: %s", strerror(-r));
		ew_event_set(&connection->ended);
		return r;
	}
	connection->references++;
	r = ew_event_wait(&connection->opened, EW_NEVER);
	return r < 0 ? r : connection->error.error;
}

/* With an error that has no words of its own, those of the system. */
static void tell(struct ew_amqp_error *ret_error, int r, const char *why)
{
	if (!ret_error)
		return;
	*ret_error = (struct ew_amqp_error){};
	ew_amqp_error_set(ret_error, r, 0, "%s", why ? why : strerror(-r));
}

static int open_on(struct ew_scope *scope, struct ew_socket **socket,
		   const struct ew_amqp_options *options, const struct ew_site *site,
		   struct ew_amqp_error *ret_error, struct ew_amqp_connection **ret_connection)
{
	const char *why = NULL;
	int r;

	EW_OWN(ew_socket, own);
	EW_OWN(ew_amqp_connection, connection);

	own = *socket;
	*socket = NULL;
	r = connection_new(options, site, &why, &connection);
	if (r == 0)
		r = start(scope, connection, &own);
	if (r == 0) {
		*ret_connection = connection;
		connection = NULL;
	} else if (connection && connection->error.error && ret_error) {
		*ret_error = connection->error;
	} else {
		tell(ret_error, r, why);
	}
	return r;
}

int(ew_amqp_connection_open_on)(struct ew_scope *scope, struct ew_socket **socket,
				const struct ew_amqp_options *options,
				struct ew_amqp_error *ret_error,
				struct ew_amqp_connection **ret_connection)
{
	return open_on(scope, socket, options, ew__made_at, ret_error, ret_connection);
}

int(ew_amqp_connection_open)(struct ew_scope *scope, const struct sockaddr *address,
			     socklen_t address_bytes, const struct ew_amqp_options *options,
			     struct ew_amqp_error *ret_error,
			     struct ew_amqp_connection **ret_connection)
{
	const struct ew_site *site = ew__made_at;
	int r;

	EW_OWN(ew_socket, socket);

	r = ew_socket_connect(address, address_bytes, &socket);
	if (r < 0) {
		tell(ret_error, r, NULL);
		return r;
	}
	return open_on(scope, &socket, options, site, ret_error, ret_connection);
}

const struct ew_amqp_error *ew_amqp_connection_error(const struct ew_amqp_connection *connection)
{
	return connection->error.error ? &connection->error : NULL;
}

const char *ew_amqp_connection_blocked(const struct ew_amqp_connection *connection)
{
	return connection->blocked ? connection->blocked_reason : NULL;
}

int ew_amqp_connection_wait(struct ew_amqp_connection *connection)
{
	int r = ew_event_wait(&connection->ended, EW_NEVER);

	return r < 0 ? r : connection->error.error;
}

int ew_amqp_connection_close(struct ew_amqp_connection **connection)
{
	return ew_close(connection);
}
