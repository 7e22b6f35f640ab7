/* SPDX-License-Identifier: Apache-2.0 */
/* The command line: what is taken, what is missing, and that each mistake is named. */
#include "../ew_test.h"

#include <netinet/in.h>

#include "ingest/options.h"

#define ARGUMENTS_MAX 80

/* Parses the basic options and then @more, a NULL-terminated list. */
static int parse(struct options *options, char *error, const char *const *more)
{
	char *argv[ARGUMENTS_MAX] = { (char *)"ew-ingest",
				      (char *)"serve",
				      (char *)"--listen",
				      (char *)"127.0.0.1:8080",
				      (char *)"--bucket",
				      (char *)"/b",
				      NULL };
	int argc = 6;

	while (*more)
		argv[argc++] = (char *)*more++;
	argv[argc] = NULL;
	error[0] = '\0';
	return options_parse(options, argc, argv, error);
}

#define PARSE(options, error, ...) parse(options, error, (const char *const[]){ __VA_ARGS__, NULL })

static void expect_refused(const char *option, const char *value, const char *words)
{
	char error[FLAGS_ERROR_BYTES];
	struct options options;

	EXPECT_EQ(PARSE(&options, error, "--scanner", "none", option, value), -EINVAL);
	if (!strstr(error, option) || !strstr(error, words))
		EXPECT_STR(error, words);
	options_deinit(&options);
}

TEST(options_defaults)
{
	char error[FLAGS_ERROR_BYTES];
	struct options options;

	EXPECT_EQ(PARSE(&options, error, "--scanner=none"), 0);
	EXPECT_EQ(options.verb, VERB_SERVE);
	EXPECT_EQ(options.scanner_kind, SCANNER_NONE);
	EXPECT_STR(options.state, "/b.state");
	EXPECT_EQ(options.mode, 0640);
	EXPECT_EQ(options.size_max_bytes, 10LL << 30);
	EXPECT_EQ(options.waiting, 100);
	EXPECT_EQ(options.scan_slots, 4);
	EXPECT_EQ(options.upload_slots, 0);
	EXPECT_EQ(options.grace_ns, 30000000000);
	EXPECT(options.listen.loopback);
	EXPECT(!options.half_close_finish);
	EXPECT_EQ(ntohs(((struct sockaddr_in *)&options.listen.address)->sin_port), 8080);
	options_deinit(&options);
}

TEST(options_all_given)
{
	char error[FLAGS_ERROR_BYTES];
	struct options options;

	EXPECT_EQ(PARSE(&options, error, "--scanner", "clamd:/run/clamd.sock", "--state", "/s",
			"--mode", "0644", "--size-max", "25M", "--scan-limit=1G", "--scan-slots",
			"2", "--upload-slots", "7", "--waiting", "0", "--grace", "5", "--host",
			"a.example", "--host", "b.example", "--origin", "https://c.example",
			"--client-half-close", "finish", "--scanner-note", "one", "--listen",
			"[::1]:0", "--dead-link", "3"),
		  0);
	EXPECT_STR(options.scanner_socket, "/run/clamd.sock");
	EXPECT_STR(options.state, "/s");
	EXPECT_EQ(options.mode, 0644);
	EXPECT_EQ(options.size_max_bytes, 25 << 20);
	EXPECT_EQ(options.scan_limit_bytes, 1 << 30);
	EXPECT_EQ(options.upload_slots, 7);
	EXPECT_EQ(options.waiting, 0);
	EXPECT_EQ(options.hosts.count, 2);
	EXPECT_STR(options.hosts.items[1], "b.example");
	EXPECT_STR(options.origins.items[0], "https://c.example");
	EXPECT_STR(options.scanner_notes.items[0], "one");
	EXPECT(options.half_close_finish);
	EXPECT_EQ(options.dead_link_ns, 3000000000);
	EXPECT(options.listen.loopback);
	EXPECT_EQ(options.listen.address.ss_family, AF_INET6);
	options_deinit(&options);
}

TEST(options_exec_is_split_without_a_shell)
{
	char error[FLAGS_ERROR_BYTES];
	struct options options;

	EXPECT_EQ(PARSE(&options, error, "--scanner",
			"exec: clamscan  -d '/my db' \"a\"b'c d' $HOME;ls -"),
		  0);
	EXPECT_EQ(options.scanner_kind, SCANNER_EXEC);
	EXPECT_EQ(options.scan_limit_bytes, 100 << 20);
	EXPECT_STR(options.scanner_arguments[0], "clamscan");
	EXPECT_STR(options.scanner_arguments[1], "-d");
	EXPECT_STR(options.scanner_arguments[2], "/my db");
	EXPECT_STR(options.scanner_arguments[3], "abc d");
	EXPECT_STR(options.scanner_arguments[4], "$HOME;ls");
	EXPECT_STR(options.scanner_arguments[5], "-");
	EXPECT(options.scanner_arguments[6] == NULL);
	options_deinit(&options);

	EXPECT_EQ(PARSE(&options, error, "--scanner", "exec:"), -EINVAL);
	options_deinit(&options);
	EXPECT_EQ(PARSE(&options, error, "--scanner", "exec:a 'b"), -EINVAL);
	EXPECT(strstr(error, "quote") != NULL);
	options_deinit(&options);
}

