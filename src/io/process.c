/* SPDX-License-Identifier: Apache-2.0 */

/*
 * A child process is seen to end through its pidfd, which the driver polls. Its end is looked at
 * without reaping it: the zombie keeps the number of process and group from being given to
 * somebody else, so that a signal for the group can only meet the group. The ending kills what is
 * left of the group, and then reaps.
 *
 * The record carries the operation that its abort needs: after a KILL the worker polls on without
 * anybody waiting, and reaps when the end has come. A runtime does not end before that.
 *
 * All of this needs that nobody else reaps. Where the kernel would, because the program ignores
 * SIGCHLD, nothing is started; a child that other code has waited for is seen to have ended,
 * without a status.
 */

#include "driver/system.h"
#include "io/op.h"
#include "scope/resource.h"
#include "seeded/bug.h"

#include <endwell/clock.h>
#include <endwell/offload.h>
#include <endwell/process.h>
#include <endwell/scope.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <stdlib.h>
#include <sys/pidfd.h>
#include <sys/wait.h>
#include <unistd.h>

#define GRACE_DEFAULT (5 * EW_SECOND)

/* Above all graces that make sense: a close that is not done by then aborts. */
#define CLOSE_BUDGET (30 * EW_SECOND)

#define CHILD_FDS 4 /* standard input, output and error, and the one that is kept */

struct ew_process {
	struct ew_resource resource;
	struct ew__op reap;
	int64_t grace_ns;
	pid_t pid; /* 0: not started */
	int pidfd;
	int status;
	bool ended;
	bool reaped; /* by other code of the program */
};

static bool is_simulated(const struct ew_process *process)
{
	return ew__system_is_simulated(process->pidfd);
}

/* As waitid(2), which does not wait here, and leaves the zombie. */
static int state_of(const struct ew_process *process, siginfo_t *ret_info)
{
	if (is_simulated(process))
		return ew__system->child_state(process->pidfd, ret_info);
	return waitid(P_PIDFD, (id_t)process->pidfd, ret_info, WEXITED | WNOHANG | WNOWAIT);
}

/* Whether it has ended; then the status is known. */
static bool look(struct ew_process *process)
{
	siginfo_t info = { 0 };

	if (process->ended)
		return true;
	if (state_of(process, &info) < 0) {
		process->reaped = true;
		process->ended = true;
	} else if (info.si_pid) {
		if (info.si_code == CLD_EXITED)
			process->status =
				W_EXITCODE(ew__bug("exit-status-lost") ? 0 : info.si_status, 0);
		else
			process->status =
				info.si_status | (info.si_code == CLD_DUMPED ? WCOREFLAG : 0);
		process->ended = true;
	}
	return process->ended;
}

/* To the group; to the child itself if it has gone to another group. */
static int send_signal(const struct ew_process *process, int signal)
{
	int r;

	if (is_simulated(process))
		return ew__system->child_signal(process->pidfd, signal);
	r = kill(-process->pid, signal) < 0 ? -errno : 0;
	if ((r == -ESRCH || signal == SIGKILL) && !ew__bug("child-in-another-group-missed"))
		r = pidfd_send_signal(process->pidfd, signal, NULL, 0) < 0 ? -errno : 0;
	return r;
}

/* The process has ended, or was never started. */
static void bury(struct ew_process *process)
{
	siginfo_t info;

	if (process->pid && !process->reaped && !is_simulated(process) && !ew__bug("zombie-left")) {
		if (!ew__bug("rest-of-the-group-lives-on"))
			kill(-process->pid, SIGKILL);
		waitid(P_PIDFD, (id_t)process->pidfd, &info, WEXITED | WNOHANG);
	}
	if (process->pid && !ew__bug("pidfd-left-open"))
		ew__system_close(process->pidfd);
	free(process);
}

static int await_end(struct ew_process *process, int64_t deadline_ns)
{
	struct ew__task_op end = {
		.op = { .code = EW__OP_POLL, .fd = process->pidfd, .flags = POLLIN }
	};
	int r;

	/* To a scope 0 is no deadline at all. */
	EW_SCOPE(waiting, .deadline_ns = deadline_ns > EW_NOW ? deadline_ns : EW_NOW);

	do
		r = ew__op_run_polled(&end, "the end of a process");
	while (r >= 0 && !look(process));
	return ew_scope_finish(&waiting, r < 0 ? r : 0);
}

