/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Temporary files with a staging name: on each way out the space comes back and the name goes, and nobody else's.
 */

#include "tempfile.h"

#define STAGED "staged"

static void named_make(struct workplace *workplace, struct ew_tempfile **ret_tempfile)
{
	EXPECT_EQ(ew_tempfile_open_named(workplace->dir, STAGED, ret_tempfile), 0);
	EXPECT_EQ(ew_file_write(ew_tempfile_file(*ret_tempfile), TEXT, strlen(TEXT), 0), 0);
	workplace->left = open_again(*ret_tempfile, O_RDONLY);
}

/* Somebody else held the file open all the time: it is empty, and has no staging name any more. */
static void expect_gone(struct workplace *workplace)
{
	TURNS_UNTIL(!has_file(&workplace->directory, STAGED));
	EXPECT_EQ(size_of(workplace->left), 0);
	close(workplace->left);
}

/* ---- not published ---- */

static int close_it(struct workplace *workplace)
{
	EW_OWN(ew_tempfile, tempfile);

	named_make(workplace, &tempfile);
	EXPECT(has_file(&workplace->directory, STAGED));
	EXPECT_EQ(ew_tempfile_close(&tempfile), 0);
	EXPECT(!has_file(&workplace->directory, STAGED));
	expect_gone(workplace);
	/* Sealed, when its own descriptor cannot write any more. */
	named_make(workplace, &tempfile);
	EXPECT_EQ(ew_tempfile_seal(tempfile), 0);
	EXPECT_EQ(ew_file_chmod(ew_tempfile_file(tempfile), 0444), 0);
	EXPECT_EQ(ew_tempfile_close(&tempfile), 0);
	EXPECT(!has_file(&workplace->directory, STAGED));
	expect_gone(workplace);
	return 0;
}

TEST(tempfile_named_closed_leaves_nothing)
{
	EXPECT_EQ(run_in_workplace(close_it, 0), 0);
}

TEST(tempfile_named_closed_by_an_ordinary_user_leaves_nothing)
{
	become_ordinary();
	EXPECT_EQ(run_in_workplace(close_it, 0), 0);
}

static int abort_it(struct workplace *workplace)
{
	EW_OWN(ew_tempfile, tempfile);

	named_make(workplace, &tempfile);
	ew_abort(&tempfile);
	expect_gone(workplace);
	return 0;
}

TEST(tempfile_named_aborted_leaves_nothing)
{
	EXPECT_EQ(run_in_workplace(abort_it, 0), 0);
}

static int panic_task(void *argument)
{
	struct workplace *workplace = argument;
	EW_OWN(ew_tempfile, tempfile);

	named_make(workplace, &tempfile);
	ew_panic("before the commit point");
}

static int panic_with_it(struct workplace *workplace)
{
	EW_SCOPE(scope, .policy = EW_POLICY_INDEPENDENT);

	EXPECT_EQ(ew_spawn(&scope, panic_task, workplace), 0);
	(void)!ew_scope_join(&scope);
	expect_gone(workplace);
	return 0;
}

TEST(tempfile_named_of_a_panicking_task_leaves_nothing)
{
	EXPECT_EQ(run_in_workplace(panic_with_it, 0), 0);
}

static int forget_it(struct workplace *workplace)
{
	struct ew_tempfile *tempfile = NULL;

	named_make(workplace, &tempfile);
	close(workplace->left);
	return 0;
}

/* It is ended after its directory, which it holds. */
TEST(tempfile_named_forgotten_is_reported_and_leaves_nothing)
{
	EXPECT_EQ(run_in_workplace(forget_it, 0), 0);
	EXPECT(reported("temporary file made at", "no owner"));
}

