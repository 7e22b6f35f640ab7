/* SPDX-License-Identifier: Apache-2.0 */
/* Who may use a folder beside whom; each of these is a server, with descriptors of its own. */
#include "../ew_test.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/folder_lock.h"

enum kind { INGEST, GATEWAY };

struct place {
	char path[64];
	char first[96], first_state[96];
	char second[96], second_state[96];
	char alias[96];
};

static char error[512];

static void make(const struct place *place, char path[96], const char *name)
{
	snprintf(path, 96, "%s/%s", place->path, name);
	EXPECT_EQ(mkdir(path, 0700), 0);
}

static void begin(struct place *place)
{
	strcpy(place->path, "/tmp/ew-folder-lock.XXXXXX");
	EXPECT(mkdtemp(place->path));
	make(place, place->first, "first");
	make(place, place->first_state, "first.state");
	make(place, place->second, "second");
	make(place, place->second_state, "second.state");
	snprintf(place->alias, sizeof(place->alias), "%s/alias", place->path);
	EXPECT_EQ(symlink("first", place->alias), 0);
}

static void end(const struct place *place)
{
	EXPECT_EQ(unlink(place->alias), 0);
	EXPECT_EQ(rmdir(place->first), 0);
	EXPECT_EQ(rmdir(place->first_state), 0);
	EXPECT_EQ(rmdir(place->second), 0);
	EXPECT_EQ(rmdir(place->second_state), 0);
	EXPECT_EQ(rmdir(place->path), 0);
}

/* One that may is there until it goes. */
static struct folder_lock come(const char *bucket, const char *state, enum kind kind)
{
	struct folder_lock lock = FOLDER_LOCK_NONE;
	int r = folder_lock_take(&lock, bucket, state, kind == GATEWAY, error, sizeof(error));

	if (r < 0)
		ew_test_fail(__FILE__, __LINE__, "%s", error);
	return lock;
}

/* One that may not, and is told why in these words. */
static void refuse(const char *bucket, const char *state, enum kind kind, const char *words)
{
	struct folder_lock lock = FOLDER_LOCK_NONE;

	EXPECT_EQ(folder_lock_take(&lock, bucket, state, kind == GATEWAY, error, sizeof(error)),
		  -EBUSY);
	EXPECT(strstr(error, words));
	folder_lock_release(&lock);
}

TEST(folder_lock_lets_gateways_with_the_same_folders_in_by_any_path)
{
	struct folder_lock one, other;
	struct place place;

	begin(&place);
	one = come(place.first, place.first_state, GATEWAY);
	other = come(place.alias, place.first_state, GATEWAY);
	/* Whoever has left changes nothing for who is still there. */
	folder_lock_release(&one);
	refuse(place.first, place.second_state, GATEWAY, "first is in use by an ew-gateway");
	folder_lock_release(&other);
	one = come(place.first, place.second_state, GATEWAY);
	folder_lock_release(&one);
	end(&place);
}

TEST(folder_lock_keeps_a_gateway_with_another_folder_out)
{
	struct folder_lock one, other;
	struct place place;

	begin(&place);
	one = come(place.first, place.first_state, GATEWAY);
	refuse(place.alias, place.second_state, GATEWAY,
	       "alias is in use by an ew-gateway with another state folder");
	refuse(place.second, place.first_state, GATEWAY,
	       "first.state is in use by an ew-gateway with another bucket");
	other = come(place.second, place.second_state, GATEWAY);
	folder_lock_release(&other);
	folder_lock_release(&one);
	end(&place);
}

TEST(folder_lock_keeps_ingest_and_gateway_apart)
{
	struct folder_lock one, other;
	struct place place;

	begin(&place);
	one = come(place.first, place.first_state, GATEWAY);
	refuse(place.alias, place.second_state, INGEST, "in use by an ew-gateway");
	refuse(place.second, place.first_state, INGEST, "in use by an ew-gateway");
	folder_lock_release(&one);
	one = come(place.first, place.first_state, INGEST);
	refuse(place.alias, place.second_state, GATEWAY, "in use by an ew-ingest");
	refuse(place.second, place.first_state, GATEWAY, "in use by an ew-ingest");
	/* Which sweeps no bucket: several have one state folder, and several of these one bucket. */
	other = come(place.second, place.first_state, INGEST);
	folder_lock_release(&other);
	other = come(place.first, place.second_state, INGEST);
	folder_lock_release(&other);
	folder_lock_release(&one);
	end(&place);
}

TEST(folder_lock_removes_a_folder_unless_another_is_in_it)
{
	struct folder_lock one, other;
	struct place place;
	struct stat is;

	begin(&place);
	one = come(place.first, place.first_state, GATEWAY);
	other = come(place.first, place.first_state, GATEWAY);
	folder_lock_remove(other.bucket_fd, place.first);
	folder_lock_remove(-1, place.first_state);
	EXPECT_EQ(stat(place.first, &is), 0);
	EXPECT_EQ(stat(place.first_state, &is), 0);
	folder_lock_release(&one);
	folder_lock_remove(other.bucket_fd, place.first);
	folder_lock_release(&other);
	folder_lock_remove(-1, place.first_state);
	EXPECT_EQ(stat(place.first, &is), -1);
	EXPECT_EQ(stat(place.first_state, &is), -1);
	make(&place, place.first, "first");
	make(&place, place.first_state, "first.state");
	end(&place);
}

TEST(folder_lock_of_a_folder_that_is_not_there_is_an_error)
{
	struct folder_lock lock = FOLDER_LOCK_NONE;
	struct place place;

	begin(&place);
	EXPECT_EQ(
		folder_lock_take(&lock, place.first, "/nowhere/at/all", true, error, sizeof(error)),
		-ENOENT);
	EXPECT(strstr(error, "cannot open /nowhere/at/all"));
	folder_lock_release(&lock);
	end(&place);
}

TEST_MAIN()