TEST(options_mistakes_are_named)
{
	expect_refused("--listen", "8080", "ADDR:PORT");
	expect_refused("--listen", ":8080", "ADDR:PORT");
	expect_refused("--listen", "localhost:8080", "not an IP address");
	expect_refused("--listen", "::1:8080", "brackets");
	expect_refused("--listen", "127.0.0.1:65536", "65535");
	expect_refused("--listen", "127.0.0.1:", "not a number");
	expect_refused("--listen", "0.0.0.0:8080", "--public");
	expect_refused("--bucket", "", "empty");
	expect_refused("--state", "", "empty");
	expect_refused("--scanner", "none", "twice");
	expect_refused("--mode", "0999", "octal");
	expect_refused("--mode", "01777", "octal");
	expect_refused("--mode", "0040", "owner");
	expect_refused("--size-max", "0", "outside");
	expect_refused("--size-max", "1KB", "number of bytes");
	expect_refused("--size-max", "-1", "number of bytes");
	expect_refused("--scan-slots", "0", "outside");
	expect_refused("--upload-slots", "70000", "outside");
	expect_refused("--waiting", "many", "not a number");
	expect_refused("--grace", "1.5", "not a number");
	expect_refused("--client-half-close", "maybe", "neither");
	expect_refused("--origin", "app.example.org", "origin");
	expect_refused("--host", "a:80", "without port");
	expect_refused("--frobnicate", "1", "not an option");
}

TEST(options_scanner_forms_are_checked)
{
	static const char *const bad[] = { "clamd", "clamd:", "clamd:relative.sock", "icap:x", "" };
	char error[FLAGS_ERROR_BYTES];
	struct options options;

	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		EXPECT_EQ(PARSE(&options, error, "--scanner", bad[i]), -EINVAL);
		EXPECT(strncmp(error, "--scanner: ", 11) == 0);
		options_deinit(&options);
	}
}

TEST(options_what_must_be_said_is_asked_for)
{
	char *argv[] = { (char *)"ew-ingest", (char *)"--bucket", (char *)"/b", NULL };
	char error[FLAGS_ERROR_BYTES];
	struct options options;

	EXPECT_EQ(options_parse(&options, 3, argv, error), -EINVAL);
	EXPECT(strstr(error, "--listen is missing") != NULL);
	options_deinit(&options);
	EXPECT_EQ(parse(&options, error, (const char *const[]){ NULL }), -EINVAL);
	EXPECT(strstr(error, "--scanner is missing") != NULL);
	options_deinit(&options);
	EXPECT_EQ(PARSE(&options, error, "--scanner"), -EINVAL);
	EXPECT_STR(error, "--scanner: needs a value");
	options_deinit(&options);
}

TEST(options_public_allows_other_addresses)
{
	char error[FLAGS_ERROR_BYTES];
	struct options options;

	EXPECT_EQ(PARSE(&options, error, "--scanner", "none", "--listen", "0.0.0.0:80", "--public"),
		  0);
	EXPECT(!options.listen.loopback);
	options_deinit(&options);
}

TEST(options_help_names_every_option)
{
	static const char *const names[] = {
		"--listen",	  "--bucket",	    "--scanner clamd:", "--scanner exec:",
		"--scanner none", "--state",	    "--host",		"--origin",
		"--scan-slots",	  "--upload-slots", "--waiting",	"--size-max",
		"--grace",	  "--mode",	    "--scan-limit",	"--client-half-close",
		"--scanner-note", "--public",	    "--dead-link",	"--help",
		"--version"
	};
	char *argv[] = { (char *)"ew-ingest", (char *)"--help", NULL };
	char error[FLAGS_ERROR_BYTES];
	struct options options;

	EXPECT_EQ(options_parse(&options, 2, argv, error), 0);
	EXPECT_EQ(options.verb, VERB_HELP);
	options_deinit(&options);
	for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++)
		if (!strstr(options_help(), names[i]))
			EXPECT_STR(names[i], "in the help text");
}

TEST_MAIN()
