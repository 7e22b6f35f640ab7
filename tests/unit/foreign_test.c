/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Foreign completions: each operation completes once, whoever waits or has gone, and until then nothing that the other
 * side may touch is anybody else's.
 */

#include "crossing.h"
#include "io.h"

#include <endwell/foreign.h>
#include <endwell/select.h>
#include <limits.h>

#define OPERATIONS_MAX 4

static struct {
	struct ew_reaper *reaper;
	struct ew_semaphore *permits;
	unsigned asked;
	unsigned disposed;
	int last_disposed;
	bool stops_when_asked;
	struct ew_foreign_ticket ticket;
} device;

static void ask_device(void *memory)
{
	(void)memory;
	device.asked++;
	if (device.stops_when_asked)
		EXPECT_EQ(ew_foreign_complete(device.ticket, -EINTR), 0);
}

static void dispose_result(void *memory, int32_t result)
{
	(void)memory;
	device.disposed++;
	device.last_disposed = result;
}

static int begin_one(struct ew_permit **permit, struct ew_foreign **ret_operation)
{
	struct ew_foreign_options options = { .name = "a spin-up",
					      .cancel = ask_device,
					      .dispose = dispose_result,
					      .permit = permit };
	int r = ew_foreign_begin(device.reaper, &options, ret_operation);

	if (r == 0)
		device.ticket = ew_foreign_ticket(*ret_operation);
	return r;
}

static void expect_reaper(unsigned owned, unsigned abandoned, unsigned overdue)
{
	struct ew_reaper_counts counts = ew_reaper_count(device.reaper);

	EXPECT_EQ(counts.operations_max, OPERATIONS_MAX);
	EXPECT_EQ(counts.owned, owned);
	EXPECT_EQ(counts.abandoned, abandoned);
	EXPECT_EQ(counts.overdue, overdue);
}

static void expect_permits(unsigned free_count, unsigned cancelling, unsigned presumed)
{
	struct ew_semaphore_counts counts = ew_semaphore_count(device.permits);

	EXPECT_EQ(counts.free, free_count);
	EXPECT_EQ(counts.cancelling, cancelling);
	EXPECT_EQ(counts.presumed, presumed);
}

static ew_task_fn *with_fn;

static int with_reaper(void *argument)
{
	static const struct ew_reaper_options options = { .name = "disks",
							  .operations_max = OPERATIONS_MAX,
							  .memory_bytes = 100,
							  .hold_ns = 3 * EW_SECOND,
							  .drain_ns = 8 * EW_SECOND };
	EW_OWN(ew_reaper, reaper);
	int r;

	EXPECT_EQ(ew_reaper_new(&options, &reaper), 0);
	device.reaper = reaper;
	r = with_fn(argument);
	return r < 0 ? r : ew_reaper_close(&reaper);
}

static int run_on(ew_task_fn *fn, unsigned workers)
{
	int r;

	memset(&device, 0, sizeof(device));
	device.permits = ew_semaphore_new(OPERATIONS_MAX, 16);
	with_fn = fn;
	r = workers ? run_workers(workers, with_reaper, NULL) : run_virtual(with_reaper, NULL);
	ew_semaphore_free(device.permits);
	return r;
}

/* ---- completed before, while, and after somebody waits ---- */

static int complete_before(void *argument)
{
	EW_OWN(ew_foreign, operation);
	EW_OWN(ew_permit, permit);
	int32_t result = 0;
	char *memory;

	(void)argument;
	EXPECT_EQ(ew_semaphore_acquire(device.permits, EW_NEVER, &permit), 0);
	EXPECT_EQ(begin_one(&permit, &operation), 0);
	EXPECT(!permit);
	memory = ew_foreign_memory(operation);
	EXPECT(memory[0] == 0 && memory[99] == 0);
	memset(memory, 'x', 100);
	expect_reaper(1, 0, 0);
	EXPECT_EQ(ew_foreign_complete(device.ticket, 17), 0);
	EXPECT_EQ(ew_foreign_complete(device.ticket, 18), -EALREADY);
	EXPECT_EQ(ew_foreign_wait(operation, EW_NEVER, &result), 0);
	EXPECT_EQ(result, 17);
	expect_permits(3, 0, 0);
	EXPECT_EQ(ew_foreign_close(&operation), 0);
	expect_permits(4, 0, 0);
	expect_reaper(0, 0, 0);
	EXPECT_EQ(ew_foreign_complete(device.ticket, 19), -EALREADY);
	EXPECT_EQ(begin_one(NULL, &operation), 0); /* in the same memory */
	EXPECT_EQ(((char *)ew_foreign_memory(operation))[99], 0);
	EXPECT_EQ(device.asked, 0);
	EXPECT_EQ(device.disposed, 0);
	device.stops_when_asked = true;
	return 0;
}

