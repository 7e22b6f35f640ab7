/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Stream sockets. Between calls a socket has at most one operation in the kernel: the poll that waits for
 * the peer's going, which stays armed from request to request and only changes the scope that it would
 * cancel. It is multishot, so that a peer that has finished sending, and may, is still seen to go. A socket ends as the kernel wants it: shut down, ask the poll to stop, wait for its last completion, and
 * only then close.
 *
 * Receiving takes its memory when the bytes are there: a waiting socket holds no buffer. With all buffers
 * lent, a socket waits until it has bytes and then stands in line, so that a buffer given back
 * goes to one who can use it at once.
 */

#include "io/socket.h"

#include "driver/system.h"
#include "io/away.h"
#include "io/op.h"
#include "scope/resource.h"
#include "scope/scope.h"
#include "seeded/bug.h"
#include "sync/select.h"

#include <endwell/clock.h>
#include <endwell/file.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define TRANSFER_BYTES_MAX 0x7ffff000
#define WATCH_AGAIN_NS	   (5 * EW_MILLISECOND)

struct ew_socket {
	struct ew_resource resource;
	struct ew__op hangup;
	struct ew__chore hangup_cancel;
	struct ew__timer watch_again;
	struct ew__message abort_message; /* to the worker, when another one aborts the socket */
	struct ew__away *away;		  /* a close elsewhere, which the worker has heard of */
	struct ew__standing standing;
	struct ew_scope *hangup_scope;
	struct ew__wait *closing;
	struct ew_worker *_Atomic
		worker; /* whose driver has the poll, or whose buffer is lent; NULL: none */
	int fd;
	int buffer; /* lent; -1: none */
	bool armed;
	bool given_up;	 /* the watch, by the kernel, since the request has begun */
	bool half_close; /* a finished peer counts as gone for hangup_scope */
	bool finished;	 /* the peer, sending */
	bool gone;	 /* the peer */
	bool aborted;
};

struct ew__buffer_waiter {
	struct ew__wait wait;
	struct ew__buffer_waiter *next;
	struct ew__buffer_waiter *prev;
};

static void leave_line(struct ew_worker *worker, struct ew__buffer_waiter *waiter)
{
	if (waiter->prev)
		waiter->prev->next = waiter->next;
	else
		worker->buffer_first = waiter->next;
	if (waiter->next)
		waiter->next->prev = waiter->prev;
	else
		worker->buffer_last = waiter->prev;
}

static void buffer_wait_cancelled(struct ew__wait *wait)
{
	if (!ew__bug("cancelled-receiver-stays-in-line"))
		leave_line(wait->task->worker, (struct ew__buffer_waiter *)wait);
	ew__wait_end(wait, -ECANCELED);
}

static int wait_for_buffer(struct ew_worker *worker)
{
	struct ew__buffer_waiter waiter = { .wait.cancel = buffer_wait_cancelled };
	int r = ew__enter();

	if (r < 0)
		return r;
	waiter.prev = worker->buffer_last;
	if (worker->buffer_last)
		worker->buffer_last->next = &waiter;
	else
		worker->buffer_first = &waiter;
	worker->buffer_last = &waiter;
	ew__task()->outcome = EW_OUTCOME_NONE;
	return ew__suspend(&waiter.wait, "a receive buffer");
}

/* Whoever is told of a free buffer and does not take it tells the next. */
static void tell_of_buffer(void *argument)
{
	struct ew_worker *worker = argument;
	struct ew__buffer_waiter *waiter = worker->buffer_first;

	if (!waiter || worker->buffers_lent >= EW__BUFFERS_COUNT)
		return;
	leave_line(worker, waiter);
	ew__wait_end(&waiter->wait, 0);
}

static void return_buffer(struct ew_worker *worker, unsigned number)
{
	ew__driver_return_buffer(worker->driver, number);
	worker->buffers_lent--;
	tell_of_buffer(worker);
}

/* The last touch on its worker, when that has nothing of it: from now on the socket is anybody's. */
static void rest(struct ew_socket *socket)
{
	if (socket->buffer < 0 && !socket->armed && !socket->standing.link &&
	    !socket->hangup_cancel.link && !ew__timer_is_armed(&socket->watch_again))
		socket->worker = NULL;
}

void ew_socket_release(struct ew_socket *socket)
{
	if (socket->buffer < 0)
		return;
	ew_assert(socket->worker == ew__worker);
	return_buffer(socket->worker, (unsigned)socket->buffer);
	if (!ew__bug("buffer-given-back-twice"))
		socket->buffer = -1;
	rest(socket);
}

