/* SPDX-License-Identifier: Apache-2.0 */
/*
 * One connection. On it each route has a channel of its own: a broker ends the channel over which something went to an
 * exchange that is not there, and with direct reply-to all answers that were to come over it are lost; other routes are
 * not to suffer. Three more channels are for what is said to workers, so that no two messages that are unconfirmed on a
 * channel have the same id, which is the operation's.
 *
 * With direct reply-to a lost connection, or channel, is lost for good: answers would go to an address that is no more. So
 * whatever was in flight ends then, with an outcome of its own, and nobody waits for it; but what was not confirmed yet, and
 * needs a grant to begin, goes out again (serve.c). A route with a queue for its replies finds them there when it is
 * connected again, and its operations wait for that. An answer is acknowledged when it was heard, so one whose
 * acknowledgement was lost comes twice.
 */
#include "broker.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include <endwell/channel.h>
#include <endwell/clock.h>
#include <endwell/task.h>

#include "common/hex.h"
#include "common/log.h"

#include "events.h"
#include "permits.h"

#define RECEIVE_MAX    CLAIMS_KNOWN
#define NOTICES_MAX    1024
#define REOPEN_DELAY   EW_SECOND
#define LEAVING_BUDGET (5 * EW_SECOND)

/* A queue for replies that nobody consumes any more goes after that, and refuses more than that. */
#define REPLY_QUEUE_EXPIRY    (25 * 3600 * EW_SECOND) /* longer than any operation takes */
#define REPLY_QUEUE_BYTES_MAX (INT64_C(256) << 20)

#define PROBE_INTERVAL EW_SECOND

/* A broker that is there and does not answer for so long never will, and the connection is given up. */
#define ANSWER_PATIENCE (10 * EW_SECOND)

/**
 * struct notice - what is to be said to a claim that nobody waits for
 * @type:   "refuse" or "cancel"
 * @proves: that nothing of the operation runs, once it was said
 */
struct notice {
	const char *type;
	bool proves;
	struct claim claim;
	char correlation[256];
	char id[256];
};

static void door_open(struct door *door, struct ew_amqp_channel *channel)
{
	door->channel = channel;
	ew_event_set(&door->opened);
}

static void door_shut(struct door *door)
{
	door->channel = NULL;
	ew_event_reset(&door->opened);
}

/* Nobody is in a call on it afterwards; whoever is, has been told by its channel. */
static void door_close(struct door *door)
{
	EW_SHIELD(shield, .budget_ns = LEAVING_BUDGET);

	door_shut(door);
	while (door->users > 0) {
		ew_event_reset(&door->empty);
		if (ew_event_wait(&door->empty, EW_NEVER) < 0)
			ew_panic("a channel is in use that has ended");
	}
}

static void leave_door(void *argument)
{
	struct door *door = argument;

	if (--door->users == 0)
		ew_event_set(&door->empty);
}

static int leave_door_close(void *door)
{
	leave_door(door);
	return 0;
}

static int door_publish(struct door *door, const struct ew_amqp_message *message,
			struct ew_amqp_receipt *ret_receipt)
{
	*ret_receipt = (struct ew_amqp_receipt){ .fate = EW_AMQP_NOT_SENT };
	if (!door->channel)
		return -ENOTCONN;
	door->users++;

	EW_GUARD(inside, door, .close = leave_door_close, .abort = leave_door);

	return ew_amqp_publish(door->channel, message, ret_receipt);
}

static int say(struct door *door, const char *type, const struct claim *newest,
	       const char *correlation, const char *id, struct ew_amqp_receipt *ret_receipt)
{
	/* While this waits in line, a newer claim may come to where @newest points. */
	const struct claim claim = *newest;
	const struct ew_amqp_header headers[] = { { "x-ew-claim", claim.token } };
	const struct ew_amqp_message message = {
		.routing_key = claim.address,
		.type = type,
		.correlation_id = correlation,
		.message_id = id,
		.headers = headers,
		.headers_count = 1,
		.mandatory = true,
	};

	return door_publish(door, &message, ret_receipt);
}

int broker_say(struct door *door, const char *type, const struct claim *newest,
	       const char *correlation, const char *id)
{
	struct ew_amqp_receipt receipt;

	return say(door, type, newest, correlation, id, &receipt);
}

