/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * Offload: a blocking call, on a thread of the runtime
 */

#include <endwell/base.h>

/**
 * ew_offload() - run @fn(@argument) on a pool thread and wait for it; on a plain thread, on the spot
 * @ret_result: what it returned
 *
 * Cancellation: while it waits for a thread: -ECANCELED, not started. Once started it is waited for,
 *               and its result is returned (0, *@ret_result set).
 * Errors:       -ECANCELED
 */
EW_SUSPENDS EW_API int ew_offload(int (*fn)(void *argument), void *argument, int *ret_result);
