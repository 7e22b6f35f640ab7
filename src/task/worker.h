/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * Worker: a thread with its run queue, timers, driver and inbox
 */

#include "driver/driver.h"
#include "task/slice.h"
#include "task/task.h"
#include "time/wheel.h"

/* Stacks kept ready with their pages; a worker with nothing else to do gives more back. At most 12 MiB then. */
#define EW__TASKS_KEPT 64

struct ew__runtime;
struct ew__pool;

/* What belongs to the work of cancelled tasks, such as the spreading of a cancel. Intrusive; removed at any time. */
struct ew__chore {
	struct ew__chore *next;
	struct ew__chore **link; /* NULL: not in line */
	void (*run)(struct ew__chore *chore);
};

/*
 * An operation that goes on from call to call. On a worker it is in flight until its runtime ends; of a plain thread,
 * where nobody would hear of its end, only while that waits.
 */
struct ew__standing {
	struct ew__standing *next;
	struct ew__standing **link; /* NULL: it does not stand */
	struct ew__op *op;
	bool *armed; /* it is in flight; cleared by its complete() */
};

struct ew_worker {
	struct ew_task *ready,
		*ready_last; /* the run queue; ready_last counts only while ready is set */
	struct ew_task *leaving,
		*leaving_last; /* the run queue of those that are cancelled, or whose peer has gone */
	struct ew_task *parting,
		*parting_last; /* those of them that have no more to do than to part from their peer */
	struct ew__chore *chores,
		**chores_last; /* run between these; chores_last counts only while chores is set */
	unsigned leaving_turn; /* of the leaving and the parting */
	struct ew__giving giving;
	_Atomic uint32_t switches_left; /* until the scheduler must look at the driver again */
	unsigned number;		/* 1-based */
	struct ew_task *kept;		/* ended; used again, the newest first */
	unsigned kept_count;
	unsigned tasks_count; /* with those kept */
	struct ew_task *tasks;
	struct ew__context scheduler;
	struct ew__driver *driver;
	struct ew__runtime *runtime;		   /* NULL: a plain thread's */
	struct ew__pool *pool;			   /* NULL: calls that block are made on the spot */
	const _Atomic int64_t *lanes_fed_until_ns; /* until then the leaving can wait */
	int64_t now_ns;				   /* at the start of the turn */
	_Atomic uint64_t turns; /* written by its own thread only, as switches_left */
	uint32_t selects;	/* that looked at their alternatives */
	bool stop_asked;
	unsigned transfers; /* what was handed to threads or to the reaper and has not ended */
	struct ew__message *_Atomic inbox;
	_Atomic bool asleep;
	_Atomic uint32_t posting; /* threads inside ew__post() */
	struct ew__standing *standing;
	struct ew__buffer_waiter *buffer_first, *buffer_last; /* sockets with bytes and no buffer */
	unsigned buffers_lent;
	struct ew__wheel wheel;
};

extern __thread struct ew_worker *ew__worker;

/* How many switches this turn still has. Others look at it, so each access is one of its own; that costs nothing. */
static inline uint32_t ew__switches_left(const struct ew_worker *worker)
{
	return atomic_load_explicit(&worker->switches_left, memory_order_relaxed);
}

static inline void ew__switch_counted(struct ew_worker *worker)
{
	atomic_store_explicit(&worker->switches_left, ew__switches_left(worker) - 1,
			      memory_order_relaxed);
}

/* Tasks that have not ended. */
static inline unsigned ew__tasks_living(const struct ew_worker *worker)
{
	return worker->tasks_count - worker->kept_count;
}

/* An ended task, for another life. It may be the running one: the next life begins after the switch away from it. */
static inline void ew__task_keep(struct ew_worker *worker, struct ew_task *task)
{
	task->scope = NULL;
	task->next = worker->kept;
	worker->kept = task;
	worker->kept_count++;
}

/* The newest of those kept, of which there is one. */
static inline struct ew_task *ew__task_take(struct ew_worker *worker)
{
	struct ew_task *task = worker->kept;

	worker->kept = task->next;
	worker->kept_count--;
	return task;
}

/* The virtual clock's value; 0: the clock is real. Of the thread of the only worker. */
extern __thread int64_t ew__virtual_now_ns;

/* Everything up to the first turn but the driver, on the worker's own thread. */
void ew__worker_init(struct ew_worker *worker);

/* Deliver messages and expire timers, without a look at the driver. */
void ew__worker_look(struct ew_worker *worker);

/* Turns until stop_asked is set, tasks, operations and transfers have ended, and nobody holds a worker. */
void ew__worker_loop(struct ew_worker *worker);

/* Turns until *@count is 0. */
void ew__worker_loop_until(struct ew_worker *worker, const uint32_t *count);

/* The parts of a turn: run what is ready, and then see what else has become of the world. */
void ew__worker_run_tasks(struct ew_worker *worker);
void ew__worker_wait(struct ew_worker *worker, const uint32_t *count);

void ew__worker_close(struct ew_worker *worker);

/* 1-based; NULL: there is none with that number. */
struct ew_worker *ew__worker_by_number(struct ew__runtime *runtime, unsigned number);

/* Run @message->deliver on @worker, between tasks. Any thread; in order per sender; cannot fail. */
void ew__post(struct ew_worker *worker, struct ew__message *message);

/*
 * The other worker that @place says, which does not end before ew__post_to_held(), a few instructions from here. NULL:
 * there is none, and nothing is held. A worker that ends has left no place that says it, and waits for those who hold one.
 */
struct ew_worker *ew__worker_hold(struct ew_worker *_Atomic *place);

/* Posts to a worker that is held, and lets go of it. */
void ew__post_to_held(struct ew_worker *worker, struct ew__message *message);

/* Forks of which this process is the child. */
extern _Atomic unsigned ew__forks_count;

/* On the worker. @chore is not in line. */
void ew__chore_add(struct ew_worker *worker, struct ew__chore *chore);

/* A no-op if it is not in line. */
void ew__chore_remove(struct ew_worker *worker, struct ew__chore *chore);

static inline void ew__timer_arm(struct ew_worker *worker, struct ew__timer *timer,
				 int64_t deadline_ns)
{
	timer->deadline_ns = deadline_ns;
	ew__wheel_arm(&worker->wheel, timer);
}

static inline void ew__timer_cancel(struct ew_worker *worker, struct ew__timer *timer)
{
	ew__wheel_cancel(&worker->wheel, timer);
}
