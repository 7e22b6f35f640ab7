/* SPDX-License-Identifier: Apache-2.0 */

/*
 * The whole gateway with a moody broker, workers and clients that leave, in simulated worlds with everything that may go
 * wrong, for many seeds.
 */

#include "gateway_fair.h"

#define VISITORS 12

static bool calm;
static bool tenants;	    /* the requests are theirs, and some clients want events */
static uint64_t gentleness; /* of the broker, in this world */

/* ---- moods of the broker ---- */

static enum mood judge(struct peer *peer, const struct ew_amqp_message *message)
{
	note_message(peer, message);
	if (calm)
		return MOOD_TAKE;
	switch (ew_sim_random(60 * gentleness)) {
	case 0: return MOOD_NACK;
	case 1: return MOOD_NACK_AND_TAKE;
	case 2: return MOOD_RETURN;
	case 3: return ew_sim_random(4) ? MOOD_TAKE : MOOD_FORGET;
	case 4: return ew_sim_random(2) ? MOOD_HANG_UP : MOOD_LOSE;
	default: return MOOD_TAKE;
	}
}

static int64_t delays(void)
{
	return calm || ew_sim_random(20 * gentleness) ? 0 : (int64_t)ew_sim_random(2 * EW_SECOND);
}

/* Longer than anybody waits for an answer. */
static int64_t dozes(void)
{
	return calm || ew_sim_random(200 * gentleness) ? 0 : (int64_t)ew_sim_random(30 * EW_SECOND);
}

/* Channels are not closed on it, and it opens no new ones. */
static int answer_no_channels(struct broker *broker, unsigned channel, const amqp_method_t *method)
{
	if (method->id == AMQP_CHANNEL_CLOSE_METHOD || method->id == AMQP_CHANNEL_OPEN_METHOD)
		return 1;
	return on_method(broker, channel, method);
}

static struct peer *any_peer(void)
{
	struct peer *peer = world.broker.peers;
	uint64_t steps = ew_sim_random(4);

	while (peer && peer->next && steps-- > 0)
		peer = peer->next;
	return peer;
}

static void say_no_more(struct peer *peer)
{
	amqp_connection_blocked_t blocked = { amqp_cstring_bytes("low on memory") };

	broker_say(&peer->broker, 0, AMQP_CONNECTION_BLOCKED_METHOD, &blocked);
	hub_flush(peer);
}

static void say_unblocked(struct peer *peer)
{
	amqp_connection_unblocked_t unblocked = {};

	broker_say(&peer->broker, 0, AMQP_CONNECTION_UNBLOCKED_METHOD, &unblocked);
	hub_flush(peer);
}

static void say_blocked(struct peer *peer)
{
	if (ew_sim_random(2))
		say_no_more(peer);
	else
		say_unblocked(peer);
}

/* Only one that is open: 16 have not been, on any connection here. */
static void close_a_channel(struct peer *peer, unsigned channel)
{
	if (!peer->channels[channel].prefetch && !peer->channels[channel].reply_to[0])
		return;
	note_lost(peer);
	refuse_channel(peer, channel, AMQP_PRECONDITION_FAILED, "PRECONDITION_FAILED - moody");
}

static void say_goodbye(struct peer *peer)
{
	amqp_connection_close_t close = { .reply_code = AMQP_CONNECTION_FORCED,
					  .reply_text =
						  amqp_cstring_bytes("CONNECTION_FORCED - moody") };

	broker_say(&peer->broker, 0, AMQP_CONNECTION_CLOSE_METHOD, &close);
	hub_flush(peer);
}

static int weather(void *unused)
{
	struct peer *peer;
	unsigned channel;
	int r = 0;

	(void)unused;
	while (r == 0 && !calm) {
		r = ew_sleep((int64_t)ew_sim_random(4 * gentleness * EW_SECOND));
		peer = any_peer();
		if (r < 0 || calm || !peer || !peer->reading)
			continue;
		channel = 1 + (unsigned)ew_sim_random(4);
		switch (ew_sim_random(13)) {
		case 8: peer->broker.on = answer_no_channels; break;
		case 0: ew_scope_cancel(peer->reading, EW_REASON_REQUESTED); break;
		case 1: peer->cut = true; break;
		case 2: say_goodbye(peer); break;
		case 3:
		case 4: close_a_channel(peer, channel); break;
		case 5: cancel_consumer(peer, channel); break;
		case 6:
		case 7: change_flow(peer, channel, ew_sim_random(2)); break;
		default: say_blocked(peer); break;
		}
	}
	return r;
}

/* ---- clients ---- */

static int64_t some_patience(void)
{
	return ew_sim_random(2) ? 1000 * EW_SECOND : (int64_t)ew_sim_random(6 * EW_SECOND);
}

static void make_operation(unsigned number, char body[64])
{
	snprintf(body, 64, "%u %u %c", number, (unsigned)ew_sim_random(3) * 1500,
		 "ssfle"[ew_sim_random(5)]);
}

/* Whose it is, by lot; and the rest of the fields. */
static const char *fields_of(char fields[128], const char *more)
{
	static const char *const names[] = { "large", "small", "nobody-knows" };

	*fields = '\0';
	if (tenants)
		snprintf(fields, 128, "X-Tenant: %s\r\n%s", names[ew_sim_random(3)], more);
	return tenants ? fields : more;
}

static int visit_for_events(unsigned number)
{
	struct exchange exchange;
	char body[64], fields[128];
	int r;

	make_operation(number, body);
	say_post(&exchange, body, fields_of(fields, "Accept: text/event-stream\r\n"));
	r = converse_patiently(&exchange, some_patience());
	if (r == 0 && exchange.has_events)
		check_events(&exchange, number, body);
	return r;
}

static int delete_operation(struct exchange *exchange, const char *id)
{
	char path[64];
	int r;

	snprintf(path, sizeof(path), "/ops/%s", id);
	say_about(exchange, "DELETE", path);
	r = converse_patiently(exchange, some_patience());
	if (r == 0)
		check_receipt(exchange, id);
	return r;
}

/* Of one that runs without its client, and may be cancelled meanwhile or be over. */
static int visit_and_watch(unsigned number)
{
	struct exchange exchange;
	char body[64], fields[128], path[64], id[ID_BYTES];
	int r;

	make_operation(number, body);
	say_post(&exchange, body,
		 fields_of(fields, "Accept: text/event-stream\r\nPrefer: respond-async\r\n"));
	r = converse_patiently(&exchange, 1000 * EW_SECOND);
	if (r < 0 || exchange.status != 202)
		return r;
	strcpy(id, exchange.id);
	r = ew_sleep((int64_t)ew_sim_random(2 * EW_SECOND));
	if (r == 0 && ew_sim_random(3) == 0)
		r = delete_operation(&exchange, id);
	if (r < 0)
		return r;
	snprintf(path, sizeof(path), "/ops/%s/events", id);
	say_about(&exchange, "GET", path);
	r = converse_patiently(&exchange, some_patience());
	if (r == 0 && exchange.has_events)
		check_events(&exchange, number, body);
	return r;
}

static int visit_once(unsigned number)
{
	struct exchange exchange;
	char body[64], fields[128];
	int r;

	make_operation(number, body);
	say_post(&exchange, body, fields_of(fields, ""));
	r = converse_patiently(&exchange, some_patience());
	if (r == 0)
		check_answer(&exchange, body);
	return r;
}

/* The same key, the same operation: it is done once, and each who asks gets that result. */
static int visit_with_key(void)
{
	struct exchange exchange;
	unsigned key = (unsigned)ew_sim_random(2);
	char body[64], field[64];
	int r;

	snprintf(body, sizeof(body), "%u 1000 s", 1000 + key);
	snprintf(field, sizeof(field), "Idempotency-Key: %u\r\n", key);
	say_post(&exchange, body, field);
	r = converse_patiently(&exchange, some_patience());
	if (r == 0)
		check_answer(&exchange, body);
	return r;
}

/* 202, and then somebody asks what became of it, or wants it no more. */
static int visit_and_leave(unsigned number)
{
	struct exchange exchange;
	char body[64], path[64], id[ID_BYTES];
	bool cancel = ew_sim_random(2);
	int r;

	make_operation(number, body);
	say_post(&exchange, body, "Prefer: respond-async\r\n");
	r = converse_patiently(&exchange, 1000 * EW_SECOND);
	if (r < 0 || exchange.status != 202)
		return r;
	strcpy(id, exchange.id);
	snprintf(path, sizeof(path), "/ops/%s%s", id, cancel || ew_sim_random(2) ? "" : "/result");
	r = ew_sleep((int64_t)ew_sim_random(4 * EW_SECOND));
	if (r < 0)
		return r;
	say_about(&exchange, cancel ? "DELETE" : "GET", path);
	r = converse_patiently(&exchange, some_patience());
	if (r == 0 && cancel)
		check_receipt(&exchange, id);
	return r;
}

