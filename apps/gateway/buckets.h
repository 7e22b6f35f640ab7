/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* The buckets of all routes, for bodies that are too large for a message. */

#include "common/bucket.h"

#include "config.h"

/* What one takes beside the files that come in: folders, its lease, and those of others that it sweeps. */
#define BUCKETS_DESCRIPTORS (8 + LEASE_DEAD_MAX)

struct buckets {
	struct buckets_entry *entries[ROUTES_MAX];
	size_t count;
};

/**
 * buckets_prepare() - make a bucket and its state folder PATH.state, and take a lease; before the runtime starts
 * @ret_bucket: the same for all who give the same path
 *
 * Return: 0; -errno, and a message has gone to standard error.
 */
int buckets_prepare(struct buckets *buckets, const char *path, struct bucket **ret_bucket);
void buckets_release(struct buckets *buckets);

/* -errno: a message has gone to standard error. buckets_close() is due in both cases. */
EW_SUSPENDS int buckets_open(struct buckets *buckets);

/* What is left is removed, as far as that can be done within buckets_last_ns(). */
EW_SUSPENDS int buckets_close(struct buckets *buckets);

/* Without waiting: what is left is the next start's. */
void buckets_abort(struct buckets *buckets);

/* One of those that are prepared, and the path that it was given by. */
struct bucket *buckets_at(const struct buckets *buckets, size_t at, const char **ret_path);

/* The budget of buckets_close(); 0: there are none. */
int64_t buckets_last_ns(const struct buckets *buckets);

/* Spawns what they do beside requests. */
int buckets_start(struct buckets *buckets, struct front *front, struct ew_scope *scope);
