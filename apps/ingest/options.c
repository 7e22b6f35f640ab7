/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Options are read one by one from a table, in the forms `--name value` and `--name=value`. What
 * must be said is asked for: address, bucket and scanner have no defaults, least of all the
 * scanner, because `none` publishes what nobody has looked at. A mistake is answered with the
 * option, the value, and what would be right.
 */
#include "options.h"

#include <errno.h>
#include <inttypes.h>
#include <netdb.h>
#include <netinet/in.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/un.h>

#include "slots.h"

#define SECOND_NS INT64_C(1000000000)

/*
 * Programs copy their standard input before they look at it, and the self-test hands over a file of
 * this size; so it is not left to the size of the largest upload.
 */
#define EXEC_SCAN_LIMIT_DEFAULT (UINT64_C(100) << 20)

struct parse {
	struct options *options;
	const char *name; /* of the option that is being read */
	char *error;
};

static int fail(struct parse *parse, const char *format, ...) __attribute__((format(printf, 2, 3)));

static int fail(struct parse *parse, const char *format, ...)
{
	va_list arguments;
	int length = 0;

	if (parse->name)
		length = snprintf(parse->error, OPTIONS_ERROR_BYTES, "%s: ", parse->name);
	va_start(arguments, format);
	vsnprintf(parse->error + length, OPTIONS_ERROR_BYTES - (size_t)length, format, arguments);
	va_end(arguments);
	return -EINVAL;
}

static int read_number(struct parse *parse, const char *value, uint64_t min, uint64_t max,
		       uint64_t *ret_number)
{
	unsigned long long number;
	char *end;

	errno = 0;
	number = strtoull(value, &end, 10);
	if (*value < '0' || *value > '9' || *end || errno)
		return fail(parse, "`%s` is not a number", value);
	if (number < min || number > max)
		return fail(parse, "%s is outside %" PRIu64 " to %" PRIu64, value, min, max);
	*ret_number = number;
	return 0;
}

/* A number of bytes, with K, M, G or T for powers of 1024. */
static int read_bytes(struct parse *parse, const char *value, uint64_t *ret_bytes)
{
	static const char units[] = "KMGT";
	unsigned long long number;
	const char *unit;
	int shift = 0;
	char *end;

	errno = 0;
	number = strtoull(value, &end, 10);
	if (*value < '0' || *value > '9' || errno)
		return fail(parse, "`%s` is not a number of bytes such as 500000, 25M or 10G",
			    value);
	if (*end) {
		unit = strchr(units, *end);
		if (!unit || end[1])
			return fail(parse,
				    "`%s` is not a number of bytes such as 500000, 25M or 10G",
				    value);
		shift = 10 * (int)(unit - units + 1);
	}
	if (number == 0 || number > (UINT64_C(1) << 60) >> shift)
		return fail(parse, "%s is outside 1 to 1048576T", value);
	*ret_bytes = (uint64_t)number << shift;
	return 0;
}

static int add_to_list(struct parse *parse, struct options_list *list, const char *value)
{
	if (list->count == OPTIONS_LIST_MAX)
		return fail(parse, "given more than %d times", OPTIONS_LIST_MAX);
	list->items[list->count++] = value;
	return 0;
}

static bool is_loopback(const struct sockaddr_storage *address)
{
	if (address->ss_family == AF_INET)
		return ntohl(((const struct sockaddr_in *)address)->sin_addr.s_addr) >> 24 == 127;
	return IN6_IS_ADDR_LOOPBACK(&((const struct sockaddr_in6 *)address)->sin6_addr);
}

