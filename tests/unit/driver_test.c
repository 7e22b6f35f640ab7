/* SPDX-License-Identifier: Apache-2.0 */

/*
 * The drivers, stepped by hand: one outcome for each operation, and nothing that was lent is touched later. Each test
 * is run on each driver, but for those that need the kernel.
 */

#include "driver/driver.h"
#include "driver/sim/sim.h"
#include "driver/system.h"
#include "io.h"
#include "task/worker.h"

#include <sys/eventfd.h>

/* Of what needs the kernel. */
#define KERNEL_TEST(id)                                                                            \
	static void on_a_driver_##id(void);                                                        \
	TEST(id)                                                                                   \
	{                                                                                          \
		type = &ew__driver_uring;                                                          \
		on_a_driver_##id();                                                                \
	}                                                                                          \
	TEST(id##_by_epoll)                                                                        \
	{                                                                                          \
		type = &ew__driver_epoll;                                                          \
		on_a_driver_##id();                                                                \
	}                                                                                          \
	static void on_a_driver_##id(void)

/* Also in the simulated world. */
#define DRIVER_TEST(id)                                                                            \
	static void on_a_driver_##id(void);                                                        \
	TEST(id##_by_sim)                                                                          \
	{                                                                                          \
		type = &ew__driver_sim;                                                            \
		ew__virtual_now_ns = EW_SECOND;                                                    \
		on_a_driver_##id();                                                                \
	}                                                                                          \
	KERNEL_TEST(id)

static const struct ew__driver_type *type;
static struct ew__driver *driver;

static void open_driver(void)
{
	char why[256] = "";
	int r = ew__driver_open(&driver, type, why, sizeof(why));

	if (r == -EPERM || r == -EACCES || r == -ENOSYS)
		SKIP(why);
	EXPECT_EQ(r, 0);
}

static void close_driver(void)
{
	EXPECT_EQ(ew__driver_in_flight(driver), 0);
	EXPECT(!ew__driver_has_queued(driver));
	ew__driver_close(driver);
}

/* Turns until @count operations have ended. They are done when their state says idle. */
static void await_ends(unsigned count)
{
	struct ew__op *op;

	while (count) {
		op = ew__driver_poll(driver, EW_NEVER);
		for (; op; op = op->next) {
			EXPECT_EQ(op->state, EW__OP_IDLE);
			EXPECT(count-- > 0);
		}
	}
}

static void set_nonblocking(int fd)
{
	if (!ew__system_is_simulated(fd))
		EXPECT_EQ(fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | O_NONBLOCK), 0);
}

/* Neither end waits. */
static void make_pair(int *fds)
{
	EXPECT_EQ(ew__system_socket_pair(fds), 0);
	set_nonblocking(fds[0]);
	set_nonblocking(fds[1]);
}

static ssize_t put(int fd, const void *data, size_t size)
{
	return ew__system_is_simulated(fd) ? ew__sim_put(fd, data, size) : write(fd, data, size);
}

/* -1: nothing is there. */
static ssize_t take(int fd, void *buffer, size_t size)
{
	ssize_t n = ew__system_is_simulated(fd) ? ew__sim_take(fd, buffer, size)
						: read(fd, buffer, size);

	return n < 0 ? -1 : n;
}

static struct ew__op recv_op(int fd, void *buffer, uint32_t length)
{
	return (struct ew__op){
		.code = EW__OP_RECV, .fd = fd, .address = buffer, .length = length
	};
}

DRIVER_TEST(driver_operation_ends_with_its_result)
{
	char buffer[8] = "";
	struct ew__op op;
	int fds[2];

	open_driver();
	make_pair(fds);
	op = recv_op(fds[0], buffer, sizeof(buffer));
	ew__driver_submit(driver, &op);
	EXPECT_EQ(op.state, EW__OP_QUEUED);
	EXPECT_EQ(ew__driver_in_flight(driver), 1);
	EXPECT(ew__driver_poll(driver, EW_NOW) == NULL);
	EXPECT_EQ(op.state, EW__OP_SUBMITTED);
	EXPECT_EQ(put(fds[1], "abc", 3), 3);
	await_ends(1);
	EXPECT_EQ(op.result, 3);
	EXPECT_EQ(memcmp(buffer, "abc", 3), 0);
	close_driver();
}

DRIVER_TEST(driver_operation_that_fails_ends_with_the_error)
{
	char byte;
	struct ew__op op = recv_op(-1, &byte, 1);

	open_driver();
	ew__driver_submit(driver, &op);
	await_ends(1);
	EXPECT_EQ(op.result, -EBADF);
	close_driver();
}

/* The byte would be gone if the kernel had seen it. */
DRIVER_TEST(driver_cancel_of_a_queued_operation_keeps_it_from_the_kernel)
{
	char byte;
	struct ew__op op;
	int fds[2];

	open_driver();
	make_pair(fds);
	EXPECT_EQ(put(fds[1], "a", 1), 1);
	op = recv_op(fds[0], &byte, 1);
	ew__driver_submit(driver, &op);
	ew__driver_cancel(driver, &op);
	EXPECT(ew__driver_has_queued(driver));
	await_ends(1);
	EXPECT_EQ(op.result, -ECANCELED);
	EXPECT_EQ(take(fds[0], &byte, 1), 1);
	close_driver();
}

DRIVER_TEST(driver_cancel_of_one_queued_operation_leaves_its_neighbours)
{
	char buffer[3][4];
	struct ew__op ops[3];
	int fds[2], i;

	open_driver();
	make_pair(fds);
	EXPECT_EQ(put(fds[1], "ab", 2), 2);
	for (i = 0; i < 3; i++) {
		ops[i] = recv_op(fds[0], buffer[i], 1);
		ew__driver_submit(driver, &ops[i]);
	}
	ew__driver_cancel(driver, &ops[1]);
	await_ends(3);
	EXPECT_EQ(ops[0].result, 1);
	EXPECT_EQ(ops[1].result, -ECANCELED);
	EXPECT_EQ(ops[2].result, 1);
	close_driver();
}

DRIVER_TEST(driver_cancel_of_the_last_queued_operation_leaves_the_queue_usable)
{
	char buffer[2][4];
	struct ew__op first, second;
	int fds[2];

	open_driver();
	make_pair(fds);
	first = recv_op(fds[0], buffer[0], 1);
	second = recv_op(fds[0], buffer[1], 1);
	ew__driver_submit(driver, &first);
	ew__driver_cancel(driver, &first);
	ew__driver_submit(driver, &second);
	EXPECT_EQ(put(fds[1], "a", 1), 1);
	await_ends(2);
	EXPECT_EQ(second.result, 1);
	close_driver();
}

DRIVER_TEST(driver_cancel_of_a_waiting_operation_ends_it_without_effect)
{
	char buffer[4] = "xyz";
	struct ew__op op;
	int fds[2];

	open_driver();
	make_pair(fds);
	op = recv_op(fds[0], buffer, sizeof(buffer));
	ew__driver_submit(driver, &op);
	EXPECT(ew__driver_poll(driver, EW_NOW) == NULL);
	ew__driver_cancel(driver, &op);
	ew__driver_cancel(driver, &op); /* asking twice is asking once */
	await_ends(1);
	EXPECT_EQ(op.result, -ECANCELED);
	EXPECT_STR(buffer, "xyz");
	close_driver();
}

DRIVER_TEST(driver_cancel_of_an_ended_operation_does_nothing)
{
	char buffer[4];
	struct ew__op op;
	int fds[2];

	open_driver();
	make_pair(fds);
	EXPECT_EQ(put(fds[1], "a", 1), 1);
	op = recv_op(fds[0], buffer, 1);
	ew__driver_submit(driver, &op);
	await_ends(1);
	ew__driver_cancel(driver, &op);
	EXPECT_EQ(op.result, 1);
	close_driver();
}

/* Readiness and cancel in one turn: whatever wins, the bytes are in the buffer or in the socket, never gone. */
DRIVER_TEST(driver_cancel_that_meets_readiness_loses_no_byte)
{
	unsigned taken = 0, refused = 0, i;
	char buffer[4], rest[4];
	struct ew__op op;
	int fds[2];

	open_driver();
	make_pair(fds);
	for (i = 0; i < (RUNNING_ON_VALGRIND ? 200u : 5000u); i++) {
		op = recv_op(fds[0], buffer, sizeof(buffer));
		ew__driver_submit(driver, &op);
		if (i % 3)
			EXPECT(ew__driver_poll(driver, EW_NOW) == NULL);
		if (i % 2) {
			EXPECT_EQ(put(fds[1], "abc", 3), 3);
			ew__driver_cancel(driver, &op);
		} else {
			ew__driver_cancel(driver, &op);
			EXPECT_EQ(put(fds[1], "abc", 3), 3);
		}
		await_ends(1);
		if (op.result == 3) {
			taken++;
			EXPECT_EQ(take(fds[0], rest, sizeof(rest)), -1);
		} else {
			refused++;
			EXPECT_EQ(op.result, -ECANCELED);
			EXPECT_EQ(take(fds[0], rest, sizeof(rest)), 3);
		}
	}
	EXPECT_EQ(taken + refused, i);
	close_driver();
}

/* A cancel goes to a slot and its generation: the next operation in that slot must not feel it. */
DRIVER_TEST(driver_late_cancel_does_not_hit_the_slots_next_user)
{
	char buffer[2][4];
	struct ew__op first, second;
	int fds[2], i;

	open_driver();
	make_pair(fds);
	for (i = 0; i < 500; i++) {
		first = recv_op(fds[0], buffer[0], 1);
		ew__driver_submit(driver, &first);
		EXPECT(ew__driver_poll(driver, EW_NOW) == NULL);
		EXPECT_EQ(put(fds[1], "a", 1), 1);
		ew__driver_cancel(driver, &first);
		await_ends(1);
		second = recv_op(fds[0], buffer[1], 1);
		ew__driver_submit(driver, &second);
		EXPECT(ew__driver_poll(driver, EW_NOW) == NULL || second.result == 1);
		if (second.state != EW__OP_IDLE) {
			EXPECT_EQ(put(fds[1], "b", 1), 1);
			await_ends(1);
		}
		EXPECT_EQ(second.result, 1);
		while (take(fds[0], buffer[0], 1) > 0)
			;
	}
	close_driver();
}

DRIVER_TEST(driver_file_operation_in_flight_is_waited_for)
{
	struct ew__op op = { .code = EW__OP_WRITE };

	EXPECT(!ew__op_is_cancellable(&op));
	op.offset = -1; /* a pipe */
	EXPECT(ew__op_is_cancellable(&op));
	op.code = EW__OP_POLL;
	EXPECT(ew__op_is_cancellable(&op));
}

/* What is in the page cache is read at once; the ring's own threads, which would wait for the rest, are not used. */
KERNEL_TEST(driver_reads_of_a_file_what_it_can_at_once_and_says_when_it_cannot)
{
	char path[] = "/tmp/driver_test_XXXXXX", bytes[3];
	struct ew__op op = { .code = EW__OP_READ, .address = bytes, .length = sizeof(bytes) };
	int file = mkstemp(path);

	open_driver();
	EXPECT_EQ(unlink(path), 0);
	EXPECT_EQ(write(file, "abc", 3), 3);
	op.fd = file;
	ew__driver_submit(driver, &op);
	await_ends(1);
	EXPECT_EQ(op.result, 3);
	op.fd = open("/proc/self/mountinfo", O_RDONLY | O_CLOEXEC); /* never without waiting */
	ew__driver_submit(driver, &op);
	await_ends(1);
	EXPECT(op.result == -EAGAIN || op.result == -EOPNOTSUPP);
	EXPECT_EQ(close(op.fd), 0);
	EXPECT_EQ(close(file), 0);
	close_driver();
}

/* Many times the submission queue, and more than the completion queue holds. */
DRIVER_TEST(driver_takes_more_operations_than_its_queues_hold)
{
	enum { COUNT = 6000 };
	static struct ew__op ops[COUNT];
	int fds[2], i;

	open_driver();
	make_pair(fds);
	for (i = 0; i < COUNT; i++) {
		ops[i] = (struct ew__op){ .code = EW__OP_POLL, .fd = fds[0], .flags = POLLIN };
		ew__driver_submit(driver, &ops[i]);
	}
	EXPECT(ew__driver_poll(driver, EW_NOW) == NULL);
	EXPECT_EQ(ew__driver_in_flight(driver), COUNT);
	EXPECT_EQ(put(fds[1], "a", 1), 1);
	await_ends(COUNT);
	for (i = 0; i < COUNT; i++)
		EXPECT_EQ(ops[i].result, POLLIN);
	close_driver();
}

DRIVER_TEST(driver_cancels_more_operations_than_its_queues_hold)
{
	enum { COUNT = 6000 };
	static struct ew__op ops[COUNT];
	int fds[2], i;

	open_driver();
	make_pair(fds);
	for (i = 0; i < COUNT; i++) {
		ops[i] = (struct ew__op){ .code = EW__OP_POLL, .fd = fds[0], .flags = POLLIN };
		ew__driver_submit(driver, &ops[i]);
	}
	EXPECT(ew__driver_poll(driver, EW_NOW) == NULL);
	for (i = 0; i < COUNT; i++)
		ew__driver_cancel(driver, &ops[i]);
	await_ends(COUNT);
	for (i = 0; i < COUNT; i++)
		EXPECT_EQ(ops[i].result, -ECANCELED);
	close_driver();
}

/*
 * All of them end while the cancels of most still wait for room in the submission queue. Such an operation keeps its
 * slot until its cancel has ended too; else that would meet the slot's next user, here one that waits for what never
 * comes.
 */
DRIVER_TEST(driver_cancels_that_come_after_their_operations_hit_nobody_else)
{
	enum { COUNT = 6000 };
	static struct ew__op ops[COUNT], others[COUNT];
	int doorbell = eventfd(0, EFD_CLOEXEC), silent = eventfd(0, EFD_CLOEXEC), i;
	uint64_t one = 1;

	open_driver();
	for (i = 0; i < COUNT; i++) {
		ops[i] = (struct ew__op){ .code = EW__OP_POLL, .fd = doorbell, .flags = POLLIN };
		ew__driver_submit(driver, &ops[i]);
	}
	EXPECT(ew__driver_poll(driver, EW_NOW) == NULL);
	EXPECT_EQ(write(doorbell, &one, sizeof(one)), sizeof(one));
	for (i = 0; i < COUNT; i++)
		ew__driver_cancel(driver, &ops[i]);
	for (i = 0; i < COUNT; i++) {
		others[i] = (struct ew__op){ .code = EW__OP_POLL, .fd = silent, .flags = POLLIN };
		ew__driver_submit(driver, &others[i]);
	}
	await_ends(COUNT);
	for (i = 0; i < COUNT; i++) {
		EXPECT(ops[i].result == POLLIN || ops[i].result == -ECANCELED);
		EXPECT_EQ(others[i].state, EW__OP_SUBMITTED);
		ew__driver_cancel(driver, &others[i]);
	}
	await_ends(COUNT);
	close_driver();
}

static void *ring_doorbell(void *argument)
{
	ew__driver_wake(argument);
	return NULL;
}

KERNEL_TEST(driver_wake_from_a_thread_ends_a_wait_now_or_the_next_one)
{
	int64_t deadline_ns;
	pthread_t thread;
	int i;

	open_driver();
	for (i = 0; i < 50; i++) {
		EXPECT_EQ(pthread_create(&thread, NULL, ring_doorbell, driver), 0);
		EXPECT(ew__driver_poll(driver, EW_NEVER) == NULL); /* would hang */
		EXPECT_EQ(pthread_join(thread, NULL), 0);
	}
	/* Once heard, it is silent. */
	deadline_ns = ew_after(EW_MILLISECOND);
	EXPECT(ew__driver_poll(driver, deadline_ns) == NULL);
	EXPECT(ew_now() >= deadline_ns);
	close_driver();
}

DRIVER_TEST(driver_poll_until_a_deadline_comes_back_empty)
{
	struct ew__op op = { .code = EW__OP_POLL, .flags = POLLIN };

	open_driver();
	op.fd = eventfd(0, EFD_CLOEXEC);
	ew__driver_submit(driver, &op);
	EXPECT(ew__driver_poll(driver, ew_after(EW_MILLISECOND)) == NULL);
	EXPECT(ew__driver_poll(driver, 1) == NULL); /* long past */
	ew__driver_cancel(driver, &op);
	await_ends(1);
	close_driver();
}

DRIVER_TEST(driver_lends_a_buffer_only_to_bytes_that_came)
{
	struct ew__op op;
	int fds[2], i;

	open_driver();
	make_pair(fds);
	for (i = 0; i < 3 * EW__BUFFERS_COUNT; i++) {
		op = (struct ew__op){ .code = EW__OP_RECEIVE, .fd = fds[0] };
		ew__driver_submit(driver, &op);
		if (i % 3 == 0) {
			EXPECT(ew__driver_poll(driver, EW_NOW) == NULL);
			ew__driver_cancel(driver, &op);
			await_ends(1);
			EXPECT_EQ(op.result, -ECANCELED);
			EXPECT(!op.has_buffer);
			continue;
		}
		EXPECT_EQ(put(fds[1], "abcd", 4), 4);
		await_ends(1);
		EXPECT_EQ(op.result, 4);
		EXPECT(op.has_buffer);
		EXPECT_EQ(memcmp(ew__driver_buffer(driver, op.buffer), "abcd", 4), 0);
		ew__driver_return_buffer(driver, op.buffer);
	}
	close_driver();
}

DRIVER_TEST(driver_without_a_buffer_left_says_so_and_takes_no_byte)
{
	struct ew__op op;
	char byte;
	int fds[2], i;

	open_driver();
	make_pair(fds);
	for (i = 0; i < EW__BUFFERS_COUNT; i++) {
		op = (struct ew__op){ .code = EW__OP_RECEIVE, .fd = fds[0] };
		EXPECT_EQ(put(fds[1], "a", 1), 1);
		ew__driver_submit(driver, &op);
		await_ends(1);
		EXPECT_EQ(op.result, 1);
	}
	op = (struct ew__op){ .code = EW__OP_RECEIVE, .fd = fds[0] };
	EXPECT_EQ(put(fds[1], "b", 1), 1);
	ew__driver_submit(driver, &op);
	await_ends(1);
	EXPECT_EQ(op.result, -ENOBUFS);
	EXPECT(!op.has_buffer);
	EXPECT_EQ(take(fds[0], &byte, 1), 1);
	EXPECT_EQ(byte, 'b');
	close_driver();
}

static unsigned events_count;

static void count_event(struct ew__op *op, int32_t result)
{
	(void)op;
	EXPECT(result & POLLIN);
	events_count++;
}

DRIVER_TEST(driver_poll_with_events_reports_until_it_is_cancelled)
{
	struct ew__op op = { .code = EW__OP_POLL, .flags = POLLIN, .event = count_event };
	int fds[2], i;
	char byte;

	open_driver();
	make_pair(fds);
	op.fd = fds[0];
	ew__driver_submit(driver, &op);
	for (i = 0; i < 5; i++) {
		EXPECT_EQ(put(fds[1], "a", 1), 1);
		while (events_count == (unsigned)i)
			EXPECT(ew__driver_poll(driver, EW_NEVER) == NULL);
		EXPECT_EQ(take(op.fd, &byte, 1), 1);
	}
	ew__driver_cancel(driver, &op);
	await_ends(1);
	EXPECT_EQ(events_count, 5);
	close_driver();
}

/* ---- connections ---- */

static int accepted[16];
static unsigned accepted_count;
static bool accepts_one_only;

static void note_accepted(struct ew__op *op, int32_t fd)
{
	EXPECT(accepted_count < 16);
	accepted[accepted_count++] = fd;
	if (accepts_one_only)
		ew__driver_cancel(driver, op);
}

static void await_accepted(unsigned count)
{
	while (accepted_count < count)
		EXPECT(ew__driver_poll(driver, EW_NEVER) == NULL);
	EXPECT_EQ(accepted_count, count);
}

static int listener_at(const void *address, socklen_t bytes, int backlog)
{
	int fd = ew__system_socket(((const struct sockaddr *)address)->sa_family);

	EXPECT(fd >= 0);
	EXPECT_EQ(ew__system_bind(fd, address, bytes, false), 0);
	EXPECT_EQ(ew__system_listen(fd, backlog), 0);
	return fd;
}

static int tcp_listener(struct sockaddr_in *ret_address)
{
	struct sockaddr_storage address;
	int fd;

	*ret_address = loopback(0);
	fd = listener_at(ret_address, sizeof(*ret_address), 64);
	EXPECT_EQ(ew__system_address(fd, &address), 0);
	memcpy(ret_address, &address, sizeof(*ret_address));
	return fd;
}

static struct ew__op connect_op(const void *address, uint32_t length)
{
	const struct sockaddr *to = address;
	int fd = ew__system_socket(to->sa_family);

	EXPECT(fd >= 0);
	return (struct ew__op){
		.code = EW__OP_CONNECT, .fd = fd, .address = address, .length = length
	};
}

static void connect_now(const void *address, socklen_t bytes)
{
	struct ew__op op = connect_op(address, bytes);

	ew__driver_submit(driver, &op);
	await_ends(1);
	EXPECT_EQ(op.result, 0);
}

static struct ew__op accept_op(int listener, uint32_t flags)
{
	return (struct ew__op){
		.code = EW__OP_ACCEPT, .fd = listener, .flags = flags, .event = note_accepted
	};
}

DRIVER_TEST(driver_accepts_what_is_there_and_what_comes)
{
	struct sockaddr_in address;
	struct ew__op op;

	open_driver();
	op = accept_op(tcp_listener(&address), 0);
	connect_now(&address, sizeof(address));
	connect_now(&address, sizeof(address));
	ew__driver_submit(driver, &op);
	await_accepted(2);
	connect_now(&address, sizeof(address));
	await_accepted(3);
	EXPECT_EQ(fcntl(accepted[2], F_GETFD), FD_CLOEXEC);
	EXPECT(!(fcntl(accepted[2], F_GETFL) & O_NONBLOCK));
	ew__driver_cancel(driver, &op);
	await_ends(1);
	EXPECT_EQ(op.result, -ECANCELED);
	close_driver();
}

DRIVER_TEST(driver_accepts_one_and_leaves_the_others)
{
	struct sockaddr_in address;
	struct ew__op op;

	open_driver();
	op = accept_op(tcp_listener(&address), EW__ACCEPT_ONE);
	connect_now(&address, sizeof(address));
	connect_now(&address, sizeof(address));
	ew__driver_submit(driver, &op);
	await_ends(1);
	EXPECT_EQ(op.result, 0);
	EXPECT_EQ(accepted_count, 1);
	ew__driver_submit(driver, &op);
	await_ends(1);
	EXPECT_EQ(accepted_count, 2);
	close_driver();
}

/* A listener whose queue is full does that. Each connection is either handed out or still in line. */
DRIVER_TEST(driver_accept_cancelled_by_its_own_event_loses_no_connection)
{
	struct sockaddr_in address;
	struct ew__op op;
	int i;

	open_driver();
	op = accept_op(tcp_listener(&address), 0);
	accepts_one_only = true;
	for (i = 0; i < 5; i++)
		connect_now(&address, sizeof(address));
	ew__driver_submit(driver, &op);
	await_ends(1);
	EXPECT_EQ(op.result, -ECANCELED);
	EXPECT(accepted_count > 0);
	if (type != &ew__driver_uring)
		EXPECT_EQ(accepted_count, 1); /* none after the stop */
	accepts_one_only = false;
	op.flags = EW__ACCEPT_ONE;
	while (accepted_count < 5) {
		ew__driver_submit(driver, &op);
		await_ends(1); /* would hang */
		EXPECT_EQ(op.result, 0);
	}
	close_driver();
}

DRIVER_TEST(driver_connects_or_says_why_not)
{
	struct sockaddr_in address;
	struct ew__op op;
	int listener;

	open_driver();
	listener = tcp_listener(&address);
	op = connect_op(&address, sizeof(address));
	ew__driver_submit(driver, &op);
	await_ends(1);
	EXPECT_EQ(op.result, 0);
	EXPECT(!(fcntl(op.fd, F_GETFL) & O_NONBLOCK));
	EXPECT_EQ(put(op.fd, "a", 1), 1);
	ew__system_close(listener);
	op = connect_op(&address, sizeof(address));
	ew__driver_submit(driver, &op);
	await_ends(1);
	EXPECT_EQ(op.result, -ECONNREFUSED);
	close_driver();
}

/* Of a unix listener, whose address is in a namespace of its own. Returns it with no room left. */
static int full_listener(struct sockaddr_un *address, socklen_t *ret_bytes)
{
	int fd;

	*address = (struct sockaddr_un){ .sun_family = AF_UNIX };
	snprintf(address->sun_path + 1, sizeof(address->sun_path) - 1, "driver_test-%d",
		 (int)getpid());
	*ret_bytes = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + 1 +
				 strlen(address->sun_path + 1));
	fd = listener_at(address, *ret_bytes, 0);
	connect_now(address, *ret_bytes);
	return fd;
}