static void finish(struct ew_socket *socket)
{
	ew__system_close(socket->fd);
	free(socket);
}

static struct ew_socket *socket_of(struct ew__op *op)
{
	return ew__container_of(op, struct ew_socket, hangup);
}

static bool peer_has_gone(const struct ew_socket *socket)
{
	return socket->gone ||
	       (socket->finished && (socket->half_close || ew__bug("half-close-is-gone")));
}

static void cancel_on_hangup(struct ew__chore *chore)
{
	struct ew_socket *socket = ew__container_of(chore, struct ew_socket, hangup_cancel);

	/* It is being closed, or the request is another by now. */
	if (socket->hangup_scope && peer_has_gone(socket))
		ew__scope_cancel_here(socket->hangup_scope, EW_REASON_PEER, NULL,
				      socket->resource.site);
	rest(socket);
}

static void note_events(struct ew_socket *socket, int events)
{
	socket->finished |= (events & POLLRDHUP) != 0;
	socket->gone |= (events & (POLLHUP | POLLERR)) != 0;
}

/* On a plain thread nothing has watched it since the last call. */
static void look_at_peer(struct ew_socket *socket)
{
	struct pollfd pollfd = { .fd = socket->fd, .events = POLLRDHUP };

	if (poll(&pollfd, 1, 0) > 0)
		note_events(socket, pollfd.revents);
}

static void hangup_seen(struct ew__op *op, int32_t events)
{
	struct ew_socket *socket = socket_of(op);

	note_events(socket, events);
	if (socket->hangup_scope && peer_has_gone(socket) && !socket->hangup_cancel.link)
		ew__chore_add(socket->worker, &socket->hangup_cancel);
}

static void watch_peer(struct ew_socket *socket)
{
	socket->armed = true;
	ew__standing_add(socket->worker, &socket->standing);
	ew__driver_submit(socket->worker->driver, &socket->hangup);
}

/* The kernel may give a watch up, unasked, or be short of something for a moment: a request that is under way wants it. */
static bool is_to_go_on(const struct ew_socket *socket)
{
	int result = socket->hangup.result;

	return socket->hangup_scope && !ew__thread_is_plain() && !peer_has_gone(socket) &&
	       (result >= 0 || result == -EAGAIN || result == -ENOMEM) &&
	       !ew__bug("watch-given-up");
}

static void watch_time_has_come(struct ew__timer *timer)
{
	struct ew_socket *socket = ew__container_of(timer, struct ew_socket, watch_again);

	if (socket->hangup_scope)
		watch_peer(socket);
	else
		rest(socket);
}

/* Once without a delay; what the kernel goes on to refuse must not keep a processor busy. */
static void watch_peer_again(struct ew_socket *socket)
{
	if (!socket->given_up) {
		socket->given_up = true;
		watch_peer(socket);
		return;
	}
	socket->watch_again.expire = watch_time_has_come;
	ew__timer_arm(socket->worker, &socket->watch_again, ew_after(WATCH_AGAIN_NS));
}

static void hangup_completed(struct ew__op *op)
{
	struct ew_socket *socket = socket_of(op);

	socket->armed = false;
	if (!ew__thread_is_plain())
		ew__standing_remove(&socket->standing);
	if (socket->aborted)
		finish(socket);
	else if (socket->away)
		ew__away_answer(socket->away);
	else if (socket->closing)
		ew__wait_end(socket->closing, 0);
	else if (is_to_go_on(socket))
		watch_peer_again(socket);
	else
		rest(socket); /* armed again by the next request */
}

/* On the socket's worker: what it was to do for a scope, of which there is none. A runtime that ends leaves such things. */
static void unschedule(struct ew_socket *socket)
{
	if (!socket->worker)
		return;
	ew__timer_cancel(socket->worker, &socket->watch_again);
	ew__chore_remove(socket->worker, &socket->hangup_cancel);
}

/* On the socket's worker: what it has of it goes. The poll may still have to be awaited. */
static void detach(struct ew_socket *socket)
{
	ew_socket_release(socket);
	socket->hangup_scope = NULL;
	ew__standing_remove(&socket->standing);
	unschedule(socket);
	if (socket->armed)
		ew__driver_cancel(socket->worker->driver, &socket->hangup);
}