TEST(foreign_completed_before_the_wait_is_returned_once)
{
	EXPECT_EQ(run_on(complete_before, 0), 0);
	EXPECT_EQ(device.asked, 1);
	EXPECT_EQ(device.last_disposed, -EINTR); /* of the second one, which nobody waited for */
}

static int complete_late_ticket(void *argument)
{
	EW_OWN(ew_foreign, operation);
	struct ew_foreign_ticket old;
	int32_t result = 0;

	(void)argument;
	EXPECT_EQ(begin_one(NULL, &operation), 0);
	old = device.ticket;
	EXPECT_EQ(ew_foreign_complete(old, 1), 0);
	EXPECT_EQ(ew_foreign_close(&operation), 0);
	EXPECT_EQ(begin_one(NULL, &operation), 0);
	EXPECT(device.ticket.foreign == old.foreign);
	EXPECT_EQ(ew_foreign_complete(old, 2), -EALREADY);
	EXPECT_EQ(ew_foreign_wait(operation, ew_after(EW_SECOND), &result), -ETIMEDOUT);
	EXPECT_EQ(ew_foreign_complete(device.ticket, 3), 0);
	EXPECT_EQ(ew_foreign_wait(operation, EW_NEVER, &result), 0);
	return result == 3 ? 0 : -1;
}

TEST(foreign_ticket_that_comes_late_does_not_hit_the_next_operation)
{
	EXPECT_EQ(run_on(complete_late_ticket, 0), 0);
}

static void *complete_on_a_thread(void *argument)
{
	usleep(1000);
	EXPECT_EQ(ew_foreign_complete(*(struct ew_foreign_ticket *)argument, 5), 0);
	return NULL;
}

static int wait_for_a_thread(void *argument)
{
	int i, rounds = RUNNING_ON_VALGRIND ? 3 : 20;
	pthread_t thread;

	(void)argument;
	for (i = 0; i < rounds; i++) {
		EW_OWN(ew_foreign, operation);
		int32_t result = 0;

		EXPECT_EQ(begin_one(NULL, &operation), 0);
		EXPECT_EQ(pthread_create(&thread, NULL, complete_on_a_thread, &device.ticket), 0);
		EXPECT_EQ(ew_foreign_wait(operation, EW_NEVER, &result), 0);
		EXPECT_EQ(result, 5);
		pthread_join(thread, NULL);
	}
	return 0;
}

TEST(foreign_completed_by_a_plain_thread_wakes_who_waits)
{
	EXPECT_EQ(run_on(wait_for_a_thread, 1), 0);
}

static int wait_for_one(void *argument)
{
	EW_OWN(ew_foreign, operation);
	int32_t result = 0;
	int r = begin_one(argument, &operation);

	if (r == 0)
		r = ew_foreign_wait(operation, EW_NEVER, &result);
	return r < 0 ? r : result;
}

/* Cancelled, it is asked to stop, and its place is not left before it has. */
static int cancel_then_complete(void *argument)
{
	EW_SCOPE(scope);

	(void)argument;
	EXPECT_EQ(ew_spawn(&scope, wait_for_one, NULL), 0);
	EXPECT_EQ(ew_yield(), 0);
	ew_scope_cancel(&scope, EW_REASON_REQUESTED);
	{
		EW_SHIELD(shield, .budget_ns = 60 * EW_SECOND);

		EXPECT_EQ(ew_sleep(5 * EW_SECOND), 0);
		EXPECT_EQ(device.asked, 1);
		expect_reaper(1, 0, 0);
		EXPECT_EQ(ew_scope_children_count(&scope), 1);
		EXPECT_EQ(ew_foreign_complete(device.ticket, 8), 0);
	}
	EXPECT_EQ(ew_scope_join(&scope), -ECANCELED);
	EXPECT_EQ(device.last_disposed, 8); /* nobody took it */
	expect_reaper(0, 0, 0);
	EXPECT_EQ(ew_scope_finish(&scope, 0), -ECANCELED);
	return 0;
}

