/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Whether the simulated filesystem is like the kernel's: random scripts, one call after the other, give the same results
 * on tmpfs and on it, to the error and to the byte.
 */

#include "driver/driver.h"
#include "driver/sim/sim.h"
#include "driver/system.h"
#include "driver/system_file.h"
#include "io.h"
#include "task/worker.h"

#include <dirent.h>
#include <endwell/sim.h>

#define SCRIPTS	  4000
#define STEPS	  60
#define SLOTS	  4
#define BYTES_MAX 20000
#define NOT_DONE  INT64_MIN
#define FOLDER	  "base"

enum action {
	OPEN,
	REOPEN,
	CLOSE,
	READ,
	WRITE,
	TRUNCATE,
	EMPTY,
	CHMOD,
	SYNC,
	LEASE,
	STAT,
	STAT_AT,
	LINK,
	RENAME,
	UNLINK,
	REMOVE_FOLDER,
	MAKE_FOLDER,
	LIST,
	ACTIONS_COUNT
};

static const char *const actions[] = { "open",	"reopen", "close",  "read",  "write", "truncate",
				       "empty", "chmod",  "sync",   "lease", "stat",  "stat_at",
				       "link",	"rename", "unlink", "rmdir", "mkdir", "list" };

/* Files and folders with the same names, and paths that lead nowhere. */
static const char *const paths[] = { "a",     "b",     "c",   "d",	"d/a",	 "d/b", "d/d",
				     "d/d/a", "d/./a", "b/a", "a/",	"d/",	 "e/a", ".",
				     "..",    "d/..",  "d/.", "b/../a", "d//a/", "b/." };
#define PATHS (sizeof(paths) / sizeof(paths[0]))

static const int flags[] = {
	O_RDONLY,
	O_RDWR,
	O_WRONLY,
	O_RDWR | O_CREAT,
	O_RDWR | O_CREAT,
	O_RDWR | O_CREAT | O_EXCL,
	O_RDONLY | O_CREAT,
	O_WRONLY | O_CREAT | O_TRUNC,
	O_RDWR | O_TRUNC,
	O_RDONLY | O_DIRECTORY,
	O_RDWR | O_DIRECTORY,
	O_RDWR | O_TMPFILE,
	O_RDWR | O_TMPFILE | O_EXCL,
	O_RDONLY | O_TMPFILE,
};
#define FLAGS (sizeof(flags) / sizeof(flags[0]))

struct step {
	enum action action;
	unsigned slot, path, other, flags;
	uint32_t offset, bytes;
};

/* Where a script runs: with the kernel, or in the simulated world. */
struct place {
	bool simulated;
	char path[256]; /* of a folder with nothing but FOLDER */
	int base;
	int slots[SLOTS];
};

static struct ew__driver *driver;
static struct ew_sim_filesystem *filesystem;

static int64_t sum(const char *bytes, size_t count)
{
	uint64_t hash = 1469598103934665603u;

	for (; count > 0; count--)
		hash = (hash ^ (unsigned char)*bytes++) * 1099511628211u;
	return (int64_t)(hash >> 1);
}

/* Of a folder the size and the room are each filesystem's own. */
static int64_t digest(int r, const struct stat *stat)
{
	char text[96];
	int length;

	if (r < 0)
		return r;
	length = snprintf(text, sizeof(text), "%o %u %lld %lld", stat->st_mode,
			  (unsigned)stat->st_nlink,
			  S_ISREG(stat->st_mode) ? (long long)stat->st_size : 0,
			  S_ISREG(stat->st_mode) ? (long long)stat->st_blocks : 0);
	return sum(text, (size_t)length);
}

static int make_folder(const struct place *place, const char *path)
{
	char whole[64];

	if (!place->simulated)
		return mkdirat(place->base, path, 0755) < 0 ? -errno : 0;
	snprintf(whole, sizeof(whole), FOLDER "/%s", path);
	return ew__sim_filesystem_make_folder(filesystem, whole, 0755);
}

static int compare_names(const void *one, const void *other)
{
	return strcmp(one, other);
}

