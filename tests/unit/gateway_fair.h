/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* The gateway's world in fair weather, where nothing goes wrong but what a test wants. */

#include "gateway_world.h"

static enum mood first_mood; /* of the first operation */

static enum mood judge_first(struct peer *peer, const struct ew_amqp_message *message)
{
	note_message(peer, message);
	if (strcmp(message->type ? message->type : "", "op") == 0 && world.notes_count == 1 &&
	    world.notes[0].publications == 1)
		return first_mood;
	return MOOD_TAKE;
}

static bool has_failed; /* the gateway, as the test wants */

static int with_gateway(int (*ask)(void))
{
	int r;

	EW_GUARD(gateway, &world, .close = free_gateway_close, .abort = free_gateway);
	EW_SCOPE(serving, .policy = EW_POLICY_INDEPENDENT);

	r = start_gateway(&serving);
	EXPECT_EQ(r, 0);
	r = ew_sleep(3 * EW_SECOND);
	EXPECT_EQ(r, 0);
	EXPECT_EQ(ask(), 0);
	front_stop(&world.gateway->front);
	r = ew_scope_finish(&serving, 0);
	EXPECT_EQ(r, 0);
	return has_failed ? 0 : world.served;
}

static int fair(void *argument)
{
	int (*const *ask)(void) = argument;
	int r;

	EW_GUARD(listener, &world, .close = close_broker_close, .abort = close_broker);
	EW_SCOPE(peers);
	EW_GUARD(stop, &world, .close = stop_peers_close, .abort = stop_peers);

	world.broker.judge = judge_first;
	r = start_peers(&peers);
	EXPECT_EQ(r, 0);
	r = with_gateway(*ask);
	EXPECT_EQ(r, 0);
	stop_peers(NULL);
	return ew_scope_finish(&peers, 0);
}

/* A disk of its own, if bodies go there. */
static void run_fair(const char *more, enum mood mood, int (*ask)(void))
{
	struct ew_sim_options options = { .report = hush };

	world_prepare(more);
	first_mood = mood;
	has_failed = false;
	if (has_bodies())
		EXPECT_EQ(ew_sim_filesystem_new(NULL, &options.filesystem), 0);
	EXPECT_EQ(ew_sim_run(&options, fair, &ask, NULL), 0);
	ew_sim_filesystem_free(options.filesystem);
}

static int ask_in_background(void *exchange)
{
	return converse(exchange);
}

static void expect_answer(const char *body)
{
	struct exchange exchange;
	int r;

	say_post(&exchange, body, "");
	r = converse(&exchange);
	EXPECT_EQ(r, 0);
	EXPECT_EQ(exchange.status, 200);
	EXPECT_STR(exchange.body, body);
}
