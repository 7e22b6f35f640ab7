/* SPDX-License-Identifier: Apache-2.0 */

/*
 * A saga: a journey is booked in three steps at three backends. Each step that succeeded arms the one that takes it
 * back. The commit disarms all of them at once; without it they run, newest first.
 */

#include <endwell/endwell.h>
#include <errno.h>
#include <stdio.h>

struct step {
	const char *what;
	int fails; /* the backend says so */
};

static int take_back(void *argument)
{
	const struct step *step = argument;
	int r = ew_sleep(EW_SECOND); /* the backend is asked, and answers */

	if (r == 0)
		printf("  %s: cancelled\n", step->what);
	return r;
}

static void note_for_the_operator(void *argument)
{
	const struct step *step = argument;

	printf("  %s: to be cancelled by hand\n", step->what);
}

static int book(const struct step *step)
{
	int r = ew_sleep(EW_SECOND);

	if (r == 0)
		r = step->fails;
	if (r == 0)
		printf("  %s: booked\n", step->what);
	return r;
}

static int travel(struct step *flight, struct step *hotel, struct step *car)
{
	int r = book(flight);

	if (r < 0)
		return r;
	EW_GUARD(no_flight, flight, .close = take_back, .abort = note_for_the_operator);

	r = book(hotel);
	if (r < 0)
		return r;
	EW_GUARD(no_hotel, hotel, .close = take_back, .abort = note_for_the_operator);

	r = book(car);
	if (r < 0)
		return r;

	/* The commit: nothing suspends between these, so it is both or none. */
	ew_guard_disarm(&no_hotel);
	ew_guard_disarm(&no_flight);
	return 0;
}

static int program(void *unused)
{
	struct step flight = { "flight", 0 }, hotel = { "hotel", 0 }, car = { "car", 0 };
	int r;

	(void)unused;
	printf("all goes well\n");
	r = travel(&flight, &hotel, &car);
	if (r < 0)
		return r;
	printf("there is no car\n");
	car.fails = -ENOENT;
	r = travel(&flight, &hotel, &car);
	if (r != -ENOENT)
		return r;

	printf("the traveller goes away after 1.5 seconds\n");
	EW_SCOPE(traveller, .deadline_ns = ew_after(1500 * EW_MILLISECOND));
	r = ew_scope_finish(&traveller, travel(&flight, &hotel, &car));
	return r == -ETIMEDOUT ? 0 : r;
}

int main(void)
{
	struct ew_run_options options = { .workers_count = 1, .virtual_time = true };

	return ew_run(&options, program, NULL) < 0;
}
