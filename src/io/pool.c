/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Threads are started as they are needed. They belong to no lane: who is free takes the next job of a lane that may
 * have one more thread. While a lane has none, one of the pool's is kept for it.
 *
 * One thread at a time is being woken, and wakes the next itself: ten thousand jobs submitted at once cost the
 * worker few calls. While jobs wait and a thread has nothing to do, one is the watcher: it looks again and again
 * whether a lane has stalled.
 */

#include "io/pool.h"

#include "io/lane.h"
#include "seeded/bug.h"
#include "task/slice.h"

#include <endwell/clock.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <time.h>

#define STALL_NS	 (2 * EW_MILLISECOND)
#define FED_NS		 (10 * EW_MILLISECOND)
#define FED_WAITING_NS	 (200 * EW_MICROSECOND)
#define LANE_THREADS_MAX (EW__LANES_MAX + EW__LANE_HELPERS_MAX)
#define THREADS_MAX	 (EW__OFFLOAD_THREADS_MAX + LANE_THREADS_MAX)

struct thread {
	struct ew__pool *pool;
	pthread_t id;
	/* Of the job that it is at; NULL: none. The job itself may be gone as soon as it has been done. */
	const struct ew__lane *lane;
	const char *what;
	int64_t since_ns;
	struct ew__giving giving;
};

struct ew__pool {
	pthread_mutex_t mutex;
	pthread_cond_t work;
	struct ew__lanes lanes;
	unsigned threads_count, threads_max;
	unsigned waiting_count;		 /* in pthread_cond_wait() */
	const struct ew__lane *fed_lane; /* the last that was; NULL: it is not any more */
	_Atomic int64_t fed_until_ns;
	bool waking;
	bool watched;
	int64_t look_ns;   /* when the watcher does, or did last */
	uint64_t slice_ns; /* of who made it, before it was a worker */
	bool stop;
	struct thread threads[THREADS_MAX];
};

/* ---- threads; the caller holds the mutex ---- */

static void *pool_thread(void *argument);

/* All signals are for the program's own threads. */
static int start_thread(struct ew__pool *pool)
{
	struct thread *thread = &pool->threads[pool->threads_count];
	sigset_t all, before;
	int r;

	if (pool->threads_count == pool->threads_max)
		return -EAGAIN;
	thread->pool = pool;
	sigfillset(&all);
	pthread_sigmask(ew__bug("pool-threads-hear-signals") ? SIG_UNBLOCK : SIG_SETMASK, &all,
			&before);
	r = -pthread_create(&thread->id, NULL, pool_thread, thread);
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	if (r == 0)
		pool->threads_count++;
	return r;
}

/* Wakes a thread if there is something to do, or to watch, and nobody is on the way to it. */
static void call_for_help(struct ew__pool *pool)
{
	struct ew__lanes *lanes = &pool->lanes;
	bool wanted = ew__lanes_want_thread(lanes) || (lanes->queued_count > 0 && !pool->watched);

	if (!wanted || pool->waking)
		return;
	if (pool->waiting_count > 0) {
		pool->waking = true;
		pthread_cond_signal(&pool->work);
	} else if (pool->threads_count == lanes->running_count) {
		(void)start_thread(pool); /* those that there are go on */
	}
}

static struct ew__lane *next_lane(struct ew__pool *pool)
{
	return ew__lanes_next(&pool->lanes, pool->threads_count - pool->lanes.running_count);
}

/* The lane whose next job the calling thread takes. With a thread more it is no longer the one that is kept. */
static struct ew__lane *lane_to_serve(struct ew__pool *pool)
{
	struct ew__lane *lane = next_lane(pool);

	if (!lane && ew__lanes_want_thread(&pool->lanes) && start_thread(pool) == 0)
		lane = next_lane(pool);
	return lane;
}

/* A busy lane calls the watcher away again and again: who watches next looks when that one would have. */
static void watch(struct ew__pool *pool)
{
	int64_t now_ns = ew_now();
	struct timespec until;

	if (pool->look_ns <= now_ns)
		pool->look_ns = now_ns + STALL_NS;
	until.tv_sec = pool->look_ns / EW_SECOND;
	until.tv_nsec = pool->look_ns % EW_SECOND;
	pool->watched = true;
	pthread_cond_timedwait(&pool->work, &pool->mutex, &until);
	if (ew_now() >= pool->look_ns)
		ew__lanes_widen_stalled(&pool->lanes);
	pool->watched = false;
}

static void wait_for_work(struct ew__pool *pool)
{
	pool->waiting_count++;
	if (pool->lanes.queued_count > 0 && !pool->watched)
		watch(pool);
	else
		pthread_cond_wait(&pool->work, &pool->mutex);
	pool->waiting_count--;
	pool->waking = false;
}

