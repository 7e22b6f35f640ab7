/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Lanes: files on a slow filesystem end, thousands of milliseconds' worth of removals at once; what does a task notice
 * that makes and removes a file on another filesystem every millisecond? The same task runs quietly before, in the
 * same process: its p99 should be at most 1.2 times the quiet one.
 *
 *     lanes HEALTHY SLOW COUNT PATIENCE_MS
 *
 * The slow filesystem is the caller's (bench/lanes.py mounts one). The names are spread over as many folders as there
 * are names, so that nothing but the lane's width stands between the removals.
 */

#include "numbers.h"

#include <endwell/endwell.h>
#include <err.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define PROBES_COUNT 2000
#define INTERVAL_NS  EW_MILLISECOND
#define FILE_BYTES   4096

struct bench {
	const char *healthy, *slow;
	unsigned count;
	int64_t patience_ns;
	struct ew_file *healthy_dir;
	double quiet_ms[PROBES_COUNT], during_ms[PROBES_COUNT];
	_Atomic unsigned left;
	_Atomic int64_t gone_ns;
	unsigned threads_most;
};

static int probe_once(struct bench *bench)
{
	static char bytes[FILE_BYTES];
	EW_OWN(ew_tempfile, file);
	int r;

	r = ew_tempfile_open(bench->healthy_dir, &file);
	if (r == 0)
		r = ew_file_write(ew_tempfile_file(file), bytes, sizeof(bytes), 0);
	return r < 0 ? r : ew_tempfile_close(&file);
}

static unsigned threads_count(void)
{
	struct stat tasks;

	return stat("/proc/self/task", &tasks) < 0 ? 0 : (unsigned)tasks.st_nlink - 2;
}

/* Keeps to its schedule: a latency counts from when the file was due. */
static int probe(struct bench *bench, double *ms)
{
	int64_t due_ns = ew_now();
	unsigned i, threads;
	int r;

	for (i = 0; i < PROBES_COUNT; i++) {
		due_ns += INTERVAL_NS;
		r = ew_sleep_until(due_ns);
		if (r == 0)
			r = probe_once(bench);
		if (r < 0)
			return r;
		ms[i] = (double)(ew_now() - due_ns) / 1e6;
		threads = threads_count();
		if (threads > bench->threads_most)
			bench->threads_most = threads;
	}
	return 0;
}

static int open_slow(struct bench *bench, unsigned number, struct ew_tempfile **ret_file)
{
	EW_OWN(ew_file, dir);
	char path[512];
	int r;

	snprintf(path, sizeof(path), "%s/%u", bench->slow, number);
	if (mkdir(path, 0700) < 0)
		return -errno;
	r = ew_file_open(NULL, path, O_RDONLY | O_DIRECTORY, 0, &dir);
	return r < 0 ? r : ew_tempfile_open_named(dir, "name", ret_file);
}

struct slow_file {
	struct bench *bench;
	struct ew_tempfile *file;
};

static int end_slow(void *argument)
{
	struct slow_file *slow = argument;
	struct bench *bench = slow->bench;
	int r = ew_tempfile_close(&slow->file);

	if (atomic_fetch_sub(&bench->left, 1) == 1)
		atomic_store(&bench->gone_ns, ew_now());
	return r;
}

static double p99(double *ms)
{
	numbers_sort(ms, PROBES_COUNT);
	return numbers_p99(ms, PROBES_COUNT);
}

static void print(struct bench *bench, int64_t cut_ns)
{
	double quiet = p99(bench->quiet_ms), during = p99(bench->during_ms);
	int64_t gone_ns = atomic_load(&bench->gone_ns);

	printf("probe p99 quiet %.3f ms, during %.3f ms (%.2f times); ", quiet, during,
	       during / quiet);
	if (gone_ns)
		printf("%u removed in %lld ms; ", bench->count,
		       (long long)((gone_ns - cut_ns) / EW_MILLISECOND));
	else
		printf("%u of %u left; ", atomic_load(&bench->left), bench->count);
	printf("at most %u threads\n", bench->threads_most);
	fflush(stdout);
}

static int run(void *argument)
{
	struct bench *bench = argument;
	struct slow_file *slow = calloc(bench->count, sizeof(*slow));
	int64_t cut_ns, until_ns;
	unsigned i;
	int r = 0;

	EW_SCOPE(scope);

	if (!slow)
		return -ENOMEM;
	r = ew_file_open(NULL, bench->healthy, O_RDONLY | O_DIRECTORY, 0, &bench->healthy_dir);
	for (i = 0; i < bench->count && r == 0; i++) {
		slow[i].bench = bench;
		r = open_slow(bench, i, &slow[i].file);
	}
	if (r == 0)
		r = probe(bench, bench->quiet_ms);
	printf("ready\n");
	fflush(stdout);
	(void)getchar(); /* the removals are slow from now on */
	atomic_store(&bench->left, bench->count);
	cut_ns = ew_now();
	for (i = 0; i < bench->count && r == 0; i++)
		r = ew_spawn(&scope, end_slow, &slow[i]);
	if (r == 0)
		r = probe(bench, bench->during_ms);
	for (until_ns = cut_ns + bench->patience_ns;
	     r == 0 && !atomic_load(&bench->gone_ns) && ew_now() < until_ns;)
		r = ew_sleep(EW_MILLISECOND);
	print(bench, cut_ns);
	if (r == 0)
		r = ew_scope_join(&scope);
	free(slow);
	ew_abort(&bench->healthy_dir);
	return ew_scope_finish(&scope, r);
}

int main(int argc, char **argv)
{
	static struct bench bench;
	int r;

	if (argc != 5)
		errx(2, "usage: lanes HEALTHY SLOW COUNT PATIENCE_MS");
	bench.healthy = argv[1];
	bench.slow = argv[2];
	bench.count = (unsigned)atoi(argv[3]);
	bench.patience_ns = atoll(argv[4]) * EW_MILLISECOND;
	r = ew_run(NULL, run, &bench);
	if (r < 0)
		errx(1, "%s", strerror(-r));
	return 0;
}
