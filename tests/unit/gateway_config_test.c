/* SPDX-License-Identifier: Apache-2.0 */
/* The configuration file: what is taken, and that each mistake is named with its line. */
#include "../ew_test.h"

#include <endwell/base.h>

#include "gateway/config.h"

static struct config config;

static int parse(const char *text, char *error)
{
	error[0] = '\0';
	return config_read_text(&config, "file", text, error);
}

static void expect_refused(const char *text, const char *words)
{
	char error[CONFIG_ERROR_BYTES];

	EXPECT_EQ(parse(text, error), -EINVAL);
	if (!strstr(error, words))
		EXPECT_STR(error, words);
}

TEST(gateway_config_defaults)
{
	char error[CONFIG_ERROR_BYTES];

	EXPECT_EQ(parse("[route a]\nrouting_key = q\n", error), 0);
	EXPECT_EQ(config.count, 1);
	EXPECT_STR(config.routes[0].name, "a");
	EXPECT_STR(config.routes[0].exchange, "");
	EXPECT_STR(config.routes[0].routing_key, "q");
	EXPECT_EQ(config.routes[0].timeout_ns, 30 * EW_SECOND);
	EXPECT_EQ(config.routes[0].cancel_deadline_ns, 5 * EW_SECOND);
	EXPECT_EQ(config.routes[0].presumed_hold_ns, 60 * EW_SECOND);
	EXPECT_EQ(config.routes[0].concurrency, 100);
	EXPECT_EQ(config.routes[0].waiting_room, 100);
	EXPECT_EQ(config.routes[0].body_max_bytes, 1 << 20);
	EXPECT(!config.routes[0].transient);
	EXPECT(!config.routes[0].grant_none);
}

TEST(gateway_config_takes_every_key)
{
	char error[CONFIG_ERROR_BYTES];

	EXPECT_EQ(parse("; a comment\n"
			"[route a]\n"
			"exchange = x\n"
			"routing_key = k\n"
			"timeout = 500ms\n"
			"cancel_deadline = 2m\n"
			"presumed_hold = 1h\n"
			"concurrency = 7\n"
			"waiting_room = 0\n"
			"body_max = 1000\n"
			"bodies = /srv/bodies/\n"
			"inline_body = 0\n"
			"delivery_mode = transient\n"
			"grant = none\n"
			"half_close = finish\n"
			"replies = queue\n"
			"events_window = 2000\n"
			"events_keep_alive = 3s\n"
			"[route b]\n"
			"routing_key = k\n",
			error),
		  0);
	EXPECT_EQ(config.count, 2);
	EXPECT_STR(config.routes[0].exchange, "x");
	EXPECT_EQ(config.routes[0].timeout_ns, 500 * EW_MILLISECOND);
	EXPECT_EQ(config.routes[0].cancel_deadline_ns, 120 * EW_SECOND);
	EXPECT_EQ(config.routes[0].presumed_hold_ns, 3600 * EW_SECOND);
	EXPECT_EQ(config.routes[0].concurrency, 7);
	EXPECT_EQ(config.routes[0].waiting_room, 0);
	EXPECT_EQ(config.routes[0].body_max_bytes, 1000);
	EXPECT_STR(config.routes[0].bodies, "/srv/bodies");
	EXPECT_EQ(config.routes[0].inline_body_bytes, 0);
	EXPECT(config.routes[0].transient);
	EXPECT(config.routes[0].grant_none);
	EXPECT(config.routes[0].half_close_finish);
	EXPECT(!config.routes[1].half_close_finish);
	EXPECT(config.routes[0].reply_queue);
	EXPECT(!config.routes[1].reply_queue);
	EXPECT_EQ(config.routes[0].events_window_bytes, 2000);
	EXPECT_EQ(config.routes[0].events_keep_alive_ns, 3 * EW_SECOND);
	EXPECT_EQ(config.routes[1].events_window_bytes, 1 << 20);
	EXPECT_EQ(config.routes[1].events_keep_alive_ns, 15 * EW_SECOND);
	EXPECT(!config.routes[1].transient);
}

TEST(gateway_config_names_line_and_mistake)
{
	expect_refused("", "no [route NAME]");
	expect_refused("[route a]\nexchange = x\n", "[route a] needs a routing_key");
	expect_refused("[route a]\nrouting_key =\n", "file:2: routing_key: is empty");
	expect_refused("[route a]\nrouting_key = q\nspeed = 3\n", "file:3: speed: is not a key");
	expect_refused("[other]\nspeed = 3\n", "file:2: [other] is not a section");
	expect_refused("[route a/b]\nrouting_key = q\n", "file:2: [route a/b]");
	expect_refused("[route ]\nrouting_key = q\n", "file:2: [route ");
	expect_refused("[route a]\nrouting_key = q\nrouting_key = p\n",
		       "file:3: routing_key: given twice");
	expect_refused("[route a]\ntimeout = 30\n", "file:2: timeout: `30` is not a time");
	expect_refused("[route a]\ntimeout = 0s\n", "file:2: timeout: 0s is outside");
	expect_refused("[route a]\ntimeout = 25h\n", "file:2: timeout: 25h is outside");
	expect_refused("[route a]\nconcurrency = 0\n", "file:2: concurrency: 0 is outside");
	expect_refused("[route a]\nconcurrency = -1\n", "file:2: concurrency: `-1`");
	expect_refused("[route a]\ngrant = maybe\n", "neither required nor none");
	expect_refused("[route a]\n[route b]\nrouting_key = q\n", "file:1: [route a] has no keys");
	expect_refused("[route b]\nrouting_key = q\n\n[route a]\n# none\n",
		       "file:4: [route a] has no keys");
	expect_refused("[route b]\nrouting_key = q\n[other]\n", "file:3: [other] has no keys");
	expect_refused("[route a]\nnonsense\n",
		       "file:2: is neither [route NAME], [tenant NAME] nor KEY = VALUE");
}

