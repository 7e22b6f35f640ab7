/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Files: what each call does, and that -ECANCELED means that it was not done. A child is stepped turn by turn: before
 * the turn in which the kernel sees its operation a cancel prevents it, afterwards its real result comes.
 */

#include "io.h"

#include <pthread.h>
#include <sys/mount.h>
#include <sys/statvfs.h>

#define ROUNDS_COUNT 2000

/* What the operations work on, made anew for each. */
struct workplace {
	struct directory directory;
	struct ew_file *dir;
	struct ew_file *file;
};

static void workplace_make(struct workplace *workplace)
{
	put_file(&workplace->directory, "file", "hello");
	put_file(&workplace->directory, "other", "other");
	EXPECT_EQ(ew_file_open(NULL, workplace->directory.path, O_RDONLY | O_DIRECTORY, 0,
			       &workplace->dir),
		  0);
	EXPECT_EQ(ew_file_open(workplace->dir, "file", O_RDWR, 0, &workplace->file), 0);
}

static void workplace_clear(struct workplace *workplace)
{
	static const char *const names[] = { "file", "other", "new" };
	size_t i;

	ew_abort(&workplace->file);
	ew_abort(&workplace->dir);
	for (i = 0; i < 3; i++)
		(void)unlinkat(workplace->directory.fd, names[i], 0);
}

/* ---- each operation, and how to see that it happened ---- */

static struct stat stat_seen;
static struct statvfs statvfs_seen;
static char bytes_seen[16];

static int do_create(struct workplace *workplace)
{
	EW_OWN(ew_file, file);

	return ew_file_open(workplace->dir, "new", O_WRONLY | O_CREAT | O_EXCL, 0600, &file);
}

static int do_read(struct workplace *workplace)
{
	int r = ew_file_read(workplace->file, bytes_seen, 5, 0);

	return r > 0 ? r - 5 : r;
}

static int do_write(struct workplace *workplace)
{
	return ew_file_write(workplace->file, "HELLO", 5, 0);
}

static int do_sync(struct workplace *workplace)
{
	return ew_file_sync(workplace->file, false);
}

static int do_stat(struct workplace *workplace)
{
	return ew_file_stat(workplace->file, &stat_seen);
}

static int do_statvfs(struct workplace *workplace)
{
	return ew_file_statvfs(workplace->file, &statvfs_seen);
}

static int do_truncate(struct workplace *workplace)
{
	return ew_file_truncate(workplace->file, 2);
}

static int do_chmod(struct workplace *workplace)
{
	return ew_file_chmod(workplace->file, 0400);
}

static int do_link(struct workplace *workplace)
{
	return ew_file_link(workplace->file, workplace->dir, "new");
}

static int do_rename(struct workplace *workplace)
{
	return ew_file_rename(workplace->dir, "file", workplace->dir, "new", 0);
}

static int do_unlink(struct workplace *workplace)
{
	return ew_file_unlink(workplace->dir, "file", 0);
}

static bool is_new_there(const struct workplace *workplace)
{
	return has_file(&workplace->directory, "new");
}

static bool is_file_gone(const struct workplace *workplace)
{
	return !has_file(&workplace->directory, "file");
}

static bool is_read(const struct workplace *workplace)
{
	(void)workplace;
	return bytes_seen[0];
}

static bool is_written(const struct workplace *workplace)
{
	return strcmp(file_text(&workplace->directory, "file"), "hello");
}

static bool is_stat_seen(const struct workplace *workplace)
{
	(void)workplace;
	return stat_seen.st_nlink || statvfs_seen.f_bsize;
}

static bool is_mode_changed(const struct workplace *workplace)
{
	struct stat stat;

	EXPECT_EQ(fstatat(workplace->directory.fd, "file", &stat, 0), 0);
	return (stat.st_mode & 0777) == 0400;
}

