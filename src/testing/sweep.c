/* SPDX-License-Identifier: Apache-2.0 */

/*
 * The sweep. Tasks of the scenario carry a bit in head.refuse, which children inherit; it sends each of their
 * suspending calls through ew__refuse(), which calls at_point() here. A run has a plan: what to do at which
 * point. With virtual time and one worker the points come in the same order each time, so that a number names one.
 *
 * A thread watches the runs, because the failure that is looked for may be a wake-up that never comes.
 */

#include "scope/scope.h"
#include "testing/census.h"
#include "testing/heap.h"
#include "testing/sim.h"

#include <endwell/clock.h>
#include <endwell/testing.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define RUN_SECONDS_DEFAULT 20
#define NOT_USED	    UINT32_MAX

/* Where the kernel takes part, an operation that meets a cancel ends in one way or the other, and points vary. */
#define TRIES_TO_REACH 20

/* A library that keeps what it has allocated once (a stack for a thread, a buffer for a stream) does so once. */
#define TRIES_TO_LEAK 3

struct sweep {
	const struct ew_sweep_options *options;
	ew_task_fn *scenario;
	void *argument;
	struct ew__census before;
	struct ew_sweep_result result;

	/* Of the run. */
	struct ew_scope *scope; /* NULL: left */
	unsigned points;
	bool reached;
	bool second_reached;
	bool cancel_posted;
	struct ew__message cancel_message;
	struct ew_task *to_keep,
		*kept; /* EW_SWEEP_CANCEL_ENDED: to be kept when it is ready; that is kept */
	int64_t blocks_left;
	int scenario_result;

	/* The watching thread's. */
	pthread_mutex_t mutex;
	pthread_cond_t changed;
	unsigned run;
	bool over;
};

/* The one whose scenario is running. */
static struct sweep *current;

static const char *const mode_names[] = {
	[EW_SWEEP_NONE] = "none",
	[EW_SWEEP_CANCEL] = "cancel",
	[EW_SWEEP_CANCEL_WAITING] = "cancel while waiting",
	[EW_SWEEP_CANCEL_ENDED] = "cancel when the wait is over",
	[EW_SWEEP_FORCE] = "force",
	[EW_SWEEP_PANIC] = "panic",
	[EW_SWEEP_CANCEL_FORCE] = "cancel, then force",
	[EW_SWEEP_MEMORY_ONCE] = "no memory once",
	[EW_SWEEP_MEMORY_GONE] = "no memory from there on",
};

const char *ew_sweep_mode_name(enum ew_sweep_mode mode)
{
	return (unsigned)mode <= EW_SWEEP_MEMORY_GONE ? mode_names[mode] : "unknown";
}

static void fail(struct sweep *sweep, const char *format, ...)
	__attribute__((format(printf, 2, 3)));

static void fail(struct sweep *sweep, const char *format, ...)
{
	va_list arguments;

	if (sweep->result.failed)
		return;
	sweep->result.failed = true;
	va_start(arguments, format);
	vsnprintf(sweep->result.what, sizeof(sweep->result.what), format, arguments);
	va_end(arguments);
}

static const struct ew_site *site_of(const struct ew_entry *entry)
{
	switch (entry->kind) {
	case EW__ENTRY_PLACE: return (ew__container_of(entry, const struct ew_place, entry))->site;
	case EW__ENTRY_GUARD: return (ew__container_of(entry, const struct ew_guard, entry))->site;
	case EW__ENTRY_SCOPE: return (ew__container_of(entry, const struct ew_scope, entry))->site;
	default: return NULL;
	}
}

static void note_site(struct sweep *sweep, const struct ew_task *task)
{
	const struct ew_entry *entry = task->head.newest;
	const struct ew_site *site = NULL;
	char after[160] = "";

	for (; entry && !site; entry = entry->older)
		site = site_of(entry);
	if (site)
		snprintf(after, sizeof(after), ", after %s (%s:%d)", site->name, site->file,
			 site->line);
	pthread_mutex_lock(&sweep->mutex);
	snprintf(sweep->result.site, sizeof(sweep->result.site), "task %s (%s:%d)%s%s",
		 task->site->name, task->site->file, task->site->line,
		 task->head.endings ? ", in an ending" : "", after);
	pthread_mutex_unlock(&sweep->mutex);
}

