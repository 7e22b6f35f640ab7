/* SPDX-License-Identifier: Apache-2.0 */

/*
 * ew-ingest in a simulated world with a scanner that is a program. A child of that world is a script and sees nothing of
 * files, so the linker leads the spawn here: what the child is to be is chosen by the file that it is handed. The child stands
 * for the supervisor with its tree; one that leaves somebody behind has a second child beside it, which holds the pipe
 * that proves that nobody is left, and cannot be told to end.
 *
 * There is one scan slot: whenever a child is spawned the tree before it must be gone.
 */

#include "ingest_one.h"

#include "driver/system_file.h"

#include <endwell/process.h>

#define LEFT_BEHIND_NS (20 * EW_SECOND)

/* What the program does with the uploads; EICAR it finds always, and the one after a restart is a good one. */
static const char *behaviour;

static int left_behind = -1; /* the descriptor for it */
static unsigned spawned;
static int64_t gone_ns; /* when nobody of the tree is left behind any more */

static struct note *note_of(int fd)
{
	char first = 0;
	int r = ew__system_files_of(fd)->pread(fd, &first, 1, 0);

	return r == 1 && first > 0 && (unsigned)first <= world.notes_count ? &world.notes[first - 1]
									   : NULL;
}

static bool is_eicar(int fd)
{
	char start[4] = "";

	return ew__system_files_of(fd)->pread(fd, start, 4, 0) == 4 &&
	       memcmp(start, "X5O!", 4) == 0;
}

static const char *program_for(int fd)
{
	const char *does = world.restarted ? "/clean" : behaviour;
	struct note *note = note_of(fd);

	if (is_eicar(fd) || (note && is_infected(note)))
		return "/infected";
	if (note && (strcmp(does, "/clean") == 0 || strcmp(does, "/leaves") == 0))
		note->called_clean = true;
	return does;
}

int __real_ew__sim_spawn(const struct ew_process_options *options, pid_t *ret_pid);
int __wrap_ew__sim_spawn(const struct ew_process_options *options, pid_t *ret_pid);

static void close_left(void *unused)
{
	(void)unused;
	if (left_behind >= 0)
		ew__system_close(left_behind);
	left_behind = -1;
}

static int close_left_close(void *unused)
{
	close_left(unused);
	return 0;
}

/* It has what proves that somebody lives, and nothing else. */
static int leave_behind(const struct ew_process_options *options)
{
	const struct ew_process_options left = { .path = "/left",
						 .stdin_fd = -1,
						 .stdout_fd = -1,
						 .stderr_fd = -1,
						 .keep_fd = options->keep_fd };
	pid_t pid;

	close_left(NULL);
	left_behind = __real_ew__sim_spawn(&left, &pid);
	if (left_behind >= 0)
		gone_ns = ew_after(LEFT_BEHIND_NS);
	return left_behind < 0 ? left_behind : 0;
}

int __wrap_ew__sim_spawn(const struct ew_process_options *options, pid_t *ret_pid)
{
	struct ew_process_options scan = *options;
	int r = 0;

	EXPECT(ew_now() >= gone_ns);
	scan.path = program_for(options->stdin_fd);
	spawned++;
	if (strcmp(scan.path, "/leaves") == 0)
		r = leave_behind(options);
	return r < 0 ? r : __real_ew__sim_spawn(&scan, ret_pid);
}

/* ---- the programs ---- */

static int with_programs(int (*ask)(void))
{
	static char *const name = (char *)(uintptr_t) "/scan";

	EW_GUARD(left, &world, .close = close_left_close, .abort = close_left);

	world.options.scanner = "exec:/scan";
	world.options.scanner_kind = SCANNER_EXEC;
	world.options.scanner_arguments[0] = name;
	world.options.scan_slots = 1;
	gone_ns = 0;
	EXPECT_EQ(ew_sim_program("/clean", "sleep 100; exit 0"), 0);
	EXPECT_EQ(ew_sim_program("/infected", "sleep 100; print stdin: Test FOUND; exit 1"), 0);
	EXPECT_EQ(ew_sim_program("/fails", "print out of luck; exit 2"), 0);
	EXPECT_EQ(ew_sim_program("/hangs", "sleep 2147483647"), 0);
	EXPECT_EQ(ew_sim_program("/stubborn", "ignore TERM; sleep 2147483647"), 0);
	EXPECT_EQ(ew_sim_program("/killed", "kill SEGV"), 0);
	EXPECT_EQ(ew_sim_program("/leaves", "exit 0"), 0);
	EXPECT_EQ(ew_sim_program("/left", "ignore TERM; sleep 20000"), 0);
	return ask();
}