TEST(foreign_cancelled_is_asked_once_and_waited_for)
{
	EXPECT_EQ(run_on(cancel_then_complete, 0), 0);
	EXPECT_EQ(device.asked, 1);
	EXPECT_EQ(device.disposed, 1);
}

static int wait_and_see_the_cancel(void *argument)
{
	int r = wait_for_one(argument);

	EXPECT_EQ(ew_yield(), -ECANCELED);
	return r;
}

static void complete_now(void *argument)
{
	(void)argument;
	EXPECT_EQ(ew_foreign_complete(device.ticket, 6), 0);
}

static int cross_a_cancel(void *argument)
{
	(void)argument;
	return cross(wait_and_see_the_cancel, complete_now, NULL) == 6 ? 0 : -1;
}

TEST(foreign_completion_that_crosses_a_cancel_is_returned)
{
	EXPECT_EQ(run_on(cross_a_cancel, 2), 0);
	EXPECT_EQ(device.asked, 0);
	EXPECT_EQ(device.disposed, 0);
}

/* ---- the reaper ---- */

/* Its scope's ladder leaves two seconds, in which the device does not stop. */
static int abandon_one(void *argument)
{
	EW_OWN(ew_permit, permit);
	EW_SCOPE(scope, .budget_ns = 2 * EW_SECOND);
	int64_t began_ns = ew_now();

	(void)argument;
	EXPECT_EQ(ew_semaphore_acquire(device.permits, EW_NEVER, &permit), 0);
	EXPECT_EQ(ew_spawn(&scope, wait_for_one, &permit), 0);
	EXPECT_EQ(ew_yield(), 0);
	EXPECT(!permit);
	ew_scope_cancel(&scope, EW_REASON_REQUESTED);
	EXPECT_EQ(ew_scope_finish(&scope, 0), -ECANCELED);
	EXPECT(ew_now() - began_ns < 3 * EW_SECOND);
	expect_reaper(0, 1, 0);
	return 0;
}

static int abandon_and_complete(void *argument)
{
	struct ew_abandoned entries[2];

	EXPECT_EQ(abandon_one(argument), 0);
	expect_permits(3, 1, 0);
	EXPECT_EQ(ew_reaper_look(device.reaper, entries, 2), 1);
	EXPECT_STR(entries[0].name, "a spin-up");
	EXPECT(strstr(entries[0].site->file, "foreign_test.c"));
	EXPECT_EQ(ew_sleep(4 * EW_SECOND), 0);
	expect_reaper(0, 1, 1);
	EXPECT_EQ(device.disposed, 0);
	EXPECT_EQ(ew_foreign_complete(device.ticket, 9), 0);
	expect_reaper(0, 0, 0);
	expect_permits(4, 0, 0);
	EXPECT_EQ(device.last_disposed, 9);
	EXPECT_EQ(ew_foreign_complete(device.ticket, 9), -EALREADY);
	EXPECT_EQ(ew_reaper_look(device.reaper, entries, 2), 0);
	return 0;
}

TEST(foreign_abandoned_holds_its_place_and_permit_until_it_completes)
{
	EXPECT_EQ(run_on(abandon_and_complete, 0), 0);
	EXPECT_EQ(device.asked, 1);
	EXPECT_EQ(device.disposed, 1);
	EXPECT_EQ(reports.count, 0);
}

