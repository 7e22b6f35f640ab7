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
 * The other worker that has something of an object, by what that says; it does not end before it is released. NULL:
 * there is none, and nothing is held.
 */
struct ew_worker *ew__away_hold(struct ew_worker *_Atomic *place);
void ew__away_release(void);

/* Posts to a worker that is held, and releases it. */
void ew__away_post(struct ew_worker *worker, struct ew__message *message);

/* On a worker that has nothing of anything any more: whoever holds it has posted. */
void ew__away_await_holders(void);

/*
 * Asks @worker, which is held, to end @object there, by @deliver; releases it, and waits for the answer; not refused, nor
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
