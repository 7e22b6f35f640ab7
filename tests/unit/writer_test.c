/* SPDX-License-Identifier: Apache-2.0 */

/*
 * The buffered writer: what it takes is written once and in order, on every way out; what is not, is counted aloud.
 */

#include "io.h"

#define STREAM_BYTES ((size_t)200000)

/* A sink in memory that takes as long and as much at once as it is told to. */
struct sink {
	int64_t takes_ns;
	size_t at_once; /* 0: all */
	int fails;	/* instead of writing */
	char text[256];
	size_t bytes;
	unsigned calls;
};

static int sink_write(void *argument, const void *data, size_t size, int64_t offset)
{
	struct sink *sink = argument;
	int r = sink->takes_ns ? ew_sleep(sink->takes_ns) : ew_yield();

	if (r < 0)
		return r;
	sink->calls++;
	if (sink->fails)
		return sink->fails;
	EXPECT_EQ(offset, sink->bytes);
	if (sink->at_once && size > sink->at_once)
		size = sink->at_once;
	EXPECT(sink->bytes + size < sizeof(sink->text));
	memcpy(sink->text + sink->bytes, data, size);
	sink->bytes += size;
	return (int)size;
}

/* ---- what it takes ---- */

static int write_small(void *argument)
{
	struct sink sink = { 0 };
	EW_OWN(ew_writer, writer);

	(void)argument;
	EXPECT_EQ(ew_writer_open(sink_write, &sink, 16, &writer), 0);
	EXPECT_EQ(ew_writer_write(writer, "one ", 4), 0);
	EXPECT_EQ(ew_writer_write(writer, "two ", 4), 0);
	EXPECT_EQ(ew_writer_pending(writer), 8);
	EXPECT_EQ(sink.calls, 0);
	EXPECT_EQ(ew_writer_write(writer, "three four ", 11), 0);
	EXPECT_STR(sink.text, "one two ");
	EXPECT_EQ(ew_writer_flush(writer), 0);
	EXPECT_EQ(ew_writer_flush(writer), 0);
	EXPECT_EQ(sink.calls, 2);
	EXPECT_EQ(ew_writer_write(writer, "five and so on, longer than the buffer", 38), 0);
	EXPECT_EQ(ew_writer_taken(writer), 57);
	EXPECT_EQ(ew_writer_close(&writer), 0);
	EXPECT(!writer);
	EXPECT_STR(sink.text, "one two three four five and so on, longer than the buffer");
	return 0;
}

TEST(writer_gathers_small_writes_and_keeps_their_order)
{
	EXPECT_EQ(run_virtual(write_small, NULL), 0);
}

static int write_slowly(void *argument)
{
	struct sink sink = { .at_once = 3 };
	EW_OWN(ew_writer, writer);

	(void)argument;
	EXPECT_EQ(ew_writer_open(sink_write, &sink, 8, &writer), 0);
	EXPECT_EQ(ew_writer_write(writer, "01234567", 8), 0);
	EXPECT_EQ(ew_writer_write(writer, "89", 2), 0);
	EXPECT_EQ(ew_writer_write(writer, "abcdefg", 7), 0);
	EXPECT_EQ(ew_writer_close(&writer), 0);
	EXPECT_STR(sink.text, "0123456789abcdefg");
	return 0;
}

TEST(writer_goes_on_where_a_sink_took_a_part)
{
	EXPECT_EQ(run_virtual(write_slowly, NULL), 0);
}

static int write_file(void *argument)
{
	struct directory *directory = argument;
	EW_OWN(ew_file, file);
	EW_OWN(ew_writer, writer);
	char path[300];

	snprintf(path, sizeof(path), "%s/file", directory->path);
	EXPECT_EQ(ew_file_open(NULL, path, O_WRONLY, 0, &file), 0);
	EXPECT_EQ(ew_writer_open_file(file, 3, 4, &writer), 0);
	EXPECT_EQ(ew_writer_write(writer, "DEFGHI", 6), 0);
	EXPECT_EQ(ew_writer_close(&writer), 0);
	return ew_file_close(&file);
}

TEST(writer_to_a_file_begins_where_it_is_told)
{
	struct directory directory;

	directory_make(&directory);
	put_file(&directory, "file", "abcdefghijk");
	EXPECT_EQ(run_workers(1, write_file, &directory), 0);
	EXPECT_STR(file_text(&directory, "file"), "abcDEFGHIjk");
	directory_remove(&directory);
}

