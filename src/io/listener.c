/* SPDX-License-Identifier: Apache-2.0 */

/*
 * A listener accepts ahead: one multishot operation puts descriptors into a queue, from which the tasks take them.
 * Every descriptor in a completion is adopted when it is reaped, also those that come after a cancel.
 */

#include "driver/system.h"
#include "io/away.h"
#include "io/op.h"
#include "io/socket.h"
#include "scope/resource.h"
#include "seeded/bug.h"
#include "sync/select.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define QUEUE_ENOUGH 256 /* then it stops accepting ahead */
#define QUEUE_MAX                                                                                  \
	4096 /* what the kernel delivers before the stop is heard; beyond that connections are closed */

struct ew_listener {
	struct ew_resource resource;
	struct ew__op accept;
	struct ew__message abort_message; /* to the worker, when another one aborts the listener */
	struct ew__away *away;		  /* a close elsewhere, which the worker has heard of */
	struct ew__standing standing;	  /* while a worker accepts ahead */
	struct ew_worker *_Atomic worker; /* that accepts; NULL: none, and it needs none to end */
	struct ew__wait *waiting;	  /* the accepting task, or the closing one */
	struct ew__choice *choice; /* of the accepting task, if it waits for other things as well */
	int fd;
	int backlog;
	int error;
	bool one_by_one;
	bool armed;
	bool aborted;
	unsigned queue_first;
	unsigned queue_count;
	int queue[QUEUE_MAX];
};

static struct ew_listener *listener_of(struct ew__op *op)
{
	return ew__container_of(op, struct ew_listener, accept);
}

static bool has_news(const struct ew_listener *listener)
{
	return listener->queue_count > 0 || listener->error;
}

/* A plain thread accepts while it waits, and not ahead. */
static void arm(struct ew_listener *listener)
{
	bool one = listener->one_by_one || ew__thread_is_plain();

	if (listener->armed)
		return;
	listener->accept.flags = one ? EW__ACCEPT_ONE : 0;
	listener->worker = ew__worker;
	listener->armed = true;
	if (!ew__thread_is_plain()) /* who awaits it before his call returns */
		ew__standing_add(listener->worker, &listener->standing);
	ew__driver_submit(listener->worker->driver, &listener->accept);
}

/* A select is told of what it can have; else the wait goes on. */
static void wake_select(struct ew_listener *listener)
{
	if (!has_news(listener))
		arm(listener);
	else if (ew__choice_claim(listener->choice, listener))
		ew__wait_end(listener->waiting, 0);
}

static void wake(struct ew_listener *listener)
{
	if (listener->choice)
		wake_select(listener);
	else if (listener->waiting && !listener->waiting->done)
		ew__wait_end(listener->waiting, 0);
}

static void accepted(struct ew__op *op, int32_t fd)
{
	struct ew_listener *listener = listener_of(op);

	if (listener->queue_count == QUEUE_MAX) {
		ew__system_close(fd);
		return;
	}
	listener->queue[(listener->queue_first + listener->queue_count++) % QUEUE_MAX] = fd;
	if (listener->queue_count >= QUEUE_ENOUGH && !op->flags)
		ew__driver_cancel(listener->worker->driver, op);
	wake(listener);
}

static void finish(struct ew_listener *listener)
{
	for (; listener->queue_count && !ew__bug("accepted-ahead-left-open");
	     listener->queue_count--)
		ew__system_close(listener->queue[listener->queue_first++ % QUEUE_MAX]);
	ew__system_close(listener->fd);
	free(listener);
}

/* The last touch on this worker, unless a select wants more: from now on it is anybody's. */
static void rest(struct ew_listener *listener)
{
	wake(listener);
	if (!listener->armed)
		listener->worker = NULL;
}

static void accept_completed(struct ew__op *op)
{
	struct ew_listener *listener = listener_of(op);

	listener->armed = false;
	ew__standing_remove(&listener->standing);
	if (op->result < 0 && op->result != -ECANCELED && op->result != -EAGAIN &&
	    op->result != -ECONNABORTED)
		listener->error = op->result;
	if (listener->aborted)
		finish(listener);
	else if (listener->away)
		ew__away_answer(listener->away);
	else
		rest(listener);
}

static void deliver_close(struct ew__message *message)
{
	struct ew__away *away = ew__away_of(message);
	struct ew_listener *listener = away->object;

	ew_assert(!listener->waiting); /* nobody accepts from what is being closed */
	if (!listener->armed) {
		ew__away_answer(away);
		return;
	}
	listener->away = away;
	ew__driver_cancel(listener->worker->driver, &listener->accept);
}

