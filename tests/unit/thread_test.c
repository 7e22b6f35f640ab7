/* SPDX-License-Identifier: Apache-2.0 */

/*
 * The same calls on plain threads: alone, with each other, with the tasks of a runtime, in the child of a fork, and at
 * the end of the thread. A thread of the test's own is used where its end matters: the main thread's is the process's.
 */

#include "io.h"
#include "task/worker.h"

#include <endwell/mutex.h>
#include <sched.h>

#if defined(__has_feature)
#if __has_feature(thread_sanitizer)
#define THREAD_SANITIZED 1
#endif
#endif
#ifndef THREAD_SANITIZED
#define THREAD_SANITIZED 0
#endif

static void on_thread(void *(*fn)(void *), void *argument)
{
	pthread_t thread;

	EXPECT_EQ(pthread_create(&thread, NULL, fn, argument), 0);
	EXPECT_EQ(pthread_join(thread, NULL), 0);
}

/* What a child process says on stderr, and how it ends. */
static void expect_death(void (*fn)(void), const char *text)
{
	struct ended ended = run_process(fn);

	EXPECT(WIFSIGNALED(ended.status) && WTERMSIG(ended.status) == SIGABRT);
	EXPECT(strstr(ended.text, text));
}

/* ---- alone ---- */

TEST(thread_sleeps_as_a_task_does)
{
	int64_t until_ns = ew_after(5 * EW_MILLISECOND);

	EXPECT_EQ(ew_sleep_until(until_ns), 0);
	EXPECT(ew_now() >= until_ns);
	EXPECT_EQ(ew_yield(), 0);
	EXPECT_EQ(ew_worker(), 0);
	EXPECT_EQ(ew_workers_count(), 0);
	EXPECT_STR(ew_task_name(), "");
}

TEST(thread_reads_and_writes_files)
{
	char text[16] = "";
	struct directory directory;

	directory_make(&directory);
	put_file(&directory, "file", "hello");
	{
		EW_OWN(ew_file, dir);
		EW_OWN(ew_file, file);

		EXPECT_EQ(ew_file_open(NULL, directory.path, O_RDONLY | O_DIRECTORY, 0, &dir), 0);
		EXPECT_EQ(ew_file_open(dir, "file", O_RDWR, 0, &file), 0);
		EXPECT_EQ(ew_file_read(file, text, sizeof(text), 0), 5);
		EXPECT_EQ(ew_outcome(), EW_OUTCOME_PARTIAL);
		EXPECT_STR(text, "hello");
		EXPECT_EQ(ew_file_write(file, "HELLO", 5, 0), 0);
		EXPECT_EQ(ew_file_sync(file, false), 0);
		EXPECT_EQ(ew_file_close(&file), 0);
		EXPECT_EQ(ew_file_unlink(dir, "none", 0), -ENOENT);
	}
	EXPECT_STR(file_text(&directory, "file"), "HELLO");
	directory_remove(&directory);
}

/* One is published, the other is what its block leaves. */
TEST(thread_publishes_or_drops_temporary_files)
{
	struct directory directory;

	directory_make(&directory);
	{
		EW_OWN(ew_file, dir);
		EW_OWN(ew_tempfile, kept);
		EW_OWN(ew_tempfile, dropped);

		EXPECT_EQ(ew_file_open(NULL, directory.path, O_RDONLY | O_DIRECTORY, 0, &dir), 0);
		EXPECT_EQ(ew_tempfile_open_named(dir, "staged-1", &kept), 0);
		EXPECT_EQ(ew_tempfile_open_named(dir, "staged-2", &dropped), 0);
		EXPECT_EQ(ew_file_write(ew_tempfile_file(kept), "kept", 4, 0), 0);
		EXPECT_EQ(ew_tempfile_seal(kept), 0);
		EXPECT_EQ(ew_tempfile_publish(kept, dir, "kept"), 0);
	}
	EXPECT_STR(file_text(&directory, "kept"), "kept");
	EXPECT(!has_file(&directory, "staged-1"));
	EXPECT(!has_file(&directory, "staged-2"));
	directory_remove(&directory);
}

TEST(thread_in_a_scope_past_its_deadline_is_refused_until_it_leaves)
{
	struct ew_event event = { 0 };
	int r;

	{
		EW_SCOPE(scope, .deadline_ns = ew_after(2 * EW_MILLISECOND));

		EXPECT_EQ(ew_event_wait(&event, EW_NEVER), -ECANCELED);
		EXPECT_EQ(ew_cancel_reason(), EW_REASON_DEADLINE);
		EXPECT_EQ(ew_sleep(1), -ECANCELED);
		EXPECT_EQ(ew_sleep(1), -ECANCELED);
		EXPECT_EQ(ew_sleep(1), -ECANCELED);
		r = ew_scope_finish(&scope, -ECANCELED);
	}
	EXPECT_EQ(r, -ETIMEDOUT);
	EXPECT_EQ(ew_sleep(1), 0);
}

static int add_one(void *argument)
{
	return ++*(int *)argument;
}

/* Calls that are made on the spot never wait, and still see a deadline that has passed. */
TEST(thread_in_a_loop_of_blocking_calls_sees_its_deadline)
{
	int calls = 0, result = 0, r;
	EW_SCOPE(scope, .deadline_ns = ew_after(5 * EW_MILLISECOND));

	do
		r = ew_offload(add_one, &calls, &result);
	while (r == 0);
	EXPECT_EQ(r, -ECANCELED);
	EXPECT_EQ(result, calls);
	EXPECT_EQ(ew_scope_finish(&scope, r), -ETIMEDOUT);
}

