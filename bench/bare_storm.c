/* SPDX-License-Identifier: Apache-2.0 */
#include "bare_storm.h"

#include "probe.h"

#include <err.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#define BUDGET_NS   200000
#define EVENTS_EACH 16384 /* all that there can be: who asks does not stand behind who ends */

struct loop {
	const struct bare_storm *storm;
	int epoll_fd;
	int *files;
	int *connections;
	unsigned *doomed; /* files to close, by number */
	unsigned doomed_count;
	unsigned files_left;
	unsigned connections_left;
	bool over;
};

static void watch(struct loop *loop, int fd, unsigned number)
{
	struct epoll_event event = { .events = EPOLLIN,
				     .data.u64 = (uint64_t)number << 32 | (unsigned)fd };

	if (epoll_ctl(loop->epoll_fd, EPOLL_CTL_ADD, fd, &event) < 0)
		err(1, "cannot watch");
}

static int accept_one(const struct loop *loop)
{
	int fd = accept4(loop->storm->listener_fd, NULL, NULL, SOCK_CLOEXEC);

	if (fd < 0)
		err(1, "cannot accept");
	return fd;
}

static void stage(struct loop *loop)
{
	const struct bare_storm *storm = loop->storm;
	char *bytes = calloc(1, storm->file_bytes);

	loop->files = calloc(storm->count + 1, sizeof(*loop->files));
	loop->connections = calloc(storm->count + 1, sizeof(*loop->connections));
	loop->doomed = calloc(storm->count + 1, sizeof(*loop->doomed));
	if (!bytes || !loop->files || !loop->connections || !loop->doomed)
		err(1, "no memory");
	for (unsigned i = 0; i < storm->count; i++) {
		if (storm->clients) {
			loop->connections[i] = accept_one(loop);
			watch(loop, loop->connections[i], i);
		}
		loop->files[i] = open(storm->folders[i % storm->folders_count],
				      O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
		if (loop->files[i] < 0 || write(loop->files[i], bytes, storm->file_bytes) < 0)
			err(1, "cannot stage a file in %s", storm->folders[0]);
	}
	loop->files_left = storm->count;
	loop->connections_left = storm->clients ? storm->count : 0;
	free(bytes);
}

static void report(const struct loop *loop, int64_t when_ns)
{
	if (write(loop->storm->command_fd, &when_ns, sizeof(when_ns)) < 0)
		err(1, "cannot report");
}

static void echo(int fd)
{
	char bytes[256];
	ssize_t n = read(fd, bytes, sizeof(bytes));

	if (n > 0 && write(fd, bytes, (size_t)n) < 0)
		err(1, "the echo failed");
}

static void obey(struct loop *loop)
{
	char command;

	if (read(loop->storm->command_fd, &command, 1) <= 0) {
		loop->over = true;
		return;
	}
	for (unsigned i = 0; i < loop->storm->count; i++)
		loop->doomed[loop->doomed_count++] = i;
}

static void look_at(struct loop *loop, const struct epoll_event *event)
{
	int fd = (int)(event->data.u64 & 0xffffffff);
	unsigned number = (unsigned)(event->data.u64 >> 32);

	if (fd == loop->storm->command_fd) {
		obey(loop);
	} else if (fd == loop->storm->listener_fd) {
		watch(loop, accept_one(loop), loop->storm->count);
	} else if (number == loop->storm->count) {
		echo(fd);
	} else {
		epoll_ctl(loop->epoll_fd, EPOLL_CTL_DEL, fd, NULL);
		loop->doomed[loop->doomed_count++] = number;
	}
}

/* Files first, until the budget is used up. */
static void remove_some(struct loop *loop)
{
	int64_t end_ns = now_ns() + BUDGET_NS;

	while (loop->doomed_count > 0 && now_ns() < end_ns) {
		close(loop->files[loop->doomed[--loop->doomed_count]]);
		if (--loop->files_left == 0)
			report(loop, now_ns());
	}
	while (loop->files_left == 0 && loop->connections_left > 0 && now_ns() < end_ns)
		close(loop->connections[--loop->connections_left]);
}

static bool is_busy(const struct loop *loop)
{
	return loop->doomed_count > 0 || (loop->files_left == 0 && loop->connections_left > 0);
}

void bare_storm_run(const struct bare_storm *storm)
{
	struct loop loop = { .storm = storm, .epoll_fd = epoll_create1(EPOLL_CLOEXEC) };
	static struct epoll_event events[EVENTS_EACH];

	if (loop.epoll_fd < 0)
		err(1, "epoll");
	stage(&loop);
	watch(&loop, storm->command_fd, storm->count);
	watch(&loop, storm->listener_fd, storm->count);
	report(&loop, 0); /* staged */
	while (!loop.over) {
		int count = epoll_wait(loop.epoll_fd, events, EVENTS_EACH, is_busy(&loop) ? 0 : -1);

		for (int i = 0; i < count; i++)
			look_at(&loop, &events[i]);
		remove_some(&loop);
	}
	free(loop.files);
	free(loop.connections);
	free(loop.doomed);
}
