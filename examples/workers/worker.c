/* SPDX-License-Identifier: Apache-2.0 */

/*
 * A worker that renders: worker amqp://guest:guest@127.0.0.1:5672/ QUEUE [AT_ONCE]
 *
 * {"ms": 500} takes half a second, in steps of 10 ms, or of "step_ms", and is answered with their number. "on_cancel"
 * says how it takes a cancel: "stop" (if nothing is said), "finish": it works on for "finish_ms" and has its result
 * then, "fail": by an error, or "lose": it does not know what became of its work. With "on_end": "lose" it does not know
 * that at its end. With "progress" it tells the number of steps so far, and "part" is a text that it sends with each step
 * to a client that takes the reply in parts.
 */

#include "contract.h"

#include <errno.h>
#include <string.h>

struct wish {
	int ms, step_ms, finish_ms, progress;
	const char *on_cancel, *on_end, *part;
};

static int step(struct contract_job *job, const struct wish *wish, int steps)
{
	int r = ew_sleep(wish->step_ms * EW_MILLISECOND);

	if (r == 0 && wish->progress)
		r = contract_progress(job, "{\"steps\": %d}", steps);
	if (r == 0 && wish->part && contract_streams(job))
		r = contract_part(job, wish->part, strlen(wish->part));
	return r;
}

static int take_cancel(const struct wish *wish)
{
	EW_SHIELD(shield, .budget_ns = 60 * EW_SECOND);

	if (strcmp(wish->on_cancel, "finish") == 0)
		return ew_sleep(wish->finish_ms * EW_MILLISECOND);
	if (strcmp(wish->on_cancel, "lose") == 0)
		return -EOWNERDEAD;
	return strcmp(wish->on_cancel, "fail") == 0 ? -EIO : -ECANCELED;
}

static int render(struct contract_job *job, struct contract_result *ret_result)
{
	struct wish wish = { .step_ms = 10, .on_cancel = "stop", .on_end = "" };
	int steps = 0, r;

	r = contract_read(job, "{s:i, s?i, s?i, s?b, s?s, s?s, s?s}", "ms", &wish.ms, "step_ms",
			  &wish.step_ms, "finish_ms", &wish.finish_ms, "progress", &wish.progress,
			  "on_cancel", &wish.on_cancel, "on_end", &wish.on_end, "part", &wish.part);
	if (r == 0 && wish.step_ms < 1)
		r = -EINVAL;
	for (int left = wish.ms; r == 0 && left > 0; left -= wish.step_ms)
		r = step(job, &wish, ++steps);
	if (r == 0 && strcmp(wish.on_end, "lose") == 0)
		r = -EOWNERDEAD;
	if (r == -ECANCELED)
		r = take_cancel(&wish);
	return r < 0 ? r : contract_answer(ret_result, "{\"steps\": %d}", steps);
}

int main(int argc, char **argv)
{
	return contract_main(argc, argv, render);
}