/* The newer one would take longer than the ladder leaves; the older one has a reserve. */
TEST(thread_endings_share_the_time_of_the_ladder)
{
	struct probe slow = { .name = "slow", .takes_ns = 3600 * EW_SECOND };
	struct probe quick = { .name = "quick", .takes_ns = EW_MILLISECOND };

	{
		EW_SCOPE(scope, .budget_ns = 400 * EW_MILLISECOND);
		EW_GUARD(older, &quick, .close = probe_close, .abort = probe_abort,
			 .reserve_ns = 390 * EW_MILLISECOND);
		EW_GUARD(newer, &slow, .close = probe_close, .abort = probe_abort);

		ew_scope_cancel(&scope, EW_REASON_REQUESTED);
		EXPECT_EQ(ew_sleep(1), -ECANCELED);
	}
	EXPECT_STR(traced, "abort-slow close-quick");
}

TEST(thread_shield_keeps_a_cancel_out)
{
	EW_SCOPE(scope);

	ew_scope_cancel(&scope, EW_REASON_REQUESTED);
	{
		EW_SHIELD(shield, .budget_ns = 60 * EW_SECOND);

		EXPECT_EQ(ew_sleep(1), 0);
	}
	EXPECT_EQ(ew_sleep(1), -ECANCELED);
}

TEST(thread_runs_processes)
{
	char *const quick[] = { "/bin/true", NULL }, *const slow[] = { "/bin/sleep", "3600", NULL };
	struct ew_process_options options = {
		.path = "/bin/true",
		.argv = quick,
		.stdin_fd = -1,
		.stdout_fd = -1,
		.stderr_fd = -1,
		.keep_fd = -1,
	};
	struct descriptors before;
	int status = -1;

	EXPECT_EQ(ew_sleep(1), 0);
	before = descriptors_now();
	{
		EW_OWN(ew_process, ended);
		EW_OWN(ew_process, closed);
		EW_OWN(ew_process, aborted);

		EXPECT_EQ(ew_process_spawn(&options, &ended), 0);
		EXPECT_EQ(ew_process_wait(ended, EW_NEVER, &status), 0);
		EXPECT_EQ(status, 0);
		options.path = slow[0];
		options.argv = slow;
		EXPECT_EQ(ew_process_spawn(&options, &closed), 0);
		EXPECT_EQ(ew_process_wait(closed, EW_NOW, &status), -ETIMEDOUT);
		EXPECT_EQ(ew_process_spawn(&options, &aborted), 0);
		ew_abort(&aborted);
	}
	EXPECT_EQ(waitpid(-1, NULL, WNOHANG), -1);
	EXPECT_EQ(errno, ECHILD);
	expect_same_descriptors(&before);
}

/* No signal, and the thread's mask is its own again. */
TEST(thread_that_writes_to_a_broken_pipe_gets_an_error)
{
	EW_OWN(ew_pipe, source);
	EW_OWN(ew_pipe, sink);
	sigset_t blocked, pending;

	EXPECT_EQ(ew_pipe_open(&source, &sink), 0);
	EXPECT_EQ(ew_pipe_close(&source), 0);
	EXPECT_EQ(ew_pipe_write(sink, "x", 1), -EPIPE);
	pthread_sigmask(SIG_BLOCK, NULL, &blocked);
	EXPECT(!sigismember(&blocked, SIGPIPE));
	sigpending(&pending);
	EXPECT(!sigismember(&pending, SIGPIPE));
}

static _Atomic bool handled;

static void note_signal(int number)
{
	(void)number;
	handled = true;
}

static void *interrupt(void *thread)
{
	while (!handled) {
		pthread_kill(*(pthread_t *)thread, SIGUSR1);
		sched_yield();
	}
	return NULL;
}

/* Handlers run while it waits, and the wait goes on. */
TEST(thread_that_waits_handles_signals)
{
	int64_t until_ns = ew_after(5 * EW_MILLISECOND);
	struct sigaction action = { .sa_handler = note_signal };
	pthread_t self = pthread_self(), other;

	sigaction(SIGUSR1, &action, NULL);
	EXPECT_EQ(pthread_create(&other, NULL, interrupt, &self), 0);
	do
		EXPECT_EQ(ew_sleep_until(until_ns), 0);
	while (!handled);
	EXPECT(ew_now() >= until_ns);
	EXPECT_EQ(pthread_join(other, NULL), 0);
}

/* ---- what it cannot ---- */

static int never_run(void *argument)
{
	(void)argument;
	abort();
}

static void spawn_there(void)
{
	EW_SCOPE(scope);

	if (ew_spawn(&scope, never_run, NULL) == -ENOTSUP && ew_scope_join(&scope) == 0)
		_exit(7);
}

TEST(thread_that_spawns_is_refused_and_told_why)
{
	struct ended ended = run_process(spawn_there);

	EXPECT(WIFEXITED(ended.status) && WEXITSTATUS(ended.status) == 7);
	EXPECT(strstr(ended.text, "never_run cannot be spawned on a plain thread"));
	EXPECT(strstr(ended.text, "thread_test.c:"));
}

static void panic_there(void)
{
	if (ew_sleep(1) == 0)
		ew_panic("of its own");
}

TEST(thread_that_panics_ends_the_process)
{
	expect_death(panic_there, "panic on a plain thread: of its own; the process ends");
}

static void suspend_in_a_report(void *argument, const char *line)
{
	(void)argument;
	(void)line;
	(void)!ew_sleep(1);
}

static int forget_one(void *argument)
{
	static struct thing thing;

	(void)argument;
	THING_OPEN(&thing, "thing");
	return 0;
}

/* The report about what was forgotten comes when the last task has ended. */
static void suspend_in_the_scheduler(void)
{
	struct ew_run_options options = { .workers_count = 1, .report = suspend_in_a_report };

	(void)!ew_run(&options, forget_one, NULL);
}

TEST(call_from_inside_the_scheduler_is_an_assertion)
{
	expect_death(suspend_in_the_scheduler, "assertion failed");
}

