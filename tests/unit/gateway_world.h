/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * The whole gateway in a simulated world: ew-gateway as it is served, a broker with queues, workers of the contract, and
 * clients, as tasks of one run. What the workers do is in a book, and the book is held against what the gateway says: a
 * permit is never free while the work runs, whoever is answered gets his own answer, and what was acknowledged as stopped
 * does not run.
 *
 * What the gateway draws by chance is drawn by the world's seed.
 */

#include "amqp_hub.h"
#include "server_world.h"

#include "examples/workers/contract.h"
#include "gateway/server.h"

#include "amqp/dialer.h"

#include <endwell/testing.h>
#include <openssl/evp.h>

#define BROKER_PORT	5672
#define WORKERS		2
#define NOTES_MAX	512
#define CONCURRENCY	3
#define HOLD_SECONDS	90
#define TIMEOUT_SECONDS 10
#define NOTE_BYTES	64

/* ---- chance by the seed ---- */

void arc4random_buf(void *buffer, size_t bytes)
{
	uint8_t *at = buffer;

	while (bytes-- > 0)
		*at++ = (uint8_t)ew_sim_random(256);
}

uint32_t arc4random_uniform(uint32_t below)
{
	return (uint32_t)ew_sim_random(below);
}

/* ---- the world ---- */

/* A worker's claim, and what it does with it. */
struct claim_note {
	char token[NOTE_BYTES];
	char id[ID_BYTES];
	unsigned peer;
	bool cut;   /* its connection or channel is over, and the worker may not know it yet */
	bool again; /* of a message that had been delivered before */
	bool running;
	int64_t claimed_ns;
};

/* An operation. */
struct note {
	char id[ID_BYTES];
	unsigned gateway;
	unsigned publications; /* each over a connection of its own */
	unsigned attempts;     /* of their numbers each a bit */
	unsigned peer;	       /* of the last one */
	unsigned begun;
	bool finished;	   /* with a result */
	bool acknowledged; /* somebody was told that it does not run */
	bool denied;	   /* somebody was told that nothing of it has run, nor will */
	bool forgotten;	   /* its gateway has ended, and had presumed it until then */
};

struct hand {
	struct ew_scope *serving;
	bool stopped;
};

static struct world {
	struct options options;
	struct gateway *gateway;
	unsigned gateways; /* that there were */
	bool serving;	   /* the last one */
	int served;	   /* its result */
	struct hub broker;
	struct hand hands[WORKERS];
	struct claim_note claims[NOTES_MAX];
	unsigned claims_count;
	struct note notes[NOTES_MAX];
	unsigned notes_count;
	unsigned asked; /* of it */
} world;

static void set_address(struct sockaddr_storage *storage, socklen_t *ret_bytes, uint16_t port)
{
	struct sockaddr_in address = loopback(port);

	memcpy(storage, &address, sizeof(address));
	*ret_bytes = sizeof(address);
}

static void world_prepare(const char *more)
{
	char text[512], error[CONFIG_ERROR_BYTES];
	struct options *options = &world.options;

	memset(&world, 0, sizeof(world));
	snprintf(text, sizeof(text),
		 "[route a]\nrouting_key = jobs\nconcurrency = %d\nwaiting_room = 4\n"
		 "timeout = %ds\ncancel_deadline = 2s\npresumed_hold = %ds\n%s",
		 CONCURRENCY, TIMEOUT_SECONDS, HOLD_SECONDS, more);
	if (config_read_text(&options->config, "world", text, error) < 0)
		ew_test_fail(__FILE__, __LINE__, "%.300s", error);
	strcpy(options->brokers[0].user, "guest");
	strcpy(options->brokers[0].password, "guest");
	strcpy(options->brokers[0].virtual_host, "/");
	options->brokers_count = 1;
	options->instance = "world";
	options->grace_ns = 5 * EW_SECOND;
	options->listen.text = "the world";
	set_address(&options->listen.address, &options->listen.bytes, HTTP_PORT);
	set_address(&options->brokers[0].address, &options->brokers[0].bytes, BROKER_PORT);
}

/* ---- the book ---- */

static struct note *find_note(const char *id)
{
	for (unsigned i = 0; i < world.notes_count; i++)
		if (strcmp(world.notes[i].id, id) == 0)
			return &world.notes[i];
	return NULL;
}

