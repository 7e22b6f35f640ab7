/* SPDX-License-Identifier: Apache-2.0 */
/* The front of a server, when a task that it needs is lost. */
#include "io.h"

#include "common/front.h"
#include "common/log.h"

#include <endwell/scope.h>

/* Who counts branches reads, too, what others have counted, and begins anew if it cannot. */
#ifdef EW_COUNTED
#define COUNTED 1
#else
#define COUNTED 0
#endif

static int nothing_to_do(void *unused)
{
	(void)unused;
	return 0;
}

static struct front front;

static int (*needed)(void *argument);
static bool signals_break;

static int end_with_a_cancel_of_its_own(void *unused)
{
	(void)unused;
	return -ECANCELED;
}

static int end_when_cancelled(void *unused)
{
	struct ew_event never = { 0 };

	(void)unused;
	return ew_event_wait(&never, EW_NEVER);
}

static int stop_it(void *unused)
{
	(void)unused;
	front_stop(&front);
	return 0;
}

static int heed(struct ew_scope *scope, struct ew_signals **ret_signals)
{
	sigset_t set;

	sigemptyset(&set);
	sigaddset(&set, SIGTERM);
	EXPECT_EQ(ew_signals_open(&set, ret_signals), 0);
	if (signals_break)
		refuse_call(SYS_read, ENOMEM);
	return front_heed_signals(&front, *ret_signals, scope);
}

static int serve(void *unused)
{
	struct front_needed task = { .name = "the one of the test",
				     .run = needed,
				     .argument = NULL };
	struct sockaddr_in any = loopback(0);
	EW_OWN(ew_signals, signals);
	EW_SCOPE(services, .policy = EW_POLICY_INDEPENDENT);
	int r, closed;

	(void)unused;
	front = (struct front){ .program = "front_test",
				.listen = "loopback",
				.address_bytes = sizeof(any),
				.connections = ew_semaphore_new(1, 1) };
	memcpy(&front.address, &any, sizeof(any));
	EXPECT_EQ(front_open(&front), 0);
	if (needed)
		EXPECT_EQ(front_spawn_needed(&front, &task, &services), 0);
	else
		EXPECT_EQ(heed(&services, &signals), 0);
	r = front_run(&front,
		      needed == end_when_cancelled || (!needed && !signals_break) ? stop_it
										  : nothing_to_do,
		      nothing_to_do, NULL);
	closed = ew_scope_close(&services, EW_NOW, EW_REASON_SHUTDOWN);
	EXPECT(closed == 0 || closed == -ETIMEDOUT);
	front_close(&front);
	ew_semaphore_free(front.connections);
	return r;
}

static int run_front(void)
{
	struct ew_run_options options = { .workers_count = 1 };
	sigset_t signals;
	int r;

	sigemptyset(&signals);
	sigaddset(&signals, SIGTERM);
	options.signals = &signals;
	EXPECT_EQ(log_start(), 0);
	r = ew_run(&options, serve, NULL);
	log_stop(ew_after(60 * EW_SECOND));
	return r;
}

TEST(front_ends_when_a_task_that_it_needs_says_that_it_was_cancelled_and_was_not)
{
	needed = end_with_a_cancel_of_its_own;
	EXPECT_EQ(run_front(), -ENOTRECOVERABLE);
	needed = end_when_cancelled;
	EXPECT_EQ(run_front(), 0);
}

TEST(front_ends_when_nobody_heeds_signals_any_more)
{
	if (SANITIZED || RUNNING_ON_VALGRIND || COUNTED)
		SKIP("what watches the program reads, too");
	needed = NULL;
	EXPECT_EQ(run_front(), 0);
	signals_break = true;
	EXPECT_EQ(run_front(), -ENOTRECOVERABLE);
}

TEST_MAIN()
