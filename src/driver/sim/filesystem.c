/* SPDX-License-Identifier: Apache-2.0 */

/*
 * The calls to the simulated filesystem, with the results that the kernel has for them (fs/namei.c), in the order in
 * which it finds them. There are files and folders; no links by name, no owners and no times; everybody may do
 * everything. Each call that could change something is counted before it is made: between two of them the power can be
 * cut.
 */

#include "driver/sim/filesystem.h"

#include "driver/sim/sim.h"
#include "driver/system_file.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define BLOCKS_DEFAULT 65536
#define FLAGS_KNOWN                                                                                \
	(O_ACCMODE | O_CREAT | O_EXCL | O_TRUNC | O_TMPFILE | O_NOFOLLOW | O_CLOEXEC |             \
	 O_NONBLOCK | O_NOCTTY | O_LARGEFILE)
#define DEVICE 1

/* What an opening has. */
struct ew__sim_file {
	struct ew__sim_inode *inode;
	int flags;
	char listed[EW__SIM_NAME_BYTES_MAX + 1]; /* of a folder: the last name that was told */
};

enum call { OPEN = 64, READ, WRITE, SYNC, TRUNCATE, CHMOD, LINK, RENAME, UNLINK, MAKE_FOLDER };

/* Counted, in the world that runs: the power may be cut before it. */
static void begin(struct ew_sim_filesystem *filesystem)
{
	if (filesystem->calls == filesystem->cut_at && filesystem->cut)
		filesystem->cut(filesystem, filesystem->cut_argument);
	filesystem->calls++;
}

static int noted(enum call call, const struct ew__sim_inode *inode, int r)
{
	ew__sim_note(ew__sim, call, inode ? inode->number : 0, r);
	return r;
}

/* ---- paths ---- */

enum last { NAME, DOT, DOT_DOT };

/* The end of a path, in a folder that is there. */
struct place {
	struct ew__sim_inode *folder;
	const char *name;
	size_t bytes;
	enum last last;
	bool slash; /* behind it */
};

static bool is_removed(const struct ew__sim_inode *folder)
{
	return !folder->parent;
}

static struct ew__sim_inode *find(const struct place *place)
{
	switch (place->last) {
	case DOT: return place->folder;
	case DOT_DOT: return place->folder->parent;
	default: return ew__sim_names_find(place->folder->cached_names, place->name, place->bytes);
	}
}

static void take_component(struct place *place, const char **path)
{
	place->name = *path;
	place->bytes = strcspn(*path, "/");
	*path += place->bytes;
	place->slash = **path == '/';
	*path += strspn(*path, "/");
	place->last = NAME;
	if (place->bytes == 1 && place->name[0] == '.')
		place->last = DOT;
	else if (place->bytes == 2 && place->name[0] == '.' && place->name[1] == '.')
		place->last = DOT_DOT;
}

static int walk(struct ew__sim_inode *from, const char *path, struct place *ret_place)
{
	struct place place = { .folder = from, .last = DOT };
	struct ew__sim_inode *next;

	if (strlen(path) >= PATH_MAX)
		return -ENAMETOOLONG;
	path += strspn(path, "/");
	while (*path) {
		take_component(&place, &path);
		if (place.bytes > EW__SIM_NAME_BYTES_MAX)
			return -ENAMETOOLONG;
		if (!*path)
			break;
		next = find(&place);
		if (!next)
			return -ENOENT;
		if (!next->is_folder)
			return -ENOTDIR;
		place.folder = next;
	}
	*ret_place = place;
	return 0;
}

static bool is_below(const struct ew_sim_filesystem *filesystem, const char *path)
{
	return strncmp(path, filesystem->path, filesystem->path_bytes) == 0 &&
	       (path[filesystem->path_bytes] == '/' || path[filesystem->path_bytes] == '\0');
}

static int walk_from(int dir_fd, const char *path, struct place *ret_place)
{
	struct ew_sim_filesystem *filesystem = ew__sim->filesystem;
	const struct ew__sim_file *dir;

	if (path[0] == '/')
		return walk(filesystem->root, path + filesystem->path_bytes, ret_place);
	if (path[0] == '\0')
		return -ENOENT;
	dir = ew__sim_file_of(dir_fd);
	if (!dir->inode->is_folder)
		return -ENOTDIR;
	return walk(dir->inode, path, ret_place);
}

