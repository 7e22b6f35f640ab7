/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * Pool: threads for calls that block
 * Jobs are intrusive and one thread always exists, so handing one over cannot fail.
 */

#include "task/worker.h"

struct ew__pool;

struct ew__job {
	struct ew__job *next;
	void (*run)(struct ew__job *job);      /* on a pool thread */
	void (*complete)(struct ew__job *job); /* on the worker that submitted it, between tasks */
	struct ew_worker *worker;
	struct ew__message message;
	bool queued;
};

#define EW__POOL_THREADS_DEFAULT 4
#define EW__POOL_THREADS_MAX	 64

/* @threads_max: 0: the default. -EINVAL, -ENOMEM, -EAGAIN: not even one thread could be started. */
int ew__pool_new(struct ew__pool **ret_pool, unsigned threads_max);

/* No job is left. NULL is a no-op. */
void ew__pool_free(struct ew__pool *pool);

/* On a worker; first come, first served. The job is the pool's until complete() is called. */
void ew__pool_submit(struct ew__pool *pool, struct ew__job *job);

/* Takes a job back that no thread has begun: complete() will not be called. False: too late. */
bool ew__pool_withdraw(struct ew__pool *pool, struct ew__job *job);