static void force(struct ew_scope *scope)
{
	atomic_store_explicit(&scope->node.end_ns, EW_NOW, memory_order_relaxed);
	atomic_store_explicit(&scope->node.forced, true, memory_order_relaxed);
	if (ew_scope_reason(scope) == EW_REASON_NONE)
		ew_scope_cancel(scope, EW_REASON_REQUESTED);
	else
		ew__cancel_spread(scope->owner, &scope->entry);
}

static void deliver_cancel(struct ew__message *message)
{
	struct sweep *sweep = ew__container_of(message, struct sweep, cancel_message);
	struct ew_task *kept = sweep->kept;

	sweep->cancel_posted = false;
	sweep->kept = NULL;
	if (sweep->scope)
		ew_scope_cancel(sweep->scope, EW_REASON_REQUESTED);
	if (kept)
		ew__task_ready(kept);
}

static void post_cancel(struct sweep *sweep, struct ew_worker *worker)
{
	sweep->cancel_posted = true;
	sweep->cancel_message.deliver = deliver_cancel;
	ew__post(worker, &sweep->cancel_message);
}

/* What the task waited for has come. It goes on after a cancel, which is delivered like any other, between tasks. */
static bool keep(struct ew_task *task)
{
	struct sweep *sweep = current;

	if (task != sweep->to_keep)
		return false;
	sweep->to_keep = NULL;
	sweep->kept = task;
	post_cancel(sweep, task->worker);
	return true;
}

static void act(struct sweep *sweep, struct ew_task *task)
{
	switch (sweep->result.mode) {
	case EW_SWEEP_NONE: break;
	case EW_SWEEP_CANCEL:
	case EW_SWEEP_CANCEL_FORCE: ew_scope_cancel(sweep->scope, EW_REASON_REQUESTED); break;
	case EW_SWEEP_CANCEL_WAITING: post_cancel(sweep, task->worker); break;
	case EW_SWEEP_CANCEL_ENDED:
		sweep->to_keep = task;
		task->head.leaving = true;
		break;
	case EW_SWEEP_FORCE: force(sweep->scope); break;
	case EW_SWEEP_PANIC:
		if (!task->head.no_drop)
			ew_panic("at suspension point %u of a sweep", sweep->result.index);
		break;
	case EW_SWEEP_MEMORY_ONCE:
	case EW_SWEEP_MEMORY_GONE: break;
	}
}

static bool fails_memory(enum ew_sweep_mode mode)
{
	return mode == EW_SWEEP_MEMORY_ONCE || mode == EW_SWEEP_MEMORY_GONE;
}

/* The call that was to wait has not, and this is the task's next. */
static void let_go(struct sweep *sweep, struct ew_task *task)
{
	if (task != sweep->to_keep)
		return;
	sweep->to_keep = NULL;
	ew__cancel_update(task);
}

static void at_point(struct ew_task *task)
{
	struct sweep *sweep = current;
	unsigned index = sweep->points++;

	if (sweep->result.mode == EW_SWEEP_NONE || fails_memory(sweep->result.mode))
		return;
	let_go(sweep, task);
	if (index == sweep->result.index) {
		sweep->reached = true;
		note_site(sweep, task);
		act(sweep, task);
	} else if (index == sweep->result.second) {
		sweep->second_reached = true;
		note_site(sweep, task);
		force(sweep->scope);
	}
}

static int call_scenario(void *argument)
{
	struct sweep *sweep = argument;

	sweep->scenario_result = sweep->scenario(sweep->argument);
	return 0;
}

static void run_in_scope(struct sweep *sweep)
{
	EW_SCOPE(scope, .policy = EW_POLICY_INDEPENDENT);
	int r;

	sweep->scope = &scope;
	r = ew__spawn(&scope, call_scenario, sweep,
		      (struct ew_spawn_options){ .droppable = sweep->options->droppable },
		      EW_SITE("scenario"));
	if (r < 0)
		fail(sweep, "the scenario could not be spawned: error %d", -r);
	else
		scope.children->head.refuse |= EW__REFUSE_SWEEP;
	r = ew_scope_join(&scope);
	if (r < 0 && r != -ECANCELED)
		fail(sweep, "the join of the scenario returned error %d", -r);
	sweep->scope = NULL;
}

static int main_task(void *argument)
{
	struct sweep *sweep = argument;
	char what[sizeof(sweep->result.what)];

	run_in_scope(sweep);
	while (sweep->cancel_posted && ew_yield() == 0)
		;
	if (!ew__census_of_run(what, sizeof(what)))
		fail(sweep, "%s", what);
	return 0;
}

