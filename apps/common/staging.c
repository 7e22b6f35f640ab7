/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A name is counted on the lease before it is made, and struck off when its file's end, or an
 * unlink of ours, says that it is gone. What lies between is known to the lease (lease.c).
 *
 * A slot stands for bytes and a name. If the end of a named file fails, nobody has proved that they
 * are gone, so the slot is not free: it is presumed, and goes with the name to a task that tries to
 * remove it once a second for as long as the server runs. The one failure that does not keep the
 * slot is a name that leads to somebody else's file: ours is gone then, with its space.
 */
#include "staging.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#include <endwell/clock.h>
#include <endwell/task.h>

#include "hex.h"
#include "log.h"
#include "probe.h"

#define RECLAIM_INTERVAL EW_SECOND
#define STUCK_MAX	 16
#define SETTLE_BUDGET	 (5 * EW_SECOND)

static_assert(STAGING_FOLDERS <= 64, "each has a bit");

struct folders {
	int state_fd;
};

static int make_folders(void *argument)
{
	const struct folders *folders = argument;
	char path[16];

	if (mkdirat(folders->state_fd, "staging", 0700) < 0 && errno != EEXIST)
		return -errno;
	for (unsigned int i = 0; i < STAGING_FOLDERS; i++) {
		snprintf(path, sizeof(path), "staging/%02x", i);
		if (mkdirat(folders->state_fd, path, 0700) < 0 && errno != EEXIST)
			return -errno;
	}
	return 0;
}

static int prepare_names(struct staging *staging)
{
	struct folders folders = { ew_file_fd(staging->folder) };
	int result, r;

	r = ew_file_offload(staging->folder, make_folders, &folders, &result);
	if (r == 0)
		r = result;
	if (r < 0)
		return r;
	return ew_file_open(staging->folder, "staging", O_RDONLY | O_DIRECTORY | O_NOFOLLOW, 0,
			    &staging->names);
}

/* The best first. Each is tried whole; what only the filesystem's lack explains leads to the next. */
static int choose(struct staging *staging, struct ew_file *bucket, mode_t mode,
		  struct probe_results *results)
{
	int r;

	staging->kind = STAGING_NAMELESS;
	r = results->nameless = probe_publish(staging, bucket, mode);
	if (r == 0 || !probe_lacks(r))
		return r;
	r = prepare_names(staging);
	if (r < 0)
		return r;
	staging->kind = STAGING_LINKED;
	r = results->linked = probe_publish(staging, bucket, mode);
	if (r == 0 || !probe_lacks(r))
		return r;
	staging->kind = STAGING_RENAMED;
	r = results->renamed = probe_publish(staging, bucket, mode);
	return r;
}

int staging_open(struct staging *staging, const char *state, struct ew_file *bucket, mode_t mode,
		 char *error, size_t error_bytes)
{
	struct probe_results results = { 0 };
	int r;

	r = ew_file_open(NULL, state, O_RDONLY | O_DIRECTORY, 0, &staging->folder);
	if (r < 0) {
		snprintf(error, error_bytes, "cannot open the state folder %s: %s", state,
			 strerror(-r));
		return r;
	}
	r = choose(staging, bucket, mode, &results);
	if (r < 0) {
		probe_explain(&results, r, state, error, error_bytes);
		return r;
	}
	log_note("info", "staging", "%s", staging_describe(staging));
	/* Of an earlier kernel, that had no nameless files here: for the sweep. */
	if (!staging->names)
		r = ew_file_open(staging->folder, "staging", O_RDONLY | O_DIRECTORY | O_NOFOLLOW, 0,
				 &staging->names);
	if (r == -ENOENT)
		return 0;
	if (r < 0)
		snprintf(error, error_bytes, "cannot open the folder staging in %s: %s", state,
			 strerror(-r));
	return r;
}

const char *staging_describe(const struct staging *staging)
{
	static const char *const kinds[] = {
		[STAGING_NAMELESS] = "nameless files, published by a link",
		[STAGING_LINKED] = "names under a lease (the filesystem has no nameless files), "
				   "published by a link",
		[STAGING_RENAMED] = "names under a lease (the filesystem has no nameless files), "
				    "published by a rename (nor hard links)",
	};

	return kinds[staging->kind];
}

