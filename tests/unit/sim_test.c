/* SPDX-License-Identifier: Apache-2.0 */

/*
 * The simulated driver: whole programs in one thread, by a seed.
 */

#include "driver/sim/sim.h"
#include "driver/system.h"
#include "io.h"
#include "task/worker.h"

#include <endwell/endwell.h>
#include <endwell/sim.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/mman.h>
#include <sys/param.h>

static struct ew__driver *driver;

static struct ew_sim_result run_sim(uint64_t seed, unsigned faults, ew_task_fn *fn, void *argument)
{
	const struct ew_sim_options options = { .seed = seed,
						.faults = faults,
						.report = note_report };
	struct ew_sim_result result;

	reports.count = 0;
	EXPECT_EQ(ew_sim_run(&options, fn, argument, &result), 0);
	return result;
}

static int echo(void *argument, void *place)
{
	struct ew_socket **socket = place;
	char buffer[64];
	int r;

	(void)argument;
	while ((r = ew_socket_recv(*socket, buffer, sizeof(buffer))) > 0) {
		r = ew_socket_send(*socket, buffer, (size_t)r);
		if (r < 0)
			return r;
	}
	return r;
}

static int converse_times(unsigned times)
{
	char buffer[64] = "";
	unsigned i;
	int r;

	EW_SCOPE(scope);
	EW_OWN(ew_socket, ours);
	EW_OWN(ew_socket, theirs);

	r = ew_socket_pair(&ours, &theirs);
	EXPECT_EQ(r, 0);
	r = ew_spawn_take(&scope, echo, NULL, &theirs);
	EXPECT_EQ(r, 0);
	for (i = 0; i < times; i++) {
		r = ew_socket_send(ours, "hello", 5);
		EXPECT_EQ(r, 0);
		for (int got = 0; got < 5; got += r) {
			r = ew_socket_recv(ours, buffer + got, sizeof(buffer));
			EXPECT(r > 0);
		}
		EXPECT_STR(buffer, "hello");
		EXPECT_EQ(ew_sleep((3600 * EW_SECOND)), 0);
	}
	EXPECT_EQ(ew_socket_shutdown(ours, SHUT_WR), 0);
	return ew_scope_finish(&scope, 0);
}

static int converse(void *argument)
{
	(void)argument;
	return converse_times(100);
}

/* A hundred hours, twice. */
TEST(sim_same_seed_same_trace_other_seed_other_trace)
{
	struct ew_sim_result first = run_sim(7, 0, converse, NULL);
	struct ew_sim_result second = run_sim(7, 0, converse, NULL);
	struct ew_sim_result other = run_sim(8, 0, converse, NULL);

	EXPECT(first.operations >= 400);
	EXPECT(first.virtual_ns >= 100 * (3600 * EW_SECOND));
	EXPECT(first.trace_hash == second.trace_hash);
	EXPECT(first.trace_hash != other.trace_hash);
	EXPECT_EQ(first.virtual_ns, second.virtual_ns);
}

/* ---- chance ---- */

static void open_world(void)
{
	char why[256];

	EXPECT_EQ(ew__driver_open(&driver, &ew__driver_sim, why, sizeof(why)), 0);
}

/* What one concern draws, another does not miss. */
TEST(sim_concerns_draw_from_streams_of_their_own)
{
	uint64_t delays[10];
	int i;

	open_world();
	for (i = 0; i < 10; i++)
		delays[i] = ew__sim_draw(ew__sim, EW__SIM_DELAYS, UINT64_MAX);
	ew__driver_close(driver);
	open_world();
	for (i = 0; i < 10; i++) {
		ew__sim_draw(ew__sim, EW__SIM_FAULTS, UINT64_MAX);
		EXPECT(ew__sim_draw(ew__sim, EW__SIM_DELAYS, UINT64_MAX) == delays[i]);
		ew__sim_draw(ew__sim, EW__SIM_ORDER, UINT64_MAX);
	}
	ew__driver_close(driver);
}

/* ---- a clock that leaps ---- */

#define LEAPING_SEEDS 20

static int64_t longest_step_ns, longest_calm_step_ns;

static void watch_steps(int64_t *longest_ns)
{
	int64_t before_ns, step_ns;
	unsigned i;

	for (i = 0; i < 100; i++) {
		before_ns = ew_now();
		EXPECT_EQ(ew_sleep(EW_MILLISECOND), 0);
		step_ns = ew_now() - before_ns;
		EXPECT(step_ns >= EW_MILLISECOND);
		*longest_ns = MAX(*longest_ns, step_ns);
	}
}

