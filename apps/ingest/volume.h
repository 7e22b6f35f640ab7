/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * Is there room on the volume, does it take changes, and does it answer?
 */

#include <stdint.h>

#include <endwell/condition.h>
#include <endwell/event.h>
#include <endwell/scope.h>

#include "common/bucket.h"
#include "common/front.h"

struct volume {
	struct bucket *bucket;
	struct ew_event wanted;
	struct ew_mutex lock; /* of what follows */
	struct ew_condition looked;
	int64_t since_ns; /* when the look that is under way was asked for; 0: none is */
	uint64_t looks;	  /* that have ended */
	int result;	  /* of the last */
	struct front_needed looking;
};

/* Starts the task that looks, in @scope, and is needed. @volume is zeroed. */
EW_MUST_CHECK int volume_start(struct volume *volume, struct bucket *bucket, struct front *front,
			       struct ew_scope *scope);

/**
 * volume_look() - how is it now?
 *
 * One look at a time, for all who ask meanwhile.
 * Suspends: at most until 5 s after the look began.
 * Return:   0 there is room, and it takes changes.
 * Errors:   -ENOSPC less than the floor is free, -EROFS, -EIO and others from the filesystem, -ETIMEDOUT it does not
 *           answer, -ECANCELED.
 */
EW_SUSPENDS int volume_look(struct volume *volume);
