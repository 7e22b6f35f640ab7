/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * Files, inside: a descriptor that other rooms may embed
 */

#include "io/call.h"

#include <endwell/file.h>

struct ew_file {
	struct ew_resource resource; /* no type: part of a temporary file */
	struct ew__close_job close_job;
	dev_t device;		  /* of its filesystem, in whose lane its calls stand */
	_Atomic unsigned holders; /* named temporary files that need this directory for their end */
	int fd;
	bool stream; /* a FIFO or a terminal: it has no offsets, and nothing ends a read there that waits for a writer */
	bool shown;	  /* the number of its descriptor was given out: others may have it open */
	bool write_waits; /* the filesystem has said that it cannot write at once */
};

/* dir's descriptor; NULL: the working directory. */
int ew__directory_fd(const struct ew_file *dir);

/* The device for calls in @dir. */
dev_t ew__directory_device(const struct ew_file *dir);

/* As ew_file_write(), but some of the bytes, once: a count; -ECANCELED: none. */
int ew__file_write_some(struct ew_file *file, const void *data, size_t size, int64_t offset);

/* linkat(2), also for what ew_file_link() refuses. */
int ew__file_link(struct ew_file *file, struct ew_file *dir, const char *name);

/*
 * The directory stays open, and its memory stays, until it is let go, also if its owner ends it before. NULL is the
 * working directory. To let go is for a thread of the pool: it may close.
 */
void ew__file_hold(struct ew_file *dir);
void ew__file_let_go(struct ew_file *dir);

/* openat(2) into @file: its descriptor and device. The caller has checked for a cancel. */
int ew__open_at(const struct ew_file *dir, const char *path, int flags, mode_t mode,
		struct ew_file *file);
