/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A request for an operation, whole: the route, its body, a permit, and then operation_serve(). What can be refused is
 * refused before the body, and looked at again behind the line for a permit.
 *
 * Nothing here waits for a client to leave. The request's scope is cancelled then, the call that happens to wait returns
 * -ECANCELED, and operation_serve() has cancelled the operation when it returns.
 */
#include "submit.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <endwell/clock.h>
#include <endwell/task.h>

#include "common/log.h"

#include "broker.h"
#include "events.h"
#include "permits.h"
#include "routes.h"
#include "serve.h"

#define BROKER_RETRY_SECONDS 2
#define LAST_ANSWER_BUDGET   EW_SECOND
#define LOOK_INTERVAL	     (20 * EW_MILLISECOND)

struct submission {
	struct gateway *gateway;
	struct http_request *request;
	int answered; /* result of the answer to one that failed; 1: there was none */
};

static struct route *find_route(struct gateway *gateway, struct http_slice path)
{
	static const char prefix[] = "/ops/";

	path.data += sizeof(prefix) - 1;
	path.len -= sizeof(prefix) - 1;
	for (size_t i = 0; i < gateway->routes_count; i++) {
		const char *name = gateway->routes[i].config->name;

		if (strlen(name) == path.len && memcmp(name, path.data, path.len) == 0)
			return &gateway->routes[i];
	}
	return NULL;
}

static int say_no_broker(struct submission *submission, const char *trouble, bool blocked,
			 const char *id)
{
	char detail[384];

	snprintf(detail, sizeof(detail), "What is known: %s.", trouble);
	return routes_problem(submission->gateway, submission->request,
			      blocked ? PROBLEM_BLOCKED : PROBLEM_BROKER, blocked ? NULL : detail,
			      id, BROKER_RETRY_SECONDS);
}

/* It will not begin. Before the answer: whoever has that may come again with the key. */
static void forgo(struct operation *operation)
{
	record_forgo(&operation->route->gateway->records, operation->record);
}

/* True, or the answer has been given and its result is in @ret_r. @operation: NULL: there is none yet */
static bool may_start(struct submission *submission, struct route *route,
		      struct operation *operation, int *ret_r)
{
	struct gateway *gateway = submission->gateway;
	bool blocked, draining = atomic_load(&gateway->front.draining);
	const char *trouble = broker_trouble(route, &blocked);

	if (!draining && !trouble)
		return true;
	route->shed++;
	if (operation)
		forgo(operation);
	if (draining)
		*ret_r = routes_problem(gateway, submission->request, PROBLEM_DRAINING, NULL, NULL,
					BROKER_RETRY_SECONDS);
	else
		*ret_r = say_no_broker(submission, trouble, blocked, NULL);
	return false;
}

static bool has_fitting_type(const struct http_request *request)
{
	const struct http_slice *type = http_head_find(request->head, "Content-Type");

	return !type || type->len < sizeof(((struct operation *)NULL)->content_type);
}

/* The name of whose request it is. False: it is none, or there are several. */
static bool read_tenant(const struct http_request *request, const char *header,
			char ret_name[CONFIG_NAME_BYTES])
{
	const struct http_slice *value = http_head_find(request->head, header);

	strcpy(ret_name, TENANT_NOBODY);
	if (!value)
		return true;
	if (http_head_count(request->head, header) > 1 || !config_is_name(value->data, value->len))
		return false;
	memcpy(ret_name, value->data, value->len);
	ret_name[value->len] = '\0';
	return true;
}

static int say_no_tenant(struct submission *submission, struct route *route)
{
	char detail[96];

	route->shed++;
	snprintf(detail, sizeof(detail), "%d tenants are there that no section names.",
		 TENANTS_UNNAMED_MAX);
	return routes_problem(submission->gateway, submission->request, PROBLEM_BUSY, detail, NULL,
			      line_wait_seconds(&route->line));
}

/* What the message takes over from the request. */
static int read_request(struct http_request *request, struct operation *operation)
{
	const struct http_slice *type = http_head_find(request->head, "Content-Type");
	struct route *route = operation->route;

	if (type)
		memcpy(operation->content_type, type->data, type->len);
	trace_make(http_head_find(request->head, "traceparent"), operation->trace);
	request->body_bytes_max = (int64_t)route->config->body_max_bytes;
	return body_receive(&operation->body, request, route->bucket,
			    route->config->inline_body_bytes, operation->id);
}

