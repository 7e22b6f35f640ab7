/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Temporary files: nothing of one is left unless it was published, and then all of it; and a seal is a proof.
 */

#include "tempfile.h"

#include "driver/system.h"

#include <pthread.h>
#include <spawn.h>

/* ---- publishing ---- */

static int publish(struct workplace *workplace)
{
	EW_OWN(ew_tempfile, tempfile);
	struct stat stat;

	tempfile_make(workplace, &tempfile);
	EXPECT_EQ(count_names(&workplace->directory), 0);
	EXPECT_EQ(ew_tempfile_seal(tempfile), 0);
	EXPECT_EQ(ew_tempfile_publish(tempfile, workplace->dir, "name"), 0);
	EXPECT_EQ(ew_outcome(), EW_OUTCOME_DONE);
	EXPECT_EQ(ew_tempfile_close(&tempfile), 0);
	EXPECT_STR(file_text(&workplace->directory, "name"), TEXT);
	EXPECT_EQ(fstatat(workplace->directory.fd, "name", &stat, 0), 0);
	EXPECT_EQ(stat.st_mode & 0777, 0600);
	return 0;
}

TEST(tempfile_published_has_its_name_and_its_bytes)
{
	EXPECT_EQ(run_in_workplace(publish, 1), 0);
}

static int link_instead(struct workplace *workplace)
{
	EW_OWN(ew_tempfile, tempfile);

	tempfile_make(workplace, &tempfile);
	EXPECT_EQ(ew_file_link(ew_tempfile_file(tempfile), workplace->dir, "name"), -EPERM);
	return 0;
}

/* Under a name that its end does not know of it would be truncated: no name may be there. */
TEST(tempfile_is_published_not_linked)
{
	EXPECT_EQ(run_in_workplace(link_instead, 0), 0);
}

/* What a network filesystem does when a reply is lost: the link is there, and its repetition says that the name is taken. */
static int publish_again(struct workplace *workplace)
{
	EW_OWN(ew_tempfile, tempfile);
	char path[32];

	tempfile_make(workplace, &tempfile);
	snprintf(path, sizeof(path), "/proc/self/fd/%d", ew_file_fd(ew_tempfile_file(tempfile)));
	EXPECT_EQ(linkat(AT_FDCWD, path, workplace->directory.fd, "name", AT_SYMLINK_FOLLOW), 0);
	EXPECT_EQ(ew_tempfile_publish(tempfile, workplace->dir, "name"), 0);
	EXPECT_EQ(ew_tempfile_close(&tempfile), 0);
	EXPECT_STR(file_text(&workplace->directory, "name"), TEXT);
	return 0;
}

TEST(tempfile_that_has_its_name_already_is_published)
{
	EXPECT_EQ(run_in_workplace(publish_again, 1), 0);
}

static int publish_and_abort(struct workplace *workplace)
{
	EW_OWN(ew_tempfile, tempfile);

	tempfile_make(workplace, &tempfile);
	EXPECT_EQ(ew_tempfile_publish(tempfile, workplace->dir, "name"), 0);
	ew_abort(&tempfile);
	take_turns(5);
	EXPECT_STR(file_text(&workplace->directory, "name"), TEXT);
	return 0;
}

static int publish_shown(struct workplace *workplace)
{
	EW_OWN(ew_tempfile, tempfile);

	tempfile_make(workplace, &tempfile);
	EXPECT(ew_file_fd(ew_tempfile_file(tempfile)) >= 0);
	EXPECT_EQ(ew_tempfile_publish(tempfile, workplace->dir, "name"), 0);
	EXPECT_EQ(ew_tempfile_close(&tempfile), 0);
	EXPECT_STR(file_text(&workplace->directory, "name"), TEXT);
	return 0;
}

/* Whose descriptor was asked for is truncated by its ending; not if it was published. */
TEST(tempfile_published_is_kept_whoever_has_its_descriptor)
{
	EXPECT_EQ(run_in_workplace(publish_shown, 1), 0);
}

