/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * The least that a storm can cost: a loop that does the removals, with a budget per turn
 * It holds @count nameless files of @file_bytes and echoes for a probe. On a byte from @command_fd it closes the
 * files, at most 200 us between two looks at its sockets, and answers with the time when the last was gone.
 */

#include <stdint.h>

struct bare_storm {
	const char *const *folders;
	unsigned folders_count;
	unsigned count;
	unsigned file_bytes;
	int listener_fd;
	int command_fd; /* a stream socket */
};

/* In a process of its own; returns when @command_fd ends. */
void bare_storm_run(const struct bare_storm *storm);