static const struct operation {
	const char *name;
	int (*run)(struct workplace *workplace);
	bool (*has_happened)(const struct workplace *workplace); /* NULL: it cannot be seen */
	bool on_thread; /* may be begun as soon as the task has asked */
} operations[] = {
	{ "create", do_create, is_new_there, true },
	{ "read", do_read, is_read, false },
	{ "write", do_write, is_written, true },
	{ "sync", do_sync, NULL, true },
	{ "stat", do_stat, is_stat_seen, true },
	{ "statvfs", do_statvfs, is_stat_seen, true },
	{ "truncate", do_truncate, is_written, true },
	{ "chmod", do_chmod, is_mode_changed, true },
	{ "link", do_link, is_new_there, true },
	{ "rename", do_rename, is_new_there, true },
	{ "unlink", do_unlink, is_file_gone, true },
};

#define OPERATIONS_COUNT (sizeof(operations) / sizeof(operations[0]))

struct attempt {
	const struct operation *operation;
	struct workplace workplace;
	int result;
	int next; /* what a suspending call after it says */
	enum ew_outcome outcome;
	bool done;
};

static int attempt_task(void *argument)
{
	struct attempt *attempt = argument;

	attempt->result = attempt->operation->run(&attempt->workplace);
	attempt->outcome = ew_outcome();
	attempt->done = true;
	attempt->next = ew_yield();
	return 0;
}

static void attempt_and_cancel(struct attempt *attempt, unsigned turns)
{
	EW_SCOPE(scope);

	EXPECT_EQ(ew_spawn(&scope, attempt_task, attempt), 0);
	take_turns(turns);
	ew_scope_cancel(&scope, EW_REASON_REQUESTED);
	EXPECT_EQ(ew_scope_join(&scope), 0);
}

/* -ECANCELED if and only if nothing happened, and then the outcome says so. */
static void expect_honest(const struct attempt *attempt)
{
	const struct operation *operation = attempt->operation;

	if (attempt->result == -ECANCELED)
		EXPECT_EQ(attempt->outcome, EW_OUTCOME_NONE);
	else if (attempt->result == 0)
		EXPECT_EQ(attempt->outcome, EW_OUTCOME_DONE);
	else
		ew_test_fail(__FILE__, __LINE__, "%s: %d", operation->name, attempt->result);
	if (operation->has_happened &&
	    operation->has_happened(&attempt->workplace) != (attempt->result == 0))
		ew_test_fail(__FILE__, __LINE__, "%s says %d", operation->name, attempt->result);
}

static void attempt_make(struct attempt *attempt, const struct operation *operation)
{
	memset(&stat_seen, 0, sizeof(stat_seen));
	memset(&statvfs_seen, 0, sizeof(statvfs_seen));
	memset(bytes_seen, 0, sizeof(bytes_seen));
	attempt->operation = operation;
	attempt->done = false;
	attempt->next = 0;
	workplace_make(&attempt->workplace);
}

static int step_operations(void *argument)
{
	struct attempt *attempt = argument;
	unsigned turns;
	size_t i;

	for (i = 0; i < OPERATIONS_COUNT; i++) {
		for (turns = 0; turns < 4; turns++) {
			attempt_make(attempt, &operations[i]);
			attempt_and_cancel(attempt, turns);
			expect_honest(attempt);
			/* Not started; asked for and still with us; with the kernel. */
			if (turns == 0 || (turns == 1 && !operations[i].on_thread))
				EXPECT_EQ(attempt->result, -ECANCELED);
			if (turns > 1 && !operations[i].on_thread)
				EXPECT_EQ(attempt->result, 0);
			workplace_clear(&attempt->workplace);
		}
	}
	return 0;
}

TEST(file_operation_is_cancelled_before_it_is_begun_and_done_afterwards)
{
	struct descriptors before;
	struct attempt attempt = { .result = 0 };

	directory_make(&attempt.workplace.directory);
	before = descriptors_now();
	EXPECT_EQ(run_workers(1, step_operations, &attempt), 0);
	expect_same_descriptors(&before);
	directory_remove(&attempt.workplace.directory);
}

