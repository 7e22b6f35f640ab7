/* SPDX-License-Identifier: Apache-2.0 */

/*
 * A hostile broker: one session of the gateway with operations that are answered, cancelled, returned, nacked and lost, run
 * again and again, and each time one field of one frame that the broker sends is another. Whatever it is: the law holds,
 * nobody gets the answer of somebody else, little memory is taken for it, and the gateway serves again in the end.
 */

#include "gateway_world.h"

#include <malloc.h>

/* What may be taken for a change, at most: the gateway's channels times its frames. */
#define CHANNELS    5
#define FRAME_BYTES 131072

/* Longer than any of the operations here can take. */
#define HOLD (15 * EW_SECOND)

/* ---- what is changed ---- */

/* A walk over all frames, which counts what could be changed, and changes one. */
static struct {
	unsigned seen;	 /* changes that there were */
	unsigned chosen; /* the one that is made, from 1; 0: none */
	bool made;
	bool over; /* nothing more is changed */
	bool bits; /* bits, not fields */
	char what[64];
} change;

static bool is_chosen(const char *what)
{
	++change.seen;
	if (log_is_seen())
		fprintf(stderr, "%12" PRId64 " change %u, %s\n", ew_now(), change.seen, what);
	if (change.seen != change.chosen)
		return false;
	change.made = true;
	snprintf(change.what, sizeof(change.what), "%s", what);
	return true;
}

static uint64_t read_number(const uint8_t *at, unsigned width)
{
	uint64_t value = 0;

	while (width-- > 0)
		value = value << 8 | *at++;
	return value;
}

static void write_number(uint8_t *at, unsigned width, uint64_t value)
{
	while (width-- > 0) {
		at[width] = (uint8_t)value;
		value >>= 8;
	}
}

static void change_number(uint8_t *at, unsigned width, const char *what)
{
	uint64_t value = read_number(at, width), most = UINT64_MAX >> (64 - 8 * width);
	const uint64_t others[] = { 0, 1, most, (most >> 1) + 1, most >> 1, value + 1, value - 1 };

	for (size_t i = 0; i < sizeof(others) / sizeof(others[0]); i++)
		if ((others[i] & most) != value && is_chosen(what))
			write_number(at, width, others[i]);
}

static void change_bytes(uint8_t *at, size_t bytes, const char *what)
{
	if (bytes == 0)
		return;
	if (is_chosen(what))
		at[0] = 0;
	if (is_chosen(what))
		at[0] = 0xff;
	if (is_chosen(what))
		at[bytes - 1] ^= 1;
	if (is_chosen(what))
		memset(at, 'A', bytes);
}

/* Each of these takes its field off what is left. A walk reads what was right before it changes it. */
struct fields {
	uint8_t *at;
	uint8_t *end;
};

static void number(struct fields *fields, unsigned width, const char *what)
{
	EXPECT(fields->end - fields->at >= (ptrdiff_t)width);
	change_number(fields->at, width, what);
	fields->at += width;
}

static void text(struct fields *fields, unsigned width, const char *what)
{
	size_t bytes = (size_t)read_number(fields->at, width);

	number(fields, width, what);
	EXPECT((size_t)(fields->end - fields->at) >= bytes);
	change_bytes(fields->at, bytes, what);
	fields->at += bytes;
}

static void table(struct fields *fields)
{
	size_t bytes = (size_t)read_number(fields->at, 4);
	struct fields entries = { fields->at + 4, fields->at + 4 + bytes };

	number(fields, 4, "size of a table");
	while (entries.at < entries.end) {
		text(&entries, 1, "name of a header");
		EXPECT_EQ(*entries.at, 'S');
		number(&entries, 1, "kind of a header");
		text(&entries, 4, "value of a header");
	}
	fields->at += bytes;
}

/* What follows class and method, a letter each: s, l: short and long string, t: table, 1, 2, 4, 8: numbers */
static const struct {
	uint32_t id;
	const char *arguments;
} methods[] = {
	{ AMQP_CONNECTION_START_METHOD, "11tll" }, { AMQP_CONNECTION_TUNE_METHOD, "242" },
	{ AMQP_CONNECTION_OPEN_OK_METHOD, "s" },   { AMQP_CONNECTION_BLOCKED_METHOD, "s" },
	{ AMQP_CONNECTION_UNBLOCKED_METHOD, "" },  { AMQP_CONNECTION_CLOSE_OK_METHOD, "" },
	{ AMQP_CONNECTION_CLOSE_METHOD, "2s22" },  { AMQP_CHANNEL_OPEN_OK_METHOD, "l" },
	{ AMQP_CHANNEL_CLOSE_METHOD, "2s22" },	   { AMQP_CHANNEL_CLOSE_OK_METHOD, "" },
	{ AMQP_CONFIRM_SELECT_OK_METHOD, "" },	   { AMQP_BASIC_QOS_OK_METHOD, "" },
	{ AMQP_QUEUE_DECLARE_OK_METHOD, "s44" },   { AMQP_BASIC_CONSUME_OK_METHOD, "s" },
	{ AMQP_BASIC_DELIVER_METHOD, "s81ss" },	   { AMQP_BASIC_RETURN_METHOD, "2sss" },
	{ AMQP_BASIC_ACK_METHOD, "81" },	   { AMQP_BASIC_NACK_METHOD, "81" },
};

