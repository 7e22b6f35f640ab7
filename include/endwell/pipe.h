/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * Pipes: the two ends, and other descriptors that can be polled
 */

#include <endwell/resource.h>

/** struct ew_pipe - one end of a pipe; belongs to the worker that first uses it */
struct ew_pipe;

/** ew_pipe_open() - both ends, close-on-exec; does not suspend */
EW_MUST_CHECK EW_API int ew_pipe_open(struct ew_pipe **ret_read_end,
				      struct ew_pipe **ret_write_end);

/**
 * ew_pipe_adopt() - own descriptor @fd (pipe, eventfd, terminal ...) from now on; taken on success; does not suspend
 *
 * A file, as standard output that was redirected to one, is read and written where it stands, by threads.
 */
EW_MUST_CHECK EW_API int ew_pipe_adopt(int fd, struct ew_pipe **ret_pipe);

EW_API int ew_pipe_fd(const struct ew_pipe *pipe);

/** ew_pipe_read() - up to @size bytes; 0: no writer is left. Errors: of read(2), -ECANCELED: no byte taken */
EW_SUSPENDS EW_API int ew_pipe_read(struct ew_pipe *pipe, void *buffer, size_t size);

/**
 * ew_pipe_write() - all of @size bytes
 * Return:  0. Composite: after any error, -ECANCELED too, part may have been written.
 * Errors:  those of write(2), -EPIPE without a signal; -ECANCELED
 */
EW_SUSPENDS EW_API int ew_pipe_write(struct ew_pipe *pipe, const void *data, size_t size);

/** ew_pipe_close() - end it by name. Errors: as ew_close() */
EW_SUSPENDS EW_API int ew_pipe_close(struct ew_pipe **pipe);

#define ew_pipe_open(...)  (ew__here(EW_SITE("ew_pipe_open")), ew_pipe_open(__VA_ARGS__))
#define ew_pipe_adopt(...) (ew__here(EW_SITE("ew_pipe_adopt")), ew_pipe_adopt(__VA_ARGS__))