static int watch_the_clock(void *unused)
{
	(void)unused;
	watch_steps(&longest_step_ns);
	ew_sim_calm();
	watch_steps(&longest_calm_step_ns);
	return 0;
}

TEST(sim_clock_leaps_ahead_by_lot_and_not_when_it_is_calm)
{
	struct ew_sim_result first, second;
	uint64_t seed;

	for (seed = 1; seed <= LEAPING_SEEDS; seed++) {
		first = run_sim(seed, EW_SIM_LEAPS, watch_the_clock, NULL);
		second = run_sim(seed, EW_SIM_LEAPS, watch_the_clock, NULL);
		EXPECT(first.trace_hash == second.trace_hash);
		EXPECT_EQ(first.virtual_ns, second.virtual_ns);
	}
	EXPECT(longest_step_ns > 60 * EW_SECOND);
	EXPECT(longest_calm_step_ns < 5 * EW_MILLISECOND);
}

/* ---- trials ---- */

static int fail_for_some_seeds(void *argument)
{
	(void)argument;
	return ew_sim_random(50) == 0 ? -EIO : 0;
}

TEST(sim_seed_that_fails_is_replayed_by_its_number)
{
	struct ew_sim_verdict first, again;
	char number[32], expected[64];

	unsetenv("EW_SIM_SEED");
	first = ew_sim_try(NULL, fail_for_some_seeds, NULL);
	EXPECT(first.failed);
	EXPECT_STR(first.what, "the scenario returned error 5");
	EXPECT_EQ(first.runs, 2 * (first.seed - 1) + 1);
	snprintf(number, sizeof(number), "%" PRIu64, first.seed);
	snprintf(expected, sizeof(expected), "EW_SIM_SEED=%s ", number);
	EXPECT(!strncmp(first.replay, expected, strlen(expected)));
	EXPECT(strstr(first.replay, "sim_test"));
	EXPECT_EQ(setenv("EW_SIM_SEED", number, 1), 0);
	again = ew_sim_try(NULL, fail_for_some_seeds, NULL);
	EXPECT(again.failed);
	EXPECT_EQ(again.runs, 1);
	EXPECT_EQ(again.seed, first.seed);
}

static int leave_the_process(void *argument)
{
	(void)argument;
	if (ew_sim_random(20) == 0)
		_exit(42);
	return 0;
}

static void try_to_leave(void)
{
	(void)ew_sim_try(NULL, leave_the_process, NULL);
}

static int crash(void *argument)
{
	(void)argument;
	abort();
}

static void try_to_crash(void)
{
	struct ew_sim_verdict verdict = ew_sim_try(NULL, crash, NULL);

	_exit(verdict.failed ? 7 : 0);
}

TEST(sim_seed_whose_run_ends_the_process_is_printed)
{
	struct ended ended;

	unsetenv("EW_SIM_SEED");
	ended = run_process(try_to_crash);
	EXPECT_EQ(WEXITSTATUS(ended.status), 7);
	EXPECT(strstr(ended.text, "seed 1: its run was ended by signal 6"));
	EXPECT(strstr(ended.text, "again: EW_SIM_SEED=1 "));
	EXPECT_EQ(WEXITSTATUS(run_process(try_to_leave).status), 42);
}

static unsigned runs_count;

static int vary(void *argument)
{
	(void)argument;
	runs_count++;
	return converse_times(runs_count);
}

TEST(sim_scenario_that_varies_fails)
{
	struct ew_sim_verdict verdict;

	unsetenv("EW_SIM_SEED"); /* alone a seed is run once */
	verdict = ew_sim_try(NULL, vary, NULL);
	EXPECT(verdict.failed);
	EXPECT_EQ(verdict.runs, 2);
	EXPECT(strstr(verdict.what, "were not the same"));
}

static int leave_a_socket(void *argument)
{
	static struct ew_socket *one, *other;

	(void)argument;
	one = other = NULL;
	return ew_socket_pair(&one, &other);
}

TEST(sim_scenario_that_leaves_a_resource_fails)
{
	struct ew_sim_verdict verdict = ew_sim_try(NULL, leave_a_socket, NULL);

	EXPECT(verdict.failed);
	EXPECT(strstr(verdict.what, "socket made at"));
}

/* ---- the end of what can happen ---- */

static int wait_for_nobody(void *argument)
{
	char byte;
	int r;

	EW_OWN(ew_socket, ours);
	EW_OWN(ew_socket, theirs);

	(void)argument;
	r = ew_socket_pair(&ours, &theirs);
	return r < 0 ? r : ew_socket_recv(ours, &byte, 1);
}