static int name_anew(struct staging *staging, struct staged *staged)
{
	uint8_t random[LEASE_ID_BYTES];
	char text[LEASE_ID_TEXT];
	unsigned int folder;

	if (getrandom(random, sizeof(random), 0) != sizeof(random))
		return -EIO;
	folder = random[0] % STAGING_FOLDERS;
	atomic_fetch_or(&staging->used, UINT64_C(1) << folder);
	hex_print(random, sizeof(random), text);
	snprintf(staged->name, sizeof(staged->name), "%02x/%s-%s", folder, staging->lease.id, text);
	return 0;
}

/* Whether an error of the open says for certain that no name was made. */
static bool is_certain(int r)
{
	switch (r) {
	case -ECANCELED:
	case -ENOMEM:
	case -EMFILE:
	case -ENFILE:
	case -EEXIST:
	case -ENOENT:
	case -EACCES:
	case -EROFS:
	case -ENOSPC:
	case -EDQUOT: return true;
	default: return false;
	}
}

static void strike_off(struct staging *staging, struct staged *staged)
{
	if (staged->stuck)
		atomic_fetch_sub(&staging->stuck, 1);
	atomic_fetch_sub(&staging->lease.names, 1);
	free(staged);
}

/* Those that have a slot are as many as there are slots. */
static void note_stuck(struct staging *staging, struct staged *staged)
{
	if (staged->holds || staged->stuck)
		return;
	staged->stuck = true;
	atomic_fetch_add(&staging->stuck, 1);
}

static int make_named(struct staging *staging, struct ew_tempfile **ret_file,
		      struct staged **ret_staged)
{
	struct staged *staged;
	int r;

	staged = calloc(1, sizeof(*staged));
	if (!staged)
		return -ENOMEM;
	r = name_anew(staging, staged);
	if (r < 0) {
		free(staged);
		return r;
	}
	staged->folder = staging->names;
	staged->doubtful = true;
	atomic_fetch_add(&staging->lease.names, 1);
	*ret_staged = staged;
	r = ew_tempfile_open_named(staging->names, staged->name, ret_file);
	staged->doubtful = r < 0;
	if (r < 0 && is_certain(r)) {
		*ret_staged = NULL;
		strike_off(staging, staged);
	}
	return r;
}

int staging_make(struct staging *staging, struct ew_tempfile **ret_file, struct staged **ret_staged)
{
	*ret_staged = NULL;
	if (atomic_load(&staging->stuck) >= STUCK_MAX)
		return -EIO;
	if (staging->kind == STAGING_NAMELESS)
		return ew_tempfile_open(staging->folder, ret_file);
	return make_named(staging, ret_file, ret_staged);
}

int staging_publish(struct staging *staging, struct ew_tempfile *file, struct ew_file *bucket,
		    const char *name)
{
	if (staging->kind == STAGING_RENAMED)
		return ew_tempfile_publish_by_rename(file, bucket, name);
	return ew_tempfile_publish(file, bucket, name);
}

static void put_left(struct staging *staging, struct staged *staged)
{
	pthread_mutex_lock(&staging->lock);
	staged->next = staging->left;
	staging->left = staged;
	pthread_mutex_unlock(&staging->lock);
}

static struct staged *take_left(struct staging *staging)
{
	struct staged *staged;

	pthread_mutex_lock(&staging->lock);
	staged = staging->left;
	staging->left = NULL;
	pthread_mutex_unlock(&staging->lock);
	return staged;
}

bool staging_settle(struct staging *staging, struct staged **staged, int ending,
		    struct ew_permit **permit)
{
	struct staged *name = *staged;

	*staged = NULL;
	if (!name)
		return false;
	if (!name->doubtful && (ending == 0 || ending == -ESTALE)) {
		strike_off(staging, name);
		return false;
	}
	if (permit) {
		name->holds = true;
		ew_permit_presume(permit);
	}
	if (ending < 0 && ending != -ECANCELED)
		note_stuck(staging, name);
	put_left(staging, name);
	ew_event_set(&staging->left_work);
	return permit != NULL;
}

int staging_lease_name(struct staging *staging, const char *id, struct staged **ret_staged)
{
	struct staged *staged = calloc(1, sizeof(*staged));

	if (!staged)
		return -ENOMEM;
	snprintf(staged->name, sizeof(staged->name), "%s-%s", staging->lease.id, id);
	staged->folder = staging->leased;
	atomic_fetch_add(&staging->lease.names, 1);
	*ret_staged = staged;
	return 0;
}

int staging_remove(struct staging *staging, struct staged **staged)
{
	int r;

	if (!*staged)
		return 0;
	r = ew_file_unlink((*staged)->folder, (*staged)->name, 0);
	if (r == -ECANCELED)
		return r;
	if (r < 0 && r != -ENOENT) {
		note_stuck(staging, *staged);
		staging_leave(staging, staged);
		return r;
	}
	strike_off(staging, *staged);
	*staged = NULL;
	return 0;
}

