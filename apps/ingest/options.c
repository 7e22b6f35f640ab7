/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What must be said is asked for: address, bucket and scanner have no defaults, least of all the
 * scanner, because `none` publishes what nobody has looked at.
 */

#include "options.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/un.h>

#define SECOND_NS INT64_C(1000000000)

/*
 * Programs copy their standard input before they look at it, and the self-test hands over a file of
 * this size; so it is not left to the size of the largest upload.
 */
#define EXEC_SCAN_LIMIT_DEFAULT (UINT64_C(100) << 20)

/* A number of bytes, with K, M, G or T for powers of 1024. */
static int read_bytes(struct flags *flags, const char *value, uint64_t *ret_bytes)
{
	static const char units[] = "KMGT";
	unsigned long long number;
	const char *unit;
	int shift = 0;
	char *end;

	errno = 0;
	number = strtoull(value, &end, 10);
	if (*value < '0' || *value > '9' || errno)
		return flags_fail(flags, "`%s` is not a number of bytes such as 500000, 25M or 10G",
				  value);
	if (*end) {
		unit = strchr(units, *end);
		if (!unit || end[1])
			return flags_fail(
				flags, "`%s` is not a number of bytes such as 500000, 25M or 10G",
				value);
		shift = 10 * (int)(unit - units + 1);
	}
	if (number == 0 || number > (UINT64_C(1) << 60) >> shift)
		return flags_fail(flags, "%s is outside 1 to 1048576T", value);
	*ret_bytes = (uint64_t)number << shift;
	return 0;
}

static int read_listen(struct flags *flags, const char *value)
{
	return flags_address(flags, value, &flags->options->listen);
}

/*
 * Splits a command into words: blanks separate, single and double quotes hold together, nothing
 * else is special.
 */
static int split_command(struct flags *flags, const char *command)
{
	struct options *options = flags->options;
	size_t words = 0;
	char *to;

	options->scanner_words = to = malloc(strlen(command) + 1);
	if (!to)
		return flags_fail(flags, "out of memory");

	for (const char *from = command + strspn(command, " "); *from; from += strspn(from, " ")) {
		if (words == OPTIONS_ARGUMENTS_MAX)
			return flags_fail(flags, "the command has more than %d words",
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
				return flags_fail(flags, "a quote in `%s` is not closed", command);
			memcpy(to, from + 1, (size_t)(end - from - 1));
			to += end - from - 1;
			from = end + 1;
		}
		*to++ = '\0';
	}
	options->scanner_arguments[words] = NULL;
	return words > 0
		       ? 0
		       : flags_fail(
				 flags,
				 "exec: needs a command, such as \"exec:clamscan --no-summary -\"");
}

static int read_scanner(struct flags *flags, const char *value)
{
	struct options *options = flags->options;

	if (options->scanner_kind != SCANNER_UNSET)
		return flags_fail(flags, "given twice");

	options->scanner = value;
	if (strcmp(value, "none") == 0) {
		options->scanner_kind = SCANNER_NONE;
		return 0;
	}
	if (strncmp(value, "clamd:", 6) == 0) {
		options->scanner_kind = SCANNER_CLAMD;
		options->scanner_socket = value + 6;
		if (value[6] != '/')
			return flags_fail(flags, "`%s`: clamd: needs the absolute path of a socket",
					  value);
		if (strlen(value + 6) >= sizeof(((struct sockaddr_un *)NULL)->sun_path))
			return flags_fail(flags,
					  "the path of the socket is longer than the kernel takes");
		return 0;
	}
	if (strncmp(value, "exec:", 5) == 0) {
		options->scanner_kind = SCANNER_EXEC;
		return split_command(flags, value + 5);
	}
	return flags_fail(flags, "`%s` is none of clamd:SOCKET, exec:COMMAND, none", value);
}

static int read_mode(struct flags *flags, const char *value)
{
	unsigned long mode;
	char *end;

	mode = strtoul(value, &end, 8);
	if (*value < '0' || *value > '7' || *end || mode > 0777)
		return flags_fail(flags, "`%s` is not an octal mode such as 0640", value);
	if (!(mode & 0400))
		return flags_fail(flags, "%s would hide published files from their owner", value);
	flags->options->mode = (mode_t)mode;
	return 0;
}

static int read_bucket(struct flags *flags, const char *value)
{
	if (!*value)
		return flags_fail(flags, "is empty");
	flags->options->bucket = value;
	return 0;
}

static int read_state(struct flags *flags, const char *value)
{
	if (!*value)
		return flags_fail(flags, "is empty");
	free(flags->options->state);
	flags->options->state = strdup(value);
	return flags->options->state ? 0 : flags_fail(flags, "out of memory");
}

