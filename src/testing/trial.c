/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Many seeds, and power cuts. The runs are made by a child process, so that one which ends in the middle of a run, by an
 * assertion of ours or an expectation of the test's, leaves somebody to say with which seed that was. What both know is
 * in a page that they share.
 *
 * A run whose power is cut goes on to its end, so that its tasks end as they always do; the restarts are runs in what
 * the cut has left.
 */

#include "driver/sim/filesystem.h"
#include "driver/sim/sim.h"
#include "sweep/census.h"
#include "testing/sim.h"

#include <endwell/clock.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#define SEEDS_DEFAULT	    100
#define RUN_SECONDS_DEFAULT 60
#define IMAGES		    4 /* of each power cut; the first two are the extremes */

struct trial {
	const struct ew_sim_trial *options;
	ew_task_fn *scenario;
	ew_task_fn *task; /* of this run */
	void *argument;
	struct ew__census before;
	struct ew_sim_verdict verdict;
	char left[256]; /* by the run; empty: nothing */
	char cut[96];	/* the power cut that this run is after; empty: none */
	bool in_child;
};

static void fail(struct trial *trial, const char *format, ...)
	__attribute__((format(printf, 2, 3)));

static void fail(struct trial *trial, const char *format, ...)
{
	va_list arguments;
	size_t used;

	if (trial->verdict.failed)
		return;
	trial->verdict.failed = true;
	va_start(arguments, format);
	vsnprintf(trial->verdict.what, sizeof(trial->verdict.what), format, arguments);
	va_end(arguments);
	used = strlen(trial->verdict.what);
	snprintf(trial->verdict.what + used, sizeof(trial->verdict.what) - used, "%s", trial->cut);
}

/* The program and its arguments, which need no quotes in tests. */
static void describe_replay(struct trial *trial)
{
	char *replay = trial->verdict.replay, *at;
	size_t used = (size_t)snprintf(replay, sizeof(trial->verdict.replay), "EW_SIM_SEED=%llu ",
				       (unsigned long long)trial->verdict.seed);
	int fd = open("/proc/self/cmdline", O_RDONLY | O_CLOEXEC);
	ssize_t n = read(fd, replay + used, sizeof(trial->verdict.replay) - used - 1);

	close(fd);
	replay[used + (size_t)(n > 0 ? n - 1 : 0)] = '\0';
	for (at = replay + used; at < replay + used + n - 1; at++)
		if (!*at)
			*at = ' ';
}

static void print(struct trial *trial)
{
	describe_replay(trial);
	fprintf(stderr, "endwell: simulation: seed %llu: %s; again: %s\n",
		(unsigned long long)trial->verdict.seed, trial->verdict.what,
		trial->verdict.replay);
}

/* Of panics and of what was forgotten the census and the scenario speak. */
static void hear_report(void *argument, const char *line)
{
	(void)argument;
	(void)line;
}

static int main_task(void *argument)
{
	struct trial *trial = argument;
	int r = trial->task(trial->argument);
	char what[sizeof(trial->left)];

	if (!ew__census_of_run(false, what, sizeof(what)))
		snprintf(trial->left, sizeof(trial->left), "%s", what);
	return r;
}

static struct ew_sim_result run_task(struct trial *trial, const struct ew_sim_options *world,
				     ew_task_fn *task)
{
	const struct ew_run_options options = { .workers_count = 1, .report = hear_report };
	struct ew_sim_result result = { 0 };
	char what[256];
	int r;

	trial->left[0] = '\0';
	trial->task = task;
	if (trial->in_child) /* else somebody may be looking at it with a debugger */
		alarm(trial->options->run_seconds_max ? trial->options->run_seconds_max
						      : RUN_SECONDS_DEFAULT);
	r = ew__sim_run(world, &options, main_task, trial, &result);
	alarm(0);
	trial->verdict.runs++;
	trial->verdict.operations += result.operations;
	trial->verdict.faults_made += result.faults_made;
	trial->verdict.virtual_ns += result.virtual_ns;
	if (r < 0)
		fail(trial, "the %s returned error %d",
		     task == trial->scenario ? "scenario" : "recovery", -r);
	if (trial->left[0])
		fail(trial, "%s", trial->left);
	if (!ew__census_compare(&trial->before, what, sizeof(what)))
		fail(trial, "%s", what);
	return result;
}

