/* SPDX-License-Identifier: Apache-2.0 */

/*
 * A ring, and for each subscription the number of the next message that is its. Messages are numbered from 1 on without
 * end; the ring has the last ones. Who is in line has received all there are, so a message that is sent goes straight
 * into his memory as well. Under the lock: a cancel that comes later finds that it has happened.
 */

#include "scope/resource.h"
#include "sync/select.h"

#include <endwell/broadcast.h>
#include <stdlib.h>
#include <string.h>

struct ew_broadcast {
	struct ew_resource resource;
	_Atomic uint32_t lock;
	bool closed;
	unsigned subscriptions_count;
	struct ew_waiter *first;
	struct ew_waiter *last;
	size_t message_bytes;
	size_t capacity;
	uint64_t sent_count; /* the last one's number */
	char messages[];
};

struct ew_subscription {
	struct ew_resource resource;
	struct ew_broadcast *broadcast;
	uint64_t received; /* the number of the last message that it received, or would have */
	bool waiting;
};

static void broadcast_abort(void *resource);
static void subscription_abort(void *resource);

static int broadcast_close(void *resource)
{
	broadcast_abort(resource);
	return 0;
}

static int subscription_close(void *resource)
{
	subscription_abort(resource);
	return 0;
}

static const struct ew_resource_type broadcast_type = {
	.name = "broadcast",
	.close = broadcast_close,
	.abort = broadcast_abort,
};

static const struct ew_resource_type subscription_type = {
	.name = "subscription",
	.close = subscription_close,
	.abort = subscription_abort,
};

int(ew_broadcast_new)(size_t capacity, size_t message_bytes, struct ew_broadcast **ret_broadcast)
{
	const struct ew_site *site = ew__made_at;
	struct ew_broadcast *broadcast;
	size_t bytes;

	ew__place_must_be_empty(ret_broadcast, site);
	if (capacity == 0)
		return -EINVAL;
	if (__builtin_mul_overflow(capacity, message_bytes, &bytes) ||
	    __builtin_add_overflow(bytes, sizeof(*broadcast), &bytes))
		return -ENOMEM;
	broadcast = calloc(1, bytes);
	if (!broadcast)
		return -ENOMEM;
	broadcast->message_bytes = message_bytes;
	broadcast->capacity = capacity;
	ew_resource_init(&broadcast->resource, &broadcast_type, site);
	*ret_broadcast = broadcast;
	return 0;
}

static void broadcast_abort(void *resource)
{
	struct ew_broadcast *broadcast = resource;

	ew_assert(broadcast->subscriptions_count == 0);
	ew_resource_deinit(&broadcast->resource);
	free(broadcast);
}

int(ew_broadcast_subscribe)(struct ew_broadcast *broadcast,
			    struct ew_subscription **ret_subscription)
{
	const struct ew_site *site = ew__made_at;
	struct ew_subscription *subscription;

	ew__place_must_be_empty(ret_subscription, site);
	subscription = calloc(1, sizeof(*subscription));
	if (!subscription)
		return -ENOMEM;
	subscription->broadcast = broadcast;
	ew__lock(&broadcast->lock);
	broadcast->subscriptions_count++;
	subscription->received = broadcast->sent_count;
	ew__unlock(&broadcast->lock);
	ew_resource_init(&subscription->resource, &subscription_type, site);
	*ret_subscription = subscription;
	return 0;
}

static void subscription_abort(void *resource)
{
	struct ew_subscription *subscription = resource;
	struct ew_broadcast *broadcast = subscription->broadcast;

	ew_assert(!subscription->waiting);
	ew_resource_deinit(&subscription->resource);
	ew__lock(&broadcast->lock);
	broadcast->subscriptions_count--;
	ew__unlock(&broadcast->lock);
	free(subscription);
}

/* ---- the line; with the lock held ---- */

static struct ew__line line_of(struct ew_broadcast *broadcast)
{
	return (struct ew__line){ &broadcast->first, &broadcast->last };
}

static void leave(struct ew_waiter *waiter)
{
	struct ew_subscription *subscription = waiter->line;

	subscription->waiting = false;
	ew__line_remove(line_of(subscription->broadcast), waiter);
}

static void line_up(struct ew_subscription *subscription, struct ew_waiter *waiter)
{
	ew_assert(!subscription->waiting); /* one task at a time */
	subscription->waiting = true;
	ew__line_append(line_of(subscription->broadcast), waiter);
}

static void *message_at(struct ew_broadcast *broadcast, uint64_t number)
{
	return broadcast->messages + number % broadcast->capacity * broadcast->message_bytes;
}

