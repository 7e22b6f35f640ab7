/* SPDX-License-Identifier: Apache-2.0 */
/*
 * ew-gateway: turns an HTTP request into an AMQP operation, and cancels it at the backend when the client leaves. Flags
 * here, the server in server.c, a request in routes.c, an operation in submit.c and serve.c, the broker in broker.c.
 */
#include <stdio.h>
#include <stdlib.h>

#include "common/process.h"

#include "options.h"
#include "server.h"

static int run(const struct options *options)
{
	switch (options->verb) {
	case VERB_HELP: fputs(options_help(), stdout); return 0;
	case VERB_VERSION: printf("ew-gateway %s\n", EW_GATEWAY_VERSION); return 0;
	case VERB_SERVE: return server_run(options);
	}
	return SERVER_USAGE;
}

int main(int argc, char **argv)
{
	struct options *options = malloc(sizeof(*options));
	char error[FLAGS_ERROR_BYTES];
	int status = SERVER_USAGE;

	if (process_prepare() < 0 || !options)
		return SERVER_FAILED;
	if (options_parse(options, argc, argv, error) < 0)
		fprintf(stderr, "ew-gateway: %s\n", error);
	else
		status = run(options);
	options_deinit(options);
	free(options);
	return status;
}
