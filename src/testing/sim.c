/* SPDX-License-Identifier: Apache-2.0 */

/*
 * A run on the simulated driver, which takes its plan from here and leaves in it what came of it.
 */

#include "driver/sim/sim.h"

#include <endwell/run.h>
#include <endwell/sim.h>
#include <stdlib.h>

static uint64_t seed_of(const struct ew_sim_options *options)
{
	const char *text = secure_getenv("EW_SIM_SEED");

	if (options->seed)
		return options->seed;
	return text ? strtoull(text, NULL, 0) : 1;
}

int ew_sim_run(const struct ew_sim_options *options, ew_task_fn *fn, void *argument,
	       struct ew_sim_result *ret_result)
{
	static const struct ew_sim_options defaults;
	const struct ew_sim_options *chosen = options ? options : &defaults;
	const struct ew_run_options run_options = {
		.workers_count = 1,
		.report = chosen->report,
		.report_argument = chosen->report_argument,
	};
	struct ew__sim_plan plan = { .seed = seed_of(chosen), .faults = chosen->faults };
	int r;

	ew__sim_plan = &plan;
	ew__driver_wanted = &ew__driver_sim;
	r = ew_run(&run_options, fn, argument);
	ew__driver_wanted = NULL;
	ew__sim_plan = NULL;
	if (ret_result)
		*ret_result = (struct ew_sim_result){
			.seed = plan.seed,
			.trace_hash = plan.trace_hash,
			.operations = plan.operations,
			.faults_made = plan.faults_made,
			.virtual_ns = plan.virtual_ns,
		};
	return r;
}

void ew_sim_calm(void)
{
	if (ew__sim)
		ew__sim_calm(ew__sim);
}
