/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * Does the volume still take changes?
 */

#include <stdatomic.h>
#include <stdint.h>

#include <endwell/file.h>

struct touch {
	_Atomic int64_t since_ns; /* of the one that is under way; 0: none is */
	_Atomic int result;	  /* of the last that came back */
};

/**
 * touch_folder() - set the times of a folder to now, to see whether it can be done
 * @touch:  zeroed before the first
 * @folder: may be opened read-only
 *
 * One at a time: while another's is under way its predecessor's result is returned.
 * Return: 0 or -errno.
 * Errors: -EROFS, -EIO and others from the filesystem; -ETIMEDOUT one has been under way for 5 s,
 *         so the volume hangs.
 */
EW_SUSPENDS int touch_folder(struct touch *touch, struct ew_file *folder);
