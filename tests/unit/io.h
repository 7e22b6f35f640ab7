/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * What the I/O tests share: descriptors counted, directories of their own, plain peers of sockets, and
 * children that are stepped turn by turn.
 */

#include "core.h"

#include <arpa/inet.h>
#include <dirent.h>
#include <endwell/endwell.h>
#include <fcntl.h>
#include <ftw.h>
#include <grp.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>

/* ---- descriptors ---- */

struct descriptors {
	char list[1024];
};

static UNUSED struct descriptors descriptors_now(void)
{
	struct descriptors now = { "" };
	DIR *directory = opendir("/proc/self/fd");
	struct dirent *entry;
	size_t used = 0;

	EXPECT(directory);
	while ((entry = readdir(directory)) && used < sizeof(now.list) - 16)
		if (entry->d_name[0] != '.' && atoi(entry->d_name) != dirfd(directory))
			used += (size_t)snprintf(now.list + used, sizeof(now.list) - used, "%.12s ",
						 entry->d_name);
	closedir(directory);
	return now;
}

static UNUSED void expect_same_descriptors(const struct descriptors *before)
{
	struct descriptors now = descriptors_now();

	EXPECT_STR(now.list, before->list);
}

/* ---- chance, repeatable with EW_TEST_SEED ---- */

static uint64_t chance_state;

static UNUSED void chance_begin(void)
{
	const char *text = getenv("EW_TEST_SEED");
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	chance_state = text ? strtoull(text, NULL, 0) : (uint64_t)now.tv_nsec + 1;
	printf("# %s: EW_TEST_SEED=%" PRIu64 "\n", ew_test_name, chance_state);
	fflush(stdout);
}

static UNUSED unsigned chance(unsigned below)
{
	chance_state = chance_state * 6364136223846793005u + 1442695040888963407u;
	return (unsigned)(chance_state >> 33) % below;
}

/* ---- turns ---- */

/* A turn of the worker each: what is ready runs, what is queued is submitted, what has ended comes back. */
static UNUSED void take_turns(unsigned count)
{
	while (count-- > 0)
		EXPECT_EQ(ew_yield(), 0);
}

/* Waits, in turns, for what the kernel or another thread does soon. */
#define TURNS_UNTIL(condition)                                                                     \
	do {                                                                                       \
		int64_t until_ns = ew_after((int64_t)60 * ew_test_scale() * EW_SECOND);            \
                                                                                                   \
		while (!(condition)) {                                                             \
			EXPECT(ew_now() < until_ns);                                               \
			EXPECT_EQ(ew_yield(), 0);                                                  \
		}                                                                                  \
	} while (0)

/* ---- a directory of the test's own ---- */

struct directory {
	char path[256];
	int fd;
};

static UNUSED int remove_one(const char *path, const struct stat *stat, int kind, struct FTW *ftw)
{
	(void)stat;
	(void)kind;
	(void)ftw;
	return remove(path);
}

