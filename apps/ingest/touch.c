/* SPDX-License-Identifier: Apache-2.0 */
/*
 * After an error ext4 and xfs refuse every change, and nothing that only reads shows it: neither
 * the flags and free blocks of statvfs(2) nor access(2) (seen with 6.18, an ext4 that had an error
 * and an xfs that was shut down). A change of a folder's times needs no room, leaves nothing
 * behind, works everywhere, and is refused like any other change.
 *
 * On a volume that hangs each attempt would take one more thread, so there is one at a time.
 */
#include "touch.h"

#include <errno.h>
#include <stddef.h>
#include <sys/stat.h>

#include <endwell/clock.h>

#define TOUCH_PATIENCE (5 * EW_SECOND)

static int set_times(void *argument)
{
	struct ew_file *folder = argument;

	return futimens(ew_file_fd(folder), NULL) < 0 ? -errno : 0;
}

int touch_folder(struct touch *touch, struct ew_file *folder)
{
	int64_t since = 0;
	int r, result;

	if (!atomic_compare_exchange_strong(&touch->since_ns, &since, ew_now()))
		return ew_now() - since > TOUCH_PATIENCE ? -ETIMEDOUT : atomic_load(&touch->result);

	r = ew_file_offload(folder, set_times, folder, &result);
	if (r == 0)
		atomic_store(&touch->result, r = result);
	atomic_store(&touch->since_ns, 0);
	return r;
}
