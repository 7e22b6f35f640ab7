/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Operations and the runtime under them: outcomes, more at once than the rings hold, kernels and hosts that refuse
 * something, and that nothing of any kind is left at the end.
 */

#include "io.h"
#include "io/op.h"

#include <pthread.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>

/* ---- bytes sent ---- */

#define SENDING_BYTES 100000

struct sending {
	struct ew_socket *socket;
	int peer;
	size_t sent;
	size_t received;
	unsigned refused;
	unsigned partial;
};

static char byte_at(size_t i)
{
	return (char)(i * 2654435761u >> 13);
}

/* Sends the next bytes of a known sequence until it is cancelled; counts what each operation says it sent. */
static int send_task(void *argument)
{
	struct sending *sending = argument;
	char *data = malloc(SENDING_BYTES);
	size_t i;
	int r;

	EXPECT(data);
	do {
		struct ew__task_op send = {
			.op = {
				.code = EW__OP_SEND,
				.fd = ew_socket_fd(sending->socket),
				.address = data,
				.length = SENDING_BYTES,
			},
		};

		for (i = 0; i < SENDING_BYTES; i++)
			data[i] = byte_at(sending->sent + i);
		r = ew__op_run_polled(&send, "a peer to take bytes");
		EXPECT_EQ(ew_outcome(), r < 0		    ? EW_OUTCOME_NONE
					: r < SENDING_BYTES ? EW_OUTCOME_PARTIAL
							    : EW_OUTCOME_DONE);
		sending->partial += r > 0 && r < SENDING_BYTES;
		sending->sent += r > 0 ? (size_t)r : 0;
	} while (r >= 0);
	EXPECT_EQ(r, -ECANCELED);
	sending->refused++;
	free(data);
	return 0;
}

static void *receive_all(void *argument)
{
	struct sending *sending = argument;
	static char data[8192];
	ssize_t count, i;

	while ((count = read(sending->peer, data, sizeof(data))) > 0) {
		for (i = 0; i < count; i++)
			EXPECT_EQ(data[i], byte_at(sending->received + (size_t)i));
		sending->received += (size_t)count;
	}
	return NULL;
}

static int send_in_pieces(void *argument)
{
	struct sending sending = { 0 };
	EW_OWN(ew_socket, socket);
	pthread_t receiver;
	unsigned i;

	(void)argument;
	sending.peer = unix_peer(&socket);
	sending.socket = socket;
	EXPECT_EQ(pthread_create(&receiver, NULL, receive_all, &sending), 0);
	/* Until one was cut short, which is a matter of chance. */
	for (i = 0; i < 500 || !sending.partial; i++) {
		EW_SCOPE(scope);
		EXPECT_EQ(ew_spawn(&scope, send_task, &sending), 0);
		take_turns(chance(8));
		ew_scope_cancel(&scope, EW_REASON_REQUESTED);
		EXPECT_EQ(ew_scope_join(&scope), 0);
	}
	EXPECT_EQ(ew_socket_close(&socket), 0);
	EXPECT_EQ(pthread_join(receiver, NULL), 0);
	EXPECT_EQ(sending.sent, sending.received);
	EXPECT_EQ(sending.refused, i);
	close(sending.peer);
	return 0;
}

/* The sum of what the operations claim is what arrives, also of those that a cancel cut. */
TEST(op_send_cancelled_at_random_claims_what_arrives)
{
	chance_begin();
	EXPECT_EQ(run_workers(1, send_in_pieces, NULL), 0);
}

/* ---- connecting to a unix listener that is full: by uring not on a poll queue, but on a thread of the kernel's ---- */

struct dial {
	struct sockaddr_un address;
	int result;
	enum ew_outcome outcome;
	bool done;
};

static int dial_task(void *argument)
{
	struct dial *dial = argument;
	EW_OWN(ew_socket, socket);

	dial->result = ew_socket_connect((struct sockaddr *)&dial->address, sizeof(dial->address),
					 &socket);
	dial->outcome = ew_outcome();
	dial->done = true;
	return ew_socket_close(&socket);
}

