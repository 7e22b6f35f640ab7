/* SPDX-License-Identifier: Apache-2.0 */

/*
 * The sweep itself: scenarios with one fault each, which it must find, and say where.
 */

#include "sweep.h"
#include "unit/io.h"

#include "scope/cancel.h"

#include <endwell/file.h>
#include <endwell/sim.h>
#include <endwell/socket.h>
#include <fcntl.h>
#include <sys/stat.h>

static int three_points(void *argument)
{
	int i, r = 0;

	(void)argument;
	for (i = 0; i < 3 && r == 0; i++)
		r = ew_yield();
	return r;
}

TEST(sweep_runs_once_for_each_point_and_mode)
{
	struct ew_sweep_options options = { .modes = 1u << EW_SWEEP_CANCEL | 1u << EW_SWEEP_PANIC };
	struct ew_sweep_result result = ew_sweep(&options, three_points, NULL);

	EXPECT(!result.failed);
	EXPECT_EQ(result.points, 3);
	EXPECT_EQ(result.runs, 2 + 3 + 3);
}

static int stubborn(void *argument)
{
	int i;

	(void)argument;
	for (i = 0; i < 4; i++)
		(void)!ew_yield();
	return 0;
}

TEST(sweep_forces_at_each_point_after_the_cancel)
{
	struct ew_sweep_options options = { .modes = 1u << EW_SWEEP_CANCEL_FORCE };
	struct ew_sweep_result result = ew_sweep(&options, stubborn, NULL);

	EXPECT(!result.failed);
	EXPECT_EQ(result.points, 4);
	EXPECT_EQ(result.runs, 2 + 4 + 3 + 2 + 1);
}

static unsigned order_count;
static int seen[8];

static int note_results(void *argument)
{
	int r = ew_yield();

	(void)argument;
	if (order_count < 8)
		seen[order_count++] = r;
	return r;
}

TEST(sweep_cancels_before_the_call_has_an_effect)
{
	struct ew_sweep_options options = { .modes = 1u << EW_SWEEP_CANCEL };

	EXPECT(!ew_sweep(&options, note_results, NULL).failed);
	EXPECT_EQ(order_count, 3);
	EXPECT_EQ(seen[0], 0);
	EXPECT_EQ(seen[2], -ECANCELED);
}

static int sleep_twice(void *argument)
{
	int64_t began_ns = ew_now();
	int r = ew_sleep(60 * EW_SECOND);

	(void)argument;
	if (r == -ECANCELED && ew_now() > began_ns + EW_SECOND)
		r = -EIO; /* it slept first */
	if (order_count < 8)
		seen[order_count++] = r;
	return r;
}

TEST(sweep_cancels_while_the_call_waits)
{
	struct ew_sweep_options options = { .modes = 1u << EW_SWEEP_CANCEL_WAITING };

	EXPECT(!ew_sweep(&options, sleep_twice, NULL).failed);
	EXPECT_EQ(order_count, 3);
	EXPECT_EQ(seen[2], -ECANCELED);
}

static int fails(void *argument)
{
	(void)argument;
	return -EIO;
}

/* The child hands over at 5 s, and the next call sees the cancel that came between. */
static int wait_for_event(void *argument)
{
	struct ew_event *event = argument;
	int r = ew_event_wait(event, EW_NEVER);

	if (order_count < 8)
		seen[order_count++] = r;
	if (r < 0)
		return r;
	r = ew_yield();
	if (order_count < 8)
		seen[order_count++] = r;
	return r;
}

static int set_event(void *argument)
{
	int r = ew_sleep(5 * EW_SECOND);

	ew_event_set(argument);
	return r;
}

static int wait_beside_setter(void *argument)
{
	struct ew_event event = { 0 };
	int r;
	EW_SCOPE(scope);

	(void)argument;
	r = ew_spawn(&scope, set_event, &event);
	if (r == 0)
		r = wait_for_event(&event);
	return ew_scope_finish(&scope, r);
}

static void count_from_0(void *argument)
{
	(void)argument;
	order_count = 0;
}

/* The last run is that of the last point, the yield's; the one before it that of the wait. */
static const char *check_wait_over(void *argument)
{
	bool *succeeded = argument;

	if (order_count == 2 && seen[0] == 0 && seen[1] == -ECANCELED)
		*succeeded = true;
	return NULL;
}