static int read_listen(struct parse *parse, const char *value)
{
	struct options *options = parse->options;
	struct addrinfo hints = {
		.ai_flags = AI_NUMERICHOST | AI_NUMERICSERV | AI_PASSIVE,
		.ai_socktype = SOCK_STREAM,
	};
	const char *host = value, *colon = strrchr(value, ':');
	struct addrinfo *found;
	char text[64];
	size_t bytes;
	uint64_t port;
	int r;

	if (!colon || colon == value)
		return fail(parse, "`%s` is not ADDR:PORT such as 127.0.0.1:8080 or [::1]:8080",
			    value);
	r = read_number(parse, colon + 1, 0, 65535, &port);
	if (r < 0)
		return r;

	bytes = (size_t)(colon - value);
	if (host[0] == '[' && colon[-1] == ']' && bytes > 2)
		host++, bytes -= 2;
	else if (memchr(host, ':', bytes))
		return fail(parse, "`%s`: an IPv6 address goes in brackets, such as [::1]:8080",
			    value);
	if (bytes >= sizeof(text))
		return fail(parse, "`%s` is not an address", value);
	memcpy(text, host, bytes);
	text[bytes] = '\0';

	if (getaddrinfo(text, colon + 1, &hints, &found) != 0)
		return fail(
			parse,
			"`%s` is not an IP address; names are not looked up, try 127.0.0.1:%" PRIu64,
			text, port);
	memcpy(&options->address, found->ai_addr, found->ai_addrlen);
	options->address_bytes = found->ai_addrlen;
	freeaddrinfo(found);

	options->listen = value;
	options->loopback = is_loopback(&options->address);
	return 0;
}

/*
 * Splits a command into words: blanks separate, single and double quotes hold together, nothing
 * else is special.
 */
static int split_command(struct parse *parse, const char *command)
{
	struct options *options = parse->options;
	size_t words = 0;
	char *to;

	options->scanner_words = to = malloc(strlen(command) + 1);
	if (!to)
		return fail(parse, "out of memory");

	for (const char *from = command + strspn(command, " "); *from; from += strspn(from, " ")) {
		if (words == OPTIONS_ARGUMENTS_MAX)
			return fail(parse, "the command has more than %d words",
				    OPTIONS_ARGUMENTS_MAX);
		options->scanner_arguments[words++] = to;
		while (*from && *from != ' ') {
			const char *end;

			if (*from != '"' && *from != '\'') {
				*to++ = *from++;
				continue;
			}
			end = strchr(from + 1, *from);
			if (!end)
				return fail(parse, "a quote in `%s` is not closed", command);
			memcpy(to, from + 1, (size_t)(end - from - 1));
			to += end - from - 1;
			from = end + 1;
		}
		*to++ = '\0';
	}
	options->scanner_arguments[words] = NULL;
	return words > 0 ? 0
			 : fail(parse,
				"exec: needs a command, such as \"exec:clamscan --no-summary -\"");
}

static int read_scanner(struct parse *parse, const char *value)
{
	struct options *options = parse->options;

	if (options->scanner_kind != SCANNER_UNSET)
		return fail(parse, "given twice");

	options->scanner = value;
	if (strcmp(value, "none") == 0) {
		options->scanner_kind = SCANNER_NONE;
		return 0;
	}
	if (strncmp(value, "clamd:", 6) == 0) {
		options->scanner_kind = SCANNER_CLAMD;
		options->scanner_socket = value + 6;
		if (value[6] != '/')
			return fail(parse, "`%s`: clamd: needs the absolute path of a socket",
				    value);
		if (strlen(value + 6) >= sizeof(((struct sockaddr_un *)NULL)->sun_path))
			return fail(parse,
				    "the path of the socket is longer than the kernel takes");
		return 0;
	}
	if (strncmp(value, "exec:", 5) == 0) {
		options->scanner_kind = SCANNER_EXEC;
		return split_command(parse, value + 5);
	}
	return fail(parse, "`%s` is none of clamd:SOCKET, exec:COMMAND, none", value);
}

static int read_mode(struct parse *parse, const char *value)
{
	unsigned long mode;
	char *end;

	mode = strtoul(value, &end, 8);
	if (*value < '0' || *value > '7' || *end || mode > 0777)
		return fail(parse, "`%s` is not an octal mode such as 0640", value);
	if (!(mode & 0400))
		return fail(parse, "%s would hide published files from their owner", value);
	parse->options->mode = (mode_t)mode;
	return 0;
}

static int read_bucket(struct parse *parse, const char *value)
{
	if (!*value)
		return fail(parse, "is empty");
	parse->options->bucket = value;
	return 0;
}

