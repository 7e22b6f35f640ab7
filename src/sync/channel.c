/* SPDX-License-Identifier: Apache-2.0 */

/*
 * A ring of messages and two lines. While receivers wait the ring is empty and no sender waits; while senders wait
 * it is full. So whoever comes acts at once or is last in his line, and nobody overtakes.
 *
 * A message is copied under the lock, once on each way: into the ring, out of it, or past it, straight between the
 * memory of a sender and of a receiver, one of whom waits with it in his frame. In that moment the waiter is out of
 * his line, so a cancel that comes later finds that it has happened, and one that came before has left nothing to
 * copy.
 *
 * A resource that is being sent is in no place: its pointer is the message, and its sender's place is empty while it
 * waits, for the receiver may end the resource before the sender has heard. The end of a runtime does not ask for it
 * either: the channel owns it, and is asked for itself.
 */

#include "scope/resource.h"
#include "sync/waiter.h"

#include <endwell/channel.h>
#include <stdlib.h>
#include <string.h>

struct line {
	struct ew_waiter *first;
	struct ew_waiter *last;
	unsigned count;
};

struct ew_channel {
	struct ew_resource resource;
	_Atomic uint32_t lock;
	bool closed;
	bool of_resources;
	ew_channel_dispose_fn *dispose;
	struct line senders;
	struct line receivers;
	size_t message_bytes;
	size_t capacity;
	size_t first;
	size_t count;
	char messages[];
};

/* One who waits, with a message or for one. */
struct party {
	struct ew_waiter waiter;
	void *message;
};

static void channel_abort(void *resource);

static int channel_close(void *resource)
{
	channel_abort(resource);
	return 0;
}

static const struct ew_resource_type channel_type = {
	.name = "channel",
	.close = channel_close,
	.abort = channel_abort,
};

static int make(size_t capacity, size_t message_bytes, bool of_resources,
		ew_channel_dispose_fn *dispose, const struct ew_site *site,
		struct ew_channel **ret_channel)
{
	struct ew_channel *channel;
	size_t bytes;

	ew__place_must_be_empty(ret_channel, site);
	if (__builtin_mul_overflow(capacity, message_bytes, &bytes) ||
	    __builtin_add_overflow(bytes, sizeof(*channel), &bytes))
		return -ENOMEM;
	channel = calloc(1, bytes);
	if (!channel)
		return -ENOMEM;
	channel->of_resources = of_resources;
	channel->dispose = dispose;
	channel->message_bytes = message_bytes;
	channel->capacity = capacity;
	ew_resource_init(&channel->resource, &channel_type, site);
	*ret_channel = channel;
	return 0;
}

int(ew_channel_new)(size_t capacity, size_t message_bytes, ew_channel_dispose_fn *dispose,
		    struct ew_channel **ret_channel)
{
	return make(capacity, message_bytes, false, dispose, ew__made_at, ret_channel);
}

int(ew_channel_new_of_resources)(size_t capacity, struct ew_channel **ret_channel)
{
	return make(capacity, sizeof(struct ew_resource *), true, ew_abort, ew__made_at,
		    ret_channel);
}

static struct ew__line line_of(struct line *line)
{
	return (struct ew__line){ &line->first, &line->last };
}

static void line_up(struct line *line, struct ew_waiter *waiter)
{
	ew__line_append(line_of(line), waiter);
	line->count++;
}

static void leave(struct ew_waiter *waiter)
{
	struct line *line = waiter->line;

	ew__line_remove(line_of(line), waiter);
	line->count--;
}

/* The first of a line, who is to be woken; NULL: it is empty. */
static struct party *take_first(struct line *line)
{
	struct ew_waiter *waiter = line->first;

	if (!waiter)
		return NULL;
	leave(waiter);
	waiter->given = line;
	return ew__container_of(waiter, struct party, waiter);
}

static struct ew_waiter *take_all(struct line *line)
{
	line->count = 0;
	return ew__line_take_all(line_of(line));
}

static void *message_at(struct ew_channel *channel, size_t index)
{
	return channel->messages +
	       (channel->first + index) % channel->capacity * channel->message_bytes;
}

static void copy(const struct ew_channel *channel, void *to, const void *from)
{
	if (channel->message_bytes)
		memcpy(to, from, channel->message_bytes);
}

static void put_in(struct ew_channel *channel, const void *message)
{
	copy(channel, message_at(channel, channel->count), message);
	channel->count++;
}

static void take_out(struct ew_channel *channel, void *ret_message)
{
	copy(channel, ret_message, message_at(channel, 0));
	channel->first = (channel->first + 1) % channel->capacity;
	channel->count--;
}

/* Sends, or lines up and returns -EAGAIN. A receiver has its message when it is woken. */
static int send_or_line_up(struct ew_channel *channel, struct party *sender, bool waits)
{
	struct party *receiver = NULL;
	int r = 0;

	ew__lock(&channel->lock);
	if (channel->closed)
		r = -EPIPE;
	else if ((receiver = take_first(&channel->receivers)))
		copy(channel, receiver->message, sender->message);
	else if (channel->count < channel->capacity)
		put_in(channel, sender->message);
	else
		r = -EAGAIN;
	if (r == -EAGAIN && waits)
		line_up(&channel->senders, &sender->waiter);
	ew__unlock(&channel->lock);
	if (receiver)
		ew__waiter_wake(&receiver->waiter, 1);
	return r;
}