KERNEL_TEST(driver_connect_to_a_full_unix_listener_waits_for_room)
{
	struct sockaddr_un address;
	socklen_t bytes;
	struct ew__op op;
	int listener;

	open_driver();
	listener = full_listener(&address, &bytes);
	op = connect_op(&address, bytes);
	ew__driver_submit(driver, &op);
	EXPECT(ew__driver_poll(driver, ew_after(20 * EW_MILLISECOND)) == NULL);
	EXPECT(accept4(listener, NULL, NULL, SOCK_CLOEXEC) >= 0);
	await_ends(1);
	EXPECT_EQ(op.result, 0);
	close_driver();
}

DRIVER_TEST(driver_connect_to_a_full_unix_listener_is_cancelled)
{
	struct sockaddr_un address;
	socklen_t bytes;
	struct ew__op ops[3];
	int i;

	open_driver();
	full_listener(&address, &bytes);
	for (i = 0; i < 3; i++) {
		ops[i] = connect_op(&address, bytes);
		ew__driver_submit(driver, &ops[i]);
	}
	EXPECT(ew__driver_poll(driver, ew_after(20 * EW_MILLISECOND)) == NULL);
	for (i = 0; i < 3; i++) {
		ew__driver_cancel(driver, &ops[(i + 1) % 3]);
		await_ends(1);
		EXPECT_EQ(ops[(i + 1) % 3].result, -ECANCELED);
		EXPECT(ops[(i + 1) % 3].cancel_wanted);
	}
	close_driver();
}

