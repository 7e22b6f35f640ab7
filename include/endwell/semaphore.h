/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * Semaphore: shares of a limit, one for the whole process
 * A permit is a resource: owned by a place, handed over like any other, freed by its ending.
 *
 * First come, first served across all workers: who asks for one share does not overtake one who asks for many.
 * free + held + cancelling + presumed == capacity, always:
 *
 *	free --- acquire ---> held --- release, or the place's ending ---> free
 *	                      held --- ew_permit_mark_cancelling() ---> cancelling --- release ---> free
 *	                      held, cancelling --- ew_permit_presume() ---> presumed
 *	                      cancelling --- the place's ending -----------> presumed
 *	presumed --- ew_semaphore_reclaim() ---> free
 *
 * Whoever has work done elsewhere (a backend, a scanner) and gives up on it says so: such work ends when it is known
 * to have ended, and not with the task that gave up.
 */

#include <endwell/resource.h>

struct ew_semaphore;

/** struct ew_permit - one share or several; belongs to whoever owns it, on any worker */
struct ew_permit;

/**
 * ew_semaphore_new() - make a semaphore with all shares free
 * @capacity:    shares; a record of its own for each, so a limit in bytes is counted in larger pieces
 * @waiting_max: tasks that may wait; one more is refused
 * Return:       NULL without memory. All permits are allocated here, one for each share: acquiring, splitting and
 *               ending need none.
 */
EW_API struct ew_semaphore *ew_semaphore_new(unsigned capacity, unsigned waiting_max);

/** ew_semaphore_free() - NULL is a no-op; every permit must be back; what is presumed goes with it */
EW_API void ew_semaphore_free(struct ew_semaphore *semaphore);

/**
 * ew_semaphore_acquire() - wait in line for a permit of one share
 * @ret_permit: an empty place
 *
 * Ownership:    the permit is the caller's; ew_permit_release(), or the place's ending, frees it.
 * Errors:       -EAGAIN the waiting room is full, -ETIMEDOUT, -ECANCELED: no permit was taken.
 *               A permit granted while a cancel arrives is kept: the cancel comes at the next suspension.
 */
EW_SUSPENDS EW_API int ew_semaphore_acquire(struct ew_semaphore *semaphore, int64_t deadline_ns,
					    struct ew_permit **ret_permit);

/**
 * ew_semaphore_acquire_many() - wait in line for a permit of @count shares, all or none
 *
 * Otherwise as ew_semaphore_acquire().
 * Errors:       as ew_semaphore_acquire(), and -EINVAL @count is 0, or more than the capacity
 */
EW_SUSPENDS EW_API int ew_semaphore_acquire_many(struct ew_semaphore *semaphore, unsigned count,
						 int64_t deadline_ns,
						 struct ew_permit **ret_permit);

/** ew_semaphore_try_acquire() - never waits; -EAGAIN: none free, or others wait */
EW_MUST_CHECK EW_API int ew_semaphore_try_acquire(struct ew_semaphore *semaphore,
						  struct ew_permit **ret_permit);

/** ew_semaphore_try_acquire_many() - never waits; -EAGAIN: too few free, or others wait; -EINVAL as above */
EW_MUST_CHECK EW_API int ew_semaphore_try_acquire_many(struct ew_semaphore *semaphore,
						       unsigned count,
						       struct ew_permit **ret_permit);

/** ew_permit_release() - give it back, whatever its state; wakes the first in line; NULL in the place; never waits */
EW_API void ew_permit_release(struct ew_permit **permit);

/** ew_permit_shares() - how many it has */
EW_API unsigned ew_permit_shares(const struct ew_permit *permit);

/**
 * ew_permit_split() - take @count of a permit's shares out into a permit of their own, in the same state
 * @count:      at least one, and at least one stays
 * @ret_permit: an empty place
 */
EW_API void ew_permit_split(struct ew_permit *permit, unsigned count,
			    struct ew_permit **ret_permit);

/**
 * ew_permit_merge() - put the shares of another permit into this one
 * @from: of the same semaphore, in the same state; NULL in the place afterwards; an empty place is a no-op
 */
EW_API void ew_permit_merge(struct ew_permit *permit, struct ew_permit **from);

/**
 * ew_permit_mark_cancelling() - note that the work it stands for was asked to stop; idempotent
 *
 * From now on only ew_permit_release() frees it, by whoever has heard that the work has ended: a place that is left
 * with it, in whatever way, presumes it.
 */
EW_API void ew_permit_mark_cancelling(struct ew_permit *permit);

/**
 * ew_permit_presume() - give up on hearing that its work has ended: its shares are not granted until they are reclaimed
 *
 * NULL in the place afterwards; an empty place is a no-op.
 */
EW_API void ew_permit_presume(struct ew_permit **permit);

/**
 * ew_semaphore_reclaim() - so many presumed shares are free after all; from any thread, never waits
 * @count: no more than are presumed
 *
 * For a late acknowledgement, the end of a stated time, or the operator. Presumed shares have no names: who may hear
 * of the same one twice keeps a record of whose they were.
 */
EW_API void ew_semaphore_reclaim(struct ew_semaphore *semaphore, unsigned count);

/** struct ew_semaphore_counts - in shares; but for @waiting, which is tasks */
struct ew_semaphore_counts {
	unsigned capacity;
	unsigned free;
	unsigned held;
	unsigned cancelling;
	unsigned presumed;
	unsigned waiting;
};

/** ew_semaphore_count() - one consistent picture; from any thread */
EW_API struct ew_semaphore_counts ew_semaphore_count(struct ew_semaphore *semaphore);

#define ew_semaphore_acquire(...)                                                                  \
	(ew__here(EW_SITE("ew_semaphore_acquire")), ew_semaphore_acquire(__VA_ARGS__))
#define ew_semaphore_acquire_many(...)                                                             \
	(ew__here(EW_SITE("ew_semaphore_acquire_many")), ew_semaphore_acquire_many(__VA_ARGS__))
#define ew_semaphore_try_acquire(...)                                                              \
	(ew__here(EW_SITE("ew_semaphore_try_acquire")), ew_semaphore_try_acquire(__VA_ARGS__))
#define ew_semaphore_try_acquire_many(...)                                                         \
	(ew__here(EW_SITE("ew_semaphore_try_acquire_many")),                                       \
	 ew_semaphore_try_acquire_many(__VA_ARGS__))
#define ew_permit_split(...) (ew__here(EW_SITE("ew_permit_split")), ew_permit_split(__VA_ARGS__))
