/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Every refusal says what to do about it: the table below pairs each problem with its remedy, and the text that goes out
 * is what happened, then the remedy. The words in `type` are part of the interface and never change.
 */
#include "answer.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const struct {
	const char *word;
	const char *title;
	const char *remedy;
	int status;
} problems[PROBLEM_COUNT] = {
	[PROBLEM_KEY] = { "bad-key", "This Idempotency-Key is not accepted",
			  "Use 1 to 255 bytes, in one header field.", 400 },
	[PROBLEM_TYPE] = { "bad-content-type", "This Content-Type is not accepted",
			   "Use at most 255 bytes: a message carries no more.", 400 },
	[PROBLEM_TENANT] = { "bad-tenant", "This name of a tenant is not accepted",
			     "Use 1 to 64 letters, digits, - _ . in one header field.", 400 },
	[PROBLEM_EVENT_ID] = { "bad-event-id", "This Last-Event-ID is none of the operation's",
			       "Send the id of the last event that came, or none.", 400 },
	[PROBLEM_ORIGIN] = { "foreign-origin", "Requests from this web page are not accepted",
			     "If the page is yours, start the gateway with --origin and its origin.",
			     403 },
	[PROBLEM_NOT_FOUND] = { "not-found", "There is nothing here",
				"Start an operation with POST /ops/ROUTE; the configuration names "
				"the routes.",
				404 },
	[PROBLEM_METHOD] = { "method-not-allowed", "This method does not work here",
			     "The Allow header names the methods that do.", 405 },
	[PROBLEM_CANCELLED] = { "cancelled", "The operation was cancelled",
				"Somebody has asked for it by DELETE /ops/ID, or the client that it was "
				"for has left.",
				409 },
	[PROBLEM_IN_FLIGHT] = { "in-flight", "An operation with this Idempotency-Key runs already",
				"Wait for it, or cancel it by DELETE /ops/ID.", 409 },
	[PROBLEM_GONE] = { "events-gone", "Events that are asked for are not kept any more",
			   "Ask from there on by Last-Event-ID, or for the result by GET "
			   "/ops/ID/result.",
			   410 },
	[PROBLEM_HOST] = { "unknown-host", "This server does not go by this host name",
			   "Use the address that the server listens on, or start it with --host "
			   "and the name.",
			   421 },
	[PROBLEM_KEY_BODY] = { "key-reused", "This Idempotency-Key came with another body",
			       "Choose a new key for a new operation.", 422 },
	[PROBLEM_TENANT_BUSY] = { "tenant-busy", "This tenant has more operations than it may have",
				  "Try again after the time in Retry-After.", 429 },
	[PROBLEM_INTERNAL] = { "internal", "Something went wrong in the gateway",
			       "No operation was started. Try again; the log says more.", 500 },
	[PROBLEM_STORAGE] = { "storage", "The body could not be stored",
			      "No operation was started. The log says more.", 500 },
	[PROBLEM_UNROUTABLE] = { "unroutable", "There is no queue for this operation",
				 "Nothing runs. Check exchange and routing key of the route, and "
				 "that the workers' queue is there.",
				 502 },
	[PROBLEM_UNKNOWN] = { "outcome-unknown", "Nobody can say what became of the operation",
			      "It may have run, or still run: repeat it only if running twice does "
			      "no harm.",
			      502 },
	[PROBLEM_STOPPED] = { "stopped", "The worker has stopped the operation",
			      "There is no result. Try again.", 502 },
	[PROBLEM_REPLY] = { "bad-reply", "The worker's reply cannot be passed on",
			    "The operation has run. Have the worker mended.", 502 },
	[PROBLEM_BUSY] = { "busy", "The route has more operations than it can take",
			   "Try again after the time in Retry-After.", 503 },
	[PROBLEM_SLOW] = { "slow-reader", "The events came faster than they were read",
			   "Some are lost to this client. Read faster, or give the route a larger "
			   "events_window.",
			   503 },
	[PROBLEM_BROKER] = { "broker-unavailable", "The broker cannot be reached",
			     "Nothing was started. Try again later; /readyz says why.", 503 },
	[PROBLEM_BLOCKED] = { "broker-blocked", "The broker takes no messages now",
			      "Nothing was started. Try again later: the broker is short of memory "
			      "or disk.",
			      503 },
	[PROBLEM_NOT_TAKEN] = { "not-taken", "The broker has not taken the operation",
				"Nothing runs. Try again later; the queue may be full.", 503 },
	[PROBLEM_DRAINING] = { "shutting-down", "The gateway is shutting down",
			       "Try again when it is back.", 503 },
	[PROBLEM_DEADLINE] = { "deadline", "The operation did not end in time",
			       "It is being cancelled at the backend. Allow it more time, or ask "
			       "for less.",
			       504 },
	[PROBLEM_NO_SPACE] = { "no-space", "The disk has no room for this body",
			       "No operation was started. Make room on the volume of the route's "
			       "bodies.",
			       507 },
};

const char *problem_title(enum problem problem)
{
	return problems[problem].title;
}

enum problem answer_problem_of(enum outcome outcome)
{
	switch (outcome) {
	case OUTCOME_RETURNED: return PROBLEM_UNROUTABLE;
	case OUTCOME_NACKED: return PROBLEM_NOT_TAKEN;
	case OUTCOME_UNSENT: return PROBLEM_BROKER;
	default: return outcome_is_proof(outcome) ? PROBLEM_STOPPED : PROBLEM_UNKNOWN;
	}
}

