/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Names of the simulated filesystem. A folder has two lists of them, the one that programs see and the one that is
 * kept; what makes the second into the first is the line of changes, in the order in which they were made.
 */

#include "driver/sim/filesystem.h"
#include "driver/sim/sim.h"

#include <stdlib.h>
#include <string.h>

static int compare(const struct ew__sim_name *name, const char *text, size_t bytes)
{
	int r = strncmp(name->text, text, bytes);

	return r == 0 && name->text[bytes] ? 1 : r;
}

struct ew__sim_inode *ew__sim_names_find(const struct ew__sim_name *names, const char *text,
					 size_t bytes)
{
	for (; names; names = names->next)
		if (compare(names, text, bytes) == 0)
			return names->inode;
	return NULL;
}

static void insert(struct ew__sim_name **link, const char *text, size_t bytes,
		   struct ew__sim_inode *inode)
{
	struct ew__sim_name *name = ew__sim_allocate(NULL, sizeof(*name) + bytes + 1);

	memcpy(name->text, text, bytes);
	name->text[bytes] = '\0';
	name->inode = inode;
	name->next = *link;
	*link = name;
	ew__sim_inode_hold(inode);
}

void ew__sim_names_set(struct ew__sim_name **names, const char *text, size_t bytes,
		       struct ew__sim_inode *inode)
{
	struct ew__sim_name **link = names, *old = NULL;

	while (*link && compare(*link, text, bytes) < 0)
		link = &(*link)->next;
	if (*link && compare(*link, text, bytes) == 0) {
		old = *link;
		*link = old->next;
	}
	if (inode)
		insert(link, text, bytes, inode);
	if (old) {
		ew__sim_inode_let_go(old->inode);
		free(old);
	}
}

static void note_change(struct ew__sim_inode *folder, const char *text, size_t bytes,
			struct ew__sim_inode *inode, bool joined)
{
	struct ew_sim_filesystem *filesystem = folder->filesystem;
	struct ew__sim_change *change = ew__sim_allocate(NULL, sizeof(*change) + bytes + 1);

	memcpy(change->name, text, bytes);
	change->name[bytes] = '\0';
	change->folder = folder;
	change->inode = inode;
	change->goes_with_next = joined;
	change->next = NULL;
	ew__sim_inode_hold(folder);
	if (inode)
		ew__sim_inode_hold(inode);
	*filesystem->changes_last = change;
	filesystem->changes_last = &change->next;
}

void ew__sim_folder_set(struct ew__sim_inode *folder, const char *text, size_t bytes,
			struct ew__sim_inode *inode, bool joined)
{
	struct ew__sim_inode *old = ew__sim_names_find(folder->cached_names, text, bytes);

	note_change(folder, text, bytes, inode, joined);
	if (inode) {
		inode->links++;
		inode->never_named = false;
		if (inode->is_folder)
			inode->parent = folder;
	}
	if (old) {
		ew__sim_inode_hold(old);
		old->links--;
		if (old->links == 0 && old->is_folder)
			old->parent = NULL;
	}
	ew__sim_names_set(&folder->cached_names, text, bytes, inode);
	if (old) {
		ew__sim_inode_unused(old);
		ew__sim_inode_let_go(old);
	}
}

bool ew__sim_changes_are_there(const struct ew_sim_filesystem *filesystem,
			       const struct ew__sim_inode *folder)
{
	const struct ew__sim_change *change;

	for (change = filesystem->changes; change; change = change->next)
		if (!folder || change->folder == folder)
			return true;
	return false;
}

static void settle(struct ew__sim_change *change, bool keep)
{
	if (keep)
		ew__sim_names_set(&change->folder->kept_names, change->name, strlen(change->name),
				  change->inode);
	ew__sim_inode_let_go(change->folder);
	if (change->inode)
		ew__sim_inode_let_go(change->inode);
	free(change);
}

void ew__sim_changes_settle(struct ew_sim_filesystem *filesystem,
			    const struct ew__sim_inode *folder, bool keep)
{
	struct ew__sim_change **link = &filesystem->changes, *change;

	while ((change = *link)) {
		if (folder && change->folder != folder) {
			link = &change->next;
			continue;
		}
		*link = change->next;
		settle(change, keep);
	}
	filesystem->changes_last = link;
}
