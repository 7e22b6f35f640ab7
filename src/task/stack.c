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
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>
#ifdef EW_VALGRIND
#include <valgrind/memcheck.h>
#endif

#ifndef MADV_GUARD_INSTALL
#define MADV_GUARD_INSTALL 102 /* linux/mman.h, kernel 6.13 */
#endif
#ifndef PIDFD_SELF_THREAD_GROUP
#define PIDFD_SELF_THREAD_GROUP (-10001) /* linux/pidfd.h, kernel 6.14 */
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

static size_t usable_bytes(const struct ew__stack *stack)
{
	return (size_t)(stack->top - stack->bottom);
}

/*
 * That pages have gone each processor is told on which the process runs, and is waited for: where one of them computes
 * that is most of the 12 us that it costs to give back one stack, and 3 us of them are left with eight at once
 * (measured on two processors of a virtual machine, kernel 6.18).
 */
static bool give_back_at_once(const struct ew__stack *stacks, unsigned count)
{
	struct iovec ranges[EW__STACKS_AT_ONCE];
	size_t bytes = 0;
	unsigned i;

#ifdef EW_VALGRIND
	/* 3.19 does not know the call, and says so. */
	if (RUNNING_ON_VALGRIND)
		return false;
#endif
	for (i = 0; i < count; i++) {
		ranges[i] = (struct iovec){ stacks[i].bottom, usable_bytes(&stacks[i]) };
		bytes += ranges[i].iov_len;
	}
	return syscall(SYS_process_madvise, PIDFD_SELF_THREAD_GROUP, ranges, (size_t)count,
		       MADV_DONTNEED, 0) == (long)bytes;
}

static void give_back(const struct ew__stack *stacks, unsigned count)
{
	unsigned i;

	if (count > 1 && ew__kernel_at_least(6, 16) && give_back_at_once(stacks, count))
		return;
	for (i = 0; i < count; i++)
		madvise(stacks[i].bottom, usable_bytes(&stacks[i]), MADV_DONTNEED);
}

/* The caller holds the lock. */
static void put(const struct ew__stack *stack)
{
	struct ew__slab *slab = stack->slab;
	size_t index = (size_t)(stack->top - slab->base) / EW__STACK_BYTES - 1;

	slab->free[slab->free_count++] = (uint8_t)index;
	if (slab->free_count == 1 && !ew__bug("full-slab-stays-unlisted")) {
		slab->next = pool.with_free;
		pool.with_free = slab;
	}
}

void ew__stacks_put(struct ew__stack *stacks, unsigned count)
{
	unsigned i;

#ifdef EW_VALGRIND
	for (i = 0; i < count; i++)
		VALGRIND_STACK_DEREGISTER(stacks[i].valgrind_id);
#endif
	if (!ew__bug("stack-keeps-its-pages"))
		give_back(stacks, count);
	ew__lock(&pool.lock);
	for (i = 0; i < count; i++)
		put(&stacks[i]);
	ew__unlock(&pool.lock);
}

void ew__stack_put(struct ew__stack *stack)
{
	ew__stacks_put(stack, 1);
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
	size_t bytes = usable_bytes(stack), page = (size_t)sysconf(_SC_PAGESIZE), i;
	unsigned char resident[(EW__STACK_BYTES - EW__STACK_GUARD_BYTES) / 4096];

	if (mincore(stack->bottom, bytes, resident) < 0)
		return 0;
	for (i = 0; i < bytes / page && !(resident[i] & 1); i++)
		;
	return bytes - i * page;
}
