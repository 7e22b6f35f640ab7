/* SPDX-License-Identifier: Apache-2.0 */

#include "process.h"

#include <fcntl.h>
#include <malloc.h>
#include <pthread.h>
#include <signal.h>
#include <string.h>
#include <unistd.h>

#include <endwell/clock.h>
#include <endwell/offload.h>

#include "log.h"

#define LOG_PATIENCE	     (2 * EW_SECOND)
#define MEMORY_KEPT_BYTES    (32 << 20) /* free at its end, for each thread's heap */
#define MEMORY_IDLE_BYTES    (8 << 20)	/* free anywhere */
#define MEMORY_LOOK_INTERVAL (10 * EW_SECOND)

/*
 * A parent may have closed them; then the next file opened would get their numbers, and log lines
 * would be written into it.
 */
static int fill_standard_descriptors(void)
{
	int fd;

	do
		fd = open("/dev/null", O_RDWR);
	while (fd >= 0 && fd <= STDERR_FILENO);
	return fd < 0 ? fd : close(fd);
}

int process_prepare(void)
{
	/* Else memory goes back to the kernel, and comes from it again, with every few requests that end (mallopt(3)). */
	mallopt(M_TRIM_THRESHOLD, MEMORY_KEPT_BYTES);
	return fill_standard_descriptors();
}

static void end_signals(sigset_t *ret_set)
{
	sigemptyset(ret_set);
	sigaddset(ret_set, SIGTERM);
	sigaddset(ret_set, SIGINT);
}

int process_signals(struct ew_signals **ret_signals)
{
	sigset_t set;

	end_signals(&set);
	return ew_signals_open(&set, ret_signals);
}

static void report(void *unused, const char *line)
{
	(void)unused;
	log_note("error", "runtime", "%s", line);
}

/*
 * What is free below something that is in use stays with a heap, whatever its size; after a crowd that
 * is most of it.
 */
static int give_back(void *unused)
{
	(void)unused;
	if (mallinfo2().fordblks > MEMORY_IDLE_BYTES)
		malloc_trim(0);
	return 0;
}

static int keep_heap_small(void *unused)
{
	int r, result;

	(void)unused;
	do {
		r = ew_sleep(MEMORY_LOOK_INTERVAL);
		if (r == 0)
			r = ew_offload(give_back, NULL, &result);
	} while (r == 0);
	return r;
}

struct program {
	ew_task_fn *fn;
	void *argument;
};

static int run_program(void *argument)
{
	const struct program *program = argument;
	int r;

	EW_SCOPE(beside, .policy = EW_POLICY_INDEPENDENT);

	r = ew_spawn(&beside, keep_heap_small, NULL);
	if (r == 0)
		r = program->fn(program->argument);
	ew_scope_cancel(&beside, EW_REASON_SHUTDOWN);
	return r;
}

int process_run(ew_task_fn *fn, void *argument, unsigned int workers_count, int64_t budget_ns,
		void (*say_end)(void *argument, int r))
{
	struct ew_run_options options = {
		.workers_count = workers_count,
		.shutdown_budget_ns = budget_ns,
		.exit_when_stuck = true,
		.report = report,
	};
	struct program program = { fn, argument };
	sigset_t signals, pipe;
	int r;

	end_signals(&signals);
	options.signals = &signals;
	/* Blocked before the log's thread is made, which would take them otherwise. */
	pthread_sigmask(SIG_BLOCK, &signals, NULL);
	/* And that thread must survive a reader of standard error that has left. */
	sigemptyset(&pipe);
	sigaddset(&pipe, SIGPIPE);
	pthread_sigmask(SIG_BLOCK, &pipe, NULL);
	/*
	 * A parent that ignores its children hands that down, and the kernel would reap ours
	 * before us.
	 */
	signal(SIGCHLD, SIG_DFL);
	r = log_start();
	if (r < 0)
		return r;
	r = ew_run(&options, run_program, &program);
	say_end(argument, r);
	log_stop(ew_after(LOG_PATIENCE));
	return r;
}
