/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * Files without a name (O_TMPFILE), which libfuse 3.14 does not know of. FUSE_USE_VERSION is the
 * includer's.
 */

#include <fuse_lowlevel.h>
#include <stdbool.h>

/**
 * nameless_serve() - answer a request for a file without a name
 * @request: as received
 *
 * Return: false if it is any other request.
 */
bool nameless_serve(struct fuse_session *session, const struct fuse_buf *request);
