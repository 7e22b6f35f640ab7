/* SPDX-License-Identifier: Apache-2.0 */

/*
 * A file without a name (O_TMPFILE) is removed by the kernel when its last descriptor goes, whatever
 * happened to the process. If somebody else, a scanner, may hold it, because it has a name or its descriptor was asked
 * for, its ending truncates first: that gives the space back. Else the close does it, for half of the cost.
 * O_TMPFILE never with O_EXCL: such a file could not be linked (open(2)).
 *
 * A file with a staging name is the same thing with one more part to end. Truncate, close and unlink are one job on
 * one thread, all of whose memory is the file's own, so that an abort needs nothing and leaves nothing. The directory
 * of the name is held: places end newest first, but an abort goes on after its place has been left, and the number of
 * a descriptor that was closed meanwhile would lead the unlink into somebody else's directory.
 */

#include "io/file.h"

#include "driver/system_file.h"
#include "scope/resource.h"
#include "seeded/bug.h"

#include <endwell/outcome.h>
#include <endwell/tempfile.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/magic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <time.h>
#include <unistd.h>

#define SEAL_TRIES	  250
#define SEAL_TRY_EVERY_NS 2000000

struct ew_tempfile {
	struct ew_resource resource;
	struct ew_file file;
	struct ew_file *dir; /* of the name, held; NULL: the working directory */
	bool published;
	bool named;
	char name[]; /* while it is named */
};

static bool is_same(const struct stat *one, const struct stat *other)
{
	return one->st_dev == other->st_dev && one->st_ino == other->st_ino;
}

struct look {
	const struct ew_tempfile *tempfile;
	const struct ew_file *dir;
	const char *name;
};

/* Who is it that has the name, the open file (0) or another (-ESTALE)? -ENOENT: nobody. On a thread. */
static int look_at_name(void *argument)
{
	const struct look *look = argument;
	struct stat file, found;
	int r;

	r = ew__system_stat(look->tempfile->file.fd, &file);
	if (r == 0)
		r = ew__system_stat_at(ew__directory_fd(look->dir), look->name, &found);
	if (r < 0)
		return r;
	return is_same(&file, &found) ? 0 : -ESTALE;
}

static int remove_name(const struct ew_tempfile *tempfile)
{
	return ew__system_unlink(ew__directory_fd(tempfile->dir), tempfile->name, 0);
}

/*
 * Space, descriptor, name, in this order. While the descriptor is open no other file can have its inode's number,
 * so the look comes before the close; a network filesystem would hide a name that is removed while the file is open,
 * so the removal comes after it.
 */
static int end_named(struct ew__close_job *close_job)
{
	struct ew_tempfile *tempfile =
		ew__container_of(close_job, struct ew_tempfile, file.close_job);
	struct look look = { tempfile, tempfile->dir, tempfile->name };
	int closed, r;

	if (!tempfile->published || ew__bug("published-name-truncated"))
		ew__give_space_back(tempfile->file.fd);
	r = look_at_name(&look);
	closed = ew__close_fd(tempfile->file.fd);
	if (r == 0 && !ew__bug("staging-name-left"))
		r = remove_name(tempfile);
	if (r == -ENOENT)
		r = 0;
	if (r == -ECANCELED)
		r = -EIO; /* a filesystem may say anything, but of an ending this would mean "not ended" */
	ew__file_let_go(tempfile->dir);
	return closed < 0 ? closed : r;
}

static void fill_in(struct ew_tempfile *tempfile)
{
	struct ew__close_job *close_job = &tempfile->file.close_job;

	close_job->fd = tempfile->file.fd;
	close_job->truncate = (!tempfile->published || ew__bug("published-file-truncated")) &&
			      tempfile->file.shown;
	close_job->end = tempfile->named ? end_named : NULL;
}

static void tempfile_gone(struct ew__close_job *close_job)
{
	free(ew__container_of(close_job, struct ew_tempfile, file.close_job));
}

static int tempfile_close(void *resource)
{
	struct ew_tempfile *tempfile = resource;
	int r;

	fill_in(tempfile);
	r = ew__close_and_wait(tempfile->file.device, &tempfile->file.close_job);
	ew_resource_deinit(&tempfile->resource);
	free(tempfile);
	return r;
}

static void tempfile_abort(void *resource)
{
	struct ew_tempfile *tempfile = resource;

	ew_resource_deinit(&tempfile->resource);
	fill_in(tempfile);
	tempfile->file.close_job.gone = tempfile_gone;
	ew__close_in_background(tempfile->file.device, &tempfile->file.close_job);
}

static const struct ew_resource_type tempfile_type = {
	.name = "temporary file",
	.close = tempfile_close,
	.abort = tempfile_abort,
};

/* All that its end will need is there before the file is. */
static int open_tempfile(struct ew_file *dir, const char *name, const struct ew_site *site,
			 struct ew_tempfile **ret_tempfile)
{
	const char *path = name ? name : ".";
	int flags = name ? O_CREAT | O_EXCL : O_TMPFILE, r;
	struct ew_tempfile *tempfile;

	tempfile = calloc(1, sizeof(*tempfile) + strlen(path) + 1);
	if (!tempfile)
		return -ENOMEM;
	r = ew__open_at(dir, path, flags | O_RDWR, 0600, &tempfile->file);
	if (r < 0) {
		free(tempfile);
		return r;
	}
	tempfile->named = name;
	if (name) {
		tempfile->dir = dir;
		ew__file_hold(dir);
		memcpy(tempfile->name, name, strlen(name) + 1);
	}
	ew_resource_init(&tempfile->resource, &tempfile_type, site);
	*ret_tempfile = tempfile;
	return 0;
}