static unsigned kernel_threads_count(void)
{
	DIR *tasks = opendir("/proc/self/task");
	struct dirent *entry;
	unsigned count = 0;
	char path[300], name[32] = "";
	int fd;

	EXPECT(tasks);
	while ((entry = readdir(tasks))) {
		snprintf(path, sizeof(path), "/proc/self/task/%s/comm", entry->d_name);
		fd = open(path, O_RDONLY | O_CLOEXEC);
		if (fd < 0)
			continue;
		memset(name, 0, sizeof(name));
		count += read(fd, name, sizeof(name) - 1) > 0 && !strncmp(name, "iou-wrk", 7);
		close(fd);
	}
	closedir(tasks);
	return count;
}

static int dial_full(void *argument)
{
	struct directory *directory = argument;
	struct dial dial = { .address.sun_family = AF_UNIX };
	int listener = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0), first;
	unsigned i;

	snprintf(dial.address.sun_path, sizeof(dial.address.sun_path), "%.90s/socket",
		 directory->path);
	EXPECT_EQ(bind(listener, (struct sockaddr *)&dial.address, sizeof(dial.address)), 0);
	EXPECT_EQ(listen(listener, 0), 0);
	first = plain_connect(&dial.address, sizeof(dial.address));
	for (i = 0; i < 20; i++) {
		dial.done = false;
		EW_SCOPE(scope);
		EXPECT_EQ(ew_spawn(&scope, dial_task, &dial), 0);
		TURNS_UNTIL(kernel_threads_count() > 0 || !driver_is("uring"));
		take_turns(2 + i);
		EXPECT(!dial.done);
		ew_scope_cancel(&scope, EW_REASON_REQUESTED);
		EXPECT_EQ(ew_scope_join(&scope), 0);
		EXPECT_EQ(dial.result, -ECANCELED);
		EXPECT_EQ(dial.outcome, EW_OUTCOME_SPOILED);
	}
	close(first);
	close(listener);
	return 0;
}

TEST(op_connect_to_a_full_unix_listener_is_cancelled)
{
	struct descriptors before;
	struct directory directory;

	directory_make(&directory);
	before = descriptors_now();
	EXPECT_EQ(run_workers(1, dial_full, &directory), 0);
	expect_same_descriptors(&before);
	directory_remove(&directory);
}

/* ---- more at once than the rings hold ---- */

#define CROWD_COUNT 5000

struct crowd {
	struct ew_file *file;
	int fd;
	unsigned done;
};

static int read_task(void *argument)
{
	struct crowd *crowd = argument;
	char byte = 0;

	EXPECT_EQ(ew_file_read(crowd->file, &byte, 1, 0), 1);
	EXPECT_EQ(byte, 0);
	crowd->done++;
	return 0;
}

static int read_all_at_once(void *argument)
{
	struct crowd crowd = { 0 };
	EW_OWN(ew_file, file);
	unsigned i;
	EW_SCOPE(scope);

	(void)argument;
	EXPECT_EQ(ew_file_open(NULL, "/dev/zero", O_RDONLY, 0, &file), 0);
	crowd.file = file;
	for (i = 0; i < CROWD_COUNT; i++)
		EXPECT_EQ(ew_spawn(&scope, read_task, &crowd), 0);
	EXPECT_EQ(ew_scope_join(&scope), 0);
	EXPECT_EQ(crowd.done, CROWD_COUNT);
	return ew_file_close(&file);
}

/* Ten times what a submission queue takes. */
TEST(op_thousands_submitted_at_once_all_end)
{
	EXPECT_EQ(run_workers(1, read_all_at_once, NULL), 0);
}

static int poll_task(void *argument)
{
	struct crowd *crowd = argument;
	struct ew__task_op poll = {
		.op = { .code = EW__OP_POLL, .fd = crowd->fd, .flags = POLLIN }
	};
	int r = ew__op_run_polled(&poll, "bytes");

	EXPECT(r == -ECANCELED || (r & POLLIN));
	crowd->done += r > 0;
	return r < 0 ? r : 0;
}

