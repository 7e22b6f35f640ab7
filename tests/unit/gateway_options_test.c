/* SPDX-License-Identifier: Apache-2.0 */
/* The gateway's command line, brokers' addresses above all. */
#include "../ew_test.h"

#include <endwell/base.h>
#include <netinet/in.h>

#include "gateway/options.h"
#include "tls.h"

static struct options options;
static char path[] = "/tmp/ew-gateway-test.XXXXXX";

static const char *routes = "[route a]\nrouting_key = q\n";

static int parse(const char *const *more, char *error)
{
	char *argv[32] = { (char *)"ew-gateway",  (char *)"serve",    (char *)"--listen",
			   (char *)"127.0.0.1:0", (char *)"--config", path };
	int argc = 6, fd = mkstemp(path), r;

	EXPECT(fd >= 0);
	EXPECT_EQ(write(fd, routes, strlen(routes)), strlen(routes));
	close(fd);
	while (*more)
		argv[argc++] = (char *)*more++;
	r = options_parse(&options, argc, argv, error);
	unlink(path);
	strcpy(path + strlen(path) - 6, "XXXXXX");
	return r;
}

#define PARSE(error, ...) parse((const char *const[]){ __VA_ARGS__, NULL }, error)

static void expect_refused(const char *address, const char *words)
{
	char error[FLAGS_ERROR_BYTES] = "";

	EXPECT_EQ(PARSE(error, "--amqp", address), -EINVAL);
	if (!strstr(error, words))
		EXPECT_STR(error, words);
}

TEST(gateway_options_want_an_instance_for_reply_queues)
{
	const char *const usual = routes;
	char error[FLAGS_ERROR_BYTES] = "";

	routes = "[route a]\nrouting_key = q\nreplies = queue\n";
	EXPECT_EQ(PARSE(error, "--amqp", "amqp://127.0.0.1"), -EINVAL);
	EXPECT(strstr(error, "--instance is missing: [route a] has replies = queue"));
	EXPECT_EQ(PARSE(error, "--amqp", "amqp://127.0.0.1", "--instance", "a b"), -EINVAL);
	EXPECT(strstr(error, "`a b` is not a name"));
	EXPECT_EQ(PARSE(error, "--amqp", "amqp://127.0.0.1", "--instance", "one"), 0);
	EXPECT_STR(options.instance, "one");
	options_deinit(&options);
	routes = usual;
}

TEST(gateway_options_take_an_address_apart)
{
	char error[FLAGS_ERROR_BYTES] = "";
	const struct broker_address *broker = &options.brokers[0];

	EXPECT_EQ(PARSE(error, "--amqp", "amqp://a%40b:p%3Aw@127.0.0.1:5673/x%2Fy"), 0);
	EXPECT_STR(broker->user, "a@b");
	EXPECT_STR(broker->password, "p:w");
	EXPECT_STR(broker->virtual_host, "x/y");
	EXPECT_EQ(ntohs(((struct sockaddr_in *)&broker->address)->sin_port), 5673);

	EXPECT_EQ(PARSE(error, "--amqp", "amqp://127.0.0.1"), 0);
	EXPECT_STR(broker->user, "guest");
	EXPECT_STR(broker->virtual_host, "/");
	EXPECT_EQ(ntohs(((struct sockaddr_in *)&broker->address)->sin_port), 5672);

	EXPECT_EQ(PARSE(error, "--amqp", "amqp://[::1]:99/", "--amqp=amqp://127.0.0.1"), 0);
	EXPECT_EQ(options.brokers_count, 2);
	EXPECT_EQ(broker->address.ss_family, AF_INET6);
	EXPECT_EQ(options.config.count, 1);
	EXPECT_EQ(options.grace_ns, 30 * EW_SECOND);
}

TEST(gateway_options_name_what_is_wrong_with_an_address)
{
	char error[FLAGS_ERROR_BYTES] = "";

	expect_refused("http://127.0.0.1", "--amqp: is neither amqp:// nor amqps://");
	expect_refused("amqp://", "no host");
	expect_refused("amqp://:5672", "no host");
	expect_refused("amqp://127.0.0.1:0", "outside 1 to 65535");
	expect_refused("amqp://127.0.0.1:x", "`x` is not a number");
	expect_refused("amqp://127.0.0.1:123456789", "outside 1 to 65535");
	expect_refused("amqp://a%4@127.0.0.1", "two hex digits");
	expect_refused("amqp://a%00b@127.0.0.1", "no text");
	expect_refused("amqp://[::1", "[ without ]");
	EXPECT_EQ(PARSE(error, "--amqp", "amqp://127.0.0.1/a", "--amqp", "amqp://127.0.0.1/b"),
		  -EINVAL);
	EXPECT(strstr(error, "the same user, password and virtual host") != NULL);
	EXPECT_EQ(PARSE(error, "--dead-link", "2"), -EINVAL);
	EXPECT(strstr(error, "--dead-link: 2 is outside 3 to 600") != NULL);
	EXPECT_EQ(PARSE(error, "--grace", "1", "--dead-link", "600"), -EINVAL);
	EXPECT(strstr(error, "--amqp is missing") != NULL);
}

TEST(gateway_options_take_tls)
{
	char error[FLAGS_ERROR_BYTES] = "", path_of_key[TLS_PATH_BYTES];

	tls_sign("gateway", "DNS:gateway.test", TLS_DAY_S, path_of_key);
	EXPECT_EQ(PARSE(error, "--amqp", "amqps://127.0.0.1", "--amqp", "amqps://[::1]:9"), 0);
	EXPECT_EQ(ntohs(((struct sockaddr_in *)&options.brokers[0].address)->sin_port), 5671);
	EXPECT(options.tls != NULL);
	EXPECT(options.tls_server_name == NULL);
	options_deinit(&options);

	EXPECT_EQ(PARSE(error, "--amqp", "amqps://127.0.0.1", "--amqp-ca", tls_authority.authority,
			"--amqp-certificate", path_of_key, "--amqp-server-name", "a.test"),
		  0);
	EXPECT(options.tls != NULL);
	EXPECT_STR(options.tls_server_name, "a.test");
	options_deinit(&options);

	EXPECT_EQ(PARSE(error, "--amqp", "amqp://127.0.0.1"), 0);
	EXPECT(options.tls == NULL);
}

static void expect_tls_refused(const char *address, const char *flag, const char *value,
			       const char *words)
{
	char error[FLAGS_ERROR_BYTES] = "";

	EXPECT_EQ(PARSE(error, "--amqp", address, flag, value), -EINVAL);
	if (!strstr(error, words))
		EXPECT_STR(error, words);
	EXPECT(options.tls == NULL);
}

TEST(gateway_options_name_what_is_wrong_with_tls)
{
	expect_tls_refused("amqps://127.0.0.1", "--amqp", "amqp://127.0.0.1",
			   "in TLS (amqps://), or none");
	expect_tls_refused("amqp://127.0.0.1", "--amqp-ca", "/dev/null", "are for amqps://");
	expect_tls_refused("amqps://127.0.0.1", "--amqp-key", "/dev/null",
			   "--amqp-key: needs --amqp-certificate");
	expect_tls_refused("amqps://127.0.0.1", "--amqp-ca", "/nowhere",
			   "/nowhere is no file of authorities in PEM");
	expect_tls_refused("amqps://127.0.0.1", "--amqp-server-name", "",
			   "--amqp-server-name: is empty");
}

TEST_MAIN()
