/* SPDX-License-Identifier: Apache-2.0 */

/*
 * The buffer holds what has been read and not taken, in one piece. Every call first sees to it that what it wants is
 * there, and only then takes it, all at once: whatever ends the wait finds the bytes still in the buffer.
 */

#include "scope/cancel.h"

#include <endwell/file.h>
#include <endwell/pipe.h>
#include <endwell/reader.h>
#include <endwell/socket.h>
#include <limits.h>
#include <string.h>

static int read_socket(void *source, void *buffer, size_t size, int64_t offset)
{
	(void)offset;
	return ew_socket_recv(source, buffer, size);
}

static int read_pipe(void *source, void *buffer, size_t size, int64_t offset)
{
	(void)offset;
	return ew_pipe_read(source, buffer, size);
}

static int read_file(void *source, void *buffer, size_t size, int64_t offset)
{
	return ew_file_read(source, buffer, size, offset);
}

void ew_reader_init(struct ew_reader *reader, ew_reader_fn *read, void *source, char *buffer,
		    size_t size)
{
	ew_assert(size > 0);
	ew_assert(size <= INT_MAX); /* counts are returned as int */
	*reader = (struct ew_reader){
		.read = read,
		.source = source,
		.buffer = buffer,
		.size = size,
	};
}

void ew_reader_init_socket(struct ew_reader *reader, struct ew_socket *socket, char *buffer,
			   size_t size)
{
	ew_reader_init(reader, read_socket, socket, buffer, size);
}

void ew_reader_init_pipe(struct ew_reader *reader, struct ew_pipe *pipe, char *buffer, size_t size)
{
	ew_reader_init(reader, read_pipe, pipe, buffer, size);
}

void ew_reader_init_file(struct ew_reader *reader, struct ew_file *file, int64_t offset,
			 char *buffer, size_t size)
{
	ew_reader_init(reader, read_file, file, buffer, size);
	reader->offset = offset;
}

size_t ew_reader_buffered(const struct ew_reader *reader)
{
	return reader->end - reader->begin;
}

/* More, behind what is there; for callers that have seen room. Returns how much; 0: the source has ended. */
static int fill(struct ew_reader *reader)
{
	int r;

	memmove(reader->buffer, reader->buffer + reader->begin, ew_reader_buffered(reader));
	reader->end -= reader->begin;
	reader->begin = 0;
	r = reader->read(reader->source, reader->buffer + reader->end, reader->size - reader->end,
			 reader->offset);
	if (r <= 0)
		return r;
	ew_assert((size_t)r <= reader->size - reader->end);
	reader->end += (size_t)r;
	reader->offset += r;
	return r;
}

int ew_reader_peek(struct ew_reader *reader, size_t wanted, const char **ret_data)
{
	int r = ew__enter();

	if (r < 0)
		return r;
	if (wanted > reader->size)
		return -EMSGSIZE;
	r = 1;
	while (r > 0 && ew_reader_buffered(reader) < wanted)
		r = fill(reader);
	if (r < 0)
		return r;
	*ret_data = reader->buffer + reader->begin;
	return (int)ew_reader_buffered(reader);
}

void ew_reader_skip(struct ew_reader *reader, size_t bytes)
{
	ew_assert(bytes <= ew_reader_buffered(reader));
	reader->begin += bytes;
}

int ew_reader_read(struct ew_reader *reader, void *buffer, size_t size)
{
	const char *data;
	int r = ew_reader_peek(reader, size, &data);

	if (r <= 0)
		return r;
	if ((size_t)r < size)
		return -ENODATA;
	memcpy(buffer, data, size);
	ew_reader_skip(reader, size);
	return (int)size;
}

int ew_reader_read_some(struct ew_reader *reader, void *buffer, size_t size)
{
	size_t buffered = ew_reader_buffered(reader);
	int r = ew__enter();

	if (r < 0)
		return r;
	if (buffered == 0) {
		r = reader->read(reader->source, buffer, size, reader->offset);
		reader->offset += r > 0 ? r : 0;
		return r;
	}
	size = size < buffered ? size : buffered;
	memcpy(buffer, reader->buffer + reader->begin, size);
	ew_reader_skip(reader, size);
	return (int)size;
}

/* With the delimiter; 0: it is not among the buffered bytes. @seen of them have been looked at before. */
static size_t bytes_until(const struct ew_reader *reader, char delimiter, size_t seen)
{
	const char *data = reader->buffer + reader->begin;
	const char *found = memchr(data + seen, delimiter, ew_reader_buffered(reader) - seen);

	return found ? (size_t)(found - data) + 1 : 0;
}

int ew_reader_read_until(struct ew_reader *reader, char delimiter, const char **ret_data)
{
	size_t bytes, seen = 0;
	int r = ew__enter();

	if (r < 0)
		return r;
	while ((bytes = bytes_until(reader, delimiter, seen)) == 0) {
		seen = ew_reader_buffered(reader);
		if (seen == reader->size)
			return -EMSGSIZE;
		r = fill(reader);
		if (r == 0)
			return seen > 0 ? -ENODATA : 0;
		if (r < 0)
			return r;
	}
	*ret_data = reader->buffer + reader->begin;
	ew_reader_skip(reader, bytes);
	return (int)bytes;
}
