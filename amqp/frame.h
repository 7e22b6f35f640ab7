/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * amqp/frame.h - AMQP 0-9-1 frames, without I/O
 * What is written goes into a buffer that grows; what is read is looked at where it lies. Of rabbitmq-c this uses the
 * functions that turn methods and properties into bytes and back, and nothing that knows of a connection.
 */

#include <amqp.h>
#include <amqp_framing.h>
#include <endwell/base.h>

struct ew_amqp_message;

#define EW_AMQP_PROTOCOL_HEADER	      "AMQP\0\0\x09\x01"
#define EW_AMQP_PROTOCOL_HEADER_BYTES 8
#define EW_AMQP_FRAME_OVERHEAD	      8 /* type, channel, size, and the end */

/** struct ew_amqp_frame - one frame as it came; borrows the bytes it was found in */
struct ew_amqp_frame {
	uint8_t type;
	uint16_t channel;
	const uint8_t *payload;
	size_t payload_bytes;
};

enum ew_amqp_parsed { EW_AMQP_PARTIAL, EW_AMQP_WHOLE, EW_AMQP_BAD };

/**
 * ew_amqp_frame_parse() - is there a frame at the start of @data?
 * @frame_bytes_max: a longer one is bad, and known as soon as its size has come
 * @ret_why:         of one that is bad, in words
 */
enum ew_amqp_parsed ew_amqp_frame_parse(const uint8_t *data, size_t bytes, size_t frame_bytes_max,
					struct ew_amqp_frame *ret_frame, const char **ret_why);

/**
 * ew_amqp_pool_recycle() - all that was decoded is gone; instead of recycle_amqp_pool()
 *
 * That one loses the page which amqp_pool_alloc() had no memory to note down (amqp_mem.c, 0.11.0).
 */
void ew_amqp_pool_recycle(amqp_pool_t *pool);

/** ew_amqp_pool_empty() - and so is its memory; instead of empty_amqp_pool() */
void ew_amqp_pool_empty(amqp_pool_t *pool);

/**
 * ew_amqp_frame_method() - decode a method frame; what it points to is the pool's
 *
 * The table in connection.start, the only one that a broker has to send, comes out empty.
 * Errors:  -EPROTO it is not one that a broker may send to us, or is cut; -ENOMEM
 */
int ew_amqp_frame_method(const struct ew_amqp_frame *frame, amqp_pool_t *pool,
			 amqp_method_t *ret_method);

#define EW_AMQP_METHOD_NAME_BYTES 64

/** ew_amqp_method_name() - of a method that was decoded, as the specification has it: "channel.open-ok" */
const char *ew_amqp_method_name(amqp_method_number_t id, char ret_name[EW_AMQP_METHOD_NAME_BYTES]);

/**
 * struct ew_amqp_content - a content header
 * @properties: the pool's; their headers come out empty
 * @headers:    the entries of that table, as they lie in the frame
 */
struct ew_amqp_content {
	amqp_basic_properties_t *properties;
	amqp_bytes_t headers;
	uint64_t body_bytes;
};

/** ew_amqp_frame_content() - decode a content header; otherwise as ew_amqp_frame_method() */
int ew_amqp_frame_content(const struct ew_amqp_frame *frame, amqp_pool_t *pool,
			  struct ew_amqp_content *ret_content);

/**
 * struct ew_amqp_output - bytes to be sent; zero-initialised is empty
 * @secret: something in it is nobody else's business: the memory is wiped when it is no longer needed
 */
struct ew_amqp_output {
	uint8_t *data;
	size_t bytes;
	size_t capacity;
	bool secret;
};

/** ew_amqp_output_clear() - nothing is in it any more */
void ew_amqp_output_clear(struct ew_amqp_output *output);

void ew_amqp_output_free(struct ew_amqp_output *output);

int ew_amqp_output_bytes(struct ew_amqp_output *output, const void *data, size_t bytes);

/**
 * ew_amqp_output_method() - append a method; with any error nothing is appended, also by those below
 * Errors:  -EMSGSIZE more than a frame of 4,096 bytes, which any peer takes, holds; -ENOMEM
 */
int ew_amqp_output_method(struct ew_amqp_output *output, unsigned channel, amqp_method_number_t id,
			  void *method);

int ew_amqp_output_heartbeat(struct ew_amqp_output *output);

/** ew_amqp_output_publish() - append basic.publish with all of its content */
int ew_amqp_output_publish(struct ew_amqp_output *output, unsigned channel,
			   const struct ew_amqp_message *message, size_t frame_bytes_max);

/** ew_amqp_publish_bytes() - no less than what ew_amqp_output_publish() will append */
size_t ew_amqp_publish_bytes(const struct ew_amqp_message *message, size_t frame_bytes_max);

/** ew_amqp_text() - a C string, or NULL, as rabbitmq-c has it */
amqp_bytes_t ew_amqp_text(const char *text);
