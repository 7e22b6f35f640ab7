/* SPDX-License-Identifier: Apache-2.0 */

/*
 * The io_uring driver: one ring per worker, with SINGLE_ISSUER and DEFER_TASKRUN, so that completions
 * move only inside our own io_uring_enter() and a cancel that meets readiness in one turn has a known order.
 *
 * A request to cancel is not an end, and the cancel's own completion tells nothing: 0, -ENOENT and -EALREADY
 * each occur for operations that then succeed and for ones that do not. Only the operation's own last
 * completion decides; an operation is given back when both have been reaped.
 *
 * Cancels name the target by user_data, which is matched by value: it is slot and generation, so a
 * late one cannot hit the slot's next user. A slot is taken at submission from a table that is reserved whole, so
 * submitting an ending's operation cannot fail.
 *
 * Operations wait in our own queue until the turn's one io_uring_enter(). That makes "cancelled before
 * the kernel saw it" true by construction, and a full submission queue harmless.
 */

#include "driver/driver.h"

#include "seeded/bug.h"

#include <endwell/clock.h>
#include <errno.h>
#include <liburing.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>
#ifdef EW_VALGRIND
#include <valgrind/memcheck.h>
#endif

#define RING_ENTRIES	 512
#define RING_COMPLETIONS 4096
#define SLOTS_MAX	 ((uint32_t)1 << 22)
#define BUFFER_GROUP	 0
#define ASK_AGAIN_NS	 EW_MILLISECOND
#define VISITS_MAX	 50 /* of the kernel, in one look at the driver */

#define USER_DATA_CANCEL   ((uint64_t)1 << 63)
#define USER_DATA_DOORBELL ((uint64_t)1 << 62)

struct slot {
	struct ew__op *op;
	uint32_t generation; /* 30 bits are used */
	uint32_t next_free;
};

struct uring {
	struct ew__driver driver;
	struct io_uring ring;
	struct slot *slots; /* SLOTS_MAX, touched as used */
	uint32_t slots_used;
	uint32_t free_slot; /* 1-based; 0: none */
	struct ew__op *cancels, **cancels_tail;
	struct ew__op *unheard; /* asked to stop, and the kernel did not find them */
	int64_t ask_again_ns;
	struct io_uring_buf_ring *buffer_ring;
	bool doorbell_armed;
};

static struct uring *uring_of(struct ew__driver *driver)
{
	return ew__container_of(driver, struct uring, driver);
}

static const struct {
	int opcode;
	const char *name;
} needed_opcodes[] = {
	{ IORING_OP_READ, "READ" },	    { IORING_OP_WRITE, "WRITE" },
	{ IORING_OP_RECV, "RECV" },	    { IORING_OP_SEND, "SEND" },
	{ IORING_OP_RECVMSG, "RECVMSG" },   { IORING_OP_SENDMSG, "SENDMSG" },
	{ IORING_OP_ACCEPT, "ACCEPT" },	    { IORING_OP_CONNECT, "CONNECT" },
	{ IORING_OP_POLL_ADD, "POLL_ADD" }, { IORING_OP_ASYNC_CANCEL, "ASYNC_CANCEL" },
};

static int probe_opcodes(struct io_uring *ring, char *why, size_t why_bytes)
{
	struct io_uring_probe *probe = io_uring_get_probe_ring(ring);
	size_t i;
	int r = 0;

	if (!probe) {
		snprintf(why, why_bytes,
			 "io_uring cannot be asked what it supports (IORING_REGISTER_PROBE)");
		return -ENOSYS;
	}
	for (i = 0; i < sizeof(needed_opcodes) / sizeof(needed_opcodes[0]); i++) {
		if (io_uring_opcode_supported(probe, needed_opcodes[i].opcode))
			continue;
		snprintf(why, why_bytes,
			 "io_uring lacks the operation %s; Linux 6.1 or newer is needed",
			 needed_opcodes[i].name);
		r = -ENOSYS;
		break;
	}
	io_uring_free_probe(probe);
	return r;
}

