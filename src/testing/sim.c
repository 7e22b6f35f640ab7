/* SPDX-License-Identifier: Apache-2.0 */

/*
 * A run on the simulated driver, which takes its plan from here and leaves in it what came of it.
 */

#include "testing/sim.h"

#include "driver/sim/sim.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

static uint64_t seed_of(const struct ew_sim_options *world)
{
	const char *text = secure_getenv("EW_SIM_SEED");

	if (world->seed)
		return world->seed;
	return text ? strtoull(text, NULL, 0) : 1;
}

int ew__sim_run(const struct ew_sim_options *world, const struct ew_run_options *options,
		ew_task_fn *fn, void *argument, struct ew_sim_result *ret_result)
{
	struct ew__sim_plan plan = { .seed = seed_of(world),
				     .faults = world->faults,
				     .filesystem = world->filesystem };
	int r;

	ew__sim_plan = &plan;
	ew__driver_wanted = &ew__driver_sim;
	r = ew_run(options, fn, argument);
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

int ew_sim_run(const struct ew_sim_options *options, ew_task_fn *fn, void *argument,
	       struct ew_sim_result *ret_result)
{
	static const struct ew_sim_options defaults;
	const struct ew_sim_options *world = options ? options : &defaults;
	const struct ew_run_options run_options = {
		.workers_count = 1,
		.report = world->report,
		.report_argument = world->report_argument,
	};

	return ew__sim_run(world, &run_options, fn, argument, ret_result);
}

uint64_t ew_sim_random(uint64_t below)
{
	return ew__sim ? ew__sim_draw(ew__sim, EW__SIM_SCENARIO, below) : 0;
}

void ew_sim_raise(int signal)
{
	ew_assert(signal > 0 && signal <= EW__SIM_SIGNAL_LAST);
	if (ew__sim)
		(void)ew__sim_raise(ew__sim, signal);
}

int ew_sim_program(const char *path, const char *script)
{
	const char *wrong;

	if (!ew__sim)
		return -EOPNOTSUPP;
	return ew__sim_program_add(ew__sim, path, strlen(path), script, strlen(script), &wrong);
}

void ew_sim_calm(void)
{
	if (ew__sim)
		ew__sim_calm(ew__sim);
}
