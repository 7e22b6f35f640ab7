/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * Scanning by a program: the file on its standard input, exit status 0 clean, 1 infected, anything
 * else failed.
 */

#include <sys/types.h>

#include <endwell/base.h>

#include "options.h"
#include "verdict.h"

#define EXEC_NOTE_BYTES 256
#define EXEC_ID_BYTES	16

struct exec {
	char unprivileged[2][EXEC_ID_BYTES]; /* user and group as numbers; "-" to stay who we are */
	char *arguments[OPTIONS_ARGUMENTS_MAX + 6];
};

/**
 * exec_init() - before the runtime starts
 * @exec:      filled in; borrows @arguments
 * @arguments: the command, NULL-terminated
 *
 * Return: 0, or -ENOENT when we are root and there is no user `nobody`.
 */
int exec_init(struct exec *exec, char *const *arguments);

/**
 * exec_scan() - run the program on a file
 * @exec:     what to run
 * @fd:       readable, of sealed bytes; borrowed, its file offset is moved
 * @verdict:  kind and signature are filled in
 * @ret_note: what went wrong, for the log; room for EXEC_NOTE_BYTES
 *
 * Suspends:     until the whole process tree is gone, those who left its process group or its
 *               session included.
 * Cancellation: ends the tree first.
 * Return:       0 with a verdict.
 * Errors:       -EPROTO it failed (see @ret_note); -ECANCELED; -ETIME the tree is not gone although
 *               all patience is; those of ew_process_spawn().
 */
EW_SUSPENDS int exec_scan(const struct exec *exec, int fd, struct verdict *verdict, char *ret_note);
