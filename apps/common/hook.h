/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * The places where a test can hold a file: before it gets its name, and between the name and
 * the sync that makes it durable; and the bugs that a test can have put in, to see that it finds
 * them. Without EW_TEST_HOOKS there is none of this.
 */

#include <stdbool.h>

#include <endwell/base.h>

#ifdef EW_TEST_HOOKS
/**
 * hook_hold() - wait while a test wants it
 * @name: of the file
 *
 * Waits while the file `hold.NAME` exists in the folder that the variable EW_TEST_HOOKS names;
 * `held.NAME` says that it does.
 * Return: 0, or -ECANCELED.
 */
EW_SUSPENDS int hook_hold(const char *name);

/* The same with `hold-named.NAME` and `held-named.NAME`, when the name has been made. */
EW_SUSPENDS int hook_hold_named(const char *name);

/* Whether the variable EW_SEED_BUG asks for this bug. */
bool hook_bug(const char *bug);
#else
static inline int hook_hold(const char *name)
{
	(void)name;
	return 0;
}

static inline int hook_hold_named(const char *name)
{
	(void)name;
	return 0;
}

static inline bool hook_bug(const char *bug)
{
	(void)bug;
	return false;
}
#endif
