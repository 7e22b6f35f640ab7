/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A file is staged in the state folder, without a name where the filesystem can (staging.c), and
 * gets its name by one linkat(2), or a rename that does not overwrite, after its bytes are durable.
 *
 * The commit point is the submission of that link. Just before it its owner is asked: whoever has
 * cancelled before has won, and the link is never submitted; whoever cancels after is late, and the
 * shield lets link and sync go on to the end.
 *
 * A name is durable when its directory has been synced after the link. One sync covers all links
 * that were finished before it began, so links gather in a batch while a sync runs, and the next
 * sync takes the whole batch. A batch is shared by its members and the syncing task, and freed by
 * the last of them: a member that is forced to leave early leaves nothing behind that somebody else
 * would write to.
 *
 * A sync that failed is never tried again, because the kernel may have marked the pages clean.
 * After a failed sync of the directory nobody knows what the volume holds, so it takes no more
 * files, and no later sync is made for names that are there already: it would go well, and prove
 * nothing.
 */
#include "bucket.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <libgen.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <endwell/outcome.h>
#include <endwell/scope.h>
#include <endwell/task.h>

#include "hook.h"
#include "log.h"
#include "sweep.h"

/* From the commit point to a durable name. Disks that need longer are broken. */
#define PUBLISH_BUDGET (120 * EW_SECOND)

struct sync_batch {
	_Atomic int holders;
	struct ew_event done;
	int result;
	unsigned int links;
};

static int say(char *error, size_t error_bytes, int r, const char *what, const char *path)
{
	snprintf(error, error_bytes, "%s %s: %s", what, path, strerror(-r));
	return r;
}

/* Both as realpath(3) gives them: only the root ends with a slash. */
static bool is_inside(const char *path, const char *folder)
{
	size_t bytes = folder[1] ? strlen(folder) : 0;

	return strncmp(path, folder, bytes) == 0 && (path[bytes] == '/' || path[bytes] == '\0');
}