static int cancel_while_in_kernel(void *argument)
{
	struct attempt *attempt = argument;
	size_t i;

	for (i = 0; i < OPERATIONS_COUNT; i++) {
		attempt_make(attempt, &operations[i]);
		{
			EW_SCOPE(scope);
			EXPECT_EQ(ew_spawn(&scope, attempt_task, attempt), 0);
			TURNS_UNTIL(attempt->done);
			ew_scope_cancel(&scope, EW_REASON_REQUESTED);
		}
		expect_honest(attempt);
		EXPECT_EQ(attempt->result, 0);
		workplace_clear(&attempt->workplace);
	}
	return 0;
}

TEST(file_operations_do_what_they_say)
{
	struct attempt attempt = { .result = 0 };

	directory_make(&attempt.workplace.directory);
	EXPECT_EQ(run_workers(1, cancel_while_in_kernel, &attempt), 0);
	directory_remove(&attempt.workplace.directory);
}

static int cancel_at_random(void *argument)
{
	struct attempt *attempt = argument;
	unsigned i, refused = 0;

	for (i = 0; i < ROUNDS_COUNT; i++) {
		attempt_make(attempt, &operations[chance(OPERATIONS_COUNT)]);
		attempt_and_cancel(attempt, chance(4));
		expect_honest(attempt);
		refused += attempt->result < 0;
		if (attempt->result < 0)
			EXPECT_EQ(attempt->next, -ECANCELED);
		workplace_clear(&attempt->workplace);
	}
	EXPECT(refused > 0);
	return 0;
}

TEST(file_operation_cancelled_at_random_is_honest)
{
	struct descriptors before;
	struct attempt attempt = { .result = 0 };

	directory_make(&attempt.workplace.directory);
	before = descriptors_now();
	chance_begin();
	EXPECT_EQ(run_workers(1, cancel_at_random, &attempt), 0);
	expect_same_descriptors(&before);
	directory_remove(&attempt.workplace.directory);
}

/* ---- opening ---- */

static int open_cancelled(void *argument)
{
	struct attempt *attempt = argument;
	unsigned i;

	for (i = 0; i < 10000; i++) {
		attempt->operation = &operations[0];
		attempt_and_cancel(attempt, chance(4));
		EXPECT(attempt->result == 0 || attempt->result == -ECANCELED);
		if (attempt->result == 0)
			EXPECT_EQ(unlinkat(attempt->workplace.directory.fd, "new", 0), 0);
		EXPECT(!has_file(&attempt->workplace.directory, "new"));
	}
	return 0;
}

TEST(file_open_cancelled_at_random_conserves_descriptors)
{
	struct attempt attempt = { .result = 0 };
	struct descriptors before;

	directory_make(&attempt.workplace.directory);
	EXPECT_EQ(chdir(attempt.workplace.directory.path), 0);
	before = descriptors_now();
	chance_begin();
	EXPECT_EQ(run_workers(1, open_cancelled, &attempt), 0);
	expect_same_descriptors(&before);
	directory_remove(&attempt.workplace.directory);
}

