/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * What the tests of services in simulated worlds share: many seeds, a server that accepts whatever goes wrong, and bytes
 * that say whose they are.
 */

#include "io.h"

#include <endwell/endwell.h>
#include <endwell/sim.h>

/* As @options say, with all faults; by Valgrind a few seeds. */
static UNUSED void try_trial(const struct ew_sim_trial *options, ew_task_fn *scenario)
{
	struct ew_sim_trial trial = *options;
	struct ew_sim_verdict verdict;

	trial.faults = EW_SIM_ALL;
	if (RUNNING_ON_VALGRIND)
		trial.seeds_count = 20;
	verdict = ew_sim_try(&trial, scenario, NULL);
	printf("# %u runs, %u power cuts, %" PRIu64 " operations, %" PRIu64 " faults, %" PRId64
	       " s of their own\n",
	       verdict.runs, verdict.cuts, verdict.operations, verdict.faults_made,
	       verdict.virtual_ns / EW_SECOND);
	if (verdict.failed)
		ew_test_fail(__FILE__, __LINE__, "seed %" PRIu64 ": %.200s", verdict.seed,
			     verdict.what);
	EXPECT(verdict.faults_made > 0);
}

/* Each of @count seeds. */
static UNUSED void try_seeds(unsigned count, ew_task_fn *scenario, void (*prepare)(void *argument),
			     const char *(*check)(void *argument))
{
	try_trial(
		&(struct ew_sim_trial){ .seeds_count = count, .prepare = prepare, .check = check },
		scenario);
}

/* What is promised of each call: it says that it was cancelled only if somebody asked, and never to try again. */
static UNUSED int seen(int r)
{
	EXPECT(r != -EAGAIN);
	if (r == -ECANCELED)
		EXPECT(ew_cancel_requested());
	return r;
}

static struct sockaddr_in server_address;

static UNUSED int listen_here(struct ew_listener **ret_listener)
{
	struct sockaddr_in address = loopback(0);
	struct sockaddr_storage bound;
	int r;

	do
		r = ew_listener_open((struct sockaddr *)&address, sizeof(address), 4, ret_listener);
	while (r == -EMFILE);
	EXPECT_EQ(r, 0);
	EXPECT_EQ(ew_listener_address(*ret_listener, &bound), 0);
	memcpy(&server_address, &bound, sizeof(server_address));
	return 0;
}

static UNUSED int connect_there(struct ew_socket **ret_socket)
{
	return seen(ew_socket_connect((struct sockaddr *)&server_address, sizeof(server_address),
				      ret_socket));
}

/* Accepts for ever, whatever goes wrong; a session each. */
static UNUSED int accept_all(struct ew_listener *listener, ew_task_take_fn *session)
{
	int r;

	EW_SCOPE(sessions, .policy = EW_POLICY_INDEPENDENT);

	do {
		EW_OWN(ew_socket, socket);

		r = seen(ew_listener_accept(listener, &socket));
		if (r == 0)
			r = ew_spawn_take(&sessions, session, NULL, &socket);
	} while (r != -ECANCELED);
	return ew_scope_finish(&sessions, r);
}

/* Byte @at of what @client says. */
static UNUSED char pattern(unsigned client, size_t at)
{
	return (char)(client * 31 + at * 7 + at / 251);
}
