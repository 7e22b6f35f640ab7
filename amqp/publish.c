/* SPDX-License-Identifier: Apache-2.0 */

/*
 * A message that was sent is the channel's until the broker has spoken, whether or not its publisher still waits: what the
 * broker has not answered counts against the bound.
 *
 * The broker says of a returned message first that it is returned and then that it is confirmed, and the return names no
 * number. So a mandatory message is known by its id.
 */

#include "amqp/internal.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

static int verdict(enum ew_amqp_fate fate)
{
	switch (fate) {
	case EW_AMQP_CONFIRMED: return 0;
	case EW_AMQP_RETURNED: return -EHOSTUNREACH;
	default: return -EREMOTEIO;
	}
}

/* It is out of the channel's list. Its publisher gives it back, if he still waits. */
static void settle(struct ew_amqp_unconfirmed *message, enum ew_amqp_fate fate, int error)
{
	message->receipt.fate = fate;
	message->error = error;
	if (!message->awaited)
		free(message);
	else
		ew_event_set(&message->settled);
}

static void take_out(struct ew_amqp_channel *channel, struct ew_amqp_unconfirmed **link)
{
	struct ew_amqp_unconfirmed *message = *link;

	*link = message->next;
	if (channel->unconfirmed_end == &message->next)
		channel->unconfirmed_end = link;
	channel->unconfirmed_count--;
	ew_event_set(&channel->may_publish);
}

static void confirm(struct ew_amqp_channel *channel, struct ew_amqp_unconfirmed **link,
		    enum ew_amqp_fate fate)
{
	struct ew_amqp_unconfirmed *message = *link;

	if (message->receipt.fate == EW_AMQP_RETURNED && fate == EW_AMQP_CONFIRMED)
		fate = EW_AMQP_RETURNED;
	take_out(channel, link);
	settle(message, fate, verdict(fate));
}

int ew_amqp_confirmed(struct ew_amqp_channel *channel, uint64_t tag, bool multiple,
		      enum ew_amqp_fate fate)
{
	struct ew_amqp_unconfirmed **link = &channel->unconfirmed;

	/* 0 is all that there are. */
	if (multiple && tag == 0)
		tag = channel->next_tag - 1;
	else if (tag == 0 || tag >= channel->next_tag)
		return ew_amqp_violated(
			channel->connection, AMQP_COMMAND_INVALID,
			"a confirmation of message %llu on channel %u, which has seen %llu",
			(unsigned long long)tag, channel->number,
			(unsigned long long)channel->next_tag - 1);
	while (multiple && *link && (*link)->tag <= tag)
		confirm(channel, link, fate);
	if (multiple)
		return 0;
	while (*link && (*link)->tag < tag)
		link = &(*link)->next;
	if (!*link || (*link)->tag != tag)
		return ew_amqp_violated(channel->connection, AMQP_COMMAND_INVALID,
					"a second confirmation of message %llu on channel %u",
					(unsigned long long)tag, channel->number);
	confirm(channel, link, fate);
	return 0;
}

void ew_amqp_returned(struct ew_amqp_channel *channel, amqp_bytes_t message_id)
{
	struct ew_amqp_unconfirmed *message;

	for (message = channel->unconfirmed; message; message = message->next) {
		if (message->receipt.fate == EW_AMQP_RETURNED || message_id.len == 0 ||
		    strlen(message->message_id) != message_id.len ||
		    memcmp(message->message_id, message_id.bytes, message_id.len) != 0)
			continue;
		message->receipt = channel->returned;
		message->receipt.fate = EW_AMQP_RETURNED;
		return;
	}
}

void ew_amqp_unconfirmed_ended(struct ew_amqp_channel *channel)
{
	struct ew_amqp_unconfirmed *message;

	while ((message = channel->unconfirmed)) {
		take_out(channel, &channel->unconfirmed);
		/* A return needs no confirmation to be true. */
		if (message->receipt.fate == EW_AMQP_RETURNED)
			settle(message, EW_AMQP_RETURNED, -EHOSTUNREACH);
		else
			settle(message, EW_AMQP_UNKNOWN, channel->error.error);
	}
}

/* The publisher goes, whether or not it has been settled. */
static void forget(void *argument)
{
	struct ew_amqp_unconfirmed *message = argument;

	message->awaited = false;
	if (ew_event_is_set(&message->settled))
		free(message);
}

static int forget_close(void *argument)
{
	forget(argument);
	return 0;
}

static bool is_short(const char *text)
{
	return !text || strnlen(text, EW_AMQP_TEXT_BYTES) < EW_AMQP_TEXT_BYTES;
}

