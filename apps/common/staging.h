/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * Where a file's bytes are before they have a name in the bucket: nameless if the filesystem has
 * such files, else under names of a lease.
 */

#include <pthread.h>
#include <stdbool.h>

#include <endwell/event.h>
#include <endwell/file.h>
#include <endwell/semaphore.h>
#include <endwell/tempfile.h>

#include "lease.h"

#define STAGING_FOLDERS	   64 /* an unlink locks its folder, and slow filesystems then wait in line */
#define STAGING_NAME_BYTES (3 + 2 * LEASE_ID_TEXT) /* XX/ID-RANDOM */

enum staging_kind {
	STAGING_NAMELESS, /* published by a link */
	STAGING_LINKED,	  /* named, published by a link */
	STAGING_RENAMED,  /* named, published by a rename that does not overwrite */
};

/* A staging name that exists or may exist, and what it keeps from being free. */
struct staged {
	struct staged *next;
	struct ew_file *folder; /* where it is */
	bool holds;		/* a slot, which is presumed until it is gone */
	bool doubtful;		/* whatever its file's end says: how its open went is not known */
	bool stuck;		/* its removal was tried and failed, and no slot is held for it */
	char name[STAGING_NAME_BYTES];
};

struct staging {
	struct ew_semaphore *slots; /* whose permits come with files; NULL: none do */
	struct lease lease;
	enum staging_kind kind;
	struct ew_file *folder; /* the state folder */
	struct ew_file *names;	/* its part for names; NULL: there is none */
	struct ew_file
		*leased; /* a folder with names that end with their server; NULL: there is none */
	_Atomic uint64_t used;	/* a bit for each folder of names in which we have made any */
	_Atomic uint64_t swept; /* names of servers that are gone, removed by the sweep */

	pthread_mutex_t lock;
	struct staged *left; /* names that could not be removed when their files ended */
	struct ew_event left_work;
	_Atomic unsigned int stuck; /* of these; too many of them stop new files */
};

/**
 * staging_open() - open the folders, and choose by trying
 * @staging: its lease is taken
 * @state:   the state folder
 * @bucket:  where a test file is published and removed again
 * @mode:    of published files
 *
 * Return: 0, or -errno with a sentence in @error; staging_close() is due in both cases.
 */
EW_SUSPENDS int staging_open(struct staging *staging, const char *state, struct ew_file *bucket,
			     mode_t mode, char *error, size_t error_bytes);
EW_SUSPENDS int staging_close(struct staging *staging);

/* The other ending: the lease stays, if there was a name, for the next start. */
void staging_abort(struct staging *staging);

/* One line for the start block. */
const char *staging_describe(const struct staging *staging);

/**
 * staging_make() - a new file
 * @ret_staged: its name, also after an error if it may exist; NULL: it has none
 *
 * When the file has ended, staging_settle() is due for the name.
 * Errors: those of ew_tempfile_open() and ew_tempfile_open_named(); -EIO also while too many names cannot be removed.
 */
EW_SUSPENDS int staging_make(struct staging *staging, struct ew_tempfile **ret_file,
			     struct staged **ret_staged);

/* Gives the sealed file its name in the bucket, in the way that this filesystem has. */
EW_SUSPENDS int staging_publish(struct staging *staging, struct ew_tempfile *file,
				struct ew_file *bucket, const char *name);

/**
 * staging_settle() - the file has ended: is everything free that it stood for?
 * @staged: its name or NULL; taken
 * @ending: how its end went, 0 or -errno
 * @permit: of its upload slot, or NULL; taken with the slot when the name may be left
 *
 * What is left is tried again by staging_reclaim_loop(), and the slot is presumed until it is gone.
 * Return: whether the slot was taken.
 */
bool staging_settle(struct staging *staging, struct staged **staged, int ending,
		    struct ew_permit **permit);

/*
 * A name LEASE-ID in the folder that is leased, on the lease's books before it is made; @id is text of LEASE_ID_TEXT - 1
 * characters. staging_remove() or staging_leave() is due, whether it was made or not. -ENOMEM
 */
int staging_lease_name(struct staging *staging, const char *id, struct staged **ret_staged);

/**
 * staging_remove() - the end of such a name
 * @staged: the name or NULL; taken, but for -ECANCELED
 *
 * Errors: -ECANCELED it is still there; others: it is left to staging_reclaim_loop().
 */
EW_SUSPENDS int staging_remove(struct staging *staging, struct staged **staged);

/* The same without waiting: leaves it to staging_reclaim_loop(). */
void staging_leave(struct staging *staging, struct staged **staged);

/**
 * staging_reclaim() - try to remove each name that is left, once
 * @ret_again: some are still there
 *
 * Return: 0 or -ECANCELED
 */
EW_SUSPENDS int staging_reclaim(struct staging *staging, bool *ret_again);

/* The task that does so as often as needed; runs until it is cancelled. */
int staging_reclaim_loop(void *staging);