static int sync_parent(const char *path)
{
	char *copy = strdup(path);
	int fd, r = 0;

	if (!copy)
		return -ENOMEM;
	fd = open(dirname(copy), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	free(copy);
	if (fd < 0 || fsync(fd) < 0)
		r = -errno;
	if (fd >= 0)
		close(fd);
	return r;
}

/* Of a folder that cannot be opened, or synced, by us or by anybody: nor have we made anything there. */
static bool is_not_ours(int r)
{
	return r == -EACCES || r == -EPERM || r == -EINVAL || r == -EROFS;
}

/*
 * Makes a folder unless it is there; its parents must be. What is published in it is as durable as its own name, which
 * is synced also if it is there: an earlier start may have made it and not come to that.
 */
static int make_folder(const char *path, mode_t mode, bool *ret_made, char *error,
		       size_t error_bytes)
{
	int r;

	*ret_made = mkdir(path, mode) == 0;
	if (!*ret_made && errno != EEXIST)
		return say(error, error_bytes, -errno, "cannot make the folder", path);
	r = sync_parent(path);
	if (r < 0 && (*ret_made || !is_not_ours(r)))
		return say(error, error_bytes, r, "cannot sync the folder above", path);
	return 0;
}

/* The first entry of the folder that no server makes there, or an empty text. */
static int find_foreign(const char *state, char *ret_name, size_t name_bytes)
{
	static const char *const own[] = { ".", "..", "lock", "leases", "staging" };
	DIR *folder = opendir(state);
	const struct dirent *entry;
	size_t i;

	if (!folder)
		return -errno;
	*ret_name = '\0';
	while (*ret_name == '\0' && (entry = readdir(folder))) {
		for (i = 0; i < sizeof(own) / sizeof(own[0]); i++)
			if (strcmp(entry->d_name, own[i]) == 0)
				break;
		if (i == sizeof(own) / sizeof(own[0]))
			snprintf(ret_name, name_bytes, "%s", entry->d_name);
	}
	closedir(folder);
	return 0;
}

/* But not what belongs to somebody else: a --state /tmp must not shut everybody out of it. */
static int make_private(const char *state, char *error, size_t error_bytes)
{
	char foreign[NAME_MAX + 1] = "";
	struct stat is;
	int r;

	if (stat(state, &is) < 0)
		return say(error, error_bytes, -errno, "cannot look at the state folder", state);
	if ((is.st_mode & 077) == 0)
		return 0;
	r = find_foreign(state, foreign, sizeof(foreign));
	if (r < 0)
		return say(error, error_bytes, r, "cannot read the state folder", state);
	if (*foreign) {
		snprintf(
			error, error_bytes,
			"the state folder %s is open to other users and holds something else (%s): "
			"give the server a folder of its own with --state, or make this one private "
			"(chmod 700)",
			state, foreign);
		return -EEXIST;
	}
	if (chmod(state, 0700) < 0)
		return say(error, error_bytes, -errno, "cannot make private the state folder",
			   state);
	return 0;
}

static int take_lease(struct bucket *bucket, const char *path, const char *state, char *error,
		      size_t error_bytes)
{
	char *real = realpath(path, NULL);
	int r;

	if (!real)
		return say(error, error_bytes, -errno, "cannot resolve", path);
	r = lease_take(&bucket->staging.lease, bucket->folder_lock.state_fd, state, real,
		       bucket->is_leased, error, error_bytes);
	free(real);
	return r;
}

static int check_apart(const char *path, const char *state, char *error, size_t error_bytes)
{
	char *bucket_real = realpath(path, NULL), *state_real = realpath(state, NULL);
	int r = 0;

	if (!bucket_real || !state_real)
		r = say(error, error_bytes, -errno, "cannot resolve", bucket_real ? state : path);
	else if (is_inside(state_real, bucket_real) || is_inside(bucket_real, state_real)) {
		snprintf(error, error_bytes,
			 "the bucket %s and the state folder %s must not contain each other", path,
			 state);
		r = -EINVAL;
	}
	free(bucket_real);
	free(state_real);
	return r;
}

void bucket_init(struct bucket *bucket)
{
	*bucket = (struct bucket){ .folder_lock = FOLDER_LOCK_NONE, .staging.lease = LEASE_NONE };
	pthread_mutex_init(&bucket->sync_lock, NULL);
	pthread_mutex_init(&bucket->staging.lock, NULL);
}

int bucket_prepare(struct bucket *bucket, const char *path, const char *state, char *error,
		   size_t error_bytes)
{
	bool bucket_made = false, state_made = false;
	int r;

	r = make_folder(path, 0755, &bucket_made, error, error_bytes);
	if (r == 0)
		r = make_folder(state, 0700, &state_made, error, error_bytes);
	if (r == 0)
		r = check_apart(path, state, error, error_bytes);
	if (r == 0)
		r = folder_lock_take(&bucket->folder_lock, path, state, bucket->is_leased, error,
				     error_bytes);
	if (r == 0)
		r = make_private(state, error, error_bytes);
	if (r == 0)
		r = take_lease(bucket, path, state, error, error_bytes);
	/* Nothing but published files is ever found in a bucket. */
	if (r < 0 && state_made)
		folder_lock_remove(bucket->folder_lock.state_fd, state);
	if (r < 0 && bucket_made)
		folder_lock_remove(bucket->folder_lock.bucket_fd, path);
	return r;
}

static void batch_let_go(struct sync_batch *batch)
{
	if (batch && atomic_fetch_sub(&batch->holders, 1) == 1)
		free(batch);
}

void bucket_release(struct bucket *bucket)
{
	lease_release(&bucket->staging.lease);
	folder_lock_release(&bucket->folder_lock);
	batch_let_go(bucket->sync_open); /* joined when the syncing task had been cancelled */
	pthread_mutex_destroy(&bucket->staging.lock);
	pthread_mutex_destroy(&bucket->sync_lock);
}

static bool was_removed(struct ew_file *folder)
{
	struct stat state;

	return folder && ew_file_stat(folder, &state) == 0 && state.st_nlink == 0;
}

/* Whoever takes a folder away meanwhile is told so, and not what cannot be done without it. */
static void explain_removal(const struct bucket *bucket, const char *path, const char *state,
			    char *error, size_t error_bytes)
{
	if (was_removed(bucket->directory))
		snprintf(error, error_bytes, "the bucket %s was removed during the start", path);
	else if (was_removed(bucket->staging.folder))
		snprintf(error, error_bytes, "the state folder %s was removed during the start",
			 state);
}

int bucket_open(struct bucket *bucket, const char *path, const char *state, mode_t mode,
		struct ew_semaphore *slots, char *error, size_t error_bytes)
{
	int r;

	bucket->mode = mode;

	r = ew_file_open(NULL, path, O_RDONLY | O_DIRECTORY, 0, &bucket->directory);
	if (r < 0)
		return say(error, error_bytes, r, "cannot open the bucket", path);
	bucket->staging.slots = slots;
	bucket->staging.leased = bucket->is_leased ? bucket->directory : NULL;
	r = staging_open(&bucket->staging, state, bucket->directory, mode, error, error_bytes);
	if (r < 0) {
		explain_removal(bucket, path, state, error, error_bytes);
		return r;
	}

	atomic_store(&bucket->counts.ready, true);
	return 0;
}

int bucket_close(struct bucket *bucket)
{
	int r, first = 0;

	r = staging_close(&bucket->staging);
	if (r < 0)
		first = r;
	r = ew_file_close(&bucket->directory);
	return first < 0 ? first : r;
}

void bucket_abort(struct bucket *bucket)
{
	staging_abort(&bucket->staging);
	ew_abort(&bucket->directory);
}

int bucket_end(struct ew_guard *guard)
{
	int r = ew_guard_run(guard);

	return r == -ECANCELED ? 0 : r;
}

struct look {
	int directory;
	int staging;
	const char *name; /* NULL: only the disk */
	struct statvfs disk;
};

/* A folder can be removed while it is open; then nothing can get a name in it any more. */
static bool is_removed(int folder)
{
	struct stat state;

	return fstat(folder, &state) == 0 && state.st_nlink == 0;
}

/* On a thread, because network filesystems block in these calls. */
static int look_at_disk(void *argument)
{
	struct look *look = argument;

	if (is_removed(look->directory) || is_removed(look->staging))
		return -ENOENT;
	if (look->name) {
		if (faccessat(look->directory, look->name, F_OK, AT_SYMLINK_NOFOLLOW) == 0)
			return -EEXIST;
		if (errno != ENOENT)
			return -errno;
	}
	return fstatvfs(look->staging, &look->disk) < 0 ? -errno : 0;
}

static int look(struct bucket *bucket, const char *name)
{
	struct look seen = {
		.directory = ew_file_fd(bucket->directory),
		.staging = ew_file_fd(bucket->staging.folder),
		.name = name,
	};
	uint64_t available, floor;
	int r, result;

	r = ew_file_offload(bucket->staging.folder, look_at_disk, &seen, &result);
	if (r < 0)
		return r;
	if (result < 0)
		return result;

	available = (uint64_t)seen.disk.f_bavail * seen.disk.f_frsize;
	floor = (uint64_t)seen.disk.f_blocks * seen.disk.f_frsize / 100 * BUCKET_DISK_FLOOR_PERCENT;
	if (available < floor + atomic_load(&bucket->counts.reserved_bytes))
		return -ENOSPC;
	return 0;
}

int bucket_check(struct bucket *bucket, const char *name)
{
	return atomic_load(&bucket->suspect) ? -EIO : look(bucket, name);
}

void bucket_reserve(struct bucket *bucket, uint64_t bytes)
{
	atomic_fetch_add(&bucket->counts.reserved_bytes, bytes);
}

void bucket_unreserve(struct bucket *bucket, uint64_t bytes)
{
	atomic_fetch_sub(&bucket->counts.reserved_bytes, bytes);
}

int bucket_floor(struct bucket *bucket)
{
	return look(bucket, NULL);
}

/* Joins the batch of the next sync; @spare becomes it if there is none, else it is freed. */
static struct sync_batch *batch_join(struct bucket *bucket, struct sync_batch *spare)
{
	struct sync_batch *batch;

	pthread_mutex_lock(&bucket->sync_lock);
	batch = bucket->sync_open;
	if (!batch) {
		batch = bucket->sync_open = spare;
		atomic_init(&batch->holders, 1); /* the syncing task's */
		spare = NULL;
	}
	atomic_fetch_add(&batch->holders, 1);
	batch->links++;
	pthread_mutex_unlock(&bucket->sync_lock);

	free(spare);
	ew_event_set(&bucket->sync_work);
	return batch;
}

static struct sync_batch *batch_take(struct bucket *bucket)
{
	struct sync_batch *batch;

	pthread_mutex_lock(&bucket->sync_lock);
	batch = bucket->sync_open;
	bucket->sync_open = NULL;
	pthread_mutex_unlock(&bucket->sync_lock);
	return batch;
}

static void batch_end(struct bucket *bucket, struct sync_batch *batch, int result)
{
	if (result < 0) {
		atomic_store(&bucket->suspect, true);
		atomic_store(&bucket->counts.ready, false);
		log_note("error", "volume-suspect",
			 "syncing the bucket's folder failed: %s; %u names may not survive a "
			 "power cut; no more files are taken until the server is started again",
			 strerror(-result), batch->links);
	} else {
		atomic_fetch_add(&bucket->counts.syncs, 1);
		atomic_fetch_add(&bucket->counts.synced_links, batch->links);
	}
	batch->result = result;
	ew_event_set(&batch->done);
	batch_let_go(batch);
}

/*
 * An xfs that was shut down, by itself after an error or by hand, syncs its folders with success:
 * nothing is left to be written, because it was thrown away (xfs_dir_fsync() in 6.18). All it does
 * for stat(2) is to fail, so a volume that still answers that afterwards has not lied.
 */
static int sync_directory(struct bucket *bucket)
{
	struct stat state;
	int r;

	EW_SHIELD(shield, .budget_ns = PUBLISH_BUDGET);

	if (hook_bug("no-directory-sync"))
		return 0;
	if (atomic_load(&bucket->suspect))
		return -EIO;
	r = ew_file_sync(bucket->directory, false);
	return r < 0 ? r : ew_file_stat(bucket->directory, &state);
}

struct syncing {
	struct bucket *bucket;
	struct sync_batch *batch;
};

/* By a panic of the task that syncs: nobody knows whether it has been done. */
static void lose_sync(void *argument)
{
	struct syncing *syncing = argument;

	batch_end(syncing->bucket, syncing->batch, -EIO);
}

static int lose_sync_close(void *syncing)
{
	lose_sync(syncing);
	return 0;
}

static void sync_batch(struct bucket *bucket, struct sync_batch *batch)
{
	struct syncing syncing = { bucket, batch };
	int r;

	EW_GUARD(lost, &syncing, .close = lose_sync_close, .abort = lose_sync);

	r = sync_directory(bucket);
	ew_guard_disarm(&lost);
	batch_end(bucket, batch, r);
}

/* Runs until it is cancelled; one sync for all links that are finished. */
static int sync_loop(void *argument)
{
	struct bucket *bucket = argument;
	struct sync_batch *batch;
	int r = 0;

	while (r == 0) {
		r = ew_event_wait(&bucket->sync_work, EW_NEVER);
		if (r == 0)
			ew_event_reset(&bucket->sync_work);
		batch = batch_take(bucket);
		if (batch)
			sync_batch(bucket, batch);
	}
	return r;
}

int bucket_start(struct bucket *bucket, struct front *front, struct ew_scope *scope)
{
	int r;

	bucket->syncing = (struct front_needed){ .name = "the syncs of the bucket's folder",
						 .run = sync_loop,
						 .argument = bucket };
	bucket->reclaiming = (struct front_needed){ .name = "the removal of names that stayed",
						    .run = staging_reclaim_loop,
						    .argument = &bucket->staging };
	r = front_spawn_needed(front, &bucket->syncing, scope);
	if (r == 0)
		r = front_spawn_needed(front, &bucket->reclaiming, scope);
	if (r == 0)
		r = ew_spawn(scope, sweep_run, &bucket->staging);
	return r;
}

static void leave_batch(void *batch)
{
	batch_let_go(batch);
}

static int leave_batch_close(void *batch)
{
	batch_let_go(batch);
	return 0;
}

static int link_and_sync(struct bucket *bucket, struct publication *publication,
			 struct ew_tempfile *file, struct sync_batch **spare)
{
	struct sync_batch *batch;
	int r;

	EW_SHIELD(shield, .budget_ns = PUBLISH_BUDGET);

	r = staging_publish(&bucket->staging, file, bucket->directory, publication->name);
	publication->named = r == 0;
	publication->doubtful = r < 0 && ew_outcome() == EW_OUTCOME_UNKNOWN;
	if (r < 0)
		return r;
	r = hook_hold_named(publication->name);
	if (r < 0)
		return r;

	batch = batch_join(bucket, *spare);
	*spare = NULL;

	EW_GUARD(member, batch, .close = leave_batch_close, .abort = leave_batch);

	r = ew_event_wait(&batch->done, EW_NEVER);
	return r == 0 ? batch->result : r;
}

static int sync_bytes(struct ew_tempfile *file)
{
	if (hook_bug("no-file-sync"))
		return 0;
	return ew_file_sync(ew_tempfile_file(file), true);
}

static void free_spare(void *place)
{
	free(*(struct sync_batch **)place);
}

static int free_spare_close(void *place)
{
	free_spare(place);
	return 0;
}

int bucket_publish(struct bucket *bucket, struct publication *publication, struct ew_tempfile *file)
{
	struct sync_batch *spare;
	int r;

	r = ew_file_chmod(ew_tempfile_file(file), bucket->mode);
	if (r < 0)
		return r;
	r = sync_bytes(file);
	if (r < 0)
		return r;
	r = hook_hold(publication->name);
	if (r < 0)
		return r;
	if (atomic_load(&bucket->suspect))
		return -EIO;

	/* What a name needs to become durable is there before the name is. */
	spare = calloc(1, sizeof(*spare));
	if (!spare)
		return -ENOMEM;

	EW_GUARD(unused, &spare, .close = free_spare_close, .abort = free_spare);

	return publication->commit(publication->argument)
		       ? link_and_sync(bucket, publication, file, &spare)
		       : -ECANCELED;
}

static bool is_wanted(void *unused)
{
	(void)unused;
	return !ew_cancel_requested();
}

int bucket_publish_leased(struct bucket *bucket, const char *id, struct ew_tempfile *file,
			  struct staged **ret_staged)
{
	struct publication publication = { .commit = is_wanted };
	int r;

	r = staging_lease_name(&bucket->staging, id, ret_staged);
	if (r < 0)
		return r;
	publication.name = (*ret_staged)->name;
	r = bucket_publish(bucket, &publication, file);
	if (r == 0)
		atomic_fetch_add(&bucket->counts.leased, 1);
	return r;
}