static void deliver_close(struct ew__message *message)
{
	struct ew__away *away = ew__away_of(message);
	struct ew_socket *socket = away->object;

	detach(socket);
	if (socket->armed)
		socket->away = away;
	else
		ew__away_answer(away);
}

static void abort_elsewhere(struct ew_socket *socket, struct ew_worker *worker);

/* A plain thread may not be heard of for long: it ends the rest with its next call, or at its own end. */
static int close_elsewhere(struct ew_socket *socket, struct ew_worker *worker)
{
	(void)ew__system_shutdown(socket->fd, SHUT_RDWR);
	if (ew__worker_is_plain(worker)) {
		ew_resource_deinit(&socket->resource);
		abort_elsewhere(socket, worker);
		return 0;
	}
	ew__away_ask(worker, deliver_close, socket, "a socket's other worker");
	ew_resource_deinit(&socket->resource);
	finish(socket);
	return 0;
}

static int socket_close(void *resource)
{
	struct ew_socket *socket = resource;
	struct ew_worker *worker = ew__worker_hold(&socket->worker);
	struct ew__wait wait = { .cancel = NULL };

	if (worker)
		return close_elsewhere(socket, worker);
	ew_socket_release(socket);
	socket->hangup_scope = NULL;
	/* Of ten thousand that end at once, those that give space back go first. */
	if (ew__current && ew__current->leaving)
		ew__yield_to_leaving();
	(void)ew__system_shutdown(socket->fd, SHUT_RDWR);
	detach(socket);
	if (socket->armed) {
		socket->closing = &wait;
		if (!ew__bug("socket-closed-before-its-last-completion"))
			ew__suspend(&wait, "the last completion of a socket");
	}
	ew_resource_deinit(&socket->resource);
	finish(socket);
	return 0;
}

/* On the socket's worker. */
static void abort_here(struct ew_socket *socket)
{
	(void)ew__system_shutdown(socket->fd, SHUT_RDWR);
	detach(socket);
	if (socket->armed)
		socket->aborted = true;
	else
		finish(socket);
}

static void deliver_abort(struct ew__message *message)
{
	abort_here(ew__container_of(message, struct ew_socket, abort_message));
}

static void abort_elsewhere(struct ew_socket *socket, struct ew_worker *worker)
{
	socket->abort_message.deliver = deliver_abort;
	ew__post_to_held(worker, &socket->abort_message);
}

static void socket_abort(void *resource)
{
	struct ew_socket *socket = resource;
	struct ew_worker *worker = ew__worker_hold(&socket->worker);

	ew_resource_deinit(&socket->resource);
	if (worker)
		abort_elsewhere(socket, worker);
	else
		abort_here(socket);
}

static const struct ew_resource_type socket_type = {
	.name = "socket",
	.close = socket_close,
	.abort = socket_abort,
};

int ew__socket_new(int fd, const struct ew_site *site, struct ew_socket **ret_socket)
{
	struct ew_socket *socket = calloc(1, sizeof(*socket));
	const int on = 1;

	if (!socket)
		return -ENOMEM;
	/* Answers are written whole; there is nothing to gain from waiting for more. Fails on unix sockets. */
	setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
	socket->fd = fd;
	socket->buffer = -1;
	/* POLLHUP and POLLERR are always reported (poll(2)). */
	socket->hangup = (struct ew__op){
		.code = EW__OP_POLL,
		.fd = fd,
		.flags = POLLRDHUP,
		.event = hangup_seen,
		.complete = hangup_completed,
	};
	socket->hangup_cancel.run = cancel_on_hangup;
	socket->standing.op = &socket->hangup;
	socket->standing.armed = &socket->armed;
	ew_resource_init(&socket->resource, &socket_type, site);
	*ret_socket = socket;
	return 0;
}

int(ew_socket_pair)(struct ew_socket **ret_one, struct ew_socket **ret_other)
{
	const struct ew_site *site = ew__made_at;
	struct ew_socket *one;
	int fds[2], r;

	ew__place_must_be_empty(ret_one, site);
	ew__place_must_be_empty(ret_other, site);
	r = ew__system_socket_pair(fds);
	if (r < 0)
		return r;
	r = ew__socket_new(fds[0], site, &one);
	if (r < 0) {
		ew__system_close(fds[0]);
		ew__system_close(fds[1]);
		return r;
	}
	r = ew__socket_new(fds[1], site, ret_other);
	if (r < 0) {
		ew__system_close(fds[1]);
		ew_resource_deinit(&one->resource);
		finish(one);
		return r;
	}
	*ret_one = one;
	return 0;
}