/* Some owned, some abandoned: together no more than there are places, and an ending is never refused one. */
static int fill_it(void *argument)
{
	EW_OWN(ew_foreign, first);
	EW_OWN(ew_foreign, second);
	EW_OWN(ew_foreign, third);
	EW_OWN(ew_foreign, fourth);
	EW_OWN(ew_foreign, more);
	EW_OWN(ew_permit, permit);
	struct ew_foreign_ticket tickets[OPERATIONS_MAX];
	int i;

	(void)argument;
	EXPECT_EQ(ew_semaphore_acquire(device.permits, EW_NEVER, &permit), 0);
	EXPECT_EQ(begin_one(NULL, &first), 0);
	tickets[0] = device.ticket;
	EXPECT_EQ(begin_one(NULL, &second), 0);
	tickets[1] = device.ticket;
	EXPECT_EQ(begin_one(NULL, &third), 0);
	tickets[2] = device.ticket;
	EXPECT_EQ(begin_one(NULL, &fourth), 0);
	tickets[3] = device.ticket;
	ew_abort(&first);
	ew_abort(&second);
	expect_reaper(2, 2, 0);
	EXPECT_EQ(begin_one(&permit, &more), -EAGAIN);
	EXPECT(permit && !more);
	ew_abort(&third);
	ew_abort(&fourth);
	expect_reaper(0, 4, 0);
	EXPECT_EQ(begin_one(&permit, &more), -EAGAIN);
	EXPECT_EQ(ew_foreign_complete(tickets[2], 0), 0);
	EXPECT_EQ(begin_one(&permit, &more), 0);
	EXPECT_EQ(ew_foreign_complete(device.ticket, 0), 0);
	for (i = 0; i < OPERATIONS_MAX; i++)
		EXPECT_EQ(ew_foreign_complete(tickets[i], 0), i == 2 ? -EALREADY : 0);
	return 0;
}

TEST(foreign_reaper_that_is_full_refuses_operations_and_no_ending)
{
	EXPECT_EQ(run_on(fill_it, 0), 0);
	EXPECT_EQ(device.asked, 4);
}

static pthread_t late_thread;

static void *complete_late(void *argument)
{
	(void)argument;
	usleep(20000);
	EXPECT_EQ(ew_foreign_complete(device.ticket, 4), 0);
	return NULL;
}

static int leave_one_to_a_thread(void *argument)
{
	EW_OWN(ew_foreign, operation);

	(void)argument;
	EXPECT_EQ(begin_one(NULL, &operation), 0);
	ew_abort(&operation);
	EXPECT_EQ(pthread_create(&late_thread, NULL, complete_late, NULL), 0);
	return 0;
}

TEST(foreign_reaper_is_drained_by_its_close)
{
	EXPECT_EQ(run_on(leave_one_to_a_thread, 1), 0);
	EXPECT_EQ(device.disposed, 1);
	EXPECT_EQ(reports.count, 0);
	pthread_join(late_thread, NULL);
}

static int64_t drained_after_ns;

static int abandon_for_ever(void *argument)
{
	int r = abandon_one(argument);

	drained_after_ns = ew_now();
	return r;
}

static int never_complete(void *argument)
{
	int r = with_reaper(argument);

	drained_after_ns = ew_now() - drained_after_ns;
	return r;
}

/* The shutdown has a bound, names what is left, and leaves it its memory. */
TEST(foreign_that_never_completes_is_named_and_its_memory_left_to_it)
{
	memset(&device, 0, sizeof(device));
	device.permits = ew_semaphore_new(OPERATIONS_MAX, 16);
	with_fn = abandon_for_ever;
	EXPECT_EQ(run_virtual(never_complete, NULL), -ECANCELED);
	EXPECT(drained_after_ns >= 8 * EW_SECOND && drained_after_ns < 9 * EW_SECOND);
	EXPECT_EQ(reports.count, 1);
	EXPECT(reported("disks: a spin-up", "foreign_test.c"));
	expect_permits(3, 0, 1);
	ew_semaphore_reclaim(device.permits, 1);
	ew_semaphore_free(device.permits);
	EXPECT_EQ(device.disposed, 0);
	EXPECT_EQ(ew_foreign_complete(device.ticket, 2), 0); /* years later */
	EXPECT_EQ(device.last_disposed, 2);
	EXPECT_EQ(ew_foreign_complete(device.ticket, 2), -EALREADY);
}

static int forget_all(void *argument)
{
	static const struct ew_reaper_options options = { .name = "tapes", .operations_max = 1 };
	static struct ew_reaper *reaper;
	static struct ew_foreign *operation;

	(void)argument;
	EXPECT_EQ(ew_reaper_new(&options, &reaper), 0);
	device.reaper = reaper;
	return begin_one(NULL, &operation);
}