static void poll_all_at_once(bool cancel)
{
	struct crowd crowd = { 0 };
	EW_OWN(ew_socket, socket);
	unsigned i;
	int peer = unix_peer(&socket);

	crowd.fd = ew_socket_fd(socket);
	{
		EW_SCOPE(scope);
		for (i = 0; i < CROWD_COUNT; i++)
			EXPECT_EQ(ew_spawn(&scope, poll_task, &crowd), 0);
		take_turns(2 + CROWD_COUNT / 256);
		EXPECT_EQ(crowd.done, 0);
		EXPECT_EQ(ew_scope_children_count(&scope), CROWD_COUNT);
		if (cancel)
			ew_scope_cancel(&scope, EW_REASON_REQUESTED);
		else
			EXPECT_EQ(write(peer, "x", 1), 1);
		EXPECT_EQ(ew_scope_join(&scope), cancel ? -ECANCELED : 0);
	}
	EXPECT_EQ(crowd.done, cancel ? 0 : CROWD_COUNT);
	close(peer);
}

static int poll_both_ways(void *argument)
{
	(void)argument;
	poll_all_at_once(false);
	poll_all_at_once(true);
	return 0;
}

/* One event ends more operations than a completion queue holds, and so does one cancel. */
TEST(op_thousands_ended_at_once_are_all_seen)
{
	EXPECT_EQ(run_workers(1, poll_both_ways, NULL), 0);
}

/* ---- no thread for the kernel ---- */

static int work_without_threads(void *argument)
{
	const struct directory *directory = argument;
	EW_OWN(ew_file, dir);
	EW_OWN(ew_file, file);
	EW_OWN(ew_tempfile, tempfile);
	rlim_t before = set_limit(RLIMIT_NPROC, 1);
	char text[8];

	EXPECT_EQ(ew_file_open(NULL, directory->path, O_RDONLY | O_DIRECTORY, 0, &dir), 0);
	EXPECT_EQ(ew_file_open(dir, "file", O_RDWR | O_CREAT | O_EXCL, 0600, &file), 0);
	EXPECT_EQ(ew_file_write(file, "hello", 5, 0), 0);
	EXPECT_EQ(ew_file_sync(file, false), 0);
	EXPECT_EQ(ew_file_link(file, dir, "linked"), 0);
	EXPECT_EQ(ew_outcome(), EW_OUTCOME_DONE);
	EXPECT_EQ(ew_file_link(file, dir, "linked"), -EEXIST);
	EXPECT_STR(file_text(directory, "linked"), "hello");
	EXPECT_EQ(ew_file_rename(dir, "linked", dir, "renamed", 0), 0);
	EXPECT_EQ(ew_file_unlink(dir, "file", 0), 0);
	EXPECT(!has_file(directory, "file") && !has_file(directory, "linked"));
	EXPECT_STR(file_text(directory, "renamed"), "hello");
	EXPECT_EQ(ew_file_unlink(dir, "renamed", 0), 0);
	EXPECT_EQ(ew_file_read(file, text, sizeof(text), 0), 5);
	EXPECT_EQ(ew_tempfile_open(dir, &tempfile), 0);
	EXPECT_EQ(ew_file_write(ew_tempfile_file(tempfile), "bytes", 5, 0), 0);
	EXPECT_EQ(ew_tempfile_seal(tempfile), 0);
	EXPECT_EQ(ew_tempfile_publish(tempfile, dir, "published"), 0);
	EXPECT_EQ(ew_file_sync(dir, false), 0);
	EXPECT_EQ(ew_tempfile_close(&tempfile), 0);
	EXPECT_STR(file_text(directory, "published"), "bytes");
	EXPECT_EQ(kernel_threads_count(), 0);
	set_limit(RLIMIT_NPROC, before);
	return 0;
}

/* The kernel gives such operations up with -ECANCELED that nobody asked for; they are carried out all the same. */
TEST(op_files_without_a_thread_for_the_kernel_are_carried_out)
{
	struct directory directory;

	become_ordinary();
	directory_make(&directory);
	EXPECT_EQ(run_workers(1, work_without_threads, &directory), 0);
	EXPECT_EQ(reports.count, 0);
	directory_remove(&directory);
}

/* ---- hosts that refuse ---- */

static int note_driver(void *argument)
{
	EXPECT(argument);
	snprintf(argument, 128, "%s", ew_driver_name());
	return 0;
}

