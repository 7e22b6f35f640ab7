/* SPDX-License-Identifier: Apache-2.0 */

/*
 * A connection from its owner's side: options, opening, closing.
 */

#include "amqp/internal.h"

#include <endwell/task.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define FRAME_BYTES_MAX	  (1U << 20)
#define MESSAGE_BYTES_MAX (1U << 30)
#define CHANNELS_MAX	  2047U

static void connection_abort(void *resource)
{
	struct ew_amqp_connection *connection = resource;

	ew_resource_deinit(&connection->resource);
	ew_amqp_lost(connection, -ECONNABORTED, "the connection was aborted here");
	ew_amqp_connection_put(connection);
}

static int connection_close(void *resource)
{
	struct ew_amqp_connection *connection = resource;
	int r;

	ew_assert(connection->worker == ew_worker());
	if (connection->state == EW_AMQP_OPENING)
		ew_amqp_lost(connection, -ECONNABORTED, "the connection was given up");
	else if (connection->state == EW_AMQP_OPEN)
		ew_amqp_say_goodbye(connection);
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

static const struct ew_amqp_options defaults;

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
	if (connection->message_bytes_max > MESSAGE_BYTES_MAX)
		return "message_bytes_max is at most 1073741824";
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
	struct ew_amqp_connection *connection = calloc(1, sizeof(*connection));
	int r;

	if (!connection)
		return -ENOMEM;
	connection->references = 1;
	connection->self = connection;
	connection->worker = ew_worker();
	connection->next_method = AMQP_CONNECTION_START_METHOD;
	ew_event_set(&connection->ended); /* until its task is started */
	init_amqp_pool(&connection->pool, 4096);
	*ret_why = configure(connection, options);
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
		 const struct ew_amqp_options *options, struct ew_socket **socket)
{
	int r;

	EW_OWN(ew_resource, stream);

	r = ew_amqp_transport_begin(socket, options, &connection->error, &connection->transport,
				    &stream);
	if (r == 0)
		r = ew_spawn_take(scope, ew_amqp_connection_task, (void *)&connection->self,
				  &stream);
	if (r < 0) {
		ew_amqp_lost(connection, r, "its task was not to be started: %s", strerror(-r));
		return r;
	}
	ew_event_reset(&connection->ended);
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
		r = start(scope, connection, options, &own);
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
	return open_on(scope, socket, options ? options : &defaults, ew__made_at, ret_error,
		       ret_connection);
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
	return open_on(scope, &socket, options ? options : &defaults, site, ret_error,
		       ret_connection);
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