static void run_into_a_standstill(void)
{
	(void)ew_sim_run(&(struct ew_sim_options){ .seed = 12 }, wait_for_nobody, NULL, NULL);
}

TEST(sim_standstill_is_named_with_its_seed_and_aborts)
{
	struct ended ended = run_process(run_into_a_standstill);

	EXPECT(WIFSIGNALED(ended.status));
	EXPECT_EQ(WTERMSIG(ended.status), SIGABRT);
	EXPECT(strstr(ended.text, "nothing can happen any more; EW_SIM_SEED=12"));
	EXPECT(strstr(ended.text, "waits for bytes from a peer"));
}

static void note_end(struct ew__op *op)
{
	(void)op;
}

static int close_too_early(void *argument)
{
	struct ew__op op = { .code = EW__OP_POLL, .flags = POLLIN };
	int fds[2];

	(void)argument;
	EXPECT_EQ(ew__system_socket_pair(fds), 0);
	op.fd = fds[0];
	ew__driver_submit(ew__worker->driver, &op);
	EXPECT_EQ(ew_yield(), 0);
	EXPECT_EQ(ew_yield(), 0);
	return ew__system_close(fds[0]);
}

static void run_into_a_close(void)
{
	(void)ew_sim_run(NULL, close_too_early, NULL, NULL);
}

TEST(sim_close_of_a_descriptor_with_an_operation_aborts)
{
	struct ended ended = run_process(run_into_a_close);

	EXPECT(WIFSIGNALED(ended.status));
	EXPECT(strstr(ended.text, "operations_count == 0"));
}

/* The other descriptor keeps the object; what its own close forgets nobody else's does. */
static int close_one_of_two(void *argument)
{
	struct ew__op op = { .code = EW__OP_POLL, .flags = POLLIN };
	unsigned of_the_operation = *(const unsigned *)argument;
	int fds[2], both[2];

	EXPECT_EQ(ew__system_socket_pair(fds), 0);
	both[0] = fds[0];
	both[1] = ew__system_duplicate(fds[0]);
	EXPECT(both[1] >= 0);
	op.fd = both[of_the_operation];
	op.complete = note_end;
	ew__driver_submit(ew__worker->driver, &op);
	EXPECT_EQ(ew_yield(), 0);
	EXPECT_EQ(ew_yield(), 0);
	EXPECT_EQ(ew__system_close(both[0]), 0);
	ew__driver_cancel(ew__worker->driver, &op);
	while (op.state != EW__OP_IDLE)
		EXPECT_EQ(ew_sleep(EW_MILLISECOND), 0);
	EXPECT_EQ(ew__system_close(both[1]), 0);
	return ew__system_close(fds[1]);
}

static void run_into_a_close_of_one(void)
{
	unsigned of_the_operation = 0;

	(void)ew_sim_run(NULL, close_one_of_two, &of_the_operation, NULL);
}

TEST(sim_close_of_one_of_two_descriptors_with_an_operation_aborts)
{
	unsigned of_the_other = 1;
	struct ended ended;

	EXPECT_EQ(ew_sim_run(NULL, close_one_of_two, &of_the_other, NULL), 0);
	ended = run_process(run_into_a_close_of_one);
	EXPECT(WIFSIGNALED(ended.status));
	EXPECT(strstr(ended.text, "has_operation"));
}

/* ---- calls ---- */

static unsigned calls_made;

static int call_here(void *worker)
{
	calls_made++;
	EXPECT(ew__worker == worker);
	return 17;
}

static int offload_one(void *argument)
{
	int result = 0, r;

	(void)argument;
	r = ew_offload(call_here, ew__worker, &result);
	if (r == 0)
		EXPECT_EQ(result, 17);
	return r;
}

static int offload(void *argument)
{
	int64_t before_ns = ew_now();
	int r = offload_one(argument);

	EXPECT(ew_now() > before_ns);
	return r;
}

TEST(sim_call_is_made_by_the_worker_and_takes_its_time)
{
	run_sim(1, 0, offload, NULL);
	EXPECT_EQ(calls_made, 1);
}

static unsigned cancelled_count;

/* A microsecond each. */
static void pass_turns(uint64_t count)
{
	for (; count > 0; count--)
		EXPECT_EQ(ew_yield(), 0);
}

