/* SPDX-License-Identifier: Apache-2.0 */

/*
 * The record is on the stack of the task that asks. The answer is the last touch of the one who was asked.
 *
 * A worker forgets what outlives its runtime, and ends. One who has read before that it is the worker to tell is waited
 * for, until he has told it: for all of them, since they cannot leave a trace in what may have gone.
 */

#include "io/away.h"

#include <sched.h>

static _Atomic unsigned holders_count;

struct ew_worker *ew__away_hold(struct ew_worker *_Atomic *place)
{
	struct ew_worker *worker = *place;

	if (!worker || worker == ew__worker)
		return NULL;
	holders_count++;
	worker = *place;
	if (!worker)
		ew__away_release();
	return worker;
}

void ew__away_release(void)
{
	holders_count--;
}

void ew__away_post(struct ew_worker *worker, struct ew__message *message)
{
	ew__post(worker, message);
	ew__away_release();
}

void ew__away_await_holders(void)
{
	while (holders_count)
		sched_yield();
}

static void deliver_answer(struct ew__message *message)
{
	ew__wait_end(&(ew__container_of(message, struct ew__away, answer))->wait, 0);
}

void ew__away_ask(struct ew_worker *worker, void (*deliver)(struct ew__message *question),
		  void *object, const char *what)
{
	struct ew__away away = {
		.question.deliver = deliver,
		.answer.deliver = deliver_answer,
		.asker = ew__worker,
		.object = object,
	};

	ew__away_post(worker, &away.question);
	ew__suspend(&away.wait, what);
}

void ew__away_answer(struct ew__away *away)
{
	ew__post(away->asker, &away->answer);
}
