/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Two looks: one at the worker when only the main task is left, one at the process when the run is over.
 * Aborted endings may still be on their way through threads and kernel at the first look, which is their right: it
 * waits for those, and whoever watches the run sees it if they never come.
 */

#include "sweep/census.h"

#include "scope/resource.h"
#include "task/worker.h"

#include <dirent.h>
#include <endwell/clock.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

static int compare_numbers(const void *one, const void *other)
{
	return *(const int *)one - *(const int *)other;
}

static bool has_children(void)
{
	siginfo_t info;

	return waitid(P_ALL, 0, &info, WEXITED | WNOHANG | WNOWAIT) == 0 || errno != ECHILD;
}

void ew__census_take(struct ew__census *census)
{
	DIR *directory = opendir("/proc/self/fd");
	struct dirent *entry;
	int number;

	census->has_children = has_children();
	census->descriptors_count = 0;
	ew_assert(directory);
	while ((entry = readdir(directory))) {
		if (entry->d_name[0] == '.')
			continue;
		number = atoi(entry->d_name);
		if (number == dirfd(directory))
			continue;
		ew_assert(census->descriptors_count < EW__CENSUS_DESCRIPTORS_MAX);
		census->descriptors[census->descriptors_count++] = number;
	}
	closedir(directory);
	qsort(census->descriptors, census->descriptors_count, sizeof(census->descriptors[0]),
	      compare_numbers);
}

static void describe_descriptor(int number, char *what, size_t what_bytes)
{
	char path[64], target[128];
	ssize_t length;

	snprintf(path, sizeof(path), "/proc/self/fd/%d", number);
	length = readlink(path, target, sizeof(target) - 1);
	target[length > 0 ? length : 0] = '\0';
	snprintf(what, what_bytes, "descriptor %d is left open: %s", number, target);
}

/* The first number that is in one list only, @ret_is_new: in the second. -1: none. */
static int first_difference(const struct ew__census *before, const struct ew__census *after,
			    bool *ret_is_new)
{
	unsigned i, j;

	for (i = j = 0; i < before->descriptors_count || j < after->descriptors_count; i++, j++) {
		*ret_is_new = i == before->descriptors_count ||
			      (j < after->descriptors_count &&
			       after->descriptors[j] < before->descriptors[i]);
		if (*ret_is_new)
			return after->descriptors[j];
		if (j == after->descriptors_count || before->descriptors[i] < after->descriptors[j])
			return before->descriptors[i];
	}
	return -1;
}

bool ew__census_compare(const struct ew__census *before, char *what, size_t what_bytes)
{
	struct ew__census *after = malloc(sizeof(*after));
	bool is_new = false, same = false;
	int number;

	ew_assert(after);
	ew__census_take(after);
	number = first_difference(before, after, &is_new);
	if (number >= 0 && is_new)
		describe_descriptor(number, what, what_bytes);
	else if (number >= 0)
		snprintf(what, what_bytes,
			 "descriptor %d, which was open before the run, is closed", number);
	else if (after->has_children && !before->has_children)
		snprintf(what, what_bytes, "a child process is left");
	else
		same = true;
	free(after);
	return same;
}

static bool is_busy(const struct ew_worker *worker)
{
	return worker->transfers || ew__driver_in_flight(worker->driver) ||
	       ew__driver_has_queued(worker->driver);
}

/* Also if the program has shut down its run. */
static void wait_until_idle(const struct ew_worker *worker)
{
	EW_SHIELD(shield, .budget_ns = EW_NEVER);

	while (is_busy(worker))
		if (ew_sleep(EW_MILLISECOND) < 0)
			break;
}

bool ew__census_of_run(bool own, char *what, size_t what_bytes)
{
	const struct ew_worker *worker = ew__worker;
	const struct ew_resource *resource;

	wait_until_idle(worker);
	resource = own ? ew__resources_newest_here() : ew__resources_newest();
	if (ew__tasks_living(worker) != 1)
		snprintf(what, what_bytes, "%u tasks are left", ew__tasks_living(worker) - 1);
	else if (resource)
		snprintf(what, what_bytes, "%s made at %s:%d is left", resource->type->name,
			 resource->site->file, resource->site->line);
	else if (worker->wheel.armed_count)
		snprintf(what, what_bytes, "%u timers are left",
			 (unsigned)worker->wheel.armed_count);
	else
		return true;
	return false;
}
