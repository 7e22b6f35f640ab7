/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Lookups of names, at a name server of the test's own: what it says, what it does not say, and cancels.
 */

#include "io/dns.h"
#include "name_server.h"

#define ADDRESSES_MAX 64

static struct name_server server;
static struct ew_dns_address addresses[ADDRESSES_MAX];

static int look_up_for(const char *name, int family, int64_t timeout_ns)
{
	const struct ew_dns_options options = {
		.family = family,
		.servers = server.address,
		.timeout_ns = timeout_ns,
		.tries = 2,
	};

	return ew_dns_lookup(name, "443", &options, addresses, ADDRESSES_MAX);
}

/* The server is waited for longer than it needs on any day. */
static int look_up(const char *name, int family)
{
	return look_up_for(name, family, 60 * EW_SECOND);
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

	before = descriptors_now();
	name_server_start(&server);
	EXPECT_EQ(run_workers(1, fn, NULL), 0);
	name_server_stop(&server); /* it may have had a connection open until now */
	expect_same_descriptors(&before);
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
	EXPECT_EQ(look_up_for("silent.test", AF_INET, 50 * EW_MILLISECOND), -ETIMEDOUT);
	TURNS_UNTIL(server.udp_questions == 2);
	EXPECT_EQ(look_up_for("again.test", AF_INET, EW_SECOND), 2);
	TURNS_UNTIL(server.udp_questions == 4);
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

/* ---- connecting ---- */

static int connect_to(const char *name, in_port_t port, struct ew_socket **ret_socket)
{
	const struct ew_dns_options options = { .servers = server.address };
	char service[8];

	snprintf(service, sizeof(service), "%d", ntohs(port));
	return ew_dns_connect(name, service, &options, ret_socket);
}

static void expect_peer(const struct ew_socket *socket, const struct sockaddr_in *address)
{
	struct sockaddr_in peer;
	socklen_t bytes = sizeof(peer);

	EXPECT_EQ(getpeername(ew_socket_fd(socket), (struct sockaddr *)&peer, &bytes), 0);
	EXPECT_EQ(peer.sin_addr.s_addr, address->sin_addr.s_addr);
	EXPECT_EQ(peer.sin_port, address->sin_port);
}

/* Nobody listens on these two. */
static void add_closed_hosts(void)
{
	name_server_add_host(&server, htonl(0x7f7f0001));
	name_server_add_host(&server, htonl(0x7f7f0002));
}

static int connect_past_closed(void *argument)
{
	int64_t began_ns = ew_now();
	struct sockaddr_in address;
	int listener = plain_listener(&address);

	(void)argument;
	add_closed_hosts();
	{
		EW_OWN(ew_socket, socket);
		EXPECT_EQ(connect_to("here.test", address.sin_port, &socket), -ECONNREFUSED);
		EXPECT(!socket);
	}
	name_server_add_host(&server, address.sin_addr.s_addr);
	{
		EW_OWN(ew_socket, socket);
		EXPECT_EQ(connect_to("here.test", address.sin_port, &socket), 0);
		expect_peer(socket, &address);
	}
	{
		EW_OWN(ew_socket, socket);
		EXPECT_EQ(connect_to("missing.test", address.sin_port, &socket), -ENOENT);
	}
	EXPECT(ew_now() - began_ns < 250 * EW_MILLISECOND);
	close(listener);
	return 0;
}

/* At once: in virtual time, which goes on only if it waits for time to pass. */
TEST(dns_connect_goes_on_to_the_next_address)
{
	name_server_start(&server);
	EXPECT_EQ(run_virtual(connect_past_closed, NULL), 0);
	EXPECT_EQ(reports.count, 0);
	name_server_stop(&server);
}

/* A listener that never takes a connection, with no room for one more: a connect to it hangs. */
static int full_listener(const struct sockaddr_in *address, int *ret_inside, unsigned count)
{
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

	EXPECT_EQ(bind(fd, (const struct sockaddr *)address, sizeof(*address)), 0);
	EXPECT_EQ(listen(fd, 0), 0);
	for (unsigned i = 0; i < count; i++) {
		ret_inside[i] = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
		(void)!connect(ret_inside[i], (const struct sockaddr *)address, sizeof(*address));
	}
	return fd;
}

static int connect_past_hanging(void *argument)
{
	struct sockaddr_in address, hanging;
	int listener = plain_listener(&address), inside[4], full;
	EW_OWN(ew_socket, socket);

	(void)argument;
	hanging = address;
	hanging.sin_addr.s_addr = htonl(0x7f7f0003);
	full = full_listener(&hanging, inside, 4);
	name_server_add_host(&server, hanging.sin_addr.s_addr);
	{
		EW_SCOPE(patience, .deadline_ns = ew_after(50 * EW_MILLISECOND));
		EXPECT_EQ(ew_scope_finish(&patience,
					  connect_to("here.test", address.sin_port, &socket)),
			  -ETIMEDOUT);
		EXPECT(!socket);
	}
	name_server_add_host(&server, address.sin_addr.s_addr);
	EXPECT_EQ(connect_to("here.test", address.sin_port, &socket), 0);
	expect_peer(socket, &address);
	for (unsigned i = 0; i < 4; i++)
		close(inside[i]);
	close(full);
	close(listener);
	return ew_socket_close(&socket);
}

/* The first address does not answer, so the second is tried beside it; the first attempt leaves no descriptor. */
TEST(dns_connect_does_not_wait_long_for_an_address_that_is_silent)
{
	with_name_server(connect_past_hanging);
}

static int connect_by_families(void *argument)
{
	struct sockaddr_in address;
	int listener = plain_listener(&address);
	EW_OWN(ew_socket, socket);

	(void)argument;
	name_server_set_host6(&server, in6addr_loopback); /* nobody listens there */
	name_server_add_host(&server, address.sin_addr.s_addr);
	EXPECT_EQ(connect_to("here.test", address.sin_port, &socket), 0);
	expect_peer(socket, &address);
	close(listener);
	return ew_socket_close(&socket);
}

TEST(dns_connect_tries_the_other_family)
{
	with_name_server(connect_by_families);
}

/* Which has no tasks for addresses that are tried beside others. */
TEST(dns_connect_on_a_plain_thread_tries_one_after_the_other)
{
	static ew_task_fn *const fns[] = { connect_past_hanging, connect_by_families };
	int i;

	for (i = 0; i < 2; i++) {
		name_server_start(&server);
		EXPECT_EQ(fns[i](NULL), 0);
		name_server_stop(&server);
	}
}

/* In digits for IPv6 and letters for IPv4. */
static void expect_alternated(const char *before, const char *after)
{
	int count = (int)strlen(before), i;

	for (i = 0; i < count; i++) {
		addresses[i].any.sa_family = before[i] < 'a' ? AF_INET6 : AF_INET;
		addresses[i].bytes = (socklen_t)before[i];
	}
	ew__dns_alternate_families(addresses, count);
	for (i = 0; i < count; i++)
		EXPECT_EQ((char)addresses[i].bytes, after[i]);
}

TEST(dns_connect_tries_families_in_turn)
{
	expect_alternated("", "");
	expect_alternated("1", "1");
	expect_alternated("123", "123");
	expect_alternated("123ab", "1a2b3");
	expect_alternated("ab123", "a1b23");
	expect_alternated("1a2b", "1a2b");
	expect_alternated("1234a", "1a234");
}

TEST_MAIN()
