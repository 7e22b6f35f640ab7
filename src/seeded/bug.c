/* SPDX-License-Identifier: Apache-2.0 */

/*
 * The variable is read before any thread is there, since tests may change the environment.
 */

#include "seeded/bug.h"

#ifdef EW_SEEDED

#include <stdlib.h>
#include <string.h>

static const char *wanted = "";

__attribute__((constructor)) static void read_wanted(void)
{
	const char *text = getenv("EW_SEED_BUG");

	if (text)
		wanted = text;
}

bool ew__bug(const char *name)
{
	return !strcmp(name, wanted);
}

#endif
