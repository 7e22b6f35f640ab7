/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * Rate: a token bucket, one for the whole process
 * Tokens come at a steady rate until the bucket is full, and are used up, not given back.
 *
 * First come, first served across all workers: who asks for little does not overtake one who asks for much. In any
 * time T no more than burst + per_second * T tokens are due. A task that runs later than its tokens were due (the
 * timing wheel's tick, a busy worker) does not slow down those behind it, so the average is kept, as long as what
 * comes in meanwhile fits into the bucket.
 */

#include <endwell/private.h>

struct ew_rate;

/**
 * ew_rate_new() - make a bucket that is full
 * @per_second:  tokens that come in a second; at least 1
 * @burst:       tokens that the bucket holds; at least 1
 * @waiting_max: tasks that may wait; one more is refused
 * Return:       NULL without memory. Acquiring needs none.
 */
EW_API struct ew_rate *ew_rate_new(unsigned per_second, unsigned burst, unsigned waiting_max);

/** ew_rate_free() - NULL is a no-op; nobody may be waiting */
EW_API void ew_rate_free(struct ew_rate *rate);

/**
 * ew_rate_acquire() - wait in line until so many tokens are there, and use them up
 * @count: tokens; no more than the bucket holds
 *
 * Suspends:     until it is first in line and the tokens are there.
 * Cancellation: tokens that are due when a cancel arrives are used up: the cancel comes at the next suspension.
 * Return:       0: they are used up
 * Errors:       -EINVAL more than the bucket ever holds, -EAGAIN the waiting room is full, -ETIMEDOUT, -ECANCELED: no
 *               token was used. The first in line is told -ETIMEDOUT as soon as it is sure: who cannot be served by its
 *               deadline holds up nobody behind it, and takes up no room.
 */
EW_SUSPENDS EW_API int ew_rate_acquire(struct ew_rate *rate, unsigned count, int64_t deadline_ns);

/** ew_rate_try_acquire() - never waits, from any thread; as ew_rate_acquire(), or -EAGAIN: too few, or others wait */
EW_MUST_CHECK EW_API int ew_rate_try_acquire(struct ew_rate *rate, unsigned count);
