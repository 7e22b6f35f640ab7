/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A verdict travels with the digest of the bytes it is about. Publishing compares both, so that a
 * verdict for other bytes, however it got there, opens no door.
 */
#include "verdict.h"

#include <string.h>

const char *verdict_name(enum verdict_kind kind)
{
	static const char *const names[VERDICT_COUNT] = { "unscanned", "clean", "infected",
							  "unscannable" };

	return names[kind];
}

bool verdict_lets_pass(const struct verdict *verdict, uint64_t size_bytes, const uint8_t *sha256)
{
	if (verdict->kind != VERDICT_CLEAN && verdict->kind != VERDICT_UNSCANNED)
		return false;
	return verdict->size_bytes == size_bytes &&
	       memcmp(verdict->sha256, sha256, sizeof(verdict->sha256)) == 0;
}
