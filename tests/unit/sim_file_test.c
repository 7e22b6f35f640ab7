/* SPDX-License-Identifier: Apache-2.0 */

/*
 * The filesystem of a simulated world: what a crash leaves of it, and what of a published file.
 */

#include "sim.h"

#define TEXT "what was uploaded"

static const char *const folders[] = { "bucket", "staging", NULL };

static struct ew_sim_filesystem *filesystem;

static void make_filesystem(enum ew_sim_durability durability, unsigned blocks_max)
{
	const struct ew_sim_filesystem_options options = {
		.durability = durability,
		.blocks_max = blocks_max,
		.folders = folders,
	};

	EXPECT_EQ(ew_sim_filesystem_new(&options, &filesystem), 0);
}

static void run_in(ew_task_fn *fn, void *argument)
{
	const struct ew_sim_options options = { .seed = 1, .filesystem = filesystem };

	EXPECT_EQ(ew_sim_run(&options, fn, argument, NULL), 0);
}

static void open_folder(const char *path, struct ew_file **ret_folder)
{
	EXPECT_EQ(ew_file_open(NULL, path, O_RDONLY | O_DIRECTORY, 0, ret_folder), 0);
}

struct steps {
	bool sync_data, sync_name;
};

static int publish(void *argument)
{
	const struct steps *steps = argument;

	EW_OWN(ew_file, bucket);
	EW_OWN(ew_tempfile, tempfile);

	open_folder("/sim/bucket", &bucket);
	EXPECT_EQ(ew_tempfile_open(bucket, &tempfile), 0);
	EXPECT_EQ(ew_file_write(ew_tempfile_file(tempfile), TEXT, strlen(TEXT), 0), 0);
	if (steps->sync_data)
		EXPECT_EQ(ew_file_sync(ew_tempfile_file(tempfile), true), 0);
	EXPECT_EQ(ew_tempfile_seal(tempfile), 0);
	EXPECT_EQ(ew_tempfile_publish(tempfile, bucket, "name"), 0);
	if (steps->sync_name)
		EXPECT_EQ(ew_file_sync(bucket, false), 0);
	return ew_tempfile_close(&tempfile);
}

struct found {
	int size; /* or -ENOENT */
	bool whole;
};

static int look(void *argument)
{
	struct found *found = argument;
	char text[64] = "";
	int r;

	EW_OWN(ew_file, file);

	r = ew_file_open(NULL, "/sim/bucket/name", O_RDONLY, 0, &file);
	found->size = r;
	if (r < 0)
		return r == -ENOENT ? 0 : r;
	found->size = ew_file_read(file, text, sizeof(text), 0);
	found->whole = strcmp(text, TEXT) == 0;
	return found->size < 0 ? found->size : 0;
}

static struct found publish_and_crash(struct steps steps, uint64_t seed)
{
	struct found found = { 0 };

	make_filesystem(EW_SIM_STRICT, 0);
	run_in(publish, &steps);
	ew_sim_filesystem_crash(&filesystem, seed);
	run_in(look, &found);
	ew_sim_filesystem_free(filesystem);
	return found;
}

TEST(sim_file_that_was_synced_with_its_name_survives)
{
	uint64_t seed;

	for (seed = 1; seed <= 50; seed++)
		EXPECT(publish_and_crash((struct steps){ true, true }, seed).whole);
}

TEST(sim_file_or_name_that_was_not_synced_is_lost_by_lot)
{
	unsigned named = 0, whole = 0;
	uint64_t seed;

	for (seed = 1; seed <= 50; seed++) {
		named += publish_and_crash((struct steps){ true, false }, seed).whole;
		whole += publish_and_crash((struct steps){ false, true }, seed).whole;
	}
	EXPECT(named > 0 && named < 50);
	EXPECT(whole > 0 && whole < 50);
}

/* ---- what is durable, and when ---- */

static void make_file(struct ew_file *folder, const char *name, const char *text,
		      struct ew_file **ret_file)
{
	EXPECT_EQ(ew_file_open(folder, name, O_RDWR | O_CREAT | O_EXCL, 0644, ret_file), 0);
	EXPECT_EQ(ew_file_write(*ret_file, text, strlen(text), 0), 0);
}

static int size_of(const char *path)
{
	struct stat stat;
	int r;

	EW_OWN(ew_file, file);

	r = ew_file_open(NULL, path, O_RDONLY, 0, &file);
	if (r < 0)
		return r;
	EXPECT_EQ(ew_file_stat(file, &stat), 0);
	return (int)stat.st_size;
}

/* After @fn, by @durability, with all the luck that there is: what is seen at @path, for each of 40 seeds. */
static unsigned crash_times(enum ew_sim_durability durability, ew_task_fn *fn, ew_task_fn *then)
{
	unsigned count = 0;
	uint64_t seed;

	for (seed = 1; seed <= 40; seed++) {
		bool seen = false;

		make_filesystem(durability, 0);
		run_in(fn, NULL);
		ew_sim_filesystem_crash(&filesystem, seed);
		run_in(then, &seen);
		ew_sim_filesystem_free(filesystem);
		count += seen;
	}
	return count;
}

