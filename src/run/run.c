/* SPDX-License-Identifier: Apache-2.0 */

/*
 * ew_run(): worker 1 is the calling thread, the others are started and told to stop by it. The main task
 * is the only child of the root scope; since every task is inside a scope of another task, its end is the
 * end of all tasks. Then resources that nobody owns are aborted, and each worker goes on until the kernel and
 * the pool have given back everything.
 */

#include "run/runtime.h"

#include "io/pool.h"
#include "run/overflow.h"
#include "run/stall.h"
#include "run/watchdog.h"
#include "scope/resource.h"
#include "scope/thread.h"
#include "seeded/bug.h"
#include "sweep/environment.h"
#include "task/kernel.h"
#include "task/slice.h"

#include <endwell/clock.h>
#include <sched.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define SHUTDOWN_BUDGET_DEFAULT (30 * EW_SECOND)
#define WORKER_SLICE_NS		(100 * EW_MICROSECOND) /* the shortest that Linux has */

/*
 * Where reports go when no worker of a runtime is at hand: the last one that was started, and stderr when that has ended.
 * It does not end while a thread reports to it.
 */
static struct ew__runtime *current_runtime;
static pthread_rwlock_t current_lock = PTHREAD_RWLOCK_INITIALIZER;
static __thread const struct ew__runtime *reports_for;

static void set_current(struct ew__runtime *runtime)
{
	pthread_rwlock_wrlock(&current_lock);
	current_runtime = runtime;
	pthread_rwlock_unlock(&current_lock);
}

/* If a later one has begun meanwhile, reports are for that. */
static void unset_current(const struct ew__runtime *runtime)
{
	pthread_rwlock_wrlock(&current_lock);
	if (current_runtime == runtime)
		current_runtime = NULL;
	pthread_rwlock_unlock(&current_lock);
}

static struct ew__runtime *runtime_here(void)
{
	return ew__worker ? ew__worker->runtime : NULL;
}

static void report_to(const struct ew__runtime *runtime, const char *line)
{
	if (runtime && runtime->options.report)
		runtime->options.report(runtime->options.report_argument, line);
	else
		fprintf(stderr, "endwell: %s\n", line);
}

void ew__report_for(const struct ew__runtime *runtime)
{
	reports_for = runtime;
}

void ew__report(const char *format, ...)
{
	const struct ew__runtime *runtime = runtime_here() ? runtime_here() : reports_for;
	char line[1024];
	va_list arguments;

	va_start(arguments, format);
	vsnprintf(line, sizeof(line), format, arguments);
	va_end(arguments);
	if (runtime) {
		report_to(runtime, line);
		return;
	}
	pthread_rwlock_rdlock(&current_lock);
	report_to(current_runtime, line);
	pthread_rwlock_unlock(&current_lock);
}

_Noreturn void ew__assert_failed(const char *condition, const char *file, int line)
{
	struct ew_task *task = ew__task();

	fprintf(stderr, "endwell: assertion failed at %s:%d: %s (task %s)\n", file, line, condition,
		task ? task->site->name : "none");
	abort();
}

struct ew_worker *ew__worker_by_number(struct ew__runtime *runtime, unsigned number)
{
	struct ew__worker_thread *threads = runtime->threads;

	return number >= 1 && number <= runtime->workers_count ? &threads[number - 1].worker : NULL;
}

unsigned ew_worker(void)
{
	return ew__worker ? ew__worker->number : 0;
}

unsigned ew_workers_count(void)
{
	return ew__worker && ew__worker->runtime ? ew__worker->runtime->workers_count : 0;
}

const char *ew_task_name(void)
{
	struct ew_task *task = ew__task();

	return task && task->scope ? task->site->name : "";
}

enum ew_outcome ew_outcome(void)
{
	struct ew_task *task = ew__task();

	return task ? (enum ew_outcome)task->outcome : EW_OUTCOME_NONE;
}

const char *ew_driver_name(void)
{
	static __thread char name[128];
	struct ew__runtime *runtime = runtime_here();
	const struct ew__driver_type *driver = runtime ? runtime->driver : NULL;

	if (ew__worker && ew__worker->driver)
		driver = ew__worker->driver->type;

	snprintf(name, sizeof(name), "%s (kernel %s, stack guards by %s)",
		 driver ? driver->name : "none", ew__kernel_name(),
		 ew__stack_guards_are_markers() ? "madvise" : "mprotect");
	return name;
}

