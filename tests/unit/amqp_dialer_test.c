/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Who calls several brokers, in which order and how often: with virtual time where nobody answers, since then nothing waits
 * for the kernel.
 */

#include "amqp_broker.h"

#include "amqp/dialer.h"

#include <sys/un.h>

static struct sockaddr_un nobody = { .sun_family = AF_UNIX, .sun_path = "/nowhere/nobody" };
static struct sockaddr_un somebody = { .sun_family = AF_UNIX };

static const struct ew_amqp_endpoint endpoints[] = {
	{ .address = (struct sockaddr *)&nobody, .address_bytes = sizeof(nobody) },
	{ .address = (struct sockaddr *)&somebody, .address_bytes = sizeof(somebody) },
};

static int64_t dial_nobody(struct ew_amqp_dialer *dialer, struct ew_scope *scope)
{
	struct ew_amqp_error error = {};
	int64_t began_ns = ew_now();
	int r;

	EW_OWN(ew_amqp_connection, connection);

	r = ew_amqp_dial(dialer, scope, &error, &connection);
	EXPECT_EQ(r, -ENOENT);
	EXPECT_EQ(error.error, -ENOENT);
	EXPECT_STR(error.text, "No such file or directory");
	return ew_now() - began_ns;
}

static int meet_nobody(void *argument)
{
	struct ew_amqp_dialer dialer = { .endpoints = endpoints, .endpoints_count = 2 };
	int64_t delay_ns = 100 * EW_MILLISECOND, waited_ns;

	EW_SCOPE(scope);

	(void)argument;
	/* In a round one after the other; before the next round the delay, which grows to its bound. */
	for (int round = 0; round < 12; round++) {
		waited_ns = dial_nobody(&dialer, &scope);
		if (round == 0)
			EXPECT_EQ(waited_ns, 0);
		else
			EXPECT(waited_ns >= delay_ns / 2 &&
			       waited_ns <= delay_ns + 2 * EW_MILLISECOND);
		if (round > 0)
			delay_ns = delay_ns < 5 * EW_SECOND ? 2 * delay_ns : 10 * EW_SECOND;
		EXPECT_EQ(dial_nobody(&dialer, &scope), 0);
	}
	EXPECT_EQ(delay_ns, 10 * EW_SECOND);
	return 0;
}

TEST(amqp_brokers_that_do_not_answer_are_called_less_and_less_often)
{
	const struct ew_run_options options = { .workers_count = 1, .virtual_time = true };

	strcpy(somebody.sun_path, "/nowhere/somebody");
	EXPECT_EQ(ew_run(&options, meet_nobody, NULL), 0);
}

/* ---- a broker that is there ---- */

static struct broker broker;

static int listen_task(void *argument, void *place)
{
	struct ew_listener **listener = place;
	int r;

	(void)argument;
	for (;;) {
		EW_OWN(ew_socket, socket);
		EW_SCOPE(scope);

		r = ew_listener_accept(*listener, &socket);
		if (r < 0)
			return r == -ECANCELED ? 0 : r;
		broker_init(&broker);
		r = ew_spawn_take(&scope, broker_task, &broker, &socket);
		if (r == 0)
			r = ew_scope_join(&scope);
		if (r < 0)
			return r;
	}
}

static int meet_somebody(void *argument)
{
	struct ew_amqp_dialer dialer = { .endpoints = endpoints,
					 .endpoints_count = 2,
					 .delay_min_ns = EW_MILLISECOND,
					 .delay_max_ns = 2 * EW_MILLISECOND };
	struct ew_amqp_error error;
	int r;

	EW_OWN(ew_listener, listener);
	EW_SCOPE(scope);
	EW_OWN(ew_amqp_connection, connection);

	(void)argument;
	r = ew_listener_open((struct sockaddr *)&somebody, sizeof(somebody), 8, &listener);
	EXPECT_EQ(r, 0);
	EXPECT_EQ(ew_spawn_take(&scope, listen_task, NULL, &listener), 0);
	r = ew_amqp_dial(&dialer, &scope, &error, &connection);
	EXPECT_EQ(r, -ENOENT);
	r = ew_amqp_dial(&dialer, &scope, &error, &connection);
	EXPECT_EQ(r, 0);
	/* It has lasted: the same one again, and at once. */
	EXPECT_EQ(ew_sleep(4 * EW_MILLISECOND), 0);
	EXPECT_EQ(ew_amqp_connection_close(&connection), 0);
	r = ew_amqp_dial(&dialer, &scope, &error, &connection);
	EXPECT_EQ(r, 0);
	EXPECT_EQ(dialer.failures, 0);
	EXPECT_EQ(ew_amqp_connection_close(&connection), 0);
	/* It has not: the turn goes to the other one. */
	dialer.delay_max_ns = 3600 * EW_SECOND;
	r = ew_amqp_dial(&dialer, &scope, &error, &connection);
	EXPECT_EQ(r, -ENOENT);
	r = ew_scope_close(&scope, EW_NOW, EW_REASON_REQUESTED);
	EXPECT(r == 0 || r == -ECANCELED || r == -ETIMEDOUT);
	return 0;
}

/* A folder for the socket of somebody who listens. */
static void run_with_a_place(ew_task_fn *fn)
{
	const struct ew_run_options options = { .workers_count = 1 };
	char folder[] = "/tmp/endwell-dialer-XXXXXX";

	EXPECT(mkdtemp(folder));
	snprintf(somebody.sun_path, sizeof(somebody.sun_path), "%s/broker", folder);
	EXPECT_EQ(ew_run(&options, fn, NULL), 0);
	unlink(somebody.sun_path);
	EXPECT_EQ(rmdir(folder), 0);
}

TEST(amqp_broker_that_lasts_is_called_again_first)
{
	run_with_a_place(meet_somebody);
}

/* ---- one that takes the call and says nothing ---- */

static int meet_silence(void *argument)
{
	struct ew_amqp_dialer dialer = { .endpoints = &endpoints[1],
					 .endpoints_count = 1,
					 .attempt_timeout_ns = 20 * EW_MILLISECOND };
	struct ew_amqp_error error;
	int r;

	EW_OWN(ew_listener, listener);
	EW_SCOPE(scope);
	EW_OWN(ew_amqp_connection, connection);

	(void)argument;
	r = ew_listener_open((struct sockaddr *)&somebody, sizeof(somebody), 8, &listener);
	EXPECT_EQ(r, 0);
	r = ew_amqp_dial(&dialer, &scope, &error, &connection);
	EXPECT_EQ(r, -ETIMEDOUT);
	EXPECT_STR(error.text, "the broker did not answer in time");
	ew_scope_cancel(&scope, EW_REASON_REQUESTED);
	r = ew_amqp_dial(&dialer, &scope, &error, &connection);
	EXPECT_EQ(r, -ECANCELED);
	return 0;
}

TEST(amqp_broker_that_says_nothing_is_left_after_an_attempt)
{
	run_with_a_place(meet_silence);
}

TEST_MAIN()