/* The place of a new name. */
static int walk_to_new(int dir_fd, const char *path, struct place *ret_place)
{
	int r = walk_from(dir_fd, path, ret_place);

	if (r < 0)
		return r;
	if (ret_place->last != NAME)
		return -EEXIST;
	return is_removed(ret_place->folder) ? -ENOENT : 0;
}

static void set(const struct place *place, struct ew__sim_inode *inode, bool joined)
{
	ew__sim_folder_set(place->folder, place->name, place->bytes, inode, joined);
}

/* ---- opening and closing ---- */

static bool is_nameless(int flags)
{
	return (flags & O_TMPFILE) == O_TMPFILE;
}

/* build_open_flags(): before it looks for anything */
static int check_flags(int flags)
{
	if (!(flags & ~FLAGS_KNOWN)) {
		if (is_nameless(flags))
			return (flags & O_CREAT) || (flags & O_ACCMODE) == O_RDONLY ? -EINVAL : 0;
		return (flags & O_CREAT) && (flags & O_DIRECTORY) ? -EINVAL : 0;
	}
	if (ew__sim->traced)
		fprintf(stderr, "endwell: simulation: openat() with flags %#o is not simulated\n",
			(unsigned)flags);
	return -EOPNOTSUPP;
}

static int open_inode(struct ew__sim_inode *inode, int flags)
{
	struct ew__sim_file *file = ew__sim_allocate(NULL, sizeof(*file));
	int fd;

	*file = (struct ew__sim_file){ .inode = inode, .flags = flags };
	fd = ew__sim_file_descriptor(ew__sim, file);
	if (fd < 0) {
		free(file);
		return fd;
	}
	ew__sim_inode_hold(inode);
	inode->openings++;
	inode->writers += (flags & O_ACCMODE) != O_RDONLY;
	return fd;
}

void ew__sim_file_close(struct ew__sim_file *file)
{
	struct ew__sim_inode *inode = file->inode;

	inode->openings--;
	inode->writers -= (file->flags & O_ACCMODE) != O_RDONLY;
	if (inode->locked_by == file)
		inode->locked_by = NULL;
	ew__sim_inode_unused(inode);
	ew__sim_inode_let_go(inode);
	free(file);
}

static mode_t masked(mode_t mode)
{
	mode_t mask = umask(0);

	umask(mask);
	return mode & 07777 & ~mask;
}

static struct ew__sim_inode *new_file(struct ew_sim_filesystem *filesystem, mode_t mode)
{
	return ew__sim_inode_new(filesystem, S_IFREG | masked(mode));
}

/* Also in a folder that is removed: vfs_tmpfile() does not look. */
static int open_nameless(const struct place *place, int flags, mode_t mode)
{
	struct ew__sim_inode *folder = find(place), *inode;
	int fd;

	if (!folder)
		return -ENOENT;
	if (!folder->is_folder)
		return -ENOTDIR;
	inode = new_file(folder->filesystem, mode);
	inode->never_named = !(flags & O_EXCL);
	fd = open_inode(inode, flags);
	ew__sim_inode_let_go(inode);
	return fd;
}

static int check_existing(const struct ew__sim_inode *inode, const struct place *place, int flags)
{
	if ((flags & O_CREAT) && (flags & O_EXCL))
		return -EEXIST;
	if ((flags & O_CREAT) && inode->is_folder)
		return -EISDIR;
	if (((flags & O_DIRECTORY) || place->slash) && !inode->is_folder)
		return -ENOTDIR;
	if (inode->is_folder && ((flags & O_ACCMODE) != O_RDONLY || (flags & O_TRUNC)))
		return -EISDIR;
	return 0;
}

static int open_existing(struct ew__sim_inode *inode, const struct place *place, int flags)
{
	int r = check_existing(inode, place, flags), fd;

	if (r < 0)
		return r;
	fd = open_inode(inode, flags);
	if (fd >= 0 && (flags & O_TRUNC))
		ew__sim_inode_truncate(inode, 0);
	return fd;
}

static int open_new(const struct place *place, int flags, mode_t mode)
{
	struct ew__sim_inode *inode;
	int fd;

	if (is_removed(place->folder))
		return -ENOENT;
	inode = new_file(place->folder->filesystem, mode);
	fd = open_inode(inode, flags);
	if (fd >= 0)
		set(place, inode, false);
	ew__sim_inode_let_go(inode);
	return fd;
}

