/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * What sweeps with TLS share: the memory that OpenSSL has, and the modes that its threads allow
 */

#include "sweep.h"
#include "unit/tls.h"

#include "testing/heap.h"

/*
 * OpenSSL has memory of its own here, of which none is refused: it is not our subject how it takes that, and does not
 * always give back what it had then. How many blocks it has must be the same after each run.
 */
static _Atomic int tls_blocks;
static int tls_blocks_before;

#if EW__HEAP_IS_COUNTED

void *__libc_malloc(size_t size);
void *__libc_realloc(void *block, size_t size);
void __libc_free(void *block);

static void *tls_malloc(size_t size, const char *file, int line)
{
	(void)file;
	(void)line;
	tls_blocks++;
	return __libc_malloc(size);
}

static void tls_free_block(void *block, const char *file, int line)
{
	(void)file;
	(void)line;
	if (block)
		tls_blocks--;
	__libc_free(block);
}

static void *tls_realloc(void *block, size_t size, const char *file, int line)
{
	if (!block)
		return tls_malloc(size, file, line);
	if (size > 0)
		return __libc_realloc(block, size);
	tls_free_block(block, file, line);
	return NULL;
}

static void count_tls_blocks(void)
{
	EXPECT_EQ(CRYPTO_set_mem_functions(tls_malloc, tls_realloc, tls_free_block), 1);
}

#else

static void count_tls_blocks(void)
{
}

#endif

static const char *check_tls(void *argument)
{
	const char *wrong = check_book(argument);

	return wrong ? wrong : tls_blocks == tls_blocks_before ? NULL : "OpenSSL has kept memory";
}

/*
 * Whether a step of a handshake needs one more thread, with the blocks that it is made of, is not always the same. So no
 * allocation fails where there are threads; nor is each point forced after each other, which the simulated world has.
 */
#define MODES_WITH_THREADS                                                                         \
	(1u << EW_SWEEP_CANCEL | 1u << EW_SWEEP_CANCEL_WAITING | 1u << EW_SWEEP_CANCEL_ENDED |     \
	 1u << EW_SWEEP_FORCE | 1u << EW_SWEEP_PANIC)
