/* SPDX-License-Identifier: Apache-2.0 */

/*
 * A channel's number is free again when both sides know that it is closed. Until then it stays in the connection's
 * table, also if its owner has aborted it and gone: what the broker still had on its way is dropped there.
 */

#include "amqp/internal.h"

#include <endwell/task.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define UNCONFIRMED_DEFAULT 256
#define UNCONFIRMED_MAX	    65536

void ew_amqp_channel_put(struct ew_amqp_channel *channel)
{
	if (--channel->references > 0)
		return;
	ew_abort(&channel->delivery);
	ew_abort(&channel->queue);
	ew_amqp_connection_put(channel->connection);
	free(channel);
}

void ew_amqp_let_go(void *channel)
{
	ew_amqp_channel_put(channel);
}

int ew_amqp_let_go_close(void *channel)
{
	ew_amqp_channel_put(channel);
	return 0;
}

void ew_amqp_channel_stop(struct ew_amqp_channel *channel)
{
	if (channel->queue)
		ew_channel_close(channel->queue);
}

/* Everybody on it goes on, with the error that it has. */
static void tell_all(struct ew_amqp_channel *channel)
{
	ew_amqp_unconfirmed_ended(channel);
	ew_amqp_channel_stop(channel);
	ew_event_set(&channel->answered);
	ew_event_set(&channel->may_publish);
	/* One of them may be the one that waits for room, and others may stand behind one of another channel. */
	ew_event_set(&channel->connection->room);
	ew_amqp_leave_line(channel);
}

void ew_amqp_channel_ended(struct ew_amqp_channel *channel, const struct ew_amqp_error *error)
{
	ew_amqp_error_set(&channel->error, error->error, error->code, "%s", error->text);
	channel->state = EW_AMQP_ENDED;
	tell_all(channel);
	ew_event_set(&channel->closed);
	channel->connection->channels[channel->number] = NULL;
	ew_amqp_channel_put(channel);
}

int ew_amqp_channel_usable(const struct ew_amqp_channel *channel)
{
	ew_assert(channel->connection->worker == ew_worker());
	return channel->error.error;
}

/* ---- calls ---- */

/* The answer to the call before, which may have been cancelled, comes first. */
static int await_answer(struct ew_amqp_channel *channel)
{
	int r = channel->answer ? ew_event_wait(&channel->answered, EW_NEVER) : 0;

	return r < 0 ? r : ew_amqp_channel_usable(channel);
}

static int send_call(struct ew_amqp_channel *channel, amqp_method_number_t id, void *method,
		     amqp_method_number_t answer)
{
	int r = ew_amqp_say_in_turn(channel, id, method);

	if (r < 0)
		return r;
	ew_event_reset(&channel->answered);
	channel->answer = answer;
	/* The first call is channel.open. */
	channel->state = EW_AMQP_OPEN;
	return 0;
}

int ew_amqp_channel_call(struct ew_amqp_channel *channel, amqp_method_number_t id, void *method,
			 amqp_method_number_t answer)
{
	int r;

	channel->references++;
	EW_GUARD(held, channel, .close = ew_amqp_let_go_close, .abort = ew_amqp_let_go);
	EW_OWN(ew_mutex_hold, turn);

	r = ew_mutex_lock(&channel->turn, EW_NEVER, &turn);
	if (r == -EOWNERDEAD) {
		/* Whoever was ended here has left a call that is answered, or none. */
		ew_mutex_make_consistent(turn);
		r = 0;
	}
	if (r == 0)
		r = await_answer(channel);
	if (r == 0)
		r = send_call(channel, id, method, answer);
	return r < 0 ? r : await_answer(channel);
}

/* ---- the owner's side ---- */

/* From here on what comes is dropped, until the broker has answered. */
static void say_close(struct ew_amqp_channel *channel)
{
	amqp_channel_close_t close = { .reply_code = AMQP_REPLY_SUCCESS };

	ew_amqp_error_set(&channel->error, -ESHUTDOWN, 0, "the channel was closed here");
	channel->state = EW_AMQP_CLOSING;
	channel->closing = true;
	channel->expected = EW_AMQP_EXPECT_METHOD;
	ew_abort(&channel->delivery);
	tell_all(channel);
	ew_amqp_say(channel->connection, channel->number, AMQP_CHANNEL_CLOSE_METHOD, &close);
}

/* One that the broker has not heard of is closed without a word. */
static void begin_close(struct ew_amqp_channel *channel)
{
	static const struct ew_amqp_error given_up = { .error = -ESHUTDOWN,
						       .text = "the channel was not opened" };

	if (channel->state == EW_AMQP_OPEN)
		say_close(channel);
	else if (channel->state == EW_AMQP_OPENING)
		ew_amqp_channel_ended(channel, &given_up);
}

static void channel_abort(void *resource)
{
	struct ew_amqp_channel *channel = resource;

	begin_close(channel);
	ew_resource_deinit(&channel->resource);
	ew_amqp_channel_put(channel);
}