/* Either it was made or it was not: a cancel says which. */
static int cancel_a_call(void *argument)
{
	unsigned before = calls_made;
	int r;

	EW_SCOPE(scope, .policy = EW_POLICY_INDEPENDENT);

	(void)argument;
	r = ew_spawn(&scope, offload_one, NULL);
	EXPECT_EQ(r, 0);
	pass_turns(ew_sim_random(60));
	ew_scope_cancel(&scope, EW_REASON_REQUESTED);
	r = ew_scope_finish(&scope, 0);
	EXPECT_EQ(r == -ECANCELED, calls_made == before);
	cancelled_count += calls_made == before;
	return 0;
}

TEST(sim_call_that_is_cancelled_was_made_or_was_not)
{
	uint64_t seed;

	for (seed = 1; seed <= 200; seed++)
		run_sim(seed, 0, cancel_a_call, NULL);
	EXPECT(cancelled_count > 0);
	EXPECT(calls_made > 0);
	EXPECT_EQ(cancelled_count + calls_made, 200);
}

/* ---- cancels ---- */

static struct ew_socket *receiver;
static int received;

static int receive_one(void *argument)
{
	char byte;

	(void)argument;
	received = ew_socket_recv(receiver, &byte, 1);
	return received;
}

/* The byte is with the receiver, or still there. */
static int cancel_a_receive(void *argument)
{
	char byte = 0;
	int r;

	EW_OWN(ew_socket, ours);
	EW_OWN(ew_socket, theirs);
	EW_SCOPE(scope, .policy = EW_POLICY_INDEPENDENT);

	(void)argument;
	r = ew_socket_pair(&ours, &theirs);
	EXPECT_EQ(r, 0);
	receiver = ours;
	r = ew_spawn(&scope, receive_one, NULL);
	EXPECT_EQ(r, 0);
	r = ew_socket_send(theirs, "a", 1);
	EXPECT_EQ(r, 0);
	pass_turns(ew_sim_random(60));
	ew_scope_cancel(&scope, EW_REASON_REQUESTED);
	r = ew_scope_finish(&scope, 0);
	EXPECT(r == 0 || r == -ECANCELED);
	if (received == 1)
		return 0;
	EXPECT_EQ(received, -ECANCELED);
	cancelled_count++;
	r = ew_socket_recv(ours, &byte, 1);
	EXPECT_EQ(r, 1);
	EXPECT_EQ(byte, 'a');
	return 0;
}

TEST(sim_cancel_of_a_receive_loses_no_byte)
{
	uint64_t seed;

	for (seed = 1; seed <= 300; seed++)
		run_sim(seed, EW_SIM_DELAYS, cancel_a_receive, NULL);
	EXPECT(cancelled_count > 10);
	EXPECT(cancelled_count < 290);
}

/* ---- listeners, pipes, messages ---- */

static int answer_one(void *argument)
{
	struct ew_listener *listener = argument;
	int r;

	EW_OWN(ew_socket, socket);

	r = ew_listener_accept(listener, &socket);
	return r < 0 ? r : ew_socket_send(socket, "x", 1);
}

static int refuse_and_connect(void *argument)
{
	const struct sockaddr_in any = { .sin_family = AF_INET };
	struct sockaddr_storage bound;
	struct sockaddr *address = (struct sockaddr *)&bound;
	const socklen_t bytes = sizeof(struct sockaddr_in);
	char byte;
	int r;

	EW_OWN(ew_listener, listener);
	EW_OWN(ew_listener, second);
	EW_OWN(ew_socket, socket);
	EW_SCOPE(scope);

	(void)argument;
	r = ew_listener_open((const struct sockaddr *)&any, sizeof(any), 4, &listener);
	EXPECT_EQ(r, 0);
	EXPECT_EQ(ew_listener_address(listener, &bound), 0);
	EXPECT(((struct sockaddr_in *)&bound)->sin_port != 0);
	r = ew_listener_open(address, bytes, 4, &second);
	EXPECT_EQ(r, -EADDRINUSE);
	r = ew_listener_share(listener, &second);
	EXPECT_EQ(r, 0);
	r = ew_listener_close(&listener);
	EXPECT_EQ(r, 0);
	r = ew_spawn(&scope, answer_one, second);
	EXPECT_EQ(r, 0);
	r = ew_socket_connect(address, bytes, &socket);
	EXPECT_EQ(r, 0);
	r = ew_socket_recv(socket, &byte, 1);
	EXPECT_EQ(r, 1);
	r = ew_scope_finish(&scope, 0);
	EXPECT_EQ(r, 0);
	r = ew_socket_close(&socket);
	EXPECT_EQ(r, 0);
	r = ew_listener_close(&second);
	EXPECT_EQ(r, 0);
	return ew_socket_connect(address, bytes, &socket) == -ECONNREFUSED ? 0 : -EIO;
}

