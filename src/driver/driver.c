/* SPDX-License-Identifier: Apache-2.0 */

/*
 * What the drivers have in common: the line of what is queued, the list of what has ended, the doorbell, and the
 * memory of the buffers. A visit once a turn, and a cancel of what is already submitted, go through the driver's type;
 * all else is the same for each and costs no detour.
 */

#include "driver/driver.h"

#include "seeded/bug.h"

#include <endwell/clock.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#define BUFFERS_BYTES ((size_t)EW__BUFFERS_COUNT * EW__BUFFER_BYTES)

static const struct ew__driver_type *const types[] = { &ew__driver_uring, &ew__driver_epoll,
						       &ew__driver_sim };

__thread const struct ew__driver_type *ew__driver_wanted;

int ew__driver_asked_for(const struct ew__driver_type **ret_type, char *why, size_t why_bytes)
{
	const char *name = secure_getenv("EW_DRIVER");
	size_t i;

	*ret_type = ew__driver_wanted;
	if (*ret_type || !name || !name[0])
		return 0;
	for (i = 0; i < sizeof(types) / sizeof(types[0]); i++)
		if (!strcmp(name, types[i]->name))
			*ret_type = types[i];
	if (*ret_type)
		return 0;
	snprintf(
		why, why_bytes,
		"EW_DRIVER=%.64s in the environment names no driver; there are uring, epoll and sim",
		name);
	return -EINVAL;
}

/* Of a driver that is short of something others would be, too. */
static bool is_shortage(int error)
{
	return error == -ENOMEM || error == -EMFILE || error == -ENFILE || error == -EAGAIN;
}

int ew__driver_open(struct ew__driver **ret_driver, const struct ew__driver_type *type, char *why,
		    size_t why_bytes)
{
	return type->open(ret_driver, why, why_bytes);
}

int ew__driver_open_any(struct ew__driver **ret_driver, bool of_run, char *why, size_t why_bytes)
{
	const struct ew__driver_type *asked_for;
	int r = ew__driver_asked_for(&asked_for, why, why_bytes);

	if (r < 0)
		return r;
	if (asked_for && asked_for->simulated && !of_run)
		asked_for = NULL;
	if (asked_for && !ew__bug("another-driver-than-asked-for"))
		return ew__driver_open(ret_driver, asked_for, why, why_bytes);
	r = ew__driver_open(ret_driver, &ew__driver_uring, why, why_bytes);
	if (r == 0 || is_shortage(r))
		return r;
	r = ew__driver_open(ret_driver, &ew__driver_epoll, why, why_bytes);
	return r < 0 ? r : 1;
}

void ew__driver_close(struct ew__driver *driver)
{
	ew_assert(driver->in_flight == 0);
	driver->type->close(driver);
}

void ew__driver_forget(struct ew__driver *driver)
{
	driver->in_flight = 0;
	driver->forgotten = true;
	driver->type->close(driver);
}

int ew__driver_init(struct ew__driver *driver, const struct ew__driver_type *type, char *why,
		    size_t why_bytes)
{
	int r = 0;

	driver->type = type;
	driver->doorbell = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (driver->doorbell < 0)
		r = -errno;
	driver->buffers = mmap(NULL, BUFFERS_BYTES, PROT_READ | PROT_WRITE,
			       MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (driver->buffers == MAP_FAILED)
		r = -ENOMEM;
	if (r < 0)
		snprintf(why, why_bytes, "no descriptor or memory for a worker (%s)", strerror(-r));
	return r;
}

void ew__driver_deinit(struct ew__driver *driver)
{
	if (driver->doorbell >= 0)
		close(driver->doorbell);
	if (driver->buffers != MAP_FAILED)
		munmap(driver->buffers, BUFFERS_BYTES);
}

bool ew__op_is_cancellable(const struct ew__op *op)
{
	switch (op->code) {
	case EW__OP_RECV:
	case EW__OP_RECEIVE:
	case EW__OP_SEND:
	case EW__OP_RECVMSG:
	case EW__OP_SENDMSG:
	case EW__OP_ACCEPT:
	case EW__OP_CONNECT:
	case EW__OP_POLL:
	case EW__OP_CALL: return true;
	case EW__OP_READ:
	case EW__OP_WRITE: return op->offset < 0;
	default: return false;
	}
}

void ew__driver_submit(struct ew__driver *driver, struct ew__op *op)
{
	ew_assert(op->state == EW__OP_IDLE);
	op->state = EW__OP_QUEUED;
	op->has_buffer = false;
	op->ended = false;
	op->cancel_wanted = false;
	op->cancel_in_flight = false;
	op->result = 0;
	ew__op_line_append(&driver->queued, op);
	driver->in_flight++;
}

void ew__driver_cancel(struct ew__driver *driver, struct ew__op *op)
{
	if (op->state == EW__OP_QUEUED && !ew__bug("queued-operation-not-taken-back")) {
		ew__op_line_remove(&driver->queued, op);
		op->result = -ECANCELED;
		ew__driver_hand_in(driver, op);
		return;
	}
	if (op->state != EW__OP_SUBMITTED || op->ended || op->cancel_wanted ||
	    !ew__op_is_cancellable(op))
		return;
	op->cancel_wanted = true;
	driver->type->cancel(driver, op);
}

struct ew__op *ew__driver_poll(struct ew__driver *driver, int64_t deadline_ns)
{
	struct ew__op *done;

	driver->type->visit(driver, driver->done.first && !ew__bug("waits-although-something-ended")
					    ? EW_NOW
					    : deadline_ns);
	done = driver->done.first;
	driver->done.first = NULL;
	return done;
}

void ew__driver_wake(struct ew__driver *driver)
{
	uint64_t one = 1;

	/* Fails only with a full counter, and then the doorbell has been rung. */
	(void)!write(driver->doorbell, &one, sizeof(one));
}

void ew__driver_silence(struct ew__driver *driver)
{
	uint64_t value;

	(void)!read(driver->doorbell, &value, sizeof(value));
}

int64_t ew__driver_now(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return now.tv_sec * EW_SECOND + now.tv_nsec;
}

const char *ew__driver_buffer(const struct ew__driver *driver, unsigned number)
{
	ew_assert(number < EW__BUFFERS_COUNT);
	return driver->buffers + (size_t)number * EW__BUFFER_BYTES;
}

void ew__driver_return_buffer(struct ew__driver *driver, unsigned number)
{
	driver->type->return_buffer(driver, number);
}