static int look(void)
{
	static const char *const pages[] = { "/permits", "/readyz", "/metrics", "/ops/a" };
	struct exchange exchange;

	say_about(&exchange, "GET", pages[ew_sim_random(4)]);
	return converse_patiently(&exchange, some_patience());
}

static int visitor(void *argument)
{
	unsigned number = (unsigned)(uintptr_t)argument;
	int r;

	r = ew_sleep((int64_t)ew_sim_random(10 * EW_SECOND));
	if (r < 0)
		return r;
	if (tenants && ew_sim_random(2))
		return ew_sim_random(2) ? visit_for_events(number) : visit_and_watch(number);
	switch (ew_sim_random(8)) {
	case 0: return look();
	case 1: return visit_with_key();
	case 2:
	case 3: return visit_and_leave(number);
	default: return visit_once(number);
	}
}

/* ---- the two halves of a world's life ---- */

static struct front *front_now(void)
{
	return &world.gateway->front;
}

static int stopper(void *unused)
{
	(void)unused;
	return stop_by_lot(front_now);
}

static int stormy(void)
{
	bool stop = ew_sim_random(3) == 0;
	int r;

	EW_GUARD(gateway, &world, .close = free_gateway_close, .abort = free_gateway);
	EW_SCOPE(serving);
	EW_SCOPE(stopping);

	r = start_gateway(&serving);
	EXPECT_EQ(r, 0);
	if (stop)
		r = ew_spawn(&stopping, stopper, NULL);
	EXPECT_EQ(r, 0);
	r = run_visitors(visitor, VISITORS);
	EXPECT_EQ(r, 0);
	r = ew_scope_finish(&stopping, 0);
	EXPECT_EQ(r, 0);
	if (!stop)
		front_stop(&world.gateway->front);
	r = ew_scope_finish(&serving, 0);
	EXPECT_EQ(r, 0);
	return 0;
}

/* What the storm has left is over when the hold time is. */
static int calm_again(void)
{
	int r;

	EW_GUARD(gateway, &world, .close = free_gateway_close, .abort = free_gateway);
	EW_SCOPE(serving);

	calm = true;
	ew_sim_calm();
	for (struct peer *peer = world.broker.peers; peer; peer = peer->next) {
		say_unblocked(peer);
		for (unsigned channel = 1; channel < HUB_CHANNELS_MAX; channel++)
			change_flow(peer, channel, true);
	}
	r = start_gateway(&serving);
	EXPECT_EQ(r, 0);
	r = ew_sleep(HOLD_SECONDS * EW_SECOND);
	EXPECT_EQ(r, 0);
	expect_answer("99 100 s");
	front_stop(&world.gateway->front);
	r = ew_scope_finish(&serving, 0);
	EXPECT_EQ(r, 0);
	return 0;
}

static int scenario(void *unused)
{
	int r;

	(void)unused;
	EW_GUARD(listener, &world, .close = close_broker_close, .abort = close_broker);
	EW_SCOPE(peers);
	EW_GUARD(stop, &world, .close = stop_peers_close, .abort = stop_peers);
	EW_SCOPE(moody, .policy = EW_POLICY_INDEPENDENT);

	gentleness = 1 + 4 * ew_sim_random(3);
	world.broker.judge = judge;
	world.broker.delays = delays;
	world.broker.dozes = dozes;
	/* By lot the broker is the only trouble. */
	if (ew_sim_random(2))
		ew_sim_calm();
	r = start_peers(&peers);
	EXPECT_EQ(r, 0);
	r = ew_spawn(&moody, weather, NULL);
	EXPECT_EQ(r, 0);
	r = stormy();
	EXPECT_EQ(r, 0);
	r = calm_again();
	EXPECT_EQ(r, 0);
	r = ew_scope_finish(&moody, 0);
	EXPECT_EQ(r, 0);
	stop_peers(NULL);
	return ew_scope_finish(&peers, 0);
}

static void prepare(void *more)
{
	world_prepare(more ? more : "");
	calm = tenants = false;
}

TEST(gateway_under_all_faults)
{
	try_seeds(100, scenario, prepare, NULL);
}

static void prepare_without_grant(void *unused)
{
	(void)unused;
	prepare("grant = none\n");
}

TEST(gateway_without_grants_under_all_faults)
{
	try_seeds(100, scenario, prepare_without_grant, NULL);
}

static void prepare_replies(void *unused)
{
	(void)unused;
	prepare("replies = queue\n");
}

static void prepare_replies_without_grant(void *unused)
{
	(void)unused;
	prepare("replies = queue\ngrant = none\n");
}

/* Gateways come one after the other, and have the same queue. */
TEST(gateway_with_a_reply_queue_under_all_faults)
{
	try_seeds(100, scenario, prepare_replies, NULL);
	try_seeds(50, scenario, prepare_replies_without_grant, NULL);
}

/* The last gateway has swept what the first could not remove, and has removed all of its own. */
static int scenario_with_bodies(void *unused)
{
	int r = scenario(unused);

	check_no_bodies();
	return r;
}

static void prepare_bodies(void *unused)
{
	(void)unused;
	prepare("bodies = /sim/bodies\ninline_body = 0\n");
}

static const char bodies_and_replies[] = "replies = queue\nbodies = /sim/bodies\ninline_body = 0\n";

static void prepare_bodies_and_replies(void *unused)
{
	(void)unused;
	prepare((void *)bodies_and_replies);
}

TEST(gateway_with_bodies_in_files_under_all_faults)
{
	const struct ew_sim_filesystem_options disk = {};
	struct ew_sim_trial trial = { .seeds_count = 50,
				      .filesystem = &disk,
				      .prepare = prepare_bodies };

	try_trial(&trial, scenario_with_bodies);
	trial.prepare = prepare_bodies_and_replies;
	try_trial(&trial, scenario_with_bodies);
}

static void prepare_tenants(void *more)
{
	char text[256];

	snprintf(text, sizeof(text),
		 "tenant_header = X-Tenant\ntenant_concurrency = 2\n%s"
		 "[tenant large]\nconcurrency = 3\n[tenant small]\nconcurrency = 1\n",
		 (const char *)more);
	prepare(text);
	tenants = true;
}

static void prepare_tenants_with_grant(void *unused)
{
	(void)unused;
	prepare_tenants("");
}

static void prepare_tenants_without_grant(void *unused)
{
	(void)unused;
	prepare_tenants("grant = none\n");
}

TEST(gateway_with_tenants_and_events_under_all_faults)
{
	try_seeds(50, scenario, prepare_tenants_with_grant, NULL);
	try_seeds(50, scenario, prepare_tenants_without_grant, NULL);
}

/* ---- what a storm has found, in fair weather ---- */

static int ask_with_key(struct exchange *exchange)
{
	say_post(exchange, "1 500 s", "Idempotency-Key: k\r\n");
	return converse(exchange);
}

static int ask_twice(void)
{
	struct exchange exchange;
	char first[ID_BYTES];

	EXPECT_EQ(ask_with_key(&exchange), 0);
	EXPECT_EQ(exchange.status, 502);
	EXPECT(says(&exchange, "one of several queues may have it"));
	strcpy(first, exchange.id);
	EXPECT_EQ(ew_sleep(5 * EW_SECOND), 0);
	EXPECT_EQ(note_of(first)->begun, 1);
	EXPECT(!note_of(first)->finished);
	EXPECT_EQ(ask_with_key(&exchange), 0);
	EXPECT_EQ(exchange.status, 200);
	EXPECT_STR(exchange.body, "1 500 s");
	EXPECT(strcmp(exchange.id, first) != 0);
	return 0;
}

/* It was presumed, and then stopped: its key is free, and its end is nobody's result. */
TEST(gateway_operation_that_is_stopped_at_last_has_no_result)
{
	run_fair("grant = none\n", MOOD_NACK_AND_TAKE, ask_twice);
}

static int ask_too_often(void)
{
	struct exchange exchange;
	char first[ID_BYTES];

	EXPECT_EQ(ask_with_key(&exchange), 0);
	EXPECT_EQ(exchange.status, 200);
	strcpy(first, exchange.id);
	for (unsigned i = 0; i < RECORDS_MAX + 1; i++) {
		say_post(&exchange, "2 500 s", "Idempotency-Key: k\r\n");
		EXPECT_EQ(converse(&exchange), 0);
		EXPECT_EQ(exchange.status, 422);
	}
	EXPECT_EQ(ask_with_key(&exchange), 0);
	EXPECT_EQ(exchange.status, 200);
	EXPECT_STR(exchange.id, first);
	EXPECT_EQ(world.notes_count, 1);
	return 0;
}

/* Or whoever asks again and again would have done twice what was to be done once. */
TEST(gateway_requests_that_are_refused_push_out_no_result)
{
	run_fair("", MOOD_TAKE, ask_too_often);
}