static int read_grace(struct flags *flags, const char *value)
{
	return flags_seconds(flags, value, &flags->options->grace_ns);
}

static int read_half_close(struct flags *flags, const char *value)
{
	return flags_choice(flags, value, "cancel", "finish", &flags->options->half_close_finish);
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

static int read_note(struct flags *flags, const char *value)
{
	return flags_add(flags, &flags->options->scanner_notes, value);
}

static int read_scan_slots(struct flags *flags, const char *value)
{
	return flags_number(flags, value, 1, SCAN_SLOTS_MAX, &flags->options->scan_slots);
}

static int read_upload_slots(struct flags *flags, const char *value)
{
	return flags_number(flags, value, 1, UPLOAD_SLOTS_MAX, &flags->options->upload_slots);
}

static int read_waiting(struct flags *flags, const char *value)
{
	return flags_number(flags, value, 0, 100000, &flags->options->waiting);
}

static int read_size_max(struct flags *flags, const char *value)
{
	return read_bytes(flags, value, &flags->options->size_max_bytes);
}

static int read_scan_limit(struct flags *flags, const char *value)
{
	return read_bytes(flags, value, &flags->options->scan_limit_bytes);
}

static void set_public(struct options *options)
{
	options->public = true;
}

static const struct flag table[] = {
	{ "--listen", .read = read_listen },
	{ "--bucket", .read = read_bucket },
	{ "--scanner", .read = read_scanner },
	{ "--state", .read = read_state },
	{ "--host", .read = read_host },
	{ "--origin", .read = read_origin },
	{ "--mode", .read = read_mode },
	{ "--size-max", .read = read_size_max },
	{ "--scan-limit", .read = read_scan_limit },
	{ "--scan-slots", .read = read_scan_slots },
	{ "--upload-slots", .read = read_upload_slots },
	{ "--waiting", .read = read_waiting },
	{ "--grace", .read = read_grace },
	{ "--dead-link", .read = read_dead_link },
	{ "--client-half-close", .read = read_half_close },
	{ "--scanner-note", .read = read_note },
	{ "--public", .set = set_public },
	{},
};

/* What only shows when all options are read. */
static int complete(struct flags *flags)
{
	struct options *options = flags->options;
	size_t bytes;

	if (!options->listen.text)
		return flags_fail(
			flags, "--listen is missing: say where, such as --listen 127.0.0.1:8080");
	if (!options->bucket)
		return flags_fail(flags, "--bucket is missing: say which folder holds the files");
	if (options->scanner_kind == SCANNER_UNSET)
		return flags_fail(
			flags,
			"--scanner is missing: say clamd:SOCKET, exec:COMMAND, or none to scan nothing");
	if (!options->listen.loopback && !options->public)
		return flags_fail(
			flags,
			"--listen: %s is not a loopback address, and whoever reaches it can upload: "
			"add --public if that is what you want",
			options->listen.text);
	if (options->scanner_kind == SCANNER_EXEC && options->scan_limit_bytes == 0)
		options->scan_limit_bytes = EXEC_SCAN_LIMIT_DEFAULT;
	if (options->state)
		return 0;

	bytes = strlen(options->bucket);
	while (bytes > 1 && options->bucket[bytes - 1] == '/')
		bytes--;
	if (asprintf(&options->state, "%.*s.state", (int)bytes, options->bucket) < 0) {
		options->state = NULL;
		return flags_fail(flags, "out of memory");
	}
	return 0;
}

int options_parse(struct options *options, int argc, char **argv, char *error)
{
	struct flags flags = { .options = options, .program = "ew-ingest", .error = error };
	int r;

	*options = (struct options){
		.verb = VERB_SERVE,
		.mode = 0640,
		.scan_slots = 4,
		.waiting = 100,
		.size_max_bytes = UINT64_C(10) << 30,
		.grace_ns = 30 * SECOND_NS,
	};

	r = flags_read(&flags, table, argc, argv);
	if (r > 0)
		options->verb = r == 'h' ? VERB_HELP : VERB_VERSION;
	return r == 0 ? complete(&flags) : r < 0 ? r : 0;
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
	       "  --dead-link SECONDS         a client that acknowledges nothing for so long has left (60)\n"
	       "  --host NAME                 another host name of this server on loopback; may be repeated\n"
	       "  --origin ORIGIN             a web page's origin that may send requests; may be repeated\n"
	       "  --client-half-close cancel|finish\n"
	       "                              what a client means that closes its sending side (cancel)\n"
	       "  --scanner-note TEXT         a line for the start block; may be repeated\n"
	       "\n"
	       "  --help, --version           say this, say the version\n";
}
