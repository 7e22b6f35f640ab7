/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * Foreign locks: a pthread mutex that a task holds
 * For data that threads outside the runtime share; among tasks there is ew_mutex, which suspends. Whoever waits for
 * a pthread mutex blocks its worker; whoever suspends while holding one lets tasks of the same worker run into it,
 * and they would wait for ever on the very thread that is to unlock it.
 */

#include <endwell/private.h>
#include <pthread.h>

/**
 * struct ew_foreign_lock - a stretch in which a pthread mutex is held
 * @result: of pthread_mutex_lock(): 0; an error number of a mutex that checks: not held then, except with EOWNERDEAD
 */
struct ew_foreign_lock {
	int result;
	/* -- private from here -- */
	pthread_mutex_t *mutex;
	const struct ew_site *site;
	struct ew_task *owner;
	struct ew_foreign_lock *older;
	bool reported;
};

EW_API void ew__foreign_lock_enter(struct ew_foreign_lock *lock);
EW_API void ew__foreign_lock_leave(struct ew_foreign_lock *lock);

/**
 * EW_FOREIGN_LOCK() - lock a pthread mutex until the block's end: `EW_FOREIGN_LOCK(held, &shared->mutex);`
 *
 * The stretch is also one of EW_NO_DROP(): force waits for its end, a panic in it ends the process. A call in it that
 * may suspend is a bug. It is reported, once for each stretch, with the task and the line of the lock, and then
 * goes its way. On a plain thread, which has no other tasks, this only locks.
 *
 * What is locked by pthread_mutex_lock() itself is not seen; nor are other locks of foreign code, and a wait
 * for the mutex is no suspension: the stall detector (stall_limit_ns) finds those that last.
 */
#define EW_FOREIGN_LOCK(name_, mutex_)                                                             \
	EW__SITE_OF(name_);                                                                        \
	struct ew_foreign_lock name_ __attribute__((cleanup(                                       \
		ew__foreign_lock_leave))) = { .mutex = (mutex_), .site = &ew__site_of_##name_ };   \
	ew__foreign_lock_enter(&name_)
