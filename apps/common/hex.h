/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* Bytes as hex digits. */

#include <stddef.h>
#include <stdint.h>

/* Writes 2 * @bytes digits and a NUL. */
static inline void hex_print(const uint8_t *from, size_t bytes, char *ret_text)
{
	static const char digits[] = "0123456789abcdef";

	for (size_t i = 0; i < bytes; i++) {
		ret_text[2 * i] = digits[from[i] >> 4];
		ret_text[2 * i + 1] = digits[from[i] & 0x0f];
	}
	ret_text[2 * bytes] = '\0';
}