/* Published again is only what needs a grant, and over another connection. */
static void note_operation(struct peer *peer, const struct ew_amqp_message *message)
{
	struct note *note = find_note(message->message_id);
	unsigned attempt;

	EXPECT(!note || (note->peer != peer->number && note->gateway == world.gateways &&
			 !world.options.config.routes[0].grant_none));
	if (!note) {
		note = &world.notes[world.notes_count++];
		EXPECT(world.notes_count < NOTES_MAX);
		snprintf(note->id, sizeof(note->id), "%s", message->message_id);
		note->gateway = world.gateways;
	}
	note->peer = peer->number;
	note->publications++;
	/* One that was lost on its way has a number, too; and a broker that dozed at one connection may read it the last. */
	attempt = (unsigned)atoi(ew_amqp_header_find(message, "x-ew-attempt"));
	EXPECT(attempt >= 1 && attempt <= 3 && !(note->attempts & 1u << attempt));
	note->attempts |= 1u << attempt;
}

static struct note *note_of(const char *id)
{
	struct note *note = find_note(id);

	EXPECT(note);
	return note;
}

static struct claim_note *claim_of(const char *token)
{
	for (unsigned i = 0; i < world.claims_count; i++)
		if (strcmp(world.claims[i].token, token) == 0)
			return &world.claims[i];
	return NULL;
}

static bool has_permit(const char *id)
{
	const struct table *table = &world.gateway->table;

	for (uint32_t slot = 0; slot < table->capacity; slot++) {
		const struct operation *operation = table_at(table, slot);

		if (operation && strcmp(operation->id, id) == 0)
			return operation->permit || operation->presumed;
	}
	return false;
}

/* Nobody works for as long as the hold time says, unless the clock leaps over that: then it is over all the same. */
static bool may_be_given_up(const struct claim_note *claim)
{
	return ew_now() - claim->claimed_ns >= HOLD_SECONDS * EW_SECOND;
}

/* What needs no grant begins with its claim, also if it comes again after its end; it is stopped when that is heard. */
static bool is_under_law(const struct claim_note *claim)
{
	return claim->running && !claim->cut && !may_be_given_up(claim) &&
	       note_of(claim->id)->gateway == world.gateways &&
	       !(claim->again && world.options.config.routes[0].grant_none);
}

static bool runs(const char *id)
{
	for (unsigned i = 0; i < world.claims_count; i++)
		if (is_under_law(&world.claims[i]) && strcmp(world.claims[i].id, id) == 0)
			return true;
	return false;
}

/* What the route's permits do, those of its tenants do too; one more of each may be held, that waits for the route's. */
static void check_tenants(const struct route *route)
{
	struct ew_semaphore_counts counts, sum = {}, all = ew_semaphore_count(route->permits);
	unsigned tenants = 0;

	for (struct tenant *tenant = route->tenants; tenant; tenant = tenant->next, tenants++) {
		counts = ew_semaphore_count(tenant->permits);
		EXPECT_EQ(counts.free + counts.held + counts.cancelling + counts.presumed,
			  counts.capacity);
		sum.held += counts.held;
		sum.cancelling += counts.cancelling;
		sum.presumed += counts.presumed;
	}
	if (!route->config->tenant_header[0])
		return;
	EXPECT_EQ(sum.presumed, all.presumed);
	EXPECT_EQ(sum.cancelling, all.cancelling);
	EXPECT(sum.held >= all.held && sum.held <= all.held + tenants);
}

/* The one law, as long as there is a gateway that could hold to it: also one that has nothing left but files. */
static void check_law(void)
{
	struct ew_semaphore_counts counts;

	if (!world.serving)
		return;
	for (unsigned i = 0; i < world.gateway->routes_count; i++) {
		counts = ew_semaphore_count(world.gateway->routes[i].permits);
		EXPECT_EQ(counts.free + counts.held + counts.cancelling + counts.presumed,
			  counts.capacity);
		check_tenants(&world.gateway->routes[i]);
	}
	for (unsigned i = 0; i < world.claims_count; i++) {
		const struct claim_note *claim = &world.claims[i];

		if (is_under_law(claim) && !has_permit(claim->id) && !note_of(claim->id)->forgotten)
			ew_test_fail(__FILE__, __LINE__, "%s runs, and its permit is free",
				     claim->id);
	}
}

