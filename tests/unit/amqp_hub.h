/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * A broker with queues, for whole programs in one run: it listens, and each connection is a broker of amqp_broker.h with a
 * task that reads and one that writes. It has the default exchange, acknowledgements, prefetch, redelivery, expiration,
 * confirms, returns, direct reply-to and exclusive queues; what it does badly, the test decides.
 *
 * It is none of those that a cancel of the test concerns, and ends when it is told to: hub_stop().
 */

#include "amqp_broker.h"

#include <endwell/testing.h>

#define HUB_CHANNELS_MAX 16
#define HUB_HEARTBEAT	 (5 * EW_SECOND) /* half of what our client wants */
#define HUB_PATIENCE	 (EW_NEVER / 2)	 /* longer than the clock may leap */

struct peer;
struct hub;

/* A message, on its way. */
struct letter {
	struct letter *next;
	struct ew_amqp_delivery *content;
	char reply_to[64];
	int64_t expires_ns; /* EW_NEVER: it does not */
	bool redelivered;
};

struct consumer {
	struct consumer *next;
	struct peer *peer;
	unsigned channel;
	unsigned
		room; /* deliveries that may still be unacknowledged; without acknowledgements it stays */
	bool no_ack;
};

struct queue {
	struct queue *next;
	char name[64];
	struct peer *owner; /* of an exclusive one */
	struct letter *first;
	struct consumer *consumers;
};

/* Delivered, and not acknowledged. */
struct unacked {
	struct unacked *next;
	struct letter *letter;
	struct queue *queue;
	struct consumer *consumer; /* NULL: it has been cancelled */
	uint64_t tag;
};

struct peer_channel {
	bool is_open;	   /* it was asked for */
	char reply_to[64]; /* "": it consumes no direct replies */
	unsigned prefetch;
	uint64_t seen, sent; /* tags */
	struct unacked *unacked;
	struct letter *coming;
	bool mandatory; /* that one */
	uint64_t left;	/* of its body */
};

struct peer {
	struct peer *next;
	struct hub *hub;
	unsigned number;
	struct ew_socket *socket;
	struct ew_scope *reading;
	struct ew_amqp_output sending;
	struct ew_event output;
	bool over; /* nothing more to send */
	bool cut;  /* what is to be sent ends in the middle, and then the connection */
	struct peer_channel channels[HUB_CHANNELS_MAX];
	struct broker broker; /* last: its input is not cleared */
};

/* What is done with a message. */
enum mood {
	MOOD_TAKE,
	MOOD_NACK,
	MOOD_NACK_AND_TAKE, /* one of several queues has it */
	MOOD_RETURN,
	MOOD_FORGET,  /* taken, never confirmed */
	MOOD_HANG_UP, /* taken, and no word about it */
	MOOD_LOSE,    /* not taken, and no word about it */
};

struct hub {
	struct ew_listener *listener;
	struct ew_scope *accepting; /* NULL: not yet, or no more */
	bool stopped;
	struct peer *peers;
	struct queue *queues;
	unsigned numbers; /* of peers, reply addresses and queues */
	/* The test's words: what to do with a message, what goes out, and that a connection is no more. */
	enum mood (*judge)(struct peer *peer, const struct ew_amqp_message *message);
	void (*delivers)(struct peer *peer, const struct letter *letter);
	void (*lost)(struct peer *peer);
	int64_t (*delays)(void); /* before something is sent */
	int64_t (*dozes)(void);	 /* before something is read */
	/* May change what is sent, whole frames. */
	void (*tampers)(struct peer *peer, struct ew_amqp_output *output);
};

static void letter_free(struct letter *letter)
{
	if (letter)
		ew_abort(&letter->content);
	free(letter);
}

static void hub_flush(struct peer *peer)
{
	ew_event_set(&peer->output);
}

static struct queue *hub_queue(struct hub *hub, const char *name)
{
	struct queue *queue = hub->queues;

