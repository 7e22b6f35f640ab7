/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* The command line. */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "amqp/dialer.h"
#include "common/flags.h"
#include "tls/tls.h"

#include "config.h"

#define OPTIONS_BROKERS_MAX 8

enum options_verb {
	VERB_SERVE,
	VERB_HELP,
	VERB_VERSION,
};

/* amqp://USER:PASSWORD@HOST:PORT/VHOST or amqps://..., taken apart. */
struct broker_address {
	bool tls;
	char user[CONFIG_TEXT_BYTES];
	char password[CONFIG_TEXT_BYTES];
	char host[CONFIG_TEXT_BYTES];
	char virtual_host[CONFIG_TEXT_BYTES];
	struct sockaddr_storage address;
	socklen_t bytes;
};

struct options {
	enum options_verb verb;
	struct flags_address listen;
	bool public;
	struct broker_address brokers[OPTIONS_BROKERS_MAX];
	size_t brokers_count;
	struct ew_tls_context_options tls_files;
	const char *tls_server_name; /* NULL: the host of each address */
	struct ew_tls_context *tls;  /* NULL: the brokers are spoken to without */
	const char *config_path;
	const char *instance; /* which of several gateways this is; NULL: nobody asks */
	struct config config;
	struct flags_list hosts;
	struct flags_list origins;
	int64_t grace_ns;
	int64_t dead_link_ns; /* 0: what http/ has */
};

/**
 * options_parse() - read the command line, and the configuration file
 * @error: receives one sentence; FLAGS_ERROR_BYTES
 *
 * Names of brokers are looked up here, once.
 * Return: 0 or -EINVAL
 */
int options_parse(struct options *options, int argc, char **argv, char *error);

/* Also if the parsing failed; idempotent. */
void options_deinit(struct options *options);

/* The text of `--help`. */
const char *options_help(void);