/* ---- streams ---- */

/* Until nothing more goes in. */
static void fill(int fd)
{
	static const char zeros[4096];
	int status = fcntl(fd, F_GETFL);

	set_nonblocking(fd);
	while (put(fd, zeros, sizeof(zeros)) > 0)
		;
	if (!ew__system_is_simulated(fd))
		EXPECT_EQ(fcntl(fd, F_SETFL, status), 0);
}

/* Until nothing is left. */
static void drain(int fd)
{
	static char bytes[65536];
	int status = fcntl(fd, F_GETFL);

	set_nonblocking(fd);
	while (take(fd, bytes, sizeof(bytes)) > 0)
		;
	if (!ew__system_is_simulated(fd))
		EXPECT_EQ(fcntl(fd, F_SETFL, status), 0);
}

DRIVER_TEST(driver_sends_when_there_is_room)
{
	struct ew__op op = { .code = EW__OP_SEND, .address = "b", .length = 1 };
	int fds[2];

	open_driver();
	make_pair(fds);
	fill(fds[0]);
	op.fd = fds[0];
	ew__driver_submit(driver, &op);
	EXPECT(ew__driver_poll(driver, EW_NOW) == NULL);
	drain(fds[1]);
	await_ends(1);
	EXPECT_EQ(op.result, 1);
	ew__driver_submit(driver, &op);
	await_ends(1);
	ew__system_close(fds[1]);
	ew__driver_submit(driver, &op);
	await_ends(1);
	EXPECT_EQ(op.result, -EPIPE); /* and no signal */
	close_driver();
}

