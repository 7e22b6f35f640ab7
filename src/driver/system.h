/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * System: the calls that make, name and end sockets and pipes, and those about signals and children
 * They are no operations: they never wait. They go to the kernel, or, on a thread whose driver is simulated, to that
 * driver's own objects. A simulated descriptor is a real number, reserved with the kernel, so that it is counted, named
 * and passed around like any other; nothing else can be done with it there.
 */

#include <signal.h>
#include <stdbool.h>
#include <sys/socket.h>

struct ew__system_files;
struct ew_process_options;

/* Each returns 0 or a descriptor, or -errno. */
struct ew__system {
	int (*socket)(int family);
	int (*pair)(int fds[2]);
	int (*pipe)(int fds[2]);
	int (*bind)(int fd, const struct sockaddr *address, socklen_t bytes, bool share);
	int (*listen)(int fd, int backlog);
	int (*address)(int fd, struct sockaddr_storage *ret_address);
	int (*duplicate)(int fd);
	int (*shutdown)(int fd, int how);
	/* False: @fd is none of the simulated; a close is the kernel's then. */
	bool (*close)(int fd);
	bool (*owns)(int fd);
	int (*signals)(const sigset_t *set);
	int (*take_signal)(int fd);
	/* A descriptor for a new child. Of simulated ones only: the kernel's are the affair of io/process.c. */
	int (*spawn)(const struct ew_process_options *options, pid_t *ret_pid);
	int (*child_state)(int fd, siginfo_t *ret_info);
	int (*child_signal)(int fd, int signal);
	const struct ew__system_files *files;
};

/* Of this thread; NULL: the kernel. */
extern __thread const struct ew__system *ew__system;

/* A stream socket that is not connected. */
int ew__system_socket(int family);

/* Two unix stream sockets that are. */
int ew__system_socket_pair(int fds[2]);

/* The end that is read, the end that is written. */
int ew__system_pipe(int fds[2]);

/* @share: others may listen on the same address, too. A TCP address that is only being given up is free. */
int ew__system_bind(int fd, const struct sockaddr *address, socklen_t bytes, bool share);
int ew__system_listen(int fd, int backlog);
int ew__system_address(int fd, struct sockaddr_storage *ret_address);
int ew__system_duplicate(int fd);
int ew__system_shutdown(int fd, int how);
int ew__system_close(int fd);

/* A descriptor that can be read while one of @set is pending; and then, taken, its number. -EAGAIN: none is. */
int ew__system_signals(const sigset_t *set);
int ew__system_take_signal(int fd);

/* On this thread: what the next call to a filesystem fails with, without an effect, or 0: it is made; NULL: each is. */
extern __thread int (*ew__system_file_fault)(void);

/* Whether the kernel knows nothing of it but the number. */
bool ew__system_is_simulated(int fd);
