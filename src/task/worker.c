/* SPDX-License-Identifier: Apache-2.0 */

/*
 * A worker's turn: run what is ready, deliver messages, expire timers, then one visit to the driver that
 * submits, waits if there is nothing else to do, and brings back what has ended. Completions are first
 * collected and then acted upon, here, outside the driver.
 *
 * A suspending task switches straight to the next ready one; the scheduler's own context runs when
 * nobody is ready, or after SWITCHES_PER_TURN switches, so that tasks that only yield cannot keep
 * completions and timers from being seen.
 *
 * Tasks that have been cancelled run behind the others, a slice of time in each turn, so that ten thousand that
 * end at once cost those that live a slice, and not ten thousand tasks' worth of waiting. What cancels them, when it
 * comes with a completion, waits for that slice too: the drain loop only takes notes. After the slice the worker gives
 * way: who lives may be another program, or a client of ours, and the scheduler would let us go on for a tick (4 ms).
 * And they do not run at all while the threads that end what they held have enough to do: on a machine that is full the
 * worker would only keep these from it, and itself from being there at once for who lives.
 *
 * The pages of a stack are given back when there is nothing else to do, here and in these threads, since that stops
 * every processor that the process runs on for a moment (a TLB shootdown).
 */

#include "task/worker.h"

#include "seeded/bug.h"

#include <endwell/clock.h>
#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define SWITCHES_PER_TURN 256
#define LEAVING_SLICE_NS  (100 * EW_MICROSECOND)
#define PARTING_ONE_OF	  8
#define NAP_NS		  (200 * EW_MICROSECOND)

__thread struct ew_worker *ew__worker;
__thread struct ew__head *ew__current;
__thread const struct ew_site *ew__made_at;
__thread int64_t ew__virtual_now_ns;
bool (*ew__sweep_keep)(struct ew_task *task);
_Atomic unsigned ew__forks_count;

static _Atomic unsigned holders_count;

int64_t ew_now(void)
{
	struct timespec now;

	if (ew__unlikely(ew__virtual_now_ns))
		return ew__virtual_now_ns;
	clock_gettime(CLOCK_MONOTONIC, &now);
	return now.tv_sec * EW_SECOND + now.tv_nsec;
}

int64_t ew_after(int64_t duration_ns)
{
	int64_t deadline_ns;

	if (__builtin_add_overflow(ew_now(), duration_ns, &deadline_ns))
		return EW_NEVER;
	return deadline_ns;
}

void ew__worker_init(struct ew_worker *worker)
{
	worker->now_ns = ew_now();
	ew__wheel_init(&worker->wheel, worker->now_ns);
	ew__context_adopt_thread(&worker->scheduler);
}

void ew__worker_close(struct ew_worker *worker)
{
	/* What the last message brought may have ended us while its sender was still ringing. */
	while (atomic_load_explicit(&worker->posting, memory_order_acquire))
		sched_yield();
	while (ew__tasks_free_kept(worker, 0))
		;
	ew_assert(
		!worker->buffers_lent); /* a socket that outlives its runtime has given its bytes back */
	ew__driver_close(worker->driver);
}

void ew__post(struct ew_worker *worker, struct ew__message *message)
{
	struct ew__message *first;

	atomic_fetch_add_explicit(&worker->posting, 1, memory_order_relaxed);
	first = atomic_load_explicit(&worker->inbox, memory_order_relaxed);
	do
		message->next = first;
	while (!atomic_compare_exchange_weak(&worker->inbox, &first, message));
	if (atomic_load(&worker->asleep) && atomic_exchange(&worker->asleep, false) &&
	    !ew__bug("doorbell-forgotten"))
		ew__driver_wake(worker->driver);
	atomic_fetch_sub_explicit(&worker->posting, 1, memory_order_release);
}

struct ew_worker *ew__worker_hold(struct ew_worker *_Atomic *place)
{
	struct ew_worker *worker = *place;

	if (!worker || worker == ew__worker)
		return NULL;
	holders_count++;
	worker = *place;
	if (!worker)
		holders_count--;
	return worker;
}

