/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * Foreign completions: operations that somebody else carries out
 * A device, a library with threads of its own, another event loop: it is given a ticket, and says by the ticket, from
 * whatever thread, when it is done.
 *
 *	r = ew_foreign_begin(reaper, &options, &operation);
 *	if (r < 0)
 *		return r;
 *	device_submit(device, ew_foreign_memory(operation), ew_foreign_ticket(operation));
 *	return ew_foreign_wait(operation, EW_NEVER, &result);	// if it is cancelled, the operation ends with its place
 *
 * What the other side may still touch is in the operation's own memory, and stays until it has completed, whoever has
 * gone by then. An operation whose task cannot wait any longer goes to its reaper, which has kept a place for it from
 * the beginning. What must use the caller's own memory is a call that does not return before: ew_foreign_call().
 */

#include <endwell/resource.h>

struct ew_foreign;
struct ew_permit;
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
 * abort reports each by name, presumes its permit, and leaks the reaper's memory on purpose: the other side may still
 * write there. Operations in places end before it.
 * Errors:       -EINVAL no name or no operations, -ENOMEM
 */
EW_MUST_CHECK EW_API int ew_reaper_new(const struct ew_reaper_options *options,
				       struct ew_reaper **ret_reaper);

/** ew_reaper_close() - end it by name. -ECANCELED: operations had to be leaked, as reported */
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

/** struct ew_foreign_ticket - one operation, for the side that completes it; copied at will. No fields for callers */
struct ew_foreign_ticket {
	struct ew_foreign *foreign;
	uint64_t number;
};

/**
 * struct ew_foreign_options - zero is the default for each but the name
 * @name:    for reports; a string that stays
 * @cancel:  ask the other side to stop; at most once. On the task's worker; may not suspend; the completion may come
 *           before it, from inside it, after it, or not at all. NULL: it cannot be asked
 * @dispose: end what the result stands for if nobody took it, such as a descriptor; may not suspend. Of an abandoned
 *           operation on the completing thread
 * @permit:  address of a place, emptied on success: it is free again when the operation has completed, not before.
 *           NULL: none
 */
struct ew_foreign_options {
	const char *name;
	void (*cancel)(void *memory);
	void (*dispose)(void *memory, int32_t result);
	struct ew_permit **permit;
};

/**
 * ew_foreign_begin() - make an operation that has not completed; does not suspend
 *
 * A resource. Its close asks the other side to stop, and waits for its completion. Its abort asks, and leaves the
 * operation to the reaper.
 * Errors:       -EAGAIN the reaper is full; nothing is taken, and the other side must not be started
 */
EW_MUST_CHECK EW_API int ew_foreign_begin(struct ew_reaper *reaper,
					  const struct ew_foreign_options *options,
					  struct ew_foreign **ret_operation);

EW_API struct ew_foreign_ticket ew_foreign_ticket(const struct ew_foreign *operation);

/** ew_foreign_memory() - memory_bytes of the reaper's options, zeroed when the operation began */
EW_API void *ew_foreign_memory(const struct ew_foreign *operation);

/**
 * ew_foreign_complete() - it is done, and nothing of it will be touched any more
 * @result: for whoever waits; 0 or a count, or -errno
 *
 * From any thread, once; never waits, needs no memory, cannot fail. A ticket is good as long as its reaper: a second
 * completion, by whoever lost a race against the first, does nothing. Takes locks for a few instructions, so it is not for
 * a signal handler, which may have interrupted who holds them.
 * Return:       0, or -EALREADY: this operation has completed before.
 */
EW_API int ew_foreign_complete(struct ew_foreign_ticket ticket, int32_t result);

/**
 * ew_foreign_wait() - wait until it has completed
 * @ret_result: what it completed with; from now on the caller's
 *
 * Cancellation: ends the wait and nothing else: the operation goes on until its place is left. A completion that has
 *               come while a cancel or the deadline arrives is returned.
 * Errors:       -ETIMEDOUT, -ECANCELED
 */
EW_SUSPENDS EW_API int ew_foreign_wait(struct ew_foreign *operation, int64_t deadline_ns,
				       int32_t *ret_result);

/** ew_foreign_close() - ask it to stop unless it has completed, and wait; then its permit and its place are free */
EW_SUSPENDS EW_API int ew_foreign_close(struct ew_foreign **operation);

/** ew_foreign_start_fn - give the ticket to the other side. 0, or -errno: not started, and nobody has the ticket */
typedef int ew_foreign_start_fn(void *argument, struct ew_foreign_ticket ticket);

/**
 * ew_foreign_call() - an operation on the caller's own memory, from its start to its completion
 * @start:      may not suspend
 * @ret_result: what it completed with
 *
 * Cancellation: once it has started the other side is asked to stop, and waited for in any case: nothing cuts this wait
 *               short, not even force. Its result is returned.
 * Errors:       -ECANCELED, -EAGAIN the reaper is full: not started; or what @start said.
 */
EW_SUSPENDS EW_API int ew_foreign_call(struct ew_reaper *reaper,
				       const struct ew_foreign_options *options,
				       ew_foreign_start_fn *start, void *argument,
				       int32_t *ret_result);

#define ew_reaper_new(...)    (ew__here(EW_SITE("ew_reaper_new")), ew_reaper_new(__VA_ARGS__))
#define ew_foreign_begin(...) (ew__here(EW_SITE("ew_foreign_begin")), ew_foreign_begin(__VA_ARGS__))
#define ew_foreign_call(...)  (ew__here(EW_SITE("ew_foreign_call")), ew_foreign_call(__VA_ARGS__))
