/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The life of an upload as a table. The path to a name has no shortcuts: only the scanner `none`
 * skips SCANNING, and it still passes VERDICT, where the verdict says "unscanned". Every state that
 * is not an end may turn into CANCELLED or FAILED; only where the bytes are judged can they be
 * REJECTED.
 */
#include "state.h"

#define BIT(state) (1u << (state))
#define TROUBLE	   (BIT(STATE_CANCELLED) | BIT(STATE_FAILED))

static const struct {
	const char *name;
	unsigned int next;
} states[STATE_COUNT] = {
	[STATE_RECEIVING] = { "RECEIVING", BIT(STATE_SEALED) | BIT(STATE_REJECTED) | TROUBLE },
	[STATE_SEALED] = { "SEALED", BIT(STATE_SCANNING) | BIT(STATE_VERDICT) | TROUBLE },
	[STATE_SCANNING] = { "SCANNING", BIT(STATE_VERDICT) | TROUBLE },
	[STATE_VERDICT] = { "VERDICT", BIT(STATE_PUBLISHING) | BIT(STATE_REJECTED) | TROUBLE },
	[STATE_PUBLISHING] = { "PUBLISHING", BIT(STATE_PUBLISHED) | TROUBLE },
	[STATE_PUBLISHED] = { "PUBLISHED", 0 },
	[STATE_CANCELLED] = { "CANCELLED", 0 },
	[STATE_REJECTED] = { "REJECTED", 0 },
	[STATE_FAILED] = { "FAILED", 0 },
};

const char *state_name(enum state state)
{
	return states[state].name;
}

bool state_is_end(enum state state)
{
	return states[state].next == 0;
}

bool state_may_follow(enum state from, enum state to)
{
	return (states[from].next & BIT(to)) != 0;
}
