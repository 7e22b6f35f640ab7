/* SPDX-License-Identifier: Apache-2.0 */

/*
 * The sweep of a scenario. Each run has a plan (sweep/plan.h): what to do at which point.
 *
 * A thread watches the runs, because the failure that is looked for may be a wake-up that never comes.
 */

#include "sweep/census.h"
#include "sweep/plan.h"
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
	struct ew__sweep_plan plan;
	unsigned answer; /* of the operation that is to fail */
	unsigned answers;
	unsigned later;	   /* what the second of a pair may be: operations, allocations */
	unsigned *seconds; /* of each point, how many there are */
	int64_t blocks_left;

	/* The watching thread's. */
	pthread_mutex_t mutex;
	pthread_cond_t changed;
	unsigned run;
	bool over;
};

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

void ew_sweep_spare(void)
{
	if (ew__current && ew__current->refuse & EW__REFUSE_SWEEP)
		ew__current->refuse |= EW__REFUSE_SPARED;
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

/* What the call is about to be told is what the scopes around it say: the cancel, from its coming until they are left. */
static void check_refusal(struct sweep *sweep, const struct ew_task *task)
{
	bool cancelled = ew__node_is_cancelled(task->head.node);

	if (cancelled != !!(task->head.refuse & EW__REFUSE_CANCEL))
		fail(sweep, "task %s (%s:%d) is %scancelled, and its call is %srefused",
		     task->site->name, task->site->file, task->site->line, cancelled ? "" : "not ",
		     cancelled ? "not " : "");
}

static void note(struct ew__sweep_plan *plan, const struct ew_task *task, unsigned index,
		 bool chosen)
{
	struct sweep *sweep = ew__container_of(plan, struct sweep, plan);

	(void)index;
	check_refusal(sweep, task);
	if (chosen)
		note_site(sweep, task);
}

/* Nothing is to be had that an ending might want. */
static void begin_hardship(const struct sweep *sweep)
{
	ew__heap_fail_from(0, true);
	ew__hardship_begin();
	if (sweep->options->hardship)
		sweep->options->hardship(sweep->argument);
}

/* The cancel has been made: what is to fail after it. */
static void begin_faults(struct ew__sweep_plan *plan)
{
	struct sweep *sweep = ew__container_of(plan, struct sweep, plan);

	if (plan->mode == EW_SWEEP_CANCEL_OPERATION)
		ew__faults_make(plan->second, sweep->answer);
	else if (plan->mode == EW_SWEEP_CANCEL_MEMORY)
		ew__heap_fail_from(plan->second, false);
	else if (plan->mode == EW_SWEEP_HARDSHIP)
		begin_hardship(sweep);
}

static bool fails_memory(enum ew_sweep_mode mode)
{
	return mode == EW_SWEEP_MEMORY_ONCE || mode == EW_SWEEP_MEMORY_GONE;
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

static int call_scenario(void *argument)
{
	struct sweep *sweep = argument;

	return sweep->scenario(sweep->argument);
}

static void run_scenario(struct sweep *sweep)
{
	int r;

	ew__faults_begin();
	if (sweep->result.mode == EW_SWEEP_OPERATION)
		ew__faults_make(sweep->result.index, sweep->answer);
	r = ew__sweep_call(&sweep->plan, call_scenario, sweep, EW_SITE("scenario"));
	if (r < 0 && r != -ECANCELED)
		fail(sweep, "the scenario could not be spawned or joined: error %d", -r);
	note_faults(sweep);
	ew__faults_end();
}

static int main_task(void *argument)
{
	struct sweep *sweep = argument;
	char what[sizeof(sweep->result.what)];

	run_scenario(sweep);
	if (!ew__census_of_run(false, what, sizeof(what)))
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
	sweep->answers = 0;
	sweep->plan = (struct ew__sweep_plan){
		.mode = sweep->result.mode,
		.index = sweep->result.index,
		.second = sweep->result.second,
		.reason = EW_REASON_REQUESTED,
		.droppable = sweep->options->droppable,
		.note = note,
		.follow = begin_faults,
		.result = -ENOTRECOVERABLE,
	};
	sweep->blocks_left = -ew__heap_blocks();
	if (sweep->options->prepare)
		sweep->options->prepare(sweep->argument);
}

static void begin_plan(struct sweep *sweep)
{
	ew__sweep_begin(&sweep->plan);
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
		sweep->plan.reached = ew__heap_has_failed();
		note_caller(sweep);
	} else if (sweep->result.mode == EW_SWEEP_CANCEL_MEMORY) {
		sweep->later = ew__heap_counted();
		sweep->plan.second_reached = ew__heap_has_failed();
	} else if (sweep->result.mode == EW_SWEEP_OPERATION) {
		sweep->plan.reached = sweep->answers > 0;
	} else if (sweep->result.mode == EW_SWEEP_CANCEL_OPERATION) {
		sweep->plan.second_reached = sweep->answers > 0;
	}
	ew__sweep_end();
}

/* Without a cancel nobody says so. */
static void check_result(struct sweep *sweep)
{
	enum ew_sweep_mode mode = sweep->result.mode;
	int r = sweep->plan.result;

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
	return sweep->plan.reached &&
	       (sweep->result.second == EW__SWEEP_NO_POINT || sweep->plan.second_reached);
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
	     sweep->plan.reached ? "second " : "", TRIES_TO_REACH);
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

/* @all: pairs are made; else of the ways in which an operation may end there is one for each. */
static bool run_failing_pair(struct sweep *sweep, unsigned second, bool all)
{
	unsigned lot = draw(sweep->result.seed, sweep->result.index, second);
	unsigned failed = sweep->result.failed_operations;
	bool well;

	if (sweep->result.mode == EW_SWEEP_CANCEL_MEMORY) {
		well = run_if_reached(sweep);
		sweep->result.pairs += sweep->plan.second_reached;
		return well;
	}
	well = all ? run_answers(sweep, 0, UINT32_MAX) : run_answers(sweep, lot, 1);
	sweep->result.pairs += sweep->result.failed_operations > failed;
	return well;
}

static bool run_pair(struct sweep *sweep, unsigned second, bool all)
{
	sweep->result.second = second;
	if (!ew__sweep_makes_pairs_of_points(sweep->result.mode))
		return run_failing_pair(sweep, second, all);
	sweep->result.pairs++;
	return run(sweep);
}

/* What can come second after the cancel of the run that has just been made: what came there. */
static unsigned seconds_of(const struct sweep *sweep)
{
	return ew__sweep_makes_pairs_of_points(sweep->result.mode)
		       ? sweep->plan.points - sweep->result.index - 1
		       : sweep->later;
}

/* Of all pairs, one after the other by the first of them, that number. */
static bool run_pair_number(struct sweep *sweep, uint64_t number, bool all)
{
	unsigned index = 0;

	for (; number >= sweep->seconds[index]; index++)
		number -= sweep->seconds[index];
	sweep->result.index = index;
	if (ew__sweep_makes_pairs_of_points(sweep->result.mode))
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
	sweep->result.second = EW__SWEEP_NO_POINT;
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

	sweep->result.second = EW__SWEEP_NO_POINT;
	sweep->result.seed = number_of("EW_SWEEP_SEED", 1);
	run_once(sweep); /* fills what libraries keep */
	if (sweep->result.failed || !run(sweep))
		return;
	sweep->result.points = sweep->plan.points;
	sweep->result.allocations = ew__heap_counted();
	sweep->result.operations = sweep->later;
	sweep->seconds = calloc(sweep->plan.points + 1, sizeof(*sweep->seconds));
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
	if (result.second == EW__SWEEP_NO_POINT)
		result.second = 0;
	free(sweep);
	return result;
}