static int64_t list(const struct place *place, const char *path)
{
	char names[16][32] = { 0 }, whole[320];
	const char *name;
	unsigned count = 0;
	struct dirent *entry;
	DIR *folder;

	snprintf(whole, sizeof(whole), "%s/" FOLDER "/%s", place->path, path);
	if (place->simulated) {
		while ((name = ew__sim_filesystem_name(filesystem, whole, count)))
			snprintf(names[count++], 32, "%s", name);
		return sum(names[0], sizeof(names));
	}
	folder = opendir(whole);
	while (folder && (entry = readdir(folder)))
		if (strcmp(entry->d_name, ".") != 0 && strcmp(entry->d_name, "..") != 0)
			snprintf(names[count++], 32, "%.31s", entry->d_name);
	if (folder)
		closedir(folder);
	qsort(names, count, sizeof(names[0]), compare_names);
	return sum(names[0], sizeof(names));
}

/* Sometimes what another slot has open: a folder, which may have been removed, or a file. From there no way leads out. */
static int from_where(const struct place *place, const struct step *step)
{
	int fd = place->slots[step->other % SLOTS];

	if (step->bytes % 3 || fd < 0 || strcmp(paths[step->path], "..") == 0)
		return place->base;
	return fd;
}

static int64_t open_slot(struct place *place, const struct step *step)
{
	int fd;

	if (place->slots[step->slot] >= 0)
		return NOT_DONE;
	fd = ew__system_open(from_where(place, step), paths[step->path],
			     flags[step->flags] | O_CLOEXEC, 0666);
	place->slots[step->slot] = fd;
	return fd < 0 ? fd : 0;
}

static int64_t reopen_slot(struct place *place, const struct step *step)
{
	int *other = &place->slots[step->other % SLOTS];

	if (place->slots[step->slot] < 0 || *other >= 0)
		return NOT_DONE;
	*other = ew__system_reopen(place->slots[step->slot], O_RDONLY | O_CLOEXEC);
	return *other < 0 ? *other : 0;
}

static int64_t transfer(int fd, const struct step *step)
{
	static char data[BYTES_MAX];
	uint32_t i;
	int r;

	if (step->action == WRITE) {
		for (i = 0; i < step->bytes; i++)
			data[i] = (char)(step->offset + i * 7 + i / 251);
		return ew__system_pwrite(fd, data, step->bytes, step->offset);
	}
	r = ew__system_pread(fd, data, step->bytes, step->offset);
	return r < 0 ? r : sum(data, (size_t)r);
}

static int64_t with_slot(struct place *place, const struct step *step)
{
	int fd = place->slots[step->slot];
	struct stat stat;
	int r;

	if (fd < 0)
		return NOT_DONE;
	switch (step->action) {
	case CLOSE: place->slots[step->slot] = -1; return ew__system_close(fd);
	case READ:
	case WRITE: return transfer(fd, step);
	case TRUNCATE: return ew__system_truncate(fd, step->offset);
	case CHMOD: return ew__system_chmod(fd, 0700 | (step->bytes & 077));
	case SYNC: return ew__system_sync(fd, step->bytes % 2);
	case STAT: r = ew__system_stat(fd, &stat); return digest(r, &stat);
	case LINK: return ew__system_link(fd, from_where(place, step), paths[step->path]);
	case EMPTY:
	case LEASE:
		r = ew__system_stat(fd, &stat);
		if (r < 0 || !S_ISREG(stat.st_mode))
			return NOT_DONE;
		return step->action == EMPTY ? ew__system_empty(fd) : ew__system_lease(fd);
	default: return NOT_DONE;
	}
}

static int64_t do_step(struct place *place, const struct step *step)
{
	const char *path = paths[step->path];
	struct stat stat;
	int r;

	switch (step->action) {
	case OPEN: return open_slot(place, step);
	case REOPEN: return reopen_slot(place, step);
	case STAT_AT:
		r = ew__system_stat_at(from_where(place, step), path, &stat);
		return digest(r, &stat);
	case RENAME:
		return ew__system_rename(place->base, path, from_where(place, step),
					 paths[step->other],
					 step->bytes % 2 ? RENAME_NOREPLACE : 0);
	case UNLINK: return ew__system_unlink(from_where(place, step), path, 0);
	case REMOVE_FOLDER: return ew__system_unlink(from_where(place, step), path, AT_REMOVEDIR);
	case MAKE_FOLDER: return make_folder(place, path);
	case LIST: return list(place, path);
	default: return with_slot(place, step);
	}
}

