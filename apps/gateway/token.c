/* SPDX-License-Identifier: Apache-2.0 */

#include "token.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/hex.h"

void token_print(const struct token *token, char ret_text[TOKEN_BYTES])
{
	snprintf(ret_text, TOKEN_BYTES, "%016" PRIx64 ".%" PRIu32 ".%" PRIu64, token->epoch,
		 token->slot, token->generation);
}

/* What was read is printed again: whatever strtoull() would forgive shows as a difference. */
bool token_read(const char *text, struct token *ret_token)
{
	struct token token;
	char again[TOKEN_BYTES], *end;
	unsigned long long slot;

	if (!text || strlen(text) >= TOKEN_BYTES)
		return false;
	token.epoch = strtoull(text, &end, 16);
	if (*end != '.')
		return false;
	slot = strtoull(end + 1, &end, 10);
	token.slot = (uint32_t)slot;
	if (*end != '.')
		return false;
	token.generation = strtoull(end + 1, &end, 10);
	token_print(&token, again);
	if (strcmp(text, again) != 0)
		return false;
	*ret_token = token;
	return true;
}

void id_make(char ret_id[ID_BYTES])
{
	uint8_t bytes[(ID_BYTES - 1) / 2];

	arc4random_buf(bytes, sizeof(bytes));
	hex_print(bytes, sizeof(bytes), ret_id);
}

bool id_is(const char *text, size_t bytes)
{
	return bytes == ID_BYTES - 1 && strspn(text, "0123456789abcdef") >= bytes;
}
