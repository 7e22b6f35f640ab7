/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * Files, inside: a descriptor that other rooms may embed
 */

#include "io/op.h"

#include <endwell/file.h>

struct ew_file {
	struct ew_resource resource; /* no type: part of a temporary file */
	struct ew__close_job close_job;
	_Atomic unsigned holders; /* named temporary files that need this directory for their end */
	int fd;
	bool stream; /* a FIFO or a terminal: it has no offsets, and nothing ends a read there that waits for a writer */
};

/* dir's descriptor; NULL: the working directory. */
int ew__directory_fd(const struct ew_file *dir);

/* linkat(2) through the ring, also for what ew_file_link() refuses. */
int ew__file_link(struct ew_file *file, struct ew_file *dir, const char *name);

/* Who has the name @name in @dir, if it is a link then the link itself; no check for a cancel. */
int ew__file_stat_name(struct ew_file *dir, const char *name, struct stat *ret_stat);

/*
 * The directory stays open, and its memory stays, until it is let go, also if its owner ends it before. NULL is the
 * working directory. To let go is for a pool thread: it may close.
 */
void ew__file_hold(struct ew_file *dir);
void ew__file_let_go(struct ew_file *dir);

/* openat(2) through the ring; the descriptor, or -errno. The caller has checked for a cancel. */
int ew__open_at(const struct ew_file *dir, const char *path, int flags, mode_t mode);
