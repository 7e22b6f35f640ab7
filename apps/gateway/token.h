/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * Correlation tokens, "EPOCH.SLOT.GENERATION": which operation of which start of the gateway a message is about. A slot
 * is used again; its generation is not.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define TOKEN_BYTES 48
#define ID_BYTES    33 /* 32 hex digits and NUL */
#define EPOCH_BYTES 17

struct token {
	uint64_t epoch;
	uint32_t slot;
	uint64_t generation;
};

void token_print(const struct token *token, char ret_text[TOKEN_BYTES]);

/* False: no token of ours, whatever it is. @text may be NULL. */
bool token_read(const char *text, struct token *ret_token);

/* 128 random bits as text */
void id_make(char ret_id[ID_BYTES]);

/* Whether @text of @bytes could be one */
bool id_is(const char *text, size_t bytes);