void __real_permits_forget(struct gateway *gateway);
void __wrap_permits_forget(struct gateway *gateway);

/* The gateway has ended. What still may run is what it presumes, and nothing begins any more. */
void __wrap_permits_forget(struct gateway *gateway)
{
	check_law();
	for (unsigned i = 0; i < gateway->routes_count; i++) {
		struct ew_semaphore_counts counts = ew_semaphore_count(gateway->routes[i].permits);

		EXPECT_EQ(counts.held, 0);
		EXPECT_EQ(counts.cancelling, 0);
	}
	for (unsigned i = 0; i < world.notes_count; i++)
		world.notes[i].forgotten |= has_permit(world.notes[i].id);
	__real_permits_forget(gateway);
}

static void note_claim(struct peer *peer, const struct ew_amqp_message *message)
{
	struct claim_note *claim = &world.claims[world.claims_count++];

	EXPECT(world.claims_count < NOTES_MAX);
	snprintf(claim->token, sizeof(claim->token), "%s",
		 ew_amqp_header_find(message, "x-ew-claim"));
	snprintf(claim->id, sizeof(claim->id), "%s", message->message_id);
	claim->claimed_ns = ew_now();
	claim->peer = peer->number;
	claim->again = strcmp(ew_amqp_header_find(message, "x-ew-redelivered"), "1") == 0;
}

/* Each message that the broker gets. */
static void note_message(struct peer *peer, const struct ew_amqp_message *message)
{
	const char *type = message->type ? message->type : "";

	if (log_is_seen())
		fprintf(stderr, "%12" PRId64 " of %u: %s %s\n", ew_now(), peer->number, type,
			message->message_id ? message->message_id : "");
	check_law();
	if (strcmp(type, "claim") == 0)
		note_claim(peer, message);
	if (strcmp(type, "op") == 0)
		note_operation(peer, message);
}

static void note_lost(struct peer *peer)
{
	for (unsigned i = 0; i < world.claims_count; i++)
		if (world.claims[i].peer == peer->number)
			world.claims[i].cut = true;
}

/* ---- the work ---- */

static void run_end(void *argument)
{
	struct claim_note *claim = argument;

	check_law();
	claim->running = false;
}

static int run_end_close(void *claim)
{
	run_end(claim);
	return 0;
}

static int sleep_shielded(int64_t time_ns)
{
	EW_SHIELD(shield, .budget_ns = HUB_PATIENCE);

	return ew_sleep(time_ns);
}

/* How it takes a cancel: (s)tops, after a while; (f)inishes; has (l)ost sight of it. */
static int take_cancel(char manner, int64_t rest_ns)
{
	int r;

	if (manner == 'l')
		return -EOWNERDEAD;
	r = sleep_shielded(manner == 'f' ? rest_ns : (int64_t)ew_sim_random(EW_SECOND));
	return r == 0 && manner == 's' ? -ECANCELED : r;
}

/* "NUMBER.I", from 1 on in each attempt. */
static int say_part(struct contract_job *job, unsigned number, unsigned i)
{
	char text[32];

	snprintf(text, sizeof(text), "%u.%u", number, i);
	return contract_part(job, text, strlen(text));
}

/* It is there, whole, as long as the permit is taken. */
static void check_body(const char *id, int r)
{
	if ((r == -ENOENT || r == -EBADMSG) && world.serving)
		EXPECT(note_of(id)->gateway != world.gateways || !has_permit(id));
}

