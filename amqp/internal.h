/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * amqp/internal.h - what a connection and its channels know of each other
 */

#include "amqp/channel.h"
#include "amqp/connection.h"
#include "amqp/delivery.h"
#include "amqp/frame.h"
#include "amqp/transport.h"

#include <endwell/channel.h>
#include <endwell/event.h>
#include <endwell/mutex.h>

#define EW_AMQP_TEXT_BYTES 256 /* a short string and a NUL */

enum ew_amqp_state {
	EW_AMQP_OPENING, /* of a channel: the broker has not been told */
	EW_AMQP_OPEN,
	EW_AMQP_CLOSING, /* we have said goodbye and wait for the answer */
	EW_AMQP_ENDED,	 /* @error says why, and everybody has been told */
};

struct ew_amqp_connection {
	struct ew_resource resource;
	unsigned references; /* its owner, its task, and each channel */
	struct ew_amqp_connection
		*self; /* its task's argument: the task is none of those that borrow it */
	enum ew_amqp_state state;
	struct ew_amqp_error error;
	int goodbye_error; /* instead of an answer to ours */
	unsigned worker;
	char user[EW_AMQP_TEXT_BYTES];
	char password[EW_AMQP_TEXT_BYTES];
	char virtual_host[EW_AMQP_TEXT_BYTES];
	char name[EW_AMQP_TEXT_BYTES];
	int64_t heartbeat_ns; /* 0: none was agreed */
	int64_t drain_ns;
	size_t frame_bytes_max;
	size_t message_bytes_max;
	size_t output_bytes_max;
	unsigned heartbeat_s;
	unsigned channels_max;
	unsigned next_method; /* in the order of opening */
	bool blocked;
	char blocked_reason[EW_AMQP_TEXT_BYTES];
	struct ew_event opened; /* or ended */
	struct ew_event ended;	/* its task too, or it was not started */
	/* Output: appended whole, by whoever has the turn, and sent by one task. */
	struct ew_mutex turn;
	struct ew_event room;	 /* for the one whose turn it is */
	struct ew_event output;	 /* there is some, or there will be no more */
	struct ew_event written; /* there will be no more, and all has been sent */
	struct ew_amqp_output filling;
	struct ew_amqp_output sending;
	size_t said_bytes; /* of those that are filling, without a turn */
	int64_t said_ns;
	/* Input: read by one task. */
	struct ew_resource *stream; /* that task's; NULL: not begun, or over */
	const struct ew_amqp_transport *transport;
	int64_t heard_ns;
	uint8_t *input;
	size_t input_bytes; /* that are in it */
	size_t input_at;    /* of them, looked at */
	amqp_pool_t pool;
	struct ew_amqp_channel **channels; /* channels_max + 1, by number */
};

/* A message that was sent and not yet confirmed. The channel's, and, while somebody waits for it, also that one's. */
struct ew_amqp_unconfirmed {
	struct ew_amqp_unconfirmed *next;
	struct ew_event settled; /* and out of the channel's list */
	uint64_t tag;
	bool awaited;
	struct ew_amqp_receipt receipt;
	int error;
	char message_id[EW_AMQP_TEXT_BYTES];
};

enum ew_amqp_expected { EW_AMQP_EXPECT_METHOD, EW_AMQP_EXPECT_HEADER, EW_AMQP_EXPECT_BODY };

/* Whoever stands in line to append something, of the channel that it is about. */
struct ew_amqp_stander {
	struct ew_scope *
		line; /* cancelled when the channel ends, or the broker takes no messages and this is one */
	bool publishing;
	struct ew_amqp_stander *next;
	struct ew_amqp_stander **link;
};

struct ew_amqp_channel {
	struct ew_resource resource;
	unsigned
		references; /* its owner, the connection's table, and who is in a call on it or delivers to it */
	struct ew_amqp_connection *connection;
	unsigned number;
	enum ew_amqp_state state;
	struct ew_amqp_error error;
	struct ew_event closed; /* the broker has said so, or it has ended */
	bool closing;		/* by us */
	bool close_answered;
	/* Calls that have an answer: one at a time. */
	struct ew_mutex turn;
	struct ew_event
		answered; /* the last call, also if nobody waits any more; or it has ended */
	amqp_method_number_t answer; /* that is awaited; 0: none */
	char answer_text[EW_AMQP_TEXT_BYTES];
	/* Publishing. */
	struct ew_mutex publish_turn;
	struct ew_event may_publish; /* for the one whose turn it is */
	unsigned unconfirmed_max;
	unsigned unconfirmed_count;
	struct ew_amqp_unconfirmed *unconfirmed; /* oldest first */
	struct ew_amqp_unconfirmed **unconfirmed_end;
	uint64_t next_tag;
	bool stopped; /* channel.flow */
	struct ew_amqp_stander *standers;
	/* Consuming. */
	struct ew_channel *queue; /* NULL: nothing is consumed here */
	bool no_ack;
	/* Content that is coming. */
	enum ew_amqp_expected expected;
	bool returning; /* it is a message of ours that comes back */
	struct ew_amqp_receipt returned;
	struct ew_amqp_delivery *delivery; /* NULL: nobody wants it */
	uint64_t body_left;
	uint64_t body_at;
};

