/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* A server as a process: standard streams, memory, signals, the log's thread, and the runtime inside them. */

#include <endwell/run.h>
#include <endwell/signals.h>

/* What a server's process ends with. */
enum server_exit {
	SERVER_DRAINED = 0,
	SERVER_FAILED = 1,
	SERVER_USAGE = 2,
	SERVER_CUT = 3,	   /* something was cut at the end of the grace */
	SERVER_FORCED = 4, /* by a second signal */
};

/* What every main() begins with; 0 or -1 */
int process_prepare(void);

/**
 * process_run() - run a server: SIGTERM and SIGINT are for its ew_signals_open(), reports go to the log
 * @workers_count: 0: one for each processor
 * @budget_ns:     of the end, see struct ew_run_options
 * @say_end:       logs the result, as the last line
 *
 * Return: @fn's result, or -errno if it could not run.
 */
int process_run(ew_task_fn *fn, void *argument, unsigned int workers_count, int64_t budget_ns,
		void (*say_end)(void *argument, int r));

/* SIGTERM and SIGINT, for a place of the calling task */
EW_MUST_CHECK int process_signals(struct ew_signals **ret_signals);
