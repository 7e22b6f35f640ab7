/* SPDX-License-Identifier: Apache-2.0 */

#include "task/slice.h"

#include "task/kernel.h"

#include <endwell/clock.h>
#include <sched.h>
#include <stdbool.h>
#include <sys/syscall.h>
#include <unistd.h>

#define STAYS_ONE_OF 4
#define AWAY_NS_MAX  (100 * EW_MILLISECOND)

/* The first version of the kernel's struct sched_attr; its own header cannot be had beside <sched.h>. */
struct attributes {
	uint32_t size;
	uint32_t policy;
	uint64_t flags;
	int32_t nice;
	uint32_t priority;
	uint64_t runtime_ns; /* the slice, of who is scheduled fairly */
	uint64_t deadline_ns;
	uint64_t period_ns;
};

static bool look(struct attributes *attributes)
{
	*attributes = (struct attributes){ .size = sizeof(*attributes) };
	return ew__kernel_at_least(6, 12) &&
	       syscall(SYS_sched_getattr, 0, attributes, sizeof(*attributes), 0) == 0 &&
	       (attributes->policy == SCHED_OTHER || attributes->policy == SCHED_BATCH);
}

uint64_t ew__slice_ns(void)
{
	struct attributes attributes;

	return look(&attributes) ? attributes.runtime_ns : 0;
}

void ew__slice_set(uint64_t slice_ns)
{
	struct attributes attributes;

	if (slice_ns == 0 || !look(&attributes))
		return;
	attributes.runtime_ns = slice_ns;
	(void)syscall(SYS_sched_setattr, 0, &attributes, 0);
}

/*
 * Whoever gives way is behind all others, who may have nothing to do with us, and pays for it with a turn of theirs (3
 * ms): with work of some microseconds for each, a hundred files in a second would be closed beside two programs that
 * compute. So the longer it was away, the longer it stays; but no longer than after turns of some thirty others,
 * because the process may have been stopped.
 */
void ew__give_way(struct ew__giving *giving, int64_t ran_ns)
{
	int64_t begin_ns, away_ns;

	giving->ran_ns += ran_ns;
	if (giving->ran_ns < giving->away_ns / STAYS_ONE_OF)
		return;
	begin_ns = ew_now();
	sched_yield();
	away_ns = ew_now() - begin_ns;
	giving->away_ns = away_ns < AWAY_NS_MAX ? away_ns : AWAY_NS_MAX;
	giving->ran_ns = 0;
}
