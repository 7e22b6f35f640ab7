/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Child processes: what they inherit, how their ends are seen, and that no ending leaves one
 * behind. A pipe whose far end only the child and its descendants hold shows when the last of them
 * has gone. Each test ends by looking for zombies and descriptors.
 */

#include "plain.h"

#include <dirent.h>
#include <endwell/clock.h>
#include <endwell/endwell.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#define SHORT_GRACE (30 * EW_MILLISECOND)
#define LONG_GRACE  (25 * EW_SECOND)

static unsigned reports_count;

static void note_report(void *argument, const char *line)
{
	(void)argument;
	(void)line;
	reports_count++;
}

static int count_fds(void)
{
	DIR *dir = opendir("/proc/self/fd");
	int count = 0;

	EXPECT(dir);
	while (readdir(dir))
		count++;
	closedir(dir);
	return count;
}

static void expect_no_child(void)
{
	EXPECT_EQ(waitpid(-1, NULL, WNOHANG), -1);
	EXPECT_EQ(errno, ECHILD);
}

/* One worker and one pool thread; nothing may be left. */
static int run(ew_task_fn *fn)
{
	const struct ew_run_options options = { .workers_count = 1,
						.offload_threads = 1,
						.report = note_report };
	int before = count_fds(), r;

	r = ew_run(&options, fn, NULL);
	expect_no_child();
	EXPECT_EQ(count_fds(), before);
	return r;
}

static int spawn_argv(char *const *argv, int stdout_fd, int keep_fd, int64_t grace_ns,
		      struct ew_process **ret_process)
{
	const struct ew_process_options options = {
		.path = argv[0],
		.argv = argv,
		.stdin_fd = -1,
		.stdout_fd = stdout_fd,
		.stderr_fd = -1,
		.keep_fd = keep_fd,
		.grace_ns = grace_ns,
	};

	return ew_process_spawn(&options, ret_process);
}

static int spawn_shell(const char *script, int stdout_fd, int64_t grace_ns,
		       struct ew_process **ret_process)
{
	char *argv[] = { "/bin/sh", "-c", (char *)(uintptr_t)script, NULL };

	return spawn_argv(argv, stdout_fd, -1, grace_ns, ret_process);
}

/*
 * A shell whose standard output is a pipe that it and its descendants alone hold open; it has
 * printed a line.
 */
static void start_shell(const char *script, int64_t grace_ns, struct ew_process **ret_process,
			struct ew_pipe **ret_output)
{
	EW_OWN(ew_pipe, inside);
	char line[64];
	int r;

	EXPECT_EQ(ew_pipe_open(ret_output, &inside), 0);
	EXPECT_EQ(spawn_shell(script, ew_pipe_fd(inside), grace_ns, ret_process), 0);
	EXPECT_EQ(ew_pipe_close(&inside), 0);
	r = ew_pipe_read(*ret_output, line, sizeof(line));
	EXPECT(r > 0 && line[r - 1] == '\n');
}

/* Everybody who held it has gone. A deadline makes a survivor a failure instead of a hang. */
static void expect_end(struct ew_pipe *output)
{
	char rest[64];
	int r;
	EW_SCOPE(scope, .deadline_ns = ew_after(30 * EW_SECOND));

	do
		r = ew_pipe_read(output, rest, sizeof(rest));
	while (r > 0);
	EXPECT_EQ(ew_scope_finish(&scope, r), 0);
}

static bool is_running(pid_t pid)
{
	return pid > 0 && kill(pid, 0) == 0;
}

/* Gone, not even a zombie. */
static void expect_no_process(pid_t pid)
{
	EXPECT(kill(pid, 0) < 0 && errno == ESRCH);
}

/* ---- how it ends ---- */

static int exit_status_of(const char *script)
{
	EW_OWN(ew_process, process);
	int status = -1;

	EXPECT_EQ(spawn_shell(script, -1, 0, &process), 0);
	EXPECT_EQ(ew_process_wait(process, EW_NEVER, &status), 0);
	EXPECT_EQ(ew_process_close(&process), 0);
	EXPECT(!process);
	return status;
}

static int wait_for_statuses(void *argument)
{
	int status;

	(void)argument;
	status = exit_status_of("exit 0");
	EXPECT(WIFEXITED(status) && WEXITSTATUS(status) == 0);
	status = exit_status_of("exit 7");
	EXPECT(WIFEXITED(status) && WEXITSTATUS(status) == 7);
	status = exit_status_of("exit 255");
	EXPECT(WIFEXITED(status) && WEXITSTATUS(status) == 255);
	status = exit_status_of("kill -9 $$");
	EXPECT(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL && !WCOREDUMP(status));
	status = exit_status_of("kill -USR1 $$");
	EXPECT(WIFSIGNALED(status) && WTERMSIG(status) == SIGUSR1);
	return 0;
}

TEST(process_wait_tells_exit_status_and_signal)
{
	EXPECT_EQ(run(wait_for_statuses), 0);
	EXPECT_EQ(reports_count, 0);
}