static int open_kinds(void *argument)
{
	struct directory *directory = argument;
	EW_OWN(ew_file, dir);
	EW_OWN(ew_file, file);
	char byte = 0;

	EXPECT_EQ(ew_file_open(NULL, directory->path, O_RDONLY | O_DIRECTORY, 0, &dir), 0);
	EXPECT_EQ(ew_file_open(dir, "nothing", O_RDONLY, 0, &file), -ENOENT);
	EXPECT_EQ(ew_outcome(), EW_OUTCOME_DONE);
	put_file(directory, "file", "hello");
	EXPECT_EQ(ew_file_open(dir, "file", O_RDONLY | O_DIRECTORY, 0, &file), -ENOTDIR);
	EXPECT_EQ(ew_file_open(dir, "file", O_RDWR | O_CREAT | O_EXCL, 0600, &file), -EEXIST);
	EXPECT(!file);
	/* The flags that are added are for the open only, or stay. */
	EXPECT_EQ(ew_file_open(dir, "file", O_RDONLY, 0777, &file), 0);
	EXPECT_EQ(ew_outcome(), EW_OUTCOME_DONE);
	EXPECT_EQ(fcntl(ew_file_fd(file), F_GETFD), FD_CLOEXEC);
	EXPECT_EQ(fcntl(ew_file_fd(file), F_GETFL) & O_NONBLOCK, 0);
	EXPECT_EQ(ew_file_read(file, &byte, 1, -1), -EINVAL);
	EXPECT_EQ(ew_file_write(file, &byte, 1, 0), -EBADF);
	EXPECT_EQ(ew_file_read(file, &byte, 1, 5), 0);
	EXPECT_EQ(ew_file_read(file, &byte, 0, 0), 0);
	EXPECT_EQ(ew_file_close(&file), 0);
	EXPECT_EQ(ew_file_rename(dir, "nothing", dir, "new", 0), -ENOENT);
	put_file(directory, "new", "new");
	EXPECT_EQ(ew_file_rename(dir, "file", dir, "new", RENAME_NOREPLACE), -EEXIST);
	EXPECT_EQ(ew_file_unlink(dir, "nothing", 0), -ENOENT);
	EXPECT_EQ(mkdirat(directory->fd, "below", 0755), 0);
	EXPECT_EQ(ew_file_unlink(dir, "below", 0), -EISDIR);
	EXPECT_EQ(ew_file_unlink(dir, "below", AT_REMOVEDIR), 0);
	EXPECT_STR(file_text(directory, "new"), "new");
	return 0;
}

TEST(file_errors_are_those_of_the_system_calls)
{
	struct directory directory;

	directory_make(&directory);
	EXPECT_EQ(run_workers(1, open_kinds, &directory), 0);
	directory_remove(&directory);
}

/* Nobody writes, and nothing could end a read that waited for it. */
static int open_fifo(void *argument)
{
	struct directory *directory = argument;
	EW_OWN(ew_file, dir);
	EW_OWN(ew_file, fifo);
	char byte;
	int writer;

	EXPECT_EQ(mkfifoat(directory->fd, "fifo", 0600), 0);
	EXPECT_EQ(ew_file_open(NULL, directory->path, O_RDONLY | O_DIRECTORY, 0, &dir), 0);
	EXPECT_EQ(ew_file_open(dir, "fifo", O_WRONLY, 0, &fifo), -ENXIO);
	EXPECT_EQ(ew_file_open(dir, "fifo", O_RDONLY, 0, &fifo), 0);
	writer = openat(directory->fd, "fifo", O_WRONLY | O_CLOEXEC | O_NONBLOCK);
	EXPECT(writer >= 0);
	EXPECT_EQ(ew_file_read(fifo, &byte, 1, 0), -ESPIPE);
	close(writer);
	return 0;
}

TEST(file_that_is_a_fifo_does_not_hang)
{
	struct directory directory;

	directory_make(&directory);
	EXPECT_EQ(run_workers(1, open_fifo, &directory), 0);
	directory_remove(&directory);
}

#define BULK_BYTES ((size_t)3 << 20)

#define SIZE_LIMIT 10000

static int write_over_limit(void *argument)
{
	struct directory *directory = argument;
	static const char data[3 * SIZE_LIMIT];
	EW_OWN(ew_file, dir);
	EW_OWN(ew_file, file);
	struct stat stat;

	EXPECT_EQ(ew_file_open(NULL, directory->path, O_RDONLY | O_DIRECTORY, 0, &dir), 0);
	EXPECT_EQ(ew_file_open(dir, "large", O_RDWR | O_CREAT, 0640, &file), 0);
	EXPECT_EQ(ew_file_write(file, data, sizeof(data), 0), -EFBIG);
	EXPECT_EQ(ew_file_stat(file, &stat), 0);
	EXPECT_EQ(stat.st_size, SIZE_LIMIT);
	return ew_file_close(&file);
}

