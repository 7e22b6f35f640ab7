/* SPDX-License-Identifier: Apache-2.0 */

#include "testing/hardship.h"

#include "task/worker.h"

#include <stdbool.h>
#include <sys/resource.h>
#include <unistd.h>

static struct {
	bool begun;
	struct rlimit descriptors, processes;
} before;

/* A new one gets the lowest number that is free, and those below that are all taken. */
static void take_descriptors(void)
{
	struct rlimit limit = before.descriptors;
	int lowest = dup(ew__worker->driver->doorbell);

	if (lowest < 0)
		return; /* there are none already */
	close(lowest);
	limit.rlim_cur = (rlim_t)lowest;
	setrlimit(RLIMIT_NOFILE, &limit);
}

static void take_threads(void)
{
	struct rlimit limit = before.processes;

	limit.rlim_cur = 0;
	setrlimit(RLIMIT_NPROC, &limit);
}

void ew__hardship_begin(void)
{
	getrlimit(RLIMIT_NOFILE, &before.descriptors);
	getrlimit(RLIMIT_NPROC, &before.processes);
	before.begun = true;
	take_descriptors();
	take_threads();
}

void ew__hardship_end(void)
{
	if (!before.begun)
		return;
	before.begun = false;
	setrlimit(RLIMIT_NOFILE, &before.descriptors);
	setrlimit(RLIMIT_NPROC, &before.processes);
}