static int ask_and_hear_why(void)
{
	struct exchange exchange;

	say_post(&exchange, "1 500 s", "");
	EXPECT_EQ(converse(&exchange), 0);
	EXPECT_EQ(exchange.status, 502);
	EXPECT(says(&exchange, "The broker was lost: the broker hung up without a word."));
	return 0;
}

/* Whoever waits is told at once, before the one who keeps the connection has noticed. */
TEST(gateway_says_how_it_has_lost_the_broker)
{
	run_fair("grant = none\n", MOOD_HANG_UP, ask_and_hear_why);
}

static int ask_in_several_fields(void)
{
	struct exchange exchange;

	say_post(&exchange, "1 500 s", "Idempotency-Key: a\r\nIdempotency-Key: b\r\n");
	EXPECT_EQ(converse(&exchange), 0);
	EXPECT_EQ(exchange.status, 400);
	EXPECT(says(&exchange, "bad-key"));
	EXPECT_EQ(world.notes_count, 0);
	say_post(&exchange, "1 500 s",
		 "Prefer: return=minimal\r\nPrefer: wait=1, respond-async\r\n");
	EXPECT_EQ(converse(&exchange), 0);
	EXPECT_EQ(exchange.status, 202);
	return 0;
}

/* Two keys would be one that is known, and one that is not; preferences may stand in as many fields as they like. */
TEST(gateway_request_has_one_key_and_any_number_of_preferences)
{
	run_fair("", MOOD_TAKE, ask_in_several_fields);
}

static int delete_what_is_only_read(void)
{
	static const char *const aspects[] = { "events", "result" };
	struct exchange exchange;
	char path[64], id[ID_BYTES];

	say_post(&exchange, "1 500 s", "Accept: text/event-stream\r\nPrefer: respond-async\r\n");
	EXPECT_EQ(converse(&exchange), 0);
	EXPECT_EQ(exchange.status, 202);
	strcpy(id, exchange.id);
	for (unsigned i = 0; i < 2; i++) {
		snprintf(path, sizeof(path), "/ops/%s/%s", id, aspects[i]);
		say_about(&exchange, "DELETE", path);
		EXPECT_EQ(converse(&exchange), 0);
		EXPECT_EQ(exchange.status, 405);
		EXPECT(strstr(exchange.response, "\r\nAllow: GET, HEAD\r\n"));
	}
	return 0;
}

TEST(gateway_names_the_methods_of_what_is_only_read)
{
	run_fair("", MOOD_TAKE, delete_what_is_only_read);
}

/* ---- a connection that is cut between an operation and its confirm ---- */

static int ask_and_get(void)
{
	struct exchange exchange;

	say_post(&exchange, "1 500 s", "");
	EXPECT_EQ(converse(&exchange), 0);
	EXPECT_EQ(exchange.status, 200);
	check_answer(&exchange, "1 500 s");
	EXPECT_EQ(note_of(exchange.id)->publications, 2);
	EXPECT_EQ(world.gateway->routes[0].republished, 1);
	/* What the broker has had before is claimed in vain; when its worker gives it back, its time is over. */
	EXPECT_EQ(ew_sleep(30 * EW_SECOND), 0);
	EXPECT_EQ(note_of(exchange.id)->begun, 1);
	EXPECT_EQ(world.claims_count, first_mood == MOOD_LOSE ? 1U : 2U);
	return 0;
}

TEST(gateway_publishes_again_what_the_broker_had_and_did_not_confirm)
{
	run_fair("", MOOD_HANG_UP, ask_and_get);
}

TEST(gateway_publishes_again_what_the_broker_never_had)
{
	run_fair("", MOOD_LOSE, ask_and_get);
}

/* Now claims of the earlier message find the gateway, and are refused. */
TEST(gateway_with_a_reply_queue_publishes_again_and_refuses_the_earlier_message)
{
	run_fair("replies = queue\n", MOOD_HANG_UP, ask_and_get);
	run_fair("replies = queue\n", MOOD_LOSE, ask_and_get);
}

static int ask_and_get_once(void)
{
	struct exchange exchange;

	say_post(&exchange, "1 500 s", "");
	EXPECT_EQ(converse(&exchange), 0);
	EXPECT_EQ(exchange.status, 200);
	check_answer(&exchange, "1 500 s");
	EXPECT_EQ(note_of(exchange.id)->publications, 1);
	EXPECT_EQ(note_of(exchange.id)->begun, 1);
	return 0;
}

TEST(gateway_with_a_reply_queue_waits_for_what_began_without_a_confirm)
{
	run_fair("replies = queue\ngrant = none\n", MOOD_HANG_UP, ask_and_get_once);
}

static enum mood judge_grant_and_hang_up(struct peer *peer, const struct ew_amqp_message *message)
{
	static unsigned grants;

	note_message(peer, message);
	if (strcmp(message->type ? message->type : "", "grant") != 0)
		return MOOD_TAKE;
	return grants++ == 0 ? first_mood : MOOD_TAKE;
}

static int ask_and_lose_the_grant(void)
{
	world.broker.judge = judge_grant_and_hang_up;
	return ask_and_get_once();
}

TEST(gateway_with_a_reply_queue_grants_again_when_it_is_connected_again)
{
	run_fair("replies = queue\n", MOOD_LOSE, ask_and_lose_the_grant);
}

static int ask_and_hear_nothing_certain(void)
{
	struct exchange exchange;

	say_post(&exchange, "1 500 s", "");
	EXPECT_EQ(converse(&exchange), 0);
	EXPECT_EQ(exchange.status, 502);
	EXPECT(says(&exchange, "outcome-unknown"));
	EXPECT_EQ(note_of(exchange.id)->publications, 1);
	return 0;
}

TEST(gateway_publishes_nothing_again_that_begins_without_a_grant)
{
	run_fair("grant = none\n", MOOD_LOSE, ask_and_hear_nothing_certain);
}

static enum mood judge_poison(struct peer *peer, const struct ew_amqp_message *message)
{
	note_message(peer, message);
	return strcmp(message->type ? message->type : "", "op") == 0 ? MOOD_LOSE : MOOD_TAKE;
}

static int ask_poison(void)
{
	struct exchange exchange;

	world.broker.judge = judge_poison;
	say_post(&exchange, "1 500 s", "");
	EXPECT_EQ(converse(&exchange), 0);
	EXPECT_EQ(exchange.status, 502);
	EXPECT(says(&exchange, "outcome-unknown"));
	EXPECT_EQ(note_of(exchange.id)->publications, 3);
	return 0;
}

TEST(gateway_message_that_ends_each_connection_does_so_three_times)
{
	run_fair("", MOOD_TAKE, ask_poison);
}

static enum mood judge_poison_taken(struct peer *peer, const struct ew_amqp_message *message)
{
	return judge_poison(peer, message) == MOOD_LOSE ? MOOD_HANG_UP : MOOD_TAKE;
}

static int ask_poison_that_is_taken(void)
{
	struct exchange exchange;

	world.broker.judge = judge_poison_taken;
	say_post(&exchange, "1 500 s", "");
	EXPECT_EQ(converse(&exchange), 0);
	EXPECT_EQ(exchange.status, 200);
	check_answer(&exchange, "1 500 s");
	EXPECT_EQ(note_of(exchange.id)->publications, 3);
	EXPECT_EQ(note_of(exchange.id)->begun, 1);
	return 0;
}

static int ask_poison_in_vain(void)
{
	struct ew_semaphore_counts counts;
	struct exchange exchange;

	world.broker.judge = judge_poison;
	say_post(&exchange, "1 500 s", "Idempotency-Key: k\r\n");
	EXPECT_EQ(converse(&exchange), 0);
	EXPECT_EQ(exchange.status, 504);
	EXPECT_EQ(note_of(exchange.id)->publications, 3);
	EXPECT_EQ(ew_sleep(3 * EW_SECOND), 0);
	counts = ew_semaphore_count(world.gateway->routes[0].permits);
	EXPECT_EQ(counts.presumed, 1);
	say_post(&exchange, "1 500 s", "Idempotency-Key: k\r\n");
	EXPECT_EQ(converse(&exchange), 0);
	EXPECT_EQ(exchange.status, 502);
	EXPECT(says(&exchange, "outcome-unknown"));
	EXPECT_EQ(ew_sleep(HOLD_SECONDS * EW_SECOND), 0);
	counts = ew_semaphore_count(world.gateway->routes[0].permits);
	EXPECT_EQ(counts.free, CONCURRENCY);
	return 0;
}

/* The third time may have been the one; what comes of it finds the gateway, and if nothing does nobody knows. */
TEST(gateway_with_a_reply_queue_waits_for_what_was_lost_three_times)
{
	run_fair("replies = queue\n", MOOD_TAKE, ask_poison_that_is_taken);
	run_fair("replies = queue\n", MOOD_TAKE, ask_poison_in_vain);
}

