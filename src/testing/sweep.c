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
#include "testing/faults.h"
#include "testing/hardship.h"
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
#define TRIES_TO_REACH		 20
#define TRIES_TO_REACH_OPERATION 3

/* A library that keeps what it has allocated once (a stack for a thread, a buffer for a stream) does so once. */
#define TRIES_TO_LEAK 3

#define PAIRS_DEFAULT 2000

struct sweep {
	const struct ew_sweep_options *options;
	ew_task_fn *scenario;
	void *argument;
	struct ew__census before;
	struct ew_sweep_result result;

	/* Of the run. */
	struct ew_scope *scope; /* NULL: left */
	struct ew_scope *around;
	unsigned points;
	unsigned answer; /* of the operation that is to fail */
	unsigned answers;
	unsigned later;	   /* what the second of a pair may be: operations, allocations */
	unsigned *seconds; /* of each point, how many there are */
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
	[EW_SWEEP_OPERATION] = "a failing operation",
	[EW_SWEEP_CANCEL_AGAIN] = "cancel, then a second cancel",
	[EW_SWEEP_CANCEL_OPERATION] = "cancel, then a failing operation",
	[EW_SWEEP_CANCEL_MEMORY] = "cancel, then no memory once",
	[EW_SWEEP_HARDSHIP] = "cancel, and nothing to be had any more",
};

