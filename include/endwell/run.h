/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * The runtime: from the first task to the last ending
 */

#include <endwell/task.h>
#include <signal.h>

/**
 * struct ew_run_options - zero is the default for each
 * @workers_count:      0: one per processor the process may run on; at most EW_WORKERS_MAX
 * @offload_threads:    most threads for ew_offload(); 0: 4. Files have threads of their own, see docs/limits.md
 * @shutdown_budget_ns: from ew_shutdown(), or the end of the main task, or its panic, to the end: the promised bound
 *                      of a shutdown. Everything is forced when nine tenths of it are over; 0: 30 s
 * @exit_when_stuck:    when that time is over and tasks are still there, print what is stuck and _exit(70)
 * @stall_limit_ns:     a task that keeps its worker longer than that, without suspending, is reported once, with its
 *                      name, the line that spawned it, and the calls that it is in, as file and offset for
 *                      addr2line(1); 0: nobody looks. They are found by a signal, SIGURG, to the thread that stalls and to no other; system calls that
 *                      cannot be restarted return EINTR then. A machine that is too busy may look like a stall.
 *                      Nothing with virtual_time
 * @virtual_time:       the clock stands still while tasks run and jumps to the next deadline when none
 *                      can and no operation is in flight; one worker only. For tests
 * @signals:            blocked in all threads of the runtime, for ew_signals_open(); NULL: none. SIGPIPE always is
 * @report:             gets reports; NULL: they go to stderr
 */
struct ew_run_options {
	unsigned workers_count;
	unsigned offload_threads;
	int64_t shutdown_budget_ns;
	bool exit_when_stuck;
	int64_t stall_limit_ns;
	bool virtual_time;
	const sigset_t *signals;
	ew_report_fn *report;
	void *report_argument;
};

#define EW_WORKERS_MAX 64

/** ew_workers_default() - what workers_count 0 stands for here, for who adds up limits before the run */
EW_API unsigned ew_workers_default(void);

/**
 * ew_run() - run a task and everything it starts, to the end
 * @options: NULL for defaults
 * @fn:      the main task; runs on worker 1, which is the calling thread
 *
 * Returns when every task has ended, every resource is closed or aborted and the kernel is done with all memory lent.
 * Meanwhile its workers, and so the calling thread and threads that tasks start themselves, have the scheduler's shortest
 * slice (100 us, Linux 6.12).
 * Return:  @fn's result.
 * Errors:  -EDEADLK called from a task (reported: a child scope is what is wanted); -EINVAL options that do not
 *          fit together, EW_DRIVER in the environment names no driver, or sim, which has one worker, where more are
 *          asked for; -ENOMEM or -EMFILE: no memory or descriptor
 *          for a driver; -ENOSYS, -EPERM, -EACCES: EW_DRIVER=uring, and io_uring is missing or refused (else epoll
 *          is used, which is reported); -EAGAIN no thread or stack (all reported in one sentence with the cause).
 */
EW_API int ew_run(const struct ew_run_options *options, ew_task_fn *fn, void *argument);

/**
 * ew_shutdown() - cancel everything that the calling task's runtime does, with EW_REASON_SHUTDOWN
 *
 * The shutdown budget starts to run. From any task; returns at once.
 */
EW_API void ew_shutdown(void);
#define ew_shutdown() (ew__here(EW_SITE("ew_shutdown")), ew_shutdown())

/**
 * ew_end_by() - announce when the runtime will have ended, for a program that drains in an order of its own
 * @deadline_ns: an earlier announcement, or the end of the shutdown budget, stands if it is earlier
 *
 * Cancels nothing. With exit_when_stuck, what is still there at @deadline_ns is named, and the process leaves.
 */
EW_API void ew_end_by(int64_t deadline_ns);

/**
 * ew_driver_name() - what carries operations out here, and on what: "uring (kernel 6.18, stack guards by madvise)"
 *
 * "epoll (...)" where io_uring is not to be had; "none (...)" on a plain thread that has not suspended.
 */
EW_API const char *ew_driver_name(void);
