/* SPDX-License-Identifier: Apache-2.0 */

#include "record.h"

#include <stdlib.h>
#include <string.h>

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

void record_put(struct record *record)
{
	if (!record || --record->holders > 0)
		return;
	ew_abort(&record->result);
	free(record);
}

static void forget_oldest(struct records *records)
{
	struct record *record = records->oldest, **link = bucket_of(records, record->id);

	while (*link != record)
		link = &(*link)->next;
	*link = record->next;
	records->oldest = record->newer;
	if (!records->oldest)
		records->newest = NULL;
	records->count--;
	if (record->result)
		records->bytes -= record->result->message.body_bytes;
	record_put(record);
}

static void remember(struct records *records, struct record *record)
{
	if (records->newest)
		records->newest->newer = record;
	else
		records->oldest = record;
	records->newest = record;
	records->count++;
	if (record->result)
		records->bytes += record->result->message.body_bytes;
	while (records->count > RECORDS_MAX || records->bytes > RECORD_BYTES_MAX)
		forget_oldest(records);
}

void record_end(struct records *records, struct record *record, enum outcome outcome,
		int64_t cancel_ns, struct ew_amqp_delivery **result)
{
	if (ew_event_is_set(&record->ended))
		return;
	record->outcome = outcome;
	record->cancel_ns = cancel_ns;
	record->scope = NULL;
	if (record->keep) {
		record->result = *result;
		*result = NULL;
	}
	ew_event_set(&record->ended);
	remember(records, record);
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
	if (scope && record->cancelled)
		record_cancel(record);
}

void records_deinit(struct records *records)
{
	while (records->oldest)
		forget_oldest(records);
}
