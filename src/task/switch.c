/* SPDX-License-Identifier: Apache-2.0 */

/*
 * How a new stack looks before its first switch: the frame that ew__switch() would have left, with
 * the argument in the first preserved register and ew__switch_entry as return address.
 */

#include "task/switch.h"

#include <pthread.h>
#include <stdint.h>

#if defined(__x86_64__)
#define FRAME_WORDS   7 /* r15 r14 r13 r12 rbx rbp, address */
#define FRAME_ARGUMENT 4
#define FRAME_ADDRESS 6
#elif defined(__aarch64__)
#define FRAME_WORDS   20 /* x19..x28, x29, x30, d8..d15 */
#define FRAME_ARGUMENT 0
#define FRAME_ADDRESS 11
#else
#error "no context switch for this processor: see switch_x86_64.S and switch_aarch64.S"
#endif

void ew__context_adopt_thread(struct ew__context *context)
{
#ifdef EW__ASAN
	pthread_attr_t attributes;
	void *bottom;
	size_t bytes;

	pthread_getattr_np(pthread_self(), &attributes);
	pthread_attr_getstack(&attributes, &bottom, &bytes);
	pthread_attr_destroy(&attributes);
	context->stack_bottom = bottom;
	context->stack_bytes = bytes;
#endif
#ifdef EW__TSAN
	context->fiber = __tsan_get_current_fiber();
#endif
	context->sp = NULL;
}

void ew__context_init(struct ew__context *context, void *bottom, void *top, void *argument)
{
	uintptr_t *frame = (uintptr_t *)top - FRAME_WORDS;

	frame[FRAME_ARGUMENT] = (uintptr_t)argument;
	frame[FRAME_ADDRESS] = (uintptr_t)ew__switch_entry;
	context->sp = frame;
#ifdef EW__ASAN
	context->stack_bottom = bottom;
	context->stack_bytes = (size_t)((char *)top - (char *)bottom);
	context->fake_stack = NULL;
#endif
#ifdef EW__TSAN
	context->fiber = __tsan_create_fiber(0);
#endif
#ifdef EW_VALGRIND
	context->valgrind_id = VALGRIND_STACK_REGISTER(bottom, top);
#endif
	(void)bottom;
}

void ew__context_deinit(struct ew__context *context, void *bottom, void *top)
{
#ifdef EW__ASAN
	__asan_unpoison_memory_region(bottom, (size_t)((char *)top - (char *)bottom));
#endif
#ifdef EW__TSAN
	__tsan_destroy_fiber(context->fiber);
#endif
#ifdef EW_VALGRIND
	VALGRIND_STACK_DEREGISTER(context->valgrind_id);
#endif
	(void)context;
	(void)bottom;
	(void)top;
}
