/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Stacks come in slabs: one mapping of 64 stacks. From kernel 6.13 a guard is a marker in the page table
 * (MADV_GUARD_INSTALL), so a slab stays one mapping and a million stacks do not exhaust
 * vm.max_map_count. Before that, mprotect splits the mapping in two for each stack: about 32,000 stacks.
 *
 * Slabs are never unmapped: another runtime of the same process uses them again. The handler that reports an
 * overflow finds the stack of an address in a table of slabs that only grows.
 */

#include "task/stack.h"

#include "seeded/bug.h"
#include "task/kernel.h"
#include "task/lock.h"

#include <endwell/base.h>
#include <errno.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>
#ifdef EW_VALGRIND
#include <valgrind/memcheck.h>
#endif

#ifndef MADV_GUARD_INSTALL
#define MADV_GUARD_INSTALL 102 /* linux/mman.h, kernel 6.13 */
#endif

#define SLAB_BYTES (EW__STACK_BYTES * EW__STACKS_PER_SLAB)
#define SLABS_MAX  65536 /* four million stacks */

struct ew__slab {
	struct ew__slab *next; /* with free stacks */
	char *base;
	uint32_t free_count;
	uint8_t free[EW__STACKS_PER_SLAB];
};

static struct {
	_Atomic uint32_t lock;
	struct ew__slab *with_free;
	_Atomic uint32_t slabs_count;
	char *_Atomic base[SLABS_MAX];
	_Atomic int markers; /* 0 not known yet, 1 yes, -1 no */
} pool;

static int install_guard(char *guard)
{
	int markers = atomic_load_explicit(&pool.markers, memory_order_relaxed);

	if (ew__bug("stack-without-a-guard"))
		return 0;
	if (markers == 0)
		markers = ew__kernel_at_least(6, 13) ? 1 : -1;
	if (markers > 0) {
		if (madvise(guard, EW__STACK_GUARD_BYTES, MADV_GUARD_INSTALL) == 0) {
			atomic_store_explicit(&pool.markers, 1, memory_order_relaxed);
			return 0;
		}
		if (errno != EINVAL)
			return -errno;
	}
	atomic_store_explicit(&pool.markers, -1, memory_order_relaxed);
	return mprotect(guard, EW__STACK_GUARD_BYTES, PROT_NONE) < 0 ? -errno : 0;
}

/* The caller holds the lock. */
static int add_slab(void)
{
	uint32_t count = atomic_load_explicit(&pool.slabs_count, memory_order_relaxed), i;
	struct ew__slab *slab;
	char *base;

	if (count == SLABS_MAX)
		return -ENOMEM;
	slab = malloc(sizeof(*slab));
	if (!slab)
		return -ENOMEM;
	base = mmap(NULL, SLAB_BYTES, PROT_READ | PROT_WRITE,
		    MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_STACK, -1, 0);
	if (base == MAP_FAILED) {
		free(slab);
		return -ENOMEM;
	}
	for (i = 0; i < EW__STACKS_PER_SLAB; i++) {
		if (install_guard(base + i * EW__STACK_BYTES) < 0) {
			munmap(base, SLAB_BYTES);
			free(slab);
			return -ENOMEM;
		}
		slab->free[EW__STACKS_PER_SLAB - 1 - i] = (uint8_t)i;
	}
	slab->base = base;
	slab->free_count = EW__STACKS_PER_SLAB;
	slab->next = pool.with_free;
	pool.with_free = slab;
	atomic_store_explicit(&pool.base[count], base, memory_order_relaxed);
	atomic_store_explicit(&pool.slabs_count, count + 1, memory_order_release);
	return 0;
}

int ew__stack_get(struct ew__stack *ret_stack)
{
	struct ew__slab *slab;
	int r = 0;

	ew__lock(&pool.lock);
	if (!pool.with_free)
		r = add_slab();
	if (r == 0) {
		slab = pool.with_free;
		ret_stack->top =
			slab->base + (slab->free[--slab->free_count] + 1) * EW__STACK_BYTES;
		ret_stack->bottom = ret_stack->top - EW__STACK_BYTES + EW__STACK_GUARD_BYTES;
		ret_stack->slab = slab;
		if (slab->free_count == 0)
			pool.with_free = slab->next;
	}
	ew__unlock(&pool.lock);
#ifdef EW_VALGRIND
	/* Else a jump of the stack pointer looks like a huge frame, and what the frames before have left like no memory. */
	if (r == 0) {
		ret_stack->valgrind_id = VALGRIND_STACK_REGISTER(ret_stack->bottom, ret_stack->top);
		VALGRIND_MAKE_MEM_UNDEFINED(ret_stack->bottom, ret_stack->top - ret_stack->bottom);
	}
#endif
	return r;
}

void ew__stack_put(struct ew__stack *stack)
{
	struct ew__slab *slab = stack->slab;
	size_t index = (size_t)(stack->top - slab->base) / EW__STACK_BYTES - 1;

#ifdef EW_VALGRIND
	VALGRIND_STACK_DEREGISTER(stack->valgrind_id);
#endif
	if (!ew__bug("stack-keeps-its-pages"))
		madvise(stack->bottom, (size_t)(stack->top - stack->bottom), MADV_DONTNEED);
	ew__lock(&pool.lock);
	slab->free[slab->free_count++] = (uint8_t)index;
	if (slab->free_count == 1 && !ew__bug("full-slab-stays-unlisted")) {
		slab->next = pool.with_free;
		pool.with_free = slab;
	}
	ew__unlock(&pool.lock);
}

bool ew__stack_guard_hit(const void *address, char **ret_top)
{
	uint32_t count = atomic_load_explicit(&pool.slabs_count, memory_order_acquire), i;
	uintptr_t at = (uintptr_t)address, base, offset;

	for (i = 0; i < count; i++) {
		base = (uintptr_t)atomic_load_explicit(&pool.base[i], memory_order_relaxed);
		if (at < base || at - base >= SLAB_BYTES)
			continue;
		offset = (at - base) % EW__STACK_BYTES;
		if (offset >= EW__STACK_GUARD_BYTES)
			return false;
		*ret_top = (char *)(at - offset) + EW__STACK_BYTES;
		return true;
	}
	return false;
}

bool ew__stack_guards_are_markers(void)
{
	return atomic_load_explicit(&pool.markers, memory_order_relaxed) > 0;
}

size_t ew__stack_high_water(const struct ew__stack *stack)
{
	size_t bytes = (size_t)(stack->top - stack->bottom), page = (size_t)sysconf(_SC_PAGESIZE),
	       i;
	unsigned char resident[(EW__STACK_BYTES - EW__STACK_GUARD_BYTES) / 4096];

	if (mincore(stack->bottom, bytes, resident) < 0)
		return 0;
	for (i = 0; i < bytes / page && !(resident[i] & 1); i++)
		;
	return bytes - i * page;
}
