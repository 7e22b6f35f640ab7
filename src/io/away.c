/* SPDX-License-Identifier: Apache-2.0 */

/*
 * The record is on the stack of the task that asks. The answer is the last touch of the one who was asked.
 */

#include "io/away.h"

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

	ew__post_to_held(worker, &away.question);
	ew__suspend(&away.wait, what);
}

void ew__away_answer(struct ew__away *away)
{
	ew__post(away->asker, &away->answer);
}
