/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * Context switch: from one stack to another
 * Saves what the ABI wants preserved, tells the sanitizers, jumps.
 */

#include <stddef.h>

#if defined(__SANITIZE_ADDRESS__)
#define EW__ASAN 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define EW__ASAN 1
#endif
#endif
#if defined(__SANITIZE_THREAD__)
#define EW__TSAN 1
#elif defined(__has_feature)
#if __has_feature(thread_sanitizer)
#define EW__TSAN 1
#endif
#endif

#ifdef EW__ASAN
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif
#ifdef EW__TSAN
#include <sanitizer/tsan_interface.h>
#endif
#ifdef EW_VALGRIND
#include <valgrind/memcheck.h>
#include <valgrind/valgrind.h>
#endif

struct ew__context {
	void *sp;
#ifdef EW__ASAN
	void *fake_stack;
	const void *stack_bottom;
	size_t stack_bytes;
#endif
#ifdef EW__TSAN
	void *fiber;
#endif
#ifdef EW_VALGRIND
	unsigned valgrind_id;
#endif
};

/* switch_*.S: pushes the preserved registers, stores the stack pointer in *@save, continues at @to. */
void ew__switch(void **save, void *to);

/* switch_*.S: first code on a new stack; calls ew__task_main() with what ew__context_init() was given. */
void ew__switch_entry(void);

/* The context of the calling thread's own stack. */
void ew__context_adopt_thread(struct ew__context *context);

/* A new context that will call ew__task_main(@argument) on [@bottom, @top). @top is 16-byte aligned. */
void ew__context_init(struct ew__context *context, void *bottom, void *top, void *argument);

/* The context has been left for good; its memory may be used for another after this. */
void ew__context_deinit(struct ew__context *context, void *bottom, void *top);

/* @last: @from is never switched to again. */
static inline void ew__context_switch(struct ew__context *from, struct ew__context *to, int last)
{
#ifdef EW__ASAN
	__sanitizer_start_switch_fiber(last ? NULL : &from->fake_stack, to->stack_bottom, to->stack_bytes);
#endif
#ifdef EW__TSAN
	__tsan_switch_to_fiber(to->fiber, 0);
#endif
	(void)last;
	ew__switch(&from->sp, to->sp);
#ifdef EW__ASAN
	__sanitizer_finish_switch_fiber(from->fake_stack, NULL, NULL);
#endif
}

/* Called first thing on a new stack. */
static inline void ew__context_entered(void)
{
#ifdef EW__ASAN
	__sanitizer_finish_switch_fiber(NULL, NULL, NULL);
#endif
}
