/* SPDX-License-Identifier: Apache-2.0 */

/*
 * One request through the whole gateway, and everything that may end it: at each suspension the client leaves, the gateway is
 * told to stop, cancelled, forced, panicked; each operation fails, and each allocation of the gateway's.
 */

#include "gateway_world.h"

#include <openssl/err.h>

#define BODIES "bodies = /sim/bodies\ninline_body = 0\n"

/* What is swept: each kind of grants, of replies and of bodies. */
static const char *const routes[] = {
	"",
	"replies = queue\n",
	"replies = queue\n" BODIES,
	"grant = none\n",
	"grant = none\nreplies = queue\n",
	"grant = none\n" BODIES,
};

/* Longer than any answer takes. */
#define PATIENCE (60 * EW_SECOND)

static struct {
	bool client_stays;  /* a cancel of the scenario is none of the client */
	bool gateway_stays; /* nor of the gateway, which is told to stop instead */
	bool memory_gone;   /* for good */
	int64_t then_ns;    /* so long after the cancel */
	const char *operation;
	const char *fields; /* NULL: none more */
	struct ew_sim_filesystem_options disk;
} one;

static enum mood judge_one(struct peer *peer, const struct ew_amqp_message *message)
{
	note_message(peer, message);
	return MOOD_TAKE;
}

/* One that cannot begin has ended. */
static int serve_once(void)
{
	world.served = server_serve(world.gateway);
	world.serving = false;
	return world.served;
}

static int serve_one(void *unused)
{
	(void)unused;
	if (one.gateway_stays) {
		EW_SHIELD(shield, .budget_ns = HUB_PATIENCE);
		return serve_once();
	}
	return serve_once();
}

static int ask_one(void *argument)
{
	struct exchange *exchange = argument;

	ew_sweep_spare();
	exchange->result = -ECANCELED;
	if (one.client_stays) {
		EW_SHIELD(shield, .budget_ns = HUB_PATIENCE);
		exchange->result = converse_patiently(exchange, PATIENCE);
	} else {
		exchange->result = converse_patiently(exchange, PATIENCE);
	}
	return exchange->result;
}

/* Before it was heard, or in the middle of its events; without memory nobody hears, and who was heard may get no answer. */
static bool was_turned_away(const struct exchange *exchange)
{
	int r = exchange->result;

	return (r == -ETIMEDOUT && one.memory_gone) ||
	       ((r == -ECONNREFUSED || r == -ECONNRESET || r == -EPIPE) &&
		(world.notes_count == 0 || exchange->has_events || one.memory_gone));
}

/* What goes on without its client is not begun if that cannot be told its name. */
static void check_unnamed(const struct exchange *exchange)
{
	struct note *note = find_note(exchange->id);

	if (exchange->status != 500 || !note || !strstr(one.fields ? one.fields : "", "async"))
		return;
	EXPECT_EQ(note->begun, 0);
	note->denied = true;
}

/* Whoever stays is answered, unless he came too late; a gateway that is told to stop finishes what it has begun. */
static void check_asked(const struct exchange *exchange)
{
	check_unnamed(exchange);
	if (exchange->status && exchange->has_events)
		check_events(exchange, 1, one.operation);
	else if (exchange->status)
		check_answer(exchange, one.operation);
	else if (one.client_stays && one.gateway_stays)
		EXPECT(was_turned_away(exchange));
}

static int ask_in_scope(struct exchange *exchange)
{
	int r;

	EW_SCOPE(asking, .policy = EW_POLICY_INDEPENDENT);

	say_post(exchange, one.operation, one.fields ? one.fields : "");
	r = ew_spawn(&asking, ask_one, exchange);
	if (r < 0)
		return r;
	r = ew_scope_close(&asking, EW_NEVER, EW_REASON_REQUESTED);
	check_asked(exchange);
	return r;
}

static void stop_one(void *unused)
{
	(void)unused;
	if (world.gateway)
		front_stop(&world.gateway->front);
}

static int stop_one_close(void *unused)
{
	int r = one.then_ns > 0 && ew_cancel_requested() ? ew_sleep(one.then_ns) : 0;

	stop_one(unused);
	return r;
}

static int start_one(struct ew_scope *scope)
{
	int r;

	r = server_new(&world.options, &world.gateway);
	if (r < 0)
		return r;
	world.gateways++;
	world.serving = true;
	r = ew_spawn(scope, serve_one, NULL);
	if (r < 0)
		world.serving = false;
	return r;
}

static int one_request(void *unused)
{
	struct exchange exchange;
	int r;

	(void)unused;
	EW_GUARD(listener, &world, .close = close_broker_close, .abort = close_broker);
	EW_SCOPE(peers, .policy = EW_POLICY_INDEPENDENT);
	EW_GUARD(stop, &world, .close = stop_peers_close, .abort = stop_peers);
	EW_GUARD(gateway, &world, .close = free_gateway_close, .abort = free_gateway);
	EW_SCOPE(serving, .policy = EW_POLICY_INDEPENDENT);
	EW_GUARD(term, &world, .close = stop_one_close, .abort = stop_one);

	world.broker.judge = judge_one;
	r = start_peers(&peers);
	if (r == 0)
		r = start_one(&serving);
	if (r == 0)
		r = ew_sleep(3 * EW_SECOND);
	return r == 0 ? ask_in_scope(&exchange) : r;
}

static struct ew_sim_options
	swept; /* the world, with a disk of its own for each run if bodies go there */

static void prepare_one(void *more)
{
	world_prepare(more);
	swept.filesystem = NULL;
	if (has_bodies())
		EXPECT_EQ(ew_sim_filesystem_new(&one.disk, &swept.filesystem), 0);
}

