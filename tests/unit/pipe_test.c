/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Pipes: what arrives, what a cancel leaves where it was, and that both endings give the
 * descriptor back.
 */

#include "plain.h"
#include "task/worker.h"

#include <endwell/clock.h>
#include <endwell/endwell.h>
#include <fcntl.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/resource.h>

#define BULK_BYTES  ((size_t)1 << 20)
#define RACES_COUNT 500

static unsigned reports_count;
static char last_report[512];

static void note_report(void *argument, const char *line)
{
	(void)argument;
	reports_count++;
	snprintf(last_report, sizeof(last_report), "%s", line);
}

static int run(ew_task_fn *fn, void *argument)
{
	const struct ew_run_options options = { .workers_count = 1, .report = note_report };

	return ew_run(&options, fn, argument);
}

static bool is_open(int fd)
{
	return fcntl(fd, F_GETFD) >= 0;
}

static size_t bytes_in(const struct ew_pipe *pipe)
{
	int count = 0;

	EXPECT_EQ(ioctl(ew_pipe_fd(pipe), FIONREAD, &count), 0);
	return (size_t)count;
}

static unsigned char byte_at(size_t i)
{
	return (unsigned char)(i * 2654435761u >> 13);
}

static unsigned char *make_bulk(void)
{
	unsigned char *data = malloc(BULK_BYTES);
	size_t i;

	EXPECT(data);
	for (i = 0; i < BULK_BYTES; i++)
		data[i] = byte_at(i);
	return data;
}

/* ---- data ---- */

struct transfer {
	struct ew_pipe *pipe;
	const unsigned char *data;
	void *buffer;
	size_t size;
	int result;
	enum ew_outcome outcome;
};

static int write_task(void *argument)
{
	struct transfer *transfer = argument;

	transfer->result = ew_pipe_write(transfer->pipe, transfer->data, transfer->size);
	transfer->outcome = ew_outcome();
	return 0;
}

static int read_task(void *argument)
{
	struct transfer *transfer = argument;

	transfer->result = ew_pipe_read(transfer->pipe, transfer->buffer, transfer->size);
	transfer->outcome = ew_outcome();
	return 0;
}

static int write_and_close_task(void *argument, void *place)
{
	struct transfer *transfer = argument;
	struct ew_pipe **pipe = place;

	transfer->pipe = *pipe;
	EXPECT_EQ(write_task(transfer), 0);
	return ew_pipe_close(pipe);
}

static void expect_bulk_until_end(struct ew_pipe *pipe)
{
	unsigned char *buffer = malloc(100000);
	size_t total = 0;
	int i, r;

	EXPECT(buffer);
	while ((r = ew_pipe_read(pipe, buffer, 100000)) > 0)
		for (i = 0; i < r; i++)
			EXPECT_EQ(buffer[i], byte_at(total++));
	EXPECT_EQ(r, 0);
	EXPECT_EQ(total, BULK_BYTES);
	free(buffer);
}

static int send_bulk(void *argument)
{
	EW_OWN(ew_pipe, source);
	EW_OWN(ew_pipe, sink);
	unsigned char *data = make_bulk();
	struct transfer transfer = { .data = data, .size = BULK_BYTES };

	(void)argument;
	EXPECT_EQ(ew_pipe_open(&source, &sink), 0);
	EW_SCOPE(scope);
	EXPECT_EQ(ew_spawn_take(&scope, write_and_close_task, &transfer, &sink), 0);
	expect_bulk_until_end(source);
	EXPECT_EQ(ew_scope_join(&scope), 0);
	EXPECT_EQ(transfer.result, 0);
	EXPECT_EQ(transfer.outcome, EW_OUTCOME_DONE);
	free(data);
	return ew_pipe_close(&source);
}

/*
 * A megabyte goes through a pipe of 64 KiB, so both ends wait many times; then the writer's close
 * is the end.
 */
TEST(pipe_carries_all_bytes_in_order_and_then_its_end)
{
	EXPECT_EQ(run(send_bulk, NULL), 0);
	EXPECT_EQ(reports_count, 0);
}

