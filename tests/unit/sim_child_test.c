/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Children in simulated worlds: what their scripts do, how they are ended, and programs that have some, for many seeds and
 * ended at each point.
 */

#include "sim.h"

#include <endwell/testing.h>
#include <fcntl.h>

static int simulate(ew_task_fn *fn, void *argument)
{
	return ew_sim_run(&(struct ew_sim_options){ .seed = 3, .report = note_report }, fn,
			  argument, NULL);
}

static int start(const char *path, int stdin_fd, int stdout_fd, int64_t grace_ns,
		 struct ew_process **ret_process)
{
	char *const argv[] = { (char *)(uintptr_t)path, NULL };

	return ew_process_spawn(&(struct ew_process_options){ .path = path,
							      .argv = argv,
							      .stdin_fd = stdin_fd,
							      .stdout_fd = stdout_fd,
							      .stderr_fd = -1,
							      .keep_fd = -1,
							      .grace_ns = grace_ns },
				ret_process);
}

static int status_of(const char *path, const char *script)
{
	int status = -1;

	EW_OWN(ew_process, process);

	EXPECT_EQ(ew_sim_program(path, script), 0);
	EXPECT_EQ(start(path, -1, -1, 0, &process), 0);
	EXPECT_EQ(ew_process_wait(process, EW_NEVER, &status), 0);
	EXPECT_EQ(ew_process_kill(process, SIGTERM), -ESRCH);
	EXPECT_EQ(ew_process_close(&process), 0);
	return status;
}

static int end_in_some_ways(void *unused)
{
	int64_t began_ns = ew_now();

	(void)unused;
	EXPECT_EQ(status_of("/bin/nothing", ""), 0);
	EXPECT_EQ(status_of("/bin/exits", "exit 3; exit 4"), W_EXITCODE(3, 0));
	EXPECT_EQ(status_of("/bin/crashes", " kill SEGV ; exit 4"), SIGSEGV);
	EXPECT(ew_now() < began_ns + EW_SECOND);
	EXPECT_EQ(status_of("/bin/sleeps", "sleep 2000"), 0);
	EXPECT(ew_now() >= began_ns + 2 * EW_SECOND);
	EXPECT_EQ(status_of("/bin/reads", "read; copy; print to nobody"), 0);
	return 0;
}

TEST(sim_child_ends_with_the_status_of_its_script)
{
	EXPECT_EQ(simulate(end_in_some_ways, NULL), 0);
}

static int name_what_is_none(void *unused)
{
	static const char *const wrong[] = { "exit",	 "exit 256",	     "exit 1x",
					     "sleep -1", "ignore DARK",	     "jump",
					     "read 3",	 "exit 0; ; exit 1", "sleep 2147483648" };
	static char script[6 + 4096 + 1] = "print ";
	struct ew_process *process = NULL;
	size_t i;

	(void)unused;
	EXPECT_EQ(start("/bin/true", -1, -1, 0, &process), -EOPNOTSUPP);
	for (i = 0; i < sizeof(wrong) / sizeof(wrong[0]); i++)
		EXPECT_EQ(ew_sim_program("/bin/true", wrong[i]), -EINVAL);
	EXPECT_EQ(ew_sim_program("/bin/true", "exit 0"), 0);
	EXPECT_EQ(ew_sim_program("/bin/true", "exit 0"), -EINVAL);
	memset(script + 6, 'x', 4096);
	EXPECT_EQ(ew_sim_program("/bin/long", script), -EINVAL);
	script[6 + 4095] = '\0';
	EXPECT_EQ(status_of("/bin/long", script), 0);
	EXPECT_EQ(status_of("/bin/sleepy", "sleep 2147483647"), 0);
	return 0;
}

TEST(sim_child_needs_a_program_with_a_script)
{
	EXPECT_EQ(ew_sim_program("/bin/true", "exit 0"), -EOPNOTSUPP);
	EXPECT_EQ(simulate(name_what_is_none, NULL), 0);
}

