/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Sweeps over AMQP: a client and a broker, either of them ended at each suspension, those of the connection's own tasks
 * included. After each run nothing is left, and what had to be undone over the connection was undone or given up, once.
 */

#include "sweep.h"
#include "sweep_tls.h"
#include "unit/amqp_broker.h"
#include "unit/io.h"

#include "amqp/dialer.h"

#include <endwell/sim.h>
#include <stdatomic.h>

#define DELIVERIES 3

static struct broker broker;
static unsigned prefetch;
static struct ew_amqp_options client;

static void prepare(void *argument)
{
	open_book(argument);
	broker_init(&broker);
	prefetch = DELIVERIES;
}

static int serve(struct broker *unused, unsigned channel, const amqp_method_t *method)
{
	(void)unused;
	if (method->id != AMQP_BASIC_CONSUME_METHOD)
		return 0;
	broker_answer(&broker, channel, method);
	for (uint64_t tag = 1; tag <= DELIVERIES; tag++)
		broker_deliver(&broker, channel, tag, "body");
	return 1;
}

static int publish(struct ew_amqp_channel *channel)
{
	return ew_amqp_publish(channel,
			       &(struct ew_amqp_message){ .routing_key = "q",
							  .message_id = "m",
							  .mandatory = true,
							  .body = "body",
							  .body_bytes = 4 },
			       NULL);
}

/* An ending that needs the connection. */
struct undo {
	struct probe *probe;
	struct ew_amqp_channel *channel;
};

static int undo_close(void *argument)
{
	struct undo *undo = argument;
	int r = publish(undo->channel);

	if (r != -ECANCELED)
		undo->probe->closed++; /* last: until here a panic means abort */
	return r;
}

static void undo_abort(void *argument)
{
	struct undo *undo = argument;

	undo->probe->aborted++;
}

static int receive(struct ew_amqp_channel *channel, bool acknowledge)
{
	int r;

	EW_OWN(ew_amqp_delivery, delivery);

	r = ew_amqp_receive(channel, &delivery);
	if (r == 0 && acknowledge)
		r = ew_amqp_acknowledge(channel, &delivery);
	return r;
}

static int publish_task(void *channel)
{
	return publish(channel);
}

static int work(struct ew_amqp_channel *channel)
{
	int r;

	EW_SCOPE(publishers);

	r = ew_amqp_queue_declare(channel, &(struct ew_amqp_queue){ .name = "q" }, NULL);
	if (r == 0)
		r = ew_spawn(&publishers, publish_task, channel);
	if (r == 0)
		r = publish(channel);
	if (r == 0)
		r = ew_amqp_consume(channel, &(struct ew_amqp_consumer){
						     .queue = "q", .prefetch_max = prefetch });
	for (int i = 0; r == 0 && i < 2; i++)
		r = receive(channel, i == 0);
	return ew_scope_finish(&publishers, r);
}

static int work_and_undo(struct ew_amqp_channel *channel)
{
	struct undo undo = { open_probe(0), channel };

	EW_GUARD(guard, &undo, .close = undo_close, .abort = undo_abort);

	return work(channel);
}

static int use(struct ew_amqp_connection *connection,
	       int (*work_fn)(struct ew_amqp_channel *channel))
{
	int r;

	EW_OWN(ew_amqp_channel, channel);

	r = ew_amqp_channel_open(connection, NULL, &channel);
	if (r == 0)
		r = work_fn(channel);
	return r < 0 ? r : ew_amqp_channel_close(&channel);
}

static int converse(int (*work_fn)(struct ew_amqp_channel *channel))
{
	int r;

	EW_SCOPE(scope);
	EW_OWN(ew_amqp_connection, connection);

	r = broker_open(&broker, &scope, &client, NULL, &connection);
	if (r == 0)
		r = use(connection, work_fn);
	if (r == 0)
		r = ew_amqp_connection_close(&connection);
	return r < 0 ? r : ew_scope_finish(&scope, r);
}

static int conversation(void *argument)
{
	(void)argument;
	return converse(work_and_undo);
}

static void prepare_conversation(void *argument)
{
	prepare(argument);
	broker.on = serve;
}

TEST(sweep_amqp_conversation)
{
	struct ew_sweep_options options = { .modes = MODES_WITHOUT_FAULTS,
					    .prepare = prepare_conversation,
					    .check = check_book };

	expect_sweep(&options, conversation, 30);
	options.droppable = true;
	expect_sweep(&options, conversation, 30);
}

/* An operation of either side fails, alone and after a cancel, and so does memory. */
TEST(sweep_amqp_conversation_with_faults)
{
	const struct ew_sweep_options options = { .modes = MODES_WITH_FAULTS,
						  .pairs_max = 100,
						  .prepare = prepare_conversation,
						  .check = check_book };

	expect_sweep(&options, conversation, 30);
}

/* There the order of what happens is another for each seed, and always the same for one. */
TEST(sweep_amqp_conversation_in_simulated_worlds)
{
	struct ew_sim_options world = { 0 };
	const struct ew_sweep_options options = { .modes = MODES_WITHOUT_FAULTS,
						  .prepare = prepare_conversation,
						  .check = check_book,
						  .world = &world };

	for (world.seed = 1; world.seed <= 3; world.seed++)
		expect_sweep(&options, conversation, 30);
}

static void prepare_full(void *argument)
{
	prepare_conversation(argument);
	prefetch = 1;
}

static int full(void *argument)
{
	(void)argument;
	return converse(work);
}