TEST(sweep_cancels_when_the_wait_is_over_and_the_call_has_not_returned)
{
	struct ew_sweep_options options = { .modes = 1u << EW_SWEEP_CANCEL_ENDED,
					    .prepare = count_from_0,
					    .check = check_wait_over };
	bool succeeded = false;

	EXPECT(!ew_sweep(&options, wait_beside_setter, &succeeded).failed);
	EXPECT(succeeded);
}

static int allocate_three(void *argument)
{
	char *blocks[3];
	int i, r = ew_yield();

	(void)argument;
	for (i = 0; i < 3; i++)
		blocks[i] = NULL;
	for (i = 0; r == 0 && i < 3; i++) {
		blocks[i] = malloc(64);
		if (!blocks[i])
			r = -ENOMEM;
	}
	for (i = 0; i < 3; i++)
		free(blocks[i]);
	if (order_count < 8)
		seen[order_count++] = r;
	return r;
}

TEST(sweep_fails_each_allocation)
{
	struct ew_sweep_options options = { .modes = 1u << EW_SWEEP_MEMORY_ONCE };
	struct ew_sweep_result result = ew_sweep(&options, allocate_three, NULL);

	if (SANITIZED)
		SKIP("the allocator is the sanitizer's");
	EXPECT(!result.failed);
	EXPECT_EQ(result.allocations, 3);
	EXPECT_EQ(result.runs, 2 + 3);
	EXPECT_EQ(order_count, 5);
	EXPECT_EQ(seen[1], 0);
	EXPECT_EQ(seen[2], -ENOMEM);
	EXPECT_EQ(seen[4], -ENOMEM);
}

/* The first failure is survived, by a second try. */
static int ask_twice(void *argument)
{
	char *block = malloc(64);
	int r = block ? 0 : -ENOMEM;

	(void)argument;
	if (!block)
		block = malloc(32);
	if (!block)
		r = -EIO;
	free(block);
	if (order_count < 8)
		seen[order_count++] = r;
	return r == 0 ? ew_yield() : r;
}

TEST(sweep_fails_all_allocations_from_one_on)
{
	struct ew_sweep_options options = { .modes = 1u << EW_SWEEP_MEMORY_ONCE |
						     1u << EW_SWEEP_MEMORY_GONE };

	if (SANITIZED)
		SKIP("the allocator is the sanitizer's");
	EXPECT(!ew_sweep(&options, ask_twice, NULL).failed);
	EXPECT_EQ(order_count, 4);
	EXPECT_EQ(seen[2], -ENOMEM);
	EXPECT_EQ(seen[3], -EIO);
}

static int spared(void *argument)
{
	char *block = malloc(64);

	(void)argument;
	EXPECT(block);
	free(block);
	return ew_yield();
}

static int spared_with_a_child(void *argument)
{
	int r;

	EW_SCOPE(scope);

	(void)argument;
	ew_sweep_spare();
	EXPECT_EQ(ew_yield(), 0);
	r = ew_spawn(&scope, spared, NULL);
	EXPECT_EQ(r, 0);
	r = spared(NULL);
	return ew_scope_finish(&scope, r);
}

static int beside_one_that_is_spared(void *argument)
{
	int r;

	EW_SCOPE(scope, .policy = EW_POLICY_INDEPENDENT);

	(void)argument;
	r = ew_spawn(&scope, spared_with_a_child, NULL);
	if (r == 0)
		r = ew_scope_join(&scope);
	return r == 0 ? allocate_three(NULL) : r;
}

TEST(sweep_fails_no_allocation_of_a_task_that_is_spared)
{
	struct ew_sweep_options options = { .modes = 1u << EW_SWEEP_MEMORY_ONCE |
						     1u << EW_SWEEP_MEMORY_GONE };
	struct ew_sweep_result result = ew_sweep(&options, beside_one_that_is_spared, NULL);

	if (SANITIZED)
		SKIP("the allocator is the sanitizer's");
	EXPECT(!result.failed);
	EXPECT_EQ(result.points, 4);
	EXPECT_EQ(result.allocations, 3);
	EXPECT_EQ(result.runs, 2 + 3 + 3);
}

static int leak_block(void *argument)
{
	char **kept = argument;
	int r;

	*kept = malloc(64);
	r = ew_yield();
	if (r == 0)
		free(*kept);
	return r;
}