	while (queue && strcmp(queue->name, name) != 0)
		queue = queue->next;
	return queue;
}

static UNUSED struct queue *hub_add_queue(struct hub *hub, const char *name, struct peer *owner)
{
	struct queue *queue = calloc(1, sizeof(*queue));

	broker_must(queue ? 0 : -ENOMEM);
	snprintf(queue->name, sizeof(queue->name), "%s", name);
	queue->owner = owner;
	queue->next = hub->queues;
	hub->queues = queue;
	return queue;
}

static void queue_free(struct queue *queue)
{
	struct letter *letter;
	struct consumer *consumer;

	while ((letter = queue->first)) {
		queue->first = letter->next;
		letter_free(letter);
	}
	while ((consumer = queue->consumers)) {
		queue->consumers = consumer->next;
		free(consumer);
	}
	free(queue);
}

/* ---- what goes out ---- */

static void hub_deliver(struct peer *peer, unsigned channel, uint64_t tag,
			const struct letter *letter)
{
	struct ew_amqp_message message = letter->content->message;
	amqp_basic_deliver_t deliver = { .consumer_tag = amqp_cstring_bytes("t"),
					 .delivery_tag = tag,
					 .redelivered = letter->redelivered,
					 .exchange = ew_amqp_text(message.exchange),
					 .routing_key = ew_amqp_text(message.routing_key) };

	if (letter->reply_to[0])
		message.reply_to = letter->reply_to;
	if (peer->hub->delivers)
		peer->hub->delivers(peer, letter);
	broker_say_content(&peer->broker, channel, AMQP_BASIC_DELIVER_METHOD, &deliver, &message);
	hub_flush(peer);
}

/* Whoever has waited longest. */
static struct consumer *free_consumer(struct queue *queue)
{
	struct consumer **link = &queue->consumers, *consumer;

	while (*link && (*link)->room == 0)
		link = &(*link)->next;
	consumer = *link;
	if (!consumer)
		return NULL;
	*link = consumer->next;
	consumer->next = NULL;
	for (link = &queue->consumers; *link; link = &(*link)->next)
		;
	*link = consumer;
	return consumer;
}

static void hand_over(struct queue *queue, struct consumer *consumer, struct letter *letter)
{
	struct peer_channel *channel = &consumer->peer->channels[consumer->channel];
	struct unacked *unacked;

	hub_deliver(consumer->peer, consumer->channel, ++channel->sent, letter);
	if (consumer->no_ack) {
		letter_free(letter);
		return;
	}
	unacked = malloc(sizeof(*unacked));
	broker_must(unacked ? 0 : -ENOMEM);
	*unacked = (struct unacked){ channel->unacked, letter, queue, consumer, channel->sent };
	channel->unacked = unacked;
	consumer->room--;
}

static void dispatch(struct queue *queue)
{
	struct consumer *consumer;
	struct letter *letter;

	while ((letter = queue->first)) {
		bool expired = letter->expires_ns <= ew_now();

		consumer = expired ? NULL : free_consumer(queue);
		if (!expired && !consumer)
			return;
		queue->first = letter->next;
		if (expired)
			letter_free(letter);
		else
			hand_over(queue, consumer, letter);
	}
}

static void enqueue(struct queue *queue, struct letter *letter)
{
	struct letter **link = &queue->first;

	while (*link)
		link = &(*link)->next;
	letter->next = NULL;
	*link = letter;
	dispatch(queue);
}

/* Back to where it was, the head. */
static void requeue(struct queue *queue, struct letter *letter)
{
	letter->redelivered = true;
	letter->next = queue->first;
	queue->first = letter;
	dispatch(queue);
}

static struct peer *reply_peer(struct hub *hub, const char *address, unsigned *ret_channel)
{
	for (struct peer *peer = hub->peers; peer; peer = peer->next)
		for (unsigned i = 0; i < HUB_CHANNELS_MAX; i++)
			if (*address && strcmp(peer->channels[i].reply_to, address) == 0) {
				*ret_channel = i;
				return peer;
			}
	return NULL;
}