int broker_publish(struct operation *operation, struct ew_amqp_receipt *ret_receipt)
{
	const struct route_config *config = operation->route->config;
	int64_t left_ms = (operation->deadline_ns - ew_now()) / EW_MILLISECOND;
	const struct body *body = &operation->body;
	char expiration[24], deadline[24], epoch[EPOCH_BYTES], attempt[12];
	char path[CONFIG_TEXT_BYTES + STAGING_NAME_BYTES], bytes[24], digest[BODY_DIGEST_TEXT];
	size_t headers_count = 7;
	struct timespec now;

	clock_gettime(CLOCK_REALTIME, &now);
	left_ms = left_ms > 0 ? left_ms : 0;
	snprintf(expiration, sizeof(expiration), "%" PRId64, left_ms);
	snprintf(deadline, sizeof(deadline), "%" PRId64,
		 (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000 + left_ms);
	snprintf(attempt, sizeof(attempt), "%u", operation->publications + 1);
	snprintf(epoch, sizeof(epoch), "%016" PRIx64, operation->token.epoch);

	struct ew_amqp_header headers[11] = {
		{ "x-ew-version", body->published ? "2" : "1" },
		{ "x-ew-attempt", attempt },
		{ "x-ew-epoch", epoch },
		{ "x-ew-grant", config->grant_none ? "none" : "required" },
		{ "x-deadline", deadline },
		{ "traceparent", operation->trace },
		{ "x-ew-stream", operation->record->stream ? "1" : "0" },
	};

	if (operation->tenant)
		headers[headers_count++] =
			(struct ew_amqp_header){ "x-ew-tenant", operation->tenant->name };
	if (body->published) {
		snprintf(path, sizeof(path), "%s/%s", config->bodies, body->published->name);
		snprintf(bytes, sizeof(bytes), "%" PRIu64, body->spool.bytes);
		hex_print(body->sha256, sizeof(body->sha256), digest);
		headers[headers_count++] = (struct ew_amqp_header){ "x-ew-body-file", path };
		headers[headers_count++] = (struct ew_amqp_header){ "x-ew-body-bytes", bytes };
		headers[headers_count++] = (struct ew_amqp_header){ "x-ew-body-sha256", digest };
	}

	const struct ew_amqp_message message = {
		.exchange = config->exchange,
		.routing_key = config->routing_key,
		.content_type = operation->content_type[0] ? operation->content_type : NULL,
		.correlation_id = operation->correlation,
		.reply_to = operation->route->reply_to,
		.expiration = expiration,
		.message_id = operation->id,
		.type = "op",
		.headers = headers,
		.headers_count = headers_count,
		.body = body->data,
		.body_bytes = body->data_bytes,
		.mandatory = true,
		.persistent = !config->transient,
	};
	return door_publish(&operation->route->door, &message, ret_receipt);
}

bool broker_is_connected(const struct gateway *gateway)
{
	return gateway->connection && !ew_amqp_connection_error(gateway->connection);
}

static bool is_blocked(const struct gateway *gateway)
{
	return gateway->connection && ew_amqp_connection_blocked(gateway->connection);
}

int broker_await(struct route *route)
{
	int r = 0;

	while (r == 0 && !route->door.channel)
		r = ew_event_wait(&route->door.opened, EW_NEVER);
	return r;
}

const char *broker_trouble(const struct route *route, bool *ret_blocked)
{
	const struct gateway *gateway = route->gateway;

	*ret_blocked = is_blocked(gateway);
	if (!gateway->connection)
		return gateway->reason;
	if (*ret_blocked)
		return "the broker takes no messages now";
	return route->door.channel ? NULL : route->reason;
}

/* Whoever waited may go on before those who keep connection and channel, and note the reason. */
const char *broker_loss(const struct route *route)
{
	const struct gateway *gateway = route->gateway;
	const struct ew_amqp_error *error = NULL;

	if (!gateway->connection)
		return gateway->reason;
	error = ew_amqp_connection_error(gateway->connection);
	if (!error && route->door.channel)
		error = ew_amqp_channel_error(route->door.channel);
	return error ? error->text : route->reason;
}

/* ---- what comes ---- */

/* A claim comes again: its worker gives it back when it hears nothing. Whoever runs is told when it is heard of again. */
static void drop(struct gateway *gateway, const struct notice *notice)
{
	struct operation *operation = table_find(&gateway->table, notice->correlation);

	gateway->refusals_dropped++;
	if (operation && strcmp(operation->claim.token, notice->claim.token) == 0)
		operation->claim_due = true;
}

static void line_up(struct gateway *gateway, struct notice *notice)
{
	if (!gateway->notices || ew_channel_try_send(gateway->notices, notice) < 0)
		drop(gateway, notice);
}

static void note(struct gateway *gateway, struct notice *notice, const char *correlation,
		 const char *id)
{
	snprintf(notice->correlation, sizeof(notice->correlation), "%s", correlation);
	snprintf(notice->id, sizeof(notice->id), "%s", id);
	line_up(gateway, notice);
}

static void refuse_later(struct gateway *gateway, const struct ew_amqp_message *message,
			 bool proves)
{
	struct notice notice = { .type = "refuse", .proves = proves };
	const char *id = message->message_id;

	if (claim_read(message, &notice.claim))
		note(gateway, &notice, message->correlation_id ? message->correlation_id : "",
		     id && *id ? id : "none");
}

void broker_answer_later(struct operation *operation)
{
	struct notice notice = { .type = operation->started ? "cancel" : "refuse",
				 .proves = !operation->started &&
					   !outcome_is_proof(operation->outcome),
				 .claim = operation->claim };

	operation->claim_due = false;
	note(operation->route->gateway, &notice, operation->correlation, operation->id);
}

static void hear_gap(const struct operation *operation, const struct ew_amqp_message *message)
{
	char what[128];

	snprintf(what, sizeof(what),
		 "x-ew-sequence is %.20s where %llu is next: a part is missing.",
		 ew_amqp_header_find(message, "x-ew-sequence"),
		 (unsigned long long)operation->sequence + 1);
	events_fail_reply(operation, what);
}

static void hear(struct gateway *gateway, struct ew_amqp_delivery **delivery)
{
	const struct ew_amqp_message *message = &(*delivery)->message;
	struct operation *operation = table_find(&gateway->table, message->correlation_id);

	switch (operation_hear(operation, message)) {
	case HEARD_RESULT:
		operation->result = *delivery;
		*delivery = NULL;
		break;
	case HEARD_NEWS: break;
	case HEARD_REFUSE: refuse_later(gateway, message, false); break;
	case HEARD_REFUSE_LAST: refuse_later(gateway, message, true); break;
	case HEARD_STOP: broker_answer_later(operation); break;
	case HEARD_PROOF:
		gateway->heard_late++;
		permits_prove(gateway, operation,
			      outcome_has_result(operation->outcome) ? delivery : NULL);
		break;
	case HEARD_PROGRESS:
		gateway->heard_progress++;
		events_add(operation, EVENT_PROGRESS, *delivery);
		break;
	case HEARD_PART:
		gateway->heard_parts++;
		events_add(operation, EVENT_DATA, *delivery);
		break;
	case HEARD_GAP:
		gateway->heard_malformed++;
		hear_gap(operation, message);
		break;
	case HEARD_DUPLICATE: gateway->heard_duplicate++; break;
	case HEARD_UNKNOWN: gateway->heard_unknown++; break;
	case HEARD_LATE: gateway->heard_late++; break;
	case HEARD_MALFORMED: gateway->heard_malformed++; break;
	}
}

static int receive(struct gateway *gateway, struct ew_amqp_channel *channel)
{
	uint64_t tag;
	int r;

	for (;;) {
		EW_OWN(ew_amqp_delivery, delivery);

		r = ew_amqp_receive(channel, &delivery);
		if (r < 0)
			return r;
		/* It may be somebody's afterwards. */
		tag = delivery->tag;
		hear(gateway, &delivery);
		if (tag != 0)
			r = ew_amqp_acknowledge_tag(channel, tag);
		if (r < 0)
			return r;
	}
}

/* ---- the broker's alarms, and its silence ---- */

/*
 * The broker tells of an alarm only who publishes. So something is published now and then, to nowhere: no queue has an
 * empty name. And what a broker does not confirm fills a channel, and then nothing goes over it any more. One with an alarm may
 * not have read the probe, and one that confirms others is slow, and this stands in line behind them. Other troubles
 * than -ETIMEDOUT are the channel's, and seen there.
 */
static int probe_door(const struct gateway *gateway, struct door *door)
{
	const struct ew_amqp_message message = { .routing_key = "", .type = "probe" };
	uint64_t settled = ew_amqp_channel_settled(door->channel);
	struct ew_amqp_receipt receipt;
	int r;

	EW_SCOPE(patience, .deadline_ns = ew_after(ANSWER_PATIENCE));

	r = door_publish(door, &message, &receipt);
	r = ew_scope_finish(&patience, r);
	if (r == -ETIMEDOUT &&
	    (is_blocked(gateway) || ew_amqp_channel_settled(door->channel) != settled))
		return 0;
	return r == -ETIMEDOUT || r == -ECANCELED ? r : 0;
}

/* ---- a route's channel ---- */

/* Whatever waited for answers over this route's channel waits in vain, unless they come to a queue. */
static void lose(struct route *route)
{
	struct table *table = &route->gateway->table;

	if (route->config->reply_queue)
		return;
	for (uint32_t slot = 0; slot < table->capacity; slot++) {
		struct operation *operation = table_at(table, slot);

		if (!operation || operation->route != route || operation->outcome != OUTCOME_NONE ||
		    !operation->published)
			continue;
		/* Its task will see. */
		if (operation->confirming && !operation->claim.token[0])
			continue;
		operation->outcome = OUTCOME_LOST;
		ew_event_set(&operation->news);
	}
}

/* Without a goodbye, to which it might not answer; everybody on it is told. */
static void give_up(struct gateway *gateway)
{
	gateway->connection = NULL;
	if (gateway->kept && *gateway->kept && !ew_amqp_connection_error(*gateway->kept))
		ew_abort(gateway->kept);
}

static void channel_over(void *argument)
{
	struct route *route = argument;

	door_shut(&route->door);
	lose(route);
}

/* Whoever is in a call on a channel that has not ended waits for what nobody would hear. */
static int channel_over_close(void *argument)
{
	struct route *route = argument;
	bool told = ew_amqp_channel_error(route->door.channel) != NULL;

	channel_over(route);
	if (route->door.users > 0 && !told)
		give_up(route->gateway);
	door_close(&route->door);
	return 0;
}

/* What the broker has not said. */
static const char *trouble_of(int r)
{
	switch (r) {
	case -ETIMEDOUT: return "the broker is there and does not answer";
	case -EAGAIN:
		return "the broker allows too few channels: each route needs one, and all together three";
	default: return strerror(-r);
	}
}

static void note_reason(struct route *route, const struct ew_amqp_channel *channel)
{
	const struct ew_amqp_error *error = ew_amqp_channel_error(channel);

	snprintf(route->reason, sizeof(route->reason), "%s",
		 error ? error->text : "the broker has ended the route's channel");
}

static int run_route_probe(void *argument)
{
	struct route *route = argument;
	int r;

	do {
		r = ew_sleep(PROBE_INTERVAL);
		if (r == 0)
			r = probe_door(route->gateway, &route->door);
	} while (r == 0);
	return r;
}

/* Nobody probes any more when this returns. */
static int receive_and_probe(struct route *route, struct ew_amqp_channel *channel)
{
	int r;

	EW_SCOPE(probing);

	r = ew_spawn(&probing, run_route_probe, route);
	if (r == 0)
		r = receive(route->gateway, channel);
	return ew_scope_finish(&probing, r);
}

/* -ETIMEDOUT: the broker confirms nothing on it. */
static int serve_channel(struct route *route, struct ew_amqp_channel *channel)
{
	int r;

	door_open(&route->door, channel);

	EW_GUARD(over, route, .close = channel_over_close, .abort = channel_over);

	r = receive_and_probe(route, channel);
	note_reason(route, channel);
	return r;
}

static int open_channel(struct route *route, struct ew_amqp_channel **channel)
{
	/* Exclusive: another gateway of the same name is refused, and says so. */
	const struct ew_amqp_consumer consumer = {
		.queue = route->reply_to,
		.no_ack = !route->config->reply_queue,
		.exclusive = route->config->reply_queue,
		.prefetch_max = RECEIVE_MAX,
	};
	const struct ew_amqp_queue queue = {
		.name = route->reply_to,
		.durable = true,
		.expires_ns = REPLY_QUEUE_EXPIRY,
		.bytes_max = REPLY_QUEUE_BYTES_MAX,
	};
	int r;

	EW_SCOPE(patience, .deadline_ns = ew_after(ANSWER_PATIENCE));

	r = ew_amqp_channel_open(route->gateway->connection, NULL, channel);
	if (r == 0 && route->config->reply_queue)
		r = ew_amqp_queue_declare(*channel, &queue, NULL);
	if (r == 0)
		r = ew_amqp_consume(*channel, &consumer);
	return ew_scope_finish(&patience, r);
}

/* A broker that does not answer has its number, and there is none for the next one. */
static int leave_channel(struct ew_amqp_channel **channel, int r)
{
	if (ew_cancel_requested())
		return r;
	return ew_amqp_channel_close(channel) == -ECANCELED ? -ETIMEDOUT : r;
}

static int open_route(struct route *route)
{
	int r;

	EW_OWN(ew_amqp_channel, channel);

	r = open_channel(route, &channel);
	if (r == 0) {
		r = serve_channel(route, channel);
		if (r != -ETIMEDOUT)
			return leave_channel(&channel, r);
	}
	if (channel)
		note_reason(route, channel);
	else
		snprintf(route->reason, sizeof(route->reason), "%s", trouble_of(r));
	/* Nor would it answer to a goodbye. */
	if (r == -ETIMEDOUT)
		ew_abort(&channel);
	return r;
}

/* A route's channel, and the next one if it ends alone. -ETIMEDOUT: the connection is of no use. */
static int run_route(void *argument)
{
	struct route *route = argument;
	int r;

	do {
		r = open_route(route);
		if (r == -ECANCELED || r == -ETIMEDOUT || !broker_is_connected(route->gateway))
			return r;
		log_note("warn", "channel-lost", "route %s: %s", route->config->name,
			 route->reason);
		r = ew_sleep(REOPEN_DELAY);
	} while (r == 0 && broker_is_connected(route->gateway));
	return r;
}

/* ---- what is said to claims that nobody waits for ---- */

/* What is said next waits for the answer to this, but not for ever. */
static int say_patiently(struct gateway *gateway, const struct notice *notice,
			 struct ew_amqp_receipt *ret_receipt)
{
	int r;

	EW_SCOPE(patience, .deadline_ns = ew_after(ANSWER_PATIENCE));

	r = say(&gateway->refusals, notice->type, &notice->claim, notice->correlation, notice->id,
		ret_receipt);
	return ew_scope_finish(&patience, r);
}

static void note_said(struct gateway *gateway, const struct notice *notice)
{
	struct operation *operation;

	gateway->refused++;
	if (!notice->proves)
		return;
	operation = table_find(&gateway->table, notice->correlation);
	if (!operation || outcome_is_proof(operation->outcome))
		return;
	operation->outcome = OUTCOME_REFUSED;
	if (operation->presumed)
		permits_prove(gateway, operation, NULL);
}

/* While the broker takes nothing, those behind it would not be taken either. */
static int say_until_taken(struct gateway *gateway, const struct notice *notice,
			   struct ew_amqp_receipt *ret_receipt)
{
	int r;

	while ((r = say_patiently(gateway, notice, ret_receipt)) == -EBUSY)
		if (ew_sleep(BROKER_SAY_AGAIN) < 0)
			return -ECANCELED;
	return r;
}

/* The connection is over: who was not told yet is told over the next one. */
static bool is_for_the_next(const struct gateway *gateway, const struct ew_amqp_receipt *receipt,
			    int r)
{
	return receipt->fate == EW_AMQP_NOT_SENT &&
	       (r == -ECANCELED || !broker_is_connected(gateway));
}

static int say_notice(struct gateway *gateway, struct notice *notice)
{
	struct ew_amqp_receipt receipt;
	int r;

	r = say_until_taken(gateway, notice, &receipt);
	if (r == 0)
		note_said(gateway, notice);
	else if (is_for_the_next(gateway, &receipt, r))
		line_up(gateway, notice);
	else if (r != -EHOSTUNREACH) /* else it was the worker that has gone */
		drop(gateway, notice);
	return r;
}

static int run_notices(void *argument)
{
	struct gateway *gateway = argument;
	struct notice notice;
	int r;

	while ((r = ew_channel_receive(gateway->notices, EW_NEVER, &notice)) > 0) {
		r = say_notice(gateway, &notice);
		if (r < 0 && (r == -ECANCELED || !broker_is_connected(gateway)))
			return r;
	}
	return r;
}

/* ---- the channels to workers ---- */

/* One that the broker has ended alone, because it allows something no more: nothing can be said to workers over it. */
static int check_doors(struct gateway *gateway)
{
	const struct door *const doors[] = { &gateway->grants, &gateway->cancels,
					     &gateway->refusals };

	for (size_t i = 0; i < 3 && broker_is_connected(gateway); i++) {
		const struct ew_amqp_error *error = ew_amqp_channel_error(doors[i]->channel);

		if (!error)
			continue;
		log_note("warn", "channel-lost", "to workers: %s", error->text);
		return error->error;
	}
	return 0;
}

static int run_probe(void *argument)
{
	struct gateway *gateway = argument;
	struct door *const doors[] = { &gateway->grants, &gateway->cancels, &gateway->refusals };
	int r;

	do {
		r = ew_sleep(PROBE_INTERVAL);
		for (size_t i = 0; i < 3 && r == 0; i++)
			r = probe_door(gateway, doors[i]);
		if (r == 0)
			r = check_doors(gateway);
	} while (r == 0);
	return r;
}

/* ---- the connection ---- */

static int run_tasks(struct gateway *gateway)
{
	int r;

	/* Whoever of them ends, ends all: without one the connection is of no use. */
	EW_SCOPE(tasks);

	r = ew_spawn(&tasks, run_notices, gateway);
	if (r == 0)
		r = ew_spawn(&tasks, run_probe, gateway);
	for (size_t i = 0; i < gateway->routes_count && r == 0; i++)
		r = ew_spawn(&tasks, run_route, &gateway->routes[i]);
	if (r == 0)
		r = ew_amqp_connection_wait(gateway->connection);
	return ew_scope_finish(&tasks, r);
}

static int open_doors(struct ew_amqp_connection *connection,
		      struct ew_amqp_channel **const places[3])
{
	int r = 0;

	EW_SCOPE(patience, .deadline_ns = ew_after(ANSWER_PATIENCE));

	for (size_t i = 0; i < 3 && r == 0; i++)
		r = ew_amqp_channel_open(connection, NULL, places[i]);
	return ew_scope_finish(&patience, r);
}

static void connection_over(void *argument)
{
	struct gateway *gateway = argument;

	gateway->connection = NULL;
	gateway->kept = NULL;
	door_shut(&gateway->grants);
	door_shut(&gateway->cancels);
	door_shut(&gateway->refusals);
}

/* As for a route's channel. */
static int connection_over_close(void *argument)
{
	struct gateway *gateway = argument;
	struct door *const doors[] = { &gateway->grants, &gateway->cancels, &gateway->refusals };

	if (doors[0]->users + doors[1]->users + doors[2]->users > 0)
		give_up(gateway);
	connection_over(gateway);
	for (size_t i = 0; i < 3; i++)
		door_close(doors[i]);
	return 0;
}

static int serve_connection(struct gateway *gateway, struct ew_amqp_connection **connection,
			    struct ew_amqp_channel **const places[3])
{
	int r;

	door_open(&gateway->grants, *places[0]);
	door_open(&gateway->cancels, *places[1]);
	door_open(&gateway->refusals, *places[2]);
	gateway->connection = *connection;
	gateway->kept = connection;
	gateway->connected++;
	snprintf(gateway->reason, sizeof(gateway->reason), "the connection has ended");
	log_note("info", "connected", "to the broker");

	EW_GUARD(over, gateway, .close = connection_over_close, .abort = connection_over);

	r = run_tasks(gateway);
	if (r == -ETIMEDOUT)
		give_up(gateway);
	return r;
}

static int use_connection(struct gateway *gateway, struct ew_amqp_connection **connection)
{
	int r;

	EW_OWN(ew_amqp_channel, grants);
	EW_OWN(ew_amqp_channel, cancels);
	EW_OWN(ew_amqp_channel, refusals);
	struct ew_amqp_channel **const places[] = { &grants, &cancels, &refusals };

	r = open_doors(*connection, places);
	if (r == 0)
		return serve_connection(gateway, connection, places);
	/* Nor would it answer to a goodbye. */
	if (r == -ETIMEDOUT)
		ew_abort(connection);
	return r;
}

static void note_trouble(struct gateway *gateway, const char *event, const char *text)
{
	snprintf(gateway->reason, sizeof(gateway->reason), "%s", text);
	log_note("warn", event, "%s", gateway->reason);
}

static int connect_once(struct gateway *gateway, struct ew_amqp_dialer *dialer,
			struct ew_scope *scope)
{
	const struct ew_amqp_error *ended;
	struct ew_amqp_error error = {};
	int r;

	EW_OWN(ew_amqp_connection, connection);

	r = ew_amqp_dial(dialer, scope, &error, &connection);
	if (r < 0) {
		if (r != -ECANCELED)
			note_trouble(gateway, "connect-failed",
				     error.text[0] ? error.text : strerror(-r));
		return r;
	}
	r = use_connection(gateway, &connection);
	if (r == -ETIMEDOUT)
		ew_amqp_dialer_pass(dialer);
	ended = connection ? ew_amqp_connection_error(connection) : NULL;
	if (r != -ECANCELED)
		note_trouble(gateway, "connection-lost", ended ? ended->text : trouble_of(r));
	return r;
}

static size_t largest_body(const struct gateway *gateway)
{
	uint64_t most = 0;

	for (size_t i = 0; i < gateway->routes_count; i++)
		if (gateway->routes[i].config->body_max_bytes > most)
			most = gateway->routes[i].config->body_max_bytes;
	return (size_t)(most < CONFIG_BODY_MAX_MAX ? most : CONFIG_BODY_MAX_MAX);
}

static int keep_connection(struct gateway *gateway)
{
	const struct broker_address *brokers = gateway->options->brokers;
	struct ew_amqp_endpoint endpoints[OPTIONS_BROKERS_MAX];
	const struct ew_amqp_options options = {
		.user = brokers->user,
		.password = brokers->password,
		.virtual_host = brokers->virtual_host,
		.name = "ew-gateway",
		.tls = gateway->options->tls,
		.server_name = gateway->options->tls_server_name,
		.channels_max = (unsigned int)gateway->routes_count + 3,
		.message_bytes_max = largest_body(gateway),
	};
	struct ew_amqp_dialer dialer = {
		.endpoints = endpoints,
		.endpoints_count = (unsigned int)gateway->options->brokers_count,
		.options = &options,
		.delay_max_ns = 5 * EW_SECOND,
	};
	int r;

	EW_SCOPE(scope);

	for (size_t i = 0; i < gateway->options->brokers_count; i++)
		endpoints[i] = (struct ew_amqp_endpoint){
			.address = (const struct sockaddr *)&brokers[i].address,
			.address_bytes = brokers[i].bytes,
			.server_name = options.server_name ? NULL : brokers[i].host,
		};
	do
		r = connect_once(gateway, &dialer, &scope);
	while (r != -ECANCELED);
	return ew_scope_finish(&scope, r);
}

static void notices_over(void *gateway)
{
	((struct gateway *)gateway)->notices = NULL;
}

static int notices_over_close(void *gateway)
{
	notices_over(gateway);
	return 0;
}

int broker_run(void *argument)
{
	struct gateway *gateway = argument;
	int r;

	EW_OWN(ew_channel, notices);

	r = ew_channel_new(NOTICES_MAX, sizeof(struct notice), NULL, &notices);
	if (r < 0)
		return r;
	gateway->notices = notices;

	EW_GUARD(over, gateway, .close = notices_over_close, .abort = notices_over);

	snprintf(gateway->reason, sizeof(gateway->reason), "the broker is being connected");
	return keep_connection(gateway);
}