static int end_group(struct ew_process *process)
{
	int r;

	if (look(process))
		return 0;
	(void)send_signal(process, ew__bug("no-time-to-say-goodbye") ? SIGKILL : SIGTERM);
	r = await_end(process, ew_after(process->grace_ns));
	if (r != -ETIMEDOUT)
		return r;
	(void)send_signal(process, SIGKILL);
	return await_end(process, EW_NEVER);
}

static void submit_reap(struct ew_process *process)
{
	ew__driver_submit(ew__worker->driver, &process->reap);
}

static void reap_polled(struct ew__op *op)
{
	struct ew_process *process = ew__container_of(op, struct ew_process, reap);

	if (look(process))
		bury(process);
	else
		submit_reap(process);
}

static void process_abort(void *resource)
{
	struct ew_process *process = resource;
	siginfo_t info;

	ew_resource_deinit(&process->resource);
	if (!process->pid || look(process)) {
		bury(process);
		return;
	}
	(void)send_signal(process, SIGKILL);
	if (ew__thread_is_plain()) {
		/* Whose next turn may be far: the kernel is quick, and nobody else's turn is at stake. */
		while (waitid(P_PIDFD, (id_t)process->pidfd, &info, WEXITED | WNOWAIT) < 0 &&
		       errno == EINTR)
			;
		bury(process);
		return;
	}
	submit_reap(process);
}

static int process_close(void *resource)
{
	struct ew_process *process = resource;
	int r = process->pid ? end_group(process) : 0;

	if (r == -ECANCELED)
		return r; /* not ended: the abort goes on */
	if (r < 0) {
		/* The kernel does not let us wait. Whoever closes is told, and nothing is left. */
		if (!ew__bug("cleanup-gives-up-when-a-step-fails") ||
		    ew_cancel_rung() != EW_RUNG_CLEANUP)
			process_abort(process);
		return r;
	}
	ew_resource_deinit(&process->resource);
	bury(process);
	return 0;
}

static const struct ew_resource_type process_type = {
	.name = "process",
	.close = process_close,
	.abort = process_abort,
	.budget_ns = CLOSE_BUDGET,
};

struct spawn_call {
	const struct ew_process_options *options;
	struct ew_process *process;
};

/*
 * The child's descriptors get their numbers one after the other, so none of the sources may have a
 * number that is given away before its turn: those are moved up.
 */
static int move_up(int fds[CHILD_FDS], bool moved[CHILD_FDS])
{
	int i;

	for (i = 0; i < CHILD_FDS; i++) {
		if (fds[i] < 0 || fds[i] >= CHILD_FDS)
			continue;
		fds[i] = fcntl(fds[i], F_DUPFD_CLOEXEC, CHILD_FDS);
		if (fds[i] < 0)
			return -errno;
		moved[i] = true;
	}
	return 0;
}

static int add_actions(posix_spawn_file_actions_t *actions, const int fds[CHILD_FDS])
{
	int i, r = 0;

	for (i = 0; i < CHILD_FDS && r == 0; i++) {
		if (fds[i] >= 0)
			r = posix_spawn_file_actions_adddup2(actions, fds[i], i);
		else if (i <= STDERR_FILENO)
			r = posix_spawn_file_actions_addopen(actions, i, "/dev/null", O_RDWR, 0);
		else
			break;
	}
	/* Also what other code of the program has opened without close-on-exec. */
	return r ? -r : -posix_spawn_file_actions_addclosefrom_np(actions, i);
}

static int set_attributes(posix_spawnattr_t *attributes)
{
	sigset_t none, all;
	int r;

	sigemptyset(&none);
	sigfillset(&all);
	r = posix_spawnattr_setflags(attributes, POSIX_SPAWN_SETPGROUP | POSIX_SPAWN_SETSIGDEF |
							 POSIX_SPAWN_SETSIGMASK);
	if (r == 0)
		r = posix_spawnattr_setpgroup(attributes, 0);
	if (r == 0)
		r = posix_spawnattr_setsigdefault(attributes, &all);
	if (r == 0)
		r = posix_spawnattr_setsigmask(
			attributes, ew__bug("child-keeps-our-signal-mask") ? &all : &none);
	return -r;
}

