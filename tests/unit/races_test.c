/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Operation against cancel, at a moment that chance chooses, many times for each class: -ECANCELED means that nothing
 * has happened, and what was put in comes out once. Each class provokes what a task waits for and cancels the task, in
 * either order, with no turn or some between. EW_TEST_RACES says how many races each class has. A class that hardly ever
 * ends one way shows in the counts that are printed, and is no failure: a machine that is busy may be why.
 */

#include "io.h"

#include <sys/ioctl.h>
#include <sys/mman.h>

#define RACES_DEFAULT  10000
#define PROCESS_ONE_OF 10 /* a process costs a millisecond */

static struct {
	struct ew_event event;
	struct ew_mutex mutex;
	struct ew_semaphore *semaphore;
	struct ew_channel *channel;
	struct ew_socket *socket;
	struct ew_pipe *source;
	struct ew_condition condition;
	struct ew_mutex condition_mutex;
	struct ew_signals *signals;
	struct ew_socket *full_socket;
	struct ew_pipe *full_pipe;
	struct ew_listener *listener;
	struct ew_file *file;
	struct ew_process *process;
	struct sockaddr_un address; /* of a plain listener */
	struct ew_mutex_hold *hold;
	struct ew_permit *permit;
	int peer;
	int full_peer;	 /* of full_socket */
	int full_source; /* of full_pipe */
	int plain;	 /* listener */
	int connected;	 /* to the listener */
	ssize_t filled;
	ssize_t drained;
	char written;
	uint64_t done, cancelled;
	int64_t due_ns;
	_Atomic unsigned calls;
	char byte;
} world;

struct race_class {
	const char *name;
	int (*operate)(void);	   /* in the task that is cancelled; 0: done */
	void (*provoke)(void);	   /* makes it end */
	void (*settle)(bool done); /* what is left says whether it was done; all is as before */
};

static int count_call(void *argument)
{
	(void)argument;
	atomic_fetch_add(&world.calls, 1);
	return 0;
}

static void provoke_nothing(void)
{
}

static int sleep_a_little(void)
{
	world.due_ns = ew_after(chance(20) * EW_MICROSECOND);
	return ew_sleep_until(world.due_ns);
}

static void settle_sleep(bool done)
{
	EXPECT(!done || ew_now() >= world.due_ns);
}

static int wait_event(void)
{
	return ew_event_wait(&world.event, EW_NEVER);
}

static void set_event(void)
{
	ew_event_set(&world.event);
}

static void settle_event(bool done)
{
	EXPECT(!done || ew_event_is_set(&world.event));
	EXPECT(!world.event.first);
	ew_event_reset(&world.event);
}

static int acquire_permit(void)
{
	struct ew_permit *permit = NULL;
	int r = ew_semaphore_acquire(world.semaphore, EW_NEVER, &permit);

	EXPECT_EQ(permit != NULL, r == 0);
	ew_permit_release(&permit);
	return r;
}

static void release_permit(void)
{
	ew_permit_release(&world.permit);
}

static void settle_permit(bool done)
{
	(void)done;
	EXPECT_EQ(ew_semaphore_count(world.semaphore).free, 1);
	EXPECT_EQ(ew_semaphore_count(world.semaphore).waiting, 0);
	EXPECT_EQ(ew_semaphore_try_acquire(world.semaphore, &world.permit), 0);
}

static int lock_mutex(void)
{
	struct ew_mutex_hold *hold = NULL;
	int r = ew_mutex_lock(&world.mutex, EW_NEVER, &hold);

	EXPECT_EQ(hold != NULL, r == 0);
	ew_mutex_unlock(&hold);
	return r;
}

/* The lock is the driving task's. */
static void unlock_mutex(void)
{
	ew_mutex_unlock(&world.hold);
}

static void settle_mutex(bool done)
{
	(void)done;
	EXPECT_EQ(ew_mutex_try_lock(&world.mutex, &world.hold), 0);
}

static int receive_message(void)
{
	int r = ew_channel_receive(world.channel, EW_NEVER, &world.byte);

	EXPECT(r == 1 || r == -ECANCELED);
	return r < 0 ? r : 0;
}

static void send_message(void)
{
	char byte = 'm';

	EXPECT_EQ(ew_channel_try_send(world.channel, &byte), 0);
}

