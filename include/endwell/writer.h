/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * Buffered writer: many small writes become few large ones; to sockets, pipes, files
 * What was taken is written on every way out: its close flushes, also when the task was cancelled or panicked half
 * way, within its budget. What could not be written is counted and reported, never lost in silence.
 *
 * The writer and its buffer are the runtime's memory, allocated when it is opened. The sink is borrowed: declare its
 * place above the writer's, so that it ends after the flush. One task at a time.
 */

#include <endwell/resource.h>

struct ew_file;
struct ew_pipe;
struct ew_socket;
struct ew_writer;

/**
 * ew_writer_fn - writes some of @size bytes to a sink of one's own: a count; -ECANCELED: none was written
 * @offset: bytes written by this writer before, and what it began with
 */
typedef int ew_writer_fn(void *sink, const void *data, size_t size, int64_t offset);

/**
 * ew_writer_open() - write to a sink of one's own; does not suspend
 * @buffer_bytes: at least 1, at most INT_MAX; the bound of what waits to be written
 * @ret_writer:   an empty place
 *
 * Errors:  -ENOMEM
 */
EW_MUST_CHECK EW_API int ew_writer_open(ew_writer_fn *write, void *sink, size_t buffer_bytes,
					struct ew_writer **ret_writer);

EW_MUST_CHECK EW_API int ew_writer_open_socket(struct ew_socket *socket, size_t buffer_bytes,
					       struct ew_writer **ret_writer);
EW_MUST_CHECK EW_API int ew_writer_open_pipe(struct ew_pipe *pipe, size_t buffer_bytes,
					     struct ew_writer **ret_writer);

/** ew_writer_open_file() - from byte @offset on */
EW_MUST_CHECK EW_API int ew_writer_open_file(struct ew_file *file, int64_t offset,
					     size_t buffer_bytes, struct ew_writer **ret_writer);

/**
 * ew_writer_write() - take @size bytes, which will be written
 *
 * Suspends:     as the sink does, while there is no room in the buffer.
 * Cancellation: up to the buffer's size it takes all bytes or, on any error, none. More are taken in pieces of that
 *               size: after an error ew_writer_taken() tells how far it came.
 * Return:       0: all are taken; the order of calls is the order of bytes.
 * Errors:       -ECANCELED, those of write(2) and send(2) on the sink; what was taken before stays, and is tried again by the next call.
 */
EW_SUSPENDS EW_API int ew_writer_write(struct ew_writer *writer, const void *data, size_t size);

/**
 * ew_writer_flush() - write all that was taken
 *
 * Cancellation: each byte is written once: what had not gone by then stays in the buffer.
 * Return:       0: nothing is pending. On a file it is not durable before ew_file_sync().
 * Errors:       -ECANCELED, those of write(2) and send(2) on the sink; -EIO the sink took nothing.
 */
EW_SUSPENDS EW_API int ew_writer_flush(struct ew_writer *writer);

/** ew_writer_taken() - bytes taken since it was opened */
EW_API int64_t ew_writer_taken(const struct ew_writer *writer);

/** ew_writer_pending() - bytes taken and not yet written; at most the buffer's size */
EW_API size_t ew_writer_pending(const struct ew_writer *writer);

/**
 * ew_writer_close() - flush, and end it; abort drops what is pending, and reports how much that was
 *
 * Errors:  as ew_writer_flush(): what was pending is dropped; -ECANCELED the budget was spent, it was aborted
 */
EW_SUSPENDS EW_API int ew_writer_close(struct ew_writer **writer);

#define ew_writer_open(...) (ew__here(EW_SITE("ew_writer_open")), ew_writer_open(__VA_ARGS__))
#define ew_writer_open_socket(...)                                                                 \
	(ew__here(EW_SITE("ew_writer_open_socket")), ew_writer_open_socket(__VA_ARGS__))
#define ew_writer_open_pipe(...)                                                                   \
	(ew__here(EW_SITE("ew_writer_open_pipe")), ew_writer_open_pipe(__VA_ARGS__))
#define ew_writer_open_file(...)                                                                   \
	(ew__here(EW_SITE("ew_writer_open_file")), ew_writer_open_file(__VA_ARGS__))