static int read_state(struct parse *parse, const char *value)
{
	if (!*value)
		return fail(parse, "is empty");
	free(parse->options->state);
	parse->options->state = strdup(value);
	return parse->options->state ? 0 : fail(parse, "out of memory");
}

static int read_grace(struct parse *parse, const char *value)
{
	uint64_t seconds;
	int r;

	r = read_number(parse, value, 0, 86400, &seconds);
	if (r == 0)
		parse->options->grace_ns = (int64_t)seconds * SECOND_NS;
	return r;
}

static int read_half_close(struct parse *parse, const char *value)
{
	if (strcmp(value, "cancel") == 0)
		parse->options->half_close_finish = false;
	else if (strcmp(value, "finish") == 0)
		parse->options->half_close_finish = true;
	else
		return fail(parse, "`%s` is neither cancel nor finish", value);
	return 0;
}

static int read_origin(struct parse *parse, const char *value)
{
	const char *host = strstr(value, "://");

	if (!host || host == value || !host[3] || strchr(host + 3, '/'))
		return fail(parse, "`%s` is not an origin such as https://files.example.org",
			    value);
	return add_to_list(parse, &parse->options->origins, value);
}

static int read_host(struct parse *parse, const char *value)
{
	if (!*value || value[strcspn(value, "/ ")] != '\0' ||
	    (value[0] != '[' && strchr(value, ':')))
		return fail(parse, "`%s` is not a host name without port", value);
	return add_to_list(parse, &parse->options->hosts, value);
}

static int read_note(struct parse *parse, const char *value)
{
	return add_to_list(parse, &parse->options->scanner_notes, value);
}

static int read_scan_slots(struct parse *parse, const char *value)
{
	return read_number(parse, value, 1, SCAN_SLOTS_MAX, &parse->options->scan_slots);
}

static int read_upload_slots(struct parse *parse, const char *value)
{
	return read_number(parse, value, 1, SLOTS_MAX, &parse->options->upload_slots);
}

static int read_waiting(struct parse *parse, const char *value)
{
	return read_number(parse, value, 0, 100000, &parse->options->waiting);
}

static int read_size_max(struct parse *parse, const char *value)
{
	return read_bytes(parse, value, &parse->options->size_max_bytes);
}

static int read_scan_limit(struct parse *parse, const char *value)
{
	return read_bytes(parse, value, &parse->options->scan_limit_bytes);
}

static const struct {
	const char *name;
	int (*read)(struct parse *parse, const char *value);
} table[] = {
	{ "--listen", read_listen },
	{ "--bucket", read_bucket },
	{ "--scanner", read_scanner },
	{ "--state", read_state },
	{ "--host", read_host },
	{ "--origin", read_origin },
	{ "--mode", read_mode },
	{ "--size-max", read_size_max },
	{ "--scan-limit", read_scan_limit },
	{ "--scan-slots", read_scan_slots },
	{ "--upload-slots", read_upload_slots },
	{ "--waiting", read_waiting },
	{ "--grace", read_grace },
	{ "--client-half-close", read_half_close },
	{ "--scanner-note", read_note },
};

static int read_option(struct parse *parse, const char *argument, char **argv, int *at)
{
	size_t bytes = strcspn(argument, "=");

	for (size_t i = 0; i < sizeof(table) / sizeof(table[0]); i++) {
		if (strlen(table[i].name) != bytes || memcmp(table[i].name, argument, bytes) != 0)
			continue;
		parse->name = table[i].name;
		if (argument[bytes] == '=')
			return table[i].read(parse, argument + bytes + 1);
		if (!argv[*at + 1])
			return fail(parse, "needs a value");
		return table[i].read(parse, argv[++*at]);
	}
	return fail(parse, "`%s` is not an option; `ew-ingest --help` lists them", argument);
}

