/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * Simulation: a whole program in one thread, with a clock, a network and a scheduler of its own, all of them by one seed
 * What is simulated, and what is not, is in docs/simulation.md. Link with libendwell-testing.
 */

#include <endwell/task.h>

/** enum ew_sim_fault - what may go wrong; how often, if at all, each seed decides for itself */
enum ew_sim_fault {
	EW_SIM_SHORT = 1,  /* counts that are shorter than they could be */
	EW_SIM_DELAYS = 2, /* what takes long, up to a second */
	EW_SIM_ERRORS = 4, /* errors of an operation, without an effect */
	EW_SIM_RESETS = 8, /* connections that break, also in the middle of what is being sent */
	EW_SIM_DESCRIPTORS = 16, /* none left, for sockets, pipes and connections */
	EW_SIM_FILES = 32,	 /* calls to a filesystem that fail, without an effect */
	EW_SIM_LEAPS = 64, /* the clock leaps ahead, by up to nine hours: the process stood still */
	EW_SIM_ALL = 127,
};

/** enum ew_sim_durability - what a crash leaves of what was not synced */
enum ew_sim_durability {
	EW_SIM_STRICT, /* each block and each name by lot, for itself: no more than POSIX says */
	EW_SIM_ORDERED, /* names in the order of their changes, a file up to a block: as ext4 with data=ordered */
	EW_SIM_FAILING, /* strict; one sync fails with -EIO and loses what it was for, and each later one succeeds */
};

/**
 * struct ew_sim_filesystem_options - zero is the default for each
 * @path:       where it is, absolute, without a slash at its end; NULL: "/sim". The kernel need not have it
 * @durability: what a crash leaves
 * @blocks_max: of 4096 bytes, for all files together; then -ENOSPC; 0: 65536
 * @names_only: it has no nameless files: O_TMPFILE is -EOPNOTSUPP, as on NFS
 * @folders:    that it has from the beginning, durable, by their paths in it, the outer ones first; NULL ends them
 */
struct ew_sim_filesystem_options {
	const char *path;
	enum ew_sim_durability durability;
	unsigned blocks_max;
	bool names_only;
	const char *const *folders;
};

/** struct ew_sim_filesystem - the disk of simulated worlds; it outlives a run, and the next one finds what is there */
struct ew_sim_filesystem;

/**
 * ew_sim_filesystem_new() - an empty one; @options: NULL for defaults
 *
 * Errors: -EINVAL, -EEXIST, -ENOENT of a path in @options. Does not suspend.
 */
EW_MUST_CHECK EW_API int ew_sim_filesystem_new(const struct ew_sim_filesystem_options *options,
					       struct ew_sim_filesystem **ret_filesystem);

/**
 * ew_sim_filesystem_crash() - between runs: the power was cut, and this is what is left
 * @seed: decides by lot what is
 */
EW_API void ew_sim_filesystem_crash(struct ew_sim_filesystem **filesystem, uint64_t seed);

/** ew_sim_filesystem_free() - NULL is a no-op; not while a run has it */
EW_API void ew_sim_filesystem_free(struct ew_sim_filesystem *filesystem);

/**
 * struct ew_sim_options - zero is the default for each
 * @seed:   decides everything; 0: EW_SIM_SEED in the environment, or 1
 * @faults: set of enum ew_sim_fault
 * @filesystem: the world's; NULL: it has none, and all files are the kernel's. The caller's, before and after
 * @report: gets the run's reports; NULL: they go to stderr
 */
struct ew_sim_options {
	uint64_t seed;
	unsigned faults;
	struct ew_sim_filesystem *filesystem;
	void (*report)(void *argument, const char *line);
	void *report_argument;
};

/**
 * struct ew_sim_result - what happened
 * @seed:        that it was
 * @trace_hash:  of every operation, what came of it and when; the same seed gives the same
 * @operations:  calls on threads included
 * @faults_made: of all kinds
 * @virtual_ns:  that the run took by its own clock
 */
struct ew_sim_result {
	uint64_t seed;
	uint64_t trace_hash;
	uint64_t operations;
	uint64_t faults_made;
	int64_t virtual_ns;
};

/**
 * ew_sim_run() - ew_run() in a simulated world
 * @options:    NULL for defaults
 * @ret_result: may be NULL
 *
 * If all tasks wait, and nothing is left that could happen, or after twenty million operations, what waits is printed with the
 * seed, and the process aborts. Not from a task.
 * Return: @fn's result. Errors: those of ew_run().
 */
EW_API int ew_sim_run(const struct ew_sim_options *options, ew_task_fn *fn, void *argument,
		      struct ew_sim_result *ret_result);

/** ew_sim_calm() - in a simulated run: no more faults, so that what is to succeed in the end can; outside a no-op */
EW_API void ew_sim_calm(void);

