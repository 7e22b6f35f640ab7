/* SPDX-License-Identifier: Apache-2.0 */

/*
 * By the unwinder of the compiler's own library. It knows the frame that the kernel lays between a signal handler and
 * what was interrupted, which nothing else tells: of such a frame the address is not that of a call. A task's stack
 * ends with a return address of 0.
 */

#include "task/backtrace.h"

#include <stdint.h>
#include <unwind.h>

#define FRAMES_LOOKED_AT_MAX 4096 /* more than fit on a stack that is not corrupt */

struct walk {
	struct ew__backtrace *backtrace;
	unsigned looked_at;
};

static _Unwind_Reason_Code note_frame(struct _Unwind_Context *context, void *argument)
{
	struct walk *walk = argument;
	struct ew__backtrace *backtrace = walk->backtrace;
	int interrupted = 0;
	uintptr_t address = _Unwind_GetIPInfo(context, &interrupted);

	if (!address || walk->looked_at++ == FRAMES_LOOKED_AT_MAX)
		return _URC_END_OF_STACK;
	if (interrupted)
		backtrace->in_signal_handler = true;
	if (backtrace->count < EW__FRAMES_MAX)
		backtrace->frames[backtrace->count++] = (void *)address;
	return _URC_NO_REASON;
}

void ew__backtrace_take(struct ew__backtrace *backtrace)
{
	struct walk walk = { .backtrace = backtrace };

	*backtrace = (struct ew__backtrace){ .count = 0 };
	_Unwind_Backtrace(note_frame, &walk);
}
