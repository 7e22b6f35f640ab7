/* SPDX-License-Identifier: Apache-2.0 */
/*
 * ew-ingest: takes uploads in, has them virus-scanned, and publishes them atomically. Flags here,
 * the server in server.c, a request in routes.c, an upload in receive.c.
 */
#include <fcntl.h>
#include <malloc.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "options.h"
#include "server.h"
#include "supervise.h"

#define MEMORY_KEPT_BYTES (32 << 20) /* free, for each thread's heap */

static int run(const struct options *options)
{
	switch (options->verb) {
	case VERB_HELP: fputs(options_help(), stdout); return 0;
	case VERB_VERSION: printf("ew-ingest %s\n", EW_INGEST_VERSION); return 0;
	case VERB_SERVE: return server_run(options);
	}
	return SERVER_USAGE;
}

/*
 * A parent may have closed them; then the next file opened would get their numbers, and log lines
 * would be written into it.
 */
static int fill_standard_descriptors(void)
{
	int fd;

	do
		fd = open("/dev/null", O_RDWR);
	while (fd >= 0 && fd <= STDERR_FILENO);
	return fd < 0 ? fd : close(fd);
}

int main(int argc, char **argv)
{
	char error[OPTIONS_ERROR_BYTES];
	struct options options;
	int status = SERVER_USAGE;

	/* Else memory goes back to the kernel, and comes from it again, with every few uploads that end (mallopt(3)). */
	mallopt(M_TRIM_THRESHOLD, MEMORY_KEPT_BYTES);

	if (argc > 1 && strcmp(argv[1], SUPERVISE_VERB) == 0)
		return supervise_main(argc, argv);
	if (fill_standard_descriptors() < 0)
		return SERVER_FAILED;

	if (options_parse(&options, argc, argv, error) < 0)
		fprintf(stderr, "ew-ingest: %s\n", error);
	else
		status = run(&options);
	options_deinit(&options);
	return status;
}
