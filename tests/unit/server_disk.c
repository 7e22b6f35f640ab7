/* SPDX-License-Identifier: Apache-2.0 */

/*
 * A server on the disk of a simulated world. It makes some calls to the filesystem itself: locks, folders, and what it
 * does in one visit to a thread. The linker leads those here (--wrap), and what is the disk's goes there, by the library's
 * seam (driver/system_file.h); everything else goes to the kernel. So the server is the one that is shipped, line for
 * line, and its own calls fail as the library's do.
 *
 * A path on the disk is the real one: it has no links there, and the tests write none with dots.
 */

#include "driver/system.h"
#include "driver/system_file.h"

#include <dirent.h>
#include <endwell/sim.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define WRAP(type, name, ...)                                                                      \
	type __real_##name(__VA_ARGS__);                                                           \
	type __wrap_##name(__VA_ARGS__);                                                           \
	type __wrap_##name(__VA_ARGS__)

static int told(int r)
{
	if (r >= 0)
		return r;
	errno = -r;
	return -1;
}

/* A fault of the world's, or 0: the call is made. */
static int fault(void)
{
	return ew__system_file_fault ? ew__system_file_fault() : 0;
}

static int open_on(const struct ew__system_files *disk, int dir_fd, const char *path, int flags,
		   mode_t mode)
{
	int r = fault();

	return told(r < 0 ? r : disk->open(dir_fd, path, flags, mode));
}

/* Only an open that makes a file has a mode. */
static mode_t mode_of(int flags, va_list arguments)
{
	return flags & (O_CREAT | O_TMPFILE) & ~O_DIRECTORY ? va_arg(arguments, mode_t) : 0;
}

WRAP(int, open64, const char *path, int flags, ...)
{
	const struct ew__system_files *disk = ew__system_files_at(AT_FDCWD, path);
	va_list arguments;
	mode_t mode;

	va_start(arguments, flags);
	mode = mode_of(flags, arguments);
	va_end(arguments);
	return disk ? open_on(disk, AT_FDCWD, path, flags, mode) : __real_open64(path, flags, mode);
}

WRAP(int, openat64, int dir_fd, const char *path, int flags, ...)
{
	const struct ew__system_files *disk = ew__system_files_at(dir_fd, path);
	va_list arguments;
	mode_t mode;

	va_start(arguments, flags);
	mode = mode_of(flags, arguments);
	va_end(arguments);
	return disk ? open_on(disk, dir_fd, path, flags, mode)
		    : __real_openat64(dir_fd, path, flags, mode);
}

WRAP(int, close, int fd)
{
	return ew__system_is_simulated(fd) ? told(ew__system_close(fd)) : __real_close(fd);
}

/* Nobody else is there who could have a lock. */
WRAP(int, fcntl64, int fd, int command, ...)
{
	va_list arguments;
	void *argument;

	va_start(arguments, command);
	argument = va_arg(arguments, void *);
	va_end(arguments);
	if (command == F_DUPFD_CLOEXEC && ew__system_is_simulated(fd))
		return told(ew__system_duplicate(fd));
	if (command == F_OFD_SETLK && ew__system_is_simulated(fd))
		return told(fault());
	if (command == F_OFD_GETLK && ew__system_is_simulated(fd)) {
		((struct flock *)argument)->l_type = F_UNLCK;
		return told(fault());
	}
	return __real_fcntl64(fd, command, argument);
}

WRAP(int, flock, int fd, int operation)
{
	const struct ew__system_files *disk = ew__system_files_of(fd);
	int r = disk ? fault() : 0;

	if (!disk)
		return __real_flock(fd, operation);
	return told(r < 0 ? r : disk->lock(fd));
}

/* ---- bytes ---- */

WRAP(ssize_t, pread64, int fd, void *buffer, size_t size, off_t offset)
{
	const struct ew__system_files *disk = ew__system_files_of(fd);
	int r = disk ? fault() : 0;

	if (!disk)
		return __real_pread64(fd, buffer, size, offset);
	return told(r < 0 ? r : disk->pread(fd, buffer, size, offset));
}