static int dump_core(void *argument)
{
	int expected, status;
	pid_t pid;

	(void)argument;
	pid = fork();
	if (pid == 0) {
		signal(SIGQUIT, SIG_DFL); /* a shell's background job ignores it */
		execl("/bin/sh", "sh", "-c", "kill -QUIT $$", NULL);
		_exit(127);
	}
	EXPECT_EQ(waitpid(pid, &expected, 0), pid);
	status = exit_status_of("kill -QUIT $$");
	EXPECT_EQ(status, expected);
	return 0;
}

/* waitpid(2) says what a dump looks like here, if this machine makes one. */
TEST(process_wait_tells_a_core_dump_as_waitpid_does)
{
	const struct rlimit unlimited = { RLIM_INFINITY, RLIM_INFINITY };
	char directory[] = "/tmp/ew-process-XXXXXX", command[64];

	EXPECT(mkdtemp(directory));
	EXPECT_EQ(chdir(directory), 0);
	(void)setrlimit(RLIMIT_CORE, &unlimited);
	EXPECT_EQ(run(dump_core), 0);
	EXPECT_EQ(chdir("/"), 0);
	snprintf(command, sizeof(command), "rm -r %s", directory);
	EXPECT_EQ(system(command), 0);
}

static int wait_twice(void *argument)
{
	EW_OWN(ew_process, process);
	int first = 0, second = 0;
	pid_t pid;

	(void)argument;
	EXPECT_EQ(spawn_shell("exit 3", -1, 0, &process), 0);
	EXPECT_EQ(ew_process_wait(process, EW_NEVER, &first), 0);
	EXPECT_EQ(ew_process_wait(process, EW_NEVER, &second), 0);
	EXPECT_EQ(ew_process_wait(process, EW_NOW, &second), 0);
	EXPECT_EQ(ew_outcome(), EW_OUTCOME_DONE);
	EXPECT_EQ(WEXITSTATUS(first), 3);
	EXPECT_EQ(first, second);
	EXPECT_EQ(ew_process_kill(process, SIGTERM), -ESRCH);
	pid = ew_process_pid(process);
	EXPECT(is_running(pid)); /* to kill(2) a zombie is there */
	EXPECT_EQ(ew_process_close(&process), 0);
	expect_no_process(pid);
	return 0;
}

/* Until the close its number cannot become another process's. */
TEST(process_wait_again_gives_the_same_status)
{
	EXPECT_EQ(run(wait_twice), 0);
}

