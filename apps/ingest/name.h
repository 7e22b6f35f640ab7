/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* File names: from the path of a request to one name in the bucket, or the reason why not. */

#include <stddef.h>

#define NAME_BYTES_MAX 255 /* NAME_MAX of every filesystem that matters */

/**
 * name_from_target() - the file name in a request target such as `/files/cat%20photo.png`
 * @target:   the target as it came, not decoded, @target_bytes long
 * @prefix:   what the path must start with, such as `/files/`
 * @ret_name: receives the decoded name and its NUL; room for NAME_BYTES_MAX + 1
 *
 * Decodes percent escapes once and keeps the bytes as they are. One path segment is accepted: valid
 * UTF-8, 1 to 255 bytes, without slash, NUL, C0 or C1 control, and without a leading dot. A query
 * is refused.
 *
 * Return: NULL when @ret_name holds a good name, else one sentence that says what is wrong with it.
 */
const char *name_from_target(const char *target, size_t target_bytes, const char *prefix,
			     char *ret_name);
