/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * The calls that led here, on a thread's stack or a task's
 */

#include <stdbool.h>

#define EW__FRAMES_MAX 32

struct ew__backtrace {
	void *frames[EW__FRAMES_MAX]; /* innermost first */
	unsigned count;
	bool in_signal_handler; /* one of them was interrupted by a signal, and has not gone on yet */
};

/* Safe in a signal handler once it has been called outside of one: the first call may load the unwinder. */
void ew__backtrace_take(struct ew__backtrace *backtrace);