/* Which limit it was: the answer's status, its words and its wait are of that one. */
static int say_busy(struct submission *submission, struct operation *operation, enum limit limit,
		    int r)
{
	struct route *route = operation->route;
	struct tenant *tenant = limit == LIMIT_TENANT ? operation->tenant : NULL;
	struct ew_semaphore_counts counts =
		ew_semaphore_count(tenant ? tenant->permits : route->permits);
	int seconds = line_wait_seconds(tenant ? &tenant->line : &route->line);
	char detail[320];

	forgo(operation);
	route->shed++;
	if (operation->tenant)
		operation->tenant->shed++;
	snprintf(detail, sizeof(detail),
		 "Of the %s %s %u of %u permits are taken, and %s; the wait is %d s at the moment.",
		 tenant ? "tenant" : "route", tenant ? tenant->name : route->config->name,
		 counts.capacity - counts.free, counts.capacity,
		 r == -EAGAIN ? "its waiting room is full"
			      : "the request's turn did not come in time",
		 seconds);
	return routes_problem(submission->gateway, submission->request,
			      tenant ? PROBLEM_TENANT_BUSY : PROBLEM_BUSY, detail, operation->id,
			      seconds);
}

/* Cancelled: by somebody who has asked for it, by a client that has left, or by the end of the grace. */
static int say_cut(struct submission *submission, struct operation *operation)
{
	if (!ew_cancel_requested() && operation->record->cancelled)
		return routes_problem(submission->gateway, submission->request, PROBLEM_CANCELLED,
				      NULL, operation->id, 0);
	if (ew_cancel_reason() != EW_REASON_SHUTDOWN)
		return -ECANCELED;

	EW_SHIELD(shield, .budget_ns = LAST_ANSWER_BUDGET);

	submission->gateway->cut++;
	return routes_problem(submission->gateway, submission->request, PROBLEM_DRAINING, NULL,
			      operation->id, BROKER_RETRY_SECONDS);
}

/* Nobody wants it any more, and it has not begun. */
static int give_up(struct submission *submission, struct operation *operation)
{
	forgo(operation);
	operation->route->gone++;
	return say_cut(submission, operation);
}

/* Its body has no place; or there was one, and nobody wants it any more. */
static int say_unstored(struct submission *submission, struct operation *operation, int r)
{
	enum problem problem = r == -ENOSPC || r == -EDQUOT ? PROBLEM_NO_SPACE : PROBLEM_STORAGE;
	char detail[96];

	if (r == -ECANCELED)
		return give_up(submission, operation);
	forgo(operation);
	operation->route->shed++;
	operation->route->unstored++;
	/* A disk may say that, too. */
	if (r == -ETIMEDOUT && !operation->body.is_unstored)
		return routes_problem(submission->gateway, submission->request, PROBLEM_DEADLINE,
				      "Its body was not stored in time, and nothing has begun.",
				      operation->id, 0);
	snprintf(detail, sizeof(detail), "%s.", strerror(-r));
	log_note("error", "body-not-stored", "%s: %s", operation->id, detail);
	return routes_problem(submission->gateway, submission->request, problem, detail,
			      operation->id, 0);
}

/* What became of one that has not ended well. */
static enum problem failure_of(const struct operation *operation, int r, char detail[384])
{
	*detail = '\0';
	if (r == -ECANCELED)
		return ew_cancel_requested() && ew_cancel_reason() == EW_REASON_SHUTDOWN
			       ? PROBLEM_DRAINING
			       : PROBLEM_CANCELLED;
	if (r == -ETIMEDOUT)
		return PROBLEM_DEADLINE;
	if (r == -EOWNERDEAD)
		snprintf(detail, 384, "The worker cannot tell whether all of it is over.");
	else if (r == -EREMOTEIO)
		snprintf(detail, 384,
			 "The broker has refused it, but one of several queues may have it.");
	else
		snprintf(detail, 384, "The broker was lost: %s.", broker_loss(operation->route));
	return PROBLEM_UNKNOWN;
}

