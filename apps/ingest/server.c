/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The life of the server is nested like its scopes. The services (scan slots, the scanner's test,
 * the directory sync) outlive the workers, because an upload that ends needs them; inside them one
 * task per worker accepts connections; inside each of those live its sessions. A shutdown goes from
 * the inside out: stop accepting, let sessions finish within the grace, cut what is left, then wait
 * for the scanner's last answers, then end the services.
 */
#include "server.h"

#include <errno.h>
#include <netdb.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#include <endwell/clock.h>
#include <endwell/run.h>
#include <endwell/signals.h>
#include <endwell/socket.h>
#include <endwell/task.h>

#include "http/session.h"

#include "log.h"
#include "routes.h"

/* What an ending may take once it has been asked for. */
#define ENDING_BUDGET (20 * EW_SECOND)

#define SEALING_MAX 16

#define BACKLOG		4096
#define STORIES_MIN	1024
#define ACCEPT_RETRY	(100 * EW_MILLISECOND)
#define FIRST_TEST_WAIT (3 * EW_SECOND)
#define LOG_PATIENCE	(2 * EW_SECOND)
#define LOOK_INTERVAL	(10 * EW_MILLISECOND)

struct worker {
	struct server *server;
	struct ew_listener *listener;
	struct http_service service;
	struct ew_scope *accepting;
	struct ew_scope *sessions;
};

/* What a session needs that its socket does not know. */
struct session {
	struct worker *worker;
	struct ew_permit *permit;
};

uint64_t server_size_max(const struct server *server)
{
	uint64_t most = server->options->size_max_bytes;

	if (server->options->scanner_kind != SCANNER_NONE &&
	    server->options->scan_limit_bytes > 0 && server->options->scan_limit_bytes < most)
		most = server->options->scan_limit_bytes;
	return most;
}

static int serve_session(void *argument, void *place)
{
	struct session *session = argument;
	struct ew_socket **socket = place;
	int r;

	r = http_session_serve(&session->worker->service, socket);
	ew_permit_release(&session->permit);
	free(session);
	return r;
}

static int start_session(struct worker *worker, struct ew_socket **socket,
			 struct ew_permit **permit)
{
	struct session *session = malloc(sizeof(*session));
	int r;

	if (!session)
		return -ENOMEM;
	*session = (struct session){ .worker = worker, .permit = *permit };
	r = ew_spawn_take(worker->sessions, serve_session, session, socket);
	if (r < 0) {
		free(session);
		return r;
	}
	*permit = NULL;
	return 0;
}

/* Takes one connection, when there is room for one. */
static int accept_one(struct worker *worker)
{
	EW_OWN(ew_permit, permit);
	EW_OWN(ew_socket, socket);
	int r;

	r = ew_semaphore_acquire(worker->server->connections, EW_NEVER, &permit);
	if (r < 0)
		return r;
	r = ew_listener_accept(worker->listener, &socket);
	if (r < 0)
		return r;
	return start_session(worker, &socket, &permit);
}

static int accept_loop(struct worker *worker)
{
	int r;

	for (;;) {
		r = accept_one(worker);
		if (r == -ECANCELED)
			return r;
		if (r < 0) {
			log_note("warn", "accept-failed", "%s", strerror(-r));
			r = ew_sleep(ACCEPT_RETRY);
			if (r < 0)
				return r;
		}
	}
}

static int await_drain(void *argument)
{
	struct worker *worker = argument;
	int r;

	r = ew_event_wait(&worker->server->drain, EW_NEVER);
	if (r == 0)
		ew_scope_cancel(worker->accepting, EW_REASON_SHUTDOWN);
	return r;
}

/* Until the drain begins; then nothing is accepted any more. */
static int accept_until_drain(struct worker *worker)
{
	int r;

	EW_SCOPE(accepting);

	worker->accepting = &accepting;
	r = ew_spawn(&accepting, await_drain, worker);
	if (r == 0)
		r = accept_loop(worker);
	return ew_scope_finish(&accepting, r);
}