static void settle_message(bool done)
{
	EXPECT_EQ(ew_channel_try_receive(world.channel, &world.byte), done ? -EAGAIN : 1);
	EXPECT_EQ(world.byte, 'm');
	world.byte = 0;
}

static int offload_call(void)
{
	int result = -1, r = ew_offload(count_call, NULL, &result);

	EXPECT_EQ(result, r == 0 ? 0 : -1);
	return r;
}

static void settle_call(bool done)
{
	EXPECT_EQ(atomic_exchange(&world.calls, 0), done);
}

static int join_child(void)
{
	EW_SCOPE(scope);

	if (ew_spawn(&scope, count_call, NULL) < 0)
		return -ECANCELED;
	EXPECT_EQ(ew_scope_join(&scope), 0);
	return 0;
}

static int recv_byte(void)
{
	int r = ew_socket_recv(world.socket, &world.byte, 1);

	EXPECT(r == 1 || r == -ECANCELED);
	return r < 0 ? r : 0;
}

static int receive_byte(void)
{
	const char *data;
	int r = ew_socket_receive(world.socket, &data);

	EXPECT(r == 1 || r == -ECANCELED);
	ew_socket_release(world.socket);
	return r < 0 ? r : 0;
}

static void write_byte(void)
{
	EXPECT_EQ(write(world.peer, "b", 1), 1);
}

static void settle_byte(bool done)
{
	char byte;

	EXPECT_EQ(recv(ew_socket_fd(world.socket), &byte, 1, MSG_DONTWAIT), done ? -1 : 1);
}

static int read_pipe(void)
{
	int r = ew_pipe_read(world.source, &world.byte, 1);

	EXPECT(r == 1 || r == -ECANCELED);
	return r < 0 ? r : 0;
}

static int pipe_peer;

static void write_pipe(void)
{
	EXPECT_EQ(write(pipe_peer, "b", 1), 1);
}

static void settle_pipe(bool done)
{
	int left;
	char byte;

	EXPECT_EQ(ioctl(ew_pipe_fd(world.source), FIONREAD, &left), 0);
	EXPECT_EQ(left, !done);
	if (left)
		EXPECT_EQ(read(ew_pipe_fd(world.source), &byte, 1), 1);
}

static int wait_condition(void)
{
	struct ew_mutex_hold *hold = NULL;
	int r = ew_mutex_lock(&world.condition_mutex, EW_NEVER, &hold);

	if (r == 0) {
		r = ew_condition_wait(&world.condition, EW_NEVER, &hold);
		EXPECT(hold);
	}
	ew_mutex_unlock(&hold);
	return r;
}

static void signal_condition(void)
{
	ew_condition_signal(&world.condition);
}

static void settle_condition(bool done)
{
	struct ew_mutex_hold *hold = NULL;

	(void)done;
	EXPECT(!world.condition.first);
	EXPECT_EQ(ew_mutex_try_lock(&world.condition_mutex, &hold), 0);
	ew_mutex_unlock(&hold);
}

static int wait_signal(void)
{
	int r = ew_signals_wait(world.signals);

	EXPECT(r == SIGUSR1 || r == -ECANCELED);
	return r < 0 ? r : 0;
}

static void send_signal(void)
{
	EXPECT_EQ(kill(getpid(), SIGUSR1), 0);
}

static void settle_signal(bool done)
{
	const struct timespec at_once = { 0 };
	sigset_t set;

	sigemptyset(&set);
	sigaddset(&set, SIGUSR1);
	EXPECT_EQ(sigtimedwait(&set, NULL, &at_once), done ? -1 : SIGUSR1);
}

/* All that is in there. */
static ssize_t drain(int fd)
{
	char bytes[4096];
	ssize_t sum = 0, n;
	int left;

	for (;;) {
		EXPECT_EQ(ioctl(fd, FIONREAD, &left), 0);
		if (!left)
			return sum;
		n = read(fd, bytes, sizeof(bytes));
		EXPECT(n > 0);
		sum += n;
	}
}

static void fill_socket(void)
{
	static const char bytes[1024];
	ssize_t n;

	for (world.filled = 0;; world.filled += n) {
		n = send(ew_socket_fd(world.full_socket), bytes, sizeof(bytes), MSG_DONTWAIT);
		if (n < 0)
			break;
	}
	EXPECT_EQ(errno, EAGAIN);
	world.drained = 0;
}

static int send_byte(void)
{
	return ew_socket_send(world.full_socket, "s", 1);
}

