/* SPDX-License-Identifier: Apache-2.0 */

/*
 * A service and its client in a hundred simulated worlds: connections break, counts are short, things take long. Each
 * world is a seed, and a seed that fails is printed with the command that runs it again.
 */

#include <endwell/endwell.h>
#include <endwell/sim.h>
#include <errno.h>
#include <stdio.h>

/* Answers each byte by the next one in the alphabet. */
static int serve(void *argument, void *place)
{
	struct ew_socket **socket = place;
	char byte;
	int r;

	(void)argument;
	while ((r = ew_socket_recv(*socket, &byte, 1)) > 0) {
		byte++;
		r = ew_socket_send(*socket, &byte, 1);
		if (r < 0)
			return r;
	}
	return r;
}

static int ask(struct ew_socket *socket)
{
	char answer;
	int r = ew_socket_send(socket, "a", 1);

	if (r == 0)
		r = ew_socket_recv(socket, &answer, 1);
	if (r == 1 && answer != 'b')
		return -EBADMSG;
	return r;
}

static int scenario(void *argument)
{
	int r;

	EW_OWN(ew_socket, ours);
	EW_OWN(ew_socket, theirs);
	EW_SCOPE(scope, .policy = EW_POLICY_INDEPENDENT, .deadline_ns = ew_after(EW_SECOND));

	(void)argument;
	r = ew_socket_pair(&ours, &theirs);
	if (r == 0)
		r = ew_spawn_take(&scope, serve, NULL, &theirs);
	if (r == 0)
		r = ask(ours);
	ew_scope_cancel(&scope, EW_REASON_REQUESTED);
	r = ew_scope_finish(&scope, r);
	return r == -EBADMSG ? r : 0; /* here a lost connection is nobody's fault */
}

int main(void)
{
	struct ew_sim_trial trial = { .seeds_count = 100, .faults = EW_SIM_ALL };
	struct ew_sim_verdict verdict = ew_sim_try(&trial, scenario, NULL);

	if (verdict.failed)
		return 1;
	printf("%u runs, nothing is left, and no answer was wrong\n", verdict.runs);
	return 0;
}
