/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * amqp/delivery.h - deliveries, as the one who reads the connection makes them
 */

#include "amqp/frame.h"
#include "amqp/message.h"

/** ew_amqp_delivery_new() - begin one; ended by ew_abort() if the rest does not come */
int ew_amqp_delivery_new(const amqp_basic_deliver_t *deliver, bool no_ack,
			 struct ew_amqp_delivery **ret_delivery);

/** ew_amqp_delivery_describe() - its properties, and the room for its body, if that is not too large */
int ew_amqp_delivery_describe(struct ew_amqp_delivery *delivery,
			      const struct ew_amqp_content *content, size_t body_bytes_max);

/** ew_amqp_copy_text() - into @size bytes, with a NUL behind it; "" if it has a NUL in it */
void ew_amqp_copy_text(amqp_bytes_t bytes, char *ret_text, size_t size);

/** ew_amqp_copy_words() - the same for people, who see it in a log: control characters become question marks */
void ew_amqp_copy_words(amqp_bytes_t bytes, char *ret_text, size_t size);