TEST(foreign_forgotten_is_reported_and_left_to_its_reaper)
{
	EXPECT_EQ(run_virtual(forget_all, NULL), 0);
	EXPECT(reported("foreign operation made at", "no owner"));
	EXPECT(reported("reaper made at", "no owner"));
	EXPECT(reported("tapes: a spin-up", "has not completed"));
	EXPECT_EQ(ew_foreign_complete(device.ticket, 0), 0);
}

static int abandon_forty(void *argument)
{
	static const struct ew_reaper_options options = { .name = "tapes", .operations_max = 40 };
	EW_OWN(ew_reaper, reaper);
	unsigned i;

	(void)argument;
	EXPECT_EQ(ew_reaper_new(&options, &reaper), 0);
	device.reaper = reaper;
	for (i = 0; i < 40; i++) {
		EW_OWN(ew_foreign, operation);

		EXPECT_EQ(begin_one(NULL, &operation), 0);
		ew_abort(&operation);
	}
	return 0;
}

TEST(foreign_that_never_complete_are_named_up_to_a_bound)
{
	EXPECT_EQ(run_virtual(abandon_forty, NULL), 0);
	EXPECT_EQ(reports.count, 33);
	EXPECT(reported("tapes: 8 operations more", NULL));
}

static int make_bad_ones(void *argument)
{
	struct ew_reaper_options options = { .operations_max = 1 };
	EW_OWN(ew_reaper, reaper);

	(void)argument;
	EXPECT_EQ(ew_reaper_new(&options, &reaper), -EINVAL);
	options.name = "none";
	options.operations_max = 0;
	EXPECT_EQ(ew_reaper_new(&options, &reaper), -EINVAL);
	options.operations_max = UINT_MAX;
	options.memory_bytes = SIZE_MAX / 2;
	EXPECT_EQ(ew_reaper_new(&options, &reaper), -ENOMEM);
	options.operations_max = 1;
	options.memory_bytes = SIZE_MAX - 64;
	EXPECT_EQ(ew_reaper_new(&options, &reaper), -ENOMEM);
	options.memory_bytes = SIZE_MAX;
	EXPECT_EQ(ew_reaper_new(&options, &reaper), -ENOMEM);
	EXPECT(!reaper);
	return 0;
}

TEST(foreign_reaper_that_cannot_be_is_refused)
{
	EXPECT_EQ(run_virtual(make_bad_ones, NULL), 0);
}

/* ---- a call ---- */

static int start_reading(void *argument, struct ew_foreign_ticket ticket)
{
	int r = *(int *)argument;

	device.ticket = ticket;
	if (r == 1)
		return ew_foreign_complete(ticket, 11);
	return r;
}

static int call_device(void *argument)
{
	static const struct ew_foreign_options options = { .name = "a read", .cancel = ask_device };
	int32_t result = -1;
	int r = ew_foreign_call(device.reaper, &options, start_reading, argument, &result);

	return r < 0 ? r : result;
}

static int call_and_keep(void *argument)
{
	int way = 0, r = call_device(&way);

	*(int *)argument = r;
	EXPECT_EQ(ew_yield(), -ECANCELED);
	return 0;
}

/* Forced as well: what was lent is on a stack. */
static int call_it(void *argument)
{
	struct ew_foreign_options options = { .name = "a read" };
	EW_OWN(ew_permit, permit);
	int way = 1, result = 0;
	int32_t read_count = -1;
	EW_SCOPE(scope, .budget_ns = EW_SECOND);

	(void)argument;
	EXPECT_EQ(call_device(&way), 11);
	way = -EIO;
	EXPECT_EQ(ew_semaphore_acquire(device.permits, EW_NEVER, &permit), 0);
	options.permit = &permit;
	EXPECT_EQ(ew_foreign_call(device.reaper, &options, start_reading, &way, &read_count), -EIO);
	EXPECT(permit && read_count == -1);
	EXPECT_EQ(ew_foreign_complete(device.ticket, 1), -EALREADY);
	way = 1;
	EXPECT_EQ(ew_foreign_call(device.reaper, &options, start_reading, &way, &read_count), 0);
	EXPECT(!permit && read_count == 11);
	expect_reaper(0, 0, 0);
	expect_permits(4, 0, 0);

	EXPECT_EQ(ew_spawn(&scope, call_and_keep, &result, .droppable = true), 0);
	EXPECT_EQ(ew_yield(), 0);
	EXPECT_EQ(device.asked, 0);
	ew_scope_cancel(&scope, EW_REASON_REQUESTED);
	{
		EW_SHIELD(shield, .budget_ns = 60 * EW_SECOND);

		while (ew_cancel_rung() != EW_RUNG_FORCE)
			if (ew_sleep(EW_SECOND / 4) < 0)
				break;
		EXPECT_EQ(ew_yield(), -ECANCELED);
	}
	EXPECT_EQ(device.asked, 1);
	EXPECT_EQ(ew_scope_children_count(&scope), 1);
	EXPECT_EQ(ew_foreign_complete(device.ticket, 12), 0);
	EXPECT_EQ(ew_scope_join(&scope), -ENOTRECOVERABLE); /* dropped, but not in the call */
	EXPECT_EQ(result, 12);
	EXPECT_EQ(call_device(&way), -ECANCELED);
	EXPECT_EQ(ew_scope_finish(&scope, 0), -ENOTRECOVERABLE);
	return 0;
}

