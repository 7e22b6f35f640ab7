/* SPDX-License-Identifier: Apache-2.0 */

/*
 * The objects of a simulated world: sockets, listeners, the ends of pipes, open files (filesystem.c), children (child.c) and
 * what waits for signals, and what operations do to them. A descriptor is a number that the kernel has reserved for us, by a duplicate of something that
 * cannot be read, written or waited for; a table says which object it means. Bytes are put straight into the buffer of
 * the other end: that they take their time is the agenda's doing (sim.c), which lets operations wait, before they look
 * and after they have.
 *
 * Of descriptors that are none of ours, files are left to calls on threads, streams are read and written where they
 * stand, and nothing is ever reported: the world outside stands still.
 */

#include "driver/errors.h"
#include "driver/sim/sim.h"
#include "driver/system.h"

#include <endwell/clock.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/un.h>
#include <unistd.h>

#define BUFFER_BYTES	 65536
#define BUFFER_BITS_MIN	 10 /* where counts are to be short */
#define BUFFER_BITS_MORE 8
#define PORT_FIRST	 40000

enum kind { FRESH, STREAM, LISTENER, OPEN_FILE, SIGNALS, CHILD };

/* A descriptor that was sent with the byte at that place of the stream. */
struct passed {
	struct passed *next;
	uint64_t at;
	int fd;
};

struct ew__sim_object {
	enum kind kind;
	unsigned number; /* in order of making */
	int family;
	unsigned descriptors_count, operations_count;
	struct ew__op_line waiting;
	struct ew__sim_object *next; /* with an address, or in a listener's line */
	struct sockaddr_storage address;
	socklen_t address_bytes; /* 0: it has none */
	bool shared;

	struct ew__sim_file *file; /* of an open file */
	struct ew__sim_child *child;
	uint64_t signals; /* that it waits for, a bit for each */

	/* Of a listener. */
	struct ew__sim_object *first_pending;
	unsigned pending_count, backlog;

	/* Of a stream: what has come and was not read. */
	struct ew__sim_object *peer; /* NULL: gone */
	char *bytes;
	size_t first, count, room;
	uint64_t read_bytes; /* in its life */
	struct passed *passed;
	bool is_pipe;
	bool finished; /* the peer sends no more */
	bool reset;    /* and has not been told */
	bool shut_read, shut_write;
};

/* ---- descriptors ---- */

static struct ew__sim_object *object_of(const struct ew__sim *sim, int fd)
{
	return fd >= 0 && (unsigned)fd < sim->objects_room ? sim->objects[fd] : NULL;
}

static void grow_table(struct ew__sim *sim, unsigned fd)
{
	unsigned room = sim->objects_room ? sim->objects_room : 64;

	while (room <= fd)
		room *= 2;
	sim->objects = ew__sim_allocate(sim->objects, room * sizeof(struct ew__sim_object *));
	memset(sim->objects + sim->objects_room, 0,
	       (room - sim->objects_room) * sizeof(struct ew__sim_object *));
	sim->objects_room = room;
}

static int new_descriptor(struct ew__sim *sim, struct ew__sim_object *object)
{
	int fd;

	if (ew__sim_fails(sim, sim->strengths.descriptors))
		return -EMFILE;
	fd = fcntl(sim->reserve, F_DUPFD_CLOEXEC, 0);
	if (fd < 0)
		return -errno;
	if ((unsigned)fd >= sim->objects_room)
		grow_table(sim, (unsigned)fd);
	sim->objects[fd] = object;
	object->descriptors_count++;
	return fd;
}

static struct ew__sim_object *new_object(struct ew__sim *sim, enum kind kind, int family)
{
	struct ew__sim_object *object = ew__sim_allocate(NULL, sizeof(*object));

	memset(object, 0, sizeof(*object));
	object->kind = kind;
	object->family = family;
	object->number = ++sim->objects_made;
	object->room = BUFFER_BYTES;
	if (sim->strengths.short_counts && kind != OPEN_FILE)
		object->room = (size_t)1 << (BUFFER_BITS_MIN +
					     ew__sim_draw(sim, EW__SIM_PLACES, BUFFER_BITS_MORE));
	return object;
}

/* ---- lines ---- */

static bool is_readable(const struct ew__sim_object *object)
{
	return object->count > 0 || object->finished || object->reset || object->shut_read ||
	       object->kind != STREAM;
}

static bool is_writable(const struct ew__sim_object *object)
{
	return !object->peer || object->reset || object->shut_write || object->peer->shut_read ||
	       object->peer->count < object->peer->room;
}

