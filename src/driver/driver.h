/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * Driver: carries operations out
 * Takes operations, cancels them, reports each one's end, and waits until a deadline or a wake-up.
 *
 * There are three: uring, epoll for where io_uring is refused, and sim, whose world is simulated. What they have in
 * common is in driver.c.
 * One driver per worker, used by that worker's thread alone; only ew__driver_wake() is for others.
 * An operation, with all memory it names, belongs to the driver from submit until complete() is called.
 * complete() is never called from inside a driver function: poll returns the list of what has ended, and
 * the worker calls.
 */

#include "seeded/bug.h"

#include <endwell/private.h>
#include <errno.h>
#include <sys/socket.h>

enum ew__op_code {
	/*
	 * fd, address, length, offset. -1: none, for pipes and the like, never for files. Else of a file what can be
	 * done without waiting; -EAGAIN or -EOPNOTSUPP: nothing can.
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
	EW__OP_CALL,	/* of a simulated driver, which has no threads: event() makes it */
};

#define EW__ACCEPT_ONE 1 /* a single connection, not as many as come */

/* QUEUED: nobody but the driver has seen it. */
enum ew__op_state { EW__OP_IDLE, EW__OP_QUEUED, EW__OP_SUBMITTED };

struct ew__op {
	struct ew__op *next;
	struct ew__op **link; /* while in a line that it can be taken out of */
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
	int32_t result;	 /* 0 or a count, or -errno */
	uint32_t slot;	 /* the driver's */
	uint16_t buffer; /* number of the lent buffer, if has_buffer */
	uint8_t code;
	uint8_t state;
	bool has_buffer;
	bool ended; /* its last completion has been reaped */
	bool cancel_wanted;
	bool cancel_in_flight;
};

/* Operations in order. Those that are appended can be taken out again. */
struct ew__op_line {
	struct ew__op *first;
	struct ew__op **last; /* the link that the next one gets; counts only while first is set */
};

#define EW__BUFFERS_COUNT 128
#define EW__BUFFER_BYTES  65536

struct ew__driver_type;

/* What every driver begins with. */
struct ew__driver {
	const struct ew__driver_type *type;
	struct ew__op_line queued;
	struct ew__op_line done;
	unsigned in_flight;
	bool forgotten; /* what is still registered with the kernel is the parent's */
	int doorbell;	/* an eventfd */
	char *buffers;	/* EW__BUFFERS_COUNT times EW__BUFFER_BYTES */
};

/* What is different; driver.c calls it. */
struct ew__driver_type {
	const char *name;
	/* A driver whose common part has been initialised, or an error and the cause in @why. */
	int (*open)(struct ew__driver **ret_driver, char *why, size_t why_bytes);
	void (*close)(struct ew__driver *driver);
	/* Of an operation that is submitted and has not ended, asked for the first time. */
	void (*cancel)(struct ew__driver *driver, struct ew__op *op);
	/* Submits all that is queued, waits, and hands in what has ended. */
	void (*visit)(struct ew__driver *driver, int64_t deadline_ns);
	void (*return_buffer)(struct ew__driver *driver, unsigned number);
	/* The clock is virtual and the driver's to move, and calls that block are operations. One worker. */
	bool simulated;
};

extern const struct ew__driver_type ew__driver_uring, ew__driver_epoll, ew__driver_sim;

/* For the next run of this thread, whatever the environment says; NULL: as that says. */
extern __thread const struct ew__driver_type *ew__driver_wanted;

/* What that or EW_DRIVER in the environment names; NULL: nothing is asked for. -EINVAL, with the cause: it names none. */
int ew__driver_asked_for(const struct ew__driver_type **ret_type, char *why, size_t why_bytes);

/* -ENOSYS, -EPERM, -ENOMEM ... with the cause in one sentence in @why. */
int ew__driver_open(struct ew__driver **ret_driver, const struct ew__driver_type *type, char *why,
		    size_t why_bytes);

/*
 * The one that EW_DRIVER names, else uring. 1: that is refused here, for the cause in @why, and it is epoll.
 * @of_run: it may be a simulated one; a plain thread, which has the real clock, gets none
 */
int ew__driver_open_any(struct ew__driver **ret_driver, bool of_run, char *why, size_t why_bytes);

/* Everything has ended: ew__driver_in_flight() is 0. */
void ew__driver_close(struct ew__driver *driver);

/* In the child of a fork, whose operations the kernel does not carry out for the parent's driver. */
void ew__driver_forget(struct ew__driver *driver);

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
static inline unsigned ew__driver_in_flight(const struct ew__driver *driver)
{
	return driver->in_flight;
}

/* Whether there is anything to submit, or to hand out. */
static inline bool ew__driver_has_queued(const struct ew__driver *driver)
{
	return driver->queued.first || driver->done.first;
}

/* Whether the operation, once submitted, is asked to stop by a cancel; else it is waited for. */
bool ew__op_is_cancellable(const struct ew__op *op);

/* The memory of lent buffer @number, and giving it back. */
const char *ew__driver_buffer(const struct ew__driver *driver, unsigned number);
void ew__driver_return_buffer(struct ew__driver *driver, unsigned number);

/* ---- for drivers ---- */

/* The common part; -ENOMEM, -EMFILE ... with the cause, and then ew__driver_deinit() is still due. */
int ew__driver_init(struct ew__driver *driver, const struct ew__driver_type *type, char *why,
		    size_t why_bytes);
void ew__driver_deinit(struct ew__driver *driver);

/* By the real clock, also where ew_now() is virtual. */
int64_t ew__driver_now(void);

/* The doorbell has been heard. */
void ew__driver_silence(struct ew__driver *driver);

static inline void ew__op_line_append(struct ew__op_line *line, struct ew__op *op)
{
	op->next = NULL;
	op->link = line->first ? line->last : &line->first;
	*op->link = op;
	line->last = &op->next;
}

static inline void ew__op_line_remove(struct ew__op_line *line, struct ew__op *op)
{
	*op->link = op->next;
	if (op->next)
		op->next->link = op->link;
	else
		line->last = op->link;
	op->next = NULL;
	op->link = NULL;
}

/* linux/errno.h: must not reach user space, and do (measured on 6.18). */
#define EW__KERNEL_RESTART_FIRST 512
#define EW__KERNEL_RESTART_LAST	 516

/* Interrupted before anything was transferred. */
static inline bool ew__is_interruption(int result)
{
	return result == -EINTR ||
	       (result <= -EW__KERNEL_RESTART_FIRST && result >= -EW__KERNEL_RESTART_LAST);
}

/* @op has its result, and nobody else needs it. */
static inline void ew__driver_hand_in(struct ew__driver *driver, struct ew__op *op)
{
	op->state = EW__OP_IDLE;
	driver->in_flight--;
	ew__op_line_append(&driver->done, op);
}

/*
 * The same, when the result is the kernel's word, which becomes what the contract wants: -ECANCELED means that we asked
 * and nothing happened; unasked it is to be submitted again.
 */
static inline void ew__driver_op_ended(struct ew__driver *driver, struct ew__op *op)
{
	if (op->result == -ECANCELED ||
	    (ew__is_interruption(op->result) && !ew__bug("interruption-shown")))
		op->result = op->cancel_wanted ? -ECANCELED : -EAGAIN;
	ew__driver_hand_in(driver, op);
}
