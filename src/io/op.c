/* SPDX-License-Identifier: Apache-2.0 */

/*
 * The operation record is on the task's stack, with the memory that it names: the task does not go on
 * before neither the kernel nor the driver needs them (P2).
 */

#include "io/op.h"

#include "seeded/bug.h"

#include <errno.h>

static struct ew__task_op *task_op_of(struct ew__op *op)
{
	return ew__container_of(op, struct ew__task_op, op);
}

/* Whether it says that the peer has gone, perhaps before the watch's word about it. */
static bool brings_the_end(const struct ew__op *op)
{
	return op->result == 0 || op->result == -ECONNRESET || op->result == -EPIPE;
}

static void op_completed(struct ew__op *op)
{
	struct ew__task_op *task_op = task_op_of(op);

	if (ew__unlikely(task_op->watched && brings_the_end(op)))
		ew__wait_end_behind(&task_op->wait, op->result);
	else
		ew__wait_end(&task_op->wait, op->result);
}

static void op_cancelled(struct ew__wait *wait)
{
	struct ew__task_op *task_op = ew__container_of(wait, struct ew__task_op, wait);

	ew__driver_cancel(wait->task->worker->driver, &task_op->op);
	if (ew__bug("cancelled-operation-not-waited-for") && !wait->done)
		ew__wait_end(wait, -ECANCELED);
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
	task->waiting_fd = op->fd;
	r = ew__suspend(&task_op->wait, what);
	task->waiting_fd = -1;
	if (r == -ECANCELED || r == -EAGAIN)
		task->outcome = EW_OUTCOME_NONE;
	else if (transfers_bytes(op) && r > 0 && (uint32_t)r < op->length &&
		 !ew__bug("partial-is-done"))
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