static int wait_until_deadline(void *argument)
{
	EW_OWN(ew_process, process);
	EW_OWN(ew_pipe, output);
	int64_t begin_ns = ew_now();
	int status = 4711;

	(void)argument;
	start_shell("echo; exec sleep 60", 0, &process, &output);
	EXPECT_EQ(ew_process_wait(process, EW_NOW, &status), -ETIMEDOUT);
	EXPECT_EQ(ew_process_wait(process, ew_after(20 * EW_MILLISECOND), &status), -ETIMEDOUT);
	EXPECT(ew_now() - begin_ns >= 20 * EW_MILLISECOND);
	EXPECT_EQ(status, 4711);
	EXPECT(is_running(ew_process_pid(process)));
	EXPECT_EQ(ew_process_kill(process, SIGKILL), 0);
	EXPECT_EQ(ew_process_wait(process, EW_NEVER, &status), 0);
	EXPECT(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
	return 0;
}

TEST(process_wait_ends_at_its_deadline_and_can_be_made_again)
{
	EXPECT_EQ(run(wait_until_deadline), 0);
}

struct waiter {
	struct ew_process *process;
	int result;
	int status;
};

static int wait_task(void *argument)
{
	struct waiter *waiter = argument;

	waiter->result = ew_process_wait(waiter->process, EW_NEVER, &waiter->status);
	return 0;
}

static int cancel_wait(void *argument)
{
	EW_OWN(ew_process, process);
	EW_OWN(ew_pipe, output);
	struct waiter waiter = { .status = 4711 };

	(void)argument;
	start_shell("echo; exec sleep 60", 0, &process, &output);
	waiter.process = process;
	{
		EW_SCOPE(scope);

		EXPECT_EQ(ew_spawn(&scope, wait_task, &waiter), 0);
		EXPECT_EQ(ew_yield(), 0);
		ew_scope_cancel(&scope, EW_REASON_REQUESTED);
		EXPECT_EQ(ew_process_wait(process, ew_after(EW_SECOND), &waiter.status),
			  -ECANCELED);
	}
	EXPECT_EQ(waiter.result, -ECANCELED);
	EXPECT_EQ(waiter.status, 4711);
	EXPECT_EQ(ew_process_wait(process, EW_NOW, &waiter.status), -ETIMEDOUT);
	EXPECT(is_running(ew_process_pid(process)));
	return 0;
}

TEST(process_wait_cancelled_leaves_it_running)
{
	EXPECT_EQ(run(cancel_wait), 0);
}

static int wait_in_two_tasks(void *argument)
{
	EW_OWN(ew_process, process);
	EW_OWN(ew_pipe, output);
	struct waiter waiters[2] = { 0 };
	EW_SCOPE(scope);

	(void)argument;
	start_shell("echo; exec sleep 60", 0, &process, &output);
	waiters[0].process = waiters[1].process = process;
	EXPECT_EQ(ew_spawn(&scope, wait_task, &waiters[0]), 0);
	EXPECT_EQ(ew_spawn(&scope, wait_task, &waiters[1]), 0);
	EXPECT_EQ(ew_sleep(2 * EW_MILLISECOND), 0);
	EXPECT_EQ(ew_process_kill(process, SIGTERM), 0);
	EXPECT_EQ(ew_scope_join(&scope), 0);
	EXPECT(waiters[0].result == 0 && waiters[1].result == 0);
	EXPECT_EQ(waiters[0].status, SIGTERM);
	EXPECT_EQ(waiters[1].status, SIGTERM);
	return 0;
}

TEST(process_end_is_seen_by_all_who_wait)
{
	EXPECT_EQ(run(wait_in_two_tasks), 0);
}

static int wait_for_reaped(void *argument)
{
	EW_OWN(ew_process, process);
	int status;

	(void)argument;
	EXPECT_EQ(spawn_shell("exit 0", -1, 0, &process), 0);
	EXPECT_EQ(waitpid(ew_process_pid(process), NULL, 0), ew_process_pid(process));
	EXPECT_EQ(ew_process_wait(process, EW_NEVER, &status), -ECHILD);
	EXPECT_EQ(ew_process_kill(process, SIGTERM), -ESRCH);
	return ew_process_close(&process);
}

TEST(process_wait_is_ECHILD_when_other_code_has_reaped_it)
{
	EXPECT_EQ(run(wait_for_reaped), 0);
}

static int spawn_with_ignored_sigchld(void *argument)
{
	const struct sigaction no_wait = { .sa_handler = SIG_DFL, .sa_flags = SA_NOCLDWAIT };
	EW_OWN(ew_process, process);

	(void)argument;
	signal(SIGCHLD, SIG_IGN);
	EXPECT_EQ(spawn_shell("exit 0", -1, 0, &process), -ECHILD);
	EXPECT_EQ(sigaction(SIGCHLD, &no_wait, NULL), 0);
	EXPECT_EQ(spawn_shell("exit 0", -1, 0, &process), -ECHILD);
	return 0;
}

/* The kernel would reap the child, and its number could be another's before anybody knows. */
TEST(process_spawn_is_refused_where_the_program_ignores_SIGCHLD)
{
	EXPECT_EQ(run(spawn_with_ignored_sigchld), 0);
}

/* ---- its start ---- */

static int start_nothing(void *argument)
{
	char *absent[] = { "/nonexistent/program", NULL }, *directory[] = { "/", NULL };
	char *shell[] = { "/bin/sh", "-c", "exit 0", NULL };
	EW_OWN(ew_process, process);

	(void)argument;
	EXPECT_EQ(spawn_argv(absent, -1, -1, 0, &process), -ENOENT);
	EXPECT_EQ(spawn_argv(directory, -1, -1, 0, &process), -EACCES);
	EXPECT_EQ(spawn_argv(shell, 9999, -1, 0, &process), -EBADF);
	EXPECT_EQ(spawn_argv(shell, -1, 9999, 0, &process), -EBADF);
	EXPECT(!process);
	return 0;
}

TEST(process_spawn_tells_why_it_could_not)
{
	EXPECT_EQ(run(start_nothing), 0);
	EXPECT_EQ(reports_count, 0);
}

static int start_without_descriptors(void *argument)
{
	EW_OWN(ew_process, process);
	EW_OWN(ew_pipe, output);
	EW_OWN(ew_pipe, inside);
	int64_t begin_ns = ew_now();
	struct rlimit limit, fewer;
	int next;

	(void)argument;
	EXPECT_EQ(ew_pipe_open(&output, &inside), 0);
	next = dup(0);
	close(next);
	EXPECT_EQ(getrlimit(RLIMIT_NOFILE, &limit), 0);
	fewer = (struct rlimit){ (rlim_t)next, limit.rlim_max };
	EXPECT_EQ(setrlimit(RLIMIT_NOFILE, &fewer), 0);
	EXPECT_EQ(spawn_shell("sleep 60", ew_pipe_fd(inside), 0, &process), -EMFILE);
	EXPECT_EQ(setrlimit(RLIMIT_NOFILE, &limit), 0);
	EXPECT(!process);
	EXPECT_EQ(ew_pipe_close(&inside), 0);
	expect_end(output);
	EXPECT(ew_now() - begin_ns < 30 * EW_SECOND);
	return 0;
}

/* It is started and then there is no number for its pidfd: it must not be left. */
TEST(process_spawn_without_a_descriptor_leaves_no_process)
{
	EXPECT_EQ(run(start_without_descriptors), 0);
}

static int spawn_in_cancelled_scope(void *argument)
{
	EW_OWN(ew_process, process);
	EW_SCOPE(scope);

	(void)argument;
	ew_scope_cancel(&scope, EW_REASON_REQUESTED);
	EXPECT_EQ(spawn_shell("exit 0", -1, 0, &process), -ECANCELED);
	EXPECT(!process);
	expect_no_child();
	return 0;
}

TEST(process_spawn_is_refused_once_cancelled)
{
	EXPECT_EQ(run(spawn_in_cancelled_scope), 0);
}

struct busy {
	int fds[2];
	int result;
};

static int block_thread(void *argument)
{
	struct busy *busy = argument;
	char byte;

	return (int)read(busy->fds[0], &byte, 1);
}

static int block_task(void *argument)
{
	int result = 0;

	EXPECT_EQ(ew_offload(block_thread, argument, &result), 0);
	return result == 1 ? 0 : -EIO;
}

static int spawn_task(void *argument)
{
	struct busy *busy = argument;
	EW_OWN(ew_process, process);

	busy->result = spawn_shell("exit 0", -1, 0, &process);
	EXPECT(!process);
	return 0;
}

static int cancel_spawn_in_line(void *argument)
{
	struct busy busy = { .result = 1 };
	EW_SCOPE(blocking);

	(void)argument;
	EXPECT_EQ(pipe2(busy.fds, O_CLOEXEC), 0);
	EXPECT_EQ(ew_spawn(&blocking, block_task, &busy), 0);
	EXPECT_EQ(ew_sleep(2 * EW_MILLISECOND), 0);
	{
		EW_SCOPE(scope);

		EXPECT_EQ(ew_spawn(&scope, spawn_task, &busy), 0);
		EXPECT_EQ(ew_yield(), 0);
		ew_scope_cancel(&scope, EW_REASON_REQUESTED);
	}
	EXPECT_EQ(busy.result, -ECANCELED);
	EXPECT_EQ(write(busy.fds[1], "x", 1), 1);
	EXPECT_EQ(ew_scope_join(&blocking), 0);
	close(busy.fds[0]);
	close(busy.fds[1]);
	expect_no_child();
	return 0;
}

/* The pool's only thread is busy, so the cancel finds the spawn waiting for it. */
TEST(process_spawn_cancelled_while_it_waits_for_a_thread_starts_nothing)
{
	EXPECT_EQ(run(cancel_spawn_in_line), 0);
}

struct attempt {
	int result;
	bool has_process;
};

static int attempt_task(void *argument)
{
	struct attempt *attempt = argument;
	EW_OWN(ew_process, process);

	attempt->result = spawn_shell("exec sleep 60", -1, SHORT_GRACE, &process);
	attempt->has_process = process && is_running(ew_process_pid(process));
	return 0;
}

static int cancel_spawns(void *argument)
{
	unsigned i, started_count = 0;

	(void)argument;
	for (i = 0; i < 60; i++) {
		struct attempt attempt = { .result = 1 };
		struct timespec delay = { .tv_nsec = (long)(i % 20) * 50000 };
		EW_SCOPE(scope);

		EXPECT_EQ(ew_spawn(&scope, attempt_task, &attempt), 0);
		EXPECT_EQ(ew_yield(), 0);
		nanosleep(&delay, NULL);
		while (i % 20 == 19 && attempt.result == 1)
			EXPECT_EQ(ew_yield(), 0);
		ew_scope_cancel(&scope, EW_REASON_REQUESTED);
		(void)!ew_scope_join(&scope);
		EXPECT(attempt.result == 0 || attempt.result == -ECANCELED);
		EXPECT_EQ(attempt.has_process, attempt.result == 0);
		started_count += attempt.has_process;
	}
	EXPECT(started_count > 0);
	return 0;
}

/*
 * The cancel comes at varying moments after the thread has the job, and now and then when it is done: started is
 * returned, refused is not started.
 */
TEST(process_spawn_that_races_with_a_cancel_is_either_started_or_not)
{
	EXPECT_EQ(run(cancel_spawns), 0);
	EXPECT_EQ(reports_count, 0);
}

/* ---- what it inherits ---- */

/* The whole output of a program. */
static void output_of(char *const *argv, int keep_fd, char *const *envp, char *ret_text,
		      size_t size)
{
	EW_OWN(ew_pipe, output);
	EW_OWN(ew_pipe, inside);
	EW_OWN(ew_process, process);
	struct ew_process_options options;
	size_t used = 0;
	int r, status;

	EXPECT_EQ(ew_pipe_open(&output, &inside), 0);
	options = (struct ew_process_options){
		.path = argv[0],
		.argv = argv,
		.envp = envp,
		.stdin_fd = -1,
		.keep_fd = keep_fd,
		.stdout_fd = ew_pipe_fd(inside),
		.stderr_fd = ew_pipe_fd(inside),
	};
	EXPECT_EQ(ew_process_spawn(&options, &process), 0);
	EXPECT_EQ(ew_pipe_close(&inside), 0);
	while ((r = ew_pipe_read(output, ret_text + used, size - 1 - used)) > 0)
		used += (size_t)r;
	EXPECT_EQ(r, 0);
	ret_text[used] = '\0';
	EXPECT_EQ(ew_process_wait(process, EW_NEVER, &status), 0);
	EXPECT_EQ(status, 0);
}

static int look_at_environment(void *argument)
{
	char *argv[] = { "/usr/bin/env", NULL }, *envp[] = { "COLOUR=blue", NULL };
	char text[1024];

	(void)argument;
	output_of(argv, -1, NULL, text, sizeof(text));
	EXPECT_STR(text, "");
	output_of(argv, -1, envp, text, sizeof(text));
	EXPECT_STR(text, "COLOUR=blue\n");
	return 0;
}

TEST(process_environment_is_empty_or_what_is_given)
{
	EXPECT_EQ(setenv("LEAK", "1", 1), 0);
	EXPECT_EQ(run(look_at_environment), 0);
}

/*
 * `cat` that has echoed a byte stands in its loop: everything that its start opened is closed
 * again.
 */
struct cat {
	struct ew_process *process;
	struct ew_pipe *to, *from;
};

static void end_cat(struct cat *cat)
{
	EXPECT_EQ(ew_close(&cat->to), 0);
	EXPECT_EQ(ew_close(&cat->process), 0);
	EXPECT_EQ(ew_close(&cat->from), 0);
}

static void expect_echo(struct cat *cat)
{
	char byte = 0;

	EXPECT_EQ(ew_pipe_write(cat->to, "x", 1), 0);
	EXPECT_EQ(ew_pipe_read(cat->from, &byte, 1), 1);
	EXPECT_EQ(byte, 'x');
}

static void start_cat(struct cat *cat, int keep_fd)
{
	EW_OWN(ew_pipe, inside_to);
	EW_OWN(ew_pipe, inside_from);
	char *argv[] = { "/bin/cat", NULL };
	struct ew_process_options options;

	*cat = (struct cat){ 0 };
	EXPECT_EQ(ew_pipe_open(&inside_to, &cat->to), 0);
	EXPECT_EQ(ew_pipe_open(&cat->from, &inside_from), 0);
	options = (struct ew_process_options){
		.path = argv[0],
		.argv = argv,
		.stdin_fd = ew_pipe_fd(inside_to),
		.stdout_fd = ew_pipe_fd(inside_from),
		.stderr_fd = -1,
		.keep_fd = keep_fd,
	};
	EXPECT_EQ(ew_process_spawn(&options, &cat->process), 0);
	EXPECT_EQ(ew_pipe_close(&inside_to), 0);
	EXPECT_EQ(ew_pipe_close(&inside_from), 0);
	expect_echo(cat);
}

/* The numbers that are open in @pid, one digit each, in order. */
static void list_fds(pid_t pid, char *ret_list, size_t size)
{
	char path[64];
	struct stat status;
	size_t used = 0;
	int fd;

	for (fd = 0; fd < 1024; fd++) {
		snprintf(path, sizeof(path), "/proc/%d/fd/%d", pid, fd);
		if (lstat(path, &status) == 0 && used + 1 < size)
			ret_list[used++] = fd < 10 ? (char)('0' + fd) : '+';
	}
	ret_list[used] = '\0';
}

static void expect_same_file(pid_t pid, int child_fd, int fd)
{
	char path[64];
	struct stat there, here;

	snprintf(path, sizeof(path), "/proc/%d/fd/%d", pid, child_fd);
	EXPECT_EQ(stat(path, &there), 0);
	EXPECT_EQ(fstat(fd, &here), 0);
	EXPECT(there.st_dev == here.st_dev && there.st_ino == here.st_ino);
}

static int look_at_descriptors(void *argument)
{
	int null = open("/dev/null", O_RDONLY | O_CLOEXEC),
	    leaky = open("/proc/self/status", O_RDONLY);
	int high = fcntl(leaky, F_DUPFD, 500);
	struct cat cat;
	char list[64];

	(void)argument;
	EXPECT(null >= 0 && leaky >= 0 && high >= 500);
	start_cat(&cat, -1);
	list_fds(ew_process_pid(cat.process), list, sizeof(list));
	EXPECT_STR(list, "012");
	expect_same_file(ew_process_pid(cat.process), 2, null);
	end_cat(&cat);
	start_cat(&cat, leaky);
	list_fds(ew_process_pid(cat.process), list, sizeof(list));
	EXPECT_STR(list, "0123");
	expect_same_file(ew_process_pid(cat.process), 3, leaky);
	end_cat(&cat);
	close(null);
	close(leaky);
	close(high);
	return 0;
}

/* Also descriptors that were opened without close-on-exec stay outside. */
TEST(process_inherits_only_the_descriptors_that_it_is_given)
{
	EXPECT_EQ(run(look_at_descriptors), 0);
}

/* The child names its descriptors in the file that is its standard error. */
static bool are_inherited(const int sources[4])
{
	char *argv[] = { "/bin/sh", "-c",
			 "a=$(readlink /proc/$$/fd/0 /proc/$$/fd/1 /proc/$$/fd/3); echo \"$a\" >&2",
			 NULL };
	const struct ew_process_options options = {
		.path = argv[0],
		.argv = argv,
		.stdin_fd = sources[0],
		.stdout_fd = sources[1],
		.stderr_fd = sources[2],
		.keep_fd = sources[3],
	};
	char expected[128], text[128] = "";
	EW_OWN(ew_process, process);
	int status = -1;

	if (ftruncate(sources[2], 0) < 0 || lseek(sources[2], 0, SEEK_SET) < 0)
		return false;
	if (ew_process_spawn(&options, &process) < 0 ||
	    ew_process_wait(process, EW_NEVER, &status) < 0)
		return false;
	snprintf(expected, sizeof(expected),
		 "/memfd:%d (deleted)\n/memfd:%d (deleted)\n/memfd:%d (deleted)\n", sources[0],
		 sources[1], sources[3]);
	return status == 0 && pread(sources[2], text, sizeof(text) - 1, 0) > 0 &&
	       !strcmp(text, expected);
}

/*
 * The parent's descriptors 0 to 3 become memory files that are named by their numbers; returns
 * what they were.
 */
static void replace_descriptors(int saved[4])
{
	char name[] = "0";
	int i, made, fd;

	for (i = 0; i < 4; i++)
		saved[i] = fcntl(i, F_DUPFD_CLOEXEC, 100);
	for (i = 0; i < 4; i++, name[0]++) {
		made = memfd_create(name, MFD_CLOEXEC);
		fd = fcntl(made, F_DUPFD_CLOEXEC, 100);
		close(made);
		EXPECT_EQ(dup3(fd, i, O_CLOEXEC), i);
		close(fd);
	}
}

static void restore_descriptors(const int saved[4])
{
	int i;

	for (i = 0; i < 4; i++) {
		if (saved[i] < 0) {
			close(i);
			continue;
		}
		EXPECT_EQ(dup2(saved[i], i), i);
		close(saved[i]);
	}
}

/*
 * Returns how many ways failed: while it runs, standard output is not where failures can be
 * printed.
 */
static int permute_descriptors(void *argument)
{
	int sources[4], code, failed_count = 0;

	(void)argument;
	for (code = 0; code < 256; code++) {
		sources[0] = code & 3;
		sources[1] = code >> 2 & 3;
		sources[2] = code >> 4 & 3;
		sources[3] = code >> 6;
		failed_count += !are_inherited(sources);
	}
	return failed_count;
}

/* Each of the parent's 0, 1, 2 and 3 becomes each of the child's, in all 256 ways. */
TEST(process_descriptors_may_have_each_others_numbers)
{
	const struct ew_run_options options = { .workers_count = 1 };
	int before = count_fds(), saved[4], r;

	replace_descriptors(saved); /* before the runtime has a descriptor with such a number */
	r = ew_run(&options, permute_descriptors, NULL);
	restore_descriptors(saved);
	EXPECT_EQ(r, 0);
	EXPECT_EQ(count_fds(), before);
}

/* Signals 32 and 33 are glibc's own; its posix_spawn(3) leaves them ignored. */
#define OF_THE_C_LIBRARY ((uint64_t)3 << 31)

static int look_at_signals_and_group(void *argument)
{
	uint64_t blocked, ignored;
	char *status_of[] = { "/bin/grep", "-E", "^Sig(Blk|Ign)", "/proc/self/status", NULL };
	char *group_of[] = { "/bin/sh", "-c", "set -- $(cat /proc/$$/stat); echo $(($1 - $5))",
			     NULL };
	char text[1024];

	(void)argument;
	output_of(status_of, -1, NULL, text, sizeof(text));
	EXPECT_EQ(sscanf(text, "SigBlk: %" SCNx64 " SigIgn: %" SCNx64, &blocked, &ignored), 2);
	EXPECT_EQ(blocked, 0);
	EXPECT_EQ(ignored & ~OF_THE_C_LIBRARY, 0);
	output_of(group_of, -1, NULL, text, sizeof(text));
	EXPECT_STR(text, "0\n");
	return 0;
}

TEST(process_has_default_signals_and_a_group_of_its_own)
{
	signal(SIGHUP, SIG_IGN);
	EXPECT_EQ(run(look_at_signals_and_group), 0);
}

/* ---- the group ---- */

static int kill_group(void *argument)
{
	EW_OWN(ew_process, process);
	EW_OWN(ew_pipe, output);
	int status;

	(void)argument;
	start_shell("sleep 60 & sleep 60 & echo; wait", 0, &process, &output);
	EXPECT_EQ(ew_process_kill(process, SIGTERM), 0);
	expect_end(output);
	EXPECT_EQ(ew_process_wait(process, EW_NEVER, &status), 0);
	EXPECT_EQ(status, SIGTERM);
	EXPECT_EQ(ew_process_kill(process, SIGTERM), -ESRCH);
	return 0;
}

TEST(process_kill_reaches_the_whole_group)
{
	EXPECT_EQ(run(kill_group), 0);
}

static int leave_grandchild(void *argument)
{
	EW_OWN(ew_process, process);
	EW_OWN(ew_pipe, output);
	int status;

	(void)argument;
	start_shell("trap '' TERM; sleep 60 & echo; exit 5", 0, &process, &output);
	EXPECT_EQ(ew_process_wait(process, EW_NEVER, &status), 0);
	EXPECT_EQ(WEXITSTATUS(status), 5);
	EXPECT_EQ(ew_process_close(&process), 0);
	expect_end(output);
	return 0;
}

/* The child has ended by itself and left one behind in its group, which ends with the process. */
TEST(process_close_ends_what_a_finished_child_left_in_its_group)
{
	EXPECT_EQ(run(leave_grandchild), 0);
}

/* ---- endings ---- */

static int close_obedient(void *argument)
{
	EW_OWN(ew_process, process);
	EW_OWN(ew_pipe, output);
	int64_t begin_ns = ew_now();
	pid_t pid;

	(void)argument;
	start_shell("echo; exec sleep 60", LONG_GRACE, &process, &output);
	pid = ew_process_pid(process);
	EXPECT_EQ(ew_process_close(&process), 0);
	expect_no_process(pid);
	expect_end(output);
	EXPECT(ew_now() - begin_ns < LONG_GRACE / 2);
	return 0;
}

TEST(process_close_is_done_when_TERM_was_enough)
{
	EXPECT_EQ(run(close_obedient), 0);
}

static int close_with_handler(void *argument)
{
	EW_OWN(ew_process, process);
	EW_OWN(ew_pipe, output);
	char text[16] = "";

	(void)argument;
	start_shell("trap 'echo bye; exit 0' TERM; echo; while :; do sleep 0.01; done", LONG_GRACE,
		    &process, &output);
	EXPECT_EQ(ew_process_close(&process), 0);
	EXPECT_EQ(ew_pipe_read(output, text, sizeof(text) - 1), 4);
	EXPECT_STR(text, "bye\n");
	return 0;
}

TEST(process_close_lets_the_child_say_goodbye)
{
	EXPECT_EQ(run(close_with_handler), 0);
}

static int close_stubborn(void *argument)
{
	EW_OWN(ew_process, process);
	EW_OWN(ew_pipe, output);
	int64_t begin_ns;
	pid_t pid;

	(void)argument;
	start_shell("trap '' TERM; echo; sleep 60", SHORT_GRACE, &process, &output);
	pid = ew_process_pid(process);
	begin_ns = ew_now();
	EXPECT_EQ(ew_process_close(&process), 0);
	EXPECT(ew_now() - begin_ns >= SHORT_GRACE);
	expect_no_process(pid);
	expect_end(output);
	return 0;
}

TEST(process_close_kills_a_child_that_ignores_TERM_after_the_grace)
{
	EXPECT_EQ(run(close_stubborn), 0);
}

static int close_in_cancelled_scope(void *argument)
{
	EW_OWN(ew_process, process);
	EW_OWN(ew_pipe, output);
	pid_t pid;

	(void)argument;
	start_shell("trap 'echo bye; exit 0' TERM; echo; while :; do sleep 0.01; done", LONG_GRACE,
		    &process, &output);
	pid = ew_process_pid(process);
	{
		EW_SCOPE(scope);

		ew_scope_cancel(&scope, EW_REASON_REQUESTED);
		EXPECT_EQ(ew_process_close(&process), 0);
	}
	expect_no_process(pid);
	expect_end(output);
	return 0;
}

TEST(process_close_waits_although_its_task_is_cancelled)
{
	EXPECT_EQ(run(close_in_cancelled_scope), 0);
}

static int spend_budget(void *argument)
{
	EW_OWN(ew_process, process);
	EW_OWN(ew_pipe, output);
	int64_t begin_ns;

	(void)argument;
	start_shell("trap '' TERM; echo; sleep 60", LONG_GRACE, &process, &output);
	begin_ns = ew_now();
	{
		EW_SCOPE(scope, .budget_ns = SHORT_GRACE);

		ew_scope_cancel(&scope, EW_REASON_REQUESTED);
		EXPECT_EQ(ew_process_close(&process), -ECANCELED);
		EXPECT(!process);
	}
	expect_end(output);
	EXPECT(ew_now() - begin_ns < LONG_GRACE / 2);
	return 0;
}

/* The ladder has less time than the grace: killed at its end, and reaped. */
TEST(process_close_is_cut_short_by_the_ladder)
{
	EXPECT_EQ(run(spend_budget), 0);
}

static int abort_one(void *argument)
{
	EW_OWN(ew_process, process);
	EW_OWN(ew_pipe, output);

	(void)argument;
	start_shell("trap '' TERM; sleep 60 & echo; wait", LONG_GRACE, &process, &output);
	ew_abort(&process);
	EXPECT(!process);
	expect_end(output);
	return 0;
}

static int abort_ended(void *argument)
{
	EW_OWN(ew_process, process);
	int status;
	pid_t pid;

	(void)argument;
	EXPECT_EQ(spawn_shell("exit 0", -1, 0, &process), 0);
	pid = ew_process_pid(process);
	EXPECT_EQ(ew_process_wait(process, EW_NEVER, &status), 0);
	ew_abort(&process);
	expect_no_process(pid);
	return 0;
}

static int abort_stopped(void *argument)
{
	EW_OWN(ew_process, process);
	EW_OWN(ew_pipe, output);

	(void)argument;
	start_shell("echo; exec sleep 60", LONG_GRACE, &process, &output);
	EXPECT_EQ(ew_process_kill(process, SIGSTOP), 0);
	ew_abort(&process);
	expect_end(output);
	return 0;
}

/* run() looks for the zombie and the descriptor when the runtime has ended. */
TEST(process_abort_leaves_neither_zombie_nor_descriptor)
{
	EXPECT_EQ(run(abort_one), 0);
	EXPECT_EQ(run(abort_ended), 0);
	EXPECT_EQ(run(abort_stopped), 0);
	EXPECT_EQ(reports_count, 0);
}

static int abort_on_other_worker(void *argument, void *place)
{
	(void)argument;
	EXPECT_EQ(ew_worker(), 2);
	ew_abort(place);
	return 0;
}

static int give_to_other_worker(void *argument)
{
	EW_OWN(ew_process, process);
	EW_OWN(ew_pipe, output);
	EW_SCOPE(scope);

	(void)argument;
	start_shell("echo; exec sleep 60", LONG_GRACE, &process, &output);
	EXPECT_EQ(ew_spawn_take(&scope, abort_on_other_worker, NULL, &process, .worker = 2), 0);
	EXPECT_EQ(ew_scope_join(&scope), 0);
	expect_end(output);
	return 0;
}

TEST(process_may_be_aborted_by_another_worker)
{
	const struct ew_run_options options = { .workers_count = 2, .report = note_report };
	int before = count_fds();

	EXPECT_EQ(ew_run(&options, give_to_other_worker, NULL), 0);
	expect_no_child();
	EXPECT_EQ(count_fds(), before);
}

static struct ew_process *lost;

static int forget(void *argument)
{
	(void)argument;
	EXPECT_EQ(spawn_shell("exec sleep 60", -1, LONG_GRACE, &lost), 0);
	return 0;
}

TEST(process_forgotten_is_reported_and_aborted)
{
	EXPECT_EQ(run(forget), 0);
	EXPECT_EQ(reports_count, 1);
}

static int panic_with_process(void *argument)
{
	EW_OWN(ew_process, process);
	EW_OWN(ew_pipe, inside);
	struct ew_pipe **output = argument;

	EXPECT_EQ(ew_pipe_open(output, &inside), 0);
	EXPECT_EQ(spawn_shell("exec sleep 60", ew_pipe_fd(inside), LONG_GRACE, &process), 0);
	ew_panic("on purpose");
}

static int await_panic(void *argument)
{
	EW_OWN(ew_pipe, output);
	EW_SCOPE(scope, .policy = EW_POLICY_INDEPENDENT);

	(void)argument;
	EXPECT_EQ(ew_spawn(&scope, panic_with_process, &output), 0);
	(void)!ew_scope_join(&scope);
	expect_no_child();
	expect_end(output);
	return 0;
}

TEST(process_ends_with_its_task_when_that_panics)
{
	EXPECT_EQ(run(await_panic), 0);
}

static int leave_block(void *argument)
{
	pid_t pid;

	(void)argument;
	{
		EW_OWN(ew_process, process);

		EXPECT_EQ(spawn_shell("exec sleep 60", -1, LONG_GRACE, &process), 0);
		pid = ew_process_pid(process);
	}
	expect_no_process(pid);
	return 0;
}

TEST(process_ends_when_its_block_is_left)
{
	EXPECT_EQ(run(leave_block), 0);
	EXPECT_EQ(reports_count, 0);
}

static int change_group(void *argument)
{
	EW_OWN(ew_process, process);
	EW_OWN(ew_pipe, output);
	char script[256];

	(void)argument;
	snprintf(script, sizeof(script),
		 "exec /usr/bin/perl -e '$SIG{TERM} = \"IGNORE\"; "
		 "setpgrp(0, %d); $| = 1; print \"\\n\"; sleep 60'",
		 getpgrp());
	start_shell(script, SHORT_GRACE, &process, &output);
	EXPECT_EQ(getpgid(ew_process_pid(process)), getpgrp());
	EXPECT_EQ(ew_process_close(&process), 0);
	expect_end(output);
	return 0;
}

TEST(process_that_has_gone_to_another_group_is_ended_all_the_same)
{
	if (access("/usr/bin/perl", X_OK) < 0)
		SKIP("no perl");
	EXPECT_EQ(run(change_group), 0);
}

TEST_MAIN()