static int read_short(void *argument)
{
	EW_OWN(ew_pipe, source);
	EW_OWN(ew_pipe, sink);
	char buffer[16];

	(void)argument;
	EXPECT_EQ(ew_pipe_open(&source, &sink), 0);
	EXPECT_EQ(ew_pipe_write(sink, "abcdef", 6), 0);
	EXPECT_EQ(ew_pipe_read(source, buffer, 4), 4);
	EXPECT_EQ(ew_outcome(), EW_OUTCOME_DONE);
	EXPECT(!memcmp(buffer, "abcd", 4));
	EXPECT_EQ(ew_pipe_read(source, buffer, sizeof(buffer)), 2);
	EXPECT_EQ(ew_outcome(), EW_OUTCOME_PARTIAL);
	EXPECT(!memcmp(buffer, "ef", 2));
	EXPECT_EQ(ew_pipe_write(sink, "", 0), 0);
	EXPECT_EQ(bytes_in(source), 0);
	return 0;
}

TEST(pipe_read_gives_what_is_there)
{
	EXPECT_EQ(run(read_short, NULL), 0);
}

static int read_without_writer(void *argument)
{
	EW_OWN(ew_pipe, source);
	EW_OWN(ew_pipe, sink);
	char byte;

	(void)argument;
	EXPECT_EQ(ew_pipe_open(&source, &sink), 0);
	EXPECT_EQ(ew_pipe_write(sink, "x", 1), 0);
	EXPECT_EQ(ew_pipe_close(&sink), 0);
	EXPECT(!sink);
	EXPECT_EQ(ew_pipe_read(source, &byte, 1), 1);
	EXPECT_EQ(ew_pipe_read(source, &byte, 1), 0);
	EXPECT_EQ(ew_pipe_read(source, &byte, 1), 0);
	return 0;
}

TEST(pipe_read_without_a_writer_is_0)
{
	EXPECT_EQ(run(read_without_writer, NULL), 0);
}

static int close_later(void *argument, void *place)
{
	(void)argument;
	EXPECT_EQ(ew_sleep(5 * EW_MILLISECOND), 0);
	return ew_pipe_close(place);
}

static int wait_for_end(void *argument)
{
	EW_OWN(ew_pipe, source);
	EW_OWN(ew_pipe, sink);
	char byte;

	(void)argument;
	EXPECT_EQ(ew_pipe_open(&source, &sink), 0);
	EW_SCOPE(scope);
	EXPECT_EQ(ew_spawn_take(&scope, close_later, NULL, &sink), 0);
	EXPECT_EQ(ew_pipe_read(source, &byte, 1), 0);
	return ew_scope_join(&scope);
}

TEST(pipe_read_that_waits_is_ended_by_the_last_writers_close)
{
	EXPECT_EQ(run(wait_for_end, NULL), 0);
}

/* ---- the reader is gone ---- */

static int write_without_reader(void *argument)
{
	EW_OWN(ew_pipe, source);
	EW_OWN(ew_pipe, sink);

	(void)argument;
	EXPECT_EQ(ew_pipe_open(&source, &sink), 0);
	EXPECT_EQ(ew_pipe_close(&source), 0);
	EXPECT_EQ(ew_pipe_write(sink, "x", 1), -EPIPE);
	EXPECT_EQ(ew_pipe_write(sink, "x", 1), -EPIPE);
	return 7;
}

/* Not even when the runtime has ended and SIGPIPE has its default action back. */
TEST(pipe_write_without_a_reader_is_EPIPE_and_no_signal)
{
	sigset_t pending;

	signal(SIGPIPE, SIG_DFL);
	EXPECT_EQ(run(write_without_reader, NULL), 7);
	sigpending(&pending);
	EXPECT_EQ(sigismember(&pending, SIGPIPE), 0);
}