struct ew_scope *ew__scope_of_run(void)
{
	return ew__worker->runtime ? &ew__worker->runtime->root : NULL;
}

void(ew_shutdown)(void)
{
	ew_assert(ew__worker && ew__worker->runtime);
	(ew_scope_cancel)(ew__scope_of_run(), EW_REASON_SHUTDOWN);
}

static void end_by(struct ew__runtime *runtime, int64_t deadline_ns)
{
	int64_t before_ns = atomic_load(&runtime->end_by_ns);

	while (deadline_ns < before_ns &&
	       !atomic_compare_exchange_weak(&runtime->end_by_ns, &before_ns, deadline_ns))
		;
}

void ew_end_by(int64_t deadline_ns)
{
	ew_assert(ew__worker && ew__worker->runtime);
	end_by(ew__worker->runtime, deadline_ns);
}

unsigned ew_workers_default(void)
{
	cpu_set_t set;
	int count;

	if (sched_getaffinity(0, sizeof(set), &set) < 0)
		return 1;
	count = CPU_COUNT(&set);
	return count < 1 ? 1 : count > EW_WORKERS_MAX ? EW_WORKERS_MAX : (unsigned)count;
}

static void deliver_stop(struct ew__message *message)
{
	struct ew_worker *worker =
		&(ew__container_of(message, struct ew__worker_thread, stop))->worker;

	worker->stop_asked = true;
	/* Of what outlives the runtime, in a channel or because it was made outside. */
	if (!ew__bug("standing-operations-not-called-back"))
		ew__standing_recall(worker);
}

static void stop_workers(struct ew__runtime *runtime)
{
	struct ew__worker_thread *threads = runtime->threads;
	unsigned i;

	for (i = 0; i < runtime->workers_count; i++) {
		if (!threads[i].started || (ew__bug("second-worker-not-stopped") && i == 1))
			continue;
		threads[i].stop.deliver = deliver_stop;
		ew__post(&threads[i].worker, &threads[i].stop);
	}
}

static void *worker_main(void *argument)
{
	struct ew__worker_thread *thread = argument;
	int r;

	ew__worker = &thread->worker;
	ew__worker_init(&thread->worker);
	r = ew__driver_open(&thread->worker.driver, thread->worker.runtime->driver, thread->why,
			    sizeof(thread->why));
	if (r == 0)
		ew__overflow_watch_thread();
	pthread_mutex_lock(thread->mutex);
	thread->opened = r < 0 ? r : 1;
	++*thread->opened_count;
	pthread_cond_signal(thread->changed);
	pthread_mutex_unlock(thread->mutex);
	if (r < 0)
		return NULL;
	ew__worker_loop(&thread->worker);
	ew__worker_close(&thread->worker);
	ew__overflow_unwatch_thread();
	return NULL;
}

/* Starts workers 2 and up and waits until each has its driver. The first error of one, or 0. */
static int start_workers(struct ew__runtime *runtime, pthread_mutex_t *mutex,
			 pthread_cond_t *changed)
{
	struct ew__worker_thread *threads = runtime->threads;
	unsigned opened_count = 0, started_count = 0, i;
	int r = 0;

	for (i = 1; i < runtime->workers_count; i++) {
		threads[i].mutex = mutex;
		threads[i].changed = changed;
		threads[i].opened_count = &opened_count;
		r = -pthread_create(&threads[i].thread, NULL, worker_main, &threads[i]);
		if (r < 0) {
			snprintf(threads[i].why, sizeof(threads[i].why),
				 "a worker's thread could not start (%s)", strerror(-r));
			threads[i].opened = r;
			break;
		}
		threads[i].started = true;
		started_count++;
	}
	pthread_mutex_lock(mutex);
	while (opened_count < started_count)
		pthread_cond_wait(changed, mutex);
	pthread_mutex_unlock(mutex);
	for (i = 1; i < runtime->workers_count; i++) {
		if (threads[i].opened >= 0)
			continue;
		ew__report("%s", threads[i].why);
		return threads[i].opened;
	}
	return 0;
}