/* The kernel writes up to the limit and says how much that was: not all, and the rest fails. */
TEST(file_write_that_is_cut_short_goes_on_with_the_rest)
{
	struct directory directory;

	EXPECT(signal(SIGXFSZ, SIG_IGN) != SIG_ERR);
	directory_make(&directory);
	set_limit(RLIMIT_FSIZE, SIZE_LIMIT);
	EXPECT_EQ(run_workers(1, write_over_limit, &directory), 0);
	directory_remove(&directory);
}

static int write_bulk(void *argument)
{
	struct directory *directory = argument;
	unsigned char *data = malloc(BULK_BYTES), *back = malloc(BULK_BYTES);
	EW_OWN(ew_file, dir);
	EW_OWN(ew_file, file);
	struct stat stat;
	size_t i;

	EXPECT(data && back);
	for (i = 0; i < BULK_BYTES; i++)
		data[i] = (unsigned char)(i * 2654435761u >> 13);
	EXPECT_EQ(ew_file_open(NULL, directory->path, O_RDONLY | O_DIRECTORY, 0, &dir), 0);
	EXPECT_EQ(ew_file_open(dir, "bulk", O_RDWR | O_CREAT, 0640, &file), 0);
	EXPECT_EQ(ew_file_write(file, data, BULK_BYTES, 1000), 0);
	EXPECT_EQ(ew_file_sync(file, true), 0);
	EXPECT_EQ(ew_file_stat(file, &stat), 0);
	EXPECT_EQ(stat.st_size, BULK_BYTES + 1000);
	EXPECT_EQ(ew_file_read(file, back, BULK_BYTES, 1000), BULK_BYTES);
	EXPECT_EQ(memcmp(data, back, BULK_BYTES), 0);
	EXPECT_EQ(ew_file_read(file, back, BULK_BYTES, 2000), BULK_BYTES - 1000);
	EXPECT_EQ(ew_outcome(), EW_OUTCOME_PARTIAL);
	free(data);
	free(back);
	return ew_file_close(&file);
}

TEST(file_write_puts_all_bytes_where_they_belong)
{
	struct directory directory;

	directory_make(&directory);
	EXPECT_EQ(run_workers(1, write_bulk, &directory), 0);
	directory_remove(&directory);
}

static int compare_stats(void *argument)
{
	struct directory *directory = argument;
	struct statvfs statvfs_found, statvfs_expected;
	struct stat found, expected;
	EW_OWN(ew_file, dir);

	EXPECT_EQ(ew_file_open(NULL, directory->path, O_RDONLY | O_DIRECTORY, 0, &dir), 0);
	EXPECT_EQ(ew_file_stat(dir, &found), 0);
	EXPECT_EQ(fstat(directory->fd, &expected), 0);
	EXPECT_EQ(found.st_dev, expected.st_dev);
	EXPECT_EQ(found.st_ino, expected.st_ino);
	EXPECT_EQ(found.st_mode, expected.st_mode);
	EXPECT_EQ(found.st_nlink, expected.st_nlink);
	EXPECT_EQ(found.st_uid, expected.st_uid);
	EXPECT_EQ(found.st_gid, expected.st_gid);
	EXPECT_EQ(found.st_size, expected.st_size);
	EXPECT_EQ(found.st_blocks, expected.st_blocks);
	EXPECT_EQ(found.st_blksize, expected.st_blksize);
	EXPECT_EQ(found.st_mtim.tv_sec, expected.st_mtim.tv_sec);
	EXPECT_EQ(found.st_mtim.tv_nsec, expected.st_mtim.tv_nsec);
	EXPECT_EQ(ew_file_statvfs(dir, &statvfs_found), 0);
	EXPECT_EQ(statvfs(directory->path, &statvfs_expected), 0);
	EXPECT_EQ(statvfs_found.f_blocks, statvfs_expected.f_blocks);
	return 0;
}

