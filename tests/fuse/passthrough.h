/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * Calls into the filesystem become calls into a folder, after the rules have had their say.
 * FUSE_USE_VERSION is the includer's.
 */

#include <fuse_lowlevel.h>
#include <sys/stat.h>

/* How many may be here at a time. */
#define PASSTHROUGH_CALLS_MAX 256

/**
 * passthrough_open() - choose the folder; once, before the session is made
 *
 * Return: 0 or -errno.
 */
int passthrough_open(const char *folder);

/**
 * passthrough_nameless() - make a file without a name
 * @flags: of open(2)
 *
 * Return: 0 or the error, positive.
 */
int passthrough_nameless(fuse_ino_t folder, int flags, mode_t mode,
			 struct fuse_entry_param *ret_entry, int *ret_fd);

/* The kernel has not heard of it: what passthrough_nameless() gave is put away. */
void passthrough_forget(fuse_ino_t ino, int fd);

extern const struct fuse_lowlevel_ops passthrough_operations;