void ew__post_to_held(struct ew_worker *worker, struct ew__message *message)
{
	ew__post(worker, message);
	holders_count--;
}

/* For all of them, since they cannot leave a trace in a worker that may have gone. */
static void await_holders(void)
{
	while (holders_count)
		sched_yield();
}

/* In the child of a fork: whoever held a worker is in the parent. */
static void forked(void)
{
	ew__forks_count++;
	holders_count = 0;
}

__attribute__((constructor)) static void watch_forks(void)
{
	int r = pthread_atfork(NULL, NULL, forked);

	ew_assert(r == 0);
}

static void deliver_messages(struct ew_worker *worker)
{
	struct ew__message *newest, *oldest = NULL, *next;

	if (!atomic_load_explicit(&worker->inbox, memory_order_relaxed))
		return;
	newest = atomic_exchange(&worker->inbox, NULL);
	if (ew__bug("message-delivered-alone"))
		newest->next = NULL;
	for (; newest; newest = next) {
		next = newest->next;
		newest->next = oldest;
		oldest = newest;
	}
	for (; oldest; oldest = next) {
		next = oldest->next;
		oldest->deliver(oldest);
	}
}

static bool has_spare_stacks(const struct ew_worker *worker)
{
	return worker->kept_count > EW__TASKS_KEPT && !ew__bug("stacks-never-given-back");
}

/* Runs the first of a queue, and whoever is ready after that. */
static void run_first(struct ew_worker *worker, struct ew_task **first)
{
	struct ew_task *task = *first;

	*first = task->next;
	ew__current = &task->head;
	ew__context_switch(&worker->scheduler, &task->context, 0);
	ew__current = NULL;
}

void ew__chore_add(struct ew_worker *worker, struct ew__chore *chore)
{
	ew_assert(!chore->link);
	chore->link = worker->chores ? worker->chores_last : &worker->chores;
	chore->next = NULL;
	*chore->link = chore;
	worker->chores_last = &chore->next;
}

void ew__chore_remove(struct ew_worker *worker, struct ew__chore *chore)
{
	if (!chore->link)
		return;
	*chore->link = chore->next;
	if (chore->next)
		chore->next->link = chore->link;
	else
		worker->chores_last = chore->link;
	chore->link = NULL;
}

static bool has_leaving(const struct ew_worker *worker)
{
	return worker->leaving || worker->parting || worker->chores;
}

/* With virtual time there is no moment to compare with: threads live in the real one. */
static bool lanes_are_fed(const struct ew_worker *worker)
{
	int64_t until_ns = atomic_load_explicit(worker->lanes_fed_until_ns, memory_order_relaxed);

	return ew__unlikely(until_ns) && !ew__virtual_now_ns && ew_now() < until_ns;
}

static void run_one_leaving(struct ew_worker *worker)
{
	struct ew__chore *chore = worker->chores;
	bool part = !worker->leaving || ++worker->leaving_turn % PARTING_ONE_OF == 0;

	if (chore) {
		ew__chore_remove(worker, chore);
		chore->run(chore);
	}
	if (worker->parting && part)
		run_first(worker, &worker->parting);
	else if (worker->leaving)
		run_first(worker, &worker->leaving);
}

static void run_leaving(struct ew_worker *worker)
{
	int64_t begin_ns = ew_now(), end_ns = begin_ns + LEAVING_SLICE_NS, now_ns;

	atomic_store_explicit(&worker->switches_left, SWITCHES_PER_TURN, memory_order_relaxed);
	while (has_leaving(worker) && !lanes_are_fed(worker)) {
		ew__switch_counted(worker);
		run_one_leaving(worker);
		if (!ew__switches_left(worker))
			break;
		now_ns = ew_now();
		if (now_ns >= end_ns) {
			ew__give_way(&worker->giving, now_ns - begin_ns);
			break;
		}
	}
}

