/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A filesystem for tests: testfs FOLDER MOUNT SOCKET [nameless]
 *
 * What is below MOUNT is what is in FOLDER, and each call suffers what the rules say that come over
 * SOCKET (rules.h): one line and its answer for each connection. It has hard links,
 * RENAME_NOREPLACE, syncs of files and of folders; files without a name only when it is told so,
 * else it is like NFS. A rule with EOPNOTSUPP for link, or EINVAL for rename-noreplace, makes it one
 * that lacks these. (What ENOSYS answers the kernel does not ask again; a sync that is answered so
 * counts as one that went well.)
 *
 * As many calls may wait at a time as there are threads, and the others still pass. The kernel
 * itself lets one call at a time change a folder, and one at a time move between folders.
 *
 * "mounted" on standard output says that it is. It ends when it is unmounted; and SIGTERM, SIGINT
 * or the end of a pipe on standard input unmount it however busy it is. What hangs then fails with
 * ECONNABORTED.
 */
#define FUSE_USE_VERSION 312

#include <errno.h>
#include <fuse_lowlevel.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "nameless.h"
#include "passthrough.h"
#include "rules.h"

#define STACK_BYTES	 (256 << 10)
#define COMMAND_PATIENCE 5 /* seconds for a line to come */

static struct fuse_session *session;
static int unmounted_fd;
static bool has_nameless;

static int fail(const char *what)
{
	fprintf(stderr, "testfs: %s: %s\n", what, strerror(errno));
	return -1;
}

/* Each thread takes whichever call comes next, until the mount is gone. */
static void *serve(void *unused)
{
	struct fuse_buf buffer = { 0 };
	int r = 1;

	while (r > 0 || r == -EINTR) {
		r = fuse_session_receive_buf(session, &buffer);
		if (r > 0 && !(has_nameless && nameless_serve(session, &buffer)))
			fuse_session_process_buf(session, &buffer);
	}
	free(buffer.mem);
	eventfd_write(unmounted_fd, 1);
	return unused;
}

static int start_threads(pthread_t *threads)
{
	pthread_attr_t attributes;
	int r = 0;

	pthread_attr_init(&attributes);
	pthread_attr_setstacksize(&attributes, STACK_BYTES);
	for (int i = 0; i < PASSTHROUGH_CALLS_MAX && r == 0; i++)
		r = pthread_create(&threads[i], &attributes, serve, NULL);
	pthread_attr_destroy(&attributes);
	errno = r;
	return r ? fail("threads") : 0;
}

static int listen_at(const char *path)
{
	struct sockaddr_un address = { .sun_family = AF_UNIX };
	int fd;

	if ((size_t)snprintf(address.sun_path, sizeof(address.sun_path), "%s", path) >=
	    sizeof(address.sun_path)) {
		errno = ENAMETOOLONG;
		return fail(path);
	}
	fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (fd < 0 || bind(fd, (struct sockaddr *)&address, sizeof(address)) < 0 ||
	    listen(fd, 16) < 0)
		return fail(path);
	return fd;
}

/* Until its end, which is cut off; false if it does not come. */
static bool receive_line(int fd, char *line, size_t line_bytes)
{
	size_t used = 0;
	ssize_t n = 1;

	while (n > 0 && used < line_bytes) {
		/* With a timeout it is not begun again by the kernel after a stop (signal(7)). */
		do
			n = recv(fd, line + used, line_bytes - used, 0);
		while (n < 0 && errno == EINTR);
		used += n > 0 ? (size_t)n : 0;
		if (used > 0 && line[used - 1] == '\n') {
			line[used - 1] = '\0';
			return true;
		}
	}
	return false;
}

/* One line, one answer. */
static void serve_command(int listener)
{
	const struct timeval patience = { .tv_sec = COMMAND_PATIENCE };
	int fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
	FILE *peer = fd < 0 ? NULL : fdopen(fd, "w");
	char line[1024];

	if (!peer) {
		close(fd);
		return;
	}
	setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof(patience));
	setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof(patience));
	if (receive_line(fd, line, sizeof(line)))
		rules_command(line, peer);
	fclose(peer);
}

/* Commands, until the mount is gone (true) or shall go. */
static bool attend(int listener, int signals)
{
	struct pollfd fds[] = {
		{ .fd = unmounted_fd, .events = POLLIN },
		{ .fd = signals, .events = POLLIN },
		{ .fd = STDIN_FILENO }, /* its end is told unasked */
		{ .fd = listener, .events = POLLIN },
	};

	for (;;) {
		if (poll(fds, sizeof(fds) / sizeof(fds[0]), -1) < 0)
			continue;
		if (fds[0].revents)
			return true;
		if (fds[1].revents || (fds[2].revents & POLLHUP))
			return false;
		if (fds[3].revents)
			serve_command(listener);
	}
}

static int run(const char *socket_path, int signals)
{
	static pthread_t threads[PASSTHROUGH_CALLS_MAX];
	int listener = listen_at(socket_path);
	bool gone;

	if (listener < 0 || start_threads(threads) < 0)
		return -1;
	printf("mounted\n");
	fflush(stdout);
	gone = attend(listener, signals);
	unlink(socket_path);
	/* Whoever hangs in a call is let go by the end of the process. */
	if (!gone) {
		fuse_session_unmount(session);
		_exit(0);
	}
	for (int i = 0; i < PASSTHROUGH_CALLS_MAX; i++)
		pthread_join(threads[i], NULL);
	close(listener);
	return 0;
}

static int mount_and_run(const char *mount, const char *socket_path, int signals)
{
	/* Only root may let others in unasked. */
	char *arguments[] = { "testfs", "-o",
			      geteuid() == 0 ? "fsname=testfs,default_permissions,allow_other"
					     : "fsname=testfs,default_permissions" };
	struct fuse_args args = FUSE_ARGS_INIT(3, arguments);
	int r = -1;

	session = fuse_session_new(&args, &passthrough_operations, sizeof(passthrough_operations),
				   NULL);
	fuse_opt_free_args(&args);
	if (!session)
		return -1;
	if (fuse_session_mount(session, mount) == 0) {
		r = run(socket_path, signals);
		fuse_session_unmount(session);
	}
	fuse_session_destroy(session);
	return r;
}

static int block_signals(void)
{
	struct rlimit limit;
	sigset_t set;

	signal(SIGPIPE, SIG_IGN);
	sigemptyset(&set);
	sigaddset(&set, SIGTERM);
	sigaddset(&set, SIGINT);
	pthread_sigmask(SIG_BLOCK, &set, NULL);
	/* One descriptor for each inode that the kernel knows. */
	getrlimit(RLIMIT_NOFILE, &limit);
	limit.rlim_cur = limit.rlim_max;
	setrlimit(RLIMIT_NOFILE, &limit);
	umask(0);
	return signalfd(-1, &set, SFD_CLOEXEC);
}

int main(int argc, char **argv)
{
	int signals, r;

	has_nameless = argc == 5 && strcmp(argv[4], "nameless") == 0;
	if (argc != 4 && !has_nameless) {
		fprintf(stderr, "usage: testfs FOLDER MOUNT SOCKET [nameless]\n");
		return 2;
	}
	signals = block_signals();
	unmounted_fd = eventfd(0, EFD_CLOEXEC);
	r = passthrough_open(argv[1]);
	if (signals < 0 || unmounted_fd < 0 || r < 0) {
		errno = r < 0 ? -r : errno;
		fail(argv[1]);
		return 1;
	}
	return mount_and_run(argv[2], argv[3], signals) < 0 ? 1 : 0;
}
