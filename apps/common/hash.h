/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* Of text, to a number that hardly two have. */

#include <stdint.h>

/* FNV-1a. With a @seed that nobody can guess, nobody chooses texts that meet. */
static inline uint64_t hash_text(uint64_t seed, const char *text)
{
	uint64_t hash = UINT64_C(14695981039346656037) ^ seed;

	for (; *text; text++)
		hash = (hash ^ (unsigned char)*text) * UINT64_C(1099511628211);
	return hash;
}