static int make_two_names(void *argument)
{
	(void)argument;
	EW_OWN(ew_file, bucket);
	EW_OWN(ew_file, one);
	EW_OWN(ew_file, other);

	open_folder("/sim/bucket", &bucket);
	make_file(bucket, "one", "", &one);
	make_file(bucket, "other", "", &other);
	return 0;
}

static int see_the_second_alone(void *seen)
{
	*(bool *)seen = size_of("/sim/bucket/one") == -ENOENT && size_of("/sim/bucket/other") == 0;
	return 0;
}

TEST(sim_names_survive_in_their_order_or_each_for_itself)
{
	EXPECT_EQ(crash_times(EW_SIM_ORDERED, make_two_names, see_the_second_alone), 0);
	EXPECT(crash_times(EW_SIM_STRICT, make_two_names, see_the_second_alone) > 0);
}

static int make_and_sync_the_file_alone(void *argument)
{
	(void)argument;
	EW_OWN(ew_file, bucket);
	EW_OWN(ew_file, file);

	open_folder("/sim/bucket", &bucket);
	make_file(bucket, "one", TEXT, &file);
	return ew_file_sync(file, false);
}

static int see_one(void *seen)
{
	*(bool *)seen = size_of("/sim/bucket/one") == (int)strlen(TEXT);
	return 0;
}

TEST(sim_sync_of_a_new_file_keeps_its_name_where_the_journal_is_one)
{
	unsigned strictly = crash_times(EW_SIM_STRICT, make_and_sync_the_file_alone, see_one);

	EXPECT_EQ(crash_times(EW_SIM_ORDERED, make_and_sync_the_file_alone, see_one), 40);
	EXPECT(strictly > 0 && strictly < 40);
}

static int move_what_is_durable(void *argument)
{
	(void)argument;
	EW_OWN(ew_file, bucket);
	EW_OWN(ew_file, staging);
	EW_OWN(ew_file, file);

	open_folder("/sim/bucket", &bucket);
	open_folder("/sim/staging", &staging);
	make_file(staging, "one", TEXT, &file);
	EXPECT_EQ(ew_file_sync(file, false), 0);
	EXPECT_EQ(ew_file_sync(staging, false), 0);
	return ew_file_rename(staging, "one", bucket, "one", RENAME_NOREPLACE);
}

static int see_not_exactly_one(void *seen)
{
	*(bool *)seen =
		(size_of("/sim/bucket/one") == -ENOENT) == (size_of("/sim/staging/one") == -ENOENT);
	return 0;
}

TEST(sim_rename_is_whole_where_the_journal_is_one)
{
	EXPECT_EQ(crash_times(EW_SIM_ORDERED, move_what_is_durable, see_not_exactly_one), 0);
	EXPECT(crash_times(EW_SIM_STRICT, move_what_is_durable, see_not_exactly_one) > 0);
}

#define BLOCKS 8

static int write_many_blocks(void *argument)
{
	static const char block[4096] = { 'x' };
	unsigned i;

	(void)argument;
	EW_OWN(ew_file, bucket);
	EW_OWN(ew_file, file);

	open_folder("/sim/bucket", &bucket);
	make_file(bucket, "one", "", &file);
	EXPECT_EQ(ew_file_sync(file, false), 0);
	EXPECT_EQ(ew_file_sync(bucket, false), 0);
	for (i = 0; i < BLOCKS; i++)
		EXPECT_EQ(ew_file_write(file, block, sizeof(block), (int64_t)i * 4096), 0);
	return 0;
}

static int see_a_hole(void *seen)
{
	char byte;
	int64_t at;

	EW_OWN(ew_file, file);

	EXPECT_EQ(ew_file_open(NULL, "/sim/bucket/one", O_RDONLY, 0, &file), 0);
	for (at = 0; ew_file_read(file, &byte, 1, at) == 1; at += 4096)
		*(bool *)seen |= byte != 'x';
	return 0;
}

TEST(sim_file_that_has_grown_has_no_holes_where_data_come_first)
{
	EXPECT_EQ(crash_times(EW_SIM_ORDERED, write_many_blocks, see_a_hole), 0);
	EXPECT(crash_times(EW_SIM_STRICT, write_many_blocks, see_a_hole) > 0);
}

/* Again and again, until one fails: what that one was for reads well, and is lost, whatever later ones say. */
static int sync_until_one_fails(void *argument)
{
	char text[16] = "";
	unsigned i;
	int r = 0;

	(void)argument;
	EW_OWN(ew_file, bucket);
	EW_OWN(ew_file, file);

	open_folder("/sim/bucket", &bucket);
	make_file(bucket, "one", "", &file);
	for (i = 0; r == 0 && i < 1000; i++) {
		EXPECT_EQ(ew_file_write(file, "x", 1, 0), 0);
		r = ew_file_sync(file, true);
	}
	EXPECT_EQ(r, -EIO);
	EXPECT_EQ(ew_file_truncate(file, 0), 0);
	EXPECT_EQ(ew_file_sync(file, true), 0);
	EXPECT_EQ(ew_file_sync(bucket, false), 0);
	EXPECT_EQ(ew_file_write(file, "y", 1, 0), 0);
	EXPECT_EQ(ew_file_sync(file, true), 0);
	EXPECT_EQ(ew_file_read(file, text, sizeof(text), 0), 1);
	EXPECT_STR(text, "y");
	return 0;
}