/* False: there is no queue for it, and it is still the caller's. */
static bool route_letter(struct hub *hub, struct letter *letter)
{
	const char *key = letter->content->message.routing_key;
	struct queue *queue = hub_queue(hub, key);
	unsigned channel;
	struct peer *peer;

	if (queue) {
		enqueue(queue, letter);
		return true;
	}
	peer = reply_peer(hub, key, &channel);
	if (!peer)
		return false;
	hub_deliver(peer, channel, ++peer->channels[channel].sent, letter);
	letter_free(letter);
	return true;
}

/* ---- what comes in ---- */

static void say_returned(struct peer *peer, unsigned channel, const struct letter *letter)
{
	amqp_basic_return_t returned = { .reply_code = AMQP_NO_ROUTE,
					 .reply_text = amqp_cstring_bytes("NO_ROUTE") };

	broker_say_content(&peer->broker, channel, AMQP_BASIC_RETURN_METHOD, &returned,
			   &letter->content->message);
}

static int say_fate(struct peer *peer, unsigned channel, enum mood mood)
{
	uint64_t tag = peer->channels[channel].seen;
	amqp_basic_nack_t nack = { .delivery_tag = tag };

	if (mood == MOOD_HANG_UP || mood == MOOD_LOSE)
		return -ECONNRESET;
	if (mood == MOOD_FORGET)
		return 1;
	if (mood == MOOD_NACK || mood == MOOD_NACK_AND_TAKE)
		return broker_say(&peer->broker, channel, AMQP_BASIC_NACK_METHOD, &nack);
	return broker_confirm(&peer->broker, channel, tag, false);
}

/* A message has come whole. */
static int take_letter(struct peer *peer, unsigned channel)
{
	struct peer_channel *here = &peer->channels[channel];
	struct letter *letter = here->coming;
	enum mood mood = MOOD_TAKE;

	here->coming = NULL;
	here->seen++;
	if (peer->hub->judge)
		mood = peer->hub->judge(peer, &letter->content->message);
	if (mood == MOOD_RETURN && here->mandatory)
		say_returned(peer, channel, letter);
	if (mood == MOOD_NACK || mood == MOOD_RETURN || mood == MOOD_LOSE) {
		letter_free(letter);
	} else if (!route_letter(peer->hub, letter)) {
		if (here->mandatory)
			say_returned(peer, channel, letter);
		letter_free(letter);
	}
	return say_fate(peer, channel, mood);
}

static int begin_letter(struct peer *peer, unsigned channel, const amqp_basic_publish_t *publish)
{
	struct peer_channel *here = &peer->channels[channel];
	const amqp_basic_deliver_t as_delivered = { .exchange = publish->exchange,
						    .routing_key = publish->routing_key };

	here->coming = calloc(1, sizeof(*here->coming));
	broker_must(here->coming ? 0 : -ENOMEM);
	here->mandatory = publish->mandatory;
	broker_must(ew_amqp_delivery_new(&as_delivered, true, &here->coming->content));
	return 1;
}

static void describe_letter(struct peer *peer, unsigned channel, const struct ew_amqp_frame *frame)
{
	struct peer_channel *here = &peer->channels[channel];
	struct letter *letter = here->coming;
	struct ew_amqp_content content;
	const struct ew_amqp_message *message = &letter->content->message;

	broker_must(ew_amqp_frame_content(frame, &peer->broker.pool, &content));
	broker_must(ew_amqp_delivery_describe(letter->content, &content, BROKER_INPUT_BYTES));
	here->left = content.body_bytes;
	letter->expires_ns = message->expiration
				     ? ew_after(atoll(message->expiration) * EW_MILLISECOND)
				     : EW_NEVER;
	if (message->reply_to && strcmp(message->reply_to, EW_AMQP_REPLY_TO) == 0)
		snprintf(letter->reply_to, sizeof(letter->reply_to), "%s", here->reply_to);
}

