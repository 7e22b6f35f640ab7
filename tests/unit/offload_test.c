/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Offload: a call on another thread is made once or not at all, and whoever asked for it waits for its end.
 */

#include "io.h"

#include <pthread.h>
#include <semaphore.h>

/* A call that says when it has begun, and ends when it is told. */
struct gate {
	sem_t begun;
	sem_t go;
	unsigned calls;
	sigset_t blocked;
	pthread_t thread;
};

static void gate_make(struct gate *gate)
{
	*gate = (struct gate){ .calls = 0 };
	EXPECT_EQ(sem_init(&gate->begun, 0, 0), 0);
	EXPECT_EQ(sem_init(&gate->go, 0, 0), 0);
}

static void sem_await(sem_t *semaphore)
{
	while (sem_wait(semaphore) < 0)
		EXPECT_EQ(errno, EINTR);
}

static int gate_call(void *argument)
{
	struct gate *gate = argument;

	gate->calls++;
	gate->thread = pthread_self();
	EXPECT_EQ(pthread_sigmask(SIG_BLOCK, NULL, &gate->blocked), 0);
	sem_post(&gate->begun);
	sem_await(&gate->go);
	return 42;
}

struct asking {
	struct gate *gate;
	int result;
	int returned;
	int next;
	enum ew_outcome outcome;
	bool done;
};

static int ask_task(void *argument)
{
	struct asking *asking = argument;

	asking->returned = -1;
	asking->result = ew_offload(gate_call, asking->gate, &asking->returned);
	asking->outcome = ew_outcome();
	asking->done = true;
	asking->next = ew_yield();
	return 0;
}

static int run_with_threads(unsigned threads, ew_task_fn *fn, void *argument)
{
	const struct ew_run_options options = { .workers_count = 1,
						.offload_threads = threads,
						.report = note_report };

	reports.count = 0;
	return ew_run(&options, fn, argument);
}

static int call_once(void *argument)
{
	struct asking asking = { .gate = argument };

	sem_post(&asking.gate->go);
	EXPECT_EQ(ask_task(&asking), 0);
	EXPECT_EQ(asking.result, 0);
	EXPECT_EQ(asking.returned, 42);
	EXPECT_EQ(asking.outcome, EW_OUTCOME_DONE);
	EXPECT_EQ(asking.gate->calls, 1);
	EXPECT(!pthread_equal(asking.gate->thread, pthread_self()));
	return 0;
}

TEST(offload_runs_the_call_on_another_thread)
{
	struct gate gate;

	gate_make(&gate);
	EXPECT_EQ(run_with_threads(1, call_once, &gate), 0);
}

/* A signal must find the program's own threads, never one of the pool. */
TEST(offload_threads_hear_no_signals)
{
	struct gate gate;
	int number;

	gate_make(&gate);
	EXPECT_EQ(run_with_threads(1, call_once, &gate), 0);
	for (number = 1; number < NSIG; number++)
		if (number != SIGKILL && number != SIGSTOP && (number < 32 || number >= SIGRTMIN))
			EXPECT_EQ(sigismember(&gate.blocked, number), 1);
}

static int call_cancelled(void *argument)
{
	struct asking asking = { .gate = argument };

	{
		EW_SCOPE(scope);
		ew_scope_cancel(&scope, EW_REASON_REQUESTED);
		EXPECT_EQ(ew_offload(gate_call, asking.gate, &asking.returned), -ECANCELED);
	}
	EXPECT_EQ(asking.gate->calls, 0);
	return 0;
}

TEST(offload_is_refused_once_cancelled)
{
	struct gate gate;

	gate_make(&gate);
	EXPECT_EQ(run_with_threads(1, call_cancelled, &gate), 0);
}

