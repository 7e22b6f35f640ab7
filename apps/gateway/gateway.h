/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * What all parts of the gateway share. One thread, one connection to the broker: nothing here is touched by another
 * thread, and nothing is locked.
 */

#include <stdatomic.h>

#include "amqp/channel.h"
#include "common/access.h"
#include "common/bucket.h"
#include "common/front.h"
#include "common/line.h"
#include "common/page.h"

#include "buckets.h"
#include "config.h"
#include "operation.h"
#include "options.h"
#include "tenant.h"

/**
 * struct door - a channel that comes and goes with the broker
 * @users: tasks that are in a call on it; it is not closed under them
 */
struct door {
	struct ew_amqp_channel *channel; /* NULL: closed */
	struct ew_event opened;
	unsigned int users;
	struct ew_event empty;
};

/**
 * struct waiter - a request in a waiting room
 * @wait:     what is cancelled to send it away
 * @is_shed:  it was sent away, because the broker takes nothing
 * @limit:    which one it ran into, if it got no permit
 * @blocked:  as broker_trouble() has said then
 * @trouble:  the same
 */
struct waiter {
	struct route *route;
	struct ew_scope *wait;
	bool is_shed;
	enum limit limit;
	bool blocked;
	char trouble[320];
	struct waiter *next;
	struct waiter **link;
};

/**
 * struct route - one, as it runs
 * @bucket:    for bodies that are large; NULL: there is none
 * @tenants:   those that the configuration names, and those that are there
 * @door:      where its operations go out and all answers come in: direct reply-to binds both to one channel
 * @reply_to:  where that is: direct reply-to, or a queue of this gateway's
 * @reason:    why that is closed
 * @ended:     operations by what became of them
 * @cancelled: the same, of those that were cancelled
 */
struct route {
	struct gateway *gateway;
	const struct route_config *config;
	struct ew_semaphore *permits;
	struct bucket *bucket;
	struct line line;
	struct tenant *tenants;
	struct door door;
	char reply_to[CONFIG_TEXT_BYTES];
	char reason[256];

	uint64_t shed;	       /* requests that got no permit, or found no broker */
	uint64_t shed_unnamed; /* of those, of tenants that have gone */
	uint64_t unstored;     /* of those, whose bodies had no place */
	uint64_t gone;	       /* requests that were cancelled before their operation began */
	uint64_t ended[OUTCOME_COUNT];
	uint64_t cancelled[OUTCOME_COUNT];
	uint64_t presumed_proved; /* free after all: by a late proof */
	uint64_t presumed_expired;
	uint64_t granted;
	uint64_t republished;
	struct histogram seconds;
	struct histogram cancel_seconds;
};

struct gateway {
	const struct options *options;
	struct front front;
	struct access access;
	struct table table;
	struct records records;
	struct ew_scope *detached; /* has the operations that run without their clients */
	struct route *routes;
	size_t routes_count;
	struct buckets buckets;

	/* the broker's side, see broker.c */
	struct ew_amqp_connection *connection; /* NULL: not connected */
	struct ew_amqp_connection **kept;      /* where it is owned; NULL: nowhere */
	char reason[320];		       /* then, why */
	struct door grants;
	struct door cancels;
	struct door refusals;
	struct ew_channel *notices; /* to claims that nobody waits for; NULL: nobody says them */

	unsigned int tenants_unnamed; /* that are there */

	struct waiter *waiters;
	struct ew_event waiters_some;

	struct operation *presumed; /* oldest first */
	struct operation **presumed_end;
	struct ew_event presumed_some;

	uint64_t heard_late;
	uint64_t heard_malformed;
	uint64_t heard_progress;
	uint64_t heard_parts;
	uint64_t heard_duplicate;
	uint64_t heard_unknown;
	uint64_t refused;	   /* or cancelled: claims that nobody waits for */
	uint64_t refusals_dropped; /* too many waited, or the broker was lost unconfirmed */
	uint64_t connected;
	_Atomic uint64_t answers[6]; /* by hundreds of the status */
	uint64_t cut;		     /* operations, by the end of the grace */
};