/* Its closes cannot wait, so they are aborts; what can wait no more says so. */
TEST(thread_without_descriptors_is_told_so)
{
	static struct thing thing;
	rlim_t before = set_limit(RLIMIT_NOFILE, 3);

	while (dup(STDOUT_FILENO) >= 0)
		;
	{
		EW_OWN(thing, owned);

		owned = THING_OPEN(&thing, "thing");
		EXPECT_EQ(ew_sleep(1), -EMFILE);
		EXPECT_EQ(ew_outcome(), EW_OUTCOME_NONE);
	}
	EXPECT_STR(traced, "abort-thing");
	set_limit(RLIMIT_NOFILE, before);
	EXPECT_EQ(ew_sleep(1), 0);
}

/* ---- with each other ---- */

struct pair {
	struct ew_channel *there, *back;
	struct ew_mutex mutex;
	unsigned sum;
};

#define MESSAGES 2000

static int echo(void *argument)
{
	struct pair *pair = argument;
	int r, message;

	while ((r = ew_channel_receive(pair->there, EW_NEVER, &message)) > 0)
		EXPECT_EQ(ew_channel_send(pair->back, EW_NEVER, &message), 0);
	return r;
}

static void *echo_on_thread(void *argument)
{
	EXPECT_EQ(echo(argument), 0);
	return NULL;
}

static void converse(struct pair *pair)
{
	int i, answer;

	for (i = 0; i < MESSAGES; i++) {
		EXPECT_EQ(ew_channel_send(pair->there, EW_NEVER, &i), 0);
		EXPECT_EQ(ew_channel_receive(pair->back, EW_NEVER, &answer), 1);
		EXPECT_EQ(answer, i);
	}
	ew_channel_close(pair->there);
}

static void pair_open(struct pair *pair)
{
	*pair = (struct pair){ 0 };
	EXPECT_EQ(ew_channel_new(0, sizeof(int), NULL, &pair->there), 0);
	EXPECT_EQ(ew_channel_new(1, sizeof(int), NULL, &pair->back), 0);
}

static void pair_close(struct pair *pair)
{
	ew_channel_free(&pair->there);
	ew_channel_free(&pair->back);
}

TEST(thread_and_thread_talk_through_channels)
{
	struct pair pair;
	pthread_t other;

	pair_open(&pair);
	EXPECT_EQ(pthread_create(&other, NULL, echo_on_thread, &pair), 0);
	converse(&pair);
	EXPECT_EQ(pthread_join(other, NULL), 0);
	pair_close(&pair);
}

static int count_up(void *argument)
{
	struct pair *pair = argument;
	unsigned i, before;

	for (i = 0; i < MESSAGES; i++) {
		EW_OWN(ew_mutex_hold, hold);

		EXPECT_EQ(ew_mutex_lock(&pair->mutex, EW_NEVER, &hold), 0);
		before = pair->sum;
		if (i % 64 == 0)
			EXPECT_EQ(ew_yield(), 0);
		pair->sum = before + 1;
	}
	return 0;
}

static void *count_up_on_thread(void *argument)
{
	EXPECT_EQ(count_up(argument), 0);
	return NULL;
}

static int count_up_in_tasks(void *argument)
{
	EW_SCOPE(scope);

	EXPECT_EQ(ew_spawn(&scope, count_up, argument), 0);
	EXPECT_EQ(ew_spawn(&scope, count_up, argument, .worker = 2), 0);
	return ew_scope_finish(&scope, 0);
}

/* Two plain threads and a task on each of two workers. */
TEST(thread_and_tasks_share_a_mutex)
{
	struct pair pair = { 0 };
	pthread_t one, other;

	EXPECT_EQ(pthread_create(&one, NULL, count_up_on_thread, &pair), 0);
	EXPECT_EQ(pthread_create(&other, NULL, count_up_on_thread, &pair), 0);
	EXPECT_EQ(run_workers(2, count_up_in_tasks, &pair), 0);
	EXPECT_EQ(pthread_join(one, NULL), 0);
	EXPECT_EQ(pthread_join(other, NULL), 0);
	EXPECT_EQ(pair.sum, 4 * MESSAGES);
}

static void *converse_on_thread(void *argument)
{
	converse(argument);
	return NULL;
}

static int echo_in_a_task(void *argument)
{
	pthread_t other;
	int r;

	EXPECT_EQ(pthread_create(&other, NULL, converse_on_thread, argument), 0);
	r = echo(argument);
	EXPECT_EQ(pthread_join(other, NULL), 0);
	return r;
}

TEST(thread_and_task_talk_through_channels)
{
	struct pair pair;

	pair_open(&pair);
	EXPECT_EQ(run_workers(1, echo_in_a_task, &pair), 0);
	pair_close(&pair);
}

struct signals {
	struct ew_event there, back;
	struct ew_scope *_Atomic scope;
	int r;
};

static void *answer_event(void *argument)
{
	struct signals *signals = argument;

	EXPECT_EQ(ew_event_wait(&signals->there, EW_NEVER), 0);
	ew_event_set(&signals->back);
	return NULL;
}

static int call_by_event(void *argument)
{
	struct signals *signals = argument;
	pthread_t other;

	EXPECT_EQ(pthread_create(&other, NULL, answer_event, signals), 0);
	ew_event_set(&signals->there);
	EXPECT_EQ(ew_event_wait(&signals->back, EW_NEVER), 0);
	EXPECT_EQ(pthread_join(other, NULL), 0);
	return 0;
}

TEST(event_set_by_a_plain_thread_wakes_a_task_and_the_other_way)
{
	struct signals signals = { 0 };

	EXPECT_EQ(run_workers(1, call_by_event, &signals), 0);
}

static void *wait_to_be_cancelled(void *argument)
{
	struct signals *signals = argument;
	EW_SCOPE(scope);

	signals->scope = &scope;
	signals->r = ew_event_wait(&signals->there, EW_NEVER);
	return NULL;
}

static int cancel_the_thread(void *argument)
{
	struct signals *signals = argument;
	pthread_t other;

	EXPECT_EQ(pthread_create(&other, NULL, wait_to_be_cancelled, signals), 0);
	while (!signals->scope)
		sched_yield();
	ew_scope_cancel(signals->scope, EW_REASON_REQUESTED);
	EXPECT_EQ(pthread_join(other, NULL), 0);
	return 0;
}