static void run_script(struct place *place, const struct step *script, int64_t *ret_results)
{
	char path[300];
	int i;

	snprintf(path, sizeof(path), "%s/" FOLDER, place->path);
	place->base = ew__system_open(AT_FDCWD, path, O_RDONLY | O_DIRECTORY | O_CLOEXEC, 0);
	EXPECT(place->base >= 0);
	for (i = 0; i < SLOTS; i++)
		place->slots[i] = -1;
	for (i = 0; i < STEPS; i++)
		ret_results[i] = do_step(place, &script[i]);
	for (i = 0; i < SLOTS; i++)
		if (place->slots[i] >= 0)
			ew__system_close(place->slots[i]);
	ew__system_close(place->base);
}

static void run_simulated(const struct step *script, int64_t *ret_results)
{
	static const char *const folders[] = { FOLDER, NULL };
	const struct ew_sim_filesystem_options options = { .folders = folders };
	struct ew__sim_plan plan = { .seed = 1 };
	struct place place = { .simulated = true, .path = "/sim" };
	char why[256];

	EXPECT_EQ(ew_sim_filesystem_new(&options, &filesystem), 0);
	plan.filesystem = filesystem;
	ew__sim_plan = &plan;
	ew__virtual_now_ns = EW_SECOND;
	EXPECT_EQ(ew__driver_open(&driver, &ew__driver_sim, why, sizeof(why)), 0);
	run_script(&place, script, ret_results);
	ew__driver_close(driver);
	ew__sim_plan = NULL;
	ew__virtual_now_ns = 0;
	ew_sim_filesystem_free(filesystem);
}

static void run_on_tmpfs(const struct step *script, int64_t *ret_results)
{
	struct directory directory;
	struct place place = { 0 };

	EXPECT_EQ(setenv("TMPDIR", "/dev/shm", 1), 0);
	directory_make(&directory);
	EXPECT_EQ(fchmod(directory.fd, 0755), 0);
	EXPECT_EQ(mkdirat(directory.fd, FOLDER, 0755), 0);
	snprintf(place.path, sizeof(place.path), "%s", directory.path);
	run_script(&place, script, ret_results);
	directory_remove(&directory);
}

static void write_script(struct step *script)
{
	static const enum action frequent[] = { OPEN, OPEN, WRITE, READ, TRUNCATE };
	int i;

	for (i = 0; i < STEPS; i++)
		script[i] = (struct step){
			.action = chance(2) ? chance(ACTIONS_COUNT) : frequent[chance(5)],
			.slot = chance(SLOTS),
			.path = chance(chance(3) ? 8 : PATHS),
			.other = chance(chance(3) ? 8 : PATHS),
			.flags = chance(FLAGS),
			.offset = chance(2) ? chance(2) * 4096 : chance(BYTES_MAX),
			.bytes = chance(3) ? chance(5000) : chance(BYTES_MAX),
		};
}

TEST(sim_filesystem_is_like_the_kernels)
{
	int64_t kernel[STEPS], simulated[STEPS];
	struct step script[STEPS];
	int number, i;

	if (access("/dev/shm", W_OK) < 0)
		SKIP("no tmpfs here");
	chance_begin();
	for (number = 0; number < (RUNNING_ON_VALGRIND ? 50 : SCRIPTS); number++) {
		write_script(script);
		run_on_tmpfs(script, kernel);
		run_simulated(script, simulated);
		for (i = 0; i < STEPS; i++)
			if (kernel[i] != simulated[i])
				ew_test_fail(
					__FILE__, __LINE__,
					"script %d, step %d, %s of slot %u, %s, %s, flags %#o, offset %u: %" PRId64
					", simulated %" PRId64,
					number, i, actions[script[i].action], script[i].slot,
					paths[script[i].path], paths[script[i].other],
					(unsigned)flags[script[i].flags], script[i].offset,
					kernel[i], simulated[i]);
	}
}

TEST_MAIN()
