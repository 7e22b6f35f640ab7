/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * A plain thread as a worker with one task, which is the thread itself
 */

#include "task/worker.h"

/* Whether calls that block are made on the spot: nobody else's turn is at stake. */
static inline bool ew__thread_is_plain(void)
{
	return !ew__worker || !ew__worker->pool;
}

/* Whether @worker is a plain thread's, which takes its messages during its calls only. */
static inline bool ew__worker_is_plain(const struct ew_worker *worker)
{
	return !worker->runtime;
}

/*
 * Outside a task: from now on the calling thread is one. 0, or -ENOMEM with a report. Inside the scheduler, which has no
 * task to suspend, it is an assertion.
 */
int ew__thread_enter(void);

/* The same where there is no way to say no: a report, and the end of the process. */
void ew__thread_enter_or_die(void);

/*
 * In each suspending call of a plain thread: what others have asked for meanwhile, and what time has done, is seen. 0,
 * or why it cannot wait, with a report: -EMFILE, -ENOMEM ...
 */
int ew__thread_prepare(struct ew_task *task);

/* The same without what waiting needs. */
void ew__thread_look(struct ew_task *task);

/* @standing goes on from call to call; of a plain thread it is in flight while that waits. On the worker. */
void ew__standing_add(struct ew_worker *worker, struct ew__standing *standing);

/* A no-op if it does not stand. */
void ew__standing_remove(struct ew__standing *standing);

/* All that stand are asked to stop. */
void ew__standing_recall(struct ew_worker *worker);
