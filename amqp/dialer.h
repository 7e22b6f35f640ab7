/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * amqp/dialer.h - AMQP 0-9-1 client: a connection to one of several brokers, and the next one when it is lost
 *
 *	while ((r = ew_amqp_dial(&dialer, &scope, &error, &connection)) != -ECANCELED) {
 *		if (r < 0)
 *			log(error.text);
 *		else
 *			work_until_it_is_lost(&connection);	// ew_amqp_connection_wait() says when
 *	}
 */

#include "amqp/connection.h"

/**
 * struct ew_amqp_endpoint - an address of a broker
 * @server_name: what its certificate must be for; NULL: that of the options
 */
struct ew_amqp_endpoint {
	const struct sockaddr *address;
	socklen_t address_bytes;
	const char *server_name;
};

/**
 * struct ew_amqp_dialer - caller's memory, for one task; zero means the default in parentheses
 * @endpoints, @endpoints_count: brokers that do the same, at least one; borrowed
 * @options:                     for each connection; borrowed; NULL for defaults
 * @attempt_timeout_ns:          for one attempt (10 s)
 * @delay_min_ns, @delay_max_ns: between two rounds over all endpoints that came to nothing: the first and the longest
 *                               delay (100 ms, 10 s); twice as long each time, less up to a half by chance
 */
struct ew_amqp_dialer {
	const struct ew_amqp_endpoint *endpoints;
	unsigned endpoints_count;
	const struct ew_amqp_options *options;
	int64_t attempt_timeout_ns;
	int64_t delay_min_ns;
	int64_t delay_max_ns;
	/* -- private from here -- */
	unsigned next;	   /* endpoint */
	unsigned failures; /* since a connection was made that lasted */
	int64_t delay_ns;  /* the last one */
	int64_t opened_ns; /* the last connection; 0: none since the last failure */
};

/**
 * ew_amqp_dial() - one attempt, at the endpoint whose turn it is, after the delay that is due
 *
 * An endpoint that fails passes the turn on; one that has worked keeps it. A connection that did not last for
 * delay_max_ns counts as a failure at the next call: a broker that takes everybody in and throws everybody out is not
 * called without a pause. One that lasted and was of no use is ew_amqp_dialer_pass()'s.
 * Suspends:     for the delay, and for the attempt.
 * Errors:       as ew_amqp_connection_open(); -ETIMEDOUT the broker did not answer in time. -ECANCELED, and only
 *               that, means that nobody wants it any more.
 */
EW_SUSPENDS int ew_amqp_dial(struct ew_amqp_dialer *dialer, struct ew_scope *scope,
			     struct ew_amqp_error *ret_error,
			     struct ew_amqp_connection **ret_connection);

#define ew_amqp_dial(...) (ew__here(EW_SITE("ew_amqp_dial")), ew_amqp_dial(__VA_ARGS__))

/**
 * ew_amqp_dialer_pass() - the last connection was of no use, however long it lasted: a failure at the next call
 *
 * For a broker that keeps the connection, and does not answer what is asked on it.
 */
void ew_amqp_dialer_pass(struct ew_amqp_dialer *dialer);