/* From a task, and from a thread that never suspends; whether it waits already is up to chance. */
TEST(scope_of_a_plain_thread_is_cancelled_from_elsewhere)
{
	struct signals signals;
	unsigned i;

	for (i = 0; i < 50; i++) {
		signals = (struct signals){ 0 };
		if (i % 2)
			EXPECT_EQ(run_workers(1, cancel_the_thread, &signals), 0);
		else
			EXPECT_EQ(cancel_the_thread(&signals), 0);
		EXPECT_EQ(signals.r, -ECANCELED);
	}
}

/* ---- connections ---- */

struct served {
	struct sockaddr_storage address;
	struct ew_event ready;
	unsigned connections;
};

static int serve(void *argument)
{
	struct served *served = argument;
	struct sockaddr_in any = loopback(0);
	EW_OWN(ew_listener, listener);
	unsigned i;
	char bytes[8];

	EXPECT_EQ(ew_listener_open((struct sockaddr *)&any, sizeof(any), 16, &listener), 0);
	EXPECT_EQ(ew_listener_address(listener, &served->address), 0);
	ew_event_set(&served->ready);
	for (i = 0; i < served->connections; i++) {
		EW_OWN(ew_socket, socket);

		EXPECT_EQ(ew_listener_accept(listener, &socket), 0);
		EXPECT_EQ(ew_socket_recv(socket, bytes, sizeof(bytes)), 5);
		EXPECT_EQ(ew_socket_send(socket, bytes, 5), 0);
	}
	return ew_listener_close(&listener);
}

static void *serve_on_thread(void *argument)
{
	EXPECT_EQ(serve(argument), 0);
	return NULL;
}

static int ask(void *argument)
{
	struct served *served = argument;
	const char *data;
	unsigned i;

	EXPECT_EQ(ew_event_wait(&served->ready, EW_NEVER), 0);
	for (i = 0; i < served->connections; i++) {
		EW_OWN(ew_socket, socket);

		EXPECT_EQ(ew_socket_connect((struct sockaddr *)&served->address,
					    sizeof(struct sockaddr_in), &socket),
			  0);
		EXPECT_EQ(ew_socket_send(socket, "hello", 5), 0);
		EXPECT_EQ(ew_socket_receive(socket, &data), 5);
		EXPECT(!memcmp(data, "hello", 5));
		EXPECT_EQ(ew_socket_receive(socket, &data), 0);
	}
	return 0;
}

/* Thread with thread, then a thread's server with a task, then a task's server with a thread. */
TEST(thread_serves_and_connects)
{
	struct served served = { .connections = 20 };
	pthread_t server;

	EXPECT_EQ(pthread_create(&server, NULL, serve_on_thread, &served), 0);
	EXPECT_EQ(ask(&served), 0);
	EXPECT_EQ(pthread_join(server, NULL), 0);
	ew_event_reset(&served.ready);
	EXPECT_EQ(pthread_create(&server, NULL, serve_on_thread, &served), 0);
	EXPECT_EQ(run_workers(1, ask, &served), 0);
	EXPECT_EQ(pthread_join(server, NULL), 0);
}

static int accept_in_a_run(void *argument)
{
	EW_OWN(ew_socket, socket);

	return ew_listener_accept(argument, &socket);
}

/* A call that its deadline ends leaves nothing in flight: a worker may go on with the listener, and the thread again. */
TEST(listener_between_calls_of_a_thread_is_anybodys)
{
	struct sockaddr_in any = loopback(0);
	struct sockaddr_storage address;
	EW_OWN(ew_listener, listener);
	EW_OWN(ew_socket, socket);
	int one, other;

	EXPECT_EQ(ew_listener_open((struct sockaddr *)&any, sizeof(any), 16, &listener), 0);
	EXPECT_EQ(ew_listener_address(listener, &address), 0);
	{
		EW_SCOPE(scope, .deadline_ns = ew_after(2 * EW_MILLISECOND));

		EXPECT_EQ(ew_scope_finish(&scope, ew_listener_accept(listener, &socket)),
			  -ETIMEDOUT);
	}
	one = plain_connect(&address, sizeof(any));
	other = plain_connect(&address, sizeof(any));
	EXPECT_EQ(run_workers(1, accept_in_a_run, listener), 0);
	EXPECT_EQ(ew_listener_accept(listener, &socket), 0);
	close(one);
	close(other);
}

struct outliving {
	struct ew_channel *channel;
	struct sockaddr_storage address;
	bool one_by_one;
};

/* It accepts ahead, or one call has been cancelled with its accept in flight; then it goes to who outlives the runtime. */
static int accept_and_send_away(void *argument)
{
	struct outliving *outliving = argument;
	struct sockaddr_in any = loopback(0);
	EW_OWN(ew_listener, listener);
	EW_OWN(ew_socket, nobody);
	EW_SCOPE(scope, .deadline_ns = ew_after(2 * EW_MILLISECOND));

	EXPECT_EQ(ew_listener_open((struct sockaddr *)&any, sizeof(any), 16, &listener), 0);
	EXPECT_EQ(ew_listener_address(listener, &outliving->address), 0);
	if (outliving->one_by_one)
		ew_listener_one_by_one(listener);
	EXPECT_EQ(ew_scope_finish(&scope, ew_listener_accept(listener, &nobody)), -ETIMEDOUT);
	return ew_channel_try_send(outliving->channel, &listener);
}

