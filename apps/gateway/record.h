/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * What is known of an operation by its id, while it lives and for a while afterwards: for GET and DELETE /ops/ID. The
 * newest RECORDS_MAX that have ended are remembered, with results and events of at most RECORD_BYTES_MAX.
 */

#include <endwell/event.h>
#include <endwell/scope.h>

#include "amqp/message.h"

#include "outcome.h"
#include "stream.h"
#include "token.h"

#define RECORDS_MAX	 1024
#define RECORD_BYTES_MAX (64 << 20)

#define RECORD_DIGEST_BYTES 32	/* SHA-256 */
#define RECORD_KEY_BYTES    256 /* of an Idempotency-Key, NUL included */

struct route;

/**
 * struct record - one; belongs to whoever holds it
 * @scope:     that a cancel of the operation cancels; NULL: none just now
 * @cancelled: somebody has asked for it
 * @running:   it has a permit
 * @keep:      its result is to be remembered
 * @key:       Idempotency-Key; NULL: none, or no longer
 * @digest:    of the body that came with it
 * @result:    NULL: there is none, or nobody was to keep it
 * @stream:    its events; NULL: nobody has asked for any
 * @ended:     set at the end
 */
struct record {
	char id[ID_BYTES];
	struct route *route;
	struct ew_scope *scope;
	bool cancelled;
	bool running;
	bool keep;
	char *key;
	uint8_t digest[RECORD_DIGEST_BYTES];
	enum outcome outcome;
	int64_t cancel_ns; /* what the cancel took */
	struct ew_amqp_delivery *result;
	struct stream *stream;
	struct ew_event ended;
	/* -- private from here -- */
	unsigned int holders;
	bool forgotten;		 /* out of the table, though somebody holds it */
	struct record *next;	 /* in its bucket */
	struct record *next_key; /* in its bucket by the key */
	struct record *newer;	 /* of those that have ended */
};

#define RECORD_BUCKETS 4096

struct records {
	struct record *buckets[RECORD_BUCKETS];
	struct record *keys[RECORD_BUCKETS];
	struct record *oldest;
	struct record *newest;
	size_t count;
	size_t bytes;
	uint64_t seed; /* of the keys' hash */
};

/* One for a new operation, held; NULL without memory */
struct record *record_new(struct records *records, struct route *route);

/* Held by one more; NULL: there is none of this id */
struct record *record_find(struct records *records, const char *id, size_t bytes);

/* Held by one more; NULL: no operation of this route has this key. */
struct record *record_find_key(struct records *records, const struct route *route, const char *key);

/* From now on the key finds this one, whose result is remembered for it; another that has it loses it. -ENOMEM */
int record_set_key(struct records *records, struct record *record, const char *key,
		   const uint8_t digest[RECORD_DIGEST_BYTES]);

/* Held by one more */
void record_hold(struct record *record);

/* Held by one less; NULL is a no-op */
void record_put(struct record *record);

/* The same, as the endings of a guard */
int record_hold_close(void *record);
void record_hold_abort(void *record);

/**
 * record_end() - the operation has ended; idempotent
 * @result: taken if it is kept
 */
void record_end(struct records *records, struct record *record, enum outcome outcome,
		int64_t cancel_ns, struct ew_amqp_delivery **result);

/*
 * Nothing was begun, and nothing will be: its key is free, and it pushes out none that is remembered. One that somebody has
 * cancelled is, for whoever asks again. No-op if it has ended.
 */
void record_forgo(struct records *records, struct record *record);

/* One whose outcome was no proof has one after all. @result: the word itself; taken as above if it is a result; or NULL */
void record_prove(struct records *records, struct record *record, enum outcome outcome,
		  struct ew_amqp_delivery **result);

/* Ask the operation to end; the end still comes. */
void record_cancel(struct record *record);

/* From now on @scope is what a cancel cancels; at once, if somebody has asked before. A guard declared behind it leaves it. */
void record_enter(struct record *record, struct ew_scope *scope);

/* It is no more what a cancel cancels: the endings of that guard, so that this comes before the scope's end on every way out. */
int record_leave_close(void *record);
void record_leave(void *record);

/* Forgets those that have ended. */
void records_deinit(struct records *records);
