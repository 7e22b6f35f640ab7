/* SPDX-License-Identifier: Apache-2.0 */

/*
 * The first call of a plain thread that may suspend makes it a worker with one task. The task is the thread: its stack
 * is the thread's own. What it switches to when it suspends is the scheduler of any worker, on a stack from the pool of
 * stacks, at whose top the task and the worker lie; so all of it is one allocation. The driver, with its two
 * descriptors, is made by the first call that may wait. All of it stays until the thread ends, and then what the thread
 * made and nobody took over is aborted.
 *
 * The worker turns only while its thread is in a call. So what others have sent, and deadlines that have passed, are
 * looked for at the beginning of each: EW__REFUSE_THREAD, which such a task always carries, takes the slow path there. An
 * operation that would be in flight from call to call is one that stands: submitted when the thread waits, and awaited
 * before the call returns.
 *
 * In the child of a fork the ring is the parent's, and the kernel takes nothing from anybody else for it. The child gets a
 * driver of its own with its next call; the parent's is only closed.
 */

#include "scope/thread.h"

#include "scope/resource.h"
#include "scope/scope.h"
#include "task/run_queue.h"

#include <endwell/clock.h>
#include <pthread.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>

struct thread {
	struct ew_worker worker;
	struct ew_task *task;
	unsigned forks_count; /* when that of the process was looked at */
};

static __thread struct thread *thread_here;
static const _Atomic int64_t never_fed;
static pthread_key_t key;
static int key_error;

/* ---- the end ---- */

/* In the child of a fork: what the parent had in flight comes to the parent. */
static void leave_to_parent(struct thread *thread)
{
	struct ew_worker *worker = &thread->worker;

	thread->forks_count = atomic_load(&ew__forks_count);
	atomic_store(&worker->posting, 0);
	if (worker->driver)
		ew__driver_forget(worker->driver);
	worker->driver = NULL;
}

/* What the kernel still has of aborted resources it gives back; timers of blocks that were not left are let alone. */
static void drain(struct ew_worker *worker)
{
	ew__wheel_init(&worker->wheel, ew_now());
	worker->stop_asked = true;
	ew__worker_loop(worker);
}

static void close_driver(struct thread *thread)
{
	struct ew_worker *worker = &thread->worker;

	while (atomic_load_explicit(&worker->posting, memory_order_acquire))
		sched_yield();
	if (worker->driver)
		ew__driver_close(worker->driver);
	worker->driver = NULL;
}

static void free_thread(struct thread *thread)
{
	struct ew__stack stack = thread->task->stack;

	ew__context_deinit(&thread->worker.scheduler, stack.bottom, thread);
	ew__stack_put(&stack);
}

/* Its frames have gone, and with them whatever is still in the registry. */
static void end_thread(void *argument)
{
	struct thread *thread = argument;
	bool lends;

	if (thread->task->head.newest)
		ew__report("a thread has ended inside a block with a scope, place or guard, which "
			   "did not end: return from it instead of pthread_exit()");
	ew__worker = &thread->worker;
	ew__current = NULL;
	ew__resources_abort_forgotten("thread");
	if (thread->forks_count != atomic_load(&ew__forks_count))
		leave_to_parent(thread);
	if (thread->worker.driver)
		drain(&thread->worker);
	lends = thread->worker.standing || thread->worker.buffers_lent;
	if (!lends)
		close_driver(thread);
	ew__worker = NULL;
	if (!lends)
		free_thread(thread);
	else
		ew__report("a thread has ended while a socket that it gave away has a buffer of "
			   "it, or its peer is watched here: what it needs for that is leaked");
	thread_here = NULL;
}

/* exit(3): the frames of the caller are still there, and others may use what it has made. The kernel ends all that. */
static void end_process(void)
{
	struct thread *thread = thread_here;

	if (!thread || ew__worker != &thread->worker || ew__current != &thread->task->head ||
	    !thread->worker.driver || ew__driver_in_flight(thread->worker.driver))
		return;
	close_driver(thread);
}

static void make_key(void)
{
	key_error = -pthread_key_create(&key, end_thread);
	if (key_error == 0)
		key_error = atexit(end_process) ? -ENOMEM : 0;
}

/* ---- operations that stand ---- */

void ew__standing_add(struct ew_worker *worker, struct ew__standing *standing)
{
	if (standing->link)
		return;
	standing->next = worker->standing;
	if (standing->next)
		standing->next->link = &standing->next;
	standing->link = &worker->standing;
	worker->standing = standing;
}

void ew__standing_remove(struct ew__standing *standing)
{
	if (!standing->link)
		return;
	*standing->link = standing->next;
	if (standing->next)
		standing->next->link = standing->link;
	standing->link = NULL;
}

static void submit_standing(struct ew_worker *worker)
{
	struct ew__standing *standing;

	for (standing = worker->standing; standing; standing = standing->next)
		if (!*standing->armed) {
			*standing->armed = true;
			ew__driver_submit(worker->driver, standing->op);
		}
}

