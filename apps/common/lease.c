/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Where files cannot be nameless a crash leaves their names, and the next start must know which of
 * them are dead. Age does not tell: a file may take days to come. So
 *
 *	STATE/lock           held by a server for the moment in which it makes its lease
 *	STATE/leases/ID      one for each server, locked as long as it lives
 *	STATE/staging/XX/ID-RANDOM
 *
 * The id is a part of each name, so that a name belongs to exactly one lease before it exists, and
 * the record costs nothing and cannot be torn. What has to be shown is that a lease file exists
 * whenever one of its names does, and is locked whenever its owner lives.
 *
 * It exists: it is made, and its folder synced, before the first name; and removed only when none
 * is left: by its owner who has counted them, or by a sweep that has removed them, when either has
 * synced their folders. So a power cut keeps it at least as long as a name.
 *
 * It is locked: a lease is made and locked under STATE/lock, and only those that were there when one
 * held that are asked for their locks. So nobody meets a lease between its making and its locking.
 * Whoever gets the lock of another's lease has proof that the owner is gone, and keeps it while he
 * sweeps; whoever else asks meanwhile finds the lease locked. A file that was put back from a copy
 * is another one, which nobody has locked: so the owner has a lock for his id on STATE, too
 * (folder_lock.c), and that must be free as well.
 *
 * flock(2) and not fcntl(2): the lock belongs to the open file, as with OFD locks, so it goes with
 * the process however that ends, and not because the process closed another descriptor of the same
 * file. NFS carries both to its server (that is why the file is open for writing); FUSE carries
 * them, or keeps them within this machine, where all users of the mount are. Whether they work is
 * tried: a second opening of our own lease must not get the lock.
 */
#include "lease.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "folder_lock.h"
#include "hex.h"

#define LEASE_PATIENCE_MS 10000
#define LEASE_LOOK_MS	  10

/* Before the bucket's path, which begins with a slash, if names in the bucket are under the lease. */
#define LEASE_OF_BODIES "bodies\n"

static int say(char *error, size_t error_bytes, int r, const char *what, const char *path)
{
	snprintf(error, error_bytes, "%s %s: %s", what, path, strerror(-r));
	return r;
}

static int try_lock(int fd)
{
	return flock(fd, LOCK_EX | LOCK_NB) < 0 ? -errno : 0;
}

