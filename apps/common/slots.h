/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * The books of one kind of slot: how many are free, held, cancelling, presumed. The sum is the
 * capacity.
 */

#include <stdatomic.h>
#include <stdint.h>

#define SLOTS_MAX 65535

enum slot {
	SLOT_FREE,	 /* nobody has it, and what it stands for is free */
	SLOT_HELD,	 /* somebody waits for its work */
	SLOT_CANCELLING, /* nobody waits any more, the work has not stopped yet */
	SLOT_PRESUMED,	 /* waiting for its end has run out of time; not granted again */
	SLOT_COUNT,
};

/* @books holds four counts of 16 bits, so that a move is one addition and a look one load. */
struct slots {
	_Atomic uint64_t books;
	uint32_t capacity;
};

struct slots_view {
	uint32_t count[SLOT_COUNT];
	uint32_t capacity;
};

void slots_init(struct slots *slots, uint32_t capacity);

/* Moves one slot from one count to another; having none to move is a bug and asserts. */
void slots_move(struct slots *slots, enum slot from, enum slot to);

/* A consistent look: the counts add up to the capacity, asserted here. */
struct slots_view slots_look(struct slots *slots);

const char *slot_name(enum slot slot);