TEST(sim_listener_answers_until_it_is_closed)
{
	run_sim(1, 0, refuse_and_connect, NULL);
	run_sim(2, EW_SIM_DELAYS | EW_SIM_SHORT, refuse_and_connect, NULL);
}

static struct {
	int results[32];
	unsigned count;
} answers;

/* Descriptors are others each time. */
static void note_answer(int r)
{
	EXPECT(answers.count < sizeof(answers.results) / sizeof(answers.results[0]));
	answers.results[answers.count++] = r > 0 ? 0 : r;
}

static void note_and_close(int fd)
{
	note_answer(fd);
	if (fd >= 0)
		EXPECT_EQ(ew__system_close(fd), 0);
}

static void mistake_addresses(int unix_fd, int inet_fd)
{
	struct sockaddr_storage bound = { 0 };
	struct sockaddr_in here = loopback(0);
	int other = ew__system_socket(AF_INET);

	note_answer(ew__system_bind(-1, (struct sockaddr *)&here, sizeof(here), false));
	note_answer(ew__system_listen(-1, 4));
	note_answer(ew__system_address(-1, &bound));
	note_answer(ew__system_listen(unix_fd, 4));
	note_answer(ew__system_bind(unix_fd, (struct sockaddr *)&bound, sizeof(bound) + 1, false));
	note_answer(ew__system_shutdown(inet_fd, SHUT_WR));
	note_answer(ew__system_bind(inet_fd, (struct sockaddr *)&here, sizeof(here), false));
	note_answer(ew__system_bind(inet_fd, (struct sockaddr *)&here, sizeof(here), false));
	note_answer(ew__system_listen(inet_fd, 4));
	note_answer(ew__system_shutdown(inet_fd, SHUT_WR));
	note_answer(ew__system_address(inet_fd, &bound));
	note_answer(ew__system_bind(other, (struct sockaddr *)&bound, sizeof(here), false));
	((struct sockaddr_in *)&bound)->sin_addr.s_addr = htonl(INADDR_ANY);
	note_answer(ew__system_bind(other, (struct sockaddr *)&bound, sizeof(here), false));
	note_and_close(other);
}

static int connect_unix(const struct sockaddr_un *address, size_t bytes)
{
	EW_OWN(ew_socket, socket);

	return ew_socket_connect((const struct sockaddr *)address, (socklen_t)bytes, &socket);
}

/* One at a path that nothing is at, then names that have no path, of which one is listened at. */
static void mistake_names(void)
{
	struct sockaddr_un path = { .sun_family = AF_UNIX, .sun_path = "/nonexistent/socket" };
	struct sockaddr_un name = { .sun_family = AF_UNIX };
	size_t bytes = sizeof(name);

	EW_OWN(ew_listener, listener);
	EW_OWN(ew_listener, second);

	snprintf(name.sun_path + 1, sizeof(name.sun_path) - 1, "endwell-%d", getpid());
	note_answer(connect_unix(&path, sizeof(path)));
	note_answer(connect_unix(&name, bytes));
	note_answer(ew_listener_open((struct sockaddr *)&name, (socklen_t)bytes, 4, &listener));
	note_answer(ew_listener_open((struct sockaddr *)&name, (socklen_t)bytes, 4, &second));
	note_answer(connect_unix(&name, bytes - 1));
	note_answer(connect_unix(&name, bytes));
}

static int make_mistakes(void *argument)
{
	int unix_fd = ew__system_socket(AF_UNIX), inet_fd = ew__system_socket(AF_INET);

	(void)argument;
	answers.count = 0;
	note_answer(ew__system_socket(AF_MAX));
	mistake_addresses(unix_fd, inet_fd);
	mistake_names();
	note_and_close(unix_fd);
	note_and_close(inet_fd);
	return 0;
}

/* What the kernel says is what a simulated run has to say. */
TEST(sim_sockets_answer_mistakes_as_the_kernel_does)
{
	int by_kernel[32];
	unsigned count, i;

	EXPECT_EQ(run_workers(1, make_mistakes, NULL), 0);
	count = answers.count;
	memcpy(by_kernel, answers.results, sizeof(by_kernel));
	run_sim(1, 0, make_mistakes, NULL);
	EXPECT_EQ(answers.count, count);
	for (i = 0; i < count; i++)
		if (answers.results[i] != by_kernel[i])
			ew_test_fail(__FILE__, __LINE__, "answer %u is %d, and by the kernel %d", i,
				     answers.results[i], by_kernel[i]);
}