/* Three digits and nothing else: what is only nearly a number is not passed on as one. */
static int read_status(const char *text)
{
	return strlen(text) == 3 && strspn(text, "0123456789") == 3 ? atoi(text) : 0;
}

void answer_reply_fault(char ret_fault[REPLY_FAULT_BYTES], const struct route *route,
			const char *format, ...)
{
	va_list arguments;
	int used;

	used = snprintf(ret_fault, REPLY_FAULT_BYTES,
			"Of the route %s's worker: ", route->config->name);
	va_start(arguments, format);
	vsnprintf(ret_fault + used, REPLY_FAULT_BYTES - (size_t)used, format, arguments);
	va_end(arguments);
}

bool answer_reply_check(const struct route *route, const struct ew_amqp_delivery *result,
			int *ret_status, char ret_fault[REPLY_FAULT_BYTES])
{
	const char *text = ew_amqp_header_find(&result->message, "x-ew-status");

	*ret_status = text ? read_status(text) : 200;
	if (*ret_status < 200 || *ret_status > 599)
		answer_reply_fault(ret_fault, route,
				   "the header x-ew-status is \"%.64s\", not a number from 200 to "
				   "599.",
				   text);
	else if (result->too_large)
		answer_reply_fault(ret_fault, route,
				   "the body has %zu bytes, more than the largest body_max of all "
				   "routes.",
				   result->message.body_bytes);
	else
		return true;
	return false;
}

void answer_problem(struct answer *answer, enum problem problem, const char *detail, const char *id)
{
	char type[64], text[768];

	snprintf(type, sizeof(type), "urn:endwell:problem:%s", problems[problem].word);
	snprintf(text, sizeof(text), "%s%s%s", detail ? detail : "", detail ? " " : "",
		 problems[problem].remedy);
	answer_problem_json(answer,
			    &(struct http_problem){ .status = problems[problem].status,
						    .type = type,
						    .title = problems[problem].title,
						    .detail = text },
			    id ? json_pack("{s:s}", "id", id) : NULL);
}

/* @waiting: those that stand in line for it, also in front of another limit */
static json_t *permits_of(struct ew_semaphore *permits, int64_t waiting)
{
	struct ew_semaphore_counts counts = ew_semaphore_count(permits);

	ew_assert(counts.free + counts.held + counts.cancelling + counts.presumed ==
		  counts.capacity);
	return json_pack("{s:i, s:i, s:i, s:i, s:i, s:I}", "capacity", counts.capacity, "free",
			 counts.free, "held", counts.held, "cancelling", counts.cancelling,
			 "presumed", counts.presumed, "waiting", (json_int_t)waiting);
}

static json_t *permits_of_route(struct route *route)
{
	json_t *json = permits_of(route->permits, atomic_load(&route->line.waiting));
	json_t *tenants = route->config->tenant_header[0] ? json_object() : NULL;

	for (struct tenant *tenant = route->tenants; tenants && tenant; tenant = tenant->next)
		json_object_set_new(
			tenants, tenant->name,
			permits_of(tenant->permits, atomic_load(&tenant->line.waiting)));
	if (tenants)
		json_object_set_new(json, "tenants", tenants);
	return json;
}

void answer_permits(struct answer *answer, struct gateway *gateway)
{
	json_t *list = json_object();

	for (size_t i = 0; list && i < gateway->routes_count; i++)
		json_object_set_new(list, gateway->routes[i].config->name,
				    permits_of_route(&gateway->routes[i]));
	answer_json(answer, 200, json_pack("{s:o}", "routes", list));
}

static const char *state_of(const struct record *record)
{
	if (record->outcome == OUTCOME_NONE && record->cancelled)
		return "cancelling";
	if (record->outcome == OUTCOME_NONE)
		return record->running ? "running" : "waiting";
	return outcome_is_proof(record->outcome) ? "ended" : "presumed";
}

static json_t *status_of(const struct record *record)
{
	json_t *json = json_pack("{s:s, s:s, s:s}", "id", record->id, "route",
				 record->route->config->name, "state", state_of(record));

	if (json && record->outcome != OUTCOME_NONE)
		json_object_set_new(json, "outcome", json_string(outcome_name(record->outcome)));
	if (json && record->stream)
		json_object_set_new(json, "events", json_sprintf("/ops/%s/events", record->id));
	if (json && record->result)
		json_object_set_new(json, "result", json_sprintf("/ops/%s/result", record->id));
	return json;
}

void answer_status(struct answer *answer, const struct record *record)
{
	answer_json(answer, 200, status_of(record));
}

void answer_receipt(struct answer *answer, const struct record *record)
{
	const char *receipt = "acknowledged";

	if (outcome_has_result(record->outcome))
		receipt = "too-late";
	if (!outcome_is_proof(record->outcome))
		receipt = "presumed";
	answer_json(answer, 200,
		    json_pack("{s:s, s:s, s:s, s:s, s:I}", "id", record->id, "route",
			      record->route->config->name, "outcome", receipt, "answer",
			      outcome_name(record->outcome), "ms",
			      (json_int_t)(record->cancel_ns / EW_MILLISECOND)));
}

void answer_accepted(struct answer *answer, const struct record *record)
{
	answer_json(answer, 202, status_of(record));
	snprintf(answer->location, sizeof(answer->location), "/ops/%s", record->id);
}
