/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * A lease: what makes a staging name somebody's. One file a server in the state folder, locked as
 * long as the server lives.
 */

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define LEASE_ID_BYTES 16
#define LEASE_ID_TEXT  (2 * LEASE_ID_BYTES + 1) /* hex digits and NUL */
#define LEASE_DEAD_MAX 16 /* swept together; each takes a descriptor meanwhile */

/* A lease whose owner is gone. We hold its lock, so nobody else sweeps it. */
struct lease_dead {
	int fd;
	int error; /* of the first of its names that could not be removed, or 0 */
	char id[LEASE_ID_TEXT];
};

struct lease {
	int state_fd; /* borrowed */
	bool is_leased;
	int folder_fd; /* of the lease files */
	int fd;	       /* of our own, locked */
	char id[LEASE_ID_TEXT];
	_Atomic int64_t names;	       /* that may exist under it; raised before each is made */
	char (*others)[LEASE_ID_TEXT]; /* that were there when ours was made */
	size_t others_count;
	size_t asked_count; /* of these, for their locks */
	struct lease_dead dead[LEASE_DEAD_MAX];
	size_t dead_count;
	size_t doubtful_count; /* that could be neither opened nor asked for their locks */
	int doubtful_error;    /* of the first */
};

#define LEASE_NONE ((struct lease){ .state_fd = -1, .folder_fd = -1, .fd = -1 })

/* The name in the bucket of the file that a start publishes as a test; no other file's begins so. */
#define LEASE_PROBE_BYTES (24 + LEASE_ID_TEXT)
void lease_probe_name(const char *id, char *ret_name);

/**
 * lease_take() - make a lease, and note which others there are
 * @state_fd: of the folder that the servers share, as folder_lock_take() has locked it; borrowed until the release
 * @state:  its path, for @error
 * @bucket: absolute path, kept in the lease for whoever removes a test file
 * @is_leased: names in the bucket are under the lease, too: only who says so here buries it
 * @error:  receives one sentence when it fails
 *
 * Blocks, at most ten seconds for another server that is in here: not for a worker.
 * Return: 0 or -errno; lease_release() is due in both cases.
 */
int lease_take(struct lease *lease, int state_fd, const char *state, const char *bucket,
	       bool is_leased, char *error, size_t error_bytes);

/**
 * lease_take_over() - of the others, the next up to LEASE_DEAD_MAX whose servers are gone
 *
 * They are in @lease->dead; lease_bury() or lease_let_go() is due for all before the next call. None: there are no more.
 * Blocks.
 */
void lease_take_over(struct lease *lease);

/* Their locks are free again, and the next start may take them over. Blocks. */
void lease_let_go(struct lease *lease);

/* Lets go of all; our own file stays for the next start to sweep if a name may be left. Blocks. */
void lease_release(struct lease *lease);

/**
 * lease_bury() - remove a dead lease none of whose staging names is left, and its test file from its bucket
 * @error: receives why it stays, when it fails
 *
 * Blocks.
 * Return: 0 or -errno, also if its bucket cannot be opened: the file may be there.
 */
int lease_bury(struct lease *lease, struct lease_dead *dead, char *error, size_t error_bytes);
