/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * Stacks: reserved large, resident small
 * A stack is EW__STACK_BYTES of address space, the lowest EW__STACK_GUARD_BYTES of it a guard. Only
 * touched pages cost memory.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define EW__STACK_BYTES	      ((size_t)256 * 1024)
#define EW__STACK_GUARD_BYTES ((size_t)64 * 1024)
#define EW__STACKS_PER_SLAB   64
#define EW__STACKS_AT_ONCE    32

struct ew__slab;

struct ew__stack {
	char *bottom; /* lowest usable byte, above the guard */
	char *top;
	struct ew__slab *slab;
	unsigned valgrind_id;
};

/* A stack whose pages read as zero or as its last user left them; -ENOMEM. Any thread. */
int ew__stack_get(struct ew__stack *ret_stack);

/* Gives its pages back to the kernel. Not the one that runs. Any thread. */
void ew__stack_put(struct ew__stack *stack);

/* The same of @count, at most EW__STACKS_AT_ONCE; from kernel 6.16 the other processors are stopped once for all of them. */
void ew__stacks_put(struct ew__stack *stacks, unsigned count);

/* Whether @address lies in a guard; then @ret_top is the top of that stack. Async-signal-safe. */
bool ew__stack_guard_hit(const void *address, char **ret_top);

/* Whether guards are page-table markers (MADV_GUARD_INSTALL, kernel 6.13) and cost no mapping each. */
bool ew__stack_guards_are_markers(void);

/* Most bytes that were ever in use below @top, to a page: mincore(2) on a stack that is not in use. */
size_t ew__stack_high_water(const struct ew__stack *stack);
