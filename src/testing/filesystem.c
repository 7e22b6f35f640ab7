/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Filesystems of simulated worlds, for programs.
 */

#include "driver/sim/filesystem.h"

#include "driver/sim/sim.h"

int ew_sim_filesystem_new(const struct ew_sim_filesystem_options *options,
			  struct ew_sim_filesystem **ret_filesystem)
{
	static const struct ew_sim_filesystem_options defaults;

	return ew__sim_filesystem_new(options ? options : &defaults, ret_filesystem);
}

void ew_sim_filesystem_crash(struct ew_sim_filesystem **filesystem, uint64_t seed)
{
	struct ew_sim_filesystem *left =
		ew__sim_filesystem_survivors(*filesystem, EW__SIM_BY_LOT, seed);

	ew__sim_filesystem_free(*filesystem);
	*filesystem = left;
}

void ew_sim_filesystem_free(struct ew_sim_filesystem *filesystem)
{
	ew__sim_filesystem_free(filesystem);
}

bool ew_sim_is_cut(void)
{
	return ew__sim && ew__sim->filesystem &&
	       ew__sim->filesystem->calls > ew__sim->filesystem->cut_at;
}

const char *ew_sim_name(const char *folder, unsigned number)
{
	if (!ew__sim || !ew__sim->filesystem)
		return NULL;
	return ew__sim_filesystem_name(ew__sim->filesystem, folder, number);
}