int(ew_socket_adopt)(int fd, struct ew_socket **ret_socket)
{
	const struct ew_site *site = ew__made_at;
	int status, r;

	ew__place_must_be_empty(ret_socket, site);
	r = ew__socket_new(fd, site, ret_socket);
	if (r < 0)
		return r;
	/* With O_NONBLOCK io_uring would return -EAGAIN instead of waiting. */
	status = fcntl(fd, F_GETFL);
	if (status >= 0 && (status & O_NONBLOCK))
		fcntl(fd, F_SETFL, status & ~O_NONBLOCK);
	return 0;
}

/* A descriptor. -EAGAIN: the kernel was interrupted. It may go on with a connect that has begun, here and after a cancel. */
static int connect_new(const struct sockaddr *address, socklen_t address_bytes)
{
	struct ew__task_op connect = {
		.op = { .code = EW__OP_CONNECT, .address = address, .length = address_bytes },
	};
	int fd = ew__system_socket(address->sa_family), r;

	if (fd < 0)
		return fd;
	connect.op.fd = fd;
	r = ew__op_await(&connect, "a connection being made");
	if (r == 0)
		return fd;
	if (r == -ECANCELED && connect.op.cancel_wanted)
		ew__task()->outcome =
			ew__bug("spoiled-connect-is-none") ? EW_OUTCOME_NONE : EW_OUTCOME_SPOILED;
	if (!ew__bug("failed-connect-leaves-its-descriptor"))
		ew__system_close(fd);
	return r;
}

int(ew_socket_connect)(const struct sockaddr *address, socklen_t address_bytes,
		       struct ew_socket **ret_socket)
{
	const struct ew_site *site = ew__made_at;
	int fd, r;

	ew__place_must_be_empty(ret_socket, site);
	do {
		r = ew__enter();
		fd = r < 0 ? r : connect_new(address, address_bytes);
	} while (fd == -EAGAIN);
	if (fd < 0)
		return fd;
	r = ew__socket_new(fd, site, ret_socket);
	if (r < 0)
		ew__system_close(fd);
	return r;
}

int ew_socket_fd(const struct ew_socket *socket)
{
	return socket->fd;
}

static uint32_t transfer_bytes(size_t size)
{
	return size < TRANSFER_BYTES_MAX ? (uint32_t)size : TRANSFER_BYTES_MAX;
}

int ew_socket_recv(struct ew_socket *socket, void *buffer, size_t size)
{
	struct ew__task_op recv = {
		.op = {
			.code = EW__OP_RECV,
			.fd = socket->fd,
			.address = buffer,
			.length = transfer_bytes(size),
		},
		.watched = socket->armed,
	};

	return ew__op_run_polled(&recv, "bytes from a peer");
}

static int wait_readable(struct ew_socket *socket)
{
	struct ew__task_op poll = {
		.op = { .code = EW__OP_POLL, .fd = socket->fd, .flags = POLLIN }
	};
	int r = ew__op_run_polled(&poll, "bytes from a peer");

	return r < 0 ? r : 0;
}

static int pass_on(void *worker)
{
	if (!ew__bug("free-buffer-not-told-on"))
		tell_of_buffer(worker);
	return 0;
}

static int receive_in_line(struct ew_socket *socket, struct ew__task_op *receive)
{
	struct ew_worker *worker = ew__worker;
	EW_GUARD(others, worker, .close = pass_on, .abort = tell_of_buffer);
	int r;

	do {
		r = wait_readable(socket);
		if (r == 0 && worker->buffers_lent >= EW__BUFFERS_COUNT)
			r = wait_for_buffer(worker);
		if (r == 0)
			r = ew__op_run_polled(receive, "bytes from a peer");
	} while (r == -ENOBUFS);
	if (r > 0)
		ew_guard_disarm(&others);
	return r;
}

int ew_socket_receive(struct ew_socket *socket, const char **ret_data)
{
	struct ew__task_op receive = { .op = { .code = EW__OP_RECEIVE, .fd = socket->fd },
				       .watched = socket->armed };
	struct ew_worker *worker;
	int r;

	ew_socket_release(socket);
	ew_assert(!socket->armed || socket->worker == ew__worker);
	r = ew__op_run_polled(&receive, "bytes from a peer");
	if (r == -ENOBUFS)
		r = receive_in_line(socket, &receive);
	if (r <= 0)
		return r;
	ew_assert(receive.op.has_buffer);
	worker = ew__worker;
	socket->worker = worker;
	worker->buffers_lent++;
	socket->buffer = receive.op.buffer;
	*ret_data = ew__driver_buffer(worker->driver, receive.op.buffer);
	return r;
}

