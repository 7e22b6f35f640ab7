/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * Select, inside: how a kind of thing is an alternative among others
 */

#include "driver/driver.h"
#include "sync/waiter.h"

#include <endwell/select.h>

/* One alternative while its select is at it. In the task's frame. */
struct ew__stand {
	struct ew_alternative *alternative;
	struct ew__choice *choice;
	const void *token; /* what claims the choice for it */
	_Atomic uint32_t
		*lock; /* of its line; NULL: all that happens to it happens on this worker */
	union {
		struct ew_waiter waiter;
		struct {
			struct ew__op op;
			struct ew__wait *leaving; /* until the operation's last completion */
			bool ended;
		};
		const struct ew_site *site; /* of the call, for what it makes */
	};
	struct ew_resource *resource; /* a message while it is in no place */
	struct ew_waiter *served;     /* by look(): to be woken once nothing is locked */
	int served_result;
	uint64_t number; /* beside the result */
	int32_t result;
};

/*
 * What a kind does, in this order. begin() and end() are always called, both without a lock, and look() and line_up()
 * with all locks; they may not suspend.
 */
struct ew__alternative_type {
	void (*begin)(struct ew__stand *stand, const struct ew_site *site);
	/* True: it could be done at once, and has been; the stand has the result. */
	bool (*look)(struct ew__stand *stand);
	void (*line_up)(struct ew__stand *stand);
	/* Of one that has lined up and not won: no trace is left, and nobody refers to the stand any more. May suspend. */
	void (*leave)(struct ew__stand *stand);
	/* The result is known if it has won. The winner's object may be gone. */
	void (*end)(struct ew__stand *stand, bool won);
};

/* For begin(): a waiter in a line with a lock. */
void ew__stand_init_waiter(struct ew__stand *stand, _Atomic uint32_t *lock,
			   void (*leave)(struct ew_waiter *), void *line);

/* The leave() of such a one. */
void ew__stand_leave_line(struct ew__stand *stand);