static int lose_reader(void *argument)
{
	EW_OWN(ew_pipe, source);
	EW_OWN(ew_pipe, sink);
	unsigned char *data = make_bulk();
	struct transfer transfer = { .data = data, .size = BULK_BYTES };

	(void)argument;
	EXPECT_EQ(ew_pipe_open(&source, &sink), 0);
	transfer.pipe = sink;
	EW_SCOPE(scope);
	EXPECT_EQ(ew_spawn(&scope, write_task, &transfer), 0);
	while (bytes_in(source) == 0)
		EXPECT_EQ(ew_yield(), 0);
	EXPECT_EQ(ew_pipe_close(&source), 0);
	EXPECT_EQ(ew_scope_join(&scope), 0);
	EXPECT_EQ(transfer.result, -EPIPE);
	EXPECT_EQ(transfer.outcome, EW_OUTCOME_PARTIAL);
	free(data);
	return 0;
}

TEST(pipe_write_whose_reader_goes_is_EPIPE_and_partial)
{
	EXPECT_EQ(run(lose_reader, NULL), 0);
}

/* ---- cancels ---- */

struct race {
	bool write_first;
	unsigned cancelled_count;
};

/* One byte and one cancel meet a waiting reader in the same turn. */
static void race_once(struct ew_pipe *source, struct ew_pipe *sink, struct race *race)
{
	char byte = 0, left = 0;
	struct transfer transfer = { .pipe = source, .buffer = &byte, .size = 1 };
	EW_SCOPE(scope);

	EXPECT_EQ(ew_spawn(&scope, read_task, &transfer), 0);
	EXPECT_EQ(ew_yield(), 0);
	if (race->write_first)
		EXPECT_EQ(write(ew_pipe_fd(sink), "x", 1), 1);
	ew_scope_cancel(&scope, EW_REASON_REQUESTED);
	if (!race->write_first)
		EXPECT_EQ(write(ew_pipe_fd(sink), "x", 1), 1);
	(void)!ew_scope_join(&scope);
	if (transfer.result == 1) {
		EXPECT_EQ(byte, 'x');
		EXPECT_EQ(bytes_in(source), 0);
		EXPECT_EQ(transfer.outcome, EW_OUTCOME_DONE);
		return;
	}
	race->cancelled_count++;
	EXPECT_EQ(transfer.result, -ECANCELED);
	EXPECT_EQ(transfer.outcome, EW_OUTCOME_NONE);
	EXPECT_EQ(byte, 0);
	EXPECT_EQ(read(ew_pipe_fd(source), &left, 1), 1);
	EXPECT_EQ(left, 'x');
}

static int race_often(void *argument)
{
	EW_OWN(ew_pipe, source);
	EW_OWN(ew_pipe, sink);
	struct race *race = argument;
	unsigned i;

	EXPECT_EQ(ew_pipe_open(&source, &sink), 0);
	for (i = 0; i < RACES_COUNT; i++)
		race_once(source, sink, race);
	return 0;
}

/* Each byte is either read, or refused and then still in the pipe. */
TEST(pipe_read_cancelled_takes_no_byte)
{
	struct race race = { .write_first = false };

	EXPECT_EQ(run(race_often, &race), 0);
	EXPECT(race.cancelled_count > 0);
	race = (struct race){ .write_first = true };
	EXPECT_EQ(run(race_often, &race), 0);
}

static int read_in_cancelled_scope(void *argument)
{
	EW_OWN(ew_pipe, source);
	EW_OWN(ew_pipe, sink);
	char byte = 0;

	(void)argument;
	EXPECT_EQ(ew_pipe_open(&source, &sink), 0);
	EXPECT_EQ(ew_pipe_write(sink, "x", 1), 0);
	EW_SCOPE(scope);
	ew_scope_cancel(&scope, EW_REASON_REQUESTED);
	EXPECT_EQ(ew_pipe_read(source, &byte, 1), -ECANCELED);
	EXPECT_EQ(ew_pipe_write(sink, "y", 1), -ECANCELED);
	EXPECT_EQ(byte, 0);
	EXPECT_EQ(bytes_in(source), 1);
	EXPECT_EQ(ew_pipe_close(&sink), 0);
	return 0;
}

