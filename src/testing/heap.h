/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * Heap: counts blocks, and fails allocations on demand
 * Takes the place of malloc() and its kin in programs that are linked with libendwell-testing. With a sanitizer, whose
 * allocator it would hide, nothing is counted and nothing fails.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define EW__HEAP_IS_COUNTED 0
#elif defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer)
#define EW__HEAP_IS_COUNTED 0
#endif
#endif
#ifndef EW__HEAP_IS_COUNTED
#define EW__HEAP_IS_COUNTED 1
#endif

/* Blocks that the process has allocated and not freed. */
int64_t ew__heap_blocks(void);

/*
 * From here on, on this thread: allocations that tasks of a sweep's scenario make are counted from 0, and number
 * @first fails, with @and_all_after also all that come later.
 */
void ew__heap_fail_from(uint32_t first, bool and_all_after);

/* No allocation fails, but those of a scenario are counted; and neither. */
void ew__heap_count(void);
void ew__heap_count_no_more(void);

/* So many allocations were counted, and whether one of them failed. */
uint32_t ew__heap_counted(void);
bool ew__heap_has_failed(void);

/* Who asked for the first that failed: "program+0x1234", for addr2line. */
void ew__heap_describe_failed(char *what, size_t what_bytes);
