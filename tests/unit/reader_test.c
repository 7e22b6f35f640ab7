/* SPDX-License-Identifier: Apache-2.0 */

/*
 * The buffered reader: lines, exact counts, looks ahead, and that whatever ends a wait, what was read stays.
 */

#include "io.h"

#define STREAM_BYTES ((size_t)200000)

/* ---- what it takes ---- */

static void put(struct ew_pipe *pipe, const char *text)
{
	EXPECT_EQ(ew_pipe_write(pipe, text, strlen(text)), 0);
}

static void expect_line(struct ew_reader *reader, const char *line)
{
	const char *data;

	EXPECT_EQ(ew_reader_read_until(reader, '\n', &data), strlen(line));
	EXPECT(!memcmp(data, line, strlen(line)));
}

/* Puts the second half of a line when the reader waits for it. */
static int put_rest(void *argument)
{
	put(argument, "ond\nbody");
	return 0;
}

static int read_lines(void *argument)
{
	EW_OWN(ew_pipe, source);
	EW_OWN(ew_pipe, sink);
	char buffer[16], body[4];
	struct ew_reader reader;
	const char *data;

	(void)argument;
	EXPECT_EQ(ew_pipe_open(&source, &sink), 0);
	ew_reader_init_pipe(&reader, source, buffer, sizeof(buffer));
	put(sink, "first\n\nsec");
	expect_line(&reader, "first\n");
	expect_line(&reader, "\n");
	{
		EW_SCOPE(scope);
		EXPECT_EQ(ew_spawn(&scope, put_rest, sink), 0);
		expect_line(&reader, "second\n");
		EXPECT_EQ(ew_scope_join(&scope), 0);
	}
	EXPECT_EQ(ew_reader_peek(&reader, 2, &data), 4);
	EXPECT(!memcmp(data, "body", 4));
	EXPECT_EQ(ew_reader_read(&reader, body, 4), 4);
	EXPECT(!memcmp(body, "body", 4));
	EXPECT_EQ(ew_pipe_close(&sink), 0);
	EXPECT_EQ(ew_reader_read(&reader, body, 4), 0);
	EXPECT_EQ(ew_reader_read_until(&reader, '\n', &data), 0);
	EXPECT_EQ(ew_reader_read_some(&reader, body, 4), 0);
	return 0;
}

TEST(reader_gives_lines_and_exact_counts_however_they_arrive)
{
	EXPECT_EQ(run_workers(1, read_lines, NULL), 0);
}

static int read_too_much(void *argument)
{
	EW_OWN(ew_pipe, source);
	EW_OWN(ew_pipe, sink);
	char buffer[8], bytes[16];
	struct ew_reader reader;
	const char *data;

	(void)argument;
	EXPECT_EQ(ew_pipe_open(&source, &sink), 0);
	ew_reader_init_pipe(&reader, source, buffer, sizeof(buffer));
	put(sink, "0123456789\nab");
	EXPECT_EQ(ew_reader_read_until(&reader, '\n', &data), -EMSGSIZE);
	EXPECT_EQ(ew_reader_peek(&reader, 9, &data), -EMSGSIZE);
	EXPECT_EQ(ew_reader_read(&reader, bytes, 9), -EMSGSIZE);
	EXPECT_EQ(ew_reader_buffered(&reader), 8);
	EXPECT_EQ(ew_reader_peek(&reader, 8, &data), 8);
	EXPECT(!memcmp(data, "01234567", 8));
	ew_reader_skip(&reader, 8);
	expect_line(&reader, "89\n");
	EXPECT_EQ(ew_pipe_close(&sink), 0);
	EXPECT_EQ(ew_reader_read_until(&reader, '\n', &data), -ENODATA);
	EXPECT_EQ(ew_reader_read(&reader, bytes, 3), -ENODATA);
	EXPECT_EQ(ew_reader_peek(&reader, 3, &data), 2);
	EXPECT(!memcmp(data, "ab", 2));
	return 0;
}

/* Neither a line that is too long nor an end in the middle takes anything: the caller can look at what there is. */
TEST(reader_refuses_what_its_buffer_cannot_hold_and_keeps_it)
{
	EXPECT_EQ(run_workers(1, read_too_much, NULL), 0);
}

static int read_file(void *argument)
{
	struct directory *directory = argument;
	EW_OWN(ew_file, file);
	char path[300], buffer[4], bytes[16];
	struct ew_reader reader;

	snprintf(path, sizeof(path), "%s/file", directory->path);
	EXPECT_EQ(ew_file_open(NULL, path, O_RDONLY, 0, &file), 0);
	ew_reader_init_file(&reader, file, 3, buffer, sizeof(buffer));
	expect_line(&reader, "34\n");
	EXPECT_EQ(ew_reader_read_some(&reader, bytes, sizeof(bytes)),
		  1); /* was read with the line */
	EXPECT_EQ(ew_reader_read_some(&reader, bytes, sizeof(bytes)), 5); /* past the buffer */
	EXPECT(!memcmp(bytes, "6789\n", 5));
	EXPECT_EQ(ew_reader_read_some(&reader, bytes, sizeof(bytes)), 0);
	return ew_file_close(&file);
}

TEST(reader_of_a_file_begins_where_it_is_told)
{
	struct directory directory;

	directory_make(&directory);
	put_file(&directory, "file", "01234\n56789\n");
	EXPECT_EQ(run_workers(1, read_file, &directory), 0);
	directory_remove(&directory);
}