static int start(const struct ew_process_options *options, const int fds[CHILD_FDS], pid_t *ret_pid)
{
	static char *const no_environment[] = { NULL };
	posix_spawn_file_actions_t actions;
	posix_spawnattr_t attributes;
	int r;

	r = -posix_spawn_file_actions_init(&actions);
	if (r < 0)
		return r;
	r = -posix_spawnattr_init(&attributes);
	if (r == 0) {
		r = add_actions(&actions, fds);
		if (r == 0)
			r = set_attributes(&attributes);
		if (r == 0)
			r = -posix_spawn(ret_pid, options->path, &actions, &attributes,
					 options->argv,
					 options->envp ? options->envp : no_environment);
		posix_spawnattr_destroy(&attributes);
	}
	posix_spawn_file_actions_destroy(&actions);
	return r;
}

/*
 * Nobody has reaped it, so the number is still the child's. Without a descriptor for it, it may
 * not live.
 */
static int open_pidfd(pid_t pid)
{
	int r = pidfd_open(pid, 0);

	if (r >= 0)
		return r;
	r = -errno;
	kill(-pid, SIGKILL);
	while (waitpid(pid, NULL, 0) < 0 && errno == EINTR)
		;
	return r;
}

static bool kernel_reaps(void)
{
	struct sigaction action;

	return sigaction(SIGCHLD, NULL, &action) == 0 &&
	       (action.sa_handler == SIG_IGN || (action.sa_flags & SA_NOCLDWAIT));
}

static int spawn_simulated(struct spawn_call *call)
{
	int r = ew__system->spawn(call->options, &call->process->pid);

	if (r < 0)
		return r;
	call->process->pidfd = r;
	return 0;
}

static int spawn(void *argument)
{
	struct spawn_call *call = argument;
	const struct ew_process_options *options = call->options;
	int fds[CHILD_FDS] = { options->stdin_fd, options->stdout_fd, options->stderr_fd,
			       options->keep_fd };
	bool moved[CHILD_FDS] = { false };
	pid_t pid;
	int i, r;

	if (ew__system)
		return spawn_simulated(call);
	if (kernel_reaps() && !ew__bug("started-although-the-kernel-reaps"))
		return -ECHILD;
	r = move_up(fds, moved);
	if (r == 0)
		r = start(options, fds, &pid);
	for (i = 0; i < CHILD_FDS; i++)
		if (moved[i])
			close(fds[i]);
	if (r < 0)
		return r;
	r = open_pidfd(pid);
	if (r < 0)
		return r;
	call->process->pidfd = r;
	call->process->pid = pid;
	return 0;
}

int(ew_process_spawn)(const struct ew_process_options *options, struct ew_process **ret_process)
{
	const struct ew_site *site = ew__made_at;
	EW_OWN(ew_process, process);
	struct spawn_call call = { .options = options };
	int r, result;

	process = calloc(1, sizeof(*process));
	if (!process)
		return -ENOMEM;
	process->grace_ns = options->grace_ns ? options->grace_ns : GRACE_DEFAULT;
	process->reap =
		(struct ew__op){ .code = EW__OP_POLL, .flags = POLLIN, .complete = reap_polled };
	ew_resource_init(&process->resource, &process_type, site);
	call.process = process;
	r = ew_offload(spawn, &call, &result);
	if (r == 0)
		r = result;
	if (r < 0)
		return r;
	process->reap.fd = process->pidfd;
	ew__place_must_be_empty(ret_process, site);
	*ret_process = process;
	process = NULL;
	return 0;
}

pid_t ew_process_pid(const struct ew_process *process)
{
	return process->pid;
}

int ew_process_wait(struct ew_process *process, int64_t deadline_ns, int *ret_status)
{
	int r = ew__enter();

	if (r == 0 && !look(process))
		r = await_end(process, deadline_ns);
	if (r < 0)
		return r;
	ew__task()->outcome = EW_OUTCOME_DONE;
	if (process->reaped)
		return -ECHILD;
	*ret_status = process->status;
	return 0;
}

int ew_process_kill(struct ew_process *process, int signal)
{
	return look(process) ? -ESRCH : send_signal(process, signal);
}

int ew_process_close(struct ew_process **process)
{
	return ew_close(process);
}
