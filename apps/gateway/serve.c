/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Whatever ends the waiting, a client that leaves, a deadline, a shutdown, the way out is the same: return, and the
 * ending cancels the operation at the backend and waits for the answer, while the permit is held. Only a proof that
 * nothing runs any more frees it; without one, when the time for it is over, it is presumed.
 */
#include "serve.h"

#include <errno.h>

#include <endwell/clock.h>
#include <endwell/task.h>

#include "common/log.h"

#include "broker.h"
#include "events.h"
#include "permits.h"

#define PUBLICATIONS_MAX 3

static int grant(struct operation *operation)
{
	struct gateway *gateway = operation->route->gateway;
	bool told = operation->started;
	int r;

	/* From here on the worker may start, also if nobody hears whether it was told. */
	operation->started = true;
	r = broker_say(&gateway->grants, "grant", &operation->claim, operation->correlation,
		       operation->id);
	operation->route->granted += r == 0 || outcome_is_proof(operation->outcome);
	/* One that was said before may have come: then this one proves nothing by not coming. */
	if (!told && ((r == -EHOSTUNREACH && !operation->claim_due) || r == -EBUSY))
		operation->started = false;
	return r == -EHOSTUNREACH ? 0 : r;
}

/* The refusal is the proof. A worker that has gone has given the operation back; its next claim will be answered. */
static int refuse(struct operation *operation)
{
	struct gateway *gateway = operation->route->gateway;
	int r;

	r = broker_say(&gateway->cancels, "refuse", &operation->claim, operation->correlation,
		       operation->id);
	if (r == 0)
		operation->outcome = OUTCOME_REFUSED;
	return r == -EHOSTUNREACH ? 0 : r;
}

static int ask_to_stop(struct operation *operation)
{
	struct gateway *gateway = operation->route->gateway;
	int r;

	r = broker_say(&gateway->cancels, "cancel", &operation->claim, operation->correlation,
		       operation->id);
	return r == -EHOSTUNREACH ? 0 : r;
}

static int answer_claim(struct operation *operation)
{
	operation->claim_due = false;
	if (operation->cancelling)
		return operation->started ? ask_to_stop(operation) : refuse(operation);
	return operation->route->config->grant_none ? 0 : grant(operation);
}

/* The broker's confirm is not waited for any more when the operation has ended; then -ECANCELED. */
static int answer_claim_unless_ended(struct operation *operation)
{
	int r;

	EW_SCOPE(saying);

	operation->saying = &saying;
	r = answer_claim(operation);
	operation->saying = NULL;
	return ew_scope_finish(&saying, r);
}

/* Answers come to a queue, and so are there when there is a connection again. */
static bool outlives_connection(const struct operation *operation)
{
	return operation->route->config->reply_queue;
}

/*
 * The broker takes nothing now, or is lost and will be there again; then it is said again, as long as there is time. Nothing
 * comes of saying it twice.
 */
static int answer_claim_again(struct operation *operation)
{
	int r = answer_claim_unless_ended(operation);

	if (r == 0)
		return 0;
	operation->claim_due = true;
	if (r == -ECANCELED)
		return r;
	if (r != -EBUSY && r != -EREMOTEIO && !outlives_connection(operation))
		return r;
	return ew_sleep(BROKER_SAY_AGAIN);
}

/* -EOWNERDEAD: the worker cannot tell, and a client is not to wait until it can; the permit is, by a cancel. */
static int await_outcome(struct operation *operation)
{
	int r;

	while (operation->outcome == OUTCOME_NONE) {
		if (operation->unknown && !operation->cancelling)
			return -EOWNERDEAD;
		if (operation->claim_due)
			r = answer_claim_again(operation);
		else
			r = ew_event_wait(&operation->news, EW_NEVER);
		if (r < 0 && operation->outcome == OUTCOME_NONE)
			return r;
		ew_event_reset(&operation->news);
	}
	return 0;
}

/*
 * A queue may have taken what another one has refused. Its worker is refused then; one that needs no grant runs it, so
 * the outcome stays open, and it is cancelled.
 */
static bool may_run_although_nacked(const struct operation *operation, enum ew_amqp_fate fate)
{
	return fate == EW_AMQP_NACKED && operation->route->config->grant_none;
}

