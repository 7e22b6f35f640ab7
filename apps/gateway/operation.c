/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A worker's word counts only for the claim that was granted, because an earlier claim of the same operation may still
 * talk. A claim that comes again, as redelivered, takes the place of the earlier one: whoever had that is over. One that
 * is not redelivered is of a message that was there twice, and is refused.
 */
#include "operation.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include <endwell/clock.h>

#include "common/hash.h"

#include "gateway.h"

struct table_slot {
	uint64_t generation;
	struct operation *operation;
	uint32_t next_free;
};

static void operation_abort(void *resource)
{
	struct operation *operation = resource;

	ew_assert(operation->token.generation == 0);
	/* One that was never published ends here, and nothing was said of it. */
	if (operation->record->stream)
		operation->record->stream->ended = true;
	record_forgo(&operation->route->gateway->records, operation->record);
	record_put(operation->record);
	ew_permit_release(&operation->permit);
	ew_permit_release(&operation->own_permit);
	tenant_drop(operation->tenant);
	ew_resource_deinit(&operation->resource);
	ew_abort(&operation->result);
	body_abort(&operation->body);
	free(operation);
}

static int operation_close(void *resource)
{
	struct operation *operation = resource;

	/* What else may fail there has been said, and is tried again. */
	if (body_close(&operation->body) == -ECANCELED)
		return -ECANCELED;
	operation_abort(resource);
	return 0;
}

static const struct ew_resource_type operation_type = {
	.name = "operation",
	.close = operation_close,
	.abort = operation_abort,
};

int operation_new(struct route *route, struct operation **ret_operation)
{
	struct operation *operation = calloc(1, sizeof(*operation));

	if (!operation)
		return -ENOMEM;
	operation->record = record_new(&route->gateway->records, route);
	if (!operation->record) {
		free(operation);
		return -ENOMEM;
	}
	operation->id = operation->record->id;
	operation->route = route;
	operation->began_ns = ew_now();
	ew_resource_init(&operation->resource, &operation_type, EW_SITE("operation_new"));
	*ret_operation = operation;
	return 0;
}

int table_init(struct table *table, uint32_t capacity)
{
	*table = (struct table){ .capacity = capacity };
	table->slots = calloc(capacity, sizeof(*table->slots));
	if (!table->slots)
		return -ENOMEM;
	arc4random_buf(&table->epoch, sizeof(table->epoch));
	for (uint32_t i = 0; i < capacity; i++)
		table->slots[i] = (struct table_slot){ .generation = 1, .next_free = i + 1 };
	return 0;
}

void table_deinit(struct table *table)
{
	ew_assert(table->used == 0);
	free(table->slots);
	table->slots = NULL;
}

void table_enter(struct table *table, struct operation *operation)
{
	struct table_slot *slot = &table->slots[table->free];

	ew_assert(table->free < table->capacity);
	operation->token = (struct token){ .epoch = table->epoch,
					   .slot = table->free,
					   .generation = slot->generation };
	token_print(&operation->token, operation->correlation);
	slot->operation = operation;
	table->free = slot->next_free;
	table->used++;
}

void table_leave(struct table *table, struct operation *operation)
{
	struct table_slot *slot = &table->slots[operation->token.slot];

	if (operation->token.generation == 0)
		return;
	ew_assert(slot->operation == operation);
	slot->operation = NULL;
	slot->generation++;
	slot->next_free = table->free;
	table->free = operation->token.slot;
	table->used--;
	operation->token.generation = 0;
}

void table_enter_again(struct table *table, struct operation *operation)
{
	table_leave(table, operation);
	table_enter(table, operation);
}

struct operation *table_at(const struct table *table, uint32_t slot)
{
	return table->slots[slot].operation;
}

struct operation *table_find(const struct table *table, const char *correlation)
{
	struct token token;

	if (!token_read(correlation, &token) || token.epoch != table->epoch ||
	    token.slot >= table->capacity ||
	    table->slots[token.slot].generation != token.generation)
		return NULL;
	return table_at(table, token.slot);
}

static bool copy(const char *from, char *to, size_t bytes)
{
	if (!from || !*from || strlen(from) >= bytes)
		return false;
	strcpy(to, from);
	return true;
}

bool claim_read(const struct ew_amqp_message *message, struct claim *ret_claim)
{
	return copy(message->reply_to, ret_claim->address, sizeof(ret_claim->address)) &&
	       copy(ew_amqp_header_find(message, "x-ew-claim"), ret_claim->token,
		    sizeof(ret_claim->token));
}

static bool is_redelivered(const struct ew_amqp_message *message)
{
	const char *value = ew_amqp_header_find(message, "x-ew-redelivered");

	return value && strcmp(value, "1") == 0;
}

/* The newest one; of those before it enough is kept to know them again. */
static void take_claim(struct operation *operation, const struct claim *claim)
{
	const char *before = operation->claim.token;

	if (*before)
		operation->claims_before[operation->attempt % CLAIMS_KNOWN] = hash_text(0, before);
	operation->claim = *claim;
	operation->attempt++;
}

/* Of one that is presumed, or about to be, and comes again or at last. Whoever needs no grant works on it already. */
static enum heard hear_claim_afterwards(struct operation *operation, const struct claim *claim)
{
	if (outcome_is_proof(operation->outcome))
		return HEARD_REFUSE;
	if (!operation->route->config->grant_none)
		return HEARD_REFUSE_LAST;
	take_claim(operation, claim);
	operation->started = true;
	return HEARD_STOP;
}