static int on_frame(struct broker *broker, const struct ew_amqp_frame *frame)
{
	struct peer *peer = broker->argument;
	struct peer_channel *here = &peer->channels[frame->channel];
	amqp_method_t method;

	EXPECT(frame->channel < HUB_CHANNELS_MAX);
	if (frame->type == AMQP_FRAME_METHOD) {
		method = broker_decode(broker, frame);
		return method.id == AMQP_BASIC_PUBLISH_METHOD
			       ? begin_letter(peer, frame->channel, method.decoded)
			       : 0;
	}
	/* What follows is of a channel that we have closed. */
	if (!here->coming)
		return 1;
	if (frame->type == AMQP_FRAME_HEADER) {
		describe_letter(peer, frame->channel, frame);
	} else {
		EXPECT(frame->payload_bytes <= here->left);
		memcpy(here->coming->content->body + here->coming->content->message.body_bytes -
			       here->left,
		       frame->payload, frame->payload_bytes);
		here->left -= frame->payload_bytes;
	}
	return here->left == 0 ? take_letter(peer, frame->channel) : 1;
}

/* ---- the end of a channel, or of all ---- */

static void stop_consumers(struct queue *queue, const struct peer *peer, unsigned channel)
{
	struct consumer **link = &queue->consumers, *consumer;

	while ((consumer = *link)) {
		if (consumer->peer == peer && consumer->channel == channel) {
			*link = consumer->next;
			free(consumer);
		} else {
			link = &consumer->next;
		}
	}
}

static void stop_channel(struct peer *peer, unsigned channel)
{
	for (struct queue *queue = peer->hub->queues; queue; queue = queue->next)
		stop_consumers(queue, peer, channel);
	letter_free(peer->channels[channel].coming);
	peer->channels[channel].coming = NULL;
	peer->channels[channel].reply_to[0] = '\0';
}

/* What was not acknowledged comes again, the oldest first. */
static void give_back_all(struct peer_channel *channel)
{
	struct unacked *unacked;

	while ((unacked = channel->unacked)) {
		channel->unacked = unacked->next;
		requeue(unacked->queue, unacked->letter);
		free(unacked);
	}
}

static void end_channel(struct peer *peer, unsigned channel)
{
	stop_channel(peer, channel);
	give_back_all(&peer->channels[channel]);
	peer->channels[channel] = (struct peer_channel){};
}

static UNUSED int refuse_channel(struct peer *peer, unsigned channel, uint16_t code,
				 const char *why)
{
	amqp_channel_close_t close = { .reply_code = code, .reply_text = amqp_cstring_bytes(why) };

	end_channel(peer, channel);
	broker_say(&peer->broker, channel, AMQP_CHANNEL_CLOSE_METHOD, &close);
	hub_flush(peer);
	return 1;
}

static bool has_consumer(const struct peer *peer, unsigned channel)
{
	for (struct queue *queue = peer->hub->queues; queue; queue = queue->next)
		for (struct consumer *at = queue->consumers; at; at = at->next)
			if (at->peer == peer && at->channel == channel)
				return true;
	return peer->channels[channel].reply_to[0];
}

/* As if its queue had been deleted; what it has not acknowledged it still has. */
static UNUSED void cancel_consumer(struct peer *peer, unsigned channel)
{
	struct peer_channel *here = &peer->channels[channel];
	amqp_basic_cancel_t cancel = { .consumer_tag = amqp_cstring_bytes("t"), .nowait = 1 };

	if (!has_consumer(peer, channel))
		return;
	for (struct unacked *unacked = here->unacked; unacked; unacked = unacked->next)
		unacked->consumer = NULL;
	for (struct queue *queue = peer->hub->queues; queue; queue = queue->next)
		stop_consumers(queue, peer, channel);
	here->reply_to[0] = '\0';
	broker_say(&peer->broker, channel, AMQP_BASIC_CANCEL_METHOD, &cancel);
	hub_flush(peer);
}

