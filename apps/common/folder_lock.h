/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* What keeps servers that do not fit together out of one folder, by whatever paths they reach it; and who lives there. */

#include <stdbool.h>
#include <stddef.h>

/* On a bucket and its state folder, from start to end. */
struct folder_lock {
	int bucket_fd;
	int state_fd;
};

#define FOLDER_LOCK_NONE ((struct folder_lock){ .bucket_fd = -1, .state_fd = -1 })

/**
 * folder_lock_take() - keep a bucket and its state folder, which exist, from servers of another kind
 * @lock:      FOLDER_LOCK_NONE
 * @is_leased: what the server has in the bucket ends with it: then all servers there have this state folder, and all that
 *             have this state folder have this bucket
 * @error:     receives one sentence when it fails
 *
 * Return: 0; -EBUSY another one is there, or -errno. folder_lock_release() is due in all cases.
 */
int folder_lock_take(struct folder_lock *lock, const char *bucket, const char *state,
		     bool is_leased, char *error, size_t error_bytes);
void folder_lock_release(struct folder_lock *lock);

/*
 * A server of this lease lives, as long as this descriptor of its state folder is open: whatever becomes of the lease's
 * file. @id: hex digits. Return: 0 or -errno.
 */
int folder_lock_live(int state_fd, const char *id);

/* Whether one does, seen by another descriptor. 0, 1 or -errno. */
int folder_lock_lives(int state_fd, const char *id);

/* Removes the folder of a start that failed, if it is empty and nobody else has come into it. @fd: of the lock, or -1. */
void folder_lock_remove(int fd, const char *path);