static void expect_listener_outlives_its_runtime(bool one_by_one)
{
	struct outliving outliving = { .one_by_one = one_by_one };
	struct descriptors before;
	EW_OWN(ew_channel, channel);
	EW_OWN(ew_listener, listener);
	EW_OWN(ew_socket, socket);
	int peer;

	EXPECT_EQ(ew_sleep(1), 0);
	before = descriptors_now();
	EXPECT_EQ(ew_channel_new_of_resources(1, &channel), 0);
	outliving.channel = channel;
	EXPECT_EQ(run_workers(1, accept_and_send_away, &outliving), 0);
	EXPECT_EQ(reports.count, 0);
	EXPECT_EQ(ew_channel_receive(channel, EW_NOW, &listener), 1);
	peer = plain_connect(&outliving.address, sizeof(struct sockaddr_in));
	EXPECT_EQ(ew_listener_accept(listener, &socket), 0);
	EXPECT_EQ(ew_socket_close(&socket), 0);
	EXPECT_EQ(ew_listener_close(&listener), 0);
	/* Nobody receives this one: it is aborted with its channel. */
	EXPECT_EQ(run_workers(1, accept_and_send_away, &outliving), 0);
	ew_channel_free(&channel);
	close(peer);
	expect_same_descriptors(&before);
}

/* The end of a runtime calls back what it has in flight of those that outlive it, and then they are anybody's. */
TEST(listener_that_outlives_its_runtime_is_the_next_ones)
{
	expect_listener_outlives_its_runtime(false);
	expect_listener_outlives_its_runtime(true);
}

/* ---- the peer is watched ---- */

TEST(thread_whose_peer_leaves_is_cancelled_while_it_waits)
{
	struct ew_event never = { 0 };
	EW_OWN(ew_socket, socket);
	EW_SCOPE(scope);
	int peer = unix_peer(&socket);

	ew_socket_cancel_on_hangup(socket, &scope, false);
	EXPECT_EQ(ew_sleep(EW_MILLISECOND), 0);
	close(peer);
	EXPECT_EQ(ew_event_wait(&never, EW_NEVER), -ECANCELED);
	EXPECT_EQ(ew_cancel_reason(), EW_REASON_PEER);
}

TEST(thread_whose_peer_leaves_sees_it_in_a_call_that_need_not_wait)
{
	EW_OWN(ew_socket, socket);
	EW_SCOPE(scope);
	int peer = unix_peer(&socket), calls = 0, result;

	ew_socket_cancel_on_hangup(socket, &scope, false);
	EXPECT_EQ(ew_offload(add_one, &calls, &result), 0);
	close(peer);
	EXPECT_EQ(ew_offload(add_one, &calls, &result), -ECANCELED);
	EXPECT_EQ(calls, 1);
}

static int receive_in_a_run(void *argument)
{
	struct ew_socket *socket = argument;
	const char *data;
	EW_SCOPE(scope);

	ew_socket_cancel_on_hangup(socket, &scope, false);
	EXPECT_EQ(ew_socket_receive(socket, &data), 1);
	return ew_socket_close(&socket);
}

/* It was watched in two calls of the thread, and then in a runtime. */
TEST(socket_between_calls_of_a_thread_is_anybodys)
{
	struct ew_socket *socket = NULL;
	int peer = unix_peer(&socket);
	EW_SCOPE(scope);

	ew_socket_cancel_on_hangup(socket, &scope, false);
	EXPECT_EQ(ew_sleep(1), 0);
	EXPECT_EQ(ew_sleep(1), 0);
	ew_socket_forget_hangup(socket);
	EXPECT_EQ(write(peer, "x", 1), 1);
	EXPECT_EQ(run_workers(1, receive_in_a_run, socket), 0);
	close(peer);
}

static int watch_and_send_away(void *argument)
{
	struct ew_channel *channel = argument;
	EW_OWN(ew_socket, socket);
	const char *data;
	int peer = unix_peer(&socket);
	EW_SCOPE(scope);

	EXPECT_EQ(write(peer, "x", 1), 1);
	ew_socket_cancel_on_hangup(socket, &scope, false);
	EXPECT_EQ(ew_socket_receive(socket, &data), 1);
	ew_socket_release(socket);
	ew_socket_forget_hangup(socket);
	EXPECT_EQ(ew_channel_try_send(channel, &socket), 0);
	return ew_scope_finish(&scope, peer);
}

TEST(socket_that_outlives_its_runtime_with_the_watch_armed_is_the_next_ones)
{
	EW_OWN(ew_channel, channel);
	EW_OWN(ew_socket, socket);
	const char *data;
	int peer;

	EXPECT_EQ(ew_channel_new_of_resources(1, &channel), 0);
	peer = run_workers(1, watch_and_send_away, channel);
	EXPECT(peer >= 0);
	EXPECT_EQ(reports.count, 0);
	EXPECT_EQ(ew_channel_receive(channel, EW_NOW, &socket), 1);
	EXPECT_EQ(write(peer, "y", 1), 1);
	EXPECT_EQ(ew_socket_receive(socket, &data), 1);
	EXPECT_EQ(ew_socket_close(&socket), 0);
	close(peer);
	peer = run_workers(1, watch_and_send_away, channel);
	EXPECT(peer >= 0);
	ew_channel_free(&channel);
	close(peer);
}

/* More than a worker tells of in the turns that it has left. */
#define CROWD 600

/* All have the same peer, which leaves at last. */
static int watch_many_and_send_them_away(void *argument)
{
	struct ew_channel *channel = argument;
	EW_OWN(ew_socket, first);
	int peer = unix_peer(&first), i;
	EW_SCOPE(scope);

	for (i = 0; i < CROWD; i++) {
		EW_OWN(ew_socket, socket);

		EXPECT_EQ(ew_socket_adopt(dup(ew_socket_fd(first)), &socket), 0);
		ew_socket_cancel_on_hangup(socket, &scope, false);
		ew_socket_forget_hangup(socket);
		EXPECT_EQ(ew_channel_try_send(channel, &socket), 0);
	}
	EXPECT_EQ(ew_yield(), 0);
	close(peer);
	EXPECT_EQ(ew_yield(), 0);
	return ew_scope_finish(&scope, 0);
}

