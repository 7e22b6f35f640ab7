/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The form is that of version 00 (W3C Trace Context, section 3.2); of a later version only what 00 has is read, as the
 * specification wants it.
 */
#include "trace.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/hex.h"

#define TRACE_ID_AT  3
#define PARENT_ID_AT 36
#define FLAGS_AT     53
#define LENGTH	     55

static bool is_hex(const char *text, size_t bytes)
{
	return strspn(text, "0123456789abcdef") >= bytes;
}

static bool is_zero(const char *text, size_t bytes)
{
	return strspn(text, "0") >= bytes;
}

/* @text has LENGTH bytes and a NUL. */
static bool is_well_formed(const char *text)
{
	return is_hex(text, 2) && text[2] == '-' && is_hex(text + TRACE_ID_AT, 32) &&
	       text[35] == '-' && is_hex(text + PARENT_ID_AT, 16) && text[52] == '-' &&
	       is_hex(text + FLAGS_AT, 2) && strncmp(text, "ff", 2) != 0 &&
	       !is_zero(text + TRACE_ID_AT, 32) && !is_zero(text + PARENT_ID_AT, 16);
}

static bool read_given(const struct http_slice *given, char ret_text[TRACE_BYTES])
{
	if (!given || given->len < LENGTH)
		return false;
	memcpy(ret_text, given->data, LENGTH);
	ret_text[LENGTH] = '\0';
	if (given->len > LENGTH && (strncmp(ret_text, "00", 2) == 0 || given->data[LENGTH] != '-'))
		return false;
	return is_well_formed(ret_text);
}

static void put_random(char *text, size_t bytes)
{
	uint8_t random[16];
	char digits[33];

	arc4random_buf(random, bytes);
	random[0] |= 1; /* all zeros would be none */
	hex_print(random, bytes, digits);
	memcpy(text, digits, 2 * bytes);
}

void trace_make(const struct http_slice *given, char ret_text[TRACE_BYTES])
{
	char text[TRACE_BYTES];

	if (!read_given(given, text)) {
		strcpy(text, "00-00000000000000000000000000000000-0000000000000000-00");
		put_random(text + TRACE_ID_AT, 16);
	}
	text[0] = text[1] = '0';
	put_random(text + PARENT_ID_AT, 8);
	memcpy(ret_text, text, TRACE_BYTES);
}
