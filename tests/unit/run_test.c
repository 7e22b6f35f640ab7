/* SPDX-License-Identifier: Apache-2.0 */

/*
 * The runtime: what it returns, what it refuses, and that a shutdown ends within its budget.
 */

#include "core.h"

#include <dirent.h>
#include <endwell/offload.h>
#include <fcntl.h>
#include <sys/eventfd.h>

static int return_argument(void *argument)
{
	return *(int *)argument;
}

TEST(run_returns_the_main_tasks_result)
{
	int seven = 7, error = -EIO;

	EXPECT_EQ(run_virtual(return_argument, &seven), 7);
	EXPECT_EQ(run_virtual(return_argument, &error), -EIO);
	EXPECT_EQ(ew_run(NULL, return_argument, &seven), 7);
}

static int run_inside(void *argument)
{
	int seven = 7;

	(void)argument;
	EXPECT_EQ(ew_run(NULL, return_argument, &seven), -EDEADLK);
	return ew_yield();
}

TEST(run_inside_a_task_is_refused_and_reported)
{
	EXPECT_EQ(run_virtual(run_inside, NULL), 0);
	EXPECT(reported("ew_run() inside task", "open a scope"));
}

static int count_workers(void *argument)
{
	(void)argument;
	return (int)ew_workers_count();
}

TEST(run_without_a_number_of_workers_has_the_default)
{
	struct ew_run_options options = { .report = note_report };

	EXPECT_EQ(ew_run(&options, count_workers, NULL), (int)ew_workers_default());
	EXPECT(ew_workers_default() >= 1 && ew_workers_default() <= EW_WORKERS_MAX);
}

TEST(run_with_impossible_workers_is_refused)
{
	struct ew_run_options many = { .workers_count = EW_WORKERS_MAX + 1 };
	struct ew_run_options two_virtual = { .workers_count = 2, .virtual_time = true };
	int seven = 7;

	EXPECT_EQ(ew_run(&many, return_argument, &seven), -EINVAL);
	EXPECT_EQ(ew_run(&two_virtual, return_argument, &seven), -EINVAL);
}

static unsigned descriptors_count(void)
{
	DIR *directory = opendir("/proc/self/fd");
	unsigned count = 0;

	EXPECT(directory != NULL);
	while (readdir(directory))
		count++;
	closedir(directory);
	return count;
}

static unsigned threads_count(void)
{
	DIR *directory = opendir("/proc/self/task");
	unsigned count = 0;

	EXPECT(directory != NULL);
	while (readdir(directory))
		count++;
	closedir(directory);
	return count;
}

TEST(run_after_run_leaves_no_descriptor_and_no_thread)
{
	unsigned descriptors, threads;
	int seven = 7, i;

	EXPECT_EQ(run_workers(2, return_argument, &seven), 7);
	descriptors = descriptors_count();
	threads = threads_count();
	for (i = 0; i < 20; i++) {
		EXPECT_EQ(run_workers(2, return_argument, &seven), 7);
		EXPECT_EQ(run_virtual(return_argument, &seven), 7);
	}
	EXPECT_EQ(descriptors_count(), descriptors);
	/* A joined thread's entry may be there a moment longer. */
	while (!RUNNING_ON_VALGRIND && threads_count() > threads)
		sched_yield();
}

static int spawn_on_both(void *argument)
{
	EW_SCOPE(scope);

	EXPECT_EQ(ew_spawn(&scope, return_argument, argument, .worker = 1), 0);
	EXPECT_EQ(ew_spawn(&scope, return_argument, argument, .worker = 2), 0);
	return ew_scope_finish(&scope, 7);
}

static uint64_t address_space(void)
{
	FILE *file = fopen("/proc/self/statm", "r");
	unsigned long long pages;

	EXPECT(file != NULL);
	EXPECT_EQ(fscanf(file, "%llu", &pages), 1);
	fclose(file);
	return pages * 4096;
}

