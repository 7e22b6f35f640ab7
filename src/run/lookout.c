/* SPDX-License-Identifier: Apache-2.0 */

#include "run/lookout.h"

#include <endwell/base.h>
#include <time.h>

bool ew__lookout_sleep(struct ew__lookout *lookout, int64_t duration_ns)
{
	struct timespec until;
	bool stopped;

	clock_gettime(CLOCK_MONOTONIC, &until);
	duration_ns += until.tv_nsec;
	until.tv_sec += duration_ns / EW_SECOND;
	until.tv_nsec = duration_ns % EW_SECOND;
	pthread_mutex_lock(&lookout->mutex);
	while (!lookout->stop &&
	       pthread_cond_timedwait(&lookout->changed, &lookout->mutex, &until) == 0)
		;
	stopped = lookout->stop;
	pthread_mutex_unlock(&lookout->mutex);
	return !stopped;
}

bool ew__lookout_start(struct ew__lookout *lookout, void *(*watch)(void *argument), void *argument)
{
	pthread_condattr_t monotonic;

	pthread_mutex_init(&lookout->mutex, NULL);
	pthread_condattr_init(&monotonic);
	pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
	pthread_cond_init(&lookout->changed, &monotonic);
	pthread_condattr_destroy(&monotonic);
	lookout->running = pthread_create(&lookout->thread, NULL, watch, argument) == 0;
	return lookout->running;
}

void ew__lookout_stop(struct ew__lookout *lookout)
{
	if (!lookout->running)
		return;
	pthread_mutex_lock(&lookout->mutex);
	lookout->stop = true;
	pthread_cond_broadcast(&lookout->changed);
	pthread_mutex_unlock(&lookout->mutex);
	pthread_join(lookout->thread, NULL);
}
