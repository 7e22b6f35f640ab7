/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * The bucket: a folder of published files, the staging area beside it, and the way from one to the
 * other.
 */

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include <endwell/event.h>
#include <endwell/file.h>
#include <endwell/tempfile.h>

#include "folder_lock.h"
#include "front.h"
#include "staging.h"

#define BUCKET_DISK_FLOOR_PERCENT 5

struct sync_batch;
struct ew_guard;
struct ew_scope;

/* For a page of metrics. */
struct bucket_counts {
	_Atomic bool ready;
	_Atomic uint64_t reserved_bytes; /* declared, and not there yet */
	_Atomic uint64_t syncs;
	_Atomic uint64_t synced_links; /* names that those covered */
	_Atomic uint64_t spools; /* files from their first byte to their end, and what they hold */
	_Atomic uint64_t spooled_bytes;
	_Atomic uint64_t leased; /* names that were published and end with their server */
};

struct bucket {
	struct bucket_counts counts;
	mode_t mode;
	bool is_leased; /* what it has ends with its server: set before bucket_prepare() */
	struct folder_lock folder_lock;
	struct ew_file *directory;
	struct staging staging;
	_Atomic bool suspect; /* a sync of the directory has failed: what it held may be lost */

	pthread_mutex_t sync_lock;
	struct sync_batch *sync_open; /* links that wait for the next sync */
	struct ew_event sync_work;
	struct front_needed syncing, reclaiming;
};

/* Nothing is open, and bucket_release() is due. */
void bucket_init(struct bucket *bucket);

/**
 * bucket_prepare() - make the folders, keep other servers out of them, and take a lease; before the runtime starts
 * @bucket:      initialized
 * @path:        of the bucket; made if missing
 * @state:       of the server's own folder; made if missing, mode 0700, must not lie in the bucket
 * @error:       receives one sentence when it fails
 *
 * Return: 0 or -errno.
 */
int bucket_prepare(struct bucket *bucket, const char *path, const char *state, char *error,
		   size_t error_bytes);
void bucket_release(struct bucket *bucket);

/**
 * bucket_open() - open the folders and find out how a file can be staged and published
 * @bucket: prepared
 * @mode:   of published files
 * @slots:  whose permits staging_settle() is given, borrowed; NULL: its files come without permits
 *
 * Return:  0, or -errno with a sentence in @error; bucket_close() is due in both cases.
 */
EW_SUSPENDS int bucket_open(struct bucket *bucket, const char *path, const char *state, mode_t mode,
			    struct ew_semaphore *slots, char *error, size_t error_bytes);
EW_SUSPENDS int bucket_close(struct bucket *bucket);

/* The other ending: what is left is for the next start. */
void bucket_abort(struct bucket *bucket);

/* Runs the guard whose endings those two are. What its time is too short for is the next start's, and no error. */
EW_SUSPENDS int bucket_end(struct ew_guard *guard);

/* What is to come, on the disk floor; bucket_unreserve() is due as it arrives, or does not. */
void bucket_reserve(struct bucket *bucket, uint64_t bytes);
void bucket_unreserve(struct bucket *bucket, uint64_t bytes);

/**
 * bucket_check() - may a file of this name come, beside all that is reserved?
 *
 * Errors: -EEXIST the name is taken, -ENOSPC the disk floor would be reached, -EIO the volume is
 *         suspect.
 */
EW_SUSPENDS int bucket_check(struct bucket *bucket, const char *name);

/*
 * 0 while the disk floor is not reached, else -ENOSPC; for files whose size was not declared, and
 * readiness.
 */
EW_SUSPENDS int bucket_floor(struct bucket *bucket);

/**
 * struct publication - a name that a file is to get
 * @name:     in the bucket
 * @commit:   asked once, when all is ready: false, and it does not get its name any more
 * @argument: of that
 * @named:    the name exists
 * @doubtful: nobody knows whether it does
 */
struct publication {
	const char *name;
	bool (*commit)(void *argument);
	void *argument;
	bool named;
	bool doubtful;
};

/**
 * bucket_publish() - give a file its name, and make it durable
 * @publication: all but the last member is given
 * @file:        complete; to be closed by the caller
 *
 * Cancellation: before the commit point wins; after it is late: the call goes on to its end.
 * Return: 0 when the name is durable.
 * Errors: -ECANCELED not published; -EEXIST the name is taken; others: not published, unless
 *         @publication->named, which means that the name exists but may not survive a power cut, or
 *         @publication->doubtful.
 */
EW_SUSPENDS int bucket_publish(struct bucket *bucket, struct publication *publication,
			       struct ew_tempfile *file);

/**
 * bucket_publish_leased() - the same under the name LEASE-ID, which ends with this server
 * @id:         text of LEASE_ID_TEXT - 1 characters
 * @ret_staged: the name, also after an error if it may exist; as of staging_lease_name()
 *
 * A crash leaves the file to whoever sweeps the lease.
 */
EW_SUSPENDS int bucket_publish_leased(struct bucket *bucket, const char *id,
				      struct ew_tempfile *file, struct staged **ret_staged);

/* Spawns what the bucket does beside its files: syncs, the sweep, and what could not be removed. */
int bucket_start(struct bucket *bucket, struct front *front, struct ew_scope *scope);