static int connect_by_ipv6(void *argument)
{
	struct sockaddr_in6 any = { .sin6_family = AF_INET6 };
	struct sockaddr_storage bound;
	struct sockaddr_in6 *there = (struct sockaddr_in6 *)&bound;

	EW_OWN(ew_listener, everywhere);
	EW_OWN(ew_listener, here);
	EW_OWN(ew_socket, one);
	EW_OWN(ew_socket, other);

	(void)argument;
	EXPECT_EQ(ew_listener_open((struct sockaddr *)&any, sizeof(any), 4, &everywhere), 0);
	EXPECT_EQ(ew_listener_address(everywhere, &bound), 0);
	there->sin6_addr = in6addr_loopback;
	EXPECT_EQ(ew_socket_connect((struct sockaddr *)there, sizeof(*there), &one), 0);
	there->sin6_port = 0;
	EXPECT_EQ(ew_listener_open((struct sockaddr *)there, sizeof(*there), 4, &here), 0);
	EXPECT_EQ(ew_listener_address(here, &bound), 0);
	EXPECT_EQ(ew_socket_connect((struct sockaddr *)there, sizeof(*there), &other), 0);
	EXPECT_EQ(ew_socket_close(&other), 0);
	there->sin6_addr.s6_addr[15] = 2;
	EXPECT_EQ(ew_socket_connect((struct sockaddr *)there, sizeof(*there), &other),
		  -ECONNREFUSED);
	return 0;
}

TEST(sim_address_of_ipv6_is_that_of_its_listener_alone)
{
	run_sim(1, 0, connect_by_ipv6, NULL);
}

static int write_all(void *argument)
{
	static const char data[300000];
	struct ew_pipe *pipe = argument;

	return ew_pipe_write(pipe, data, sizeof(data));
}

static int read_all(void *argument)
{
	char part[7000];
	int r, got = 0;

	EW_OWN(ew_pipe, read_end);
	EW_OWN(ew_pipe, write_end);
	EW_SCOPE(scope);

	(void)argument;
	r = ew_pipe_open(&read_end, &write_end);
	EXPECT_EQ(r, 0);
	r = ew_spawn(&scope, write_all, write_end);
	EXPECT_EQ(r, 0);
	for (; got < 300000; got += r) {
		r = ew_pipe_read(read_end, part, sizeof(part));
		EXPECT(r > 0);
	}
	r = ew_scope_finish(&scope, 0);
	EXPECT_EQ(r, 0);
	r = ew_pipe_close(&write_end);
	EXPECT_EQ(r, 0);
	return ew_pipe_read(read_end, part, sizeof(part));
}

TEST(sim_pipe_carries_more_than_it_holds_and_then_ends)
{
	run_sim(3, 0, read_all, NULL);
	run_sim(4, EW_SIM_SHORT | EW_SIM_DELAYS, read_all, NULL);
}

static int pass_a_file(void *argument)
{
	char buffer[8] = "", content[8] = "";
	int fd = memfd_create("content", MFD_CLOEXEC), r;

	EW_OWN(ew_socket, ours);
	EW_OWN(ew_socket, theirs);
	EW_OWN(ew_file, file);

	(void)argument;
	EXPECT_EQ(pwrite(fd, "inside", 6, 0), 6);
	r = ew_socket_pair(&ours, &theirs);
	EXPECT_EQ(r, 0);
	r = ew_socket_send_fd(ours, "take", 4, fd);
	EXPECT_EQ(r, 0);
	EXPECT_EQ(close(fd), 0);
	r = ew_socket_recv_fd(theirs, buffer, sizeof(buffer), &file);
	EXPECT_EQ(r, 4);
	EXPECT_STR(buffer, "take");
	EXPECT(file);
	r = ew_file_read(file, content, sizeof(content), 0);
	EXPECT_EQ(r, 6);
	EXPECT_STR(content, "inside");
	return 0;
}

TEST(sim_socket_passes_a_file)
{
	run_sim(1, 0, pass_a_file, NULL);
}

/* ---- signals ---- */

static struct ew_signals *signals;

static void open_signals(void)
{
	sigset_t set;

	sigemptyset(&set);
	sigaddset(&set, SIGHUP);
	sigaddset(&set, SIGTERM);
	EXPECT_EQ(pthread_sigmask(SIG_BLOCK, &set, NULL), 0);
	EXPECT_EQ(ew_signals_open(&set, &signals), 0);
}

static int raise_some(void *unused)
{
	int r = ew_sleep(EW_SECOND);

	(void)unused;
	ew_sim_raise(SIGUSR1); /* nobody wants it */
	ew_sim_raise(SIGTERM);
	ew_sim_raise(SIGHUP);
	ew_sim_raise(SIGHUP);
	return r;
}

