/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * amqp/channel.h - AMQP 0-9-1 client: channels, what is published on them, and what they deliver
 *
 *	EW_OWN(ew_amqp_channel, channel);	// below its connection, above those that use it
 *
 *	r = ew_amqp_channel_open(connection, NULL, &channel);
 *	if (r == 0)
 *		r = ew_amqp_publish(channel, &message, &receipt);	// 0: the broker has it
 *
 * A refusal ends the channel it was about, not the connection: ew_amqp_channel_error() has the broker's words.
 */

#include "amqp/connection.h"
#include "amqp/message.h"

/** struct ew_amqp_channel - a resource; close waits for the broker's answer, abort only asks */
struct ew_amqp_channel;

/**
 * struct ew_amqp_channel_options - zero means the default in parentheses
 * @unconfirmed_max: messages published and not yet confirmed; who has one more waits in line (256); at most
 *                   65,536
 */
struct ew_amqp_channel_options {
	unsigned unconfirmed_max;
};

/**
 * ew_amqp_channel_open() - open a channel that confirms what is published on it
 * @options:     NULL for defaults
 * @ret_channel: an empty place
 *
 * Errors:  -EAGAIN all of channels_max are open; -EINVAL unconfirmed_max is out of range; -ENOMEM, -ECANCELED; those of
 *          struct ew_amqp_error
 */
EW_SUSPENDS int ew_amqp_channel_open(struct ew_amqp_connection *connection,
				     const struct ew_amqp_channel_options *options,
				     struct ew_amqp_channel **ret_channel);

/** ew_amqp_channel_error() - why it has ended; NULL while it is open. The channel's memory */
const struct ew_amqp_error *ew_amqp_channel_error(const struct ew_amqp_channel *channel);

/**
 * struct ew_amqp_queue - a queue to be there
 * @name:       "" or NULL: the broker chooses one
 * @expires_ns: it goes when nobody has consumed it for so long; 0: never (x-expires, in whole milliseconds)
 * @bytes_max:  of all messages in it; what would be beyond is nacked (x-max-length-bytes, x-overflow); 0: no bound
 *
 * One that is there with other arguments is refused.
 */
struct ew_amqp_queue {
	const char *name;
	bool passive; /* only ask whether it is there */
	bool durable;
	bool exclusive;
	bool auto_delete;
	int64_t expires_ns;
	int64_t bytes_max;
};

/**
 * ew_amqp_queue_declare() - see that a queue is there
 * @ret_name: its name, of at most 255 bytes and a NUL; NULL if nobody asks
 *
 * Cancellation: while it waits for the answer: the broker may have done it. The channel stays usable.
 * Errors:       those of struct ew_amqp_error, as -ENOENT, -EBUSY, -EINVAL; the channel has ended then. -EINVAL the name is
 *               longer than 255 bytes, -ENOMEM, -ECANCELED: it has not
 */
EW_SUSPENDS int ew_amqp_queue_declare(struct ew_amqp_channel *channel,
				      const struct ew_amqp_queue *queue, char ret_name[256]);

/** enum ew_amqp_fate - what became of a message */
enum ew_amqp_fate {
	EW_AMQP_NOT_SENT,  /* nobody has seen it */
	EW_AMQP_CONFIRMED, /* the broker has taken it over */
	EW_AMQP_RETURNED,  /* mandatory, and there is no queue for it */
	EW_AMQP_NACKED,	   /* the broker has failed to take it over */
	EW_AMQP_UNKNOWN, /* sent, and the answer will not come: repeat it with the same message id only */
};

/**
 * struct ew_amqp_receipt - about one message
 * @code, @text: of the broker, if it was returned
 */
struct ew_amqp_receipt {
	enum ew_amqp_fate fate;
	unsigned code;
	char text[256];
};

/**
 * ew_amqp_publish() - publish a message and wait for its confirmation
 * @ret_receipt: what became of it, also with every error; NULL if nobody asks
 *
 * A mandatory message needs a message_id, by which a return is told from those of others: no two that are
 * unconfirmed on a channel may have the same.
 * Suspends:     in line for unconfirmed_max and output_bytes_max, then until the broker has spoken.
 * Cancellation: in line: it was not sent. Later: unknown; the broker's answer is still awaited, and counted against
 *               unconfirmed_max, by the channel.
 * Ownership:    borrows the message until it is queued, that is, until this returns.
 * Return:       0 confirmed.
 * Errors:       -EHOSTUNREACH returned; -EREMOTEIO nacked; -EBUSY not sent: the broker takes no messages now;
 *               -EMSGSIZE longer than message_bytes_max, or properties that no frame holds; -EINVAL a string is longer than
 *               255 bytes, there are more headers or longer names of them than struct ew_amqp_header has it, or a mandatory
 *               message has no id; -ENOMEM; -ECANCELED; those of struct ew_amqp_error.
 */
