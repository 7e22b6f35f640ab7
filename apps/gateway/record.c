/* SPDX-License-Identifier: Apache-2.0 */

#include "record.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "common/hash.h"

static struct record **bucket_of(struct records *records, const char *id)
{
	char digits[4] = { id[0], id[1], id[2] };

	return &records->buckets[strtoul(digits, NULL, 16) % RECORD_BUCKETS];
}

struct record *record_new(struct records *records, struct route *route)
{
	struct record *record = calloc(1, sizeof(*record)), **bucket;

	if (!record)
		return NULL;
	id_make(record->id);
	record->route = route;
	if (records->seed == 0)
		arc4random_buf(&records->seed, sizeof(records->seed));
	record->holders = 2; /* its operation, and the table */
	bucket = bucket_of(records, record->id);
	record->next = *bucket;
	*bucket = record;
	return record;
}

struct record *record_find(struct records *records, const char *id, size_t bytes)
{
	struct record *record;

	if (!id_is(id, bytes))
		return NULL;
	record = *bucket_of(records, id);
	while (record && memcmp(record->id, id, bytes) != 0)
		record = record->next;
	if (record)
		record->holders++;
	return record;
}

void record_hold(struct record *record)
{
	record->holders++;
}

void record_put(struct record *record)
{
	if (!record || --record->holders > 0)
		return;
	ew_abort(&record->result);
	stream_free(record->stream);
	free(record->key);
	free(record);
}

int record_hold_close(void *record)
{
	record_put(record);
	return 0;
}

void record_hold_abort(void *record)
{
	record_put(record);
}

static struct record **key_bucket_of(struct records *records, const char *key)
{
	uint64_t hash = hash_text(records->seed, key);

	return &records->keys[(hash >> 32 ^ hash) % RECORD_BUCKETS];
}

static struct record **key_link_of(struct records *records, const struct route *route,
				   const char *key)
{
	struct record **link = key_bucket_of(records, key);

	while (*link && ((*link)->route != route || strcmp((*link)->key, key) != 0))
		link = &(*link)->next_key;
	return link;
}

struct record *record_find_key(struct records *records, const struct route *route, const char *key)
{
	struct record *record = *key_link_of(records, route, key);

	if (record)
		record->holders++;
	return record;
}

static void drop_key(struct records *records, struct record *record)
{
	struct record **link;

	if (!record->key)
		return;
	link = key_link_of(records, record->route, record->key);
	ew_assert(*link == record);
	*link = record->next_key;
	free(record->key);
	record->key = NULL;
}

int record_set_key(struct records *records, struct record *record, const char *key,
		   const uint8_t digest[RECORD_DIGEST_BYTES])
{
	struct record *other = *key_link_of(records, record->route, key), **bucket;
	char *copy = strdup(key);

	if (!copy)
		return -ENOMEM;
	if (other)
		drop_key(records, other);
	memcpy(record->digest, digest, sizeof(record->digest));
	record->key = copy;
	record->keep = true;
	bucket = key_bucket_of(records, key);
	record->next_key = *bucket;
	*bucket = record;
	return 0;
}

/* Neither its id nor its key finds it any more. */
static void forget(struct records *records, struct record *record)
{
	struct record **link = bucket_of(records, record->id);

	while (*link != record)
		link = &(*link)->next;
	*link = record->next;
	drop_key(records, record);
	record->forgotten = true;
	record_put(record);
}

/* Of one that is too large nothing was kept. */
static size_t bytes_of(const struct ew_amqp_delivery *result)
{
	return result->too_large ? 0 : result->message.body_bytes;
}

static void forget_oldest(struct records *records)
{
	struct record *record = records->oldest;

	records->oldest = record->newer;
	if (!records->oldest)
		records->newest = NULL;
	records->count--;
	if (record->result)
		records->bytes -= bytes_of(record->result);
	if (record->stream)
		records->bytes -= record->stream->bytes;
	forget(records, record);
}

static void keep_within_bounds(struct records *records)
{
	while (records->count > RECORDS_MAX || records->bytes > RECORD_BYTES_MAX)
		forget_oldest(records);
}

static void keep_result(struct records *records, struct record *record,
			struct ew_amqp_delivery **result)
{
	if (!record->keep || !result || !*result)
		return;
	record->result = *result;
	*result = NULL;
	records->bytes += bytes_of(record->result);
}

static void remember(struct records *records, struct record *record)
{
	if (records->newest)
		records->newest->newer = record;
	else
		records->oldest = record;
	records->newest = record;
	records->count++;
	keep_within_bounds(records);
}

void record_end(struct records *records, struct record *record, enum outcome outcome,
		int64_t cancel_ns, struct ew_amqp_delivery **result)
{
	if (ew_event_is_set(&record->ended))
		return;
	record->outcome = outcome;
	record->cancel_ns = cancel_ns;
	keep_result(records, record, result);
	ew_assert(!record->stream || record->stream->ended);
	if (record->stream)
		records->bytes += record->stream->bytes;
	ew_event_set(&record->ended);
	remember(records, record);
}

void record_forgo(struct records *records, struct record *record)
{
	if (ew_event_is_set(&record->ended))
		return;
	if (record->cancelled) {
		record_end(records, record, OUTCOME_UNSENT, 0, NULL);
		return;
	}
	record->outcome = OUTCOME_UNSENT;
	ew_event_set(&record->ended);
	forget(records, record);
}

void record_prove(struct records *records, struct record *record, enum outcome outcome,
		  struct ew_amqp_delivery **result)
{
	record->outcome = outcome;
	/* A worker's word that has no result is none. One that is forgotten already has nobody left to ask for it. */
	if (outcome_has_result(outcome) && !record->forgotten)
		keep_result(records, record, result);
	keep_within_bounds(records);
}

void record_cancel(struct record *record)
{
	record->cancelled = true;
	if (record->scope)
		ew_scope_cancel(record->scope, EW_REASON_REQUESTED);
}

void record_enter(struct record *record, struct ew_scope *scope)
{
	record->scope = scope;
	if (record->cancelled)
		record_cancel(record);
}

void record_leave(void *argument)
{
	struct record *record = argument;

	record->scope = NULL;
}

int record_leave_close(void *record)
{
	record_leave(record);
	return 0;
}

void records_deinit(struct records *records)
{
	while (records->oldest)
		forget_oldest(records);
}
