/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A body begins in memory, and moves into a nameless file with the byte that is one too many; one whose declared length
 * says so goes there at once, and is refused before it comes if the disk has no room. It gets its name when the operation
 * has its permit, so there are no more names than permits, and has it as long as the operation lives, the time in which it
 * is presumed included: somebody may be reading it then.
 */
#include "body.h"

#include <errno.h>
#include <openssl/evp.h>
#include <stdlib.h>
#include <string.h>

#include "common/log.h"

static int keep(struct body *body, const char *data, size_t bytes)
{
	size_t wanted = body->data_bytes + bytes;
	char *larger;

	if (wanted > body->room) {
		body->room = wanted < 2 * body->room ? 2 * body->room : wanted;
		larger = realloc(body->data, body->room);
		if (!larger)
			return -ENOMEM;
		body->data = larger;
	}
	memcpy(body->data + body->data_bytes, data, bytes);
	body->data_bytes = wanted;
	return 0;
}

static int open_file(struct body *body, struct bucket *bucket, const char *id, int64_t declared)
{
	int r;

	body->spool.bucket = bucket;
	r = spool_admit(&body->spool, id, declared);
	if (r == 0)
		r = spool_begin(&body->spool);
	return r < 0 ? r : staging_make(&bucket->staging, &body->file, &body->staged);
}

/* What was kept in memory goes first. */
static int spill(struct body *body, struct bucket *bucket, const char *id)
{
	int r;

	r = open_file(body, bucket, id, -1);
	if (r == 0 && body->data_bytes > 0)
		r = spool_write(&body->spool, ew_tempfile_file(body->file), body->data,
				body->data_bytes);
	free(body->data);
	body->data = NULL;
	body->data_bytes = 0;
	return r;
}

static int receive_all(struct body *body, struct http_request *request, struct bucket *bucket,
		       uint64_t inline_bytes, const char *id)
{
	const char *data;
	int r = 0, n;

	while ((n = http_body_read(request, &data)) > 0) {
		if (bucket && !body->file && body->data_bytes + (size_t)n > inline_bytes)
			r = spill(body, bucket, id);
		if (r == 0 && body->file)
			r = spool_write(&body->spool, ew_tempfile_file(body->file), data,
					(size_t)n);
		else if (r == 0)
			r = keep(body, data, (size_t)n);
		if (r < 0) {
			body->is_unstored = bucket && r != -ENOMEM;
			return r;
		}
	}
	return n;
}

int body_receive(struct body *body, struct http_request *request, struct bucket *bucket,
		 uint64_t inline_bytes, const char *id)
{
	int64_t declared = request->head->body_bytes;
	int r = 0;

	/* One that is too large for the route is told so by the first read. */
	if (bucket && declared > (int64_t)inline_bytes && declared <= request->body_bytes_max)
		r = open_file(body, bucket, id, declared);
	body->is_unstored = r < 0;
	if (r == 0)
		r = receive_all(body, request, bucket, inline_bytes, id);
	if (r == 0 && body->file)
		r = spool_finish(&body->spool, body->sha256);
	return r;
}

int body_digest(const struct body *body, uint8_t ret_sha256[SPOOL_DIGEST_BYTES])
{
	if (body->file)
		memcpy(ret_sha256, body->sha256, SPOOL_DIGEST_BYTES);
	else if (EVP_Digest(body->data, body->data_bytes, ret_sha256, NULL, EVP_sha256(), NULL) !=
		 1)
		return -ENOMEM;
	return 0;
}

/* Whatever is left of it after that is a name, which its lease knows. */
static void settle(struct body *body, int ending)
{
	struct bucket *bucket = body->spool.bucket;

	if (ending < 0)
		log_note("error", "reclaim-failed", "a body: %s", strerror(-ending));
	(void)staging_settle(&bucket->staging, &body->staged, ending, NULL);
}

static int close_file(struct body *body)
{
	int r;

	if (!body->file && !body->staged)
		return 0;
	r = ew_tempfile_close(&body->file);
	settle(body, r);
	return r;
}

int body_publish(struct body *body, const char *id)
{
	int r;

	if (!body->file)
		return 0;
	r = bucket_publish_leased(body->spool.bucket, id, body->file, &body->published);
	body->is_unstored = r < 0 && r != -ECANCELED;
	if (r == 0)
		(void)close_file(body); /* its bytes are durable, and have a name */
	return r;
}

int body_close(struct body *body)
{
	struct bucket *bucket = body->spool.bucket;
	int r = 0;

	if (!bucket)
		return 0;
	(void)close_file(body);
	r = staging_remove(&bucket->staging, &body->published);
	if (r < 0 && r != -ECANCELED)
		log_note("error", "reclaim-failed", "a body: %s", strerror(-r));
	return r;
}

void body_abort(struct body *body)
{
	struct bucket *bucket = body->spool.bucket;

	free(body->data);
	body->data = NULL;
	if (!bucket)
		return;
	/* Its end is not awaited: a name that it may have stays on the books until it was removed again. */
	if (body->staged)
		body->staged->doubtful = true;
	ew_abort(&body->file);
	(void)staging_settle(&bucket->staging, &body->staged, 0, NULL);
	staging_leave(&bucket->staging, &body->published);
	spool_unreserve(&body->spool);
	spool_end(&body->spool);
}