/* It accepts no more. Not refused. */
static void stop(struct ew_listener *listener)
{
	struct ew__wait wait = { .cancel = NULL };

	ew_assert(!listener->waiting); /* nobody accepts from what is being closed */
	if (listener->armed)
		ew__driver_cancel(listener->worker->driver, &listener->accept);
	while (listener->armed && !ew__bug("listener-closed-before-its-last-completion")) {
		listener->waiting = &wait;
		ew__suspend(&wait, "the last completion of a listener");
	}
	listener->waiting = NULL;
}

static int listener_close(void *resource)
{
	struct ew_listener *listener = resource;
	struct ew_worker *worker = ew__worker_hold(&listener->worker);

	if (worker)
		ew__away_ask(worker, deliver_close, listener, "a listener's other worker");
	else
		stop(listener);
	ew_resource_deinit(&listener->resource);
	finish(listener);
	return 0;
}

/* On the worker that accepts. */
static void abort_here(struct ew_listener *listener)
{
	listener->waiting = NULL;
	if (!listener->armed) {
		finish(listener);
		return;
	}
	listener->aborted = true;
	ew__driver_cancel(listener->worker->driver, &listener->accept);
}

static void deliver_abort(struct ew__message *message)
{
	abort_here(ew__container_of(message, struct ew_listener, abort_message));
}

static void listener_abort(void *resource)
{
	struct ew_listener *listener = resource;
	struct ew_worker *worker = ew__worker_hold(&listener->worker);

	ew_resource_deinit(&listener->resource);
	if (!worker) {
		abort_here(listener);
		return;
	}
	listener->abort_message.deliver = deliver_abort;
	ew__post_to_held(worker, &listener->abort_message);
}

static const struct ew_resource_type listener_type = {
	.name = "listener",
	.close = listener_close,
	.abort = listener_abort,
};

static int new_listener(int fd, int backlog, const struct ew_site *site,
			struct ew_listener **ret_listener)
{
	struct ew_listener *listener = calloc(1, sizeof(*listener));

	if (!listener)
		return -ENOMEM;
	listener->fd = fd;
	listener->backlog = backlog;
	listener->accept = (struct ew__op){
		.code = EW__OP_ACCEPT,
		.fd = fd,
		.event = accepted,
		.complete = accept_completed,
	};
	listener->standing.op = &listener->accept;
	listener->standing.armed = &listener->armed;
	ew_resource_init(&listener->resource, &listener_type, site);
	*ret_listener = listener;
	return 0;
}

static bool is_tcp(const struct sockaddr *address)
{
	return address->sa_family == AF_INET || address->sa_family == AF_INET6;
}

/* A bound and listening socket, or -errno. @share: others may bind the same address, too. */
static int bind_socket(const struct sockaddr *address, socklen_t address_bytes, int backlog,
		       bool share)
{
	int fd = ew__system_socket(address->sa_family), r;

	if (fd < 0)
		return fd;
	r = ew__system_bind(fd, address, address_bytes, share);
	if (r == 0 && backlog)
		r = ew__system_listen(fd, backlog);
	if (r < 0) {
		ew__system_close(fd);
		return r;
	}
	return fd;
}

int(ew_listener_open)(const struct sockaddr *address, socklen_t address_bytes, int backlog,
		      struct ew_listener **ret_listener)
{
	const struct ew_site *site = ew__made_at;
	int fd, r;

	ew__place_must_be_empty(ret_listener, site);
	if (backlog <= 0)
		return -EINVAL;
	if (is_tcp(address)) {
		/* Without SO_REUSEPORT it fails when another program listens, even one that shares. */
		fd = bind_socket(address, address_bytes, 0, false);
		if (fd < 0)
			return fd;
		ew__system_close(fd);
	}
	fd = bind_socket(address, address_bytes, backlog, true);
	if (fd < 0)
		return fd;
	r = new_listener(fd, backlog, site, ret_listener);
	if (r < 0)
		ew__system_close(fd);
	return r;
}