/* Panics are made here, and forgotten resources are counted: nobody needs to be told. */
static void hear_report(void *argument, const char *line)
{
	(void)argument;
	(void)line;
}

static void begin_run(struct sweep *sweep)
{
	pthread_mutex_lock(&sweep->mutex);
	sweep->run = ++sweep->result.runs;
	sweep->result.site[0] = '\0';
	pthread_cond_signal(&sweep->changed);
	pthread_mutex_unlock(&sweep->mutex);
	sweep->points = 0;
	sweep->reached = false;
	sweep->second_reached = false;
	sweep->to_keep = NULL;
	sweep->blocks_left = -ew__heap_blocks();
	sweep->scenario_result = -ENOTRECOVERABLE;
	if (sweep->options->prepare)
		sweep->options->prepare(sweep->argument);
}

static void begin_plan(struct sweep *sweep)
{
	current = sweep;
	ew__sweep_point = at_point;
	ew__sweep_keep = keep;
	if (fails_memory(sweep->result.mode))
		ew__heap_fail_from(sweep->result.index, sweep->result.mode == EW_SWEEP_MEMORY_GONE);
	else
		ew__heap_count();
}

static void note_caller(struct sweep *sweep)
{
	char caller[200];

	ew__heap_describe_failed(caller, sizeof(caller));
	pthread_mutex_lock(&sweep->mutex);
	snprintf(sweep->result.site, sizeof(sweep->result.site), "asked for by %s", caller);
	pthread_mutex_unlock(&sweep->mutex);
}

static void end_plan(struct sweep *sweep)
{
	ew__heap_count_no_more();
	if (fails_memory(sweep->result.mode)) {
		sweep->reached = ew__heap_has_failed();
		note_caller(sweep);
	}
	ew__sweep_keep = NULL;
	ew__sweep_point = NULL;
	current = NULL;
}

static void run_once(struct sweep *sweep)
{
	struct ew_run_options run_options = { .workers_count = 1,
					      .virtual_time = true,
					      .report = hear_report };
	char what[sizeof(sweep->result.what)];
	const char *complaint;
	int r;

	begin_run(sweep);
	begin_plan(sweep);
	if (sweep->options->world)
		r = ew__sim_run(sweep->options->world, &run_options, main_task, sweep, NULL);
	else
		r = ew_run(&run_options, main_task, sweep);
	end_plan(sweep);
	if (r < 0)
		fail(sweep, "the runtime ended with error %d", -r);
	else if (sweep->result.mode == EW_SWEEP_NONE && sweep->scenario_result < 0)
		fail(sweep, "undisturbed, the scenario returned error %d", -sweep->scenario_result);
	if (!ew__census_compare(&sweep->before, what, sizeof(what)))
		fail(sweep, "%s", what);
	complaint = sweep->options->check ? sweep->options->check(sweep->argument) : NULL;
	if (complaint)
		fail(sweep, "%s", complaint);
	sweep->blocks_left += ew__heap_blocks();
}

static void run_until_nothing_is_kept(struct sweep *sweep)
{
	int64_t left_max = sweep->options->lost_blocks_max;
	unsigned tries = 0;

	do
		run_once(sweep);
	while (!sweep->result.failed && sweep->blocks_left > left_max && ++tries < TRIES_TO_LEAK);
	if (!sweep->result.failed && sweep->blocks_left > left_max)
		fail(sweep, "%d blocks of memory are left", (int)sweep->blocks_left);
}

static bool went_as_planned(const struct sweep *sweep)
{
	if (sweep->result.mode == EW_SWEEP_NONE)
		return true;
	return sweep->reached && (sweep->result.second == NOT_USED || sweep->second_reached);
}

/* True: nothing was wrong. The result's mode, index and second are the plan. */
static bool run(struct sweep *sweep)
{
	unsigned tries;

	for (tries = 0; tries < TRIES_TO_REACH; tries++) {
		run_until_nothing_is_kept(sweep);
		if (sweep->result.failed)
			return false;
		if (went_as_planned(sweep))
			return true;
	}
	fail(sweep,
	     "the %spoint was not reached again in %d runs: the scenario is not deterministic",
	     sweep->reached ? "second " : "", TRIES_TO_REACH);
	return false;
}