static int run_worker(void *argument)
{
	struct worker *worker = argument;
	struct server *server = worker->server;
	int r;

	EW_SCOPE(sessions, .policy = EW_POLICY_INDEPENDENT, .budget_ns = ENDING_BUDGET);

	worker->sessions = &sessions;
	worker->service = (struct http_service){
		.handler = routes_handle,
		.refused = routes_refused,
		.userdata = server,
		.half_close_finish = server->options->half_close_finish,
	};
	http_service_init(&worker->service);

	r = accept_until_drain(worker);
	if (!atomic_load(&server->draining))
		return r;
	r = ew_listener_close(&worker->listener);
	if (r < 0)
		log_note("warn", "close-failed", "the listener: %s", strerror(-r));
	http_service_drain(&worker->service);
	r = ew_scope_close(&sessions, atomic_load(&server->grace_end_ns), EW_REASON_SHUTDOWN);
	if (r == -ETIMEDOUT)
		log_note("warn", "grace-over", "connections that were still busy have been cut");
	return 0;
}

static void begin_drain(struct server *server)
{
	log_note("info", "draining", "no new connections; running uploads have %lld s",
		 (long long)(server->options->grace_ns / EW_SECOND));
	atomic_store(&server->grace_end_ns, ew_after(server->options->grace_ns));
	ew_end_by(ew_after(server->options->grace_ns + ENDING_BUDGET));
	atomic_store(&server->draining, true);
	ew_event_set(&server->drain);
}

struct force {
	struct server *server;
	struct ew_signals *signals;
	struct ew_scope *workers;
};

static int await_second_signal(void *argument)
{
	struct force *force = argument;
	int r;

	r = ew_signals_wait(force->signals);
	if (r < 0)
		return r;
	log_note("warn", "forced", "second signal: everything is cut now");
	atomic_store(&force->server->forced, true);
	ew_end_by(ew_after(ENDING_BUDGET));
	ew_scope_cancel(force->workers, EW_REASON_SHUTDOWN);
	return 0;
}

static void print_address(const struct ew_listener *listener, char *ret_text, size_t bytes)
{
	char host[64] = "?", port[8] = "?";
	struct sockaddr_storage address;

	if (ew_listener_address(listener, &address) == 0)
		getnameinfo((struct sockaddr *)&address, sizeof(address), host, sizeof(host), port,
			    sizeof(port), NI_NUMERICHOST | NI_NUMERICSERV);
	snprintf(ret_text, bytes, address.ss_family == AF_INET6 ? "http://[%s]:%s" : "http://%s:%s",
		 host, port);
}

static void print_block(struct server *server, const struct ew_listener *listener)
{
	const struct options *options = server->options;
	char *text = NULL;
	size_t bytes;
	FILE *block = open_memstream(&text, &bytes);
	char address[96], sum[256], engine[VERDICT_TEXT_BYTES], reason[SCANNER_REASON_BYTES];

	if (!block)
		return;
	print_address(listener, address, sizeof(address));
	capacity_print(&server->capacity, sum, sizeof(sum));
	scanner_engine(server->scanner, engine);

	fprintf(block, "ew-ingest %s\n", EW_INGEST_VERSION);
	fprintf(block, "  address  %s%s\n", address,
		options->loopback ? "" : ", open to whoever reaches it (--public)");
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
		(long long)(options->grace_ns / EW_SECOND + ENDING_BUDGET / EW_SECOND));
	fprintf(block, "  try      curl -T FILE %s/files/NAME\n", address);

	if (fclose(block) == 0)
		log_block(text);
	else
		free(text);
}

static int open_listeners(struct server *server, struct worker *workers, unsigned int count)
{
	const struct options *options = server->options;
	int r;

	r = ew_listener_open((const struct sockaddr *)&options->address, options->address_bytes,
			     BACKLOG, &workers[0].listener);
	for (unsigned int i = 1; i < count && r == 0; i++)
		r = ew_listener_share(workers[0].listener, &workers[i].listener);
	if (r < 0)
		fprintf(stderr, "ew-ingest: --listen %s: %s\n", options->listen, strerror(-r));
	/* Each connection has its permit before it is taken, or the sum of descriptors would not hold. */
	for (unsigned int i = 0; i < count && r == 0; i++)
		ew_listener_one_by_one(workers[i].listener);
	return r;
}

/*
 * A scanner that is just starting is worth a moment, so that the block can name its signatures.
 * Returns the number of a signal that came meanwhile.
 */