static void note_fate(struct operation *operation, enum ew_amqp_fate fate)
{
	switch (fate) {
	case EW_AMQP_NOT_SENT: operation->outcome = OUTCOME_UNSENT; break;
	case EW_AMQP_RETURNED: operation->outcome = OUTCOME_RETURNED; break;
	case EW_AMQP_NACKED: operation->outcome = OUTCOME_NACKED; break;
	default: break;
	}
}

/* Without a grant its reply may be there before the broker's confirm. */
static int publish_unless_ended(struct operation *operation, struct ew_amqp_receipt *ret_receipt)
{
	int r;

	EW_SCOPE(saying);

	operation->saying = &saying;
	r = broker_publish(operation, ret_receipt);
	operation->saying = NULL;
	return ew_scope_finish(&saying, r);
}

/* What became of it tells nothing of a message that went out before, and so counts of the first one only. */
static int publish_once(struct operation *operation, enum ew_amqp_fate *ret_fate)
{
	struct gateway *gateway = operation->route->gateway;
	struct ew_amqp_receipt receipt;
	bool first = operation->publications == 0, lost;
	int r;

	r = publish_unless_ended(operation, &receipt);
	if (receipt.fate != EW_AMQP_NOT_SENT) {
		operation->publications++;
		operation->route->republished += !first;
	}
	if (first && !may_run_although_nacked(operation, receipt.fate))
		note_fate(operation, receipt.fate);
	lost = receipt.fate == EW_AMQP_UNKNOWN && r < 0 && !broker_is_connected(gateway);
	operation->adrift = operation->confirming && !operation->claim.token[0] &&
			    (lost || (!first && receipt.fate == EW_AMQP_NOT_SENT));
	*ret_fate = receipt.fate;
	return r;
}

/* What has been heard meanwhile may have decided it, or be of a message that the broker had after all. */
static bool is_still_adrift(struct operation *operation)
{
	if (operation->outcome != OUTCOME_NONE || operation->claim.token[0])
		operation->adrift = false;
	return operation->adrift;
}

static int publish_again(struct operation *operation, enum ew_amqp_fate *fate)
{
	int r = 0;

	if (*fate == EW_AMQP_NOT_SENT)
		r = ew_sleep(BROKER_SAY_AGAIN);
	if (r == 0)
		r = broker_await(operation->route);
	if (r < 0 || !is_still_adrift(operation))
		return r;
	/* A queue may have claims of the earlier message, which are refused then. */
	if (outlives_connection(operation))
		table_enter_again(&operation->route->gateway->table, operation);
	return publish_once(operation, fate);
}

/* The broker was lost before it confirmed, and what became of the message will be heard, or that it is claimed has been. */
static bool goes_on(struct operation *operation, enum ew_amqp_fate fate)
{
	if (operation->outcome != OUTCOME_NONE || !outlives_connection(operation))
		return false;
	if (fate != EW_AMQP_UNKNOWN || broker_is_connected(operation->route->gateway))
		return operation->claim.token[0];
	operation->adrift = false;
	return true;
}

/*
 * Where a grant is needed, a message that the broker may have or not is harmless: its claims go to an address that is no
 * more, or have the id of nobody, and nobody grants them. So the operation goes out again, with the same id. A message that ends a connection each
 * time it comes is not to do so for ever.
 */
static int publish(struct operation *operation)
{
	enum ew_amqp_fate fate;
	int r;

	operation->published = true;
	operation->confirming = !operation->route->config->grant_none;
	r = publish_once(operation, &fate);
	while (is_still_adrift(operation) && r != -ECANCELED &&
	       operation->publications < PUBLICATIONS_MAX)
		r = publish_again(operation, &fate);
	operation->confirming = false;
	if (r < 0 && r != -ECANCELED && goes_on(operation, fate))
		return 0;
	if (may_run_although_nacked(operation, fate))
		return r;
	if (r < 0 && r != -ECANCELED && operation->outcome == OUTCOME_NONE)
		operation->outcome = OUTCOME_LOST;
	return r;
}

/* Nobody will be heard about it. */
static bool is_beyond_reach(const struct operation *operation)
{
	return operation->adrift && operation->outcome == OUTCOME_NONE &&
	       !outlives_connection(operation);
}

