/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A program may leave processes behind that have left its group and its session; killing the group
 * does not reach them, and nothing says when they are gone. A child subreaper inherits them instead
 * of init: they become our children, so we can see them in /proc, signal them without mistaking
 * their numbers (a child's number is not reused before we have waited for it), and know that all
 * are gone when there is nobody left to wait for.
 *
 * A plain, single-threaded program of blocking calls, without the runtime: it must not fail for
 * reasons of its own.
 */
#include "supervise.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <poll.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define ALIVE_FD 3

/* Exit statuses of our own, none of which is a verdict. */
#define EXIT_TOLD_TO_END 124
#define EXIT_TROUBLE	 125
#define EXIT_NOT_RUN	 127

#define SWEEP_INTERVAL_MS 20

struct supervisor {
	sigset_t before; /* the signals as we found them */
	int signal_fd;
	pid_t program;
	bool program_ended;
	int status;	  /* its exit status, once it has ended */
	bool told_to_end; /* before the program ended by itself */
	bool ending;
	int64_t kill_ms; /* when patience ends */
};

static int64_t now_ms(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

static void limit(int resource, rlim_t most)
{
	struct rlimit now;

	if (getrlimit(resource, &now) < 0)
		return;
	if (now.rlim_max > most)
		now.rlim_max = most;
	if (now.rlim_cur > now.rlim_max)
		now.rlim_cur = now.rlim_max;
	setrlimit(resource, &now);
}

static void set_limits(void)
{
	limit(RLIMIT_CORE, 0);
	limit(RLIMIT_NOFILE, 1024);
	limit(RLIMIT_CPU, 3600);
	limit(RLIMIT_AS, (rlim_t)8 << 30);
	limit(RLIMIT_FSIZE, (rlim_t)16 << 30);
}

/* Becomes @user and @group for good; "-" changes nothing. */
static int drop_privileges(const char *user, const char *group)
{
	uid_t uid;
	gid_t gid;

	if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0)
		return -errno;
	if (strcmp(user, "-") == 0)
		return 0;
	uid = (uid_t)strtoul(user, NULL, 10);
	gid = (gid_t)strtoul(group, NULL, 10);
	if (setgroups(0, NULL) < 0 || setresgid(gid, gid, gid) < 0 || setresuid(uid, uid, uid) < 0)
		return -errno;
	return 0;
}

_Noreturn static void run_program(const struct supervisor *supervisor, char **argv)
{
	static char *const environment[] = {
		(char *)"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
		(char *)"LANG=C.UTF-8",
		(char *)"HOME=/nonexistent",
		NULL,
	};
	int r;

	setpgid(0, 0);
	umask(077);
	if (chdir("/") < 0)
		_exit(EXIT_TROUBLE);
	set_limits();
	r = drop_privileges(argv[2], argv[3]);
	if (r < 0) {
		fprintf(stderr, "cannot drop privileges: %s\n", strerror(-r));
		_exit(EXIT_TROUBLE);
	}
	prctl(PR_SET_PDEATHSIG, SIGKILL); /* after the change of user, which clears it */
	sigprocmask(SIG_SETMASK, &supervisor->before, NULL);
	execvpe(argv[4], argv + 4, environment);
	fprintf(stderr, "%s: %s\n", argv[4], strerror(errno));
	_exit(EXIT_NOT_RUN);
}

static int exit_status(int status)
{
	return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

/* Waits for whoever has ended; false when no children are left. */
static bool reap(struct supervisor *supervisor)
{
	int status;
	pid_t pid;

	while ((pid = waitpid(-1, &status, WNOHANG)) > 0) {
		if (pid != supervisor->program)
			continue;
		supervisor->program_ended = true;
		supervisor->status = exit_status(status);
	}
	return pid == 0;
}

/*
 * The parent of a process, 0 if it is gone: the fourth field, after a name in parentheses that may
 * hold anything.
 */
static pid_t parent_of(const char *process)
{
	char path[64], text[512];
	const char *after;
	ssize_t bytes;
	int fd, parent;

	snprintf(path, sizeof(path), "/proc/%.20s/stat", process);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return 0;
	bytes = read(fd, text, sizeof(text) - 1);
	close(fd);
	if (bytes <= 0)
		return 0;
	text[bytes] = '\0';
	after = strrchr(text, ')');
	if (!after || sscanf(after + 1, " %*c %d", &parent) != 1)
		return 0;
	return parent;
}

/* Signals the program's group and every child of ours. */
static void signal_tree(const struct supervisor *supervisor, int signal)
{
	struct dirent *entry;
	DIR *processes;

	if (!supervisor->program_ended)
		kill(-supervisor->program, signal);
	processes = opendir("/proc");
	if (!processes)
		return;
	while ((entry = readdir(processes)))
		if (entry->d_name[0] >= '1' && entry->d_name[0] <= '9' &&
		    parent_of(entry->d_name) == getpid())
			kill((pid_t)atoi(entry->d_name), signal);
	closedir(processes);
}

static void begin_end(struct supervisor *supervisor)
{
	if (supervisor->ending)
		return;
	supervisor->ending = true;
	supervisor->kill_ms = now_ms() + SUPERVISE_GRACE_SECONDS * 1000;
	signal_tree(supervisor, SIGTERM);
}

/* One wait; notes whether somebody wants the end. */
static void wait_for_news(struct supervisor *supervisor)
{
	struct pollfd watched[] = {
		{ .fd = supervisor->signal_fd, .events = POLLIN },
		{ .fd = supervisor->told_to_end ? -1 : ALIVE_FD },
	};
	struct signalfd_siginfo news;

	poll(watched, 2, supervisor->ending ? SWEEP_INTERVAL_MS : -1);
	while (read(supervisor->signal_fd, &news, sizeof(news)) == sizeof(news))
		if (news.ssi_signo != SIGCHLD)
			supervisor->told_to_end =
				supervisor->told_to_end || !supervisor->program_ended;
	if (watched[1].revents & POLLERR)
		supervisor->told_to_end = true;
}

static int supervise(struct supervisor *supervisor)
{
	while (reap(supervisor)) {
		if (supervisor->program_ended || supervisor->told_to_end)
			begin_end(supervisor);
		if (supervisor->ending && now_ms() >= supervisor->kill_ms)
			signal_tree(supervisor, SIGKILL);
		wait_for_news(supervisor);
	}
	return supervisor->told_to_end ? EXIT_TOLD_TO_END : supervisor->status;
}

int supervise_main(int argc, char **argv)
{
	struct supervisor supervisor = { .status = EXIT_TROUBLE };
	sigset_t awaited;

	if (argc < 5)
		return EXIT_TROUBLE;

	/*
	 * SIGHUP comes from the kernel, to a group that is stopped when its last relative in the
	 * session, the server, goes (setpgid(2)).
	 */
	sigemptyset(&awaited);
	sigaddset(&awaited, SIGCHLD);
	sigaddset(&awaited, SIGHUP);
	sigaddset(&awaited, SIGTERM);
	sigaddset(&awaited, SIGINT);
	sigprocmask(SIG_BLOCK, &awaited, &supervisor.before);
	supervisor.signal_fd = signalfd(-1, &awaited, SFD_CLOEXEC | SFD_NONBLOCK);
	if (supervisor.signal_fd < 0 || prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) < 0)
		return EXIT_TROUBLE;

	supervisor.program = fork();
	if (supervisor.program < 0)
		return EXIT_TROUBLE;
	if (supervisor.program == 0)
		run_program(&supervisor, argv);
	setpgid(supervisor.program, supervisor.program);
	return supervise(&supervisor);
}