static int await_first_test(struct server *server, struct ew_signals *signals)
{
	int64_t deadline = ew_after(FIRST_TEST_WAIT);
	char reason[SCANNER_REASON_BYTES];
	int r = 0;

	while (r == 0 && !scanner_ready(server->scanner, reason) && ew_now() < deadline) {
		EW_SCOPE(look, .deadline_ns = ew_after(LOOK_INTERVAL));

		r = ew_scope_finish(&look, ew_signals_wait(signals));
		if (r == -ETIMEDOUT)
			r = 0;
	}
	return r;
}

static int await_shutdown(struct server *server, struct ew_signals *signals, struct worker *workers)
{
	int r;

	r = await_first_test(server, signals);
	if (r == 0) {
		print_block(server, workers[0].listener);
		r = ew_signals_wait(signals);
	}
	if (r > 0)
		begin_drain(server);
	return r;
}

/* clamd does not stop when we do; what it still scans is waited for within the grace. */
static int await_scanner(struct server *server)
{
	int r = 0;

	while (r == 0 && !atomic_load(&server->forced) &&
	       ew_now() < atomic_load(&server->grace_end_ns)) {
		struct slots_view view = slots_look(&server->metrics.scan_slots);

		if (view.count[SLOT_HELD] + view.count[SLOT_CANCELLING] == 0)
			break;
		r = ew_sleep(LOOK_INTERVAL);
	}
	return r;
}

static int run_workers(struct server *server, struct ew_signals *signals, struct worker *workers,
		       unsigned int count)
{
	int r = 0;

	EW_SCOPE(running, .budget_ns = ENDING_BUDGET);
	EW_SCOPE(watching, .policy = EW_POLICY_INDEPENDENT);
	struct force force = { .server = server, .signals = signals, .workers = &running };

	for (unsigned int i = 0; i < count && r == 0; i++)
		r = ew_spawn(&running, run_worker, &workers[i], .worker = i + 1);
	if (r == 0)
		r = await_shutdown(server, signals, workers);
	if (r > 0)
		r = ew_spawn(&watching, await_second_signal, &force);
	if (r == 0)
		r = ew_scope_join(&running);
	if (r == 0)
		r = await_scanner(server);
	return atomic_load(&server->forced) ? 0 : r;
}

static int run_services(struct server *server, struct ew_signals *signals, struct worker *workers,
			unsigned int count)
{
	int r, closed;

	EW_SCOPE(services, .policy = EW_POLICY_INDEPENDENT, .budget_ns = ENDING_BUDGET);

	r = bucket_start(&server->bucket, &services);
	if (r == 0)
		r = volume_start(&server->volume, &server->bucket, &services);
	if (r == 0)
		r = scanner_start(server->scanner, &services, &server->bucket.staging);
	if (r == 0)
		r = run_workers(server, signals, workers, count);
	closed = ew_scope_close(&services, EW_NOW, EW_REASON_SHUTDOWN);
	return r == 0 && closed < 0 && closed != -ETIMEDOUT && closed != -ECANCELED ? closed : r;
}

static int run_with_bucket(struct server *server, struct ew_signals *signals)
{
	unsigned int count = ew_workers_count();
	struct worker *workers;
	int r;

	workers = calloc(count, sizeof(*workers));
	if (!workers)
		return -ENOMEM;
	for (unsigned int i = 0; i < count; i++)
		workers[i].server = server;

	r = open_listeners(server, workers, count);
	if (r == 0)
		r = run_services(server, signals, workers, count);
	for (unsigned int i = 0; i < count; i++)
		ew_abort(&workers[i].listener);
	free(workers);
	return r;
}

static int serve(void *argument)
{
	struct server *server = argument;
	const struct options *options = server->options;
	EW_OWN(ew_signals, signals);
	char error[OPTIONS_ERROR_BYTES];
	sigset_t set;
	int r, closed;

	sigemptyset(&set);
	sigaddset(&set, SIGTERM);
	sigaddset(&set, SIGINT);
	r = ew_signals_open(&set, &signals);
	if (r < 0)
		return r;
	r = bucket_open(&server->bucket, options->bucket, options->state, options->mode,
			&server->metrics, error, sizeof(error));
	if (r < 0)
		fprintf(stderr, "ew-ingest: %s\n", error);
	else
		r = run_with_bucket(server, signals);
	closed = bucket_close(&server->bucket);
	return r < 0 ? r : closed;
}

