/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

#include "gateway.h"

/* POST /ops/ROUTE */
EW_SUSPENDS int submit(struct gateway *gateway, struct http_request *request);

/* The task that sends away who waits for a permit while the broker takes nothing. @gateway is a struct gateway */
EW_SUSPENDS int submit_watch(void *gateway);

/* The worker's result of an operation, as a response; @replayed: not for the first time */
EW_SUSPENDS int submit_say_result(struct gateway *gateway, struct http_request *request,
				  const struct record *record,
				  const struct ew_amqp_delivery *result, bool replayed);
