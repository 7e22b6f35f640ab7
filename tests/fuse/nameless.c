/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The kernel asks by FUSE_TMPFILE (since 6.1), which takes and gives what FUSE_CREATE does; libfuse
 * would answer ENOSYS. So this request alone is read and answered in the kernel's own structures.
 */
#define FUSE_USE_VERSION 312

#include "nameless.h"

#include <errno.h>
#include <linux/fuse.h>
#include <unistd.h>

#include "passthrough.h"

#define OPCODE_TMPFILE 51 /* headers of kernels before 6.1 do not have its name */

struct answer {
	struct fuse_out_header head;
	struct fuse_entry_out entry;
	struct fuse_open_out open;
};

static struct fuse_attr attributes_of(const struct stat *state)
{
	return (struct fuse_attr){
		.ino = state->st_ino,
		.size = (uint64_t)state->st_size,
		.blocks = (uint64_t)state->st_blocks,
		.atime = (uint64_t)state->st_atim.tv_sec,
		.mtime = (uint64_t)state->st_mtim.tv_sec,
		.ctime = (uint64_t)state->st_ctim.tv_sec,
		.atimensec = (uint32_t)state->st_atim.tv_nsec,
		.mtimensec = (uint32_t)state->st_mtim.tv_nsec,
		.ctimensec = (uint32_t)state->st_ctim.tv_nsec,
		.mode = state->st_mode,
		.nlink = (uint32_t)state->st_nlink,
		.uid = state->st_uid,
		.gid = state->st_gid,
		.blksize = (uint32_t)state->st_blksize,
	};
}

bool nameless_serve(struct fuse_session *session, const struct fuse_buf *request)
{
	const struct fuse_in_header *head = request->mem;
	const struct fuse_create_in *wish = (const void *)(head + 1);
	struct answer answer = { .head = { .len = sizeof(answer) } };
	struct fuse_entry_param entry;
	int fd = -1, error;

	if ((request->flags & FUSE_BUF_IS_FD) || head->opcode != OPCODE_TMPFILE)
		return false;
	error = passthrough_nameless(head->nodeid, (int)wish->flags, wish->mode & ~wish->umask,
				     &entry, &fd);
	answer.head.unique = head->unique;
	if (error) {
		answer.head.error = -error;
		answer.head.len = sizeof(answer.head);
	} else {
		answer.entry.nodeid = entry.ino;
		answer.entry.attr = attributes_of(&entry.attr);
		answer.open.fh = (uint64_t)fd;
	}
	if (write(fuse_session_fd(session), &answer, answer.head.len) < 0 && error == 0)
		passthrough_forget(entry.ino, fd);
	return true;
}