static int wait_for_signals(void *unused)
{
	EW_SCOPE(scope);

	(void)unused;
	open_signals();
	EXPECT_EQ(ew_spawn(&scope, raise_some, NULL), 0);
	EXPECT_EQ(ew_signals_wait(signals), SIGHUP);
	EXPECT_EQ(ew_signals_wait(signals), SIGTERM);
	{
		EW_SCOPE(waiting, .deadline_ns = ew_after(EW_SECOND));
		int r = ew_signals_wait(signals);

		EXPECT_EQ(ew_scope_finish(&waiting, r), -ETIMEDOUT);
	}
	ew_sim_raise(SIGHUP);
	EXPECT_EQ(ew_signals_wait(signals), SIGHUP);
	EXPECT_EQ(ew_signals_close(&signals), 0);
	return ew_scope_finish(&scope, 0);
}

TEST(sim_signal_comes_to_who_waits_for_it_once)
{
	run_sim(1, 0, wait_for_signals, NULL);
}

static int raise_soon(void *unused)
{
	int r = ew_sleep((int64_t)ew_sim_random(4 * EW_MILLISECOND));

	(void)unused;
	ew_sim_raise(SIGTERM);
	return r;
}

/* Cancelled as it comes. */
static int be_impatient(void *argument)
{
	unsigned *taken = argument;
	int r;

	EW_SCOPE(raising);

	open_signals();
	EXPECT_EQ(ew_spawn(&raising, raise_soon, NULL), 0);
	{
		EW_SCOPE(waiting, .deadline_ns = ew_after(2 * EW_MILLISECOND));

		do
			r = ew_signals_wait(signals);
		while (r == -ENOMEM);
		r = ew_scope_finish(&waiting, r);
	}
	EXPECT(r == SIGTERM || r == -ETIMEDOUT);
	*taken += r == SIGTERM;
	ew_sim_calm();
	EXPECT_EQ(ew_scope_finish(&raising, 0), 0);
	if (r != SIGTERM)
		EXPECT_EQ(ew_signals_wait(signals), SIGTERM);
	return ew_signals_close(&signals);
}

TEST(sim_signal_that_races_with_a_cancel_is_taken_or_still_there)
{
	unsigned taken = 0, count = 200;
	uint64_t seed;

	for (seed = 1; seed <= count; seed++)
		run_sim(seed, EW_SIM_ERRORS | EW_SIM_DELAYS | EW_SIM_LEAPS, be_impatient, &taken);
	EXPECT(taken > 0 && taken < count);
}

static void send_with(struct ew_socket *socket, const char *byte, int fd)
{
	EXPECT_EQ(ew_socket_send_fd(socket, byte, 1, fd), 0);
}

/* The first with the first byte alone; the second is left by a read that takes none; the third is never read. */
static int pass_several(void *argument)
{
	int fd = memfd_create("content", MFD_CLOEXEC);
	char bytes[8];

	EW_OWN(ew_socket, ours);
	EW_OWN(ew_socket, theirs);
	EW_OWN(ew_file, file);

	(void)argument;
	EXPECT_EQ(ew_socket_pair(&ours, &theirs), 0);
	send_with(ours, "a", fd);
	send_with(ours, "b", fd);
	EXPECT_EQ(ew_socket_recv_fd(theirs, bytes, sizeof(bytes), &file), 1);
	EXPECT(file);
	EXPECT_EQ(ew_file_close(&file), 0);
	EXPECT_EQ(ew_socket_recv(theirs, bytes, 1), 1);
	EXPECT_EQ(bytes[0], 'b');
	EXPECT_EQ(ew_socket_send(ours, "c", 1), 0);
	EXPECT_EQ(ew_socket_recv_fd(theirs, bytes, sizeof(bytes), &file), 1);
	EXPECT(!file);
	send_with(ours, "d", fd);
	return close(fd);
}

TEST(sim_socket_passes_each_file_with_its_byte_and_closes_what_is_not_taken)
{
	struct descriptors before = descriptors_now();

	EXPECT_EQ(run_workers(1, pass_several, NULL), 0);
	expect_same_descriptors(&before);
	run_sim(1, 0, pass_several, NULL);
	expect_same_descriptors(&before);
}

