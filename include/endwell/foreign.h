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

#include <endwell/reaper.h>

struct ew_foreign;
struct ew_permit;

/** struct ew_foreign_ticket - one operation, for the side that completes it; copied at will. No fields for callers */
struct ew_foreign_ticket {
	struct ew_foreign *foreign;
	uint64_t number;
};

/**
 * struct ew_foreign_options - zero is the default for each but the name
 * @name:    for reports; a string that stays
 * @cancel:  ask the other side to stop; at most once, by the task that ends it; may not suspend; the completion may come
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
 * A virtual clock does not wait for its completion.
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
 * completion, by whoever lost a race against the first, does nothing. Takes locks for a few instructions, so it is not
 * for a signal handler, which may have interrupted who holds them.
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

/**
 * ew_foreign_close() - ask it to stop unless it has completed, and wait; then its permit and its place are free
 * Errors:  as ew_close()
 */
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
 * Errors:       -ECANCELED, -EAGAIN the reaper is full: not started; or anything that @start said.
 */
EW_SUSPENDS EW_API int ew_foreign_call(struct ew_reaper *reaper,
				       const struct ew_foreign_options *options,
				       ew_foreign_start_fn *start, void *argument,
				       int32_t *ret_result);

#define ew_reaper_new(...)    (ew__here(EW_SITE("ew_reaper_new")), ew_reaper_new(__VA_ARGS__))
#define ew_foreign_begin(...) (ew__here(EW_SITE("ew_foreign_begin")), ew_foreign_begin(__VA_ARGS__))
#define ew_foreign_call(...)  (ew__here(EW_SITE("ew_foreign_call")), ew_foreign_call(__VA_ARGS__))