static int see_y(void *seen)
{
	char text[2] = "";

	EW_OWN(ew_file, file);

	EXPECT_EQ(ew_file_open(NULL, "/sim/bucket/one", O_RDONLY, 0, &file), 0);
	EXPECT_EQ(ew_file_read(file, text, 1, 0), 1);
	*(bool *)seen = text[0] == 'y';
	return 0;
}

TEST(sim_sync_fails_once_and_what_is_written_after_it_is_kept)
{
	EXPECT_EQ(crash_times(EW_SIM_FAILING, sync_until_one_fails, see_y), 40);
}

static int read_byte(struct ew_file *bucket)
{
	char byte;

	EW_OWN(ew_file, file);

	EXPECT_EQ(ew_file_open(bucket, "one", O_RDONLY, 0, &file), 0);
	EXPECT_EQ(ew_file_read(file, &byte, 1, 0), 1);
	return byte;
}

static int see_byte(void *argument)
{
	EW_OWN(ew_file, bucket);

	open_folder("/sim/bucket", &bucket);
	*(int *)argument = read_byte(bucket);
	return 0;
}

static int sync_bytes_again(void *argument)
{
	char byte = 'a';
	int r;

	EW_OWN(ew_file, bucket);
	EW_OWN(ew_file, file);

	open_folder("/sim/bucket", &bucket);
	make_file(bucket, "one", "?", &file);
	if (ew_file_sync(file, false) < 0 || ew_file_sync(bucket, false) < 0)
		return see_byte(argument); /* too early: the file, or its name, is lost */
	do {
		byte++;
		EXPECT_EQ(ew_file_write(file, &byte, 1, 0), 0);
		r = ew_file_sync(file, true);
	} while (r == 0);
	EXPECT_EQ(r, -EIO);
	EXPECT_EQ(ew_file_sync(file, true), 0);
	return see_byte(argument);
}

static int see_byte_or_none(void *argument)
{
	if (size_of("/sim/bucket/one") != 1) {
		*(int *)argument = 0;
		return 0;
	}
	return see_byte(argument);
}

/* The cache reads what was written, and the disk has what was there before. */
TEST(sim_bytes_of_a_failed_sync_are_lost_whatever_a_later_one_says)
{
	int before = 0, after = 0;
	uint64_t seed;

	for (seed = 1; seed <= 20; seed++) {
		struct ew_sim_options world = { .seed = seed };

		make_filesystem(EW_SIM_FAILING, 0);
		world.filesystem = filesystem;
		EXPECT_EQ(ew_sim_run(&world, sync_bytes_again, &before, NULL), 0);
		ew_sim_filesystem_crash(&filesystem, seed);
		run_in(see_byte_or_none, &after);
		ew_sim_filesystem_free(filesystem);
		EXPECT(before != after);
	}
}

static int write_again_after_a_failure(void *argument)
{
	unsigned i;
	int r = 0;

	(void)argument;
	EW_OWN(ew_file, bucket);
	EW_OWN(ew_file, file);

	open_folder("/sim/bucket", &bucket);
	for (i = 0; r == 0 && i < 1000; i++) {
		if (i > 0)
			EXPECT_EQ(ew_file_unlink(bucket, "name", 0), 0);
		EXPECT_EQ(ew_file_close(&file), 0);
		make_file(bucket, "name", TEXT, &file);
		r = ew_file_sync(file, true);
	}
	EXPECT_EQ(r, -EIO);
	EXPECT_EQ(ew_file_write(file, TEXT, strlen(TEXT), 0), 0);
	EXPECT_EQ(ew_file_sync(file, true), 0);
	return ew_file_sync(bucket, false);
}

/* The size too, although it is no other one. */
TEST(sim_bytes_of_a_failed_sync_that_are_written_again_are_kept)
{
	struct found found = { 0 };
	uint64_t seed;

	for (seed = 1; seed <= 20; seed++) {
		make_filesystem(EW_SIM_FAILING, 0);
		run_in(write_again_after_a_failure, NULL);
		ew_sim_filesystem_crash(&filesystem, seed);
		run_in(look, &found);
		ew_sim_filesystem_free(filesystem);
		EXPECT(found.whole);
	}
}

static int sync_again_after_a_failure(void *argument)
{
	unsigned i;
	int r = 0;

	(void)argument;
	EW_OWN(ew_file, bucket);

	open_folder("/sim/bucket", &bucket);
	for (i = 0; r == 0 && i < 1000; i++) {
		EW_OWN(ew_file, file);

		if (i > 0)
			EXPECT_EQ(ew_file_unlink(bucket, "one", 0), 0);
		if (i > 0)
			r = ew_file_sync(bucket, false);
		if (r < 0)
			break;
		make_file(bucket, "one", TEXT, &file);
		r = ew_file_sync(bucket, false);
	}
	EXPECT_EQ(r, -EIO);
	EXPECT_EQ(ew_file_sync(bucket, false), 0);
	*(int *)argument = size_of("/sim/bucket/one");
	return 0;
}