/* The broker comes back when nobody can be waiting any more. */
static int64_t delays_long(void)
{
	return 3 * TIMEOUT_SECONDS * EW_SECOND;
}

static enum mood judge_and_go(struct peer *peer, const struct ew_amqp_message *message)
{
	note_message(peer, message);
	if (strcmp(message->type ? message->type : "", "op") != 0)
		return MOOD_TAKE;
	world.broker.delays = delays_long;
	return MOOD_HANG_UP;
}

static int wait_in_vain(void)
{
	world.broker.judge = judge_and_go;
	return ask_and_hear_nothing_certain();
}

TEST(gateway_deadline_of_what_was_not_confirmed_says_that_nothing_is_known)
{
	run_fair("", MOOD_TAKE, wait_in_vain);
}

static int cancel_in_vain(void)
{
	struct exchange exchange;
	char path[64];
	int64_t now_ns;

	world.broker.judge = judge_and_go;
	say_post(&exchange, "1 500 s", "Prefer: respond-async\r\n");
	EXPECT_EQ(converse(&exchange), 0);
	EXPECT_EQ(exchange.status, 202);
	EXPECT_EQ(ew_sleep(EW_SECOND), 0);
	snprintf(path, sizeof(path), "/ops/%s", exchange.id);
	now_ns = ew_now();
	say_about(&exchange, "DELETE", path);
	EXPECT_EQ(converse(&exchange), 0);
	EXPECT(says(&exchange, "\"presumed\"") && says(&exchange, "\"lost\""));
	EXPECT(ew_now() - now_ns < EW_SECOND);
	return 0;
}

/* The time is the world's: it does not wait for a proof that nobody could give. */
TEST(gateway_cancel_of_what_was_not_confirmed_is_presumed_at_once)
{
	run_fair("", MOOD_TAKE, cancel_in_vain);
}

/* ---- what is said to workers ---- */

static unsigned refusals;

/* Operations that are not taken are there all the same; of their refusals the first is never confirmed. */
static enum mood judge_refusals(struct peer *peer, const struct ew_amqp_message *message)
{
	const char *type = message->type ? message->type : "";

	note_message(peer, message);
	if (strcmp(type, "op") == 0)
		return MOOD_NACK_AND_TAKE;
	return strcmp(type, "refuse") == 0 && ++refusals == 1 ? MOOD_FORGET : MOOD_TAKE;
}

static int ask_for_refusals(void)
{
	struct exchange exchange;

	world.broker.judge = judge_refusals;
	for (unsigned i = 0; i < 2; i++) {
		say_post(&exchange, "1 500 s", "");
		EXPECT_EQ(converse(&exchange), 0);
		EXPECT_EQ(exchange.status, 503);
	}
	EXPECT_EQ(ew_sleep(15 * EW_SECOND), 0);
	EXPECT(refusals >= 2);
	return 0;
}

TEST(gateway_refusal_that_is_not_confirmed_holds_up_no_other_for_ever)
{
	run_fair("", MOOD_TAKE, ask_for_refusals);
}

static enum mood judge_refusals_and_hang_up(struct peer *peer,
					    const struct ew_amqp_message *message)
{
	const char *type = message->type ? message->type : "";

	note_message(peer, message);
	if (strcmp(type, "op") == 0)
		return MOOD_NACK_AND_TAKE;
	return strcmp(type, "refuse") == 0 && ++refusals == 1 ? MOOD_LOSE : MOOD_TAKE;
}

static int ask_and_lose_a_refusal(void)
{
	struct exchange exchange;

	refusals = 0;
	world.broker.judge = judge_refusals_and_hang_up;
	say_post(&exchange, "1 500 s", "");
	EXPECT_EQ(converse(&exchange), 0);
	EXPECT_EQ(exchange.status, 503);
	EXPECT_EQ(ew_sleep(5 * EW_SECOND), 0);
	EXPECT_EQ(refusals, 1);
	EXPECT_EQ(world.gateway->refused, 0);
	EXPECT_EQ(world.gateway->refusals_dropped, 1);
	return 0;
}

TEST(gateway_refusal_that_is_lost_with_the_connection_is_counted)
{
	run_fair("", MOOD_TAKE, ask_and_lose_a_refusal);
}

static struct peer *gateway_peer;

/* Operations that are not taken are there all the same; and from then on nothing is taken. */
static enum mood judge_and_block(struct peer *peer, const struct ew_amqp_message *message)
{
	amqp_connection_blocked_t blocked = { amqp_cstring_bytes("low on memory") };
	const char *type = message->type ? message->type : "";

	note_message(peer, message);
	refusals += strcmp(type, "refuse") == 0;
	if (strcmp(type, "op") != 0)
		return MOOD_TAKE;
	gateway_peer = peer;
	broker_say(&peer->broker, 0, AMQP_CONNECTION_BLOCKED_METHOD, &blocked);
	return MOOD_NACK_AND_TAKE;
}

static int ask_while_blocked(void)
{
	amqp_connection_unblocked_t unblocked = {};
	struct exchange exchange;

	refusals = 0;
	world.broker.judge = judge_and_block;
	say_post(&exchange, "1 500 s", "");
	EXPECT_EQ(converse(&exchange), 0);
	EXPECT_EQ(exchange.status, 503);
	EXPECT_EQ(ew_sleep(3 * EW_SECOND), 0);
	EXPECT_EQ(world.claims_count, 1);
	EXPECT_EQ(refusals, 0);
	broker_say(&gateway_peer->broker, 0, AMQP_CONNECTION_UNBLOCKED_METHOD, &unblocked);
	hub_flush(gateway_peer);
	EXPECT_EQ(ew_sleep(2 * EW_SECOND), 0);
	EXPECT_EQ(refusals, 1);
	return 0;
}

TEST(gateway_refusal_that_meets_a_broker_that_takes_nothing_is_said_afterwards)
{
	run_fair("", MOOD_TAKE, ask_while_blocked);
}

static int ask_and_be_shed(void)
{
	struct exchange exchange;
	int64_t now_ns;

	world.broker.judge = judge_and_block;
	say_post(&exchange, "1 500 s", "");
	EXPECT_EQ(converse(&exchange), 0);
	for (unsigned i = 0; i < 2 * CONCURRENCY; i++) {
		now_ns = ew_now();
		say_post(&exchange, "2 500 s", "");
		EXPECT_EQ(converse(&exchange), 0);
		EXPECT_EQ(exchange.status, 503);
		EXPECT(says(&exchange, "broker-blocked"));
		EXPECT(ew_now() - now_ns < 10 * EW_MILLISECOND);
	}
	/* Nor is anything of it said later. */
	EXPECT_EQ(world.notes_count, 1);
	return 0;
}

/* The time is the world's, where only waiting takes any. */
TEST(gateway_whose_broker_is_blocked_refuses_at_once)
{
	run_fair("", MOOD_TAKE, ask_and_be_shed);
}

static unsigned kept_channel;
static uint64_t kept_tag;

/* Operations are taken, and there is no word about them. */
static enum mood judge_and_keep(struct peer *peer, const struct ew_amqp_message *message)
{
	const char *type = message->type ? message->type : "";

	note_message(peer, message);
	refusals += strcmp(type, "refuse") == 0;
	if (strcmp(type, "op") != 0)
		return MOOD_TAKE;
	gateway_peer = peer;
	for (kept_channel = 0; !peer->channels[kept_channel].reply_to[0]; kept_channel++)
		;
	kept_tag = peer->channels[kept_channel].seen;
	return MOOD_FORGET;
}

/* The operation is refused at last; the channel may have been probed meanwhile. */
static void nack_late(struct peer *peer)
{
	amqp_basic_nack_t nack = { .delivery_tag = kept_tag };

	broker_say(&peer->broker, kept_channel, AMQP_BASIC_NACK_METHOD, &nack);
	hub_flush(peer);
}

static int ask_and_claim_early(void)
{
	struct exchange exchange;

	EW_SCOPE(asking);

	refusals = 0;
	world.broker.judge = judge_and_keep;
	say_post(&exchange, "1 500 s", "");
	EXPECT_EQ(ew_spawn(&asking, ask_in_background, &exchange), 0);
	EXPECT_EQ(ew_sleep(EW_SECOND), 0);
	EXPECT_EQ(world.claims_count, 1);
	nack_late(gateway_peer);
	EXPECT_EQ(ew_scope_join(&asking), 0);
	EXPECT_EQ(exchange.status, 503);
	EXPECT_EQ(ew_sleep(EW_SECOND), 0);
	EXPECT_EQ(refusals, 1);
	EXPECT_EQ(world.claims_count, 1);
	return ew_scope_finish(&asking, 0);
}