/* Said before the time that cancelling it takes. */
static void say_failed(void *argument, struct operation *operation, int r)
{
	struct submission *submission = argument;
	enum problem problem;
	char detail[384];

	EW_SCOPE(patience, .deadline_ns = ew_after(LAST_ANSWER_BUDGET));

	if (r == -ECANCELED) {
		submission->answered = say_cut(submission, operation);
		return;
	}
	problem = failure_of(operation, r, detail);
	submission->answered = routes_problem(submission->gateway, submission->request, problem,
					      *detail ? detail : NULL, operation->id, 0);
}

int submit_say_result(struct gateway *gateway, struct http_request *request,
		      const struct record *record, const struct ew_amqp_delivery *result,
		      bool replayed)
{
	const struct ew_amqp_message *message = &result->message;
	const struct http_field fields[] = { { "X-Operation-Id", record->id },
					     { replayed ? "Idempotency-Replayed" : NULL, "true" },
					     {} };
	char fault[REPLY_FAULT_BYTES];
	int status, r = -EINVAL;

	if (answer_reply_check(record->route, result, &status, fault)) {
		r = http_respond(request, status, message->content_type, fields, message->body,
				 message->body_bytes);
		if (r != -EINVAL) {
			atomic_fetch_add(&gateway->answers[status / 100], 1);
			return r;
		}
		answer_reply_fault(fault, record->route,
				   "the content_type is \"%.64s\", no value of a header of HTTP.",
				   message->content_type);
	}
	return routes_problem(gateway, request, PROBLEM_REPLY, fault, record->id, 0);
}

static int say_outcome(struct submission *submission, struct operation *operation)
{
	struct gateway *gateway = submission->gateway;
	/* One that is remembered is the record's. */
	const struct ew_amqp_delivery *result =
		operation->record->result ? operation->record->result : operation->result;
	enum problem problem = answer_problem_of(operation->outcome);

	if (result)
		return submit_say_result(gateway, submission->request, operation->record, result,
					 false);
	return routes_problem(gateway, submission->request, problem, NULL, operation->id,
			      problem == PROBLEM_NOT_TAKEN || problem == PROBLEM_BROKER
				      ? BROKER_RETRY_SECONDS
				      : 0);
}

static int say_known(struct submission *submission, const struct record *record,
		     const uint8_t digest[RECORD_DIGEST_BYTES])
{
	struct gateway *gateway = submission->gateway;
	enum problem problem = PROBLEM_UNKNOWN;

	if (memcmp(record->digest, digest, RECORD_DIGEST_BYTES) != 0)
		problem = PROBLEM_KEY_BODY;
	else if (record->outcome == OUTCOME_NONE)
		problem = PROBLEM_IN_FLIGHT;
	else if (record->result)
		return submit_say_result(gateway, submission->request, record, record->result,
					 true);
	return routes_problem(gateway, submission->request, problem, NULL, record->id, 0);
}

/* Whether an operation that had the key has left it to the next one: nothing of it runs, and there is no result. */
static bool is_over_without_result(const struct record *record)
{
	return outcome_is_proof(record->outcome) && !record->result;
}

/* 1: the operation is to be served; else the answer has been given, and this is its result. */
static int check_known(struct submission *submission, struct operation *operation, const char *key,
		       const uint8_t digest[RECORD_DIGEST_BYTES])
{
	struct records *records = &submission->gateway->records;
	struct record *known = record_find_key(records, operation->route, key);
	int r;

	EW_GUARD(hold, known, .close = record_hold_close, .abort = record_hold_abort);

	if (known && !is_over_without_result(known))
		return say_known(submission, known, digest);
	r = record_set_key(records, operation->record, key, digest);
	return r < 0 ? r : 1;
}

static int check_key(struct submission *submission, struct operation *operation)
{
	static const char name[] = "Idempotency-Key";
	const struct http_head *head = submission->request->head;
	const struct http_slice *field = http_head_find(head, name);
	uint8_t digest[RECORD_DIGEST_BYTES];
	char key[CONFIG_NAME_BYTES + RECORD_KEY_BYTES] = "";
	int length = 0, r;

	if (!field)
		return 1;
	if (field->len == 0 || field->len >= RECORD_KEY_BYTES || http_head_count(head, name) > 1)
		return routes_problem(submission->gateway, submission->request, PROBLEM_KEY, NULL,
				      NULL, 0);
	/* A key is one of its tenant's: no name has a slash. */
	if (operation->tenant)
		length = sprintf(key, "%s/", operation->tenant->name);
	memcpy(key + length, field->data, field->len);
	r = body_digest(&operation->body, digest);
	if (r < 0)
		return r;
	return check_known(submission, operation, key, digest);
}

