/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * A fuzz target over its corpus in the tree, and over every beginning of each of its inputs: what a fuzzer once found, or
 * was once given, holds with every compiler.
 */

#include "ew_test.h"

#include <dirent.h>
#include <stdint.h>

typedef int fuzz_target(const uint8_t *data, size_t size);

static inline size_t read_input(const char *folder, const char *name, uint8_t *ret_data,
				size_t size)
{
	char path[512];
	FILE *file;
	size_t len;

	EXPECT(snprintf(path, sizeof(path), "%s/%s", folder, name) < (int)sizeof(path));
	file = fopen(path, "re");
	EXPECT(file);
	len = fread(ret_data, 1, size, file);
	fclose(file);
	return len;
}

/* How many there are. When an invariant is broken, the name of the input is on standard error. */
static inline int run_corpus(const char *folder, fuzz_target *target)
{
	static uint8_t data[65536];
	DIR *corpus = opendir(folder);
	struct dirent *entry;
	int count = 0;

	EXPECT(corpus);
	while ((entry = readdir(corpus))) {
		size_t len;

		if (entry->d_name[0] == '.')
			continue;
		len = read_input(folder, entry->d_name, data, sizeof(data));
		fprintf(stderr, "%s\n", entry->d_name);
		for (size_t n = 0; n < len; n += len / 64 + 1)
			target(data, n);
		target(data, len);
		count++;
	}
	closedir(corpus);
	return count;
}
