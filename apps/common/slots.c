/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Slots move between four counts while several threads look. All counts share one word, so that no
 * look can fall between the two halves of a move and see a slot twice or not at all.
 */
#include "slots.h"

#include <assert.h>
#include <endwell/base.h>

#define COUNT_BITS 16
#define COUNT_MASK UINT64_C(0xffff)

static_assert(SLOT_COUNT * COUNT_BITS <= 64, "the books fit one word");
static_assert(SLOTS_MAX <= COUNT_MASK, "a count can hold the capacity");

static uint64_t one(enum slot slot)
{
	return UINT64_C(1) << (slot * COUNT_BITS);
}

static uint32_t count(uint64_t books, enum slot slot)
{
	return (uint32_t)(books >> (slot * COUNT_BITS) & COUNT_MASK);
}

void slots_init(struct slots *slots, uint32_t capacity)
{
	ew_assert(capacity <= SLOTS_MAX);
	slots->capacity = capacity;
	atomic_init(&slots->books, capacity * one(SLOT_FREE));
}

void slots_move(struct slots *slots, enum slot from, enum slot to)
{
	uint64_t before = atomic_fetch_add(&slots->books, one(to) - one(from));

	ew_assert(count(before, from) > 0);
}

struct slots_view slots_look(struct slots *slots)
{
	uint64_t books = atomic_load(&slots->books);
	struct slots_view view = { .capacity = slots->capacity };
	uint32_t sum = 0;

	for (int slot = 0; slot < SLOT_COUNT; slot++) {
		view.count[slot] = count(books, (enum slot)slot);
		sum += view.count[slot];
	}
	ew_assert(sum == slots->capacity);
	return view;
}

const char *slot_name(enum slot slot)
{
	static const char *const names[SLOT_COUNT] = { "free", "held", "cancelling", "presumed" };

	return names[slot];
}