TEST(sweep_finds_a_block_of_memory_left)
{
	char *kept = NULL;
	struct ew_sweep_result result = ew_sweep(NULL, leak_block, &kept);

	if (SANITIZED)
		SKIP("the allocator is the sanitizer's");
	EXPECT(result.failed);
	EXPECT_EQ(result.mode, EW_SWEEP_CANCEL);
	EXPECT_STR(result.what, "1 blocks of memory are left");
}

TEST(sweep_of_a_scenario_that_fails_undisturbed_fails)
{
	struct ew_sweep_result result = ew_sweep(NULL, fails, NULL);

	EXPECT(result.failed);
	EXPECT_EQ(result.mode, EW_SWEEP_NONE);
	EXPECT_EQ(result.runs, 1);
	EXPECT(strstr(result.what, "error 5"));
}

static int leak_descriptor(void *argument)
{
	int fd = open("/dev/null", O_RDONLY | O_CLOEXEC), r = ew_yield();

	(void)argument;
	if (r == 0)
		r = ew_yield();
	if (r < 0)
		return r; /* forgotten here */
	close(fd);
	return 0;
}

TEST(sweep_finds_a_descriptor_left_open)
{
	struct ew_sweep_result result = ew_sweep(NULL, leak_descriptor, NULL);

	EXPECT(result.failed);
	EXPECT_EQ(result.mode, EW_SWEEP_CANCEL);
	EXPECT_EQ(result.index, 0);
	EXPECT(strstr(result.what, "/dev/null"));
}

static int close_too_much(void *argument)
{
	int *fd = argument, r = ew_yield();

	if (r < 0)
		close(*fd);
	return r;
}

TEST(sweep_finds_a_descriptor_closed_that_was_not_the_scenarios)
{
	int fd = open("/dev/null", O_RDONLY | O_CLOEXEC);
	struct ew_sweep_result result = ew_sweep(NULL, close_too_much, &fd);

	EXPECT(result.failed);
	EXPECT(strstr(result.what, "is closed"));
}

static int leak_resource(void *argument)
{
	static struct thing thing;
	struct thing *made = THING_OPEN(&thing, "lamp");
	int r;

	(void)argument;
	r = ew_yield();
	return r < 0 ? r : ew_close(&made);
}

TEST(sweep_finds_a_resource_without_owner)
{
	struct ew_sweep_result result = ew_sweep(NULL, leak_resource, NULL);

	EXPECT(result.failed);
	EXPECT_EQ(result.mode, EW_SWEEP_CANCEL);
	EXPECT(strstr(result.what, "lamp made at "));
	EXPECT(strstr(result.what, "sweep_test.c"));
	EXPECT(strstr(result.site, "task scenario"));
}

/* Right when cancelled; only a panic skips what is not registered. */
static int cleans_by_hand(void *argument)
{
	int fd = open("/dev/null", O_RDONLY | O_CLOEXEC), r = ew_yield();

	(void)argument;
	close(fd);
	return r;
}

TEST(sweep_finds_what_only_a_panic_leaves)
{
	struct ew_sweep_result result = ew_sweep(NULL, cleans_by_hand, NULL);

	EXPECT(result.failed);
	EXPECT_EQ(result.mode, EW_SWEEP_PANIC);
}

static int leaks_in_ending(void *argument)
{
	int fd = open("/dev/null", O_RDONLY | O_CLOEXEC), r = ew_sleep(EW_SECOND);

	(void)argument;
	if (r < 0)
		return r;
	close(fd);
	return 0;
}

static int with_leaking_ending(void *argument)
{
	EW_GUARD(undo, argument, .close = leaks_in_ending, .abort = probe_abort);

	return ew_yield();
}

TEST(sweep_finds_what_only_a_forced_ending_leaves)
{
	struct probe probe = { .name = "guard" };
	struct ew_sweep_result result = ew_sweep(NULL, with_leaking_ending, &probe);

	EXPECT(result.failed);
	EXPECT(result.mode == EW_SWEEP_FORCE || result.mode == EW_SWEEP_PANIC ||
	       result.mode == EW_SWEEP_CANCEL_FORCE);
	EXPECT(strstr(result.site, "in an ending"));
}

static int leave_process(void *argument)
{
	pid_t child = fork();
	int r;

	(void)argument;
	if (child == 0) {
		pause();
		_exit(0);
	}
	r = ew_yield();
	if (r == 0) {
		kill(child, SIGKILL);
		waitpid(child, NULL, 0);
	}
	return r;
}