TEST(file_stat_says_what_stat_says)
{
	struct directory directory;

	directory_make(&directory);
	EXPECT_EQ(run_workers(1, compare_stats, &directory), 0);
	directory_remove(&directory);
}

/* ---- a full filesystem ---- */

#define MOUNTED_BYTES ((size_t)4 << 20)

/* A filesystem of a few MiB that only this process sees; false: not permitted, or no such filesystem here. */
static bool mount_small(const struct directory *directory, bool on_disk)
{
	if (unshare(CLONE_NEWNS) < 0 || mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0)
		return false;
	if (!on_disk)
		return mount("small", directory->path, "tmpfs", 0, "size=4m") == 0;
	EXPECT_EQ(chdir(directory->path), 0);
	return system("PATH=$PATH:/sbin:/usr/sbin; exec 2>/dev/null >&2; truncate -s 4M image && "
		      "mkfs.ext4 -q -F image && mount -o loop image .; r=$?; exit $r") == 0;
}

static int fill(void *argument)
{
	struct directory *directory = argument;
	static char data[65536];
	EW_OWN(ew_file, dir);
	EW_OWN(ew_file, file);
	EW_OWN(ew_file, other);
	struct statvfs statvfs;
	int64_t at;
	int r;

	EXPECT_EQ(ew_file_open(NULL, directory->path, O_RDONLY | O_DIRECTORY, 0, &dir), 0);
	EXPECT_EQ(ew_file_open(dir, "file", O_RDWR | O_CREAT, 0600, &file), 0);
	memset(data, 'x', sizeof(data));
	for (at = 0; (r = ew_file_write(file, data, sizeof(data), at)) == 0;
	     at += (int64_t)sizeof(data))
		EXPECT(at < (int64_t)MOUNTED_BYTES);
	EXPECT_EQ(r, -ENOSPC);
	EXPECT_EQ(ew_file_write(file, data, sizeof(data), at), -ENOSPC);
	EXPECT_EQ(ew_file_statvfs(dir, &statvfs), 0);
	EXPECT_EQ(statvfs.f_bavail, 0);
	/* Names still work, and space that is given back can be used. */
	EXPECT_EQ(ew_file_link(file, dir, "linked"), 0);
	EXPECT_EQ(ew_file_rename(dir, "linked", dir, "renamed", 0), 0);
	EXPECT_EQ(ew_file_unlink(dir, "renamed", 0), 0);
	(void)!ew_file_sync(file, false);
	EXPECT_EQ(ew_file_truncate(file, 0), 0);
	EXPECT_EQ(ew_file_open(dir, "other", O_RDWR | O_CREAT, 0600, &other), 0);
	EXPECT_EQ(ew_file_write(other, data, sizeof(data), 0), 0);
	EXPECT_EQ(ew_file_sync(other, false), 0);
	EXPECT_EQ(ew_file_close(&other), 0);
	return ew_file_close(&file);
}

static void test_full(bool on_disk)
{
	struct directory directory;
	bool mounted;

	directory_make(&directory);
	mounted = mount_small(&directory, on_disk);
	if (mounted) {
		EXPECT_EQ(run_workers(1, fill, &directory), 0);
		EXPECT_EQ(chdir("/"), 0);
		EXPECT_EQ(umount2(directory.path, MNT_DETACH), 0);
	}
	directory_remove(&directory);
	if (!mounted)
		SKIP("no permission to mount");
}

TEST(file_on_a_full_disk_in_memory)
{
	test_full(false);
}

TEST(file_on_a_full_disk)
{
	test_full(true);
}

/* ---- ownership ---- */