static void say_refused(const char *call, int error, char *why, size_t why_bytes)
{
	snprintf(
		why, why_bytes,
		"io_uring is refused here (%s: %s): the sysctl kernel.io_uring_disabled or a seccomp filter "
		"forbids it, as container engines do by default",
		call, strerror(-error));
}

/* A filter may let the ring be made and not be used; every visit would fail. */
static int try_to_enter(struct io_uring *ring, char *why, size_t why_bytes)
{
	int r = io_uring_get_events(ring);

	if (r < 0)
		say_refused("io_uring_enter", r, why, why_bytes);
	return r < 0 ? r : 0;
}

/*
 * liburing maps and unmaps by system calls of its own, which ThreadSanitizer does not see: a ring may have the address of
 * one that another thread has closed. What the kernel puts in order there is said here.
 */
static _Atomic unsigned rings_closed_count;

static int setup_ring(struct uring *uring, char *why, size_t why_bytes)
{
	struct io_uring_params params = {
		.flags = IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN |
			 IORING_SETUP_TASKRUN_FLAG | IORING_SETUP_CQSIZE | IORING_SETUP_CLAMP,
		.cq_entries = RING_COMPLETIONS,
	};
	int r;

	r = io_uring_queue_init_params(RING_ENTRIES, &uring->ring, &params);
	(void)atomic_load_explicit(&rings_closed_count, memory_order_acquire);
	if (r == 0) {
		io_uring_ring_dontfork(&uring->ring);
		return 0;
	}
	switch (-r) {
	case EPERM:
	case EACCES: say_refused("io_uring_setup", r, why, why_bytes); break;
	case ENOSYS:
		snprintf(why, why_bytes, "this kernel has no io_uring (io_uring_setup: %s)",
			 strerror(-r));
		break;
	case EINVAL:
		snprintf(
			why, why_bytes,
			"this kernel's io_uring lacks SINGLE_ISSUER and DEFER_TASKRUN; Linux 6.1 or newer is needed");
		break;
	case ENOMEM:
		snprintf(
			why, why_bytes,
			"io_uring has no memory (io_uring_setup: %s): the rings, about 100 KiB for each worker, may "
			"count against the limit of locked memory (ulimit -l)",
			strerror(-r));
		break;
	default:
		snprintf(why, why_bytes, "io_uring could not be set up (io_uring_setup: %s)",
			 strerror(-r));
	}
	return r;
}

static void uring_return_buffer(struct ew__driver *driver, unsigned number)
{
	struct io_uring_buf_ring *ring = uring_of(driver)->buffer_ring;

	io_uring_buf_ring_add(ring, (void *)(uintptr_t)ew__driver_buffer(driver, number),
			      EW__BUFFER_BYTES, (unsigned short)number,
			      io_uring_buf_ring_mask(EW__BUFFERS_COUNT), 0);
	io_uring_buf_ring_advance(ring, 1);
}