/* unix_poll() and tcp_poll() of the kernel. */
static uint32_t socket_events(const struct ew__sim_object *object)
{
	bool no_more_in = object->finished || object->shut_read;
	bool no_more_out = object->shut_write || object->reset;
	uint32_t events = 0;

	if (object->family == AF_UNIX)
		no_more_out |= !object->peer || object->peer->shut_read;
	if (no_more_in || object->count > 0)
		events |= POLLIN;
	if (no_more_in)
		events |= POLLRDHUP;
	if (is_writable(object))
		events |= POLLOUT;
	if (no_more_in && no_more_out)
		events |= POLLHUP;
	if (object->reset)
		events |= POLLERR;
	return events;
}

/* pipe_poll() */
static uint32_t pipe_events(const struct ew__sim_object *object)
{
	if (object->shut_write)
		return (object->count > 0 ? POLLIN : 0u) | (object->peer ? 0u : POLLHUP);
	return (is_writable(object) ? POLLOUT : 0u) | (object->peer ? 0u : POLLERR);
}

static uint32_t events_of(const struct ew__sim_object *object)
{
	if (object->kind == SIGNALS)
		return object->signals & ew__sim->signals_pending ? POLLIN : 0;
	if (object->kind == CHILD)
		return object->finished ? POLLIN : 0;
	if (object->kind == LISTENER)
		return object->first_pending ? POLLIN : 0;
	if (object->kind == FRESH)
		return POLLHUP | POLLOUT;
	return object->is_pipe ? pipe_events(object) : socket_events(object);
}

static bool is_ready(const struct ew__sim_object *object, const struct ew__op *op)
{
	switch (op->code) {
	case EW__OP_POLL: return events_of(object) & (op->flags | POLLHUP | POLLERR);
	case EW__OP_ACCEPT: return object->first_pending != NULL;
	case EW__OP_WRITE:
	case EW__OP_SEND:
	case EW__OP_SENDMSG: return is_writable(object);
	default: return is_readable(object);
	}
}

static struct ew__op_line *line_of(struct ew__sim *sim, const struct ew__op *op)
{
	struct ew__sim_object *object = object_of(sim, op->fd);

	if (op->code == EW__OP_CONNECT)
		return &sim->connecting;
	return object ? &object->waiting : &sim->outside;
}

void ew__sim_object_leave(struct ew__sim *sim, struct ew__op *op)
{
	ew__op_line_remove(line_of(sim, op), op);
}

static int wait_in_line(struct ew__sim *sim, struct ew__op *op)
{
	ew__op_line_append(line_of(sim, op), op);
	return EW__SIM_WAITS;
}

static void changed(struct ew__sim *sim, struct ew__sim_object *object)
{
	struct ew__op *op, *next;

	for (op = object->waiting.first; op; op = next) {
		next = op->next;
		if (!is_ready(object, op))
			continue;
		ew__op_line_remove(&object->waiting, op);
		ew__sim_try_again(sim, op);
	}
}

/* A listener has room, or has gone. */
static void call_connecting(struct ew__sim *sim)
{
	struct ew__op *op;

	while ((op = sim->connecting.first)) {
		ew__op_line_remove(&sim->connecting, op);
		ew__sim_try_again(sim, op);
	}
}

/* ---- streams ---- */

static void drop_input(struct ew__sim_object *object)
{
	struct passed *passed;

	while ((passed = object->passed)) {
		object->passed = passed->next;
		ew__system_close(passed->fd);
		free(passed);
	}
	object->count = 0;
}

/* The peer is told that nothing more comes, and, if it was not heard out, by a reset. What has come stays. */
static void part(struct ew__sim *sim, struct ew__sim_object *object, bool reset)
{
	struct ew__sim_object *peer = object->peer;

	if (!peer)
		return;
	object->peer = NULL;
	peer->peer = NULL;
	peer->finished = true;
	peer->reset = reset;
	changed(sim, peer);
}

/* By lot what had been sent before is lost, too. */
static void break_connection(struct ew__sim *sim, struct ew__sim_object *object)
{
	if (ew__sim_draw(sim, EW__SIM_PLACES, 2))
		drop_input(object->peer);
	part(sim, object, true);
	object->finished = true;
	object->reset = true;
	drop_input(object);
	changed(sim, object);
}

static void join(struct ew__sim_object *one, struct ew__sim_object *other)
{
	one->kind = STREAM;
	one->peer = other;
	other->kind = STREAM;
	other->peer = one;
}

size_t ew__sim_shortened(struct ew__sim *sim, size_t size)
{
	if (size < 2 || !ew__sim_happens(sim, EW__SIM_LENGTHS, sim->strengths.short_counts))
		return size;
	sim->faults_made++;
	return 1 + ew__sim_draw(sim, EW__SIM_LENGTHS, size - 1);
}

