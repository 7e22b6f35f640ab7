/* SPDX-License-Identifier: Apache-2.0 */

/*
 * A worker counts its turns and, within one, its switches. When both stand still for the limit, and it does not sleep
 * in its driver, then one task has kept it. Until then nothing is done to the worker. Then its thread gets a
 * signal, SIGURG, which hardly anybody uses and which does nothing by default, should it come late; the handler notes
 * the task and the calls that it is in, and the detector's thread says so, once for each stall.
 *
 * A call that the signal interrupts goes on (SA_RESTART), except those that never do, see signal(7).
 */

#include "run/stall.h"

#include <dlfcn.h>
#include <endwell/clock.h>
#include <errno.h>
#include <string.h>

#define LOOKS_IN_LIMIT	   4
#define LOOK_EVERY_MIN_NS  EW_MILLISECOND
#define NOTE_LOOKS	   50
#define NOTE_LOOK_EVERY_NS (2 * EW_MILLISECOND)

/* The handler is the process's: it is there as long as a runtime has a detector. */
static pthread_mutex_t handler_lock = PTHREAD_MUTEX_INITIALIZER;
static unsigned detectors_count;
static struct sigaction before_handler;

static void handle(int number)
{
	int before = errno, wanted = EW__STALL_WANTED;
	struct ew__stall *stall;

	(void)number;
	if (!ew__worker || !ew__worker->runtime)
		return; /* no worker of a runtime: it was not meant */
	stall = &ew__container_of(ew__worker, struct ew__worker_thread, worker)->stall;
	if (!atomic_compare_exchange_strong(&stall->note, &wanted, EW__STALL_BEING_NOTED))
		return;
	stall->task = ew__task() ? ew__task()->site : NULL;
	ew__backtrace_take(&stall->calls);
	atomic_store(&stall->note, EW__STALL_NOTED);
	errno = before;
}

/* Where a worker stands: changes with each switch. */
static uint64_t place_of(struct ew_worker *worker)
{
	uint64_t turns = atomic_load_explicit(&worker->turns, memory_order_relaxed);

	return turns << 16 | atomic_load_explicit(&worker->switches_left, memory_order_relaxed);
}

/* File and offset, for addr2line(1): names would be those of exported functions only, and mislead. */
static void say_frame(const void *address)
{
	Dl_info info = { 0 };
	const char *file;

	if (!dladdr(address, &info) || !info.dli_fname) {
		ew__report("stall:   at %p", address);
		return;
	}
	file = strrchr(info.dli_fname, '/');
	ew__report("stall:   at %p, %s+%#tx", address, file ? file + 1 : info.dli_fname,
		   (const char *)address - (const char *)info.dli_fbase);
}

/* False: the thread does not come to its handler. */
static bool ask(struct ew__stall_watch *watch, struct ew__worker_thread *thread)
{
	int wanted = EW__STALL_WANTED;
	unsigned looks;

	if (atomic_load(&thread->stall.note) == EW__STALL_BEING_NOTED)
		return false; /* still, by the one before */
	atomic_store(&thread->stall.note, EW__STALL_WANTED);
	if (pthread_kill(thread->thread, SIGURG) == 0)
		for (looks = 0; looks < NOTE_LOOKS; looks++)
			if (atomic_load(&thread->stall.note) == EW__STALL_NOTED ||
			    !ew__lookout_sleep(&watch->lookout, NOTE_LOOK_EVERY_NS))
				break;
	/* One that comes later must not write into what is being read. */
	atomic_compare_exchange_strong(&thread->stall.note, &wanted, EW__STALL_NONE);
	return atomic_load(&thread->stall.note) == EW__STALL_NOTED;
}

/* False: the thread could not be asked; it is asked again, but that is said once. */
static bool say(struct ew__stall_watch *watch, struct ew__worker_thread *thread)
{
	struct ew__stall *stall = &thread->stall;
	long long kept_ms = (long long)((ew_now() - stall->since_ns) / EW_MILLISECOND);
	unsigned i;

	if (!ask(watch, thread)) {
		if (!stall->silent)
			ew__report(
				"stall: worker %u has not switched for %lld ms, and does not answer",
				thread->worker.number, kept_ms);
		stall->silent = true;
		return false;
	}
	if (stall->task)
		ew__report("stall: worker %u: task %s (%s:%d) has kept it for %lld ms",
			   thread->worker.number, stall->task->name, stall->task->file,
			   stall->task->line, kept_ms);
	else
		ew__report("stall: worker %u has been between two tasks for %lld ms",
			   thread->worker.number, kept_ms);
	for (i = 0; i < stall->calls.count; i++)
		say_frame(stall->calls.frames[i]);
	return true;
}

static void look_at(struct ew__stall_watch *watch, struct ew__worker_thread *thread)
{
	struct ew__stall *stall = &thread->stall;
	uint64_t place = place_of(&thread->worker);
	int64_t now_ns = ew_now();

	if (place != stall->place || atomic_load(&thread->worker.asleep)) {
		stall->place = place;
		stall->since_ns = now_ns;
		stall->said = false;
		stall->silent = false;
		return;
	}
	if (stall->said || now_ns - stall->since_ns < watch->runtime->options.stall_limit_ns)
		return;
	stall->said = say(watch, thread);
}

static void *watch_stalls(void *argument)
{
	struct ew__stall_watch *watch = argument;
	struct ew__runtime *runtime = watch->runtime;
	int64_t every_ns = runtime->options.stall_limit_ns / LOOKS_IN_LIMIT;
	unsigned i;

	if (every_ns < LOOK_EVERY_MIN_NS)
		every_ns = LOOK_EVERY_MIN_NS;
	ew__report_for(runtime);
	while (ew__lookout_sleep(&watch->lookout, every_ns))
		for (i = 0; i < runtime->workers_count; i++)
			look_at(watch, &runtime->threads[i]);
	return NULL;
}

static void handler_enter(void)
{
	struct sigaction action = { .sa_handler = handle, .sa_flags = SA_RESTART };

	pthread_mutex_lock(&handler_lock);
	if (detectors_count++ == 0)
		sigaction(SIGURG, &action, &before_handler);
	pthread_mutex_unlock(&handler_lock);
}

static void handler_leave(void)
{
	pthread_mutex_lock(&handler_lock);
	if (--detectors_count == 0)
		sigaction(SIGURG, &before_handler, NULL);
	pthread_mutex_unlock(&handler_lock);
}

void ew__stall_watch_start(struct ew__stall_watch *watch, struct ew__runtime *runtime)
{
	struct ew__backtrace unwinder_loaded;

	*watch = (struct ew__stall_watch){ .runtime = runtime };
	if (!runtime->options.stall_limit_ns || runtime->options.virtual_time)
		return;
	ew__backtrace_take(&unwinder_loaded);
	handler_enter();
	if (!ew__lookout_start(&watch->lookout, watch_stalls, watch))
		ew__report("no thread for the stall detector: stalls will not be named");
}

void ew__stall_watch_stop(struct ew__stall_watch *watch)
{
	if (!watch->runtime->options.stall_limit_ns || watch->runtime->options.virtual_time)
		return;
	ew__lookout_stop(&watch->lookout);
	handler_leave();
}
