/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* A waiting room in front of a limit, and how long one waits in it. From any worker. */

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include <endwell/semaphore.h>

/** struct line - zero, but for the semaphore, which is the caller's */
struct line {
	struct ew_semaphore *semaphore;
	_Atomic int64_t waiting;  /* requests */
	_Atomic int64_t wait_ns;  /* a running mean */
	_Atomic int64_t moved_ns; /* when it last moved, or began */
};

/**
 * line_enter() - a permit, now or in one's turn
 * @ret_waited: whether one had to wait
 * Otherwise as ew_semaphore_acquire().
 */
EW_SUSPENDS int line_enter(struct line *line, int64_t deadline_ns, struct ew_permit **permit,
			   bool *ret_waited);

/* The same in two steps, for who waits for more than this. @since_ns: what line_join() gave; @r: of the waiting */
int64_t line_join(struct line *line);
void line_leave(struct line *line, int64_t since_ns, int r);

/* What to expect: the mean of those who had their turn; longer if the first in line waits longer already. */
int64_t line_wait_ns(struct line *line);

/* The same in whole seconds, for Retry-After; at least 1 */
int line_wait_seconds(struct line *line);
