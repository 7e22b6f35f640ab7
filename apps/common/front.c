/* SPDX-License-Identifier: Apache-2.0 */
/*
 * One task per worker accepts connections; inside each of those live its sessions. The first front_stop() begins the
 * drain, the second one ends it.
 */
#include "front.h"

#include <errno.h>
#include <netdb.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>

#include <endwell/clock.h>
#include <endwell/run.h>
#include <endwell/socket.h>
#include <endwell/task.h>

#include "log.h"

#define BACKLOG	     4096
#define ACCEPT_RETRY (100 * EW_MILLISECOND)

struct front_worker {
	struct front *front;
	struct ew_listener *listener;
	struct http_service service;
	struct ew_scope *accepting;
	struct ew_scope *sessions;
};

/* What a session needs that its socket does not know. */
struct session {
	struct front_worker *worker;
	struct ew_permit *permit;
};

static void session_end(void *argument)
{
	struct session *session = argument;

	ew_permit_release(&session->permit);
	free(session);
}

static int session_end_close(void *session)
{
	session_end(session);
	return 0;
}

static int serve_session(void *argument, void *place)
{
	struct session *session = argument;
	struct ew_socket **socket = place;

	EW_GUARD(end, session, .close = session_end_close, .abort = session_end);

	return http_session_serve(&session->worker->service, socket);
}

static int start_session(struct front_worker *worker, struct ew_socket **socket,
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
static int accept_one(struct front_worker *worker)
{
	EW_OWN(ew_permit, permit);
	EW_OWN(ew_socket, socket);
	int r;

	r = ew_semaphore_acquire(worker->front->connections, EW_NEVER, &permit);
	if (r < 0)
		return r;
	r = ew_listener_accept(worker->listener, &socket);
	if (r < 0)
		return r;
	return start_session(worker, &socket, &permit);
}

static int accept_loop(struct front_worker *worker)
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
	struct front_worker *worker = argument;
	int r;

	r = ew_event_wait(&worker->front->drain, EW_NEVER);
	if (r == 0)
		ew_scope_cancel(worker->accepting, EW_REASON_SHUTDOWN);
	return r;
}

/* Until the drain begins; then nothing is accepted any more. */
static int accept_until_drain(struct front_worker *worker)
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
	struct front_worker *worker = argument;
	struct front *front = worker->front;
	int r;

	EW_SCOPE(sessions, .policy = EW_POLICY_INDEPENDENT, .budget_ns = FRONT_ENDING_BUDGET);

	worker->sessions = &sessions;
	worker->service = front->service;
	http_service_init(&worker->service);

	r = accept_until_drain(worker);
	if (!atomic_load(&front->draining))
		return r;
	r = ew_listener_close(&worker->listener);
	if (r < 0)
		log_note("warn", "close-failed", "the listener: %s", strerror(-r));
	http_service_drain(&worker->service);
	r = ew_scope_close(&sessions, atomic_load(&front->grace_end_ns), EW_REASON_SHUTDOWN);
	if (r == -ETIMEDOUT)
		log_note("warn", "grace-over", "connections that were still busy have been cut");
	return 0;
}

static void begin_drain(struct front *front)
{
	log_note("info", "draining", "no new connections; running requests have %lld s",
		 (long long)(front->grace_ns / EW_SECOND));
	atomic_store(&front->grace_end_ns, ew_after(front->grace_ns));
	ew_end_by(ew_after(front->grace_ns + FRONT_ENDING_BUDGET + front->last_ns));
	atomic_store(&front->draining, true);
	ew_event_set(&front->drain);
}

bool front_is_cutting(const struct front *front)
{
	if (atomic_load(&front->forced))
		return true;
	return atomic_load(&front->draining) && ew_now() >= atomic_load(&front->grace_end_ns);
}

void front_drain(struct front *front)
{
	ew_event_set(&front->stopped);
}

void front_stop(struct front *front)
{
	if (ew_event_is_set(&front->stopped))
		ew_event_set(&front->insisted);
	else
		front_drain(front);
}

int front_await_stop(struct front *front, int64_t deadline_ns)
{
	return ew_event_wait(&front->stopped, deadline_ns);
}

/* Where it ended, the report of a panic has said, or its own lines. */
static void needed_lost(void *argument)
{
	const struct front_needed *needed = argument;
	struct front *front = needed->front;

	if (atomic_load(&front->over))
		return;
	atomic_store(&front->lost, true);
	log_note("error", "service-lost", "%s: the server ends, and is to be started again",
		 needed->name);
	front_drain(front);
}

static int needed_lost_close(void *needed)
{
	needed_lost(needed);
	return 0;
}

static int run_needed(void *argument)
{
	struct front_needed *needed = argument;
	int r;

	EW_GUARD(lost, needed, .close = needed_lost_close, .abort = needed_lost);

	r = needed->run(needed->argument);
	if (r == -ECANCELED && ew_cancel_requested())
		ew_guard_disarm(&lost);
	return r;
}