static struct ew_sim_result run_scenario(struct trial *trial, struct ew_sim_filesystem *filesystem)
{
	const struct ew_sim_options world = { .seed = trial->verdict.seed,
					      .faults = trial->options->faults,
					      .filesystem = filesystem };
	struct ew_sim_result result;
	const char *complaint;

	if (trial->options->prepare)
		trial->options->prepare(trial->argument);
	result = run_task(trial, &world, trial->scenario);
	complaint = trial->options->check ? trial->options->check(trial->argument) : NULL;
	if (complaint)
		fail(trial, "%s", complaint);
	return result;
}

static struct ew_sim_filesystem *new_filesystem(struct trial *trial)
{
	struct ew_sim_filesystem *filesystem = NULL;

	if ((trial->options->filesystem || trial->options->recover) &&
	    ew_sim_filesystem_new(trial->options->filesystem, &filesystem) < 0)
		fail(trial, "the filesystem's path is not absolute, or its folders have no place");
	return filesystem;
}

/* @ret_calls: that its filesystem has had */
static struct ew_sim_result run_once(struct trial *trial, uint64_t *ret_calls)
{
	struct ew_sim_filesystem *filesystem = new_filesystem(trial);
	struct ew_sim_result result = { 0 };

	if (!trial->verdict.failed)
		result = run_scenario(trial, filesystem);
	*ret_calls = filesystem ? filesystem->calls : 0;
	ew_sim_filesystem_free(filesystem);
	return result;
}

static void expect_same(struct trial *trial, const struct ew_sim_result *one,
			const struct ew_sim_result *other)
{
	if (one->trace_hash != other->trace_hash || one->operations != other->operations)
		fail(trial, "its two runs were not the same: %llu operations and %llu, or others",
		     (unsigned long long)one->operations, (unsigned long long)other->operations);
}

/* ---- power cuts ---- */

struct cut {
	uint64_t chance;
	struct ew_sim_filesystem *images[IMAGES];
};

static void take_images(struct ew_sim_filesystem *filesystem, void *argument)
{
	struct cut *cut = argument;
	unsigned i;

	for (i = 0; i < IMAGES; i++)
		cut->images[i] = ew__sim_filesystem_survivors(
			filesystem, i < EW__SIM_BY_LOT ? (enum ew__sim_luck)i : EW__SIM_BY_LOT,
			ew__sim_draw_from(&cut->chance));
}

static void recover(struct trial *trial, uint64_t call, unsigned image,
		    struct ew_sim_filesystem *filesystem)
{
	static const char *const lucks[IMAGES] = { "nothing", "all", "some", "some" };
	const struct ew_sim_options world = { .seed = trial->verdict.seed,
					      .filesystem = filesystem };

	snprintf(trial->cut, sizeof(trial->cut),
		 "; after a power cut before call %llu, of what was not synced %s was left",
		 (unsigned long long)call, lucks[image]);
	filesystem->sync_has_failed = true; /* what may fail was the run before */
	run_task(trial, &world, trial->options->recover);
}

/* Before call @call of the filesystem, or, if there are not so many, at the end. */
static void cut_at(struct trial *trial, uint64_t call, const struct ew_sim_result *uncut)
{
	struct ew_sim_filesystem *filesystem = new_filesystem(trial);
	struct cut cut = { .chance = trial->verdict.seed << 32 ^ call };
	struct ew_sim_result result;
	unsigned i;

	filesystem->cut_at = call;
	filesystem->cut = take_images;
	filesystem->cut_argument = &cut;
	result = run_scenario(trial, filesystem);
	expect_same(trial, uncut, &result);
	if (!cut.images[0])
		take_images(filesystem, &cut);
	trial->verdict.cuts++;
	for (i = 0; i < IMAGES && !trial->verdict.failed; i++)
		recover(trial, call, i, cut.images[i]);
	for (i = 0; i < IMAGES; i++)
		ew_sim_filesystem_free(cut.images[i]);
	ew_sim_filesystem_free(filesystem);
	trial->cut[0] = '\0';
}