static int publish_and_leave(struct workplace *workplace)
{
	EW_OWN(ew_tempfile, tempfile);

	tempfile_make(workplace, &tempfile);
	return ew_tempfile_publish(tempfile, workplace->dir, "name");
}

static int publish_task(void *argument)
{
	struct workplace *workplace = argument;
	EW_OWN(ew_tempfile, tempfile);

	tempfile_make(workplace, &tempfile);
	EXPECT_EQ(ew_tempfile_publish(tempfile, workplace->dir, "name"), 0);
	ew_panic("after the commit point");
}

static int publish_and_panic(struct workplace *workplace)
{
	EW_SCOPE(scope, .policy = EW_POLICY_INDEPENDENT);

	EXPECT_EQ(ew_spawn(&scope, publish_task, workplace), 0);
	(void)!ew_scope_join(&scope);
	EXPECT_STR(file_text(&workplace->directory, "name"), TEXT);
	return 0;
}

static int publish_and_forget(struct workplace *workplace)
{
	struct ew_tempfile *tempfile = NULL;

	tempfile_make(workplace, &tempfile);
	workplace->left = open_again(tempfile, O_RDONLY);
	EXPECT_EQ(ew_tempfile_publish(tempfile, workplace->dir, "name"), 0);
	close(workplace->left);
	return 0;
}

TEST(tempfile_published_is_kept_by_abort)
{
	EXPECT_EQ(run_in_workplace(publish_and_abort, 1), 0);
}

TEST(tempfile_published_is_kept_by_its_place)
{
	EXPECT_EQ(run_in_workplace(publish_and_leave, 1), 0);
}

TEST(tempfile_published_is_kept_by_a_panic)
{
	EXPECT_EQ(run_in_workplace(publish_and_panic, 1), 0);
}

TEST(tempfile_published_is_kept_when_forgotten)
{
	EXPECT_EQ(run_in_workplace(publish_and_forget, 1), 0);
	EXPECT(reported("temporary file made at", "no owner"));
}

static int publish_over(struct workplace *workplace)
{
	EW_OWN(ew_tempfile, tempfile);

	put_file(&workplace->directory, "file", "older");
	EXPECT_EQ(symlinkat("nowhere", workplace->directory.fd, "symlink"), 0);
	EXPECT_EQ(mkdirat(workplace->directory.fd, "below", 0755), 0);
	tempfile_make(workplace, &tempfile);
	EXPECT_EQ(ew_tempfile_publish(tempfile, workplace->dir, "file"), -EEXIST);
	EXPECT_EQ(ew_tempfile_publish(tempfile, workplace->dir, "symlink"), -EEXIST);
	EXPECT_EQ(ew_tempfile_publish(tempfile, workplace->dir, "below"), -EEXIST);
	EXPECT(!has_file(&workplace->directory, "nowhere"));
	EXPECT_STR(file_text(&workplace->directory, "file"), "older");
	/* Not published, so it is given back, although the name is there. */
	workplace->left = open_again(tempfile, O_RDONLY);
	EXPECT_EQ(ew_tempfile_close(&tempfile), 0);
	EXPECT_EQ(size_of(workplace->left), 0);
	EXPECT_STR(file_text(&workplace->directory, "file"), "older");
	close(workplace->left);
	return 0;
}

TEST(tempfile_publish_never_overwrites)
{
	EXPECT_EQ(run_in_workplace(publish_over, 3), 0);
}

static unsigned calls_count;

static int count_call(void)
{
	calls_count++;
	return 0;
}

static unsigned calls_of_publish(struct workplace *workplace, int expected)
{
	EW_OWN(ew_tempfile, tempfile);

	tempfile_make(workplace, &tempfile);
	calls_count = 0;
	ew__system_file_fault = count_call;
	EXPECT_EQ(ew_tempfile_publish(tempfile, workplace->dir, "name"), expected);
	ew__system_file_fault = NULL;
	EXPECT_EQ(ew_outcome(), EW_OUTCOME_DONE);
	EXPECT_EQ(ew_tempfile_close(&tempfile), 0);
	return calls_count;
}

