/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * Driver: carries operations out
 * Takes operations, cancels them, reports each one's end, and waits until a deadline or a wake-up.
 *
 * One driver per worker, used by that worker's thread alone; only ew__driver_wake() is for others.
 * An operation, with all memory it names, belongs to the driver from submit until complete() is called.
 * complete() is never called from inside a driver function: poll returns the list of what has ended, and
 * the worker calls.
 */

#include <endwell/private.h>
#include <sys/socket.h>

enum ew__op_code {
	/*
	 * fd, address, length, offset. -1: none, for pipes. Else of a file what can be done without waiting; -EAGAIN or
	 * -EOPNOTSUPP: nothing can.
	 */
	EW__OP_READ,
	EW__OP_WRITE,
	EW__OP_RECV,	/* fd, address, length */
	EW__OP_RECEIVE, /* fd; a lent buffer: ew__op_buffer() */
	EW__OP_SEND,
	EW__OP_RECVMSG, /* fd, address: struct msghdr */
	EW__OP_SENDMSG,
	EW__OP_ACCEPT,	/* fd, flags: EW__ACCEPT_ONE or 0; every connection goes to event() */
	EW__OP_CONNECT, /* fd, address: sockaddr, length */
	EW__OP_POLL,	/* fd, flags: poll events; each time if there is an event() */
};

#define EW__ACCEPT_ONE 1 /* a single connection, not as many as come */

enum ew__op_state { EW__OP_IDLE, EW__OP_QUEUED, EW__OP_SUBMITTED };

struct ew__op {
	struct ew__op *next;
	struct ew__op **link; /* while queued */
	/* Called by the worker when neither the kernel nor the driver needs the operation any more. */
	void (*complete)(struct ew__op *op);
	/*
	 * EW__OP_ACCEPT: each descriptor; EW__OP_POLL, which then reports again and again: the events. In the drain
	 * loop: adopt or note it; no task runs before the driver returns.
	 */
	void (*event)(struct ew__op *op, int32_t result);
	const void *address;
	int64_t offset;
	uint32_t length;
	uint32_t flags;
	int32_t fd;
	int32_t result; /* 0 or a count, or -errno */
	uint32_t slot;
	uint16_t buffer; /* number of the lent buffer, if has_buffer */
	uint8_t code;
	uint8_t state;
	bool has_buffer;
	bool ended; /* its last completion has been reaped */
	bool cancel_wanted;
	bool cancel_in_flight;
};

struct ew__driver;

/* -ENOSYS, -EPERM, -ENOMEM ... with the cause in one sentence in @ret_why (static or in @buffer). */
int ew__driver_open(struct ew__driver **ret_driver, char *why, size_t why_bytes);

/* Everything has ended: ew__driver_in_flight() is 0. */
void ew__driver_close(struct ew__driver *driver);

void ew__driver_submit(struct ew__driver *driver, struct ew__op *op);

/*
 * Ask. What is still queued here ends with -ECANCELED without having been seen by the kernel; of what
 * is submitted, only operations that wait on a poll queue are asked to stop. The result decides.
 */
void ew__driver_cancel(struct ew__driver *driver, struct ew__op *op);

/*
 * Submit what is queued and collect what has ended, waiting until @deadline_ns for the first (EW_NOW:
 * not at all). Returns a list by next, oldest first, or NULL.
 */
struct ew__op *ew__driver_poll(struct ew__driver *driver, int64_t deadline_ns);

/* End a wait in ew__driver_poll(), now or the next one. Any thread; cannot fail. */
void ew__driver_wake(struct ew__driver *driver);

/* Operations that were submitted and have not ended. */
unsigned ew__driver_in_flight(const struct ew__driver *driver);

/* Whether there is anything to submit. */
bool ew__driver_has_queued(const struct ew__driver *driver);

/* Whether the operation, once submitted, is asked to stop by a cancel; else it is waited for. */
bool ew__op_is_cancellable(const struct ew__op *op);

#define EW__BUFFERS_COUNT 128
#define EW__BUFFER_BYTES  65536

/* The memory of lent buffer @number, and giving it back. */
const char *ew__driver_buffer(const struct ew__driver *driver, unsigned number);
void ew__driver_return_buffer(struct ew__driver *driver, unsigned number);