static int open_at(const struct place *place, int flags, mode_t mode)
{
	struct ew__sim_inode *inode;

	if (is_nameless(flags))
		return place->folder->filesystem->names_only ? -EOPNOTSUPP
							     : open_nameless(place, flags, mode);
	if ((flags & O_CREAT) && place->last == NAME && place->slash)
		return -EISDIR;
	inode = find(place);
	if (inode)
		return open_existing(inode, place, flags);
	return flags & O_CREAT ? open_new(place, flags, mode) : -ENOENT;
}

static int file_open(int dir_fd, const char *path, int flags, mode_t mode)
{
	struct place place = { 0 };
	int r;

	begin(ew__sim->filesystem);
	r = check_flags(flags);
	if (r == 0)
		r = walk_from(dir_fd, path, &place);
	if (r == 0)
		r = open_at(&place, flags, mode);
	noted(OPEN, place.folder, r < 0 ? r : 0); /* not the number, which is the process's */
	return r;
}

static int file_reopen(int fd, int flags)
{
	return open_inode(ew__sim_file_of(fd)->inode, flags);
}

/* ---- bytes ---- */

int ew__sim_file_read(struct ew__sim_file *file, void *buffer, size_t size, int64_t offset)
{
	int r;

	if ((file->flags & O_ACCMODE) == O_WRONLY)
		return -EBADF;
	if (file->inode->is_folder)
		return -EISDIR;
	if (offset < 0)
		return -EINVAL;
	size = ew__sim_shortened(ew__sim, size);
	r = ew__sim_inode_read(file->inode, buffer, size, offset);
	return noted(READ, file->inode, r);
}

int ew__sim_file_write(struct ew__sim_file *file, const void *data, size_t size, int64_t offset)
{
	if ((file->flags & O_ACCMODE) == O_RDONLY)
		return -EBADF;
	if (offset < 0)
		return -EINVAL;
	begin(file->inode->filesystem);
	size = ew__sim_shortened(ew__sim, size);
	return noted(WRITE, file->inode, ew__sim_inode_write(file->inode, data, size, offset));
}

static int file_pread(int fd, void *buffer, size_t size, int64_t offset)
{
	return ew__sim_file_read(ew__sim_file_of(fd), buffer, size, offset);
}

static int file_pwrite(int fd, const void *data, size_t size, int64_t offset)
{
	return ew__sim_file_write(ew__sim_file_of(fd), data, size, offset);
}

static int truncate_inode(struct ew__sim_inode *inode, int64_t size)
{
	begin(inode->filesystem);
	if (size > EW__SIM_FILE_BYTES_MAX)
		return noted(TRUNCATE, inode, -EFBIG);
	ew__sim_inode_truncate(inode, size);
	return noted(TRUNCATE, inode, 0);
}

static int file_truncate(int fd, int64_t size)
{
	const struct ew__sim_file *file = ew__sim_file_of(fd);

	if (size < 0 || file->inode->is_folder || (file->flags & O_ACCMODE) == O_RDONLY)
		return -EINVAL;
	return truncate_inode(file->inode, size);
}

static int file_empty(int fd)
{
	return truncate_inode(ew__sim_file_of(fd)->inode, 0);
}

/* ---- syncs ---- */

static bool is_dirty(const struct ew__sim_inode *inode, bool data_only)
{
	if (inode->is_folder && ew__sim_changes_are_there(inode->filesystem, inode))
		return true;
	return ew__sim_inode_is_dirty(inode, data_only);
}

static bool sync_fails(struct ew_sim_filesystem *filesystem)
{
	if (filesystem->sync_has_failed || !ew__sim_fails(ew__sim, ew__sim->strengths.syncs))
		return false;
	filesystem->sync_has_failed = true;
	return true;
}

/* The journal is one: what a sync commits is all that was done before it. */
static void settle_changes(struct ew__sim_inode *inode, bool data_only, bool keep)
{
	if (inode->filesystem->durability == EW_SIM_ORDERED && !(data_only && !inode->is_folder))
		ew__sim_changes_settle(inode->filesystem, NULL, keep);
	else if (inode->is_folder)
		ew__sim_changes_settle(inode->filesystem, inode, keep);
}

static int file_sync(int fd, bool data_only)
{
	struct ew__sim_inode *inode = ew__sim_file_of(fd)->inode;
	bool failed;

	begin(inode->filesystem);
	failed = is_dirty(inode, data_only) && sync_fails(inode->filesystem);
	ew__sim_inode_settle(inode, data_only, !failed);
	settle_changes(inode, data_only, !failed);
	return noted(SYNC, inode, failed ? -EIO : 0);
}

/* ---- what is known of a file ---- */

