/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * tests/apps/malformed/table.h - read the table of requests beside this file
 *
 * The format is explained at the top of the table. A mistake in the table ends the program.
 */

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct malformed_case {
	char name[64];
	int status; /* 0: not refused */
	bool more;  /* not complete either */
	unsigned int messages;
	unsigned long body_bytes;
	char *bytes;
	size_t len;
};

#define MALFORMED_BYTES_MAX 65536

static inline void malformed_give_up(const char *path, int number, const char *what)
{
	fprintf(stderr, "%s:%d: %s\n", path, number, what);
	exit(2);
}

/* Turns the escapes of @text into bytes; returns their number, or -1. */
static inline long malformed_unescape(const char *text, const char *end, char *ret_bytes,
				      size_t size)
{
	size_t len = 0;

	while (text < end) {
		unsigned int byte = (unsigned char)*text++, count;
		const char *close;
		int taken = 0;
		long one;

		if (len >= size)
			return -1;
		if (byte != '\\') {
			ret_bytes[len++] = (char)byte;
			continue;
		}
		switch (text < end ? *text++ : 0) {
		case 'r': ret_bytes[len++] = '\r'; break;
		case 'n': ret_bytes[len++] = '\n'; break;
		case 't': ret_bytes[len++] = '\t'; break;
		case '\\': ret_bytes[len++] = '\\'; break;
		case 'x':
			if (end - text < 2 || sscanf(text, "%2x", &byte) != 1)
				return -1;
			ret_bytes[len++] = (char)byte;
			text += 2;
			break;
		case '{':
			close = strstr(text, "\\}");
			if (!close || sscanf(text, "%u %n", &count, &taken) != 1 || count == 0)
				return -1;
			one = malformed_unescape(text + taken, close, ret_bytes + len, size - len);
			if (one < 0 || (size_t)one * count > size - len)
				return -1;
			for (unsigned int i = 1; i < count; i++)
				memcpy(ret_bytes + len + i * (size_t)one, ret_bytes + len,
				       (size_t)one);
			len += (size_t)one * count;
			text = close + 2;
			break;
		default: return -1;
		}
	}
	return (long)len;
}

/* malformed_load() - all cases of the table, read once; they stay until the program ends */
static inline struct malformed_case *malformed_load(const char *path, size_t *ret_count)
{
	static char bytes[MALFORMED_BYTES_MAX];
	static struct malformed_case *cases;
	static size_t count;
	char *line = NULL;
	size_t size = 0;
	int number = 0;
	FILE *file;

	*ret_count = count;
	if (cases)
		return cases;
	file = fopen(path, "re");
	if (!file)
		malformed_give_up(path, 0, "cannot be opened");
	while (getline(&line, &size, file) >= 0) {
		struct malformed_case one = {};
		char outcome[24];
		int at = 0;
		long len;

		number++;
		line[strcspn(line, "\n")] = 0;
		if (!line[0] || line[0] == '#')
			continue;
		if (sscanf(line, "%23s %63s%n", outcome, one.name, &at) != 2 || line[at] != ' ')
			malformed_give_up(path, number, "not of three parts");
		if (!strcmp(outcome, "more"))
			one.more = true;
		else if (sscanf(outcome, "ok:%u:%lu", &one.messages, &one.body_bytes) != 2)
			one.status = atoi(outcome);
		if (!one.more && !one.messages && (one.status < 400 || one.status > 505))
			malformed_give_up(path, number, "unknown outcome");
		len = malformed_unescape(line + at + 1, line + strlen(line), bytes, sizeof(bytes));
		if (len < 0)
			malformed_give_up(path, number, "bad escape, or too long");
		one.len = (size_t)len;
		one.bytes = malloc(one.len + 1);
		cases = realloc(cases, (count + 1) * sizeof(*cases));
		if (!cases || !one.bytes)
			malformed_give_up(path, number, "no memory");
		memcpy(one.bytes, bytes, one.len);
		cases[count++] = one;
	}
	free(line);
	fclose(file);
	*ret_count = count;
	return cases;
}
