/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A name is judged after it has been decoded, and exactly once: whoever decodes twice turns
 * %252e%252e into a way out of the bucket. What remains is opened relative to the bucket's
 * descriptor, so a single segment that neither starts with a dot nor contains a slash cannot leave
 * it. Control characters are refused because names end up on terminals and in log lines, C1
 * included: U+009B starts an escape sequence.
 */
#include "name.h"

#include <stdint.h>
#include <string.h>

static int hex_digit(char c)
{
	if (c >= '0' && c <= '9')
		return c - '0';
	if (c >= 'a' && c <= 'f')
		return c - 'a' + 10;
	if (c >= 'A' && c <= 'F')
		return c - 'A' + 10;
	return -1;
}

/*
 * The number of bytes of the well-formed UTF-8 sequence at @at, 0 if there is none (RFC 3629,
 * section 4).
 */
static size_t utf8_sequence(const uint8_t *at, size_t bytes, uint32_t *ret_rune)
{
	uint32_t rune, least;
	size_t length;

	if (at[0] < 0x80) {
		*ret_rune = at[0];
		return 1;
	} else if ((at[0] & 0xe0) == 0xc0) {
		length = 2, rune = at[0] & 0x1f, least = 0x80;
	} else if ((at[0] & 0xf0) == 0xe0) {
		length = 3, rune = at[0] & 0x0f, least = 0x800;
	} else if ((at[0] & 0xf8) == 0xf0) {
		length = 4, rune = at[0] & 0x07, least = 0x10000;
	} else {
		return 0;
	}

	if (length > bytes)
		return 0;
	for (size_t i = 1; i < length; i++) {
		if ((at[i] & 0xc0) != 0x80)
			return 0;
		rune = rune << 6 | (at[i] & 0x3f);
	}
	if (rune < least || rune > 0x10ffff || (rune >= 0xd800 && rune <= 0xdfff))
		return 0;

	*ret_rune = rune;
	return length;
}

static const char *check(const char *name, size_t bytes)
{
	size_t length;
	uint32_t rune;

	if (bytes == 0)
		return "The file name is empty: put one after the last slash.";
	if (name[0] == '.')
		return "The file name starts with a dot: choose a name that does not.";

	for (size_t at = 0; at < bytes; at += length) {
		length = utf8_sequence((const uint8_t *)name + at, bytes - at, &rune);
		if (length == 0)
			return "The file name is not valid UTF-8: encode it as UTF-8, then percent-encode it.";
		if (rune == '/')
			return "The file name contains a slash: folders do not exist here.";
		if (rune == 0)
			return "The file name contains a NUL byte.";
		if (rune < 0x20 || rune == 0x7f)
			return "The file name contains a control character.";
		if (rune >= 0x80 && rune <= 0x9f)
			return "The file name contains a C1 control character.";
	}
	return NULL;
}

const char *name_from_target(const char *target, size_t target_bytes, const char *prefix,
			     char *ret_name)
{
	size_t prefix_bytes = strlen(prefix), bytes = 0;
	char name[NAME_BYTES_MAX + 1];
	const char *reason;

	if (target_bytes < prefix_bytes || memcmp(target, prefix, prefix_bytes) != 0)
		return "The path is not one that holds files.";

	for (size_t at = prefix_bytes; at < target_bytes; at++) {
		char c = target[at];

		if (c == '?')
			return "A query is not accepted here: leave out the question mark and what follows it, "
			       "or write it as %3F if it belongs to the name.";
		if (c == '#')
			return "A fragment does not belong into a request: write the number sign as %23 if it "
			       "belongs to the name.";
		if (c == '%') {
			int high, low;

			if (target_bytes - at < 3)
				return "The file name ends in an incomplete percent escape.";
			high = hex_digit(target[at + 1]);
			low = hex_digit(target[at + 2]);
			if (high < 0 || low < 0)
				return "The file name contains a percent sign that two hex digits do not "
				       "follow: write it as %25.";
			c = (char)(high << 4 | low);
			at += 2;
		} else if (c == '/') {
			return "The file name contains a slash: folders do not exist here.";
		}

		if (bytes == NAME_BYTES_MAX)
			return "The file name is longer than 255 bytes.";
		name[bytes++] = c;
	}

	reason = check(name, bytes);
	if (reason)
		return reason;

	memcpy(ret_name, name, bytes);
	ret_name[bytes] = '\0';
	return NULL;
}
