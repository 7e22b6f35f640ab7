/* SPDX-License-Identifier: Apache-2.0 */

#include "task/kernel.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/utsname.h>

static pthread_once_t once = PTHREAD_ONCE_INIT;
static int kernel_major, kernel_minor;
static char kernel_name[64];

static void look(void)
{
	const char *asked = secure_getenv("EW_KERNEL");
	int asked_major, asked_minor;
	struct utsname name;

	uname(&name);
	if (sscanf(name.release, "%d.%d", &kernel_major, &kernel_minor) != 2)
		kernel_major = kernel_minor = 0;
	snprintf(kernel_name, sizeof(kernel_name), "%d.%d", kernel_major, kernel_minor);
	if (!asked || sscanf(asked, "%d.%d", &asked_major, &asked_minor) != 2)
		return;
	if (asked_major > kernel_major ||
	    (asked_major == kernel_major && asked_minor >= kernel_minor))
		return;
	kernel_major = asked_major;
	kernel_minor = asked_minor;
	snprintf(kernel_name, sizeof(kernel_name), "%d.%d (by EW_KERNEL)", kernel_major,
		 kernel_minor);
}

bool ew__kernel_at_least(int major, int minor)
{
	pthread_once(&once, look);
	return kernel_major > major || (kernel_major == major && kernel_minor >= minor);
}

const char *ew__kernel_name(void)
{
	pthread_once(&once, look);
	return kernel_name;
}