DRIVER_TEST(driver_passes_a_descriptor)
{
	union {
		char bytes[CMSG_SPACE(sizeof(int))];
		struct cmsghdr alignment;
	} control[2] = { 0 };
	char byte = 'c', got = 0;
	struct iovec parts[2] = { { &byte, 1 }, { &got, 1 } };
	struct msghdr messages[2];
	struct ew__op send = { .code = EW__OP_SENDMSG, .address = &messages[0], .length = 1 };
	struct ew__op recv = { .code = EW__OP_RECVMSG, .address = &messages[1], .length = 1 };
	int fds[2], passed, i;

	open_driver();
	make_pair(fds);
	for (i = 0; i < 2; i++)
		messages[i] = (struct msghdr){ .msg_iov = &parts[i],
					       .msg_iovlen = 1,
					       .msg_control = control[i].bytes,
					       .msg_controllen = sizeof(control[i].bytes) };
	CMSG_FIRSTHDR(&messages[0])->cmsg_level = SOL_SOCKET;
	CMSG_FIRSTHDR(&messages[0])->cmsg_type = SCM_RIGHTS;
	CMSG_FIRSTHDR(&messages[0])->cmsg_len = CMSG_LEN(sizeof(int));
	memcpy(CMSG_DATA(CMSG_FIRSTHDR(&messages[0])), &fds[0], sizeof(int));
	send.fd = fds[0];
	recv.fd = fds[1];
	ew__driver_submit(driver, &recv);
	EXPECT(ew__driver_poll(driver, EW_NOW) == NULL);
	ew__driver_submit(driver, &send);
	await_ends(2);
	EXPECT_EQ(send.result, 1);
	EXPECT_EQ(recv.result, 1);
	EXPECT_EQ(got, 'c');
	memcpy(&passed, CMSG_DATA(CMSG_FIRSTHDR(&messages[1])), sizeof(int));
	EXPECT_EQ(fcntl(passed, F_GETFD), FD_CLOEXEC);
	close_driver();
}

