/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* A body on its way into a file of a bucket: counted, digested, and reserved on the disk. */

#include "bucket.h"

#define SPOOL_DIGEST_BYTES 32 /* SHA-256 */

/**
 * struct spool - one; zero but for its bucket
 * @bytes:          that have been written
 * @reserved_bytes: on the disk floor, for what has not arrived
 */
struct spool {
	struct bucket *bucket;
	uint64_t bytes;
	uint64_t reserved_bytes;
	/* -- private from here -- */
	bool is_unsized;
	void *digest;
};

/**
 * spool_admit() - may it come?
 * @name:     that the file will get
 * @declared: its length; -1: not known
 *
 * Errors: as bucket_check(). After them, as after success, spool_unreserve() is due.
 */
EW_SUSPENDS int spool_admit(struct spool *spool, const char *name, int64_t declared);

/* Gives back what has not arrived; idempotent. */
void spool_unreserve(struct spool *spool);

/* Before the first byte; spool_end() is due, also after -ENOMEM. */
int spool_begin(struct spool *spool);

/**
 * spool_write() - the next bytes
 * @file: the same for all of them
 *
 * Errors: those of ew_file_write(); -ENOSPC also: of one whose length is not known, near the disk floor
 */
EW_SUSPENDS int spool_write(struct spool *spool, struct ew_file *file, const void *data,
			    size_t bytes);

/* It is whole. -ENOMEM */
int spool_finish(struct spool *spool, uint8_t ret_sha256[SPOOL_DIGEST_BYTES]);

/* The end of what it stands for, and its memory; a no-op on one that has not begun. */
void spool_end(struct spool *spool);
