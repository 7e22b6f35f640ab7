/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * Temporary file: nameless until it is published, gone in every other case
 * A file that never had a name cannot be left behind, not even by SIGKILL. Where the filesystem has no
 * such files, one with a staging name does all the same but that: a crash leaves the name.
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

/**
 * ew_tempfile_open_named() - the same under a staging name, which goes when the file ends
 * @dir:  stays open until then, also if its owner closes it before; NULL: the working directory
 * @name: below @dir, copied; must be new (O_EXCL). Whoever may be killed knows beforehand which names are his
 *
 * Ownership:  the caller's file; the name is the file's. Its close and its abort give the space back, close, and
 *             remove the name, on one thread. A published file loses nothing but its staging name.
 *             The close fails with the first error of these, -ESTALE: the name led to another file, and is left.
 * Errors:     those of openat(2), -EEXIST, -ECANCELED. -EINTR (some network filesystems): the name may exist.
 */
EW_SUSPENDS EW_API int ew_tempfile_open_named(struct ew_file *dir, const char *name,
					      struct ew_tempfile **ret_tempfile);

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
 * A staging name must lead to the open file (device and inode). An error of the filesystem is checked against
 * who has the name now: network filesystems report as failed what was done, when a reply was lost. Where that cannot be
 * told, ew_outcome() is EW_OUTCOME_UNKNOWN, and the file is not truncated.
 * Errors:     -EEXIST the name is taken (a symlink counts), those of linkat(2), -ECANCELED: not published.
 *             -ESTALE the staging name leads to another file.
 */
EW_SUSPENDS EW_API int ew_tempfile_publish(struct ew_tempfile *tempfile, struct ew_file *dir,
					   const char *name);

/**
 * ew_tempfile_publish_by_rename() - the same for a named file where the filesystem has no hard links
 *
 * One renameat2(2) with RENAME_NOREPLACE. Between the look at the staging name and the rename somebody who may write
 * in its directory could replace it, so that one must be private.
 * Errors:     as ew_tempfile_publish(), those of renameat2(2); -EINVAL: the filesystem cannot promise not to overwrite.
 */
EW_SUSPENDS EW_API int ew_tempfile_publish_by_rename(struct ew_tempfile *tempfile,
						     struct ew_file *dir, const char *name);

/** ew_tempfile_close() - end it by name, as above. Errors: as ew_close() */
EW_SUSPENDS EW_API int ew_tempfile_close(struct ew_tempfile **tempfile);

#define ew_tempfile_open(...) (ew__here(EW_SITE("ew_tempfile_open")), ew_tempfile_open(__VA_ARGS__))
#define ew_tempfile_open_named(...)                                                                \
	(ew__here(EW_SITE("ew_tempfile_open_named")), ew_tempfile_open_named(__VA_ARGS__))
