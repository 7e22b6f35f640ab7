/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * Stall detector: a task that keeps its worker longer than a limit is named, with the calls that it is in
 */

#include "run/lookout.h"
#include "run/runtime.h"

struct ew__stall_watch {
	struct ew__lookout lookout;
	struct ew__runtime *runtime;
};

/* Does nothing unless the program asked for it (stall_limit_ns). */
void ew__stall_watch_start(struct ew__stall_watch *watch, struct ew__runtime *runtime);
void ew__stall_watch_stop(struct ew__stall_watch *watch);