static const char *arguments_of(uint32_t id)
{
	for (size_t i = 0; i < sizeof(methods) / sizeof(methods[0]); i++)
		if (methods[i].id == id)
			return methods[i].arguments;
	ew_test_fail(__FILE__, __LINE__, "no arguments of method %x are known", id);
}

static void method_fields(struct fields *fields)
{
	const char *argument = arguments_of((uint32_t)read_number(fields->at, 4));

	number(fields, 2, "class");
	number(fields, 2, "method");
	for (; *argument; argument++)
		switch (*argument) {
		case 's': text(fields, 1, "short string of a method"); break;
		case 'l': text(fields, 4, "long string of a method"); break;
		case 't': table(fields); break;
		default: number(fields, (unsigned)(*argument - '0'), "number of a method"); break;
		}
	EXPECT(fields->at == fields->end);
}

/* From the highest flag down (AMQP 0-9-1, section 1.8.3): content type, encoding, headers, mode ... */
static void header_fields(struct fields *fields)
{
	static const char kinds[] = "sst11ssss8ssss";
	unsigned flags = (unsigned)read_number(fields->at + 12, 2);

	number(fields, 2, "class of a header");
	number(fields, 2, "weight");
	number(fields, 8, "size of a body");
	number(fields, 2, "flags of properties");
	for (unsigned i = 0; kinds[i]; i++) {
		if (!(flags >> (15 - i) & 1))
			continue;
		if (kinds[i] == 's')
			text(fields, 1, "property");
		else if (kinds[i] == 't')
			table(fields);
		else
			number(fields, (unsigned)(kinds[i] - '0'), "number among properties");
	}
	EXPECT(fields->at == fields->end);
}

static void payload_fields(uint8_t *payload, size_t bytes, unsigned type)
{
	struct fields fields = { payload, payload + bytes };

	switch (type) {
	case AMQP_FRAME_METHOD: method_fields(&fields); break;
	case AMQP_FRAME_HEADER: header_fields(&fields); break;
	case AMQP_FRAME_BODY: change_bytes(payload, bytes, "body"); break;
	default: EXPECT_EQ(bytes, 0); break;
	}
}

static void change_frame(uint8_t *frame, size_t bytes)
{
	unsigned type = frame[0];

	change_number(frame, 1, "type of a frame");
	change_number(frame + 1, 2, "channel");
	change_number(frame + 3, 4, "size of a frame");
	change_number(frame + bytes - 1, 1, "end of a frame");
	payload_fields(frame + 7, bytes - EW_AMQP_FRAME_OVERHEAD, type);
}

/* A bit of each byte; another one in the next. */
static void change_bits(uint8_t *frame, size_t bytes)
{
	for (size_t i = 0; i < bytes; i++)
		if (is_chosen("bit"))
			frame[i] ^= (uint8_t)(1 << (i * 5 + i / 8) % 8);
}

/* Left out, said twice, or cut. */
static size_t change_order(struct ew_amqp_output *output, size_t at, size_t bytes)
{
	uint8_t copy[4096];

	EXPECT(bytes <= sizeof(copy));
	memcpy(copy, output->data + at, bytes);
	if (is_chosen("frame left out")) {
		memmove(output->data + at, output->data + at + bytes, output->bytes - at - bytes);
		output->bytes -= bytes;
		return 0;
	}
	if (is_chosen("frame said twice")) {
		broker_must(ew_amqp_output_bytes(output, copy, bytes));
		memmove(output->data + at + bytes, output->data + at, output->bytes - at - bytes);
		memcpy(output->data + at, copy, bytes);
		return 2 * bytes;
	}
	if (is_chosen("end of what is said"))
		output->bytes = at + bytes / 2;
	return bytes;
}

/* ---- memory ---- */

static size_t memory_before;
static size_t memory_usual; /* at most in a session without a change, both sides' */

static size_t memory_in_use(void)
{
	struct mallinfo2 now = mallinfo2();

	return now.uordblks + now.hblkhd;
}