/* Only of a channel that has been used, and so is open. */
static UNUSED void change_flow(struct peer *peer, unsigned channel, bool active)
{
	const struct peer_channel *here = &peer->channels[channel];
	amqp_channel_flow_t flow = { .active = active };

	if (!here->prefetch && !here->reply_to[0] && !here->seen)
		return;
	broker_say(&peer->broker, channel, AMQP_CHANNEL_FLOW_METHOD, &flow);
	hub_flush(peer);
}

/* ---- methods ---- */

static int declare(struct peer *peer, unsigned channel, const amqp_queue_declare_t *asked)
{
	char name[64];
	amqp_queue_declare_ok_t declare_ok = {};

	ew_amqp_copy_text(asked->queue, name, sizeof(name));
	if (!name[0])
		snprintf(name, sizeof(name), "amq.gen-%u", ++peer->hub->numbers);
	if (!hub_queue(peer->hub, name))
		hub_add_queue(peer->hub, name, asked->exclusive ? peer : NULL);
	declare_ok.queue = amqp_cstring_bytes(name);
	return broker_say(&peer->broker, channel, AMQP_QUEUE_DECLARE_OK_METHOD, &declare_ok);
}

static int consume(struct peer *peer, unsigned channel, const amqp_method_t *method)
{
	const amqp_basic_consume_t *asked = method->decoded;
	struct peer_channel *here = &peer->channels[channel];
	struct consumer *consumer;
	struct queue *queue;
	char name[64];

	ew_amqp_copy_text(asked->queue, name, sizeof(name));
	if (strcmp(name, EW_AMQP_REPLY_TO) == 0) {
		snprintf(here->reply_to, sizeof(here->reply_to), EW_AMQP_REPLY_TO ".%u",
			 ++peer->hub->numbers);
		return 0;
	}
	queue = hub_queue(peer->hub, name);
	if (!queue)
		return refuse_channel(peer, channel, AMQP_NOT_FOUND, "NOT_FOUND - no queue");
	consumer = calloc(1, sizeof(*consumer));
	broker_must(consumer ? 0 : -ENOMEM);
	*consumer = (struct consumer){ queue->consumers, peer, channel,
				       asked->no_ack ? 1 : here->prefetch, asked->no_ack };
	queue->consumers = consumer;
	broker_answer(&peer->broker, channel, method);
	dispatch(queue);
	return 1;
}

static struct unacked *take_unacked(struct peer_channel *channel, uint64_t tag)
{
	struct unacked **link = &channel->unacked, *unacked;

	while (*link && (*link)->tag != tag)
		link = &(*link)->next;
	unacked = *link;
	if (unacked)
		*link = unacked->next;
	return unacked;
}

static int settle_delivery(struct peer *peer, unsigned channel, uint64_t tag, bool again)
{
	struct unacked *unacked = take_unacked(&peer->channels[channel], tag);
	struct queue *queue;

	/* Of a channel that we have closed meanwhile. */
	if (!unacked)
		return 1;
	queue = unacked->queue;
	if (unacked->consumer)
		unacked->consumer->room++;
	if (again)
		requeue(queue, unacked->letter);
	else
		letter_free(unacked->letter);
	free(unacked);
	dispatch(queue);
	return 1;
}

static int on_method(struct broker *broker, unsigned channel, const amqp_method_t *method)
{
	struct peer *peer = broker->argument;
	const amqp_basic_qos_t *qos = method->decoded;
	const amqp_basic_ack_t *ack = method->decoded;
	const amqp_basic_reject_t *reject = method->decoded;

	switch (method->id) {
	case AMQP_CHANNEL_OPEN_METHOD: peer->channels[channel].is_open = true; return 0;
	case AMQP_BASIC_QOS_METHOD:
		peer->channels[channel].prefetch = qos->prefetch_count;
		return 0;
	case AMQP_CHANNEL_CLOSE_METHOD: end_channel(peer, channel); return 0;
	case AMQP_QUEUE_DECLARE_METHOD: return declare(peer, channel, method->decoded);
	case AMQP_BASIC_CONSUME_METHOD: return consume(peer, channel, method);
	case AMQP_BASIC_ACK_METHOD: return settle_delivery(peer, channel, ack->delivery_tag, false);
	case AMQP_BASIC_REJECT_METHOD:
		return settle_delivery(peer, channel, reject->delivery_tag, reject->requeue);
	default: return 0;
	}
}

