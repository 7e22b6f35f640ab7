/* SPDX-License-Identifier: Apache-2.0 */

/*
 * The driver waits for pipes whether they block or not (by the ring measured on 6.18 for pipes, eventfd, timerfd,
 * inotify, signalfd and terminals). So their flags stay as they are: a child that inherits an end shares them.
 *
 * What stands where a pipe is expected may be a file, as standard output that was redirected to one. That cannot be
 * polled, and may wait for a disk: it is a call on a thread, as for all files.
 *
 * The end of a pipe closes without blocking, so both endings are the same system call, made on the
 * spot.
 */

#include "io/pipe.h"

#include "driver/system.h"
#include "io/call.h"
#include "io/op.h"
#include "scope/resource.h"
#include "seeded/bug.h"

#include <endwell/outcome.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#define TRANSFER_BYTES_MAX 0x7ffff000 /* read(2): the most that one call transfers */

struct ew_pipe {
	struct ew_resource resource;
	int fd;
	bool is_file;
	dev_t device; /* of the file */
};

static int pipe_end(struct ew_pipe *pipe)
{
	int r = ew__bug("pipe-not-closed") ? 0 : ew__system_close(pipe->fd);

	ew_resource_deinit(&pipe->resource);
	free(pipe);
	return r == -EINTR ? 0 : r;
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
	struct ew_pipe *read_end = calloc(1, sizeof(*read_end));
	struct ew_pipe *write_end = calloc(1, sizeof(*write_end));
	const struct ew_site *site = ew__made_at;
	int fds[2], r = -ENOMEM;

	if (read_end && write_end)
		r = ew__system_pipe(fds);
	if (r < 0) {
		free(read_end);
		free(write_end);
		return r;
	}
	own(read_end, fds[0], site, ret_read_end);
	own(write_end, fds[1], site, ret_write_end);
	return 0;
}

static void learn_kind(struct ew_pipe *pipe, int fd)
{
	struct statx found;

	if (statx(fd, "", AT_EMPTY_PATH | AT_STATX_DONT_SYNC, STATX_TYPE, &found) < 0)
		return;
	pipe->is_file =
		S_ISREG(found.stx_mode) || S_ISDIR(found.stx_mode) || S_ISBLK(found.stx_mode);
	pipe->device = ew__device_of(fd);
}

int(ew_pipe_adopt)(int fd, struct ew_pipe **ret_pipe)
{
	const struct ew_site *site = ew__made_at;
	struct ew_pipe *pipe;

	/* A child process gets what it is given and nothing else. */
	if (fcntl(fd, F_SETFD, FD_CLOEXEC) < 0)
		return -errno;
	pipe = calloc(1, sizeof(*pipe));
	if (!pipe)
		return -ENOMEM;
	if (!ew__system_is_simulated(fd))
		learn_kind(pipe, fd);
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

static int call_transfer(void *argument)
{
	const struct ew__op *op = argument;
	void *address = (void *)(uintptr_t)op->address;
	ssize_t n = op->code == EW__OP_READ ? read(op->fd, address, op->length)
					    : write(op->fd, address, op->length);

	return n < 0 ? -errno : (int)n;
}

static int transfer(const struct ew_pipe *pipe, struct ew__task_op *transfer, const char *what)
{
	int r;

	if (!pipe->is_file)
		return ew__op_run_polled(transfer, what);
	r = ew__call(pipe->device, call_transfer, &transfer->op, what);
	if (r >= 0 && (uint32_t)r < transfer->op.length)
		ew__task()->outcome = EW_OUTCOME_PARTIAL;
	return r;
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

	return transfer(pipe, &read, "bytes from a pipe");
}

static sigset_t broken_pipe(void)
{
	sigset_t set;

	sigemptyset(&set);
	sigaddset(&set, SIGPIPE);
	return set;
}

/*
 * The kernel's SIGPIPE is blocked in this thread and stays pending; it would be delivered when the
 * runtime's end, or that of the call, gives the thread its signal mask back.
 */
static void take_back_signal(void)
{
	const struct timespec at_once = { 0 };
	sigset_t set = broken_pipe();

	(void)sigtimedwait(&set, NULL, &at_once);
}

int ew__pipe_write_some(struct ew_pipe *pipe, const void *data, size_t size)
{
	struct ew__task_op write = {
		.op = {
			.code = EW__OP_WRITE,
			.fd = pipe->fd,
			.address = data,
			.length = transfer_bytes(size),
			.offset = -1,
		},
	};
	sigset_t set = broken_pipe(), before;
	bool plain = ew__thread_is_plain(); /* whose mask is its own */
	int r;

	if (plain)
		pthread_sigmask(SIG_BLOCK, &set, &before);
	r = transfer(pipe, &write, "room in a pipe");
	if (r == -EPIPE && !ew__bug("sigpipe-left-pending"))
		take_back_signal();
	if (plain)
		pthread_sigmask(SIG_SETMASK, &before, NULL);
	return r;
}

int ew_pipe_write(struct ew_pipe *pipe, const void *data, size_t size)
{
	size_t done = 0;
	int r;

	do {
		r = ew__pipe_write_some(pipe, (const char *)data + done, size - done);
		if (r == 0 && done < size)
			r = -EIO; /* write(2) of more than nothing that writes nothing would go on for ever */
		if (r > 0)
			done += ew__bug("pipe-short-write-is-whole") ? size - done : (size_t)r;
	} while (r >= 0 && done < size);
	if (r < 0 && done > 0 && !ew__bug("pipe-partial-write-is-nothing"))
		ew__task()->outcome = EW_OUTCOME_PARTIAL;
	return r < 0 ? r : 0;
}

int ew_pipe_close(struct ew_pipe **pipe)
{
	return ew_close(pipe);
}