/* Whoever reads there says from where. */
WRAP(off_t, lseek64, int fd, off_t offset, int whence)
{
	return ew__system_files_of(fd) ? offset : __real_lseek64(fd, offset, whence);
}

/* Behind what is there. */
static int append(const struct ew__system_files *disk, int fd, const char *text, size_t size)
{
	struct stat file;
	size_t done = 0;
	int r = disk->stat(fd, &file);

	while (r >= 0 && done < size) {
		r = fault();
		if (r == 0)
			r = disk->pwrite(fd, text + done, size - done,
					 file.st_size + (int64_t)done);
		done += r > 0 ? (size_t)r : 0;
	}
	return r < 0 ? r : (int)done;
}

static int print(int fd, const char *format, va_list arguments)
{
	const struct ew__system_files *disk = ew__system_files_of(fd);
	char text[PATH_MAX + 2];

	if (!disk)
		return vdprintf(fd, format, arguments);
	vsnprintf(text, sizeof(text), format, arguments);
	return told(append(disk, fd, text, strlen(text)));
}

WRAP(int, dprintf, int fd, const char *format, ...)
{
	va_list arguments;
	int r;

	va_start(arguments, format);
	r = print(fd, format, arguments);
	va_end(arguments);
	return r;
}

WRAP(int, __dprintf_chk, int fd, int flag, const char *format, ...)
{
	va_list arguments;
	int r;

	(void)flag;
	va_start(arguments, format);
	r = print(fd, format, arguments);
	va_end(arguments);
	return r;
}

WRAP(int, fsync, int fd)
{
	const struct ew__system_files *disk = ew__system_files_of(fd);
	int r = disk ? fault() : 0;

	if (!disk)
		return __real_fsync(fd);
	return told(r < 0 ? r : disk->sync(fd, false));
}

/* ---- what is known of a file ---- */

static int stat_on(const struct ew__system_files *disk, int dir_fd, const char *path,
		   struct stat *ret_stat)
{
	int r = fault();

	return r < 0 ? r : disk->stat_at(dir_fd, path, ret_stat);
}

WRAP(int, stat64, const char *path, struct stat *ret_stat)
{
	const struct ew__system_files *disk = ew__system_files_at(AT_FDCWD, path);

	return disk ? told(stat_on(disk, AT_FDCWD, path, ret_stat)) : __real_stat64(path, ret_stat);
}

WRAP(int, fstat64, int fd, struct stat *ret_stat)
{
	const struct ew__system_files *disk = ew__system_files_of(fd);
	int r = disk ? fault() : 0;

	if (!disk)
		return __real_fstat64(fd, ret_stat);
	return told(r < 0 ? r : disk->stat(fd, ret_stat));
}

WRAP(int, fstatvfs64, int fd, struct statvfs *ret_statvfs)
{
	const struct ew__system_files *disk = ew__system_files_of(fd);
	int r = disk ? fault() : 0;

	if (!disk)
		return __real_fstatvfs64(fd, ret_statvfs);
	return told(r < 0 ? r : disk->statvfs(fd, ret_statvfs));
}

WRAP(int, faccessat, int dir_fd, const char *path, int mode, int flags)
{
	const struct ew__system_files *disk = ew__system_files_at(dir_fd, path);
	struct stat stat;

	return disk ? told(stat_on(disk, dir_fd, path, &stat))
		    : __real_faccessat(dir_fd, path, mode, flags);
}

WRAP(char *, realpath, const char *path, char *resolved)
{
	const struct ew__system_files *disk = ew__system_files_at(AT_FDCWD, path);
	struct stat stat;

	if (!disk)
		return __real_realpath(path, resolved);
	return told(stat_on(disk, AT_FDCWD, path, &stat)) < 0 ? NULL : strdup(path);
}

/* There are no times on the disk, but a change of them may fail. */
WRAP(int, futimens, int fd, const struct timespec times[2])
{
	return ew__system_files_of(fd) ? told(fault()) : __real_futimens(fd, times);
}

