/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Nothing is cached by the kernel but pages: each call that is made arrives here.
 *
 * Inodes are known by device and number of what is behind them and held by an O_PATH descriptor. So
 * two names of a file are one inode, and a file that lost its name goes on.
 */
#define FUSE_USE_VERSION 312

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <fuse_lowlevel.h>
#include <limits.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "passthrough.h"
#include "rules.h"

#define BUCKETS_COUNT 4096

struct inode {
	struct inode *next;
	dev_t device;
	ino_t number;
	uint64_t lookups;
	int fd;
};

static char root_path[PATH_MAX];
static struct inode root;
static pthread_mutex_t inodes_lock = PTHREAD_MUTEX_INITIALIZER;
static struct inode *inodes[BUCKETS_COUNT];

static struct inode *inode_of(fuse_ino_t ino)
{
	return ino == FUSE_ROOT_ID ? &root : (struct inode *)(uintptr_t)ino;
}

static int fd_of(fuse_ino_t ino)
{
	return inode_of(ino)->fd;
}

/* The way to an inode for calls that take no O_PATH descriptor. */
static const char *way_to(fuse_ino_t ino, char buffer[64])
{
	snprintf(buffer, 64, "/proc/self/fd/%d", fd_of(ino));
	return buffer;
}

static int enter(enum call call, fuse_ino_t ino, const char *name)
{
	return rules_enter(call, root_path, fd_of(ino), name);
}

static void reply_result(fuse_req_t req, int r)
{
	fuse_reply_err(req, r < 0 ? errno : 0);
}

/* Takes @fd; the inode it stands for has one lookup more. */
static struct inode *inode_take(int fd, const struct stat *state)
{
	struct inode **bucket = &inodes[state->st_ino % BUCKETS_COUNT], *inode;

	pthread_mutex_lock(&inodes_lock);
	for (inode = *bucket; inode; inode = inode->next)
		if (inode->number == state->st_ino && inode->device == state->st_dev)
			break;
	if (inode) {
		close(fd);
	} else {
		inode = calloc(1, sizeof(*inode));
		if (!inode)
			abort();
		*inode = (struct inode){
			.next = *bucket, .device = state->st_dev, .number = state->st_ino, .fd = fd
		};
		*bucket = inode;
	}
	inode->lookups++;
	pthread_mutex_unlock(&inodes_lock);
	return inode;
}

static void inode_forget(struct inode *inode, uint64_t lookups)
{
	struct inode **place = &inodes[inode->number % BUCKETS_COUNT];

	if (inode == &root)
		return;
	pthread_mutex_lock(&inodes_lock);
	inode->lookups -= lookups;
	if (inode->lookups == 0) {
		while (*place != inode)
			place = &(*place)->next;
		*place = inode->next;
		close(inode->fd);
		free(inode);
	}
	pthread_mutex_unlock(&inodes_lock);
}

/* 0 and the entry of a name, or the error. */
static int look_up(fuse_ino_t parent, const char *name, struct fuse_entry_param *entry)
{
	int fd;

	*entry = (struct fuse_entry_param){ 0 };
	fd = openat(fd_of(parent), name, O_PATH | O_NOFOLLOW | O_CLOEXEC);
	if (fd < 0)
		return errno;
	if (fstat(fd, &entry->attr) < 0) {
		close(fd);
		return errno;
	}
	entry->ino = (uintptr_t)inode_take(fd, &entry->attr);
	return 0;
}

static void reply_entry(fuse_req_t req, fuse_ino_t parent, const char *name, int r)
{
	struct fuse_entry_param entry;
	int error = r < 0 ? errno : look_up(parent, name, &entry);

	if (error)
		fuse_reply_err(req, error);
	else if (fuse_reply_entry(req, &entry) == -ENOENT)
		inode_forget(inode_of(entry.ino), 1);
}

static void fs_init(void *unused, struct fuse_conn_info *connection)
{
	(void)unused;
	connection->max_background = PASSTHROUGH_CALLS_MAX;
}

static void fs_lookup(fuse_req_t req, fuse_ino_t parent, const char *name)
{
	int error = enter(CALL_LOOKUP, parent, name);

	if (error)
		fuse_reply_err(req, error);
	else
		reply_entry(req, parent, name, 0);
}

static void fs_forget(fuse_req_t req, fuse_ino_t ino, uint64_t lookups)
{
	inode_forget(inode_of(ino), lookups);
	fuse_reply_none(req);
}