static int adopt_and_abort(void *argument)
{
	EW_OWN(ew_file, file);
	EW_OWN(ew_file, left);
	int fd = open("/dev/null", O_RDWR | O_CLOEXEC);

	(void)argument;
	EXPECT_EQ(ew_file_adopt(fd, &file), 0);
	EXPECT_EQ(ew_file_fd(file), fd);
	ew_abort(&file);
	EXPECT(!file);
	TURNS_UNTIL(fcntl(fd, F_GETFD) < 0);
	EXPECT_EQ(ew_file_open(NULL, "/dev/null", O_RDONLY, 0, &left), 0);
	return 0;
}

TEST(file_is_closed_by_abort_and_by_its_place)
{
	struct descriptors before = descriptors_now();

	EXPECT_EQ(run_workers(1, adopt_and_abort, NULL), 0);
	EXPECT_EQ(reports.count, 0);
	expect_same_descriptors(&before);
}

static int panic_with_file(void *argument)
{
	EW_OWN(ew_file, file);

	(void)argument;
	EXPECT_EQ(ew_file_open(NULL, "/dev/null", O_RDONLY, 0, &file), 0);
	ew_panic("with an open file");
}

static int forget_file(void *argument)
{
	struct ew_file *file = NULL;

	(void)argument;
	return ew_file_open(NULL, "/dev/null", O_RDONLY, 0, &file);
}

TEST(file_is_closed_when_its_task_panics)
{
	struct descriptors before = descriptors_now();

	EXPECT_EQ(run_workers(1, panic_with_file, NULL), -ENOTRECOVERABLE);
	expect_same_descriptors(&before);
}

TEST(file_forgotten_is_reported_and_aborted)
{
	struct descriptors before = descriptors_now();

	EXPECT_EQ(run_workers(1, forget_file, NULL), 0);
	EXPECT(reported("file made at", "no owner"));
	expect_same_descriptors(&before);
}

static int overwrite_file(void *argument)
{
	EW_OWN(ew_file, file);

	(void)argument;
	EXPECT_EQ(ew_file_open(NULL, "/dev/null", O_RDONLY, 0, &file), 0);
	EXPECT_EQ(ew_file_open(NULL, "/dev/null", O_RDONLY, 0, &file), 0);
	return ew_file_close(&file);
}

TEST(file_that_would_be_overwritten_is_reported_and_aborted)
{
	struct descriptors before = descriptors_now();

	EXPECT_EQ(run_workers(1, overwrite_file, NULL), 0);
	EXPECT(reported("file made at", "overwritten"));
	expect_same_descriptors(&before);
}

static int open_until_dropped(void *argument)
{
	struct ew_file *file = NULL;
	int r;

	for (*(bool *)argument = true; *(bool *)argument;) {
		if (ew_file_open(NULL, "/", O_RDONLY, 0, &file) < 0)
			continue;
		r = ew_file_close(&file);
		EXPECT(r == 0 || r == -ECANCELED); /* forced: aborted */
	}
	return 0;
}

static int drop_opener(void *argument)
{
	bool started = false;
	EW_SCOPE(scope, .policy = EW_POLICY_INDEPENDENT, .budget_ns = EW_MILLISECOND);

	(void)argument;
	EXPECT_EQ(ew_spawn(&scope, open_until_dropped, &started, .droppable = true), 0);
	TURNS_UNTIL(started);
	ew_scope_cancel(&scope, EW_REASON_REQUESTED);
	(void)!ew_scope_join(&scope);
	return 0;
}

/* It is dropped where its call begins; with a leak checker, nothing made for the call may be lost. */
TEST(file_open_of_a_task_that_is_dropped_leaves_nothing)
{
	struct descriptors before = descriptors_now();
	unsigned i;

	for (i = 0; i < 20; i++)
		EXPECT_EQ(run_workers(1, drop_opener, NULL), 0);
	expect_same_descriptors(&before);
}

TEST_MAIN()