TEST(sweep_finds_a_child_process)
{
	struct ew_sweep_result result;

	if (SANITIZED || RUNNING_ON_VALGRIND)
		SKIP("a fork inside a runtime confuses the sanitizers");
	result = ew_sweep(NULL, leave_process, NULL);
	EXPECT(result.failed);
	EXPECT(strstr(result.what, "child process"));
}

static int different_each_time(void *argument)
{
	static unsigned run;
	int r = ew_yield();

	(void)argument;
	if (run++ < 2 && r == 0)
		r = ew_yield();
	return r;
}

TEST(sweep_of_a_scenario_that_is_not_deterministic_fails)
{
	struct ew_sweep_options options = { .modes = 1u << EW_SWEEP_CANCEL };
	struct ew_sweep_result result = ew_sweep(&options, different_each_time, NULL);

	EXPECT(result.failed);
	EXPECT_EQ(result.index, 1);
	EXPECT(strstr(result.what, "not deterministic"));
}

static const char *complain(void *argument)
{
	return order_count ? argument : NULL;
}

TEST(sweep_passes_the_checks_complaint_on)
{
	struct ew_sweep_options options = { .check = complain };
	char complaint[] = "the milk is sour";
	struct ew_sweep_result result = ew_sweep(&options, note_results, complaint);

	EXPECT(result.failed);
	EXPECT_STR(result.what, complaint);
	EXPECT_EQ(result.runs, 1);
}

static int child_of_scenario(void *argument)
{
	(void)argument;
	return ew_yield();
}

static int with_children(void *argument)
{
	int r;
	EW_SCOPE(scope);

	r = ew_spawn(&scope, child_of_scenario, argument);
	if (r == 0)
		r = ew_spawn(&scope, child_of_scenario, argument);
	return ew_scope_finish(&scope, r);
}

TEST(sweep_counts_the_points_of_children)
{
	struct ew_sweep_result result = ew_sweep(NULL, with_children, NULL);

	EXPECT(!result.failed);
	EXPECT_EQ(result.points, 2);
}

/* Virtual time cannot help: nothing is armed that would end this wait. */
static int hang(void *argument)
{
	int fds[2], r = ew_yield();
	char byte;

	(void)argument;
	if (r == 0)
		return 0;
	if (pipe(fds) < 0)
		return -errno;
	return (int)read(fds[0], &byte, 1);
}

static void process_hang(void)
{
	struct ew_sweep_options options = { .run_seconds_max = 1 };

	(void)ew_sweep(&options, hang, NULL);
}

TEST(sweep_names_the_run_that_does_not_end)
{
	struct ended ended = run_process(process_hang);

	EXPECT(WIFSIGNALED(ended.status) && WTERMSIG(ended.status) == SIGABRT);
	EXPECT(strstr(ended.text, "did not end within 1 s: cancel at point 0"));
}

/* ---- operations that fail ---- */

static int results[64];
static unsigned results_count;

static void note_result(int r)
{
	if (results_count < 64)
		results[results_count++] = r;
}

static bool was_noted(int r)
{
	unsigned i;

	for (i = 0; i < results_count; i++)
		if (results[i] == r)
			return true;
	return false;
}

/* Two bytes are there. */
static int recv_two(void *argument)
{
	char bytes[2];
	int r;
	EW_OWN(ew_socket, here);
	EW_OWN(ew_socket, there);

	(void)argument;
	r = ew_socket_pair(&here, &there);
	if (r == 0)
		r = ew_socket_send(there, "ab", 2);
	if (r < 0)
		return r;
	r = ew_socket_recv(here, bytes, 2);
	note_result(r);
	if (r == 1)
		EXPECT_EQ(ew_outcome(), EW_OUTCOME_PARTIAL);
	return r;
}

static void expect_each_way(const struct ew_sim_options *world)
{
	struct ew_sweep_options options = { .modes = 1u << EW_SWEEP_OPERATION, .world = world };
	struct ew_sweep_result result = ew_sweep(&options, recv_two, NULL);

	EXPECT_STR(result.what, "");
	EXPECT(!result.failed);
	EXPECT_EQ(result.operations, 2);
	/* Each: five errors, three that are hidden, a short count. */
	EXPECT_EQ(result.failed_operations, 2 * 9);
	EXPECT(was_noted(-ENOMEM) && was_noted(-ENOBUFS) && was_noted(-ECONNRESET) &&
	       was_noted(-ETIMEDOUT));
	EXPECT(was_noted(1));
}