static int channel_close(void *resource)
{
	struct ew_amqp_channel *channel = resource;
	int r;

	ew_assert(channel->connection->worker == ew_worker());
	begin_close(channel);
	r = ew_event_wait(&channel->closed, EW_NEVER);
	if (r < 0)
		return r;
	if (channel->closing && !channel->close_answered)
		r = channel->connection->error.error;
	ew_resource_deinit(&channel->resource);
	ew_amqp_channel_put(channel);
	/* That word would mean that it has not ended. */
	return r == -ECANCELED ? -ECONNABORTED : r;
}

static const struct ew_resource_type channel_type = {
	.name = "AMQP channel",
	.close = channel_close,
	.abort = channel_abort,
};

static unsigned free_number(const struct ew_amqp_connection *connection)
{
	for (unsigned number = 1; number <= connection->channels_max; number++)
		if (!connection->channels[number])
			return number;
	return 0;
}

static struct ew_amqp_channel *allocate(struct ew_amqp_connection *connection, unsigned unconfirmed)
{
	struct ew_amqp_channel *channel = calloc(1, sizeof(*channel));

	if (!channel)
		return NULL;
	channel->unconfirmed_max = unconfirmed;
	channel->unconfirmed_end = &channel->unconfirmed;
	channel->next_tag = 1;
	channel->connection = connection;
	connection->references++;
	return channel;
}

/* Known to two: its owner, and the connection's table. */
static int channel_new(struct ew_amqp_connection *connection, unsigned unconfirmed,
		       const struct ew_site *site, struct ew_amqp_channel **ret_channel)
{
	unsigned number = free_number(connection);
	struct ew_amqp_channel *channel;

	if (number == 0)
		return -EAGAIN;
	channel = allocate(connection, unconfirmed);
	if (!channel)
		return -ENOMEM;
	channel->references = 2;
	channel->number = number;
	channel->state = EW_AMQP_OPENING;
	connection->channels[number] = channel;
	ew_resource_init(&channel->resource, &channel_type, site);
	*ret_channel = channel;
	return 0;
}

int(ew_amqp_channel_open)(struct ew_amqp_connection *connection,
			  const struct ew_amqp_channel_options *options,
			  struct ew_amqp_channel **ret_channel)
{
	const struct ew_site *site = ew__made_at;
	unsigned unconfirmed = options ? options->unconfirmed_max : 0;
	amqp_confirm_select_t select = {};
	amqp_channel_open_t open = {};
	int r;

	EW_OWN(ew_amqp_channel, channel);

	if (unconfirmed == 0)
		unconfirmed = UNCONFIRMED_DEFAULT;
	if (unconfirmed > UNCONFIRMED_MAX)
		return -EINVAL;
	if (connection->error.error)
		return connection->error.error;
	r = channel_new(connection, unconfirmed, site, &channel);
	if (r == 0)
		r = ew_amqp_channel_call(channel, AMQP_CHANNEL_OPEN_METHOD, &open,
					 AMQP_CHANNEL_OPEN_OK_METHOD);
	if (r == 0)
		r = ew_amqp_channel_call(channel, AMQP_CONFIRM_SELECT_METHOD, &select,
					 AMQP_CONFIRM_SELECT_OK_METHOD);
	if (r < 0)
		return r;
	*ret_channel = channel;
	channel = NULL;
	return 0;
}

const struct ew_amqp_error *ew_amqp_channel_error(const struct ew_amqp_channel *channel)
{
	return channel->error.error ? &channel->error : NULL;
}

static void add_argument(amqp_table_t *table, const char *name, uint8_t kind, int64_t number,
			 const char *text)
{
	amqp_table_entry_t *entry = &table->entries[table->num_entries++];

	entry->key = amqp_cstring_bytes(name);
	entry->value.kind = kind;
	if (text)
		entry->value.value.bytes = amqp_cstring_bytes(text);
	else
		entry->value.value.i64 = number;
}

static void add_arguments(amqp_table_t *table, const struct ew_amqp_queue *queue)
{
	if (queue->expires_ns > 0)
		add_argument(table, "x-expires", AMQP_FIELD_KIND_I64,
			     queue->expires_ns / EW_MILLISECOND, NULL);
	if (queue->bytes_max > 0) {
		add_argument(table, "x-max-length-bytes", AMQP_FIELD_KIND_I64, queue->bytes_max,
			     NULL);
		add_argument(table, "x-overflow", AMQP_FIELD_KIND_UTF8, 0, "reject-publish");
	}
}

int ew_amqp_queue_declare(struct ew_amqp_channel *channel, const struct ew_amqp_queue *queue,
			  char ret_name[256])
{
	amqp_table_entry_t arguments[3];
	amqp_queue_declare_t declare = {
		.arguments = { .entries = arguments },
		.queue = ew_amqp_text(queue->name),
		.passive = queue->passive,
		.durable = queue->durable,
		.exclusive = queue->exclusive,
		.auto_delete = queue->auto_delete,
	};
	int r;

	if (declare.queue.len >= EW_AMQP_TEXT_BYTES)
		return -EINVAL;
	add_arguments(&declare.arguments, queue);
	r = ew_amqp_channel_call(channel, AMQP_QUEUE_DECLARE_METHOD, &declare,
				 AMQP_QUEUE_DECLARE_OK_METHOD);
	if (r == 0 && ret_name)
		strcpy(ret_name, channel->answer_text);
	return r;
}

int ew_amqp_channel_close(struct ew_amqp_channel **channel)
{
	return ew_close(channel);
}
