/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * Temporary file: nameless until it is published, gone in every other case
 * A file that never had a name cannot be left behind, not even by SIGKILL.
 */

#include <endwell/file.h>

struct ew_tempfile;

/**
 * ew_tempfile_open() - a nameless file in the filesystem of @dir (O_TMPFILE, mode 0600)
 *
 * Ownership:  the caller's. Its close gives the space back first (truncate), then closes; its abort
 *             hands both to a thread. A published file is only closed.
 * Errors:     -EOPNOTSUPP the filesystem has no nameless files; those of openat(2), -ECANCELED
 */
EW_SUSPENDS EW_API int ew_tempfile_open(struct ew_file *dir, struct ew_tempfile **ret_tempfile);

/** ew_tempfile_file() - to read and write it; borrowed, changes when it is sealed */
EW_API struct ew_file *ew_tempfile_file(struct ew_tempfile *tempfile);

/**
 * ew_tempfile_seal() - nobody can write it any more: reopened read-only, writer closed, proved
 *
 * The proof is a read lease, which the kernel refuses while a writer exists (fcntl(2), F_SETLEASE);
 * where the filesystem has no leases the process vouches for its only writer.
 * Errors:     -EBUSY somebody else holds it open for writing, -ENOMEM, those of openat(2), -ECANCELED.
 *             After an error the file is good only for closing.
 */
EW_SUSPENDS EW_API int ew_tempfile_seal(struct ew_tempfile *tempfile);

/**
 * ew_tempfile_publish() - give it its name; from then on closing keeps it
 *
 * One linkat(2): it happens or not. Durable only after a sync of the file before and of @dir after.
 * Errors:     -EEXIST the name is taken (a symlink counts), those of linkat(2), -ECANCELED: not published.
 */
EW_SUSPENDS EW_API int ew_tempfile_publish(struct ew_tempfile *tempfile, struct ew_file *dir,
					   const char *name);

EW_SUSPENDS EW_API int ew_tempfile_close(struct ew_tempfile **tempfile);

#define ew_tempfile_open(...) (ew__here(EW_SITE("ew_tempfile_open")), ew_tempfile_open(__VA_ARGS__))
