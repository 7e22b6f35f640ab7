/* SPDX-License-Identifier: Apache-2.0 */

#include "driver/system_file.h"

#include "driver/system.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <unistd.h>

#define SELF_BYTES 32

static int outcome(ssize_t r)
{
	return r < 0 ? -errno : (int)r;
}

const struct ew__system_files *ew__system_files_of(int fd)
{
	const struct ew__system_files *files = ew__system ? ew__system->files : NULL;

	return files && files->owns(fd) ? files : NULL;
}

const struct ew__system_files *ew__system_files_at(int dir_fd, const char *path)
{
	const struct ew__system_files *files = ew__system ? ew__system->files : NULL;

	if (!files || path[0] != '/')
		return ew__system_files_of(dir_fd);
	return files->owns_path(path) ? files : NULL;
}

static void name_itself(int fd, char path[SELF_BYTES])
{
	snprintf(path, SELF_BYTES, "/proc/self/fd/%d", fd);
}

int ew__system_open(int dir_fd, const char *path, int flags, mode_t mode)
{
	const struct ew__system_files *files = ew__system_files_at(dir_fd, path);

	return files ? files->open(dir_fd, path, flags, mode)
		     : outcome(openat(dir_fd, path, flags, mode));
}

int ew__system_reopen(int fd, int flags)
{
	const struct ew__system_files *files = ew__system_files_of(fd);
	char path[SELF_BYTES];

	if (files)
		return files->reopen(fd, flags);
	name_itself(fd, path);
	return outcome(open(path, flags));
}

int ew__system_pread(int fd, void *buffer, size_t size, int64_t offset)
{
	const struct ew__system_files *files = ew__system_files_of(fd);

	return files ? files->pread(fd, buffer, size, offset)
		     : outcome(pread(fd, buffer, size, offset));
}

int ew__system_pwrite(int fd, const void *data, size_t size, int64_t offset)
{
	const struct ew__system_files *files = ew__system_files_of(fd);

	return files ? files->pwrite(fd, data, size, offset)
		     : outcome(pwrite(fd, data, size, offset));
}

int ew__system_sync(int fd, bool data_only)
{
	const struct ew__system_files *files = ew__system_files_of(fd);

	if (files)
		return files->sync(fd, data_only);
	return outcome(data_only ? fdatasync(fd) : fsync(fd));
}

int ew__system_stat(int fd, struct stat *ret_stat)
{
	const struct ew__system_files *files = ew__system_files_of(fd);

	return files ? files->stat(fd, ret_stat) : outcome(fstat(fd, ret_stat));
}

int ew__system_stat_at(int dir_fd, const char *path, struct stat *ret_stat)
{
	const struct ew__system_files *files = ew__system_files_at(dir_fd, path);

	return files ? files->stat_at(dir_fd, path, ret_stat)
		     : outcome(fstatat(dir_fd, path, ret_stat, AT_SYMLINK_NOFOLLOW));
}

int ew__system_statvfs(int fd, struct statvfs *ret_statvfs)
{
	const struct ew__system_files *files = ew__system_files_of(fd);

	return files ? files->statvfs(fd, ret_statvfs) : outcome(fstatvfs(fd, ret_statvfs));
}

int ew__system_truncate(int fd, int64_t size)
{
	const struct ew__system_files *files = ew__system_files_of(fd);

	return files ? files->truncate(fd, size) : outcome(ftruncate(fd, size));
}

/* By name, because a sealed file's descriptor cannot write. */
int ew__system_empty(int fd)
{
	const struct ew__system_files *files = ew__system_files_of(fd);
	char path[SELF_BYTES];

	if (files)
		return files->empty(fd);
	name_itself(fd, path);
	if (truncate(path, 0) == 0)
		return 0;
	if (errno != EACCES || fchmod(fd, 0600) < 0)
		return -errno;
	return outcome(truncate(path, 0));
}

int ew__system_chmod(int fd, mode_t mode)
{
	const struct ew__system_files *files = ew__system_files_of(fd);

	return files ? files->chmod(fd, mode) : outcome(fchmod(fd, mode));
}

int ew__system_lease(int fd)
{
	const struct ew__system_files *files = ew__system_files_of(fd);

	if (files)
		return files->lease(fd);
	if (fcntl(fd, F_SETLEASE, F_RDLCK) < 0)
		return -errno;
	fcntl(fd, F_SETLEASE, F_UNLCK);
	return 0;
}

int ew__system_link(int fd, int dir_fd, const char *path)
{
	const struct ew__system_files *files = ew__system_files_of(fd);
	char self[SELF_BYTES];

	if (files != ew__system_files_at(dir_fd, path))
		return -EXDEV;
	if (files)
		return files->link(fd, dir_fd, path);
	/* AT_EMPTY_PATH would want CAP_DAC_READ_SEARCH before kernel 6.10. */
	name_itself(fd, self);
	return outcome(linkat(AT_FDCWD, self, dir_fd, path, AT_SYMLINK_FOLLOW));
}

int ew__system_rename(int from_dir_fd, const char *from, int dir_fd, const char *to, unsigned flags)
{
	const struct ew__system_files *files = ew__system_files_at(from_dir_fd, from);

	if (files != ew__system_files_at(dir_fd, to))
		return -EXDEV;
	return files ? files->rename(from_dir_fd, from, dir_fd, to, flags)
		     : outcome(renameat2(from_dir_fd, from, dir_fd, to, flags));
}

int ew__system_unlink(int dir_fd, const char *path, int flags)
{
	const struct ew__system_files *files = ew__system_files_at(dir_fd, path);

	return files ? files->unlink(dir_fd, path, flags) : outcome(unlinkat(dir_fd, path, flags));
}
