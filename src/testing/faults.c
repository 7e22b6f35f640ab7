/* SPDX-License-Identifier: Apache-2.0 */

/*
 * The seam is the driver's table of functions. While somebody looks, the worker's driver has a copy of it whose visit
 * first takes what is queued: an operation that is to fail ends there, with the kernel's word for it, and takes the same
 * way back as any other. One that is to be short is given to the real driver with less to do. Calls to filesystems ask
 * for their fault when they are submitted (driver/system.h). Nothing of this is in a program that is not swept.
 *
 * The same place sees each operation end, and holds it to the contract: -ECANCELED is only said where a cancel was
 * asked for and the memory lent is as it was, and what interrupts a call inside the kernel is never shown.
 */

#include "testing/faults.h"

#include "driver/errors.h"
#include "driver/system.h"
#include "task/worker.h"

#include <stdio.h>
#include <string.h>

#define NONE	    UINT32_MAX
#define SEEN_MAX    64 /* at the same time; more are not looked at */
#define UNTOUCHED   0xa5
#define SHORT_BYTES 1

/* What every operation of the driver may end with besides, and what must not get through. */
static const int hidden[] = { EW__KERNEL_RESTART_FIRST, EINTR, ECANCELED };

#define HIDDEN_COUNT (sizeof(hidden) / sizeof(hidden[0]))

/* An operation that the driver has, and the memory that it fills, if any; nobody has touched that yet. */
struct seen {
	const struct ew__op *op;
	char *memory;
	size_t bytes;
};

static __thread struct {
	const struct ew__driver_type *real;
	struct ew__driver_type watched;
	int (*fault_before)(void);
	uint32_t count, number, answer, answers;
	struct ew__op *shortened;
	uint32_t length; /* of that one, as the program has it */
	unsigned seen_count;
	struct seen seen[SEEN_MAX];
	char what[96];
	char complaint[128];
} faults;

static const char *name_of(const struct ew__op *op)
{
	static const char *const names[] = {
		[EW__OP_READ] = "read",	      [EW__OP_WRITE] = "write",
		[EW__OP_RECV] = "recv",	      [EW__OP_RECEIVE] = "receive",
		[EW__OP_SEND] = "send",	      [EW__OP_RECVMSG] = "recvmsg",
		[EW__OP_SENDMSG] = "sendmsg", [EW__OP_ACCEPT] = "accept",
		[EW__OP_CONNECT] = "connect", [EW__OP_POLL] = "poll",
		[EW__OP_CALL] = "call",
	};

	return names[op->code];
}

/* ---- the contract ---- */

static void note_seen(const struct ew__op *op)
{
	struct seen *seen = &faults.seen[faults.seen_count];

	if (faults.seen_count == SEEN_MAX)
		return;
	faults.seen_count++;
	*seen = (struct seen){ .op = op };
	if (op->code != EW__OP_READ && op->code != EW__OP_RECV)
		return;
	seen->memory = (char *)(uintptr_t)op->address;
	seen->bytes = op->length;
	memset(seen->memory, UNTOUCHED, seen->bytes);
}

static bool is_untouched(const struct seen *seen)
{
	size_t i;

	for (i = 0; i < seen->bytes && seen->memory[i] == (char)UNTOUCHED; i++)
		;
	return i == seen->bytes;
}

static void complain(const struct ew__op *op, const char *about)
{
	if (!faults.complaint[0])
		snprintf(faults.complaint, sizeof(faults.complaint), "a %s %s: result %d",
			 name_of(op), about, op->result);
}

static void hold_to_contract(const struct ew__op *op, const struct seen *seen)
{
	if (ew__is_interruption(op->result))
		complain(op, "shows what interrupted it in the kernel");
	if (op->result != -ECANCELED)
		return;
	if (!op->cancel_wanted)
		complain(op, "says that it was cancelled, and nobody asked");
	if (op->has_buffer || !is_untouched(seen))
		complain(op, "says that it was cancelled, and has brought something");
}

/* One that was taken out of the line before the driver had it has not been seen. */
static void note_end(const struct ew__op *op)
{
	unsigned i;

	for (i = 0; i < faults.seen_count && faults.seen[i].op != op; i++)
		;
	if (i == faults.seen_count)
		return;
	hold_to_contract(op, &faults.seen[i]);
	faults.seen[i] = faults.seen[--faults.seen_count];
}

