/* SPDX-License-Identifier: Apache-2.0 */

/*
 * The usual bare switch, to compare with: a function that saves the six preserved registers and the stack
 * pointer, and leaves by pop and jmp.
 */

	.text
	.globl	bare_switch
	.type	bare_switch, @function
	.p2align 4
bare_switch:
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
	.size	bare_switch, .-bare_switch

	.section .note.GNU-stack, "", @progbits
