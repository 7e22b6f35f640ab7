/* SPDX-License-Identifier: Apache-2.0 */

/*
 * What a crash leaves. All that is kept is there; of what is only cached each part is there or not, by lot, within the
 * limits of the filesystem's kind:
 *
 *   strict, failing  each block, each size, each mode and each name for itself. A name that was changed several times
 *                    is what it was after one of the changes. POSIX promises no more.
 *   ordered          names are there up to one of the changes, in the order in which they were made; a file that has
 *                    grown is there up to one of its blocks, and what is behind its old end was written before the size
 *
 * First the folders that are kept are made anew, with all that is in them; then the changes that have survived are
 * made to the new ones; then what has no way to the root is dropped.
 */

#include "driver/sim/filesystem.h"
#include "driver/sim/sim.h"

#include <stdlib.h>
#include <string.h>

struct crash {
	struct ew_sim_filesystem *old, *new;
	enum ew__sim_luck luck;
	uint64_t chance;
	struct ew__sim_inode **made;
	unsigned made_count, made_room;
};

/* 0 to @most */
static unsigned choose(struct crash *crash, unsigned most)
{
	if (crash->luck == EW__SIM_NOTHING_SURVIVES)
		return 0;
	if (crash->luck == EW__SIM_ALL_SURVIVES)
		return most;
	return (unsigned)(ew__sim_draw_from(&crash->chance) % (most + 1));
}

static bool survives(struct crash *crash, bool dirty)
{
	return dirty && choose(crash, 1);
}

/* ---- files ---- */

static bool is_ordered(const struct crash *crash)
{
	return crash->old->durability == EW_SIM_ORDERED;
}

static int64_t size_left(struct crash *crash, const struct ew__sim_inode *old)
{
	int64_t from = old->kept.size, to = old->cached.size, size;
	unsigned steps;

	if (!old->size_dirty)
		return from;
	if (!is_ordered(crash) || to <= from)
		return choose(crash, 1) ? to : from;
	steps = (unsigned)((to - from + EW__SIM_BLOCK_BYTES - 1) / EW__SIM_BLOCK_BYTES);
	size = from + (int64_t)choose(crash, steps) * EW__SIM_BLOCK_BYTES;
	return size < to ? size : to;
}

static const char *block_left(struct crash *crash, const struct ew__sim_inode *old, unsigned number)
{
	const struct ew__sim_block *block = &old->blocks[number];
	bool is_new = (int64_t)number * EW__SIM_BLOCK_BYTES >= old->kept.size;

	if (is_ordered(crash) && is_new && block->dirty)
		return block->cached;
	return survives(crash, block->dirty) ? block->cached : block->kept;
}

/* A block that survives finds room: the disk has not more on it than the cache and it had together. */
static void fill_file(struct crash *crash, struct ew__sim_inode *new,
		      const struct ew__sim_inode *old)
{
	int64_t size = size_left(crash, old), at;
	unsigned i;

	crash->new->blocks_max = UINT32_MAX;
	for (i = 0; i < old->blocks_count; i++) {
		const char *block = block_left(crash, old, i);

		at = (int64_t)i * EW__SIM_BLOCK_BYTES;
		if (block && at < size)
			ew__sim_inode_write(new, block, EW__SIM_BLOCK_BYTES, at);
	}
	ew__sim_inode_truncate(new, size);
	ew__sim_inode_settle(new, false, true);
	crash->new->blocks_max = crash->old->blocks_max;
}

/* ---- folders ---- */

static struct ew__sim_inode *image_of(struct crash *crash, struct ew__sim_inode *old);

/* A folder has one place. */
static void put(struct ew__sim_inode *folder, const char *text, struct ew__sim_inode *inode)
{
	size_t bytes = strlen(text);
	struct ew__sim_inode *before = ew__sim_names_find(folder->kept_names, text, bytes);

	if (inode == before || (inode && inode->is_folder && inode->links > 0))
		return;
	if (before)
		before->links--;
	if (inode)
		inode->links++;
	ew__sim_names_set(&folder->kept_names, text, bytes, inode);
}

static void fill_folder(struct crash *crash, struct ew__sim_inode *new,
			const struct ew__sim_inode *old)
{
	const struct ew__sim_name *name;

	for (name = old->kept_names; name; name = name->next)
		put(new, name->text, image_of(crash, name->inode));
}

static void remember(struct crash *crash, struct ew__sim_inode *old)
{
	if (crash->made_count == crash->made_room) {
		crash->made_room = crash->made_room ? 2 * crash->made_room : 64;
		crash->made = ew__sim_allocate(crash->made,
					       crash->made_room * sizeof(struct ew__sim_inode *));
	}
	ew__sim_inode_hold(old);
	crash->made[crash->made_count++] = old;
}