/* With a little more address space each time: threads, rings, tables and stacks are missing in turn. */
TEST(run_that_cannot_start_says_why_and_leaves_nothing)
{
	unsigned descriptors = descriptors_count(), reasons = 0;
	struct rlimit plenty, little;
	uint64_t extra;
	int seven = 7, r = 0;

	if (SANITIZED || RUNNING_ON_VALGRIND)
		SKIP("the sanitizer needs the address space");
	EXPECT_EQ(getrlimit(RLIMIT_AS, &plenty), 0);
	for (extra = 0; r != 7; extra += 1024 * 1024) {
		little = plenty;
		little.rlim_cur = address_space() + extra;
		EXPECT_EQ(setrlimit(RLIMIT_AS, &little), 0);
		r = run_workers(2, spawn_on_both, &seven);
		EXPECT_EQ(setrlimit(RLIMIT_AS, &plenty), 0);
		EXPECT(r == 7 || r == -EAGAIN || r == -ENOMEM);
		EXPECT(r == 7 || reports.count > 0);
		reasons += r != 7 && !reported("no descriptor or memory for a worker", NULL);
		EXPECT_EQ(descriptors_count(), descriptors);
	}
	EXPECT(reasons > 0);
	EXPECT_EQ(run_workers(2, spawn_on_both, &seven), 7);
}

static int see_signals(void *argument)
{
	sigset_t set;

	(void)argument;
	pthread_sigmask(SIG_SETMASK, NULL, &set);
	EXPECT(sigismember(&set, SIGPIPE));
	EXPECT(sigismember(&set, SIGUSR1));
	EXPECT(!sigismember(&set, SIGUSR2));
	return 0;
}

static int spawn_see_signals(void *argument)
{
	EW_SCOPE(scope);

	EXPECT_EQ(ew_spawn(&scope, see_signals, argument, .worker = 1), 0);
	EXPECT_EQ(ew_spawn(&scope, see_signals, argument, .worker = 2), 0);
	return ew_scope_finish(&scope, ew_scope_join(&scope));
}

TEST(run_blocks_its_signals_in_all_workers_and_restores_the_mask)
{
	struct ew_run_options options = { .workers_count = 2 };
	sigset_t signals, after;

	sigemptyset(&signals);
	sigaddset(&signals, SIGUSR1);
	options.signals = &signals;
	EXPECT_EQ(ew_run(&options, spawn_see_signals, NULL), 0);
	pthread_sigmask(SIG_SETMASK, NULL, &after);
	EXPECT(!sigismember(&after, SIGPIPE));
	EXPECT(!sigismember(&after, SIGUSR1));
}

static int sleep_long(void *argument)
{
	(void)argument;
	return ew_sleep(3600 * EW_SECOND);
}

static int shut_down_child(void *argument)
{
	(void)argument;
	ew_shutdown();
	return ew_yield();
}

static int shut_down(void *argument)
{
	EW_SCOPE(scope);

	(void)argument;
	EXPECT_EQ(ew_spawn(&scope, sleep_long, NULL), 0);
	EXPECT_EQ(ew_spawn(&scope, shut_down_child, NULL), 0);
	EXPECT_EQ(ew_scope_join(&scope), -ECANCELED);
	EXPECT_EQ(ew_cancel_reason(), EW_REASON_SHUTDOWN);
	return ew_yield();
}

TEST(shutdown_cancels_everything)
{
	EXPECT_EQ(run_virtual(shut_down, NULL), -ECANCELED);
}

static int shut_down_slowly(void *argument)
{
	struct probe *probe = argument;
	EW_GUARD(undo, probe, .close = probe_close, .abort = probe_abort,
		 .budget_ns = 3600 * EW_SECOND);

	ew_shutdown();
	return 0;
}

/* Force comes a tenth before the end, so that what can still end has the time to. */
TEST(shutdown_forces_within_its_budget)
{
	struct ew_run_options options = { .workers_count = 1,
					  .virtual_time = true,
					  .report = note_report,
					  .shutdown_budget_ns = 10 * EW_SECOND };
	struct probe probe = { .name = "slow", .takes_ns = 1000 * EW_SECOND };

	EXPECT_EQ(ew_run(&options, shut_down_slowly, &probe), 0);
	EXPECT_EQ(probe.aborted, 1);
	EXPECT(probe.ended_ns - probe.began_ns >= 9 * EW_SECOND);
	EXPECT(probe.ended_ns - probe.began_ns <= 10 * EW_SECOND);
}

static int spin_for_ever(void *argument)
{
	while (!argument)
		(void)!ew_yield();
	return 0;
}

static int shut_down_stuck(void *argument)
{
	EW_SCOPE(scope);

	(void)argument;
	EXPECT_EQ(ew_spawn(&scope, spin_for_ever, NULL), 0);
	ew_shutdown();
	return ew_scope_join(&scope);
}

static void process_stuck(void)
{
	struct ew_run_options options = { .workers_count = 1,
					  .exit_when_stuck = true,
					  .shutdown_budget_ns = 300 * EW_MILLISECOND };

	(void)!ew_run(&options, shut_down_stuck, NULL);
}

