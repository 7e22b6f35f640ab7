/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* The broker: connected, connected again, what comes from it, and what is said to workers. */

#include "gateway.h"

/* When what the broker did not take is said again. */
#define BROKER_SAY_AGAIN (50 * EW_MILLISECOND)

/* The task that keeps the connection; ends with a cancel only. @gateway is a struct gateway */
EW_SUSPENDS int broker_run(void *gateway);

/* Why the route takes nothing now, as a sentence; NULL: it does. @ret_blocked: the broker is there, but full */
const char *broker_trouble(const struct route *route, bool *ret_blocked);

/* Why what was in flight on the route is lost. */
const char *broker_loss(const struct route *route);

/* Whether there is a connection that has not ended; a route's channel may end alone. */
bool broker_is_connected(const struct gateway *gateway);

/* Wait until the route's channel is open. -ECANCELED */
EW_SUSPENDS int broker_await(struct route *route);

/**
 * broker_publish() - publish an operation, the first time or again, and hear what the broker says
 * As ew_amqp_publish(); -ENOTCONN: not sent
 */
EW_SUSPENDS int broker_publish(struct operation *operation, struct ew_amqp_receipt *ret_receipt);

/**
 * broker_say() - say something to a worker
 * @door: one of the gateway's; each has one message about an operation at a time
 * @type: "grant", "refuse", "cancel"
 *
 * Errors: -EHOSTUNREACH the worker has gone; those of ew_amqp_publish(), -ENOTCONN
 */
EW_SUSPENDS int broker_say(struct door *door, const char *type, const struct claim *newest,
			   const char *correlation, const char *id);

/*
 * Refuse, or cancel, the claim of one that has ended, or is about to, before its worker was told; when the broker takes it,
 * after a lost connection too. If it is lost on its way, the claim is due again. Never waits.
 */
void broker_answer_later(struct operation *operation);
