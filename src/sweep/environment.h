/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * Sweep of the environment: a whole program, unchanged, as one run of a sweep
 * EW_SWEEP_AT says what happens at which suspension point: `none`, `cancel:7`, `cancel-force:7:9`. EW_SWEEP_REPORT names
 * a file to which what was seen is appended, a line each; without it that goes to stderr:
 *
 *     point INDEX\tFILE:LINE:TASK\tOBJECT+ADDRESS\t...
 *                                      where the task was spawned, and the calls that led to the point, innermost first;
 *                                      of all points with `none`, otherwise of those at which something is done
 *     left TEXT                        what the run has left behind
 *     ended POINTS                     a run is over, and the process has had so many points
 */

#include <endwell/run.h>

struct ew__sweep_run;

/*
 * Before a run that is simulated: 1 and a run of the sweep; 0: there is none, or another run of the process has it;
 * -EINVAL: EW_SWEEP_AT says nothing that is known, and @why says so; -ENOMEM.
 */
int ew__sweep_run_new(struct ew__sweep_run **ret_run, char *why, size_t why_bytes);

/* The main task: calls @fn as what is swept. Returns what @fn did, or -ENOTRECOVERABLE. */
int ew__sweep_run_main(struct ew__sweep_run *run, ew_task_fn *fn, void *argument,
		       int64_t budget_ns);

/* After the run, when nothing of it is there any more. NULL is a no-op. */
void ew__sweep_run_free(struct ew__sweep_run *run);