/* ---- the end of a connection ---- */

static void drop_queues(struct peer *peer)
{
	struct queue **link = &peer->hub->queues, *queue;

	while ((queue = *link)) {
		if (queue->owner == peer) {
			*link = queue->next;
			queue_free(queue);
		} else {
			link = &queue->next;
		}
	}
}

static void peer_end(void *argument)
{
	struct peer *peer = argument, **link = &peer->hub->peers;

	while (*link != peer)
		link = &(*link)->next;
	*link = peer->next;
	if (peer->hub->lost)
		peer->hub->lost(peer);
	for (unsigned i = 0; i < HUB_CHANNELS_MAX; i++)
		stop_channel(peer, i);
	for (unsigned i = 0; i < HUB_CHANNELS_MAX; i++)
		give_back_all(&peer->channels[i]);
	drop_queues(peer);
	ew_amqp_output_free(&peer->sending);
	broker_free(&peer->broker);
	free(peer);
}

static int peer_end_close(void *peer)
{
	peer_end(peer);
	return 0;
}

/* ---- the two tasks of a connection ---- */

static int send_some(struct peer *peer)
{
	int64_t delay_ns = peer->hub->delays ? peer->hub->delays() : 0;
	int r = delay_ns > 0 ? ew_sleep(delay_ns) : 0;
	bool cut = peer->cut;

	ew_amqp_output_free(&peer->sending);
	peer->sending = peer->broker.output;
	peer->broker.output = (struct ew_amqp_output){};
	if (peer->hub->tampers)
		peer->hub->tampers(peer, &peer->sending);
	if (r == 0)
		r = ew_socket_send(peer->socket, peer->sending.data,
				   cut ? peer->sending.bytes / 2 : peer->sending.bytes);
	return r == 0 && cut ? -ECONNRESET : r;
}

static int peer_write(void *argument)
{
	struct peer *peer = argument;
	int r = 0;

	while (r == 0 && (peer->broker.output.bytes > 0 || !peer->over)) {
		if (peer->broker.output.bytes > 0) {
			r = send_some(peer);
			continue;
		}
		ew_event_reset(&peer->output);
		r = ew_event_wait(&peer->output, ew_after(HUB_HEARTBEAT));
		if (r == -ETIMEDOUT)
			r = ew_amqp_output_heartbeat(&peer->broker.output);
	}
	/* Whoever reads has nobody to answer. */
	if (r < 0 && peer->reading)
		ew_scope_cancel(peer->reading, EW_REASON_PEER);
	return r;
}

static int doze(struct hub *hub)
{
	int64_t time_ns = hub->dozes ? hub->dozes() : 0;

	return time_ns > 0 ? ew_sleep(time_ns) : 0;
}

static int peer_read(struct peer *peer)
{
	amqp_connection_start_t start = { .version_minor = 9,
					  .mechanisms = amqp_cstring_bytes("PLAIN"),
					  .locales = amqp_cstring_bytes("en_US") };
	struct broker *broker = &peer->broker;
	int r = 1;

	while (r > 0 && broker->bytes < EW_AMQP_PROTOCOL_HEADER_BYTES)
		r = broker_receive(broker);
	if (r <= 0)
		return r;
	broker->bytes -= EW_AMQP_PROTOCOL_HEADER_BYTES;
	memmove(broker->input, broker->input + EW_AMQP_PROTOCOL_HEADER_BYTES, broker->bytes);
	broker_say(broker, 0, AMQP_CONNECTION_START_METHOD, &start);
	while (r > 0) {
		hub_flush(peer);
		r = doze(peer->hub);
		if (r == 0)
			r = broker_receive(broker);
		if (r > 0)
			r = broker_handle_all(broker);
	}
	return r;
}