static void reply_attributes(fuse_req_t req, fuse_ino_t ino)
{
	struct stat state;

	if (fstat(fd_of(ino), &state) < 0)
		fuse_reply_err(req, errno);
	else
		fuse_reply_attr(req, &state, 0);
}

static void fs_getattr(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *file)
{
	int error = enter(CALL_GETATTR, ino, NULL);

	(void)file;
	if (error)
		fuse_reply_err(req, error);
	else
		reply_attributes(req, ino);
}

static enum call kind_of_change(int what)
{
	if (what & FUSE_SET_ATTR_SIZE)
		return CALL_TRUNCATE;
	if (what & FUSE_SET_ATTR_MODE)
		return CALL_CHMOD;
	return what & (FUSE_SET_ATTR_UID | FUSE_SET_ATTR_GID) ? CALL_CHOWN : CALL_UTIMES;
}

static struct timespec time_to_set(int what, int given, int now, struct timespec value)
{
	if (what & now)
		return (struct timespec){ .tv_nsec = UTIME_NOW };
	return what & given ? value : (struct timespec){ .tv_nsec = UTIME_OMIT };
}

static int change(fuse_ino_t ino, const struct stat *to, int what)
{
	const struct timespec times[2] = {
		time_to_set(what, FUSE_SET_ATTR_ATIME, FUSE_SET_ATTR_ATIME_NOW, to->st_atim),
		time_to_set(what, FUSE_SET_ATTR_MTIME, FUSE_SET_ATTR_MTIME_NOW, to->st_mtim),
	};
	char buffer[64];
	const char *way = way_to(ino, buffer);
	int r = 0;

	if (what & FUSE_SET_ATTR_MODE)
		r = chmod(way, to->st_mode);
	if (r == 0 && (what & (FUSE_SET_ATTR_UID | FUSE_SET_ATTR_GID)))
		r = chown(way, what & FUSE_SET_ATTR_UID ? to->st_uid : (uid_t)-1,
			  what & FUSE_SET_ATTR_GID ? to->st_gid : (gid_t)-1);
	if (r == 0 && (what & FUSE_SET_ATTR_SIZE))
		r = truncate(way, to->st_size);
	if (r == 0 && (what & (FUSE_SET_ATTR_ATIME | FUSE_SET_ATTR_MTIME)))
		r = utimensat(AT_FDCWD, way, times, 0);
	return r;
}

static void fs_setattr(fuse_req_t req, fuse_ino_t ino, struct stat *to, int what,
		       struct fuse_file_info *file)
{
	int error = enter(kind_of_change(what), ino, NULL);

	(void)file;
	if (error == 0 && change(ino, to, what) < 0)
		error = errno;
	if (error)
		fuse_reply_err(req, error);
	else
		reply_attributes(req, ino);
}

static void fs_create(fuse_req_t req, fuse_ino_t parent, const char *name, mode_t mode,
		      struct fuse_file_info *file)
{
	struct fuse_entry_param entry;
	int fd, error;

	error = enter(CALL_CREATE, parent, name);
	if (error) {
		fuse_reply_err(req, error);
		return;
	}
	fd = openat(fd_of(parent), name,
		    (file->flags | O_CREAT | O_NOFOLLOW | O_CLOEXEC) & ~(O_APPEND | O_DIRECT),
		    mode);
	error = fd < 0 ? errno : look_up(parent, name, &entry);
	if (error) {
		if (fd >= 0)
			close(fd);
		fuse_reply_err(req, error);
		return;
	}
	file->fh = (uint64_t)fd;
	if (fuse_reply_create(req, &entry, file) == -ENOENT) {
		close(fd);
		inode_forget(inode_of(entry.ino), 1);
	}
}

static void fs_open(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *file)
{
	int fd, error = enter(CALL_OPEN, ino, NULL);
	char buffer[64];

	if (error) {
		fuse_reply_err(req, error);
		return;
	}
	fd = open(way_to(ino, buffer),
		  (file->flags | O_CLOEXEC) & ~(O_NOFOLLOW | O_APPEND | O_DIRECT));
	if (fd < 0) {
		fuse_reply_err(req, errno);
		return;
	}
	file->fh = (uint64_t)fd;
	if (fuse_reply_open(req, file) == -ENOENT)
		close(fd);
}