/* The points after the first are those of the run that was cancelled there. */
static bool run_force_later(struct sweep *sweep)
{
	unsigned points = sweep->points, second;

	for (second = sweep->result.index + 1; second < points; second++) {
		sweep->result.second = second;
		if (!run(sweep))
			return false;
	}
	sweep->result.second = NOT_USED;
	return true;
}

static bool run_mode(struct sweep *sweep, enum ew_sweep_mode mode)
{
	unsigned count = fails_memory(mode) ? sweep->result.allocations : sweep->result.points;
	unsigned index;

	sweep->result.mode = mode;
	for (index = 0; index < count; index++) {
		sweep->result.index = index;
		if (!run(sweep))
			return false;
		if (mode == EW_SWEEP_CANCEL_FORCE && !run_force_later(sweep))
			return false;
	}
	return true;
}

static void sweep_all(struct sweep *sweep)
{
	unsigned modes = sweep->options->modes;
	enum ew_sweep_mode mode;

	sweep->result.second = NOT_USED;
	run_once(sweep); /* fills what libraries keep */
	if (sweep->result.failed || !run(sweep))
		return;
	sweep->result.points = sweep->points;
	sweep->result.allocations = ew__heap_counted();
	for (mode = EW_SWEEP_CANCEL; mode <= EW_SWEEP_MEMORY_GONE; mode++)
		if ((!modes || modes & 1u << mode) && !run_mode(sweep, mode))
			return;
	sweep->result.mode = EW_SWEEP_NONE;
	sweep->result.index = 0;
	sweep->result.site[0] = '\0';
}

static _Noreturn void give_up(const struct sweep *sweep, unsigned seconds)
{
	fprintf(stderr,
		"endwell: sweep: run %u did not end within %u s: %s at point %u (second %d), %s\n",
		sweep->run, seconds, ew_sweep_mode_name(sweep->result.mode), sweep->result.index,
		(int)sweep->result.second, sweep->result.site);
	abort();
}

static void *watch(void *argument)
{
	struct sweep *sweep = argument;
	unsigned seconds = sweep->options->run_seconds_max, seen;
	struct timespec until;
	int r;

	if (!seconds)
		seconds = RUN_SECONDS_DEFAULT;
	pthread_mutex_lock(&sweep->mutex);
	while (!sweep->over) {
		seen = sweep->run;
		clock_gettime(CLOCK_MONOTONIC, &until);
		until.tv_sec += seconds;
		for (r = 0; r == 0 && sweep->run == seen && !sweep->over;)
			r = pthread_cond_timedwait(&sweep->changed, &sweep->mutex, &until);
		if (sweep->run == seen && !sweep->over)
			give_up(sweep, seconds);
	}
	pthread_mutex_unlock(&sweep->mutex);
	return NULL;
}

static void sweep_watched(struct sweep *sweep)
{
	pthread_condattr_t monotonic;
	pthread_t watcher;

	pthread_mutex_init(&sweep->mutex, NULL);
	pthread_condattr_init(&monotonic);
	pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
	pthread_cond_init(&sweep->changed, &monotonic);
	pthread_condattr_destroy(&monotonic);
	if (pthread_create(&watcher, NULL, watch, sweep) != 0) {
		fail(sweep, "no thread to watch the runs");
		return;
	}
	ew__census_take(&sweep->before);
	sweep_all(sweep);
	pthread_mutex_lock(&sweep->mutex);
	sweep->over = true;
	pthread_cond_signal(&sweep->changed);
	pthread_mutex_unlock(&sweep->mutex);
	pthread_join(watcher, NULL);
	pthread_cond_destroy(&sweep->changed);
	pthread_mutex_destroy(&sweep->mutex);
}

struct ew_sweep_result ew_sweep(const struct ew_sweep_options *options, ew_task_fn *scenario,
				void *argument)
{
	static const struct ew_sweep_options defaults;
	struct ew_sweep_result result = { .failed = true, .what = "no memory for the sweep" };
	struct sweep *sweep = calloc(1, sizeof(*sweep));

	if (!sweep)
		return result;
	sweep->options = options ? options : &defaults;
	sweep->scenario = scenario;
	sweep->argument = argument;
	sweep_watched(sweep);
	result = sweep->result;
	if (result.second == NOT_USED)
		result.second = 0;
	free(sweep);
	return result;
}
