/* SPDX-License-Identifier: Apache-2.0 */

/*
 * A thread of its own, because a worker may be what is stuck. It looks ten times a second whether the root is
 * cancelled, waits for the end of the promised time, asks each worker to describe its tasks, says so for those
 * that do not answer, and leaves with _exit(): nothing may run that could hang again.
 */

#include "run/watchdog.h"

#include "io/pool.h"
#include "run/mounts.h"
#include "seeded/bug.h"

#include <endwell/clock.h>
#include <stdio.h>
#include <time.h>
#include <unistd.h>

#define LOOK_EVERY_NS	   (100 * EW_MILLISECOND)
#define ANSWER_LOOK_NS	   (10 * EW_MILLISECOND)
#define ANSWER_LOOKS	   30
#define REPORT_LOOKS	   40
#define REPORTED_WITHIN_NS (100 * EW_MILLISECOND)
#define TASKS_NAMED_MAX	   32
#define EXIT_STUCK	   70 /* EX_SOFTWARE, sysexits.h */

static void describe(struct ew__message *message)
{
	struct ew__worker_thread *thread =
		ew__container_of(message, struct ew__worker_thread, describe);
	struct ew_worker *worker = &thread->worker;
	struct ew_task *task;
	unsigned named = 0;
	char text[512];

	if (worker == worker->runtime->root.worker) {
		ew__scope_describe(&worker->runtime->root, text, sizeof(text));
		ew__report("stuck: %s", text);
	}
	for (task = worker->tasks; task && named < TASKS_NAMED_MAX; task = task->worker_next) {
		if (!task->scope)
			continue;
		named++;
		ew__task_describe(task, text, sizeof(text));
		ew__report("stuck: worker %u: %s", worker->number, text);
	}
	if (ew__tasks_living(worker) > named)
		ew__report("stuck: worker %u: %u tasks more", worker->number,
			   ew__tasks_living(worker) - named);
	if (worker->transfers || ew__driver_in_flight(worker->driver))
		ew__report("stuck: worker %u: %u operations in the kernel, %u on threads",
			   worker->number, ew__driver_in_flight(worker->driver), worker->transfers);
	atomic_store(&thread->described, true);
}

static void report_lane(const struct ew__lane_state *lane, int64_t now_ns)
{
	char name[320] = "the program's own calls";

	if (lane->device)
		ew__describe_device(lane->device, name, sizeof(name));
	ew__report("stuck: %s: %u calls on threads, %u more wait; the oldest, %s, for %lld ms",
		   name, lane->running_count, lane->queued_count, lane->oldest,
		   (long long)((now_ns - lane->oldest_since_ns) / EW_MILLISECOND));
}

static void report_lanes(const struct ew__runtime *runtime)
{
	struct ew__lane_state lanes[EW__LANE_STATES_MAX];
	unsigned count = ew__pool_look(runtime->pool, lanes), i;

	for (i = 0; i < count; i++)
		report_lane(&lanes[i], ew_now());
}

static bool all_described(const struct ew__runtime *runtime)
{
	unsigned i;

	for (i = 0; i < runtime->workers_count; i++)
		if (!atomic_load(&runtime->threads[i].described))
			return false;
	return true;
}

/* Counted in looks, not by the clock: when the whole process stands still, the workers lose no more than one. */
static bool await_descriptions(struct ew__watchdog *watchdog)
{
	unsigned looks;

	for (looks = 0; looks < ANSWER_LOOKS && !all_described(watchdog->runtime); looks++) {
		watchdog->steps++;
		if (!ew__lookout_sleep(&watchdog->lookout, ANSWER_LOOK_NS))
			return false;
	}
	return true;
}

static void *name_what_is_stuck(void *argument)
{
	struct ew__watchdog *watchdog = argument;
	struct ew__runtime *runtime = watchdog->runtime;
	struct ew__worker_thread *thread;
	unsigned i;

	ew__report_for(runtime);
	ew__report("the shutdown did not end in the promised time: leaving by _exit()");
	for (i = 0; i < runtime->workers_count; i++) {
		runtime->threads[i].describe.deliver = describe;
		ew__post(&runtime->threads[i].worker, &runtime->threads[i].describe);
	}
	if (!await_descriptions(watchdog))
		return NULL;
	for (i = 0; i < runtime->workers_count; i++) {
		thread = &runtime->threads[i];
		watchdog->steps++;
		if (!atomic_load(&thread->described))
			ew__report("stuck: worker %u does not answer: a task blocks its thread",
				   thread->worker.number);
	}
	watchdog->steps++;
	if (!ew__bug("stuck-calls-not-named"))
		report_lanes(runtime);
	fflush(stderr);
	atomic_store(&watchdog->named, true);
	return NULL;
}

/* As long as it comes on, however slowly on a machine that has much else to do. */
static void await_reports(struct ew__watchdog *watchdog)
{
	unsigned steps = 0, looks = 0, now;

	while (looks++ < REPORT_LOOKS && !atomic_load(&watchdog->named) &&
	       ew__lookout_sleep(&watchdog->lookout, ANSWER_LOOK_NS)) {
		now = watchdog->steps;
		if (now != steps)
			looks = 0;
		steps = now;
	}
}

/* The reports come from one thread more: whoever is to read them may be what is stuck. */
static void leave_stuck(struct ew__watchdog *watchdog)
{
	pthread_t reporter;
	bool reporting = pthread_create(&reporter, NULL, name_what_is_stuck, watchdog) == 0;

	if (!reporting)
		name_what_is_stuck(watchdog);
	await_reports(watchdog);
	/* The program's report function, too, may hand lines to a thread. */
	if (ew__lookout_sleep(&watchdog->lookout, REPORTED_WITHIN_NS)) {
		if (reporting)
			(void)pthread_tryjoin_np(reporter, NULL);
		_exit(EXIT_STUCK);
	}
	if (reporting)
		pthread_join(reporter, NULL);
}

static void *watch(void *argument)
{
	struct ew__watchdog *watchdog = argument;
	struct ew__runtime *runtime = watchdog->runtime;
	int64_t deadline_ns = EW_NEVER, announced_ns;

	while (ew__lookout_sleep(&watchdog->lookout, LOOK_EVERY_NS)) {
		if (deadline_ns == EW_NEVER && ew_scope_reason(&runtime->root) != EW_REASON_NONE)
			deadline_ns = ew_after(runtime->options.shutdown_budget_ns - LOOK_EVERY_NS);
		announced_ns = atomic_load(&runtime->end_by_ns);
		if (!ew__bug("watchdog-sleeps-on") &&
		    ew_now() >= (announced_ns < deadline_ns ? announced_ns : deadline_ns))
			leave_stuck(watchdog);
	}
	return NULL;
}

void ew__watchdog_start(struct ew__watchdog *watchdog, struct ew__runtime *runtime)
{
	*watchdog = (struct ew__watchdog){ .runtime = runtime };
	if (!runtime->options.exit_when_stuck || runtime->options.virtual_time)
		return;
	if (!ew__lookout_start(&watchdog->lookout, watch, watchdog))
		ew__report("no thread for the watchdog: a stuck shutdown will not end by itself");
}

void ew__watchdog_stop(struct ew__watchdog *watchdog)
{
	ew__lookout_stop(&watchdog->lookout);
}