static int write_in_vain(void *argument)
{
	struct sink sink = { .fails = -ENOSPC };
	EW_OWN(ew_writer, writer);

	(void)argument;
	EXPECT_EQ(ew_writer_open(sink_write, &sink, 4, &writer), 0);
	EXPECT_EQ(ew_writer_write(writer, "0123", 4), 0);
	EXPECT_EQ(ew_writer_write(writer, "4", 1), -ENOSPC);
	EXPECT_EQ(ew_writer_taken(writer), 4);
	EXPECT_EQ(ew_writer_write(writer, "456789", 6), -ENOSPC);
	sink.fails = 0;
	EXPECT_EQ(ew_writer_flush(writer), 0); /* there is room again */
	EXPECT_STR(sink.text, "0123");
	EXPECT_EQ(ew_writer_write(writer, "4", 1), 0);
	sink.fails = -ENOSPC;
	EXPECT_EQ(ew_writer_close(&writer), -ENOSPC);
	EXPECT(!writer);
	return 0;
}

TEST(writer_says_what_its_sink_says_and_keeps_what_it_took)
{
	EXPECT_EQ(run_virtual(write_in_vain, NULL), 0);
}

static int nothing(void *sink, const void *data, size_t size, int64_t offset)
{
	(void)sink;
	(void)data;
	(void)size;
	(void)offset;
	return 0;
}

static int write_nothing(void *argument)
{
	EW_OWN(ew_writer, writer);

	(void)argument;
	EXPECT_EQ(ew_writer_open(nothing, NULL, 4, &writer), 0);
	EXPECT_EQ(ew_writer_write(writer, "0123", 4), 0);
	return ew_writer_close(&writer);
}

TEST(writer_does_not_go_round_with_a_sink_that_takes_nothing)
{
	EXPECT_EQ(run_virtual(write_nothing, NULL), -EIO);
}

/* ---- its endings ---- */

/* Panics, or waits to be cancelled, with bytes that only the ending can write. */
struct ending {
	struct sink sink;
	bool panics;
};

static int write_half(void *argument)
{
	struct ending *ending = argument;
	EW_OWN(ew_writer, writer);

	EXPECT_EQ(ew_writer_open(sink_write, &ending->sink, 64, &writer), 0);
	EXPECT_EQ(ew_writer_write(writer, "half", 4), 0);
	if (ending->panics)
		ew_panic("half way");
	return ew_sleep(3600 * EW_SECOND);
}

static int end_half_way(void *argument)
{
	EW_SCOPE(scope, .policy = EW_POLICY_INDEPENDENT);
	EXPECT_EQ(ew_spawn(&scope, write_half, argument), 0);
	EXPECT_EQ(ew_yield(), 0);
	ew_scope_cancel(&scope, EW_REASON_REQUESTED);
	(void)!ew_scope_join(&scope);
	return 0;
}

TEST(writer_is_flushed_when_its_task_panics)
{
	struct ending ending = { .panics = true, .sink.takes_ns = EW_SECOND };

	EXPECT_EQ(run_virtual(end_half_way, &ending), 0);
	EXPECT_STR(ending.sink.text, "half");
	EXPECT(!reported("bytes were not written", NULL));
}

TEST(writer_is_flushed_when_its_task_is_cancelled)
{
	struct ending ending = { .sink.takes_ns = EW_SECOND };

	EXPECT_EQ(run_virtual(end_half_way, &ending), 0);
	EXPECT_STR(ending.sink.text, "half");
}

TEST(writer_whose_budget_is_spent_says_how_much_was_not_written)
{
	struct ending ending = { .sink.takes_ns = 3600 * EW_SECOND };

	EXPECT_EQ(run_virtual(end_half_way, &ending), 0);
	EXPECT_EQ(ending.sink.bytes, 0);
	EXPECT(reported("tests/unit/writer_test.c:", "was aborted: 4 bytes were not written"));
}

/* Two of four bytes go in the time that there is. */
TEST(writer_aborted_half_way_counts_what_is_left)
{
	struct ending ending = { .sink = { .takes_ns = 4 * EW_SECOND, .at_once = 1 } };

	EXPECT_EQ(run_virtual(end_half_way, &ending), 0);
	EXPECT_STR(ending.sink.text, "ha");
	EXPECT(reported("was aborted: 2 bytes were not written", NULL));
}

/* ---- cancels ---- */

static int write_cancelled(void *argument)
{
	struct sink sink = { .takes_ns = EW_SECOND };
	EW_OWN(ew_writer, writer);

	(void)argument;
	EXPECT_EQ(ew_writer_open(sink_write, &sink, 4, &writer), 0);
	EXPECT_EQ(ew_writer_write(writer, "0123", 4), 0);
	{
		EW_SCOPE(patience, .deadline_ns = ew_after(EW_SECOND / 2));
		EXPECT_EQ(ew_writer_write(writer, "45", 2), -ECANCELED);
		EXPECT_EQ(ew_writer_write(writer, "", 0), -ECANCELED);
		EXPECT_EQ(ew_writer_flush(writer), -ECANCELED);
		EXPECT_EQ(ew_writer_taken(writer), 4);
	}
	{
		EW_SCOPE(patience, .deadline_ns = ew_after(5 * EW_SECOND / 2));
		EXPECT_EQ(ew_writer_write(writer, "456789abcdefghij", 16), -ECANCELED);
		EXPECT_EQ(ew_writer_taken(writer), 12); /* two pieces */
	}
	EXPECT_EQ(ew_writer_close(&writer), 0);
	EXPECT_STR(sink.text, "0123456789ab");
	return 0;
}

