/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * Broadcast: each message to everybody who listens
 * Bounded, and its senders never wait: who listens too slowly is told exactly how much he has missed.
 *
 *	while ((r = ew_subscription_receive(subscription, EW_NEVER, &news, &missed_count)) > 0)
 *		show(&news, missed_count);
 *	return r; // 0: closed, and everything has been received
 */

#include <endwell/resource.h>

/** struct ew_broadcast - a resource, above its subscriptions, which end before it. Its ending never waits */
struct ew_broadcast;

/** struct ew_subscription - a resource; one task at a time receives from it. Its ending never waits */
struct ew_subscription;

/**
 * ew_broadcast_new() - make a broadcast whose messages are copied
 * @capacity:      messages that are kept for those who have not received them yet; at least 1
 * @message_bytes: of each; a message owns nothing
 *
 * Errors:       -EINVAL no capacity, -ENOMEM
 */
EW_MUST_CHECK EW_API int ew_broadcast_new(size_t capacity, size_t message_bytes,
					  struct ew_broadcast **ret_broadcast);

/** ew_broadcast_subscribe() - receive what is sent from now on; from any thread. Errors: -ENOMEM */
EW_MUST_CHECK EW_API int ew_broadcast_subscribe(struct ew_broadcast *broadcast,
						struct ew_subscription **ret_subscription);

/**
 * ew_broadcast_send() - to all that subscribe now; from any thread, never waits
 *
 * The oldest message goes if there is no room, and whoever has not received it has missed it.
 * Errors:       -EPIPE the broadcast is closed
 */
EW_MUST_CHECK EW_API int ew_broadcast_send(struct ew_broadcast *broadcast, const void *message);

/** ew_broadcast_close() - no more messages; idempotent, from any thread, never waits */
EW_API void ew_broadcast_close(struct ew_broadcast *broadcast);

/**
 * ew_subscription_receive() - the next message that is still there, in the order of sending
 * @ret_missed_count: messages between the last one that this subscription received and this one; NULL: not wanted
 *
 * Cancellation: a message that comes while a cancel or the deadline arrives is received: the cancel comes at the next
 *               suspension.
 * Return:       1: a message; 0: the broadcast is closed, and all has been received.
 * Errors:       -ETIMEDOUT, -ECANCELED: nothing was received, and nothing is missed by that.
 */
EW_SUSPENDS EW_API int ew_subscription_receive(struct ew_subscription *subscription,
					       int64_t deadline_ns, void *ret_message,
					       uint64_t *ret_missed_count);

#define ew_broadcast_new(...) (ew__here(EW_SITE("ew_broadcast_new")), ew_broadcast_new(__VA_ARGS__))
#define ew_broadcast_subscribe(...)                                                                \
	(ew__here(EW_SITE("ew_broadcast_subscribe")), ew_broadcast_subscribe(__VA_ARGS__))
