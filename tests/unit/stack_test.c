/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Stacks, by hand: distinct, guarded, given back. The kernel before 6.13 is stood in for by EW_KERNEL, which must be
 * set before the first question; each test is a process of its own.
 */

#include "io.h"
#include "task/kernel.h"
#include "task/stack.h"

#include <sys/mman.h>
#include <sys/syscall.h>

#define MANY 200

static int compare(const void *a, const void *b)
{
	const char *const *one = a, *const *other = b;

	return *one < *other ? -1 : *one > *other;
}

/* Writes both ends of each, so that an overlap would destroy a neighbour's mark. */
TEST(stack_many_do_not_overlap)
{
	static struct ew__stack stacks[MANY];
	unsigned i;

	for (i = 0; i < MANY; i++) {
		EXPECT_EQ(ew__stack_get(&stacks[i]), 0);
		EXPECT_EQ(stacks[i].top - stacks[i].bottom,
			  EW__STACK_BYTES - EW__STACK_GUARD_BYTES);
		memset(stacks[i].bottom, (int)i, 64);
		memset(stacks[i].top - 64, (int)i, 64);
	}
	for (i = 0; i < MANY; i++) {
		EXPECT_EQ((unsigned char)stacks[i].bottom[63], (unsigned char)i);
		EXPECT_EQ((unsigned char)stacks[i].top[-1], (unsigned char)i);
	}
	for (i = 0; i < MANY; i++)
		ew__stack_put(&stacks[i]);
}

/* The second round must find exactly the addresses of the first. */
TEST(stack_put_is_used_again)
{
	static struct ew__stack stacks[MANY];
	static char *first[MANY], *second[MANY];
	unsigned i;

	for (i = 0; i < 2 * EW__STACKS_PER_SLAB; i++) {
		EXPECT_EQ(ew__stack_get(&stacks[i]), 0);
		first[i] = stacks[i].top;
	}
	for (i = 0; i < 2 * EW__STACKS_PER_SLAB; i++)
		ew__stack_put(&stacks[i]);
	for (i = 0; i < 2 * EW__STACKS_PER_SLAB; i++) {
		EXPECT_EQ(ew__stack_get(&stacks[i]), 0);
		second[i] = stacks[i].top;
	}
	qsort(first, 2 * EW__STACKS_PER_SLAB, sizeof(first[0]), compare);
	qsort(second, 2 * EW__STACKS_PER_SLAB, sizeof(second[0]), compare);
	EXPECT_EQ(memcmp(first, second, 2 * EW__STACKS_PER_SLAB * sizeof(first[0])), 0);
}

TEST(stack_put_gives_its_pages_back)
{
	struct ew__stack stack;

	EXPECT_EQ(ew__stack_get(&stack), 0);
	memset(stack.top - 100 * 1024, 1, 100 * 1024);
	EXPECT(ew__stack_high_water(&stack) >= 100 * 1024);
	ew__stack_put(&stack);
	EXPECT_EQ(ew__stack_high_water(&stack), 0);
}

static void give_many_back(void)
{
	struct ew__stack stacks[EW__STACKS_AT_ONCE];
	unsigned i;

	for (i = 0; i < EW__STACKS_AT_ONCE; i++) {
		EXPECT_EQ(ew__stack_get(&stacks[i]), 0);
		memset(stacks[i].top - 100 * 1024, 1, 100 * 1024);
	}
	ew__stacks_put(stacks, EW__STACKS_AT_ONCE);
	for (i = 0; i < EW__STACKS_AT_ONCE; i++)
		EXPECT_EQ(ew__stack_high_water(&stacks[i]), 0);
}

TEST(stack_many_put_at_once_give_their_pages_back)
{
	give_many_back();
}

TEST(stack_many_put_at_once_give_their_pages_back_before_6_16)
{
	setenv("EW_KERNEL", "6.1", 1);
	give_many_back();
}

TEST(stack_many_put_at_once_give_their_pages_back_where_that_is_refused)
{
	refuse_call(SYS_process_madvise, EPERM);
	give_many_back();
}

TEST(stack_high_water_is_what_was_touched)
{
	struct ew__stack stack;

	EXPECT_EQ(ew__stack_get(&stack), 0);
	stack.top[-1] = 1;
	EXPECT_EQ(ew__stack_high_water(&stack), 4096);
	stack.top[-20 * 4096] = 1;
	EXPECT_EQ(ew__stack_high_water(&stack), 20 * 4096);
	ew__stack_put(&stack);
}

