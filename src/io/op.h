/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * Operations as a task sees them: submit, suspend, and the outcome
 */

#include "driver/driver.h"
#include "io/pool.h"
#include "scope/cancel.h"

/* An operation of the running task, on its stack. Set op's code and arguments; the rest is zero. */
struct ew__task_op {
	struct ew__op op;
	struct ew__wait wait;
};

/*
 * Submits the running task's operation and waits for its end. Returns the result.
 * -EAGAIN: the kernel did not carry it out for want of resources; it did not happen.
 */
int ew__op_await(struct ew__task_op *task_op, const char *what);

/* As ew__op_await(), first checking for a cancel; -EAGAIN of a descriptor that can be polled is tried again. */
int ew__op_run_polled(struct ew__task_op *task_op, const char *what);

/*
 * As ew__op_await(), for files, first checking for a cancel. When the kernel cannot start a thread for
 * it, a thread of the pool makes the system call, so that an ending is carried out all the same.
 */
int ew__op_run_file(struct ew__task_op *task_op, const char *what);

/* The same without the check, for callers that have checked before they took what a drop would lose. */
int ew__op_await_file(struct ew__task_op *task_op, const char *what);

/* Runs @fn(@argument) on a pool thread; no check for a cancel, and none is heard. Returns what @fn returns. */
int ew__call_blocking(int (*fn)(void *argument), void *argument, const char *what);

/* Closes @fd on a pool thread, for a resource's abort: @job is the caller's until @gone is called. */
struct ew__close_job {
	struct ew__job job;
	int fd;
	bool truncate; /* give the space back first, also when others hold the file open */
	int result;
	int (*end)(struct ew__close_job *close_job); /* instead of both; NULL: truncate, close */
	void (*gone)(struct ew__close_job *close_job);
};

void ew__close_in_background(struct ew__close_job *close_job);

/* The job's ending on a pool thread, waited for; gone() is not called. Returns its result. */
int ew__close_job_and_wait(struct ew__close_job *close_job);

/* The same, waited for. Returns close(2)'s result. */
int ew__close_and_wait(int fd, bool truncate);

/* The parts of it, for an end() of one's own; on a pool thread. */
void ew__give_space_back(int fd);
int ew__close_fd(int fd);