TEST(sweep_ends_each_operation_in_each_way_the_kernel_has)
{
	expect_each_way(NULL);
}

TEST(sweep_ends_each_operation_in_each_way_in_a_simulated_world)
{
	const struct ew_sim_options world = { .seed = 1 };

	expect_each_way(&world);
}

/* What interrupts a call inside the kernel, and a cancel that nobody asked for, are tried again. */
TEST(sweep_interrupted_operations_are_made_again_and_not_shown)
{
	struct ew_sweep_options options = { .modes = 1u << EW_SWEEP_OPERATION };
	unsigned i;

	EXPECT_STR(ew_sweep(&options, recv_two, NULL).what, "");
	for (i = 0; i < results_count; i++)
		EXPECT(results[i] > -512 && results[i] != -EINTR && results[i] != -EAGAIN &&
		       results[i] != -ECANCELED);
}

static struct sockaddr_in listening;

static int connect_once(void *argument)
{
	int r;
	EW_OWN(ew_socket, socket);

	(void)argument;
	r = ew_socket_connect((const struct sockaddr *)&listening, sizeof(listening), &socket);
	note_result(r);
	return r;
}

/* A connect that was interrupted is made again by another socket: the kernel may go on with the first. */
TEST(sweep_interrupted_connects_are_made_again_and_not_shown)
{
	struct ew_sweep_options options = { .modes = 1u << EW_SWEEP_OPERATION };
	int fd = plain_listener(&listening);
	struct ew_sweep_result result = ew_sweep(&options, connect_once, NULL);

	close(fd);
	EXPECT_STR(result.what, "");
	/* Five errors, three that are hidden. */
	EXPECT_EQ(result.failed_operations, 8);
	EXPECT(was_noted(-ECONNREFUSED) && was_noted(-ECONNRESET));
	EXPECT(!was_noted(-EAGAIN) && !was_noted(-EINTR));
}

static int stat_twice(void *argument)
{
	struct stat stat;
	int r;
	EW_OWN(ew_file, file);

	(void)argument;
	r = ew_file_open(NULL, "/dev/null", O_RDONLY, 0, &file);
	if (r == 0)
		r = ew_file_stat(file, &stat);
	note_result(r);
	return r;
}

TEST(sweep_fails_calls_to_filesystems)
{
	struct ew_sweep_options options = { .modes = 1u << EW_SWEEP_OPERATION };
	struct ew_sweep_result result = ew_sweep(&options, stat_twice, NULL);

	EXPECT_STR(result.what, "");
	EXPECT_EQ(result.operations, 2);
	EXPECT_EQ(result.failed_operations, 2 * 6);
	EXPECT(was_noted(-EIO) && was_noted(-ENOSPC) && was_noted(-EMFILE));
}

static int says_cancelled(void *argument)
{
	int r = recv_two(argument);

	return r < 0 ? -ECANCELED : r;
}

TEST(sweep_finds_a_cancel_that_nobody_asked_for)
{
	struct ew_sweep_options options = { .modes = 1u << EW_SWEEP_OPERATION };
	struct ew_sweep_result result = ew_sweep(&options, says_cancelled, NULL);

	EXPECT(result.failed);
	EXPECT_EQ(result.mode, EW_SWEEP_OPERATION);
	EXPECT_STR(result.what, "nobody cancelled, and the scenario says so");
	EXPECT(strstr(result.site, "ended with error"));
}

/* ---- the contract ---- */

struct lent {
	char bytes[2];
	struct ew_socket *there;
};

/* Somebody writes to memory that the kernel was lent, and is still there when that has it back. */
static int touch(void *argument)
{
	struct lent *lent = argument;
	int r = ew_yield();

	if (r < 0)
		return r;
	lent->bytes[1] = 'x';
	return ew_socket_send(lent->there, "a", 1);
}

static int recv_into_touched_memory(void *argument)
{
	struct lent lent;
	int r;
	EW_OWN(ew_socket, here);
	EW_OWN(ew_socket, there);
	EW_SCOPE(scope);

	(void)argument;
	r = ew_socket_pair(&here, &there);
	lent.there = there;
	if (r == 0)
		r = ew_spawn(&scope, touch, &lent);
	if (r == 0)
		r = ew_socket_recv(here, lent.bytes, 2);
	return ew_scope_finish(&scope, r);
}