static void expect_refused(int error, const char *words)
{
	struct descriptors before = descriptors_now();
	char name[128] = "";

	EXPECT_EQ(run_workers(2, note_driver, name), error);
	EXPECT_STR(name, "");
	EXPECT_EQ(reports.count, 1);
	EXPECT(reported(words, NULL));
	expect_same_descriptors(&before);
}

static void expect_epoll(const char *words)
{
	struct descriptors before = descriptors_now();
	char name[128] = "";

	EXPECT_EQ(unsetenv("EW_DRIVER"), 0);
	EXPECT_EQ(run_workers(2, note_driver, name), 0);
	EXPECT(strstr(name, "epoll (kernel ") == name);
	EXPECT_EQ(reports.count, 1);
	EXPECT(reported(words, "; epoll is used instead"));
	expect_same_descriptors(&before);
}

TEST(op_run_where_seccomp_refuses_io_uring_uses_epoll_and_says_so)
{
	refuse_call(SYS_io_uring_setup, EPERM);
	expect_epoll("io_uring is refused here");
	EXPECT(reported("seccomp", "kernel.io_uring_disabled"));
}

static void need_io_uring(void)
{
	if (syscall(SYS_io_uring_setup, 0, NULL) < 0 && errno != EFAULT && errno != EINVAL)
		SKIP("io_uring is refused here");
}

/* Where a profile names one of the three calls and forgets another. */
TEST(op_run_where_seccomp_refuses_to_enter_io_uring_uses_epoll_and_says_so)
{
	need_io_uring();
	refuse_call(SYS_io_uring_enter, EPERM);
	expect_epoll("io_uring is refused here (io_uring_enter");
}

TEST(op_run_where_seccomp_refuses_to_register_with_io_uring_uses_epoll_and_says_so)
{
	need_io_uring();
	refuse_call(SYS_io_uring_register, EPERM);
	expect_epoll("IORING_REGISTER_PROBE");
}

TEST(op_run_on_a_kernel_without_io_uring_uses_epoll_and_says_so)
{
	refuse_call(SYS_io_uring_setup, ENOSYS);
	expect_epoll("this kernel has no io_uring");
}

/* As a kernel before 6.1 answers. */
TEST(op_run_with_an_io_uring_that_is_too_old_uses_epoll_and_says_so)
{
	refuse_call(SYS_io_uring_setup, EINVAL);
	expect_epoll("Linux 6.1 or newer is needed");
}

TEST(op_run_with_io_uring_asked_for_and_refused_fails)
{
	EXPECT_EQ(setenv("EW_DRIVER", "uring", 1), 0);
	refuse_call(SYS_io_uring_setup, EPERM);
	expect_refused(-EPERM, "io_uring is refused here");
}

/* What is short now may be there for epoll, and the program would be slower for ever. */
TEST(op_run_with_an_io_uring_that_is_short_of_memory_fails)
{
	EXPECT_EQ(unsetenv("EW_DRIVER"), 0);
	refuse_call(SYS_io_uring_setup, ENOMEM);
	expect_refused(-ENOMEM, "io_uring has no memory");
}

TEST(op_run_with_epoll_asked_for_does_not_try_io_uring)
{
	char name[128] = "";

	EXPECT_EQ(setenv("EW_DRIVER", "epoll", 1), 0);
	EXPECT_EQ(run_workers(2, note_driver, name), 0);
	EXPECT(strstr(name, "epoll (kernel ") == name);
	EXPECT_EQ(reports.count, 0);
}

TEST(op_run_with_an_unknown_driver_is_refused)
{
	EXPECT_EQ(setenv("EW_DRIVER", "kqueue", 1), 0);
	expect_refused(-EINVAL, "EW_DRIVER=kqueue in the environment names no driver; there are "
				"uring, epoll and sim");
}

/* Whichever of the descriptors that two workers need is the one too many, the others are given back. */
TEST(op_run_without_descriptors_fails_and_leaves_nothing)
{
	struct descriptors before = descriptors_now();
	int lowest = dup(STDIN_FILENO), r = -1;
	unsigned more, failures = 0;
	rlim_t usual;
	char name[128];

	close(lowest);
	for (more = 0; r < 0; more++) {
		EXPECT(more < 64);
		name[0] = '\0';
		usual = set_limit(RLIMIT_NOFILE, (rlim_t)lowest + more);
		r = run_workers(2, note_driver, name);
		set_limit(RLIMIT_NOFILE, usual);
		EXPECT_EQ(name[0] != '\0', r == 0);
		EXPECT_EQ(reports.count, r < 0);
		failures += r < 0;
		expect_same_descriptors(&before);
	}
	EXPECT(failures > 2);
}

