/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Sinks say how much they took, and a refused one took nothing, so the writer knows of each byte whether it has gone:
 * a flush that was cut is continued by the next one, in the end by that of the close. Between two calls of the sink the
 * buffer is consistent, wherever the task is ended.
 */

#include "io/file.h"
#include "io/pipe.h"
#include "io/socket.h"
#include "scope/resource.h"
#include "scope/scope.h"

#include <endwell/writer.h>
#include <errno.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>

struct ew_writer {
	struct ew_resource resource;
	ew_writer_fn *write;
	void *sink;
	int64_t offset; /* of the sink's next byte */
	int64_t taken;
	size_t size;
	size_t begin; /* of what is pending */
	size_t end;
	char buffer[];
};

static int write_socket(void *sink, const void *data, size_t size, int64_t offset)
{
	(void)offset;
	return ew__socket_send_some(sink, data, size);
}

static int write_pipe(void *sink, const void *data, size_t size, int64_t offset)
{
	(void)offset;
	return ew__pipe_write_some(sink, data, size);
}

static int write_file(void *sink, const void *data, size_t size, int64_t offset)
{
	return ew__file_write_some(sink, data, size, offset);
}

size_t ew_writer_pending(const struct ew_writer *writer)
{
	return writer->end - writer->begin;
}

int64_t ew_writer_taken(const struct ew_writer *writer)
{
	return writer->taken;
}

/* Something is pending. */
static int write_some(struct ew_writer *writer)
{
	int r = writer->write(writer->sink, writer->buffer + writer->begin,
			      ew_writer_pending(writer), writer->offset);

	if (r < 0)
		return r;
	if (r == 0)
		return -EIO; /* it would go on for ever */
	ew_assert((size_t)r <= ew_writer_pending(writer));
	writer->begin += (size_t)r;
	writer->offset += r;
	return 0;
}

int ew_writer_flush(struct ew_writer *writer)
{
	int r = ew__enter();

	while (r == 0 && ew_writer_pending(writer) > 0)
		r = write_some(writer);
	return r;
}

static int writer_close(void *resource)
{
	struct ew_writer *writer = resource;
	int r = ew_writer_flush(writer);

	if (r == -ECANCELED)
		return r;
	ew_resource_deinit(&writer->resource);
	free(writer);
	return r;
}

static void writer_abort(void *resource)
{
	struct ew_writer *writer = resource;

	if (ew_writer_pending(writer) > 0)
		ew__report("writer made at %s:%d (%s) was aborted: %zu bytes were not written",
			   writer->resource.site->file, writer->resource.site->line,
			   writer->resource.site->name, ew_writer_pending(writer));
	ew_resource_deinit(&writer->resource);
	free(writer);
}

static const struct ew_resource_type writer_type = {
	.name = "writer",
	.close = writer_close,
	.abort = writer_abort,
};

static int writer_new(ew_writer_fn *write, void *sink, int64_t offset, size_t buffer_bytes,
		      struct ew_writer **ret_writer)
{
	const struct ew_site *site = ew__made_at;
	struct ew_writer *writer;

	ew_assert(buffer_bytes > 0);
	ew_assert(buffer_bytes <= INT_MAX); /* counts are returned as int */
	ew__place_must_be_empty(ret_writer, site);
	writer = malloc(sizeof(*writer) + buffer_bytes);
	if (!writer)
		return -ENOMEM;
	*writer = (struct ew_writer){
		.write = write,
		.sink = sink,
		.offset = offset,
		.size = buffer_bytes,
	};
	ew_resource_init(&writer->resource, &writer_type, site);
	*ret_writer = writer;
	return 0;
}

int(ew_writer_open)(ew_writer_fn *write, void *sink, size_t buffer_bytes,
		    struct ew_writer **ret_writer)
{
	return writer_new(write, sink, 0, buffer_bytes, ret_writer);
}

int(ew_writer_open_socket)(struct ew_socket *socket, size_t buffer_bytes,
			   struct ew_writer **ret_writer)
{
	return writer_new(write_socket, socket, 0, buffer_bytes, ret_writer);
}

int(ew_writer_open_pipe)(struct ew_pipe *pipe, size_t buffer_bytes, struct ew_writer **ret_writer)
{
	return writer_new(write_pipe, pipe, 0, buffer_bytes, ret_writer);
}

int(ew_writer_open_file)(struct ew_file *file, int64_t offset, size_t buffer_bytes,
			 struct ew_writer **ret_writer)
{
	return writer_new(write_file, file, offset, buffer_bytes, ret_writer);
}

/* Room for @bytes in one piece, at most the buffer's size. */
static int make_room(struct ew_writer *writer, size_t bytes)
{
	int r = 0;

	while (r == 0 && writer->size - ew_writer_pending(writer) < bytes)
		r = write_some(writer);
	if (r < 0 || writer->size - writer->end >= bytes)
		return r;
	memmove(writer->buffer, writer->buffer + writer->begin, ew_writer_pending(writer));
	writer->end -= writer->begin;
	writer->begin = 0;
	return 0;
}

int ew_writer_write(struct ew_writer *writer, const void *data, size_t size)
{
	const char *at = data;
	size_t piece;
	int r = ew__enter();

	while (r == 0 && size > 0) {
		piece = size < writer->size ? size : writer->size;
		r = make_room(writer, piece);
		if (r < 0)
			break;
		memcpy(writer->buffer + writer->end, at, piece);
		writer->end += piece;
		writer->taken += (int64_t)piece;
		at += piece;
		size -= piece;
	}
	return r;
}

int ew_writer_close(struct ew_writer **writer)
{
	return ew_close(writer);
}
