/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Threads are started as they are needed. They belong to no lane: who is free takes the next job of a lane that may
 * have one more thread. While a lane has none, one of the pool's is kept for it.
 *
 * How wide a filesystem's lane should be cannot be known, only seen. Calls that compute (freeing blocks that were
 * never written, copying into the page cache) are done no sooner by more threads than processors, and take these
 * from the workers: such a lane becomes narrow. Calls that wait (for a disk, for a server) are done at once: such
 * a lane becomes wide. What tells them apart is whether the thread gave its processor away. And a lane of which
 * nothing has ended for STALL_NS while jobs wait is made wider by whichever thread has nothing else to do: the
 * watcher.
 *
 * One thread at a time is being woken, and wakes the next itself: ten thousand jobs submitted at once cost the
 * worker few calls.
 */

#include "io/pool.h"

#include <endwell/clock.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <time.h>

#define STALL_NS	 (2 * EW_MILLISECOND)
#define SLOW_NS		 (200 * EW_MICROSECOND) /* from here on a call is asked whether it waited */
#define QUICK_JOBS	 64			/* in a row; then the lane is one too wide */
#define LATER_ONE_OF	 4
#define MEAN_OF_JOBS	 8
#define LANE_THREADS_MAX (EW__LANES_MAX + EW__LANE_HELPERS_MAX)
#define THREADS_MAX	 (EW__OFFLOAD_THREADS_MAX + LANE_THREADS_MAX)
#define POOL_LANES_MAX	 (1 + EW__LANES_MAX)

struct queue {
	struct ew__job *first, **last;
};

struct ew__lane {
	struct ew__pool *pool;
	struct queue queue, later;
	unsigned queued_count;
	unsigned running_count;
	unsigned width, width_min, width_max;
	unsigned turn; /* of the two queues */
	unsigned quick_count;
	uint64_t ended_count, ended_seen;
	int64_t mean_ns; /* of the last calls */
	dev_t device;
};

struct thread {
	struct ew__pool *pool;
	pthread_t id;
	/* Of the job that it is at; NULL: none. The job itself may be gone as soon as it has been done. */
	const struct ew__lane *lane;
	const char *what;
	int64_t since_ns;
};

struct ew__pool {
	pthread_mutex_t mutex;
	pthread_cond_t work;
	struct ew__lane lanes[POOL_LANES_MAX]; /* the first is the program's own */
	unsigned lanes_count;
	unsigned next_lane;
	unsigned resting_lanes_count; /* without a thread; one is kept for each */
	unsigned queued_count;
	unsigned threads_count, threads_max;
	unsigned busy_count;
	unsigned helpers_count; /* at filesystems, beside the one that each lane is sure of */
	unsigned waiting_count; /* in pthread_cond_wait() */
	bool waking;
	bool watched;
	bool stop;
	struct thread threads[THREADS_MAX];
};

/* ---- who may have a thread; the caller holds the mutex in all of this ---- */

static bool is_own(const struct ew__lane *lane)
{
	return lane == lane->pool->lanes;
}

/* Whether one more thread would be at its place in this lane. */
static bool wants_thread(const struct ew__lane *lane)
{
	if (lane->queued_count == 0)
		return false;
	if (lane->running_count == 0)
		return true;
	return lane->running_count < lane->width &&
	       (is_own(lane) || lane->pool->helpers_count < EW__LANE_HELPERS_MAX);
}

/* Whether there is one that is not kept for another. */
static bool has_thread(const struct ew__lane *lane)
{
	const struct ew__pool *pool = lane->pool;

	return lane->running_count == 0 ||
	       pool->threads_count - pool->busy_count > pool->resting_lanes_count;
}

/* Round robin. */
static struct ew__lane *find_lane(struct ew__pool *pool, bool (*is_wanted)(const struct ew__lane *))
{
	struct ew__lane *lane;
	unsigned i;

	for (i = 0; i < pool->lanes_count; i++) {
		lane = &pool->lanes[(pool->next_lane + i) % pool->lanes_count];
		if (is_wanted(lane))
			return lane;
	}
	return NULL;
}

static bool can_be_served(const struct ew__lane *lane)
{
	return wants_thread(lane) && has_thread(lane);
}

/* ---- the width ---- */

static unsigned processors_count(void)
{
	cpu_set_t set;

	return sched_getaffinity(0, sizeof(set), &set) < 0 ? 1 : (unsigned)CPU_COUNT(&set);
}

static unsigned smaller(unsigned a, unsigned b)
{
	return a < b ? a : b;
}

static void adapt(struct ew__lane *lane, int64_t took_ns, bool waited)
{
	lane->mean_ns += (took_ns - lane->mean_ns) / MEAN_OF_JOBS;
	if (waited) {
		lane->quick_count = 0;
		if (lane->queued_count > 0)
			lane->width = smaller(lane->width + 1, lane->width_max);
	} else if (++lane->quick_count == QUICK_JOBS) {
		lane->quick_count = 0;
		if (lane->width > lane->width_min)
			lane->width--;
	}
}

