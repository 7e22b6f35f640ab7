/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * The running kernel's version, or an older one to be taken for it
 * EW_KERNEL=6.1 in the environment hides what kernels after 6.1 brought, to test the other way.
 */

#include <stdbool.h>

/* Features are still probed; this only says which may be tried. */
bool ew__kernel_at_least(int major, int minor);

/* As taken: "6.18", or "6.1 (by EW_KERNEL)". Static storage. */
const char *ew__kernel_name(void);