TEST(foreign_call_does_not_return_before_its_completion)
{
	EXPECT_EQ(run_on(call_it, 0), 0);
	EXPECT_EQ(device.asked, 1);
}

static int call_and_stop(void *argument)
{
	int result = 0;
	EW_SCOPE(scope);

	(void)argument;
	device.stops_when_asked = true;
	EXPECT_EQ(ew_spawn(&scope, call_and_keep, &result), 0);
	EXPECT_EQ(ew_yield(), 0);
	ew_scope_cancel(&scope, EW_REASON_REQUESTED);
	EXPECT_EQ(ew_scope_join(&scope), 0);
	EXPECT_EQ(result, -EINTR);
	EXPECT_EQ(ew_scope_finish(&scope, 0), 0);
	return 0;
}

TEST(foreign_completed_from_inside_its_cancel)
{
	EXPECT_EQ(run_on(call_and_stop, 0), 0);
}

/* ---- among alternatives ---- */

static int select_one(void *argument)
{
	struct ew_event event = { 0 };
	EW_OWN(ew_foreign, operation);
	int32_t result = 0;
	struct ew_alternative alternatives[2];

	(void)argument;
	EXPECT_EQ(begin_one(NULL, &operation), 0);
	alternatives[0] = ew_select_event(&event);
	alternatives[1] = ew_select_foreign(operation, &result);
	EXPECT_EQ(ew_select(alternatives, 2, ew_after(EW_SECOND)), -ETIMEDOUT);
	ew_event_set(&event);
	EXPECT_EQ(ew_select(alternatives, 2, EW_NEVER), 0);
	ew_event_reset(&event);
	EXPECT_EQ(ew_foreign_complete(device.ticket, 13), 0);
	EXPECT_EQ(ew_select(alternatives, 2, EW_NEVER), 1);
	EXPECT_EQ(result, 13);
	EXPECT_EQ(ew_foreign_close(&operation), 0);
	EXPECT_EQ(device.disposed, 0);
	return 0;
}

TEST(foreign_completion_may_win_a_select)
{
	EXPECT_EQ(run_on(select_one, 0), 0);
}

/* ---- many threads ---- */

#define THREADS_COUNT 3
#define TICKETS_MAX   8192

/* Tickets on their way to the threads; each thread completes all of them, and they race. */
static struct {
	pthread_mutex_t mutex;
	struct ew_foreign_ticket tickets[TICKETS_MAX];
	unsigned given;
	unsigned taken[THREADS_COUNT];
	_Atomic bool stop;
	_Atomic unsigned begun;
	_Atomic unsigned completed;
	_Atomic unsigned refused;
	_Atomic unsigned heard;
	_Atomic unsigned lost;
} bus = { .mutex = PTHREAD_MUTEX_INITIALIZER };

static void lose_result(void *memory, int32_t result)
{
	EXPECT_EQ(*(int32_t *)memory, result);
	bus.lost++;
}

static bool next_ticket(unsigned thread, struct ew_foreign_ticket *ret_ticket)
{
	bool found, stop;

	for (;;) {
		pthread_mutex_lock(&bus.mutex);
		found = bus.taken[thread] < bus.given;
		stop = bus.stop;
		if (found)
			*ret_ticket = bus.tickets[bus.taken[thread]++];
		pthread_mutex_unlock(&bus.mutex);
		if (found || stop)
			return found;
		sched_yield();
	}
}