static void drain_socket(void)
{
	world.drained += drain(world.full_peer);
}

static void settle_send(bool done)
{
	drain_socket();
	EXPECT_EQ(world.drained, world.filled + done);
	fill_socket();
}

static void fill_pipe(void)
{
	static const char bytes[4096];

	EXPECT_EQ(write(ew_pipe_fd(world.full_pipe), bytes, sizeof(bytes)), sizeof(bytes));
	world.drained = 0;
}

static int write_full_pipe(void)
{
	return ew_pipe_write(world.full_pipe, "w", 1);
}

static void drain_pipe(void)
{
	world.drained += drain(world.full_source);
}

static void settle_write(bool done)
{
	drain_pipe();
	EXPECT_EQ(world.drained, 4096 + done);
	fill_pipe();
}

static int accept_one(void)
{
	EW_OWN(ew_socket, socket);
	int r = ew_listener_accept(world.listener, &socket);

	EXPECT_EQ(socket != NULL, r == 0);
	return r;
}

static void connect_one(void)
{
	struct sockaddr_storage address;

	EXPECT_EQ(ew_listener_address(world.listener, &address), 0);
	world.connected = plain_connect(&address, sizeof(sa_family_t) + 6); /* autobind, unix(7) */
}

static void settle_accept(bool done)
{
	if (!done)
		EXPECT_EQ(accept_one(), 0);
	close(world.connected);
}

static int connect_away(void)
{
	EW_OWN(ew_socket, socket);
	int r = ew_socket_connect((struct sockaddr *)&world.address, sizeof(sa_family_t) + 6,
				  &socket);

	EXPECT_EQ(socket != NULL, r == 0);
	return r;
}

static void settle_connect(bool done)
{
	int fd = accept4(world.plain, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);

	EXPECT(!done || fd >= 0);
	if (fd >= 0)
		close(fd);
}

static int write_file(void)
{
	char next = (char)(world.written + 1);

	return ew_file_write(world.file, &next, 1, 0);
}

static void settle_file(bool done)
{
	char there;

	world.written = (char)(world.written + done);
	EXPECT_EQ(pread(ew_file_fd(world.file), &there, 1, 0), 1);
	EXPECT_EQ(there, world.written);
}

static int read_file(void)
{
	char there;
	int r = ew_file_read(world.file, &there, 1, 0);

	if (r < 0)
		return r;
	EXPECT_EQ(r, 1);
	EXPECT_EQ(there, world.written);
	return 0;
}

/* A byte with a descriptor. */
static void pass_descriptor(void)
{
	union {
		char bytes[CMSG_SPACE(sizeof(int))];
		struct cmsghdr alignment;
	} control = { .bytes = { 0 } };
	char byte = 'd';
	struct iovec part = { .iov_base = &byte, .iov_len = 1 };
	struct msghdr message = {
		.msg_iov = &part,
		.msg_iovlen = 1,
		.msg_control = control.bytes,
		.msg_controllen = sizeof(control.bytes),
	};
	struct cmsghdr *header = CMSG_FIRSTHDR(&message);

	header->cmsg_level = SOL_SOCKET;
	header->cmsg_type = SCM_RIGHTS;
	header->cmsg_len = CMSG_LEN(sizeof(int));
	memcpy(CMSG_DATA(header), &world.peer, sizeof(world.peer));
	EXPECT_EQ(sendmsg(world.peer, &message, 0), 1);
}

static int recv_descriptor(void)
{
	EW_OWN(ew_file, file);
	int r = ew_socket_recv_fd(world.socket, &world.byte, 1, &file);

	EXPECT(r == 1 || r == -ECANCELED);
	EXPECT_EQ(file != NULL, r == 1);
	if (file)
		ew_abort(&file);
	return r < 0 ? r : 0;
}

static void settle_descriptor(bool done)
{
	if (!done)
		EXPECT_EQ(recv_descriptor(), 0);
	world.byte = 0;
	settle_byte(true);
}

static void start_process(void)
{
	static char *const argv[] = { (char *)"sleep", (char *)"1000", NULL };
	struct ew_process_options options = {
		.path = "/bin/sleep",
		.argv = argv,
		.stdin_fd = -1,
		.stdout_fd = -1,
		.stderr_fd = -1,
		.keep_fd = -1,
	};

	EXPECT_EQ(ew_process_spawn(&options, &world.process), 0);
}

