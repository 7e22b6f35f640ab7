/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Frames and deliveries without a connection: what is written is what is read.
 */

#include "amqp_broker.h"

#include "amqp/table.h"

static enum ew_amqp_parsed parse(const void *data, size_t bytes, struct ew_amqp_frame *ret_frame)
{
	const char *why;

	return ew_amqp_frame_parse(data, bytes, 4096, ret_frame, &why);
}

TEST(amqp_frame_that_is_cut_anywhere_is_partial)
{
	static const uint8_t data[] = { 3, 0, 7, 0, 0, 0, 2, 'h', 'i', 0xce };
	struct ew_amqp_frame frame;

	for (size_t n = 0; n < sizeof(data); n++)
		EXPECT_EQ(parse(data, n, &frame), EW_AMQP_PARTIAL);
	EXPECT_EQ(parse(data, sizeof(data), &frame), EW_AMQP_WHOLE);
	EXPECT_EQ(frame.type, AMQP_FRAME_BODY);
	EXPECT_EQ(frame.channel, 7);
	EXPECT_EQ(frame.payload_bytes, 2);
	EXPECT(memcmp(frame.payload, "hi", 2) == 0);
}

TEST(amqp_frame_of_4096_bytes_fits_and_a_longer_one_is_known_by_its_head)
{
	struct ew_amqp_frame frame;

	EXPECT_EQ(parse("\3\0\1\0\0\17\370", 7, &frame), EW_AMQP_PARTIAL);
	EXPECT_EQ(parse("\3\0\1\0\0\17\371", 7, &frame), EW_AMQP_BAD);
	EXPECT_EQ(parse("\3\0\1\377\377\377\377", 7, &frame), EW_AMQP_BAD);
}

/* The frames of one message, of which it is made up again. */
static void take_apart(const struct ew_amqp_output *output, amqp_pool_t *pool,
		       const struct ew_amqp_message *message, size_t frame_bytes_max)
{
	struct ew_amqp_content content;
	struct ew_amqp_field field;
	struct ew_amqp_frame frame;
	const char *why;
	size_t at = 0, body_at = 0;

	for (int i = 0; at < output->bytes; i++) {
		EXPECT_EQ(ew_amqp_frame_parse(output->data + at, output->bytes - at,
					      frame_bytes_max, &frame, &why),
			  EW_AMQP_WHOLE);
		EXPECT_EQ(frame.channel, 3);
		at += frame.payload_bytes + EW_AMQP_FRAME_OVERHEAD;
		if (i == 0) {
			EXPECT(memcmp(frame.payload, "\0\74\0\50", 4) == 0);
		} else if (i == 1) {
			EXPECT_EQ(ew_amqp_frame_content(&frame, pool, &content), 0);
			EXPECT_EQ(content.body_bytes, message->body_bytes);
			EXPECT_EQ(content.properties->delivery_mode, 2);
			EXPECT(ew_amqp_table_next(&content.headers, &field));
			EXPECT(memcmp(field.value.bytes, "value", 5) == 0);
			EXPECT(!ew_amqp_table_next(&content.headers, &field));
		} else {
			EXPECT_EQ(frame.type, AMQP_FRAME_BODY);
			EXPECT(memcmp(frame.payload, (const char *)message->body + body_at,
				      frame.payload_bytes) == 0);
			body_at += frame.payload_bytes;
		}
	}
	EXPECT_EQ(body_at, message->body_bytes);
}

TEST(amqp_message_is_split_where_frames_end)
{
	static char body[3 * 4088 + 1];
	const struct ew_amqp_header header = { "name", "value" };
	struct ew_amqp_message message = { .exchange = "e",
					   .routing_key = "k",
					   .message_id = "m",
					   .persistent = true,
					   .headers = &header,
					   .headers_count = 1,
					   .body = body };
	amqp_pool_t pool;

	init_amqp_pool(&pool, 4096);
	for (size_t i = 0; i < sizeof(body); i++)
		body[i] = (char)(i % 251);
	for (size_t n = 0; n <= sizeof(body); n += n % 4088 == 4087 || n % 4088 == 0 ? 1 : 4086) {
		struct ew_amqp_output output = {};

		message.body_bytes = n;
		EXPECT_EQ(ew_amqp_output_publish(&output, 3, &message, 4096), 0);
		EXPECT(output.bytes <= ew_amqp_publish_bytes(&message, 4096));
		take_apart(&output, &pool, &message, 4096);
		ew_amqp_output_free(&output);
	}
	ew_amqp_pool_empty(&pool);
}