/* Who has the name is only asked where it is in doubt, and that somebody else has it is no doubt. */
static int publish_twice(struct workplace *workplace)
{
	EXPECT_EQ(calls_of_publish(workplace, 0), 1);
	EXPECT_EQ(calls_of_publish(workplace, -EEXIST), 2);
	EXPECT_STR(file_text(&workplace->directory, "name"), TEXT);
	return 0;
}

TEST(tempfile_is_published_by_one_call)
{
	if (plain_asked_for())
		SKIP("on a plain thread: nobody is asked about faults, so nobody can count");
	EXPECT_EQ(run_in_workplace(publish_twice, 1), 0);
}

struct attempt {
	struct workplace *workplace;
	struct ew_tempfile *tempfile;
	int result;
};

static int attempt_task(void *argument)
{
	struct attempt *attempt = argument;

	attempt->result = ew_tempfile_publish(attempt->tempfile, attempt->workplace->dir, "name");
	return 0;
}

static void publish_and_cancel(struct attempt *attempt)
{
	EW_SCOPE(scope);

	EXPECT_EQ(ew_spawn(&scope, attempt_task, attempt), 0);
	/* How many turns a thread takes is not ours to say: some are left alone, so that both outcomes are met. */
	if (chance(8)) {
		take_turns(chance(4));
		ew_scope_cancel(&scope, EW_REASON_REQUESTED);
	}
	EXPECT_EQ(ew_scope_join(&scope), 0);
}

static int cancel_publishing(struct workplace *workplace)
{
	struct attempt attempt = { .workplace = workplace };
	unsigned i, published = 0;

	for (i = 0; i < 1000; i++) {
		EW_OWN(ew_tempfile, tempfile);
		tempfile_make(workplace, &tempfile);
		attempt.tempfile = tempfile;
		publish_and_cancel(&attempt);
		EXPECT_EQ(ew_tempfile_close(&tempfile), 0);
		EXPECT(attempt.result == 0 || attempt.result == -ECANCELED);
		EXPECT_STR(file_text(&workplace->directory, "name"),
			   attempt.result == 0 ? TEXT : "(none)");
		published += attempt.result == 0;
		if (attempt.result == 0)
			EXPECT_EQ(unlinkat(workplace->directory.fd, "name", 0), 0);
	}
	EXPECT(published > 0 && published < 1000);
	return 0;
}

/* Whole or not there, and the result says which. */
TEST(tempfile_publish_cancelled_at_random_has_no_third_outcome)
{
	chance_begin();
	EXPECT_EQ(run_in_workplace(cancel_publishing, 0), 0);
}

/* ---- giving back ---- */

static void expect_given_back(struct workplace *workplace)
{
	TURNS_UNTIL(size_of(workplace->left) == 0);
	close(workplace->left);
}

static int close_unpublished(struct workplace *workplace)
{
	EW_OWN(ew_tempfile, tempfile);

	tempfile_make(workplace, &tempfile);
	workplace->left = open_again(tempfile, O_RDONLY);
	EXPECT_EQ(ew_tempfile_close(&tempfile), 0);
	EXPECT_EQ(size_of(workplace->left), 0);
	expect_given_back(workplace);
	/* Sealed, when its own descriptor cannot write any more; and with a mode that lets nobody write. */
	tempfile_make(workplace, &tempfile);
	workplace->left = open_again(tempfile, O_RDONLY);
	EXPECT_EQ(ew_tempfile_seal(tempfile), 0);
	EXPECT_EQ(ew_file_chmod(ew_tempfile_file(tempfile), 0444), 0);
	EXPECT_EQ(ew_tempfile_close(&tempfile), 0);
	EXPECT_EQ(size_of(workplace->left), 0);
	expect_given_back(workplace);
	return 0;
}

TEST(tempfile_closed_gives_its_space_back_while_others_hold_it)
{
	EXPECT_EQ(run_in_workplace(close_unpublished, 0), 0);
}