static void fs_read(fuse_req_t req, fuse_ino_t ino, size_t bytes, off_t offset,
		    struct fuse_file_info *file)
{
	int error = enter(CALL_READ, ino, NULL);
	char *buffer = malloc(bytes);
	ssize_t n;

	if (error == 0 && !buffer)
		error = ENOMEM;
	n = error ? -1 : pread((int)file->fh, buffer, bytes, offset);
	if (n < 0)
		fuse_reply_err(req, error ? error : errno);
	else
		fuse_reply_buf(req, buffer, (size_t)n);
	free(buffer);
}

static void fs_write(fuse_req_t req, fuse_ino_t ino, const char *data, size_t bytes, off_t offset,
		     struct fuse_file_info *file)
{
	int error = enter(CALL_WRITE, ino, NULL);
	ssize_t n = error ? -1 : pwrite((int)file->fh, data, bytes, offset);

	if (n < 0)
		fuse_reply_err(req, error ? error : errno);
	else
		fuse_reply_write(req, (size_t)n);
}

static void fs_flush(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *file)
{
	(void)file;
	fuse_reply_err(req, enter(CALL_FLUSH, ino, NULL));
}

static void fs_release(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *file)
{
	int error = enter(CALL_RELEASE, ino, NULL);

	close((int)file->fh);
	fuse_reply_err(req, error);
}

static void fs_fsync(fuse_req_t req, fuse_ino_t ino, int only_data, struct fuse_file_info *file)
{
	int error = enter(CALL_FSYNC, ino, NULL);

	if (error)
		fuse_reply_err(req, error);
	else
		reply_result(req, only_data ? fdatasync((int)file->fh) : fsync((int)file->fh));
}

static void fs_link(fuse_req_t req, fuse_ino_t ino, fuse_ino_t parent, const char *name)
{
	int error = enter(CALL_LINK, parent, name), r = -1;
	char buffer[64];

	if (error == 0) {
		r = linkat(AT_FDCWD, way_to(ino, buffer), fd_of(parent), name, AT_SYMLINK_FOLLOW);
		error = r < 0 ? errno : enter(CALL_LINK_DONE, parent, name);
	}
	if (error)
		fuse_reply_err(req, error);
	else
		reply_entry(req, parent, name, r);
}

static void fs_unlink(fuse_req_t req, fuse_ino_t parent, const char *name)
{
	int error = enter(CALL_UNLINK, parent, name);

	if (error)
		fuse_reply_err(req, error);
	else
		reply_result(req, unlinkat(fd_of(parent), name, 0));
}

static void fs_rename(fuse_req_t req, fuse_ino_t parent, const char *name, fuse_ino_t to,
		      const char *to_name, unsigned int flags)
{
	int error =
		enter(flags & RENAME_NOREPLACE ? CALL_RENAME_NOREPLACE : CALL_RENAME, parent, name);

	if (error)
		fuse_reply_err(req, error);
	else
		reply_result(req, renameat2(fd_of(parent), name, fd_of(to), to_name, flags));
}

static void fs_mkdir(fuse_req_t req, fuse_ino_t parent, const char *name, mode_t mode)
{
	int error = enter(CALL_MKDIR, parent, name);

	if (error)
		fuse_reply_err(req, error);
	else
		reply_entry(req, parent, name, mkdirat(fd_of(parent), name, mode));
}

static void fs_rmdir(fuse_req_t req, fuse_ino_t parent, const char *name)
{
	int error = enter(CALL_RMDIR, parent, name);

	if (error)
		fuse_reply_err(req, error);
	else
		reply_result(req, unlinkat(fd_of(parent), name, AT_REMOVEDIR));
}