static void put_bytes(struct ew__sim_object *object, const char *data, size_t size)
{
	size_t at = (object->first + object->count) % object->room, part;

	if (!object->bytes)
		object->bytes = ew__sim_allocate(NULL, object->room);
	ew_assert(size <= object->room - object->count);
	part = size < object->room - at ? size : object->room - at;
	memcpy(object->bytes + at, data, part);
	memcpy(object->bytes, data + part, size - part);
	object->count += size;
}

static void take_bytes(struct ew__sim_object *object, char *buffer, size_t size)
{
	size_t part = object->room - object->first;

	part = size < part ? size : part;
	memcpy(buffer, object->bytes + object->first, part);
	memcpy(buffer + part, object->bytes, size - part);
	object->count -= size;
	object->first = object->count ? (object->first + size) % object->room : 0;
	object->read_bytes += size;
}

/* Those that came with bytes which were read by a call that does not take descriptors. */
static void drop_passed(struct ew__sim_object *object)
{
	struct passed *passed;

	while ((passed = object->passed) && passed->at < object->read_bytes) {
		object->passed = passed->next;
		ew__system_close(passed->fd);
		free(passed);
	}
}

static int told_reset(struct ew__sim_object *object)
{
	object->reset = false;
	return -ECONNRESET;
}

static int receive(struct ew__sim *sim, struct ew__sim_object *object, void *buffer, size_t size)
{
	if (object->kind != STREAM)
		return object->kind == FRESH ? -ENOTCONN : -EINVAL;
	if (object->count == 0 && object->reset)
		return told_reset(object);
	if (object->count == 0)
		return object->finished || object->shut_read ? 0 : EW__SIM_WAITS;
	size = ew__sim_shortened(sim, size < object->count ? size : object->count);
	take_bytes(object, buffer, size);
	if (object->peer)
		changed(sim, object->peer);
	return (int)size;
}

static int receive_bytes(struct ew__sim *sim, struct ew__sim_object *object, void *buffer,
			 size_t size)
{
	int r = receive(sim, object, buffer, size);

	if (r > 0)
		drop_passed(object);
	return r;
}

static int send_bytes(struct ew__sim *sim, struct ew__sim_object *object, const void *data,
		      size_t size)
{
	struct ew__sim_object *peer = object->peer;

	if (object->kind != STREAM)
		return -ENOTCONN;
	/* A unix socket says it to readers only. */
	if (object->reset && object->family != AF_UNIX)
		return told_reset(object);
	if (!peer || object->shut_write || (peer->shut_read && peer->family == AF_UNIX))
		return -EPIPE;
	if (size == 0)
		return 0;
	if (peer->count == peer->room)
		return EW__SIM_WAITS;
	size = ew__sim_shortened(sim,
				 size < peer->room - peer->count ? size : peer->room - peer->count);
	put_bytes(peer, data, size);
	changed(sim, peer);
	return (int)size;
}

static int receive_lent(struct ew__sim *sim, struct ew__sim_object *object, struct ew__op *op)
{
	unsigned number;
	int r;

	if (sim->free_count == 0)
		return -ENOBUFS;
	number = sim->free_buffers[sim->free_count - 1];
	r = receive_bytes(sim, object, (void *)(uintptr_t)ew__driver_buffer(&sim->driver, number),
			  EW__BUFFER_BYTES);
	if (r > 0) {
		sim->free_count--;
		op->buffer = (uint16_t)number;
		op->has_buffer = true;
	}
	return r;
}

/* ---- messages with descriptors ---- */

/*
 * As it is sent: the descriptor, and its place behind all that was sent before. The kernel needs no number for it, but
 * bounds how many are under way (unix(7)): where we have none left, that is the answer.
 */
static int pass_descriptor(struct ew__sim *sim, struct ew__sim_object *peer, int fd)
{
	struct passed *passed = ew__sim_allocate(NULL, sizeof(*passed)), **last = &peer->passed;

	(void)sim;
	passed->next = NULL;
	passed->fd = ew__system_duplicate(fd);
	if (passed->fd < 0) {
		free(passed);
		return -ETOOMANYREFS;
	}
	passed->at = peer->read_bytes + peer->count;
	while (*last)
		last = &(*last)->next;
	*last = passed;
	return 0;
}

