/* SPDX-License-Identifier: Apache-2.0 */
/*
 * ew-ingest: takes uploads in, has them virus-scanned, and publishes them atomically. Flags here,
 * the server in server.c, a request in routes.c, an upload in receive.c.
 */
#include <stdio.h>
#include <string.h>

#include "common/process.h"

#include "options.h"
#include "server.h"
#include "supervise.h"

static int run(const struct options *options)
{
	switch (options->verb) {
	case VERB_HELP: fputs(options_help(), stdout); return 0;
	case VERB_VERSION: printf("ew-ingest %s\n", EW_INGEST_VERSION); return 0;
	case VERB_SERVE: return server_run(options);
	}
	return SERVER_USAGE;
}

int main(int argc, char **argv)
{
	char error[FLAGS_ERROR_BYTES];
	struct options options;
	int status = SERVER_USAGE;

	if (argc > 1 && strcmp(argv[1], SUPERVISE_VERB) == 0)
		return supervise_main(argc, argv);
	if (process_prepare() < 0)
		return SERVER_FAILED;

	if (options_parse(&options, argc, argv, error) < 0)
		fprintf(stderr, "ew-ingest: %s\n", error);
	else
		status = run(&options);
	options_deinit(&options);
	return status;
}