/* The lock of the state folder; it is free when the descriptor is closed. */
static int enter(int state_fd, const char *state, char *error, size_t error_bytes)
{
	const struct timespec pause = { .tv_nsec = LEASE_LOOK_MS * 1000000L };
	int fd, r, waited_ms = 0;

	fd = openat(state_fd, "lock", O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
	if (fd < 0)
		return say(error, error_bytes, -errno, "cannot make the lock file in", state);
	while ((r = try_lock(fd)) == -EWOULDBLOCK && waited_ms < LEASE_PATIENCE_MS) {
		nanosleep(&pause, NULL);
		waited_ms += LEASE_LOOK_MS;
	}
	if (r == 0)
		return fd;
	close(fd);
	if (r != -EWOULDBLOCK)
		return say(error, error_bytes, r, "cannot lock in the state folder", state);
	snprintf(error, error_bytes,
		 "another server has kept the lock of the state folder %s for %d s: it hangs "
		 "while it starts, or is a version that shares with nobody; give this one its own "
		 "with --state",
		 state, LEASE_PATIENCE_MS / 1000);
	return r;
}

static int open_folder(int state_fd)
{
	int fd;

	if (mkdirat(state_fd, "leases", 0700) < 0 && errno != EEXIST)
		return -errno;
	fd = openat(state_fd, "leases", O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW);
	return fd < 0 ? -errno : fd;
}

/* What locks are worth here: another opening must be refused ours. */
static int prove_lock(const struct lease *lease)
{
	int fd = openat(lease->folder_fd, lease->id, O_RDWR | O_CLOEXEC | O_NOFOLLOW), r;

	if (fd < 0)
		return -errno;
	r = try_lock(fd);
	close(fd);
	if (r == -EWOULDBLOCK)
		return 0;
	return r < 0 ? r : -ENOLCK;
}

static int make_own(struct lease *lease, const char *bucket)
{
	uint8_t random[LEASE_ID_BYTES];
	int r;

	if (getrandom(random, sizeof(random), 0) != sizeof(random))
		return -EIO;
	hex_print(random, sizeof(random), lease->id);
	lease->fd = openat(lease->folder_fd, lease->id,
			   O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0600);
	if (lease->fd < 0)
		return -errno;
	r = dprintf(lease->fd, "%s%s\n", lease->is_leased ? LEASE_OF_BODIES : "", bucket) < 0 ||
			    fsync(lease->fd) < 0
		    ? -errno
		    : 0;
	if (r == 0)
		r = try_lock(lease->fd);
	if (r == 0)
		r = prove_lock(lease);
	if (r == 0)
		r = folder_lock_live(lease->state_fd, lease->id);
	if (r == 0 && (fsync(lease->folder_fd) < 0 || fsync(lease->state_fd) < 0))
		r = -errno;
	return r;
}

static bool is_id(const char *name)
{
	return strlen(name) == LEASE_ID_TEXT - 1 &&
	       strspn(name, "0123456789abcdef") == LEASE_ID_TEXT - 1;
}

/* Takes over a lease if its owner is gone. One that is just ending may vanish under our hands. */
static int take_over(struct lease *lease, const char *id)
{
	struct lease_dead *dead = &lease->dead[lease->dead_count];
	int fd = openat(lease->folder_fd, id, O_RDWR | O_CLOEXEC | O_NOFOLLOW), r;

	if (fd < 0)
		return errno == ENOENT ? 0 : -errno;
	r = try_lock(fd);
	if (r == 0)
		r = folder_lock_lives(lease->state_fd, id);
	if (r != 0) {
		close(fd);
		return r == 1 || r == -EWOULDBLOCK ? 0 : r;
	}
	dead->fd = fd;
	dead->error = 0;
	memcpy(dead->id, id, sizeof(dead->id));
	lease->dead_count++;
	return 0;
}

/* One that cannot be asked whether its owner lives is left alone. The start goes on, and the sweep says it. */
static void take_over_or_note(struct lease *lease, const char *id)
{
	int r = take_over(lease, id);

	if (r < 0 && lease->doubtful_count++ == 0)
		lease->doubtful_error = r;
}

static int note_other(struct lease *lease, const char *id)
{
	size_t room = lease->others_count;
	void *others;

	/* Doubled when it is full, at each power of two. */
	if ((room & (room - 1)) == 0) {
		others = realloc(lease->others, (room ? 2 * room : 1) * sizeof(*lease->others));
		if (!others)
			return -ENOMEM;
		lease->others = others;
	}
	memcpy(lease->others[lease->others_count++], id, LEASE_ID_TEXT);
	return 0;
}

static int note_others(struct lease *lease)
{
	int fd = openat(lease->folder_fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC), r;
	DIR *folder = fd < 0 ? NULL : fdopendir(fd);
	const struct dirent *entry;

	if (!folder) {
		r = -errno;
		close(fd);
		return r;
	}
	r = 0;
	while (r == 0 && (errno = 0, entry = readdir(folder)))
		if (is_id(entry->d_name) && strcmp(entry->d_name, lease->id) != 0)
			r = note_other(lease, entry->d_name);
	if (r == 0)
		r = -errno;
	closedir(folder);
	return r;
}

void lease_take_over(struct lease *lease)
{
	while (lease->dead_count < LEASE_DEAD_MAX && lease->asked_count < lease->others_count)
		take_over_or_note(lease, lease->others[lease->asked_count++]);
}

void lease_let_go(struct lease *lease)
{
	for (size_t i = 0; i < lease->dead_count; i++)
		if (lease->dead[i].fd >= 0)
			close(lease->dead[i].fd);
	lease->dead_count = 0;
}

static int take_inside(struct lease *lease, const char *state, const char *bucket, char *error,
		       size_t error_bytes)
{
	int r;

	lease->folder_fd = open_folder(lease->state_fd);
	if (lease->folder_fd < 0)
		return say(error, error_bytes, lease->folder_fd, "cannot open the leases in",
			   state);
	r = make_own(lease, bucket);
	if (r == -ENOLCK)
		snprintf(error, error_bytes,
			 "locks do not exclude anybody on the filesystem of %s: whose a file "
			 "is could not be told after a crash; choose a folder on another one "
			 "with --state",
			 state);
	else if (r < 0)
		say(error, error_bytes, r, "cannot make a lease in", state);
	if (r == 0) {
		r = note_others(lease);
		if (r < 0)
			say(error, error_bytes, r, "cannot read the leases in", state);
	}
	return r;
}

int lease_take(struct lease *lease, int state_fd, const char *state, const char *bucket,
	       bool is_leased, char *error, size_t error_bytes)
{
	int lock_fd, r;

	*lease = LEASE_NONE;
	lease->is_leased = is_leased;
	lease->state_fd = state_fd;
	r = lock_fd = enter(lease->state_fd, state, error, error_bytes);
	if (lock_fd >= 0) {
		r = take_inside(lease, state, bucket, error, error_bytes);
		close(lock_fd);
	}
	return r;
}

void lease_probe_name(const char *id, char *ret_name)
{
	snprintf(ret_name, LEASE_PROBE_BYTES, ".ew-ingest-probe-%s", id);
}

#define TEXT_BYTES (sizeof(LEASE_OF_BODIES) + PATH_MAX)

/* The path of the bucket that the lease says, or "" if it says none; in @text. */
static int read_bucket(int fd, char text[TEXT_BYTES], bool *ret_is_leased, const char **ret_bucket)
{
	ssize_t bytes = pread(fd, text, TEXT_BYTES - 1, 0);
	size_t head = strlen(LEASE_OF_BODIES);

	if (bytes < 0)
		return -errno;
	/* A path may have any byte but NUL; the last one is the line's end. */
	text[bytes > 0 ? bytes - 1 : 0] = '\0';
	*ret_is_leased = strncmp(text, LEASE_OF_BODIES, head) == 0;
	*ret_bucket = *ret_is_leased ? text + head : text;
	return 0;
}

static int remove_probe(const struct lease_dead *dead, const char *bucket)
{
	char name[LEASE_PROBE_BYTES];
	int fd = open(bucket, O_RDONLY | O_DIRECTORY | O_CLOEXEC), r = 0;

	if (fd < 0)
		/* Killed before its test, or the bucket has gone with it. */
		return errno == ENOENT || errno == ENOTDIR ? 0 : -errno;
	lease_probe_name(dead->id, name);
	if (unlinkat(fd, name, 0) < 0 && errno != ENOENT)
		r = -errno;
	/* Before the lease goes, or a power cut could bring back the name alone. */
	if (r == 0 && fsync(fd) < 0)
		r = -errno;
	close(fd);
	return r;
}

/* From the bucket that a lease says: the dead one's, or ours, which may be the same one, moved. */
static int remove_probe_by(const struct lease_dead *dead, int lease_fd, bool can_be_leased,
			   char *error, size_t error_bytes)
{
	char *text = calloc(1, TEXT_BYTES);
	const char *bucket = "";
	bool is_leased;
	int r;

	if (!text)
		return say(error, error_bytes, -ENOMEM, "cannot read the lease", dead->id);
	r = read_bucket(lease_fd, text, &is_leased, &bucket);
	if (r < 0) {
		say(error, error_bytes, r, "cannot read the lease", dead->id);
	} else if (is_leased && !can_be_leased) {
		r = -EBUSY;
		snprintf(error, error_bytes,
			 "the lease %s is of an ew-gateway, and only another one removes the files "
			 "that it has left in %s",
			 dead->id, bucket);
	} else {
		r = remove_probe(dead, bucket);
		if (r < 0)
			say(error, error_bytes, r, "cannot remove a test file from the bucket",
			    bucket);
	}
	free(text);
	return r;
}

static int bury(struct lease *lease, struct lease_dead *dead, char *error, size_t error_bytes)
{
	int r = remove_probe_by(dead, dead->fd, lease->is_leased, error, error_bytes);

	if (r == 0)
		r = remove_probe_by(dead, lease->fd, lease->is_leased, error, error_bytes);
	if (r == 0 && unlinkat(lease->folder_fd, dead->id, 0) < 0 && errno != ENOENT)
		r = say(error, error_bytes, -errno, "cannot remove the lease", dead->id);
	return r;
}

int lease_bury(struct lease *lease, struct lease_dead *dead, char *error, size_t error_bytes)
{
	int r = bury(lease, dead, error, error_bytes);

	close(dead->fd);
	dead->fd = -1;
	return r;
}

void lease_release(struct lease *lease)
{
	lease_let_go(lease);
	free(lease->others);
	lease->others = NULL;
	if (lease->fd >= 0 && atomic_load(&lease->names) == 0)
		unlinkat(lease->folder_fd, lease->id, 0);
	if (lease->fd >= 0)
		close(lease->fd);
	if (lease->folder_fd >= 0)
		close(lease->folder_fd);
	lease->fd = lease->folder_fd = -1;
}