static void copy(const struct ew_broadcast *broadcast, void *to, const void *from)
{
	if (broadcast->message_bytes)
		memcpy(to, from, broadcast->message_bytes);
}

/* All who wait, each with the message in his memory, to be woken. */
static struct ew_waiter *hand_out(struct ew_broadcast *broadcast, const void *message)
{
	struct ew_waiter *first = ew__line_take_all(line_of(broadcast)), *waiter;

	for (waiter = first; waiter; waiter = waiter->next) {
		copy(broadcast, waiter->value, message);
		((struct ew_subscription *)waiter->given)->received = broadcast->sent_count;
	}
	return first;
}

/* 1; 0: closed, and all received; or -EAGAIN: nothing new. */
static int receive_now(struct ew_subscription *subscription, void *ret_message,
		       uint64_t *ret_missed_count)
{
	struct ew_broadcast *broadcast = subscription->broadcast;
	uint64_t behind = broadcast->sent_count - subscription->received;

	*ret_missed_count = 0;
	if (behind == 0)
		return broadcast->closed ? 0 : -EAGAIN;
	if (behind > broadcast->capacity)
		*ret_missed_count = behind - broadcast->capacity;
	subscription->received += *ret_missed_count + 1;
	copy(broadcast, ret_message, message_at(broadcast, subscription->received));
	return 1;
}

/* ---- */

int ew_broadcast_send(struct ew_broadcast *broadcast, const void *message)
{
	struct ew_waiter *waiting = NULL;
	bool closed;

	ew__lock(&broadcast->lock);
	closed = broadcast->closed;
	if (!closed) {
		copy(broadcast, message_at(broadcast, ++broadcast->sent_count), message);
		waiting = hand_out(broadcast, message);
	}
	ew__unlock(&broadcast->lock);
	ew__waiters_wake(waiting, 1);
	return closed ? -EPIPE : 0;
}

void ew_broadcast_close(struct ew_broadcast *broadcast)
{
	struct ew_waiter *waiting;

	ew__lock(&broadcast->lock);
	broadcast->closed = true;
	waiting = ew__line_take_all(line_of(broadcast));
	ew__unlock(&broadcast->lock);
	ew__waiters_wake(waiting, 0);
}

int ew_subscription_receive(struct ew_subscription *subscription, int64_t deadline_ns,
			    void *ret_message, uint64_t *ret_missed_count)
{
	struct ew_broadcast *broadcast = subscription->broadcast;
	struct ew_waiter waiter;
	uint64_t missed_count;
	int r = ew__enter();

	if (r < 0)
		return r;
	ew__waiter_init(&waiter, &broadcast->lock, leave, subscription);
	waiter.value = ret_message;
	ew__lock(&broadcast->lock);
	r = receive_now(subscription, ret_message, &missed_count);
	if (r == -EAGAIN)
		line_up(subscription, &waiter);
	ew__unlock(&broadcast->lock);
	if (r == -EAGAIN)
		r = ew__waiter_wait(&waiter, deadline_ns, "a broadcast");
	if (r == 1 && ret_missed_count)
		*ret_missed_count = missed_count;
	return r;
}

/* ---- among alternatives ---- */

static void select_begin(struct ew__stand *stand, const struct ew_site *site)
{
	struct ew_subscription *subscription = stand->alternative->object;

	(void)site;
	ew__stand_init_waiter(stand, &subscription->broadcast->lock, leave, subscription);
	stand->waiter.value = stand->alternative->value;
	stand->number = 0;
}

static bool select_look(struct ew__stand *stand)
{
	stand->result =
		receive_now(stand->alternative->object, stand->waiter.value, &stand->number);
	return stand->result != -EAGAIN;
}

static void select_line_up(struct ew__stand *stand)
{
	line_up(stand->alternative->object, &stand->waiter);
}

static void select_end(struct ew__stand *stand, bool won)
{
	if (won && stand->result == 1 && stand->alternative->number)
		*stand->alternative->number = stand->number;
}

static const struct ew__alternative_type alternative_type = {
	.begin = select_begin,
	.look = select_look,
	.line_up = select_line_up,
	.leave = ew__stand_leave_line,
	.end = select_end,
};

struct ew_alternative ew_select_subscription(struct ew_subscription *subscription,
					     void *ret_message, uint64_t *ret_missed_count)
{
	return (struct ew_alternative){ .type = &alternative_type,
					.object = subscription,
					.value = ret_message,
					.number = ret_missed_count };
}
