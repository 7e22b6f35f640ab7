/* SPDX-License-Identifier: Apache-2.0 */

/*
 * aarch64: first code on a new stack, which holds the function to go to. Jumps instead of calling: it never
 * returns, and a call without a return would put the processor's return predictor out of step.
 */

	.text
	.globl	ew__switch_entry
	.hidden	ew__switch_entry
	.type	ew__switch_entry, %function
	.p2align 4
ew__switch_entry:
	.cfi_startproc
	.cfi_undefined x30
	hint	#36 /* bti j */
	ldr	x16, [sp], #16
	mov	x29, xzr
	mov	x30, xzr
	br	x16
	.cfi_endproc
	.size	ew__switch_entry, .-ew__switch_entry

	.section .note.GNU-stack, "", %progbits
