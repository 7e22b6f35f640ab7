/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * Child process: in a group of its own, never a zombie
 */

#include <endwell/resource.h>
#include <sys/types.h>

struct ew_process;

/**
 * struct ew_process_options
 * @path:      program; no search in PATH, no shell
 * @argv:      NULL-terminated
 * @envp:      NULL-terminated; NULL: an empty environment
 * @stdin_fd, @stdout_fd, @stderr_fd: -1: /dev/null. No other descriptor is inherited
 * @keep_fd:   one more descriptor that the child inherits, under the number 3; -1: none
 * @grace_ns:  between TERM and KILL when it is closed while it runs; 0: 5 s
 */
struct ew_process_options {
	const char *path;
	char *const *argv;
	char *const *envp;
	int stdin_fd;
	int stdout_fd;
	int stderr_fd;
	int keep_fd;
	int64_t grace_ns;
};

/**
 * ew_process_spawn() - start a program in a new process group, signals at their defaults
 *
 * Suspends:  the spawn itself runs on a thread.
 * Ownership: the process is the caller's. close: TERM to the group, after the grace KILL, and wait;
 *            abort: KILL to the group, reaped by the runtime. What a child that has ended left in its
 *            group is killed by both.
 * Errors:    those of posix_spawn(3) (-ENOENT, -EACCES, -EAGAIN ...), -EMFILE, -ECHILD: the program
 *            ignores SIGCHLD, so that the kernel would reap; -ECANCELED: not started; -EOPNOTSUPP: the world is simulated, and knows no such program
 */
EW_SUSPENDS EW_API int ew_process_spawn(const struct ew_process_options *options,
					struct ew_process **ret_process);

EW_API pid_t ew_process_pid(const struct ew_process *process);

/**
 * ew_process_wait() - until it has ended; waiting again gives the same status
 * @ret_status: as waitpid(2)
 * Errors:      -ETIMEDOUT, -ECANCELED, -ENOMEM the kernel has none for the wait: still running, or not yet seen;
 *              -ECHILD: it has ended, and other code of the program has reaped it
 * Source:      pidfd_open(2), poll: kernel 5.3
 */
EW_SUSPENDS EW_API int ew_process_wait(struct ew_process *process, int64_t deadline_ns,
				       int *ret_status);

/** ew_process_kill() - signal the whole group; -ESRCH: it has ended */
EW_API int ew_process_kill(struct ew_process *process, int signal);

/**
 * ew_process_close() - end it by name, as above
 * Errors:  as ew_close(); on another, such as -ENOMEM, it was killed and the runtime waits for it
 */
EW_SUSPENDS EW_API int ew_process_close(struct ew_process **process);

#define ew_process_spawn(...) (ew__here(EW_SITE("ew_process_spawn")), ew_process_spawn(__VA_ARGS__))