int(ew_tempfile_open)(struct ew_file *dir, struct ew_tempfile **ret_tempfile)
{
	const struct ew_site *site = ew__made_at;
	int r = ew__enter();

	if (r < 0)
		return r;
	ew__place_must_be_empty(ret_tempfile, site);
	return open_tempfile(dir, NULL, site, ret_tempfile);
}

int(ew_tempfile_open_named)(struct ew_file *dir, const char *name,
			    struct ew_tempfile **ret_tempfile)
{
	const struct ew_site *site = ew__made_at;
	int r = ew__enter();

	if (r < 0)
		return r;
	ew__place_must_be_empty(ret_tempfile, site);
	return open_tempfile(dir, name, site, ret_tempfile);
}

struct ew_file *ew_tempfile_file(struct ew_tempfile *tempfile)
{
	return &tempfile->file;
}

/*
 * Where a lease is the server's to give (a delegation of NFS, an oplock of SMB) the kernel answers "try again" when
 * there is none to hand, which says nothing about writers: fs/nfs/nfs4proc.c, fs/smb/client/cifsfs.c.
 */
static bool lease_comes_from_a_server(int fd)
{
	struct statfs fs;

	if (fstatfs(fd, &fs) < 0)
		return false;
	return fs.f_type == NFS_SUPER_MAGIC || (uint32_t)fs.f_type == SMB2_SUPER_MAGIC ||
	       (uint32_t)fs.f_type == CIFS_SUPER_MAGIC;
}

/* 0: no writer is left; -EAGAIN: there is one; other errors: this filesystem has no leases. */
static int probe_writers(int fd)
{
	int r = ew__system_lease(fd);

	return r == -EAGAIN && lease_comes_from_a_server(fd) ? -EINVAL : r;
}

/* On a pool thread. Leaves the read-only descriptor in the file, once it is open, also on errors. */
static int seal(void *argument)
{
	const struct timespec pause = { .tv_nsec = SEAL_TRY_EVERY_NS };
	struct ew_tempfile *tempfile = argument;
	int fd, tries, closed, r;

	fd = ew__system_reopen(tempfile->file.fd, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return fd;
	closed =
		ew__close_fd(tempfile->file.fd); /* the writer's: network filesystems report here */
	tempfile->file.fd = fd;
	if (closed < 0)
		return closed;
	/* A program being started elsewhere holds copies of all descriptors until its exec. */
	for (tries = 0; (r = probe_writers(fd)) == -EAGAIN && tries < SEAL_TRIES; tries++)
		nanosleep(&pause, NULL);
	return r == -EAGAIN && !ew__bug("sealed-with-a-writer") ? -EBUSY : 0;
}

int ew_tempfile_seal(struct ew_tempfile *tempfile)
{
	return ew__call(tempfile->file.device, seal, tempfile, "the sealing of a file");
}

/* A staging name can be replaced by whoever may write in its directory; what was sealed is what is published. */
static int check_staging_name(struct ew_tempfile *tempfile)
{
	struct look look = { tempfile, tempfile->dir, tempfile->name };
	int r = ew__call(tempfile->file.device, look_at_name, &look, "a look at a name");

	if (ew__bug("staging-name-not-looked-at"))
		return 0;
	return r == -ENOENT ? -ESTALE : r;
}

/*
 * What a network filesystem answers with an error may have been done: the reply was lost, and the repetition found
 * the name taken, by us. The name itself knows. In doubt the file has it: what may be published is not truncated.
 */
static int believe(struct ew_tempfile *tempfile, struct ew_file *dir, const char *name, int error)
{
	bool unknown = ew_outcome() == EW_OUTCOME_UNKNOWN;
	struct look look = { tempfile, dir, name };
	int r = ew__call_checked(tempfile->file.device, look_at_name, &look, "a look at a name");

	if (r == 0) {
		tempfile->published = true;
		return 0;
	}
	if (unknown || (r != -ENOENT && r != -ESTALE)) {
		tempfile->published = true;
		ew__task()->outcome = EW_OUTCOME_UNKNOWN;
	}
	return error;
}

int ew_tempfile_publish(struct ew_tempfile *tempfile, struct ew_file *dir, const char *name)
{
	int r = tempfile->named ? check_staging_name(tempfile) : 0;

	if (r < 0)
		return r;
	r = ew__file_link(&tempfile->file, dir, name);
	if (r == -ECANCELED)
		return r;
	if (r < 0)
		return believe(tempfile, dir, name, r);
	tempfile->published = true;
	return 0;
}

int ew_tempfile_publish_by_rename(struct ew_tempfile *tempfile, struct ew_file *dir,
				  const char *name)
{
	int r;

	ew_assert(tempfile->named);
	r = check_staging_name(tempfile);
	if (r < 0)
		return r;
	r = ew_file_rename(tempfile->dir, tempfile->name, dir, name,
			   ew__bug("publish-overwrites") ? 0 : RENAME_NOREPLACE);
	if (r == -ECANCELED)
		return r;
	if (r < 0)
		return believe(tempfile, dir, name, r);
	tempfile->published = true;
	return 0;
}

int ew_tempfile_close(struct ew_tempfile **tempfile)
{
	return ew_close(tempfile);
}
