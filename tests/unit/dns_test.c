/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Lookups of names, at a name server of the test's own: what it says, what it does not say, and cancels.
 */

#include "name_server.h"

#define ADDRESSES_MAX 64

static struct name_server server;
static struct ew_dns_address addresses[ADDRESSES_MAX];

static int look_up(const char *name, int family)
{
	const struct ew_dns_options options = {
		.family = family,
		.servers = server.address,
		.timeout_ns = 50 * EW_MILLISECOND * ew_test_scale(),
		.tries = 2,
	};

	return ew_dns_lookup(name, "443", &options, addresses, ADDRESSES_MAX);
}

static const char *text_of(const struct ew_dns_address *address)
{
	static char text[INET6_ADDRSTRLEN];

	if (address->any.sa_family == AF_INET) {
		EXPECT_EQ(address->bytes, sizeof(address->v4));
		EXPECT_EQ(ntohs(address->v4.sin_port), 443);
		return inet_ntop(AF_INET, &address->v4.sin_addr, text, sizeof(text));
	}
	EXPECT_EQ(address->any.sa_family, AF_INET6);
	EXPECT_EQ(address->bytes, sizeof(address->v6));
	EXPECT_EQ(ntohs(address->v6.sin6_port), 443);
	return inet_ntop(AF_INET6, &address->v6.sin6_addr, text, sizeof(text));
}

static bool found(int count, const char *text)
{
	for (int i = 0; i < count; i++)
		if (!strcmp(text_of(&addresses[i]), text))
			return true;
	return false;
}

/* Runs a task beside a name server, and expects the descriptors to be those of before. */
static void with_name_server(ew_task_fn *fn)
{
	struct descriptors before;

	name_server_start(&server);
	before = descriptors_now();
	EXPECT_EQ(run_workers(1, fn, NULL), 0);
	expect_same_descriptors(&before);
	name_server_stop(&server);
}

/* ---- answers ---- */

static int look_up_good(void *argument)
{
	(void)argument;
	EXPECT_EQ(look_up("good.test", AF_INET), 2);
	EXPECT(found(2, "192.0.2.1"));
	EXPECT(found(2, "192.0.2.2"));
	EXPECT_EQ(look_up("good.test", AF_INET6), 1);
	EXPECT(found(1, "2001:db8::1"));
	EXPECT_EQ(look_up("good.test", 0), 3);
	EXPECT(found(3, "192.0.2.1"));
	EXPECT(found(3, "192.0.2.2"));
	EXPECT(found(3, "2001:db8::1"));
	EXPECT_EQ(look_up("four.test", 0), 1);
	EXPECT(found(1, "192.0.2.1"));
	EXPECT_EQ(look_up("four.test", AF_INET6), -ENOENT);
	return 0;
}

TEST(dns_gives_the_addresses_of_a_name)
{
	with_name_server(look_up_good);
}

static int look_up_missing(void *argument)
{
	(void)argument;
	EXPECT_EQ(look_up("missing.test", 0), -ENOENT);
	EXPECT_EQ(look_up("alias.test", 0), -ENOENT);
	EXPECT_EQ(look_up("refused.test", 0), -ECONNREFUSED);
	return 0;
}

TEST(dns_says_that_there_is_no_such_name)
{
	with_name_server(look_up_missing);
}

static int look_up_large(void *argument)
{
	const struct ew_dns_options options = { .family = AF_INET, .servers = server.address };

	(void)argument;
	EXPECT_EQ(look_up("large.test", AF_INET), NAME_SERVER_ADDRESSES);
	EXPECT(found(NAME_SERVER_ADDRESSES, "192.0.2.40"));
	EXPECT_EQ(server.udp_questions, 1);
	EXPECT_EQ(server.tcp_questions, 1);
	memset(addresses, 0, sizeof(addresses));
	EXPECT_EQ(ew_dns_lookup("large.test", "443", &options, addresses, 3), 3);
	EXPECT_EQ(addresses[3].bytes, 0);
	return 0;
}

/* Of more addresses than there is room for the first ones are given, and nothing is written beyond it. */
TEST(dns_answer_that_was_cut_is_asked_for_by_tcp)
{
	with_name_server(look_up_large);
}

static int look_up_again(void *argument)
{
	(void)argument;
	EXPECT_EQ(look_up("again.test", AF_INET), 2);
	EXPECT_EQ(server.udp_questions, 2);
	EXPECT_EQ(look_up("silent.test", AF_INET), -ETIMEDOUT);
	EXPECT_EQ(server.udp_questions, 4);
	return 0;
}

TEST(dns_server_that_is_silent_is_asked_again_and_given_up)
{
	with_name_server(look_up_again);
}

static int look_up_garbage(void *argument)
{
	(void)argument;
	EXPECT_EQ(look_up("broken.test", AF_INET), -EBADMSG);
	EXPECT_EQ(look_up("foreign.test", AF_INET), 2);
	return 0;
}

TEST(dns_answer_that_is_none_is_an_error_and_one_to_another_question_is_not_heard)
{
	with_name_server(look_up_garbage);
}

static int look_up_nobody(void *argument)
{
	(void)argument;
	name_server_stop(&server);
	EXPECT_EQ(look_up("good.test", AF_INET), -ECONNREFUSED);
	name_server_start(&server);
	return 0;
}

TEST(dns_server_that_is_not_there_is_refused)
{
	name_server_start(&server);
	EXPECT_EQ(run_workers(1, look_up_nobody, NULL), 0);
	name_server_stop(&server);
}