static int send_message(struct ew__sim *sim, struct ew__sim_object *object,
			const struct msghdr *message)
{
	const struct cmsghdr *header = CMSG_FIRSTHDR(message);
	int fd, r;

	if (message->msg_iovlen != 1)
		return -EOPNOTSUPP;
	if (header && is_writable(object) && object->peer) {
		memcpy(&fd, CMSG_DATA(header), sizeof(fd));
		r = pass_descriptor(sim, object->peer, fd);
		if (r < 0)
			return r;
	}
	return send_bytes(sim, object, message->msg_iov->iov_base, message->msg_iov->iov_len);
}

static void hand_out_passed(struct ew__sim_object *object, struct msghdr *message)
{
	struct passed *passed = object->passed;
	struct cmsghdr *header = CMSG_FIRSTHDR(message);

	message->msg_controllen = 0;
	if (!passed || passed->at >= object->read_bytes || !header)
		return;
	header->cmsg_level = SOL_SOCKET;
	header->cmsg_type = SCM_RIGHTS;
	header->cmsg_len = CMSG_LEN(sizeof(int));
	memcpy(CMSG_DATA(header), &passed->fd, sizeof(int));
	message->msg_controllen = CMSG_SPACE(sizeof(int));
	object->passed = passed->next;
	free(passed);
}

/* A read ends before the next descriptor but one. */
static int receive_message(struct ew__sim *sim, struct ew__sim_object *object,
			   struct msghdr *message)
{
	const struct passed *second = object->passed ? object->passed->next : NULL;
	size_t size = message->msg_iov->iov_len;
	int r;

	if (message->msg_iovlen != 1)
		return -EOPNOTSUPP;
	if (second && second->at - object->read_bytes < size)
		size = second->at - object->read_bytes;
	r = receive(sim, object, message->msg_iov->iov_base, size);
	if (r != EW__SIM_WAITS)
		hand_out_passed(object, message);
	if (r > 0)
		drop_passed(object);
	return r;
}

/* ---- connections ---- */

static bool is_any(const struct sockaddr *address)
{
	static const struct in6_addr any6 = IN6ADDR_ANY_INIT;

	if (address->sa_family == AF_INET)
		return ((const struct sockaddr_in *)address)->sin_addr.s_addr == INADDR_ANY;
	return address->sa_family == AF_INET6 &&
	       !memcmp(&((const struct sockaddr_in6 *)address)->sin6_addr, &any6, sizeof(any6));
}

/* At the same place in both families. */
static in_port_t *port_of(const struct sockaddr *address)
{
	if (address->sa_family != AF_INET && address->sa_family != AF_INET6)
		return NULL;
	return &((struct sockaddr_in *)(uintptr_t)address)->sin_port;
}

static bool is_at(const struct ew__sim_object *object, const struct sockaddr *address,
		  socklen_t bytes)
{
	const struct sockaddr *own = (const struct sockaddr *)&object->address;

	if (own->sa_family != address->sa_family)
		return false;
	if (!port_of(address))
		return object->address_bytes == bytes && !memcmp(own, address, bytes);
	if (*port_of(own) != *port_of(address))
		return false;
	if (is_any(own) || is_any(address))
		return true;
	if (own->sa_family == AF_INET)
		return ((const struct sockaddr_in *)own)->sin_addr.s_addr ==
		       ((const struct sockaddr_in *)address)->sin_addr.s_addr;
	return !memcmp(&((const struct sockaddr_in6 *)own)->sin6_addr,
		       &((const struct sockaddr_in6 *)address)->sin6_addr, sizeof(struct in6_addr));
}

/* One of those that listen there, by lot. */
static struct ew__sim_object *find_listener(struct ew__sim *sim, const struct sockaddr *address,
					    socklen_t bytes)
{
	struct ew__sim_object *object, *found = NULL;
	unsigned count = 0;

	for (object = sim->listeners; object; object = object->next)
		if (object->kind == LISTENER && is_at(object, address, bytes) &&
		    ew__sim_draw(sim, EW__SIM_PLACES, ++count) == 0)
			found = object;
	return found;
}

static int connect_to(struct ew__sim *sim, struct ew__sim_object *object, struct ew__op *op)
{
	const struct sockaddr *address = op->address;
	struct ew__sim_object *listener = find_listener(sim, address, op->length), *server, **last;

	if (object->kind != FRESH)
		return -EISCONN;
	if (!listener)
		return address->sa_family == AF_UNIX &&
				       ((const struct sockaddr_un *)address)->sun_path[0]
			       ? -ENOENT
			       : -ECONNREFUSED;
	if (listener->pending_count > listener->backlog)
		return wait_in_line(sim, op);
	server = new_object(sim, STREAM, object->family);
	join(object, server);
	for (last = &listener->first_pending; *last; last = &(*last)->next)
		;
	*last = server;
	listener->pending_count++;
	changed(sim, listener);
	return 0;
}