static int check(const struct ew_amqp_channel *channel, const struct ew_amqp_message *message)
{
	if (!is_short(message->exchange) || !is_short(message->routing_key) ||
	    !is_short(message->content_type) || !is_short(message->correlation_id) ||
	    !is_short(message->reply_to) || !is_short(message->expiration) ||
	    !is_short(message->message_id) || !is_short(message->type))
		return -EINVAL;
	if (message->mandatory && (!message->message_id || !message->message_id[0]))
		return -EINVAL;
	if (message->headers_count > EW_AMQP_HEADERS_MAX)
		return -EINVAL;
	for (size_t i = 0; i < message->headers_count; i++)
		if (!message->headers[i].name || strnlen(message->headers[i].name, 129) > 128)
			return -EINVAL;
	return message->body_bytes > channel->connection->message_bytes_max ? -EMSGSIZE : 0;
}

static int append(struct ew_amqp_channel *channel, const struct ew_amqp_message *message,
		  struct ew_amqp_unconfirmed **ret_unconfirmed)
{
	struct ew_amqp_connection *connection = channel->connection;
	struct ew_amqp_unconfirmed *unconfirmed = calloc(1, sizeof(*unconfirmed));
	int r;

	if (!unconfirmed)
		return -ENOMEM;
	r = ew_amqp_output_publish(&connection->filling, channel->number, message,
				   connection->frame_bytes_max);
	if (r < 0) {
		free(unconfirmed);
		return r;
	}
	ew_amqp_output_appended(connection);
	unconfirmed->tag = channel->next_tag++;
	unconfirmed->awaited = true;
	unconfirmed->receipt.fate = EW_AMQP_UNKNOWN;
	if (message->message_id)
		strcpy(unconfirmed->message_id, message->message_id);
	*channel->unconfirmed_end = unconfirmed;
	channel->unconfirmed_end = &unconfirmed->next;
	channel->unconfirmed_count++;
	*ret_unconfirmed = unconfirmed;
	return 0;
}

/* Waits in line until one more may be unconfirmed; refused as soon as the broker takes no messages. */
static int wait_to_publish(struct ew_amqp_channel *channel, struct ew_mutex_hold **ret_turn)
{
	int r = ew_amqp_may_publish(channel);

	if (r < 0)
		return r;
	r = ew_mutex_lock(&channel->publish_turn, EW_NEVER, ret_turn);
	if (r == -EOWNERDEAD) {
		/* It stands for a place in the line, and protects nothing. */
		ew_mutex_make_consistent(*ret_turn);
		r = 0;
	}
	while (r == 0) {
		r = ew_amqp_may_publish(channel);
		if (r < 0 || channel->unconfirmed_count < channel->unconfirmed_max)
			break;
		ew_event_reset(&channel->may_publish);
		r = ew_event_wait(&channel->may_publish, EW_NEVER);
	}
	return r;
}

static int queue(struct ew_amqp_channel *channel, const struct ew_amqp_message *message,
		 struct ew_amqp_unconfirmed **ret_unconfirmed)
{
	size_t bytes = ew_amqp_publish_bytes(message, channel->connection->frame_bytes_max);
	int r;

	channel->references++;
	EW_GUARD(held, channel, .close = ew_amqp_let_go_close, .abort = ew_amqp_let_go);
	EW_OWN(ew_mutex_hold, publish_turn);
	EW_OWN(ew_mutex_hold, turn);

	r = wait_to_publish(channel, &publish_turn);
	if (r == 0)
		r = ew_amqp_output_turn(channel, bytes, true, &turn);
	return r < 0 ? r : append(channel, message, ret_unconfirmed);
}

static int await_confirmation(struct ew_amqp_unconfirmed *message,
			      struct ew_amqp_receipt *ret_receipt)
{
	int r;

	EW_GUARD(gone, message, .close = forget_close, .abort = forget);

	r = ew_event_wait(&message->settled, EW_NEVER);
	if (r < 0)
		return r;
	*ret_receipt = message->receipt;
	return message->error;
}

int ew_amqp_publish(struct ew_amqp_channel *channel, const struct ew_amqp_message *message,
		    struct ew_amqp_receipt *ret_receipt)
{
	struct ew_amqp_unconfirmed *unconfirmed = NULL;
	struct ew_amqp_receipt unasked, *receipt = ret_receipt ? ret_receipt : &unasked;
	int r;

	*receipt = (struct ew_amqp_receipt){ .fate = EW_AMQP_NOT_SENT };
	r = check(channel, message);
	if (r == 0)
		r = queue(channel, message, &unconfirmed);
	if (r < 0)
		return r;
	receipt->fate = EW_AMQP_UNKNOWN;
	return await_confirmation(unconfirmed, receipt);
}

uint64_t ew_amqp_channel_settled(const struct ew_amqp_channel *channel)
{
	return channel->next_tag - 1 - channel->unconfirmed_count;
}
