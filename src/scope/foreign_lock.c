/* SPDX-License-Identifier: Apache-2.0 */

/*
 * While a task holds such a lock a bit in its byte sends each of its suspending calls through the slow path, which
 * reports it. So the others pay nothing.
 */

#include "scope/scope.h"

#include <endwell/foreign_lock.h>

void ew__foreign_lock_enter(struct ew_foreign_lock *lock)
{
	struct ew_task *task = ew__task(); /* without a scope it is a plain thread */

	lock->result = pthread_mutex_lock(lock->mutex);
	lock->owner = NULL;
	if (!task || !task->scope || (lock->result && lock->result != EOWNERDEAD))
		return;
	lock->owner = task;
	lock->older = task->foreign_locks;
	task->foreign_locks = lock;
	task->head.no_drop++;
	task->head.refuse |= EW__REFUSE_LOCKED;
}

void ew__foreign_lock_leave(struct ew_foreign_lock *lock)
{
	struct ew_task *task = lock->owner;

	if (!lock->result || lock->result == EOWNERDEAD)
		pthread_mutex_unlock(lock->mutex);
	if (!task)
		return;
	ew_assert(task->foreign_locks == lock); /* left in reverse order of locking */
	task->foreign_locks = lock->older;
	task->head.no_drop--;
	if (!task->foreign_locks)
		task->head.refuse &= (uint8_t)~EW__REFUSE_LOCKED;
}

void ew__foreign_locks_report(struct ew_task *task)
{
	struct ew_foreign_lock *lock;

	for (lock = task->foreign_locks; lock; lock = lock->older) {
		if (lock->reported)
			continue;
		lock->reported = true;
		ew__report("task %s, spawned at %s:%d, suspends with a pthread mutex held: %s, "
			   "locked at %s:%d",
			   task->site->name, task->site->file, task->site->line, lock->site->name,
			   lock->site->file, lock->site->line);
	}
}