/* What the last turns hear of a peer is for a scope that is no more. */
TEST(sockets_that_outlive_their_runtime_and_whose_peer_leaves_just_then_are_the_next_ones)
{
	EW_OWN(ew_channel, channel);
	char byte;
	int i;

	EXPECT_EQ(ew_channel_new_of_resources(CROWD, &channel), 0);
	EXPECT_EQ(run_workers(1, watch_many_and_send_them_away, channel), 0);
	EXPECT_EQ(reports.count, 0);
	for (i = 0; i < CROWD; i++) {
		EW_OWN(ew_socket, socket);

		EXPECT_EQ(ew_channel_receive(channel, EW_NOW, &socket), 1);
		EXPECT_EQ(ew_socket_recv(socket, &byte, 1), 0);
		EXPECT_EQ(ew_socket_close(&socket), 0);
	}
}

#define PARTINGS 1000

static void *end_runtime_after_runtime(void *argument)
{
	int i, peer;

	for (i = 0; i < PARTINGS; i++) {
		peer = run_workers(1, watch_and_send_away, argument);
		EXPECT(peer >= 0);
		close(peer);
	}
	return NULL;
}

/* Whoever closes it may have seen which worker has it, and a moment later that ends. */
TEST(close_of_what_outlives_its_runtime_may_meet_the_end_of_that)
{
	EW_OWN(ew_channel, channel);
	pthread_t other;
	int i;

	EXPECT_EQ(ew_channel_new_of_resources(PARTINGS, &channel), 0);
	EXPECT_EQ(pthread_create(&other, NULL, end_runtime_after_runtime, channel), 0);
	for (i = 0; i < PARTINGS; i++) {
		EW_OWN(ew_socket, socket);

		EXPECT_EQ(ew_channel_receive(channel, EW_NEVER, &socket), 1);
		EXPECT_EQ(ew_socket_close(&socket), 0);
	}
	EXPECT_EQ(pthread_join(other, NULL), 0);
}

/* ---- another worker ends it ---- */

#define ROUNDS 300

struct held {
	struct ew_socket *socket;
	struct ew_listener *listener;
	struct ew_event closed;
};

static int hold_both(void *argument)
{
	struct held *held = argument;
	EW_SCOPE(scope);
	const char *data;
	EW_OWN(ew_socket, nobody);

	EXPECT_EQ(ew_socket_receive(held->socket, &data), 1);
	ew_socket_cancel_on_hangup(held->socket, &scope, false);
	{
		EW_SCOPE(short_scope, .deadline_ns = ew_after(2 * EW_MILLISECOND));

		EXPECT_EQ(
			ew_scope_finish(&short_scope, ew_listener_accept(held->listener, &nobody)),
			-ETIMEDOUT);
	}
	ew_socket_forget_hangup(held->socket);
	return ew_scope_finish(&scope, 0);
}

static int close_both(void *argument)
{
	struct held *held = argument;

	EXPECT_EQ(ew_socket_close(&held->socket), 0);
	EXPECT_EQ(ew_listener_close(&held->listener), 0);
	return 0;
}

static void held_open(struct held *held, int *ret_peer)
{
	struct sockaddr_in any = loopback(0);

	*held = (struct held){ 0 };
	*ret_peer = unix_peer(&held->socket);
	EXPECT_EQ(write(*ret_peer, "x", 1), 1);
	EXPECT_EQ(ew_listener_open((struct sockaddr *)&any, sizeof(any), 16, &held->listener), 0);
}

static int hold_there_and_close_here(void *argument)
{
	EW_SCOPE(scope);
	struct descriptors before = descriptors_now();
	struct held held;
	int peer;

	(void)argument;
	held_open(&held, &peer);
	EXPECT_EQ(ew_spawn(&scope, hold_both, &held, .worker = 2), 0);
	EXPECT_EQ(ew_scope_join(&scope), 0);
	EXPECT_EQ(close_both(&held), 0);
	close(peer);
	expect_same_descriptors(&before);
	return 0;
}

/* With a watch, a buffer and an accept of worker 2: gone when the close has returned. */
TEST(close_of_what_another_worker_has_is_a_message_to_it)
{
	EXPECT_EQ(run_workers(2, hold_there_and_close_here, NULL), 0);
	EXPECT_EQ(reports.count, 0);
}

static int accept_once_in_vain(void *argument)
{
	struct held *held = argument;
	EW_OWN(ew_socket, nobody);
	EW_SCOPE(short_scope, .deadline_ns = ew_after(EW_MICROSECOND));

	return ew_scope_finish(&short_scope, ew_listener_accept(held->listener, &nobody)) ==
			       -ETIMEDOUT
		       ? 0
		       : -EINVAL;
}

/* What the connection ends on worker 2 may be heard of there before the close is. */
static int connect_and_close_at_once(void *argument)
{
	struct sockaddr_in address = loopback(0);
	struct sockaddr_storage bound;
	struct held held = { 0 };
	int client, round;

	(void)argument;
	for (round = 0; round < ROUNDS; round++) {
		EW_SCOPE(scope);

		EXPECT_EQ(ew_listener_open((struct sockaddr *)&address, sizeof(address), 16,
					   &held.listener),
			  0);
		ew_listener_one_by_one(held.listener);
		EXPECT_EQ(ew_listener_address(held.listener, &bound), 0);
		EXPECT_EQ(ew_spawn(&scope, accept_once_in_vain, &held, .worker = 2), 0);
		EXPECT_EQ(ew_scope_join(&scope), 0);
		client = plain_connect(&bound, sizeof(address));
		EXPECT_EQ(ew_listener_close(&held.listener), 0);
		close(client);
	}
	return 0;
}

TEST(close_elsewhere_that_meets_the_end_of_the_operation_ends_once)
{
	EXPECT_EQ(run_workers(2, connect_and_close_at_once, NULL), 0);
	EXPECT_EQ(reports.count, 0);
}

static void *close_on_thread(void *argument)
{
	EXPECT_EQ(close_both(argument), 0);
	return NULL;
}

static int hold_here_and_close_on_a_thread(void *argument)
{
	struct held held;
	pthread_t other;
	int peer, i;

	(void)argument;
	held_open(&held, &peer);
	EXPECT_EQ(hold_both(&held), 0);
	EXPECT_EQ(pthread_create(&other, NULL, close_on_thread, &held), 0);
	for (i = 0; pthread_tryjoin_np(other, NULL); i++)
		EXPECT_EQ(ew_yield(), 0);
	close(peer);
	return 0;
}

