/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * Timing wheel: arm and cancel in constant time
 * Four levels of 256 slots; a tick is 2^20 ns (1.05 ms); deadlines are rounded up.
 */

#include <endwell/private.h>

#define EW__WHEEL_TICK_SHIFT 20
#define EW__WHEEL_LEVELS     4
#define EW__WHEEL_SLOTS	     256

struct ew__wheel {
	uint64_t now_tick;
	uint64_t armed_count;
	uint64_t used[EW__WHEEL_LEVELS][EW__WHEEL_SLOTS / 64]; /* slots that hold timers */
	struct ew__timer *slot[EW__WHEEL_LEVELS][EW__WHEEL_SLOTS];
};

void ew__wheel_init(struct ew__wheel *wheel, int64_t now_ns);

/* @timer's deadline_ns and expire are set; it is not armed. */
void ew__wheel_arm(struct ew__wheel *wheel, struct ew__timer *timer);

/* Idempotent: a timer that is not armed stays so. */
void ew__wheel_cancel(struct ew__wheel *wheel, struct ew__timer *timer);

/* Expires what is due at @now_ns, in order of ticks; expire() may arm and cancel timers. */
void ew__wheel_advance(struct ew__wheel *wheel, int64_t now_ns);

/* When ew__wheel_advance() has something to do next: never later than the first deadline's tick; EW_NEVER. */
int64_t ew__wheel_next_ns(const struct ew__wheel *wheel);

static inline bool ew__timer_is_armed(const struct ew__timer *timer)
{
	return timer->link != NULL;
}
