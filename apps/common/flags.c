/* SPDX-License-Identifier: Apache-2.0 */
/* A mistake is answered with the flag, the value, and what would be right. */
#include "flags.h"

#include <errno.h>
#include <inttypes.h>
#include <netdb.h>
#include <netinet/in.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <endwell/base.h>

int flags_fail(struct flags *flags, const char *format, ...)
{
	va_list arguments;
	int length = 0;

	if (flags->name)
		length = snprintf(flags->error, FLAGS_ERROR_BYTES, "%s: ", flags->name);
	va_start(arguments, format);
	vsnprintf(flags->error + length, FLAGS_ERROR_BYTES - (size_t)length, format, arguments);
	va_end(arguments);
	return -EINVAL;
}

int flags_parse_number(const char *value, uint64_t min, uint64_t max, uint64_t *ret_number,
		       char *wrong)
{
	unsigned long long number;
	char *end;

	errno = 0;
	number = strtoull(value, &end, 10);
	if (*value < '0' || *value > '9' || *end || errno) {
		snprintf(wrong, FLAGS_WRONG_BYTES, "`%.64s` is not a number", value);
		return -EINVAL;
	}
	if (number < min || number > max) {
		snprintf(wrong, FLAGS_WRONG_BYTES, "%.64s is outside %" PRIu64 " to %" PRIu64,
			 value, min, max);
		return -EINVAL;
	}
	*ret_number = number;
	return 0;
}

int flags_number(struct flags *flags, const char *value, uint64_t min, uint64_t max,
		 uint64_t *ret_number)
{
	char wrong[FLAGS_WRONG_BYTES];

	if (flags_parse_number(value, min, max, ret_number, wrong) < 0)
		return flags_fail(flags, "%s", wrong);
	return 0;
}

static bool is_loopback(const struct sockaddr_storage *address)
{
	if (address->ss_family == AF_INET)
		return ntohl(((const struct sockaddr_in *)address)->sin_addr.s_addr) >> 24 == 127;
	return IN6_IS_ADDR_LOOPBACK(&((const struct sockaddr_in6 *)address)->sin6_addr);
}

int flags_address(struct flags *flags, const char *value, struct flags_address *ret_address)
{
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
		return flags_fail(
			flags, "`%s` is not ADDR:PORT such as 127.0.0.1:8080 or [::1]:8080", value);
	r = flags_number(flags, colon + 1, 0, 65535, &port);
	if (r < 0)
		return r;

	bytes = (size_t)(colon - value);
	if (host[0] == '[' && colon[-1] == ']' && bytes > 2)
		host++, bytes -= 2;
	else if (memchr(host, ':', bytes))
		return flags_fail(
			flags, "`%s`: an IPv6 address goes in brackets, such as [::1]:8080", value);
	if (bytes >= sizeof(text))
		return flags_fail(flags, "`%s` is not an address", value);
	memcpy(text, host, bytes);
	text[bytes] = '\0';

	if (getaddrinfo(text, colon + 1, &hints, &found) != 0)
		return flags_fail(
			flags,
			"`%s` is not an IP address; names are not looked up, try 127.0.0.1:%" PRIu64,
			text, port);
	*ret_address = (struct flags_address){ .text = value, .bytes = found->ai_addrlen };
	memcpy(&ret_address->address, found->ai_addr, found->ai_addrlen);
	ret_address->loopback = is_loopback(&ret_address->address);
	freeaddrinfo(found);
	return 0;
}

static int seconds_between(struct flags *flags, const char *value, uint64_t least, uint64_t most,
			   int64_t *ret_ns)
{
	uint64_t seconds;
	int r;

	r = flags_number(flags, value, least, most, &seconds);
	if (r == 0)
		*ret_ns = (int64_t)seconds * EW_SECOND;
	return r;
}

int flags_seconds(struct flags *flags, const char *value, int64_t *ret_ns)
{
	return seconds_between(flags, value, 0, 86400, ret_ns);
}

int flags_dead_link(struct flags *flags, const char *value, int64_t *ret_ns)
{
	return seconds_between(flags, value, 3, 600, ret_ns);
}

int flags_choice(struct flags *flags, const char *value, const char *no, const char *yes,
		 bool *ret_yes)
{
	if (strcmp(value, no) != 0 && strcmp(value, yes) != 0)
		return flags_fail(flags, "`%s` is neither %s nor %s", value, no, yes);
	*ret_yes = strcmp(value, yes) == 0;
	return 0;
}

int flags_add(struct flags *flags, struct flags_list *list, const char *value)
{
	if (list->count == FLAGS_LIST_MAX)
		return flags_fail(flags, "given more than %d times", FLAGS_LIST_MAX);
	list->items[list->count++] = value;
	return 0;
}

int flags_origin(struct flags *flags, const char *value, struct flags_list *list)
{
	const char *host = strstr(value, "://");

	if (!host || host == value || !host[3] || strchr(host + 3, '/'))
		return flags_fail(flags, "`%s` is not an origin such as https://files.example.org",
				  value);
	return flags_add(flags, list, value);
}

int flags_host(struct flags *flags, const char *value, struct flags_list *list)
{
	if (!*value || value[strcspn(value, "/ ")] != '\0' ||
	    (value[0] != '[' && strchr(value, ':')))
		return flags_fail(flags, "`%s` is not a host name without port", value);
	return flags_add(flags, list, value);
}

static int read_one(struct flags *flags, const struct flag *table, const char *argument,
		    char **argv, int *at)
{
	size_t bytes = strcspn(argument, "=");

	for (const struct flag *flag = table; flag->name; flag++) {
		if (strlen(flag->name) != bytes || memcmp(flag->name, argument, bytes) != 0)
			continue;
		flags->name = flag->name;
		if (flag->set && argument[bytes] == '=')
			return flags_fail(flags, "takes no value");
		if (flag->set) {
			flag->set(flags->options);
			return 0;
		}
		if (argument[bytes] == '=')
			return flag->read(flags, argument + bytes + 1);
		if (!argv[*at + 1])
			return flags_fail(flags, "needs a value");
		return flag->read(flags, argv[++*at]);
	}
	return flags_fail(flags, "`%s` is not an option; `%s --help` lists them", argument,
			  flags->program);
}

int flags_read(struct flags *flags, const struct flag *table, int argc, char **argv)
{
	int r = 0;

	for (int at = 1; at < argc && r == 0; at++) {
		const char *argument = argv[at];

		flags->name = NULL;
		if (at == 1 && strcmp(argument, "serve") == 0)
			continue;
		if (strcmp(argument, "--help") == 0)
			return 'h';
		if (strcmp(argument, "--version") == 0)
			return 'V';
		if (argument[0] != '-')
			return flags_fail(flags, "`%s` is not a verb: there is `serve`", argument);
		r = read_one(flags, table, argument, argv, &at);
	}
	flags->name = NULL;
	return r;
}