static void free_stream(struct ew__sim *sim, struct ew__sim_object *object)
{
	part(sim, object, object->count > 0 && !object->is_pipe);
	drop_input(object);
	free(object->bytes);
	free(object);
}

/* The next that waits, its descriptor made; -errno: it stays. */
static int accept_next(struct ew__sim *sim, struct ew__sim_object *listener)
{
	struct ew__sim_object *server = listener->first_pending;
	int fd = new_descriptor(sim, server);

	if (fd < 0)
		return fd;
	listener->first_pending = server->next;
	listener->pending_count--;
	server->next = NULL;
	call_connecting(sim);
	return fd;
}

static int accept_some(struct ew__sim *sim, struct ew__sim_object *listener, struct ew__op *op)
{
	int fd;

	if (listener->kind != LISTENER)
		return -EINVAL;
	while (listener->first_pending && !op->cancel_wanted) {
		fd = accept_next(sim, listener);
		if (fd < 0)
			return fd;
		ew__sim_note(sim, EW__OP_ACCEPT, listener->number, 1);
		sim->reported = true;
		op->event(op, fd);
		if (op->flags & EW__ACCEPT_ONE)
			return 0;
	}
	return wait_in_line(sim, op);
}

static int poll_for(struct ew__sim *sim, const struct ew__sim_object *object, struct ew__op *op)
{
	uint32_t events = events_of(object) & (op->flags | POLLHUP | POLLERR);

	if (events && !op->event)
		return (int)events;
	if (events) {
		ew__sim_note(sim, EW__OP_POLL, object->number, events);
		sim->reported = true;
		op->event(op, (int32_t)events);
	}
	return wait_in_line(sim, op);
}

/* ---- faults ---- */

static bool is_transfer(const struct ew__op *op)
{
	return op->code <= EW__OP_SENDMSG;
}

/* Breaks it, and of what is being sent a part may still get through. */
static void break_while(struct ew__sim *sim, struct ew__sim_object *object, const struct ew__op *op)
{
	if (op->code == EW__OP_SEND && op->length > 0)
		(void)send_bytes(sim, object, op->address,
				 ew__sim_draw(sim, EW__SIM_LENGTHS, op->length));
	break_connection(sim, object);
}

/* 0: nothing goes wrong, or not here. */
static int fault(struct ew__sim *sim, struct ew__sim_object *object, struct ew__op *op)
{
	if (is_transfer(op) && object->kind == STREAM && !object->is_pipe && object->peer &&
	    ew__sim_fails(sim, sim->strengths.resets))
		break_while(sim, object, op);
	if (!ew__sim_fails(sim, sim->strengths.errors))
		return 0;
	return -ew__op_errors[op->code][ew__sim_draw(sim, EW__SIM_FAULTS, EW__OP_ERRORS_MILD)];
}

/* ---- operations ---- */

bool ew__sim_object_hold(struct ew__sim *sim, struct ew__op *op)
{
	struct ew__sim_object *object = object_of(sim, op->fd);

	if (object)
		object->operations_count++;
	else if (fcntl(op->fd, F_GETFD) < 0)
		op->result = -EBADF;
	else if (op->code != EW__OP_READ && op->code != EW__OP_WRITE && op->code != EW__OP_POLL)
		op->result = -EOPNOTSUPP;
	return object || op->result == 0;
}

void ew__sim_object_let_go(struct ew__sim *sim, struct ew__op *op)
{
	struct ew__sim_object *object = op->code == EW__OP_CALL ? NULL : object_of(sim, op->fd);

	if (object)
		object->operations_count--;
}

unsigned ew__sim_object_number(struct ew__sim *sim, const struct ew__op *op)
{
	struct ew__sim_object *object = op->code == EW__OP_CALL ? NULL : object_of(sim, op->fd);

	return object ? object->number : 0;
}

static int attempt_outside(struct ew__sim *sim, struct ew__op *op)
{
	void *address = (void *)(uintptr_t)op->address;
	ssize_t n;

	if (op->code == EW__OP_POLL)
		return wait_in_line(sim, op);
	if (op->offset >= 0)
		return -EAGAIN;
	n = op->code == EW__OP_READ ? read(op->fd, address, op->length)
				    : write(op->fd, address, op->length);
	return n < 0 ? -errno : (int)n;
}

/* What has no place in the file, and what is about sockets, is not for files. */
static int attempt_file(struct ew__sim_object *object, const struct ew__op *op)
{
	void *address = (void *)(uintptr_t)op->address;

	if (op->code == EW__OP_POLL)
		return -EPERM; /* epoll_ctl(2) */
	if (op->code != EW__OP_READ && op->code != EW__OP_WRITE)
		return -ENOTSOCK;
	if (op->offset < 0)
		return -EOPNOTSUPP;
	return op->code == EW__OP_READ
		       ? ew__sim_file_read(object->file, address, op->length, op->offset)
		       : ew__sim_file_write(object->file, address, op->length, op->offset);
}

