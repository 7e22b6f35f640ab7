/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The life of the server is nested like its scopes. The services (scan slots, the scanner's test,
 * the directory sync) outlive the workers, because an upload that ends needs them; inside them is
 * the front (apps/common/front.c), and in there the sessions. A shutdown goes from the inside out:
 * sessions end, then the scanner's last answers are awaited, then the services end.
 */
#include "server.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <endwell/clock.h>
#include <endwell/run.h>
#include <endwell/signals.h>
#include <endwell/socket.h>
#include <endwell/task.h>

#include "common/log.h"
#include "common/process.h"
#include "common/text.h"
#include "routes.h"

#define SEALING_MAX 16

#define STORIES_MIN	1024
#define FIRST_TEST_WAIT (3 * EW_SECOND)
#define LOOK_INTERVAL	(10 * EW_MILLISECOND)

/* Header fields that pages of other origins may read. */
#define EXPOSED "Location, Retry-After, Allow"

uint64_t server_size_max(const struct server *server)
{
	uint64_t most = server->options->size_max_bytes;

	if (server->options->scanner_kind != SCANNER_NONE &&
	    server->options->scan_limit_bytes > 0 && server->options->scan_limit_bytes < most)
		most = server->options->scan_limit_bytes;
	return most;
}

static void print_block(struct server *server)
{
	const struct options *options = server->options;
	char address[96], sum[256], engine[VERDICT_TEXT_BYTES], reason[SCANNER_REASON_BYTES];
	struct text text;
	size_t bytes;
	char *whole;
	FILE *block;

	if (!text_begin(&text))
		return;
	block = text.file;
	front_address(&server->front, address, sizeof(address));
	capacity_print(&server->capacity, sum, sizeof(sum));
	scanner_engine(server->scanner, engine);

	fprintf(block, "ew-ingest %s\n", EW_INGEST_VERSION);
	fprintf(block, "  address  %s%s\n", address,
		options->listen.loopback ? "" : ", open to whoever reaches it (--public)");
	fprintf(block, "  bucket   %s, files of at most %llu bytes get mode %04o\n",
		options->bucket, (unsigned long long)server_size_max(server),
		(unsigned int)options->mode);
	fprintf(block, "  staging  %s\n", staging_describe(&server->bucket.staging));
	if (options->scanner_kind == SCANNER_NONE)
		fprintf(block,
			"  scanner  none: WARNING: files are published without having been looked at\n");
	else if (scanner_ready(server->scanner, reason))
		fprintf(block, "  scanner  %s, %s\n", options->scanner, engine);
	else
		fprintf(block, "  scanner  %s, not ready, uploads get 503: %s\n", options->scanner,
			reason);
	for (size_t i = 0; i < options->scanner_notes.count; i++)
		fprintf(block, "           %s\n", options->scanner_notes.items[i]);
	fprintf(block, "  driver   %s, %u workers\n", ew_driver_name(), ew_workers_count());
	fprintf(block, "  limits   %s\n", sum);
	fprintf(block,
		"           %llu scans at the same time, %llu requests wait for an upload slot, "
		"shutdown within %lld s\n",
		(unsigned long long)(options->scanner_kind == SCANNER_NONE ? 0
									   : options->scan_slots),
		(unsigned long long)options->waiting,
		(long long)(options->grace_ns / EW_SECOND + FRONT_ENDING_BUDGET / EW_SECOND));
	fprintf(block, "  try      curl -T FILE %s/files/NAME\n", address);

	whole = text_end(&text, &bytes);
	if (whole)
		log_block(whole);
}

/* A scanner that is just starting is worth a moment, so that the block can name its signatures. */
static int say_ready(void *argument)
{
	struct server *server = argument;
	int64_t deadline = ew_after(FIRST_TEST_WAIT);
	char reason[SCANNER_REASON_BYTES];
	int r = -ETIMEDOUT;

	while (r == -ETIMEDOUT && !scanner_ready(server->scanner, reason) && ew_now() < deadline)
		r = front_await_stop(&server->front, ew_after(LOOK_INTERVAL));
	if (r != -ETIMEDOUT)
		return r;
	print_block(server);
	return 0;
}

/* clamd does not stop when we do; what it still scans is waited for within the grace. */
static int await_scanner(void *argument)
{
	struct server *server = argument;
	int r = 0;

	while (r == 0 && !front_is_cutting(&server->front)) {
		struct ew_semaphore_counts scans = ew_semaphore_count(server->scans);

		if (scans.held + scans.cancelling == 0)
			break;
		r = ew_sleep(LOOK_INTERVAL);
	}
	return r;
}

static int run_services(struct server *server)
{
	int r, closed;

	EW_SCOPE(services, .policy = EW_POLICY_INDEPENDENT, .budget_ns = FRONT_ENDING_BUDGET);

	r = bucket_start(&server->bucket, &server->front, &services);
	if (r == 0)
		r = volume_start(&server->volume, &server->bucket, &server->front, &services);
	if (r == 0)
		r = scanner_start(server->scanner, &server->front, &services,
				  &server->bucket.staging);
	if (r == 0)
		r = front_run(&server->front, say_ready, await_scanner, server);
	closed = ew_scope_close(&services, EW_NOW, EW_REASON_SHUTDOWN);
	return r == 0 && closed < 0 && closed != -ETIMEDOUT && closed != -ECANCELED ? closed : r;
}

static void close_front(void *front)
{
	front_close(front);
}

static int close_front_close(void *front)
{
	front_close(front);
	return 0;
}

static int run_with_bucket(struct server *server)
{
	int r;

	r = front_open(&server->front);
	if (r < 0)
		return r;

	EW_GUARD(front, &server->front, .close = close_front_close, .abort = close_front);

	return run_services(server);
}