static int use_what_is_outside(void *argument)
{
	char words[8] = "";
	int fds[2];

	EW_OWN(ew_pipe, from);
	EW_OWN(ew_pipe, to);
	EW_OWN(ew_pipe, inside);
	EW_OWN(ew_pipe, inside_to);

	(void)argument;
	EXPECT_EQ(pipe2(fds, O_CLOEXEC), 0);
	EXPECT_EQ(ew_pipe_adopt(fds[0], &from), 0);
	EXPECT_EQ(ew_pipe_adopt(fds[1], &to), 0);
	EXPECT_EQ(ew_pipe_write(to, "words", 5), 0);
	EXPECT_EQ(ew_pipe_read(from, words, sizeof(words)), 5);
	EXPECT_STR(words, "words");
	EXPECT_EQ(ew_pipe_close(&from), 0);
	EXPECT_EQ(ew_pipe_write(to, "words", 5), -EPIPE);
	EXPECT_EQ(ew_pipe_open(&inside, &inside_to), 0);
	EXPECT_EQ(ew_pipe_adopt(ew__system_duplicate(ew_pipe_fd(inside_to)), &from), 0);
	EXPECT_EQ(ew_pipe_write(from, "more", 4), 0);
	EXPECT_EQ(ew_pipe_read(inside, words, sizeof(words)), 4);
	return 0;
}

TEST(sim_pipe_from_outside_is_the_kernels_and_one_from_inside_is_not)
{
	run_sim(1, 0, use_what_is_outside, NULL);
}

/* ---- programs ---- */

static int be_simulated(void *argument)
{
	struct ew_process_options options = { .path = "/bin/true",
					      .argv = (char *[]){ (char *)"true", NULL } };
	int r;

	EW_OWN(ew_process, process);

	(void)argument;
	EXPECT(driver_is("sim"));
	EXPECT_EQ(ew_workers_count(), 1);
	r = ew_process_spawn(&options, &process);
	EXPECT_EQ(r, -EOPNOTSUPP);
	return 0;
}

TEST(sim_program_is_simulated_by_its_environment)
{
	EXPECT_EQ(setenv("EW_DRIVER", "sim", 1), 0);
	EXPECT_EQ(run_workers(0, be_simulated, NULL), 0);
	EXPECT(reported("the world is simulated", NULL));
	EXPECT_EQ(run_workers(2, be_simulated, NULL), -EINVAL);
	EXPECT(reported("one worker, not 2", NULL));
}

static int wait_for_the_end(void *unused)
{
	(void)unused;
	open_signals();
	EXPECT_EQ(ew_signals_wait(signals), SIGTERM);
	EXPECT(ew_sleep(EW_SECOND) == 0);
	EXPECT_EQ(ew_signals_wait(signals), SIGTERM);
	return ew_signals_close(&signals);
}

static void wait_for_another(void)
{
	setenv("EW_SIM_SIGNAL", "USR2", 1);
	run_workers(1, wait_for_the_end, NULL);
}

TEST(sim_program_that_waits_for_a_signal_in_the_end_gets_it)
{
	EXPECT_EQ(setenv("EW_DRIVER", "sim", 1), 0);
	EXPECT_EQ(setenv("EW_SIM_SIGNAL", "TERM", 1), 0);
	EXPECT_EQ(run_workers(1, wait_for_the_end, NULL), 0);
	EXPECT(strstr(run_process(wait_for_another).text, "nothing can happen any more"));
	EXPECT_EQ(setenv("EW_SIM_SIGNAL", "SIGTERM", 1), 0);
	EXPECT(run_workers(1, wait_for_the_end, NULL) < 0);
	EXPECT(reported("EW_SIM_SIGNAL=SIGTERM in the environment names no signal", NULL));
}

static void exchange_with_the_kernel(void)
{
	EW_OWN(ew_socket, socket);
	char byte;
	int fds[2];

	EXPECT_EQ(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds), 0);
	EXPECT_EQ(ew_socket_adopt(fds[0], &socket), 0);
	EXPECT_EQ(write(fds[1], "x", 1), 1);
	EXPECT_EQ(ew_socket_recv(socket, &byte, 1), 1);
	EXPECT_EQ(ew_sleep(1), 0);
	EXPECT_EQ(ew__virtual_now_ns, 0);
	EXPECT_EQ(ew_socket_close(&socket), 0);
	close(fds[1]);
}

/* A world is that of one run. What its thread does before and after that is done in the real one. */
TEST(sim_of_the_environment_leaves_plain_threads_to_the_kernel)
{
	const struct ew_run_options options = { .report = note_report };

	EXPECT_EQ(setenv("EW_DRIVER", "sim", 1), 0);
	exchange_with_the_kernel();
	EXPECT_EQ(ew_run(&options, converse, NULL), 0);
	exchange_with_the_kernel();
}

TEST_MAIN()