static int wait_process(void)
{
	int status = 0, r = ew_process_wait(world.process, EW_NEVER, &status);

	EXPECT_EQ(status, r == 0 ? SIGKILL : 0);
	return r;
}

static void kill_process(void)
{
	siginfo_t info;

	EXPECT_EQ(ew_process_kill(world.process, SIGKILL), 0);
	EXPECT_EQ(waitid(P_PID, (id_t)ew_process_pid(world.process), &info, WEXITED | WNOWAIT), 0);
}

static void settle_process(bool done)
{
	(void)done;
	EXPECT_EQ(wait_process(), 0);
	EXPECT_EQ(ew_process_close(&world.process), 0);
	start_process();
}

static void settle_nothing(bool done)
{
	(void)done;
}

static const struct race_class classes[] = {
	{ "sleep", sleep_a_little, provoke_nothing, settle_sleep },
	{ "event", wait_event, set_event, settle_event },
	{ "semaphore", acquire_permit, release_permit, settle_permit },
	{ "mutex", lock_mutex, unlock_mutex, settle_mutex },
	{ "channel", receive_message, send_message, settle_message },
	{ "offload", offload_call, provoke_nothing, settle_call },
	{ "join", join_child, provoke_nothing, settle_call },
	{ "recv", recv_byte, write_byte, settle_byte },
	{ "receive", receive_byte, write_byte, settle_byte },
	{ "pipe read", read_pipe, write_pipe, settle_pipe },
	{ "pipe write", write_full_pipe, drain_pipe, settle_write },
	{ "send", send_byte, drain_socket, settle_send },
	{ "accept", accept_one, connect_one, settle_accept },
	{ "connect", connect_away, provoke_nothing, settle_connect },
	{ "poll", wait_signal, send_signal, settle_signal },
	{ "condition", wait_condition, signal_condition, settle_condition },
	{ "file write", write_file, provoke_nothing, settle_file },
	{ "file read", read_file, provoke_nothing, settle_nothing },
	{ "recvmsg", recv_descriptor, pass_descriptor, settle_descriptor },
};

#define CLASSES_COUNT	   (sizeof(classes) / sizeof(classes[0]))
#define CLASSES_OF_STREAMS 10 /* the first that needs more than race_all() makes */

struct racer {
	const struct race_class *class;
	int result;
};

static int racer_task(void *argument)
{
	struct racer *racer = argument;

	racer->result = racer->class->operate();
	return 0;
}

/* In a scope that may be cancelled. */
static void take_turns_shielded(unsigned count)
{
	EW_SHIELD(shield, .budget_ns = EW_SECOND * 60);

	take_turns(count);
}

static bool race_once(const struct race_class *class)
{
	struct racer racer = { .class = class };
	bool cancel_first = chance(2);
	EW_SCOPE(scope);

	EXPECT_EQ(ew_spawn(&scope, racer_task, &racer), 0);
	take_turns(chance(3));
	if (cancel_first)
		ew_scope_cancel(&scope, EW_REASON_REQUESTED);
	else
		class->provoke();
	take_turns_shielded(chance(3));
	if (cancel_first)
		class->provoke();
	else
		ew_scope_cancel(&scope, EW_REASON_REQUESTED);
	EXPECT_EQ(ew_scope_join(&scope), 0);
	EXPECT(racer.result == 0 || racer.result == -ECANCELED);
	return racer.result == 0;
}

static unsigned races_count(void)
{
	const char *text = getenv("EW_TEST_RACES");

	return text ? (unsigned)strtoul(text, NULL, 10) : RACES_DEFAULT;
}

static void race_class(const struct race_class *class, unsigned count)
{
	unsigned done = 0, i;

	for (i = 0; i < count; i++) {
		bool one = race_once(class);

		class->settle(one);
		done += one;
	}
	printf("# %-10s %u races: %u done, %u cancelled\n", class->name, count, done, count - done);
	world.done += done;
	world.cancelled += count - done;
}

/* A plain one, at an address that the kernel chooses (autobind, unix(7)): 0 and five digits. */
static void listen_plain(void)
{
	socklen_t bytes = sizeof(world.address);

	world.address.sun_family = AF_UNIX;
	world.plain = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	EXPECT(world.plain >= 0);
	EXPECT_EQ(bind(world.plain, (struct sockaddr *)&world.address, sizeof(sa_family_t)), 0);
	EXPECT_EQ(listen(world.plain, 16), 0);
	EXPECT_EQ(getsockname(world.plain, (struct sockaddr *)&world.address, &bytes), 0);
	EXPECT_EQ(bytes, sizeof(sa_family_t) + 6);
}