TEST(sweep_finds_a_cancelled_operation_that_had_an_effect)
{
	struct ew_sweep_result result = ew_sweep(NULL, recv_into_touched_memory, NULL);

	EXPECT(result.failed);
	EXPECT_STR(result.what,
		   "a recv says that it was cancelled, and has brought something: result -125");
}

static int forget_the_cancel(void *argument)
{
	int r = ew_yield();

	(void)argument;
	ew__current->refuse &= (uint8_t)~EW__REFUSE_CANCEL;
	return r < 0 ? ew_yield() : r;
}

TEST(sweep_finds_a_cancel_that_is_not_reported_again)
{
	struct ew_sweep_result result = ew_sweep(NULL, forget_the_cancel, NULL);

	EXPECT(result.failed);
	EXPECT(strstr(result.what, "is cancelled, and its call is not refused"));
}

/* ---- pairs ---- */

TEST(sweep_makes_all_pairs_if_they_are_few)
{
	struct ew_sweep_options options = { .modes = 1u << EW_SWEEP_CANCEL_AGAIN };
	struct ew_sweep_result result = ew_sweep(&options, stubborn, NULL);

	EXPECT(!result.failed);
	EXPECT_EQ(result.pairs, 3 + 2 + 1);
	EXPECT_EQ(result.pairs_there_are, 3 + 2 + 1);
	EXPECT_EQ(result.runs, 2 + 4 + 3 + 2 + 1);
}

TEST(sweep_makes_a_selection_if_they_are_many)
{
	struct ew_sweep_options options = { .modes = 1u << EW_SWEEP_CANCEL_FORCE, .pairs_max = 4 };
	struct ew_sweep_result result = ew_sweep(&options, stubborn, NULL);

	EXPECT(!result.failed);
	EXPECT_EQ(result.pairs, 4);
	EXPECT_EQ(result.pairs_there_are, 6);
	EXPECT_EQ(result.seed, 1);
	options.pairs_max = 1;
	EXPECT_EQ(ew_sweep(&options, stubborn, NULL).pairs, 1);
}

/* The second cancel comes from further out, and keeps nobody from an ending. */
static int end_in_two_steps(void *argument)
{
	struct probe *probe = argument;
	int r = ew_sleep(EW_SECOND);

	if (r == 0)
		r = ew_sleep(EW_SECOND);
	note_result(r);
	probe->closed += r == 0;
	return r;
}

static void end_at_once(void *argument)
{
	((struct probe *)argument)->aborted++;
}

static int guarded_by_hand(void *argument)
{
	struct probe probe = { 0 };
	EW_GUARD(undo, &probe, .close = end_in_two_steps, .abort = end_at_once);

	(void)argument;
	return ew_yield();
}

TEST(sweep_cancels_twice)
{
	struct ew_sweep_options options = { .modes = 1u << EW_SWEEP_CANCEL_AGAIN };
	struct ew_sweep_result result = ew_sweep(&options, guarded_by_hand, NULL);

	EXPECT_STR(result.what, "");
	EXPECT_EQ(result.pairs, 2 + 1);
	EXPECT(!was_noted(-ECANCELED));
}

/* Right whatever comes alone: only a cancel and then a name that cannot be removed leave it. */
static const char *name_in_the_way;

static int remove_once(void *argument)
{
	return ew_file_unlink(argument, name_in_the_way, 0);
}

static void remove_now(void *argument)
{
	(void)!unlinkat(ew_file_fd(argument), name_in_the_way, 0);
}

static int leave_name(void *argument)
{
	int r;
	EW_OWN(ew_file, directory);

	r = ew_file_open(NULL, argument, O_RDONLY | O_DIRECTORY, 0, &directory);
	if (r < 0)
		return r;
	EW_OWN(ew_file, file);
	EW_GUARD(undo, directory, .close = remove_once, .abort = remove_now);
	r = ew_file_open(directory, name_in_the_way, O_CREAT | O_WRONLY, 0600, &file);
	if (r == 0)
		r = ew_yield();
	if (r < 0)
		return r;
	remove_now(directory); /* cannot fail for long */
	ew_guard_disarm(&undo);
	return ew_file_close(&file);
}

