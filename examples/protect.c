/* SPDX-License-Identifier: Apache-2.0 */

/*
 * OCaml's Fun.protect, and on top of it a with_connection(): work is done between an opening and an ending, whatever
 * becomes of the work. The first error wins; an ending that fails is an error of a work that succeeded.
 */

#include <endwell/endwell.h>
#include <errno.h>
#include <stdio.h>

/* Calls @work, and @finally in any case: after a result, an error, a cancel and a panic. */
static int protect(int (*work)(void *argument), int (*finally)(void *argument),
		   void (*finally_now)(void *argument), void *argument)
{
	int r, ending;

	EW_GUARD(ending_guard, argument, .close = finally, .abort = finally_now);

	r = work(argument);
	ending = ew_guard_run(&ending_guard);
	return r < 0 ? r : ending;
}

struct connection {
	const char *name;
	int (*use)(struct connection *connection);
	int goodbye; /* what the peer says to it */
};

static int use(void *argument)
{
	struct connection *connection = argument;

	return connection->use(connection);
}

static int hang_up(void *argument)
{
	struct connection *connection = argument;
	int r = ew_sleep(EW_SECOND); /* also when the caller was cancelled */

	if (r < 0)
		return r;
	printf("%s: hung up\n", connection->name);
	return connection->goodbye;
}

static void cut(void *argument)
{
	struct connection *connection = argument;

	printf("%s: cut\n", connection->name);
}

static int with_connection(struct connection *connection)
{
	int r = ew_sleep(EW_SECOND); /* calling */

	return r < 0 ? r : protect(use, hang_up, cut, connection);
}

static int talk(struct connection *connection)
{
	(void)connection;
	return ew_sleep(EW_SECOND);
}

static int quarrel(struct connection *connection)
{
	(void)connection;
	return -EPROTO;
}

static int talk_for_ever(struct connection *connection)
{
	(void)connection;
	return ew_sleep(EW_NEVER);
}

static const char *name_of(int r)
{
	switch (r) {
	case 0: return "0";
	case -EPROTO: return "-EPROTO";
	case -ETIMEDOUT: return "-ETIMEDOUT";
	case -EIO: return "-EIO";
	default: return "?";
	}
}

static void try_it(struct connection *connection)
{
	EW_SCOPE(patience, .deadline_ns = ew_after(10 * EW_SECOND));
	int r = with_connection(connection);

	printf("%s: %s\n", connection->name, name_of(ew_scope_finish(&patience, r)));
}

static int program(void *unused)
{
	struct connection connections[] = {
		{ .name = "Ada", .use = talk },
		{ .name = "Charles", .use = quarrel },
		{ .name = "Grace", .use = talk_for_ever },
		{ .name = "Alan", .use = talk, .goodbye = -EIO },
	};

	(void)unused;
	for (size_t i = 0; i < sizeof(connections) / sizeof(connections[0]); i++)
		try_it(&connections[i]);
	return 0;
}

int main(void)
{
	struct ew_run_options options = { .workers_count = 1, .virtual_time = true };

	return ew_run(&options, program, NULL) < 0;
}