static bool standing_in_flight(const struct ew_worker *worker)
{
	const struct ew__standing *standing;

	for (standing = worker->standing; standing; standing = standing->next)
		if (*standing->armed)
			return true;
	return false;
}

void ew__standing_recall(struct ew_worker *worker)
{
	struct ew__standing *standing;

	for (standing = worker->standing; standing; standing = standing->next)
		ew__driver_cancel(worker->driver, standing->op);
}

static void recall_and_await_standing(struct ew_worker *worker, const uint32_t *never)
{
	ew__standing_recall(worker);
	while (standing_in_flight(worker))
		ew__worker_wait(worker, never);
}

/* ---- the scheduler, on its stack ---- */

static bool task_is_ready(const struct ew_worker *worker)
{
	return worker->ready || worker->leaving || worker->parting;
}

/* What the wait has brought belongs to the call that waited. */
static void run_chores(struct ew_worker *worker)
{
	struct ew__chore *chore;

	while ((chore = worker->chores)) {
		ew__chore_remove(worker, chore);
		chore->run(chore);
	}
}

static void schedule(void)
{
	struct ew_worker *worker;
	const uint32_t never = 1;

	ew__context_entered();
	worker = ew__worker;
	for (;;) {
		submit_standing(worker);
		do {
			ew__worker_wait(worker, &never);
			run_chores(worker);
		} while (!task_is_ready(worker));
		recall_and_await_standing(worker, &never);
		run_chores(worker);
		ew__worker_run_tasks(worker);
	}
}

/* ---- the beginning ---- */

static void init_task(struct ew_task *task, struct ew_worker *worker, const struct ew__stack *stack)
{
	*task = (struct ew_task){
		.head = { .node = &task->base, .refuse = EW__REFUSE_THREAD },
		.worker = worker,
		.site = EW_SITE("plain thread"),
		.base.kind = EW__NODE_TASK,
		.outcome = EW_OUTCOME_NONE,
		.stack = *stack,
	};
	atomic_store_explicit(&task->base.end_ns, EW_NEVER, memory_order_relaxed);
	ew__context_adopt_thread(&task->context);
}

static struct thread *thread_below(struct ew_task *task)
{
	return (struct thread *)(((uintptr_t)task - sizeof(struct thread)) & ~(uintptr_t)63);
}

static int new_thread(void)
{
	struct thread *thread;
	struct ew__stack stack;
	struct ew_task *task;

	if (ew__stack_get(&stack) < 0)
		return -ENOMEM;
	task = ew__task_on_stack(stack.top);
	thread = thread_below(task);
	*thread = (struct thread){ .task = task };
	thread->forks_count = atomic_load(&ew__forks_count);
	if (pthread_setspecific(key, thread)) {
		ew__stack_put(&stack);
		return -ENOMEM;
	}
	ew__worker_init(&thread->worker);
	thread->worker.lanes_fed_until_ns = (const _Atomic int64_t *)&never_fed;
	init_task(task, &thread->worker, &stack);
	ew__context_init(&thread->worker.scheduler, stack.bottom, thread, schedule);
	thread_here = thread;
	return 0;
}

int ew__thread_enter(void)
{
	static pthread_once_t once = PTHREAD_ONCE_INIT;
	int r;

	ew_assert(!ew__worker); /* inside the scheduler there is no task to suspend */
	pthread_once(&once, make_key);
	r = key_error < 0 ? key_error : new_thread();
	if (r < 0) {
		ew__report("no memory to suspend on a plain thread");
		return r;
	}
	ew__worker = &thread_here->worker;
	ew__current = &thread_here->task->head;
	return 0;
}

void ew__thread_enter_or_die(void)
{
	if (ew__thread_enter() < 0)
		abort();
}

static int open_driver(struct thread *thread)
{
	static _Atomic bool told;
	char why[256] = "";
	int r = ew__driver_open_any(&thread->worker.driver, false, why, sizeof(why));

	if (r < 0) {
		ew__report("a plain thread cannot wait: %s", why);
		thread->worker.driver = NULL;
		return r;
	}
	if (r > 0 && !atomic_exchange(&told, true))
		ew__report("%s; epoll is used instead", why);
	return 0;
}

void ew__thread_look(struct ew_task *task)
{
	ew__current = NULL;
	ew__worker_look(task->worker);
	ew__current = &task->head;
}

int ew__thread_prepare(struct ew_task *task)
{
	struct thread *thread = ew__container_of(task->worker, struct thread, worker);
	int r = 0;

	if (thread->forks_count != atomic_load(&ew__forks_count))
		leave_to_parent(thread);
	if (!thread->worker.driver)
		r = open_driver(thread);
	if (r == 0 && thread->worker.standing)
		ew__yield(); /* a turn, in which they stand */
	else
		ew__thread_look(task);
	return r;
}