/* The operation is "NUMBER MILLISECONDS MANNER"; the result is the same again, and before it parts for who takes them. */
static int do_work(struct contract_job *job, struct contract_result *ret_result)
{
	const struct ew_amqp_message *message = contract_message(job);
	struct claim_note *claim = claim_of(contract_claim(job));
	struct note *note = note_of(message->message_id);
	int64_t end_ns;
	unsigned number, ms, steps = 0;
	char text[64] = "", manner;
	struct contract_body body;
	int r;

	EXPECT(claim);
	EXPECT(!note->acknowledged || claim->cut || claim->again);
	EXPECT(!note->denied);
	claim->running = true;
	/* Also what has its body to read, and fails at it. */
	note->begun++;

	EW_GUARD(end, claim, .close = run_end_close, .abort = run_end);

	check_law();
	r = contract_body(job, &body);
	check_body(message->message_id, r);
	if (r < 0)
		return r;
	EXPECT(body.bytes < sizeof(text));
	memcpy(text, body.data, body.bytes);
	free(body.data);
	EXPECT_EQ(sscanf(text, "%u %u %c", &number, &ms, &manner), 3);
	end_ns = ew_after(ms * EW_MILLISECOND);
	while (r == 0 && ew_now() < end_ns) {
		r = ew_sleep(50 * EW_MILLISECOND);
		check_law();
		if (r == 0 && contract_streams(job) && ++steps % 4 == 0)
			r = say_part(job, number, steps / 4);
	}
	if (r == -ECANCELED)
		r = take_cancel(manner, end_ns - ew_now());
	if (r == 0 && manner == 'e')
		r = -EIO;
	if (r == 0 && manner == 'u')
		r = -EOWNERDEAD;
	if (r < 0)
		return r;
	ret_result->body = strdup(text);
	if (!ret_result->body)
		return -ENOMEM;
	ret_result->body_bytes = strlen(text);
	note->finished = true;
	return 0;
}

static void hand_over_now(void *argument)
{
	((struct hand *)argument)->serving = NULL;
}

static int hand_over_close(void *hand)
{
	hand_over_now(hand);
	return 0;
}

static int serve_jobs(struct hand *hand)
{
	const struct sockaddr_in address = loopback(BROKER_PORT);
	const struct ew_amqp_endpoint endpoint = {
		.address = (const struct sockaddr *)&address,
		.address_bytes = sizeof(address),
	};
	struct ew_amqp_dialer dialer = { .endpoints = &endpoint, .endpoints_count = 1 };
	const struct contract_options contract = {
		.dialer = &dialer, .queue = "jobs", .at_once = 2, .work = do_work
	};
	int r;

	EW_GUARD(over, hand, .close = hand_over_close, .abort = hand_over_now);
	EW_SCOPE(serving);

	hand->serving = &serving;
	if (hand->stopped)
		ew_scope_cancel(&serving, EW_REASON_REQUESTED);
	r = contract_serve(&contract);
	return ew_scope_finish(&serving, r);
}

/* A worker; as the broker none of those that a cancel of the test concerns. */
static int hand_task(void *hand)
{
	int r;

	ew_sweep_spare();

	EW_SHIELD(shield, .budget_ns = HUB_PATIENCE);

	r = serve_jobs(hand);
	return r == -ENOTRECOVERABLE ? r : 0;
}

static int open_broker(struct hub *broker)
{
	const struct sockaddr_in address = loopback(BROKER_PORT);
	int r;

	do
		r = ew_listener_open((const struct sockaddr *)&address, sizeof(address), 16,
				     &broker->listener);
	while (r == -EMFILE);
	if (r == 0)
		hub_add_queue(broker, "jobs", NULL);
	broker->lost = note_lost;
	return r;
}

static int start_hands(struct ew_scope *scope)
{
	int r = 0;

	for (unsigned i = 0; i < WORKERS && r == 0; i++)
		r = ew_spawn(scope, hand_task, &world.hands[i]);
	return r;
}

static UNUSED int start_peers(struct ew_scope *scope)
{
	int r;

	r = open_broker(&world.broker);
	if (r == 0)
		r = ew_spawn(scope, hub_task, &world.broker);
	return r == 0 ? start_hands(scope) : r;
}

static void close_broker(void *unused)
{
	(void)unused;
	ew_abort(&world.broker.listener);
	hub_free(&world.broker);
}

static int close_broker_close(void *unused)
{
	close_broker(unused);
	return 0;
}

static void stop_peers(void *unused)
{
	(void)unused;
	hub_stop(&world.broker);
	for (unsigned i = 0; i < WORKERS; i++) {
		world.hands[i].stopped = true;
		if (world.hands[i].serving)
			ew_scope_cancel(world.hands[i].serving, EW_REASON_REQUESTED);
	}
}

static int stop_peers_close(void *unused)
{
	stop_peers(unused);
	return 0;
}

/* ---- the gateway ---- */

static bool has_bodies(void)
{
	return world.options.config.routes[0].bodies[0];
}

static void check_empty(const char *folder)
{
	const char *name = ew_sim_name(folder, 0);

	if (name)
		ew_test_fail(__FILE__, __LINE__, "%s/%s is left", folder, name);
}