static void join_workers(struct ew__runtime *runtime)
{
	struct ew__worker_thread *threads = runtime->threads;
	unsigned i;

	for (i = 1; i < runtime->workers_count; i++)
		if (threads[i].started)
			pthread_join(threads[i].thread, NULL);
}

struct main_call {
	struct ew__runtime *runtime;
	ew_task_fn *fn;
	void *argument;
};

static int main_task(void *argument)
{
	struct main_call *call = argument;

	struct ew__runtime *runtime = call->runtime;

	if (ew__unlikely(runtime->sweep))
		runtime->main_result = ew__sweep_run_main(runtime->sweep, call->fn, call->argument,
							  runtime->root.budget_ns);
	else
		runtime->main_result = call->fn(call->argument);
	return 0;
}

/* Worker 1's thread: the main task to its end, then what it forgot. */
static int run_main(struct ew__runtime *runtime, struct main_call *call)
{
	struct ew__worker_thread *threads = runtime->threads;
	int r;

	r = ew_spawn(&runtime->root, main_task, call);
	if (r < 0) {
		ew__report("no memory for the stack of the main task");
		return r;
	}
	call->runtime->root.children->site = EW_SITE("main task");
	ew__worker_loop_until(&threads[0].worker, &runtime->root.children_count);
	if (runtime->root.first_error && runtime->main_result == 0 &&
	    !ew__bug("panic-of-main-is-a-success"))
		runtime->main_result = runtime->root.first_error; /* it panicked */
	if (!ew__bug("forgotten-resources-stay"))
		ew__resources_abort_forgotten("runtime");
	return 0;
}

/* Worker 1's; the others get the same. */
static int open_first(struct ew__runtime *runtime, char *why, size_t why_bytes)
{
	struct ew_worker *worker = &runtime->threads[0].worker;
	int r;

	ew__worker_init(worker);
	r = ew__driver_open_any(&worker->driver, true, why, why_bytes);
	if (r < 0)
		return r;
	if (r > 0)
		ew__report("%s; epoll is used instead", why);
	runtime->driver = worker->driver->type;
	return 0;
}

static int run(struct ew__runtime *runtime, struct main_call *call)
{
	struct ew__worker_thread *threads = runtime->threads;
	pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
	pthread_cond_t changed = PTHREAD_COND_INITIALIZER;
	struct ew__stall_watch stall_watch;
	struct ew__watchdog watchdog;
	int r;

	ew__worker = &threads[0].worker;
	r = open_first(runtime, threads[0].why, sizeof(threads[0].why));
	if (r < 0) {
		ew__report("%s", threads[0].why);
		ew__worker = NULL;
		return r;
	}
	threads[0].started = true;
	threads[0].thread = pthread_self();
	ew__scope_init_root(&runtime->root, ew__worker);
	ew__overflow_watch_thread();
	ew__watchdog_start(&watchdog, runtime);
	r = start_workers(runtime, &mutex, &changed);
	if (r == 0) {
		ew__stall_watch_start(&stall_watch, runtime);
		r = run_main(runtime, call);
		ew__stall_watch_stop(&stall_watch);
	}
	/* What is left are calls on threads, of resources that were aborted. They, too, have an end. */
	end_by(runtime, ew_after(runtime->options.shutdown_budget_ns));
	stop_workers(runtime);
	ew__worker_loop(ew__worker);
	join_workers(runtime);
	ew__watchdog_stop(&watchdog);
	ew__worker_close(ew__worker);
	ew__overflow_unwatch_thread();
	ew__worker = NULL;
	return r < 0 ? r : runtime->main_result;
}

