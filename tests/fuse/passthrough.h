/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * Calls into the filesystem become calls into a folder, after the rules have had their say.
 * FUSE_USE_VERSION is the includer's.
 */

#include <fuse_lowlevel.h>

/* How many may be here at a time. */
#define PASSTHROUGH_CALLS_MAX 256

/**
 * passthrough_open() - choose the folder; once, before the session is made
 *
 * Return: 0 or -errno.
 */
int passthrough_open(const char *folder);

extern const struct fuse_lowlevel_ops passthrough_operations;
