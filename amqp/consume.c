/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Deliveries wait in a channel of the runtime's, from which they are received. When it is full the one who reads the
 * connection waits, and with him the connection: the broker is held back by TCP. With acknowledgements the broker keeps
 * to the prefetch, and this does not happen.
 */

#include "amqp/internal.h"

#include <endwell/clock.h>
#include <errno.h>
#include <string.h>

#define PREFETCH_DEFAULT 16
#define PREFETCH_MAX	 1024

static int begin(struct ew_amqp_channel *channel, const struct ew_amqp_consumer *consumer,
		 unsigned prefetch)
{
	amqp_basic_qos_t qos = { .prefetch_count = (uint16_t)prefetch };
	amqp_basic_consume_t consume = {
		.queue = ew_amqp_text(consumer->queue),
		.no_ack = consumer->no_ack,
		.exclusive = consumer->exclusive,
	};
	int r = 0;

	if (!consumer->no_ack)
		r = ew_amqp_channel_call(channel, AMQP_BASIC_QOS_METHOD, &qos,
					 AMQP_BASIC_QOS_OK_METHOD);
	if (r < 0)
		return r;
	return ew_amqp_channel_call(channel, AMQP_BASIC_CONSUME_METHOD, &consume,
				    AMQP_BASIC_CONSUME_OK_METHOD);
}

int ew_amqp_consume(struct ew_amqp_channel *channel, const struct ew_amqp_consumer *consumer)
{
	unsigned prefetch = consumer->prefetch_max ? consumer->prefetch_max : PREFETCH_DEFAULT;
	int r = ew_amqp_channel_usable(channel);

	if (r < 0)
		return r;
	if (channel->queue)
		return -EBUSY;
	if (!consumer->queue || strlen(consumer->queue) >= EW_AMQP_TEXT_BYTES ||
	    prefetch > PREFETCH_MAX)
		return -EINVAL;
	/* The first delivery may come right behind the answer. */
	r = ew_channel_new_of_resources(prefetch, &channel->queue);
	if (r < 0)
		return r;
	channel->no_ack = consumer->no_ack;
	return begin(channel, consumer, prefetch);
}

/* A cancel from outside does not lose what has come; one that lasts longer than endings may take ends the connection. */
static int wait_for_room(struct ew_amqp_channel *channel, struct ew_amqp_delivery **delivery)
{
	struct ew_amqp_connection *connection = channel->connection;
	int r = ew_channel_send(channel->queue, EW_NEVER, delivery);

	if (r == -ECANCELED) {
		EW_SHIELD(shield, .budget_ns = connection->drain_ns);
		r = ew_channel_send(channel->queue, EW_NEVER, delivery);
	}
	if (r == -ECANCELED)
		ew_amqp_lost(connection, r, EW_AMQP_TIME_OVER);
	/* What the broker said meanwhile has not been listened to. */
	connection->heard_ns = ew_now();
	return r;
}

int ew_amqp_deliver(struct ew_amqp_channel *channel)
{
	int r;

	EW_OWN(ew_amqp_delivery, delivery);

	delivery = channel->delivery;
	channel->delivery = NULL;
	r = ew_channel_try_send(channel->queue, &delivery);
	if (r == -EAGAIN) {
		/* The owner may close it meanwhile. */
		channel->references++;
		EW_GUARD(held, channel, .close = ew_amqp_let_go_close, .abort = ew_amqp_let_go);
		r = wait_for_room(channel, &delivery);
	}
	/* Closed: nobody wants it any more. */
	return r == -EPIPE ? 0 : r;
}

int ew_amqp_receive(struct ew_amqp_channel *channel, struct ew_amqp_delivery **ret_delivery)
{
	int r;

	if (!channel->queue)
		return -EINVAL;
	r = ew_channel_receive(channel->queue, EW_NEVER, ret_delivery);
	if (r != 0)
		return r < 0 ? r : 0;
	return channel->error.error ? channel->error.error : -EIDRM;
}

int ew_amqp_acknowledge_tag(struct ew_amqp_channel *channel, uint64_t tag)
{
	amqp_basic_ack_t ack = { .delivery_tag = tag };

	return tag == 0 ? -EINVAL : ew_amqp_say_in_turn(channel, AMQP_BASIC_ACK_METHOD, &ack);
}

int ew_amqp_acknowledge(struct ew_amqp_channel *channel, struct ew_amqp_delivery **delivery)
{
	int r = ew_amqp_acknowledge_tag(channel, (*delivery)->tag);

	if (r == 0)
		ew_abort(delivery);
	return r;
}

int ew_amqp_reject(struct ew_amqp_channel *channel, struct ew_amqp_delivery **delivery,
		   bool requeue)
{
	amqp_basic_reject_t reject = { .delivery_tag = (*delivery)->tag, .requeue = requeue };

	int r;

	if (reject.delivery_tag == 0)
		return -EINVAL;
	r = ew_amqp_say_in_turn(channel, AMQP_BASIC_REJECT_METHOD, &reject);
	if (r == 0)
		ew_abort(delivery);
	return r;
}
