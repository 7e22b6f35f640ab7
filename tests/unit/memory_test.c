/* SPDX-License-Identifier: Apache-2.0 */

/*
 * P15: endings need no new memory. One resource of each kind is made, then every allocation fails, and each way
 * out must still end all of them. (The pool may ask for one more thread then, and goes on with those it has.)
 */

#include "io.h"

#include <endwell/pipe.h>
#include <endwell/process.h>
#include <endwell/semaphore.h>
#include <endwell/signals.h>
#include <sys/wait.h>

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define OWN_ALLOCATOR 0
#elif defined(__has_feature)
#define OWN_ALLOCATOR (!__has_feature(address_sanitizer) && !__has_feature(thread_sanitizer))
#else
#define OWN_ALLOCATOR 1
#endif

static _Atomic bool refusing;

#if OWN_ALLOCATOR
void *__libc_malloc(size_t bytes);
void *__libc_calloc(size_t count, size_t bytes);
void *__libc_realloc(void *memory, size_t bytes);

static bool refuse(void)
{
	if (refusing)
		errno = ENOMEM;
	return refusing;
}

void *malloc(size_t bytes)
{
	return refuse() ? NULL : __libc_malloc(bytes);
}

void *calloc(size_t count, size_t bytes)
{
	return refuse() ? NULL : __libc_calloc(count, bytes);
}

void *realloc(void *memory, size_t bytes)
{
	return refuse() ? NULL : __libc_realloc(memory, bytes);
}
#endif

enum way { BY_NAME, BY_LEAVING, BY_CANCEL, BY_FORCE, BY_PANIC };

struct state {
	struct ew_semaphore *semaphore;
	struct directory place;
	struct ew_file *dir;
	struct sockaddr_storage address;
	enum way way;
	int queued_peer;
	int peer;
};

static void open_all(struct state *state, struct ew_file **file, struct ew_tempfile **tempfile,
		     struct ew_tempfile **named, struct ew_listener **listener,
		     struct ew_pipe **ends)
{
	struct sockaddr_in loop = loopback(0);
	struct ew_socket *first = NULL;
	int fd;

	EXPECT_EQ(ew_file_open(state->dir, "plain", O_RDWR | O_CREAT, 0600, file), 0);
	EXPECT_EQ(ew_tempfile_open(state->dir, tempfile), 0);
	EXPECT_EQ(ew_file_write(ew_tempfile_file(*tempfile), "abc", 3, 0), 0);
	EXPECT_EQ(ew_tempfile_open_named(state->dir, "named", named), 0);
	EXPECT_EQ(ew_file_write(ew_tempfile_file(*named), "abc", 3, 0), 0);
	EXPECT_EQ(ew_pipe_open(&ends[0], &ends[1]), 0);
	EXPECT_EQ(ew_listener_open((struct sockaddr *)&loop, sizeof(loop), 16, listener), 0);
	EXPECT_EQ(ew_listener_address(*listener, &state->address), 0);
	/* Accepts run ahead: one connection is taken, one waits in the listener, the operation is armed. */
	fd = plain_connect(&state->address, sizeof(loop));
	state->queued_peer = plain_connect(&state->address, sizeof(loop));
	EXPECT_EQ(ew_listener_accept(*listener, &first), 0);
	EXPECT_EQ(ew_socket_close(&first), 0);
	close(fd);
}

static void start_child(struct ew_process **process)
{
	char *const argv[] = { "sleep", "1000", NULL };
	const struct ew_process_options options = {
		.path = "/bin/sleep",
		.argv = argv,
		.stdin_fd = -1,
		.stdout_fd = -1,
		.stderr_fd = -1,
		.keep_fd = -1,
	};

	EXPECT_EQ(ew_process_spawn(&options, process), 0);
}

static int forget(void *socket)
{
	ew_socket_forget_hangup(socket);
	return 0;
}

static void forget_now(void *socket)
{
	ew_socket_forget_hangup(socket);
}

