/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* What became of an operation, and whether that proves that nothing of it runs. */

#include <stdbool.h>

enum outcome {
	OUTCOME_NONE,	     /* nobody has said anything yet */
	OUTCOME_UNSENT,	     /* it was not published */
	OUTCOME_RETURNED,    /* no queue for it */
	OUTCOME_NACKED,	     /* the broker has not taken it */
	OUTCOME_REPLIED,     /* the work has ended by itself */
	OUTCOME_REFUSED,     /* its claim was refused */
	OUTCOME_NOT_STARTED, /* these three are a worker's answers to a cancel */
	OUTCOME_STOPPED,
	OUTCOME_TOO_LATE,
	OUTCOME_SILENT, /* from here on nothing is proved: nobody has said in time what became of it */
	OUTCOME_LOST, /* the broker was lost */
	OUTCOME_COUNT,
};

static inline bool outcome_is_proof(enum outcome outcome)
{
	return outcome != OUTCOME_NONE && outcome < OUTCOME_SILENT;
}

static inline bool outcome_has_result(enum outcome outcome)
{
	return outcome == OUTCOME_REPLIED || outcome == OUTCOME_TOO_LATE;
}

/* "stopped", ... for logs, metrics and answers */
static inline const char *outcome_name(enum outcome outcome)
{
	static const char *const names[OUTCOME_COUNT] = {
		"none",	       "unsent",  "returned", "nacked", "replied", "refused",
		"not-started", "stopped", "too-late", "silent", "lost",
	};

	return names[outcome];
}