TEST(shutdown_that_does_not_end_names_what_is_stuck_and_leaves)
{
	struct ended ended = run_process(process_stuck);

	EXPECT(WIFEXITED(ended.status));
	EXPECT_EQ(WEXITSTATUS(ended.status), 70);
	EXPECT(strstr(ended.text, "did not end in the promised time"));
	EXPECT(strstr(ended.text, "task spin_for_ever (tests/unit/run_test.c:") ||
	       strstr(ended.text, "task spin_for_ever ("));
	EXPECT(strstr(ended.text, "children of a scope"));
	EXPECT(strstr(ended.text, "stuck: the run: cancelled "));
	EXPECT(strstr(ended.text, " ms ago: shutdown, by task main task ("));
	EXPECT(strstr(ended.text, "rung force") || strstr(ended.text, "rung cancel"));
}

static int announce_and_stay(void *argument)
{
	EW_SCOPE(scope);

	(void)argument;
	EXPECT_EQ(ew_spawn(&scope, spin_for_ever, NULL), 0);
	ew_end_by(ew_after(200 * EW_MILLISECOND));
	ew_end_by(EW_NEVER); /* the earlier one stands */
	EXPECT_EQ(ew_yield(), 0);
	return ew_scope_join(&scope);
}

static void process_announced(void)
{
	struct ew_run_options options = { .workers_count = 1, .exit_when_stuck = true };

	(void)!ew_run(&options, announce_and_stay, NULL);
}

TEST(end_by_names_what_is_stuck_then_and_leaves_without_a_cancel)
{
	struct ended ended = run_process(process_announced);

	EXPECT(WIFEXITED(ended.status));
	EXPECT_EQ(WEXITSTATUS(ended.status), 70);
	EXPECT(strstr(ended.text, "task spin_for_ever ("));
}

static int block_for_ever(void *argument)
{
	while (!argument)
		pause();
	return 0;
}

static int shut_down_blocked(void *argument)
{
	EW_SCOPE(scope);

	(void)argument;
	EXPECT_EQ(ew_spawn(&scope, block_for_ever, NULL), 0);
	ew_shutdown();
	return ew_scope_join(&scope);
}

static void process_blocked(void)
{
	struct ew_run_options options = { .workers_count = 1,
					  .exit_when_stuck = true,
					  .shutdown_budget_ns = 300 * EW_MILLISECOND };

	(void)!ew_run(&options, shut_down_blocked, NULL);
}

TEST(shutdown_with_a_blocked_worker_says_so_and_leaves)
{
	struct ended ended = run_process(process_blocked);

	EXPECT(WIFEXITED(ended.status));
	EXPECT_EQ(WEXITSTATUS(ended.status), 70);
	EXPECT(strstr(ended.text, "worker 1 does not answer"));
}

static void report_slowly(void *unused, const char *line)
{
	const struct timespec pause = { .tv_nsec = 200 * EW_MILLISECOND };

	(void)unused;
	nanosleep(&pause, NULL);
	fprintf(stderr, "%s\n", line);
}

static void process_blocked_whose_reports_are_slow(void)
{
	struct ew_run_options options = { .workers_count = 1,
					  .exit_when_stuck = true,
					  .report = report_slowly,
					  .shutdown_budget_ns = 300 * EW_MILLISECOND };

	(void)!ew_run(&options, shut_down_blocked, NULL);
}

/* As on a machine that has much else to do: the thread that says what is stuck comes late, but it comes. */
TEST(shutdown_does_not_leave_while_what_is_stuck_is_being_said)
{
	struct ended ended = run_process(process_blocked_whose_reports_are_slow);

	EXPECT(WIFEXITED(ended.status));
	EXPECT_EQ(WEXITSTATUS(ended.status), 70);
	EXPECT(strstr(ended.text, "worker 1 does not answer"));
}

static int read_driver_name(void *argument)
{
	snprintf(argument, 128, "%s", ew_driver_name());
	return 0;
}

TEST(driver_name_says_kernel_and_guards)
{
	char name[128];

	EXPECT_EQ(run_virtual(read_driver_name, name), 0);
	EXPECT(strstr(name, " (kernel "));
	EXPECT(strstr(name, "guards by "));
}

