/* SPDX-License-Identifier: Apache-2.0 */

/*
 * The fuzz target over the corpus in the tree, and over every beginning of each of its inputs: what a
 * fuzzer once found, or was once given, holds with every compiler.
 */

#include "ew_test.h"

#include "../../fuzz/http_fuzz.c"

#include <dirent.h>

static size_t read_input(const char *name, uint8_t *ret_data, size_t size)
{
	char path[512];
	FILE *file;
	size_t len;

	EXPECT(snprintf(path, sizeof(path), "%s/%s", HTTP_CORPUS, name) < (int)sizeof(path));
	file = fopen(path, "re");
	EXPECT(file);
	len = fread(ret_data, 1, size, file);
	fclose(file);
	return len;
}

/* The target aborts when an invariant is broken; the name of the input is on standard error then. */
TEST(http_fuzz_corpus_and_all_its_prefixes_hold)
{
	static uint8_t data[65536];
	DIR *corpus = opendir(HTTP_CORPUS);
	struct dirent *entry;
	int count = 0;

	EXPECT(corpus);
	while ((entry = readdir(corpus))) {
		size_t len;

		if (entry->d_name[0] == '.')
			continue;
		len = read_input(entry->d_name, data, sizeof(data));
		fprintf(stderr, "%s\n", entry->d_name);
		for (size_t n = 0; n < len; n += len / 64 + 1)
			LLVMFuzzerTestOneInput(data, n);
		LLVMFuzzerTestOneInput(data, len);
		count++;
	}
	closedir(corpus);
	EXPECT(count > 100);
}

TEST_MAIN()