static struct ew__sim_inode *image_of(struct crash *crash, struct ew__sim_inode *old)
{
	struct ew__sim_inode *new;
	mode_t mode;

	if (old->image)
		return old->image;
	mode = survives(crash, old->mode_dirty) ? old->cached.mode : old->kept.mode;
	new = old == crash->old->root ? crash->new->root : ew__sim_inode_new(crash->new, mode);
	new->cached.mode = new->kept.mode = mode;
	old->image = new;
	remember(crash, old);
	if (old->is_folder)
		fill_folder(crash, new, old);
	else
		fill_file(crash, new, old);
	return new;
}

/* ---- changes ---- */

static void make(struct crash *crash, const struct ew__sim_change *change)
{
	put(image_of(crash, change->folder), change->name,
	    change->inode ? image_of(crash, change->inode) : NULL);
}

static bool is_of_one_name(const struct ew__sim_change *one, const struct ew__sim_change *other)
{
	return one->folder == other->folder && strcmp(one->name, other->name) == 0;
}

static bool is_first_of_its_name(const struct crash *crash, const struct ew__sim_change *change)
{
	const struct ew__sim_change *other;

	for (other = crash->old->changes; other != change; other = other->next)
		if (is_of_one_name(other, change))
			return false;
	return true;
}

/* One of the states that this name has had since it was kept. */
static void make_one_of(struct crash *crash, const struct ew__sim_change *first)
{
	const struct ew__sim_change *change;
	unsigned count = 0, chosen;

	for (change = first; change; change = change->next)
		count += is_of_one_name(first, change);
	chosen = choose(crash, count);
	for (change = first; chosen > 0; change = change->next)
		if (is_of_one_name(first, change) && --chosen == 0)
			make(crash, change);
}

static void make_each_by_itself(struct crash *crash)
{
	const struct ew__sim_change *change;

	for (change = crash->old->changes; change; change = change->next)
		if (is_first_of_its_name(crash, change))
			make_one_of(crash, change);
}

static void make_in_order(struct crash *crash)
{
	const struct ew__sim_change *change;
	bool half = false;
	unsigned count = 0;

	for (change = crash->old->changes; change; change = change->next)
		count++;
	count = choose(crash, count);
	for (change = crash->old->changes; change && (count > 0 || half); change = change->next) {
		make(crash, change);
		half = change->goes_with_next;
		count -= count > 0;
	}
}

/* ---- the new filesystem ---- */

/* What programs will see is what is kept. Counts the names of each anew: those without a way to the root do not count. */
static void show(struct ew__sim_inode *folder)
{
	const struct ew__sim_name *name;

	for (name = folder->kept_names; name; name = name->next) {
		ew__sim_names_set(&folder->cached_names, name->text, strlen(name->text),
				  name->inode);
		name->inode->links++;
		if (!name->inode->is_folder)
			continue;
		name->inode->parent = folder;
		show(name->inode);
	}
}

static void forget_names(struct ew__sim_inode *folder)
{
	while (folder->kept_names)
		ew__sim_names_set(&folder->kept_names, folder->kept_names->text,
				  strlen(folder->kept_names->text), NULL);
}

static void finish(struct crash *crash)
{
	struct ew__sim_inode *root = crash->new->root, *image;
	unsigned i;

	for (i = 0; i < crash->made_count; i++)
		crash->made[i]->image->links = 0;
	show(root);
	for (i = 0; i < crash->made_count; i++) {
		image = crash->made[i]->image;
		crash->made[i]->image = NULL;
		ew__sim_inode_let_go(crash->made[i]);
		if (image == root)
			continue;
		if (image->links == 0)
			forget_names(image);
		ew__sim_inode_unused(image);
		ew__sim_inode_let_go(image);
	}
	free(crash->made);
}

struct ew_sim_filesystem *ew__sim_filesystem_survivors(struct ew_sim_filesystem *filesystem,
						       enum ew__sim_luck luck, uint64_t lot)
{
	struct crash crash = {
		.old = filesystem,
		.new = ew__sim_filesystem_like(filesystem),
		.luck = luck,
		.chance = lot,
	};

	crash.new->sync_has_failed = filesystem->sync_has_failed;
	image_of(&crash, filesystem->root);
	if (is_ordered(&crash))
		make_in_order(&crash);
	else
		make_each_by_itself(&crash);
	finish(&crash);
	return crash.new;
}
