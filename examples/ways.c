/* SPDX-License-Identifier: Apache-2.0 */

/*
 * The same upload with its clean-up written in the three usual ways, and in ours. Twenty clients come for four slots,
 * and each goes away in the middle of its upload: its staged file is to be removed, which takes two seconds. After 3.2
 * seconds the server shuts down. What each way loses is counted.
 *
 * Time is virtual, so a call that blocks the whole loop takes none; the time that it would take is added up instead.
 */

#include <endwell/endwell.h>
#include <errno.h>
#include <stdio.h>

#define CLIENTS	     20
#define SLOTS	     4
#define CLIENT_STAYS (EW_SECOND / 2)
#define REMOVAL	     (2 * EW_SECOND)
#define SHUTDOWN     (3200 * EW_MILLISECOND)

struct server {
	const char *way;
	int (*stage)(struct server *server);
	struct ew_semaphore *slots;
	struct ew_scope *background;
	unsigned staged; /* files, in all */
	unsigned there;	 /* files that are there now */
	unsigned there_most;
	int64_t stood_still_ns; /* the loop, in calls that block */
};

static void stage_file(struct server *server)
{
	server->staged++;
	server->there++;
	if (server->there > server->there_most)
		server->there_most = server->there;
}

static int remove_file(void *argument)
{
	struct server *server = argument;
	int r = ew_sleep(REMOVAL);

	if (r < 0)
		return r; /* the file is still there */
	server->there--;
	return 0;
}

/* The body of an upload: the client goes away before it is whole. */
static int receive_body(void)
{
	EW_SCOPE(client, .deadline_ns = ew_after(CLIENT_STAYS));

	return ew_sleep(3600 * EW_SECOND);
}

/* First way: a destructor that removes the file there and then. The loop stands still meanwhile. */

static void remove_file_blocking(struct server *server)
{
	server->stood_still_ns += REMOVAL; /* unlink(2) on a slow disk */
	server->there--;
}

static int stage_and_block(struct server *server)
{
	int r;

	stage_file(server);
	r = receive_body();
	remove_file_blocking(server);
	return r;
}

/* Second way: a destructor that spawns a task to do it later. Nobody waits for that task. */

static int stage_and_spawn(struct server *server)
{
	int r, spawned;

	stage_file(server);
	r = receive_body();
	spawned = ew_spawn(server->background, remove_file, server);
	return spawned < 0 ? spawned : r;
}

/* Third way: a destructor that runs a loop of its own until it is done. Here that is refused; elsewhere it hangs. */

static int stage_and_block_on(struct server *server)
{
	int r, refused;

	stage_file(server);
	r = receive_body();
	refused = ew_run(NULL, remove_file, server);
	return refused == -EDEADLK ? refused : r;
}

/* Ours: an ending that waits. */

static void leave_file(void *argument)
{
	(void)argument; /* out of time: the file stays, and is counted */
}

static int stage_and_end(struct server *server)
{
	stage_file(server);
	EW_GUARD(unstage, server, .close = remove_file, .abort = leave_file);

	return receive_body();
}

static int upload(void *argument)
{
	struct server *server = argument;
	EW_OWN(ew_permit, slot);
	int r = ew_semaphore_acquire(server->slots, EW_NEVER, &slot);

	return r < 0 ? r : server->stage(server);
}

static int serve(struct server *server)
{
	EW_SCOPE(background, .policy = EW_POLICY_INDEPENDENT);
	EW_SCOPE(uploads, .policy = EW_POLICY_INDEPENDENT);
	int r = 0;

	server->background = &background;
	for (unsigned i = 0; i < CLIENTS && r == 0; i++)
		r = ew_spawn(&uploads, upload, server);
	if (r == 0)
		r = ew_sleep(SHUTDOWN);
	return r; /* both blocks are left: what is still there is cancelled and awaited */
}

static int try_way(struct server *server)
{
	int r;

	server->slots = ew_semaphore_new(SLOTS, CLIENTS);
	if (!server->slots)
		return -ENOMEM;
	r = serve(server);
	ew_semaphore_free(server->slots);
	printf("%-8s  %5u  %7u  %4u  %14d s\n", server->way, server->staged, server->there_most,
	       server->there, (int)(server->stood_still_ns / EW_SECOND));
	return r;
}

static int program(void *unused)
{
	struct server servers[] = {
		{ .way = "block", .stage = stage_and_block },
		{ .way = "spawn", .stage = stage_and_spawn },
		{ .way = "block_on", .stage = stage_and_block_on },
		{ .way = "ending", .stage = stage_and_end },
	};
	int r = 0;

	(void)unused;
	printf("way       files  at once  left  loop stood still\n");
	for (unsigned i = 0; i < sizeof(servers) / sizeof(servers[0]) && r == 0; i++)
		r = try_way(&servers[i]);
	return r;
}

static void ignore_report(void *unused, const char *line)
{
	(void)unused; /* that a runtime must not be started in a task, twenty times */
	(void)line;
}

int main(void)
{
	struct ew_run_options options = { .workers_count = 1,
					  .virtual_time = true,
					  .report = ignore_report };

	return ew_run(&options, program, NULL) < 0;
}
