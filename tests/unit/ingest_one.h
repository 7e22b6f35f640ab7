/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * One upload to ew-ingest in a simulated world, ended at each suspension; then what is left is looked at, and swept by the
 * next server if there is anything to sweep.
 */

#include "ingest_lives.h"

static bool server_stays; /* a cancel of the scenario is none of the server */
static bool client_stays;
static struct ew_sim_options swept; /* the world, with a disk of its own for each run */

static int serve_one(void *unused)
{
	(void)unused;
	if (server_stays) {
		EW_SHIELD(shield, .budget_ns = WORLD_PATIENCE);
		return serve_once();
	}
	return serve_once();
}

static int ask_one(struct exchange *exchange)
{
	struct note *note = add_note("one", 1500);

	if (client_stays) {
		EW_SHIELD(shield, .budget_ns = WORLD_PATIENCE);
		return upload(note, exchange);
	}
	return upload(note, exchange);
}

static int one_upload(void)
{
	struct exchange exchange = { 0 };
	int r;

	EW_SCOPE(serving, .policy = EW_POLICY_INDEPENDENT);
	EW_GUARD(stop, &world, .close = stop_server_close, .abort = stop_server);

	r = ew_spawn(&serving, serve_one, NULL);
	if (r == 0)
		r = ew_sleep(EW_SECOND);
	return r == 0 ? ask_one(&exchange) : r;
}

static int one(void *unused)
{
	(void)unused;
	return with_its_scanner(one_upload);
}

/* A lease may be left, and its names; then the next server sweeps them. */
static int look_after_one(void *unused)
{
	if (!ew_sim_name(BUCKET, 0) && !ew_sim_name(STATE, 0))
		return 0;
	uploads = world.notes_count;
	if (ew_sim_name(STATE "/leases", 0))
		return restart(unused);
	check_bucket();
	check_disk();
	return 0;
}

static void prepare_one(void *unused)
{
	prepare(unused);
	EXPECT_EQ(ew_sim_filesystem_new(NULL, &swept.filesystem), 0);
}

static const char *check_one(void *unused)
{
	(void)unused;
	run_on(swept.filesystem, 2, look_after_one);
	ew_sim_filesystem_free(swept.filesystem);
	return NULL;
}

static UNUSED void sweep_one(unsigned modes)
{
	const struct ew_sweep_options options = {
		.prepare = prepare_one, .check = check_one, .modes = modes, .world = &swept
	};
	struct ew_sweep_result result = ew_sweep(&options, one, NULL);

	if (result.failed)
		ew_test_fail(__FILE__, __LINE__, "%s at point %u/%u, %s: %.150s",
			     ew_sweep_mode_name(result.mode), result.index, result.second,
			     result.site, result.what);
	printf("# %u points, %u runs\n", result.points, result.runs);
	EXPECT(result.points > 80);
}
