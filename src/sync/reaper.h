/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * Reaper, inside: the places of foreign operations
 */

#include "sync/waiter.h"

#include <endwell/foreign.h>

struct ew_foreign {
	struct ew_resource resource;
	struct ew_reaper *reaper;
	struct ew_foreign *next_free;
	const struct ew_site *site;
	const char *name;
	void (*cancel)(void *memory);
	void (*dispose)(void *memory, int32_t result);
	void *memory;
	struct ew_permit *permit;
	struct ew_waiter *first;
	struct ew_waiter *last;
	uint64_t number; /* 0: the place is free */
	int64_t abandoned_ns;
	int32_t result;
	bool completed;
	bool abandoned;
	bool asked;
	bool taken;
};

struct ew_reaper {
	struct ew_resource resource;
	struct ew_resource_type type; /* with a budget of its own */
	struct ew_reaper_options options;
	_Atomic uint32_t lock;
	uint64_t begun_count;
	unsigned owned_count;
	unsigned abandoned_count;
	unsigned retiring_count; /* threads that have a permit in their hands, and the reaper */
	struct ew_foreign *free;
	struct ew_waiter *first; /* who drains */
	struct ew_waiter *last;
	struct ew_reaper *next_leaked;
	struct ew_foreign operations[];
};

/* For an operation that begins, owned by its task; NULL: all are taken. */
struct ew_foreign *ew__reaper_take_place(struct ew_reaper *reaper);

/* It has completed, or was never started, and nobody needs it any more. Any thread; the last touch. */
void ew__reaper_retire(struct ew_foreign *foreign);

/* From its task to the reaper. False: it has completed, and is still the task's. Else it may be gone by now. */
bool ew__reaper_abandon(struct ew_foreign *foreign);