/* Waits, is cancelled, waits again, ends; in both directions. The descriptors keep their flags. */
static void expect_stream(int read_end, int write_end)
{
	char buffer[4] = "xyz";
	struct ew__op read = {
		.code = EW__OP_READ, .fd = read_end, .address = buffer, .length = 3, .offset = -1
	};
	struct ew__op write_some = {
		.code = EW__OP_WRITE, .fd = write_end, .address = "abc", .length = 3, .offset = -1
	};
	int read_flags = fcntl(read_end, F_GETFL), write_flags = fcntl(write_end, F_GETFL);

	ew__driver_submit(driver, &read);
	EXPECT(ew__driver_poll(driver, EW_NOW) == NULL);
	ew__driver_cancel(driver, &read);
	await_ends(1);
	EXPECT_EQ(read.result, -ECANCELED);
	EXPECT_STR(buffer, "xyz");
	ew__driver_submit(driver, &read);
	EXPECT(ew__driver_poll(driver, EW_NOW) == NULL);
	ew__driver_submit(driver, &write_some);
	await_ends(2);
	EXPECT_EQ(write_some.result, 3);
	EXPECT_EQ(read.result, 3);
	EXPECT_STR(buffer, "abc");
	fill(write_end);
	ew__driver_submit(driver, &write_some);
	EXPECT(ew__driver_poll(driver, EW_NOW) == NULL);
	ew__driver_cancel(driver, &write_some);
	await_ends(1);
	EXPECT_EQ(write_some.result, -ECANCELED);
	ew__driver_submit(driver, &write_some);
	EXPECT(ew__driver_poll(driver, EW_NOW) == NULL);
	drain(read_end);
	await_ends(1);
	EXPECT_EQ(write_some.result, 3);
	EXPECT_EQ(fcntl(read_end, F_GETFL), read_flags);
	EXPECT_EQ(fcntl(write_end, F_GETFL), write_flags);
	close_driver();
}

