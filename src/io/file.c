/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Files. A read or a write is first asked of the driver, for what it can do at once: from or into the page cache. All
 * that may wait, every close with it (the last close of a file frees its blocks), is a call on a thread, in the lane
 * of the file's filesystem: io_uring's own threads are one small crowd for a whole ring, and a filesystem that does not
 * answer would take all of them.
 */

#include "io/file.h"

#include "driver/system.h"
#include "driver/system_file.h"
#include "io/op.h"
#include "scope/resource.h"
#include "seeded/bug.h"

#include <endwell/outcome.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <unistd.h>

#define TRANSFER_BYTES_MAX 0x7ffff000 /* read(2): the most that one call transfers */

void ew__file_hold(struct ew_file *dir)
{
	if (dir && !ew__bug("directory-not-held"))
		atomic_fetch_add(&dir->holders, 1);
}

/* Whether nobody needs the file any more; called by its owner, and by each who held it. */
static bool is_last(struct ew_file *file)
{
	return atomic_fetch_sub(&file->holders, 1) == 0;
}

void ew__file_let_go(struct ew_file *dir)
{
	if (!dir || !is_last(dir) || ew__bug("held-directory-never-closed"))
		return;
	ew__close_fd(dir->fd);
	free(dir);
}

static void file_gone(struct ew__close_job *close_job)
{
	free(ew__container_of(close_job, struct ew_file, close_job));
}

static int file_close(void *resource)
{
	struct ew_file *file = resource;
	int r;

	ew_resource_deinit(&file->resource);
	if (!is_last(file))
		return 0;
	file->close_job.fd = file->fd;
	r = ew__close_and_wait(file->device, &file->close_job);
	free(file);
	return r;
}