/* ---- faults ---- */

/* Those of the table, each once; they are side by side. */
static uint32_t errors_of(const int *table, uint32_t max, int errors[static EW__OP_ERRORS_MAX])
{
	uint32_t count = 0, i;

	for (i = 0; i < max && table[i]; i++)
		if (i == 0 || table[i] != table[i - 1])
			errors[count++] = table[i];
	return count;
}

/* What the number means is a count: RECVMSG and SENDMSG have theirs in the message. */
static bool may_be_short(const struct ew__op *op)
{
	return op->length > SHORT_BYTES && (op->code == EW__OP_READ || op->code == EW__OP_WRITE ||
					    op->code == EW__OP_RECV || op->code == EW__OP_SEND);
}

static void shorten(struct ew__op *op)
{
	faults.shortened = op;
	faults.length = op->length;
	op->length = SHORT_BYTES;
	snprintf(faults.what, sizeof(faults.what), "%s %u was short", name_of(op), faults.number);
}

static void end_with(struct ew__driver *driver, struct ew__op *op, int error)
{
	snprintf(faults.what, sizeof(faults.what), "%s %u ended with error %d", name_of(op),
		 faults.number, error);
	ew__op_line_remove(&driver->queued, op);
	op->result = -error;
	ew__driver_op_ended(driver, op);
}

static void answer(struct ew__driver *driver, struct ew__op *op)
{
	int errors[EW__OP_ERRORS_MAX];
	uint32_t count = errors_of(ew__op_errors[op->code], EW__OP_ERRORS_MAX, errors), number;

	faults.answers = count + HIDDEN_COUNT + may_be_short(op);
	number = faults.answer % faults.answers;
	if (number < count)
		end_with(driver, op, errors[number]);
	else if (number < count + HIDDEN_COUNT)
		end_with(driver, op, hidden[number - count]);
	else
		shorten(op);
}

static void look_at_queued(struct ew__driver *driver)
{
	struct ew__op *op, *next;

	for (op = driver->queued.first; op; op = next) {
		next = op->next;
		if (op->code == EW__OP_CALL)
			continue; /* counted when it was asked for */
		note_seen(op);
		if (faults.count++ == faults.number)
			answer(driver, op);
	}
}

static void look_at_done(const struct ew__driver *driver)
{
	struct ew__op *op;

	for (op = driver->done.first; op; op = op->next) {
		if (op == faults.shortened) {
			op->length = faults.length;
			faults.shortened = NULL;
		}
		note_end(op);
	}
}

static void watched_visit(struct ew__driver *driver, int64_t deadline_ns)
{
	look_at_queued(driver);
	faults.real->visit(driver, driver->done.first ? EW_NOW : deadline_ns);
	look_at_done(driver);
}

static int fault_of_call(void)
{
	int errors[EW__OP_ERRORS_MAX];
	int r = faults.fault_before ? faults.fault_before() : 0;

	if (faults.count++ != faults.number || r < 0)
		return r;
	faults.answers = errors_of(ew__call_errors, EW__CALL_ERRORS, errors);
	r = -errors[faults.answer % faults.answers];
	snprintf(faults.what, sizeof(faults.what), "call %u failed with error %d", faults.number,
		 -r);
	return r;
}

/* ---- for the sweep ---- */

void ew__faults_begin(void)
{
	struct ew__driver *driver = ew__worker->driver;

	memset(&faults, 0, sizeof(faults));
	faults.number = NONE;
	faults.real = driver->type;
	faults.watched = *driver->type;
	faults.watched.visit = watched_visit;
	driver->type = &faults.watched;
	faults.fault_before = ew__system_file_fault;
	ew__system_file_fault = fault_of_call;
}

void ew__faults_end(void)
{
	ew__worker->driver->type = faults.real;
	ew__system_file_fault = faults.fault_before;
}

void ew__faults_make(uint32_t number, uint32_t answer)
{
	faults.count = 0;
	faults.number = number;
	faults.answer = answer;
}

void ew__faults_count(void)
{
	ew__faults_make(NONE, 0);
}

uint32_t ew__faults_counted(void)
{
	return faults.count;
}

uint32_t ew__faults_answers(void)
{
	return faults.answers;
}

const char *ew__faults_describe(void)
{
	return faults.what;
}

const char *ew__faults_complaint(void)
{
	return faults.complaint[0] ? faults.complaint : NULL;
}
