/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Files are the levers, because every test language can make and remove them: while `hold.NAME`
 * exists, the upload of NAME waits before it gets its name, and `held.NAME` says that it does; while
 * `hold-named.NAME` exists, after. Only the test build contains this file.
 */
#include "hook.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <endwell/task.h>

#define PATH_BYTES 1024

static int hold(const char *suffix, const char *name)
{
	const char *folder = getenv("EW_TEST_HOOKS");
	char lever[PATH_BYTES], held[PATH_BYTES];
	int fd, r = 0;

	if (!folder)
		return 0;
	snprintf(lever, sizeof(lever), "%s/hold%s.%s", folder, suffix, name);
	snprintf(held, sizeof(held), "%s/held%s.%s", folder, suffix, name);
	if (access(lever, F_OK) < 0)
		return 0;

	fd = open(held, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
	if (fd >= 0)
		close(fd);
	while (r == 0 && access(lever, F_OK) == 0)
		r = ew_sleep(EW_MILLISECOND);
	unlink(held);
	return r;
}

bool hook_bug(const char *bug)
{
	const char *seeded = getenv("EW_SEED_BUG");

	return seeded && strcmp(seeded, bug) == 0;
}

int hook_hold(const char *name)
{
	return hold("", name);
}

int hook_hold_named(const char *name)
{
	return hold("-named", name);
}