DRIVER_TEST(driver_reads_and_writes_a_pipe)
{
	int fds[2];

	open_driver();
	EXPECT_EQ(ew__system_pipe(fds), 0);
	expect_stream(fds[0], fds[1]);
}

/* A named one does not know RWF_NOWAIT (6.18), as no pipe did before 6.4. */
KERNEL_TEST(driver_reads_and_writes_a_fifo)
{
	struct directory directory;
	int read_end, write_end;

	directory_make(&directory);
	EXPECT_EQ(mkfifoat(directory.fd, "fifo", 0600), 0);
	read_end = openat(directory.fd, "fifo", O_RDONLY | O_NONBLOCK | O_CLOEXEC);
	write_end = openat(directory.fd, "fifo", O_WRONLY | O_CLOEXEC);
	EXPECT(read_end >= 0 && write_end >= 0);
	EXPECT_EQ(fcntl(read_end, F_SETFL, 0), 0);
	directory_remove(&directory);
	open_driver();
	expect_stream(read_end, write_end);
}

KERNEL_TEST(driver_reads_and_writes_what_cannot_be_polled)
{
	char bytes[3] = "xyz";
	struct ew__op read = {
		.code = EW__OP_READ, .address = bytes, .length = sizeof(bytes), .offset = -1
	};
	struct ew__op write = {
		.code = EW__OP_WRITE, .address = bytes, .length = sizeof(bytes), .offset = -1
	};

	read.fd = open("/dev/zero", O_RDONLY | O_CLOEXEC);
	write.fd = open("/dev/null", O_WRONLY | O_CLOEXEC);
	EXPECT(read.fd >= 0 && write.fd >= 0);
	open_driver();
	ew__driver_submit(driver, &read);
	ew__driver_submit(driver, &write);
	await_ends(2);
	EXPECT_EQ(read.result, 3);
	EXPECT_EQ(memcmp(bytes, "\0\0\0", 3), 0);
	EXPECT_EQ(write.result, 3);
	close_driver();
}

