/* SPDX-License-Identifier: Apache-2.0 */

/*
 * What the sanitizers must know of stacks: AddressSanitizer which one is in use, ThreadSanitizer that each is
 * like a thread.
 */

#include "task/switch.h"

#include <pthread.h>

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

void ew__context_announce(struct ew__context *context, void *bottom, void *top)
{
#ifdef EW__ASAN
	context->stack_bottom = bottom;
	context->stack_bytes = (size_t)((char *)top - (char *)bottom);
	context->fake_stack = NULL;
#endif
#ifdef EW__TSAN
	context->fiber = __tsan_create_fiber(0);
#endif
	(void)context;
	(void)bottom;
	(void)top;
}

void ew__context_retire(struct ew__context *context, void *bottom, void *top)
{
#ifdef EW__ASAN
	__asan_unpoison_memory_region(bottom, (size_t)((char *)top - (char *)bottom));
#endif
#ifdef EW__TSAN
	__tsan_destroy_fiber(context->fiber);
#endif
	(void)context;
	(void)bottom;
	(void)top;
}
