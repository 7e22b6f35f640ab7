/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * Testing: the sweep
 * Runs a scenario once for each of its suspension points and ends it there, in every way that a task can be ended.
 * Link with libendwell-testing.
 */

#include <endwell/task.h>

struct ew_sim_options;

/** enum ew_sweep_mode - what happens at a point */
enum ew_sweep_mode {
	EW_SWEEP_NONE,		 /* nothing: the run that counts the points */
	EW_SWEEP_CANCEL,	 /* the scenario is cancelled before the call has any effect */
	EW_SWEEP_CANCEL_WAITING, /* the scenario is cancelled while the call waits */
	EW_SWEEP_CANCEL_ENDED, /* cancelled when what the call waited for has come, and before it returns */
	EW_SWEEP_FORCE,	       /* cancelled with no time left: endings are aborted, joins remain */
	EW_SWEEP_PANIC,	       /* the task that makes the call panics; also inside an ending */
	EW_SWEEP_CANCEL_FORCE, /* cancelled there, and forced at each later point in turn */
	EW_SWEEP_MEMORY_ONCE,  /* no point: an allocation returns NULL */
	EW_SWEEP_MEMORY_GONE,  /* and so do all that come later */
	EW_SWEEP_OPERATION, /* no point: an operation fails, in each way that the kernel has for its kind */
	EW_SWEEP_CANCEL_AGAIN, /* cancelled there, and at each later point in turn a second time, from further out */
	EW_SWEEP_CANCEL_OPERATION, /* cancelled there, and each operation that follows fails in turn */
	EW_SWEEP_CANCEL_MEMORY, /* cancelled there, and each allocation that follows returns NULL in turn */
	EW_SWEEP_HARDSHIP, /* cancelled there, and from then on no memory, descriptor, thread or process is had */
	EW_SWEEP_MODES, /* how many there are */
};

/**
 * struct ew_sweep_options - zero is the default for each
 * @modes:         set of 1 << enum ew_sweep_mode; 0: all
 * @droppable:     the scenario is spawned so: force ends it where it suspends
 * @run_seconds_max: of real time; a run that takes longer has lost a wake-up: reported on stderr with mode and
 *                 point, and the process aborts, since such a run cannot be left; 0: 20
 * @lost_blocks_max: of the heap, what a run may lose: a reaper is leaked by name, some libraries lose a block
 *                 when an allocation of theirs fails; 0: nothing
 * @pairs_max:     of a cancel and something later, for each of the modes that make such pairs. All are made if they are
 *                 not more, else so many, chosen by the seed; EW_SWEEP_PAIRS in the environment says another number;
 *                 0: 2,000
 * @world:         the runs are simulated ones (endwell/sim.h): what the kernel would decide is the seed's; NULL: on the
 *                 driver that others have
 * @hardship:      called at the moment at which EW_SWEEP_HARDSHIP begins, in the task, for what only the program can make
 *                 scarce, such as room on a disk; @check or @prepare takes it back
 * @prepare:       called before each run, outside the runtime
 * @check:         called after each run, outside the runtime: NULL, or what is wrong (permits not back,
 *                 an ending that ran twice or never ...)
 */
struct ew_sweep_options {
	unsigned modes;
	bool droppable;
	unsigned run_seconds_max;
	unsigned lost_blocks_max;
	unsigned pairs_max;
	const struct ew_sim_options *world;
	void (*hardship)(void *argument);
	void (*prepare)(void *argument);
	const char *(*check)(void *argument);
};

/**
 * struct ew_sweep_result - what a sweep found
 * @points: suspension points of the undisturbed run, those inside endings included
 * @allocations: that the scenario's tasks made in it; 0 with a sanitizer, which has an allocator of its own
 * @operations: of the driver and calls to filesystems that it made
 * @failed_operations: ways in which one of them failed, alone or after a cancel, each in a run of its own
 * @pairs, @pairs_there_are: of a cancel and something later: that were made, and how many there would be
 * @seed:   of the selection: EW_SWEEP_SEED in the environment, or 1
 * @runs:   that were made, two undisturbed ones included
 * @failed: something was wrong in the last run; the rest of the structure says what
 * @mode, @index, @second: what was done at which point (or allocation), counted from 0; @second: of a pair the
 *          later point; the operation or allocation, counted from the cancel
 * @site:   the task at that point, and the newest declaration of its registry
 * @what:   what was wrong
 */
struct ew_sweep_result {
	unsigned points;
	unsigned allocations;
	unsigned operations;
	unsigned failed_operations;
	unsigned pairs;
	unsigned pairs_there_are;
	uint64_t seed;
	unsigned runs;
	bool failed;
	enum ew_sweep_mode mode;
	unsigned index;
	unsigned second;
	char site[256];
	char what[256];
};

/**
 * ew_sweep() - end @scenario at each of its suspension points, and see that nothing is left
 * @options:  NULL for defaults
 * @scenario: a task; runs with virtual time on one worker, alone in a runtime of its own each time
 *
 * Every suspending call of the scenario's task and of all tasks that it spawns is a point. The first two runs are not
 * disturbed and must return 0 or a count. After each run these must be gone: tasks, operations in flight, timers,
 * jobs on threads, resources, child processes, and descriptors and blocks of the heap must be those of before (blocks
 * that are freed by @check, or made by @prepare, are not the run's). A point that later runs do
 * not reach, not even in 20 tries (the kernel may end an operation before the cancel or by it), means that the
 * scenario is not deterministic, and fails. A point in a stretch marked EW_NO_DROP is passed over by EW_SWEEP_PANIC.
 * An operation that is to fail, or an allocation after a cancel, and is not reached in 3 tries is passed over; those that
 * were made are counted.
 * In each run, too: an operation that says -ECANCELED was asked to stop and has left its memory untouched, a call in a
 * cancelled scope is refused again and again, and the scenario does not return -ECANCELED if only an operation failed.
 * EW_SWEEP_HARDSHIP lowers soft limits of the process (RLIMIT_NOFILE, RLIMIT_NPROC, which root is not bound by) and
 * puts them back after the run.
 *
 * Does not suspend; not from a task. One sweep at a time in a process.
 * Return:    the first failure, or none.
 */
EW_API struct ew_sweep_result ew_sweep(const struct ew_sweep_options *options, ew_task_fn *scenario,
				       void *argument);

/**
 * ew_sweep_spare() - in a sweep: no allocation of the calling task fails, nor of those that it spawns from now on
 *
 * For peers that hold the others to their word. Their suspensions are points as all others; their allocations are not
 * counted. Outside of a sweep a no-op.
 */
EW_API void ew_sweep_spare(void);

/** ew_sweep_mode_name() - "cancel", "panic", ...; never NULL */
EW_API const char *ew_sweep_mode_name(enum ew_sweep_mode mode);
