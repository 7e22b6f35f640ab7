/* SPDX-License-Identifier: Apache-2.0 */

/*
 * How wide a filesystem's lane should be cannot be known, only seen. Calls that compute (freeing blocks that were
 * never written, copying into the page cache) are done no sooner by more threads than processors, and take these
 * from the workers: such a lane becomes narrow. Calls that wait (for a disk, for a server) are done at once: such
 * a lane becomes wide. What tells them apart is whether the thread gave its processor away. And a lane of which
 * nothing has ended for a while although jobs wait is made wider by whichever thread has nothing else to do.
 *
 * Where each wait is short, more than a few threads for each processor gain little, and come back so often that the
 * workers stand in line for their processors: 9,800 files that an ext4 frees in 130 us each are gone after 0.9 s with 6
 * threads, after 0.6 s with 8 and after 0.5 s with 24, but of a hundred others who ask the server meanwhile one waits 2,
 * 3 or 20 ms (two processors).
 */

#include "io/lane.h"

#include "seeded/bug.h"

#include <endwell/clock.h>
#include <sched.h>

#define SLOW_NS	     (200 * EW_MICROSECOND)
#define LONG_NS	     (2 * EW_MILLISECOND)
#define FEW_EACH     3	/* threads for a processor, where calls are not that long */
#define QUICK_JOBS   64 /* in a row; then the lane is one too wide */
#define LATER_ONE_OF 4
#define MEAN_OF_JOBS 8
#define FED_JOBS     64

static bool is_own(const struct ew__lane *lane)
{
	return lane == lane->lanes->all;
}

static unsigned smaller(unsigned a, unsigned b)
{
	return a < b ? a : b;
}

static unsigned processors_count(void)
{
	cpu_set_t set;

	return sched_getaffinity(0, sizeof(set), &set) < 0 ? 1 : (unsigned)CPU_COUNT(&set);
}

/* ---- which ---- */

static struct ew__lane *add(struct ew__lanes *lanes, dev_t device, unsigned width_min,
			    unsigned width_few, unsigned width_max)
{
	struct ew__lane *lane = &lanes->all[lanes->count++];

	lane->lanes = lanes;
	lane->queue.last = &lane->queue.first;
	lane->later.last = &lane->later.first;
	lane->device = device;
	lane->width = lane->width_min = width_min;
	lane->width_few = width_few;
	lane->width_max = width_max;
	lanes->resting_count++;
	return lane;
}

void ew__lanes_init(struct ew__lanes *lanes, unsigned offload_threads)
{
	(void)add(lanes, EW__DEVICE_NONE, offload_threads, offload_threads, offload_threads);
}

struct ew__lane *ew__lanes_find(struct ew__lanes *lanes, dev_t device)
{
	struct ew__lane *lane;

	for (lane = lanes->all; lane < lanes->all + lanes->count; lane++)
		if (lane->device == device)
			return lane;
	return NULL;
}

bool ew__lanes_are_full(const struct ew__lanes *lanes)
{
	return lanes->count == sizeof(lanes->all) / sizeof(lanes->all[0]);
}

struct ew__lane *ew__lanes_add(struct ew__lanes *lanes, dev_t device)
{
	unsigned processors = processors_count();

	return add(lanes, device, smaller((processors + 1) / 2, EW__LANE_WIDTH_MAX),
		   smaller(FEW_EACH * processors, EW__LANE_WIDTH_MAX), EW__LANE_WIDTH_MAX);
}

struct ew__lane *ew__lanes_take_over(struct ew__lanes *lanes, dev_t device)
{
	struct ew__lane *lane;

	for (lane = lanes->all + 1; lane < lanes->all + lanes->count; lane++) {
		if ((lane->queued_count > 0 || lane->running_count > 0) &&
		    !ew__bug("busy-lane-taken-over"))
			continue;
		lane->device = device;
		lane->width = lane->width_min;
		lane->quick_count = 0;
		lane->mean_ns = 0;
		return lane;
	}
	return lanes->all;
}

/* ---- who may have a thread ---- */

static bool wants_thread(const struct ew__lane *lane)
{
	if (lane->queued_count == 0)
		return false;
	if (lane->running_count == 0)
		return true;
	return lane->running_count < lane->width &&
	       (is_own(lane) || lane->lanes->helpers_count < EW__LANE_HELPERS_MAX);
}

