/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Files of the simulated filesystem. A block that is clean is one memory with two names, cached and kept; a write gives
 * it another for the cache. After a sync that failed a block is clean and not one: programs read what they wrote, and
 * the next crash takes it away.
 */

#include "driver/sim/filesystem.h"
#include "driver/sim/sim.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

struct ew__sim_inode *ew__sim_inode_new(struct ew_sim_filesystem *filesystem, mode_t mode)
{
	struct ew__sim_inode *inode = ew__sim_allocate(NULL, sizeof(*inode));

	*inode = (struct ew__sim_inode){
		.filesystem = filesystem,
		.number = ++filesystem->inodes_made,
		.is_folder = S_ISDIR(mode),
		.cached.mode = mode,
		.kept.mode = mode,
		.holders = 1,
	};
	return inode;
}

void ew__sim_inode_hold(struct ew__sim_inode *inode)
{
	inode->holders++;
}

static void free_block(struct ew__sim_block *block)
{
	if (block->kept != block->cached)
		free(block->kept);
	free(block->cached);
}

void ew__sim_inode_let_go(struct ew__sim_inode *inode)
{
	unsigned i;

	if (--inode->holders > 0)
		return;
	for (i = 0; i < inode->blocks_count; i++)
		free_block(&inode->blocks[i]);
	while (inode->cached_names)
		ew__sim_names_set(&inode->cached_names, inode->cached_names->text,
				  strlen(inode->cached_names->text), NULL);
	while (inode->kept_names)
		ew__sim_names_set(&inode->kept_names, inode->kept_names->text,
				  strlen(inode->kept_names->text), NULL);
	free(inode->blocks);
	free(inode);
}

unsigned ew__sim_blocks_free(const struct ew_sim_filesystem *filesystem)
{
	return filesystem->blocks_used < filesystem->blocks_max
		       ? filesystem->blocks_max - filesystem->blocks_used
		       : 0;
}

void ew__sim_inode_unused(struct ew__sim_inode *inode)
{
	if (inode->links > 0 || inode->openings > 0)
		return;
	inode->filesystem->blocks_used -= inode->blocks_used;
	inode->blocks_used = 0;
}

/* ---- reading and writing ---- */

static size_t part_of_block(int64_t offset, size_t size)
{
	size_t room = EW__SIM_BLOCK_BYTES - (size_t)(offset % EW__SIM_BLOCK_BYTES);

	return size < room ? size : room;
}

int ew__sim_inode_read(const struct ew__sim_inode *inode, char *buffer, size_t size, int64_t offset)
{
	int64_t left = inode->cached.size - offset;
	size_t done = 0, part;
	const char *from;
	uint64_t block;

	if (left <= 0)
		return 0;
	size = size < (uint64_t)left ? size : (size_t)left;
	for (; done < size; done += part, offset += (int64_t)part) {
		block = (uint64_t)offset / EW__SIM_BLOCK_BYTES;
		part = part_of_block(offset, size - done);
		from = block < inode->blocks_count ? inode->blocks[block].cached : NULL;
		if (from)
			memcpy(buffer + done, from + offset % EW__SIM_BLOCK_BYTES, part);
		else
			memset(buffer + done, 0, part);
	}
	return (int)done;
}

static void grow_blocks(struct ew__sim_inode *inode, unsigned count)
{
	unsigned room = inode->blocks_count ? inode->blocks_count : 4;

	if (count <= inode->blocks_count)
		return;
	while (room < count)
		room *= 2;
	inode->blocks = ew__sim_allocate(inode->blocks, room * sizeof(*inode->blocks));
	memset(inode->blocks + inode->blocks_count, 0,
	       (room - inode->blocks_count) * sizeof(*inode->blocks));
	inode->blocks_count = room;
}

