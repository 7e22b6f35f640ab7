/* SPDX-License-Identifier: Apache-2.0 */

/*
 * The operation record is on the task's stack, with the memory that it names: the task does not go on
 * before neither the kernel nor the driver needs them (P2).
 */

#include "io/op.h"

#include <endwell/offload.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>

static struct ew__task_op *task_op_of(struct ew__op *op)
{
	return ew__container_of(op, struct ew__task_op, op);
}

static void op_completed(struct ew__op *op)
{
	ew__wait_end(&task_op_of(op)->wait, op->result);
}

static void op_cancelled(struct ew__wait *wait)
{
	struct ew__task_op *task_op = ew__container_of(wait, struct ew__task_op, wait);

	ew__driver_cancel(wait->task->worker->driver, &task_op->op);
}

/* Whether the result is a count, of at most op->length. */
static bool transfers_bytes(const struct ew__op *op)
{
	switch (op->code) {
	case EW__OP_READ:
	case EW__OP_WRITE:
	case EW__OP_RECV:
	case EW__OP_SEND:
	case EW__OP_RECVMSG:
	case EW__OP_SENDMSG: return true;
	default: return false;
	}
}

int ew__op_await(struct ew__task_op *task_op, const char *what)
{
	struct ew_task *task = ew__task();
	struct ew__op *op = &task_op->op;
	int r;

	op->complete = op_completed;
	task_op->wait.cancel = op_cancelled;
	ew__driver_submit(task->worker->driver, op);
	r = ew__suspend(&task_op->wait, what);
	if (op->unknown)
		task->outcome = EW_OUTCOME_UNKNOWN;
	else if (r == -ECANCELED || r == -EAGAIN)
		task->outcome = EW_OUTCOME_NONE;
	else if (transfers_bytes(op) && r > 0 && (uint32_t)r < op->length)
		task->outcome = EW_OUTCOME_PARTIAL;
	else
		task->outcome = EW_OUTCOME_DONE;
	return r;
}

int ew__op_run_polled(struct ew__task_op *task_op, const char *what)
{
	int r;

	do {
		r = ew__enter();
		if (r == 0)
			r = ew__op_await(task_op, what);
	} while (r == -EAGAIN);
	return r;
}

/* The system call that the operation stands for; on a pool thread. */
static int64_t call_of(const struct ew__op *op)
{
	void *address = (void *)(uintptr_t)op->address;

	switch (op->code) {
	case EW__OP_READ: return pread(op->fd, address, op->length, op->offset);
	case EW__OP_WRITE: return pwrite(op->fd, address, op->length, op->offset);
	case EW__OP_OPENAT: return openat(op->fd, address, (int)op->flags, (mode_t)op->length);
	case EW__OP_LINKAT: return linkat(AT_FDCWD, address, op->fd2, op->address2, (int)op->flags);
	case EW__OP_RENAMEAT: return renameat2(op->fd, address, op->fd2, op->address2, op->flags);
	case EW__OP_UNLINKAT: return unlinkat(op->fd, address, (int)op->flags);
	case EW__OP_FSYNC: return op->flags ? fdatasync(op->fd) : fsync(op->fd);
	default:
		return statx(op->fd, address ? address : "", AT_EMPTY_PATH | AT_SYMLINK_NOFOLLOW,
			     op->flags, op->address2);
	}
}

static int make_call(void *argument)
{
	int64_t r = call_of(argument);

	return r < 0 ? -errno : (int)r;
}

int ew__op_await_file(struct ew__task_op *task_op, const char *what)
{
	int r = ew__op_await(task_op, what);

	if (r != -EAGAIN)
		return r;
	r = ew__call_blocking(make_call, &task_op->op, what);
	ew__task()->outcome = EW_OUTCOME_DONE;
	return r;
}

int ew__op_run_file(struct ew__task_op *task_op, const char *what)
{
	int r = ew__enter();

	return r < 0 ? r : ew__op_await_file(task_op, what);
}

struct blocking_call {
	struct ew__job job;
	struct ew__wait wait;
	int (*fn)(void *argument);
	void *argument;
	int result;
};