/* A byte is there and room too, so neither would wait; the close is not refused. */
TEST(pipe_read_and_write_are_refused_once_cancelled)
{
	EXPECT_EQ(run(read_in_cancelled_scope, NULL), 0);
}

static int cancel_write(void *argument)
{
	EW_OWN(ew_pipe, source);
	EW_OWN(ew_pipe, sink);
	unsigned char *data = make_bulk(), *buffer = malloc(BULK_BYTES);
	struct transfer transfer = { .data = data, .size = BULK_BYTES };
	size_t count, i;

	(void)argument;
	EXPECT_EQ(ew_pipe_open(&source, &sink), 0);
	transfer.pipe = sink;
	EW_SCOPE(scope);
	EXPECT_EQ(ew_spawn(&scope, write_task, &transfer), 0);
	while (bytes_in(source) == 0)
		EXPECT_EQ(ew_yield(), 0);
	ew_scope_cancel(&scope, EW_REASON_REQUESTED);
	EXPECT_EQ(ew_scope_join(&scope), 0);
	EXPECT_EQ(transfer.result, -ECANCELED);
	EXPECT_EQ(transfer.outcome, EW_OUTCOME_PARTIAL);
	count = bytes_in(source);
	EXPECT(count > 0 && count < BULK_BYTES);
	EXPECT_EQ(read(ew_pipe_fd(source), buffer, count), (ssize_t)count);
	for (i = 0; i < count; i++)
		EXPECT_EQ(buffer[i], byte_at(i));
	free(buffer);
	free(data);
	return 0;
}

TEST(pipe_write_cancelled_stops_and_says_partial)
{
	EXPECT_EQ(run(cancel_write, NULL), 0);
}

/* ---- descriptors of others ---- */

static int write_later(void *argument)
{
	EXPECT_EQ(ew_sleep(20 * EW_MILLISECOND), 0);
	EXPECT_EQ(write(*(int *)argument, "x", 1), 1);
	return 0;
}

static int read_non_blocking(void *argument)
{
	EW_OWN(ew_pipe, source);
	int fds[2];
	uint64_t turns;
	char byte;

	(void)argument;
	EXPECT_EQ(pipe2(fds, O_NONBLOCK), 0);
	EXPECT_EQ(ew_pipe_adopt(fds[0], &source), 0);
	EXPECT_EQ(ew_pipe_fd(source), fds[0]);
	EXPECT_EQ(fcntl(fds[0], F_GETFD) & FD_CLOEXEC, FD_CLOEXEC);
	EW_SCOPE(scope);
	EXPECT_EQ(ew_spawn(&scope, write_later, &fds[1]), 0);
	turns = ew__worker->turns;
	EXPECT_EQ(ew_pipe_read(source, &byte, 1), 1);
	EXPECT(ew__worker->turns - turns < 20);
	EXPECT_EQ(ew_scope_join(&scope), 0);
	close(fds[1]);
	EXPECT_EQ(ew_pipe_read(source, &byte, 1), 0);
	return 0;
}

/* The number of turns shows that it waits and does not ask again and again. */
TEST(pipe_adopted_non_blocking_is_waited_for)
{
	EXPECT_EQ(run(read_non_blocking, NULL), 0);
}

static int write_non_blocking(void *argument)
{
	EW_OWN(ew_pipe, source);
	EW_OWN(ew_pipe, sink);
	unsigned char *data = make_bulk();
	struct transfer transfer = { .data = data, .size = BULK_BYTES };
	int fds[2];

	(void)argument;
	EXPECT_EQ(pipe2(fds, O_NONBLOCK), 0);
	EXPECT_EQ(ew_pipe_adopt(fds[0], &source), 0);
	EXPECT_EQ(ew_pipe_adopt(fds[1], &sink), 0);
	EW_SCOPE(scope);
	EXPECT_EQ(ew_spawn_take(&scope, write_and_close_task, &transfer, &sink), 0);
	expect_bulk_until_end(source);
	EXPECT_EQ(ew_scope_join(&scope), 0);
	EXPECT_EQ(transfer.result, 0);
	free(data);
	return 0;
}

