/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* The command line of a server: `--name value` and `--name=value`, read one by one from a table. */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/socket.h>

#define FLAGS_ERROR_BYTES 512

/* Each server's own; here nobody looks into it. */
struct options;

/**
 * struct flags - a reading
 * @program: for its messages
 * @name:    of the flag that is being read; NULL: it is about none
 * @error:   receives one sentence that names the flag and what is wrong with it; FLAGS_ERROR_BYTES
 */
struct flags {
	struct options *options;
	const char *program;
	const char *name;
	char *error;
};

/* One that takes a value, or, with @set, one that takes none. */
struct flag {
	const char *name;
	int (*read)(struct flags *flags, const char *value);
	void (*set)(struct options *options);
};

/* What is wrong, as a sentence behind the flag's name; -EINVAL */
int flags_fail(struct flags *flags, const char *format, ...) __attribute__((format(printf, 2, 3)));

#define FLAGS_WRONG_BYTES 128

/* A whole number from @min to @max; -EINVAL with what is wrong in @wrong, of FLAGS_WRONG_BYTES */
int flags_parse_number(const char *value, uint64_t min, uint64_t max, uint64_t *ret_number,
		       char *wrong);

/* The same, of a flag */
int flags_number(struct flags *flags, const char *value, uint64_t min, uint64_t max,
		 uint64_t *ret_number);

/* Where to listen: `ADDR:PORT`, a number each */
struct flags_address {
	const char *text; /* as it was given */
	struct sockaddr_storage address;
	socklen_t bytes;
	bool loopback;
};

int flags_address(struct flags *flags, const char *value, struct flags_address *ret_address);

/* A whole number of seconds, from 0 to a day */
int flags_seconds(struct flags *flags, const char *value, int64_t *ret_ns);

/* How long a client that acknowledges nothing is believed to be there: from 3 s to 10 minutes */
int flags_dead_link(struct flags *flags, const char *value, int64_t *ret_ns);

/* One of two words */
int flags_choice(struct flags *flags, const char *value, const char *no, const char *yes,
		 bool *ret_yes);

#define FLAGS_LIST_MAX 32

/* A flag that may be repeated */
struct flags_list {
	const char *items[FLAGS_LIST_MAX];
	size_t count;
};

int flags_add(struct flags *flags, struct flags_list *list, const char *value);

/* One more origin of a web page, and host name without a port */
int flags_origin(struct flags *flags, const char *value, struct flags_list *list);
int flags_host(struct flags *flags, const char *value, struct flags_list *list);

/**
 * flags_read() - read what `main()` was given
 * @table: ends with a NULL name
 *
 * The first argument may be the verb `serve`.
 * Return: 0, 'h' or 'V': help or the version is wanted; -EINVAL.
 */
int flags_read(struct flags *flags, const struct flag *table, int argc, char **argv);
