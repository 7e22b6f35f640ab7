/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * Mutex: one task at a time, on whichever worker
 * A lock is held by a place, so that a task that is ended where it stands leaves the mutex marked, not locked.
 *
 * First come, first served. A task that panics or is dropped with the lock held may have left what the lock
 * protects half changed: the next one to lock is told, and repairs it or gives it up for good. A block that is
 * left in the ordinary way, also by an early return or a cancel, just unlocks.
 */

#include <endwell/resource.h>

/** struct ew_mutex_hold - a lock that is held; owned by a place of the task that locked, and ended by no other */
struct ew_mutex_hold {
	struct ew_resource resource;
	/* -- private from here -- */
	struct ew_task *task; /* NULL: locked on a plain thread that had not suspended yet */
	uint32_t drops;	      /* of the task, when it locked */
};

/** struct ew_mutex - caller's memory; zero-initialised is unlocked and consistent */
struct ew_mutex {
	_Atomic uint32_t lock;
	bool held;
	uint8_t state;
	struct ew_mutex_hold hold;
	struct ew_waiter *first;
	struct ew_waiter *last;
};

/**
 * ew_mutex_lock() - wait in line for the lock: `EW_OWN(ew_mutex_hold, hold);` first
 * @ret_hold: an empty place of the calling task
 *
 * Suspends:     while another task holds it; by the task that holds it, it is a bug that ends the process.
 * Cancellation: a lock that is granted while a cancel or the deadline arrives is kept: the cancel comes at the
 *               next suspension.
 * Ownership:    the lock is held until ew_mutex_unlock(), or the place's ending.
 * Return:       0, or -EOWNERDEAD: the lock is held in both cases.
 * Errors:       -EOWNERDEAD a task was ended where it stood with the lock held: repair what it protects, then
 *               ew_mutex_make_consistent(). Unlocked without that, the mutex is lost.
 *               -ENOTRECOVERABLE it is lost; -ETIMEDOUT, -ECANCELED: not locked.
 */
EW_SUSPENDS EW_API int ew_mutex_lock(struct ew_mutex *mutex, int64_t deadline_ns,
				     struct ew_mutex_hold **ret_hold);

/** ew_mutex_try_lock() - never waits; as ew_mutex_lock(), or -EAGAIN: held, or promised to the first in line */
EW_MUST_CHECK EW_API int ew_mutex_try_lock(struct ew_mutex *mutex, struct ew_mutex_hold **ret_hold);

/**
 * ew_mutex_make_consistent() - say that what the lock protects is whole again; no-op if nobody was told otherwise
 * @hold: of the calling task
 */
EW_API void ew_mutex_make_consistent(struct ew_mutex_hold *hold);

/**
 * ew_mutex_unlock() - hand it to the first in line; NULL in the place afterwards; never waits
 * @hold: of the calling task; an empty place is a no-op
 *
 * The mutex's memory is not touched any more when the next one holds it, so that one may free it.
 */
EW_API void ew_mutex_unlock(struct ew_mutex_hold **hold);

#define ew_mutex_lock(...) (ew__here(EW_SITE("ew_mutex_lock")), ew_mutex_lock(__VA_ARGS__))
#define ew_mutex_try_lock(...)                                                                     \
	(ew__here(EW_SITE("ew_mutex_try_lock")), ew_mutex_try_lock(__VA_ARGS__))