static int compare_with_cache(void *argument)
{
	*(int *)argument = size_of("/sim/bucket/one");
	return 0;
}

/* For every seed: the cache says one thing, and the disk has the other. */
TEST(sim_names_of_a_failed_sync_are_lost_whatever_a_later_one_says)
{
	int before, after;

	make_filesystem(EW_SIM_FAILING, 0);
	run_in(sync_again_after_a_failure, &before);
	ew_sim_filesystem_crash(&filesystem, 1);
	run_in(compare_with_cache, &after);
	ew_sim_filesystem_free(filesystem);
	EXPECT((before == -ENOENT) != (after == -ENOENT));
}

static int move_a_folder(void *argument)
{
	(void)argument;
	EW_OWN(ew_file, bucket);
	EW_OWN(ew_file, staging);
	EW_OWN(ew_file, file);

	open_folder("/sim/bucket", &bucket);
	open_folder("/sim/staging", &staging);
	make_file(staging, "one", TEXT, &file);
	EXPECT_EQ(ew_file_sync(file, false), 0);
	EXPECT_EQ(ew_file_sync(staging, false), 0);
	EXPECT_EQ(ew_file_rename(NULL, "/sim/staging", bucket, "folder", 0), 0);
	EXPECT_EQ(ew_file_rename(NULL, "/sim/bucket", staging, "bucket", 0), -EINVAL);
	return 0;
}

static int see_it_moved(void *seen)
{
	*(bool *)seen = size_of("/sim/bucket/folder/one") == (int)strlen(TEXT) &&
			size_of("/sim/staging/one") == -ENOENT;
	return 0;
}

TEST(sim_folder_has_one_place_after_a_crash)
{
	EXPECT_EQ(crash_times(EW_SIM_STRICT, move_a_folder, see_it_moved), 40);
}

/* ---- two who have it open ---- */

static int scan(void *argument)
{
	char text[64] = "";

	EW_OWN(ew_file, file);

	EXPECT_EQ(ew_socket_recv_fd(argument, text, 1, &file), 1);
	EXPECT_EQ(ew_file_read(file, text, sizeof(text), 0), strlen(TEXT));
	EXPECT_STR(text, TEXT);
	EXPECT_EQ(ew_file_write(file, "no", 2, 0), -EBADF);
	EXPECT_EQ(ew_socket_send(argument, "+", 1), 0);
	EXPECT_EQ(ew_socket_recv(argument, text, 1), 1);
	EXPECT_EQ(ew_file_read(file, text, sizeof(text), 0), 0);
	return 0;
}

/* As a scanner is handed what was uploaded. It may keep it open: its bytes are gone when the file ends. */
static int hand_over(void *argument)
{
	char answer;

	(void)argument;
	EW_OWN(ew_file, staging);
	EW_OWN(ew_tempfile, tempfile);
	EW_OWN(ew_socket, ours);
	EW_OWN(ew_socket, theirs);
	EW_SCOPE(scope);

	open_folder("/sim/staging", &staging);
	EXPECT_EQ(ew_tempfile_open(staging, &tempfile), 0);
	EXPECT_EQ(ew_file_write(ew_tempfile_file(tempfile), TEXT, strlen(TEXT), 0), 0);
	EXPECT_EQ(ew_tempfile_seal(tempfile), 0);
	EXPECT_EQ(ew_socket_pair(&ours, &theirs), 0);
	EXPECT_EQ(ew_spawn(&scope, scan, theirs), 0);
	EXPECT_EQ(ew_socket_send_fd(ours, "f", 1, ew_file_fd(ew_tempfile_file(tempfile))), 0);
	EXPECT_EQ(ew_socket_recv(ours, &answer, 1), 1);
	EXPECT_EQ(ew_tempfile_close(&tempfile), 0);
	EXPECT_EQ(ew_socket_send(ours, "+", 1), 0);
	return ew_scope_finish(&scope, 0);
}

TEST(sim_file_is_handed_to_another_task_and_is_empty_when_it_has_ended)
{
	make_filesystem(EW_SIM_STRICT, 0);
	run_in(hand_over, NULL);
	ew_sim_filesystem_free(filesystem);
}

static int seal_what_another_can_write(void *argument)
{
	(void)argument;
	EW_OWN(ew_file, staging);
	EW_OWN(ew_tempfile, tempfile);
	EW_OWN(ew_file, other);

	open_folder("/sim/staging", &staging);
	EXPECT_EQ(ew_tempfile_open_named(staging, "part", &tempfile), 0);
	EXPECT_EQ(ew_file_open(staging, "part", O_WRONLY, 0, &other), 0);
	EXPECT_EQ(ew_tempfile_seal(tempfile), -EBUSY);
	EXPECT_EQ(ew_file_close(&other), 0);
	EXPECT_EQ(ew_tempfile_seal(tempfile), 0);
	return 0;
}

TEST(sim_file_with_another_writer_is_not_sealed)
{
	make_filesystem(EW_SIM_STRICT, 0);
	run_in(seal_what_another_can_write, NULL);
	ew_sim_filesystem_free(filesystem);
}