/* What is wrong with a later line is not said of an earlier one that inih itself refuses. */
TEST(gateway_config_tells_the_first_mistake)
{
	expect_refused("[route a]\nnonsense\nspeed = 3\n", "file:2: is neither");
	expect_refused("[route a]\nspeed = 3\nnonsense\n", "file:2: speed: is not a key");
	expect_refused("[route b]\n[route a]\nspeed = 3\nnonsense\n", "file:1: [route b] has no");
	expect_refused("[route a]\nspeed = 3\n[route b]\n", "file:2: speed: is not a key");
}

TEST(gateway_config_bounds_the_sum_of_permits)
{
	expect_refused("[route a]\nrouting_key = q\nconcurrency = 9999\n"
		       "[route b]\nrouting_key = q\nconcurrency = 2\n",
		       "concurrency of all routes is 10001");
}

TEST(gateway_config_names_mistakes_about_bodies)
{
	char error[CONFIG_ERROR_BYTES];

	expect_refused("[route a]\nbodies = srv\n", "file:2: bodies: `srv` is not a path from /");
	expect_refused("[route a]\nrouting_key = q\ninline_body = 1\n",
		       "[route a] has inline_body, and no bodies");
	expect_refused("[route a]\nrouting_key = q\nbody_max = 16777217\n",
		       "[route a]: a body_max of more than 16777216 needs bodies");
	EXPECT_EQ(
		parse("[route a]\nrouting_key = q\nbody_max = 1099511627776\nbodies = /b\n", error),
		0);
	EXPECT_EQ(config.routes[0].inline_body_bytes, 65536);
}

TEST(gateway_config_gives_a_tenant_half_of_a_route)
{
	char error[CONFIG_ERROR_BYTES];

	EXPECT_EQ(parse("[route a]\nrouting_key = q\nconcurrency = 5\nwaiting_room = 9\n"
			"tenant_header = X-Tenant\n"
			"[route b]\nrouting_key = q\ntenant_header = X-Tenant\n"
			"tenant_concurrency = 3\ntenant_waiting_room = 0\n"
			"[tenant acme]\nconcurrency = 7\n",
			error),
		  0);
	EXPECT_STR(config.routes[0].tenant_header, "X-Tenant");
	EXPECT_EQ(config.routes[0].tenant_concurrency, 3);
	EXPECT_EQ(config.routes[0].tenant_waiting_room, 4);
	EXPECT_EQ(config.routes[1].tenant_concurrency, 3);
	EXPECT_EQ(config.routes[1].tenant_waiting_room, 0);
	EXPECT_EQ(config.tenants_count, 1);
	EXPECT_STR(config.tenants[0].name, "acme");
	EXPECT_EQ(config.tenants[0].concurrency, 7);
	EXPECT_EQ(config.tenants[0].waiting_room, CONFIG_NOT_GIVEN);
}

TEST(gateway_config_names_mistakes_about_tenants)
{
	expect_refused("[route a]\nrouting_key = q\ntenant_header = X Y\n",
		       "file:3: tenant_header: `X Y` is not the name of a header");
	expect_refused("[route a]\nrouting_key = q\ntenant_header =\n", "a header's name has 1 to");
	expect_refused("[route a]\nrouting_key = q\ntenant_concurrency = 2\n",
		       "file: [route a] has limits for tenants and no tenant_header");
	expect_refused("[route a]\nrouting_key = q\nconcurrency = 2\ntenant_header = T\n"
		       "tenant_concurrency = 3\n",
		       "file: [route a]: tenant_concurrency is larger than concurrency");
	expect_refused("[route a]\nrouting_key = q\nwaiting_room = 2\ntenant_header = T\n"
		       "tenant_waiting_room = 3\n",
		       "file: [route a]: tenant_waiting_room is larger than waiting_room");
	expect_refused("[route a]\nrouting_key = q\n[tenant x]\nconcurrency = 1\n",
		       "file: there is [tenant x], and no route has a tenant_header");
	expect_refused("[tenant x/y]\nconcurrency = 1\n", "file:2: [tenant x/y]");
	expect_refused("[tenant others]\nconcurrency = 1\n", "is the word for those");
	expect_refused("[tenant x]\nrouting_key = q\n",
		       "file:2: routing_key: is not a key of a tenant");
	expect_refused("[tenant x]\nconcurrency = 1\nconcurrency = 1\n",
		       "file:3: concurrency: given twice for this tenant");
	expect_refused("[tenant x]\n[route a]\nrouting_key = q\n",
		       "file:1: [tenant x] has no keys");
}

TEST_MAIN()
