/* SPDX-License-Identifier: Apache-2.0 */

/*
 * The record of a call is on the task's stack, with the memory that it names: the task does not go on before the
 * thread is done with them (P2).
 */

#include "io/call.h"

#include "driver/system.h"
#include "driver/system_file.h"
#include "seeded/bug.h"

#include <endwell/file.h>
#include <endwell/offload.h>
#include <endwell/outcome.h>
#include <errno.h>

struct call {
	struct ew__job job;
	struct ew__wait wait;
	int (*fn)(void *argument);
	void *argument;
	int result;
	bool is_filesystems; /* and not the program's own */
};

static struct call *call_of(struct ew__job *job)
{
	return ew__container_of(job, struct call, job);
}

static void call_run(struct ew__job *job)
{
	struct call *call = call_of(job);

	if (call->result == 0)
		call->result = call->fn(call->argument);
}

static void call_completed(struct ew__job *job)
{
	ew__wait_end(&call_of(job)->wait, job->withdrawn ? -ECANCELED : 0);
}

static void call_cancelled(struct ew__wait *wait)
{
	struct call *call = ew__container_of(wait, struct call, wait);

	if (ew__job_withdraw(&call->job) || ew__bug("call-left-while-it-runs"))
		ew__wait_end(wait, -ECANCELED);
}

/* Nobody else's turn is at stake. What comes meanwhile is seen by the next call. */
static int make_here(struct call *call)
{
	call->result = call->fn(call->argument);
	ew__task()->outcome = EW_OUTCOME_DONE;
	return 0;
}

/* 0: @fn has been called; -ECANCELED: it will not be. */
static int make(dev_t device, struct call *call, const char *what)
{
	if (ew__unlikely(ew__thread_is_plain()))
		return make_here(call);
	/* Here, since who decides about faults is asked on the worker's thread. */
	if (ew__unlikely(ew__system_file_fault) && call->is_filesystems)
		call->result = ew__system_file_fault();
	call->job.run = call_run;
	call->job.complete = call_completed;
	call->job.what = what;
	ew__job_submit(ew__worker->pool, device, &call->job);
	(void)ew__suspend(&call->wait, what);
	ew__task()->outcome = call->wait.result < 0 ? EW_OUTCOME_NONE : EW_OUTCOME_DONE;
	return call->wait.result;
}

int ew__call_checked(dev_t device, int (*fn)(void *argument), void *argument, const char *what)
{
	struct call call = {
		.fn = fn,
		.argument = argument,
		.wait.cancel = call_cancelled,
		.is_filesystems = true,
	};
	int r = make(device, &call, what);

	if (r < 0)
		return r;
	if (call.result == -EINTR)
		ew__task()->outcome = EW_OUTCOME_UNKNOWN;
	return call.result == -ECANCELED ? -EIO : call.result;
}

int ew__call(dev_t device, int (*fn)(void *argument), void *argument, const char *what)
{
	int r = ew__enter();

	return r < 0 ? r : ew__call_checked(device, fn, argument, what);
}

int ew__offload_to(dev_t device, int (*fn)(void *argument), void *argument, int *ret_result)
{
	struct call call = { .fn = fn, .argument = argument, .wait.cancel = call_cancelled };
	int r = ew__enter();

	if (r == 0)
		r = make(device, &call, "a thread of the pool");
	if (r == 0)
		*ret_result = call.result;
	return r;
}

int ew_offload(int (*fn)(void *argument), void *argument, int *ret_result)
{
	return ew__offload_to(EW__DEVICE_NONE, fn, argument, ret_result);
}

void ew__give_space_back(int fd)
{
	/* A failure leaves it to the close. */
	(void)ew__system_empty(fd);
}

int ew__close_fd(int fd)
{
	int r = ew__system_close(fd);

	if (r == -EINTR)
		return 0;
	/* A filesystem may say anything, but of an ending this would mean "not ended". */
	return r == -ECANCELED ? -EIO : r;
}

static int end_close_job(struct ew__close_job *close_job)
{
	if (close_job->end)
		return close_job->end(close_job);
	if (close_job->truncate)
		ew__give_space_back(close_job->fd);
	return ew__close_fd(close_job->fd);
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

void ew__close_in_background(dev_t device, struct ew__close_job *close_job)
{
	if (ew__thread_is_plain()) {
		close_job->result = end_close_job(close_job);
		close_job->gone(close_job);
		return;
	}
	close_job->job.run = close_job_run;
	close_job->job.complete = close_job_completed;
	close_job->job.what = "the close of a file";
	ew__job_submit(ew__worker->pool, device, &close_job->job);
}

static int close_job_call(void *argument)
{
	return end_close_job(argument);
}

int ew__close_and_wait(dev_t device, struct ew__close_job *close_job)
{
	struct call call = { .fn = close_job_call, .argument = close_job };

	(void)make(device, &call, "the close of a file");
	return call.result;
}