/* On a disk rather than in memory, unless TMPDIR says otherwise. */
static UNUSED void directory_make(struct directory *directory)
{
	const char *where = getenv("TMPDIR");

	snprintf(directory->path, sizeof(directory->path), "%s/endwell-test-XXXXXX",
		 where ? where : "/var/tmp");
	EXPECT(mkdtemp(directory->path));
	directory->fd = open(directory->path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	EXPECT(directory->fd >= 0);
}

static UNUSED void directory_remove(struct directory *directory)
{
	close(directory->fd);
	EXPECT_EQ(nftw(directory->path, remove_one, 16, FTW_DEPTH | FTW_PHYS), 0);
}

static UNUSED void put_file(const struct directory *directory, const char *name, const char *text)
{
	int fd = openat(directory->fd, name, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);

	EXPECT(fd >= 0);
	EXPECT_EQ(write(fd, text, strlen(text)), strlen(text));
	close(fd);
}

static UNUSED bool has_file(const struct directory *directory, const char *name)
{
	return faccessat(directory->fd, name, F_OK, AT_SYMLINK_NOFOLLOW) == 0;
}

/* The file's text; "(none)" if there is no file. Valid until the next call. */
static UNUSED const char *file_text(const struct directory *directory, const char *name)
{
	static char text[256];
	int fd = openat(directory->fd, name, O_RDONLY | O_CLOEXEC);
	ssize_t count;

	if (fd < 0)
		return "(none)";
	count = read(fd, text, sizeof(text) - 1);
	close(fd);
	EXPECT(count >= 0);
	text[count] = '\0';
	return text;
}

/* ---- permissions ---- */

#define ORDINARY_USER 54321 /* nobody's */

/* As root, from now on another user; its own files in /proc stay its own. */
static UNUSED void become_ordinary(void)
{
	if (geteuid() != 0)
		return;
	EXPECT_EQ(setgroups(0, NULL), 0);
	EXPECT_EQ(setresgid(ORDINARY_USER, ORDINARY_USER, ORDINARY_USER), 0);
	EXPECT_EQ(setresuid(ORDINARY_USER, ORDINARY_USER, ORDINARY_USER), 0);
	EXPECT_EQ(prctl(PR_SET_DUMPABLE, 1), 0);
}

/* ---- limits ---- */

/* The soft one; returns what it was. */
static UNUSED rlim_t set_limit(int resource, rlim_t soft)
{
	struct rlimit limit;
	rlim_t before;

	EXPECT_EQ(getrlimit(resource, &limit), 0);
	before = limit.rlim_cur;
	limit.rlim_cur = soft;
	EXPECT_EQ(setrlimit(resource, &limit), 0);
	return before;
}

/* ---- refusals ---- */

/* System call @number fails with @error from now on, in this process. */
static UNUSED void refuse_call(unsigned number, unsigned error)
{
	struct sock_filter filter[] = {
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, number, 0, 1),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | error),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
	};
	const struct sock_fprog program = { .len = 4, .filter = filter };

	EXPECT_EQ(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), 0);
	EXPECT_EQ(prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program), 0);
}

/* ---- plain peers ---- */

/* A connected pair: one end as a socket of the library, the other a plain descriptor. */
static UNUSED int unix_peer(struct ew_socket **ret_socket)
{
	int fds[2];

	EXPECT_EQ(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds), 0);
	EXPECT_EQ(ew_socket_adopt(fds[0], ret_socket), 0);
	return fds[1];
}

/*
 * Each process has an address of its own in 127.128.0.0/9: a port that it has given up is not taken by another's
 * connection, which comes from 127.0.0.1.
 */
static UNUSED struct sockaddr_in loopback(uint16_t port)
{
	return (struct sockaddr_in){
		.sin_family = AF_INET,
		.sin_port = htons(port),
		.sin_addr.s_addr = htonl(0x7f800000u | (uint32_t)getpid()),
	};
}

/* A plain listening TCP socket on a port that the kernel chooses. */
static UNUSED int plain_listener(struct sockaddr_in *ret_address)
{
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	socklen_t bytes = sizeof(*ret_address);

	*ret_address = loopback(0);
	EXPECT(fd >= 0);
	EXPECT_EQ(bind(fd, (struct sockaddr *)ret_address, bytes), 0);
	EXPECT_EQ(listen(fd, 64), 0);
	EXPECT_EQ(getsockname(fd, (struct sockaddr *)ret_address, &bytes), 0);
	return fd;
}

/* A plain connection to a listening address. */
static UNUSED int plain_connect(const void *address, socklen_t bytes)
{
	const struct sockaddr *to = address;
	int fd = socket(to->sa_family, SOCK_STREAM | SOCK_CLOEXEC, 0);

	EXPECT(fd >= 0);
	EXPECT_EQ(connect(fd, to, bytes), 0);
	return fd;
}

/* Closing it sends a reset, and leaves no TIME_WAIT. */
static UNUSED void reset_when_closed(int fd)
{
	const struct linger linger = { .l_onoff = 1 };

	EXPECT_EQ(setsockopt(fd, SOL_SOCKET, SO_LINGER, &linger, sizeof(linger)), 0);
}

static UNUSED int tcp_peer(struct ew_socket **ret_socket)
{
	struct sockaddr_in address;
	int listener = plain_listener(&address), peer = plain_connect(&address, sizeof(address));
	int fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC);

	EXPECT(fd >= 0);
	close(listener);
	EXPECT_EQ(ew_socket_adopt(fd, ret_socket), 0);
	return peer;
}

/* Until the kernel itself reports @events for @fd. */
static UNUSED void await_events(int fd, short events)
{
	struct pollfd pollfd = { .fd = fd, .events = events };

	do
		EXPECT_EQ(poll(&pollfd, 1, 60000 * ew_test_scale()), 1);
	while (!(pollfd.revents & events));
}