static void widen_stalled_lanes(struct ew__pool *pool)
{
	struct ew__lane *lane;

	for (lane = pool->lanes; lane < pool->lanes + pool->lanes_count; lane++) {
		if (lane->queued_count > 0 && lane->running_count >= lane->width &&
		    lane->ended_count == lane->ended_seen)
			lane->width = smaller(2 * lane->width, lane->width_max);
		lane->ended_seen = lane->ended_count;
	}
}

/* ---- a thread ---- */

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
	pthread_sigmask(SIG_SETMASK, &all, &before);
	r = -pthread_create(&thread->id, NULL, pool_thread, thread);
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	if (r == 0)
		pool->threads_count++;
	return r;
}

/* Wakes a thread if there is something to do, or to watch, and nobody is on the way to it. */
static void call_for_help(struct ew__pool *pool)
{
	bool wanted = find_lane(pool, wants_thread) || (pool->queued_count > 0 && !pool->watched);

	if (!wanted || pool->waking)
		return;
	if (pool->waiting_count > 0) {
		pool->waking = true;
		pthread_cond_signal(&pool->work);
	} else if (pool->threads_count == pool->busy_count) {
		(void)start_thread(pool); /* those that there are go on */
	}
}

/* The lane whose next job the calling thread takes. With a thread more it is no longer the one that is kept. */
static struct ew__lane *lane_to_serve(struct ew__pool *pool)
{
	struct ew__lane *lane = find_lane(pool, can_be_served);

	if (!lane && find_lane(pool, wants_thread) && start_thread(pool) == 0)
		lane = find_lane(pool, can_be_served);
	if (lane)
		pool->next_lane = (unsigned)(lane - pool->lanes) + 1;
	return lane;
}

static void watch(struct ew__pool *pool)
{
	struct timespec until;
	int64_t until_ns;

	clock_gettime(CLOCK_MONOTONIC, &until);
	until_ns = until.tv_nsec + STALL_NS;
	until.tv_sec += until_ns / EW_SECOND;
	until.tv_nsec = until_ns % EW_SECOND;
	pool->watched = true;
	if (pthread_cond_timedwait(&pool->work, &pool->mutex, &until) == ETIMEDOUT)
		widen_stalled_lanes(pool);
	pool->watched = false;
}

static void wait_for_work(struct ew__pool *pool)
{
	pool->waiting_count++;
	if (pool->queued_count > 0 && !pool->watched)
		watch(pool);
	else
		pthread_cond_wait(&pool->work, &pool->mutex);
	pool->waiting_count--;
	pool->waking = false;
}

static void unqueue(struct ew__job *job)
{
	struct ew__lane *lane = job->lane;
	struct queue *queue = job->later ? &lane->later : &lane->queue;

	*job->link = job->next;
	if (job->next)
		job->next->link = job->link;
	else
		queue->last = job->link;
	job->queued = false;
	lane->queued_count--;
	lane->pool->queued_count--;
}

static struct ew__job *take_job(struct ew__lane *lane)
{
	bool later = !lane->queue.first || (lane->later.first && ++lane->turn % LATER_ONE_OF == 0);
	struct ew__job *job = later ? lane->later.first : lane->queue.first;

	unqueue(job);
	return job;
}

static void count_begun(struct ew__lane *lane)
{
	struct ew__pool *pool = lane->pool;

	if (lane->running_count++ == 0)
		pool->resting_lanes_count--;
	else if (!is_own(lane))
		pool->helpers_count++;
	pool->busy_count++;
}

static void count_ended(struct ew__lane *lane)
{
	struct ew__pool *pool = lane->pool;

	if (--lane->running_count == 0)
		pool->resting_lanes_count++;
	else if (!is_own(lane))
		pool->helpers_count--;
	pool->busy_count--;
	lane->ended_count++;
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

	job->run(job);
	*ret_waited = slow && waits_count() != before;
	*ret_took_ns = ew_now() - thread->since_ns;
	ew__post(job->worker, &job->message);
}

static void serve(struct thread *thread, struct ew__lane *lane)
{
	struct ew__pool *pool = lane->pool;
	struct ew__job *job = take_job(lane);
	bool slow = lane->width_max > lane->width_min && lane->mean_ns > SLOW_NS, waited;
	int64_t took_ns;

	count_begun(lane);
	thread->lane = lane;
	thread->what = job->what;
	thread->since_ns = ew_now();
	call_for_help(pool);
	pthread_mutex_unlock(&pool->mutex);
	run_job(thread, job, slow, &took_ns, &waited);
	pthread_mutex_lock(&pool->mutex);
	thread->lane = NULL;
	count_ended(lane);
	adapt(lane, took_ns, waited);
}

