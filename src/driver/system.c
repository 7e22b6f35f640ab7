/* SPDX-License-Identifier: Apache-2.0 */

#include "driver/system.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/signalfd.h>
#include <unistd.h>

__thread const struct ew__system *ew__system;
__thread int (*ew__system_file_fault)(void);

static int outcome(int r)
{
	return r < 0 ? -errno : r;
}

int ew__system_socket(int family)
{
	if (ew__system)
		return ew__system->socket(family);
	return outcome(socket(family, SOCK_STREAM | SOCK_CLOEXEC, 0));
}

int ew__system_socket_pair(int fds[2])
{
	if (ew__system)
		return ew__system->pair(fds);
	return outcome(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds));
}

int ew__system_pipe(int fds[2])
{
	if (ew__system)
		return ew__system->pipe(fds);
	return outcome(pipe2(fds, O_CLOEXEC));
}

int ew__system_bind(int fd, const struct sockaddr *address, socklen_t bytes, bool share)
{
	const int on = 1;

	if (ew__system)
		return ew__system->bind(fd, address, bytes, share);
	if (address->sa_family == AF_INET || address->sa_family == AF_INET6) {
		setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
		if (share)
			setsockopt(fd, SOL_SOCKET, SO_REUSEPORT, &on, sizeof(on));
	}
	return outcome(bind(fd, address, bytes));
}

int ew__system_listen(int fd, int backlog)
{
	return ew__system ? ew__system->listen(fd, backlog) : outcome(listen(fd, backlog));
}

int ew__system_address(int fd, struct sockaddr_storage *ret_address)
{
	socklen_t bytes = sizeof(*ret_address);

	if (ew__system)
		return ew__system->address(fd, ret_address);
	return outcome(getsockname(fd, (struct sockaddr *)ret_address, &bytes));
}

int ew__system_duplicate(int fd)
{
	if (ew__system_is_simulated(fd))
		return ew__system->duplicate(fd);
	return outcome(fcntl(fd, F_DUPFD_CLOEXEC, 0));
}

int ew__system_shutdown(int fd, int how)
{
	if (ew__system_is_simulated(fd))
		return ew__system->shutdown(fd, how);
	return outcome(shutdown(fd, how));
}

int ew__system_close(int fd)
{
	if (ew__system && ew__system->close(fd))
		return 0;
	return outcome(close(fd));
}

bool ew__system_is_simulated(int fd)
{
	return ew__system && ew__system->owns(fd);
}

int ew__system_signals(const sigset_t *set)
{
	if (ew__system)
		return ew__system->signals(set);
	return outcome(signalfd(-1, set, SFD_CLOEXEC | SFD_NONBLOCK));
}

int ew__system_take_signal(int fd)
{
	struct signalfd_siginfo info;

	if (ew__system_is_simulated(fd))
		return ew__system->take_signal(fd);
	if (read(fd, &info, sizeof(info)) < 0)
		return -errno;
	return (int)info.ssi_signo;
}
