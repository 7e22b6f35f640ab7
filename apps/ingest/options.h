/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* The command line. */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "common/flags.h"

#define OPTIONS_ARGUMENTS_MAX 64

#define UPLOAD_SLOTS_MAX 65535
#define SCAN_SLOTS_MAX	 24 /* each may hold six descriptors, out of the reserve in capacity.h */

enum options_verb {
	VERB_SERVE,
	VERB_HELP,
	VERB_VERSION,
};

enum scanner_kind {
	SCANNER_UNSET,
	SCANNER_NONE,
	SCANNER_CLAMD,
	SCANNER_EXEC,
};

struct options {
	enum options_verb verb;

	struct flags_address listen;
	bool public;

	const char *bucket;
	char *state; /* heap memory */
	mode_t mode;

	const char *scanner; /* as given */
	enum scanner_kind scanner_kind;
	const char *scanner_socket;
	char *scanner_words; /* heap memory: the words of the command, each with its NUL */
	char *scanner_arguments[OPTIONS_ARGUMENTS_MAX + 1];
	struct flags_list scanner_notes;

	struct flags_list hosts;
	struct flags_list origins;

	uint64_t upload_slots; /* 0: as many as fit */
	uint64_t scan_slots;
	uint64_t waiting;
	uint64_t size_max_bytes;
	uint64_t scan_limit_bytes; /* 0: none of our own */
	int64_t grace_ns;
	int64_t dead_link_ns; /* 0: what http/ has */
	bool half_close_finish;
};

/**
 * options_parse() - read the command line
 * @options: filled in with what was given and the defaults
 * @argc:    of main()
 * @argv:    of main(); @options points into it
 * @error:   receives one sentence that names the option and what is wrong with it;
 *           FLAGS_ERROR_BYTES
 *
 * Return: 0 or -EINVAL; options_deinit() is due in both cases.
 */
int options_parse(struct options *options, int argc, char **argv, char *error);
void options_deinit(struct options *options);

/* The text of `--help`. */
const char *options_help(void);
