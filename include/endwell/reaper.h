/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * Reaper: where operations stay whose task cannot wait for them
 * Bounded, named and counted. Each operation has its place from its beginning, see endwell/foreign.h.
 */

#include <endwell/resource.h>

struct ew_reaper;

/**
 * struct ew_reaper_options - how many operations at a time, and what for
 * @name:           for reports; a string that stays
 * @operations_max: begun and not yet ended, those that were abandoned included; all memory is allocated with the reaper
 * @memory_bytes:   of each operation, for what the other side reads and writes; 0: none
 * @hold_ns:        an abandoned operation that takes longer counts as overdue; 0: none does
 * @drain_ns:       how long the reaper's close waits for those that were abandoned; 0: EW_BUDGET_DEFAULT
 */
struct ew_reaper_options {
	const char *name;
	unsigned operations_max;
	size_t memory_bytes;
	int64_t hold_ns;
	int64_t drain_ns;
};

/**
 * ew_reaper_new() - make the reaper of a kind of operations; a resource, above all that uses it
 *
 * Its close waits until every abandoned operation has completed. When that takes too long, or there is no time, its
 * abort reports each by name (the first 32), presumes its permit, and leaks the reaper's memory on purpose: the other
 * side may still write there. Operations in places end before it.
 * Errors:       -EINVAL no name or no operations, -ENOMEM
 */
EW_MUST_CHECK EW_API int ew_reaper_new(const struct ew_reaper_options *options,
				       struct ew_reaper **ret_reaper);

/** ew_reaper_close() - end it by name. Errors: -ECANCELED: operations had to be leaked, as reported */
EW_SUSPENDS EW_API int ew_reaper_close(struct ew_reaper **reaper);

struct ew_reaper_counts {
	unsigned operations_max;
	unsigned owned;	    /* by tasks */
	unsigned abandoned; /* and not completed */
	unsigned overdue;   /* of these: for longer than hold_ns */
};

/** ew_reaper_count() - one consistent picture; from any thread */
EW_API struct ew_reaper_counts ew_reaper_count(struct ew_reaper *reaper);

struct ew_abandoned {
	const char *name;
	const struct ew_site *site; /* the line that began it */
	int64_t since_ns;
};

/** ew_reaper_look() - up to @entries_max of the abandoned operations; returns how many; from any thread */
EW_API unsigned ew_reaper_look(struct ew_reaper *reaper, struct ew_abandoned *ret_entries,
			       unsigned entries_max);

#define ew_reaper_new(...) (ew__here(EW_SITE("ew_reaper_new")), ew_reaper_new(__VA_ARGS__))
