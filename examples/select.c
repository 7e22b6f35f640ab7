/* SPDX-License-Identifier: Apache-2.0 */

/*
 * A select whose loser had already finished: a message and the end of a child both come before the select looks. One
 * of them is the answer, and nothing has happened to the other: it is there for the next select.
 */

#include <endwell/endwell.h>
#include <stdio.h>

static int finish_at_once(void *argument)
{
	(void)argument;
	return 7;
}

static int program(void *argument)
{
	EW_OWN(ew_channel, channel);
	struct ew_child child = { 0 }, *ended;
	int message = 42, received = 0, round, r;

	(void)argument;
	r = ew_channel_new(1, sizeof(int), NULL, &channel);
	if (r == 0)
		r = ew_channel_send(channel, EW_NEVER, &message);
	if (r < 0)
		return r;

	EW_SCOPE(scope);

	r = ew_spawn(&scope, finish_at_once, NULL, .child = &child);
	if (r == 0)
		r = ew_yield();

	struct ew_alternative alternatives[] = {
		ew_select_receive(channel, &received),
		ew_select_child(&scope, &ended),
	};

	for (round = 0; round < 2 && r >= 0; round++) {
		r = ew_select(alternatives, 2, ew_after(EW_SECOND));
		if (r == 0)
			printf("received %d\n", received);
		else if (r == 1)
			printf("a child has ended with %d\n", ended->result);
		if (r >= 0)
			alternatives[r] = (struct ew_alternative){ 0 }; /* had; the other is left */
	}
	return ew_scope_finish(&scope, r < 0 ? r : 0);
}

int main(void)
{
	return ew_run(NULL, program, NULL) < 0;
}