TEST(close_on_a_plain_thread_of_what_a_worker_has_is_a_message_to_it)
{
	EXPECT_EQ(run_workers(1, hold_here_and_close_on_a_thread, NULL), 0);
	EXPECT_EQ(reports.count, 0);
}

/* A lent buffer is the thread's, which is not in a call: closed at once for the peer, and given back with the next. */
TEST(close_of_what_a_plain_thread_has_is_a_message_to_it)
{
	struct held held = { 0 };
	int peer = unix_peer(&held.socket);
	const char *data;
	char byte;

	EXPECT_EQ(write(peer, "x", 1), 1);
	EXPECT_EQ(ew_socket_receive(held.socket, &data), 1);
	on_thread(close_on_thread, &held);
	EXPECT_EQ(read(peer, &byte, 1), 0);
	EXPECT_EQ(ew_sleep(1), 0);
	close(peer);
}

static void *lend_and_end(void *argument)
{
	struct held held = { 0 };
	const char *data;

	*(int *)argument = unix_peer(&held.socket);
	EXPECT_EQ(write(*(int *)argument, "x", 1), 1);
	EXPECT_EQ(ew_socket_receive(held.socket, &data), 1);
	on_thread(close_on_thread, &held);
	return NULL;
}

TEST(close_of_what_a_plain_thread_has_is_done_when_that_ends)
{
	struct descriptors before = descriptors_now();
	int peer;

	on_thread(lend_and_end, &peer);
	close(peer);
	expect_same_descriptors(&before);
}

/* ---- a thread and its runs ---- */

static int sleep_shortly(void *argument)
{
	(void)argument;
	return ew_sleep(EW_MILLISECOND);
}

TEST(thread_that_has_suspended_may_run_a_runtime)
{
	int i;
	EW_SCOPE(scope);

	for (i = 0; i < 3; i++) {
		EXPECT_EQ(ew_sleep(1), 0);
		EXPECT_EQ(run_virtual(sleep_shortly, NULL), 0);
		EXPECT_EQ(run_workers(2, sleep_shortly, NULL), 0);
	}
	EXPECT_EQ(ew_scope_finish(&scope, ew_sleep(1)), 0);
}

static void *make_things(void *argument)
{
	struct thing *things = argument;

	EXPECT_EQ(ew_sleep(1), 0);
	THING_OPEN(&things[0], "forgotten");
	THING_OPEN(&things[1], "given");
	return NULL;
}

static int forget_on_a_thread(void *argument)
{
	struct thing *things = argument;
	pthread_t other;

	EXPECT_EQ(pthread_create(&other, NULL, make_things, things), 0);
	EXPECT_EQ(pthread_join(other, NULL), 0);
	return 0;
}

/* Of the thread, not of the runtime that runs meanwhile, whose report it is since no other is there. */
TEST(thread_that_ends_aborts_what_it_forgot)
{
	static struct thing things[2];

	EXPECT_EQ(run_workers(1, forget_on_a_thread, things), 0);
	EXPECT(reported("forgotten made at", "no owner at the end of the thread"));
	EXPECT_EQ(things[0].probe.aborted, 1);
	EXPECT_EQ(things[1].probe.aborted, 1);
	EXPECT_EQ(reports.count, 2);
}

struct handed {
	struct thing things[2];
	struct ew_event made, adopted;
};

static void *make_and_wait(void *argument)
{
	struct handed *handed = argument;

	make_things(handed->things);
	ew_event_set(&handed->made);
	EXPECT_EQ(ew_event_wait(&handed->adopted, EW_NEVER), 0);
	return NULL;
}

static int adopt_one(void *argument)
{
	struct handed *handed = argument;
	EW_OWN(thing, given);
	pthread_t other;

	EXPECT_EQ(pthread_create(&other, NULL, make_and_wait, handed), 0);
	EXPECT_EQ(ew_event_wait(&handed->made, EW_NEVER), 0);
	given = &handed->things[1];
	ew_adopt(&given);
	ew_event_set(&handed->adopted);
	EXPECT_EQ(pthread_join(other, NULL), 0);
	EXPECT_EQ(handed->things[0].probe.aborted, 1);
	EXPECT_EQ(handed->things[1].probe.aborted, 0);
	return ew_close(&given);
}

TEST(thread_that_ends_leaves_what_others_have_adopted)
{
	static struct handed handed;

	EXPECT_EQ(run_workers(1, adopt_one, &handed), 0);
	EXPECT_EQ(handed.things[1].probe.closed, 1);
	EXPECT_EQ(reports.count, 1);
}

static struct ew_mutex mutex;
static struct ew_mutex_hold *forgotten_hold;

static void *lock_and_leave(void *argument)
{
	(void)argument;
	EXPECT_EQ(ew_mutex_lock(&mutex, EW_NEVER, &forgotten_hold), 0);
	return NULL;
}

TEST(thread_that_ends_with_a_lock_tells_the_next)
{
	EW_OWN(ew_mutex_hold, hold);

	on_thread(lock_and_leave, NULL);
	EXPECT_EQ(ew_mutex_lock(&mutex, EW_NEVER, &hold), -EOWNERDEAD);
	ew_mutex_make_consistent(hold);
}

static int peers[2];

static void *leave_sockets(void *argument)
{
	static struct ew_socket *watched, *lent;
	const char *data;
	EW_SCOPE(scope);

	(void)argument;
	watched = lent = NULL;
	peers[0] = unix_peer(&watched);
	peers[1] = unix_peer(&lent);
	ew_socket_cancel_on_hangup(watched, &scope, false);
	EXPECT_EQ(write(peers[1], "x", 1), 1);
	EXPECT_EQ(ew_socket_receive(lent, &data), 1);
	return NULL;
}