static void begin_programs(const char *does)
{
	with_its_scanner = with_programs;
	behaviour = does;
}

/* ---- in fair weather ---- */

static int (*question)(void);

static int serve_question(void)
{
	return with_server(question);
}

static int fair(void *unused)
{
	int r;

	(void)unused;
	r = with_programs(serve_question);
	check_bucket();
	check_disk();
	return r;
}

static void run_fair(const char *does, int (*ask)(void))
{
	struct ew_sim_filesystem *filesystem;

	prepare(NULL);
	begin_programs(does);
	question = ask;
	EXPECT_EQ(ew_sim_filesystem_new(NULL, &filesystem), 0);
	run_on(filesystem, 1, fair);
	ew_sim_filesystem_free(filesystem);
}

static int ask_clean_and_infected(void)
{
	expect_status("one", 5000, 201);
	expect_status("two", 5000, 201);
	expect_status("three", 5000, 201);
	expect_status("four", 5000, 422);
	return 0;
}

TEST(ingest_program_says_clean_or_infected)
{
	run_fair("/clean", ask_clean_and_infected);
}

/* What is not clean is refused; and the next one is asked about, and published. */
static int ask_in_trouble(void)
{
	expect_status("one", 5000, 503);
	behaviour = "/clean";
	EXPECT_EQ(ew_sleep(40 * EW_SECOND), 0);
	expect_status("one", 5000, 201);
	return 0;
}

TEST(ingest_program_that_fails_lets_nothing_pass)
{
	run_fair("/fails", ask_in_trouble);
}

TEST(ingest_program_that_is_killed_lets_nothing_pass)
{
	run_fair("/killed", ask_in_trouble);
}

TEST(ingest_program_that_hangs_lets_nothing_pass)
{
	run_fair("/hangs", ask_in_trouble);
}

TEST(ingest_program_that_ignores_its_end_lets_nothing_pass)
{
	run_fair("/stubborn", ask_in_trouble);
}

/* The slot is held as long as somebody lives, also when the program itself has said its word. */
static int ask_about_the_left(void)
{
	unsigned before = spawned;

	expect_status("one", 5000, 201);
	EXPECT_EQ(spawned, before + 1);
	EXPECT(ew_now() >= gone_ns);
	expect_status("two", 5000, 201);
	return 0;
}

TEST(ingest_program_that_leaves_a_process_behind_keeps_its_slot)
{
	run_fair("/leaves", ask_about_the_left);
}

/* ---- one upload, ended at each suspension ---- */

static void sweep_program(const char *does, unsigned modes)
{
	begin_programs(does);
	sweep_one(modes);
}

#define LEAVING                                                                                    \
	(1U << EW_SWEEP_CANCEL | 1U << EW_SWEEP_CANCEL_WAITING | 1U << EW_SWEEP_CANCEL_ENDED)

TEST(ingest_client_leaves_a_program_at_each_point)
{
	server_stays = true;
	sweep_program("/clean", LEAVING);
	sweep_program("/leaves", LEAVING);
}

TEST(ingest_client_leaves_a_program_that_hangs_at_each_point)
{
	server_stays = true;
	sweep_program("/hangs", LEAVING);
	sweep_program("/stubborn", LEAVING);
}

TEST(ingest_with_a_program_is_cancelled_at_each_point)
{
	client_stays = true;
	sweep_program("/clean", 1U << EW_SWEEP_CANCEL);
	sweep_program("/stubborn", 1U << EW_SWEEP_CANCEL);
}

TEST(ingest_with_a_program_is_forced_at_each_point)
{
	sweep_program("/clean", 1U << EW_SWEEP_FORCE);
	sweep_program("/leaves", 1U << EW_SWEEP_FORCE);
}

TEST_MAIN()
