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

TEST_MAIN()