/* The one who reads waits for a receiver who takes two of three. */
TEST(sweep_amqp_full_channel)
{
	const struct ew_sweep_options options = { .modes = MODES_WITHOUT_FAULTS,
						  .prepare = prepare_full,
						  .check = check_book };

	expect_sweep(&options, full, 30);
}

/* The second message is the broker's last. */
static int hang_up(struct broker *unused, unsigned channel, const amqp_method_t *method)
{
	(void)unused;
	(void)channel;
	if (method->id != AMQP_BASIC_PUBLISH_METHOD)
		return 0;
	return broker.tag < 2 ? 1 : -ECONNRESET;
}

static void prepare_loss(void *argument)
{
	prepare(argument);
	broker.on = hang_up;
}

static int wait_for_loss(void *connection)
{
	int r = ew_amqp_connection_wait(connection);

	return r == -ECONNRESET ? 0 : r;
}

static int meet_loss(void *argument)
{
	int r;

	EW_SCOPE(scope);
	EW_OWN(ew_amqp_connection, connection);
	EW_SCOPE(watching);

	(void)argument;
	r = broker_open(&broker, &scope, &client, NULL, &connection);
	if (r == 0)
		r = ew_spawn(&watching, wait_for_loss, connection);
	if (r == 0)
		r = use(connection, work);
	if (r == -ECONNRESET)
		r = 0;
	return ew_scope_finish(&watching, r);
}

TEST(sweep_amqp_lost_connection)
{
	const struct ew_sweep_options options = { .modes = MODES_WITHOUT_FAULTS,
						  .prepare = prepare_loss,
						  .check = check_book };

	expect_sweep(&options, meet_loss, 15);
}

/* ---- a broker that is called ---- */

static int accept_broker(void *argument, void *place)
{
	struct ew_listener **listener = place;
	int r;
	EW_OWN(ew_socket, socket);
	EW_SCOPE(scope);

	(void)argument;
	r = ew_listener_accept(*listener, &socket);
	if (r == 0)
		r = ew_spawn_take(&scope, broker_task, &broker, &socket);
	return ew_scope_finish(&scope, r);
}

static int dial(struct ew_scope *scope, struct ew_amqp_connection **ret_connection)
{
	struct sockaddr_in any = loopback(0);
	struct sockaddr_storage address;
	const struct ew_amqp_endpoint endpoint = { .address = (struct sockaddr *)&address,
						   .address_bytes = sizeof(any) };
	struct ew_amqp_dialer dialer = { .endpoints = &endpoint,
					 .endpoints_count = 1,
					 .options = &client };
	int r;

	EW_OWN(ew_listener, listener);

	r = ew_listener_open((struct sockaddr *)&any, sizeof(any), 1, &listener);
	if (r == 0)
		r = ew_listener_address(listener, &address);
	if (r == 0)
		r = ew_spawn_take(scope, accept_broker, NULL, &listener);
	return r < 0 ? r : ew_amqp_dial(&dialer, scope, NULL, ret_connection);
}

/* One is done with by its tag, when it has ended; the other is given back. */
static int settle(struct ew_amqp_channel *channel)
{
	uint64_t tag = 0;
	int r;

	EW_OWN(ew_amqp_delivery, done);
	EW_OWN(ew_amqp_delivery, back);

	r = ew_amqp_consume(channel,
			    &(struct ew_amqp_consumer){ .queue = "q", .prefetch_max = prefetch });
	if (r == 0)
		r = ew_amqp_receive(channel, &done);
	if (r == 0) {
		tag = done->tag;
		r = ew_close(&done);
	}
	if (r == 0)
		r = ew_amqp_acknowledge_tag(channel, tag);
	if (r == 0)
		r = ew_amqp_receive(channel, &back);
	return r < 0 ? r : ew_amqp_reject(channel, &back, true);
}

static int dial_and_settle(void *argument)
{
	int r;

	EW_SCOPE(scope);
	EW_OWN(ew_amqp_connection, connection);

	(void)argument;
	r = dial(&scope, &connection);
	if (r == 0)
		r = use(connection, settle);
	if (r == 0)
		r = ew_amqp_connection_close(&connection);
	return r < 0 ? r : ew_scope_finish(&scope, r);
}

TEST(sweep_amqp_dialed_broker)
{
	const struct ew_sweep_options options = { .modes = MODES_WITHOUT_FAULTS,
						  .prepare = prepare_conversation,
						  .check = check_book };

	expect_sweep(&options, dial_and_settle, 20);
}

/* ---- over TLS ---- */

static struct ew_tls_context *server_context;

static void prepare_tls(void *argument)
{
	prepare_conversation(argument);
	broker.tls_context = server_context;
	tls_blocks_before = tls_blocks;
}

static int short_conversation(void *argument)
{
	(void)argument;
	return converse(publish);
}

static void sweep_tls(const struct ew_sim_options *world)
{
	const struct ew_sweep_options options = { .prepare = prepare_tls,
						  .check = check_tls,
						  .modes = world ? 0 : MODES_WITH_THREADS,
						  .droppable = !world,
						  .world = world };

	count_tls_blocks();
	server_context = tls_server_context();
	client.tls = tls_client_context();
	client.server_name = "server.test";
	/* What it makes once and keeps is not a run's. */
	prepare_tls(NULL);
	EXPECT_EQ(ew_run(NULL, short_conversation, NULL), 0);
	expect_sweep(&options, short_conversation, 20);
	ew_tls_context_free(client.tls);
	ew_tls_context_free(server_context);
}

TEST(sweep_amqp_tls)
{
	sweep_tls(NULL);
}

TEST(sweep_amqp_tls_in_a_simulated_world)
{
	sweep_tls(&(struct ew_sim_options){ .seed = 1 });
}

TEST_MAIN()
