/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * Watchdog: at the end of the shutdown's budget, names what is stuck and leaves
 */

#include "run/lookout.h"
#include "run/runtime.h"

struct ew__watchdog {
	struct ew__runtime *runtime;
	struct ew__lookout lookout;
	_Atomic unsigned steps; /* of the thread that says what is stuck */
	_Atomic bool named;	/* it has said all */
};

/* Does nothing unless the program asked for it (exit_when_stuck). */
void ew__watchdog_start(struct ew__watchdog *watchdog, struct ew__runtime *runtime);
void ew__watchdog_stop(struct ew__watchdog *watchdog);