/* What only shows when all options are read. */
static int complete(struct parse *parse)
{
	struct options *options = parse->options;
	size_t bytes;

	parse->name = NULL;
	if (!options->listen)
		return fail(parse,
			    "--listen is missing: say where, such as --listen 127.0.0.1:8080");
	if (!options->bucket)
		return fail(parse, "--bucket is missing: say which folder holds the files");
	if (options->scanner_kind == SCANNER_UNSET)
		return fail(
			parse,
			"--scanner is missing: say clamd:SOCKET, exec:COMMAND, or none to scan nothing");
	if (!options->loopback && !options->public)
		return fail(
			parse,
			"--listen: %s is not a loopback address, and whoever reaches it can upload: "
			"add --public if that is what you want",
			options->listen);
	if (options->scanner_kind == SCANNER_EXEC && options->scan_limit_bytes == 0)
		options->scan_limit_bytes = EXEC_SCAN_LIMIT_DEFAULT;
	if (options->state)
		return 0;

	bytes = strlen(options->bucket);
	while (bytes > 1 && options->bucket[bytes - 1] == '/')
		bytes--;
	if (asprintf(&options->state, "%.*s.state", (int)bytes, options->bucket) < 0) {
		options->state = NULL;
		return fail(parse, "out of memory");
	}
	return 0;
}

int options_parse(struct options *options, int argc, char **argv, char *error)
{
	struct parse parse = { .options = options, .error = error };
	int r;

	*options = (struct options){
		.verb = VERB_SERVE,
		.mode = 0640,
		.scan_slots = 4,
		.waiting = 100,
		.size_max_bytes = UINT64_C(10) << 30,
		.grace_ns = 30 * SECOND_NS,
	};

	for (int at = 1; at < argc; at++) {
		const char *argument = argv[at];

		if (at == 1 && strcmp(argument, "serve") == 0)
			continue;
		if (strcmp(argument, "--help") == 0 || strcmp(argument, "--version") == 0) {
			options->verb = argument[2] == 'h' ? VERB_HELP : VERB_VERSION;
			return 0;
		}
		if (strcmp(argument, "--public") == 0) {
			options->public = true;
			continue;
		}
		if (argument[0] != '-') {
			parse.name = NULL;
			return fail(&parse, "`%s` is not a verb: there is `serve`", argument);
		}
		parse.name = NULL;
		r = read_option(&parse, argument, argv, &at);
		if (r < 0)
			return r;
	}
	return complete(&parse);
}

void options_deinit(struct options *options)
{
	free(options->state);
	free(options->scanner_words);
	options->state = NULL;
	options->scanner_words = NULL;
}

const char *options_help(void)
{
	return "ew-ingest takes uploads in, has them virus-scanned, and publishes them atomically.\n"
	       "\n"
	       "usage: ew-ingest serve --listen ADDR:PORT --bucket DIR --scanner SCANNER [option ...]\n"
	       "\n"
	       "  --listen ADDR:PORT          where to listen; port 0 takes a free one\n"
	       "  --public                    needed to listen on anything but loopback\n"
	       "  --bucket DIR                the folder that holds published files, and nothing else\n"
	       "  --scanner clamd:SOCKET      clamd behind a Unix socket\n"
	       "  --scanner exec:COMMAND      a program: file on standard input, exit 0 clean, 1 infected\n"
	       "  --scanner none              publish files that nothing has looked at\n"
	       "\n"
	       "  --state DIR                 the server's own folder on the same volume (BUCKET.state)\n"
	       "  --mode OCTAL                permissions of published files (0640)\n"
	       "  --size-max BYTES            largest upload (10G); K, M, G, T are powers of 1024\n"
	       "  --scan-limit BYTES          largest file the scanner takes; larger ones are refused early\n"
	       "                              (exec: 100M; clamd: no limit of its own)\n"
	       "  --upload-slots N            uploads at the same time (as many as fit)\n"
	       "  --scan-slots N              scans at the same time (4); keep it below clamd's MaxThreads\n"
	       "  --waiting N                 requests that may wait for an upload slot (100)\n"
	       "  --grace SECONDS             what a shutdown gives running uploads (30)\n"
	       "  --host NAME                 another host name of this server on loopback; may be repeated\n"
	       "  --origin ORIGIN             a web page's origin that may send requests; may be repeated\n"
	       "  --client-half-close cancel|finish\n"
	       "                              what a client means that closes its sending side (cancel)\n"
	       "  --scanner-note TEXT         a line for the start block; may be repeated\n"
	       "\n"
	       "  --help, --version           say this, say the version\n";
}
