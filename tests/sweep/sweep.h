/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * What the sweeps share: a book of endings, in which each that was begun must end once, and the verdict.
 */

#include "unit/core.h"

#include <endwell/testing.h>

#define BOOK_PAGES 16

/* Something else fails besides, or first. */
#define MODES_WITH_FAULTS                                                                          \
	(1u << EW_SWEEP_OPERATION | 1u << EW_SWEEP_CANCEL_AGAIN |                                  \
	 1u << EW_SWEEP_CANCEL_OPERATION | 1u << EW_SWEEP_CANCEL_MEMORY | 1u << EW_SWEEP_HARDSHIP)
#define MODES_WITHOUT_FAULTS (((1u << EW_SWEEP_MODES) - 1) & ~MODES_WITH_FAULTS)

/* Guards and things take a page each; a page that was opened must be closed or aborted once. */
static struct {
	unsigned opened;
	struct probe probes[BOOK_PAGES];
	struct thing things[BOOK_PAGES];
} book;

static UNUSED struct probe *open_probe(int64_t takes_ns)
{
	struct probe *probe = &book.probes[book.opened % BOOK_PAGES];

	book.opened++;
	*probe = (struct probe){ .name = "guard", .takes_ns = takes_ns };
	return probe;
}

static UNUSED struct thing *open_thing(int64_t takes_ns)
{
	struct thing *thing = &book.things[book.opened % BOOK_PAGES];

	book.opened++;
	*thing = (struct thing){ .probe.takes_ns = takes_ns };
	return THING_OPEN(thing, "thing");
}

static UNUSED void open_book(void *argument)
{
	(void)argument;
	memset(&book, 0, sizeof(book));
	traced[0] = '\0';
}

static UNUSED const char *check_book(void *argument)
{
	unsigned i, ended;

	(void)argument;
	if (book.opened > BOOK_PAGES)
		return "the book has too few pages";
	for (i = 0; i < book.opened; i++) {
		ended = book.probes[i].closed + book.probes[i].aborted +
			book.things[i].probe.closed + book.things[i].probe.aborted;
		if (ended == 0)
			return "something was never ended";
		if (ended > 1)
			return "something was ended twice";
	}
	return NULL;
}

/* Declares a guard that the book watches. */
#define BOOKED_GUARD(name_, takes_ns_, ...)                                                        \
	EW_GUARD(name_, open_probe(takes_ns_), .close = probe_close, .abort = probe_abort,         \
		 ##__VA_ARGS__)

static UNUSED void expect_sweep(const struct ew_sweep_options *options, ew_task_fn *scenario,
				unsigned points_min)
{
	struct ew_sweep_result result = ew_sweep(options, scenario, NULL);

	if (result.failed)
		ew_test_fail(__FILE__, __LINE__, "%s at point %u/%u, %s: %.150s",
			     ew_sweep_mode_name(result.mode), result.index, result.second,
			     result.site, result.what);
	printf("# %u points, %u runs, %u pairs of %u (EW_SWEEP_SEED=%llu), %u failed operations\n",
	       result.points, result.runs, result.pairs, result.pairs_there_are,
	       (unsigned long long)result.seed, result.failed_operations);
	if (result.points < points_min)
		ew_test_fail(__FILE__, __LINE__, "only %u points, not %u", result.points,
			     points_min);
}

/* The sweep, also with a task that force may drop. What fails besides is the same for it. */
static UNUSED void expect_sweeps(ew_task_fn *scenario, unsigned points_min)
{
	struct ew_sweep_options options = { .prepare = open_book, .check = check_book };

	expect_sweep(&options, scenario, points_min);
	options.droppable = true;
	options.modes = MODES_WITHOUT_FAULTS;
	expect_sweep(&options, scenario, points_min);
}