static void waiter_begin(struct gateway *gateway, struct waiter *waiter)
{
	waiter->link = &gateway->waiters;
	waiter->next = gateway->waiters;
	if (waiter->next)
		waiter->next->link = &waiter->next;
	gateway->waiters = waiter;
	ew_event_set(&gateway->waiters_some);
}

static void waiter_end(void *argument)
{
	struct waiter *waiter = argument;

	*waiter->link = waiter->next;
	if (waiter->next)
		waiter->next->link = waiter->link;
}

static int waiter_end_close(void *argument)
{
	waiter_end(argument);
	return 0;
}

static void shed_waiters(struct gateway *gateway)
{
	for (struct waiter *waiter = gateway->waiters; waiter; waiter = waiter->next) {
		const char *trouble = broker_trouble(waiter->route, &waiter->blocked);

		if (!trouble || waiter->is_shed)
			continue;
		waiter->is_shed = true;
		snprintf(waiter->trouble, sizeof(waiter->trouble), "%s", trouble);
		ew_scope_cancel(waiter->wait, EW_REASON_REQUESTED);
	}
}

int submit_watch(void *argument)
{
	struct gateway *gateway = argument;
	int r;

	for (;;) {
		r = gateway->waiters ? ew_sleep(LOOK_INTERVAL)
				     : ew_event_wait(&gateway->waiters_some, EW_NEVER);
		if (r < 0)
			return r;
		ew_event_reset(&gateway->waiters_some);
		shed_waiters(gateway);
	}
}

static int enter_line(struct operation *operation, struct waiter *waiter,
		      struct ew_permit **own_permit, struct ew_permit **permit, bool *ret_waited)
{
	int r;

	EW_SCOPE(wait);

	waiter->route = operation->route;
	waiter->wait = &wait;
	waiter_begin(operation->route->gateway, waiter);

	EW_GUARD(end, waiter, .close = waiter_end_close, .abort = waiter_end);
	EW_GUARD(leave, operation->record, .close = record_leave_close, .abort = record_leave);

	record_enter(operation->record, &wait);
	if (operation->tenant)
		r = tenant_line_enter(operation->tenant, operation->deadline_ns, own_permit, permit,
				      ret_waited, &waiter->limit);
	else
		r = line_enter(&operation->route->line, operation->deadline_ns, permit, ret_waited);
	return ew_scope_finish(&wait, r);
}

/* The broker takes nothing, and waiting is no use. */
static int say_shed(struct submission *submission, struct operation *operation,
		    const struct waiter *waiter)
{
	forgo(operation);
	operation->route->shed++;
	return say_no_broker(submission, waiter->trouble, waiter->blocked, operation->id);
}

static int admit(struct submission *submission, struct operation *operation)
{
	struct route *route = operation->route;
	struct waiter waiter = {};
	bool waited;
	int r;

	EW_OWN(ew_permit, own_permit);
	EW_OWN(ew_permit, permit);

	r = enter_line(operation, &waiter, &own_permit, &permit, &waited);
	if (waiter.is_shed && !ew_cancel_requested())
		return say_shed(submission, operation, &waiter);
	if (r == -ECANCELED)
		return give_up(submission, operation);
	if (r < 0)
		return say_busy(submission, operation, waiter.limit, r);
	if (waited && !may_start(submission, route, operation, &r))
		return r;
	operation->permit = permit;
	operation->own_permit = own_permit;
	permit = own_permit = NULL;
	operation->record->running = true;
	return 0;
}

/* To whoever reads its events, or asks for its state. */
static void say_failed_in_events(void *gateway, struct operation *operation, int r)
{
	char detail[384];
	enum problem problem = failure_of(operation, r, detail);

	events_fail(operation, problem, detail);
	if (r == -ECANCELED && ew_cancel_reason() == EW_REASON_SHUTDOWN)
		((struct gateway *)gateway)->cut++;
}

static int serve_detached(void *gateway, void *place)
{
	return operation_serve(place, say_failed_in_events, gateway);
}

