/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * System: the calls to a filesystem, as the library makes them, on threads
 * They go to the kernel, or, for what is in the filesystem of a simulated world, to that.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/stat.h>
#include <sys/statvfs.h>

/* Each returns 0, a count or a descriptor, or -errno. */
struct ew__system_files {
	bool (*owns)(int fd);
	bool (*owns_path)(const char *path); /* an absolute one */
	int (*open)(int dir_fd, const char *path, int flags, mode_t mode);
	int (*reopen)(int fd, int flags);
	int (*pread)(int fd, void *buffer, size_t size, int64_t offset);
	int (*pwrite)(int fd, const void *data, size_t size, int64_t offset);
	int (*sync)(int fd, bool data_only);
	int (*stat)(int fd, struct stat *ret_stat);
	int (*stat_at)(int dir_fd, const char *path, struct stat *ret_stat);
	int (*statvfs)(int fd, struct statvfs *ret_statvfs);
	int (*truncate)(int fd, int64_t size);
	int (*empty)(int fd);
	int (*chmod)(int fd, mode_t mode);
	int (*lease)(int fd);
	int (*link)(int fd, int dir_fd, const char *path);
	int (*rename)(int from_dir_fd, const char *from, int dir_fd, const char *to,
		      unsigned flags);
	int (*unlink)(int dir_fd, const char *path, int flags);

	/* These no room of the library makes, only programs do (tests/unit/server_disk.c). */
	int (*make_folder)(int dir_fd, const char *path, mode_t mode);
	int (*lock)(int fd); /* flock(2): for this opening alone, or -EWOULDBLOCK */
	int (*list)(int fd, char *ret_name, size_t size); /* a folder's next name; 0: no more */
};

/* Whose a file is, or what has, or will have, that path; NULL: the kernel's. */
const struct ew__system_files *ew__system_files_of(int fd);
const struct ew__system_files *ew__system_files_at(int dir_fd, const char *path);

int ew__system_open(int dir_fd, const char *path, int flags, mode_t mode);

/* The same file once more, with other flags. */
int ew__system_reopen(int fd, int flags);

int ew__system_pread(int fd, void *buffer, size_t size, int64_t offset);
int ew__system_pwrite(int fd, const void *data, size_t size, int64_t offset);
int ew__system_sync(int fd, bool data_only);
int ew__system_stat(int fd, struct stat *ret_stat);

/* Of what has the name itself, wherever that leads. */
int ew__system_stat_at(int dir_fd, const char *path, struct stat *ret_stat);
int ew__system_statvfs(int fd, struct statvfs *ret_statvfs);
int ew__system_truncate(int fd, int64_t size);

/* To nothing, also by a descriptor that is only read. */
int ew__system_empty(int fd);
int ew__system_chmod(int fd, mode_t mode);

/* 0: nobody else can write, as a lease tells that is given back at once; -EAGAIN: somebody can. */
int ew__system_lease(int fd);

/* A name for an open file; never another file's. */
int ew__system_link(int fd, int dir_fd, const char *path);
int ew__system_rename(int from_dir_fd, const char *from, int dir_fd, const char *to,
		      unsigned flags);
int ew__system_unlink(int dir_fd, const char *path, int flags);
