/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* What is said to clients about operations: problems by RFC 9457, permits. */

#include "common/answer.h"

#include "gateway.h"

/* Each has a stable type, `urn:endwell:problem:` and its word, and a remedy; see the table in answer.c. */
enum problem {
	PROBLEM_KEY,
	PROBLEM_TYPE,
	PROBLEM_TENANT,
	PROBLEM_EVENT_ID,
	PROBLEM_ORIGIN,
	PROBLEM_NOT_FOUND,
	PROBLEM_METHOD,
	PROBLEM_CANCELLED,
	PROBLEM_IN_FLIGHT,
	PROBLEM_GONE,
	PROBLEM_HOST,
	PROBLEM_KEY_BODY,
	PROBLEM_TENANT_BUSY,
	PROBLEM_INTERNAL,
	PROBLEM_STORAGE,
	PROBLEM_UNROUTABLE,
	PROBLEM_UNKNOWN,
	PROBLEM_STOPPED,
	PROBLEM_REPLY,
	PROBLEM_BUSY,
	PROBLEM_SLOW,
	PROBLEM_BROKER,
	PROBLEM_BLOCKED,
	PROBLEM_NOT_TAKEN,
	PROBLEM_DRAINING,
	PROBLEM_DEADLINE,
	PROBLEM_NO_SPACE,
	PROBLEM_COUNT,
};

/**
 * answer_problem() - application/problem+json
 * @detail: what happened this time, as a sentence; NULL when the title says it all
 * @id:     of the operation it is about, NULL if there is none
 */
void answer_problem(struct answer *answer, enum problem problem, const char *detail,
		    const char *id);

/* What is said of one that has ended without a result. */
enum problem answer_problem_of(enum outcome outcome);

#define REPLY_FAULT_BYTES 384

/* Whether a reply can be passed on, with this status; if not, why, as a sentence. */
bool answer_reply_check(const struct route *route, const struct ew_amqp_delivery *result,
			int *ret_status, char ret_fault[REPLY_FAULT_BYTES]);

/* The sentence: what is wrong with something that a worker of the route has said. */
void answer_reply_fault(char ret_fault[REPLY_FAULT_BYTES], const struct route *route,
			const char *format, ...) __attribute__((format(printf, 3, 4)));

const char *problem_title(enum problem problem);

/* 200 with the permits of all routes */
void answer_permits(struct answer *answer, struct gateway *gateway);

/* 200 with what is known of an operation */
void answer_status(struct answer *answer, const struct record *record);

/* 200 with what its cancel has come to; it has ended */
void answer_receipt(struct answer *answer, const struct record *record);

/* 202 for one that runs without its client */
void answer_accepted(struct answer *answer, const struct record *record);
