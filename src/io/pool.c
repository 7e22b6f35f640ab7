/* SPDX-License-Identifier: Apache-2.0 */

/*
 * A queue, a mutex, and threads that are started as they are needed, up to a limit. The end of a job goes
 * back to its worker as a message.
 */

#include "io/pool.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>

struct ew__pool {
	pthread_mutex_t mutex;
	pthread_cond_t work;
	struct ew__job *first, **last;
	unsigned threads_count;
	unsigned threads_max;
	unsigned idle_count;
	unsigned queued_count;
	bool stop;
	pthread_t threads[EW__POOL_THREADS_MAX];
};

static void deliver_completion(struct ew__message *message)
{
	struct ew__job *job = ew__container_of(message, struct ew__job, message);

	job->worker->transfers--;
	job->complete(job);
}

static void *pool_thread(void *argument)
{
	struct ew__pool *pool = argument;
	struct ew__job *job;

	pthread_mutex_lock(&pool->mutex);
	for (;;) {
		while (!pool->first && !pool->stop) {
			pool->idle_count++;
			pthread_cond_wait(&pool->work, &pool->mutex);
			pool->idle_count--;
		}
		job = pool->first;
		if (!job)
			break;
		pool->first = job->next;
		if (!pool->first)
			pool->last = &pool->first;
		pool->queued_count--;
		job->queued = false;
		pthread_mutex_unlock(&pool->mutex);
		job->run(job);
		ew__post(job->worker, &job->message);
		pthread_mutex_lock(&pool->mutex);
	}
	pthread_mutex_unlock(&pool->mutex);
	return NULL;
}

/* The caller holds the mutex. All signals are for the program's own threads. */
static int start_thread(struct ew__pool *pool)
{
	sigset_t all, before;
	int r;

	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &before);
	r = -pthread_create(&pool->threads[pool->threads_count], NULL, pool_thread, pool);
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	if (r == 0)
		pool->threads_count++;
	return r;
}

int ew__pool_new(struct ew__pool **ret_pool, unsigned threads_max)
{
	struct ew__pool *pool;
	int r;

	if (threads_max > EW__POOL_THREADS_MAX)
		return -EINVAL;
	pool = calloc(1, sizeof(*pool));
	if (!pool)
		return -ENOMEM;
	pthread_mutex_init(&pool->mutex, NULL);
	pthread_cond_init(&pool->work, NULL);
	pool->last = &pool->first;
	pool->threads_max = threads_max ? threads_max : EW__POOL_THREADS_DEFAULT;
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
	ew_assert(!pool->first);
	pool->stop = true;
	pthread_cond_broadcast(&pool->work);
	pthread_mutex_unlock(&pool->mutex);
	for (i = 0; i < pool->threads_count; i++)
		pthread_join(pool->threads[i], NULL);
	pthread_cond_destroy(&pool->work);
	pthread_mutex_destroy(&pool->mutex);
	free(pool);
}

void ew__pool_submit(struct ew__pool *pool, struct ew__job *job)
{
	job->worker = ew__worker;
	job->worker->transfers++;
	job->message.deliver = deliver_completion;
	job->next = NULL;
	job->queued = true;
	pthread_mutex_lock(&pool->mutex);
	*pool->last = job;
	pool->last = &job->next;
	pool->queued_count++;
	if (pool->queued_count > pool->idle_count && pool->threads_count < pool->threads_max)
		(void)start_thread(pool); /* one always exists; the others only help */
	pthread_cond_signal(&pool->work);
	pthread_mutex_unlock(&pool->mutex);
}

bool ew__pool_withdraw(struct ew__pool *pool, struct ew__job *job)
{
	struct ew__job **link;
	bool withdrawn;

	pthread_mutex_lock(&pool->mutex);
	withdrawn = job->queued;
	if (withdrawn) {
		for (link = &pool->first; *link != job; link = &(*link)->next)
			;
		*link = job->next;
		if (pool->last == &job->next)
			pool->last = link;
		pool->queued_count--;
		job->queued = false;
	}
	pthread_mutex_unlock(&pool->mutex);
	if (withdrawn)
		job->worker->transfers--;
	return withdrawn;
}
