/* SPDX-License-Identifier: Apache-2.0 */

/*
 * x86-64, System V ABI: six registers and the stack pointer. Leaves by pop and jmp: after a change of
 * stack the return predictor is always wrong, and ret costs three times as much.
 */

	.text
	.globl	ew__switch
	.hidden	ew__switch
	.type	ew__switch, @function
	.p2align 4
ew__switch:
	.cfi_startproc
	pushq	%rbp
	pushq	%rbx
	pushq	%r12
	pushq	%r13
	pushq	%r14
	pushq	%r15
	movq	%rsp, (%rdi)
	movq	%rsi, %rsp
	popq	%r15
	popq	%r14
	popq	%r13
	popq	%r12
	popq	%rbx
	popq	%rbp
	popq	%rcx
	jmp	*%rcx
	.cfi_endproc
	.size	ew__switch, .-ew__switch

	.globl	ew__switch_entry
	.hidden	ew__switch_entry
	.type	ew__switch_entry, @function
	.p2align 4
ew__switch_entry:
	.cfi_startproc
	.cfi_undefined rip
	xorl	%ebp, %ebp
	movq	%rbx, %rdi
	call	ew__task_main
	ud2
	.cfi_endproc
	.size	ew__switch_entry, .-ew__switch_entry

	.section .note.GNU-stack, "", @progbits