static void file_abort(void *resource)
{
	struct ew_file *file = resource;

	ew_resource_deinit(&file->resource);
	if (!is_last(file) || ew__bug("aborted-file-stays-open"))
		return;
	file->close_job.fd = file->fd;
	file->close_job.gone = file_gone;
	ew__close_in_background(file->device, &file->close_job);
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

dev_t ew__directory_device(const struct ew_file *dir)
{
	return dir ? dir->device : EW__DEVICE_NONE;
}

/* A system call and its arguments, for a thread. */
struct file_call {
	struct ew_file *file;
	const struct ew_file *dir;
	const char *name;
	void *buffer;
	size_t size;
	int64_t offset;
	int flags;
	mode_t mode;
	const struct ew_file *from_dir;
	const char *from;
	struct stat *stat;
	struct statvfs *statvfs;
};

static void learn_kind(struct ew_file *file)
{
	file->device = ew__device_of(file->fd);
	file->stream = !ew__system_is_simulated(file->fd) && lseek(file->fd, 0, SEEK_CUR) < 0 &&
		       errno == ESPIPE;
}

static int call_openat(void *argument)
{
	const struct file_call *call = argument;
	struct ew_file *file = call->file;
	int status;

	file->fd = ew__system_open(ew__directory_fd(call->dir), call->name,
				   call->flags | O_CLOEXEC |
					   (ew__bug("open-of-a-fifo-waits") ? 0 : O_NONBLOCK),
				   call->mode);
	if (file->fd < 0)
		return file->fd;
	/* It was for the open only: reads would fail where the filesystem cannot promise not to block. */
	status = call->flags & O_NONBLOCK ? -1 : fcntl(file->fd, F_GETFL);
	if (status >= 0)
		fcntl(file->fd, F_SETFL, status & ~O_NONBLOCK);
	learn_kind(file);
	return 0;
}

int ew__open_at(const struct ew_file *dir, const char *path, int flags, mode_t mode,
		struct ew_file *file)
{
	struct file_call call = {
		.file = file,
		.dir = dir,
		.name = path,
		.flags = flags,
		.mode = mode,
	};

	return ew__call_checked(ew__directory_device(dir), call_openat, &call,
				"the opening of a file");
}

int(ew_file_open)(struct ew_file *dir, const char *path, int flags, mode_t mode,
		  struct ew_file **ret_file)
{
	const struct ew_site *site = ew__made_at;
	struct ew_file *file;
	int r = ew__enter();

	if (r < 0)
		return r;
	ew__place_must_be_empty(ret_file, site);
	file = calloc(1, sizeof(*file));
	if (!file)
		return -ENOMEM;
	r = ew__open_at(dir, path, flags, mode, file);
	if (r < 0) {
		free(file);
		return r;
	}
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
	file->fd = fd;
	learn_kind(file);
	ew_resource_init(&file->resource, &file_type, site);
	*ret_file = file;
	return 0;
}

int ew_file_fd(struct ew_file *file)
{
	file->shown = true;
	return file->fd;
}

/* As pread(2) says it; the driver would take -1 for "where the descriptor stands", and any for a stream. */
static int check_offset(const struct ew_file *file, int64_t offset)
{
	if (offset < 0)
		return -EINVAL;
	return file->stream ? -ESPIPE : 0;
}

static uint32_t transfer_bytes(size_t size)
{
	return size < TRANSFER_BYTES_MAX ? (uint32_t)size : TRANSFER_BYTES_MAX;
}

/* What can be read or written at once; -EAGAIN: nothing can. */
static int transfer_now(struct ew_file *file, enum ew__op_code code, const void *buffer,
			size_t size, int64_t offset)
{
	struct ew__task_op transfer = {
		.op = {
			.code = (uint8_t)code,
			.fd = file->fd,
			.address = buffer,
			.length = transfer_bytes(size),
			.offset = offset,
		},
	};
	int r = ew__op_await(&transfer,
			     code == EW__OP_READ ? "a read from a file" : "a write to a file");

	return r == -EOPNOTSUPP ? -EAGAIN : r;
}

static int call_pread(void *argument)
{
	const struct file_call *call = argument;

	return ew__system_pread(call->file->fd, call->buffer, transfer_bytes(call->size),
				call->offset);
}

static int call_pwrite(void *argument)
{
	const struct file_call *call = argument;

	return ew__system_pwrite(call->file->fd, call->buffer, transfer_bytes(call->size),
				 call->offset);
}

/*
 * A part of the file may be in the page cache and the rest not, so that a short count is no end. Bytes that have been
 * read are returned, whatever becomes of the rest.
 */
int ew_file_read(struct ew_file *file, void *buffer, size_t size, int64_t offset)
{
	struct file_call rest = { .file = file };
	size_t done = 0;
	int r = ew__enter();

	if (r == 0)
		r = check_offset(file, offset);
	if (r < 0)
		return r;
	size = transfer_bytes(size);
	do {
		r = transfer_now(file, EW__OP_READ, (char *)buffer + done, size - done,
				 offset + (int64_t)done);
		done += r > 0 ? (size_t)r : 0;
	} while (r > 0 && done < size);
	if (r == -EAGAIN && !ew__bug("uncached-rest-is-the-end")) {
		rest.buffer = (char *)buffer + done;
		rest.size = size - done;
		rest.offset = offset + (int64_t)done;
		r = ew__call(file->device, call_pread, &rest, "a read from a file");
		done += r > 0 ? (size_t)r : 0;
	}
	if (done == 0)
		return r;
	ew__task()->outcome = done < size ? EW_OUTCOME_PARTIAL : EW_OUTCOME_DONE;
	return (int)done;
}

int ew__file_write_some(struct ew_file *file, const void *data, size_t size, int64_t offset)
{
	struct file_call write = {
		.file = file,
		.buffer = (void *)(uintptr_t)data,
		.size = size,
		.offset = offset,
	};
	int r = ew__enter();

	if (r == 0)
		r = check_offset(file, offset);
	if (r < 0)
		return r;
	r = -EAGAIN;
	if (!file->write_waits)
		r = transfer_now(file, EW__OP_WRITE, data, size, offset);
	if (r != -EAGAIN)
		return r;
	file->write_waits = true;
	return ew__call(file->device, call_pwrite, &write, "a write to a file");
}

int ew_file_write(struct ew_file *file, const void *buffer, size_t size, int64_t offset)
{
	const char *at = buffer;
	int r;

	do {
		r = ew__file_write_some(file, at, size, offset);
		if (r < 0)
			return r;
		if (ew__bug("short-write-is-whole"))
			r = (int)size;
		if (r == 0 && size > 0)
			return -EIO; /* write(2) of more than nothing that writes nothing would go on for ever */
		at += r;
		size -= (size_t)r;
		offset += r;
	} while (size > 0);
	return 0;
}

static int call_fsync(void *argument)
{
	const struct file_call *call = argument;
	int r;

	if (call->flags ? ew__bug("data-not-synced") : ew__bug("names-not-synced"))
		return 0;
	r = ew__system_sync(call->file->fd, call->flags);
	if (r == -EIO && ew__bug("failed-sync-made-again"))
		r = ew__system_sync(call->file->fd, call->flags);
	return r;
}

int ew_file_sync(struct ew_file *file, bool data_only)
{
	struct file_call call = { .file = file, .flags = data_only };

	return ew__call(file->device, call_fsync, &call, "a sync");
}

static int call_stat(void *argument)
{
	const struct file_call *call = argument;

	return ew__system_stat(call->file->fd, call->stat);
}

int ew_file_stat(struct ew_file *file, struct stat *ret_stat)
{
	struct file_call call = { .file = file, .stat = ret_stat };

	return ew__call(file->device, call_stat, &call, "a stat");
}

static int call_statvfs(void *argument)
{
	const struct file_call *call = argument;

	return ew__system_statvfs(call->file->fd, call->statvfs);
}

int ew_file_statvfs(struct ew_file *file, struct statvfs *ret_statvfs)
{
	struct file_call call = { .file = file, .statvfs = ret_statvfs };

	return ew__call(file->device, call_statvfs, &call, "a look at a filesystem");
}

static int call_truncate(void *argument)
{
	const struct file_call *call = argument;

	return ew__system_truncate(call->file->fd, call->offset);
}

int ew_file_truncate(struct ew_file *file, int64_t size_bytes)
{
	struct file_call call = { .file = file, .offset = size_bytes };

	return ew__call(file->device, call_truncate, &call, "a truncate");
}

static int call_chmod(void *argument)
{
	const struct file_call *call = argument;

	return ew__system_chmod(call->file->fd, call->mode);
}

int ew_file_chmod(struct ew_file *file, mode_t mode)
{
	struct file_call call = { .file = file, .mode = mode };

	return ew__call(file->device, call_chmod, &call, "a chmod");
}

static int call_linkat(void *argument)
{
	const struct file_call *call = argument;

	return ew__system_link(call->file->fd, ew__directory_fd(call->dir), call->name);
}

int ew__file_link(struct ew_file *file, struct ew_file *dir, const char *name)
{
	struct file_call call = { .file = file, .dir = dir, .name = name };

	return ew__call(file->device, call_linkat, &call, "a link");
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

static int call_renameat(void *argument)
{
	const struct file_call *call = argument;

	return ew__system_rename(ew__directory_fd(call->from_dir), call->from,
				 ew__directory_fd(call->dir), call->name, (unsigned)call->flags);
}

int ew_file_rename(struct ew_file *from_dir, const char *from, struct ew_file *to_dir,
		   const char *to, unsigned flags)
{
	struct file_call call = {
		.from_dir = from_dir,
		.from = from,
		.dir = to_dir,
		.name = to,
		.flags = (int)flags,
	};

	return ew__call(ew__directory_device(from_dir), call_renameat, &call, "a rename");
}

static int call_unlinkat(void *argument)
{
	const struct file_call *call = argument;

	return ew__system_unlink(ew__directory_fd(call->dir), call->name, call->flags);
}

int ew_file_unlink(struct ew_file *dir, const char *name, int flags)
{
	struct file_call call = { .dir = dir, .name = name, .flags = flags };

	return ew__call(ew__directory_device(dir), call_unlinkat, &call, "an unlink");
}

int ew_file_offload(struct ew_file *file, int (*fn)(void *argument), void *argument,
		    int *ret_result)
{
	return ew__offload_to(file->device, fn, argument, ret_result);
}

int ew_file_close(struct ew_file **file)
{
	return ew_close(file);
}
