/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * The least that a storm can cost: a loop that does the removals, with a budget per turn
 * It holds @count nameless files of @file_bytes and echoes for a probe. On a byte from @command_fd it closes the
 * files, at most 200 us between two looks at its sockets, and answers with the time when the last was gone.
 * With @clients each file belongs to a connection instead, and is closed when that has ended; the connections
 * themselves are closed when all files are gone.
 */

#include <stdbool.h>
#include <stdint.h>

struct bare_storm {
	const char *const *folders;
	unsigned folders_count;
	unsigned count;
	unsigned file_bytes;
	bool clients;	 /* the first @count that connect; who comes after them is the probe */
	int listener_fd; /* the backlog holds @clients */
	int command_fd;	 /* a stream socket */
};

/* In a process of its own; returns when @command_fd ends. */
void bare_storm_run(const struct bare_storm *storm);