/* How often this thread has given its processor away. */
static long waits_count(void)
{
	struct rusage usage;

	return getrusage(RUSAGE_THREAD, &usage) < 0 ? 0 : usage.ru_nvcsw;
}

/* Without the mutex. Whether the call waited is only asked where calls are slow: the question is a call itself. */
static void run_job(struct thread *thread, struct ew__job *job, bool slow, int64_t *ret_took_ns,
		    bool *ret_waited)
{
	long before = slow ? waits_count() : 0;
	bool later = job->later;

	job->run(job);
	*ret_waited = slow && waits_count() != before;
	*ret_took_ns = ew_now() - thread->since_ns;
	ew__post(job->worker, &job->message);
	/* On a machine that is full it would go on for a tick (4 ms), and then each of its kind, while a worker has somebody living to answer. */
	if (later)
		ew__give_way(&thread->giving, *ret_took_ns);
}

/* A job has ended. It may be long before the next does if threads that compute have to wait for a processor. */
static void note_fed(struct ew__pool *pool, const struct ew__lane *lane, int64_t ended_ns,
		     bool waited)
{
	if (ew__lane_is_fed(lane)) {
		pool->fed_lane = lane;
		ended_ns += waited ? FED_WAITING_NS : FED_NS;
	} else if (pool->fed_lane == lane) {
		pool->fed_lane = NULL;
		ended_ns = 0;
	} else {
		return;
	}
	atomic_store_explicit(&pool->fed_until_ns, ended_ns, memory_order_relaxed);
}

/* Calls of the lane that have not ended for long. */
static unsigned count_hanging(const struct ew__pool *pool, const struct ew__lane *lane,
			      int64_t now_ns)
{
	const struct thread *thread;
	unsigned count = 0;

	for (thread = pool->threads; thread < pool->threads + pool->threads_count; thread++)
		count += thread->lane == lane && now_ns - thread->since_ns > STALL_NS;
	return count;
}

static void serve(struct thread *thread, struct ew__lane *lane)
{
	struct ew__pool *pool = thread->pool;
	struct ew__job *job = ew__lane_begin(lane);
	bool slow = ew__lane_is_slow(lane), waited;
	int64_t took_ns, end_ns;

	thread->lane = lane;
	thread->what = job->what;
	thread->since_ns = ew_now();
	call_for_help(pool);
	pthread_mutex_unlock(&pool->mutex);
	run_job(thread, job, slow, &took_ns, &waited);
	pthread_mutex_lock(&pool->mutex);
	end_ns = thread->since_ns + took_ns;
	note_fed(pool, lane, end_ns, waited);
	thread->lane = NULL;
	ew__lane_end(lane, took_ns, waited, waited ? count_hanging(pool, lane, end_ns) : 0);
}

static void *pool_thread(void *argument)
{
	struct thread *thread = argument;
	struct ew__pool *pool = thread->pool;
	struct ew__lane *lane;

	ew__slice_set(pool->slice_ns);
	pthread_mutex_lock(&pool->mutex);
	for (;;) {
		lane = lane_to_serve(pool);
		if (lane)
			serve(thread, lane);
		else if (pool->stop)
			break;
		else
			wait_for_work(pool);
	}
	pthread_mutex_unlock(&pool->mutex);
	return NULL;
}

/* ---- jobs ---- */

/* The lane of the device, or a new one with a thread to be kept for it, or one in which nothing is being done. */
static struct ew__lane *lane_of_device(struct ew__pool *pool, dev_t device)
{
	struct ew__lane *lane = ew__lanes_find(&pool->lanes, device);

	if (lane)
		return lane;
	if (!ew__lanes_are_full(&pool->lanes) && start_thread(pool) == 0)
		return ew__lanes_add(&pool->lanes, device);
	if (ew__bug("job-swallowed-without-a-thread"))
		return NULL;
	return ew__lanes_take_over(&pool->lanes, device);
}

dev_t ew__device_of(int fd)
{
	struct statx found;

	if (statx(fd, "", AT_EMPTY_PATH | AT_STATX_DONT_SYNC, 0, &found) < 0)
		return EW__DEVICE_NONE;
	return makedev(found.stx_dev_major, found.stx_dev_minor);
}

static void deliver_completion(struct ew__message *message)
{
	struct ew__job *job = ew__container_of(message, struct ew__job, message);

	job->worker->transfers--;
	job->complete(job);
}

static struct ew__job *job_of(struct ew__op *op)
{
	return ew__container_of(op, struct ew__job, op);
}

static void run_simulated(struct ew__op *op, int32_t unused)
{
	struct ew__job *job = job_of(op);

	(void)unused;
	job->run(job);
}

static void complete_simulated(struct ew__op *op)
{
	struct ew__job *job = job_of(op);

	job->withdrawn = op->result == -ECANCELED;
	job->complete(job);
}

