/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* Conversations with clamd over its Unix socket, one connection each. */

#include <sys/types.h>

#include <endwell/base.h>

#include "verdict.h"

struct clamd_client {
	const char *socket;
};

/**
 * clamd_client_version() - ask for engine and signature version
 * @ret_engine: receives text; room for VERDICT_TEXT_BYTES
 * @ret_pid:    receives the process that listens, 0 where it cannot be known
 *
 * Errors: as clamd_client_scan().
 */
EW_SUSPENDS int clamd_client_version(const struct clamd_client *client, char *ret_engine,
				     pid_t *ret_pid);

/**
 * clamd_client_scan() - have the file behind a readable descriptor scanned
 * @client:  whom to ask
 * @pid:     the process that is expected to listen, 0 for any
 * @fd:      readable, of sealed bytes; borrowed. clamd shares its file offset
 * @verdict: kind and signature are filled in
 *
 * Suspends: until clamd has answered or closed the connection: there is no deadline, because clamd
 *           does not stop when it is left.
 * Return:   0 with a verdict.
 * Errors:   -ESTALE another process listens than the one expected, nothing was sent; -ECONNRESET
 *           the connection was lost in the middle; -EPROTO an answer that is an error or not
 *           understood; those of connect(2); -ECANCELED.
 */
EW_SUSPENDS int clamd_client_scan(const struct clamd_client *client, pid_t pid, int fd,
				  struct verdict *verdict);
