/* SPDX-License-Identifier: Apache-2.0 */

#include "spool.h"

#include <errno.h>
#include <openssl/evp.h>

/* How often the disk floor is looked at for a body of unknown length. */
#define FLOOR_INTERVAL_BYTES (UINT64_C(16) << 20)

int spool_admit(struct spool *spool, const char *name, int64_t declared)
{
	/*
	 * Reserved before the look, so that two who look at the same time do not both find the last
	 * gap free.
	 */
	spool->reserved_bytes = declared > 0 ? (uint64_t)declared : 0;
	bucket_reserve(spool->bucket, spool->reserved_bytes);
	spool->is_unsized = declared < 0;
	return bucket_check(spool->bucket, name);
}

void spool_unreserve(struct spool *spool)
{
	bucket_unreserve(spool->bucket, spool->reserved_bytes);
	spool->reserved_bytes = 0;
}

int spool_begin(struct spool *spool)
{
	spool->digest = EVP_MD_CTX_new();
	if (!spool->digest)
		return -ENOMEM;
	atomic_fetch_add(&spool->bucket->counts.spools, 1);
	return EVP_DigestInit_ex(spool->digest, EVP_sha256(), NULL) == 1 ? 0 : -ENOMEM;
}

static int account(struct spool *spool, uint64_t bytes)
{
	uint64_t before = spool->bytes;
	uint64_t arrived = bytes < spool->reserved_bytes ? bytes : spool->reserved_bytes;

	bucket_unreserve(spool->bucket, arrived);
	spool->reserved_bytes -= arrived;
	spool->bytes += bytes;
	atomic_fetch_add(&spool->bucket->counts.spooled_bytes, bytes);
	if (spool->is_unsized &&
	    before / FLOOR_INTERVAL_BYTES != spool->bytes / FLOOR_INTERVAL_BYTES)
		return bucket_floor(spool->bucket);
	return 0;
}

int spool_write(struct spool *spool, struct ew_file *file, const void *data, size_t bytes)
{
	int r;

	if (EVP_DigestUpdate(spool->digest, data, bytes) != 1)
		return -ENOMEM;
	r = ew_file_write(file, data, bytes, (int64_t)spool->bytes);
	return r < 0 ? r : account(spool, bytes);
}

int spool_finish(struct spool *spool, uint8_t ret_sha256[SPOOL_DIGEST_BYTES])
{
	return EVP_DigestFinal_ex(spool->digest, ret_sha256, NULL) == 1 ? 0 : -ENOMEM;
}

void spool_end(struct spool *spool)
{
	if (!spool->digest)
		return;
	EVP_MD_CTX_free(spool->digest);
	spool->digest = NULL;
	atomic_fetch_sub(&spool->bucket->counts.spools, 1);
	atomic_fetch_sub(&spool->bucket->counts.spooled_bytes, spool->bytes);
}