static void fs_opendir(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *file)
{
	int fd, error = enter(CALL_OPENDIR, ino, NULL);
	DIR *folder;

	if (error) {
		fuse_reply_err(req, error);
		return;
	}
	fd = openat(fd_of(ino), ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	folder = fd < 0 ? NULL : fdopendir(fd);
	if (!folder) {
		error = errno;
		if (fd >= 0)
			close(fd);
		fuse_reply_err(req, error);
		return;
	}
	file->fh = (uintptr_t)folder;
	if (fuse_reply_open(req, file) == -ENOENT)
		closedir(folder);
}

/* As many entries as fit; how many bytes they take. */
static size_t list(fuse_req_t req, DIR *folder, char *buffer, size_t bytes)
{
	struct dirent *entry;
	size_t used = 0, n;

	while ((entry = readdir(folder))) { /* NOLINT: the kernel reads one handle at a time */
		struct stat state = { .st_ino = entry->d_ino,
				      .st_mode = (mode_t)DTTOIF(entry->d_type) };

		n = fuse_add_direntry(req, buffer + used, bytes - used, entry->d_name, &state,
				      entry->d_off);
		if (n > bytes - used)
			break;
		used += n;
	}
	return used;
}

static void fs_readdir(fuse_req_t req, fuse_ino_t ino, size_t bytes, off_t offset,
		       struct fuse_file_info *file)
{
	int error = enter(CALL_READDIR, ino, NULL);
	DIR *folder = (DIR *)(uintptr_t)file->fh;
	char *buffer = malloc(bytes);

	if (error || !buffer) {
		fuse_reply_err(req, error ? error : ENOMEM);
	} else {
		if (offset == 0)
			rewinddir(folder);
		else
			seekdir(folder, offset);
		fuse_reply_buf(req, buffer, list(req, folder, buffer, bytes));
	}
	free(buffer);
}

static void fs_fsyncdir(fuse_req_t req, fuse_ino_t ino, int only_data, struct fuse_file_info *file)
{
	int fd = dirfd((DIR *)(uintptr_t)file->fh);
	int error = enter(CALL_FSYNCDIR, ino, NULL);

	if (error)
		fuse_reply_err(req, error);
	else
		reply_result(req, only_data ? fdatasync(fd) : fsync(fd));
}

static void fs_releasedir(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *file)
{
	int error = enter(CALL_RELEASEDIR, ino, NULL);

	closedir((DIR *)(uintptr_t)file->fh);
	fuse_reply_err(req, error);
}

static void fs_statfs(fuse_req_t req, fuse_ino_t ino)
{
	int error = enter(CALL_STATFS, ino, NULL);
	struct statvfs state;

	if (error == 0 && fstatvfs(fd_of(ino), &state) < 0)
		error = errno;
	if (error)
		fuse_reply_err(req, error);
	else
		fuse_reply_statfs(req, &state);
}

const struct fuse_lowlevel_ops passthrough_operations = {
	.init = fs_init,
	.lookup = fs_lookup,
	.forget = fs_forget,
	.getattr = fs_getattr,
	.setattr = fs_setattr,
	.create = fs_create,
	.open = fs_open,
	.read = fs_read,
	.write = fs_write,
	.flush = fs_flush,
	.release = fs_release,
	.fsync = fs_fsync,
	.link = fs_link,
	.unlink = fs_unlink,
	.rename = fs_rename,
	.mkdir = fs_mkdir,
	.rmdir = fs_rmdir,
	.opendir = fs_opendir,
	.readdir = fs_readdir,
	.fsyncdir = fs_fsyncdir,
	.releasedir = fs_releasedir,
	.statfs = fs_statfs,
};

int passthrough_open(const char *folder)
{
	if (!realpath(folder, root_path))
		return -errno;
	root.fd = open(root_path, O_PATH | O_DIRECTORY | O_CLOEXEC);
	return root.fd < 0 ? -errno : 0;
}

int passthrough_nameless(fuse_ino_t folder, int flags, mode_t mode,
			 struct fuse_entry_param *ret_entry, int *ret_fd)
{
	int fd, second, error = enter(CALL_TMPFILE, folder, NULL);
	char way[64];

	if (error)
		return error;
	*ret_entry = (struct fuse_entry_param){ 0 };
	fd = openat(fd_of(folder), ".", O_TMPFILE | O_CLOEXEC | (flags & O_ACCMODE), mode);
	if (fd < 0)
		return errno;
	snprintf(way, sizeof(way), "/proc/self/fd/%d", fd);
	second = open(way, O_PATH | O_CLOEXEC);
	if (second < 0 || fstat(second, &ret_entry->attr) < 0) {
		error = errno;
		close(fd);
		if (second >= 0)
			close(second);
		return error;
	}
	ret_entry->ino = (uintptr_t)inode_take(second, &ret_entry->attr);
	*ret_fd = fd;
	return 0;
}

void passthrough_forget(fuse_ino_t ino, int fd)
{
	close(fd);
	inode_forget(inode_of(ino), 1);
}
