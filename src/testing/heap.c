/* SPDX-License-Identifier: Apache-2.0 */

/*
 * glibc calls malloc() and its kin by their public names, also for itself, and keeps its own under other names. All of
 * them are here, since a block that one of them made is freed by the same free().
 *
 * Which allocations fail: those of tasks of the scenario, on the thread of the sweep. What a thread of the pool or the
 * end of the runtime allocates has nobody to tell.
 */

#include "testing/heap.h"

#include "driver/sim/sim.h"
#include "scope/cancel.h"

#include <dlfcn.h>
#include <malloc.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>

#define NONE UINT32_MAX

static _Atomic int64_t blocks;

static __thread struct {
	bool counting;
	bool and_all_after;
	bool has_failed;
	uint32_t first;
	uint32_t count;
	void *caller;
} plan;

int64_t ew__heap_blocks(void)
{
	return atomic_load_explicit(&blocks, memory_order_relaxed);
}

void ew__heap_fail_from(uint32_t first, bool and_all_after)
{
	plan.count = 0;
	plan.first = first;
	plan.and_all_after = and_all_after;
	plan.has_failed = false;
	plan.counting = true;
}

void ew__heap_count(void)
{
	ew__heap_fail_from(NONE, false);
}

void ew__heap_count_no_more(void)
{
	plan.counting = false;
}

uint32_t ew__heap_counted(void)
{
	return plan.count;
}

bool ew__heap_has_failed(void)
{
	return plan.has_failed;
}

void ew__heap_describe_failed(char *what, size_t what_bytes)
{
	Dl_info info;

	if (plan.has_failed && dladdr(plan.caller, &info) && info.dli_fname)
		snprintf(what, what_bytes, "%s+%#zx", info.dli_fname,
			 (size_t)((char *)plan.caller - (char *)info.dli_fbase));
	else
		snprintf(what, what_bytes, "an unknown place");
}

#if EW__HEAP_IS_COUNTED

/* A program with an allocator of its own keeps it, and nothing is counted. */
#define REPLACES EW_API __attribute__((weak))
#define CALLER	 __builtin_return_address(0)

void *__libc_malloc(size_t size);
void *__libc_calloc(size_t count, size_t size);
void *__libc_realloc(void *block, size_t size);
void *__libc_memalign(size_t alignment, size_t size);
void __libc_free(void *block);

static bool is_to_fail(void *caller)
{
	uint32_t number;

	if (!plan.counting || ew__sim_allocating || !ew__current ||
	    (ew__current->refuse & EW__REFUSE_SWEPT) != EW__REFUSE_SWEEP)
		return false;
	number = plan.count++;
	if (number != plan.first && !(plan.and_all_after && number > plan.first))
		return false;
	if (!plan.has_failed)
		plan.caller = caller;
	plan.has_failed = true;
	errno = ENOMEM;
	return true;
}

static void *counted(void *block)
{
	if (block)
		atomic_fetch_add_explicit(&blocks, 1, memory_order_relaxed);
	return block;
}

REPLACES void *malloc(size_t size)
{
	return is_to_fail(CALLER) ? NULL : counted(__libc_malloc(size));
}

REPLACES void *calloc(size_t count, size_t size)
{
	return is_to_fail(CALLER) ? NULL : counted(__libc_calloc(count, size));
}

REPLACES void *realloc(void *block, size_t size)
{
	if (!block)
		return malloc(size);
	if (size == 0) {
		free(block);
		return NULL;
	}
	return is_to_fail(CALLER) ? NULL : __libc_realloc(block, size);
}

REPLACES void *memalign(size_t alignment, size_t size)
{
	return is_to_fail(CALLER) ? NULL : counted(__libc_memalign(alignment, size));
}

REPLACES void *aligned_alloc(size_t alignment, size_t size)
{
	return memalign(alignment, size);
}

REPLACES int posix_memalign(void **ret_block, size_t alignment, size_t size)
{
	void *block;

	if (alignment % sizeof(void *) != 0 || (alignment & (alignment - 1)) != 0 || alignment == 0)
		return EINVAL;
	block = memalign(alignment, size);
	if (!block)
		return ENOMEM;
	*ret_block = block;
	return 0;
}

REPLACES void *valloc(size_t size)
{
	return memalign(4096, size);
}

REPLACES void free(void *block)
{
	if (block)
		atomic_fetch_sub_explicit(&blocks, 1, memory_order_relaxed);
	__libc_free(block);
}

#endif