TEST(amqp_properties_that_no_frame_holds_leave_nothing_behind)
{
	static char value[4096];
	const struct ew_amqp_header header = { "name", value };
	const struct ew_amqp_message message = { .headers = &header, .headers_count = 1 };
	struct ew_amqp_output output = {};

	memset(value, 'v', sizeof(value) - 1);
	EXPECT_EQ(ew_amqp_output_heartbeat(&output), 0);
	EXPECT_EQ(ew_amqp_output_publish(&output, 1, &message, 4096), -EMSGSIZE);
	EXPECT_EQ(output.bytes, EW_AMQP_FRAME_OVERHEAD);
	ew_amqp_output_free(&output);
}

/* A content header with both properties that may stand before the headers, and one behind them. */
static size_t write_content_header(uint8_t *payload, const void *table, size_t table_bytes)
{
	static const char before[] = "\0\74\0\0\0\0\0\0\0\0\0\5\346\0\1t\2en";
	static const char behind[] = "\3a\0b\4back";
	size_t n = sizeof(before) - 1;

	memcpy(payload, before, n);
	payload[n++] = (uint8_t)(table_bytes >> 24);
	payload[n++] = (uint8_t)(table_bytes >> 16);
	payload[n++] = (uint8_t)(table_bytes >> 8);
	payload[n++] = (uint8_t)table_bytes;
	memcpy(payload + n, table, table_bytes);
	n += table_bytes;
	memcpy(payload + n, behind, sizeof(behind) - 1);
	return n + sizeof(behind) - 1;
}

static struct ew_amqp_delivery *deliver(const uint8_t *payload, size_t bytes, amqp_pool_t *pool)
{
	const struct ew_amqp_frame frame = { AMQP_FRAME_HEADER, 1, payload, bytes };
	const amqp_basic_deliver_t method = { .delivery_tag = 9,
					      .routing_key = amqp_cstring_bytes("key") };
	struct ew_amqp_delivery *delivery = NULL;
	struct ew_amqp_content content;

	EXPECT_EQ(ew_amqp_frame_content(&frame, pool, &content), 0);
	EXPECT_EQ(ew_amqp_delivery_new(&method, false, &delivery), 0);
	EXPECT_EQ(ew_amqp_delivery_describe(delivery, &content, 4), 0);
	return delivery;
}

TEST(amqp_delivery_has_texts_and_numbers_and_leaves_the_rest_out)
{
	static const char table[] = "\4textS\0\0\0\4said"
				    "\3nulS\0\0\0\2x\0"
				    "\4byteb\200"
				    "\4longl\200\0\0\0\0\0\0\0"
				    "\4mostL\377\377\377\377\377\377\377\377"
				    "\5tableF\0\0\0\7\1xS\0\0\0\0"
				    "\5floatd\0\0\0\0\0\0\0\0"
				    "\5shorts\377\376"
				    "\4lastS\0\0\0\0";
	const struct ew_amqp_message *message;
	struct ew_amqp_delivery *delivery;
	uint8_t payload[512];
	amqp_pool_t pool;

	init_amqp_pool(&pool, 4096);
	delivery = deliver(payload, write_content_header(payload, table, sizeof(table) - 1), &pool);
	message = &delivery->message;
	EXPECT_EQ(message->headers_count, 6);
	EXPECT_STR(ew_amqp_header_find(message, "text"), "said");
	EXPECT_STR(ew_amqp_header_find(message, "byte"), "-128");
	EXPECT_STR(ew_amqp_header_find(message, "long"), "-9223372036854775808");
	EXPECT_STR(ew_amqp_header_find(message, "most"), "18446744073709551615");
	EXPECT_STR(ew_amqp_header_find(message, "short"), "-2");
	EXPECT_STR(ew_amqp_header_find(message, "last"), "");
	ew_abort(&delivery);
	ew_amqp_pool_empty(&pool);
}

#define LEVELS 20000

