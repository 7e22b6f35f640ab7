/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * The lives of ew-ingest in a simulated world: it serves, ends, and another one starts in what it, or a crash, has left.
 */

#include "ingest_world.h"

#include "driver/system.h"

#include <endwell/testing.h>

static bool calm;
static unsigned uploads; /* before a restart */
static bool sync_fails;	 /* once, in these worlds */

/* ---- one life ---- */

static UNUSED int with_server(int (*ask)(void))
{
	int r;

	EW_SCOPE(serving, .policy = EW_POLICY_INDEPENDENT);
	EW_GUARD(stop, &world, .close = stop_server_close, .abort = stop_server);

	world.stopped = false;
	r = ew_spawn(&serving, serve, NULL);
	if (r == 0)
		r = ew_sleep(5 * EW_SECOND);
	if (r == 0)
		r = ask();
	stop_server(NULL);
	return ew_scope_finish(&serving, r);
}

static UNUSED int with_scanner(int (*ask)(void))
{
	int r;

	EW_GUARD(listener, &world, .close = close_clamd_close, .abort = close_clamd);
	EW_SCOPE(scanning, .policy = EW_POLICY_INDEPENDENT);
	EW_GUARD(stop, &world, .close = stop_clamd_close, .abort = stop_clamd);

	world.clamd_stopped = false;
	r = start_clamd(&scanning);
	if (r == 0)
		r = ask();
	stop_clamd(NULL);
	return ew_scope_finish(&scanning, r);
}

/* What this world's scanner is around: clamd, unless a test says another one. */
static int (*with_its_scanner)(int (*ask)(void)) = with_scanner;

static int expect_status(const char *name, size_t bytes, int status)
{
	struct exchange exchange;

	EXPECT_EQ(upload(add_note(name, bytes), &exchange), 0);
	EXPECT_EQ(exchange.status, status);
	return 0;
}

/* ---- what was before ---- */

#define DEAD "00112233445566778899aabbccddeeff"

static int open_in_the_end(const char *path, int flags)
{
	int fd;

	do
		fd = open(path, flags, 0600);
	while (fd < 0 && errno == EMFILE);
	EXPECT(fd >= 0);
	return fd;
}

/* That is there already, maybe. */
static void make_folder(const char *path, mode_t mode)
{
	EXPECT(mkdir(path, mode) == 0 || errno == EEXIST);
}

static void make_file(const char *path, const char *text)
{
	int fd = open_in_the_end(path, O_WRONLY | O_CREAT | O_EXCL);

	EXPECT_EQ(dprintf(fd, "%s", text), strlen(text));
	EXPECT_EQ(fsync(fd), 0);
	close(fd);
}

static void sync_folder(const char *path)
{
	int fd = open_in_the_end(path, O_RDONLY | O_DIRECTORY);

	EXPECT_EQ(fsync(fd), 0);
	close(fd);
}

/* What a server leaves that was killed: a lease with its names, and a bucket whose own name nobody has synced. */
static UNUSED void leave_remains(void)
{
	int (*fault)(void) = ew__system_file_fault;

	ew__system_file_fault = NULL;
	make_folder(STATE, 0700);
	sync_folder("/sim");
	make_folder(STATE "/leases", 0700);
	make_file(STATE "/leases/" DEAD, BUCKET "\n");
	sync_folder(STATE "/leases");
	sync_folder(STATE);
	make_folder(BUCKET, 0755);
	make_file(BUCKET "/.ew-ingest-probe-" DEAD, "x");
	make_folder(STATE "/staging", 0700);
	make_folder(STATE "/staging/00", 0700);
	make_file(STATE "/staging/00/" DEAD "-" DEAD, "staged");
	sync_folder(STATE "/staging/00");
	sync_folder(STATE "/staging");
	ew__system_file_fault = fault;
}

/* ---- and the next ---- */

static int ask_again(void)
{
	return expect_status(world.restarted ? "again" : "after", 9000, 201);
}

/* What has been left is swept. */
static int calm_again(void)
{
	int r;

	calm = true;
	world.notes_count += is_infected(&(struct note){ .number = world.notes_count + 1 });
	r = with_server(ask_again);
	EXPECT_EQ(r, 0);
	check_bucket();
	check_disk();
	return 0;
}

static UNUSED void prepare(void *unused)
{
	(void)unused;
	world_prepare();
	calm = false;
}

/* After a power cut; in each of the disks that it may have left the scanner is a new one. */
static UNUSED int restart(void *unused)
{
	(void)unused;
	world.notes_count = uploads;
	world.restarted = true;
	world.sync_has_failed = sync_fails;
	return with_its_scanner(calm_again);
}

/* Another seed for each, or the second one's servers would have the names of the first one's. */
static UNUSED void run_on(struct ew_sim_filesystem *filesystem, uint64_t seed, ew_task_fn *fn)
{
	const struct ew_sim_options options = { .seed = seed,
						.filesystem = filesystem,
						.report = hush };

	EXPECT_EQ(ew_sim_run(&options, fn, NULL, NULL), 0);
}
