/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * Calls that block, as a task sees them: made by a thread, in a lane
 */

#include "io/pool.h"
#include "scope/cancel.h"

/* In all of these the call stands in the lane of @device's filesystem; EW__DEVICE_NONE: in the program's own. */

/*
 * Makes the call @fn(@argument) for the running task, first checking for a cancel; -ECANCELED also while no thread has
 * begun it. Returns what @fn returns, a count or -errno, except that -ECANCELED of a filesystem is -EIO.
 * ew_outcome(): UNKNOWN after -EINTR: a filesystem was interrupted and does not say whether it happened.
 */
int ew__call(dev_t device, int (*fn)(void *argument), void *argument, const char *what);

/* The same without the check, for callers that have checked before they took what a drop would lose. */
int ew__call_checked(dev_t device, int (*fn)(void *argument), void *argument, const char *what);

/* As ew_offload(), in a lane. */
int ew__offload_to(dev_t device, int (*fn)(void *argument), void *argument, int *ret_result);

/* A job that ends a descriptor. Its memory is the resource's, so that an abort needs none. */
struct ew__close_job {
	struct ew__job job;
	int fd;
	bool truncate; /* give the space back first, also when others hold the file open */
	int result;
	int (*end)(struct ew__close_job *close_job); /* instead of both; NULL: truncate, close */
	void (*gone)(struct ew__close_job *close_job);
};

/* For a resource's abort: @close_job is the caller's until gone() is called. */
void ew__close_in_background(dev_t device, struct ew__close_job *close_job);

/* The job's ending, waited for; no check for a cancel, and none is heard. gone() is not called. Returns its result. */
int ew__close_and_wait(dev_t device, struct ew__close_job *close_job);

/* The parts of it, for an end() of one's own; on a thread. */
void ew__give_space_back(int fd);
int ew__close_fd(int fd);
