/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* The body of a request: in the message, or, where it is too large for that, in a file of the route's bucket. */

#include <stdbool.h>

#include <endwell/tempfile.h>

#include "common/spool.h"
#include "http/session.h"

#define BODY_DIGEST_TEXT (2 * SPOOL_DIGEST_BYTES + 1)

/**
 * struct body - one; zero: empty
 * @data:        what goes into the message
 * @spool:       of one that goes into a file
 * @file:        that; NULL: there is none, or it has its name
 * @staged:      its staging name, where files are not nameless
 * @published:   its name in the bucket
 * @sha256:      of a file
 * @is_unstored: it has failed because of the bucket: not because of the client, nor because its publication was cancelled
 */
struct body {
	char *data;
	size_t data_bytes;
	size_t room;
	struct spool spool;
	struct ew_tempfile *file;
	struct staged *staged;
	struct staged *published;
	uint8_t sha256[SPOOL_DIGEST_BYTES];
	bool is_unstored;
};

/**
 * body_receive() - all of it
 * @bucket:       NULL: the message takes any
 * @inline_bytes: that the message takes, if there is a bucket
 * @id:           of the operation, which the file will be called by
 *
 * After an error, as after success, body_close() or body_abort() is due.
 * Errors: those of http_body_read(), -ENOMEM; with @is_unstored those of the bucket, -ENOSPC, -ECANCELED
 */
EW_SUSPENDS int body_receive(struct body *body, struct http_request *request, struct bucket *bucket,
			     uint64_t inline_bytes, const char *id);

/* SHA-256 of all of it. -ENOMEM */
int body_digest(const struct body *body, uint8_t ret_sha256[SPOOL_DIGEST_BYTES]);

/* Gives the file its name, so that workers find it; a no-op without a file. Errors as bucket_publish_leased() */
EW_SUSPENDS int body_publish(struct body *body, const char *id);

/* The file is removed, and its name. -ECANCELED: not yet, body_abort() is due; others: somebody goes on trying. */
EW_SUSPENDS int body_close(struct body *body);

/* The same without waiting: what there is of a file is removed by the bucket's own task. */
void body_abort(struct body *body);
