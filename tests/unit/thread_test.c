/* SPDX-License-Identifier: Apache-2.0 */

/*
 * The same calls on plain threads: alone, with each other, with the tasks of a runtime, in the child of a fork, and at
 * the end of the thread. A thread of the test's own is used where its end matters: the main thread's is the process's.
 */

#include "io.h"

#include <sched.h>

TEST(thread_sleeps_as_a_task_does)
{
	int64_t until_ns = ew_after(5 * EW_MILLISECOND);

	EXPECT_EQ(ew_sleep_until(until_ns), 0);
	EXPECT(ew_now() >= until_ns);
	EXPECT_EQ(ew_yield(), 0);
	EXPECT_EQ(ew_worker(), 0);
	EXPECT_EQ(ew_workers_count(), 0);
	EXPECT_STR(ew_task_name(), "");
}

TEST(thread_reads_and_writes_files)
{
	char text[16] = "";
	struct directory directory;

	directory_make(&directory);
	put_file(&directory, "file", "hello");
	{
		EW_OWN(ew_file, dir);
		EW_OWN(ew_file, file);

		EXPECT_EQ(ew_file_open(NULL, directory.path, O_RDONLY | O_DIRECTORY, 0, &dir), 0);
		EXPECT_EQ(ew_file_open(dir, "file", O_RDWR, 0, &file), 0);
		EXPECT_EQ(ew_file_read(file, text, sizeof(text), 0), 5);
		EXPECT_EQ(ew_outcome(), EW_OUTCOME_PARTIAL);
		EXPECT_STR(text, "hello");
		EXPECT_EQ(ew_file_write(file, "HELLO", 5, 0), 0);
		EXPECT_EQ(ew_file_sync(file, false), 0);
		EXPECT_EQ(ew_file_close(&file), 0);
		EXPECT_EQ(ew_file_unlink(dir, "none", 0), -ENOENT);
	}
	EXPECT_STR(file_text(&directory, "file"), "HELLO");
	directory_remove(&directory);
}

TEST_MAIN()
