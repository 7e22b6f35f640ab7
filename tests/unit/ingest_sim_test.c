/* SPDX-License-Identifier: Apache-2.0 */

/*
 * The whole of ew-ingest with a moody scanner and clients that leave, on a simulated disk.
 */

#include "ingest_world.h"

#include <endwell/testing.h>

/* ---- in fair weather ---- */

static int with_server(int (*ask)(void))
{
	int r;

	EW_SCOPE(serving, .policy = EW_POLICY_INDEPENDENT);
	EW_GUARD(stop, &world, .close = stop_server_close, .abort = stop_server);

	world.stopped = false;
	r = ew_spawn(&serving, serve, NULL);
	if (r == 0)
		r = ew_sleep(3 * EW_SECOND);
	if (r == 0)
		r = ask();
	stop_server(NULL);
	return ew_scope_finish(&serving, r);
}

static int with_scanner(int (*ask)(void))
{
	int r;

	EW_GUARD(listener, &world, .close = close_clamd_close, .abort = close_clamd);
	EW_SCOPE(scanning, .policy = EW_POLICY_INDEPENDENT);
	EW_GUARD(stop, &world, .close = stop_clamd_close, .abort = stop_clamd);

	world.clamd_stopped = false;
	r = start_clamd(&scanning);
	if (r == 0)
		r = with_server(ask);
	stop_clamd(NULL);
	return ew_scope_finish(&scanning, r);
}

static int expect_status(const char *name, size_t bytes, int status)
{
	struct exchange exchange;

	EXPECT_EQ(upload(add_note(name, bytes), &exchange), 0);
	EXPECT_EQ(exchange.status, status);
	return 0;
}

static int ask_for_each(void)
{
	expect_status("one", 5000, 201);
	expect_status("one", 100, 409);
	expect_status("two", 1, 201);
	expect_status("three", 5000, 422);
	return 0;
}

static int fair(void *unused)
{
	int r;

	(void)unused;
	r = with_scanner(ask_for_each);
	check_bucket();
	check_disk();
	return r;
}

TEST(ingest_publishes_what_is_clean_on_a_simulated_disk)
{
	struct ew_sim_filesystem *filesystem;
	struct ew_sim_options options = { .report = hush };

	world_prepare();
	EXPECT_EQ(ew_sim_filesystem_new(NULL, &filesystem), 0);
	options.filesystem = filesystem;
	EXPECT_EQ(ew_sim_run(&options, fair, NULL, NULL), 0);
	ew_sim_filesystem_free(filesystem);
}

TEST_MAIN()
