/* SPDX-License-Identifier: Apache-2.0 */

/*
 * A file without a name (O_TMPFILE) is removed by the kernel when its last descriptor goes, whatever
 * happened to the process. Its ending still truncates first: that gives the space back even if somebody else,
 * a scanner, holds the file. O_EXCL is never used: such a file could not be linked (open(2)).
 */

#include "io/file.h"

#include "scope/resource.h"

#include <endwell/offload.h>
#include <endwell/outcome.h>
#include <endwell/tempfile.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

#define SEAL_TRIES	  250
#define SEAL_TRY_EVERY_NS 2000000

struct ew_tempfile {
	struct ew_resource resource;
	struct ew_file file;
	bool published;
};

static void tempfile_gone(struct ew__close_job *close_job)
{
	free(ew__container_of(close_job, struct ew_tempfile, file.close_job));
}

static int tempfile_close(void *resource)
{
	struct ew_tempfile *tempfile = resource;
	int r = ew__close_and_wait(tempfile->file.fd, !tempfile->published);

	ew_resource_deinit(&tempfile->resource);
	free(tempfile);
	return r;
}

static void tempfile_abort(void *resource)
{
	struct ew_tempfile *tempfile = resource;

	ew_resource_deinit(&tempfile->resource);
	tempfile->file.close_job.fd = tempfile->file.fd;
	tempfile->file.close_job.truncate = !tempfile->published;
	tempfile->file.close_job.gone = tempfile_gone;
	ew__close_in_background(&tempfile->file.close_job);
}

static const struct ew_resource_type tempfile_type = {
	.name = "temporary file",
	.close = tempfile_close,
	.abort = tempfile_abort,
};

int(ew_tempfile_open)(struct ew_file *dir, struct ew_tempfile **ret_tempfile)
{
	const struct ew_site *site = ew__made_at;
	struct ew_tempfile *tempfile;
	int r = ew__enter(), fd;

	if (r < 0)
		return r;
	ew__place_must_be_empty(ret_tempfile, site);
	tempfile = calloc(1, sizeof(*tempfile));
	if (!tempfile)
		return -ENOMEM;
	fd = ew__open_at(dir, ".", O_TMPFILE | O_RDWR, 0600);
	if (fd < 0) {
		free(tempfile);
		return fd;
	}
	tempfile->file.fd = fd;
	ew_resource_init(&tempfile->resource, &tempfile_type, site);
	*ret_tempfile = tempfile;
	return 0;
}

struct ew_file *ew_tempfile_file(struct ew_tempfile *tempfile)
{
	return &tempfile->file;
}

/* 0: no writer is left; -EAGAIN: there is one; other errors: this filesystem has no leases. */
static int probe_writers(int fd)
{
	if (fcntl(fd, F_SETLEASE, F_RDLCK) < 0)
		return -errno;
	fcntl(fd, F_SETLEASE, F_UNLCK);
	return 0;
}

/* On a pool thread. Leaves the read-only descriptor in the file, once it is open, also on errors. */
static int seal(void *argument)
{
	const struct timespec pause = { .tv_nsec = SEAL_TRY_EVERY_NS };
	struct ew_tempfile *tempfile = argument;
	char path[32];
	int fd, tries, r;

	snprintf(path, sizeof(path), "/proc/self/fd/%d", tempfile->file.fd);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return -errno;
	close(tempfile->file.fd);
	tempfile->file.fd = fd;
	/* A program being started elsewhere holds copies of all descriptors until its exec. */
	for (tries = 0; (r = probe_writers(fd)) == -EAGAIN && tries < SEAL_TRIES; tries++)
		nanosleep(&pause, NULL);
	return r == -EAGAIN ? -EBUSY : 0;
}

int ew_tempfile_seal(struct ew_tempfile *tempfile)
{
	int result = 0, r = ew_offload(seal, tempfile, &result);

	return r < 0 ? r : result;
}

int ew_tempfile_publish(struct ew_tempfile *tempfile, struct ew_file *dir, const char *name)
{
	int r = ew__file_link(&tempfile->file, dir, name);

	/* In doubt it has the name: a published file must not be truncated. */
	if (r == 0 || ew_outcome() == EW_OUTCOME_UNKNOWN)
		tempfile->published = true;
	return r;
}

int ew_tempfile_close(struct ew_tempfile **tempfile)
{
	return ew_close(tempfile);
}