static int do_nothing(void *unused)
{
	(void)unused;
	return 0;
}

static void expect_refused(const char *programs, const char *why)
{
	EXPECT_EQ(setenv("EW_SIM_PROGRAMS", programs, 1), 0);
	EXPECT_EQ(run_workers(1, do_nothing, NULL), -EINVAL);
	if (!reported(why, NULL))
		ew_test_fail(__FILE__, __LINE__, "%s: nobody reports %s", programs, why);
}

TEST(sim_child_program_of_the_environment_that_is_wrong_is_named_with_its_instruction)
{
	EXPECT_EQ(setenv("EW_DRIVER", "sim", 1), 0);
	EXPECT_EQ(setenv("EW_SIM_PROGRAMS", "/bin/a=exit 0\n/bin/b=", 1), 0);
	EXPECT_EQ(run_workers(1, do_nothing, NULL), 0);
	expect_refused("/bin/a=exit 0\n/bin/b=ignore TERM; print a line that is longer than what "
		       "a report shows of it; jump 3; exit 0\n/bin/c=exit",
		       "/bin/b=ignore TERM; print a line that is longer than what a repo; no "
		       "instruction: jump 3");
	expect_refused("/bin/a=exit", "/bin/a=exit; no instruction: exit");
	expect_refused("/bin/a=exit 0\n/bin/a=exit 1", "PATH=SCRIPT in /bin/a=exit 1");
	expect_refused("exit 0", "PATH=SCRIPT in exit 0");
	expect_refused("=exit 0", "PATH=SCRIPT in =exit 0");
}

/* ---- signals ---- */

static void end_one(const char *path, int64_t least_ns, int64_t most_ns)
{
	int64_t began_ns;

	EW_OWN(ew_process, process);

	EXPECT_EQ(start(path, -1, -1, 3 * EW_SECOND, &process), 0);
	EXPECT_EQ(ew_sleep(EW_MILLISECOND), 0); /* it has said what it ignores */
	began_ns = ew_now();
	EXPECT_EQ(ew_process_close(&process), 0);
	EXPECT(ew_now() >= began_ns + least_ns);
	EXPECT(ew_now() < began_ns + most_ns);
}

static int end_those_who_live(void *unused)
{
	int status;

	EW_OWN(ew_process, process);

	(void)unused;
	EXPECT_EQ(ew_sim_program("/bin/polite", "sleep 3600000"), 0);
	EXPECT_EQ(ew_sim_program("/bin/deaf", "ignore TERM; sleep 3600000"), 0);
	EXPECT_EQ(ew_sim_program("/bin/slow", "ignore TERM; sleep 1000"), 0);
	end_one("/bin/polite", 0, EW_SECOND);
	end_one("/bin/deaf", 3 * EW_SECOND, 4 * EW_SECOND);
	end_one("/bin/slow", EW_SECOND / 2, 2 * EW_SECOND);
	EXPECT_EQ(start("/bin/deaf", -1, -1, 0, &process), 0);
	EXPECT_EQ(ew_sleep(EW_MILLISECOND), 0);
	EXPECT_EQ(ew_process_kill(process, SIGTERM), 0);
	EXPECT_EQ(ew_process_kill(process, 0), 0);
	EXPECT_EQ(ew_process_wait(process, ew_after(EW_SECOND), &status), -ETIMEDOUT);
	EXPECT_EQ(ew_process_kill(process, SIGUSR1), 0);
	EXPECT_EQ(ew_process_wait(process, EW_NEVER, &status), 0);
	EXPECT_EQ(status, SIGUSR1);
	EXPECT_EQ(ew_process_close(&process), 0);
	return ew_sleep(7200 * EW_SECOND); /* their sleeps are over, and nobody is there to wake */
}

TEST(sim_child_is_ended_by_signals_unless_it_ignores_them)
{
	EXPECT_EQ(simulate(end_those_who_live, NULL), 0);
}