static void *pool_thread(void *argument)
{
	struct thread *thread = argument;
	struct ew__pool *pool = thread->pool;
	struct ew__lane *lane;

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

/* ---- lanes ---- */

static void init_lane(struct ew__pool *pool, dev_t device, unsigned width_min, unsigned width_max)
{
	struct ew__lane *lane = &pool->lanes[pool->lanes_count++];

	lane->pool = pool;
	lane->queue.last = &lane->queue.first;
	lane->later.last = &lane->later.first;
	lane->device = device;
	lane->width = lane->width_min = width_min;
	lane->width_max = width_max;
	pool->resting_lanes_count++;
}

/* Of another filesystem from now on, of which nothing is known yet. */
static struct ew__lane *give_lane(struct ew__lane *lane, dev_t device)
{
	lane->device = device;
	lane->width = lane->width_min;
	lane->quick_count = 0;
	lane->mean_ns = 0;
	return lane;
}

/*
 * The lane of the device, or a new one with a thread to be kept for it, or one in which nothing is being done. The
 * caller holds the mutex.
 */
static struct ew__lane *lane_of_device(struct ew__pool *pool, dev_t device)
{
	struct ew__lane *lane, *idle = NULL;

	if (device == EW__DEVICE_NONE)
		return pool->lanes;
	for (lane = pool->lanes + 1; lane < pool->lanes + pool->lanes_count; lane++) {
		if (lane->device == device)
			return lane;
		if (lane->queued_count == 0 && lane->running_count == 0)
			idle = lane;
	}
	if (pool->lanes_count < POOL_LANES_MAX && start_thread(pool) == 0) {
		init_lane(pool, device, smaller((processors_count() + 1) / 2, EW__LANE_WIDTH_MAX),
			  EW__LANE_WIDTH_MAX);
		return &pool->lanes[pool->lanes_count - 1];
	}
	return idle ? give_lane(idle, device) : pool->lanes;
}

dev_t ew__device_of(int fd)
{
	struct statx found;

	if (statx(fd, "", AT_EMPTY_PATH | AT_STATX_DONT_SYNC, 0, &found) < 0)
		return EW__DEVICE_NONE;
	return makedev(found.stx_dev_major, found.stx_dev_minor);
}

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
	for (i = 0; i < pool->lanes_count; i++)
		if (pool->lanes[i].running_count > 0)
			look_at_lane(pool, &pool->lanes[i], &states[count++]);
	pthread_mutex_unlock(&pool->mutex);
	return count;
}

/* ---- jobs ---- */

static void deliver_completion(struct ew__message *message)
{
	struct ew__job *job = ew__container_of(message, struct ew__job, message);

	job->worker->transfers--;
	job->complete(job);
}

void ew__job_submit(struct ew__pool *pool, dev_t device, struct ew__job *job)
{
	struct ew__lane *lane;
	struct queue *queue;

	job->worker = ew__worker;
	job->worker->transfers++;
	job->message.deliver = deliver_completion;
	job->later = !ew__current || ew__current->leaving;
	job->next = NULL;
	job->queued = true;
	pthread_mutex_lock(&pool->mutex);
	lane = lane_of_device(pool, device);
	job->lane = lane;
	queue = job->later ? &lane->later : &lane->queue;
	job->link = queue->last;
	*queue->last = job;
	queue->last = &job->next;
	lane->queued_count++;
	pool->queued_count++;
	call_for_help(pool);
	pthread_mutex_unlock(&pool->mutex);
}

bool ew__job_withdraw(struct ew__job *job)
{
	struct ew__pool *pool = job->lane->pool;
	bool withdrawn;

	pthread_mutex_lock(&pool->mutex);
	withdrawn = job->queued;
	if (withdrawn)
		unqueue(job);
	pthread_mutex_unlock(&pool->mutex);
	if (withdrawn)
		job->worker->transfers--;
	return withdrawn;
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
	init_lane(pool, EW__DEVICE_NONE, offload_threads, offload_threads);
}

int ew__pool_new(struct ew__pool **ret_pool, unsigned offload_threads)
{
	struct ew__pool *pool;
	int r;

	if (offload_threads > EW__OFFLOAD_THREADS_MAX)
		return -EINVAL;
	pool = calloc(1, sizeof(*pool));
	if (!pool)
		return -ENOMEM;
	init(pool, offload_threads ? offload_threads : EW__OFFLOAD_THREADS_DEFAULT);
	pthread_mutex_lock(&pool->mutex);
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
	ew_assert(pool->queued_count == 0);
	pool->stop = true;
	pthread_cond_broadcast(&pool->work);
	pthread_mutex_unlock(&pool->mutex);
	for (i = 0; i < pool->threads_count; i++)
		pthread_join(pool->threads[i].id, NULL);
	pthread_cond_destroy(&pool->work);
	pthread_mutex_destroy(&pool->mutex);
	free(pool);
}
