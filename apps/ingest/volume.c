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

static int tell(struct volume *volume, int result)
{
	EW_OWN(ew_mutex_hold, hold);
	int r = ew_mutex_lock(&volume->lock, EW_NEVER, &hold);

	if (r < 0)
		return r;
	volume->result = result;
	volume->since_ns = 0;
	volume->looks++;
	ew_condition_broadcast(&volume->looked);
	return 0;
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
		r = tell(volume, r);
		if (r < 0)
			return r;
	}
	return r;
}

int volume_start(struct volume *volume, struct bucket *bucket, struct front *front,
		 struct ew_scope *scope)
{
	volume->bucket = bucket;
	volume->looking = (struct front_needed){ .name = "the watch over the volume",
						 .run = look_when_wanted,
						 .argument = volume };
	return front_spawn_needed(front, &volume->looking, scope);
}

int volume_look(struct volume *volume)
{
	EW_OWN(ew_mutex_hold, hold);
	int r = ew_mutex_lock(&volume->lock, EW_NEVER, &hold);
	uint64_t looks;
	int64_t give_up_ns;

	if (r < 0)
		return r;
	looks = volume->looks;
	if (!volume->since_ns) {
		volume->since_ns = ew_now();
		ew_event_set(&volume->wanted);
	}
	give_up_ns = volume->since_ns + PATIENCE;
	while (volume->looks == looks) {
		r = ew_condition_wait(&volume->looked, give_up_ns, &hold);
		if (r < 0)
			return r;
	}
	return volume->result;
}