TEST(pipe_adopted_non_blocking_carries_all_bytes)
{
	EXPECT_EQ(run(write_non_blocking, NULL), 0);
}

static int read_non_blocking_until_deadline(void *argument)
{
	EW_OWN(ew_pipe, source);
	EW_SCOPE(scope, .deadline_ns = ew_after(5 * EW_MILLISECOND));
	int fds[2];
	char byte;

	(void)argument;
	EXPECT_EQ(pipe2(fds, O_NONBLOCK), 0);
	EXPECT_EQ(ew_pipe_adopt(fds[0], &source), 0);
	EXPECT_EQ(ew_pipe_read(source, &byte, 1), -ECANCELED);
	close(fds[1]);
	return ew_scope_finish(&scope, -ECANCELED);
}

TEST(pipe_adopted_non_blocking_is_left_at_the_deadline)
{
	EXPECT_EQ(run(read_non_blocking_until_deadline, NULL), -ETIMEDOUT);
}

static int count_events(void *argument)
{
	EW_OWN(ew_pipe, events);
	uint64_t value = 0;
	int fd = eventfd(3, EFD_CLOEXEC);

	(void)argument;
	EXPECT_EQ(ew_pipe_adopt(fd, &events), 0);
	EXPECT_EQ(ew_pipe_read(events, &value, sizeof(value)), sizeof(value));
	EXPECT_EQ(value, 3);
	value = 5;
	EXPECT_EQ(ew_pipe_write(events, &value, sizeof(value)), 0);
	EXPECT_EQ(ew_pipe_read(events, &value, sizeof(value)), sizeof(value));
	EXPECT_EQ(value, 5);
	EXPECT_EQ(ew_pipe_close(&events), 0);
	EXPECT(!is_open(fd));
	return 0;
}

TEST(pipe_can_be_an_eventfd)
{
	EXPECT_EQ(run(count_events, NULL), 0);
}

static int use_file(void *argument)
{
	EW_OWN(ew_pipe, stream);
	char path[] = "/tmp/pipe_test_XXXXXX", bytes[8];
	int fd = mkstemp(path);

	(void)argument;
	EXPECT_EQ(unlink(path), 0);
	EXPECT_EQ(ew_pipe_adopt(fd, &stream), 0);
	EXPECT_EQ(ew_pipe_write(stream, "abc", 3), 0);
	EXPECT_EQ(ew_pipe_write(stream, "defg", 4), 0);
	EXPECT_EQ(lseek(fd, 1, SEEK_SET), 1);
	EXPECT_EQ(ew_pipe_read(stream, bytes, 2), 2);
	EXPECT_EQ(ew_outcome(), EW_OUTCOME_DONE);
	EXPECT_EQ(ew_pipe_read(stream, bytes + 2, 6), 4);
	EXPECT_EQ(ew_outcome(), EW_OUTCOME_PARTIAL);
	EXPECT_EQ(memcmp(bytes, "bcdefg", 6), 0);
	EXPECT_EQ(ew_pipe_read(stream, bytes, 1), 0);
	return ew_pipe_close(&stream);
}

/* As standard output that was redirected to one. */
TEST(pipe_can_be_a_file_that_is_used_where_it_stands)
{
	EXPECT_EQ(run(use_file, NULL), 0);
}

static int adopt_nothing(void *argument)
{
	EW_OWN(ew_pipe, pipe);

	(void)argument;
	EXPECT_EQ(ew_pipe_adopt(-1, &pipe), -EBADF);
	EXPECT(!pipe);
	return 0;
}

TEST(pipe_adopt_refuses_what_is_not_open)
{
	EXPECT_EQ(run(adopt_nothing, NULL), 0);
}

