/* SPDX-License-Identifier: Apache-2.0 */

/*
 * The epoll driver, for where io_uring is refused. An operation is attempted when it is submitted, and again whenever
 * its descriptor has changed, until an attempt does not have to wait. The kernel never holds an operation, so that
 * what waits can always be cancelled, and certainly without an effect.
 *
 * No attempt may block. Descriptors are shared with other processes and O_NONBLOCK belongs to what is shared (the open
 * file description), so it is avoided where there is another way:
 *
 *   sockets             MSG_DONTWAIT
 *   files               RWF_NOWAIT, and what that refuses is refused, for a thread to do
 *   pipes, eventfds     RWF_NOWAIT (pipes: Linux 6.4 and later)
 *   other streams       as FIFOs, terminals, and pipes before 6.4, which do not know it (EOPNOTSUPP): O_NONBLOCK for
 *                       the moment of the call, and then what it was
 *   accept(2)           O_NONBLOCK, for good: a listener is only accepted from, and by us
 *   connect(2)          O_NONBLOCK until it has ended: the socket is not known to anybody else yet
 *
 * A descriptor is registered while operations wait for it, once for all of them, and taken out when the last of them
 * ends, before its completion is handed out: whoever closes a descriptor waits for that (a registration outlives the
 * close of a descriptor that has a duplicate, and could then not be removed). Registrations are edge-triggered. That
 * is sound, because an operation begins to wait after an attempt that found nothing, and any change since then is
 * reported; it spares a system call for each wait, since a registration need not be silenced while nobody wants what
 * it reports. It also is what a poll that reports again and again needs: a peer that has finished would be reported
 * without end by level. Adding to a registration, or modifying it, reports what is true already; so polls need no
 * attempt. What nobody waits for any more is taken out of the registration when it has been reported in vain, so that
 * bytes that come while nobody receives wake the worker once.
 *
 * There is no event for room in the queue of a unix listener. A connect that finds it full knocks again later. So does
 * whatever the kernel has no room to register (ENOSPC: fs.epoll.max_user_watches, ENOMEM): to wait needs nothing that
 * may be missing.
 */

#include "driver/driver.h"

#include "seeded/bug.h"

#include <endwell/clock.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/uio.h>
#include <unistd.h>

#define DESCRIPTORS_MAX	 (1 << 22)
#define EVENTS_AT_ONCE	 256
#define VISITS_MAX	 50 /* of the kernel, in one look at the driver */
#define KNOCK_AGAIN_NS	 (5 * EW_MILLISECOND)
#define DATA_OF_DOORBELL UINT64_MAX

/* Reported whether asked for or not. */
#define EVENTS_ALWAYS (EPOLLERR | EPOLLHUP)

/* What an attempt may say instead of a result. */
#define WAITS_FOR_EVENT INT32_MIN
#define WAITS_FOR_TIME	(INT32_MIN + 1)

enum place { NOWHERE, AT_WATCH, KNOCKING };

/* Of a descriptor. */
struct watch {
	struct ew__op_line waiting;
	uint32_t events; /* that are registered; 0: it is not */
};

struct epoll {
	struct ew__driver driver;
	struct watch *watches; /* DESCRIPTORS_MAX, touched as used */
	unsigned registered_count;
	struct ew__op_line knocking;
	int64_t knock_again_ns;
	int fd;
	bool reported; /* something, by event(), in this visit */
	bool coarse;   /* without epoll_pwait2(2): waits end on a millisecond */
	unsigned free_count;
	uint16_t free_buffers[EW__BUFFERS_COUNT];
	struct epoll_event events[EVENTS_AT_ONCE];
};

static struct epoll *epoll_of(struct ew__driver *driver)
{
	return ew__container_of(driver, struct epoll, driver);
}

static void epoll_return_buffer(struct ew__driver *driver, unsigned number)
{
	struct epoll *epoll = epoll_of(driver);

	ew_assert(epoll->free_count < EW__BUFFERS_COUNT);
	epoll->free_buffers[epoll->free_count++] = (uint16_t)number;
}

