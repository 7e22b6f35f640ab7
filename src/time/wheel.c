/* SPDX-License-Identifier: Apache-2.0 */

/*
 * A hashed hierarchical timing wheel (Varghese and Lauck, 1987). A timer sits in the level that its
 * distance selects and in the slot that its deadline selects. When level 0 has gone round, the next
 * slot of level 1 is dealt out again, and so on upwards. A bit per slot says which ones hold timers, so
 * that a long idle time is one jump and not a walk over empty ticks.
 */

#include "time/wheel.h"

#include "seeded/bug.h"

#define SLOT_BITS 8
#define SLOT_MASK (EW__WHEEL_SLOTS - 1)
#define SPAN_MAX  (((uint64_t)1 << (SLOT_BITS * EW__WHEEL_LEVELS)) - 1)

static uint64_t tick_of(int64_t deadline_ns)
{
	uint64_t mask = ((uint64_t)1 << EW__WHEEL_TICK_SHIFT) - 1;

	if (ew__bug("timer-rounds-down"))
		mask = 0;
	if (deadline_ns <= 0)
		return 0;
	return ((uint64_t)deadline_ns + mask) >> EW__WHEEL_TICK_SHIFT;
}

void ew__wheel_init(struct ew__wheel *wheel, int64_t now_ns)
{
	*wheel = (struct ew__wheel){ .now_tick = (uint64_t)now_ns >> EW__WHEEL_TICK_SHIFT };
}

/* @earliest: the tick in which a timer that is due already expires. */
static void place(struct ew__wheel *wheel, struct ew__timer *timer, uint64_t earliest)
{
	uint64_t tick = tick_of(timer->deadline_ns), distance;
	unsigned level = 0, index;
	struct ew__timer **slot;

	if (tick < earliest && !ew__bug("timer-armed-late-is-lost"))
		tick = earliest;
	distance = tick - wheel->now_tick;
	if (distance > SPAN_MAX) {
		/* Parked in the farthest slot, and dealt out again from there. */
		distance = SPAN_MAX;
		tick = wheel->now_tick + distance;
	}
	while (distance >= EW__WHEEL_SLOTS) {
		distance >>= SLOT_BITS;
		level++;
	}
	index = (unsigned)(tick >> (SLOT_BITS * level)) & SLOT_MASK;
	slot = &wheel->slot[level][index];
	timer->next = *slot;
	if (timer->next)
		timer->next->link = &timer->next;
	timer->link = slot;
	*slot = timer;
	wheel->used[level][index / 64] |= (uint64_t)1 << (index % 64);
}

void ew__wheel_arm(struct ew__wheel *wheel, struct ew__timer *timer)
{
	ew_assert(!ew__timer_is_armed(timer));
	wheel->armed_count++;
	place(wheel, timer, wheel->now_tick + 1);
}

void ew__wheel_cancel(struct ew__wheel *wheel, struct ew__timer *timer)
{
	struct ew__timer **slots = &wheel->slot[0][0];
	size_t index;

	if (!timer->link || ew__bug("timer-not-disarmed"))
		return;
	*timer->link = timer->next;
	if (timer->next) {
		timer->next->link = timer->link;
	} else if (timer->link >= slots &&
		   timer->link < slots + EW__WHEEL_LEVELS * EW__WHEEL_SLOTS) {
		index = (size_t)(timer->link - slots);
		wheel->used[index / EW__WHEEL_SLOTS][index % EW__WHEEL_SLOTS / 64] &=
			~((uint64_t)1 << (index % 64));
	}
	timer->link = NULL;
	timer->next = NULL;
	wheel->armed_count--;
}

/* Distance from slot @from, going round, to the first used one; EW__WHEEL_SLOTS: none. */
static unsigned first_used(const uint64_t *used, unsigned from)
{
	unsigned step, index;
	uint64_t word;

	for (step = 0; step < EW__WHEEL_SLOTS; step += 64 - index % 64) {
		index = (from + step) & SLOT_MASK;
		word = used[index / 64] >> (index % 64);
		if (word)
			return step + (unsigned)__builtin_ctzll(word);
	}
	return EW__WHEEL_SLOTS;
}

static uint64_t next_tick(const struct ew__wheel *wheel)
{
	uint64_t next = UINT64_MAX, block, tick;
	unsigned level, distance;

	for (level = 0; level < EW__WHEEL_LEVELS; level++) {
		block = (wheel->now_tick >> (SLOT_BITS * level)) + 1;
		distance = first_used(wheel->used[level], (unsigned)block & SLOT_MASK);
		if (distance >= EW__WHEEL_SLOTS)
			continue;
		tick = (block + distance) << (SLOT_BITS * level);
		if (tick < next)
			next = tick;
	}
	return next;
}

static struct ew__timer *take_slot(struct ew__wheel *wheel, unsigned level, unsigned index)
{
	struct ew__timer *first = wheel->slot[level][index];

	wheel->slot[level][index] = NULL;
	wheel->used[level][index / 64] &= ~((uint64_t)1 << (index % 64));
	return first;
}

static void deal_out(struct ew__wheel *wheel, unsigned level)
{
	unsigned index = (unsigned)(wheel->now_tick >> (SLOT_BITS * level)) & SLOT_MASK;
	struct ew__timer *timer = take_slot(wheel, level, index), *next;

	for (; timer; timer = next) {
		next = timer->next;
		place(wheel, timer, wheel->now_tick);
	}
}

static void turn_to(struct ew__wheel *wheel, uint64_t tick)
{
	struct ew__timer *due;
	unsigned level;

	wheel->now_tick = tick;
	for (level = EW__WHEEL_LEVELS - 1; level > 0; level--) {
		if (!(tick & (((uint64_t)1 << (SLOT_BITS * level)) - 1)) &&
		    !ew__bug("timer-not-dealt-out"))
			deal_out(wheel, level);
	}
	due = take_slot(wheel, 0, (unsigned)tick & SLOT_MASK);
	if (due)
		due->link = &due;
	while (due) {
		struct ew__timer *timer = due;

		due = timer->next;
		if (due)
			due->link = &due;
		timer->link = NULL;
		timer->next = NULL;
		wheel->armed_count--;
		timer->expire(timer);
	}
}

void ew__wheel_advance(struct ew__wheel *wheel, int64_t now_ns)
{
	uint64_t target = (uint64_t)now_ns >> EW__WHEEL_TICK_SHIFT, next;

	while (wheel->now_tick < target) {
		next = next_tick(wheel);
		if (next > target) {
			wheel->now_tick = target;
			return;
		}
		turn_to(wheel, next);
	}
}

int64_t ew__wheel_next_ns(const struct ew__wheel *wheel)
{
	uint64_t next;

	if (!wheel->armed_count)
		return EW_NEVER;
	next = next_tick(wheel) + ew__bug("wheel-sleeps-too-long");
	if (next > (uint64_t)EW_NEVER >> EW__WHEEL_TICK_SHIFT)
		return EW_NEVER;
	return (int64_t)(next << EW__WHEEL_TICK_SHIFT);
}