/* Has one of each, then no memory, then leaves. */
static int hold_all(void *argument)
{
	struct state *state = argument;
	struct ew_pipe *ends[2] = { NULL, NULL };
	const char *lent;
	sigset_t signals;
	EW_OWN(ew_file, file);
	EW_OWN(ew_tempfile, tempfile);
	EW_OWN(ew_tempfile, named);
	EW_OWN(ew_listener, listener);
	EW_OWN(ew_socket, socket);
	EW_OWN(ew_pipe, read_end);
	EW_OWN(ew_pipe, write_end);
	EW_OWN(ew_process, process);
	EW_OWN(ew_signals, waiter);
	EW_OWN(ew_permit, permit);
	EW_SCOPE(request);

	open_all(state, &file, &tempfile, &named, &listener, ends);
	read_end = ends[0];
	write_end = ends[1];
	state->peer = tcp_peer(&socket);
	EXPECT_EQ(write(state->peer, "x", 1), 1);
	EXPECT_EQ(ew_socket_receive(socket, &lent), 1);
	ew_socket_cancel_on_hangup(socket, &request, true);
	EW_GUARD(hangup, socket, .close = forget, .abort = forget_now);
	start_child(&process);
	sigemptyset(&signals);
	sigaddset(&signals, SIGUSR1);
	EXPECT_EQ(ew_signals_open(&signals, &waiter), 0);
	EXPECT_EQ(ew_semaphore_acquire(state->semaphore, EW_NEVER, &permit), 0);

	refusing = true;
	switch (state->way) {
	case BY_NAME:
		ew_socket_forget_hangup(socket);
		EXPECT_EQ(ew_process_close(&process), 0);
		EXPECT_EQ(ew_signals_close(&waiter), 0);
		EXPECT_EQ(ew_socket_close(&socket), 0);
		EXPECT_EQ(ew_listener_close(&listener), 0);
		EXPECT_EQ(ew_tempfile_close(&tempfile), 0);
		EXPECT_EQ(ew_tempfile_close(&named), 0);
		EXPECT_EQ(ew_file_close(&file), 0);
		EXPECT_EQ(ew_pipe_close(&read_end), 0);
		EXPECT_EQ(ew_pipe_close(&write_end), 0);
		ew_permit_release(&permit);
		return 0;
	case BY_PANIC: ew_panic("no memory");
	case BY_LEAVING: return 0;
	default: return ew_sleep_until(EW_NEVER);
	}
}

static int hold_and_end(void *argument)
{
	struct state *state = argument;
	EW_SCOPE(scope, .policy = EW_POLICY_INDEPENDENT,
		 .budget_ns = state->way == BY_FORCE ? EW_NANOSECOND : 0);

	EXPECT_EQ(ew_file_open(NULL, state->place.path, O_RDONLY | O_DIRECTORY, 0, &state->dir), 0);
	EXPECT_EQ(ew_spawn(&scope, hold_all, state), 0);
	if (state->way == BY_CANCEL || state->way == BY_FORCE) {
		TURNS_UNTIL(refusing);
		ew_scope_cancel(&scope, EW_REASON_REQUESTED);
	}
	(void)!ew_scope_finish(&scope, 0);
	EXPECT_EQ(ew_file_close(&state->dir), 0);
	return 0;
}

static void expect_ended(enum way way)
{
	struct state state = { .way = way, .semaphore = ew_semaphore_new(1, 1) };
	struct descriptors before;
	struct ew_run_options options = { .workers_count = 1 };
	sigset_t signals;

	if (!OWN_ALLOCATOR)
		SKIP("the sanitizer has the allocator");
	directory_make(&state.place);
	before = descriptors_now();
	sigemptyset(&signals);
	sigaddset(&signals, SIGUSR1);
	options.signals = &signals;
	EXPECT_EQ(ew_run(&options, hold_and_end, &state), 0);
	refusing = false;
	close(state.peer);
	close(state.queued_peer);
	EXPECT(!has_file(&state.place, "named"));
	expect_same_descriptors(&before);
	directory_remove(&state.place);
	EXPECT_EQ(waitpid(-1, NULL, WNOHANG), -1);
	EXPECT_EQ(errno, ECHILD);
	EXPECT_EQ(ew_semaphore_count(state.semaphore).free, 1);
	ew_semaphore_free(state.semaphore);
}

TEST(endings_by_name_need_no_memory)
{
	expect_ended(BY_NAME);
}

TEST(endings_on_the_way_out_need_no_memory)
{
	expect_ended(BY_LEAVING);
}

TEST(endings_of_a_cancelled_task_need_no_memory)
{
	expect_ended(BY_CANCEL);
}

TEST(endings_by_force_need_no_memory)
{
	expect_ended(BY_FORCE);
}

TEST(endings_of_a_panic_need_no_memory)
{
	expect_ended(BY_PANIC);
}

TEST_MAIN()