/* ---- names ---- */

static int make_folder(const struct ew__system_files *disk, int dir_fd, const char *path,
		       mode_t mode)
{
	int r = fault();

	return told(r < 0 ? r : disk->make_folder(dir_fd, path, mode));
}

WRAP(int, mkdir, const char *path, mode_t mode)
{
	const struct ew__system_files *disk = ew__system_files_at(AT_FDCWD, path);

	return disk ? make_folder(disk, AT_FDCWD, path, mode) : __real_mkdir(path, mode);
}

WRAP(int, mkdirat, int dir_fd, const char *path, mode_t mode)
{
	const struct ew__system_files *disk = ew__system_files_at(dir_fd, path);

	return disk ? make_folder(disk, dir_fd, path, mode) : __real_mkdirat(dir_fd, path, mode);
}

static int unlink_on(const struct ew__system_files *disk, int dir_fd, const char *path, int flags)
{
	int r = fault();

	return told(r < 0 ? r : disk->unlink(dir_fd, path, flags));
}

WRAP(int, unlinkat, int dir_fd, const char *path, int flags)
{
	const struct ew__system_files *disk = ew__system_files_at(dir_fd, path);

	return disk ? unlink_on(disk, dir_fd, path, flags) : __real_unlinkat(dir_fd, path, flags);
}

WRAP(int, rmdir, const char *path)
{
	const struct ew__system_files *disk = ew__system_files_at(AT_FDCWD, path);

	return disk ? unlink_on(disk, AT_FDCWD, path, AT_REMOVEDIR) : __real_rmdir(path);
}

/* ---- folders that are read ---- */

/* One of the disk's; a bit that no pointer to a real one has says so. */
struct folder {
	int fd;
	struct dirent entry;
};

#define IS_OF_DISK 1

static struct folder *folder_of(DIR *dir)
{
	return (uintptr_t)dir & IS_OF_DISK ? (struct folder *)((uintptr_t)dir - IS_OF_DISK) : NULL;
}

WRAP(DIR *, fdopendir, int fd)
{
	struct folder *folder;

	if (!ew__system_files_of(fd))
		return __real_fdopendir(fd);
	folder = calloc(1, sizeof(*folder));
	if (!folder)
		return NULL;
	folder->fd = fd;
	return (DIR *)((uintptr_t)folder + IS_OF_DISK);
}

WRAP(DIR *, opendir, const char *path)
{
	const struct ew__system_files *disk = ew__system_files_at(AT_FDCWD, path);
	DIR *dir;
	int fd;

	if (!disk)
		return __real_opendir(path);
	fd = open_on(disk, AT_FDCWD, path, O_RDONLY | O_DIRECTORY | O_CLOEXEC, 0);
	if (fd < 0)
		return NULL;
	dir = __wrap_fdopendir(fd);
	if (!dir)
		ew__system_close(fd);
	return dir;
}

WRAP(struct dirent *, readdir64, DIR *dir)
{
	struct folder *folder = folder_of(dir);
	int r;

	if (!folder)
		return __real_readdir64(dir);
	r = fault();
	if (r == 0)
		r = ew__system_files_of(folder->fd)
			    ->list(folder->fd, folder->entry.d_name, sizeof(folder->entry.d_name));
	return told(r) > 0 ? &folder->entry : NULL;
}

WRAP(int, closedir, DIR *dir)
{
	struct folder *folder = folder_of(dir);
	int r;

	if (!folder)
		return __real_closedir(dir);
	r = ew__system_close(folder->fd);
	free(folder);
	return told(r);
}

/* ---- chance by the seed ---- */

WRAP(ssize_t, getrandom, void *buffer, size_t size, unsigned flags)
{
	uint8_t *at = buffer;
	size_t i;

	(void)flags;
	for (i = 0; i < size; i++)
		at[i] = (uint8_t)ew_sim_random(256);
	return (ssize_t)size;
}
