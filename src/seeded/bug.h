/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * Bugs that a test can have put in, to see that the tests find them: docs/seeded-bugs.md lists them. They exist in the
 * variant `seeded` only; in each other one there is nothing of this.
 */

#include <stdbool.h>

#ifdef EW_SEEDED
/* Whether the variable EW_SEED_BUG asks for this bug. */
bool ew__bug(const char *name);
#else
/* A constant, also where nothing is inlined: no branch for anybody to count. */
#define ew__bug(name) ((void)(name), false)
#endif