/* ---- limits ---- */

static int fill_the_disk(void *argument)
{
	static const char block[4096];
	struct statvfs statvfs;

	(void)argument;
	EW_OWN(ew_file, bucket);
	EW_OWN(ew_file, file);
	EW_OWN(ew_tempfile, tempfile);

	open_folder("/sim/bucket", &bucket);
	EXPECT_EQ(ew_tempfile_open(bucket, &tempfile), 0);
	EXPECT_EQ(ew_file_write(ew_tempfile_file(tempfile), block, 4096, 0), 0);
	make_file(bucket, "one", "", &file);
	EXPECT_EQ(ew_file_write(file, block, 4096, 0), 0);
	EXPECT_EQ(ew_file_write(file, block, 4096, 4096), -ENOSPC);
	EXPECT_EQ(ew_file_statvfs(bucket, &statvfs), 0);
	EXPECT_EQ(statvfs.f_blocks, 2);
	EXPECT_EQ(statvfs.f_bavail, 0);
	EXPECT_EQ(ew_tempfile_close(&tempfile), 0);
	EXPECT_EQ(ew_file_write(file, block, 4096, 4096), 0);
	EXPECT_EQ(ew_file_unlink(bucket, "one", 0), 0);
	EXPECT_EQ(ew_file_statvfs(bucket, &statvfs), 0);
	EXPECT_EQ(statvfs.f_bavail, 0);
	EXPECT_EQ(ew_file_close(&file), 0);
	EXPECT_EQ(ew_file_statvfs(bucket, &statvfs), 0);
	EXPECT_EQ(statvfs.f_bavail, 2);
	return 0;
}

TEST(sim_disk_that_is_full_says_so_and_has_room_again_when_a_file_has_gone)
{
	make_filesystem(EW_SIM_STRICT, 2);
	run_in(fill_the_disk, NULL);
	ew_sim_filesystem_free(filesystem);
}

static int replace_what_fills_the_disk(void *argument)
{
	static const char block[4096];

	(void)argument;
	EW_OWN(ew_file, bucket);
	EW_OWN(ew_file, one);
	EW_OWN(ew_file, two);

	open_folder("/sim/bucket", &bucket);
	make_file(bucket, "one", block, &one);
	EXPECT_EQ(ew_file_write(one, block, 4096, 0), 0);
	EXPECT_EQ(ew_file_sync(one, true), 0);
	EXPECT_EQ(ew_file_sync(bucket, false), 0);
	EXPECT_EQ(ew_file_unlink(bucket, "one", 0), 0);
	EXPECT_EQ(ew_file_close(&one), 0);
	make_file(bucket, "two", block, &two);
	EXPECT_EQ(ew_file_write(two, block, 4096, 0), 0);
	return ew_file_sync(two, true);
}

static int expect_full_if_both_are_there(void *argument)
{
	static const char block[4096];
	unsigned *full = argument;
	struct statvfs statvfs;

	EW_OWN(ew_file, bucket);
	EW_OWN(ew_file, file);

	if (!ew_sim_name("/sim/bucket", 1))
		return 0;
	open_folder("/sim/bucket", &bucket);
	EXPECT_EQ(ew_file_statvfs(bucket, &statvfs), 0);
	EXPECT_EQ(statvfs.f_bavail, 0);
	EXPECT_EQ(ew_file_open(bucket, "two", O_WRONLY, 0, &file), 0);
	EXPECT_EQ(ew_file_write(file, block, 4096, 4096), -ENOSPC);
	*full += 1;
	return 0;
}

/* The room of a name that was taken away has been used again, and then the name is back. */
TEST(sim_disk_that_has_more_on_it_after_a_crash_than_it_has_room_for_is_full)
{
	unsigned full = 0;
	uint64_t seed;

	for (seed = 1; seed <= 20; seed++) {
		make_filesystem(EW_SIM_STRICT, 1);
		run_in(replace_what_fills_the_disk, NULL);
		ew_sim_filesystem_crash(&filesystem, seed);
		run_in(expect_full_if_both_are_there, &full);
		ew_sim_filesystem_free(filesystem);
	}
	EXPECT(full > 0);
}

static int open_at(struct ew_file *dir, const char *path, int flags)
{
	EW_OWN(ew_file, file);

	return ew_file_open(dir, path, flags, 0644, &file);
}