/* ---- a kernel that lacks what later ones have ---- */

static int work_a_little(void *argument)
{
	const struct directory *directory = argument;
	EW_OWN(ew_file, dir);
	EW_OWN(ew_tempfile, tempfile);
	EW_OWN(ew_socket, socket);
	const char *data;
	int peer = unix_peer(&socket);
	EW_SCOPE(scope);

	EXPECT(strstr(ew_driver_name(), "6.1 (by EW_KERNEL)"));
	EXPECT(strstr(ew_driver_name(), "mprotect"));
	EXPECT_EQ(ew_file_open(NULL, directory->path, O_RDONLY | O_DIRECTORY, 0, &dir), 0);
	EXPECT_EQ(ew_tempfile_open(dir, &tempfile), 0);
	EXPECT_EQ(write(peer, "hello", 5), 5);
	ew_socket_cancel_on_hangup(socket, &scope, true);
	EXPECT_EQ(ew_socket_receive(socket, &data), 5);
	EXPECT_EQ(ew_file_write(ew_tempfile_file(tempfile), data, 5, 0), 0);
	EXPECT_EQ(ew_tempfile_seal(tempfile), 0);
	EXPECT_EQ(ew_tempfile_publish(tempfile, dir, "name"), 0);
	EXPECT_STR(file_text(directory, "name"), "hello");
	close(peer);
	EXPECT_EQ(ew_sleep_until(EW_NEVER), -ECANCELED);
	EXPECT_EQ(ew_scope_reason(&scope), EW_REASON_PEER);
	ew_socket_forget_hangup(socket);
	return 0;
}

TEST(op_run_as_on_an_older_kernel)
{
	struct descriptors before;
	struct directory directory;

	EXPECT_EQ(setenv("EW_KERNEL", "6.1", 1), 0);
	directory_make(&directory);
	before = descriptors_now();
	EXPECT_EQ(run_workers(1, work_a_little, &directory), 0);
	expect_same_descriptors(&before);
	directory_remove(&directory);
}

/* ---- the end ---- */

static sigset_t signals_set;

struct forgetting {
	struct directory directory;
	struct ew_semaphore *semaphore;
	int peer;
	pid_t child;
	unsigned count;
};

static int accept_task(void *listener)
{
	EW_OWN(ew_socket, socket);

	EXPECT_EQ(ew_listener_accept(listener, &socket), -ECANCELED);
	return 0;
}

/* Leaves the listener accepting and the socket watched. */
static void leave_armed(struct ew_listener *listener, struct ew_socket *socket)
{
	EW_SCOPE(scope);

	ew_socket_cancel_on_hangup(socket, &scope, true);
	EXPECT_EQ(ew_spawn(&scope, accept_task, listener), 0);
	take_turns(3);
	ew_socket_forget_hangup(socket);
	ew_scope_cancel(&scope, EW_REASON_REQUESTED);
}

/* One of each kind, owned by nobody when its task ends. */
static int forget_task(void *argument)
{
	struct forgetting *forgetting = argument;
	char *const argv[] = { "sleep", "1000", NULL };
	const struct ew_process_options sleep = { .path = "/bin/sleep",
						  .argv = argv,
						  .stdin_fd = -1,
						  .stdout_fd = -1,
						  .stderr_fd = -1,
						  .keep_fd = -1 };
	struct sockaddr_in address = loopback(0);
	struct ew_file *dir = NULL;
	struct ew_tempfile *tempfile = NULL;
	struct ew_socket *socket = NULL;
	struct ew_listener *listener = NULL;
	struct ew_pipe *ends[2] = { NULL, NULL };
	struct ew_process *process = NULL;
	struct ew_signals *signals = NULL;
	struct ew_permit *permit = NULL;

	EXPECT_EQ(ew_file_open(NULL, forgetting->directory.path, O_RDONLY | O_DIRECTORY, 0, &dir),
		  0);
	EXPECT_EQ(ew_tempfile_open(dir, &tempfile), 0);
	forgetting->peer = unix_peer(&socket);
	EXPECT_EQ(ew_listener_open((struct sockaddr *)&address, sizeof(address), 8, &listener), 0);
	leave_armed(listener, socket);
	EXPECT_EQ(ew_pipe_open(&ends[0], &ends[1]), 0);
	EXPECT_EQ(ew_process_spawn(&sleep, &process), 0);
	forgetting->child = ew_process_pid(process);
	EXPECT_EQ(ew_signals_open(&signals_set, &signals), 0);
	EXPECT_EQ(ew_semaphore_try_acquire(forgetting->semaphore, &permit), 0);
	forgetting->count += 9;
	return 0;
}

