/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * What the tests of temporary files share: a directory to work in, and a count of what is left in it.
 */

#include "io.h"

#define TEXT "what was uploaded"

struct workplace {
	struct directory directory;
	struct ew_file *dir;
	int left; /* a descriptor of the file that somebody else holds */
};

static UNUSED void tempfile_make(struct workplace *workplace, struct ew_tempfile **ret_tempfile)
{
	EXPECT_EQ(ew_tempfile_open(workplace->dir, ret_tempfile), 0);
	EXPECT_EQ(ew_file_write(ew_tempfile_file(*ret_tempfile), TEXT, strlen(TEXT), 0), 0);
}

/* Opens the file a second time, as a scanner does that was handed it. */
static UNUSED int open_again(struct ew_tempfile *tempfile, int flags)
{
	char path[32];
	int fd;

	snprintf(path, sizeof(path), "/proc/self/fd/%d", ew_file_fd(ew_tempfile_file(tempfile)));
	fd = open(path, flags | O_CLOEXEC);
	EXPECT(fd >= 0);
	return fd;
}

static UNUSED off_t size_of(int fd)
{
	struct stat stat;

	EXPECT_EQ(fstat(fd, &stat), 0);
	return stat.st_size;
}

static UNUSED unsigned count_names(const struct directory *directory)
{
	DIR *listing = opendir(directory->path);
	struct dirent *entry;
	unsigned count = 0;

	EXPECT(listing);
	while ((entry = readdir(listing)))
		count += entry->d_name[0] != '.';
	closedir(listing);
	return count;
}

struct call {
	int (*fn)(struct workplace *workplace);
	struct workplace *workplace;
};

static UNUSED int in_workplace(void *argument)
{
	struct call *call = argument;
	EW_OWN(ew_file, dir);

	EXPECT_EQ(ew_file_open(NULL, call->workplace->directory.path, O_RDONLY | O_DIRECTORY, 0,
			       &dir),
		  0);
	call->workplace->dir = dir;
	return call->fn(call->workplace);
}

/* Runs @fn; afterwards no descriptor is left, and the directory holds @names_count names. */
static UNUSED int run_in_workplace(int (*fn)(struct workplace *workplace), unsigned names_count)
{
	struct workplace workplace = { .left = -1 };
	struct call call = { fn, &workplace };
	struct descriptors before;
	int r;

	directory_make(&workplace.directory);
	before = descriptors_now();
	r = run_workers(1, in_workplace, &call);
	expect_same_descriptors(&before);
	EXPECT_EQ(count_names(&workplace.directory), names_count);
	directory_remove(&workplace.directory);
	return r;
}
