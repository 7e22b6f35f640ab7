/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* What a scanner said, and about which bytes. */

#include <stdbool.h>
#include <stdint.h>

#define VERDICT_TEXT_BYTES 160

enum verdict_kind {
	VERDICT_UNSCANNED, /* the scanner is `none` */
	VERDICT_CLEAN,
	VERDICT_INFECTED,
	VERDICT_UNSCANNABLE, /* over one of the scanner's limits: not looked at, so not clean */
	VERDICT_COUNT,
};

struct verdict {
	enum verdict_kind kind;
	char signature[VERDICT_TEXT_BYTES]; /* what was found, or which limit; empty when clean */
	char engine[VERDICT_TEXT_BYTES];    /* scanner, version, signature version */
	uint64_t size_bytes;		    /* the bytes it is about */
	uint8_t sha256[32];
};

const char *verdict_name(enum verdict_kind kind);

/* Whether @verdict is about the bytes of this size and digest, and lets them be published. */
bool verdict_lets_pass(const struct verdict *verdict, uint64_t size_bytes, const uint8_t *sha256);
