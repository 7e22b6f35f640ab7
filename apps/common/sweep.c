/* SPDX-License-Identifier: Apache-2.0 */
/*
 * By lease, never by age: a name is removed if its lease is one that we hold the dead owner's lock
 * of, in the folders of staging, and in a bucket whose files end with their server. A few leases at a
 * time, until each that was there at the start has been asked: those that stay are in nobody's way.
 * Names are only unlinked, not truncated: one that was published and killed before its end has
 * the same bytes as the name in the bucket.
 *
 * It runs while files come, a folder at a time on a thread, because a slow filesystem may need
 * minutes. The folders are synced before the lease goes, so that a power cut does not bring back a
 * name without its lease. A lease of which anything could not be removed stays for the next start.
 *
 * A name whose lease does not exist at all is nobody's, unless somebody has removed the lease of a
 * live server by hand. It is reported and left alone.
 */
#include "sweep.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "log.h"

/* One folder of names, on a thread. */
struct visit {
	struct lease *lease;
	int parent_fd;
	char folder[8];
	unsigned int removed;
	unsigned int orphans;
	int error; /* the first, of a folder that could not be gone through and synced */
};

/* Of the leases, on a thread; those that went, those that stay, and why the first does. */
struct burial {
	struct lease *lease;
	size_t buried;
	size_t stay;
	char why[512];
};

static bool is_name(const char *name)
{
	return strlen(name) == 2 * LEASE_ID_TEXT - 1 && name[LEASE_ID_TEXT - 1] == '-';
}

static bool is_of(const char *name, const char *id)
{
	return memcmp(name, id, LEASE_ID_TEXT - 1) == 0;
}

static struct lease_dead *find_dead(struct lease *lease, const char *name)
{
	for (size_t i = 0; i < lease->dead_count; i++)
		if (is_of(name, lease->dead[i].id))
			return &lease->dead[i];
	return NULL;
}

/* In this order: a live owner removes his names before his lease. */
static bool is_orphan(const struct lease *lease, int folder_fd, const char *name)
{
	char id[LEASE_ID_TEXT];

	memcpy(id, name, LEASE_ID_TEXT - 1);
	id[LEASE_ID_TEXT - 1] = '\0';
	return faccessat(lease->folder_fd, id, F_OK, AT_SYMLINK_NOFOLLOW) < 0 && errno == ENOENT &&
	       faccessat(folder_fd, name, F_OK, AT_SYMLINK_NOFOLLOW) == 0;
}

static void judge(struct visit *visit, int folder_fd, const char *name)
{
	struct lease_dead *dead;

	if (!is_name(name) || is_of(name, visit->lease->id))
		return;
	dead = find_dead(visit->lease, name);
	if (!dead)
		visit->orphans += is_orphan(visit->lease, folder_fd, name);
	else if (unlinkat(folder_fd, name, 0) == 0)
		visit->removed++;
	else if (errno != ENOENT && dead->error == 0)
		dead->error = -errno;
}

static int sweep_folder(void *argument)
{
	struct visit *visit = argument;
	const struct dirent *entry;
	DIR *folder;
	int fd, r = 0;

	fd = openat(visit->parent_fd, visit->folder,
		    O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW);
	if (fd < 0)
		return errno == ENOENT ? 0 : -errno;
	folder = fdopendir(fd);
	if (!folder) {
		r = -errno;
		close(fd);
		return r;
	}
	while (errno = 0, (entry = readdir(folder)))
		judge(visit, fd, entry->d_name);
	r = -errno;
	if (r == 0 && fsync(fd) < 0)
		r = -errno;
	closedir(folder);
	return r;
}

static int visit_folder(struct ew_file *parent, struct visit *visit)
{
	int r, result;

	visit->parent_fd = ew_file_fd(parent);
	r = ew_file_offload(parent, sweep_folder, visit, &result);
	if (r == 0 && result < 0 && visit->error == 0)
		visit->error = result;
	return r;
}

static int visit_all(struct staging *staging, struct visit *visit)
{
	int r = 0;

	for (unsigned int i = 0; staging->names && i < STAGING_FOLDERS && r == 0; i++) {
		snprintf(visit->folder, sizeof(visit->folder), "%02x", i);
		r = visit_folder(staging->names, visit);
	}
	if (r == 0 && staging->leased) {
		strcpy(visit->folder, ".");
		r = visit_folder(staging->leased, visit);
	}
	return r;
}

