/* SPDX-License-Identifier: Apache-2.0 */

/*
 * A panic in one of a thousand tasks. It ends that task, with its endings, and no other: the policy of the scope
 * says that each end concerns only the task itself.
 */

#include <endwell/endwell.h>
#include <errno.h>
#include <stdio.h>

#define TASKS	1000
#define FRAGILE 499

static unsigned endings;

static int end_well(void *unused)
{
	int r = ew_sleep(EW_SECOND);

	(void)unused;
	endings += r == 0;
	return r;
}

static void end_now(void *unused)
{
	(void)unused;
	endings++;
}

static int work(void *argument)
{
	const unsigned *number = argument;
	int r;

	EW_GUARD(ending, NULL, .close = end_well, .abort = end_now);

	r = ew_sleep(EW_SECOND);
	if (*number == FRAGILE)
		ew_panic("a bug that only number %u has", *number);
	return r;
}

static int program(void *unused)
{
	static unsigned numbers[TASKS];
	static struct ew_child children[TASKS];
	unsigned done = 0, panicked = 0;
	int r = 0;

	(void)unused;
	EW_SCOPE(scope, .policy = EW_POLICY_INDEPENDENT);
	for (unsigned i = 0; i < TASKS && r == 0; i++) {
		numbers[i] = i;
		r = ew_spawn(&scope, work, &numbers[i], .child = &children[i]);
	}
	if (r == 0)
		r = ew_scope_join(&scope);
	for (unsigned i = 0; i < TASKS; i++) {
		done += children[i].result == 0;
		panicked += children[i].result == -ENOTRECOVERABLE;
	}
	printf("%u done, %u panicked, %u endings\n", done, panicked, endings);
	return r;
}

int main(void)
{
	struct ew_run_options options = { .workers_count = 1, .virtual_time = true };

	return ew_run(&options, program, NULL) < 0;
}