TEST(driver_name_says_that_the_kernel_is_pretended)
{
	char name[128];

	setenv("EW_KERNEL", "6.1", 1);
	EXPECT_EQ(run_virtual(read_driver_name, name), 0);
	EXPECT(strstr(name, "6.1 (by EW_KERNEL), stack guards by mprotect"));
}

static int offload_42(void *argument)
{
	*(pthread_t *)argument = pthread_self();
	return 42;
}

static int offload(void *argument)
{
	pthread_t thread = pthread_self();
	int result = 0;

	(void)argument;
	EXPECT_EQ(ew_offload(offload_42, &thread, &result), 0);
	EXPECT_EQ(result, 42);
	EXPECT(!pthread_equal(thread, pthread_self()));
	EXPECT_EQ(ew_outcome(), EW_OUTCOME_DONE);
	return 0;
}

TEST(offload_runs_on_another_thread_and_returns_the_result)
{
	EXPECT_EQ(run_virtual(offload, NULL), 0);
}

struct offloaded {
	int fd;
	_Atomic bool begun;
	int result;
	int r;
};

static int block_on_eventfd(void *argument)
{
	struct offloaded *offloaded = argument;
	uint64_t value;

	offloaded->begun = true;
	return read(offloaded->fd, &value, sizeof(value)) == sizeof(value) ? 5 : -EIO;
}

static int offload_block(void *argument)
{
	struct offloaded *offloaded = argument;

	offloaded->r = ew_offload(block_on_eventfd, offloaded, &offloaded->result);
	return 0;
}

/* One thread: the first call has begun and is waited for, the second is withdrawn from the queue. */
static int offload_cancelled(void *argument)
{
	struct offloaded first = { .r = 1 }, second = { .result = 77, .r = 1 };
	uint64_t one = 1;
	EW_SCOPE(scope);

	(void)argument;
	first.fd = second.fd = eventfd(0, EFD_CLOEXEC);
	EXPECT_EQ(ew_spawn(&scope, offload_block, &first), 0);
	while (!first.begun)
		EXPECT_EQ(ew_yield(), 0);
	EXPECT_EQ(ew_spawn(&scope, offload_block, &second), 0);
	EXPECT_EQ(ew_yield(), 0);
	ew_scope_cancel(&scope, EW_REASON_REQUESTED);
	while (second.r == 1)
		(void)!ew_yield();
	EXPECT_EQ(second.r, -ECANCELED);
	EXPECT_EQ(second.result, 77);
	EXPECT_EQ(first.r, 1);
	EXPECT_EQ(write(first.fd, &one, sizeof(one)), sizeof(one));
	EXPECT_EQ(ew_scope_join(&scope), 0);
	EXPECT_EQ(first.r, 0);
	EXPECT_EQ(first.result, 5);
	close(first.fd);
	return 0;
}

TEST(offload_cancelled_is_withdrawn_or_waited_for)
{
	struct ew_run_options options = { .workers_count = 1,
					  .offload_threads = 1,
					  .virtual_time = true };

	EXPECT_EQ(ew_run(&options, offload_cancelled, NULL), 0);
}

static int offload_refused(void *argument)
{
	int result = 77;
	EW_SCOPE(scope);

	(void)argument;
	ew_scope_cancel(&scope, EW_REASON_REQUESTED);
	EXPECT_EQ(ew_offload(offload_42, &result, &result), -ECANCELED);
	EXPECT_EQ(result, 77);
	EXPECT_EQ(ew_outcome(), EW_OUTCOME_NONE);
	return 0;
}

TEST(offload_in_a_cancelled_scope_is_not_started)
{
	EXPECT_EQ(run_virtual(offload_refused, NULL), 0);
}

static int raise_segv(void *argument)
{
	(void)argument;
	raise(SIGSEGV);
	return 0;
}

static void process_raise_segv(void)
{
	struct ew_run_options options = { .workers_count = 1 };

	signal(SIGSEGV, SIG_DFL);
	(void)!ew_run(&options, raise_segv, NULL);
}

/* A fault would come again by itself; a signal that somebody has sent does not. */
TEST(segv_that_is_sent_ends_the_process)
{
	struct ended ended = run_process(process_raise_segv);

	EXPECT(WIFSIGNALED(ended.status) && WTERMSIG(ended.status) == SIGSEGV);
}

static pthread_barrier_t clocks;

static int stay_in_the_future(void *argument)
{
	int r = ew_sleep(1000 * 86400 * EW_SECOND);

	(void)argument;
	pthread_barrier_wait(&clocks);
	pthread_barrier_wait(&clocks);
	return r;
}