static unsigned links_of(const struct ew__sim_inode *inode)
{
	const struct ew__sim_name *name;
	unsigned folders = 2;

	if (!inode->is_folder)
		return inode->links;
	if (is_removed(inode))
		return 0;
	for (name = inode->cached_names; name; name = name->next)
		folders += name->inode->is_folder;
	return folders;
}

static void describe(const struct ew__sim_inode *inode, struct stat *ret_stat)
{
	*ret_stat = (struct stat){
		.st_dev = DEVICE,
		.st_ino = inode->number,
		.st_mode = inode->cached.mode,
		.st_nlink = links_of(inode),
		.st_size = inode->cached.size,
		.st_blksize = EW__SIM_BLOCK_BYTES,
		.st_blocks = (blkcnt_t)inode->blocks_used * (EW__SIM_BLOCK_BYTES / 512),
	};
}

static int file_stat(int fd, struct stat *ret_stat)
{
	describe(ew__sim_file_of(fd)->inode, ret_stat);
	return 0;
}

static int file_stat_at(int dir_fd, const char *path, struct stat *ret_stat)
{
	const struct ew__sim_inode *inode;
	struct place place;
	int r = walk_from(dir_fd, path, &place);

	if (r < 0)
		return r;
	inode = find(&place);
	if (!inode)
		return -ENOENT;
	if (place.slash && !inode->is_folder)
		return -ENOTDIR;
	describe(inode, ret_stat);
	return 0;
}

static int file_statvfs(int fd, struct statvfs *ret_statvfs)
{
	const struct ew_sim_filesystem *filesystem = ew__sim_file_of(fd)->inode->filesystem;

	*ret_statvfs = (struct statvfs){
		.f_bsize = EW__SIM_BLOCK_BYTES,
		.f_frsize = EW__SIM_BLOCK_BYTES,
		.f_blocks = filesystem->blocks_max,
		.f_bfree = ew__sim_blocks_free(filesystem),
		.f_bavail = ew__sim_blocks_free(filesystem),
		.f_files = UINT32_MAX,
		.f_ffree = UINT32_MAX,
		.f_favail = UINT32_MAX,
		.f_namemax = EW__SIM_NAME_BYTES_MAX,
	};
	return 0;
}

static int file_chmod(int fd, mode_t mode)
{
	struct ew__sim_inode *inode = ew__sim_file_of(fd)->inode;

	begin(inode->filesystem);
	inode->cached.mode = (inode->cached.mode & S_IFMT) | (mode & 07777);
	inode->mode_dirty = true;
	return noted(CHMOD, inode, 0);
}

static int file_lease(int fd)
{
	return ew__sim_file_of(fd)->inode->writers > 0 ? -EAGAIN : 0;
}

/* It goes with the opening, whose duplicates have it too. */
static int file_lock(int fd)
{
	const struct ew__sim_file *file = ew__sim_file_of(fd);

	if (file->inode->locked_by && file->inode->locked_by != file)
		return -EWOULDBLOCK;
	file->inode->locked_by = file;
	return 0;
}

/* ---- names ---- */

static int link_inode(struct ew__sim_inode *inode, int dir_fd, const char *path)
{
	struct place place;
	int r = walk_to_new(dir_fd, path, &place);

	if (r < 0)
		return r;
	if (find(&place))
		return -EEXIST;
	if (place.slash)
		return -ENOENT;
	if (inode->is_folder)
		return -EPERM;
	if (inode->links == 0 && !inode->never_named)
		return -ENOENT;
	set(&place, inode, false);
	return 0;
}

static int file_link(int fd, int dir_fd, const char *path)
{
	struct ew__sim_inode *inode = ew__sim_file_of(fd)->inode;

	begin(inode->filesystem);
	return noted(LINK, inode, link_inode(inode, dir_fd, path));
}

static int check_unlink(const struct place *place)
{
	const struct ew__sim_inode *inode = place->last == NAME ? find(place) : NULL;

	if (place->last != NAME)
		return -EISDIR;
	if (!inode)
		return -ENOENT;
	if (inode->is_folder)
		return -EISDIR;
	return place->slash ? -ENOTDIR : 0;
}

static int check_remove_folder(const struct place *place)
{
	const struct ew__sim_inode *inode = place->last == NAME ? find(place) : NULL;

	if (place->last != NAME)
		return place->last == DOT ? -EINVAL : -ENOTEMPTY;
	if (!inode)
		return -ENOENT;
	if (!inode->is_folder)
		return -ENOTDIR;
	return inode->cached_names ? -ENOTEMPTY : 0;
}

