/* SPDX-License-Identifier: Apache-2.0 */

/*
 * The AMQP client and a moody broker in simulated worlds, with everything that may go wrong, for many seeds. What the
 * client says of a message is held against what the broker knows of it.
 */

#include "amqp_broker.h"
#include "sim.h"

#define PUBLISHERS 3
#define MESSAGES   8
#define DELIVERIES 5

enum known { NOTHING, RECEIVED, CONFIRMED, NACKED, RETURNED };

struct world {
	struct broker broker;
	bool calm;
	unsigned messages_count;
	enum known known[2 * PUBLISHERS * MESSAGES];
	unsigned delivered, received;
};

static struct world world;

static void prepare(void *argument)
{
	(void)argument;
	memset(&world, 0, offsetof(struct world, broker.input));
	memset(&world.calm, 0, sizeof(world) - offsetof(struct world, calm));
}

/* ---- the broker ---- */

static int say_nack(struct broker *broker, unsigned channel)
{
	amqp_basic_nack_t nack = { .delivery_tag = broker->tag };

	return broker_say(broker, channel, AMQP_BASIC_NACK_METHOD, &nack);
}

static int judge_message(struct broker *broker, unsigned channel)
{
	enum known *known = &world.known[atoi(broker->message_id)];

	EXPECT_EQ(*known, NOTHING); /* sent once only */
	*known = RECEIVED;
	switch (world.calm ? 9 : ew_sim_random(40)) {
	case 0: return -ECONNRESET;
	case 1: return 1; /* forgotten */
	case 2:
	case 3: *known = NACKED; return say_nack(broker, channel);
	case 4:
	case 5:
		*known = RETURNED;
		broker_return(broker, channel, broker->message_id);
		return 0;
	default: *known = CONFIRMED; return 0;
	}
}

static int deliver_some(struct broker *broker, unsigned channel, const amqp_method_t *method)
{
	char body[16];

	broker_answer(broker, channel, method);
	for (world.delivered = 0; world.delivered < DELIVERIES;) {
		snprintf(body, sizeof(body), "%u", ++world.delivered);
		broker_deliver(broker, channel, world.delivered, body);
	}
	return 1;
}

static int moody(struct broker *broker, unsigned channel, const amqp_method_t *method)
{
	if (method->id == AMQP_BASIC_PUBLISH_METHOD)
		return judge_message(broker, channel);
	if (method->id == AMQP_BASIC_CONSUME_METHOD)
		return deliver_some(broker, channel, method);
	if (world.calm)
		return 0;
	return ew_sim_random(100) == 0 ? -ECONNRESET : 0;
}

/* ---- the client ---- */

static void check_fate(const struct ew_amqp_receipt *receipt, int r, enum known known)
{
	switch (receipt->fate) {
	case EW_AMQP_NOT_SENT: EXPECT_EQ(known, NOTHING); break;
	case EW_AMQP_CONFIRMED: EXPECT_EQ(known, CONFIRMED); break;
	case EW_AMQP_RETURNED: EXPECT_EQ(known, RETURNED); break;
	case EW_AMQP_NACKED: EXPECT_EQ(known, NACKED); break;
	case EW_AMQP_UNKNOWN: break;
	}
	EXPECT_EQ(r == 0, receipt->fate == EW_AMQP_CONFIRMED);
	if (r == -ECANCELED)
		EXPECT(ew_cancel_requested());
}

static int publish_one(struct ew_amqp_channel *channel)
{
	unsigned number = world.messages_count++;
	static char body[20000];
	struct ew_amqp_receipt receipt;
	char id[16];
	int r;

	snprintf(id, sizeof(id), "%u", number);
	r = ew_amqp_publish(channel,
			    &(struct ew_amqp_message){ .routing_key = "q",
						       .message_id = id,
						       .mandatory = true,
						       .body = body,
						       .body_bytes = ew_sim_random(sizeof(body)) },
			    &receipt);
	check_fate(&receipt, r, world.known[number]);
	return r;
}

static int publish_with_patience(struct ew_amqp_channel *channel)
{
	int64_t patience_ns = ew_sim_random(2) ? EW_SECOND : (int64_t)ew_sim_random(EW_MILLISECOND);

	EW_SCOPE(scope, .deadline_ns = ew_after(patience_ns));

	return ew_scope_finish(&scope, publish_one(channel));
}

static int publisher(void *channel)
{
	int i, r = 0;

	for (i = 0; i < MESSAGES; i++)
		r = publish_with_patience(channel);
	return r;
}

/* In order, each once. */
static int receive_one(struct ew_amqp_channel *channel)
{
	int r;

	EW_OWN(ew_amqp_delivery, delivery);

	r = ew_amqp_receive(channel, &delivery);
	if (r < 0)
		return r;
	EXPECT_EQ(delivery->message.body_bytes, 1);
	EXPECT_EQ(*(const char *)delivery->message.body, '0' + (int)++world.received);
	return ew_amqp_acknowledge(channel, &delivery);
}

static int consumer(void *channel)
{
	int r = ew_amqp_consume(channel,
				&(struct ew_amqp_consumer){ .queue = "q", .prefetch_max = 2 });

	while (r == 0 && world.received < DELIVERIES)
		r = receive_one(channel);
	return r;
}

static int work(struct ew_amqp_channel *channel)
{
	int i, r;

	EW_SCOPE(workers, .policy = EW_POLICY_INDEPENDENT);

	r = ew_amqp_queue_declare(channel, &(struct ew_amqp_queue){ .name = "q" }, NULL);
	if (r == 0)
		r = ew_spawn(&workers, consumer, channel);
	for (i = 0; r == 0 && i < PUBLISHERS; i++)
		r = ew_spawn(&workers, publisher, channel);
	return ew_scope_finish(&workers, r);
}

static int use(int (*work_fn)(struct ew_amqp_channel *channel))
{
	int r;

	EW_SCOPE(scope);
	EW_OWN(ew_amqp_connection, connection);
	EW_OWN(ew_amqp_channel, channel);

	broker_init(&world.broker);
	world.broker.on = moody;
	r = broker_open(&world.broker, &scope, NULL, NULL, &connection);
	if (r == 0)
		r = ew_amqp_channel_open(connection, NULL, &channel);
	if (r == 0)
		r = work_fn(channel);
	if (r == 0)
		r = ew_amqp_channel_close(&channel);
	if (r == 0)
		r = ew_amqp_connection_close(&connection);
	return ew_scope_finish(&scope, r);
}

/* The whole of it may be cut short, too. */
static int use_with_patience(void)
{
	int64_t patience_ns =
		ew_sim_random(3) ? 100 * EW_SECOND : (int64_t)ew_sim_random(2 * EW_MILLISECOND);

	EW_SCOPE(scope, .deadline_ns = ew_after(patience_ns));

	return ew_scope_finish(&scope, use(work));
}

static int scenario(void *argument)
{
	int r;

	(void)argument;
	r = use_with_patience();
	EXPECT(r != -ENOTRECOVERABLE);
	world.calm = true;
	ew_sim_calm();
	r = use(publish_one);
	EXPECT_EQ(r, 0);
	EXPECT_EQ(world.broker.close_code, 200);
	return 0;
}

TEST(amqp_client_under_all_faults)
{
	try_seeds(400, scenario, prepare, NULL);
}

TEST_MAIN()