void ew__worker_run_tasks(struct ew_worker *worker)
{
	atomic_store_explicit(&worker->switches_left, SWITCHES_PER_TURN, memory_order_relaxed);
	if (worker->ready)
		run_first(worker, &worker->ready);
	if (ew__unlikely(has_leaving(worker)))
		run_leaving(worker);
}

static void visit_driver(struct ew_worker *worker, int64_t deadline_ns)
{
	struct ew__op *op = ew__driver_poll(worker->driver, deadline_ns), *next;

	for (; op; op = next) {
		next = op->next;
		op->complete(op);
	}
}

/* That the worker moves; a simulated driver does it itself. */
static bool has_virtual_time(const struct ew_worker *worker)
{
	return ew__virtual_now_ns && !worker->driver->type->simulated;
}

/* With virtual time: nothing can run and the kernel owes us nothing, so the next deadline is now. */
static bool jump(struct ew_worker *worker)
{
	int64_t next_ns;

	if (!has_virtual_time(worker) || worker->transfers ||
	    ew__driver_in_flight(worker->driver) || ew__driver_has_queued(worker->driver))
		return false;
	next_ns = ew__wheel_next_ns(&worker->wheel);
	if (next_ns == EW_NEVER)
		return false;
	if (next_ns > ew__virtual_now_ns)
		ew__virtual_now_ns = next_ns;
	return true;
}

/* There is only what can wait until the lanes have less to do. What others post is looked at after it. */
static void nap(struct ew_worker *worker)
{
	int64_t end_ns = ew_now() + NAP_NS, next_ns = ew__wheel_next_ns(&worker->wheel);

	visit_driver(worker, next_ns < end_ns ? next_ns : end_ns);
}

static void rest(struct ew_worker *worker)
{
	if (jump(worker))
		return;
	atomic_store(&worker->asleep, true);
	if (atomic_load(&worker->inbox))
		visit_driver(worker, EW_NOW);
	else
		visit_driver(worker, has_virtual_time(worker) ? EW_NEVER
							      : ew__wheel_next_ns(&worker->wheel));
	atomic_store(&worker->asleep, false);
}

static bool is_finished(const struct ew_worker *worker)
{
	return worker->stop_asked && !atomic_load(&worker->inbox) &&
	       ew__tasks_living(worker) == 0 && worker->transfers == 0 &&
	       (ew__bug("run-ends-with-operations-in-flight") ||
		(ew__driver_in_flight(worker->driver) == 0 &&
		 !ew__driver_has_queued(worker->driver)));
}

static bool is_reached(const struct ew_worker *worker, const uint32_t *count)
{
	return count ? *count == 0 : is_finished(worker);
}

void ew__worker_look(struct ew_worker *worker)
{
	worker->now_ns = ew_now();
	deliver_messages(worker);
	ew__wheel_advance(&worker->wheel, worker->now_ns);
}

void ew__worker_wait(struct ew_worker *worker, const uint32_t *count)
{
	ew__worker_look(worker);
	if (!worker->ready && (has_leaving(worker) || has_spare_stacks(worker)) &&
	    lanes_are_fed(worker))
		nap(worker);
	else if (worker->ready || has_leaving(worker) ||
		 (has_spare_stacks(worker) && ew__tasks_free_kept(worker, EW__TASKS_KEPT)))
		visit_driver(worker, EW_NOW);
	else if (!is_reached(worker, count))
		rest(worker);
	atomic_store_explicit(&worker->turns, worker->turns + 1, memory_order_relaxed);
}

static void turn_until(struct ew_worker *worker, const uint32_t *count)
{
	while (!is_reached(worker, count)) {
		ew__worker_run_tasks(worker);
		ew__worker_wait(worker, count);
	}
}

/* Nothing is here any more by which it could be found. Who had found it before has posted, and that is looked at. */
void ew__worker_loop(struct ew_worker *worker)
{
	turn_until(worker, NULL);
	await_holders();
	turn_until(worker, NULL);
}

void ew__worker_loop_until(struct ew_worker *worker, const uint32_t *count)
{
	turn_until(worker, count);
}