static int attempt_transfer(struct ew__sim *sim, struct ew__sim_object *object, struct ew__op *op)
{
	void *address = (void *)(uintptr_t)op->address;

	switch (op->code) {
	case EW__OP_READ:
	case EW__OP_WRITE:
		if (op->offset >= 0)
			return -ESPIPE;
		return op->code == EW__OP_READ ? receive_bytes(sim, object, address, op->length)
					       : send_bytes(sim, object, address, op->length);
	case EW__OP_RECV: return receive_bytes(sim, object, address, op->length);
	case EW__OP_RECEIVE: return receive_lent(sim, object, op);
	case EW__OP_SEND: return send_bytes(sim, object, address, op->length);
	case EW__OP_RECVMSG: return receive_message(sim, object, address);
	default: return send_message(sim, object, address);
	}
}

int ew__sim_attempt(struct ew__sim *sim, struct ew__op *op)
{
	struct ew__sim_object *object = object_of(sim, op->fd);
	int r;

	if (!object)
		return attempt_outside(sim, op);
	r = fault(sim, object, op);
	if (r < 0)
		return r;
	if (object->file)
		return attempt_file(object, op);
	switch (op->code) {
	case EW__OP_ACCEPT: return accept_some(sim, object, op);
	case EW__OP_CONNECT: return connect_to(sim, object, op);
	case EW__OP_POLL: return poll_for(sim, object, op);
	default: r = attempt_transfer(sim, object, op);
	}
	return r == EW__SIM_WAITS ? wait_in_line(sim, op) : r;
}

int ew__sim_put(int fd, const void *data, size_t size)
{
	int r = send_bytes(ew__sim, object_of(ew__sim, fd), data, size);

	return r == EW__SIM_WAITS ? -EAGAIN : r;
}

int ew__sim_take(int fd, void *buffer, size_t size)
{
	int r = receive_bytes(ew__sim, object_of(ew__sim, fd), buffer, size);

	return r == EW__SIM_WAITS ? -EAGAIN : r;
}

/* ---- calls ---- */

static int sim_socket(int family)
{
	struct ew__sim_object *object;
	int fd;

	if (family != AF_UNIX && family != AF_INET && family != AF_INET6)
		return -EAFNOSUPPORT;
	object = new_object(ew__sim, FRESH, family);
	fd = new_descriptor(ew__sim, object);
	if (fd < 0)
		free(object);
	return fd;
}

int ew__sim_file_descriptor(struct ew__sim *sim, struct ew__sim_file *file)
{
	struct ew__sim_object *object = new_object(sim, OPEN_FILE, AF_UNSPEC);
	int fd = new_descriptor(sim, object);

	if (fd < 0)
		free(object);
	else
		object->file = file;
	return fd;
}

struct ew__sim_file *ew__sim_file_of(int fd)
{
	struct ew__sim_object *object = object_of(ew__sim, fd);

	return object ? object->file : NULL;
}

int ew__sim_child_descriptor(struct ew__sim *sim, struct ew__sim_child *child,
			     struct ew__sim_object **ret_object)
{
	struct ew__sim_object *object = new_object(sim, CHILD, AF_UNSPEC);
	int fd = new_descriptor(sim, object);

	if (fd < 0) {
		free(object);
		return fd;
	}
	object->child = child;
	*ret_object = object;
	return fd;
}

struct ew__sim_child *ew__sim_child_of(int fd)
{
	struct ew__sim_object *object = object_of(ew__sim, fd);

	return object ? object->child : NULL;
}

void ew__sim_object_finished(struct ew__sim *sim, struct ew__sim_object *object)
{
	object->finished = true;
	changed(sim, object);
}

static int new_pair(int fds[2], bool is_pipe)
{
	struct ew__sim_object *one = new_object(ew__sim, STREAM, AF_UNIX);
	struct ew__sim_object *other = new_object(ew__sim, STREAM, AF_UNIX);
	int first = new_descriptor(ew__sim, one), second = -EMFILE;

	if (first >= 0)
		second = new_descriptor(ew__sim, other);
	if (second < 0) {
		if (first >= 0) {
			ew__sim->objects[first] = NULL;
			close(first);
		}
		free(one);
		free(other);
		return first < 0 ? first : second;
	}
	join(one, other);
	one->is_pipe = other->is_pipe = is_pipe;
	one->shut_write = other->shut_read = other->finished = is_pipe;
	fds[0] = first;
	fds[1] = second;
	return 0;
}