/* The cache's own, to be written to; false: there is no room for one more. */
static bool take_block(struct ew__sim_inode *inode, struct ew__sim_block *block)
{
	struct ew_sim_filesystem *filesystem = inode->filesystem;
	char *memory;

	block->dirty = block->dirty || block->cached;
	if (block->cached && block->cached != block->kept)
		return true;
	if (!block->cached && ew__sim_blocks_free(filesystem) == 0)
		return false;
	memory = ew__sim_allocate(NULL, EW__SIM_BLOCK_BYTES);
	if (block->cached) {
		memcpy(memory, block->cached, EW__SIM_BLOCK_BYTES);
	} else {
		memset(memory, 0, EW__SIM_BLOCK_BYTES);
		filesystem->blocks_used++;
		inode->blocks_used++;
	}
	block->cached = memory;
	block->dirty = true;
	return true;
}

static void set_size(struct ew__sim_inode *inode, int64_t size)
{
	inode->size_dirty = inode->size_dirty || inode->cached.size != size;
	inode->cached.size = size;
}

int ew__sim_inode_write(struct ew__sim_inode *inode, const char *data, size_t size, int64_t offset)
{
	struct ew__sim_block *block;
	size_t done = 0, part;

	if (offset >= EW__SIM_FILE_BYTES_MAX)
		return size > 0 ? -EFBIG : 0;
	if (size > (size_t)(EW__SIM_FILE_BYTES_MAX - offset))
		size = (size_t)(EW__SIM_FILE_BYTES_MAX - offset);
	for (; done < size; done += part, offset += (int64_t)part) {
		part = part_of_block(offset, size - done);
		grow_blocks(inode, (unsigned)(offset / EW__SIM_BLOCK_BYTES) + 1);
		block = &inode->blocks[offset / EW__SIM_BLOCK_BYTES];
		if (!take_block(inode, block))
			break;
		memcpy(block->cached + offset % EW__SIM_BLOCK_BYTES, data + done, part);
	}
	if (done > 0 && offset > inode->cached.size)
		set_size(inode, offset);
	/* What a failed sync has lost of the size is kept with the bytes that are written there again. */
	inode->size_dirty = inode->size_dirty || (done > 0 && offset > inode->kept.size);
	return done == 0 && size > 0 ? -ENOSPC : (int)done;
}

static void drop_block(struct ew__sim_inode *inode, struct ew__sim_block *block)
{
	if (!block->cached)
		return;
	if (block->cached != block->kept)
		free(block->cached);
	block->cached = NULL;
	block->dirty = true;
	inode->filesystem->blocks_used--;
	inode->blocks_used--;
}

/* What is behind the new end is gone; of the block that has the end in it the rest is zero. */
void ew__sim_inode_truncate(struct ew__sim_inode *inode, int64_t size)
{
	unsigned first = (unsigned)((size + EW__SIM_BLOCK_BYTES - 1) / EW__SIM_BLOCK_BYTES), i;
	size_t in_last = (size_t)(size % EW__SIM_BLOCK_BYTES);

	for (i = first; i < inode->blocks_count; i++)
		drop_block(inode, &inode->blocks[i]);
	if (in_last && size < inode->cached.size && first <= inode->blocks_count &&
	    inode->blocks[first - 1].cached) {
		take_block(inode, &inode->blocks[first - 1]);
		memset(inode->blocks[first - 1].cached + in_last, 0, EW__SIM_BLOCK_BYTES - in_last);
	}
	set_size(inode, size);
}

/* ---- syncing ---- */

bool ew__sim_inode_is_dirty(const struct ew__sim_inode *inode, bool data_only)
{
	unsigned i;

	for (i = 0; i < inode->blocks_count; i++)
		if (inode->blocks[i].dirty)
			return true;
	return inode->size_dirty || (inode->mode_dirty && !data_only);
}

static void settle_block(struct ew__sim_block *block, bool keep)
{
	if (block->dirty && keep) {
		if (block->kept != block->cached)
			free(block->kept);
		block->kept = block->cached;
	}
	block->dirty = false;
}

void ew__sim_inode_settle(struct ew__sim_inode *inode, bool data_only, bool keep)
{
	unsigned i;

	for (i = 0; i < inode->blocks_count; i++)
		settle_block(&inode->blocks[i], keep);
	if (inode->size_dirty && keep)
		inode->kept.size = inode->cached.size;
	inode->size_dirty = false;
	if (data_only)
		return;
	if (inode->mode_dirty && keep)
		inode->kept.mode = inode->cached.mode;
	inode->mode_dirty = false;
}
