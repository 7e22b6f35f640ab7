/* SPDX-License-Identifier: Apache-2.0 */
/*
 * After an error ext4 and xfs refuse every change, and nothing that only reads shows it: neither
 * the flags and free blocks of statvfs(2) nor access(2) (seen with 6.18, an ext4 that had an error
 * and an xfs that was shut down). A change of a folder's times needs no room, leaves nothing
 * behind, works everywhere, and is refused like any other change.
 *
 * A volume that hangs would keep whoever looks at it, so a task of its own does.
 */
#include "volume.h"

#include <errno.h>
#include <sys/stat.h>

#include <endwell/clock.h>
#include <endwell/task.h>

#define PATIENCE (5 * EW_SECOND)

static int set_times(void *argument)
{
	struct ew_file *folder = argument;

	return futimens(ew_file_fd(folder), NULL) < 0 ? -errno : 0;
}

static int look(struct bucket *bucket)
{
	struct ew_file *folder = bucket->staging.folder;
	int result, r = bucket_floor(bucket);

	if (r < 0)
		return r;
	r = ew_file_offload(folder, set_times, folder, &result);
	return r < 0 ? r : result;
}

static int look_when_wanted(void *argument)
{
	struct volume *volume = argument;
	int r;

	while ((r = ew_event_wait(&volume->wanted, EW_NEVER)) == 0) {
		ew_event_reset(&volume->wanted);
		r = look(volume->bucket);
		if (r == -ECANCELED)
			return r;
		atomic_store(&volume->result, r);
		/* Whoever asks from here on asks for another look, and may yet hear of this one. */
		atomic_store(&volume->since_ns, 0);
		ew_event_set(&volume->looked);
		ew_event_reset(&volume->looked);
	}
	return r;
}

int volume_start(struct volume *volume, struct bucket *bucket, struct ew_scope *scope)
{
	volume->bucket = bucket;
	return ew_spawn(scope, look_when_wanted, volume);
}

int volume_look(struct volume *volume)
{
	int64_t since_ns = 0, now_ns = ew_now();
	int r;

	if (atomic_compare_exchange_strong(&volume->since_ns, &since_ns, now_ns)) {
		since_ns = now_ns;
		ew_event_set(&volume->wanted);
	}
	r = ew_event_wait(&volume->looked, since_ns + PATIENCE);
	return r < 0 ? r : atomic_load(&volume->result);
}