/* A second is less than the worker waits before it gives the operation back. */
TEST(gateway_claim_that_comes_before_the_nack_is_refused)
{
	run_fair("", MOOD_TAKE, ask_and_claim_early);
}

static unsigned grants;

static enum mood judge_grants(struct peer *peer, const struct ew_amqp_message *message)
{
	note_message(peer, message);
	if (strcmp(message->type ? message->type : "", "grant") != 0)
		return MOOD_TAKE;
	return grants++ == 0 ? MOOD_NACK : MOOD_TAKE;
}

static int ask_for_grants(void)
{
	struct exchange exchange;

	grants = 0;
	world.broker.judge = judge_grants;
	say_post(&exchange, "1 500 s", "");
	EXPECT_EQ(converse(&exchange), 0);
	EXPECT_EQ(exchange.status, 200);
	EXPECT_EQ(grants, 2);
	EXPECT_EQ(world.claims_count, 1);
	return 0;
}

TEST(gateway_grant_that_the_broker_does_not_take_is_said_again)
{
	run_fair("", MOOD_TAKE, ask_for_grants);
}

static bool is_grant(const struct ew_amqp_message *message)
{
	return strcmp(message->type ? message->type : "", "grant") == 0;
}

/* The worker has been told, and the gateway does not know. */
static enum mood judge_told(struct peer *peer, const struct ew_amqp_message *message)
{
	note_message(peer, message);
	return is_grant(message) && grants++ == 0 ? MOOD_HANG_UP : MOOD_TAKE;
}

/* Of the gateway's next connection nothing is taken, from before it can say the grant again. */
static void block_next(struct peer *peer, struct ew_amqp_output *output)
{
	amqp_connection_blocked_t blocked = { amqp_cstring_bytes("low on memory") };

	if (grants == 0 || gateway_peer || !peer->channels[3].is_open)
		return;
	gateway_peer = peer;
	EXPECT_EQ(ew_amqp_output_method(output, 0, AMQP_CONNECTION_BLOCKED_METHOD, &blocked), 0);
}

static void begin_told(void)
{
	grants = 0;
	gateway_peer = NULL;
	world.broker.judge = judge_told;
	world.broker.tampers = block_next;
}

static int ask_the_told(void)
{
	struct exchange exchange;

	begin_told();
	say_post(&exchange, "1 3000 s", "");
	EXPECT_EQ(converse(&exchange), 0);
	EXPECT_EQ(exchange.status, 200);
	EXPECT_EQ(grants, 1);
	EXPECT(gateway_peer && gateway_peer->number > 3);
	return 0;
}

/* What it says is heard, though the grant cannot be said again. */
TEST(gateway_worker_that_was_granted_is_heard_while_the_grant_waits_to_be_said_again)
{
	run_fair("replies = queue\n", MOOD_TAKE, ask_the_told);
}

static enum mood judge_told_and_gone(struct peer *peer, const struct ew_amqp_message *message)
{
	enum mood mood = judge_told(peer, message);

	return grants == 2 && is_grant(message) ? MOOD_RETURN : mood;
}

static int ask_the_gone(void)
{
	struct exchange exchange;

	grants = 0;
	world.broker.judge = judge_told_and_gone;
	say_post(&exchange, "1 3000 s", "");
	EXPECT_EQ(converse(&exchange), 0);
	EXPECT_EQ(exchange.status, 200);
	EXPECT_EQ(grants, 2);
	return 0;
}

/* As one that ends with its work: what it has said is still in the queue when the grant is said again, to nobody. */
TEST(gateway_worker_that_was_granted_is_heard_after_it_has_gone)
{
	run_fair("replies = queue\n", MOOD_TAKE, ask_the_gone);
}

static int cancel_the_told(void)
{
	struct exchange exchange;
	char path[64];

	EW_SCOPE(asking);

	begin_told();
	say_post(&exchange, "1 8000 s", "Prefer: respond-async\r\n");
	EXPECT_EQ(converse(&exchange), 0);
	EXPECT_EQ(exchange.status, 202);
	snprintf(path, sizeof(path), "/ops/%s", exchange.id);
	EXPECT_EQ(ew_sleep(3 * EW_SECOND), 0);
	EXPECT(gateway_peer && gateway_peer->number > 3);
	say_about(&exchange, "DELETE", path);
	EXPECT_EQ(ew_spawn(&asking, ask_in_background, &exchange), 0);
	EXPECT_EQ(ew_sleep(EW_SECOND / 2), 0);
	say_unblocked(gateway_peer);
	EXPECT_EQ(ew_scope_join(&asking), 0);
	EXPECT(says(&exchange, "\"stopped\""));
	EXPECT_EQ(grants, 1);
	return ew_scope_finish(&asking, 0);
}

/* A refusal would be no proof: it runs. */
TEST(gateway_worker_that_was_granted_is_cancelled_and_not_refused)
{
	run_fair("replies = queue\n", MOOD_TAKE, cancel_the_told);
}

/* ---- a cancel that is not said in time ---- */

static unsigned cancels;
static enum mood first_cancel;	      /* what becomes of it */
static int64_t (*delays_after)(void); /* what is sent then */

static int64_t delays_beyond_a_cancel(void)
{
	return 4 * EW_SECOND;
}

static enum mood judge_cancels(struct peer *peer, const struct ew_amqp_message *message)
{
	const char *type = message->type ? message->type : "";

	note_message(peer, message);
	if (strcmp(type, "op") == 0)
		gateway_peer = peer;
	if (strcmp(type, "cancel") != 0 || cancels++ > 0)
		return MOOD_TAKE;
	world.broker.delays = delays_after;
	return first_cancel;
}

/* It runs without its client; cancelled, and given up before the worker has been told. */
static void cancel_out_of_reach(const char *operation, const char *fields, bool blocked)
{
	struct exchange exchange;
	char path[64];

	cancels = 0;
	world.broker.judge = judge_cancels;
	say_post(&exchange, operation, fields);
	EXPECT_EQ(converse(&exchange), 0);
	EXPECT_EQ(exchange.status, 202);
	snprintf(path, sizeof(path), "/ops/%s", exchange.id);
	EXPECT_EQ(ew_sleep(EW_SECOND), 0);
	if (blocked)
		say_no_more(gateway_peer);
	say_about(&exchange, "DELETE", path);
	EXPECT_EQ(converse(&exchange), 0);
	EXPECT(says(&exchange, "\"presumed\""));
	world.broker.delays = delays_after = NULL;
}

/* What it has said has made the permit free. */
static void expect_stopped_at_last(unsigned told)
{
	EXPECT_EQ(cancels, told);
	EXPECT(!world.claims[0].running);
	EXPECT(!world.notes[0].finished);
	EXPECT_EQ(world.gateway->routes[0].presumed_proved, 1);
}

static int cancel_while_blocked(void)
{
	first_cancel = MOOD_TAKE;
	cancel_out_of_reach("1 25000 s", "Prefer: respond-async\r\n", true);
	EXPECT(world.claims[0].running);
	EXPECT_EQ(cancels, 0);
	say_unblocked(gateway_peer);
	EXPECT_EQ(ew_sleep(3 * EW_SECOND), 0);
	expect_stopped_at_last(1);
	return 0;
}

TEST(gateway_worker_that_was_not_cancelled_in_time_is_cancelled_when_the_broker_takes_it)
{
	run_fair("", MOOD_TAKE, cancel_while_blocked);
	run_fair("replies = queue\n", MOOD_TAKE, cancel_while_blocked);
}

static int cancel_and_lose_the_connection(void)
{
	first_cancel = MOOD_LOSE;
	delays_after = delays_beyond_a_cancel;
	cancel_out_of_reach("1 25000 s", "Prefer: respond-async\r\n", false);
	EXPECT(world.claims[0].running);
	EXPECT_EQ(world.gateway->connected, 1);
	EXPECT_EQ(ew_sleep(10 * EW_SECOND), 0);
	EXPECT_EQ(world.gateway->connected, 2);
	expect_stopped_at_last(2);
	return 0;
}

TEST(gateway_worker_that_was_not_cancelled_in_time_is_cancelled_over_the_next_connection)
{
	run_fair("replies = queue\n", MOOD_TAKE, cancel_and_lose_the_connection);
}

