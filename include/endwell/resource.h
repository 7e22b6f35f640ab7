/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * Resources, places and guards: what ends, and when
 * A resource has two endings: close, which may wait and may fail, and abort, which does neither.
 *
 * A place is a declared variable that may own a resource. It stands empty in its task's registry from
 * the line that declares it; a call that makes a resource fills it; taking the resource out empties
 * it. However the block is left, what a place still holds is ended: newest declaration first, on the
 * task's own stack, shielded from the cancels of the scopes around it, under a time budget.
 */

#include <endwell/private.h>

/**
 * struct ew_resource_type - how a kind of resource ends
 * @name:       for reports
 * @close:      ends it, may suspend; frees the memory. 0 or -errno of an ending that failed; the
 *              resource is gone in both cases. -ECANCELED, and only that, means "not ended": abort follows
 * @abort:      ends it without waiting and without failing: transfers what the kernel still holds to
 *              the runtime; memory that is still lent is freed after the last completion
 * @budget_ns:  how long close may take; 0 is EW_BUDGET_DEFAULT
 * @reserve_ns: how much of a ladder's time is kept free for this ending when newer ones are slow
 */
struct ew_resource_type {
	const char *name;
	int (*close)(void *resource);
	void (*abort)(void *resource);
	int64_t budget_ns;
	int64_t reserve_ns;
};

#define EW_BUDGET_DEFAULT (10 * EW_SECOND)

/** struct ew_resource - first member of every type that can be owned by a place */
struct ew_resource {
	const struct ew_resource_type *type;
	const struct ew_site *site; /* the line that made it */
	struct ew_resource *next;   /* all that live, for the report at the end */
	struct ew_resource *prev;
	const void *
		owner; /* the runtime or the plain thread whose it is; NULL: a channel, or nobody who looks */
};

/**
 * ew_resource_init() - enter a new resource among those that live
 *
 * Called by whoever makes one, before anybody can own it. The line reported for a forgotten one is
 * that of the public call (ew_file_open(), ...), or @site.
 */
EW_API void ew_resource_init(struct ew_resource *resource, const struct ew_resource_type *type,
			     const struct ew_site *site);

/** ew_resource_deinit() - the resource is no more; called by its close or abort before the memory goes */
EW_API void ew_resource_deinit(struct ew_resource *resource);

/**
 * ew_close() - end the resource in a place by name, and see how it went
 * @place: address of the pointer that owns it (struct T **); holds NULL afterwards
 *
 * Suspends:     as the type's close does; shielded, under the type's budget.
 * Cancellation: of the caller is remembered. With the budget spent the resource is aborted.
 * Return:       0, also for an empty place.
 * Errors:       -ECANCELED: aborted instead, no time was left; or anything that the type's close returns.
 */
EW_SUSPENDS EW_API int ew_close(void *place);

/** ew_abort() - end the resource in a place at once; never waits, never fails; NULL afterwards */
EW_API void ew_abort(void *place);

/**
 * ew_adopt() - the resource in a place is the caller's runtime's, or plain thread's, from now on
 * @place: address of the pointer that owns it; an empty one is a no-op
 *
 * For what came from elsewhere in any other way than through a channel: whose it is when its maker's runtime, or
 * thread, ends is aborted then. Does not suspend; never fails.
 */
EW_API void ew_adopt(void *place);

/** ew_ending_error() - first error of an implicit close in this task since the last call; 0: none */
EW_API int ew_ending_error(void);

struct ew_place {
	struct ew_entry entry;
	void *variable;
	const struct ew_site *site;
};

EW_API void ew__place_end(struct ew_place *place);

static inline void ew__place_enter(struct ew_place *place)
{
	ew__entry_enter(&place->entry, EW__ENTRY_PLACE);
}

static inline void ew__place_leave(struct ew_place *place)
{
	void *held;

	__builtin_memcpy(&held, place->variable, sizeof(held));
	if (ew__unlikely(held != NULL))
		ew__place_end(place);
	ew__entry_leave(&place->entry);
}

/**
 * EW_OWN() - declare a place: a variable `struct type *name`, empty, that ends what it holds
 *
 * Moving a resource out is assigning it elsewhere and setting @name to NULL; calls that take one get
 * &name and leave NULL in it. Only calls whose documentation says so may fill it.
 */
#define EW_OWN(type_, name_)                                                                       \
	EW__SITE_OF(name_);                                                                        \
	struct type_ *name_ = NULL;                                                                \
	struct ew_place name_##_place                                                              \
		__attribute__((cleanup(ew__place_leave))) = { .variable = &name_,                  \
							      .site = &ew__site_of_##name_ };      \
	ew__place_enter(&name_##_place)

struct ew_guard {
	struct ew_entry entry;
	void *argument;
	int (*close)(void *argument);
	void (*abort)(void *argument);
	int64_t budget_ns;
	int64_t reserve_ns;
	const struct ew_site *site;
	bool armed;
};

EW_API void ew__guard_enter(struct ew_guard *guard);
EW_API void ew__guard_end(struct ew_guard *guard);

static inline void ew__guard_leave(struct ew_guard *guard)
{
	if (guard->armed)
		ew__guard_end(guard);
	ew__entry_leave(&guard->entry);
}

/**
 * EW_GUARD() - declare an ending that is no resource: a compensation
 *
 *	EW_GUARD(undo, &operation, .close = cancel_at_backend, .abort = presume_ended,
 *		 .budget_ns = 5 * EW_SECOND);
 *
 * Armed from this line; runs on every way out of the block unless disarmed. Both endings are
 * mandatory, with the meaning that struct ew_resource_type gives them.
 */
#define EW_GUARD(name_, argument_, ...)                                                            \
	EW__SITE_OF(name_);                                                                        \
	struct ew_guard name_ __attribute__((cleanup(ew__guard_leave))) = {                        \
		.argument = (argument_), .site = &ew__site_of_##name_, __VA_ARGS__                 \
	};                                                                                         \
	ew__guard_enter(&name_)

/** ew_guard_disarm() - what it would undo stays done; in any order, idempotent */
EW_API void ew_guard_disarm(struct ew_guard *guard);

/**
 * ew_guard_run() - run the guard's ending now, by name, and see how it went; disarms it
 *
 * Suspends, cancellation and return are as of ew_close().
 * Errors:  as ew_close()
 */
EW_SUSPENDS EW_API int ew_guard_run(struct ew_guard *guard);
