/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * Channel: messages from task to task, in order
 * Bounded, many to many, across all workers. A message belongs to its sender until the channel has it, then to the
 * channel, then to one receiver; whatever is cancelled meanwhile, it is neither lost nor there twice.
 *
 *	while ((r = ew_channel_receive(channel, EW_NEVER, &job)) > 0)
 *		work_on(&job);
 *	return r; // 0: closed, and nothing is left in it
 */

#include <endwell/resource.h>

/**
 * struct ew_channel - a resource: `EW_OWN(ew_channel, channel);`, above the scope of those that use it
 *
 * Its ending frees it, and never waits; what is still in it goes to its disposer. Nobody may be waiting then.
 */
struct ew_channel;

/** ew_channel_dispose_fn - end what a message stands for when nobody can take it any more; may not suspend */
typedef void ew_channel_dispose_fn(void *message);

/**
 * ew_channel_new() - make a channel whose messages are copied
 * @capacity:      messages that may wait in it; 0: each is handed over when sender and receiver have met
 * @message_bytes: of each message
 * @dispose:       for messages that own something; NULL: they do not
 * @ret_channel:   an empty place
 *
 * All memory is allocated here: sending, receiving and ending need none.
 * Errors:       -ENOMEM
 */
EW_MUST_CHECK EW_API int ew_channel_new(size_t capacity, size_t message_bytes,
					ew_channel_dispose_fn *dispose,
					struct ew_channel **ret_channel);

/**
 * ew_channel_new_of_resources() - make a channel whose messages are resources, which go from place to place
 *
 * What is still in it when it ends is aborted. A socket that was watched (ew_socket_cancel_on_hangup()), and a listener
 * that has accepted, belong to their worker until its runtime ends: elsewhere they may only be closed. Otherwise as
 * ew_channel_new().
 */
EW_MUST_CHECK EW_API int ew_channel_new_of_resources(size_t capacity,
						     struct ew_channel **ret_channel);

/**
 * ew_channel_send() - wait in line until there is room, or a receiver
 * @message: its address; of resources, that of the place that owns one: NULL in it on success
 *
 * Cancellation: a message that was taken while a cancel or the deadline arrives is sent: the cancel comes at the next
 *               suspension.
 * Ownership:    taken on success only. The memory of a copied message is borrowed until the return.
 * Errors:       -EPIPE the channel is closed, -ETIMEDOUT, -ECANCELED: not sent, and nobody will receive it.
 */
EW_SUSPENDS EW_API int ew_channel_send(struct ew_channel *channel, int64_t deadline_ns,
				       void *message);

/** ew_channel_try_send() - never waits, from any thread; as ew_channel_send(), or -EAGAIN: no room */
EW_MUST_CHECK EW_API int ew_channel_try_send(struct ew_channel *channel, void *message);

/**
 * ew_channel_receive() - wait in line for the next message
 * @ret_message: where it is copied to; of resources, the address of an empty place
 *
 * Cancellation: a message that comes while a cancel or the deadline arrives is received: the cancel comes at the next
 *               suspension.
 * Return:       1: a message, which is the caller's; 0: the channel is closed and empty.
 * Errors:       -ETIMEDOUT, -ECANCELED: no message was taken.
 */
EW_SUSPENDS EW_API int ew_channel_receive(struct ew_channel *channel, int64_t deadline_ns,
					  void *ret_message);

/** ew_channel_try_receive() - never waits, from any thread; as ew_channel_receive(), or -EAGAIN: none there */
EW_MUST_CHECK EW_API int ew_channel_try_receive(struct ew_channel *channel, void *ret_message);

/**
 * ew_channel_close() - no more messages; idempotent, from any thread, never waits
 *
 * Senders in line keep their messages and get -EPIPE. Receivers get what is still in the channel, then 0. The
 * channel itself stays until its place is left.
 */
EW_API void ew_channel_close(struct ew_channel *channel);

/** ew_channel_free() - end the channel in a place by name; NULL in it afterwards; never waits */
EW_API void ew_channel_free(struct ew_channel **channel);

struct ew_channel_counts {
	size_t capacity;
	size_t messages; /* in it, not counting those of waiting senders */
	unsigned senders_waiting;
	unsigned receivers_waiting;
	bool closed;
};

/** ew_channel_count() - one consistent picture; from any thread */
EW_API struct ew_channel_counts ew_channel_count(struct ew_channel *channel);

#define ew_channel_new(...) (ew__here(EW_SITE("ew_channel_new")), ew_channel_new(__VA_ARGS__))
#define ew_channel_new_of_resources(...)                                                           \
	(ew__here(EW_SITE("ew_channel_new_of_resources")), ew_channel_new_of_resources(__VA_ARGS__))
#define ew_channel_receive(...)                                                                    \
	(ew__here(EW_SITE("ew_channel_receive")), ew_channel_receive(__VA_ARGS__))
#define ew_channel_try_receive(...)                                                                \
	(ew__here(EW_SITE("ew_channel_try_receive")), ew_channel_try_receive(__VA_ARGS__))
