/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * Simulated runs, for other tools
 */

#include <endwell/run.h>
#include <endwell/sim.h>

/* ew_run() in a world of @world, whose options about reports do not count. @ret_result may be NULL. */
int ew__sim_run(const struct ew_sim_options *world, const struct ew_run_options *options,
		ew_task_fn *fn, void *argument, struct ew_sim_result *ret_result);
