/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * The scheduler's slice, and giving way
 * A thread with a short slice gets no less of a processor: it is let on sooner and for less long. Who gives way loses
 * its place for a slice, so that a short one makes that cheap.
 */

#include <stdint.h>

/* What a thread has given away, and done since. Zeroed at first. */
struct ew__giving {
	int64_t away_ns;
	int64_t ran_ns;
};

/* Of the calling thread. 0: none that could be set; the kernel is older than 6.12, a filter refuses, or it is not scheduled fairly. */
uint64_t ew__slice_ns(void);

/* For the calling thread, and those that it starts from now on. @slice_ns: at least 100,000; 0: stays as it is. */
void ew__slice_set(uint64_t slice_ns);

/* The calling thread has run for @ran_ns, and would go on: whoever else wants its processor may, if it is time for that. */
void ew__give_way(struct ew__giving *giving, int64_t ran_ns);
