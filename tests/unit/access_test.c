/* SPDX-License-Identifier: Apache-2.0 */
/* Host and origin: programs and the own page come in, foreign pages and rebound names do not. */
#include "../ew_test.h"

#include "common/access.h"

static const char *const hosts[] = { "files.home.arpa" };
static const char *const origins[] = { "https://app.example.org" };
static const struct access loopback = {
	.hosts_checked = true,
	.hosts = hosts,
	.hosts_count = 1,
	.origins = origins,
	.origins_count = 1,
	.exposed = "Location",
};

TEST(access_loopback_hosts_are_known)
{
	static const char *const known[] = {
		"127.0.0.1",	      "127.0.0.1:8080", "127.8.9.1:1", "localhost",
		"LOCALHOST:8080",     "[::1]",		"[::1]:8080",  "files.home.arpa",
		"Files.Home.Arpa:99", "localhost:",
	};

	for (size_t i = 0; i < sizeof(known) / sizeof(known[0]); i++)
		if (!access_host_known(&loopback, known[i]))
			EXPECT_STR(known[i], "known");
}

TEST(access_foreign_hosts_are_not)
{
	static const char *const unknown[] = {
		"",
		"evil.example",
		"evil.example:8080",
		"127.0.0.1.evil.example",
		"localhost.evil.example",
		"128.0.0.1",
		"0.0.0.0",
		"[::2]",
		"[::1",
		"[]",
		"::1",
		"localhost:80x",
		"localhost:80:90",
		"[::1]x",
		"2130706433",
		"127.1",
		":8080",
		"files.home.arpa.",
	};

	for (size_t i = 0; i < sizeof(unknown) / sizeof(unknown[0]); i++)
		if (access_host_known(&loopback, unknown[i]))
			EXPECT_STR(unknown[i], "unknown");
}

TEST(access_any_host_is_known_on_a_public_listener)
{
	struct access public = { .hosts_checked = false };

	EXPECT(access_host_known(&public, "anything.example"));
}

TEST(access_programs_and_the_own_page_pass)
{
	EXPECT(access_origin_allowed(&loopback, "127.0.0.1:8080", NULL, NULL));
	EXPECT(access_origin_allowed(&loopback, "127.0.0.1:8080", NULL, "none"));
	EXPECT(access_origin_allowed(&loopback, "127.0.0.1:8080", NULL, "same-origin"));
	EXPECT(access_origin_allowed(&loopback, "127.0.0.1:8080", "http://127.0.0.1:8080",
				     "same-origin"));
	EXPECT(access_origin_allowed(&loopback, "127.0.0.1:8080", "https://app.example.org",
				     "cross-site"));
}

TEST(access_foreign_pages_do_not)
{
	EXPECT(!access_origin_allowed(&loopback, "127.0.0.1:8080", "https://evil.example", NULL));
	EXPECT(!access_origin_allowed(&loopback, "127.0.0.1:8080", "null", NULL));
	EXPECT(!access_origin_allowed(&loopback, "127.0.0.1:8080", "", NULL));
	EXPECT(!access_origin_allowed(&loopback, "127.0.0.1:8080", "http://127.0.0.1:8081",
				      "same-site"));
	EXPECT(!access_origin_allowed(&loopback, "127.0.0.1:8080",
				      "https://app.example.org.evil.example", NULL));
	EXPECT(!access_origin_allowed(&loopback, "127.0.0.1:8080", NULL, "cross-site"));
	EXPECT(!access_origin_allowed(&loopback, "127.0.0.1:8080", NULL, "same-site"));
	EXPECT(!access_origin_allowed(&loopback, "127.0.0.1:8080", NULL, ""));
}

TEST_MAIN()
