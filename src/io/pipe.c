/* SPDX-License-Identifier: Apache-2.0 */

/*
 * The ring waits for pipes on its own poll queue, whether they block or not (measured on 6.18 for
 * pipes, eventfd, timerfd, inotify, signalfd and terminals). So their flags stay as they are: a
 * child that inherits an end shares them.
 *
 * The end of a pipe closes without blocking, so both endings are the same system call, made on the
 * spot.
 */

#include "io/op.h"
#include "scope/resource.h"

#include <endwell/pipe.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

#define TRANSFER_BYTES_MAX 0x7ffff000 /* read(2): the most that one call transfers */

struct ew_pipe {
	struct ew_resource resource;
	int fd;
};

static int pipe_end(struct ew_pipe *pipe)
{
	int r = close(pipe->fd) < 0 && errno != EINTR ? -errno : 0;

	ew_resource_deinit(&pipe->resource);
	free(pipe);
	return r;
}

static int pipe_close(void *resource)
{
	return pipe_end(resource);
}

static void pipe_abort(void *resource)
{
	(void)pipe_end(resource);
}

static const struct ew_resource_type pipe_type = {
	.name = "pipe",
	.close = pipe_close,
	.abort = pipe_abort,
};

static void own(struct ew_pipe *pipe, int fd, const struct ew_site *site, struct ew_pipe **ret_pipe)
{
	ew__place_must_be_empty(ret_pipe, site);
	pipe->fd = fd;
	ew_resource_init(&pipe->resource, &pipe_type, site);
	*ret_pipe = pipe;
}

int(ew_pipe_open)(struct ew_pipe **ret_read_end, struct ew_pipe **ret_write_end)
{
	struct ew_pipe *read_end = malloc(sizeof(*read_end));
	struct ew_pipe *write_end = malloc(sizeof(*write_end));
	const struct ew_site *site = ew__made_at;
	int fds[2], r = -ENOMEM;

	if (read_end && write_end)
		r = pipe2(fds, O_CLOEXEC) < 0 ? -errno : 0;
	if (r < 0) {
		free(read_end);
		free(write_end);
		return r;
	}
	own(read_end, fds[0], site, ret_read_end);
	own(write_end, fds[1], site, ret_write_end);
	return 0;
}

int(ew_pipe_adopt)(int fd, struct ew_pipe **ret_pipe)
{
	const struct ew_site *site = ew__made_at;
	struct ew_pipe *pipe;

	/* A child process gets what it is given and nothing else. */
	if (fcntl(fd, F_SETFD, FD_CLOEXEC) < 0)
		return -errno;
	pipe = malloc(sizeof(*pipe));
	if (!pipe)
		return -ENOMEM;
	own(pipe, fd, site, ret_pipe);
	return 0;
}

int ew_pipe_fd(const struct ew_pipe *pipe)
{
	return pipe->fd;
}

static uint32_t transfer_bytes(size_t size)
{
	return size < TRANSFER_BYTES_MAX ? (uint32_t)size : TRANSFER_BYTES_MAX;
}

int ew_pipe_read(struct ew_pipe *pipe, void *buffer, size_t size)
{
	struct ew__task_op read = {
		.op = {
			.code = EW__OP_READ,
			.fd = pipe->fd,
			.address = buffer,
			.length = transfer_bytes(size),
			.offset = -1,
		},
	};

	return ew__op_run_polled(&read, "bytes from a pipe");
}

/*
 * The kernel's SIGPIPE is blocked in this thread and stays pending; it would be delivered when the
 * runtime's end gives the thread its signal mask back.
 */
static void take_back_signal(void)
{
	const struct timespec at_once = { 0 };
	sigset_t set;

	sigemptyset(&set);
	sigaddset(&set, SIGPIPE);
	(void)sigtimedwait(&set, NULL, &at_once);
}

int ew_pipe_write(struct ew_pipe *pipe, const void *data, size_t size)
{
	struct ew__task_op write = { .op = { .code = EW__OP_WRITE, .fd = pipe->fd, .offset = -1 } };
	size_t done = 0;
	int r;

	do {
		write.op.address = (const char *)data + done;
		write.op.length = transfer_bytes(size - done);
		r = ew__op_run_polled(&write, "room in a pipe");
		if (r > 0)
			done += (size_t)r;
	} while (r >= 0 && done < size);
	if (r == -EPIPE)
		take_back_signal();
	if (r < 0 && done > 0)
		ew__task()->outcome = EW_OUTCOME_PARTIAL;
	return r < 0 ? r : 0;
}

int ew_pipe_close(struct ew_pipe **pipe)
{
	return ew_close(pipe);
}
