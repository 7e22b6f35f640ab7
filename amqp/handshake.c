/* SPDX-License-Identifier: Apache-2.0 */

/*
 * What the broker says about the connection as a whole: three questions while it is made, in their order, and later whether
 * it takes messages, and goodbye.
 */

#include "amqp/internal.h"

#include <errno.h>
#include <string.h>

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
	connection->filling.secret = true;
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

	ew_amqp_copy_words(close->reply_text, text, sizeof(text));
	ew_amqp_error_set(&connection->error, ew_amqp_code_error(close->reply_code),
			  close->reply_code, "the broker closed the connection: %.200s", text);
	ew_amqp_say(connection, 0, AMQP_CONNECTION_CLOSE_OK_METHOD, &close_ok);
	ew_amqp_end_for_all(connection);
	return connection->error.error;
}

static void blocked(struct ew_amqp_connection *connection, amqp_bytes_t reason)
{
	ew_amqp_copy_words(reason, connection->blocked_reason, sizeof(connection->blocked_reason));
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

int ew_amqp_connection_method(struct ew_amqp_connection *connection, const amqp_method_t *method)
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
		ew_amqp_end_for_all(connection);
	return 0;
}