/* The one thread is busy: the second call waits for it, is cancelled, and is never made. */
static int cancel_waiting(void *argument)
{
	struct gate *gate = argument, second_gate;
	struct asking first = { .gate = gate }, second = { .gate = &second_gate };
	EW_SCOPE(all);

	gate_make(&second_gate);
	EXPECT_EQ(ew_spawn(&all, ask_task, &first), 0);
	take_turns(1);
	sem_await(&gate->begun);
	{
		EW_SCOPE(scope);
		EXPECT_EQ(ew_spawn(&scope, ask_task, &second), 0);
		take_turns(3);
		EXPECT(!second.done);
		ew_scope_cancel(&scope, EW_REASON_REQUESTED);
		EXPECT_EQ(ew_scope_join(&scope), 0);
	}
	EXPECT_EQ(second.result, -ECANCELED);
	EXPECT_EQ(second.outcome, EW_OUTCOME_NONE);
	EXPECT_EQ(second.returned, -1);
	EXPECT(!first.done);
	sem_post(&gate->go);
	EXPECT_EQ(ew_scope_join(&all), 0);
	EXPECT_EQ(first.returned, 42);
	/* The thread has had every chance by now. */
	sem_post(&gate->go);
	EXPECT_EQ(ask_task(&first), 0);
	EXPECT_EQ(second_gate.calls, 0);
	return 0;
}

TEST(offload_cancelled_while_it_waits_for_a_thread_is_not_started)
{
	struct gate gate;

	gate_make(&gate);
	EXPECT_EQ(run_with_threads(1, cancel_waiting, &gate), 0);
	EXPECT_EQ(gate.calls, 2);
}

static int cancel_running(void *argument)
{
	struct gate *gate = argument;
	struct asking asking = { .gate = gate };
	EW_SCOPE(all);

	{
		EW_SCOPE(scope, .budget_ns = EW_MILLISECOND);
		EXPECT_EQ(ew_spawn(&scope, ask_task, &asking), 0);
		take_turns(1);
		sem_await(&gate->begun);
		ew_scope_cancel(&scope, EW_REASON_REQUESTED);
		sem_post(&gate->go);
		EXPECT(!asking.done);
		EXPECT_EQ(ew_scope_join(&scope), 0);
	}
	EXPECT_EQ(asking.result, 0);
	EXPECT_EQ(asking.returned, 42);
	EXPECT_EQ(asking.outcome, EW_OUTCOME_DONE);
	EXPECT_EQ(asking.next, -ECANCELED);
	return 0;
}

TEST(offload_cancelled_while_it_runs_is_waited_for)
{
	struct gate gate;

	gate_make(&gate);
	EXPECT_EQ(run_with_threads(1, cancel_running, &gate), 0);
	EXPECT_EQ(gate.calls, 1);
}

/* ---- many, cancelled at random ---- */

struct once {
	unsigned calls;
	bool refused;
};

static int once_call(void *argument)
{
	struct once *once = argument;

	once->calls++;
	return 7;
}

static int once_task(void *argument)
{
	struct once *once = argument;
	int returned = 0, r = ew_offload(once_call, once, &returned);

	EXPECT(r == 0 || r == -ECANCELED);
	EXPECT_EQ(returned, r == 0 ? 7 : 0);
	once->refused = r < 0;
	return 0;
}

#define ONCE_COUNT 40

static int call_many(void *argument)
{
	unsigned round, i, calls = 0, refused = 0;

	(void)argument;
	for (round = 0; round < 500; round++) {
		struct once once[ONCE_COUNT] = { { 0 } };
		{
			EW_SCOPE(scope);
			for (i = 0; i < ONCE_COUNT; i++)
				EXPECT_EQ(ew_spawn(&scope, once_task, &once[i]), 0);
			take_turns(chance(4));
			if (round % 10 == 0)
				TURNS_UNTIL(ew_scope_children_count(&scope) < ONCE_COUNT);
			ew_scope_cancel(&scope, EW_REASON_REQUESTED);
		}
		for (i = 0; i < ONCE_COUNT; i++) {
			EXPECT_EQ(once[i].calls, once[i].refused ? 0 : 1);
			calls += once[i].calls;
			refused += once[i].refused;
		}
	}
	EXPECT(calls > 0 && refused > 0);
	return 0;
}

TEST(offload_cancelled_at_random_is_made_once_or_refused)
{
	chance_begin();
	EXPECT_EQ(run_with_threads(3, call_many, NULL), 0);
}

TEST_MAIN()