static int open_without_descriptors(void *argument)
{
	EW_OWN(ew_pipe, source);
	EW_OWN(ew_pipe, sink);
	struct rlimit limit, none;

	(void)argument;
	EXPECT_EQ(getrlimit(RLIMIT_NOFILE, &limit), 0);
	none = (struct rlimit){ 0, limit.rlim_max };
	EXPECT_EQ(setrlimit(RLIMIT_NOFILE, &none), 0);
	EXPECT_EQ(ew_pipe_open(&source, &sink), -EMFILE);
	EXPECT_EQ(setrlimit(RLIMIT_NOFILE, &limit), 0);
	EXPECT(!source && !sink);
	return 0;
}

TEST(pipe_open_without_descriptors_makes_nothing)
{
	EXPECT_EQ(run(open_without_descriptors, NULL), 0);
}

/* ---- endings ---- */

static int leave_block(void *argument)
{
	int fds[2];

	(void)argument;
	{
		EW_OWN(ew_pipe, source);
		EW_OWN(ew_pipe, sink);

		EXPECT_EQ(ew_pipe_open(&source, &sink), 0);
		fds[0] = ew_pipe_fd(source);
		fds[1] = ew_pipe_fd(sink);
		EXPECT(fcntl(fds[0], F_GETFD) == FD_CLOEXEC &&
		       fcntl(fds[1], F_GETFD) == FD_CLOEXEC);
	}
	EXPECT(!is_open(fds[0]) && !is_open(fds[1]));
	return 0;
}

TEST(pipe_is_closed_when_its_block_is_left)
{
	EXPECT_EQ(run(leave_block, NULL), 0);
	EXPECT_EQ(reports_count, 0);
}

static int panic_with_pipe(void *argument)
{
	EW_OWN(ew_pipe, source);
	EW_OWN(ew_pipe, sink);
	int *fd = argument;

	EXPECT_EQ(ew_pipe_open(&source, &sink), 0);
	*fd = ew_pipe_fd(sink);
	ew_panic("on purpose");
}

static int await_panic(void *argument)
{
	int fd = -1;

	(void)argument;
	EW_SCOPE(scope, .policy = EW_POLICY_INDEPENDENT);
	EXPECT_EQ(ew_spawn(&scope, panic_with_pipe, &fd), 0);
	(void)!ew_scope_join(&scope);
	EXPECT(fd >= 0 && !is_open(fd));
	return 0;
}

TEST(pipe_is_closed_when_its_task_panics)
{
	EXPECT_EQ(run(await_panic, NULL), 0);
}

static struct ew_pipe *lost;
static int lost_fds[2];

static int forget(void *argument)
{
	EW_OWN(ew_pipe, sink);

	(void)argument;
	EXPECT_EQ(ew_pipe_open(&lost, &sink), 0);
	lost_fds[0] = ew_pipe_fd(lost);
	lost_fds[1] = ew_pipe_fd(sink);
	return 0;
}

TEST(pipe_forgotten_is_reported_and_aborted)
{
	EXPECT_EQ(run(forget, NULL), 0);
	EXPECT_EQ(reports_count, 1);
	EXPECT(strstr(last_report, "pipe_test.c") && strstr(last_report, "ew_pipe_open"));
	EXPECT(!is_open(lost_fds[0]) && !is_open(lost_fds[1]));
}

static int fill_twice(void *argument)
{
	EW_OWN(ew_pipe, source);
	EW_OWN(ew_pipe, sink);
	int fd;

	(void)argument;
	EXPECT_EQ(ew_pipe_open(&source, &sink), 0);
	fd = ew_pipe_fd(source);
	EXPECT_EQ(ew_pipe_adopt(eventfd(0, EFD_CLOEXEC), &source), 0);
	EXPECT(!is_open(fd));
	return 0;
}

TEST(pipe_that_would_be_overwritten_is_reported_and_aborted)
{
	EXPECT_EQ(run(fill_twice, NULL), 0);
	EXPECT_EQ(reports_count, 1);
}

TEST_MAIN()