static int bury_one(struct lease *lease, struct lease_dead *dead, char *error, size_t error_bytes)
{
	if (dead->error == 0)
		return lease_bury(lease, dead, error, error_bytes);
	snprintf(error, error_bytes, "cannot remove a name of the lease %s: %s", dead->id,
		 strerror(-dead->error));
	return dead->error;
}

static int bury(void *argument)
{
	struct burial *burial = argument;
	struct lease *lease = burial->lease;
	char error[sizeof(burial->why)];

	for (size_t i = 0; i < lease->dead_count; i++)
		if (bury_one(lease, &lease->dead[i], error, sizeof(error)) == 0)
			burial->buried++;
		else if (burial->stay++ == 0)
			memcpy(burial->why, error, sizeof(error));
	lease_let_go(lease);
	return 0;
}

static int bury_all(struct staging *staging, struct burial *burial)
{
	int result;

	return ew_file_offload(staging->folder, bury, burial, &result);
}

static void keep_all(struct burial *burial, int error)
{
	if (burial->stay == 0)
		snprintf(burial->why, sizeof(burial->why),
			 "cannot go through the folder of their names: %s", strerror(-error));
	burial->stay += burial->lease->dead_count;
}

/* Those that have not been asked for their locks. */
static void keep_rest(struct burial *burial, int error)
{
	if (burial->stay == 0)
		snprintf(burial->why, sizeof(burial->why), "cannot look at it: %s",
			 strerror(-error));
	burial->stay += burial->lease->others_count - burial->lease->asked_count;
}

static int take_over(void *lease)
{
	lease_take_over(lease);
	return 0;
}

static int let_go(void *lease)
{
	lease_let_go(lease);
	return 0;
}

static void note_doubtful(struct burial *burial)
{
	const struct lease *lease = burial->lease;

	if (lease->doubtful_count > 0 && burial->stay == 0)
		snprintf(burial->why, sizeof(burial->why), "cannot tell whether it is in use: %s",
			 strerror(-lease->doubtful_error));
	burial->stay += lease->doubtful_count;
}

static void report(const struct staging *staging, const struct visit *visit,
		   const struct burial *burial)
{
	if (visit->orphans > 0)
		log_note("warn", "sweep-orphans",
			 "%u files belong to no lease and are left alone; remove them from the %s "
			 "when no server uses it",
			 visit->orphans,
			 staging->leased ? "bucket or the state folder" : "state folder");
	if (burial->why[0])
		log_note("error", "sweep-failed",
			 "%zu leases stay for the next start, %u names were removed; the first: %s",
			 burial->stay, visit->removed, burial->why);
	else if (burial->buried > 0)
		log_note("info", "swept", "%zu leases of servers that are gone, %u names",
			 burial->buried, visit->removed);
}

/* Of those that have been taken over, and of what belongs to nobody. */
static int sweep_taken(struct staging *staging, struct visit *visit, struct burial *burial)
{
	int result, r;

	visit->error = 0;
	visit->orphans = 0;
	r = visit_all(staging, visit);
	atomic_store(&staging->swept, visit->removed);
	if (r == 0)
		r = visit->error;
	if (r == 0 && visit->lease->dead_count > 0)
		r = bury_all(staging, burial);
	if (r == 0 || r == -ECANCELED)
		return r;
	keep_all(burial, r);
	return ew_file_offload(staging->folder, let_go, burial->lease, &result);
}

int sweep_run(void *argument)
{
	struct staging *staging = argument;
	struct lease *lease = &staging->lease;
	struct visit visit = { .lease = lease };
	struct burial burial = { .lease = lease };
	int result, r;

	do {
		r = ew_file_offload(staging->folder, take_over, lease, &result);
		if (r == 0)
			r = sweep_taken(staging, &visit, &burial);
	} while (r == 0 && lease->asked_count < lease->others_count);
	if (r == -ECANCELED)
		return r;
	if (r < 0)
		keep_rest(&burial, r);
	note_doubtful(&burial);
	report(staging, &visit, &burial);
	return 0;
}
