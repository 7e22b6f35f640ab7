/* SPDX-License-Identifier: Apache-2.0 */

/*
 * A line of /proc/self/mountinfo (proc(5)): two numbers, the device, the root within the filesystem, where it is
 * mounted, options, optional fields, " - ", the type. Reading it asks no filesystem anything.
 */

#include "run/mounts.h"

#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/sysmacros.h>

static bool read_line(const char *line, dev_t device, char *text, size_t text_bytes)
{
	char path[256], type[32];
	const char *separator = strstr(line, " - ");
	unsigned major_number, minor_number;

	if (!separator || sscanf(separator, " - %31s", type) != 1 ||
	    sscanf(line, "%*u %*u %u:%u %*s %255s", &major_number, &minor_number, path) != 3 ||
	    makedev(major_number, minor_number) != device)
		return false;
	snprintf(text, text_bytes, "%s (%s)", path, type);
	return true;
}

void ew__describe_device(dev_t device, char *text, size_t text_bytes)
{
	FILE *mounts = fopen("/proc/self/mountinfo", "re");
	size_t line_bytes = 0;
	char *line = NULL;

	snprintf(text, text_bytes, "%u:%u", major(device), minor(device));
	while (mounts && getline(&line, &line_bytes, mounts) > 0)
		if (read_line(line, device, text, text_bytes))
			break;
	free(line);
	if (mounts)
		fclose(mounts);
}
