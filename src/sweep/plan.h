/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * Plan: what one run of a sweep does at which suspension point
 * Tasks of what is swept carry a bit in head.refuse, which children inherit; it sends each of their suspending calls
 * through ew__refuse(), which calls here. With virtual time and one worker the points come in the same order each
 * time, so that a number names one.
 */

#include "scope/scope.h"

#include <endwell/testing.h>

#define EW__SWEEP_NO_POINT UINT32_MAX

struct ew__sweep_plan {
	/* To be set before. */
	enum ew_sweep_mode mode;
	unsigned index;
	/* Of a pair of points the later one; EW__SWEEP_NO_POINT: none. The modes that go on in @follow have their own. */
	unsigned second;
	enum ew_reason reason; /* of the cancel */
	bool droppable;
	int64_t budget_ns; /* as a scope has it */
	/* Called at each point before anything is done there; @chosen: something will be. May be NULL. */
	void (*note)(struct ew__sweep_plan *plan, const struct ew_task *task, unsigned index,
		     bool chosen);
	/*
	 * Called in the task when it has been cancelled at the point, in modes that go on with something that fails. Not
	 * NULL for EW_SWEEP_CANCEL_OPERATION, EW_SWEEP_CANCEL_MEMORY and EW_SWEEP_HARDSHIP.
	 */
	void (*follow)(struct ew__sweep_plan *plan);

	/* What came of it; points are counted on from run to run. */
	unsigned points;
	bool reached;
	bool second_reached;
	int result;

	/* Of the run. */
	ew_task_fn *fn;
	void *argument;
	struct ew_scope *around; /* that of the second cancel, which comes from further out */
	struct ew_scope *scope;	 /* NULL: left */
	bool cancel_posted;
	struct ew__message cancel_message;
	struct ew_task *to_keep,
		*kept; /* EW_SWEEP_CANCEL_ENDED: to be kept when it is ready; that is kept */
};

/* After the cancel at a point something is done at each later point in turn. */
bool ew__sweep_makes_pairs_of_points(enum ew_sweep_mode mode);

/* From the one to the other the plan holds, for all threads: one at a time in a process. */
void ew__sweep_begin(struct ew__sweep_plan *plan);
void ew__sweep_end(void);

/*
 * In a task: @fn as a child, in a scope of its own, which is what the plan cancels. Returns what the join says, when all
 * is over that it began; @plan->result is what @fn returned, or -ENOTRECOVERABLE.
 */
int ew__sweep_call(struct ew__sweep_plan *plan, ew_task_fn *fn, void *argument,
		   const struct ew_site *site);
