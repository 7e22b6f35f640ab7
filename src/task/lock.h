/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * Lock: for a few instructions that cross threads, never over a suspension
 * The unlocking store is the last touch: the memory may go right after it, which a mutex does not promise.
 */

#include <sched.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

static inline void ew__lock(_Atomic uint32_t *lock)
{
	unsigned tries = 0;

	while (atomic_exchange_explicit(lock, 1, memory_order_acquire))
		while (atomic_load_explicit(lock, memory_order_relaxed))
			if (++tries % 64 == 0)
				sched_yield();
}

static inline bool ew__try_lock(_Atomic uint32_t *lock)
{
	return !atomic_load_explicit(lock, memory_order_relaxed) &&
	       !atomic_exchange_explicit(lock, 1, memory_order_acquire);
}

static inline void ew__unlock(_Atomic uint32_t *lock)
{
	atomic_store_explicit(lock, 0, memory_order_release);
}
