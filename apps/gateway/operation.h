/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * One operation, and the table in which messages find it. No I/O: what is heard is judged here, what is to be said is
 * said elsewhere.
 */

#include <endwell/event.h>
#include <endwell/semaphore.h>

#include "amqp/message.h"

#include "body.h"
#include "outcome.h"
#include "record.h"
#include "token.h"
#include "trace.h"

#define CLAIM_BYTES   129
#define ADDRESS_BYTES 256

/* What comes again from a queue is among so many: the broker delivers no more that are not acknowledged. */
#define CLAIMS_KNOWN 64

struct route;
struct tenant;

/* A worker's word that it has the operation. */
struct claim {
	char address[ADDRESS_BYTES]; /* its control queue */
	char token[CLAIM_BYTES];     /* "": there is none */
};

/**
 * struct operation - one; belongs to a place of the task that serves it, and to the table when it is presumed
 * @record:      what is known of it by its id; outlives it
 * @tenant:      whose it is; NULL: the route has none
 * @permit:      of the route; NULL: not admitted, or given back
 * @own_permit:  of the tenant, with it
 * @claim:       the newest one
 * @claims_before: hashes of the tokens of those before it
 * @claim_due:   it has not been answered yet; or is not known to have been cancelled, though nobody wants it any more
 * @started:     the worker may have started: it was granted, or needs no grant
 * @confirming:  it is being published, and while nobody has claimed it that may be repeated
 * @adrift:      the broker was lost before it confirmed, and it has not been published again: nobody can be heard about it
 * @publications: of its message that were sent
 * @unknown:     its worker has said that it cannot tell whether it is over
 * @cancelling:  nobody wants it any more
 * @outcome:     not NONE: the end
 * @result:      of outcome_has_result()
 * @saying:      a call that waits for the broker's confirm, and need not when the worker has said the end; NULL: none
 * @news:        something of the above has changed
 */
struct operation {
	struct ew_resource resource;
	const char *id; /* of its record */
	struct record *record;
	struct route *route;
	struct tenant *tenant;
	struct ew_permit *permit;
	struct ew_permit *own_permit;
	struct token token; /* generation 0: not in the table */
	char correlation[TOKEN_BYTES];

	char content_type[ADDRESS_BYTES];
	char trace[TRACE_BYTES]; /* traceparent */
	struct body body;

	struct claim claim;
	uint64_t claims_before[CLAIMS_KNOWN];
	bool claim_due;
	bool started;
	bool unknown;
	bool cancelling;
	bool published; /* or at least nobody knows that it was not */
	bool confirming;
	bool adrift;
	bool presumed;
	unsigned int publications;
	unsigned int attempt; /* claims so far that were not refused */
	uint64_t sequence;    /* of the newest part or progress of this one */
	enum outcome outcome;
	struct ew_amqp_delivery *result;
	struct ew_scope *saying;
	struct ew_event news;

	int64_t began_ns;
	int64_t deadline_ns;
	int64_t cancelled_ns;
	int64_t hold_end_ns;	 /* of one that is presumed */
	struct operation *newer; /* of those that are presumed, in order of their coming */
};

/* One with a new id, in an empty place. -ENOMEM */
int operation_new(struct route *route, struct operation **ret_operation);

struct table {
	uint64_t epoch;
	uint32_t capacity;
	uint32_t used;
	struct table_slot *slots;
	uint32_t free; /* the first free slot; capacity: none */
};

/* @capacity: as many as there are permits, so that there is always room. -ENOMEM */
int table_init(struct table *table, uint32_t capacity);
void table_deinit(struct table *table);

/* Gives it a token that no other operation has had. */
void table_enter(struct table *table, struct operation *operation);

/* As if it had just been entered: what is said with its token so far is about nobody. */
void table_enter_again(struct table *table, struct operation *operation);

/* From now on its token means nothing. One that is not in the table is a no-op. */
void table_leave(struct table *table, struct operation *operation);

/* Who is meant by a correlation id, which may be anything; NULL: nobody any more */
struct operation *table_find(const struct table *table, const char *correlation);

/* The operation of a slot; NULL: it is free. For looking at all of them. */
struct operation *table_at(const struct table *table, uint32_t slot);

/** enum heard - what is to be done about a message */
enum heard {
	HEARD_NEWS,	   /* the operation has it, and its task will act */
	HEARD_RESULT,	   /* the same, and the operation wants the delivery as its result */
	HEARD_REFUSE,	   /* a claim that nobody wants: to be refused */
	HEARD_REFUSE_LAST, /* the same, of one that is presumed: with the refusal nothing of it runs */
	HEARD_STOP, /* one that is presumed, and has started, is heard of and has not been told: to be cancelled */
	HEARD_PROOF, /* one that is presumed has ended after all */
	HEARD_PROGRESS,
	HEARD_PART,
	HEARD_GAP, /* something is missing before this: of the parts nothing whole can come any more */
	HEARD_DUPLICATE, /* has come before: counted, and nothing else */
	HEARD_UNKNOWN,	 /* the worker does not know; that is no proof */
	HEARD_LATE,	 /* counted, and nothing else */
	HEARD_MALFORMED, /* breaks the contract: counted, and nothing else */
};

/**
 * operation_hear() - judge a message about an operation, and note what it says
 * @operation: NULL: of nobody any more
 */
enum heard operation_hear(struct operation *operation, const struct ew_amqp_message *message);

/* Whether a message has a claim that can be answered; fills it in. */
bool claim_read(const struct ew_amqp_message *message, struct claim *ret_claim);
