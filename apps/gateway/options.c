/* SPDX-License-Identifier: Apache-2.0 */
/*
 * All brokers are one cluster: they share user, password and virtual host, because a connection to the next one must be
 * as good as the one that was lost.
 */
#include "options.h"

#include <errno.h>
#include <netdb.h>
#include <netinet/in.h>
#include <stdio.h>
#include <string.h>

#include <endwell/base.h>

static int digit(char c)
{
	if (c >= '0' && c <= '9')
		return c - '0';
	c |= 0x20;
	return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

/* Percent-decodes a part of an address. */
static int decode(struct flags *flags, const char *from, size_t bytes, char *ret_text)
{
	size_t to = 0;

	for (size_t i = 0; i < bytes; i++) {
		int byte = (unsigned char)from[i];

		if (byte == '%') {
			if (i + 2 >= bytes || digit(from[i + 1]) < 0 || digit(from[i + 2]) < 0)
				return flags_fail(flags, "%% without two hex digits");
			byte = digit(from[i + 1]) << 4 | digit(from[i + 2]);
			i += 2;
		}
		if (byte < ' ' || to == CONFIG_TEXT_BYTES - 1)
			return flags_fail(flags, "a part is longer than %d bytes, or no text",
					  CONFIG_TEXT_BYTES - 1);
		ret_text[to++] = (char)byte;
	}
	ret_text[to] = '\0';
	return 0;
}

static int look_up(struct flags *flags, struct broker_address *broker, const char *port)
{
	struct addrinfo hints = { .ai_socktype = SOCK_STREAM };
	struct addrinfo *found;
	int r;

	r = getaddrinfo(broker->host, port, &hints, &found);
	if (r != 0)
		return flags_fail(flags, "%s: %s", broker->host, gai_strerror(r));
	memcpy(&broker->address, found->ai_addr, found->ai_addrlen);
	broker->bytes = found->ai_addrlen;
	freeaddrinfo(found);
	return 0;
}

/* HOST or HOST:PORT or [IPV6]:PORT */
static int read_host_and_port(struct flags *flags, const char *from, size_t bytes,
			      struct broker_address *broker)
{
	const char *end = from + bytes, *host_end, *port = NULL;
	char port_text[8];
	uint64_t number;
	int r;

	snprintf(port_text, sizeof(port_text), "%s", broker->tls ? "5671" : "5672");
	if (bytes > 0 && from[0] == '[') {
		host_end = memchr(from, ']', bytes);
		if (!host_end)
			return flags_fail(flags, "[ without ]");
		if (host_end + 1 < end && host_end[1] == ':')
			port = host_end + 2;
		from++;
	} else {
		host_end = memchr(from, ':', bytes);
		port = host_end ? host_end + 1 : NULL;
		host_end = host_end ? host_end : end;
	}
	if (host_end == from)
		return flags_fail(flags, "there is no host; try amqp://127.0.0.1:5672/");
	if (port)
		snprintf(port_text, sizeof(port_text), "%.*s", (int)(end - port), port);
	r = flags_number(flags, port_text, 1, 65535, &number);
	if (r == 0)
		r = decode(flags, from, (size_t)(host_end - from), broker->host);
	return r < 0 ? r : look_up(flags, broker, port_text);
}

static int read_user(struct flags *flags, const char *from, size_t bytes,
		     struct broker_address *broker)
{
	const char *colon = memchr(from, ':', bytes);
	size_t user_bytes = colon ? (size_t)(colon - from) : bytes;
	int r;

	r = decode(flags, from, user_bytes, broker->user);
	if (r == 0 && colon)
		r = decode(flags, colon + 1, bytes - user_bytes - 1, broker->password);
	return r;
}

/* RabbitMQ's form of it: no path is the virtual host "/", an empty path is the one without a name. */
static int read_address(struct flags *flags, const char *value, struct broker_address *broker)
{
	static const char scheme[] = "amqp://", tls_scheme[] = "amqps://";
	const char *from = value, *at, *slash;
	size_t bytes;
	int r;

	*broker = (struct broker_address){ .user = "guest",
					   .password = "guest",
					   .virtual_host = "/" };
	broker->tls = strncmp(value, tls_scheme, sizeof(tls_scheme) - 1) == 0;
	if (broker->tls)
		from += sizeof(tls_scheme) - 1;
	else if (strncmp(value, scheme, sizeof(scheme) - 1) == 0)
		from += sizeof(scheme) - 1;
	else
		return flags_fail(
			flags,
			"is neither amqp:// nor amqps://, followed by USER:PASSWORD@HOST:PORT/VHOST");
	slash = strchr(from, '/');
	bytes = slash ? (size_t)(slash - from) : strlen(from);
	if (slash && slash[1]) {
		r = decode(flags, slash + 1, strlen(slash + 1), broker->virtual_host);
		if (r < 0)
			return r;
	}
	at = memchr(from, '@', bytes);
	if (at) {
		r = read_user(flags, from, (size_t)(at - from), broker);
		if (r < 0)
			return r;
		bytes -= (size_t)(at + 1 - from);
		from = at + 1;
	}
	return read_host_and_port(flags, from, bytes, broker);
}

static int read_amqp(struct flags *flags, const char *value)
{
	struct options *options = flags->options;
	struct broker_address *broker = &options->brokers[options->brokers_count];
	const struct broker_address *first = &options->brokers[0];
	int r;

	if (options->brokers_count == OPTIONS_BROKERS_MAX)
		return flags_fail(flags, "given more than %d times", OPTIONS_BROKERS_MAX);
	r = read_address(flags, value, broker);
	if (r < 0)
		return r;
	if (strcmp(broker->user, first->user) != 0 ||
	    strcmp(broker->password, first->password) != 0 ||
	    strcmp(broker->virtual_host, first->virtual_host) != 0)
		return flags_fail(flags,
				  "%s: all brokers have the same user, password and virtual host",
				  broker->host);
	if (broker->tls != first->tls)
		return flags_fail(flags, "%s: all brokers are spoken to in TLS (amqps://), or none",
				  broker->host);
	options->brokers_count++;
	return 0;
}

static int read_ca(struct flags *flags, const char *value)
{
	flags->options->tls_files.ca_file = value;
	return 0;
}

static int read_certificate(struct flags *flags, const char *value)
{
	flags->options->tls_files.certificate_file = value;
	return 0;
}

static int read_key(struct flags *flags, const char *value)
{
	flags->options->tls_files.key_file = value;
	return 0;
}

static int read_server_name(struct flags *flags, const char *value)
{
	if (!*value || strlen(value) >= CONFIG_TEXT_BYTES)
		return flags_fail(flags, "is empty, or longer than %d bytes",
				  CONFIG_TEXT_BYTES - 1);
	flags->options->tls_server_name = value;
	return 0;
}

static int read_listen(struct flags *flags, const char *value)
{
	return flags_address(flags, value, &flags->options->listen);
}

static int read_config(struct flags *flags, const char *value)
{
	flags->options->config_path = value;
	return 0;
}

static int read_instance(struct flags *flags, const char *value)
{
	if (!config_is_name(value, strlen(value)))
		return flags_fail(flags, "`%.64s` is not a name: 1 to %d letters, digits, - _ .",
				  value, CONFIG_NAME_BYTES - 1);
	flags->options->instance = value;
	return 0;
}

static int read_grace(struct flags *flags, const char *value)
{
	return flags_seconds(flags, value, &flags->options->grace_ns);
}

static int read_dead_link(struct flags *flags, const char *value)
{
	return flags_dead_link(flags, value, &flags->options->dead_link_ns);
}

static int read_origin(struct flags *flags, const char *value)
{
	return flags_origin(flags, value, &flags->options->origins);
}

static int read_host(struct flags *flags, const char *value)
{
	return flags_host(flags, value, &flags->options->hosts);
}

static void set_public(struct options *options)
{
	options->public = true;
}

static const struct flag table[] = {
	{ "--listen", .read = read_listen },
	{ "--public", .set = set_public },
	{ "--amqp", .read = read_amqp },
	{ "--config", .read = read_config },
	{ "--amqp-ca", .read = read_ca },
	{ "--amqp-certificate", .read = read_certificate },
	{ "--amqp-key", .read = read_key },
	{ "--amqp-server-name", .read = read_server_name },
	{ "--host", .read = read_host },
	{ "--origin", .read = read_origin },
	{ "--instance", .read = read_instance },
	{ "--grace", .read = read_grace },
	{ "--dead-link", .read = read_dead_link },
	{},
};

/* TLS with the brokers, if they are amqps://. */
static int complete_tls(struct flags *flags)
{
	struct options *options = flags->options;
	const struct ew_tls_context_options *files = &options->tls_files;
	struct ew_tls_error error;

	if (!options->brokers[0].tls && (files->ca_file || files->certificate_file ||
					 files->key_file || options->tls_server_name))
		return flags_fail(flags, "--amqp: is amqp://, and --amqp-ca, --amqp-certificate, "
					 "--amqp-key and --amqp-server-name are for amqps://");
	if (files->key_file && !files->certificate_file)
		return flags_fail(flags, "--amqp-key: needs --amqp-certificate");
	if (!options->brokers[0].tls)
		return 0;
	return ew_tls_context_new(files, &error, &options->tls) < 0
		       ? flags_fail(flags, "TLS: %s", error.text)
		       : 0;
}

/* Whose the reply queues are. */
static int complete_instance(struct flags *flags)
{
	const struct config *config = &flags->options->config;

	for (size_t i = 0; i < config->count; i++)
		if (config->routes[i].reply_queue && !flags->options->instance)
			return flags_fail(
				flags,
				"--instance is missing: [route %s] has replies = queue, so name this "
				"gateway, and keep its name when it is started again",
				config->routes[i].name);
	return 0;
}

/* What only shows when all options are read. */
static int complete(struct flags *flags)
{
	struct options *options = flags->options;
	char error[CONFIG_ERROR_BYTES];

	if (!options->listen.text)
		return flags_fail(
			flags, "--listen is missing: say where, such as --listen 127.0.0.1:8080");
	if (options->brokers_count == 0)
		return flags_fail(
			flags,
			"--amqp is missing: name a broker, such as --amqp amqp://guest:guest@127.0.0.1:5672/");
	if (!options->config_path)
		return flags_fail(flags, "--config is missing: name the file with the routes");
	if (!options->listen.loopback && !options->public)
		return flags_fail(
			flags,
			"--listen: %s is not a loopback address, and whoever reaches it can start "
			"operations: add --public if that is what you want",
			options->listen.text);
	if (config_read(&options->config, options->config_path, error) < 0)
		return flags_fail(flags, "%s", error);
	if (complete_instance(flags) < 0)
		return -EINVAL;
	return complete_tls(flags);
}

int options_parse(struct options *options, int argc, char **argv, char *error)
{
	struct flags flags = { .options = options, .program = "ew-gateway", .error = error };
	int r;

	*options = (struct options){ .grace_ns = 30 * EW_SECOND };
	r = flags_read(&flags, table, argc, argv);
	if (r > 0)
		options->verb = r == 'h' ? VERB_HELP : VERB_VERSION;
	return r == 0 ? complete(&flags) : r < 0 ? r : 0;
}

void options_deinit(struct options *options)
{
	ew_tls_context_free(options->tls);
	options->tls = NULL;
}

const char *options_help(void)
{
	return "ew-gateway turns an HTTP request into an AMQP operation, and cancels that operation at the\n"
	       "backend when the client leaves.\n"
	       "\n"
	       "usage: ew-gateway serve --listen ADDR:PORT --amqp URL --config FILE [option ...]\n"
	       "\n"
	       "  --listen ADDR:PORT   where to listen; port 0 takes a free one\n"
	       "  --public             needed to listen on anything but loopback\n"
	       "  --amqp URL           amqp://USER:PASSWORD@HOST:PORT/VHOST, or amqps:// for TLS; up to 8 of one\n"
	       "                       cluster\n"
	       "  --config FILE        the routes; docs/operating-gateway.md has its keys\n"
	       "\n"
	       "  --instance NAME      which gateway this is, for routes with replies = queue\n"
	       "  --amqp-ca FILE       with amqps://: whom to trust, in PEM (the system's authorities)\n"
	       "  --amqp-certificate FILE, --amqp-key FILE\n"
	       "                       a certificate to show to the broker, and its key (none; in the same file)\n"
	       "  --amqp-server-name NAME\n"
	       "                       what the brokers' certificates must be for (the host of the URL)\n"
	       "\n"
	       "  --grace SECONDS      what a shutdown gives running operations (30)\n"
	       "  --dead-link SECONDS  a client that acknowledges nothing for so long has left (60)\n"
	       "  --host NAME          another host name of this server on loopback; may be repeated\n"
	       "  --origin ORIGIN      a web page's origin that may send requests; may be repeated\n"
	       "\n"
	       "  --help, --version    say this, say the version\n";
}
