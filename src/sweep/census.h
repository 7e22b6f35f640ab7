/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * Census: what a run has left behind
 */

#include <stdbool.h>
#include <stddef.h>

#define EW__CENSUS_DESCRIPTORS_MAX 4096

/* What the process holds by itself, outside any run. */
struct ew__census {
	bool has_children;
	unsigned descriptors_count;
	int descriptors[EW__CENSUS_DESCRIPTORS_MAX]; /* in rising order */
};

void ew__census_take(struct ew__census *census);

/* True: the process holds what it held. False: @what says the first difference. */
bool ew__census_compare(const struct ew__census *before, char *what, size_t what_bytes);

/*
 * Inside the run, in its last task: waits until threads and kernel are done, then counts. @own: resources that were made
 * outside of the run, and are still owned there, do not count.
 */
bool ew__census_of_run(bool own, char *what, size_t what_bytes);