/* ---- pipes ---- */

#define COPIED_BYTES 300000

static int feed(void *argument, void *place)
{
	struct ew_pipe **to = place;
	char part[7000];
	size_t at, size, i;
	int r;

	(void)argument;
	for (at = 0; at < COPIED_BYTES; at += size) {
		size = COPIED_BYTES - at < sizeof(part) ? COPIED_BYTES - at : sizeof(part);
		for (i = 0; i < size; i++)
			part[i] = pattern(1, at + i);
		do
			r = seen(ew_pipe_write(*to, part, size));
		while (r == -ENOMEM || r == -ENOSPC || r == -EIO);
		if (r < 0)
			return r;
	}
	return 0;
}

static int spawn_between(const char *path, struct ew_pipe **ret_to, struct ew_pipe **ret_from,
			 struct ew_process **ret_process)
{
	int r;

	EW_OWN(ew_pipe, its_input);
	EW_OWN(ew_pipe, its_output);

	r = ew_pipe_open(&its_input, ret_to);
	if (r == 0)
		r = ew_pipe_open(ret_from, &its_output);
	if (r == 0)
		r = start(path, ew_pipe_fd(its_input), ew_pipe_fd(its_output), EW_SECOND,
			  ret_process);
	return r;
}

/* What it has copied is what it was fed, and ends with the input. */
static int copy(void *unused)
{
	char part[5000];
	size_t got = 0;
	int r, status = -1;

	EW_OWN(ew_process, process);
	EW_OWN(ew_pipe, to);
	EW_OWN(ew_pipe, from);
	EW_SCOPE(feeding);

	(void)unused;
	EXPECT_EQ(ew_sim_program("/bin/copies", "print first; copy; print last; exit 7"), 0);
	EXPECT_EQ(spawn_between("/bin/copies", &to, &from, &process), 0);
	EXPECT_EQ(ew_spawn_take(&feeding, feed, NULL, &to), 0);
	EXPECT_EQ(ew_pipe_read(from, part, 6), 6);
	EXPECT(!memcmp(part, "first\n", 6));
	while ((r = ew_pipe_read(from, part,
				 COPIED_BYTES - got < sizeof(part) ? COPIED_BYTES - got
								   : sizeof(part))) > 0)
		for (int i = 0; i < r; i++)
			EXPECT_EQ(part[i], pattern(1, got++));
	EXPECT_EQ(got, COPIED_BYTES);
	EXPECT_EQ(ew_pipe_read(from, part, sizeof(part)), 5);
	EXPECT(!memcmp(part, "last\n", 5));
	EXPECT_EQ(ew_pipe_read(from, part, sizeof(part)), 0);
	EXPECT_EQ(ew_process_wait(process, EW_NEVER, &status), 0);
	EXPECT_EQ(status, W_EXITCODE(7, 0));
	return ew_scope_finish(&feeding, 0);
}

TEST(sim_child_copies_more_than_its_pipes_hold)
{
	EXPECT_EQ(simulate(copy, NULL), 0);
}

static int hang_up_on(const char *path)
{
	int status = -1;

	EW_OWN(ew_process, process);
	EW_OWN(ew_pipe, to);
	EW_OWN(ew_pipe, from);

	EXPECT_EQ(spawn_between(path, &to, &from, &process), 0);
	EXPECT_EQ(ew_pipe_close(&from), 0);
	EXPECT_EQ(ew_process_wait(process, EW_NEVER, &status), 0);
	return status;
}

static int hang_up(void *unused)
{
	(void)unused;
	EXPECT_EQ(ew_sim_program("/bin/talks", "sleep 1000; print to nobody"), 0);
	EXPECT_EQ(
		ew_sim_program("/bin/mutters", "ignore PIPE; sleep 1000; print to nobody; exit 2"),
		0);
	EXPECT_EQ(hang_up_on("/bin/talks"), SIGPIPE);
	EXPECT_EQ(hang_up_on("/bin/mutters"), W_EXITCODE(2, 0));
	return 0;
}