static int detach(struct submission *submission, struct operation **operation)
{
	struct gateway *gateway = submission->gateway;
	struct record *record = (*operation)->record;
	const struct http_field fields[] = { { "X-Operation-Id", record->id },
					     { "Preference-Applied", "respond-async" },
					     {} };
	struct answer answer;
	int r = -ENOMEM;

	record->keep = true;
	answer_accepted(&answer, record);
	answer.fields = fields;
	/* What cannot be said is not begun, either. */
	if (answer.status == 202)
		r = ew_spawn_take(gateway->detached, serve_detached, gateway, operation);
	if (r == 0)
		return routes_answer(gateway, submission->request, &answer);
	answer_deinit(&answer);
	return routes_problem(gateway, submission->request, PROBLEM_INTERNAL, NULL, record->id, 0);
}

static bool wants_async(const struct http_request *request)
{
	return http_head_has_token(request->head, "Prefer", "respond-async");
}

/* One task serves the operation, and one the client: while that is slow, the first hears of the end and of a cancel. */
static int serve_events(struct submission *submission, struct operation **operation)
{
	struct events_writer writer = { .request = submission->request,
					.record = (*operation)->record,
					.cancels = true };
	int r, joined;

	record_hold(writer.record);

	EW_GUARD(hold, writer.record, .close = record_hold_close, .abort = record_hold_abort);
	EW_SCOPE(talk, .policy = EW_POLICY_INDEPENDENT);

	r = events_begin(&writer, submission->gateway);
	if (r == 0)
		r = ew_spawn(&talk, events_write, &writer);
	if (r < 0)
		return ew_scope_finish(&talk, r);
	r = operation_serve(operation, say_failed_in_events, submission->gateway);
	joined = ew_scope_join(&talk);
	return r < 0 ? r : joined;
}

/* The deadline ends it, and a cancel, unless a call to the disk has begun, or there is a name. */
static int store(struct operation *operation)
{
	int r;

	EW_SCOPE(storing, .deadline_ns = operation->deadline_ns);
	EW_GUARD(leave, operation->record, .close = record_leave_close, .abort = record_leave);

	record_enter(operation->record, &storing);
	r = body_publish(&operation->body, operation->id);
	return ew_scope_finish(&storing, r);
}

static int serve(struct submission *submission, struct route *route, const char *tenant)
{
	int r;

	EW_OWN(operation, operation);

	r = operation_new(route, &operation);
	if (r == 0 && tenant)
		r = tenant_use(route, tenant, &operation->tenant);
	if (r == -EUSERS)
		return say_no_tenant(submission, route);
	if (r == 0)
		r = read_request(submission->request, operation);
	if (r < 0)
		return operation && operation->body.is_unstored
			       ? say_unstored(submission, operation, r)
			       : r;
	operation->deadline_ns = operation->began_ns + route->config->timeout_ns;
	r = check_key(submission, operation);
	if (r != 1)
		return r;
	r = admit(submission, operation);
	if (!operation->permit)
		return r;
	r = store(operation);
	if (r < 0)
		return say_unstored(submission, operation, r);
	if (events_wanted(submission->request)) {
		operation->record->stream = stream_new(route->config->events_window_bytes);
		if (!operation->record->stream)
			return -ENOMEM;
	}
	if (wants_async(submission->request))
		return detach(submission, &operation);
	if (operation->record->stream)
		return serve_events(submission, &operation);
	r = operation_serve(&operation, say_failed, submission);
	return r < 0 ? submission->answered : say_outcome(submission, operation);
}

int submit(struct gateway *gateway, struct http_request *request)
{
	struct submission submission = { .gateway = gateway, .request = request };
	struct route *route = find_route(gateway, request->head->path);
	char tenant[CONFIG_NAME_BYTES];
	bool has_tenants;
	int r;

	if (!route)
		return routes_problem(gateway, request, PROBLEM_NOT_FOUND,
				      "There is no such route.", NULL, 0);
	http_half_close(request, route->config->half_close_finish);
	if (!has_fitting_type(request))
		return routes_problem(gateway, request, PROBLEM_TYPE, NULL, NULL, 0);
	has_tenants = route->config->tenant_header[0];
	if (has_tenants && !read_tenant(request, route->config->tenant_header, tenant))
		return routes_problem(gateway, request, PROBLEM_TENANT, NULL, NULL, 0);
	if (!may_start(&submission, route, NULL, &r))
		return r;
	return serve(&submission, route, has_tenants ? tenant : NULL);
}