/* What root may do anyway must work for everybody else. */
TEST(tempfile_closed_by_an_ordinary_user_gives_its_space_back)
{
	become_ordinary();
	EXPECT_EQ(run_in_workplace(close_unpublished, 0), 0);
}

static int abort_unpublished(struct workplace *workplace)
{
	EW_OWN(ew_tempfile, tempfile);

	tempfile_make(workplace, &tempfile);
	workplace->left = open_again(tempfile, O_RDONLY);
	ew_abort(&tempfile);
	expect_given_back(workplace);
	return 0;
}

static int panic_task(void *argument)
{
	struct workplace *workplace = argument;
	EW_OWN(ew_tempfile, tempfile);

	tempfile_make(workplace, &tempfile);
	workplace->left = open_again(tempfile, O_RDONLY);
	ew_panic("before the commit point");
}

static int panic_unpublished(struct workplace *workplace)
{
	EW_SCOPE(scope, .policy = EW_POLICY_INDEPENDENT);

	EXPECT_EQ(ew_spawn(&scope, panic_task, workplace), 0);
	(void)!ew_scope_join(&scope);
	expect_given_back(workplace);
	return 0;
}

TEST(tempfile_aborted_gives_its_space_back)
{
	EXPECT_EQ(run_in_workplace(abort_unpublished, 0), 0);
}

TEST(tempfile_of_a_panicking_task_gives_its_space_back)
{
	EXPECT_EQ(run_in_workplace(panic_unpublished, 0), 0);
}

static int forget_unpublished(struct workplace *workplace)
{
	struct ew_tempfile *tempfile = NULL;

	tempfile_make(workplace, &tempfile);
	workplace->left = open_again(tempfile, O_RDONLY);
	return 0;
}

TEST(tempfile_forgotten_is_reported_and_gives_its_space_back)
{
	struct workplace workplace;
	struct call call = { forget_unpublished, &workplace };
	struct descriptors before;

	directory_make(&workplace.directory);
	before = descriptors_now();
	EXPECT_EQ(run_workers(1, in_workplace, &call), 0);
	EXPECT(reported("temporary file made at", "no owner"));
	EXPECT_EQ(size_of(workplace.left), 0);
	close(workplace.left);
	expect_same_descriptors(&before);
	directory_remove(&workplace.directory);
}

/* ---- sealing ---- */

static int seal(struct workplace *workplace)
{
	EW_OWN(ew_tempfile, tempfile);
	char text[64] = "";
	int reader;

	tempfile_make(workplace, &tempfile);
	reader = open_again(tempfile, O_RDONLY);
	EXPECT_EQ(ew_tempfile_seal(tempfile), 0);
	EXPECT_EQ(fcntl(ew_file_fd(ew_tempfile_file(tempfile)), F_GETFL) & O_ACCMODE, O_RDONLY);
	EXPECT_EQ(fcntl(ew_file_fd(ew_tempfile_file(tempfile)), F_GETFD), FD_CLOEXEC);
	EXPECT_EQ(fcntl(ew_file_fd(ew_tempfile_file(tempfile)), F_GETLEASE), F_UNLCK);
	EXPECT_EQ(ew_file_write(ew_tempfile_file(tempfile), "x", 1, 0), -EBADF);
	EXPECT_EQ(ew_file_read(ew_tempfile_file(tempfile), text, sizeof(text), 0), strlen(TEXT));
	EXPECT_STR(text, TEXT);
	/* A second time is as good. */
	EXPECT_EQ(ew_tempfile_seal(tempfile), 0);
	close(reader);
	return ew_tempfile_close(&tempfile);
}

TEST(tempfile_sealed_can_be_read_and_not_written)
{
	EXPECT_EQ(run_in_workplace(seal, 0), 0);
}

static int seal_with_writer(struct workplace *workplace)
{
	EW_OWN(ew_tempfile, tempfile);
	int writer;

	tempfile_make(workplace, &tempfile);
	writer = open_again(tempfile, O_WRONLY);
	EXPECT_EQ(ew_tempfile_seal(tempfile), -EBUSY);
	EXPECT_EQ(write(writer, "x", 1), 1);
	close(writer);
	return ew_tempfile_close(&tempfile);
}