/* ---- without a server ---- */

static int look_up_numbers(void *argument)
{
	(void)argument;
	EXPECT_EQ(look_up("127.0.0.1", 0), 1);
	EXPECT_STR(text_of(&addresses[0]), "127.0.0.1");
	EXPECT_EQ(look_up("2001:db8::7", 0), 1);
	EXPECT_STR(text_of(&addresses[0]), "2001:db8::7");
	EXPECT_EQ(look_up("127.0.0.1", AF_INET6), -ENOENT);
	EXPECT_EQ(look_up("2001:db8::7", AF_INET), -ENOENT);
	EXPECT(look_up("localhost", 0) > 0);
	EXPECT_EQ(look_up("localhost", AF_INET), 1);
	EXPECT_STR(text_of(&addresses[0]), "127.0.0.1");
	EXPECT_EQ(server.udp_questions, 0);
	return 0;
}

TEST(dns_does_not_ask_for_numbers_nor_for_this_host)
{
	with_name_server(look_up_numbers);
}

/* A name of an IPv4 line that is not localhost. */
static bool name_in_hosts(char *ret_address, char *ret_name)
{
	FILE *hosts = fopen("/etc/hosts", "re");
	char line[256];
	bool found_it = false;

	while (hosts && !found_it && fgets(line, sizeof(line), hosts))
		found_it = sscanf(line, "%15[0-9.] %63s", ret_address, ret_name) == 2 &&
			   !strstr(ret_name, "localhost");
	if (hosts)
		fclose(hosts);
	return found_it;
}

static int look_up_in_hosts(void *argument)
{
	char address[16], name[64];

	(void)argument;
	EXPECT(name_in_hosts(address, name));
	EXPECT(found(look_up(name, AF_INET), address));
	EXPECT_EQ(server.udp_questions, 0);
	return 0;
}

TEST(dns_looks_into_hosts_first)
{
	char address[16], name[64];

	if (!name_in_hosts(address, name))
		SKIP("/etc/hosts has no name but localhost");
	with_name_server(look_up_in_hosts);
}

static int look_up_nonsense(void *argument)
{
	char long_name[400];
	struct ew_dns_options options = { .servers = server.address };

	(void)argument;
	memset(long_name, 'x', sizeof(long_name));
	long_name[sizeof(long_name) - 1] = '\0';
	EXPECT_EQ(look_up("", 0), -EINVAL);
	EXPECT_EQ(look_up(long_name, 0), -EINVAL);
	EXPECT_EQ(ew_dns_lookup("127.0.0.1", "65536", &options, addresses, 1), -EINVAL);
	EXPECT_EQ(ew_dns_lookup("127.0.0.1", "4294967376", &options, addresses, 1), -EINVAL);
	EXPECT_EQ(ew_dns_lookup("127.0.0.1", "no such service", &options, addresses, 1), -EINVAL);
	EXPECT_EQ(ew_dns_lookup("127.0.0.1", "http", &options, addresses, 1), 1);
	EXPECT_EQ(ntohs(addresses[0].v4.sin_port), 80);
	options.servers = "not an address";
	EXPECT_EQ(ew_dns_lookup("good.test", NULL, &options, addresses, 1), -EINVAL);
	options = (struct ew_dns_options){ .tries = 17 };
	EXPECT_EQ(ew_dns_lookup("good.test", NULL, &options, addresses, 1), -EINVAL);
	options = (struct ew_dns_options){ .timeout_ns = 61 * EW_SECOND };
	EXPECT_EQ(ew_dns_lookup("good.test", NULL, &options, addresses, 1), -EINVAL);
	EXPECT_EQ(server.udp_questions, 0);
	options = (struct ew_dns_options){ .servers = server.address, .family = AF_UNIX };
	EXPECT_EQ(ew_dns_lookup("good.test", NULL, &options, addresses, 1), -EINVAL);
	return 0;
}

TEST(dns_refuses_what_cannot_be)
{
	with_name_server(look_up_nonsense);
}

/* ---- cancels ---- */

static int look_up_for_ever(void *argument)
{
	const struct ew_dns_options options = { .servers = server.address,
						.timeout_ns = 60 * EW_SECOND };

	(void)argument;
	return ew_dns_lookup("silent.test", "443", &options, addresses, ADDRESSES_MAX);
}

static int cancel_lookups(void *argument)
{
	struct ew_child children[20] = { 0 };

	(void)argument;
	{
		EW_SCOPE(scope, .policy = EW_POLICY_INDEPENDENT);
		for (unsigned i = 0; i < 20; i++)
			EXPECT_EQ(ew_spawn(&scope, look_up_for_ever, NULL, .child = &children[i]),
				  0);
		TURNS_UNTIL(server.udp_questions >= 40);
		EXPECT_EQ(look_up("good.test", AF_INET), 2); /* the others are not in its way */
		ew_scope_cancel(&scope, EW_REASON_REQUESTED);
		(void)!ew_scope_join(&scope);
	}
	for (unsigned i = 0; i < 20; i++)
		EXPECT_EQ(children[i].result, -ECANCELED);
	{
		EW_SCOPE(patience, .deadline_ns = ew_after(30 * EW_MILLISECOND));
		EXPECT_EQ(ew_scope_finish(&patience, look_up_for_ever(NULL)), -ETIMEDOUT);
	}
	return 0;
}

TEST(dns_lookups_that_are_cancelled_end_and_leave_no_socket)
{
	with_name_server(cancel_lookups);
}

TEST_MAIN()