/* Two wait to be told; the connection is lost before the first one is, or with it. */
static void lose_the_line(bool with_one)
{
	struct exchange exchange;
	char paths[2][64];

	cancels = 0;
	first_cancel = with_one ? MOOD_LOSE : MOOD_TAKE;
	world.broker.judge = judge_cancels;
	for (unsigned i = 0; i < 2; i++) {
		say_post(&exchange, i == 0 ? "1 25000 s" : "2 25000 s",
			 "Prefer: respond-async\r\n");
		EXPECT_EQ(converse(&exchange), 0);
		EXPECT_EQ(exchange.status, 202);
		snprintf(paths[i], sizeof(paths[i]), "/ops/%s", exchange.id);
	}
	EXPECT_EQ(ew_sleep(EW_SECOND), 0);
	say_no_more(gateway_peer);
	for (unsigned i = 0; i < 2; i++) {
		say_about(&exchange, "DELETE", paths[i]);
		EXPECT_EQ(converse(&exchange), 0);
		EXPECT(says(&exchange, "\"presumed\""));
	}
	EXPECT_EQ(cancels, 0);
	if (with_one)
		say_unblocked(gateway_peer);
	else
		ew_scope_cancel(gateway_peer->reading, EW_REASON_REQUESTED);
	EXPECT_EQ(ew_sleep(5 * EW_SECOND), 0);
	EXPECT_EQ(world.gateway->connected, 2);
	EXPECT_EQ(cancels, 2);
	EXPECT_EQ(world.gateway->refusals_dropped, with_one);
	EXPECT_EQ(world.gateway->routes[0].presumed_proved, with_one ? 1 : 2);
}

static int lose_the_line_unsent(void)
{
	lose_the_line(false);
	return 0;
}

static int lose_the_line_with_one(void)
{
	lose_the_line(true);
	return 0;
}

TEST(gateway_workers_that_waited_to_be_cancelled_when_the_connection_was_lost_are_cancelled_over_the_next_one)
{
	run_fair("replies = queue\n", MOOD_TAKE, lose_the_line_unsent);
	run_fair("replies = queue\n", MOOD_TAKE, lose_the_line_with_one);
}

static int cancel_and_lose_the_notice(void)
{
	first_cancel = MOOD_LOSE;
	cancel_out_of_reach("1 25000 s", "Accept: text/event-stream\r\nPrefer: respond-async\r\n",
			    true);
	EXPECT(world.claims[0].running);
	say_unblocked(gateway_peer);
	EXPECT_EQ(ew_sleep(5 * EW_SECOND), 0);
	EXPECT_EQ(world.gateway->connected, 2);
	EXPECT_EQ(world.gateway->refusals_dropped, 1);
	expect_stopped_at_last(2);
	return 0;
}

/* Each part that it says is a word of one that runs for nobody; it is told once. */
TEST(gateway_worker_that_was_not_cancelled_is_cancelled_when_it_is_heard_of_again)
{
	run_fair("replies = queue\n", MOOD_TAKE, cancel_and_lose_the_notice);
}

static int cancel_without_a_confirm(void)
{
	first_cancel = MOOD_FORGET;
	cancel_out_of_reach("1 25000 l", "Prefer: respond-async\r\n", false);
	EXPECT_EQ(ew_sleep(EW_SECOND), 0);
	EXPECT_EQ(cancels, 2);
	EXPECT_EQ(world.gateway->heard_unknown, 1);
	return 0;
}

/* It had come, and the second one is nothing to the worker. */
TEST(gateway_cancel_that_was_not_confirmed_in_time_is_said_again)
{
	run_fair("", MOOD_TAKE, cancel_without_a_confirm);
}

static unsigned ended_channel;

static enum mood judge_peer(struct peer *peer, const struct ew_amqp_message *message)
{
	note_message(peer, message);
	if (strcmp(message->type ? message->type : "", "op") == 0)
		gateway_peer = peer;
	return MOOD_TAKE;
}

static int ask_after_a_channel(void)
{
	struct exchange exchange;

	world.broker.judge = judge_peer;
	say_post(&exchange, "1 100 s", "");
	EXPECT_EQ(converse(&exchange), 0);
	EXPECT_EQ(exchange.status, 200);
	refuse_channel(gateway_peer, ended_channel, AMQP_ACCESS_REFUSED, "ACCESS_REFUSED");
	EXPECT_EQ(ew_sleep(10 * EW_SECOND), 0);
	EXPECT_EQ(world.gateway->connected, 2);
	say_post(&exchange, "2 100 s", "");
	EXPECT_EQ(converse(&exchange), 0);
	EXPECT_EQ(exchange.status, 200);
	return 0;
}

/* Those for grants, cancels and refusals are the first of a connection. */
TEST(gateway_channel_to_workers_that_the_broker_ends_comes_again)
{
	for (ended_channel = 1; ended_channel <= 3; ended_channel++)
		run_fair("", MOOD_TAKE, ask_after_a_channel);
}

/* ---- a broker that is there, and does not do its part ---- */

/* The first that a route has: grants, cancels and refusals are before it. */
#define ROUTE_CHANNEL 4

static int ask_after_a_consumer(void)
{
	struct exchange exchange;

	world.broker.judge = judge_peer;
	say_post(&exchange, "1 100 s", "");
	EXPECT_EQ(converse(&exchange), 0);
	EXPECT_EQ(exchange.status, 200);
	gateway_peer->broker.on = answer_no_channels;
	cancel_consumer(gateway_peer, ROUTE_CHANNEL);
	EXPECT_EQ(ew_sleep(30 * EW_SECOND), 0);
	say_post(&exchange, "2 100 s", "");
	EXPECT_EQ(converse(&exchange), 0);
	EXPECT_EQ(exchange.status, 200);
	EXPECT_EQ(world.gateway->connected, 2);
	return 0;
}

/* As long as it has the number of the old channel there is none for a new one. */
TEST(gateway_route_whose_channel_the_broker_does_not_close_comes_again)
{
	run_fair("", MOOD_TAKE, ask_after_a_consumer);
	run_fair("replies = queue\n", MOOD_TAKE, ask_after_a_consumer);
}

/* Together they are more than the gateway keeps for a broker that does not read. */
#define LARGE_COUNT 16
#define LARGE_BYTES 200000

static enum mood judge_and_stop_reading(struct peer *peer, const struct ew_amqp_message *message)
{
	note_message(peer, message);
	if (strcmp(message->type ? message->type : "", "op") != 0 || gateway_peer)
		return MOOD_TAKE;
	gateway_peer = peer;
	return ew_sleep(60 * EW_SECOND) < 0 ? MOOD_LOSE : MOOD_TAKE;
}

static int ask_at_length(void *argument)
{
	static const char body[LARGE_BYTES];
	const struct sockaddr_in address = loopback(HTTP_PORT);
	struct exchange *exchange = argument;
	int r;

	EW_OWN(ew_socket, socket);

	world.asked++;
	snprintf(exchange->request, sizeof(exchange->request),
		 "POST /ops/b HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n", LARGE_BYTES);
	r = ew_socket_connect((const struct sockaddr *)&address, sizeof(address), &socket);
	if (r == 0)
		r = ew_socket_send(socket, exchange->request, strlen(exchange->request));
	if (r == 0)
		r = ew_socket_send(socket, body, LARGE_BYTES);
	return r < 0 ? r : hear_answer(exchange, socket);
}

static int ask_who_does_not_read(void)
{
	static struct exchange exchanges[LARGE_COUNT + 1];

	EW_SCOPE(asking);

	memset(exchanges, 0, sizeof(exchanges));
	gateway_peer = NULL;
	world.broker.judge = judge_and_stop_reading;
	for (unsigned i = 0; i < LARGE_COUNT; i++)
		EXPECT_EQ(ew_spawn(&asking, ask_at_length, &exchanges[i]), 0);
	EXPECT_EQ(ew_sleep(EW_SECOND), 0);
	EXPECT(gateway_peer);
	say_post(&exchanges[LARGE_COUNT], "1 100 s", "");
	EXPECT_EQ(ew_spawn(&asking, ask_in_background, &exchanges[LARGE_COUNT]), 0);
	EXPECT_EQ(ew_sleep(EW_SECOND), 0);
	refuse_channel(gateway_peer, ROUTE_CHANNEL, AMQP_PRECONDITION_FAILED,
		       "PRECONDITION_FAILED");
	EXPECT_EQ(ew_sleep(EW_SECOND), 0);
	EXPECT_EQ(exchanges[LARGE_COUNT].status, 503);
	EXPECT_EQ(ew_scope_join(&asking), 0);
	EXPECT_EQ(ew_sleep(10 * EW_SECOND), 0);
	expect_answer("2 100 s");
	return ew_scope_finish(&asking, 0);
}

/* Its operations stand in line behind those of another route, whose channel lives, and leave it. */
TEST(gateway_route_whose_channel_ends_while_the_broker_does_not_read_comes_again)
{
	run_fair("[route b]\nrouting_key = nowhere\nconcurrency = 16\ntimeout = 60s\n", MOOD_TAKE,
		 ask_who_does_not_read);
}

static const char *unconfirmed_type;

static enum mood judge_unconfirmed(struct peer *peer, const struct ew_amqp_message *message)
{
	note_message(peer, message);
	return strcmp(message->type ? message->type : "", unconfirmed_type) == 0 ? MOOD_FORGET
										 : MOOD_TAKE;
}