/* ---- connection.c ---- */

void ew_amqp_connection_put(struct ew_amqp_connection *connection);

/* Why a connection or channel ends; the first reason stays. */
void ew_amqp_error_set(struct ew_amqp_error *error, int number, unsigned code, const char *format,
		       ...) __attribute__((format(printf, 4, 5)));

/* -errno for a reply code. */
int ew_amqp_code_error(unsigned code);

/* The broker breaks the protocol: told with @code, which ends the connection. Returns its error. */
int ew_amqp_violated(struct ew_amqp_connection *connection, unsigned code, const char *format, ...)
	__attribute__((format(printf, 3, 4)));

/* For -ECANCELED. */
#define EW_AMQP_TIME_OVER "the connection's scope was cancelled, and its time is over"

/* Tells everybody that the connection is lost, and cuts it, unless nothing is left to be sent. */
void ew_amqp_lost(struct ew_amqp_connection *connection, int error, const char *format, ...)
	__attribute__((format(printf, 3, 4)));

/* Everybody who waits on the connection goes on, with connection->error. Idempotent. */
void ew_amqp_end_for_all(struct ew_amqp_connection *connection);

/* For an error of the stream's. */
const char *ew_amqp_stream_words(const struct ew_amqp_connection *connection, int r);

/* The owner's goodbye: the broker's answer ends the connection. */
void ew_amqp_say_goodbye(struct ew_amqp_connection *connection);

/* The task that reads, and has the one that writes. */
int ew_amqp_connection_task(void *self, void *place);

/* ---- handshake.c ---- */

/* The broker's method on channel 0. 0, or the connection's error. */
int ew_amqp_connection_method(struct ew_amqp_connection *connection, const amqp_method_t *method);

/* ---- output.c ---- */

/* 0, or why @channel cannot be published on now. */
int ew_amqp_may_publish(const struct ew_amqp_channel *channel);

/* Whoever waits to publish, or for room, looks again. */
void ew_amqp_look_again(struct ew_amqp_connection *connection);

/* Whoever stands in line in vain leaves it: all of a channel that has ended, those who publish on one that may not. */
void ew_amqp_leave_line(struct ew_amqp_channel *channel);

/*
 * Waits for the turn to append, and until there is room for @bytes. With 0 @ret_turn is filled, and there is room until
 * the next suspension. @publishing: also refuse with -EBUSY while the broker takes no messages.
 */
EW_SUSPENDS int ew_amqp_output_turn(struct ew_amqp_channel *channel, size_t bytes, bool publishing,
				    struct ew_mutex_hold **ret_turn);

/* Waits for the turn, and says @method. With 0 nothing has suspended since. */
EW_SUSPENDS int ew_amqp_say_in_turn(struct ew_amqp_channel *channel, amqp_method_number_t id,
				    void *method);

/* Says something that needs no turn because the protocol bounds it; a failure ends the connection. */
void ew_amqp_say(struct ew_amqp_connection *connection, unsigned channel, amqp_method_number_t id,
		 void *method);

/* What was appended is to be sent. */
void ew_amqp_output_appended(struct ew_amqp_connection *connection);

/* The task that sends. */
int ew_amqp_write_task(void *connection);

/* ---- dispatch.c ---- */

/* The broker's frame for an open channel; suspends while a consumer has no room. 0, or the connection's error. */
EW_SUSPENDS int ew_amqp_channel_frame(struct ew_amqp_channel *channel,
				      const struct ew_amqp_frame *frame);

/* ---- channel.c ---- */

/* The connection has ended, or the broker has ended the channel: everybody on it is told. */
void ew_amqp_channel_ended(struct ew_amqp_channel *channel, const struct ew_amqp_error *error);

/* Nothing more is delivered: whoever delivers, or waits for a delivery, goes on. */
void ew_amqp_channel_stop(struct ew_amqp_channel *channel);

/* 0, or why a call cannot be made. */
int ew_amqp_channel_usable(const struct ew_amqp_channel *channel);

/* A method that has an answer, and the answer; cancelled meanwhile, the answer is dropped when it comes. */
EW_SUSPENDS int ew_amqp_channel_call(struct ew_amqp_channel *channel, amqp_method_number_t id,
				     void *method, amqp_method_number_t answer);

void ew_amqp_channel_put(struct ew_amqp_channel *channel);

/* For a guard that has a reference, of whoever is in a call on it: its owner may be forced to end it meanwhile. */
void ew_amqp_let_go(void *channel);
int ew_amqp_let_go_close(void *channel);

/* ---- publish.c ---- */

/* basic.ack and basic.nack. 0, or the connection's error. */
int ew_amqp_confirmed(struct ew_amqp_channel *channel, uint64_t tag, bool multiple,
		      enum ew_amqp_fate fate);

/* basic.return, when its properties have come. */
void ew_amqp_returned(struct ew_amqp_channel *channel, amqp_bytes_t message_id);

/* No answer will come any more. */
void ew_amqp_unconfirmed_ended(struct ew_amqp_channel *channel);

/* ---- consume.c ---- */

/* A delivery has come whole; suspends while there is no room for it. 0, or the connection's error. */
EW_SUSPENDS int ew_amqp_deliver(struct ew_amqp_channel *channel);