static void race_streams(void)
{
	const struct sockaddr_un anywhere = { .sun_family = AF_UNIX };
	const int small = 1;
	EW_OWN(ew_listener, listener);
	EW_OWN(ew_socket, full);
	EW_OWN(ew_pipe, full_pipe);
	EW_OWN(ew_pipe, full_source);
	EW_OWN(ew_signals, signals);
	EW_OWN(ew_file, file);
	sigset_t set;
	size_t i;

	sigemptyset(&set);
	sigaddset(&set, SIGUSR1);
	EXPECT_EQ(ew_signals_open(&set, &signals), 0);
	EXPECT_EQ(ew_listener_open((const struct sockaddr *)&anywhere, sizeof(sa_family_t), 16,
				   &listener),
		  0);
	EXPECT_EQ(ew_pipe_open(&full_source, &full_pipe), 0);
	EXPECT_EQ(fcntl(ew_pipe_fd(full_pipe), F_SETPIPE_SZ, 4096), 4096);
	EXPECT_EQ(ew_file_adopt(memfd_create("races", MFD_CLOEXEC), &file), 0);
	EXPECT_EQ(pwrite(ew_file_fd(file), "", 1, 0), 1);
	world.full_peer = unix_peer(&full);
	EXPECT_EQ(setsockopt(ew_socket_fd(full), SOL_SOCKET, SO_SNDBUF, &small, sizeof(small)), 0);
	world.full_socket = full;
	world.full_pipe = full_pipe;
	world.full_source = ew_pipe_fd(full_source);
	world.signals = signals;
	world.listener = listener;
	world.file = file;
	listen_plain();
	for (i = CLASSES_OF_STREAMS; i < CLASSES_COUNT; i++) {
		if (classes[i].operate == write_full_pipe)
			fill_pipe();
		if (classes[i].operate == send_byte)
			fill_socket();
		race_class(&classes[i], races_count());
	}
	close(world.plain);
	close(world.full_peer);
}

static int race_all(void *argument)
{
	EW_OWN(ew_channel, channel);
	EW_OWN(ew_socket, socket);
	EW_OWN(ew_pipe, source);
	EW_OWN(ew_pipe, sink);
	size_t i;

	(void)argument;
	EXPECT_EQ(ew_channel_new(1, 1, NULL, &channel), 0);
	EXPECT_EQ(ew_pipe_open(&source, &sink), 0);
	world.peer = unix_peer(&socket);
	world.channel = channel;
	world.socket = socket;
	world.source = source;
	pipe_peer = ew_pipe_fd(sink);
	world.semaphore = ew_semaphore_new(1, 4);
	EXPECT(world.semaphore);
	EXPECT_EQ(ew_semaphore_try_acquire(world.semaphore, &world.permit), 0);
	EXPECT_EQ(ew_mutex_try_lock(&world.mutex, &world.hold), 0);
	for (i = 0; i < CLASSES_OF_STREAMS; i++)
		race_class(&classes[i], races_count());
	race_streams();
	ew_mutex_unlock(&world.hold);
	ew_permit_release(&world.permit);
	ew_semaphore_free(world.semaphore);
	close(world.peer);
	return 0;
}

static int race_processes(void *argument)
{
	static const struct race_class class = { "process", wait_process, kill_process,
						 settle_process };

	(void)argument;
	start_process();
	race_class(&class, races_count() / PROCESS_ONE_OF);
	return ew_process_close(&world.process);
}

static void test_races(ew_task_fn *fn)
{
	struct descriptors before = descriptors_now();
	sigset_t signals;
	struct ew_run_options options = { .workers_count = 1, .signals = &signals };

	chance_begin();
	sigemptyset(&signals);
	sigaddset(&signals, SIGUSR1);
	EXPECT_EQ(ew_run(&options, fn, NULL), 0);
	expect_same_descriptors(&before);
	EXPECT(world.done > 0 && world.cancelled > 0);
}

TEST(races_of_operation_and_cancel_have_one_outcome)
{
	test_races(race_all);
}

TEST(process_wait_that_races_with_a_cancel_has_one_outcome)
{
	test_races(race_processes);
}

TEST_MAIN()