/* What comes from a queue may come twice, and in the order in which it came before. */
static bool is_known(const struct operation *operation, const struct claim *claim)
{
	uint64_t hash = hash_text(0, claim->token);

	if (strcmp(operation->claim.token, claim->token) == 0)
		return true;
	for (size_t i = 0; i < CLAIMS_KNOWN; i++)
		if (operation->claims_before[i] == hash)
			return true;
	return false;
}

static enum heard hear_claim(struct operation *operation, const struct ew_amqp_message *message)
{
	struct claim claim;

	if (!claim_read(message, &claim))
		return HEARD_MALFORMED;
	if (operation && is_known(operation, &claim))
		return HEARD_DUPLICATE;
	if (!operation || (operation->claim.token[0] && !is_redelivered(message)))
		return HEARD_REFUSE;
	if (operation->outcome != OUTCOME_NONE)
		return hear_claim_afterwards(operation, &claim);
	take_claim(operation, &claim);
	operation->claim_due = true;
	operation->unknown = false;
	operation->sequence = 0;
	operation->started = operation->route->config->grant_none;
	ew_event_set(&operation->news);
	return HEARD_NEWS;
}

/* What an end says; NONE: it is no end */
static enum outcome end_of(const char *type)
{
	static const struct {
		const char *type;
		enum outcome outcome;
	} ends[] = {
		{ "reply", OUTCOME_REPLIED },
		{ "not-started", OUTCOME_NOT_STARTED },
		{ "stopped", OUTCOME_STOPPED },
		{ "too-late", OUTCOME_TOO_LATE },
	};

	for (size_t i = 0; i < sizeof(ends) / sizeof(ends[0]); i++)
		if (strcmp(type, ends[i].type) == 0)
			return ends[i].outcome;
	return OUTCOME_NONE;
}

static enum heard hear_end(struct operation *operation, enum outcome outcome)
{
	if (operation->presumed) {
		operation->outcome = outcome;
		return HEARD_PROOF;
	}
	if (outcome_is_proof(operation->outcome))
		return HEARD_LATE;
	operation->outcome = outcome;
	if (operation->saying)
		ew_scope_cancel(operation->saying, EW_REASON_REQUESTED);
	ew_event_set(&operation->news);
	return outcome_has_result(outcome) ? HEARD_RESULT : HEARD_NEWS;
}

/* No end, but nobody need wait for one. */
static enum heard hear_unknown(struct operation *operation)
{
	operation->unknown = true;
	ew_event_set(&operation->news);
	return HEARD_UNKNOWN;
}

/* False: there is none, or it is no number from 1 on. */
static bool sequence_read(const struct ew_amqp_message *message, uint64_t *ret_sequence)
{
	const char *text = ew_amqp_header_find(message, "x-ew-sequence");

	if (!text || !*text || strlen(text) > 18 || strspn(text, "0123456789") != strlen(text))
		return false;
	*ret_sequence = strtoull(text, NULL, 10);
	return *ret_sequence > 0;
}

/* Progress and parts of a claim are numbered together, from 1; progress may have no number. */
static enum heard hear_part(struct operation *operation, const struct ew_amqp_message *message,
			    enum heard heard)
{
	bool numbered = ew_amqp_header_find(message, "x-ew-sequence") != NULL;
	uint64_t sequence = 0;

	if (operation->outcome != OUTCOME_NONE)
		return operation->presumed && operation->claim_due ? HEARD_STOP : HEARD_LATE;
	if (heard == HEARD_PROGRESS && !numbered)
		return heard;
	if (!sequence_read(message, &sequence))
		return HEARD_MALFORMED;
	if (sequence <= operation->sequence)
		return HEARD_DUPLICATE;
	if (sequence > operation->sequence + 1)
		return HEARD_GAP;
	operation->sequence = sequence;
	return heard;
}

/* A grant starts what the worker has: one that says the id of another operation has another one. */
static bool is_claim_of(const struct operation *operation, const struct ew_amqp_message *message)
{
	return operation &&
	       (!message->message_id || strcmp(message->message_id, operation->id) == 0);
}

enum heard operation_hear(struct operation *operation, const struct ew_amqp_message *message)
{
	const char *type = message->type ? message->type : "";
	const char *token = ew_amqp_header_find(message, "x-ew-claim");
	enum outcome end = end_of(type);

	if (strcmp(type, "claim") == 0)
		return hear_claim(is_claim_of(operation, message) ? operation : NULL, message);
	if (end == OUTCOME_NONE && strcmp(type, "progress") != 0 && strcmp(type, "part") != 0 &&
	    strcmp(type, "unknown") != 0)
		return HEARD_MALFORMED;
	if (!operation || !token || !*token || !operation->started ||
	    strcmp(token, operation->claim.token) != 0)
		return HEARD_LATE;
	if (end != OUTCOME_NONE)
		return hear_end(operation, end);
	if (strcmp(type, "unknown") == 0)
		return hear_unknown(operation);
	return hear_part(operation, message,
			 strcmp(type, "part") == 0 ? HEARD_PART : HEARD_PROGRESS);
}