int ew__socket_send_some(struct ew_socket *socket, const void *data, size_t size)
{
	struct ew__task_op send = {
		.op = {
			.code = EW__OP_SEND,
			.fd = socket->fd,
			.address = data,
			.length = transfer_bytes(size),
		},
		.watched = socket->armed,
	};

	return ew__op_run_polled(&send, "a peer to take bytes");
}

int ew_socket_send(struct ew_socket *socket, const void *data, size_t size)
{
	const char *at = data;
	int r;

	if (size == 0)
		return ew__bug("empty-send-does-not-check") ? 0 : ew__enter();
	while (size > 0) {
		r = ew__socket_send_some(socket, at, size);
		if (r < 0)
			return r;
		at += r;
		size -= (size_t)r;
	}
	return 0;
}

int ew_socket_send_fd(struct ew_socket *socket, const void *data, size_t size, int fd)
{
	union {
		char bytes[CMSG_SPACE(sizeof(int))];
		struct cmsghdr alignment;
	} control = { .bytes = { 0 } };
	struct iovec part = { .iov_base = (void *)(uintptr_t)data, .iov_len = size };
	struct msghdr message = {
		.msg_iov = &part,
		.msg_iovlen = 1,
		.msg_control = control.bytes,
		.msg_controllen = sizeof(control.bytes),
	};
	struct cmsghdr *header = CMSG_FIRSTHDR(&message);
	struct ew__task_op send = {
		.op = { .code = EW__OP_SENDMSG,
			.fd = socket->fd,
			.address = &message,
			.length = transfer_bytes(size) },
	};
	int r;

	if (size == 0)
		return -EINVAL;
	header->cmsg_level = SOL_SOCKET;
	header->cmsg_type = SCM_RIGHTS;
	header->cmsg_len = CMSG_LEN(sizeof(int));
	memcpy(CMSG_DATA(header), &fd, sizeof(fd));
	r = ew__op_run_polled(&send, "a peer to take a descriptor");
	if (r < 0)
		return r;
	return ew_socket_send(socket, (const char *)data + r, size - (size_t)r);
}

/* The first descriptor in a message, the others closed; -1: none came. */
static int first_descriptor(struct msghdr *message)
{
	struct cmsghdr *header;
	int found = -1, fd;
	size_t i, count;

	for (header = CMSG_FIRSTHDR(message); header; header = CMSG_NXTHDR(message, header)) {
		if (header->cmsg_level != SOL_SOCKET || header->cmsg_type != SCM_RIGHTS)
			continue;
		count = (header->cmsg_len - CMSG_LEN(0)) / sizeof(int);
		for (i = 0; i < count; i++) {
			memcpy(&fd, CMSG_DATA(header) + i * sizeof(int), sizeof(fd));
			if (found < 0)
				found = fd;
			else if (!ew__bug("descriptors-too-many-kept"))
				ew__system_close(fd);
		}
	}
	return found;
}

/* The bytes have been taken, and what came with them is lost. */
static int spoiled(int r)
{
	ew__task()->outcome = EW_OUTCOME_SPOILED;
	return r;
}

int ew_socket_recv_fd(struct ew_socket *socket, void *buffer, size_t size,
		      struct ew_file **ret_file)
{
	const struct ew_site *site = ew__made_at;
	union {
		/* Who the peer is comes first, where whoever had the socket before has asked for that. */
		char bytes[CMSG_SPACE(sizeof(struct ucred)) + CMSG_SPACE(4 * sizeof(int))];
		struct cmsghdr alignment;
	} control;
	struct iovec part = { .iov_base = buffer, .iov_len = size };
	struct msghdr message = {
		.msg_iov = &part,
		.msg_iovlen = 1,
		.msg_control = control.bytes,
		.msg_controllen = sizeof(control.bytes),
	};
	struct ew__task_op recv = {
		.op = { .code = EW__OP_RECVMSG,
			.fd = socket->fd,
			.address = &message,
			.length = transfer_bytes(size) },
	};
	int r, fd, adopted;

	ew__place_must_be_empty(ret_file, site);
	r = ew__op_run_polled(&recv, "a descriptor from a peer");
	if (r < 0)
		return r;
	fd = first_descriptor(&message);
	if (fd < 0)
		return message.msg_flags & MSG_CTRUNC ? spoiled(-EMFILE) : r;
	ew__made_at = site;
	adopted = (ew_file_adopt)(fd, ret_file);
	if (adopted < 0) {
		ew__system_close(fd);
		return spoiled(adopted);
	}
	return r;
}

