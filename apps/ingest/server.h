/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* The server: what all workers share, and its life from the first listener to the last ending. */

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include <endwell/semaphore.h>

#include "common/access.h"
#include "common/bucket.h"
#include "common/front.h"
#include "common/line.h"

#include "capacity.h"
#include "metrics.h"
#include "options.h"
#include "scanner.h"
#include "story.h"
#include "volume.h"

struct server {
	const struct options *options;
	struct front front;
	struct capacity capacity;
	struct access access;
	struct metrics metrics;
	struct bucket bucket;
	struct volume volume;
	struct story_ring *stories;
	struct scanner *scanner;
	struct ew_semaphore *connections;
	struct line uploads;	      /* for the upload slots */
	struct ew_semaphore *scans;   /* the scan slots */
	struct ew_semaphore *sealing; /* a file that is being sealed is open twice */
	_Atomic uint64_t uploads_cut; /* by the end of the grace */
};

/* Starts, serves until a signal, drains; returns an exit status. Messages go to standard error. */
int server_run(const struct options *options);

/*
 * The parts of that, for whoever has a runtime: a server with its bucket and its lease, not serving. Does not suspend, but
 * its calls to the filesystem may block. @options are borrowed. -errno; a message has gone to standard error.
 */
int server_new(const struct options *options, struct server **ret_server);

/* Serves until front_stop(), then drains; once. @server is a struct server */
EW_SUSPENDS int server_serve(void *server);

void server_free(struct server *server);

/* The largest file that is taken: by the server's limit, and by the scanner's if that is known. */
uint64_t server_size_max(const struct server *server);
