/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * Closing what has an operation on another worker: asked for there, and waited for
 */

#include "scope/cancel.h"

/* In the frame of the task that closes. Its worker writes nothing into the object, where an operation may end just then. */
struct ew__away {
	struct ew__wait wait;
	struct ew__message question;
	struct ew__message answer;
	struct ew_worker *asker;
	void *object;
};

/*
 * Asks @worker, which is held, to end @object there, by @deliver, and waits for the answer; not refused, nor
 * cancelled.
 */
void ew__away_ask(struct ew_worker *worker, void (*deliver)(struct ew__message *question),
		  void *object, const char *what);

/* For deliver(). */
static inline struct ew__away *ew__away_of(struct ew__message *question)
{
	return ew__container_of(question, struct ew__away, question);
}

/* On the worker that was asked: nothing is left there. */
void ew__away_answer(struct ew__away *away);
