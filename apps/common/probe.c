/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The test file's name in the bucket is made of the lease's id, like each name before a
 * publication: a crash in between is cleaned up by whoever sweeps that lease.
 */
#include "probe.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>

#include <endwell/task.h>

static int prepare(struct ew_tempfile *file, mode_t mode)
{
	int r;

	r = ew_file_write(ew_tempfile_file(file), "", 1, 0);
	if (r == 0)
		r = ew_tempfile_seal(file);
	if (r == 0)
		r = ew_file_chmod(ew_tempfile_file(file), mode);
	if (r == 0)
		r = ew_file_sync(ew_tempfile_file(file), true);
	return r;
}

/* A file from its first byte to its name and its end. */
static int publish(struct staging *staging, struct ew_file *bucket, const char *name, mode_t mode,
		   struct staged **ret_staged, int *ret_ending)
{
	EW_OWN(ew_tempfile, file);
	int r;

	r = staging_make(staging, &file, ret_staged);
	if (r < 0)
		return r;
	r = prepare(file, mode);
	if (r == 0)
		r = staging_publish(staging, file, bucket, name);
	*ret_ending = ew_tempfile_close(&file);
	return r < 0 ? r : *ret_ending;
}

struct probing {
	struct staging *staging;
	struct staged *staged;
	int ending;
};

static void settle(void *argument)
{
	struct probing *probing = argument;

	(void)staging_settle(probing->staging, &probing->staged, probing->ending, NULL);
}

static int settle_close(void *probing)
{
	settle(probing);
	return 0;
}

static int publish_and_settle(struct staging *staging, struct ew_file *bucket, const char *name,
			      mode_t mode)
{
	/* Until its end is known nobody knows whether the name has gone. */
	struct probing probing = { .staging = staging, .ending = -ECANCELED };

	EW_GUARD(settled, &probing, .close = settle_close, .abort = settle);

	return publish(staging, bucket, name, mode, &probing.staged, &probing.ending);
}

/* A link that is none, or a rename that loses bytes, would show here. */
static int look(struct ew_file *bucket, const char *name)
{
	EW_OWN(ew_file, file);
	struct stat stat;
	int r;

	r = ew_file_open(bucket, name, O_RDONLY | O_NOFOLLOW, 0, &file);
	if (r < 0)
		return r;
	r = ew_file_stat(file, &stat);
	if (r == 0 && (!S_ISREG(stat.st_mode) || stat.st_size != 1))
		r = -EOPNOTSUPP;
	return r < 0 ? r : ew_file_close(&file);
}

static int prove(struct staging *staging, struct ew_file *bucket, const char *name, mode_t mode)
{
	int r;

	r = look(bucket, name);
	if (r < 0)
		return r;
	r = publish_and_settle(staging, bucket, name, mode);
	if (r == 0)
		return -EOPNOTSUPP; /* it overwrites */
	return r == -EEXIST ? 0 : r;
}

int probe_publish(struct staging *staging, struct ew_file *bucket, mode_t mode)
{
	char name[LEASE_PROBE_BYTES];
	int r, removed, synced;

	lease_probe_name(staging->lease.id, name);
	atomic_fetch_add(&staging->lease.names, 1);
	r = publish_and_settle(staging, bucket, name, mode);
	if (r == 0)
		r = prove(staging, bucket, name, mode);
	removed = ew_file_unlink(bucket, name, 0); /* whatever was said, it may be there */
	synced = ew_file_sync(bucket, false);
	if ((removed == 0 || removed == -ENOENT) && synced == 0)
		atomic_fetch_sub(&staging->lease.names, 1);
	if (r == 0)
		r = removed;
	return r < 0 ? r : synced;
}

bool probe_lacks(int r)
{
	switch (r) {
	case -EOPNOTSUPP:
	case -ENOSYS:
	case -EINVAL:
	case -EISDIR: /* O_TMPFILE is O_DIRECTORY to those who do not know it */
	case -EPERM:  /* link(2): no hard links */
	case -EMLINK:
	case -ENOENT: return true; /* nameless files, but they cannot be linked */
	default: return false;
	}
}

void probe_explain(const struct probe_results *results, int r, const char *state, char *error,
		   size_t error_bytes)
{
	if (r == -EXDEV)
		snprintf(error, error_bytes,
			 "the bucket and %s are not on the same mount: a file cannot move between "
			 "them in one step; choose a folder beside the bucket with --state",
			 state);
	else if (results->renamed < 0 && probe_lacks(r))
		snprintf(
			error, error_bytes,
			"there is no safe way to publish on the filesystem of %s: it has neither "
			"nameless files (O_TMPFILE: %s) nor hard links (%s) nor a rename that does "
			"not overwrite (RENAME_NOREPLACE: %s); use ext4, xfs, btrfs or tmpfs",
			state, strerror(-results->nameless), strerror(-results->linked),
			strerror(-results->renamed));
	else
		snprintf(error, error_bytes, "publishing a test file from %s failed: %s", state,
			 strerror(-r));
}