static int deliver_nested(void *argument)
{
	uint8_t *table = malloc((size_t)LEVELS * 6), *payload = malloc((size_t)LEVELS * 6 + 64);
	struct ew_amqp_delivery *delivery;
	amqp_pool_t pool;

	(void)argument;
	EXPECT(table && payload);
	for (size_t i = 0; i < LEVELS; i++) {
		size_t inside = (LEVELS - 1 - i) * 6;
		const uint8_t entry[] = { 0,
					  'F',
					  (uint8_t)(inside >> 24),
					  (uint8_t)(inside >> 16),
					  (uint8_t)(inside >> 8),
					  (uint8_t)inside };

		memcpy(table + i * 6, entry, sizeof(entry));
	}
	init_amqp_pool(&pool, 4096);
	delivery =
		deliver(payload, write_content_header(payload, table, (size_t)LEVELS * 6), &pool);
	EXPECT_EQ(delivery->message.headers_count, 0);
	EXPECT_STR(delivery->message.reply_to, "back");
	ew_abort(&delivery);
	ew_amqp_pool_empty(&pool);
	free(payload);
	free(table);
	return 0;
}

/* What is inside a table is nobody's business here, however deep it is: rabbitmq-c would need more stack than a task has. */
TEST(amqp_headers_that_are_nested_deeply_are_passed_over)
{
	EXPECT_EQ(ew_run(NULL, deliver_nested, NULL), 0);
}

TEST(amqp_headers_that_are_cut_anywhere_are_read_as_far_as_they_go)
{
	static const char table[] = "\1aS\0\0\0\1x\1bI\377\377\377\376";
	struct ew_amqp_delivery *delivery;
	uint8_t payload[512];
	amqp_pool_t pool;

	init_amqp_pool(&pool, 4096);
	for (size_t n = 0; n < sizeof(table); n++) {
		delivery = deliver(payload, write_content_header(payload, table, n), &pool);
		EXPECT_EQ(delivery->message.headers_count, (n >= 8) + (n >= 15));
		EXPECT_STR(delivery->message.content_type, "t");
		EXPECT_STR(delivery->message.reply_to, "back");
		EXPECT(!delivery->message.correlation_id);
		ew_abort(&delivery);
		ew_amqp_pool_recycle(&pool);
	}
	ew_amqp_pool_empty(&pool);
}

TEST(amqp_delivery_that_is_too_large_says_how_large)
{
	struct ew_amqp_delivery *delivery;
	uint8_t payload[512];
	amqp_pool_t pool;

	init_amqp_pool(&pool, 4096);
	delivery = deliver(payload, write_content_header(payload, "", 0), &pool);
	EXPECT(delivery->too_large);
	EXPECT(!delivery->message.body);
	EXPECT_EQ(delivery->message.body_bytes, 5);
	EXPECT_EQ(delivery->tag, 9);
	EXPECT_STR(delivery->message.routing_key, "key");
	EXPECT(!delivery->message.message_id);
	ew_abort(&delivery);
	ew_amqp_pool_empty(&pool);
}

/* The table says that it is longer than the frame; the properties before it are longer than the frame. */
TEST(amqp_content_header_that_lies_about_its_lengths_is_refused)
{
	static const char long_table[] = "\0\74\0\0\0\0\0\0\0\0\0\0\40\0\0\0\0\1";
	static const char long_type[] = "\0\74\0\0\0\0\0\0\0\0\0\0\240\0\377xxxx";
	static const char more_flags[] = "\0\74\0\0\0\0\0\0\0\0\0\0\0\1\0\0";
	struct ew_amqp_frame frame = { .type = AMQP_FRAME_HEADER };
	struct ew_amqp_content content;
	amqp_pool_t pool;

	init_amqp_pool(&pool, 4096);
	frame.payload = (const uint8_t *)long_table;
	frame.payload_bytes = sizeof(long_table) - 1;
	EXPECT_EQ(ew_amqp_frame_content(&frame, &pool, &content), -EPROTO);
	frame.payload = (const uint8_t *)long_type;
	frame.payload_bytes = sizeof(long_type) - 1;
	EXPECT_EQ(ew_amqp_frame_content(&frame, &pool, &content), -EPROTO);
	frame.payload = (const uint8_t *)more_flags;
	frame.payload_bytes = sizeof(more_flags) - 1;
	EXPECT_EQ(ew_amqp_frame_content(&frame, &pool, &content), -EPROTO);
	ew_amqp_pool_empty(&pool);
}

TEST_MAIN()