/* In folders that are there, one below the other, and one that has gone. */
static int make_mistakes(void *argument)
{
	char name[PATH_MAX + 8];
	char byte = 'x';

	EW_OWN(ew_file, bucket);
	EW_OWN(ew_file, gone);
	EW_OWN(ew_file, file);

	(void)argument;
	open_folder("/sim/bucket", &bucket);
	open_folder("/sim/staging", &gone);
	make_file(bucket, "file", "text", &file);
	EXPECT_EQ(ew_file_unlink(NULL, "/sim/staging", AT_REMOVEDIR), 0);
	EXPECT_EQ(open_at(gone, "file", O_WRONLY | O_CREAT), -ENOENT);
	EXPECT_EQ(ew_file_rename(bucket, "file", gone, "file", 0), -ENOENT);
	EXPECT_EQ(ew_file_link(file, gone, "file"), -ENOENT);
	EXPECT_EQ(open_at(bucket, "../bucket/./file", O_RDONLY), 0);
	EXPECT_EQ(open_at(bucket, "..", O_RDONLY | O_DIRECTORY), 0);
	EXPECT_EQ(open_at(bucket, "..", O_RDWR), -EISDIR);
	EXPECT_EQ(open_at(bucket, ".", O_RDONLY | O_TRUNC), -EISDIR);
	EXPECT_EQ(open_at(bucket, "", O_RDONLY), -ENOENT);
	EXPECT_EQ(open_at(file, "below", O_RDONLY), -ENOTDIR);
	EXPECT_EQ(open_at(bucket, "file", O_RDONLY | O_TMPFILE), -EINVAL);
	EXPECT_EQ(open_at(bucket, "new", O_RDONLY | O_CREAT | O_DIRECTORY), -EINVAL);
	EXPECT_EQ(open_at(bucket, "file", O_RDONLY | O_APPEND), -EOPNOTSUPP);
	memset(name, 'n', sizeof(name));
	name[sizeof(name) - 1] = '\0';
	EXPECT_EQ(open_at(bucket, name, O_RDONLY), -ENAMETOOLONG);
	name[NAME_MAX + 1] = '\0';
	EXPECT_EQ(open_at(bucket, name, O_RDONLY), -ENAMETOOLONG);
	EXPECT_EQ(ew_file_unlink(bucket, "file", AT_SYMLINK_NOFOLLOW), -EINVAL);
	EXPECT_EQ(ew_file_rename(bucket, "file", bucket, "new", RENAME_EXCHANGE), -EINVAL);
	EXPECT_EQ(ew_file_truncate(file, INT64_MAX), -EFBIG);
	EXPECT_EQ(ew_file_truncate(bucket, 0), -EINVAL);
	EXPECT_EQ(ew_file_write(file, &byte, 1, INT64_MAX - 1), -EFBIG);
	EXPECT_STR(ew_sim_name("/sim/bucket", 0), "file");
	EXPECT(!ew_sim_name("/elsewhere", 0));
	EXPECT(!ew_sim_name("/sim/staging", 0));
	return 0;
}

TEST(sim_filesystem_answers_mistakes_and_is_as_it_was)
{
	make_filesystem(EW_SIM_STRICT, 0);
	run_in(make_mistakes, NULL);
	ew_sim_filesystem_free(filesystem);
}

/* With no world there is nothing of it to ask. */
TEST(sim_outside_of_a_run_has_no_filesystem_and_no_chance)
{
	EXPECT(!ew_sim_name("/sim", 0));
	EXPECT(!ew_sim_is_cut());
	EXPECT_EQ(ew_sim_random(1000), 0);
	ew_sim_calm();
	EXPECT_EQ(ew_sim_filesystem_new(NULL, &filesystem), 0);
	ew_sim_filesystem_free(filesystem);
}

static int cross_the_border(void *argument)
{
	struct directory directory;

	(void)argument;
	EW_OWN(ew_file, bucket);
	EW_OWN(ew_file, outside);
	EW_OWN(ew_file, file);

	directory_make(&directory);
	open_folder("/sim/bucket", &bucket);
	open_folder(directory.path, &outside);
	make_file(bucket, "one", TEXT, &file);
	EXPECT_EQ(ew_file_link(file, outside, "one"), -EXDEV);
	EXPECT_EQ(ew_file_rename(bucket, "one", outside, "one", 0), -EXDEV);
	EXPECT_EQ(ew_file_close(&file), 0);
	make_file(outside, "two", TEXT, &file);
	EXPECT_EQ(ew_file_link(file, bucket, "two"), -EXDEV);
	EXPECT(has_file(&directory, "two"));
	EXPECT_EQ(ew_file_close(&file), 0);
	EXPECT_EQ(ew_file_open(bucket, "one", O_WRONLY | O_APPEND, 0, &file), -EOPNOTSUPP);
	EXPECT_EQ(ew_file_open(NULL, "/simulated", O_RDONLY, 0, &file), -ENOENT);
	directory_remove(&directory);
	return 0;
}

TEST(sim_filesystem_is_another_than_those_outside)
{
	make_filesystem(EW_SIM_STRICT, 0);
	run_in(cross_the_border, NULL);
	ew_sim_filesystem_free(filesystem);
}

TEST(sim_filesystem_refuses_a_place_that_it_cannot_have)
{
	static const char *const orphan[] = { "a/b", NULL }, *const twice[] = { "a", "a", NULL };
	struct ew_sim_filesystem_options options = { .path = "sim" };

	filesystem = NULL;
	EXPECT_EQ(ew_sim_filesystem_new(&options, &filesystem), -EINVAL);
	options.path = "/sim/";
	EXPECT_EQ(ew_sim_filesystem_new(&options, &filesystem), -EINVAL);
	options = (struct ew_sim_filesystem_options){ .folders = orphan };
	EXPECT_EQ(ew_sim_filesystem_new(&options, &filesystem), -ENOENT);
	options.folders = twice;
	EXPECT_EQ(ew_sim_filesystem_new(&options, &filesystem), -EEXIST);
	EXPECT(!filesystem);
	ew_sim_filesystem_free(filesystem);
}

