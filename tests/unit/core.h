/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * What the core's tests share: runs with virtual time, the reports of a run, endings that count themselves,
 * and child processes for what ends a process.
 */

#include "plain.h"

#include <endwell/clock.h>
#include <endwell/event.h>
#include <endwell/outcome.h>
#include <endwell/run.h>
#include <endwell/semaphore.h>
#include <pthread.h>
#include <sys/resource.h>

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define SANITIZED 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer)
#define SANITIZED 1
#endif
#endif
#ifndef SANITIZED
#define SANITIZED 0
#endif

#ifdef EW_VALGRIND
#include <valgrind/valgrind.h>
#else
#define RUNNING_ON_VALGRIND 0
#endif

#define UNUSED __attribute__((unused))

#define REPORTS_MAX 64

static struct {
	pthread_mutex_t mutex;
	unsigned count;
	char line[REPORTS_MAX][512];
} reports = { .mutex = PTHREAD_MUTEX_INITIALIZER };

static void note_report(void *argument, const char *line)
{
	(void)argument;
	pthread_mutex_lock(&reports.mutex);
	snprintf(reports.line[reports.count % REPORTS_MAX], sizeof(reports.line[0]), "%s", line);
	reports.count++;
	pthread_mutex_unlock(&reports.mutex);
}

/* Whether a report since the last run's start contains both texts; the second may be NULL. */
static UNUSED bool reported(const char *one, const char *other)
{
	unsigned i;

	for (i = 0; i < reports.count && i < REPORTS_MAX; i++)
		if (strstr(reports.line[i], one) && (!other || strstr(reports.line[i], other)))
			return true;
	return false;
}

/* One worker, virtual time: nothing sleeps. */
static UNUSED int run_virtual(ew_task_fn *fn, void *argument)
{
	struct ew_run_options options = { .workers_count = 1,
					  .virtual_time = true,
					  .report = note_report };

	reports.count = 0;
	return ew_run(&options, fn, argument);
}

static UNUSED int run_workers(unsigned workers_count, ew_task_fn *fn, void *argument)
{
	struct ew_run_options options = { .workers_count = workers_count, .report = note_report };

	reports.count = 0;
	return ew_run(&options, fn, argument);
}

/* In a run: whether it is on that driver. */
static UNUSED bool driver_is(const char *name)
{
	return !strncmp(ew_driver_name(), name, strlen(name));
}

/* What happened, in words: trace("a"), trace("b") gives "a b". */
static char traced[1024];

static UNUSED void trace(const char *format, ...) __attribute__((format(printf, 1, 2)));

static UNUSED void trace(const char *format, ...)
{
	size_t used = strlen(traced);
	va_list arguments;

	if (used && used + 1 < sizeof(traced))
		traced[used++] = ' ';
	va_start(arguments, format);
	vsnprintf(traced + used, sizeof(traced) - used, format, arguments);
	va_end(arguments);
}

/* An ending that says what became of it; as argument of a guard, or inside a thing. */
struct probe {
	const char *name;
	int64_t takes_ns; /* close sleeps so long */
	int fails;	  /* close returns this */
	bool panics;
	unsigned closed;
	unsigned aborted;
	int64_t began_ns;
	int64_t ended_ns;
	enum ew_rung rung; /* that close saw */
};

static UNUSED int probe_close(void *argument)
{
	struct probe *probe = argument;
	int r = 0;

	probe->began_ns = ew_now();
	probe->rung = ew_cancel_rung();
	if (probe->takes_ns)
		r = ew_sleep(probe->takes_ns);
	if (r < 0)
		return r;
	if (probe->panics)
		ew_panic("in the close of %s", probe->name);
	probe->closed++;
	probe->ended_ns = ew_now();
	trace("close-%s", probe->name);
	return probe->fails;
}

static UNUSED void probe_abort(void *argument)
{
	struct probe *probe = argument;

	probe->aborted++;
	probe->ended_ns = ew_now();
	trace("abort-%s", probe->name);
}

/* A resource in the test's own memory. */
struct thing {
	struct ew_resource resource;
	struct ew_resource_type type;
	struct probe probe;
};

static UNUSED int thing_close(void *resource)
{
	struct thing *thing = resource;
	int r = probe_close(&thing->probe);

	if (r != -ECANCELED)
		ew_resource_deinit(&thing->resource);
	return r;
}

static UNUSED void thing_abort(void *resource)
{
	struct thing *thing = resource;

	ew_resource_deinit(&thing->resource);
	probe_abort(&thing->probe);
}

static UNUSED struct thing *thing_open(struct thing *thing, const char *name,
				       const struct ew_site *site)
{
	thing->type.name = name;
	thing->type.close = thing_close;
	thing->type.abort = thing_abort;
	thing->probe.name = name;
	thing->probe.closed = 0;
	thing->probe.aborted = 0;
	ew_resource_init(&thing->resource, &thing->type, site);
	return thing;
}

#define THING_OPEN(thing_, name_) thing_open(thing_, name_, EW_SITE("thing_open"))

/* How a child process ended, and what it said on stderr. */
struct ended {
	int status;
	char text[1024];
};

static UNUSED struct ended run_process(void (*fn)(void))
{
	struct rlimit no_core = { 0, 0 };
	struct ended ended = { 0 };
	size_t used = 0;
	ssize_t count;
	int pipe_fd[2];
	pid_t child;

	EXPECT_EQ(pipe(pipe_fd), 0);
	child = fork();
	EXPECT(child >= 0);
	if (child == 0) {
		setrlimit(RLIMIT_CORE, &no_core);
		dup2(pipe_fd[1], STDERR_FILENO);
		fn();
		_exit(0);
	}
	close(pipe_fd[1]);
	while ((count = read(pipe_fd[0], ended.text + used, sizeof(ended.text) - 1 - used)) > 0)
		used += (size_t)count;
	close(pipe_fd[0]);
	EXPECT_EQ(waitpid(child, &ended.status, 0), child);
	return ended;
}
