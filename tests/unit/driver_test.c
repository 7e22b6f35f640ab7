/* SPDX-License-Identifier: Apache-2.0 */

/*
 * The drivers, stepped by hand: one outcome for each operation, and nothing that was lent is touched later. Each test
 * is run on each driver.
 */

#include "core.h"
#include "driver/driver.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>

#define DRIVER_TEST(id)                                                                            \
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

static void make_pair(int *fds)
{
	EXPECT_EQ(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, fds), 0);
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
	EXPECT_EQ(write(fds[1], "abc", 3), 3);
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
	EXPECT_EQ(write(fds[1], "a", 1), 1);
	op = recv_op(fds[0], &byte, 1);
	ew__driver_submit(driver, &op);
	ew__driver_cancel(driver, &op);
	EXPECT(ew__driver_has_queued(driver));
	await_ends(1);
	EXPECT_EQ(op.result, -ECANCELED);
	EXPECT_EQ(read(fds[0], &byte, 1), 1);
	close_driver();
}

DRIVER_TEST(driver_cancel_of_one_queued_operation_leaves_its_neighbours)
{
	char buffer[3][4];
	struct ew__op ops[3];
	int fds[2], i;

	open_driver();
	make_pair(fds);
	EXPECT_EQ(write(fds[1], "ab", 2), 2);
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
	EXPECT_EQ(write(fds[1], "a", 1), 1);
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
	EXPECT_EQ(write(fds[1], "a", 1), 1);
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
			EXPECT_EQ(write(fds[1], "abc", 3), 3);
			ew__driver_cancel(driver, &op);
		} else {
			ew__driver_cancel(driver, &op);
			EXPECT_EQ(write(fds[1], "abc", 3), 3);
		}
		await_ends(1);
		if (op.result == 3) {
			taken++;
			EXPECT_EQ(read(fds[0], rest, sizeof(rest)), -1);
		} else {
			refused++;
			EXPECT_EQ(op.result, -ECANCELED);
			EXPECT_EQ(read(fds[0], rest, sizeof(rest)), 3);
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
		EXPECT_EQ(write(fds[1], "a", 1), 1);
		ew__driver_cancel(driver, &first);
		await_ends(1);
		second = recv_op(fds[0], buffer[1], 1);
		ew__driver_submit(driver, &second);
		EXPECT(ew__driver_poll(driver, EW_NOW) == NULL || second.result == 1);
		if (second.state != EW__OP_IDLE) {
			EXPECT_EQ(write(fds[1], "b", 1), 1);
			await_ends(1);
		}
		EXPECT_EQ(second.result, 1);
		while (read(fds[0], buffer[0], 1) > 0)
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
DRIVER_TEST(driver_reads_of_a_file_what_it_can_at_once_and_says_when_it_cannot)
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
	int doorbell = eventfd(0, EFD_CLOEXEC), i;
	uint64_t one = 1;

	open_driver();
	for (i = 0; i < COUNT; i++) {
		ops[i] = (struct ew__op){ .code = EW__OP_POLL, .fd = doorbell, .flags = POLLIN };
		ew__driver_submit(driver, &ops[i]);
	}
	EXPECT(ew__driver_poll(driver, EW_NOW) == NULL);
	EXPECT_EQ(ew__driver_in_flight(driver), COUNT);
	EXPECT_EQ(write(doorbell, &one, sizeof(one)), sizeof(one));
	await_ends(COUNT);
	for (i = 0; i < COUNT; i++)
		EXPECT_EQ(ops[i].result, POLLIN);
	close_driver();
}

DRIVER_TEST(driver_cancels_more_operations_than_its_queues_hold)
{
	enum { COUNT = 6000 };
	static struct ew__op ops[COUNT];
	int doorbell = eventfd(0, EFD_CLOEXEC), i;

	open_driver();
	for (i = 0; i < COUNT; i++) {
		ops[i] = (struct ew__op){ .code = EW__OP_POLL, .fd = doorbell, .flags = POLLIN };
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

static void *ring_doorbell(void *argument)
{
	ew__driver_wake(argument);
	return NULL;
}

DRIVER_TEST(driver_wake_from_a_thread_ends_a_wait_now_or_the_next_one)
{
	pthread_t thread;
	int i;

	open_driver();
	for (i = 0; i < 50; i++) {
		EXPECT_EQ(pthread_create(&thread, NULL, ring_doorbell, driver), 0);
		EXPECT(ew__driver_poll(driver, EW_NEVER) == NULL); /* would hang */
		EXPECT_EQ(pthread_join(thread, NULL), 0);
	}
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
		EXPECT_EQ(write(fds[1], "abcd", 4), 4);
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
		EXPECT_EQ(write(fds[1], "a", 1), 1);
		ew__driver_submit(driver, &op);
		await_ends(1);
		EXPECT_EQ(op.result, 1);
	}
	op = (struct ew__op){ .code = EW__OP_RECEIVE, .fd = fds[0] };
	EXPECT_EQ(write(fds[1], "b", 1), 1);
	ew__driver_submit(driver, &op);
	await_ends(1);
	EXPECT_EQ(op.result, -ENOBUFS);
	EXPECT(!op.has_buffer);
	EXPECT_EQ(read(fds[0], &byte, 1), 1);
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
	uint64_t value = 1;
	int i;

	open_driver();
	op.fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	ew__driver_submit(driver, &op);
	for (i = 0; i < 5; i++) {
		EXPECT_EQ(write(op.fd, &value, sizeof(value)), sizeof(value));
		while (events_count == (unsigned)i)
			EXPECT(ew__driver_poll(driver, EW_NEVER) == NULL);
		EXPECT_EQ(read(op.fd, &value, sizeof(value)), sizeof(value));
		value = 1;
	}
	ew__driver_cancel(driver, &op);
	await_ends(1);
	EXPECT_EQ(events_count, 5);
	close_driver();
}

TEST_MAIN()