static int ask_without_confirms(void)
{
	struct exchange exchange;
	int64_t now_ns = ew_now();
	char path[64];

	world.broker.judge = judge_unconfirmed;
	unconfirmed_type = "grant";
	say_post(&exchange, "1 500 s", "");
	EXPECT_EQ(converse(&exchange), 0);
	EXPECT_EQ(exchange.status, 200);
	EXPECT(ew_now() - now_ns < EW_SECOND);
	EXPECT_EQ(world.gateway->routes[0].granted, 1);
	unconfirmed_type = "cancel";
	say_post(&exchange, "2 5000 s", "Prefer: respond-async\r\n");
	EXPECT_EQ(converse(&exchange), 0);
	EXPECT_EQ(ew_sleep(EW_SECOND), 0);
	snprintf(path, sizeof(path), "/ops/%s", exchange.id);
	now_ns = ew_now();
	say_about(&exchange, "DELETE", path);
	EXPECT_EQ(converse(&exchange), 0);
	EXPECT(says(&exchange, "\"stopped\""));
	EXPECT(ew_now() - now_ns < 3 * EW_SECOND / 2);
	return 0;
}

static int ask_without_a_confirm(void)
{
	struct exchange exchange;
	int64_t now_ns = ew_now();

	world.broker.judge = judge_unconfirmed;
	unconfirmed_type = "op";
	say_post(&exchange, "1 500 s", "");
	EXPECT_EQ(converse(&exchange), 0);
	EXPECT_EQ(exchange.status, 200);
	EXPECT(ew_now() - now_ns < EW_SECOND);
	return 0;
}

/* The times are the world's: the worker's word is enough, and a worker takes a second at most to stop. */
TEST(gateway_worker_is_heard_though_the_broker_does_not_confirm_what_it_was_told)
{
	run_fair("", MOOD_TAKE, ask_without_confirms);
	run_fair("grant = none\n", MOOD_TAKE, ask_without_a_confirm);
}

static void expect_permits(unsigned cancelling, unsigned presumed)
{
	struct ew_semaphore_counts counts = ew_semaphore_count(world.gateway->routes[0].permits);

	EXPECT_EQ(counts.held, 0);
	EXPECT_EQ(counts.cancelling, cancelling);
	EXPECT_EQ(counts.presumed, presumed);
}

/* The time is the world's: it is the work's, and not the deadline. */
static int ask_who_cannot_tell(void)
{
	struct exchange exchange;
	int64_t now_ns = ew_now();
	char path[64];

	say_post(&exchange, "1 500 u", "");
	EXPECT_EQ(converse(&exchange), 0);
	EXPECT_EQ(exchange.status, 502);
	EXPECT(says(&exchange, "outcome-unknown"));
	EXPECT(ew_now() - now_ns < EW_SECOND);
	expect_permits(1, 0);
	EXPECT_EQ(ew_sleep(3 * EW_SECOND), 0);
	expect_permits(0, 1);
	say_post(&exchange, "2 500 u", "Prefer: respond-async\r\n");
	EXPECT_EQ(converse(&exchange), 0);
	EXPECT_EQ(exchange.status, 202);
	snprintf(path, sizeof(path), "/ops/%s", exchange.id);
	EXPECT_EQ(ew_sleep(4 * EW_SECOND), 0);
	say_about(&exchange, "GET", path);
	EXPECT_EQ(converse(&exchange), 0);
	EXPECT(says(&exchange, "\"presumed\""));
	expect_permits(0, 2);
	return 0;
}

TEST(gateway_client_of_a_worker_that_cannot_tell_hears_so_at_once)
{
	run_fair("", MOOD_TAKE, ask_who_cannot_tell);
	run_fair("grant = none\n", MOOD_TAKE, ask_who_cannot_tell);
}

/* With as many as may be unconfirmed on it. */
static void fill_channel(void)
{
	for (unsigned i = 0; i < 256; i++)
		expect_answer("1 0 s");
	EXPECT_EQ(world.gateway->connected, 1);
}

/* And one more, that finds no place. */
static int ask_until_nothing_goes_out(const char *type)
{
	struct exchange exchange;

	world.broker.judge = judge_unconfirmed;
	unconfirmed_type = type;
	fill_channel();
	say_post(&exchange, "1 0 s", "");
	EXPECT_EQ(converse(&exchange), 0);
	EXPECT(exchange.status == 502 || exchange.status == 504);
	EXPECT_EQ(ew_sleep(5 * EW_SECOND), 0);
	EXPECT_EQ(world.gateway->connected, 2);
	expect_answer("1 0 s");
	return 0;
}

static int ask_until_no_grant_goes_out(void)
{
	return ask_until_nothing_goes_out("grant");
}

static int ask_until_no_operation_goes_out(void)
{
	return ask_until_nothing_goes_out("op");
}

TEST(gateway_whose_broker_confirms_no_grant_connects_again)
{
	run_fair("", MOOD_TAKE, ask_until_no_grant_goes_out);
}

TEST(gateway_whose_broker_confirms_no_operation_connects_again)
{
	run_fair("grant = none\n", MOOD_TAKE, ask_until_no_operation_goes_out);
}

static uint64_t late_tags[300]; /* of operations that are confirmed late */
static unsigned late_count;

static enum mood judge_late(struct peer *peer, const struct ew_amqp_message *message)
{
	note_message(peer, message);
	if (strcmp(message->type ? message->type : "", "op") != 0)
		return MOOD_TAKE;
	gateway_peer = peer;
	late_tags[late_count++] = peer->channels[ROUTE_CHANNEL].seen;
	return MOOD_FORGET;
}

/* One each four seconds, which is longer for a line of three than a broker has to answer. */
static void confirm_slowly(void)
{
	for (unsigned i = 0; i < 5; i++) {
		EXPECT_EQ(ew_sleep(4 * EW_SECOND), 0);
		EXPECT_EQ(world.gateway->connected, 1);
		broker_confirm(&gateway_peer->broker, ROUTE_CHANNEL, late_tags[i], false);
		hub_flush(gateway_peer);
	}
}

static int ask_in_line(void (*meanwhile)(void))
{
	static struct exchange exchanges[CONCURRENCY];

	EW_SCOPE(asking);

	late_count = 0;
	world.broker.judge = judge_late;
	fill_channel();
	for (unsigned i = 0; i < CONCURRENCY; i++) {
		say_post(&exchanges[i], "1 0 s", "");
		EXPECT_EQ(ew_spawn(&asking, ask_in_background, &exchanges[i]), 0);
	}
	meanwhile();
	EXPECT_EQ(ew_scope_join(&asking), 0);
	return ew_scope_finish(&asking, 0);
}

static int ask_who_is_slow(void)
{
	return ask_in_line(confirm_slowly);
}

TEST(gateway_whose_broker_is_slow_to_confirm_keeps_its_connection)
{
	run_fair("grant = none\n", MOOD_TAKE, ask_who_is_slow);
}

static void lose_a_channel_to_workers(void)
{
	EXPECT_EQ(ew_sleep(2 * EW_SECOND), 0);
	refuse_channel(gateway_peer, 1, AMQP_ACCESS_REFUSED, "ACCESS_REFUSED");
	EXPECT_EQ(ew_sleep(3 * EW_SECOND), 0);
	EXPECT_EQ(world.gateway->connected, 2);
}

static int ask_behind_a_slow_one(void)
{
	return ask_in_line(lose_a_channel_to_workers);
}

/* The time is the world's, and less than the probe of the route has. */
TEST(gateway_channel_to_workers_that_ends_is_seen_though_a_route_stands_in_line)
{
	run_fair("grant = none\n", MOOD_TAKE, ask_behind_a_slow_one);
}

static uint64_t probes_seen; /* over the route's channel */

/* Of the gateway those of the route are not answered, from the second on. */
static enum mood judge_probes(struct peer *peer, const struct ew_amqp_message *message)
{
	uint64_t before = probes_seen;

	note_message(peer, message);
	if (strcmp(message->type ? message->type : "", "probe") != 0)
		return MOOD_TAKE;
	gateway_peer = peer;
	probes_seen = peer->channels[ROUTE_CHANNEL].seen;
	return before > 0 && probes_seen > before ? MOOD_FORGET : MOOD_TAKE;
}

static void await_probe(void)
{
	probes_seen = 0;
	world.broker.judge = judge_probes;
	EXPECT_EQ(ew_sleep(4 * EW_SECOND), 0);
	EXPECT_EQ(world.gateway->routes[0].door.users, 1);
}

static int lose_a_consumer_while_probed(void)
{
	await_probe();
	world.broker.judge = judge_first;
	cancel_consumer(gateway_peer, ROUTE_CHANNEL);
	EXPECT_EQ(ew_sleep(5 * EW_SECOND), 0);
	EXPECT_EQ(world.gateway->connected, 1);
	expect_answer("1 0 s");
	return 0;
}

