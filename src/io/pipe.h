/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * Pipes, inside
 */

#include <endwell/pipe.h>

/* As ew_pipe_write(), but some of the bytes, once: a count; -ECANCELED: none. */
int ew__pipe_write_some(struct ew_pipe *pipe, const void *data, size_t size);