EW_SUSPENDS int ew_amqp_publish(struct ew_amqp_channel *channel,
				const struct ew_amqp_message *message,
				struct ew_amqp_receipt *ret_receipt);

/** ew_amqp_channel_settled() - how many messages the channel awaits no confirmation of any more */
uint64_t ew_amqp_channel_settled(const struct ew_amqp_channel *channel);

/**
 * struct ew_amqp_consumer - what is consumed
 * @queue:        for answers by direct reply-to: EW_AMQP_REPLY_TO, with no_ack
 * @no_ack:       what was sent counts as handled
 * @exclusive:    nobody else may consume it
 * @prefetch_max: deliveries that wait to be received, or, without no_ack, to be acknowledged; 0: 16; at most 1,024.
 *                With no_ack the broker knows no bound: when so many wait, the whole connection waits to be read, and
 *                with it whoever awaits an answer on it, an ending too. Choose it so that all that may come fits
 */
struct ew_amqp_consumer {
	const char *queue;
	bool no_ack;
	bool exclusive;
	unsigned prefetch_max;
};

#define EW_AMQP_REPLY_TO "amq.rabbitmq.reply-to"

/**
 * ew_amqp_consume() - have messages delivered on this channel, until it ends; once a channel
 * Errors:  -EBUSY it consumes already, also if that was cancelled; -EINVAL, -ENOMEM, -ECANCELED; those of struct
 *          ew_amqp_error
 */
EW_SUSPENDS int ew_amqp_consume(struct ew_amqp_channel *channel,
				const struct ew_amqp_consumer *consumer);

/**
 * ew_amqp_receive() - the next delivery
 * @ret_delivery: an empty place
 *
 * Cancellation: a delivery that comes while a cancel arrives is received: the cancel comes at the next suspension.
 * Errors:       -EIDRM the broker has ended it (the queue was deleted); -EINVAL nothing is consumed here;
 *               -ECANCELED; those of struct ew_amqp_error. Deliveries that had come before are received first.
 */
EW_SUSPENDS int ew_amqp_receive(struct ew_amqp_channel *channel,
				struct ew_amqp_delivery **ret_delivery);

/**
 * ew_amqp_acknowledge() - tell the broker that a delivery of this channel is done with
 * @delivery: taken on success; one that just ends is delivered again when its channel has ended
 *
 * Suspends:     in line for output_bytes_max.
 * Errors:       -EINVAL there is nothing to acknowledge (no_ack); -ENOMEM, -ECANCELED: nothing was said; those of struct
 *               ew_amqp_error
 */
EW_SUSPENDS int ew_amqp_acknowledge(struct ew_amqp_channel *channel,
				    struct ew_amqp_delivery **delivery);

/**
 * ew_amqp_acknowledge_tag() - the same of a delivery that has been given away or ended, by the tag that it had
 * Errors:  as ew_amqp_acknowledge()
 */
EW_SUSPENDS int ew_amqp_acknowledge_tag(struct ew_amqp_channel *channel, uint64_t tag);

/**
 * ew_amqp_reject() - give a delivery back, or, without @requeue, away; otherwise as ew_amqp_acknowledge()
 * Errors:  as ew_amqp_acknowledge()
 */
EW_SUSPENDS int ew_amqp_reject(struct ew_amqp_channel *channel, struct ew_amqp_delivery **delivery,
			       bool requeue);

/**
 * ew_amqp_channel_close() - close it, and wait until the broker has said so
 *
 * Return:  0, also of a channel that had ended before, which its users were told.
 * Errors:  those of struct ew_amqp_error: the connection was lost meanwhile; -ECANCELED no time was left: aborted
 */
EW_SUSPENDS int ew_amqp_channel_close(struct ew_amqp_channel **channel);

#define ew_amqp_channel_open(...)                                                                  \
	(ew__here(EW_SITE("ew_amqp_channel_open")), ew_amqp_channel_open(__VA_ARGS__))