static struct blocking_call *blocking_call_of(struct ew__job *job)
{
	return ew__container_of(job, struct blocking_call, job);
}

static void blocking_call_run(struct ew__job *job)
{
	struct blocking_call *call = blocking_call_of(job);

	call->result = call->fn(call->argument);
}

static void blocking_call_completed(struct ew__job *job)
{
	ew__wait_end(&blocking_call_of(job)->wait, 0);
}

static void blocking_call_cancelled(struct ew__wait *wait)
{
	struct blocking_call *call = ew__container_of(wait, struct blocking_call, wait);

	if (ew__pool_withdraw(wait->task->worker->pool, &call->job))
		ew__wait_end(wait, -ECANCELED);
}

static void submit_blocking(struct blocking_call *call, const char *what)
{
	call->job.run = blocking_call_run;
	call->job.complete = blocking_call_completed;
	ew__pool_submit(ew__worker->pool, &call->job);
	(void)ew__suspend(&call->wait, what);
}

int ew__call_blocking(int (*fn)(void *argument), void *argument, const char *what)
{
	struct blocking_call call = { .fn = fn, .argument = argument };

	submit_blocking(&call, what);
	return call.result;
}

int ew_offload(int (*fn)(void *argument), void *argument, int *ret_result)
{
	struct blocking_call call = { .fn = fn,
				      .argument = argument,
				      .wait.cancel = blocking_call_cancelled };
	int r = ew__enter();

	if (r < 0)
		return r;
	submit_blocking(&call, "a thread of the pool");
	r = call.wait.result;
	ew__task()->outcome = r < 0 ? EW_OUTCOME_NONE : EW_OUTCOME_DONE;
	if (r < 0)
		return r;
	*ret_result = call.result;
	return 0;
}

void ew__give_space_back(int fd)
{
	char path[32];

	/* By name, because a sealed file's descriptor cannot write. A failure leaves it to the close. */
	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	if (truncate(path, 0) < 0 && errno == EACCES && fchmod(fd, 0600) == 0)
		(void)!truncate(path, 0);
}

int ew__close_fd(int fd)
{
	if (close(fd) == 0 || errno == EINTR)
		return 0;
	/* A filesystem may say anything, but of an ending this would mean "not ended". */
	return errno == ECANCELED ? -EIO : -errno;
}

static int truncate_and_close(int fd, bool truncate_first)
{
	if (truncate_first)
		ew__give_space_back(fd);
	return ew__close_fd(fd);
}

static int end_close_job(struct ew__close_job *close_job)
{
	if (close_job->end)
		return close_job->end(close_job);
	return truncate_and_close(close_job->fd, close_job->truncate);
}

static void close_job_run(struct ew__job *job)
{
	struct ew__close_job *close_job = ew__container_of(job, struct ew__close_job, job);

	close_job->result = end_close_job(close_job);
}

static void close_job_completed(struct ew__job *job)
{
	struct ew__close_job *close_job = ew__container_of(job, struct ew__close_job, job);

	close_job->gone(close_job);
}

void ew__close_in_background(struct ew__close_job *close_job)
{
	if (!ew__worker) {
		/* Outside a runtime nobody's turn is at stake. */
		close_job->result = end_close_job(close_job);
		close_job->gone(close_job);
		return;
	}
	close_job->job.run = close_job_run;
	close_job->job.complete = close_job_completed;
	ew__pool_submit(ew__worker->pool, &close_job->job);
}

static int close_job_call(void *argument)
{
	return end_close_job(argument);
}

int ew__close_job_and_wait(struct ew__close_job *close_job)
{
	return ew__call_blocking(close_job_call, close_job, "the close of a file");
}

struct close_call {
	int fd;
	bool truncate;
};

static int close_call_run(void *argument)
{
	const struct close_call *call = argument;

	return truncate_and_close(call->fd, call->truncate);
}

int ew__close_and_wait(int fd, bool truncate)
{
	struct close_call call = { fd, truncate };

	return ew__call_blocking(close_call_run, &call, "the close of a file");
}
