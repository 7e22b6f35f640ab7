/* SPDX-License-Identifier: Apache-2.0 */

#include "buckets.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <endwell/clock.h>
#include <endwell/scope.h>

#include "common/flags.h"

/* For the owner and the group, which is to have the workers. */
#define BODY_MODE 0640

#define STATE_SUFFIX ".state"

/* For the end of each, and of that for the names that were left; the rest is for making it durable. */
#define LAST_BUDGET  (5 * EW_SECOND)
#define REMOVAL_TIME (3 * EW_SECOND)

struct buckets_entry {
	struct bucket bucket;
	char path[CONFIG_TEXT_BYTES];
	char state[CONFIG_TEXT_BYTES + sizeof(STATE_SUFFIX)];
};

static struct bucket *find(struct buckets *buckets, const char *path)
{
	for (size_t i = 0; i < buckets->count; i++)
		if (strcmp(buckets->entries[i]->path, path) == 0)
			return &buckets->entries[i]->bucket;
	return NULL;
}

int buckets_prepare(struct buckets *buckets, const char *path, struct bucket **ret_bucket)
{
	struct buckets_entry *entry;
	char error[FLAGS_ERROR_BYTES];
	int r;

	*ret_bucket = find(buckets, path);
	if (*ret_bucket)
		return 0;
	entry = calloc(1, sizeof(*entry));
	if (!entry)
		return -ENOMEM;
	buckets->entries[buckets->count++] = entry;
	snprintf(entry->path, sizeof(entry->path), "%s", path);
	snprintf(entry->state, sizeof(entry->state), "%s" STATE_SUFFIX, path);
	bucket_init(&entry->bucket);
	entry->bucket.is_leased = true;
	r = bucket_prepare(&entry->bucket, entry->path, entry->state, error, sizeof(error));
	if (r < 0)
		fprintf(stderr, "ew-gateway: %s\n", error);
	else
		*ret_bucket = &entry->bucket;
	return r;
}

void buckets_release(struct buckets *buckets)
{
	for (size_t i = 0; i < buckets->count; i++) {
		bucket_release(&buckets->entries[i]->bucket);
		free(buckets->entries[i]);
	}
	buckets->count = 0;
}

int buckets_open(struct buckets *buckets)
{
	char error[FLAGS_ERROR_BYTES];
	int r = 0;

	for (size_t i = 0; i < buckets->count && r == 0; i++) {
		struct buckets_entry *entry = buckets->entries[i];

		r = bucket_open(&entry->bucket, entry->path, entry->state, BODY_MODE, NULL, error,
				sizeof(error));
		if (r < 0)
			fprintf(stderr, "ew-gateway: %s\n", error);
	}
	return r;
}

/* What is still there then is left for the next start, as its end says in the log. */
static int remove_last(struct staging *staging)
{
	bool again;
	int r;

	EW_SCOPE(patience, .deadline_ns = ew_after(REMOVAL_TIME));

	r = staging_reclaim(staging, &again);
	return ew_scope_finish(&patience, r);
}

static int close_one(struct bucket *bucket)
{
	int r = remove_last(&bucket->staging);
	int closed = bucket_close(bucket);

	return r == -ECANCELED ? r : closed;
}

int buckets_close(struct buckets *buckets)
{
	int r = 0, closed;

	for (size_t i = 0; i < buckets->count; i++) {
		closed = close_one(&buckets->entries[i]->bucket);
		if (r == 0)
			r = closed;
	}
	return r;
}

void buckets_abort(struct buckets *buckets)
{
	for (size_t i = 0; i < buckets->count; i++)
		bucket_abort(&buckets->entries[i]->bucket);
}

struct bucket *buckets_at(const struct buckets *buckets, size_t at, const char **ret_path)
{
	*ret_path = buckets->entries[at]->path;
	return &buckets->entries[at]->bucket;
}

int64_t buckets_last_ns(const struct buckets *buckets)
{
	return (int64_t)buckets->count * LAST_BUDGET;
}

int buckets_start(struct buckets *buckets, struct front *front, struct ew_scope *scope)
{
	int r = 0;

	for (size_t i = 0; i < buckets->count && r == 0; i++)
		r = bucket_start(&buckets->entries[i]->bucket, front, scope);
	return r;
}