static int unlink_at(int dir_fd, const char *path, int flags)
{
	struct place place;
	int r;

	if (flags & ~AT_REMOVEDIR)
		return -EINVAL;
	r = walk_from(dir_fd, path, &place);
	if (r == 0)
		r = flags ? check_remove_folder(&place) : check_unlink(&place);
	if (r == 0)
		set(&place, NULL, false);
	return r;
}

static int file_unlink(int dir_fd, const char *path, int flags)
{
	begin(ew__sim->filesystem);
	return noted(UNLINK, NULL, unlink_at(dir_fd, path, flags));
}

static bool is_inside(const struct ew__sim_inode *folder, const struct ew__sim_inode *of)
{
	for (; folder != of; folder = folder->parent)
		if (folder == folder->parent)
			return false;
	return true;
}

/* @from is there. */
static int check_target(const struct ew__sim_inode *from, const struct ew__sim_inode *from_folder,
			const struct ew__sim_inode *to)
{
	if (!to)
		return 0;
	if (to->is_folder && is_inside(from_folder, to))
		return -ENOTEMPTY;
	if (from->is_folder && !to->is_folder)
		return -ENOTDIR;
	if (!from->is_folder && to->is_folder)
		return -EISDIR;
	return to->is_folder && to->cached_names ? -ENOTEMPTY : 0;
}

static int check_rename(const struct place *from, const struct place *to, unsigned flags)
{
	const struct ew__sim_inode *inode, *target;

	if (from->last != NAME)
		return -EBUSY;
	if (to->last != NAME)
		return flags ? -EEXIST : -EBUSY;
	inode = find(from);
	if (!inode)
		return -ENOENT;
	target = find(to);
	if (flags && target)
		return -EEXIST;
	if (!inode->is_folder && (from->slash || (to->slash)))
		return -ENOTDIR;
	if (is_removed(to->folder))
		return -ENOENT;
	if (inode->is_folder && is_inside(to->folder, inode))
		return -EINVAL;
	return inode == target ? 0 : check_target(inode, from->folder, target);
}

/*
 * Taken away first: a folder never has two places. For that, too, the rename of a folder commits all changes: half of it
 * might leave a folder inside itself.
 */
static void move(const struct place *from, const struct place *to)
{
	struct ew__sim_inode *inode = find(from);

	if (inode == find(to))
		return;
	ew__sim_inode_hold(inode);
	inode->openings++;
	set(from, NULL, true);
	set(to, inode, false);
	if (inode->is_folder)
		ew__sim_changes_settle(inode->filesystem, NULL, true);
	inode->openings--;
	ew__sim_inode_let_go(inode);
}

static int rename_at(int from_dir_fd, const char *from, int dir_fd, const char *to, unsigned flags)
{
	struct place source, target;
	int r;

	if (flags & ~(unsigned)RENAME_NOREPLACE)
		return -EINVAL;
	r = walk_from(from_dir_fd, from, &source);
	if (r == 0)
		r = walk_from(dir_fd, to, &target);
	if (r == 0)
		r = check_rename(&source, &target, flags);
	if (r == 0)
		move(&source, &target);
	return r;
}

static int file_rename(int from_dir_fd, const char *from, int dir_fd, const char *to,
		       unsigned flags)
{
	begin(ew__sim->filesystem);
	return noted(RENAME, NULL, rename_at(from_dir_fd, from, dir_fd, to, flags));
}

static int make_folder(const struct place *place, mode_t mode)
{
	struct ew__sim_inode *folder;

	if (find(place))
		return -EEXIST;
	folder = ew__sim_inode_new(place->folder->filesystem, S_IFDIR | masked(mode));
	set(place, folder, false);
	ew__sim_inode_let_go(folder);
	return 0;
}

static int file_make_folder(int dir_fd, const char *path, mode_t mode)
{
	struct place place;
	int r;

	begin(ew__sim->filesystem);
	r = walk_to_new(dir_fd, path, &place);
	if (r == 0)
		r = make_folder(&place, mode);
	return noted(MAKE_FOLDER, NULL, r);
}

/* In their order, so that one which is removed meanwhile hides no other. */
static int file_list(int fd, char *ret_name, size_t size)
{
	struct ew__sim_file *file = ew__sim_file_of(fd);
	const struct ew__sim_name *name;

	if (!file->inode->is_folder)
		return -ENOTDIR;
	for (name = file->inode->cached_names; name; name = name->next)
		if (strcmp(name->text, file->listed) > 0)
			break;
	if (!name)
		return 0;
	if (strlen(name->text) >= size)
		return -EINVAL;
	strcpy(file->listed, name->text);
	strcpy(ret_name, name->text);
	return 1;
}