/* ---- publication ---- */

#define UPLOADS	  3
#define BYTES_MAX 20000

enum way { NAMELESS, LINKED, RENAMED, WAYS };

struct uploads {
	enum way way;
	struct ew_mutex syncing;
	bool suspect; /* a sync of the bucket has failed: what later ones say proves nothing */
	struct {
		unsigned bytes;
		bool acknowledged; /* before the power was cut */
	} each[UPLOADS];
};

static void forget_uploads(void *argument)
{
	struct uploads *uploads = argument;

	memset(uploads->each, 0, sizeof(uploads->each));
	uploads->suspect = false;
	uploads->syncing = (struct ew_mutex){ 0 };
}

static int open_staged(enum way way, unsigned number, struct ew_file *staging,
		       struct ew_tempfile **ret_tempfile)
{
	char name[16];

	if (way == NAMELESS)
		return ew_tempfile_open(staging, ret_tempfile);
	snprintf(name, sizeof(name), "part%u", number);
	return ew_tempfile_open_named(staging, name, ret_tempfile);
}

/* The bytes of each stay where they are while others write theirs. */
static int fill(struct ew_file *file, unsigned number, unsigned bytes)
{
	static char contents[UPLOADS][BYTES_MAX];
	char *content = contents[number];
	unsigned half = bytes / 2, i;
	int r;

	for (i = 0; i < bytes; i++)
		content[i] = pattern(number, i);
	r = ew_file_write(file, content, half, 0);
	return r < 0 ? r : ew_file_write(file, content + half, bytes - half, half);
}

/* One at a time, so that nobody's name is in a sync that fails while his own, a later one, succeeds. */
static int sync_bucket(struct uploads *uploads, struct ew_file *bucket)
{
	int r;

	EW_OWN(ew_mutex_hold, hold);

	r = ew_mutex_lock(&uploads->syncing, EW_NEVER, &hold);
	if (r == 0 && uploads->suspect)
		r = -EIO;
	if (r == 0)
		r = ew_file_sync(bucket, false);
	if (r < 0)
		uploads->suspect = true;
	return r;
}

static int publish_one(struct uploads *uploads, unsigned number, struct ew_file *staging,
		       struct ew_file *bucket)
{
	unsigned bytes = 1 + (unsigned)ew_sim_random(BYTES_MAX);
	char name[16];
	int r;

	EW_OWN(ew_tempfile, tempfile);

	uploads->each[number].bytes = bytes;
	snprintf(name, sizeof(name), "name%u", number);
	r = open_staged(uploads->way, number, staging, &tempfile);
	if (r == 0)
		r = fill(ew_tempfile_file(tempfile), number, bytes);
	if (r == 0)
		r = ew_file_sync(ew_tempfile_file(tempfile), true);
	if (r == 0)
		r = ew_tempfile_seal(tempfile);
	if (r == 0)
		r = uploads->way == RENAMED ? ew_tempfile_publish_by_rename(tempfile, bucket, name)
					    : ew_tempfile_publish(tempfile, bucket, name);
	if (r == 0)
		r = sync_bucket(uploads, bucket);
	if (r < 0)
		return r;
	uploads->each[number].acknowledged = !ew_sim_is_cut();
	return ew_tempfile_close(&tempfile);
}

struct uploader {
	struct uploads *uploads;
	struct ew_file *staging, *bucket;
	unsigned number;
};

/* Whatever has failed, it was not acknowledged. */
static int upload(void *argument)
{
	const struct uploader *uploader = argument;

	(void)publish_one(uploader->uploads, uploader->number, uploader->staging, uploader->bucket);
	return 0;
}

static int publish_all(void *argument)
{
	struct uploader uploaders[UPLOADS];
	unsigned i;
	int r = 0;

	EW_OWN(ew_file, staging);
	EW_OWN(ew_file, bucket);
	EW_SCOPE(scope);

	while (ew_file_open(NULL, "/sim/staging", O_RDONLY | O_DIRECTORY, 0, &staging) < 0)
		;
	while (ew_file_open(NULL, "/sim/bucket", O_RDONLY | O_DIRECTORY, 0, &bucket) < 0)
		;
	for (i = 0; i < UPLOADS && r == 0; i++) {
		uploaders[i] = (struct uploader){ argument, staging, bucket, i };
		r = ew_spawn(&scope, upload, &uploaders[i]);
	}
	return ew_scope_finish(&scope, r);
}

/* The sweep of a restart: what is staged is nobody's. */
static int sweep_staging(void)
{
	const char *name;
	char copy[16];
	int r = 0;

	EW_OWN(ew_file, staging);

	open_folder("/sim/staging", &staging);
	while (r == 0 && (name = ew_sim_name("/sim/staging", 0))) {
		snprintf(copy, sizeof(copy), "%s", name);
		r = ew_file_unlink(staging, copy, 0);
	}
	return r;
}