KERNEL_TEST(driver_poll_of_what_cannot_be_polled_finds_it_ready)
{
	struct ew__op op = { .code = EW__OP_POLL, .flags = POLLIN };
	char path[] = "/tmp/driver_test_XXXXXX";

	op.fd = mkstemp(path);
	EXPECT_EQ(unlink(path), 0);
	open_driver();
	ew__driver_submit(driver, &op);
	await_ends(1);
	EXPECT_EQ(op.result, POLLIN);
	close_driver();
}

/* ---- several on one descriptor ---- */

static int32_t events_seen;

static void note_events(struct ew__op *op, int32_t events)
{
	(void)op;
	events_seen |= events;
}

DRIVER_TEST(driver_operations_on_one_descriptor_each_end_by_their_own_event)
{
	struct ew__op hangup = { .code = EW__OP_POLL, .flags = POLLRDHUP, .event = note_events };
	struct ew__op send = { .code = EW__OP_SEND, .address = "b", .length = 1 };
	struct ew__op recv;
	char byte;
	int fds[2];

	open_driver();
	make_pair(fds);
	fill(fds[0]);
	recv = recv_op(fds[0], &byte, 1);
	send.fd = hangup.fd = fds[0];
	ew__driver_submit(driver, &hangup);
	ew__driver_submit(driver, &recv);
	ew__driver_submit(driver, &send);
	EXPECT(ew__driver_poll(driver, EW_NOW) == NULL);
	drain(fds[1]);
	await_ends(1);
	EXPECT_EQ(send.state, EW__OP_IDLE);
	EXPECT_EQ(recv.state, EW__OP_SUBMITTED);
	EXPECT_EQ(put(fds[1], "a", 1), 1);
	await_ends(1);
	EXPECT_EQ(recv.result, 1);
	EXPECT_EQ(events_seen, 0);
	/* Bytes that nobody wants now, and is told of when he does. */
	EXPECT_EQ(put(fds[1], "a", 1), 1);
	while (ew__driver_poll(driver, ew_after(EW_MILLISECOND)))
		;
	EXPECT_EQ(events_seen, 0);
	ew__driver_submit(driver, &recv);
	await_ends(1);
	ew__driver_submit(driver, &recv);
	EXPECT(ew__driver_poll(driver, EW_NOW) == NULL);
	EXPECT_EQ(put(fds[1], "a", 1), 1);
	await_ends(1);
	EXPECT_EQ(recv.result, 1);
	EXPECT_EQ(ew__system_shutdown(fds[1], SHUT_WR), 0);
	while (!events_seen)
		EXPECT(ew__driver_poll(driver, EW_NEVER) == NULL);
	EXPECT(events_seen & POLLRDHUP);
	ew__driver_cancel(driver, &hangup);
	await_ends(1);
	close_driver();
}

