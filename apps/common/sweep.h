/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* The sweep: removes what servers that were killed have left, lease by lease. */

#include "staging.h"

/* A task: sweeps the dead leases that the start has taken over, and ends. -ECANCELED or 0. */
int sweep_run(void *staging);