/* If there are to be fewer than there are calls: one by lot in each of so many parts of the run. */
static void cut_everywhere(struct trial *trial, uint64_t calls, const struct ew_sim_result *uncut)
{
	uint64_t places = calls + 1, count = places, chance = trial->verdict.seed, first, i;

	if (trial->options->cuts_max && trial->options->cuts_max < places)
		count = trial->options->cuts_max;
	for (i = 0; i < count && !trial->verdict.failed; i++) {
		first = i * places / count;
		cut_at(trial,
		       first + ew__sim_draw_from(&chance) % ((i + 1) * places / count - first),
		       uncut);
	}
}

static void try_seed(struct trial *trial, uint64_t seed)
{
	struct ew_sim_result first, second;
	uint64_t calls;

	trial->verdict.seed = seed;
	first = run_once(trial, &calls);
	if (trial->verdict.failed)
		return;
	second = run_once(trial, &calls);
	expect_same(trial, &first, &second);
	if (trial->options->recover && !trial->verdict.failed)
		cut_everywhere(trial, calls, &first);
}

static unsigned seeds_count(const struct trial *trial)
{
	const char *text = secure_getenv("EW_SIM_SEEDS");

	if (text)
		return (unsigned)strtoul(text, NULL, 0);
	return trial->options->seeds_count ? trial->options->seeds_count : SEEDS_DEFAULT;
}

static void try_all(struct trial *trial)
{
	uint64_t first = trial->options->seed_first ? trial->options->seed_first : 1;
	unsigned count = seeds_count(trial), i;

	ew__census_take(&trial->before);
	for (i = 0; i < count && !trial->verdict.failed; i++)
		try_seed(trial, first + i);
}

/* The child has ended otherwise than by a verdict. */
static void note_end(struct trial *trial, int status)
{
	if (WIFSIGNALED(status)) {
		fail(trial, "its run was ended by signal %d (%s)", WTERMSIG(status),
		     strsignal(WTERMSIG(status)));
		return;
	}
	if (WEXITSTATUS(status) == 0)
		return;
	fail(trial, "its run ended the process with status %d", WEXITSTATUS(status));
	print(trial);
	_exit(WEXITSTATUS(status));
}

static void try_in_child(struct trial *trial)
{
	pid_t child;
	int status = 0;

	fflush(NULL);
	child = fork();
	if (child < 0) {
		fail(trial, "no process for the runs (%s)", strerror(errno));
		return;
	}
	if (child == 0) {
		trial->in_child = true;
		try_all(trial);
		exit(0); /* as a program does, so that leaks of memory are looked for */
	}
	while (waitpid(child, &status, 0) < 0 && errno == EINTR)
		;
	note_end(trial, status);
}

struct ew_sim_verdict ew_sim_try(const struct ew_sim_trial *options, ew_task_fn *scenario,
				 void *argument)
{
	static const struct ew_sim_trial defaults;
	struct ew_sim_verdict verdict = { .failed = true, .what = "no memory for the trial" };
	const char *seed = secure_getenv("EW_SIM_SEED");
	struct trial *trial = mmap(NULL, sizeof(*trial), PROT_READ | PROT_WRITE,
				   MAP_SHARED | MAP_ANONYMOUS, -1, 0);

	if (trial == MAP_FAILED)
		return verdict;
	trial->options = options ? options : &defaults;
	trial->scenario = scenario;
	trial->argument = argument;
	if (seed) {
		ew__census_take(&trial->before);
		try_seed(trial, strtoull(seed, NULL, 0));
	} else {
		try_in_child(trial);
	}
	if (trial->verdict.failed)
		print(trial);
	verdict = trial->verdict;
	munmap(trial, sizeof(*trial));
	return verdict;
}