TEST(tempfile_with_another_writer_is_not_sealed)
{
	EXPECT_EQ(run_in_workplace(seal_with_writer, 0), 0);
}

TEST(tempfile_of_an_ordinary_user_with_another_writer_is_not_sealed)
{
	become_ordinary();
	EXPECT_EQ(run_in_workplace(seal_with_writer, 0), 0);
	EXPECT_EQ(run_in_workplace(seal, 0), 0);
}

static atomic_bool spawning;

/* Each child holds a copy of every descriptor until its exec. */
static void *spawn_programs(void *argument)
{
	char *const argv[] = { "true", NULL };
	unsigned *count = argument;
	pid_t child;

	*count = 0;
	do {
		EXPECT_EQ(posix_spawn(&child, "/bin/true", NULL, NULL, argv, NULL), 0);
		EXPECT_EQ(waitpid(child, NULL, 0), child);
		++*count;
	} while (atomic_load(&spawning));
	return NULL;
}

static int seal_while_spawning(struct workplace *workplace)
{
	unsigned i, counts[2];
	pthread_t threads[2];

	atomic_store(&spawning, true);
	for (i = 0; i < 2; i++)
		EXPECT_EQ(pthread_create(&threads[i], NULL, spawn_programs, &counts[i]), 0);
	for (i = 0; i < 300; i++) {
		EW_OWN(ew_tempfile, tempfile);
		tempfile_make(workplace, &tempfile);
		EXPECT_EQ(ew_tempfile_seal(tempfile), 0);
		EXPECT_EQ(ew_tempfile_close(&tempfile), 0);
	}
	atomic_store(&spawning, false);
	for (i = 0; i < 2; i++) {
		EXPECT_EQ(pthread_join(threads[i], NULL), 0);
		EXPECT(counts[i] > 0);
	}
	return 0;
}

TEST(tempfile_is_sealed_while_programs_are_started)
{
	EXPECT_EQ(run_in_workplace(seal_while_spawning, 0), 0);
}

/* ---- where there are none ---- */

static int open_without(struct workplace *workplace)
{
	EW_OWN(ew_tempfile, tempfile);
	EW_OWN(ew_file, proc);
	EW_OWN(ew_file, file);

	EXPECT_EQ(ew_file_open(NULL, "/proc", O_RDONLY | O_DIRECTORY, 0, &proc), 0);
	EXPECT_EQ(ew_tempfile_open(proc, &tempfile), geteuid() == 0 ? -EOPNOTSUPP : -EACCES);
	put_file(&workplace->directory, "file", "");
	EXPECT_EQ(ew_file_open(workplace->dir, "file", O_RDONLY, 0, &file), 0);
	EXPECT_EQ(ew_tempfile_open(file, &tempfile), -ENOTDIR);
	EXPECT(!tempfile);
	return 0;
}

TEST(tempfile_in_a_filesystem_without_them_is_refused)
{
	EXPECT_EQ(run_in_workplace(open_without, 1), 0);
}

/* ---- killed ---- */

static struct workplace killed_workplace;

static int be_killed(struct workplace *workplace)
{
	EW_OWN(ew_tempfile, tempfile);

	tempfile_make(workplace, &tempfile);
	EXPECT_EQ(ew_tempfile_seal(tempfile), 0);
	kill(getpid(), SIGKILL);
	return 0;
}

static void run_and_be_killed(void)
{
	struct call call = { be_killed, &killed_workplace };

	(void)!run_workers(1, in_workplace, &call);
}

/* A file without a name needs nobody to remove it. */
TEST(tempfile_of_a_killed_process_leaves_nothing)
{
	struct ended ended;

	directory_make(&killed_workplace.directory);
	ended = run_process(run_and_be_killed);
	EXPECT(WIFSIGNALED(ended.status) && WTERMSIG(ended.status) == SIGKILL);
	EXPECT_EQ(count_names(&killed_workplace.directory), 0);
	directory_remove(&killed_workplace.directory);
}

TEST_MAIN()