/* ---- what it keeps ---- */

/* Is cancelled in the first wait. */
static int read_until_cancelled(void *argument)
{
	struct ew_reader *reader = argument;
	const char *data;
	char byte;

	EXPECT_EQ(ew_reader_read_until(reader, '\n', &data), -ECANCELED);
	EXPECT_EQ(ew_outcome(), EW_OUTCOME_NONE);
	EXPECT_EQ(ew_reader_read(reader, &byte, 1), -ECANCELED);
	EXPECT_EQ(ew_reader_peek(reader, 1, &data), -ECANCELED);
	EXPECT_EQ(ew_reader_read_some(reader, &byte, 1), -ECANCELED);
	return 0;
}

static int read_in_halves(void *argument)
{
	EW_OWN(ew_pipe, source);
	EW_OWN(ew_pipe, sink);
	struct ew_reader reader;
	char buffer[16];

	(void)argument;
	EXPECT_EQ(ew_pipe_open(&source, &sink), 0);
	ew_reader_init_pipe(&reader, source, buffer, sizeof(buffer));
	put(sink, "half a");
	{
		EW_SCOPE(scope);
		EXPECT_EQ(ew_spawn(&scope, read_until_cancelled, &reader), 0);
		TURNS_UNTIL(ew_reader_buffered(&reader) == 6);
		ew_scope_cancel(&scope, EW_REASON_REQUESTED);
		EXPECT_EQ(ew_scope_join(&scope), 0);
	}
	EXPECT_EQ(ew_reader_buffered(&reader), 6);
	put(sink, " line\n");
	expect_line(&reader, "half a line\n");
	return 0;
}

/* The second half comes after a cancel. While cancelled, calls that need not wait are refused too (P4). */
TEST(reader_keeps_half_a_line_across_a_cancel)
{
	EXPECT_EQ(run_workers(1, read_in_halves, NULL), 0);
}

static char byte_at(size_t i)
{
	return (char)(i * 2654435761u >> 13);
}

struct stream {
	struct ew_reader reader;
	int peer;
	size_t taken;
	bool at_end;
	unsigned refused;
};

static void *write_stream(void *argument)
{
	struct stream *stream = argument;
	char data[701];
	size_t i, size, sent = 0;

	while (sent < STREAM_BYTES) {
		size = 1 + sent * 7919 % sizeof(data);
		size = size < STREAM_BYTES - sent ? size : STREAM_BYTES - sent;
		for (i = 0; i < size; i++)
			data[i] = byte_at(sent + i);
		EXPECT_EQ(send(stream->peer, data, size, MSG_NOSIGNAL), size);
		sent += size;
	}
	EXPECT_EQ(shutdown(stream->peer, SHUT_WR), 0);
	return NULL;
}

/* In one of four ways. */
static int take(struct stream *stream, char *bytes, const char **ret_data)
{
	int r;

	*ret_data = bytes;
	switch (chance(4)) {
	case 0: return ew_reader_read(&stream->reader, bytes, 1 + chance(100));
	case 1: return ew_reader_read_some(&stream->reader, bytes, 1 + chance(1000));
	case 2: return ew_reader_read_until(&stream->reader, (char)chance(256), ret_data);
	default:
		r = ew_reader_peek(&stream->reader, 1 + chance(200), ret_data);
		if (r > 0)
			ew_reader_skip(&stream->reader, (size_t)r);
		return r;
	}
}

static int take_stream(void *argument)
{
	struct stream *stream = argument;
	const char *data;
	char bytes[1000];
	int r, i;

	do {
		r = take(stream, bytes, &data);
		for (i = 0; i < r; i++)
			EXPECT_EQ(data[i], byte_at(stream->taken + (size_t)i));
		stream->taken += r > 0 ? (size_t)r : 0;
	} while (r > 0 || r == -EMSGSIZE || r == -ENODATA);
	stream->refused += r == -ECANCELED;
	stream->at_end = r == 0;
	return r;
}

static int conserve_bytes(void *argument)
{
	struct stream stream = { 0 };
	EW_OWN(ew_socket, socket);
	char buffer[2048];
	pthread_t writer;

	(void)argument;
	stream.peer = unix_peer(&socket);
	ew_reader_init_socket(&stream.reader, socket, buffer, sizeof(buffer));
	EXPECT_EQ(pthread_create(&writer, NULL, write_stream, &stream), 0);
	while (!stream.at_end) {
		EW_SCOPE(scope);
		EXPECT_EQ(ew_spawn(&scope, take_stream, &stream), 0);
		take_turns(chance(12));
		ew_scope_cancel(&scope, EW_REASON_REQUESTED);
		(void)!ew_scope_join(&scope);
	}
	EXPECT_EQ(pthread_join(writer, NULL), 0);
	EXPECT_EQ(stream.taken, STREAM_BYTES);
	EXPECT(stream.refused > 0);
	close(stream.peer);
	return ew_socket_close(&socket);
}

/* A thread writes a known sequence while tasks that read it in all ways are cancelled at random. */
TEST(reader_cancelled_at_random_loses_no_byte)
{
	chance_begin();
	EXPECT_EQ(run_workers(1, conserve_bytes, NULL), 0);
}

TEST_MAIN()