static void *run_in_the_future(void *argument)
{
	struct ew_run_options options = { .workers_count = 1, .virtual_time = true };

	*(int *)argument = ew_run(&options, stay_in_the_future, NULL);
	return NULL;
}

static int look_at_the_clock(void *argument)
{
	int64_t before_ns = ew_now(), passed_ns;
	pthread_t thread;
	int r = 1;

	(void)argument;
	pthread_barrier_init(&clocks, NULL, 2);
	EXPECT_EQ(pthread_create(&thread, NULL, run_in_the_future, &r), 0);
	pthread_barrier_wait(&clocks);
	passed_ns = ew_now() - before_ns;
	pthread_barrier_wait(&clocks);
	EXPECT_EQ(pthread_join(thread, NULL), 0);
	pthread_barrier_destroy(&clocks);
	EXPECT_EQ(r, 0);
	EXPECT(passed_ns >= 0);
	EXPECT(passed_ns < 3600 * EW_SECOND);
	return 0;
}

TEST(run_with_virtual_time_leaves_the_clocks_of_other_runs_alone)
{
	struct ew_run_options options = { .workers_count = 1 };

	EXPECT_EQ(ew_run(&options, look_at_the_clock, NULL), 0);
	EXPECT_EQ(run_virtual(look_at_the_clock, NULL), 0);
}

/* How long the task has waited for its turn: not since the machine was started. */
TEST(shutdown_that_does_not_end_knows_how_long_a_task_has_waited)
{
	struct ended ended = run_process(process_stuck);
	const char *line = strstr(ended.text, "task spin_for_ever ("), *turn;

	EXPECT(line);
	turn = strstr(line, "its turn, ");
	EXPECT(turn);
	EXPECT(atoll(turn + strlen("its turn, ")) < 10000L * ew_test_scale());
}

/* Standard error is a pipe that is full and that nobody reads. */
static void process_stuck_and_unheard(void)
{
	int pipe_fd[2];

	alarm(10 * (unsigned)ew_test_scale());
	if (pipe2(pipe_fd, O_NONBLOCK) < 0)
		return;
	while (write(pipe_fd[1], "x", 1) == 1)
		;
	fcntl(pipe_fd[1], F_SETFL, 0);
	dup2(pipe_fd[1], STDERR_FILENO);
	process_stuck();
}

TEST(shutdown_that_does_not_end_leaves_also_when_nobody_reads_its_reports)
{
	struct ended ended;

	if (SANITIZED)
		SKIP("the thread sanitizer's _exit() writes what standard error holds");
	ended = run_process(process_stuck_and_unheard);
	EXPECT(WIFEXITED(ended.status));
	EXPECT_EQ(WEXITSTATUS(ended.status), 70);
}

/* ---- two at a time ---- */

struct stay {
	struct ew_event running, over;
	bool noted;
};

static int stay_until_over(void *argument)
{
	struct stay *stay = argument;

	ew_event_set(&stay->running);
	return ew_event_wait(&stay->over, EW_NEVER);
}

static void note_in_stay(void *argument, const char *line)
{
	(void)line;
	((struct stay *)argument)->noted = true;
}

static void *run_stay(void *argument)
{
	const struct ew_run_options options = { .workers_count = 1,
						.report = note_in_stay,
						.report_argument = argument };

	EXPECT_EQ(ew_run(&options, stay_until_over, argument), 0);
	return NULL;
}

static pthread_t start_stay(struct stay *stay)
{
	pthread_t thread;

	EXPECT_EQ(pthread_create(&thread, NULL, run_stay, stay), 0);
	EXPECT_EQ(ew_event_wait(&stay->running, EW_NEVER), 0);
	return thread;
}

static void end_stay(struct stay *stay, pthread_t thread)
{
	ew_event_set(&stay->over);
	EXPECT_EQ(pthread_join(thread, NULL), 0);
}

TEST(run_that_ends_leaves_the_reports_of_plain_threads_to_a_later_one)
{
	struct stay earlier = { .noted = false }, later = { .noted = false };
	pthread_t earlier_thread = start_stay(&earlier), later_thread = start_stay(&later);
	int seven = 7;
	EW_SCOPE(scope);

	end_stay(&earlier, earlier_thread);
	EXPECT_EQ(ew_spawn(&scope, return_argument, &seven), -ENOTSUP);
	EXPECT(later.noted);
	EXPECT(!earlier.noted);
	end_stay(&later, later_thread);
}

TEST_MAIN()