/* Nothing is left of bodies, when nobody serves. */
static UNUSED void check_no_bodies(void)
{
	check_empty("/sim/bodies");
	check_empty("/sim/bodies.state/leases");
}

/* Before it has served, so that it is started again. */
static bool disk_has_failed(int r)
{
	return has_bodies() && r < 0 && r != -ECANCELED &&
	       !ew_event_is_set(&world.gateway->front.stopped);
}

/* False: the disk has failed before there was anything to end, and it was told to stop meanwhile. */
static bool has_begun(void)
{
	const struct bucket *bucket = world.gateway->routes[0].bucket;

	return !bucket || atomic_load(&bucket->counts.ready) || atomic_load(&bucket->suspect);
}

/* A disk that fails lets it be made at another time. */
static int make_gateway(struct gateway **ret_gateway)
{
	int r;

	while ((r = server_new(&world.options, ret_gateway)) < 0 && has_bodies())
		if (ew_sleep(EW_SECOND) < 0)
			return -ECANCELED;
	return r;
}

static int replace_gateway(void)
{
	struct gateway *next;
	int r = make_gateway(&next);

	if (r < 0)
		return r;
	if (ew_event_is_set(&world.gateway->front.stopped))
		front_stop(&next->front);
	server_free(world.gateway);
	world.gateway = next;
	return 0;
}

/* A port may be refused, by a world that fails; then it is asked again. */
static int serve_gateway(void *unused)
{
	bool again;
	int r;

	(void)unused;
	do {
		r = server_serve(world.gateway);
		again = r == -EMFILE || r == -ENFILE || r == -ENOBUFS;
		if (disk_has_failed(r))
			again = replace_gateway() == 0;
	} while (again);
	world.serving = false;
	world.served = has_begun() ? r : 0;
	return world.served;
}

static int start_gateway(struct ew_scope *scope)
{
	int r = make_gateway(&world.gateway);

	if (r < 0)
		return r;
	world.gateways++;
	world.serving = true;
	return ew_spawn(scope, serve_gateway, NULL);
}

static unsigned published_count(void)
{
	unsigned count = 0;

	for (unsigned i = 0; i < world.notes_count; i++)
		count += world.notes[i].gateway == world.gateways;
	return count;
}

/* Each request that was published has come to an end, and none to two; nor was one turned away as well. */
static void check_ends(void)
{
	uint64_t ends = 0, others = 0;

	for (unsigned i = 0; i < world.gateway->routes_count; i++) {
		const struct route *route = &world.gateway->routes[i];

		EXPECT_EQ(route->ended[OUTCOME_NONE], 0);
		for (unsigned outcome = 0; outcome < OUTCOME_COUNT; outcome++) {
			EXPECT(route->cancelled[outcome] <= route->ended[outcome]);
			ends += route->ended[outcome];
		}
		others += route->shed + route->gone;
	}
	EXPECT(ends >= published_count() && ends + others <= world.asked);
	world.asked = 0;
}

/* It has ended: nothing is held, and what is not free is presumed. */
static void check_rest(void)
{
	struct ew_semaphore_counts counts;

	check_ends();
	EXPECT_EQ(world.gateway->table.used, 0);
	for (unsigned i = 0; i < world.gateway->routes_count; i++) {
		counts = ew_semaphore_count(world.gateway->routes[i].permits);
		EXPECT_EQ(counts.held, 0);
		EXPECT_EQ(counts.cancelling, 0);
		EXPECT_EQ(counts.free + counts.presumed, counts.capacity);
	}
	counts = ew_semaphore_count(world.gateway->front.connections);
	EXPECT_EQ(counts.free, counts.capacity);
}

static void free_gateway(void *unused)
{
	(void)unused;
	world.serving = false;
	if (!world.gateway)
		return;
	check_rest();
	server_free(world.gateway);
	world.gateway = NULL;
}

static int free_gateway_close(void *unused)
{
	free_gateway(unused);
	return 0;
}

/* ---- clients ---- */

static int converse(struct exchange *exchange)
{
	const struct sockaddr_in address = loopback(HTTP_PORT);
	int r;

	EW_OWN(ew_socket, socket);

	r = ew_socket_connect((const struct sockaddr *)&address, sizeof(address), &socket);
	if (r == 0)
		r = ew_socket_send(socket, exchange->request, strlen(exchange->request));
	return r < 0 ? r : hear_answer(exchange, socket);
}