TEST(sim_child_that_writes_to_nobody_gets_SIGPIPE)
{
	EXPECT_EQ(simulate(hang_up, NULL), 0);
}

/* ---- programs that have children ---- */

static const char *const paths[] = { "/bin/quick", "/bin/deaf", "/bin/copies", "/bin/crashes",
				     "/bin/chatters" };

static void make_programs(void)
{
	EXPECT_EQ(ew_sim_program(paths[0], "sleep 5"), 0);
	EXPECT_EQ(ew_sim_program(paths[1], "ignore TERM; sleep 600000"), 0);
	EXPECT_EQ(ew_sim_program(paths[2], "copy; exit 1"), 0);
	EXPECT_EQ(ew_sim_program(paths[3], "print this is all; kill ABRT"), 0);
	EXPECT_EQ(ew_sim_program(paths[4], "print one; sleep 30; print two; sleep 30"), 0);
}

static int talk_to_it(const char *path)
{
	char part[100];
	int r, status;

	EW_OWN(ew_process, process);
	EW_OWN(ew_pipe, to);
	EW_OWN(ew_pipe, from);
	EW_SCOPE(talking);

	r = spawn_between(path, &to, &from, &process);
	if (r == 0)
		r = ew_spawn_take(&talking, feed, NULL, &to);
	while (r >= 0 && (r = seen(ew_pipe_read(from, part, sizeof(part)))) > 0)
		;
	if (r == 0)
		r = seen(ew_process_wait(process, EW_NEVER, &status));
	return ew_scope_finish(&talking, r);
}

static int talk_for_a_while(void *unused)
{
	int r;

	EW_SCOPE(scope, .deadline_ns = ew_after((int64_t)ew_sim_random(200 * EW_MILLISECOND)));

	(void)unused;
	r = talk_to_it(paths[ew_sim_random(5)]);
	return ew_scope_finish(&scope, r);
}

static int have_children(void *unused)
{
	unsigned i;
	int r;

	EW_SCOPE(scope, .policy = EW_POLICY_INDEPENDENT);

	(void)unused;
	make_programs();
	for (i = 0; i < 6; i++) {
		r = ew_spawn(&scope, talk_for_a_while, NULL);
		EXPECT_EQ(r, 0);
	}
	r = ew_scope_join(&scope);
	EXPECT_EQ(r, 0);
	ew_sim_calm();
	EXPECT_EQ(status_of("/bin/last", "sleep 10; exit 9"), W_EXITCODE(9, 0));
	return 0;
}

TEST(sim_children_under_all_faults)
{
	try_seeds(200, have_children, NULL, NULL);
}

static int have_two_children(void *unused)
{
	int r, status;

	EW_OWN(ew_process, deaf);

	(void)unused;
	if (ew_sim_program(paths[0], "sleep 5") < 0 ||
	    ew_sim_program(paths[1], "ignore TERM; sleep 600000") < 0)
		return -EIO;
	{
		EW_OWN(ew_process, quick);

		r = start(paths[1], -1, -1, EW_SECOND, &deaf);
		if (r == 0)
			r = start(paths[0], -1, -1, EW_SECOND, &quick);
		if (r == 0)
			r = ew_process_wait(quick, EW_NEVER, &status);
		if (r == 0)
			r = ew_process_close(&quick);
	}
	return r < 0 ? r : ew_process_close(&deaf);
}

TEST(sim_children_of_a_program_ended_at_each_point_leave_nothing)
{
	const struct ew_sim_options world = { .seed = 1 };
	struct ew_sweep_options options = { .world = &world };
	struct ew_sweep_result result = ew_sweep(&options, have_two_children, NULL);

	EXPECT(!result.failed);
	EXPECT(result.points >= 5);
}

TEST_MAIN()
