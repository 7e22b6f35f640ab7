/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * Operations as a task sees them: submit, suspend, and the outcome
 */

#include "driver/driver.h"
#include "scope/cancel.h"

/* An operation of the running task, on its stack. Set op's code and arguments; the rest is zero. */
struct ew__task_op {
	struct ew__op op;
	struct ew__wait wait;
	bool watched; /* the peer is: once it has gone nobody waits for what the task does then */
};

/*
 * Submits the running task's operation and waits for its end. Returns the result.
 * -EAGAIN: the kernel did not carry it out for want of resources; it did not happen.
 */
int ew__op_await(struct ew__task_op *task_op, const char *what);

/* As ew__op_await(), first checking for a cancel; -EAGAIN of a descriptor that can be polled is tried again. */
int ew__op_run_polled(struct ew__task_op *task_op, const char *what);