static void *complete_all(void *argument)
{
	unsigned thread = (unsigned)(uintptr_t)argument, i = 0;
	struct ew_foreign_ticket ticket;
	int r;

	while (next_ticket(thread, &ticket)) {
		if (++i % (5 + thread) == 0)
			usleep(50);
		r = ew_foreign_complete(ticket, (int32_t)(ticket.number & 0xffff));
		EXPECT(r == 0 || r == -EALREADY);
		if (r == 0)
			bus.completed++;
		else
			bus.refused++;
	}
	return NULL;
}

/* Begins one, waits for it or not, and leaves it in one way or another. */
static int use_the_bus(void *argument)
{
	struct ew_foreign_options options = { .name = "a transfer", .dispose = lose_result };
	unsigned round = (unsigned)(uintptr_t)argument;
	EW_OWN(ew_permit, permit);
	EW_OWN(ew_foreign, operation);
	int32_t result = 0, number;
	int r = ew_semaphore_acquire(device.permits, EW_NEVER, &permit);

	if (r < 0)
		return r;
	options.permit = &permit;
	EXPECT_EQ(ew_foreign_begin(device.reaper, &options, &operation),
		  0); /* a place for each permit */
	number = (int32_t)(ew_foreign_ticket(operation).number & 0xffff);
	*(int32_t *)ew_foreign_memory(operation) = number;
	bus.begun++;
	pthread_mutex_lock(&bus.mutex);
	EXPECT(bus.given < TICKETS_MAX);
	bus.tickets[bus.given++] = ew_foreign_ticket(operation);
	pthread_mutex_unlock(&bus.mutex);
	if (round % 5 == 0)
		ew_abort(&operation);
	else
		r = ew_foreign_wait(operation, round % 3 ? EW_NEVER : ew_after(EW_MILLISECOND),
				    &result);
	if (operation && r == 0) {
		EXPECT_EQ(result, number);
		bus.heard++;
	}
	return r == -ETIMEDOUT ? 0 : r;
}

static void cut_round(unsigned round)
{
	EW_SCOPE(scope);
	unsigned i;
	int r;

	for (i = 0; i < 8; i++)
		EXPECT_EQ(ew_spawn(&scope, use_the_bus, (void *)(uintptr_t)(round + i),
				   .worker = 1 + i % 2),
			  0);
	take_turns(chance(20));
	if (round % 2)
		ew_scope_cancel(&scope, EW_REASON_REQUESTED);
	r = ew_scope_finish(&scope, ew_scope_join(&scope));
	EXPECT(r == 0 || r == -ECANCELED);
}

static int cut_rounds(void *argument)
{
	unsigned i;

	(void)argument;
	for (i = 0; i < (RUNNING_ON_VALGRIND ? 20 : 500); i++)
		cut_round(i);
	/* Who has lost a race still has the ticket, and that is good as long as the reaper. */
	TURNS_UNTIL(bus.completed + bus.refused == THREADS_COUNT * bus.begun);
	return 0;
}

TEST(foreign_completed_by_many_threads_neither_loses_nor_doubles_a_result)
{
	pthread_t threads[THREADS_COUNT];
	uintptr_t i;
	int r;

	chance_begin();
	memset(&device, 0, sizeof(device));
	device.permits = ew_semaphore_new(OPERATIONS_MAX, 16);
	for (i = 0; i < THREADS_COUNT; i++)
		EXPECT_EQ(pthread_create(&threads[i], NULL, complete_all, (void *)i), 0);
	with_fn = cut_rounds;
	r = run_workers(2, with_reaper, NULL);
	bus.stop = true;
	for (i = 0; i < THREADS_COUNT; i++)
		pthread_join(threads[i], NULL);
	EXPECT_EQ(r, 0);
	EXPECT_EQ(reports.count, 0);
	EXPECT_EQ(bus.completed, bus.begun);
	EXPECT_EQ(bus.heard + bus.lost, bus.begun);
	expect_permits(OPERATIONS_MAX, 0, 0);
	ew_semaphore_free(device.permits);
}

TEST_MAIN()
