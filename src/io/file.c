/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Files. What the ring can do goes through the ring, where the kernel's threads take what would block; the
 * rest (truncate, chmod, statvfs, and every close, since the last close of a file frees its blocks) is a system
 * call on a thread of the pool.
 */

#include "io/file.h"

#include "scope/resource.h"

#include <endwell/offload.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/io_uring.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#define TRANSFER_BYTES_MAX 0x7ffff000 /* read(2): the most that one call transfers */

static void file_gone(struct ew__close_job *close_job)
{
	free(ew__container_of(close_job, struct ew_file, close_job));
}

void ew__file_hold(struct ew_file *dir)
{
	if (dir)
		atomic_fetch_add(&dir->holders, 1);
}

/* Whether nobody needs the file any more; called by its owner, and by each who held it. */
static bool is_last(struct ew_file *file)
{
	return atomic_fetch_sub(&file->holders, 1) == 0;
}

void ew__file_let_go(struct ew_file *dir)
{
	if (!dir || !is_last(dir))
		return;
	ew__close_fd(dir->fd);
	free(dir);
}

static int file_close(void *resource)
{
	struct ew_file *file = resource;
	int r;

	ew_resource_deinit(&file->resource);
	if (!is_last(file))
		return 0;
	r = ew__close_and_wait(file->fd, false);
	free(file);
	return r;
}

static void file_abort(void *resource)
{
	struct ew_file *file = resource;

	ew_resource_deinit(&file->resource);
	if (!is_last(file))
		return;
	file->close_job.fd = file->fd;
	file->close_job.truncate = false;
	file->close_job.gone = file_gone;
	ew__close_in_background(&file->close_job);
}

static const struct ew_resource_type file_type = {
	.name = "file",
	.close = file_close,
	.abort = file_abort,
};

int ew__directory_fd(const struct ew_file *dir)
{
	return dir ? dir->fd : AT_FDCWD;
}

int ew__open_at(const struct ew_file *dir, const char *path, int flags, mode_t mode)
{
	struct ew__task_op open = {
		.op = {
			.code = EW__OP_OPENAT,
			.fd = ew__directory_fd(dir),
			.address = path,
			.flags = (uint32_t)(flags | O_CLOEXEC | O_NONBLOCK),
			.length = mode,
		},
	};
	int fd, status;

	fd = ew__op_await_file(&open, "the opening of a file");
	if (fd < 0 || (flags & O_NONBLOCK))
		return fd;
	/* It was for the open only: reads would fail where the filesystem cannot promise not to block. */
	status = fcntl(fd, F_GETFL);
	if (status >= 0)
		fcntl(fd, F_SETFL, status & ~O_NONBLOCK);
	return fd;
}

static void own(struct ew_file *file, int fd)
{
	file->fd = fd;
	file->stream = lseek(fd, 0, SEEK_CUR) < 0 && errno == ESPIPE;
}

int(ew_file_open)(struct ew_file *dir, const char *path, int flags, mode_t mode,
		  struct ew_file **ret_file)
{
	const struct ew_site *site = ew__made_at;
	struct ew_file *file;
	int r = ew__enter(), fd;

	if (r < 0)
		return r;
	ew__place_must_be_empty(ret_file, site);
	file = calloc(1, sizeof(*file));
	if (!file)
		return -ENOMEM;
	fd = ew__open_at(dir, path, flags, mode);
	if (fd < 0) {
		free(file);
		return fd;
	}
	own(file, fd);
	ew_resource_init(&file->resource, &file_type, site);
	*ret_file = file;
	return 0;
}

int(ew_file_adopt)(int fd, struct ew_file **ret_file)
{
	const struct ew_site *site = ew__made_at;
	struct ew_file *file;

	ew__place_must_be_empty(ret_file, site);
	file = calloc(1, sizeof(*file));
	if (!file)
		return -ENOMEM;
	own(file, fd);
	ew_resource_init(&file->resource, &file_type, site);
	*ret_file = file;
	return 0;
}

int ew_file_fd(const struct ew_file *file)
{
	return file->fd;
}

/* As pread(2) says it; the ring would take -1 for "where the descriptor stands", and any for a stream. */
static int check_offset(const struct ew_file *file, int64_t offset)
{
	if (offset < 0)
		return -EINVAL;
	return file->stream ? -ESPIPE : 0;
}

int ew_file_read(struct ew_file *file, void *buffer, size_t size, int64_t offset)
{
	struct ew__task_op read = {
		.op = {
			.code = EW__OP_READ,
			.fd = file->fd,
			.address = buffer,
			.length = size < TRANSFER_BYTES_MAX ? (uint32_t)size : TRANSFER_BYTES_MAX,
			.offset = offset,
		},
	};
	int r = ew__enter();

	if (r == 0)
		r = check_offset(file, offset);
	return r < 0 ? r : ew__op_await_file(&read, "a read from a file");
}

int ew_file_write(struct ew_file *file, const void *buffer, size_t size, int64_t offset)
{
	const char *at = buffer;
	int r;

	do {
		struct ew__task_op write = {
			.op = {
				.code = EW__OP_WRITE,
				.fd = file->fd,
				.address = at,
				.length = size < TRANSFER_BYTES_MAX ? (uint32_t)size : TRANSFER_BYTES_MAX,
				.offset = offset,
			},
		};

		r = ew__enter();
		if (r == 0)
			r = check_offset(file, offset);
		if (r == 0)
			r = ew__op_await_file(&write, "a write to a file");
		if (r < 0)
			return r;
		if (r == 0 && size > 0)
			return -EIO; /* write(2) of more than nothing that writes nothing would go on for ever */
		at += r;
		size -= (size_t)r;
		offset += r;
	} while (size > 0);
	return 0;
}

