/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * Semaphore: shares of a limit, one for the whole process
 * A permit is a resource: owned by a place, handed over like any other, freed by its ending.
 *
 * First come, first served across all workers. free + held == capacity, always.
 */

#include <endwell/resource.h>

struct ew_semaphore;

/** struct ew_permit - one share; belongs to whoever owns it, on any worker */
struct ew_permit;

/**
 * ew_semaphore_new() - make a semaphore with all permits free
 * @capacity:    permits
 * @waiting_max: tasks that may wait; one more is refused
 * Return:       NULL without memory. All permits are allocated here: acquiring needs none.
 */
EW_API struct ew_semaphore *ew_semaphore_new(unsigned capacity, unsigned waiting_max);

/** ew_semaphore_free() - NULL is a no-op; every permit must be back */
EW_API void ew_semaphore_free(struct ew_semaphore *semaphore);

/**
 * ew_semaphore_acquire() - wait in line for a permit
 * @ret_permit: an empty place
 *
 * Ownership:    the permit is the caller's; ew_permit_release(), or the place's ending, frees it.
 * Errors:       -EAGAIN the waiting room is full, -ETIMEDOUT, -ECANCELED: no permit was taken.
 *               A permit granted while a cancel arrives is kept: the cancel comes at the next suspension.
 */
EW_SUSPENDS EW_API int ew_semaphore_acquire(struct ew_semaphore *semaphore, int64_t deadline_ns,
					    struct ew_permit **ret_permit);

/** ew_semaphore_try_acquire() - never waits; -EAGAIN: none free, or others wait */
EW_MUST_CHECK EW_API int ew_semaphore_try_acquire(struct ew_semaphore *semaphore,
						  struct ew_permit **ret_permit);

/** ew_permit_release() - give it back; wakes the first in line; NULL in the place afterwards; never waits */
EW_API void ew_permit_release(struct ew_permit **permit);

struct ew_semaphore_counts {
	unsigned capacity;
	unsigned free;
	unsigned held;
	unsigned waiting;
};

/** ew_semaphore_count() - one consistent picture; from any thread */
EW_API struct ew_semaphore_counts ew_semaphore_count(struct ew_semaphore *semaphore);

#define ew_semaphore_acquire(...)                                                                  \
	(ew__here(EW_SITE("ew_semaphore_acquire")), ew_semaphore_acquire(__VA_ARGS__))
#define ew_semaphore_try_acquire(...)                                                              \
	(ew__here(EW_SITE("ew_semaphore_try_acquire")), ew_semaphore_try_acquire(__VA_ARGS__))