static int publish_and_await(struct operation *operation)
{
	int r;

	EW_SCOPE(wait, .deadline_ns = operation->deadline_ns);
	EW_GUARD(leave, operation->record, .close = record_leave_close, .abort = record_leave);

	record_enter(operation->record, &wait);
	r = publish(operation);
	if (r == 0)
		r = await_outcome(operation);
	r = ew_scope_finish(&wait, r);
	/* There is nothing that could be cancelled, and nobody to ask. */
	if (r == -ETIMEDOUT && is_beyond_reach(operation))
		operation->outcome = OUTCOME_LOST;
	return r;
}

/* One line for each operation. */
static void log_end_of(const struct operation *operation)
{
	struct log_line line;
	int64_t now = ew_now();

	log_begin(&line, "info", "operation");
	log_text(&line, "id", operation->id);
	log_text(&line, "route", operation->route->config->name);
	log_text(&line, "trace", operation->trace);
	log_text(&line, "outcome", outcome_name(operation->outcome));
	log_seconds(&line, "after", now - operation->began_ns);
	if (operation->publications > 1)
		log_number(&line, "publications", operation->publications);
	if (operation->cancelling)
		log_seconds(&line, "cancel", now - operation->cancelled_ns);
	log_end(&line);
}

/* What the ending has found out. */
static void note_cancelled(struct operation *operation)
{
	struct route *route = operation->route;

	route->cancelled[operation->outcome]++;
	histogram_add(&route->cancel_seconds, ew_now() - operation->cancelled_ns);
}

/* A claim that was not answered: its worker waits. Or one that is not known to have been cancelled, and may run on. */
static bool is_still_due(const struct operation *operation)
{
	return operation->claim_due &&
	       (!operation->started ||
		(operation->cancelling && !outcome_is_proof(operation->outcome)));
}

/* The permit goes where the outcome says. */
static void settle(struct operation **place)
{
	struct operation *operation = *place;
	struct route *route = operation->route;

	route->ended[operation->outcome]++;
	histogram_add(&route->seconds, ew_now() - operation->began_ns);
	log_end_of(operation);
	if (is_still_due(operation))
		broker_answer_later(operation);
	events_end(operation);
	record_end(&route->gateway->records, operation->record, operation->outcome,
		   operation->cancelling ? ew_now() - operation->cancelled_ns : 0,
		   &operation->result);
	if (outcome_is_proof(operation->outcome))
		permits_release(route->gateway, operation);
	else
		permits_presume(route->gateway, place);
}

static void operation_presume_ended(void *argument)
{
	struct operation **place = argument;
	struct operation *operation = *place;

	if (operation->outcome == OUTCOME_NONE)
		operation->outcome = OUTCOME_SILENT;
	note_cancelled(operation);
	settle(place);
}

static int operation_cancel_at_backend(void *argument)
{
	struct operation **place = argument;
	struct operation *operation = *place;
	int r;

	operation->saying = NULL;
	operation->cancelling = true;
	operation->cancelled_ns = ew_now();
	permits_mark_cancelling(operation);
	/* A worker that has been told to start is told to stop. */
	operation->claim_due = operation->claim.token[0];
	if (is_beyond_reach(operation))
		operation->outcome = OUTCOME_LOST;
	r = await_outcome(operation);
	/* Then the time is over, and the other ending follows. */
	if (r == -ECANCELED)
		return r;
	if (r < 0) {
		operation_presume_ended(place);
		return r;
	}
	note_cancelled(operation);
	settle(place);
	return 0;
}

int operation_serve(struct operation **place, serve_fn *failed, void *argument)
{
	struct operation *operation = *place;
	struct route *route = operation->route;
	int r;

	table_enter(&route->gateway->table, operation);

	EW_GUARD(undo, place, .close = operation_cancel_at_backend,
		 .abort = operation_presume_ended, .budget_ns = route->config->cancel_deadline_ns);

	r = publish_and_await(operation);
	if (operation->outcome == OUTCOME_NONE) {
		failed(argument, operation, r);
		return r;
	}
	ew_guard_disarm(&undo);
	if (operation->outcome == OUTCOME_LOST)
		r = -ECONNRESET;
	else if (operation->outcome != OUTCOME_UNSENT || (r != -ECANCELED && r != -ETIMEDOUT))
		r = 0;
	if (r < 0)
		failed(argument, operation, r);
	settle(place);
	return r;
}