static int serve_next(void)
{
	int r;

	EW_GUARD(gateway, &world, .close = free_gateway_close, .abort = free_gateway);
	EW_SCOPE(serving);

	r = start_gateway(&serving);
	EXPECT_EQ(r, 0);
	r = ew_sleep(3 * EW_SECOND);
	EXPECT_EQ(r, 0);
	front_stop(&world.gateway->front);
	return ew_scope_finish(&serving, 0);
}

/* What one has left that did not end well, the next one sweeps. */
static int look_after_one(void *unused)
{
	(void)unused;
	EXPECT_EQ(serve_next(), 0);
	check_empty("/sim/bodies");
	check_empty("/sim/bodies.state/leases");
	return 0;
}

static const char *check_one(void *more)
{
	(void)more;
	/* OpenSSL keeps the last errors of a thread, each with its words, until somebody asks or they are too many. */
	ERR_clear_error();
	for (unsigned i = 0; i < world.claims_count; i++)
		if (world.claims[i].running)
			return "a worker is still at it";
	if (swept.filesystem) {
		/* Another seed, or its names would be those of the first one. */
		const struct ew_sim_options next = { .seed = 2,
						     .filesystem = swept.filesystem,
						     .report = hush };

		EXPECT_EQ(ew_sim_run(&next, look_after_one, NULL, NULL), 0);
		ew_sim_filesystem_free(swept.filesystem);
	}
	return NULL;
}

static struct ew_sweep_result sweep_route(const char *more, unsigned modes)
{
	const struct ew_sweep_options options = { .prepare = prepare_one,
						  .check = check_one,
						  .modes = modes,
						  .pairs_max = 100,
						  .world = &swept };
	struct ew_sweep_result result = ew_sweep(&options, one_request, (void *)more);

	if (result.failed)
		ew_test_fail(__FILE__, __LINE__, "%.40s %s at point %u/%u, %s: %.150s", more,
			     ew_sweep_mode_name(result.mode), result.index, result.second,
			     result.site, result.what);
	printf("# %u points, %u runs, %u pairs of %u\n", result.points, result.runs, result.pairs,
	       result.pairs_there_are);
	EXPECT(result.points > 100);
	return result;
}

static void sweep_one(unsigned modes)
{
	for (size_t i = 0; i < sizeof(routes) / sizeof(routes[0]); i++)
		sweep_route(routes[i], modes);
}

#define CANCELS                                                                                    \
	(1U << EW_SWEEP_CANCEL | 1U << EW_SWEEP_CANCEL_WAITING | 1U << EW_SWEEP_CANCEL_ENDED)

TEST(gateway_client_leaves_at_each_point)
{
	one.operation = "1 200 s";
	one.gateway_stays = true;
	one.then_ns = 10 * EW_SECOND;
	sweep_one(CANCELS);
}

TEST(gateway_is_told_to_stop_at_each_point)
{
	one.operation = "1 200 s";
	one.gateway_stays = true;
	one.client_stays = true;
	sweep_one(CANCELS);
}

TEST(gateway_is_cancelled_at_each_point)
{
	one.operation = "1 200 s";
	one.client_stays = true;
	sweep_one(CANCELS);
}

TEST(gateway_is_forced_at_each_point)
{
	one.operation = "1 200 s";
	sweep_one(1U << EW_SWEEP_FORCE);
}

TEST(gateway_panics_at_each_point)
{
	one.operation = "1 200 s";
	sweep_one(1U << EW_SWEEP_PANIC);
}

/* Its body may still be there when the gateway ends. */
TEST(gateway_with_an_operation_without_its_client_panics_at_each_point)
{
	one.operation = "1 200 s";
	one.fields = "Prefer: respond-async\r\n";
	sweep_route(routes[2], 1U << EW_SWEEP_PANIC);
}

TEST(gateway_where_no_file_is_nameless_panics_at_each_point)
{
	one.operation = "1 200 s";
	one.disk.names_only = true;
	sweep_route(routes[2], 1U << EW_SWEEP_PANIC);
}

/* While it ends, it is forced or cancelled once more, or something fails. */
TEST(gateway_is_cancelled_at_each_point_and_more_follows)
{
	one.operation = "1 200 s";
	one.client_stays = true;
	sweep_one(1U << EW_SWEEP_CANCEL_FORCE | 1U << EW_SWEEP_CANCEL_AGAIN |
		  1U << EW_SWEEP_CANCEL_OPERATION | 1U << EW_SWEEP_CANCEL_MEMORY);
}

/* ---- one request, without memory ---- */

static const char *const ways_to_ask[] = {
	NULL,
	"Idempotency-Key: k\r\n",
	"Prefer: respond-async\r\n",
	"Accept: text/event-stream\r\n",
	"Accept: text/event-stream\r\nPrefer: respond-async\r\n",
};

static void sweep_memory(unsigned mode)
{
	one.operation = "1 200 s";
	one.client_stays = true;
	one.gateway_stays = true;
	one.memory_gone = mode == EW_SWEEP_MEMORY_GONE;
	for (size_t i = 0; i < sizeof(ways_to_ask) / sizeof(ways_to_ask[0]); i++) {
		one.fields = ways_to_ask[i];
		sweep_one(1U << mode);
		sweep_route("tenant_header = X-Tenant\n", 1U << mode);
	}
}

TEST(gateway_without_memory_once_answers_or_refuses)
{
	sweep_memory(EW_SWEEP_MEMORY_ONCE);
}

TEST(gateway_without_memory_from_any_moment_on_ends_in_order)
{
	sweep_memory(EW_SWEEP_MEMORY_GONE);
}

TEST_MAIN()
