/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * Lanes: the lines in which jobs wait for the threads of the pool, and how wide each is
 * For the pool alone, whose mutex guards all of it.
 */

#include "io/pool.h"

struct ew__lanes;

struct ew__job_queue {
	struct ew__job *first, **last;
};

struct ew__lane {
	struct ew__lanes *lanes;
	struct ew__job_queue queue, later;
	unsigned queued_count, later_count;
	unsigned running_count;
	unsigned width, width_min, width_max;
	unsigned width_few; /* at most so wide while calls are short */
	unsigned turn;	    /* of the two queues */
	unsigned quick_count;
	uint64_t ended_count, ended_seen;
	int64_t mean_ns; /* of the last calls */
	dev_t device;
};

struct ew__lanes {
	struct ew__lane all[1 + EW__LANES_MAX]; /* the first is the program's own */
	unsigned count;
	unsigned next; /* whose turn it is */
	unsigned queued_count;
	unsigned running_count;
	unsigned resting_count; /* lanes in which no job runs; a thread is kept for each */
	unsigned helpers_count; /* jobs at filesystems, beside the one that each lane is sure of */
};

/* With the program's own lane, of a fixed width. */
void ew__lanes_init(struct ew__lanes *lanes, unsigned offload_threads);

/* NULL: this device has none. */
struct ew__lane *ew__lanes_find(struct ew__lanes *lanes, dev_t device);

bool ew__lanes_are_full(const struct ew__lanes *lanes);

/* A new one; they are not full, and one more thread is there to be kept for it. */
struct ew__lane *ew__lanes_add(struct ew__lanes *lanes, dev_t device);

/* One of another device in which nothing is being done; without such a one, the program's own. */
struct ew__lane *ew__lanes_take_over(struct ew__lanes *lanes, dev_t device);

/* Whether one more thread would be at its place in one of them. */
bool ew__lanes_want_thread(struct ew__lanes *lanes);

/* The lane that one of @free_count threads is to serve, round robin; NULL: they are all kept for others, or not wanted. */
struct ew__lane *ew__lanes_next(struct ew__lanes *lanes, unsigned free_count);

/* Those in which jobs wait and nothing has ended since the last look become twice as wide. */
void ew__lanes_widen_stalled(struct ew__lanes *lanes);

/* Whether its calls are so long that it is worth a call to ask whether they wait or compute. */
bool ew__lane_is_slow(const struct ew__lane *lane);

/* Whether so many jobs of cancelled tasks wait that one more would not be begun any time soon. */
bool ew__lane_is_fed(const struct ew__lane *lane);

void ew__lane_append(struct ew__lane *lane, struct ew__job *job);

/* Out of its lane, in which it waits. */
void ew__lane_remove(struct ew__job *job);

/* The next job, which runs from now on. */
struct ew__job *ew__lane_begin(struct ew__lane *lane);

/* A job that ran has ended. The width follows from whether it gave its processor away, and from how many of the others hang. */
void ew__lane_end(struct ew__lane *lane, int64_t took_ns, bool waited, unsigned hanging_count);