/* Leaves, if there is no answer in time. */
static UNUSED int converse_patiently(struct exchange *exchange, int64_t patience_ns)
{
	int r;

	EW_SCOPE(scope, .deadline_ns = ew_after(patience_ns));

	r = converse(exchange);
	return ew_scope_finish(&scope, r);
}

static void say_post(struct exchange *exchange, const char *body, const char *fields)
{
	*exchange = (struct exchange){};
	world.asked++;
	snprintf(exchange->request, sizeof(exchange->request),
		 "POST /ops/a HTTP/1.1\r\nHost: x\r\nContent-Length: %zu\r\n%s\r\n%s", strlen(body),
		 fields, body);
}

static UNUSED void say_about(struct exchange *exchange, const char *method, const char *path)
{
	*exchange = (struct exchange){};
	snprintf(exchange->request, sizeof(exchange->request), "%s %s HTTP/1.1\r\nHost: x\r\n\r\n",
		 method, path);
}

/* Whoever is told so may do it elsewhere. */
static void check_denial(const struct exchange *exchange)
{
	struct note *note = find_note(exchange->id);

	if (!note || (!says(exchange, "No operation was started.") &&
		      !says(exchange, "Nothing was started.") && !says(exchange, "Nothing runs.")))
		return;
	EXPECT_EQ(note->begun, 0);
	note->denied = true;
}

/* A result is that of this operation, and the work has been done. */
static UNUSED void check_answer(const struct exchange *exchange, const char *body)
{
	check_law();
	if (exchange->status != 200) {
		check_denial(exchange);
		EXPECT(exchange->status >= 400 || exchange->status == 202);
		/* Where a grant is needed, that would start nothing. */
		EXPECT(!says(exchange, "one of several queues") ||
		       world.options.config.routes[0].grant_none);
		return;
	}
	EXPECT_STR(exchange->body, body);
	EXPECT(note_of(exchange->id)->finished);
}

/* The bytes of an event's data: as text, or, if there was no memory for that, in base64. */
static void read_event(const char *data, char ret_text[64])
{
	char coded[96];

	*ret_text = '\0';
	if (sscanf(data, "data: {\"text\":\"%63[^\"]", ret_text) == 1)
		return;
	EXPECT_EQ(sscanf(data, "data: {\"base64\":\"%63[^\"]", coded), 1);
	/* What fills it up are zeros. */
	EXPECT(EVP_DecodeBlock((unsigned char *)ret_text, (unsigned char *)coded,
			       (int)strlen(coded)) > 0);
}

/* Of the operation's own worker, each once and in its order; the last one is the end. */
static UNUSED void check_events(const struct exchange *exchange, unsigned number, const char *body)
{
	unsigned of, part, next = 1, id, before = 0;
	const char *at = exchange->body;
	char name[16], text[64];
	bool ended = false;

	while ((at = strstr(at, "id: "))) {
		EXPECT(!ended);
		EXPECT_EQ(sscanf(at, "id: %u\nevent: %15s\ndata: ", &id, name), 2);
		at = strstr(at, "data: ");
		EXPECT(id > before);
		before = id;
		if (strcmp(name, "restart") == 0) {
			next = 1;
		} else if (strcmp(name, "data") == 0) {
			read_event(at, text);
			EXPECT_EQ(sscanf(text, "%u.%u", &of, &part), 2);
			EXPECT_EQ(of, number);
			EXPECT_EQ(part, next++);
		} else {
			ended = true;
			if (strcmp(name, "error") == 0 || !strstr(at, "\"status\":200"))
				continue;
			read_event(at, text);
			EXPECT_STR(text, body);
			EXPECT(note_of(exchange->id)->finished);
		}
	}
	EXPECT(ended || says(exchange, "shutting-down") || says(exchange, "slow-reader"));
	check_denial(exchange);
}

static UNUSED void check_receipt(const struct exchange *exchange, const char *id)
{
	struct note *note = find_note(id);

	/* One that was never published has no note. */
	if (exchange->status != 200 || !note)
		return;
	if (says(exchange, "\"acknowledged\"")) {
		note->acknowledged = true;
		EXPECT(!runs(id));
	} else if (says(exchange, "\"too-late\"")) {
		EXPECT(note->finished || note->begun);
		EXPECT(!runs(id));
	} else {
		EXPECT(says(exchange, "\"presumed\""));
	}
}
