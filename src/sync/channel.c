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
#include "seeded/bug.h"
#include "sync/select.h"
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
static struct ew_waiter *take_first(struct line *line)
{
	return ew__line_take_first(line_of(line));
}

static void init_waiter(struct ew_channel *channel, struct ew_waiter *waiter, struct line *line,
			void *message)
{
	ew__waiter_init(waiter, &channel->lock, leave, line);
	waiter->value = message;
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

/* Sends, or -EAGAIN. The receiver whose message it is has it already, and is to be woken. With the lock held. */
static int send_now(struct ew_channel *channel, const void *message,
		    struct ew_waiter **ret_receiver)
{
	struct ew_waiter *receiver;

	if (channel->closed)
		return -EPIPE;
	receiver = take_first(&channel->receivers);
	if (receiver)
		copy(channel, receiver->value, message);
	else if (channel->count < channel->capacity)
		put_in(channel, message);
	else
		return -EAGAIN;
	*ret_receiver = receiver;
	return 0;
}

/* Receives, or -EAGAIN. A sender that had to wait moves up into the room there is now, and is to be woken. Locked. */
static int receive_now(struct ew_channel *channel, void *ret_message, struct ew_waiter **ret_sender)
{
	struct ew_waiter *sender;

	if (channel->count) {
		take_out(channel, ret_message);
		sender = ew__bug("channel-sender-not-moved-up") ? NULL
								: take_first(&channel->senders);
		if (sender)
			put_in(channel, sender->value);
	} else {
		sender = take_first(&channel->senders);
		if (!sender)
			return channel->closed ? 0 : -EAGAIN;
		copy(channel, ret_message, sender->value);
	}
	*ret_sender = sender;
	return 1;
}

static int send_message(struct ew_channel *channel, int64_t deadline_ns, void *message, bool waits)
{
	struct ew_waiter sender, *receiver = NULL;
	int r;

	if (waits)
		init_waiter(channel, &sender, &channel->senders, message);
	ew__lock(&channel->lock);
	r = send_now(channel, message, &receiver);
	if (r == -EAGAIN && waits)
		line_up(&channel->senders, &sender);
	ew__unlock(&channel->lock);
	if (receiver)
		ew__waiter_wake(receiver, 1);
	if (r == -EAGAIN && waits)
		r = ew__waiter_wait(&sender, deadline_ns, "room in a channel");
	return r;
}

static int receive_message(struct ew_channel *channel, int64_t deadline_ns, void *ret_message,
			   bool waits)
{
	struct ew_waiter receiver, *sender = NULL;
	int r;

	if (waits)
		init_waiter(channel, &receiver, &channel->receivers, ret_message);
	ew__lock(&channel->lock);
	r = receive_now(channel, ret_message, &sender);
	if (r == -EAGAIN && waits)
		line_up(&channel->receivers, &receiver);
	ew__unlock(&channel->lock);
	if (sender)
		ew__waiter_wake(sender, 0);
	if (r == -EAGAIN && waits)
		r = ew__waiter_wait(&receiver, deadline_ns, "a message");
	return r;
}

/* The resource, on its way, and its place empty. */
static struct ew_resource *out_of_place(void *place)
{
	struct ew_resource *resource, *nothing = NULL;

	memcpy(&resource, place, sizeof(resource));
	ew_assert(resource); /* an empty place has nothing to send */
	if (!ew__bug("channel-sender-keeps-its-place"))
		memcpy(place, &nothing, sizeof(nothing));
	ew__resource_leave_runtime(resource);
	return resource;
}

static void into_place(void *place, struct ew_resource *resource)
{
	ew__resource_enter_runtime(resource);
	memcpy(place, &resource, sizeof(resource));
}

/* The same for a resource: out of its place first, and back into it if it was not sent. */
static int send_resource(struct ew_channel *channel, int64_t deadline_ns, void *place, bool waits)
{
	struct ew_resource *resource = out_of_place(place);
	int r = send_message(channel, deadline_ns, &resource, waits);

	if (r < 0 && !ew__bug("channel-unsent-resource-lost"))
		into_place(place, resource);
	return r;
}

static int receive_resource(struct ew_channel *channel, int64_t deadline_ns, void *place,
			    bool waits, const struct ew_site *site)
{
	struct ew_resource *resource;
	int r;

	ew__place_must_be_empty(place, site);
	r = receive_message(channel, deadline_ns, &resource, waits);
	if (r > 0)
		into_place(place, resource);
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
	if (ew__bug("channel-close-loses-messages"))
		channel->count = 0;
	senders = ew__line_take_all(line_of(&channel->senders));
	receivers = ew__line_take_all(line_of(&channel->receivers));
	ew__unlock(&channel->lock);
	ew__waiters_wake(senders, -EPIPE);
	if (!ew__bug("channel-close-leaves-receivers-waiting"))
		ew__waiters_wake(receivers, 0);
}

static void channel_abort(void *resource)
{
	struct ew_channel *channel = resource;
	size_t i;

	ew_assert(channel->senders.count == 0);
	ew_assert(channel->receivers.count == 0);
	for (i = ew__bug("channel-free-forgets-a-message"); channel->dispose && i < channel->count;
	     i++)
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

/* ---- among alternatives ---- */

static void select_begin(struct ew__stand *stand, struct ew_channel *channel, struct line *line)
{
	ew__stand_init_waiter(stand, &channel->lock, leave, line);
	stand->waiter.value = channel->of_resources ? &stand->resource : stand->alternative->value;
}

static void select_line_up(struct ew__stand *stand)
{
	line_up(stand->waiter.line, &stand->waiter);
}

/* Also when the channel may be gone. */
static bool is_of_resource(const struct ew__stand *stand)
{
	return stand->waiter.value == &stand->resource;
}

static void select_send_begin(struct ew__stand *stand, const struct ew_site *site)
{
	struct ew_channel *channel = stand->alternative->object;

	(void)site;
	select_begin(stand, channel, &channel->senders);
	if (channel->of_resources)
		stand->resource = out_of_place(stand->alternative->value);
}

static bool select_send_look(struct ew__stand *stand)
{
	stand->served_result = 1;
	stand->result = send_now(stand->alternative->object, stand->waiter.value, &stand->served);
	return stand->result != -EAGAIN;
}

static void select_send_end(struct ew__stand *stand, bool won)
{
	if (is_of_resource(stand) && !(won && stand->result == 0))
		into_place(stand->alternative->value, stand->resource);
}

static const struct ew__alternative_type send_type = {
	.begin = select_send_begin,
	.look = select_send_look,
	.line_up = select_line_up,
	.leave = ew__stand_leave_line,
	.end = select_send_end,
};

struct ew_alternative ew_select_send(struct ew_channel *channel, void *message)
{
	return (struct ew_alternative){ .type = &send_type, .object = channel, .value = message };
}

static void select_receive_begin(struct ew__stand *stand, const struct ew_site *site)
{
	struct ew_channel *channel = stand->alternative->object;

	select_begin(stand, channel, &channel->receivers);
	if (channel->of_resources)
		ew__place_must_be_empty(stand->alternative->value, site);
}

static bool select_receive_look(struct ew__stand *stand)
{
	stand->served_result = 0;
	stand->result =
		receive_now(stand->alternative->object, stand->waiter.value, &stand->served);
	return stand->result != -EAGAIN;
}

static void select_receive_end(struct ew__stand *stand, bool won)
{
	if (is_of_resource(stand) && won && stand->result == 1)
		into_place(stand->alternative->value, stand->resource);
}

static const struct ew__alternative_type receive_type = {
	.begin = select_receive_begin,
	.look = select_receive_look,
	.line_up = select_line_up,
	.leave = ew__stand_leave_line,
	.end = select_receive_end,
};

struct ew_alternative ew_select_receive(struct ew_channel *channel, void *ret_message)
{
	return (struct ew_alternative){ .type = &receive_type,
					.object = channel,
					.value = ret_message };
}