/* What was waited for on a number must not be heard by who waits on the number's next descriptor. */
KERNEL_TEST(driver_descriptor_closed_while_a_duplicate_is_open_is_forgotten)
{
	struct ew__op poll = { .code = EW__OP_POLL, .flags = POLLIN };
	int first[2], second[2], duplicate, number;

	open_driver();
	make_pair(first);
	make_pair(second);
	duplicate = dup(first[0]);
	EXPECT(duplicate >= 0);
	poll.fd = number = first[0];
	ew__driver_submit(driver, &poll);
	EXPECT(ew__driver_poll(driver, EW_NOW) == NULL);
	ew__driver_cancel(driver, &poll);
	await_ends(1);
	close(first[0]);
	EXPECT_EQ(dup2(second[0], number), number);
	ew__driver_submit(driver, &poll);
	EXPECT(ew__driver_poll(driver, EW_NOW) == NULL);
	EXPECT_EQ(write(first[1], "a", 1), 1);
	EXPECT(ew__driver_poll(driver, ew_after(EW_MILLISECOND)) == NULL);
	EXPECT_EQ(write(second[1], "a", 1), 1);
	await_ends(1);
	EXPECT_EQ(poll.result, POLLIN);
	close_driver();
}

/* As beyond fs.epoll.max_user_watches: an ending that waits must not depend on it. */
TEST(driver_epoll_without_room_for_a_registration_waits_all_the_same)
{
	struct ew__op hangup = { .code = EW__OP_POLL, .flags = POLLRDHUP, .event = note_events };
	struct ew__op recv, cancelled;
	char bytes[2];
	int fds[2];

	type = &ew__driver_epoll;
	open_driver();
	refuse_call(SYS_epoll_ctl, ENOSPC);
	make_pair(fds);
	cancelled = recv_op(fds[0], &bytes[0], 1);
	recv = recv_op(fds[0], &bytes[1], 1);
	hangup.fd = fds[0];
	ew__driver_submit(driver, &hangup);
	ew__driver_submit(driver, &cancelled);
	ew__driver_submit(driver, &recv);
	EXPECT(ew__driver_poll(driver, ew_after(20 * EW_MILLISECOND)) == NULL);
	ew__driver_cancel(driver, &cancelled);
	await_ends(1);
	EXPECT_EQ(cancelled.result, -ECANCELED);
	EXPECT_EQ(write(fds[1], "a", 1), 1);
	await_ends(1);
	EXPECT_EQ(recv.result, 1);
	ew__driver_cancel(driver, &hangup);
	await_ends(1);
	EXPECT_EQ(hangup.result, -ECANCELED);
	close_driver();
}

/* Linux before 5.11, and filters that do not know it. */
TEST(driver_epoll_without_epoll_pwait2_waits_no_shorter)
{
	struct ew__op op = { .code = EW__OP_POLL, .flags = POLLIN };
	int64_t deadline_ns;
	int i;

	type = &ew__driver_epoll;
	refuse_call(SYS_epoll_pwait2, EPERM);
	open_driver();
	op.fd = eventfd(0, EFD_CLOEXEC);
	ew__driver_submit(driver, &op);
	for (i = 0; i < 10; i++) {
		deadline_ns = ew_after(EW_MILLISECOND / 2);
		EXPECT(ew__driver_poll(driver, deadline_ns) == NULL);
		EXPECT(ew_now() >= deadline_ns);
	}
	ew__driver_cancel(driver, &op);
	await_ends(1);
	close_driver();
}

TEST_MAIN()
