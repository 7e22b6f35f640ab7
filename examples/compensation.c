/* SPDX-License-Identifier: Apache-2.0 */

/*
 * A compensation: what was begun elsewhere is undone when the work behind it does not succeed. The guard is
 * armed from the line that declares it and runs on every way out: an error, a cancel, a deadline, a panic. Its
 * close may wait for the other side's answer; its abort is for the case that there is no time for that.
 *
 * The seat is booked at a "backend" that takes a while to answer, which is played by ew_sleep().
 */

#include <endwell/endwell.h>
#include <errno.h>
#include <stdio.h>

struct booking {
	const char *name;
	int64_t payment_takes_ns;
	bool held; /* by the backend */
};

static int ask_backend(void)
{
	return ew_sleep(20 * EW_MILLISECOND);
}

static int give_back(void *argument)
{
	struct booking *booking = argument;
	int r = ask_backend();

	if (r < 0)
		return r; /* -ECANCELED: the budget is spent, and presume_given_back() follows */
	booking->held = false;
	printf("%s: the seat was given back\n", booking->name);
	return 0;
}

static void presume_given_back(void *argument)
{
	struct booking *booking = argument;

	printf("%s: the backend did not answer; it will find out by itself\n", booking->name);
}

static int book(void *argument)
{
	struct booking *booking = argument;
	int r = ask_backend();

	if (r < 0)
		return r;
	booking->held = true;

	EW_GUARD(undo, booking, .close = give_back, .abort = presume_given_back,
		 .budget_ns = 5 * EW_SECOND);

	r = ew_sleep(booking->payment_takes_ns);
	if (r < 0)
		return r; /* undo runs here, shielded from the cancel that brought us here */
	ew_guard_disarm(&undo);
	printf("%s: booked\n", booking->name);
	return 0;
}

static int program(void *argument)
{
	struct booking *bookings = argument;

	EW_SCOPE(scope, .deadline_ns = ew_after(200 * EW_MILLISECOND));
	int r = ew_spawn(&scope, book, &bookings[0]);

	if (r == 0)
		r = ew_spawn(&scope, book, &bookings[1]);
	return ew_scope_finish(&scope, r);
}

int main(void)
{
	struct booking bookings[] = {
		{ .name = "Ada", .payment_takes_ns = 20 * EW_MILLISECOND },
		{ .name = "Grace", .payment_takes_ns = 3600 * EW_SECOND },
	};
	int r = ew_run(NULL, program, bookings);

	return r == -ETIMEDOUT && bookings[0].held && !bookings[1].held ? 0 : 1;
}
