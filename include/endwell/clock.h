/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * Time: monotonic nanoseconds
 * All deadlines of the library are absolute values of this clock.
 */

#include <endwell/base.h>

/**
 * ew_now() - the monotonic clock, in nanoseconds
 *
 * In the tasks of a runtime that was started with virtual time this is the virtual time; other threads,
 * those of its pool included, see the real one.
 * Source: CLOCK_MONOTONIC, clock_gettime(2); 19 ns a call.
 */
EW_API int64_t ew_now(void);

/** ew_after() - the deadline that lies @duration_ns from now; saturates at EW_NEVER */
EW_API int64_t ew_after(int64_t duration_ns);