static void epoll_close(struct ew__driver *driver)
{
	struct epoll *epoll = epoll_of(driver);

	ew_assert(epoll->registered_count == 0 || driver->forgotten);
	if (epoll->fd >= 0)
		close(epoll->fd);
	if (epoll->watches != MAP_FAILED)
		munmap(epoll->watches, DESCRIPTORS_MAX * sizeof(struct watch));
	ew__driver_deinit(driver);
	free(epoll);
}

static int setup(struct epoll *epoll)
{
	struct epoll_event doorbell = { .events = EPOLLIN, .data.u64 = DATA_OF_DOORBELL };
	const struct timespec at_once = { 0 };
	unsigned i;

	if (epoll->watches == MAP_FAILED)
		return -ENOMEM;
	if (epoll->fd < 0 || epoll_ctl(epoll->fd, EPOLL_CTL_ADD, epoll->driver.doorbell, &doorbell))
		return -errno;
	/* Since 5.11, and unknown to the filters of older container engines. */
	epoll->coarse = epoll_pwait2(epoll->fd, epoll->events, 1, &at_once, NULL) < 0;
	for (i = EW__BUFFERS_COUNT; i > 0; i--)
		epoll_return_buffer(&epoll->driver, i - 1);
	return 0;
}

static int epoll_open(struct ew__driver **ret_driver, char *why, size_t why_bytes)
{
	struct epoll *epoll = calloc(1, sizeof(*epoll));
	int r;

	if (!epoll) {
		snprintf(why, why_bytes, "no memory for a worker");
		return -ENOMEM;
	}
	epoll->watches = mmap(NULL, DESCRIPTORS_MAX * sizeof(struct watch), PROT_READ | PROT_WRITE,
			      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	epoll->fd = epoll_create1(EPOLL_CLOEXEC);
	r = ew__driver_init(&epoll->driver, &ew__driver_epoll, why, why_bytes);
	if (r == 0) {
		r = setup(epoll);
		if (r < 0)
			snprintf(why, why_bytes, "epoll could not be set up (%s)", strerror(-r));
	}
	if (r < 0) {
		epoll_close(&epoll->driver);
		return r;
	}
	*ret_driver = &epoll->driver;
	return 0;
}

/* ---- attempts ---- */

static void set_nonblocking(int fd, bool on)
{
	int status = fcntl(fd, F_GETFL);

	if (status >= 0 && ((status & O_NONBLOCK) != 0) != on)
		fcntl(fd, F_SETFL, status ^ O_NONBLOCK);
}

static int outcome(ssize_t n)
{
	if (n >= 0)
		return (int)n;
	return errno == EAGAIN ? WAITS_FOR_EVENT : -errno;
}

static ssize_t transfer_at_once(const struct ew__op *op)
{
	const struct iovec part = { .iov_base = (void *)(uintptr_t)op->address,
				    .iov_len = op->length };

	if (op->code == EW__OP_READ)
		return preadv2(op->fd, &part, 1, op->offset, RWF_NOWAIT);
	return pwritev2(op->fd, &part, 1, op->offset, RWF_NOWAIT);
}

/* One at a time in the process: of two duplicates on two workers one would give the flag back under the other. */
static ssize_t transfer_with_flag(const struct ew__op *op)
{
	static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
	void *address = (void *)(uintptr_t)op->address;
	int status, error;
	ssize_t n;

	pthread_mutex_lock(&mutex);
	status = fcntl(op->fd, F_GETFL);
	set_nonblocking(op->fd, true);
	n = op->code == EW__OP_READ ? read(op->fd, address, op->length)
				    : write(op->fd, address, op->length);
	error = errno;
	if (status >= 0 && !(status & O_NONBLOCK) && !ew__bug("flag-of-others-kept"))
		set_nonblocking(op->fd, false);
	pthread_mutex_unlock(&mutex);
	errno = error;
	return n;
}

static int transfer_stream(const struct ew__op *op)
{
	ssize_t n = transfer_at_once(op);

	if (n < 0 && errno == EOPNOTSUPP)
		n = transfer_with_flag(op);
	return outcome(n);
}

static int transfer_file(const struct ew__op *op)
{
	ssize_t n = transfer_at_once(op);

	if (n >= 0)
		return (int)n;
	/* A filesystem may say anything, but -ECANCELED would mean that we had asked. */
	return errno == EINTR || errno == ECANCELED ? -EAGAIN : -errno;
}

/* The last buffer that was given back is in some cache still. */
static int receive(struct epoll *epoll, struct ew__op *op)
{
	unsigned number;
	int r;

	if (epoll->free_count == 0)
		return -ENOBUFS;
	number = epoll->free_buffers[epoll->free_count - 1];
	r = outcome(recv(op->fd, (void *)(uintptr_t)ew__driver_buffer(&epoll->driver, number),
			 EW__BUFFER_BYTES, MSG_DONTWAIT));
	if (r > 0 || ew__bug("buffer-lent-for-nothing")) {
		epoll->free_count--;
		op->buffer = (uint16_t)number;
		op->has_buffer = true;
	}
	return r;
}

static int accept_some(struct epoll *epoll, struct ew__op *op)
{
	int fd;

	do {
		fd = accept4(op->fd, NULL, NULL, SOCK_CLOEXEC);
		if (fd < 0)
			return outcome(fd);
		op->event(op, fd);
		epoll->reported = true;
		/* It may have been told to stop just there. */
	} while (!(op->flags & EW__ACCEPT_ONE) &&
		 (op->state == EW__OP_SUBMITTED || ew__bug("accepts-on-after-its-cancel")));
	return 0;
}

/* Also asks for the result of a connect that is under way. */
static int connect_to(const struct ew__op *op)
{
	const struct sockaddr *address = op->address;

	if (connect(op->fd, address, op->length) == 0)
		return 0;
	if (errno == EINPROGRESS || errno == EALREADY)
		return WAITS_FOR_EVENT;
	return errno == EAGAIN && address->sa_family == AF_UNIX ? WAITS_FOR_TIME : -errno;
}

static int attempt(struct epoll *epoll, struct ew__op *op)
{
	void *address = (void *)(uintptr_t)op->address;

	switch (op->code) {
	case EW__OP_READ:
	case EW__OP_WRITE: return op->offset < 0 ? transfer_stream(op) : transfer_file(op);
	case EW__OP_RECV: return outcome(recv(op->fd, address, op->length, MSG_DONTWAIT));
	case EW__OP_RECEIVE: return receive(epoll, op);
	case EW__OP_SEND:
		return outcome(send(op->fd, address, op->length, MSG_DONTWAIT | MSG_NOSIGNAL));
	case EW__OP_RECVMSG:
		return outcome(recvmsg(op->fd, address, MSG_DONTWAIT | MSG_CMSG_CLOEXEC));
	case EW__OP_SENDMSG: return outcome(sendmsg(op->fd, address, MSG_DONTWAIT | MSG_NOSIGNAL));
	case EW__OP_ACCEPT: return accept_some(epoll, op);
	case EW__OP_CONNECT: return connect_to(op);
	default: return WAITS_FOR_EVENT;
	}
}

/* ---- waiting ---- */

static uint32_t events_of(const struct ew__op *op)
{
	switch (op->code) {
	case EW__OP_POLL: return op->flags;
	case EW__OP_WRITE:
	case EW__OP_SEND:
	case EW__OP_SENDMSG:
	case EW__OP_CONNECT: return EPOLLOUT;
	default: return EPOLLIN;
	}
}

static int watch_for(struct epoll *epoll, int fd, uint32_t events)
{
	struct watch *watch = &epoll->watches[fd];
	struct epoll_event event = { .events = events | EVENTS_ALWAYS | EPOLLET,
				     .data.u64 = (uint64_t)fd };

	if (epoll_ctl(epoll->fd, watch->events ? EPOLL_CTL_MOD : EPOLL_CTL_ADD, fd, &event) < 0)
		return -errno;
	if (!watch->events)
		epoll->registered_count++;
	watch->events = event.events;
	return 0;
}

static void leave_watch(struct epoll *epoll, struct ew__op *op)
{
	struct watch *watch = &epoll->watches[op->fd];

	ew__op_line_remove(&watch->waiting, op);
	if (watch->waiting.first)
		return;
	if (!ew__bug("registration-outlives-its-waits"))
		(void)epoll_ctl(epoll->fd, EPOLL_CTL_DEL, op->fd, NULL);
	watch->events = 0;
	epoll->registered_count--;
}

static void finish(struct epoll *epoll, struct ew__op *op, int result)
{
	if (op->slot == AT_WATCH)
		leave_watch(epoll, op);
	else if (op->slot == KNOCKING && !ew__bug("knocks-on-after-its-end"))
		ew__op_line_remove(&epoll->knocking, op);
	if (op->code == EW__OP_CONNECT && !ew__bug("connected-socket-does-not-block"))
		set_nonblocking(op->fd, false);
	op->result = result;
	ew__driver_op_ended(&epoll->driver, op);
}

static void wait_for_time(struct epoll *epoll, struct ew__op *op)
{
	if (op->slot == KNOCKING)
		return;
	if (!epoll->knocking.first)
		epoll->knock_again_ns = ew__driver_now() + KNOCK_AGAIN_NS;
	op->slot = KNOCKING;
	ew__op_line_append(&epoll->knocking, op);
}

/* Its descriptor cannot be registered, or not now. */
static void wait_without_event(struct epoll *epoll, struct ew__op *op, int error)
{
	if (error == -EPERM && op->code == EW__OP_POLL)
		finish(epoll, op, (int)(op->flags & (POLLIN | POLLOUT)));
	else if (error == -EPERM || error == -ENOSPC || error == -ENOMEM)
		wait_for_time(epoll, op);
	else
		finish(epoll, op, error);
}

static void wait_for_event(struct epoll *epoll, struct ew__op *op)
{
	uint32_t events = events_of(op);
	struct watch *watch;
	int r = 0;

	if (op->slot == AT_WATCH)
		return;
	if (op->fd < 0 || op->fd >= DESCRIPTORS_MAX) {
		finish(epoll, op, op->fd < 0 ? -EBADF : -EMFILE);
		return;
	}
	watch = &epoll->watches[op->fd];
	if (op->code == EW__OP_POLL || (watch->events & events) != events)
		r = watch_for(epoll, op->fd, watch->events | events);
	if (r < 0) {
		wait_without_event(epoll, op, r);
		return;
	}
	if (op->slot == KNOCKING)
		ew__op_line_remove(&epoll->knocking, op);
	op->slot = AT_WATCH;
	ew__op_line_append(&watch->waiting, op);
}

static void go_on(struct epoll *epoll, struct ew__op *op)
{
	int r;

	do
		r = attempt(epoll, op);
	while (r == -EINTR);
	if (op->state != EW__OP_SUBMITTED)
		return; /* cancelled by its own event */
	if (r == WAITS_FOR_EVENT)
		wait_for_event(epoll, op);
	else if (r == WAITS_FOR_TIME)
		wait_for_time(epoll, op);
	else
		finish(epoll, op, r);
}

static void submit_queued(struct epoll *epoll)
{
	struct ew__op *op;

	while ((op = epoll->driver.queued.first)) {
		ew__op_line_remove(&epoll->driver.queued, op);
		op->state = EW__OP_SUBMITTED;
		op->slot = NOWHERE;
		if (op->code == EW__OP_ACCEPT || op->code == EW__OP_CONNECT)
			set_nonblocking(op->fd, true);
		go_on(epoll, op);
	}
}

static void epoll_cancel(struct ew__driver *driver, struct ew__op *op)
{
	finish(epoll_of(driver), op, -ECANCELED);
}

/* ---- events ---- */

static void report_poll(struct epoll *epoll, struct ew__op *op, uint32_t events)
{
	if (op->event)
		op->event(op, (int32_t)events);
	else
		finish(epoll, op, (int32_t)events);
}

static void events_came(struct epoll *epoll, int fd, uint32_t events)
{
	struct watch *watch = &epoll->watches[fd];
	uint32_t wanted = EVENTS_ALWAYS, these;
	struct ew__op *op, *next;

	for (op = watch->waiting.first; op; op = next) {
		next = op->next;
		these = events & (events_of(op) | EVENTS_ALWAYS);
		if (these && op->code == EW__OP_POLL)
			report_poll(epoll, op, these);
		else if (these)
			go_on(epoll, op);
	}
	for (op = watch->waiting.first; op; op = op->next)
		wanted |= events_of(op);
	if (watch->events && (events & ~wanted))
		(void)watch_for(epoll, fd, wanted);
}

/* Returns until when a wait may last. */
static int64_t knock_again(struct epoll *epoll, int64_t deadline_ns)
{
	int64_t left_ns = epoll->knock_again_ns - ew__driver_now(), again_ns;
	struct ew__op *op, *next;

	if (left_ns <= 0) {
		for (op = epoll->knocking.first; op; op = next) {
			next = op->next;
			go_on(epoll, op);
		}
		left_ns = KNOCK_AGAIN_NS;
		epoll->knock_again_ns = ew__driver_now() + left_ns;
	}
	again_ns = ew_after(left_ns);
	return deadline_ns < again_ns ? deadline_ns : again_ns;
}

static int wait_until(struct epoll *epoll, int64_t deadline_ns)
{
	int64_t left_ns = deadline_ns == EW_NOW ? 0 : deadline_ns - ew_now(), left_ms;
	struct timespec timeout;

	if (left_ns < 0)
		left_ns = 0;
	if (deadline_ns == EW_NEVER)
		return epoll_wait(epoll->fd, epoll->events, EVENTS_AT_ONCE, -1);
	if (epoll->coarse) {
		left_ms = left_ns / EW_MILLISECOND +
			  (left_ns % EW_MILLISECOND > 0 && !ew__bug("wait-rounded-down"));
		return epoll_wait(epoll->fd, epoll->events, EVENTS_AT_ONCE,
				  left_ms < INT_MAX ? (int)left_ms : INT_MAX);
	}
	timeout.tv_sec = left_ns / EW_SECOND;
	timeout.tv_nsec = left_ns % EW_SECOND;
	return epoll_pwait2(epoll->fd, epoll->events, EVENTS_AT_ONCE, &timeout, NULL);
}

static void epoll_visit(struct ew__driver *driver, int64_t deadline_ns)
{
	struct epoll *epoll = epoll_of(driver);
	const struct epoll_event *event;
	int count = EVENTS_AT_ONCE, visit, i;

	epoll->reported = false;
	submit_queued(epoll);
	if (epoll->knocking.first)
		deadline_ns = knock_again(epoll, deadline_ns);
	if (driver->done.first || (epoll->reported && !ew__bug("waits-on-a-report")))
		deadline_ns = EW_NOW;
	if (deadline_ns == EW_NOW && epoll->registered_count == 0)
		return;
	for (visit = 0; visit < VISITS_MAX && count == EVENTS_AT_ONCE; visit++) {
		count = wait_until(epoll, deadline_ns);
		for (i = 0; i < count; i++) {
			event = &epoll->events[i];
			if (event->data.u64 == DATA_OF_DOORBELL)
				ew__driver_silence(driver);
			else
				events_came(epoll, (int)event->data.u64, event->events);
		}
		deadline_ns = EW_NOW;
	}
}

const struct ew__driver_type ew__driver_epoll = {
	.name = "epoll",
	.open = epoll_open,
	.close = epoll_close,
	.cancel = epoll_cancel,
	.visit = epoll_visit,
	.return_buffer = epoll_return_buffer,
};