static void check_memory(void)
{
	size_t now = memory_in_use(), taken = now > memory_before ? now - memory_before : 0;

	if (change.chosen > 0)
		EXPECT(taken <= memory_usual + (size_t)CHANNELS * FRAME_BYTES);
	else if (taken > memory_usual)
		memory_usual = taken;
}

/* Of what goes to the gateway, until the change is made. */
static void tamper(struct peer *peer, struct ew_amqp_output *output)
{
	size_t at = 0, bytes;

	check_memory();
	if (peer->number != 1)
		return;
	while (at < output->bytes && !change.made && !change.over) {
		bytes = (size_t)read_number(output->data + at + 3, 4) + EW_AMQP_FRAME_OVERHEAD;
		if (change.bits) {
			change_bits(output->data + at, bytes);
		} else {
			change_frame(output->data + at, bytes);
			if (!change.made)
				bytes = change_order(output, at, bytes);
		}
		at += bytes;
	}
}

/* ---- the session ---- */

/* The last one is known by its length. */
static const char *const operations[] = { "1111 200 s", "2222 4000 s", "3333   100 s" };
#define NACKED_BYTES "12"

static bool is_nacked(const struct ew_amqp_message *message)
{
	const char *in_file = ew_amqp_header_find(message, "x-ew-body-bytes");

	return in_file ? strcmp(in_file, NACKED_BYTES) == 0
		       : message->body_bytes == strlen(operations[2]);
}

/* What the one of "3333" brings is not taken; and in the end the route's channel is closed. */
static enum mood judge(struct peer *peer, const struct ew_amqp_message *message)
{
	const char *type = message->type ? message->type : "";

	check_memory();
	note_message(peer, message);
	if (strcmp(type, "op") == 0 && is_nacked(message))
		return MOOD_NACK_AND_TAKE;
	return MOOD_TAKE;
}

/* Who leaves after a while. */
static int ask(void *argument)
{
	const char *const *operation = argument;
	struct exchange exchange;
	int r;

	say_post(&exchange, *operation, "");
	r = converse_patiently(&exchange, 2 * EW_SECOND);
	if (r != 0 || exchange.status != 200)
		return r;
	for (size_t i = 0; i < 3; i++)
		if (operation != &operations[i])
			EXPECT(strcmp(exchange.body, operations[i]) != 0);
	return 0;
}

/* Of the other route, which has no queue. */
static int ask_in_vain(void)
{
	struct exchange exchange;

	say_post(&exchange, "5555 100 s", "");
	memcpy(exchange.request, "POST /ops/b", 11);
	return converse_patiently(&exchange, 2 * EW_SECOND);
}

static int ask_all(void)
{
	int r = 0;

	EW_SCOPE(asking, .policy = EW_POLICY_INDEPENDENT);

	for (size_t i = 0; r == 0 && i < 3; i++)
		r = ew_spawn(&asking, ask, (void *)(uintptr_t)&operations[i]);
	EXPECT_EQ(r, 0);
	r = ask_in_vain();
	return ew_scope_finish(&asking, r);
}

/* The gateway, on its first connection; NULL: that is over. */
static struct peer *first_peer(void)
{
	struct peer *peer = world.broker.peers;

	while (peer && (peer->number != 1 || !peer->reading))
		peer = peer->next;
	return peer;
}

static void say_unblocked(struct peer *peer)
{
	amqp_connection_unblocked_t unblocked = {};

	broker_say(&peer->broker, 0, AMQP_CONNECTION_UNBLOCKED_METHOD, &unblocked);
	hub_flush(peer);
}

static void trouble(void)
{
	amqp_connection_blocked_t blocked = { amqp_cstring_bytes("low on memory") };
	struct peer *peer = first_peer();

	if (!peer)
		return;
	broker_say(&peer->broker, 0, AMQP_CONNECTION_BLOCKED_METHOD, &blocked);
	say_unblocked(peer);
	for (unsigned i = 0; i < HUB_CHANNELS_MAX; i++)
		if (peer->channels[i].reply_to[0] || peer->channels[i].prefetch) {
			refuse_channel(peer, i, AMQP_PRECONDITION_FAILED, "PRECONDITION_FAILED");
			break;
		}
}

static int ask_later(struct exchange *exchange)
{
	int r;

	r = ew_sleep(2 * HOLD);
	EXPECT_EQ(r, 0);
	change.over = true;
	/* The word that was not understood. */
	if (first_peer())
		say_unblocked(first_peer());
	check_law();
	EXPECT_EQ(ew_semaphore_count(world.gateway->routes[0].permits).free, CONCURRENCY);
	say_post(exchange, "4444 100 s", "");
	return converse(exchange);
}