static int setup_buffers(struct uring *uring, char *why, size_t why_bytes)
{
	struct io_uring_buf_reg registration = { .ring_entries = EW__BUFFERS_COUNT,
						 .bgid = BUFFER_GROUP };
	size_t ring_bytes = EW__BUFFERS_COUNT * sizeof(struct io_uring_buf);
	unsigned i;
	int r;

	uring->buffer_ring =
		mmap(NULL, ring_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (uring->buffer_ring == MAP_FAILED) {
		snprintf(why, why_bytes, "no memory for receive buffers");
		return -ENOMEM;
	}
	registration.ring_addr = (uintptr_t)uring->buffer_ring;
	r = io_uring_register_buf_ring(&uring->ring, &registration, 0);
	if (r < 0) {
		snprintf(why, why_bytes,
			 "io_uring lacks provided buffer rings (%s); Linux 6.1 or newer is needed",
			 strerror(-r));
		return r;
	}
	io_uring_buf_ring_init(uring->buffer_ring);
	for (i = 0; i < EW__BUFFERS_COUNT; i++)
		uring_return_buffer(&uring->driver, i);
	return 0;
}

static void unmap(void *memory, size_t bytes)
{
	if (memory && memory != MAP_FAILED)
		munmap(memory, bytes);
}

/* The doorbell's poll is still armed and touches no memory; everything else has ended. */
static void uring_close(struct ew__driver *driver)
{
	struct uring *uring = uring_of(driver);

	atomic_fetch_add_explicit(&rings_closed_count, 1, memory_order_release);
	io_uring_queue_exit(&uring->ring);
	unmap(uring->slots, SLOTS_MAX * sizeof(struct slot));
	unmap(uring->buffer_ring, EW__BUFFERS_COUNT * sizeof(struct io_uring_buf));
	ew__driver_deinit(driver);
	free(uring);
}

static int uring_open(struct ew__driver **ret_driver, char *why, size_t why_bytes)
{
	struct uring *uring;
	int r;

	uring = calloc(1, sizeof(*uring));
	if (!uring) {
		snprintf(why, why_bytes, "no memory for a worker");
		return -ENOMEM;
	}
	uring->cancels_tail = &uring->cancels;
	r = setup_ring(uring, why, why_bytes);
	if (r < 0) {
		free(uring);
		return r;
	}
	r = ew__driver_init(&uring->driver, &ew__driver_uring, why, why_bytes);
	uring->slots = mmap(NULL, SLOTS_MAX * sizeof(struct slot), PROT_READ | PROT_WRITE,
			    MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (uring->slots == MAP_FAILED) {
		snprintf(why, why_bytes, "no memory for a worker");
		r = -ENOMEM;
	}
	if (r == 0)
		r = probe_opcodes(&uring->ring, why, why_bytes);
	if (r == 0)
		r = setup_buffers(uring, why, why_bytes);
	if (r == 0)
		r = try_to_enter(&uring->ring, why, why_bytes);
	if (r < 0) {
		uring_close(&uring->driver);
		return r;
	}
	*ret_driver = &uring->driver;
	return 0;
}

static void append_cancel(struct uring *uring, struct ew__op *op)
{
	op->cancel_in_flight = true;
	op->next = NULL;
	*uring->cancels_tail = op;
	uring->cancels_tail = &op->next;
}

static void uring_cancel(struct ew__driver *driver, struct ew__op *op)
{
	append_cancel(uring_of(driver), op);
}

static uint32_t take_slot(struct uring *uring, struct ew__op *op)
{
	uint32_t number = uring->free_slot;

	if (number) {
		uring->free_slot = uring->slots[number].next_free;
	} else {
		number = ++uring->slots_used;
		ew_assert(number < SLOTS_MAX);
	}
	uring->slots[number].op = op;
	return number;
}

static void give_slot(struct uring *uring, uint32_t number)
{
	struct slot *slot = &uring->slots[number];

	slot->op = NULL;
	if (!ew__bug("generation-used-again"))
		slot->generation = (slot->generation + 1) & 0x3fffffff;
	slot->next_free = uring->free_slot;
	uring->free_slot = number;
}

static uint64_t user_data_of(const struct uring *uring, const struct ew__op *op)
{
	return (uint64_t)uring->slots[op->slot].generation << 32 | op->slot;
}

static void prepare(struct io_uring_sqe *sqe, const struct ew__op *op)
{
	void *address = (void *)(uintptr_t)op->address;

	switch (op->code) {
	case EW__OP_READ:
		io_uring_prep_read(sqe, op->fd, address, op->length, (uint64_t)op->offset);
		sqe->rw_flags = op->offset < 0 ? 0 : RWF_NOWAIT;
		break;
	case EW__OP_WRITE:
		io_uring_prep_write(sqe, op->fd, address, op->length, (uint64_t)op->offset);
		sqe->rw_flags = op->offset < 0 ? 0 : RWF_NOWAIT;
		break;
	case EW__OP_RECV: io_uring_prep_recv(sqe, op->fd, address, op->length, 0); break;
	case EW__OP_RECEIVE:
		io_uring_prep_recv(sqe, op->fd, NULL, EW__BUFFER_BYTES, 0);
		sqe->flags |= IOSQE_BUFFER_SELECT;
		sqe->buf_group = BUFFER_GROUP;
		break;
	case EW__OP_SEND:
		io_uring_prep_send(sqe, op->fd, address, op->length, MSG_NOSIGNAL | MSG_WAITALL);
		break;
	case EW__OP_RECVMSG: io_uring_prep_recvmsg(sqe, op->fd, address, MSG_CMSG_CLOEXEC); break;
	case EW__OP_SENDMSG: io_uring_prep_sendmsg(sqe, op->fd, address, MSG_NOSIGNAL); break;
	case EW__OP_ACCEPT:
		if (op->flags & EW__ACCEPT_ONE)
			io_uring_prep_accept(sqe, op->fd, NULL, NULL, SOCK_CLOEXEC);
		else
			io_uring_prep_multishot_accept(sqe, op->fd, NULL, NULL, SOCK_CLOEXEC);
		break;
	case EW__OP_CONNECT: io_uring_prep_connect(sqe, op->fd, address, op->length); break;
	case EW__OP_POLL:
		if (op->event)
			io_uring_prep_poll_multishot(sqe, op->fd, op->flags);
		else
			io_uring_prep_poll_add(sqe, op->fd, op->flags);
		break;
	}
}

static void submit_queued(struct uring *uring)
{
	struct io_uring_sqe *sqe;
	struct ew__op *op;

	if (!uring->doorbell_armed && (sqe = io_uring_get_sqe(&uring->ring))) {
		io_uring_prep_poll_multishot(sqe, uring->driver.doorbell, POLLIN);
		io_uring_sqe_set_data64(sqe, USER_DATA_DOORBELL);
		uring->doorbell_armed = true;
	}
	while ((op = uring->driver.queued.first) && (sqe = io_uring_get_sqe(&uring->ring))) {
		ew__op_line_remove(&uring->driver.queued, op);
		op->slot = take_slot(uring, op);
		op->state = EW__OP_SUBMITTED;
		prepare(sqe, op);
		io_uring_sqe_set_data64(sqe, user_data_of(uring, op));
	}
	/* After the operations: a cancel does not find a target that comes later in the same batch. */
	while ((op = uring->cancels) && (sqe = io_uring_get_sqe(&uring->ring))) {
		uring->cancels = op->next;
		if (!uring->cancels)
			uring->cancels_tail = &uring->cancels;
		op->next = NULL;
		io_uring_prep_cancel64(sqe, user_data_of(uring, op), 0);
		io_uring_sqe_set_data64(sqe, user_data_of(uring, op) | USER_DATA_CANCEL);
	}
}

static void finish(struct uring *uring, struct ew__op *op)
{
	give_slot(uring, op->slot);
	if (op->has_buffer && op->result <= 0) {
		uring_return_buffer(&uring->driver, op->buffer);
		op->has_buffer = false;
	}
	ew__driver_op_ended(&uring->driver, op);
}

#ifdef EW_VALGRIND
/* Of one part, as all of ours are. */
static void mark_message_defined(const struct msghdr *message, size_t bytes)
{
	VALGRIND_MAKE_MEM_DEFINED(message, sizeof(*message));
	VALGRIND_MAKE_MEM_DEFINED(message->msg_control, message->msg_controllen);
	VALGRIND_MAKE_MEM_DEFINED(message->msg_iov->iov_base, bytes);
}
#endif

static void mark_defined(const struct ew__op *op)
{
#ifdef EW_VALGRIND
	if (op->result > 0 && (op->code == EW__OP_READ || op->code == EW__OP_RECV))
		VALGRIND_MAKE_MEM_DEFINED(op->address, op->result);
	if (op->result >= 0 && op->code == EW__OP_RECVMSG)
		mark_message_defined(op->address, (size_t)op->result);
#endif
	(void)op;
}

/*
 * A cancel misses an operation that is between two places, such as a connect to a full unix listener on its way from
 * the poll queue to a kernel thread, where it would then wait for ever. So it is asked again, if not at once.
 */
static void note_unheard(struct uring *uring, struct ew__op *op)
{
	if (!uring->unheard)
		uring->ask_again_ns = ew__driver_now() + ASK_AGAIN_NS;
	op->next = uring->unheard;
	uring->unheard = op;
}

static void forget_unheard(struct uring *uring, const struct ew__op *op)
{
	struct ew__op **link;

	for (link = &uring->unheard; *link; link = &(*link)->next)
		if (*link == op) {
			*link = op->next;
			return;
		}
}

static void reap_one(struct uring *uring, const struct io_uring_cqe *cqe)
{
	uint64_t data = cqe->user_data;
	struct slot *slot;
	struct ew__op *op;

	if (data == USER_DATA_DOORBELL) {
		if (!(cqe->flags & IORING_CQE_F_MORE))
			uring->doorbell_armed = false;
		ew__driver_silence(&uring->driver);
		return;
	}
	slot = &uring->slots[(uint32_t)data];
	op = slot->op;
	ew_assert(op && slot->generation == (uint32_t)(data >> 32 & 0x3fffffff));
	if (data & USER_DATA_CANCEL) {
		op->cancel_in_flight = false;
		if (op->ended || ew__bug("cancel-believed")) {
			finish(uring, op);
		} else if ((cqe->res == -ENOENT || cqe->res == -EALREADY) &&
			   !ew__bug("unheard-cancel-not-repeated")) {
			note_unheard(uring, op);
		}
		return;
	}
	if (op->event && cqe->res >= 0 &&
	    !(op->cancel_wanted && ew__bug("accept-loses-a-descriptor")))
		op->event(op, cqe->res);
	else
		op->result = cqe->res;
	if (cqe->flags & IORING_CQE_F_BUFFER) {
		op->buffer = (uint16_t)(cqe->flags >> IORING_CQE_BUFFER_SHIFT);
		op->has_buffer = true;
#ifdef EW_VALGRIND
		VALGRIND_MAKE_MEM_DEFINED(ew__driver_buffer(&uring->driver, op->buffer),
					  EW__BUFFER_BYTES);
#endif
	}
	if ((cqe->flags & IORING_CQE_F_MORE) && !ew__bug("first-of-many-completions-is-the-last"))
		return;
	mark_defined(op);
	op->ended = true;
	if (op->cancel_in_flight && !ew__bug("slot-given-before-its-cancel-ended") &&
	    !ew__bug("generation-used-again"))
		return;
	if (op->cancel_wanted)
		forget_unheard(uring, op);
	finish(uring, op);
}

static void reap(struct uring *uring)
{
	struct io_uring_cqe *cqe;
	unsigned head, count = 0;

	io_uring_for_each_cqe(&uring->ring, head, cqe)
	{
#ifdef EW_VALGRIND
		VALGRIND_MAKE_MEM_DEFINED(cqe, sizeof(*cqe));
#endif
		reap_one(uring, cqe);
		count++;
	}
	io_uring_cq_advance(&uring->ring, count);
}

#ifdef EW_VALGRIND
#define LOOK_EVERY_NS (5 * EW_MILLISECOND)

/*
 * Valgrind (3.19) runs one thread at a time and does not let go of the others during io_uring_enter(2), so the thread
 * that would end the wait could not run. In ppoll(2) it does. The wait is for the doorbell, and in pieces: a poll of
 * the ring itself was seen to sleep through a completion (DEFER_TASKRUN, 6.18).
 */
static void wait_beside_the_ring(struct uring *uring, int64_t deadline_ns)
{
	struct pollfd doorbell = { .fd = uring->driver.doorbell, .events = POLLIN };
	int64_t left_ns = deadline_ns - ew_now();
	struct timespec timeout = { 0 };

	if (left_ns > 0)
		timeout.tv_nsec = left_ns < LOOK_EVERY_NS ? left_ns : LOOK_EVERY_NS;
	io_uring_submit_and_get_events(&uring->ring);
	if (io_uring_cq_ready(&uring->ring))
		return;
	(void)ppoll(&doorbell, 1, &timeout, NULL);
	io_uring_get_events(&uring->ring);
}
#endif

/* Whether completions wait for this thread to enter the kernel. */
static bool kernel_has_more(const struct uring *uring)
{
	return IO_URING_READ_ONCE(*uring->ring.sq.kflags) &
	       (IORING_SQ_TASKRUN | IORING_SQ_CQ_OVERFLOW);
}

static void enter(struct uring *uring, int64_t deadline_ns)
{
	struct __kernel_timespec timeout;
	struct io_uring_cqe *cqe;
	int64_t left_ns;

	if (deadline_ns == EW_NOW) {
		if (io_uring_sq_ready(&uring->ring) || kernel_has_more(uring))
			io_uring_submit_and_get_events(&uring->ring);
		return;
	}
#ifdef EW_VALGRIND
	if (RUNNING_ON_VALGRIND) {
		wait_beside_the_ring(uring, deadline_ns);
		return;
	}
#endif
	if (deadline_ns == EW_NEVER) {
		io_uring_submit_and_wait(&uring->ring, 1);
		return;
	}
	left_ns = deadline_ns - ew_now();
	if (left_ns < 0)
		left_ns = 0;
	timeout.tv_sec = left_ns / EW_SECOND;
	timeout.tv_nsec = left_ns % EW_SECOND;
	io_uring_submit_and_wait_timeout(&uring->ring, &cqe, 1, &timeout, NULL);
}

/* Asks those again that were not found, when it is time. Returns until when a wait may last. */
static int64_t ask_again(struct uring *uring, int64_t deadline_ns)
{
	int64_t left_ns = uring->ask_again_ns - ew__driver_now(), again_ns = ew_after(left_ns);
	struct ew__op *op;

	if (left_ns > 0)
		return deadline_ns < again_ns ? deadline_ns : again_ns;
	while ((op = uring->unheard)) {
		uring->unheard = op->next;
		append_cancel(uring, op);
	}
	return deadline_ns;
}

static void uring_visit(struct ew__driver *driver, int64_t deadline_ns)
{
	struct uring *uring = uring_of(driver);
	unsigned i;

	if (uring->unheard)
		deadline_ns = ask_again(uring, deadline_ns);
	submit_queued(uring);
	/* The submission queue was full: make room, do not wait. */
	while (driver->queued.first || uring->cancels) {
		io_uring_submit_and_get_events(&uring->ring);
		reap(uring);
		submit_queued(uring);
		deadline_ns = EW_NOW;
	}
	enter(uring, deadline_ns);
	reap(uring);
	/* One visit brings twenty (6.13 and later); with thousands in line, what comes behind them would wait for as many turns. */
	for (i = 0; i < VISITS_MAX && kernel_has_more(uring); i++) {
		io_uring_submit_and_get_events(&uring->ring);
		reap(uring);
	}
}

const struct ew__driver_type ew__driver_uring = {
	.name = "uring",
	.open = uring_open,
	.close = uring_close,
	.cancel = uring_cancel,
	.visit = uring_visit,
	.return_buffer = uring_return_buffer,
};