static bool is_whole(unsigned number, unsigned bytes)
{
	static char content[BYTES_MAX + 1];
	char path[32];
	unsigned i;
	int r;

	EW_OWN(ew_file, file);

	snprintf(path, sizeof(path), "/sim/bucket/name%u", number);
	r = ew_file_open(NULL, path, O_RDONLY, 0, &file);
	if (r == -ENOENT)
		return false;
	EXPECT_EQ(r, 0);
	EXPECT_EQ(ew_file_read(file, content, sizeof(content), 0), bytes);
	for (i = 0; i < bytes; i++)
		EXPECT_EQ(content[i], pattern(number, i));
	return true;
}

/* Nothing but whole files, and all that were acknowledged. */
static int check_published(void *argument)
{
	const struct uploads *uploads = argument;
	unsigned found = 0, i;
	bool whole;

	EXPECT_EQ(sweep_staging(), 0);
	for (i = 0; i < UPLOADS; i++) {
		whole = is_whole(i, uploads->each[i].bytes);
		EXPECT(whole || !uploads->each[i].acknowledged);
		found += whole;
	}
	EXPECT(found == UPLOADS || !ew_sim_name("/sim/bucket", found));
	EXPECT(!ew_sim_name("/sim/staging", 0));
	return 0;
}

static void try_publication(enum way way, enum ew_sim_durability durability)
{
	const struct ew_sim_filesystem_options disk = { .durability = durability,
							.folders = folders };
	const struct ew_sim_trial trial = {
		.seeds_count = RUNNING_ON_VALGRIND ? 1 : 10,
		.faults = EW_SIM_ALL,
		.filesystem = &disk,
		.prepare = forget_uploads,
		.recover = check_published,
	};
	struct uploads uploads = { .way = way };
	struct ew_sim_verdict verdict = ew_sim_try(&trial, publish_all, &uploads);

	printf("# %u power cuts, %u runs\n", verdict.cuts, verdict.runs);
	if (verdict.failed)
		ew_test_fail(__FILE__, __LINE__, "seed %" PRIu64 ": %.200s", verdict.seed,
			     verdict.what);
	EXPECT(verdict.cuts > 0);
}

TEST(sim_file_published_is_whole_after_a_power_cut_at_each_call)
{
	for (int way = 0; way < WAYS; way++)
		try_publication((enum way)way, EW_SIM_STRICT);
}

TEST(sim_file_published_is_whole_after_a_power_cut_in_order)
{
	for (int way = 0; way < WAYS; way++)
		try_publication((enum way)way, EW_SIM_ORDERED);
}

TEST(sim_file_published_is_whole_where_a_sync_has_failed)
{
	for (int way = 0; way < WAYS; way++)
		try_publication((enum way)way, EW_SIM_FAILING);
}

/* ---- what a trial says ---- */

static int sync_what_is_new(void *argument)
{
	int r;

	(void)argument;
	EW_OWN(ew_file, bucket);
	EW_OWN(ew_file, file);

	open_folder("/sim/bucket", &bucket);
	make_file(bucket, "new", TEXT, &file);
	r = ew_file_sync(file, true);
	return r == 0 ? ew_file_sync(bucket, false) : r;
}

static int do_nothing(void *argument)
{
	(void)argument;
	return 0;
}

TEST(sim_restart_after_a_power_cut_has_no_faults)
{
	const struct ew_sim_filesystem_options disk = { .durability = EW_SIM_FAILING,
							.folders = folders };
	const struct ew_sim_trial trial = {
		.seeds_count = 20,
		.filesystem = &disk,
		.recover = sync_what_is_new,
	};
	struct ew_sim_verdict verdict = ew_sim_try(&trial, do_nothing, NULL);

	EXPECT_STR(verdict.what, "");
	EXPECT_EQ(verdict.cuts, 20);
}

static int write_without_a_sync(void *argument)
{
	(void)argument;
	EW_OWN(ew_file, bucket);
	EW_OWN(ew_file, file);

	open_folder("/sim/bucket", &bucket);
	make_file(bucket, "one", TEXT, &file);
	return ew_file_sync(file, true);
}

static bool was_cut, was_whole;

static int note_and_write(void *argument)
{
	int r;

	was_whole = !ew_sim_is_cut();
	r = write_without_a_sync(argument);
	was_cut = ew_sim_is_cut();
	return r;
}

static int miss_it_if_cut_late(void *argument)
{
	bool found = false;

	(void)argument;
	(void)see_one(&found);
	return was_whole && !was_cut && !found ? -ENODATA : 0;
}

TEST(sim_power_cut_that_is_not_recovered_from_is_told_with_its_place)
{
	const struct ew_sim_filesystem_options disk = { .folders = folders };
	struct ew_sim_trial trial = {
		.seeds_count = 1,
		.filesystem = &disk,
		.recover = miss_it_if_cut_late,
	};
	struct ew_sim_verdict verdict;

	verdict = ew_sim_try(&trial, note_and_write, NULL);
	EXPECT(verdict.failed);
	EXPECT_STR(verdict.what, "the recovery returned error 61; after a power cut before call 4, "
				 "of what was not synced nothing was left");
	EXPECT_EQ(verdict.cuts, 5);
	EXPECT_EQ(verdict.runs, 2 + 5 + 4 * 4 + 1);
}

TEST_MAIN()