static int forget_on_each(void *argument)
{
	struct forgetting *forgetting = argument;
	EW_SCOPE(scope);

	EXPECT_EQ(ew_spawn(&scope, forget_task, &forgetting[0], .worker = 1), 0);
	EXPECT_EQ(ew_spawn(&scope, forget_task, &forgetting[1], .worker = 2), 0);
	return ew_scope_join(&scope);
}

TEST(op_run_ends_what_was_forgotten_of_each_kind)
{
	static const char *const names[] = { "file", "temporary file", "socket",  "listener",
					     "pipe", "process",	       "signals", "permit" };
	struct ew_run_options options = { .workers_count = 2,
					  .report = note_report,
					  .signals = &signals_set };
	struct ew_semaphore *semaphore = ew_semaphore_new(2, 0);
	struct forgetting forgetting[2] = { { .semaphore = semaphore },
					    { .semaphore = semaphore } };
	struct descriptors before;
	size_t i;

	sigemptyset(&signals_set);
	sigaddset(&signals_set, SIGUSR1);
	directory_make(&forgetting[0].directory);
	forgetting[1].directory = forgetting[0].directory;
	before = descriptors_now();
	EXPECT_EQ(ew_run(&options, forget_on_each, forgetting), 0);
	EXPECT_EQ(reports.count, forgetting[0].count + forgetting[1].count);
	for (i = 0; i < sizeof(names) / sizeof(names[0]); i++)
		EXPECT(reported(names[i], "no owner"));
	for (i = 0; i < 2; i++) {
		EXPECT(kill(forgetting[i].child, 0) < 0 && errno == ESRCH);
		close(forgetting[i].peer);
	}
	expect_same_descriptors(&before);
	EXPECT_EQ(ew_semaphore_count(semaphore).free, 2);
	ew_semaphore_free(semaphore);
	directory_remove(&forgetting[0].directory);
}

struct neighbour {
	struct ew_event made;
	struct ew_event other_ended;
};

static int own_until_other_ends(void *argument)
{
	struct neighbour *neighbour = argument;
	EW_OWN(ew_file, file);

	EXPECT_EQ(ew_file_open(NULL, "/dev/null", O_RDONLY, 0, &file), 0);
	ew_event_set(&neighbour->made);
	EXPECT_EQ(ew_event_wait(&neighbour->other_ended, EW_NEVER), 0);
	EXPECT(fcntl(ew_file_fd(file), F_GETFD) >= 0);
	return ew_file_close(&file);
}

static void *run_neighbour(void *argument)
{
	const struct ew_run_options options = { .workers_count = 1, .report = note_report };

	EXPECT_EQ(ew_run(&options, own_until_other_ends, argument), 0);
	return NULL;
}

static int await_neighbour(void *argument)
{
	struct neighbour *neighbour = argument;

	return ew_event_wait(&neighbour->made, EW_NEVER);
}

/* Two threads, a runtime each: what one forgot is its own affair. */
TEST(op_run_ends_nothing_of_another_runtime)
{
	struct neighbour neighbour = { .made = { 0 } };
	pthread_t thread;

	EXPECT_EQ(pthread_create(&thread, NULL, run_neighbour, &neighbour), 0);
	EXPECT_EQ(run_workers(1, await_neighbour, &neighbour), 0);
	ew_event_set(&neighbour.other_ended);
	EXPECT_EQ(pthread_join(thread, NULL), 0);
	EXPECT_EQ(reports.count, 0);
}

TEST_MAIN()