bool ew__lanes_want_thread(struct ew__lanes *lanes)
{
	const struct ew__lane *lane;

	for (lane = lanes->all; lane < lanes->all + lanes->count; lane++)
		if (wants_thread(lane))
			return true;
	return false;
}

struct ew__lane *ew__lanes_next(struct ew__lanes *lanes, unsigned free_count)
{
	bool one_is_free = free_count > lanes->resting_count; /* that is not kept for another */
	struct ew__lane *lane;
	unsigned i, number;

	for (i = 0; i < lanes->count; i++) {
		number = (lanes->next + i) % lanes->count;
		lane = &lanes->all[number];
		if (!wants_thread(lane) || (lane->running_count > 0 && !one_is_free))
			continue;
		lanes->next = number + 1;
		return lane;
	}
	return NULL;
}

/* ---- the width ---- */

/* Those that hang keep no processor from anybody. */
static unsigned widest(const struct ew__lane *lane, unsigned hanging_count)
{
	if (lane->mean_ns > LONG_NS)
		return lane->width_max;
	return smaller(lane->width_few + hanging_count, lane->width_max);
}

static void adapt(struct ew__lane *lane, int64_t took_ns, bool waited, unsigned hanging_count)
{
	unsigned most;

	lane->mean_ns += (took_ns - lane->mean_ns) / MEAN_OF_JOBS;
	most = widest(lane, hanging_count);
	if (waited) {
		lane->quick_count = 0;
		if (lane->width > most)
			lane->width--;
		else if (lane->queued_count > 0)
			lane->width = smaller(lane->width + 1, most);
	} else if (++lane->quick_count == QUICK_JOBS) {
		lane->quick_count = 0;
		if (lane->width > lane->width_min)
			lane->width--;
	}
}

void ew__lanes_widen_stalled(struct ew__lanes *lanes)
{
	struct ew__lane *lane;

	for (lane = lanes->all; lane < lanes->all + lanes->count; lane++) {
		if (lane->queued_count > 0 && lane->running_count >= lane->width &&
		    lane->ended_count == lane->ended_seen)
			lane->width = smaller(2 * lane->width, lane->width_max);
		lane->ended_seen = lane->ended_count;
	}
}

bool ew__lane_is_slow(const struct ew__lane *lane)
{
	return lane->width_max > lane->width_min && lane->mean_ns > SLOW_NS;
}

bool ew__lane_is_fed(const struct ew__lane *lane)
{
	return lane->later_count > FED_JOBS;
}

/* ---- jobs ---- */

void ew__lane_append(struct ew__lane *lane, struct ew__job *job)
{
	struct ew__job_queue *queue = job->later ? &lane->later : &lane->queue;

	job->lane = lane;
	job->queued = true;
	job->next = NULL;
	job->link = queue->last;
	*queue->last = job;
	queue->last = &job->next;
	lane->queued_count++;
	lane->later_count += job->later;
	lane->lanes->queued_count++;
}

void ew__lane_remove(struct ew__job *job)
{
	struct ew__lane *lane = job->lane;
	struct ew__job_queue *queue = job->later ? &lane->later : &lane->queue;

	*job->link = job->next;
	if (job->next)
		job->next->link = job->link;
	else if (!ew__bug("lane-queue-ends-nowhere"))
		queue->last = job->link;
	job->queued = false;
	lane->queued_count--;
	lane->later_count -= job->later;
	lane->lanes->queued_count--;
}

struct ew__job *ew__lane_begin(struct ew__lane *lane)
{
	bool later = !lane->queue.first || (lane->later.first && ++lane->turn % LATER_ONE_OF == 0 &&
					    !ew__bug("lane-forgets-the-later"));
	struct ew__job *job = later ? lane->later.first : lane->queue.first;

	ew__lane_remove(job);
	if (lane->running_count++ == 0)
		lane->lanes->resting_count--;
	else if (!is_own(lane))
		lane->lanes->helpers_count++;
	lane->lanes->running_count++;
	return job;
}

void ew__lane_end(struct ew__lane *lane, int64_t took_ns, bool waited, unsigned hanging_count)
{
	if (--lane->running_count == 0)
		lane->lanes->resting_count++;
	else if (!is_own(lane) && !ew__bug("lane-counts-its-helpers-wrongly"))
		lane->lanes->helpers_count--;
	lane->lanes->running_count--;
	lane->ended_count++;
	adapt(lane, took_ns, waited, hanging_count);
}
