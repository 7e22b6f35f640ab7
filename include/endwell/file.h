/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * Files: opened, read, written, synced, named
 * No call blocks a worker: threads do what can block, in a lane for each filesystem, so that one which is slow, or
 * does not answer, takes nothing from the others.
 *
 * Every call is cancellable until a thread has begun it: then -ECANCELED, and nothing happened. Once
 * begun it is waited for, and its real result is returned.
 */

#include <endwell/resource.h>
#include <sys/stat.h>
#include <sys/statvfs.h>

/** struct ew_file - an open file or directory; usable from any worker, by one task at a time */
struct ew_file;

/**
 * ew_file_open() - open @path relative to directory @dir
 * @dir:   NULL: the working directory
 * @flags: as open(2); O_CLOEXEC and O_NONBLOCK (a FIFO must not hang) are added
 *
 * Ownership:  the file is the caller's.
 * Errors:     those of openat(2), -ECANCELED.
 */
EW_SUSPENDS EW_API int ew_file_open(struct ew_file *dir, const char *path, int flags, mode_t mode,
				    struct ew_file **ret_file);

/** ew_file_adopt() - own descriptor @fd from now on (taken on success); -ENOMEM. Does not suspend */
EW_MUST_CHECK EW_API int ew_file_adopt(int fd, struct ew_file **ret_file);

/** ew_file_fd() - the descriptor; stays the file's. A temporary file asked for it may from now on be open elsewhere too */
EW_API int ew_file_fd(struct ew_file *file);

/** ew_file_read() - up to @size bytes at @offset; 0 is the end. Errors: of pread(2), -ECANCELED */
EW_SUSPENDS EW_API int ew_file_read(struct ew_file *file, void *buffer, size_t size,
				    int64_t offset);

/**
 * ew_file_write() - all of @size bytes at @offset
 * Return:  0. Composite: on an error some of the bytes may have been written; -ECANCELED is "stopped".
 * Errors:  of pwrite(2) (-ENOSPC, -EDQUOT, -EIO ...), -ECANCELED
 */
EW_SUSPENDS EW_API int ew_file_write(struct ew_file *file, const void *buffer, size_t size,
				     int64_t offset);

/**
 * ew_file_sync() - make data durable
 * @data_only: fdatasync(2) instead of fsync(2)
 * Errors:     those of fsync(2), -ECANCELED: not begun. A failed sync is final: the pages may be marked clean; never retry
 *             it (kernel 4.13+)
 */
EW_SUSPENDS EW_API int ew_file_sync(struct ew_file *file, bool data_only);

/** ew_file_stat() - what the filesystem says of it. Errors: of fstat(2), -ECANCELED */
EW_SUSPENDS EW_API int ew_file_stat(struct ew_file *file, struct stat *ret_stat);

/** ew_file_statvfs() - and of itself. Errors: of fstatvfs(3), -ECANCELED */
EW_SUSPENDS EW_API int ew_file_statvfs(struct ew_file *file, struct statvfs *ret_statvfs);

/** ew_file_truncate() - cut or extend it. Errors: of ftruncate(2), -ECANCELED: as long as before */
EW_SUSPENDS EW_API int ew_file_truncate(struct ew_file *file, int64_t size_bytes);

/** ew_file_chmod() - change its mode. Errors: of fchmod(2), -ECANCELED: as before */
EW_SUSPENDS EW_API int ew_file_chmod(struct ew_file *file, mode_t mode);

/**
 * ew_file_link() - give an open file the name @name in @dir; never overwrites
 * Errors:  -EEXIST the name is taken; -EPERM a temporary file is published instead; those of linkat(2), -ECANCELED: no name
 *          was given
 */
EW_SUSPENDS EW_API int ew_file_link(struct ew_file *file, struct ew_file *dir, const char *name);

/** ew_file_rename() - @flags as RENAME_NOREPLACE. Errors: of renameat2(2), -ECANCELED: the names are as before */
EW_SUSPENDS EW_API int ew_file_rename(struct ew_file *from_dir, const char *from,
				      struct ew_file *to_dir, const char *to, unsigned flags);

/** ew_file_unlink() - remove a name; @flags 0 or AT_REMOVEDIR. Errors: of unlinkat(2), -ECANCELED: it is there */
EW_SUSPENDS EW_API int ew_file_unlink(struct ew_file *dir, const char *name, int flags);

/**
 * ew_file_offload() - as ew_offload(), on a thread of the lane of the filesystem that @file is on
 *
 * For blocking calls on a filesystem: one that does not answer then keeps no thread from other calls.
 * Errors:  as ew_offload()
 */
EW_SUSPENDS EW_API int ew_file_offload(struct ew_file *file, int (*fn)(void *argument),
				       void *argument, int *ret_result);

/**
 * ew_file_close() - close by name
 * Suspends:  the last close of a file can take long (its blocks are freed): it runs on a thread.
 * Errors:    those of close(2), for filesystems that report late; -ECANCELED as ew_close(). The descriptor is gone in any
 *            case.
 */
EW_SUSPENDS EW_API int ew_file_close(struct ew_file **file);

#define ew_file_open(...)  (ew__here(EW_SITE("ew_file_open")), ew_file_open(__VA_ARGS__))
#define ew_file_adopt(...) (ew__here(EW_SITE("ew_file_adopt")), ew_file_adopt(__VA_ARGS__))