void staging_leave(struct staging *staging, struct staged **staged)
{
	if (!*staged)
		return;
	put_left(staging, *staged);
	*staged = NULL;
	ew_event_set(&staging->left_work);
}

/* The name is gone, and the slot free. */
static void reclaimed(struct staging *staging, struct staged *staged)
{
	log_note("info", "reclaimed", "%s", staged->name);
	if (staged->holds)
		ew_semaphore_reclaim(staging->slots, 1);
	strike_off(staging, staged);
}

/* Those whose removal has not been tried yet. */
struct reclaiming {
	struct staging *staging;
	struct staged *rest;
};

static void put_back(void *argument)
{
	struct reclaiming *reclaiming = argument;
	struct staged *staged;

	while ((staged = reclaiming->rest)) {
		reclaiming->rest = staged->next;
		put_left(reclaiming->staging, staged);
	}
}

static int put_back_close(void *reclaiming)
{
	put_back(reclaiming);
	return 0;
}

int staging_reclaim(struct staging *staging, bool *ret_again)
{
	struct reclaiming reclaiming = { staging, take_left(staging) };
	struct staged *staged;
	int r;

	EW_GUARD(back, &reclaiming, .close = put_back_close, .abort = put_back);

	*ret_again = false;
	while ((staged = reclaiming.rest)) {
		r = ew_file_unlink(staged->folder, staged->name, 0);
		if (r == -ECANCELED) {
			*ret_again = true;
			return r;
		}
		reclaiming.rest = staged->next;
		if (r == 0 || r == -ENOENT) {
			reclaimed(staging, staged);
		} else {
			note_stuck(staging, staged);
			put_left(staging, staged);
			*ret_again = true;
		}
	}
	return 0;
}

int staging_reclaim_loop(void *argument)
{
	struct staging *staging = argument;
	bool again;
	int r = 0;

	while (r == 0) {
		r = ew_event_wait(&staging->left_work, EW_NEVER);
		if (r < 0)
			break;
		ew_event_reset(&staging->left_work);
		r = staging_reclaim(staging, &again);
		if (r == 0 && again) {
			r = ew_sleep(RECLAIM_INTERVAL);
			ew_event_set(&staging->left_work);
		}
	}
	return r;
}

static int sync_folder(struct staging *staging, unsigned int number)
{
	EW_OWN(ew_file, folder);
	char path[8];
	int r;

	snprintf(path, sizeof(path), "%02x", number);
	r = ew_file_open(staging->names, path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW, 0, &folder);
	if (r == 0)
		r = ew_file_sync(folder, false);
	return r < 0 ? r : ew_file_close(&folder);
}

/* Or a power cut could bring back a name whose lease is gone. If it cannot be done the lease stays. */
static void make_removals_durable(struct staging *staging)
{
	uint64_t used = atomic_load(&staging->used);
	int r = 0;

	EW_SHIELD(shield, .budget_ns = SETTLE_BUDGET);

	for (unsigned int i = 0; r == 0 && i < STAGING_FOLDERS; i++)
		if (used >> i & 1)
			r = sync_folder(staging, i);
	if (r == 0 && staging->leased)
		r = ew_file_sync(staging->leased, false);
	if (r == 0)
		return;
	log_note("warn", "left-for-the-next-start",
		 "the lease: a removed staging name may be back after a power cut, its folder "
		 "cannot be synced: %s",
		 strerror(-r));
	atomic_fetch_add(&staging->lease.names, 1);
}

/* Their names stay on the books, so the lease stays, and the next start sweeps. */
static void leave_left(struct staging *staging)
{
	struct staged *staged = take_left(staging), *next;

	for (; staged; staged = next) {
		next = staged->next;
		log_note("warn", "left-for-the-next-start", "%s", staged->name);
		free(staged);
	}
}

int staging_close(struct staging *staging)
{
	int r, first;

	leave_left(staging);
	if (atomic_load(&staging->lease.names) == 0)
		make_removals_durable(staging);
	first = ew_file_close(&staging->names);
	r = ew_file_close(&staging->folder);
	return first < 0 ? first : r;
}

/* Nothing was synced: a name could come back. */
void staging_abort(struct staging *staging)
{
	leave_left(staging);
	if (atomic_load(&staging->used) || staging->leased)
		atomic_fetch_add(&staging->lease.names, 1);
	ew_abort(&staging->names);
	ew_abort(&staging->folder);
}