static int sim_pair(int fds[2])
{
	return new_pair(fds, false);
}

static int sim_pipe(int fds[2])
{
	return new_pair(fds, true);
}

static bool is_taken(const struct ew__sim *sim, const struct sockaddr *address, socklen_t bytes,
		     bool share)
{
	const struct ew__sim_object *object;

	for (object = sim->listeners; object; object = object->next)
		if (is_at(object, address, bytes) && !(share && object->shared))
			return true;
	return false;
}

static int sim_bind(int fd, const struct sockaddr *address, socklen_t bytes, bool share)
{
	struct ew__sim_object *object = object_of(ew__sim, fd);
	in_port_t *port;

	if (!object || object->kind != FRESH || object->address_bytes)
		return object ? -EINVAL : -EBADF;
	if (bytes > sizeof(object->address))
		return -EINVAL;
	if (is_taken(ew__sim, address, bytes, share))
		return -EADDRINUSE;
	memcpy(&object->address, address, bytes);
	port = port_of((struct sockaddr *)&object->address);
	if (port && !*port)
		*port = htons((uint16_t)(PORT_FIRST + ew__sim->port_next++));
	object->address_bytes = bytes;
	object->shared = share && port; /* as with SO_REUSEPORT, which unix sockets have not got */
	object->next = ew__sim->listeners;
	ew__sim->listeners = object;
	return 0;
}

static int sim_listen(int fd, int backlog)
{
	struct ew__sim_object *object = object_of(ew__sim, fd);

	if (!object || !object->address_bytes)
		return object ? -EINVAL : -EBADF;
	object->kind = LISTENER;
	object->backlog = (unsigned)backlog;
	return 0;
}

static int sim_address(int fd, struct sockaddr_storage *ret_address)
{
	struct ew__sim_object *object = object_of(ew__sim, fd);

	if (!object)
		return -EBADF;
	*ret_address = object->address;
	ret_address->ss_family = (sa_family_t)object->family;
	return 0;
}

static int sim_duplicate(int fd)
{
	return new_descriptor(ew__sim, object_of(ew__sim, fd));
}

static int sim_shutdown(int fd, int how)
{
	struct ew__sim_object *object = object_of(ew__sim, fd), *peer = object->peer;

	if (object->kind != STREAM)
		return object->kind == LISTENER ? 0 : -ENOTCONN;
	if (how != SHUT_WR) {
		object->shut_read = true;
		changed(ew__sim, object);
	}
	if (how != SHUT_RD) {
		object->shut_write = true;
		if (peer)
			peer->finished = true;
		changed(ew__sim, object);
	}
	if (peer)
		changed(ew__sim, peer);
	return 0;
}

static void free_object(struct ew__sim *sim, struct ew__sim_object *object)
{
	struct ew__sim_object **link, *pending;

	for (link = &sim->listeners; *link; link = &(*link)->next)
		if (*link == object) {
			*link = object->next;
			break;
		}
	while ((pending = object->first_pending)) {
		object->first_pending = pending->next;
		free_stream(sim, pending);
	}
	if (object->kind == LISTENER)
		call_connecting(sim);
	if (object->file)
		ew__sim_file_close(object->file);
	if (object->child)
		ew__sim_child_close(object->child);
	free_stream(sim, object);
}

/* ---- what other processes have, too ---- */

struct ew__sim_object *ew__sim_object_take(struct ew__sim *sim, int fd)
{
	struct ew__sim_object *object = object_of(sim, fd);

	if (!object || object->kind != STREAM)
		return NULL;
	object->descriptors_count++;
	return object;
}

void ew__sim_object_drop(struct ew__sim *sim, struct ew__sim_object *object)
{
	if (--object->descriptors_count == 0)
		free_object(sim, object);
}

int ew__sim_object_transfer(struct ew__sim *sim, struct ew__sim_object *object, struct ew__op *op,
			    enum ew__op_code code, void *data, size_t size)
{
	int r = code == EW__OP_READ ? receive_bytes(sim, object, data, size)
				    : send_bytes(sim, object, data, size);

	op->code = code;
	if (r == EW__SIM_WAITS)
		ew__op_line_append(&object->waiting, op);
	return r;
}

void ew__sim_object_stop_waiting(struct ew__sim_object *object, struct ew__op *op)
{
	ew__op_line_remove(&object->waiting, op);
}

static bool is_about(const struct ew__op *op, int fd)
{
	return op->code != EW__OP_CALL && !ew__sim_is_childs(op) && op->fd == fd;
}