/* Whatever was said, it costs one connection at most, that of the first who asks; and what is presumed is free again. */
static int ask_again(void)
{
	struct exchange exchange;
	int r;

	r = ask_later(&exchange);
	EXPECT_EQ(r, 0);
	if (exchange.status != 200)
		r = ask_later(&exchange);
	EXPECT_EQ(r, 0);
	if (exchange.status != 200)
		ew_test_fail(__FILE__, __LINE__, "after change %u, %s: %d %.200s", change.chosen,
			     change.what, exchange.status, exchange.body);
	EXPECT_STR(exchange.body, "4444 100 s");
	return 0;
}

static int session(void *unused)
{
	int r;

	(void)unused;
	EW_GUARD(listener, &world, .close = close_broker_close, .abort = close_broker);
	EW_SCOPE(peers);
	EW_GUARD(stop, &world, .close = stop_peers_close, .abort = stop_peers);
	EW_GUARD(gateway, &world, .close = free_gateway_close, .abort = free_gateway);
	EW_SCOPE(serving);

	world.broker.judge = judge;
	world.broker.tampers = tamper;
	r = open_broker(&world.broker);
	EXPECT_EQ(r, 0);
	r = ew_spawn(&peers, hub_task, &world.broker);
	EXPECT_EQ(r, 0);
	r = start_gateway(&serving);
	EXPECT_EQ(r, 0);
	/* Afterwards, so that the gateway is the broker's first. */
	r = ew_sleep(EW_SECOND);
	EXPECT_EQ(r, 0);
	r = start_hands(&peers);
	EXPECT_EQ(r, 0);
	r = ew_sleep(EW_SECOND);
	EXPECT_EQ(r, 0);
	(void)!ask_all();
	r = ew_sleep(2 * EW_SECOND);
	EXPECT_EQ(r, 0);
	trouble();
	r = ask_again();
	front_stop(&world.gateway->front);
	r = ew_scope_finish(&serving, r);
	stop_peers(NULL);
	return ew_scope_finish(&peers, r);
}

static int session_and_after(void *unused)
{
	int r = session(unused);

	if (has_bodies())
		check_no_bodies();
	return r;
}

/* ---- all changes ---- */

static const char *keys = ""; /* of the first route */

static int run_on(struct ew_sim_filesystem *filesystem)
{
	const struct ew_sim_options options = { .seed = 1,
						.report = hush,
						.filesystem = filesystem };

	return ew_sim_run(&options, session_and_after, NULL, NULL);
}

static int run_session(unsigned chosen)
{
	struct ew_sim_filesystem *filesystem = NULL;
	char text[128];
	int r;

	snprintf(text, sizeof(text), "%s[route b]\nrouting_key = nowhere\n", keys);
	world_prepare(text);
	if (has_bodies())
		EXPECT_EQ(ew_sim_filesystem_new(NULL, &filesystem), 0);
	world.options.config.routes[0].presumed_hold_ns = HOLD;
	memory_before = memory_in_use();
	change.seen = 0;
	change.chosen = chosen;
	change.made = false;
	change.over = false;
	r = run_on(filesystem);
	ew_sim_filesystem_free(filesystem);
	return r;
}

/* Each @step-th, from @first on. */
static void make_changes(unsigned first, unsigned step)
{
	const char *one = getenv("EW_HOSTILE_CHANGE");
	unsigned count, i, runs = 0;

	EXPECT_EQ(run_session(0), 0);
	/* That one alone, which was said to be wrong. */
	if (one) {
		EXPECT_EQ(run_session((unsigned)atoi(one)), 0);
		return;
	}
	count = change.seen;
	for (i = first; i <= count; i += step, runs++)
		if (run_session(i) != 0 || !change.made)
			ew_test_fail(__FILE__, __LINE__, "change %u, %s", i, change.what);
	printf("# %u changes, %u made\n", count, runs);
	EXPECT(runs > 0);
}

/* One in @usually; those of clang's build are others than gcc's. */
static void make_some_changes(unsigned usually)
{
#ifdef __clang__
	unsigned first = 2;
#else
	unsigned first = 1;
#endif

	if (getenv("EW_HOSTILE_ALL"))
		make_changes(1, 1);
	else
		make_changes(first, usually * (unsigned)ew_test_scale());
}

TEST(gateway_survives_each_field_of_each_frame)
{
	make_some_changes(2);
}

TEST(gateway_survives_each_byte_of_each_frame)
{
	change.bits = true;
	make_some_changes(4);
}

/* Its messages are declared for, acknowledged, and come again on the next connection. */
TEST(gateway_with_a_reply_queue_survives_each_field_of_each_frame)
{
	keys = "replies = queue\n";
	make_some_changes(2);
}

TEST(gateway_with_bodies_in_files_survives_each_field_of_each_frame)
{
	keys = "bodies = /sim/bodies\ninline_body = 0\n";
	make_some_changes(2);
}

TEST_MAIN()