static const char *check_name(void *argument)
{
	char path[128];

	snprintf(path, sizeof(path), "%s/%s", (const char *)argument, name_in_the_way);
	return unlink(path) == 0 ? "the name is left" : NULL;
}

TEST(sweep_finds_what_only_a_pair_leaves)
{
	char path[] = "/tmp/endwell-sweep-XXXXXX";
	struct ew_sweep_options options = { .check = check_name };
	struct ew_sweep_result result;

	name_in_the_way = "name";
	EXPECT(mkdtemp(path));
	result = ew_sweep(&options, leave_name, path);
	rmdir(path);
	EXPECT_STR(result.what, "the name is left");
	EXPECT_EQ(result.mode, EW_SWEEP_CANCEL_OPERATION);
	EXPECT(strstr(result.site, "failed with error"));
}

static int end_with_memory(void *argument)
{
	void *volatile block = malloc(64); /* or the compiler leaves it out */

	note_result(block ? 0 : -ENOMEM);
	if (!block)
		return -ENOMEM; /* forgotten, since this is not what the ladder said */
	free(block);
	return end_in_two_steps(argument);
}

static int guarded_with_memory(void *argument)
{
	EW_GUARD(undo, open_probe(0), .close = end_with_memory, .abort = end_at_once);

	(void)argument;
	return ew_yield();
}

TEST(sweep_finds_an_ending_that_needs_memory)
{
	struct ew_sweep_options options = { .modes = 1u << EW_SWEEP_CANCEL_MEMORY,
					    .prepare = open_book,
					    .check = check_book };
	struct ew_sweep_result result;

	if (SANITIZED)
		SKIP("the allocator is the sanitizer's");
	result = ew_sweep(&options, guarded_with_memory, NULL);
	EXPECT(result.failed);
	EXPECT_EQ(result.mode, EW_SWEEP_CANCEL_MEMORY);
	EXPECT_EQ(result.second, 0);
	EXPECT(was_noted(-ENOMEM));
}

/* ---- hardship ---- */

static unsigned troubles;

static void note_trouble(void *argument)
{
	(void)argument;
	troubles++;
}

static int ask_for_a_descriptor(void *argument)
{
	int fd = dup(STDERR_FILENO);
	void *volatile block;

	note_result(fd < 0 ? -errno : 0);
	block = malloc(64);
	note_result(block ? 0 : -ENOMEM);
	if (fd >= 0)
		close(fd);
	free(block);
	return end_in_two_steps(argument);
}

static int guarded_in_hardship(void *argument)
{
	EW_GUARD(undo, open_probe(0), .close = ask_for_a_descriptor, .abort = end_at_once);

	(void)argument;
	return ew_yield();
}

TEST(sweep_hardship_takes_memory_and_descriptors_and_gives_them_back)
{
	struct ew_sweep_options options = { .modes = 1u << EW_SWEEP_HARDSHIP,
					    .prepare = open_book,
					    .check = check_book,
					    .hardship = note_trouble };
	struct rlimit before, after;

	EXPECT_EQ(getrlimit(RLIMIT_NOFILE, &before), 0);
	EXPECT_STR(ew_sweep(&options, guarded_in_hardship, NULL).what, "");
	EXPECT(was_noted(-EMFILE));
	EXPECT(was_noted(-ENOMEM) || SANITIZED);
	EXPECT_EQ(troubles, 3);
	EXPECT_EQ(getrlimit(RLIMIT_NOFILE, &after), 0);
	EXPECT_EQ(before.rlim_cur, after.rlim_cur);
}

static int sweep_inside(void *argument)
{
	struct ew_sweep_result *result = argument;

	*result = ew_sweep(NULL, three_points, NULL);
	return 0;
}

TEST(sweep_inside_a_task_fails)
{
	struct ew_sweep_result result = { 0 };

	EXPECT_EQ(run_virtual(sweep_inside, &result), 0);
	EXPECT(result.failed);
}

TEST(sweep_mode_has_a_name)
{
	EXPECT_STR(ew_sweep_mode_name(EW_SWEEP_NONE), "none");
	EXPECT_STR(ew_sweep_mode_name(EW_SWEEP_CANCEL_FORCE), "cancel, then force");
	EXPECT_STR(ew_sweep_mode_name((enum ew_sweep_mode)99), "unknown");
}

TEST_MAIN()
