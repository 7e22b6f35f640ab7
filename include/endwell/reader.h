/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * Buffered reader: exact reads, lines, a look ahead; over sockets, pipes, files
 * What has been read and not yet taken stays in the buffer: a cancel or a deadline loses no byte.
 *
 * Both the reader and its buffer are the caller's memory, and the source is borrowed: declare all of it above the
 * scopes whose tasks use it. A reader has no ending; what it has read ahead goes with its buffer. One task at a time.
 */

#include <endwell/base.h>

struct ew_file;
struct ew_pipe;
struct ew_socket;

/**
 * ew_reader_fn - reads up to @size bytes from a source of one's own; 0: it has ended; -ECANCELED: no byte was taken
 * @offset: bytes read by this reader before, and what it began with
 */
typedef int ew_reader_fn(void *source, void *buffer, size_t size, int64_t offset);

/** struct ew_reader - caller's memory; private */
struct ew_reader {
	ew_reader_fn *read;
	void *source;
	int64_t offset; /* of the source's next byte */
	char *buffer;
	size_t size;
	size_t begin; /* of what has been read and not taken */
	size_t end;
};

/**
 * ew_reader_init() - read from a source of one's own; does not suspend
 * @buffer: caller's memory, which stays as long as the reader is used
 * @size:   at least 1, at most INT_MAX; the bound of what can be looked at or read at once
 */
EW_API void ew_reader_init(struct ew_reader *reader, ew_reader_fn *read, void *source, char *buffer,
			   size_t size);

EW_API void ew_reader_init_socket(struct ew_reader *reader, struct ew_socket *socket, char *buffer,
				  size_t size);
EW_API void ew_reader_init_pipe(struct ew_reader *reader, struct ew_pipe *pipe, char *buffer,
				size_t size);

/** ew_reader_init_file() - from byte @offset on */
EW_API void ew_reader_init_file(struct ew_reader *reader, struct ew_file *file, int64_t offset,
				char *buffer, size_t size);

/**
 * ew_reader_peek() - have at least @wanted bytes in the buffer, and look at all that are there
 * @ret_data: in the buffer; valid until the next call on the reader
 *
 * Suspends:     as the source does, until they are there. Takes nothing; see ew_reader_skip().
 * Cancellation: what has been read by then stays for the next call.
 * Return:       how many bytes are there: @wanted or more, fewer only if the source has ended.
 * Errors:       -EMSGSIZE @wanted is more than the buffer holds, -ECANCELED, those of read(2) and recv(2) on the source.
 */
EW_SUSPENDS EW_API int ew_reader_peek(struct ew_reader *reader, size_t wanted,
				      const char **ret_data);

/** ew_reader_skip() - take @bytes that are in the buffer, not more; does not suspend */
EW_API void ew_reader_skip(struct ew_reader *reader, size_t bytes);

/** ew_reader_buffered() - bytes that have been read and not taken */
EW_API size_t ew_reader_buffered(const struct ew_reader *reader);

/**
 * ew_reader_read() - take exactly @size bytes, or none
 *
 * Cancellation: as ew_reader_peek(). Takes nothing unless it takes all.
 * Return:       @size; 0: the source had ended before the first of them.
 * Errors:       -ENODATA it ended among them, and what there is stays in the buffer; and as ew_reader_peek().
 */
EW_SUSPENDS EW_API int ew_reader_read(struct ew_reader *reader, void *buffer, size_t size);

/**
 * ew_reader_read_some() - take what is there, at most @size bytes; waits only if nothing is
 *
 * With an empty buffer it reads into the caller's memory: for what is larger than the reader's buffer.
 * Return:       bytes; 0: the source has ended.
 * Errors:       -ECANCELED no byte was taken, those of read(2) and recv(2) on the source.
 */
EW_SUSPENDS EW_API int ew_reader_read_some(struct ew_reader *reader, void *buffer, size_t size);

/**
 * ew_reader_read_until() - take everything up to @delimiter, and the delimiter: a line
 * @ret_data: in the buffer, not terminated; valid until the next call on the reader
 *
 * Cancellation: as ew_reader_peek(). Takes nothing unless it takes all.
 * Return:       bytes, the delimiter included; 0: the source had ended before the first of them.
 * Errors:       -EMSGSIZE the buffer is full and has no delimiter; -ENODATA the source ended without one: what
 *               there is stays in the buffer, for ew_reader_peek() to see; -ECANCELED, those of read(2) and recv(2) on
 *               the source.
 */
EW_SUSPENDS EW_API int ew_reader_read_until(struct ew_reader *reader, char delimiter,
					    const char **ret_data);
