/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * Closing what has an operation on another worker: asked for there, and waited for
 */

#include "scope/cancel.h"

/* In the frame of the task that closes. */
struct ew__away {
	struct ew__wait wait;
	struct ew__message answer;
	struct ew_worker *asker;
};

/* Sends @message, which has its deliver(), to @worker, and waits for the answer; not refused, nor cancelled. */
void ew__away_ask(struct ew__away *away, struct ew_worker *worker, struct ew__message *message,
		  const char *what);

/* On the worker that was asked: nothing is left there. */
void ew__away_answer(struct ew__away *away);