TEST(thread_that_ends_aborts_sockets_with_a_watch_or_a_buffer)
{
	struct descriptors before = descriptors_now();

	on_thread(leave_sockets, NULL);
	close(peers[0]);
	close(peers[1]);
	expect_same_descriptors(&before);
}

static void *exit_inside(void *argument)
{
	EW_SCOPE(scope, .deadline_ns = ew_after(3600 * EW_SECOND));

	(void)argument;
	EXPECT_EQ(ew_sleep(1), 0);
	pthread_exit(NULL);
}

static void exit_from_a_scope(void)
{
	on_thread(exit_inside, NULL);
	_exit(7);
}

TEST(thread_that_exits_inside_a_scope_is_reported)
{
	struct ended ended = run_process(exit_from_a_scope);

	EXPECT(WIFEXITED(ended.status) && WEXITSTATUS(ended.status) == 7);
	EXPECT(strstr(ended.text, "ended inside a block"));
}

static void *sleep_on_thread(void *argument)
{
	(void)argument;
	EXPECT_EQ(ew_sleep(EW_MICROSECOND), 0);
	return NULL;
}

TEST(threads_by_the_thousand_leave_no_descriptor)
{
	unsigned i, count = SANITIZED || RUNNING_ON_VALGRIND ? 100 : 1000;
	struct descriptors before = descriptors_now();

	for (i = 0; i < count; i++)
		on_thread(sleep_on_thread, NULL);
	expect_same_descriptors(&before);
}

/* ---- who holds a worker ---- */

struct held_thread {
	struct ew_worker *_Atomic worker;
	struct ew_event found, held;
	struct ew__message message;
	bool told;
	pthread_t thread;
};

static void be_told(struct ew__message *message)
{
	ew__container_of(message, struct held_thread, message)->told = true;
}

static void *be_found_and_end(void *argument)
{
	struct held_thread *held = argument;

	EXPECT_EQ(ew_sleep(1), 0);
	held->worker = ew__worker;
	ew_event_set(&held->found);
	EXPECT_EQ(ew_event_wait(&held->held, EW_NEVER), 0);
	held->worker = NULL;
	return NULL;
}

static struct ew_worker *hold_thread(struct held_thread *held)
{
	struct ew_worker *worker;

	held->message.deliver = be_told;
	EXPECT_EQ(pthread_create(&held->thread, NULL, be_found_and_end, held), 0);
	EXPECT_EQ(ew_event_wait(&held->found, EW_NEVER), 0);
	worker = ew__worker_hold(&held->worker);
	ew_event_set(&held->held);
	EXPECT(worker);
	return worker;
}

static void tell_held(struct held_thread *held, struct ew_worker *worker)
{
	ew__post_to_held(worker, &held->message);
	EXPECT_EQ(pthread_join(held->thread, NULL), 0);
	EXPECT(held->told);
}

/* Whoever closes something of a thread's may have found that, and not told it yet. */
TEST(thread_does_not_end_before_who_has_found_it_has_told_it)
{
	struct held_thread held = { .told = false };
	struct ew_worker *worker = hold_thread(&held);
	int i;

	for (i = 0; i < 1000 && held.worker; i++)
		sched_yield();
	for (i = 0; i < 1000; i++)
		sched_yield(); /* time enough to end */
	tell_held(&held, worker);
}

static int end_at_once(void *argument)
{
	(void)argument;
	return 7;
}

TEST(fork_of_a_process_in_which_a_worker_is_held_can_end)
{
	struct held_thread held = { .told = false };
	struct ew_worker *worker;
	int status;
	pid_t child;

	if (THREAD_SANITIZED)
		SKIP("ThreadSanitizer takes the scheduler's stack for a thread, which a fork leaves behind");
	if (RUNNING_ON_VALGRIND)
		SKIP("Valgrind has the parent's rings in its books, which a fork leaves behind, and no place for a new one");
	worker = hold_thread(&held);
	child = fork();
	EXPECT(child >= 0);
	if (child == 0) {
		alarm(60); /* its parent waits */
		_exit(run_workers(1, end_at_once, NULL));
	}
	EXPECT_EQ(waitpid(child, &status, 0), child);
	EXPECT(WIFEXITED(status) && WEXITSTATUS(status) == 7);
	tell_held(&held, worker);
}

/* ---- forks ---- */

static int go_on_in_the_child(struct ew_socket *socket, struct ew_scope *scope)
{
	struct ew_event never = { 0 };
	char byte = 0;

	if (ew_socket_recv(socket, &byte, 1) != 1 || byte != 'y')
		return 1;
	if (ew_event_wait(&never, ew_after(EW_MILLISECOND)) != -ETIMEDOUT)
		return 2;
	ew_scope_cancel(scope, EW_REASON_REQUESTED);
	return ew_event_wait(&never, EW_NEVER) == -ECANCELED ? 7 : 3;
}

/* The child has a driver of its own, in the scope that its parent was in; the parent's goes on. */
TEST(thread_forks_and_both_go_on)
{
	EW_OWN(ew_socket, socket);
	EW_SCOPE(scope);
	int peer = unix_peer(&socket), status;
	pid_t child;
	char byte;

	if (THREAD_SANITIZED)
		SKIP("ThreadSanitizer takes the scheduler's stack for a thread, which a fork leaves behind");
	EXPECT_EQ(write(peer, "xy", 2), 2);
	EXPECT_EQ(ew_socket_recv(socket, &byte, 1), 1);
	child = fork();
	EXPECT(child >= 0);
	if (child == 0)
		_exit(go_on_in_the_child(socket, &scope));
	EXPECT_EQ(waitpid(child, &status, 0), child);
	EXPECT(WIFEXITED(status) && WEXITSTATUS(status) == 7);
	EXPECT_EQ(ew_sleep(1), 0);
	EXPECT_EQ(write(peer, "z", 1), 1);
	EXPECT_EQ(ew_socket_recv(socket, &byte, 1), 1);
	EXPECT_EQ(byte, 'z');
	close(peer);
}

TEST_MAIN()
