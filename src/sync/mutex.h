/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * Mutex, inside: what a condition needs of it
 */

#include <endwell/mutex.h>

/* Whether the one who waits with @hold may do so: a mutex that is unlocked unrepaired would be lost. */
bool ew__mutex_is_consistent(const struct ew_mutex *mutex);

/* As ew_mutex_lock(), but neither refused nor cancelled, like a join. */
int ew__mutex_lock_again(struct ew_mutex *mutex, const struct ew_site *site,
			 struct ew_mutex_hold **ret_hold);

static inline struct ew_mutex *ew__mutex_of(struct ew_mutex_hold *hold)
{
	return ew__container_of(hold, struct ew_mutex, hold);
}
