/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* The states of an upload: which there are, what they are called, which may follow which. */

#include <stdbool.h>

enum state {
	STATE_RECEIVING,  /* bytes arrive */
	STATE_SEALED,	  /* the last byte is here, the digest is known, no writer is left */
	STATE_SCANNING,	  /* a scanner has the bytes, or the upload waits for one */
	STATE_VERDICT,	  /* the scanner has spoken */
	STATE_PUBLISHING, /* on its way to a name */
	STATE_PUBLISHED,  /* the name exists and is durable */
	STATE_CANCELLED,  /* its client left, or the server did */
	STATE_REJECTED,	  /* refused for what it is: infected, unscannable, too large */
	STATE_FAILED, /* refused for what happened here: scanner, disk, a lost race for the name */
	STATE_COUNT,
};

/* The name as it appears in logs, metrics and answers. */
const char *state_name(enum state state);

/* Whether nothing follows. */
bool state_is_end(enum state state);

/* Whether @to may follow @from. */
bool state_may_follow(enum state from, enum state to);
