/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * Context switch: from one stack to another
 * Saves the registers that the ABI wants preserved, but not the floating-point control modes, which are the
 * thread's; tells the sanitizers, jumps.
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
};

/*
 * Leaves this stack, its pointer in *@save, and goes on where @to was left. Inline, and by a jump: the
 * compiler saves what is live, and the processor's return predictor, which a call and a return on two
 * stacks would always mislead, stays in step (measured: 7 ns a yield against 26).
 */
static inline void ew__switch(void **save, void *to)
{
#if defined(__x86_64__)
	__asm__ volatile("pushq %%rbp\n\t" /* there is no red zone: -mno-red-zone */
			 "leaq 1f(%%rip), %%rax\n\t"
			 "pushq %%rax\n\t"
			 "movq %%rsp, (%[save])\n\t"
			 "movq %[to], %%rsp\n\t"
			 "popq %%rax\n\t"
			 "jmpq *%%rax\n\t"
			 "1:\n\t"
			 "popq %%rbp"
			 : [save] "+D"(save), [to] "+S"(to)
			 :
			 : "rax", "rbx", "rcx", "rdx", "r8", "r9", "r10", "r11", "r12", "r13",
			   "r14", "r15", "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6",
			   "xmm7", "xmm8", "xmm9", "xmm10", "xmm11", "xmm12", "xmm13", "xmm14",
			   "xmm15", "memory", "cc");
#elif defined(__aarch64__)
	register void **save_in __asm__("x0") = save;
	register void *to_in __asm__("x1") = to;

	__asm__ volatile("adr x9, 1f\n\t"
			 "stp x29, x9, [sp, #-16]!\n\t"
			 "mov x10, sp\n\t"
			 "str x10, [x0]\n\t"
			 "mov sp, x1\n\t"
			 "ldp x29, x9, [sp], #16\n\t"
			 "br x9\n\t"
			 "1:\n\t"
			 "hint #36" /* bti j */
			 : "+r"(save_in), "+r"(to_in)
			 :
			 : "x2", "x3", "x4", "x5", "x6", "x7", "x8", "x9", "x10", "x11", "x12",
			   "x13", "x14", "x15", "x16", "x17", "x19", "x20", "x21", "x22", "x23",
			   "x24", "x25", "x26", "x27", "x28", "x30", "v0", "v1", "v2", "v3", "v4",
			   "v5", "v6", "v7", "v8", "v9", "v10", "v11", "v12", "v13", "v14", "v15",
			   "v16", "v17", "v18", "v19", "v20", "v21", "v22", "v23", "v24", "v25",
			   "v26", "v27", "v28", "v29", "v30", "v31", "memory", "cc");
#else
#error "no context switch for this processor"
#endif
}

/* switch_*.S: first code on a new stack; goes to what ew__context_init() was given. */
void ew__switch_entry(void);

/* The context of the calling thread's own stack. */
void ew__context_adopt_thread(struct ew__context *context);

/* Tells the sanitizers of a new stack, and that it has been left for good. */
void ew__context_announce(struct ew__context *context, void *bottom, void *top);
void ew__context_retire(struct ew__context *context, void *bottom, void *top);

/* A new context that will go to @main, which never returns, on [@bottom, @top). @top is 16-byte aligned. */
static inline void ew__context_init(struct ew__context *context, void *bottom, void *top,
				    void (*main)(void))
{
	void **frame = top;

#if defined(__x86_64__)
	frame -= 2;
	frame[0] = (void *)ew__switch_entry;
	frame[1] = (void *)main;
#elif defined(__aarch64__)
	frame -= 4;
	frame[0] = NULL;
	frame[1] = (void *)ew__switch_entry;
	frame[2] = (void *)main;
#endif
	context->sp = frame;
	(void)bottom;
#if defined(EW__ASAN) || defined(EW__TSAN)
	ew__context_announce(context, bottom, top);
#endif
}

/* The context has been left for good; its stack may be used for another after this. */
static inline void ew__context_deinit(struct ew__context *context, void *bottom, void *top)
{
	(void)context;
	(void)bottom;
	(void)top;
#if defined(EW__ASAN) || defined(EW__TSAN)
	ew__context_retire(context, bottom, top);
#endif
}

/*
 * @last: no variable of @from's frames is needed any more. It may be switched to again, and goes on in the frame
 * that calls.
 */
static inline void ew__context_switch(struct ew__context *from, struct ew__context *to, int last)
{
#ifdef EW__ASAN
	from->fake_stack = NULL; /* stays so if it is destroyed */
	__sanitizer_start_switch_fiber(last ? NULL : &from->fake_stack, to->stack_bottom,
				       to->stack_bytes);
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