/* Receives, or lines up and returns -EAGAIN. A sender that had to wait moves up into the room that there is now. */
static int receive_or_line_up(struct ew_channel *channel, struct party *receiver, bool waits)
{
	struct party *sender = NULL;
	int r = 1;

	ew__lock(&channel->lock);
	if (channel->count) {
		take_out(channel, receiver->message);
		sender = take_first(&channel->senders);
		if (sender)
			put_in(channel, sender->message);
	} else if ((sender = take_first(&channel->senders))) {
		copy(channel, receiver->message, sender->message);
	} else {
		r = channel->closed ? 0 : -EAGAIN;
	}
	if (r == -EAGAIN && waits)
		line_up(&channel->receivers, &receiver->waiter);
	ew__unlock(&channel->lock);
	if (sender)
		ew__waiter_wake(&sender->waiter, 0);
	return r;
}

static int send_message(struct ew_channel *channel, int64_t deadline_ns, void *message, bool waits)
{
	struct party sender = { .message = message };
	int r;

	if (waits)
		ew__waiter_init(&sender.waiter, &channel->lock, leave, &channel->senders);
	r = send_or_line_up(channel, &sender, waits);
	if (r == -EAGAIN && waits)
		r = ew__waiter_wait(&sender.waiter, deadline_ns, "room in a channel");
	return r;
}

static int receive_message(struct ew_channel *channel, int64_t deadline_ns, void *ret_message,
			   bool waits)
{
	struct party receiver = { .message = ret_message };
	int r;

	if (waits)
		ew__waiter_init(&receiver.waiter, &channel->lock, leave, &channel->receivers);
	r = receive_or_line_up(channel, &receiver, waits);
	if (r == -EAGAIN && waits)
		r = ew__waiter_wait(&receiver.waiter, deadline_ns, "a message");
	return r;
}

/* The same for a resource: out of its place first, and back into it if it was not sent. */
static int send_resource(struct ew_channel *channel, int64_t deadline_ns, void *place, bool waits)
{
	struct ew_resource *resource, *nothing = NULL;
	int r;

	memcpy(&resource, place, sizeof(resource));
	ew_assert(resource); /* an empty place has nothing to send */
	memcpy(place, &nothing, sizeof(nothing));
	ew__resource_leave_runtime(resource);
	r = send_message(channel, deadline_ns, &resource, waits);
	if (r < 0) {
		ew__resource_enter_runtime(resource);
		memcpy(place, &resource, sizeof(resource));
	}
	return r;
}

static int receive_resource(struct ew_channel *channel, int64_t deadline_ns, void *place,
			    bool waits, const struct ew_site *site)
{
	struct ew_resource *resource;
	int r;

	ew__place_must_be_empty(place, site);
	r = receive_message(channel, deadline_ns, &resource, waits);
	if (r > 0) {
		ew__resource_enter_runtime(resource);
		memcpy(place, &resource, sizeof(resource));
	}
	return r;
}

static int send_any(struct ew_channel *channel, int64_t deadline_ns, void *message, bool waits)
{
	return channel->of_resources ? send_resource(channel, deadline_ns, message, waits)
				     : send_message(channel, deadline_ns, message, waits);
}

static int receive_any(struct ew_channel *channel, int64_t deadline_ns, void *ret_message,
		       bool waits, const struct ew_site *site)
{
	return channel->of_resources
		       ? receive_resource(channel, deadline_ns, ret_message, waits, site)
		       : receive_message(channel, deadline_ns, ret_message, waits);
}

int ew_channel_send(struct ew_channel *channel, int64_t deadline_ns, void *message)
{
	int r = ew__enter();

	return r < 0 ? r : send_any(channel, deadline_ns, message, true);
}

int ew_channel_try_send(struct ew_channel *channel, void *message)
{
	return send_any(channel, EW_NOW, message, false);
}

int(ew_channel_receive)(struct ew_channel *channel, int64_t deadline_ns, void *ret_message)
{
	const struct ew_site *site = ew__made_at;
	int r = ew__enter();

	return r < 0 ? r : receive_any(channel, deadline_ns, ret_message, true, site);
}

int(ew_channel_try_receive)(struct ew_channel *channel, void *ret_message)
{
	return receive_any(channel, EW_NOW, ret_message, false, ew__made_at);
}

void ew_channel_close(struct ew_channel *channel)
{
	struct ew_waiter *senders, *receivers;

	ew__lock(&channel->lock);
	channel->closed = true;
	senders = take_all(&channel->senders);
	receivers = take_all(&channel->receivers);
	ew__unlock(&channel->lock);
	ew__waiters_wake(senders, -EPIPE);
	ew__waiters_wake(receivers, 0);
}

static void channel_abort(void *resource)
{
	struct ew_channel *channel = resource;
	size_t i;

	ew_assert(channel->senders.count == 0);
	ew_assert(channel->receivers.count == 0);
	for (i = 0; channel->dispose && i < channel->count; i++)
		channel->dispose(message_at(channel, i));
	ew_resource_deinit(&channel->resource);
	free(channel);
}

void ew_channel_free(struct ew_channel **channel)
{
	ew_abort(channel);
}

struct ew_channel_counts ew_channel_count(struct ew_channel *channel)
{
	struct ew_channel_counts counts;

	ew__lock(&channel->lock);
	counts.capacity = channel->capacity;
	counts.messages = channel->count;
	counts.senders_waiting = channel->senders.count;
	counts.receivers_waiting = channel->receivers.count;
	counts.closed = channel->closed;
	ew__unlock(&channel->lock);
	return counts;
}