int ew_file_sync(struct ew_file *file, bool data_only)
{
	struct ew__task_op sync = {
		.op = {
			.code = EW__OP_FSYNC,
			.fd = file->fd,
			.flags = data_only ? IORING_FSYNC_DATASYNC : 0,
		},
	};

	return ew__op_run_file(&sync, "a sync");
}

static struct timespec time_of(const struct statx_timestamp *stamp)
{
	return (struct timespec){ .tv_sec = stamp->tv_sec, .tv_nsec = stamp->tv_nsec };
}

static int stat_at(int fd, const char *name, struct stat *ret_stat)
{
	struct statx found;
	struct ew__task_op stat = {
		.op = {
			.code = EW__OP_STATX,
			.fd = fd,
			.address = name,
			.flags = STATX_BASIC_STATS,
			.address2 = &found,
		},
	};
	int r = ew__op_await_file(&stat, "a stat");

	if (r < 0)
		return r;
	*ret_stat = (struct stat){
		.st_dev = makedev(found.stx_dev_major, found.stx_dev_minor),
		.st_ino = found.stx_ino,
		.st_mode = found.stx_mode,
		.st_nlink = found.stx_nlink,
		.st_uid = found.stx_uid,
		.st_gid = found.stx_gid,
		.st_rdev = makedev(found.stx_rdev_major, found.stx_rdev_minor),
		.st_size = (off_t)found.stx_size,
		.st_blksize = found.stx_blksize,
		.st_blocks = (blkcnt_t)found.stx_blocks,
		.st_atim = time_of(&found.stx_atime),
		.st_mtim = time_of(&found.stx_mtime),
		.st_ctim = time_of(&found.stx_ctime),
	};
	return 0;
}

int ew_file_stat(struct ew_file *file, struct stat *ret_stat)
{
	int r = ew__enter();

	return r < 0 ? r : stat_at(file->fd, NULL, ret_stat);
}

int ew__file_stat_name(struct ew_file *dir, const char *name, struct stat *ret_stat)
{
	return stat_at(ew__directory_fd(dir), name, ret_stat);
}

struct file_call {
	int fd;
	int64_t size_bytes;
	mode_t mode;
	struct statvfs *statvfs;
};

static int call_statvfs(void *argument)
{
	const struct file_call *call = argument;

	return fstatvfs(call->fd, call->statvfs) < 0 ? -errno : 0;
}

static int call_truncate(void *argument)
{
	const struct file_call *call = argument;

	return ftruncate(call->fd, call->size_bytes) < 0 ? -errno : 0;
}

static int call_chmod(void *argument)
{
	const struct file_call *call = argument;

	return fchmod(call->fd, call->mode) < 0 ? -errno : 0;
}

static int run_call(int (*fn)(void *argument), struct file_call *call)
{
	int result = 0, r = ew_offload(fn, call, &result);

	return r < 0 ? r : result;
}

int ew_file_statvfs(struct ew_file *file, struct statvfs *ret_statvfs)
{
	struct file_call call = { .fd = file->fd, .statvfs = ret_statvfs };

	return run_call(call_statvfs, &call);
}

int ew_file_truncate(struct ew_file *file, int64_t size_bytes)
{
	struct file_call call = { .fd = file->fd, .size_bytes = size_bytes };

	return run_call(call_truncate, &call);
}

int ew_file_chmod(struct ew_file *file, mode_t mode)
{
	struct file_call call = { .fd = file->fd, .mode = mode };

	return run_call(call_chmod, &call);
}

int ew__file_link(struct ew_file *file, struct ew_file *dir, const char *name)
{
	char path[32];
	struct ew__task_op link = {
		.op = {
			.code = EW__OP_LINKAT,
			.address = path,
			.fd2 = ew__directory_fd(dir),
			.address2 = (void *)(uintptr_t)name,
			.flags = AT_SYMLINK_FOLLOW,
		},
	};

	/* AT_EMPTY_PATH would want CAP_DAC_READ_SEARCH before kernel 6.10. */
	snprintf(path, sizeof(path), "/proc/self/fd/%d", file->fd);
	return ew__op_run_file(&link, "a link");
}

int ew_file_link(struct ew_file *file, struct ew_file *dir, const char *name)
{
	int r;

	if (file->resource.type)
		return ew__file_link(file, dir, name);
	/* A temporary file's: it would be truncated under that name when it ends. */
	r = ew__enter();
	return r < 0 ? r : -EPERM;
}

int ew_file_rename(struct ew_file *from_dir, const char *from, struct ew_file *to_dir,
		   const char *to, unsigned flags)
{
	struct ew__task_op rename = {
		.op = {
			.code = EW__OP_RENAMEAT,
			.fd = ew__directory_fd(from_dir),
			.address = from,
			.fd2 = ew__directory_fd(to_dir),
			.address2 = (void *)(uintptr_t)to,
			.flags = flags,
		},
	};

	return ew__op_run_file(&rename, "a rename");
}

int ew_file_unlink(struct ew_file *dir, const char *name, int flags)
{
	struct ew__task_op unlink = {
		.op = {
			.code = EW__OP_UNLINKAT,
			.fd = ew__directory_fd(dir),
			.address = name,
			.flags = (uint32_t)flags,
		},
	};

	return ew__op_run_file(&unlink, "an unlink");
}

int ew_file_close(struct ew_file **file)
{
	return ew_close(file);
}