/* ---- among alternatives ---- */

static void select_completed(struct ew__op *op)
{
	struct ew__stand *stand = ew__container_of(op, struct ew__stand, op);

	/* Nothing was carried out, and nobody has asked for the end. */
	if (op->result == -EAGAIN && !stand->leaving) {
		ew__driver_submit(ew__worker->driver, op);
		return;
	}
	stand->ended = true;
	if (ew__choice_claim(stand->choice, stand))
		ew__wait_end(&stand->choice->wait, op->result);
	else if (stand->leaving)
		ew__wait_end(stand->leaving, 0);
}

static void select_begin(struct ew__stand *stand, uint32_t events)
{
	struct ew_socket *socket = stand->alternative->object;
	struct pollfd now = { .fd = socket->fd, .events = (short)events };

	ew_assert(!socket->armed || socket->worker == ew__worker);
	stand->token = stand;
	stand->result = poll(&now, 1, 0) > 0 ? now.revents : 0;
	stand->op = (struct ew__op){
		.code = EW__OP_POLL,
		.fd = socket->fd,
		.flags = events,
		.complete = select_completed,
	};
	stand->leaving = NULL;
	stand->ended = false;
}

static void select_readable_begin(struct ew__stand *stand, const struct ew_site *site)
{
	(void)site;
	select_begin(stand, POLLIN);
}

static void select_writable_begin(struct ew__stand *stand, const struct ew_site *site)
{
	(void)site;
	select_begin(stand, POLLOUT);
}

static bool select_look(struct ew__stand *stand)
{
	return stand->result > 0;
}

static void select_line_up(struct ew__stand *stand)
{
	ew__driver_submit(ew__worker->driver, &stand->op);
}

/* The operation is in the task's frame: asked to stop, and waited for. */
static void select_leave(struct ew__stand *stand)
{
	struct ew__wait wait = { .cancel = NULL };

	if (stand->ended)
		return;
	ew__driver_cancel(ew__worker->driver, &stand->op);
	stand->leaving = &wait;
	ew__suspend(&wait, "the last completion of an alternative");
}

static void select_end(struct ew__stand *stand, bool won)
{
	(void)stand;
	(void)won;
}

static const struct ew__alternative_type readable_type = {
	.begin = select_readable_begin,
	.look = select_look,
	.line_up = select_line_up,
	.leave = select_leave,
	.end = select_end,
};

static const struct ew__alternative_type writable_type = {
	.begin = select_writable_begin,
	.look = select_look,
	.line_up = select_line_up,
	.leave = select_leave,
	.end = select_end,
};

struct ew_alternative ew_select_readable(struct ew_socket *socket)
{
	return (struct ew_alternative){ .type = &readable_type, .object = socket };
}

struct ew_alternative ew_select_writable(struct ew_socket *socket)
{
	return (struct ew_alternative){ .type = &writable_type, .object = socket };
}

int ew_socket_shutdown(struct ew_socket *socket, int how)
{
	return ew__system_shutdown(socket->fd, how);
}

void ew_socket_cancel_on_hangup(struct ew_socket *socket, struct ew_scope *scope, bool half_close)
{
	ew_assert(scope->worker == ew__worker);
	ew_assert(!socket->armed || socket->worker == ew__worker);
	socket->hangup_scope = scope;
	socket->half_close = half_close;
	if (ew__thread_is_plain())
		look_at_peer(socket);
	if (peer_has_gone(socket)) {
		ew__scope_cancel_here(scope, EW_REASON_PEER, NULL, socket->resource.site);
		return;
	}
	if (socket->armed)
		return;
	socket->given_up = false;
	if (socket->worker)
		ew__timer_cancel(socket->worker, &socket->watch_again);
	socket->worker = ew__worker;
	if (ew__thread_is_plain()) {
		ew__standing_add(socket->worker, &socket->standing);
		return;
	}
	watch_peer(socket);
}

void ew_socket_forget_hangup(struct ew_socket *socket)
{
	socket->hangup_scope = NULL;
	if (ew__thread_is_plain())
		ew__standing_remove(&socket->standing);
	unschedule(socket);
	rest(socket);
}

int ew_socket_close(struct ew_socket **socket)
{
	return ew_close(socket);
}
