/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Frames and deliveries without a connection: what is written is what is read.
 */

#include "amqp_broker.h"

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
	amqp_basic_properties_t *properties;
	struct ew_amqp_frame frame;
	uint64_t body_bytes;
	amqp_method_t method;
	const char *why;
	size_t at = 0, body_at = 0;

	for (int i = 0; at < output->bytes; i++) {
		EXPECT_EQ(ew_amqp_frame_parse(output->data + at, output->bytes - at,
					      frame_bytes_max, &frame, &why),
			  EW_AMQP_WHOLE);
		EXPECT_EQ(frame.channel, 3);
		at += frame.payload_bytes + EW_AMQP_FRAME_OVERHEAD;
		if (i == 0) {
			EXPECT_EQ(ew_amqp_frame_method(&frame, pool, &method), 0);
			EXPECT_EQ(method.id, AMQP_BASIC_PUBLISH_METHOD);
		} else if (i == 1) {
			EXPECT_EQ(ew_amqp_frame_content(&frame, pool, &properties, &body_bytes), 0);
			EXPECT_EQ(body_bytes, message->body_bytes);
			EXPECT_EQ(properties->headers.num_entries, 1);
			EXPECT_EQ(properties->delivery_mode, 2);
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
	empty_amqp_pool(&pool);
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

static amqp_table_entry_t entry_of(const char *name, uint8_t kind)
{
	return (amqp_table_entry_t){ .key = amqp_cstring_bytes(name), .value.kind = kind };
}

TEST(amqp_delivery_has_texts_and_numbers_and_leaves_the_rest_out)
{
	amqp_table_entry_t entries[] = {
		entry_of("text", AMQP_FIELD_KIND_UTF8), entry_of("nul", AMQP_FIELD_KIND_UTF8),
		entry_of("byte", AMQP_FIELD_KIND_I8),	entry_of("long", AMQP_FIELD_KIND_I64),
		entry_of("most", AMQP_FIELD_KIND_U64),	entry_of("float", AMQP_FIELD_KIND_F64),
	};
	amqp_basic_properties_t properties = {
		._flags = AMQP_BASIC_HEADERS_FLAG | AMQP_BASIC_CORRELATION_ID_FLAG |
			  AMQP_BASIC_REPLY_TO_FLAG,
		.headers = { 6, entries },
		.correlation_id = { 3, (void *)"a\0b" },
		.reply_to = amqp_cstring_bytes("back"),
	};
	const amqp_basic_deliver_t deliver = { .delivery_tag = 9,
					       .routing_key = amqp_cstring_bytes("key") };
	struct ew_amqp_delivery *delivery = NULL;
	const struct ew_amqp_message *message;

	entries[0].value.value.bytes = amqp_cstring_bytes("said");
	entries[1].value.value.bytes = (amqp_bytes_t){ 2, (void *)"x\0" };
	entries[2].value.value.i8 = -128;
	entries[3].value.value.i64 = INT64_MIN;
	entries[4].value.value.u64 = UINT64_MAX;
	EXPECT_EQ(ew_amqp_delivery_new(&deliver, false, &delivery), 0);
	EXPECT_EQ(ew_amqp_delivery_describe(delivery, &properties, 5, 4), 0);
	message = &delivery->message;
	EXPECT_EQ(message->headers_count, 4);
	EXPECT_STR(ew_amqp_header_find(message, "text"), "said");
	EXPECT_STR(ew_amqp_header_find(message, "byte"), "-128");
	EXPECT_STR(ew_amqp_header_find(message, "long"), "-9223372036854775808");
	EXPECT_STR(ew_amqp_header_find(message, "most"), "18446744073709551615");
	EXPECT(!ew_amqp_header_find(message, "nul"));
	EXPECT(!ew_amqp_header_find(message, "float"));
	EXPECT(!message->correlation_id);
	EXPECT_STR(message->reply_to, "back");
	EXPECT_STR(message->routing_key, "key");
	EXPECT(!message->message_id);
	EXPECT(delivery->too_large);
	EXPECT(!message->body);
	EXPECT_EQ(message->body_bytes, 5);
	EXPECT_EQ(delivery->tag, 9);
	ew_abort(&delivery);
}

TEST_MAIN()