static void submit_simulated(struct ew__job *job)
{
	job->op = (struct ew__op){
		.code = EW__OP_CALL,
		.event = run_simulated,
		.complete = complete_simulated,
	};
	ew__driver_submit(job->worker->driver, &job->op);
}

void ew__job_submit(struct ew__pool *pool, dev_t device, struct ew__job *job)
{
	struct ew__lane *lane;

	job->worker = ew__worker;
	job->withdrawn = false;
	if (job->worker->driver->type->simulated) {
		submit_simulated(job);
		return;
	}
	job->worker->transfers++;
	job->message.deliver = deliver_completion;
	job->later = !ew__current || ew__current->leaving;
	pthread_mutex_lock(&pool->mutex);
	lane = lane_of_device(pool, device);
	if (!lane && ew__bug("job-swallowed-without-a-thread"))
		ew__post(job->worker, &job->message);
	else
		ew__lane_append(lane, job);
	call_for_help(pool);
	pthread_mutex_unlock(&pool->mutex);
}

bool ew__job_withdraw(struct ew__job *job)
{
	struct ew__pool *pool = job->worker->pool;
	bool withdrawn;

	if (job->worker->driver->type->simulated) {
		ew__driver_cancel(job->worker->driver, &job->op);
		return false;
	}
	pthread_mutex_lock(&pool->mutex);
	withdrawn = job->queued;
	if (withdrawn)
		ew__lane_remove(job);
	pthread_mutex_unlock(&pool->mutex);
	if (withdrawn && !ew__bug("withdrawn-job-still-counts"))
		job->worker->transfers--;
	return withdrawn;
}

const _Atomic int64_t *ew__pool_fed_until_ns(const struct ew__pool *pool)
{
	return &pool->fed_until_ns;
}

/* ---- reports ---- */

static void look_at_lane(const struct ew__pool *pool, const struct ew__lane *lane,
			 struct ew__lane_state *state)
{
	const struct thread *thread;

	*state = (struct ew__lane_state){
		.device = lane->device,
		.running_count = lane->running_count,
		.queued_count = lane->queued_count,
		.width = lane->width,
		.oldest_since_ns = EW_NEVER,
	};
	for (thread = pool->threads; thread < pool->threads + pool->threads_count; thread++) {
		if (thread->lane != lane || thread->since_ns >= state->oldest_since_ns)
			continue;
		state->oldest = thread->what;
		state->oldest_since_ns = thread->since_ns;
	}
}

unsigned ew__pool_look(struct ew__pool *pool, struct ew__lane_state states[EW__LANE_STATES_MAX])
{
	unsigned count = 0, i;

	pthread_mutex_lock(&pool->mutex);
	for (i = 0; i < pool->lanes.count; i++)
		if (pool->lanes.all[i].running_count > 0)
			look_at_lane(pool, &pool->lanes.all[i], &states[count++]);
	pthread_mutex_unlock(&pool->mutex);
	return count;
}

/* ---- the pool ---- */

static void init(struct ew__pool *pool, unsigned offload_threads)
{
	pthread_condattr_t monotonic;

	pthread_mutex_init(&pool->mutex, NULL);
	pthread_condattr_init(&monotonic);
	pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
	pthread_cond_init(&pool->work, &monotonic);
	pthread_condattr_destroy(&monotonic);
	pool->threads_max = offload_threads + LANE_THREADS_MAX;
	pool->slice_ns = ew__slice_ns();
	ew__lanes_init(&pool->lanes, offload_threads);
}

int ew__pool_new(struct ew__pool **ret_pool, unsigned offload_threads, bool threads)
{
	struct ew__pool *pool;
	int r = 0;

	if (offload_threads > EW__OFFLOAD_THREADS_MAX)
		return -EINVAL;
	pool = calloc(1, sizeof(*pool));
	if (!pool)
		return -ENOMEM;
	init(pool, offload_threads ? offload_threads : EW__OFFLOAD_THREADS_DEFAULT);
	pthread_mutex_lock(&pool->mutex);
	if (threads)
		r = start_thread(pool);
	pthread_mutex_unlock(&pool->mutex);
	if (r < 0) {
		free(pool);
		return r;
	}
	*ret_pool = pool;
	return 0;
}

void ew__pool_free(struct ew__pool *pool)
{
	unsigned i;

	if (!pool)
		return;
	pthread_mutex_lock(&pool->mutex);
	ew_assert(pool->lanes.queued_count == 0);
	pool->stop = true;
	pthread_cond_broadcast(&pool->work);
	pthread_mutex_unlock(&pool->mutex);
	for (i = 0; i < pool->threads_count; i++)
		pthread_join(pool->threads[i].id, NULL);
	pthread_cond_destroy(&pool->work);
	pthread_mutex_destroy(&pool->mutex);
	free(pool);
}