const char *ew_sweep_mode_name(enum ew_sweep_mode mode)
{
	return (unsigned)mode < EW_SWEEP_MODES ? mode_names[mode] : "unknown";
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

/* Nothing is to be had that an ending might want. */
static void begin_hardship(const struct sweep *sweep)
{
	ew__heap_fail_from(0, true);
	ew__hardship_begin();
	if (sweep->options->hardship)
		sweep->options->hardship(sweep->argument);
}

static void act(struct sweep *sweep, struct ew_task *task)
{
	unsigned second = sweep->result.second;

	switch (sweep->result.mode) {
	case EW_SWEEP_NONE: break;
	case EW_SWEEP_CANCEL:
	case EW_SWEEP_CANCEL_AGAIN:
	case EW_SWEEP_CANCEL_FORCE: ew_scope_cancel(sweep->scope, EW_REASON_REQUESTED); break;
	case EW_SWEEP_CANCEL_OPERATION:
		ew_scope_cancel(sweep->scope, EW_REASON_REQUESTED);
		ew__faults_make(second, sweep->answer);
		break;
	case EW_SWEEP_CANCEL_MEMORY:
		ew_scope_cancel(sweep->scope, EW_REASON_REQUESTED);
		ew__heap_fail_from(second, false);
		break;
	case EW_SWEEP_HARDSHIP:
		ew_scope_cancel(sweep->scope, EW_REASON_REQUESTED);
		begin_hardship(sweep);
		break;
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
	case EW_SWEEP_MEMORY_GONE:
	case EW_SWEEP_OPERATION:
	case EW_SWEEP_MODES: break;
	}
}

/* The later point of a pair. */
static void act_again(struct sweep *sweep, struct ew_task *task)
{
	if (sweep->result.mode != EW_SWEEP_CANCEL_FORCE &&
	    sweep->result.mode != EW_SWEEP_CANCEL_AGAIN)
		return;
	sweep->second_reached = true;
	note_site(sweep, task);
	if (sweep->result.mode == EW_SWEEP_CANCEL_FORCE)
		force(sweep->scope);
	else
		ew_scope_cancel(sweep->around, EW_REASON_SHUTDOWN);
}

static bool fails_memory(enum ew_sweep_mode mode)
{
	return mode == EW_SWEEP_MEMORY_ONCE || mode == EW_SWEEP_MEMORY_GONE;
}

static bool begins_at_a_point(enum ew_sweep_mode mode)
{
	return !fails_memory(mode) && mode != EW_SWEEP_OPERATION;
}

/* What the call is about to be told is what the scopes around it say: the cancel, from its coming until they are left. */
static void check_refusal(struct sweep *sweep, const struct ew_task *task)
{
	bool cancelled = ew__node_is_cancelled(task->head.node);

	if (cancelled != !!(task->head.refuse & EW__REFUSE_CANCEL))
		fail(sweep, "task %s (%s:%d) is %scancelled, and its call is %srefused",
		     task->site->name, task->site->file, task->site->line, cancelled ? "" : "not ",
		     cancelled ? "not " : "");
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

	check_refusal(sweep, task);
	if (sweep->result.mode == EW_SWEEP_NONE || !begins_at_a_point(sweep->result.mode))
		return;
	let_go(sweep, task);
	if (index == sweep->result.index) {
		sweep->reached = true;
		note_site(sweep, task);
		act(sweep, task);
	} else if (index == sweep->result.second) {
		act_again(sweep, task);
	}
}

static int call_scenario(void *argument)
{
	struct sweep *sweep = argument;

	sweep->scenario_result = sweep->scenario(sweep->argument);
	return 0;
}

static bool fails_operation(enum ew_sweep_mode mode)
{
	return mode == EW_SWEEP_OPERATION || mode == EW_SWEEP_CANCEL_OPERATION;
}

static void note_faults(struct sweep *sweep)
{
	const char *complaint = ew__faults_complaint();
	size_t used = strlen(sweep->result.site);

	if (complaint)
		fail(sweep, "%s", complaint);
	sweep->answers = ew__faults_answers();
	if (sweep->result.mode == EW_SWEEP_NONE || fails_operation(sweep->result.mode))
		sweep->later = ew__faults_counted();
	if (!sweep->answers)
		return;
	pthread_mutex_lock(&sweep->mutex);
	snprintf(sweep->result.site + used, sizeof(sweep->result.site) - used, "%s%s",
		 used ? "; " : "", ew__faults_describe());
	pthread_mutex_unlock(&sweep->mutex);
}

static void run_in_scope(struct sweep *sweep)
{
	EW_SCOPE(around, .policy = EW_POLICY_INDEPENDENT);
	EW_SCOPE(scope, .policy = EW_POLICY_INDEPENDENT);
	int r;

	sweep->around = &around;
	sweep->scope = &scope;
	ew__faults_begin();
	if (sweep->result.mode == EW_SWEEP_OPERATION)
		ew__faults_make(sweep->result.index, sweep->answer);
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
	note_faults(sweep);
	ew__faults_end();
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
	sweep->answers = 0;
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
	ew__hardship_end();
	ew__heap_count_no_more();
	if (fails_memory(sweep->result.mode)) {
		sweep->reached = ew__heap_has_failed();
		note_caller(sweep);
	} else if (sweep->result.mode == EW_SWEEP_CANCEL_MEMORY) {
		sweep->later = ew__heap_counted();
		sweep->second_reached = ew__heap_has_failed();
	} else if (sweep->result.mode == EW_SWEEP_OPERATION) {
		sweep->reached = sweep->answers > 0;
	} else if (sweep->result.mode == EW_SWEEP_CANCEL_OPERATION) {
		sweep->second_reached = sweep->answers > 0;
	}
	ew__sweep_keep = NULL;
	ew__sweep_point = NULL;
	current = NULL;
}

/* Without a cancel nobody says so. */
static void check_result(struct sweep *sweep)
{
	enum ew_sweep_mode mode = sweep->result.mode;
	int r = sweep->scenario_result;

	if (mode == EW_SWEEP_NONE && r < 0)
		fail(sweep, "undisturbed, the scenario returned error %d", -r);
	else if (r == -ECANCELED && mode == EW_SWEEP_OPERATION)
		fail(sweep, "nobody cancelled, and the scenario says so");
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
	else
		check_result(sweep);
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

/* splitmix64, of one number for each pair. */
static unsigned draw(uint64_t seed, unsigned index, unsigned second)
{
	uint64_t value = seed * 0x9e3779b97f4a7c15u ^ ((uint64_t)index << 32 | second);

	value = (value ^ (value >> 30)) * 0xbf58476d1ce4e5b9u;
	value = (value ^ (value >> 27)) * 0x94d049bb133111ebu;
	return (unsigned)(value ^ (value >> 31)) >> 1;
}

static uint64_t number_of(const char *name, uint64_t otherwise)
{
	const char *text = secure_getenv(name);

	return text ? strtoull(text, NULL, 0) : otherwise;
}

/* Never none. */
static uint64_t pairs_max(const struct sweep *sweep)
{
	unsigned asked_for = sweep->options->pairs_max;
	uint64_t max = number_of("EW_SWEEP_PAIRS", asked_for ? asked_for : PAIRS_DEFAULT);

	return max ? max : 1;
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

/* What happens when varies where the kernel takes part, and so does how many operations there are. */
static bool run_if_reached(struct sweep *sweep)
{
	unsigned tries;

	for (tries = 0; tries < TRIES_TO_REACH_OPERATION; tries++) {
		run_until_nothing_is_kept(sweep);
		if (sweep->result.failed || went_as_planned(sweep))
			break;
	}
	return !sweep->result.failed;
}

/* The operation ends in each way that there is for its kind, or in that many from one on. */
static bool run_answers(struct sweep *sweep, unsigned first, unsigned answers_max)
{
	unsigned answers = 1, i;

	for (i = 0; i < answers && i < answers_max; i++) {
		sweep->answer = first + i;
		if (!run_if_reached(sweep))
			return false;
		if (sweep->answers)
			answers = sweep->answers;
		sweep->result.failed_operations += sweep->answers > 0;
	}
	return true;
}

static bool begins_pair_at_a_point(enum ew_sweep_mode mode)
{
	return mode == EW_SWEEP_CANCEL_FORCE || mode == EW_SWEEP_CANCEL_AGAIN;
}

/* @all: pairs are made; else of the ways in which an operation may end there is one for each. */
static bool run_failing_pair(struct sweep *sweep, unsigned second, bool all)
{
	unsigned lot = draw(sweep->result.seed, sweep->result.index, second);
	unsigned failed = sweep->result.failed_operations;
	bool well;

	if (sweep->result.mode == EW_SWEEP_CANCEL_MEMORY) {
		well = run_if_reached(sweep);
		sweep->result.pairs += sweep->second_reached;
		return well;
	}
	well = all ? run_answers(sweep, 0, UINT32_MAX) : run_answers(sweep, lot, 1);
	sweep->result.pairs += sweep->result.failed_operations > failed;
	return well;
}

static bool run_pair(struct sweep *sweep, unsigned second, bool all)
{
	sweep->result.second = second;
	if (!begins_pair_at_a_point(sweep->result.mode))
		return run_failing_pair(sweep, second, all);
	sweep->result.pairs++;
	return run(sweep);
}

/* What can come second after the cancel of the run that has just been made: what came there. */
static unsigned seconds_of(const struct sweep *sweep)
{
	return begins_pair_at_a_point(sweep->result.mode) ? sweep->points - sweep->result.index - 1
							  : sweep->later;
}

/* Of all pairs, one after the other by the first of them, that number. */
static bool run_pair_number(struct sweep *sweep, uint64_t number, bool all)
{
	unsigned index = 0;

	for (; number >= sweep->seconds[index]; index++)
		number -= sweep->seconds[index];
	sweep->result.index = index;
	if (begins_pair_at_a_point(sweep->result.mode))
		number += index + 1;
	return run_pair(sweep, (unsigned)number, all);
}

/* All if they are few, else each so many-th from one on that the seed chooses. */
static bool run_pairs(struct sweep *sweep, uint64_t count)
{
	uint64_t chosen = pairs_max(sweep), start = 0, i;

	sweep->result.pairs_there_are += (unsigned)count;
	if (count <= chosen)
		chosen = count;
	else
		start = draw(sweep->result.seed, sweep->result.mode, 0);
	for (i = 0; i < chosen; i++)
		if (!run_pair_number(sweep, (start + i * count / chosen) % count, chosen == count))
			return false;
	sweep->result.second = NOT_USED;
	return true;
}

static bool is_of_pairs(enum ew_sweep_mode mode)
{
	return mode == EW_SWEEP_CANCEL_FORCE || mode == EW_SWEEP_CANCEL_AGAIN ||
	       mode == EW_SWEEP_CANCEL_OPERATION || mode == EW_SWEEP_CANCEL_MEMORY;
}

static unsigned indexes_of(const struct sweep *sweep, enum ew_sweep_mode mode)
{
	if (mode == EW_SWEEP_OPERATION)
		return sweep->result.operations;
	return fails_memory(mode) ? sweep->result.allocations : sweep->result.points;
}

static bool run_mode(struct sweep *sweep, enum ew_sweep_mode mode)
{
	unsigned count = indexes_of(sweep, mode), index;
	uint64_t pairs = 0;

	sweep->result.mode = mode;
	for (index = 0; index < count; index++) {
		sweep->result.index = index;
		if (mode == EW_SWEEP_OPERATION ? !run_answers(sweep, 0, UINT32_MAX) : !run(sweep))
			return false;
		if (is_of_pairs(mode))
			pairs += sweep->seconds[index] = seconds_of(sweep);
	}
	return run_pairs(sweep, pairs);
}

static bool run_modes(struct sweep *sweep)
{
	unsigned modes = sweep->options->modes;
	enum ew_sweep_mode mode;

	for (mode = EW_SWEEP_CANCEL; mode < EW_SWEEP_MODES; mode++)
		if ((!modes || modes & 1u << mode) && !run_mode(sweep, mode))
			return false;
	return true;
}

static void sweep_all(struct sweep *sweep)
{
	bool everything_is_well = false;

	sweep->result.second = NOT_USED;
	sweep->result.seed = number_of("EW_SWEEP_SEED", 1);
	run_once(sweep); /* fills what libraries keep */
	if (sweep->result.failed || !run(sweep))
		return;
	sweep->result.points = sweep->points;
	sweep->result.allocations = ew__heap_counted();
	sweep->result.operations = sweep->later;
	sweep->seconds = calloc(sweep->points + 1, sizeof(*sweep->seconds));
	if (!sweep->seconds)
		fail(sweep, "no memory for the sweep");
	else
		everything_is_well = run_modes(sweep);
	free(sweep->seconds);
	if (!everything_is_well)
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