/* ---- the seam ---- */

static bool file_owns(int fd)
{
	return ew__sim_file_of(fd) != NULL;
}

static bool file_owns_path(const char *path)
{
	return ew__sim->filesystem && is_below(ew__sim->filesystem, path);
}

const struct ew__system_files ew__sim_files = {
	.owns = file_owns,
	.owns_path = file_owns_path,
	.open = file_open,
	.reopen = file_reopen,
	.pread = file_pread,
	.pwrite = file_pwrite,
	.sync = file_sync,
	.stat = file_stat,
	.stat_at = file_stat_at,
	.statvfs = file_statvfs,
	.truncate = file_truncate,
	.empty = file_empty,
	.chmod = file_chmod,
	.lease = file_lease,
	.link = file_link,
	.rename = file_rename,
	.unlink = file_unlink,
	.make_folder = file_make_folder,
	.lock = file_lock,
	.list = file_list,
};

/* ---- the whole ---- */

static struct ew_sim_filesystem *new_filesystem(const char *path)
{
	size_t bytes = strlen(path);
	struct ew_sim_filesystem *filesystem =
		ew__sim_allocate(NULL, sizeof(*filesystem) + bytes + 1);

	memset(filesystem, 0, sizeof(*filesystem));
	memcpy(filesystem->path, path, bytes + 1);
	filesystem->path_bytes = bytes;
	filesystem->changes_last = &filesystem->changes;
	filesystem->cut_at = UINT64_MAX;
	filesystem->root = ew__sim_inode_new(filesystem, S_IFDIR | 0755);
	filesystem->root->parent = filesystem->root;
	return filesystem;
}

int ew__sim_filesystem_make_folder(struct ew_sim_filesystem *filesystem, const char *path,
				   mode_t mode)
{
	struct place place;
	int r = walk(filesystem->root, path, &place);

	if (r < 0)
		return r;
	if (place.last != NAME)
		return -EEXIST;
	return is_removed(place.folder) ? -ENOENT : make_folder(&place, mode);
}

static int make_folders(struct ew_sim_filesystem *filesystem, const char *const *folders)
{
	int r = 0;

	for (; r == 0 && folders && *folders; folders++)
		r = ew__sim_filesystem_make_folder(filesystem, *folders, 0755);
	ew__sim_changes_settle(filesystem, NULL, true);
	return r;
}

int ew__sim_filesystem_new(const struct ew_sim_filesystem_options *options,
			   struct ew_sim_filesystem **ret_filesystem)
{
	const char *path = options->path ? options->path : "/sim";
	struct ew_sim_filesystem *filesystem;
	int r;

	if (path[0] != '/' || path[strlen(path) - 1] == '/')
		return -EINVAL;
	filesystem = new_filesystem(path);
	filesystem->durability = options->durability;
	filesystem->names_only = options->names_only;
	filesystem->blocks_max = options->blocks_max ? options->blocks_max : BLOCKS_DEFAULT;
	r = make_folders(filesystem, options->folders);
	if (r < 0)
		ew__sim_filesystem_free(filesystem);
	else
		*ret_filesystem = filesystem;
	return r;
}

struct ew_sim_filesystem *ew__sim_filesystem_like(const struct ew_sim_filesystem *other)
{
	struct ew_sim_filesystem *filesystem = new_filesystem(other->path);

	filesystem->durability = other->durability;
	filesystem->names_only = other->names_only;
	filesystem->blocks_max = other->blocks_max;
	return filesystem;
}

void ew__sim_filesystem_free(struct ew_sim_filesystem *filesystem)
{
	if (!filesystem)
		return;
	ew__sim_changes_settle(filesystem, NULL, false);
	ew__sim_inode_let_go(filesystem->root);
	free(filesystem);
}

const char *ew__sim_filesystem_name(const struct ew_sim_filesystem *filesystem, const char *path,
				    unsigned number)
{
	const struct ew__sim_inode *folder;
	const struct ew__sim_name *name;
	struct place place;

	if (!is_below(filesystem, path) ||
	    walk(filesystem->root, path + filesystem->path_bytes, &place) < 0)
		return NULL;
	folder = find(&place);
	if (!folder)
		return NULL;
	for (name = folder->cached_names; name && number > 0; name = name->next)
		number--;
	return name ? name->text : NULL;
}
