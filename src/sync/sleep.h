/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * Sleep, inside: for a call that waits more than once
 */

#include <stdint.h>

/*
 * As ew_sleep_until(), without being a suspending call of its own: the caller has begun with ew__enter(), and may have
 * something that is not registered. -ECANCELED also if the cancel has come since then.
 */
int ew__sleep_on(int64_t deadline_ns, const char *what);