static void raise_descriptor_limit(struct capacity *capacity)
{
	struct rlimit limit = { 0 };

	getrlimit(RLIMIT_NOFILE, &limit);
	limit.rlim_cur = limit.rlim_max;
	setrlimit(RLIMIT_NOFILE, &limit);
	getrlimit(RLIMIT_NOFILE, &limit);
	capacity->descriptors = limit.rlim_cur;
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
	raise_descriptor_limit(&server->capacity);
	r = capacity_compute(&server->capacity, error, error_bytes);
	if (r < 0)
		return r;

	slots = (unsigned int)server->capacity.slots;
	metrics_init(&server->metrics, slots,
		     options->scanner_kind == SCANNER_NONE ? 0 : (uint32_t)options->scan_slots);
	server->access = (struct access){
		.hosts_checked = options->loopback,
		.hosts = options->hosts.items,
		.hosts_count = options->hosts.count,
		.origins = options->origins.items,
		.origins_count = options->origins.count,
	};
	server->stories =
		story_ring_new(2 * (size_t)slots > STORIES_MIN ? 2 * (size_t)slots : STORIES_MIN);
	server->uploads = ew_semaphore_new(slots, (unsigned int)options->waiting);
	server->connections =
		ew_semaphore_new((unsigned int)server->capacity.connections, EW_WORKERS_MAX);
	server->sealing = ew_semaphore_new(SEALING_MAX, slots);
	if (!server->stories || !server->uploads || !server->connections || !server->sealing) {
		snprintf(error, error_bytes, "out of memory");
		return -ENOMEM;
	}
	server->scanner = scanner_new(options, &server->metrics, error, error_bytes);
	return server->scanner ? 0 : -EINVAL;
}

static void release(struct server *server)
{
	server->scanner = scanner_free(server->scanner);
	ew_semaphore_free(server->sealing);
	ew_semaphore_free(server->connections);
	ew_semaphore_free(server->uploads);
	server->stories = story_ring_free(server->stories);
}

static int exit_status(const struct server *server, int r)
{
	if (r < 0)
		return SERVER_FAILED;
	if (atomic_load(&server->forced))
		return SERVER_FORCED;
	return atomic_load(&server->uploads_cut) > 0 ? SERVER_CUT : SERVER_DRAINED;
}

static void report(void *unused, const char *line)
{
	(void)unused;
	log_note("error", "runtime", "%s", line);
}

static int run(struct server *server)
{
	struct ew_run_options run_options = {
		.workers_count = (unsigned int)server->capacity.workers, /* as was reckoned with */
		.shutdown_budget_ns = ENDING_BUDGET,
		.exit_when_stuck = true,
		.report = report,
	};
	sigset_t signals, pipe;
	int r;

	sigemptyset(&signals);
	sigaddset(&signals, SIGTERM);
	sigaddset(&signals, SIGINT);
	run_options.signals = &signals;
	/* Blocked before the log's thread is made, which would take them otherwise. */
	pthread_sigmask(SIG_BLOCK, &signals, NULL);
	/* And that thread must survive a reader of standard error that has left. */
	sigemptyset(&pipe);
	sigaddset(&pipe, SIGPIPE);
	pthread_sigmask(SIG_BLOCK, &pipe, NULL);
	/*
	 * A parent that ignores its children hands that down, and the kernel would reap scanners
	 * before us.
	 */
	signal(SIGCHLD, SIG_DFL);
	r = log_start();
	if (r < 0)
		return r;
	r = ew_run(&run_options, serve, server);
	if (r < 0)
		log_note("error", "ended", "%s", strerror(-r));
	else
		log_note("info", "ended", "%llu uploads were cut",
			 (unsigned long long)atomic_load(&server->uploads_cut));
	log_stop(ew_after(LOG_PATIENCE));
	return r;
}

int server_run(const struct options *options)
{
	struct server *server = calloc(1, sizeof(*server));
	char error[OPTIONS_ERROR_BYTES];
	int r, status;

	if (!server)
		return SERVER_FAILED;
	server->options = options;
	server->bucket.staging.lease = LEASE_NONE;
	r = prepare(server, error, sizeof(error));
	if (r == 0)
		r = bucket_prepare(&server->bucket, options->bucket, options->state, error,
				   sizeof(error));
	if (r < 0)
		fprintf(stderr, "ew-ingest: %s\n", error);
	else
		r = run(server);
	status = exit_status(server, r);
	bucket_release(&server->bucket);
	release(server);
	free(server);
	return status;
}
