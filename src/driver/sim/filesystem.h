/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * The filesystem of a simulated world, inside: each thing is there twice, as the cache has it, which is what programs
 * see, and as it is kept, which is what no crash takes away
 */

#include <endwell/sim.h>
#include <sys/stat.h>

#define EW__SIM_BLOCK_BYTES    4096
#define EW__SIM_FILE_BYTES_MAX ((int64_t)1 << 32)
#define EW__SIM_NAME_BYTES_MAX 255

struct ew__sim_inode;
struct ew__sim_file;

/* A block of a file. NULL is a hole. What both have is there once. */
struct ew__sim_block {
	char *cached, *kept;
	bool dirty; /* a sync would keep what is cached */
};

struct ew__sim_state {
	int64_t size;
	mode_t mode;
};

struct ew__sim_name {
	struct ew__sim_name *next; /* in order */
	struct ew__sim_inode *inode;
	char text[];
};

struct ew__sim_inode {
	struct ew_sim_filesystem *filesystem;
	uint64_t number;
	bool is_folder;
	bool never_named; /* O_TMPFILE: it may get its first name */
	unsigned holders; /* names of both kinds, changes, openings */
	unsigned links;	  /* names that programs see */
	unsigned openings, writers;
	const struct ew__sim_file *locked_by; /* NULL: nobody has the lock */
	struct ew__sim_inode *image;	      /* while what survives a crash is made */

	/* Of a file. */
	struct ew__sim_state cached, kept;
	bool size_dirty, mode_dirty;
	struct ew__sim_block *blocks;
	unsigned blocks_count, blocks_used;

	/* Of a folder. */
	struct ew__sim_inode *parent; /* as programs see it; NULL: removed */
	struct ew__sim_name *cached_names, *kept_names;
};

/* A name that was given or taken away, and which no sync has kept yet. In order. */
struct ew__sim_change {
	struct ew__sim_change *next;
	struct ew__sim_inode *folder;
	struct ew__sim_inode *inode; /* NULL: taken away */
	bool goes_with_next;	     /* the two halves of a rename */
	char name[];
};

struct ew_sim_filesystem {
	enum ew_sim_durability durability;
	bool names_only;
	struct ew__sim_inode *root;
	struct ew__sim_change *changes, **changes_last;
	unsigned blocks_max, blocks_used;
	uint64_t inodes_made;
	bool sync_has_failed;
	uint64_t calls; /* that may have changed something */
	uint64_t cut_at;
	void (*cut)(struct ew_sim_filesystem *filesystem, void *argument); /* before that call */
	void *cut_argument;
	size_t path_bytes;
	char path[]; /* where it is */
};

/* ---- inode.c ---- */

struct ew__sim_inode *ew__sim_inode_new(struct ew_sim_filesystem *filesystem, mode_t mode);
void ew__sim_inode_hold(struct ew__sim_inode *inode);
void ew__sim_inode_let_go(struct ew__sim_inode *inode);

/* After a crash more blocks may be used than there are: what was taken away is back, beside what had its room. */
unsigned ew__sim_blocks_free(const struct ew_sim_filesystem *filesystem);

/* Nobody sees it any more: its room is free. */
void ew__sim_inode_unused(struct ew__sim_inode *inode);

int ew__sim_inode_read(const struct ew__sim_inode *inode, char *buffer, size_t size,
		       int64_t offset);
int ew__sim_inode_write(struct ew__sim_inode *inode, const char *data, size_t size, int64_t offset);
void ew__sim_inode_truncate(struct ew__sim_inode *inode, int64_t size);

/* What is dirty is kept, or is clean and lost. */
bool ew__sim_inode_is_dirty(const struct ew__sim_inode *inode, bool data_only);
void ew__sim_inode_settle(struct ew__sim_inode *inode, bool data_only, bool keep);

/* ---- names.c ---- */

struct ew__sim_inode *ew__sim_names_find(const struct ew__sim_name *names, const char *text,
					 size_t bytes);

/* @inode: NULL takes the name away. */
void ew__sim_names_set(struct ew__sim_name **names, const char *text, size_t bytes,
		       struct ew__sim_inode *inode);

/* For programs to see; a change is noted. @joined: it goes with the next one. */
void ew__sim_folder_set(struct ew__sim_inode *folder, const char *text, size_t bytes,
			struct ew__sim_inode *inode, bool joined);

/* Changes of @folder, or all if it is NULL, are kept, or forgotten. */
bool ew__sim_changes_are_there(const struct ew_sim_filesystem *filesystem,
			       const struct ew__sim_inode *folder);
void ew__sim_changes_settle(struct ew_sim_filesystem *filesystem,
			    const struct ew__sim_inode *folder, bool keep);

/* ---- crash.c ---- */

enum ew__sim_luck {
	EW__SIM_NOTHING_SURVIVES, /* that was not synced */
	EW__SIM_ALL_SURVIVES,
	EW__SIM_BY_LOT,
};

/* Another filesystem: what a crash would leave now. */
struct ew_sim_filesystem *ew__sim_filesystem_survivors(struct ew_sim_filesystem *filesystem,
						       enum ew__sim_luck luck, uint64_t lot);

/* ---- filesystem.c ---- */

/* An empty one of the same kind. */
struct ew_sim_filesystem *ew__sim_filesystem_like(const struct ew_sim_filesystem *other);