/* Up to the buffer's size all or nothing is taken, of more a number of pieces that can be asked for. */
TEST(writer_cancelled_says_what_it_has_taken)
{
	EXPECT_EQ(run_virtual(write_cancelled, NULL), 0);
}

static char byte_at(size_t i)
{
	return (char)(i * 2654435761u >> 13);
}

struct stream {
	struct ew_writer *writer;
	int peer;
	unsigned refused;
};

static void *read_stream(void *argument)
{
	const struct stream *stream = argument;
	char data[999];
	size_t taken = 0;
	ssize_t r, i;

	while ((r = recv(stream->peer, data, sizeof(data), 0)) > 0) {
		for (i = 0; i < r; i++)
			EXPECT_EQ(data[i], byte_at(taken + (size_t)i));
		taken += (size_t)r;
		usleep(100);
	}
	EXPECT_EQ(r, 0);
	EXPECT(taken >= STREAM_BYTES);
	return NULL;
}

/* Where it goes on is what the writer says. */
static int give_stream(void *argument)
{
	struct stream *stream = argument;
	char data[3000];
	size_t i, size, at;
	int r = 0;

	while (r == 0 && (at = (size_t)ew_writer_taken(stream->writer)) < STREAM_BYTES) {
		size = 1 + chance(sizeof(data));
		for (i = 0; i < size; i++)
			data[i] = byte_at(at + i);
		r = ew_writer_write(stream->writer, data, size);
		if (r == 0 && chance(3) == 0)
			r = ew_writer_flush(stream->writer);
	}
	stream->refused += r == -ECANCELED;
	return r;
}

static int conserve_bytes(void *argument)
{
	struct stream stream = { 0 };
	EW_OWN(ew_socket, socket);
	EW_OWN(ew_writer, writer);
	const int small = 4096;
	pthread_t reader;

	(void)argument;
	stream.peer = unix_peer(&socket);
	/* So that the socket is full most of the time. */
	EXPECT_EQ(setsockopt(ew_socket_fd(socket), SOL_SOCKET, SO_SNDBUF, &small, sizeof(small)),
		  0);
	EXPECT_EQ(ew_writer_open_socket(socket, 1024, &writer), 0);
	stream.writer = writer;
	EXPECT_EQ(pthread_create(&reader, NULL, read_stream, &stream), 0);
	while (ew_writer_taken(writer) < (int64_t)STREAM_BYTES) {
		EW_SCOPE(scope);
		EXPECT_EQ(ew_spawn(&scope, give_stream, &stream), 0);
		take_turns(chance(12));
		ew_scope_cancel(&scope, EW_REASON_REQUESTED);
		(void)!ew_scope_join(&scope);
	}
	EXPECT_EQ(ew_writer_close(&writer), 0);
	EXPECT_EQ(ew_socket_shutdown(socket, SHUT_WR), 0);
	EXPECT_EQ(pthread_join(reader, NULL), 0);
	EXPECT(stream.refused > 0);
	close(stream.peer);
	return ew_socket_close(&socket);
}

/* Tasks that write a known sequence are cancelled at random: every byte arrives, once, in order. */
TEST(writer_cancelled_at_random_writes_each_byte_once)
{
	chance_begin();
	EXPECT_EQ(run_workers(1, conserve_bytes, NULL), 0);
}

static int write_to_nobody(void *argument)
{
	EW_OWN(ew_pipe, source);
	EW_OWN(ew_pipe, sink);
	EW_OWN(ew_writer, writer);

	(void)argument;
	EXPECT_EQ(ew_pipe_open(&source, &sink), 0);
	EXPECT_EQ(ew_writer_open_pipe(sink, 64, &writer), 0);
	EXPECT_EQ(ew_writer_write(writer, "text", 4), 0);
	EXPECT_EQ(ew_pipe_close(&source), 0);
	return ew_writer_close(&writer);
}

/* An error, and no signal that would end the process when the runtime ends. */
TEST(writer_to_a_pipe_that_nobody_reads_fails_without_a_signal)
{
	EXPECT_EQ(run_workers(1, write_to_nobody, NULL), -EPIPE);
}

TEST(writer_on_a_plain_thread_fails_without_a_signal)
{
	sigset_t after;

	EXPECT_EQ(write_to_nobody(NULL), -EPIPE);
	pthread_sigmask(SIG_BLOCK, NULL, &after);
	EXPECT(!sigismember(&after, SIGPIPE));
	sigpending(&after);
	EXPECT(!sigismember(&after, SIGPIPE));
}

TEST_MAIN()
