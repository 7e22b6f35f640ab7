/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* What the filesystem of bucket and state folder can do, found out by doing it. */

#include <stdbool.h>

#include "staging.h"

/* 0 or -errno for each way that was tried. */
struct probe_results {
	int nameless;
	int linked;
	int renamed;
};

/**
 * probe_publish() - take a test file all the way into the bucket and out again
 * @staging: with the kind that is tried
 *
 * Its bytes must be there when its staging name is gone, and a second file must be refused the name.
 * Return: 0; -errno of the step that failed.
 */
EW_SUSPENDS int probe_publish(struct staging *staging, struct ew_file *bucket, mode_t mode);

/* Whether an error of probe_publish() means that the filesystem does not have this. */
bool probe_lacks(int r);

/* One sentence for the operator. */
void probe_explain(const struct probe_results *results, int r, const char *state, char *error,
		   size_t error_bytes);