static void peer_reads_no_more(void *argument)
{
	((struct peer *)argument)->reading = NULL;
}

static int peer_reads_no_more_close(void *peer)
{
	peer_reads_no_more(peer);
	return 0;
}

static int peer_read_in_scope(struct peer *peer)
{
	EW_SCOPE(reading);
	EW_GUARD(end, peer, .close = peer_reads_no_more_close, .abort = peer_reads_no_more);

	peer->reading = &reading;
	return ew_scope_finish(&reading, peer_read(peer));
}

static int peer_converse(struct peer *peer)
{
	int r;

	EW_SCOPE(writing, .policy = EW_POLICY_INDEPENDENT);

	r = ew_spawn(&writing, peer_write, peer);
	if (r == 0)
		r = peer_read_in_scope(peer);
	peer->over = true;
	hub_flush(peer);
	return ew_scope_finish(&writing, r);
}

static int peer_task(void *argument, void *place)
{
	struct ew_socket **socket = place;
	struct hub *hub = argument;
	struct peer *peer = malloc(sizeof(*peer));
	int r;

	if (!peer)
		return -ENOMEM;
	memset(peer, 0, offsetof(struct peer, broker));
	broker_init(&peer->broker);
	init_amqp_pool(&peer->broker.pool, 4096);
	peer->broker.socket = *socket;
	peer->broker.on = on_method;
	peer->broker.on_frame = on_frame;
	peer->broker.argument = peer;
	peer->hub = hub;
	peer->number = ++hub->numbers;
	peer->socket = *socket;
	peer->next = hub->peers;
	hub->peers = peer;

	EW_GUARD(memory, peer, .close = peer_end_close, .abort = peer_end);

	r = peer_converse(peer);
	return r == -ENOTRECOVERABLE ? r : 0;
}

/* ---- all of it ---- */

static int hub_accept(struct hub *hub)
{
	int r;

	EW_SCOPE(peers, .policy = EW_POLICY_INDEPENDENT);

	hub->accepting = &peers;
	if (hub->stopped)
		ew_scope_cancel(&peers, EW_REASON_REQUESTED);
	do {
		EW_OWN(ew_socket, socket);

		r = ew_listener_accept(hub->listener, &socket);
		if (r == 0)
			r = ew_spawn_take(&peers, peer_task, hub, &socket);
	} while (r != -ECANCELED);
	r = ew_scope_close(&peers, EW_NOW, EW_REASON_SHUTDOWN);
	hub->accepting = NULL;
	return r == -ENOTRECOVERABLE ? r : 0;
}

static void hub_free(void *argument)
{
	struct hub *hub = argument;
	struct queue *queue;

	hub->accepting = NULL;
	while ((queue = hub->queues)) {
		hub->queues = queue->next;
		queue_free(queue);
	}
}

static int hub_free_close(void *hub)
{
	hub_free(hub);
	return 0;
}

/* The task of a broker; its listener is open. */
static UNUSED int hub_task(void *argument)
{
	struct hub *hub = argument;

	/* A broker that has no memory would say nothing about the others. */
	ew_sweep_spare();

	EW_GUARD(memory, hub, .close = hub_free_close, .abort = hub_free);
	EW_SHIELD(shield, .budget_ns = HUB_PATIENCE);

	return hub_accept(hub);
}

static UNUSED void hub_stop(void *argument)
{
	struct hub *hub = argument;

	hub->stopped = true;
	if (hub->accepting)
		ew_scope_cancel(hub->accepting, EW_REASON_REQUESTED);
}

static UNUSED int hub_stop_close(void *hub)
{
	hub_stop(hub);
	return 0;
}
