/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * What a filesystem is called by those who mounted it
 */

#include <stddef.h>
#include <sys/types.h>

/* "/srv/uploads (ext4)", or "8:1" where /proc/self/mountinfo does not know it. */
void ew__describe_device(dev_t device, char *text, size_t text_bytes);