int front_spawn_needed(struct front *front, struct front_needed *needed, struct ew_scope *scope)
{
	needed->front = front;
	return ew_spawn(scope, run_needed, needed, .worker = needed->worker);
}

static int heed_signals(void *argument)
{
	struct front *front = argument;
	int r;

	while ((r = ew_signals_wait(front->signals)) > 0)
		front_stop(front);
	return r;
}

int front_heed_signals(struct front *front, struct ew_signals *signals, struct ew_scope *scope)
{
	front->signals = signals;
	front->heeding = (struct front_needed){ .name = "the watch over signals",
						.run = heed_signals,
						.argument = front };
	return front_spawn_needed(front, &front->heeding, scope);
}

struct force {
	struct front *front;
	struct ew_scope *workers;
};

static int await_second_stop(void *argument)
{
	struct force *force = argument;
	int r;

	r = ew_event_wait(&force->front->insisted, EW_NEVER);
	if (r < 0)
		return r;
	log_note("warn", "forced", "second signal: everything is cut now");
	atomic_store(&force->front->forced, true);
	ew_end_by(ew_after(FRONT_ENDING_BUDGET + force->front->last_ns));
	ew_scope_cancel(force->workers, EW_REASON_SHUTDOWN);
	return 0;
}

int front_run(struct front *front, int (*ready)(void *server), int (*settle)(void *server),
	      void *server)
{
	int r = 0;

	EW_SCOPE(running, .budget_ns = FRONT_ENDING_BUDGET);
	EW_SCOPE(watching, .policy = EW_POLICY_INDEPENDENT);
	struct force force = { .front = front, .workers = &running };

	for (unsigned int i = 0; i < front->workers_count && r == 0; i++)
		r = ew_spawn(&running, run_worker, &front->workers[i], .worker = i + 1);
	if (r == 0)
		r = ready(server);
	if (r == 0)
		r = front_await_stop(front, EW_NEVER);
	if (r == 0) {
		begin_drain(front);
		r = ew_spawn(&watching, await_second_stop, &force);
	}
	if (r == 0)
		r = ew_scope_join(&running);
	if (r == 0)
		r = settle(server);
	if (atomic_load(&front->forced))
		r = 0;
	atomic_store(&front->over, true);
	return r == 0 && atomic_load(&front->lost) ? -ENOTRECOVERABLE : r;
}

void front_address(const struct front *front, char *ret_text, size_t bytes)
{
	char host[64] = "?", port[8] = "?";
	struct sockaddr_storage address = {};

	if (ew_listener_address(front->workers[0].listener, &address) == 0)
		getnameinfo((struct sockaddr *)&address, sizeof(address), host, sizeof(host), port,
			    sizeof(port), NI_NUMERICHOST | NI_NUMERICSERV);
	snprintf(ret_text, bytes, address.ss_family == AF_INET6 ? "http://[%s]:%s" : "http://%s:%s",
		 host, port);
}

static int open_listeners(struct front *front)
{
	int r;

	r = ew_listener_open((const struct sockaddr *)&front->address, front->address_bytes,
			     BACKLOG, &front->workers[0].listener);
	for (unsigned int i = 1; i < front->workers_count && r == 0; i++)
		r = ew_listener_share(front->workers[0].listener, &front->workers[i].listener);
	if (r < 0)
		fprintf(stderr, "%s: --listen %s: %s\n", front->program, front->listen,
			strerror(-r));
	/* Each connection has its permit before it is taken, or the sum of descriptors would not hold. */
	for (unsigned int i = 0; i < front->workers_count && r == 0; i++)
		ew_listener_one_by_one(front->workers[i].listener);
	return r;
}

int front_open(struct front *front)
{
	int r;

	front->workers_count = ew_workers_count();
	front->workers = calloc(front->workers_count, sizeof(*front->workers));
	if (!front->workers)
		return -ENOMEM;
	for (unsigned int i = 0; i < front->workers_count; i++)
		front->workers[i].front = front;
	r = open_listeners(front);
	if (r < 0)
		front_close(front);
	return r;
}

void front_close(struct front *front)
{
	for (unsigned int i = 0; i < front->workers_count; i++)
		ew_abort(&front->workers[i].listener);
	free(front->workers);
	front->workers = NULL;
	front->workers_count = 0;
}

uint64_t front_raise_descriptors(void)
{
	struct rlimit limit = {};

	getrlimit(RLIMIT_NOFILE, &limit);
	limit.rlim_cur = limit.rlim_max;
	setrlimit(RLIMIT_NOFILE, &limit);
	getrlimit(RLIMIT_NOFILE, &limit);
	return limit.rlim_cur;
}
