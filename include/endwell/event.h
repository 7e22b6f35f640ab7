/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * Event: something has happened, once
 * Set by any thread; waited for by tasks of any worker.
 */

#include <endwell/private.h>

/** struct ew_event - caller's memory; zero-initialised is "not set" */
struct ew_event {
	_Atomic uint32_t lock;
	bool set;
	struct ew_waiter *first;
	struct ew_waiter *last;
};

/**
 * ew_event_set() - wake all that wait now or later; from any thread, idempotent
 *
 * The event's memory is not touched any more when a waiter returns, so the waiter may free it.
 */
EW_API void ew_event_set(struct ew_event *event);

/** ew_event_reset() - wait again; not while somebody waits */
EW_API void ew_event_reset(struct ew_event *event);

EW_API bool ew_event_is_set(struct ew_event *event);

/**
 * ew_event_wait() - wait until it is set
 * Errors:  -ETIMEDOUT, -ECANCELED; a set event wins over a timeout, and over a cancel that arrives while waiting
 */
EW_SUSPENDS EW_API int ew_event_wait(struct ew_event *event, int64_t deadline_ns);