/**
 * ew_sim_is_cut() - in a run of ew_sim_try(): has the power been cut?
 *
 * The program goes on, but what it does now has not happened, and nobody has heard what it says.
 */
EW_API bool ew_sim_is_cut(void);

/**
 * ew_sim_name() - the name at place @number of a folder in the world's filesystem, in their order; NULL: there are no more
 * @folder: absolute
 *
 * Ownership: valid until the next name is given or taken away.
 */
EW_API const char *ew_sim_name(const char *folder, unsigned number);

/**
 * ew_sim_raise() - a signal comes, and is pending until an ew_signals_wait() takes it; outside a simulated run a no-op
 * @signal: its number; it stays one if it comes again before it is taken
 *
 * What waits for signals needs them blocked, here as anywhere: by pthread_sigmask(3) before the run, if that has no
 * struct ew_run_options to name them.
 */
EW_API void ew_sim_raise(int signal);

/**
 * ew_sim_program() - in a simulated run: what a child process does that is spawned with @path from now on
 * @script: instructions with ';' between them. At its end it exits with status 0
 *
 *	sleep N      for N ms, up to 2147483647
 *	print TEXT   a line of up to 4095 bytes, to its standard output; waits while that is full
 *	read         its standard input, to the end
 *	copy         the same, and all of it to its standard output
 *	ignore NAME  signals of that name, such as TERM
 *	exit N       with status N
 *	kill NAME    ends by that signal
 *
 * Errors: -EINVAL it is no script, or the path is empty or has one; -EOPNOTSUPP outside of a simulated run.
 */
EW_MUST_CHECK EW_API int ew_sim_program(const char *path, const char *script);

/**
 * ew_sim_random() - a number below @below, which is not 0, for what a scenario does by chance
 *
 * By the seed, of a stream of its own. Outside a simulated run it is always 0.
 */
EW_API uint64_t ew_sim_random(uint64_t below);

/**
 * struct ew_sim_trial - what is tried with many seeds; zero is the default for each
 * @seed_first:  0: 1
 * @seeds_count: 0: 100. EW_SIM_SEEDS in the environment is asked first
 * @faults:      set of enum ew_sim_fault
 * @filesystem:  that each run has, an empty one each time; NULL: none, or with @recover a default one
 * @recover:     a task, what the program does after a power cut; NULL: none is made
 * @cuts_max:    of one seed; 0: one before each call that may change something, and one at the end
 * @run_seconds_max: of real time, for one run; then SIGALRM ends the child process; 0: 60
 * @prepare:     called before each run, outside the runtime
 * @check:       called after each run, outside the runtime: NULL, or what is wrong
 */
struct ew_sim_trial {
	uint64_t seed_first;
	unsigned seeds_count;
	unsigned faults;
	const struct ew_sim_filesystem_options *filesystem;
	ew_task_fn *recover;
	unsigned cuts_max;
	unsigned run_seconds_max;
	void (*prepare)(void *argument);
	const char *(*check)(void *argument);
};

/**
 * struct ew_sim_verdict - what a trial found
 * @failed:      something was wrong in the last run; the rest of the structure says with which seed, and what
 * @replay:      the command that runs it again
 * @runs:        that were made, two for each seed, one for each power cut, and each that recovered
 * @cuts:        power cuts
 * @operations, @faults_made, @virtual_ns: of all of them
 */
struct ew_sim_verdict {
	bool failed;
	uint64_t seed;
	char what[256];
	char replay[512];
	unsigned runs;
	unsigned cuts;
	uint64_t operations;
	uint64_t faults_made;
	int64_t virtual_ns;
};

/**
 * ew_sim_try() - run @scenario with many seeds, each of them twice
 * @trial:    NULL for defaults
 * @scenario: a task; alone in a runtime of its own each time. Returns 0 or a count when all is as it should be, whatever
 *            faults it met
 *
 * The two runs of a seed must be the same, operation for operation, and after each nothing may be left, as after the runs
 * of ew_sweep(). A child process makes the runs, one after the other; if it ends otherwise than by a verdict, the seed is
 * printed all the same, with the command that replays it, and the calling process exits as it did. With EW_SIM_SEED in
 * the environment that seed alone is tried, in the calling process.
 *
 * With @recover, each seed's scenario then meets power cuts, one in a run of its own. It does not end there: what a crash
 * at that moment would leave is set aside, as several filesystems: one with nothing that was not synced, one with all of
 * it, and some by lot. When the run has ended, @recover is run in each of them, without faults, and returns 0 if all is as
 * it should be. What the scenario has promised by then it notes while ew_sim_is_cut() says false.
 *
 * Does not suspend; not from a task.
 * Return: the first failure, which has been printed on stderr, or none.
 */
EW_API struct ew_sim_verdict ew_sim_try(const struct ew_sim_trial *trial, ew_task_fn *scenario,
					void *argument);