static int close_directory_first(struct workplace *workplace)
{
	EW_OWN(ew_file, dir);
	EW_OWN(ew_tempfile, first);
	EW_OWN(ew_tempfile, second);
	int taken;

	EXPECT_EQ(ew_file_open(NULL, workplace->directory.path, O_RDONLY | O_DIRECTORY, 0, &dir),
		  0);
	EXPECT_EQ(ew_tempfile_open_named(dir, "first", &first), 0);
	EXPECT_EQ(ew_tempfile_open_named(dir, "second", &second), 0);
	EXPECT_EQ(ew_file_close(&dir), 0);
	/* Were its number free, this would have it, and the names would be looked for in /. */
	taken = open("/", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	ew_abort(&first);
	EXPECT_EQ(ew_tempfile_close(&second), 0);
	TURNS_UNTIL(!has_file(&workplace->directory, "first"));
	EXPECT(!has_file(&workplace->directory, "second"));
	close(taken);
	return 0;
}

TEST(tempfile_named_holds_its_directory_until_its_end)
{
	EXPECT_EQ(run_in_workplace(close_directory_first, 0), 0);
}

static int open_taken(struct workplace *workplace)
{
	EW_OWN(ew_tempfile, tempfile);

	put_file(&workplace->directory, STAGED, "older");
	EXPECT_EQ(symlinkat("nowhere", workplace->directory.fd, "symlink"), 0);
	EXPECT_EQ(ew_tempfile_open_named(workplace->dir, STAGED, &tempfile), -EEXIST);
	EXPECT_EQ(ew_tempfile_open_named(workplace->dir, "symlink", &tempfile), -EEXIST);
	EXPECT_EQ(ew_tempfile_open_named(workplace->dir, "no/where", &tempfile), -ENOENT);
	EXPECT(!tempfile);
	EXPECT(!has_file(&workplace->directory, "nowhere"));
	EXPECT_STR(file_text(&workplace->directory, STAGED), "older");
	return 0;
}

TEST(tempfile_named_like_another_file_is_refused)
{
	EXPECT_EQ(run_in_workplace(open_taken, 2), 0);
}

/* ---- published ---- */

typedef int publish_fn(struct ew_tempfile *tempfile, struct ew_file *dir, const char *name);

static void publish_by(struct workplace *workplace, publish_fn *publish,
		       struct ew_tempfile **ret_tempfile)
{
	struct stat stat;

	named_make(workplace, ret_tempfile);
	EXPECT_EQ(ew_tempfile_seal(*ret_tempfile), 0);
	EXPECT_EQ(publish(*ret_tempfile, workplace->dir, "name"), 0);
	EXPECT_EQ(fstatat(workplace->directory.fd, "name", &stat, 0), 0);
	EXPECT_EQ(stat.st_mode & 0777, 0600);
}

/* The staging name goes, the other keeps every byte. */
static void expect_published(struct workplace *workplace)
{
	TURNS_UNTIL(!has_file(&workplace->directory, STAGED));
	EXPECT_EQ(size_of(workplace->left), strlen(TEXT));
	EXPECT_STR(file_text(&workplace->directory, "name"), TEXT);
	close(workplace->left);
}

static void publish_and_close(struct workplace *workplace, publish_fn *publish)
{
	EW_OWN(ew_tempfile, tempfile);

	publish_by(workplace, publish, &tempfile);
	EXPECT_EQ(ew_tempfile_close(&tempfile), 0);
	EXPECT(!has_file(&workplace->directory, STAGED));
	expect_published(workplace);
}

static void publish_and_abort(struct workplace *workplace, publish_fn *publish)
{
	EW_OWN(ew_tempfile, tempfile);

	publish_by(workplace, publish, &tempfile);
	ew_abort(&tempfile);
	take_turns(5);
	expect_published(workplace);
}

static int publish_by_link(struct workplace *workplace)
{
	publish_and_close(workplace, ew_tempfile_publish);
	EXPECT_EQ(unlinkat(workplace->directory.fd, "name", 0), 0);
	publish_and_abort(workplace, ew_tempfile_publish);
	return 0;
}

TEST(tempfile_named_published_by_a_link_is_kept)
{
	EXPECT_EQ(run_in_workplace(publish_by_link, 1), 0);
}

static int publish_by_rename(struct workplace *workplace)
{
	publish_and_close(workplace, ew_tempfile_publish_by_rename);
	EXPECT_EQ(unlinkat(workplace->directory.fd, "name", 0), 0);
	publish_and_abort(workplace, ew_tempfile_publish_by_rename);
	return 0;
}

TEST(tempfile_named_published_by_a_rename_is_kept)
{
	EXPECT_EQ(run_in_workplace(publish_by_rename, 1), 0);
}

static void publish_over_by(struct workplace *workplace, publish_fn *publish)
{
	EW_OWN(ew_tempfile, tempfile);

	named_make(workplace, &tempfile);
	EXPECT_EQ(publish(tempfile, workplace->dir, "file"), -EEXIST);
	EXPECT_EQ(publish(tempfile, workplace->dir, "symlink"), -EEXIST);
	EXPECT(!has_file(&workplace->directory, "nowhere"));
	EXPECT_STR(file_text(&workplace->directory, STAGED), TEXT);
	/* Not published, so it is given back, although the name is there. */
	EXPECT_EQ(ew_tempfile_close(&tempfile), 0);
	expect_gone(workplace);
	EXPECT_STR(file_text(&workplace->directory, "file"), "older");
}

static int publish_over(struct workplace *workplace)
{
	put_file(&workplace->directory, "file", "older");
	EXPECT_EQ(symlinkat("nowhere", workplace->directory.fd, "symlink"), 0);
	publish_over_by(workplace, ew_tempfile_publish);
	publish_over_by(workplace, ew_tempfile_publish_by_rename);
	return 0;
}

TEST(tempfile_named_publish_never_overwrites)
{
	EXPECT_EQ(run_in_workplace(publish_over, 2), 0);
}

/*
 * What a network filesystem does when a reply is lost: the link is there, and its repetition says that the name is
 * taken. It is ours, and not to be truncated.
 */
static void repeat_by(struct workplace *workplace, publish_fn *publish)
{
	EW_OWN(ew_tempfile, tempfile);

	named_make(workplace, &tempfile);
	EXPECT_EQ(linkat(workplace->directory.fd, STAGED, workplace->directory.fd, "name", 0), 0);
	EXPECT_EQ(publish(tempfile, workplace->dir, "name"), 0);
	EXPECT_EQ(ew_tempfile_close(&tempfile), 0);
	expect_published(workplace);
	EXPECT_EQ(unlinkat(workplace->directory.fd, "name", 0), 0);
}

static int repeat(struct workplace *workplace)
{
	repeat_by(workplace, ew_tempfile_publish);
	repeat_by(workplace, ew_tempfile_publish_by_rename);
	return 0;
}

TEST(tempfile_named_that_has_its_name_already_is_published)
{
	EXPECT_EQ(run_in_workplace(repeat, 0), 0);
}

/* ---- the staging name is somebody else's ---- */

static void replace_name(struct workplace *workplace)
{
	put_file(&workplace->directory, "other", "other");
	EXPECT_EQ(renameat(workplace->directory.fd, "other", workplace->directory.fd, STAGED), 0);
}

static void publish_replaced(struct workplace *workplace, publish_fn *publish)
{
	EW_OWN(ew_tempfile, tempfile);

	named_make(workplace, &tempfile);
	EXPECT_EQ(ew_tempfile_seal(tempfile), 0);
	replace_name(workplace);
	EXPECT_EQ(publish(tempfile, workplace->dir, "name"), -ESTALE);
	EXPECT(!has_file(&workplace->directory, "name"));
	/* The other's name stays, and is told of; the space comes back all the same. */
	EXPECT_EQ(ew_tempfile_close(&tempfile), -ESTALE);
	EXPECT_STR(file_text(&workplace->directory, STAGED), "other");
	EXPECT_EQ(size_of(workplace->left), 0);
	close(workplace->left);
	EXPECT_EQ(unlinkat(workplace->directory.fd, STAGED, 0), 0);
}

static int replace(struct workplace *workplace)
{
	publish_replaced(workplace, ew_tempfile_publish);
	publish_replaced(workplace, ew_tempfile_publish_by_rename);
	return 0;
}

TEST(tempfile_named_whose_name_was_replaced_is_not_published)
{
	EXPECT_EQ(run_in_workplace(replace, 0), 0);
}

static void publish_removed(struct workplace *workplace, publish_fn *publish)
{
	EW_OWN(ew_tempfile, tempfile);

	named_make(workplace, &tempfile);
	EXPECT_EQ(unlinkat(workplace->directory.fd, STAGED, 0), 0);
	EXPECT_EQ(publish(tempfile, workplace->dir, "name"), -ESTALE);
	/* Nothing is left of the name, as it should be. */
	EXPECT_EQ(ew_tempfile_close(&tempfile), 0);
	expect_gone(workplace);
}

static int lose_name(struct workplace *workplace)
{
	publish_removed(workplace, ew_tempfile_publish);
	publish_removed(workplace, ew_tempfile_publish_by_rename);
	return 0;
}

TEST(tempfile_named_whose_name_was_removed_is_not_published)
{
	EXPECT_EQ(run_in_workplace(lose_name, 0), 0);
}

static int make_removal_fail(struct workplace *workplace)
{
	EW_OWN(ew_tempfile, tempfile);

	named_make(workplace, &tempfile);
	EXPECT_EQ(fchmod(workplace->directory.fd, 0500), 0);
	EXPECT_EQ(ew_tempfile_close(&tempfile), -EACCES);
	EXPECT(has_file(&workplace->directory, STAGED));
	EXPECT_EQ(size_of(workplace->left), 0);
	close(workplace->left);
	EXPECT_EQ(fchmod(workplace->directory.fd, 0700), 0);
	EXPECT_EQ(unlinkat(workplace->directory.fd, STAGED, 0), 0);
	return 0;
}

TEST(tempfile_named_whose_name_cannot_be_removed_says_so)
{
	become_ordinary();
	EXPECT_EQ(run_in_workplace(make_removal_fail, 0), 0);
}

/* ---- at every moment ---- */

struct attempt {
	struct workplace *workplace;
	struct ew_tempfile *tempfile;
	publish_fn *publish;
	int result;
};

static int attempt_task(void *argument)
{
	struct attempt *attempt = argument;

	attempt->result = attempt->publish(attempt->tempfile, attempt->workplace->dir, "name");
	return 0;
}

static void publish_and_cancel(struct attempt *attempt)
{
	EW_SCOPE(scope);

	EXPECT_EQ(ew_spawn(&scope, attempt_task, attempt), 0);
	/* How many turns a thread takes is not ours to say: some are left alone, so that both outcomes are met. */
	if (chance(8)) {
		take_turns(chance(600));
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
		named_make(workplace, &tempfile);
		attempt.tempfile = tempfile;
		attempt.publish = i % 2 ? ew_tempfile_publish : ew_tempfile_publish_by_rename;
		publish_and_cancel(&attempt);
		EXPECT_EQ(ew_tempfile_close(&tempfile), 0);
		EXPECT(attempt.result == 0 || attempt.result == -ECANCELED);
		EXPECT(!has_file(&workplace->directory, STAGED));
		EXPECT_EQ(size_of(workplace->left), attempt.result == 0 ? strlen(TEXT) : 0);
		EXPECT_STR(file_text(&workplace->directory, "name"),
			   attempt.result == 0 ? TEXT : "(none)");
		close(workplace->left);
		published += attempt.result == 0;
		if (attempt.result == 0)
			EXPECT_EQ(unlinkat(workplace->directory.fd, "name", 0), 0);
	}
	EXPECT(published > 0 && published < 1000);
	return 0;
}

/* Whole or not there, and the result says which; the staging name is gone in both cases. */
TEST(tempfile_named_publish_cancelled_at_random_has_no_third_outcome)
{
	chance_begin();
	EXPECT_EQ(run_in_workplace(cancel_publishing, 0), 0);
}

TEST_MAIN()