static bool has_operation(const struct ew__sim *sim, const struct ew__sim_object *object, int fd)
{
	const struct ew__op *op;
	unsigned i;

	for (op = object->waiting.first; op; op = op->next)
		if (is_about(op, fd))
			return true;
	for (i = 0; i < sim->agenda_count; i++)
		if (is_about(sim->agenda[i].op, fd))
			return true;
	return false;
}

/* Whoever closes a descriptor that an operation is about has forgotten to wait for its end: the number may be given anew. */
static bool sim_close(int fd)
{
	struct ew__sim_object *object = object_of(ew__sim, fd);

	if (!object)
		return false;
	if (object->descriptors_count > 1 && object->operations_count > 0)
		ew_assert(!has_operation(ew__sim, object, fd));
	ew__sim->objects[fd] = NULL;
	close(fd);
	if (--object->descriptors_count == 0) {
		ew_assert(object->operations_count == 0);
		free_object(ew__sim, object);
	}
	return true;
}

static bool sim_owns(int fd)
{
	return object_of(ew__sim, fd) != NULL;
}

/* ---- signals ---- */

static uint64_t bit_of(int signal)
{
	return (uint64_t)1 << (signal - 1);
}

static int sim_signals(const sigset_t *set)
{
	struct ew__sim_object *object = new_object(ew__sim, SIGNALS, AF_UNSPEC);
	int fd = new_descriptor(ew__sim, object), signal;

	if (fd < 0)
		free(object);
	else
		for (signal = 1; signal <= EW__SIM_SIGNAL_LAST; signal++)
			object->signals |= sigismember(set, signal) == 1 ? bit_of(signal) : 0;
	return fd;
}

/* The lowest first, as signalfd(2) gives them. */
static int sim_take_signal(int fd)
{
	uint64_t ready = object_of(ew__sim, fd)->signals & ew__sim->signals_pending;

	if (!ready)
		return -EAGAIN;
	ew__sim->signals_pending &= ~(ready & -ready);
	return __builtin_ctzll(ready) + 1;
}

bool ew__sim_raise(struct ew__sim *sim, int signal)
{
	bool awaited = false;
	unsigned fd;

	sim->signals_pending |= bit_of(signal);
	for (fd = 0; fd < sim->objects_room; fd++) {
		struct ew__sim_object *object = sim->objects[fd];

		if (!object || !(object->signals & bit_of(signal)))
			continue;
		awaited |= object->waiting.first != NULL;
		changed(sim, object);
	}
	return awaited;
}

static int sim_file_fault(void)
{
	if (!ew__sim_fails(ew__sim, ew__sim->strengths.files))
		return 0;
	return -ew__call_errors[ew__sim_draw(ew__sim, EW__SIM_FAULTS, EW__CALL_ERRORS)];
}

static const struct ew__system simulated = {
	.socket = sim_socket,
	.pair = sim_pair,
	.pipe = sim_pipe,
	.bind = sim_bind,
	.listen = sim_listen,
	.address = sim_address,
	.duplicate = sim_duplicate,
	.shutdown = sim_shutdown,
	.close = sim_close,
	.owns = sim_owns,
	.signals = sim_signals,
	.take_signal = sim_take_signal,
	.spawn = ew__sim_spawn,
	.child_state = ew__sim_child_state,
	.child_signal = ew__sim_child_signal,
	.files = &ew__sim_files,
};

/* ---- the world ---- */

/* Opened by its path only, so that it can be neither read nor written nor waited for. */
static int open_reserve(void)
{
	int file = memfd_create("simulated", MFD_CLOEXEC), fd;
	char path[32];

	if (file < 0)
		return -errno;
	snprintf(path, sizeof(path), "/proc/self/fd/%d", file);
	fd = open(path, O_PATH | O_CLOEXEC);
	if (fd < 0)
		fd = -errno;
	close(file);
	return fd;
}

int ew__sim_objects_init(struct ew__sim *sim)
{
	sim->reserve = open_reserve();
	if (sim->reserve < 0)
		return sim->reserve;
	ew__system = &simulated;
	ew__system_file_fault = sim_file_fault;
	return 0;
}

/* Descriptors that are still open then stay open, for the census to find. */
void ew__sim_objects_deinit(struct ew__sim *sim)
{
	unsigned fd;

	for (fd = 0; fd < sim->objects_room; fd++) {
		struct ew__sim_object *object = sim->objects[fd];

		if (object && --object->descriptors_count == 0)
			free_object(sim, object);
		sim->objects[fd] = NULL;
	}
	ew__system = NULL;
	ew__system_file_fault = NULL;
	free(sim->objects);
	close(sim->reserve);
}