TEST(gateway_route_whose_channel_ends_while_it_is_probed_ends_no_connection)
{
	run_fair("", MOOD_TAKE, lose_a_consumer_while_probed);
	run_fair("replies = queue\n", MOOD_TAKE, lose_a_consumer_while_probed);
}

/* The alarm comes before the probe is read. */
static enum mood judge_probe_and_block(struct peer *peer, const struct ew_amqp_message *message)
{
	note_message(peer, message);
	if (strcmp(message->type ? message->type : "", "probe") != 0)
		return MOOD_TAKE;
	gateway_peer = peer;
	say_no_more(peer);
	return MOOD_FORGET;
}

static int ask_after_an_alarm(void)
{
	world.broker.judge = judge_probe_and_block;
	EXPECT_EQ(ew_sleep(30 * EW_SECOND), 0);
	world.broker.judge = judge_first;
	say_unblocked(gateway_peer);
	EXPECT_EQ(ew_sleep(EW_SECOND), 0);
	EXPECT_EQ(world.gateway->connected, 1);
	expect_answer("1 0 s");
	return 0;
}

TEST(gateway_whose_broker_reads_nothing_during_an_alarm_keeps_its_connection)
{
	run_fair("", MOOD_TAKE, ask_after_an_alarm);
}

/* The first of two, which takes every connection and opens no channel on it. */
static struct hub mute;

static void say_nothing_of_channels(struct peer *peer, struct ew_amqp_output *output)
{
	(void)peer;
	if (output->data[2] != 0)
		output->bytes = 0;
}

static int open_mute(void)
{
	const struct sockaddr_in address = loopback(BROKER_PORT + 1);
	struct options *options = &world.options;

	memset(&mute, 0, sizeof(mute));
	mute.tampers = say_nothing_of_channels;
	options->brokers[1] = options->brokers[0];
	options->brokers_count = 2;
	set_address(&options->brokers[0].address, &options->brokers[0].bytes, BROKER_PORT + 1);
	return ew_listener_open((const struct sockaddr *)&address, sizeof(address), 16,
				&mute.listener);
}

static void close_mute(void *unused)
{
	(void)unused;
	ew_abort(&mute.listener);
}

static int close_mute_close(void *unused)
{
	close_mute(unused);
	return 0;
}

static int ask_behind_a_mute_one(void)
{
	EXPECT_EQ(ew_sleep(60 * EW_SECOND), 0);
	expect_answer("1 100 s");
	return 0;
}

static int fair_behind_a_mute_one(void *unused)
{
	int (*ask)(void) = ask_behind_a_mute_one;
	int r;

	(void)unused;
	EW_GUARD(listener, &mute, .close = close_mute_close, .abort = close_mute);
	EW_SCOPE(peers);
	EW_GUARD(stop, &mute, .close = hub_stop_close, .abort = hub_stop);

	EXPECT_EQ(open_mute(), 0);
	EXPECT_EQ(ew_spawn(&peers, hub_task, &mute), 0);
	r = fair(&ask);
	hub_stop(&mute);
	return ew_scope_finish(&peers, r);
}

TEST(gateway_broker_that_opens_no_channel_passes_the_turn_on)
{
	const struct ew_sim_options options = { .report = hush };

	world_prepare("");
	first_mood = MOOD_TAKE;
	has_failed = false;
	EXPECT_EQ(ew_sim_run(&options, fair_behind_a_mute_one, NULL, NULL), 0);
}

static unsigned channels_allowed;

/* In connection.tune, behind class and method. */
static void allow_few_channels(struct peer *peer, struct ew_amqp_output *output)
{
	static const uint8_t tune[] = { 0, 10, 0, 30 };

	(void)peer;
	if (output->bytes > 13 && memcmp(output->data + 7, tune, 4) == 0)
		memcpy(output->data + 11, (uint8_t[]){ 0, (uint8_t)channels_allowed }, 2);
}

static int ask_for_a_reason(void)
{
	struct exchange exchange;

	say_about(&exchange, "GET", "/readyz");
	EXPECT_EQ(converse(&exchange), 0);
	EXPECT_EQ(exchange.status, 503);
	EXPECT(says(&exchange, "the broker allows too few channels"));
	return 0;
}

static int fair_with_few_channels(void *unused)
{
	int (*ask)(void) = ask_for_a_reason;

	(void)unused;
	world.broker.tampers = allow_few_channels;
	return fair(&ask);
}

TEST(gateway_says_that_the_broker_allows_too_few_channels)
{
	const struct ew_sim_options options = { .report = hush };

	for (channels_allowed = 1; channels_allowed < ROUTE_CHANNEL; channels_allowed++) {
		world_prepare("");
		first_mood = MOOD_TAKE;
		has_failed = false;
		EXPECT_EQ(ew_sim_run(&options, fair_with_few_channels, NULL, NULL), 0);
	}
}

/* ---- tasks of the gateway that end before it ---- */

static const char *fatal_event; /* NULL: it has come */
static bool signal_comes_too;

static void listen_to_log(const char *event)
{
	if (signal_comes_too && strcmp(event, "service-lost") == 0)
		front_stop(&world.gateway->front);
	if (!fatal_event || strcmp(event, fatal_event) != 0)
		return;
	fatal_event = NULL;
	ew_panic("at the event %s, as the test wants", event);
}

static void panic_at(const char *event)
{
	fatal_event = event;
	log_listener = listen_to_log;
}

static void leave_after(struct exchange *exchange, const char *operation, int64_t patience_ns)
{
	say_post(exchange, operation, "");
	EXPECT_EQ(converse_patiently(exchange, patience_ns), -ETIMEDOUT);
}

/* It has ended with an error, for whoever started it to see, and nobody is told that it is ready. */
static void expect_failed(struct exchange *exchange)
{
	EXPECT(!world.serving);
	EXPECT_EQ(world.served, -ENOTRECOVERABLE);
	has_failed = true;
	say_about(exchange, "GET", "/readyz");
	EXPECT_EQ(converse(exchange), -ECONNREFUSED);
}

static int lose_connection(void)
{
	struct exchange exchange;

	panic_at("connection-lost");
	say_post(&exchange, "1 500 s", "");
	EXPECT_EQ(converse(&exchange), 0);
	EXPECT_EQ(exchange.status, 502);
	EXPECT_EQ(ew_sleep(EW_SECOND), 0);
	expect_failed(&exchange);
	return 0;
}

TEST(gateway_whose_broker_task_panics_ends_with_an_error)
{
	run_fair("grant = none\n", MOOD_HANG_UP, lose_connection);
}

/* Of what runs when the task is lost each has its answer, and a new one is taken no more. */
static int let_presumed_expire(void)
{
	struct exchange exchange;

	EW_SCOPE(asking);

	leave_after(&exchange, "1 5000 l", EW_SECOND);
	EXPECT_EQ(ew_sleep((HOLD_SECONDS - 1) * EW_SECOND), 0);
	EXPECT_EQ(world.gateway->routes[0].presumed_expired, 0);
	panic_at("presumed-expired");
	say_post(&exchange, "2 8000 s", "");
	EXPECT_EQ(ew_spawn(&asking, ask_in_background, &exchange), 0);
	EXPECT_EQ(ew_sleep(6 * EW_SECOND), 0);
	EXPECT(!fatal_event);
	EXPECT(world.serving);
	EXPECT(atomic_load(&world.gateway->front.draining));
	EXPECT_EQ(ew_scope_join(&asking), 0);
	EXPECT_EQ(exchange.status, 200);
	EXPECT_EQ(ew_sleep(EW_SECOND), 0);
	expect_failed(&exchange);
	return ew_scope_finish(&asking, 0);
}

TEST(gateway_whose_watch_over_permits_panics_drains_and_ends_with_an_error)
{
	run_fair("", MOOD_TAKE, let_presumed_expire);
}

/* The two are one wish to end, and none to cut. */
TEST(gateway_whose_watch_over_permits_panics_as_a_signal_comes_drains_all_the_same)
{
	signal_comes_too = true;
	run_fair("", MOOD_TAKE, let_presumed_expire);
}

/* A route's task of the connection: that is made again, as if the broker had ended it. */
static int prove_late(void)
{
	struct exchange exchange;

	panic_at("presumed-proved");
	leave_after(&exchange, "1 8000 f", EW_SECOND);
	EXPECT_EQ(ew_sleep(10 * EW_SECOND), 0);
	EXPECT(!fatal_event);
	EXPECT_EQ(world.gateway->connected, 2);
	expect_answer("2 100 s");
	return 0;
}

TEST(gateway_whose_route_panics_connects_again)
{
	run_fair("", MOOD_TAKE, prove_late);
}

TEST_MAIN()
