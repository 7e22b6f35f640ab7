/* SPDX-License-Identifier: Apache-2.0 */

/*
 * The record is on the stack of the task that asks. The answer is the last touch of the one who was asked.
 */

#include "io/away.h"

static void deliver_answer(struct ew__message *message)
{
	ew__wait_end(&(ew__container_of(message, struct ew__away, answer))->wait, 0);
}

void ew__away_ask(struct ew__away *away, struct ew_worker *worker, struct ew__message *message,
		  const char *what)
{
	*away = (struct ew__away){ .answer.deliver = deliver_answer, .asker = ew__worker };
	ew__post(worker, message);
	ew__suspend(&away->wait, what);
}

void ew__away_answer(struct ew__away *away)
{
	ew__post(away->asker, &away->answer);
}
