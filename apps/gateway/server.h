/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

#include "options.h"

enum server_exit {
	SERVER_DRAINED = 0,
	SERVER_FAILED = 1,
	SERVER_USAGE = 2,
	SERVER_CUT = 3,	   /* operations were cut at the end of the grace */
	SERVER_FORCED = 4, /* by a second signal */
};

/* Starts, serves until a signal, drains; returns an exit status. Messages go to standard error. */
int server_run(const struct options *options);
