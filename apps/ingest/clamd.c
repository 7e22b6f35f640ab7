/* SPDX-License-Identifier: Apache-2.0 */
/*
 * clamd's protocol: a command with the prefix `z` ends in NUL, and so does its answer, with one
 * exception: `COMMAND READ TIMED OUT` ends in a newline. clamd closes the connection after the
 * answer, which the caller awaits, so what is parsed here is all there will ever be.
 *
 * A scanner's answer decides whether bytes become a file that others trust. So the parser knows a
 * few forms, and takes everything else for an error: a second line, bytes after the NUL, an unknown
 * ending, an answer that was cut, an object other than a descriptor that was passed.
 */
#include "clamd.h"

#include <stdbool.h>
#include <string.h>

static const struct {
	const char *text;
	size_t bytes;
} commands[] = {
	[CLAMD_PING] = { "zPING", sizeof("zPING") },
	[CLAMD_VERSION] = { "zVERSION", sizeof("zVERSION") },
	[CLAMD_FILDES] = { "zFILDES", sizeof("zFILDES") },
};

const char *clamd_command(enum clamd_command command, size_t *ret_bytes)
{
	*ret_bytes = commands[command].bytes;
	return commands[command].text;
}

/* A stretch of an answer, without terminator. */
struct span {
	const char *at;
	size_t bytes;
};

static bool is(struct span span, const char *text)
{
	return span.bytes == strlen(text) && memcmp(span.at, text, span.bytes) == 0;
}

static bool cut_prefix(struct span *span, const char *prefix)
{
	size_t bytes = strlen(prefix);

	if (span->bytes < bytes || memcmp(span->at, prefix, bytes) != 0)
		return false;
	span->at += bytes;
	span->bytes -= bytes;
	return true;
}

static bool cut_suffix(struct span *span, const char *suffix)
{
	size_t bytes = strlen(suffix);

	if (span->bytes < bytes || memcmp(span->at + span->bytes - bytes, suffix, bytes) != 0)
		return false;
	span->bytes -= bytes;
	return true;
}

/* The one line of an answer without its NUL; everything in it is printable ASCII. */
static enum clamd_reply one_line(const char *reply, size_t reply_bytes, struct span *ret_line)
{
	static const char timed_out[] = "COMMAND READ TIMED OUT";
	struct span line = { reply, reply_bytes };

	if (reply_bytes < 2 || reply_bytes > CLAMD_REPLY_BYTES_MAX)
		return CLAMD_NONSENSE;

	line.bytes--;
	if (is(line, timed_out) && (reply[line.bytes] == '\n' || reply[line.bytes] == '\0'))
		return CLAMD_TIMED_OUT;
	if (reply[line.bytes] != '\0')
		return CLAMD_NONSENSE;
	for (size_t i = 0; i < line.bytes; i++)
		if (line.at[i] < ' ' || line.at[i] > '~')
			return CLAMD_NONSENSE;
	if (cut_suffix(&line, " ERROR") || is(line, "ERROR"))
		return CLAMD_ERROR;

	*ret_line = line;
	return CLAMD_SCANNED;
}

/* `fd[12]: `, with clamd's own number of the descriptor; what else there is answers other commands. */
static bool cut_object(struct span *line)
{
	size_t digits = 0;

	if (!cut_prefix(line, "fd["))
		return false;
	while (digits < line->bytes && line->at[digits] >= '0' && line->at[digits] <= '9')
		digits++;
	if (digits == 0 || digits > 10)
		return false;
	line->at += digits;
	line->bytes -= digits;
	return cut_prefix(line, "]: ");
}

static bool is_signature(struct span name)
{
	if (name.bytes == 0 || name.bytes >= VERDICT_TEXT_BYTES)
		return false;
	return memchr(name.at, ' ', name.bytes) == NULL;
}

enum clamd_reply clamd_parse_scan(const char *reply, size_t reply_bytes, struct verdict *verdict)
{
	enum clamd_reply what;
	struct span line, name;

	what = one_line(reply, reply_bytes, &line);
	if (what != CLAMD_SCANNED)
		return what;
	if (!cut_object(&line))
		return CLAMD_NONSENSE;

	if (is(line, "OK")) {
		verdict->kind = VERDICT_CLEAN;
		verdict->signature[0] = '\0';
		return CLAMD_SCANNED;
	}
	if (!cut_suffix(&line, " FOUND") || !is_signature(line))
		return CLAMD_NONSENSE;

	name = line;
	verdict->kind =
		cut_prefix(&name, "Heuristics.Limits.") ? VERDICT_UNSCANNABLE : VERDICT_INFECTED;
	memcpy(verdict->signature, line.at, line.bytes);
	verdict->signature[line.bytes] = '\0';
	return CLAMD_SCANNED;
}

enum clamd_reply clamd_parse_ping(const char *reply, size_t reply_bytes)
{
	enum clamd_reply what;
	struct span line;

	what = one_line(reply, reply_bytes, &line);
	if (what != CLAMD_SCANNED)
		return what;
	return is(line, "PONG") ? CLAMD_PONG : CLAMD_NONSENSE;
}

enum clamd_reply clamd_parse_version(const char *reply, size_t reply_bytes, char *ret_engine)
{
	enum clamd_reply what;
	struct span line, rest;

	what = one_line(reply, reply_bytes, &line);
	if (what != CLAMD_SCANNED)
		return what;
	rest = line;
	if (!cut_prefix(&rest, "ClamAV ") || rest.bytes == 0 || line.bytes >= VERDICT_TEXT_BYTES)
		return CLAMD_NONSENSE;

	memcpy(ret_engine, line.at, line.bytes);
	ret_engine[line.bytes] = '\0';
	return CLAMD_SCANNED;
}
