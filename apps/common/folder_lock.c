/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A lease (lease.c) tells the dead from the living among those who share a state folder. Of a server with another state
 * folder it knows nothing, and one that sweeps a bucket would see files there without a lease, or, where a state folder was
 * copied with its leases, with one that nobody locks. So all servers that sweep a bucket have one state folder, and no
 * others are in either of them.
 *
 * Each server puts a read lock on one byte of a folder, and then looks for locks on any other: whoever comes later sees
 * who was first, and of two who come at once at least one sees the other. Which byte it is says who it is: 0 is
 * ew-ingest, which sweeps no bucket; any other is ew-gateway, and made of device and inode of the other folder, so that
 * paths do not matter. A folder's locks are the kernel's own and reach no other machine, but with some cluster filesystems;
 * they belong to the open file (F_OFD_SETLK) and go with the process. Writing is not asked for, as nobody may open a
 * folder for that.
 *
 * Behind these bytes each lease has one of its own in the state folder. The lock of a lease's file is the file's: a file
 * that was put back from a copy has none, though its server lives.
 */
#include "folder_lock.h"

#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define BYTE_INGEST 0
#define BYTES_MAX   (INT64_C(1) << 62)
#define LIFE_DIGITS 15 /* of a lease's id: below BYTES_MAX */

/* What is said of a folder. */
struct words {
	const char *folder; /* which */
	const char *path;
	const char *other; /* of an ew-gateway that is there, and does not fit */
};

static int open_folder(const char *path, int *ret_fd, int64_t *ret_byte)
{
	struct stat is;

	*ret_fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (*ret_fd < 0 || fstat(*ret_fd, &is) < 0)
		return -errno;
	/* Whoever has the folder on two devices at once has two of them. */
	*ret_byte = 1 + (int64_t)((is.st_ino ^ is.st_dev * UINT64_C(0x9e3779b97f4a7c15)) %
				  (BYTES_MAX - 1));
	return 0;
}

/* A byte in [from, end) that somebody has, or -1. */
static int look(int fd, int64_t from, int64_t end, int64_t *ret_byte)
{
	struct flock range = { .l_type = F_WRLCK, .l_start = from, .l_len = end - from };

	if (end > from && fcntl(fd, F_OFD_GETLK, &range) < 0)
		return -errno;
	*ret_byte = end > from && range.l_type != F_UNLCK ? range.l_start : -1;
	return 0;
}

static int64_t byte_of_life(const char *id)
{
	char digits[LIFE_DIGITS + 1] = { 0 };

	memcpy(digits, id, LIFE_DIGITS);
	return BYTES_MAX + strtoll(digits, NULL, 16);
}

int folder_lock_live(int state_fd, const char *id)
{
	struct flock own = { .l_type = F_RDLCK, .l_start = byte_of_life(id), .l_len = 1 };

	return fcntl(state_fd, F_OFD_SETLK, &own) < 0 ? -errno : 0;
}

int folder_lock_lives(int state_fd, const char *id)
{
	int64_t byte = byte_of_life(id), found = -1;
	int r = look(state_fd, byte, byte + 1, &found);

	return r < 0 ? r : found >= 0;
}

static int take_byte(int fd, int64_t byte, int64_t *ret_other)
{
	struct flock own = { .l_type = F_RDLCK, .l_start = byte, .l_len = 1 };
	int r;

	if (fcntl(fd, F_OFD_SETLK, &own) < 0)
		return -errno;
	r = look(fd, 0, byte, ret_other);
	if (r == 0 && *ret_other < 0)
		r = look(fd, byte + 1, BYTES_MAX, ret_other);
	return r;
}

static int take(int fd, int64_t byte, const struct words *words, char *error, size_t error_bytes)
{
	int64_t other;
	int r;

	r = take_byte(fd, byte, &other);
	if (r < 0) {
		snprintf(error, error_bytes, "cannot lock the %s %s: %s", words->folder,
			 words->path, strerror(-r));
		return r;
	}
	if (other < 0)
		return 0;
	if (byte == BYTE_INGEST || other == BYTE_INGEST)
		snprintf(error, error_bytes,
			 "the %s %s is in use by %s, and %s needs one of its own", words->folder,
			 words->path, other == BYTE_INGEST ? "an ew-ingest" : "an ew-gateway",
			 byte == BYTE_INGEST ? "ew-ingest" : "ew-gateway");
	else
		snprintf(error, error_bytes,
			 "the %s %s is in use by an ew-gateway with another %s, perhaps under "
			 "another path: give it by the same one",
			 words->folder, words->path, words->other);
	return -EBUSY;
}

int folder_lock_take(struct folder_lock *lock, const char *bucket, const char *state,
		     bool is_leased, char *error, size_t error_bytes)
{
	const struct words of_bucket = { "bucket", bucket, "state folder" },
			   of_state = { "state folder", state, "bucket" };
	int64_t bucket_byte, state_byte;
	int r;

	r = open_folder(bucket, &lock->bucket_fd, &bucket_byte);
	if (r == 0)
		r = open_folder(state, &lock->state_fd, &state_byte);
	if (r < 0) {
		snprintf(error, error_bytes, "cannot open %s: %s",
			 lock->state_fd < 0 && lock->bucket_fd >= 0 ? state : bucket, strerror(-r));
		return r;
	}
	r = take(lock->bucket_fd, is_leased ? state_byte : BYTE_INGEST, &of_bucket, error,
		 error_bytes);
	if (r == 0)
		r = take(lock->state_fd, is_leased ? bucket_byte : BYTE_INGEST, &of_state, error,
			 error_bytes);
	return r;
}

/* Whoever comes after the look, and does not fit, meets our own lock. */
void folder_lock_remove(int fd, const char *path)
{
	int look_fd = fd < 0 ? open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC) : fd;
	int64_t other = -1;

	if (look_fd >= 0 && look(look_fd, 0, BYTES_MAX, &other) == 0 && other < 0)
		rmdir(path);
	if (look_fd != fd)
		close(look_fd);
}

void folder_lock_release(struct folder_lock *lock)
{
	if (lock->bucket_fd >= 0)
		close(lock->bucket_fd);
	if (lock->state_fd >= 0)
		close(lock->state_fd);
	*lock = FOLDER_LOCK_NONE;
}
