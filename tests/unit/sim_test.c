/* SPDX-License-Identifier: Apache-2.0 */

/*
 * The simulated driver: whole programs in one thread, by a seed.
 */

#include "core.h"

#include <endwell/sim.h>
#include <endwell/socket.h>

static struct ew_sim_result run_sim(uint64_t seed, unsigned faults, ew_task_fn *fn, void *argument)
{
	const struct ew_sim_options options = { .seed = seed,
						.faults = faults,
						.report = note_report };
	struct ew_sim_result result;

	reports.count = 0;
	EXPECT_EQ(ew_sim_run(&options, fn, argument, &result), 0);
	return result;
}

static int echo(void *argument, void *place)
{
	struct ew_socket **socket = place;
	char buffer[64];
	int r;

	(void)argument;
	while ((r = ew_socket_recv(*socket, buffer, sizeof(buffer))) > 0) {
		r = ew_socket_send(*socket, buffer, (size_t)r);
		if (r < 0)
			return r;
	}
	return r;
}

static int converse(void *argument)
{
	char buffer[64] = "";
	int r, i;

	EW_SCOPE(scope);
	EW_OWN(ew_socket, ours);
	EW_OWN(ew_socket, theirs);

	(void)argument;
	r = ew_socket_pair(&ours, &theirs);
	EXPECT_EQ(r, 0);
	r = ew_spawn_take(&scope, echo, NULL, &theirs);
	EXPECT_EQ(r, 0);
	for (i = 0; i < 100; i++) {
		r = ew_socket_send(ours, "hello", 5);
		EXPECT_EQ(r, 0);
		for (int got = 0; got < 5; got += r) {
			r = ew_socket_recv(ours, buffer + got, sizeof(buffer));
			EXPECT(r > 0);
		}
		EXPECT_STR(buffer, "hello");
		EXPECT_EQ(ew_sleep((3600 * EW_SECOND)), 0);
	}
	EXPECT_EQ(ew_socket_shutdown(ours, SHUT_WR), 0);
	return ew_scope_finish(&scope, 0);
}

/* A hundred hours, twice. */
TEST(sim_same_seed_same_trace_other_seed_other_trace)
{
	struct ew_sim_result first = run_sim(7, 0, converse, NULL);
	struct ew_sim_result second = run_sim(7, 0, converse, NULL);
	struct ew_sim_result other = run_sim(8, 0, converse, NULL);

	EXPECT(first.operations >= 400);
	EXPECT(first.virtual_ns >= 100 * (3600 * EW_SECOND));
	EXPECT(first.trace_hash == second.trace_hash);
	EXPECT(first.trace_hash != other.trace_hash);
	EXPECT_EQ(first.virtual_ns, second.virtual_ns);
}

TEST_MAIN()
