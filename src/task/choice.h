/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * Choice: a wait that more than one may end
 * Whoever claims it does, and nobody else touches it: not what comes second, and not a cancel or a deadline that
 * comes when it is claimed.
 */

#include "task/run_queue.h"

struct ew__choice {
	struct ew__wait wait;
	const void *_Atomic winner; /* NULL: not claimed */
};

/* Any thread. True: the caller ends the wait, by itself on the task's worker, by a message elsewhere. */
static inline bool ew__choice_claim(struct ew__choice *choice, const void *winner)
{
	const void *none = NULL;

	return atomic_compare_exchange_strong(&choice->winner, &none, winner);
}
