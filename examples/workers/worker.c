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
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define STEP_MS 10

struct wish {
	json_int_t ms;
	json_int_t step_ms;
	const char *on_cancel;
	const char *on_end;
	json_int_t finish_ms;
	int progress;
	const char *part;
};

static int step(struct contract_job *job, const struct wish *wish, int steps)
{
	char text[32];
	int r;

	r = ew_sleep(wish->step_ms * EW_MILLISECOND);
	if (r == 0 && wish->progress)
		r = contract_progress(job, text, (size_t)sprintf(text, "{\"steps\": %d}", steps));
	if (r == 0 && wish->part && contract_streams(job))
		r = contract_part(job, wish->part, strlen(wish->part));
	return r;
}

static int finish(const struct wish *wish)
{
	EW_SHIELD(shield, .budget_ns = 60 * EW_SECOND);

	return ew_sleep(wish->finish_ms * EW_MILLISECOND);
}

static int take_cancel(const struct wish *wish)
{
	if (strcmp(wish->on_cancel, "finish") == 0)
		return finish(wish);
	if (strcmp(wish->on_cancel, "lose") == 0)
		return -EOWNERDEAD;
	return strcmp(wish->on_cancel, "fail") == 0 ? -EIO : -ECANCELED;
}

static int render_wish(struct contract_job *job, const struct wish *wish,
		       struct contract_result *ret_result)
{
	int steps = 0, length, r = 0;

	while (r == 0 && steps * wish->step_ms < wish->ms)
		r = step(job, wish, ++steps);
	if (r == 0 && strcmp(wish->on_end, "lose") == 0)
		r = -EOWNERDEAD;
	if (r == -ECANCELED)
		r = take_cancel(wish);
	if (r < 0)
		return r;
	length = asprintf(&ret_result->body, "{\"steps\": %d}", steps);
	ret_result->body_bytes = length < 0 ? 0 : (size_t)length;
	ret_result->content_type = "application/json";
	return length < 0 ? -ENOMEM : 0;
}

static int render(struct contract_job *job, struct contract_result *ret_result)
{
	const struct ew_amqp_message *message = contract_message(job);
	struct wish wish = { .step_ms = STEP_MS, .on_cancel = "stop", .on_end = "" };
	struct contract_body body;
	json_t *json;
	int r;

	r = contract_body(job, &body);
	if (r < 0)
		return r;
	json = json_loadb(body.data, body.bytes, 0, NULL);
	free(body.data);
	r = -EINVAL;

	printf("begin %s\n", message->message_id);
	if (json_unpack(json, "{s:I, s?I, s?s, s?s, s?I, s?b, s?s}", "ms", &wish.ms, "step_ms",
			&wish.step_ms, "on_cancel", &wish.on_cancel, "on_end", &wish.on_end,
			"finish_ms", &wish.finish_ms, "progress", &wish.progress, "part",
			&wish.part) == 0 &&
	    wish.step_ms > 0)
		r = render_wish(job, &wish, ret_result);
	json_decref(json);
	printf("end %s\n", message->message_id);
	return r;
}

int main(int argc, char **argv)
{
	return contract_main(argc, argv, render);
}