int(ew_listener_share)(struct ew_listener *listener, struct ew_listener **ret_listener)
{
	const struct ew_site *site = ew__made_at;
	struct sockaddr_storage address;
	int fd, r;

	ew__place_must_be_empty(ret_listener, site);
	r = ew_listener_address(listener, &address);
	if (r < 0)
		return r;
	if (is_tcp((struct sockaddr *)&address)) {
		fd = bind_socket((struct sockaddr *)&address, sizeof(address), listener->backlog,
				 true);
	} else {
		fd = ew__system_duplicate(listener->fd);
	}
	if (fd < 0)
		return fd;
	r = new_listener(fd, listener->backlog, site, ret_listener);
	if (r < 0)
		ew__system_close(fd);
	return r;
}

void ew_listener_one_by_one(struct ew_listener *listener)
{
	ew_assert(!listener->armed);
	listener->one_by_one = true;
}

int ew_listener_address(const struct ew_listener *listener, struct sockaddr_storage *ret_address)
{
	return ew__system_address(listener->fd, ret_address);
}

static void accept_cancelled(struct ew__wait *wait)
{
	ew__wait_end(wait, -ECANCELED);
}

/* There are news. */
static int take(struct ew_listener *listener, const struct ew_site *site,
		struct ew_socket **ret_socket)
{
	int r;

	if (listener->queue_count == 0) {
		r = listener->error;
		listener->error = 0;
		return r;
	}
	r = ew__socket_new(listener->queue[listener->queue_first], site, ret_socket);
	if (r < 0)
		return r; /* it stays in the queue */
	if (!ew__bug("connection-given-out-twice"))
		listener->queue_first = (listener->queue_first + 1) % QUEUE_MAX;
	listener->queue_count--;
	ew__task()->outcome = EW_OUTCOME_DONE;
	return 0;
}

/* Until there is something to take. */
static int await_news(struct ew_listener *listener)
{
	struct ew__wait wait;
	int r;

	while (!has_news(listener)) {
		arm(listener);
		wait.cancel = accept_cancelled;
		ew__task()->outcome = EW_OUTCOME_NONE;
		listener->waiting = &wait;
		ew__task()->waiting_fd = listener->accept.fd;
		r = ew__suspend(&wait, "a connection");
		ew__task()->waiting_fd = -1;
		listener->waiting = NULL;
		if (r < 0)
			return r;
	}
	return 0;
}

int(ew_listener_accept)(struct ew_listener *listener, struct ew_socket **ret_socket)
{
	const struct ew_site *site = ew__made_at;
	int r = ew__enter();

	if (r < 0)
		return r;
	ew__place_must_be_empty(ret_socket, site);
	ew_assert(!listener->waiting); /* one task accepts at a time */
	ew_assert(!listener->armed || listener->worker == ew__worker);
	r = await_news(listener);
	if (ew__thread_is_plain())
		stop(listener);
	return r < 0 ? r : take(listener, site, ret_socket);
}

/* ---- among alternatives ---- */

static void select_begin(struct ew__stand *stand, const struct ew_site *site)
{
	struct ew_listener *listener = stand->alternative->object;

	ew__place_must_be_empty(stand->alternative->value, site);
	ew_assert(!listener->waiting); /* one task accepts at a time */
	ew_assert(!listener->armed || listener->worker == ew__worker);
	stand->token = listener;
	stand->site = site;
}

static bool select_look(struct ew__stand *stand)
{
	return has_news(stand->alternative->object);
}

static void select_line_up(struct ew__stand *stand)
{
	struct ew_listener *listener = stand->alternative->object;

	ew_assert(!listener->waiting); /* it stands in one alternative */
	arm(listener);
	listener->choice = stand->choice;
	listener->waiting = &stand->choice->wait;
}

static void select_leave(struct ew__stand *stand)
{
	struct ew_listener *listener = stand->alternative->object;

	listener->choice = NULL;
	listener->waiting = NULL;
}

static void select_end(struct ew__stand *stand, bool won)
{
	select_leave(stand);
	if (ew__thread_is_plain())
		stop(stand->alternative->object);
	if (won)
		stand->result =
			take(stand->alternative->object, stand->site, stand->alternative->value);
}

static const struct ew__alternative_type accept_type = {
	.begin = select_begin,
	.look = select_look,
	.line_up = select_line_up,
	.leave = select_leave,
	.end = select_end,
};

struct ew_alternative ew_select_accept(struct ew_listener *listener, struct ew_socket **ret_socket)
{
	return (struct ew_alternative){ .type = &accept_type,
					.object = listener,
					.value = ret_socket };
}

int ew_listener_close(struct ew_listener **listener)
{
	return ew_close(listener);
}