TEST(stack_guard_hit_names_the_stack_above)
{
	struct ew__stack stack;
	char *top = NULL;

	EXPECT_EQ(ew__stack_get(&stack), 0);
	EXPECT(ew__stack_guard_hit(stack.bottom - 1, &top));
	EXPECT(top == stack.top);
	top = NULL;
	EXPECT(ew__stack_guard_hit(stack.bottom - EW__STACK_GUARD_BYTES, &top));
	EXPECT(top == stack.top);
	EXPECT(!ew__stack_guard_hit(stack.bottom, &top));
	EXPECT(!ew__stack_guard_hit(stack.top - 1, &top));
	EXPECT(!ew__stack_guard_hit(&top, &top));
	EXPECT(!ew__stack_guard_hit(NULL, &top));
}

static void write_into_guards(void)
{
	struct ew__stack stack;

	signal(SIGSEGV, SIG_DFL);
	if (ew__stack_get(&stack) == 0)
		*(volatile char *)(stack.bottom - 1) = 1;
}

static void write_into_far_guard(void)
{
	struct ew__stack stack;

	signal(SIGSEGV, SIG_DFL);
	if (ew__stack_get(&stack) == 0)
		*(volatile char *)(stack.bottom - EW__STACK_GUARD_BYTES) = 1;
}

static void expect_guards_to_fault(void)
{
	struct ended near_end = run_process(write_into_guards),
		     far_end = run_process(write_into_far_guard);

	EXPECT(WIFSIGNALED(near_end.status) && WTERMSIG(near_end.status) == SIGSEGV);
	EXPECT(WIFSIGNALED(far_end.status) && WTERMSIG(far_end.status) == SIGSEGV);
}

TEST(stack_guard_by_marker_faults)
{
	struct ew__stack stack;

	EXPECT_EQ(ew__stack_get(&stack), 0);
	if (!ew__stack_guards_are_markers())
		SKIP("this kernel has no MADV_GUARD_INSTALL (6.13)");
	expect_guards_to_fault();
}

TEST(stack_guard_by_mprotect_faults)
{
	struct ew__stack stack;

	setenv("EW_KERNEL", "6.1", 1);
	EXPECT_EQ(ew__stack_get(&stack), 0);
	EXPECT(!ew__stack_guards_are_markers());
	expect_guards_to_fault();
}

static void *get_and_put(void *argument)
{
	struct ew__stack stacks[8];
	unsigned round, i;

	(void)argument;
	for (round = 0; round < 500; round++) {
		for (i = 0; i < 8; i++) {
			EXPECT_EQ(ew__stack_get(&stacks[i]), 0);
			stacks[i].top[-1] = (char)i;
			stacks[i].top[-2] = (char)round;
		}
		for (i = 0; i < 8; i++) {
			EXPECT_EQ(stacks[i].top[-1], (char)i);
			EXPECT_EQ(stacks[i].top[-2], (char)round);
			ew__stack_put(&stacks[i]);
		}
	}
	return NULL;
}

TEST(stack_threads_share_slabs)
{
	pthread_t threads[4];
	unsigned i;

	for (i = 0; i < 4; i++)
		EXPECT_EQ(pthread_create(&threads[i], NULL, get_and_put, NULL), 0);
	for (i = 0; i < 4; i++)
		EXPECT_EQ(pthread_join(threads[i], NULL), 0);
}

TEST(kernel_by_environment_hides_newer_ones)
{
	setenv("EW_KERNEL", "6.1", 1);
	EXPECT(ew__kernel_at_least(6, 1));
	EXPECT(ew__kernel_at_least(5, 19));
	EXPECT(!ew__kernel_at_least(6, 2));
	EXPECT(!ew__kernel_at_least(7, 0));
	EXPECT_STR(ew__kernel_name(), "6.1 (by EW_KERNEL)");
}

TEST(kernel_by_environment_cannot_pretend_a_newer_one)
{
	setenv("EW_KERNEL", "999.0", 1);
	EXPECT(!ew__kernel_at_least(999, 0));
	EXPECT(!strstr(ew__kernel_name(), "EW_KERNEL"));
}

TEST(kernel_environment_that_is_no_version_is_ignored)
{
	setenv("EW_KERNEL", "old", 1);
	EXPECT(ew__kernel_at_least(5, 0));
	EXPECT(!strstr(ew__kernel_name(), "EW_KERNEL"));
}

TEST_MAIN()
