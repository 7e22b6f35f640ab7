/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * Pool: threads for calls that block, and the lanes in which such calls wait for them
 * A lane is a line of jobs with a width: how many threads may be at it at once. One is the program's own
 * (ew_offload()), the others each belong to a filesystem, so that one which does not answer keeps no thread from
 * the others. Jobs are intrusive and every lane is sure of one thread, so handing over cannot fail.
 */

#include "task/worker.h"

#include <sys/types.h>

struct ew__pool;
struct ew__lane;

struct ew__job {
	struct ew__job *next;
	struct ew__job **link;		       /* while it waits for a thread */
	void (*run)(struct ew__job *job);      /* on a thread of the pool */
	void (*complete)(struct ew__job *job); /* on the worker that submitted it, between tasks */
	struct ew_worker *worker;
	struct ew__lane *lane;
	const char *what; /* for reports; static */
	union {
		struct ew__message message;
		struct ew__op op; /* in a simulation, which has no threads */
	};
	bool queued;
	bool later;
	bool withdrawn; /* before it was begun: complete() says so, and nothing has been done */
};

#define EW__OFFLOAD_THREADS_DEFAULT 4
#define EW__OFFLOAD_THREADS_MAX	    64

/* Of filesystems. One more takes the place of one on which nothing is being done, or shares the program's own lane. */
#define EW__LANES_MAX 16

/* Beside the one that each lane is sure of: for all filesystems together. */
#define EW__LANE_HELPERS_MAX 28
#define EW__LANE_WIDTH_MAX   24

/*
 * @offload_threads: 0: the default; @threads: there are to be any: without, jobs are operations of the (simulated) driver.
 * -EINVAL, -ENOMEM, -EAGAIN: not even one thread could be started.
 */
int ew__pool_new(struct ew__pool **ret_pool, unsigned offload_threads, bool threads);

/* No job is left. NULL is a no-op. */
void ew__pool_free(struct ew__pool *pool);

/*
 * While jobs end in a lane in which many wait, a moment that lies a little ahead: until then cancelled tasks can add
 * nothing that helps, and would only take processors from the threads that are at it. Any thread.
 */
const _Atomic int64_t *ew__pool_fed_until_ns(const struct ew__pool *pool);

/* What is being done in a lane. */
struct ew__lane_state {
	dev_t device; /* EW__DEVICE_NONE: the program's own lane */
	unsigned running_count, queued_count, width;
	const char *oldest; /* what the longest of them is for */
	int64_t oldest_since_ns;
};

#define EW__LANE_STATES_MAX (1 + EW__LANES_MAX)

/* Of each lane in which a call runs; the count of them. Any thread. */
unsigned ew__pool_look(struct ew__pool *pool, struct ew__lane_state states[EW__LANE_STATES_MAX]);

/* The program's own lane, where a device is asked for. */
#define EW__DEVICE_NONE ((dev_t)0)

/* The device of the filesystem that @fd is on. Asks nothing of the filesystem. EW__DEVICE_NONE: it cannot be told. */
dev_t ew__device_of(int fd);

/*
 * On a worker, in the lane of @device's filesystem; without a thread or a place in the table that is the program's own,
 * for this job. First come, first served, but that the jobs of tasks which end by a cancel, and aborts, let the others
 * by, three for each of theirs. The job is the lane's until complete() is called.
 */
void ew__job_submit(struct ew__pool *pool, dev_t device, struct ew__job *job);

/*
 * Takes a job back that no thread has begun: complete() will not be called. False: too late, or, in a simulation, not
 * known yet.
 */
bool ew__job_withdraw(struct ew__job *job);
