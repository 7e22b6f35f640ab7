/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * Lookout: a thread of the runtime's own that looks at the workers now and then, since a worker may be what is stuck
 */

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

struct ew__lookout {
	pthread_t thread;
	pthread_mutex_t mutex;
	pthread_cond_t changed;
	bool running;
	bool stop;
};

/* False: there is no thread for it. @lookout is zeroed. */
bool ew__lookout_start(struct ew__lookout *lookout, void *(*watch)(void *argument), void *argument);

/* On the lookout's thread. False: it is to end. */
bool ew__lookout_sleep(struct ew__lookout *lookout, int64_t duration_ns);

/* Waits for its thread; a no-op for one that was not started. */
void ew__lookout_stop(struct ew__lookout *lookout);
