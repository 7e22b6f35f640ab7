/* SPDX-License-Identifier: Apache-2.0 */

/*
 * A deadline over several tasks. Two of three workers are quick, one is not: at the deadline it is cancelled,
 * the block waits until it has ended, and the result is -ETIMEDOUT. A deadline that sits inside another one
 * never lengthens it.
 */

#include <endwell/endwell.h>
#include <errno.h>
#include <stdio.h>

struct job {
	const char *name;
	int64_t takes_ns;
};

static int work(void *argument)
{
	const struct job *job = argument;
	int r = ew_sleep(job->takes_ns);

	printf("%s: %s\n", job->name, r == 0 ? "done" : "stopped");
	return r;
}

static int all_within(struct job *jobs, size_t count, int64_t duration_ns)
{
	EW_SCOPE(scope, .deadline_ns = ew_after(duration_ns));
	int r = 0;

	for (size_t i = 0; i < count && r == 0; i++)
		r = ew_spawn(&scope, work, &jobs[i]);
	return ew_scope_finish(&scope, r);
}

static int program(void *unused)
{
	struct job jobs[] = {
		{ "copper", 10 * EW_MILLISECOND },
		{ "iron", 20 * EW_MILLISECOND },
		{ "gold", 3600 * EW_SECOND },
	};
	int r = all_within(jobs, 2, EW_SECOND);

	(void)unused;
	printf("two: %s\n", r == 0 ? "all done" : "out of time");
	if (r < 0)
		return r;
	r = all_within(jobs, 3, 200 * EW_MILLISECOND);
	printf("three: %s\n", r == -ETIMEDOUT ? "out of time" : "all done");
	return r == -ETIMEDOUT ? 0 : r;
}

int main(void)
{
	return ew_run(NULL, program, NULL) < 0;
}