static int prepare(struct ew__runtime *runtime, const struct ew_run_options *options)
{
	static const struct ew_site site = { "run", __FILE__, __LINE__ };
	struct ew__worker_thread *threads;
	bool simulated;
	char why[256];
	unsigned i;
	int r;

	if (options)
		runtime->options = *options;
	r = ew__driver_asked_for(&runtime->driver, why, sizeof(why));
	if (r < 0) {
		ew__report("%s", why);
		return r;
	}
	simulated = runtime->driver && runtime->driver->simulated;
	runtime->options.virtual_time |= simulated;
	if (simulated && runtime->options.workers_count > 1) {
		ew__report("a simulated run has one worker, not %u",
			   runtime->options.workers_count);
		return -EINVAL;
	}
	if (simulated && !ew__driver_wanted) {
		ew__report("EW_DRIVER=sim: the world is simulated, by EW_SIM_SEED");
		r = ew__sweep_run_new(&runtime->sweep, why, sizeof(why));
		if (r < 0) {
			if (r == -EINVAL)
				ew__report("%s", why);
			return r;
		}
	}
	atomic_store(&runtime->end_by_ns, EW_NEVER);
	if (!runtime->options.shutdown_budget_ns)
		runtime->options.shutdown_budget_ns = SHUTDOWN_BUDGET_DEFAULT;
	runtime->root = (struct ew_scope){
		.site = &site,
		/* Force comes before the end, so that what can still end has the time to. */
		.budget_ns = runtime->options.shutdown_budget_ns -
			     runtime->options.shutdown_budget_ns / 10,
	};
	runtime->workers_count = runtime->options.workers_count ? runtime->options.workers_count
								: ew_workers_default();
	if (runtime->options.stall_limit_ns < 0 || runtime->workers_count > EW_WORKERS_MAX ||
	    (runtime->options.virtual_time && runtime->options.workers_count > 1))
		return -EINVAL;
	if (runtime->options.virtual_time)
		runtime->workers_count = 1;
	threads = calloc(runtime->workers_count, sizeof(*threads));
	if (!threads)
		return -ENOMEM;
	runtime->threads = threads;
	r = ew__pool_new(&runtime->pool, runtime->options.offload_threads, !simulated);
	if (r < 0)
		return r;
	for (i = 0; i < runtime->workers_count; i++) {
		threads[i].worker.number = i + 1;
		threads[i].worker.runtime = runtime;
		threads[i].worker.pool = runtime->pool;
		threads[i].worker.lanes_fed_until_ns = ew__pool_fed_until_ns(runtime->pool);
	}
	return 0;
}

int ew_run(const struct ew_run_options *options, ew_task_fn *fn, void *argument)
{
	struct ew__runtime runtime = { 0 };
	struct main_call call = { &runtime, fn, argument };
	struct ew_worker *thread = ew__worker;
	struct ew__head *task = ew__current;
	uint64_t slice_ns = ew__slice_ns();
	sigset_t blocked, before;
	int r;

	if (thread && !ew__worker_is_plain(thread) && !ew__bug("run-inside-a-task")) {
		ew__report(
			"ew_run() inside task %s: a runtime is running here; open a scope and spawn into it",
			ew_task_name());
		return -EDEADLK;
	}
	ew_assert(task || !thread); /* not inside a plain thread's scheduler */
	ew__worker = NULL;
	ew__current = NULL;
	set_current(&runtime);
	r = prepare(&runtime, options);
	if (r < 0 && r != -EINVAL)
		ew__report("no memory or thread for the runtime (%s)", strerror(-r));
	if (r == 0) {
		if (runtime.options.signals)
			blocked = *runtime.options.signals;
		else
			sigemptyset(&blocked);
		sigaddset(&blocked, SIGPIPE);
		if (runtime.options.stall_limit_ns)
			sigdelset(&blocked, SIGURG);
		pthread_sigmask(SIG_BLOCK, &blocked, &before);
		ew__overflow_install();
		if (runtime.options.virtual_time)
			ew__virtual_now_ns = EW_SECOND;
		ew__slice_set(slice_ns ? WORKER_SLICE_NS : 0); /* the other workers inherit it */
		r = run(&runtime, &call);
		ew__slice_set(slice_ns);
		if (runtime.options.virtual_time)
			ew__virtual_now_ns = 0;
		if (!ew__bug("signal-mask-not-restored"))
			pthread_sigmask(SIG_SETMASK, &before, NULL);
	}
	unset_current(&runtime);
	ew__pool_free(runtime.pool);
	free(runtime.threads);
	ew__sweep_run_free(runtime.sweep);
	ew__worker = thread;
	ew__current = task;
	return r;
}