static int close_bucket(void *bucket)
{
	return bucket_close(bucket);
}

static void abort_bucket(void *bucket)
{
	bucket_abort(bucket);
}

int server_serve(void *argument)
{
	struct server *server = argument;
	const struct options *options = server->options;
	char error[FLAGS_ERROR_BYTES];
	int r, closed;

	EW_GUARD(bucket, &server->bucket, .close = close_bucket, .abort = abort_bucket);

	r = bucket_open(&server->bucket, options->bucket, options->state, options->mode,
			server->uploads.semaphore, error, sizeof(error));
	if (r < 0)
		fprintf(stderr, "ew-ingest: %s\n", error);
	else
		r = run_with_bucket(server);
	closed = bucket_end(&bucket);
	return r < 0 ? r : closed;
}

static int serve(void *argument)
{
	struct server *server = argument;
	EW_OWN(ew_signals, signals);
	EW_SCOPE(watching, .policy = EW_POLICY_INDEPENDENT);
	int r;

	r = process_signals(&signals);
	if (r == 0)
		r = front_heed_signals(&server->front, signals, &watching);
	return r < 0 ? r : server_serve(server);
}

static uint64_t memory_budget(void)
{
	return (uint64_t)sysconf(_SC_PHYS_PAGES) * (uint64_t)sysconf(_SC_PAGESIZE) / 2;
}

static int prepare(struct server *server, char *error, size_t error_bytes)
{
	const struct options *options = server->options;
	unsigned int slots;
	int r;

	server->capacity.waiting = options->waiting;
	server->capacity.workers = ew_workers_default();
	server->capacity.asked_slots = options->upload_slots;
	server->capacity.memory_bytes = memory_budget();
	server->capacity.descriptors = front_raise_descriptors();
	r = capacity_compute(&server->capacity, error, error_bytes);
	if (r < 0)
		return r;

	slots = (unsigned int)server->capacity.slots;
	server->access = (struct access){
		.hosts_checked = options->listen.loopback,
		.hosts = options->hosts.items,
		.hosts_count = options->hosts.count,
		.origins = options->origins.items,
		.origins_count = options->origins.count,
		.exposed = EXPOSED,
	};
	server->stories =
		story_ring_new(2 * (size_t)slots > STORIES_MIN ? 2 * (size_t)slots : STORIES_MIN);
	server->uploads.semaphore = ew_semaphore_new(slots, (unsigned int)options->waiting);
	server->scans = ew_semaphore_new(
		options->scanner_kind == SCANNER_NONE ? 0 : (unsigned int)options->scan_slots, 0);
	metrics_init(&server->metrics, server->uploads.semaphore, server->scans);
	server->connections =
		ew_semaphore_new((unsigned int)server->capacity.connections, EW_WORKERS_MAX);
	server->front = (struct front){
		.program = "ew-ingest",
		.listen = options->listen.text,
		.address = options->listen.address,
		.address_bytes = options->listen.bytes,
		.service = { .handler = routes_handle,
			     .refused = routes_refused,
			     .extras = routes_add_fields,
			     .userdata = server,
			     .dead_link_ns = options->dead_link_ns,
			     .half_close_finish = options->half_close_finish },
		.connections = server->connections,
		.grace_ns = options->grace_ns,
	};
	server->sealing = ew_semaphore_new(SEALING_MAX, slots);
	if (!server->stories || !server->uploads.semaphore || !server->scans ||
	    !server->connections || !server->sealing) {
		snprintf(error, error_bytes, "out of memory");
		return -ENOMEM;
	}
	server->scanner = scanner_new(options, &server->metrics, error, error_bytes);
	return server->scanner ? 0 : -EINVAL;
}

void server_free(struct server *server)
{
	bucket_release(&server->bucket);
	server->scanner = scanner_free(server->scanner);
	ew_semaphore_free(server->sealing);
	ew_semaphore_free(server->scans);
	ew_semaphore_free(server->connections);
	ew_semaphore_free(server->uploads.semaphore);
	server->stories = story_ring_free(server->stories);
	free(server);
}

int server_new(const struct options *options, struct server **ret_server)
{
	struct server *server = calloc(1, sizeof(*server));
	char error[FLAGS_ERROR_BYTES] = "out of memory";
	int r = -ENOMEM;

	if (server) {
		server->options = options;
		bucket_init(&server->bucket);
		r = prepare(server, error, sizeof(error));
	}
	if (r == 0)
		r = bucket_prepare(&server->bucket, options->bucket, options->state, error,
				   sizeof(error));
	if (r == 0) {
		*ret_server = server;
		return 0;
	}
	fprintf(stderr, "ew-ingest: %s\n", error);
	if (server)
		server_free(server);
	return r;
}

static int exit_status(const struct server *server, int r)
{
	if (r < 0)
		return SERVER_FAILED;
	if (atomic_load(&server->front.forced))
		return SERVER_FORCED;
	return atomic_load(&server->uploads_cut) > 0 ? SERVER_CUT : SERVER_DRAINED;
}

static void say_end(void *argument, int r)
{
	struct server *server = argument;

	if (r < 0)
		log_note("error", "ended", "%s", strerror(-r));
	else
		log_note("info", "ended", "%llu uploads were cut",
			 (unsigned long long)atomic_load(&server->uploads_cut));
}

int server_run(const struct options *options)
{
	struct server *server;
	int r, status;

	r = server_new(options, &server);
	if (r < 0)
		return SERVER_FAILED;
	/* As many workers as were reckoned with. */
	r = process_run(serve, server, (unsigned int)server->capacity.workers, FRONT_ENDING_BUDGET,
			say_end);
	status = exit_status(server, r);
	server_free(server);
	return status;
}
